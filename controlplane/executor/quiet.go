package executor

import (
	"slices"
	"sync/atomic"
)

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

// plain says that nothing but a client's ring and its lanes' words can bring the poller something to do for it.
func (c *client) plain() bool {
	asked := c.elapsed || c.hold != nil || len(c.barriers) > 0 // somebody waits for an answer
	ending := c.broken || c.limited || c.detached != 0
	return !asked && !ending && !c.stopped
}

// unreleased says that all of a client's ops are done and its ring's head has not moved past them, because an issue thread had not
// returned from the last one's call: what the head waits for is no word of the client's.
func (c *client) unreleased() bool {
	b := c.board
	return b.InFlight()+b.Waiting() == 0 && b.Head() != c.ring.Read()
}

// unreleased says so of any client that is served. Who sleeps now leaves whoever waits for room in its ring waiting.
func (p *poller) unreleased() bool {
	return slices.ContainsFunc(p.clients, func(c *client) bool { return c.plain() && c.unreleased() })
}

// hush makes a client quiet, if it is, after a look that found nothing to do.
func (p *poller) hush(c *client) {
	c.quiet.on = false
	b := c.board
	if !c.plain() || len(b.Busy()) > 1 || p.leaving != 0 || !c.ring.Empty() || c.unreleased() {
		return
	}
	working := b.InFlight()+b.Waiting() > 0
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
