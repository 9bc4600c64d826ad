package interp

import (
	"context"
	"encoding/binary"
	"testing"
)

// params lays kernel parameters out one after the other, naturally aligned.
func params(vs ...any) []byte {
	var b []byte
	for _, v := range vs {
		n := binary.Size(v)
		for len(b)%n != 0 {
			b = append(b, 0)
		}
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	return b
}

// reduceSrc sums each block's 256 elements through shared memory.
const reduceSrc = `
.version 8.0
.target sm_90
.address_size 64
.visible .entry reduce(.param .u64 out, .param .u64 in, .param .u32 n)
{
	.reg .pred %p<4>;
	.reg .b32 %r<12>;
	.reg .b64 %rd<8>;
	.shared .align 4 .b8 buf[1024];
	ld.param.u64 %rd1, [out];
	ld.param.u64 %rd2, [in];
	ld.param.u32 %r1, [n];
	mov.u32 %r2, %tid.x;
	mov.u32 %r3, %ctaid.x;
	mov.u32 %r4, %ntid.x;
	mad.lo.s32 %r5, %r3, %r4, %r2;
	mov.u32 %r6, 0;
	setp.ge.u32 %p1, %r5, %r1;
	@%p1 bra STORE;
	mul.wide.u32 %rd3, %r5, 4;
	add.s64 %rd4, %rd2, %rd3;
	ld.global.u32 %r6, [%rd4];
STORE:
	shl.b32 %r7, %r2, 2;
	mov.u32 %r8, buf;
	add.s32 %r7, %r7, %r8;
	st.shared.u32 [%r7], %r6;
	mov.u32 %r9, 128;
LOOP:
	bar.sync 0;
	setp.ge.u32 %p2, %r2, %r9;
	@%p2 bra SKIP;
	shl.b32 %r10, %r9, 2;
	add.s32 %r10, %r10, %r7;
	ld.shared.u32 %r11, [%r10];
	ld.shared.u32 %r6, [%r7];
	add.s32 %r6, %r6, %r11;
	st.shared.u32 [%r7], %r6;
SKIP:
	shr.u32 %r9, %r9, 1;
	setp.ne.u32 %p3, %r9, 0;
	@%p3 bra LOOP;
	setp.ne.u32 %p1, %r2, 0;
	@%p1 ret;
	mul.wide.u32 %rd5, %r3, 4;
	add.s64 %rd6, %rd1, %rd5;
	st.global.u32 [%rd6], %r6;
	ret;
}`

// A reduction with barriers, shared memory, divergence and an early return.
func TestReduce(t *testing.T) {
	p, err := Load([]byte(reduceSrc))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := p.Entry("reduce")
	if e.ParamBytes != 20 || e.StaticShared != 1024 || len(e.Params) != 3 || e.Params[2].Offset != 16 {
		t.Errorf("entry: %+v", e)
	}
	const n, blocks = 2500, 10
	in := make([]uint32, n)
	want := make([]uint32, blocks)
	for i := range in {
		in[i] = uint32(i) * 2654435761
		want[i/256] += in[i]
	}
	for seed := uint64(0); seed < 3; seed++ {
		var mem Memory
		inst, err := mem.Load(p)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := binary.Append(nil, binary.LittleEndian, in)
		out := make([]byte, 4*blocks)
		st, err := inst.Launch(context.Background(), Launch{Entry: "reduce", Grid: [3]uint32{blocks}, Block: [3]uint32{256},
			Params: params(mem.Place(out, false), mem.Place(b, true), uint32(n)), Mem: &mem, Seed: seed})
		if err != nil || st.Blocks != blocks {
			t.Fatal(st, err)
		}
		for i, w := range want {
			if g := binary.LittleEndian.Uint32(out[4*i:]); g != w {
				t.Errorf("seed %d block %d: %d, want %d", seed, i, g, w)
			}
		}
	}
}
