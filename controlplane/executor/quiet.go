package executor

import "sync/atomic"

// lookAnyway is how many passes a quiet client is looked at in whole again, whatever its words say.
const lookAnyway = 64

// quiet is a client at which a look found nothing to do: until its ring's tail or the done word that it waits for changes, or the
// poller does something to it, another look finds nothing either. With many clients of which few do something at a time these two
// words are all that a pass reads of most of them. The zero value is not quiet.
type quiet struct {
	on, working bool
	inFlight    int
	tail        *uint64 // its ring's, in the file, and what it said
	read        uint64
	word        *uint32 // the done word; nil: none is expected
	done        uint32
}

// still reports whether nothing has changed.
func (q *quiet) still() bool {
	return q.on && atomic.LoadUint64(q.tail) == q.read && (q.word == nil || atomic.LoadUint32(q.word) == q.done)
}

// hush makes a client quiet, if it is, after a look that found nothing to do.
func (p *poller) hush(c *client) {
	c.quiet.on = false
	b := c.board
	if c.broken || c.elapsed || c.limited || c.stopped || c.detached != 0 || c.hold != nil || len(c.barriers) > 0 || len(b.Busy()) > 1 || p.leaving != 0 || !c.ring.Empty() {
		return
	}
	working := b.InFlight()+b.Waiting() > 0
	if !working && b.Head() != c.ring.Read() {
		return // all of it is done before a thread's call has returned: what the head waits for is no word of the client's
	}
	q := quiet{on: true, working: working, inFlight: b.InFlight(), tail: &c.file.Producer().Tail, read: c.ring.Read()}
	if len(b.Busy()) == 1 {
		l := b.Lane(b.Busy()[0])
		if l.Want || (l.First() != nil && !l.Queued) {
			return
		}
		if l.Signalled != l.Done {
			q.word, q.done = &c.file.Lane(l.Index).Done, l.Done
		}
	}
	c.quiet = q
}

// stir makes the next pass look at every client.
func (p *poller) stir() {
	for _, c := range p.clients {
		c.quiet.on = false
	}
}
