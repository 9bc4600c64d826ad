package exact

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

const ptxas = "../../.deps/cuda/nvidia/cu13/bin/ptxas"

// assemble compiles a text with ptxas; nil when the architecture does not take it.
func assemble(t *testing.T, text, sm string, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "k.ptx"), filepath.Join(dir, "k.cubin")
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(ptxas, append(options, "-arch="+sm, "-o", out, in)...).CombinedOutput()
	if _, lost := os.Stat(ptxas); lost != nil {
		t.Fatalf("%v: tools/deps/fetch.sh cuda fetches it", lost)
	}
	if err != nil {
		t.Logf("%s: %s", sm, said)
		return nil
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// kernel is a text with one kernel around some instructions.
func kernel(sm, body string) string {
	return fmt.Sprintf(`.version 8.8
.target %s
.address_size 64
.visible .entry k(.param .u64 p) {
.reg .f32 %%f<20>; .reg .f64 %%d<20>; .reg .b32 %%r<40>; .reg .b64 %%rd<20>;
ld.param.u64 %%rd1,[p];
ld.global.f32 %%f1,[%%rd1]; ld.global.f32 %%f2,[%%rd1+4]; ld.global.f32 %%f3,[%%rd1+8]; ld.global.f32 %%f4,[%%rd1+12];
ld.global.f64 %%d1,[%%rd1+16]; ld.global.f64 %%d2,[%%rd1+24]; ld.global.f64 %%d3,[%%rd1+32];
ld.global.b32 %%r1,[%%rd1+40]; ld.global.b32 %%r2,[%%rd1+44]; ld.global.b32 %%r3,[%%rd1+48]; ld.global.b32 %%r4,[%%rd1+52];
ld.global.b32 %%r5,[%%rd1+56]; ld.global.b32 %%r6,[%%rd1+60]; ld.global.b64 %%rd2,[%%rd1+64]; ld.global.b64 %%rd3,[%%rd1+72];
%s
st.global.f32 [%%rd1],%%f1; st.global.f32 [%%rd1+4],%%f2; st.global.f32 [%%rd1+8],%%f3; st.global.f32 [%%rd1+12],%%f4;
st.global.f64 [%%rd1+16],%%d1; st.global.f64 [%%rd1+24],%%d2; st.global.b32 [%%rd1+40],%%r1; st.global.b64 [%%rd1+64],%%rd2;
ret; }
`, sm, body)
}

// The table of opcodes is what the compiler makes of one instruction each.
func TestMachineKinds(t *testing.T) {
	mma := "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4},{%r1,%r2,%r3,%r4},{%r5,%r6},{%f1,%f2,%f3,%f4};"
	wgmma := "wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, %rd2, %rd3, 1, 1, 1, 0, 0; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
	for _, c := range []struct {
		body string
		want Profile
		on   string
	}{
		{"", Profile{}, ""},
		{"add.f32 %f1,%f1,%f2;", Profile{"FADD": 1}, ""},
		{"sub.f32 %f1,%f1,0f3F800001;", Profile{"FADD": 1}, ""},
		{"neg.f32 %f1,%f1;", Profile{}, ""},
		{"mul.f32 %f1,%f1,%f2;", Profile{"FMUL": 1}, ""},
		{"mul.f32 %f1,%f1,0f3F800001;", Profile{"FMUL": 1}, ""},
		{"fma.rn.f32 %f1,%f1,0f3F800001,%f3;", Profile{"FFMA": 1}, ""},
		{"mul.f32 %f9,%f1,%f2; add.f32 %f1,%f9,%f3;", Profile{"FFMA": 1}, ""},
		{"mul.rn.f32 %f9,%f1,%f2; add.f32 %f1,%f9,%f3;", Profile{"FMUL": 1, "FADD": 1}, ""},
		{"add.f64 %d1,%d1,%d2;", Profile{"DADD": 1}, ""},
		{"mul.f64 %d1,%d1,%d2;", Profile{"DMUL": 1}, ""},
		{"fma.rn.f64 %d1,%d1,%d2,%d3;", Profile{"DFMA": 1}, ""},
		{"add.f16x2 %r1,%r1,%r2;", Profile{"HFMA2": 1}, "sm_80 sm_90 sm_100"},
		{"fma.rn.f16x2 %r1,%r1,%r2,%r3;", Profile{"HFMA2": 1}, ""},
		{"fma.rn.bf16x2 %r1,%r1,%r2,%r3;", Profile{"HFMA2": 1}, "sm_80 sm_90 sm_100"},
		{"sin.approx.f32 %f1,%f1;", Profile{"FMUL": 1, "MUFU": 1}, ""},
		{"rcp.approx.f32 %f1,%f1; div.u32 %r1,%r1,%r2;", Profile{"FMUL": 2}, ""},
		{mma, Profile{"HMMA": 1}, "sm_80 sm_90 sm_100"},
		{wgmma, Profile{"HGMMA": 1}, "sm_90a"},
		{"fma.rn.f32x2 %rd2,%rd2,%rd3,%rd2;", Profile{"FFMA2": 1}, "sm_100"},
		{"add.rn.f32x2 %rd2,%rd2,%rd3;", Profile{"FADD2": 1}, "sm_100"},
		{"mul.rn.f32x2 %rd2,%rd2,%rd3;", Profile{"FMUL2": 1}, "sm_100"},
	} {
		on := c.on
		if on == "" {
			on = "sm_75 sm_90 sm_100"
		}
		for _, sm := range strings.Fields(on) {
			b := assemble(t, kernel(sm, c.body), sm)
			if b == nil {
				t.Errorf("%s does not take %q", sm, c.body)
				continue
			}
			got, err := Machine(b, "k")
			if err != nil {
				t.Fatal(err)
			}
			if d := Difference(c.want, got); d != "" {
				t.Errorf("%s %q: %s", sm, c.body, d)
			}
		}
	}
}

const contractible = "mul.f32 %f9,%f1,%f2; add.f32 %f1,%f9,%f3;"

// What the check is for: code made without contraction differs from code made with it, and pinned text makes the former.
func TestContraction(t *testing.T) {
	text := kernel("sm_90", contractible+"mul.f64 %d9,%d1,%d2; sub.f64 %d1,%d9,%d3; mul.f16x2 %r9,%r1,%r2; add.f16x2 %r1,%r9,%r3;")
	profile := func(text string, options ...string) Profile {
		t.Helper()
		b := assemble(t, text, "sm_90", options...)
		if b == nil {
			t.Fatal("not assembled")
		}
		p, err := Machine(b, "k")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	fused, apart := profile(text), profile(text, "--fmad=false")
	if d := Difference(fused, apart); !strings.Contains(d, "FFMA") || !strings.Contains(d, "DFMA") {
		t.Errorf("fused %v, apart %v: %q; want a difference in FFMA and DFMA", fused, apart, d)
	}
	m, err := ptx.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if Decided(m, "k") {
		t.Error("the text leaves a choice")
	}
	Pin(m)
	if !Decided(m, "k") {
		t.Error("pinned text leaves a choice")
	}
	if d := Difference(apart, profile(string(m.Bytes()))); d != "" {
		t.Errorf("pinned text against --fmad=false: %s", d)
	}
}

func TestDecided(t *testing.T) {
	for body, want := range map[string]bool{
		"":                            true,
		"mul.f32 %f1,%f2,%f3;":        true, // alone
		"fma.rn.f32 %f1,%f2,%f3,%f4;": true,
		"mul.lo.u32 %r1,%r2,%r3; add.u32 %r1,%r1,%r2;": true,
		"div.rn.f32 %f1,%f2,%f3;":                      true,
		"div.full.f32 %f1,%f2,%f3;":                    false,
		"ex2.approx.ftz.f32 %f1,%f2;":                  false,
		contractible:                                   false,
		"mul.rn.f32 %f9,%f1,%f2; add.f32 %f1,%f9,%f3;": true,
	} {
		m, err := ptx.Parse([]byte(kernel("sm_90", body)))
		if err != nil {
			t.Fatal(err)
		}
		if got := Decided(m, "k"); got != want {
			t.Errorf("%q: decided %v; want %v", body, got, want)
		}
	}
}

// Text follows calls, and tells a kernel from its neighbours.
func TestText(t *testing.T) {
	m, err := ptx.Parse([]byte(`.version 8.0
.target sm_80
.address_size 64
.func (.reg .f32 %o) helper(.reg .f32 %a) { mul.f32 %o, %a, %a; ret; }
.entry k() { .reg .f32 %f<4>; add.f32 %f1, %f2, %f3; call (%f2), helper, (%f1); ret; }
.entry other() { .reg .f64 %d<4>; add.f64 %d1, %d2, %d3; ret; }
`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Text(m, "k")
	if err != nil || Difference(Profile{"add.f32": 1, "mul.f32": 1}, p) != "" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := Text(m, "absent"); err == nil {
		t.Error("a kernel that is not there has a profile")
	}
}

// Any bytes are safe.
func FuzzMachine(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01"), "k")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		if p, err := Machine(b, name); err == nil {
			for k, n := range p {
				if n > len(b)/instructionBytes*len(b) {
					t.Errorf("%d %s in %d bytes", n, k, len(b))
				}
			}
		}
	})
}
