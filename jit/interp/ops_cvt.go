package interp

import (
	"math"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Data movement and conversion", map[string]opInfo{
		"mov": {forms: ".pred .b16 .b32 .b64 .u16 .u32 .u64 .s16 .s32 .s64 .f32 .f64; .b128 .v2 .v4; packing and unpacking of vectors; addresses; special registers", decode: decMov},
		"cvt": {forms: ".rni .rzi .rmi .rpi .rn .rz .rm .rp .rna .ftz .sat .relu .satfinite; between integers, .f16 .bf16 .tf32 .f32 .f64; packed .f16x2 .bf16x2 .e4m3x2 .e5m2x2; cvt.pack", decode: decCvt},
	})
}

var cvtTypes = []typ{tU8, tU16, tU32, tU64, tS8, tS16, tS32, tS64, tF16, tBF16, tTF32, tF32, tF64,
	tF16x2, tBF16x2, tE4M3x2, tE5M2x2, tB8, tB16, tB32, tB64}

var irounds = map[string]func(float64) float64{".rni": math.RoundToEven, ".rzi": math.Trunc, ".rmi": math.Floor, ".rpi": math.Ceil}

// cvtSpec is a decoded cvt.
type cvtSpec struct {
	dt, st    typ
	irnd      string
	mode      rmode
	ftz, sat  bool
	relu      bool
	satfinite bool
}

func decCvt(d *decoder, m *mods, in *ptx.Inst) error {
	if m.flag(".pack") {
		return decCvtPack(d, m, in)
	}
	var c cvtSpec
	c.irnd = m.oneOf(".rni", ".rzi", ".rmi", ".rpi")
	c.mode = rmodes[m.oneOf(".rn", ".rz", ".rm", ".rp", ".rna")]
	c.ftz, c.relu, c.satfinite, c.sat = m.flag(".ftz"), m.flag(".relu"), m.flag(".satfinite"), m.flag(".sat")
	var err error
	if c.dt, err = m.typeOf(cvtTypes...); err != nil {
		return err
	}
	if c.st, err = m.typeOf(cvtTypes...); err != nil {
		return err
	}
	switch c.dt {
	case tF16x2, tBF16x2, tE4M3x2, tE5M2x2:
		return d.cvtPacked(in, c)
	}
	f, err := c.scalar(d)
	if err != nil {
		return err
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	s, err := d.src(&in.Args[1], c.st, true)
	if err != nil {
		return err
	}
	rt := c.dt
	dst, width, err := d.dst(&in.Args[0], rt, true)
	if err != nil {
		return err
	}
	if c.dt.signed() && width > c.dt.bits() && width <= 64 {
		n, wm := c.dt.bits(), ^uint64(0)>>(64-width)
		g := f
		f = func(a uint64) uint64 { return uint64(sext(g(a), n)) & wm }
	}
	d.emit(inst{guard: -1, run: run1, d: d.orTemp(dst), a: s, f1: f})
	return nil
}

// toF64 gives the function that widens a float of type t exactly.
func widenFloat(t typ, ftz bool) func(uint64) float64 {
	switch t {
	case tF64:
		return f64
	case tF32:
		if ftz {
			return func(v uint64) float64 { return float64(f32(ftz32(v & 0xffffffff))) }
		}
		return func(v uint64) float64 { return float64(f32(v)) }
	case tF16:
		return func(v uint64) float64 { return fmtToF64(uint32(v&0xffff), fmtF16) }
	}
	return func(v uint64) float64 { return fmtToF64(uint32(v&0xffff), fmtBF16) }
}

// narrowFloat gives the function that rounds to a float of type t.
func narrowFloat(t typ, mode rmode) func(float64) uint64 {
	switch t {
	case tF64:
		return b64
	case tF32:
		return func(x float64) uint64 { return toF32(x, mode) }
	case tTF32:
		return func(x float64) uint64 { return uint64(f64ToFmt(x, fmtTF32, mode)) << 13 }
	}
	f := formatOf(t)
	return func(x float64) uint64 { return uint64(f64ToFmt(x, f, mode)) }
}

// satUnit clamps a float of type t to [0, 1], NaN to 0.
func satUnit(t typ, v uint64) uint64 {
	switch t {
	case tF32:
		return sat32(v)
	case tF64:
		return sat64(v)
	}
	f := formatOf(t)
	x := fmtToF64(uint32(v), f)
	switch {
	case !(x > 0):
		return 0
	case x > 1:
		return uint64(1<<(f.ebits-1)-1) << f.mbits
	}
	return v
}

// scalar makes the function of an unpacked conversion (PTX ISA 9.7.9.21).
func (c cvtSpec) scalar(d *decoder) (func(uint64) uint64, error) {
	dt, st := c.dt, c.st
	sf := st.float()
	df := dt.float()
	switch {
	case !sf && !df:
		mask := dt.mask()
		if !c.sat {
			return func(a uint64) uint64 { return st.widen(a) & mask }, nil
		}
		return func(a uint64) uint64 { return satInt(dt, st.signed(), st.widen(a)) }, nil
	case sf && !df:
		rnd := irounds[c.irnd]
		if rnd == nil {
			return nil, d.errorf(d.in.Pos, "cvt from %s to %s wants .rni, .rzi, .rmi or .rpi", st, dt)
		}
		get := widenFloat(st, c.ftz)
		return func(a uint64) uint64 {
			x := get(a)
			if x != x {
				if st != tF64 && dt.size() < 8 {
					return 0
				}
				return 1 << (dt.bits() - 1)
			}
			return floatToInt(dt, rnd(x))
		}, nil
	case !sf && df:
		mode, sat := c.mode, c.sat
		put := narrowFloat(dt, mode)
		return func(a uint64) uint64 {
			v := st.widen(a)
			neg := st.signed() && int64(v) < 0
			if neg {
				v = -v
			}
			var r uint64
			if dt == tF64 {
				r = intToF64(neg, v, mode)
			} else {
				r = put(intToF64Odd(neg, v))
			}
			if sat {
				r = satUnit(dt, r)
			}
			return r
		}, nil
	}
	// float to float
	get := widenFloat(st, c.ftz)
	put := narrowFloat(dt, c.mode)
	rnd := irounds[c.irnd]
	ftz, sat, relu, fin := c.ftz, c.sat, c.relu, c.satfinite
	same := dt == st
	return func(a uint64) uint64 {
		x := get(a)
		var r uint64
		switch {
		case rnd != nil:
			r = put(rnd(x))
			if dt == tF64 {
				r = nan64of(r, a)
			}
		case same && x != x && dt == tF64:
			r = a | 1<<51
		default:
			r = put(x)
		}
		if ftz && dt == tF32 {
			r = ftz32(r)
		}
		if sat {
			r = satUnit(dt, r)
		}
		if relu && (dt == tF16 || dt == tBF16) && r&0x8000 != 0 {
			r = 0
		}
		if relu && (dt == tTF32) && r&(1<<31) != 0 {
			r = 0
		}
		if fin && x == x {
			r = finite(dt, r)
		}
		return r
	}, nil
}

// finite replaces an infinity by the largest finite value.
func finite(t typ, v uint64) uint64 {
	switch t {
	case tF16:
		if v&0x7fff == 0x7c00 {
			v--
		}
	case tBF16:
		if v&0x7fff == 0x7f80 {
			v--
		}
	case tTF32:
		if v&0x7fffffff == 0x7f800000 {
			v -= 1 << 13
		}
	}
	return v
}

// satInt clamps a 64-bit value to an integer type.
func satInt(dt typ, signed bool, v uint64) uint64 {
	if dt.signed() {
		lo, hi := int64(-1)<<(dt.bits()-1), int64(1)<<(dt.bits()-1)-1
		if !signed && v > uint64(hi) {
			return uint64(hi) & dt.mask()
		}
		return uint64(clamp(int64(v), lo, hi)) & dt.mask()
	}
	if signed && int64(v) < 0 {
		return 0
	}
	return min(v, dt.mask())
}

// floatToInt converts an integral x (or infinity), clamped to the type.
func floatToInt(dt typ, x float64) uint64 {
	if dt.signed() {
		limit := math.Ldexp(1, int(dt.bits())-1)
		switch {
		case x >= limit:
			return 1<<(dt.bits()-1) - 1
		case x < -limit:
			return 1 << (dt.bits() - 1)
		}
		return uint64(int64(x)) & dt.mask()
	}
	switch {
	case x <= 0:
		return 0
	case x >= math.Ldexp(1, int(dt.bits())):
		return dt.mask()
	case x >= 1<<63:
		return uint64(x-(1<<63)) | 1<<63
	}
	return uint64(x)
}

// cvtPacked is cvt to a packed type from two f32, or from a packed f16x2, or
// between 8-bit packed floats and f16x2.
func (d *decoder) cvtPacked(in *ptx.Inst, c cvtSpec) error {
	one := func(x float64) uint64 {
		switch c.dt {
		case tE4M3x2, tE5M2x2:
			f := fmtE4M3
			if c.dt == tE5M2x2 {
				f = fmtE5M2
			}
			v := uint64(f64ToFmt(x, f, c.mode))
			if x == x { // .satfinite is mandatory
				if f.finite && v&0x7f == 0x7f || !f.finite && v&0x7f == 0x7c {
					v--
				}
			}
			if c.relu && v&0x80 != 0 && x == x {
				v = 0
			}
			return v
		}
		t := tF16
		if c.dt == tBF16x2 {
			t = tBF16
		}
		v := uint64(f64ToFmt(x, formatOf(t), c.mode))
		if c.satfinite && x == x {
			v = finite(t, v)
		}
		if c.relu && v&0x8000 != 0 {
			v = 0
		}
		if c.sat {
			v = satUnit(t, v)
		}
		return v
	}
	bits := uint(16)
	if c.dt == tE4M3x2 || c.dt == tE5M2x2 {
		bits = 8
	}
	switch c.st {
	case tF32:
		ftz := c.ftz
		get := widenFloat(tF32, ftz)
		return d.op2(in, c.dt, tF32, tF32, func(a, b uint64) uint64 { return one(get(a))<<bits | one(get(b)) }, nil)
	case tF16x2, tBF16x2:
		f := formatOf(c.st)
		return d.op1(in, c.dt, c.st, func(a uint64) uint64 {
			return one(fmtToF64(uint32(a>>16), f))<<bits | one(fmtToF64(uint32(a&0xffff), f))
		})
	case tE4M3x2, tE5M2x2:
		f := fmtE4M3
		if c.st == tE5M2x2 {
			f = fmtE5M2
		}
		return d.op1(in, c.dt, c.st, func(a uint64) uint64 {
			return one(fmtToF64(uint32(a>>8&0xff), f))<<bits | one(fmtToF64(uint32(a&0xff), f))
		})
	}
	return notSupported(in.Pos, "cvt from %s to %s", c.st, c.dt)
}

// decCvtPack is cvt.pack.sat: two integers into the low part, shifting c up.
func decCvtPack(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".sat")
	ct := m.typ()
	names := map[string]uint{".u2": 2, ".s2": 2, ".u4": 4, ".s4": 4}
	bits := ct.bits()
	signed := ct.signed()
	if ct == tS32 || ct == tNone { // .u4.s32.b32: small types have no typ
		for n, b := range names {
			if m.flag(n) {
				bits, signed = b, n[1] == 's'
			}
		}
		if bits == 32 || bits == 0 {
			return notSupported(in.Pos, "cvt.pack without a narrow type")
		}
		if ct == tNone {
			m.flag(".s32")
		}
	} else if _, err := m.typeOf(tS32); err != nil {
		return err
	}
	m.flag(".b32")
	lo, hi := int64(0), int64(1)<<bits-1
	if signed {
		lo, hi = int64(-1)<<(bits-1), int64(1)<<(bits-1)-1
	}
	mask := uint64(1)<<bits - 1
	pack := func(a, b uint64) uint64 {
		return (uint64(clamp(int64(int32(a)), lo, hi))&mask)<<bits | uint64(clamp(int64(int32(b)), lo, hi))&mask
	}
	if len(in.Args) == 3 {
		return d.op2(in, tB32, tS32, tS32, pack, nil)
	}
	return d.op3(in, tB32, tS32, tS32, tB32, func(a, b, c uint64) uint64 {
		return (c<<(2*bits) | pack(a, b)) & 0xffffffff
	}, nil)
}

func decMov(d *decoder, m *mods, in *ptx.Inst) error {
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	if isWide(in.Mods) {
		return decMovWide(d, m, in)
	}
	dst, src := &in.Args[0], &in.Args[1]
	if m.flag(".pred") {
		s, err := d.psrc(src)
		if err != nil {
			return err
		}
		p, err := d.pdst(dst)
		if err != nil {
			return err
		}
		if p < 0 {
			p = d.newPred()
		}
		d.emit(inst{guard: -1, p: p, s: s, run: runPredMov})
		return nil
	}
	t, err := m.typeOf(tB16, tB32, tB64, tU16, tU32, tU64, tS16, tS32, tS64, tF32, tF64, tF16, tBF16, tF16x2, tBF16x2)
	if err != nil {
		return err
	}
	switch {
	case src.Kind == ptx.Vec && dst.Kind == ptx.Vec:
		return d.errorf(in.Pos, "mov between two vectors")
	case src.Kind == ptx.Vec:
		return d.pack(in, t)
	case dst.Kind == ptx.Vec:
		return d.unpack(in, t)
	}
	s, err := d.src(src, t, false)
	if err != nil {
		return err
	}
	o, _, err := d.dst(dst, t, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, run: runMov, d: d.orTemp(o), a: s})
	return nil
}

// partType gives the element type of a vector of n elements that fills t.
func (d *decoder) partType(t typ, n int, pos ptx.Pos) (typ, error) {
	if n > 0 && t.size()%n == 0 {
		switch t.size() / n {
		case 1:
			return tB8, nil
		case 2:
			return tB16, nil
		case 4:
			return tB32, nil
		}
	}
	return tNone, d.errorf(pos, "%d elements do not fill %s", n, t)
}

func (d *decoder) pack(in *ptx.Inst, t typ) error {
	elems := in.Args[1].Elems
	et, err := d.partType(t, len(elems), in.Args[1].Pos)
	if err != nil {
		return err
	}
	slots := make([]int32, len(elems))
	for i := range elems {
		if slots[i], err = d.src(&elems[i], et, et == tB8); err != nil {
			return err
		}
	}
	o, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	n, mask := et.bits(), et.mask()
	d.emit(inst{guard: -1, d: d.orTemp(o), table: slots, run: func(w *warp, in *inst, m uint32) {
		var tmp lanes
		for k, s := range in.table {
			a := &w.r[s]
			for i := range tmp {
				tmp[i] |= a[i] & mask << (uint(k) * n)
			}
		}
		d := &w.r[in.d]
		for i := range d {
			if m>>i&1 != 0 {
				d[i] = tmp[i]
			}
		}
	}})
	return nil
}

func (d *decoder) unpack(in *ptx.Inst, t typ) error {
	elems := in.Args[0].Elems
	et, err := d.partType(t, len(elems), in.Args[0].Pos)
	if err != nil {
		return err
	}
	s, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	slots := make([]int32, len(elems))
	for i := range elems {
		if slots[i], _, err = d.dst(&elems[i], et, et == tB8); err != nil {
			return err
		}
	}
	n, mask := et.bits(), et.mask()
	d.emit(inst{guard: -1, a: s, table: slots, run: func(w *warp, in *inst, m uint32) {
		src := w.r[in.a] // a copy: a destination may be the source
		for k, s := range in.table {
			if s < 0 {
				continue
			}
			d := &w.r[s]
			for i := range d {
				if m>>i&1 != 0 {
					d[i] = src[i] >> (uint(k) * n) & mask
				}
			}
		}
	}})
	return nil
}
