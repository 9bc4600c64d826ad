package daemon

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// mostSpares bounds the session files of former clients that a slot keeps. The executor keeps no more of them registered
// (executor.mostFiles).
const mostSpares = 16

// spares are the session files of a slot's clients that are gone, for clients that come: their executor has them registered, which takes
// the driver tens of ms while processes start and end. A file serves again, for a process of the same user, when the executor let go of
// it, the client's process is dead, and no write of that client's GPU is due (SECURITY.md).
type spares struct {
	mu     sync.Mutex
	free   []spare // the last one was given back last
	closed bool
}

type spare struct {
	file  *shm.SessionFile
	uid   uint32
	pidfd int // the spare's own
}

// give takes over the file of a client of which the executor has nothing any more. The client may still be alive.
func (s *spares) give(file *shm.SessionFile, p peer) {
	pidfd, err := unix.FcntlInt(uintptr(p.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		file.Close()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, spare{file, p.uid, pidfd})
	if s.closed || len(s.free) > mostSpares {
		s.drop(0)
	}
}

// take returns a file for a client of that user, as a new one would be; nil when there is none.
func (s *spares) take(uid uint32, client uint64) *shm.SessionFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.free) - 1; i >= 0; i-- {
		f := s.free[i]
		if f.uid != uid || !dead(f.pidfd) {
			continue
		}
		if f.file.Due() {
			s.drop(i)
			continue
		}
		unix.Close(f.pidfd)
		s.free = append(s.free[:i], s.free[i+1:]...)
		f.file.Renew(client)
		return f.file
	}
	return nil
}

// drop closes a file for good. mu is held.
func (s *spares) drop(i int) {
	s.free[i].file.Close()
	unix.Close(s.free[i].pidfd)
	s.free = append(s.free[:i], s.free[i+1:]...)
}

// close closes all, and whatever is given later.
func (s *spares) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for len(s.free) > 0 {
		s.drop(0)
	}
}

// dead tells whether all threads of the process have ended.
func dead(pidfd int) bool {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLIN != 0
}
