package issue

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// Marks is how many ops can be issued in slices at a time. The GPU writes into the mark of each how many of its slices have ended: no
// client can write there, so none can make its slices come faster than they end.
const Marks = 32

// marks are the words; they lie apart, so that the GPU's writes do not meet in one cache line.
type marks struct{ base uint64 }

const markBytes = 64

func (m *marks) make(d Driver) error {
	at, r := d.HostAlloc(Marks * markBytes)
	if r != gpu.Success {
		return fmt.Errorf("issue: words that slices' ends are written to: %w", r)
	}
	m.base = at
	for i := range Marks {
		atomic.StoreUint32(m.word(i), 0)
	}
	return nil
}

func (m *marks) at(i int) uint64 { return m.base + uint64(i)*markBytes }

func (m *marks) word(i int) *uint32 { return (*uint32)(unsafe.Add(unsafe.Pointer(nil), m.at(i))) }

// Marked is the number that the slices of mark i have stored last.
func (e *Engine) Marked(i int) uint32 { return atomic.LoadUint32(e.marks.word(i)) }

// Follow issues a slice that is not its op's first, behind the one before it. Its last slice makes the op issued as a whole. false:
// there is no room now, nothing was changed.
func (e *Engine) Follow(w *word.Word) bool {
	op := w.Batch.Ops[0]
	l := op.Session.Lane(op.Lane)
	on := &e.streams[l.Stream]
	t := e.home(l.Stream, 0)
	if on.depth()+2 > streamDepth {
		e.Full |= 1 << uint(l.Stream)
		return false
	}
	if t.q.room() < 1+queueLength-queueUse {
		return false
	}
	on.extra++ // the launch; hand counts the word behind it
	if w.Batch.Slice.Last {
		op.Session.Finish(l, op.Signal)
	}
	e.hand(t, w, l.Stream, true)
	return true
}

// Moved notes that a stream has come further without completing an op.
func (e *Engine) Moved(stream int) { e.streams[stream].Since = e.Now }

// slice launches a slice, and has its end written behind it. When the driver refuses an op's first one the op goes whole, and it is
// the form's fault if that is taken; then, and after a refusal, nothing more of the op is launched.
func (t *thread) slice(on gpu.Stream, b *word.Batch) {
	d, op := t.engine.driver, b.Ops[0]
	if !op.Instead {
		var r gpu.Result
		began := b.Slice.From > 0
		if b.Parts != nil {
			var some bool
			some, r = op.Graph.LaunchParts(d, b.Parts, b.Slice.From, b.Slice.Blocks, on)
			began = began || some
		} else {
			r = t.launch(on, b)
		}
		switch {
		case r == gpu.Success:
		case r.Sticky():
			t.engine.SetFault(r)
		case began:
			op.Instead = true
			t.refused(op, r)
		default:
			op.Instead = true
			if r = t.start(on, op); r != gpu.Success {
				t.refused(op, r)
			} else if b.Form != nil {
				b.Form.Refused.Store(true)
			}
		}
	}
	if t.engine.fault.Load() != 0 {
		return
	}
	switch {
	case !b.Slice.Last:
		t.must(d.WriteValue32(on, t.engine.marks.at(b.Slice.Mark), b.Slice.Number))
	case op.Signal:
		t.must(d.WriteValue32(on, op.Session.DoneAddress(op.Lane), op.Seq))
	}
}
