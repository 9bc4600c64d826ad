package executor

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/effects"
	"github.com/heddle-gpu/heddle/shm"
)

// bench is a poller that the test drives pass by pass, on a driver that does nothing.
type bench struct {
	t      testing.TB
	gpu    *fakeGPU
	poller *poller
	next   uint64
	joins  func(*client) // what its session says of a client before the poller has it; nil: nothing
}

func newBench(t testing.TB) *bench {
	t.Helper()
	g := newFakeGPU()
	return newBenchOn(t, g, nullGPU{g})
}

// newBenchOn uses another driver; g is what it is made of.
func newBenchOn(t testing.TB, g *fakeGPU, d issue.Driver) *bench {
	t.Helper()
	return newBenchWith(t, g, d, issue.Options{Threads: 2, Least: 0, Greatest: -5, Spin: time.Millisecond})
}

// newBenchWith uses other options of the issue engine.
func newBenchWith(t testing.TB, g *fakeGPU, d issue.Driver, o issue.Options) *bench {
	t.Helper()
	e, err := issue.New(d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	c := Config{Log: quietLog(), DeadKernelTime: time.Hour, Tuning: Tuning{Spin: time.Hour, Always: true}} // passes never sleep
	c.defaults()
	p, err := newPoller(c, e, cost.Chip{})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, gpu: g, poller: p}
}

// client adds a client whose memory is [window, window+64 KiB). Its session file is shown to prepare first.
func (b *bench) client(prepare func(f *shm.SessionFile)) (*client, *tester) {
	b.t.Helper()
	b.next++
	f, err := shm.CreateSessionFile(b.next)
	if err != nil {
		b.t.Fatal(err)
	}
	ring, err := shm.NewProducer(f, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if prepare != nil {
		prepare(f)
	}
	board := scoreboard.New(b.next, f)
	board.LanesDevice = addressOf(f.LaneBytes())
	board.AddKernel(&scoreboard.Kernel{ID: 1, Function: 5, Limit: unlimited()})
	if err := board.Memory.Add(testWindow, 1<<16); err != nil {
		b.t.Fatal(err)
	}
	c := &client{id: b.next, board: board, file: f, ring: shm.NewConsumer(f), words: f.Consumer(), status: f.Status()}
	// As session.resume does, without the driver.
	head := atomic.LoadUint64(&c.words.Head)
	err = c.ring.Resume(atomic.LoadUint64(&c.words.Read), head)
	var doubt scoreboard.Doubt
	if err == nil {
		doubt, err = board.Survey(c.ring, nobody)
	}
	if err == nil && doubt.Why == "" {
		err = c.ring.Resume(c.ring.Read(), head)
	}
	if err != nil || doubt.Why != "" {
		c.broken, c.failed = true, gpu.Unknown
		board.Drop()
		f.SetError(999, shm.ReasonBadRecord)
	}
	if b.joins != nil {
		b.joins(c)
	}
	b.poller.add(c)
	return c, &tester{t: b.t, id: b.next, file: f, ring: ring}
}

// until passes until f holds.
func (b *bench) until(what string, f func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !f(); {
		if !b.poller.pass() {
			b.t.Fatalf("the executor ended: %+v", b.poller.end)
		}
		if time.Now().After(end) {
			b.t.Fatalf("still not: %s", what)
		}
	}
}

// gone takes a client away again, as DETACH does.
func (b *bench) gone(c *client) {
	b.t.Helper()
	idle := false
	b.poller.detach(c, func() { idle = true })
	b.until("a detached client has nothing in flight", func() bool { return idle })
	b.poller.remove(c)
	if err := c.file.Close(); err != nil {
		b.t.Error(err)
	}
}

// well checks that a good client is served as ever.
func (b *bench) well(c *client, g *tester) {
	b.t.Helper()
	for range 5 {
		g.push(1, true)
	}
	b.until("the good client's ops are done", func() bool { return c.board.OpsDone == uint64(g.seq[1]) })
	if c.failed != gpu.Success {
		b.t.Fatalf("the good client has error %v", c.failed)
	}
	for i := range b.poller.engine.Streams() {
		if s := b.poller.engine.Stream(i); s.Ops < 0 || s.Lanes < 0 {
			b.t.Fatalf("stream %d holds %d ops of %d lanes", i, s.Ops, s.Lanes)
		}
	}
}

// scribble writes bytes where a hostile client would: the ring, the lane words, its own positions.
func scribble(r *rand.Rand, f *shm.SessionFile) {
	for range 1 + r.IntN(8) {
		v := r.Uint32()
		if r.IntN(2) == 0 {
			v = r.Uint32N(8)
		}
		l := f.Lane(r.Uint32N(6))
		switch r.IntN(9) {
		case 0:
			atomic.StoreUint32(&l.Done, v)
		case 1:
			atomic.StoreUint32(&l.Ready, v)
		case 2:
			atomic.StoreUint32(&l.Waiting, v)
		case 3:
			atomic.StoreUint32(&l.Issued, v)
		case 4:
			atomic.StoreUint64(&f.Consumer().Head, uint64(v)&^15)
		case 5:
			atomic.StoreUint64(&f.Consumer().Read, uint64(v)&^15)
		case 6:
			if r.IntN(10) == 0 {
				atomic.StoreUint64(&f.Producer().Tail, uint64(v%4096)&^15)
			}
		case 7:
			ring := f.RingBytes()
			binary.LittleEndian.PutUint32(ring[4*r.IntN(1024):], v)
		case 8:
			atomic.StoreUint32(&f.Status().Error, v)
		}
	}
}

// records writes mostly sensible records of every kind.
func records(r *rand.Rand, c *tester, n int) {
	for range n {
		lane := 1 + r.Uint32N(5)
		at := testWindow + uint64(r.IntN(1<<15))
		deps := func(h *shm.Header) {
			if r.IntN(4) == 0 {
				h.Deps = append(h.Deps, shm.Dep{Lane: (1 + r.Uint32N(5)) | uint32(r.IntN(2))<<31, Value: 1 + r.Uint32N(6)})
			}
			if r.IntN(6) == 0 {
				h.Ready = r.Uint32N(9)
			}
			if r.IntN(50) == 0 {
				h.Seq += r.Uint32N(3)
			}
			if r.IntN(8) == 0 {
				h.Flags |= shm.RecordFlagWait
			}
		}
		switch r.IntN(12) {
		case 0:
			put(c, shm.KindMemset, lane, shm.Memset{Dst: at, Width: uint64(r.IntN(100)), Height: 1, Element: 1}, nil, deps)
		case 1:
			put(c, shm.KindCopy, lane, shm.Copy{Dst: at, Src: at + 64, Bytes: uint64(r.IntN(100))}, nil, deps)
		case 2:
			put(c, shm.KindPut, lane, shm.InlineCopy{Address: at, Bytes: 32}, make([]byte, 32), deps)
		case 3:
			put(c, shm.KindEvent, lane, shm.EventMark{Slot: r.Uint32N(shm.EventSlots)}, nil, deps)
		case 4:
			c.signal(lane, c.seq[lane])
		case 5:
			put(c, shm.KindElapsed, 0, shm.Elapsed{Start: r.Uint32N(9), End: r.Uint32N(9), Reply: r.Uint32N(9)}, nil, nil)
		case 6:
			put(c, shm.KindLaneOpen, lane, shm.LaneOpen{Priority: int32(r.Uint32())}, nil, nil)
		case 7:
			put(c, shm.KindRequestBegin, lane, shm.RequestBegin{Request: r.Uint64N(4), Time: r.Uint64()}, nil, nil)
		case 9:
			c.upcoming(lane)
		case 8:
			put(c, shm.KindRequestEnd, lane, shm.RequestEnd{Request: r.Uint64N(4), Time: r.Uint64()}, nil, nil)
		default:
			c.launch(1, lane, u64s(1, 2), deps)
		}
	}
}

// Clients that write anything anywhere at any time: the executor neither crashes nor hangs, keeps its books, gets rid of them,
// and serves the others.
func TestHostileClients(t *testing.T) {
	b := newBench(t)
	good, g := b.client(nil)
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 99))
		evil, e := b.client(func(f *shm.SessionFile) {
			if seed%3 == 0 { // what a predecessor left, allegedly
				p, err := shm.NewProducer(f, nil)
				if err != nil {
					t.Fatal(err)
				}
				records(r, &tester{t: t, file: f, ring: p}, 20)
				p.Publish()
				scribble(r, f)
			}
		})
		for range 10 {
			if seed%3 != 0 {
				records(r, e, 10)
				e.ring.Publish()
			}
			for range 20 {
				scribble(r, evil.file)
				if !b.poller.pass() {
					t.Fatalf("seed %d: the executor ended: %+v", seed, b.poller.end)
				}
			}
		}
		b.gone(evil)
		b.well(good, g)
	}
}

// FuzzSession gives the executor a session file with any bytes in ring, words and lanes.
func FuzzSession(f *testing.F) {
	f.Add([]byte{}, uint64(0), uint64(0), uint64(0), uint32(0), uint32(0))
	f.Add([]byte{48, 0, 0, 0, 4, 0}, uint64(48), uint64(0), uint64(0), uint32(1), uint32(2))
	good, err := shm.CreateSessionFile(1)
	if err != nil {
		f.Fatal(err)
	}
	p, err := shm.NewProducer(good, nil)
	if err != nil {
		f.Fatal(err)
	}
	records(rand.New(rand.NewPCG(1, 1)), &tester{t: f, file: good, ring: p}, 30)
	p.Publish()
	tail := atomic.LoadUint64(&good.Producer().Tail)
	f.Add(append([]byte(nil), good.RingBytes()[:tail]...), tail, uint64(0), uint64(0), uint32(0), uint32(3))
	good.Close()
	f.Fuzz(func(t *testing.T, ring []byte, tail, read, head uint64, done, issued uint32) {
		b := newBench(t)
		c, _ := b.client(func(f *shm.SessionFile) {
			copy(f.RingBytes(), ring)
			atomic.StoreUint64(&f.Producer().Tail, tail)
			atomic.StoreUint64(&f.Consumer().Read, read)
			atomic.StoreUint64(&f.Consumer().Head, head)
			for l := range uint32(4) {
				atomic.StoreUint32(&f.Lane(l).Done, done)
				atomic.StoreUint32(&f.Lane(l).Issued, issued)
			}
		})
		for range 50 {
			if !b.poller.pass() {
				t.Fatalf("the executor ended: %+v", b.poller.end)
			}
		}
		b.gone(c)
	})
}

// nobody knows any kernel.
func nobody(uint32) (*effects.Effects, string) { return nil, "unknown" }
