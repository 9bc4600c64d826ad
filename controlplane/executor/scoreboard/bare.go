package scoreboard

import "github.com/heddle-gpu/heddle/shm"

// Bare makes a board of so few lanes for a caller that keeps its ops itself, as a simulator does: it has no ring and takes no
// records; only its lanes' numbers mean anything. A whole board holds a megabyte.
func Bare(id uint64, lanes int) *Session {
	s := &Session{ID: id, lanes: make([]Lane, lanes)}
	words := make([]shm.Lane, lanes)
	for i := range s.lanes {
		s.lanes[i] = Lane{Index: uint32(i), Stream: NoStream, word: &words[i]}
	}
	return s
}
