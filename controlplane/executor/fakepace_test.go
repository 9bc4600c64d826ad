package executor

import (
	"container/heap"
	"sync/atomic"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// pacedGPU is a driver in a time of its own, which the test turns: a call takes its price of a thread's time, kernels of a stream follow
// one another, each as long as the test says, and done words are written behind them. It is for one thread, which is poller and issue
// threads in turn: nothing depends on how fast this machine is.
type pacedGPU struct {
	*fakeGPU
	price prices
	spent func(ns int64) // is told how long calls take, when set

	now     int64
	streams map[gpu.Stream]int64 // when the last kernel given ends
	events  map[gpu.Event]int64  // when what was on its stream ends
	writes  pacedWrites
	free    []int64 // by thread: when its last call returns
	thread  int     // whose calls they are; -1: the poller's, for a client that is alone
	direct  int64   // what those take that the poller made

	kernels, calls int   // kernels ever given to the driver, and the calls that launched them
	busy           int64 // time in calls
}

// prices are what calls take, ns.
type prices struct {
	launch, node, graph, set, write int64 // a launch; a graph of n kernels: graph + n × node; a node's parameters; a done word
	kernel                          int64 // on the GPU
	// crowded is what calls take longer when 1, 2, 3, 4 threads are in one.
	crowded [4]float64
}

// pricesH100 are those of measurements.md section 3, with which four threads make 614,000 launches a second (docs/results.md section 3). A
// graph's kernels cost what they cost a thread that waited for a chain to drain, which is the most it can be. 8 ResNet-50 side by side
// take 2,426 µs a round of 342 kernels (section 7): 7 µs a kernel of each.
var pricesH100 = prices{launch: 4400, node: 1700, graph: 2000, set: 900, write: 1850, kernel: 7000, crowded: [4]float64{1, 1.4, 1.45, 1.48}}

type pacedWrite struct {
	at      int64
	address uint64
	value   uint32
}

type pacedWrites []pacedWrite

func (w pacedWrites) Len() int           { return len(w) }
func (w pacedWrites) Less(i, j int) bool { return w[i].at < w[j].at }
func (w pacedWrites) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *pacedWrites) Push(x any)        { *w = append(*w, x.(pacedWrite)) }
func (w *pacedWrites) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

func newPacedGPU(threads int) *pacedGPU {
	return &pacedGPU{
		fakeGPU: newFakeGPU(), price: pricesH100, streams: map[gpu.Stream]int64{}, events: map[gpu.Event]int64{},
		free: make([]int64, threads), thread: -1,
	}
}

// call is a driver call: do happens when it returns.
func (g *pacedGPU) call(price int64, do func(at int64)) gpu.Result {
	crowd := 0
	for _, at := range g.free {
		if at > g.now {
			crowd++
		}
	}
	price = int64(float64(price) * g.price.crowded[min(crowd, 3)])
	if g.thread < 0 {
		g.direct += price
		do(g.now + g.direct)
		return gpu.Success
	}
	t := g.thread
	g.free[t] = max(g.free[t], g.now) + price
	g.busy += price
	if g.spent != nil {
		g.spent(price)
	}
	do(g.free[t])
	return gpu.Success
}

// run has n kernels run on a stream behind what is there.
func (g *pacedGPU) run(s gpu.Stream, n int) func(at int64) {
	return func(at int64) {
		g.calls++
		g.kernels += n
		g.streams[s] = max(g.streams[s], at+2000) + int64(n)*g.price.kernel
	}
}

// step goes on to a time: threads that are free make calls, and words are written.
func (g *pacedGPU) step(e *issue.Engine, to int64) {
	for some := true; some; {
		some = false
		for t := range g.free {
			if g.thread = t; g.free[t] <= to && e.Execute(t) {
				some = true
			}
		}
	}
	g.thread = -1
	g.now = to
	for len(g.writes) > 0 && g.writes[0].at <= to {
		w := heap.Pop(&g.writes).(pacedWrite)
		atomic.StoreUint32((*uint32)(unsafe.Add(unsafe.Pointer(nil), w.address)), w.value)
	}
}

func (g *pacedGPU) Launch(l *gpu.Launch) gpu.Result {
	f, ok := g.forms.Load(l.Function)
	if !ok {
		return g.call(g.price.launch, g.run(l.Stream, 1))
	}
	form, params := f.(*fakeForm), bytesAt(l.Params, l.ParamBytes)
	run := g.run(l.Stream, 1) // instances side by side
	return g.call(g.price.launch, func(at int64) {
		run(at)
		n := form.count(l, params)
		g.kernels += n - 1
		for i := range n {
			if in := form.at(params, i); in.done != 0 {
				heap.Push(&g.writes, pacedWrite{g.streams[l.Stream] + 500, in.done, in.value})
			}
		}
	})
}

func (g *pacedGPU) GraphLaunch(x gpu.GraphExec, s gpu.Stream) gpu.Result {
	return g.call(g.price.graph+int64(x)*g.price.node, g.run(s, int(x))) // a graph's handle is how many kernels it has
}

func (g *pacedGPU) WriteValue32(s gpu.Stream, address uint64, value uint32) gpu.Result {
	return g.call(g.price.write, func(at int64) { heap.Push(&g.writes, pacedWrite{max(g.streams[s], at+1000) + 500, address, value}) })
}

func (g *pacedGPU) GraphSetKernel(gpu.GraphExec, gpu.GraphNode, *gpu.Launch) gpu.Result {
	return g.call(g.price.set, func(int64) {})
}

func (g *pacedGPU) EventRecord(e gpu.Event, s gpu.Stream) gpu.Result {
	return g.call(g.price.write, func(int64) { g.events[e] = g.streams[s] })
}

func (g *pacedGPU) StreamWaitEvent(s gpu.Stream, e gpu.Event) gpu.Result {
	return g.call(g.price.write, func(int64) { g.streams[s] = max(g.streams[s], g.events[e]) })
}

func (g *pacedGPU) EventElapsed(gpu.Event, gpu.Event) (float32, gpu.Result) {
	return float32(g.price.kernel) / 1e6, gpu.Success
}

func (g *pacedGPU) GraphKernel(_ gpu.Graph, after []gpu.GraphNode, _ *gpu.Launch) (gpu.GraphNode, gpu.Result) {
	return gpu.GraphNode(1 + len(after)), gpu.Success
}
