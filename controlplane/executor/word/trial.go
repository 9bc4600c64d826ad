package word

// trial finds out whether joining ops by rewritten kernels pays as a whole, while launches are what bounds everybody. What one word gains
// is known (cost): a launch, for ops that are there. What joining costs is not seen in any word: lanes wait for one another, each for the
// slowest, kernel after kernel, and while they do their clients' next requests come later. Clients that do nothing but launch gain more
// than that, clients that need their own time between two launches lose (measurements in docs/results.md, "Whether joining pays is
// measured"). So for some turns ops go joined and by themselves, alternately, and whichever way more ops went is kept for a time.
type trial struct {
	apart bool // ops go by themselves now
	found bool // so they did better, when that was last measured

	turn   int // of the measurement under way, from 1; 0: none is
	until  int64
	from   int64 // since when this turn counts; 0: it has not settled
	ops    uint64
	joined uint64 // of the counters, at from
	went   [2]struct {
		ops uint64
		ns  int64
	} // in the turns so far: joined, apart
	every int64 // until the next measurement, ns
}

// Bounds of a trial.
const (
	// trialTurn is a turn, of which the first trialSettles do not count: ops that were held go, and lanes come into step, ns.
	trialTurn, trialSettles = int64(10e6), int64(4e6)
	// trialTurns are how many a measurement has at most, an even number: both ways have as many.
	trialTurns = 8
	// trialFirst is how long after pressure began, and after something new was found, there is a measurement; then every twice as long, at
	// least trialAgain after one that was clear, up to trialMost, ns.
	trialFirst, trialAgain, trialMost = int64(50e6), int64(1e9), int64(4e9)
	// trialLeast is how many ops a turn must have had, and one in trialShare of them in company, to say something.
	trialLeast, trialShare = 200, 50
	// What is not done now must be better by a part: trialBetter. By trialClear a measurement ends early, by twice as much at once,
	// percent.
	trialBetter, trialClear = 105, 130
	// By trialHopeless after trialGlance a turn apart ends early, percent and ns.
	trialHopeless, trialGlance = 160, int64(1500e3)
)

// step is for every look at the pressure. ops and joined are counters of all that was issued, and of what went in company.
func (t *trial) step(now int64, pressed bool, ops, joined uint64) {
	if t.every == 0 {
		t.every, t.until = trialFirst, now+trialFirst
	}
	if t.turn == 0 {
		switch {
		case now < t.until:
		case pressed:
			*t = trial{found: t.found, apart: t.found, turn: 1, until: now + trialTurn, every: t.every}
		default: // nothing to spare: joining waits for nobody then
			t.apart, t.found, t.every, t.until = false, false, trialFirst, now+trialFirst
		}
		return
	}
	if t.from == 0 && now >= t.until-trialTurn+trialSettles {
		t.from, t.ops, t.joined = now, ops, joined
	}
	if now < t.until && !t.hopeless(now, ops) {
		return
	}
	went := &t.went[0]
	if t.apart {
		went = &t.went[1]
	}
	went.ops, went.ns = went.ops+ops-t.ops, went.ns+now-t.from
	few := t.from == 0 || ops-t.ops < trialLeast || (!t.apart && (!pressed || (joined-t.joined)*trialShare < ops-t.ops))
	clear := t.turn%2 == 0 && t.clear()
	if few || t.turn == trialTurns || clear {
		t.end(now, few, clear)
		return
	}
	t.turn, t.from, t.until, t.apart = t.turn+1, 0, now+trialTurn, !t.apart
}

// hopeless says, before a turn apart is over, that it need not go on.
func (t *trial) hopeless(now int64, ops uint64) bool {
	if !t.apart || t.from == 0 || now-t.from < trialGlance {
		return false
	}
	joined, _ := t.rates()
	return trialHopeless*float64(ops-t.ops) < 100*joined*float64(now-t.from)
}

// beyond notes that more ops go joined than ever could by themselves.
func (t *trial) beyond(now int64) {
	if !t.apart && t.turn <= 1 {
		t.turn, t.until = 0, max(t.until, now+trialFirst)
	}
}

// clear says whether one way is so much better than the other that no further turns are needed.
func (t *trial) clear() bool {
	joined, apart := t.rates()
	much := trialClear + (trialClear-100)*float64(max(0, 4-t.turn))/2
	return 100*joined > much*apart || 100*apart > much*joined
}

// rates are how many ops went each way, an ns.
func (t *trial) rates() (joined, apart float64) {
	a, b := &t.went[0], &t.went[1]
	return float64(a.ops) / float64(max(1, a.ns)), float64(b.ops) / float64(max(1, b.ns))
}

// end keeps the better way. few: there was too little to say which.
func (t *trial) end(now int64, few, clear bool) {
	was := t.found
	joined, apart := t.rates()
	switch {
	case few:
		t.found = false
	case was:
		t.found = 100*joined <= trialBetter*apart
	default:
		t.found = 100*apart > trialBetter*joined
	}
	switch t.every *= 2; {
	case few: // forms may come, or clients; to see that costs nothing, for the first turn is as it was
		t.every = trialFirst
	case clear:
		t.every = max(t.every, trialAgain)
	case t.found != was:
		t.every = trialFirst
	}
	t.every = min(t.every, trialMost)
	t.turn, t.apart, t.until = 0, t.found, now+t.every
}
