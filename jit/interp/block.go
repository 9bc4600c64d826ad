package interp

import "math/bits"

// cluster is the unit of scheduling: one block, or those of a thread block cluster.
type cluster struct {
	g      *grid
	blocks []*block
	done   bool
	phase  uint32 // completed barrier.cluster phases
	arrive int    // threads that arrived at the present one
}

func (c *cluster) live() int {
	n := 0
	for _, b := range c.blocks {
		n += b.live
	}
	return n
}

// block is one CTA.
type block struct {
	g      *grid
	cl     *cluster
	rank   uint32 // in the cluster
	index  uint64
	ctaid  [3]uint32
	warps  []*warp
	shared []byte
	live   int // threads that have not exited
	bars   [16]barrier
	sm     int
}

// barrier is one of a block's sixteen.
type barrier struct {
	arrived int // threads, bar.arrive included
	want    int // threads given with the instruction; 0: all live ones
}

// tid gives the thread index of a linear one.
func (b *block) tid(n int) [3]uint32 {
	x, y := int(b.g.l.Block[0]), int(b.g.l.Block[1])
	return [3]uint32{uint32(n % x), uint32(n / x % y), uint32(n / (x * y))}
}

// newCluster begins the next blocks of the grid.
func (g *grid) newCluster() (*cluster, error) {
	c := &cluster{g: g}
	cl, gr := g.l.Cluster, g.l.Grid
	n := g.nextBlock / uint64(g.csize) // number of the cluster
	cx, cy := uint64(gr[0]/cl[0]), uint64(gr[1]/cl[1])
	origin := [3]uint32{uint32(n%cx) * cl[0], uint32(n/cx%cy) * cl[1], uint32(n/(cx*cy)) * cl[2]}
	for r := uint32(0); r < g.csize; r++ {
		id := [3]uint32{origin[0] + r%cl[0], origin[1] + r/cl[0]%cl[1], origin[2] + r/(cl[0]*cl[1])}
		b, err := g.newBlock(c, r, id)
		if err != nil {
			return nil, err
		}
		c.blocks = append(c.blocks, b)
	}
	g.nextBlock += uint64(g.csize)
	return c, nil
}

func (g *grid) newBlock(c *cluster, rank uint32, id [3]uint32) (*block, error) {
	var b *block
	nw := (g.threads + 31) / 32
	if n := len(g.blocks); n > 0 {
		b = g.blocks[n-1]
		g.blocks = g.blocks[:n-1]
		clear(b.shared)
		clear(b.bars[:])
	} else {
		b = &block{g: g, shared: make([]byte, g.shared)}
		g.charge(g.shared)
		for i := 0; i < nw; i++ {
			b.warps = append(b.warps, &warp{g: g, blk: b, id: i})
		}
	}
	b.cl, b.rank, b.ctaid, b.live = c, rank, id, g.threads
	b.index = (uint64(id[2])*uint64(g.l.Grid[1])+uint64(id[1]))*uint64(g.l.Grid[0]) + uint64(id[0])
	b.sm = g.first + int(b.index%uint64(g.part))
	for i, w := range b.warps {
		w.all = ^uint32(0)
		if left := g.threads - i*32; left < 32 {
			w.all = 1<<left - 1
		}
		w.live, w.stall, w.dead, w.cl = w.all, 0, false, clusterState{}
		fr := g.newFrame(w, g.entry, nil, w.all)
		if fr == nil || !g.charge(0) {
			w.fault(OutOfMemory, nil, 1, 0, "the blocks in flight need more than 1 GiB for registers, local and shared memory")
			return nil, g.fault
		}
		w.frags = append(w.frags[:0], frag{fr: fr, mask: w.all})
		for l := range w.local {
			clear(w.local[l])
		}
	}
	return b, nil
}

// round gives every warp of the cluster one turn, in an order drawn from the
// seed, and tells whether anything ran.
func (c *cluster) round() bool {
	ran := false
	for _, b := range c.blocks {
		n := len(b.warps)
		start := 0
		stride := 1
		if n > 1 {
			r := c.g.rng.next()
			start = int(r>>32) % n
			if r&1 != 0 {
				stride = n - 1
			}
		}
		for k := 0; k < n; k++ {
			w := b.warps[(start+k*stride)%n]
			if len(w.frags) == 0 {
				continue
			}
			budget := turnLen
			if n > 1 || len(c.blocks) > 1 || len(w.frags) > 1 {
				budget = 16 + int(c.g.rng.next()%turnLen)
			}
			// Several turns for a warp that is alone save the bookkeeping.
			if w.turn(budget) > 0 {
				ran = true
			}
			if c.g.fault != nil {
				return true
			}
		}
	}
	return ran
}

// barrier lets fragment i arrive at a CTA barrier (PTX ISA 9.7.13.1), and wait
// unless it is bar.arrive.
func (w *warp) barrier(i int, in *inst) {
	f := &w.frags[i]
	lane := bits.TrailingZeros32(f.mask)
	id := int(uint32(f.fr.r[in.a][lane]))
	if id > 15 {
		w.fault(IllegalInstruction, in, f.mask, uint64(id), "barrier number above 15")
		return
	}
	want := 0
	if in.b >= 0 {
		want = int(uint32(f.fr.r[in.b][lane]))
		if want == 0 || want%32 != 0 || want > MaxThreadsPerBlock {
			w.fault(IllegalInstruction, in, f.mask, uint64(want), "barrier thread count is not a multiple of 32 up to 1024")
			return
		}
	}
	b := &w.blk.bars[id]
	if b.arrived > 0 && b.want != want {
		w.fault(IllegalInstruction, in, f.mask, uint64(want), "barrier used with two different thread counts at once")
		return
	}
	b.want = want
	n := bits.OnesCount32(f.mask)
	if want > 0 && f.mask == w.all {
		n = 32 // a partial last warp counts as a whole one
	}
	b.arrived += n
	if in.imm == barArrive {
		f.pc++
		f.force = false
	} else {
		f.state, f.bar, f.red = fBar, id, 0
		if in.s >= 0 {
			f.red = f.fr.p[in.s] & f.mask
		}
	}
	w.blk.complete(id)
}

// What inst.imm says about a kBar.
const (
	barSync = iota
	barArrive
	barPopc
	barAnd
	barOr
)

// complete releases barrier id if everyone has arrived.
func (b *block) complete(id int) {
	bar := &b.bars[id]
	want := bar.want
	if want == 0 {
		want = b.live
	}
	if bar.arrived == 0 || bar.arrived < want {
		return
	}
	var count int
	and, or := true, false
	for _, w := range b.warps {
		for i := range w.frags {
			if f := &w.frags[i]; f.state == fBar && f.bar == id {
				count += bits.OnesCount32(f.red)
				and = and && f.red == f.mask
				or = or || f.red != 0
			}
		}
	}
	for _, w := range b.warps {
		for i := range w.frags {
			f := &w.frags[i]
			if f.state != fBar || f.bar != id {
				continue
			}
			in := &f.fr.fn.code[f.pc]
			switch in.imm {
			case barPopc:
				setLanes(f.fr, in.d, f.mask, uint64(count))
			case barAnd:
				setPred(f.fr, in.p, f.mask, and)
			case barOr:
				setPred(f.fr, in.p, f.mask, or)
			}
			f.state = fReady
			f.pc++
		}
	}
	*bar = barrier{}
}

func setLanes(fr *frame, d int32, m uint32, v uint64) {
	if d < 0 {
		return
	}
	for ; m != 0; m &= m - 1 {
		fr.r[d][bits.TrailingZeros32(m)] = v
	}
}

func setPred(fr *frame, p int32, m uint32, v bool) {
	if p < 0 {
		return
	}
	fr.p[p] &^= m
	if v {
		fr.p[p] |= m
	}
}

// exited re-examines what may have waited for threads that are gone, and
// frees the entry's frame with the last of a warp.
func (b *block) exited(w *warp) {
	for id := range b.bars {
		if b.bars[id].arrived > 0 && b.bars[id].want == 0 {
			b.complete(id)
		}
	}
	b.cl.complete()
}

// clusterState is what a warp knows of barrier.cluster: lanes that arrived in
// the present phase, and which phase each waits for.
type clusterState struct {
	arrived uint32
	phase   [32]uint32
}

// clusterBarrier carries out barrier.cluster.arrive and .wait (PTX ISA 9.7.13.4).
func (w *warp) clusterBarrier(i int, in *inst) {
	f := &w.frags[i]
	c := w.blk.cl
	if in.kind == kClArrive {
		if w.cl.arrived&f.mask != 0 {
			w.fault(IllegalInstruction, in, f.mask, 0, "barrier.cluster.arrive twice without barrier.cluster.wait")
			return
		}
		w.cl.arrived |= f.mask
		for q := f.mask; q != 0; q &= q - 1 {
			w.cl.phase[bits.TrailingZeros32(q)] = c.phase + 1
		}
		c.arrive += bits.OnesCount32(f.mask)
		f.pc++
		c.complete()
		return
	}
	f.state = fClWait
	c.release()
}

func (c *cluster) complete() {
	if c.arrive > 0 && c.arrive >= c.live() {
		c.arrive = 0
		c.phase++
		for _, b := range c.blocks {
			for _, w := range b.warps {
				w.cl.arrived = 0
			}
		}
		c.release()
	}
}

// release lets fragments go that wait for a phase that is complete.
func (c *cluster) release() {
	for _, b := range c.blocks {
		for _, w := range b.warps {
			for i := range w.frags {
				f := &w.frags[i]
				if f.state != fClWait {
					continue
				}
				ready := true
				for q := f.mask; q != 0; q &= q - 1 {
					if int32(c.phase-w.cl.phase[bits.TrailingZeros32(q)]) < 0 {
						ready = false
					}
				}
				if ready {
					f.state = fReady
					f.pc++
				}
			}
		}
	}
}
