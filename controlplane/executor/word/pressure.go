package word

// pressure is whether launches are what bounds everybody: whether the issue threads would have nearly all their time taken if every op
// had a launch of its own. Only then is company worth a wait, and a word in which one op waits for the lanes of others: what company spares
// is launches.
//
// It counts ops, however they are issued: what joining gains must be no reason to give it up.
type pressure struct {
	pressed    bool
	since      int64 // of what follows
	calls      int64 // Options.Calls then
	ops, words int64 // issued since
	each       int64 // how long a thread was at a word of late, ns

	part   int64  // percent of the threads' time that launches one by one would take, over some 16 ms
	issued uint64 // ops, ever
	trial  trial
}

// Bounds of pressure: how often it is looked at, ns; which part of the threads' time launches one by one would take for it to begin, and
// to end, percent. A call takes longer beside others (measurements.md, section 3: 4.4 us alone, 7.2 of each of four threads), so when
// words are few and wide what single ones would take looks like half of what it is.
const (
	pressureEvery            = 250_000
	pressBegins, pressesNone = 85, 40
	// hopeless is from where on neither so many single launches can be made, nor the prepared runs that would replace some, percent: that
	// joining is better need not be measured. Eight clients of a compiled ResNet-50 launched 160 in runs (docs/results.md, run 26).
	hopeless = 250
	// helping is how many threads count at most: the driver's lock lets no more make launches at a time.
	helping = 4
)

// count counts a word.
func (p *pressure) count(ops int) {
	p.ops += int64(ops)
	p.issued += uint64(ops)
	p.words++
}

// press finds out anew, now and then, whether there is pressure.
func (g *Gather) press(now int64) {
	p := &g.pressure
	past := now - p.since
	if past < pressureEvery || g.options.Calls == nil {
		return
	}
	calls := g.options.Calls()
	if p.words > 0 {
		each := (calls - p.calls) / p.words
		p.each = each
		part := 100 * p.ops * each / (past * int64(min(max(1, g.options.Threads), helping)))
		if p.part += (part - p.part) / 64; p.part > hopeless {
			p.trial.beyond(now)
		}
		switch {
		case part >= pressBegins:
			p.pressed = true
		case part < pressesNone:
			p.pressed = false
		}
	}
	p.since, p.calls, p.ops, p.words = now, calls, 0, 0
	p.trial.step(now, p.pressed, p.issued, g.Slots[Coalesced])
	if d := g.options.Demand; d != nil {
		d.Useless(p.trial.found)
	}
}

// ApartNow says that ops that could be joined go by themselves now, because that was measured to be better, or is being measured.
func (g *Gather) ApartNow() bool { return g.trial.apart }
