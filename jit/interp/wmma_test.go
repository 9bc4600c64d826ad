package interp

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
)

// TestWmma: load, multiply and store for every shape and type, in both layouts, against the product of small integers,
// which every type holds exactly.
func TestWmma(t *testing.T) {
	size := map[string]int{"f16": 2, "bf16": 2, "tf32": 4, "f32": 4, "s8": 1, "u8": 1, "s32": 4, "f64": 8}
	encode := func(typ string, v int) uint64 {
		switch typ {
		case "f16":
			return uint64(f64ToFmt(float64(v), fmtF16, rn))
		case "bf16":
			return uint64(f64ToFmt(float64(v), fmtBF16, rn))
		case "f32", "tf32":
			return uint64(math.Float32bits(float32(v)))
		case "f64":
			return math.Float64bits(float64(v))
		}
		return uint64(v)
	}
	get := func(b []byte, typ string, i int) (v uint64) {
		for k := range size[typ] {
			v |= uint64(b[i*size[typ]+k]) << (8 * k)
		}
		return v
	}
	put := func(b []byte, typ string, i, v int) {
		x := encode(typ, v)
		for k := range size[typ] {
			b[i*size[typ]+k] = byte(x >> (8 * k))
		}
	}
	regs := func(prefix string, n int) string {
		var l []string
		for i := range n {
			l = append(l, fmt.Sprintf("%s%d", prefix, i))
		}
		return "{" + strings.Join(l, ", ") + "}"
	}
	for _, c := range []struct {
		shape          string
		M, N, K        int
		a, b, c, d     string
		na, nb, nc, nd int // registers
	}{
		{"m16n16k16", 16, 16, 16, "f16", "f16", "f32", "f32", 8, 8, 8, 8},
		{"m8n32k16", 8, 32, 16, "f16", "f16", "f16", "f16", 8, 8, 4, 4},
		{"m32n8k16", 32, 8, 16, "f16", "f16", "f16", "f32", 8, 8, 4, 8},
		{"m16n16k16", 16, 16, 16, "f16", "f16", "f32", "f16", 8, 8, 8, 4},
		{"m16n16k16", 16, 16, 16, "bf16", "bf16", "f32", "f32", 4, 4, 8, 8},
		{"m8n32k16", 8, 32, 16, "bf16", "bf16", "f32", "f32", 2, 8, 8, 8},
		{"m16n16k8", 16, 16, 8, "tf32", "tf32", "f32", "f32", 4, 4, 8, 8},
		{"m8n8k4", 8, 8, 4, "f64", "f64", "f64", "f64", 1, 1, 2, 2},
		{"m16n16k16", 16, 16, 16, "s8", "s8", "s32", "s32", 2, 2, 8, 8},
		{"m32n8k16", 32, 8, 16, "u8", "u8", "s32", "s32", 4, 1, 8, 8},
		{"m8n32k16", 8, 32, 16, "s8", "s8", "s32", "s32", 1, 4, 8, 8},
	} {
		for layouts := range 8 {
			lay := func(i int) string { return []string{"row", "col"}[layouts>>i&1] }
			types := "." + c.d + "." + c.a + "." + c.b + "." + c.c
			if c.a == "f16" {
				types = "." + c.d + "." + c.c
			}
			if c.a == "f64" {
				types = ".rn" + types
			}
			if c.a == "s8" {
				types += ".satfinite"
			}
			width := 32
			if c.a == "f64" {
				width = 64
			}
			src := fmt.Sprintf(`.version 8.0
.target sm_90
.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd) {
.reg .b64 q<5>;
.reg .b%[10]d ma<9>; .reg .b%[10]d mb<9>; .reg .b%[10]d mc<9>; .reg .b%[10]d md<9>;
ld.param.u64 q0, [pa]; ld.param.u64 q1, [pb]; ld.param.u64 q2, [pc]; ld.param.u64 q3, [pd];
wmma.load.a.sync.aligned.%[1]s.%[4]s.global.%[5]s %[11]s, [q0], 40;
wmma.load.b.sync.aligned.%[2]s.%[4]s.%[6]s %[12]s, [q1];
wmma.load.c.sync.aligned.%[3]s.%[4]s.global.%[7]s %[13]s, [q2];
wmma.mma.sync.aligned.%[1]s.%[2]s.%[4]s%[8]s %[14]s, %[11]s, %[12]s, %[13]s;
wmma.store.d.sync.aligned.%[3]s.%[4]s.global.%[9]s [q3], %[14]s, 48;
ret; }`, lay(0), lay(1), lay(2), c.shape, c.a, c.b, c.c, types, c.d, width,
				regs("ma", c.na), regs("mb", c.nb), regs("mc", c.nc), regs("md", c.nd))
			p, err := Load([]byte(src))
			if err != nil {
				t.Fatal(err)
			}
			var mem Memory
			inst, err := mem.Load(p)
			if err != nil {
				t.Fatal(err)
			}
			a, b, cc, d := make([]byte, 16384), make([]byte, 16384), make([]byte, 16384), make([]byte, 16384)
			va, vb, vc := func(i, k int) int { return (i*7+k*3)%9 - 4 }, func(k, j int) int { return (k*5+j*11)%7 - 3 }, func(i, j int) int { return i - 2*j }
			if c.a == "u8" {
				va, vb = func(i, k int) int { return (i*7 + k*3) % 256 }, func(k, j int) int { return (k*5 + j*11) % 256 }
			}
			index := func(r, c, rows, cols, stride int, l string) int {
				if l == "row" {
					if stride == 0 {
						stride = cols
					}
					return r*stride + c
				}
				if stride == 0 {
					stride = rows
				}
				return c*stride + r
			}
			for i := range c.M {
				for k := range c.K {
					put(a, c.a, index(i, k, c.M, c.K, 40, lay(0)), va(i, k))
				}
				for j := range c.N {
					put(cc, c.c, index(i, j, c.M, c.N, 0, lay(2)), vc(i, j))
				}
			}
			for k := range c.K {
				for j := range c.N {
					put(b, c.b, index(k, j, c.K, c.N, 0, lay(1)), vb(k, j))
				}
			}
			if _, err := inst.Launch(context.Background(), Launch{Entry: "k", Block: [3]uint32{32}, Mem: &mem,
				Params: params(mem.Place(a, true), mem.Place(b, true), mem.Place(cc, true), mem.Place(d, false))}); err != nil {
				t.Fatalf("%s\n%v", src, err)
			}
			for i := range c.M {
				for j := range c.N {
					sum := vc(i, j)
					for k := range c.K {
						sum += va(i, k) * vb(k, j)
					}
					want := encode(c.d, sum)
					if c.d == "s32" {
						want = uint64(uint32(sum))
					}
					if got := get(d, c.d, index(i, j, c.M, c.N, 48, lay(2))); got != want {
						t.Fatalf("%s %s layouts %d: (%d,%d) is %#x, want %#x", c.shape, types, layouts, i, j, got, want)
					}
				}
			}
		}
	}
}
