package word

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// This file is what the gather learns and knows of who slows whom (package company).

// Of measuring words, harmless is how much longer than it should a word may take, ns, for nobody to be late: as long as ops wait for
// company where their class says nothing else. jitter is by how many ns a measurement may be off, waryEvery and pairEvery how often
// words are measured whose ops were seen to suffer from others, and words of two shapes. waryFor is how many measurements without harm it
// takes to forget the former.
const (
	harmless  = 20_000
	jitter    = 2000
	waryEvery = 8
	pairEvery = 64
	waryFor   = 64
)

// Beside is what was on the chip's other streams when a measured word was issued: the last of each, which runs when this word does,
// the last of its own. The zero value is: nothing.
type Beside struct {
	N       int
	Keys    [company.Most]uint64  // scoreboard.Op.Key
	Fill    [company.Most]float64 // scoreboard.Shape.Fill
	Blurred bool                  // more than that, something without a name, or others at the end: the word's time says nothing of anybody
	// Streams are those that held something (bits), Own is the word's.
	Streams uint64
	Own     int
}

// Any says whether anything ran.
func (b *Beside) Any() bool { return b.Streams != 0 || b.Blurred }

// Ended notes which streams hold something when the word's time has become known: who came or went meanwhile ran beside a part of it.
func (b *Beside) Ended(streams uint64) {
	b.Blurred = b.Blurred || b.Streams != streams&^(1<<b.Own)
}

// Add notes what one stream holds; key 0: that has no name.
func (b *Beside) Add(stream int, key uint64, fill float64) {
	b.Streams |= 1 << stream
	for _, k := range b.Keys[:b.N] {
		if k == key {
			return
		}
	}
	if b.N == len(b.Keys) || key == 0 {
		b.Blurred = true
		return
	}
	b.Keys[b.N], b.Fill[b.N] = key, fill
	b.N++
}

// Pair is a word that holds ops of just two shapes: what they are, how much of the chip each kind takes, and how long it would take alone, ns.
// Shapes counts them; with any other number than 2 the rest means nothing.
type Pair struct {
	Shapes int
	Keys   [2]uint64
	Fill   [2]float64
	Own    [2]int64
}

// add notes that n ops of o joined those of s, of which there are lead.
func (p *Pair) add(g *Gather, s *scoreboard.Shape, lead int, o *scoreboard.Shape, n int) {
	if p.Shapes == 0 {
		*p = Pair{2, [2]uint64{s.Key, o.Key}, [2]float64{s.Fill, o.Fill}, [2]int64{g.own(s, lead), g.own(o, n)}}
	} else {
		p.Shapes++
	}
}

// measures says whether a word that a shape leads is measured for what its two kinds of ops do to each other.
func (g *Gather) measures(p *Pair, s *scoreboard.Shape) bool {
	t := g.options.Company
	if t == nil || p.Shapes != 2 || p.Own[0] == 0 || p.Own[1] == 0 || p.Keys[0] == p.Keys[1] {
		return false
	}
	_, sure := t.Excess(p.Keys[0], p.Keys[1], g.now)
	return !sure || s.Words%pairEvery == 0 || s.Wary > 0 && s.Words%waryEvery == 0
}

// own is how long n instances of a shape take while nothing else is on the chip, ns; 0: not known.
func (g *Gather) own(s *scoreboard.Shape, n int) int64 {
	if t := s.Times.Own(n); t > 0 {
		return t
	}
	return int64(float64(s.Times.Own(1)) * max(1, float64(n)*s.Weight))
}

// regard finds what an op that has become ready, and takes so long alone, does to the class above its own.
func (g *Gather) regard(op *scoreboard.Op, alone int64) {
	in, t := op.Session.Class, g.options.Company
	if in == nil || in.Above == 0 || t == nil {
		return
	}
	op.Hurts, op.Harm = false, 0 // another class was above when it was ready before
	if x, sure := t.Excess(in.Above, op.Key(), op.ReadyAt); sure {
		op.Hurts = x >= company.Hurts
		op.Harm = int64(float64(alone) * x / (1 + x)) // by so much less the class above gets on meanwhile
	}
}

// avoids says whether ops of o rather do not run beside those of s, which lead leads: each would slow the other so much that they
// are done sooner one after the other, or o is less urgent and slows s.
func (g *Gather) avoids(s *scoreboard.Shape, lead *scoreboard.Op, o *scoreboard.Shape) bool {
	t := g.options.Company
	if t == nil || s.Wary+o.Wary == 0 {
		return false
	}
	x, xSure := t.Excess(s.Key, o.Key, g.now)
	y, ySure := t.Excess(o.Key, s.Key, g.now)
	if xSure && x >= company.Hurts && below(o, lead) {
		return true
	}
	switch {
	case !xSure && !ySure:
		return false
	case !xSure:
		x = company.Expect(s.Fill, o.Fill)
	case !ySure:
		y = company.Expect(o.Fill, s.Fill)
	}
	return company.Worse(x, y)
}

// below says whether the first op of o is of a class of smaller priority than lead.
func below(o *scoreboard.Shape, lead *scoreboard.Op) bool {
	a, b := o.Ready.First().Session.Class, lead.Session.Class
	return a != nil && b != nil && a.Priority < b.Priority
}

// Distrust has the gather take a shape for one that was seen to suffer.
func (g *Gather) Distrust(s *scoreboard.Shape) { s.Wary, g.wary = waryFor, true }

// keepOff has ops wait, as long as their class lets them, until a word that is issued now has run, if they had better not run beside it.
func (g *Gather) keepOff(w *Word, now int64) {
	g.now = now
	until := now + g.own(w.Shape, w.Len())
	for _, o := range g.shapes.Active() {
		if o != w.Shape && o.Avoid < until && g.avoids(w.Shape, w.Ops()[0], o) {
			o.Avoid = until
			g.Avoided++
		}
	}
}

// Met takes how long a word of n alike ops took in the company that it had, ns: what is more than it takes alone is its company's doing.
// Learn is to be told afterwards.
func (g *Gather) Met(s *scoreboard.Shape, n int, ns int64, of []*scoreboard.Session, beside *Beside, now int64) {
	t, own := g.options.Company, g.own(s, n)
	if t == nil || own <= 0 || ns <= 0 || beside.N == 0 || beside.Blurred || of[0].Straggler != scoreboard.Free {
		return
	}
	x := max(0, float64(ns-jitter)/float64(own)-1)
	var expected [company.Most]float64
	for i := range beside.N {
		expected[i] = company.Expect(s.Fill, beside.Fill[i])
	}
	keys := beside.Keys[:beside.N]
	t.Learn(s.Key, keys, expected[:beside.N], x, now)
	if in := of[0].Class; in != nil {
		t.Learn(in.Key, keys, expected[:beside.N], x, now)
	}
	for _, b := range of {
		b.Slowed += (x - b.Slowed) / 8
	}
	s.Wary = max(s.Wary, 1) - 1
	for _, k := range keys {
		if x, sure := t.Excess(s.Key, k, now); sure && x >= company.Hurts {
			s.Wary, g.wary = waryFor, true
		}
	}
}

// MetPair takes how long a word of two kinds of ops took, ns.
func (g *Gather) MetPair(s *scoreboard.Shape, p *Pair, beside *Beside, ns, now int64) {
	t := g.options.Company
	if t == nil || ns <= 0 || beside.N > 0 || beside.Blurred {
		return
	}
	// Were each slowed by x while the other runs, they would take the longer one's time and x of the shorter one's.
	long, short := max(p.Own[0], p.Own[1]), min(p.Own[0], p.Own[1])
	x := max(0, float64(ns-long-jitter)/float64(short))
	for i := range 2 {
		expected := [1]float64{company.Expect(p.Fill[i], p.Fill[1-i])}
		t.Learn(p.Keys[i], p.Keys[1-i:2-i], expected[:], x, now)
	}
	if y, sure := t.Excess(p.Keys[0], p.Keys[1], now); sure && y >= company.Hurts {
		s.Wary, g.wary = waryFor, true
	}
}
