package dispatch

import (
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
)

// This file is how much of a lane is in flight, and how often its done word is asked for.

// ShortOp is how long an op may take for the whole window to be used, ns. Of longer ones fewer are kept in flight: they hide the launch
// as well, whatever arrives next can go earlier, and little is in doubt when something goes wrong.
const ShortOp = int64(50 * time.Microsecond)

const (
	minWindow = 4
	newWindow = 32 // of a lane whose pace is not known
)

// Bounds of what is in flight; Default's are chosen for an H100 (measurements.md).
type Bounds struct {
	// WindowAlone and WindowShared bound a lane's ops in flight while its session is the only one with work, and otherwise; ops that
	// take long count for more.
	WindowAlone, WindowShared int
	// Ahead is how much work of a lane is kept in flight while several clients launch kernels that can be joined, ns: what hides
	// launches and the way of their done words, so that what comes later can still join.
	Ahead int64
}

// Defaults: bounds, how long an op waits for company, and how long while its lane has others in flight (word.Options).
const (
	WindowAlone  = 256
	WindowShared = 64
	Ahead        = 100 * time.Microsecond
	Gather       = 20 * time.Microsecond
	Busy         = 30 * time.Microsecond
	Progress     = time.Millisecond // nothing completes for so long: bounds in flight and waits for company end
)

// Default gives the bounds that hold where nothing else is said.
func Default() Bounds {
	return Bounds{WindowAlone: WindowAlone, WindowShared: WindowShared, Ahead: int64(Ahead)}
}

// Window is how many ops of the lane may be in flight.
func (d *Dispatch) Window(l *scoreboard.Lane) int {
	is := scoreboard.Window{Pace: l.Pace, Alone: d.Alone}
	is.Joins = !is.Alone && l.First() != nil && word.Joins(l.First())
	if !is.Joins && !is.Alone && l.First() != nil && l.First().Session.Straggler.Single() {
		return 1
	}
	if l.Most == 0 || l.Window != is {
		l.Window, l.Most = is, d.Widest(is)
	}
	return l.Most
}

// Widest is the window for a lane of that pace.
func (b *Bounds) Widest(w scoreboard.Window) int {
	most := b.WindowShared
	if w.Alone {
		most = b.WindowAlone
	}
	switch {
	case w.Pace == 0:
		most = min(most, newWindow)
	case w.Pace > ShortOp:
		most = min(most, max(minWindow, int(int64(most)*ShortOp/w.Pace)))
	}
	if w.Joins {
		most = min(most, b.ahead(w.Pace))
	}
	return most
}

// ahead is how many ops of a lane are kept in flight whose kernels others launch too.
func (b *Bounds) ahead(pace int64) int {
	const least, unknown = 2, 8
	if pace == 0 {
		return unknown
	}
	return max(least, int(b.Ahead/pace))
}

// Due says whether the last of the lane's next n ops needs a done word for the window's sake: often enough that the window never
// runs empty before the word is seen.
func (d *Dispatch) Due(l *scoreboard.Lane, n int) bool {
	every := d.Window(l) / 2
	if d.Alone {
		every /= 2
	}
	return l.Unsignalled()+n >= max(1, every)
}

// Signal decides whether an op about to be issued gets a done word. cheap: its launch can write it.
func (d *Dispatch) Signal(op *scoreboard.Op, cheap bool) {
	if op.Signal || d.Ends {
		op.Signal = true
		return
	}
	l := op.Session.Lane(op.Lane)
	// Behind the last op that a client has submitted it will wait, sooner or later: asked for then, the word costs a call.
	tight := d.Sched.Tight(op)
	op.Signal = d.Due(l, 1) || (cheap && l.Last() == op) || (tight > 0 && l.Quiet+op.Cost >= tight)
}
