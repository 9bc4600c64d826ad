package shm

import (
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSealsHold tries what a client could do to a shared file with the fd it is given.
func TestSealsHold(t *testing.T) {
	s, d := newSession(t)
	for name, fd := range map[string]int{"session": s.Fd(), "doorbell": d.Fd()} {
		size, err := CheckSeals(fd)
		if err != nil {
			t.Fatal(err)
		}
		for what, length := range map[string]int64{"shrink": size - Page, "empty": 0, "grow": size + Page} {
			if err := unix.Ftruncate(fd, length); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: %s: %v; expected EPERM", name, what, err)
			}
		}
		if err := unix.Fallocate(fd, 0, size, Page); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: grow by fallocate: %v; expected EPERM", name, err)
		}
		if err := SealMemfd(fd, unix.F_SEAL_WRITE); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: seal against writing: %v; expected EPERM", name, err)
		}
		if err := SealMemfd(fd, unix.F_SEAL_FUTURE_WRITE); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: seal against future writing: %v; expected EPERM", name, err)
		}
	}
}

// TestOpenRefuses gives OpenSessionFile and OpenDoorbell what they must not map; each fd stays the caller's.
func TestOpenRefuses(t *testing.T) {
	memfd := func(size int64, seals int) int {
		fd, err := CreateMemfd("test", size)
		if err != nil {
			t.Fatal(err)
		}
		if err := SealMemfd(fd, seals); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	file, err := os.CreateTemp(t.TempDir(), "plain")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(int64(SessionBytes)); err != nil {
		t.Fatal(err)
	}
	plain, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	s, d := newSession(t)
	other, err := unix.Dup(d.Fd())
	if err != nil {
		t.Fatal(err)
	}
	stale, err := CreateSessionFile(1)
	if err != nil {
		t.Fatal(err)
	}
	defer stale.Close()
	at[SessionHeader](stale.mem, 0).LayoutHash++
	staleFd, err := unix.Dup(stale.Fd())
	if err != nil {
		t.Fatal(err)
	}
	for name, fd := range map[string]int{
		"no seals": memfd(int64(SessionBytes), 0), "shrinkable": memfd(int64(SessionBytes), unix.F_SEAL_GROW|unix.F_SEAL_SEAL), "small": memfd(Page, Seals),
		"zeros": memfd(int64(SessionBytes), Seals), "empty": memfd(0, Seals), "plain file": plain, "pipe": pipe[0], "doorbell": other, "another build": staleFd,
	} {
		if got, err := OpenSessionFile(fd); err == nil {
			got.Close()
			t.Errorf("session from %s: accepted", name)
		}
		if name != "doorbell" {
			if got, err := OpenDoorbell(fd); err == nil {
				got.Close()
				t.Errorf("doorbell from %s: accepted", name)
			}
		}
		if err := unix.Close(fd); err != nil {
			t.Errorf("%s: the fd was not left to the caller: %v", name, err)
		}
	}
	if _, err := OpenSessionFile(-1); err == nil {
		t.Error("session from -1: accepted")
	}
	if _, err := CreateMemfd("test", -1); err == nil {
		t.Error("a memfd of -1 bytes was made")
	}
	fd, err := unix.Dup(s.Fd())
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenSessionFile(fd)
	if err != nil {
		t.Fatal(err)
	}
	if again.Lane(Lanes - 1).Done = 5; s.Lane(Lanes-1).Done != 5 {
		t.Error("the two mappings differ")
	}
	again.Close()
}

// TestStatusIsSetOnce checks that the first error stays, with its reason, and wakes sleepers.
func TestStatusIsSetOnce(t *testing.T) {
	s, _ := newSession(t)
	woken := make(chan error, 2)
	sleepers := []*uint32{&s.Lane(3).Waiting, &s.Consumer().SpaceBell}
	atomic.StoreUint32(sleepers[0], 9)
	for _, w := range sleepers {
		v := atomic.LoadUint32(w)
		go func() {
			for atomic.LoadUint32(w) == v {
				if err := FutexWait(w, v, 10*time.Second); err != nil {
					woken <- err
					return
				}
			}
			woken <- nil
		}()
	}
	if !s.SetError(719, ReasonFault) || s.SetError(999, ReasonBadRecord) {
		t.Error("the first error was not kept")
	}
	if st := s.Status(); st.Error != 719 || st.ErrorReason != ReasonFault {
		t.Errorf("status %+v", *st)
	}
	for range sleepers {
		if err := <-woken; err != nil {
			t.Errorf("a sleeper was not woken: %v", err)
		}
	}
}

// TestWakeLane wakes a waiter whose number is reached, across the wrap, and no other.
func TestWakeLane(t *testing.T) {
	s, _ := newSession(t)
	w := &s.Lane(5).Waiting
	for _, c := range []struct {
		waiting, done uint32
		want          bool
	}{{0, 7, false}, {8, 7, false}, {7, 7, true}, {5, 7, true}, {0xfffffffe, 1, true}, {2, 0xffffffff, false}} {
		atomic.StoreUint32(w, c.waiting)
		if got := s.WakeLane(5, c.done); got != c.want || (got && *w != 0) || (!got && *w != c.waiting) {
			t.Errorf("waiting %d, done %d: woke %v, word %d", c.waiting, c.done, got, *w)
		}
	}
}

// TestDoorbell wakes a sleeper, refuses to sleep when there is work, and keeps to its timeout.
func TestDoorbell(t *testing.T) {
	_, d := newSession(t)
	start := time.Now()
	d.Sleep(func() bool { return false }, 10*time.Millisecond)
	if took := time.Since(start); took < 10*time.Millisecond {
		t.Errorf("slept %v with nothing to do; expected 10ms", took)
	}
	d.Sleep(func() bool { return true }, 20*time.Second)
	looked, back := make(chan struct{}), make(chan struct{})
	go func() {
		d.Sleep(func() bool { close(looked); return false }, 20*time.Second)
		close(back)
	}()
	<-looked
	d.Ring() // the sleeper has said so before it looked: this must reach it wherever it is now
	select {
	case <-back:
	case <-time.After(10 * time.Second):
		t.Fatal("a ring between the look and the sleep was lost")
	}
	if atomic.LoadUint32(&d.words.Sleeping) != 0 {
		t.Error("sleeping is still set")
	}
	bell := atomic.LoadUint32(&d.words.Bell)
	if d.Ring(); atomic.LoadUint32(&d.words.Bell) != bell {
		t.Error("the bell of an awake executor was rung")
	}
}

// TestFutexErrors covers the outcomes of a wait other than being woken.
func TestFutexErrors(t *testing.T) {
	var w uint32
	if err := FutexWait(&w, 1, 20*time.Second); err != nil {
		t.Errorf("a changed word: %v", err)
	}
	if err := FutexWait(&w, 0, time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("nobody woke: %v; expected ErrTimeout", err)
	}
	if n := FutexWake(&w, 1); n != 0 {
		t.Errorf("woke %d; expected nobody", n)
	}
}

// TestWaitSpaceErrors covers the outcomes of a wait for space other than room.
func TestWaitSpaceErrors(t *testing.T) {
	s, d := newSession(t)
	p := newProducer(t, s, d)
	c := NewConsumer(s)
	for _, bytes := range []int{0, -1, maxRecord + 1} {
		if err := p.WaitSpace(bytes, 0); !errors.Is(err, ErrRecordSize) {
			t.Errorf("%d bytes: %v; expected ErrRecordSize", bytes, err)
		}
	}
	if _, _, ok := p.Begin(Header{Kind: KindPut, Deps: make([]Dep, MaxDeps+1)}, 16); ok {
		t.Error("too many dependencies were taken")
	}
	h := Header{Kind: KindPut, Lane: 1, Seq: 1}
	for {
		body, _, ok := p.Begin(h, 16+MaxInlineBytes)
		if !ok {
			break
		}
		Put(body, InlineCopy{Bytes: MaxInlineBytes})
	}
	need := RecordBytes(0, 16+MaxInlineBytes)
	if err := p.WaitSpace(need, 5*time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("full ring: %v; expected ErrTimeout", err)
	}
	if s.Producer().SpaceWaiting != 0 {
		t.Error("space_waiting is still set")
	}
	p.Floor = 0
	for {
		v, ok, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		c.Release(v.End, true)
	}
	if err := p.WaitSpace(need, 20*time.Second); !errors.Is(err, ErrFloor) {
		t.Errorf("own floor: %v; expected ErrFloor", err)
	}
	p.Floor = NoFloor
	if err := p.WaitSpace(need, 20*time.Second); err != nil {
		t.Errorf("empty ring: %v", err)
	}
	for _, head := range []uint64{p.published + 16, p.published - 2*RingBytes} {
		atomic.StoreUint64(&s.Consumer().Head, head)
		if err := p.WaitSpace(need, 20*time.Second); !errors.Is(err, ErrHead) {
			t.Errorf("head %d of %d published: %v; expected ErrHead", head, p.published, err)
		}
	}
	if _, err := NewProducer(s, d); err == nil {
		t.Error("a producer started on a ring whose head is nonsense")
	}
}

// TestAbandonFreesProducer checks that a producer never waits for a session that was given up.
func TestAbandonFreesProducer(t *testing.T) {
	s, d := newSession(t)
	p := newProducer(t, s, d)
	c := NewConsumer(s)
	for {
		if _, _, ok := p.Begin(Header{Kind: KindPut, Lane: 1, Seq: 1}, 1000); !ok {
			break
		}
	}
	waited := make(chan error, 1)
	go func() { waited <- p.WaitSpace(RecordBytes(0, 1000), 20*time.Second) }()
	for atomic.LoadUint32(&s.Producer().SpaceWaiting) == 0 {
		select {
		case err := <-waited:
			t.Fatalf("a full ring has room: %v", err)
		default:
			runtime.Gosched()
		}
	}
	c.Abandon()
	if err := <-waited; err != nil {
		t.Errorf("the producer still waits: %v", err)
	}
	if _, _, err := c.Next(); err == nil {
		t.Error("an abandoned ring still gives records")
	}
}
