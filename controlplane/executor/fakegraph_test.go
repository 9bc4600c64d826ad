package executor

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// fakeGraphs are the graphs of a fakeGPU: a graph is the calls of its nodes, one after another, in an order that their dependencies allow and
// that is as far from the order in which they came as can be.
type fakeGraphs struct {
	mu     sync.Mutex
	graphs map[gpu.Graph]*fakeGraph
	execs  map[gpu.GraphExec]*fakeExec
	// refuse makes instantiation fail; nodes counts nodes ever built, launches launches.
	refuse   gpu.Result
	nodes    int
	launches int
	uploads  int
	widest   int  // launches of more nodes fail; 0: none
	racing   bool // a launch came while another of the same executable graph was in its call
}

// tell is what the test wants to know: uploads, graphs that are kept as they were built, and whether launches raced.
func (f *fakeGraphs) tell() (uploads, built int, racing bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.uploads, len(f.graphs), f.racing
}

// refuseWith makes instantiation fail, or with Success no longer.
func (f *fakeGraphs) refuseWith(r gpu.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = r
}

// refuseWide makes launches of graphs of more than so many nodes fail.
func (f *fakeGraphs) refuseWide(nodes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.widest = nodes
}

// forget makes every launch of a graph that exists fail.
func (f *fakeGraphs) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.execs)
}

type fakeGraph struct {
	next  gpu.GraphNode
	nodes []fakeNode
}

type fakeNode struct {
	number gpu.GraphNode
	after  []gpu.GraphNode
	run    func(s gpu.Stream) gpu.Result // makes the call on a stream
}

type fakeExec struct {
	of    gpu.Graph
	nodes []fakeNode
	in    bool
}

// chainEnd is what chainend.ptx does.
func (g *fakeGPU) chainEnd(params []byte) {
	at := func(i int) unsafe.Pointer {
		return unsafe.Add(unsafe.Pointer(nil), binary.LittleEndian.Uint64(params[8*i:]))
	}
	row, count, ended := (*[scoreboard.ChainMarks]scoreboard.ChainMark)(at(0)), (*uint32)(at(1)), (*uint32)(at(2))
	g.ends.Lock()
	defer g.ends.Unlock()
	m := row[*count%scoreboard.ChainMarks]
	*count++
	if m.Done != 0 {
		atomic.StoreUint32((*uint32)(unsafe.Add(unsafe.Pointer(nil), m.Done)), m.Value)
	}
	atomic.StoreUint32(ended, *count)
}

func (g *fakeGPU) GraphCreate() (gpu.Graph, gpu.Result) {
	if r := g.result(); r != gpu.Success {
		return 0, r
	}
	g.mu.Lock()
	id := gpu.Graph(g.id())
	g.mu.Unlock()
	f := &g.graphs
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.graphs == nil {
		f.graphs, f.execs = map[gpu.Graph]*fakeGraph{}, map[gpu.GraphExec]*fakeExec{}
	}
	f.graphs[id] = &fakeGraph{}
	return id, gpu.Success
}

func (g *fakeGPU) GraphDestroy(id gpu.Graph) gpu.Result {
	g.graphs.mu.Lock()
	defer g.graphs.mu.Unlock()
	delete(g.graphs.graphs, id)
	return gpu.Success
}

func (g *fakeGPU) node(id gpu.Graph, after []gpu.GraphNode, run func(s gpu.Stream) gpu.Result) (gpu.GraphNode, gpu.Result) {
	f := &g.graphs
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.graphs[id]
	if of == nil {
		return 0, gpu.InvalidValue
	}
	for _, a := range after {
		if a == 0 || a > of.next {
			return 0, gpu.InvalidValue
		}
	}
	f.nodes++
	of.next++
	of.nodes = append(of.nodes, fakeNode{of.next, append([]gpu.GraphNode(nil), after...), run})
	return of.next, gpu.Success
}

func (g *fakeGPU) GraphKernel(id gpu.Graph, after []gpu.GraphNode, l *gpu.Launch) (gpu.GraphNode, gpu.Result) {
	own := *l
	params := append([]byte(nil), bytesAt(l.Params, l.ParamBytes)...) // as the driver copies them
	if g.refuse != nil {
		if r := g.refuse(l); r != gpu.Success {
			return 0, r
		}
	}
	if f, ok := g.forms.Load(own.Function); ok {
		f := f.(*fakeForm)
		return g.node(id, after, func(s gpu.Stream) gpu.Result { return g.push(s, func() { f.run(&own, params) }) })
	}
	g.mu.Lock()
	k := g.byID[own.Function]
	g.mu.Unlock()
	return g.node(id, after, func(s gpu.Stream) gpu.Result { return g.push(s, func() { k(params) }) })
}

func (g *fakeGPU) GraphMemset(id gpu.Graph, after []gpu.GraphNode, dst, pitch, width, height uint64, element, value uint32) (gpu.GraphNode, gpu.Result) {
	return g.node(id, after, func(s gpu.Stream) gpu.Result { return g.Memset(s, dst, pitch, width, height, element, value) })
}

func (g *fakeGPU) GraphCopy(id gpu.Graph, after []gpu.GraphNode, dst, src, n uint64) (gpu.GraphNode, gpu.Result) {
	return g.node(id, after, func(s gpu.Stream) gpu.Result { return g.Copy(s, dst, src, n) })
}

func (g *fakeGPU) GraphCopy3D(id gpu.Graph, after []gpu.GraphNode, c *gpu.Copy3D) (gpu.GraphNode, gpu.Result) {
	own := *c
	return g.node(id, after, func(s gpu.Stream) gpu.Result { return g.Copy3D(s, &own) })
}

func (g *fakeGPU) GraphEmpty(id gpu.Graph, after []gpu.GraphNode) (gpu.GraphNode, gpu.Result) {
	return g.node(id, after, func(gpu.Stream) gpu.Result { return gpu.Success })
}

func (g *fakeGPU) GraphInstantiate(id gpu.Graph) (gpu.GraphExec, gpu.Result) {
	if r := g.result(); r != gpu.Success {
		return 0, r
	}
	g.mu.Lock()
	x := gpu.GraphExec(g.id())
	g.mu.Unlock()
	f := &g.graphs
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != gpu.Success {
		return 0, f.refuse
	}
	f.execs[x] = &fakeExec{of: id, nodes: backwards(f.graphs[id].nodes)}
	return x, gpu.Success
}

// backwards orders nodes so that of those that may run the last one comes first.
func backwards(nodes []fakeNode) []fakeNode {
	missing := make([]int, len(nodes))
	behind := make([][]int, len(nodes))
	var ready []int
	for i, n := range nodes {
		if missing[i] = len(n.after); missing[i] == 0 {
			ready = append(ready, i)
		}
		for _, a := range n.after {
			behind[a-1] = append(behind[a-1], i)
		}
	}
	var out []fakeNode
	for len(ready) > 0 {
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		out = append(out, nodes[i])
		for _, j := range behind[i] {
			if missing[j]--; missing[j] == 0 {
				ready = append(ready, j)
			}
		}
	}
	return out
}

func (g *fakeGPU) GraphUpload(gpu.GraphExec, gpu.Stream) gpu.Result {
	g.graphs.mu.Lock()
	defer g.graphs.mu.Unlock()
	g.graphs.uploads++
	return gpu.Success
}

func (g *fakeGPU) GraphExecDestroy(x gpu.GraphExec) gpu.Result {
	f := &g.graphs
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.execs[x] == nil {
		return gpu.InvalidValue
	}
	delete(f.execs, x)
	return gpu.Success
}

func (g *fakeGPU) GraphLaunch(x gpu.GraphExec, s gpu.Stream) gpu.Result {
	f := &g.graphs
	f.mu.Lock()
	e := f.execs[x]
	if e != nil && f.widest > 0 && len(e.nodes) > f.widest {
		e = nil
	}
	if e != nil {
		f.racing = f.racing || e.in
		e.in = true
		f.launches++
	}
	f.mu.Unlock()
	if e == nil {
		return gpu.InvalidValue
	}
	defer func() {
		f.mu.Lock()
		e.in = false
		f.mu.Unlock()
	}()
	if g.late {
		time.Sleep(100 * time.Microsecond)
	}
	for _, n := range e.nodes {
		if r := n.run(s); r != gpu.Success {
			return r
		}
	}
	return gpu.Success
}

// GraphSetKernel is right only for an executable graph that is in no call, whose graph still is.
func (g *fakeGPU) GraphSetKernel(x gpu.GraphExec, n gpu.GraphNode, l *gpu.Launch) gpu.Result {
	params := append([]byte(nil), bytesAt(l.Params, l.ParamBytes)...)
	g.mu.Lock()
	k := g.byID[l.Function]
	g.mu.Unlock()
	f := &g.graphs
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.execs[x]
	if e == nil || f.graphs[e.of] == nil {
		return gpu.InvalidValue
	}
	f.racing = f.racing || e.in
	for i := range e.nodes {
		if e.nodes[i].number == n {
			e.nodes[i].run = func(s gpu.Stream) gpu.Result { return g.push(s, func() { k(params) }) }
			return gpu.Success
		}
	}
	return gpu.InvalidValue
}

// alive is how many executable graphs there are.
func (g *fakeGPU) alive() int {
	g.graphs.mu.Lock()
	defer g.graphs.mu.Unlock()
	return len(g.graphs.execs)
}

func (nullGPU) GraphSetKernel(gpu.GraphExec, gpu.GraphNode, *gpu.Launch) gpu.Result {
	return gpu.Success
}
func (nullGPU) GraphLaunch(gpu.GraphExec, gpu.Stream) gpu.Result { return gpu.Success }
