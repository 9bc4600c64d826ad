// Package straggle finds clients whose ops take several times as long as they should, because everybody in a word with one waits for
// it, and says how they are served: with others, apart, or little at a time.
//
//	free ─► tried ─► apart ─► limited ─► own context     and back, a step at a time, when its ops take as long as they should
//	  ▲        │        │         │           │
//	  └────────┴────────┴◄────────┴◄──────────┘
//
// What runs in its own context is not measured: from there a client comes back, limited, when its time is over. Where the SMs can be
// divided, who is limited has a quarter of them and is not measured there either: when its time is over it is, on all of them.
//
// What an op should take is what its shape took when little slowed it, by whichever clients (cost.Times.Own): its own history when
// nobody else launches it, the others' when they do. Lateness is how many times that it took (word.Gather.Learn: less what
// the launch itself took, and none below 20 µs more). A word tells its lateness and not whose it is, so those of late words go alone for
// some ops, measured: who is late then makes words late.
//
// A Watch belongs to the poller's thread and has no clock.
// Source: design.md section 7; the paper's section 3 names stragglers and their eviction, and gives no method.
package straggle

import (
	"math"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// Bounds.
const (
	// sure is how many measurements decide, steady how many it takes to see that a client slows others.
	sure, steady = 3, 8
	// lookEvery is how often clients are judged, ns.
	lookEvery = int64(10e6)
	// trialMost is how long a trial lasts at most; acquitted how long there is none after one, at first, away how long a straggler is
	// served otherwise at least, at first. Both double each time, up to longest.
	trialMost, acquitted, away, longest = int64(1e9), int64(100e6), int64(1e9), int64(64e9)
	// calm is the part of the factor below which a straggler behaves again.
	calm = 0.75
	// slows is how many times their usual lateness others must have while a client that goes apart has ops in flight for it to be limited.
	slows = 1.25
)

// mean is a smoothed mean of the medians of three values in a row: one that is far off says nothing, whatever it is (a thread that did not
// run meanwhile). The first values count evenly; the first two are no median yet, and count until one is.
type mean struct {
	v    float64
	n    int
	last [2]float64
}

func (m *mean) add(x float64) {
	if m.n < steady {
		m.n++
	}
	a, b := min(m.last[0], m.last[1]), max(m.last[0], m.last[1])
	switch middle := max(a, min(b, x)); {
	case m.n < sure:
		m.v += (x - m.v) / float64(m.n)
	case m.n == sure:
		m.v = middle
	default:
		m.v += (middle - m.v) / float64(m.n)
	}
	m.last[0], m.last[1] = m.last[1], x
}

// Client is what is known of one client.
type Client struct {
	board   *scoreboard.Session
	factor  float64 // lateness from which on it is a straggler; 0: never
	own     bool    // it may be sent to its own context
	divides bool    // limited, it is confined to a part of the SMs

	alone, together mean // lateness of its ops by themselves, and of words that it shared
	near, far       mean // others' lateness while it had ops in flight, and while not
	blind           int  // words shared of kernels that nobody launched by itself: what they should take is not known
	since, next     int64
	trial, stay     int64
	// Evictions counts how often it was taken out of shared words.
	Evictions uint64
}

// Factor is the lateness from which on the client is a straggler, 0 never, and whether it may be sent to its own context; it is in
// force at once.
func (c *Client) Factor(f float64, own bool) { c.factor, c.own = f, own }

// Divide says whether the client, limited, is confined to a quarter of the SMs as well: the chip can be divided, and its class has its
// kernels confined at times. Others' are not: blocks of a kernel may wait for each other and count on the whole chip.
func (c *Client) Divide(may bool) {
	if c.divides = may; !may {
		c.board.Quarter = false
	}
}

// Late is the lateness of the client's ops by themselves, as last measured; 0: not known.
func (c *Client) Late() float64 { return c.alone.v }

// Watch judges the clients of an executor.
type Watch struct {
	clients []*Client // by slot
	looked  int64
	turn    int  // slot from which on the next one to be tried is looked for
	fresh   bool // something was measured since
	tried   bool // the one that is tried was measured often enough
	away    int  // clients in their own contexts, or confined: they are not measured
	// Evictions, Limits, Sent and Returns count: out of shared words, limited, to its own context, and back to all.
	Evictions, Limits, Sent, Returns uint64
}

// Attach begins to watch a client; its board's Slot is its place.
func (w *Watch) Attach(b *scoreboard.Session) *Client {
	for len(w.clients) <= b.Slot {
		w.clients = append(w.clients, nil)
	}
	c := &Client{board: b, trial: acquitted, stay: away}
	w.clients[b.Slot] = c
	return c
}

// Detach forgets a client.
func (w *Watch) Detach(b *scoreboard.Session) {
	if b.Slot < len(w.clients) && w.clients[b.Slot] != nil && w.clients[b.Slot].board == b {
		w.clients[b.Slot] = nil
	}
}

// Sample takes a measured word: whose ops it held, and how many times as long as it should it took; 0: that is not known.
func (w *Watch) Sample(of []*scoreboard.Session, lateness float64) {
	alone := true // ops of one client, joined with each other
	for _, b := range of {
		alone = alone && b == of[0]
	}
	if !(lateness > 0) || math.IsInf(lateness, 0) {
		for _, b := range of {
			if c := w.of(b); c != nil && !alone {
				c.blind++
				w.fresh = true
			}
		}
		return
	}
	w.fresh = true
	for i, b := range of {
		c := w.of(b)
		if c == nil || (alone && i > 0) {
			continue
		}
		if alone {
			c.alone.add(lateness)
			w.tried = w.tried || (b.Straggler == scoreboard.Tried && c.alone.n >= sure)
		} else {
			c.together.add(lateness)
		}
	}
	for _, c := range w.clients {
		if c == nil || c.board.Straggler < scoreboard.Evicted || (alone && c.board == of[0]) {
			continue
		}
		if busy(c.board) {
			c.near.add(lateness)
		} else {
			c.far.add(lateness)
		}
	}
}

// busy says whether a session has ops in flight.
func busy(b *scoreboard.Session) bool {
	for i := range b.Lanes() {
		if b.Lane(uint32(i)).InFlight() > 0 {
			return true
		}
	}
	return false
}

func (w *Watch) of(b *scoreboard.Session) *Client {
	if b.Slot < len(w.clients) {
		if c := w.clients[b.Slot]; c != nil && c.board == b {
			return c
		}
	}
	return nil
}

// Look judges the clients, now and then, and at once when a trial has shown enough: while it lasts its client and the others are out of
// step. true: some are served otherwise from now on.
func (w *Watch) Look(now int64) (changed bool) {
	if !w.tried && ((!w.fresh && w.away == 0) || now-w.looked < lookEvery) {
		return false
	}
	tried := w.tried && now-w.looked < lookEvery // the next one is tried when it is time
	w.fresh, w.tried = false, false
	if !tried {
		w.looked = now
	}
	w.away = 0
	for _, c := range w.clients {
		if c != nil && c.board.Straggler != scoreboard.Free {
			changed = w.judge(c, now) || changed
			tried = tried || c.board.Straggler == scoreboard.Tried
			if c.board.Straggler == scoreboard.Sent || c.board.Quarter {
				w.away++
			}
		}
	}
	// One is tried at a time: the others stay in step.
	for i := 0; i < len(w.clients) && !tried; i++ {
		c := w.clients[(w.turn+i)%len(w.clients)]
		if c != nil && c.board.Straggler == scoreboard.Free && w.suspect(c, now) {
			w.turn = c.board.Slot + 1
			tried = c.to(scoreboard.Tried, now)
		}
	}
	return changed || tried
}

// suspect says whether a client is tried: it shares words, and they are late, or its ops by themselves, or nobody knows.
func (w *Watch) suspect(c *Client, now int64) bool {
	if c.factor == 0 || now < c.next {
		return false
	}
	if c.together.n < sure {
		return c.blind >= sure
	}
	return c.together.v >= c.factor || w.late(c)
}

func (w *Watch) late(c *Client) bool { return c.alone.n >= sure && c.alone.v >= c.factor*w.usual(c) }

// usual is how late others' ops are by themselves now, those of its class if there are any: on a crowded chip everybody's are, and
// below a class of larger priority most.
func (w *Watch) usual(but *Client) float64 {
	sum, n, alike := 0.0, 0, false
	for _, c := range w.clients {
		if c == nil || c == but || c.board.Straggler >= scoreboard.Evicted || c.alone.n < sure {
			continue
		}
		if same := c.board.Class == but.board.Class; same && !alike {
			sum, n, alike = 0, 0, true
		} else if alike && !same {
			continue
		}
		sum += c.alone.v
		n++
	}
	if n == 0 {
		return 1
	}
	return max(1, sum/float64(n))
}

func (w *Watch) judge(c *Client, now int64) bool {
	b := c.board
	if c.factor == 0 {
		return b.Straggler != scoreboard.Free && c.to(scoreboard.Free, now)
	}
	behaves := c.alone.n >= sure && c.alone.v < calm*c.factor*w.usual(c)
	switch b.Straggler {
	case scoreboard.Tried:
		switch {
		case w.late(c):
			w.Evictions++
			c.Evictions++
			return c.to(scoreboard.Evicted, now)
		case c.alone.n >= sure || now-c.since > trialMost:
			c.next, c.trial = now+c.trial, min(2*c.trial, longest)
			return c.to(scoreboard.Free, now)
		}
	case scoreboard.Evicted:
		b.Slow = max(1, c.alone.v)
		switch {
		case now-c.since >= c.stay && behaves:
			w.Returns++
			c.stay = min(2*c.stay, longest)
			return c.to(scoreboard.Free, now)
		case c.hinders() && !behaves:
			w.Limits++
			c.to(scoreboard.Limited, now)
			b.Quarter = c.divides
			return true
		}
	case scoreboard.Limited:
		if !b.Quarter {
			b.Slow = max(1, c.alone.v)
		}
		switch {
		case b.Quarter && now-c.since >= c.stay: // now and then it has the whole chip, where it can be measured
			b.Quarter, c.alone = false, mean{}
			return true
		case !b.Quarter && now-c.since >= c.stay && behaves:
			return c.to(scoreboard.Evicted, now)
		case c.divides && !b.Quarter && c.alone.n >= sure && !behaves:
			c.stay = min(2*c.stay, longest)
			c.to(scoreboard.Limited, now)
			b.Quarter = true
			return true
		case c.own && c.hinders() && !behaves:
			w.Sent++
			return c.to(scoreboard.Sent, now)
		}
	case scoreboard.Sent:
		if !c.own || now-c.since >= c.stay {
			c.stay = min(2*c.stay, longest)
			c.to(scoreboard.Limited, now)
			b.Quarter = c.divides
			return true
		}
	}
	return false
}

// hinders says whether others are late while the client has ops in flight, more than while it has none.
func (c *Client) hinders() bool {
	usually := 1.0
	if c.far.n >= sure {
		usually = max(1, c.far.v)
	}
	return c.near.n >= steady && c.near.v >= slows*usually
}

// to changes how the client is served, and begins to measure anew what decides the next change.
func (c *Client) to(s scoreboard.Straggling, now int64) bool {
	c.board.Straggler, c.since, c.board.Quarter = s, now, false
	c.near, c.far, c.blind = mean{}, mean{}, 0
	c.board.Slow = 1
	switch s {
	case scoreboard.Evicted, scoreboard.Limited, scoreboard.Sent:
		c.board.Slow = max(1, c.alone.v)
	case scoreboard.Tried:
		c.alone = mean{}
	case scoreboard.Free:
		c.alone, c.together = mean{}, mean{}
	}
	return true
}
