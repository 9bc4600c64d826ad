package trace

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/perfetto"
	"github.com/heddle-gpu/heddle/shm"
)

// Names are what the numbers of one executor's timeline mean. Missing ones are shown as numbers.
type Names struct {
	Executor string
	Clients  map[uint64]string
	Kernels  map[uint32]string
	Waits    []string
	Paths    []string
	Faults   map[uint32]string // by shm.Reason
	Dropped  uint64            // events that found no room
}

// Executor is one executor's part of a trace.
type Executor struct {
	Timeline *Timeline
	Names    Names
}

// kinds are the names of ops that are no launches, and of those whose kernel is not known.
var kinds = map[uint16]string{
	shm.KindLaunch: "kernel", shm.KindMemset: "memset", shm.KindCopy: "copy", shm.KindCopy3D: "copy 3D", shm.KindPut: "put",
	shm.KindGet: "get", shm.KindEvent: "event", shm.KindGraph: "graph",
}

// Op names an op by its kind, or its kernel.
func (n *Names) Op(kind uint16, code uint32) string {
	if name := n.Kernels[code]; name != "" && kind == shm.KindLaunch {
		return name
	}
	if name := kinds[kind]; name != "" {
		if kind == shm.KindLaunch && code != 0 {
			return fmt.Sprintf("%s %d", name, code)
		}
		return name
	}
	return fmt.Sprintf("op of kind %d", kind)
}

// Wait names what an op waited for; "" when it did not.
func (n *Names) Wait(reason uint8) string {
	switch {
	case reason == 0:
		return ""
	case int(reason) <= len(n.Waits):
		return n.Waits[reason-1]
	}
	return fmt.Sprintf("reason-%d", reason)
}

func (n *Names) path(p uint8) string {
	if int(p) < len(n.Paths) {
		return n.Paths[p]
	}
	return fmt.Sprintf("path-%d", p)
}

// Clocks reads CLOCK_MONOTONIC, CLOCK_REALTIME and CLOCK_BOOTTIME.
func Clocks() []perfetto.Reading {
	var out []perfetto.Reading
	for clock, id := range map[perfetto.Clock]int32{
		perfetto.Monotonic: unix.CLOCK_MONOTONIC, perfetto.Realtime: unix.CLOCK_REALTIME, perfetto.Boottime: unix.CLOCK_BOOTTIME,
	} {
		var ts unix.Timespec
		if unix.ClockGettime(id, &ts) == nil {
			out = append(out, perfetto.Reading{Clock: clock, Time: ts.Nano()})
		}
	}
	slices.SortFunc(out, func(a, b perfetto.Reading) int { return cmp.Compare(a.Clock, b.Clock) })
	return out
}

// Write writes timelines as one Perfetto trace: a track for each client with one for each lane and one for its requests, a track
// for each executor with one for each stream, and a flow from every op to the word that it went in. clocks were read in the
// course of the recording.
func Write(to io.Writer, all []Executor, clocks []perfetto.Reading) error {
	x := &exporter{w: perfetto.NewWriter(to, clocks)}
	for i := range all {
		x.executor(&all[i])
	}
	return x.w.Flush()
}

// exporter numbers tracks and flows.
type exporter struct {
	w          *perfetto.Writer
	track      uint64
	flow       uint64
	begin, end int64
}

func (x *exporter) newTrack(parent uint64, name string) uint64 {
	x.track++
	x.w.Track(x.track, parent, name)
	return x.track
}

// rows places slices that may overlap on tracks of one name; slices come in the order of their beginnings.
type rows struct {
	x      *exporter
	parent uint64
	name   string
	tracks []uint64
	free   []int64 // when each is free
}

func (r *rows) place(begin, end int64) uint64 {
	for i, at := range r.free {
		if at <= begin {
			r.free[i] = end
			return r.tracks[i]
		}
	}
	r.tracks, r.free = append(r.tracks, r.x.newTrack(r.parent, r.name)), append(r.free, end)
	return r.tracks[len(r.tracks)-1]
}

func (x *exporter) executor(e *Executor) {
	t, n := e.Timeline, &e.Names
	x.begin, x.end = t.Begin, t.End
	flows := x.flow + 1 // of op 0
	x.flow += uint64(len(t.Ops))

	clients := map[uint64]uint64{}
	client := func(id uint64) uint64 {
		if clients[id] == 0 {
			name := n.Clients[id]
			if name == "" {
				name = fmt.Sprintf("client %d", id)
			}
			clients[id] = x.newTrack(0, name)
		}
		return clients[id]
	}
	x.requests(t, client)
	x.moments(t, n, client)

	order := make([]int, len(t.Ops))
	for i := range order {
		order[i] = i
	}
	from := func(op *Op) int64 { return cmp.Or(op.Ready, op.Issued) }
	slices.SortStableFunc(order, func(a, b int) int {
		p, q := &t.Ops[a], &t.Ops[b]
		return cmp.Or(cmp.Compare(p.Client, q.Client), cmp.Compare(p.Lane, q.Lane), cmp.Compare(from(p), from(q)))
	})
	var lane rows
	for k, i := range order {
		op := &t.Ops[i]
		if k == 0 || op.Client != t.Ops[order[k-1]].Client || op.Lane != t.Ops[order[k-1]].Lane {
			lane = rows{x: x, parent: client(op.Client), name: fmt.Sprintf("lane %d", op.Lane)}
		}
		x.op(t, n, op, &lane, flows+uint64(i))
	}
	x.words(t, n, flows)
}

func (x *exporter) op(t *Timeline, n *Names, op *Op, lane *rows, flow uint64) {
	begin, end := cmp.Or(op.Ready, op.Issued), cmp.Or(op.Done, x.end)
	end = max(end, begin)
	args := []perfetto.Arg{{Name: "number", Number: uint64(op.Seq)}}
	if op.Threads > 0 {
		args = append(args, perfetto.Arg{Name: "grid", Text: fmt.Sprintf("%d×%d×%d of %d", op.Grid[0], op.Grid[1], op.Grid[2], op.Threads)})
	}
	var flows []uint64
	if op.Word >= 0 {
		w := &t.Words[op.Word]
		args = append(args, perfetto.Arg{Name: "word", Number: w.Number}, perfetto.Arg{Name: "width", Number: uint64(w.Slots)})
		flows = []uint64{flow}
	}
	if op.Done == 0 {
		args = append(args, perfetto.Arg{Name: "unfinished", Text: "its end is not in the recording"})
	}
	track := lane.place(begin, end)
	x.w.Begin(track, begin, n.Op(op.Kind, op.Code), args, flows, nil)
	switch wait := n.Wait(op.Wait); {
	case op.Ready == 0:
	case op.Issued == 0:
		x.w.Begin(track, op.Ready, "waits", nil, nil, nil)
		x.w.End(track, end)
	case wait != "":
		x.w.Begin(track, op.Ready, "waits: "+wait, nil, nil, nil)
		x.w.End(track, min(max(op.Issued, op.Ready), end))
	}
	x.w.End(track, end)
}

func (x *exporter) words(t *Timeline, n *Names, flows uint64) {
	if len(t.Words) == 0 && n.Dropped == 0 {
		return
	}
	top := x.newTrack(0, cmp.Or(n.Executor, "executor"))
	if n.Dropped > 0 {
		x.w.Instant(top, x.end, fmt.Sprintf("%d events dropped", n.Dropped), []perfetto.Arg{{Name: "dropped", Number: n.Dropped}})
	}
	order := make([]int, len(t.Words))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		p, q := &t.Words[a], &t.Words[b]
		return cmp.Or(cmp.Compare(p.Stream, q.Stream), cmp.Compare(p.Issued, q.Issued))
	})
	var stream rows
	for k, i := range order {
		w := &t.Words[i]
		if k == 0 || w.Stream != t.Words[order[k-1]].Stream {
			stream = rows{x: x, parent: top, name: fmt.Sprintf("stream %d", w.Stream)}
		}
		end := max(cmp.Or(w.Done, x.end), w.Issued)
		name := n.Op(w.Kind, w.Code)
		args := []perfetto.Arg{{Name: "word", Number: w.Number}, {Name: "width", Number: uint64(w.Slots)}, {Name: "path", Text: n.path(w.Path)}}
		if w.Blocks > 0 {
			unit := "blocks"
			if w.Kind == shm.KindGraph {
				unit = "parts"
			}
			name = fmt.Sprintf("%s, %s from %d", name, unit, w.From)
			args = append(args, perfetto.Arg{Name: unit, Number: uint64(w.Blocks)})
		}
		if w.Capacity > 0 {
			name = fmt.Sprintf("%d × %s", w.Slots, name)
			args = append(args, perfetto.Arg{Name: "capacity", Number: uint64(w.Capacity)})
		}
		if w.Done == 0 {
			args = append(args, perfetto.Arg{Name: "unfinished", Text: "its end is not in the recording"})
		}
		ending := make([]uint64, 0, len(w.Ops))
		for _, op := range w.Ops {
			if t.Ops[op].Word == i { // of slices only the last
				ending = append(ending, flows+uint64(op))
			}
		}
		track := stream.place(w.Issued, end)
		x.w.Begin(track, w.Issued, name, args, nil, ending)
		x.w.End(track, end)
	}
}

func (x *exporter) requests(t *Timeline, client func(uint64) uint64) {
	order := slices.Clone(t.Requests)
	for i := range order {
		order[i].Begin = cmp.Or(order[i].Begin, min(x.begin, cmp.Or(order[i].End, x.begin)))
	}
	slices.SortStableFunc(order, func(a, b Request) int { return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Begin, b.Begin)) })
	var r rows
	for k, q := range order {
		if k == 0 || q.Client != order[k-1].Client {
			r = rows{x: x, parent: client(q.Client), name: "requests"}
		}
		var args []perfetto.Arg
		end := max(cmp.Or(q.End, x.end), q.Begin)
		if q.End == 0 {
			args = []perfetto.Arg{{Name: "unfinished", Text: "its end is not in the recording"}}
		}
		track := r.place(q.Begin, end)
		x.w.Begin(track, q.Begin, "request", args, nil, nil)
		x.w.End(track, end)
	}
}

func (x *exporter) moments(t *Timeline, n *Names, client func(uint64) uint64) {
	tracks := map[uint64]uint64{}
	order := slices.Clone(t.Moments)
	slices.SortStableFunc(order, func(a, b Moment) int { return cmp.Compare(a.Time, b.Time) })
	for _, m := range order {
		if tracks[m.Client] == 0 {
			tracks[m.Client] = x.newTrack(client(m.Client), "marks and errors")
		}
		if m.Fault {
			name := cmp.Or(n.Faults[m.Reason], fmt.Sprintf("reason-%d", m.Reason))
			x.w.Instant(tracks[m.Client], m.Time, "error: "+name, []perfetto.Arg{{Name: "CUresult", Number: uint64(m.Result)}})
			continue
		}
		x.w.Instant(tracks[m.Client], m.Time, cmp.Or(m.Label, "mark"), nil)
	}
}
