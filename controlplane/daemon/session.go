package daemon

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of what one session may hold. A client that reaches one gets a clear
// refusal and goes on natively with the rest.
const (
	maxSegments     = 16384
	maxHostSegments = 4096
	maxKernels      = 65536
	maxWindows      = 64
	maxNameBytes    = 24 << 10
	maxHostBytes    = 256 << 30
	maxSettings     = 65536
)

// session is one client process on one GPU: its address space and everything a
// new executor must be told to serve it. The journal fields are guarded by mu;
// a restore and a client's request never interleave.
type session struct {
	id    uint64
	peer  peer
	label string
	class *policy.Class // guarded by slot.mu and mu together: either is enough to read
	wire  shm.Class     // the same, as the executor was told
	slot  *slot
	since time.Time
	file  *shm.SessionFile
	host  span
	files *fileBudget

	mu           sync.Mutex
	closed       bool
	left         bool             // its executor let go of it
	kept         int              // descriptors in segments, hostSegments and graphs
	told         *executorProcess // the executor that learned of everything below when it took over
	windows      []span
	segments     map[uint64]segment     // by address
	hostSegments map[uint64]hostSegment // by address
	hostNext     uint64                 // bump pointer; the window is far larger than any use
	shared       map[uint64]token       // allocations that other clients may open, by address
	deviceBytes  uint64
	hostBytes    uint64
	kernels      []kernel          // index + 1 is the kernel id
	graphs       map[uint32]*graph // by id
	nextGraph    uint32            // the last id given
	graphBytes   uint64
	graphNodes   uint64
	settings     map[settingKey]uint64
	globals      int // answered GLOBAL requests: lost with the executor
	refused      string
	apart        map[uint32]bool  // kernels whose ops are never joined with others
	ran          *executorProcess // the last one that may have issued ops of it; guarded by slot.mu
	headAt       uint64           // where its ring's head was when an executor was last lost; guarded by slot.mu
	stuck        int              // executors in a row that were lost with it in doubt and its head there; guarded by slot.mu
}

type segment struct {
	bytes, offset, flags uint64
	fd                   int
}

type hostSegment struct {
	bytes uint64
	fd    int
}

type kernel struct {
	image  uint64
	name   string
	status uint16 // of the last answer: StatusOK or StatusRefused
	reason string
	result uint32
	state  uint32 // shm.Kernel.Stateful
}

type settingKey struct {
	kernel uint32 // 0 for limits
	what   uint32
	limit  bool
}

func newSession(id uint64, p peer, label string, sl *slot, files *fileBudget) (*session, error) {
	f := sl.spares.take(p.uid, id)
	if f == nil {
		var err error
		if f, err = shm.CreateSessionFile(id); err != nil {
			return nil, err
		}
	}
	return &session{
		id: id, peer: p, label: label, slot: sl, since: time.Now(), file: f, files: files,
		segments: map[uint64]segment{}, hostSegments: map[uint64]hostSegment{}, settings: map[settingKey]uint64{}, graphs: map[uint32]*graph{},
		shared: map[uint64]token{},
	}, nil
}

// release closes everything the daemon holds for the session, but for the file of one that its executor let go of: that may serve another
// client. Nothing may use the session afterwards.
func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, g := range s.segments {
		s.let(g.fd)
	}
	for _, h := range s.hostSegments {
		s.let(h.fd)
	}
	for id := range s.graphs {
		s.forgetGraph(id)
	}
	s.unshare(0, ^uint64(0))
	s.segments, s.hostSegments = nil, nil
	if s.left {
		s.slot.spares.give(s.file, s.peer)
	} else {
		s.file.Close()
	}
}

// inWindow reports whether a range lies inside one of the session's windows. mu is held.
func (s *session) inWindow(address, bytes uint64) bool {
	for _, w := range s.windows {
		if w.contains(address, bytes) {
			return true
		}
	}
	return false
}

// overlapsSegment reports whether a range meets one that is mapped already. mu is held.
func (s *session) overlapsSegment(address, bytes uint64) bool {
	for a, g := range s.segments {
		if address < a+g.bytes && a < address+bytes {
			return true
		}
	}
	return false
}

// addSegment checks and records a device segment; the fd becomes the session's.
func (s *session) addSegment(r shm.Range, fd int) error {
	switch {
	case r.Bytes == 0 || r.Bytes%segmentAlign != 0 || r.Address%segmentAlign != 0:
		return fmt.Errorf("segment %#x+%#x: expected multiples of %d bytes", r.Address, r.Bytes, segmentAlign)
	case !s.inWindow(r.Address, r.Bytes):
		return fmt.Errorf("segment %#x+%#x lies outside the client's windows", r.Address, r.Bytes)
	case s.overlapsSegment(r.Address, r.Bytes):
		return fmt.Errorf("segment %#x+%#x overlaps one that is mapped", r.Address, r.Bytes)
	case len(s.segments) >= maxSegments:
		return fmt.Errorf("more than %d segments in one client: let it allocate in larger pieces", maxSegments)
	}
	if err := s.keep(); err != nil {
		return err
	}
	s.segments[r.Address] = segment{r.Bytes, r.Offset, r.Flags, fd}
	s.deviceBytes += r.Bytes
	return nil
}

func (s *session) dropSegment(address uint64) {
	if g, ok := s.segments[address]; ok {
		s.let(g.fd)
		s.deviceBytes -= g.bytes
		delete(s.segments, address)
		s.unshare(address, g.bytes)
	}
}

// addHostSegment makes a shared host segment at an address of ours.
func (s *session) addHostSegment(bytes uint64) (uint64, error) {
	bytes = (bytes + hostPageAlign - 1) &^ (hostPageAlign - 1)
	switch {
	case bytes == 0 || bytes > s.host.bytes:
		return 0, fmt.Errorf("host segment of %d bytes: expected 1 to %d", bytes, s.host.bytes)
	case len(s.hostSegments) >= maxHostSegments:
		return 0, fmt.Errorf("more than %d host segments in one client", maxHostSegments)
	case s.hostBytes+bytes > maxHostBytes:
		return 0, fmt.Errorf("more than %d GiB of host memory in one client", maxHostBytes>>30)
	}
	address, ok := s.hostRoom(bytes)
	if !ok {
		return 0, fmt.Errorf("the host window of %d GiB is full", s.host.bytes>>30)
	}
	if err := s.keep(); err != nil {
		return 0, err
	}
	fd, err := shm.CreateSealedMemfd("heddle-host", int64(bytes))
	if err != nil {
		s.uncount()
		return 0, err
	}
	s.hostSegments[address] = hostSegment{bytes, fd}
	s.hostBytes += bytes
	return address, nil
}

// hostRoom finds a free range: past the last one, or, when the window has been
// walked through, the first hole.
func (s *session) hostRoom(bytes uint64) (uint64, bool) {
	const align = 2 << 20 // so that huge pages stay possible
	step := (bytes + align - 1) &^ (align - 1)
	free := func(at uint64) bool {
		if !s.host.contains(at, step) {
			return false
		}
		for a, h := range s.hostSegments {
			if at < a+h.bytes && a < at+step {
				return false
			}
		}
		return true
	}
	if at := s.host.base + s.hostNext; free(at) {
		s.hostNext += step
		return at, true
	}
	if free(s.host.base) {
		return s.host.base, true
	}
	for a, h := range s.hostSegments {
		if at := (a + h.bytes + align - 1) &^ (align - 1); free(at) {
			return at, true
		}
	}
	return 0, false
}

func (s *session) dropHostSegment(address uint64) {
	if h, ok := s.hostSegments[address]; ok {
		s.let(h.fd)
		s.hostBytes -= h.bytes
		delete(s.hostSegments, address)
	}
}

// setState publishes the session's state and wakes everybody who sleeps in it.
func (s *session) setState(state uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.file.SetState(state)
		s.file.WakeAll()
	}
}

// report is the session as `heddle ps` shows it.
func (s *session) report(stateName string) admin.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := admin.Client{
		ID: s.id, Pid: int(s.peer.pid), UID: int(s.peer.uid), Exe: s.peer.exe, Label: s.label, Class: s.class.Name, GPU: s.slot.gpu(),
		State: stateName, Since: s.since, DeviceBytes: s.deviceBytes, HostBytes: s.hostBytes,
		Segments: len(s.segments), Files: s.kept, Kernels: len(s.kernels), RefusedReason: s.refused,
	}
	if s.closed {
		return c
	}
	st := s.file.Status()
	c.Ops = atomic.LoadUint64(&st.OpsDone)
	if code := atomic.LoadUint32(&st.Error); code != 0 {
		c.Error, c.ErrorReason = code, reasonName(atomic.LoadUint32(&st.ErrorReason))
		if client, kernel := s.cause(); client != 0 {
			c.ErrorReason += fmt.Sprintf(" (client %d's kernel %s faulted at the same time)", client, kernel)
		}
	}
	return c
}
