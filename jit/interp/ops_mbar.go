package interp

import (
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Asynchronous barriers", map[string]opInfo{
		"mbarrier": {forms: ".init .inval .expect_tx .complete_tx .arrive .arrive_drop (.expect_tx .noComplete) .test_wait .try_wait (.parity) .pending_count; .b64", decode: decMbarrier},
	})
}

// An mbarrier object (PTX ISA 9.7.13.15; its layout is opaque to programs):
// bits 0–19 expected arrivals, 20–39 pending ones, 40–62 transaction count
// (signed), 63 phase.
type mbar uint64

const (
	mbarCount = 1<<20 - 1
	mbarTx    = 1<<23 - 1
)

func (b mbar) expected() uint64 { return uint64(b) & mbarCount }
func (b mbar) pending() uint64  { return uint64(b) >> 20 & mbarCount }
func (b mbar) tx() int64        { return sext(uint64(b)>>40&mbarTx, 23) }
func (b mbar) phase() uint64    { return uint64(b) >> 63 }

func makeMbar(expected, pending uint64, tx int64, phase uint64) mbar {
	return mbar(expected&mbarCount | pending&mbarCount<<20 | uint64(tx)&mbarTx<<40 | phase<<63)
}

// settle begins the next phase when all arrivals and transactions are in.
func (b mbar) settle() mbar {
	if b.pending() == 0 && b.tx() == 0 {
		return makeMbar(b.expected(), b.expected(), 0, b.phase()^1)
	}
	return b
}

// arrive takes n arrivals and adds tx transactions; drop lowers what later
// phases expect. ok is false when more arrive than are pending.
func (b mbar) arrive(n uint64, tx int64, drop bool) (mbar, bool) {
	if n > b.pending() || n == 0 {
		return b, false
	}
	e := b.expected()
	if drop {
		e -= min(n, e)
	}
	return makeMbar(e, b.pending()-n, b.tx()+tx, b.phase()).settle(), true
}

func (b mbar) addTx(n int64) mbar {
	return makeMbar(b.expected(), b.pending(), b.tx()+n, b.phase()).settle()
}

// mbarAt replaces the object at a by f of it, and gives the old one.
func (w *warp) mbarAt(in *inst, lane int, spc space, a uint64, f func(mbar) (mbar, bool)) (mbar, bool) {
	p := w.at(in, spc, lane, a, 8, true)
	if p == nil {
		return 0, false
	}
	old := mbar(loadAt(p, 8))
	v, ok := f(old)
	if !ok {
		w.fault(IllegalInstruction, in, 1<<lane, a, "mbarrier: more arrivals than are pending, or a count out of range")
		return 0, false
	}
	storeAt(p, 8, uint64(v))
	return old, true
}

func decMbarrier(d *decoder, m *mods, in *ptx.Inst) error {
	op := m.oneOf(".init", ".inval", ".expect_tx", ".complete_tx", ".arrive", ".arrive_drop", ".test_wait", ".try_wait", ".pending_count")
	withTx := (op == ".arrive" || op == ".arrive_drop") && m.flag(".expect_tx")
	m.flag(".noComplete")
	parity := m.flag(".parity")
	m.oneOf(".release", ".acquire", ".relaxed")
	m.oneOf(".cta", ".cluster")
	spcName := m.oneOf(".shared", ".shared::cta", ".shared::cluster")
	if _, err := m.typeOf(tB64); err != nil {
		return err
	}
	args := in.Args
	x := inst{guard: -1, d: -1, p: -1, b: -1}
	var err error
	// count or state operand behind the address
	extra := func(i int, t typ) error {
		if len(args) > i {
			x.b, err = d.src(&args[i], t, false)
		}
		return err
	}
	if op == ".pending_count" {
		return d.op1(in, tU32, tB64, func(a uint64) uint64 { return mbar(a).pending() })
	}
	low, high, addrAt := 1, 1, 0
	switch op {
	case ".init", ".expect_tx", ".complete_tx":
		low, high = 2, 2
	case ".arrive", ".arrive_drop":
		low, high = 1, 3
		if len(args) > 0 && args[0].Kind != ptx.Addr {
			addrAt = 1
		}
	case ".test_wait", ".try_wait":
		low, high, addrAt = 3, 4, 1
	case ".inval":
	default:
		return d.errorf(in.Pos, "mbarrier wants an operation such as .arrive")
	}
	if err := d.args(in, low, high); err != nil {
		return err
	}
	if len(args) <= addrAt {
		return d.errorf(in.Pos, "mbarrier%s lacks its address", op)
	}
	spc, base, off, narrow, err := d.address(&args[addrAt], spcName)
	if err != nil {
		return err
	}
	x.a = base
	mo := &memOp{off: off, narrow: narrow}
	each := func(f func(w *warp, in *inst, lane int, a uint64, b uint64) bool) {
		x.run = func(w *warp, in *inst, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				var bv uint64
				if in.b >= 0 {
					bv = w.r[in.b][l]
				}
				if !f(w, in, l, mo.addr(w.r[in.a][l]), bv) {
					return
				}
			}
		}
	}
	switch op {
	case ".init":
		if err := extra(1, tU32); err != nil {
			return err
		}
		each(func(w *warp, in *inst, lane int, a, n uint64) bool {
			_, ok := w.mbarAt(in, lane, spc, a, func(mbar) (mbar, bool) { return makeMbar(n, n, 0, 0), n > 0 && n <= mbarCount })
			return ok
		})
	case ".inval":
		each(func(w *warp, in *inst, lane int, a, _ uint64) bool {
			_, ok := w.mbarAt(in, lane, spc, a, func(mbar) (mbar, bool) { return 0, true })
			return ok
		})
	case ".expect_tx", ".complete_tx":
		if err := extra(1, tU32); err != nil {
			return err
		}
		sign := int64(1)
		if op == ".complete_tx" {
			sign = -1
		}
		each(func(w *warp, in *inst, lane int, a, n uint64) bool {
			_, ok := w.mbarAt(in, lane, spc, a, func(b mbar) (mbar, bool) { return b.addTx(sign * int64(n)), n <= mbarCount })
			return ok
		})
	case ".arrive", ".arrive_drop":
		if addrAt == 1 {
			if x.d, _, err = d.dst(&args[0], tB64, false); err != nil {
				return err
			}
		}
		if err := extra(addrAt+1, tU32); err != nil {
			return err
		}
		drop := op == ".arrive_drop"
		each(func(w *warp, in *inst, lane int, a, v uint64) bool {
			n, tx := uint64(1), int64(0)
			if withTx {
				tx = int64(v)
			} else if in.b >= 0 {
				n = v
			}
			old, ok := w.mbarAt(in, lane, spc, a, func(b mbar) (mbar, bool) { return b.arrive(n, tx, drop) })
			if ok && in.d >= 0 {
				w.r[in.d][lane] = uint64(old)
			}
			return ok
		})
	case ".test_wait", ".try_wait":
		if x.p, err = d.pdst(&args[0]); err != nil {
			return err
		}
		t := tB64
		if parity {
			t = tU32
		}
		if err := extra(2, t); err != nil {
			return err
		}
		x.kind = kYield // let those that will arrive run
		each(func(w *warp, in *inst, lane int, a, v uint64) bool {
			b, ok := w.mbarAt(in, lane, spc, a, func(b mbar) (mbar, bool) { return b, true })
			phase := v & 1
			if !parity {
				phase = mbar(v).phase()
			}
			setPred(w.fr, in.p, 1<<lane, b.phase() != phase)
			return ok
		})
	}
	d.emit(x)
	return nil
}

// decCpMbar is cp.async.mbarrier.arrive: copies are done at once, so it only
// arrives; without .noinc it raises the pending count first, which cancels out.
func decCpMbar(d *decoder, m *mods, in *ptx.Inst) error {
	if !m.flag(".arrive") {
		return notSupported(in.Pos, "cp.async.mbarrier%s", strings.Join(in.Mods[2:], ""))
	}
	noinc := m.flag(".noinc")
	spcName := m.oneOf(".shared", ".shared::cta")
	if _, err := m.typeOf(tB64); err != nil {
		return err
	}
	if err := d.args(in, 1, 1); err != nil {
		return err
	}
	spc, base, off, narrow, err := d.address(&in.Args[0], spcName)
	if err != nil || !noinc {
		return err
	}
	mo := &memOp{off: off, narrow: narrow}
	d.emit(inst{guard: -1, a: base, run: func(w *warp, in *inst, m uint32) {
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			if _, ok := w.mbarAt(in, l, spc, mo.addr(w.r[in.a][l]), func(b mbar) (mbar, bool) { return b.arrive(1, 0, false) }); !ok {
				return
			}
		}
	}})
	return nil
}

// maxBulk bounds one bulk copy.
const maxBulk = MaxSharedPerBlock

// decCpBulk is cp.async.bulk between global and shared memory, without
// tensors: the copy is done at once and its bytes count as complete.
func decCpBulk(d *decoder, m *mods, in *ptx.Inst) error {
	if m.oneOf(".commit_group", ".wait_group") != "" {
		m.flag(".read")
		return nil
	}
	if m.flag(".tensor") {
		return decCpTensor(d, m, in, false)
	}
	if m.flag(".prefetch") {
		return decIgnore(d, m, in)
	}
	memMods(m)
	var spaces []string
	for len(spaces) < 2 {
		s := m.oneOf(".shared::cluster", ".shared::cta", ".global")
		if s == "" {
			return d.errorf(in.Pos, "cp.async.bulk wants two state spaces")
		}
		spaces = append(spaces, s)
	}
	bar := m.flag(".mbarrier::complete_tx::bytes")
	many := bar && m.flag(".multicast::cluster")
	if !bar && !m.flag(".bulk_group") {
		return notSupported(in.Pos, "cp.async.bulk%s is not supported by the interpreter", strings.Join(in.Mods[2:], ""))
	}
	n := 3
	if bar {
		n = 4
	}
	if many {
		n++
	}
	if err := d.args(in, n, n+1); err != nil {
		return err
	}
	ds, dbase, doff, dnarrow, err := d.address(&in.Args[0], spaces[0])
	if err != nil {
		return err
	}
	ss, sbase, soff, snarrow, err := d.address(&in.Args[1], spaces[1])
	if err != nil {
		return err
	}
	size, err := d.src(&in.Args[2], tU32, false)
	if err != nil {
		return err
	}
	to, from, at := &memOp{off: doff, narrow: dnarrow}, &memOp{off: soff, narrow: snarrow}, &memOp{}
	x := inst{guard: -1, a: dbase, b: sbase, c: size, d: -1, e: -1}
	if many {
		if x.d, err = d.src(&in.Args[4], tB16, false); err != nil {
			return err
		}
	}
	if bar {
		var boff int64
		if _, x.e, boff, at.narrow, err = d.address(&in.Args[3], ".shared::cluster"); err != nil {
			return err
		}
		at.off = boff
	}
	x.run = func(w *warp, in *inst, m uint32) {
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			n := w.r[in.c][l]
			da, sa := to.addr(w.r[in.a][l]), from.addr(w.r[in.b][l])
			if n%16 != 0 || n > maxBulk || da%16 != 0 || sa%16 != 0 {
				w.fault(MisalignedAddress, in, 1<<l, da, "bulk copies take multiples of 16 bytes at multiples of 16")
				return
			}
			for _, da := range w.multicast(in.d, l, da) {
				for k := uint64(0); k < n; k += 16 {
					if !w.copyMem(in, l, ds, da+k, ss, sa+k, 16, 16) {
						return
					}
				}
			}
			if in.e >= 0 && !w.completeTx(in, l, in.e, in.d, at, int64(n)) {
				return
			}
		}
	}
	d.emit(x)
	return nil
}
