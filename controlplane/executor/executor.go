// Package executor is the process that owns one GPU context for one user: it reads the rings of all its clients, decides what goes
// next and launches it on the clients' own memory.
//
//	control socket ─► sessions (an actor each) ─► loader thread ── mapping, loading
//	client rings ──► poller thread: scoreboard → policy → word ─► issue threads ── driver ─► GPU
//	                     ▲ lane.done, written by the GPU ───────────────────────────────────┘
//	                 watch thread: faults that no call has told yet, kernels that never end
//
// The poller owns all scheduling state; others reach it through its mailbox. Its loop allocates nothing and takes no lock.
// Source: docs/protocol.md, design.md section 5.
package executor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// Driver is everything an executor asks of a GPU; *gpu.Device is one.
type Driver interface {
	issue.Driver
	GraphDriver
	Reserve(address, bytes uint64) (uint64, error)
	Unreserve(address, bytes uint64) gpu.Result
	Import(fd int) (gpu.Memory, gpu.Result)
	Release(h gpu.Memory) gpu.Result
	Map(address, bytes uint64, h gpu.Memory) gpu.Result
	Unmap(address, bytes uint64) gpu.Result
	HostRegister(address, bytes uint64) (uint64, gpu.Result)
	HostUnregister(address uint64) gpu.Result
	ModuleLoad(image []byte) (gpu.Module, error)
	ModuleUnload(m gpu.Module) gpu.Result
	ModuleFunction(m gpu.Module, name string) (gpu.Function, error)
	ModuleGlobal(m gpu.Module, name string) (address, bytes uint64, err error)
	FuncAttribute(f gpu.Function, attribute int) (int, gpu.Result)
	FuncParamBytes(f gpu.Function) (uint32, bool)
	SetLimit(limit uint32, value uint64) gpu.Result
	GetLimit(limit uint32) (uint64, gpu.Result)
}

// Facts are what the executor needs to know of its device.
type Facts struct {
	Least, Greatest int    // stream priorities
	SharedOptin     uint32 // most shared memory of a block, bytes
	Major, Minor    int    // compute capability
	Chip            cost.Chip
	Driver          string // the driver's full version, for the cache of compiled kernels
}

// Exit codes of the process (docs/protocol.md section 4).
const (
	ExitNoDevice = 2
	ExitFault    = 3
	ExitEndless  = 4
)

// ExitError ends the process with Code. Run has told the daemon already.
type ExitError struct {
	Code int
	Err  error
}

// Error says why.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is the process's exit code for the error that Run returned: 0 for nil, 1 for errors without one of their own.
func ExitCode(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	return 1
}

// Config of Run. The zero value of every field but ControlFd and DeviceUUID is usable.
type Config struct {
	// ControlFd is the executor's end of the daemon's SOCK_SEQPACKET pair; 3 in production. Run takes it over.
	ControlFd int
	// DeviceUUID is the GPU to use, as nvidia-smi prints it.
	DeviceUUID string
	// Log receives what happened, for the daemon's own log; nil: slog.Default.
	Log *slog.Logger
	// IssueThreads is how many threads make driver calls at most; 0: 4, fewer on small machines.
	IssueThreads int
	// Spill is how many commands an issue thread has before another one helps it, up to issue.MaxSpill; 0: issue.DefaultSpill.
	Spill int
	// Nice is the priority (setpriority(2)) that poller and issue threads ask for where they may have it; 0: they stay as they are.
	Nice int
	// MaxKernelTime ends the executor when a stream completes nothing for so long while it holds ops. 0: never.
	MaxKernelTime time.Duration
	// DeadKernelTime is the same bound for ops of clients that are gone; 0: 2 s.
	DeadKernelTime time.Duration
	// Compiler is the command that compiles rewritten kernels (heddle compile); empty: none are made.
	Compiler []string
	// CacheDir is the folder that keeps them, for this user's executors on this machine; "": they are made anew each time.
	CacheDir string
	// LearnedDir is the folder that keeps what was learned of programs' requests and kernels' times; "": every executor learns anew.
	LearnedDir string
	// Tuning of the poller; zero fields take their defaults.
	Tuning Tuning

	// open replaces the real device; loaded sees every kernel before it can be launched. Set by tests in this package.
	open   func() (Driver, Facts, error)
	loaded func(image uint64, name string, k *scoreboard.Kernel)

	gatherForAll bool // Tuning.Gather was set
}

// Tuning holds the poller's bounds. Defaults are chosen for an H100 (measurements.md).
type Tuning struct {
	// WindowAlone and WindowShared bound a lane's ops in flight while its session is the only one with work, and otherwise; ops that
	// take long count for more.
	WindowAlone, WindowShared int
	// SignalAfter is how long the executor must be idle before it asks for done words that nobody waits for.
	SignalAfter time.Duration
	// Progress is how long nothing completes before one more op of every lane is issued, window or not.
	Progress time.Duration
	// Spin is how long poller and issue threads spin without work before they sleep. Linger is the most that the poller and the first of
	// the threads do where clients come back after such gaps (linger.go); where cores are few they never spin longer.
	Spin, Linger time.Duration
	// Gather, when it is set, bounds how long an op of a kernel that others launch too waits for their ops, whatever its class says
	// (max_queue_delay); a quarter of the launch's measured time bounds it as well. While others of its lane are in flight it waits for
	// Busy, which costs nothing. Ahead is how much work of a lane is kept in flight while several clients launch kernels that can be
	// joined: what hides launches and the way of their done words, so that what comes later can still join.
	Gather, Busy, Ahead time.Duration
	// JoinGraphs says when launches of several clients' graphs go as one.
	JoinGraphs Joining
	// Always: ops wait for company and go together whether or not launches are what bounds everybody (word.Options.Calls). Gather, when
	// it is set, means that too.
	Always bool
	// NoRuns: every launch goes by itself, or with those of others; what clients repeat is not looked for.
	NoRuns bool
	// Calm is how long a driver call that holds up every launch of the context, as loading code and registering memory do, waits for
	// a moment in which nothing of other clients is in flight, before it is made beside what runs (calm.go).
	Calm time.Duration
	// Nap is the poller's sleep while ops are in flight or waiting and nothing has happened for NapAfter; then an eighth of the time in
	// which nothing has happened, up to NapMost.
	Nap, NapAfter, NapMost time.Duration
}

// Joining says when launches of several clients' graphs go as one.
type Joining uint8

// When they do: where it is measured to pay, never, or whenever they can.
const (
	JoinWherePaid Joining = iota
	NeverJoin
	AlwaysJoin
)

// Spin and NapAfter, and NapMost, where cores are few.
const (
	crowdedSpin = 20 * time.Microsecond
	crowdedNap  = 500 * time.Microsecond
)

func (c *Config) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	cores := min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) // what a container may use counts
	if c.IssueThreads <= 0 {
		c.IssueThreads = min(4, max(1, cores/3))
	}
	c.IssueThreads = min(c.IssueThreads, issue.MaxThreads)
	set(&c.DeadKernelTime, 2*time.Second)
	if c.Nice == 0 && c.open == nil && cores >= c.IssueThreads+4 {
		c.Nice = -10 // they are few, and every client waits for them
	}
	t := &c.Tuning
	if t.WindowAlone <= 0 {
		t.WindowAlone = dispatch.WindowAlone
	}
	if t.WindowShared <= 0 {
		t.WindowShared = dispatch.WindowShared
	}
	set(&t.SignalAfter, 20*time.Microsecond)
	set(&t.Progress, dispatch.Progress)
	// Spins longer than the gaps within a request, so that only idle clients pay for a wake-up; naps only beside long ops.
	spin, linger, napAfter, napMost := time.Millisecond, 10*time.Millisecond, 5*time.Millisecond, 50*time.Microsecond
	if cores < c.IssueThreads+4 { // the clients need the cores more
		spin, linger, napAfter, napMost = crowdedSpin, 0, crowdedSpin, crowdedNap
	}
	set(&t.Spin, spin)
	set(&t.Linger, linger)
	c.gatherForAll = t.Gather > 0
	t.Always = t.Always || c.gatherForAll
	set(&t.Gather, dispatch.Gather)
	set(&t.Busy, dispatch.Busy)
	set(&t.Ahead, dispatch.Ahead)
	set(&t.Calm, 10*time.Millisecond)
	set(&t.Nap, 50*time.Microsecond)
	set(&t.NapAfter, napAfter)
	set(&t.NapMost, napMost)
}

// Run serves until the daemon asks it to leave (nil), closes the socket (nil), or the device faults (*ExitError). It owns the
// process: it sets the garbage collector and GOMAXPROCS, and CUDA's environment before the driver is loaded.
func Run(ctx context.Context, c Config) error {
	c.defaults()
	conn, err := shm.NewConn(c.ControlFd)
	if err != nil {
		return fmt.Errorf("executor: control socket: %w; heddle executor is started by heddle daemon", err)
	}
	defer conn.Close()
	if c.open == nil {
		// The daemon's end is told by its socket alone. A service manager that signals the whole group must not cut ops in the middle,
		// nor must a log line to a daemon that is dead.
		signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	}
	if need := c.IssueThreads + 4; runtime.GOMAXPROCS(0) < need {
		// Threads that spin keep their P; the control side must find one too.
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(need))
	}
	// Nothing on the hot path allocates. A collection is run when the executor is idle; the limit is the safety net.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(memoryLimit))

	x := &executor{config: c, conn: conn, log: c.Log, sessions: map[uint64]*session{}, images: map[uint64]*loaded{}, begun: time.Now(), wanted: make(chan partsWanted, askedParts)}
	x.expert.x = x
	return x.run(ctx)
}

const (
	memoryLimit = 1 << 30
	// connectionsEnv must be set before the driver is loaded: the default of 8 makes streams share hardware queues.
	connectionsEnv = "CUDA_DEVICE_MAX_CONNECTIONS"
	// moduleLoadingEnv is LAZY: an image may hold thousands of kernels of which few are used. Those that are asked for are loaded
	// by name (cuFuncLoad) on the loader's thread, so no launch ever loads.
	moduleLoadingEnv = "CUDA_MODULE_LOADING"
)

// openDevice loads the driver and retains the context, on the loader's thread.
func openDevice(uuid string) (Driver, Facts, error) {
	for k, v := range map[string]string{connectionsEnv: fmt.Sprint(issue.MaxStreams), moduleLoadingEnv: "LAZY"} {
		if err := os.Setenv(k, v); err != nil {
			return nil, Facts{}, err
		}
	}
	id, err := gpu.ParseUUID(uuid)
	if err != nil {
		return nil, Facts{}, err
	}
	if err := gpu.Init(); err != nil {
		return nil, Facts{}, err
	}
	d, err := gpu.Open(id)
	if err != nil {
		return nil, Facts{}, err
	}
	c := d.Chip()
	return d, Facts{
		Least: d.LeastPriority, Greatest: d.GreatestPriority, SharedOptin: d.SharedOptin, Major: d.Major, Minor: d.Minor, Driver: driverVersion(),
		Chip: cost.Chip{SMs: c.SMs, Threads: c.ThreadsPerSM, Registers: c.RegistersPerSM, Shared: c.SharedBytesPerSM, Blocks: c.BlocksPerSM},
	}, nil
}

// driverVersion tells one build of the driver from another: its CUDA version stays the same over many.
func driverVersion() string {
	v, err := gpu.DriverVersion()
	if err != nil {
		v = 0
	}
	build, err := os.ReadFile("/proc/driver/nvidia/version")
	if err != nil {
		build = nil // the software GPU has none
	}
	line, _, _ := strings.Cut(string(build), "\n")
	return strings.TrimSpace(fmt.Sprintf("%d %s", v, line))
}

// executor ties the threads together. sessions is the control goroutine's.
type executor struct {
	config   Config
	conn     *shm.Conn
	log      *slog.Logger
	driver   *timedDriver
	facts    Facts
	loader   *loader // calls that may take long, or hold others up
	mapper   *loader // those that do neither: a client's memory does not wait for another's code
	quietly  calm
	events   eventPool
	files    filePool
	engine   *issue.Engine
	poller   *poller
	watch    *watch
	forms    *forms
	learned  *learned
	prepared *prepared
	joiner   *joiner
	sessions map[uint64]*session
	imagesMu sync.Mutex
	images   map[uint64]*loaded
	expert   expert
	graphs   graphBooks
	wanted   chan partsWanted // graphs to be cut
	tracing  tracing
	pagesMu  sync.Mutex
	pages    Stats // of which STATS has given some rows, and is asked for more; under pagesMu
	begun    time.Time
	draining bool
}

// run is Run after the process is set up.
func (x *executor) run(ctx context.Context) error {
	x.loader, x.mapper = newLoader(), newLoader()
	defer stopAll(x.loader, x.mapper)
	open := x.config.open
	if open == nil {
		open = func() (Driver, Facts, error) { return openDevice(x.config.DeviceUUID) }
	}
	var d Driver
	var parts issue.Partitioner
	var divided partitioned
	err := x.loader.do(func() (err error) {
		if d, x.facts, err = open(); err != nil {
			return err
		}
		x.engine, err = issue.New(d, issue.Options{
			Threads: x.config.IssueThreads, Spill: x.config.Spill, Least: x.facts.Least, Greatest: x.facts.Greatest, Spin: x.config.Tuning.Spin, Nice: x.config.Nice,
		})
		parts, divided = dividing(d, x.log)
		return err
	})
	if err == nil {
		err = x.mapper.do(d.Bind)
	}
	if err != nil {
		x.sendFault(&ending{result: codeOf(err), err: err})
		return &ExitError{ExitNoDevice, err}
	}
	if x.poller, err = newPoller(x.config, x.engine, x.facts.Chip); err != nil {
		return err
	}
	x.poller.divided = divided
	x.driver = newTimedDriver(d, func() bool { return x.poller.flight.Load() != noClient })
	x.events.driver, x.quietly.patience = x.driver, int64(x.config.Tuning.Calm)
	x.watch = newWatch(x)
	if x.prepared, err = newPrepared(x); err != nil {
		return err
	}
	go x.prepared.run()
	x.joiner = newJoiner(x)
	go x.joiner.run()
	x.forms = newForms(x)
	go x.forms.run()
	faulted := false
	defer func() {
		if faulted {
			x.prepared.cancel()
			x.joiner.cancel()
			x.forms.cancel() // clients wait for the next executor; compilers end by themselves when their pipes close
			return
		}
		x.prepared.stop()
		x.joiner.stop()
		x.forms.stop()
	}()
	x.learned = newLearned(x)
	defer x.learned.end()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.poller.run()
	}()
	go x.watch.run()
	go x.poller.collect()
	go x.cutGraphs()
	var scratch uint64 // the loader's
	go x.divide(&divider{
		driver: parts, plain: d.StreamCreate, do: x.loader.do, made: map[int]gpu.Partition{},
		write: func(s gpu.Stream) (r gpu.Result) {
			if scratch == 0 {
				if scratch, r = d.HostAlloc(4096); r != gpu.Success {
					return r
				}
			}
			return d.WriteValue32(s, scratch, 1)
		},
		calm: func() { x.calm(noClient, calmLeaves) },
	})
	received := make(chan error, 1)
	go func() { received <- x.receive() }()
	var leave error
	select {
	case leave = <-received:
		if errors.Is(leave, io.EOF) {
			leave = nil
		}
		x.poller.leave(leaveNow)
	case <-ctx.Done():
		leave = ctx.Err()
		x.poller.leave(leaveNow)
	case <-ended:
	}
	select {
	case <-ended:
	case <-time.After(leaveTimeout):
		// A kernel does not end: what it belongs to stays in doubt. The context goes with the process.
		x.log.Warn("leaving with ops in flight", "after", leaveTimeout)
		x.engine.Abandon()
		return leave
	}
	x.watch.stop()
	stopAll(x.loader, x.mapper)
	if end := x.poller.end; end != nil {
		faulted = true
		x.log.Error("executor ends", "error", end.err, "code", end.code)
		x.sendFault(end)
		x.engine.Abandon()
		return &ExitError{end.code, end.err}
	}
	x.engine.Stop()
	return leave
}

// leaveTimeout bounds how long a leaving executor waits for what is issued.
const leaveTimeout = 10 * time.Second

func codeOf(err error) gpu.Result {
	var r gpu.Result
	if errors.As(err, &r) {
		return r
	}
	return gpu.Unknown
}

// sendFault tells the daemon; it must not fail the exit that follows.
func (x *executor) sendFault(e *ending) {
	const most = (shm.MessageBytes - 1024) / 8 / 3
	inFlight, apart := e.inFlight[:min(len(e.inFlight), most)], e.apart[:min(len(e.apart), most)]
	var tail []byte
	for _, id := range inFlight {
		tail = binary.LittleEndian.AppendUint64(tail, id)
	}
	for _, pair := range apart {
		tail = binary.LittleEndian.AppendUint64(tail, pair[0])
		tail = binary.LittleEndian.AppendUint64(tail, pair[1])
	}
	text := e.err.Error()
	tail = append(tail, text[:min(len(text), 512)]...)
	body := shm.Encode(shm.Fault{CUDAResult: uint32(e.result), Clients: uint32(len(inFlight)), Blamed: e.blamed, Kernel: e.kernel, Apart: uint32(len(apart))})
	if err := x.conn.Send(shm.Message{Type: shm.TypeFault, Body: body, Tail: tail}); err != nil {
		x.log.Error("the daemon did not take the fault message", "error", err)
	}
}
