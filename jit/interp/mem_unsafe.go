package interp

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// space is where an address points.
type space uint8

const (
	spcGeneric  space = iota
	spcGlobal         // .global and .const
	spcShared         // this block's
	spcClShared       // .shared::cluster: block rank in bits 24 and up
	spcLocal
	spcParamEntry // the launch's parameter block
	spcParamFrame // parameter memory of a function's frame
)

// memOp describes a memory access.
type memOp struct {
	spc    space
	size   int   // bytes of one element
	n      int   // elements
	signed bool  // sign-extend loads
	atomic bool  // ordering or volatile: single-copy atomic, acquire and release
	off    int64 // added to the base register
	narrow bool  // 32-bit address register: wraps
	regs   [8]int32
	mask   [8]uint64 // of a destination register's width
	upd    func(old, b, c uint64) uint64
}

const (
	localBase  = 256
	clRankBits = 24
)

// addr gives the address of lane l.
func (mo *memOp) addr(base uint64) uint64 {
	a := base + uint64(mo.off)
	if mo.narrow {
		a = uint64(uint32(a))
	}
	return a
}

// global finds n bytes of global memory; nil when they are not mapped.
func (w *warp) global(a uint64, n int, write bool) unsafe.Pointer {
	s := &w.segs[0]
	if o := a - s.base; o < uint64(len(s.mem)) && uint64(len(s.mem))-o >= uint64(n) && (s.write || !write) {
		return unsafe.Pointer(&s.mem[o])
	}
	for i := 1; i < len(w.segs); i++ {
		s := &w.segs[i]
		if o := a - s.base; o < uint64(len(s.mem)) && uint64(len(s.mem))-o >= uint64(n) && (s.write || !write) {
			if i > 0 { // keep the latest first
				w.segs[0], w.segs[i] = w.segs[i], w.segs[0]
			}
			return unsafe.Pointer(&w.segs[0].mem[o])
		}
	}
	if w.g.seg != nil {
		base, mem, writable := w.g.seg.Segment(a)
		if o := a - base; mem != nil && o < uint64(len(mem)) && uint64(len(mem))-o >= uint64(n) && (writable || !write) {
			copy(w.segs[1:], w.segs[:3])
			w.segs[0] = segment{base, mem, writable}
			return unsafe.Pointer(&mem[o])
		}
		// An access across two mappings, or none.
	}
	if b := w.g.l.Mem.Slice(a, n, write); len(b) >= n {
		return unsafe.Pointer(&b[0])
	}
	return nil
}

// at finds n bytes for one lane, and reports the fault when there are none.
func (w *warp) at(in *inst, spc space, lane int, a uint64, n int, write bool) unsafe.Pointer {
	if a&uint64(n-1) != 0 && n&(n-1) == 0 {
		w.fault(MisalignedAddress, in, 1<<lane, a, "")
		return nil
	}
	if spc == spcGeneric {
		switch a & windowMask {
		case SharedWindow:
			spc = spcClShared
			a &^= windowMask
		case LocalWindow:
			spc = spcLocal
			a &^= windowMask
		case ParamWindow:
			spc = spcParamEntry
			a &^= windowMask
		default:
			spc = spcGlobal
		}
	}
	switch spc {
	case spcGlobal:
		if p := w.global(a, n, write); p != nil {
			return p
		}
		w.fault(IllegalAddress, in, 1<<lane, a, accessText(n, write))
	case spcShared:
		if s := w.blk.shared; a < uint64(len(s)) && uint64(len(s))-a >= uint64(n) {
			return unsafe.Pointer(&s[a])
		}
		w.fault(SharedOutOfRange, in, 1<<lane, a, accessText(n, write))
	case spcClShared:
		// Rank 0 of the window is the accessing block itself; rank r+1 is
		// block r of its cluster (mapa).
		b := w.blk
		if r := a >> clRankBits; r > 0 && r <= uint64(len(w.blk.cl.blocks)) {
			b = w.blk.cl.blocks[r-1]
			a &= 1<<clRankBits - 1
		}
		if s := b.shared; a < uint64(len(s)) && uint64(len(s))-a >= uint64(n) {
			return unsafe.Pointer(&s[a])
		}
		w.fault(SharedOutOfRange, in, 1<<lane, a, accessText(n, write))
	case spcLocal:
		end := a + uint64(n)
		if a >= localBase && end <= uint64(w.fr.top) {
			if mem := w.local[lane]; end <= uint64(len(mem)) {
				return unsafe.Pointer(&mem[a])
			}
			if !w.growLocal(lane, int(w.fr.top)) {
				w.fault(OutOfMemory, in, 1<<lane, a, "local memory")
				return nil
			}
			return unsafe.Pointer(&w.local[lane][a])
		}
		w.fault(LocalOutOfRange, in, 1<<lane, a, accessText(n, write))
	case spcParamEntry:
		if p := w.g.l.Params; !write && a < uint64(len(p)) && uint64(len(p))-a >= uint64(n) {
			return unsafe.Pointer(&p[a])
		}
		w.fault(IllegalAddress, in, 1<<lane, a, "parameter space")
	case spcParamFrame:
		if pb := uint64(w.fr.fn.paramBytes); a < pb && pb-a >= uint64(n) {
			return unsafe.Pointer(&w.fr.params[uint64(lane)*pb+a])
		}
		w.fault(IllegalAddress, in, 1<<lane, a, "parameter space of a function")
	}
	return nil
}

func accessText(n int, write bool) string {
	s := "read of "
	if write {
		s = "write of "
	}
	return s + itoa(n) + " bytes"
}

func itoa(n int) string {
	if n >= 10 {
		return itoa(n/10) + string(rune('0'+n%10))
	}
	return string(rune('0' + n))
}

func (w *warp) growLocal(lane, n int) bool {
	n = min(max((n+1023)&^1023, 2*len(w.local[lane])), MaxLocalPerThread+1024)
	if !w.g.charge(n - len(w.local[lane])) {
		return false
	}
	mem := make([]byte, n)
	copy(mem, w.local[lane])
	w.local[lane] = mem
	return true
}

func loadAt(p unsafe.Pointer, size int) uint64 {
	switch size {
	case 1:
		return uint64(*(*uint8)(p))
	case 2:
		if uintptr(p)&1 == 0 {
			return uint64(*(*uint16)(p))
		}
	case 4:
		if uintptr(p)&3 == 0 {
			return uint64(*(*uint32)(p))
		}
	case 8:
		if uintptr(p)&7 == 0 {
			return *(*uint64)(p)
		}
	}
	var v uint64
	for i := 0; i < size; i++ {
		v |= uint64(*(*uint8)(unsafe.Add(p, i))) << (8 * i)
	}
	return v
}

func storeAt(p unsafe.Pointer, size int, v uint64) {
	switch size {
	case 1:
		*(*uint8)(p) = uint8(v)
		return
	case 2:
		if uintptr(p)&1 == 0 {
			*(*uint16)(p) = uint16(v)
			return
		}
	case 4:
		if uintptr(p)&3 == 0 {
			*(*uint32)(p) = uint32(v)
			return
		}
	case 8:
		if uintptr(p)&7 == 0 {
			*(*uint64)(p) = v
			return
		}
	}
	for i := 0; i < size; i++ {
		*(*uint8)(unsafe.Add(p, i)) = uint8(v >> (8 * i))
	}
}

// Ordered accesses are single atomic operations on the host, so that other
// launches and host threads see them whole and in order.
func loadAtomic(p unsafe.Pointer, size int) uint64 {
	switch {
	case size == 4 && uintptr(p)&3 == 0:
		return uint64(atomic.LoadUint32((*uint32)(p)))
	case size == 8 && uintptr(p)&7 == 0:
		return atomic.LoadUint64((*uint64)(p))
	}
	return loadAt(p, size)
}

func storeAtomic(p unsafe.Pointer, size int, v uint64) {
	switch {
	case size == 4 && uintptr(p)&3 == 0:
		atomic.StoreUint32((*uint32)(p), uint32(v))
	case size == 8 && uintptr(p)&7 == 0:
		atomic.StoreUint64((*uint64)(p), v)
	default:
		storeAt(p, size, v)
	}
}

// oddMu serialises atomics on host memory that is not aligned as device
// addresses are, which only an odd AddressSpace produces.
var oddMu sync.Mutex

// rmw replaces the value at p by upd(old, b, c) atomically and gives the old one.
func rmw(p unsafe.Pointer, size int, upd func(old, b, c uint64) uint64, b, c uint64) uint64 {
	switch {
	case size == 4 && uintptr(p)&3 == 0:
		for {
			old := atomic.LoadUint32((*uint32)(p))
			if atomic.CompareAndSwapUint32((*uint32)(p), old, uint32(upd(uint64(old), b, c))) {
				return uint64(old)
			}
		}
	case size == 8 && uintptr(p)&7 == 0:
		for {
			old := atomic.LoadUint64((*uint64)(p))
			if atomic.CompareAndSwapUint64((*uint64)(p), old, upd(old, b, c)) {
				return old
			}
		}
	case size == 2 && uintptr(p)&1 == 0:
		// Through the aligned word around it: rounding down stays inside
		// the allocation's first word, rounding up may not.
		word := (*uint32)(unsafe.Pointer(uintptr(p) &^ 3))
		sh := uint(uintptr(p)&2) * 8
		for {
			all := atomic.LoadUint32(word)
			old := uint64(uint16(all >> sh))
			v := uint32(uint16(upd(old, b, c)))
			if atomic.CompareAndSwapUint32(word, all, all&^(0xffff<<sh)|v<<sh) {
				return old
			}
		}
	}
	oddMu.Lock()
	defer oddMu.Unlock()
	old := loadAt(p, size)
	storeAt(p, size, upd(old, b, c))
	return old
}

// runLd loads n elements for each lane.
func runLd(w *warp, in *inst, m uint32) {
	mo := in.mem
	base := &w.r[in.a]
	total := mo.size * mo.n
	for ; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		p := w.at(in, mo.spc, l, mo.addr(base[l]), total, false)
		if p == nil {
			return
		}
		for k := 0; k < mo.n; k++ {
			var v uint64
			q := unsafe.Add(p, k*mo.size)
			if mo.atomic {
				v = loadAtomic(q, mo.size)
			} else {
				v = loadAt(q, mo.size)
			}
			if mo.signed {
				v = uint64(sext(v, uint(mo.size)*8)) & mo.mask[k]
			}
			if d := mo.regs[k]; d >= 0 {
				w.r[d][l] = v
			}
		}
	}
}

// runLdGlobal32 is runLd for one 32-bit element of global memory, the
// commonest load of all.
func runLdGlobal32(w *warp, in *inst, m uint32) {
	mo := in.mem
	base, d := &w.r[in.a], &w.r[mo.regs[0]]
	for ; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m) & 31
		a := base[l] + uint64(mo.off)
		s := &w.segs[0]
		if o := a - s.base; a&3 == 0 && o < uint64(len(s.mem)) && uint64(len(s.mem))-o >= 4 {
			d[l] = uint64(*(*uint32)(unsafe.Pointer(&s.mem[o])))
			continue
		}
		p := w.at(in, spcGlobal, l, a, 4, false)
		if p == nil {
			return
		}
		d[l] = loadAt(p, 4)
	}
}

// runLdUniform loads one element that is the same for all lanes: a kernel parameter.
func runLdUniform(w *warp, in *inst, m uint32) {
	mo := in.mem
	total := mo.size * mo.n
	p := w.at(in, mo.spc, bits.TrailingZeros32(m), uint64(mo.off), total, false)
	if p == nil {
		return
	}
	for k := 0; k < mo.n; k++ {
		v := loadAt(unsafe.Add(p, k*mo.size), mo.size)
		if mo.signed {
			v = uint64(sext(v, uint(mo.size)*8)) & mo.mask[k]
		}
		if mo.regs[k] < 0 {
			continue
		}
		d := &w.r[mo.regs[k]]
		if m == ^uint32(0) {
			for i := range d {
				d[i] = v
			}
			continue
		}
		for q := m; q != 0; q &= q - 1 {
			d[bits.TrailingZeros32(q)&31] = v
		}
	}
}

// runSt stores n elements for each lane.
func runSt(w *warp, in *inst, m uint32) {
	mo := in.mem
	base := &w.r[in.a]
	total := mo.size * mo.n
	for ; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		p := w.at(in, mo.spc, l, mo.addr(base[l]), total, true)
		if p == nil {
			return
		}
		for k := 0; k < mo.n; k++ {
			q := unsafe.Add(p, k*mo.size)
			v := w.r[mo.regs[k]][l]
			if mo.atomic {
				storeAtomic(q, mo.size, v)
			} else {
				storeAt(q, mo.size, v)
			}
		}
	}
}

// runAtom is atom and red: memory becomes upd(memory, b, c), d the old value.
func runAtom(w *warp, in *inst, m uint32) {
	mo := in.mem
	base := &w.r[in.a]
	for ; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		a := mo.addr(base[l])
		// Vectors are atomic element by element (PTX ISA 9.7.12.4).
		p := w.at(in, mo.spc, l, a, mo.size*mo.n, true)
		if p == nil {
			return
		}
		for k := 0; k < mo.n; k++ {
			var bv, cv uint64
			if mo.n > 1 {
				bv = w.r[in.table[k]][l]
			} else {
				bv = w.r[in.b][l]
			}
			if in.c >= 0 {
				cv = w.r[in.c][l]
			}
			old := rmw(unsafe.Add(p, k*mo.size), mo.size, mo.upd, bv, cv)
			if d := mo.regs[k]; d >= 0 {
				w.r[d][l] = old
			}
		}
	}
}

// copyMem copies n bytes between spaces for one lane (cp.async, aggregates).
func (w *warp) copyMem(in *inst, lane int, dspc space, dst uint64, sspc space, src uint64, n, have int) bool {
	d := w.at(in, dspc, lane, dst, n, true)
	if d == nil {
		return false
	}
	to := unsafe.Slice((*byte)(d), n)
	if have > 0 {
		s := w.atUnaligned(in, sspc, lane, src, have)
		if s == nil {
			return false
		}
		copy(to, unsafe.Slice((*byte)(s), have))
	}
	clear(to[have:])
	return true
}

// atUnaligned is at for reads whose size is no power of two.
func (w *warp) atUnaligned(in *inst, spc space, lane int, a uint64, n int) unsafe.Pointer {
	if spc == spcGlobal || spc == spcGeneric && a&windowMask != SharedWindow && a&windowMask != LocalWindow && a&windowMask != ParamWindow {
		if p := w.global(a, n, false); p != nil {
			return p
		}
		w.fault(IllegalAddress, in, 1<<lane, a, accessText(n, false))
		return nil
	}
	return w.at(in, spc, lane, a, n, false)
}

// bytes reads a string or argument block byte by byte: up to limit bytes, to
// the first NUL if text is set.
func (w *warp) bytes(in *inst, lane int, a uint64, limit int, text bool) []byte {
	var out []byte
	for i := 0; i < limit; i++ {
		p := w.at(in, spcGeneric, lane, a+uint64(i), 1, false)
		if p == nil {
			return nil
		}
		c := *(*byte)(p)
		if text && c == 0 {
			break
		}
		out = append(out, c)
	}
	if out == nil {
		out = []byte{}
	}
	return out
}

// loadElem16 and storeElem16 access element i of a row of 16-bit elements.
func loadElem16(p unsafe.Pointer, i int) uint64 { return loadAt(unsafe.Add(p, 2*i), 2) }

func storeElem16(p unsafe.Pointer, i int, v uint64) { storeAt(unsafe.Add(p, 2*i), 2, v) }
