package daemon

import (
	"crypto/rand"
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// maxShares bounds the allocations that one client lets others open at a time.
const maxShares = 16384

// token is what a client must know to open another's allocation: random, and given to the owner only, who passes it on.
type token [2]uint64

// shares are the allocations that clients of a slot let its other clients open (cuIpcGetMemHandle), on one GPU.
type shares struct {
	mu sync.Mutex // taken after a session's
	by map[token]share
}

type share struct {
	owner          *session
	address, bytes uint64
}

func newShares() shares { return shares{by: map[token]share{}} }

// share is the token of the session's allocation, the same as long as it is not dropped. mu is held.
func (s *session) share(address, bytes uint64) (token, error) {
	if s.closed {
		return token{}, errSlotClosed
	}
	if _, _, ok := s.segmentOf(address, bytes); !ok {
		return token{}, refuse(shm.StatusInvalid, "%#x+%#x lies in no segment of the client's", address, bytes)
	}
	all := &s.slot.shares
	all.mu.Lock()
	defer all.mu.Unlock()
	if t, ok := s.shared[address]; ok && all.by[t].bytes == bytes {
		return t, nil
	}
	if len(s.shared) >= maxShares {
		return token{}, refuse(shm.StatusFull, "more than %d shared allocations in one client: free some", maxShares)
	}
	var secret [16]byte
	rand.Read(secret[:]) // crashes the process rather than return an error
	t := token{binary.NativeEndian.Uint64(secret[:8]), binary.NativeEndian.Uint64(secret[8:])}
	delete(all.by, s.shared[address])
	s.shared[address], all.by[t] = t, share{s, address, bytes}
	return t, nil
}

// segmentOf is the segment that holds all of a range. mu is held.
func (s *session) segmentOf(address, bytes uint64) (base uint64, g segment, ok bool) {
	for a, g := range s.segments {
		if bytes > 0 && address >= a && address-a < g.bytes && bytes <= g.bytes-(address-a) {
			return a, g, true
		}
	}
	return 0, segment{}, false
}

// unshare forgets every share that begins in a range: nobody opens it any more; who has, keeps it. mu is held.
func (s *session) unshare(address, bytes uint64) {
	if len(s.shared) == 0 {
		return
	}
	s.slot.shares.mu.Lock()
	defer s.slot.shares.mu.Unlock()
	for a, t := range s.shared {
		if a-address < bytes {
			delete(s.shared, a)
			delete(s.slot.shares.by, t)
		}
	}
}

// open is what there is to map for a token: where the allocation lies in its segment, and the segment's descriptor, the caller's to close.
func (s *session) open(t token) (shm.Share, int, error) {
	all := &s.slot.shares
	all.mu.Lock()
	found, ok := all.by[t]
	all.mu.Unlock()
	stale := refuse(shm.StatusInvalid, "no client of this user shares such memory on this GPU: it was freed, its process has ended, or it never was")
	if !ok || found.owner.peer.uid != s.peer.uid { // one executor may serve several users (share = "any")
		return shm.Share{}, -1, stale
	}
	if found.owner.peer.pid == s.peer.pid {
		return shm.Share{}, -1, refuse(shm.StatusRefused, "a process cannot open a handle of its own memory")
	}
	found.owner.mu.Lock()
	defer found.owner.mu.Unlock()
	base, g, ok := found.owner.segmentOf(found.address, found.bytes)
	if !ok || found.owner.shared[found.address] != t { // dropped meanwhile
		return shm.Share{}, -1, stale
	}
	fd, err := unix.FcntlInt(uintptr(g.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return shm.Share{}, -1, refuse(shm.StatusFull, "no descriptor is left for shared memory: %v", err)
	}
	return shm.Share{Token0: t[0], Token1: t[1], Bytes: found.bytes, Offset: found.address - base, SegmentBytes: g.bytes}, fd, nil
}

func (d *Daemon) handleShare(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Share](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	t, err := s.share(r.Address, r.Bytes)
	s.mu.Unlock()
	if err != nil {
		return shm.Message{}, err
	}
	r.Token0, r.Token1 = t[0], t[1]
	return m.Reply(shm.StatusOK, shm.Encode(r)), nil
}

// handleShareOpen tells a client what to map. It then asks for it by SEGMENT, as for memory of its own, so that a successor of the executor
// learns of it too.
func (d *Daemon) handleShareOpen(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Share](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	found, fd, err := s.open(token{r.Token0, r.Token1})
	if err != nil {
		return shm.Message{}, err
	}
	m.Fds = append(m.Fds, fd) // closed with the request's, when the reply has gone out
	reply := m.Reply(shm.StatusOK, shm.Encode(found))
	reply.Fds = []int{fd}
	return reply, nil
}

func (d *Daemon) handleShareDrop(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Share](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	s.unshare(r.Address, 1)
	s.mu.Unlock()
	return m.Reply(shm.StatusOK, m.Body), nil
}
