package scoreboard

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// GraphWord is a word of several graphs: the nodes of each are a chain, the chains lie side by side in one executable graph, and each
// ends with a kernel that writes the done word of the op which launched it. Graphs, by their order in the word, are set once. The
// executor fills Exec and Ends in the background and then sets Built; it is launched unchanged from then on.
type GraphWord struct {
	Graphs []*Graph
	Exec   gpu.GraphExec
	Ends   []ChainEnd
	// Coalesce: what several chains do alike at the same place is one node, where a form can do it; set once. CoalescedNodes are those
	// nodes, and Coalesced how many kernels of each chain are in them; the executor counts before it sets Built.
	Coalesce       bool
	CoalescedNodes int
	Coalesced      []int
	// Built: it can be launched. Refused: the driver did not take it; it is not used again. Dropped: nobody wants it any more.
	Built, Refused, Dropped atomic.Bool

	launching sync.Mutex
}

// ChainEnd is what the last kernel of a chain reads: one mark for each launch, in turn, in memory that no client sees. The kernel
// counts launches itself, so nothing of the executable graph changes from one to the next.
type ChainEnd struct {
	Row   *[ChainMarks]ChainMark
	Ended *uint32 // how many launches have come to its end; the GPU writes it
	Count uint32  // how many were launched; whoever launches it
}

// ChainMark says what the end of a chain writes: value to the address Done; 0: nothing.
type ChainMark struct {
	Done  uint64
	Value uint32
	_     uint32
}

// ChainMarks is how many launches of a word can be in flight; a power of two. The kernel of executor/chainend.ptx has it, too.
const ChainMarks = 64

// Bytes of a row of marks, and of it with what else the end of a chain has, in a line of its own: Ended, and its kernel's parameters.
const (
	ChainRowBytes = ChainMarks * int(unsafe.Sizeof(ChainMark{}))
	ChainEndBytes = ChainRowBytes + 64
)

// Settled says whether every launch has come to its end. Nobody may be launching it.
func (e *ChainEnd) Settled() bool { return atomic.LoadUint32(e.Ended) == e.Count }

// put says what the next launch writes.
func (e *ChainEnd) put(done uint64, value uint32) {
	m := &e.Row[e.Count%ChainMarks]
	m.Done, m.Value = done, value
}

// Usable says whether all of its graphs can be launched: none was dropped, and no memory of theirs is gone.
func (w *GraphWord) Usable() bool {
	for _, g := range w.Graphs {
		if g.lost.Load() || g.retired.Load() {
			return false
		}
	}
	return true
}

// Launch starts the word on a stream for ops, which are launches of its graphs in their order. NotReady: it cannot be launched now,
// because a graph of it is gone or too much of it is in flight; the ops can go one by one. Any bound thread may call it.
func (w *GraphWord) Launch(d GraphLauncher, s gpu.Stream, ops []*Op) gpu.Result {
	w.launching.Lock()
	defer w.launching.Unlock()
	if !w.Usable() || w.Exec == 0 {
		return gpu.NotReady
	}
	for i := range w.Ends {
		if e := &w.Ends[i]; e.Count-atomic.LoadUint32(e.Ended) >= ChainMarks {
			return gpu.NotReady
		}
	}
	for i, op := range ops {
		done := uint64(0)
		if op.Signal {
			done = op.Session.DoneAddress(op.Lane)
		}
		w.Ends[i].put(done, op.Seq)
	}
	r := d.GraphLaunch(w.Exec, s)
	if r == gpu.Success {
		for i := range w.Ends {
			w.Ends[i].Count++
		}
	}
	return r
}

// Retire takes away what Launch launches, for the caller to destroy; 0 when somebody has it already. Any thread may call it.
func (w *GraphWord) Retire() gpu.GraphExec {
	w.launching.Lock()
	defer w.launching.Unlock()
	x := w.Exec
	w.Exec = 0
	return x
}
