package issue

import (
	"sync/atomic"
	"testing"
	"time"
)

// Commands are expected: the first thread stays awake between them, the others do not, nor does it when none are expected any more.
func TestAttend(t *testing.T) {
	e, err := New(newRecorder(), Options{Threads: 2, Least: 0, Greatest: -5, Spin: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	asleep := func(t *thread) bool { return atomic.LoadUint32(&t.parked) != 0 }
	until := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("still not: %s", what)
			}
		}
	}
	first, second := e.threads[0], e.threads[1]
	run := func(t *thread) {
		*t.q.next() = command{kind: cmdRecord, event: 1}
		t.push()
		until("the command is executed", func() bool { return t.backlog() == 0 })
	}
	until("the threads sleep", func() bool { return asleep(first) && asleep(second) })
	e.Attend(time.Hour)
	for range 100 {
		run(first)
		if asleep(first) {
			t.Fatal("the first thread sleeps between commands")
		}
	}
	run(second)
	until("the second thread sleeps", func() bool { return asleep(second) })
	if asleep(first) {
		t.Error("the first thread sleeps")
	}
	e.Attend(0)
	until("the first thread sleeps", func() bool { return asleep(first) })
}
