package shm

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the parts of a session file lie. The file says so too, for the client; this side never reads that back, because the
// client can write it.
const (
	statusOffset   = Page
	producerOffset = statusOffset + 128
	consumerOffset = producerOffset + 128
	repliesOffset  = 2 * Page
	lanesOffset    = repliesOffset + Page
	ringOffset     = lanesOffset + Lanes*int(unsafe.Sizeof(Lane{}))
	// SessionBytes is the size of every session file.
	SessionBytes = ringOffset + RingBytes
)

// Parts fit their places.
var (
	_ [repliesOffset - consumerOffset - int(unsafe.Sizeof(ConsumerWords{}))]byte
	_ [lanesOffset - repliesOffset - Replies*int(unsafe.Sizeof(ReplySlot{}))]byte
	_ [-(ringOffset % Page)]byte
	_ [-(RingBytes & (RingBytes - 1))]byte
)

// SessionFile is a mapped session file: ring, lane words, replies and status of one client on one GPU. Words with a writer in
// another process must be read and written with sync/atomic. Methods may be called from any goroutine; nothing may touch the file's
// memory after Close.
type SessionFile struct {
	fd  int
	mem []byte
}

// CreateSessionFile makes, sizes and seals a session file. The file owns its fd.
func CreateSessionFile(clientID uint64) (*SessionFile, error) {
	fd, err := CreateSealedMemfd(fmt.Sprintf("heddle-session-%d", clientID), int64(SessionBytes))
	if err != nil {
		return nil, err
	}
	mem, err := mapFile(fd, int64(SessionBytes))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	writeHeader(mem, clientID)
	return &SessionFile{fd: fd, mem: mem}, nil
}

func writeHeader(mem []byte, clientID uint64) {
	*at[SessionHeader](mem, 0) = SessionHeader{
		Magic: Magic, LayoutHash: LayoutHash, Version: Version, Lanes: Lanes, FileBytes: uint64(SessionBytes), ClientID: clientID,
		StatusOffset: statusOffset, ProducerOffset: uint64(producerOffset), ConsumerOffset: uint64(consumerOffset),
		RepliesOffset: repliesOffset, LanesOffset: uint64(lanesOffset), RingOffset: uint64(ringOffset),
		RingBytes: RingBytes, Replies: Replies,
	}
}

// Renew makes the file another client's, as CreateSessionFile would: nothing of the one before is left in it. No process may use it
// meanwhile, and no GPU write to it be due (Due).
func (s *SessionFile) Renew(clientID uint64) {
	clear(s.mem)
	writeHeader(s.mem, clientID)
}

// Due tells whether a write of ready that the client gave its GPU is still to come. It may come after the client's death, while another
// process, as a forked child, keeps its driver's files open.
func (s *SessionFile) Due() bool {
	for i := range uint32(Lanes) {
		if l := s.Lane(i); atomic.LoadUint32(&l.Ready) != atomic.LoadUint32(&l.ReadyDue) {
			return true
		}
	}
	return false
}

// Of tells whether the header names this client and this build's layout. The client can write it: good for telling files of one's own
// apart, not for trust.
func (s *SessionFile) Of(clientID uint64) bool {
	h := at[SessionHeader](s.mem, 0)
	return h.Magic == Magic && h.LayoutHash == LayoutHash && h.Version == Version && h.ClientID == clientID
}

// OpenSessionFile maps a session file that CreateSessionFile made, here or in another process. On success the file owns fd; on
// error fd stays the caller's. It refuses a file without seals, of another size, or of another layout.
func OpenSessionFile(fd int) (*SessionFile, error) {
	mem, err := mapFile(fd, int64(SessionBytes))
	if err != nil {
		return nil, fmt.Errorf("session file: %w", err)
	}
	h := at[SessionHeader](mem, 0)
	if h.Magic != Magic || h.LayoutHash != LayoutHash || h.Version != Version {
		err := fmt.Errorf("session file: magic %#x, layout %#x, version %d; expected %#x, %#x, %d: both sides must come from one build of heddle",
			h.Magic, h.LayoutHash, h.Version, uint64(Magic), uint64(LayoutHash), Version)
		_ = unix.Munmap(mem)
		return nil, err
	}
	return &SessionFile{fd: fd, mem: mem}, nil
}

// Fd is the file's descriptor, still owned by the file.
func (s *SessionFile) Fd() int { return s.fd }

// Close unmaps the file and closes its fd.
func (s *SessionFile) Close() error {
	err := unix.Munmap(s.mem)
	s.mem = nil
	if cerr := unix.Close(s.fd); err == nil {
		err = cerr
	}
	s.fd = -1
	return err
}

// Bytes is the whole mapping.
func (s *SessionFile) Bytes() []byte { return s.mem }

// Base is the mapping's address, for registering it with the driver.
func (s *SessionFile) Base() unsafe.Pointer { return unsafe.Pointer(&s.mem[0]) }

// RingBytes is the ring's part of the mapping.
func (s *SessionFile) RingBytes() []byte { return s.mem[ringOffset : ringOffset+RingBytes] }

// LaneBytes is the lanes' part of the mapping: page-aligned, whole pages.
func (s *SessionFile) LaneBytes() []byte { return s.mem[lanesOffset:ringOffset] }

// Status is the status line.
func (s *SessionFile) Status() *SessionStatus { return at[SessionStatus](s.mem, statusOffset) }

// Producer is the client's line.
func (s *SessionFile) Producer() *ProducerWords { return at[ProducerWords](s.mem, producerOffset) }

// Consumer is the executor's line.
func (s *SessionFile) Consumer() *ConsumerWords { return at[ConsumerWords](s.mem, consumerOffset) }

// Lane is lane i's words, 0 ≤ i < Lanes.
func (s *SessionFile) Lane(i uint32) *Lane {
	return (*Lane)(unsafe.Pointer(&s.mem[lanesOffset : lanesOffset+Lanes*int(unsafe.Sizeof(Lane{}))][uintptr(i)*unsafe.Sizeof(Lane{})]))
}

// Reply is reply slot i, 0 ≤ i < Replies.
func (s *SessionFile) Reply(i uint32) *ReplySlot {
	return (*ReplySlot)(unsafe.Pointer(&s.mem[repliesOffset : repliesOffset+Replies*int(unsafe.Sizeof(ReplySlot{}))][uintptr(i)*unsafe.Sizeof(ReplySlot{})]))
}

// SetState stores status.state and wakes whoever sleeps on it.
func (s *SessionFile) SetState(state uint32) {
	st := s.Status()
	atomic.StoreUint32(&st.State, state)
	wakeEverybody(&st.State)
}

// SetError makes the session's sticky error code (a CUresult other than 0) with a reason, unless one is set already, and wakes
// every waiter. It reports whether this call set it.
func (s *SessionFile) SetError(code, reason uint32) bool {
	st := s.Status()
	if atomic.LoadUint32(&st.Error) != 0 {
		return false
	}
	atomic.StoreUint32(&st.ErrorReason, reason) // before the code: who sees the code sees its reason
	set := atomic.CompareAndSwapUint32(&st.Error, 0, code)
	s.WakeAll()
	return set
}

// WakeLane wakes the client if it sleeps on lane i for a number that done has reached. done is what the caller has just read from
// the lane's done word. Pairs with the client: it stores waiting, fences, and looks at done once more before it sleeps.
func (s *SessionFile) WakeLane(i, done uint32) bool {
	word := &s.Lane(i).Waiting
	w := atomic.LoadUint32(word)
	if w == 0 || !Reached(done, w) {
		return false
	}
	// A waiter that replaced w meanwhile looks at done itself before it sleeps.
	atomic.CompareAndSwapUint32(word, w, 0)
	wakeEverybody(word)
	return true
}

// WakeAll wakes every sleeper of the session: all lanes, the state word and a producer that waits for space. They look at state and
// error again.
func (s *SessionFile) WakeAll() {
	for i := range uint32(Lanes) {
		if word := &s.Lane(i).Waiting; atomic.SwapUint32(word, 0) != 0 {
			wakeEverybody(word)
		}
	}
	wakeEverybody(&s.Status().State)
	c := s.Consumer()
	atomic.AddUint32(&c.SpaceBell, 1)
	wakeEverybody(&c.SpaceBell)
}
