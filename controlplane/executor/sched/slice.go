package sched

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// An op that is issued in slices is Ready once, and Added again after each slice but the last: between two of them everything may
// change. It counts as one op, from its first slice on; what it costs is charged slice by slice.

// Sliced keeps the books of a slice that was issued, in place of Issued. cost is its estimated time, ns of the whole chip; first and
// last say which of its op's it is.
func (s *Scheduler) Sliced(op *scoreboard.Op, cost int64, first, last bool, now int64) {
	c := s.clients[op.Session.Slot]
	k := c.class
	l := op.Session.Lane(op.Lane)
	cost = c.take(l, cost, now)
	if !last {
		l.Slices += cost
	}
	l.Quiet = 0 // a word is written behind every slice
	st := &k.Stats
	if first {
		c.flies(now)
		st.Ops++
		st.Queue.Add(now - op.ReadyAt)
		st.Waits[WaitSlices]++
	}
	if last {
		k.relents(op, now)
		if c.queued--; c.queued == 0 {
			k.busy--
		}
		k.queued--
	}
	s.spread(k, cost, now)
}

// SliceDone takes a slice off the books that was not its op's last; Completed does it for that one. cost is as Sliced had it.
func (s *Scheduler) SliceDone(c *Client, l *scoreboard.Lane, cost, now int64) {
	if s.clients[c.board.Slot] != c {
		return // it is gone, and its books with it: the end of its last op was seen before
	}
	l.Work -= cost
	l.Slices -= cost
	l.Quiet = min(l.Quiet, l.Work)
	c.work -= cost
	c.class.inFlight -= cost
	c.class.active, c.class.served = now, now
	c.class.paid(cost)
}
