package executor

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// sliceGPU is a clockGPU that measures, and notes what is launched: whole kernels, and slices.
type sliceGPU struct {
	clockGPU
	mu     sync.Mutex
	forms  map[gpu.Function]*fakeForm
	log    []sliceLaunch
	refuse gpu.Result // of slices
	// priority is what streams were made with.
	priority map[gpu.Stream]int
}

func newSliceGPU(f *fakeGPU) *sliceGPU {
	return &sliceGPU{
		clockGPU: clockGPU{nullGPU: nullGPU{f}, now: 1e9, free: map[gpu.Stream]int64{}, events: map[gpu.Event]int64{}},
		forms:    map[gpu.Function]*fakeForm{}, priority: map[gpu.Stream]int{},
	}
}

func (g *sliceGPU) StreamCreate(priority int) (gpu.Stream, error) {
	s, err := g.clockGPU.StreamCreate(priority)
	g.priority[s] = priority
	return s, err
}

// sliceLaunch is a launch: of an op known by the first eight bytes of its parameters, blocks from … from+n-1 of grid.
type sliceLaunch struct {
	op            uint64
	from, n, grid uint32
	stream        gpu.Stream
	slice         bool
}

func (g *sliceGPU) Launch(l *gpu.Launch) gpu.Result {
	at := sliceLaunch{n: l.Grid[0], grid: l.Grid[0], stream: l.Stream}
	params := bytesAt(l.Params, l.ParamBytes)
	g.mu.Lock()
	f := g.forms[l.Function]
	if f != nil {
		if g.refuse != gpu.Success {
			g.mu.Unlock()
			return g.refuse
		}
		if n := f.count(l, params); n > 1 { // launches of several clients, joined
			for i := range n {
				in := f.at(params, i)
				g.log = append(g.log, sliceLaunch{op: binary.LittleEndian.Uint64(in.params), n: in.grid[0], grid: in.grid[0], stream: l.Stream})
			}
			g.mu.Unlock()
			return g.clockGPU.Launch(l)
		}
		in := f.at(params, 0)
		at.from, at.grid, at.slice = -in.first, in.grid[0], true
		if next := f.at(params, 1).first; next != at.n || in.done != 0 || l.Grid[1] != 1 || l.Grid[2] != 1 || len(params) != f.layout.ParamBytes {
			f.note("a slice of %v blocks: the next instance begins at %d, the done word is at %#x, %d parameter bytes", l.Grid, next, in.done, len(params))
		}
	}
	if len(params) >= 8 {
		at.op = binary.LittleEndian.Uint64(params)
	}
	g.log = append(g.log, at)
	g.mu.Unlock()
	return g.clockGPU.Launch(l)
}

func (g *sliceGPU) EventRecord(e gpu.Event, s gpu.Stream) gpu.Result {
	g.clockGPU.mu.Lock()
	defer g.clockGPU.mu.Unlock()
	g.events[e] = max(g.now, g.free[s])
	return gpu.Success
}

func (g *sliceGPU) EventElapsed(start, end gpu.Event) (float32, gpu.Result) {
	g.clockGPU.mu.Lock()
	defer g.clockGPU.mu.Unlock()
	if g.events[end] > g.now {
		return 0, gpu.NotReady
	}
	return float32(float64(g.events[end]-g.events[start]) / 1e6), gpu.Success
}

// launches are the launches so far.
func (g *sliceGPU) launches() []sliceLaunch {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]sliceLaunch(nil), g.log...)
}

// sliced is a poller on such a GPU, and a kernel with a form by table.
type sliced struct {
	*clocked
	gpu  *sliceGPU
	form *fakeForm
	code *scoreboard.Code
	ops  uint64
}

func newSliced(t *testing.T) *sliced {
	t.Helper()
	f := newFakeGPU()
	g := newSliceGPU(f)
	s := &sliced{clocked: onClock(newBenchOn(t, f, g), &g.clockGPU), gpu: g, form: newFakeForm(coalesce.ByTable, scoreboard.SliceCapacity, 16, func([]byte) {})}
	s.code = &scoreboard.Code{ID: 1, Name: "long"}
	g.forms[s.publish()] = s.form
	return s
}

// publish gives the kernel its form.
func (s *sliced) publish() gpu.Function {
	return s.bench.gpu.publish(s.form, s.code).Function
}

// launch submits an op of the kernel, and gives the number by which the GPU knows it.
func (s *sliced) launch(w *tester, lane, blocks uint32, change func(*shm.Header)) (op uint64) {
	s.ops++
	w.launchGrid(1, lane, blocks, binary.LittleEndian.AppendUint64(make([]byte, 0, 16), s.ops)[:16], change)
	return s.ops
}

// underWay makes low's kernel known to be long, lets high's client be seen, and has half a ms pass over a long op of low's.
func (s *sliced) underWay(low *client, lowRing, highRing *tester) {
	low.board.KernelByID(1).Code = s.code
	for range 4 {
		s.launch(lowRing, 1, 2000, nil)
		lowRing.ring.Publish()
		s.await(lowRing, 1)
	}
	highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
	highRing.ring.Publish()
	s.await(highRing, 1)
	s.launch(lowRing, 1, 2000, nil)
	lowRing.ring.Publish()
	for range 500 {
		s.tick()
	}
}

// await ticks until the client has seen the lane's last op done.
func (s *sliced) await(w *tester, lane uint32) {
	s.t.Helper()
	for i := 0; w.done(lane) != w.seq[lane]; i++ {
		if s.tick(); i > 100_000 {
			s.t.Fatalf("lane %d: %d of %d ops are done", lane, w.done(lane), w.seq[lane])
		}
	}
}

var urgent = sched.Settings{Priority: 100, MaxWait: 200 * micro, Coalesce: true}

// A long op of a class below one that is active goes in slices, each of half its max_wait; what is urgent goes between them, what
// follows in its lane goes behind them, and nobody hears of its end before the last. When nobody urgent is there it goes whole.
func TestSlices(t *testing.T) {
	const blocks = 2000
	s := newSliced(t)
	low, lowRing := s.in("batch", sched.Settings{Coalesce: true})
	_, highRing := s.in("interactive", urgent)
	low.board.KernelByID(1).Code = s.code
	long := func(lane uint32) uint64 {
		op := s.launch(lowRing, lane, blocks, nil)
		lowRing.ring.Publish()
		return op
	}
	for range 4 { // measured
		long(1)
		s.await(lowRing, 1)
	}
	for _, l := range s.gpu.launches() {
		if l.slice {
			t.Fatalf("nobody urgent was there, and %+v went", l)
		}
	}
	request := func() uint64 {
		s.ops++
		highRing.launchGrid(1, 1, 5, binary.LittleEndian.AppendUint64(nil, s.ops), func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		highRing.ring.Publish()
		return s.ops
	}
	request()
	s.await(highRing, 1)
	before := len(s.gpu.launches())
	first, second := long(1), long(1)
	other := long(2)
	for range 1000 {
		s.tick()
	}
	if low.board.InFlight() == 0 || lowRing.done(1) != 4 {
		t.Fatalf("%d ops in flight, %d done", low.board.InFlight(), lowRing.done(1))
	}
	if r := low.board.Running(); len(r) != 1 {
		t.Errorf("%d ops are running; one has begun", len(r))
	} else if n := atomic.LoadUint32(&lowRing.file.Lane(r[0].Lane).Issued); n != r[0].Seq {
		t.Errorf("the client's word says that %d ops are issued; number %d has begun", n, r[0].Seq)
	}
	mark := len(s.gpu.launches())
	u := request()
	s.await(highRing, 1)
	between := s.gpu.launches()[mark:]
	if between[0].op != u {
		t.Errorf("the urgent op went behind %+v", between[0])
	}
	s.await(lowRing, 1)
	s.await(lowRing, 2)
	next, slices := map[uint64]uint32{}, map[uint64]int{}
	for _, l := range s.gpu.launches()[before:] {
		if l.op != first && l.op != second && l.op != other {
			continue
		}
		if !l.slice || l.from != next[l.op] || l.grid != blocks || l.n > 150 {
			t.Fatalf("after %d blocks came %+v", next[l.op], l)
		}
		if l.op == second && next[first] != blocks {
			t.Fatalf("%+v went before the end of what it follows", l)
		}
		next[l.op] += l.n
		slices[l.op]++
	}
	for _, op := range []uint64{first, second, other} {
		if next[op] != blocks || slices[op] < blocks/150 {
			t.Errorf("op %d: %d blocks in %d slices", op, next[op], slices[op])
		}
	}
	st := s.poller.snapshot()
	if c := st.Coalescing; c.OpsSliced != 3 || int(c.Slices) != slices[first]+slices[second]+slices[other] {
		t.Errorf("%d ops in %d slices are counted", c.OpsSliced, c.Slices)
	}
	if w := st.Classes[0].Waits["slices"]; st.Classes[0].Class != "batch" || w != 3 || st.Classes[0].Ops != 7 {
		t.Errorf("batch: %+v", st.Classes[0])
	}
	if row := codeRow(s.code, ""); row.Sliced != 3 || row.Slices != st.Coalescing.Slices || row.Launches != 7 {
		t.Errorf("kernel: %+v", row)
	}
	s.clock.turn(s.clock.now + 200_000*micro) // nobody was urgent for long
	before = len(s.gpu.launches())
	long(1)
	s.await(lowRing, 1)
	if l := s.gpu.launches()[before:]; len(l) != 1 || l[0].slice {
		t.Errorf("with nobody urgent went %+v", l)
	}
	s.form.check(t)
}

// While a request of the class above is under way what has begun does not go on. Then nothing of it is late: the executor does not
// take it for a kernel that hangs, nor let it go because nothing completes.
func TestSlicesPause(t *testing.T) {
	s := newSliced(t)
	s.tick() // the engine knows the time
	s.poller.config.MaxKernelTime = 8 * time.Millisecond
	low, lowRing := s.in("batch", sched.Settings{Coalesce: true})
	_, highRing := s.in("interactive", urgent)
	s.underWay(low, lowRing, highRing)
	begun := len(s.gpu.launches())
	blocks := func() (n uint32) {
		for _, l := range s.gpu.launches() {
			if l.slice {
				n += l.n
			}
		}
		return n
	}
	if blocks() == 0 {
		t.Fatal("it has not begun")
	}
	for range 3 { // ops of one request, with times between them in which only the long op has begun
		highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
		highRing.ring.Publish()
		for range 4000 {
			s.tick()
		}
	}
	if n := len(s.gpu.launches()) - begun; n > 3+2 {
		t.Errorf("while the request was under way %d launches went; 3 were its own", n)
	}
	if n := blocks(); n >= 1000 {
		t.Errorf("%d blocks ran", n)
	}
	highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
	highRing.ring.Publish()
	s.await(lowRing, 1)
	if n := blocks(); n != 2000 {
		t.Errorf("%d blocks ran", n)
	}
}

// The streams of classes of larger priority have priority on the GPU: it places their blocks first as others end, which is what bounds
// the wait for a kernel that cannot be sliced.
func TestStreamPriorities(t *testing.T) {
	s := newSliced(t)
	var launched []gpu.Stream
	for i, priority := range []int32{-10, 0, 100} {
		_, w := s.in(fmt.Sprint(priority), sched.Settings{Priority: priority, Coalesce: true})
		op := uint64(1000 + i)
		w.launchGrid(1, 1, 5, binary.LittleEndian.AppendUint64(nil, op), nil)
		w.ring.Publish()
	}
	for range 200 {
		s.tick()
	}
	for i := range 3 {
		for _, l := range s.gpu.launches() {
			if l.op == uint64(1000+i) {
				launched = append(launched, l.stream)
			}
		}
	}
	if len(launched) != 3 {
		t.Fatalf("%d launches", len(launched))
	}
	if a, b, c := s.gpu.priority[launched[0]], s.gpu.priority[launched[1]], s.gpu.priority[launched[2]]; a <= b || b <= c {
		t.Errorf("classes of priority -10, 0, 100 launch on streams of priority %d, %d, %d (less is more urgent; the GPU has 0 to -5)", a, b, c)
	}
}

// A fault while a part of an op is on the GPU is the op's, and its kernel is no more rewritten.
func TestSliceFaults(t *testing.T) {
	s := newSliced(t)
	low, lowRing := s.in("batch", sched.Settings{Coalesce: true})
	_, highRing := s.in("interactive", urgent)
	s.underWay(low, lowRing, highRing)
	s.poller.fault(gpu.IllegalAddress, ExitFault, 0, gpu.IllegalAddress)
	if e := s.poller.end; len(e.inFlight) != 1 || e.blamed != low.id || e.kernel != 1 || len(e.apart) != 1 || e.apart[0] != [2]uint64{low.id, 1} {
		t.Errorf("%+v", e)
	}
	k := low.board.KernelByID(1)
	k.Apart = true // as the next executor is told
	s.poller.end = nil
	s.await(lowRing, 1)
	before := len(s.gpu.launches())
	highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
	highRing.ring.Publish()
	s.await(highRing, 1)
	s.launch(lowRing, 1, 2000, nil)
	lowRing.ring.Publish()
	s.await(lowRing, 1)
	for _, l := range s.gpu.launches()[before:] {
		if l.slice {
			t.Errorf("%+v of a kernel that was set apart", l)
		}
	}
}

// A form is asked for when a kernel was too long a few times, and not for others.
func TestSlicesAreAskedFor(t *testing.T) {
	s := newSliced(t)
	low, lowRing := s.in("batch", sched.Settings{Coalesce: true})
	_, highRing := s.in("interactive", urgent)
	bare := &scoreboard.Code{ID: 2, Name: "bare"}
	low.board.KernelByID(1).Code = bare
	for i := range 12 {
		highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		highRing.ring.Publish()
		s.await(highRing, 1)
		grid := uint32(100)
		if i > 5 {
			grid = 1000
		}
		s.launch(lowRing, 1, grid, nil)
		lowRing.ring.Publish()
		s.await(lowRing, 1)
		w, ok := s.poller.demand.Next()
		if ok != (i == 6+3+3) && i < 6+3 {
			t.Errorf("op %d: %+v, %v", i, w, ok)
		}
		if ok {
			if w.Mapping != coalesce.ByTable || w.Capacity != scoreboard.SliceCapacity || w.Count != 1 || w.Bodies[0] != bare {
				t.Errorf("%+v is asked for", w)
			}
			return
		}
	}
	t.Error("no form is asked for")
}

// The driver refuses slices: the op goes whole, once, and the form is not used again.
func TestSliceRefused(t *testing.T) {
	s := newSliced(t)
	low, lowRing := s.in("batch", sched.Settings{Coalesce: true})
	_, highRing := s.in("interactive", urgent)
	low.board.KernelByID(1).Code = s.code
	s.gpu.refuse = gpu.InvalidValue
	for range 8 {
		highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		highRing.ring.Publish()
		s.await(highRing, 1)
		s.launch(lowRing, 1, 2000, nil)
		lowRing.ring.Publish()
		s.await(lowRing, 1)
	}
	if !(*s.code.Forms.Load())[0].Refused.Load() || low.failed != gpu.Success {
		t.Errorf("refused: %v; the client has error %v", (*s.code.Forms.Load())[0].Refused.Load(), low.failed)
	}
	seen := map[uint64]int{}
	for _, l := range s.gpu.launches() {
		if l.grid == 2000 {
			seen[l.op]++
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d ops were launched", len(seen))
	}
	for op, n := range seen {
		if n != 1 {
			t.Errorf("op %d was launched %d times", op, n)
		}
	}
}

// Random clients of random classes, some of which fail, leave or change their class in the middle of a long op: every op that is not
// given up has each of its blocks once, in its lane's order; everything ends, also when the executor is told to leave; and nothing
// stays on the books.
func TestRandomSlices(t *testing.T) {
	seeds := uint64(3)
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		seeds = 300
	}
	total := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { total += randomSlices(t, rand.New(rand.NewPCG(seed, 9))) })
	}
	if total < 30 {
		t.Errorf("only %d slices", total)
	}
}

func randomSlices(t *testing.T, r *rand.Rand) (slices int) {
	s := newSliced(t)
	type submitted struct {
		client int
		lane   uint32
		seq    uint32
		blocks uint32
	}
	ops := map[uint64]submitted{}
	var clients []*client
	var all []*tester
	classes := []sched.Settings{{Coalesce: true}, {Coalesce: true, MinShare: 0.2}, {Coalesce: true, Latency: 3000 * micro}, urgent, {Priority: 50, Latency: 1000 * micro, Coalesce: true}}
	name := func(n int) string { return fmt.Sprint("c", n) }
	for i := range 6 {
		n := i % len(classes)
		c, w := s.in(name(n), classes[n])
		c.board.KernelByID(1).Code = s.code
		clients, all = append(clients, c), append(all, w)
	}
	gone := map[int]bool{}
	for range 40 {
		for i, w := range all {
			if gone[i] || r.IntN(3) > 0 {
				continue
			}
			for range r.IntN(3) {
				lane := 1 + r.Uint32N(2)
				grid := 1 + r.Uint32N(40)
				if classes[i%len(classes)].Priority == 0 && r.IntN(2) == 0 {
					grid = 500 + 500*r.Uint32N(4)
				}
				if w.seq[lane]-w.done(lane) < 20 {
					op := s.launch(w, lane, grid, func(h *shm.Header) {
						if r.IntN(4) == 0 {
							h.Flags = shm.RecordFlagWantSignal
						}
						if other := 3 - lane; w.seq[other] > 0 && r.IntN(4) == 0 {
							h.Deps = []shm.Dep{{Lane: other, Value: w.seq[other]}}
						}
					})
					ops[op] = submitted{i, lane, w.seq[lane], grid}
				}
			}
			w.ring.Publish()
		}
		for range r.IntN(300) {
			s.tick()
		}
		switch i := r.IntN(len(all)); {
		case r.IntN(30) == 0 && len(gone) < 2:
			gone[i] = true
			s.poller.detach(clients[i], func() {})
		case r.IntN(30) == 0 && len(gone) < 2:
			gone[i] = true
			s.poller.drop(clients[i], gpu.InvalidValue, shm.ReasonLaunchRefused, "the test says so")
		case r.IntN(20) == 0 && !gone[i]:
			n := r.IntN(len(classes))
			s.poller.classify(clients[i], name(n), classes[n])
		}
	}
	leave := r.IntN(2) == 0
	if leave {
		s.poller.leave(leaveNow)
		for i := 0; s.poller.pass(); i++ {
			for !s.poller.engine.Idle() {
				runtime.Gosched()
			}
			if s.clock.turn(s.clock.now + micro); i > 200_000 {
				t.Fatal("the executor does not leave")
			}
		}
	} else {
		for i, w := range all {
			for lane := uint32(1); lane <= 2 && !gone[i]; lane++ {
				s.await(w, lane)
			}
		}
		for range 2000 { // those that are gone
			s.tick()
		}
		for i, c := range clients {
			if c.board.InFlight()+c.board.Waiting() > 0 || c.books.Queued() > 0 {
				t.Errorf("client %d: %d in flight, %d waiting, %d ready", i, c.board.InFlight(), c.board.Waiting(), c.books.Queued())
			}
			s.poller.remove(c)
		}
		if s.poller.cuts.used != 0 {
			t.Errorf("marks %b are taken", s.poller.cuts.used)
		}
	}
	blocks := map[uint64]uint32{}
	last := map[[2]uint32]uint32{} // by client and lane: the op that ran last
	for _, l := range s.gpu.launches() {
		o, ok := ops[l.op]
		if !ok || l.from != blocks[l.op] || l.grid != o.blocks {
			t.Fatalf("after %d blocks of %+v came %+v", blocks[l.op], o, l)
		}
		key := [2]uint32{uint32(o.client), o.lane}
		if l.from > 0 && last[key] != o.seq || l.from == 0 && last[key]+1 != o.seq {
			t.Fatalf("client %d, lane %d: op %d had run when %+v of op %d came", o.client, o.lane, last[key], l, o.seq)
		}
		last[key] = o.seq
		if blocks[l.op] += l.n; l.slice {
			slices++
		}
	}
	for op, o := range ops {
		begun := blocks[op] > 0
		if gone[o.client] || leave && !begun {
			continue
		}
		if blocks[op] != o.blocks {
			t.Errorf("%+v: %d of %d blocks ran", o, blocks[op], o.blocks)
		}
	}
	s.form.check(t)
	return slices
}

// There are as many marks as bits to count them.
var _ [32 - issue.Marks]struct{}
