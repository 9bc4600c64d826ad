package sched

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// Bounds of shares, ns of the whole chip.
const (
	// owed bounds what a class can be owed of its min_share. What it is ahead of it counts as far as its share of a time remembered: a
	// class that had more than that for long does not stop those above it in the middle of a burst of theirs.
	owed, remembered = int64(20e6), int64(100e6)
	// A class that is owed more than pressing stops those of larger priority until it is owed no more than relief.
	pressing, relief = int64(1e6), int64(500e3)
)

// shares are a class's books of its min_share. An op is charged when it is issued, but what was issued has not run: below a class of
// larger priority that keeps the chip full, ops on less urgent streams hardly run. So what counts as had is what ended, and the time in
// which the class had the chip to itself, whatever it made of it.
type shares struct {
	share   float64 // min_share, less where those of all classes with clients are more than everything
	deficit int64   // what it is owed of all that was issued while it had work, ns; below 0: it had more
	prepaid int64   // ns in which it had the chip to itself, not yet accounted for by ends of its ops
	pressed bool    // those of larger priority wait
}

// divide finds the classes' shares.
func (s *Scheduler) divide() {
	sum := 0.0
	for _, k := range s.classes {
		sum += k.MinShare
	}
	sum = max(1, sum)
	for _, k := range s.classes {
		k.share = k.MinShare / sum
		if k.share == 0 {
			k.deficit, k.prepaid = 0, 0
		}
	}
}

// press finds who is owed so much that classes of larger priority wait: their ops in flight are what keeps it from the chip. The
// answer is the lowest of them.
func (s *Scheduler) press(now int64) (lowest *Class) {
	flying := 0
	for _, k := range s.classes {
		if k.queued+k.flying == 0 {
			k.served, k.pressed = now, false
			continue
		}
		flying += k.flying
		switch o := k.owed(); {
		case now-k.served > Starving, k.share > 0 && o > pressing:
			k.pressed = true
		case k.share == 0 || o <= relief:
			k.pressed = false
		}
		if k.pressed {
			lowest = k
		}
	}
	if lowest == nil || lowest.flying == 0 || lowest.flying < flying {
		s.alone = 0
		return lowest
	}
	if s.alone > 0 {
		lowest.reserve(now-s.alone, now)
	}
	s.alone = now
	return lowest
}

// owed is what a class is owed of what ended, and of the time that it had to itself.
func (k *Class) owed() int64 { return k.deficit + k.inFlight - k.prepaid }

// reserve counts time in which the class had the chip to itself: an op of few blocks, or one that waits for something, must not
// stop everybody for as long as it takes.
func (k *Class) reserve(ns, now int64) {
	k.prepaid += min(ns, max(0, k.owed()-relief))
	k.settle()
	if now-k.served > Starving+pressing {
		k.served = now // it had its turn
	}
}

// paid takes work that ended.
func (k *Class) paid(work int64) {
	k.prepaid -= min(k.prepaid, work)
	k.settle()
}

// settle charges what the class had to itself beyond what it has in flight, and forgives what it is ahead.
func (k *Class) settle() {
	if k.share == 0 {
		return
	}
	if over := k.prepaid - k.inFlight; over > 0 {
		k.prepaid -= over
		k.deficit -= over
	}
	k.deficit += max(0, -int64(k.share*float64(remembered))-k.owed())
}

// charge charges a class what is issued for it, and credits those that wait with their part of it.
func (s *Scheduler) charge(k *Class, cost, now int64) {
	for _, o := range s.classes {
		switch {
		case o.share == 0:
		case o.queued+o.flying > 0:
			o.deficit += min(int64(float64(cost)*o.share), max(0, owed-o.owed()))
		case now-o.active > midRequest:
			o.deficit = min(o.deficit, 0) // nobody saves up; between two requests nothing is lost
		}
		if o != k && o.queued > 0 {
			switch {
			case k.Place <= 0:
				o.note(WaitShare, now)
			case k.Place < o.Place && o.Place < scoreboard.Blocked:
				o.note(WaitPriority, now)
			}
		}
	}
	if k.share > 0 {
		k.deficit -= cost
		k.settle()
	}
}
