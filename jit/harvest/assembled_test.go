package harvest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

const assembler = "../../.deps/cuda/nvidia/cu13/bin/ptxas"

var target = regexp.MustCompile(`(?m)^\.target (sm_(\d+)(\d)a?)`)

// texts are PTX files that nvcc and Triton made.
func texts(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../interp/kernels/triton/triton_softmax.*.ptx", "../interp/kernels/triton/triton_gemm_f16_64.*.ptx", "../interp/kernels/ptx/[ehpv]*.ptx", "../../tools/e2e/kernels/*.ptx"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		all = append(all, found...)
	}
	return all
}

// What the assembler makes of real text is found again for each of its kernels, with the layout that the text gives.
func TestAssembled(t *testing.T) {
	kernels := 0
	for _, path := range texts(t) {
		text := load(t, path)
		m := target.FindSubmatch(text)
		if m == nil {
			t.Fatalf("%s: no target", path)
		}
		major, _ := strconv.Atoi(string(m[2]))
		minor, _ := strconv.Atoi(string(m[3]))
		out := filepath.Join(t.TempDir(), "cubin")
		if msg, err := exec.Command(assembler, "-arch="+string(m[1]), path, "-o", out).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, msg)
		}
		cubin := load(t, out)
		if n, err := image.Extent(append(bytes.Clone(cubin), 1, 2, 3)); err != nil || n != len(cubin) {
			t.Errorf("%s: a cubin of %d bytes ends at %d, %v", path, len(cubin), n, err)
		}
		store := t.TempDir()
		if err := os.WriteFile(filepath.Join(store, StoreName(cubin)), append([]byte(storeMagic+"fmad=1\n"), text...), 0o600); err != nil {
			t.Fatal(err)
		}
		mod, err := ptx.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, fn := range mod.Funcs {
			if !fn.Entry || !fn.HasBody {
				continue
			}
			kernels++
			if f, err := Find(cubin, major, minor, fn.Name, Places{Store: store}); err != nil || f.Origin != FromStore {
				t.Errorf("%s %s: %v", path, fn.Name, err)
			}
		}
	}
	if kernels < 30 {
		t.Errorf("only %d kernels", kernels)
	}
}

// A fat binary with PTX of another architecture than its machine code, and one of several source files.
func TestFatbinParts(t *testing.T) {
	dir := t.TempDir()
	nvcc := func(out string, args ...string) []byte {
		t.Helper()
		args = append(args, "-o", filepath.Join(dir, out))
		if msg, err := exec.Command("../../.deps/cuda/nvidia/cu13/bin/nvcc", args...).CombinedOutput(); err != nil {
			t.Fatalf("nvcc %s: %v\n%s", strings.Join(args, " "), err, msg)
		}
		return load(t, filepath.Join(dir, out))
	}
	source := func(name, kernel string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(`extern "C" __global__ void `+kernel), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one := source("one.cu", `one(int *p) { *p = __CUDA_ARCH__; }`)
	other := nvcc("other.fatbin", "-fatbin", "-gencode", "arch=compute_80,code=compute_80", "-gencode", "arch=compute_90,code=sm_90", one)
	if code := codeOf(t, other, 9, 0, "one"); code != OtherArchitecture {
		t.Errorf("PTX for 8.0, machine code for 9.0: %s", code)
	}
	if f, err := Find(other, 8, 0, "one", Places{}); err != nil || f.Origin != FromImage {
		t.Errorf("the same on a device that runs the PTX: %v, %v", f.Origin, err)
	}
	both := []string{"-fatbin", "-gencode", "arch=compute_90,code=[sm_90,compute_90]"}
	first := nvcc("first.fatbin", append(both, one)...)
	second := nvcc("second.fatbin", append(both, source("two.cu", `two(float *p, float x) { *p = x; }`))...)
	changed := nvcc("changed.fatbin", append(both, source("changed.cu", `one(int *p) { *p = 7; }`))...)
	together := append(bytes.Clone(first), second...)
	for _, entry := range []string{"one", "two"} {
		f, err := Find(together, 9, 0, entry, Places{})
		if err != nil || f.Origin != FromFatbin || f.Module.Func(entry) == nil {
			t.Errorf("%s of two containers: %v, %v", entry, f.Origin, err)
		}
	}
	if f, err := Find(append(bytes.Clone(first), first...), 9, 0, "one", Places{}); err != nil {
		t.Errorf("the same text twice: %v, %v", f.Origin, err)
	}
	if code := codeOf(t, append(bytes.Clone(first), changed...), 9, 0, "one"); code != Ambiguous {
		t.Errorf("two texts for one kernel: %s", code)
	}
}
