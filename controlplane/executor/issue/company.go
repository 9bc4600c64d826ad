package issue

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/shm"
)

// unnamed is the tail of a stream whose last word is of several kinds of ops.
const unnamed = ^uint64(0)

// busy are the streams that hold something which matters (bits).
func (e *Engine) busy() (streams uint64) {
	for i := range e.streams {
		if on := &e.streams[i]; on.Ops > 0 && on.tail != 0 {
			streams |= 1 << i
		}
	}
	return streams
}

// matters is how many bytes an op that launches nothing must move for it to slow others, if anything does.
const matters = 64 << 10

// follow notes what a stream holds last.
func (s *Stream) follow(w *word.Word) {
	s.fill = 0
	switch {
	case w.Chain != nil, w.Team != nil, w.Batch != nil && !w.Batch.Alike:
		s.tail = unnamed
	case w.Shape != nil:
		s.tail, s.fill = w.Shape.Key, w.Shape.Fill
	default:
		if op := w.Ops()[0]; op.Kind == shm.KindLaunch || op.Kind == shm.KindGraph || op.Bytes() >= matters {
			s.tail = op.Key()
		}
	}
}

// company notes in a sample what is on the other streams when its word is put on one.
func (e *Engine) company(s *word.Sample, w *word.Word, stream int) {
	s.Beside, s.Pair = word.Beside{Own: stream}, word.Pair{}
	if w.Batch != nil && !w.Batch.Alike {
		s.Pair = w.Batch.Pair
	}
	for i := range e.streams {
		on := &e.streams[i]
		switch {
		case i == stream || on.Ops == 0 || on.tail == 0:
		case on.tail == unnamed:
			s.Beside.Add(i, 0, 0)
		default:
			s.Beside.Add(i, on.tail, on.fill)
		}
	}
}
