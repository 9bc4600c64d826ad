package interp

import (
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Asynchronous stores and reductions (PTX ISA 9.7.9.12, 9.7.13.7, 9.7.9.25.4.2), done at once like every asynchronous
// operation here: their bytes count as complete at the mbarrier before the next instruction.

// asyncTail decodes the mbarrier operand of an instruction that has .mbarrier::complete_tx::bytes.
func (d *decoder) asyncTail(o *ptx.Operand) (slot int32, at *memOp, err error) {
	_, slot, off, narrow, err := d.address(o, ".shared::cluster")
	return slot, &memOp{spc: spcClShared, off: off, narrow: narrow}, err
}

// completeTx counts n bytes as arrived at the mbarrier in slot, or at those in its place in the blocks of a multicast.
func (w *warp) completeTx(in *inst, lane int, slot, blocks int32, at *memOp, n int64) bool {
	for _, a := range w.multicast(blocks, lane, at.addr(w.r[slot][lane])) {
		if _, ok := w.mbarAt(in, lane, spcClShared, a, func(b mbar) (mbar, bool) { return b.addTx(-n), true }); !ok {
			return false
		}
	}
	return true
}

// multicast gives the address in each block of the cluster that the mask in slot names; the address itself without a mask.
func (w *warp) multicast(slot int32, lane int, a uint64) []uint64 {
	if slot < 0 {
		return []uint64{a}
	}
	var out []uint64
	for m := w.r[slot][lane] & 0xffff; m != 0; m &= m - 1 {
		out = append(out, a&^(0xff<<clRankBits)|uint64(bits.TrailingZeros64(m)+1)<<clRankBits)
	}
	return out
}

// decStAsync is st.async: to the shared memory of a block of the cluster with an mbarrier, or to global memory.
func decStAsync(d *decoder, m *mods, in *ptx.Inst) error {
	memMods(m)
	bar := m.flag(".mbarrier::complete_tx::bytes")
	spcName := m.oneOf(".shared::cluster", ".shared::cta", ".global")
	t, n, err := memType(m)
	if err != nil {
		return err
	}
	want := 2
	if bar {
		want = 3
	}
	if err := d.args(in, want, want); err != nil {
		return err
	}
	if t.size() < 4 || t == tB128 {
		return d.errorf(in.Pos, "st.async stores 32- and 64-bit elements")
	}
	spc, base, off, narrow, err := d.address(&in.Args[0], spcName)
	if err != nil {
		return err
	}
	mo := &memOp{spc: spc, size: t.size(), n: n, atomic: true, off: off, narrow: narrow}
	elems := d.parts(&in.Args[1])
	if len(elems) != n {
		return d.errorf(in.Args[1].Pos, "%d sources, expected %d", len(elems), n)
	}
	for i := range elems {
		if mo.regs[i], err = d.src(&elems[i], t, true); err != nil {
			return err
		}
	}
	if !bar {
		d.emit(inst{guard: -1, run: runSt, a: base, mem: mo})
		return nil
	}
	slot, at, err := d.asyncTail(&in.Args[2])
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, a: base, e: slot, mem: mo, run: func(w *warp, in *inst, m uint32) {
		runSt(w, in, m)
		for ; m != 0 && !w.dead; m &= m - 1 {
			w.completeTx(in, bits.TrailingZeros32(m), in.e, -1, at, int64(mo.size*mo.n))
		}
	}})
	return nil
}

// decStBulk is st.bulk: zeros in the shared memory of the block.
func decStBulk(d *decoder, m *mods, in *ptx.Inst) error {
	m.oneOf(".weak")
	spcName := m.oneOf(".shared::cta")
	if err := d.args(in, 3, 3); err != nil {
		return err
	}
	if z := in.Args[2]; z.Kind != ptx.Imm || z.Int != 0 {
		return d.errorf(z.Pos, "st.bulk stores zeros only")
	}
	spc, base, off, narrow, err := d.address(&in.Args[0], spcName)
	if err != nil {
		return err
	}
	size, err := d.src(&in.Args[1], tU64, false)
	if err != nil {
		return err
	}
	to := &memOp{off: off, narrow: narrow}
	d.emit(inst{guard: -1, a: base, b: size, run: func(w *warp, in *inst, m uint32) {
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			n, a := w.r[in.b][l], to.addr(w.r[in.a][l])
			if n%8 != 0 || n > maxBulk {
				w.fault(MisalignedAddress, in, 1<<l, a, "st.bulk takes multiples of 8 bytes, up to the shared memory of a block")
				return
			}
			for k := uint64(0); k < n; k += 8 {
				p := w.at(in, spc, l, a+k, 8, true)
				if p == nil {
					return
				}
				storeAt(p, 8, 0)
			}
		}
	}})
	return nil
}

// decRedAsync is red.async: a reduction in the shared memory of a block of the cluster.
func decRedAsync(d *decoder, m *mods, in *ptx.Inst, spcName string) error {
	memMods(m)
	bar := m.flag(".mbarrier::complete_tx::bytes")
	op := m.oneOf(".and", ".or", ".xor", ".add", ".inc", ".dec", ".min", ".max")
	if op == "" {
		return d.errorf(in.Pos, "red.async wants an operation such as .add")
	}
	t, err := m.typeOf(atomTypes[op]...)
	if err != nil {
		return err
	}
	want := 2
	if bar {
		want = 3
	}
	if err := d.args(in, want, want); err != nil {
		return err
	}
	spc, base, off, narrow, err := d.address(&in.Args[0], spcName)
	if err != nil {
		return err
	}
	v, err := d.src(&in.Args[1], t, false)
	if err != nil {
		return err
	}
	mo := &memOp{spc: spc, size: t.size(), n: 1, off: off, narrow: narrow, upd: atomUpdate(op, t)}
	mo.regs[0] = -1
	x := inst{guard: -1, a: base, b: v, c: -1, mem: mo, run: runAtom}
	if bar {
		slot, at, err := d.asyncTail(&in.Args[2])
		if err != nil {
			return err
		}
		x.e = slot
		x.run = func(w *warp, in *inst, m uint32) {
			runAtom(w, in, m)
			for ; m != 0 && !w.dead; m &= m - 1 {
				w.completeTx(in, bits.TrailingZeros32(m), in.e, -1, at, int64(mo.size))
			}
		}
	}
	d.emit(x)
	return nil
}

// decCpReduce is cp.reduce.async.bulk: memory at the destination becomes memory op source, element by element.
func decCpReduce(d *decoder, m *mods, in *ptx.Inst) error {
	if !m.flag(".async") || !m.flag(".bulk") {
		return notSupported(in.Pos, "cp%s is not supported by the interpreter", strings.Join(in.Mods, ""))
	}
	if m.flag(".tensor") {
		return decCpTensor(d, m, in, true)
	}
	memMods(m)
	dst := m.oneOf(".shared::cluster", ".global")
	src := m.oneOf(".shared::cta")
	bar := m.flag(".mbarrier::complete_tx::bytes")
	if dst == "" || src == "" || bar == m.flag(".bulk_group") {
		return d.errorf(in.Pos, "cp.reduce.async.bulk copies from .shared::cta to .global with .bulk_group or to .shared::cluster with an mbarrier")
	}
	m.flag(".noftz")
	op := m.oneOf(".and", ".or", ".xor", ".add", ".inc", ".dec", ".min", ".max")
	if op == "" {
		return d.errorf(in.Pos, "cp.reduce wants an operation such as .add")
	}
	t, err := m.typeOf(atomTypes[op]...)
	if err != nil {
		return err
	}
	want := 3
	if bar {
		want = 4
	}
	if err := d.args(in, want, want+1); err != nil {
		return err
	}
	dspc, dbase, doff, dnarrow, err := d.address(&in.Args[0], dst)
	if err != nil {
		return err
	}
	sspc, sbase, soff, snarrow, err := d.address(&in.Args[1], src)
	if err != nil {
		return err
	}
	size, err := d.src(&in.Args[2], tU32, false)
	if err != nil {
		return err
	}
	x := inst{guard: -1, a: dbase, b: sbase, c: size, e: -1}
	at := &memOp{}
	if bar {
		if x.e, at, err = d.asyncTail(&in.Args[3]); err != nil {
			return err
		}
	}
	to, from, upd, es := &memOp{off: doff, narrow: dnarrow}, &memOp{off: soff, narrow: snarrow}, atomUpdate(op, t), uint64(t.size())
	x.run = func(w *warp, in *inst, m uint32) {
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			n := w.r[in.c][l]
			da, sa := to.addr(w.r[in.a][l]), from.addr(w.r[in.b][l])
			if n%16 != 0 || n > maxBulk || da%16 != 0 || sa%16 != 0 {
				w.fault(MisalignedAddress, in, 1<<l, da, "bulk copies take multiples of 16 bytes at multiples of 16")
				return
			}
			for k := uint64(0); k < n; k += es {
				if !w.reduceAt(in, l, dspc, da+k, sspc, sa+k, int(es), upd) {
					return
				}
			}
			if in.e >= 0 && !w.completeTx(in, l, in.e, -1, at, int64(n)) {
				return
			}
		}
	}
	d.emit(x)
	return nil
}

// reduceAt updates one element by another in memory.
func (w *warp) reduceAt(in *inst, lane int, dspc space, da uint64, sspc space, sa uint64, size int, upd func(o, b, c uint64) uint64) bool {
	s := w.at(in, sspc, lane, sa, size, false)
	if s == nil {
		return false
	}
	v := loadAt(s, size)
	p := w.at(in, dspc, lane, da, size, true)
	if p == nil {
		return false
	}
	rmw(p, size, upd, v, 0)
	return true
}
