package executor

import (
	"fmt"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// bad gives a client up whose ring or words make no sense.
func (p *poller) bad(c *client, err error) {
	c.broken = true
	p.stats.BadRecords++
	p.drop(c, gpu.Unknown, shm.ReasonBadRecord, err.Error())
}

// forged deals with a done word that no GPU write can have made. The client is given up; its ops in flight still have to be seen
// to their end, so the word is put right and written by the GPU once more.
func (p *poller) forged(c *client, l *scoreboard.Lane) {
	if !c.broken {
		p.bad(c, fmt.Errorf("lane %d: the done word holds a number that was never signalled", l.Index))
	}
	if p.now-c.mended > int64(time.Millisecond) && p.engine.SignalAgain(c.board, l) {
		c.mended = p.now
	}
}

// drop gives a client its sticky error; its ops in flight end, the others never run.
func (p *poller) drop(c *client, r gpu.Result, reason uint32, why string) {
	if c.failed == gpu.Success {
		c.failed = r
		p.trace.Fault(c.id, r, reason)
	}
	p.giveUp(c)
	c.file.SetError(uint32(r), reason)
	p.log.Warn("session gets an error", "client", c.id, "code", int(r), "reason", reason, "why", why)
}

// giveUp drops every op of a client that is not issued.
func (p *poller) giveUp(c *client) {
	p.unqueue(c)
	p.cuts.abandon(c)
	c.board.Drop()
}
