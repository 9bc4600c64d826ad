package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// suite is the client programs whose output is the same wherever they run.
var suite = []string{
	"vector", "reduction", "matmul", "stencil", "histogram", "streams", "threads", "allocators", "modules", "globals", "hostmem", "callbacks", "forks", "errors", "mapping", "pools", "queries", "libraries", "contexts", "full", "crowd", "devices", "hybrid", "graphs", "nodes", "flood", "marked", "sequences", "sharing", "misbehave", "lost",
}

// faulty programs poison the context that they share: others in flight may be in
// doubt, so they run alone.
var faulty = map[string]bool{"misbehave": true, "lost": true}

func seeded(i int) string { return fmt.Sprintf("E2E_SEED=%d", i+1) }

// TestNativeEqualsHeddleAlone: one client at a time.
func TestNativeEqualsHeddleAlone(t *testing.T) {
	b := newBed(t)
	native := map[string]result{}
	for _, p := range suite {
		r := b.run(false, p)
		if r.code != 0 {
			t.Fatalf("%s natively: exit code %d\n%s%s", p, r.code, r.out, r.err)
		}
		if again := b.run(false, p); again.out != r.out {
			t.Fatalf("%s natively differs from itself:\n%s%s", p, r.out, again.out)
		}
		native[p] = r
	}
	b.startDaemon()
	for _, p := range suite {
		t.Run(p, func(t *testing.T) {
			r := b.run(true, p, "HEDDLE_LOG=stderr:info")
			if r.code != 0 || r.out != native[p].out {
				t.Errorf("exit code %d\nunder Heddle:\n%snatively:\n%sstderr:\n%s", r.code, r.out, native[p].out, r.err)
			}
		})
	}
}

// TestForwardedNotNative: equality would be no news if nothing were forwarded.
func TestForwardedNotNative(t *testing.T) {
	b := newBed(t)
	b.startDaemon()
	r := b.run(true, "vector", "HEDDLE_LOG=stats")
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	st, err := b.status()
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Executors) != 1 || !strings.Contains(string(st.Executors[0].Counters), `"launches":`) {
		t.Fatalf("executors: %+v", st.Executors)
	}
	var launches uint64
	if _, after, ok := strings.Cut(string(st.Executors[0].Counters), `"launches":`); ok {
		fmt.Sscan(strings.TrimLeft(after, " "), &launches)
	}
	if launches != 3*40 {
		t.Errorf("the executor issued %d launches, the program makes %d; stats:\n%s", launches, 3*40, r.err)
	}
}

// TestManyAtOnce: all programs at once, each several times, with seeds of their own.
func TestManyAtOnce(t *testing.T) {
	for _, copies := range []int{2, 16} {
		t.Run(fmt.Sprintf("%d processes", copies), func(t *testing.T) {
			if testing.Short() && copies > 2 {
				copies = 4
			}
			b := newBed(t)
			var jobs []string
			for i := range copies {
				jobs = append(jobs, suite[i%len(suite)])
			}
			if copies == 2 {
				jobs = []string{"streams", "streams"}
			}
			run := func(heddle bool) []result {
				results := make([]result, len(jobs))
				var wg sync.WaitGroup
				for i, p := range jobs {
					if faulty[p] {
						continue
					}
					wg.Go(func() { results[i] = b.run(heddle, p, seeded(i)) })
				}
				wg.Wait()
				return results
			}
			native := run(false)
			b.startDaemon()
			under := run(true)
			for i, p := range jobs {
				if native[i].code != 0 {
					t.Errorf("%s natively: exit code %d\n%s", p, native[i].code, native[i].err)
				}
				if under[i].code != 0 || under[i].out != native[i].out {
					t.Errorf("%s, seed %d: exit code %d\nunder Heddle:\n%snatively:\n%sstderr:\n%s", p, i+1, under[i].code, under[i].out, native[i].out, under[i].err)
				}
			}
		})
	}
}

// TestWithoutDaemon: the library finds nobody and the program runs natively.
func TestWithoutDaemon(t *testing.T) {
	b := newBed(t)
	native := b.run(false, "streams")
	library := "LD_PRELOAD=" + b.build + "/lib/heddle/libheddle.so"
	for name, extra := range map[string][]string{
		"no socket named": {library},
		"nobody listens":  {library, "HEDDLE_SOCKET=" + t.TempDir() + "/none.sock"},
		"not a socket":    {library, "HEDDLE_SOCKET=/dev/null"},
		"disabled":        {library, "HEDDLE_DISABLE=1", "HEDDLE_SOCKET=/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := b.run(false, "streams", extra...); r.code != 0 || r.out != native.out {
				t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
			}
		})
	}
	t.Run("required", func(t *testing.T) {
		const want = "--require forbids native runs"
		r := b.run(false, "streams", library, "HEDDLE_SOCKET=/dev/null", "HEDDLE_REQUIRE=1")
		if r.code != 3 || !strings.Contains(r.err, want) {
			t.Errorf("exit code %d, stderr %q; expected 3 and %q", r.code, r.err, want)
		}
	})
	if r := b.run(false, "/bin/echo", library); r.code != 0 || r.err != "" {
		t.Errorf("a program without CUDA: %+v", r)
	}
}
