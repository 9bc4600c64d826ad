package executor

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// hold is a client of which only ops in doubt are issued, one at a time.
type hold struct {
	last map[uint32]uint32 // lane → its last op in doubt
	over chan struct{}     // closed when they are done
	done bool
}

// allows says whether an op of a held client may be issued.
func (h *hold) allows(p *poller, b *scoreboard.Session, op *scoreboard.Op) bool {
	last, ok := h.last[op.Lane]
	return ok && shm.Reached(last, op.Seq) && b.InFlight() == 0 && p.sched.Len()+p.gather.Len() == 0
}

// look closes over when every op in doubt is done.
func (h *hold) look(b *scoreboard.Session) {
	if h.done {
		return
	}
	for lane, last := range h.last {
		if !shm.Reached(b.Lane(lane).Done, last) && !b.Dropping() {
			return
		}
	}
	h.done = true
	close(h.over)
}
