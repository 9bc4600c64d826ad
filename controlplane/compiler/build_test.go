package compiler

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/exact"
	"github.com/heddle-gpu/heddle/jit/harvest"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// ptxas stands in for the driver's compiler: it makes real machine code of sm_90.
type ptxas struct {
	t *testing.T
	// newest is the newest version that it takes, as major*10+minor.
	newest int
	calls  []string // .version and kernels of each text
}

const ptxasPath = "../../.deps/cuda/nvidia/cu13/bin/ptxas"

func (p *ptxas) LinkPTX(text []byte, _ gpu.Target) ([]byte, error) {
	m, err := ptx.Parse(text)
	if err != nil {
		return nil, err
	}
	call := fmt.Sprintf("%d.%d", m.Major, m.Minor)
	for _, f := range m.Funcs {
		call += " " + f.Name
	}
	p.calls = append(p.calls, call)
	if m.Major*10+m.Minor > p.newest {
		return nil, fmt.Errorf("cuLink: %w", gpu.UnsupportedPTX)
	}
	return p.assemble(string(text))
}

func (p *ptxas) assemble(text string, options ...string) ([]byte, error) {
	dir := p.t.TempDir()
	in, out := filepath.Join(dir, "k.ptx"), filepath.Join(dir, "k.cubin")
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if said, err := exec.Command(ptxasPath, append(options, "-arch=sm_90", "-o", out, in)...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, said)
	}
	return os.ReadFile(out)
}

// machine is a client's machine code whose PTX lies in the store.
func machine(t *testing.T, p *ptxas, code, stored string, options ...string) (*Request, *builder) {
	t.Helper()
	cubin, err := p.assemble(code, options...)
	if err != nil {
		t.Fatal(err)
	}
	store := t.TempDir()
	if err := os.WriteFile(filepath.Join(store, harvest.StoreName(cubin)), []byte("// heddle-ptx 1 from=ptxas fmad=1\n"+stored), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Request{
		Bodies: []Body{{Image: cubin, Hash: HashOf(cubin), Entry: "fused"}}, Spec: coalesce.Spec{Mapping: coalesce.ByZ, Capacity: 4},
		Device: Device{UUID: "x", Major: 9}, Places: harvest.Places{Store: store},
	}
	return r, &builder{open: func(string) (assembler, error) { return p, nil }}
}

const fused = `.version 8.0
.target sm_90
.address_size 64
.visible .entry other(.param .u64 p) { ret; }
.visible .entry fused(.param .u64 p, .param .f32 a, .param .f32 b) {
	.reg .b64 %rd<4>; .reg .f32 %f<6>;
	ld.param.u64 %rd1, [p]; ld.param.f32 %f1, [a]; ld.param.f32 %f2, [b];
	ld.global.f32 %f3, [%rd1]; mul.f32 %f4, %f3, %f1; add.f32 %f5, %f4, %f2; st.global.f32 [%rd1], %f5;
	ret;
}
.section .debug_str { .b8 1 }
`

func arithmetic(t *testing.T, code []byte, entry string) exact.Profile {
	t.Helper()
	p, err := exact.Machine(code, entry)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The form's arithmetic is that of the client's machine code, not what the compiler would make of the text by itself.
func TestArithmeticFollowsTheClient(t *testing.T) {
	for name, c := range map[string]struct {
		options []string
		want    exact.Profile
	}{
		"contracted": {nil, exact.Profile{"FFMA": 1}},
		"apart":      {[]string{"--fmad=false"}, exact.Profile{"FMUL": 1, "FADD": 1}},
	} {
		p := &ptxas{t: t, newest: 90}
		r, b := machine(t, p, fused, fused, c.options...)
		a, err := b.build(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := exact.Difference(c.want, arithmetic(t, a.Code, coalesce.EntryName)); d != "" || a.Origins[0] != harvest.FromStore {
			t.Errorf("%s: %s, from %v", name, d, a.Origins)
		}
		if p.calls[0] != "8.0 fused" {
			t.Errorf("%s: %q was compiled for comparison; want the one kernel", name, p.calls[0])
		}
	}
}

// Text that is not what the machine code was made of is found out.
func TestOtherArithmeticIsRefused(t *testing.T) {
	p := &ptxas{t: t, newest: 90}
	r, b := machine(t, p, fused, strings.Replace(fused, "st.global.f32", "add.f32 %f5, %f5, %f1; st.global.f32", 1))
	if _, err := b.build(r); code(err) != Numerics || !strings.Contains(err.Error(), "FADD") {
		t.Errorf("%v; want %s with the difference", err, Numerics)
	}
}

// What the text decides is not compiled for comparison.
func TestDecidedTextIsCompiledOnce(t *testing.T) {
	p := &ptxas{t: t, newest: 90}
	text := strings.NewReplacer("mul.f32", "mul.rn.f32", "add.f32", "add.rn.f32").Replace(fused)
	r, b := machine(t, p, text, text)
	if _, err := b.build(r); err != nil || len(p.calls) != 1 {
		t.Errorf("%v; compiled %q; want one", err, p.calls)
	}
}

// A driver older than the text's version is asked with the versions that it knows.
func TestOlderDriver(t *testing.T) {
	p := &ptxas{t: t, newest: 83}
	text := strings.Replace(fused, ".version 8.0", ".version 8.6", 1)
	r, b := machine(t, p, text, text)
	a, err := b.build(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(a.Code, []byte("\x7fELF")) || !strings.HasPrefix(p.calls[len(p.calls)-1], "8.3 ") {
		t.Errorf("the last text was %q; want version 8.3", p.calls[len(p.calls)-1])
	}
	p.newest = 0
	if _, err := b.build(r); code(err) != Assembler {
		t.Errorf("%v; want %s", err, Assembler)
	}
}

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		target       string
		major, minor int
		want         gpu.Target
	}{
		{"sm_90", 9, 0, gpu.DeviceTarget},
		{"sm_90a", 9, 0, gpu.ArchitectureTarget(90, 'a')},
		{"sm_80", 9, 0, gpu.DeviceTarget},
		{"sm_100f", 10, 3, gpu.ArchitectureTarget(103, 'f')},
		{"sm_100a", 10, 3, gpu.DeviceTarget}, // it will be refused: let the compiler say so
	} {
		if got := target(&ptx.Module{Target: []string{c.target, "debug"}}, &Device{Major: c.major, Minor: c.minor}); got != c.want {
			t.Errorf("%s on %d.%d: %#x; want %#x", c.target, c.major, c.minor, got, c.want)
		}
	}
}

// Tensor maps are aligned to 64 bytes where the machine code has them, which is not where the text alone would put them: the same
// for a client's machine code and for its PTX.
func TestAlignedParameters(t *testing.T) {
	text := `.version 8.0
.target sm_90
.address_size 64
.visible .entry fused(.param .u64 p, .param .align 64 .b8 map[128]) {
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [p]; ld.param.u64 %rd2, [map+8]; st.global.u64 [%rd1], %rd2;
	ret;
}
`
	p := &ptxas{t: t, newest: 90}
	r, b := machine(t, p, text, text)
	a, err := b.build(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Bodies[0].Image = []byte(text)
	fromText, err := b.build(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = 0x240 - 0x210 + 128 // the map begins at the next multiple of 64 behind the pointer at 0x210
	if a.Layout.BodyBytes[0] != want || fromText.Layout.BodyBytes[0] != want || !bytes.Equal(a.Code, fromText.Code) {
		t.Errorf("parameters of %d and %d bytes; want %d", a.Layout.BodyBytes[0], fromText.Layout.BodyBytes[0], want)
	}
}
