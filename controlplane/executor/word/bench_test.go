package word

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// meeting is clients with one graph each of 10 µs, and what becomes of the words that are asked for.
type meeting struct {
	*bench
	all     []*session
	graphs  []*scoreboard.Graph // theirs
	asked   []*scoreboard.GraphWord
	retired []*scoreboard.GraphWord
	refuse  bool
	now     int64
	takes   map[bool]int64 // how long the launches take, joined or not
	// coalesced is how long they take with alike nodes as one, of words where that was done.
	coalesced int64
	code      *scoreboard.Code // of all graphs' kernels
}

func newMeeting(t testing.TB, clients int) *meeting {
	m := &meeting{
		bench: newBench(t, scoreboard.NewDemand()), takes: map[bool]int64{true: 10_000, false: 20_000}, now: 1 << 30,
		code: &scoreboard.Code{ID: 1},
	}
	m.g.JoinGraphs(GraphsOptions{
		Ask:    func(w *scoreboard.GraphWord) bool { m.asked = append(m.asked, w); return !m.refuse },
		Retire: func(w *scoreboard.GraphWord) { m.retired = append(m.retired, w) },
	})
	for range clients {
		m.enter()
	}
	return m
}

func (m *meeting) enter() *session {
	s := m.session(nil)
	g := &scoreboard.Graph{ID: 1, Nodes: 8, Kernels: 7, Weight: 0.1, Exec: 1, Launched: seatAfter, Key: 1}
	g.Codes = []scoreboard.CodeCount{{Code: m.code, Count: 7, Flat: true}}
	g.Took(10_000, false)
	s.board.AddGraph(g)
	m.all, m.graphs = append(m.all, s), append(m.graphs, g)
	return s
}

// ready has a client's launch become ready; nil: it is not held.
func (m *meeting) ready(s *session, level int) (*scoreboard.Op, bool) {
	m.t.Helper()
	s.seq[0]++
	body, _, ok := s.out.Begin(shm.Header{Kind: shm.KindGraph, Seq: s.seq[0]}, 16)
	if !ok {
		m.t.Fatal("no room")
	}
	shm.Put(body, shm.GraphLaunch{Graph: 1})
	s.out.Publish()
	v, ok, err := s.ring.Next()
	if err != nil || !ok {
		m.t.Fatal(ok, err)
	}
	m.n++
	if _, _, err := s.board.Accept(v, m.n); err != nil {
		m.t.Fatal(err)
	}
	op := s.board.Ready(s.board.Lane(0))
	op.ReadyAt = m.now
	return op, m.g.Add(op, level)
}

// build does what was asked for.
func (m *meeting) build() {
	for _, w := range m.asked {
		if !w.Dropped.Load() && !w.Refused.Load() {
			w.Built.Store(true)
		}
	}
}

// end has launches end.
func (m *meeting) end(ops []*scoreboard.Op) {
	for _, op := range ops {
		l := op.Session.Lane(0)
		l.Signalled = op.Seq
		for _, s := range m.all {
			if s.board == op.Session {
				shm.StoreRelease32(&s.file.Lane(0).Done, op.Seq)
			}
		}
		if _, ok := op.Session.Poll(l); !ok {
			m.t.Fatal("the done word is refused")
		}
		op.Session.Release()
	}
}

// round has some clients launch once, all at the same time, and end. It gives the widths of the words; 1 is a launch by itself.
func (m *meeting) round(who ...int) (widths []int) {
	m.t.Helper()
	var alone []*scoreboard.Op
	m.g.Begin(m.n)
	for _, i := range who {
		if op, held := m.ready(m.all[i], 0); !held {
			alone = append(alone, op)
		}
	}
	var teams [][]*scoreboard.Op
	coalesced := false
	for range 1000 {
		b := m.g.NextBench(m.now, false, false)
		if b == nil && m.g.GraphsWaiting() == 0 {
			break
		}
		if b == nil {
			m.now += 1000
			continue
		}
		t, apart := m.g.Team(b, m.now)
		for _, op := range apart {
			if !m.g.Remove(op) {
				m.t.Fatal("a launch that is to go by itself was not there")
			}
			alone = append(alone, op)
		}
		if t != nil {
			ops := slices.Clone(t.Ops[:t.Count])
			t.Of.Coalesced = make([]int, t.Count)
			coalesced = coalesced || t.Of.Coalesce
			for _, op := range ops {
				op.Session.Issue(op, 1)
			}
			m.g.TeamIssued(t, m.now)
			teams = append(teams, ops)
			widths = append(widths, len(ops))
		}
	}
	if n := m.g.GraphsWaiting(); n > 0 {
		m.t.Fatalf("%d launches wait for ever", n)
	}
	for range alone {
		widths = append(widths, 1)
	}
	for _, op := range alone {
		op.Session.Issue(op, 2)
		op.Graph.Launched++
	}
	if coalesced {
		m.now += m.coalesced
	} else {
		m.now += m.takes[len(alone) == 0]
	}
	m.end(alone)
	for _, ops := range teams {
		m.end(ops)
	}
	m.g.Look(m.now)
	m.now += 1 << seenBits // the next moment
	return widths
}

func (m *meeting) everybody() (who []int) {
	for i := range m.all {
		who = append(who, i)
	}
	return who
}

// until has all launch until the widths are as wanted.
func (m *meeting) until(want []int, who ...int) {
	m.t.Helper()
	var got []int
	for range 200 {
		if got = m.round(who...); slices.Equal(got, want) {
			return
		}
		m.build()
	}
	m.t.Fatalf("widths %v; want %v", got, want)
}

// All that meet go in one word; without some the others go in the words of halves, quarters, … that they fill.
func TestBenchBlocks(t *testing.T) {
	m := newMeeting(t, 6)
	m.until([]int{6}, m.everybody()...)
	m.until([]int{4}, 0, 1, 2, 3)
	m.until([]int{2, 2}, 0, 1, 4, 5)
	m.until([]int{4, 1}, 0, 1, 2, 3, 5)
	m.until([]int{6}, m.everybody()...)
	if words, chains, _ := m.g.GraphWords(); words > 2*6 || chains > 4*6 {
		t.Errorf("%d words of %d graphs for six", words, chains)
	}
	if m.g.graphs.waiting != 0 {
		t.Errorf("%d wait", m.g.graphs.waiting)
	}
}

// A word that is no faster than its launches apart is given up, and tried again ever more rarely.
func TestBenchPays(t *testing.T) {
	m := newMeeting(t, 2)
	m.takes[true] = m.takes[false]
	for range 100 {
		m.round(0, 1)
		m.build()
	}
	c := m.g.GraphCounters()
	if c.Unpaid != 1 || len(m.asked) != 1 || len(m.retired) != 1 {
		t.Fatalf("%+v, %d asked for, %d given up; want one, which did not pay", c, len(m.asked), len(m.retired))
	}
	if got := m.round(0, 1); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("widths %v after the word was given up", got)
	}
	m.now += unpaid
	for range 100 {
		m.round(0, 1)
		m.build()
	}
	if c = m.g.GraphCounters(); c.Unpaid != 2 {
		t.Errorf("%+v; want it tried once more", c)
	}
	m.now += unpaid // now twice as long
	for range 100 {
		m.round(0, 1)
		m.build()
	}
	if c = m.g.GraphCounters(); c.Unpaid != 2 {
		t.Errorf("%+v; want it left in peace for longer", c)
	}
	m.now += 2 * unpaid
	m.takes[true] /= 2
	m.until([]int{2}, 0, 1)
	joined := 0
	for range 200 {
		if m.round(0, 1)[0] == 2 {
			joined++
		}
	}
	if joined < 190 {
		t.Errorf("%d of 200 rounds joined when it pays", joined)
	}
}

// publish makes a form of the graphs' kernel.
func (m *meeting) publish(mapping coalesce.Mapping, capacity int) *scoreboard.Form {
	f := &scoreboard.Form{Layout: coalesce.Layout{Mapping: mapping, Capacity: capacity}, Bodies: []*scoreboard.Code{m.code}}
	scoreboard.Publish(f)
	return f
}

// rounds has all launch so often, and builds what is asked for. It gives how many of the words were coalesced.
func (m *meeting) rounds(n int) uint64 {
	before := m.g.GraphCounters().Coalesced.Words
	for range n {
		m.round(m.everybody()...)
		m.build()
	}
	return m.g.GraphCounters().Coalesced.Words - before
}

// Forms of what several graphs do alike are asked for. With them the word is made once more, and goes as whichever is measured to take
// less time; with better forms it is made anew.
func TestBenchCoalesced(t *testing.T) {
	m := newMeeting(t, 10)
	m.coalesced = 5_000
	m.rounds(200)
	small, ok := m.g.options.Demand.Next()
	if !ok || small.Bodies[0] != m.code || small.Mapping != coalesce.ByZ || small.Capacity != scoreboard.SmallCapacity {
		t.Fatalf("%+v, %v; want a small form by z", small, ok)
	}
	if large, ok := m.g.options.Demand.Next(); !ok || large.Capacity != scoreboard.LargeCapacity {
		t.Fatalf("%+v, %v; want a large form too: there are 10", large, ok)
	}
	if c := m.g.GraphCounters().Coalesced; c != (CoalescedCounters{}) {
		t.Fatalf("%+v without a form", c)
	}
	m.publish(coalesce.ByZ, scoreboard.SmallCapacity)
	if n := m.rounds(200); n < 150 {
		t.Errorf("%d of 200 rounds coalesced when it pays", n)
	}
	asked := len(m.asked)
	m.publish(coalesce.ByZ, scoreboard.LargeCapacity)
	if n := m.rounds(200); n < 150 || len(m.asked) != asked+1 || len(m.retired) != 1 {
		t.Errorf("%d of 200 rounds coalesced, %d words asked for, %d given up; want one anew with the larger form", n, len(m.asked)-asked, len(m.retired))
	}
	if words, _, coalesced := m.g.GraphWords(); words != 1 || coalesced != 1 {
		t.Errorf("%d words, %d coalesced", words, coalesced)
	}
	// The way back: it takes longer now.
	m.coalesced = 10_000
	m.rounds(800)
	c := m.g.GraphCounters()
	if c.Coalesced.Unpaid == 0 || c.Unpaid != 0 {
		t.Errorf("%+v; want coalescing given up, and the word kept", c)
	}
	if n := m.rounds(40); n > 20 {
		t.Errorf("%d of 40 rounds coalesced when it does not pay", n)
	}
	m.g.ForgetGraphs(m.all[0].board, true)
	for _, w := range m.asked {
		if w.Built.Load() && !w.Dropped.Load() {
			t.Error("a word with a graph that is gone is kept")
		}
	}
}

// A word whose chains side by side are no faster than its launches apart is kept while it pays coalesced.
func TestBenchCoalescedPays(t *testing.T) {
	m := newMeeting(t, 4)
	m.takes[true] = m.takes[false]
	m.coalesced = m.takes[false] / 2
	m.publish(coalesce.ByTable, 4)
	if n := m.rounds(400); n < 300 {
		t.Errorf("%d of 400 rounds coalesced; %+v", n, m.g.GraphCounters())
	}
	for _, w := range m.asked {
		w.Refused.Store(true) // by the driver, later
	}
	if n := m.rounds(100); n != 0 {
		t.Errorf("%d rounds with words that were refused", n)
	}
	for i, g := range m.graphs { // what they do is not alike any more
		g.Key = uint64(i)
	}
	m.now += 2 * unpaidMost
	if m.rounds(200); len(m.asked) == 0 || m.asked[len(m.asked)-1].Coalesce {
		t.Errorf("%d words asked for; want none coalesced", len(m.asked))
	}
}

// What cannot be joined is not held, and it is said why.
func TestBenchReasons(t *testing.T) {
	for why, change := range map[scoreboard.ApartReason]func(*session, *scoreboard.Graph){
		scoreboard.ReasonClass:     func(s *session, _ *scoreboard.Graph) { s.board.Class = &scoreboard.Class{Apart: true} },
		scoreboard.ReasonStraggler: func(s *session, _ *scoreboard.Graph) { s.board.Straggler = scoreboard.Tried },
		scoreboard.ReasonExcluded:  func(s *session, _ *scoreboard.Graph) { s.board.GraphsApart = true },
		scoreboard.ReasonCost:      func(_ *session, g *scoreboard.Graph) { g.Weight = 100 },
		scoreboard.ReasonParts: func(s *session, g *scoreboard.Graph) {
			s.board.Class = &scoreboard.Class{Slice: 1}
			g.Parts = &scoreboard.GraphParts{}
		},
		scoreboard.ReasonNoWord: func(_ *session, g *scoreboard.Graph) { g.Launched = seatAfter - 1 },
	} {
		m := newMeeting(t, 3)
		m.until([]int{3}, 0, 1, 2)
		op, held := m.ready(m.all[0], 0)
		if !held || !m.g.Remove(op) {
			t.Fatal("a launch that can be joined was not held")
		}
		change(m.all[0], op.Graph)
		if before := m.all[0].board.ApartGraphs[why]; m.g.Add(op, 0) || m.all[0].board.ApartGraphs[why] != before+1 {
			t.Errorf("%s: held, or another reason: %v", scoreboard.ApartReasons[why], m.all[0].board.ApartGraphs)
		}
	}
}

// Launches of another level of urgency do not meet these; a class above bounds how many go together.
func TestBenchBounds(t *testing.T) {
	m := newMeeting(t, 4)
	m.until([]int{4}, 0, 1, 2, 3)
	class := &scoreboard.Class{Longest: 1 << 40, Slice: 2500} // of the whole chip; a launch takes 1000
	for _, s := range m.all {
		s.board.Class = class
	}
	m.until([]int{2, 2}, 0, 1, 2, 3)
	class.Slice = 0
	m.until([]int{4}, 0, 1, 2, 3)
	class.Longest = 500
	for _, s := range m.all {
		if _, held := m.ready(s, 0); !held {
			t.Fatal("not held")
		}
	}
	if b := m.g.NextBench(m.now+1<<30, false, true); b != nil {
		t.Error("launches of a class that may not go went")
	}
	class.Longest = 1 << 40
	b := m.g.NextBench(m.now+1<<30, false, false)
	if b == nil {
		t.Fatal("launches that may go do not")
	}
	if team, apart := m.g.Team(b, m.now); len(apart) != 4 && (team == nil || team.Count != 4) { // apart: it is the turn to measure that
		t.Errorf("%+v, %d apart; want all four", team, len(apart))
	}
	m = newMeeting(t, 2)
	m.until([]int{2}, 0, 1)
	m.ready(m.all[0], 0)
	if _, held := m.ready(m.all[1], 1); held {
		t.Error("a launch of another level waits for company that it had at its old one")
	}
}

// A graph whose client has a launch ready on another stream goes by itself: its kernels may wait for that one, and whoever went with it is
// behind it then.
func TestBenchBeside(t *testing.T) {
	m := newMeeting(t, 2)
	m.until([]int{2}, 0, 1)
	for _, s := range m.all {
		if _, held := m.ready(s, 0); !held {
			t.Fatal("not held")
		}
	}
	m.all[0].offer(launch{lane: 1, blocks: 1}, m.now)
	m.all[0].board.Lane(1).Queued = true
	for _, why := range []scoreboard.ApartReason{scoreboard.ReasonExcluded, scoreboard.ReasonNoWord} {
		b := m.g.NextBench(m.now+1<<30, false, true)
		if b == nil {
			t.Fatal("nobody goes")
		}
		by := b.Lead().Session
		before := by.ApartGraphs[why]
		team, apart := m.g.Team(b, m.now)
		if team != nil || len(apart) != 1 || by.ApartGraphs[why] != before+1 {
			t.Fatalf("%+v, %d apart, %v; want one that goes by itself: %s", team, len(apart), by.ApartGraphs, scoreboard.ApartReasons[why])
		}
		m.g.Remove(apart[0])
	}
}

// Graphs that nobody launches any more keep no bench from others.
func TestBenchIdle(t *testing.T) {
	m := newMeeting(t, maxBenches+2)
	for i := range maxBenches {
		m.ready(m.all[i], i) // of a level that nobody else has
	}
	if len(m.g.graphs.benches) != maxBenches {
		t.Fatalf("%d benches", len(m.g.graphs.benches))
	}
	late := m.all[maxBenches:]
	if op, _ := m.ready(late[0], maxBenches); op.Session.ApartGraphs[scoreboard.ReasonFull] != 1 {
		t.Errorf("%v; want no room while the others are launched", op.Session.ApartGraphs)
	}
	m.now += 2 * idleSeat
	if op, _ := m.ready(late[1], maxBenches); op.Session.ApartGraphs[scoreboard.ReasonFull] != 0 {
		t.Errorf("%v; want room where nobody is any more", op.Session.ApartGraphs)
	}
}

// Any clients that come, launch, and go: nothing waits for ever, every launch goes once, and words are bounded and given up with
// their graphs.
func TestBenchAnyClients(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 9))
		m := newMeeting(t, 2+r.IntN(20))
		if seed%5 == 4 {
			m.refuse = true
		}
		for range 150 {
			switch r.IntN(12) {
			case 0:
				if len(m.all) < 80 {
					m.enter()
				}
			case 1:
				if len(m.all) > 2 {
					i := r.IntN(len(m.all))
					m.g.ForgetGraphs(m.all[i].board, true)
					m.all = slices.Delete(m.all, i, i+1)
				}
			case 2:
				m.now += int64(r.IntN(2)) * idleSeat
			case 3:
				for _, w := range m.asked {
					if r.IntN(30) == 0 {
						w.Refused.Store(true)
					}
				}
			}
			var who []int
			for i := range m.all {
				if r.IntN(8) > 0 {
					who = append(who, i)
				}
			}
			sum := 0
			for _, n := range m.round(who...) {
				sum += n
			}
			if sum != len(who) {
				t.Fatalf("seed %d: %d launches went of %d", seed, sum, len(who))
			}
			m.build()
		}
		if words, _, _ := m.g.GraphWords(); words > mostWords*len(m.g.graphs.benches) {
			t.Errorf("seed %d: %d words", seed, words)
		}
		for _, s := range m.all {
			m.g.ForgetGraphs(s.board, true)
		}
		if words, _, _ := m.g.GraphWords(); words != 0 {
			t.Errorf("seed %d: %d words of no graphs", seed, words)
		}
		given := map[*scoreboard.GraphWord]bool{}
		for _, w := range m.retired {
			if given[w] {
				t.Errorf("seed %d: a word was given up twice", seed)
			}
			given[w] = true
		}
		for _, b := range m.g.graphs.benches {
			if b.taken != 0 || b.ready != 0 || bits.OnesCount64(b.covered) != 0 {
				t.Errorf("seed %d: a bench is not empty: %x %x %x", seed, b.taken, b.ready, b.covered)
			}
		}
	}
}

// The way of an op that goes in a word of graphs allocates nothing.
func TestBenchAllocations(t *testing.T) {
	m := newMeeting(t, 8)
	m.g.graphs.options.Always = true
	m.until([]int{8}, m.everybody()...)
	ops := make([]*scoreboard.Op, len(m.all))
	for i, s := range m.all {
		ops[i], _ = m.ready(s, 0)
		if !m.g.Remove(ops[i]) {
			t.Fatal("not held")
		}
	}
	n := testing.AllocsPerRun(100, func() {
		for _, op := range ops {
			op.ReadyAt = m.now
			if !m.g.Add(op, 0) {
				t.Fatal("not held")
			}
		}
		team, _ := m.g.Team(m.g.NextBench(m.now, false, false), m.now)
		if team == nil || team.Count != len(ops) {
			t.Fatal("no word")
		}
		m.g.TeamIssued(team, m.now)
		m.now += 1 << seenBits
	})
	if n > 0 {
		t.Errorf("%v allocations a word", n)
	}
}

// What a launch in a word of 32 graphs costs the poller's thread here, without the issue engine.
func BenchmarkTeam(b *testing.B) {
	m := newMeeting(b, 32)
	m.g.graphs.options.Always = true
	m.until([]int{32}, m.everybody()...)
	ops := make([]*scoreboard.Op, len(m.all))
	for i, s := range m.all {
		ops[i], _ = m.ready(s, 0)
		m.g.Remove(ops[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += len(ops) {
		for _, op := range ops {
			op.ReadyAt = m.now
			m.g.Add(op, 0)
		}
		team, _ := m.g.Team(m.g.NextBench(m.now, false, false), m.now)
		m.g.TeamIssued(team, m.now)
		m.now += 60_000
	}
}
