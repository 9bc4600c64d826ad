package executor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/shm"
)

var errStopping = errors.New("the executor is leaving")

// refusal is an answer other than OK: a status and a sentence for the client.
type refusal struct {
	status uint16
	text   string
	result gpu.Result
}

func (r *refusal) Error() string { return r.text }

func refuse(status uint16, format string, args ...any) error {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// refuseCUDA turns the driver's result into an answer.
func refuseCUDA(what string, err error) error {
	r := codeOf(err)
	status := uint16(shm.StatusCUDA)
	if r == gpu.OutOfMemory {
		status = shm.StatusNoMemory
	}
	return &refusal{status: status, text: fmt.Sprintf("%s: %v", what, err), result: r}
}

// receive reads the control socket until it ends. Requests of one session are served in order by that session's goroutine, those
// of different sessions side by side.
func (x *executor) receive() error {
	for {
		m, err := x.conn.Recv(time.Time{})
		if err != nil {
			if !errors.Is(err, io.EOF) {
				x.log.Error("control socket", "error", err)
			}
			return err
		}
		x.dispatch(m)
	}
}

func (x *executor) dispatch(m shm.Message) {
	switch m.Type {
	case shm.TypeImage:
		x.answer(m, nil, x.takeImage(m))
	case shm.TypeStats:
		m.CloseFds()
		go x.answerStats(m)
	case shm.TypeCodes:
		m.CloseFds()
		go x.answerCodes(m)
	case shm.TypeTrace:
		m.CloseFds()
		go x.answerTrace(m)
	case shm.TypeDrain:
		m.CloseFds()
		x.draining = true
		x.poller.post(func() { x.poller.drained = func() { x.answer(m, nil, nil) } })
		x.poller.leave(leaveDrain)
	case shm.TypeAttach:
		if err := x.admit(m); err != nil {
			m.CloseFds()
			x.answer(m, nil, err)
		}
	default:
		s := x.sessions[m.ClientID]
		if s == nil {
			m.CloseFds()
			x.answer(m, nil, refuse(shm.StatusInvalid, "%s for client %d, which is not attached to this executor", shm.TypeName(m.Type), m.ClientID))
			return
		}
		if m.Type == shm.TypeDetach {
			delete(x.sessions, m.ClientID)
		}
		s.inbox <- m
		if m.Type == shm.TypeDetach {
			close(s.inbox)
		}
	}
}

// admit makes the session of an ATTACH.
func (x *executor) admit(m shm.Message) error {
	if x.draining {
		return refuse(shm.StatusClosing, "this executor is leaving; the daemon starts another")
	}
	if x.sessions[m.ClientID] != nil {
		return refuse(shm.StatusInvalid, "client %d is attached already", m.ClientID)
	}
	s := newSession(x, m.ClientID)
	x.sessions[m.ClientID] = s
	s.inbox <- m
	go s.run()
	return nil
}

// answer sends a reply; nothing that it is given stays in use.
func (x *executor) answer(m shm.Message, body []byte, err error) {
	r := m.Reply(shm.StatusOK, body)
	var no *refusal
	switch {
	case err == nil:
	case errors.As(err, &no):
		r.Status, r.Tail = no.status, []byte(no.text)
	case errors.Is(err, errStopping):
		r.Status, r.Tail = shm.StatusClosing, []byte(err.Error())
	default:
		r.Status, r.Tail = shm.StatusInvalid, []byte(err.Error())
	}
	if room := shm.MessageBytes - 256 - len(r.Body); len(r.Tail) > room {
		r.Tail = r.Tail[:room]
	}
	if err := x.conn.Send(r); err != nil {
		x.log.Error("reply not sent", "type", shm.TypeName(m.Type), "client", m.ClientID, "error", err)
	}
}

// loaded is one image: its bytes, what is known of them, and the module that sessions share.
type loaded struct {
	id      uint64
	content uint64 // half of the daemon's hash of bytes: equal in every executor
	bytes   []byte

	once   sync.Once
	hash   func() [sha256.Size]byte // of bytes, which no longer change; set with info
	info   *image.Info
	bad    error
	shared *instance
}

// key tells a kernel of the image from others, in every executor.
func (im *loaded) key(name string) uint64 { return im.content ^ shm.Hash64([]byte(name), 0) }

// instance is one loaded module.
type instance struct {
	module gpu.Module
	limits map[string]*atomic.Uint32 // dynamic shared memory that each function allows
}

// takeImage keeps the memory file of an IMAGE message mapped. It is looked at when a kernel is first asked for.
func (x *executor) takeImage(m shm.Message) error {
	fds, err := m.TakeFds(1)
	if err != nil {
		return err
	}
	defer unix.Close(fds[0])
	im, err := shm.Decode[shm.Image](m.Body)
	if err != nil {
		return err
	}
	size, err := shm.CheckSeals(fds[0])
	if err != nil {
		return refuse(shm.StatusInvalid, "image %d: %v", im.ImageID, err)
	}
	if size <= 0 || uint64(size) != im.Bytes {
		return refuse(shm.StatusInvalid, "image %d: the file has %d bytes; the message says %d", im.ImageID, size, im.Bytes)
	}
	x.imagesMu.Lock()
	defer x.imagesMu.Unlock()
	if x.images[im.ImageID] != nil {
		return refuse(shm.StatusInvalid, "image %d was given already", im.ImageID)
	}
	b, err := unix.Mmap(fds[0], 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return refuse(shm.StatusNoMemory, "image %d: map %d bytes: %v", im.ImageID, size, err)
	}
	x.images[im.ImageID] = &loaded{id: im.ImageID, content: im.Hash0, bytes: b}
	return nil
}

func (x *executor) image(id uint64) *loaded {
	x.imagesMu.Lock()
	defer x.imagesMu.Unlock()
	return x.images[id]
}
