package interp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
)

// launch loads a module of entry k and runs it with one buffer of n bytes as parameter.
func launch(t testing.TB, src string, l Launch, n int) ([]byte, Stats, error) {
	t.Helper()
	if !strings.HasPrefix(src, ".version") {
		src = ".version 8.6\n.target sm_90\n.address_size 64\n" + src
	}
	p, err := Load([]byte(src))
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	mem := new(Memory)
	inst, err := mem.Load(p)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, n)
	l.Entry, l.Params, l.Mem = "k", params(mem.Place(buf, false)), mem
	if l.MaxInstructions == 0 {
		l.MaxInstructions = 1 << 30
	}
	st, err := inst.Launch(context.Background(), l)
	return buf, st, err
}

func words(b []byte) []uint32 {
	out := make([]uint32, len(b)/4)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return out
}

// each is a kernel that stores r9 of every thread at its linear index.
func each(body string) string {
	return `.visible .entry k(.param .u64 po) {
.reg .pred p<8>; .reg .b32 r<20>; .reg .b64 q<10>;
mov.u32 r0, %tid.x; mov.u32 r1, %laneid; ld.param.u64 q1, [po]; cvta.to.global.u64 q1, q1;
mov.u32 r3, %ctaid.x; mov.u32 r4, %ntid.x; mad.lo.u32 r3, r3, r4, r0; mul.wide.u32 q2, r3, 4; add.u64 q1, q1, q2; mov.u32 r9, 0;
` + body + "\nDONE: st.global.u32 [q1], r9;\nret;\n}\n"
}

// TestWarpInstructions: one warp, every lane's result from its number.
func TestWarpInstructions(t *testing.T) {
	cases := []struct {
		name, body string
		want       func(lane uint32) uint32
	}{
		{"shfl predicate", "shfl.sync.down.b32 r9|p1, r1, 3, 31, -1; @!p1 mov.u32 r9, 100;", func(l uint32) uint32 {
			if l+3 > 31 {
				return 100
			}
			return l + 3
		}},
		{"shfl segments", "shfl.sync.bfly.b32 r9, r1, 4, 0x181f, 0xffffffff;", func(l uint32) uint32 { return l ^ 4 }},
		{"old shfl", "shfl.idx.b32 r9, r1, 5, 31;", func(l uint32) uint32 { return 5 }},
		{"vote.uni", "setp.lt.u32 p1, r1, 40; vote.sync.uni.pred p2, p1, -1; setp.lt.u32 p1, r1, 4; vote.sync.uni.pred p3, p1, -1; selp.u32 r9, 1, 0, p2; @p3 add.u32 r9, r9, 2;",
			func(uint32) uint32 { return 1 }},
		{"match.all", "match.all.sync.b32 r9|p1, 7, -1; match.all.sync.b32 r8|p2, r1, -1; @p1 sub.u32 r9, r9, 1; @p2 mov.u32 r9, 0; add.u32 r9, r9, r8;",
			func(uint32) uint32 { return 0xfffffffe }},
		{"match.any 64", "cvt.u64.u32 q3, r1; shl.b64 q3, q3, 40; shr.u64 q3, q3, 42; match.any.sync.b64 r9, q3, -1;", func(l uint32) uint32 { return 0xf << (l &^ 3) }},
		{"elect", "elect.sync r8|p1, -1; @p1 add.u32 r9, r9, 1; add.u32 r9, r9, r8;", func(l uint32) uint32 {
			if l == 0 {
				return 1
			}
			return 0
		}},
		{"elect in part", "setp.lt.u32 p2, r1, 10; @p2 bra DONE; elect.sync r8|p1, 0xfffffc00; mov.u32 r9, r8;", func(l uint32) uint32 {
			if l < 10 {
				return 0
			}
			return 10
		}},
		{"redux", "redux.sync.min.s32 r9, r1, -1; sub.u32 r8, r1, 5; redux.sync.min.s32 r9, r8, -1;", func(uint32) uint32 { return 0xfffffffb }},
		{"activemask", "and.b32 r2, r1, 1; setp.eq.u32 p1, r2, 0; @p1 bra DONE; activemask.b32 r9;", func(l uint32) uint32 {
			if l%2 == 0 {
				return 0
			}
			return 0xaaaaaaaa
		}},
		{"lane masks", "mov.u32 r5, %lanemask_lt; mov.u32 r6, %lanemask_gt; mov.u32 r7, %lanemask_eq; or.b32 r9, r5, r6; or.b32 r9, r9, r7; mov.u32 r5, %lanemask_le; popc.b32 r5, r5; add.u32 r9, r9, r5;",
			func(l uint32) uint32 { return l }},
		{"guarded shuffle", "setp.ge.u32 p1, r1, 16; @p1 shfl.sync.bfly.b32 r9, r1, 1, 31, 0xffff0000;", func(l uint32) uint32 {
			if l < 16 {
				return 0
			}
			return l ^ 1
		}},
		{"warp barrier at two places", ".shared .u32 s[32]; shl.b32 r2, r1, 2; mov.u32 r5, s; add.u32 r2, r2, r5; setp.lt.u32 p1, r1, 16; @p1 bra A; st.shared.u32 [r2], r1; bar.warp.sync -1; bra DONE; A: bar.warp.sync -1; ld.shared.u32 r9, [r2+64];",
			func(l uint32) uint32 {
				if l < 16 {
					return l + 16
				}
				return 0
			}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out, _, err := launch(t, each(c.body), Launch{Block: [3]uint32{32}}, 128)
			if err != nil {
				t.Fatal(err)
			}
			for l, g := range words(out) {
				if w := c.want(uint32(l)); g != w {
					t.Errorf("lane %d: %#x, want %#x", l, g, w)
				}
			}
		})
	}
}

// TestBlockBarriers: reductions, and a producer that arrives while consumers wait.
func TestBlockBarriers(t *testing.T) {
	out, _, err := launch(t, each(`
setp.lt.u32 p1, r0, 10; bar.red.popc.u32 r9, 0, p1;
bar.red.or.pred p2, 0, p1; @p2 add.u32 r9, r9, 100;
barrier.cta.red.and.pred p3, 1, 64, p1; @p3 add.u32 r9, r9, 1000;
barrier.sync.aligned 15;`), Launch{Block: [3]uint32{64}}, 256)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range words(out) {
		if g != 110 {
			t.Errorf("thread %d: %d, want 110", i, g)
		}
	}
	for seed := uint64(0); seed < 8; seed++ {
		out, _, err = launch(t, each(`
.shared .u32 box;
setp.ge.u32 p1, r0, 32; @p1 bra CONSUME;
setp.eq.u32 p2, r0, 0; @p2 st.shared.u32 [box], 42;
bar.arrive 3, 96; bra DONE;
CONSUME: bar.sync 3, 96; ld.shared.u32 r9, [box];`), Launch{Block: [3]uint32{96}, Seed: seed}, 384)
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range words(out) {
			if want := uint32(42); i >= 32 && g != want {
				t.Errorf("seed %d thread %d: %d, want %d", seed, i, g, want)
			}
		}
	}
}

// TestClusters: blocks of a cluster read each other's shared memory.
func TestClusters(t *testing.T) {
	out, _, err := launch(t, each(`
.shared .u32 s;
mov.u32 r5, %cluster_ctarank; mov.u32 r10, %clusterid.x; mad.lo.u32 r6, r10, 100, r5;
st.shared.u32 [s], r6;
barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
mov.u32 r7, %cluster_nctarank; add.u32 r8, r5, 1; rem.u32 r8, r8, r7;
mov.u32 r11, s; mapa.shared::cluster.u32 r12, r11, r8; ld.shared::cluster.u32 r9, [r12];
getctarank.shared::cluster.u32 r13, r12; mad.lo.u32 r9, r13, 10000, r9;
mov.u64 q3, s; cvta.shared.u64 q3, q3; mapa.u64 q4, q3, r8; ld.u32 r14, [q4]; mad.lo.u32 r9, r14, 1000000, r9;
barrier.cluster.arrive; barrier.cluster.wait;`), Launch{Grid: [3]uint32{8}, Block: [3]uint32{32}, Cluster: [3]uint32{4}}, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range words(out) {
		block := uint32(i / 32)
		next := (block%4 + 1) % 4
		v := block/4*100 + next
		if want := v + next*10000 + v*1000000; g != want {
			t.Errorf("block %d: %d, want %d", block, g, want)
		}
	}
}

// TestAlias: a call through .alias, and the predicate of explicit clusters.
func TestAlias(t *testing.T) {
	src := `.func (.reg .u32 o) real(.reg .u32 i) { add.u32 o, i, 1; ret; }
.func (.reg .u32 o) other(.reg .u32 i);
.alias other, real;
` + each(`call (r9), other, (r1); mov.pred p1, %is_explicit_cluster; @p1 add.u32 r9, r9, 100; mov.pred p2, !%is_explicit_cluster; @p2 add.u32 r9, r9, 1000;`)
	for _, c := range []struct{ cluster, add uint32 }{{0, 1001}, {1, 101}} {
		out, _, err := launch(t, src, Launch{Block: [3]uint32{32}, Cluster: [3]uint32{c.cluster}}, 128)
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range words(out) {
			if g != uint32(i)+c.add {
				t.Errorf("lane %d: %d", i, g)
			}
		}
	}
}

// TestParallelLaunches: one instance, several launches at once, sharing memory
// only through atomics.
func TestParallelLaunches(t *testing.T) {
	p, err := Load([]byte(".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 po) { .reg .b64 q; .reg .b32 r; ld.param.u64 q, [po]; mov.u32 r, %tid.x; atom.global.add.u32 r, [q], r; ret; }"))
	if err != nil {
		t.Fatal(err)
	}
	var mem Memory
	inst, _ := mem.Load(p)
	buf := make([]byte, 4)
	a := mem.Place(buf, false)
	var wg sync.WaitGroup
	for i := 0; i < 4; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := 0; k < 50; k++ {
				if _, err := inst.Launch(context.Background(), Launch{Entry: "k", Grid: [3]uint32{2}, Block: [3]uint32{64}, Params: params(a), Mem: &mem}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	if got := words(buf)[0]; got != 4*50*2*(63*64/2) {
		t.Errorf("%d", got)
	}
}

// TestAsyncCopy: cp.async with zero fill.
func TestAsyncCopy(t *testing.T) {
	out, _, err := launch(t, each(`
.shared .align 16 .b8 s[512];
mov.u32 r5, s; shl.b32 r6, r0, 4; add.u32 r5, r5, r6; st.global.u32 [q1], r0; bar.sync 0;
setp.ge.u32 p1, r0, 8; @p1 bra DONE;
ld.param.u64 q3, [po]; cvt.u64.u32 q4, r6; add.u64 q3, q3, q4;
cp.async.cg.shared.global.L2::128B [r5], [q3], 16, 12; cp.async.commit_group; cp.async.wait_group 0;
ld.shared.v4.u32 {r10, r11, r12, r13}, [r5]; add.u32 r9, r10, r11; add.u32 r9, r9, r12; mad.lo.u32 r9, r13, 1000, r9; bar.warp.sync 0xff;`),
		Launch{Block: [3]uint32{32}}, 128)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range words(out)[:8] {
		if want := uint32(12*i + 3); g != want {
			t.Errorf("thread %d: %d, want %d", i, g, want)
		}
	}
}

// TestMbarrier: arrivals, transactions, phases, and a bulk copy.
func TestMbarrier(t *testing.T) {
	for seed := uint64(0); seed < 4; seed++ {
		out, _, err := launch(t, each(`
.shared .align 8 .b64 bar; .shared .align 16 .b8 s[64];
.reg .b64 st; .reg .b64 g;
ld.param.u64 g, [po];
setp.ne.u32 p1, r0, 0; @p1 bra READY;
mbarrier.init.shared.b64 [bar], 64; st.global.v4.u32 [g], {11, 22, 33, 44};
READY: bar.sync 0;
@p1 bra PLAIN;
mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 st, [bar], 16;
mov.u32 r5, s; mov.u32 r6, bar;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r5], [g], 16, [r6];
bra WAIT;
PLAIN: mbarrier.arrive.shared.b64 st, [bar];
WAIT: mbarrier.try_wait.shared.b64 p2, [bar], st; @!p2 bra WAIT;
and.b32 r7, r0, 3; shl.b32 r7, r7, 2; mov.u32 r5, s; add.u32 r7, r7, r5; ld.shared.u32 r9, [r7];
mbarrier.arrive.shared.b64 _, [bar];
AGAIN: mbarrier.test_wait.parity.shared.b64 p3, [bar], 1; @!p3 bra AGAIN;
@p1 bra DONE; mbarrier.inval.shared.b64 [bar];`), Launch{Block: [3]uint32{64}, Seed: seed}, 256)
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range words(out) {
			if want := uint32(i%4+1) * 11; g != want {
				t.Errorf("seed %d thread %d: %d, want %d", seed, i, g, want)
			}
		}
	}
}

// A racy kernel: threads of two warps add to one word without atomics.
var racy = `.visible .entry k(.param .u64 po) {
.reg .b32 r<9>; .reg .b64 q<3>; .reg .pred p;
ld.param.u64 q1, [po]; mov.u32 r2, 0;
L: ld.global.u32 r1, [q1]; add.u32 r1, r1, 1; st.global.u32 [q1], r1;
add.u32 r2, r2, 1; setp.lt.u32 p, r2, 300; @p bra L; ret; }`

// TestSeeds: equal seeds give equal runs, and some seeds give others, so that
// races show.
func TestSeeds(t *testing.T) {
	seen := map[uint32]bool{}
	for seed := uint64(0); seed < 10; seed++ {
		var first uint32
		for rep := 0; rep < 2; rep++ {
			out, st, err := launch(t, racy, Launch{Grid: [3]uint32{2}, Block: [3]uint32{64}, Seed: seed}, 4)
			if err != nil || st.Blocks != 2 {
				t.Fatal(st, err)
			}
			v := words(out)[0]
			if rep == 0 {
				first = v
			} else if v != first {
				t.Errorf("seed %d: %d, then %d", seed, first, v)
			}
		}
		seen[first] = true
	}
	if len(seen) < 2 {
		t.Errorf("ten seeds gave one result: the race does not show")
	}
}

// TestGridWait: every block waits for all others, far more than the interpreter
// begins with.
func TestGridWait(t *testing.T) {
	out, _, err := launch(t, `.visible .entry k(.param .u64 po) {
.reg .b32 r<9>; .reg .b64 q<3>; .reg .pred p;
ld.param.u64 q1, [po]; mov.u32 r3, %nctaid.x;
atom.global.add.u32 r1, [q1], 1;
L: ld.acquire.gpu.global.u32 r2, [q1]; setp.lt.u32 p, r2, r3; @p bra L; ret; }`, Launch{Grid: [3]uint32{200}, Block: [3]uint32{1}}, 4)
	if err != nil || words(out)[0] != 200 {
		t.Fatal(words(out), err)
	}
}

// TestPrintf formats as C does.
func TestPrintf(t *testing.T) {
	var b bytes.Buffer
	_, _, err := launch(t, `.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.global .align 1 .b8 fmt[60] = {37,100,32,37,53,46,50,102,32,37,115,124,37,45,52,99,124,37,35,120,32,37,108,108,117,32,37,37,32,37,103,32,37,43,42,100,10,0};
.global .align 1 .b8 str[4] = {97,98,99,0};
.visible .entry k(.param .u64 po) {
.reg .b64 q<6>; .reg .b32 r<3>; .local .align 8 .b8 a[80]; .param .b64 x; .param .b64 y; .param .b32 z;
mov.u64 q1, a; cvta.local.u64 q1, q1; mov.u64 q2, str; cvta.global.u64 q2, q2;
st.u32 [q1], -7; st.f64 [q1+8], 3.14159; st.u64 [q1+16], q2; st.u32 [q1+24], 90; st.u32 [q1+28], 255; st.u64 [q1+32], -1; st.f64 [q1+40], 0.0001; st.u32 [q1+48], 6; st.u32 [q1+52], 42;
mov.u64 q3, fmt; cvta.global.u64 q3, q3; st.param.b64 [x], q3; st.param.b64 [y], q1;
call.uni (z), vprintf, (x, y); ld.param.u32 r1, [z]; ld.param.u64 q4, [po]; st.global.u32 [q4], r1; ret; }`, Launch{Printf: &b}, 4)
	if err != nil {
		t.Fatal(err)
	}
	if want := "-7  3.14 abc|Z   |0xff 18446744073709551615 % 0.0001    +42\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// TestAssert: the fault carries the message.
func TestAssert(t *testing.T) {
	var b bytes.Buffer
	_, _, err := launch(t, `.extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 c);
.global .b8 m[6] = {120,32,62,32,48,0}; .global .b8 f[4] = {97,46,99,0};
.visible .entry k(.param .u64 po) { .reg .b64 q<4>; .reg .pred p; .reg .b32 r; .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
mov.u32 r, %tid.x; setp.ne.u32 p, r, 35; @p bra OUT;
mov.u64 q0, m; cvta.global.u64 q0, q0; mov.u64 q1, f; cvta.global.u64 q1, q1;
st.param.b64 [a], q0; st.param.b64 [b], q1; st.param.b32 [c], 12; st.param.b64 [d], q1; st.param.b64 [e], 1;
call.uni __assertfail, (a, b, c, d, e);
OUT: ret; }`, Launch{Block: [3]uint32{64}, Printf: &b}, 4)
	var f *Fault
	if !errors.As(err, &f) || f.Kind != Assert || f.Thread[0] != 35 || !strings.Contains(b.String(), "a.c:12") || !strings.Contains(f.Msg, "Assertion `x > 0` failed") {
		t.Fatalf("%v, printed %q", err, b.String())
	}
}

// TestLaunchRefused: a launch that cannot be is refused before anything runs.
func TestLaunchRefused(t *testing.T) {
	src := ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 a) .maxntid 64, 1, 1 { ret; }\n.visible .entry bad() {\n .reg .b32 r;\n  tcgen05.frobnicate.sync r;\n ret; }\n"
	p, err := Load([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var mem Memory
	inst, _ := mem.Load(p)
	ok := Launch{Entry: "k", Params: make([]byte, 8), Mem: &mem}
	for name, change := range map[string]func(*Launch){
		"entry": func(l *Launch) { l.Entry = "none" }, "block": func(l *Launch) { l.Block[0] = 65 }, "shared": func(l *Launch) { l.DynShared = 1 << 20 },
		"params": func(l *Launch) { l.Params = nil }, "cluster": func(l *Launch) { l.Grid[0], l.Cluster[0] = 3, 2 }, "memory": func(l *Launch) { l.Mem = nil },
		"grid": func(l *Launch) { l.Grid[1] = 65536 }, "code": func(l *Launch) { l.Entry = "bad" },
	} {
		l := ok
		change(&l)
		_, err := inst.Launch(context.Background(), l)
		var e *LaunchError
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "code" && (err == nil || !strings.Contains(err.Error(), "7:3: instruction tcgen05")) {
			t.Errorf("unsupported instruction: %v", err)
		}
	}
	if _, err := inst.Launch(context.Background(), ok); err != nil {
		t.Error(err)
	}
}

// TestLoadErrors: errors of a module have the position of what is wrong.
func TestLoadErrors(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{each("add.u32 r5, r6, q1;"), "q1 is 64 bits wide"},
		{each("add.u32 r5, r6;"), "add has 2 operands, expected 3"},
		{each("bra NOWHERE;"), "label NOWHERE is not defined"},
		{each("mov.u32 r5, %nonsense;"), "%nonsense is not declared"},
		{each("setp.eq.u32 r5, r6, r7;"), "expected a predicate register"},
		{each("A: A: ret;"), "label A is defined twice"},
		{each("ld.global.v2.u32 {r5}, [q1];"), "1 destinations, expected 2"},
		{".global .u32 x[1] = {1, 2};\n", "more values than"},
		{".global .u32 x; .global .u32 x;\n", "defined twice"},
		{".global .u64 x = y;\n", "y is not a variable or function"},
	} {
		_, err := Load([]byte(".version 8.6\n.target sm_90\n.address_size 64\n" + c.src))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "ptx:") {
			t.Errorf("%q: got %v, want %q", c.src[max(0, len(c.src)-80):], err, c.want)
		}
	}
}
