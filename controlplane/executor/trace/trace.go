// Package trace records what the poller does: ops that become ready, words that are issued and what is in them, ops that end,
// requests, faults. It is off until somebody asks, and costs one branch an event then.
//
// The poller's thread writes events of one size into a ring that was made when the recording began; one goroutine of the control
// side takes them out meanwhile. An event that finds no room is counted and forgotten: a recording never makes the poller wait.
// What the fields of an event say: docs/tracing.md.
package trace

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of one recording.
const (
	MinEvents, MaxEvents = 1 << 10, 1 << 18 // 64 bytes each
	MaxTime              = 10 * time.Minute
	// EventBytes is the size of an event on the wire.
	EventBytes = int(unsafe.Sizeof(shm.TraceEvent{}))
)

// Paths of words, as TraceEvent.Path numbers them.
var Paths = [word.Paths]string{word.Stream: "alone", word.Coalesced: "coalesced", word.Sliced: "sliced", word.Prepared: "prepared", word.Joined: "joined"}

// Recording is one ring of events: one writer, one reader.
type Recording struct {
	cells  []shm.TraceEvent // a power of two
	offset int64            // from the poller's clock to CLOCK_MONOTONIC
	until  int64            // of the poller's clock
	client uint64           // 0: everybody

	_        [64]byte
	tail     atomic.Uint64 // written; the poller's
	dropped  atomic.Uint64
	finished atomic.Bool // nothing is written any more
	_        [40]byte
	head     atomic.Uint64 // taken; the reader's
}

// New makes the room of a recording of a poller whose clock counts from base: for at least so many events and at most so long,
// both brought into bounds. client ≠ 0: only what concerns that one.
func New(base time.Time, events int, length time.Duration, client uint64) *Recording {
	n := MinEvents
	for n < events && n < MaxEvents {
		n *= 2
	}
	if length <= 0 || length > MaxTime {
		length = MaxTime
	}
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it is there on every Linux, and what time.Since counts on
	now := int64(time.Since(base))
	r := &Recording{cells: make([]shm.TraceEvent, n), offset: ts.Nano() - now, until: now + int64(length), client: client}
	for i := 0; i < n; i += 64 {
		r.cells[i].Kind = 0 // the pages are there before the poller needs them
	}
	return r
}

// Read appends the oldest events that were not read, at most max of them, to into. One goroutine at a time.
func (r *Recording) Read(into []byte, max int) ([]byte, int) {
	head, tail := r.head.Load(), r.tail.Load()
	n := min(int(tail-head), max)
	for i := range uint64(n) {
		e := &r.cells[(head+i)&uint64(len(r.cells)-1)]
		into = append(into, unsafe.Slice((*byte)(unsafe.Pointer(e)), EventBytes)...)
	}
	r.head.Store(head + uint64(n))
	return into, n
}

// Counts are the events written so far, and those that found no room.
func (r *Recording) Counts() (recorded, dropped uint64) { return r.tail.Load(), r.dropped.Load() }

// Finished says that no further event will come; those that are there can still be read.
func (r *Recording) Finished() bool { return r.finished.Load() }

// Recorder is the poller's end. Its methods are for the poller's thread. The zero value is off.
type Recorder struct {
	r    *Recording
	base time.Time
	// Why says why an op that is issued now was not issued when it became ready: an index of the executor's names of waits.
	Why func(*scoreboard.Op) uint8
}

// Begin makes r the recording; one that is under way ends. base is what the poller's clock counts from.
func (t *Recorder) Begin(r *Recording, base time.Time) {
	t.End(nil)
	t.r, t.base = r, base
}

// End ends a recording if it is the one under way; nil: any.
func (t *Recorder) End(r *Recording) {
	if t.r != nil && (r == nil || r == t.r) {
		t.r.finished.Store(true)
		t.r = nil
	}
}

// On says whether anything is recorded.
func (t *Recorder) On() bool { return t.r != nil }

// Tick ends a recording whose time is over. now is the poller's clock.
func (t *Recorder) Tick(now int64) {
	if t.r != nil && now >= t.r.until {
		t.End(nil)
	}
}

// Ready records that an op may be issued from now on.
func (t *Recorder) Ready(op *scoreboard.Op) {
	if t.r != nil {
		t.ready(op)
	}
}

// Word records an issued word and its ops. number tells it from the executor's other words.
func (t *Recorder) Word(w *word.Word, number uint64) {
	if t.r != nil {
		t.word(w, number)
	}
}

// Done records that n ops of a lane, up to lane.Done, were seen done on a stream.
func (t *Recorder) Done(client uint64, lane *scoreboard.Lane, stream, n int) {
	if t.r != nil {
		t.done(client, lane, stream, n)
	}
}

// Slice records that a word which is a slice, but not its op's last, was seen done.
func (t *Recorder) Slice(client uint64, lane *scoreboard.Lane, number uint64) {
	if t.r != nil {
		if e := t.next(client, t.now()); e != nil {
			e.Kind, e.Lane, e.Word, e.Stream = shm.TraceKindDone, lane.Index, number, uint8(max(lane.Stream, 0))
			t.push()
		}
	}
}

// Request records the begin and the end of a client's requests. last is where the caller keeps what it was told last, 0 at first;
// begun is the time of the poller's clock at which the one under way began, open whether there is one.
func (t *Recorder) Request(last *int64, client uint64, begun int64, open bool) {
	if t.r != nil {
		t.request(last, client, begun, open)
	}
}

// Mark records what a client calls the request that begins.
func (t *Recorder) Mark(client uint64, m *shm.RequestBegin) {
	if t.r != nil {
		t.mark(client, m)
	}
}

// Fault records that a client got a sticky error; reason is one of shm.Reason.
func (t *Recorder) Fault(client uint64, result gpu.Result, reason uint32) {
	if t.r != nil {
		if e := t.next(client, t.now()); e != nil {
			e.Kind, e.Count, e.Reason = shm.TraceKindFault, uint32(result), uint8(reason)
			t.push()
		}
	}
}

// now is CLOCK_MONOTONIC, ns.
func (t *Recorder) now() int64 { return int64(time.Since(t.base)) + t.r.offset }

// next is the cell for an event of a client at a time, nil when it is not to be recorded.
func (t *Recorder) next(client uint64, at int64) *shm.TraceEvent {
	r := t.r
	if r.client != 0 && client != r.client {
		return nil
	}
	tail := r.tail.Load()
	if tail-r.head.Load() == uint64(len(r.cells)) {
		r.dropped.Add(1)
		return nil
	}
	e := &r.cells[tail&uint64(len(r.cells)-1)]
	*e = shm.TraceEvent{Time: uint64(at), Client: client}
	return e
}

func (t *Recorder) push() { t.r.tail.Store(t.r.tail.Load() + 1) }

func code(op *scoreboard.Op) uint32 {
	if op.Kind == shm.KindLaunch && op.Kernel.Code != nil {
		return op.Kernel.Code.ID
	}
	return 0
}

func (t *Recorder) ready(op *scoreboard.Op) {
	e := t.next(op.Session.ID, t.now())
	if e == nil {
		return
	}
	e.Kind, e.Op, e.Lane, e.Seq, e.Code = shm.TraceKindReady, op.Kind, op.Lane, op.Seq, code(op)
	if op.Kind == shm.KindLaunch {
		l := op.Launch()
		e.GridX, e.GridY, e.GridZ = l.Grid[0], l.Grid[1], l.Grid[2]
		e.Threads = l.Block[0] * l.Block[1] * l.Block[2]
	}
	t.push()
}

// Waited is how long an op must have been ready for its wait to have a reason, ns: less is the pass that found it.
const waited = 2000

func (t *Recorder) word(w *word.Word, number uint64) {
	ops := w.Ops()
	lead := ops[0]
	stream := uint8(lead.Session.Lane(lead.Lane).Stream) // it was issued there
	path := w.Path()
	of := lead.Session.ID
	if only := t.r.client; only != 0 && of != only {
		for _, op := range ops[1:] {
			if op.Session.ID == only {
				of = only // it is this client's word too
			}
		}
	}
	at := t.now() // of the whole word: no op goes into it later than it goes
	e := t.next(of, at)
	if e != nil {
		e.Kind, e.Word, e.Stream, e.Path = shm.TraceKindWord, number, stream, uint8(path)
		e.Count, e.Op, e.Code = uint32(len(ops)), lead.Kind, code(lead)
		switch {
		case w.Sliced():
			e.GridY, e.GridZ = w.Batch.Slice.From, w.Batch.Slice.Blocks
		case w.Batch != nil:
			e.GridX, e.Slot = uint32(w.Batch.Form.Layout.Capacity), uint16(w.Batch.Form.Layout.Mapping)
		}
		t.push()
	}
	for i, op := range ops {
		e := t.next(op.Session.ID, at)
		if e == nil {
			continue
		}
		e.Kind, e.Word, e.Slot, e.Stream, e.Path = shm.TraceKindSlot, number, uint16(i), stream, uint8(path)
		e.Op, e.Lane, e.Seq, e.Code, e.Count = op.Kind, op.Lane, op.Seq, code(op), uint32(len(ops))
		if t.Why != nil && (at-t.r.offset-op.ReadyAt > waited || w.Sliced()) {
			e.Reason = 1 + t.Why(op)
		}
		t.push()
	}
}

func (t *Recorder) done(client uint64, lane *scoreboard.Lane, stream, n int) {
	if e := t.next(client, t.now()); e != nil {
		e.Kind, e.Lane, e.Seq, e.Count, e.Stream = shm.TraceKindDone, lane.Index, lane.Done, uint32(n), uint8(stream)
		t.push()
	}
}

func (t *Recorder) request(last *int64, client uint64, begun int64, open bool) {
	if !open {
		begun = 0
	}
	if begun == *last {
		return
	}
	if *last != 0 {
		if e := t.next(client, t.now()); e != nil {
			e.Kind = shm.TraceKindRequestEnd
			t.push()
		}
	}
	if *last = begun; begun != 0 {
		if e := t.next(client, begun+t.r.offset); e != nil {
			e.Kind = shm.TraceKindRequestBegin
			t.push()
		}
	}
}

func (t *Recorder) mark(client uint64, m *shm.RequestBegin) {
	if e := t.next(client, t.now()); e != nil {
		mark := (*shm.TraceMark)(unsafe.Pointer(e))
		mark.Kind, mark.Request, mark.Label = shm.TraceKindMark, m.Request, m.Label
		t.push()
	}
}
