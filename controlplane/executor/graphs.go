package executor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// This file is what becomes of a client's graph (docs/protocol.md, "Graphs"): its description is checked node by node, built and
// instantiated on the loader's thread, and freed when no op can need it any more.

// GraphDriver is what graphs need of a GPU beyond launching; *gpu.Device is one.
type GraphDriver interface {
	GraphCreate() (gpu.Graph, gpu.Result)
	GraphDestroy(g gpu.Graph) gpu.Result
	GraphKernel(g gpu.Graph, after []gpu.GraphNode, l *gpu.Launch) (gpu.GraphNode, gpu.Result)
	GraphMemset(g gpu.Graph, after []gpu.GraphNode, dst, pitch, width, height uint64, element, value uint32) (gpu.GraphNode, gpu.Result)
	GraphCopy(g gpu.Graph, after []gpu.GraphNode, dst, src, bytes uint64) (gpu.GraphNode, gpu.Result)
	GraphCopy3D(g gpu.Graph, after []gpu.GraphNode, c *gpu.Copy3D) (gpu.GraphNode, gpu.Result)
	GraphEmpty(g gpu.Graph, after []gpu.GraphNode) (gpu.GraphNode, gpu.Result)
	GraphInstantiate(g gpu.Graph) (gpu.GraphExec, gpu.Result)
	GraphUpload(x gpu.GraphExec, s gpu.Stream) gpu.Result
	GraphExecDestroy(x gpu.GraphExec) gpu.Result
}

// nodesAtOnce is how many nodes are built before the loader's thread turns to others: about a ms.
const nodesAtOnce = 512

// GraphStats are the graphs of an executor's clients; a part of Stats.
type GraphStats struct {
	Given    uint64            `json:"given"`    // instantiated since the start
	Live     int               `json:"live"`     // and not freed
	Nodes    uint64            `json:"nodes"`    // of those
	Bytes    uint64            `json:"bytes"`    // of their descriptions
	Refused  map[string]uint64 `json:"refused"`  // by reason: nodes, room, driver
	Launches uint64            `json:"launches"` // of graphs
	Kernels  uint64            `json:"kernels"`  // launched by them; in Stats.Launches too
	Joined   JoinedStats       `json:"joined"`   // words of several clients' graphs
}

// Reasons for which a graph is refused, as GraphStats counts them.
const (
	graphNodes  = "nodes"  // its description is not what docs/protocol.md says, or names what is not the session's
	graphRoom   = "room"   // its session has too much of graphs
	graphDriver = "driver" // the driver refused it
)

// graph is one graph of a session. Who takes it out of graphs.live frees it.
type graph struct {
	board  *scoreboard.Graph
	memory []byte // its description, mapped
	nodes  uint32
	bytes  uint64
	ranges []uint64 // first addresses of the memory that its copies and memsets name
	// kernels are those that it launches, by number. parts are all that were made of it; only who builds parts, and who frees it, looks.
	kernels map[uint32]*scoreboard.Kernel
	parts   []gpu.GraphExec
	// Under graphs.mu: how many build something of it, and that it is to be freed after that.
	borrowed int
	dropped  bool
}

// graphs are those of one session that are not freed, dropped or not.
type graphs struct {
	mu    sync.Mutex
	live  map[uint32]*graph
	nodes uint64
	bytes uint64
	// closing: nothing is built any more; built waits for what is.
	closing bool
	built   sync.WaitGroup
}

// graphBooks counts graphs for statistics, and keeps the stream that brings them to the device.
type graphBooks struct {
	mu     sync.Mutex
	stats  GraphStats
	upload gpu.Stream // 0: not made; the loader's
}

func (b *graphBooks) refused(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stats.Refused == nil {
		b.stats.Refused = map[string]uint64{}
	}
	b.stats.Refused[why]++
}

// snapshot adds the books to what the poller has counted.
func (b *graphBooks) snapshot(counted GraphStats) GraphStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.stats
	st.Refused = maps.Clone(st.Refused)
	st.Launches, st.Kernels, st.Joined = counted.Launches, counted.Kernels, counted.Joined
	return st
}

// graphError is why a graph cannot be made.
type graphError struct {
	why string // as GraphStats counts it
	err error
}

func (e *graphError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *graphError) Unwrap() error { return e.err }

// refuseGraph counts a graph that its client has to launch natively.
func (s *session) refuseGraph(why string, err error) error {
	s.x.graphs.refused(why)
	no := &refusal{status: shm.StatusRefused, text: err.Error()}
	var r gpu.Result
	if errors.As(err, &r) {
		no.result = r
	}
	return no
}

// graph makes the graph of a GRAPH message and gives it the daemon's number. A description that makes no sense refuses the graph and
// changes nothing else.
func (s *session) graph(m *shm.Message, ask *shm.Graph) error {
	fds, err := m.TakeFds(1)
	if err != nil {
		return err
	}
	defer unix.Close(fds[0])
	if err := shm.CheckGraph(fds[0], ask); err != nil {
		return s.refuseGraph(graphNodes, err)
	}
	g := &graph{nodes: ask.Nodes, bytes: ask.Bytes, board: &scoreboard.Graph{ID: ask.GraphID, Nodes: int(ask.Nodes)}}
	if err := s.reserveGraph(g, ask); err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			s.takeGraph(ask.GraphID)
			g.unmap()
		}
	}()
	if ask.Bytes > 0 {
		if g.memory, err = unix.Mmap(fds[0], 0, int(ask.Bytes), unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
			return s.refuseGraph(graphRoom, fmt.Errorf("mapping %d bytes of a graph: %w", ask.Bytes, err))
		}
	}
	var memory scoreboard.Ranges
	if !s.x.poller.call(func() { memory = s.client.board.Memory.Clone() }) {
		return errStopping
	}
	check := scoreboard.NewGraphChecker(memory, s.kernels)
	sum := newSum(s.x)
	g.board.Exec, err = s.buildGraph(g, check, 0, g.nodes, sum.add)
	var no *graphError
	if errors.As(err, &no) && no.why == graphDriver && !s.polled {
		// Of an executor that is gone, which had it: launches of it lie in the ring, and nobody else can make them in their order.
		s.log.Warn("a graph goes node by node, because the driver does not make it any more", "graph", ask.GraphID, "nodes", ask.Nodes, "error", err)
		sum = newSum(s.x)
		err = s.nodewise(g, check, sum.add)
	}
	switch {
	case errors.As(err, &no):
		return s.refuseGraph(no.why, err)
	case err != nil:
		return err
	}
	sum.finish(g.board)
	g.kernels = sum.used
	g.ranges = check.Ranges()
	if g.board.Nodewise == nil {
		g.board.Ask = s.x.askParts(s, g.board.ID)
		s.x.joiner.own(s, g)
	}
	kept = true
	s.x.graphs.mu.Lock()
	s.x.graphs.stats.Given++
	s.x.graphs.mu.Unlock()
	if !s.x.poller.call(func() { s.client.board.AddGraph(g.board) }) {
		return errStopping
	}
	return nil
}

// reserveGraph enters a graph into the books, or says why there is no room for it.
func (s *session) reserveGraph(g *graph, ask *shm.Graph) error {
	l := &s.graphs
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ask.GraphID == 0 || l.live[ask.GraphID] != nil:
		return refuse(shm.StatusInvalid, "graph id %d is taken", ask.GraphID)
	case len(l.live) >= shm.MaxGraphs || l.nodes+uint64(ask.Nodes) > shm.SessionGraphNodes || l.bytes+ask.Bytes > shm.SessionGraphBytes:
		return s.refuseGraph(graphRoom, fmt.Errorf("the client has %d graphs of %d nodes in %d bytes, some dropped and still in flight; one of %d nodes in %d bytes would be more than %d, %d or %d",
			len(l.live), l.nodes, l.bytes, ask.Nodes, ask.Bytes, shm.MaxGraphs, shm.SessionGraphNodes, shm.SessionGraphBytes))
	}
	if l.live == nil {
		l.live = map[uint32]*graph{}
	}
	l.live[ask.GraphID] = g
	l.nodes += uint64(ask.Nodes)
	l.bytes += ask.Bytes
	b := &s.x.graphs
	b.mu.Lock()
	b.stats.Live++
	b.stats.Nodes += uint64(ask.Nodes)
	b.stats.Bytes += ask.Bytes
	b.mu.Unlock()
	return nil
}

// takeGraph takes a graph out of the books; nil when somebody else has. It may run on any goroutine.
func (s *session) takeGraph(id uint32) *graph {
	l := &s.graphs
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.live[id]
	if g == nil {
		return nil
	}
	delete(l.live, id)
	s.x.joiner.disown(g)
	l.nodes -= uint64(g.nodes)
	l.bytes -= g.bytes
	b := &s.x.graphs
	b.mu.Lock()
	b.stats.Live--
	b.stats.Nodes -= uint64(g.nodes)
	b.stats.Bytes -= g.bytes
	b.mu.Unlock()
	return g
}

func (g *graph) unmap() {
	if g.memory != nil {
		_ = unix.Munmap(g.memory)
		g.memory = nil
	}
}

// buildGraph makes an executable graph of the nodes from+1 to to; what these depend on among the nodes before must run before. each
// sees every node. The work is done on the loader's thread, in pieces, between which it serves others.
func (s *session) buildGraph(g *graph, check *scoreboard.GraphChecker, from, to uint32, each func(*scoreboard.Op)) (exec gpu.GraphExec, err error) {
	d := s.x.driver
	var made gpu.Graph
	err = s.x.loader.do(func() error {
		var r gpu.Result
		if made, r = d.GraphCreate(); r != gpu.Success {
			return asDriver(fmt.Errorf("cuGraphCreate: %w", r))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	defer s.x.loader.do(func() error { d.GraphDestroy(made); return nil })
	err = s.addNodes(made, g, check, from, to, each)
	if err != nil {
		return 0, err
	}
	err = s.x.loader.do(func() error {
		var r gpu.Result
		if exec, r = d.GraphInstantiate(made); r != gpu.Success {
			return asDriver(fmt.Errorf("cuGraphInstantiate of %d nodes: %w", to-from, r))
		}
		s.x.uploadGraph(exec)
		return nil
	})
	return exec, err
}

// nodewise makes a graph one whose nodes are launched one by one. each sees every node.
func (s *session) nodewise(g *graph, check *scoreboard.GraphChecker, each func(*scoreboard.Op)) error {
	walk := func(f func(*scoreboard.Op) gpu.Result) error {
		var op scoreboard.Op
		for read := shm.NewGraphReader(g.memory, g.nodes); ; {
			v, ok, err := read.Next()
			if err != nil || !ok {
				return asNodes(err)
			}
			if err := check.Node(&op, &v); err != nil {
				return asNodes(fmt.Errorf("node %d: %w", read.Node(), err))
			}
			if op.Kind == shm.KindEvent { // it joins what is in order already
				continue
			}
			if r := f(&op); r != gpu.Success {
				return r
			}
		}
	}
	if err := walk(func(op *scoreboard.Op) gpu.Result { each(op); return gpu.Success }); err != nil {
		return err
	}
	g.board.Nodewise = func(f func(*scoreboard.Op) gpu.Result) gpu.Result {
		if err := walk(f); err != nil {
			return codeOf(err)
		}
		return gpu.Success
	}
	return nil
}

// addNodes adds the nodes from+1 to to of a graph to one of the driver's, as buildGraph says.
func (s *session) addNodes(made gpu.Graph, g *graph, check *scoreboard.GraphChecker, from, to uint32, each func(*scoreboard.Op)) error {
	var (
		read  = shm.NewGraphReader(g.memory, g.nodes)
		nodes = make([]gpu.GraphNode, 0, to-from)
		after [shm.MaxDeps]gpu.GraphNode
		op    scoreboard.Op
	)
	for more := true; more; {
		if s.leaves() {
			return errStopping
		}
		err := s.x.loader.do(func() error {
			for range nodesAtOnce {
				v, ok, err := read.Next()
				if more = ok && read.Node() <= to; err != nil || !more {
					return asNodes(err)
				}
				if read.Node() <= from {
					continue
				}
				deps := after[:0]
				for _, dep := range v.Deps() {
					if dep.Value > from {
						deps = append(deps, nodes[dep.Value-from-1])
					}
				}
				if err := check.Node(&op, &v); err != nil {
					return asNodes(fmt.Errorf("node %d: %w", read.Node(), err))
				}
				n, r := s.addNode(made, deps, &op)
				if r != gpu.Success {
					return asDriver(fmt.Errorf("the driver does not take node %d (kind %d): %w", read.Node(), op.Kind, r))
				}
				nodes = append(nodes, n)
				each(&op)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// asDriver and asNodes say who refuses a graph; asNodes gives nil for nil.
func asDriver(err error) error { return &graphError{graphDriver, err} }

func asNodes(err error) error {
	if err == nil {
		return nil
	}
	return &graphError{graphNodes, err}
}

// uploadGraph spares the first launch the way to the device; it runs on the loader's thread. Without it the first launch does it.
func (x *executor) uploadGraph(exec gpu.GraphExec) {
	b := &x.graphs
	if b.upload == 0 {
		s, err := x.driver.StreamCreate(x.facts.Least)
		if err != nil {
			return
		}
		b.upload = s
	}
	if r := x.driver.GraphUpload(exec, b.upload); r.Sticky() {
		x.engine.SetFault(r)
	}
}

// addNode adds one node to a graph of the driver's. It runs on the loader's thread.
func (s *session) addNode(g gpu.Graph, after []gpu.GraphNode, op *scoreboard.Op) (gpu.GraphNode, gpu.Result) {
	d, a := s.x.driver, &op.Args
	switch op.Kind {
	case shm.KindLaunch:
		k := op.Kernel
		if need := op.Launch().SharedBytes; need > k.Limit.Load() {
			if r := d.SetFuncAttribute(k.Function, gpu.FuncMaxDynamicShared, int(need)); r != gpu.Success {
				return 0, r
			}
			k.Limit.Store(need)
		}
		return d.GraphKernel(g, after, op.Launch())
	case shm.KindMemset:
		return d.GraphMemset(g, after, a[0], a[1], a[2], a[3], uint32(a[4]), uint32(a[5]))
	case shm.KindCopy:
		return d.GraphCopy(g, after, a[0], a[1], a[2])
	case shm.KindCopy3D:
		return d.GraphCopy3D(g, after, a)
	}
	return d.GraphEmpty(g, after)
}

// graphSum adds up what a graph's kernels are.
type graphSum struct {
	x       *executor
	kernels int
	key     uint64
	weight  float64
	codes   map[*scoreboard.Code]scoreboard.CodeCount
	used    map[uint32]*scoreboard.Kernel
}

func newSum(x *executor) *graphSum {
	return &graphSum{x: x, codes: map[*scoreboard.Code]scoreboard.CodeCount{}, used: map[uint32]*scoreboard.Kernel{}}
}

func (u *graphSum) add(op *scoreboard.Op) {
	u.key = (u.key ^ op.Key()) * 0x9e3779b97f4a7c15
	u.key ^= u.key >> 32
	if op.Kind != shm.KindLaunch {
		return
	}
	u.kernels++
	u.used[op.Kernel.ID] = op.Kernel
	if c := op.Kernel.Code; c != nil {
		n := u.codes[c]
		u.codes[c] = scoreboard.CodeCount{Code: c, Count: n.Count + 1, Flat: op.Launch().Grid[2] == 1 && (n.Flat || n.Count == 0)}
	}
	// As word.Gather.Weigh: half of the chip counts as all of it.
	u.weight += min(1, 2*u.x.waves(op))
}

// waves is how many times a launch fills the chip.
func (x *executor) waves(op *scoreboard.Op) float64 {
	l := op.Launch()
	blocks := float64(l.Grid[0]) * float64(l.Grid[1]) * float64(l.Grid[2])
	threads := min(uint64(l.Block[0])*uint64(l.Block[1]), 1024) * uint64(min(l.Block[2], 1024))
	const registers = 64
	shared := int(min(l.SharedBytes, 1<<20)) + int(min(op.Kernel.StaticShared, 1<<20))
	return blocks / float64(x.facts.Chip.Resident(int(min(threads, 1024)), registers, shared))
}

func (u *graphSum) finish(g *scoreboard.Graph) {
	const least = 1.0 / 16
	g.Key, g.Kernels, g.Weight = u.key|1, u.kernels, 1
	if u.kernels > 0 {
		g.Weight = max(least, u.weight/float64(u.kernels))
	}
	g.Codes = slices.Collect(maps.Values(u.codes))
}

// graphDrop frees a graph as soon as every record that the client has published is done. The client may do what these wait for only
// after the answer, so nothing is waited for here.
func (s *session) graphDrop(ask *shm.Graph) error {
	s.graphs.mu.Lock()
	g := s.graphs.live[ask.GraphID]
	s.graphs.mu.Unlock()
	if g == nil {
		return refuse(shm.StatusInvalid, "graph id %d is unknown", ask.GraphID)
	}
	c := s.client
	reached := func() {
		c.board.RemoveGraph(ask.GraphID)
		s.x.poller.gather.ForgetGraph(g.board)
		go s.x.loader.do(func() error { s.destroyGraph(ask.GraphID); return nil }) // an executor that leaves takes its graphs along
	}
	ok := s.x.poller.call(func() {
		switch tail := atomic.LoadUint64(&c.file.Producer().Tail); {
		case c.broken: // teardown frees it: the ring says nothing any more
		case s.polled && int64(c.board.Head()-tail) >= 0:
			reached()
		default:
			c.barriers = append(c.barriers, barrier{tail, reached})
		}
	})
	if !ok {
		return errStopping
	}
	return nil
}

// destroyGraph gives back what a graph holds; launches that still run go on to their end. It runs on the loader's thread. While
// somebody has borrowed it, giveBack does it.
func (s *session) destroyGraph(id uint32) {
	s.graphs.mu.Lock()
	if g := s.graphs.live[id]; g != nil && g.borrowed > 0 {
		g.dropped = true
		s.graphs.mu.Unlock()
		return
	}
	s.graphs.mu.Unlock()
	g := s.takeGraph(id)
	if g == nil {
		return
	}
	if exec := g.board.Retire(); exec != 0 {
		if r := s.x.driver.GraphExecDestroy(exec); r != gpu.Success {
			s.log.Error("graph not destroyed", "graph", id, "error", r)
		}
	}
	for _, exec := range g.parts {
		s.x.driver.GraphExecDestroy(exec)
	}
	g.unmap()
}

// borrow keeps a graph from being freed until giveBack; false: it is gone already, or about to be.
func (s *session) borrow(id uint32, g *graph) bool {
	l := &s.graphs
	l.mu.Lock()
	defer l.mu.Unlock()
	if g == nil || l.live[id] != g || l.closing || g.dropped {
		return false
	}
	g.borrowed++
	l.built.Add(1)
	return true
}

// giveBack ends borrow.
func (s *session) giveBack(g *graph) {
	l := &s.graphs
	l.mu.Lock()
	g.borrowed--
	drop := g.dropped && g.borrowed == 0
	l.mu.Unlock()
	l.built.Done()
	if drop {
		_ = s.x.loader.do(func() error { s.destroyGraph(g.board.ID); return nil }) // or the session's teardown has
	}
}

// dropGraphs destroys all graphs of a session that nothing of is in flight any more. It runs on the loader's thread.
func (s *session) dropGraphs() {
	s.graphs.mu.Lock()
	ids := make([]uint32, 0, len(s.graphs.live))
	for id := range s.graphs.live {
		ids = append(ids, id)
	}
	s.graphs.mu.Unlock()
	for _, id := range ids {
		s.destroyGraph(id)
	}
}

// loseMemory marks the graphs that copy to or from a range which is about to be unmapped: launching them would name nothing, or
// somebody else's memory.
func (s *session) loseMemory(address uint64) {
	s.graphs.mu.Lock()
	defer s.graphs.mu.Unlock()
	for _, g := range s.graphs.live {
		for _, at := range g.ranges {
			if at == address {
				g.board.Lose()
			}
		}
	}
}

// Goes says whether a graph that the scheduler gave may be issued: not while another lane's launch of it is only partly issued. Parts
// may have been built since it became ready.
func (p *poller) Goes(op *scoreboard.Op) bool {
	g := op.Graph
	if op.Session.Lane(op.Lane).Part == op {
		return true
	}
	if g.Running(op.Session) {
		return false
	}
	op.Cuts = p.slots[op.Session.Slot].hold == nil && g.Cuts(op.Session.Class)
	return true
}

// graphTime is how long the graphs in flight of a session may take, ns: twice what they took. Nothing of one is seen done before its end.
func graphTime(b *scoreboard.Session) (ns int64) {
	for _, op := range b.Running() {
		if op.Kind == shm.KindGraph {
			ns += 2 * op.Graph.Lasts()
		}
	}
	return ns
}

// graphIssued keeps the books of a graph that was launched; it runs on the poller's thread.
func (p *poller) graphIssued(op *scoreboard.Op) {
	op.Graph.Launched++
	op.Session.Launches += uint64(op.Graph.Kernels)
	p.stats.GraphLaunches++
	p.stats.GraphKernels += uint64(op.Graph.Kernels)
}
