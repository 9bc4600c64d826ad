package scoreboard

import (
	"sync/atomic"
	"testing"

	"github.com/heddle-gpu/heddle/shm"
)

// From its first slice on an op is issued for everybody who asks what ran, and for nobody who waits for it, until its last.
func TestPart(t *testing.T) {
	b := newBoard(t)
	first := b.launch(1)
	long := b.launch(1)
	b.launch(1)
	b.launch(2, shm.Dep{Lane: 1, Value: long})
	b.scan(t)
	s, l, other := b.s, b.s.Lane(1), b.s.Lane(2)
	op := s.Ready(l)
	op.Signal = true
	s.Issue(op, 4)
	if op = s.Ready(l); op.Seq != long {
		t.Fatalf("number %d is ready", op.Seq)
	}
	op.Signal = true
	s.Begin(op, 4)
	if n := atomic.LoadUint32(&b.file.Lane(1).Issued); n != long {
		t.Errorf("the client reads that %d are issued", n)
	}
	if r := s.Running(); len(r) != 2 || r[1] != op || s.InFlight() != 2 || l.InFlight() != 2 || l.Stream != 4 {
		t.Errorf("%d run, %d and %d in flight on stream %d", len(r), s.InFlight(), l.InFlight(), l.Stream)
	}
	if !l.Queued || l.Part != op || l.Signalled != first || l.Unsignalled() != 0 {
		t.Errorf("%+v", l)
	}
	if s.Ready(other) != nil {
		t.Error("what depends on it is ready")
	}
	// A done word for it can only be a forgery; the one before it has ended.
	atomic.StoreUint32(&b.file.Lane(1).Done, long)
	if _, ok := s.Poll(l); ok {
		t.Error("its done word is believed")
	}
	atomic.StoreUint32(&b.file.Lane(1).Done, first)
	if n, ok := s.Poll(l); n != 1 || !ok || l.Stream != 4 {
		t.Errorf("%d are done, %v; the lane is on stream %d", n, ok, l.Stream)
	}
	s.Finish(l, true)
	if s.Ready(other) == nil || s.Ready(l) == nil || l.Queued || l.Signalled != long || l.Unsignalled() != 0 {
		t.Errorf("after its last slice: %+v", l)
	}
	atomic.StoreUint32(&b.file.Lane(1).Done, long)
	if n, ok := s.Poll(l); n != 1 || !ok || l.Stream != NoStream {
		t.Errorf("%d are done, %v; the lane is on stream %d", n, ok, l.Stream)
	}
}

// A session that is given up in the middle of an op: what was issued has to end, and then all is done.
func TestPartGivenUp(t *testing.T) {
	b := newBoard(t)
	long := b.launch(1)
	last := b.launch(1)
	b.scan(t)
	s, l := b.s, b.s.Lane(1)
	s.Begin(s.Ready(l), 2)
	s.Finish(l, false)
	s.Drop()
	if l.Done != 0 || s.InFlight() != 1 || l.Unsignalled() != 1 {
		t.Fatalf("%+v", l)
	}
	l.Signalled = l.Whole // Engine.Signal
	atomic.StoreUint32(&b.file.Lane(1).Done, long)
	if _, ok := s.Poll(l); !ok || l.Done != last || !s.Release() || s.InFlight() != 0 {
		t.Errorf("%v, %+v", ok, l)
	}
}

// Somebody waits for an op of which a part is issued: it gets a done word with its last slice.
func TestPartIsWaitedFor(t *testing.T) {
	b := newBoard(t)
	b.launch(1)
	b.scan(t)
	s, l := b.s, b.s.Lane(1)
	op := s.Ready(l)
	s.Begin(op, 2)
	if a, _ := s.signal(l, 1); a != Consumed || !op.Signal {
		t.Errorf("action %d, signal %v", a, op.Signal)
	}
}
