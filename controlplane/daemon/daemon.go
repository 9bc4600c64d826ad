// Package daemon is Heddle's supervisor: it gives clients their sessions, keeps
// everything an executor needs to be replaced, and replaces it when it dies. It
// never touches the driver; docs/protocol.md is its contract with both sides.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/deathwatch"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
	"github.com/heddle-gpu/heddle/shm"
)

// ErrAnotherDaemon means that the runtime folder belongs to a daemon that runs.
var ErrAnotherDaemon = errors.New("another daemon serves this folder")

// executorLinger is how long an executor stays without clients: starting one
// costs 0.3 s and a context.
const executorLinger = 60 * time.Second

// Config is what a daemon is started with.
type Config struct {
	Dir        string        // runtime folder, prepared (runtimedir.Prepare)
	Executable string        // this binary, for executors
	Version    string        // shown by ps
	IdleExit   time.Duration // leave after so long without clients; 0: never
	PolicyPath string        // file of the admin's policy (policy.Path); it need not exist
	Metrics    string        // HOST:PORT of metrics and the page, read-only; "": only the control socket has metrics
	// MetricsOpen lets other machines reach Metrics; without it only a loopback address is taken.
	MetricsOpen bool
	Log         *slog.Logger
	// Ready is called once, when clients can connect.
	Ready func()
	// Activated holds sockets that systemd made: client first, control second. nil: make them.
	Activated []int
}

// Daemon supervises. One Run a Daemon.
type Daemon struct {
	config Config
	log    *slog.Logger
	uid    uint32
	since  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	deaths *deathwatch.Watcher
	device addressSpace
	host   addressSpace
	files  *fileBudget

	policies   policies
	watched    cached[admin.Status] // for metrics and the page, which may ask often
	viewers    string               // where the TCP listener is; "": none
	nextClient atomic.Uint64
	draining   atomic.Bool
	activity   chan struct{} // somebody left, or drain was asked: look whether to leave

	mu    sync.Mutex
	slots map[slotKey]*slot
	conns map[*shm.Conn]struct{}
	wg    sync.WaitGroup
}

// Run serves until ctx ends, a drain is complete, or the idle time is over.
func Run(ctx context.Context, config Config) error {
	d := &Daemon{
		config: config, log: config.Log, uid: uint32(os.Getuid()), since: time.Now(),
		device: addressSpace{base: deviceBase, limit: deviceLimit}, host: addressSpace{base: hostBase, limit: hostLimit},
		activity: make(chan struct{}, 1), slots: map[slotKey]*slot{}, conns: map[*shm.Conn]struct{}{},
	}
	d.ctx, d.cancel = context.WithCancel(ctx)
	defer d.cancel()
	d.files = newFileBudget(raiseFileLimit(d.log))
	d.watched.keep, d.watched.ask = watchedFor, func() admin.Status { return d.status(statsPatience) }

	if err := d.loadPolicy(); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(config.Dir, runtimedir.LockFile))
	if err != nil {
		return err
	}
	defer unlock()
	if d.deaths, err = deathwatch.New(); err != nil {
		return err
	}
	defer d.deaths.Close()
	clients, control, err := d.listen()
	if err != nil {
		return err
	}
	defer clients.Close()
	server := &http.Server{Handler: d.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, MaxHeaderBytes: 1 << 14}
	if config.Metrics != "" {
		l, err := d.listenViewers()
		if err != nil {
			control.Close()
			return err
		}
		d.viewers = l.Addr().String()
		defer d.serveViewers(l).Close()
		d.log.Info("metrics and the page", "at", "http://"+d.viewers+"/")
	}
	go server.Serve(control)
	defer server.Close()
	go d.accept(clients)
	go d.watchPolicy()
	if config.Ready != nil {
		config.Ready()
	}
	d.log.Info("daemon serves", "dir", config.Dir, "version", config.Version, "pid", os.Getpid())
	d.wait()
	clients.Close()
	d.shutdown()
	d.log.Info("daemon left")
	return nil
}

// listen makes or takes up both sockets. A socket file that a dead daemon left
// is removed: the lock says that it is dead.
func (d *Daemon) listen() (*shm.Listener, net.Listener, error) {
	if fds := d.config.Activated; len(fds) > 0 {
		if len(fds) != 2 {
			return nil, nil, fmt.Errorf("socket activation gave %d sockets; expected 2: the client socket and the control socket, in that order", len(fds))
		}
		clients, err := shm.ListenFd(fds[0])
		if err != nil {
			return nil, nil, fmt.Errorf("activated client socket: %w", err)
		}
		f := os.NewFile(uintptr(fds[1]), runtimedir.AdminSocket)
		control, err := net.FileListener(f)
		f.Close()
		if err != nil {
			clients.Close()
			return nil, nil, fmt.Errorf("activated control socket: %w", err)
		}
		return clients, control, nil
	}
	clientPath := filepath.Join(d.config.Dir, runtimedir.ClientSocket)
	controlPath := filepath.Join(d.config.Dir, runtimedir.AdminSocket)
	for _, p := range []string{clientPath, controlPath} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
	}
	mode := os.FileMode(0o600)
	if d.uid == 0 {
		mode = 0o666 // whoever connects is told apart by the kernel's credentials
	}
	control, err := net.Listen("unix", controlPath)
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(controlPath, 0o600); err != nil {
		control.Close()
		return nil, nil, err
	}
	clients, err := shm.Listen(clientPath, mode)
	if err != nil {
		control.Close()
		return nil, nil, err
	}
	return clients, control, nil
}

func (d *Daemon) accept(l *shm.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of fds: the clients that are here must not suffer for it.
			d.log.Error("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-d.ctx.Done():
				return
			}
		}
		d.mu.Lock()
		d.conns[conn] = struct{}{}
		d.mu.Unlock()
		d.wg.Go(func() {
			d.serve(conn)
			d.mu.Lock()
			delete(d.conns, conn)
			d.mu.Unlock()
		})
	}
}

// slotFor returns the slot of a GPU and user, making it if there is none that lives.
func (d *Daemon) slotFor(key slotKey) (*slot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sl := d.slots[key]; sl != nil {
		if !sl.isClosed() {
			return sl, nil
		}
		go sl.retire() // executors did not live in it: its clients finish alone, what it held is given back
	}
	sl, err := newSlot(key, d.log, d.files, func(sl *slot) (*executorProcess, error) {
		return startExecutor(d.config.Executable, sl, d.log, d.policies.current.Load().Daemon.MaxKernelTime)
	})
	if err != nil {
		return nil, err
	}
	d.slots[key] = sl
	return sl, nil
}

// touch makes wait look again.
func (d *Daemon) touch() {
	select {
	case d.activity <- struct{}{}:
	default:
	}
}

// wait returns when the daemon should leave.
func (d *Daemon) wait() {
	idleSince := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		busy := false
		d.mu.Lock()
		for key, sl := range d.slots {
			since := sl.empty()
			if since.IsZero() {
				busy = true
			} else if time.Since(since) > executorLinger {
				delete(d.slots, key)
				go sl.retire()
			}
		}
		d.mu.Unlock()
		if busy {
			idleSince = time.Now()
		}
		switch {
		case d.draining.Load() && !busy:
			return
		case d.config.IdleExit > 0 && !busy && time.Since(idleSince) > d.config.IdleExit:
			d.log.Info("no client for a while: leaving", "after", d.config.IdleExit)
			return
		}
		select {
		case <-d.ctx.Done():
			return
		case <-d.activity:
		case <-tick.C:
		}
	}
}

// shutdown lets executors finish what was submitted; clients go on alone.
func (d *Daemon) shutdown() {
	d.draining.Store(true)
	d.mu.Lock()
	slots := d.slots
	d.slots = map[slotKey]*slot{}
	d.mu.Unlock()
	var wg sync.WaitGroup
	for _, sl := range slots {
		wg.Go(sl.retire)
	}
	wg.Wait()
	d.cancel()
	d.mu.Lock()
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// status is everything `heddle ps` shows. Executors that do not give their counters within patience are shown without.
func (d *Daemon) status(patience time.Duration) admin.Status {
	st := admin.Status{Version: d.config.Version, Pid: os.Getpid(), Since: d.since, Draining: d.draining.Load(), Metrics: d.viewers, Clients: []admin.Client{}, Executors: []admin.Executor{}}
	d.mu.Lock()
	slots := make([]*slot, 0, len(d.slots))
	for _, sl := range d.slots {
		slots = append(slots, sl)
	}
	d.mu.Unlock()
	executors, clients := make([]admin.Executor, len(slots)), make([][]admin.Client, len(slots))
	var wg sync.WaitGroup
	for i, sl := range slots {
		wg.Go(func() { executors[i], clients[i] = sl.report(patience) })
	}
	wg.Wait()
	st.Executors = append(st.Executors, executors...)
	for _, cs := range clients {
		st.Clients = append(st.Clients, cs...)
	}
	sort.Slice(st.Clients, func(i, j int) bool { return st.Clients[i].ID < st.Clients[j].ID })
	sort.Slice(st.Executors, func(i, j int) bool {
		a, b := st.Executors[i], st.Executors[j]
		return a.GPU < b.GPU || a.GPU == b.GPU && a.UID < b.UID
	})
	return st
}

// lock takes the folder for this daemon; the kernel gives it back when we die.
func lock(path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s; see it with: heddle ps", ErrAnotherDaemon, strings.TrimSuffix(path, "/"+runtimedir.LockFile))
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func() { unix.Close(fd) }, nil
}

// raiseFileLimit asks for as many open files as may be had, and gives how many that are: every memory segment of every client is one.
func raiseFileLimit(log *slog.Logger) uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024 // what a kernel gives without being asked
	}
	had := l.Cur
	if l.Cur = l.Max; had < l.Max {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			log.Warn("open files", "limit", had, "wanted", l.Max, "error", err)
			return had
		}
	}
	return l.Cur
}
