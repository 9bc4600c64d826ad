package word

import (
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// Team is a word of launches of several graphs (scoreboard.GraphWord). The poller fills it; from the hand-over until Passed reaches
// Number it is the issue thread's.
type Team struct {
	Of    *scoreboard.GraphWord
	Count int
	Ops   [MaxTeam]*scoreboard.Op

	Passed *atomic.Uint64
	Number uint64

	bench   *Bench
	entry   *teamWord
	how     way
	measure bool
}

// teams holds the teams, used in turn.
type teams struct {
	all [teamPool]Team
	at  int
}

const teamPool = 64

// peek is the team to fill next, nil when its last word was not executed yet.
func (p *teams) peek() *Team {
	t := &p.all[p.at]
	if t.Passed != nil && t.Passed.Load() < t.Number {
		return nil
	}
	return t
}

func (p *teams) take() { p.at = (p.at + 1) % len(p.all) }

// GraphsOptions let a Gather join launches of graphs.
type GraphsOptions struct {
	// Ask has a word made in the background; false: not now. Retire gives one up. Both are called on the poller's thread.
	Ask    func(*scoreboard.GraphWord) bool
	Retire func(*scoreboard.GraphWord)
	// Always: whatever can be joined is, measured to pay or not.
	Always bool
}

// GraphCounters are what became of launches of graphs that could be joined.
type GraphCounters struct {
	// Launches are those in words, Kernels theirs.
	Launches, Kernels uint64
	// Asked counts words that were asked for, Evicted those given up for newer ones, Unpaid those that were measured not to pay.
	Asked, Evicted, Unpaid uint64
	// Coalesced is the same of words in which alike nodes are one.
	Coalesced CoalescedCounters
	// Apart counts launches of graphs that went by themselves, by reason.
	Apart [scoreboard.ReasonCount]uint64
}

// JoinGraphs lets launches of graphs be joined from now on.
func (g *Gather) JoinGraphs(o GraphsOptions) { g.graphs.options = o }

// GraphCounters are what became of launches of graphs that could be joined.
func (g *Gather) GraphCounters() GraphCounters { return g.graphs.GraphCounters }

// GraphsWaiting is how many launches of graphs wait for others.
func (g *Gather) GraphsWaiting() int { return g.graphs.waiting }

// GraphWords is how many words of graphs there are, how many launches of graphs they hold together, and how many of the words can go with
// alike nodes as one.
func (g *Gather) GraphWords() (words, chains, coalesced int) {
	for _, b := range g.graphs.benches {
		for _, w := range b.words {
			if w.usable() {
				words++
				chains += len(w.Graphs)
				if w.alike.usable() {
					coalesced++
				}
			}
		}
	}
	return words, chains, coalesced
}

// addGraph takes a ready launch of a graph that may go with others', or leaves it (false) to the policy.
func (g *Gather) addGraph(op *scoreboard.Op, level int) bool {
	f := op.Graph
	op.Cost, op.Cuts = f.Cost(), f.Cuts(op.Session.Class)
	g.regard(op, 0)
	if g.graphs.options.Ask == nil {
		return false
	}
	why, ok := g.graphs.mayJoin(op)
	if ok {
		b, bit := g.graphs.seat(op, int32(level))
		switch {
		case b == nil:
			why = scoreboard.ReasonFull
		case b.seats[op.Graph.Seat].op != nil:
			why = scoreboard.ReasonExcluded // its other launch goes first
		default:
			b.meet(g, op, bit)
			if b.covered&bit == 0 {
				why = scoreboard.ReasonNoWord
				if bits.OnesCount64(b.seen) == 1 {
					why = scoreboard.ReasonAlone
				}
				break
			}
			seat := &b.seats[op.Graph.Seat]
			seat.op, seat.until = op, op.ReadyAt+g.graphPatience(op)
			b.ready |= bit
			b.stale = true
			g.graphs.waiting++
			return true
		}
	}
	g.graphApart(op, why)
	return false
}

func (g *Gather) graphApart(op *scoreboard.Op, why scoreboard.ApartReason) {
	g.Apart[why]++
	g.graphs.Apart[why]++
	op.Session.ApartGraphs[why]++
}

// removeGraph takes out a launch that addGraph took.
func (g *Gather) removeGraph(op *scoreboard.Op) bool {
	b := g.graphs.of(op.Graph)
	if b == nil || b.seats[op.Graph.Seat].op != op {
		return false
	}
	i := op.Graph.Seat
	b.seats[i].op = nil
	b.ready &^= 1 << i
	g.graphs.waiting--
	if b.seats[i].left {
		g.graphs.vacate(b, int(i))
	}
	b.stale = true
	return true
}

// graphPatience bounds how long a launch may be held: as an op, and under pressure as long as enough launches by themselves would keep the
// issue threads, for behind those it would wait, too. Who may not be held at all, or has a deadline, is not.
func (g *Gather) graphPatience(op *scoreboard.Op) int64 {
	p := g.patience(op)
	if !g.pressed || p <= 0 || op.Deadline != 0 {
		return p
	}
	return max(p, min(enough*g.pressure.each, patienceMost))
}

// since is when the first of those that wait was ready; due is right after it.
func (b *Bench) since() int64 {
	if b.stale {
		b.stale, b.oldest, b.due = false, math.MaxInt64, math.MaxInt64
		for m := b.ready; m != 0; m &= m - 1 {
			s := &b.seats[bits.TrailingZeros64(m)]
			b.oldest, b.due = min(b.oldest, s.op.ReadyAt), min(b.due, s.until)
		}
	}
	return b.oldest
}

// ForgetGraph notes that a graph is launched no more; words that it is in are given up.
func (g *Gather) ForgetGraph(f *scoreboard.Graph) {
	b := g.graphs.of(f)
	if b == nil {
		return
	}
	g.graphs.vacate(b, int(f.Seat))
}

// ForgetGraphs notes that graphs of a session were lost, or all of them: it leaves.
func (g *Gather) ForgetGraphs(s *scoreboard.Session, all bool) {
	for _, b := range g.graphs.benches {
		for m := b.taken; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m)
			if seat := &b.seats[i]; seat.session == s && (all || seat.graph.Lost()) {
				g.graphs.vacate(b, i)
			}
		}
	}
}

// NextBench gives where launches of graphs go now, nil when they wait for others or may not go. busy and force are as for Next.
func (g *Gather) NextBench(now int64, busy, force bool) (best *Bench) {
	var first *scoreboard.Op
	for _, b := range g.graphs.benches {
		if b.ready == 0 || b.tried == g.pass {
			continue
		}
		op := b.lead()
		if op == nil || first != nil && (op.Place() > first.Place() || op.Place() == first.Place() && !op.Before(first)) {
			continue
		}
		if force || b.isDue(g, op, now, busy) {
			best, first = b, op
		} else {
			b.heldAt = now
		}
	}
	return best
}

// Tried notes that there was no room for a word of the bench in this pass.
func (b *Bench) Tried(pass uint64) { b.tried = pass }

// Lead is the launch that goes first, nil when none may go.
func (b *Bench) Lead() *scoreboard.Op { return b.lead() }

// isDue says whether a bench's launches go now, by the rules of shapes (due).
func (b *Bench) isDue(g *Gather, lead *scoreboard.Op, now int64, busy bool) bool {
	since := b.since()
	if b.covered&(1<<lead.Graph.Seat) == 0 || now >= b.due || !g.pressed && !g.graphs.options.Always {
		return true
	}
	want := b.expect
	flying := lead.Session.Lane(lead.Lane).InFlight() > 1
	if flying {
		want = max(want, b.met)
	}
	n := bits.OnesCount64(b.ready)
	if n >= min(want, bits.OnesCount64(b.covered)) {
		return true
	}
	if g.pressure.each > 0 {
		w := b.block(1 << lead.Graph.Seat)
		return w == nil || w.mask&^b.ready == 0
	}
	age := now - since
	if age < 0 || busy && want > 1 {
		return false
	}
	hold := g.hold(lead)
	if b.time > 0 {
		hold = min(hold, b.time/4)
	}
	if flying {
		hold = max(hold, g.options.Busy)
		if 2*n >= want {
			hold /= 2
		}
	}
	return age >= hold
}

// Team makes the word of a bench's most urgent launch and as many others as a word has that exists. Without one, apart are launches
// that are to go by themselves: the lead, or all of a word whose time apart is to be measured. Nothing of either: there is no room.
func (g *Gather) Team(b *Bench, now int64) (t *Team, apart []*scoreboard.Op) {
	lead := b.lead()
	able := uint64(0)
	most := g.graphs.most(lead)
	for m := b.ready; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		op := b.seats[i].op
		if op.Place() >= scoreboard.Blocked || op.Graph.Running(op.Session) || op.Session.Straggler != scoreboard.Free || op.Session.Beside(op) {
			continue
		}
		able |= 1 << i
	}
	b.want(g, able, most, now) // before a word is chosen: it may give some up
	w := b.cover(able, 1<<lead.Graph.Seat, most)
	if w == nil {
		why := scoreboard.ReasonNoWord
		if lead.Session.Beside(lead) {
			why = scoreboard.ReasonExcluded
		}
		g.graphApart(lead, why)
		g.graphs.alone[0] = lead
		return nil, g.graphs.alone[:1]
	}
	how, measure := w.turn(&g.graphs)
	if how == wayApart {
		apart = g.graphs.alone[:0]
		for m := w.mask; m != 0; m &= m - 1 {
			op := b.seats[bits.TrailingZeros64(m)].op
			op.Signal = true
			g.graphApart(op, scoreboard.ReasonCost)
			apart = append(apart, op)
		}
		g.graphs.probe.begin(w, b, apart, wayApart, now)
		return nil, apart
	}
	if t = g.graphs.teams.peek(); t == nil {
		return nil, nil
	}
	t.Of, t.Count, t.bench, t.entry, t.how, t.measure = w.GraphWord, 0, b, w, how, measure
	if how == wayCoalesced {
		t.Of = w.alike.word
	}
	for m := w.mask; m != 0; m &= m - 1 {
		op := b.seats[bits.TrailingZeros64(m)].op
		op.Held = max(0, b.heldAt-op.ReadyAt)
		op.Signal = true // its chain writes the word, at no cost to anybody
		t.Ops[t.Count] = op
		t.Count++
	}
	return t, nil
}

// TeamIssued takes a team's launches out: they are on their way. It gives what each costs, ns of the whole chip.
func (g *Gather) TeamIssued(t *Team, now int64) (each int64) {
	b, w, n := t.bench, t.entry, t.Count
	ops := t.Ops[:n]
	g.graphs.teams.take()
	g.Words[Joined]++
	g.Slots[Joined] += uint64(n)
	g.pressure.count(n)
	there := bits.OnesCount64(b.ready)
	vain := n < b.expect && there <= n
	kernels := uint64(0)
	for _, op := range ops {
		if waited := now - op.ReadyAt; waited > 0 {
			g.Held++
			g.HeldNanoseconds += uint64(waited)
			if vain {
				g.InVain++
			}
		}
		k := op.Kernels()
		kernels += k
		op.Session.Joined += k
		op.Session.Slots += k * uint64(n)
		each = max(each, op.Cost)
		g.removeGraph(op)
	}
	g.InKernel += uint64(n)
	g.Joined += kernels
	g.graphs.Launches += uint64(n)
	g.graphs.Kernels += kernels
	if kernels > 0 {
		g.Widths[cost.Bucket(n)] += max(1, kernels/uint64(n)) // so wide, from level to level of the chains
	}
	if n >= b.expect {
		b.expect = n
	} else if vain {
		b.expect -= max(1, (b.expect-n)/4)
	}
	if t.how == wayCoalesced {
		c := &g.graphs.Coalesced
		c.Words++
		c.Nodes += uint64(t.Of.CoalescedNodes)
		for i, op := range ops {
			inside := uint64(t.Of.Coalesced[i])
			c.Kernels += inside
			op.Session.CoalescedNodes += inside
		}
	}
	w.rounds++
	w.used = now
	if t.measure {
		g.graphs.probe.begin(w, b, ops, t.how, now)
	}
	if took := &w.took[t.how]; took.n > 0 {
		each = min(each, took.ns/int64(n))
	}
	g.coalesce(w, now)
	return max(1, each)
}
