package interp

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
)

// sliceOnly is an AddressSpace without the fast path.
type sliceOnly struct{ m *Memory }

func (s sliceOnly) Slice(addr uint64, n int, write bool) []byte { return s.m.Slice(addr, n, write) }

// touchSrc loads, stores and updates elements of every width at the thread's place.
const touchSrc = `.version 8.6
.target sm_90
.address_size 64
.visible .entry k(.param .u64 po) {
.reg .b64 q<6>; .reg .b32 r<6>; .reg .b16 h<4>;
ld.param.u64 q1, [po]; mov.u32 r1, %tid.x; mul.wide.u32 q2, r1, 32; add.u64 q1, q1, q2;
ld.global.u8 h1, [q1]; add.u16 h1, h1, 1; st.global.u8 [q1], h1;
ld.global.u16 h2, [q1+2]; add.u16 h2, h2, 1; st.global.u16 [q1+2], h2;
atom.global.cas.b16 h3, [q1+4], 0, 7;
ld.volatile.global.u32 r2, [q1+8]; add.u32 r2, r2, 1; st.volatile.global.u32 [q1+8], r2;
atom.global.add.u32 r3, [q1+12], 5; red.global.add.u64 [q1+16], 9;
ld.acquire.gpu.global.u64 q3, [q1+24]; add.u64 q3, q3, 1; st.release.gpu.global.u64 [q1+24], q3;
ret; }`

// TestMemoryPaths: the same results with segments, with slices only, and on
// host memory whose alignment is not the device's.
func TestMemoryPaths(t *testing.T) {
	p, err := Load([]byte(touchSrc))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 0, 64*32)
	for i := 0; i < 64; i++ {
		want = append(want, 1, 0, 1, 0, 7, 0, 0, 0)
		want = binary.LittleEndian.AppendUint32(want, 1)
		want = binary.LittleEndian.AppendUint32(want, 5)
		want = binary.LittleEndian.AppendUint64(want, 9)
		want = binary.LittleEndian.AppendUint64(want, 1)
	}
	for name, c := range map[string]struct{ shift, slices bool }{"segments": {}, "slices": {slices: true}, "odd": {shift: true}, "odd slices": {true, true}} {
		mem := new(Memory)
		inst, err := mem.Load(p)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64*32+1)
		if c.shift {
			buf = buf[1:]
		}
		buf = buf[:64*32]
		l := Launch{Entry: "k", Block: [3]uint32{64}, Params: params(mem.Place(buf, false)), Mem: mem}
		if c.slices {
			l.Mem = sliceOnly{mem}
		}
		if _, err := inst.Launch(context.Background(), l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(buf, want) {
			t.Errorf("%s: %x, want %x", name, buf[:32], want[:32])
		}
	}
}

// TestGlobals: initial values, addresses in initialisers, and which variables
// may be written.
func TestGlobals(t *testing.T) {
	p, err := Load([]byte(`.version 8.6
.target sm_90
.address_size 64
.func dev() { ret; }
.const .align 8 .f64 c[3] = {1.5, 0d4000000000000000};
.global .u32 read = 7;
.global .align 16 .b8 written[64];
.global .u64 ptrs[3] = {read, generic(written)+8, dev};
.global .u8 bytes[3] = {0xFF(read), 0xFF00(read), 0xFF0000(read)};
.global .u32 grid[2][2] = {{1, 2}, {3}};
.visible .entry k() { .reg .u32 r; ld.global.u32 r, [read]; st.global.u32 [written], r; ret; }`))
	if err != nil {
		t.Fatal(err)
	}
	var mem Memory
	inst, err := mem.Load(p)
	if err != nil {
		t.Fatal(err)
	}
	gs := map[string]Global{}
	for _, g := range p.Globals() {
		gs[g.Name] = g
	}
	if g := gs["c"]; !g.Const || g.Size != 24 || g.Align != 8 || g.Written {
		t.Errorf("%+v", g)
	}
	if g := gs["written"]; !g.Written || g.Align != 16 || g.Size != 64 || len(g.Init) != 0 {
		t.Errorf("%+v", g)
	}
	at := func(name string) []byte { return mem.Slice(inst.Addr(name), int(gs[name].Size), false) }
	if c := at("c"); binary.LittleEndian.Uint64(c[8:]) != 0x4000000000000000 || binary.LittleEndian.Uint64(c) != 0x3ff8000000000000 {
		t.Errorf("%x", c)
	}
	ptrs := at("ptrs")
	for i, w := range []uint64{inst.Addr("read"), inst.Addr("written") + 8, p.FuncAddr("dev")} {
		if g := binary.LittleEndian.Uint64(ptrs[8*i:]); g != w {
			t.Errorf("pointer %d: %#x, want %#x", i, g, w)
		}
	}
	a := inst.Addr("read")
	if b := at("bytes"); !bytes.Equal(b, []byte{byte(a), byte(a >> 8), byte(a >> 16)}) {
		t.Errorf("bytes of %#x: %x", a, b)
	}
	if g := words(at("grid")); g[0] != 1 || g[1] != 2 || g[2] != 3 || g[3] != 0 {
		t.Errorf("%v", g)
	}
}
