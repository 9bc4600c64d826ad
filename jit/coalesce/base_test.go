package coalesce

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Where ptxas puts parameters of large alignment, a form reads them; and its own block begins at 0, as Layout promises.
func TestParamBase(t *testing.T) {
	const source = `.version 8.0
.target sm_ARCH
.address_size 64
.visible .entry k(.param .u64 out, .param .align 64 .b8 map[128], .param .u32 n) {
  .reg .b64 %rd<3>; .reg .b32 %r<3>;
  ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [map+8]; ld.param.u32 %r1, [n];
  st.global.u64 [%rd1], %rd2; st.global.u32 [%rd1+8], %r1; ret;
}
`
	for _, arch := range []string{"75", "80", "90"} {
		text := strings.Replace(source, "ARCH", arch, 1)
		entry := assembledEntry(t, arch, text, "k")
		if len(entry.Params) != 3 || entry.Base == 0 {
			t.Fatalf("sm_%s: %+v", arch, entry)
		}
		mod, err := ptx.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, mapping := range []Mapping{ByZ, ByTable} {
			form, err := Rewrite([]Kernel{{mod, "k"}}, Spec{Mapping: mapping, Capacity: 4, ParamBase: entry.Base})
			if err != nil {
				t.Fatal(err)
			}
			last := entry.Params[2]
			if l := form.Layout; l.BodyBytes[0] != last.Offset+last.Size || l.Stride%64 != 0 {
				t.Errorf("sm_%s %v: %d bytes each %d; the client's block ends at %d", arch, mapping, l.BodyBytes[0], l.Stride, last.Offset+last.Size)
			}
			b, err := read(Kernel{mod, "k"}, 0, Spec{Mapping: mapping, ParamBase: entry.Base}, false)
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"out", "map", "n"} {
				if b.params[name].Offset != entry.Params[i].Offset {
					t.Errorf("sm_%s: %s is read at %d; ptxas has it at %d", arch, name, b.params[name].Offset, entry.Params[i].Offset)
				}
			}
			got := assembledEntry(t, arch, form.PTX, EntryName)
			if len(got.Params) != 1 || got.Params[0] != (image.Param{Offset: 0, Size: form.Layout.ParamBytes}) || got.Base != entry.Base {
				t.Errorf("sm_%s %v: the form's own block is %+v; want one parameter of %d bytes at 0", arch, mapping, got, form.Layout.ParamBytes)
			}
		}
	}
}

// assembledEntry is what ptxas makes of a kernel.
func assembledEntry(t *testing.T, arch, text, name string) image.Entry {
	t.Helper()
	in, out := filepath.Join(t.TempDir(), "k.ptx"), filepath.Join(t.TempDir(), "k.cubin")
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command("../../.deps/cuda/nvidia/cu13/bin/ptxas", "-arch=sm_"+arch, in, "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("sm_%s: %v\n%s", arch, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := image.Entries(b)
	if err != nil {
		t.Fatal(err)
	}
	return entries[name]
}
