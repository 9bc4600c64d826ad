package executor

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// witness is a kernel with the parameters client, lane, tag: it knows what ran in each lane, and what must have run before.
type witness struct {
	mu    sync.Mutex
	ran   map[[2]uint64][]uint64    // client and lane → tags
	after map[[3]uint64][][2]uint64 // client, lane and number → lane, number: must have run
	wrong []string
	slow  int // one op in so many takes long
	n     int
	at    func(n int) // called at the n-th op
}

func newWitness() *witness {
	return &witness{ran: map[[2]uint64][]uint64{}, after: map[[3]uint64][][2]uint64{}}
}

func (w *witness) kernel(params []byte) {
	client, lane, tag := binary.LittleEndian.Uint64(params), binary.LittleEndian.Uint64(params[8:]), binary.LittleEndian.Uint64(params[16:])
	w.mu.Lock()
	w.n++
	n, at := w.n, w.at
	w.mu.Unlock()
	if w.slow > 0 && n%w.slow == 0 {
		time.Sleep(200 * time.Microsecond)
	} else {
		runtime.Gosched()
	}
	if at != nil {
		at(n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	me := [2]uint64{client, lane}
	number := uint64(len(w.ran[me]) + 1)
	for _, b := range w.after[[3]uint64{client, lane, number}] {
		if uint64(len(w.ran[[2]uint64{client, b[0]}])) < b[1] && len(w.wrong) < 10 {
			w.wrong = append(w.wrong, fmt.Sprintf("client %d: number %d of lane %d ran before number %d of lane %d", client, number, lane, b[1], b[0]))
		}
	}
	w.ran[me] = append(w.ran[me], tag)
}

// Programs that repeat themselves, nearly or wholly, in several lanes and clients, with dependencies, ready words, done words asked for
// anywhere, and now and then a client that leaves in the middle: per lane exactly what was submitted runs, in order, behind all that it
// depends on; and nothing is left of runs when their clients are gone.
func TestPreparedPrograms(t *testing.T) {
	total := uint64(0)
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { total += preparedProgram(t, seed) })
	}
	if total < 2000 {
		t.Errorf("only %d ops of all programs were prepared", total)
	}
}

func preparedProgram(t *testing.T, seed uint64) uint64 {
	const clients, rounds = 3, 50
	w := newWitness()
	w.slow = []int{0, 40, 7}[seed%3]
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.late = seed%2 == 1
	g.define("check", w.kernel)
	g.define("other", w.kernel)
	d := start(t, g.open, nil, func(c *Config) { c.IssueThreads = 1 + int(seed%3) })
	d.image(1, testImage)
	lanes := []int{1, 2, 5}[seed%3]
	var wg sync.WaitGroup
	for id := uint64(1); id <= clients; id++ {
		c := d.client(id)
		c.kernel(1, 1, "check")
		c.kernel(1, 2, "other")
		c.resume()
		own := rand.New(rand.NewPCG(seed, id))
		stop := make(chan struct{})
		wg.Add(2)
		go func() { // the native side
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					for l := range lanes {
						atomic.AddUint32(&c.file.Lane(uint32(1+l)).Ready, 50)
					}
				}
			}
		}()
		go func() {
			defer wg.Done()
			defer close(stop)
			want := map[uint32][]uint64{}
			program := make([]uint64, 20+own.IntN(60))
			for i := range program {
				program[i] = own.Uint64N(8)
			}
			change := own.IntN(8) // percent
			leaves := id == clients && seed%2 == 0
			for round := range rounds {
				lane := uint32(1 + own.IntN(lanes))
				for i, tag := range program {
					if own.IntN(100) < change {
						tag += 100
					}
					if own.IntN(lanes*40) == 0 {
						lane = uint32(1 + own.IntN(lanes))
					}
					var deps []shm.Dep
					var before [][2]uint64
					if own.IntN(10) == 0 {
						if on := uint32(1 + own.IntN(lanes)); c.seq[on] > 0 {
							v := 1 + own.Uint32N(c.seq[on])
							deps, before = append(deps, shm.Dep{Lane: on, Value: v}), append(before, [2]uint64{uint64(on), uint64(v)})
						}
					}
					number := uint64(c.seq[lane] + 1)
					if len(before) > 0 {
						w.mu.Lock()
						w.after[[3]uint64{id, uint64(lane), number}] = before
						w.mu.Unlock()
					}
					c.launchGrid(1+uint32(i%2), lane, uint32(1+i%3), u64s(id, uint64(lane), tag), func(h *shm.Header) {
						h.Deps = deps
						if own.IntN(60) == 0 {
							h.Ready = uint32(1 + own.IntN(100))
						}
						if own.IntN(50) == 0 {
							h.Flags = shm.RecordFlagWantSignal
						}
					})
					want[lane] = append(want[lane], tag)
				}
				c.ring.Publish()
				if leaves && round == rounds-5 {
					if r := c.detach(); r.Status != shm.StatusOK {
						t.Errorf("detach: %d %s", r.Status, r.Tail)
					}
					break
				}
				if own.IntN(3) == 0 {
					if err := c.sync(lane, c.seq[lane]); err != nil {
						t.Errorf("client %d: %v", id, err)
						return
					}
				}
			}
			for l, tags := range want {
				if !leaves && c.sync(l, c.seq[l]) != nil {
					t.Errorf("client %d: sticky error", id)
				}
				w.mu.Lock()
				got := w.ran[[2]uint64{id, uint64(l)}]
				if len(got) > len(tags) || (!leaves && len(got) < len(tags)) {
					t.Errorf("client %d lane %d: %d ops ran of %d", id, l, len(got), len(tags))
				}
				for i := range min(len(got), len(tags)) {
					if got[i] != tags[i] {
						t.Errorf("client %d lane %d: op %d did %d; want %d", id, l, i+1, got[i], tags[i])
						break
					}
				}
				w.mu.Unlock()
			}
		}()
	}
	wg.Wait()
	st := d.stats()
	for id := uint64(1); id <= clients; id++ {
		d.do(shm.Message{Type: shm.TypeDetach, ClientID: id}) // the one that left is not there any more
	}
	if n := g.alive(); n != 0 {
		t.Errorf("%d graphs are left of clients that are gone", n)
	}
	if _, _, racing := g.graphs.tell(); racing {
		t.Error("a graph was in two calls at a time")
	}
	for _, s := range w.wrong {
		t.Error(s)
	}
	p := st.Prepared
	if p.Ops < p.Words*sequence.Least || st.Words+p.Ops-p.Words < st.Launches || p.Refused != 0 {
		t.Errorf("%d words, %d launches, %+v", st.Words, st.Launches, p)
	}
	t.Logf("%d launches, %+v", st.Launches, p)
	return p.Ops
}

// repeats has a client repeat a program of n ops, as often as it takes until some go prepared.
func repeats(t *testing.T, d *daemon, c *tester, n int) {
	t.Helper()
	begun := d.stats().Prepared.Words
	until(t, "runs are prepared", func() bool {
		for i := range n {
			c.launch(1, 1, u64s(c.id, 1, uint64(i)), nil)
		}
		c.mustSync(1, c.seq[1])
		return d.stats().Prepared.Words > begun+4
	})
}

// witnessed is an executor with one client.
func witnessed(t *testing.T, change func(*Config)) (*fakeGPU, *daemon, *tester, *witness) {
	t.Helper()
	w := newWitness()
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", w.kernel)
	d := start(t, g.open, nil, change)
	d.image(1, testImage)
	c := d.client(1)
	c.kernel(1, 1, "check")
	c.resume()
	return g, d, c, w
}

// A fault in the middle of a prepared run is a fault like others: the client is blamed, and no op is told done that did not run.
func TestPreparedFault(t *testing.T) {
	g, d, c, w := witnessed(t, nil)
	repeats(t, d, c, 64)
	w.mu.Lock()
	last := w.n + 500
	w.at = func(n int) {
		if n == last {
			g.fault.CompareAndSwap(0, 700)
		}
	}
	w.mu.Unlock()
	for range 20 {
		for i := range 64 {
			c.launch(1, 1, u64s(c.id, 1, uint64(i)), nil)
		}
	}
	c.ring.Publish()
	if err := d.end(); ExitCode(err) != ExitFault {
		t.Fatalf("end: %v; want exit code 3", err)
	}
	f, err := shm.Decode[shm.Fault]((<-d.faults).Body)
	if err != nil || f.Blamed != 1 || f.CUDAResult != 700 {
		t.Errorf("fault %+v, %v", f, err)
	}
	if n := c.done(1); int(n) > last {
		t.Errorf("%d ops are done; %d ran", n, last)
	}
}

// A driver that does not make graphs, or does not launch them any more, gets the ops one by one.
func TestPreparedRefused(t *testing.T) {
	g, d, c, w := witnessed(t, nil)
	g.graphs.refuseWith(gpu.Result(801))
	round := func() {
		for i := range 64 {
			c.launch(1, 1, u64s(c.id, 1, uint64(i)), nil)
		}
		c.mustSync(1, c.seq[1])
	}
	until(t, "graphs are refused", func() bool { round(); return d.stats().Prepared.Refused > 1 })
	if st := d.stats().Prepared; st.Words != 0 || st.Made != 0 {
		t.Errorf("%+v", st)
	}
	g.graphs.refuseWith(gpu.Success)
	other := d.client(2)
	other.kernel(1, 1, "check")
	other.resume()
	repeats(t, d, other, 64)
	g.graphs.forget() // from here on every launch of one fails
	for range 10 {
		for i := range 64 {
			other.launch(1, 1, u64s(other.id, 1, uint64(i)), nil)
		}
		other.mustSync(1, other.seq[1])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, who := range []*tester{c, other} {
		got := w.ran[[2]uint64{who.id, 1}]
		if len(got) != int(who.seq[1]) {
			t.Fatalf("client %d: %d ops ran of %d", who.id, len(got), who.seq[1])
		}
		for i, tag := range got {
			if tag != uint64(i%64) {
				t.Fatalf("client %d: op %d did %d; want %d", who.id, i, tag, i%64)
			}
		}
	}
}

// A few launches whose parameters are others each time go with the run: they are set in the graph, which is not in flight then. One whose
// parameters changed a few times, and then no more, is not set for ever.
func TestPreparedChanges(t *testing.T) {
	g, d, c, w := witnessed(t, nil)
	const n, once = 64, 1
	var want []uint64
	for round := uint64(0); ; round++ {
		for i := range uint64(n) {
			tag := i
			switch {
			case i == 20 || i == 45:
				tag = 1000*round + i
			case i == 33 && round < once:
				tag = 500 + round
			}
			c.launch(1, 1, u64s(c.id, 1, tag), nil)
			want = append(want, tag)
		}
		c.mustSync(1, c.seq[1])
		if p := d.stats().Prepared; p.Changed > 20 {
			if p.Words > 60 {
				t.Logf("%d rounds, %+v", round, p)
				if p.Changed != p.Words {
					t.Errorf("%d launches were set for %d words; want one a word, of two in 64", p.Changed, p.Words)
				}
				break
			}
		}
		if round > 3000 {
			t.Fatalf("parameters were hardly ever set: %+v", d.stats().Prepared)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := w.ran[[2]uint64{1, 1}]; !slices.Equal(got, want) {
		t.Errorf("%d ops ran, %d were submitted, or others", len(got), len(want))
	}
	if _, _, racing := g.graphs.tell(); racing {
		t.Error("a graph was changed or launched in two calls at a time")
	}
}

// Dropping memory frees the runs that the driver was told addresses of, and the others stay; so do results.
func TestPreparedMemoryDrop(t *testing.T) {
	g, d, c, _ := witnessed(t, nil)
	round := func() {
		for i := range 40 {
			if i == 20 {
				put(c, shm.KindMemset, 1, shm.Memset{Dst: c.window + 64, Width: 4, Height: 1, Element: 4, Value: 9}, nil, nil)
			}
			c.launch(1, 1, u64s(c.id, 1, uint64(i)), nil)
		}
		c.mustSync(1, c.seq[1])
	}
	until(t, "prepared", func() bool { round(); return d.stats().Prepared.Words > 10 })
	if c.memory[64] != 9 {
		t.Errorf("the memset wrote %d", c.memory[64])
	}
	until(t, "all graphs asked for are there", func() bool { p := d.stats().Prepared; return int(p.Made) == p.Runs && p.Made > 1 })
	had := g.alive()
	d.must(shm.Message{Type: shm.TypeSegmentDrop, ClientID: 1, Body: shm.Encode(shm.Range{Address: c.window, Bytes: segmentBytes})})
	until(t, "graphs that name memory are freed", func() bool { return g.alive() < had })
	until(t, "those that stay are the ones that are kept", func() bool { return g.alive() == d.stats().Prepared.Runs })
	if r := c.detach(); r.Status != shm.StatusOK || g.alive() != 0 {
		t.Errorf("detach: %d, %d graphs left", r.Status, g.alive())
	}
}

// TestPreparedNoAllocations: runs that are looked at, launched and kept allocate nothing.
func TestPreparedNoAllocations(t *testing.T) {
	all := nullClients(t, 1, 1)
	c := all[0]
	program := func(n int) {
		for i := range n {
			c.push(1, i%64 == 63)
		}
		c.mustSync(1, c.seq[1])
	}
	until(t, "prepared", func() bool { program(640); return c.d.stats().Prepared.Words > 4 })
	program(5000)
	const n = 20000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	program(n)
	runtime.ReadMemStats(&after)
	if got := after.Mallocs - before.Mallocs; got > n/4 {
		t.Errorf("%d allocations for %d ops", got, n)
	}
}

// Without runs nothing is looked for.
func TestPreparedOff(t *testing.T) {
	_, d, c, _ := witnessed(t, func(c *Config) { c.Tuning.NoRuns = true })
	for range 20 {
		for i := range 64 {
			c.launch(1, 1, u64s(c.id, 1, uint64(i)), nil)
		}
		c.mustSync(1, c.seq[1])
	}
	if p := d.stats().Prepared; p.Candidate != 0 || p.Words != 0 {
		t.Errorf("%+v", p)
	}
}

// What a class may issue bounds runs too: a longer one goes op by op, so that what is more urgent need not wait for all of it.
func TestPreparedBounds(t *testing.T) {
	h := newBench(t)
	p := h.poller
	p.runs = sequence.New(sequence.Options{Ask: func(r *sequence.Run) bool { r.Exec.Store(1); return true }, Retire: func(*sequence.Run) {}})
	c, g := h.client(nil)
	class := c.books.Class()
	whole := class.Longest
	rounds := func(n int) {
		for range n {
			for range 64 {
				g.push(1, false)
			}
			g.ring.Publish()
			h.until("all are done", func() bool { return c.board.OpsDone == uint64(g.seq[1]) })
		}
	}
	class.Longest = 3 * sched.Unknown // of ops that were never measured
	rounds(20)
	if n := p.runs.Words; n != 0 || p.runs.Runs == 0 {
		t.Errorf("%d words of runs that take longer than their class may; %+v", n, p.runs.Counters)
	}
	class.Longest, class.Slice = whole, 3*sched.Unknown
	rounds(5)
	if n := p.runs.Words; n != 0 {
		t.Errorf("%d words of runs that take longer than a slice", n)
	}
	class.Slice = 0
	h.until("runs are prepared", func() bool { rounds(1); return p.runs.Words > 0 })
}

// pricedGPU is a driver that adds up what its calls take on an H100 (measurements.md section 3): 4.4 µs a launch; of a graph 1.7 µs a
// kernel, which is what one thread reached that waited for a chain to drain, and so the most it can be.
type pricedGPU struct {
	nullGPU
	spent *atomic.Int64
}

const launchPrice, nodePrice, setPrice = 4400, 1700, 900

func (g pricedGPU) Launch(*gpu.Launch) gpu.Result { g.spent.Add(launchPrice); return gpu.Success }
func (g pricedGPU) GraphSetKernel(gpu.GraphExec, gpu.GraphNode, *gpu.Launch) gpu.Result {
	g.spent.Add(setPrice)
	return gpu.Success
}
func (g pricedGPU) GraphLaunch(x gpu.GraphExec, _ gpu.Stream) gpu.Result {
	g.spent.Add(int64(x) * nodePrice)
	return gpu.Success
}
func (g pricedGPU) EventElapsed(gpu.Event, gpu.Event) (float32, gpu.Result) {
	return 0.004, gpu.Success
}

// BenchmarkPrepared is what an op of a client costs that has a backlog: on the poller's thread, and in driver calls. plain: runs are not
// looked for; changing: they are, and nothing repeats; prepared: everything does.
func BenchmarkPrepared(b *testing.B) {
	for _, kind := range []string{"plain", "changing", "prepared"} {
		b.Run(kind, func(b *testing.B) { preparedBench(b, kind) })
	}
}

func preparedBench(b *testing.B, kind string) {
	g := newFakeGPU()
	priced := pricedGPU{nullGPU{g}, &atomic.Int64{}}
	h := newBenchOn(b, g, priced)
	p := h.poller
	if kind != "plain" {
		p.runs = sequence.New(sequence.Options{
			Ask:    func(r *sequence.Run) bool { r.Exec.Store(uint64(r.Len())); return true },
			Retire: func(*sequence.Run) {},
		})
	}
	const clients, batch, program = 4, 684, 342
	code := &scoreboard.Code{ID: 1, Name: "check"}
	var all []*tester
	var boards []*client
	for range clients {
		c, t := h.client(nil)
		c.board.KernelByID(1).Code = code
		all, boards = append(all, t), append(boards, c)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	changing := uint64(0)
	push := func(t *tester) {
		head := shm.Header{Kind: shm.KindLaunch, Lane: 1, Seq: t.seq[1] + 1}
		tag := uint64(t.seq[1]) % program
		if kind == "changing" {
			changing++
			tag = changing
		}
		body, _, ok := t.ring.Begin(head, 64+96)
		if !ok {
			b.Fatal("the ring is full")
		}
		at := shm.Put(body, shm.Launch{Kernel: 1, GridX: 1, GridY: 1, GridZ: 1, BlockX: 128, BlockY: 1, BlockZ: 1, ParamBytes: 96})
		binary.LittleEndian.PutUint64(body[at+40:], tag)
		t.seq[1]++
	}
	var spent []float64
	ops := 0
	round := func() {
		for _, t := range all {
			for range batch {
				push(t)
			}
			t.ring.Publish()
		}
		ns := int64(0)
		for done := false; !done; {
			from := threadTime()
			p.pass()
			if p.lastActivity == p.now { // the other passes wait for the issue threads
				ns += threadTime() - from
			}
			done = true
			for i, c := range boards {
				done = done && c.board.OpsDone == uint64(all[i].seq[1])
			}
		}
		ops += clients * batch
		spent = append(spent, float64(ns)/(clients*batch))
	}
	for range 8 {
		round()
	}
	ops, spent = 0, spent[:0]
	words := p.engine.Words
	priced.spent.Store(0)
	b.ResetTimer()
	for ops < b.N {
		round()
	}
	slices.Sort(spent)
	b.ReportMetric(spent[len(spent)/2], "poller-ns/op")
	b.ReportMetric(float64(priced.spent.Load())/float64(ops), "driver-ns/op")
	b.ReportMetric(float64(ops)/float64(p.engine.Words-words), "ops/word")
}
