package scoreboard

import (
	"sync/atomic"

	"github.com/heddle-gpu/heddle/shm"
)

// Bare makes a board of so few lanes for a caller that keeps the ops' memory itself, as a simulator does: it has no ring and takes no
// records; Push and Ran stand for the client's records and the GPU's done words. A whole board holds a megabyte.
func Bare(id uint64, lanes int) *Session {
	s := &Session{ID: id, lanes: make([]Lane, lanes)}
	words := make([]shm.Lane, lanes)
	for i := range s.lanes {
		s.lanes[i] = Lane{Index: uint32(i), Stream: NoStream, word: &words[i]}
	}
	return s
}

// Push takes an op that its lane's client submits now, of a Bare board. Session, Lane and Seq, which follows the lane's last, are set.
func (s *Session) Push(op *Op) { s.push(op, &s.lanes[op.Lane]) }

// Ran stores a done word of a Bare board, as the GPU does behind an op whose done word was asked for.
func (s *Session) Ran(lane, seq uint32) { atomic.StoreUint32(&s.lanes[lane].word.Done, seq) }

// Want asks for the done word of a number of a lane, as a client's SIGNAL record does. now: the op is issued, and nothing queued writes
// the word.
func (s *Session) Want(lane, seq uint32) (now bool) {
	a, _ := s.signal(&s.lanes[lane], seq)
	return a == SignalNow
}
