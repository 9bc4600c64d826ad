package issue

// Execute makes the driver calls of the next command of thread i, for an engine whose threads were not started (Options.Manual). false:
// it has none, or one that waits for another thread's.
func (e *Engine) Execute(i int) bool {
	t := e.threads[i]
	at := t.q.done.Load()
	if at == t.q.tail.Load() {
		return false
	}
	c := &t.q.cells[at%queueLength]
	if c.kind == cmdWait && e.threads[c.thread].q.done.Load() < c.number {
		return false
	}
	if e.fault.Load() == 0 {
		t.execute(c)
	}
	t.q.done.Store(at + 1)
	return true
}

// Spent counts ns of a time of the caller's own as time in calls (Calls), for such an engine.
func (e *Engine) Spent(ns int64) { e.threads[0].busy.Add(ns) }
