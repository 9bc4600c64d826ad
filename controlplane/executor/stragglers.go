package executor

import (
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
)

// measured has what a word took teach what its kernels take, who slows whom, and who is a straggler.
func (p *poller) measured(m *word.Sample) {
	if m.Pair.Shapes > 0 {
		p.gather.MetPair(m.Shape, &m.Pair, &m.Beside, m.Nanoseconds, p.now)
		return
	}
	p.gather.Met(m.Shape, m.Count, m.Nanoseconds, m.Sessions, &m.Beside, p.now)
	p.stragglers.Sample(m.Sessions, p.gather.Learn(m.Shape, m.Count, m.Nanoseconds, m.Waited(), m.Sessions, m.Beside.Any()))
}

// straggle has clients that make others wait served apart, and back (package straggle).
func (p *poller) straggle() {
	evicted := p.stragglers.Evictions
	if !p.stragglers.Look(p.now) {
		return
	}
	if p.stragglers.Evictions != evicted {
		p.gather.Forget() // words that held their ops were late
	}
	p.relevel()
	for _, c := range p.clients {
		c.send()
	}
}

// send tells a client whether its kernels are to run in its own context.
func (c *client) send() {
	own := uint32(0)
	if c.board.Straggler == scoreboard.Sent {
		own = 1
	}
	if at := &c.file.Producer().OwnContext; atomic.LoadUint32(at) != own {
		atomic.StoreUint32(at, own)
	}
}
