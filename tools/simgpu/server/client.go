package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// client is one process that uses the simulated GPU: its connection and
// everything it owns. One goroutine reads its messages, in order.
type client struct {
	srv  *Server
	conn *net.UnixConn
	kind uint64
	pid  int
	name string // of the program
	id   uint64

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	writeMu sync.Mutex
	out     []byte

	statsMu   sync.Mutex // held while the status page is read, or goes
	statusMem []byte
	names     []string // entry points, in the order of the status page's call counts

	space space

	mu        sync.Mutex
	contexts  map[uint64]*deviceContext
	streams   map[uint64]*stream
	zombies   []*stream // destroyed, with work left
	events    map[uint64]*event
	handles   map[uint64]*object // cuMemCreate, cuMemImport
	imageIDs  map[uint64]*image
	instances map[uint64]*instance
	arena     arena
	callbacks []*callback
	hungry    []uint64 // tags of OpNextCallback that wait
	calling   map[uint64]*callback

	backlog atomic.Int64 // bytes of ops that are not done
	host    hostClocks
	watches atomic.Bool  // it can see in its memory how far the device has come
	thread  uint16       // that sent the request which is handled; the reader's
	inUse   atomic.Int64 // ops not done
	ops     sync.WaitGroup
	count   counters
}

// maxWrite is how long a client may leave an answer unread before it is cut off.
const maxWrite = 30 * time.Second

// maxBacklog bounds what a client can have queued before it is cut off.
const maxBacklog = 512 << 20

func newClient(s *Server, conn *net.UnixConn) *client {
	c := &client{srv: s, conn: conn, id: s.nextID.Add(1), contexts: map[uint64]*deviceContext{}, streams: map[uint64]*stream{},
		events: map[uint64]*event{}, handles: map[uint64]*object{}, imageIDs: map[uint64]*image{},
		instances: map[uint64]*instance{}, calling: map[uint64]*callback{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// serve reads messages until the client is gone, then frees what it had.
func (c *client) serve() {
	defer c.teardown()
	buf := make([]byte, wire.MaxMessage+1)
	oob := make([]byte, unix.CmsgSpace(4*8))
	var req wire.Request
	for {
		n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		fd := takeFD(oob[:oobn])
		err = wire.Decode(buf[:n], &req)
		if err == nil {
			err = c.handle(&req, fd)
		}
		if fd >= 0 {
			unix.Close(fd)
		}
		if err != nil {
			c.srv.logf("client %d (%s): %v; disconnected", c.pid, c.name, err)
			return
		}
	}
}

// takeFD returns the first descriptor of a control message, closes the others; -1 without.
func takeFD(oob []byte) int {
	if len(oob) == 0 {
		return -1
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	first := -1
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if first < 0 {
				first = fd
				unix.CloseOnExec(fd)
			} else {
				unix.Close(fd)
			}
		}
	}
	return first
}

// reply answers a request; tag 0 wants none. file, if any, travels along and is closed.
func (c *client) reply(tag uint64, status uint32, args []uint64, blob []byte, file *os.File) {
	if file != nil {
		defer file.Close()
	}
	if tag == 0 {
		return
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.out = wire.AppendReply(c.out[:0], tag, status, args, blob)
	var oob []byte
	c.conn.SetWriteDeadline(time.Now().Add(maxWrite))
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	if _, _, err := c.conn.WriteMsgUnix(c.out, oob, nil); err != nil {
		c.conn.Close() // the reader ends the client
	}
}

// status answers with a code only.
func (c *client) status(tag uint64, code uint32) { c.reply(tag, code, nil, nil, nil) }

// hello takes a client in.
func (c *client) hello(req *wire.Request) error {
	if c.pid != 0 {
		return fmt.Errorf("a second HELLO")
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("peer credentials: %w", err)
	}
	c.pid, c.kind = int(cred.Pid), req.Args[2]
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.pid)); err == nil {
		c.name = strings.TrimSpace(string(comm))
	}
	if req.Args[0] != wire.Version {
		c.status(req.Tag, errUnknown)
		return fmt.Errorf("protocol version %#x, this server speaks %#x: build libcuda.so.1 and simgpu together", req.Args[0], wire.Version)
	}
	if c.kind == wire.KindControl {
		c.status(req.Tag, success)
		return nil
	}
	var probe [8]byte
	if err := readProcess(c.pid, req.Args[3], probe[:]); err != nil || binary.LittleEndian.Uint64(probe[:]) != wire.StatusMagic {
		c.status(req.Tag, errOperatingSystem)
		return fmt.Errorf("cannot read the client's memory: %v", err)
	}
	if !c.arena.init(req.Args[4], req.Args[5]) {
		c.status(req.Tag, errInvalidValue)
		return fmt.Errorf("arena %#x+%#x is not usable", req.Args[4], req.Args[5])
	}
	f, mem, err := sealedFile("simgpu-status", wire.StatusSize)
	if err != nil {
		c.status(req.Tag, errOutOfMemory)
		return fmt.Errorf("status page: %w", err)
	}
	binary.LittleEndian.PutUint64(mem, wire.StatusMagic)
	if names := strings.TrimSuffix(string(req.Blob), "\n"); names != "" {
		c.names = strings.Split(names, "\n")
	}
	c.srv.mu.Lock()
	c.statusMem = mem
	c.srv.writeRules(c)
	c.srv.mu.Unlock()
	c.reply(req.Tag, success, []uint64{uint64(len(c.srv.devices)), c.srv.opt.Memory, uint64(os.Getpid())}, nil, f)
	return nil
}

// word gives a u32 of the status page.
func (c *client) word(off int) []byte { return c.statusMem[off : off+4] }

// finished publishes the last finished sequence number of a stream.
func (c *client) finished(slot, seq uint64) {
	off := wire.StatusDone + 8*int(slot)
	w := c.statusMem[off : off+8]
	if load(w) < seq {
		store(w, seq)
	}
}

// teardown ends all work of a client that is gone and frees its memory.
func (c *client) teardown() {
	c.conn.Close()
	c.cancel()
	c.ops.Wait()
	c.mu.Lock()
	for _, d := range c.contexts {
		c.dropContext(d)
	}
	for _, o := range c.handles {
		o.release()
	}
	c.handles = nil
	for _, seg := range c.space.clear() {
		seg.drop()
	}
	for _, im := range c.imageIDs {
		c.srv.releaseImage(im)
	}
	for _, cb := range c.calling {
		close(cb.done)
	}
	c.mu.Unlock()
	c.srv.remove(c)
	c.srv.forgetEvents(c)
	// Every op has published by now.
	c.statsMu.Lock()
	if c.statusMem != nil {
		unix.Munmap(c.statusMem)
		c.statusMem = nil
	}
	c.statsMu.Unlock()
}

// guard runs f and turns a panic (a fault in memory that a client cut short, or
// a bug) into an error, so that the server lives.
func (s *Server) guard(what string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			s.logf("%s: %v\n%s", what, p, debug.Stack())
			err = fmt.Errorf("simgpu: %s: internal error: %v", what, p)
		}
	}()
	return f()
}
