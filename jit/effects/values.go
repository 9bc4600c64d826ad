package effects

import (
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// value is what a register can hold: an interval of integers, one of which is congruent to the register modulo 2^width, whichever
// way the register is read, and where it comes from.
type value struct {
	lo, hi int64
	set    bool   // something defines it
	from   origin // what of memory and other spaces it is made of
	params uint64 // which 8-byte parameters it is made of: a bit for each, in order of their first mention
}

func exactly(n int64) value      { return value{lo: n, hi: n, set: true} }
func between(lo, hi int64) value { return value{lo: lo, hi: hi, set: true} }
func (v value) anything() value  { v.lo, v.hi, v.set = math.MinInt64, math.MaxInt64, true; return v }
func (v value) bounded(w int64) bool {
	return v.lo > math.MinInt64/2 && v.hi < math.MaxInt64/2 && v.hi-v.lo <= w
}

// of gives v's origins to an interval.
func (v value) of(lo, hi int64) value { v.lo, v.hi, v.set = lo, hi, true; return v }

// join covers both.
func (v value) join(w value) value {
	switch {
	case !v.set:
		return w
	case !w.set:
		return v
	}
	return value{min(v.lo, w.lo), max(v.hi, w.hi), true, v.from | w.from, v.params | w.params}
}

// with adds the origins of w.
func (v value) with(w value) value {
	v.from |= w.from
	v.params |= w.params
	return v
}

// typeBits is the width of a type such as "u32", 0 for what is no type.
func typeBits(t string) int {
	switch t {
	case "b8", "u8", "s8", "e4m3", "e5m2":
		return 8
	case "b16", "u16", "s16", "f16", "bf16", "e4m3x2", "e5m2x2":
		return 16
	case "b32", "u32", "s32", "f32", "f16x2", "bf16x2", "tf32":
		return 32
	case "b64", "u64", "s64", "f64", "f32x2":
		return 64
	case "b128":
		return 128
	}
	return 0
}

// limits of an integer type; of 64 bits only the signed ones, so that whoever reads u64 looks at the sign.
func limits(t string) (lo, hi int64) {
	n := typeBits(t)
	switch {
	case n >= 64 || n == 0:
		return math.MinInt64, math.MaxInt64
	case t[0] == 's':
		return -1 << (n - 1), 1<<(n-1) - 1
	}
	return 0, 1<<n - 1
}

// as reads a register as type t.
func (v value) as(t string) value {
	if t == "u64" && v.lo < 0 {
		return v.anything()
	}
	if strings.HasPrefix(t, "b") && typeBits(t) < 64 {
		// Either way of reading is congruent.
		n := typeBits(t)
		if v.lo >= -1<<(n-1) && v.hi < 1<<n {
			return v
		}
		return v.of(0, 1<<n-1)
	}
	if lo, hi := limits(t); v.lo < lo || v.hi > hi {
		return v.of(lo, hi)
	}
	return v
}

func addOver(a, b int64) (int64, bool) {
	c := a + b
	return c, (c > a) != (b > 0) && b != 0
}

func mulOver(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, false
	}
	c := a * b
	return c, c/b != a || (a == -1 && b == math.MinInt64) || (b == -1 && a == math.MinInt64)
}

func plus(a, b value) value {
	lo, o1 := addOver(a.lo, b.lo)
	hi, o2 := addOver(a.hi, b.hi)
	if o1 || o2 {
		return a.with(b).anything()
	}
	return a.with(b).of(lo, hi)
}

func minus(a value) value {
	if a.lo == math.MinInt64 {
		return a.anything()
	}
	return a.of(-a.hi, -a.lo)
}

// farIndex is from when on a factor makes an index that was loaded from memory into what may be a part of a pointer.
const farIndex = 1 << 16

func times(a, b value) value {
	out := a.with(b)
	far := func(v value) bool { return v.hi >= farIndex || v.lo <= -farIndex }
	if a.from&fromIndex != 0 && far(b) || b.from&fromIndex != 0 && far(a) {
		out.from |= fromMemory
	}
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	for _, x := range [2]int64{a.lo, a.hi} {
		for _, y := range [2]int64{b.lo, b.hi} {
			p, over := mulOver(x, y)
			if over {
				return out.anything()
			}
			lo, hi = min(lo, p), max(hi, p)
		}
	}
	return out.of(lo, hi)
}

// special is the value of a special register in a launch.
func special(name, comp string, l *Launch) value {
	dim := map[string]int{".x": 0, ".y": 1, ".z": 2}
	k, ok := dim[comp]
	one := func(v [3]uint32) int64 { return max(1, int64(v[k])) }
	switch {
	case ok && name == "%tid":
		return between(0, one(l.Block)-1)
	case ok && name == "%ntid":
		return exactly(one(l.Block))
	case ok && name == "%ctaid":
		return between(0, one(l.Grid)-1)
	case ok && name == "%nctaid":
		return exactly(one(l.Grid))
	case name == "%laneid":
		return between(0, 31)
	case name == "WARP_SZ":
		return exactly(32)
	case slices.Contains(counters, name), strings.HasPrefix(name, "%lanemask_"):
		return between(0, math.MaxUint32)
	}
	return value{from: fromMemory}.anything() // not known here
}

// counters are special registers of 32 bits that are equal in every run of a launch.
var counters = []string{"%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid", "%cluster_ctarank",
	"%cluster_nctarank", "%is_explicit_cluster", "%total_smem_size", "%aggr_smem_size", "%dynamic_smem_size", "%reserved_smem_offset_begin"}

// operand is the value of a source operand.
func operand(o *ptx.Operand, env []value, l *Launch) value {
	var v value
	switch {
	case o.Kind == ptx.Imm:
		v = exactly(o.Int)
		if o.Unsigned && o.Int < 0 {
			v = v.anything()
		}
	case o.Kind == ptx.Sym && o.Width == isRegister:
		if v = env[o.Bits]; !v.set {
			v = v.anything() // never set: any value
		}
		if o.Comp != "" {
			v = v.anything()
		}
	case o.Kind == ptx.Sym && o.Width == isSymbol:
		v = value{from: origin(o.Bits)}.anything()
	case o.Kind == ptx.Sym && (strings.HasPrefix(o.Name, "%") || o.Name == "WARP_SZ"):
		v = special(o.Name, o.Comp, l)
	default:
		v = value{}.anything()
		for i := range o.Elems {
			v = v.with(operand(&o.Elems[i], env, l))
		}
		if o.Kind == ptx.Vec && v.from&fromIndex != 0 {
			v.from |= fromMemory // a pointer may be put together from halves
		}
		return v
	}
	if o.Neg {
		v = minus(v)
	}
	return plus(v, exactly(o.Off))
}

// apply gives the value of an instruction's result. Whatever it does not know is anything, made of all sources.
func apply(in *ptx.Inst, env []value, l *Launch) value {
	var src []value
	all := value{}.anything()
	for i := 1; i < len(in.Args); i++ {
		v := operand(&in.Args[i], env, l)
		src = append(src, v)
		all = all.with(v)
	}
	if in.Op == "ld" || in.Op == "ldu" {
		return loaded(in)
	}
	t, mode := "", ""
	for _, m := range in.Mods {
		switch m = strings.TrimPrefix(m, "."); {
		case typeBits(m) > 0:
			if t != "" && in.Op == "cvt" {
				continue // the first is the destination's
			}
			t = m
		case m == "lo" || m == "hi" || m == "wide":
			mode = m
		case m == "cc" || m == "sat":
			return all
		}
	}
	if t == "" || isFloat(t) || len(src) == 0 || in.Args[0].Kind != ptx.Sym {
		switch {
		case in.Op == "cvta" && len(src) == 1:
		case in.Op == "mov" && len(src) == 1 && in.Args[0].Kind == ptx.Sym:
			return src[0]
		default:
			return all
		}
	}
	rd := func(i int) value { return src[i].as(t) }
	fit := func(v value) value { return v.with(all).fits(t) }
	switch {
	case in.Op == "mov" && len(src) == 1:
		return src[0]
	case in.Op == "cvta" && len(src) == 1:
		for _, m := range in.Mods {
			if m = strings.TrimPrefix(m, "."); strings.HasPrefix(m, "shared") || m == "local" || m == "param" {
				src[0].from |= private
				return src[0].anything()
			}
		}
		return src[0]
	case in.Op == "cvt" && len(src) == 1:
		from := strings.TrimPrefix(in.Mods[len(in.Mods)-1], ".")
		if isFloat(from) {
			return all
		}
		return src[0].as(from).fits(t)
	case in.Op == "add" && len(src) == 2:
		return fit(plus(src[0], src[1])) // modulo 2^n both readings give the same
	case in.Op == "sub" && len(src) == 2:
		return fit(plus(src[0], minus(src[1])))
	case in.Op == "neg" && len(src) == 1:
		return fit(minus(src[0]))
	case (in.Op == "mul" || in.Op == "mad") && mode == "hi":
		a, b := rd(0), rd(1)
		if in.Op == "mul" && t == "u32" && a.lo >= 0 && b.lo >= 0 {
			return all.of(int64(uint64(a.lo)*uint64(b.lo)>>32), int64(uint64(a.hi)*uint64(b.hi)>>32))
		}
		return all
	case (in.Op == "mul" || in.Op == "mad") && mode != "" && len(src) >= 2:
		var p value
		if mode == "lo" {
			p = times(src[0], src[1])
		} else {
			p = times(rd(0), rd(1))
		}
		if mode == "wide" {
			t = t[:1] + map[int]string{16: "32", 32: "64"}[typeBits(t)]
		}
		if p = p.fits(t); in.Op == "mad" && len(src) == 3 {
			p = plus(p, src[2]).fits(t)
		}
		return p.with(all)
	case in.Op == "shl" && len(src) == 2 && src[1].lo == src[1].hi && src[1].lo >= 0 && src[1].lo < 62:
		return fit(times(src[0], exactly(1<<src[1].lo)))
	case in.Op == "shl":
		if all.from&fromIndex != 0 {
			all.from |= fromMemory
		}
		return all
	case in.Op == "shr" && len(src) == 2 && src[1].lo == src[1].hi && src[1].lo >= 0 && src[1].lo < 64:
		if v := rd(0); v.lo >= 0 || t[0] == 's' {
			return all.of(v.lo>>src[1].lo, v.hi>>src[1].lo)
		}
		return all
	case in.Op == "and" && len(src) == 2:
		// Never more than either, where that is a number without a sign.
		switch a, b := src[0], src[1]; {
		case a.lo >= 0 && b.lo >= 0:
			return all.of(0, min(a.hi, b.hi))
		case a.lo >= 0:
			return all.of(0, a.hi)
		case b.lo >= 0:
			return all.of(0, b.hi)
		}
		return all
	case (in.Op == "or" || in.Op == "xor") && len(src) == 2 && src[0].lo >= 0 && src[1].lo >= 0 && max(src[0].hi, src[1].hi) < 1<<62:
		most := int64(1)<<bits.Len64(uint64(max(src[0].hi, src[1].hi))) - 1
		if in.Op == "or" {
			return all.of(max(src[0].lo, src[1].lo), most)
		}
		return all.of(0, most)
	case in.Op == "min" && len(src) == 2:
		a, b := rd(0), rd(1)
		return all.of(min(a.lo, b.lo), min(a.hi, b.hi))
	case in.Op == "max" && len(src) == 2:
		a, b := rd(0), rd(1)
		return all.of(max(a.lo, b.lo), max(a.hi, b.hi))
	case in.Op == "div" && len(src) == 2 && rd(0).lo >= 0 && rd(1).lo > 0:
		return all.of(rd(0).lo/rd(1).hi, rd(0).hi/rd(1).lo)
	case in.Op == "rem" && len(src) == 2 && rd(0).lo >= 0 && rd(1).lo > 0:
		return all.of(0, min(rd(0).hi, rd(1).hi-1))
	case in.Op == "selp" && len(src) == 3:
		return src[0].as(t).join(src[1].as(t))
	case in.Op == "popc" || in.Op == "clz":
		return all.of(0, 64)
	}
	return all
}

// fits keeps the interval when it lies in type t (or, for 32 bits, in either reading), and is all of t otherwise. It says what a
// result of that type can be when arithmetic wraps.
func (v value) fits(t string) value {
	if n := typeBits(t); n < 64 && v.lo >= -1<<(n-1) && v.hi < 1<<n {
		return v
	}
	lo, hi := limits(t)
	if v.lo >= lo && v.hi <= hi {
		return v
	}
	return v.of(lo, hi)
}

// loaded is what a load other than of a known parameter gives. A value of 64 bits may be a pointer.
func loaded(in *ptx.Inst) value {
	v := value{from: fromIndex}.anything()
	n := int64(0)
	t := ""
	for _, m := range in.Mods {
		if m = strings.TrimPrefix(m, "."); typeBits(m) > 0 {
			t, n = m, int64(typeBits(m))
		}
	}
	if n >= 64 || n == 0 {
		v.from |= fromMemory
		return v
	}
	lo, hi := limits(t)
	return v.of(lo, hi)
}
