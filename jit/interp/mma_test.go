package interp

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
)

// TestMma: mma.sync of every shape and type, with the places of elements as PTX ISA 9.7.14.5.1 to 9.7.14.5.9 give them,
// against the product of small integers.
func TestMma(t *testing.T) {
	type place func(i, g, t int) (r, c int) // of element i in the lane of group g and place t
	a8 := func(i, g, t int) (int, int) { return g, t*4 + i }
	hi := func(b bool, n int) int {
		if b {
			return n
		}
		return 0
	}
	a16k8 := func(i, g, t int) (int, int) { return g + hi(i >= 2, 8), t*2 + i&1 }
	a16k16 := func(i, g, t int) (int, int) { return g + hi(i&2 != 0, 8), t*2 + i&1 + hi(i >= 4, 8) }
	a32k4 := func(i, g, t int) (int, int) { return g + hi(i == 1, 8), t }
	a32k8 := func(i, g, t int) (int, int) { return g + hi(i&1 != 0, 8), t + hi(i >= 2, 4) }
	a64k16 := func(i, g, t int) (int, int) { return g + hi(i&1 != 0, 8), i/2*4 + t }
	a8k16 := func(i, g, t int) (int, int) { return g + hi(i >= 4, 8), t*4 + i&3 }
	a8k32 := func(i, g, t int) (int, int) { return g + hi(i&4 != 0, 8), t*4 + i&3 + hi(i >= 8, 16) }
	b16 := func(i, g, t int) (int, int) { return t*2 + i&1 + hi(i >= 2, 8), g }
	b32 := func(i, g, t int) (int, int) { return t + i*4, g }
	b8 := func(i, g, t int) (int, int) { return t*4 + i&3 + hi(i >= 4, 16), g }
	c16 := func(i, g, t int) (int, int) { return g + hi(i >= 2, 8), t*2 + i&1 }
	bitsOf := map[string]uint{"f16": 16, "bf16": 16, "tf32": 32, "f32": 32, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8, "s32": 32, "f64": 64}
	encode := func(typ string, v int) uint64 {
		switch typ {
		case "f16":
			return uint64(f64ToFmt(float64(v), fmtF16, rn))
		case "bf16":
			return uint64(f64ToFmt(float64(v), fmtBF16, rn))
		case "e4m3":
			return uint64(f64ToFmt(float64(v), fmtE4M3, rn))
		case "e5m2":
			return uint64(f64ToFmt(float64(v), fmtE5M2, rn))
		case "f32", "tf32":
			return uint64(math.Float32bits(float32(v)))
		case "f64":
			return math.Float64bits(float64(v))
		}
		return uint64(v) & (1<<bitsOf[typ] - 1)
	}
	for _, c := range []struct {
		shape   string
		M, N, K int
		types   string // multiplicands and accumulator
		a, b, c place
	}{
		{"m16n8k8", 16, 8, 8, "f16 f16 f32", a16k8, b16, c16}, {"m16n8k8", 16, 8, 8, "f16 f16 f16", a16k8, b16, c16}, {"m16n8k8", 16, 8, 8, "bf16 bf16 f32", a16k8, b16, c16},
		{"m16n8k16", 16, 8, 16, "f16 f16 f32", a16k16, b16, c16}, {"m16n8k16", 16, 8, 16, "f16 f16 f16", a16k16, b16, c16}, {"m16n8k16", 16, 8, 16, "bf16 bf16 f32", a16k16, b16, c16},
		{"m16n8k4", 16, 8, 4, "tf32 tf32 f32", a32k4, b32, c16}, {"m16n8k8", 16, 8, 8, "tf32 tf32 f32", a32k8, b32, c16},
		{"m8n8k4", 8, 8, 4, "f64 f64 f64", a32k4, b32, c16}, {"m16n8k4", 16, 8, 4, "f64 f64 f64", a32k4, b32, c16}, {"m16n8k8", 16, 8, 8, "f64 f64 f64", a32k8, b32, c16}, {"m16n8k16", 16, 8, 16, "f64 f64 f64", a64k16, b32, c16},
		{"m8n8k16", 8, 8, 16, "s8 u8 s32", a8, b8, c16}, {"m16n8k16", 16, 8, 16, "u8 s8 s32", a8k16, b8, c16}, {"m16n8k32", 16, 8, 32, "s8 s8 s32", a8k32, b8, c16},
		{"m16n8k32", 16, 8, 32, "e4m3 e5m2 f32", a8k32, b8, c16}, {"m16n8k32", 16, 8, 32, "e5m2 e4m3 f16", a8k32, b8, c16}, {"m16n8k16", 16, 8, 16, "e4m3 e4m3 f32", a8k16, b8, c16},
	} {
		ty := strings.Fields(c.types)
		va, vb, vc := func(i, k int) int { return (i*7+k*3)%9 - 4 }, func(k, j int) int { return (k*5+j*11)%7 - 3 }, func(i, j int) int { return i - 2*j }
		if ty[0] == "u8" {
			va = func(i, k int) int { return (i*37 + k*3) % 256 }
		}
		if ty[1] == "u8" {
			vb = func(k, j int) int { return (k*5 + j*31) % 256 }
		}
		// pack gives the registers of lane l: words[register][lane].
		pack := func(typ string, elems int, at place, v func(r, c int) int) [][32]uint64 {
			per := max(1, 32/int(bitsOf[typ]))
			out := make([][32]uint64, elems/per)
			for l := range 32 {
				for i := range elems {
					r, col := at(i, l/4, l%4)
					out[i/per][l] |= encode(typ, v(r, col)) << (uint(i%per) * bitsOf[typ])
				}
			}
			return out
		}
		frags := [3][][32]uint64{pack(ty[0], c.M*c.K/32, c.a, va), pack(ty[1], c.K*c.N/32, c.b, vb), pack(ty[2], c.M*c.N/32, c.c, vc)}
		want := pack(ty[2], c.M*c.N/32, c.c, func(i, j int) int {
			sum := vc(i, j)
			for k := range c.K {
				sum += va(i, k) * vb(k, j)
			}
			return sum
		})
		var src strings.Builder
		width := 32
		if ty[0] == "f64" {
			width = 64
		}
		fmt.Fprintf(&src, ".version 9.0\n.target sm_90\n.visible .entry k(.param .u64 pi, .param .u64 po) {\n.reg .b64 q<3>; .reg .b%[1]d x0_<9>; .reg .b%[1]d x1_<9>; .reg .b%[1]d x2_<9>; .reg .b%[1]d d<9>; .reg .b32 r;\n", width)
		src.WriteString("mov.u32 r, %laneid; ld.param.u64 q0, [pi]; ld.param.u64 q1, [po]; mul.wide.u32 q2, r, 8; add.u64 q0, q0, q2; add.u64 q1, q1, q2;\n")
		var buf []byte
		var lists [3]string
		for f := range frags {
			var names []string
			for i := range frags[f] {
				fmt.Fprintf(&src, "ld.global.b%d x%d_%d, [q0+%d];\n", width, f, i, len(buf))
				names = append(names, fmt.Sprintf("x%d_%d", f, i))
				for _, v := range frags[f][i] {
					buf = binary.LittleEndian.AppendUint64(buf, v)
				}
			}
			lists[f] = strings.Join(names, ", ")
		}
		var ds []string
		for i := range want {
			ds = append(ds, fmt.Sprintf("d%d", i))
		}
		fmt.Fprintf(&src, "mma.sync.aligned.%s.row.col.%s.%s.%s.%s {%s}, {%s}, {%s}, {%s};\n", c.shape, ty[2], ty[0], ty[1], ty[2], strings.Join(ds, ", "), lists[0], lists[1], lists[2])
		for i := range want {
			fmt.Fprintf(&src, "st.global.b%d [q1+%d], d%d;\n", width, 256*i, i)
		}
		src.WriteString("ret; }\n")
		p, err := Load([]byte(src.String()))
		if err != nil {
			t.Fatal(err)
		}
		var mem Memory
		inst, err := mem.Load(p)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 256*len(want))
		if _, err := inst.Launch(context.Background(), Launch{Entry: "k", Block: [3]uint32{32}, Mem: &mem, Params: params(mem.Place(buf, true), mem.Place(out, false))}); err != nil {
			t.Fatalf("%s %s: %v", c.shape, c.types, err)
		}
		for i := range want {
			for l, w := range want[i] {
				if got := binary.LittleEndian.Uint64(out[256*i+8*l:]); got != w {
					t.Errorf("%s %s: register %d of lane %d is %#x, want %#x", c.shape, c.types, i, l, got, w)
				}
			}
		}
	}
}
