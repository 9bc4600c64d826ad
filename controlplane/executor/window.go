package executor

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// bounds are the tuning's of what is in flight.
func (t *Tuning) bounds() dispatch.Bounds {
	return dispatch.Bounds{WindowAlone: t.WindowAlone, WindowShared: t.WindowShared, Ahead: int64(t.Ahead)}
}

// narrowed asks for the done word of a lane that waits for room in its window when none is on its way: the window has become smaller
// since its ops were issued, and while others keep the poller busy nobody else asks.
func (p *poller) narrowed(b *scoreboard.Session, l *scoreboard.Lane) {
	if l.Signalled == l.Done && l.Unsignalled() > 0 {
		p.engine.Signal(b, l) // without room, serve tries again
	}
}
