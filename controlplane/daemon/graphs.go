package daemon

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/shm"
)

// graph is a client's graph: the sealed file with its nodes, kept for the next executor. One that the client dropped is kept until
// the records that launch it are done, which only then need it no more.
type graph struct {
	bytes   uint64
	nodes   uint32
	fd      int
	dropped bool
	until   uint64 // ring position below which everything must be done; of a dropped one
	status  uint16 // of the executor's last answer: StatusOK or StatusRefused
	reason  string
	result  uint32
}

// reap forgets dropped graphs that no record needs. mu is held.
func (s *session) reap() {
	head := atomic.LoadUint64(&s.file.Consumer().Head)
	for id, g := range s.graphs {
		if g.dropped && int64(head-g.until) >= 0 {
			s.forgetGraph(id)
		}
	}
}

// forgetGraph closes what is kept of a graph. mu is held.
func (s *session) forgetGraph(id uint32) {
	if g := s.graphs[id]; g != nil {
		s.let(g.fd)
		s.graphBytes -= g.bytes
		s.graphNodes -= uint64(g.nodes)
		delete(s.graphs, id)
	}
}

// addGraph records a graph that was checked under a new number; the fd becomes the session's. mu is held.
func (s *session) addGraph(r *shm.Graph, fd int) (uint32, error) {
	if s.closed {
		return 0, errSlotClosed
	}
	s.reap()
	switch {
	case len(s.graphs) >= shm.MaxGraphs:
		return 0, refuse(shm.StatusRefused, "more than %d graphs in one client, with those that are dropped and in flight: destroy some", shm.MaxGraphs)
	case s.graphBytes+r.Bytes > shm.SessionGraphBytes, s.graphNodes+uint64(r.Nodes) > shm.SessionGraphNodes:
		return 0, refuse(shm.StatusRefused, "the client's graphs have %d nodes in %d bytes; %d nodes in %d bytes more would exceed %d nodes or %d bytes: destroy some",
			s.graphNodes, s.graphBytes, r.Nodes, r.Bytes, shm.SessionGraphNodes, shm.SessionGraphBytes)
	case s.nextGraph == ^uint32(0):
		return 0, refuse(shm.StatusRefused, "the client has made %d graphs", s.nextGraph)
	}
	if err := s.keep(); err != nil {
		return 0, refuse(shm.StatusRefused, "%v", err)
	}
	s.nextGraph++
	s.graphs[s.nextGraph] = &graph{bytes: r.Bytes, nodes: r.Nodes, fd: fd, status: shm.StatusOK}
	s.graphBytes += r.Bytes
	s.graphNodes += uint64(r.Nodes)
	return s.nextGraph, nil
}

// giveGraph gives an executor a graph and records its answer. s.mu is held.
func (p *executorProcess) giveGraph(s *session, id uint32, g *graph) error {
	reply, err := p.callAny(s.id, shm.TypeGraph, shm.Encode(shm.Graph{Bytes: g.bytes, Nodes: g.nodes, GraphID: id}), nil, g.fd)
	if err != nil {
		return err
	}
	body, err := shm.Decode[shm.Graph](reply.Body)
	if err != nil {
		return err
	}
	g.status, g.reason, g.result = reply.Status, string(reply.Tail), body.CUDAResult
	return nil
}

// dropGraph tells an executor that no further record will launch a graph. s.mu is held.
func (p *executorProcess) dropGraph(s *session, id uint32) error {
	_, err := p.call(s.id, shm.TypeGraphDrop, shm.Encode(shm.Graph{GraphID: id}), nil)
	return err
}

// restoreGraphs gives p all graphs that records in the ring, or to come, may launch. It refuses none because its driver does, only such
// as name memory that is gone, which no record of an honest client launches; that costs nothing else: the client asks how its graphs
// fare before it launches them again (askGraph). s.mu is held.
func (s *session) restoreGraphs(p *executorProcess) error {
	s.reap()
	for _, id := range slices.Sorted(maps.Keys(s.graphs)) {
		g := s.graphs[id]
		if g.status != shm.StatusOK {
			continue
		}
		err := p.giveGraph(s, id, g)
		if err == nil && g.dropped && g.status == shm.StatusOK {
			err = p.dropGraph(s, id)
		}
		if err != nil {
			return fmt.Errorf("graph %d: %w", id, err)
		}
	}
	return nil
}

func (d *Daemon) handleGraph(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Graph](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	if r.GraphID != 0 {
		return d.askGraph(s, m, r.GraphID)
	}
	fds, err := m.TakeFds(1)
	if err != nil {
		return shm.Message{}, err
	}
	if err := shm.CheckGraph(fds[0], &r); err != nil {
		closeFds(fds)
		return shm.Message{}, refuse(shm.StatusRefused, "%v", err)
	}
	s.mu.Lock()
	id, err := s.addGraph(&r, fds[0])
	g, told := s.graphs[id], s.told
	s.mu.Unlock()
	if err != nil {
		closeFds(fds)
		return shm.Message{}, err
	}
	err = d.tell(s, told, func(p *executorProcess) error {
		err := p.giveGraph(s, id, g)
		if err != nil && !errors.Is(err, errExecutorLost) {
			s.forgetGraph(id)
		}
		return err
	})
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.GraphID, r.CUDAResult = id, g.result
	reply := m.Reply(g.status, shm.Encode(r))
	reply.Tail = []byte(g.reason)
	if g.status != shm.StatusOK {
		s.refused = fmt.Sprintf("a graph of %d nodes: %s", g.nodes, g.reason)
		s.forgetGraph(id)
	}
	return reply, nil
}

// askGraph tells a client whether the executor that serves now has a graph that it gave before.
func (d *Daemon) askGraph(s *session, m *shm.Message, id uint32) (shm.Message, error) {
	if _, err := s.slot.current(d.ctx); err != nil { // a successor has been given all graphs, or refused some
		return shm.Message{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.graphs[id]
	if g == nil || g.dropped {
		return shm.Message{}, refuse(shm.StatusInvalid, "graph %d is unknown", id)
	}
	reply := m.Reply(g.status, shm.Encode(shm.Graph{Bytes: g.bytes, Nodes: g.nodes, GraphID: id, CUDAResult: g.result}))
	reply.Tail = []byte(g.reason)
	return reply, nil
}

func (d *Daemon) handleGraphDrop(s *session, m *shm.Message) (shm.Message, error) {
	r, err := shm.Decode[shm.Graph](m.Body)
	if err != nil {
		return shm.Message{}, err
	}
	s.mu.Lock()
	g := s.graphs[r.GraphID]
	if g == nil || g.dropped {
		s.mu.Unlock()
		return shm.Message{}, refuse(shm.StatusInvalid, "graph %d is unknown", r.GraphID)
	}
	g.dropped, g.until = true, atomic.LoadUint64(&s.file.Producer().Tail)
	told := s.told
	s.mu.Unlock()
	err = d.tell(s, told, func(p *executorProcess) error {
		if g.status != shm.StatusOK { // the next executor refused it, because memory that it names is gone: it does not know it
			return nil
		}
		return p.dropGraph(s, r.GraphID)
	})
	if err != nil {
		return shm.Message{}, err
	}
	return m.Reply(shm.StatusOK, m.Body), nil
}
