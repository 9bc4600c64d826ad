package issue

import (
	"sync/atomic"
	"time"
)

// LongRun is how long a thread's work on what it found at once takes before it is counted as long, in ns: a full queue takes an issue
// thread about a ms, so this is a call that was held up, or a core that was taken away.
const LongRun = int64(2 * time.Millisecond)

// LongRuns counts them. One thread adds, any may read. The zero value is empty.
type LongRuns struct{ count, total, longest atomic.Int64 }

// Add counts one that took ns.
func (l *LongRuns) Add(ns int64) {
	l.count.Add(1)
	l.total.Add(ns)
	l.longest.Store(max(l.longest.Load(), ns))
}

// Merge adds another's.
func (l *LongRuns) Merge(o *LongRuns) {
	l.count.Add(o.count.Load())
	l.total.Add(o.total.Load())
	l.longest.Store(max(l.longest.Load(), o.longest.Load()))
}

// Read gives how many there were, their time and the longest's, in ns.
func (l *LongRuns) Read() (count uint64, total, longest int64) {
	return uint64(l.count.Load()), l.total.Load(), l.longest.Load()
}

// LongRuns are those of thread i. Any thread may ask.
func (e *Engine) LongRuns(i int) *LongRuns { return &e.threads[i].long }
