package executor

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
