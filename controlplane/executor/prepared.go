package executor

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// This file is the executor's end of package sequence: runs of launches that a client repeats unchanged go as one graph.
//
//	poller ─ Store.Look ─► Ask ─► run ─► loader: build, instantiate, Run.Exec ─► poller: a word.Chain ─► issue thread: one call
//	            │                                                                            │
//	            └─ Retire ─► run ─► loader: destroy, when no queue holds it any more ◄────────┘

// mostAsked is how many runs may wait for their graph.
const mostAsked = 64

// retireLook is the time between looks at whether a run that was given up is in no queue any more.
const retireLook = 2 * time.Millisecond

// prepared makes graphs of runs in the background, and frees them.
type prepared struct {
	x      *executor
	log    *slog.Logger
	wake   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	asked   []*sequence.Run
	retired []retiredRun
	stats   makerStats

	// execs are the graphs that exist, by session, scratch is for Run.Build; the loader's thread has them.
	execs   map[uint64]map[*sequence.Run]madeRun
	scratch []byte
}

// madeRun is the graph of a run; the one that it was made of is kept, not 0, where parameters are set in it.
type madeRun struct {
	exec gpu.GraphExec
	of   gpu.Graph
}

// retiredRun is a run that no word takes any more from mark on.
type retiredRun struct {
	run  *sequence.Run
	mark issue.Mark
}

// makerStats count what the maker did.
type makerStats struct {
	made, refused uint64
	busy          time.Duration
}

// PreparedStats are the prepared words: runs of launches that a client repeats unchanged, issued as one graph.
type PreparedStats struct {
	Words     uint64 `json:"words"`      // issued
	Ops       uint64 `json:"ops"`        // in them
	Runs      int    `json:"runs"`       // kept
	Learned   uint64 `json:"learned"`    // asked for
	Made      uint64 `json:"made"`       // graphs
	Refused   uint64 `json:"refused"`    // by the driver
	Evicted   uint64 `json:"evicted"`    // for newer ones
	Unused    uint64 `json:"unused"`     // given up without ever having been issued
	Candidate uint64 `json:"candidates"` // sequences noted, to see whether they come again
	Changed   uint64 `json:"changed"`    // launches in prepared words whose parameters were set anew
	Busy      uint64 `json:"busy"`       // runs that went op by op because the graph to be changed was in flight
	Awaited   uint64 `json:"awaited"`    // runs for the rest of which their first op waited, while the issue threads were behind
	InVain    uint64 `json:"in_vain"`    // of them those of which the rest did not come in time
	// Plain are ops that went one by one, by why (sequence.ReasonNames); those that went with other clients' are not among them.
	Plain map[string]uint64 `json:"plain"`
	// MakeSeconds is how long graphs took to make, on the loader's thread.
	MakeSeconds float64 `json:"make_seconds"`
}

// newPrepared makes the maker, and the poller's store.
func newPrepared(x *executor) (*prepared, error) {
	scratch, err := unix.Mmap(-1, 0, sequence.ScratchBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("executor: %d bytes for parameters of prepared launches: %w", sequence.ScratchBytes, err)
	}
	m := &prepared{
		x: x, log: x.log, wake: make(chan struct{}, 1), ended: make(chan struct{}), execs: map[uint64]map[*sequence.Run]madeRun{},
		asked: make([]*sequence.Run, 0, mostAsked), scratch: scratch,
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	x.poller.runs = sequence.New(sequence.Options{Ask: m.ask, Retire: m.retire})
	return m, nil
}

// ask takes a run that is to be made. It runs on the poller's thread.
func (m *prepared) ask(r *sequence.Run) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) == mostAsked {
		return false
	}
	m.asked = append(m.asked, r)
	m.ring()
	return true
}

// retire takes a run that is not used again. It runs on the poller's thread.
func (m *prepared) retire(r *sequence.Run) {
	mark := m.x.engine.Mark()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retired = append(m.retired, retiredRun{r, mark})
	m.ring()
}

func (m *prepared) ring() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run is the maker's goroutine.
func (m *prepared) run() {
	defer close(m.ended)
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-m.wake:
		case <-again.C:
		case <-m.ctx.Done():
			return
		}
		for {
			m.mu.Lock()
			var r *sequence.Run
			if n := len(m.asked); n > 0 {
				r = m.asked[0]
				m.asked = append(m.asked[:0], m.asked[1:]...)
			}
			m.mu.Unlock()
			if r == nil {
				break
			}
			// One by one: a client's request waits for one of them at most.
			if m.x.loader.do(func() error { m.build(r); return nil }) != nil {
				return
			}
		}
		if left, ok := m.free(); !ok {
			return
		} else if left {
			again.Reset(retireLook)
		}
	}
}

// build makes a run's graph. It runs on the loader's thread.
func (m *prepared) build(r *sequence.Run) {
	if r.Dropped.Load() || m.x.engine.Fault() != gpu.Success {
		return
	}
	begun := time.Now()
	d := m.x.driver
	var x gpu.GraphExec
	g, res := d.GraphCreate()
	if res == gpu.Success {
		if res = r.Build(d, g, m.scratch); res == gpu.Success {
			x, res = d.GraphInstantiate(g)
		}
		if res != gpu.Success || !r.Changes() {
			d.GraphDestroy(g)
			g = 0
		}
	}
	if res == gpu.Success {
		m.x.uploadGraph(x)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.busy += time.Since(begun)
	if res != gpu.Success {
		m.stats.refused++
		r.Refused.Store(true)
		if res.Sticky() {
			m.x.engine.SetFault(res)
		}
		m.log.Info("no graph of a repeated sequence", "client", r.Session, "ops", r.Len(), "error", res)
		return
	}
	m.stats.made++
	of := m.execs[r.Session]
	if of == nil {
		of = map[*sequence.Run]madeRun{}
		m.execs[r.Session] = of
	}
	of[r] = madeRun{x, g}
	r.Exec.Store(uint64(x))
}

// free destroys the graphs of runs that no queue holds any more; what still runs on the GPU goes on to its end. left: some have to
// wait; ok is false when the executor leaves.
func (m *prepared) free() (left, ok bool) {
	var ripe []*sequence.Run
	m.mu.Lock()
	kept := m.retired[:0]
	for _, o := range m.retired {
		if m.x.engine.Passed(o.mark) {
			ripe = append(ripe, o.run)
		} else {
			kept = append(kept, o)
		}
	}
	clear(m.retired[len(kept):])
	m.retired = kept
	left = len(kept) > 0
	m.mu.Unlock()
	if len(ripe) == 0 {
		return left, true
	}
	return left, m.x.loader.do(func() error {
		for _, r := range ripe {
			m.destroy(r)
		}
		return nil
	}) == nil
}

// destroy frees a run's graph, if it still has one. It runs on the loader's thread.
func (m *prepared) destroy(r *sequence.Run) {
	of := m.execs[r.Session]
	made, ok := of[r]
	if !ok {
		return
	}
	if delete(of, r); len(of) == 0 {
		delete(m.execs, r.Session)
	}
	if m.x.engine.Fault() == gpu.Success {
		m.x.driver.GraphExecDestroy(made.exec)
		if made.of != 0 {
			m.x.driver.GraphDestroy(made.of)
		}
	}
}

// leave frees every graph of a session, before its code is unloaded: the poller has forgotten its runs, no queue holds any, and the
// GPU is done with them. It runs on the loader's thread.
func (m *prepared) leave(session uint64) {
	for r := range m.execs[session] {
		m.destroy(r)
	}
}

// stop ends the maker.
func (m *prepared) stop() {
	m.cancel()
	select {
	case <-m.ended:
	case <-time.After(loaderPatience): // a driver call that hangs must not hold the process
	}
}

// snapshot completes the counters of the poller's store.
func (m *prepared) snapshot(c sequence.Counters) PreparedStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	plain := map[string]uint64{}
	for i, n := range c.Plain {
		plain[sequence.ReasonNames[i]] = n
	}
	return PreparedStats{
		Words: c.Words, Ops: c.Ops, Runs: c.Runs, Learned: c.Learned, Evicted: c.Evicted, Unused: c.Unused, Candidate: c.Seeds, Changed: c.Changed, Busy: c.Busy,
		Awaited: c.Awaited, InVain: c.InVain, Plain: plain,
		Made: m.stats.made, Refused: m.stats.refused, MakeSeconds: m.stats.busy.Seconds(),
	}
}

// What follows runs on the poller's thread.

// Single issues an op that goes without other clients' company; when a run that was prepared begins with it, all of the run. false:
// there is no room now.
func (p *poller) Single(op *scoreboard.Op) bool {
	c, few := p.slots[op.Session.Slot], op.Next() == nil
	t := &c.tracks[op.Lane]
	if !few && p.looks() && !op.Session.Straggler.Single() && op.Session.Partition == 0 { // one at a time; by itself
		if p.runs.Wants(t, op) && c.hold == nil {
			if issued, wait := p.chain(t, op); issued || wait {
				return issued
			}
		}
	}
	p.dispatch.Signal(op, false)
	w := word.One(op)
	w.Shape, w.Measure = p.gather.Plain(op)
	p.direct(op)
	if !p.engine.Issue(&w) {
		return false
	}
	if p.looks() {
		p.runs.Went(t, op, few)
	}
	p.trace.Word(&w, p.engine.Words)
	p.gather.PlainIssued(&w)
	p.issued(op, op.Cost, 1)
	return true
}

// chain issues the run that begins with op. wait: it shall go when there is room; neither: op goes by itself.
func (p *poller) chain(t *sequence.Track, op *scoreboard.Op) (issued, wait bool) {
	l := op.Session.Lane(op.Lane)
	if n := t.Held(op); n > 0 && !p.force && l.InFlight()+n > max(p.dispatch.Window(l), p.tune.WindowShared) {
		p.narrowed(op.Session, l)
		return false, true // as in the pass before
	}
	ops := p.behind[:op.Session.Following(op, p.behind[:])]
	r := p.runs.Look(t, ops)
	if r == nil {
		return false, false
	}
	ops = ops[:r.Len()]
	last := ops[len(ops)-1]
	most, tight := p.dispatch.Window(l), p.sched.Tight(op)
	work, known := p.work(ops)
	if known && work <= dispatch.ShortOp*int64(len(ops)) {
		// The lane's pace may be that of launches, which is what the run is there to mend: its kernels are short.
		most = max(most, p.tune.WindowShared)
	}
	longest := int64(math.MaxInt64)
	if k := op.Session.Class; k != nil {
		if longest = k.Longest; k.Slice > 0 {
			longest = min(longest, k.Slice)
		}
	}
	if tight > 0 {
		longest = min(longest, tight)
	}
	if 2*len(ops) > most || work > longest || p.force {
		p.runs.Pass(t, r, last.Seq)
		return false, false
	}
	c := p.chains.Peek()
	if c == nil || l.InFlight()+len(ops) > most {
		p.narrowed(op.Session, l)
		return false, true // more than half of the window is in flight
	}
	c.Run, c.Count = r, copy(c.Ops[:], ops)
	last.Signal = last.Signal || p.dispatch.Due(l, len(ops)) || (tight > 0 && l.Quiet+work >= tight)
	idle := l.InFlight() == 0
	w := word.Word{Chain: c}
	p.direct(op)
	if !p.engine.Issue(&w) {
		return false, true
	}
	p.chains.Take()
	p.runs.Took(t, r, op.Lane, last.Seq)
	if idle {
		l.Since = p.now
	}
	level := p.engine.LevelOf(op.Session, l.Priority)
	for _, o := range ops[1:] {
		p.sched.Ready(o, p.now)
		p.trace.Ready(o)
		if p.gather.Add(o, level) {
			p.gather.Remove(o) // a form of it was published this moment
		}
		o.Cuts = false
		dispatch.Estimate(o)
	}
	p.trace.Word(&w, p.engine.Words)
	p.gather.ChainIssued(c)
	for _, o := range ops {
		p.issued(o, o.Cost, 1)
	}
	return true, false
}

// work estimates how long ops take, ns of the whole chip. known: all of their kernels were measured.
func (p *poller) work(ops []*scoreboard.Op) (ns int64, known bool) {
	known = true
	for _, op := range ops {
		if op.Kind == shm.KindLaunch {
			s := (*scoreboard.Shape)(nil)
			if op.Kernel.Code != nil {
				s = scoreboard.Known(op)
			}
			if s != nil && s.Cost > 0 {
				op.Cost = s.Cost
			} else {
				known = false
			}
		}
		dispatch.Estimate(op)
		ns += op.Cost
	}
	return ns, known
}
