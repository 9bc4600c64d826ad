package driverapi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../../../.."

func read(t *testing.T) *API {
	t.Helper()
	api, err := Read(filepath.Join(root, ".deps/cuda/nvidia/cu13/include"), filepath.Join(root, "tools/simgpu/libcuda"))
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// TestDocumentation checks that the table in docs/ is what the sources say.
func TestDocumentation(t *testing.T) {
	doc := filepath.Join(root, "docs/simgpu-driver-api.md")
	have, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != read(t).Markdown() {
		t.Errorf("%s is out of date: run go run ./tools/simgpu/gen -include .deps/cuda/nvidia/cu13/include -doc docs/simgpu-driver-api.md", doc)
	}
}

// TestSymbols checks what the headers are known to declare.
func TestSymbols(t *testing.T) {
	api := read(t)
	symbols := map[string]Symbol{}
	for _, s := range api.Symbols {
		symbols[s.Name] = s
	}
	for name, params := range map[string]int{"cuInit": 1, "cuLaunchKernel": 11, "cuLaunchKernel_ptsz": 11, "cuMemcpyHtoD_v2_ptds": 3,
		"cuMemAlloc": 2, "cuMemAlloc_v2": 2, "cuCtxSynchronize": 0, "cuProfilerStart": 0, "cuGetProcAddress_v2": 5} {
		if s, ok := symbols[name]; !ok || len(s.Params) != params || len(s.Args) != params {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if s := symbols["cuMemcpyHtoD_v2_ptds"]; s.Base != "cuMemcpyHtoD_v2" || !s.PerThread || !s.Implemented {
		t.Errorf("%+v", s)
	}
	if _, ok := symbols["cuFuncGetParamCount"]; ok {
		t.Error("cuFuncGetParamCount appeared: it is newer than driver 580")
	}
	seen := map[string]bool{}
	for _, r := range api.Resolves {
		if _, ok := symbols[r.Symbol]; !ok {
			t.Errorf("%s version %d leads to %s, which does not exist", r.Name, r.Version, r.Symbol)
		}
		seen[r.Symbol] = true
	}
	for name := range symbols {
		if !seen[name] {
			t.Errorf("cuGetProcAddress never gives %s", name)
		}
	}
	for _, line := range []string{`{"cuMemAlloc", 3020, 0, `, `{"cuStreamBeginCapture", 10010, 1, `} {
		if !strings.Contains(api.EntryPoints(), line) {
			t.Errorf("no row %s", line)
		}
	}
}
