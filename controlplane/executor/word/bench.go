package word

import (
	"math/bits"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// Words of graphs. Graphs of one level of urgency that take about as long sit on a bench, 64 at most. Words are made of blocks of
// seats: all of them, halves, quarters, … pairs. Whoever is ready goes in the largest word that exists of only ready graphs, so a client
// that is absent spoils log₂ of the words that the others can have, and no more words than two a seat are ever made. Which blocks are
// worth a word is seen by how often all of a block were ready together and the word that they would have had did not exist.

// Bounds.
const (
	// MaxTeam is how many graphs a word has at most: the seats of a bench.
	MaxTeam    = 64
	maxBenches = 16
	// mostWords bounds the words of a bench, mostAsked those that are being made at a time, mostNodes a graph's nodes.
	mostWords = 2 * MaxTeam
	mostAsked = 8
	mostNodes = 512
	// seatAfter is how often a graph must have been launched: one that is launched a few times is not worth a word.
	seatAfter = 4
	// askAfter is how often the graphs of a block must have been ready together.
	askAfter = 4
	// launchCost is what a launch of a graph costs an issue thread with its done word, ns (measurements.md, sections 2 and 3). A graph
	// that takes the chip payMost times as long gains less than 2 % when others' launches spare it.
	launchCost = 6_000
	payMost    = 16
	// nodeCost is what a node of a word costs, ns (design.md, section 5). Where kernels take the chip no longer than that
	// on average nodes are what bounds a word, and coalescing makes them fewer.
	nodeCost = 600
	// enough is how many launches in a word are worth a wait for the others: it spares seven eighths of their calls.
	enough = 8
	// patienceMost bounds that wait, ns.
	patienceMost = int64(400_000)
	// idleSeat is how long a graph is not launched before it does not count any more, and others may have its seat, ns.
	idleSeat = int64(1e9)
	// idleWord is how long a word is kept that is not used, when others are wanted, ns.
	idleWord = int64(5e9)
	// sure is how many rounds of a word, joined and apart, decide; then one of each in probeEvery.
	sure       = 3
	probeEvery = 64
	// pays is the part of its time apart that a word may take.
	pays = 0.98
	// unpaid is how long a word that does not pay is not tried again, at first; it doubles up to unpaidMost, ns. probeMost bounds a
	// measurement.
	unpaid, unpaidMost = int64(1e9), int64(64e9)
	probeMost          = int64(1e9)
)

// Bench is where graphs meet. It is the poller's.
type Bench struct {
	number  uint8 // its place in graphGather.benches, from 1 on
	level   int32
	time    int64 // about how long its graphs take, ns; 0: any
	seats   [MaxTeam]seat
	taken   uint64 // seats, a bit each
	fresh   uint64 // of them whose graph was ready in the last idleSeat
	ready   uint64 // of them that have a launch waiting here
	covered uint64 // of them that are in some usable word
	words   []*teamWord

	expect int   // how many words have held of late
	oldest int64 // when the first of ready was, and due when one of them waits no more, unless stale (since)
	due    int64
	stale  bool
	heldAt int64
	tried  uint64

	// seen are those that were ready in the moment seenIn (seenBits), met how many were in the one before.
	// before are those of the moment before, when it was the one right before.
	seen, seenIn uint64
	before       uint64
	met          int
	// hits counts for a block, by number, how often those of hitMask were ready together and had no word.
	hits    [2 * MaxTeam]uint8
	hitMask [2 * MaxTeam]uint64
}

type seat struct {
	graph   *scoreboard.Graph
	session *scoreboard.Session
	op      *scoreboard.Op // that waits here
	at      int64          // when its graph was last ready
	until   int64          // op waits no longer
	left    bool           // it is to be vacated when op is gone
}

// teamWord is a word of a bench, or a note that there shall be none for a time.
type teamWord struct {
	*scoreboard.GraphWord
	mask   uint64
	rounds uint64
	used   int64
	// took is how long its launches took from issue to the last one's end, by how they went.
	took         [ways]mean
	off          bool  // given up until again
	again, pause int64 // ns
	// alike is the same word with alike nodes of its chains as one.
	alike alikeWord
}

func (w *teamWord) usable() bool { return !w.off && w.Built.Load() && !w.Refused.Load() }

// mean is a smoothed time.
type mean struct {
	ns int64
	n  int
}

func (m *mean) add(ns int64) {
	if m.n == 0 {
		m.ns = ns
	}
	if m.n < sure {
		m.n++
	}
	m.ns += (ns - m.ns) / int64(m.n)
}

// graphGather is the part of a Gather that joins graphs.
type graphGather struct {
	GraphCounters
	options GraphsOptions
	benches []*Bench
	teams   teams
	waiting int
	emptied int64                   // when idle graphs last had to leave every bench
	asked   []*scoreboard.GraphWord // not built yet
	probe   probe
	alone   [MaxTeam]*scoreboard.Op
}

// mayJoin says whether a launch can be joined at all, and why not.
func (g *graphGather) mayJoin(op *scoreboard.Op) (why scoreboard.ApartReason, ok bool) {
	f, s := op.Graph, op.Session
	switch {
	case s.Class != nil && s.Class.Apart:
		return scoreboard.ReasonClass, false
	case s.Straggler != scoreboard.Free:
		return scoreboard.ReasonStraggler, false
	case op.Cuts || f.Running(s):
		return scoreboard.ReasonParts, false
	case s.GraphsApart || f.Nodewise != nil || s.MayWait(op):
		return scoreboard.ReasonExcluded, false
	case f.Nodes > mostNodes || f.Kernels == 0 || !g.options.Always && f.Cost() > max(payMost*launchCost, nodeCost*int64(f.Kernels)):
		return scoreboard.ReasonCost, false
	case f.Launched < seatAfter:
		return scoreboard.ReasonNoWord, false
	}
	return 0, true
}

// most is how many launches may go with this one: a class above must not wait longer for them than it may.
func (g *graphGather) most(op *scoreboard.Op) int {
	c := op.Session.Class
	if c == nil {
		return MaxTeam
	}
	bound := c.Longest
	if c.Slice > 0 {
		bound = min(bound, c.Slice)
	}
	return int(min(MaxTeam, max(1, bound/max(1, op.Cost))))
}

func (g *graphGather) of(f *scoreboard.Graph) *Bench {
	if f.Bench == 0 {
		return nil
	}
	return g.benches[f.Bench-1]
}

// seat gives a graph's bench and its seat there, as a bit; nil: there is none free.
func (g *graphGather) seat(op *scoreboard.Op, level int32) (*Bench, uint64) {
	f := op.Graph
	time := f.Time()
	if g.options.Always {
		time = 0
	}
	b := g.of(f)
	if b != nil && b.seats[f.Seat].op == nil && (b.level != level || time > 4*b.time || 4*time < b.time) {
		g.vacate(b, int(f.Seat))
		b = nil
	}
	if b == nil {
		if b = g.bench(level, time, op.ReadyAt); b == nil {
			return nil, 0
		}
		i := bits.TrailingZeros64(^b.taken)
		b.seats[i] = seat{graph: f, session: op.Session}
		b.taken |= 1 << i
		b.fresh |= 1 << i
		f.Bench, f.Seat = b.number, uint8(i)
	}
	b.seats[f.Seat].at = op.ReadyAt
	return b, 1 << f.Seat
}

// bench finds one with a free seat for graphs that take so long, or makes one.
func (g *graphGather) bench(level int32, time, now int64) *Bench {
	var empty *Bench
	for _, b := range g.benches {
		if b.taken == 0 {
			empty = b
		}
		if b.level != level || time > 2*b.time || 2*time < b.time {
			continue
		}
		if b.taken == ^uint64(0) {
			g.makeRoom(b, now)
		}
		if b.taken != ^uint64(0) {
			return b
		}
	}
	if empty == nil && len(g.benches) == maxBenches && now-g.emptied > idleSeat {
		g.emptied = now
		for _, b := range g.benches {
			if g.makeRoom(b, now); b.taken == 0 {
				empty = b
			}
		}
	}
	if empty == nil {
		if len(g.benches) == maxBenches {
			return nil
		}
		empty = &Bench{number: uint8(len(g.benches) + 1)}
		g.benches = append(g.benches, empty)
	}
	*empty = Bench{number: empty.number, level: level, time: time, words: empty.words[:0], expect: 1}
	return empty
}

// makeRoom has graphs leave a bench that were not launched for long.
func (g *graphGather) makeRoom(b *Bench, now int64) {
	for i := range b.seats {
		if s := &b.seats[i]; b.taken&(1<<i) != 0 && s.op == nil && now-s.at > idleSeat {
			g.vacate(b, i)
		}
	}
}

// vacate frees a seat, and gives up the words of it; while a launch waits there the seat stays until that is gone.
func (g *graphGather) vacate(b *Bench, i int) {
	bit := uint64(1) << i
	for k := len(b.words) - 1; k >= 0; k-- {
		if b.words[k].mask&bit != 0 {
			g.drop(b, k)
		}
	}
	b.survey()
	s := &b.seats[i]
	if s.left = s.op != nil; s.left {
		s.until, b.due = 0, 0
		return
	}
	if s.graph != nil {
		s.graph.Bench, s.graph.Covered = 0, false
	}
	*s = seat{}
	b.taken, b.fresh, b.seen = b.taken&^bit, b.fresh&^bit, b.seen&^bit
}

// drop forgets a word of a bench.
func (g *graphGather) drop(b *Bench, k int) {
	w := b.words[k]
	if g.probe.word == w {
		g.probe.word = nil
	}
	b.words = append(b.words[:k], b.words[k+1:]...)
	g.giveUp(w)
}

func (g *graphGather) giveUp(w *teamWord) {
	g.giveUpAlike(w)
	if !w.Dropped.Swap(true) {
		g.options.Retire(w.GraphWord)
	}
}

// survey finds anew which seats are in usable words.
func (b *Bench) survey() {
	b.covered = 0
	for _, w := range b.words {
		if w.usable() {
			b.covered |= w.mask
		}
	}
	for m := b.taken; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		b.seats[i].graph.Covered = b.covered&(1<<i) != 0
	}
}

// meet notes that a launch of a seat's graph is ready, and what the moment before says of who goes together.
func (b *Bench) meet(g *Gather, op *scoreboard.Op, bit uint64) {
	if moment := uint64(op.ReadyAt) >> seenBits; b.seenIn != moment {
		b.met = 0
		b.refresh(op.ReadyAt)
		b.survey()
		b.before = 0
		if b.seenIn+1 == moment {
			b.before = b.seen
			b.met = bits.OnesCount64(b.seen & b.covered)
			b.expect = max(b.expect, b.met)
		}
		b.want(g, b.seen, MaxTeam, op.ReadyAt)
		b.seenIn, b.seen = moment, 0
	}
	b.seen |= bit
}

// refresh finds who was launched of late.
func (b *Bench) refresh(now int64) {
	b.fresh = 0
	for m := b.taken; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros64(m); now-b.seats[i].at <= idleSeat {
			b.fresh |= 1 << i
		}
	}
}

// lead is the most urgent launch, nil when none may go.
func (b *Bench) lead() (best *scoreboard.Op) {
	place := int32(scoreboard.Blocked)
	for m := b.ready; m != 0; m &= m - 1 {
		op := b.seats[bits.TrailingZeros64(m)].op
		if at := op.Place(); at < place || at == place && best != nil && op.Before(best) {
			best, place = op, at
		}
	}
	return best
}

// cover is the largest usable word of launches that are able to go, with a seat that must be in it, and at most so many; nil: none.
func (b *Bench) cover(able, must uint64, most int) (best *teamWord) {
	width := 0
	for _, w := range b.words {
		if w.mask&^able != 0 || w.mask&must == 0 {
			continue
		}
		if n := bits.OnesCount64(w.mask); n > width && n <= most && w.usable() {
			best, width = w, n
		}
	}
	return best
}

// block is the narrowest word of enough launches that a seat's may go in, or the widest of fewer; nil: none. Who was not ready in this
// moment nor the one before is not waited for.
func (b *Bench) block(bit uint64) (best *teamWord) {
	width := 0
	for _, w := range b.words {
		n := bits.OnesCount64(w.mask)
		if w.mask&bit == 0 || w.mask&^(b.seen|b.before) != 0 || !w.usable() {
			continue
		}
		if width < enough && n > width || n >= enough && n < width {
			best, width = w, n
		}
	}
	return best
}

// want counts for the blocks of at most so many that ready graphs fill, largest first, that they have no word, and asks for it when that
// goes on.
func (b *Bench) want(g *Gather, ready uint64, most int, now int64) {
	if bits.OnesCount64(ready) > 1 {
		b.wantBlock(&g.graphs, ready, most, 1, ^uint64(0), now)
	}
}

func (b *Bench) wantBlock(g *graphGather, ready uint64, most, block int, seats uint64, now int64) {
	mask := b.fresh & seats
	if bits.OnesCount64(mask) < 2 || ready&mask == 0 {
		return
	}
	if mask&^ready != 0 || bits.OnesCount64(mask) > most {
		half := bits.OnesCount64(seats) / 2
		low := seats & (seats - 1) // all but the lowest
		low = seats ^ low          // the lowest
		low = low<<half - low      // half of them
		b.wantBlock(g, ready, most, 2*block, low, now)
		b.wantBlock(g, ready, most, 2*block+1, seats&^low, now)
		return
	}
	for _, w := range b.words {
		if w.mask == mask && !(w.off && now >= w.again) {
			if w.Refused.Load() && !w.off {
				b.turnOff(g, w, now)
			}
			return
		}
	}
	if b.hitMask[block] != mask {
		b.hitMask[block], b.hits[block] = mask, 0
	}
	if b.hits[block]++; b.hits[block] >= askAfter {
		b.hits[block] = 0
		b.ask(g, mask, now)
	}
}

// mayAsk says whether one more word can be made.
func (g *graphGather) mayAsk() bool {
	kept := g.asked[:0]
	for _, w := range g.asked {
		if !w.Built.Load() && !w.Refused.Load() && !w.Dropped.Load() {
			kept = append(kept, w)
		}
	}
	g.asked = kept
	return len(kept) < mostAsked
}

// ask has a word made of the graphs of some seats.
func (b *Bench) ask(g *graphGather, mask uint64, now int64) {
	if !g.mayAsk() {
		return
	}
	for _, o := range g.benches {
		for k := len(o.words) - 1; k >= 0; k-- {
			if w := o.words[k]; !w.off && now-w.used > idleWord {
				g.Evicted++
				g.drop(o, k)
				o.survey()
			}
		}
	}
	w := &teamWord{GraphWord: &scoreboard.GraphWord{}, mask: mask, used: now, pause: unpaid}
	for m := mask; m != 0; m &= m - 1 {
		w.Graphs = append(w.Graphs, b.seats[bits.TrailingZeros64(m)].graph)
	}
	if !w.Usable() || !g.options.Ask(w.GraphWord) {
		return
	}
	g.Asked++
	g.asked = append(g.asked, w.GraphWord)
	oldest := -1
	for k, o := range b.words {
		if o.mask == mask { // it did not pay, and is tried again
			w.pause = min(2*o.pause, unpaidMost)
			oldest = k
			break
		}
		if oldest < 0 || o.used < b.words[oldest].used {
			oldest = k
		}
	}
	if oldest >= 0 && (b.words[oldest].mask == mask || len(b.words) >= mostWords) {
		if b.words[oldest].mask != mask {
			g.Evicted++
		}
		g.drop(b, oldest)
	}
	b.words = append(b.words, w)
}

// turnOff gives a word up for a time.
func (b *Bench) turnOff(g *graphGather, w *teamWord, now int64) {
	w.off, w.again = true, now+w.pause
	g.giveUp(w)
	b.survey()
}

// probe is a measurement under way: how long launches of a word take, from issue to the end of the last.
type probe struct {
	word  *teamWord
	bench *Bench
	how   way
	since int64
	count int
	ops   [MaxTeam]struct {
		lane *scoreboard.Lane
		of   *scoreboard.Session
		seq  uint32
	}
}

func (p *probe) begin(w *teamWord, b *Bench, ops []*scoreboard.Op, how way, now int64) {
	p.word, p.bench, p.how, p.since, p.count = w, b, how, now, len(ops)
	for i, op := range ops {
		p.ops[i].lane, p.ops[i].of, p.ops[i].seq = op.Session.Lane(op.Lane), op.Session, op.Seq
	}
}

// Look sees whether there is pressure, and whether what is measured has ended, and gives a word up that does not pay. It is for every pass,
// and cheap.
func (g *Gather) Look(now int64) {
	g.press(now)
	p := &g.graphs.probe
	w := p.word
	if w == nil {
		return
	}
	late := now-p.since > probeMost
	for i := range p.count {
		o := &p.ops[i]
		if o.of.Dropping() {
			late = true
		}
		if !o.lane.Reached(o.seq) && !late {
			return
		}
	}
	p.word = nil
	w.rounds++ // the turn is over, whatever came of it
	if late {
		return
	}
	w.took[p.how].add(now - p.since)
	p.bench.judge(&g.graphs, w, now)
}

// judge gives a word up that does not pay, as measured.
func (b *Bench) judge(g *graphGather, w *teamWord, now int64) {
	best := g.better(w, now)
	apart := &w.took[wayApart]
	if best == nil || best.n < sure || apart.n < sure || float64(best.ns) <= pays*float64(apart.ns) {
		return
	}
	g.Unpaid++
	b.turnOff(g, w, now)
}
