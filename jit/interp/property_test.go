package interp

import (
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var bigModes = map[string]big.RoundingMode{".rn": big.ToNearestEven, ".rz": big.ToZero, ".rm": big.ToNegativeInf, ".rp": big.ToPositiveInf}

// roundTo rounds x to a binary format by math/big's own rounding: mbits
// explicit mantissa bits, least normal exponent emin (of 1.m), greatest emax.
// The result comes back as a float64.
func roundTo(x *big.Float, mbits, emin, emax int, mode big.RoundingMode) float64 {
	if x.Sign() == 0 {
		return 0
	}
	e := x.MantExp(nil) - 1
	prec := mbits + 1
	if e < emin {
		prec -= emin - e
	}
	var r *big.Float
	if prec >= 1 {
		r = new(big.Float).SetMode(mode).SetPrec(uint(prec)).Set(x)
	} else {
		// Below the least subnormal: one of zero and that.
		least := new(big.Float).SetMantExp(big.NewFloat(1), emin-mbits)
		half := new(big.Float).SetMantExp(big.NewFloat(1), emin-mbits-1)
		neg := x.Sign() < 0
		abs := new(big.Float).Abs(x)
		up := mode == big.ToNearestEven && abs.Cmp(half) > 0 || mode == big.ToPositiveInf && !neg || mode == big.ToNegativeInf && neg
		r = new(big.Float)
		if up {
			r = least
		}
		if neg {
			r.Neg(r)
		}
	}
	limit := new(big.Float).SetMantExp(big.NewFloat(2-math.Ldexp(1, -mbits)), emax)
	if new(big.Float).Abs(r).Cmp(limit) > 0 {
		neg := x.Sign() < 0
		if mode == big.ToZero || mode == big.ToNegativeInf && !neg || mode == big.ToPositiveInf && neg {
			r = limit
			if neg {
				r = new(big.Float).Neg(limit)
			}
		} else {
			return math.Inf(x.Sign())
		}
	}
	f, _ := r.Float64()
	if f == 0 && x.Sign() < 0 {
		f = math.Copysign(0, -1)
	}
	return f
}

func exact(f float64) *big.Float { return new(big.Float).SetPrec(2000).SetFloat64(f) }

// TestRoundingProperty: add, mul, fma and div in every mode and format against
// exact arithmetic rounded by math/big.
func TestRoundingProperty(t *testing.T) {
	formats := []struct {
		name              string
		width             string
		ebits, mbits      int
		fma, div, allMode bool
	}{{"f32", "32", 8, 23, true, true, true}, {"f16", "16", 5, 10, true, false, false}, {"bf16", "16", 8, 7, true, false, false}}
	rapid.Check(t, func(rt *rapid.T) {
		f := formats[rapid.IntRange(0, 2).Draw(rt, "format")]
		modes := []string{".rn", ".rz", ".rm", ".rp"}
		if !f.allMode {
			modes = modes[:1]
		}
		mode := rapid.SampledFrom(modes).Draw(rt, "mode")
		ops := []string{"add", "mul", "fma"}
		if f.div {
			ops = append(ops, "div")
		}
		op := rapid.SampledFrom(ops).Draw(rt, "op")
		// Finite operands with exponents near one another, so that rounding matters.
		base := rapid.IntRange(0, 1<<f.ebits-2).Draw(rt, "exponent")
		var rows [][]uint64
		for i := 0; i < 40; i++ {
			row := make([]uint64, 3)
			for j := range row {
				e := min(max(base+rapid.IntRange(-f.mbits-2, f.mbits+2).Draw(rt, "e"), 0), 1<<f.ebits-2)
				m := rapid.Uint64Range(0, 1<<f.mbits-1).Draw(rt, "m")
				row[j] = rapid.Uint64Range(0, 1).Draw(rt, "s")<<(f.ebits+f.mbits) | uint64(e)<<f.mbits | m
			}
			rows = append(rows, row)
		}
		args := "a, b"
		if op == "fma" {
			args = "a, b, c"
		}
		got := eval(t, fmt.Sprintf("%s%s.%s d, %s;", op, mode, f.name, args), f.width, []string{f.width, f.width, f.width}, rows)
		fm := format{uint(f.ebits), uint(f.mbits), false}
		bias := 1<<(f.ebits-1) - 1
		for i, row := range rows {
			a, b, c := fmtToF64(uint32(row[0]), fm), fmtToF64(uint32(row[1]), fm), fmtToF64(uint32(row[2]), fm)
			x := new(big.Float).SetPrec(2000)
			switch op {
			case "add":
				x.Add(exact(a), exact(b))
			case "mul":
				x.Mul(exact(a), exact(b))
			case "fma":
				x.Mul(exact(a), exact(b))
				x.Add(x, exact(c))
			case "div":
				if b == 0 {
					continue
				}
				x.Quo(exact(a), exact(b))
			}
			if x.Sign() == 0 {
				continue // signs of zero: TestInstructions
			}
			want := roundTo(x, f.mbits, 1-bias, bias, bigModes[mode])
			if g := fmtToF64(uint32(got[i]), fm); math.Float64bits(g) != math.Float64bits(want) {
				rt.Fatalf("%s%s.%s(%v, %v, %v) = %v, want %v", op, mode, f.name, a, b, c, g, want)
			}
		}
	})
}

// TestApproximations: approximate instructions stay within the errors that the
// ISA states.
func TestApproximations(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := rapid.Float32Range(-6.28, 6.28).Draw(rt, "x")
		y := float32(math.Ldexp(float64(rapid.Float32Range(1, 2).Draw(rt, "m")), rapid.IntRange(-120, 120).Draw(rt, "e")))
		for _, c := range []struct {
			op   string
			arg  float32
			want float64
			abs  float64 // allowed error, absolute
			rel  float64 // and relative
		}{
			{"sin.approx.f32", x, math.Sin(float64(x)), 0x1p-20, 0},
			{"cos.approx.f32", x, math.Cos(float64(x)), 0x1p-20, 0},
			{"ex2.approx.f32", x, math.Exp2(float64(x)), 0, 0x1p-22},
			{"tanh.approx.f32", x, math.Tanh(float64(x)), 0, 0x1p-11},
			{"lg2.approx.f32", y, math.Log2(float64(y)), 0x1p-22, 0x1p-22},
			{"rsqrt.approx.f32", y, 1 / math.Sqrt(float64(y)), 0, 0x1p-22},
			{"sqrt.approx.f32", y, math.Sqrt(float64(y)), 0, 0x1p-22},
			{"rcp.approx.f32", y, 1 / float64(y), 0, 0x1p-23},
		} {
			g := eval(t, c.op+" d, a;", "32", []string{"32"}, [][]uint64{{fb(c.arg)}})
			if d := math.Abs(float64(f32(g[0])) - c.want); d > c.abs+c.rel*math.Abs(c.want) {
				rt.Fatalf("%s(%v) is off by %g", c.op, c.arg, d)
			}
		}
	})
}

// --- random structured programs: each thread must compute what it would alone

type progGen struct {
	rt     *rapid.T
	b      strings.Builder
	labels int
	budget int
}

// node is one statement; run executes it for one thread's variables.
type node func(v *[4]uint32) flow

type flow uint8

const (
	goOn flow = iota
	breakOut
	leave
)

func (g *progGen) label() string { g.labels++; return fmt.Sprintf("L%d", g.labels) }

func (g *progGen) list(depth int, brk string) node {
	var list []node
	for n := rapid.IntRange(1, 4).Draw(g.rt, "n"); n > 0 && g.budget > 0; n-- {
		list = append(list, g.stmt(depth, brk))
	}
	return func(v *[4]uint32) flow {
		for _, s := range list {
			if f := s(v); f != goOn {
				return f
			}
		}
		return goOn
	}
}

func (g *progGen) stmt(depth int, brk string) node {
	g.budget--
	i, j := rapid.IntRange(0, 3).Draw(g.rt, "i"), rapid.IntRange(0, 3).Draw(g.rt, "j")
	k := uint32(rapid.IntRange(0, 9).Draw(g.rt, "k"))
	kinds := 3
	if depth > 0 {
		kinds = 7
	}
	switch rapid.IntRange(0, kinds).Draw(g.rt, "kind") {
	case 3: // leave or break, for some threads
		f, target := leave, "END"
		if brk != "" {
			f, target = breakOut, brk
		}
		fmt.Fprintf(&g.b, "and.b32 r8, r1%d, 15; setp.eq.u32 p1, r8, %d; @p1 bra %s;\n", i, k, target)
		return func(v *[4]uint32) flow {
			if v[i]&15 == k {
				return f
			}
			return goOn
		}
	case 4, 5: // if, else
		no, end := g.label(), g.label()
		fmt.Fprintf(&g.b, "setp.lt.u32 p2, r1%d, r1%d; @!p2 bra %s;\n", i, j, no)
		a := g.list(depth-1, brk)
		fmt.Fprintf(&g.b, "bra %s; %s:\n", end, no)
		b := g.list(depth-1, brk)
		fmt.Fprintf(&g.b, "%s:\n", end)
		return func(v *[4]uint32) flow {
			if v[i] < v[j] {
				return a(v)
			}
			return b(v)
		}
	case 6: // loop a number of times that differs between threads
		top, end := g.label(), g.label()
		c := fmt.Sprintf("c%d", depth)
		fmt.Fprintf(&g.b, "and.b32 %s, r1%d, 7; %s: setp.eq.u32 p3, %s, 0; @p3 bra %s; sub.u32 %s, %s, 1;\n", c, i, top, c, end, c, c)
		a := g.list(depth-1, end)
		fmt.Fprintf(&g.b, "bra %s; %s:\n", top, end)
		return func(v *[4]uint32) flow {
			for n := v[i] & 7; n > 0; n-- {
				switch a(v) {
				case breakOut:
					return goOn
				case leave:
					return leave
				}
			}
			return goOn
		}
	case 7: // warp-wide operation whose result is the thread's own
		fmt.Fprintf(&g.b, "activemask.b32 r8; shfl.sync.idx.b32 r9, r1%d, r7, 31, r8; xor.b32 r1%d, r9, %d;\n", i, j, k)
		return func(v *[4]uint32) flow { v[j] = v[i] ^ k; return goOn }
	case 0:
		fmt.Fprintf(&g.b, "mad.lo.u32 r1%d, r1%d, %d, r1%d;\n", i, j, k, i)
		return func(v *[4]uint32) flow { v[i] = v[j]*k + v[i]; return goOn }
	case 1:
		fmt.Fprintf(&g.b, "shr.u32 r8, r1%d, %d; xor.b32 r1%d, r1%d, r8;\n", j, k, i, i)
		return func(v *[4]uint32) flow { v[i] ^= v[j] >> k; return goOn }
	default: // guarded
		fmt.Fprintf(&g.b, "setp.gt.u32 p4, r1%d, r1%d; @p4 add.u32 r1%d, r1%d, %d;\n", i, j, i, i, k)
		return func(v *[4]uint32) flow {
			if v[i] > v[j] {
				v[i] += k
			}
			return goOn
		}
	}
}

func TestDivergenceProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := &progGen{rt: rt, budget: 40}
		body := g.list(4, "")
		src := `.visible .entry k(.param .u64 po) {
.reg .pred p<8>; .reg .b32 r<20>, c<8>; .reg .b64 q<4>;
ld.param.u64 q1, [po]; mov.u32 r7, %laneid; mov.u32 r0, %tid.x; mul.wide.u32 q2, r0, 4; add.u64 q1, q1, q2;
mul.lo.u32 r10, r0, 2654435761; shr.u32 r11, r10, 13; xor.b32 r12, r10, r11; mov.u32 r13, r0;
` + g.b.String() + `END: mad.lo.u32 r10, r11, 3, r10; mad.lo.u32 r10, r12, 5, r10; mad.lo.u32 r10, r13, 7, r10;
st.global.u32 [q1], r10; ret; }`
		const n = 64
		out, _, err := launch(t, src, Launch{Block: [3]uint32{n}, Seed: rapid.Uint64().Draw(rt, "seed")}, 4*n)
		if err != nil {
			rt.Fatalf("%v\n%s", err, src)
		}
		for i, got := range words(out) {
			x := uint32(i) * 2654435761
			v := [4]uint32{x, x >> 13, x ^ x>>13, uint32(i)}
			body(&v)
			if want := v[0] + v[1]*3 + v[2]*5 + v[3]*7; got != want {
				rt.Fatalf("thread %d: %#x, want %#x\n%s", i, got, want, src)
			}
		}
	})
}
