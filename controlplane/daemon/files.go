package daemon

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// filesForOthers is the part of the files that this process may open which is left for what is no client's memory: sockets, session
// files, images, executors, logs. At least leastForOthers of them.
const (
	filesForOthers = 4 // a quarter
	leastForOthers = 256
)

// fileBudget bounds the descriptors that the daemon keeps for clients, so that a successor of their executor gets the same memory, graphs
// and code: one for each segment, host segment, graph and image. Without it one client could take all, and no other would be let in.
type fileBudget struct {
	mu         sync.Mutex
	kept, most int
}

// newFileBudget leaves room for the rest of limit, how many files this process may open.
func newFileBudget(limit uint64) *fileBudget {
	n := int(min(limit, 1<<30))
	return &fileBudget{most: max(0, n-max(n/filesForOthers, leastForOthers))}
}

// take counts one more for what has so many: a client, or the code that all clients of a slot share. None gets more than are left for all
// others.
func (b *fileBudget) take(what string, has int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if left := b.most - b.kept; has >= left {
		return fmt.Errorf("%s keep %d files open in the daemon, and %d of %d are left for everybody: raise its limit (ulimit -Hn), or allocate in larger pieces", what, has, max(left, 0), b.most)
	}
	b.kept++
	return nil
}

// give takes one back.
func (b *fileBudget) give() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept--
}

// keep counts one more descriptor of the session. mu is held.
func (s *session) keep() error {
	err := s.files.take("the client's memory and graphs", s.kept)
	if err == nil {
		s.kept++
	}
	return err
}

// let closes a descriptor that was counted. mu is held.
func (s *session) let(fd int) {
	unix.Close(fd)
	s.uncount()
}

// uncount takes back what keep counted. mu is held.
func (s *session) uncount() {
	s.kept--
	s.files.give()
}
