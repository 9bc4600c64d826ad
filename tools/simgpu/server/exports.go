package server

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// exports are the objects for which there are descriptors. A descriptor is the writing end of a pipe whose reading end stays here:
// when all its copies are closed, wherever they went, the pipe ends and the object loses a reference.
type exports struct {
	mu sync.Mutex
	of map[fileID]*export
}

type export struct {
	object *object
	rd     *os.File
	gone   chan struct{} // closed when the reference was given back
}

// add makes a descriptor for an object, whose reference it takes over, also when it fails.
func (e *exports) add(o *object) (*os.File, error) {
	rd, wr, err := os.Pipe()
	if err != nil {
		o.release()
		return nil, err
	}
	id, err := identify(int(wr.Fd()))
	if err != nil {
		rd.Close()
		wr.Close()
		o.release()
		return nil, err
	}
	x := &export{o, rd, make(chan struct{})}
	e.mu.Lock()
	e.of[id] = x
	e.mu.Unlock()
	go func() {
		var sink [64]byte
		for {
			if _, err := rd.Read(sink[:]); err != nil {
				break
			}
		}
		o.release() // before it is forgotten: settle waits for those that are known
		e.mu.Lock()
		delete(e.of, id)
		e.mu.Unlock()
		rd.Close()
		close(x.gone)
	}()
	return wr, nil
}

// find gives the object of a descriptor, with a reference; nil when it has none.
func (e *exports) find(fd int) *object {
	id, err := identify(fd)
	if err != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.of[id]; x != nil && x.object.tryRetain() {
		return x.object
	}
	return nil
}

// settle returns when the references of descriptors that are closed by now were given back: a driver does so within close(2).
func (e *exports) settle() {
	e.mu.Lock()
	var closed []chan struct{}
	for _, x := range e.of {
		if ended(x.rd) {
			closed = append(closed, x.gone)
		}
	}
	e.mu.Unlock()
	for _, gone := range closed {
		<-gone
	}
}

// ended tells whether a pipe has no writing end left.
func ended(rd *os.File) bool {
	raw, err := rd.SyscallConn()
	if err != nil {
		return true
	}
	hup := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		hup = err == nil && n == 1 && poll[0].Revents&unix.POLLHUP != 0
	})
	return err != nil || hup
}

func (s *Server) exported() int {
	s.exports.mu.Lock()
	defer s.exports.mu.Unlock()
	return len(s.exports.of)
}

func (c *client) vmmExport(r *wire.Request) {
	c.mu.Lock()
	o := c.handles[r.Args[0]]
	if o != nil {
		o.retain()
	}
	c.mu.Unlock()
	if o == nil || !o.exportable {
		if o != nil {
			o.release()
		}
		c.status(r.Tag, errInvalidValue)
		return
	}
	wr, err := c.srv.exports.add(o)
	if err != nil {
		c.srv.logf("exporting memory: %v", err)
		c.status(r.Tag, errOperatingSystem)
		return
	}
	c.reply(r.Tag, success, nil, nil, wr)
}

// vmmImport takes a descriptor, or the address of one of the client's own mappings.
func (c *client) vmmImport(r *wire.Request, fd int) {
	var o *object
	if fd >= 0 {
		o = c.srv.exports.find(fd)
	} else if len(r.Args) > 0 {
		c.mu.Lock()
		if seg := c.space.find(r.Args[0]); seg != nil && seg.vmm {
			o = seg.obj
			o.retain()
		}
		c.mu.Unlock()
	}
	if o == nil {
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.reply(r.Tag, success, []uint64{c.adopt(o), o.size, uint64(o.dev.ordinal)}, nil, nil)
}
