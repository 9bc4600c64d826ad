package exact

import (
	"os"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Every kernel of the corpus, rewritten, is compiled to the arithmetic of its original by the same compiler: the check refuses none
// without cause. A sample by day, everything at night (HEDDLE_NIGHTLY=1).
func TestCorpus(t *testing.T) {
	archs, every := []string{"sm_90"}, 16
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		archs, every = kernels.Architectures(), 1
	}
	compared, decided, differing := 0, 0, 0
	for _, sm := range archs {
		originals := map[string][]byte{}
		for i, k := range kernels.All() {
			k, ok := k.For(sm)
			if !ok || i%every != 0 {
				continue
			}
			m, err := ptx.Parse(k.PTX())
			if err != nil {
				t.Fatalf("%s: %v", k.Source.File, err)
			}
			if originals[k.Source.File] == nil {
				if originals[k.Source.File] = assemble(t, string(k.PTX()), sm); originals[k.Source.File] == nil {
					t.Errorf("%s: %s is not assembled", sm, k.Source.File)
					continue
				}
			}
			want, err := Machine(originals[k.Source.File], k.Name)
			if err != nil {
				t.Fatal(err)
			}
			for _, mapping := range []coalesce.Mapping{coalesce.ByZ, coalesce.ByTable} {
				form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: m, Entry: k.Name}}, coalesce.Spec{Mapping: mapping, Capacity: 8, ClientGlobals: true})
				if err != nil {
					continue // which kernels are refused is jit/conformance's business
				}
				code := assemble(t, form.PTX, sm)
				if code == nil {
					t.Errorf("%s: %s rewritten %v is not assembled", sm, k.Name, mapping)
					continue
				}
				got, err := Machine(code, coalesce.EntryName)
				if err != nil {
					t.Fatal(err)
				}
				compared++
				settled := Decided(m, k.Name)
				if settled {
					decided++
				}
				if why := Difference(want, got); why != "" {
					differing++
					if !settled {
						t.Errorf("%s: %s %v: %s", sm, k.Name, mapping, why)
					} else {
						t.Logf("%s: %s %v: %s; the text decides every result", sm, k.Name, mapping, why)
					}
				}
			}
		}
	}
	t.Logf("%d compared on %s; %d leave the compiler no choice; %d differ in counts", compared, strings.Join(archs, " "), decided, differing)
	if compared < 10 {
		t.Errorf("only %d kernels were compared", compared)
	}
}
