package executor

import "github.com/heddle-gpu/heddle/controlplane/executor/word"

// measured has what a word took teach what its kernels take, who slows whom, and who is a straggler.
func (p *poller) measured(m *word.Sample) {
	if m.Pair.Shapes > 0 {
		p.gather.MetPair(m.Shape, &m.Pair, &m.Beside, m.Nanoseconds, p.now)
		return
	}
	p.gather.Met(m.Shape, m.Count, m.Nanoseconds, m.Sessions, &m.Beside, p.now)
	p.stragglers.Sample(m.Sessions, p.gather.Learn(m.Shape, m.Count, m.Nanoseconds, m.Sessions, m.Beside.Any()))
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
}
