package issue

import (
	"math/bits"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of Options.Spill.
const (
	// DefaultSpill has the next thread help as soon as one has a command to execute. That each thread in the driver makes every call take
	// longer costs less than waiting behind one (docs/results.md, section 7, run 23).
	DefaultSpill = 1
	// MaxSpill is as much as a thread gets at all.
	MaxSpill = queueUse
)

// backlog is how many commands t has not executed.
func (t *thread) backlog() int { return int(t.q.tail.Load() - t.q.done.Load()) }

// bound is the thread that a stream's next command must go to, because it has another one of the stream's in its queue; nil: any, for
// all of them were executed, and whoever learns that from done makes its calls behind theirs.
func (e *Engine) bound(s *Stream) *thread {
	if t := e.threads[s.thread]; t.q.done.Load() < s.last {
		return t
	}
	return nil
}

// push gives t the command in its next cell, which names a stream that is bound to t or to none.
func (e *Engine) push(t *thread, s *Stream) uint64 {
	n := t.push()
	if t.stream != s {
		t.stream, t.mixed = s, n
	}
	if s.thread != t.index {
		s.leaves = 0
	}
	s.thread, s.last = t.index, n
	return n
}

// leaves says that a stream gets no more words from t now, to which it is bound: t has enough to do for other streams too while another
// thread has not, and a stream that always has a command there would never move. It moves when t has executed what it has of it. One
// stream of a thread leaves at a time.
func (e *Engine) leaves(t *thread, s *Stream) bool {
	done := t.q.done.Load()
	switch {
	case e.bound(s) != t:
		return false
	case done < s.leaves:
		return true
	case t.backlog() < e.spill || done+1 >= t.mixed || done < t.leaves:
		return false
	}
	if n := e.load(e.pick()); n > e.spill || n >= t.backlog() {
		return false
	}
	s.leaves, t.leaves = s.last, s.last
	return true
}

// load is a thread's backlog, or more where a command would wait longer than for that.
func (e *Engine) load(t *thread) int {
	n := t.backlog()
	switch {
	case t.q.done.Load() < t.slow:
		n += e.spill // one's calls take as long as many others'
	case n == 0 && t.index > 0 && atomic.LoadUint32(&t.parked) != 0:
		n = e.spill // waking it takes as long
	}
	return n
}

// pick is the thread for what may go to any: the first with less load than Spill, else the one with least. As few make calls as keep up,
// for in the driver they wait for one another.
func (e *Engine) pick() *thread {
	best, least := e.threads[0], e.load(e.threads[0])
	for _, t := range e.threads[1:] {
		if least < e.spill {
			break
		}
		if n := e.load(t); n < least {
			best, least = t, n
		}
	}
	return best
}

// home is the thread for what is put on a stream behind others (a bit each). Where it must wait for a thread's commands anyway it goes
// behind them there: another thread would stand still meanwhile.
func (e *Engine) home(stream int, waits uint32) *thread {
	if t := e.bound(&e.streams[stream]); t != nil {
		return t
	}
	for m := waits; m != 0; m &= m - 1 {
		if t := e.bound(&e.streams[bits.TrailingZeros32(m)]); t != nil {
			return t
		}
	}
	return e.pick()
}

// slow says whether a word's calls take much longer than a launch: others had better not wait behind it.
func slow(w *word.Word) bool {
	switch {
	case w.Chain != nil, w.Team != nil:
		return true
	case w.Batch != nil:
		return w.Batch.Parts != nil
	}
	k := w.Op.Kind
	return k == shm.KindGraph || k == shm.KindPut || k == shm.KindGet
}
