package daemon

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// sharer is a session of a process with one segment, at the start of its window; nothing runs.
func sharer(t *testing.T, sl *slot, id uint64) *session {
	t.Helper()
	s, err := newSession(id, peer{pid: int32(id)}, "", sl, newFileBudget(1<<12))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.release)
	s.windows = []span{{id << 40, 1 << 30}}
	fd, err := shm.CreateSealedMemfd("segment", segmentAlign)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.addSegment(shm.Range{Address: id << 40, Bytes: segmentAlign}, fd); err != nil {
		t.Fatal(err)
	}
	return s
}

func newSharers() *slot {
	return &slot{shares: newShares(), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// opens reports what a session gets for a token: the offset, or the status of the refusal.
func opens(t *testing.T, s *session, by token) (offset uint64, status uint16) {
	t.Helper()
	got, fd, err := s.open(by)
	var no *refusal
	switch {
	case errors.As(err, &no):
		return 0, no.status
	case err != nil:
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var mine, theirs unix.Stat_t
	owner := s.slot.shares.by[by].owner
	if unix.Fstat(fd, &mine) != nil || unix.Fstat(owner.segments[owner.windows[0].base].fd, &theirs) != nil || mine.Ino != theirs.Ino {
		t.Error("another file than the owner's segment")
	}
	if got.SegmentBytes != segmentAlign || got.Bytes == 0 || got.Offset+got.Bytes > got.SegmentBytes {
		t.Errorf("%+v", got)
	}
	return got.Offset, shm.StatusOK
}

func TestOnlyWhoKnowsTheTokenOpensMemoryThatIsThere(t *testing.T) {
	sl := newSharers()
	a, b, elsewhere := sharer(t, sl, 1), sharer(t, sl, 2), sharer(t, newSharers(), 3)
	twin := sharer(t, sl, 4)
	twin.peer.pid = a.peer.pid
	stranger := sharer(t, sl, 5)
	stranger.peer.uid = a.peer.uid + 1
	base := a.windows[0].base
	give := func(address, bytes uint64) token {
		t.Helper()
		k, err := a.share(address, bytes)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first, second := give(base+512, 1024), give(base+4096, 100)
	if first == second || first == (token{}) || give(base+512, 1024) != first {
		t.Error("tokens: expected one for each allocation, the same each time")
	}
	if at, status := opens(t, b, first); at != 512 || status != shm.StatusOK {
		t.Errorf("offset %d, status %s", at, statusName(status))
	}
	if at, _ := opens(t, b, second); at != 4096 {
		t.Errorf("offset %d of the second", at)
	}
	for name, r := range map[string]shm.Range{
		"nothing": {Address: base}, "another's": {Address: b.windows[0].base, Bytes: 512}, "beyond": {Address: base + segmentAlign - 512, Bytes: 1024},
		"overflow": {Address: base + 512, Bytes: ^uint64(0)},
	} {
		if _, err := a.share(r.Address, r.Bytes); err == nil {
			t.Errorf("%s is shared", name)
		}
	}
	refused := func(what string, s *session, k token, want uint16) {
		t.Helper()
		if _, status := opens(t, s, k); status != want {
			t.Errorf("%s: %s, expected %s", what, statusName(status), statusName(want))
		}
	}
	refused("forged", b, token{first[0], first[1] ^ 1}, shm.StatusInvalid)
	refused("none", b, token{}, shm.StatusInvalid)
	refused("another GPU", elsewhere, first, shm.StatusInvalid)
	refused("another user", stranger, first, shm.StatusInvalid)
	refused("its own process", a, first, shm.StatusRefused)
	refused("its own process, by another session", twin, first, shm.StatusRefused)
	a.unshare(base+512, 1)
	refused("freed", b, first, shm.StatusInvalid)
	if again := give(base+512, 1024); again == first {
		t.Error("a token came back")
	}
	a.dropSegment(base)
	refused("unmapped", b, second, shm.StatusInvalid)
	k, err := b.share(b.windows[0].base, 8)
	if err != nil {
		t.Fatal(err)
	}
	b.release()
	refused("its owner is gone", a, k, shm.StatusInvalid)
	if len(sl.shares.by) != 0 {
		t.Errorf("%d shares are left", len(sl.shares.by))
	}
	if _, err := b.share(b.windows[0].base, 8); err == nil {
		t.Error("a session that is over shares")
	}
}

func TestSharesAreBounded(t *testing.T) {
	s := sharer(t, newSharers(), 1)
	for i := range uint64(maxShares) {
		if _, err := s.share(s.windows[0].base+i, 1); err != nil {
			t.Fatal(i, err)
		}
	}
	var no *refusal
	if _, err := s.share(s.windows[0].base+maxShares, 1); !errors.As(err, &no) || no.status != shm.StatusFull {
		t.Errorf("one more: %v", err)
	}
	s.unshare(s.windows[0].base+7, 1)
	if _, err := s.share(s.windows[0].base+maxShares, 1); err != nil {
		t.Errorf("after one was dropped: %v", err)
	}
}
