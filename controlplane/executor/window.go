package executor

import (
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
)

// This file is how much of a lane is in flight, and how often its done word is asked for.

// shortOp is how long an op may take for the whole window to be used. Of longer ones fewer are kept in flight: they hide the
// launch as well, whatever arrives next can go earlier, and little is in doubt when something goes wrong.
const (
	shortOp   = int64(50 * time.Microsecond)
	minWindow = 4
	newWindow = 32 // of a lane whose pace is not known
)

// window is how many ops of the lane may be in flight.
func (p *poller) window(l *scoreboard.Lane) int {
	is := scoreboard.Window{Pace: l.Pace, Alone: p.active <= 1}
	is.Joins = !is.Alone && l.First() != nil && word.Joins(l.First())
	if !is.Joins && !is.Alone && l.First() != nil && l.First().Session.Straggler >= scoreboard.Limited {
		return 1
	}
	if l.Most == 0 || l.Window != is {
		l.Window, l.Most = is, p.widest(l, is)
	}
	return l.Most
}

// widest is the window for a lane of that pace.
func (p *poller) widest(l *scoreboard.Lane, w scoreboard.Window) int {
	most := p.tune.WindowShared
	if w.Alone {
		most = p.tune.WindowAlone
	}
	switch {
	case l.Pace == 0:
		most = min(most, newWindow)
	case l.Pace > shortOp:
		most = min(most, max(minWindow, int(int64(most)*shortOp/l.Pace)))
	}
	if w.Joins {
		most = min(most, p.ahead(l))
	}
	return most
}

// ahead is how many ops of a lane are kept in flight whose kernels others launch too.
func (p *poller) ahead(l *scoreboard.Lane) int {
	const least, unknown = 2, 8
	if l.Pace == 0 {
		return unknown
	}
	return max(least, int(int64(p.tune.Ahead)/l.Pace))
}

// signalDue says whether the last of the lane's next n ops needs a done word for the window's sake: often enough that the window never
// runs empty before the word is seen.
func (p *poller) signalDue(l *scoreboard.Lane, n int) bool {
	every := p.window(l) / 2
	if p.active <= 1 {
		every /= 2
	}
	return l.Unsignalled()+n >= max(1, every)
}

// narrowed asks for the done word of a lane that waits for room in its window when none is on its way: the window has become smaller
// since its ops were issued, and while others keep the poller busy nobody else asks.
func (p *poller) narrowed(b *scoreboard.Session, l *scoreboard.Lane) {
	if l.Signalled == l.Done && l.Unsignalled() > 0 {
		p.engine.Signal(b, l) // without room, serve tries again
	}
}
