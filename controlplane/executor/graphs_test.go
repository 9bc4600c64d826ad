package executor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// description is a graph that a test writes node by node.
type description struct {
	b bytes.Buffer
	n uint32
}

// add writes a node behind others and returns its number.
func add[T shm.WireStruct](d *description, kind uint16, v T, payload []byte, after ...uint32) uint32 {
	d.n++
	deps := make([]byte, (8*len(after)+15)&^15)
	for i, a := range after {
		binary.LittleEndian.PutUint32(deps[8*i+4:], a)
	}
	body := shm.Encode(v)
	header := make([]byte, 32)
	binary.LittleEndian.PutUint32(header, uint32(32+len(deps)+len(body)+(len(payload)+15)&^15))
	binary.LittleEndian.PutUint16(header[4:], kind)
	binary.LittleEndian.PutUint32(header[12:], d.n)
	binary.LittleEndian.PutUint32(header[20:], uint32(len(after)))
	for _, part := range [][]byte{header, deps, body, payload, make([]byte, -len(payload)&15)} {
		d.b.Write(part)
	}
	return d.n
}

func (d *description) launch(kernel uint32, params []byte, after ...uint32) uint32 {
	return add(d, shm.KindLaunch, shm.Launch{Kernel: kernel, GridX: 1, GridY: 1, GridZ: 1, BlockX: 32, BlockY: 1, BlockZ: 1, ParamBytes: uint32(len(params))}, params, after...)
}

// join is a node that does nothing.
func (d *description) join(after ...uint32) uint32 {
	return add(d, shm.KindEvent, shm.EventMark{Slot: shm.EventSlots - 1}, nil, after...)
}

// graphFile is a sealed file with the description.
func graphFile(t testing.TB, b []byte) int {
	t.Helper()
	fd, err := shm.CreateMemfd("graph", int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if len(b) > 0 {
		if _, err := unix.Pwrite(fd, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := shm.SealMemfd(fd, shm.GraphSeals); err != nil {
		t.Fatal(err)
	}
	return fd
}

// give hands a graph over and returns the answer.
func (c *tester) give(id uint32, d *description) shm.Message {
	c.t.Helper()
	fd := graphFile(c.t, d.b.Bytes())
	return c.d.do(shm.Message{Type: shm.TypeGraph, ClientID: c.id, Fds: []int{fd}, Body: shm.Encode(shm.Graph{Bytes: uint64(d.b.Len()), Nodes: d.n, GraphID: id})})
}

// graph is give of one that must be taken.
func (c *tester) graph(id uint32, d *description) {
	c.t.Helper()
	if r := c.give(id, d); r.Status != shm.StatusOK {
		c.t.Fatalf("graph %d: status %d: %s", id, r.Status, r.Tail)
	}
}

// run submits a launch of a graph.
func (c *tester) run(id, lane uint32, change func(*shm.Header)) uint32 {
	c.t.Helper()
	return put(c, shm.KindGraph, lane, shm.GraphLaunch{Graph: id}, nil, change)
}

func (c *tester) dropGraph(id uint32) shm.Message {
	c.t.Helper()
	return c.d.do(shm.Message{Type: shm.TypeGraphDrop, ClientID: c.id, Body: shm.Encode(shm.Graph{GraphID: id})})
}

// A graph of every kind of node runs as one op, in order with the ops around it, and as often as it is launched.
func TestGraphOfEveryKind(t *testing.T) {
	g, d, c := served(t, nil)
	w := c.window
	var of description
	set := add(&of, shm.KindMemset, shm.Memset{Dst: w, Width: 4, Height: 1, Element: 4, Value: 5}, nil)
	pitched := add(&of, shm.KindMemset, shm.Memset{Dst: w + 4096, Pitch: 64, Width: 8, Height: 4, Element: 2, Value: 0xabcd}, nil)
	a := of.launch(1, u64s(w, 7), set)
	b := of.launch(1, u64s(w, 30), a)
	both := of.join(b, pitched)
	add(&of, shm.KindCopy, shm.Copy{Dst: w + 1024, Src: w, Bytes: 16}, nil, both)
	add(&of, shm.KindCopy3D, shm.Copy3D{Dst: w + 8192, DstPitch: 32, DstHeight: 4, Src: w + 4096, SrcPitch: 64, SrcHeight: 4, Width: 16, Height: 2, Depth: 1}, nil, both)
	add(&of, shm.KindCopy, shm.Copy{Dst: w, Src: w}, nil)
	c.graph(9, &of)
	c.run(9, 1, nil)
	c.launch(1, 1, u64s(w+1024, 100), nil)
	seq := put(c, shm.KindCopy, 1, shm.Copy{Dst: w + 2048, Src: w + 1024, Bytes: 4}, nil, nil)
	seq = max(seq, c.run(9, 1, nil))
	c.mustSync(1, seq)
	for at, want := range map[int]uint32{0: 42, 1024: 42, 2048: 142, 4: 5, 4096 + 192: 0xabcdabcd, 8192 + 32: 0xabcdabcd, 8192 + 64: 0} {
		if got := binary.LittleEndian.Uint32(c.memory[at:]); got != want {
			t.Errorf("at %d: %d; want %d", at, got, want)
		}
	}
	if uploads, built, _ := g.graphs.tell(); uploads != 1 || built != 0 {
		t.Errorf("%d uploads, %d graphs kept as they were built; want 1, 0", uploads, built)
	}
	st := d.stats()
	if s := st.Graphs; s.Given != 1 || s.Live != 1 || s.Nodes != 8 || s.Launches != 2 || s.Kernels != 4 || st.Launches != 5 || st.Sessions[0].Launches != 5 || st.Sessions[0].Graphs != 1 {
		t.Errorf("statistics: %+v, %d launches, session %+v", s, st.Launches, st.Sessions[0])
	}
	var rows []CodeStats
	if err := json.Unmarshal(d.must(shm.Message{Type: shm.TypeCodes}).Tail, &rows); err != nil || len(rows) != 1 || rows[0].InGraphs != 4 || rows[0].Launches != 1 {
		t.Errorf("kernels: %+v, %v", rows, err)
	}
}

// What is refused is refused with a sentence, and changes nothing for the client or others.
func TestGraphsRefused(t *testing.T) {
	g, d, c := served(t, nil)
	w := c.window
	one := func(f func(*description)) *description {
		var of description
		of.launch(1, u64s(w, 1))
		f(&of)
		return &of
	}
	for name, of := range map[string]*description{
		"unknown kernel": one(func(of *description) { of.launch(99, u64s(w, 1)) }),
		"memset outside": one(func(of *description) {
			add(of, shm.KindMemset, shm.Memset{Dst: w + segmentBytes, Width: 1, Height: 1, Element: 1}, nil)
		}),
		"copy outside": one(func(of *description) {
			add(of, shm.KindCopy, shm.Copy{Dst: w, Src: w + segmentBytes - 8, Bytes: 16}, nil)
		}),
		"copy overflows": one(func(of *description) { add(of, shm.KindCopy, shm.Copy{Dst: w, Src: w, Bytes: ^uint64(0)}, nil) }),
		"copy 3D outside": one(func(of *description) {
			add(of, shm.KindCopy3D, shm.Copy3D{Dst: w, Src: w, DstPitch: 1 << 40, SrcPitch: 1, Width: 1, Height: 2, Depth: 1}, nil)
		}),
		"later node":     one(func(of *description) { of.join(3) }),
		"more nodes":     one(func(of *description) { of.n++ }),
		"fewer nodes":    one(func(of *description) { of.n-- }),
		"too many nodes": one(func(of *description) { of.n = shm.MaxGraphNodes + 1 }),
		"cut":            one(func(of *description) { of.b.Truncate(of.b.Len() - 16) }),
	} {
		r := c.give(1, of)
		if r.Status != shm.StatusRefused || len(r.Tail) < 10 {
			t.Errorf("%s: status %d: %s", name, r.Status, r.Tail)
		}
	}
	g.graphs.refuseWith(gpu.OutOfMemory)
	r := c.give(1, one(func(*description) {}))
	if body, _ := shm.Decode[shm.Graph](r.Body); r.Status != shm.StatusRefused || body.CUDAResult != uint32(gpu.OutOfMemory) || !strings.Contains(string(r.Tail), "Instantiate") {
		t.Errorf("a graph that the driver refuses: status %d, result %d: %s", r.Status, body.CUDAResult, r.Tail)
	}
	g.graphs.refuseWith(gpu.Success)
	open := memfd(t, make([]byte, 48), 48)
	r = d.do(shm.Message{Type: shm.TypeGraph, ClientID: 1, Fds: []int{open}, Body: shm.Encode(shm.Graph{Bytes: 48, Nodes: 1, GraphID: 1})})
	if r.Status != shm.StatusRefused || !strings.Contains(string(r.Tail), "seals") {
		t.Errorf("a file that can be written: status %d: %s", r.Status, r.Tail)
	}
	if r := d.do(shm.Message{Type: shm.TypeGraph, ClientID: 1, Body: shm.Encode(shm.Graph{GraphID: 1})}); r.Status == shm.StatusOK {
		t.Error("a graph without a file was taken")
	}
	if r := c.dropGraph(1); r.Status != shm.StatusInvalid {
		t.Errorf("drop of a graph that was refused: status %d", r.Status)
	}
	st := d.stats().Graphs
	_, built, _ := g.graphs.tell()
	if st.Live != 0 || st.Nodes != 0 || st.Bytes != 0 || st.Refused["nodes"] != 11 || st.Refused["driver"] != 1 || g.alive() != 0 || built != 0 {
		t.Errorf("afterwards: %+v; the driver holds %d and %d", st, g.alive(), built)
	}
	c.graph(1, one(func(*description) {}))
	if r := c.give(1, one(func(*description) {})); r.Status != shm.StatusInvalid {
		t.Errorf("a number that is taken: status %d", r.Status)
	}
	c.mustSync(1, c.run(1, 1, nil))
	if got := binary.LittleEndian.Uint32(c.memory); got != 1 {
		t.Errorf("memory holds %d; want 1", got)
	}
	var empty description
	c.graph(2, &empty)
	c.mustSync(1, c.run(2, 1, nil))
}

// A record of a graph that does not exist is the client's own mistake.
func TestUnknownGraph(t *testing.T) {
	_, d, c := served(t, nil)
	other := d.client(2)
	other.kernel(1, 1, "check")
	other.resume()
	seq := c.run(5, 1, nil)
	if err := c.sync(1, seq); err == nil {
		t.Error("a graph that does not exist was launched")
	}
	if _, reason := c.sticky(); reason != shm.ReasonBadRecord {
		t.Errorf("reason %d", reason)
	}
	other.mustSync(1, other.launch(1, 1, u64s(other.window, 3), nil))
}

// A dropped graph lives until the records before the drop are done, and no longer; the answer does not wait for them.
func TestGraphDropInFlight(t *testing.T) {
	g, d, c := served(t, nil)
	var of description
	of.launch(1, u64s(c.window, 1))
	c.graph(1, &of)
	first := c.run(1, 1, func(h *shm.Header) { h.Ready = 1 }) // waits for native work
	last := c.run(1, 2, nil)
	c.ring.Publish()
	if r := c.dropGraph(1); r.Status != shm.StatusOK {
		t.Fatalf("status %d: %s", r.Status, r.Tail)
	}
	c.mustSync(2, last)
	if g.alive() != 1 || d.stats().Graphs.Live != 1 {
		t.Fatal("a graph was freed that a record before the drop launches")
	}
	atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
	c.mustSync(1, first)
	until(t, "the graph is freed", func() bool { return g.alive() == 0 })
	if got := binary.LittleEndian.Uint32(c.memory); got != 2 {
		t.Errorf("memory holds %d; want 2", got)
	}
	until(t, "it is off the books", func() bool { s := d.stats().Graphs; return s.Live == 0 && s.Bytes == 0 })
	if r := c.dropGraph(1); r.Status != shm.StatusInvalid {
		t.Errorf("a second drop: status %d", r.Status)
	}
}

// A record that comes after the drop, and was scanned before the graph was freed, finds nothing; it harms only its client.
func TestGraphUsedAfterDrop(t *testing.T) {
	g, d, c := served(t, nil)
	other := d.client(2)
	other.kernel(1, 1, "check")
	other.resume()
	var of description
	of.launch(1, u64s(c.window, 1))
	c.graph(1, &of)
	c.run(1, 2, nil)
	hold := c.launch(1, 3, u64s(c.window, 1), func(h *shm.Header) { h.Ready = 1 })
	c.ring.Publish()
	if r := c.dropGraph(1); r.Status != shm.StatusOK {
		t.Fatalf("status %d: %s", r.Status, r.Tail)
	}
	late := c.run(1, 4, func(h *shm.Header) { h.Ready = 1 })
	c.signal(4, late)
	c.ring.Publish()
	atomic.StoreUint32(&c.file.Lane(3).Ready, 1)
	c.mustSync(3, hold)
	until(t, "the graph is freed", func() bool { return g.alive() == 0 })
	atomic.StoreUint32(&c.file.Lane(4).Ready, 1)
	if err := c.await(4, late); err == nil {
		until(t, "the error", func() bool { code, _ := c.sticky(); return code != 0 })
	}
	if code, reason := c.sticky(); code != uint32(gpu.InvalidValue) || reason != shm.ReasonLaunchRefused {
		t.Errorf("error %d, reason %d", code, reason)
	}
	other.mustSync(1, other.launch(1, 1, u64s(other.window, 3), nil))
}

// Memory that a graph's copies name is unmapped: a launch then fails for its client, and nobody else notices.
func TestGraphOfLostMemory(t *testing.T) {
	_, d, c := served(t, nil)
	other := d.client(2)
	other.kernel(1, 1, "check")
	other.resume()
	fd := memfd(t, nil, segmentBytes)
	second := c.window + 2*segmentBytes
	d.must(shm.Message{Type: shm.TypeSegment, ClientID: 1, Body: shm.Encode(shm.Range{Address: second, Bytes: segmentBytes}), Fds: []int{fd}})
	var of, untouched description
	add(&of, shm.KindCopy, shm.Copy{Dst: c.window, Src: second + 64, Bytes: 64}, nil)
	c.graph(1, &of)
	add(&untouched, shm.KindCopy, shm.Copy{Dst: c.window, Src: c.window + 64, Bytes: 64}, nil)
	c.graph(2, &untouched)
	c.mustSync(1, c.run(1, 1, nil))
	d.must(shm.Message{Type: shm.TypeSegmentDrop, ClientID: 1, Body: shm.Encode(shm.Range{Address: second, Bytes: segmentBytes})})
	c.mustSync(1, c.run(2, 1, nil))
	seq := c.run(1, 1, nil)
	c.signal(1, seq)
	c.ring.Publish()
	until(t, "the error", func() bool { code, _ := c.sticky(); return code == uint32(gpu.InvalidValue) })
	other.mustSync(1, other.launch(1, 1, u64s(other.window, 3), nil))
}

// Graphs of a client that is gone are freed, in flight or not, dropped or not.
func TestGraphsOfADeadClient(t *testing.T) {
	g, d, c := served(t, nil)
	gate := make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(gate) })
	g.define("other", func([]byte) { <-gate })
	c.kernel(1, 2, "other")
	for id := range uint32(4) {
		var of description
		of.launch(2, u64s(c.window, 1))
		c.graph(id+1, &of)
		c.run(id+1, id, nil)
	}
	c.run(4, 5, func(h *shm.Header) { h.Ready = 1 }) // never
	c.ring.Publish()
	until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(3).Issued) == 1 })
	c.dropGraph(1)
	reply := d.send(shm.Message{Type: shm.TypeDetach, ClientID: 1})
	if g.alive() != 4 {
		t.Errorf("%d graphs while they run; want 4", g.alive())
	}
	once.Do(func() { close(gate) })
	if r := d.wait(reply); r.Status != shm.StatusOK {
		t.Fatalf("status %d: %s", r.Status, r.Tail)
	}
	if st := d.stats().Graphs; g.alive() != 0 || st.Live != 0 || st.Nodes != 0 {
		t.Errorf("the driver holds %d, the books say %+v", g.alive(), st)
	}
}

// Many lanes launch one graph at once: the driver is never in two calls for one executable graph, and nothing is lost.
func TestGraphFromManyLanes(t *testing.T) {
	g, _, c := served(t, func(c *Config) { c.IssueThreads = 4 })
	g.late = true
	var adds atomic.Int64
	g.define("other", func([]byte) { adds.Add(1) })
	c.kernel(1, 2, "other")
	var of description
	of.launch(2, u64s(c.window, 1))
	c.graph(1, &of)
	const lanes, each = 16, 8
	for i := range uint32(lanes * each) {
		c.run(1, i%lanes, nil)
	}
	for l := range uint32(lanes) {
		c.mustSync(l, each)
	}
	_, _, racing := g.graphs.tell()
	if racing {
		t.Error("two threads launched one executable graph at a time")
	}
	if n := adds.Load(); n != lanes*each {
		t.Errorf("%d launches; want %d", n, lanes*each)
	}
}

// Random graphs give what their nodes give when they are launched one by one.
func TestGraphsAreTheirNodes(t *testing.T) {
	_, _, c := served(t, nil)
	rng := rand.New(rand.NewPCG(5, 7))
	const words = 64
	for round := range 30 {
		var of description
		var want [words]uint32
		last := map[int]uint32{} // the node that wrote a word last
		readers := map[int][]uint32{}
		for i := range want {
			want[i] = uint32(i)
			binary.LittleEndian.PutUint32(c.memory[8*i:], want[i])
		}
		for range 1 + rng.IntN(120) {
			to, from := rng.IntN(words), rng.IntN(words)
			after := append([]uint32(nil), readers[to]...)
			for _, n := range []uint32{last[to], last[from]} {
				if n != 0 {
					after = append(after, n)
				}
			}
			for len(after) > 60 {
				after = append(after[60:], of.join(after[:60]...))
			}
			at := c.window + 8*uint64(to)
			var n uint32
			switch rng.IntN(3) {
			case 0:
				v := rng.Uint32N(1000)
				n = of.launch(1, u64s(at, uint64(v)), after...)
				want[to] += v
			case 1:
				v := rng.Uint32()
				n = add(&of, shm.KindMemset, shm.Memset{Dst: at, Width: 1, Height: 1, Element: 4, Value: v}, nil, after...)
				want[to] = v
			case 2:
				n = add(&of, shm.KindCopy, shm.Copy{Dst: at, Src: c.window + 8*uint64(from), Bytes: 4}, nil, after...)
				want[to] = want[from]
				readers[from] = append(readers[from], n)
			}
			last[to], readers[to] = n, nil
		}
		id := uint32(round + 1)
		c.graph(id, &of)
		c.mustSync(1, c.run(id, 1, nil))
		for i, v := range want {
			if got := binary.LittleEndian.Uint32(c.memory[8*i:]); got != v {
				t.Fatalf("round %d: word %d is %d after the graph; want %d", round, i, got, v)
			}
		}
		c.dropGraph(id)
	}
}

// A graph of 100,000 nodes (a tenth of them without HEDDLE_NIGHTLY): while it is built another client's kernels are loaded, and all
// others' ops run.
func TestLongGraph(t *testing.T) {
	n := 10_000
	if os.Getenv("HEDDLE_NIGHTLY") == "1" {
		n = 100_000
	}
	g, d, c := served(t, nil)
	var adds atomic.Int64
	g.define("other", func([]byte) { adds.Add(1) })
	c.kernel(1, 2, "other")
	var of description
	for last, i := of.launch(2, u64s(c.window, 1)), 1; i < n; i++ {
		last = of.launch(2, u64s(c.window, 1), last)
	}
	c.graph(1, &of)
	for range 3 {
		c.mustSync(1, c.run(1, 1, nil))
	}
	if got := adds.Load(); got != int64(3*n) {
		t.Errorf("%d kernels ran; want %d", got, 3*n)
	}
	if st := d.stats().Graphs; st.Kernels != uint64(3*n) || st.Launches != 3 || st.Nodes != uint64(n) {
		t.Errorf("%+v", st)
	}
}

// An endless stream of new graphs, dropped in flight, leaves nothing; and a client that drops none is refused at a bound.
func TestEndlessGraphs(t *testing.T) {
	g, d, c := served(t, nil)
	var of description
	of.launch(1, u64s(c.window, 1))
	id := uint32(0)
	for range 300 {
		id++
		c.graph(id, &of)
		c.run(id, id%8, nil)
		c.ring.Publish()
		c.dropGraph(id)
	}
	for l := range uint32(8) {
		c.mustSync(l, c.seq[l])
	}
	until(t, "all are freed", func() bool { return g.alive() == 0 && d.stats().Graphs.Live == 0 })
	var big description
	for range 1000 {
		big.join()
	}
	limit := shm.SessionGraphNodes / int(big.n)
	kept := 0
	for {
		id++
		r := c.give(id, &big)
		if r.Status == shm.StatusRefused {
			break
		}
		if kept++; r.Status != shm.StatusOK || kept > limit {
			t.Fatalf("graph %d of %d nodes: status %d: %s", kept, big.n, r.Status, r.Tail)
		}
	}
	if kept != limit || d.stats().Graphs.Refused["room"] != 1 {
		t.Errorf("%d graphs were taken; want %d, then a refusal for room", kept, limit)
	}
	for i := range uint32(kept) {
		c.dropGraph(id - 1 - i)
	}
	until(t, "all are freed", func() bool { return g.alive() == 0 })
}

// A graph in flight when the GPU faults: its client is to blame if nobody else had one; the successor repeats nothing of it.
func TestGraphFaults(t *testing.T) {
	g, d, c := served(t, nil)
	gate := make(chan struct{})
	g.define("other", func([]byte) { <-gate })
	c.kernel(1, 2, "other")
	other := d.client(2)
	other.kernel(1, 1, "check")
	other.resume()
	var of description
	of.launch(2, u64s(c.window, 1))
	c.graph(3, &of)
	c.run(3, 1, nil)
	c.ring.Publish()
	until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(1).Issued) == 1 })
	put(other, shm.KindMemset, 1, shm.Memset{Dst: other.window, Width: 1, Height: 1, Element: 4, Value: 1}, nil, func(h *shm.Header) { h.Ready = 1 })
	other.ring.Publish()
	g.fault.Store(700)
	close(gate)
	if err := d.end(); ExitCode(err) != ExitFault {
		t.Fatalf("end: %v", err)
	}
	f, err := shm.Decode[shm.Fault]((<-d.faults).Body)
	if err != nil || f.Blamed != 1 || f.Kernel != 0 {
		t.Errorf("%+v, %v; want client 1 blamed", f, err)
	}
	d.conn.Close()
	g.unmapAll()
	next := newFakeGPU()
	t.Cleanup(next.unmapAll)
	next.define("check", adder)
	next.define("other", func([]byte) { t.Error("a graph in doubt was repeated") })
	d2 := start(t, next.open, d.bell, nil)
	d2.image(1, testImage)
	c.attach(d2)
	c.kernel(1, 2, "other")
	c.graph(3, &of)
	c.resume()
	if code, reason := c.sticky(); code != uint32(gpu.LaunchFailed) || reason != shm.ReasonInDoubt {
		t.Errorf("error %d, reason %d; want IN_DOUBT", code, reason)
	}
}

// A successor launches what its predecessor had not, also of a graph that was dropped meanwhile.
func TestGraphTakeOver(t *testing.T) {
	g, d, c := served(t, nil)
	var of description
	of.launch(1, u64s(c.window, 1))
	c.graph(1, &of)
	seq := c.run(1, 1, func(h *shm.Header) { h.Ready = 1 })
	c.ring.Publish()
	until(t, "scanned", func() bool { return d.stats().Waiting == 1 })
	c.dropGraph(1)
	d.conn.Close()
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	g.unmapAll()
	next := newFakeGPU()
	t.Cleanup(next.unmapAll)
	next.define("check", adder)
	d2 := start(t, next.open, d.bell, nil)
	d2.image(1, testImage)
	c.attach(d2)
	c.kernel(1, 1, "check")
	c.graph(1, &of)
	c.dropGraph(1)
	c.resume()
	atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
	c.mustSync(1, seq)
	if got := binary.LittleEndian.Uint32(c.memory); got != 1 {
		t.Errorf("memory holds %d; want 1", got)
	}
	until(t, "it is freed", func() bool { return next.alive() == 0 })
}

// A successor whose driver does not make a graph any more launches it node by node: launches lie in the ring, and the client hears of
// nothing. It is in order with everything around it, as often as it is launched, and gone when it is dropped.
func TestGraphTakenOverNodeByNode(t *testing.T) {
	g, d, c := served(t, nil)
	w := c.window
	var of description
	set := add(&of, shm.KindMemset, shm.Memset{Dst: w, Width: 4, Height: 1, Element: 4, Value: 5}, nil)
	a := of.launch(1, u64s(w, 7), set)
	b := of.launch(1, u64s(w+4, 30), set)
	add(&of, shm.KindCopy, shm.Copy{Dst: w + 1024, Src: w, Bytes: 16}, nil, of.join(a, b))
	c.graph(1, &of)
	first := c.run(1, 1, func(h *shm.Header) { h.Ready = 1 })
	c.launch(1, 1, u64s(w+1024, 100), nil)
	c.ring.Publish()
	until(t, "scanned", func() bool { return d.stats().Waiting > 0 })
	d.conn.Close()
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	g.unmapAll()
	next := newFakeGPU()
	t.Cleanup(next.unmapAll)
	next.define("check", adder)
	next.graphs.refuseWith(gpu.OutOfMemory)
	d2 := start(t, next.open, d.bell, nil)
	d2.image(1, testImage)
	c.attach(d2)
	c.kernel(1, 1, "check")
	c.graph(1, &of)
	if r := c.give(2, &description{n: 1}); r.Status != shm.StatusRefused {
		t.Errorf("a graph that makes no sense: status %d", r.Status)
	}
	c.resume()
	if r := c.give(3, &of); r.Status != shm.StatusRefused { // no launch of it can lie anywhere
		t.Errorf("a new graph that the driver does not make: status %d", r.Status)
	}
	atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
	c.mustSync(1, first+1)
	for at, want := range map[int]uint32{0: 12, 4: 35, 8: 5, 1024: 112, 1028: 35} {
		if got := binary.LittleEndian.Uint32(c.memory[at:]); got != want {
			t.Errorf("at %d: %d; want %d", at, got, want)
		}
	}
	c.launch(1, 1, u64s(w, 1000), nil)
	for range 9 {
		c.run(1, 1, nil)
	}
	c.mustSync(1, c.launch(1, 1, u64s(w+1024, 100), nil))
	if got := binary.LittleEndian.Uint32(c.memory[1024:]); got != 112 {
		t.Errorf("after more launches: %d; want 112", got)
	}
	if st := d2.stats(); st.Graphs.Launches != 10 || st.Graphs.Kernels != 20 || st.Graphs.Live != 1 || st.Graphs.Refused["nodes"] != 1 || st.Graphs.Refused["driver"] != 1 {
		t.Errorf("statistics: %+v", st.Graphs)
	}
	if r := c.dropGraph(1); r.Status != shm.StatusOK {
		t.Errorf("drop: status %d", r.Status)
	}
	until(t, "it is freed", func() bool { return d2.stats().Graphs.Live == 0 })
	if err := c.sync(1, c.run(1, 1, nil)); err == nil {
		t.Error("a graph that was dropped was launched")
	}
}

// timedGPU says that everything takes nullTime.
type timedGPU struct{ nullGPU }

const nullTime = 500_000 // ns

func (timedGPU) EventElapsed(_, _ gpu.Event) (float32, gpu.Result) {
	return nullTime / 1e6, gpu.Success
}

// The time of a graph is measured, and its cost follows from it.
func TestGraphCost(t *testing.T) {
	f := newFakeGPU()
	b := newBenchOn(t, f, timedGPU{nullGPU{f}})
	c, w := b.client(nil)
	g := &scoreboard.Graph{ID: 1, Nodes: 4, Kernels: 4, Weight: 0.5, Exec: 7}
	c.board.AddGraph(g)
	if n := g.Cost(); n != 8_000 {
		t.Errorf("4 nodes that were never measured, of half the chip: %d ns; want 8,000", n)
	}
	for end := time.Now().Add(patience); !g.Measured(); {
		if time.Now().After(end) {
			t.Fatal("never measured")
		}
		seq := w.run(1, 1, nil)
		w.signal(1, seq)
		w.ring.Publish()
		for !shm.Reached(w.done(1), seq) && b.poller.pass() {
		}
	}
	if g.Cost() != g.Time()/2 || g.Time() != nullTime {
		t.Errorf("cost %d, time %d; the driver says %d", g.Cost(), g.Time(), nullTime)
	}
	if st := b.poller.snapshot(); st.Graphs.Launches == 0 || st.Launches != 4*st.Graphs.Launches {
		t.Errorf("%+v, %d kernels", st.Graphs, st.Launches)
	}
}

// FuzzGraph gives the executor's checks any description.
func FuzzGraph(f *testing.F) {
	var of description
	a := of.launch(1, u64s(testWindow, 1))
	b := add(&of, shm.KindMemset, shm.Memset{Dst: testWindow, Width: 4, Height: 1, Element: 4}, nil, a)
	add(&of, shm.KindCopy3D, shm.Copy3D{Dst: testWindow, Src: testWindow, Width: 1, Height: 1, Depth: 1}, nil, of.join(a, b))
	f.Add(of.b.Bytes(), of.n)
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, nodes uint32) {
		words := make([]uint64, len(b)/8+1)
		aligned := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))[:copy(unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words)), b)]
		var memory scoreboard.Ranges
		if err := memory.Add(testWindow, 1<<16); err != nil {
			t.Fatal(err)
		}
		check := scoreboard.NewGraphChecker(memory, map[uint32]*scoreboard.Kernel{1: {ID: 1, ParamBytes: 8, ParamsKnown: true, Limit: unlimited()}})
		r := shm.NewGraphReader(aligned, nodes)
		var op scoreboard.Op
		for {
			v, ok, err := r.Next()
			if err != nil || !ok {
				if ok || err == nil && r.Node() != nodes {
					t.Fatalf("node %d of %d: %v, %v", r.Node(), nodes, ok, err)
				}
				return
			}
			for _, d := range v.Deps() {
				if d.Lane != 0 || d.Value == 0 || d.Value >= v.Seq {
					t.Fatalf("node %d depends on %+v", v.Seq, d)
				}
			}
			if check.Node(&op, &v) != nil {
				return
			}
			if l := op.Launch(); v.Kind == shm.KindLaunch && l.ParamBytes > 0 {
				from, to := addressOf(aligned), addressOf(aligned)+uint64(len(aligned))
				if l.Params < from || l.Params+l.ParamBytes > to || l.ParamBytes < 8 {
					t.Fatalf("parameters at %#x+%d of bytes at %#x+%d", l.Params, l.ParamBytes, from, len(aligned))
				}
			}
			if a := op.Args; v.Kind == shm.KindCopy && a[2] > 0 && (a[0] < testWindow || a[1] < testWindow || max(a[0], a[1])+a[2] > testWindow+1<<16) {
				t.Fatalf("copy %#x", a)
			}
		}
	})
}
