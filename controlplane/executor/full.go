package executor

// unfill has lanes' done words written on streams that had no room (issue.Engine.Full). What a stream holds is counted until all of it is
// known done; done words are asked for by who waits, and by an idle poller. While others keep the poller busy, and whoever would wait has an
// op that found no room, nobody would ask.
func (p *poller) unfill() {
	full := p.engine.Full
	p.engine.Full = 0
	for _, c := range p.clients {
		for _, i := range c.board.Busy() {
			l := c.board.Lane(i)
			if l.Stream >= 0 && full&(1<<uint(l.Stream)) != 0 && l.Signalled == l.Done && l.Unsignalled() > 0 {
				p.engine.Signal(c.board, l) // without room, serve tries again
				c.quiet.on = false
			}
		}
	}
}
