package interp

import "github.com/heddle-gpu/heddle/jit/ptx"

func decLogic(d *decoder, m *mods, in *ptx.Inst) error {
	if m.flag(".pred") {
		if err := d.args(in, 3, 3); err != nil {
			return err
		}
		a, err := d.psrc(&in.Args[1])
		if err != nil {
			return err
		}
		b, err := d.psrc(&in.Args[2])
		if err != nil {
			return err
		}
		p, err := d.pdst(&in.Args[0])
		if err != nil {
			return err
		}
		op := in.Op
		d.emit(inst{guard: -1, p: p, a: a, b: b, run: func(w *warp, in *inst, m uint32) {
			x, y := w.p[in.a], w.p[in.b]
			switch op {
			case "and":
				x &= y
			case "or":
				x |= y
			default:
				x ^= y
			}
			if in.p >= 0 {
				w.p[in.p] = w.p[in.p]&^m | x&m
			}
		}})
		return nil
	}
	t, err := m.typeOf(bitTypes...)
	if err != nil {
		return err
	}
	switch in.Op {
	case "and":
		return d.op2(in, t, t, t, nil, runAnd)
	case "or":
		return d.op2(in, t, t, t, func(a, b uint64) uint64 { return a | b }, nil)
	}
	return d.op2(in, t, t, t, func(a, b uint64) uint64 { return a ^ b }, nil)
}

func runPredNot(w *warp, in *inst, m uint32) { w.p[in.p] = w.p[in.p]&^m | ^w.p[in.s]&m }

func runPredConst(w *warp, in *inst, m uint32) {
	w.p[in.p] &^= m
	if in.imm != 0 {
		w.p[in.p] |= m
	}
}

func runPredMov(w *warp, in *inst, m uint32) { w.p[in.p] = w.p[in.p]&^m | w.p[in.s]&m }

func decNot(d *decoder, m *mods, in *ptx.Inst) error {
	if m.flag(".pred") {
		if err := d.args(in, 2, 2); err != nil {
			return err
		}
		s, err := d.psrc(&in.Args[1])
		if err != nil {
			return err
		}
		p, err := d.pdst(&in.Args[0])
		if err != nil {
			return err
		}
		if p < 0 {
			p = d.newPred()
		}
		d.emit(inst{guard: -1, p: p, s: s, run: runPredNot})
		return nil
	}
	t, err := m.typeOf(bitTypes...)
	if err != nil {
		return err
	}
	mask := t.mask()
	return d.op1(in, t, t, func(a uint64) uint64 { return ^a & mask })
}

func decCnot(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(bitTypes...)
	if err != nil {
		return err
	}
	return d.op1(in, t, t, func(a uint64) uint64 {
		if a == 0 {
			return 1
		}
		return 0
	})
}

func lop3(a, b, c uint32, lut uint8) uint32 {
	var r uint32
	if lut&0x01 != 0 {
		r |= ^a & ^b & ^c
	}
	if lut&0x02 != 0 {
		r |= ^a & ^b & c
	}
	if lut&0x04 != 0 {
		r |= ^a & b & ^c
	}
	if lut&0x08 != 0 {
		r |= ^a & b & c
	}
	if lut&0x10 != 0 {
		r |= a & ^b & ^c
	}
	if lut&0x20 != 0 {
		r |= a & ^b & c
	}
	if lut&0x40 != 0 {
		r |= a & b & ^c
	}
	if lut&0x80 != 0 {
		r |= a & b & c
	}
	return r
}

func decLop3(d *decoder, m *mods, in *ptx.Inst) error {
	bop := m.oneOf(".or", ".and")
	if _, err := m.typeOf(tB32); err != nil {
		return err
	}
	n := 5
	if bop != "" {
		n = 6
	}
	if err := d.args(in, n, n); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], tB32, tB32, tB32)
	if err != nil {
		return err
	}
	if in.Args[4].Kind != ptx.Imm {
		return d.errorf(in.Args[4].Pos, "the table of lop3 must be a constant")
	}
	lut := uint8(in.Args[4].Int)
	if bop == "" {
		dst, _, err := d.dst(&in.Args[0], tB32, false)
		if err != nil {
			return err
		}
		d.emit(inst{guard: -1, run: run3, d: d.orTemp(dst), a: s[0], b: s[1], c: s[2],
			f3: func(a, b, c uint64) uint64 { return uint64(lop3(uint32(a), uint32(b), uint32(c), lut)) }})
		return nil
	}
	// lop3.and/.or d|p, a, b, c, lut, q
	dst, p, err := d.dstPred(&in.Args[0])
	if err != nil {
		return err
	}
	q, err := d.psrc(&in.Args[5])
	if err != nil {
		return err
	}
	and := bop == ".and"
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: s[0], b: s[1], c: s[2], p: p, s: q, run: func(w *warp, in *inst, m uint32) {
		d, a, b, c := &w.r[in.d], &w.r[in.a], &w.r[in.b], &w.r[in.c]
		var nz uint32
		for i := range d {
			if m>>i&1 != 0 {
				v := lop3(uint32(a[i]), uint32(b[i]), uint32(c[i]), lut)
				d[i] = uint64(v)
				if v != 0 {
					nz |= 1 << i
				}
			}
		}
		if and {
			nz &= w.p[in.s]
		} else {
			nz |= w.p[in.s]
		}
		if in.p >= 0 {
			w.p[in.p] = w.p[in.p]&^m | nz&m
		}
	}})
	return nil
}

func decShf(d *decoder, m *mods, in *ptx.Inst) error {
	left := m.oneOf(".l", ".r") == ".l"
	wrap := m.oneOf(".clamp", ".wrap") == ".wrap"
	if _, err := m.typeOf(tB32); err != nil {
		return err
	}
	return d.op3(in, tB32, tB32, tB32, tU32, func(a, b, c uint64) uint64 {
		n := c
		if wrap {
			n &= 31
		} else {
			n = min(n, 32)
		}
		v := b<<32 | a // [b:a]
		if left {
			return v << n >> 32 & 0xffffffff
		}
		return v >> n & 0xffffffff
	}, nil)
}

func decShl(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(tB16, tB32, tB64, tU16, tU32, tU64, tS16, tS32, tS64)
	if err != nil {
		return err
	}
	mask := t.mask()
	n := uint64(t.bits())
	return d.op2(in, t, t, tU32, func(a, b uint64) uint64 {
		if b >= n {
			return 0
		}
		return a << b & mask
	}, nil)
}

func decShr(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(tB16, tB32, tB64, tU16, tU32, tU64, tS16, tS32, tS64)
	if err != nil {
		return err
	}
	mask := t.mask()
	n := uint64(t.bits())
	if t.signed() {
		return d.op2(in, t, t, tU32, func(a, b uint64) uint64 {
			return uint64(int64(t.widen(a))>>min(b, 63)) & mask
		}, nil)
	}
	return d.op2(in, t, t, tU32, func(a, b uint64) uint64 {
		if b >= n {
			return 0
		}
		return a >> b
	}, nil)
}

// prmt permutes the eight bytes of [b:a] (PTX ISA 9.7.9.7).
func prmt(a, b, c uint32, mode string) uint32 {
	v := uint64(b)<<32 | uint64(a)
	sel := c & 3
	var idx [4]uint32
	switch mode {
	case "":
		var r uint32
		for i := 0; i < 4; i++ {
			s := c >> (4 * i)
			x := uint32(v >> (8 * (s & 7)) & 0xff)
			if s&8 != 0 { // replicate the sign
				x = uint32(int32(int8(x))>>7) & 0xff
			}
			r |= x << (8 * i)
		}
		return r
	case ".f4e":
		for i := range idx {
			idx[i] = sel + uint32(i)
		}
	case ".b4e":
		for i := range idx {
			idx[i] = (sel - uint32(i)) & 7
		}
	case ".rc8":
		idx = [4]uint32{sel, sel, sel, sel}
	case ".ecl":
		for i := range idx {
			idx[i] = max(sel, uint32(i))
		}
	case ".ecr":
		for i := range idx {
			idx[i] = min(sel, uint32(i))
		}
	case ".rc16":
		h := (sel & 1) * 2
		idx = [4]uint32{h, h + 1, h, h + 1}
	}
	var r uint32
	for i, x := range idx {
		r |= uint32(v>>(8*x)&0xff) << (8 * i)
	}
	return r
}

func decPrmt(d *decoder, m *mods, in *ptx.Inst) error {
	if _, err := m.typeOf(tB32); err != nil {
		return err
	}
	mode := m.oneOf(".f4e", ".b4e", ".rc8", ".ecl", ".ecr", ".rc16")
	return d.op3(in, tB32, tB32, tB32, tB32, func(a, b, c uint64) uint64 {
		return uint64(prmt(uint32(a), uint32(b), uint32(c), mode))
	}, nil)
}
