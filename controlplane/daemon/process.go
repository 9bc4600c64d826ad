package daemon

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// callTimeout bounds one request to an executor. Loading a large image while a
// long kernel runs is the slowest.
const callTimeout = 120 * time.Second

// How long an executor may take to end: after its socket closed by itself, and
// after we closed it, when it finishes what was issued.
const (
	exitTimeout  = 5 * time.Second
	drainTimeout = 30 * time.Second
)

// executorProcess is one running executor and the socket to it. Many requests
// may be under way; replies find theirs by number.
type executorProcess struct {
	conn *shm.Conn
	cmd  *exec.Cmd
	log  *slog.Logger
	done chan struct{} // closed when the process has ended and was reaped

	mu      sync.Mutex
	next    uint32
	pending map[uint32]chan shm.Message
	images  map[uint64]chan struct{} // sent; closed when answered
	lost    bool
	// draining: the socket was closed by us, so the end may take a while.
	draining bool
	fault    string

	reported faultReport
	status   string
}

// faultReport is what an executor's last message says; the zero value when it sent none.
type faultReport struct {
	result   uint32      // CUresult
	blamed   uint64      // this client and no other; 0: not known
	kernel   uint32      // of blamed; 0: not known
	inFlight []uint64    // clients that may have done it
	joined   [][2]uint64 // client and kernel of launches that held ops of several
}

// startExecutor runs `heddle executor` with our end of a socket pair, as the
// user it serves.
func startExecutor(self string, sl *slot, log *slog.Logger, maxKernelTime time.Duration) (*executorProcess, error) {
	conn, theirs, err := shm.Pair()
	if err != nil {
		return nil, err
	}
	remote := os.NewFile(uintptr(theirs), "executor-control")
	defer remote.Close()
	cmd := exec.Command(self, "executor", "--control-fd", "3", "--device", sl.gpu())
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Env = executorEnv(os.Environ(), sl.gpu())
	if maxKernelTime > 0 {
		cmd.Env = append(cmd.Env, "HEDDLE_MAX_KERNEL_TIME="+maxKernelTime.String())
	}
	cmd.Dir = "/"
	// The executor must notice the daemon's end by its socket, finish what was issued
	// and only then leave; so no parent-death signal. It has a session of its own, so
	// that a ^C at the daemon's terminal does not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Getuid() == 0 && sl.key.uid != 0 {
		gid, err := primaryGroup(sl.key.uid)
		if err != nil {
			conn.Close()
			return nil, err
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: sl.key.uid, Gid: gid}
	}
	tail := &tailWriter{to: os.Stderr}
	cmd.Stderr, cmd.Stdout = tail, tail
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the executor: %w", err)
	}
	p := &executorProcess{
		conn: conn, cmd: cmd, log: log.With("executor", cmd.Process.Pid), done: make(chan struct{}),
		pending: map[uint32]chan shm.Message{}, images: map[uint64]chan struct{}{},
	}
	go p.receive(tail)
	return p, nil
}

// primaryGroup is the group that a user's processes start with.
func primaryGroup(uid uint32) (uint32, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return 0, fmt.Errorf("an executor for uid %d: %w; expected a user that getent passwd knows", uid, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("an executor for uid %d: group %q: %w", uid, u.Gid, err)
	}
	return uint32(gid), nil
}

// executorEnv is the daemon's environment without what would change the
// executor's driver, and with what it counts on.
func executorEnv(env []string, gpu string) []string {
	drop := map[string]bool{"LD_PRELOAD": true, "HEDDLE_SOCKET": true, "HEDDLE_LABEL": true, "CUDA_VISIBLE_DEVICES": true, "CUDA_DEVICE_MAX_CONNECTIONS": true, "CUDA_MODULE_LOADING": true, "CUDA_LAUNCH_BLOCKING": true, "GOMAXPROCS": true, "GODEBUG": true}
	out := make([]string, 0, len(env)+3)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if !drop[name] {
			out = append(out, kv)
		}
	}
	return append(out, "CUDA_VISIBLE_DEVICES="+gpu, "CUDA_DEVICE_MAX_CONNECTIONS=32", "CUDA_MODULE_LOADING=LAZY")
}

func (p *executorProcess) pid() int { return p.cmd.Process.Pid }

// receive reads replies until the executor's end closes, then reaps it.
func (p *executorProcess) receive(tail *tailWriter) {
	for {
		m, err := p.conn.Recv(time.Time{})
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
				p.log.Warn("executor's socket", "error", err)
			}
			break
		}
		closeFds(m.Fds)
		if m.Type == shm.TypeFault {
			p.noteFault(m)
			continue
		}
		p.mu.Lock()
		ch := p.pending[m.Request]
		delete(p.pending, m.Request)
		p.mu.Unlock()
		if ch == nil || m.Type&shm.ReplyBit == 0 {
			p.log.Warn("unexpected message from the executor", "type", shm.TypeName(m.Type), "request", m.Request)
			continue
		}
		ch <- m
	}
	p.mu.Lock()
	patience := exitTimeout
	if p.draining {
		patience = drainTimeout
	}
	p.mu.Unlock()
	// A closed socket without an end is a hung executor: make it one.
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-time.After(patience):
		p.log.Error("the executor closed its socket and does not leave: ending it", "after", patience)
		p.kill()
		err = <-ended
	}
	p.mu.Lock()
	p.lost = true
	p.status = "exit code 0"
	if err != nil {
		p.status = err.Error()
		// Its last words are the reason only when it ended by itself.
		if p.fault == "" && p.cmd.ProcessState.ExitCode() > 0 {
			p.fault = strings.TrimSpace(tail.last())
		}
	}
	for _, ch := range p.pending {
		close(ch)
	}
	p.pending = nil
	p.mu.Unlock()
	p.conn.Close()
	close(p.done)
}

func (p *executorProcess) noteFault(m shm.Message) {
	f, err := shm.Decode[shm.Fault](m.Body)
	if err != nil {
		p.log.Warn("fault report", "error", err)
		return
	}
	text := fmt.Sprintf("CUDA error %d", f.CUDAResult)
	report := faultReport{result: f.CUDAResult, blamed: f.Blamed, kernel: f.Kernel}
	tail, ok := m.Tail, true
	next := func() (v uint64) {
		if len(tail) < 8 {
			ok = false
			return 0
		}
		v, tail = binary.LittleEndian.Uint64(tail), tail[8:]
		return v
	}
	for i := uint32(0); i < f.Clients && ok; i++ {
		report.inFlight = append(report.inFlight, next())
	}
	for i := uint32(0); i < f.Apart && ok; i++ {
		report.joined = append(report.joined, [2]uint64{next(), next()})
	}
	if !ok {
		p.log.Warn("fault report", "error", "a tail that is too short")
		report.inFlight, report.joined = nil, nil
	}
	if words := strings.TrimSpace(string(tail)); ok && words != "" {
		text += ": " + words
	}
	switch {
	case f.Blamed != 0:
		text += fmt.Sprintf("; caused by client %d", f.Blamed)
	case f.Clients > 0:
		text += fmt.Sprintf("; %d clients had work in flight", f.Clients)
	}
	p.log.Error("device fault", "text", text)
	p.mu.Lock()
	p.fault = text
	p.reported = report
	p.mu.Unlock()
}

// report is what the executor said when it ended.
func (p *executorProcess) report() faultReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reported
}

func (p *executorProcess) faultText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

func (p *executorProcess) exitText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// callAny sends one request and waits for its reply, whatever its status.
// errExecutorLost: the executor died; the request may have been carried out.
func (p *executorProcess) callAny(client uint64, typ uint16, body []byte, tail []byte, fds ...int) (shm.Message, error) {
	ch := make(chan shm.Message, 1)
	p.mu.Lock()
	if p.lost || p.pending == nil {
		p.mu.Unlock()
		return shm.Message{}, errExecutorLost
	}
	p.next++
	number := p.next
	p.pending[number] = ch
	p.mu.Unlock()
	m := shm.Message{Type: typ, Request: number, ClientID: client, Body: body, Tail: tail, Fds: fds}
	if err := p.conn.Send(m); err != nil {
		p.mu.Lock()
		delete(p.pending, number)
		p.mu.Unlock()
		// Closed: it ended, and was found so, since p.lost was read.
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			return shm.Message{}, errExecutorLost
		}
		return shm.Message{}, err
	}
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	select {
	case reply, ok := <-ch:
		if !ok {
			return shm.Message{}, errExecutorLost
		}
		return reply, nil
	case <-timer.C:
		p.log.Error("the executor does not answer: ending it", "request", shm.TypeName(typ), "after", callTimeout)
		p.kill()
		return shm.Message{}, errExecutorLost
	}
}

// statusError is a reply that is not OK.
type statusError struct {
	status uint16
	text   string
}

func (e *statusError) Error() string {
	if e.text != "" {
		return e.text
	}
	return "the executor answered: " + statusName(e.status)
}

// call is callAny for requests that must succeed.
func (p *executorProcess) call(client uint64, typ uint16, body []byte, tail []byte, fds ...int) (shm.Message, error) {
	reply, err := p.callAny(client, typ, body, tail, fds...)
	if err != nil {
		return reply, err
	}
	if reply.Status != shm.StatusOK {
		return reply, &statusError{reply.Status, string(reply.Tail)}
	}
	return reply, nil
}

// attach gives the executor a session's file, doorbell and windows. s.mu is held.
func (p *executorProcess) attach(s *session) error {
	var windows bytes.Buffer
	for _, w := range s.windows {
		windows.Write(shm.Encode(shm.Range{Address: w.base, Bytes: w.bytes}))
	}
	_, err := p.call(s.id, shm.TypeAttach, shm.Encode(shm.Attach{
		ClientID: s.id, PID: uint32(s.peer.pid), UID: s.peer.uid, HostBase: s.host.base, HostBytes: s.host.bytes, Windows: uint32(len(s.windows)),
	}), windows.Bytes(), s.file.Fd(), s.slot.doorbell.Fd())
	return err
}

// sendImage gives the executor an image once, however many ask at once.
func (p *executorProcess) sendImage(store *imageStore, id uint64) error {
	for {
		p.mu.Lock()
		answered, known := p.images[id]
		if !known {
			answered = make(chan struct{})
			p.images[id] = answered
		}
		p.mu.Unlock()
		if known {
			<-answered
			p.mu.Lock()
			_, still := p.images[id]
			p.mu.Unlock()
			if still {
				return nil
			}
			continue // the one who sent it was refused: ask ourselves, to give the reason
		}
		img, ok := store.get(id)
		err := fmt.Errorf("image %d is unknown", id)
		if ok {
			_, err = p.call(0, shm.TypeImage, shm.Encode(shm.Image{Hash0: img.hash[0], Hash1: img.hash[1], Bytes: img.bytes, ImageID: id}), nil, img.fd)
		}
		if err != nil {
			p.mu.Lock()
			delete(p.images, id)
			p.mu.Unlock()
		}
		close(answered)
		return err
	}
}

// drain closes the executor's socket, on which it finishes what was issued,
// publishes it and leaves (docs/protocol.md section 3), and makes sure that it does.
func (p *executorProcess) drain() {
	p.mu.Lock()
	p.draining = true
	p.mu.Unlock()
	p.conn.Close()
	<-p.done
}

func (p *executorProcess) kill() { p.cmd.Process.Kill() }

// tailWriter passes the executor's stderr on and keeps its last line, the reason
// of a start that failed.
type tailWriter struct {
	to io.Writer
	mu sync.Mutex
	b  []byte
}

func (t *tailWriter) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.b = append(t.b, b...)
	if len(t.b) > 4096 {
		t.b = append(t.b[:0], t.b[len(t.b)-4096:]...)
	}
	t.mu.Unlock()
	return t.to.Write(b)
}

func (t *tailWriter) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return lines[len(lines)-1]
}

func closeFds(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
