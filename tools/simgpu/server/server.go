// Package server is the simulated GPU: it owns device memory, runs the streams
// of all clients, executes their kernels with the PTX interpreter, and keeps a
// virtual clock by a model of the chip. libcuda.so.1 (tools/simgpu/libcuda)
// talks to it over a unix socket; package wire is the protocol.
//
// Lock order: client.mu, then Server.mu, then device.mu; an op's execution
// holds none of them.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// Options of a server; zero values mean the defaults.
type Options struct {
	Devices         int           // GPUs; default 1, at most 16
	Memory          uint64        // bytes of each GPU; default 16 GiB
	ContextBytes    uint64        // device memory that each context costs; default 0
	MaxInstructions uint64        // thread-instructions of one launch before CUDA_ERROR_LAUNCH_TIMEOUT; default 2e9
	Seed            uint64        // order of warps and blocks
	Inject          []Rule        // failures to begin with
	Log             io.Writer     // one line for each notable event; nil: none
	Poll            time.Duration // how often memory words that streams wait for are read; default 50 µs
}

// Server is a simulated machine with GPUs.
type Server struct {
	opt     Options
	devices []*device
	waits   *poller
	exports exports

	mu       sync.Mutex
	listener *net.UnixListener
	clients  map[*client]bool
	past     []ProcessStats // of clients that are gone, oldest first
	images   map[[32]byte]*image
	ipcMem   map[uint64]*ipcMemory
	ipcEvent map[uint64]*event
	rules    []*armed
	rulesGen uint32
	closed   bool
	wg       sync.WaitGroup

	armed   atomic.Int32 // how many rules are in force
	running runningOps
	nextID  atomic.Uint64
}

// maxPastClients bounds how many dead clients the statistics remember.
const maxPastClients = 256

// New makes a server; Serve runs it.
func New(opt Options) (*Server, error) {
	if opt.Devices == 0 {
		opt.Devices = 1
	}
	if opt.Devices < 0 || opt.Devices > 16 {
		return nil, fmt.Errorf("simgpu: %d devices: expected 1 to 16", opt.Devices)
	}
	if opt.Memory == 0 {
		opt.Memory = 16 << 30
	}
	if opt.MaxInstructions == 0 {
		opt.MaxInstructions = 2e9
	}
	if opt.Poll == 0 {
		opt.Poll = 50 * time.Microsecond
	}
	s := &Server{opt: opt, clients: map[*client]bool{}, images: map[[32]byte]*image{}, exports: exports{of: map[fileID]*export{}},
		ipcMem: map[uint64]*ipcMemory{}, ipcEvent: map[uint64]*event{}}
	s.running.ops = map[*op]bool{}
	for i := 0; i < opt.Devices; i++ {
		s.devices = append(s.devices, &device{ordinal: i, total: opt.Memory})
	}
	s.waits = newPoller(opt.Poll)
	for i := range opt.Inject {
		if err := s.addRule(opt.Inject[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// logf writes one line to the log.
func (s *Server) logf(format string, args ...any) {
	if s.opt.Log != nil {
		fmt.Fprintf(s.opt.Log, "simgpu: "+format+"\n", args...)
	}
}

// Listen makes the server's socket at path, replacing a stale one. Only this
// user can connect.
func (s *Server) Listen(path string) error {
	if c, err := net.Dial("unixpacket", path); err == nil {
		c.Close()
		return fmt.Errorf("simgpu: %s: another server listens there", path)
	}
	os.Remove(path)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("simgpu: listening at %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return err
	}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	return nil
}

// Serve accepts clients until ctx ends or Close is called.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed || errors.Is(err, net.ErrClosed) {
				s.wg.Wait()
				return nil
			}
			s.logf("accept: %v", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors: connections must end first
			continue
		}
		c := newClient(s, conn)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			continue
		}
		s.clients[c] = true
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			c.serve()
		}()
	}
}

// Close ends the server and every client's work.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	l := s.listener
	var cs []*client
	for c := range s.clients {
		cs = append(cs, c)
	}
	s.mu.Unlock()
	if l != nil {
		l.Close()
	}
	for _, c := range cs {
		c.conn.Close()
	}
	s.waits.close()
}

// remove forgets a client whose connection ended.
func (s *Server) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	if c.kind == wire.KindClient && c.pid != 0 {
		s.past = append(s.past, c.stats(false))
		if len(s.past) > maxPastClients {
			s.past = s.past[len(s.past)-maxPastClients:]
		}
	}
}
