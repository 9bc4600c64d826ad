package sched

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// stretch is how much longer work of a class takes to leave the chip than was in flight by its estimates, which are of the whole
// chip and of kernels by themselves: kernels of a stream follow one another, each some µs after the one before, beside other
// clients'. What max_wait bounds is that time. It is learned from one op at a time, from when it is issued until its done word is
// seen.
type stretch struct {
	by   float64 // 0: nothing was seen; else 1 to mostStretch
	lane *scoreboard.Lane
	seq  uint32
	at   int64 // when the op was issued; its lane is nil when none is under way
	work int64 // what was in flight before it, as it was counted when the op was let in
}

const (
	// mostStretch is the most that is believed. One kernel that never ends must not stop its class for long.
	mostStretch = 4
	// What takes longer counts more than what takes less: most is to be within the bound, not the mean.
	longerCounts, shorterCounts = 0.25, 1.0 / 16
	// leastWork is how much must be in flight for its time to be told from a launch's, ns.
	leastWork = int64(5e3)
)

// leaving is how long what the class has in flight takes to leave the chip, ns.
func (k *Class) leaving() int64 {
	if k.stretch.by <= 1 {
		return k.inFlight
	}
	return int64(float64(k.inFlight) * k.stretch.by)
}

// watch notes that an op with a done word was issued, if its time is to be taken: while about as much is in flight as a class above
// allows, and nothing of such a class is.
func (s *Scheduler) watch(k *Class, l *scoreboard.Lane, seq uint32, cost, now int64) {
	w := &k.stretch
	work := k.inFlight - cost
	if k.budget == 0 || w.lane != nil && now-w.at < activeFor || work < leastWork || 2*float64(work)*max(w.by, 1) < float64(k.budget) {
		return
	}
	if s.quietAbove(k, now) {
		w.lane, w.seq, w.at, w.work = l, seq, now, work
	}
}

// watched takes the time of the op that is watched, if it ended: then its lane has done so much.
func (s *Scheduler) watched(k *Class, l *scoreboard.Lane, now int64) {
	w := &k.stretch
	if w.lane != l || !shm.Reached(l.Done, w.seq) {
		return
	}
	w.lane = nil
	if !s.quietAbove(k, w.at) {
		return // it waited for what is more urgent
	}
	by := min(max(float64(now-w.at)/float64(w.work), 1), 2*mostStretch)
	was := max(w.by, 1)
	part := shorterCounts
	if by > was {
		part = longerCounts
	}
	w.by = min(was+(by-was)*part, mostStretch)
}

// quietAbove says that no more urgent class has had anything in flight, or anything new, since a time.
func (s *Scheduler) quietAbove(k *Class, since int64) bool {
	for _, a := range s.classes {
		if a.Settings.Priority <= k.Settings.Priority {
			return true
		}
		if a.flying > 0 || a.active > since {
			return false
		}
	}
	return true
}
