package sched

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

const (
	us = int64(1000)
	ms = 1000 * us
)

// words are lane words without a file.
type words struct{ lanes []shm.Lane }

func (w words) Lane(i uint32) *shm.Lane { return &w.lanes[i%uint32(len(w.lanes))] }

func (w words) SetError(uint32, uint32) bool { return false }

func newBoard(id uint64, slot int) *scoreboard.Session {
	b := scoreboard.New(id, words{make([]shm.Lane, shm.Lanes)})
	b.Slot = slot
	return b
}

// source is a client of the simulation: it submits requests of ops on some lanes, and waits for each request's last op.
type source struct {
	c     *Client
	board *scoreboard.Session
	lanes []simLane
	ops   int     // of a request, per lane
	cost  int64   // of an op
	gap   int64   // between requests, mean; 0: none
	next  int64   // when the next request begins
	left  int     // ops of the request under way that are not done
	flood bool    // never waits
	slow  float64 // how many times as long as estimated its ops take; 0: 1
	waits []int64 // how long the first op of each request that was alone in its class waited for others' on the chip
	user  *user   // replaces lanes, ops, cost, gap: who replays graphs; nil: none
}

type simLane struct {
	waiting  []*scoreboard.Op
	queued   bool
	inFlight int
	issued   uint32 // number that must be issued next
}

// flight is an op on the chip.
type flight struct {
	s    *source
	lane int
	cost int64
	end  int64
}

// sim is a chip that executes one op after another, in the order of issue, with the scheduler before it. Time is virtual.
type sim struct {
	t       *testing.T
	r       *rand.Rand
	s       *Scheduler
	sources []*source
	chip    []flight
	free    int64 // when the chip has done all that is issued
	now     int64
	n       uint64
	pool    []*scoreboard.Op
	issued  int
	gpu     map[*Class]int64
	longest map[*Class]int64 // wait
}

func newSim(t *testing.T, seed uint64) *sim {
	return &sim{t: t, r: rand.New(rand.NewPCG(seed, 7)), s: New(), gpu: map[*Class]int64{}, longest: map[*Class]int64{}}
}

func (m *sim) client(k *Class, lanes, ops int, cost, gap int64, flood bool) *source {
	id := len(m.sources)
	b := newBoard(uint64(id+1), id)
	src := &source{c: m.s.Attach(b, k), board: b, lanes: make([]simLane, lanes), ops: ops, cost: cost, gap: gap, flood: flood}
	src.next = m.now + m.r.Int64N(gap+1)
	m.sources = append(m.sources, src)
	return src
}

// submit writes a request's ops.
func (m *sim) submit(src *source) {
	for i := range src.lanes {
		l := &src.lanes[i]
		for range src.ops {
			var op *scoreboard.Op
			if n := len(m.pool); n > 0 {
				op, m.pool = m.pool[n-1], m.pool[:n-1]
			} else {
				op = &scoreboard.Op{}
			}
			m.n++
			board := src.board.Lane(uint32(i))
			board.Scanned++
			*op = scoreboard.Op{Session: src.board, Kind: shm.KindMemset, Lane: uint32(i), Seq: board.Scanned, Arrival: m.n}
			op.Cost = src.cost/2 + m.r.Int64N(src.cost)
			m.s.Arrive(src.c, op, m.now)
			l.waiting = append(l.waiting, op)
			src.left++
		}
	}
	if !src.flood {
		last := uint32(len(src.lanes) - 1)
		m.s.Wait(src.c, last, src.board.Lane(last).Scanned, m.now)
	}
}

// step completes what is done, submits what is due, and schedules, then goes to the next moment at which something happens.
func (m *sim) step() {
	for len(m.chip) > 0 && m.chip[0].end <= m.now {
		f := m.chip[0]
		m.chip = m.chip[1:]
		l := f.s.board.Lane(uint32(f.lane))
		l.Done++
		f.s.lanes[f.lane].inFlight--
		f.s.left--
		m.s.Completed(f.s.c, l, 1, m.now)
		if f.s.user != nil {
			f.s.user.completed(m, f.s)
			continue
		}
		if f.s.left == 0 && !f.s.flood {
			f.s.next = m.now
			if f.s.gap > 0 {
				f.s.next += int64(m.r.ExpFloat64() * float64(f.s.gap))
			}
		}
	}
	for _, src := range m.sources {
		if src.user != nil {
			src.user.step(m, src)
			continue
		}
		if src.flood && src.left < 64 || !src.flood && src.left == 0 && src.next <= m.now {
			m.submit(src)
		}
	}
	m.s.Begin(m.now, 0)
	m.offer()
	for {
		op := m.s.Next()
		if op == nil {
			break
		}
		m.issue(op)
		m.offer()
	}
	waits := 0
	for _, k := range m.s.classes {
		waits += k.queued
	}
	if waits != m.s.Len() {
		m.t.Fatalf("%d ops are ready; the scheduler holds %d", waits, m.s.Len())
	}
	if waits > 0 && len(m.chip) == 0 && !m.held() {
		m.t.Fatalf("at %d the chip is idle and %d ops are ready", m.now, waits)
	}
	at := int64(1) << 62
	if len(m.chip) > 0 {
		at = m.chip[0].end
	}
	for _, src := range m.sources {
		if src.user != nil {
			at = min(at, src.user.at)
		} else if !src.flood && src.left == 0 {
			at = min(at, src.next)
		}
	}
	if waits > 0 {
		at = min(at, m.now+ms) // held ops look again
		for _, k := range m.s.classes {
			if k.back > m.now {
				at = min(at, k.back)
			}
		}
	}
	m.now = max(at, m.now+1)
}

// held says whether every ready op is, or is behind, one that is longer than a class above it lets begin now, or waits for a shorter request.
func (m *sim) held() bool {
	for _, k := range m.s.classes {
		if k.lacking > 0 || m.now < k.back {
			return true
		}
		if len(k.heap) > 0 && k.heap[0].Cost > k.Longest {
			continue
		}
		for _, op := range k.heap {
			if op.Cost <= k.Longest && !op.Yields() {
				return false
			}
		}
	}
	return true
}

func (m *sim) offer() {
	const window = 4
	for _, src := range m.sources {
		for i := range src.lanes {
			l := &src.lanes[i]
			if len(l.waiting) == 0 || l.queued || l.inFlight >= window {
				continue
			}
			l.queued = true
			m.s.Ready(l.waiting[0], m.now)
			m.s.Add(l.waiting[0])
		}
	}
}

func (m *sim) issue(op *scoreboard.Op) {
	src := m.sources[op.Session.Slot]
	l := &src.lanes[op.Lane]
	if len(l.waiting) == 0 || l.waiting[0] != op {
		m.t.Fatalf("client %d lane %d: an op was issued that is not the lane's first", op.Session.Slot, op.Lane)
	}
	if l.issued++; op.Seq != l.issued {
		m.t.Fatalf("client %d lane %d: number %d was issued; want %d", op.Session.Slot, op.Lane, op.Seq, l.issued)
	}
	k := src.c.class
	// What is in flight below a class that is guarded never exceeds its bound by more than the op that was let in.
	for _, g := range m.s.classes {
		if (g.Latency == 0 && g.MaxWait == 0) || !g.isActive(m.now) || g.Settings.Priority <= k.Settings.Priority {
			continue
		}
		budget := g.MaxWait
		if budget == 0 {
			budget = DefaultWait
		}
		below := int64(0)
		for _, o := range m.s.classes {
			if o.Settings.Priority < g.Settings.Priority {
				below += o.inFlight
			}
		}
		if below > 0 && below >= budget && !k.pressed {
			m.t.Fatalf("%d ns of work below %s were in flight, of at most %d, and more was issued", below, g.Name, budget)
		}
		if g.MaxWait > 0 && g.open > 0 && m.now-g.active < midRequest && op.Cost > budget && !(k.MinShare > 0) && m.now-k.served <= Starving {
			m.t.Fatalf("an op of %d ns began below %s, which may wait %d", op.Cost, g.Name, budget)
		}
	}
	l.waiting = l.waiting[1:]
	l.queued = false
	l.inFlight++
	board := src.board.Lane(op.Lane)
	board.Issued++
	m.s.Issued(op, op.Cost, true, 1, m.now)
	if !src.flood && src.c.flying == 1 {
		src.waits = append(src.waits, max(m.free-m.now, 0))
	}
	took := op.Cost
	if src.slow > 0 {
		took = int64(float64(took) * src.slow)
	}
	m.free = max(m.free, m.now) + took
	m.chip = append(m.chip, flight{src, int(op.Lane), took, m.free})
	m.gpu[k] += took
	m.longest[k] = max(m.longest[k], m.now-op.ReadyAt)
	m.issued++
	m.pool = append(m.pool, op)
}

// steps is how many simulated ops each of these tests has: more at night.
func steps(n int) int {
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		return 20 * n
	}
	return n
}

// Random policies and loads: ops go in their lanes' order and once, the chip is never idle without cause, what is in flight below a
// class is bounded, and every class gets its turn.
func TestProperties(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newSim(t, seed)
			var classes []*Class
			for i := range 1 + m.r.IntN(6) {
				set := Settings{Priority: int32(m.r.IntN(4)), QueueDelay: 20 * us, Coalesce: true, DelayLate: m.r.IntN(2) == 0}
				if m.r.IntN(2) == 0 {
					set.Latency = ms << m.r.IntN(6)
				}
				if m.r.IntN(3) == 0 {
					set.MaxWait = 20 * us << m.r.IntN(5)
				}
				if m.r.IntN(3) == 0 {
					set.MinShare = 0.05
				}
				classes = append(classes, m.s.Set(fmt.Sprint("c", i), set))
			}
			for range 1 + m.r.IntN(20) {
				k := classes[m.r.IntN(len(classes))]
				m.client(k, 1+m.r.IntN(4), 1+m.r.IntN(30), 2*us<<m.r.IntN(7), int64(m.r.IntN(3))*ms, m.r.IntN(4) == 0)
			}
			for m.issued < steps(150_000) {
				m.step()
				if m.r.IntN(20_000) == 0 { // a reload
					k := classes[m.r.IntN(len(classes))]
					set := k.Settings
					set.Priority, set.Latency = int32(m.r.IntN(4)), ms*int64(m.r.IntN(20))
					m.s.Set(k.Name, set)
				}
				if m.r.IntN(20_000) == 0 {
					src := m.sources[m.r.IntN(len(m.sources))]
					m.s.Drop(src.c)
					for i := range src.lanes {
						src.lanes[i].queued = false
					}
					m.s.Move(src.c, classes[m.r.IntN(len(classes))])
				}
			}
			for k, w := range m.longest {
				// A class waits for at most Starving before it has a turn; within it clients take turns, each with all its lanes.
				// A client that is moved meanwhile begins to wait anew, as does a class that had none.
				if turns := int64(4*len(m.sources)) + 2; w > turns*Starving+Far {
					t.Errorf("an op of %s waited %d ms", k.Name, w/ms)
				}
			}
		})
	}
}

// Floods of a larger priority leave each class its min_share, and to a class without one its turn.
func TestMinShare(t *testing.T) {
	m := newSim(t, 1)
	top := m.s.Set("top", Settings{Priority: 10, Latency: 10 * ms})
	mid := m.s.Set("mid", Settings{Priority: 5, MinShare: 0.3})
	low := m.s.Set("low", Settings{Priority: 0, MinShare: 0.1})
	none := m.s.Set("none", Settings{Priority: -5})
	for _, k := range []*Class{top, top, mid, low, none} {
		m.client(k, 2, 10, 30*us, 0, true)
	}
	for m.issued < steps(300_000) {
		m.step()
	}
	total := float64(m.free)
	for k, want := range map[*Class]float64{mid: 0.3, low: 0.1} {
		if got := float64(m.gpu[k]) / total; got < 0.95*want || got > 1.2*want {
			t.Errorf("%s had %.3f of the chip; want %.2f", k.Name, got, want)
		}
	}
	if got := float64(m.gpu[top]) / total; got < 0.5 {
		t.Errorf("top had %.3f", got)
	}
	if w := m.longest[none]; w > 3*Starving || m.gpu[none] == 0 {
		t.Errorf("none waited %d ms, and had %d µs", w/ms, m.gpu[none]/us)
	}
}

// Without objectives clients share the chip evenly, however many lanes they have and however long their ops are.
func TestFair(t *testing.T) {
	m := newSim(t, 2)
	k := m.s.Set("default", Settings{Coalesce: true})
	m.client(m.s.Set("other", Settings{Priority: 9, Latency: ms}), 1, 1, us, ms, false) // so that little is in flight
	a := m.client(k, 1, 1, 40*us, 0, true)
	b := m.client(k, 8, 4, 10*us, 0, true)
	had := map[*source]int64{}
	for m.issued < steps(100_000) {
		m.step()
	}
	for _, src := range []*source{a, b} {
		for i := range src.lanes {
			had[src] += int64(src.lanes[i].issued) * src.cost
		}
	}
	if share := float64(had[a]) / float64(had[a]+had[b]); share < 0.4 || share > 0.6 {
		t.Errorf("one lane against eight had %.2f of the chip", share)
	}
}

// Beside a flood of long and short ops of a lower class, a client with an objective takes hardly longer than alone; least slack
// meets objectives that turns do not.
func TestObjectives(t *testing.T) {
	alone := newSim(t, 3)
	k := alone.s.Set("interactive", Settings{Priority: 10, Latency: 5 * ms, MaxWait: 100 * us})
	alone.client(k, 1, 50, 20*us, 2*ms, false)
	beside := newSim(t, 3)
	kb := beside.s.Set("interactive", Settings{Priority: 10, Latency: 5 * ms, MaxWait: 100 * us})
	beside.client(kb, 1, 50, 20*us, 2*ms, false)
	low := beside.s.Set("batch", Settings{Priority: 0})
	beside.client(low, 3, 20, 400*us, 0, true)
	for alone.issued < steps(50_000) {
		alone.step()
	}
	for beside.issued < steps(50_000) {
		beside.step()
	}
	mean := func(k *Class) float64 { return float64(k.Stats.Latency.Sum) / float64(k.Stats.Requests) }
	if a, b := mean(k), mean(kb); b > 2*a {
		t.Errorf("a request takes %.0f µs beside the flood, %.0f alone", b/1e3, a/1e3)
	}
	if low.Stats.Ops == 0 || float64(low.Stats.GPU) < 0.3*float64(beside.free) {
		t.Errorf("the flood had %.2f of the chip", float64(low.Stats.GPU)/float64(beside.free))
	}
	if kb.Stats.Attained*100 < kb.Stats.Requests*99 {
		t.Errorf("%d of %d requests met their objective", kb.Stats.Attained, kb.Stats.Requests)
	}
}
