package scoreboard

import (
	"math"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/shm"
)

// Next is the op that waits behind o in its lane, nil when o is the last one.
func (o *Op) Next() *Op { return o.next }

// Following fills into with op, which is ready and its lane's first, and with the ops that wait behind it, as long as all of them can
// be issued in one go: each needs nothing but its place in the lane, none but the last wants a done word, and none came after an op
// that waits in another lane of the session (whatever depends on the lane's earlier ops must not wait for later ones, which may wait
// for it). It returns how many there are; at least one.
func (s *Session) Following(op *Op, into []*Op) int {
	before := uint64(math.MaxUint64)
	for _, i := range s.busy {
		if first := s.lanes[i].first; first != nil && i != op.Lane {
			before = min(before, first.Arrival)
		}
	}
	into[0] = op
	n := 1
	for o := op.next; o != nil && n < len(into) && !into[n-1].Signal && o.Arrival < before && s.settled(o); o = o.next {
		into[n] = o
		n++
	}
	return n
}

// settled reports whether everything that a waiting op depends on, besides the earlier ops of its lane, is done.
func (s *Session) settled(op *Op) bool {
	if op.Ready != 0 && !shm.Reached(atomic.LoadUint32(&s.lanes[op.Lane].word.Ready), op.Ready) {
		return false
	}
	for _, d := range op.deps {
		on := &s.lanes[d.Lane&^shm.DepReady]
		switch {
		case d.Lane&shm.DepReady != 0:
			if !shm.Reached(atomic.LoadUint32(&on.word.Ready), d.Value) {
				return false
			}
		case d.Lane != op.Lane && !shm.Reached(on.Done, d.Value):
			return false
		}
	}
	return true
}
