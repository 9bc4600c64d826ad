package coalesce

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Small kernels by hand, for the forms of PTX that compilers seldom write. Each has the parameters "out", an address of outBytes,
// and "salt", a u32 that differs between instances, at least; its result is what it leaves in out.
const (
	outBytes = 8192
	head     = ".param .u64 out, .param .u32 salt"
	// begin declares registers; %d1 is out, %r1 the salt, %r2 the thread, %r3 its number in the grid, %d2 its place in out.
	begin = `.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %d<20>;
	ld.param.u64 %d1, [out];
	ld.param.u32 %r1, [salt];
	mov.u32 %r2, %tid.x;
	mov.u32 %r3, %ctaid.z;
	mov.u32 %r4, %nctaid.y;
	mov.u32 %r5, %ctaid.y;
	mad.lo.u32 %r3, %r3, %r4, %r5;
	mov.u32 %r4, %nctaid.x;
	mov.u32 %r5, %ctaid.x;
	mad.lo.u32 %r3, %r3, %r4, %r5;
	mov.u32 %r4, %ntid.x;
	mad.lo.u32 %r3, %r3, %r4, %r2;
	mul.wide.u32 %d2, %r3, 16;
	add.u64 %d2, %d1, %d2;
	`
)

type smallCase struct {
	name       string
	head, code string // of the module, and behind begin
	params     string // further parameters
	attrs      string // of the kernel
	block      uint32
	target     string // sm_75 when empty
	dyn        uint32
	globals    int  // client's variables
	assemble   bool // only assembled: the interpreter has no tensor maps
}

func (c smallCase) source() string {
	s := ".version 8.5\n.target sm_75\n.address_size 64\n" + c.head + "\n.visible .entry k(" + head + c.params + ") " + c.attrs + "\n{\n" + begin + c.code + "\n}\n"
	if c.target != "" {
		s = strings.Replace(s, "sm_75", c.target, 1)
	}
	return s
}

var smallCases = []smallCase{
	{name: "vector moves", block: 32, code: `
		.reg .v4 .u32 %v;
		mov.v4.u32 {%r5, %r6, %r7, _}, %ctaid;
		mov.v4.u32 %v, %nctaid;
		setp.lt.u32 %p1, %r2, 16;
		@%p1 mov.v4.u32 {_, %r7, %r6, %r5}, %ctaid;
		shl.b32 %r7, %r7, 8;
		add.u32 %r5, %r5, %r7;
		mad.lo.u32 %r6, %r6, 16, %r1;
		mad.lo.u32 %r8, %v.x, 100, %v.y;
		mad.lo.u32 %r8, %r8, 100, %v.z;
		st.global.v4.u32 [%d2], {%r5, %r6, %r8, %v.w};
		ret;`},
	{name: "16 bits and cvt", block: 16, code: `
		mov.u16 %h1, %ctaid.z;
		mov.u16 %h2, %nctaid.z;
		cvt.u64.u32 %d3, %ctaid.x;
		cvt.u32.u16 %r5, %ctaid.y;
		cvt.u16.u32 %h3, %nctaid.x;
		st.global.u16 [%d2], %h1;
		st.global.u16 [%d2+2], %h2;
		st.global.u16 [%d2+4], %h3;
		st.global.u32 [%d2+8], %r5;
		st.global.u8 [%d2+12], %d3;
		ret;`},
	{name: "parameters by address", block: 32, params: ", .param .align 64 .b8 big[128], .param .align 16 .b8 four[16]", code: `
		mov.b64 %d3, big+8;
		ld.param.u32 %r5, [%d3+4];
		mov.u64 %d4, out;
		ld.param.u64 %d5, [%d4];
		cvta.param.u64 %d6, four+4;
		ld.u32 %r6, [%d6+4];
		mov.u64 %d7, big;
		cvta.param.u64 %d8, %d7;
		and.b64 %d9, %d8, 63;
		ld.param.v4.u32 {%r7, %r8, %r9, %r10}, [four];
		xor.b32 %r7, %r7, %r10;
		setp.eq.u32 %p1, %r2, 3;
		@%p1 mov.b64 %d9, big+8;
		@%p1 ld.param.u32 %r6, [%d9];
		cvt.u32.u64 %r11, %d9;
		selp.u32 %r11, 0, %r11, %p1;
		st.global.v4.u32 [%d2], {%r5, %r6, %r7, %r11};
		ret;`},
	{name: "shadowed parameter", block: 32, head: ".func (.param .u32 r) twice(.param .u32 salt) { .reg .b32 %r; ld.param.u32 %r, [salt]; add.u32 %r, %r, %r; st.param.u32 [r], %r; ret; }",
		code: `
		{
			.param .u32 arg;
			.param .u32 back;
			.reg .b32 out;
			add.u32 out, %r1, %r2;
			mov.u32 %r5, out;
			st.param.u32 [arg], %r5;
			call.uni (back), twice, (arg);
			ld.param.u32 %r6, [back];
		}
		ld.param.u32 %r7, [salt];
		st.global.v4.u32 [%d2], {%r5, %r6, %r7, %r7};
		ret;`},
	{name: "functions that ask where they are", block: 32, head: `
		.func (.reg .b32 r) where(.reg .b32 a);
		.func (.param .u32 r) deep(.param .u32 a)
		{ .reg .b32 %a, %b; ld.param.u32 %a, [a]; call (%b), where, (%a); mov.u32 %a, %nctaid.x; mad.lo.u32 %b, %a, 1000, %b; st.param.u32 [r], %b; ret; }
		.func (.reg .b32 r) where(.reg .b32 a)
		{ .reg .b32 %z, %y; mov.u32 %z, %ctaid.z; mov.u32 %y, %ctaid.y; mad.lo.u32 r, %z, 10, a; mad.lo.u32 r, %y, 100, r; ret; }`, code: `
		{
			.param .u32 a; .param .u32 b;
			st.param.u32 [a], %r2;
			call (b), deep, (a);
			ld.param.u32 %r5, [b];
		}
		st.global.v4.u32 [%d2], {%r5, %r1, %r1, %r1};
		ret;`},
	{name: "clients' variables", block: 32, globals: 4, head: `
		.global .align 8 .b8 tally[64];
		.visible .const .align 8 .f32 scale[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};
		.const .align 4 .u32 __cudart_i2opi_f[2] = {77, 78};
		.global .align 8 .u64 table[2] = {tally, generic(tally)+8};
		.global .u32 unused = 5;
		.global .align 4 .u32 one = 1;
		.func (.param .u32 r) add(.param .u32 a) { .reg .b32 %a; ld.param.u32 %a, [a]; atom.global.add.u32 %a, [tally+4], %a; ld.global.u32 %a, [one]; st.param.u32 [r], %a; ret; }`, code: `
		atom.global.add.u32 %r5, [tally], 1;
		mov.u64 %d3, tally+16;
		red.global.add.u32 [%d3], 2;
		cvta.global.u64 %d4, tally+24;
		atom.add.u32 %r6, [%d4], 3;
		and.b32 %r7, %r2, 3;
		mul.wide.u32 %d5, %r7, 4;
		mov.u64 %d6, scale;
		add.u64 %d7, %d6, %d5;
		ld.const.u32 %r8, [%d7];
		cvta.const.u64 %d8, %d7;
		ld.u32 %r9, [%d8];
		cvta.to.const.u64 %d8, %d8;
		ld.const.u32 %r10, [%d8];
		xor.b32 %r8, %r8, %r10;
		add.u32 %r8, %r8, %r9;
		ld.const.u32 %r10, [__cudart_i2opi_f+4];
		ld.const.u32 %r11, [scale+12];
		{ .param .u32 a; .param .u32 b; st.param.u32 [a], 7; call (b), add, (a); ld.param.u32 %r12, [b]; }
		add.u32 %r11, %r11, %r12;
		bar.sync 0;
		ld.volatile.global.u32 %r13, [tally+4];
		setp.eq.u32 %p1, %r2, 0;
		@%p1 mov.u64 %d3, table;
		@%p1 ld.global.u64 %d3, [%d3+8];
		@%p1 st.global.u64 [%d3+24], 9;
		st.global.v4.u32 [%d2], {%r8, %r10, %r11, %r1};
		ret;`},
	{name: "early returns and barriers", block: 64, code: `
		.shared .u32 sum;
		setp.eq.u32 %p1, %r2, 0;
		@%p1 st.shared.u32 [sum], 0;
		bar.sync 0;
		and.b32 %r5, %r2, 3;
		setp.eq.u32 %p2, %r5, 1;
		@%p2 bra $out;
		setp.eq.u32 %p3, %r5, 2;
		@%p3 exit;
		atom.shared.add.u32 %r6, [sum], %r1;
		bar.sync 0;
		ld.shared.u32 %r7, [sum];
		setp.gt.u32 %p4, %r2, 40;
		@%p4 bra $store;
		bra.uni $out;
	$store:
		bar.sync 1;
		st.global.v4.u32 [%d2], {%r7, %r1, %r2, %r3};
	$out:
		bra $really;
	$really:
		ret;`},
	{name: "branch tables", block: 64, code: `
		and.b32 %r5, %r2, 3;
	$targets: .branchtargets $a, $gone, $b, $gone;
		bar.sync 0;
		brx.idx %r5, $targets;
	$a: st.global.u32 [%d2], 1;
		bra $gone;
	$b: st.global.u32 [%d2], %r1;
		bar.sync 0;
	$gone:
		exit;`},
	{name: "scopes and labels", block: 32, code: `
		{ .reg .b32 %r1; mov.u32 %r1, 5; bra $x; st.global.u32 [%d2], 9; $x: add.u32 %r6, %r1, 1; }
		{ .reg .b32 %r1; mov.u32 %r1, 7; bra $x; st.global.u32 [%d2], 9; $x: add.u32 %r7, %r1, 1; { @%p1 ret; bra $done; } }
		st.global.u32 [%d2], 8;
	$done: st.global.v4.u32 [%d2], {%r6, %r7, %r1, %r1};`},
	{name: "endless ends", block: 32, code: `
		setp.ne.u32 %p1, %r2, 3;
		st.global.u32 [%d2], %r1;
		@%p1 ret;
		st.global.u32 [%d2], 4;
		@!%p1 exit;
		bra $never;
	$never: bra $never;`},
	{name: "function addresses", block: 32, head: `
		.func (.param .u32 r) one(.param .u32 a) { .reg .b32 %a; ld.param.u32 %a, [a]; add.u32 %a, %a, 1; st.param.u32 [r], %a; ret; }
		.func (.param .u32 r) two(.param .u32 a) { .reg .b32 %a; ld.param.u32 %a, [a]; add.u32 %a, %a, 2; st.param.u32 [r], %a; ret; }`, code: `
		mov.u64 %d3, one;
		mov.u64 %d4, two;
		setp.lt.u32 %p1, %r2, 5;
		selp.b64 %d3, %d3, %d4, %p1;
		{
			.param .u32 a; .param .u32 b;
			st.param.u32 [a], %r1;
		P: .callprototype (.param .u32 _) _ (.param .u32 _);
			call (b), %d3, (a), P;
			ld.param.u32 %r5, [b];
		Q: .calltargets one, two;
			call (b), %d4, (a), Q;
			ld.param.u32 %r6, [b];
		}
		st.global.v4.u32 [%d2], {%r5, %r6, 0, 0};
		ret;`},
	{name: "shared memory", block: 32, dyn: 256, head: ".extern .shared .align 16 .b8 dyn[];\n.shared .align 8 .b8 all[40];\n" +
		".func (.param .u32 r) peek() { .reg .b32 %a; .shared .u32 mine; st.shared.u32 [mine], 6; ld.shared.u32 %a, [mine]; st.param.u32 [r], %a; ret; }", code: `
		.shared .align 4 .u32 here[32];
		mov.u32 %r5, here;
		mad.lo.u32 %r5, %r2, 4, %r5;
		st.shared.u32 [%r5], %r1;
		cvta.shared.u64 %d3, all+8;
		st.u32 [%d3+4], %r1;
		mov.u64 %d4, dyn;
		st.shared.u32 [%d4+12], %r1;
		{ .param .u32 b; call (b), peek; ld.param.u32 %r8, [b]; }
		bar.sync 0;
		ld.shared.u32 %r6, [here+16];
		ld.shared.u32 %r7, [all+12];
		ld.shared.u32 %r9, [dyn+12];
		add.u32 %r9, %r9, %r8;
		st.global.v4.u32 [%d2], {%r6, %r7, %r9, %r1};
		ret;`},
	{name: "array elements", block: 32, globals: 1, params: ", .param .align 8 .u32 list[8]", head: ".global .align 8 .u32 marks[4] = {5, 6, 7, 8};", code: `
		.shared .align 8 .u32 here[8];
		ld.param.u32 %r5, list[3];
		setp.eq.u32 %p1, %r2, 0;
		@%p1 st.shared.u32 here[2], %r1;
		bar.sync 0;
		mov.u32 %r6, here[1];
		ld.shared.u32 %r6, [%r6+4];
		ld.global.u32 %r7, marks[2];
		mov.u64 %d3, marks[3];
		ld.global.u32 %r8, [%d3];
		st.global.v4.u32 [%d2], {%r5, %r6, %r7, %r8};
		ret;`},
	{name: "bulk stores", block: 32, target: "sm_90", code: `
		.shared .align 16 .u32 line[64];
		mov.u32 %r5, line;
		mad.lo.u32 %r6, %r2, 8, %r5;
		st.shared.v2.u32 [%r6], {%r1, %r2};
		fence.proxy.async.shared::cta;
		bar.sync 0;
		setp.eq.u32 %p1, %r2, 0;
		@%p1 cp.async.bulk.global.shared::cta.bulk_group [%d2], [%r5], 256;
		ret;`},
	{name: "tensor maps", block: 32, target: "sm_90a", params: ", .param .align 64 .b8 map[128]", assemble: true, code: `
		.shared .align 128 .b8 tile[1024];
		.shared .align 8 .b64 full;
		mov.b64 %d3, map;
		cvta.param.u64 %d4, %d3;
		prefetch.param.tensormap [map];
		mov.u32 %r5, tile;
		mov.u32 %r6, full;
		mov.u32 %r7, %ctaid.z;
		mbarrier.init.shared.b64 [%r6], 1;
		cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%d4, {%r3, %r7}], [%r6];
		cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d4, {%r3, %r7}], [%r5];
		ret;`},
}

// small is one instance of a small case.
type small struct {
	grid    [3]uint32
	params  []byte
	out     []byte
	globals *interp.Instance
	vars    map[string][]byte
}

// params gives the parameter block: out, salt, and whatever follows.
func (c smallCase) block0(m *ptx.Module, out uint64, salt uint32) []byte {
	layout, size, _ := m.Func("k").Layout()
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*7) + byte(salt)
	}
	binary.LittleEndian.PutUint64(b[layout[0].Offset:], out)
	binary.LittleEndian.PutUint32(b[layout[1].Offset:], salt)
	return b
}

// load copies a module's variables into mem, and gives the bytes of each.
func load(mem *interp.Memory, p *interp.Program) (*interp.Instance, map[string][]byte, error) {
	vars := map[string][]byte{}
	in, err := p.Instantiate(func(name string) uint64 {
		for _, g := range p.Globals() {
			if g.Name == name {
				vars[name] = make([]byte, g.Size)
			}
		}
		return mem.Place(vars[name], false)
	})
	if err != nil {
		return nil, nil, err
	}
	for _, g := range p.Globals() {
		copy(vars[g.Name], in.InitBytes(g))
	}
	return in, vars, nil
}

// alone launches an instance by itself.
func (c smallCase) alone(p *interp.Program, s *small, salt uint32) error {
	mem := &interp.Memory{}
	var err error
	if s.globals, s.vars, err = load(mem, p); err != nil {
		return err
	}
	s.out = make([]byte, outBytes)
	s.params = c.block0(p.Module(), mem.Place(s.out, false), salt)
	_, err = s.globals.Launch(context.Background(), interp.Launch{Entry: "k", Grid: s.grid, Block: [3]uint32{c.block}, DynShared: c.dyn,
		Params: s.params, Mem: mem, Seed: uint64(salt), MaxInstructions: 10_000_000})
	return err
}

// together launches one word; cases[i] is the case of ins[i] and bodies[i] its body.
func together(form *Form, cases []smallCase, bodies []int, programs []*interp.Program, ins []*small) error {
	p, err := interp.Load([]byte(form.PTX))
	if err != nil {
		return err
	}
	mem := &interp.Memory{}
	word, err := mem.Load(p)
	if err != nil {
		return err
	}
	l := &form.Layout
	block := bytes.Repeat([]byte{0xcc}, l.ParamBytes)
	blocks, dyn := uint32(0), uint32(0)
	words := make([]byte, 8*len(ins))
	at := mem.Place(words, false)
	for i, s := range ins {
		s.out = make([]byte, outBytes)
		params := cases[i].block0(programs[i].Module(), mem.Place(s.out, false), uint32(i+1))
		var globals []uint64
		if s.globals, s.vars, err = load(mem, programs[i]); err != nil {
			return err
		}
		for _, n := range l.GlobalNames[bodies[i]] {
			globals = append(globals, s.globals.Addr(n))
		}
		n := s.grid[0] * s.grid[1] * s.grid[2]
		done := at + uint64(8*i)
		l.Put(block, i, bodies[i], params, done, done+4, 50+uint32(i), n*cases[i].block, s.grid, blocks, globals)
		blocks += n
		dyn = max(dyn, cases[i].dyn)
	}
	l.Finish(block, len(ins), blocks)
	grid := [3]uint32{blocks}
	if l.Mapping == ByZ {
		grid = [3]uint32{ins[0].grid[0], ins[0].grid[1], uint32(len(ins))}
	}
	if _, err := word.Launch(context.Background(), interp.Launch{Entry: EntryName, Grid: grid, Block: [3]uint32{cases[0].block}, DynShared: dyn,
		Params: block, Mem: mem, Seed: 3, MaxInstructions: 10_000_000}); err != nil {
		return err
	}
	for i := range ins {
		if done, count := binary.LittleEndian.Uint32(words[8*i:]), binary.LittleEndian.Uint32(words[8*i+4:]); done != 50+uint32(i) || count != 0 {
			return fmt.Errorf("instance %d: done word %d and counter %d, want %d and 0", i, done, count, 50+i)
		}
	}
	return nil
}

// compareSmall says where the results of two runs differ. Variables that hold addresses differ between runs.
func compareSmall(got, want *small) error {
	if !bytes.Equal(got.out, want.out) {
		for k := range got.out {
			if got.out[k] != want.out[k] {
				return fmt.Errorf("out differs first at byte %d: %x, want %x", k, got.out[k&^15:][:16], want.out[k&^15:][:16])
			}
		}
	}
	for name := range want.vars {
		if name != "table" && !bytes.Equal(got.vars[name], want.vars[name]) {
			return fmt.Errorf("variable %s is %x, want %x", name, got.vars[name], want.vars[name])
		}
	}
	return nil
}

// assembles says what ptxas has against a module.
func assembles(t *testing.T, dir, arch, text string) error {
	t.Helper()
	const ptxas = "../../.deps/cuda/nvidia/cu13/bin/ptxas"
	if _, err := os.Stat(ptxas); err != nil {
		t.Fatalf("%v: run tools/deps/fetch.sh cuda", err)
	}
	file := filepath.Join(dir, "x.ptx")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(ptxas, "-arch="+arch, file, "-o", file+".cubin").CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

// TestSmall: each small case, by either mapping, leaves in three instances what it leaves alone, in out and in the client's
// variables; ptxas takes the original and what became of it.
func TestSmall(t *testing.T) {
	dir := t.TempDir()
	for _, c := range smallCases {
		m := parse(t, c.source())
		p, err := interp.LoadModule(m)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		arch := m.Target[0]
		if err := assembles(t, dir, arch, c.source()); err != nil {
			t.Errorf("%s: the original: %v", c.name, err)
			continue
		}
		for _, mapping := range []Mapping{ByZ, ByTable} {
			grids := [][3]uint32{{2, 3, 1}, {2, 3, 1}, {2, 3, 1}}
			if mapping == ByTable {
				grids = [][3]uint32{{2, 2, 2}, {3, 1, 1}, {1, 2, 3}}
			}
			form, err := Rewrite([]Kernel{{m, "k"}}, Spec{Mapping: mapping, Capacity: 5, ClientGlobals: true})
			if err != nil {
				t.Errorf("%s %v: %v", c.name, mapping, err)
				continue
			}
			if n := len(form.Layout.GlobalNames[0]); n != c.globals {
				t.Errorf("%s: the client's variables are %v", c.name, form.Layout.GlobalNames[0])
			}
			if c.assemble {
				if err := assembles(t, dir, arch, form.PTX); err != nil || form.Layout.Align != 64 || form.Layout.Stride%64 != 0 {
					t.Errorf("%s %v: %v, layout %+v", c.name, mapping, err, form.Layout)
				}
				continue
			}
			var ins []*small
			for _, g := range grids {
				ins = append(ins, &small{grid: g})
			}
			if err := together(form, []smallCase{c, c, c}, []int{0, 0, 0}, []*interp.Program{p, p, p}, ins); err != nil {
				t.Errorf("%s %v: %v\n%s", c.name, mapping, err, form.PTX)
				continue
			}
			for i, in := range ins {
				want := &small{grid: in.grid}
				if err := c.alone(p, want, uint32(i+1)); err != nil {
					t.Errorf("%s alone: %v", c.name, err)
				} else if err := compareSmall(in, want); err != nil {
					t.Errorf("%s %v, instance %d: %v\n%s", c.name, mapping, i, err, form.PTX)
				}
			}
			if err := assembles(t, dir, arch, form.PTX); err != nil {
				t.Errorf("%s %v: %v\n%s", c.name, mapping, err, form.PTX)
			}
		}
	}
}

// TestSmallPacked packs each small case with the next that has its block size and target: names of one module do not disturb the
// other's, and shared memory is one buffer.
func TestSmallPacked(t *testing.T) {
	dir := t.TempDir()
	packed := 0
	for i, a := range smallCases {
		for _, b := range smallCases[i+1:] {
			if a.block != b.block || a.target != b.target || b.assemble {
				continue
			}
			name := a.name + " and " + b.name
			ma, mb := parse(t, a.source()), parse(t, b.source())
			pa, err := interp.LoadModule(ma)
			if err != nil {
				t.Fatal(err)
			}
			pb, err := interp.LoadModule(mb)
			if err != nil {
				t.Fatal(err)
			}
			form, err := Rewrite([]Kernel{{ma, "k"}, {mb, "k"}}, Spec{Mapping: ByTable, Capacity: 5, ClientGlobals: true})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			cases, bodies, programs := []smallCase{b, a, b}, []int{1, 0, 1}, []*interp.Program{pb, pa, pb}
			ins := []*small{{grid: [3]uint32{2, 2, 2}}, {grid: [3]uint32{3, 1, 1}}, {grid: [3]uint32{1, 2, 3}}}
			if err := together(form, cases, bodies, programs, ins); err != nil {
				t.Errorf("%s: %v\n%s", name, err, form.PTX)
				break
			}
			for i, in := range ins {
				want := &small{grid: in.grid}
				if err := cases[i].alone(programs[i], want, uint32(i+1)); err != nil {
					t.Errorf("%s alone: %v", name, err)
				} else if err := compareSmall(in, want); err != nil {
					t.Errorf("%s, instance %d: %v\n%s", name, i, err, form.PTX)
				}
			}
			if err := assembles(t, dir, ma.Target[0], form.PTX); err != nil {
				t.Errorf("%s: %v\n%s", name, err, form.PTX)
			}
			packed++
			break
		}
	}
	if packed < 8 {
		t.Errorf("%d pairs packed, expected 8 at least", packed)
	}
}
