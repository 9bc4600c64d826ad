package interp

import (
	"context"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// rng is splitmix64: small, seedable, good enough to shuffle turns.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// grid is one launch under way. Everything in it belongs to one goroutine,
// except stop.
type grid struct {
	l          Launch
	ctx        context.Context
	in         *Instance
	entry      *function
	layout     sharedLayout
	values     map[*function][]uint64 // constants of each reachable function
	seg        SegmentSpace           // nil when Mem is not one
	rng        rng
	stop       atomic.Bool // set when the context ends
	count      uint64
	blocksDone uint64
	fault      *Fault
	sms        int
	first      int // of those that blocks run on, part many
	part       int
	threads    int
	shared     int // bytes per block
	memory     int64
	pool       map[*function][]*frame
	blocks     []*block // free ones
	nextBlock  uint64
	total      uint64
	csize      uint32 // blocks per cluster
	explicit   bool   // the launch or the kernel gives a cluster size
}

func vol(d [3]uint32) uint64 {
	hi, lo := bits.Mul64(uint64(d[0])*uint64(d[1]), uint64(d[2]))
	if hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// prepare checks a launch as the driver does and resolves its constants.
func (in *Instance) prepare(ctx context.Context, l Launch) (*grid, error) {
	refuse := func(format string, args ...any) (*grid, error) {
		return nil, &LaunchError{Entry: l.Entry, Msg: fmt.Sprintf(format, args...)}
	}
	e, ok := in.p.Entry(l.Entry)
	if !ok {
		return refuse("no such entry in the module")
	}
	if e.Err != nil {
		return nil, &LaunchError{Entry: l.Entry, Msg: "its code is not supported", Err: e.Err}
	}
	explicit := l.Cluster != [3]uint32{} || e.Limits.ReqNCTAPerClstr[0] != 0
	for _, d := range []*[3]uint32{&l.Grid, &l.Block, &l.Cluster} {
		for i := range d {
			if d[i] == 0 {
				d[i] = 1
			}
		}
	}
	if e.Limits.ReqNCTAPerClstr[0] != 0 && l.Cluster == [3]uint32{1, 1, 1} {
		l.Cluster = e.Limits.ReqNCTAPerClstr
	}
	threads := vol(l.Block)
	if threads > MaxThreadsPerBlock || l.Block[2] > 64 || threads > uint64(e.MaxThreads) {
		return refuse("block of %d×%d×%d threads: at most %d (%d in z)", l.Block[0], l.Block[1], l.Block[2], e.MaxThreads, 64)
	}
	if r := e.Limits.ReqNTID; r[0] != 0 && r != l.Block {
		return refuse("block of %v threads: .reqntid asks for %v", l.Block, r)
	}
	if l.Grid[0] > 1<<31-1 || l.Grid[1] > 65535 || l.Grid[2] > 65535 {
		return refuse("grid of %d×%d×%d blocks: at most 2147483647×65535×65535", l.Grid[0], l.Grid[1], l.Grid[2])
	}
	for i := range l.Grid {
		if l.Cluster[i] == 0 || l.Grid[i]%l.Cluster[i] != 0 {
			return refuse("grid %v is not a multiple of cluster %v", l.Grid, l.Cluster)
		}
	}
	if vol(l.Cluster) > 16 {
		return refuse("cluster of %d blocks: at most 16", vol(l.Cluster))
	}
	lay := in.p.layout[l.Entry]
	shared := lay.size
	if l.DynShared > 0 {
		shared = lay.dyn + int(l.DynShared)
	}
	if l.DynShared > MaxSharedPerBlock || shared > MaxSharedPerBlock {
		return refuse("%d bytes of shared memory: at most %d", shared, MaxSharedPerBlock)
	}
	if len(l.Params) < e.ParamBytes {
		return refuse("%d bytes of parameters: expected %d", len(l.Params), e.ParamBytes)
	}
	if l.Mem == nil {
		return refuse("no memory: set Launch.Mem")
	}
	fn := in.p.funcs[l.Entry]
	g := &grid{l: l, ctx: ctx, in: in, entry: fn, layout: lay, values: map[*function][]uint64{}, rng: rng(l.Seed),
		sms: l.SMs, threads: int(threads), shared: shared, pool: map[*function][]*frame{}, csize: uint32(vol(l.Cluster)), explicit: explicit}
	if g.sms <= 0 {
		g.sms = 132
	}
	if g.part = l.Part; g.part <= 0 || l.FirstSM < 0 || l.FirstSM+g.part > g.sms {
		g.part, g.first = g.sms, 0
	} else {
		g.first = l.FirstSM
	}
	if s, ok := l.Mem.(SegmentSpace); ok {
		g.seg = s
	}
	g.total = vol(l.Grid)
	for _, f := range in.p.reach[l.Entry] {
		vals := make([]uint64, len(f.consts))
		for i, c := range f.consts {
			vals[i] = c.val
			if c.global != "" {
				vals[i] += in.addrs[c.global]
			}
			if c.shared != nil {
				vals[i] = uint64(uint32(vals[i] + uint64(lay.off[c.shared])))
			}
		}
		g.values[f] = vals
	}
	return g, nil
}

// charge accounts n bytes of the launch's own memory.
func (g *grid) charge(n int) bool {
	g.memory += int64(n)
	return g.memory <= maxLaunchMemory
}

// newFrame gives a frame for fn with constants and fills set; nil when the
// launch's memory is used up.
func (g *grid) newFrame(w *warp, fn *function, parent *frame, m uint32) *frame {
	var fr *frame
	if l := g.pool[fn]; len(l) > 0 {
		fr = l[len(l)-1]
		g.pool[fn] = l[:len(l)-1]
	} else {
		if !g.charge(fn.nreg*256 + fn.npred*4 + fn.paramBytes*32 + 256) {
			return nil
		}
		fr = &frame{fn: fn, r: make([]lanes, fn.nreg), p: make([]uint32, fn.npred), params: make([]byte, fn.paramBytes*32)}
		vals := g.values[fn]
		for i, c := range fn.consts {
			r := &fr.r[c.slot]
			for l := range r {
				r[l] = vals[i]
			}
		}
	}
	fr.parent, fr.lanes = parent, m
	fr.depth, fr.local = 0, localBase
	if parent != nil {
		fr.depth = parent.depth + 1
		fr.local = parent.top
	}
	a := uint32(max(fn.localAlign, 16))
	fr.local = (fr.local + a - 1) &^ (a - 1)
	fr.top = fr.local + uint32(fn.local)
	for i := range fn.fills {
		w.fill(fr, &fn.fills[i])
	}
	return fr
}

func (g *grid) free(fr *frame) {
	fr.parent = nil
	g.pool[fr.fn] = append(g.pool[fr.fn], fr)
}

// turnLen is the most instructions that a warp runs before the next one's turn.
const turnLen = 192

// run executes the grid: a window of clusters takes turns; it widens when
// none of them ends for long, because they may wait for blocks not begun.
func (g *grid) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &Fault{Kind: IllegalInstruction, Entry: g.entry.name, Msg: fmt.Sprintf("interpreter error: %v", r)}
		}
	}()
	if g.ctx.Err() != nil {
		return g.timeout(g.ctx.Err())
	}
	defer context.AfterFunc(g.ctx, func() { g.stop.Store(true) })()
	window := 4
	most := g.residency()
	var active []*cluster
	var since uint64 // instructions since a cluster ended or the window grew
	for {
		for len(active) < window && g.nextBlock < g.total {
			c, err := g.newCluster()
			if err != nil {
				return err
			}
			active = append(active, c)
		}
		if len(active) == 0 {
			return nil
		}
		before := g.count
		progress := false
		start := int(g.rng.next() % uint64(len(active)))
		ended := false
		for k := range active {
			c := active[(start+k)%len(active)]
			if c.round() {
				progress = true
			}
			if g.fault != nil {
				return g.fault
			}
			if g.stop.Load() || g.l.MaxInstructions > 0 && g.count > g.l.MaxInstructions {
				break
			}
			if c.live() == 0 {
				c.done = true
				ended = true
			}
		}
		if g.stop.Load() {
			return g.timeout(g.ctx.Err())
		}
		if g.l.MaxInstructions > 0 && g.count > g.l.MaxInstructions {
			return g.timeout(nil)
		}
		since += g.count - before
		if ended {
			since = 0
			kept := active[:0]
			for _, c := range active {
				if c.done {
					g.blocksDone += uint64(len(c.blocks))
					g.blocks = append(g.blocks, c.blocks...)
				} else {
					kept = append(kept, c)
				}
			}
			active = kept
			continue
		}
		if !progress {
			if window < most && g.nextBlock < g.total {
				window = min(most, window*2)
				continue
			}
			return g.deadlock(active)
		}
		if since > 4_000_000 && window < most {
			window, since = min(most, window*2), 0
		}
	}
}

// residency is how many clusters the modelled chip holds at once.
func (g *grid) residency() int {
	per := min(32, 2048/((g.threads+31)&^31))
	if g.shared > 0 {
		per = min(per, (228<<10)/(g.shared+1024))
	}
	return max(1, g.part*max(1, per)/int(g.csize))
}

func (g *grid) timeout(cause error) error {
	msg := fmt.Sprintf("more than %d thread-instructions", g.l.MaxInstructions)
	if cause != nil {
		msg = "the launch was stopped"
	}
	return &Fault{Kind: Timeout, Entry: g.entry.name, Line: g.entry.src.Pos.Line, Col: g.entry.src.Pos.Col, Msg: msg, Cause: cause}
}

// deadlock names a thread that waits for ever.
func (g *grid) deadlock(active []*cluster) error {
	for _, c := range active {
		for _, b := range c.blocks {
			for _, w := range b.warps {
				for i := range w.frags {
					f := &w.frags[i]
					w.dead = false
					w.fault(BarrierDeadlock, &f.fr.fn.code[f.pc], f.mask, 0, "no thread of the block can go on")
					return g.fault
				}
			}
		}
	}
	return g.timeout(nil)
}

// idle gives %clock-like time: one cycle per warp instruction, roughly.
func (g *grid) cycles() uint64 { return g.count / 32 }
