package simulate

import (
	"container/heap"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// baseline is a scheduler to compare with: it issues one op a launch, in one of three orders. So that its order decides, it keeps
// little in flight: it knows how long ops take. It knows nothing of classes but the objectives (edf), whose ops have the more urgent
// half of the streams then.
type baseline struct {
	d     *device
	ranks func(o *op) int64
	edf   bool
	heap  opHeap
	turn  []int64 // round robin: the round of each client's next op
	round int64
}

// Bounds on what a baseline has in flight: launches on their way to the chip, and work, ns of the whole chip.
const (
	baselineIssued = 4
	baselineWork   = 300e3
)

func newBaseline(d *device, name string) *baseline {
	b := &baseline{d: d, turn: make([]int64, len(d.r.clients))}
	switch name {
	case "fifo":
		b.ranks = func(*op) int64 { return 0 } // the order in which ops were submitted
	case "round-robin":
		b.ranks = func(o *op) int64 {
			t := max(b.turn[o.c.slot], b.round)
			b.turn[o.c.slot] = t + 1
			return t
		}
	case "edf":
		b.ranks = func(o *op) int64 { return o.req.deadline }
		b.edf = true
	}
	return b
}

func (b *baseline) submit(*op)                    {}
func (b *baseline) waits(*client)                 {}
func (b *baseline) completed(*lane, *client, int) {}

func (b *baseline) level(o *op) int {
	if b.edf && o.req.deadline == never {
		return 1
	}
	return 0
}

func (b *baseline) streams(o *op) (first, count int) {
	n := b.d.chip.Streams
	switch {
	case !b.edf || n < 2:
		return 0, n
	case b.level(o) == 0:
		return 0, n / 2
	}
	return n / 2, n - n/2
}

func (b *baseline) window(o *op) int {
	bounds := dispatch.Default()
	return bounds.Widest(scoreboard.Window{Pace: o.ln.Pace, Joins: true})
}

func (b *baseline) offer(o *op) {
	o.Latest = b.ranks(o)
	heap.Push(&b.heap, o)
}

func (b *baseline) pass() (again int64) {
	for len(b.heap) > 0 && b.d.pending+len(b.d.issued) < baselineIssued*b.d.chip.Issuers && b.d.work < baselineWork {
		o := heap.Pop(&b.heap).(*op)
		o.Signal = true
		if !b.d.issue([]*op{o}, nil, b.level(o), false, nil) {
			heap.Push(&b.heap, o)
			break
		}
		b.round = max(b.round, o.Latest)
		b.d.look(o.c, o.ln)
	}
	return never // there is room again only when something ends
}

// opHeap has the op of the least Latest first, then the one submitted first.
type opHeap []*op

func (h opHeap) Len() int           { return len(h) }
func (h opHeap) Less(i, j int) bool { return h[i].Before(&h[j].Op) }
func (h opHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are heap.Interface's.
func (h *opHeap) Push(x any) { *h = append(*h, x.(*op)) }

// Pop takes the last.
func (h *opHeap) Pop() any {
	old := *h
	o := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return o
}

// oracle is what no scheduler can be: it knows how long every op of a request will take, launches cost nothing and take no time,
// ops leave the chip and come back at no cost, and as many as the chip has room for run together, as if joined. Requests that can
// still meet their objective come first, the earliest deadline first; all others share what is left in the order of arrival. It
// knows no priority and no share: it is the bound on how many requests can meet their objectives.
type oracle struct {
	r       *run
	heap    opHeap
	running []fluid
	since   int64
	dirty   bool
}

// fluid is an op on the oracle's chip, at a part of its full speed.
type fluid struct {
	o    *op
	rate float64
}

func (b *oracle) submit(o *op) {
	if len(o.ln.waiting) == 1 && o.ln.InFlight() == 0 {
		b.ready(o)
	}
}

func (b *oracle) waits(*client) {}

// ready takes the first op of a lane: from now on it may run.
func (b *oracle) ready(o *op) {
	o.left, o.Latest = float64(o.ns), never+o.req.arrived
	if slowest := slices.Max(o.c.remaining); o.req.deadline < never && b.r.now+slowest <= o.req.deadline {
		o.Latest = o.req.deadline
	}
	o.ln.Issued = o.Seq
	b.r.leaves(o)
	heap.Push(&b.heap, o)
	b.dirty = true
}

func (b *oracle) next() int64 {
	at := never
	if b.dirty {
		at = b.r.now
	}
	for _, f := range b.running {
		at = min(at, b.since+max(1, int64(f.o.left/f.rate+0.999)))
	}
	return at
}

func (b *oracle) step() {
	now := b.r.now
	by := float64(now - b.since)
	b.since = now
	kept := b.running[:0]
	var over []*op
	for _, f := range b.running {
		if f.o.left -= by * f.rate; f.o.left > 1e-3 {
			kept = append(kept, f)
		} else {
			over = append(over, f.o)
		}
	}
	b.running = kept
	for _, o := range over {
		ln := o.ln
		ln.Done = o.Seq
		if len(ln.waiting) > 0 {
			b.ready(ln.waiting[0])
		}
		b.r.done(o, float64(o.ns)*o.k.need, 1)
		b.dirty = true
	}
	for len(b.r.events) > 0 && b.r.events[0].at <= now {
		b.r.act(b.r.events[0])
	}
	if b.dirty {
		b.dirty = false
		b.place()
	}
}

// place gives the chip to the ops that come first.
func (b *oracle) place() {
	sum := 0.0
	for _, f := range b.running {
		sum += f.o.k.need
	}
	for len(b.heap) > 0 {
		o := b.heap[0]
		if sum >= 1 && !slices.ContainsFunc(b.running, func(f fluid) bool { return o.Before(&f.o.Op) }) {
			break
		}
		heap.Pop(&b.heap)
		b.running = append(b.running, fluid{o: o})
		sum += o.k.need
	}
	slices.SortFunc(b.running, func(x, y fluid) int {
		if x.o.Before(&y.o.Op) {
			return -1
		}
		return 1
	})
	used := 0.0
	for i := range b.running {
		f := &b.running[i]
		need := f.o.k.need
		if f.rate = min(1, (1-used)/need); f.rate <= 1e-6 {
			for _, f := range b.running[i:] {
				heap.Push(&b.heap, f.o)
			}
			b.running = b.running[:i]
			return
		}
		used += need * f.rate
	}
}
