package executor

import (
	"fmt"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// A graph that takes longer than a class above its client's may wait is issued in parts, as a long kernel is in slices (slices.go): its
// nodes in their order, cut where the time is about even, each part an executable graph of its own. The parts of a launch follow one
// another on their lane's stream, so an edge between two of them needs nothing. They are built here, in the background, when they
// are first needed, and once more when they have been measured and are uneven; until then the graph goes whole.

// askedParts bounds the queue of graphs of which parts are wanted.
const askedParts = 64

type partsWanted struct {
	session *session
	graph   uint32
	parts   int
}

// askParts is Graph.Ask: the poller's, so it waits for nothing.
func (x *executor) askParts(s *session, id uint32) func(int) bool {
	return func(parts int) bool {
		select {
		case x.wanted <- partsWanted{s, id, parts}:
			return true
		default:
			return false
		}
	}
}

// cutGraphs builds parts until the poller ends.
func (x *executor) cutGraphs() {
	for {
		select {
		case w := <-x.wanted:
			w.session.cutGraph(w.graph, w.parts)
		case <-x.poller.ended:
			return
		}
	}
}

// cutGraph builds a graph in parts and hands them to the poller.
func (s *session) cutGraph(id uint32, parts int) {
	l := &s.graphs
	l.mu.Lock()
	g := l.live[id]
	l.mu.Unlock()
	if !s.borrow(id, g) {
		return
	}
	defer s.giveBack(g)
	built, err := s.buildParts(g, parts)
	if err != nil {
		s.log.Info("a graph is not cut", "graph", id, "parts", parts, "why", err)
	}
	s.x.poller.call(func() { g.board.Built(built) })
}

// buildParts makes the parts.
func (s *session) buildParts(g *graph, parts int) (*scoreboard.GraphParts, error) {
	var memory scoreboard.Ranges
	var old *scoreboard.GraphParts
	var whole int64
	ok := s.x.poller.call(func() {
		memory, whole = s.client.board.Memory.Clone(), g.board.Time()
		if p := g.board.Parts; p != nil {
			old = &scoreboard.GraphParts{Times: slices.Clone(p.Times), Nodes: p.Nodes}
		}
	})
	if !ok {
		return nil, errStopping
	}
	times, err := s.nodeTimes(g, scoreboard.NewGraphChecker(memory, g.kernels), old, whole)
	if err != nil {
		return nil, err
	}
	out := &scoreboard.GraphParts{}
	from := uint32(0)
	for _, n := range even(times, parts) {
		check := scoreboard.NewGraphChecker(memory, g.kernels)
		exec, err := s.buildGraph(g, check, from, from+uint32(n), func(*scoreboard.Op) {})
		if err != nil {
			return nil, err // those that were made are freed with the graph
		}
		g.parts = append(g.parts, exec)
		var t float64
		for _, ns := range times[from : from+uint32(n)] {
			t += ns
		}
		out.Execs, out.Nodes = append(out.Execs, exec), append(out.Nodes, n)
		out.Times, out.Measured = append(out.Times, max(1, int64(t))), append(out.Measured, false)
		from += uint32(n)
	}
	return out, nil
}

// nodeTimes estimates how long each node takes, ns, so that the parts of a cut that was measured, else the whole graph, take what they took.
func (s *session) nodeTimes(g *graph, check *scoreboard.GraphChecker, old *scoreboard.GraphParts, whole int64) ([]float64, error) {
	out := make([]float64, 0, g.nodes)
	r := shm.NewGraphReader(g.memory, g.nodes)
	var op scoreboard.Op
	for {
		v, ok, err := r.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if err := check.Node(&op, &v); err != nil {
			return nil, fmt.Errorf("node %d: %w", r.Node(), err)
		}
		const start = 2_000 // ns
		t := float64(start)
		switch op.Kind {
		case shm.KindLaunch:
			t += start * max(1, s.x.waves(&op))
		case shm.KindEvent:
			t = 1
		default:
			t += float64(op.Bytes()) / 1000 // an H100 moves some 1.5 KB a ns
		}
		out = append(out, t)
	}
	if old == nil {
		old = &scoreboard.GraphParts{Times: []int64{whole}, Nodes: []int{len(out)}}
	}
	from := 0
	for i, n := range old.Nodes {
		var sum float64
		for _, t := range out[from : from+n] {
			sum += t
		}
		for k := range out[from : from+n] {
			out[from+k] *= float64(max(1, old.Times[i])) / max(1, sum)
		}
		from += n
	}
	return out, nil
}

// even cuts nodes that take so long into at most parts runs of about the same time, and gives how many nodes each has.
func even(times []float64, parts int) (runs []int) {
	var left float64
	for _, t := range times {
		left += t
	}
	n, had := 0, 0.0
	for i, t := range times {
		// A node goes where more of it lies; every part gets one, and there are as many nodes left as parts.
		full := n > 0 && had+t/2 > left/float64(parts)
		if parts > 1 && n > 0 && (full || len(times)-i < parts) {
			runs = append(runs, n)
			left -= had
			parts--
			n, had = 0, 0
		}
		n++
		had += t
	}
	return append(runs, n)
}

// leaves says whether the session is being taken apart.
func (s *session) leaves() bool {
	s.graphs.mu.Lock()
	defer s.graphs.mu.Unlock()
	return s.graphs.closing
}

// stopGraphs ends the building of parts: what they consist of goes away.
func (s *session) stopGraphs() {
	s.graphs.mu.Lock()
	s.graphs.closing = true
	s.graphs.mu.Unlock()
	s.graphs.built.Wait()
}
