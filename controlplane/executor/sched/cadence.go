package sched

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// cadence is what was learned of when a client that replays graphs launches one: how long after its request began, and how soon it
// comes back after one. While one of a class with max_wait is in flight nothing less urgent begins (bounds.guard); what begins
// shortly before is as much in its way. So the chip is given to others until just before the graph is expected, by the time that they
// need to leave it, and not at all for a moment after a graph whose client often launches the next one at once: requests of users who
// come at random times follow one another where they meet.
type cadence struct {
	graphs bool    // requests have one
	missed int     // requests in a row that had none: a wait for the input's upload ends one, too
	first  bool    // the request under way has had one
	lacks  bool    // it is counted in its class's lacking
	lead   float64 // from a request's begin to its first graph, ns; rather too short than too long
	ended  int64   // when its last graph was done; 0: what came next was counted
	soon   float64 // the part of graphs after which the next request began, or graph came, within atOnce times what its class may wait
	gap    float64 // how long that took, ns, of those
	graph  *scoreboard.Graph
}

const (
	// A lead that is shorter counts more than one that is longer: who is let in too late is the class below, which has the rest.
	sooner, later = 0.5, 1.0 / 16
	// A client is waited for when it comes back soon after one graph in so many, for so many times what that takes.
	oftenBack, backFor = 1.0 / 4, 1.5
	// atOnce is how many times its class's max_wait a client may take to come back at once: to fetch a result, hand it on and upload the
	// next input takes Python 0.1 ms. Waiting for it costs others that once; not waiting costs it max_wait, a cold cache, and those that
	// wait behind it as much.
	atOnce = 3
	// mostMissed is after how many requests in a row without a graph none is expected.
	mostMissed = 4
)

// expects adds to a class that a client of it has a request under way whose first graph is expected, from its begin and lead.
func (k *Class) expects(c *Client) {
	if at := c.begun + int64(c.cadence.lead); k.lacking == 0 || at < k.expected {
		k.expected = at
	}
	k.lacking++
}

// opens begins a client's request.
func (c *Client) opens(now int64) {
	c.comesBack(now)
	if c.cadence.first = false; c.cadence.graphs {
		c.cadence.lacks = true
		c.class.expects(c)
	}
}

// closes ends it.
func (c *Client) closes() {
	d := &c.cadence
	if d.missed++; d.first {
		d.missed = 0
	}
	d.graphs = d.graphs && d.missed < mostMissed
	c.found()
}

// found says that a graph is not expected any more: it is there, or the request is over.
func (c *Client) found() {
	if c.cadence.lacks {
		c.cadence.lacks = false
		c.class.lacking--
	}
}

// submits takes a graph that was submitted.
func (c *Client) submits(now int64) {
	c.comesBack(now)
	d := &c.cadence
	if d.first || !c.open {
		return
	}
	took := float64(now - c.begun)
	switch {
	case !d.graphs:
		d.lead = took
	case took < d.lead:
		d.lead += (took - d.lead) * sooner
	default:
		d.lead += (min(took, 2*d.lead+float64(Short)) - d.lead) * later
	}
	d.first, d.graphs = true, true
}

// leaves takes the end of the last graph that the client had in flight.
func (c *Client) leaves(now int64) {
	d := &c.cadence
	if d.ended = now; d.soon >= oftenBack {
		c.class.back = max(c.class.back, now+min(int64(backFor*d.gap), atOnce*c.class.MaxWait))
	}
}

// comesBack counts that the client goes on after a graph.
func (c *Client) comesBack(now int64) {
	d := &c.cadence
	if d.ended == 0 || c.class.MaxWait == 0 {
		return
	}
	gap := now - d.ended
	d.ended = 0
	soon := 0.0
	if gap <= atOnce*c.class.MaxWait {
		soon = 1
		d.gap += (float64(gap) - d.gap) / 8
	}
	d.soon += (soon - d.soon) / 16
}

// Cadence is what was learned of when a client launches graphs, times in ns: Lead after its request began, and Gap after the end of a
// graph where it goes on at once, which it does after a part AtOnce of them. Graph is the last one that it launched.
type Cadence struct {
	Lead, Gap int64
	AtOnce    float64
	Graph     *scoreboard.Graph
}

// Cadence is the client's; ok is false when its requests have no graphs.
func (c *Client) Cadence() (k Cadence, ok bool) {
	d := &c.cadence
	return Cadence{int64(d.lead), int64(d.gap), d.soon, d.graph}, d.graphs && d.graph != nil
}

// Expect says that a client is about to submit something: it uploads by itself what that needs. It begins a request, unless one is
// under way; without an op, it ends as if it had never been.
func (s *Scheduler) Expect(c *Client, now int64) {
	s.forgo(c, now)
	c.class.active, c.active = now, now
	if !c.open {
		s.begin(c, now)
		c.bare = true
	}
}

// forgo forgets a request that began with Expect, and of which no op came in time.
func (s *Scheduler) forgo(c *Client, now int64) {
	if c.bare && now-c.active > midRequest {
		s.cancel(c, now)
	}
}

// cancel forgets a request that began with Expect and has no op.
func (s *Scheduler) cancel(c *Client, now int64) {
	if !c.bare {
		return
	}
	c.open, c.bare, c.begun = false, false, 0
	c.class.open--
	c.closes()
	if c.class.Latency > 0 {
		s.survey(c.class, now)
	}
}
