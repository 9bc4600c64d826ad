package sequence

import (
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// This file is how long a lane's first op waits for those that are foreseen behind it.

// Bounds of a wait, ns: for the next op, and for all of them; and for the next one as a multiple of what one op may be held.
const (
	gapMost   = int64(150e3)
	awaitMost = int64(640e3)
	gaps      = 8
	// mostVain bounds how rare waits become that are in vain: one of so many, as a power of two.
	mostVain = 8
	// mostSeeds is how often in a row a lane waits where nothing known begins. Of a longer program so many beginnings are learned in
	// each round.
	mostSeeds = 16
)

// wait is a lane's: op number first waits for want in all, since began; there had come when one last came, at grew. No want: it
// goes.
type wait struct {
	first, want, there uint32
	began, grew        int64
	vain               uint // waits in a row that were in vain
	skip               int  // waits that are not begun because of them
	seeds              int  // waits to learn something since anything was recognised
}

// Awaiting says whether op waits for others of its lane.
func (t *Track) Awaiting(op *scoreboard.Op) bool { return t.wait.first == op.Seq && t.wait.want > 0 }

// Await says that op, ready and its lane's first, is to wait for more of its lane, of which scanned is the last: a known run begins
// with it, or one may be learned from it. It is asked in each pass, at time now; hold is how long each op of the client may be held
// (max_queue_delay), ns. The wait ends when all have come, when the next one takes eight times hold, and after as many times hold as
// ops are expected. Where waits are in vain they become rare.
func (s *Store) Await(t *Track, op *scoreboard.Op, scanned uint32, hold, now int64) bool {
	w := &t.wait
	there := scoreboard.Count(op.Seq, scanned) + 1
	if w.first != op.Seq {
		w.first, w.want, w.there, w.began, w.grew = op.Seq, uint32(s.foresee(t, op)), there, now, now
		switch {
		case w.want <= there:
			w.want = 0
		case w.skip > 0:
			w.skip--
			w.want = 0
		default:
			s.Awaited++
		}
	}
	if w.want == 0 {
		return false
	}
	if there > w.there {
		w.there, w.grew = there, now
	}
	switch {
	case there >= w.want:
		w.vain = 0
	case now-w.grew < min(gaps*hold, gapMost) && now-w.began < min(int64(w.want)*hold, awaitMost):
		return true
	default:
		s.InVain++
		w.vain = min(w.vain+1, mostVain)
		w.skip = 1<<w.vain - 2 // the first costs nothing
	}
	w.want = 0
	return false
}

// foresee is how many ops are to be expected from op on; 0: it need not wait for any.
func (s *Store) foresee(t *Track, op *scoreboard.Op) int {
	if (t.until != 0 && shm.Reached(t.until, op.Seq)) || op.Kind != shm.KindLaunch || op.Signal || !s.fits(op) {
		return 0
	}
	behind := t.last != nil && follows(op.Seq, t.end)
	if behind {
		if r := t.last.next; r != nil && r.state != gone && r.match(unsafe.Slice(&op, 1)) == 1 {
			return r.Len()
		}
	}
	n := 0
	if op.Kernel.Starts > 0 {
		h := s.hash(op)
		for r := s.bucket[h%uint64(len(s.bucket))]; r != nil; r = r.chain {
			if r.hash == h {
				n = max(n, r.Len())
			}
		}
	}
	if n == 0 && t.wait.seeds < mostSeeds && (behind || t.patience == 0 || scoreboard.Count(t.since, op.Seq) >= t.patience) {
		n = Most
		t.wait.seeds++
	}
	return n
}
