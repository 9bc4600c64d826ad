package shm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pairOf is a Conn and the raw descriptor at its other end.
func pairOf(t testing.TB) (*Conn, int) {
	t.Helper()
	c, fd, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		unix.Close(fd)
	})
	return c, fd
}

// soon is a deadline that only a broken test reaches.
func soon() time.Time { return time.Now().Add(10 * time.Second) }

// rawPacket is a packet with any header.
func rawPacket(h MessageHeader, rest int) []byte {
	return append(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), messageHeaderBytes)...), make([]byte, rest)...)
}

// TestRecvRefuses sends packets that the wire does not know, each with descriptors, and counts descriptors before and after.
func TestRecvRefuses(t *testing.T) {
	c, fd := pairOf(t)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	good := MessageHeader{Magic: MessageMagic, Type: TypeKernel}
	body := BodyBytes(TypeKernel, false)
	with := func(change func(*MessageHeader)) MessageHeader {
		h := good
		change(&h)
		return h
	}
	before := openFds()
	for _, p := range []struct {
		name   string
		packet []byte
		fds    int
		want   string
	}{
		{"too short for a header", make([]byte, messageHeaderBytes-1), 1, "expected 24 to 32768"},
		{"empty", nil, 1, "expected 24 to 32768"},
		{"magic", rawPacket(with(func(h *MessageHeader) { h.Magic++ }), body), 1, "magic"},
		{"type 0", rawPacket(with(func(h *MessageHeader) { h.Type = 0 }), body), 1, "does not exist"},
		{"type unknown", rawPacket(with(func(h *MessageHeader) { h.Type = 99 }), body), 1, "does not exist"},
		{"reply unknown", rawPacket(with(func(h *MessageHeader) { h.Type = 99 | ReplyBit }), body), 1, "does not exist"},
		{"body cut", rawPacket(good, body-1), 1, "come to another number"},
		{"body long", rawPacket(good, body+1), 1, "come to another number"},
		{"tail cut", rawPacket(with(func(h *MessageHeader) { h.TailBytes = 9 }), body+8), 1, "come to another number"},
		{"tail huge", rawPacket(with(func(h *MessageHeader) { h.TailBytes = 0xffffffff }), body), 1, "come to another number"},
		{"tail wraps", rawPacket(with(func(h *MessageHeader) { h.TailBytes = uint32(0xffffffff - body + 1) }), 0), 1, "come to another number"},
		{"too long", rawPacket(with(func(h *MessageHeader) { h.TailBytes = uint32(MessageBytes + 1 - messageHeaderBytes - body) }), MessageBytes+1-messageHeaderBytes), 1, "expected 24 to 32768"},
		{"far too long", make([]byte, 2*MessageBytes), 1, "longer than"},
		{"too many fds", rawPacket(good, body), MessageFds + 1, "more than 4 fds"},
		{"very many fds", rawPacket(good, body), 200, "more than 4 fds"},
	} {
		fds := make([]int, p.fds)
		for i := range fds {
			fds[i] = null
		}
		if err := unix.Sendmsg(fd, p.packet, unix.UnixRights(fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
		m, err := c.Recv(soon())
		if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), p.want) {
			t.Errorf("%s: message %+v, error %v; expected one with %q", p.name, m, err, p.want)
		}
	}
	if after := openFds(); len(after) != len(before) {
		t.Errorf("descriptors: %d before, %d after: %v", len(before), len(after), after)
	}
	// The connection itself is still in step, and closing it is the caller's decision.
	if err := unix.Sendmsg(fd, rawPacket(good, body), nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Recv(soon()); err != nil || m.Type != TypeKernel {
		t.Errorf("after all that: %+v, %v", m, err)
	}
}

// TestSendRefuses tries to send what the other side would refuse.
func TestSendRefuses(t *testing.T) {
	c, fd := pairOf(t)
	for name, m := range map[string]Message{
		"type":          {Type: 99},
		"body":          {Type: TypeKernel, Body: make([]byte, 3)},
		"tail":          {Type: TypeBye, Tail: make([]byte, MessageBytes)},
		"fds":           {Type: TypeBye, Fds: make([]int, MessageFds+1)},
		"fd not open":   {Type: TypeBye, Fds: []int{1 << 20}},
		"reply of body": {Type: TypeAttach | ReplyBit, Body: make([]byte, 8)},
	} {
		if err := c.Send(m); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	full := Message{Type: TypeBye, Tail: make([]byte, MessageBytes-messageHeaderBytes)}
	if err := c.Send(full); err != nil {
		t.Errorf("a message of exactly %d bytes: %v", MessageBytes, err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(Message{Type: TypeBye}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("peer gone: %v; expected EPIPE", err)
	}
}

// TestSendToOneWhoDoesNotRead fills the socket; Send must give up.
func TestSendToOneWhoDoesNotRead(t *testing.T) {
	old := sendTimeout
	sendTimeout = 50 * time.Millisecond
	defer func() { sendTimeout = old }()
	c, _ := pairOf(t)
	m := Message{Type: TypeBye, Tail: make([]byte, 30000)}
	for i := 0; ; i++ {
		if err := c.Send(m); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %d messages: %v; expected a deadline", i, err)
			}
			return
		}
		if i > 10000 {
			t.Fatal("the socket never fills")
		}
	}
}

// TestRecvEnds covers the ends of a connection: deadline, hang-up, hang-up with unread data, close on this side.
func TestRecvEnds(t *testing.T) {
	c, fd := pairOf(t)
	if _, err := c.Recv(time.Now().Add(time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing came: %v", err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(soon()); !errors.Is(err, io.EOF) {
		t.Errorf("hang-up: %v", err)
	}
	d, other, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Send(Message{Type: TypeBye}); err != nil {
		t.Fatal(err)
	}
	o, err := NewConn(other)
	if err != nil {
		t.Fatal(err)
	}
	o.Close() // with a message unread, the kernel resets
	if _, err := d.Recv(soon()); !errors.Is(err, io.EOF) {
		t.Errorf("hang-up with unread data: %v", err)
	}
	e, _ := pairOf(t)
	go e.Close()
	if _, err := e.Recv(soon()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed here: %v", err)
	}
}

// TestDescriptorsTravel sends the most descriptors and checks that they arrive close-on-exec, and that TakeFds is exact.
func TestDescriptorsTravel(t *testing.T) {
	c, fd := pairOf(t)
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewConn(dup)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	s, d := newSession(t)
	m := Message{Type: TypeAttach, ClientID: 4, Body: Encode(Attach{ClientID: 4, PID: 5}), Fds: []int{s.Fd(), d.Fd(), s.Fd(), d.Fd()}}
	if err := c.Send(m); err != nil {
		t.Fatal(err)
	}
	got, err := o.Recv(soon())
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range got.Fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("fd %d: flags %d, %v; expected close-on-exec", fd, flags, err)
		}
	}
	first := got.Fds[0]
	if _, err := got.TakeFds(2); !errors.Is(err, ErrProtocol) || got.Fds != nil {
		t.Errorf("4 fds taken as 2: %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(first), unix.F_GETFD, 0); err == nil {
		t.Error("refused fds are still open")
	}
	reply := got.Reply(StatusOK, nil)
	reply.Tail = []byte("attached")
	if err := o.Send(reply); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Recv(soon()); err != nil || r.Type != TypeAttach|ReplyBit || r.ClientID != 4 || string(r.Tail) != "attached" {
		t.Errorf("reply %+v, %v", r, err)
	}
	if _, err := Decode[Attach](make([]byte, 3)); !errors.Is(err, ErrProtocol) {
		t.Errorf("decoded 3 bytes: %v", err)
	}
}

// TestListen connects through a path and asks who is there.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v; expected mode 0600", st, err)
	}
	if _, err := Listen(path, 0o600); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second listener: %v; expected EADDRINUSE", err)
	}
	accepted := make(chan *Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	c, err := Dial(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := <-accepted
	defer a.Close()
	p, err := a.Peer()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.PidFD)
	if p.PID != os.Getpid() || p.UID != os.Getuid() || p.GID != os.Getgid() {
		t.Errorf("peer %+v; expected this process", p)
	}
	if err := unix.PidfdSendSignal(p.PidFD, 0, nil, 0); err != nil {
		t.Errorf("the pidfd does not reach the peer: %v", err)
	}
	l.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the path is still there: %v", err)
	}
	if _, err := Dial(path, time.Second); err == nil {
		t.Error("connected to nobody")
	}
	if _, err := Listen("", 0o600); err == nil {
		t.Error("listened on no path")
	}
}

// TestListenFd takes a listening socket over, as from socket activation, and refuses others.
func TestListenFd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 5)); err != nil {
		t.Fatal(err)
	}
	l, err := ListenFd(fd)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the path belongs to whoever made it, and is gone: %v", err)
	}
	stream, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stream)
	if _, err := ListenFd(stream); err == nil {
		t.Error("a stream socket was taken")
	}
	if _, err := NewConn(stream); err == nil {
		t.Error("a stream socket was taken as a connection")
	}
	for _, f := range []func(int) error{func(fd int) error { _, err := ListenFd(fd); return err }, func(fd int) error { _, err := NewConn(fd); return err }} {
		if err := f(-1); err == nil {
			t.Error("fd -1 was taken")
		}
	}
}

// TestChannelInC talks to heddle_channel_connect, send and recv through c/test/channel.c: an echo with descriptors, then the errors
// that the C side must see.
func TestChannelInC(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	program := buildC(t, "channel", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
	l, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(program, path)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Wait(); err != nil {
			t.Errorf("channel: %v\n%s", err, out.String())
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, _ := newSession(t)
	for i := range 100 {
		tail := bytes.Repeat([]byte{byte(i)}, i*300)
		image := Image{Hash0: uint64(i), Hash1: 2, Bytes: 3, ImageID: 4}
		if err := c.Send(Message{Type: TypeImage, Status: StatusNeed, Request: uint32(i), ClientID: 9, Body: Encode(image), Tail: tail, Fds: []int{s.Fd(), s.Fd()}[:i%3]}); err != nil {
			t.Fatal(err)
		}
		m, err := c.Recv(soon())
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode[Image](m.Body)
		if err != nil || back != image || m.Type != TypeImage|ReplyBit || m.Status != StatusNeed || m.Request != uint32(i) || m.ClientID != 9 || !bytes.Equal(m.Tail, tail) || len(m.Fds) != i%3 {
			t.Fatalf("echo %d: %+v of %d bytes with %d fds, %v", i, back, len(m.Tail), len(m.Fds), err)
		}
		m.CloseFds()
	}
	if err := c.Send(Message{Type: TypeBye}); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Recv(soon()); err != io.EOF {
		t.Errorf("after BYE: %+v, %v", m, err)
	}
}

// TestHashVectors checks the Go implementation against published XXH64 values, and C against Go on every length around the block
// boundaries, unaligned.
func TestHashVectors(t *testing.T) {
	for _, c := range []struct {
		data string
		seed uint64
		want uint64
	}{
		{"", 0, 0xef46db3751d8e999},
		{"a", 0, 0xd24ec4f1a98c6e5b},
		{"abc", 0, 0x44bc2cf5ad770999},
		{"Nobody inspects the spammish repetition", 0, 0xfbcea83c8a378bf1},
		{"xxhash", 0, 0x32dd38952c4bc720},
		{"xxhash", 20141025, 0xb559b98d844e0635},
	} {
		if got := Hash64([]byte(c.data), c.seed); got != c.want {
			t.Errorf("%q seed %d: %#x; expected %#x", c.data, c.seed, got, c.want)
		}
	}
	cmd := exec.Command(buildC(t, "hash"))
	var in bytes.Buffer
	var want []string
	for n := range 200 {
		for _, seed := range []uint64{0, 1, 1 << 63} {
			data := make([]byte, n)
			x := uint64(n + 1)
			for i := range data {
				data[i] = byte(xorshift(&x))
			}
			_ = binary.Write(&in, binary.LittleEndian, []uint64{uint64(n), seed})
			in.Write(data)
			want = append(want, fmt.Sprintf("%016x", Hash64(data, seed)))
		}
	}
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Fields(string(out)) {
		if line != want[i] {
			t.Fatalf("length %d, seed no. %d: C %s, Go %s", i/3, i%3, line, want[i])
		}
	}
	if got := len(strings.Fields(string(out))); got != len(want) {
		t.Errorf("C gave %d hashes of %d", got, len(want))
	}
}
