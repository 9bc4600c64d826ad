package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPartsOfGputest runs of tools/gputest what needs no real GPU: the tests of its arithmetic, and the part `reload` with clients of
// the driver API, which takes clients that are told what to do, classes by label, the control socket and the metrics. It checks that
// the part finds what it asks for, not how fast that is here.
func TestPartsOfGputest(t *testing.T) {
	python := numbaPython(t)
	b := newBed(t)
	parts, err := filepath.Abs("../gputest")
	if err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp("", "gt") // short: socket paths are bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) })
	if err := os.Mkdir(filepath.Join(work, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	cuda := "../../.deps/cuda/nvidia/cu13"
	kernels := filepath.Join(work, "kernels.ptx")
	if out, err := exec.Command(filepath.Join(cuda, "bin/nvcc"), "-ptx", "-arch=compute_80", "-I", filepath.Join(cuda, "include"), "-o", kernels,
		filepath.Join(parts, "programs/kernels.cu")).CombinedOutput(); err != nil {
		t.Fatalf("nvcc: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, python, args...)
		cmd.Dir = parts
		cmd.Env = b.env("HEDDLE_DIST="+b.build, "GT_WORK="+work, "GT_KERNELS="+kernels, "GT_STANDIN=api", "GT_MODEL=resnet18:1", "GT_SECONDS=1",
			"GT_LIMIT=100", "GT_BLOCK_US=20", "OUT="+work, "PYTHONDONTWRITEBYTECODE=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("-m", "unittest", "loads_test"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, _ := run("parts.py", "reload") // its exit code says whether the machine was fast enough
	text, err := os.ReadFile(filepath.Join(work, "gpu-test.json"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var rows []struct {
		What   string   `json:"what"`
		Heddle string   `json:"heddle"`
		Ratio  *float64 `json:"ratio"`
		OK     bool     `json:"ok"`
	}
	if err := json.Unmarshal(text, &rows); err != nil || len(rows) != 2 {
		t.Fatalf("%v\n%s\n%s", err, text, out)
	}
	if r := rows[0]; r.Ratio == nil || *r.Ratio <= 0 || *r.Ratio > 5000 {
		t.Errorf("%s: %s; expected the time until each change was in force\n%s", r.What, r.Heddle, out)
	}
	reload := rows
	out, _ = run("parts.py", "partition")
	if text, err = os.ReadFile(filepath.Join(work, "gpu-test.json")); err != nil {
		t.Fatal(err)
	}
	if rows = nil; json.Unmarshal(text, &rows) != nil || len(rows) < 2 {
		t.Fatalf("%s\n%s", text, out)
	}
	for k, want := range []string{"on all SMs", "on 72 SMs"} {
		if r := rows[len(rows)-2+k]; r.Ratio == nil || *r.Ratio <= 0 || !strings.Contains(r.Heddle, "none wrong; "+want) {
			t.Errorf("%s: %s; expected right results, %s\n%s", r.What, r.Heddle, want, out)
		}
	}
	rows = reload
	if r := rows[1]; !r.OK || !strings.Contains(r.Heddle, "/ 0; none;") {
		t.Errorf("%s: %s; expected none lost, none wrong\n%s", r.What, r.Heddle, out)
	}
}
