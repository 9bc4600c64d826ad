package sequence

import (
	"math/rand/v2"
	"testing"
)

// An op with which a known run begins waits for the rest, which may take its time, but not too much of it; and where waits are in vain
// they become rare.
func TestAwait(t *testing.T) {
	const hold = int64(20e3)
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	m := model(rand.New(rand.NewPCG(3, 3)), Most)
	for i := range m {
		m[i] = call{kernel: uint32(1 + i), grid: 1}
	}
	for range 8 {
		l.submit(m...)
		l.drain()
		for _, r := range asked {
			r.Exec.Store(1)
		}
	}
	if len(asked) != 1 {
		t.Fatalf("%d runs", len(asked))
	}
	ln := l.board.Lane(1)
	now := int64(1e9)
	awaits := func() bool {
		t.Helper()
		op := l.board.Ready(ln)
		if op == nil {
			t.Fatal("nothing waits")
		}
		return s.Await(&l.track, op, ln.Scanned, hold, now)
	}
	// All of it comes, one op every 20 µs.
	for i := range m {
		l.submit(m[i])
		now += hold
		if w := awaits(); w != (i < len(m)-1) {
			t.Fatalf("with %d ops of %d: waits %v", i+1, len(m), w)
		}
		if op := l.board.Ready(ln); l.track.Awaiting(op) != (i < len(m)-1) {
			t.Fatalf("with %d ops: awaiting %v", i+1, l.track.Awaiting(op))
		}
	}
	had := l.prep
	if l.drain(); l.prep != had+len(m) || s.Awaited != 1 || s.InVain != 0 {
		t.Fatalf("%d ops of %d in runs, %d waits, %d in vain", l.prep-had, len(m), s.Awaited, s.InVain)
	}
	// It stops in the middle.
	vain := func() (waited bool) {
		t.Helper()
		l.submit(m[:8]...)
		since := now
		for awaits() {
			if now += 1000; now-since > gaps*hold {
				t.Fatalf("waits for %d ns", now-since)
			}
		}
		waited = now > since
		l.drain()
		// What begins where the run would have ended is found again.
		l.submit(m[8:]...)
		l.drain()
		return waited
	}
	waited := 0
	for range 64 {
		if vain() {
			waited++
		}
	}
	if waited == 0 || waited > 8 || s.InVain != uint64(waited) {
		t.Errorf("%d of 64 waits in vain, counted %d", waited, s.InVain)
	}
	// An op of which nothing is known waits a few times, to see whether it repeats, and then hardly ever.
	before := s.Awaited
	for i := range uint64(2000) {
		l.submit(call{kernel: 39, grid: 1, words: []uint64{i}})
		for awaits() {
			now += 1000
		}
		l.drain()
	}
	if n := s.Awaited - before; n > 100 {
		t.Errorf("%d of 2000 ops that come once waited", n)
	}
}

// Ops that go one by one are counted by why.
func TestWhy(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	m := model(rand.New(rand.NewPCG(4, 4)), 200)
	for i := range m {
		if m[i].kernel == 0 {
			m[i] = call{kernel: 2, grid: 2}
		}
	}
	m[0] = call{kernel: 1, grid: 1}
	total := uint64(0)
	round := func() {
		l.submit(m...)
		total += uint64(len(m))
		l.drain()
	}
	for range 4 {
		round()
	}
	if s.Plain[Making] == 0 || s.Plain[Learning] < 200 || s.Ops != 0 {
		t.Errorf("graphs that are not there: %v", s.Plain)
	}
	for range 100 {
		for _, r := range asked {
			r.Exec.Store(1)
		}
		round()
	}
	if s.Plain[Measured] == 0 {
		t.Errorf("none was measured: %v", s.Plain)
	}
	l.submit(m[0])
	total++
	l.drain()
	if s.Plain[Few] == 0 {
		t.Errorf("one that was alone: %v", s.Plain)
	}
	sum := s.Ops
	for _, n := range s.Plain {
		sum += n
	}
	if sum != total {
		t.Errorf("%d ops counted of %d: %v", sum, total, s.Plain)
	}
}
