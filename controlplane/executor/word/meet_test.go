package word

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// submit puts a launch of a kernel behind what is in the session's lane 0.
func (s *session) submit(kernel uint32) {
	s.b.t.Helper()
	s.seq[0]++
	body, _, ok := s.out.Begin(shm.Header{Kind: shm.KindLaunch, Seq: s.seq[0]}, int(unsafe.Sizeof(shm.Launch{}))+8)
	if !ok {
		s.b.t.Fatal("no room")
	}
	shm.Put(body, shm.Launch{Kernel: kernel, GridX: 1, GridY: 1, GridZ: 1, BlockX: 128, BlockY: 1, BlockZ: 1, ParamBytes: 8})
	s.out.Publish()
	v, ok, err := s.ring.Next()
	if err != nil || !ok {
		s.b.t.Fatal(ok, err)
	}
	if _, _, err := s.board.Accept(v, s.b.n); err != nil {
		s.b.t.Fatal(err)
	}
}

// first offers the lane's first waiting op.
func (s *session) first(now int64) {
	if op := s.board.Ready(s.board.Lane(0)); op != nil {
		op.ReadyAt, op.Latest = now, now+1_000_000
		s.b.g.Add(op, 0)
	}
}

// Clients that repeat the same kernels in turn and have plenty submitted meet wherever in the turn they stand: from then on every word
// holds them all.
func TestOutOfStep(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 9))
		b := newBench(t, nil)
		kernels, n := 2+r.IntN(3), 2+r.IntN(7)
		codes := make([]*scoreboard.Code, kernels)
		for i := range codes {
			codes[i] = code(uint32(i + 1))
			scoreboard.Publish(form(coalesce.ByZ, 8, codes[i]))
		}
		of := map[uint64]*session{}
		var all []*session
		for range n {
			s := b.session(codes[0])
			for i, c := range codes {
				s.board.AddKernel(&scoreboard.Kernel{ID: uint32(i + 1), Limit: &atomic.Uint32{}, Code: c})
			}
			of[s.board.ID] = s
			all = append(all, s)
		}
		for i, s := range all { // each has launched every kernel once, so that its shapes are known, and stands somewhere in the turn
			for k := range kernels {
				s.submit(uint32(k + 1))
			}
			for range kernels {
				s.first(0)
				op := s.board.Lane(0).First()
				s.b.g.Remove(op)
				op.Session.Issue(op, 3)
			}
			at := r.IntN(kernels)
			if i < 2 {
				at = i % kernels // at least two of them do not stand together
			}
			for k := range 6 * kernels {
				s.submit(uint32((at+k)%kernels + 1))
			}
		}
		for _, s := range all {
			s.first(0)
		}
		for i := range 4 * kernels * n {
			b.g.Begin(uint64(i + 1))
			s := b.g.Next(100, 0, false)
			if s == nil {
				t.Fatalf("seed %d: word %d waits", seed, i)
			}
			w, ok := b.g.Build(s)
			if !ok {
				t.Fatal("no batch is free")
			}
			if w.Len() == n {
				break
			}
			if i == kernels*n {
				t.Fatalf("seed %d: %d clients of %d kernels have not met after %d words", seed, n, kernels, i)
			}
			var ids []uint64
			for _, op := range w.Ops() {
				ids = append(ids, op.Session.ID)
				op.Session.Issue(op, 3)
			}
			b.g.Issued(&w, 100)
			for _, id := range ids {
				of[id].first(100)
			}
		}
	}
}

// While words wait for their driver calls an op waits for company, as long as its class lets it.
func TestBusyDriver(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 8, c))
	one, two := b.session(c), b.session(c)
	one.offer(launch{}, 0)
	two.offer(launch{}, 0)
	if ids := b.next(0); len(ids) != 2 {
		t.Fatalf("the first word holds %v", ids)
	}
	one.offer(launch{}, 1000)
	if s := b.g.Next(19_000, 2, false); s != nil {
		t.Error("an op went beside words that wait")
	}
	if s := b.g.Next(21_000, 2, false); s == nil {
		t.Error("an op was held for longer than the hold")
	}
	two.offer(launch{}, 2000)
	if s := b.g.Next(2000, 2, false); s == nil {
		t.Error("those expected are there, and do not go")
	}
}
