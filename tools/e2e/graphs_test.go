package e2e

import (
	"regexp"
	"testing"
)

// statistics finds what HEDDLE_LOG=stats prints: the forwarded ops and, behind the colon, the native calls by reason.
var statistics = regexp.MustCompile(`forwarded=(\d+) native calls by reason:(.*)`)

// TestGraphsAreMirrored: which graphs went to the executor, and why the others did not. That the results are those of a native run
// is TestNativeEqualsHeddleAlone's.
func TestGraphsAreMirrored(t *testing.T) {
	b := newBed(t)
	b.startDaemon()
	for _, c := range []struct{ part, native string }{
		// Every captured op is a native call: it goes into a graph of the driver's.
		{"captured", " capture=63"},
		{"by-hand", " none"},
		{"handles", " none"},
		{"order", " capture=5"},
		{"threads", " capture=81"},
		{"natively", " graph=3 graph-host=3 graph-event=3 foreign-memory=3"},
		{"command-buffer", " capture=7"},
		{"many", " none"},
	} {
		t.Run(c.part, func(t *testing.T) {
			r := b.run(true, "graphs", "HEDDLE_LOG=stats", "E2E_PART="+c.part)
			m := statistics.FindStringSubmatch(r.err)
			if r.code != 0 || m == nil {
				t.Fatalf("exit code %d\n%s%s", r.code, r.out, r.err)
			}
			if m[2] != c.native {
				t.Errorf("native calls:%s; expected:%s", m[2], c.native)
			}
		})
	}
}
