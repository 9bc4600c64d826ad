package daemon

import (
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

func graphFile(t *testing.T, bytes int64, seals int) int {
	t.Helper()
	fd, err := shm.CreateMemfd("graph", bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := shm.SealMemfd(fd, seals); err != nil {
		t.Fatal(err)
	}
	return fd
}

// graph asks for a graph; bytes are what its file has.
func (c *client) graph(t *testing.T, nodes uint32, bytes int64) shm.Message {
	t.Helper()
	m, err := c.ask(shm.TypeGraph, shm.Encode(shm.Graph{Bytes: uint64(bytes), Nodes: nodes}), nil, graphFile(t, bytes, shm.GraphSeals))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (c *client) dropGraph(t *testing.T, id uint32) uint16 {
	t.Helper()
	m, err := c.ask(shm.TypeGraphDrop, shm.Encode(shm.Graph{GraphID: id}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.Status
}

// Graphs have numbers of their own; a successor is given those that records may launch, with the files that the client gave, and is
// told of those that are dropped.
func TestGraphs(t *testing.T) {
	h := start(t)
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })
	number := func(m shm.Message) uint32 {
		t.Helper()
		r, err := shm.Decode[shm.Graph](m.Body)
		if err != nil || m.Status != shm.StatusOK {
			t.Fatalf("status %d: %s: %v", m.Status, m.Tail, err)
		}
		return r.GraphID
	}
	for want := uint32(1); want <= 3; want++ {
		if got := number(c.graph(t, 5, 64)); got != want {
			t.Fatalf("number %d; want %d", got, want)
		}
	}
	if m := c.graph(t, 13, 64); m.Status != shm.StatusRefused || string(m.Tail) != "node 3 is no node" {
		t.Errorf("status %d: %s", m.Status, m.Tail)
	}
	if s := c.dropGraph(t, 4); s != shm.StatusInvalid {
		t.Errorf("drop of a graph that was refused: status %d", s)
	}
	// Graph 1 is done with; graph 2 may still be launched by what lies in the ring.
	if s := c.dropGraph(t, 1); s != shm.StatusOK {
		t.Errorf("drop: status %d", s)
	}
	atomic.StoreUint64(&c.file.Producer().Tail, 96)
	if s := c.dropGraph(t, 2); s != shm.StatusOK {
		t.Errorf("drop: status %d", s)
	}
	if s := c.dropGraph(t, 2); s != shm.StatusInvalid {
		t.Errorf("a second drop: status %d", s)
	}
	// The fifth ends the first executor in the middle of the request.
	if got := number(c.graph(t, 14, 80)); got != 5 {
		t.Fatalf("number %d; want 5", got)
	}
	if e := atomic.LoadUint32(&c.file.Status().Epoch); e != 2 {
		t.Fatalf("epoch %d", e)
	}
	told := h.told()
	for _, want := range []string{"GRAPH client=1 fds=1 graph=2 nodes=5 bytes=64 file=", "GRAPH_DROP client=1 fds=0 graph=2", "graph=3 nodes=5 bytes=64 file=", "graph=5 nodes=14 bytes=80 file="} {
		if !strings.Contains(told, want) {
			t.Errorf("the successor was not told %q; it heard:\n%s", want, told)
		}
	}
	for _, not := range []string{"graph=1 ", "graph=4 ", "GRAPH_DROP client=1 fds=0 graph=3"} {
		if strings.Contains(told, not) {
			t.Errorf("the successor was told %q", not)
		}
	}
	if r, g := strings.Index(told, "RESUME client=1"), strings.LastIndex(told, "GRAPH"); r < g {
		t.Errorf("RESUME came before the last graph:\n%s", told)
	}
}

// A successor that refuses a graph gets the others, and the client learns which it is when it asks.
func TestGraphsRefusedByASuccessor(t *testing.T) {
	h := start(t)
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })
	fares := func(id uint32) (uint16, string) {
		t.Helper()
		m, err := c.ask(shm.TypeGraph, shm.Encode(shm.Graph{GraphID: id}), nil)
		if err != nil {
			t.Fatal(err)
		}
		return m.Status, string(m.Tail)
	}
	for _, nodes := range []uint32{5, 15, 6} {
		if m := c.graph(t, nodes, 64); m.Status != shm.StatusOK {
			t.Fatalf("a graph of %d nodes: status %d: %s", nodes, m.Status, m.Tail)
		}
	}
	if status, why := fares(2); status != shm.StatusOK {
		t.Errorf("before: status %d: %s", status, why)
	}
	if m := c.graph(t, 14, 80); m.Status != shm.StatusOK { // ends the first executor
		t.Fatalf("status %d: %s", m.Status, m.Tail)
	}
	for id, want := range map[uint32]uint16{1: shm.StatusOK, 2: shm.StatusRefused, 3: shm.StatusOK, 4: shm.StatusOK, 5: shm.StatusInvalid} {
		if status, why := fares(id); status != want || (want == shm.StatusRefused && why != "out of memory") {
			t.Errorf("graph %d: status %d: %s; want %d", id, status, why, want)
		}
	}
	if s := c.dropGraph(t, 2); s != shm.StatusOK {
		t.Errorf("drop of the refused one: status %d", s)
	}
	if c.state() != shm.StateLive || atomic.LoadUint32(&c.file.Status().Error) != 0 {
		t.Errorf("state %d, error %d", c.state(), c.file.Status().Error)
	}
}

// A client gets so many graphs, nodes and bytes; what it drops makes room when the records before are done.
func TestGraphBounds(t *testing.T) {
	h := start(t)
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })
	refused := func(what string, m shm.Message) {
		t.Helper()
		if m.Status != shm.StatusRefused || len(m.Tail) < 20 {
			t.Errorf("%s: status %d: %s", what, m.Status, m.Tail)
		}
	}
	ask := func(r shm.Graph, fds ...int) shm.Message {
		t.Helper()
		m, err := c.ask(shm.TypeGraph, shm.Encode(r), nil, fds...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	refused("a file that can be written", ask(shm.Graph{Bytes: 64, Nodes: 1}, graphFile(t, 64, shm.GraphSeals&^unix.F_SEAL_WRITE)))
	refused("a file that can shrink", ask(shm.Graph{Bytes: 64, Nodes: 1}, graphFile(t, 64, shm.GraphSeals&^unix.F_SEAL_SHRINK)))
	refused("a file of another size", ask(shm.Graph{Bytes: 128, Nodes: 1}, graphFile(t, 64, shm.GraphSeals)))
	refused("too many nodes", ask(shm.Graph{Bytes: 64, Nodes: shm.MaxGraphNodes + 1}, graphFile(t, 64, shm.GraphSeals)))
	refused("too many bytes", ask(shm.Graph{Bytes: shm.MaxGraphBytes + 16, Nodes: 1}, graphFile(t, shm.MaxGraphBytes+16, shm.GraphSeals)))
	if m := ask(shm.Graph{Bytes: 64, Nodes: 1}); m.Status == shm.StatusOK {
		t.Error("a graph without a file was taken")
	}
	for i := range shm.SessionGraphBytes / shm.MaxGraphBytes {
		if m := c.graph(t, 1, shm.MaxGraphBytes); m.Status != shm.StatusOK {
			t.Fatalf("graph %d: status %d: %s", i, m.Status, m.Tail)
		}
	}
	refused("more bytes", c.graph(t, 1, 16))
	atomic.StoreUint64(&c.file.Producer().Tail, 96)
	c.dropGraph(t, 2)
	refused("more bytes, while a dropped graph may be in flight", c.graph(t, 1, 16))
	atomic.StoreUint64(&c.file.Consumer().Head, 96)
	for i := range shm.SessionGraphNodes/shm.MaxGraphNodes - 1 {
		if m := c.graph(t, shm.MaxGraphNodes, 16); m.Status != shm.StatusOK {
			t.Fatalf("graph %d: status %d: %s", i, m.Status, m.Tail)
		}
	}
	refused("more nodes", c.graph(t, shm.MaxGraphNodes, 16))
	c.dropGraph(t, 1)
	if m := c.graph(t, shm.MaxGraphNodes-3, 16); m.Status != shm.StatusOK {
		t.Errorf("after a drop: status %d: %s", m.Status, m.Tail)
	}
	refused("more nodes", c.graph(t, shm.MaxGraphNodes, 16))
}
