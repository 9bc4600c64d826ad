package executor

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/controlplane/executor/straggle"
	"github.com/heddle-gpu/heddle/controlplane/executor/trace"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

const (
	// ringPressure is the share of a ring in use from which done words are asked for without a waiter.
	ringPressure = shm.RingBytes / 2
	// collectAfter is how much must have been allocated before an idle executor collects garbage.
	collectAfter = 32 << 20
	// mendEvery is the time between attempts to have the done words of a detached client written again.
	mendEvery = 50 * time.Millisecond
	// sleepBound bounds a sleep on the doorbell: a hostile client can clear the word that says that we sleep.
	sleepBound = 500 * time.Millisecond
)

// how a poller leaves.
const (
	leaveNow   = 1 // take nothing more; wait for what is issued
	leaveDrain = 2 // finish what was submitted
)

// client is a session as the poller sees it. All fields belong to the poller's thread once it is added.
type client struct {
	quiet      quiet // first: a pass reads nothing else of a client that is
	id         uint64
	class      string         // the name of its class, "" before CLASS
	settings   sched.Settings // what the class promises
	books      *sched.Client  // nil before it is served
	pace       *straggle.Client
	stopped    bool // it has max_queue_size ops waiting
	past       bool // and none of them can go: what is behind them may free them
	board      *scoreboard.Session
	file       *shm.SessionFile
	ring       *shm.Consumer
	words      *shm.ConsumerWords
	status     *shm.SessionStatus
	broken     bool // the ring cannot be parsed any more
	limited    bool // scan no further than limit
	limit      uint64
	used       uint32 // streams that held ops of it since the last reset
	detached   int64  // when the daemon said that the client is gone; 0: it lives
	elapsed    bool   // a record waits for room in a queue
	failed     gpu.Result
	barriers   []barrier
	idleDone   func() // called once when a detached client has nothing in flight and no command refers to it
	mark       issue.Mark
	marked     bool
	progressed int64 // when an op of it last completed
	mended     int64 // when a forged done word was last put right
	abandoned  int64 // when the broken ring was last emptied
	hold       *hold // nil: it is served
	traced     int64 // Recorder.Request's
	memory     memory
	tracks     []sequence.Track
	scanned    uint64 // pass of the last look at its ring
}

// barrier calls reached when everything below a ring position is done.
type barrier struct {
	position uint64
	reached  func()
}

// poller is the thread that schedules.
type poller struct {
	config  Config
	tune    Tuning
	log     *slog.Logger
	engine  *issue.Engine
	sched   *sched.Scheduler
	gather  *word.Gather
	company *company.Table
	runs    *sequence.Store // nil: no runs are prepared
	chains  word.Chains
	behind  [sequence.Most]*scoreboard.Op
	demand  *scoreboard.Demand // tells the forms' maker what was ready together
	clients []*client
	slots   []*client
	cuts    cuts
	// dispatch is what a pass does with what is ready; sched and gather are its.
	dispatch dispatch.Dispatch
	mail     chan func()
	bell     atomic.Pointer[shm.Doorbell]
	ownBell  bool // bell is the slot's, from the first ATTACH
	garbage  chan struct{}
	stats    counters
	ends     bool // what is recorded is to have done words of its own
	trace    trace.Recorder

	now          int64 // ns since the poller was made, at the start of the pass
	worked       bool  // the pass before found something to do
	base         time.Time
	arrivals     uint64
	lastActivity int64 // something was scanned, issued or completed
	lastComplete int64
	lastForce    int64
	forceAfter   int64 // how long nothing must complete for the next force
	force        bool  // this pass ignores windows
	lags         bool  // more commands wait than there are issue threads
	active       int   // sessions with work in the last pass
	leaving      int
	drained      func()
	end          *ending
	recheck      func() bool
	learn        func(*word.Sample)
	stragglers   straggle.Watch
	divided      partitioned
	clock        func() int64 // nil: the real time; set by tests

	lastOverdue int64
	late        bool

	flight atomic.Uint64 // who has ops in flight (calm.go), for others; flew is what it holds
	flew   uint64
	rounds rounds
	linger linger

	// stalled is read by the watch thread: ops are in flight and nothing has completed for Tuning.Progress.
	stalled atomic.Bool
	alarm   chan struct{} // stalled has become true
	ended   chan struct{}
}

// newPoller makes the poller of an engine.
func newPoller(c Config, e *issue.Engine, chip cost.Chip) (*poller, error) {
	bell, err := shm.CreateDoorbell() // until the first ATTACH brings the real one
	if err != nil {
		return nil, fmt.Errorf("executor: doorbell: %w", err)
	}
	demand := scoreboard.NewDemand()
	beside := company.New()
	o := word.Options{
		Chip: chip, Hold: int64(c.Tuning.Gather), Busy: int64(c.Tuning.Busy), Demand: demand, Company: beside,
	}
	if !c.Tuning.Always {
		o.Calls, o.Threads = e.Calls, e.Threads()
	}
	g, err := word.NewGather(o)
	if err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	p := &poller{
		config: c, tune: c.Tuning, log: c.Log, engine: e, sched: sched.New(), gather: g, company: beside, demand: demand,
		mail: make(chan func(), 64), garbage: make(chan struct{}, 1), base: time.Now(), ended: make(chan struct{}),
		alarm: make(chan struct{}, 1), forceAfter: int64(c.Tuning.Progress),
	}
	p.linger.tune = &p.tune
	p.dispatch = dispatch.Dispatch{Bounds: c.Tuning.bounds(), Sched: p.sched, Gather: p.gather, Alone: true}
	p.bell.Store(bell)
	p.trace.Why = func(op *scoreboard.Op) uint8 { return uint8(p.sched.Why(op)) }
	p.recheck = p.anythingNew
	p.learn = p.measured
	return p, nil
}

// post runs f on the poller's thread, soon. It returns false when the poller has ended; f is then not run.
func (p *poller) post(f func()) bool {
	select {
	case p.mail <- f:
		p.bell.Load().Wake()
		return true
	case <-p.ended:
		return false
	}
}

// call runs f on the poller's thread and waits for it.
func (p *poller) call(f func()) bool {
	done := make(chan struct{})
	if !p.post(func() { f(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-p.ended:
		return false
	}
}

// leave asks the poller to end; how is leaveNow or leaveDrain.
func (p *poller) leave(how int) {
	p.post(func() {
		p.leaving = how
		for _, c := range p.clients {
			c.limited, c.limit = true, c.ring.Read()
			if how == leaveDrain {
				c.limit = atomic.LoadUint64(&c.file.Producer().Tail)
			}
		}
	})
}

func (p *poller) time() int64 {
	if p.clock != nil {
		return p.clock()
	}
	return int64(time.Since(p.base))
}

// run is the poller's thread.
func (p *poller) run() {
	runtime.LockOSThread()
	if err := issue.RaisePriority(p.config.Nice); err != nil {
		p.log.Warn("the threads that every client waits for share their cores with everybody's: start the daemon with CAP_SYS_NICE",
			"nice", p.config.Nice, "error", err)
	}
	defer close(p.ended)
	if err := p.engine.Bind(); err != nil {
		p.end = &ending{code: ExitFault, result: gpu.Unknown, err: err}
		return
	}
	p.lastActivity = p.time()
	p.lastComplete = p.lastActivity
	for p.pass() {
	}
}

// pass is one round; false ends the poller.
func (p *poller) pass() bool {
	now := p.time()
	if p.worked {
		p.stats.BusyNanoseconds += uint64(now - p.now)
		if now-p.now > issue.LongRun {
			p.rounds.long(now-p.now, p.engine.Directly)
		}
	}
	p.now, p.worked = now, false
	p.rounds.mailed, p.rounds.directly = false, p.engine.Directly
	did := false
	for len(p.mail) > 0 {
		(<-p.mail)()
		did, p.rounds.mailed = true, true
		p.stir()
	}
	if f := p.engine.Fault(); f != gpu.Success {
		p.fault(f, ExitFault, 0, fmt.Errorf("the device context is lost: %w", f))
		return false
	}
	if p.end != nil {
		p.account()
		return false
	}
	if p.lastComplete > p.lastForce {
		p.forceAfter = int64(p.tune.Progress)
	}
	p.lags = p.engine.Pending() > p.engine.Threads()
	p.force = p.now-max(p.lastComplete, p.lastForce) > p.forceAfter
	active := 0
	inFlight := 0
	flight := noClient
	p.gather.Begin(p.stats.Passes + 1) // before ops are offered: what is ready together is counted by passes
	if p.runs != nil {
		p.runs.Apart = p.gather.ApartNow()
	}
	if p.cuts.used != 0 {
		did = p.progress() || did
	}
	for i, c := range p.clients {
		if !p.force && c.quiet.still() && (p.stats.Passes+uint64(i))%lookAnyway != 0 {
			if c.quiet.working {
				active++
				inFlight += c.quiet.inFlight
				if c.quiet.inFlight > 0 {
					flight = joins(flight, c.id)
				}
			}
			continue
		}
		if p.serve(c) {
			did = true
			c.quiet.on = false
		} else {
			p.hush(c)
		}
		if n := c.board.InFlight(); n+c.board.Waiting() > 0 {
			active++
			inFlight += n
			if n > 0 {
				flight = joins(flight, c.id)
			}
		}
	}
	if flight != p.flew {
		p.flew = flight
		p.flight.Store(flight)
	}
	p.active, p.dispatch.Alone = active, active <= 1
	p.dispatch.Ends = p.ends && p.trace.On()
	p.engine.Direct = active <= 1
	if p.force {
		// Long ops look the same as ops that wait for one another: ever more patience, so that they do not pile up.
		p.lastForce = p.now
		p.forceAfter = min(2*p.forceAfter, 64*int64(p.tune.Progress))
	}
	p.confine() // who came in this pass counts
	if p.leaving != leaveNow && p.schedule() {
		did = true
	}
	if p.engine.Full != 0 {
		p.unfill()
	}
	p.stats.Passes++
	p.trace.Tick(p.now)
	p.engine.Measured(p.learn)
	p.straggle()
	if p.sched.Relevel {
		p.relevel()
	}
	p.engine.Now = p.now
	if inFlight == p.cuts.paused {
		p.lastComplete = p.now
	}
	if late := p.now-p.lastComplete > int64(p.tune.Progress); late != p.late {
		p.late = late
		p.stalled.Store(late)
		if late {
			select {
			case p.alarm <- struct{}{}:
			default:
			}
		}
	}
	if p.config.MaxKernelTime > 0 && p.now-p.lastOverdue > int64(time.Millisecond) {
		p.lastOverdue = p.now
		p.overdue()
	}
	if p.leaving != 0 && p.left() {
		return false
	}
	if did {
		if p.linger.on {
			p.back()
		}
		p.lastActivity, p.worked = p.now, true
		return true
	}
	p.idle(inFlight)
	p.engine.Now = p.time() // what is issued in the next pass was not issued before the sleep
	return true
}

// serve takes a client's new records, looks at its lanes, and frees ring space. It reports whether anything happened.
func (p *poller) serve(c *client) bool {
	did := false
	if !c.broken {
		did = p.scan(c)
	}
	b := c.board
	if f := b.Failed(); f.Result != gpu.Success && c.failed == gpu.Success {
		p.drop(c, f.Result, shm.ReasonLaunchRefused, fmt.Sprintf("the driver refused an op of kind %d in lane %d: %v", f.Kind, f.Lane, f.Result))
		did = true
	}
	pressed := b.InFlight() > 0 && c.ring.Read()-b.Head() > ringPressure
	for i := len(b.Busy()) - 1; i >= 0; i-- {
		busy := b.Busy() // shrinks while lanes drain
		if i >= len(busy) {
			continue
		}
		l := b.Lane(busy[i])
		stream := l.Stream
		n, ok := b.Poll(l)
		if !ok {
			p.forged(c, l)
			continue
		}
		if n > 0 {
			did = true
			p.lastComplete, c.progressed = p.now, p.now
			l.Completed(n, p.now)
			p.trace.Done(c.id, l, stream, n)
			p.engine.Completed(stream, n, l.Stream == scoreboard.NoStream)
			p.sched.Completed(c.books, l, n, p.now)
			if c.file.WakeLane(l.Index, l.Done) {
				p.stats.Wakeups++
			}
		}
		if l.Want || ((pressed || b.Dropping() || p.leaving == leaveNow) && l.Signalled == l.Done && l.Unsignalled() > 0) {
			p.engine.Signal(b, l)
		}
		p.offer(c, l)
	}
	if b.Release() || b.Head() != c.ring.Head() {
		p.release(c)
		p.sched.Released(c.books, p.now)
		did = true
	}
	if c.broken && b.InFlight() == 0 && p.now-c.abandoned > int64(time.Millisecond) {
		c.abandoned = p.now
		c.ring.Abandon()
	}
	if c.detached != 0 {
		p.finish(c)
	}
	if c.hold != nil {
		c.hold.look(b)
	}
	p.traceRequests(c)
	return did
}

// offer hands a lane's first waiting op over for scheduling when it may be issued.
func (p *poller) offer(c *client, l *scoreboard.Lane) {
	if l.First() == nil || l.Queued || p.leaving == leaveNow {
		return
	}
	if l.InFlight() >= p.dispatch.Window(l) && !(p.force && p.now-p.lastComplete > 4*l.Pace) {
		p.narrowed(c.board, l)
		return
	}
	op := c.board.Ready(l)
	if op == nil {
		p.stats.NotReady++
		if first := l.First(); !first.Ordered {
			first.Ordered = true
			c.books.Count(sched.WaitOrder)
		}
		return
	}
	if c.hold != nil {
		if !c.hold.allows(p, c.board, op) {
			return
		}
		op.Signal = true
	}
	if p.looks() && p.awaits(c, l, op) {
		return
	}
	l.Queued = true
	p.sched.Ready(op, p.now)
	p.trace.Ready(op)
	p.dispatch.Ready(op, p.engine.LevelFor(op), c.hold != nil)
}

// finish sees a detached client off: when nothing of it is in flight and no command in any queue refers to it, or when its ops
// do not end.
func (p *poller) finish(c *client) {
	switch {
	case c.idleDone == nil:
	case c.board.InFlight() > 0:
		if p.now-max(c.mended, c.detached) > int64(mendEvery) {
			// The client may have overwritten a done word before it died; now nobody does any more.
			c.mended = p.now
			for _, i := range c.board.Busy() {
				p.engine.SignalAgain(c.board, c.board.Lane(i))
			}
		}
		// Its ops may stand behind others' on their streams, which progress.
		progressed := max(c.detached, c.progressed)
		for _, i := range c.board.Busy() {
			if on := c.board.Lane(i).Stream; on >= 0 {
				progressed = max(progressed, p.engine.Stream(on).Since)
			}
		}
		if still := p.now - progressed - int64(p.config.DeadKernelTime); still > 0 && still > graphTime(c.board) {
			p.endless(c.id, fmt.Errorf("ops of client %d, which is gone, made no progress for %v", c.id, p.config.DeadKernelTime))
		}
	case !c.marked:
		c.mark, c.marked = p.engine.Mark(), true
	case p.engine.Passed(c.mark):
		f := c.idleDone
		c.idleDone = nil
		f()
	}
}

// endless ends the executor because of an op that does not.
func (p *poller) endless(blamed uint64, err error) {
	if p.end == nil {
		p.end = &ending{code: ExitEndless, result: gpu.LaunchTimeout, err: err, blamed: blamed}
	}
}

// overdue looks for streams that complete nothing for too long: max_kernel_time, or what the graphs take whose clients use the stream.
func (p *poller) overdue() {
	for i := range p.engine.Streams() {
		s := p.engine.Stream(i)
		if s.Ops == 0 || p.now-s.Since <= int64(p.config.MaxKernelTime) {
			continue
		}
		var on []uint64
		graphs := int64(0)
		for _, c := range p.clients {
			for _, k := range c.board.Busy() {
				if c.board.Lane(k).Stream == i {
					on = append(on, c.id)
					graphs += graphTime(c.board)
					break
				}
			}
		}
		if p.now-s.Since-int64(p.config.MaxKernelTime) <= graphs {
			continue
		}
		var blamed uint64
		if len(on) == 1 {
			blamed = on[0]
		}
		p.endless(blamed, fmt.Errorf("nothing completed for %v on a stream with ops of clients %v (max_kernel_time)", p.config.MaxKernelTime, on))
		return
	}
}

// release publishes the head: at once when somebody looks at it who is not the client.
func (p *poller) release(c *client) {
	if !c.broken {
		c.ring.Release(c.board.Head(), c.board.InFlight() == 0 || len(c.barriers) > 0 || p.leaving != 0 || p.end != nil)
	}
	shm.StoreRelease64(&c.status.OpsDone, c.board.OpsDone)
	for len(c.barriers) > 0 && int64(c.board.Head()-c.barriers[0].position) >= 0 {
		c.barriers[0].reached()
		c.barriers = c.barriers[1:]
	}
}

// scan moves records from the ring to the board.
func (p *poller) scan(c *client) bool {
	if c.board.Waiting() > dispatch.FarAhead && p.stats.Passes-c.scanned < dispatch.ScanEvery {
		return false
	}
	c.scanned = p.stats.Passes
	if c.ring.Empty() && !c.elapsed {
		return false
	}
	did := false
	most := c.books.Class().MaxQueue
	c.past = c.board.InFlight() == 0 && c.books.Queued() == 0
	for budget := dispatch.ScanBudget; budget > 0 && c.board.Room(); budget-- {
		if c.elapsed {
			if !p.elapsed(c) {
				break
			}
		}
		if c.limited && int64(c.ring.Read()-c.limit) >= 0 {
			break
		}
		if most > 0 && p.full(c, most) {
			break
		}
		v, ok, err := c.ring.Next()
		if err != nil {
			p.bad(c, err)
			return true
		}
		if !ok {
			break
		}
		did = true
		p.arrivals++
		a, steps, err := c.board.Accept(v, p.arrivals)
		if err != nil {
			p.bad(c, err)
			return true
		}
		budget -= steps / 16
		p.note(c, v, a)
		switch a {
		case scoreboard.SignalNow:
			p.engine.Signal(c.board, c.board.Lane(v.Lane)) // without room, serve tries again
		case scoreboard.Elapsed:
			// One a pass: the question goes past the policy, and must not crowd out what the policy orders.
			c.elapsed = true
			p.elapsed(c)
			return did
		}
	}
	return did
}

// elapsed hands the client's question over when there is room.
func (p *poller) elapsed(c *client) bool {
	e := c.board.LastElapsed
	c.elapsed = !p.engine.Elapsed(c.board, e, c.file.Reply(e.Reply))
	return !c.elapsed
}

// schedule issues what may go now while there is room (package dispatch).
func (p *poller) schedule() bool {
	stuck := int64(0)
	if p.force && p.lastComplete != p.now {
		stuck = p.now - p.lastComplete
	}
	pending := 0
	if p.gather.Len() > 0 {
		pending = p.engine.Pending()
	}
	return p.dispatch.Run(p, p.now, stuck, pending)
}

// Issue hands a word over that the dispatch made; false: there is no room.
func (p *poller) Issue(w *word.Word) bool {
	p.direct(w.Ops()[0])
	if !p.engine.Issue(w) {
		return false
	}
	p.trace.Word(w, p.engine.Words)
	return true
}

// Begun counts an op that was issued.
func (p *poller) Begun(op *scoreboard.Op) { p.begun(op) }

// Offer offers what follows an op in its lane.
func (p *poller) Offer(s *scoreboard.Session, l *scoreboard.Lane) { p.offer(p.slots[s.Slot], l) }

// direct lets the poller make the calls for an op itself when it is all that its client, the only one, has: of several the poller
// would make the calls one by one, with a pass in between; a thread makes them back to back.
func (p *poller) direct(op *scoreboard.Op) {
	s := op.Session
	p.engine.Direct = p.active <= 1 && s.Waiting() == 1 && p.slots[s.Slot].ring.Empty()
}

// issued keeps the books of an op that was issued.
func (p *poller) issued(op *scoreboard.Op, cost int64, width int) {
	p.begun(op)
	p.sched.Issued(op, cost, op.Signal, width, p.now)
}

// idle is what a pass without events does.
func (p *poller) idle(inFlight int) {
	quiet, issuing := p.now-p.lastActivity, !p.engine.Idle()
	if quiet < int64(p.tune.SignalAfter) || issuing && quiet < int64(p.tune.NapAfter) {
		issue.Pause(1)
		return
	}
	if inFlight > 0 && !issuing {
		for _, c := range p.clients {
			for _, i := range c.board.Busy() {
				if l := c.board.Lane(i); l.Unsignalled() > 0 {
					p.engine.Signal(c.board, l)
					c.quiet.on = false
				}
			}
		}
	}
	work := inFlight > 0 || issuing || p.sched.Len() > 0 || p.gather.Len() > 0 || p.active > 0 || p.leaving != 0
	switch {
	case work && quiet > int64(p.tune.NapAfter):
		p.stats.Naps++
		p.bell.Load().Sleep(p.recheck, max(p.tune.Nap, min(time.Duration(quiet/8), p.tune.NapMost)))
	case !work:
		p.rest()
	default:
		issue.Pause(2)
	}
}

// anythingNew is the doorbell's last look.
func (p *poller) anythingNew() bool {
	if len(p.mail) > 0 || p.engine.Fault() != gpu.Success {
		return true
	}
	for _, c := range p.clients {
		if !c.broken && !c.limited && (!c.stopped || c.past) && !c.ring.Empty() && c.board.Room() {
			return true
		}
	}
	return false
}

// collect runs the garbage collector while the executor is idle and enough has piled up.
func (p *poller) collect() {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	last := sample[0].Value.Uint64()
	for {
		select {
		case <-p.ended:
			return
		case <-p.garbage:
		}
		metrics.Read(sample)
		if now := sample[0].Value.Uint64(); now-last > collectAfter {
			last = now
			runtime.GC()
		}
	}
}

// add starts serving a client. A slot is found for it.
func (p *poller) add(c *client) {
	slot := len(p.slots)
	for i, s := range p.slots {
		if s == nil {
			slot = i
			break
		}
	}
	if slot == len(p.slots) {
		p.slots = append(p.slots, nil)
	}
	p.slots[slot] = c
	c.board.Slot = slot
	p.enrol(c)
	p.clients = append(p.clients, c)
	p.relevel()
	p.dispatch.Reserve(shm.Lanes * len(p.clients))
	if p.leaving != 0 {
		c.limited, c.limit = true, c.ring.Read()
	}
}

// remove forgets a client that has nothing in flight.
func (p *poller) remove(c *client) {
	for i, o := range p.clients {
		if o == c {
			p.clients = append(p.clients[:i], p.clients[i+1:]...)
			p.sched.Detach(c.books)
			p.stragglers.Detach(c.board)
			p.relevel()
			p.slots[c.board.Slot] = nil
			return
		}
	}
}

// detach gives up a client that is gone: idle is called (on the poller's thread) when it has nothing in flight any more.
func (p *poller) detach(c *client, idle func()) {
	c.detached = p.now
	c.limited, c.limit = true, c.ring.Read()
	p.giveUp(c)
	c.idleDone = idle
}

// left finishes a leaving poller: every client has what was promised.
func (p *poller) left() bool {
	for _, c := range p.clients {
		switch {
		case c.board.InFlight() > 0:
			return false
		case p.leaving == leaveDrain && (c.board.Waiting() > 0 || (!c.broken && int64(c.ring.Read()-c.limit) < 0)):
			return false
		}
	}
	if !p.engine.Idle() {
		return false
	}
	if p.leaving == leaveNow {
		for _, c := range p.clients {
			c.file.SetState(shm.StateClosed)
			c.file.WakeAll()
		}
	}
	if p.drained != nil {
		p.drained()
	}
	return true
}
