package conformance

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// TestAssemble: every source is taken by ptxas as it is and as we print it, for each architecture, and printing loses nothing.
func TestAssemble(t *testing.T) {
	s := seed(t)
	as, dir := ptxas(t), t.TempDir()
	for _, arch := range architectures(s) {
		var sources []kernels.Kernel
		seen := map[string]bool{}
		for _, k := range kernels.All() {
			if k, ok := k.For(arch); ok && !seen[k.Source.File] {
				seen[k.Source.File] = true
				sources = append(sources, k)
			}
		}
		some := sample(sources, s, 24)
		t.Logf("%s: %d of %d modules", arch, len(some), len(sources))
		inParallel(len(some), func(i int) {
			k := some[i]
			printed := module(t, k).Bytes()
			again, err := ptx.Parse(printed)
			if err != nil {
				t.Errorf("%s printed: %v", k.Source.File, err)
				return
			}
			if !bytes.Equal(again.Bytes(), printed) {
				t.Errorf("%s: printed twice, it differs", k.Source.File)
			}
			if len(again.Items) != len(module(t, k).Items) || !reflect.DeepEqual(again.Target, module(t, k).Target) {
				t.Errorf("%s: the printed module has other items", k.Source.File)
			}
			for what, src := range map[string][]byte{"": k.PTX(), " printed": printed} {
				if err := assemble(t.Context(), as, dir, k.Source.File+what, arch, src); err != nil {
					t.Errorf("%s%s: %v", k.Source.File, what, err)
				}
			}
		})
	}
}
