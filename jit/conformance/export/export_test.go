package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

// TestCoalescedProgram: the folder is small enough to be carried, the checker for machines with a GPU finds words equal to
// launches on the simulated one, and it notices a word that is not, and one that faults.
func TestCoalescedProgram(t *testing.T) {
	dir := t.TempDir()
	e, err := export(dir, "sm_90a")
	if err != nil {
		t.Fatal(err)
	}
	if e.bytes > 40<<20 {
		t.Errorf("%d bytes, at most 40 MiB", e.bytes)
	}
	exe := filepath.Join(t.TempDir(), "coalesced")
	args := []string{"-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", simtest.Include(t), "../../../tools/gputest/programs/coalesced.c",
		"-o", exe, "-L" + simtest.Library(t), "-lcuda", "-pthread"}
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	srv := simtest.Start(t)
	run := func(names ...string) (string, int) {
		t.Helper()
		cmd := srv.Command(exe, append([]string{dir}, names...)...)
		out, err := cmd.Output()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	names := []string{"vadd_f32", "global_counters", "struct_pointers", "pointer_table", "no_params", "cluster_fixed", "shared_dyn_size", "ids_all",
		"large_params", "triton_vadd", "triton_gemm_f16_64", "triton_gemm_tma", "triton_scale_tma"}
	out, code := run(names...)
	for _, n := range names {
		if !regexp.MustCompile(`(?m)^ok ` + n + `: by-`).MatchString(out) {
			t.Errorf("%s is not found equal", n)
		}
	}
	if n := strings.Count(out, " slices/2 "); n != len(names)-1 { // cluster_fixed has no form by table
		t.Errorf("%d of %d kernels are launched in slices too", n, len(names))
	}
	if code != 0 || strings.Contains(out, "BAD") {
		t.Errorf("exit code %d\n%s", code, out)
	}

	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		out, _ := run()
		for _, line := range strings.Split(out, "\n") {
			if strings.HasPrefix(line, "BAD") {
				t.Error(line)
			}
		}
		if n := strings.Count(out, "\nok "); n < 300 {
			t.Errorf("%d kernels and packs are equal", n)
		}
	}

	// Words that hold another kernel's code, or none.
	spoil := func(name, with string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "words", with))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "words", name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	spoil("vadd_f32.by-z.8.ptx", "stride_1d.by-z.8.ptx") // faults: the second parameter is a number there
	spoil("sub_mul_f64.by-table.2.ptx", "div_f64.by-table.2.ptx")
	out, code = run("vadd_f32", "sub_mul_f64", "fma_f64")
	for _, want := range []string{`(?m)^BAD vadd_f32: the word words/vadd_f32.by-z.8.ptx: cuCtxSynchronize`, `(?m)^BAD sub_mul_f64: by-table/2 instance 0 \(sub_mul_f64\), byte \d+`, `(?m)^ok fma_f64: by-z/2`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no line %q", want)
		}
	}
	if code != 1 {
		t.Errorf("exit code %d, expected 1", code)
	}
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
	var m Manifest
	if b, err := os.ReadFile(filepath.Join(dir, "manifest.json")); err != nil || json.Unmarshal(b, &m) != nil || len(m.Kernels) < 200 {
		t.Errorf("manifest.json: %v, %d kernels", err, len(m.Kernels))
	}
}
