package parts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const src = "../../src/"

// program compiles testdata/name.c with the given sources and sanitizers.
func program(t *testing.T, name, sanitize string, sources ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	inputs := []string{filepath.Join("testdata", name+".c"), "testdata/check.h"}
	for _, s := range sources {
		inputs = append(inputs, src+s, src+strings.TrimSuffix(s, "c")+"h")
	}
	for _, s := range inputs { // what go test does not see read, it takes for unchanged
		if _, err := os.ReadFile(s); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-std=c11", "-D_GNU_SOURCE=", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=" + sanitize, "-fno-sanitize-recover=all",
		"-I" + src, "-pthread", "-o", out, filepath.Join("testdata", name+".c")}
	if sanitize == "thread" {
		args = append(args, "-Wno-tsan") // it does not model fences; every word between ours is an atomic of its own
	}
	for _, s := range sources {
		args = append(args, src+s)
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	if text, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, text)
	}
	return out
}

func run(t *testing.T, path string, args ...string) {
	t.Helper()
	if text, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", filepath.Base(path), args, err, text)
	}
}

var seeds = []string{"1", "2", "3", "20261122"}

func TestHeapAgainstModel(t *testing.T) {
	p := program(t, "heap", "address,undefined", "memory/heap.c")
	for _, s := range seeds {
		run(t, p, s)
	}
}

func TestRangesAgainstModel(t *testing.T) {
	p := program(t, "ranges", "address,undefined", "memory/ranges.c")
	for _, s := range seeds {
		run(t, p, s)
	}
}

func TestRangesUnderThreads(t *testing.T) {
	run(t, program(t, "ranges_threads", "thread", "memory/ranges.c"))
}

func TestTableUnderThreads(t *testing.T) {
	run(t, program(t, "table_threads", "thread", "code/table.c"))
}

func TestTableChurn(t *testing.T) {
	run(t, program(t, "table_churn", "address,undefined", "code/table.c"))
}

func TestContainers(t *testing.T) {
	run(t, program(t, "containers", "address,undefined", "code/fatbin.c"))
}

func TestHostileContainers(t *testing.T) {
	p := program(t, "hostile", "address,undefined", "code/fatbin.c")
	for _, s := range seeds {
		run(t, p, s)
	}
}
