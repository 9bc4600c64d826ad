package executor

import (
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/shm"
)

// This file is what the poller tells the scheduler: who belongs to which class, what was submitted, what it costs. All of it runs
// on the poller's thread.

// unnamed is the class of clients for which no CLASS came.
const unnamed = "default"

// classify puts a client into a class, whose settings are in force for all its clients from now on.
func (p *poller) classify(c *client, name string, t sched.Settings) {
	if c.class, c.settings = name, p.patience(t); c.books == nil {
		return
	}
	p.judge(c)
	k := p.sched.Set(name, c.settings)
	if c.books.Class() != k {
		p.unqueue(c) // offered again in the next pass
	}
	c.recall()
	p.sched.Move(c.books, k)
	p.relevel()
}

// judge says what becomes of a client that is a straggler.
func (p *poller) judge(c *client) {
	c.pace.Factor(c.settings.Straggler, c.settings.OwnContext)
	c.pace.Divide(p.divided.unit > 0 && c.settings.Partition > 0)
}

// patience replaces a class's max_queue_delay where the executor was started with one for all.
func (p *poller) patience(t sched.Settings) sched.Settings {
	if p.config.gatherForAll {
		t.QueueDelay = int64(p.tune.Gather)
	}
	return t
}

// enrol makes a client known to the scheduler. Its streams' levels are relevel's, once it is one of the poller's clients.
func (p *poller) enrol(c *client) {
	if c.class == "" {
		c.class, c.settings = unnamed, sched.Settings{QueueDelay: int64(p.tune.Gather), Coalesce: true}
	}
	c.tracks = make([]sequence.Track, c.board.Lanes())
	c.books = p.sched.Attach(c.board, p.sched.Set(c.class, c.settings))
	c.pace = p.stragglers.Attach(c.board)
	p.judge(c)
	c.send() // whatever an executor before this one said
	c.recall()
}

// unqueue takes back what of a client is ready.
func (p *poller) unqueue(c *client) {
	for _, i := range c.board.Busy() {
		if l := c.board.Lane(i); l.Queued && l.Part == nil {
			p.gather.Remove(l.First())
			l.Queued = false
		}
	}
	p.cuts.unqueue(c)
	p.sched.Drop(c.books)
}

// relevel spreads the classes' priorities over the streams' levels: a class has a range of them, in which its clients' own stream
// priorities order their streams. Clients whose requests are much longer than others' of the priority have the least urgent level of the
// range, and the others the rest. A lane takes its new level when it has nothing in flight.
func (p *poller) relevel() {
	p.sched.Relevel = false
	distinct := p.sched.Priorities()
	levels := p.engine.Levels()
	of := func(c *client) int { return slices.Index(distinct, c.books.Class().Settings.Priority) }
	long, others := make([]bool, len(distinct)), make([]int, len(distinct))
	for _, c := range p.clients {
		if c.books.Long() {
			long[of(c)] = true
		} else {
			others[of(c)]++
		}
	}
	p.divide()
	for _, c := range p.clients {
		if c.board.Straggler >= scoreboard.Limited {
			c.board.Levels = scoreboard.Levels{First: levels - 1, Count: 1}
			continue
		}
		i := of(c)
		first, end := i*levels/len(distinct), (i+1)*levels/len(distinct)
		all := scoreboard.Levels{First: min(first, levels-1), Count: max(1, end-first)}
		urgent := scoreboard.Levels{First: all.First, Count: all.Count - 1}
		switch {
		case long[i] && urgent.Count > 0 && others[i] <= p.engine.StreamsOf(urgent): // else the others would share streams
			if c.board.Levels = urgent; c.books.Long() {
				c.board.Levels = scoreboard.Levels{First: urgent.First + urgent.Count, Count: 1}
			}
		case len(distinct) < 2:
			c.board.Levels = scoreboard.Levels{}
		default:
			c.board.Levels = all
		}
	}
}

// full says whether a client has as many ops waiting as its class allows (most), and something to wait for: then its ring fills, and its
// launches block.
func (p *poller) full(c *client, most int) bool {
	if c.board.Waiting() < most {
		c.stopped, c.past = false, false // from here on they have not been looked at
		return false
	}
	if c.past {
		return false
	}
	if !c.stopped {
		c.stopped = true
		c.books.Count(sched.WaitAdmission)
	}
	return true
}

// note tells the scheduler what a record says of the client's requests.
func (p *poller) note(c *client, v *shm.RecordView, a scoreboard.Action) {
	switch {
	case a == scoreboard.RequestBegin:
		p.sched.MarkBegin(c.books, p.now)
		p.trace.Mark(c.id, &c.board.LastBegin)
	case a == scoreboard.RequestEnd:
		p.sched.MarkEnd(c.books, v.End, p.now)
	case a == scoreboard.Upcoming:
		p.sched.Expect(c.books, p.now)
	case shm.HasSeq(v.Kind):
		if op := c.board.Lane(v.Lane).Last(); op != nil && op.Seq == v.Seq {
			p.sched.Arrive(c.books, op, p.now)
		}
	}
	if v.Waits() {
		p.sched.Wait(c.books, v.Lane, v.Seq, p.now)
	}
}
