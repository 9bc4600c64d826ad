package executor

import (
	"math/bits"

	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/shm"
)

// cuts are the ops that are issued in slices, each with a mark of the issue engine. All of it runs on the poller's thread.
//
//	offer ─► gather.Add: too long, Cuts ─► sched ─► dispatch ─► Slice: Cut, its first slice ─► sched again ─► Slice ─► … the last
//	                                         progress: a slice has ended, so another may go ──────┘
type cuts struct {
	all  [issue.Marks]cut
	used uint32 // a bit each: the mark is taken
	// paused is how many have begun and have nothing on the GPU now: nobody need wonder that nothing of them completes.
	paused int
}

// cut is one such op.
type cut struct {
	word.Cut
	client *client
	lane   *scoreboard.Lane
	mark   int
	words  [word.SlicesAhead]uint64 // numbers of those in flight, for recordings
	queued bool                     // it is with the scheduler
	over   bool                     // no slice follows; the op may be gone
}

// Slice issues the next slice of an op with Cuts that the scheduler gave. taken is false when it is to be issued like any other,
// issued when there was no room for the slice.
func (p *poller) Slice(op *scoreboard.Op) (taken, issued bool) {
	l := op.Session.Lane(op.Lane)
	if l.Part == op {
		return true, p.follow(p.cuts.find(op), false)
	}
	i := bits.TrailingZeros32(^p.cuts.used)
	if i == issue.Marks {
		return true, false // those that have begun come first
	}
	of, ok := p.gather.Cut(op, p.engine.LevelFor(op))
	if !ok {
		return false, false
	}
	k := &p.cuts.all[i]
	of.Issued, of.Seen = k.Seen, k.Seen // the mark counts on
	*k = cut{Cut: of, client: p.slots[op.Session.Slot], lane: l, mark: i}
	s, cost := k.Peek(false)
	if s.Last {
		op.Cuts, op.Cost = false, cost
		return false, false
	}
	s.Mark = i
	w, ok := p.gather.SliceWord(&k.Cut, s)
	if ok {
		op.Signal = true // the end of a long op is worth a word
		p.direct(op)
		ok = p.engine.Issue(&w)
	}
	if !ok {
		return true, false
	}
	p.cuts.used |= 1 << i
	p.sliced(k, &w, cost, true)
	p.begun(op)
	return true, true
}

// follow issues a slice that is not the first, or all that is left.
func (p *poller) follow(k *cut, all bool) bool {
	if !k.Ready() && !all {
		return false
	}
	s, cost := k.Peek(all)
	s.Mark = k.mark
	w, ok := p.gather.SliceWord(&k.Cut, s)
	if ok {
		p.engine.Direct = false // its calls are made while the slice before it runs
		ok = p.engine.Follow(&w)
	}
	if ok {
		p.sliced(k, &w, cost, false)
	}
	return ok
}

// sliced keeps the books of a slice that was issued.
func (p *poller) sliced(k *cut, w *word.Word, cost int64, first bool) {
	s := w.Batch.Slice
	k.client.quiet.on = false // the last one is followed by a done word, and by the lane's next op
	k.words[k.Issued%word.SlicesAhead] = p.engine.Words
	k.Took(s, cost)
	p.trace.Word(w, p.engine.Words)
	p.gather.SliceIssued(w, first)
	p.sched.Sliced(k.Op, cost, first, s.Last, p.now)
	if k.over = s.Last; !s.Last {
		k.queued = true
		p.sched.Add(k.Op)
	}
}

// begun counts an op of which a first part was issued.
func (p *poller) begun(op *scoreboard.Op) {
	l := op.Session.Lane(op.Lane)
	if l.InFlight() == 1 {
		l.Since = p.now
	}
	c := p.slots[op.Session.Slot]
	c.used |= 1 << uint(l.Stream)
	c.quiet.on = false
	if op.Session.Partition > 0 {
		if why := op.Unconfined(); why != scoreboard.Confined {
			op.Session.Outside[why]++
			p.stats.Outside[why]++
		}
	}
	p.stats.Ops++
	p.stats.Launches += op.Kernels()
	if op.Kind == shm.KindGraph {
		p.graphIssued(op)
	}
}

// progress looks which slices have ended, and sees to what is left of ops that the scheduler does not have. It reports whether anything
// happened.
func (p *poller) progress() (did bool) {
	p.cuts.paused = 0
	for m := p.cuts.used; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		k := &p.cuts.all[i]
		for at := p.engine.Marked(i); k.Seen != at; did = true {
			p.trace.Slice(k.client.id, k.lane, k.words[k.Seen%word.SlicesAhead])
			p.sched.SliceDone(k.client.books, k.lane, k.Done(), p.now)
			p.lastComplete, k.client.progressed = p.now, p.now
			if k.lane.Stream != scoreboard.NoStream {
				p.engine.Moved(k.lane.Stream)
			}
		}
		if k.Seen == k.Issued && !k.over {
			p.cuts.paused++
			p.engine.Moved(k.lane.Stream) // what is held here is not late
		}
		switch {
		case k.over && k.Seen == k.Issued:
			p.cuts.used &^= 1 << i
		case k.over:
		case p.leaving == leaveNow: // what is issued is finished, and an op that has begun is
			did = p.follow(k, true) || did
		case !k.queued:
			k.queued = true
			p.sched.Ready(k.Op, p.now)
			p.sched.Add(k.Op)
		}
	}
	return did
}

// find is the cut of an op that has begun.
func (s *cuts) find(op *scoreboard.Op) *cut {
	for m := s.used; m != 0; m &= m - 1 {
		if k := &s.all[bits.TrailingZeros32(m)]; k.Op == op && !k.over {
			return k
		}
	}
	panic("BUG: executor: an op is partly issued, and nobody knows which part")
}

// unqueue notes that the scheduler has forgotten a client's ops.
func (s *cuts) unqueue(c *client) {
	for m := s.used; m != 0; m &= m - 1 {
		if k := &s.all[bits.TrailingZeros32(m)]; k.client == c {
			k.queued = false
		}
	}
}

// abandon ends the ops of a client that is given up: what was issued of them runs, the rest never does.
func (s *cuts) abandon(c *client) {
	for m := s.used; m != 0; m &= m - 1 {
		if k := &s.all[bits.TrailingZeros32(m)]; k.client == c && !k.over {
			k.over = true
			c.board.Finish(k.lane, false)
		}
	}
}
