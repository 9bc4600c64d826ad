package word

import (
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/shm"
)

// Chain is a word of ops that follow one another in one lane, issued as one graph. The poller fills it; from the hand-over until
// Passed reaches Number it is the issue thread's.
type Chain struct {
	Run   *sequence.Run
	Count int
	Ops   [sequence.Most]*scoreboard.Op

	Passed *atomic.Uint64
	Number uint64
}

// Last is the op behind which a done word can come.
func (c *Chain) Last() *scoreboard.Op { return c.Ops[c.Count-1] }

// Chains holds the chains, used in turn; the poller's.
type Chains struct {
	chains [poolSize]Chain
	at     int
}

// Peek is the chain to fill next, nil when its last word was not executed yet.
func (p *Chains) Peek() *Chain {
	c := &p.chains[p.at]
	if c.Passed != nil && c.Passed.Load() < c.Number {
		return nil
	}
	return c
}

// Take makes Peek go on to the next chain.
func (p *Chains) Take() { p.at = (p.at + 1) % len(p.chains) }

// ChainIssued counts a word of a chain: its ops are their kernels' launches like others.
func (g *Gather) ChainIssued(c *Chain) {
	g.Words[Prepared]++
	g.Slots[Prepared] += uint64(c.Count)
	g.pressure.count(c.Count)
	for _, op := range c.Ops[:c.Count] {
		if op.Kind != shm.KindLaunch {
			continue
		}
		g.Widths[0]++ // each a kernel for itself
		op.Session.Launches++
		if op.Kernel.Code == nil {
			continue
		}
		op.Kernel.Code.Use.Launches++
		if s := scoreboard.Known(op); s != nil {
			s.Words++
		}
	}
}
