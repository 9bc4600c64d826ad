package scoreboard

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

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

	// lost: memory that its copies and memsets name is not mapped any more.
	lost atomic.Bool
	// launching: one executable graph must not be in two driver calls at a time (cuda.h, "graph object thread safety"), and two lanes'
	// launches may be two threads'.
	launching sync.Mutex

	// Launched counts launches; the poller's, as is what follows.
	Launched uint64
	counted  uint64 // of Launched, those that its codes' counts hold
	time     int64  // measured, ns, smoothed; 0: not yet
	measured uint8
}

// CodeCount says how often a graph launches a kernel.
type CodeCount struct {
	Code  *Code
	Count uint64
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

// Retire takes away what Launch launches, for the caller to destroy; 0 when somebody has it already. Records that a client publishes
// after it dropped the graph find nothing. Any thread may call it.
func (g *Graph) Retire() gpu.GraphExec {
	g.launching.Lock()
	defer g.launching.Unlock()
	x := g.Exec
	g.Exec = 0
	return x
}

// Lose makes every later launch fail. Any thread may call it.
func (g *Graph) Lose() { g.lost.Store(true) }

// Bounds of what is measured: the first launches, later one in graphSampleEvery.
const (
	graphSure        = 3
	graphSampleEvery = 16
	// graphNode is what a node is taken to take before the graph was measured, ns.
	graphNode = 4_000
)

// Due says whether the next launch should be measured.
func (g *Graph) Due() bool { return g.measured < graphSure || g.Launched%graphSampleEvery == 0 }

// Took learns that a launch took ns on the GPU.
func (g *Graph) Took(ns int64) {
	if ns <= 0 {
		return
	}
	if g.measured == 0 {
		g.time = ns
	} else {
		g.time += (ns - g.time) / 4
	}
	g.measured = min(g.measured+1, graphSure)
}

// Time is how long a launch takes, ns; 0: not known.
func (g *Graph) Time() int64 { return g.time }

// Cost estimates what a launch costs, ns of the whole chip.
func (g *Graph) Cost() int64 {
	t := g.time
	if t == 0 {
		t = graphNode * int64(max(1, g.Nodes))
	}
	return max(1, int64(float64(t)*g.Weight))
}

// Count brings what its kernels were launched up to date in their codes.
func (g *Graph) Count() {
	n := g.Launched - g.counted
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
