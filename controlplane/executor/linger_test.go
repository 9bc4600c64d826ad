package executor

import (
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/shm"
)

// lingering is a poller with one client, in a time of its own. Whoever sleeps there is woken at once.
type lingering struct {
	*bench
	c   *client
	w   *tester
	now time.Duration
}

func newLingering(t *testing.T, most time.Duration) *lingering {
	g := newFakeGPU()
	l := &lingering{bench: newBenchOn(t, g, nullGPU{g}), now: time.Second}
	p := l.poller
	p.tune.Spin, p.tune.Linger = time.Millisecond, most
	p.clock = func() int64 { return int64(l.now) }
	p.recheck = func() bool { return true }
	l.c, l.w = l.client(nil)
	return l
}

// request runs one, in no time.
func (l *lingering) request() {
	l.t.Helper()
	done := l.c.board.OpsDone + 1
	l.w.launch(1, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
	l.w.ring.Publish()
	l.until("the request is done", func() bool {
		return l.c.board.OpsDone == done && l.poller.engine.Idle() && !l.poller.worked && !l.poller.unreleased()
	})
}

// idles lets time pass without a request, and returns after how long the poller slept; 0: it did not.
func (l *lingering) idles(gap time.Duration) (slept time.Duration) {
	before := l.poller.stats.Sleeps
	const step = 100 * time.Microsecond
	for begun := l.now; l.now-begun < gap; {
		l.now += step
		l.poller.pass()
		if slept == 0 && l.poller.stats.Sleeps != before {
			slept = l.now - begun
		}
	}
	return slept
}

// gaps is n requests, each so long after the one before; it says how often the poller had slept.
func (l *lingering) gaps(n int, gap time.Duration) (sleeps int) {
	for range n {
		l.request()
		if l.idles(gap) != 0 {
			sleeps++
		}
	}
	return sleeps
}

// asleep fails unless the poller sleeps so long after a request.
func (l *lingering) asleep(after time.Duration) {
	l.t.Helper()
	l.request()
	if got := l.idles(25 * time.Millisecond); got < after || got > after+200*time.Microsecond {
		l.t.Errorf("the poller sleeps %v after a request; expected %v", got, after)
	}
}

// The poller stays awake for clients that came back within ms, for a few times as long as they took, and not for others.
func TestLinger(t *testing.T) {
	const ms = time.Millisecond
	promise := func(l *lingering, s sched.Settings) { l.poller.classify(l.c, "interactive", s) }
	t.Run("nothing is known", func(t *testing.T) { newLingering(t, 10*ms).asleep(ms) })
	t.Run("clients come back soon", func(t *testing.T) {
		l := newLingering(t, 10*ms)
		if n := l.gaps(20, 2*ms); n != lingerLeast {
			t.Errorf("the poller slept in %d of 20 gaps of 2 ms", n)
		}
		l.asleep(lingerTimes * 2 * ms)
	})
	t.Run("a short gap says nothing", func(t *testing.T) {
		l := newLingering(t, 10*ms)
		l.gaps(20, ms/2)
		l.asleep(ms)
	})
	t.Run("they come back later, and then stay away", func(t *testing.T) {
		l := newLingering(t, 10*ms)
		l.gaps(20, 4*ms)
		l.asleep(10 * ms)
		l.gaps(20, 300*ms)
		l.asleep(ms)
		if n := l.gaps(200, 2*ms); n == 0 || n > 40 {
			t.Errorf("the poller slept in %d of 200 gaps of 2 ms after longer ones", n)
		}
		l.asleep(lingerTimes * 2 * ms)
	})
	for name, s := range map[string]sched.Settings{
		"an objective":      {Latency: int64(20 * ms)},
		"a bound for waits": {MaxWait: int64(80 * time.Microsecond)},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLingering(t, 10*ms)
			l.gaps(20, 8*ms)
			l.asleep(ms)
			promise(l, s)
			l.gaps(20, 8*ms)
			l.asleep(10 * ms)
		})
	}
	t.Run("the daemon's messages are no clients", func(t *testing.T) {
		l := newLingering(t, 10*ms)
		for range 20 {
			l.request()
			for range 10 {
				l.idles(2 * ms)
				l.poller.mail <- func() {}
			}
		}
		l.asleep(ms)
	})
	t.Run("few cores", func(t *testing.T) {
		l := newLingering(t, 0)
		l.gaps(20, 2*ms)
		l.asleep(ms)
	})
}
