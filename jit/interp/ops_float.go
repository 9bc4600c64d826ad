package interp

import (
	"math"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

const fArith = ".rn .rz .rm .rp .ftz .sat; .f32 .f64 .f16 .f16x2 .bf16 .bf16x2"

func init() {
	register("Arithmetic", map[string]opInfo{
		"add": {forms: "integers: .sat .cc; .u16x2 .s16x2; floats: " + fArith + " .f32x2; .f32.f16 .f32.bf16", decode: decAddSub},
		"sub": {forms: "integers: .sat .cc; .u16x2 .s16x2; floats: " + fArith + " .f32x2; .f32.f16 .f32.bf16", decode: decAddSub},
		"mul": {forms: "integers: .lo .hi .wide; floats: " + fArith + " .f32x2", decode: decMul},
		"mad": {forms: "integers: .lo .hi .wide .sat .cc; floats: .rn .rz .rm .rp .ftz .sat; .f32 .f64", decode: decMad},
		"fma": {forms: fArith + " .f32x2; .relu; .f32.f16 .f32.bf16", decode: decFma},
		"div": {forms: "integers; .rn .rz .rm .rp .approx .full .ftz; .f32 .f64", decode: decDiv},
		"abs": {forms: ".s16 .s32 .s64; .ftz; .f32 .f64 .f16 .f16x2 .bf16 .bf16x2", decode: decAbsNeg},
		"neg": {forms: ".s16 .s32 .s64; .ftz; .f32 .f64 .f16 .f16x2 .bf16 .bf16x2", decode: decAbsNeg},
		"min": {forms: "integers, .relu, .u16x2 .s16x2; .ftz .NaN .xorsign.abs; .f32 .f64 .f16 .f16x2 .bf16 .bf16x2", decode: decMinMax},
		"max": {forms: "integers, .relu, .u16x2 .s16x2; .ftz .NaN .xorsign.abs; .f32 .f64 .f16 .f16x2 .bf16 .bf16x2", decode: decMinMax},
	})
	register("Floating point", map[string]opInfo{
		"rcp":      {forms: ".rn .rz .rm .rp .approx .ftz; .f32 .f64", decode: decRcp},
		"sqrt":     {forms: ".rn .rz .rm .rp .approx .ftz; .f32 .f64", decode: decSqrt},
		"rsqrt":    {forms: ".approx .ftz; .f32 .f64", decode: decRsqrt},
		"sin":      {forms: ".approx .ftz; .f32", decode: decApprox},
		"cos":      {forms: ".approx .ftz; .f32", decode: decApprox},
		"lg2":      {forms: ".approx .ftz; .f32", decode: decApprox},
		"ex2":      {forms: ".approx .ftz; .f32 .f16 .f16x2 .bf16 .bf16x2", decode: decApprox},
		"tanh":     {forms: ".approx; .f32 .f16 .f16x2 .bf16 .bf16x2", decode: decApprox},
		"testp":    {forms: ".finite .infinite .number .notanumber .normal .subnormal; .f32 .f64", decode: decTestp},
		"copysign": {forms: ".f32 .f64", decode: decCopysign},
	})
}

var floatTypes = []typ{tF32, tF64, tF16, tF16x2, tBF16, tBF16x2}

// fmods are the modifiers of a floating-point instruction.
type fmods struct {
	mode     rmode
	given    bool // a rounding mode was written
	ftz, sat bool
	relu     bool
}

func floatMods(m *mods) fmods {
	r := m.oneOf(".rn", ".rz", ".rm", ".rp")
	return fmods{mode: rmodes[r], given: r != "", ftz: m.flag(".ftz"), sat: m.flag(".sat"), relu: m.flag(".relu")}
}

func (f fmods) plain() bool { return f.mode == rn && !f.ftz && !f.sat && !f.relu }

// op is one floating-point operation on raw bits; unused operands are zero.
type fop func(a, b, c uint64) uint64

// f32op makes the function of an f32 operation with flushing and saturation.
func f32op(name string, fm fmods) fop {
	var base fop
	mode := fm.mode
	switch name {
	case "add":
		base = func(a, b, c uint64) uint64 { return addF32(a, b, mode) }
	case "sub":
		base = func(a, b, c uint64) uint64 { return addF32(a, b^1<<31, mode) }
	case "mul":
		base = func(a, b, c uint64) uint64 { return mulF32(a, b, mode) }
	case "fma":
		base = func(a, b, c uint64) uint64 { return fmaF32(a, b, c, mode) }
	}
	ftz, sat := fm.ftz, fm.sat
	if !ftz && !sat {
		return base
	}
	return func(a, b, c uint64) uint64 {
		if ftz {
			a, b, c = ftz32(a), ftz32(b), ftz32(c)
		}
		v := base(a, b, c)
		if ftz {
			v = ftz32(v)
		}
		if sat {
			v = sat32(v)
		}
		return v
	}
}

func f64op(name string, fm fmods) fop {
	mode := fm.mode
	switch name {
	case "add":
		return func(a, b, c uint64) uint64 { return addF64(a, b, mode) }
	case "sub":
		return func(a, b, c uint64) uint64 {
			if y := f64(b); y != y { // keep a NaN operand's own sign
				return addF64(a, b, mode)
			}
			return addF64(a, b^sign64, mode)
		}
	case "mul":
		return func(a, b, c uint64) uint64 { return mulF64(a, b, mode) }
	}
	return func(a, b, c uint64) uint64 { return fmaF64(a, b, c, mode) }
}

// halfOp makes an operation on f16 or bf16: the exact result, or one rounded
// to odd in f64, rounded once.
func halfOp(name string, f format, fm fmods) fop {
	get := func(v uint64) float64 {
		if fm.ftz && v&(1<<(f.ebits+f.mbits)-1)>>f.mbits == 0 {
			v &= 0x8000
		}
		return fmtToF64(uint32(v), f)
	}
	return func(a, b, c uint64) uint64 {
		var r float64
		x, y := get(a), get(b)
		switch name {
		case "add":
			r = addOdd(x, y)
		case "sub":
			r = addOdd(x, -y)
		case "mul":
			r = x * y
		case "fma":
			r = addOdd(x*y, get(c))
		}
		v := uint64(f64ToFmt(r, f, fm.mode))
		if fm.ftz && v&(1<<(f.ebits+f.mbits)-1)>>f.mbits == 0 {
			v &= 0x8000
		}
		if fm.sat {
			one := uint64(1<<(f.ebits-1)-1) << f.mbits
			switch {
			case v&0x8000 != 0 || v == nan16:
				v = 0
			case v > one:
				v = one
			}
		}
		if fm.relu && v&0x8000 != 0 && v != nan16 {
			v = 0
		}
		return v
	}
}

func formatOf(t typ) format {
	if t == tBF16 || t == tBF16x2 {
		return fmtBF16
	}
	return fmtF16
}

// fopOf makes the scalar function of name for type t.
func fopOf(name string, t typ, fm fmods) fop {
	switch t {
	case tF32:
		return f32op(name, fm)
	case tF64:
		return f64op(name, fm)
	case tF32x2:
		f := f32op(name, fm)
		return func(a, b, c uint64) uint64 {
			return f(a&0xffffffff, b&0xffffffff, c&0xffffffff) | f(a>>32, b>>32, c>>32)<<32
		}
	case tF16, tBF16:
		return halfOp(name, formatOf(t), fm)
	}
	return packed(halfOp(name, formatOf(t), fm))
}

// packed applies f to both halves of 32-bit registers.
func packed(f fop) fop {
	return func(a, b, c uint64) uint64 {
		return f(a&0xffff, b&0xffff, c&0xffff) | f(a>>16, b>>16, c>>16)<<16
	}
}

func decAddSub(d *decoder, m *mods, in *ptx.Inst) error {
	t := peekType(m)
	if t.integer() || t == tU16x2 || t == tS16x2 {
		m.typ()
		if t.size() < 2 {
			return notSupported(in.Pos, "%s on %s", in.Op, t)
		}
		return decIntAddSub(d, m, in, t)
	}
	m.flag(".noftz")
	fm := floatMods(m)
	t, err := m.typeOf(append(floatTypes, tF32x2)...)
	if err != nil {
		return err
	}
	f := fopOf(in.Op, t, fm)
	if st, ok := mixed(m, t); ok {
		get := widenFloat(st, false)
		return d.op2(in, t, st, t, func(a, b uint64) uint64 { return f(b32(float32(get(a))), b, 0) }, nil)
	}
	fast := noFast
	if t == tF32 && fm.plain() && in.Op == "add" {
		fast = runAddF32
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 { return f(a, b, 0) }, fast)
}

// mixed reads the second type of a mixed-precision operation (PTX ISA 9.7.5):
// add.f32.f16 and the like, whose first operands are narrow.
func mixed(m *mods, t typ) (typ, bool) {
	if n := peekType(m); t == tF32 && (n == tF16 || n == tBF16) {
		m.typ()
		return n, true
	}
	return tNone, false
}

// peekType gives the type that typ would give, without using it.
func peekType(m *mods) typ {
	save := m.used
	t := m.typ()
	m.used = save
	return t
}

// integerOf is the type of an instruction that has integer and other forms: tNone, and not used up, when it is not an integer's.
func integerOf(m *mods, in *ptx.Inst) (typ, error) {
	t := peekType(m)
	if !t.integer() {
		return tNone, nil
	}
	m.typ()
	if t.size() < 2 || t == tB16 || t == tB32 || t == tB64 {
		return tNone, notSupported(in.Pos, "%s on %s", in.Op, t)
	}
	return t, nil
}

func decMul(d *decoder, m *mods, in *ptx.Inst) error {
	if t, err := integerOf(m, in); err != nil {
		return err
	} else if t != tNone {
		return decIntMul(d, m, in, t)
	}
	fm := floatMods(m)
	t, err := m.typeOf(append(floatTypes, tF32x2)...)
	if err != nil {
		return err
	}
	f := fopOf("mul", t, fm)
	fast := noFast
	if t == tF32 && fm.plain() {
		fast = runMulF32
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 { return f(a, b, 0) }, fast)
}

func decMad(d *decoder, m *mods, in *ptx.Inst) error {
	if t, err := integerOf(m, in); err != nil {
		return err
	} else if t != tNone {
		return decIntMul(d, m, in, t)
	}
	return decFma(d, m, in) // the same operation from sm_20 on
}

func decFma(d *decoder, m *mods, in *ptx.Inst) error {
	fm := floatMods(m)
	t, err := m.typeOf(append(floatTypes, tF32x2)...)
	if err != nil {
		return err
	}
	if st, ok := mixed(m, t); ok {
		get, f := widenFloat(st, false), fopOf("fma", t, fm)
		return d.op3(in, t, st, st, t, func(a, b, c uint64) uint64 {
			return f(b32(float32(get(a))), b32(float32(get(b))), c)
		}, nil)
	}
	fast := noFast
	if t == tF32 && fm.plain() {
		fast = runFmaF32
	}
	return d.op3(in, t, t, t, t, fopOf("fma", t, fm), fast)
}

func ftzIf(on bool, v uint64) uint64 {
	if on {
		return ftz32(v)
	}
	return v
}

func decDiv(d *decoder, m *mods, in *ptx.Inst) error {
	if t, err := integerOf(m, in); err != nil {
		return err
	} else if t != tNone {
		return decIntDiv(d, in, t)
	}
	approx := m.oneOf(".approx", ".full")
	fm := floatMods(m)
	t, err := m.typeOf(tF32, tF64)
	if err != nil {
		return err
	}
	mode, ftz := fm.mode, fm.ftz
	if t == tF64 {
		return d.op2(in, t, t, t, func(a, b uint64) uint64 { return divF64(a, b, mode) }, nil)
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 {
		a, b = ftzIf(ftz, a), ftzIf(ftz, b)
		if approx == ".approx" {
			// a × (1/b): beyond 2^126 the reciprocal is flushed (PTX ISA 9.7.3.8).
			if e := b >> 23 & 0xff; e >= 253 && e < 255 && !(e == 253 && b&0x7fffff == 0) {
				if a&0x7fffffff == 0x7f800000 {
					return nan32
				}
				if x := f32(a); x == x {
					return (a ^ b) & 0x80000000
				}
			}
		}
		return ftzIf(ftz, divF32(a, b, mode))
	}, nil)
}

func decRcp(d *decoder, m *mods, in *ptx.Inst) error {
	approx := m.flag(".approx")
	fm := floatMods(m)
	t, err := m.typeOf(tF32, tF64)
	if err != nil {
		return err
	}
	mode, ftz := fm.mode, fm.ftz
	if t == tF64 {
		if approx { // rcp.approx.ftz.f64: the upper 32 bits of a coarse reciprocal
			return d.op1(in, t, t, func(a uint64) uint64 {
				if a>>52&0x7ff == 0 {
					a &= sign64
				}
				v := divF64(b64(1), a&^0xffffffff, rn)
				if v>>52&0x7ff == 0 {
					v &= sign64
				}
				return v &^ 0xffffffff
			})
		}
		return d.op1(in, t, t, func(a uint64) uint64 { return divF64(b64(1), a, mode) })
	}
	return d.op1(in, t, t, func(a uint64) uint64 { return ftzIf(ftz, divF32(0x3f800000, ftzIf(ftz, a), mode)) })
}

func decSqrt(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".approx")
	fm := floatMods(m)
	t, err := m.typeOf(tF32, tF64)
	if err != nil {
		return err
	}
	mode, ftz := fm.mode, fm.ftz
	if t == tF64 {
		return d.op1(in, t, t, func(a uint64) uint64 { return sqrtF64(a, mode) })
	}
	return d.op1(in, t, t, func(a uint64) uint64 { return ftzIf(ftz, sqrtF32(ftzIf(ftz, a), mode)) })
}

func decRsqrt(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".approx")
	ftz := m.flag(".ftz")
	t, err := m.typeOf(tF32, tF64)
	if err != nil {
		return err
	}
	if t == tF64 {
		return d.op1(in, t, t, func(a uint64) uint64 {
			if ftz { // as rcp: only the upper half is meant
				if a>>52&0x7ff == 0 {
					a &= sign64
				}
				return nan64of(b64(1/math.Sqrt(f64(a&^0xffffffff)))) &^ 0xffffffff
			}
			return nan64of(b64(1/math.Sqrt(f64(a))), a)
		})
	}
	return d.op1(in, t, t, func(a uint64) uint64 {
		return ftzIf(ftz, b32(float32(1/math.Sqrt(float64(f32(ftzIf(ftz, a)))))))
	})
}

var approxFuncs = map[string]func(float64) float64{
	"sin": math.Sin, "cos": math.Cos, "lg2": log2, "ex2": math.Exp2, "tanh": math.Tanh,
}

// log2 is exact on powers of two.
func log2(x float64) float64 {
	if x < 0 {
		return math.NaN()
	}
	frac, e := math.Frexp(x)
	if frac == 0.5 {
		return float64(e - 1)
	}
	return math.Log2(x)
}

func decApprox(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".approx")
	ftz := m.flag(".ftz")
	ts := []typ{tF32}
	if in.Op == "ex2" || in.Op == "tanh" {
		ts = []typ{tF32, tF16, tF16x2, tBF16, tBF16x2}
	}
	t, err := m.typeOf(ts...)
	if err != nil {
		return err
	}
	f := approxFuncs[in.Op]
	if t == tF32 {
		return d.op1(in, t, t, func(a uint64) uint64 { return ftzIf(ftz, b32(float32(f(float64(f32(ftzIf(ftz, a))))))) })
	}
	ft := formatOf(t)
	half := func(a, b, c uint64) uint64 {
		if ftz && ft == fmtBF16 && a&0x7f80 == 0 {
			a &= 0x8000
		}
		return uint64(f64ToFmt(f(fmtToF64(uint32(a), ft)), ft, rn))
	}
	if t == tF16x2 || t == tBF16x2 {
		half = packed(half)
	}
	return d.op1(in, t, t, func(a uint64) uint64 { return half(a, 0, 0) })
}

func decAbsNeg(d *decoder, m *mods, in *ptx.Inst) error {
	ftz := m.flag(".ftz")
	t := m.typ()
	switch {
	case t == tS16 || t == tS32 || t == tS64:
		if in.Op == "abs" {
			return absInt(d, in, t)
		}
		return negInt(d, in, t)
	case t == tF32 || t == tF64 || t == tF16 || t == tBF16 || t == tF16x2 || t == tBF16x2:
	default:
		return notSupported(in.Pos, "%s on type %s", in.Op, t)
	}
	sign := uint64(1) << (t.bits() - 1)
	if t == tF16x2 || t == tBF16x2 {
		sign = 0x80008000
	}
	abs := in.Op == "abs"
	return d.op1(in, t, t, func(a uint64) uint64 {
		switch t {
		case tF32:
			a = ftzIf(ftz, a)
			if x := f32(a); x != x {
				return nan32
			}
		case tF16, tF16x2:
			if ftz {
				for sh := uint(0); sh < t.bits(); sh += 16 {
					if a>>sh&0x7c00 == 0 {
						a &^= 0x3ff << sh
					}
				}
			}
		}
		if abs {
			return a &^ sign
		}
		return a ^ sign
	})
}

// fminmax is min or max of one format given as bits; nan is its canonical NaN.
func fminmax(isMin, propagate, xorsign bool, sign, inf, nan uint64) func(a, b uint64) uint64 {
	return func(a, b uint64) uint64 {
		var s uint64
		if xorsign {
			s = (a ^ b) & sign
			a, b = a&^sign, b&^sign
		}
		an, bn := a&^sign > inf, b&^sign > inf
		switch {
		case an && bn, propagate && (an || bn):
			return nan
		case an:
			return b | s
		case bn:
			return a | s
		}
		less := fless(a, b, sign)
		if less != isMin {
			a = b
		}
		if xorsign {
			return a | s
		}
		return a
	}
}

// fless orders bits of one format, -0 below +0, NaN excluded.
func fless(a, b, sign uint64) bool {
	if a&sign != 0 {
		if b&sign != 0 {
			return a&^sign > b&^sign
		}
		return true
	}
	return b&sign == 0 && a < b
}

func decMinMax(d *decoder, m *mods, in *ptx.Inst) error {
	t := peekType(m)
	if t.integer() && t.size() > 1 || t == tU16x2 || t == tS16x2 {
		m.typ()
		return minMaxInt(d, m, in, t)
	}
	ftz := m.flag(".ftz")
	prop := m.flag(".NaN")
	xs := m.flag(".xorsign")
	if xs && !m.flag(".abs") {
		return d.errorf(in.Pos, "%s.xorsign wants .abs", in.Op)
	}
	t, err := m.typeOf(floatTypes...)
	if err != nil {
		return err
	}
	var f func(a, b uint64) uint64
	isMin := in.Op == "min"
	switch t {
	case tF32:
		f = fminmax(isMin, prop, xs, 1<<31, 0x7f800000, nan32)
		if ftz {
			g := f
			f = func(a, b uint64) uint64 { return g(ftz32(a), ftz32(b)) }
		}
	case tF64:
		f = fminmax(isMin, prop, xs, sign64, 0x7ff0000000000000, nan64)
	default:
		ft := formatOf(t)
		inf := uint64(1<<ft.ebits-1) << ft.mbits
		f = fminmax(isMin, prop, xs, 0x8000, inf, nan16)
		if ftz {
			g := f
			flush := func(v uint64) uint64 {
				if v&inf == 0 {
					v &= 0x8000
				}
				return v
			}
			f = func(a, b uint64) uint64 { return g(flush(a), flush(b)) }
		}
		if t == tF16x2 || t == tBF16x2 {
			g := f
			f = func(a, b uint64) uint64 { return g(a&0xffff, b&0xffff) | g(a>>16, b>>16)<<16 }
		}
	}
	if len(in.Args) == 4 { // three operands (PTX ISA 8.8, f32)
		return d.op3(in, t, t, t, t, func(a, b, c uint64) uint64 { return f(f(a, b), c) }, nil)
	}
	return d.op2(in, t, t, t, f, nil)
}

func decTestp(d *decoder, m *mods, in *ptx.Inst) error {
	op := m.oneOf(".finite", ".infinite", ".number", ".notanumber", ".normal", ".subnormal")
	t, err := m.typeOf(tF32, tF64)
	if err != nil {
		return err
	}
	if op == "" {
		return d.errorf(in.Pos, "testp wants a property such as .finite")
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], t)
	if err != nil {
		return err
	}
	p, err := d.pdst(&in.Args[0])
	if err != nil {
		return err
	}
	expBits, manBits := uint(8), uint(23)
	if t == tF64 {
		expBits, manBits = 11, 52
	}
	d.emit(inst{guard: -1, p: p, a: s[0], b: s[0], run: runSetp, cmp: func(a, _ uint64) bool {
		e := a >> manBits & (1<<expBits - 1)
		man := a & (1<<manBits - 1)
		top := e == 1<<expBits-1
		switch op {
		case ".finite":
			return !top
		case ".infinite":
			return top && man == 0
		case ".number":
			return !(top && man != 0)
		case ".notanumber":
			return top && man != 0
		case ".normal":
			return !top && e != 0
		}
		return e == 0 && man != 0
	}, q: -1, s: -1})
	return nil
}

func decCopysign(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(tF32, tF64)
	if err != nil {
		return err
	}
	sign := uint64(1) << (t.bits() - 1)
	// d = magnitude of b with the sign of a
	return d.op2(in, t, t, t, func(a, b uint64) uint64 { return b&^sign | a&sign }, nil)
}
