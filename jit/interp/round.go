package interp

import (
	"math"
	"math/big"
	"math/bits"
)

// rounding modes (PTX ISA 7.3)
type rmode uint8

const (
	rn  rmode = iota // nearest, ties to even
	rz               // toward zero
	rm               // toward negative infinity
	rp               // toward positive infinity
	rna              // nearest, ties away from zero
)

var rmodes = map[string]rmode{"": rn, ".rn": rn, ".rz": rz, ".rm": rm, ".rp": rp, ".rna": rna}

const (
	nan32  = 0x7fffffff // the NaN that f32 arithmetic gives
	nan16  = 0x7fff     // f16 and bf16
	nan64  = 0xfff8000000000000
	sign64 = 1 << 63
)

func f32(v uint64) float32 { return math.Float32frombits(uint32(v)) }
func f64(v uint64) float64 { return math.Float64frombits(v) }

// b32 gives the register value of an f32 result, with the one NaN.
func b32(f float32) uint64 {
	if f != f {
		return nan32
	}
	return uint64(math.Float32bits(f))
}

func b64(f float64) uint64 { return math.Float64bits(f) }

// ftz32 flushes a subnormal to zero of its sign.
func ftz32(v uint64) uint64 {
	if v&0x7f800000 == 0 {
		return v & 0x80000000
	}
	return v
}

func sat32(v uint64) uint64 {
	f := f32(v)
	switch {
	case !(f > 0): // NaN and negative zero too
		return 0
	case f > 1:
		return 0x3f800000
	}
	return v
}

func sat64(v uint64) uint64 {
	f := f64(v)
	switch {
	case !(f > 0):
		return 0
	case f > 1:
		return 0x3ff0000000000000
	}
	return v
}

// odd forces the last bit of x to one where the exact value is x+err with err
// not zero ("round to odd"): rounding the result to at most 51 bits, in any
// mode, then equals rounding the exact value.
func odd(x, err float64) float64 {
	if err == 0 || err != err || math.IsInf(x, 0) {
		return x
	}
	b := math.Float64bits(x)
	if b&1 != 0 {
		return x
	}
	if x == 0 {
		return math.Copysign(math.SmallestNonzeroFloat64, err)
	}
	if (err > 0) == (x > 0) {
		return math.Float64frombits(b + 1)
	}
	return math.Float64frombits(b - 1)
}

// addOdd gives a+b rounded to odd.
func addOdd(a, b float64) float64 {
	s := a + b
	bb := s - a
	return odd(s, (a-(s-bb))+(b-bb)) // TwoSum
}

// fmt describes a binary format narrower than f64.
type format struct {
	ebits, mbits uint
	finite       bool // no infinities: overflow saturates or gives NaN (e4m3)
}

var (
	fmtF16  = format{5, 10, false}
	fmtBF16 = format{8, 7, false}
	fmtTF32 = format{8, 10, false}
	fmtF32  = format{8, 23, false}
	fmtE5M2 = format{5, 2, false}
	fmtE4M3 = format{4, 3, true}
)

// f64ToFmt rounds x to a narrower format. A NaN gives all ones in exponent and
// mantissa without sign.
func f64ToFmt(x float64, f format, mode rmode) uint32 {
	b := math.Float64bits(x)
	neg := b>>63 != 0
	sign := uint32(b>>63) << (f.ebits + f.mbits)
	expMask := uint32(1)<<f.ebits - 1
	allOnes := expMask<<f.mbits | (1<<f.mbits - 1)
	e := int(b>>52&0x7ff) - 1023
	man := b & (1<<52 - 1)
	if e == 1024 {
		if man != 0 {
			return allOnes
		}
		if f.finite {
			return sign | allOnes
		}
		return sign | expMask<<f.mbits
	}
	if e == -1023 {
		if man == 0 {
			return sign
		}
		// An f64 subnormal: far below every format here; keep it sticky.
		e, man = -1022, 1
	} else {
		man |= 1 << 52
	}
	bias := int(1)<<(f.ebits-1) - 1
	// value = man × 2^(e-52); the result's unit is 2^(max(e,1-bias)-mbits)
	q := max(e, 1-bias) - int(f.mbits)
	shift := uint(min(q-(e-52), 63))
	r := man >> shift
	rest := man & (1<<shift - 1)
	half := uint64(1) << (shift - 1)
	up := false
	switch mode {
	case rn:
		up = rest > half || rest == half && r&1 == 1
	case rna:
		up = rest >= half
	case rm:
		up = neg && rest != 0
	case rp:
		up = !neg && rest != 0
	}
	if up {
		r++
	}
	if r == 0 {
		return sign
	}
	// Exponent field: r carries its hidden bit when normal.
	var out uint32
	if r < 1<<f.mbits {
		out = uint32(r) // subnormal
	} else {
		exp := max(e, 1-bias)
		if r >= 1<<(f.mbits+1) {
			r >>= 1
			exp++
		}
		field := exp + bias
		over := field >= int(expMask)
		if f.finite {
			over = field > int(expMask) || field == int(expMask) && r&(1<<f.mbits-1) == 1<<f.mbits-1
		}
		if over {
			toward := mode == rz || mode == rm && !neg || mode == rp && neg
			switch {
			case f.finite && toward:
				return sign | allOnes - 1
			case f.finite:
				return sign | allOnes
			case toward:
				return sign | (expMask<<f.mbits - 1)
			}
			return sign | expMask<<f.mbits
		}
		out = uint32(field)<<f.mbits | uint32(r)&(1<<f.mbits-1)
	}
	return sign | out
}

// fmtToF64 widens exactly.
func fmtToF64(v uint32, f format) float64 {
	sign := 1.0
	if v>>(f.ebits+f.mbits)&1 != 0 {
		sign = -1
	}
	e := int(v >> f.mbits & (1<<f.ebits - 1))
	man := v & (1<<f.mbits - 1)
	bias := int(1)<<(f.ebits-1) - 1
	top := int(1)<<f.ebits - 1
	if f.finite {
		if e == top && man == 1<<f.mbits-1 {
			return math.NaN()
		}
	} else if e == top {
		if man != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	if e == 0 {
		return sign * math.Ldexp(float64(man), 1-bias-int(f.mbits))
	}
	return sign * math.Ldexp(float64(man|1<<f.mbits), e-bias-int(f.mbits))
}

// toF32 rounds an f64 that is exact or rounded to odd.
func toF32(x float64, mode rmode) uint64 {
	if mode == rn {
		return b32(float32(x))
	}
	if x != x {
		return nan32
	}
	return uint64(f64ToFmt(x, fmtF32, mode))
}

func addF32(a, b uint64, mode rmode) uint64 {
	if mode == rn {
		return b32(f32(a) + f32(b))
	}
	s := addOdd(float64(f32(a)), float64(f32(b)))
	if s == 0 && mode == rm && !(a>>31 == 0 && b>>31 == 0) {
		// x + -x is -0 when rounding down; +0 + +0 stays +0.
		return 0x80000000
	}
	return toF32(s, mode)
}

func mulF32(a, b uint64, mode rmode) uint64 {
	if mode == rn {
		return b32(f32(a) * f32(b))
	}
	return toF32(float64(f32(a))*float64(f32(b)), mode)
}

// fmaF32 rounds a×b+c once: the product is exact in f64, the sum rounded to odd.
func fmaF32(a, b, c uint64, mode rmode) uint64 {
	p := float64(f32(a)) * float64(f32(b))
	s := addOdd(p, float64(f32(c)))
	if s == 0 && mode == rm && (math.Signbit(p) || c>>31 != 0) {
		return 0x80000000
	}
	return toF32(s, mode)
}

func divF32(a, b uint64, mode rmode) uint64 {
	if mode == rn {
		return b32(f32(a) / f32(b))
	}
	x, y := float64(f32(a)), float64(f32(b))
	q := x / y
	if q == q && !math.IsInf(q, 0) && q != 0 {
		r := math.FMA(-q, y, x)
		if y < 0 {
			r = -r
		}
		q = odd(q, r)
	}
	return toF32(q, mode)
}

func sqrtF32(a uint64, mode rmode) uint64 {
	x := float64(f32(a))
	q := math.Sqrt(x)
	if q > 0 && !math.IsInf(q, 0) {
		q = odd(q, math.FMA(-q, q, x))
	}
	return toF32(q, mode)
}

// direct moves the nearest f64 q of an exact value to the neighbour that mode
// asks for; side is the sign of exact - q.
func direct(q float64, side int, mode rmode) float64 {
	if side == 0 || mode == rn {
		return q
	}
	switch mode {
	case rz:
		if q > 0 && side < 0 || q < 0 && side > 0 {
			return math.Nextafter(q, 0)
		}
	case rm:
		if side < 0 {
			return math.Nextafter(q, math.Inf(-1))
		}
	case rp:
		if side > 0 {
			return math.Nextafter(q, math.Inf(1))
		}
	}
	return q
}

// exact64 rounds an exact value to f64.
func exact64(x *big.Float, mode rmode, zeroNeg bool) uint64 {
	if x.Sign() == 0 {
		if zeroNeg {
			return sign64
		}
		return 0
	}
	q, acc := x.Float64()
	side := -int(acc) // Below: q < x
	if math.IsInf(q, 0) {
		if mode == rz || mode == rm && q > 0 || mode == rp && q < 0 {
			return b64(math.Copysign(math.MaxFloat64, q))
		}
		return b64(q)
	}
	if q == 0 {
		q = math.Copysign(0, float64(x.Sign()))
	}
	return b64(direct(q, side, mode))
}

const exactPrec = 4300 // bits that hold any f64 product plus any f64

func bigF(f float64) *big.Float { return new(big.Float).SetPrec(exactPrec).SetFloat64(f) }

func special64(fs ...float64) bool {
	for _, f := range fs {
		if f != f || math.IsInf(f, 0) {
			return true
		}
	}
	return false
}

// nan64of gives a quiet NaN: the first NaN operand's payload, else the default.
func nan64of(v uint64, ops ...uint64) uint64 {
	if f := f64(v); f == f {
		return v
	}
	for _, o := range ops {
		if f := f64(o); f != f {
			return o | 1<<51
		}
	}
	return nan64
}

func addF64(a, b uint64, mode rmode) uint64 {
	x, y := f64(a), f64(b)
	if mode == rn || special64(x, y) {
		return nan64of(b64(x+y), a, b)
	}
	return exact64(new(big.Float).SetPrec(exactPrec).Add(bigF(x), bigF(y)), mode,
		x == 0 && y == 0 && a>>63 != 0 && b>>63 != 0 || mode == rm && !(x == 0 && y == 0 && a>>63 == 0 && b>>63 == 0))
}

func mulF64(a, b uint64, mode rmode) uint64 {
	x, y := f64(a), f64(b)
	if mode == rn || special64(x, y) {
		return nan64of(b64(x*y), a, b)
	}
	return exact64(new(big.Float).SetPrec(exactPrec).Mul(bigF(x), bigF(y)), mode, (a^b)>>63 != 0)
}

func fmaF64(a, b, c uint64, mode rmode) uint64 {
	x, y, z := f64(a), f64(b), f64(c)
	if mode == rn || special64(x, y, z) {
		return nan64of(b64(math.FMA(x, y, z)), a, b, c)
	}
	p := new(big.Float).SetPrec(exactPrec).Mul(bigF(x), bigF(y))
	pneg := (a^b)>>63 != 0
	zeroNeg := mode == rm
	if p.Sign() == 0 && z == 0 && pneg == (c>>63 != 0) {
		zeroNeg = pneg
	}
	return exact64(p.Add(p, bigF(z)), mode, zeroNeg)
}

func divF64(a, b uint64, mode rmode) uint64 {
	x, y := f64(a), f64(b)
	q := x / y
	if mode == rn || special64(x, y) || x == 0 || y == 0 {
		return nan64of(b64(q), a, b)
	}
	if math.IsInf(q, 0) {
		if mode == rz || mode == rm && q > 0 || mode == rp && q < 0 {
			return b64(math.Copysign(math.MaxFloat64, q))
		}
		return b64(q)
	}
	// side of x/y against q: compare x with q×y, exactly
	r := new(big.Float).SetPrec(exactPrec).Mul(bigF(q), bigF(y))
	side := bigF(x).Cmp(r)
	if y < 0 {
		side = -side
	}
	return b64(direct(q, side, mode))
}

func sqrtF64(a uint64, mode rmode) uint64 {
	x := f64(a)
	q := math.Sqrt(x)
	if mode == rn || special64(q) || q == 0 {
		return nan64of(b64(q), a)
	}
	return b64(direct(q, bigF(x).Cmp(new(big.Float).SetPrec(exactPrec).Mul(bigF(q), bigF(q))), mode))
}

// intToF64Odd gives an integer as f64, rounded to odd where it has more than 53 bits.
func intToF64Odd(neg bool, mag uint64) float64 {
	shift := 64 - bits.LeadingZeros64(mag) - 53
	var f float64
	if shift <= 0 {
		f = float64(mag)
	} else {
		q := mag >> shift
		if mag&(1<<shift-1) != 0 {
			q |= 1
		}
		f = math.Ldexp(float64(q), shift)
	}
	if neg {
		f = -f
	}
	return f
}

// intToF64 rounds an integer to f64.
func intToF64(neg bool, mag uint64, mode rmode) uint64 {
	f := float64(mag)
	if mode != rn {
		shift := 64 - bits.LeadingZeros64(mag) - 53
		if shift > 0 {
			q := mag >> shift
			away := mode == rp && !neg || mode == rm && neg
			if away && mag&(1<<shift-1) != 0 {
				q++
			}
			f = math.Ldexp(float64(q), shift)
		}
	}
	if neg {
		f = -f
	}
	return b64(f)
}
