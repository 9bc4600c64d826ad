package trace

import (
	"fmt"
	"math"

	"github.com/heddle-gpu/heddle/shm"
)

// Op is one op as a recording shows it. Times are ns of CLOCK_MONOTONIC; 0: not in the recording.
type Op struct {
	Client              uint64
	Lane, Seq           uint32
	Kind                uint16 // shm.Kind
	Code                uint32 // kernel, as heddle kernels numbers it; 0: no launch, or of an unknown one
	Grid                [3]uint32
	Threads             uint32 // of a block
	Ready, Issued, Done int64
	Wait                uint8 // 0: it was issued at once; else 1 + the index of why not
	Word                int   // index in Timeline.Words, -1
}

// Word is one launch, copy or other thing that was issued.
type Word struct {
	Number       uint64
	Issued, Done int64 // Done: when its last op was seen done; 0: not in the recording
	Stream, Path uint8
	Slots        int // ops in it, those of others included
	Code         uint32
	Kind         uint16
	Capacity     int    // of the form; 0: as its client launched it, or a slice
	From, Blocks uint32 // of a slice: its first block, and how many; no blocks: it is none
	Ops          []int  // indices in Timeline.Ops, of those in the recording
}

// Request is a client's request; Begin or End is 0 when it is not in the recording.
type Request struct {
	Client     uint64
	Begin, End int64
}

// Moment is a mark of a client's, or a sticky error.
type Moment struct {
	Client uint64
	Time   int64
	Label  string // of a mark
	Fault  bool
	Result uint32 // CUresult
	Reason uint32 // shm.Reason
}

// Timeline is a recording put together.
type Timeline struct {
	Begin, End int64 // of its first and last event
	Events     int
	Ops        []Op
	Words      []Word
	Requests   []Request
	Moments    []Moment

	ops   map[opKey]int
	words map[uint64]int
	lanes map[laneKey][]int // issued and not done, oldest first
	open  map[uint64]int    // requests by client
}

type opKey struct {
	client    uint64
	lane, seq uint32
}

type laneKey struct {
	client uint64
	lane   uint32
}

// NewTimeline makes an empty one.
func NewTimeline() *Timeline {
	return &Timeline{ops: map[opKey]int{}, words: map[uint64]int{}, lanes: map[laneKey][]int{}, open: map[uint64]int{}}
}

// Add takes events as READ gave them, in the order in which they were recorded.
func (t *Timeline) Add(b []byte) error {
	if len(b)%EventBytes != 0 {
		return fmt.Errorf("trace: %d bytes of events; expected a multiple of %d", len(b), EventBytes)
	}
	for ; len(b) > 0; b = b[EventBytes:] {
		e, err := shm.Decode[shm.TraceEvent](b[:EventBytes])
		if err != nil {
			return err
		}
		if e.Time > math.MaxInt64 {
			return fmt.Errorf("trace: event %d at %d ns; is the executor of another version? heddle version", t.Events, e.Time)
		}
		t.add(&e, b[:EventBytes])
	}
	return nil
}

func (t *Timeline) add(e *shm.TraceEvent, raw []byte) {
	at := int64(e.Time)
	if t.Begin == 0 || (at < t.Begin && e.Kind != shm.TraceKindRequestBegin) {
		t.Begin = at
	}
	t.End = max(t.End, at)
	t.Events++
	switch e.Kind {
	case shm.TraceKindReady:
		op := t.op(e)
		op.Ready, op.Grid, op.Threads = at, [3]uint32{e.GridX, e.GridY, e.GridZ}, e.Threads
	case shm.TraceKindWord:
		w := t.word(e)
		w.Code, w.Kind, w.Slots, w.Capacity, w.From, w.Blocks = e.Code, e.Op, int(e.Count), int(e.GridX), e.GridY, e.GridZ
	case shm.TraceKindSlot:
		w := t.words[t.word(e).Number]
		t.Words[w].Slots = max(t.Words[w].Slots, int(e.Count))
		op := t.op(e)
		if op.Word = w; op.Issued == 0 { // else another slice of it
			op.Issued, op.Wait = at, e.Reason
		}
		i := t.ops[opKey{e.Client, e.Lane, e.Seq}]
		t.Words[w].Ops = append(t.Words[w].Ops, i)
		lane := laneKey{e.Client, e.Lane}
		t.lanes[lane] = append(t.lanes[lane], i)
	case shm.TraceKindDone:
		if e.Count == 0 {
			if w, ok := t.words[e.Word]; ok { // a slice, not its op's last
				t.Words[w].Done = at
			}
			break
		}
		lane := laneKey{e.Client, e.Lane}
		flying := t.lanes[lane]
		for len(flying) > 0 && shm.Reached(e.Seq, t.Ops[flying[0]].Seq) {
			op := &t.Ops[flying[0]]
			op.Done = at
			t.finish(op.Word)
			flying = flying[1:]
		}
		t.lanes[lane] = flying
	case shm.TraceKindRequestBegin:
		t.open[e.Client] = len(t.Requests)
		t.Requests = append(t.Requests, Request{Client: e.Client, Begin: at})
	case shm.TraceKindRequestEnd:
		if i, ok := t.open[e.Client]; ok {
			t.Requests[i].End = at
			delete(t.open, e.Client)
		} else {
			t.Requests = append(t.Requests, Request{Client: e.Client, End: at})
		}
	case shm.TraceKindMark:
		if m, err := shm.Decode[shm.TraceMark](raw); err == nil {
			label := m.Label[:]
			for i, c := range label {
				if c == 0 {
					label = label[:i]
					break
				}
			}
			t.Moments = append(t.Moments, Moment{Client: e.Client, Time: at, Label: string(label)})
		}
	case shm.TraceKindFault:
		t.Moments = append(t.Moments, Moment{Client: e.Client, Time: at, Fault: true, Result: e.Count, Reason: uint32(e.Reason)})
	}
}

// op is the op that an event is about.
func (t *Timeline) op(e *shm.TraceEvent) *Op {
	key := opKey{e.Client, e.Lane, e.Seq}
	i, ok := t.ops[key]
	if !ok {
		i = len(t.Ops)
		t.ops[key] = i
		t.Ops = append(t.Ops, Op{Client: e.Client, Lane: e.Lane, Seq: e.Seq, Kind: e.Op, Code: e.Code, Word: -1})
	}
	return &t.Ops[i]
}

// word is the word that an event is about.
func (t *Timeline) word(e *shm.TraceEvent) *Word {
	i, ok := t.words[e.Word]
	if !ok {
		i = len(t.Words)
		t.words[e.Word] = i
		t.Words = append(t.Words, Word{Number: e.Word, Issued: int64(e.Time), Stream: e.Stream, Path: e.Path, Code: e.Code, Kind: e.Op})
	}
	return &t.Words[i]
}

// finish marks a word done when all its ops that are known are.
func (t *Timeline) finish(word int) {
	w := &t.Words[word]
	last := int64(0)
	for _, i := range w.Ops {
		if t.Ops[i].Done == 0 {
			return
		}
		last = max(last, t.Ops[i].Done)
	}
	w.Done = last
}
