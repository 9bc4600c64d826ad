// Package order tests the preload library's ordering of forwarded and native work: its own C sources, with the driver, the daemon,
// memory/ and code/ replaced by testdata/fake.c.
package order

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Instructions that one cuLaunchKernel may take from the hook to the published record (measured: about 670 with gcc 12 -O2).
const launchBudget = 800

var buildDir string

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "heddle-order-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
}

var (
	buildLock sync.Mutex
	built     = map[string]string{}   // programs, by name and flags
	libraries = map[string][]string{} // the library's objects, by flags
)

// build compiles testdata/NAME.c with the library's sources and the given flags.
func build(t *testing.T, name string, flags ...string) string {
	t.Helper()
	buildLock.Lock()
	defer buildLock.Unlock()
	key := name + strings.Join(flags, "")
	if path, ok := built[key]; ok {
		return path
	}
	sources := []string{"testdata/fake.c", "testdata/" + name + ".c"}
	if text, err := os.ReadFile(sources[1]); err == nil && bytes.Contains(text, []byte(`"graphfake.h"`)) {
		sources = append(sources, "testdata/graphfake.c")
	}
	out := filepath.Join(buildDir, fmt.Sprintf("%s-%d", name, len(built)))
	args := append([]string{"-Wl,--wrap=heddle_futex_wait", "-o", out}, sources...)
	args = append(args, library(t, flags)...)
	gcc(t, "", flags, append(args, "-lpthread")...)
	built[key] = out
	return out
}

// library compiles the library's sources once for each set of flags.
func library(t *testing.T, flags []string) []string {
	t.Helper()
	key := strings.Join(flags, "")
	if objects, ok := libraries[key]; ok {
		return objects
	}
	dir := filepath.Join(buildDir, fmt.Sprintf("library-%d", len(libraries)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var sources []string
	for _, file := range []string{"lane", "turn", "submit", "order", "sync", "event", "stream", "context", "capture", "launch", "copy", "memset", "alone", "config", "log", "hooks/captures",
		"graph/describe", "graph/records", "graph/cut", "graph/plan", "graph/mirror", "graph/exec", "graph/update"} {
		sources = append(sources, filepath.Join(root(t), "interposer/src", file+".c"))
	}
	sources = append(sources, filepath.Join(root(t), "shm/c/heddle_ring.c"), filepath.Join(root(t), "shm/c/heddle_hash.c"))
	gcc(t, dir, flags, append([]string{"-c"}, sources...)...)
	objects, err := filepath.Glob(filepath.Join(dir, "*.o"))
	if err != nil || len(objects) != len(sources) {
		t.Fatalf("%d objects of %d sources: %v", len(objects), len(sources), err)
	}
	libraries[key] = objects
	return objects
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// gcc runs the compiler in a folder ("": this one).
func gcc(t *testing.T, dir string, flags []string, args ...string) {
	t.Helper()
	cuda := os.Getenv("HEDDLE_CUDA_INCLUDE")
	if cuda == "" {
		cuda = filepath.Join(root(t), ".deps/cuda/nvidia/cu13/include")
	}
	all := append([]string{"-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-tsan", "-D_GNU_SOURCE=", "-D__CUDA_API_VERSION_INTERNAL",
		"-I" + filepath.Join(root(t), "shm/c"), "-isystem", cuda}, flags...)
	cmd := exec.Command("gcc", append(all, args...)...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, text)
	}
}

// run executes a test program; it must end in time and say so.
func run(t *testing.T, env []string, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v (timeout: %v)\n%s", filepath.Base(path), strings.Join(args, " "), err, ctx.Err() != nil, out.String())
	}
	return out.String()
}

// Random programs against the happens-before that CUDA promises; testdata/model.c says how.
func TestOrderOfRandomPrograms(t *testing.T) {
	path := build(t, "model", "-O1", "-fsanitize=address,undefined")
	for _, c := range []struct{ seed, programs, steps, streams int }{
		{1, 2000, 14, 4}, // small programs: a failure is easy to read
		{50000, 600, 60, 6},
		{60000, 200, 120, 12},
		{100000, 6000, 40, 5}, // streams that are destroyed while they owe something
		{70000, 20, 400, 90},  // more dependencies than a record or a lane can name
	} {
		args := []string{strconv.Itoa(c.seed), strconv.Itoa(c.programs), strconv.Itoa(c.steps), strconv.Itoa(c.streams)}
		t.Run(strings.Join(args, "-"), func(t *testing.T) { run(t, []string{"HEDDLE_SPIN_US=0"}, path, args...) })
	}
}

func TestUnits(t *testing.T) {
	path := build(t, "units", "-O1", "-fsanitize=address,undefined")
	for _, name := range []string{"launch", "copy", "upload", "full", "events", "sticky", "lost", "freed", "alone", "doubt", "overwritten", "implied", "vanished", "lanes", "host-waits", "sent"} {
		t.Run(name, func(t *testing.T) { run(t, []string{"HEDDLE_REATTACH_MS=300"}, path, name) })
	}
}

func TestGraphs(t *testing.T) {
	for file, names := range map[string][]string{
		"graphs":  {"records", "edges", "kinds", "native", "refused", "order", "code", "globals", "memory", "beside", "alone", "doubt", "large", "sent"},
		"changes": {"changes", "update", "child", "alternating", "hasty", "drop", "restarted", "detached", "objects"},
		"steps":   {"cuts", "kinds", "branches", "events", "changed", "changes", "closed", "bounded", "captured", "captured-since"},
	} {
		path := build(t, file, "-O1", "-fsanitize=address,undefined")
		for _, name := range names {
			t.Run(file+"/"+name, func(t *testing.T) { run(t, []string{"HEDDLE_REATTACH_MS=300"}, path, name) })
		}
	}
}

func TestThreads(t *testing.T) {
	path := build(t, "units", "-O1", "-fsanitize=thread")
	for _, name := range []string{"threads", "full"} {
		t.Run(name, func(t *testing.T) { run(t, []string{"TSAN_OPTIONS=halt_on_error=1"}, path, name) })
	}
	for _, file := range []string{"changes", "steps"} {
		t.Run(file, func(t *testing.T) {
			run(t, []string{"TSAN_OPTIONS=halt_on_error=1"}, build(t, file, "-O1", "-fsanitize=thread"), "threads")
		})
	}
	t.Run("captures", func(t *testing.T) {
		run(t, []string{"TSAN_OPTIONS=halt_on_error=1"}, build(t, "steps", "-O1", "-fsanitize=thread"), "capture-threads")
	})
}

func TestLaunchStaysWithinItsInstructions(t *testing.T) {
	if _, err := exec.LookPath("valgrind"); err != nil {
		t.Fatal("valgrind is not installed: apt-get install valgrind")
	}
	path := build(t, "units", "-O2")
	text := run(t, nil, "valgrind", "--tool=callgrind", "--callgrind-out-file="+filepath.Join(buildDir, "callgrind.out"),
		"--toggle-collect=heddle_hook_cuLaunchKernel", path, "cost")
	m := regexp.MustCompile(`Collected : (\d+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("callgrind said nothing:\n%s", text)
	}
	total, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	if each := total / 10100; each > launchBudget || each < 100 {
		t.Errorf("a launch takes %d instructions, at most %d are allowed (and fewer than 100 would mean that nothing was counted)", each, launchBudget)
	} else {
		t.Logf("%d instructions a launch", each)
	}
}
