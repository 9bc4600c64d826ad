package e2e

import (
	"regexp"
	"strings"
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
		{"apart", " none"},
		{"command-buffer", " capture=8"},
		{"forbidden", " capture=2"},
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

// TestCapturesAreWatched: the log at its finest names the call that fails while a stream captures, and the one that spoils a capture.
func TestCapturesAreWatched(t *testing.T) {
	b := newBed(t)
	b.startDaemon()
	r := b.run(true, "graphs", "HEDDLE_LOG=stderr:debug", "E2E_PART=forbidden")
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	for _, want := range []string{
		"cuStreamSynchronize returned 900 while a stream captures",
		" is invalid after cuStreamSynchronize\n",
		"cuMemsetD32Async returned 901 while a stream captures",
	} {
		if !strings.Contains(r.err, want) {
			t.Errorf("the log does not say %q:\n%s", want, r.err)
		}
	}
	if n := strings.Count(r.err, " is invalid after "); n != 1 {
		t.Errorf("%d captures are said to be spoilt:\n%s", n, r.err)
	}
}

// TestNodesAreMirrored: events, host functions, memory operations and copies of the program's own memory cut a graph into parts, and all
// else of it goes to the executor. That the results are those of a native run is TestNativeEqualsHeddleAlone's.
func TestNodesAreMirrored(t *testing.T) {
	b := newBed(t)
	b.startDaemon()
	for _, c := range []struct{ part, native string }{
		{"events", " capture=5"},
		{"host", " capture=24"},
		{"memops", " capture=4"},
		{"copies", " none"},
		{"mixed", " none"},
		{"threads", " none"},
		{"natively", " graph-host=1 graph-event=2"},
	} {
		t.Run(c.part, func(t *testing.T) {
			r := b.run(true, "nodes", "HEDDLE_LOG=stats", "E2E_PART="+c.part)
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
