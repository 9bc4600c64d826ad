package table

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	include   = "../../../.deps/cuda/nvidia/cu13/include"
	tablePath = "../../../interposer/src/hooks/table.toml"
)

func TestReadJoinsHeaderAndTable(t *testing.T) {
	entries, err := Read(include, tablePath)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]*Entry{}
	for _, e := range entries {
		by[e.Name] = e
	}
	if len(by) < 600 {
		t.Fatalf("%d entry points: cuda.h 13.0 has 634", len(by))
	}
	for _, c := range []struct {
		name, base     string
		class          Class
		version, since int
		perThread      bool
		implicit       bool
	}{
		{"cuMemAlloc_v2", "cuMemAlloc", Hook, 2, 3020, false, false},
		{"cuMemAlloc", "cuMemAlloc", Refuse, 1, 2000, false, false},
		{"cuMemcpyHtoD_v2_ptds", "cuMemcpyHtoD", Hook, 2, 7000, true, true},
		{"cuMemcpyHtoDAsync_v2_ptsz", "cuMemcpyHtoDAsync", Hook, 2, 7000, true, false},
		{"cuLaunchKernelEx", "cuLaunchKernelEx", Hook, 1, 11060, false, true},
		{"cuCtxCreate_v4", "cuCtxCreate", Pass, 4, 12050, false, false},
		{"cuGraphUpload_ptsz", "cuGraphUpload", Hook, 1, 11010, true, false},
		{"cuLaunchHostFunc_ptsz", "cuLaunchHostFunc", Order, 1, 10000, true, false},
		{"cuEventElapsedTime_v2", "cuEventElapsedTime", Alias, 2, 12080, false, false},
	} {
		e := by[c.name]
		if e == nil {
			t.Errorf("%s: not in the table", c.name)
			continue
		}
		if e.Base != c.base || e.Class != c.class || e.Version != c.version || e.Since != c.since || e.PerThread != c.perThread || e.TakesImplicit() != c.implicit {
			t.Errorf("%s: got base %s class %s version %d since %d per-thread %v implicit %v, want %+v",
				c.name, e.Base, e.Class, e.Version, e.Since, e.PerThread, e.TakesImplicit(), c)
		}
	}
}

// A header that gains or loses a function must not build quietly.
func TestJoinHasNoDefault(t *testing.T) {
	h, err := parseHeader("CUresult cuNew(int a);\nCUresult cuOld_ptsz(CUstream s);\nCUresult cuOld(CUstream s);\nCUresult cuTwo(CUstream a, CUstream b);", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = join(h, map[string]Row{
		"cuOld":   {symbol: "cuOld", Class: Pass},
		"cuGone":  {symbol: "cuGone", Class: Pass},
		"cuTwo":   {symbol: "cuTwo", Class: Order},
		"cuAlias": {symbol: "cuAlias", Class: Alias, Target: "cuOld"},
	})
	for _, want := range []string{"no row for cuNew", "row cuGone: the header has no such", "cuTwo has two streams", "alias cuAlias = cuOld: the target is not a hook"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that contains %q", err, want)
		}
	}
}

func TestParseHeaderMissesNothing(t *testing.T) {
	for text, want := range map[string]string{
		"CUresult cuA(int (*f)(void));":              "has a form that hookgen does not read",
		"CUresult cuA(int);":                         "has no name",
		"CUresult cuA(int a); CUresult cuA(long a);": "declared twice",
		"int x;": "no prototype found",
	} {
		if _, err := parseHeader(text, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestReadTableErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[[group]]\nclass = \"pass\"\nwhy = \"w\"\nsymbols = [\"cuA\", \"cuA\"]":                              "cuA has two rows",
		"[[group]]\nclass = \"fly\"\nwhy = \"w\"":                                                             "pass, hook, alias, order or refuse expected",
		"[[group]]\nclass = \"hook\"\nwhy = \"w\"\nsymbols = [\"cuA\"]":                                       "owner belongs to class hook",
		"[[group]]\nclass = \"order\"\nwhy = \"w\"\nkind = \"later\"\nreason = \"NONE\"\nsymbols = [\"cuA\"]": "async or blocking expected",
		"[[group]]\nclass = \"order\"\nwhy = \"w\"\nkind = \"async\"\nreason = \"MOOD\"\nsymbols = [\"cuA\"]": "reason is \"MOOD\"",
		"[[group]]\nclass = \"pass\"\nsymbols = [\"cuA\"]":                                                    "why is missing",
		"[[group]]\nclass = \"pass\"\nwhy = \"w\"\ncolour = 1\nsymbols = [\"cuA\"]":                           "unknown key group.colour",
		"[[group]]\nclass = \"alias\"\nwhy = \"w\"\nsymbols = [\"cuA\"]":                                      "alias table and nothing else",
		"[[group]\n": "expected",
	} {
		path := filepath.Join(t.TempDir(), "t.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readTable(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\ngot %v, want %q", text, err, want)
		}
	}
}
