// Package dispatch is a pass over what is ready: which ops go now, which of them together, how many of a lane, and which get a done
// word. The executor's poller and the simulator run this one code; what it means to issue something is their Host's.
//
//	offered ─► Ready ─┬─► gather (word): ops that others of their kernel may join ─┐
//	                  └─► scheduler (sched): all others ───────────────────────────┴─► Run: the more urgent of the two first ─► Host
//
// A Dispatch belongs to one thread. Nothing on the path of an op allocates.
// Source: design.md sections 5 and 7, controlplane/executor/README.md.
package dispatch

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of a pass: nobody's flood delays the others by more than some ten µs.
const (
	// wordsPerPass bounds how many words are made before the rings are looked at again.
	wordsPerPass = 16
	// ScanBudget is how many records of a client a pass takes.
	ScanBudget = 64
	// FarAhead is how many waiting ops are plenty: beyond it only every ScanEvery-th pass takes more, so that they are few enough for the
	// cache, and the client's lines are fetched for many records at a time; other lanes' ops behind them are found nevertheless.
	FarAhead  = 64
	ScanEvery = 8
)

// Host issues what a pass chose.
type Host interface {
	// Single issues an op that goes without other clients' company. false: there is no room now.
	Single(op *scoreboard.Op) bool
	// Graphs issues launches of clients' graphs that wait for each other (word.Bench), unless s or op, of which either can be nil, goes
	// before them: then taken is false. busy and force are as Gather.NextBench has them.
	Graphs(s *scoreboard.Shape, op *scoreboard.Op, busy, force bool) (taken, issued bool)
	// Goes says whether a graph may be issued now, and decides anew whether it has Cuts.
	Goes(graph *scoreboard.Op) bool
	// Slice issues the next slice of an op with Cuts. taken is false when the op is to be issued like any other, issued when there was
	// no room for the slice.
	Slice(op *scoreboard.Op) (taken, issued bool)
	// Issue hands over a word of the gather, whose ops' done words are decided. false: there is no room now, nothing was changed.
	Issue(w *word.Word) bool
	// Begun is told of every op of such a word when it is issued. What follows it in its lane may be offered.
	Begun(op *scoreboard.Op)
	// Offer hands over a lane's first waiting op, if there is one that may be issued.
	Offer(s *scoreboard.Session, l *scoreboard.Lane)
}

// Dispatch is the state between passes.
type Dispatch struct {
	Bounds
	Sched  *sched.Scheduler
	Gather *word.Gather
	// Alone: no more than one session has work.
	Alone bool
	// Ends: every op gets a done word of its own, so that a recording tells when each one ended.
	Ends bool

	now   int64
	later []*scoreboard.Op // ready ops that found no room in this pass
	word  word.Word        // at hand: here, so that it is not allocated for the Host
}

// Reserve makes room for so many ops that find none, so that a pass does not allocate.
func (d *Dispatch) Reserve(ops int) {
	if cap(d.later) < ops {
		d.later = make([]*scoreboard.Op, 0, 2*ops)
	}
}

// Ready takes an op that may be issued from now on, of a stream of that level of urgency. alone: it must not wait for company.
func (d *Dispatch) Ready(op *scoreboard.Op, level int, alone bool) {
	if alone || !d.Gather.Add(op, level) {
		Estimate(op)
		d.Sched.Add(op)
	}
}

// Run issues what may go at a time while there is room: ops that can be joined as their kernel's company allows (Gather), the others as
// the policy says (Sched), the more urgent of the two first. stuck is for how long nothing has completed, when that is so long that every
// wait for company ends, else 0. pending is how many commands issue threads have. It reports whether something was issued.
func (d *Dispatch) Run(h Host, now, stuck int64, pending int) (did bool) {
	d.now = now
	d.Sched.Begin(now, stuck)
	d.Gather.Uneven = d.Sched.Uneven
	d.Gather.Look(now)
	for words := 0; ; {
		var s *scoreboard.Shape
		if d.Gather.Len() > 0 && words < wordsPerPass {
			if s = d.Gather.Next(now, pending, stuck > 0); s == nil {
				words = wordsPerPass // nothing more in this pass: what is offered meanwhile has not waited longer
			}
		}
		op := d.Sched.Peek()
		if d.Gather.GraphsWaiting() > 0 {
			if taken, issued := h.Graphs(s, op, pending > 1, stuck > 0); taken {
				if issued {
					did = true
					pending++
				}
				continue
			}
		}
		if s != nil && (op == nil || !Before(op, s.Ready.First())) {
			words++
			if d.join(h, s) {
				did = true
				pending++
			}
			continue
		}
		if op == nil {
			break
		}
		d.Sched.Next()
		if op.Kind == shm.KindGraph && !h.Goes(op) {
			d.later = append(d.later, op)
			continue
		}
		if op.Cuts {
			if taken, issued := h.Slice(op); taken {
				if !issued {
					d.later = append(d.later, op)
				}
				did = did || issued
				continue
			}
		}
		if !h.Single(op) {
			d.later = append(d.later, op)
			continue
		}
		did = true
	}
	for i, op := range d.later {
		d.Sched.Add(op)
		d.later[i] = nil
	}
	d.later = d.later[:0]
	return did
}

// join issues a word of a shape's ops, and has what follows them in their lanes offered: so clients that launch alike without waiting
// stay in step. false: there was no room.
func (d *Dispatch) join(h Host, s *scoreboard.Shape) bool {
	d.Signal(s.Ready.First(), true)
	w := &d.word
	var ok bool
	if *w, ok = d.Gather.Build(s); ok {
		if w.Batch != nil {
			for _, op := range w.Ops()[1:] {
				d.Signal(op, true)
			}
		}
		ok = h.Issue(w)
	}
	if !ok {
		d.Gather.NoRoom(s)
		return false
	}
	d.Gather.Issued(w, d.now)
	cost := d.Gather.Cost(w)
	for _, op := range w.Ops() {
		h.Begun(op)
		d.Sched.Issued(op, cost, op.Signal, w.Len(), d.now)
		h.Offer(op.Session, op.Session.Lane(op.Lane))
	}
	return true
}

// Before says whether op goes before the first op of a shape.
func Before(op, first *scoreboard.Op) bool {
	a, b := op.Place(), first.Place()
	return a < b || (a == b && op.Before(first))
}

// Estimate says what an op costs that the gather did not know.
func Estimate(op *scoreboard.Op) {
	if op.Cost > 0 {
		return
	}
	const bytesPerNanosecond, overhead = 1000, 2000 // of a copy; an H100 moves some 1.5 KB a ns, and starts within 2 µs
	if op.Kind == shm.KindGraph {
		op.Cost = op.Graph.Cost()
		op.Cuts = op.Graph.Cuts(op.Session.Class)
		return
	}
	if op.Kind != shm.KindLaunch {
		op.Cost = overhead + int64(min(op.Bytes(), 1<<40))/bytesPerNanosecond
		return
	}
	op.Cost = sched.Unknown
}
