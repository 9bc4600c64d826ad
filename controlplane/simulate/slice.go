package simulate

import (
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	execword "github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// cut is an op that is issued in slices, as the executor's poller does it (controlplane/executor/slices.go).
type cut struct {
	execword.Cut
	op *op
}

// wishes gives kernels that were too long the form that slices need. The others' wishes are for forms that they have.
func (h *heddle) wishes() {
	for {
		w, ok := h.demand.Next()
		if !ok {
			return
		}
		bodies, packs := w.Bodies[:w.Count], true
		for _, c := range bodies {
			k := h.d.r.sc.kernels[c.ID-1]
			packs = packs && k.Packs && !k.Alone
		}
		if w.Count == 1 && w.Capacity == scoreboard.SliceCapacity && !h.d.r.sc.kernels[bodies[0].ID-1].Alone || w.Count > 1 && packs {
			h.publish(coalesce.ByTable, w.Capacity, slices.Clone(bodies)...)
		}
		if w.Count > 1 {
			h.demand.Settled()
		}
	}
}

// Slice issues the next slice of an op, or leaves it (taken is false) to be issued whole.
func (h *heddle) Slice(o *scoreboard.Op) (taken, issued bool) {
	d, now := h.d, h.d.r.now
	k := h.cuts[o]
	first := k == nil
	if first {
		cutting, ok := h.Gather.Cut(o, h.level(of(o)))
		if !ok {
			return false, false
		}
		k = &cut{Cut: cutting, op: of(o)}
	}
	s, cost := k.Peek(false)
	if first && s.Last {
		o.Cuts, o.Cost = false, cost
		return false, false
	}
	if !k.Ready() {
		return true, false
	}
	var measured func(int64)
	if shape := scoreboard.Known(o); shape != nil && k.Slices == 1 && !s.Last && shape.Times.Due(1, shape.Words) {
		blocks := s.Blocks
		measured = func(ns int64) {
			shape.Samples--
			ns = int64(float64(ns) * float64(shape.Blocks) / float64(blocks))
			shape.Times.Add(1, ns)
			shape.Code.Use.Times.Add(1, ns)
			h.Gather.Weigh(shape)
		}
	}
	h.ops = append(h.ops[:0], k.op)
	ln, client := k.op.ln, h.clients[k.op.c.slot]
	if !d.issue(h.ops, &part{blocks: int(s.Blocks), first: first, last: s.Last, ended: func() {
		h.lastComplete = d.r.now
		h.Sched.SliceDone(client, ln.Lane, k.Done(), d.r.now)
	}}, h.level(k.op), true, measured) {
		return true, false
	}
	if measured != nil {
		scoreboard.Known(o).Samples++
	}
	k.Took(s, cost)
	o.Kernel.Code.Use.Slices++
	h.Sched.Sliced(o, cost, first, s.Last, now)
	h.cuts[o] = k
	if s.Last {
		delete(h.cuts, o)
		if shape := scoreboard.Known(o); shape != nil {
			shape.Words++
		}
	} else {
		h.Sched.Add(o)
	}
	return true, true
}
