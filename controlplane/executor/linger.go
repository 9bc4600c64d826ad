package executor

import (
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
)

// linger is how long the poller, and with it the thread that gets the first command, go on spinning when there is nothing to do.
//
// Waking two threads takes 0.1 to 0.3 ms where cores are halted, as those of virtual machines are, and a client that sends a
// request every few ms would wait for that each time. So where clients lately came back within ms, the poller stays awake for a few
// times as long; where they take longer it sleeps after Tuning.Spin. Only gaps longer than that count: within shorter ones nobody
// sleeps.
type linger struct {
	tune *Tuning
	gap  int64 // mean of the last gaps, ns, each counted as twice Tuning.Linger at most
	gaps int64 // how many, up to lingerMean
	stay int64 // how long the poller spins; 0: for Tuning.Spin
	// on: a gap lasts, since when, and how many records had arrived before it.
	on    bool
	since int64
	seen  uint64
}

const (
	// lingerMean is how many gaps the mean is of; lingerLeast is how many must be known.
	lingerMean, lingerLeast = 16, 4
	// lingerTimes is how many times the mean gap the poller spins: of gaps of independent requests it outlasts 98 in 100.
	lingerTimes = 4
)

// rests is asked by a poller that had nothing to do from last to now. It reports whether a gap begins with this question, and
// whether the poller may sleep.
func (l *linger) rests(last, now int64, arrivals uint64) (begins, sleeps bool) {
	spin := int64(l.tune.Spin)
	if now-last <= spin {
		return false, false
	}
	if begins = !l.on; begins {
		l.on, l.since, l.seen = true, last, arrivals
	}
	return begins, now-l.since > max(spin, l.stay) // whatever else stirred the poller meanwhile is no client
}

// came ends the gap, if clients did and not the daemon: from now on the poller stays awake for as long as such gaps need. promised
// says that somebody was promised something: then it does so for gaps that are twice as long.
func (l *linger) came(now int64, arrivals uint64, promised bool) bool {
	if arrivals == l.seen {
		return false
	}
	most := int64(l.tune.Linger)
	l.gaps = min(l.gaps+1, lingerMean)
	l.gap += (min(now-l.since, 2*most) - l.gap) / l.gaps
	l.on, l.stay = false, 0
	longest := most / 2
	if promised {
		longest = most
	}
	if l.gaps >= lingerLeast && l.gap <= longest {
		l.stay = min(lingerTimes*l.gap, most)
	}
	return true
}

// back ends a gap when the poller has something to do. The first issue thread had its last command a request's time before the
// poller saw the request's end, and stays awake for longer.
func (p *poller) back() {
	if p.linger.came(p.now, p.arrivals, p.promised()) {
		p.engine.Attend(time.Duration(2 * p.linger.stay))
	}
}

// promised says whether a client's class has an objective or a bound for what it may wait.
func (p *poller) promised() bool {
	for _, c := range p.clients {
		if c.settings.Latency > 0 || c.settings.MaxWait > 0 {
			return true
		}
	}
	return false
}

// rest is what a poller does that has no work: it spins, or it sleeps until somebody rings.
func (p *poller) rest() {
	begins, sleeps := p.linger.rests(p.lastActivity, p.now, p.arrivals)
	if begins || sleeps { // not only when it sleeps: among clients that come back soon it never does
		select {
		case p.garbage <- struct{}{}:
		default:
		}
	}
	if !sleeps || p.unreleased() {
		issue.Pause(2)
		return
	}
	p.engine.Attend(0)
	p.stats.Sleeps++
	p.bell.Load().Sleep(p.recheck, sleepBound)
}
