package simulate

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/straggle"
	execword "github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// instances is how many ops a form holds; heldAgain and blockedAgain are how soon a pass comes when ops are held, or nothing may go: the
// real poller spins.
const (
	instances               = 64
	heldAgain, blockedAgain = int64(500), int64(50e3)
)

// heddle is the real dispatch, driven as the executor's poller drives it. Every kernel has a rewritten form
// from the start unless the scenario says otherwise.
type heddle struct {
	dispatch.Dispatch
	d            *device
	clients      []*sched.Client
	levels       map[int32]int  // priority → place among those that there are
	long         map[int32]bool // priorities of which some clients' requests are much longer than others'
	lastComplete int64
	ops          []*op // of the word at hand
	demand       *scoreboard.Demand
	company      *company.Table
	stragglers   straggle.Watch
	cuts         map[*scoreboard.Op]*cut
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
	demand.Costs(1) // nothing has to be compiled here
	o := execword.Options{
		Chip: d.chip.cost(), Hold: int64(dispatch.Gather), Busy: int64(dispatch.Busy), Demand: demand,
		Calls: func() int64 { return d.calls }, Threads: d.chip.Issuers,
	}
	bounds := dispatch.Default()
	if v := int64(d.r.sc.Ahead); v > 0 {
		bounds.Ahead = v
	}
	if v := int64(d.r.sc.Gather); v > 0 { // as in an executor: all wait so long, whatever bounds them
		o.Hold, o.Busy, o.Calls, o.Threads = v, v, nil, 0
	}
	if !d.r.sc.Blind {
		o.Company = company.New()
	}
	g, err := execword.NewGather(o)
	if err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	h := &heddle{
		Dispatch: dispatch.Dispatch{Bounds: bounds, Sched: sched.New(), Gather: g},
		d:        d, company: o.Company, levels: map[int32]int{}, long: map[int32]bool{}, demand: demand, cuts: map[*scoreboard.Op]*cut{},
	}
	for i, c := range d.r.codes {
		if d.r.sc.kernels[i].Alone {
			continue
		}
		h.publish(coalesce.ByZ, instances, c)
	}
	for _, c := range d.r.clients {
		t := settings(p, c.class.Class)
		if v := int64(d.r.sc.Gather); v > 0 {
			t.QueueDelay = v
		}
		h.stragglers.Attach(c.board).Factor(t.Straggler, false) // the chip has one context
		h.clients = append(h.clients, h.Sched.Attach(c.board, h.Sched.Set(c.class.Name, t)))
	}
	for i, v := range h.Sched.Priorities() {
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

func (h *heddle) submit(o *op) { h.Sched.Arrive(h.clients[o.c.slot], &o.Op, h.d.r.now) }

// waits: the host waits for the lane in which it submitted last.
func (h *heddle) waits(c *client) {
	h.Sched.Wait(h.clients[c.slot], c.last.Index, c.last.Scanned, h.d.r.now)
}

// level is the urgency of a client's streams.
// level is that of a client's streams: its priority's, and there the less urgent of two while its requests are much longer than others'.
func (h *heddle) level(o *op) int {
	level := 2 * h.levels[int32(o.c.class.Priority)]
	if h.clients[o.c.board.Slot].Long() {
		level++
	}
	return level
}

// streams are divided among the priorities that there are, those of a priority among long requests and others, where there are both.
func (h *heddle) streams(o *op) (first, count int) {
	n, level := h.d.chip.Streams, h.levels[int32(o.c.class.Priority)]
	levels := min(len(h.levels), n)
	level = min(level, levels-1)
	first = level * n / levels
	end := (level + 1) * n / levels
	if half := (first + end) / 2; half > first && h.long[int32(o.c.class.Priority)] {
		if h.clients[o.c.board.Slot].Long() {
			first = half
		} else {
			end = half
		}
	}
	return first, end - first
}

// relevel finds the priorities with clients of both kinds.
func (h *heddle) relevel() {
	h.Sched.Relevel = false
	clear(h.long)
	for _, c := range h.clients {
		if c.Long() {
			h.long[c.Class().Settings.Priority] = true
		}
	}
}

func (h *heddle) window(o *op) int {
	return h.Window(o.ln.Lane)
}

func (h *heddle) offer(o *op) {
	h.Sched.Ready(&o.Op, h.d.r.now)
	h.Ready(&o.Op, h.level(o), false)
}

// pass is the poller's.
func (h *heddle) pass() (again int64) {
	d, now := h.d, h.d.r.now
	h.Gather.Begin(d.passes)
	h.wishes()
	if d.flying == 0 {
		h.lastComplete = now
	}
	stuck := now - h.lastComplete
	if stuck < int64(dispatch.Progress) {
		stuck = 0
	}
	if h.Sched.Relevel {
		h.relevel()
	}
	if evicted := h.stragglers.Evictions; h.stragglers.Look(now) && h.stragglers.Evictions != evicted {
		h.Gather.Forget()
	}
	h.Alone = d.r.active <= 1
	h.Run(h, now, stuck, d.pending)
	switch {
	case h.Gather.Len() > 0:
		return now + heldAgain
	case h.Sched.Len() > 0:
		return now + blockedAgain
	}
	return never
}

// Single issues an op by itself.
func (h *heddle) Single(o *scoreboard.Op) bool {
	h.Signal(o, false)
	w := execword.One(o)
	w.Shape, w.Measure = h.Gather.Plain(o)
	cost := o.Cost
	if !h.Issue(&w) {
		return false
	}
	h.Gather.PlainIssued(&w)
	h.Sched.Issued(o, cost, o.Signal, 1, h.d.r.now)
	return true
}

// Begun needs to do nothing: device.issue has counted the op.
func (h *heddle) Begun(*scoreboard.Op) {}

// Offer offers what follows in a lane.
func (h *heddle) Offer(s *scoreboard.Session, l *scoreboard.Lane) {
	c := h.d.r.clients[s.Slot]
	h.d.look(c, c.lanes[l.Index])
}

// Goes and Graphs are for graphs, which scenarios have none of.
func (h *heddle) Goes(*scoreboard.Op) bool { return true }

// Graphs has nothing to issue.
func (h *heddle) Graphs(*scoreboard.Shape, *scoreboard.Op, bool, bool) (taken, issued bool) {
	return false, false
}

// Issue hands a word to the device.
func (h *heddle) Issue(w *execword.Word) bool {
	h.ops = h.ops[:0]
	for _, o := range w.Ops() {
		h.ops = append(h.ops, of(o))
	}
	var measured func(int64)
	var beside *execword.Beside
	if s := w.Shape; s != nil && w.Measure {
		n := w.Len()
		s.Samples++
		session := make([]*scoreboard.Session, 0, n)
		for _, o := range w.Ops() {
			session = append(session, o.Session)
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
				h.Gather.MetPair(s, &pair, beside, ns, h.d.r.now)
				return
			}
			h.Gather.Met(s, n, ns, session, beside, h.d.r.now)
			h.stragglers.Sample(session, h.Gather.Learn(s, n, ns, 0, session, beside.Any()))
		}
	}
	if !h.d.issue(h.ops, nil, h.level(h.ops[0]), w.Batch == nil, measured) {
		if measured != nil {
			w.Shape.Samples--
		}
		return false
	}
	if beside != nil {
		h.beside(beside, h.ops[0].ln.Stream)
	}
	return true
}

// beside notes what is on the other streams, as the issue engine does.
func (h *heddle) beside(b *execword.Beside, stream int) {
	b.Own = stream
	for i, q := range h.d.queues {
		for len(q) > 0 && q[len(q)-1].writes != nil {
			q = q[:len(q)-1]
		}
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

func (h *heddle) completed(ln *lane, c *client, ops int) {
	h.lastComplete = h.d.r.now
	h.Sched.Completed(h.clients[c.slot], ln.Lane, ops, h.d.r.now)
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
