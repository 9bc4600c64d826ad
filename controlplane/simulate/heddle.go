package simulate

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/straggle"
	execword "github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// Bounds of the executor's poller (executor.Tuning's defaults), on which the scheduler's surroundings depend.
const (
	gatherHold   = int64(20e3)
	busy         = int64(30e3)
	ahead        = int64(100e3)
	wordsPerPass = 16
	newAhead     = 8
	newWindow    = 32
	minWindow    = 4
	shortOp      = int64(50e3)
	progress     = int64(1e6)
	// instances is how many ops a form holds.
	instances = 64
	// heldAgain and blockedAgain are how soon a pass comes when ops are held, or nothing may go: the real poller spins.
	heldAgain, blockedAgain = int64(2e3), int64(50e3)
)

// heddle is the real scheduler and the real gather, driven as the executor's poller drives them. Every kernel has a rewritten form
// from the start unless the scenario says otherwise.
type heddle struct {
	d            *device
	sched        *sched.Scheduler
	gather       *execword.Gather
	clients      []*sched.Client
	levels       map[int32]int // priority → place among those that there are
	passes       uint64
	lastComplete int64
	ops          []*op // of the word at hand
	demand       *scoreboard.Demand
	company      *company.Table
	stragglers   straggle.Watch
	cuts         map[*scoreboard.Op]*cut
	later        []*scoreboard.Op
}

// settings are what the daemon tells an executor of a class.
func settings(p *policy.Policy, c *policy.Class) sched.Settings {
	factor := 0.0
	if c.Straggler != "tolerate" {
		factor = c.StragglerFactor
	}
	return sched.Settings{
		Latency: int64(c.LatencyP99), QueueDelay: int64(c.MaxQueueDelay), MaxWait: int64(c.MaxWait),
		MaxQueue:  int(c.MaxQueueSize),
		Straggler: factor, MinShare: c.MinShare, Priority: int32(c.Priority), Coalesce: c.Coalesce && p.Daemon.Coalesce, DelayLate: c.TimeoutAction == "delay",
	}
}

func newHeddle(d *device, p *policy.Policy) (*heddle, error) {
	demand := scoreboard.NewDemand()
	o := execword.Options{Chip: d.chip.cost(), Hold: gatherHold, Busy: busy, Demand: demand}
	if !d.r.sc.Blind {
		o.Company = company.New()
	}
	g, err := execword.NewGather(o)
	if err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	h := &heddle{d: d, sched: sched.New(), gather: g, company: o.Company, levels: map[int32]int{}, demand: demand, cuts: map[*scoreboard.Op]*cut{}}
	for i, c := range d.r.codes {
		if d.r.sc.kernels[i].Alone {
			continue
		}
		h.publish(coalesce.ByZ, instances, c)
	}
	for _, c := range d.r.clients {
		t := settings(p, c.class.Class)
		h.stragglers.Attach(c.board).Factor(t.Straggler, false) // the chip has one context
		h.clients = append(h.clients, h.sched.Attach(c.board, h.sched.Set(c.class.Name, t)))
	}
	for i, v := range h.sched.Priorities() {
		h.levels[v] = i
	}
	return h, nil
}

// publish gives kernels a form.
func (h *heddle) publish(m coalesce.Mapping, capacity int, codes ...*scoreboard.Code) {
	l := coalesce.Layout{Mapping: m, Capacity: capacity, Stride: 8, ParamBytes: 8 * capacity, Align: 8}
	f := &scoreboard.Form{Bodies: codes, Limit: &atomic.Uint32{}}
	for _, c := range codes {
		k := h.d.r.sc.kernels[c.ID-1]
		l.BodyBytes, l.GlobalNames = append(l.BodyBytes, 8), append(l.GlobalNames, nil)
		f.Registers = max(f.Registers, k.Registers)
		f.Limit.Store(max(f.Limit.Load(), uint32(k.Shared)))
	}
	f.Layout = l
	scoreboard.Publish(f)
}

func (h *heddle) submit(o *op) { h.sched.Arrive(h.clients[o.c.slot], &o.Op, h.d.r.now) }

// waits: the host waits for the lane in which it submitted last.
func (h *heddle) waits(c *client) {
	q := c.current
	ln := c.lanes[q.ops[len(q.ops)-1].lane]
	h.sched.Wait(h.clients[c.slot], ln.Index, ln.Scanned, h.d.r.now)
}

// level is the urgency of a client's streams.
func (h *heddle) level(o *op) int { return h.levels[int32(o.c.class.Priority)] }

// streams are divided among the priorities that there are.
func (h *heddle) streams(o *op) (first, count int) {
	n, level := h.d.chip.Streams, h.level(o)
	levels := min(len(h.levels), n)
	level = min(level, levels-1)
	first = level * n / levels
	return first, (level+1)*n/levels - first
}

// window is how many ops of a lane may be in flight, as the poller has it.
func (h *heddle) window(o *op) int {
	if o.Session.Straggler >= scoreboard.Limited {
		return 1
	}
	return window(o, execword.Joins(&o.Op))
}

func window(o *op, joins bool) int {
	pace := o.ln.Pace
	switch {
	case joins && pace == 0:
		return newAhead
	case joins:
		return min(newWindow, max(2, int(ahead/pace)))
	case pace > shortOp:
		return max(minWindow, int(newWindow*shortOp/pace))
	}
	return newWindow
}

func (h *heddle) offer(o *op) {
	h.sched.Ready(&o.Op, h.d.r.now)
	if !h.gather.Add(&o.Op, h.level(o)) {
		if o.Cost == 0 {
			o.Cost = sched.Unknown
		}
		h.sched.Add(&o.Op)
	}
}

// pass is the poller's.
func (h *heddle) pass() (again int64) {
	d, now := h.d, h.d.r.now
	h.passes++
	h.gather.Begin(h.passes)
	h.wishes()
	if d.flying == 0 {
		h.lastComplete = now
	}
	stuck := now - h.lastComplete
	if stuck < progress {
		stuck = 0
	}
	if evicted := h.stragglers.Evictions; h.stragglers.Look(now) && h.stragglers.Evictions != evicted {
		h.gather.Forget()
	}
	h.sched.Begin(now, stuck)
	h.gather.Uneven = h.sched.Uneven
	for words := 0; ; {
		var s *scoreboard.Shape
		if h.gather.Len() > 0 && words < wordsPerPass {
			if s = h.gather.Next(now, false, stuck > 0); s == nil {
				words = wordsPerPass
			}
		}
		o := h.sched.Peek()
		if s != nil && (o == nil || !before(o, s.Ready.First())) {
			words++
			h.join(s)
			continue
		}
		if o == nil {
			break
		}
		h.sched.Next()
		if o.Cuts && h.slice(o) {
			continue
		}
		if d.full() {
			h.later = append(h.later, o)
			continue
		}
		w := execword.One(o)
		w.Shape, w.Measure = h.gather.Plain(o)
		cost := o.Cost
		h.issue(&w)
		h.gather.PlainIssued(&w)
		h.sched.Issued(o, cost, true, 1, now)
	}
	for i, o := range h.later {
		h.sched.Add(o)
		h.later[i] = nil
	}
	h.later = h.later[:0]
	switch {
	case d.full():
		return never // asked again when there is room
	case h.gather.Len() > 0:
		return now + heldAgain
	case h.sched.Len() > 0:
		return now + blockedAgain
	}
	return never
}

// before is the poller's: an op by itself goes before a shape's.
func before(o, first *scoreboard.Op) bool {
	a, b := o.Place(), first.Place()
	return a < b || (a == b && o.Before(first))
}

// join issues a word of a shape's ops.
func (h *heddle) join(s *scoreboard.Shape) {
	w, ok := execword.Word{}, false
	if !h.d.full() {
		w, ok = h.gather.Build(s)
	}
	if !ok {
		s.Tried = h.passes
		return
	}
	h.issue(&w)
	h.gather.Issued(&w, h.d.r.now)
	cost := h.gather.Cost(&w)
	for _, o := range w.Ops() {
		h.sched.Issued(o, cost, true, w.Len(), h.d.r.now)
		c := h.d.r.clients[o.Session.Slot]
		h.d.look(c, c.lanes[o.Lane])
	}
}

// issue hands a word to the chip.
func (h *heddle) issue(w *execword.Word) {
	h.ops = h.ops[:0]
	for _, o := range w.Ops() {
		h.ops = append(h.ops, h.d.r.clients[o.Session.Slot].lanes[o.Lane].waiting[0])
	}
	var measured func(int64)
	var beside *execword.Beside
	if s := w.Shape; s != nil && w.Measure {
		n := w.Len()
		s.Samples++
		of := make([]*scoreboard.Session, 0, n)
		for _, o := range w.Ops() {
			of = append(of, o.Session)
		}
		beside = &execword.Beside{}
		var pair execword.Pair
		if w.Batch != nil && !w.Batch.Alike {
			pair = w.Batch.Pair
		}
		measured = func(ns int64) {
			s.Samples--
			beside.Ended(h.busy())
			if pair.Shapes > 0 {
				h.gather.MetPair(s, &pair, beside, ns, h.d.r.now)
				return
			}
			h.gather.Met(s, n, ns, of, beside, h.d.r.now)
			h.stragglers.Sample(of, h.gather.Learn(s, n, ns, of, beside.Any()))
		}
	}
	stream := h.d.issue(h.ops, h.level(h.ops[0]), measured)
	if beside != nil {
		h.beside(beside, stream)
	}
}

// beside notes what is on the other streams, as the issue engine does.
func (h *heddle) beside(b *execword.Beside, stream int) {
	b.Own = stream
	for i, q := range h.d.queues {
		if i == stream || len(q) == 0 {
			continue
		}
		last := q[len(q)-1]
		s, fill := scoreboard.Known(&last.ops[0].Op), 0.0
		if s != nil {
			fill = s.Fill
		}
		key := last.ops[0].Key()
		for _, o := range last.ops[1:] {
			if o.k != last.ops[0].k {
				key = 0
			}
		}
		b.Add(i, key, fill)
	}
}

// busy are the streams that hold something.
func (h *heddle) busy() (streams uint64) {
	for i, q := range h.d.queues {
		if len(q) > 0 {
			streams |= 1 << i
		}
	}
	return streams
}

func (h *heddle) completed(ln *lane, c *client) {
	h.lastComplete = h.d.r.now
	h.sched.Completed(h.clients[c.slot], ln.Lane, 1, h.d.r.now)
}

// Names of the schedulers that are compared, in the order of the report.
var Names = []string{"heddle", "fifo", "round-robin", "edf", "oracle"}

// start makes the run's backend.
func (r *run) start(name string, p *policy.Policy) (err error) {
	switch name {
	case "oracle":
		r.backend = &oracle{r: r}
	case "heddle":
		r.backend = newDevice(r, func(d *device) picker {
			var h *heddle
			h, err = newHeddle(d, p)
			return h
		})
	default:
		i := slices.Index(Names, name)
		if i < 0 {
			return fmt.Errorf("simulate: there is no scheduler %q; there are %v", name, Names)
		}
		r.backend = newDevice(r, func(d *device) picker { return newBaseline(d, name) })
	}
	return err
}
