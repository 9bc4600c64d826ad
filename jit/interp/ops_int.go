package interp

import (
	"math/bits"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

var (
	intTypes   = []typ{tU16, tU32, tU64, tS16, tS32, tS64}
	int3264    = []typ{tU32, tU64, tS32, tS64}
	bitTypes   = []typ{tB16, tB32, tB64}
	bit3264    = []typ{tB32, tB64}
	noFast     func(*warp, *inst, uint32)
	anyIntName = ".u16 .u32 .u64 .s16 .s32 .s64"
)

func init() {
	register("Integer arithmetic", map[string]opInfo{
		"mul24":    {forms: ".hi .lo; .u32 .s32", decode: decMul24},
		"mad24":    {forms: ".hi .lo; .u32 .s32; .hi.sat.s32", decode: decMad24},
		"sad":      {forms: anyIntName, decode: decSad},
		"rem":      {forms: anyIntName, decode: decRem},
		"popc":     {forms: ".b32 .b64", decode: decPopc},
		"clz":      {forms: ".b32 .b64", decode: decClz},
		"bfind":    {forms: ".shiftamt; .u32 .u64 .s32 .s64", decode: decBfind},
		"fns":      {forms: ".b32", decode: decFns},
		"brev":     {forms: ".b32 .b64", decode: decBrev},
		"bfe":      {forms: ".u32 .u64 .s32 .s64", decode: decBfe},
		"bfi":      {forms: ".b32 .b64", decode: decBfi},
		"szext":    {forms: ".clamp .wrap; .u32 .s32", decode: decSzext},
		"bmsk":     {forms: ".clamp .wrap; .b32", decode: decBmsk},
		"dp4a":     {forms: ".u32/.s32 × .u32/.s32", decode: decDp4a},
		"dp2a":     {forms: ".lo .hi; .u32/.s32 × .u32/.s32", decode: decDp2a},
		"addc":     {forms: ".cc; .u32 .s32 .u64 .s64", decode: decCarry},
		"subc":     {forms: ".cc; .u32 .s32 .u64 .s64", decode: decCarry},
		"madc":     {forms: ".hi .lo; .cc; .u32 .s32 .u64 .s64", decode: decMadc},
		"prmt":     {forms: ".b32; .f4e .b4e .rc8 .ecl .ecr .rc16", decode: decPrmt},
		"isspacep": {forms: ".const .global .local .shared{::cta,::cluster} .param{::entry}", decode: decIsspacep},
	})
	register("Logic and shift", map[string]opInfo{
		"and":  {forms: ".pred .b16 .b32 .b64", decode: decLogic},
		"or":   {forms: ".pred .b16 .b32 .b64", decode: decLogic},
		"xor":  {forms: ".pred .b16 .b32 .b64", decode: decLogic},
		"not":  {forms: ".pred .b16 .b32 .b64", decode: decNot},
		"cnot": {forms: ".b16 .b32 .b64", decode: decCnot},
		"lop3": {forms: ".b32; .and .or with predicate", decode: decLop3},
		"shf":  {forms: ".l .r; .clamp .wrap; .b32", decode: decShf},
		"shl":  {forms: ".b16 .b32 .b64", decode: decShl},
		"shr":  {forms: ".b16 .b32 .b64 and " + anyIntName, decode: decShr},
	})
}

// --- add, sub, mul, mad on integers; the float forms are in ops_float.go.

func decIntAddSub(d *decoder, m *mods, in *ptx.Inst, t typ) error {
	sub := in.Op == "sub"
	if m.flag(".cc") {
		return d.carry(in, t, sub, false, true)
	}
	if m.flag(".sat") {
		if t != tS32 {
			return notSupported(in.Pos, "%s.sat on %s: only .s32 saturates", in.Op, t)
		}
		return d.op2(in, t, t, t, func(a, b uint64) uint64 {
			y := int64(int32(b))
			if sub {
				y = -y
			}
			return uint64(uint32(clamp(int64(int32(a))+y, -1<<31, 1<<31-1)))
		}, nil)
	}
	if t == tU16x2 || t == tS16x2 {
		return d.op2(in, t, t, t, func(a, b uint64) uint64 {
			if sub {
				return (a-b)&0xffff | uint64(uint16(a>>16)-uint16(b>>16))<<16
			}
			return (a+b)&0xffff | uint64(uint16(a>>16)+uint16(b>>16))<<16
		}, nil)
	}
	mask := t.mask()
	if sub {
		return d.op2(in, t, t, t, func(a, b uint64) uint64 { return (a - b) & mask }, nil)
	}
	fast := noFast
	switch t.size() {
	case 4:
		fast = runAdd32
	case 8:
		fast = runAdd64
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 { return (a + b) & mask }, fast)
}

func clamp(v, lo, hi int64) int64 { return max(lo, min(hi, v)) }

// mulFull gives the 2n-bit product of two n-bit values as (high, low) n-bit halves.
func mulFull(t typ, a, b uint64) (hi, lo uint64) {
	a, b = t.widen(a), t.widen(b)
	n := t.bits()
	if n < 64 {
		p := a * b // exact: at most 2n ≤ 64 bits
		return p >> n & t.mask(), p & t.mask()
	}
	hi, lo = bits.Mul64(a, b)
	if t.signed() {
		if int64(a) < 0 {
			hi -= b
		}
		if int64(b) < 0 {
			hi -= a
		}
	}
	return hi, lo
}

func decIntMul(d *decoder, m *mods, in *ptx.Inst, t typ) error {
	mad := in.Op == "mad"
	mode := m.oneOf(".lo", ".hi", ".wide")
	if mode == "" {
		return d.errorf(in.Pos, "%s on integers wants .lo, .hi or .wide", in.Op)
	}
	if m.flag(".cc") {
		if !mad {
			return notSupported(in.Pos, "mul.cc")
		}
		return d.madc(in, t, mode, false, true)
	}
	sat := m.flag(".sat")
	if mode == ".wide" {
		if t.size() > 4 {
			return d.errorf(in.Pos, "%s.wide takes 16- and 32-bit types", in.Op)
		}
		wt := map[typ]typ{tU16: tU32, tS16: tS32, tU32: tU64, tS32: tS64}[t]
		wm := wt.mask()
		f := func(a, b uint64) uint64 { return t.widen(a) * t.widen(b) & wm }
		if mad {
			return d.op3(in, wt, t, t, wt, func(a, b, c uint64) uint64 { return (f(a, b) + c) & wm }, nil)
		}
		fast := noFast
		switch t {
		case tS32:
			fast = runMulWideS32
		case tU32:
			fast = runMulWideU32
		}
		return d.op2(in, wt, t, t, f, fast)
	}
	pick := func(a, b uint64) uint64 {
		hi, lo := mulFull(t, a, b)
		if mode == ".hi" {
			return hi
		}
		return lo
	}
	if !mad {
		fast := noFast
		if mode == ".lo" && t.size() == 4 {
			fast = runMul32
		}
		return d.op2(in, t, t, t, pick, fast)
	}
	mask := t.mask()
	if sat {
		if t != tS32 || mode != ".hi" {
			return notSupported(in.Pos, "mad.sat other than mad.hi.sat.s32")
		}
		return d.op3(in, t, t, t, t, func(a, b, c uint64) uint64 {
			return uint64(uint32(clamp(int64(int32(pick(a, b)))+int64(int32(c)), -1<<31, 1<<31-1)))
		}, nil)
	}
	fast := noFast
	if mode == ".lo" && t.size() == 4 {
		fast = runMad32
	}
	return d.op3(in, t, t, t, t, func(a, b, c uint64) uint64 { return (pick(a, b) + c) & mask }, fast)
}

func decIntDiv(d *decoder, in *ptx.Inst, t typ) error {
	mask := t.mask()
	if t.signed() {
		return d.op2(in, t, t, t, func(a, b uint64) uint64 {
			x, y := int64(t.widen(a)), int64(t.widen(b))
			if y == 0 {
				return mask // unspecified by the ISA; the hardware gives all ones
			}
			if y == -1 {
				return uint64(-x) & mask
			}
			return uint64(x/y) & mask
		}, nil)
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 {
		if b == 0 {
			return mask
		}
		return a / b
	}, nil)
}

func decRem(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(intTypes...)
	if err != nil {
		return err
	}
	mask := t.mask()
	if t.signed() {
		return d.op2(in, t, t, t, func(a, b uint64) uint64 {
			x, y := int64(t.widen(a)), int64(t.widen(b))
			if y == 0 {
				return a // unspecified by the ISA
			}
			if y == -1 {
				return 0
			}
			return uint64(x%y) & mask
		}, nil)
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 {
		if b == 0 {
			return a
		}
		return a % b
	}, nil)
}

func mul24(hi, signed bool, a, b uint64) uint64 {
	if signed {
		p := uint64(sext(a, 24) * sext(b, 24))
		if hi {
			return p >> 16 & 0xffffffff
		}
		return p & 0xffffffff
	}
	p := (a & 0xffffff) * (b & 0xffffff)
	if hi {
		return p >> 16 & 0xffffffff
	}
	return p & 0xffffffff
}

func decMul24(d *decoder, m *mods, in *ptx.Inst) error {
	hi := m.oneOf(".hi", ".lo") == ".hi"
	t, err := m.typeOf(tU32, tS32)
	if err != nil {
		return err
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 { return mul24(hi, t == tS32, a, b) }, nil)
}

func decMad24(d *decoder, m *mods, in *ptx.Inst) error {
	hi := m.oneOf(".hi", ".lo") == ".hi"
	sat := m.flag(".sat")
	t, err := m.typeOf(tU32, tS32)
	if err != nil {
		return err
	}
	return d.op3(in, t, t, t, t, func(a, b, c uint64) uint64 {
		p := mul24(hi, t == tS32, a, b)
		if sat {
			return uint64(uint32(clamp(int64(int32(p))+int64(int32(c)), -1<<31, 1<<31-1)))
		}
		return (p + c) & 0xffffffff
	}, nil)
}

func decSad(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(intTypes...)
	if err != nil {
		return err
	}
	mask := t.mask()
	return d.op3(in, t, t, t, t, func(a, b, c uint64) uint64 {
		x, y := t.widen(a), t.widen(b)
		less := x < y
		if t.signed() {
			less = int64(x) < int64(y)
		}
		if less {
			x, y = y, x
		}
		return (c + x - y) & mask
	}, nil)
}

func absInt(d *decoder, in *ptx.Inst, t typ) error {
	mask := t.mask()
	return d.op1(in, t, t, func(a uint64) uint64 {
		v := int64(t.widen(a))
		if v < 0 {
			v = -v
		}
		return uint64(v) & mask
	})
}

func negInt(d *decoder, in *ptx.Inst, t typ) error {
	mask := t.mask()
	return d.op1(in, t, t, func(a uint64) uint64 { return -a & mask })
}

func minMaxInt(d *decoder, m *mods, in *ptx.Inst, t typ) error {
	isMin := in.Op == "min"
	relu := m.flag(".relu")
	if relu && t != tS32 && t != tS16x2 {
		return notSupported(in.Pos, "%s.relu on %s", in.Op, t)
	}
	one := func(t typ) func(a, b uint64) uint64 {
		return func(a, b uint64) uint64 {
			less := a < b
			if t.signed() {
				less = int64(t.widen(a)) < int64(t.widen(b))
			}
			if less != isMin {
				a = b
			}
			if relu && int64(t.widen(a)) < 0 {
				return 0
			}
			return a
		}
	}
	if t == tU16x2 || t == tS16x2 {
		half := tU16
		if t == tS16x2 {
			half = tS16
		}
		f := one(half)
		return d.op2(in, t, t, t, func(a, b uint64) uint64 {
			return f(a&0xffff, b&0xffff) | f(a>>16, b>>16)<<16
		}, nil)
	}
	return d.op2(in, t, t, t, one(t), nil)
}

func decPopc(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(bit3264...)
	if err != nil {
		return err
	}
	return d.op1(in, tU32, t, func(a uint64) uint64 { return uint64(bits.OnesCount64(a)) })
}

func decClz(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(bit3264...)
	if err != nil {
		return err
	}
	n := int(64 - t.bits())
	return d.op1(in, tU32, t, func(a uint64) uint64 { return uint64(bits.LeadingZeros64(a) - n) })
}

func decBfind(d *decoder, m *mods, in *ptx.Inst) error {
	shift := m.flag(".shiftamt")
	t, err := m.typeOf(int3264...)
	if err != nil {
		return err
	}
	n := int(t.bits())
	return d.op1(in, tU32, t, func(a uint64) uint64 {
		v := t.widen(a)
		if t.signed() && int64(v) < 0 {
			v = ^v
		}
		p := bits.Len64(v) - 1
		if p < 0 {
			return 0xffffffff
		}
		if shift {
			p = n - 1 - p
		}
		return uint64(p)
	})
}

func decFns(d *decoder, m *mods, in *ptx.Inst) error {
	if _, err := m.typeOf(tB32); err != nil {
		return err
	}
	return d.op3(in, tB32, tB32, tB32, tS32, func(a, b, c uint64) uint64 {
		mask, base, off := uint32(a), uint32(b), int32(c)
		if base > 31 {
			return 0xffffffff
		}
		switch {
		case off == 0:
			if mask>>base&1 != 0 {
				return uint64(base)
			}
		case off > 0:
			for i := base; i < 32; i++ {
				if mask>>i&1 != 0 {
					if off--; off == 0 {
						return uint64(i)
					}
				}
			}
		default:
			for i := int(base); i >= 0; i-- {
				if mask>>i&1 != 0 {
					if off++; off == 0 {
						return uint64(i)
					}
				}
			}
		}
		return 0xffffffff
	}, nil)
}

func decBrev(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(bit3264...)
	if err != nil {
		return err
	}
	n := 64 - t.bits()
	return d.op1(in, t, t, func(a uint64) uint64 { return bits.Reverse64(a) >> n })
}

func decBfe(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(int3264...)
	if err != nil {
		return err
	}
	n := uint64(t.bits())
	mask := t.mask()
	return d.op3(in, t, t, tU32, tU32, func(a, b, c uint64) uint64 {
		pos, length := b&0xff, c&0xff
		if length == 0 {
			return 0
		}
		v := t.widen(a)
		if t.signed() {
			// Beyond the top the sign bit repeats; the field's sign is its
			// highest bit that exists.
			x := int64(v) >> min(pos, 63)
			if length < 64 {
				x = sext(uint64(x), uint(length))
			}
			return uint64(x) & mask
		}
		if pos >= n {
			return 0
		}
		v >>= pos
		if length < 64 {
			v &= 1<<length - 1
		}
		return v
	}, nil)
}

func decBfi(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(bit3264...)
	if err != nil {
		return err
	}
	if err := d.args(in, 5, 5); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], t, t, tU32, tU32)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	tm := t.mask()
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: s[0], b: s[1], c: s[2], e: s[3], run: func(w *warp, in *inst, m uint32) {
		d, a, b, c, e := &w.r[in.d], &w.r[in.a], &w.r[in.b], &w.r[in.c], &w.r[in.e]
		for i := range d {
			if m>>i&1 == 0 {
				continue
			}
			pos, length := c[i]&0xff, e[i]&0xff
			mask := ^uint64(0)
			if length < 64 {
				mask = 1<<length - 1
			}
			mask = mask << pos & tm // shifts of 64 and more give zero
			d[i] = b[i]&^mask | a[i]<<pos&mask
		}
	}})
	return nil
}

func decSzext(d *decoder, m *mods, in *ptx.Inst) error {
	wrap := m.oneOf(".clamp", ".wrap") == ".wrap"
	t, err := m.typeOf(tU32, tS32)
	if err != nil {
		return err
	}
	return d.op2(in, t, t, tU32, func(a, b uint64) uint64 {
		n := b & 0xffffffff
		if wrap {
			n &= 31
		}
		switch {
		case n == 0:
			return 0
		case n >= 32:
			return a
		case t == tS32:
			return uint64(uint32(sext(a, uint(n))))
		}
		return a & (1<<n - 1)
	}, nil)
}

func decBmsk(d *decoder, m *mods, in *ptx.Inst) error {
	wrap := m.oneOf(".clamp", ".wrap") == ".wrap"
	if _, err := m.typeOf(tB32); err != nil {
		return err
	}
	return d.op2(in, tB32, tB32, tB32, func(a, b uint64) uint64 {
		if wrap {
			a, b = a&31, b&31
		}
		if a >= 32 || b == 0 {
			return 0
		}
		mask := uint64(0xffffffff)
		if b < 32 {
			mask = 1<<b - 1
		}
		return mask << a & 0xffffffff
	}, nil)
}

// dpTypes reads .atype.btype.
func dpTypes(m *mods) (a, b typ, err error) {
	if a, err = m.typeOf(tU32, tS32); err != nil {
		return
	}
	b, err = m.typeOf(tU32, tS32)
	return
}

func decDp4a(d *decoder, m *mods, in *ptx.Inst) error {
	at, bt, err := dpTypes(m)
	if err != nil {
		return err
	}
	ct := tU32
	if at == tS32 || bt == tS32 {
		ct = tS32
	}
	return d.op3(in, ct, at, bt, ct, func(a, b, c uint64) uint64 {
		for i := 0; i < 32; i += 8 {
			x, y := a>>i&0xff, b>>i&0xff
			if at == tS32 {
				x = uint64(sext(x, 8))
			}
			if bt == tS32 {
				y = uint64(sext(y, 8))
			}
			c += x * y
		}
		return c & 0xffffffff
	}, nil)
}

func decDp2a(d *decoder, m *mods, in *ptx.Inst) error {
	hi := m.oneOf(".lo", ".hi") == ".hi"
	at, bt, err := dpTypes(m)
	if err != nil {
		return err
	}
	ct := tU32
	if at == tS32 || bt == tS32 {
		ct = tS32
	}
	return d.op3(in, ct, at, bt, ct, func(a, b, c uint64) uint64 {
		if hi {
			b >>= 16
		}
		for i := 0; i < 2; i++ {
			x, y := a>>(16*i)&0xffff, b>>(8*i)&0xff
			if at == tS32 {
				x = uint64(sext(x, 16))
			}
			if bt == tS32 {
				y = uint64(sext(y, 8))
			}
			c += x * y
		}
		return c & 0xffffffff
	}, nil)
}

// --- carry chain: the condition code is a predicate of the frame.

func (d *decoder) ccSlot() int32 {
	s := d.scopes[0].names["%cc"]
	if s == nil {
		s = &symbol{v: &ptx.Var{Space: ".reg", Type: ".pred"}, reg: true, pred: true, slot: d.newPred()}
		d.scopes[0].names["%cc"] = s
	}
	return s.slot
}

func decCarry(d *decoder, m *mods, in *ptx.Inst) error {
	cc := m.flag(".cc")
	t, err := m.typeOf(int3264...)
	if err != nil {
		return err
	}
	return d.carry(in, t, in.Op == "subc", true, cc)
}

// carry decodes add and sub with carry in (use) and carry out (set).
func (d *decoder) carry(in *ptx.Inst, t typ, sub, use, set bool) error {
	if err := d.args(in, 3, 3); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], t, t)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	cc := d.ccSlot()
	n := t.bits()
	mask := t.mask()
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: s[0], b: s[1], run: func(w *warp, in *inst, m uint32) {
		d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
		old := w.p[cc]
		var out uint32
		for i := range d {
			if m>>i&1 == 0 {
				continue
			}
			var c, r, co uint64
			if use {
				c = uint64(old >> i & 1)
			}
			if sub {
				r, co = bits.Sub64(a[i], b[i], c)
			} else {
				r, co = bits.Add64(a[i], b[i], c)
				if n == 32 {
					co = r >> 32
				}
			}
			d[i] = r & mask
			out |= uint32(co&1) << i
		}
		if set {
			w.p[cc] = old&^m | out
		}
	}})
	return nil
}

func decMadc(d *decoder, m *mods, in *ptx.Inst) error {
	mode := m.oneOf(".lo", ".hi")
	cc := m.flag(".cc")
	t, err := m.typeOf(int3264...)
	if err != nil {
		return err
	}
	return d.madc(in, t, mode, true, cc)
}

func (d *decoder) madc(in *ptx.Inst, t typ, mode string, use, set bool) error {
	if mode == ".wide" || mode == "" {
		return d.errorf(in.Pos, "%s with carry wants .lo or .hi", in.Op)
	}
	if err := d.args(in, 4, 4); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], t, t, t)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	cc := d.ccSlot()
	n, mask := t.bits(), t.mask()
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: s[0], b: s[1], c: s[2], run: func(w *warp, in *inst, m uint32) {
		d, a, b, c := &w.r[in.d], &w.r[in.a], &w.r[in.b], &w.r[in.c]
		old := w.p[cc]
		var out uint32
		for i := range d {
			if m>>i&1 == 0 {
				continue
			}
			hi, lo := mulFull(t, a[i], b[i])
			if mode == ".hi" {
				lo = hi
			}
			var ci uint64
			if use {
				ci = uint64(old >> i & 1)
			}
			r, co := bits.Add64(lo, c[i], ci)
			if n == 32 {
				co = r >> 32
			}
			d[i] = r & mask
			out |= uint32(co&1) << i
		}
		if set {
			w.p[cc] = old&^m | out
		}
	}})
	return nil
}
