package scoreboard

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// Graph is a graph of one session that the driver has instantiated: what KindGraph ops launch. The loader fills it before it is added
// to a session.
type Graph struct {
	ID uint32
	// Nodes and Kernels count its nodes, and those of them that launch. Codes are the kernels, each once.
	Nodes, Kernels int
	Codes          []CodeCount
	// Key tells what its nodes do from what others' do, as Op.Key does.
	Key uint64
	// Weight is the part of the chip that its kernels fill on average, 0 to 1.
	Weight float64
	Exec   gpu.GraphExec
	// Nodewise is set of a graph that the driver did not make and that must be launched nevertheless: it calls each for every node, in an
	// order in which each follows what it depends on, until a result is not Success.
	Nodewise func(each func(*Op) gpu.Result) gpu.Result

	// lost: memory that its copies and memsets name is not mapped any more. retired: Retire was called.
	lost, retired atomic.Bool
	// launching: one executable graph must not be in two driver calls at a time (cuda.h, "graph object thread safety"), and two lanes'
	// launches may be two threads'.
	launching sync.Mutex

	// Ask has the graph built in so many parts, in the background; false: not now. Nil: it cannot be.
	Ask func(parts int) bool

	// Launched counts launches; the poller's, as is what follows.
	Launched uint64
	counted  uint64 // of Launched, those that its codes' counts hold
	time     int64  // what a launch takes while little else is on the chip, ns; 0: not measured yet
	lasts    int64  // what launches took of late, whatever ran beside them, ns
	measured uint8
	// Parts is the graph cut, nil while nobody needed that. Asked: it is being built; Builds counts how often it was.
	Parts  *GraphParts
	Asked  bool
	Builds int
	last   shm.Dep // the latest launch
	// Bench and Seat are its place among the graphs that words are made of (package word); Bench 0: none. Covered: some word has it.
	Bench, Seat uint8
	Covered     bool
}

// GraphParts is a graph as graphs that run one after another.
type GraphParts struct {
	Execs []gpu.GraphExec
	// Times are how long they take, ns: estimated, measured where Measured says so. Nodes are how many each has.
	Times    []int64
	Measured []bool
	Nodes    []int
}

// Time is how long so many parts take from one on, ns.
func (p *GraphParts) Time(from, parts uint32) (ns int64) {
	for _, t := range p.Times[from : from+parts] {
		ns += t
	}
	return ns
}

// all says whether every part was measured.
func (p *GraphParts) all() bool { return !slices.Contains(p.Measured, false) }

// CodeCount says how often a graph launches a kernel. Flat: always with a grid of one layer by z.
type CodeCount struct {
	Code  *Code
	Count uint64
	Flat  bool
}

// GraphLauncher starts an executable graph; *gpu.Device is one.
type GraphLauncher interface {
	GraphLaunch(x gpu.GraphExec, s gpu.Stream) gpu.Result
}

// Launch starts the graph on a stream. Any bound thread may call it. The result is InvalidValue when the graph was retired, or memory
// that it copies to or from is gone: only its own client is to notice that.
func (g *Graph) Launch(d GraphLauncher, s gpu.Stream) gpu.Result {
	g.launching.Lock()
	defer g.launching.Unlock()
	if g.lost.Load() || g.Exec == 0 {
		return gpu.InvalidValue
	}
	return d.GraphLaunch(g.Exec, s)
}

// Walk starts the nodes of a Nodewise graph, as Launch does the whole.
func (g *Graph) Walk(each func(*Op) gpu.Result) gpu.Result {
	g.launching.Lock()
	defer g.launching.Unlock()
	if g.lost.Load() || g.retired.Load() {
		return gpu.InvalidValue
	}
	return g.Nodewise(each)
}

// LaunchParts starts some of the graph's parts, one after another, as Launch does the whole. began says whether any of them was
// started: the whole must not be launched in their place then.
func (g *Graph) LaunchParts(d GraphLauncher, p *GraphParts, from, parts uint32, s gpu.Stream) (began bool, r gpu.Result) {
	g.launching.Lock()
	defer g.launching.Unlock()
	if g.lost.Load() || g.Exec == 0 {
		return false, gpu.InvalidValue
	}
	for i, x := range p.Execs[from : from+parts] {
		if r := d.GraphLaunch(x, s); r != gpu.Success {
			return i > 0, r
		}
	}
	return true, gpu.Success
}

// Retire takes away what Launch launches, for the caller to destroy; 0 when somebody has it already. Records that a client publishes
// after it dropped the graph find nothing. Any thread may call it.
func (g *Graph) Retire() gpu.GraphExec {
	g.launching.Lock()
	defer g.launching.Unlock()
	x := g.Exec
	g.Exec = 0
	g.retired.Store(true)
	return x
}

// Lost says whether memory that it needs is gone. Any thread may call it.
func (g *Graph) Lost() bool { return g.lost.Load() }

// Lose makes every later launch fail. Any thread may call it.
func (g *Graph) Lose() { g.lost.Store(true) }

// Bounds of what is measured: the first launches, later one in graphSampleEvery.
const (
	graphSure        = 3
	graphSampleEvery = 16
	// graphNode is what a node is taken to take before the graph was measured, ns.
	graphNode = 4_000
)

// Bounds of cutting.
const (
	// maxParts is how many parts a graph is cut into at most, maxBuilds how often: by a guess, and by what was measured of that.
	maxParts  = 1024
	maxBuilds = 2
)

// Cuttable says whether a launch can go in parts of no more than about half of bound, ns of the whole chip. It asks for parts when there
// are none, or when those there are were measured and are longer; until they are built the launch goes as it can.
func (g *Graph) Cuttable(bound int64) bool {
	p := g.Parts
	if !g.Asked && g.Builds < maxBuilds && g.Ask != nil && g.Nodes > 1 && (p == nil || p.all() && g.uneven(bound)) {
		most := max(1, int64(float64(bound)/2/g.Weight))
		g.Asked = g.Ask(int(min(max(2, (g.Time()+most-1)/most), maxParts, int64(g.Nodes))))
	}
	return p != nil
}

// uneven says whether some part of several nodes exceeds bound, and another cut would help.
func (g *Graph) uneven(bound int64) bool {
	for i, t := range g.Parts.Times {
		if g.Parts.Nodes[i] > 1 && float64(t)*g.Weight > float64(bound) {
			return true
		}
	}
	return false
}

// Built takes the parts that were asked for; nil: they could not be made, and are not asked for again.
func (g *Graph) Built(p *GraphParts) {
	if g.Asked, g.Builds = false, g.Builds+1; p == nil {
		g.Builds = maxBuilds
		return
	}
	g.Parts = p
}

// Running says whether an earlier launch is only partly issued: natively launches of one graph follow one another.
func (g *Graph) Running(s *Session) bool {
	part := s.lanes[g.last.Lane].Part
	return part != nil && part.Seq == g.last.Value
}

// Last is the latest launch: the next one must be behind it on the GPU. Its Value is 0 before the first.
func (g *Graph) Last() shm.Dep { return g.last }

// Due says whether the next launch should be measured, DuePart the same of a part.
func (g *Graph) Due() bool { return g.measured < graphSure || g.Launched%graphSampleEvery == 0 }

// DuePart says whether part i should be measured.
func (g *Graph) DuePart(p *GraphParts, i uint32) bool {
	return !p.Measured[i] || g.Launched%graphSampleEvery == 0
}

// TookPart learns that part i took ns; beside: while other work ran.
func (g *Graph) TookPart(p *GraphParts, i uint32, ns int64, beside bool) {
	if ns <= 0 {
		return
	}
	if p.Measured[i] {
		ns = cost.Lower(p.Times[i], ns, beside)
	}
	p.Times[i], p.Measured[i] = ns, true
	if p == g.Parts && p.all() {
		g.time = p.Time(0, uint32(len(p.Times)))
		g.lasts = max(g.lasts, g.time)
	}
}

// Took learns that a launch took ns on the GPU; beside: while other work ran. What a client is charged for, and what decides whether a
// graph is small enough to be joined, must not grow with its company: a class below it would be owed ever more of the chip, take it, and
// make it longer still.
func (g *Graph) Took(ns int64, beside bool) {
	switch {
	case ns <= 0:
		return
	case g.measured == 0:
		g.time, g.lasts = ns, ns
	case g.measured < graphSure:
		g.time = min(g.time, ns) // the first launch also makes things
	default:
		g.time = cost.Lower(g.time, ns, beside)
	}
	g.lasts += (ns - g.lasts) / 4
	g.measured = min(g.measured+1, graphSure)
}

// Time is how long a launch takes while little else is on the chip, ns: a low quantile of what was measured, or a guess before that.
func (g *Graph) Time() int64 {
	if g.time == 0 {
		return graphNode * int64(max(1, g.Nodes))
	}
	return g.time
}

// Lasts is how long launches took of late, beside whatever ran, ns; no less than Time.
func (g *Graph) Lasts() int64 { return max(g.lasts, g.Time()) }

// Measured says whether Time is what launches took.
func (g *Graph) Measured() bool { return g.time > 0 }

// Cost estimates what a launch costs, ns of the whole chip, by what it takes by itself.
func (g *Graph) Cost() int64 { return max(1, int64(float64(g.Time())*g.Weight)) }

// Cuts says whether a launch by a client of this class goes in parts now; nil: it has none.
func (g *Graph) Cuts(in *Class) bool {
	return in != nil && in.Slice > 0 && g.Cost() > in.Slice && g.Cuttable(in.Slice)
}

// Count brings what its kernels were launched up to date in their codes.
func (g *Graph) Count() {
	n := g.Launched - g.counted
	if n == 0 {
		return
	}
	g.counted = g.Launched
	for _, c := range g.Codes {
		c.Code.Use.InGraphs += n * c.Count
	}
}

// AddGraph makes a graph id valid for later records.
func (s *Session) AddGraph(g *Graph) {
	if s.graphs == nil {
		s.graphs = map[uint32]*Graph{}
	}
	s.graphs[g.ID] = g
}

// RemoveGraph makes it invalid again. Ops of it that were accepted keep it.
func (s *Session) RemoveGraph(id uint32) {
	if g := s.graphs[id]; g != nil {
		g.Count()
		delete(s.graphs, id)
	}
}

// GraphCount is how many graph ids are known.
func (s *Session) GraphCount() int { return len(s.graphs) }

// CountGraphs brings the codes' counts of launches in graphs up to date.
func (s *Session) CountGraphs() {
	for _, g := range s.graphs {
		g.Count()
	}
}

// GraphChecker checks the nodes of graphs of a session as Accept checks ops. It is a copy: the session goes on meanwhile.
type GraphChecker struct {
	board Session
	spans []span
}

// maxGraphSpans bounds how many ranges of memory are remembered of a graph.
const maxGraphSpans = 4096

// NewGraphChecker makes one; memory is what Ranges.Clone gave.
func NewGraphChecker(memory Ranges, kernels map[uint32]*Kernel) *GraphChecker {
	c := &GraphChecker{}
	c.board.Memory = memory
	c.board.distant = map[uint32]*Kernel{}
	for _, k := range kernels {
		c.board.AddKernel(k)
	}
	return c
}

// Node fills op from a node that a shm.GraphReader returned: Kind, Kernel, and Args or Launch. op's parameters lie where the reader's bytes
// lie. An error says what is wrong.
func (c *GraphChecker) Node(op *Op, v *shm.RecordView) error {
	op.Kind, op.Kernel = v.Kind, nil
	if why := c.board.body(op, v); why != "" {
		return fmt.Errorf("%s", why)
	}
	if v.Kind != shm.KindLaunch {
		read, write := touched(v)
		c.note(read)
		c.note(write)
	}
	return nil
}

// note remembers that the graph names the mapped ranges that s lies in.
func (c *GraphChecker) note(s span) {
	if s.from >= s.to {
		return
	}
	for i, _ := c.board.Memory.find(s.from); i < len(c.board.Memory.sorted) && c.board.Memory.sorted[i].from < s.to; i++ {
		at := c.board.Memory.sorted[i]
		j, found := slices.BinarySearchFunc(c.spans, at.from, func(a span, from uint64) int {
			switch {
			case a.from < from:
				return -1
			case a.from > from:
				return 1
			}
			return 0
		})
		if !found && len(c.spans) < maxGraphSpans {
			c.spans = slices.Insert(c.spans, j, at)
		}
	}
}

// Ranges are the first addresses of the mapped ranges that the copies and memsets of all nodes so far name.
func (c *GraphChecker) Ranges() []uint64 {
	out := make([]uint64, len(c.spans))
	for i, s := range c.spans {
		out[i] = s.from
	}
	return out
}

// Clone is a copy that lives on its own, for checks on another thread.
func (r *Ranges) Clone() Ranges { return Ranges{sorted: slices.Clone(r.sorted)} }
