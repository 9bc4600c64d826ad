package coalesce

import (
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// A kernel whose only shared memory is dynamic finds it where it was alone: at an address aligned to all that hardware asks for,
// whatever the declaration says. Triton declares .align 16 and puts tiles there whose swizzle needs 1024.
func TestPackedDynamicSharedStaysAligned(t *testing.T) {
	source := func(name, module, local string) Kernel {
		m, err := ptx.Parse([]byte(".version 8.3\n.target sm_90\n.address_size 64\n" + module + "\n.visible .entry " + name +
			"(.param .u64 out)\n{\n.reg .b32 %r<3>;\n" + local + "\nmov.u32 %r1, buf;\nst.shared.u32 [%r1], %r1;\nret;\n}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return Kernel{m, name}
	}
	static := source("a", "", ".shared .align 4 .b8 buf[32];")
	dynamic := source("b", ".extern .shared .align 16 .b8 buf[];", "")
	for _, c := range []struct {
		what  string
		ks    []Kernel
		align string
	}{
		{"static before dynamic", []Kernel{static, dynamic}, ".align 1024 .b8 word$dynamic[]"},
		{"dynamic alone", []Kernel{dynamic, dynamic}, ".align 16 .b8 word$dynamic[]"},
	} {
		f, err := Rewrite(c.ks, Spec{Mapping: ByTable, Capacity: 2})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(f.PTX, c.align) {
			t.Errorf("%s: no %q in\n%s", c.what, c.align, f.PTX)
		}
	}
}
