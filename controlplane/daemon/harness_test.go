package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
	"github.com/heddle-gpu/heddle/shm"
)

// This binary stands in for `heddle executor` (and, for tests of deaths, for a
// client process): what is under test is the supervisor's side of the wire.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "executor" {
		os.Exit(fakeExecutor())
	}
	if len(os.Args) > 2 && os.Args[1] == "client" {
		os.Exit(clientProcess(os.Args[2]))
	}
	before := countFds()
	code := m.Run()
	if after := countFds(); code == 0 && after > before {
		fmt.Fprintf(os.Stderr, "fds leaked: %d before, %d after\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func countFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		// The runtime's own epoll and eventfd come with the first socket.
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

// fakeExecutor answers every request with OK and keeps what it was told, which
// STATS gives away. A kernel named "die" ends it; "refuse" is refused.
// refusedWindow is the size of a window whose addresses the fake executor cannot reserve.
const refusedWindow = 4 << 40

func fakeExecutor() int {
	conn, err := shm.NewConn(3)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if f := os.Getenv("FAKE_EXECUTOR_FAILS"); f != "" {
		fmt.Fprintln(os.Stderr, f)
		return 2
	}
	var told bytes.Buffer
	files := map[uint64]*shm.SessionFile{}
	guilty := map[uint64]uint32{} // client → its kernel named "guilty"
	deadly := map[uint64]bool{}   // clients with a kernel named "deadly"
	for {
		m, err := conn.Recv(time.Time{})
		if err != nil {
			return 0
		}
		status, body, tail := uint16(shm.StatusOK), []byte(nil), []byte(nil)
		line := fmt.Sprintf("%s client=%d fds=%d", shm.TypeName(m.Type), m.ClientID, len(m.Fds))
		switch m.Type {
		case shm.TypeAttach:
			f, err := shm.OpenSessionFile(m.Fds[0])
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			files[m.ClientID] = f
			m.Fds = m.Fds[1:]
			for at := 0; at+32 <= len(m.Tail); at += 32 {
				r, _ := shm.Decode[shm.Range](m.Tail[at : at+32])
				line += fmt.Sprintf(" %#x+%#x", r.Address, r.Bytes)
			}
			if end := os.Getenv("FAKE_EXECUTOR_ENDS_AT_ATTACH"); end != "" && m.ClientID == 2 && f.Status().Epoch < 2 {
				if end == "told" {
					_ = conn.Send(m.Reply(shm.StatusClosing, nil))
				}
				return 3
			}
		case shm.TypeWindow, shm.TypeSegment, shm.TypeHostSegment, shm.TypeSegmentDrop, shm.TypeHostSegmentDrop:
			r, _ := shm.Decode[shm.Range](m.Body)
			if m.Type == shm.TypeWindow && r.Bytes == refusedWindow {
				status, tail = shm.StatusCUDA, []byte("something is there")
			}
			line += fmt.Sprintf(" %#x+%#x", r.Address, r.Bytes)
			if len(m.Fds) == 1 {
				line += fmt.Sprintf(" file=%d", inode(m.Fds[0]))
			}
			body = m.Body
		case shm.TypeImage:
			r, _ := shm.Decode[shm.Image](m.Body)
			b := make([]byte, r.Bytes)
			unix.Pread(m.Fds[0], b, 0)
			line += fmt.Sprintf(" id=%d content=%q", r.ImageID, b)
			body = m.Body
		case shm.TypeKernel:
			r, _ := shm.Decode[shm.Kernel](m.Body)
			line += fmt.Sprintf(" image=%d kernel=%d name=%s", r.ImageID, r.KernelID, m.Tail)
			body = m.Body
			switch string(m.Tail) {
			case "die":
				if files[m.ClientID].Status().Epoch < 2 { // the successor survives it
					return 3
				}
			case "guilty":
				guilty[m.ClientID] = r.KernelID
			case "deadly":
				deadly[m.ClientID] = true
			case "company": // a fault while kernel 1 of everybody was in one launch
				if files[m.ClientID].Status().Epoch < 2 {
					var ids, joined []byte
					for id := range files {
						ids = binary.LittleEndian.AppendUint64(ids, id)
						joined = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(joined, id), 1)
					}
					fault := shm.Encode(shm.Fault{CUDAResult: 700, Clients: uint32(len(files)), Apart: uint32(len(files))})
					if err := conn.Send(shm.Message{Type: shm.TypeFault, Body: fault, Tail: append(append(ids, joined...), "an illegal memory access"...)}); err != nil {
						return 1
					}
					return 3
				}
			case "fault":
				if files[m.ClientID].Status().Epoch < 2 {
					words := append(binary.LittleEndian.AppendUint64(nil, m.ClientID), "an illegal memory access"...)
					fault := shm.Encode(shm.Fault{CUDAResult: 700, Clients: 1, Blamed: m.ClientID})
					if err := conn.Send(shm.Message{Type: shm.TypeFault, Body: fault, Tail: words}); err != nil {
						return 1
					}
					return 3
				}
			case "refuse":
				status, tail = shm.StatusRefused, []byte("it prints")
			}
		case shm.TypeTrial:
			if k := guilty[m.ClientID]; k != 0 {
				// Its answers may overtake its last words.
				if err := conn.Send(m.Reply(shm.StatusClosing, nil)); err != nil {
					return 1
				}
				time.Sleep(20 * time.Millisecond)
				fault := shm.Encode(shm.Fault{CUDAResult: 700, Clients: 1, Blamed: m.ClientID, Kernel: k})
				if err := conn.Send(shm.Message{Type: shm.TypeFault, Body: fault, Tail: binary.LittleEndian.AppendUint64(nil, m.ClientID)}); err != nil {
					return 1
				}
				return 3
			}
		case shm.TypeResume:
			if os.Getenv("FAKE_EXECUTOR_REFUSES") != "" && m.ClientID == 2 {
				status, tail = shm.StatusNoMemory, []byte("no memory")
			}
			if deadly[m.ClientID] && atomic.LoadUint32(&files[m.ClientID].Status().Error) == 0 {
				return 3
			}
		case shm.TypeApart:
			r, _ := shm.Decode[shm.Setting](m.Body)
			line += fmt.Sprintf(" kernel=%d", r.KernelID)
		case shm.TypeGlobal:
			body = shm.Encode(shm.Range{Address: 0x7000, Bytes: 8})
		case shm.TypeGraph, shm.TypeGraphDrop:
			r, _ := shm.Decode[shm.Graph](m.Body)
			line += fmt.Sprintf(" graph=%d nodes=%d bytes=%d", r.GraphID, r.Nodes, r.Bytes)
			if len(m.Fds) == 1 {
				line += fmt.Sprintf(" file=%d", inode(m.Fds[0]))
			}
			body = m.Body
			switch r.Nodes {
			case 13:
				status, tail = shm.StatusRefused, []byte("node 3 is no node")
			case 14:
				if files[m.ClientID].Status().Epoch < 2 {
					return 3
				}
			case 15:
				if files[m.ClientID].Status().Epoch >= 2 {
					status, tail = shm.StatusRefused, []byte("out of memory")
				}
			}
		case shm.TypeFuncAttr, shm.TypeLimit:
			r, _ := shm.Decode[shm.Setting](m.Body)
			line += fmt.Sprintf(" kernel=%d what=%d value=%d", r.KernelID, r.What, r.Value)
			body = m.Body
		case shm.TypeClass:
			c, _ := shm.Decode[shm.Class](m.Body)
			line += fmt.Sprintf(" name=%s priority=%d latency=%d flags=%d", m.Tail, c.Priority, c.Latency, c.Flags)
		case shm.TypeCodes: // five rows, two at a time
			c, _ := shm.Decode[shm.Codes](m.Body)
			var rows []string
			for i := c.From; i < min(c.From+2, 5); i++ {
				rows = append(rows, fmt.Sprintf(`{"id":%d,"client":%d}`, i, m.ClientID))
			}
			next := c.From + 2
			if next >= 5 {
				next = 0
			}
			body, tail = shm.Encode(shm.Codes{From: next, Total: 5}), []byte("["+strings.Join(rows, ",")+"]")
		case shm.TypeStats:
			tail = []byte(`{"told":` + quote(told.String()) + `}`)
			if path := os.Getenv("FAKE_EXECUTOR_STATS"); path != "" {
				if tail, err = os.ReadFile(path + string(m.Tail)); err != nil { // a file for each page
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
				if string(tail) == "hang" {
					m.CloseFds()
					continue // it never answers
				}
			}
		}
		m.CloseFds()
		fmt.Fprintln(&told, line)
		reply := m.Reply(status, body)
		reply.Tail = tail
		if err := conn.Send(reply); err != nil {
			return 0
		}
	}
}

// inode says which file a descriptor names; 0 when it names none.
func inode(fd int) uint64 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

// clientProcess says hello, tells its parent, and waits to be killed.
func clientProcess(dir string) int {
	c, err := dial(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	copy(c.file.RingBytes(), "left behind")
	fmt.Println(c.welcome.ClientID, inode(c.file.Fd()))
	_, _ = c.conn.Recv(time.Time{}) // in use, so that no finalizer closes it
	return 0
}

type harness struct {
	t    *testing.T
	dir  string
	conn *admin.Conn
	end  func()
}

func start(t *testing.T, change ...func(*Config)) *harness {
	t.Helper()
	dir, err := os.MkdirTemp("", "hd") // short: socket paths are bounded
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	config := Config{Dir: dir, Executable: os.Args[0], Version: "test", Ready: func() { close(ready) }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if testing.Verbose() {
		config.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for _, f := range change {
		f(&config)
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the daemon ended: %v", err)
	}
	var once sync.Once
	h := &harness{t: t, dir: dir, conn: admin.DialDir(dir)}
	h.end = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Error("the daemon does not leave")
			}
			os.RemoveAll(dir)
		})
	}
	t.Cleanup(h.end)
	return h
}

// client is a Go stand-in for libheddle.so's side of the socket.
type client struct {
	conn    *shm.Conn
	file    *shm.SessionFile
	bell    *shm.Doorbell
	welcome shm.Welcome
	request uint32
}

func dial(dir string) (*client, error) {
	conn, err := shm.Dial(filepath.Join(dir, runtimedir.ClientSocket), time.Second)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn}
	hello := shm.Hello{Version: shm.Version, PID: uint32(os.Getpid()), LayoutHash: shm.LayoutHash, DeviceUUID: [16]byte{1, 2, 3}, DeviceBytes: 80 << 30}
	copy(hello.Label[:], "a\x1blabel")
	m, err := c.ask(shm.TypeHello, shm.Encode(hello), nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if m.Status != shm.StatusOK {
		conn.Close()
		return nil, fmt.Errorf("status %d: %s", m.Status, m.Tail)
	}
	if c.welcome, err = shm.Decode[shm.Welcome](m.Body); err != nil {
		return nil, err
	}
	fds, err := m.TakeFds(2)
	if err != nil {
		return nil, err
	}
	if c.file, err = shm.OpenSessionFile(fds[0]); err != nil {
		return nil, err
	}
	if c.bell, err = shm.OpenDoorbell(fds[1]); err != nil {
		return nil, err
	}
	return c, nil
}

func (h *harness) dial() *client {
	h.t.Helper()
	c, err := dial(h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.close)
	return c
}

func (c *client) close() {
	c.conn.Close()
	if c.file != nil {
		c.file.Close()
		c.bell.Close()
		c.file = nil
	}
}

func (c *client) ask(typ uint16, body, tail []byte, fds ...int) (shm.Message, error) {
	c.request++
	if err := c.conn.Send(shm.Message{Type: typ, Request: c.request, Body: body, Tail: tail, Fds: fds}); err != nil {
		return shm.Message{}, err
	}
	m, err := c.conn.Recv(time.Now().Add(20 * time.Second))
	if err == nil && (m.Request != c.request || m.Type != typ|shm.ReplyBit) {
		err = fmt.Errorf("answer %s %d to request %s %d", shm.TypeName(m.Type), m.Request, shm.TypeName(typ), c.request)
	}
	return m, err
}

func (c *client) must(t *testing.T, typ uint16, body, tail []byte, fds ...int) shm.Message {
	t.Helper()
	m, err := c.ask(typ, body, tail, fds...)
	if err != nil {
		t.Fatal(err)
	}
	if m.Status != shm.StatusOK {
		t.Fatalf("%s: %s: %s", shm.TypeName(typ), statusName(m.Status), m.Tail)
	}
	return m
}

// send gives the daemon an image as libheddle.so does and returns its id.
func (c *client) image(t *testing.T, content string) uint64 {
	t.Helper()
	b := []byte(content)
	img := shm.Image{Hash0: shm.Hash64(b, 0), Hash1: shm.Hash64(b, 1), Bytes: uint64(len(b))}
	m, err := c.ask(shm.TypeImageQuery, shm.Encode(img), nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Status == shm.StatusNeed {
		fds, err := m.TakeFds(1)
		if err != nil {
			t.Fatal(err)
		}
		unix.Pwrite(fds[0], b, 0)
		unix.Close(fds[0])
		m = c.must(t, shm.TypeImageFilled, shm.Encode(img), nil)
	}
	got, err := shm.Decode[shm.Image](m.Body)
	if err != nil || got.ImageID == 0 {
		t.Fatalf("image %+v: %v", got, err)
	}
	return got.ImageID
}

// told is everything that the present executor heard.
func (h *harness) told() string {
	h.t.Helper()
	s, err := h.conn.Status(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range s.Executors {
		b.Write(bytes.ReplaceAll(bytes.ReplaceAll(e.Counters, []byte(`\n`), []byte("\n")), []byte(`\"`), []byte(`"`)))
	}
	return b.String()
}

// eventually waits for a state that another process brings about.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *client) state() uint32 { return atomic.LoadUint32(&c.file.Status().State) }
