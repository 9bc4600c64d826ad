package sched

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/request"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// Arrive takes an op that was submitted: the first one begins a request. key is what it is by content; it is asked for only when
// the client's class has an objective.
func (s *Scheduler) Arrive(c *Client, op *scoreboard.Op, now int64) {
	k := c.class
	if c.waiting && c.board.Seen(c.waitLane, c.waitSeq) {
		s.end(c, now) // the client was faster than the poller
	}
	s.forgo(c, now)
	k.active, c.active = now, now
	if !c.open {
		s.begin(c, now)
	}
	c.bare = false
	if op.Kind == shm.KindGraph {
		c.submits(now)
	}
	if c.deadline == 0 {
		return
	}
	remaining, _ := c.model.Op(op.Key(), now)
	op.Deadline = c.deadline
	op.Latest = c.deadline - remaining
	c.latest = op.Latest
	k.latest = min(k.latest, op.Latest)
}

// Model is what was learned of the client's requests, nil while its class never had an objective. It belongs to the scheduler's
// thread until the client is detached.
func (c *Client) Model() *request.Model { return c.model }

// Recall gives a client what an earlier client of its program taught, unless its own requests taught something already.
func (c *Client) Recall(m *request.Model) {
	if c.model == nil || c.model.Requests == 0 && !c.open {
		c.model = m
	}
}

func (s *Scheduler) begin(c *Client, now int64) {
	c.open, c.begun, c.deadline, c.objective = true, now, 0, 0
	c.since, c.chip = now, 0
	c.class.open++
	c.billed = c.class
	c.opens(now)
	if c.class.Latency > 0 {
		s.model(c)
		c.objective = c.class.Latency
		c.deadline = now + c.objective
		c.latest = c.deadline
		if c.model.Requests >= known {
			c.board.Request = int64(c.model.Duration)
		}
		s.survey(c.class, now)
	}
}

// Wait says that the client's host waits for a number of a lane: the request ends when it is done.
func (s *Scheduler) Wait(c *Client, lane, seq uint32, now int64) {
	if !c.open || c.marked || c.bare { // of a bare one it can wait for nothing
		return
	}
	if c.board.Seen(lane, seq) {
		s.end(c, now)
		return
	}
	c.waiting, c.waitLane, c.waitSeq = true, lane, seq
}

// MarkBegin begins a request at the client's word. One that is open ends there.
func (s *Scheduler) MarkBegin(c *Client, now int64) {
	s.cancel(c, now)
	s.end(c, now)
	s.begin(c, now)
	c.marked = true
}

// MarkEnd says that the request's last op was submitted, below a ring position: it ends when all of it is done.
func (s *Scheduler) MarkEnd(c *Client, position uint64, now int64) {
	if !c.open || !c.marked {
		return
	}
	c.ending, c.endAt = true, position
	s.Released(c, now)
}

// Released looks whether everything of a marked request is done.
func (s *Scheduler) Released(c *Client, now int64) {
	if c.ending && int64(c.board.Head()-c.endAt) >= 0 {
		s.end(c, now)
	}
}

func (s *Scheduler) end(c *Client, now int64) {
	if !c.open {
		return
	}
	c.open, c.waiting, c.marked, c.ending = false, false, false, false
	c.class.open--
	c.closes()
	if c.flying > 0 {
		c.chip += now - c.since
		c.since = now
	}
	took := now - c.begun
	if took > 0 {
		part := min(max(float64(c.chip)/float64(took), 0.01), 1) // 0 is: not known
		if c.part == 0 {
			c.part = part
		}
		c.part += (part - c.part) / 8
	}
	if c.model != nil {
		c.model.End(now)
		s.survey(c.class, now)
		s.lengths(c, now)
	}
	st := &c.billed.Stats
	st.Requests++
	if c.objective == 0 || took <= c.objective {
		st.Attained++
	}
	st.Latency.Add(took)
}

// known is how many requests of a client must have ended for their length to count, usual how many times as long as that a request is
// taken to be under way: one that waits for something else holds nobody up for ever.
const known, usual = 3, 4

// survey finds, when a request of a class has begun or ended, which of those under way is the most urgent, how long the shortest and
// the longest of them usually take, whether the chip bounds one, and how many clients had some of late.
func (s *Scheduler) survey(k *Class, now int64) {
	k.latest, k.brief, k.long, k.recent, k.bound = longest, span{}, 0, 0, false
	for _, c := range s.clients {
		if c == nil || c.class != k || c.begun == 0 {
			continue
		}
		if now-c.begun < activeFor {
			k.recent++
		}
		if !c.open || c.deadline == 0 {
			continue
		}
		k.latest = min(k.latest, c.latest)
		k.bound = k.bound || c.part == 0 || c.part >= HostBound
		if took := c.board.Request; took > 0 {
			k.long = max(k.long, took)
			if until := c.begun + usual*took; until > now && (k.brief.took == 0 || took < k.brief.took) {
				k.brief = span{c, took, until}
			}
		}
	}
}

// span is how long a client's request usually takes, and until when it counts as under way, ns.
type span struct {
	client      *Client
	took, until int64
}

// at says whether the request is under way and its client has work, or is between two ops of it.
func (b *span) at(now int64) bool {
	return b.until > now && (b.client.flying+b.client.queued > 0 || now-b.client.active < betweenOps)
}
