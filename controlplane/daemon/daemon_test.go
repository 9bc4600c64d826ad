package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
	"github.com/heddle-gpu/heddle/shm"
)

// TestAHelloOutlivesAnExecutor: a client that comes at the very moment at which the executor ends is served by the next one, as is who was
// there before.
func TestAHelloOutlivesAnExecutor(t *testing.T) {
	for _, end := range []string{"untold", "told"} {
		t.Run(end, func(t *testing.T) {
			t.Setenv("FAKE_EXECUTOR_ENDS_AT_ATTACH", end)
			h := start(t)
			first := h.dial()
			eventually(t, "live", func() bool { return first.state() == shm.StateLive })
			second := h.dial()
			segment, err := shm.CreateSealedMemfd("segment", segmentAlign)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(segment)
			second.must(t, shm.TypeSegment, shm.Encode(shm.Range{Address: second.welcome.WindowBase, Bytes: segmentAlign}), nil, segment)
			for _, c := range []*client{first, second} {
				eventually(t, "served by the second executor", func() bool {
					return c.state() == shm.StateLive && atomic.LoadUint32(&c.file.Status().Epoch) == 2
				})
			}
			if told := h.told(); strings.Count(told, "RESUME client=2") != 1 || !strings.Contains(told, "SEGMENT client=2") {
				t.Errorf("the second executor was told:\n%s", told)
			}
		})
	}
}

// TestARefusedClientLeavesNothing: what the executor took of a client before it refused a step of its attach, it is told to give back.
func TestARefusedClientLeavesNothing(t *testing.T) {
	t.Setenv("FAKE_EXECUTOR_REFUSES", "1")
	h := start(t)
	first := h.dial()
	eventually(t, "live", func() bool { return first.state() == shm.StateLive })
	if c, err := dial(h.dir); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Fatalf("a client that the executor refuses is answered with %v, %v", c, err)
	}
	third := h.dial()
	eventually(t, "live", func() bool { return third.state() == shm.StateLive })
	told := h.told()
	for _, want := range []string{"ATTACH client=2", "DETACH client=2", "RESUME client=3"} {
		_, rest, found := strings.Cut(told, want)
		if !found {
			t.Fatalf("the executor was told, from %q on:\n%s", want, told)
		}
		told = rest
	}
}

func TestASuccessorIsToldEverything(t *testing.T) {
	h := start(t)
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })

	fd, err := shm.CreateSealedMemfd("segment", segmentAlign)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at := c.welcome.WindowBase + 4*segmentAlign
	gone := at + 8*segmentAlign
	c.must(t, shm.TypeSegment, shm.Encode(shm.Range{Address: at, Bytes: segmentAlign}), nil, fd)
	c.must(t, shm.TypeSegment, shm.Encode(shm.Range{Address: gone, Bytes: segmentAlign}), nil, fd)
	c.must(t, shm.TypeSegmentDrop, shm.Encode(shm.Range{Address: gone, Bytes: segmentAlign}), nil)
	m := c.must(t, shm.TypeHostSegment, shm.Encode(shm.Range{Bytes: 5000}), nil)
	hostRange, _ := shm.Decode[shm.Range](m.Body)
	if len(m.Fds) != 1 || hostRange.Bytes != 8192 || hostRange.Address < c.welcome.HostBase {
		t.Fatalf("host segment %+v with %d fds", hostRange, len(m.Fds))
	}
	m.CloseFds()
	img := c.image(t, "code")
	for i, name := range []string{"first", "second"} {
		m := c.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: img}), []byte(name))
		if k, _ := shm.Decode[shm.Kernel](m.Body); k.KernelID != uint32(i+1) {
			t.Fatalf("kernel id %d", k.KernelID)
		}
	}
	m, err = c.ask(shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: img}), []byte("refuse"))
	if err != nil || m.Status != shm.StatusRefused || string(m.Tail) != "it prints" {
		t.Fatalf("%v %v %s", err, m.Status, m.Tail)
	}
	c.must(t, shm.TypeFuncAttr, shm.Encode(shm.Setting{KernelID: 2, What: 8, Value: 99}), nil)
	c.must(t, shm.TypeLimit, shm.Encode(shm.Setting{What: 0, Value: 4096}), nil)

	// The fourth kernel kills the first executor in the middle of the request.
	m = c.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: img}), []byte("die"))
	if k, _ := shm.Decode[shm.Kernel](m.Body); k.KernelID != 4 {
		t.Fatalf("kernel id %d", k.KernelID)
	}
	if c.state() != shm.StateLive || atomic.LoadUint32(&c.file.Status().Epoch) != 2 {
		t.Fatalf("state %d epoch %d", c.state(), c.file.Status().Epoch)
	}
	told := h.told()
	for _, want := range []string{
		"ATTACH client=1 fds=2", fmt.Sprintf("SEGMENT client=1 fds=1 %#x+0x200000 file=%d", at, inode(fd)), fmt.Sprintf("HOST_SEGMENT client=1 fds=1 %#x+0x2000", hostRange.Address),
		`IMAGE client=0 fds=1 id=1 content=`, "image=1 kernel=1 name=first", "image=1 kernel=2 name=second", "image=1 kernel=4 name=die",
		"FUNC_ATTR client=1 fds=0 kernel=2 what=8 value=99", "LIMIT client=1 fds=0 kernel=0 what=0 value=4096", "RESUME client=1",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("the successor was not told %q; it heard:\n%s", want, told)
		}
	}
	for _, not := range []string{fmt.Sprintf("%#x", gone), "name=refuse"} {
		if strings.Contains(told, not) {
			t.Errorf("the successor heard %q", not)
		}
	}
}

func TestLostGlobalsAreAnErrorAndNotASurprise(t *testing.T) {
	h := start(t)
	c := h.dial()
	img := c.image(t, "code")
	c.must(t, shm.TypeGlobal, shm.Encode(shm.Kernel{ImageID: img}), []byte("counter"))
	c.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: img}), []byte("die"))
	st := c.file.Status()
	if atomic.LoadUint32(&st.Error) != cudaErrorLaunchFailed || atomic.LoadUint32(&st.ErrorReason) != shm.ReasonLostGlobals {
		t.Fatalf("error %d reason %d", st.Error, st.ErrorReason)
	}
}

func TestWhoFaultsGetsTheFaultsOwnCode(t *testing.T) {
	h := start(t)
	guilty, other := h.dial(), h.dial()
	eventually(t, "both live", func() bool { return guilty.state() == shm.StateLive && other.state() == shm.StateLive })
	img := guilty.image(t, "code")
	guilty.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: img}), []byte("fault"))
	st := guilty.file.Status()
	if atomic.LoadUint32(&st.Error) != 700 || atomic.LoadUint32(&st.ErrorReason) != shm.ReasonFault {
		t.Errorf("error %d reason %d; expected 700 and FAULT", st.Error, st.ErrorReason)
	}
	if code := atomic.LoadUint32(&other.file.Status().Error); code != 0 {
		t.Errorf("the other client got error %d", code)
	}
}

func TestImagesAreSharedByContentAndCheckedByTheDaemon(t *testing.T) {
	h := start(t)
	a, b := h.dial(), h.dial()
	id := a.image(t, "the same")
	if got := b.image(t, "the same"); got != id {
		t.Fatalf("image ids %d and %d", id, got)
	}
	// A client that announces one content and sends another.
	lie := shm.Image{Hash0: 1, Hash1: 2, Bytes: 4}
	m, err := a.ask(shm.TypeImageQuery, shm.Encode(lie), nil)
	if err != nil || m.Status != shm.StatusNeed {
		t.Fatal(err, m.Status)
	}
	unix.Pwrite(m.Fds[0], []byte("evil"), 0)
	m.CloseFds()
	if m, err = a.ask(shm.TypeImageFilled, shm.Encode(lie), nil); err != nil || m.Status == shm.StatusOK {
		t.Fatal("a false hash was accepted", err)
	}
	// A client that keeps a writable mapping could change the bytes afterwards.
	bytes4 := []byte("good")
	img := shm.Image{Hash0: shm.Hash64(bytes4, 0), Hash1: shm.Hash64(bytes4, 1), Bytes: 4}
	if m, err = a.ask(shm.TypeImageQuery, shm.Encode(img), nil); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(m.Fds[0], 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(mem, bytes4)
	m.CloseFds()
	if m, err = a.ask(shm.TypeImageFilled, shm.Encode(img), nil); err != nil || m.Status == shm.StatusOK {
		t.Fatal("an image with a writable mapping was accepted", err)
	}
	unix.Munmap(mem)
}

func TestBadRequestsAreRefusedAndCostNothing(t *testing.T) {
	h := start(t)
	c := h.dial()
	fd, err := shm.CreateSealedMemfd("segment", segmentAlign)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	w := c.welcome.WindowBase
	c.must(t, shm.TypeSegment, shm.Encode(shm.Range{Address: w, Bytes: segmentAlign}), nil, fd)
	for name, r := range map[string]shm.Range{
		"outside": {Address: w - segmentAlign, Bytes: segmentAlign}, "odd": {Address: w + 4096, Bytes: segmentAlign}, "empty": {Address: w + segmentAlign},
		"overlap": {Address: w, Bytes: 2 * segmentAlign}, "overflow": {Address: ^uint64(0) &^ (segmentAlign - 1), Bytes: segmentAlign}, "huge": {Address: w, Bytes: 1 << 63},
	} {
		m, err := c.ask(shm.TypeSegment, shm.Encode(r), nil, fd)
		if err != nil || m.Status != shm.StatusInvalid || len(m.Tail) == 0 {
			t.Errorf("%s: %v %s %q", name, err, statusName(m.Status), m.Tail)
		}
	}
	for _, typ := range []uint16{shm.TypeSegmentDrop, shm.TypeHostSegmentDrop} {
		if m, err := c.ask(typ, shm.Encode(shm.Range{Address: w + segmentAlign, Bytes: segmentAlign}), nil); err != nil || m.Status != shm.StatusInvalid {
			t.Errorf("%s: %v %d", shm.TypeName(typ), err, m.Status)
		}
	}
	for _, tail := range [][]byte{nil, bytes.Repeat([]byte("x"), maxNameBytes+1)} {
		if m, err := c.ask(shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: 1}), tail); err != nil || m.Status == shm.StatusOK {
			t.Errorf("kernel name of %d bytes: %v %d", len(tail), err, m.Status)
		}
	}
	if m, err := c.ask(shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: 77}), []byte("k")); err != nil || m.Status == shm.StatusOK {
		t.Error("a kernel of an unknown image", err)
	}
	if m, err := c.ask(shm.TypeFuncAttr, shm.Encode(shm.Setting{KernelID: 9}), nil); err != nil || m.Status == shm.StatusOK {
		t.Error("an attribute of an unknown kernel", err)
	}
	if m, err := c.ask(shm.TypeHostSegment, shm.Encode(shm.Range{Bytes: 1 << 50}), nil); err != nil || m.Status != shm.StatusNoMemory {
		t.Error("an endless host segment", err)
	}
	// What only the daemon says to an executor.
	if m, err := c.ask(shm.TypeResume, nil, nil); err != nil || m.Status != shm.StatusInvalid {
		t.Error("RESUME from a client", err)
	}
	// The session still works.
	c.must(t, shm.TypeSegment, shm.Encode(shm.Range{Address: w + segmentAlign, Bytes: segmentAlign}), nil, fd)
}

// The executor reserves a window when its client gets it, and its successor does too; one that the executor cannot reserve is nobody's.
func TestWindowsAreTheExecutorsTooAtOnce(t *testing.T) {
	h := start(t)
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })
	ask := func(bytes uint64) (shm.Message, shm.Range) {
		m, err := c.ask(shm.TypeWindow, shm.Encode(shm.Range{Bytes: bytes}), nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := shm.Decode[shm.Range](m.Body)
		if err != nil {
			t.Fatal(err)
		}
		return m, r
	}
	m, w := ask(1)
	told := fmt.Sprintf("%#x+%#x", w.Address, w.Bytes)
	if m.Status != shm.StatusOK || w.Bytes < minWindow || !strings.Contains(h.told(), "WINDOW client=1 fds=0 "+told) {
		t.Fatalf("status %s, window %+v; the executor heard:\n%s", statusName(m.Status), w, h.told())
	}
	for range 2 { // the addresses are free again
		if m, _ := ask(refusedWindow); m.Status != shm.StatusCUDA || string(m.Tail) != "something is there" {
			t.Fatalf("status %s: %s", statusName(m.Status), m.Tail)
		}
	}
	c.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: c.image(t, "code")}), []byte("die"))
	heard := h.told()
	if first := fmt.Sprintf("%#x+", c.welcome.WindowBase); !strings.Contains(heard, "ATTACH client=1 fds=2 "+first) || strings.Count(heard, told) != 1 ||
		strings.Contains(heard, fmt.Sprintf("+%#x", uint64(refusedWindow))) {
		t.Errorf("the successor heard:\n%s\nexpected the windows at %#x and %s", heard, c.welcome.WindowBase, told)
	}
}

func TestHelloOfAnotherBuildIsRefusedWithTheRemedy(t *testing.T) {
	h := start(t)
	conn, err := shm.Dial(filepath.Join(h.dir, runtimedir.ClientSocket), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &client{conn: conn}
	m, err := c.ask(shm.TypeHello, shm.Encode(shm.Hello{Version: shm.Version, LayoutHash: 1}), nil)
	if err != nil || m.Status != shm.StatusVersion || !strings.Contains(string(m.Tail), "heddle drain") {
		t.Fatalf("%v %d %s", err, m.Status, m.Tail)
	}
}

func TestClientDeathIsSeenWhileAForkedChildHoldsTheSocket(t *testing.T) {
	h := start(t)
	// The shell is the socket's holder's parent: we kill the client itself.
	cmd := exec.Command(os.Args[0], "client", h.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var id, file uint64
	if _, err := fmt.Fscan(out, &id, &file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the executor has the session", func() bool {
		s, err := h.conn.Status(context.Background())
		return err == nil && len(s.Clients) == 1 && s.Clients[0].State == slotLive
	})
	held := pidfdGetfd(t, cmd.Process.Pid) // as a forked child would
	defer closeFds(held)
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the session is gone", func() bool {
		s, err := h.conn.Status(context.Background())
		return err == nil && len(s.Clients) == 0
	})
	if told := h.told(); !strings.Contains(told, fmt.Sprintf("DETACH client=%d", id)) {
		t.Errorf("the executor was not told; it heard:\n%s", told)
	}
	// Its session file serves again, with nothing of it inside.
	eventually(t, "a client gets its file", func() bool {
		c := h.dial()
		if inode(c.file.Fd()) != file {
			return false
		}
		if !c.file.Of(c.welcome.ClientID) || bytes.Contains(c.file.RingBytes(), []byte("left behind")) {
			t.Error("the file is not as a new one")
		}
		return true
	})
}

// pidfdGetfd duplicates every socket of a process into this one.
func pidfdGetfd(t *testing.T, pid int) []int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var held []int
	for _, e := range entries {
		var n int
		fmt.Sscan(e.Name(), &n)
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, n)); strings.HasPrefix(to, "socket:") {
			if fd, err := unix.PidfdGetfd(pidfd, n, 0); err == nil {
				held = append(held, fd)
			}
		}
	}
	if len(held) == 0 {
		t.Fatal("the client has no socket to hold")
	}
	return held
}

func TestAddressesAreGivenBack(t *testing.T) {
	h := start(t)
	a := h.dial()
	first := a.welcome.WindowBase
	b := h.dial()
	if b.welcome.WindowBase == first || b.welcome.HostBase == a.welcome.HostBase {
		t.Fatal("two clients share a window")
	}
	a.close()
	eventually(t, "one client left", func() bool {
		s, err := h.conn.Status(context.Background())
		return err == nil && len(s.Clients) == 1
	})
	eventually(t, "the window is used again", func() bool {
		c, err := dial(h.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		return c.welcome.WindowBase == first
	})
}

func TestASecondDaemonIsRefused(t *testing.T) {
	h := start(t)
	err := Run(context.Background(), Config{Dir: h.dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if !errors.Is(err, ErrAnotherDaemon) {
		t.Fatal(err)
	}
	h.dial() // the first one still serves
}

func TestStopTellsClientsToFinishAlone(t *testing.T) {
	h := start(t)
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })
	h.end()
	if c.state() != shm.StateClosed {
		t.Fatalf("state %d after the daemon left", c.state())
	}
}

func TestExecutorsThatCannotLiveAreGivenUp(t *testing.T) {
	t.Setenv("FAKE_EXECUTOR_FAILS", "no device here")
	h := start(t)
	c, err := dial(h.dir)
	if err != nil {
		// The executors were given up before the hello came: then the hello says why.
		if !strings.Contains(err.Error(), "no device here") {
			t.Fatal(err)
		}
		return
	}
	defer c.close()
	eventually(t, "closed", func() bool { return c.state() == shm.StateClosed })
	if m, err := c.ask(shm.TypeHostSegment, shm.Encode(shm.Range{Bytes: 4096}), nil); err != nil || m.Status != shm.StatusClosing {
		t.Fatalf("%v %d", err, m.Status)
	}
}

func TestAGivenUpSlotIsGivenBack(t *testing.T) {
	t.Setenv("FAKE_EXECUTOR_FAILS", "no device here")
	h := start(t)
	fds := func() int { return countFds() }
	var before int
	for i := range 8 {
		if c, err := dial(h.dir); err == nil {
			eventually(t, "closed", func() bool { return c.state() == shm.StateClosed })
			c.close()
		}
		if i == 1 {
			before = fds()
		}
	}
	eventually(t, "every slot but the last given back", func() bool { return fds() <= before+2 })
}

func TestIdleExit(t *testing.T) {
	left := make(chan struct{})
	h := start(t, func(c *Config) { c.IdleExit = 50 * time.Millisecond })
	go func() {
		for listensAt(h.dir) {
			time.Sleep(10 * time.Millisecond)
		}
		close(left)
	}()
	select {
	case <-left:
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon stays without clients")
	}
}

func listensAt(dir string) bool {
	c, err := shm.Dial(filepath.Join(dir, runtimedir.ClientSocket), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func TestDrainWaitsForTheLastClient(t *testing.T) {
	h := start(t)
	c := h.dial()
	if err := h.conn.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(h.dir); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Fatalf("a new client: %v", err)
	}
	c.image(t, "still served")
	c.close()
	eventually(t, "the daemon left", func() bool { return !listensAt(h.dir) })
}

func TestSilentAndBabblingConnections(t *testing.T) {
	h := start(t)
	for range 64 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(h.dir, runtimedir.ClientSocket)}); err != nil {
			t.Fatal(err)
		}
		unix.Write(fd, bytes.Repeat([]byte{0xff}, 100))
		unix.Close(fd)
	}
	h.dial().image(t, "fine")
}
