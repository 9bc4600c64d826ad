package simulate

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/shm"
)

// never is later than everything.
const never = int64(math.MaxInt64 / 4)

// waitingMost is how many ops of a client wait before its launches block, as a full ring makes them, when its class has no bound.
const waitingMost = 1024

// op is one launch.
type op struct {
	scoreboard.Op
	c   *client
	ln  *lane
	req *request
	k   *Kernel
	ns  int64 // alone on the chip

	width int     // ops in its word
	left  float64 // the oracle's: of ns
}

// lane is a stream of a client: its ops run one after another.
type lane struct {
	*scoreboard.Lane
	c         *client
	submitted uint32 // the last number that the client gave
	waiting   []*op  // submitted and not issued
	flying    []*op  // issued, and not known done
	executed  uint32 // the last number that ran
	written   uint32 // the last number that a done word said
}

// request is a request of a client.
type request struct {
	arrived, deadline int64
	gap               int64
	ops               []planned
	next, left        int // to submit, to end
}

// client is one client of a run.
type client struct {
	spec  *Client
	class *class
	slot  int
	board *scoreboard.Session
	lanes []*lane
	codes map[int]*scoreboard.Kernel // by kernel

	arrivals, jitter *rand.Rand // apart: what arrives does not depend on how it is scheduled
	rate             float64
	next             int64 // arrival
	burst            int   // requests that still come with it
	traced           int   // requests of the trace that came
	backlog          []request
	current          *request // whose ops it submits, and of which it waits for the end unless it streams; nil between requests
	times, remaining []int64  // of its ops; by lane, of those that have not ended
	submitAt         int64
	last             *lane // of its last op
	ring             []record
	touched          bool   // the poller looks at it in its next pass
	scanned          uint64 // the pass in which it last read records
	stopped          bool   // it waits for room
	waiting          int
	at               int64 // its next event
	place            int   // in run.events, -1: none

	flying         int // ops submitted that have not ended
	done, requests uint64
	work           float64 // of the whole chip, ns
	met            uint64
}

// class is a class of clients.
type class struct {
	*policy.Class
	clients   []*client
	limit     int
	latencies []int64
	requests  uint64 // that ended before the end of arrivals
	met       uint64
	ops       uint64
	words     float64
	work      float64
}

// backend executes ops.
type backend interface {
	// submit takes an op that became its lane's last; waits says that the client waits for all it has submitted.
	submit(o *op)
	waits(c *client)
	// next is when something happens by itself; step makes everything that is due happen, and what follows from it.
	next() int64
	step()
}

// run is one scheduler with one load.
type run struct {
	sc      *Scenario
	end     int64 // of arrivals
	now     int64
	clients []*client
	classes map[string]*class
	codes   []*scoreboard.Code
	events  events
	backend backend
	pool    []*op
	ops     uint64 // submitted
	ended   uint64
	active  int // clients with ops that have not ended
	planned int // ops of all requests that arrived
	watch   func(what string, o *op)
}

func newRun(sc *Scenario, p *policy.Policy, load float64, seed uint64) (*run, error) {
	r := &run{sc: sc, end: int64(sc.Duration), classes: map[string]*class{}}
	for i, k := range sc.kernels {
		h := fnv.New64a()
		fmt.Fprint(h, sc.names[i], k.Blocks, k.Threads)
		r.codes = append(r.codes, &scoreboard.Code{ID: uint32(i + 1), Image: h.Sum64(), Name: sc.names[i]})
	}
	expected := 0.0
	for i, spec := range sc.Clients {
		chosen := p.Classes[spec.Class]
		if spec.Class == "" {
			facts := policy.Client{UID: spec.UID, GID: spec.GID, Exe: spec.Exe, Cgroup: spec.Cgroup, Label: spec.Label}
			chosen = p.Select(facts, false).Class
		}
		if chosen == nil {
			return nil, fmt.Errorf("scenario %s: client %d is of class %q, which the policy does not have; it has %v",
				sc.Name, i, spec.Class, sorted(p.Classes))
		}
		k := r.classes[chosen.Name]
		if k == nil {
			k = &class{Class: chosen, limit: waitingMost}
			if chosen.MaxQueueSize > 0 {
				k.limit = min(k.limit, int(chosen.MaxQueueSize))
			}
			r.classes[chosen.Name] = k
		}
		for range spec.Count {
			r.client(spec, k, load, seed)
		}
		if spec.Rate > 0 {
			expected += float64(spec.Count*len(sc.Requests[spec.Request].template)) * spec.Rate * load * float64(sc.Duration) / 1e9
		}
	}
	if expected > MaxOps {
		return nil, fmt.Errorf("scenario %s: about %.3g ops would arrive in %v at load %g; at most %d are simulated: shorten it, or lower rates",
			sc.Name, expected, timeOf(int64(sc.Duration)), load, MaxOps)
	}
	return r, nil
}

func (r *run) client(spec *Client, k *class, load float64, seed uint64) {
	slot := len(r.clients)
	c := &client{
		spec: spec, class: k, slot: slot, codes: map[int]*scoreboard.Kernel{}, place: -1,
		arrivals: rand.New(rand.NewPCG(seed, uint64(2*slot))), jitter: rand.New(rand.NewPCG(seed, uint64(2*slot+1))),
		rate: spec.Rate * load, next: int64(spec.Start),
	}
	lanes := 1
	if spec.requests == nil {
		lanes = r.sc.Requests[spec.Request].lanes
	}
	for _, a := range spec.requests {
		for _, o := range a.ops {
			lanes = max(lanes, o.lane+1)
		}
	}
	c.board = scoreboard.Bare(uint64(slot+1), lanes)
	c.board.Slot = slot
	c.remaining = make([]int64, lanes)
	for i := range lanes {
		c.lanes = append(c.lanes, &lane{Lane: c.board.Lane(uint32(i)), c: c})
	}
	switch spec.Arrivals {
	case "closed", "stream":
		c.next += c.thought()
	case "trace":
		c.next = spec.requests[0].at
	default:
		c.next += c.gap()
	}
	r.clients = append(r.clients, c)
	k.clients = append(k.clients, c)
	c.at = c.next
	heap.Push(&r.events, c)
}

// gap is the time from one burst to the next, which a request without bursts is.
func (c *client) gap() int64 {
	n := 1
	if c.spec.Arrivals == "bursty" {
		n = c.spec.Burst
	}
	c.burst = n
	return 1 + int64(min(c.arrivals.ExpFloat64()*1e9*float64(n)/c.rate, 1e18))
}

func (c *client) thought() int64 {
	if c.spec.Think == 0 {
		return 0
	}
	return int64(c.arrivals.ExpFloat64() * float64(c.spec.Think))
}

// arrive puts a request that arrives now into the client's backlog.
func (r *run) arrive(c *client) {
	q := request{arrived: c.next, deadline: never}
	if d := int64(c.class.LatencyP99); d > 0 {
		q.deadline = c.next + d
	}
	if c.spec.requests != nil {
		a := &c.spec.requests[c.traced]
		q.gap, q.ops = a.gap, a.ops
		c.traced++
	} else {
		t := r.sc.Requests[c.spec.Request]
		q.gap, q.ops = int64(t.Gap), t.template
	}
	r.planned += len(q.ops)
	c.backlog = append(c.backlog, q)
}

// act does what is due for a client: requests arrive, and the host submits ops as fast as it can.
func (r *run) act(c *client) {
	for c.next <= r.now && c.next < r.end && r.planned <= MaxOps {
		switch c.spec.Arrivals {
		case "closed", "stream":
			r.arrive(c)
			c.next = never
		case "trace":
			r.arrive(c)
			c.next = never
			if c.traced < len(c.spec.requests) {
				c.next = c.spec.requests[c.traced].at
			}
		default:
			for range c.burst {
				r.arrive(c)
			}
			c.next += c.gap()
		}
	}
	if c.current == nil && len(c.backlog) > 0 {
		r.begin(c)
	}
	for q := c.current; q != nil && q.next < len(q.ops) && c.submitAt <= r.now; {
		if c.waiting >= c.class.limit || (c.spec.Queue > 0 && c.flying >= c.spec.Queue) {
			c.stopped = true
			break
		}
		r.submit(c, q)
		c.submitAt = r.now + q.gap
		if q.next == len(q.ops) && c.spec.Arrivals == "stream" {
			c.current, c.next = nil, c.submitAt // the next one follows at once
		}
	}
	c.at = never
	if c.next < r.end && r.planned <= MaxOps {
		c.at = c.next
	}
	if q := c.current; q != nil && q.next < len(q.ops) && !c.stopped {
		c.at = min(c.at, c.submitAt)
	}
	r.schedule(c)
}

// begin takes the oldest request of the backlog, and draws how long its ops will take: the same whatever the scheduler, because a
// client's requests begin in the order in which they arrived.
func (r *run) begin(c *client) {
	q := &request{}
	*q = c.backlog[0]
	c.backlog = c.backlog[1:]
	c.current, c.submitAt = q, max(r.now, c.submitAt)
	q.left = len(q.ops)
	c.times = c.times[:0]
	for _, p := range q.ops {
		k := r.sc.kernels[p.kernel]
		ns := float64(p.ns)
		if p.ns == 0 {
			ns = float64(k.Time)
		}
		if k.Spread > 0 {
			ns *= 1 + k.Spread*(2*c.jitter.Float64()-1)
		}
		t := max(1, int64(ns*c.spec.Scale))
		c.times = append(c.times, t)
		c.remaining[p.lane] += t
	}
}

// submit hands the request's next op to the backend.
func (r *run) submit(c *client, q *request) {
	p := q.ops[q.next]
	k := r.sc.kernels[p.kernel]
	var o *op
	if n := len(r.pool); n > 0 {
		o, r.pool = r.pool[n-1], r.pool[:n-1]
		*o = op{}
	} else {
		o = &op{}
	}
	ln := c.lanes[p.lane]
	ln.submitted++
	c.last = ln
	r.ops++
	o.c, o.ln, o.req, o.k, o.ns = c, ln, q, k, c.times[q.next]
	o.Session, o.Kind, o.Lane, o.Seq, o.Arrival = c.board, shm.KindLaunch, uint32(p.lane), ln.submitted, r.ops
	if o.Kernel = c.codes[p.kernel]; o.Kernel == nil {
		o.Kernel = &scoreboard.Kernel{ID: uint32(p.kernel + 1), Code: r.codes[p.kernel], Key: r.codes[p.kernel].Image}
		c.codes[p.kernel] = o.Kernel
	}
	grid, block := [3]uint32{uint32(k.Blocks), 1, 1}, [3]uint32{uint32(k.Threads), 1, 1}
	*o.Launch() = gpu.Launch{Grid: grid, Block: block, SharedBytes: uint32(k.Shared), ParamBytes: 8}
	ln.waiting = append(ln.waiting, o)
	c.waiting++
	if c.flying++; c.flying == 1 {
		r.active++
	}
	q.next++
	if r.watch != nil {
		r.watch("submit", o)
	}
	r.backend.submit(o)
	if q.next == len(q.ops) && c.spec.Arrivals != "stream" {
		r.backend.waits(c)
	}
}

// leaves takes a lane's first op out: it is on its way.
func (r *run) leaves(o *op) {
	ln := o.ln
	ln.waiting[0] = nil
	if ln.waiting = ln.waiting[1:]; len(ln.waiting) == 0 {
		ln.waiting = nil
	}
	o.c.waiting--
	r.resume(o.c)
	if r.watch != nil {
		r.watch("issue", o)
	}
}

// resume lets a client go on whose launches blocked.
func (r *run) resume(c *client) {
	if c.stopped && c.waiting < c.class.limit && (c.spec.Queue == 0 || c.flying < c.spec.Queue) {
		c.stopped, c.submitAt, c.at = false, r.now, r.now
		r.schedule(c)
	}
}

// done takes an op that the client sees done. work is what it had of the chip, ns of the whole; width how many were in its word.
func (r *run) done(o *op, work float64, width int) {
	c, q := o.c, o.req
	if r.watch != nil {
		r.watch("done", o)
	}
	r.ended++
	c.done++
	if c.flying--; c.flying == 0 {
		r.active--
	}
	r.resume(c)
	c.remaining[o.Lane] -= o.ns
	if k := c.class; r.now <= r.end {
		k.ops++
		k.words += 1 / float64(width)
		k.work += work
		c.work += work
	}
	r.pool = append(r.pool, o)
	if q.left--; q.left > 0 {
		return
	}
	k := c.class
	took := r.now - q.arrived
	k.latencies = append(k.latencies, took)
	c.requests++
	if d := int64(k.LatencyP99); d == 0 || took <= d {
		k.met++
		c.met++
	}
	if r.now <= r.end {
		k.requests++
	}
	switch c.spec.Arrivals {
	case "stream":
		return
	case "closed":
		c.next = r.now + c.thought()
	}
	c.current, c.at = nil, r.now
	r.schedule(c)
}

// schedule puts a client where its next event belongs.
func (r *run) schedule(c *client) {
	switch {
	case c.place < 0 && c.at < never:
		heap.Push(&r.events, c)
	case c.place >= 0 && c.at >= never:
		heap.Remove(&r.events, c.place)
	case c.place >= 0:
		heap.Fix(&r.events, c.place)
	}
}

// stuckAfter is how long nothing may end while ops wait, virtual ns: a scheduler that leaves ops would leave them for ever.
const stuckAfter = int64(120e9)

// simulate runs to the end.
func (r *run) simulate() error {
	last, ended := int64(0), uint64(0)
	for {
		at := r.backend.next()
		if len(r.events) > 0 {
			at = min(at, r.events[0].at)
		}
		if at >= never {
			break
		}
		r.now = max(r.now, at)
		for len(r.events) > 0 && r.events[0].at <= r.now {
			r.act(r.events[0])
		}
		r.backend.step()
		switch {
		case r.planned > MaxOps:
			return fmt.Errorf("scenario %s: more than %d ops arrived in %v; shorten it, or lower rates", r.sc.Name, MaxOps, timeOf(r.now))
		case r.ended != ended || r.ops == r.ended:
			last, ended = r.now, r.ended
		case r.now-last > stuckAfter:
			return fmt.Errorf("scenario %s: %d ops were submitted and %d ended; nothing ended for %v: the scheduler leaves some",
				r.sc.Name, r.ops, r.ended, timeOf(stuckAfter))
		}
	}
	if r.ops != r.ended || r.ops != uint64(r.planned) {
		return fmt.Errorf("scenario %s: %d ops were planned, %d submitted, %d ended", r.sc.Name, r.planned, r.ops, r.ended)
	}
	return nil
}

// events are the clients with an event to come, the earliest first.
type events []*client

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || (e[i].at == e[j].at && e[i].slot < e[j].slot)
}
func (e events) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = i, j
}

// Push and Pop are heap.Interface's.
func (e *events) Push(x any) {
	c := x.(*client)
	c.place = len(*e)
	*e = append(*e, c)
}

// Pop takes the last.
func (e *events) Pop() any {
	old := *e
	c := old[len(old)-1]
	c.place = -1
	*e = old[:len(old)-1]
	return c
}
