package daemon

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of the image store of one slot.
const (
	maxImageBytes = 2 << 30
	maxStoreBytes = 16 << 30
)

type imageHash [2]uint64

// image is one content that clients of a slot have sent, in a sealed memfd.
type image struct {
	id    uint64
	hash  imageHash
	bytes uint64
	fd    int
}

// imageStore holds images by content. They stay as long as the slot, because a
// restarted executor needs them, and clients that come again have them.
type imageStore struct {
	mu     sync.Mutex
	next   uint64
	byHash map[imageHash]*image
	byID   map[uint64]*image
	bytes  uint64
	files  *fileBudget
	kept   int  // descriptors in byID and asked
	closed bool // nothing comes in any more
	// asked holds the memfds that were handed out and are being filled, by session
	// and hash.
	asked map[askKey]int
}

type askKey struct {
	session uint64
	hash    imageHash
	bytes   uint64
}

func newImageStore(files *fileBudget) *imageStore {
	return &imageStore{files: files, byHash: map[imageHash]*image{}, byID: map[uint64]*image{}, asked: map[askKey]int{}}
}

// query returns the id of a content, or a memfd for the client to fill.
func (st *imageStore) query(s *session, r shm.Image) (id uint64, fd int, err error) {
	h := imageHash{r.Hash0, r.Hash1}
	st.mu.Lock()
	defer st.mu.Unlock()
	if img := st.byHash[h]; img != nil && img.bytes == r.Bytes {
		return img.id, -1, nil
	}
	switch {
	case st.closed:
		return 0, -1, errSlotClosed
	case r.Bytes == 0 || r.Bytes > maxImageBytes:
		return 0, -1, fmt.Errorf("image of %d bytes: expected 1 to %d", r.Bytes, maxImageBytes)
	case st.bytes+r.Bytes > maxStoreBytes:
		return 0, -1, fmt.Errorf("the clients of this GPU have sent %d GiB of code; this kernel runs natively", maxStoreBytes>>30)
	}
	key := askKey{s.id, h, r.Bytes}
	if old, ok := st.asked[key]; ok {
		st.let(old, r.Bytes)
		delete(st.asked, key)
	}
	if err := st.files.take("images of the code of all clients of this GPU and user", st.kept); err != nil {
		return 0, -1, err
	}
	fd, err = shm.CreateMemfd("heddle-image", int64(r.Bytes))
	if err != nil {
		st.files.give()
		return 0, -1, err
	}
	st.kept++
	st.asked[key] = fd
	st.bytes += r.Bytes
	return 0, fd, nil
}

// filled takes up a memfd that the client says it has filled: seals it, hashes
// what is really in it, and refuses a difference.
func (st *imageStore) filled(s *session, r shm.Image) (uint64, error) {
	h := imageHash{r.Hash0, r.Hash1}
	key := askKey{s.id, h, r.Bytes}
	st.mu.Lock()
	fd, ok := st.asked[key]
	delete(st.asked, key)
	st.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("image %016x%016x: nobody was asked for it", r.Hash0, r.Hash1)
	}
	drop := func(err error) (uint64, error) {
		st.mu.Lock()
		st.let(fd, r.Bytes)
		st.mu.Unlock()
		return 0, err
	}
	// A writable mapping that the client still holds makes F_SEAL_WRITE fail: then the
	// bytes could change after they were hashed.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return drop(fmt.Errorf("image: sealing: %w; fill it with write(2) and keep no mapping", err))
	}
	mem, err := unix.Mmap(fd, 0, int(r.Bytes), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return drop(fmt.Errorf("image: %w", err))
	}
	got := imageHash{shm.Hash64(mem, 0), shm.Hash64(mem, 1)}
	unix.Munmap(mem)
	if got != h {
		return drop(fmt.Errorf("image: the content's hash is %016x%016x, announced was %016x%016x", got[0], got[1], h[0], h[1]))
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		st.let(fd, r.Bytes)
		return 0, errSlotClosed
	}
	if img := st.byHash[h]; img != nil { // another client was faster
		st.let(fd, r.Bytes)
		return img.id, nil
	}
	st.next++
	img := &image{id: st.next, hash: h, bytes: r.Bytes, fd: fd}
	st.byHash[h], st.byID[img.id] = img, img
	return img.id, nil
}

// let closes a descriptor that was counted, of a file of so many bytes. mu is held.
func (st *imageStore) let(fd int, bytes uint64) {
	unix.Close(fd)
	st.bytes -= bytes
	st.kept--
	st.files.give()
}

func (st *imageStore) get(id uint64) (*image, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	img, ok := st.byID[id]
	return img, ok
}

// release forgets what a session had been asked for and never filled.
func (st *imageStore) release(s *session) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for k, fd := range st.asked {
		if k.session == s.id {
			st.let(fd, k.bytes)
			delete(st.asked, k)
		}
	}
}

// close forgets everything, and takes nothing more: clients of a slot that is given up may not know it yet.
func (st *imageStore) close() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.closed = true
	for _, img := range st.byID {
		st.let(img.fd, img.bytes)
	}
	for k, fd := range st.asked {
		st.let(fd, k.bytes)
	}
	st.byHash, st.byID, st.asked = map[imageHash]*image{}, map[uint64]*image{}, map[askKey]int{}
}

func (st *imageStore) size() (images int, bytes uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.byID), st.bytes
}
