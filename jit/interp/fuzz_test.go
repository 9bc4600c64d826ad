package interp_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// fuzzLaunch runs the first entries of a module under tight limits. Whatever
// the code is, the answer is a result or a typed error.
func fuzzLaunch(t *testing.T, src []byte, seed uint64) {
	p, err := interp.Load(src)
	if err != nil {
		var e *ptx.Error
		if p != nil || !errors.As(err, &e) || e.Line < 1 {
			t.Fatalf("Load gave %v and %v", p != nil, err)
		}
		return
	}
	total := int64(0)
	for _, g := range p.Globals() {
		total += g.Size
		if g.Align > 256 || total > 1<<20 {
			return
		}
	}
	for i, e := range p.Entries() {
		if i == 4 {
			break
		}
		var mem interp.Memory
		inst, err := mem.Load(p)
		if err != nil {
			t.Fatal(err)
		}
		params := make([]byte, e.ParamBytes)
		for j := 0; j+8 <= len(params); j += 8 {
			binary.LittleEndian.PutUint64(params[j:], mem.Alloc(1<<14))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		begin := time.Now()
		_, err = inst.Launch(ctx, interp.Launch{Entry: e.Name, Grid: [3]uint32{2, 1, 2}, Block: [3]uint32{33}, Params: params,
			DynShared: 256, Mem: &mem, Seed: seed, MaxInstructions: 50_000, Printf: io.Discard})
		cancel()
		if d := time.Since(begin); d > 4*time.Second {
			t.Fatalf("%s ran %v", e.Name, d)
		}
		var fault *interp.Fault
		var refused *interp.LaunchError
		switch {
		case err == nil, errors.As(err, &refused):
		case errors.As(err, &fault):
			if fault.Kind == 0 || len(fault.Msg) > 16 && fault.Msg[:17] == "interpreter error" {
				t.Fatal(fault)
			}
		default:
			t.Fatalf("error of type %T: %v", err, err)
		}
	}
}

// FuzzLoadLaunch: any bytes as a module never panic, hang or use unbounded memory.
func FuzzLoadLaunch(f *testing.F) {
	seen := map[string]bool{}
	for _, k := range kernels.All() {
		if !seen[k.File] && len(k.PTX()) < 12<<10 {
			f.Add(k.PTX(), uint64(1))
		}
		seen[k.File] = true
	}
	for _, s := range hostile {
		f.Add([]byte(s.src), uint64(2))
	}
	f.Fuzz(fuzzLaunch)
}

const head = ".version 8.5\n.target sm_90\n.address_size 64\n"

// kernel wraps statements in an entry with one pointer parameter, in %rd0.
func kernel(body string) string {
	return head + `.visible .entry k(.param .u64 p) {
.reg .pred %p<8>;
.reg .b16 %rs<8>;
.reg .b32 %r<32>;
.reg .f32 %f<16>;
.reg .f64 %fd<8>;
.reg .b64 %rd<32>;
ld.param.u64 %rd0, [p];
mov.u32 %r0, %tid.x;
` + body + "\nret;\n}\n"
}

// hostile are kernels that do something wrong, with the fault that must follow.
var hostile = []struct {
	name string
	src  string
	want interp.FaultKind
	line int // of the faulting instruction within the body; 0: not checked
}{
	{"loop for ever", kernel("L: bra L;"), interp.Timeout, 0},
	{"loop in divergence", kernel("setp.lt.u32 %p1, %r0, 5;\n@%p1 bra L;\nret;\nL: add.u32 %r1, %r1, 1;\nbra L;"), interp.Timeout, 0},
	{"unmapped load", kernel("mov.u64 %rd1, 4096;\nld.global.u32 %r1, [%rd1];"), interp.IllegalAddress, 2},
	{"null store", kernel("mov.u64 %rd1, 0;\nst.u32 [%rd1], %r0;"), interp.IllegalAddress, 2},
	{"past the end", kernel("ld.global.u32 %r1, [%rd0+16384];"), interp.IllegalAddress, 1},
	{"across the end", kernel("add.u64 %rd1, %rd0, 16376;\nld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd1];"), interp.MisalignedAddress, 2},
	{"misaligned", kernel("ld.global.u32 %r1, [%rd0+2];"), interp.MisalignedAddress, 1},
	{"misaligned vector", kernel("ld.global.v2.u32 {%r1,%r2}, [%rd0+4];"), interp.MisalignedAddress, 1},
	{"misaligned atomic", kernel("atom.global.add.u32 %r1, [%rd0+1], 1;"), interp.MisalignedAddress, 1},
	{"atomic out of range", kernel("mov.u64 %rd1, 1024;\nred.global.add.u64 [%rd1], 1;"), interp.IllegalAddress, 2},
	{"shared out of range", kernel(".shared .b8 s[16];\nmov.u32 %r1, 4096;\nst.shared.u32 [%r1], 1;"), interp.SharedOutOfRange, 3},
	{"shared through generic", kernel("mov.u64 %rd1, 1048576;\ncvta.shared.u64 %rd2, %rd1;\nld.u32 %r1, [%rd2];"), interp.SharedOutOfRange, 3},
	{"local out of range", kernel(".local .b8 s[16];\nmov.u64 %rd1, s;\nst.local.u32 [%rd1+64], 1;"), interp.LocalOutOfRange, 3},
	{"write to constant", head + ".const .u32 c = 5;\n.visible .entry k(.param .u64 p) {\n.reg .b64 %rd<2>;\nmov.u64 %rd1, c;\ncvta.const.u64 %rd1, %rd1;\nst.u32 [%rd1], 1;\nret; }\n", interp.IllegalAddress, 0},
	{"write to parameters", kernel("mov.b64 %rd1, p;\ncvta.param.u64 %rd2, %rd1;\nst.u32 [%rd2], 1;"), interp.IllegalAddress, 3},
	{"trap", kernel("setp.eq.u32 %p1, %r0, 7;\n@%p1 trap;"), interp.Trap, 2},
	{"brkpt", kernel("brkpt;"), interp.Trap, 1},
	{"endless recursion", head + ".func f();\n.func f() { call f; ret; }\n.visible .entry k() { call f; ret; }\n", interp.StackOverflow, 0},
	{"deep locals", head + ".func f();\n.func f() { .local .b8 a[9000]; call f; ret; }\n.visible .entry k() { call f; ret; }\n", interp.StackOverflow, 0},
	{"alloca in a loop", kernel("L: alloca.u64 %rd1, 4096, 16;\nbra L;"), interp.StackOverflow, 1},
	{"lonely barrier", kernel("setp.lt.u32 %p1, %r0, 32;\n@%p1 bra A;\nbar.sync 1, 64;\nbra E;\nA: bar.sync 2, 64;\nE:"), interp.BarrierDeadlock, 0},
	{"barrier number", kernel("mov.u32 %r1, 16;\nbar.sync %r1;"), interp.IllegalInstruction, 2},
	{"barrier count", kernel("mov.u32 %r1, 33;\nbar.sync 1, %r1;"), interp.IllegalInstruction, 2},
	{"branch table", kernel("ts: .branchtargets A, B;\nbrx.idx %r0, ts;\nA: B:"), interp.IllegalInstruction, 2},
	{"member never comes", kernel("setp.lt.u32 %p1, %r0, 4;\n@%p1 bra A;\nbar.sync 0;\nA: bar.warp.sync 0xffffffff;\nbar.sync 0;"), interp.BarrierDeadlock, 0},
	{"call of data", kernel("pr: .callprototype ();\ncall %rd0, pr;"), interp.BadCall, 2},
	{"printf of nowhere", head + ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n.visible .entry k() {\n.param .b64 a; .param .b64 b; .param .b32 r;\nst.param.b64 [a], 77; st.param.b64 [b], 0;\ncall (r), vprintf, (a, b);\nret; }\n", interp.IllegalAddress, 0},
}

func TestHostile(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			p, err := interp.Load([]byte(h.src))
			if err != nil {
				t.Fatal(err)
			}
			var mem interp.Memory
			inst, err := mem.Load(p)
			if err != nil {
				t.Fatal(err)
			}
			_, err = inst.Launch(context.Background(), interp.Launch{Entry: "k", Grid: [3]uint32{2}, Block: [3]uint32{64},
				Params: binary.LittleEndian.AppendUint64(nil, mem.Alloc(1<<14)), Mem: &mem, MaxInstructions: 3_000_000})
			var f *interp.Fault
			if !errors.As(err, &f) || f.Kind != h.want {
				t.Fatalf("got %v, want %v", err, h.want)
			}
			// "kernel" puts 12 lines before the body.
			if h.line > 0 && f.Line != h.line+12 {
				t.Errorf("fault at line %d, want %d: %v", f.Line, h.line+12, f)
			}
		})
	}
}

// A launch stops when its context does, with the context's error inside.
func TestCancel(t *testing.T) {
	p, err := interp.Load([]byte(kernel("L: bra L;")))
	if err != nil {
		t.Fatal(err)
	}
	var mem interp.Memory
	inst, _ := mem.Load(p)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = inst.Launch(ctx, interp.Launch{Entry: "k", Grid: [3]uint32{1 << 20}, Block: [3]uint32{1024}, Params: make([]byte, 8), Mem: &mem})
	var f *interp.Fault
	if !errors.As(err, &f) || f.Kind != interp.Timeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// TestHostileModules: sources made to be slow or large are answered at once.
func TestHostileModules(t *testing.T) {
	list := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := 0; i < n; i++ {
			b.WriteString(f(i))
		}
		return b.String()
	}
	for name, src := range map[string]string{
		"long names of digits": kernel("mov.u32 %r1, %r" + strings.Repeat("1", 1<<20) + ";"),
		"many initialisers":    head + list(2000, func(i int) string { return fmt.Sprintf(".global .b8 x%d[2][134217728] = {{1},{1}};\n", i) }),
		"many branch tables":   kernel("ts: .branchtargets " + strings.Repeat("L,", 20000) + "L;\n" + strings.Repeat("brx.idx %r1, ts;\n", 20000) + "L:"),
		"many undefined functions": head + list(20000, func(i int) string { return fmt.Sprintf(".extern .func f%d();\n", i) }) +
			kernel(list(50000, func(i int) string { return fmt.Sprintf("mov.u64 %%rd1, f%d;\n", i%20000) }))[len(head):],
		"calls in a lattice": head + list(3000, func(i int) string {
			return fmt.Sprintf(".func f%d() { %s ret; }\n", i, list(min(i, 30), func(j int) string { return fmt.Sprintf("call f%d;", i-j-1) }))
		}) + list(3000, func(i int) string { return fmt.Sprintf(".entry e%d() { call f%d; ret; }\n", i, i) }),
		"huge variables":        head + strings.Repeat(".global .b8 x[4][1099511627776];\n", 100),
		"huge shared variables": kernel(".shared .b8 a[999999999]; mov.u64 %rd1, a;"),
		"huge local variables":  kernel(".local .b8 a[999999999]; mov.u64 %rd1, a;"),
		"many registers":        kernel(".reg .u32 z<100000>;\n" + list(70000, func(i int) string { return fmt.Sprintf("mov.u32 z%d, 1;\n", i) })),
		"deep blocks":           kernel(strings.Repeat("{", 60) + strings.Repeat("}", 60)),
		"long operand list":     kernel("add.u32 " + strings.Repeat("%r1, ", 200000) + "%r1;"),
	} {
		begin := time.Now()
		fuzzLaunch(t, []byte(src), 1)
		d := time.Since(begin)
		t.Logf("%s: %v", name, d)
		if d > 10*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}
