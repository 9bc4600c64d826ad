package interp

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// TestWide: elements of arrays, vector registers, mov of vectors, 128-bit registers.
func TestWide(t *testing.T) {
	out, _, err := launch(t, ".global .u32 g[4] = {10, 20, 30, 40}; .global .u16 half[3] = {1, 2, 3}; .shared .u32 s[4];\n"+each(`
.reg .b128 w<3>; .reg .v4 .b32 v; .reg .v2 .b64 vv; .reg .b64 e<4>; .reg .b16 h; .reg .pred odd; .local .b32 l[4];
and.b32 r5, r0, 1; setp.ne.u32 odd, r5, 0; ld.param.u64 q3, [po]; mul.wide.u32 q4, r0, 16; add.u64 q3, q3, q4;
ld.global.u32 r9, g[2]; ld.global.u16 h, half[1+1]; cvt.u32.u16 r5, h; add.u32 r9, r9, r5; // 33
mov.u64 e0, g[3]; ld.global.u32 r5, [e0]; add.u32 r9, r9, r5; // 73
st.shared.u32 s[3], 100; mov.u32 r5, s[3]; ld.shared.u32 r5, [r5]; add.u32 r9, r9, r5; // 173
st.local.u32 l[2], r0; ld.local.u32 r5, [l+8]; mad.lo.u32 r9, r5, 1000, r9; // 1000 a thread
mov.v4.u32 v, {1, 2, 3, 4}; @odd mov.v4.u32 v, {v.w, v.z, v.y, v.x}; mov.v4.u32 {r10, r11, r12, r13}, v;
mad.lo.u32 r9, r10, 1000000, r9; // 1, or 4 in odd threads
mov.v4.u32 {r14, _, _, _}, %ntid; add.u32 r9, r9, r14; // 32
mov.b64 e1, 0x123456789; mov.b128 w0, {e1, 7}; mov.b128 w1, w0; st.global.b128 [q3+128], w1; ld.global.b128 w2, [q3+128]; mov.b128 {e2, e3}, w2;
cvt.u32.u64 r5, e3; add.u32 r9, r9, r5; sub.u64 e2, e2, e1; cvt.u32.u64 r5, e2; add.u32 r9, r9, r5; // 7
mov.v2.b64 vv, {5, 6}; mov.b64 e1, vv.y; cvt.u32.u64 r5, e1; add.u32 r9, r9, r5; // 6
`), Launch{Block: [3]uint32{32}}, 128+512)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range words(out)[:32] {
		want := uint32(173+32+7+6+1000*i) + 1000000
		if i&1 != 0 {
			want += 3000000
		}
		if g != want {
			t.Errorf("thread %d: %d, want %d", i, g, want)
		}
	}
	for _, c := range []struct{ body, want string }{
		{"ld.global.u32 r9, g[r0];", "element chosen by a register"},
		{"ld.shared.u32 r9, [s+r0];", "a register offset"},
		{"add.u32 r9, r0, -r1;", "no negated register"},
		{"ld.global.u32 r9, q1[2];", "no array"},
	} {
		p, err := Load([]byte(".version 8.6\n.target sm_90\n.global .u32 g[4]; " + each(".shared .u32 s[4];"+c.body)))
		if err == nil {
			e, _ := p.Entry("k")
			err = e.Err
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.body, err, c.want)
		}
	}
}

// TestAsyncStores: st.async and red.async to another block of the cluster, cp.reduce.async.bulk to global memory and to
// the other block, st.bulk.
func TestAsyncStores(t *testing.T) {
	src := `
.visible .entry k(.param .u64 po) .reqnctapercluster 2, 1, 1 {
.reg .pred p<8>; .reg .b32 r<20>; .reg .b64 q<10>;
.shared .align 16 .b32 s[64]; .shared .align 16 .b32 from[16]; .shared .align 8 .b64 bar;
mov.u32 r0, %tid.x; mov.u32 r1, %cluster_ctarank; xor.b32 r2, r1, 1; ld.param.u64 q1, [po];
setp.ne.u32 p1, r0, 0;
@p1 bra INIT;
mbarrier.init.shared.b64 [bar], 1;
mbarrier.arrive.expect_tx.shared.b64 q5, [bar], 704; // 32×16 + 32×4 + 64
mov.u64 q2, 256; mov.u32 r4, s; cvt.u64.u32 q3, r4; st.bulk.weak.shared::cta [q3], q2, 0;
INIT:
mad.lo.u32 r8, r1, 100, r0; setp.lt.u32 p2, r0, 16; mov.u32 r3, from; mad.lo.u32 r3, r0, 4, r3; @p2 st.shared.u32 [r3], r8;
barrier.cluster.arrive; barrier.cluster.wait;
mov.u32 r5, s; mapa.shared::cluster.u32 r5, r5, r2; mov.u32 r6, bar; mapa.shared::cluster.u32 r6, r6, r2;
and.b32 r7, r0, 15; mad.lo.u32 r7, r7, 16, r5; // threads 0..15 and 16..31 write the same words
st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [r7], {r0, 1, 2, r1}, [r6];
red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [r5+4], 1, [r6];
mov.u32 r10, from; mov.u32 r11, from; mapa.shared::cluster.u32 r11, r11, r2;
@p1 bra WAIT;
cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [q1+1024], [r10], 64; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.max.u32 [r5+128], [r10], 64, [r6];
WAIT: mbarrier.try_wait.parity.shared.b64 p3, [bar], 0; @!p3 bra WAIT;
barrier.cluster.arrive; barrier.cluster.wait;
mad.lo.u32 r12, r1, 32, r0; mul.wide.u32 q6, r12, 8; add.u64 q6, q1, q6; mov.u32 r13, s; mad.lo.u32 r13, r0, 8, r13; ld.shared.v2.u32 {r14, r15}, [r13]; st.global.v2.u32 [q6], {r14, r15};
ret; }`
	for seed := uint64(0); seed < 4; seed++ {
		out, _, err := launch(t, src, Launch{Grid: [3]uint32{2}, Block: [3]uint32{32}, Cluster: [3]uint32{2}, Seed: seed}, 1024+64)
		if err != nil {
			t.Fatal(err)
		}
		w := words(out)
		for block := uint32(0); block < 2; block++ {
			s := w[block*64:]
			other := 1 - block
			// Word 1 is added to by 32 threads, and set to 1 by stores in between.
			if s[1] == 0 || s[1] > 33 || s[2] != 2 || s[3] != other || s[7*4+1] != 1 {
				t.Errorf("seed %d block %d: st.async and red.async left %v", seed, block, s[:32])
			}
			if got, least := s[32+1], other*100+1; got < least {
				t.Errorf("seed %d block %d: max left %d, at least %d", seed, block, got, least)
			}
		}
		for i, g := range w[256:272] {
			if want := uint32(i + 100 + i); g != want {
				t.Errorf("seed %d: sum %d is %d, want %d", seed, i, g, want)
			}
		}
	}
}

// TestTensorCopy: tiles of one, two and three dimensions from and to global memory, with swizzle, at the edges.
func TestTensorCopy(t *testing.T) {
	const src = `.version 8.6
.target sm_90
.visible .entry k(.param .u64 po, .param .align 64 .b8 tm[128], .param .align 64 .b8 tmo[128], .param .s32 x, .param .s32 y, .param .s32 z, .param .u32 bytes) {
.reg .pred p<4>; .reg .b32 r<20>; .reg .b64 q<10>; .extern .shared .align 1024 .b8 tile[]; .shared .align 8 .b64 bar;
mov.b64 q0, tm; cvta.param.u64 q0, q0; mov.b64 q1, tmo; cvta.param.u64 q1, q1; mov.u32 r0, %%tid.x; setp.ne.u32 p1, r0, 0;
ld.param.u32 r1, [x]; ld.param.u32 r2, [y]; ld.param.u32 r3, [z]; ld.param.u32 r4, [bytes]; mov.u32 r5, tile; mov.u32 r6, bar; add.u32 r5, r5, 1023; and.b32 r5, r5, -1024;
@p1 bra WAIT;
prefetch.tensormap [q0]; mbarrier.init.shared.b64 [bar], 1; fence.proxy.async.shared::cta; mbarrier.arrive.expect_tx.shared.b64 q5, [bar], r4;
cp.async.bulk.tensor.%[1]s.shared::cluster.global.tile.mbarrier::complete_tx::bytes [r5], [q0, {%[2]s}], [r6];
WAIT: bar.sync 0; L: mbarrier.try_wait.parity.shared.b64 p2, [bar], 0; @!p2 bra L;
ld.param.u64 q3, [po]; mov.u32 r7, r0;
COPY: setp.ge.u32 p3, r7, r4; @p3 bra OUT; add.u32 r8, r5, r7; ld.shared.u8 r9, [r8]; cvt.u64.u32 q4, r7; add.u64 q4, q4, q3; st.global.u8 [q4], r9; add.u32 r7, r7, 32; bra COPY;
OUT: bar.sync 0; @p1 ret; fence.proxy.async;
cp.async.bulk.tensor.%[1]s.global.shared::cta.bulk_group [q1, {%[2]s}], [r5]; cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;
ret; }`
	for _, c := range []struct {
		name       string
		m          TensorMap
		coords     string
		at         [3]int32
		outsideNaN bool
	}{
		{"1d", TensorMap{Elem: 4, Rank: 1, Dim: [5]uint64{100}, Box: [5]uint32{32}}, "r1", [3]int32{8}, false},
		{"1d over both ends", TensorMap{Elem: 4, Rank: 1, Dim: [5]uint64{20}, Box: [5]uint32{64}}, "r1", [3]int32{-8}, false},
		{"2d", TensorMap{Elem: 2, Rank: 2, Dim: [5]uint64{40, 30}, Stride: [4]uint64{96}, Box: [5]uint32{16, 8}}, "r1, r2", [3]int32{8, 4}, false},
		{"2d swizzle 128 at a corner", TensorMap{Elem: 2, Rank: 2, Swizzle: 128, Dim: [5]uint64{90, 30}, Stride: [4]uint64{192}, Box: [5]uint32{64, 16}}, "r1, r2", [3]int32{64, 20}, false},
		{"2d swizzle 64, NaN", TensorMap{Elem: 4, Rank: 2, Swizzle: 64, FillNaN: true, Dim: [5]uint64{33, 12}, Stride: [4]uint64{160}, Box: [5]uint32{16, 8}}, "r1, r2", [3]int32{24, 8}, true},
		{"2d swizzle 32", TensorMap{Elem: 1, Rank: 2, Swizzle: 32, Dim: [5]uint64{64, 64}, Stride: [4]uint64{64}, Box: [5]uint32{32, 32}}, "r1, r2", [3]int32{16, 16}, false},
		{"3d every second", TensorMap{Elem: 8, Rank: 3, Dim: [5]uint64{10, 9, 5}, Stride: [4]uint64{80, 720}, Box: [5]uint32{4, 4, 2}, Step: [5]uint32{2, 1, 2}}, "r1, r2, r3", [3]int32{4, 6, 1}, false},
	} {
		rank := int(c.m.Rank)
		p, err := Load(fmt.Appendf(nil, src, fmt.Sprintf("%dd", rank), c.coords))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var mem Memory
		inst, err := mem.Load(p)
		if err != nil {
			t.Fatal(err)
		}
		in, back := make([]byte, 8192), make([]byte, 8192)
		for i := range in {
			in[i] = byte(i*7 + i>>8 + 1)
		}
		m, o := c.m, c.m
		m.Address, o.Address = mem.Place(in, true), mem.Place(back, false)
		mb, err := m.Encode()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		ob, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		n := int(m.bytes())
		out := make([]byte, n)
		pb := make([]byte, 0, 400)
		pb = binary.LittleEndian.AppendUint64(pb, mem.Place(out, false))
		pb = append(append(append(pb, make([]byte, 56)...), mb[:]...), ob[:]...)
		for _, v := range []uint32{uint32(c.at[0]), uint32(c.at[1]), uint32(c.at[2]), uint32(n)} {
			pb = binary.LittleEndian.AppendUint32(pb, v)
		}
		if _, err := inst.Launch(context.Background(), Launch{Entry: "k", Block: [3]uint32{32}, DynShared: uint32(n) + 2048, Params: pb, Mem: &mem, MaxInstructions: 1 << 24}); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		// What must be where, from the definition.
		es := int(m.Elem)
		wantBack := make([]byte, len(back))
		for i := 0; i < n/es; i++ {
			idx, rest := [3]int{}, i
			for k := range rank {
				idx[k] = rest % int(m.Box[k])
				rest /= int(m.Box[k])
			}
			g, inside := 0, true
			for k := range rank {
				x := int(c.at[k]) + idx[k]*int(max(m.Step[k], 1))
				inside = inside && x >= 0 && x < int(m.Dim[k])
				if k == 0 {
					g += x * es
				} else {
					g += x * int(m.Stride[k-1])
				}
			}
			at := i * es // the tile begins at a multiple of 1024
			if m.Swizzle != 0 {
				span := int(m.Swizzle) / 16
				chunk, row := at/16%span, at/128%span
				at = at - at/16%span*16 + (chunk^row)*16
			}
			for b := range es {
				want := byte(0)
				if inside {
					want = in[g+b]
					wantBack[g+b] = want
				} else if c.outsideNaN {
					want = []byte{0xff, 0xff, 0xff, 0x7f}[b]
				}
				if out[at+b] != want {
					t.Errorf("%s: element %d byte %d is %#x in shared memory, want %#x", c.name, i, b, out[at+b], want)
				}
			}
		}
		if string(back) != string(wantBack) {
			t.Errorf("%s: what was stored back differs", c.name)
		}
	}
	for want, m := range map[string]TensorMap{
		"rank 6":            {Elem: 4, Rank: 6},
		"elements of 3":     {Elem: 3, Rank: 1},
		"no multiple of 16": {Elem: 4, Rank: 1, Address: 8},
		"dimension 0 is 0":  {Elem: 4, Rank: 1, Box: [5]uint32{4}},
		"stride 0 is 24":    {Elem: 4, Rank: 2, Dim: [5]uint64{4, 4}, Box: [5]uint32{4, 4}, Stride: [4]uint64{24}},
		"above the swizzle": {Elem: 4, Rank: 1, Dim: [5]uint64{40}, Box: [5]uint32{40}, Swizzle: 32},
		"box dimension":     {Elem: 4, Rank: 1, Dim: [5]uint64{4}, Box: [5]uint32{300}},
	} {
		if _, err := m.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", m, err, want)
		}
	}
	if _, err := DecodeTensorMap(make([]byte, 128)); err == nil {
		t.Error("zeros were taken for a tensor map")
	}
}

// TestWordPrograms: what rewritten kernels (jit/coalesce) rely on: an instance's parameters through a register in
// parameter space, with vectors and in the largest block; its generic address; and the done word's epilogue.
func TestWordPrograms(t *testing.T) {
	const src = `.version 8.6
.target sm_90
.visible .entry k(.param .align 16 .b8 block[32764]) {
.reg .pred p<4>; .reg .b32 r<20>; .reg .b64 q<20>; .shared .b32 s;
mov.u32 r0, %ctaid.z; mov.b64 q0, block; mad.wide.u32 q0, r0, 64, q0; // stride 64
ld.param.v2.u64 {q1, q2}, [q0+16]; ld.param.u32 r1, [q0+32]; ld.param.v4.b32 {r2, r3, r4, r5}, [q0+32]; ld.param.u8 r6, [q0+37];
cvta.param.u64 q3, q0; ld.u32 r7, [q3+36]; ld.v2.u32 {r8, r9}, [q3+40]; isspacep.param p1, q3; selp.u32 r10, 1, 0, p1;
ld.param.b32 r11, [block+32760]; cvta.to.param.u64 q4, q3; ld.param.u32 r12, [q4+32];
mov.u32 r13, %tid.x; setp.lt.u32 p2, r13, r2; @p2 bra EARLY; // some threads leave the main path
add.u32 r1, r1, r7; add.u32 r1, r1, r8; add.u32 r1, r1, r9; add.u32 r1, r1, r10; add.u32 r1, r1, r11; add.u32 r1, r1, r6; sub.u32 r1, r1, r12; add.u32 r1, r1, r2;
mul.wide.u32 q5, r13, 4; add.u64 q5, q5, q1; st.global.u32 [q5], r1;
EARLY:
activemask.b32 r14; bar.warp.sync r14; fence.acq_rel.sys; elect.sync r15|p3, r14;
popc.b32 r16, r14; @!p3 bra END;
atom.acq_rel.gpu.global.add.u32 r17, [q2], r16; add.u32 r17, r17, r16;
mov.u32 r18, %ntid.x; setp.ne.u32 p1, r17, r18; @p1 bra END;
st.relaxed.gpu.global.u32 [q2], 0; fence.acq_rel.sys; st.release.sys.global.u32 [q2+8], 77;
END: ret; }`
	p, err := Load([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := p.Entry("k"); e.Err != nil || e.ParamBytes != 32764 {
		t.Fatalf("%+v", e)
	}
	const n, threads = 3, 50
	for seed := uint64(0); seed < 8; seed++ {
		var mem Memory
		inst, err := mem.Load(p)
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 32764)
		le := binary.LittleEndian
		outs, counters := make([][]byte, n), make([][]byte, n)
		for i := range n {
			outs[i], counters[i] = make([]byte, 4*threads), make([]byte, 16)
			b := block[i*64:]
			le.PutUint64(b[16:], mem.Place(outs[i], false))
			le.PutUint64(b[24:], mem.Place(counters[i], false))
			for k := range 4 {
				le.PutUint32(b[32+4*k:], uint32(i*10+k))
			}
		}
		le.PutUint32(block[32760:], 5000)
		if _, err := inst.Launch(context.Background(), Launch{Entry: "k", Grid: [3]uint32{1, 1, n}, Block: [3]uint32{threads}, Params: block, Mem: &mem, Seed: seed, MaxInstructions: 1 << 24}); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			v := func(k int) uint32 { return uint32(i*10 + k) }
			for th, g := range words(outs[i]) {
				want := v(1) + v(2) + v(3) + 1 + 5000 + v(0)
				if uint32(th) < v(0) {
					want = 0
				}
				if g != want {
					t.Errorf("seed %d instance %d thread %d: %d, want %d", seed, i, th, g, want)
				}
			}
			if c := words(counters[i]); c[0] != 0 || c[2] != 77 {
				t.Errorf("seed %d instance %d: counter %d, done %d", seed, i, c[0], c[2])
			}
		}
	}
}

// TestMulticast: one block's bulk copy arrives in the blocks of the mask, and at their barriers.
func TestMulticast(t *testing.T) {
	out, _, err := launch(t, `.visible .entry k(.param .u64 po) .reqnctapercluster 4, 1, 1 {
.reg .pred p<8>; .reg .b32 r<20>; .reg .b64 q<10>; .reg .b16 h;
.shared .align 16 .b32 s[4]; .shared .align 8 .b64 bar;
mov.u32 r0, %tid.x; mov.u32 r1, %cluster_ctarank; ld.param.u64 q1, [po]; setp.ne.u32 p1, r0, 0; mov.u32 r2, s; mov.u32 r3, bar;
setp.ge.u32 p2, r1, 3; // block 3 gets nothing
@p1 bra READY; mbarrier.init.shared.b64 [bar], 1; @!p2 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 16; st.shared.v4.u32 [s], {9, 9, 9, 9};
READY: setp.ne.u32 p3, r1, 1; or.pred p3, p3, p1; @!p3 st.global.v4.u32 [q1+64], {1, 2, 3, 4};
barrier.cluster.arrive; barrier.cluster.wait;
mov.b16 h, 7; @p3 bra WAIT;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [r2], [q1+64], 16, [r3], h;
WAIT: @p2 bra OUT; L: mbarrier.try_wait.parity.shared.b64 p4, [bar], 0; @!p4 bra L;
OUT: ld.shared.u32 r4, [s+8]; mul.wide.u32 q2, r1, 4; add.u64 q2, q2, q1; st.global.u32 [q2], r4; barrier.cluster.arrive; barrier.cluster.wait; ret; }`,
		Launch{Grid: [3]uint32{4}, Block: [3]uint32{32}, Cluster: [3]uint32{4}}, 128)
	if got := fmt.Sprint(words(out)[:4]); err != nil || got != "[3 3 3 9]" {
		t.Errorf("%s, %v", got, err)
	}
}

// isaExecuted is how many instructions of the parser's ISA corpus (jit/ptx/testdata/isa) run at least.
const isaExecuted = 1021

// TestISA: every module of the ISA corpus loads; what the interpreter lacks keeps a kernel from being launched, with the
// position of an instruction, and is logged. No instruction that ran is lost.
func TestISA(t *testing.T) {
	files, err := filepath.Glob("../ptx/testdata/isa/*.ptx")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	executed, all := 0, 0
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(src); err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		m, err := ptx.Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, fn := range m.Funcs {
			ptx.Walk(fn.Body, func(*ptx.Inst) bool { n++; return true })
		}
		for i := range n { // the module with only its i-th instruction
			one, k, text := m.Clone(), 0, ""
			for _, fn := range one.Funcs {
				fn.Body = ptx.Rewrite(fn.Body, func(s ptx.Stmt) []ptx.Stmt {
					if in, ok := s.(*ptx.Inst); ok {
						if k++; k-1 != i {
							return nil
						}
						text = in.String()
					}
					return []ptx.Stmt{s}
				})
			}
			p, err := LoadModule(one)
			if err != nil {
				t.Errorf("%s: %s: %v", f, text, err)
				continue
			}
			for _, e := range p.Entries() {
				if pe, ok := e.Err.(*ptx.Error); e.Err != nil && (!ok || pe.Line < 1) {
					t.Errorf("%s: %s: %v", f, text, e.Err)
				} else if e.Err != nil && err == nil {
					err = e.Err
				}
			}
			all++
			if err == nil {
				executed++
			} else {
				t.Logf("%s: %v", filepath.Base(f), err)
			}
		}
	}
	t.Logf("%d of %d instructions run", executed, all)
	if executed < isaExecuted {
		t.Errorf("%d of %d instructions run, there were %d", executed, all, isaExecuted)
	}
}
