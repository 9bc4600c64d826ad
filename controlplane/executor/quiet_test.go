package executor

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// quicker is a GPU that has stored a done word before the call which asked for it returns.
type quicker struct {
	nullGPU
	gate chan struct{}
}

func (g quicker) WriteValue32(s gpu.Stream, address uint64, value uint32) gpu.Result {
	r := g.nullGPU.WriteValue32(s, address, value)
	<-g.gate
	return r
}

// A client whose ops are all done, while the call that issued the last is still under way, is looked at once more when that returns: its
// ring's head moves at once, and with it the ends of its requests.
func TestQuietHead(t *testing.T) {
	f := newFakeGPU()
	g := quicker{nullGPU{f}, make(chan struct{})}
	b := newBenchOn(t, f, g)
	p := b.poller
	p.clock = func() int64 { return int64(time.Second) } // nothing is forced
	c, w := b.client(nil)
	_, other := b.client(nil)
	other.launch(1, 1, nil, func(h *shm.Header) { h.Ready = 1 }) // waits, so that the poller makes no call itself
	other.ring.Publish()
	b.until("the other client has work", func() bool { return p.active > 0 })
	w.launch(1, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
	w.ring.Publish()
	b.until("the op is seen done", func() bool { return c.board.OpsDone == 1 })
	for p.stats.Passes%lookAnyway != 2 {
		p.pass()
	}
	tail := atomic.LoadUint64(&c.file.Producer().Tail)
	if atomic.LoadUint64(&c.words.Head) == tail {
		t.Error("the head moved before the op's thread was through")
	}
	close(g.gate)
	for !p.engine.Idle() {
		time.Sleep(50 * time.Microsecond)
	}
	if p.pass(); atomic.LoadUint64(&c.words.Head) != tail {
		t.Error("all is done, and the head has not moved")
	}
}

// The poller does not sleep while a ring's head is to move, although nothing is in flight, waits, or is being issued.
func TestNoSleepBeforeTheHead(t *testing.T) {
	f := newFakeGPU()
	g := quicker{nullGPU{f}, make(chan struct{})}
	b := newBenchOn(t, f, g)
	p := b.poller
	p.clock = func() int64 { return int64(time.Second) }
	c, w := b.client(nil)
	_, other := b.client(nil)
	other.launch(1, 1, nil, func(h *shm.Header) { h.Ready = 1 }) // waits, so that the poller makes no call itself
	other.ring.Publish()
	b.until("the other client has work", func() bool { return p.active > 0 })
	w.launch(1, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
	w.ring.Publish()
	b.until("the op is seen done", func() bool { return c.board.OpsDone == 1 })
	close(g.gate) // its call returns after the pass that saw it done
	for !p.engine.Idle() {
		time.Sleep(50 * time.Microsecond)
	}
	p.clients, p.active, p.tune.Spin, p.lastActivity = p.clients[:1], 0, 0, 0 // as if it had always been alone, and for a while
	if p.idle(0); p.stats.Sleeps != 0 {
		t.Error("the poller slept while a head was to move")
	}
	p.pass()
	if tail := atomic.LoadUint64(&c.file.Producer().Tail); atomic.LoadUint64(&c.words.Head) != tail || p.unreleased() {
		t.Error("all is done, and the head has not moved")
	}
}

// The end of an op that goes in slices is seen as soon as its done word is there, and what follows in its lane goes then.
func TestQuietSlices(t *testing.T) {
	s := newSliced(t)
	low, lowRing := s.in("batch", sched.Settings{Coalesce: true})
	_, highRing := s.in("interactive", urgent)
	low.board.KernelByID(1).Code = s.code
	for range 4 { // measured
		s.launch(lowRing, 1, 2000, nil)
		lowRing.ring.Publish()
		s.await(lowRing, 1)
	}
	highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
	highRing.ring.Publish()
	s.await(highRing, 1)
	for n := range 5 {
		s.launch(lowRing, 1, 2000, nil)
		lowRing.ring.Publish()
		for i := 0; lowRing.done(1) != lowRing.seq[1]; i++ { // a poller that naps between two looks
			if s.tick(); i > 10_000 {
				t.Fatalf("op %d does not end", n)
			}
			s.clock.turn(s.clock.now + 50*micro)
		}
		if s.tick(); low.board.InFlight() != 0 {
			t.Errorf("op %d: its done word is there, and the poller has not seen it", n)
		}
	}
	if st := s.poller.snapshot(); st.Coalescing.OpsSliced != 5 {
		t.Fatalf("%d ops went in slices", st.Coalescing.OpsSliced)
	}
}

// A lane whose window has become smaller than what it has in flight, none of which was to be signalled, goes on while others keep the
// poller busy.
func TestWindowNarrows(t *testing.T) {
	f := newFakeGPU()
	b := newBenchOn(t, f, nullGPU{f})
	p := b.poller
	p.clock = func() int64 { return int64(time.Second) } // never idle, nothing is forced
	c, w := b.client(nil)
	_, other := b.client(nil)
	other.launch(1, 1, nil, func(h *shm.Header) { h.Ready = 1 })
	other.ring.Publish()
	b.until("the other client has work", func() bool { return p.active > 0 })
	l := c.board.Lane(1)
	l.Pace = int64(time.Microsecond)
	const before = 20
	for range before {
		w.launch(1, 1, nil, nil)
	}
	w.ring.Publish()
	b.until("the ops are issued", func() bool { return l.InFlight() == before })
	if l.Signalled != l.Done {
		t.Fatal("somebody asked for a done word")
	}
	l.Pace = int64(10 * time.Millisecond)
	w.launch(1, 1, nil, nil)
	w.ring.Publish()
	for range 100 {
		p.pass()
		for !p.engine.Idle() {
			time.Sleep(10 * time.Microsecond)
		}
	}
	if l.Issued != before+1 {
		t.Errorf("%d ops are issued, %d done", l.Issued, l.Done)
	}
}
