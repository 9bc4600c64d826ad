package executor

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

const (
	testWindow = uint64(0x2000_0000_0000)
	testHost   = uint64(0x2800_0000_0000)
	windowStep = uint64(1) << 32
	patience   = 20 * time.Second
)

// testImage is PTX that jit/image understands; the fake driver knows its kernels by name.
const testImage = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry check(.param .u64 a) { ret; }\n.visible .entry forever(.param .u64 a) { ret; }\n.visible .entry other(.param .u64 a) { ret; }\n"

const statefulImage = testImage + ".global .u32 counter;\n"

// daemon plays the daemon's part towards one executor.
type daemon struct {
	t      testing.TB
	conn   *shm.Conn
	bell   *shm.Doorbell
	result chan error
	faults chan shm.Message
	pid    int // of an executor that is a process

	mu      sync.Mutex
	request uint32
	waiting map[uint32]chan shm.Message
}

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// start runs an executor on a driver.
func start(t testing.TB, open func() (Driver, Facts, error), bell *shm.Doorbell, change func(*Config)) *daemon {
	t.Helper()
	conn, fd, err := shm.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if bell == nil {
		if bell, err = shm.CreateDoorbell(); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{t: t, conn: conn, bell: bell, result: make(chan error, 1), faults: make(chan shm.Message, 4), waiting: map[uint32]chan shm.Message{}}
	c := Config{ControlFd: fd, DeviceUUID: "fake", Log: quietLog(), IssueThreads: 2, open: open}
	if change != nil {
		change(&c)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		d.result <- Run(context.Background(), c)
	}()
	d.listen()
	t.Cleanup(func() {
		d.conn.Close()
		<-over
	})
	return d
}

// listen hands replies to whoever asked.
func (d *daemon) listen() {
	conn := d.conn
	go func() {
		for {
			m, err := conn.Recv(time.Time{})
			if err != nil {
				return
			}
			if m.Type == shm.TypeFault {
				d.faults <- m
				continue
			}
			d.mu.Lock()
			c := d.waiting[m.Request]
			delete(d.waiting, m.Request)
			d.mu.Unlock()
			if c != nil {
				c <- m
			}
		}
	}()
}

// send sends a request and returns where its reply will come.
func (d *daemon) send(m shm.Message) chan shm.Message {
	d.t.Helper()
	c := make(chan shm.Message, 1)
	d.mu.Lock()
	d.request++
	m.Request = d.request
	d.waiting[m.Request] = c
	d.mu.Unlock()
	if m.Body == nil {
		m.Body = make([]byte, shm.BodyBytes(m.Type, false))
	}
	if err := d.conn.Send(m); err != nil {
		d.t.Fatalf("%s: %v", shm.TypeName(m.Type), err)
	}
	return c
}

func (d *daemon) wait(c chan shm.Message) shm.Message {
	d.t.Helper()
	select {
	case m := <-c:
		return m
	case err := <-d.result:
		d.t.Fatalf("the executor ended: %v", err)
	case <-time.After(patience):
		d.t.Fatal("no reply")
	}
	return shm.Message{}
}

func (d *daemon) do(m shm.Message) shm.Message { d.t.Helper(); return d.wait(d.send(m)) }

// must fails the test unless the reply is OK.
func (d *daemon) must(m shm.Message) shm.Message {
	d.t.Helper()
	r := d.do(m)
	if r.Status != shm.StatusOK {
		d.t.Fatalf("%s: status %d: %s", shm.TypeName(m.Type), r.Status, r.Tail)
	}
	return r
}

// end waits for the executor's end.
func (d *daemon) end() error {
	d.t.Helper()
	select {
	case err := <-d.result:
		return err
	case <-time.After(patience):
		d.t.Fatal("the executor did not end")
	}
	return nil
}

func memfd(t testing.TB, b []byte, size int) int {
	t.Helper()
	fd, err := shm.CreateSealedMemfd("test", int64(size))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 {
		if _, err := unix.Pwrite(fd, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// image gives the executor an image.
func (d *daemon) image(id uint64, text string) {
	d.t.Helper()
	fd := memfd(d.t, []byte(text), len(text))
	d.must(shm.Message{Type: shm.TypeImage, Body: shm.Encode(shm.Image{Bytes: uint64(len(text)), ImageID: id}), Fds: []int{fd}})
}

// tester plays one client.
type tester struct {
	t      testing.TB
	d      *daemon
	id     uint64
	file   *shm.SessionFile
	ring   *shm.Producer
	window uint64
	memory []byte // the client's view of its segment
	fd     int    // of the segment
	seq    [shm.Lanes]uint32
}

const segmentBytes = 4 << 20

func (d *daemon) client(id uint64) *tester {
	d.t.Helper()
	file, err := shm.CreateSessionFile(id)
	if err != nil {
		d.t.Fatal(err)
	}
	c := d.session(id, file, memfd(d.t, nil, segmentBytes))
	if c.memory, err = unix.Mmap(c.fd, 0, segmentBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		unix.Munmap(c.memory)
		file.Close()
	})
	c.attach(d)
	return c
}

// session is a client with a segment behind fd that is not attached yet.
func (d *daemon) session(id uint64, file *shm.SessionFile, fd int) *tester {
	d.t.Helper()
	c := &tester{t: d.t, d: d, id: id, file: file, window: testWindow + id*windowStep, fd: fd}
	var err error
	if c.ring, err = shm.NewProducer(file, d.bell); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// attach gives the session to an executor, as the daemon does at first and after a restart: ATTACH, SEGMENT, RESUME. Kernels come
// between.
func (c *tester) attach(d *daemon) {
	c.d = d
	d.must(c.attaching())
	d.must(c.segment(c.window))
}

// attaching is the session's ATTACH, segment a SEGMENT with its memory at an address.
func (c *tester) attaching() shm.Message {
	window := shm.Encode(shm.Range{Address: c.window, Bytes: windowStep})
	return shm.Message{Type: shm.TypeAttach, ClientID: c.id, Tail: window, Fds: []int{c.file.Fd(), c.d.bell.Fd()},
		Body: shm.Encode(shm.Attach{ClientID: c.id, PID: uint32(os.Getpid()), UID: uint32(os.Getuid()), HostBase: testHost + c.id*windowStep, HostBytes: windowStep, Windows: 1})}
}

func (c *tester) segment(address uint64) shm.Message {
	return shm.Message{Type: shm.TypeSegment, ClientID: c.id, Body: shm.Encode(shm.Range{Address: address, Bytes: segmentBytes}), Fds: []int{c.fd}}
}

// get reads device memory through the ring.
func (c *tester) get(lane uint32, address uint64, bytes int) []byte {
	c.t.Helper()
	seq, room := putAt(c, shm.KindGet, lane, shm.InlineCopy{Address: address, Bytes: uint64(bytes)}, make([]byte, bytes), nil)
	c.mustSync(lane, seq)
	return append([]byte(nil), room[:bytes]...)
}

func (c *tester) kernel(image uint64, id uint32, name string) {
	c.t.Helper()
	c.d.must(shm.Message{Type: shm.TypeKernel, ClientID: c.id, Body: shm.Encode(shm.Kernel{ImageID: image, KernelID: id}), Tail: []byte(name)})
}

func (c *tester) resume() {
	c.t.Helper()
	c.d.must(shm.Message{Type: shm.TypeResume, ClientID: c.id})
}

// put writes a record of an op and returns its number; it waits for room.
func put[T shm.WireStruct](c *tester, kind uint16, lane uint32, v T, payload []byte, change func(*shm.Header)) uint32 {
	c.t.Helper()
	seq, _ := putAt(c, kind, lane, v, payload, change)
	return seq
}

// putAt also returns the payload's place in the ring.
func putAt[T shm.WireStruct](c *tester, kind uint16, lane uint32, v T, payload []byte, change func(*shm.Header)) (uint32, []byte) {
	c.t.Helper()
	h := shm.Header{Kind: kind, Lane: lane}
	if shm.HasSeq(kind) {
		c.seq[lane]++
		h.Seq = c.seq[lane]
	}
	if change != nil {
		change(&h)
	}
	n := int(unsafe.Sizeof(v)) + len(payload)
	for {
		body, _, ok := c.ring.Begin(h, n)
		if ok {
			at := shm.Put(body, v)
			copy(body[at:], payload)
			return h.Seq, body[at:]
		}
		if err := c.ring.WaitSpace(shm.RecordBytes(len(h.Deps), n), patience); err != nil {
			c.t.Fatalf("client %d: no room in the ring: %v", c.id, err)
		}
	}
}

func (c *tester) launch(kernel, lane uint32, params []byte, change func(*shm.Header)) uint32 {
	c.t.Helper()
	return c.launchGrid(kernel, lane, 1, params, change)
}

func (c *tester) launchGrid(kernel, lane, blocks uint32, params []byte, change func(*shm.Header)) uint32 {
	c.t.Helper()
	l := shm.Launch{Kernel: kernel, GridX: blocks, GridY: 1, GridZ: 1, BlockX: 32, BlockY: 1, BlockZ: 1, ParamBytes: uint32(len(params))}
	return put(c, shm.KindLaunch, lane, l, params, change)
}

func (c *tester) signal(lane, seq uint32) {
	c.bare(shm.Header{Kind: shm.KindSignal, Lane: lane, Seq: seq})
}

func (c *tester) upcoming(lane uint32) { c.bare(shm.Header{Kind: shm.KindUpcoming, Lane: lane}) }

// bare writes a record that has no body and takes no number.
func (c *tester) bare(h shm.Header) {
	c.t.Helper()
	for {
		if _, _, ok := c.ring.Begin(h, 0); ok {
			return
		}
		if err := c.ring.WaitSpace(shm.RecordBytes(0, 0), patience); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *tester) done(lane uint32) uint32 { return atomic.LoadUint32(&c.file.Lane(lane).Done) }

func (c *tester) sticky() (code, reason uint32) {
	st := c.file.Status()
	code = atomic.LoadUint32(&st.Error)
	return code, atomic.LoadUint32(&st.ErrorReason)
}

// sync waits on the host as libheddle.so does, with a SIGNAL first.
func (c *tester) sync(lane, seq uint32) error {
	c.t.Helper()
	c.signal(lane, seq)
	c.ring.Publish()
	return c.await(lane, seq)
}

var errSticky = errors.New("sticky error")

func (c *tester) await(lane, seq uint32) error {
	w := c.file.Lane(lane)
	end := time.Now().Add(patience)
	for time.Now().Before(end) {
		if shm.Reached(atomic.LoadUint32(&w.Done), seq) {
			return nil
		}
		atomic.StoreUint32(&w.Waiting, seq)
		if shm.Reached(atomic.LoadUint32(&w.Done), seq) {
			return nil
		}
		if code, _ := c.sticky(); code != 0 {
			return errSticky
		}
		_ = shm.FutexWait(&w.Waiting, seq, 100*time.Millisecond)
	}
	c.t.Fatalf("client %d lane %d: %d is not done, the word says %d (issued %d)", c.id, lane, seq, c.done(lane), atomic.LoadUint32(&w.Issued))
	return nil
}

func (c *tester) mustSync(lane, seq uint32) {
	c.t.Helper()
	if err := c.sync(lane, seq); err != nil {
		code, reason := c.sticky()
		c.t.Fatalf("client %d lane %d number %d: error %d, reason %d", c.id, lane, seq, code, reason)
	}
}

func (c *tester) detach() shm.Message {
	c.t.Helper()
	return c.d.do(shm.Message{Type: shm.TypeDetach, ClientID: c.id})
}

// until waits for a condition that another process brings about.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

func u64s(v ...uint64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

func unlimited() *atomic.Uint32 {
	var v atomic.Uint32
	v.Store(1 << 20)
	return &v
}
