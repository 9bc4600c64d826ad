package word

import (
	"cmp"
	"math"
	"math/bits"

	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// Options of NewGather.
type Options struct {
	Chip cost.Chip
	// Hold bounds how long an op of a session without a class waits for company, ns; a quarter of the word's measured time bounds it
	// too. An op whose lane has others in flight may wait for Busy.
	Hold, Busy int64
	// Calls is how long the issue threads, of which there are Threads, have been making calls, ns. Where those are not what bounds everybody
	// ops need no company, and wait for none; nil: they always do.
	Calls   func() int64
	Threads int
	// Demand is told what was ready together; nil: nobody is.
	Demand *scoreboard.Demand
	// Company is what is known of who slows whom; nil: nothing is learned of it, and nobody avoided.
	Company *company.Table
}

// unknownTime stands for the time of a word that was never measured, ns.
const unknownTime = 20_000

// Counters are what Gather has done.
type Counters struct {
	Words, Slots [Paths]uint64 // by path: words of launches, and the ops in them
	Widths       [cost.Buckets]uint64
	// Held counts ops that waited for company, HeldNanoseconds how long, InVain those that got less than was expected.
	Held, HeldNanoseconds, InVain uint64
	// Joined counts ops in words of two or more.
	Joined uint64
	// Avoided counts how often ops of a shape were kept waiting until a word beside which they had better not run was done.
	Avoided uint64
	// InKernel counts done words that launches wrote themselves.
	InKernel uint64
	Apart    [scoreboard.ReasonCount]uint64
}

// Gather holds the ready ops of kernels that can be joined, and makes words of them. It belongs to the poller's thread and
// allocates nothing.
//
// When ops go is written down in the executor's README.
type Gather struct {
	Counters
	// Uneven: of classes of one priority some go before others (sched.Scheduler.Uneven), so that not the first op of a shape may be the
	// one that goes first.
	Uneven  bool
	options Options
	shapes  *scoreboard.Shapes
	pool    *pool
	pass    uint64
	now     int64  // of the last Next
	wary    bool   // some shape is
	looks   uint64 // at what else was ready beside a word
	graphs  graphGather
	pressure
}

// NewGather makes one.
func NewGather(o Options) (*Gather, error) {
	p, err := newPool()
	if err != nil {
		return nil, err
	}
	g := &Gather{options: o, shapes: scoreboard.NewShapes(), pool: p}
	g.pressed = o.Calls == nil
	return g, nil
}

// Shapes is the table of what is ready and what was measured of it.
func (g *Gather) Shapes() *scoreboard.Shapes { return g.shapes }

// Len is how many ops wait in it.
func (g *Gather) Len() int { return g.shapes.Len() + g.graphs.waiting }

// Begin starts a pass of the poller.
func (g *Gather) Begin(pass uint64) { g.pass = pass }

// Joins reports whether ops of the launch's kernel can be joined at all: only then does waiting for company make sense.
func Joins(op *scoreboard.Op) bool {
	if op.Kind == shm.KindGraph {
		return op.Graph.Covered && op.Session.Straggler == scoreboard.Free
	}
	k := op.Kernel
	return k != nil && k.Code != nil && !k.Apart && k.Code.Forms.Load() != nil && op.Kind == shm.KindLaunch &&
		op.Session.Straggler == scoreboard.Free
}

// Add takes a ready op, or leaves it (false) to the policy: it is no launch, or cannot be joined.
func (g *Gather) Add(op *scoreboard.Op, level int) bool {
	if op.Kind == shm.KindGraph {
		return g.addGraph(op, level)
	}
	k := op.Kernel
	if op.Kind != shm.KindLaunch || k.Code == nil {
		g.regard(op, 0)
		return false
	}
	c := k.Code
	s := g.shapes.Of(op, int32(level))
	if s == nil {
		return false
	}
	if s.Weight == 0 && s.Times.Alone() > 0 { // measured by an earlier executor
		g.Weigh(s)
	}
	op.Cost = s.Cost
	g.regard(op, s.Times.Own(1))
	if in := op.Session.Class; in != nil && in.Slice > 0 && !op.InPart() && op.Cost > in.Slice && g.cuttable(s, op) {
		return false
	}
	switch {
	case op.Session.Class != nil && op.Session.Class.Apart:
		g.apart(c, scoreboard.ReasonClass)
		return false
	case op.Session.Straggler != scoreboard.Free:
		op.Cost = int64(float64(s.Cost) * max(1, op.Session.Slow))
		g.apart(c, scoreboard.ReasonStraggler)
		return false
	case k.Apart || op.Launch().Flags&shm.LaunchFlagCooperative != 0:
		g.apart(c, scoreboard.ReasonExcluded)
		return false
	case c.Forms.Load() == nil:
		g.apart(c, scoreboard.ReasonNoForm)
		if g.options.Demand != nil {
			g.see(s, op)
		}
		return false
	case op.Session.MayWait(op):
		g.apart(c, scoreboard.ReasonExcluded)
		return false
	case g.trial.apart:
		g.apart(c, scoreboard.ReasonUnpaid)
		return false
	}
	g.meet(s, op)
	if until := op.ReadyAt + g.patience(op); s.Ready.Len() == 0 || until < s.Due {
		s.Due = until
	}
	g.shapes.Add(op, s)
	return true
}

// patience bounds how long an op may be held: as long as its class says, and while its request can still meet its objective.
func (g *Gather) patience(op *scoreboard.Op) int64 {
	hold := g.hold(op)
	switch {
	case op.Deadline != 0:
		return min(hold, max(0, op.Latest-op.ReadyAt))
	case hold > 0 && op.Session.Lane(op.Lane).InFlight() > 1:
		return max(hold, g.options.Busy) // its stream is busy with more of it: waiting costs nothing
	}
	return hold
}

// hold is what the op's class says.
func (g *Gather) hold(op *scoreboard.Op) int64 {
	if c := op.Session.Class; c != nil {
		return c.Hold
	}
	return g.options.Hold
}

// Remove takes an op out that was added and is given up.
func (g *Gather) Remove(op *scoreboard.Op) bool {
	if op.Kind == shm.KindGraph {
		return g.removeGraph(op)
	}
	return g.shapes.Remove(op)
}

func (g *Gather) apart(c *scoreboard.Code, why scoreboard.ApartReason) {
	c.Use.Apart[why]++
	g.Apart[why]++
}

// seenBits is how long a moment is, as a power of two of ns (1 ms): ops of several sessions that become ready within one would go
// together if there were a form, for its words make ops wait for each other. Without one they never meet in a pass of the poller.
const seenBits = 20

// meet raises what a shape's ops expect to the sessions that had some in the moment before: sessions whose ops never fell into one
// pass would otherwise never learn that they could wait for each other.
func (g *Gather) meet(s *scoreboard.Shape, op *scoreboard.Op) {
	moment := uint64(op.ReadyAt) >> seenBits
	if s.SeenIn != moment {
		s.Met = 0
		if s.SeenIn+1 == moment {
			s.Met = bits.OnesCount64(s.Seen)
			s.Expect = max(s.Expect, s.Met)
		}
		s.SeenIn, s.Seen = moment, 0
	}
	s.Seen |= 1 << (op.Session.ID % 64)
}

// see notes whose ops of a kernel without a form become ready at about the same time. The forms' maker learns of it when the next
// moment begins.
func (g *Gather) see(s *scoreboard.Shape, op *scoreboard.Op) {
	moment, session := uint64(op.ReadyAt)>>seenBits, uint64(1)<<(op.Session.ID%64)
	if s.SeenIn != moment {
		if n := bits.OnesCount64(s.Seen); n > 1 {
			g.options.Demand.Together(s.Code, n, s.Grid[2] == 1)
		}
		s.SeenIn, s.Seen = moment, 0
	}
	s.Seen |= session
	u := &s.Code.Use
	if u.SeenIn != moment {
		if n := bits.OnesCount64(u.Seen); n > 1 && u.SeenMixed {
			g.options.Demand.Together(s.Code, n, false)
		}
		u.SeenIn, u.Seen, u.SeenMixed, u.SeenShape = moment, 0, false, s
	}
	u.Seen |= session
	u.SeenMixed = u.SeenMixed || u.SeenShape != s
}

// Next is the shape whose ops go now: of those that may go, the one with the most urgent op. nil: the others wait for company, may not
// go now, or found no room in this pass. pending is how many commands issue threads have: with more than a few (atOnce) one more word would
// only wait as well, or hold the others up in the driver, so its ops rather wait for company. force ends every wait.
//
// Clients that repeat the same kernels meet: whose next kernel others wait with goes at once, and who is about to get company lets those
// go first. Where each waits for another the fewest go.
func (g *Gather) Next(now int64, pending int, force bool) *scoreboard.Shape {
	g.press(now)
	var best, behind *scoreboard.Shape
	place := int32(scoreboard.Blocked)
	g.now = now
	for _, s := range g.shapes.Active() {
		if s.Tried == g.pass {
			continue
		}
		first := s.Ready.First()
		if g.Uneven {
			first = s.Ready.Lead()
		}
		at := first.Place()
		if at >= scoreboard.Blocked || at > place {
			continue
		}
		expects := s.Coming > 0 && !force && now < s.Due
		if at == place && !expects && best != nil && !first.Before(best.Ready.First()) {
			continue
		}
		if !force && now < s.Avoid && now < s.Due {
			s.HeldAt, s.AvoidedAt = now, now
			continue
		}
		if !force && !first.Advances() && !g.due(s, now, pending) {
			s.HeldAt = now
			continue
		}
		if at < place {
			best, behind, place = nil, nil, at
		}
		switch {
		case !expects:
			best = s
		case behind == nil || s.Ready.Len() < behind.Ready.Len():
			behind = s
		}
	}
	if best == nil {
		return behind
	}
	return best
}

// lead is how long before a lane's work ends its next op must be issued for the chip not to wait for it, ns: a driver call, and the way to
// the chip and back.
const lead = 10_000

// atOnce is how many commands there should be where launches are what bounds everybody: one that a thread executes, and its next one. More
// threads would make more launches a second of fewer ops each, and each call longer (docs/results.md, "Few issue threads").
const atOnce = 2

// flies says that nobody waits for a lane's next op if it is held, because of what the lane has in flight.
func flies(l *scoreboard.Lane, now int64) bool {
	n := l.InFlight()
	if l.Pace == 0 {
		return n > 1
	}
	return int64(n)*l.Pace-(now-l.Since) > lead
}

// due says whether a shape's ops go now.
func (g *Gather) due(s *scoreboard.Shape, now int64, pending int) bool {
	want := s.Expect
	op := s.Ready.First()
	flying := flies(op.Session.Lane(op.Lane), now)
	switch {
	case !g.pressed:
		return true
	case flying:
		// Its stream is busy with more of it: waiting costs nothing. So few do not settle for one another while others launch the same.
		want = max(want, s.Met)
	case pending < min(atOnce, g.options.Threads):
		return true // a thread has nothing to do, or soon: what comes next finds it busy, and goes together
	}
	if want > 1 {
		want = min(want, g.limit(s))
	}
	n := s.Ready.Len()
	if n >= want {
		return true
	}
	if now >= s.Due {
		return true
	}
	age := now - op.ReadyAt
	if age < 0 || (pending > max(1, min(atOnce, g.options.Threads)) && want > 1) {
		return false
	}
	t := s.Times.Of(want)
	if t == 0 {
		t = unknownTime
	}
	hold := min(g.hold(op), t/4)
	if flying { // a few wait longer than the many, or they would never meet
		hold = max(hold, g.options.Busy)
		if 2*n >= want {
			hold /= 2
		}
	}
	return age >= hold
}

// limit is how many ops of a shape are worth joining.
func (g *Gather) limit(s *scoreboard.Shape) int {
	forms := s.Code.Forms.Load()
	if s.LimitForms == forms && s.Words-s.LimitAt < 16 {
		return s.Limit
	}
	s.LimitForms, s.LimitAt, s.Limit = forms, s.Words, 1
	most, registers, static := 1, 0, 0
	for _, f := range *forms {
		if f.Refused.Load() || !f.Takes(s.Threads) || (f.Layout.Mapping == coalesce.ByZ && s.Grid[2] != 1) {
			continue
		}
		most = max(most, min(f.Layout.Capacity, MaxSlots))
		registers, static = max(registers, f.Registers), max(static, f.StaticShared)
	}
	s.Most = most
	if most > 1 && s.Blocks > 0 && s.Threads > 0 && s.Threads <= 1024 && s.Blocks <= math.MaxUint32/s.Threads {
		s.Limit = s.Times.Limit(int(s.Blocks), g.resident(s, registers, static), most, s.Words)
	}
	return s.Limit
}

func (g *Gather) resident(s *scoreboard.Shape, registers, static int) int {
	return g.options.Chip.Resident(int(s.Threads), registers, static+int(min(s.SharedBytes, 1<<20)))
}

// Build makes the word that a shape's first op leads. The ops stay where they are until Issued; nil batch and op: there is no
// room for a batch now.
func (g *Gather) Build(s *scoreboard.Shape) (w Word, ok bool) {
	lead := s.Ready.First()
	w = Word{Shape: s}
	limit := g.limit(s)
	if !g.pressed {
		limit = 1
	}
	if c := lead.Session.Class; c != nil && lead.Cost > 0 && c.Longest/lead.Cost < int64(limit) {
		limit = max(1, int(c.Longest/lead.Cost)) // a class above must not wait longer for the word
	}
	if limit > 1 || s.Limit > 1 {
		b := g.pool.peek()
		if b == nil {
			return w, false
		}
		// The lead may be the one that the form cannot take; then it goes alone, and the others after it.
		if f := g.choose(s, limit, b); f != nil && b.Count > 0 && b.Ops[0] == lead && (b.Count > 1 || single(b)) {
			w.Batch = b
		}
	}
	if w.Batch == nil {
		w.Op = lead
	}
	if w.Batch == nil || w.Batch.Alike {
		w.Measure = s.Times.Due(w.Len(), s.Words) || s.Wary > 0 && s.Words%waryEvery == 0
	} else {
		w.Measure = g.measures(&w.Batch.Pair, s)
	}
	for _, op := range w.Ops() {
		op.Held = max(0, s.HeldAt-op.ReadyAt)
		op.Avoided = s.AvoidedAt > op.ReadyAt
	}
	return w, true
}

// NoRoom leaves a shape's ops to the next pass: no word of them can be issued now.
func (g *Gather) NoRoom(s *scoreboard.Shape) { s.Tried = g.pass }

// Weigh learns what a shape's ops cost from what was measured. An instance that fills a third of the chip's places counts as all of it:
// more blocks than that slow each other down as much as they add (measurements.md, section 3: 32 × 64 blocks).
func (g *Gather) Weigh(s *scoreboard.Shape) {
	if s.Weight == 0 {
		const registers, third, least = 64, 3, 1.0 / 16
		s.Weight = min(1, max(least, third*float64(s.Blocks)/float64(g.resident(s, registers, 0))))
	}
	if s.Fill == 0 {
		s.Fill = min(1, float64(s.Blocks)/float64(g.resident(s, cmp.Or(s.Code.Registers, 64), s.Code.StaticShared)))
	}
	if alone := s.Times.Own(1); alone > 0 {
		s.Cost = max(1, int64(float64(alone)*s.Weight))
	}
}

// Cost is what each op of a word costs, ns of the whole chip: no more than its part of the word's time.
func (g *Gather) Cost(w *Word) int64 {
	s, n := w.Shape, w.Len()
	lead := max(w.Ops()[0].Cost, s.Cost)
	if lead == 0 {
		lead = unknownTime / 2
	}
	if n == 1 || s.Weight == 0 {
		return lead
	}
	t := s.Times.Own(n)
	if t == 0 {
		return lead
	}
	return max(1, min(t/int64(n), int64(float64(t)*s.Weight)))
}

// single says whether a batch of one op is better than the op by itself: when it spares the stream a write of the done word.
func single(b *Batch) bool {
	const small = 4096 // parameter bytes: more would cost the launch what the write costs
	return b.Ops[0].Signal && b.Form.Layout.Mapping == coalesce.ByZ && b.Form.Layout.ParamBytes <= small
}

// choose fills a batch with the ops that one form can take: the form with the cheapest mapping that takes most of what is there,
// and of the least capacity that does.
func (g *Gather) choose(s *scoreboard.Shape, limit int, b *Batch) *scoreboard.Form {
	forms := *s.Code.Forms.Load()
	want := min(s.Ready.Len(), limit)
	var plain, table *scoreboard.Form
	for _, f := range forms {
		if f.Refused.Load() || !f.Takes(s.Threads) {
			continue
		}
		l := &f.Layout
		switch {
		case l.Mapping == coalesce.ByZ && s.Grid[2] == 1:
			if plain == nil || plain.Layout.Capacity < want {
				plain = f
			}
		case l.Mapping == coalesce.ByTable && s.Flags == 0:
			if table == nil || len(f.Bodies) > len(table.Bodies) || table.Layout.Capacity < want {
				table = f
			}
		}
	}
	if table != nil && (plain == nil || len(g.shapes.Active()) > 1) {
		if n := g.reach(table, s); plain == nil || n > s.Ready.Len() && n > min(want, plain.Layout.Capacity) {
			g.fill(table, s, limit, b)
			if plain == nil || b.Count > min(want, plain.Layout.Capacity) {
				return b.Form
			}
		}
	}
	if plain == nil {
		return nil
	}
	g.fill(plain, s, limit, b)
	return b.Form
}

// reach is how many ready ops a form could take with those of s.
func (g *Gather) reach(f *scoreboard.Form, s *scoreboard.Shape) int {
	n := 0
	for _, c := range f.Bodies {
		for _, o := range c.ReadyShapes() {
			if o == s || joins(f, s, o) {
				n += o.Ready.Len()
			}
		}
	}
	return n
}

// joins says whether a form can launch ops of o together with those of s.
func joins(f *scoreboard.Form, s, o *scoreboard.Shape) bool {
	if o.Level > s.Level || o.Block != s.Block || o.Flags != s.Flags || o.Cluster != s.Cluster || o.ClusterPolicy != s.ClusterPolicy {
		return false
	}
	if o.SharedBytes != s.SharedBytes && f.Layout.ExactDynamicShared {
		return false
	}
	return f.Layout.Mapping == coalesce.ByTable || (o.Code == s.Code && o.Grid == s.Grid)
}

// fill puts ops into a batch: those of s, then of other shapes that the form can take, as long as there is room and it pays.
func (g *Gather) fill(f *scoreboard.Form, s *scoreboard.Shape, limit int, b *Batch) {
	b.Form, b.Count, b.Alike, b.Slice, b.Pair = f, 0, true, Slice{}, Pair{}
	room := min(f.Layout.Capacity, MaxSlots)
	g.take(f, s, min(room, limit), b)
	if b.Count == room || !g.pressed || f.Layout.Mapping == coalesce.ByZ && s.Level == 0 {
		return
	}
	budget := 4*g.resident(s, f.Registers, f.StaticShared) - b.Count*int(min(s.Blocks, 1<<30))
	longest := int64(math.MaxInt64) // how long the others may take, as limit is for those of s
	if c := s.Ready.First().Session.Class; c != nil {
		longest = c.Longest - int64(b.Count)*s.Ready.First().Cost
	}
	for _, c := range f.Bodies {
		for _, o := range c.ReadyShapes() {
			if o == s || !joins(f, s, o) || o.Blocks == 0 || int64(o.Blocks) > int64(budget) || o.Ready.First().Place() >= scoreboard.Blocked {
				continue // of the last: a class below it is to have its share now, and must not wait for company's blocks
			}
			if g.avoids(s, b.Ops[0], o) {
				g.apart(s.Code, scoreboard.ReasonCompany)
				continue
			}
			each := max(1, o.Ready.First().Cost)
			n := min(room-b.Count, g.limit(o), budget/int(o.Blocks), int(min(longest/each, MaxSlots)))
			if n <= 0 || (n == 1 && o.Limit == 1) {
				continue
			}
			if n = g.take(f, o, n, b); n > 0 {
				budget, longest = budget-n*int(o.Blocks), longest-int64(n)*each
				b.Alike = b.Alike && o.Code == s.Code && o.Grid == s.Grid
				b.Pair.add(g, s, b.Count-n, o, n)
			}
		}
	}
}

// take puts up to n ops of one shape into a batch.
func (g *Gather) take(f *scoreboard.Form, s *scoreboard.Shape, n int, b *Batch) int {
	body := bodyOf(f, s.Code)
	if body < 0 {
		return 0
	}
	size, names := uint64(f.Layout.BodyBytes[body]), 0
	if body < len(f.Layout.GlobalNames) {
		names = len(f.Layout.GlobalNames[body])
	}
	taken := 0
	for op := s.Ready.First(); op != nil && taken < n; op = op.Alike() {
		if op.Launch().ParamBytes < size || op.Kernel.Apart {
			continue
		}
		if names > 0 {
			if a := op.Kernel.Globals.Load(); a == nil || len(*a) != names {
				continue
			}
		}
		b.Ops[b.Count] = op
		b.Count++
		taken++
	}
	return taken
}

// Plain gives the shape of a launch that goes by itself, nil when it has none, and whether to measure it. A graph has none.
func (g *Gather) Plain(op *scoreboard.Op) (*scoreboard.Shape, bool) {
	if op.Kind == shm.KindGraph {
		return nil, op.Graph.Due()
	}
	if op.Kind != shm.KindLaunch || op.Kernel.Code == nil {
		return nil, false
	}
	s := scoreboard.Known(op)
	if s == nil {
		return nil, false
	}
	return s, s.Times.Due(1, s.Words) || due(op.Session) || s.Wary > 0 && s.Words%waryEvery == 0
}

// due says whether an op of a session that is served apart is measured: each during its trial, later one of eight.
func due(s *scoreboard.Session) bool {
	return s.Straggler == scoreboard.Tried || (s.Straggler > scoreboard.Tried && s.Launches%8 == 0)
}

// Learn takes how long a word of n ops of a shape took, ns, whose they were, and whether others ran beside it; lateness is how many
// times as long as it should: as the kernel takes by itself, or as long as so many instances need of the whole chip; 0: that is not
// known. waited is how much of that may be the issue thread's doing (Sample.Waited): it is nobody's lateness.
func (g *Gather) Learn(s *scoreboard.Shape, n int, ns, waited int64, of []*scoreboard.Session, beside bool) (lateness float64) {
	if own := s.Times.Own(1); own > 0 && s.Weight > 0 && ns > 0 {
		should := float64(own)*max(1, float64(n)*s.Weight) + jitter
		took := max(1, float64(ns-waited))
		if lateness = took / should; took < should+harmless {
			lateness = min(1, lateness)
		}
	}
	const late = 2
	if of[0].Straggler > scoreboard.Tried || (of[0].Straggler == scoreboard.Tried && lateness > late) {
		return lateness // what a straggler takes says nothing of others' ops
	}
	if beside {
		s.Times.AddBeside(n, ns)
	} else {
		s.Times.Add(n, ns)
	}
	s.Code.Use.Times.Add(n, ns)
	g.Weigh(s)
	return lateness
}

// Forget gives up what was measured of words of several ops: a straggler was in them.
func (g *Gather) Forget() {
	for part := range scoreboard.Parts {
		g.shapes.Each(part, func(s *scoreboard.Shape) { s.Times.Forget() })
	}
}

// PlainIssued counts a word of Plain.
func (g *Gather) PlainIssued(w *Word) {
	g.Words[Stream]++
	g.Slots[Stream]++
	g.pressure.count(1)
	g.Widths[0] += w.Op.Kernels() // each for itself
	if w.Shape != nil {
		w.Shape.Words++
		w.Shape.Code.Use.Launches++
		w.Op.Session.Launches++
	}
}

// Issued takes a word's ops out: they are on their way.
func (g *Gather) Issued(w *Word, now int64) {
	s := w.Shape
	ops := w.Ops()
	n := len(ops)
	u := &s.Code.Use
	path := Stream
	if w.Batch != nil {
		path = Coalesced
	}
	g.Words[path]++
	g.Slots[path] += uint64(n)
	g.Widths[cost.Bucket(n)]++
	g.pressure.count(n)
	there := s.Ready.Len()
	vain := n < s.Expect && there <= n
	for _, op := range ops {
		if waited := now - op.ReadyAt; waited > 0 {
			g.Held++
			g.HeldNanoseconds += uint64(waited)
			if vain {
				g.InVain++
			}
		}
		c := op.Kernel.Code
		c.Use.Launches++
		by := op.Session
		by.Launches++
		if n > 1 {
			c.Use.Coalesced++
			by.Joined++
			by.Slots += uint64(n)
		}
		if op.Signal && w.Batch != nil {
			g.InKernel++
		}
		g.shapes.Remove(op)
	}
	if w.Batch != nil {
		g.pool.take()
	}
	if s.Ready.Len() > 0 {
		s.Due = math.MaxInt64
		for op := s.Ready.First(); op != nil; op = op.Alike() {
			s.Due = min(s.Due, op.ReadyAt+g.patience(op))
		}
	}
	if g.wary {
		g.keepOff(w, now)
	}
	s.Words++
	if n >= s.Expect {
		s.Expect = n
	} else if vain {
		s.Expect -= max(1, (s.Expect-n)/4)
	}
	if n > 1 {
		g.Joined += uint64(n)
		u.Words++
		u.Slots += uint64(n)
	}
	g.why(w, s, there, n)
}

// why counts the reason for which a word was not wider, and tells the forms' maker what would have helped.
func (g *Gather) why(w *Word, s *scoreboard.Shape, there, n int) {
	d := g.options.Demand
	switch {
	case there > n && s.Most == 1:
		g.apart(s.Code, scoreboard.ReasonShape) // no form for such a grid
		if d != nil {
			d.Together(s.Code, there, s.Grid[2] == 1)
		}
	case there > n && n >= s.Limit && s.Limit < s.Most:
		g.apart(s.Code, scoreboard.ReasonCost)
	case there > n:
		g.apart(s.Code, scoreboard.ReasonFull)
		if d != nil {
			d.Together(s.Code, there, s.Grid[2] == 1)
		}
	case len(s.Code.ReadyShapes()) > 0:
		others := 0
		why := scoreboard.ReasonPriority
		for _, o := range s.Code.ReadyShapes() {
			others += o.Ready.Len()
			if o.Level <= s.Level {
				why = scoreboard.ReasonShape
			}
		}
		g.apart(s.Code, why)
		if d != nil && s.Limit > 1 && why == scoreboard.ReasonShape {
			d.Together(s.Code, n+others, false)
		}
	case n == 1:
		g.apart(s.Code, scoreboard.ReasonAlone)
	}
	if d != nil && n > 1 {
		d.Together(s.Code, n, s.Grid[2] == 1)
	}
	if d != nil && s.Limit > 1 && n <= scoreboard.SmallCapacity/2 && len(g.shapes.Active()) > 0 {
		if g.looks++; g.looks%besideEvery == 0 {
			g.beside(s)
		}
	}
}

// besideEvery is one in how many words is asked what else was ready.
const besideEvery = 16

// beside tells which other kernels had few ops ready with those of s, of a block that one launch can have.
func (g *Gather) beside(s *scoreboard.Shape) {
	var codes [coalesce.MaxBodies]*scoreboard.Code
	codes[0] = s.Code
	n := 1
	for _, o := range g.shapes.Active() {
		if o.Block != s.Block || o.Flags != 0 || o.Code == s.Code || o.Limit == 1 || n == 3 {
			continue
		}
		if n == 1 || codes[1] != o.Code {
			codes[n] = o.Code
			n++
		}
	}
	if n > 1 {
		g.options.Demand.Beside(codes[:n], int64(n-1)*besideEvery*cmp.Or(g.each, launchCost), g.now)
	}
}
