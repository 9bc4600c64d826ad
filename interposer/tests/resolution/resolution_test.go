package resolution

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// right runs a program that prints "right" as its last line when all its checks held.
func right(t *testing.T, p process, program string, args ...string) string {
	t.Helper()
	out, text, err := p.run(t, program, args...)
	if err != nil || !strings.HasSuffix(out, "right\n") {
		t.Errorf("%s %v: %v\n%s%s", program, args, err, out, text)
	}
	return text
}

var result = regexp.MustCompile(`(\d+) right, 0 wrong\n$`)

// Every entry point, by every route, leads where its class says: name, version and per-thread variant.
func TestEveryEntryPointByEveryRoute(t *testing.T) {
	off := []string{"HEDDLE_DISABLE=1"}
	for _, c := range []struct {
		program, route string
		p              process
		least          int
		args           []string
	}{
		{"each-linked-on", "link", process{preload: heddle}, len(entries), nil},
		{"each-on", "dlsym", process{preload: heddle}, len(entries), nil},
		{"each-on", "v1", process{preload: heddle}, 590, nil},
		{"each-on", "v2", process{preload: heddle}, 590, nil},
		{"each-old", "dlsym", process{preload: heddle, driver: "old"}, 500, nil},
		{"each-old", "v2", process{preload: heddle, driver: "old"}, 500, nil},
		// HEDDLE_DISABLE=1: the driver's own, everywhere.
		{"each-linked-off", "link", process{preload: heddle, env: off}, len(entries), []string{"off"}},
		{"each-off", "dlsym", process{preload: heddle, env: off}, len(entries), []string{"off"}},
		{"each-off", "v1", process{preload: heddle, env: off}, 590, []string{"off"}},
		{"each-off", "v2", process{preload: heddle, env: off}, 590, []string{"off"}},
		// The yardstick itself: without Heddle the answers are the driver's.
		{"each-off", "v2", process{}, 590, []string{"off"}},
	} {
		out, text, err := c.p.run(t, c.program, append([]string{c.route}, c.args...)...)
		m := result.FindStringSubmatch(out)
		if err != nil || m == nil {
			t.Errorf("%s %s %v: %v\n%s%s", c.program, c.route, c.p.env, err, out, text)
			continue
		}
		if n, _ := strconv.Atoi(m[1]); n < c.least {
			t.Errorf("%s %s: only %d entry points were tried, want %d", c.program, c.route, n, c.least)
		}
	}
}

// The same program must hold without Heddle: the checks describe dlsym, not us.
func TestSemantics(t *testing.T) {
	right(t, process{}, "semantics", "native")
	right(t, process{preload: heddle}, "semantics", "heddle")
	right(t, process{preload: heddle, env: []string{"HEDDLE_DISABLE=0"}}, "semantics", "heddle")
	right(t, process{preload: []string{"libempty.so", "libheddle.so"}}, "semantics", "heddle")
	right(t, process{preload: heddle}, "versions")
	text := right(t, process{preload: heddle, driver: "old"}, "old-driver")
	if !strings.Contains(text, "a form of cuMemAlloc that this build of Heddle does not know") || strings.Count(text, "\n") != 1 {
		t.Errorf("log is %q, want one line about the unknown form of cuMemAlloc", text)
	}
	right(t, process{preload: heddle, driver: "none"}, "absent")
}

func TestOtherPreloads(t *testing.T) {
	n := -1
	for i, e := range entries {
		if e.Name == "cuMemAlloc_v2" {
			n = i
		}
	}
	const fromNeighbour = 10_000_000 // added to what the next one answered
	for _, c := range []struct {
		preload []string
		answer  int
		first   string
	}{
		{[]string{"libneighbour.so"}, fromNeighbour + fromDriver + n, "libneighbour.so"},
		// The neighbour first: it reaches the driver through us.
		{[]string{"libneighbour.so", "libheddle.so"}, fromNeighbour + fromHook + n, "libneighbour.so"},
		// Behind us it is not reached: our hooks call the driver itself.
		{[]string{"libheddle.so", "libneighbour.so"}, fromHook + n, "libheddle.so"},
	} {
		want := fmt.Sprintf("%d %s\nend\n", c.answer, c.first)
		out, text, err := process{preload: c.preload}.run(t, "neighbours")
		if err != nil || out != want {
			t.Errorf("%v: %v, got %q, want %q\n%s", c.preload, err, out, want, text)
		}
	}
}

// An allocator that looks for the real one inside malloc must not be called back from the lookup.
func TestLookupDoesNotAllocate(t *testing.T) {
	for _, preload := range [][]string{{"liballocator.so"}, {"liballocator.so", "libheddle.so"}, {"libheddle.so", "liballocator.so"}} {
		right(t, process{preload: preload}, "quiet")
	}
}

func TestForkExecThreadsCaptures(t *testing.T) {
	for _, part := range []string{"fork", "captures", "newer-capture", "newer-capture-by-name", "threads"} {
		right(t, process{preload: heddle}, "life", part)
	}
	right(t, process{preload: heddle}, "life", "exec")
	if testing.Short() {
		return
	}
	for range 20 {
		right(t, process{preload: heddle}, "life", "threads")
	}
}

// Data races and bad memory accesses of loading, forking and resolving. (HEDDLE_SANITIZE runs every test this way.)
func TestUnderSanitizers(t *testing.T) {
	if os.Getenv("HEDDLE_SANITIZE") != "" {
		return // they are all built so already
	}
	sources, err := heddleSources()
	if err != nil {
		t.Fatal(err)
	}
	for kind, flag := range map[string]string{"thread": "-fsanitize=thread", "address": "-fsanitize=address,undefined"} {
		if err := cc(kind+"/libheddle.so", append([]string{flag, "-g"}, sources...)...); err != nil {
			t.Fatal(err)
		}
		if err := cc(kind+"/life", flag, "-g", plainly, "testdata/life.c", filepath.Join(dir, "driver/libcuda.so.1"), "-lpthread"); err != nil {
			t.Fatal(err)
		}
		// A preload comes before the sanitizer's runtime; the program leaves to exit what it does not free.
		p := process{preload: []string{kind + "/libheddle.so"}, env: []string{"ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0"}}
		for _, part := range []string{"fork", "captures", "threads", "cupti", "cupti-by-name"} {
			if text := right(t, p, kind+"/life", part); strings.Contains(text, "runtime error") {
				t.Errorf("%s %s: %s", kind, part, text)
			}
		}
	}
}

func TestTools(t *testing.T) {
	const on, off = "state 2\n", "state 1\n"
	for _, c := range []struct {
		env       []string
		out, line string
	}{
		{nil, on, ""},
		{[]string{"CUDA_INJECTION64_PATH=/opt/tool.so"}, off, "CUDA_INJECTION64_PATH"},
		{[]string{"CUDA_INJECTION64_PATH="}, on, ""},
		{[]string{"CUDA_INJECTION64_PATH=/opt/tool.so", "HEDDLE_FORCE=1"}, on, ""},
		{[]string{"NVTX_INJECTION64_PATH=/opt/tool.so"}, on, ""},
		{[]string{"DOUBLE_DEBUGGED=1"}, off, "a CUDA debugger"},
		{[]string{"HEDDLE_DISABLE=1"}, off, ""},
	} {
		out, text, err := process{preload: heddle, env: c.env}.run(t, "life", "init")
		if err != nil || !strings.HasPrefix(out, c.out) {
			t.Errorf("%v: %v, got %q, want %q", c.env, err, out, c.out)
		}
		if (c.line == "") != (text == "") || !strings.Contains(text, c.line) || strings.Count(text, "\n") > 1 {
			t.Errorf("%v: log is %q, want one line with %q", c.env, text, c.line)
		}
	}
	for _, part := range []string{"cupti", "cupti-by-name"} {
		text := right(t, process{preload: heddle}, "life", part)
		if strings.Count(text, "CUPTI subscriber") != 1 {
			t.Errorf("%s: log is %q, want one line about the CUPTI subscriber", part, text)
		}
	}
	right(t, process{preload: heddle, env: []string{"HEDDLE_FORCE=1"}}, "life", "cupti")
}

// A library loaded with RTLD_DEEPBIND finds its own dependencies before the preload: a documented limit. If this changes, the
// documentation must too.
func TestDeepbindPassesUsBy(t *testing.T) {
	out, text, err := process{preload: heddle}.run(t, "deepbind")
	const want = "1 1\n0 0\n"
	if err != nil || out != want {
		t.Errorf("%v: got %q, want %q\n%s", err, out, want, text)
	}
}

var call = regexp.MustCompile(`(?m)^(?:\d+ +)?(\w+)\(`)

// A child of a shell that never uses CUDA pays for mapping one library and for nothing else.
func TestProcessWithoutCudaDoesNothing(t *testing.T) {
	onlyMaps(t, "libheddle.so", "libempty.so")
}

// onlyMaps compares the system calls of a program under the library with those under an empty one that needs the same libraries.
func onlyMaps(t *testing.T, library, control string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is needed: apt-get install strace")
	}
	calls := func(preload string) map[string]int {
		trace := filepath.Join(t.TempDir(), "trace")
		cmd := exec.Command(strace, "-f", "-o", trace, "-E", "LD_PRELOAD="+filepath.Join(dir, preload), filepath.Join(dir, "quiet"))
		out, text, err := process{}.start(t, cmd)
		if err != nil || out != "right\n" {
			t.Fatalf("strace with %s: %v\n%s%s", preload, err, out, text)
		}
		b, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			n[m[1]]++
		}
		return n
	}
	empty, ours := calls(control), calls(library)
	if len(ours) < 5 {
		t.Fatalf("the trace is empty: %v", ours)
	}
	// The dynamic linker may map differently many pieces; nothing may appear that maps nothing.
	linker := map[string]bool{"mmap": true, "mprotect": true, "munmap": true}
	for n, k := range ours {
		if k > empty[n] && !linker[n] {
			t.Errorf("%s: %d times with %s, %d with an empty library", n, k, library, empty[n])
		}
	}
}

func TestConfig(t *testing.T) {
	out, text, err := process{}.run(t, "config", "units")
	if err != nil || out != "right\n" {
		t.Fatalf("%v\n%s%s", err, out, text)
	}
}

func TestLog(t *testing.T) {
	lines := func(env ...string) []string {
		t.Helper()
		out, text, err := process{env: env}.run(t, "config", "log")
		if err != nil || out != "right\n" {
			t.Fatalf("%v\n%s%s", err, out, text)
		}
		return strings.SplitAfter(text, "\n")
	}
	got := lines()
	const want = 8 + 1 + 1 // 100 uses of one warning: the 1st to 4th, 8th, 16th, 32nd, 64th; another; the long one
	if len(got) != want+1 {
		t.Errorf("%d lines, want %d:\n%q", len(got)-1, want, got)
	}
	for _, l := range got[:len(got)-1] {
		if len(l) > 512 || !strings.HasPrefix(l, "heddle[") || !strings.HasSuffix(l, "\n") {
			t.Errorf("bad line %q", l)
		}
	}
	if !strings.HasSuffix(got[7], "again and again 64 (64 times)\n") {
		t.Errorf("line 8 is %q", got[7])
	}
	if !strings.HasSuffix(got[9], "xxx...\n") || len(got[9]) != 512 {
		t.Errorf("the long line has %d bytes and ends in %q", len(got[9]), got[9][max(0, len(got[9])-8):])
	}
	if got := lines("HEDDLE_LOG=stderr:error"); len(got) != 1 {
		t.Errorf("at level error: %q", got)
	}
	if got := lines("HEDDLE_LOG=stderr:debug"); !strings.Contains(strings.Join(got, ""), ": debug: detail") {
		t.Errorf("at level debug: %q", got)
	}
	path := filepath.Join(t.TempDir(), "log")
	if got := lines("HEDDLE_LOG=" + path + ":info"); len(got) != 1 {
		t.Errorf("standard error has %q although HEDDLE_LOG names a file", got)
	}
	if b, err := os.ReadFile(path); err != nil || strings.Count(string(b), "\n") != want+1 {
		t.Errorf("%v: %q", err, b)
	}
	if got := lines("HEDDLE_CONNECT_MS=soon"); !strings.Contains(got[0], "HEDDLE_CONNECT_MS is \"soon\": a number from 1 to 600000 expected; 2000 is used") {
		t.Errorf("got %q", got[0])
	}
}
