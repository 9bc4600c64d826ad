package interp

import (
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	ops := map[string]opInfo{}
	for _, n := range []string{"vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax"} {
		for _, w := range []string{"2", "4"} {
			ops[n+w] = opInfo{forms: ".u32/.s32 × 3; .sat .add; all elements, default selectors", decode: decSimd}
		}
	}
	register("SIMD video", ops)
}

// decSimd is the SIMD video family (PTX ISA 9.7.18.2) on two 16-bit or four
// 8-bit elements, without masks and selectors: what the CUDA headers emit.
func decSimd(d *decoder, m *mods, in *ptx.Inst) error {
	dt, err := m.typeOf(tU32, tS32)
	if err != nil {
		return err
	}
	at, err := m.typeOf(tU32, tS32)
	if err != nil {
		return err
	}
	bt, err := m.typeOf(tU32, tS32)
	if err != nil {
		return err
	}
	sat, add := m.flag(".sat"), m.flag(".add")
	for i := range in.Args {
		if in.Args[i].Comp != "" {
			return notSupported(in.Args[i].Pos, "%s with mask or selector %s", in.Op, in.Args[i].Comp)
		}
	}
	n := uint(16)
	if strings.HasSuffix(in.Op, "4") {
		n = 8
	}
	name := in.Op[:len(in.Op)-1]
	mask := uint64(1)<<n - 1
	lo, hi := int64(0), int64(mask)
	if dt == tS32 {
		lo, hi = -int64(1)<<(n-1), int64(1)<<(n-1)-1
	}
	elem := func(v uint64, t typ) int64 {
		if t == tS32 {
			return sext(v, n)
		}
		return int64(v & mask)
	}
	return d.op3(in, tB32, tB32, tB32, tB32, func(a, b, c uint64) uint64 {
		var r uint64
		sum := int64(0)
		for sh := uint(0); sh < 32; sh += n {
			x, y := elem(a>>sh, at), elem(b>>sh, bt)
			var v int64
			switch name {
			case "vadd":
				v = x + y
			case "vsub":
				v = x - y
			case "vavrg": // rounds away from zero
				v = x + y
				if v >= 0 {
					v++
				}
				v >>= 1
			case "vabsdiff":
				v = max(x-y, y-x)
			case "vmin":
				v = min(x, y)
			default:
				v = max(x, y)
			}
			if sat {
				v = clamp(v, lo, hi)
			}
			sum += v
			r |= uint64(v) & mask << sh
		}
		if add {
			return (c + uint64(sum)) & 0xffffffff
		}
		return r
	}, nil)
}
