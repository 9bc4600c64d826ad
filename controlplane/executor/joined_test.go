package executor

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// joinedCode is a kernel with forms on b's GPU.
func (b *bench) joinedCode() *scoreboard.Code {
	code := &scoreboard.Code{ID: 1, Name: "check"}
	for _, n := range []int{scoreboard.SmallCapacity, scoreboard.LargeCapacity} {
		b.gpu.publish(newFakeForm(coalesce.ByZ, n, 16, func([]byte) {}), code)
	}
	return code
}

// Clients that launch alike without waiting: once they are in step, every word holds an op of each, all on one stream, with no wait
// between streams, and no done word costs a call.
func TestInStep(t *testing.T) {
	const clients, rounds = 32, 200
	b := newBench(t)
	code := b.joinedCode()
	var boards []*client
	var all []*tester
	for range clients {
		c, g := b.client(nil)
		c.board.KernelByID(1).Code = code
		boards, all = append(boards, c), append(all, g)
	}
	for range rounds {
		for _, g := range all {
			g.push(1, true)
		}
		for range 3 {
			b.poller.pass()
		}
	}
	b.until("all ops are done", func() bool {
		return !slices.ContainsFunc(boards, func(c *client) bool { return c.board.OpsDone < rounds })
	})
	st := b.poller.snapshot()
	words := st.Coalescing.WordsAlone + st.Coalescing.WordsCoalesced
	if width := float64(clients*rounds) / float64(words); width < 16 {
		t.Errorf("%.1f ops in a word; want nearly %d: %+v", width, clients, st.Coalescing)
	}
	// What is late (this machine may stop a thread for long) makes a few words of their own, which come back by a wait each.
	if st.Orders > words/4 || st.Signals > words/4 {
		t.Errorf("%d words needed %d waits and %d signals of streams", words, st.Orders, st.Signals)
	}
	// What sessions tell adds up to what the words were.
	var launches, joined, slots uint64
	for _, s := range st.Sessions {
		launches, joined, slots = launches+s.Launches, joined+s.Coalesced, slots+s.Slots
	}
	if launches != clients*rounds || joined != st.Coalescing.OpsCoalesced || slots < 16*joined || slots > clients*joined {
		t.Errorf("sessions tell of %d launches, %d joined in words of %d together; %+v", launches, joined, slots, st.Coalescing)
	}
	if st.Coalescing.SignalsInKernel == 0 || st.Coalescing.OpsCoalesced > clients*rounds {
		t.Errorf("%+v", st.Coalescing)
	}
}

// joinedClients starts an executor on g whose kernels have the forms that make publishes, and so many clients with kernels check
// (1) and other (2).
func joinedClients(t *testing.T, g *fakeGPU, clients int, change func(*Config), make func(name string, c *scoreboard.Code)) (*daemon, []*tester) {
	t.Helper()
	t.Cleanup(g.unmapAll)
	m := newMaker(g, make)
	d := start(t, g.open, nil, func(c *Config) {
		c.loaded = m.loaded
		c.Tuning.Gather, c.Tuning.Busy, c.Tuning.Ahead = time.Second, time.Second, time.Second // tests say what comes; nothing goes early
		if change != nil {
			change(c)
		}
	})
	d.image(1, testImage)
	var all []*tester
	for id := 1; id <= clients; id++ {
		c := d.client(uint64(id))
		c.kernel(1, 1, "check")
		c.kernel(1, 2, "other")
		c.resume()
		all = append(all, c)
	}
	return d, all
}

// together makes ops ready in one pass: each waits for its client's ready word 1, on a lane where nothing is in flight.
func together(t *testing.T, d *daemon, all []*tester, launch func(c *tester, change func(*shm.Header)) uint32) []uint32 {
	t.Helper()
	var seqs []uint32
	for _, c := range all {
		seqs = append(seqs, launch(c, func(h *shm.Header) { h.Ready, h.Flags = 1, shm.RecordFlagWantSignal }))
		c.ring.Publish()
	}
	until(t, "all are scanned", func() bool {
		n := 0
		for _, s := range d.stats().Sessions {
			n += s.Waiting
		}
		return n == len(all)
	})
	return seqs
}

// A short instance is reported, and its lane goes on, while a long one of the same launch still runs.
func TestEarlyEnd(t *testing.T) {
	g := newFakeGPU()
	g.define("other", func([]byte) {})
	b := newBenchOn(t, g, g)
	gate := make(chan struct{})
	f := newFakeForm(coalesce.ByZ, 8, 16, func([]byte) {})
	ran := 0
	f.between = func() {
		if ran++; ran == 1 {
			<-gate
		}
	}
	code := &scoreboard.Code{ID: 1, Name: "check"}
	g.publish(f, code)
	other, err := g.ModuleFunction(0, "other")
	if err != nil {
		t.Fatal(err)
	}
	var boards [2]*client
	var all [2]*tester
	for i := range all {
		boards[i], all[i] = b.client(nil)
		boards[i].board.KernelByID(1).Code = code
		boards[i].board.AddKernel(&scoreboard.Kernel{ID: 2, Function: other, Limit: unlimited()})
		all[i].push(1, true)
	}
	short := -1
	b.until("one of two has ended", func() bool {
		for i, c := range boards {
			if c.board.OpsDone == 1 {
				short = i
			}
		}
		return short >= 0
	})
	f.mu.Lock()
	if len(f.widths) != 1 || f.widths[0] != 2 {
		t.Fatalf("launches of %v ops; want one of 2", f.widths)
	}
	f.mu.Unlock()
	long := boards[1-short]
	on := long.board.Lane(1).Stream
	if s := b.poller.engine.Stream(on); s.Ops != 1 || s.Lanes != 1 {
		t.Errorf("the stream holds %d ops of %d lanes; want what has not ended", s.Ops, s.Lanes)
	}
	// The stream is busy with the other's instance: what follows in the lane runs elsewhere.
	// With a done word of its own: without a waiter there is none where the lane's pace, that of a busy machine here, makes it dear.
	all[short].launch(2, 1, u64s(0, 0), func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
	all[short].ring.Publish()
	b.until("the next op of the lane is done", func() bool { return boards[short].board.OpsDone == 2 })
	if long.board.OpsDone != 0 {
		t.Error("an instance that is held is reported as done")
	}
	close(gate)
	b.until("the other has ended", func() bool { return long.board.OpsDone == 1 })
	f.check(t)
}

// A form that the driver refuses is the executor's own mistake: the ops run one by one, nobody gets an error, and it is not tried
// again.
func TestRefusedForm(t *testing.T) {
	g := newFakeGPU()
	var ran atomic.Int32
	g.define("check", func([]byte) { ran.Add(1) })
	g.define("other", func([]byte) {})
	f := newFakeForm(coalesce.ByZ, 8, 8, func([]byte) { t.Error("a refused form ran") })
	var form *scoreboard.Form
	var refusals atomic.Int32
	g.refuse = func(l *gpu.Launch) gpu.Result {
		if _, ok := g.forms.Load(l.Function); ok {
			refusals.Add(1)
			return 701
		}
		return gpu.Success
	}
	d, all := joinedClients(t, g, 3, nil, func(name string, c *scoreboard.Code) {
		if name == "check" {
			form = g.publish(f, c)
		}
	})
	together(t, d, all, func(c *tester, change func(*shm.Header)) uint32 { return c.launch(1, 1, u64s(c.id), change) })
	for _, c := range all {
		atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
	}
	for _, c := range all {
		if err := c.await(1, 1); err != nil {
			t.Errorf("client %d: %v", c.id, err)
		}
	}
	// A word that was made before the first refusal was known may be refused as well, and none after it.
	first := refusals.Load()
	for range 5 {
		for _, c := range all {
			c.mustSync(1, c.launch(1, 1, u64s(c.id), nil))
		}
	}
	if n := ran.Load(); n != 18 || first < 1 || first > int32(len(all)) || refusals.Load() != first || !form.Refused.Load() {
		t.Errorf("%d kernels ran after %d and then %d refusals; want 18 after 1 to 3 and then as many", n, first, refusals.Load())
	}
}

// Ops that the driver refuses in any launch say nothing about their form: it goes on serving the others.
func TestRefusedOps(t *testing.T) {
	g := newFakeGPU()
	const never = 9 // a grid that no launch can have
	g.define("check", func([]byte) {})
	g.define("other", func([]byte) {})
	f := newFakeForm(coalesce.ByZ, 8, 8, func([]byte) {})
	var form *scoreboard.Form
	var refusals, joined atomic.Int32
	g.refuse = func(l *gpu.Launch) gpu.Result {
		_, of := g.forms.Load(l.Function)
		switch {
		case l.Grid[0] == never && of:
			refusals.Add(1)
			return gpu.InvalidValue
		case l.Grid[0] == never:
			return gpu.InvalidValue
		case of:
			joined.Add(1)
		}
		return gpu.Success
	}
	d, all := joinedClients(t, g, 4, nil, func(name string, c *scoreboard.Code) {
		if name == "check" {
			form = g.publish(f, c)
		}
	})
	for i, blocks := range []uint32{never, 1} {
		some := all[2*i : 2*i+2]
		together(t, d, some, func(c *tester, change func(*shm.Header)) uint32 {
			return c.launchGrid(1, 1, blocks, u64s(c.id), change)
		})
		for _, c := range some {
			atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
		}
		for _, c := range some {
			err := c.await(1, 1)
			if code, reason := c.sticky(); blocks == never && (code != uint32(gpu.InvalidValue) || reason != shm.ReasonLaunchRefused) || blocks != never && err != nil {
				t.Errorf("client %d, %d blocks: error %v, code %d, reason %d", c.id, blocks, err, code, reason)
			}
		}
	}
	if refusals.Load() == 0 || form.Refused.Load() || joined.Load() == 0 {
		t.Errorf("%d refusals of hopeless ops; form refused: %v; %d launches of it for the others", refusals.Load(), form.Refused.Load(), joined.Load())
	}
	f.check(t)
}

// Kernels that wait for one another, in different lanes, finish although others like them are joined and held.
func TestProgressJoined(t *testing.T) {
	g := newFakeGPU()
	var arrived atomic.Int32
	meet := func([]byte) {
		for arrived.Add(1); arrived.Load()%2 != 0; {
			time.Sleep(10 * time.Microsecond)
		}
	}
	var plain atomic.Int32
	check := func([]byte) { plain.Add(1) }
	g.define("check", check)
	g.define("other", meet)
	d, all := joinedClients(t, g, 3, nil, func(name string, c *scoreboard.Code) {
		if name == "check" {
			g.publish(newFakeForm(coalesce.ByZ, 8, 8, check), c)
		}
	})
	const rounds = 30
	for range rounds {
		for _, c := range all {
			for lane := range uint32(2) {
				c.launch(1, 1+lane, u64s(c.id), nil)
				c.launch(1, 1+lane, u64s(c.id), nil)
			}
			c.ring.Publish()
		}
		// Two lanes of one client whose next ops wait for one another.
		for lane := range uint32(2) {
			all[0].launch(2, 1+lane, nil, nil)
		}
		all[0].ring.Publish()
		for lane := range uint32(2) {
			all[0].mustSync(1+lane, all[0].seq[1+lane])
		}
	}
	for _, c := range all {
		c.mustSync(1, c.seq[1])
		c.mustSync(2, c.seq[2])
	}
	if n := plain.Load(); n != rounds*3*2*2 {
		t.Errorf("%d kernels ran; want %d", n, rounds*12)
	}
	if st := d.stats(); st.Coalescing.OpsCoalesced == 0 {
		t.Errorf("nothing was joined: %+v", st.Coalescing)
	}
}

// Hostile clients whose kernels are joined with a good client's: the books stay right, and the good client is served.
func TestHostileJoined(t *testing.T) {
	b := newBench(t)
	code := b.joinedCode()
	var goods []*client
	var writers []*tester
	for range 3 {
		c, g := b.client(nil)
		c.board.KernelByID(1).Code = code
		goods, writers = append(goods, c), append(writers, g)
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		evil, e := b.client(nil)
		evil.board.KernelByID(1).Code = code
		for range 10 {
			records(r, e, 10)
			e.ring.Publish()
			for _, g := range writers {
				g.push(1, true)
				g.push(2, true)
			}
			for range 20 {
				scribble(r, evil.file)
				if !b.poller.pass() {
					t.Fatalf("seed %d: the executor ended: %+v", seed, b.poller.end)
				}
			}
		}
		b.gone(evil)
		b.until("the good clients' ops are done", func() bool {
			for i, c := range goods {
				if c.board.OpsDone != uint64(writers[i].seq[1]+writers[i].seq[2]) {
					return false
				}
			}
			return true
		})
		for i := range b.poller.engine.Streams() {
			if s := b.poller.engine.Stream(i); s.Ops != 0 || s.Lanes != 0 {
				t.Fatalf("seed %d: stream %d still holds %d ops of %d lanes", seed, i, s.Ops, s.Lanes)
			}
		}
		if n := b.poller.gather.Len(); n != 0 {
			t.Fatalf("seed %d: %d ops still wait for company", seed, n)
		}
	}
	for _, c := range goods {
		if c.failed != gpu.Success {
			t.Errorf("a good client has error %v", c.failed)
		}
	}
	if b.poller.gather.Joined == 0 {
		t.Error("nothing was joined")
	}
}

// Joining allocates nothing either.
func TestNoAllocationsJoined(t *testing.T) {
	b := newBench(t)
	code := b.joinedCode()
	var boards []*client
	var all []*tester
	for range 4 {
		c, g := b.client(nil)
		c.board.KernelByID(1).Code = code
		boards, all = append(boards, c), append(all, g)
	}
	program := func(n int) {
		for range n {
			for _, g := range all {
				g.push(1, true)
			}
			b.poller.pass()
		}
		b.until("all are done", func() bool {
			for i, c := range boards {
				if c.board.OpsDone != uint64(all[i].seq[1]) {
					return false
				}
			}
			return true
		})
	}
	program(2000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	program(4000)
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > 1000 {
		t.Errorf("%d allocations for 16,000 ops", n)
	}
	if b.poller.gather.Words[word.Coalesced] == 0 {
		t.Error("nothing was joined")
	}
}

// A kernel that waits for one in a lane of which nobody has heard yet: what follows it in its own lane takes another client along. What
// comes to the other lane then goes by itself: in a word with what that client does next it would be behind the kernel that waits for it.
func TestBesideOneThatWaits(t *testing.T) {
	g := newFakeGPU()
	var flag atomic.Int32
	g.define("other", func([]byte) {
		for flag.Load() == 0 {
			time.Sleep(10 * time.Microsecond)
		}
	})
	b := newBenchOn(t, g, g)
	t.Cleanup(func() { flag.Store(1) })
	code := &scoreboard.Code{ID: 1, Name: "check"}
	set := func(p []byte) { flag.Add(int32(p[0])) }
	g.define("check", set)
	g.publish(newFakeForm(coalesce.ByZ, 8, 16, set), code)
	check, err := g.ModuleFunction(0, "check")
	if err != nil {
		t.Fatal(err)
	}
	other, err := g.ModuleFunction(0, "other")
	if err != nil {
		t.Fatal(err)
	}
	var clients [2]*client
	var all [2]*tester
	for i := range all {
		clients[i], all[i] = b.client(nil)
		clients[i].board.KernelByID(1).Code, clients[i].board.KernelByID(1).Function = code, check
		clients[i].board.AddKernel(&scoreboard.Kernel{ID: 2, Function: other, Limit: unlimited()})
	}
	signal := func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal }
	both := func(lane uint32, set uint64) { // in one pass
		all[0].launch(1, lane, u64s(set, 0), signal)
		all[1].launch(1, 0, u64s(0, 0), signal)
		all[0].ring.Publish()
		all[1].ring.Publish()
	}
	all[0].launch(2, 0, u64s(0, 0), nil)
	all[0].ring.Publish()
	b.until("the one that waits is issued", func() bool { return clients[0].board.InFlight() == 1 })
	both(0, 0)
	b.until("what is behind it is issued", func() bool { return clients[0].board.InFlight()+clients[1].board.InFlight() == 3 })
	if n := clients[1].board.Joined; n != 1 {
		t.Fatalf("%d of the other client's ops are behind it", n)
	}
	both(1, 1)
	b.until("lane 1, which waits for nobody, goes on", func() bool { return all[0].done(1) == 1 })
	b.until("all is done", func() bool { return all[0].done(0) == 2 && all[1].done(0) == 2 })
}

// A kernel that waits for one in another lane: what follows it in its lane takes nobody along, who may be what it waits for.
func TestBehindOneThatWaits(t *testing.T) {
	g := newFakeGPU()
	var flag atomic.Int32
	var over atomic.Bool
	set := func(p []byte) { flag.Add(int32(p[0])) }
	g.define("check", set)
	g.define("other", func([]byte) {
		for flag.Load() < 100 && !over.Load() {
			time.Sleep(10 * time.Microsecond)
		}
	})
	_, all := joinedClients(t, g, 1, nil, func(name string, c *scoreboard.Code) {
		if name == "check" {
			g.publish(newFakeForm(coalesce.ByZ, 8, 8, set), c)
		}
	})
	c := all[0]
	ready := func(h *shm.Header) { h.Ready, h.Flags = 1, shm.RecordFlagWantSignal }
	c.launch(2, 1, u64s(0), nil)
	c.launch(1, 1, u64s(0), ready)
	c.launch(1, 2, u64s(100), ready)
	c.ring.Publish()
	until(t, "the waiter is issued", func() bool { return atomic.LoadUint32(&c.file.Lane(1).Issued) == 1 })
	atomic.StoreUint32(&c.file.Lane(2).Ready, 1)
	atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
	end := time.Now().Add(patience)
	for c.done(2) != 1 && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
	if c.done(2) != 1 {
		t.Error("lane 2 waits for lane 1, which waits for lane 2")
	}
	over.Store(true)
	if err := c.await(1, 2); err != nil {
		t.Error(err)
	}
}
