package e2e

import (
	"strings"
	"testing"
)

// TestSharedMemoryIsForwarded: work on memory of another client is the executor's as any other. What the program prints is compared with
// native runs by TestNativeEqualsHeddleAlone.
func TestSharedMemoryIsForwarded(t *testing.T) {
	b := newBed(t)
	b.startDaemon()
	r := b.run(true, "sharing", "HEDDLE_LOG=stats")
	if r.code != 0 || strings.Count(r.err, "native calls by reason: none") != 2 {
		t.Errorf("exit code %d; expected two processes without native calls\n%s%s", r.code, r.out, r.err)
	}
}
