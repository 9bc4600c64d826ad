package interp

import (
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Synchronisation and warp", map[string]opInfo{
		"bar":        {forms: "{.cta}.sync .arrive .red.popc.u32 .red.and.pred .red.or.pred; .warp.sync", decode: decBar},
		"barrier":    {forms: "{.cta}.sync .arrive .red, .aligned; .cluster.arrive .cluster.wait", decode: decBar},
		"shfl":       {forms: ".sync.up .down .bfly .idx .b32; d|p; without .sync: the active lanes", decode: decShfl},
		"vote":       {forms: ".sync.all .any .uni .ballot; without .sync: the active lanes", decode: decVote},
		"match":      {forms: ".any.sync .all.sync; .b32 .b64", decode: decMatch},
		"redux":      {forms: ".sync.add .min .max .and .or .xor; .u32 .s32 .b32; .f32 min max with .abs .NaN", decode: decRedux},
		"activemask": {forms: ".b32", decode: decActivemask},
		"elect":      {forms: ".sync", decode: decElect},
	})
}

func decBar(d *decoder, m *mods, in *ptx.Inst) error {
	if m.flag(".warp") {
		if !m.flag(".sync") {
			return d.errorf(in.Pos, "bar.warp wants .sync")
		}
		if err := d.args(in, 1, 1); err != nil {
			return err
		}
		e, err := d.src(&in.Args[0], tB32, false)
		if err != nil {
			return err
		}
		d.emit(inst{guard: -1, kind: kSync, e: e})
		return nil
	}
	if m.flag(".cluster") {
		arrive, wait := m.flag(".arrive"), m.flag(".wait")
		m.oneOf(".release", ".acquire", ".relaxed")
		m.flag(".aligned")
		if arrive == wait {
			return d.errorf(in.Pos, "barrier.cluster wants .arrive or .wait")
		}
		k := kClArrive
		if wait {
			k = kClWait
		}
		d.emit(inst{guard: -1, kind: k})
		return d.args(in, 0, 0)
	}
	m.flag(".cta")
	m.flag(".aligned")
	x := inst{guard: -1, kind: kBar, d: -1, p: -1, s: -1, a: -1, b: -1}
	args := in.Args
	switch m.oneOf(".sync", ".arrive", ".red") {
	case ".sync":
		if err := d.args(in, 1, 2); err != nil {
			return err
		}
	case ".arrive":
		x.imm = barArrive
		if err := d.args(in, 2, 2); err != nil {
			return err
		}
	case ".red":
		op := m.oneOf(".popc", ".and", ".or")
		t := m.oneOf(".u32", ".pred")
		if err := d.args(in, 3, 4); err != nil {
			return err
		}
		var err error
		switch {
		case op == ".popc" && t == ".u32":
			x.imm = barPopc
			if x.d, _, err = d.dst(&args[0], tU32, false); err != nil {
				return err
			}
		case op != "" && t == ".pred":
			x.imm = barAnd
			if op == ".or" {
				x.imm = barOr
			}
			if x.p, err = d.pdst(&args[0]); err != nil {
				return err
			}
		default:
			return d.errorf(in.Pos, "bar.red wants .popc.u32, .and.pred or .or.pred")
		}
		if x.s, err = d.psrc(&args[len(args)-1]); err != nil {
			return err
		}
		args = args[1 : len(args)-1]
	default:
		return d.errorf(in.Pos, "%s wants .sync, .arrive or .red", in.Op)
	}
	var err error
	if x.a, err = d.src(&args[0], tU32, false); err != nil {
		return err
	}
	if len(args) > 1 {
		if x.b, err = d.src(&args[1], tU32, false); err != nil {
			return err
		}
	}
	d.emit(x)
	return nil
}

// member decodes the member mask, the last operand of a .sync instruction;
// without .sync all ones stand for it and the active lanes take part as they are.
func (d *decoder) member(in *ptx.Inst, sync bool) (k kind, slot int32, err error) {
	if !sync {
		return kALU, d.imm(0xffffffff), nil
	}
	slot, err = d.src(&in.Args[len(in.Args)-1], tB32, false)
	return kSync, slot, err
}

// dstPred decodes a destination of 32 bits with or without a predicate: d or d|p; p is -1 without.
func (d *decoder) dstPred(o *ptx.Operand) (dst, p int32, err error) {
	p = -1
	if o.Kind == ptx.Pair {
		if p, err = d.pdst(&o.Elems[1]); err != nil {
			return -1, -1, err
		}
		o = &o.Elems[0]
	}
	dst, _, err = d.dst(o, tB32, false)
	return dst, p, err
}

func decShfl(d *decoder, m *mods, in *ptx.Inst) error {
	sync := m.flag(".sync")
	mode := m.oneOf(".up", ".down", ".bfly", ".idx")
	if _, err := m.typeOf(tB32, tU32, tS32, tF32); err != nil {
		return err
	}
	n := 4
	if sync {
		n = 5
	}
	if err := d.args(in, n, n); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], tB32, tB32, tB32)
	if err != nil {
		return err
	}
	k, e, err := d.member(in, sync)
	if err != nil {
		return err
	}
	dst, p, err := d.dstPred(&in.Args[0])
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, kind: k, d: d.orTemp(dst), p: p, a: s[0], b: s[1], c: s[2], e: e, run: func(w *warp, in *inst, m uint32) {
		a := w.r[in.a] // a copy: the destination may be the source
		d, b, c := &w.r[in.d], &w.r[in.b], &w.r[in.c]
		var ok uint32
		for lane := 0; lane < 32; lane++ {
			if m>>lane&1 == 0 {
				continue
			}
			bval := int(b[lane] & 31)
			cval := int(c[lane] & 31)
			seg := int(c[lane] >> 8 & 31)
			maxLane := lane&seg | cval&^seg
			minLane := lane & seg
			j, in := 0, false
			switch mode {
			case ".up":
				j = lane - bval
				in = j >= maxLane
			case ".down":
				j = lane + bval
				in = j <= maxLane
			case ".bfly":
				j = lane ^ bval
				in = j <= maxLane
			default:
				j = minLane | bval&^seg
				in = j <= maxLane
			}
			if !in {
				j = lane
			} else {
				ok |= 1 << lane
			}
			d[lane] = a[j]
		}
		if in.p >= 0 {
			w.p[in.p] = w.p[in.p]&^m | ok&m
		}
	}})
	if mode == "" {
		return d.errorf(in.Pos, "shfl wants .up, .down, .bfly or .idx")
	}
	return nil
}

func decVote(d *decoder, m *mods, in *ptx.Inst) error {
	sync := m.flag(".sync")
	mode := m.oneOf(".all", ".any", ".uni", ".ballot")
	m.oneOf(".pred", ".b32")
	n := 2
	if sync {
		n = 3
	}
	if err := d.args(in, n, n); err != nil {
		return err
	}
	s, err := d.psrc(&in.Args[1])
	if err != nil {
		return err
	}
	k, e, err := d.member(in, sync)
	if err != nil {
		return err
	}
	x := inst{guard: -1, kind: k, s: s, e: e, d: -1, p: -1}
	if mode == ".ballot" {
		x.d, _, err = d.dst(&in.Args[0], tB32, false)
	} else {
		x.p, err = d.pdst(&in.Args[0])
	}
	if err != nil {
		return err
	}
	x.run = func(w *warp, in *inst, m uint32) {
		v := w.p[in.s] & m
		switch mode {
		case ".ballot":
			setLanes(w.fr, in.d, m, uint64(v))
		case ".all":
			setPred(w.fr, in.p, m, v == m)
		case ".any":
			setPred(w.fr, in.p, m, v != 0)
		default:
			setPred(w.fr, in.p, m, v == m || v == 0)
		}
	}
	d.emit(x)
	if mode == "" {
		return d.errorf(in.Pos, "vote wants .all, .any, .uni or .ballot")
	}
	return nil
}

func decMatch(d *decoder, m *mods, in *ptx.Inst) error {
	mode := m.oneOf(".any", ".all")
	if !m.flag(".sync") || mode == "" {
		return d.errorf(in.Pos, "match wants .any.sync or .all.sync")
	}
	t, err := m.typeOf(bit3264...)
	if err != nil {
		return err
	}
	if err := d.args(in, 3, 3); err != nil {
		return err
	}
	a, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	k, e, err := d.member(in, true)
	if err != nil {
		return err
	}
	dst, p, err := d.dstPred(&in.Args[0])
	if err != nil {
		return err
	}
	all := mode == ".all"
	d.emit(inst{guard: -1, kind: k, d: d.orTemp(dst), p: p, a: a, e: e, run: func(w *warp, in *inst, m uint32) {
		a := w.r[in.a]
		d := &w.r[in.d]
		for q := m; q != 0; q &= q - 1 {
			l := bits.TrailingZeros32(q)
			var same uint32
			for k := m; k != 0; k &= k - 1 {
				if j := bits.TrailingZeros32(k); a[j] == a[l] {
					same |= 1 << j
				}
			}
			if all {
				if same != m {
					same = 0
				}
				if in.p >= 0 {
					setPred(w.fr, in.p, 1<<l, same != 0)
				}
			}
			d[l] = uint64(same)
		}
	}})
	return nil
}

func decRedux(d *decoder, m *mods, in *ptx.Inst) error {
	if !m.flag(".sync") {
		return d.errorf(in.Pos, "redux wants .sync")
	}
	op := m.oneOf(".add", ".min", ".max", ".and", ".or", ".xor")
	abs, prop := m.flag(".abs"), m.flag(".NaN")
	t, err := m.typeOf(tU32, tS32, tB32, tF32)
	if err != nil {
		return err
	}
	if err := d.args(in, 3, 3); err != nil {
		return err
	}
	a, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	k, e, err := d.member(in, true)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	f := atomUpdate(op, t)
	if t == tF32 {
		if op != ".min" && op != ".max" {
			return notSupported(in.Pos, "redux%s.f32", op)
		}
		g := fminmax(op == ".min", prop, false, 1<<31, 0x7f800000, nan32)
		f = func(o, b, _ uint64) uint64 { return g(o, b) }
	}
	if f == nil {
		return d.errorf(in.Pos, "redux%s on %s", strings.Join(in.Mods, ""), t)
	}
	d.emit(inst{guard: -1, kind: k, d: d.orTemp(dst), a: a, e: e, run: func(w *warp, in *inst, m uint32) {
		a := &w.r[in.a]
		var acc uint64
		first := true
		for q := m; q != 0; q &= q - 1 {
			v := a[bits.TrailingZeros32(q)]
			if abs {
				v &^= 1 << 31
			}
			if first {
				acc, first = v, false
			} else {
				acc = f(acc, v, 0)
			}
		}
		if t == tF32 && acc&0x7fffffff > 0x7f800000 {
			acc = nan32
		}
		setLanes(w.fr, in.d, m, acc)
	}})
	return nil
}

func decActivemask(d *decoder, m *mods, in *ptx.Inst) error {
	if _, err := m.typeOf(tB32); err != nil {
		return err
	}
	if err := d.args(in, 1, 1); err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], tB32, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, d: d.orTemp(dst), run: func(w *warp, in *inst, m uint32) {
		setLanes(w.fr, in.d, m, uint64(m))
	}})
	return nil
}

func decElect(d *decoder, m *mods, in *ptx.Inst) error {
	if !m.flag(".sync") {
		return d.errorf(in.Pos, "elect wants .sync")
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	k, e, err := d.member(in, true)
	if err != nil {
		return err
	}
	o := &in.Args[0]
	if o.Kind != ptx.Pair {
		return d.errorf(o.Pos, "elect wants d|p")
	}
	dst, _, err := d.dst(&o.Elems[0], tB32, false)
	if err != nil {
		return err
	}
	p, err := d.pdst(&o.Elems[1])
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, kind: k, d: d.orTemp(dst), p: p, e: e, run: func(w *warp, in *inst, m uint32) {
		leader := bits.TrailingZeros32(m)
		setLanes(w.fr, in.d, m, uint64(leader))
		setPred(w.fr, in.p, m, false)
		setPred(w.fr, in.p, 1<<leader, true)
	}})
	return nil
}
