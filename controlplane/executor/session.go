package executor

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/request"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/controlplane/places"
	"github.com/heddle-gpu/heddle/jit/effects"
	"github.com/heddle-gpu/heddle/jit/harvest"
	"github.com/heddle-gpu/heddle/shm"
)

const (
	// preparedEvents are made when a client attaches, the events of higher slots when they are first recorded. There is one for each
	// stream: quiet needs them.
	preparedEvents = 64
	// drainTimeout bounds how long a drop of memory waits for ops that the client says are done.
	drainTimeout = 10 * time.Second
)

var _ [preparedEvents - issue.MaxStreams]byte

// session serves the daemon's requests for one client, in order, on a goroutine of its own. All fields belong to it.
type session struct {
	x       *executor
	id      uint64
	log     *slog.Logger
	inbox   chan shm.Message
	client  *client // nil before ATTACH succeeded
	polled  bool    // after RESUME
	file    registered
	windows []shm.Range
	host    shm.Range
	// segments and hosts are what is mapped.
	segments  map[uint64]uint64
	hosts     map[uint64]uint64
	instances map[uint64]*instance
	kernels   map[uint32]*scoreboard.Kernel
	globals   map[uint64]bool
	places    harvest.Places // where the PTX of its kernels may lie
	program   string         // what it executes, "" when that is not known
	recalled  string         // the class for which a model was last loaded
	graphs    graphs
}

func newSession(x *executor, id uint64) *session {
	return &session{
		x: x, id: id, log: x.log.With("client", id), inbox: make(chan shm.Message, 16),
		segments: map[uint64]uint64{}, hosts: map[uint64]uint64{},
		instances: map[uint64]*instance{}, kernels: map[uint32]*scoreboard.Kernel{}, globals: map[uint64]bool{},
	}
}

// run serves requests until DETACH.
func (s *session) run() {
	for m := range s.inbox {
		body, err := s.handle(&m)
		m.CloseFds()
		if err != nil {
			s.log.Info("request refused", "type", shm.TypeName(m.Type), "why", err)
		}
		s.x.answer(m, body, err)
	}
}

// handle serves one request. Descriptors that it keeps are taken out of m.
func (s *session) handle(m *shm.Message) ([]byte, error) {
	if s.client == nil && m.Type != shm.TypeAttach && m.Type != shm.TypeDetach {
		return nil, refuse(shm.StatusInvalid, "%s for client %d, whose ATTACH failed", shm.TypeName(m.Type), s.id)
	}
	switch m.Type {
	case shm.TypeAttach:
		return nil, s.attach(m)
	case shm.TypeTrial:
		return nil, s.trial()
	case shm.TypeResume:
		return nil, s.resume()
	case shm.TypeApart:
		a, err := shm.Decode[shm.Setting](m.Body)
		if err != nil {
			return nil, err
		}
		return nil, s.setApart(&a)
	case shm.TypeWindow:
		return withBody(m, s.window)
	case shm.TypeSegment:
		return withBody(m, func(r *shm.Range) error { return s.segment(m, r) })
	case shm.TypeSegmentDrop:
		return withBody(m, s.segmentDrop)
	case shm.TypeHostSegment:
		return withBody(m, func(r *shm.Range) error { return s.hostSegment(m, r) })
	case shm.TypeHostSegmentDrop:
		return withBody(m, s.hostDrop)
	case shm.TypeKernel:
		k, err := shm.Decode[shm.Kernel](m.Body)
		if err != nil {
			return nil, err
		}
		err = s.kernel(&k, string(m.Tail))
		var no *refusal
		if errors.As(err, &no) {
			k.CUDAResult = uint32(no.result)
		}
		return shm.Encode(k), err
	case shm.TypeGlobal:
		k, err := shm.Decode[shm.Kernel](m.Body)
		if err != nil {
			return nil, err
		}
		r, err := s.global(k, string(m.Tail))
		return shm.Encode(r), err
	case shm.TypeGraph:
		g, err := shm.Decode[shm.Graph](m.Body)
		if err != nil {
			return nil, err
		}
		err = s.graph(m, &g)
		var no *refusal
		if errors.As(err, &no) {
			g.CUDAResult = uint32(no.result)
		}
		return shm.Encode(g), err
	case shm.TypeGraphDrop:
		return withBody(m, s.graphDrop)
	case shm.TypeFuncAttr:
		return withBody(m, s.attribute)
	case shm.TypeLimit:
		return withBody(m, s.limit)
	case shm.TypeClass:
		c, err := shm.Decode[shm.Class](m.Body)
		if err != nil {
			return nil, err
		}
		return nil, s.classify(c, string(m.Tail))
	case shm.TypeDetach:
		return nil, s.detach()
	}
	return nil, refuse(shm.StatusInvalid, "%s is not for an executor", shm.TypeName(m.Type))
}

// classify takes what the session's class promises; from the next decision on.
func (s *session) classify(c shm.Class, name string) error {
	settings := sched.FromWire(c)
	var known *request.Model
	if settings.Latency > 0 && name != s.recalled {
		known, s.recalled = s.x.learned.requests(s.program, name), name
	}
	if !s.x.poller.call(func() {
		s.client.memory.known = known
		s.x.poller.classify(s.client, name, settings)
	}) {
		return errStopping
	}
	return nil
}

// withBody decodes a request whose reply is the same struct.
func withBody[T shm.WireStruct](m *shm.Message, f func(*T) error) ([]byte, error) {
	v, err := shm.Decode[T](m.Body)
	if err != nil {
		return nil, err
	}
	err = f(&v)
	return shm.Encode(v), err
}

// attach maps and registers the session file, unless that was done for a client before, and takes the client's windows.
func (s *session) attach(m *shm.Message) error {
	a, err := shm.Decode[shm.Attach](m.Body)
	if err != nil {
		return err
	}
	var windows []shm.Range
	size := int(unsafe.Sizeof(shm.Range{}))
	if uint64(len(m.Tail)) != uint64(a.Windows)*uint64(size) {
		return refuse(shm.StatusInvalid, "ATTACH of client %d: a tail of %d bytes; %d windows need %d", s.id, len(m.Tail), a.Windows, uint64(a.Windows)*uint64(size))
	}
	for i := range int(a.Windows) {
		w, err := shm.Decode[shm.Range](m.Tail[i*size : (i+1)*size])
		if err != nil {
			return err
		}
		windows = append(windows, w)
	}
	fds, err := m.TakeFds(2)
	if err != nil {
		return err
	}
	bell, err := shm.OpenDoorbell(fds[1])
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return refuse(shm.StatusInvalid, "ATTACH of client %d: %v", s.id, err)
	}
	known := false
	if s.file, known, err = s.x.files.take(fds[0], s.id); err == nil && !known {
		s.file.file, err = shm.OpenSessionFile(fds[0])
	}
	if err != nil || known {
		unix.Close(fds[0])
	}
	if err != nil {
		bell.Close()
		return refuse(shm.StatusInvalid, "ATTACH of client %d: %v", s.id, err)
	}
	file := s.file.file
	if !s.x.setDoorbell(bell) {
		file.Close()
		return errStopping
	}
	s.host = shm.Range{Address: a.HostBase, Bytes: a.HostBytes}
	s.places = places.Of(int(a.PID), a.UID)
	s.program = program(int(a.PID), a.UID)
	words := file.Consumer()
	board := scoreboard.New(s.id, file)
	if !known {
		s.x.calm(s.id, 1)
		if err := s.x.loader.do(func() error { return s.file.register(s.x.driver) }); err != nil {
			file.Close()
			return err
		}
	}
	board.LanesDevice = s.file.lanes
	err = s.x.loader.do(func() error {
		err := s.prepare(board, windows)
		if err != nil {
			s.releaseWindows()
			board.DestroyEvents(&s.x.events)
			return errors.Join(err, s.file.letGo(s.x.driver))
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.client = &client{memory: memory{program: s.program}, id: s.id, board: board, file: file, ring: shm.NewConsumer(file), words: words, status: file.Status()}
	atomic.StoreUint32(&s.client.status.ExecutorPID, uint32(unix.Getpid()))
	return nil
}

// prepare reserves a session's windows and makes its first events. It runs on the loader's thread.
func (s *session) prepare(board *scoreboard.Session, windows []shm.Range) error {
	for i := range windows {
		if err := s.window(&windows[i]); err != nil {
			return err
		}
	}
	if r := board.PrepareEvents(preparedEvents, &s.x.events); r != gpu.Success {
		return refuseCUDA("cuEventCreate", r)
	}
	return nil
}

// setDoorbell makes the poller sleep on the slot's doorbell. All sessions bring the same file; the first one is kept.
func (x *executor) setDoorbell(bell *shm.Doorbell) bool {
	return x.poller.call(func() {
		if x.poller.ownBell {
			bell.Close()
			return
		}
		// A post may be ringing the one before at this moment: it stays mapped until the process ends.
		x.poller.bell.Store(bell)
		x.poller.ownBell = true
	})
}

// window reserves a window of the client. It runs on the loader's thread from attach, on the session's goroutine from WINDOW.
func (s *session) window(w *shm.Range) error {
	reserve := func() error {
		if _, err := s.x.driver.Reserve(w.Address, w.Bytes); err != nil {
			return refuseCUDA(fmt.Sprintf("window %#x+%#x", w.Address, w.Bytes), err)
		}
		s.windows = append(s.windows, *w)
		return nil
	}
	if s.client == nil {
		return reserve()
	}
	return s.x.mapper.do(reserve)
}

func (s *session) releaseWindows() {
	for _, w := range s.windows {
		s.x.driver.Unreserve(w.Address, w.Bytes)
	}
	s.windows = nil
}

// survey looks at what a dead executor left in the ring, and puts the ring back to its head. The first error is about what was
// left, the second about the ring itself.
func (s *session) survey() (doubt scoreboard.Doubt, err, broken error) {
	c := s.client
	head, read := atomic.LoadUint64(&c.words.Head), atomic.LoadUint64(&c.words.Read)
	if err = c.ring.Resume(read, head); err == nil {
		doubt, err = c.board.Survey(c.ring, func(kernel uint32) (*effects.Effects, string) { return s.x.expert.effects(s, kernel) })
	}
	return doubt, err, c.ring.Resume(c.ring.Read(), head)
}

// serve hands the session to the poller.
func (s *session) serve() error {
	if !s.x.poller.call(func() { s.x.poller.add(s.client) }) {
		return errStopping
	}
	s.polled = true
	return nil
}

// resume settles what a dead executor left in doubt, unless a trial has, and starts polling. It follows ATTACH for a new session
// too.
func (s *session) resume() error {
	c := s.client
	if c.hold != nil {
		if !s.x.poller.call(func() { c.hold = nil }) {
			return errStopping
		}
		return nil
	}
	if s.polled {
		return refuse(shm.StatusInvalid, "client %d is being served already", s.id)
	}
	fail := func(r gpu.Result, reason uint32, why string) {
		s.log.Warn("session gets an error", "code", int(r), "reason", reason, "why", why, "cause", cause(c.file))
		c.failed = r
		c.board.Drop()
		c.file.SetError(uint32(r), reason)
	}
	took := atomic.LoadUint64(&c.words.Head) > 0
	doubt, err, broken := s.survey()
	took = took || doubt.InDoubt > 0 || s.lanesUsed()
	switch code := atomic.LoadUint32(&c.status.Error); {
	case err != nil:
		c.broken = true
		fail(gpu.Unknown, shm.ReasonBadRecord, err.Error())
	case broken != nil:
		c.broken = true
		fail(gpu.Unknown, shm.ReasonBadRecord, broken.Error())
	case code != 0:
		c.failed = gpu.Result(code)
		c.board.Drop()
	case doubt.Why != "":
		fail(gpu.LaunchFailed, shm.ReasonInDoubt, doubt.Why)
	case took && len(s.instances) > 0:
		fail(gpu.LaunchFailed, shm.ReasonLostGlobals, "device globals of its kernels were in the executor that died")
	}
	if took {
		s.log.Info("took a session over", "in_doubt", doubt.InDoubt, "kernels", doubt.Kernels, "why_not_repeated", doubt.Why)
	}
	return s.serve()
}

// trial executes the session's ops in doubt one at a time, each alone on the GPU: a fault is then the fault of the op that runs.
// Where they cannot be repeated, nothing is done: RESUME says so, when more is known of the cause. Ops that do not end in time are
// left running.
func (s *session) trial() error {
	c := s.client
	if s.polled {
		return refuse(shm.StatusInvalid, "client %d is being served already", s.id)
	}
	doubt, err, broken := s.survey()
	if err != nil || broken != nil || doubt.InDoubt == 0 || doubt.Why != "" || atomic.LoadUint32(&c.status.Error) != 0 || len(s.instances) > 0 {
		return nil
	}
	c.hold = &hold{last: doubt.Last, over: make(chan struct{})}
	over := c.hold.over
	if err := s.serve(); err != nil {
		return err
	}
	select {
	case <-over:
		s.log.Info("ops in doubt ran alone", "ops", doubt.InDoubt, "kernels", doubt.Kernels)
	case <-s.x.poller.ended:
		return errStopping
	case <-time.After(s.x.config.DeadKernelTime):
		s.log.Warn("an op in doubt that is tried alone does not end", "after", s.x.config.DeadKernelTime)
	}
	return nil
}

// cause is what the daemon knows of who brought the executor down, "" when nothing.
func cause(f *shm.SessionFile) string {
	st := f.Status()
	client := atomic.LoadUint64(&st.CauseClient)
	if client == 0 {
		return ""
	}
	name, _, _ := bytes.Cut(st.CauseKernel[:], []byte{0})
	return fmt.Sprintf("client %d, kernel %q", client, name)
}

// setApart keeps a kernel's ops of this session, or its graphs (kernel 0), out of launches with others.
func (s *session) setApart(a *shm.Setting) error {
	if a.KernelID == 0 { // what was joined was a graph
		if !s.x.poller.call(func() { s.client.board.GraphsApart = true }) {
			return errStopping
		}
		return nil
	}
	k := s.kernels[a.KernelID]
	if k == nil {
		return refuse(shm.StatusInvalid, "kernel id %d is unknown", a.KernelID)
	}
	apart := func() {
		k.Apart = true
		s.x.poller.gather.ForgetGraphs(s.client.board, true) // words with it as a part of a launch are not used again
	}
	if !s.x.poller.call(apart) {
		return errStopping
	}
	return nil
}

// lanesUsed tells whether any op of the session was ever issued.
func (s *session) lanesUsed() bool {
	for i := range uint32(shm.Lanes) {
		if atomic.LoadUint32(&s.client.file.Lane(i).Issued) != 0 {
			return true
		}
	}
	return false
}

func inside(r shm.Range, in shm.Range) bool {
	return r.Bytes > 0 && r.Address >= in.Address && r.Bytes <= in.Bytes && r.Address-in.Address <= in.Bytes-r.Bytes
}

// addMemory lets ops name a range.
func (s *session) addMemory(address, bytes uint64, flags uint64) error {
	var err error
	ok := s.x.poller.call(func() {
		m := &s.client.board.Memory
		switch err = m.Add(address, bytes); {
		case err != nil:
		case inside(shm.Range{Address: address, Bytes: bytes}, s.host):
			m.Host(address)
		case flags&shm.SegmentFlagPart != 0:
			m.Part(address)
		}
	})
	if !ok {
		return errStopping
	}
	if err != nil {
		return refuse(shm.StatusInvalid, "%v", err)
	}
	return nil
}

// segment maps device memory of the client at its own address.
func (s *session) segment(m *shm.Message, r *shm.Range) error {
	fds, err := m.TakeFds(1)
	if err != nil {
		return err
	}
	defer unix.Close(fds[0])
	if r.Offset != 0 {
		return refuse(shm.StatusInvalid, "segment %#x: offset %d; the driver maps whole handles only", r.Address, r.Offset)
	}
	if !slices.ContainsFunc(s.windows, func(w shm.Range) bool { return inside(*r, w) }) {
		return refuse(shm.StatusInvalid, "segment %#x+%#x lies outside the client's windows", r.Address, r.Bytes)
	}
	err = s.x.mapper.do(func() error {
		d := s.x.driver
		h, res := d.Import(fds[0])
		if res == gpu.Success {
			res = d.Map(r.Address, r.Bytes, h)
			d.Release(h) // the mapping holds the memory
		}
		if res != gpu.Success {
			return refuseCUDA(fmt.Sprintf("segment %#x+%#x", r.Address, r.Bytes), res)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Only now may ops name it: one that came before would fault in everybody's context.
	if err := s.addMemory(r.Address, r.Bytes, r.Flags); err != nil {
		return errors.Join(err, s.x.mapper.do(func() error { return s.unmap(r.Address, r.Bytes) }))
	}
	s.segments[r.Address] = r.Bytes
	return nil
}

// drained waits until everything that the client had published is done.
func (s *session) drained() error {
	if !s.polled {
		return nil
	}
	reached := make(chan struct{})
	c := s.client
	ok := s.x.poller.call(func() {
		tail := atomic.LoadUint64(&c.file.Producer().Tail)
		if c.broken || int64(c.board.Head()-tail) >= 0 {
			close(reached)
			return
		}
		c.barriers = append(c.barriers, barrier{tail, func() { close(reached) }})
	})
	if !ok {
		return errStopping
	}
	select {
	case <-reached:
		return nil
	case <-s.x.poller.ended:
		return errStopping
	case <-time.After(drainTimeout):
		return refuse(shm.StatusInvalid, "ops of client %d that may use the memory are not done after %v; drain before dropping memory", s.id, drainTimeout)
	}
}

// segmentDrop unmaps a segment.
func (s *session) segmentDrop(r *shm.Range) error {
	bytes, ok := s.segments[r.Address]
	if !ok {
		return refuse(shm.StatusInvalid, "no segment at %#x", r.Address)
	}
	if err := s.drained(); err != nil {
		return err
	}
	s.loseMemory(r.Address)
	if !s.x.poller.call(func() { s.unname(r.Address) }) {
		return errStopping
	}
	delete(s.segments, r.Address)
	return s.x.mapper.do(func() error { return s.unmap(r.Address, bytes) })
}

// unname makes a range invalid for ops. It runs on the poller's thread.
func (s *session) unname(address uint64) {
	s.client.board.Memory.Remove(address)
	s.x.poller.runs.Forget(s.id, true)
	s.x.poller.gather.ForgetGraphs(s.client.board, false)
}

func (s *session) unmap(address, bytes uint64) error {
	res := s.x.driver.Unmap(address, bytes)
	if res != gpu.Success {
		return refuseCUDA(fmt.Sprintf("unmap of segment %#x", address), res)
	}
	return nil
}

// hostSegment maps and registers host memory that the client shares, at its own address.
func (s *session) hostSegment(m *shm.Message, r *shm.Range) error {
	fds, err := m.TakeFds(1)
	if err != nil {
		return err
	}
	defer unix.Close(fds[0])
	size, err := shm.CheckSeals(fds[0])
	if err != nil {
		return refuse(shm.StatusInvalid, "host segment: %v", err)
	}
	if !inside(*r, s.host) || r.Address%shm.Page != 0 || r.Bytes%shm.Page != 0 || uint64(size) != r.Bytes {
		return refuse(shm.StatusInvalid, "host segment %#x+%#x of a file of %d bytes; expected whole pages inside %#x+%#x", r.Address, r.Bytes, size, s.host.Address, s.host.Bytes)
	}
	s.x.calm(s.id, 1)
	err = s.x.loader.do(func() error {
		if err := mapFixed(r.Address, r.Bytes, fds[0]); err != nil {
			return refuse(shm.StatusNoMemory, "host segment %#x+%#x: %v", r.Address, r.Bytes, err)
		}
		if at, res := s.x.driver.HostRegister(r.Address, r.Bytes); res != gpu.Success || at != r.Address {
			if res == gpu.Success {
				s.x.driver.HostUnregister(r.Address)
				res = gpu.InvalidValue
			}
			unmapFixed(r.Address, r.Bytes)
			return refuseCUDA(fmt.Sprintf("cuMemHostRegister of host segment %#x+%#x (device address %#x)", r.Address, r.Bytes, at), res)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Only now may ops name it: the driver's thread would read what is not mapped.
	if err := s.addMemory(r.Address, r.Bytes, 0); err != nil {
		_ = s.x.loader.do(func() error {
			s.x.driver.HostUnregister(r.Address)
			unmapFixed(r.Address, r.Bytes)
			return nil
		})
		return err
	}
	s.hosts[r.Address] = r.Bytes
	return nil
}

// hostDrop takes a host segment back.
func (s *session) hostDrop(r *shm.Range) error {
	bytes, ok := s.hosts[r.Address]
	if !ok {
		return refuse(shm.StatusInvalid, "no host segment at %#x", r.Address)
	}
	if err := s.drained(); err != nil {
		return err
	}
	s.loseMemory(r.Address)
	if !s.x.poller.call(func() { s.unname(r.Address) }) {
		return errStopping
	}
	delete(s.hosts, r.Address)
	s.x.calm(s.id, 1)
	return s.x.loader.do(func() error {
		res := s.x.driver.HostUnregister(r.Address)
		unmapFixed(r.Address, bytes)
		if res != gpu.Success {
			return refuseCUDA("cuMemHostUnregister", res)
		}
		return nil
	})
}

// limit raises a limit of the context. It is shared, so it never shrinks.
func (s *session) limit(l *shm.Setting) error {
	had := func() bool {
		now, r := s.x.driver.GetLimit(l.What)
		return r == gpu.Success && now >= l.Value
	}
	raise := func() error {
		if had() {
			return nil
		}
		if r := s.x.driver.SetLimit(l.What, l.Value); r != gpu.Success {
			return refuseCUDA(fmt.Sprintf("cuCtxSetLimit(%d, %d)", l.What, l.Value), r)
		}
		return nil
	}
	var enough bool
	if err := s.x.loader.do(func() error { enough = had(); return nil }); err != nil || enough {
		return err
	}
	s.x.calm(s.id, 1)
	return s.x.loader.do(raise)
}

// detach gives up what is left of the client and takes everything of it out of the context.
func (s *session) detach() error {
	c := s.client
	if c == nil {
		return nil
	}
	p := s.x.poller
	if s.polled {
		idle := make(chan struct{})
		if !p.call(func() { p.detach(c, func() { close(idle) }) }) {
			return errStopping
		}
		select {
		case <-idle:
		case <-p.ended:
			return errStopping
		}
		if !p.call(func() {
			p.remove(c)
			p.runs.Forget(s.id, false)
			p.gather.ForgetGraphs(c.board, true)
		}) {
			return errStopping
		}
		s.x.learned.left(c)
	}
	s.stopGraphs()
	// The done words said that its ops are complete; because the client could write those words, the driver is asked too.
	if err := s.x.quiet(c); err != nil {
		return err
	}
	return s.teardown(c)
}

// teardown frees all of the client's device state; none of its ops may be in flight. Device memory, which others may be short of, goes at
// once; what holds others up goes in a calm moment.
func (s *session) teardown(c *client) error {
	d := s.x.driver
	err := s.x.loader.do(func() error {
		s.x.joiner.leave(s.id)
		s.dropGraphs()
		s.x.prepared.leave(s.id)
		for _, k := range s.kernels {
			s.x.forms.detach(k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.x.mapper.do(func() error {
		for _, a := range slices.Sorted(maps.Keys(s.segments)) {
			if err := s.unmap(a, s.segments[a]); err != nil {
				s.log.Error("segment not unmapped", "error", err)
			}
		}
		s.releaseWindows()
		return nil
	})
	if err != nil {
		return err
	}
	files := s.x.files.give(s.file)
	if len(s.hosts) > 0 || len(s.instances) > 0 || len(files) > 0 {
		s.x.calm(s.id, calmLeaves)
	}
	return s.x.loader.do(func() error {
		for a, n := range s.hosts {
			d.HostUnregister(a)
			unmapFixed(a, n)
		}
		for id, in := range s.instances {
			if r := d.ModuleUnload(in.module); r != gpu.Success {
				s.log.Error("module not unloaded", "image", id, "error", r)
			}
		}
		c.board.DestroyEvents(&s.x.events)
		for _, f := range files {
			if err := f.letGo(d); err != nil {
				s.log.Error("session file not closed", "error", err)
			}
		}
		return nil
	})
}

// quiet waits until what the streams that a leaver used hold now is complete, with the leaver's own events. It asks on the mapper's
// thread and waits on the caller's, so that others are served meanwhile. What the leaver may have left there ends the executor after
// DeadKernelTime. Ops of others may take longer: where some are in flight, their streams are waited for companyTimes as long, and
// nobody is blamed then.
func (x *executor) quiet(leaver *client) error {
	for i := range issue.MaxStreams {
		if leaver.used&(1<<uint(i)) == 0 {
			continue
		}
		e := leaver.board.EventAt(uint32(i)) // there since it was attached
		r := gpu.NotReady
		err := x.mapper.do(func() error {
			if r = x.engine.Use(i, func(s gpu.Stream) gpu.Result { return x.driver.EventRecord(e, s) }); r == gpu.Success {
				r = gpu.NotReady
			}
			return nil
		})
		begun := time.Now()
		patience := x.config.DeadKernelTime
		for wait := 10 * time.Microsecond; err == nil && r == gpu.NotReady; wait = min(2*wait, time.Millisecond) {
			if err = x.mapper.do(func() error { r = x.driver.EventQuery(e); return nil }); r != gpu.NotReady {
				break
			}
			if over := time.Since(begun); over > patience {
				company := false
				if !x.poller.call(func() { company = x.engine.Stream(i).Ops > 0 }) {
					return errStopping
				}
				blamed := leaver.id
				if company {
					patience, blamed = companyTimes*x.config.DeadKernelTime, 0
				}
				if over > patience {
					why := fmt.Errorf("a stream that client %d used does not end within %v", leaver.id, patience)
					x.poller.post(func() { x.poller.endless(blamed, why) })
					return errStopping
				}
			}
			time.Sleep(wait)
		}
		if err != nil {
			return err
		}
		if r != gpu.Success {
			x.engine.SetFault(r)
			return nil
		}
	}
	return nil
}

// companyTimes is how many times DeadKernelTime a stream of a client that left may take while it holds ops of others. Forged done
// words (SECURITY.md) can hide an endless kernel of the leaver below those, so the wait has an end.
const companyTimes = 30

// mapFixed maps a whole file at an address of the host window, where nothing else may be.
func mapFixed(address, bytes uint64, fd int) error {
	at, _, errno := unix.Syscall6(unix.SYS_MMAP, uintptr(address), uintptr(bytes), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_FIXED_NOREPLACE, uintptr(fd), 0)
	if errno != 0 {
		return fmt.Errorf("mmap: %w", errno)
	}
	if uint64(at) != address { // a kernel before 4.17 takes the address as a hint
		unmapFixed(uint64(at), bytes)
		return fmt.Errorf("mmap gave %#x", at)
	}
	return nil
}

func unmapFixed(address, bytes uint64) {
	_, _, _ = unix.Syscall(unix.SYS_MUNMAP, uintptr(address), uintptr(bytes), 0)
}
