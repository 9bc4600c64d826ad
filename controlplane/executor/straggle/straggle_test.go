package straggle

import (
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

const ms = int64(1e6)

// group is clients that launch alike, of which some take longer.
type group struct {
	t      *testing.T
	w      Watch
	boards []*scoreboard.Session
	all    []*Client
	slow   []float64 // by client
	now    int64
	known  bool // what the ops should take
	odd    int  // every so many-th measurement of each kind of word is off by a thousand times, 0: none
	seen   [9]int
	r      *rand.Rand
}

func newGroup(t *testing.T, slow ...float64) *group {
	g := &group{t: t, slow: slow, known: true, r: rand.New(rand.NewPCG(1, 1))}
	for i := range slow {
		b := scoreboard.Bare(uint64(i+1), 1)
		b.Slot = i
		g.boards = append(g.boards, b)
		c := g.w.Attach(b)
		c.Factor(3, false)
		g.all = append(g.all, c)
	}
	return g
}

// run has the clients launch for a time: those that are served as everybody in one word, the others by themselves.
func (g *group) run(length int64) {
	measure := func(of []*scoreboard.Session, lateness float64) {
		kind := len(g.seen) - 1 // of several
		if len(of) == 1 {
			kind = of[0].Slot
		}
		if g.seen[kind]++; g.odd > 0 && g.seen[kind]%g.odd == 0 {
			lateness *= 1000
		}
		g.w.Sample(of, lateness)
	}
	for end := g.now + length; g.now < end; g.now += ms {
		var word []*scoreboard.Session
		late := 0.0
		for i, b := range g.boards {
			lateness := g.slow[i] * (0.9 + 0.2*g.r.Float64())
			if b.Quarter {
				continue // what runs on a part of the SMs is not measured
			}
			if b.Straggler != scoreboard.Free {
				g.known = true
				measure([]*scoreboard.Session{b}, lateness)
				continue
			}
			word = append(word, b)
			late = max(late, lateness)
		}
		if !g.known {
			late = 0
		}
		measure(word, late)
		g.w.Look(g.now)
	}
}

func (g *group) want(what string, want ...scoreboard.Straggling) {
	g.t.Helper()
	for i, b := range g.boards {
		if b.Straggler != want[i] {
			alone := g.all[i].Late()
			g.t.Errorf("%s: client %d is served %d; want %d. Alone it is %.2f times late, its words %.2f", what, i, b.Straggler, want[i], alone, g.all[i].together.v)
		}
	}
}

const (
	free    = scoreboard.Free
	evicted = scoreboard.Evicted
	limited = scoreboard.Limited
)

// One of eight makes all words late. It alone is taken out, and comes back when it behaves; when it does not for long, later each time.
func TestEviction(t *testing.T) {
	g := newGroup(t, 1, 1, 1, 1, 1, 10, 1, 1)
	g.run(400 * ms)
	g.want("one is slow", free, free, free, free, free, evicted, free, free)
	if g.w.Evictions != 1 || g.all[5].Evictions != 1 || g.boards[5].Slow < 5 {
		t.Errorf("%d evictions, of it %d; it counts for %.1f", g.w.Evictions, g.all[5].Evictions, g.boards[5].Slow)
	}
	g.slow[5] = 1
	g.run(3000 * ms)
	g.want("it behaves", free, free, free, free, free, free, free, free)
	if g.w.Returns != 1 || g.boards[5].Slow != 1 {
		t.Errorf("%d returns; it counts for %.1f", g.w.Returns, g.boards[5].Slow)
	}
	g.slow[5] = 10
	g.run(1000 * ms)
	g.want("again", free, free, free, free, free, evicted, free, free)
	g.slow[5] = 1
	g.run(900 * ms)
	g.want("it stays away for longer", free, free, free, free, free, evicted, free, free)
}

// Nobody is taken out because all are slow, because one is a little, or because nobody knows what is usual.
func TestAcquittal(t *testing.T) {
	g := newGroup(t, 1, 1, 1, 1)
	g.known = false
	g.run(2000 * ms)
	g.want("unknown", free, free, free, free)
	if !g.known {
		t.Error("nobody was tried, so what ops should take is still not known")
	}
	for i := range g.slow {
		g.slow[i] = 20
	}
	g.run(5000 * ms)
	for i := range g.slow {
		g.slow[i] = 1
	}
	g.slow[2] = 2
	g.run(20_000 * ms) // long enough for those to come back that looked slow while not all were known to be
	g.want("a little", free, free, free, free)
	for _, c := range g.all {
		c.Factor(0, false)
	}
	g.slow[2] = 100
	g.run(2000 * ms)
	g.want("tolerated", free, free, free, free)
}

// Measurements that are far off, now and then, take nobody out and hide nobody: an issue thread, or a GPU, that somebody else had meanwhile.
func TestOdd(t *testing.T) {
	for odd := 3; odd < 8; odd++ {
		g := newGroup(t, 1, 1, 1, 1, 1, 1)
		g.odd = odd
		g.run(3000 * ms)
		g.want("alike", free, free, free, free, free, free)
		if g.w.Evictions != 0 {
			t.Errorf("one of %d is off: %d evictions", odd, g.w.Evictions)
		}
		g.slow[4] = 10
		g.run(400 * ms)
		g.want("one is slow", free, free, free, free, evicted, free)
		g.slow[4] = 1
		g.run(3000 * ms)
		g.want("it behaves", free, free, free, free, free, free)
	}
}

// A straggler apart whose ops still slow the others is limited, and comes back a step at a time; a policy that tolerates it ends that.
func TestLimits(t *testing.T) {
	g := newGroup(t, 1, 1, 8)
	g.run(300 * ms)
	g.want("slow", free, free, evicted)
	l := g.boards[2].Lane(0)
	for range 40 {
		l.Issued = 1 // and not done
		g.slow[0], g.slow[1] = 2, 2
		g.run(ms)
		l.Issued = 0
		g.slow[0], g.slow[1] = 1, 1
		g.run(ms)
	}
	g.want("others are slowed beside it", free, free, limited)
	g.slow[2] = 1
	g.run(1500 * ms)
	if g.boards[2].Straggler == limited {
		t.Error("it is still limited")
	}
	g.run(3000 * ms)
	g.want("it behaves", free, free, free)
	g.slow[2] = 8
	g.run(1000 * ms)
	g.want("again", free, free, evicted)
	g.all[2].Factor(0, false)
	g.run(50 * ms)
	g.want("tolerated", free, free, free)
}

// Where the policy allows it, a limited straggler beside which others are late still goes to its own context, whether anything is measured
// then or not it comes back limited when its time is over, which is twice as long the next time, and at once when the policy changes.
func TestOwnContext(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		g := newGroup(t, 1, 1, 8)
		g.all[2].Factor(3, allowed)
		l := g.boards[2].Lane(0)
		// hinder has the others suffer while the straggler has ops in flight, until it is served otherwise.
		hinder := func(until scoreboard.Straggling) {
			for range 200 {
				l.Issued = 1
				g.slow[0], g.slow[1] = 2, 2
				g.run(ms)
				l.Issued = 0
				g.slow[0], g.slow[1] = 1, 1
				g.run(ms)
				if g.boards[2].Straggler == until {
					return
				}
			}
		}
		g.run(300 * ms)
		g.want("slow", free, free, evicted)
		hinder(limited)
		g.want("others are slowed beside it", free, free, limited)
		hinder(scoreboard.Sent)
		if !allowed {
			g.want("it may not be sent away", free, free, limited)
			continue
		}
		g.want("they still are", free, free, scoreboard.Sent)
		gone := func() int64 {
			since := g.now
			for g.boards[2].Straggler == scoreboard.Sent && g.now < since+200*1000*ms {
				g.now += ms
				g.w.Look(g.now) // nothing is measured
			}
			g.want("its time is over", free, free, limited)
			return g.now - since
		}
		first := gone()
		hinder(scoreboard.Sent)
		g.want("it has not changed", free, free, scoreboard.Sent)
		if second := gone(); first < away-20*ms || second < 2*first-20*ms {
			t.Errorf("it was away for %d ms, then %d", first/ms, second/ms)
		}
		hinder(scoreboard.Sent)
		g.all[2].Factor(3, false)
		g.run(50 * ms)
		g.want("it may not be sent away any more", free, free, limited)
		if g.w.Sent != 3 || g.w.Limits != 1 {
			t.Errorf("sent %d times, limited %d times", g.w.Sent, g.w.Limits)
		}
	}
}

// Where the SMs can be divided, who is limited has a quarter of them, until its time is over; then it is measured on all, and goes back
// for twice as long, or a step further if it behaves.
func TestQuarter(t *testing.T) {
	g := newGroup(t, 1, 1, 8)
	g.all[2].Divide(true)
	l, b := g.boards[2].Lane(0), g.boards[2]
	g.run(300 * ms)
	g.want("slow", free, free, evicted)
	for i := 0; i < 200 && b.Straggler != limited; i++ {
		l.Issued, g.slow[0], g.slow[1] = 1, 2, 2
		g.run(ms)
		l.Issued, g.slow[0], g.slow[1] = 0, 1, 1
		g.run(ms)
	}
	g.want("others are slowed beside it", free, free, limited)
	// confined is how long it is from now on.
	confined := func() int64 {
		t.Helper()
		since := g.now
		for b.Quarter && g.now < since+100*1000*ms {
			g.run(ms)
		}
		return g.now - since
	}
	first := confined()
	g.run(30 * ms) // it is measured, and as slow as before
	if !b.Quarter || b.Slow < 7 {
		t.Errorf("still slow, it has the whole chip; it counts for %.1f", b.Slow)
	}
	g.want("still slow", free, free, limited)
	second := confined()
	if first < away-20*ms || second < 2*away-50*ms {
		t.Errorf("it was confined for %d ms, then for %d", first/ms, second/ms)
	}
	g.run(30 * ms)
	g.slow[2] = 1
	confined()
	g.run(30 * ms)
	g.want("it behaves", free, free, evicted)
	if b.Quarter {
		t.Error("it behaves, and is confined")
	}
	g.run(300 * 1000 * ms)
	g.want("long afterwards", free, free, free)
	g.all[2].Factor(0, false)
	g.run(50 * ms)
	if b.Quarter || g.w.Limits != 1 {
		t.Errorf("limited %d times", g.w.Limits)
	}
}

// Whatever is measured, in whatever order, clients come and go: no panic, at most one trial at a time, no straggler where tolerated.
func TestAnything(t *testing.T) {
	steps := 200_000
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		steps *= 50
	}
	r := rand.New(rand.NewPCG(2, 2))
	w := Watch{}
	boards := make([]*scoreboard.Session, 12)
	clients := make([]*Client, len(boards))
	odd := []float64{0, -1, math.NaN(), math.Inf(1), 1e-300, 1e300}
	for now := int64(0); steps > 0; steps-- {
		now += r.Int64N(3 * ms)
		i := r.IntN(len(boards))
		switch {
		case boards[i] == nil || r.IntN(500) == 0:
			if boards[i] != nil {
				w.Detach(boards[i])
			}
			boards[i] = scoreboard.Bare(r.Uint64(), 1)
			boards[i].Slot = i
			clients[i] = w.Attach(boards[i])
		case r.IntN(100) == 0:
			clients[i].Factor([]float64{0, 1.5, 3, 100}[r.IntN(4)], r.IntN(2) == 0)
			clients[i].Divide(r.IntN(3) > 0)
		}
		var of []*scoreboard.Session
		for range r.IntN(5) {
			if b := boards[r.IntN(len(boards))]; b != nil {
				of = append(of, b)
			}
		}
		late := r.ExpFloat64() * 3
		if r.IntN(50) == 0 {
			late = odd[r.IntN(len(odd))]
		}
		w.Sample(of, late)
		if r.IntN(100) == 0 {
			now -= r.Int64N(1e9) // a clock that jumps back
		}
		w.Look(now)
		tried := 0
		for _, b := range boards {
			if b == nil {
				continue
			}
			if b.Straggler == scoreboard.Tried {
				tried++
			}
			if b.Quarter && b.Straggler != limited {
				t.Fatalf("confined, it is served %d", b.Straggler)
			}
			if b.Straggler != free && (math.IsNaN(b.Slow) || b.Slow < 1) {
				t.Fatalf("a client counts for %v", b.Slow)
			}
		}
		if tried > 1 {
			t.Fatalf("%d are tried at a time", tried)
		}
	}
}

// A trial ends with the measurement that decides it, and not when clients are next judged: while it lasts its client is out of step, and
// one op at a time.
func TestTrialIsShort(t *testing.T) {
	g := newGroup(t, 1, 1)
	g.known = false
	for g.boards[0].Straggler == scoreboard.Free {
		g.w.Sample(g.boards, 0)
		g.now += lookEvery / 4
		g.w.Look(g.now)
		if g.now > 10*lookEvery {
			t.Fatal("nobody was tried")
		}
	}
	if !g.boards[0].Straggler.Single() {
		t.Error("who is tried may have many ops in flight")
	}
	for i := range sure {
		if g.w.Look(g.now) || g.boards[0].Straggler != scoreboard.Tried {
			t.Fatalf("the trial ended after %d measurements", i)
		}
		g.w.Sample(g.boards[:1], 1)
	}
	if !g.w.Look(g.now) || g.boards[0].Straggler != scoreboard.Free || g.boards[1].Straggler != scoreboard.Free {
		t.Errorf("after it: %v and %v", g.boards[0].Straggler, g.boards[1].Straggler)
	}
}
