package daemon

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// What the daemon keeps open for clients has a bound that leaves room for the rest, no client has more of it than is left for the
// others, and what is given back or left behind is free again.
func TestFilesAreBudgeted(t *testing.T) {
	for limit, most := range map[uint64]int{0: 0, 256: 0, 1024: 768, 20_000: 15_000, ^uint64(0): 1<<30 - 1<<28} {
		if b := newFileBudget(limit); b.most != most {
			t.Errorf("of %d files %d are for clients, expected %d", limit, b.most, most)
		}
	}
	b := &fileBudget{most: 12}
	client := func(id uint64) *session {
		s, err := newSession(id, peer{}, "", &slot{}, b)
		if err != nil {
			t.Fatal(err)
		}
		s.windows, s.host = []span{{deviceBase, minWindow}}, span{hostBase, hostWindow}
		return s
	}
	fd := func() int {
		fd, err := shm.CreateSealedMemfd("test", 4096)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	fill := func(s *session) (n int, err error) {
		for ; err == nil; n++ {
			switch n % 3 {
			case 0:
				_, err = s.addHostSegment(4096)
			case 1:
				err = s.addSegment(shm.Range{Address: deviceBase + uint64(n)*segmentAlign, Bytes: segmentAlign}, fd())
			default:
				_, err = s.addGraph(&shm.Graph{Bytes: 64, Nodes: 1}, fd())
			}
		}
		return n - 1, err
	}
	first, second := client(1), client(2)
	if n, err := fill(first); n != 6 || err == nil || !strings.Contains(err.Error(), "6 files") || !strings.Contains(err.Error(), "ulimit") {
		t.Errorf("the first client got %d: %v; expected half of all", n, err)
	}
	if n, err := fill(second); n != 3 || err == nil {
		t.Errorf("the second client got %d: %v; expected half of what was left", n, err)
	}
	for a := range first.hostSegments {
		first.dropHostSegment(a)
	}
	first.dropSegment(deviceBase + segmentAlign)
	first.forgetGraph(1)
	if first.kept != 2 || b.kept != 5 {
		t.Errorf("after four were given back the first client has %d, all have %d", first.kept, b.kept)
	}
	store := newImageStore(b)
	ask := func(s *session) (n int, err error) {
		for ; err == nil; n++ {
			_, _, err = store.query(s, shm.Image{Hash0: uint64(n), Hash1: s.id, Bytes: 1})
		}
		return n - 1, err
	}
	if n, err := ask(first); n != 4 || err == nil || !strings.Contains(err.Error(), "4 files") {
		t.Errorf("%d images were taken: %v; expected half of what was left", n, err)
	}
	if _, fd, err := store.query(first, shm.Image{Hash0: 2, Hash1: first.id, Bytes: 1}); fd < 0 || err != nil {
		t.Errorf("an image that is asked for again: %d, %v", fd, err)
	}
	if _, err := store.filled(first, shm.Image{Hash0: 1, Hash1: first.id, Bytes: 1}); err == nil || store.kept != 3 {
		t.Errorf("an image with another content: %v, %d are counted; expected an error, 3", err, store.kept)
	}
	fill1 := []byte("x")
	good := shm.Image{Hash0: shm.Hash64(fill1, 0), Hash1: shm.Hash64(fill1, 1), Bytes: 1}
	if _, fd, err := store.query(second, good); err != nil {
		t.Error(err)
	} else if _, err := unix.Pwrite(fd, fill1, 0); err != nil {
		t.Error(err)
	}
	if id, err := store.filled(second, good); id == 0 || err != nil {
		t.Errorf("a good image: %d, %v", id, err)
	}
	store.release(first)
	if store.release(second); store.kept != 1 || store.bytes != 1 {
		t.Errorf("%d images of %d bytes are counted after their clients left; expected the good one", store.kept, store.bytes)
	}
	store.close()
	if _, _, err := store.query(second, shm.Image{Hash0: 9, Bytes: 1}); err == nil {
		t.Error("a closed store asks for an image")
	}
	first.release()
	first.release()
	second.release()
	if b.kept != 0 {
		t.Errorf("%d are counted after everybody left", b.kept)
	}
}
