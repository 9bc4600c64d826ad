package executor

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// This file makes words of several clients' graphs (scoreboard.GraphWord), and frees them. Which ones, and when they go, is package
// word's: bench.go.
//
//	poller ─ Gather.Team ─► ask ─► run ─► loader: the chains' nodes, their ends, instantiate, Built ─► poller: a word.Team ─► issue thread
//	                    └─► retire ─► run ─► loader: destroy, when no queue holds it and the GPU is done with it

//go:embed chainend.ptx
var chainEndCode []byte

// chainEndName is the entry in chainEndCode.
const chainEndName = "heddle_chain_end"

// Bounds of all words of graphs: chains, and nodes. They bound their number and the memory of the device and the driver.
const (
	maxChains     = 1024
	maxChainNodes = 1 << 16
)

// errNoRoom says that there are as many words as may be, errNothingAlike that coalescing would change nothing.
var (
	errNoRoom       = errors.New("as many chains or nodes as may be")
	errNothingAlike = errors.New("no nodes of theirs can be coalesced")
)

// joiner makes words of graphs in the background.
type joiner struct {
	x      *executor
	log    *slog.Logger
	wake   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{}
	loaded bool // run's: prepare was called, or is about to be

	mu      sync.Mutex
	owners  map[*scoreboard.Graph]owned
	asked   []*scoreboard.GraphWord
	retired []retiredWord
	stats   JoinedStats
	busy    time.Duration

	// What follows is the loader's thread's. words are those that exist; free are the chain ends that nobody has.
	words  map[*scoreboard.GraphWord]madeWord
	free   []chainEnd
	end    gpu.Function
	block  []byte // for the parameters of a coalesced node; not Go memory: the driver reads it
	broken error  // why there can be no word at all
	chains int
	nodes  int
	bytes  int // parameters of coalesced nodes
}

// owned is a graph's session, and what it has of it.
type owned struct {
	session *session
	graph   *graph
}

// madeWord is what a word takes.
type madeWord struct {
	sessions map[uint64]bool
	ends     []chainEnd
	nodes    int
	bytes    int // parameters of coalesced nodes
}

// chainEnd is the memory of the end of a chain.
type chainEnd struct {
	scoreboard.ChainEnd
	params uint64 // where its kernel's parameters lie, in the same memory
}

type retiredWord struct {
	word *scoreboard.GraphWord
	mark issue.Mark
}

// JoinedStats are words of several clients' graphs.
type JoinedStats struct {
	Words    uint64 `json:"words"`    // issued
	Launches uint64 `json:"launches"` // of graphs in them
	Kernels  uint64 `json:"kernels"`  // of those
	Kept     int    `json:"kept"`     // that can be issued
	Chains   int    `json:"chains"`   // graphs in those, added up
	Nodes    int    `json:"nodes"`    // of all that exist
	Asked    uint64 `json:"asked"`
	Made     uint64 `json:"made"`
	Refused  uint64 `json:"refused"` // that could not be made
	Evicted  uint64 `json:"evicted"` // for others
	Unpaid   uint64 `json:"unpaid"`  // given up because they were no faster
	Waiting  int    `json:"waiting"` // launches of graphs that wait for others now
	// Coalesced are those words of which another one has alike nodes of its chains as one.
	Coalesced CoalescedStats `json:"coalesced"`
	// Apart counts launches of graphs that went by themselves, by reason (scoreboard.ApartReasons).
	Apart map[string]uint64 `json:"apart,omitempty"`
	// MakeSeconds is how long words took to make, on the loader's thread.
	MakeSeconds float64 `json:"make_seconds"`
}

// CoalescedStats are words of several clients' graphs in which nodes of several chains are one launch.
type CoalescedStats struct {
	Words   uint64 `json:"words"`   // issued; in JoinedStats.Words, too
	Nodes   uint64 `json:"nodes"`   // launches in them that do the work of several chains
	Kernels uint64 `json:"kernels"` // of the chains in those
	Kept    int    `json:"kept"`    // words that can be issued so
	Bytes   int    `json:"bytes"`   // parameters of the coalesced nodes of all that exist
	Asked   uint64 `json:"asked"`
	Made    uint64 `json:"made"`
	Refused uint64 `json:"refused"` // that could not be made
	Unpaid  uint64 `json:"unpaid"`  // given up because they were no faster than their chains side by side
}

// newJoiner makes the maker, and has the poller join graphs.
func newJoiner(x *executor) *joiner {
	m := &joiner{
		x: x, log: x.log, wake: make(chan struct{}, 1), ended: make(chan struct{}), owners: map[*scoreboard.Graph]owned{},
		words: map[*scoreboard.GraphWord]madeWord{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if how := x.config.Tuning.JoinGraphs; how != NeverJoin {
		x.poller.gather.JoinGraphs(word.GraphsOptions{Ask: m.ask, Retire: m.retire, Always: how == AlwaysJoin})
	}
	return m
}

// own notes whose a graph is; disown forgets it.
func (m *joiner) own(s *session, g *graph) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.owners[g.board] = owned{s, g}
}

func (m *joiner) disown(g *graph) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.owners, g.board)
}

// mostWordsAsked is how many words may wait to be made.
const mostWordsAsked = 16

// ask takes a word that is to be made. It runs on the poller's thread.
func (m *joiner) ask(w *scoreboard.GraphWord) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) == mostWordsAsked {
		return false
	}
	m.asked = append(m.asked, w)
	m.ring()
	return true
}

// retire takes a word that is not used again. It runs on the poller's thread.
func (m *joiner) retire(w *scoreboard.GraphWord) {
	mark := m.x.engine.Mark()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retired = append(m.retired, retiredWord{w, mark})
	m.ring()
}

func (m *joiner) ring() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run is the maker's goroutine.
func (m *joiner) run() {
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
			if left, ok := m.release(); !ok {
				return
			} else if left {
				again.Reset(retireLook)
			}
			m.mu.Lock()
			var w *scoreboard.GraphWord
			if len(m.asked) > 0 {
				w = m.asked[0]
				m.asked = slices.Delete(m.asked, 0, 1)
			}
			m.mu.Unlock()
			if w == nil {
				break
			}
			err := m.build(w)
			if errors.Is(err, errStopping) && !m.x.poller.call(func() {}) {
				return
			}
			if err != nil { // of a client that leaves, too
				m.refuse(w, err)
			}
		}
	}
}

// refuse notes that a word cannot be made.
func (m *joiner) refuse(w *scoreboard.GraphWord, err error) {
	w.Refused.Store(true)
	m.mu.Lock()
	if w.Coalesce {
		m.stats.Coalesced.Refused++
	} else {
		m.stats.Refused++
	}
	m.mu.Unlock()
	m.log.Info("graphs are not joined", "graphs", len(w.Graphs), "coalesced", w.Coalesce, "why", err)
}

// build makes a word. Its graphs are kept from being freed meanwhile.
func (m *joiner) build(w *scoreboard.GraphWord) error {
	if w.Dropped.Load() || m.x.engine.Fault() != gpu.Success {
		return nil
	}
	var members []owned
	defer func() {
		for _, o := range members {
			o.session.giveBack(o.graph)
		}
	}()
	for _, b := range w.Graphs {
		m.mu.Lock()
		o, ok := m.owners[b]
		m.mu.Unlock()
		if !ok || !o.session.borrow(b.ID, o.graph) {
			return fmt.Errorf("graph %d is gone", b.ID)
		}
		members = append(members, o)
	}
	if !m.loaded { // loading and pinning hold others up
		m.x.calm(0, calmLeaves)
		m.loaded = true
	}
	begun := time.Now()
	d := m.x.driver
	var made gpu.Graph
	var took madeWord
	err := m.x.loader.do(func() (err error) {
		if took, err = m.take(members, w.Coalesce); err != nil {
			return err
		}
		var r gpu.Result
		if made, r = d.GraphCreate(); r != gpu.Success {
			return asDriver(fmt.Errorf("cuGraphCreate: %w", r))
		}
		return nil
	})
	built := false
	defer func() {
		_ = m.x.loader.do(func() error { // an executor that leaves takes it along
			if made != 0 {
				d.GraphDestroy(made)
			}
			if !built {
				m.giveBack(took)
			}
			return nil
		})
	}()
	if err != nil {
		return err
	}
	if err := m.addChains(made, w, members, &took); err != nil {
		return err
	}
	return m.x.loader.do(func() error {
		exec, r := d.GraphInstantiate(made)
		if r != gpu.Success {
			return asDriver(fmt.Errorf("cuGraphInstantiate of %d nodes: %w", took.nodes, r))
		}
		m.x.uploadGraph(exec)
		w.Exec, built = exec, true
		for i := range took.ends {
			w.Ends = append(w.Ends, took.ends[i].ChainEnd)
		}
		m.words[w] = took
		m.mu.Lock()
		if w.Coalesce {
			m.stats.Coalesced.Made++
		} else {
			m.stats.Made++
		}
		m.busy += time.Since(begun)
		m.mu.Unlock()
		w.Built.Store(true)
		return nil
	})
}

// take reserves what a word of such graphs needs: of one that coalesces, no nodes, since it has far fewer than its graphs, and how many is
// known when it is made. It runs on the loader's thread.
func (m *joiner) take(members []owned, coalesce bool) (took madeWord, err error) {
	if err := m.prepare(); err != nil {
		return took, err
	}
	took.sessions = map[uint64]bool{}
	for _, o := range members {
		if !coalesce {
			took.nodes += int(o.graph.nodes) + 1
		}
		took.sessions[o.session.id] = true
	}
	if n := len(members); len(m.free) < n || m.nodes+took.nodes > maxChainNodes {
		return madeWord{}, errNoRoom
	}
	at := len(m.free) - len(members)
	took.ends = slices.Clone(m.free[at:])
	m.free = m.free[:at]
	m.chains, m.nodes = m.chains+len(took.ends), m.nodes+took.nodes
	m.count()
	return took, nil
}

// giveBack is the reverse.
func (m *joiner) giveBack(took madeWord) {
	m.free = append(m.free, took.ends...)
	m.discount(took)
}

// discount takes a word out of the books.
func (m *joiner) discount(took madeWord) {
	m.chains, m.nodes, m.bytes = m.chains-len(took.ends), m.nodes-took.nodes, m.bytes-took.bytes
	m.count()
}

func (m *joiner) count() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Nodes, m.stats.Coalesced.Bytes = m.nodes, m.bytes
}

// prepare loads what ends chains and makes the memory that it reads, once. It runs on the loader's thread.
func (m *joiner) prepare() error {
	if m.end != 0 || m.broken != nil {
		return m.broken
	}
	d := m.x.driver
	m.broken = func() error {
		code, err := d.ModuleLoad(append(slices.Clip(chainEndCode), 0))
		if err != nil {
			return fmt.Errorf("the kernel that ends chains: %w", err)
		}
		f, err := d.ModuleFunction(code, chainEndName)
		if err != nil {
			return fmt.Errorf("the kernel that ends chains: %w", err)
		}
		if m.block, err = unix.Mmap(-1, 0, coalesce.MaxParamBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			return fmt.Errorf("%d bytes for parameter blocks: %w", coalesce.MaxParamBytes, err)
		}
		host, r := d.HostAlloc(maxChains * uint64(scoreboard.ChainEndBytes))
		if r != gpu.Success {
			return asDriver(fmt.Errorf("%d ends of chains: %w", maxChains, r))
		}
		counts, err := d.Zeroed(maxChains * 4)
		if err != nil {
			return fmt.Errorf("%d counts of chains: %w", maxChains, err)
		}
		for i := range maxChains {
			row := host + uint64(i*scoreboard.ChainEndBytes)
			ended := row + uint64(scoreboard.ChainRowBytes)
			e := chainEnd{params: ended + 8}
			e.Row = (*[scoreboard.ChainMarks]scoreboard.ChainMark)(unsafe.Add(unsafe.Pointer(nil), row))
			e.Ended = (*uint32)(unsafe.Add(unsafe.Pointer(nil), ended))
			*e.Row, *e.Ended = [scoreboard.ChainMarks]scoreboard.ChainMark{}, 0
			*(*[3]uint64)(unsafe.Add(unsafe.Pointer(nil), e.params)) = [3]uint64{row, counts + uint64(4*i), ended}
			m.free = append(m.free, e)
		}
		m.end = f
		return nil
	}()
	return m.broken
}

// release destroys words that no queue holds and the GPU is done with. left: some have to wait; ok is false when the executor leaves.
func (m *joiner) release() (left, ok bool) {
	var ripe []*scoreboard.GraphWord
	m.mu.Lock()
	kept := m.retired[:0]
	for _, o := range m.retired {
		if m.x.engine.Passed(o.mark) {
			ripe = append(ripe, o.word)
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
	err := m.x.loader.do(func() error {
		for _, w := range ripe {
			if !m.destroy(w) {
				m.mu.Lock()
				m.retired = append(m.retired, retiredWord{word: w})
				m.mu.Unlock()
				left = true
			}
		}
		return nil
	})
	return left, err == nil
}

// destroy frees a word; false: it still runs. It runs on the loader's thread.
func (m *joiner) destroy(w *scoreboard.GraphWord) bool {
	took, ok := m.words[w]
	if !ok || m.x.engine.Fault() != gpu.Success {
		return true
	}
	for i := range w.Ends {
		if !w.Ends[i].Settled() {
			return false
		}
	}
	delete(m.words, w)
	if exec := w.Retire(); exec != 0 {
		m.x.driver.GraphExecDestroy(exec)
	}
	for i := range took.ends {
		took.ends[i].ChainEnd = w.Ends[i] // counts go on
	}
	m.giveBack(took)
	return true
}

// leave frees every word with a graph of a session, before its code is unloaded: the poller has forgotten them, no queue holds any, and
// the GPU is done with them. It runs on the loader's thread.
func (m *joiner) leave(session uint64) {
	for w, took := range m.words {
		if !took.sessions[session] {
			continue
		}
		if !m.destroy(w) { // its other clients' chains still run: the executable graph may go, its ends may not be used again
			delete(m.words, w)
			if exec := w.Retire(); exec != 0 {
				m.x.driver.GraphExecDestroy(exec)
			}
			m.discount(took)
		}
	}
}

// stop ends the maker.
func (m *joiner) stop() {
	m.cancel()
	select {
	case <-m.ended:
	case <-time.After(loaderPatience): // a driver call that hangs must not hold the process
	}
}

// snapshot completes what the poller counted.
func (m *joiner) snapshot(counted JoinedStats) JoinedStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	counted.Nodes, counted.Made, counted.Refused, counted.MakeSeconds = m.stats.Nodes, m.stats.Made, m.stats.Refused, m.busy.Seconds()
	c := &m.stats.Coalesced
	counted.Coalesced.Made, counted.Coalesced.Refused, counted.Coalesced.Bytes = c.Made, c.Refused, c.Bytes
	return counted
}

// What follows runs on the poller's thread.

// bench is where launches of graphs go now, before the shape and the op that go next otherwise; nil: nowhere.
func (p *poller) bench(s *scoreboard.Shape, op *scoreboard.Op, busy, force bool) *word.Bench {
	b := p.gather.NextBench(p.now, busy, force)
	if b == nil {
		return nil
	}
	if lead := b.Lead(); (op != nil && dispatch.Before(op, lead)) || (s != nil && dispatch.Before(s.Ready.First(), lead)) {
		return nil
	}
	return b
}

// together issues a word of a bench's launches, or has them go by themselves. It reports whether anything was issued.
func (p *poller) together(b *word.Bench) bool {
	t, apart := p.gather.Team(b, p.now)
	for _, op := range apart {
		p.gather.Remove(op)
		p.sched.Add(op)
	}
	if len(apart) > 0 {
		return false
	}
	if t != nil {
		w := word.Word{Team: t}
		p.engine.Direct = false
		if p.engine.Issue(&w) {
			p.trace.Word(&w, p.engine.Words)
			each := p.gather.TeamIssued(t, p.now)
			for _, op := range w.Ops() {
				p.issued(op, each, w.Len())
				p.offer(p.slots[op.Session.Slot], op.Session.Lane(op.Lane))
			}
			return true
		}
	}
	b.Tried(p.stats.Passes + 1)
	return false
}

// Graphs issues what a bench chose, if that goes before what else is ready.
func (p *poller) Graphs(s *scoreboard.Shape, op *scoreboard.Op, busy, force bool) (taken, issued bool) {
	b := p.bench(s, op, busy, force)
	if b == nil {
		return false, false
	}
	return true, p.together(b)
}

// joinedStats are the poller's counters of words of graphs.
func (p *poller) joinedStats() JoinedStats {
	c := p.gather.GraphCounters()
	st := JoinedStats{
		Words: p.gather.Words[word.Joined], Launches: c.Launches, Kernels: c.Kernels, Asked: c.Asked, Evicted: c.Evicted, Unpaid: c.Unpaid,
		Waiting: p.gather.GraphsWaiting(), Apart: reasons(&c.Apart),
		Coalesced: CoalescedStats{Words: c.Coalesced.Words, Nodes: c.Coalesced.Nodes, Kernels: c.Coalesced.Kernels, Asked: c.Coalesced.Asked, Unpaid: c.Coalesced.Unpaid},
	}
	st.Kept, st.Chains, st.Coalesced.Kept = p.gather.GraphWords()
	return st
}
