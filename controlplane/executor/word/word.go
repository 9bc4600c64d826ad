// Package word builds words: a word is one launch that the executor issues, and holds one or more slots, each one op's place.
//
// An op by itself is launched as its client asked for it (Stream). Ops of one kernel, or of kernels that one form holds, are
// launched together (Coalesced): a [Batch] is their word, and [Gather] finds them, decides when they go, and how many. Ops of one lane
// that its client repeats go as a graph (Prepared): a [Chain]. Launches of several clients' graphs go as one (Joined): a [Team].
package word

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

const (
	// MaxSlots is how many ops a word can hold.
	MaxSlots = 128
	// SignalBlocks bounds the blocks of an instance that stores its done word itself: each block counts once, and with very many
	// the stream does it cheaper.
	SignalBlocks = 4096
	// CounterBytes is the size of one instance's counter, StreamCounters that of a stream's: the kernels of a stream run one after
	// another, so slot i of each word finds the counter that slot i of the word before left at 0. Nothing depends on when the host
	// learns of an end, which a client could forge.
	CounterBytes   = 4
	StreamCounters = MaxSlots * CounterBytes
)

// Path is how a word reaches the GPU.
type Path uint8

// Paths.
const (
	// Stream issues the op by its own driver call.
	Stream Path = iota
	// Coalesced is one launch of a form with a parameter block that holds every op's.
	Coalesced
	// Sliced is one launch of a form that does a range of one op's blocks.
	Sliced
	// Prepared is one launch of a graph that holds a run of a lane's ops (package sequence).
	Prepared
	// Joined is one launch of several graphs, side by side in one executable graph (scoreboard.GraphWord).
	Joined
	Paths
)

// Word is one launch. It is a value: it travels through the issue queue without allocation.
type Word struct {
	// Op is the word's only op (Stream), Batch its ops (Coalesced), Chain its ops (Prepared), Team its ops (Joined); the others are nil.
	Op    *scoreboard.Op
	Batch *Batch
	Chain *Chain
	Team  *Team
	// Shape is that of the op which leads the word, nil for an op that launches no kernel. Measure asks for the word's time.
	Shape   *scoreboard.Shape
	Measure bool
	// Sample is where the time is measured; the issue engine's.
	Sample *Sample
}

// One is the word of one op.
func One(op *scoreboard.Op) Word { return Word{Op: op} }

// Sliced says whether the word is a slice of its op.
func (w *Word) Sliced() bool { return w.Batch != nil && w.Batch.Slice.Blocks > 0 }

// Len is how many ops the word holds.
func (w *Word) Len() int {
	switch {
	case w.Batch != nil:
		return w.Batch.Count
	case w.Chain != nil:
		return w.Chain.Count
	case w.Team != nil:
		return w.Team.Count
	}
	return 1
}

// Path is how the word reaches the GPU.
func (w *Word) Path() Path {
	switch {
	case w.Sliced():
		return Sliced
	case w.Batch != nil:
		return Coalesced
	case w.Chain != nil:
		return Prepared
	case w.Team != nil:
		return Joined
	}
	return Stream
}

// Ops are the word's ops.
func (w *Word) Ops() []*scoreboard.Op {
	switch {
	case w.Batch != nil:
		return w.Batch.Ops[:w.Batch.Count]
	case w.Chain != nil:
		return w.Chain.Ops[:w.Chain.Count]
	case w.Team != nil:
		return w.Team.Ops[:w.Team.Count]
	}
	return unsafe.Slice(&w.Op, 1)
}

// Sample measures one word with two events.
type Sample struct {
	Start, End gpu.Event
	Shape      *scoreboard.Shape
	// Beside is what ran beside it; Pair is what it holds instead of alike ops.
	Beside   Beside
	Pair     Pair
	Sessions []*scoreboard.Session // whose ops the word holds
	Graph    *scoreboard.Graph     // instead of Shape, of a word that launches one
	Parts    *scoreboard.GraphParts
	Part     uint32 // of Parts, when only that is launched
	Count    int
	// Calls is how long the calls from the first event to the second took, ns. Busy: the word's stream held something when it was issued.
	Calls int64
	Busy  bool
	// State is the engine's; Nanoseconds is the answer, 0 when the driver gave none.
	// Blocks is how many blocks of an instance the word does; 0: all.
	Blocks      uint32
	State       atomic.Uint32
	Nanoseconds int64
	Asked       int64
}

// interrupted is how long the calls of a word take, ns, when their thread did not run all the while.
const interrupted = 50_000

// Waited is how much of the interval may have passed before the word was launched, ns. On a stream that held nothing the first event is
// reached at once, and the interval holds the calls; on another they are made while what is before the word runs, unless their thread
// loses its core between them.
func (s *Sample) Waited() int64 {
	if s.Busy && s.Calls < interrupted {
		return 0
	}
	return s.Calls
}

// Batch is a word of several ops: their places, and the memory of the parameter block. The poller fills it; from the hand-over
// until Passed reaches Number it is the issue thread's.
type Batch struct {
	Form  *scoreboard.Form
	Count int
	Ops   [MaxSlots]*scoreboard.Op
	// Slice is the part of its one op that it does; no Blocks: it does its ops. Of a graph it counts Parts, and there is no Form.
	Slice Slice
	Parts *scoreboard.GraphParts
	// Alike: one kernel, one grid. Only then does the word's time say anything about either. Pair is what a batch of just two shapes holds.
	Alike bool
	Pair  Pair
	// Launch is complete but for the stream's handle.
	Launch gpu.Launch
	// Outside marks ops that want a done word which the launch does not write: a bit each.
	Outside [MaxSlots / 64]uint64
	// Counters is the device address of its stream's counters.
	Counters uint64

	Passed *atomic.Uint64
	Number uint64

	params []byte // not Go memory: the driver reads it
}

// Outside says whether the op's done word, if it wants one, is to be written by the stream when it is launched with others.
func Outside(op *scoreboard.Op) bool {
	g := &op.Launch().Grid
	return op.Signal && g[0]*g[1]*g[2] > SignalBlocks
}

// Small reports whether the poller fills the block. It has the clients' parameters in its cache, and for few of them a thread's call
// takes as long as the poller needs for their ops (H200: 3.0 and 3.4 µs for 8); of many ops the thread fills, or the poller would be the
// bound.
func (b *Batch) Small() bool { return b.Count <= 8 }

// Fill writes the parameter block and the launch of a batch whose Form, Ops, Counters and Signal wishes are final. It is for who Small
// says.
func (b *Batch) Fill() {
	if b.Slice.Blocks > 0 {
		b.fillSlice()
		return
	}
	f := b.Form
	l := &f.Layout
	lead := b.Ops[0].Launch()
	b.Outside = [MaxSlots / 64]uint64{}
	shared := uint32(0)
	total := uint32(0)
	threads := lead.Block[0] * lead.Block[1] * lead.Block[2]
	body, names, size := 0, len(l.GlobalNames) > 0 && len(l.GlobalNames[0]) > 0, l.BodyBytes[0]
	for i, op := range b.Ops[:b.Count] {
		d := op.Launch()
		if len(f.Bodies) > 1 {
			body = bodyOf(f, op.Kernel.Code)
			names, size = len(l.GlobalNames) > body && len(l.GlobalNames[body]) > 0, l.BodyBytes[body]
		}
		blocks := d.Grid[0] * d.Grid[1] * d.Grid[2]
		var done, counter uint64
		if op.Signal {
			if blocks <= SignalBlocks {
				done, counter = op.Session.DoneAddress(op.Lane), b.Counters+CounterBytes*uint64(i)
			} else {
				b.Outside[i/64] |= 1 << (i % 64)
			}
		}
		var globals []uint64
		if names {
			globals = *op.Kernel.Globals.Load()
		}
		var params []byte
		if size > 0 {
			params = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), d.Params)), size)
		}
		l.Put(b.params, i, body, params, done, counter, op.Seq, blocks*threads, d.Grid, total, globals)
		total += blocks
		shared = max(shared, d.SharedBytes)
	}
	l.Finish(b.params, b.Count, total)
	b.Launch = gpu.Launch{
		Function: f.Function, Grid: [3]uint32{lead.Grid[0], lead.Grid[1], uint32(b.Count)}, Block: lead.Block, SharedBytes: shared,
		Flags: lead.Flags, Cluster: lead.Cluster, ClusterPolicy: lead.ClusterPolicy,
		Params: uint64(uintptr(unsafe.Pointer(&b.params[0]))), ParamBytes: uint64(l.ParamBytes),
	}
	if l.Mapping == coalesce.ByTable {
		b.Launch.Grid = [3]uint32{total, 1, 1}
	}
}

// bodyOf is the number of a code among a form's bodies, -1 when it is none.
func bodyOf(f *scoreboard.Form, c *scoreboard.Code) int {
	for i, b := range f.Bodies {
		if b == c {
			return i
		}
	}
	return -1
}

// pool holds the batches, used in turn.
type pool struct {
	batches []Batch
	at      int
}

// poolSize is more than all issue threads' queues hold of an ordinary load; without a free batch words wait.
const poolSize = 128

// newPool maps the memory of the parameter blocks; pages that are never used cost nothing.
func newPool() (*pool, error) {
	const each = (coalesce.MaxParamBytes + 4095) &^ 4095
	memory, err := unix.Mmap(-1, 0, poolSize*each, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("word: %d bytes for parameter blocks: %w", poolSize*each, err)
	}
	p := &pool{batches: make([]Batch, poolSize)}
	for i := range p.batches {
		p.batches[i].params = memory[i*each : (i+1)*each : (i+1)*each]
	}
	return p, nil
}

// peek is the batch to fill next, nil when its last word was not executed yet.
func (p *pool) peek() *Batch {
	b := &p.batches[p.at]
	if b.Passed != nil && b.Passed.Load() < b.Number {
		return nil
	}
	return b
}

// take makes peek go on to the next batch.
func (p *pool) take() { p.at = (p.at + 1) % len(p.batches) }
