package interp

import (
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	const cmps = ".eq .ne .lt .le .gt .ge .lo .ls .hi .hs .equ .neu .ltu .leu .gtu .geu .num .nan"
	register("Comparison and selection", map[string]opInfo{
		"setp": {forms: cmps + "; .and .or .xor; .ftz; all types; d|p; .f16x2 .bf16x2", decode: decSetp},
		"set":  {forms: cmps + "; .and .or .xor; .ftz; .u32 .s32 .f32 .f16 .f16x2 .bf16 .bf16x2 from all types", decode: decSet},
		"selp": {forms: ".b16 .b32 .b64 .u16 .u32 .u64 .s16 .s32 .s64 .f32 .f64", decode: decSelp},
		"slct": {forms: "the same from .s32 and .f32; .ftz", decode: decSlct},
	})
}

const (
	cmpEQ = iota
	cmpNE
	cmpLT
	cmpLE
	cmpGT
	cmpGE
)

var cmpNames = map[string]int64{".eq": cmpEQ, ".ne": cmpNE, ".lt": cmpLT, ".le": cmpLE, ".gt": cmpGT, ".ge": cmpGE,
	".lo": cmpLT, ".ls": cmpLE, ".hi": cmpGT, ".hs": cmpGE}

var allCmps = []string{".eq", ".ne", ".lt", ".le", ".gt", ".ge", ".lo", ".ls", ".hi", ".hs",
	".equ", ".neu", ".ltu", ".leu", ".gtu", ".geu", ".num", ".nan"}

func ordered(code int64, less, equal bool) bool {
	switch code {
	case cmpEQ:
		return equal
	case cmpNE:
		return !equal
	case cmpLT:
		return less
	case cmpLE:
		return less || equal
	case cmpGT:
		return !less && !equal
	}
	return !less
}

// comparison makes the function of a comparison on type t.
func comparison(d *decoder, op string, t typ, ftz bool) (func(a, b uint64) bool, error) {
	if !t.float() {
		code, ok := cmpNames[op]
		if !ok {
			return nil, d.errorf(d.in.Pos, "comparison %s is not one for type %s", op, t)
		}
		switch {
		case t.signed() && op != ".lo" && op != ".ls" && op != ".hi" && op != ".hs":
			n := t.bits()
			return func(a, b uint64) bool { x, y := sext(a, n), sext(b, n); return ordered(code, x < y, x == y) }, nil
		}
		return func(a, b uint64) bool { return ordered(code, a < b, a == b) }, nil
	}
	val := func(v uint64) float64 { return float64(f32(v)) }
	switch t {
	case tF64:
		val = f64
	case tF16, tBF16:
		f := formatOf(t)
		val = func(v uint64) float64 {
			if ftz && v&(1<<(f.ebits+f.mbits)-1)>>f.mbits == 0 {
				return 0
			}
			return fmtToF64(uint32(v), f)
		}
	case tF32:
		if ftz {
			val = func(v uint64) float64 { return float64(f32(ftz32(v))) }
		}
	}
	switch op {
	case ".num":
		return func(a, b uint64) bool { x, y := val(a), val(b); return x == x && y == y }, nil
	case ".nan":
		return func(a, b uint64) bool { x, y := val(a), val(b); return x != x || y != y }, nil
	}
	unordered := false
	if code, ok := cmpNames[op]; ok && op != ".lo" && op != ".ls" && op != ".hi" && op != ".hs" {
		return func(a, b uint64) bool {
			x, y := val(a), val(b)
			return x == x && y == y && ordered(code, x < y, x == y)
		}, nil
	}
	if strings.HasSuffix(op, "u") {
		if code, ok := cmpNames[strings.TrimSuffix(op, "u")]; ok {
			unordered = true
			return func(a, b uint64) bool {
				x, y := val(a), val(b)
				return unordered && (x != x || y != y) || ordered(code, x < y, x == y)
			}, nil
		}
	}
	return nil, d.errorf(d.in.Pos, "comparison %s is not one for type %s", op, t)
}

// runSetp sets p to cmp(a, b) and q to its opposite, both combined with s as
// in.imm says: 0 nothing, 1 and, 2 or, 3 xor.
func runSetp(w *warp, in *inst, m uint32) {
	a, b := &w.r[in.a], &w.r[in.b]
	var out uint32
	f := in.cmp
	for i := range a {
		if m>>i&1 != 0 && f(a[i], b[i]) {
			out |= 1 << i
		}
	}
	no := ^out
	if in.s >= 0 {
		out, no = boolOp(in.imm, out, w.p[in.s]), boolOp(in.imm, no, w.p[in.s])
	}
	if in.p >= 0 {
		w.p[in.p] = w.p[in.p]&^m | out&m
	}
	if in.q >= 0 {
		w.p[in.q] = w.p[in.q]&^m | no&m
	}
}

func boolOp(op int64, a, b uint32) uint32 {
	switch op {
	case 1:
		return a & b
	case 2:
		return a | b
	case 3:
		return a ^ b
	}
	return a
}

var boolOps = map[string]int64{"": 0, ".and": 1, ".or": 2, ".xor": 3}

var setTypes = []typ{tB16, tB32, tB64, tU16, tU32, tU64, tS16, tS32, tS64, tF32, tF64, tF16, tF16x2, tBF16, tBF16x2}

// compared decodes what setp and set compare, and the predicate that the result is combined with, -1 without bop.
func (d *decoder) compared(in *ptx.Inst, bop string, t typ) (a, b, with int32, err error) {
	n := 3
	if bop != "" {
		n = 4
	}
	if err := d.args(in, n, n); err != nil {
		return -1, -1, -1, err
	}
	s, err := d.srcs(in.Args[1:], t, t)
	if err != nil {
		return -1, -1, -1, err
	}
	with = -1
	if bop != "" {
		if with, err = d.psrc(&in.Args[3]); err != nil {
			return -1, -1, -1, err
		}
	}
	return s[0], s[1], with, nil
}

func decSetp(d *decoder, m *mods, in *ptx.Inst) error {
	op := m.oneOf(allCmps...)
	bop := m.oneOf(".and", ".or", ".xor")
	ftz := m.flag(".ftz")
	t, err := m.typeOf(setTypes...)
	if err != nil {
		return err
	}
	a, b, with, err := d.compared(in, bop, t)
	if err != nil {
		return err
	}
	x := inst{guard: -1, a: a, b: b, p: -1, q: -1, s: with, imm: boolOps[bop], run: runSetp}
	o := &in.Args[0]
	if o.Kind == ptx.Pair {
		if x.q, err = d.pdst(&o.Elems[1]); err != nil {
			return err
		}
		o = &o.Elems[0]
	}
	if x.p, err = d.pdst(o); err != nil {
		return err
	}
	if t == tF16x2 || t == tBF16x2 {
		// p compares the low halves, q the high ones.
		half := tF16
		if t == tBF16x2 {
			half = tBF16
		}
		f, err := comparison(d, op, half, ftz)
		if err != nil {
			return err
		}
		x.run = func(w *warp, in *inst, m uint32) {
			a, b := &w.r[in.a], &w.r[in.b]
			var lo, hi uint32
			for i := range a {
				if f(a[i]&0xffff, b[i]&0xffff) {
					lo |= 1 << i
				}
				if f(a[i]>>16, b[i]>>16) {
					hi |= 1 << i
				}
			}
			if in.s >= 0 {
				lo, hi = boolOp(in.imm, lo, w.p[in.s]), boolOp(in.imm, hi, w.p[in.s])
			}
			if in.p >= 0 {
				w.p[in.p] = w.p[in.p]&^m | lo&m
			}
			if in.q >= 0 {
				w.p[in.q] = w.p[in.q]&^m | hi&m
			}
		}
		d.emit(x)
		return nil
	}
	if x.cmp, err = comparison(d, op, t, ftz); err != nil {
		return err
	}
	if x.q < 0 && x.s < 0 && x.p >= 0 {
		code, ok := cmpNames[op]
		switch {
		case !ok:
		case t == tS32 && len(op) == 3 && op != ".lo" && op != ".ls" && op != ".hi" && op != ".hs",
			(t == tU32 || t == tB32) && code <= cmpNE:
			x.imm, x.run = code, runCmpS32
		case t == tU32:
			x.imm, x.run = code, runCmpU32
		}
	}
	d.emit(x)
	return nil
}

func decSet(d *decoder, m *mods, in *ptx.Inst) error {
	op := m.oneOf(allCmps...)
	bop := m.oneOf(".and", ".or", ".xor")
	ftz := m.flag(".ftz")
	dt, err := m.typeOf(tU32, tS32, tF32, tF16, tF16x2, tBF16, tBF16x2, tU16, tS16)
	if err != nil {
		return err
	}
	t, err := m.typeOf(setTypes...)
	if err != nil {
		return err
	}
	a, b, with, err := d.compared(in, bop, t)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], dt, false)
	if err != nil {
		return err
	}
	et := t
	pack := t == tF16x2 || t == tBF16x2
	if t == tF16x2 {
		et = tF16
	} else if t == tBF16x2 {
		et = tBF16
	}
	f, err := comparison(d, op, et, ftz)
	if err != nil {
		return err
	}
	yes := map[typ]uint64{tU32: 0xffffffff, tS32: 0xffffffff, tU16: 0xffff, tS16: 0xffff, tF32: 0x3f800000,
		tF16: 0x3c00, tF16x2: 0x3c00, tBF16: 0x3f80, tBF16x2: 0x3f80}[dt]
	if pack && (dt == tU32 || dt == tS32) {
		yes = 0xffff
	}
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: a, b: b, s: with, imm: boolOps[bop], run: func(w *warp, in *inst, m uint32) {
		d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
		for i := range d {
			if m>>i&1 == 0 {
				continue
			}
			var sp uint32
			if in.s >= 0 {
				sp = w.p[in.s] >> i & 1
			}
			test := func(x, y uint64) uint64 {
				var r uint32
				if f(x, y) {
					r = 1
				}
				if boolOp(in.imm, r, sp)&1 != 0 {
					return yes
				}
				return 0
			}
			if pack {
				d[i] = test(a[i]&0xffff, b[i]&0xffff) | test(a[i]>>16, b[i]>>16)<<16
			} else {
				d[i] = test(a[i], b[i])
			}
		}
	}})
	return nil
}

var selTypes = []typ{tB16, tB32, tB64, tU16, tU32, tU64, tS16, tS32, tS64, tF32, tF64, tF16, tBF16, tF16x2, tBF16x2}

func decSelp(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(selTypes...)
	if err != nil {
		return err
	}
	if err := d.args(in, 4, 4); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], t, t)
	if err != nil {
		return err
	}
	p, err := d.psrc(&in.Args[3])
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: s[0], b: s[1], s: p, run: func(w *warp, in *inst, m uint32) {
		d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
		p := w.p[in.s]
		for i := range d {
			if m>>i&1 == 0 {
				continue
			}
			if p>>i&1 != 0 {
				d[i] = a[i]
			} else {
				d[i] = b[i]
			}
		}
	}})
	return nil
}

func decSlct(d *decoder, m *mods, in *ptx.Inst) error {
	ftz := m.flag(".ftz")
	t, err := m.typeOf(selTypes...)
	if err != nil {
		return err
	}
	ct, err := m.typeOf(tS32, tF32)
	if err != nil {
		return err
	}
	return d.op3(in, t, t, t, ct, func(a, b, c uint64) uint64 {
		ge := int32(c) >= 0
		if ct == tF32 {
			if ftz {
				c = ftz32(c)
			}
			ge = f32(c) >= 0
		}
		if ge {
			return a
		}
		return b
	}, nil)
}
