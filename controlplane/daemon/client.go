package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/inventory"
	"github.com/heddle-gpu/heddle/shm"
)

// helloTimeout bounds how long a connection may stay silent before its hello.
const helloTimeout = 10 * time.Second

// refusal is a reply that is not OK, in the words the client logs.
type refusal struct {
	status uint16
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status uint16, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// serve runs one connection: hello, then one request at a time until the client
// is gone or breaks the protocol.
func (d *Daemon) serve(conn *shm.Conn) {
	defer conn.Close()
	credentials, err := conn.Peer()
	if err != nil {
		d.log.Warn("a connection without credentials", "error", err)
		return
	}
	p := peer{pid: int32(credentials.PID), uid: uint32(credentials.UID), gid: uint32(credentials.GID), pidfd: credentials.PidFD}
	defer unix.Close(p.pidfd)
	p.describe()

	m, err := conn.Recv(time.Now().Add(helloTimeout))
	if err != nil {
		if !errors.Is(err, io.EOF) { // a probe of `heddle run` says nothing
			d.log.Warn("hello", "pid", p.pid, "error", err)
		}
		return
	}
	m.CloseFds()
	s, welcome, err := d.hello(p, m)
	if err != nil {
		d.log.Info("client refused", "pid", p.pid, "exe", p.exe, "why", err)
		d.reply(conn, m, err)
		return
	}
	defer d.goodbye(s)
	// The kernel tells the death even while a forked child holds the socket.
	stop, err := d.deaths.Watch(int(p.pid), p.pidfd, func() { conn.Close() })
	if err != nil {
		d.reply(conn, m, refuse(shm.StatusFull, "%v", err))
		return
	}
	defer stop()
	answer := m.Reply(shm.StatusOK, shm.Encode(welcome))
	answer.ClientID = s.id
	s.slot.using.RLock()
	answer.Fds = []int{s.file.Fd(), s.slot.doorbell.Fd()}
	err = conn.Send(answer)
	s.slot.using.RUnlock()
	if err != nil {
		d.log.Warn("welcome", "client", s.id, "error", err)
		return
	}
	d.log.Info("client joined", "client", s.id, "pid", p.pid, "exe", p.exe, "label", s.label, "class", s.class.Name, "gpu", s.slot.gpu())
	for {
		m, err := conn.Recv(time.Time{})
		if err != nil {
			if errors.Is(err, shm.ErrProtocol) {
				d.log.Warn("client broke the protocol: closing its session", "client", s.id, "error", err)
			}
			return
		}
		if m.Type == shm.TypeBye {
			m.CloseFds()
			conn.Send(m.Reply(shm.StatusOK, nil))
			return
		}
		if d.answer(conn, s, &m) != nil {
			return
		}
	}
}

// answer carries one request out and sends the reply; an error says that nothing can be sent.
func (d *Daemon) answer(conn *shm.Conn, s *session, m *shm.Message) error {
	s.slot.using.RLock()
	defer s.slot.using.RUnlock()
	defer m.CloseFds() // whatever the handler did not take
	answer, err := d.handle(s, m)
	if err != nil {
		d.reply(conn, *m, err)
		return nil
	}
	return conn.Send(answer)
}

// reply sends an error as the client shall read it.
func (d *Daemon) reply(conn *shm.Conn, m shm.Message, err error) {
	status, text := uint16(shm.StatusInvalid), err.Error()
	var r *refusal
	var se *statusError
	switch {
	case errors.As(err, &r):
		status = r.status
	case errors.As(err, &se):
		status = se.status
	case errors.Is(err, errSlotClosed), errors.Is(err, errExecutorLost), errors.Is(err, context.Canceled):
		status = shm.StatusClosing
	}
	answer := m.Reply(status, nil)
	answer.Tail = []byte(text)
	if len(answer.Tail) > maxNameBytes {
		answer.Tail = answer.Tail[:maxNameBytes]
	}
	if err := conn.Send(answer); err != nil && !errors.Is(err, unix.EPIPE) {
		d.log.Debug("reply", "error", err)
	}
}

// hello checks a client and makes its session.
func (d *Daemon) hello(p peer, m shm.Message) (*session, shm.Welcome, error) {
	var none shm.Welcome
	if m.Type != shm.TypeHello {
		return nil, none, refuse(shm.StatusInvalid, "the first message is %s; expected HELLO", shm.TypeName(m.Type))
	}
	h, err := shm.Decode[shm.Hello](m.Body)
	if err != nil {
		return nil, none, err
	}
	if h.Version != shm.Version || h.LayoutHash != shm.LayoutHash {
		return nil, none, refuse(shm.StatusVersion, "libheddle.so speaks wire %d (layout %016x), this daemon %d (%016x): install both from one build, then heddle drain", h.Version, h.LayoutHash, shm.Version, uint64(shm.LayoutHash))
	}
	if !d.mayUse(p) {
		return nil, none, refuse(shm.StatusPermission, "uid %d may not use the daemon of uid %d: start your own with heddle run, or ask for a system daemon", p.uid, d.uid)
	}
	if d.draining.Load() {
		return nil, none, refuse(shm.StatusClosing, "the daemon is draining: it takes no new client")
	}
	if err := inventory.Read().Serves(inventory.FormatUUID(h.DeviceUUID)); err != nil {
		return nil, none, refuse(shm.StatusDevice, "%v", err)
	}
	sl, err := d.slotFor(slotKey{h.DeviceUUID, d.sharers(p)})
	if err != nil {
		return nil, none, refuse(shm.StatusDevice, "%v", err)
	}
	window, err := d.device.take(windowBytes(h.DeviceBytes))
	if err != nil {
		return nil, none, refuse(shm.StatusFull, "%v", err)
	}
	host, err := d.host.take(hostWindow)
	if err != nil {
		d.device.give(window)
		return nil, none, refuse(shm.StatusFull, "%v", err)
	}
	s, err := newSession(d.nextClient.Add(1), p, cleanLabel(h.Label[:]), sl, d.files)
	if err != nil {
		d.device.give(window)
		d.host.give(host)
		return nil, none, refuse(shm.StatusFull, "%v", err)
	}
	s.windows, s.host = []span{window}, host
	policy := d.policies.current.Load()
	s.class = policy.Select(facts(p, s.label), false).Class
	s.wire = classBody(policy, s.class)
	if err := sl.join(s); err != nil {
		d.device.give(window)
		d.host.give(host)
		s.release()
		return nil, none, refuse(shm.StatusDevice, "%v", err)
	}
	for now := d.policies.current.Load(); now != policy; now = d.policies.current.Load() { // a reload may have passed the slot by before s was in it
		sl.reclassify(now)
		policy = now
	}
	return s, shm.Welcome{
		ClientID: s.id, WindowBase: window.base, WindowBytes: window.bytes, HostBase: host.base, HostBytes: host.bytes, SessionBytes: uint64(len(s.file.Bytes())),
	}, nil
}

// mayUse: a user's daemon serves that user; root's serves everybody, each with
// an executor of his own.
func (d *Daemon) mayUse(p peer) bool { return d.uid == 0 || p.uid == d.uid }

// cleanLabel takes a label as the client chose it and makes it safe to print.
func cleanLabel(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// goodbye takes a session apart once its client is gone: first the executor lets
// go of everything, then the addresses may be used again.
func (d *Daemon) goodbye(s *session) {
	left := s.slot.leave(s)
	s.mu.Lock()
	s.left = left
	windows, host := s.windows, s.host
	s.mu.Unlock()
	s.release()
	for _, w := range windows {
		d.device.give(w)
	}
	d.host.give(host)
	d.log.Info("client left", "client", s.id, "pid", s.peer.pid)
	d.touch()
}

// handle carries one request out. What changes the session's journal is recorded
// first and undone when the executor refuses; when the executor dies meanwhile,
// its successor was told by the restore, and the request has succeeded. What a
// handler takes from m is its own: m is the caller's, who closes the other fds.
func (d *Daemon) handle(s *session, m *shm.Message) (shm.Message, error) {
	switch m.Type {
	case shm.TypeWindow:
		return d.handleWindow(s, m)
	case shm.TypeSegment:
		return d.handleSegment(s, m)
	case shm.TypeSegmentDrop:
		return d.handleSegmentDrop(s, m)
	case shm.TypeHostSegment:
		return d.handleHostSegment(s, m)
	case shm.TypeHostSegmentDrop:
		return d.handleHostSegmentDrop(s, m)
	case shm.TypeImageQuery:
		return d.handleImageQuery(s, m)
	case shm.TypeImageFilled:
		return d.handleImageFilled(s, m)
	case shm.TypeKernel:
		return d.handleKernel(s, m)
	case shm.TypeGraph:
		return d.handleGraph(s, m)
	case shm.TypeGraphDrop:
		return d.handleGraphDrop(s, m)
	case shm.TypeShare:
		return d.handleShare(s, m)
	case shm.TypeShareOpen:
		return d.handleShareOpen(s, m)
	case shm.TypeShareDrop:
		return d.handleShareDrop(s, m)
	case shm.TypeGlobal:
		return d.handleGlobal(s, m)
	case shm.TypeFuncAttr, shm.TypeLimit:
		return d.handleSetting(s, m)
	}
	return shm.Message{}, refuse(shm.StatusInvalid, "a client does not send %s", shm.TypeName(m.Type))
}

// tell runs send against the executor that serves, with the session locked. A
// loss of the executor counts as success after the successor was told. told is
// s.told as it was when the change was recorded: an executor that took over
// since then has learned of it from the journal already.
func (d *Daemon) tell(s *session, told *executorProcess, send func(*executorProcess) error) error {
	p, err := s.slot.current(d.ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.told != told {
		s.mu.Unlock()
		return nil
	}
	err = send(p)
	s.mu.Unlock()
	if !errors.Is(err, errExecutorLost) {
		return err
	}
	<-p.done
	_, err = s.slot.successor(d.ctx, p)
	return err
}

func (d *Daemon) handleWindow(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Range](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	want := uint64(minWindow)
	for want < r.Bytes && want < 8<<40 {
		want <<= 1
	}
	if r.Bytes > want {
		return shm.Message{}, refuse(shm.StatusNoMemory, "a window of %d bytes is larger than any GPU", r.Bytes)
	}
	s.mu.Lock()
	full := len(s.windows) >= maxWindows
	told := s.told
	var w span
	if !full {
		if w, err = d.device.take(want); err == nil {
			s.windows = append(s.windows, w)
		}
	}
	s.mu.Unlock()
	switch {
	case full:
		return shm.Message{}, refuse(shm.StatusFull, "more than %d windows in one client", maxWindows)
	case err != nil:
		return shm.Message{}, refuse(shm.StatusFull, "%v", err)
	}
	// Whole and at once: a driver that honours a window's address does not honour that of a few MiB within it (docs/results.md).
	body := shm.Encode(shm.Range{Address: w.base, Bytes: w.bytes})
	err = d.tell(s, told, func(p *executorProcess) error {
		_, err := p.call(s.id, shm.TypeWindow, body, nil)
		if err != nil && !errors.Is(err, errExecutorLost) {
			s.windows = slices.DeleteFunc(s.windows, func(had span) bool { return had == w })
			d.device.give(w)
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	return m.Reply(shm.StatusOK, body), nil
}

func (d *Daemon) handleSegment(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Range](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	fds, err := m.TakeFds(1)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	err = s.addSegment(r, fds[0])
	told := s.told
	s.mu.Unlock()
	if err != nil {
		closeFds(fds)
		return shm.Message{}, err
	}
	err = d.tell(s, told, func(p *executorProcess) error {
		_, err := p.call(s.id, shm.TypeSegment, m.Body, nil, fds[0])
		if err != nil && !errors.Is(err, errExecutorLost) {
			s.dropSegment(r.Address)
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	return m.Reply(shm.StatusOK, m.Body), nil
}

func (d *Daemon) handleSegmentDrop(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Range](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	g, ok := s.segments[r.Address]
	told := s.told
	s.mu.Unlock()
	if !ok || g.bytes != r.Bytes {
		return shm.Message{}, refuse(shm.StatusInvalid, "no segment of %d bytes is mapped at %#x", r.Bytes, r.Address)
	}
	err = d.tell(s, told, func(p *executorProcess) error {
		_, err := p.call(s.id, shm.TypeSegmentDrop, m.Body, nil)
		if err == nil {
			s.dropSegment(r.Address)
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	_, still := s.segments[r.Address] // an executor was lost: its successor still has it
	s.mu.Unlock()
	if still {
		return d.handleSegmentDrop(s, m)
	}
	return m.Reply(shm.StatusOK, m.Body), nil
}

func (d *Daemon) handleHostSegment(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Range](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	address, err := s.addHostSegment(r.Bytes)
	h := s.hostSegments[address]
	told := s.told
	s.mu.Unlock()
	if err != nil {
		return shm.Message{}, refuse(shm.StatusNoMemory, "%v", err)
	}
	body := shm.Encode(shm.Range{Address: address, Bytes: h.bytes})
	err = d.tell(s, told, func(p *executorProcess) error {
		_, err := p.call(s.id, shm.TypeHostSegment, body, nil, h.fd)
		if err != nil && !errors.Is(err, errExecutorLost) {
			s.dropHostSegment(address)
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	reply := m.Reply(shm.StatusOK, body)
	reply.Fds = []int{h.fd}
	return reply, nil
}

func (d *Daemon) handleHostSegmentDrop(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Range](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	_, ok := s.hostSegments[r.Address]
	told := s.told
	s.mu.Unlock()
	if !ok {
		return shm.Message{}, refuse(shm.StatusInvalid, "no host segment is at %#x", r.Address)
	}
	err = d.tell(s, told, func(p *executorProcess) error {
		_, err := p.call(s.id, shm.TypeHostSegmentDrop, m.Body, nil)
		if err == nil {
			s.dropHostSegment(r.Address)
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	_, still := s.hostSegments[r.Address]
	s.mu.Unlock()
	if still {
		return d.handleHostSegmentDrop(s, m)
	}
	return m.Reply(shm.StatusOK, m.Body), nil
}

func (d *Daemon) handleImageQuery(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Image](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	id, fd, err := s.slot.images.query(s, r)
	if err != nil {
		return shm.Message{}, refuse(shm.StatusRefused, "%v", err)
	}
	r.ImageID = id
	if fd < 0 {
		return m.Reply(shm.StatusOK, shm.Encode(r)), nil
	}
	reply := m.Reply(shm.StatusNeed, shm.Encode(r))
	reply.Fds = []int{fd}
	return reply, nil
}

func (d *Daemon) handleImageFilled(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Image](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	if r.ImageID, err = s.slot.images.filled(s, r); err != nil {
		return shm.Message{}, err
	}
	return m.Reply(shm.StatusOK, shm.Encode(r)), nil
}

func (d *Daemon) handleKernel(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Kernel](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	switch {
	case len(m.Tail) == 0 || len(m.Tail) > maxNameBytes:
		return shm.Message{}, refuse(shm.StatusInvalid, "kernel name of %d bytes: expected 1 to %d", len(m.Tail), maxNameBytes)
	case s.kernelCount() >= maxKernels:
		return shm.Message{}, refuse(shm.StatusRefused, "more than %d kernels in one client", maxKernels)
	}
	if _, ok := s.slot.images.get(r.ImageID); !ok {
		return shm.Message{}, refuse(shm.StatusInvalid, "image %d is unknown", r.ImageID)
	}
	s.mu.Lock()
	// Recorded as wanted: a restore while we ask loads it too.
	s.kernels = append(s.kernels, kernel{image: r.ImageID, name: string(m.Tail), status: shm.StatusOK})
	index := len(s.kernels) - 1
	told := s.told
	s.mu.Unlock()
	r.KernelID = uint32(index + 1)
	err = d.tell(s, told, func(p *executorProcess) error {
		err := s.slot.loadKernel(p, s, &s.kernels[index], r.KernelID)
		if err != nil && !errors.Is(err, errExecutorLost) {
			s.kernels[index].status, s.kernels[index].reason = shm.StatusRefused, err.Error()
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	k := s.kernels[index]
	if k.status != shm.StatusOK {
		s.refused = k.name + ": " + k.reason
	}
	s.mu.Unlock()
	r.CUDAResult, r.Stateful = k.result, k.state
	reply := m.Reply(k.status, shm.Encode(r))
	reply.Tail = []byte(k.reason)
	return reply, nil
}

func (s *session) kernelCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kernels)
}

func (d *Daemon) handleGlobal(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Kernel](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	if len(m.Tail) == 0 || len(m.Tail) > maxNameBytes {
		return shm.Message{}, refuse(shm.StatusInvalid, "global name of %d bytes: expected 1 to %d", len(m.Tail), maxNameBytes)
	}
	if _, ok := s.slot.images.get(r.ImageID); !ok {
		return shm.Message{}, refuse(shm.StatusInvalid, "image %d is unknown", r.ImageID)
	}
	var reply shm.Message
	for {
		p, err := s.slot.current(d.ctx)
		if err != nil {
			return shm.Message{}, err
		}
		s.mu.Lock()
		if err = p.sendImage(s.slot.images, r.ImageID); err == nil {
			reply, err = p.call(s.id, shm.TypeGlobal, m.Body, m.Tail)
		}
		if err == nil {
			s.globals++
		}
		s.mu.Unlock()
		if errors.Is(err, errExecutorLost) {
			// The address would be another one now, and nobody knows the old one yet: ask again.
			<-p.done
			continue
		}
		if err != nil {
			return shm.Message{}, err
		}
		break
	}
	body, err := shm.Decode[shm.Range](reply.Body)
	if err != nil {
		return shm.Message{}, err
	}
	return m.Reply(shm.StatusOK, shm.Encode(body)), nil
}

func (d *Daemon) handleSetting(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Setting](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	key := settingKey{r.KernelID, r.What, m.Type == shm.TypeLimit}
	if key.limit {
		key.kernel = 0
	}
	s.mu.Lock()
	old, had := s.settings[key]
	if !key.limit && (r.KernelID == 0 || int(r.KernelID) > len(s.kernels)) {
		s.mu.Unlock()
		return shm.Message{}, refuse(shm.StatusInvalid, "kernel %d is unknown", r.KernelID)
	}
	if !had && len(s.settings) >= maxSettings {
		s.mu.Unlock()
		return shm.Message{}, refuse(shm.StatusFull, "more than %d attributes and limits in one client", maxSettings)
	}
	s.settings[key] = r.Value
	told := s.told
	s.mu.Unlock()
	err = d.tell(s, told, func(p *executorProcess) error {
		_, err := p.call(s.id, m.Type, m.Body, nil)
		if err != nil && !errors.Is(err, errExecutorLost) {
			if had {
				s.settings[key] = old
			} else {
				delete(s.settings, key)
			}
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	return m.Reply(shm.StatusOK, m.Body), nil
}
