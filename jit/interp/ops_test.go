package interp

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
)

// eval runs body for one thread per row: registers a, b, c hold the row's
// values (types given), and d, of type out, is the result. Predicates p0…p7
// and scratch registers r0…r9, q0…q9 are there to use.
func eval(t testing.TB, body, out string, in []string, rows [][]uint64) []uint64 {
	t.Helper()
	size := map[string]int{"16": 2, "32": 4, "64": 8}
	reg := func(typ string) string { return ".b" + typ }
	var b strings.Builder
	fmt.Fprintf(&b, ".version 8.6\n.target sm_100\n.address_size 64\n.visible .entry k(.param .u64 po, .param .u64 pi, .param .u32 n) {\n")
	fmt.Fprintf(&b, ".reg .pred p<8>; .reg .b32 r<10>; .reg .b64 q<10>; .reg .b16 h<10>; .reg %s d;\n", reg(out))
	for i, typ := range in {
		fmt.Fprintf(&b, ".reg %s %c;\n", reg(typ), 'a'+i)
	}
	b.WriteString("mov.u32 r0, %ctaid.x; mov.u32 r1, %ntid.x; mov.u32 r2, %tid.x; mad.lo.u32 r0, r0, r1, r2;\nld.param.u32 r1, [n]; setp.ge.u32 p0, r0, r1; @p0 exit;\n")
	b.WriteString("ld.param.u64 q0, [pi]; ld.param.u64 q1, [po];\n")
	fmt.Fprintf(&b, "mul.wide.u32 q2, r0, %d; add.u64 q0, q0, q2; mul.wide.u32 q2, r0, 8; add.u64 q1, q1, q2;\n", 8*max(1, len(in)))
	for i, typ := range in {
		fmt.Fprintf(&b, "ld.global.b%s %c, [q0+%d];\n", typ, 'a'+i, 8*i)
	}
	fmt.Fprintf(&b, "%s\nst.global.b%s [q1], d;\nret;\n}\n", body, out)
	p, err := Load([]byte(b.String()))
	if err != nil {
		t.Fatalf("%s: %v\n%s", body, err, b.String())
	}
	var mem Memory
	inst, err := mem.Load(p)
	if err != nil {
		t.Fatal(err)
	}
	ib := make([]byte, 0, 8*len(rows)*len(in)+8)
	for _, r := range rows {
		for i := range in {
			ib = binary.LittleEndian.AppendUint64(ib, r[i])
		}
		if len(in) == 0 {
			ib = binary.LittleEndian.AppendUint64(ib, 0)
		}
	}
	ob := make([]byte, 8*len(rows))
	_, err = inst.Launch(context.Background(), Launch{Entry: "k", Grid: [3]uint32{uint32(len(rows)+63) / 64}, Block: [3]uint32{64},
		Params: params(mem.Place(ob, false), mem.Place(ib, true), uint32(len(rows))), Mem: &mem, MaxInstructions: 1 << 30})
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	res := make([]uint64, len(rows))
	for i := range res {
		res[i] = binary.LittleEndian.Uint64(ob[8*i:]) & (^uint64(0) >> (64 - 8*size[out]))
	}
	return res
}

func fb(f float32) uint64 { return uint64(math.Float32bits(f)) }
func db(f float64) uint64 { return math.Float64bits(f) }

const (
	inf32 = 0x7f800000
	qnan  = 0x7fc00000
	neg0  = 0x80000000
)

// TestInstructions checks single instructions against values worked out from
// the ISA's text; the corpus (TestKernels) checks the common ones at random.
func TestInstructions(t *testing.T) {
	u := func(vs ...uint64) []uint64 { return vs }
	pred := func(s string) string { return s + " selp.b32 d, 1, 0, p1;" }
	cases := []struct {
		body string
		out  string
		in   string // widths of a, b, c
		args []uint64
		want uint64
	}{
		{"szext.clamp.s32 d, a, b;", "32", "32 32", u(0xff, 8), 0xffffffff},
		{"szext.clamp.u32 d, a, b;", "32", "32 32", u(0xfff, 8), 0xff},
		{"szext.clamp.s32 d, a, b;", "32", "32 32", u(0xff, 40), 0xff},
		{"szext.wrap.s32 d, a, b;", "32", "32 32", u(0xff, 40), 0xffffffff},
		{"szext.wrap.u32 d, a, b;", "32", "32 32", u(0xff, 0), 0},
		{"bmsk.clamp.b32 d, a, b;", "32", "32 32", u(4, 8), 0xff0},
		{"bmsk.clamp.b32 d, a, b;", "32", "32 32", u(28, 40), 0xf0000000},
		{"bmsk.clamp.b32 d, a, b;", "32", "32 32", u(32, 4), 0},
		{"bmsk.wrap.b32 d, a, b;", "32", "32 32", u(33, 34), 6},
		{"fns.b32 d, a, 0, 3;", "32", "32", u(0x8421), 10},
		{"fns.b32 d, a, 31, -1;", "32", "32", u(0x8421), 15},
		{"fns.b32 d, a, 5, 0;", "32", "32", u(0x8421), 5},
		{"fns.b32 d, a, 0, 9;", "32", "32", u(0x8421), 0xffffffff},
		{"bfind.u32 d, a;", "32", "32", u(0x00f00000), 23},
		{"bfind.shiftamt.u32 d, a;", "32", "32", u(0x00f00000), 8},
		{"bfind.s64 d, a;", "32", "64", u(^uint64(0)), 0xffffffff},
		{"bfind.s64 d, a;", "32", "64", u(^uint64(0x1000)), 12},
		{"sad.u16 d, a, b, c;", "16", "16 16 16", u(3, 10, 100), 107},
		{"sad.s64 d, a, b, 1;", "64", "64 64", u(^uint64(4), 5), 11},
		{"mul24.hi.u32 d, a, b;", "32", "32 32", u(0xffffff, 0xffffff), 0xfffffe00},
		{"mad24.lo.s32 d, a, b, c;", "32", "32 32 32", u(0xffffff, 2, 5), 3},
		{"mad.hi.sat.s32 d, a, b, c;", "32", "32 32 32", u(0x40000000, 0x40000000, 0x7fffffff), 0x7fffffff},
		{"mad.wide.s16 d, a, b, c;", "32", "16 16 32", u(0xffff, 3, 10), 7},
		{"mul.hi.s16 d, a, b;", "16", "16 16", u(0x8000, 0x7fff), 0xc000},
		{"div.s32 d, a, b;", "32", "32 32", u(0x80000000, 0xffffffff), 0x80000000},
		{"div.s64 d, a, b;", "64", "64 64", u(^uint64(6), 2), ^uint64(2)},
		{"rem.s32 d, a, b;", "32", "32 32", u(0xfffffff9, 3), 0xffffffff},
		{"abs.s16 d, a;", "16", "16", u(0x8000), 0x8000},
		{"neg.s64 d, a;", "64", "64", u(5), ^uint64(4)},
		{"min.u16x2 d, a, b;", "32", "32 32", u(0x0005ffff, 0x00070001), 0x00050001},
		{"max.s16x2 d, a, b;", "32", "32 32", u(0x0005ffff, 0x00070001), 0x00070001},
		{"add.u16x2 d, a, b;", "32", "32 32", u(0x0001ffff, 0x00010001), 0x00020000},
		{"max.relu.s32 d, a, b;", "32", "32 32", u(0xfffffff0, 0xffffff00), 0},
		{"cnot.b32 d, a;", "32", "32", u(0), 1},
		{"cnot.b64 d, a;", "64", "64", u(9), 0},
		{"prmt.b32.f4e d, a, b, c;", "32", "32 32 32", u(0x33221100, 0x77665544, 1), 0x44332211},
		{"prmt.b32.b4e d, a, b, c;", "32", "32 32 32", u(0x33221100, 0x77665544, 1), 0x66770011},
		{"prmt.b32.rc8 d, a, b, c;", "32", "32 32 32", u(0x33221100, 0x77665544, 2), 0x22222222},
		{"prmt.b32.ecl d, a, b, c;", "32", "32 32 32", u(0x33221100, 0x77665544, 2), 0x33222222},
		{"prmt.b32.ecr d, a, b, c;", "32", "32 32 32", u(0x33221100, 0x77665544, 2), 0x22221100},
		{"prmt.b32.rc16 d, a, b, c;", "32", "32 32 32", u(0x33221100, 0x77665544, 1), 0x33223322},
		{"dp2a.lo.s32.u32 d, a, b, c;", "32", "32 32 32", u(0xffff0002, 0x0305, 1), 8},
		{"slct.b32.s32 d, 7, 9, a;", "32", "32", u(0x80000000), 9},
		{"slct.u64.f32 d, 7, 9, a;", "64", "32", u(neg0), 7},
		{"slct.u64.f32 d, 7, 9, a;", "64", "32", u(qnan), 9},
		{"set.lt.u32.s32 d, a, b;", "32", "32 32", u(0xffffffff, 1), 0xffffffff},
		{"set.gt.f32.f32 d, a, b;", "32", "32 32", u(fb(2), fb(1)), fb(1)},
		{"setp.eq.u32 p2, a, 1; set.eq.and.u32.u32 d, a, b, p2;", "32", "32 32", u(1, 1), 0xffffffff},
		{"setp.eq.u32 p2, a, 1; set.eq.xor.s32.u32 d, a, b, !p2;", "32", "32 32", u(1, 1), 0xffffffff},
		{pred("setp.ltu.f32 p1, a, b;"), "32", "32 32", u(qnan, fb(1)), 1},
		{pred("setp.lt.f32 p1, a, b;"), "32", "32 32", u(qnan, fb(1)), 0},
		{pred("setp.neu.f64 p1, a, b;"), "32", "64 64", u(db(1), db(math.NaN())), 1},
		{pred("setp.nan.f32 p1, a, b;"), "32", "32 32", u(qnan, fb(1)), 1},
		{pred("setp.num.f32 p1, a, b;"), "32", "32 32", u(fb(2), fb(1)), 1},
		{pred("setp.lt.ftz.f32 p1, a, b;"), "32", "32 32", u(1, 2), 0},
		{pred("setp.lo.u32 p1, a, b;"), "32", "32 32", u(1, 0xffffffff), 1},
		{pred("setp.hs.u64 p1, a, b;"), "32", "64 64", u(1, ^uint64(0)), 0},
		{pred("setp.lt.s16 p1, a, b;"), "32", "16 16", u(0xffff, 1), 1},
		{pred("setp.gt.f16 p1, a, b;"), "32", "16 16", u(0x4000, 0x3c00), 1},
		{pred("setp.eq.s32 p2, a, 0; setp.lt.or.s32 p3|p1, a, b, p2;"), "32", "32 32", u(1, 2), 0},
		{pred("setp.lt.f16x2 p2|p1, a, b;"), "32", "32 32", u(0x3c004000, 0x40003c00), 1},
		{pred("testp.subnormal.f32 p1, a;"), "32", "32", u(5), 1},
		{pred("testp.normal.f64 p1, a;"), "32", "64", u(db(1)), 1},
		{pred("testp.finite.f32 p1, a;"), "32", "32", u(inf32), 0},
		{pred("testp.notanumber.f32 p1, a;"), "32", "32", u(qnan), 1},
		{"copysign.f32 d, a, b;", "32", "32 32", u(fb(-1), fb(5)), fb(-5)},
		{"lop3.b32 d, a, b, c, 0x80;", "32", "32 32 32", u(0xff, 0x0f, 0x3c), 0x0c},
		{pred("setp.ne.u32 p2, a, a; lop3.or.b32 r3|p1, a, b, c, 0xfe, p2;"), "32", "32 32 32", u(0, 0, 4), 1},
		{pred("setp.eq.u32 p2, a, a; lop3.and.b32 r3|p1, a, b, c, 0xfe, p2;"), "32", "32 32 32", u(0, 0, 0), 0},
		{"setp.eq.u32 p2, a, 1; xor.pred p1, p2, !p2; selp.b32 d, 1, 0, p1;", "32", "32", u(1), 1},
		{"setp.eq.u32 p2, a, 1; not.pred p1, p2; selp.b32 d, 1, 0, p1;", "32", "32", u(1), 0},
		{"min.f32 d, a, b;", "32", "32 32", u(neg0, 0), neg0},
		{"max.f32 d, a, b;", "32", "32 32", u(neg0, 0), 0},
		{"min.f32 d, a, b;", "32", "32 32", u(qnan, fb(3)), fb(3)},
		{"min.NaN.f32 d, a, b;", "32", "32 32", u(0xffc00001, fb(3)), nan32},
		{"max.f32 d, a, b;", "32", "32 32", u(qnan, 0xffc00000), nan32},
		{"max.xorsign.abs.f32 d, a, b;", "32", "32 32", u(fb(-5), fb(3)), fb(-5)},
		{"min.xorsign.abs.f32 d, a, b;", "32", "32 32", u(fb(-5), fb(-3)), fb(3)},
		{"max.f32 d, a, b, c;", "32", "32 32 32", u(fb(1), fb(7), fb(3)), fb(7)},
		{"min.ftz.f32 d, a, b;", "32", "32 32", u(1, fb(3)), 0},
		{"max.f16 d, a, b;", "16", "16 16", u(0x3c00, 0x7e00), 0x3c00},
		{"min.bf16x2 d, a, b;", "32", "32 32", u(0x3f804000, 0xbf803f80), 0xbf803f80},
		{"abs.f16x2 d, a;", "32", "32", u(0xbc00bc00), 0x3c003c00},
		{"neg.bf16 d, a;", "16", "16", u(0x3f80), 0xbf80},
		{"add.f32 d, a, b;", "32", "32 32", u(inf32, 0xff800000), nan32},
		{"add.rm.f32 d, a, b;", "32", "32 32", u(fb(1), fb(-1)), neg0},
		{"add.rm.f64 d, a, b;", "64", "64 64", u(db(1), db(-1)), 1 << 63},
		{"fma.rm.f64 d, a, b, c;", "64", "64 64 64", u(db(1), db(-1), db(1)), 1 << 63},
		{"fma.rn.relu.f16 d, a, b, c;", "16", "16 16 16", u(0x3c00, 0xbc00, 0), 0},
		{"fma.rn.sat.f16 d, a, b, c;", "16", "16 16 16", u(0x4000, 0x4000, 0), 0x3c00},
		{"mul.rn.f32x2 d, a, b;", "64", "64 64", u(fb(3)<<32|fb(2), fb(5)<<32|fb(4)), fb(15)<<32 | fb(8)},
		{"sub.rn.f32.f16 d, a, b;", "32", "16 32", u(0x4000, fb(0.5)), fb(1.5)},
		{"fma.rn.f32.bf16 d, a, b, c;", "32", "16 16 32", u(0x4040, 0x4000, fb(1)), fb(7)},
		{"div.approx.f32 d, a, b;", "32", "32 32", u(fb(1), fb(0x1p127)), 0},
		{"div.full.f32 d, a, b;", "32", "32 32", u(fb(1), fb(4)), fb(0.25)},
		{"rcp.approx.ftz.f32 d, a;", "32", "32", u(1), inf32},
		{"rcp.rz.f32 d, a;", "32", "32", u(fb(3)), 0x3eaaaaaa},
		{"sqrt.approx.f32 d, a;", "32", "32", u(neg0), neg0},
		{"rsqrt.approx.f32 d, a;", "32", "32", u(fb(4)), fb(0.5)},
		{"rsqrt.approx.f64 d, a;", "64", "64", u(db(16)), db(0.25)},
		{"ex2.approx.f32 d, a;", "32", "32", u(fb(10)), fb(1024)},
		{"ex2.approx.ftz.f32 d, a;", "32", "32", u(fb(-140)), 0},
		{"lg2.approx.f32 d, a;", "32", "32", u(fb(0x1p-149)), fb(-149)},
		{"lg2.approx.f32 d, a;", "32", "32", u(fb(-1)), nan32},
		{"tanh.approx.f32 d, a;", "32", "32", u(inf32), fb(1)},
		{"sin.approx.f32 d, a;", "32", "32", u(inf32), nan32},
		{"cos.approx.f32 d, a;", "32", "32", u(0), fb(1)},
		{"cvt.rna.tf32.f32 d, a;", "32", "32", u(0x3f801000), 0x3f802000},
		{"cvt.rn.tf32.f32 d, a;", "32", "32", u(0x3f801000), 0x3f800000},
		{"cvt.rn.satfinite.e4m3x2.f32 d, a, b;", "16", "32 32", u(fb(1), fb(1e6)), 0x387e},
		{"cvt.rn.satfinite.e5m2x2.f32 d, a, b;", "16", "32 32", u(fb(-2), fb(1e9)), 0xc07b},
		{"cvt.rn.f16x2.e4m3x2 d, a;", "32", "16", u(0x387e), 0x3c005f00},
		{"cvt.rn.bf16x2.f32 d, a, b;", "32", "32 32", u(fb(1), fb(-2)), 0x3f80c000},
		{"cvt.rn.relu.f16x2.f32 d, a, b;", "32", "32 32", u(fb(1), fb(-2)), 0x3c000000},
		{"cvt.pack.sat.u8.s32.b32 d, a, b, c;", "32", "32 32 32", u(300, 0xffffffff, 0x1234), 0x1234ff00},
		{"cvt.sat.u8.s16 h1, a; cvt.u32.u16 d, h1;", "32", "16", u(0xff00), 0},
		{"cvt.s32.s8 d, a;", "32", "32", u(0x180), 0xffffff80},
		{"cvt.u64.s32 d, a;", "64", "32", u(0xffffffff), ^uint64(0)},
		{"cvt.sat.s16.u32 h1, a; mov.b32 d, {h1, h1};", "32", "32", u(0xffffffff), 0x7fff7fff},
		{"cvt.rni.f32.f32 d, a;", "32", "32", u(fb(2.5)), fb(2)},
		{"cvt.rpi.ftz.f32.f32 d, a;", "32", "32", u(5), 0},
		{"cvt.sat.f32.f32 d, a;", "32", "32", u(qnan), 0},
		{"cvt.rzi.u8.f32 h1, a; cvt.u32.u16 d, h1;", "32", "32", u(fb(300)), 255},
		{"cvt.f32.bf16 d, a;", "32", "16", u(0x4049), 0x40490000},
		{"mov.b64 {r3, r4}, a; add.u32 d, r3, r4;", "32", "64", u(7<<32 | 5), 12},
		{"mov.b64 q3, {h1, h2, h3, h4}; mov.b32 {h1, h2}, a; mov.b64 d, {h1, h2, h2, h1};", "64", "32", u(0x00020001), 0x0001000200020001},
		{"add.cc.u32 r3, a, b; addc.u32 d, 0, 0;", "32", "32 32", u(0xffffffff, 1), 1},
		{"sub.cc.u32 r3, a, b; subc.u32 d, 5, 0;", "32", "32 32", u(0, 1), 4},
		{"mad.lo.cc.u64 q3, a, b, b; madc.hi.u64 d, a, b, 0;", "64", "64 64", u(^uint64(0), 2), 2},
		{"shf.l.clamp.b32 d, a, b, 40;", "32", "32 32", u(1, 2), 1},
		{"bfe.s64 d, a, 60, 8;", "64", "64", u(0x8000000000000000), ^uint64(7)},
		{"bfi.b64 d, a, b, 60, 8;", "64", "64 64", u(0xff, 1), 0xf000000000000001},
		{"brev.b64 d, a;", "64", "64", u(1), 1 << 63},
		{"clz.b64 d, a;", "32", "64", u(1), 63},
		{"vabsdiff4.u32.u32.u32 d, a, b, c;", "32", "32 32 32", u(0x01ff0510, 0x0301ff20, 0), 0x02fefa10},
		{"vabsdiff4.u32.u32.u32.add d, a, b, c;", "32", "32 32 32", u(0x01ff0510, 0x0301ff20, 5), 2 + 0xfe + 0xfa + 0x10 + 5},
		{"vadd2.s32.s32.s32.sat d, a, b, c;", "32", "32 32 32", u(0x7fff8000, 0x0001ffff, 0), 0x7fff8000},
		{"vmax4.s32.s32.s32 d, a, b, c;", "32", "32 32 32", u(0x7f80ff01, 0x00000102, 0), 0x7f000102},
		{"mov.u32 d, WARP_SZ;", "32", "", u(), 32},
		{"mov.f32 d, 1.5;", "32", "", u(), fb(1.5)},
		{"mov.f64 d, 0f3FC00000;", "64", "", u(), db(1.5)},
		{"mov.u32 d, (3 + 4 * 5 << 1) % 100 ^ ~0 & 0xf;", "32", "", u(), 46 ^ 15},
		{"{ .reg .u32 a; mov.u32 a, 5; bra L; mov.u32 a, 6; L: mov.u32 d, a; }", "32", "", u(), 5},
		{".reg .v4 .f32 v; mov.f32 v.x, 1.0; mov.f32 v.w, v.x; mov.b32 d, v.w;", "32", "", u(), fb(1)},
		{"mov.u64 q3, 0x1234; cvta.shared.u64 q4, q3; isspacep.shared p1, q4; isspacep.global p2, q4; and.pred p1, p1, !p2; selp.b32 d, 1, 0, p1;", "32", "", u(), 1},
		{"isspacep.global p1, q1; selp.b32 d, 1, 0, p1;", "32", "", u(), 1},
		{".local .align 8 .b8 buf[16]; mov.u64 q3, buf; cvta.local.u64 q4, q3; isspacep.local p1, q4; st.u64 [q4+8], a; ld.local.u64 d, [buf+8]; @!p1 mov.u64 d, 0;", "64", "64", u(77), 77},
		{"stacksave.u64 q3; alloca.u64 q4, 64, 32; st.local.u64 [q4+56], a; ld.local.u64 d, [q4+56]; stackrestore.u64 q3;", "64", "64", u(99), 99},
		{"ld.param.u32 d, [n];", "32", "", u(), 3},
		{"mov.b64 q3, n; ld.param.u32 d, [q3];", "32", "", u(), 3},
		{"mov.b64 q3, n; cvta.param.u64 q4, q3; ld.u32 d, [q4];", "32", "", u(), 3},
		{"activemask.b32 d;", "32", "", u(), 7},
		{"mov.u32 d, %nctaid.x;", "32", "", u(), 1},
		{"mov.u32 d, %dynamic_smem_size;", "32", "", u(), 0},
		{"mov.u64 q3, %clock64; mov.u32 r3, %clock; mov.u64 q4, %globaltimer; setp.ge.u64 p1, q4, 0; selp.b32 d, 1, 0, p1;", "32", "", u(), 1},
		{"nanosleep.u32 100; prefetch.global.L2 [q1]; fence.sc.gpu; membar.sys; pmevent 3; mov.u32 d, 4;", "32", "", u(), 4},
		{"mov.u32 r3, 0; @p7 bra N; bra.uni M; N: mov.u32 r3, 9; M: mov.u32 d, r3;", "32", "", u(), 0},
	}
	for _, c := range cases {
		rows := [][]uint64{c.args, c.args, c.args}
		got := eval(t, c.body, c.out, strings.Fields(c.in), rows)
		for _, g := range got {
			if g != c.want {
				t.Errorf("%s with %#x gave %#x, want %#x", c.body, c.args, g, c.want)
				break
			}
		}
	}
}
