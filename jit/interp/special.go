package interp

import (
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// special is a special register (PTX ISA 10), or something else that a frame
// has at its start.
type special uint8

const (
	spNone special = iota
	spTid          // off: component
	spNtid
	spCtaid
	spNctaid
	spLaneid
	spWarpid
	spNwarpid
	spSmid
	spNsmid
	spGridid
	spLanemaskEq
	spLanemaskLe
	spLanemaskLt
	spLanemaskGe
	spLanemaskGt
	spClusterid
	spNclusterid
	spClusterCtaid
	spClusterNctaid
	spClusterCtarank
	spClusterNctarank
	spExplicitCluster
	spEnvreg // off: number
	spDynSmem
	spTotalSmem
	spZero
	spLocalAddr // address of a local variable of the frame at off
	// read when executed
	spClock
	spClockHi
	spClock64
	spTime
	spTimeLo
	spTimeHi
)

type specialInfo struct {
	k    special
	bits uint
	vec  bool
}

var specials = map[string]specialInfo{
	"%tid": {spTid, 32, true}, "%ntid": {spNtid, 32, true}, "%ctaid": {spCtaid, 32, true}, "%nctaid": {spNctaid, 32, true},
	"%laneid": {spLaneid, 32, false}, "%warpid": {spWarpid, 32, false}, "%nwarpid": {spNwarpid, 32, false},
	"%smid": {spSmid, 32, false}, "%nsmid": {spNsmid, 32, false}, "%gridid": {spGridid, 64, false},
	"%lanemask_eq": {spLanemaskEq, 32, false}, "%lanemask_le": {spLanemaskLe, 32, false}, "%lanemask_lt": {spLanemaskLt, 32, false},
	"%lanemask_ge": {spLanemaskGe, 32, false}, "%lanemask_gt": {spLanemaskGt, 32, false},
	"%clusterid": {spClusterid, 32, true}, "%nclusterid": {spNclusterid, 32, true},
	"%cluster_ctaid": {spClusterCtaid, 32, true}, "%cluster_nctaid": {spClusterNctaid, 32, true},
	"%cluster_ctarank": {spClusterCtarank, 32, false}, "%cluster_nctarank": {spClusterNctarank, 32, false},
	"%dynamic_smem_size": {spDynSmem, 32, false}, "%total_smem_size": {spTotalSmem, 32, false}, "%aggr_smem_size": {spTotalSmem, 32, false},
	"%clock": {spClock, 32, false}, "%clock_hi": {spClockHi, 32, false}, "%clock64": {spClock64, 64, false},
	"%globaltimer": {spTime, 64, false}, "%globaltimer_lo": {spTimeLo, 32, false}, "%globaltimer_hi": {spTimeHi, 32, false},
	"%reserved_smem_offset_begin": {spZero, 32, false}, "%reserved_smem_offset_end": {spZero, 32, false}, "%reserved_smem_offset_cap": {spZero, 32, false},
	"%current_graph_exec": {spZero, 64, false},
}

func specialByName(name string) (specialInfo, bool) {
	s, ok := specials[name]
	if !ok && (strings.HasPrefix(name, "%pm") && len(name) <= 7 || name == "%reserved_smem_offset_0" || name == "%reserved_smem_offset_1") {
		return specialInfo{spZero, 32, false}, true
	}
	if n := strings.TrimPrefix(name, "%envreg"); !ok && n != name {
		k, err := strconv.Atoi(n)
		return specialInfo{spEnvreg, 32, false}, err == nil && k >= 0 && k < 32 && n == strconv.Itoa(k)
	}
	return s, ok
}

// specialSrc gives the slot of a special register as a source.
func (d *decoder) specialSrc(o *ptx.Operand, t typ) (int32, error) {
	s, ok := specialByName(o.Name)
	if !ok {
		if o.Name == "%is_explicit_cluster" {
			return 0, d.errorf(o.Pos, "%s is a predicate", o.Name)
		}
		return 0, d.errorf(o.Pos, "%s is not declared", o.Name)
	}
	comp := 0
	if s.vec {
		var has bool
		comp, has = comps[o.Comp]
		if !has || comp > 3 {
			return 0, d.errorf(o.Pos, "%s wants a component .x, .y or .z", o.Name)
		}
	} else if o.Comp != "" {
		return 0, d.errorf(o.Pos, "%s has no component %s", o.Name, o.Comp)
	}
	if o.Off != 0 || o.OffReg != "" || o.Neg {
		return 0, d.errorf(o.Pos, "%s: expected the register alone", o.Name)
	}
	if s.k == spEnvreg {
		comp, _ = strconv.Atoi(o.Name[len("%envreg"):])
	}
	// Reading as 16 or 32 bits takes the low part (mov.u32 %r, %gridid; mov.u16 %rs, %tid.x).
	slot := int32(0)
	if s.k >= spClock {
		slot = d.temp()
		k := s.k
		d.emit(inst{guard: -1, d: slot, run: func(w *warp, in *inst, m uint32) {
			v := w.clock(k)
			for i := range w.r[in.d] {
				w.r[in.d][i] = v
			}
		}})
	} else {
		slot = d.fillSlot(s.k, int64(comp))
	}
	if t.bits() < s.bits {
		n := d.temp()
		d.emit(inst{guard: -1, run: runAnd, d: n, a: slot, b: d.imm(t.mask())})
		slot = n
	}
	return slot, nil
}

// clock reads a time register.
func (w *warp) clock(k special) uint64 {
	switch k {
	case spClock:
		return uint64(uint32(w.g.cycles()))
	case spClockHi:
		return w.g.cycles() >> 32
	case spClock64:
		return w.g.cycles()
	}
	t := w.g.cycles()
	if w.g.l.Clock != nil {
		t = w.g.l.Clock()
	}
	switch k {
	case spTimeLo:
		return uint64(uint32(t))
	case spTimeHi:
		return t >> 32
	}
	return t
}

// fill sets one register of a fresh frame.
func (w *warp) fill(fr *frame, f *fill) {
	r := &fr.r[f.slot]
	b, l := w.blk, &w.g.l
	switch f.kind {
	case spTid:
		x, y := l.Block[0], l.Block[1]
		for i := range r {
			n := uint32(w.id*32 + i)
			switch f.off {
			case 0:
				n %= x
			case 1:
				n = n / x % y
			case 2:
				n = n / x / y
			default:
				n = 0
			}
			r[i] = uint64(n)
		}
		return
	case spLaneid:
		for i := range r {
			r[i] = uint64(i)
		}
		return
	case spLanemaskEq, spLanemaskLe, spLanemaskLt, spLanemaskGe, spLanemaskGt:
		for i := range r {
			eq := uint32(1) << i
			r[i] = uint64(map[special]uint32{spLanemaskEq: eq, spLanemaskLe: eq | (eq - 1), spLanemaskLt: eq - 1,
				spLanemaskGe: ^(eq - 1), spLanemaskGt: ^(eq | (eq - 1))}[f.kind])
		}
		return
	}
	var v uint64
	dim := func(d [3]uint32, none uint64) uint64 {
		if f.off > 2 {
			return none
		}
		return uint64(d[f.off])
	}
	div := func(a, b [3]uint32) [3]uint32 { return [3]uint32{a[0] / b[0], a[1] / b[1], a[2] / b[2]} }
	mod := func(a, b [3]uint32) [3]uint32 { return [3]uint32{a[0] % b[0], a[1] % b[1], a[2] % b[2]} }
	switch f.kind {
	case spNtid:
		v = dim(l.Block, 0)
	case spCtaid:
		v = dim(b.ctaid, 0)
	case spNctaid:
		v = dim(l.Grid, 0)
	case spWarpid:
		v = uint64(w.id)
	case spNwarpid:
		v = uint64(len(b.warps))
	case spSmid:
		v = uint64(b.sm)
	case spNsmid:
		v = uint64(w.g.sms)
	case spGridid:
		v = l.GridID
	case spClusterid:
		v = dim(div(b.ctaid, l.Cluster), 0)
	case spNclusterid:
		v = dim(div(l.Grid, l.Cluster), 0)
	case spClusterCtaid:
		v = dim(mod(b.ctaid, l.Cluster), 0)
	case spClusterNctaid:
		v = dim(l.Cluster, 0)
	case spClusterCtarank:
		v = uint64(b.rank)
	case spClusterNctarank:
		v = uint64(w.g.csize)
	case spEnvreg:
		v = uint64(l.EnvReg[f.off])
	case spDynSmem:
		v = uint64(l.DynShared)
	case spTotalSmem:
		v = uint64(w.g.shared)
	case spLocalAddr:
		v = uint64(fr.local) + uint64(f.off)
	}
	for i := range r {
		r[i] = v
	}
}
