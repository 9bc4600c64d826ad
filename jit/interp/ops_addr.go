package interp

// This file converts addresses between state spaces and blocks of a cluster, and gives a thread memory on its stack.

import (
	"math/bits"
	"sort"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

var windows = map[string]uint64{".global": 0, ".const": 0, ".local": LocalWindow, ".shared": SharedWindow, ".shared::cta": SharedWindow,
	".shared::cluster": SharedWindow, ".param": ParamWindow, ".param::entry": ParamWindow}

func decCvta(d *decoder, m *mods, in *ptx.Inst) error {
	to := m.flag(".to")
	spc := memSpace(m)
	t, err := m.typeOf(tU32, tU64)
	if err != nil {
		return err
	}
	win, ok := windows[spc]
	if !ok {
		return d.errorf(in.Pos, "cvta wants a state space")
	}
	if spc == ".param" && !d.fn.src.Entry {
		return notSupported(in.Pos, "generic address of a device function's parameter")
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	// A variable as source stands for its address in its space.
	a, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	f := func(v uint64) uint64 { return v | win }
	if to {
		f = func(v uint64) uint64 { return v &^ win }
	}
	if win == 0 {
		d.emit(inst{guard: -1, run: runMov, d: d.orTemp(dst), a: a})
		return nil
	}
	d.emit(inst{guard: -1, run: run1, d: d.orTemp(dst), a: a, f1: f})
	return nil
}

func decIsspacep(d *decoder, m *mods, in *ptx.Inst) error {
	spc := memSpace(m)
	win, ok := windows[spc]
	if !ok {
		return d.errorf(in.Pos, "isspacep wants a state space")
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	a, err := d.src(&in.Args[1], tU64, false)
	if err != nil {
		return err
	}
	p, err := d.pdst(&in.Args[0])
	if err != nil {
		return err
	}
	isConst := spc == ".const"
	d.emit(inst{guard: -1, p: p, q: -1, s: -1, a: a, b: a, run: func(w *warp, in *inst, m uint32) {
		a := &w.r[in.a]
		var out uint32
		for i := range a {
			in := false
			switch top := a[i] & windowMask; {
			case isConst:
				in = w.isConst(a[i])
			case win == 0:
				in = top != SharedWindow && top != LocalWindow && top != ParamWindow && !w.isConst(a[i])
			default:
				in = top == win
			}
			if in {
				out |= 1 << i
			}
		}
		if in.p >= 0 {
			w.p[in.p] = w.p[in.p]&^m | out&m
		}
	}})
	return nil
}

// isConst tells whether an address lies in a .const variable.
func (w *warp) isConst(a uint64) bool {
	c := w.g.in.consts
	i := sort.Search(len(c), func(i int) bool { return c[i].base > a }) - 1
	return i >= 0 && a < c[i].end
}

func decMapa(d *decoder, m *mods, in *ptx.Inst) error {
	spc := m.oneOf(".shared::cluster")
	t, err := m.typeOf(tU32, tU64)
	if err != nil {
		return err
	}
	if err := d.args(in, 3, 3); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], t, tU32)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	win := uint64(SharedWindow)
	if spc != "" {
		win = 0
	}
	d.emit(inst{guard: -1, run: run2, d: d.orTemp(dst), a: s[0], b: s[1], f2: func(a, r uint64) uint64 {
		return a&(1<<clRankBits-1) | (r+1)<<clRankBits | win
	}})
	return nil
}

func decGetctarank(d *decoder, m *mods, in *ptx.Inst) error {
	m.oneOf(".shared::cluster")
	t, err := m.typeOf(tU32, tU64)
	if err != nil {
		return err
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	a, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], tU32, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: a, run: func(w *warp, in *inst, m uint32) {
		d, a := &w.r[in.d], &w.r[in.a]
		for i := range d {
			if m>>i&1 != 0 {
				r := uint32(a[i]&^windowMask>>clRankBits) & 0xff
				if r == 0 {
					r = w.blk.rank + 1
				}
				d[i] = uint64(r - 1)
			}
		}
	}})
	return nil
}

func decAlloca(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(tU32, tU64)
	if err != nil {
		return err
	}
	if err := d.args(in, 2, 3); err != nil {
		return err
	}
	s, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	align := uint64(8)
	if len(in.Args) == 3 {
		a := in.Args[2]
		if a.Kind != ptx.Imm || a.Int <= 0 || a.Int&(a.Int-1) != 0 || a.Int > 1<<16 {
			return d.errorf(a.Pos, "alloca: alignment must be a power of two up to 65536")
		}
		align = uint64(a.Int)
	}
	dst, _, err := d.dst(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, d: d.orTemp(dst), a: s, run: func(w *warp, in *inst, m uint32) {
		size := uint64(0)
		for q := m; q != 0; q &= q - 1 {
			size = max(size, w.r[in.a][bits.TrailingZeros32(q)])
		}
		at := (uint64(w.fr.top) + align - 1) &^ (align - 1)
		if size > MaxLocalPerThread || at+size > MaxLocalPerThread {
			w.fault(StackOverflow, in, m, size, "alloca beyond the local memory of a thread")
			return
		}
		w.fr.top = uint32(at + size)
		setLanes(w.fr, in.d, m, at)
	}})
	return nil
}

func decStack(d *decoder, m *mods, in *ptx.Inst) error {
	t, err := m.typeOf(tU32, tU64)
	if err != nil {
		return err
	}
	if err := d.args(in, 1, 1); err != nil {
		return err
	}
	if in.Op == "stacksave" {
		dst, _, err := d.dst(&in.Args[0], t, false)
		if err != nil {
			return err
		}
		d.emit(inst{guard: -1, d: d.orTemp(dst), run: func(w *warp, in *inst, m uint32) {
			setLanes(w.fr, in.d, m, uint64(w.fr.top))
		}})
		return nil
	}
	s, err := d.src(&in.Args[0], t, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, a: s, run: func(w *warp, in *inst, m uint32) {
		// Lanes share the frame: memory is given back when all of them do.
		top := uint64(0)
		for q := m; q != 0; q &= q - 1 {
			top = max(top, w.r[in.a][bits.TrailingZeros32(q)])
		}
		if m == w.fr.lanes && top >= uint64(w.fr.local)+uint64(w.fr.fn.local) && top <= uint64(w.fr.top) {
			w.fr.top = uint32(top)
		}
	}})
	return nil
}
