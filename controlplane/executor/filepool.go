package executor

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// mostFiles bounds the session files of former clients that stay registered. The daemon keeps no more of them (daemon.mostSpares).
const mostFiles = 16

// registered is a session file that the driver knows.
type registered struct {
	file     *shm.SessionFile
	lanes    uint64 // device address of the lane words
	dev, ino uint64 // which file it is
}

// base is where the file is mapped and registered.
func (r *registered) base() uint64 { return uint64(uintptr(r.file.Base())) }

// register makes the driver know the file. It holds others up.
func (r *registered) register(d Driver) error {
	at, res := d.HostRegister(r.base(), uint64(len(r.file.Bytes())))
	if res != 0 {
		return refuseCUDA("cuMemHostRegister of the session file", res)
	}
	r.lanes = at + uint64(uintptr(unsafe.Pointer(&r.file.LaneBytes()[0]))) - r.base()
	return nil
}

// letGo makes the driver forget the file, which holds others up, and unmaps it.
func (r *registered) letGo(d Driver) error {
	d.HostUnregister(r.base())
	return r.file.Close()
}

// filePool keeps session files of clients that left registered: registering and unregistering one takes the driver some 25 ms each while
// processes beside it start and end, in which launches wait (docs/results.md), and the daemon gives the same memory to a client that
// comes. Any goroutine may use it.
type filePool struct {
	mu   sync.Mutex
	free []registered // the one that was used last is the last
}

// take finds the file behind fd, which was renewed for the client and stays the caller's. Without ok it is one that the driver does not
// know; dev and ino say which.
func (p *filePool) take(fd int, client uint64) (r registered, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return r, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.free {
		// What the daemon has just written into it stands in our mapping: it is the same memory.
		if f.dev == st.Dev && f.ino == st.Ino && f.file.Of(client) {
			p.free = append(p.free[:i], p.free[i+1:]...)
			return f, true, nil
		}
	}
	return registered{dev: st.Dev, ino: st.Ino}, false, nil
}

// give keeps the file of a client that leaves, and returns those that are to be let go: the one that was not used for longest, where there
// are plenty, or this one, which the daemon gives to nobody. Nobody takes it before DETACH is answered.
func (p *filePool) give(r registered) (leave []registered) {
	if r.file.Due() {
		return []registered{r}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, r)
	if len(p.free) > mostFiles {
		leave = append(leave, p.free[0])
		p.free = append(p.free[:0], p.free[1:]...)
	}
	return leave
}
