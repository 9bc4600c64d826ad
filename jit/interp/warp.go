package interp

import "math/bits"

const noPC = int32(1<<31 - 1)

type fragState uint8

const (
	fReady  fragState = iota
	fSync             // waits for lanes of its member mask
	fBar              // waits at a CTA barrier
	fClWait           // waits for the cluster
)

// frag is a set of lanes of a warp that run together.
type frag struct {
	fr    *frame
	pc    int32
	mask  uint32
	state fragState
	force bool   // execute the sync instruction at pc without waiting again
	need  uint32 // fSync: member mask
	bar   int    // fBar: barrier number
	red   uint32 // fBar: predicate of each lane for bar.red
}

// frame is one activation of a function, for the lanes that entered it together.
type frame struct {
	fn     *function
	r      []lanes
	p      []uint32
	parent *frame
	retPC  int32
	call   *callOp
	depth  int
	lanes  uint32 // lanes that have not returned
	params []byte // parameter memory, one area per lane
	local  uint32 // offset of the frame's local variables
	top    uint32 // first free byte of local memory above it
}

// segment is a cached mapping.
type segment struct {
	base  uint64
	mem   []byte
	write bool
}

// warp is 32 threads of a block.
type warp struct {
	g     *grid
	blk   *block
	id    int
	live  uint32 // threads that have not exited
	all   uint32 // threads that exist
	frags []frag
	cur   int // fragment being run
	r     []lanes
	p     []uint32
	fr    *frame
	mask  uint32 // active lanes of the running fragment
	stall int    // turns in which fragments kept waiting for their turn
	segs  [4]segment
	local [32][]byte
	// yield ends the turn after the current instruction
	yield bool
	dead  bool // fault recorded
	cl    clusterState
}

func (w *warp) setFrame(fr *frame) {
	w.fr, w.r, w.p = fr, fr.r, fr.p
}

// pick merges fragments that met, releases sync waits that are complete, and
// gives the fragment to run: deepest call first, then lowest pc. -1: none is ready.
func (w *warp) pick() int {
	if len(w.frags) == 1 {
		f := &w.frags[0]
		if f.state == fReady {
			return 0
		}
		if f.state == fSync {
			w.releaseSync()
			if f.state == fReady {
				return 0
			}
		}
		return -1
	}
	// Merge ready fragments at one place.
	for i := 0; i < len(w.frags); i++ {
		a := &w.frags[i]
		if a.state != fReady || a.force {
			continue
		}
		for j := i + 1; j < len(w.frags); {
			b := &w.frags[j]
			if b.state == fReady && !b.force && b.pc == a.pc && b.fr == a.fr {
				a.mask |= b.mask
				w.stall = 0
				w.drop(j)
				continue
			}
			j++
		}
	}
	best := w.lowest()
	if best < 0 {
		w.releaseSync()
		best = w.lowest()
	}
	return best
}

func (w *warp) lowest() int {
	best := -1
	for i := range w.frags {
		f := &w.frags[i]
		if f.state != fReady {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		b := &w.frags[best]
		if f.fr.depth > b.fr.depth || f.fr.depth == b.fr.depth && f.pc < b.pc {
			best = i
		}
	}
	return best
}

// drop removes fragment i.
func (w *warp) drop(i int) {
	last := len(w.frags) - 1
	w.frags[i] = w.frags[last]
	w.frags[last] = frag{}
	w.frags = w.frags[:last]
}

// releaseSync lets fragments go whose member masks are covered by waiting lanes,
// even at different places (PTX ISA 9.7.13.2: bar.warp.sync). Called only when
// nothing else can run, so that lanes which would still come have come.
func (w *warp) releaseSync() {
	for i := range w.frags {
		f := &w.frags[i]
		if f.state != fSync {
			continue
		}
		var have uint32
		for j := range w.frags {
			if b := &w.frags[j]; b.state == fSync && b.need == f.need {
				have |= b.mask
			}
		}
		if f.need&w.live&^have != 0 {
			continue
		}
		need := f.need
		for j := range w.frags {
			if b := &w.frags[j]; b.state == fSync && b.need == need {
				b.state, b.force = fReady, true
			}
		}
	}
}

// split moves lanes out of fragment i into a new one at pc, and gives its index.
func (w *warp) split(i int, m uint32, pc int32) int {
	f := &w.frags[i]
	f.mask &^= m
	w.frags = append(w.frags, frag{fr: f.fr, pc: pc, mask: m})
	return len(w.frags) - 1
}

// turn runs up to budget instructions and tells how many it ran.
func (w *warp) turn(budget int) int {
	start := budget
	w.yield = false
	for budget > 0 && len(w.frags) > 0 && !w.dead && !w.yield {
		i := w.pick()
		if i < 0 {
			break
		}
		limit := noPC
		if len(w.frags) > 1 {
			// Fragments that always lose the draw must still move: a
			// thread may spin for what another one of its warp will do.
			if w.stall > 8 {
				w.stall = 0
				i = w.otherReady(i)
			}
			f := &w.frags[i]
			for j := range w.frags {
				b := &w.frags[j]
				if j != i && b.state == fReady && b.fr == f.fr && b.pc > f.pc && b.pc < limit {
					limit = b.pc
				}
			}
		}
		budget = w.exec(i, limit, budget)
	}
	if len(w.frags) > 1 {
		w.stall++
	}
	return start - budget
}

func (w *warp) otherReady(i int) int {
	n := len(w.frags)
	k := int(w.g.rng.next() % uint64(n))
	for j := 0; j < n; j++ {
		if c := (k + j) % n; w.frags[c].state == fReady {
			return c
		}
	}
	return i
}

// exec runs fragment i until its pc reaches limit, it blocks or splits, or the
// budget is spent; it gives the budget left.
func (w *warp) exec(i int, limit int32, budget int) int {
	f := &w.frags[i]
	w.cur = i
	w.setFrame(f.fr)
	code := f.fr.fn.code
	pc, mask := f.pc, f.mask
	w.mask = mask
	lanesOn := uint64(bits.OnesCount32(mask))
	multi := len(w.frags) > 1
	n := 0
	for ; n < budget && pc < limit; n++ {
		in := &code[pc]
		m := mask
		if in.guard >= 0 {
			g := w.p[in.guard]
			if in.gneg {
				g = ^g
			}
			m &= g
		}
		switch in.kind {
		case kALU:
			if m != 0 {
				in.run(w, in, m)
				if w.dead {
					w.g.count += lanesOn * uint64(n+1)
					return 0
				}
			}
			pc++
		case kBra:
			switch {
			case m == mask:
				if multi {
					n++
					pc = in.target
					goto out
				}
				pc = in.target
			case m == 0:
				pc++
			default:
				f.pc = pc + 1
				w.g.count += lanesOn * uint64(n+1)
				w.split(i, m, in.target)
				return budget - n - 1
			}
		case kYield:
			if m != 0 {
				in.run(w, in, m)
				w.yield = true
			}
			pc++
			n++
			goto out
		default:
			f.pc = pc
			w.g.count += lanesOn * uint64(n+1)
			w.control(i, in, m)
			return budget - n - 1
		}
	}
out:
	w.frags[i].pc = pc
	w.g.count += lanesOn * uint64(n)
	return budget - n
}

// control carries out everything that is neither ALU nor a plain branch for
// fragment i, whose pc is at the instruction; m are the lanes that take part.
func (w *warp) control(i int, in *inst, m uint32) {
	f := &w.frags[i]
	if m == 0 {
		f.pc++
		f.force = false
		return
	}
	switch in.kind {
	case kExit:
		w.exit(i, m)
	case kRet:
		w.ret(i, m)
	case kBrx:
		w.brx(i, in, m)
	case kCall:
		w.doCall(i, in, m)
	default:
		if m != f.mask { // lanes that do not take part go on
			w.split(i, f.mask&^m, f.pc+1)
		}
		switch in.kind {
		case kSync:
			w.sync(i, in)
		case kBar:
			w.barrier(i, in)
		case kClArrive, kClWait:
			w.clusterBarrier(i, in)
		}
	}
}

// exit ends lanes m of fragment i.
func (w *warp) exit(i int, m uint32) {
	f := &w.frags[i]
	w.live &^= m
	w.blk.live -= bits.OnesCount32(m)
	for fr := f.fr; fr != nil; {
		up := fr.parent
		fr.lanes &^= m
		if fr.lanes == 0 {
			w.g.free(fr)
		}
		fr = up
	}
	f.mask &^= m
	f.pc++
	f.force = false
	if f.mask == 0 {
		w.drop(i)
	}
	w.stall = 0
	w.blk.exited(w)
}

// ret returns lanes m of fragment i to the caller's frame.
func (w *warp) ret(i int, m uint32) {
	f := &w.frags[i]
	fr := f.fr
	if fr.parent == nil {
		w.exit(i, m)
		return
	}
	w.returnValues(fr, m)
	fr.lanes &^= m
	if m == f.mask {
		f.fr, f.pc = fr.parent, fr.retPC
	} else {
		j := w.split(i, m, fr.retPC)
		w.frags[j].fr = fr.parent
		w.frags[i].pc++
	}
	if fr.lanes == 0 {
		w.g.free(fr)
	}
}

// brx jumps through a table, lane by lane.
func (w *warp) brx(i int, in *inst, m uint32) {
	f := &w.frags[i]
	idx := &f.fr.r[in.a]
	rest := f.mask &^ m
	pc := f.pc
	first := true
	for left := m; left != 0; {
		k := uint32(idx[bits.TrailingZeros32(left)])
		if int(k) >= len(in.table) {
			w.fault(IllegalInstruction, in, left, uint64(k), "brx.idx index beyond its table")
			return
		}
		var same uint32
		for q := left; q != 0; q &= q - 1 {
			l := bits.TrailingZeros32(q)
			if uint32(idx[l]) == k {
				same |= 1 << l
			}
		}
		left &^= same
		if first && rest == 0 {
			w.frags[i].mask, w.frags[i].pc = same, in.table[k]
		} else {
			w.frags = append(w.frags, frag{fr: w.frags[i].fr, pc: in.table[k], mask: same})
		}
		first = false
	}
	if rest != 0 {
		w.frags[i].mask, w.frags[i].pc = rest, pc+1
	}
}

// sync executes a warp-synchronous instruction once all live lanes of its
// member mask have arrived.
func (w *warp) sync(i int, in *inst) {
	f := &w.frags[i]
	pc := f.pc
	if f.force {
		f.force = false
		w.runSync(i, in, f.mask)
		if !w.dead {
			w.frags[i].pc = pc + 1
		}
		return
	}
	// Gather those that wait here already.
	for j := 0; j < len(w.frags); {
		b := &w.frags[j]
		if j != i && b.state == fSync && b.pc == pc && b.fr == f.fr {
			f.mask |= b.mask
			last := len(w.frags) - 1
			w.drop(j)
			if i == last {
				i = j
			}
			f = &w.frags[i]
			continue
		}
		j++
	}
	member := &f.fr.r[in.e]
	left := f.mask
	var done uint32
	type group struct{ mask, need uint32 }
	var waiting []group
	for left != 0 {
		need := uint32(member[bits.TrailingZeros32(left)])
		var same uint32
		for q := left; q != 0; q &= q - 1 {
			l := bits.TrailingZeros32(q)
			if uint32(member[l]) == need {
				same |= 1 << l
			}
		}
		left &^= same
		if need&w.live&^same == 0 {
			w.runSync(i, in, same)
			if w.dead {
				return
			}
			done |= same
		} else {
			waiting = append(waiting, group{same, need})
		}
	}
	f = &w.frags[i]
	fr := f.fr
	if done != 0 {
		f.mask, f.pc, f.state = done, pc+1, fReady
	} else {
		f.mask, f.need, f.state = waiting[0].mask, waiting[0].need, fSync
		waiting = waiting[1:]
	}
	for _, g := range waiting {
		w.frags = append(w.frags, frag{fr: fr, pc: pc, mask: g.mask, need: g.need, state: fSync})
	}
}

func (w *warp) runSync(i int, in *inst, m uint32) {
	if in.run == nil {
		return
	}
	w.cur, w.mask = i, m
	w.setFrame(w.frags[i].fr)
	in.run(w, in, m)
}

// fault records the first fault of the launch, for the lowest lane of m.
func (w *warp) fault(k FaultKind, in *inst, m uint32, addr uint64, msg string) {
	w.dead = true
	if w.g.fault != nil {
		return
	}
	lane := bits.TrailingZeros32(m)
	if lane > 31 {
		lane = 0
	}
	f := &Fault{Kind: k, Addr: addr, Entry: w.g.entry.name, Block: w.blk.ctaid, Thread: w.blk.tid(w.id*32 + lane), Msg: msg}
	if in != nil && in.src != nil {
		f.Line, f.Col, f.Instr = in.src.Pos.Line, in.src.Pos.Col, in.src.String()
	}
	w.g.fault = f
}
