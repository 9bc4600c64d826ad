package kernels

import (
	"math"
	"strconv"
	"strings"
)

// rng is splitmix64.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// unit gives a number in [-1, 1).
func (r *rng) unit() float64 { return float64(int64(r.next())>>10) / (1 << 53) }

// specials are values at which floating-point code tends to be wrong.
var specials = []float64{0, math.Copysign(0, -1), 1, -1, 0.5, 2, math.Inf(1), math.Inf(-1), math.NaN(),
	0x1p-126, -0x1p-126, 0x1p-149, -0x1p-149, 0x1.fffffcp-127, 0x1.fffffep127, -0x1.fffffep127, 0x1.fffffep0, 0x1.000002p0,
	0x1p-1022, 0x1p-1074, math.MaxFloat64, 0x1p-24, 0x1p24, 0x1p53, 0x1p-537, 0x1p512}

// edges are values at which conversions to integers tend to be wrong.
var edges = []float64{0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 255.5, 32767.5, 65535.5, 2147483647, 2147483648, -2147483648, -2147483649,
	4294967295, 4294967296, 9223372036854775807, -9223372036854775808, 18446744073709551615, 1e30, -1e30, 0x1p-140, -0x1p-140,
	8388607.5, 8388608, 16777215, 4503599627370495.5, 2147483646.5, -2147483648.5, math.Inf(1), math.Inf(-1), math.NaN(), 0, math.Copysign(0, -1)}

// element gives the bits of one random element.
func (r *rng) element(typ, gen string) uint64 {
	bits := r.next()
	switch gen {
	case "bits":
		return bits
	case "zero":
		return 0
	case "small":
		return bits % 1024
	case "digits":
		return uint64("0123456789-+ "[bits%13])
	}
	if below, ok := strings.CutPrefix(gen, "below"); ok {
		n, _ := strconv.ParseUint(below, 10, 64)
		return bits % max(n, 1)
	}
	var f float64
	pick := r.next()
	switch gen {
	case "unit":
		f = r.unit()
	case "few": // integers so small that sums of them are exact in any order
		f = float64(int64(pick%9) - 4)
	case "wide":
		f = math.Ldexp(r.unit(), int(pick%41)-20)
	case "ints":
		switch pick % 4 {
		case 0:
			f = edges[r.next()%uint64(len(edges))]
		case 1:
			f = math.Ldexp(r.unit(), int(r.next()%70))
		case 2:
			f = float64(int64(r.next()%4096)-2048) / 2
		default:
			f = r.unit() * 300
		}
	case "half":
		// around f16's range, and near the middle of two of its values
		f = math.Ldexp(r.unit(), int(pick%46)-28)
		if pick>>32%3 == 0 {
			b := math.Float64bits(f)
			f = math.Float64frombits(b&^(1<<42-1) | 1<<41 | (pick>>40)%3<<28)
		}
		if typ == "s32" {
			return bits
		}
	case "f32range":
		f = math.Ldexp(r.unit(), int(pick%310)-155)
		if pick>>32%3 == 0 {
			b := math.Float64bits(f)
			f = math.Float64frombits(b&^(1<<29-1) | 1<<28 | (pick>>40)%3)
		}
	default: // mix
		switch pick % 8 {
		case 0:
			f = specials[r.next()%uint64(len(specials))]
		case 1: // any bits
			if typ == "f64" {
				return bits
			}
			return bits & 0xffffffff
		case 2: // near the ends of the exponent range
			e := 120 + int(r.next()%10)
			if typ == "f64" {
				e = 1015 + int(r.next()%10)
			}
			if pick>>32&1 != 0 {
				e = -e - int(r.next()%24)
			}
			f = math.Ldexp(r.unit(), e)
		case 3: // few mantissa bits: ties and exact results
			f = math.Ldexp(float64(int64(r.next()%64)-32), int(r.next()%20)-10)
		case 4:
			f = math.Ldexp(r.unit(), int(r.next()%200)-100)
		default:
			f = math.Ldexp(r.unit(), int(r.next()%8))
		}
	}
	switch typ {
	case "f64":
		return math.Float64bits(f)
	case "f32":
		return uint64(math.Float32bits(float32(f)))
	case "bf16":
		return uint64(math.Float32bits(float32(f)) >> 16)
	case "f16":
		return uint64(halfBits(f))
	case "s32":
		if gen == "few" {
			return uint64(int64(f))
		}
	}
	return bits
}

// halfBits gives the f16 next to f towards zero; what is too small becomes 0, what is too large infinity.
func halfBits(f float64) uint16 {
	sign := uint16(math.Float64bits(f) >> 48 & 0x8000)
	frac, exp := math.Frexp(math.Abs(f)) // frac in [0.5, 1)
	switch {
	case f != f:
		return 0x7e00
	case f == 0 || exp < -13:
		return sign
	case exp > 16:
		return sign | 0x7c00
	}
	return sign | uint16(exp+14)<<10 | uint16(uint64(frac*2048)&0x3ff)
}
