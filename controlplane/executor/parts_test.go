package executor

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

func TestEven(t *testing.T) {
	for _, c := range []struct {
		times []float64
		parts int
		want  []int
	}{
		{[]float64{1, 1, 1, 1, 1, 1}, 3, []int{2, 2, 2}},
		{[]float64{1, 1, 1}, 3, []int{1, 1, 1}},
		{[]float64{100, 1, 1, 1}, 2, []int{1, 3}},
		{[]float64{1, 1, 1, 100}, 2, []int{3, 1}},
		{[]float64{0, 0, 0, 0}, 2, []int{3, 1}},
		{[]float64{5}, 1, []int{1}},
		{[]float64{5, 5}, 1, []int{2}},
	} {
		if got := even(c.times, c.parts); !slices.Equal(got, c.want) {
			t.Errorf("%v in %d parts: %v; want %v", c.times, c.parts, got, c.want)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		times := make([]float64, 1+rng.IntN(300))
		sum, most := 0.0, 0.0
		for i := range times {
			times[i] = rng.Float64() * rng.Float64()
			sum, most = sum+times[i], max(most, times[i])
		}
		parts := 1 + rng.IntN(len(times))
		runs := even(times, parts)
		at := 0
		for _, n := range runs {
			if n < 1 {
				t.Fatalf("an empty part among %v", runs)
			}
			at += n
		}
		if at != len(times) || len(runs) > parts {
			t.Fatalf("%d nodes in %d parts: %v", len(times), parts, runs)
		}
	}
}

// partsGPU is a sliceGPU whose graphs take their time.
type partsGPU struct {
	*sliceGPU
	times map[gpu.GraphExec]int64
	ran   []ranGraph
	// refused is not launched.
	refused gpu.GraphExec
}

type ranGraph struct {
	exec       gpu.GraphExec
	stream     gpu.Stream
	begin, end int64
}

func (g *partsGPU) GraphLaunch(x gpu.GraphExec, s gpu.Stream) gpu.Result {
	g.clockGPU.mu.Lock()
	defer g.clockGPU.mu.Unlock()
	if x == g.refused {
		return gpu.OutOfMemory
	}
	begin := max(g.now, g.free[s])
	g.free[s] = begin + g.times[x]
	g.ran = append(g.ran, ranGraph{x, s, begin, g.free[s]})
	return gpu.Success
}

func (g *partsGPU) graphs() []ranGraph {
	g.clockGPU.mu.Lock()
	defer g.clockGPU.mu.Unlock()
	return slices.Clone(g.ran)
}

// cutGraph is a poller on such a GPU with a client of a low class, whose graph takes 2 ms, and one of an urgent class.
type cutBench struct {
	*clocked
	gpu               *partsGPU
	low               *client
	lowRing, highRing *tester
	graph             *scoreboard.Graph
	asked             int
}

const wholeGraph = gpu.GraphExec(1)

func newCut(t *testing.T) *cutBench {
	t.Helper()
	f := newFakeGPU()
	g := &partsGPU{sliceGPU: newSliceGPU(f), times: map[gpu.GraphExec]int64{wholeGraph: 2_000 * micro}}
	s := &cutBench{clocked: onClock(newBenchOn(t, f, g), &g.clockGPU), gpu: g}
	s.low, s.lowRing = s.in("batch", sched.Settings{Coalesce: true})
	_, s.highRing = s.in("interactive", urgent)
	s.graph = &scoreboard.Graph{ID: 1, Nodes: 1000, Kernels: 1000, Weight: 1, Exec: wholeGraph}
	s.graph.Ask = func(parts int) bool { s.asked = parts; return true }
	s.low.board.AddGraph(s.graph)
	return s
}

// build does what was asked for: parts numbered from 100 × the number of the build on.
func (s *cutBench) build() {
	s.t.Helper()
	if s.asked == 0 {
		s.t.Fatal("no parts were asked for")
	}
	p := &scoreboard.GraphParts{}
	for i := range s.asked {
		x := gpu.GraphExec(10_000*(s.graph.Builds+1) + i)
		s.gpu.times[x] = 2_000 * micro / int64(s.asked)
		p.Execs, p.Nodes = append(p.Execs, x), append(p.Nodes, 1000/s.asked)
		p.Times, p.Measured = append(p.Times, 2_000*micro/int64(s.asked)), append(p.Measured, false)
	}
	s.asked = 0
	s.graph.Built(p)
}

func (s *cutBench) await(w *tester, lane uint32) {
	s.t.Helper()
	for i := 0; w.done(lane) != w.seq[lane]; i++ {
		if s.tick(); i > 100_000 {
			s.t.Fatalf("lane %d: %d of %d ops are done", lane, w.done(lane), w.seq[lane])
		}
	}
}

func (s *cutBench) run(lane uint32) {
	s.lowRing.run(1, lane, nil)
	s.lowRing.ring.Publish()
}

func (s *cutBench) request() {
	s.highRing.launchGrid(1, 1, 5, u64s(1), func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
	s.highRing.ring.Publish()
}

// A long graph below an active class goes in parts as soon as they are built, with urgent work between them; whole when nobody urgent is
// there. Its end is told once, behind the last part; launches of one graph never overlap, in whichever lanes.
func TestGraphInParts(t *testing.T) {
	s := newCut(t)
	for range 4 {
		s.run(1)
		s.await(s.lowRing, 1)
	}
	if s.asked != 0 {
		t.Error("parts were asked for while nobody urgent was there")
	}
	s.request()
	s.await(s.highRing, 1)
	s.run(1)
	s.await(s.lowRing, 1)
	for _, r := range s.gpu.graphs() {
		if r.exec != wholeGraph {
			t.Fatalf("%+v before any parts were built", r)
		}
	}
	if s.asked < 18 || s.asked > 22 { // of 100 µs, half of max_wait
		t.Fatalf("%d parts were asked for", s.asked)
	}
	s.build()
	before := len(s.gpu.graphs())
	s.request() // the class is active
	s.await(s.highRing, 1)
	s.run(1)
	s.run(1)
	s.run(2) // another lane's launch of the same graph
	for range 500 {
		s.tick()
	}
	if done := s.lowRing.done(1); done != 5 || s.low.board.InFlight() == 0 {
		t.Fatalf("%d done, %d in flight", done, s.low.board.InFlight())
	}
	longest := int64(0)
	for i := range 20 {
		begun := s.clock.now
		s.request()
		s.await(s.highRing, 1)
		longest = max(longest, s.clock.now-begun)
		for range 20 * i {
			s.tick()
		}
	}
	if longest > 10*micro+urgent.MaxWait {
		t.Errorf("an urgent op took %d µs beside the graph; its streams are its own, and it should take some 5", longest/micro)
	}
	s.await(s.lowRing, 1)
	s.await(s.lowRing, 2)
	ran := s.gpu.graphs()[before:]
	parts := len(s.graph.Parts.Execs)
	if len(ran) != 3*parts {
		t.Fatalf("%d parts ran; want 3 × %d", len(ran), parts)
	}
	end := int64(0)
	for i, r := range ran {
		if r.exec != s.graph.Parts.Execs[i%parts] {
			t.Fatalf("launch %d, part %d: %+v", i/parts, i%parts, r)
		}
		if r.begin < end {
			t.Fatalf("launch %d, part %d began at %d, before the end of what is before it, %d", i/parts, i%parts, r.begin, end)
		}
		end = r.end
	}
	st := s.poller.snapshot()
	if st.Coalescing.OpsSliced != 3 || st.Coalescing.Slices != uint64(3*parts) || st.Graphs.Launches != 8 || st.Launches != 8*1000+uint64(s.highRing.seq[1]) {
		t.Errorf("%+v, %+v, %d launches", st.Coalescing, st.Graphs, st.Launches)
	}
	if !slices.Equal(s.graph.Parts.Measured, slices.Repeat([]bool{true}, parts)) || s.graph.Time() != 2_000*micro {
		t.Errorf("the parts took %v, measured %v", s.graph.Parts.Times, s.graph.Parts.Measured)
	}
	// Nobody urgent for a while: whole again.
	s.clock.turn(s.clock.now + int64(time.Second))
	mark := len(s.gpu.graphs())
	s.run(3)
	s.await(s.lowRing, 3)
	if ran := s.gpu.graphs()[mark:]; len(ran) != 1 || ran[0].exec != wholeGraph {
		t.Errorf("with nobody urgent there went %+v", ran)
	}
}

// Parts that were guessed badly are cut once more by what was measured, and no oftener.
func TestGraphCutAgain(t *testing.T) {
	s := newCut(t)
	active := func() {
		s.request()
		s.await(s.highRing, 1)
		s.run(1)
		s.await(s.lowRing, 1)
	}
	for range 3 {
		active()
	}
	s.build()
	s.gpu.times[s.graph.Parts.Execs[0]] *= 12 // the first part is the long one
	for range 3 {
		active()
	}
	if s.asked == 0 {
		t.Fatal("a part that takes twice what a class above may wait was not cut again")
	}
	s.build()
	s.gpu.times[s.graph.Parts.Execs[0]] *= 12
	for range 3 {
		active()
	}
	if s.asked != 0 || s.graph.Builds != 2 {
		t.Errorf("built %d times, and %d parts are asked for again", s.graph.Builds, s.asked)
	}
}

// A client that is given up in the middle of a graph: what was issued runs, no other part is launched, and nothing hangs.
func TestGraphGivenUpInTheMiddle(t *testing.T) {
	s := newCut(t)
	for range 3 {
		s.request()
		s.await(s.highRing, 1)
		s.run(1)
		s.await(s.lowRing, 1)
	}
	s.build()
	s.request()
	s.await(s.highRing, 1)
	s.run(1)
	for range 500 {
		s.tick()
	}
	ran := len(s.gpu.graphs())
	idle := false
	s.poller.detach(s.low, func() { idle = true })
	for i := 0; !idle; i++ {
		if s.tick(); i > 100_000 {
			t.Fatal("the client is never let go")
		}
	}
	if now := len(s.gpu.graphs()); now > ran+1 || now > len(s.graph.Parts.Execs) {
		t.Errorf("%d parts were launched, %d before the client was given up", now, ran)
	}
	s.request()
	s.await(s.highRing, 1)
}

// Of a graph some parts of which were launched, nothing is launched twice: when the driver refuses the next part the client gets an
// error. When it refuses the first one the graph goes whole.
func TestGraphWhosePartIsRefused(t *testing.T) {
	for part := range 2 {
		s := newCut(t)
		for range 3 {
			s.request()
			s.await(s.highRing, 1)
			s.run(1)
			s.await(s.lowRing, 1)
		}
		s.build()
		p := s.graph.Parts
		for i := range 2 { // short enough that one slice has both
			p.Times[i], p.Measured[i] = 1, true
		}
		s.gpu.refused = p.Execs[part]
		s.request()
		s.await(s.highRing, 1)
		before := len(s.gpu.graphs())
		s.run(1)
		s.await(s.lowRing, 1)
		var whole, first int
		for _, r := range s.gpu.graphs()[before:] {
			switch r.exec {
			case wholeGraph:
				whole++
			case p.Execs[0]:
				first++
			}
		}
		if failed := s.low.failed != gpu.Success; whole != 1-part || first != part || failed != (part == 1) {
			t.Errorf("part %d is refused: the graph was launched whole %d times, its first part %d times; the client failed: %v", part, whole, first, failed)
		}
	}
}

// A graph may take as long as it took before, a dead client's and a living one's below max_kernel_time; what takes longer is endless.
func TestGraphsMayTakeLong(t *testing.T) {
	for _, is := range []struct{ dead, endless bool }{{true, false}, {true, true}, {false, false}, {false, true}} {
		s := newCut(t)
		s.gpu.times[wholeGraph] = 300 * micro
		if is.dead {
			s.poller.config.DeadKernelTime = 50 * time.Microsecond
		} else {
			s.poller.config.MaxKernelTime = 300 * time.Microsecond
			s.gpu.times[wholeGraph] = 1_500 * micro // it is looked at once in a ms
		}
		s.tick() // the engine knows the time
		for range 3 {
			s.run(1)
			s.await(s.lowRing, 1)
		}
		if is.endless {
			s.gpu.times[wholeGraph] *= 10
		}
		s.run(1)
		for len(s.gpu.graphs()) < 4 {
			s.tick()
		}
		over := func() bool { return s.lowRing.done(1) == s.lowRing.seq[1] }
		if is.dead {
			idle := false
			s.poller.detach(s.low, func() { idle = true })
			over = func() bool { return idle }
		}
		for i := 0; i < 50_000 && !over() && s.poller.end == nil; i++ {
			if s.poller.pass() {
				for !s.poller.engine.Idle() {
					runtime.Gosched()
				}
				s.clock.turn(s.clock.now + micro)
			}
		}
		if over() == is.endless || (s.poller.end != nil) != is.endless {
			t.Errorf("%+v: over %v, the executor's end %+v", is, over(), s.poller.end)
		}
	}
}

// slowGraph is a client of a low class with a graph of nodes that take a while, beside one of an urgent class that asks all the time.
func slowGraph(t *testing.T, nodes int) (g *fakeGPU, d *daemon, low, high *tester, want uint32) {
	t.Helper()
	g, d, low = served(t, nil)
	g.define("other", func(params []byte) {
		time.Sleep(50 * time.Microsecond)
		adder(params)
	})
	low.kernel(1, 2, "other")
	high = d.client(2)
	high.kernel(1, 1, "check")
	high.resume()
	d.must(shm.Message{Type: shm.TypeClass, ClientID: 1, Body: shm.Encode(shm.Class{Flags: shm.ClassFlagCoalesce}), Tail: []byte("batch")})
	d.must(shm.Message{Type: shm.TypeClass, ClientID: 2, Body: shm.Encode(shm.Class{Priority: 100, MaxWait: 100_000, Flags: shm.ClassFlagCoalesce}), Tail: []byte("interactive")})
	var of description
	rng := rand.New(rand.NewPCG(2, 3))
	var chain [4]uint32
	for range nodes {
		k := rng.IntN(len(chain))
		v := rng.Uint32N(100)
		var after []uint32
		if chain[k] != 0 {
			after = append(after, chain[k])
		}
		if rng.IntN(20) == 0 { // all behind one
			for _, n := range chain {
				if n != 0 && n != chain[k] {
					after = append(after, n)
				}
			}
		}
		chain[k] = of.launch(2, u64s(low.window+8*uint64(k), uint64(v)), after...)
		want += v
	}
	low.graph(1, &of)
	return g, d, low, high, want
}

func (c *tester) sum() (v uint32) {
	for k := range 4 {
		v += binary.LittleEndian.Uint32(c.memory[8*k:])
	}
	return v
}

// The whole way: parts are built from the description by the executor itself, and give what the graph gives.
func TestGraphCutByTheExecutor(t *testing.T) {
	g, d, low, high, want := slowGraph(t, 120)
	var stop atomic.Bool
	var urgentOps sync.WaitGroup
	urgentOps.Add(1)
	go func() {
		defer urgentOps.Done()
		for !stop.Load() {
			if high.sync(1, high.launch(1, 1, u64s(high.window, 1), nil)) != nil {
				return
			}
		}
	}()
	defer func() { stop.Store(true); urgentOps.Wait() }() // before the memory goes
	launches := uint32(0)
	until(t, "a launch in parts", func() bool {
		low.mustSync(1, low.run(1, 1, nil))
		launches++
		return d.stats().Coalescing.OpsSliced >= 2
	})
	stop.Store(true)
	urgentOps.Wait()
	if got := low.sum(); got != launches*want {
		t.Errorf("after %d launches the words add up to %d; want %d", launches, got, launches*want)
	}
	if n := g.alive(); n < 3 {
		t.Errorf("%d executable graphs; want the whole and its parts", n)
	}
	low.dropGraph(1)
	until(t, "all are freed", func() bool { return g.alive() == 0 && d.stats().Graphs.Live == 0 })
}

// A graph is dropped, and its client goes, while parts of it are built.
func TestGraphGoesWhileItIsCut(t *testing.T) {
	for _, how := range []string{"drop", "detach"} {
		t.Run(how, func(t *testing.T) {
			g, d, low, high, _ := slowGraph(t, 600)
			built := func() int { g.graphs.mu.Lock(); defer g.graphs.mu.Unlock(); return g.graphs.nodes }
			until(t, "parts are being built", func() bool {
				high.mustSync(1, high.launch(1, 1, u64s(high.window, 1), nil))
				low.mustSync(1, low.run(1, 1, nil))
				return built() > 600
			})
			if how == "drop" {
				if r := low.dropGraph(1); r.Status != shm.StatusOK {
					t.Errorf("status %d: %s", r.Status, r.Tail)
				}
			} else if r := low.detach(); r.Status != shm.StatusOK {
				t.Errorf("status %d: %s", r.Status, r.Tail)
			}
			until(t, "all are freed", func() bool { return g.alive() == 0 && d.stats().Graphs.Live == 0 })
		})
	}
}
