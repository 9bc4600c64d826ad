package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
)

// For a GPU, parameters stand where ptxas has them.
func TestPlace(t *testing.T) {
	aligned, maps := 0, 0
	defer func() { paramBase = 0 }()
	for _, arch := range []string{"sm_75", "sm_90a"} {
		paramBase = baseOf(arch)
		entries := map[string]map[string]image.Entry{}
		for _, k := range kernels.All() {
			k, ok := k.For(arch)
			name := filepath.Base(k.Source.File)
			hasMap := slices.ContainsFunc(k.Params, func(p kernels.Param) bool { return p.Kind == "map" })
			if !ok || !hasMap && name != "params.ptx" && name != "hopper.ptx" {
				continue
			}
			if hasMap {
				maps++
			}
			if entries[k.Source.File] == nil {
				in, out := filepath.Join(t.TempDir(), "k.ptx"), filepath.Join(t.TempDir(), "k.cubin")
				if err := os.WriteFile(in, k.PTX(), 0o600); err != nil {
					t.Fatal(err)
				}
				if msg, err := exec.Command("../../../.deps/cuda/nvidia/cu13/bin/ptxas", "-arch="+arch, in, "-o", out).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, msg)
				}
				b, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				if entries[k.Source.File], err = image.Entries(b); err != nil {
					t.Fatal(err)
				}
			}
			e := entries[k.Source.File][k.Name]
			if len(e.Params) > 0 && e.Base != paramBase {
				t.Errorf("%s: %s begins at %#x; want %#x", arch, k.Name, e.Base, paramBase)
			}
			plain, _ := k.Layout()
			offsets, size := k.LayoutAt(paramBase)
			n := 0
			for i, at := range offsets {
				if at < 0 {
					continue
				}
				if n >= len(e.Params) || e.Params[n].Offset != at {
					t.Fatalf("%s: %s: parameter %d at %d; ptxas has %+v", arch, k.Name, i, at, e.Params)
				}
				if plain[i] != at {
					aligned++
				}
				n++
			}
			if last := len(e.Params) - 1; n != len(e.Params) || n > 0 && size != e.Params[last].Offset+e.Params[last].Size {
				t.Errorf("%s: %s: %d parameters in %d bytes; ptxas has %+v", arch, k.Name, n, size, e.Params)
			}
		}
	}
	if maps < 2 {
		t.Errorf("only %d kernels have tensor maps", maps)
	}
	if aligned < 4 {
		t.Errorf("only %d parameters stand elsewhere than in a block that begins at 0", aligned)
	}
}
