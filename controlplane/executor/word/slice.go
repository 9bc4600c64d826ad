package word

import (
	"math"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// Slice is a range of blocks of one op that a batch launches, or of parts of a graph.
type Slice struct {
	From, Blocks uint32 // Blocks 0: the batch is no slice
	// Last: no slice follows. Behind any other, Number is stored in the issue engine's word Mark.
	Last   bool
	Mark   int
	Number uint32
}

// SlicesAhead is how many slices of one op are in flight at most: the next one is there when one ends.
const SlicesAhead = 3

// Cut is an op that is issued in slices, between which its scheduler is asked again.
//
// Its Cost is what is left of it: where nothing so long may begin (scoreboard.Class.Longest), because a request is under way,
// what has not begun waits as the whole would. A slice takes about half of what the class above may wait (scoreboard.Class.Slice),
// so that two can be in flight; but never less than fills the chip once, for fewer blocks take as long.
type Cut struct {
	Op   *scoreboard.Op
	Form *scoreboard.Form // nil of a graph, which has Parts
	// Parts are what slices of a graph consist of.
	Parts *scoreboard.GraphParts
	// Slices, Issued and Seen are numbers of slices: all that were issued, and of those that store their number how many were issued
	// and are known done.
	Slices       int
	Issued, Seen uint32

	next, blocks uint32
	wave         uint32  // blocks that fill the chip
	each         float64 // ns of the whole chip a block
	costs        [SlicesAhead]int64
}

// cuttable decides whether a ready op of a shape, which is longer than a class above it may wait, can go in slices.
func (g *Gather) cuttable(s *scoreboard.Shape, op *scoreboard.Op) bool {
	if s.Flags != 0 || s.Blocks > math.MaxInt32 || op.Session.Class.Apart || op.Kernel.Apart {
		return false
	}
	f := sliceForm(s, op)
	if f == nil {
		if d := g.options.Demand; d != nil && s.Blocks > uint64(g.options.Chip.SMs) {
			d.Long(s.Code)
		}
		return false
	}
	wave := uint64(g.resident(s, f.Registers, f.StaticShared))
	if s.Blocks <= wave {
		return false
	}
	op.Cuts = true
	return true
}

// sliceForm is the form with the smallest parameter block that can launch slices of an op.
func sliceForm(s *scoreboard.Shape, op *scoreboard.Op) *scoreboard.Form {
	forms := s.Code.Forms.Load()
	if forms == nil {
		return nil
	}
	for _, f := range *forms {
		l := &f.Layout
		if l.Mapping != coalesce.ByTable || len(f.Bodies) > 1 || f.Refused.Load() || !f.Takes(s.Threads) ||
			op.Launch().ParamBytes < uint64(l.BodyBytes[0]) {
			continue
		}
		if a := op.Kernel.Globals.Load(); len(l.GlobalNames) > 0 && len(l.GlobalNames[0]) > 0 && (a == nil || len(*a) != len(l.GlobalNames[0])) {
			continue
		}
		return f
	}
	return nil
}

// Cut begins the slices of an op with Cuts. false: it goes whole, because nobody above is active any more, or what was known of it
// is not now; then its Cost is the whole's. level is the urgency of its streams.
func (g *Gather) Cut(op *scoreboard.Op, level int) (c Cut, ok bool) {
	if op.Cuts = false; op.Kind == shm.KindGraph {
		return cutGraph(op)
	}
	s := g.shapes.Of(op, int32(level))
	if s == nil || s.Cost == 0 {
		return c, false
	}
	op.Cost = s.Cost
	bound := op.Session.Class.Slice
	f := sliceForm(s, op)
	if bound == 0 || s.Cost <= bound || f == nil {
		return c, false
	}
	c = Cut{
		Op: op, Form: f, blocks: uint32(s.Blocks), wave: uint32(min(uint64(g.resident(s, f.Registers, f.StaticShared)), s.Blocks)),
		each: float64(s.Cost) / float64(s.Blocks),
	}
	op.Cuts = true
	return c, true
}

// cutGraph is Cut of a graph.
func cutGraph(op *scoreboard.Op) (c Cut, ok bool) {
	g := op.Graph
	op.Cost = g.Cost()
	if bound := op.Session.Class.Slice; bound == 0 || op.Cost <= bound || g.Parts == nil {
		return c, false
	}
	op.Cuts = true
	return Cut{Op: op, Parts: g.Parts, blocks: uint32(len(g.Parts.Execs))}, true
}

// cost is what so many blocks or parts from one on cost, ns of the whole chip.
func (c *Cut) cost(from, n uint32) int64 {
	if c.Parts != nil {
		return max(1, int64(float64(c.Parts.Time(from, n))*c.Op.Graph.Weight))
	}
	return max(1, int64(c.each*float64(n)))
}

// Ready says whether a further slice may go: not too many are in flight.
func (c *Cut) Ready() bool { return c.Issued-c.Seen < SlicesAhead }

// Peek is the next slice and its cost, ns of the whole chip. all asks for everything that is left.
func (c *Cut) Peek(all bool) (s Slice, cost int64) {
	left := c.blocks - c.next
	n := left
	switch bound := c.Op.Session.Class.Slice; {
	case bound == 0 || all:
	case c.Parts != nil:
		// Each goes alone until it was measured.
		for n = 1; n < left && c.Parts.Measured[c.next] && c.Parts.Measured[c.next+n] && c.cost(c.next, n+1) <= bound/2; n++ {
		}
	default:
		most := uint32(min(float64(bound)/2/c.each, float64(left)))
		n = max(most-most%c.wave, c.wave)
		if n >= left || left-n < c.wave/2 {
			n = left
		}
	}
	return Slice{From: c.next, Blocks: n, Last: n == left, Number: c.Issued + 1}, c.cost(c.next, n)
}

// Took notes that a slice of Peek was issued.
func (c *Cut) Took(s Slice, cost int64) {
	c.next += s.Blocks
	c.Slices++
	if !s.Last {
		c.costs[c.Issued%SlicesAhead] = cost
		c.Issued++
		c.Op.Cost = c.cost(c.next, c.blocks-c.next)
	}
}

// Done notes that the oldest slice in flight has ended, and gives its cost.
func (c *Cut) Done() (cost int64) {
	cost = c.costs[c.Seen%SlicesAhead]
	c.Seen++
	return cost
}

// SliceWord makes the word of a slice of c; false: there is no room for a batch now.
func (g *Gather) SliceWord(c *Cut, s Slice) (w Word, ok bool) {
	b := g.pool.peek()
	if b == nil {
		return w, false
	}
	b.Form, b.Parts, b.Count, b.Alike, b.Slice = c.Form, c.Parts, 1, true, s
	b.Ops[0] = c.Op
	if c.Parts != nil {
		return Word{Batch: b, Measure: s.Blocks == 1 && c.Op.Graph.DuePart(c.Parts, s.From)}, true
	}
	w = Word{Batch: b, Shape: scoreboard.Known(c.Op)}
	// The second one of an op runs behind the first: its time is its own.
	w.Measure = w.Shape != nil && c.Slices == 1 && !s.Last && w.Shape.Times.Due(1, w.Shape.Words)
	return w, true
}

// SliceIssued counts a word of SliceWord.
func (g *Gather) SliceIssued(w *Word, first bool) {
	g.pool.take()
	g.Words[Sliced]++
	op := w.Batch.Ops[0]
	if w.Batch.Parts != nil {
		if first {
			g.Slots[Sliced]++
			g.Widths[0] += op.Kernels()
		}
		return
	}
	u := &op.Kernel.Code.Use
	u.Slices++
	if first {
		g.Slots[Sliced]++
		g.Widths[0]++ // a kernel for itself
		u.Sliced++
		u.Launches++
		op.Session.Launches++
	}
	if w.Batch.Slice.Last && w.Shape != nil {
		w.Shape.Words++
	}
}

// fillSlice is Fill for a slice. Its done word, if the op wants one, is written by the stream, behind the last.
func (b *Batch) fillSlice() {
	if b.Parts != nil {
		return
	}
	op, l := b.Ops[0], &b.Form.Layout
	d := op.Launch()
	var params []byte
	if n := l.BodyBytes[0]; n > 0 {
		params = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), d.Params)), n)
	}
	var globals []uint64
	if len(l.GlobalNames) > 0 && len(l.GlobalNames[0]) > 0 {
		globals = *op.Kernel.Globals.Load()
	}
	l.PutSlice(b.params, params, d.Grid, b.Slice.From, b.Slice.Blocks, globals)
	b.Launch = gpu.Launch{
		Function: b.Form.Function, Grid: [3]uint32{b.Slice.Blocks, 1, 1}, Block: d.Block, SharedBytes: d.SharedBytes,
		Params: uint64(uintptr(unsafe.Pointer(&b.params[0]))), ParamBytes: uint64(l.ParamBytes),
	}
}
