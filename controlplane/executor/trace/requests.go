package trace

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/perfetto"
	"github.com/heddle-gpu/heddle/shm"
)

// Source is a client as a simulation needs to know it.
type Source struct{ Label, Class string }

// Cost is what is known of a kernel beyond the recording.
type Cost struct {
	Alone  int64 // measured on the GPU, ns; 0: not measured
	Joined bool  // it has a rewritten form
}

// requestLine is a request in the trace format of heddle sim.
type requestLine struct {
	Client string      `json:"client"`
	Class  string      `json:"class"`
	AtNs   int64       `json:"at_ns"`
	GapNs  int64       `json:"gap_ns"`
	Ops    []requestOp `json:"ops"`
}

type requestOp struct {
	Kernel  string `json:"kernel"`
	Blocks  uint64 `json:"blocks"`
	Threads uint32 `json:"threads"`
	Ns      int64  `json:"ns"`
	Times   int    `json:"times"`
	Lane    int    `json:"lane"`
	Alone   bool   `json:"alone"`
}

// Bounds of heddle sim's format.
const (
	simLanes    = 32
	simOps      = 16_384 // of a request
	simBlocks   = 1<<31 - 1
	simThreads  = 1024
	simGap      = int64(1e9)
	simTime     = int64(60e9)
	simNameSize = 100
)

// WriteRequests writes the requests that lie wholly within timelines as heddle replay reads them, a line each, and says how
// many. A kernel takes what was measured on the GPU; without that, as anything else does, the shortest time from issue to end that
// its like took in the recording. at_ns counts from the first event.
func WriteRequests(to io.Writer, all []Executor, sources map[uint64]Source, costs func(executor int, code uint32) Cost) (int, error) {
	out, n := bufio.NewWriter(to), 0
	enc := json.NewEncoder(out)
	begin := int64(0)
	for _, e := range all {
		if begin == 0 || (e.Timeline.Begin != 0 && e.Timeline.Begin < begin) {
			begin = e.Timeline.Begin
		}
	}
	for i := range all {
		lines := all[i].requests(begin, sources, func(code uint32) Cost { return costs(i, code) })
		for k := range lines {
			if err := enc.Encode(&lines[k]); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, out.Flush()
}

// alike is what ops of one cost share.
type alike struct {
	kind   uint16
	code   uint32
	blocks uint64
}

func (op *Op) blocks() uint64 {
	b := uint64(max(op.Grid[0], 1)) * uint64(max(op.Grid[1], 1))
	if b > simBlocks {
		return simBlocks
	}
	return min(b*uint64(max(op.Grid[2], 1)), simBlocks)
}

func (e *Executor) requests(begin int64, sources map[uint64]Source, cost func(uint32) Cost) []requestLine {
	t := e.Timeline
	ops := map[uint64][]*Op{} // by client, in the order in which they became ready
	shortest := map[alike]int64{}
	for i := range t.Ops {
		op := &t.Ops[i]
		if op.Ready > 0 {
			ops[op.Client] = append(ops[op.Client], op)
		}
		if op.Issued > 0 && op.Done > op.Issued {
			key := alike{op.Kind, op.Code, op.blocks()}
			if d := op.Done - op.Issued; shortest[key] == 0 || d < shortest[key] {
				shortest[key] = d
			}
		}
	}
	for _, of := range ops {
		slices.SortStableFunc(of, func(a, b *Op) int { return cmp.Compare(a.Ready, b.Ready) })
	}
	var lines []requestLine
	for _, r := range t.Requests {
		if r.Begin < begin || r.End == 0 {
			continue
		}
		of := ops[r.Client]
		from, _ := slices.BinarySearchFunc(of, r.Begin, func(op *Op, at int64) int { return cmp.Compare(op.Ready, at) })
		to, _ := slices.BinarySearchFunc(of, r.End, func(op *Op, at int64) int { return cmp.Compare(op.Ready, at) })
		if to <= from {
			continue
		}
		s := sources[r.Client]
		l := requestLine{Client: fmt.Sprintf("%s-%d", cmp.Or(perfetto.Clean(s.Label), "client"), r.Client), Class: s.Class, AtNs: r.Begin - begin}
		l.Client = l.Client[max(0, len(l.Client)-simNameSize):]
		l.fill(e, of[from:min(to, from+simOps)], shortest, cost)
		lines = append(lines, l)
	}
	slices.SortStableFunc(lines, func(a, b requestLine) int { return cmp.Compare(a.AtNs, b.AtNs) })
	return lines
}

// fill puts the ops of a request into its line, those that follow their like as one.
func (l *requestLine) fill(e *Executor, ops []*Op, shortest map[alike]int64, cost func(uint32) Cost) {
	lanes := map[uint32]int{}
	var gaps []int64
	for i, op := range ops {
		if i > 0 {
			gaps = append(gaps, op.Ready-ops[i-1].Ready)
		}
		if _, ok := lanes[op.Lane]; !ok {
			lanes[op.Lane] = len(lanes) % simLanes
		}
		c := Cost{}
		if op.Kind == shm.KindLaunch {
			c = cost(op.Code)
		}
		ns := cmp.Or(c.Alone, shortest[alike{op.Kind, op.Code, op.blocks()}], 1)
		o := requestOp{
			Kernel: perfetto.Clean(e.Names.Op(op.Kind, op.Code)), Blocks: op.blocks(), Threads: min(max(op.Threads, 1), simThreads),
			Ns: min(ns, simTime), Times: 1, Lane: lanes[op.Lane], Alone: !c.Joined,
		}
		if n := len(l.Ops); n > 0 {
			last := o
			last.Times = l.Ops[n-1].Times
			if last == l.Ops[n-1] {
				l.Ops[n-1].Times++
				continue
			}
		}
		l.Ops = append(l.Ops, o)
	}
	if len(gaps) > 0 {
		slices.Sort(gaps)
		l.GapNs = min(gaps[len(gaps)/2], simGap)
	}
}
