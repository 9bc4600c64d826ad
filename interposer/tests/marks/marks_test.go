// Package marks tests how a program says where its requests begin and end: include/heddle.h and NVTX ranges. The library under test
// is the product's own sources with a session that has no daemon (testdata/ring.c); the programs are like a user's.
package marks

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../../.."

// pairBudget is how many instructions a begin and its end may take together, the clock not counted. Measured with gcc 12 -O2: 935,
// which took 160 ns with the clock.
const pairBudget = 1050

var dir string

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func prepare(m *testing.M) (int, error) {
	var err error
	if dir, err = os.MkdirTemp("", "heddle-marks-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	cuda := os.Getenv("HEDDLE_CUDA_INCLUDE")
	if cuda == "" {
		cuda = root + "/.deps/cuda/nvidia/cu13/include"
	}
	nvtx := root + "/.deps/nvtx/nvidia/cu13/include"
	if _, err := os.Stat(nvtx + "/nvtx3/nvToolsExt.h"); err != nil {
		return 1, fmt.Errorf("the headers of NVTX are missing: run tools/deps/fetch.sh nvtx (%w)", err)
	}
	library := []string{"-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-Wl,-z,now", "-D_GNU_SOURCE=", "-D__CUDA_API_VERSION_INTERNAL", "-I" + root + "/shm/c", "-isystem", cuda,
		"-Wl,--wrap=heddle_futex_wait", root + "/shm/c/heddle_ring.c", root + "/shm/c/heddle_hash.c", "testdata/ring.c", "../order/testdata/fake.c"}
	for _, f := range []string{"marks/marks", "marks/nvtx", "lane", "turn", "submit", "order", "sync", "event", "stream", "context", "capture", "launch", "copy", "memset", "alone", "config", "log",
		"graph/describe", "graph/records", "graph/cut", "graph/plan", "graph/mirror", "graph/exec", "graph/update"} {
		library = append(library, root+"/interposer/src/"+f+".c")
	}
	for _, step := range []struct {
		out  string
		args []string
	}{
		{"libheddle.so", append(library, "-lpthread")},
		{"marks", []string{"-O2", "-I" + root + "/interposer/include", "testdata/marks.c", "-lpthread", "-ldl"}},
		{"marks++", []string{"-O2", "-I" + root + "/interposer/include", "-x", "c++", "testdata/marks.c", "-lpthread", "-ldl"}},
		{"nvtx", []string{"-O1", "-isystem", nvtx, "testdata/nvtx.c", "-lpthread", "-ldl"}},
	} {
		args := append([]string{"-g", "-Wall", "-Wextra", "-Werror", "-o", filepath.Join(dir, step.out)}, step.args...)
		if text, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("gcc %s: %w\n%s", strings.Join(args, " "), err, text)
		}
	}
	return m.Run(), nil
}

// run starts a program with the library in front, unless env says LD_PRELOAD= itself, and returns what it printed.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, name), args...)
	cmd.Env = append(append(os.Environ(), "LD_PRELOAD="+filepath.Join(dir, "libheddle.so"), "HEDDLE_NVTX=", "NVTX_INJECTION64_PATH="+filepath.Join(dir, "libheddle.so")), env...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil || complaints.Len() != 0 {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out.String(), complaints.String())
	}
	return out.String()
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }

var cases = map[string]string{
	"nesting": lines("launch", "begin 1 chat", "launch", "launch", "end 1", "begin 2 ", "end 2", "begin 3 last (later)"),
	"labels": lines("launch", "begin 1 ", "end 1", "begin 2 abcdefghijabcdefghijabcdefghij1", "end 2", "begin 3 abcdefghijabcdefghijabcdefghij1", "end 3",
		"begin 4 abcdefghijabcdefghijabcdefghij", "end 4", "begin 5 abcdefghijabcdefghijabcdefgh€", "end 5"),
	"threads": lines("launch", "begin 1 main", "begin 2 thread", "end 2", "end 1"),
	"early":   lines("launch", "begin 1 next", "launch", "end 1"),
	"lost":    lines("launch", "begin 1 lost (later)"),
}

// What heddle.h's functions put into the ring, in C and in C++.
func TestMarks(t *testing.T) {
	for name, want := range cases {
		for _, program := range []string{"marks", "marks++"} {
			if got := run(t, nil, program, name); got != want {
				t.Errorf("%s %s:\n%swant:\n%s", program, name, got, want)
			}
		}
	}
}

// The header alone is enough: without the library everything runs and nothing happens.
func TestWithoutHeddle(t *testing.T) {
	for name := range cases {
		if got := run(t, []string{"LD_PRELOAD="}, "marks", name); got != "" {
			t.Errorf("%s printed %q", name, got)
		}
	}
}

func TestCost(t *testing.T) {
	if _, err := exec.LookPath("valgrind"); err != nil {
		t.Fatal("valgrind is not installed: apt-get install valgrind")
	}
	count := regexp.MustCompile(`Collected : (\d+)`)
	cmd := exec.Command("valgrind", "--tool=callgrind", "--callgrind-out-file="+filepath.Join(dir, "callgrind.out"), "--toggle-collect=pair", filepath.Join(dir, "marks"), "cost")
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+filepath.Join(dir, "libheddle.so"))
	text, err := cmd.CombinedOutput()
	m := count.FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("%v\n%s", err, text[:min(len(text), 2000)])
	}
	total, _ := strconv.Atoi(string(m[1]))
	if each := total / 10000; each > pairBudget || each < 100 {
		t.Errorf("a begin and an end take %d instructions; the budget is %d (and fewer than 100 would mean that nothing was counted)", each, pairBudget)
	} else {
		on, _, _ := strings.Cut(run(t, nil, "marks", "time"), "\n")
		t.Logf("a begin and an end: %d instructions, %s ns; without the library %s ns", each, on, strings.TrimSpace(run(t, []string{"LD_PRELOAD="}, "marks", "time")))
	}
}

// Ranges of a program by NVTX's own headers, chosen by HEDDLE_NVTX. What the calls return is NVTX's: levels of a stack, or that
// nobody keeps one.
func TestNVTX(t *testing.T) {
	const tracked, untracked = "push 0 1 2 pop 2 1 0\npop too many refused\nsame string\n", "push -2 -2 -2 pop -2 -2 -2\npop too many refused\nsame string\n"
	inDefault := []string{"begin 1 request push", "launch", "launch", "end 1", "begin 2 request wü€😀", "end 2", "begin 3 request ex", "end 3",
		"begin 4 request start", "launch", "end 4", "begin 5 request start w", "end 5", "begin 6 request registered", "end 6"}
	native := lines("launch", "launch", "launch", "launch")
	for pattern, want := range map[string]string{
		"":               untracked + native,
		"request*":       tracked + lines(append(append([]string{"launch"}, inDefault...), "begin 7 request default inside", "end 7")...),
		"request push":   tracked + lines("launch", "begin 1 request push", "launch", "launch", "end 1", "launch"),
		"request*@serve": untracked + native + lines("begin 1 request served", "end 1", "begin 2 request served", "end 2"),
		// The range of the default domain is pushed inside that of serve and outlives it: one request.
		"request*@*":       tracked + lines(append(append([]string{"launch"}, inDefault...), "begin 7 request served", "end 7", "begin 8 request of other", "end 8", "begin 9 request served", "end 9")...),
		"*of*@o*r":         untracked + native + lines("begin 1 request of other", "end 1"),
		"nothing like it":  tracked + native,
		"request*@nowhere": untracked + native,
	} {
		if got := run(t, []string{"HEDDLE_NVTX=" + pattern}, "nvtx"); got != want {
			t.Errorf("HEDDLE_NVTX=%s:\n%swant:\n%s", pattern, got, want)
		}
	}
	// An injection library that is not preloaded (a child without LD_PRELOAD): it is loaded by NVTX, and nothing breaks.
	run(t, []string{"HEDDLE_NVTX=request*", "LD_PRELOAD="}, "nvtx")
	if got := run(t, []string{"HEDDLE_NVTX=request*", "HEDDLE_DISABLE=1"}, "nvtx"); got != untracked+native {
		t.Errorf("HEDDLE_DISABLE=1:\n%s", got)
	}
}
