package tables

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
		header := src + strings.TrimSuffix(s, "c") + "h"
		switch s {
		case "memory/where.c":
			header = src + "memory/inner.h"
		case "code/function.c":
			header = src + "code/inner.h"
		}
		inputs = append(inputs, src+s, header)
	}
	for _, s := range inputs { // what go test does not see read, it takes for unchanged
		if _, err := os.ReadFile(s); err != nil {
			t.Fatal(err)
		}
	}
	headers := os.Getenv("HEDDLE_CUDA_INCLUDE")
	if headers == "" {
		headers = "../../../.deps/cuda/nvidia/cu13/include"
	}
	args := []string{"-std=c11", "-D_GNU_SOURCE=", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=" + sanitize, "-fno-sanitize-recover=all",
		"-D__CUDA_API_VERSION_INTERNAL", "-I" + src, "-I../../../shm/c", "-isystem", headers, "-pthread", "-o", out, filepath.Join("testdata", name+".c")}
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

func TestFreedMemory(t *testing.T) {
	for _, sanitize := range []string{"address,undefined", "thread"} {
		run(t, program(t, "freed", sanitize, "memory/where.c", "memory/heap.c", "memory/ranges.c"))
	}
}

func TestTableUnderThreads(t *testing.T) {
	run(t, program(t, "table_threads", "thread", "code/table.c"))
}

func TestTableChurn(t *testing.T) {
	run(t, program(t, "table_churn", "address,undefined", "code/table.c"))
}

func TestUnknownFunctions(t *testing.T) {
	run(t, program(t, "functions", "address,undefined", "code/function.c", "code/table.c"))
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

// How long a waiting client spins before it yields its core; sync.c asks.
func TestPatience(t *testing.T) {
	if _, err := os.ReadFile(src + "patience.h"); err != nil { // what go test does not see read, it takes for unchanged
		t.Fatal(err)
	}
	p := program(t, "patience", "address,undefined")
	for _, s := range seeds {
		run(t, p, s)
	}
}
