package executor

import (
	"sync"
	"time"
)

// This file is when calls are made that hold up every launch of the context, and wait until what runs has ended: loading and unloading
// code, registering and unregistering host memory, raising a limit (docs/results.md, "What stalls the context"). While nothing of
// another client is in flight they delay nobody, so whoever wants one waits for such a moment; a GPU that always has work gives none, and
// after a while those that wait go all at once: what runs is waited for once for all of them.

// Who has ops in flight, as poller.flight tells it: noClient, the one client of that id, or manyClients.
const (
	noClient    = uint64(0)
	manyClients = ^uint64(0)
)

// calmLook is the time between two looks for a calm moment; an opening lasts openFor, so that all who wait see it.
const (
	calmLook = 50 * time.Microsecond
	openFor  = time.Millisecond
)

// calmLeaves is how many times Tuning.Calm the end of a client waits, for which nobody waits.
const calmLeaves = 20

// calm says when calls may be made that hold others up. Any thread may ask.
type calm struct {
	patience int64 // ns; openings are as far apart, too

	mu     sync.Mutex
	opened int64 // when those that had waited for too long last went; 0: never
	stats  CalmStats
}

// CalmStats counts waits for a moment in which nothing of others is in flight; a part of Stats.
type CalmStats struct {
	Waits   uint64  `json:"waits"`  // those that had to wait
	Beside  uint64  `json:"beside"` // calls that went without such a moment
	Seconds float64 `json:"seconds"`
	Waiting int     `json:"waiting"` // now
}

// admits tells whether a call of a session may be made: flight is who has ops in flight, began when it began to wait, patience how long
// it does, in ns. beside: it goes although others have ops in flight. mu is held.
func (c *calm) admits(session, flight uint64, now, began, patience int64) (ok, beside bool) {
	switch {
	case flight == noClient || flight == session:
		return true, false
	case c.opened != 0 && now-c.opened < int64(openFor):
		return true, true
	case now-began >= patience && (c.opened == 0 || now-c.opened >= c.patience):
		c.opened = now
		return true, true
	}
	return false, false
}

// look asks once.
func (c *calm) look(session, flight uint64, now, began, patience int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ok, beside := c.admits(session, flight, now, began, patience)
	if beside {
		c.stats.Beside++
	}
	return ok
}

// waits counts a wait that begins (1) or ends (-1) after so many ns.
func (c *calm) waits(n int, ns int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Waiting += n
	c.stats.Waits += uint64(max(n, 0))
	c.stats.Seconds += float64(ns) / 1e9
}

// calm returns when calls of a session that hold others up may be made: nobody else has ops in flight, or the caller has waited for
// times × Tuning.Calm, or goes along with one that has. session 0 is nobody's. It returns when the poller has ended, too. Not for the
// threads of loader and mapper: they serve others meanwhile.
func (x *executor) calm(session uint64, times int) {
	c := &x.quietly
	clock := func() int64 { return int64(time.Since(x.begun)) + 1 }
	began := clock()
	look := func() bool {
		return c.look(session, x.poller.flight.Load(), clock(), began, int64(times)*c.patience)
	}
	if look() {
		return
	}
	c.waits(1, 0)
	tick := time.NewTicker(calmLook)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-x.poller.ended:
			over = true
		case <-tick.C:
			over = look()
		}
	}
	c.waits(-1, clock()-began)
}

// snapshot gives the counters.
func (c *calm) snapshot() CalmStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// joins adds a client with ops in flight to who has some.
func joins(flight, client uint64) uint64 {
	if flight == noClient {
		return client
	}
	return manyClients
}
