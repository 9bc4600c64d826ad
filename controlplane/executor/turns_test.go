package executor

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
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

const micro = int64(time.Microsecond)

// clockGPU is a driver whose kernels take their time on a clock that the test turns: grid × 1 µs a launch, one after another in a
// stream, all streams beside each other.
type clockGPU struct {
	nullGPU
	mu     sync.Mutex
	now    int64
	free   map[gpu.Stream]int64
	events map[gpu.Event]int64
	due    []dueWrite
}

type dueWrite struct {
	at int64
	do func()
}

func (g *clockGPU) Launch(l *gpu.Launch) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	end := max(g.now, g.free[l.Stream]) + micro*int64(l.Grid[0])
	g.free[l.Stream] = end
	if f, ok := g.forms.Load(l.Function); ok {
		own := *l
		params := append([]byte(nil), bytesAt(l.Params, l.ParamBytes)...)
		g.due = append(g.due, dueWrite{end, func() { f.(*fakeForm).signalFrom(&own, params) }})
	}
	return gpu.Success
}

func (g *clockGPU) WriteValue32(s gpu.Stream, a uint64, v uint32) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.due = append(g.due, dueWrite{max(g.now, g.free[s]), func() { atomic.StoreUint32(wordAt(a), v) }})
	return gpu.Success
}

func (g *clockGPU) EventRecord(e gpu.Event, s gpu.Stream) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events[e] = g.free[s]
	return gpu.Success
}

func (g *clockGPU) StreamWaitEvent(s gpu.Stream, e gpu.Event) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free[s] = max(g.free[s], g.events[e])
	return gpu.Success
}

// turn sets the clock and does what was due, in order.
func (g *clockGPU) turn(now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = now
	slices.SortStableFunc(g.due, func(a, b dueWrite) int { return cmp.Compare(a.at, b.at) })
	n := 0
	for n < len(g.due) && g.due[n].at <= now {
		g.due[n].do()
		n++
	}
	g.due = slices.Delete(g.due, 0, n)
}

// clocked is a poller on such a GPU and its clock.
type clocked struct {
	*bench
	clock *clockGPU
}

func newClocked(t *testing.T) *clocked {
	t.Helper()
	f := newFakeGPU()
	g := &clockGPU{nullGPU: nullGPU{f}, now: int64(time.Second), free: map[gpu.Stream]int64{}, events: map[gpu.Event]int64{}}
	return onClock(newBenchOn(t, f, g), g)
}

// onClock has a poller go by a GPU's clock. It never naps: in a nap the clock, which the test turns, would stand still.
func onClock(b *bench, g *clockGPU) *clocked {
	b.poller.clock = func() int64 { return g.now }
	b.poller.tune.NapAfter = time.Hour
	return &clocked{b, g}
}

// tick is one pass, after which the driver has made every call, and a µs goes by.
func (b *clocked) tick() {
	b.t.Helper()
	if !b.poller.pass() {
		b.t.Fatalf("the executor ended: %+v", b.poller.end)
	}
	for !b.poller.engine.Idle() {
		runtime.Gosched()
	}
	b.clock.turn(b.clock.now + micro)
}

// in adds a client of a class.
func (b *clocked) in(name string, t sched.Settings) (*client, *tester) {
	b.t.Helper()
	b.joins = func(c *client) { b.poller.classify(c, name, t) }
	defer func() { b.joins = nil }()
	return b.client(nil)
}

// kernelOf gives a client another kernel.
func kernelOf(c *client, id uint32, code *scoreboard.Code) {
	c.board.AddKernel(&scoreboard.Kernel{ID: id, Function: 5, Limit: unlimited(), Code: code})
}

// Below a class with an objective only so much is in flight that its next op goes soon; when it is silent there is no bound. What
// went is reported by class, with its reasons.
func TestUrgentClass(t *testing.T) {
	b := newClocked(t)
	low, lowRing := b.in("batch", sched.Settings{Coalesce: true})
	high, highRing := b.in("interactive", sched.Settings{Priority: 100, Latency: 1000 * micro, MaxWait: 50 * micro, Coalesce: true})
	for range 300 {
		lowRing.launchGrid(1, 1, 10, nil, nil)
	}
	lowRing.ring.Publish()
	for range 50 {
		b.tick()
	}
	if n := low.board.InFlight(); n < 16 {
		t.Errorf("while nobody urgent is there %d ops are in flight", n)
	}
	for request := range 20 {
		for range 60 {
			b.tick()
		}
		seq := highRing.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		highRing.ring.Publish()
		for i := 0; highRing.done(1) != seq; i++ {
			if b.tick(); i > 2000 {
				t.Fatal("the request does not end")
			}
		}
		if n := low.board.InFlight(); request > 9 && n > 6 { // 50 µs; nothing was measured, so each counts as 10
			t.Errorf("request %d: %d ops of the class below are in flight", request, n)
		}
	}
	for lowRing.done(1) != 300 {
		b.tick()
	}
	st := b.poller.snapshot().Classes
	if len(st) != 2 || st[0].Class != "batch" || st[0].Ops != 300 || st[0].Waits["window"] == 0 || st[0].GPUSeconds == 0 || st[0].Requests != 0 {
		t.Errorf("batch: %+v", st)
	}
	if s := st[1]; s.Class != "interactive" || s.Requests != 20 || s.Attained != 20 || s.Clients != 1 || s.ObjectiveSeconds != 0.001 || s.Latency.Sum <= 0 {
		t.Errorf("interactive: %+v", s)
	}
	if a, c := low.board.Levels, high.board.Levels; a.First <= c.First || a.Count == 0 || c.First != 0 {
		t.Errorf("levels of streams: batch %+v, interactive %+v", a, c)
	}
}

// Whoever comes last, the streams of the more urgent class go before the other's from its first op on.
func TestLevels(t *testing.T) {
	classes := map[string]int32{"batch": -10, "interactive": 100}
	for _, order := range [][2]string{{"batch", "interactive"}, {"interactive", "batch"}} {
		b, board := newClocked(t), map[string]*scoreboard.Session{}
		for _, name := range order {
			c, _ := b.in(name, sched.Settings{Priority: classes[name]})
			board[name] = c.board
		}
		urgent, other := board["interactive"], board["batch"]
		if u, o := b.poller.engine.LevelOf(urgent, 0), b.poller.engine.LevelOf(other, -5); u >= o {
			t.Errorf("%v: the urgent class's least urgent streams have level %d, the other's most urgent ones %d", order, u, o)
		}
	}
}

// A request begins when the client announces it, and is counted once, from there; one that nothing follows never was.
func TestAnnouncedRequest(t *testing.T) {
	b := newClocked(t)
	c, ring := b.in("interactive", sched.Settings{Priority: 100, Latency: 1000 * micro, MaxWait: 50 * micro})
	for _, announced := range []bool{true, false} {
		begun := b.clock.now
		if announced {
			ring.upcoming(1)
			ring.ring.Publish()
		}
		for range 100 {
			b.tick()
		}
		if at, open := c.books.Request(); open != announced || open && at > begun+10*micro {
			t.Fatalf("announced: %v; a request is under way: %v, since %d µs", announced, open, (b.clock.now-at)/micro)
		}
		seq := ring.launchGrid(1, 1, 5, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		ring.ring.Publish()
		for i := 0; ring.done(1) != seq; i++ {
			if b.tick(); i > 2000 {
				t.Fatal("the request does not end")
			}
		}
		b.tick()
	}
	for range 3 {
		ring.upcoming(1)
		ring.ring.Publish()
		for range 6000 { // beyond the time for which such a request is believed
			b.tick()
		}
	}
	s := b.poller.snapshot().Classes[0]
	if s.Requests != 2 || s.Latency.Sum < 105e-6 || s.Latency.Sum > 300e-6 {
		t.Errorf("%d requests took %.0f µs together; of 2 the first takes above 100, the second some 10", s.Requests, s.Latency.Sum*1e6)
	}
}

// A client whose requests take much longer than another's of its class has the least urgent of the class's streams, and the other none of
// these, while that is so.
func TestLongClient(t *testing.T) {
	b := newClocked(t)
	promise := sched.Settings{Latency: 20_000 * micro, Coalesce: true}
	short, shortRing := b.in("interactive", promise)
	other, otherRing := b.in("interactive", promise)
	request := func(w *tester, blocks uint32) {
		seq := w.launchGrid(1, 1, blocks, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		w.ring.Publish()
		for i := 0; w.done(1) != seq; i++ {
			if b.tick(); i > 20_000 {
				t.Fatal("the request does not end")
			}
		}
	}
	least := b.poller.engine.Levels() - 1
	for round, blocks := range []uint32{5, 100, 5} {
		for range 60 {
			request(shortRing, 5)
			request(otherRing, blocks)
		}
		if other.books.Long() != (blocks == 100) || short.books.Long() {
			t.Fatalf("round %d: requests of 5 and %d µs; long are %v and %v", round, blocks, short.books.Long(), other.books.Long())
		}
		want := [2]scoreboard.Levels{}
		if blocks == 100 {
			want = [2]scoreboard.Levels{{First: 0, Count: least}, {First: least, Count: 1}}
		}
		if got := [2]scoreboard.Levels{short.board.Levels, other.board.Levels}; got != want {
			t.Errorf("round %d: levels %+v, not %+v", round, got, want)
		}
	}
}

// The same op goes first for the client whose objective is near, at equal priority, when the chip is full.
func TestLeastSlack(t *testing.T) {
	b := newClocked(t)
	_, slow := b.in("slow", sched.Settings{Latency: 50_000 * micro, Coalesce: true})
	_, fast := b.in("fast", sched.Settings{Latency: 5_000 * micro, Coalesce: true})
	for range 40 {
		slow.launchGrid(1, 1, 30, nil, nil)
		slow.launchGrid(1, 2, 30, nil, nil)
		slow.ring.Publish()
	}
	for range 20 {
		b.tick()
	}
	seq := fast.launchGrid(1, 1, 30, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWait })
	fast.ring.Publish()
	from := b.clock.now
	for fast.done(1) != seq {
		if b.tick(); b.clock.now-from > 1000*micro {
			t.Fatal("the urgent op waits for those of the other")
		}
	}
	if d := slow.done(1); d > 20 {
		t.Errorf("%d ops of the other were done before it", d)
	}
	for slow.done(1) != 40 || slow.done(2) != 40 {
		b.tick()
	}
}

// A class that is not to be joined is not, and the others are; a reload changes that for the next op.
func TestCoalesceByClass(t *testing.T) {
	b := newClocked(t)
	code := b.joinedCode()
	apart := sched.Settings{QueueDelay: 20 * micro}
	var all []*tester
	var clients []*client
	for i := range 6 {
		name := []string{"joined", "apart"}[i%2]
		c, w := b.in(name, sched.Settings{QueueDelay: 20 * micro, Coalesce: i%2 == 0})
		c.board.KernelByID(1).Code = code
		clients, all = append(clients, c), append(all, w)
	}
	rounds := func(n int) {
		t.Helper()
		for range n {
			for _, w := range all {
				w.push(1, true)
			}
			for range 5 {
				b.tick()
			}
		}
		for _, w := range all {
			for i := 0; w.done(1) != w.seq[1]; i++ {
				if b.tick(); i > 5000 {
					t.Fatal("ops do not end")
				}
			}
		}
	}
	rounds(50)
	row := func(name string) ClassStats {
		for _, r := range b.poller.classRows() {
			if r.Class == name {
				return r
			}
		}
		t.Fatal("no class", name)
		return ClassStats{}
	}
	if j, a := row("joined"), row("apart"); j.Coalesced < 100 || a.Coalesced != 0 || a.Ops != 150 || j.Ops != 150 {
		t.Errorf("joined: %d of %d; apart: %d of %d", j.Coalesced, j.Ops, a.Coalesced, a.Ops)
	}
	if n := b.poller.gather.Apart[scoreboard.ReasonClass]; n != 150 {
		t.Errorf("reason class was counted %d times", n)
	}
	apart.Coalesce = true
	b.poller.classify(clients[1], "apart", apart) // one message changes the class
	rounds(50)
	if a := row("apart"); a.Coalesced < 100 || a.Ops != 300 {
		t.Errorf("after the reload: %d of %d", a.Coalesced, a.Ops)
	}
	b.poller.classify(clients[1], "joined", apart) // and another moves the client
	rounds(5)
	if a, j := row("apart"), row("joined"); a.Clients != 2 || j.Clients != 4 {
		t.Errorf("%d and %d clients", a.Clients, j.Clients)
	}
}

// A client with max_queue_size ops waiting is not listened to until it has fewer, unless that could never be.
func TestMaxQueueSize(t *testing.T) {
	b := newClocked(t)
	c, w := b.in("small", sched.Settings{MaxQueue: 10, Coalesce: true})
	for range 500 {
		w.launchGrid(1, 1, 20, nil, nil)
	}
	w.ring.Publish()
	for range 200 {
		if b.tick(); c.board.Waiting() > 10 {
			t.Fatalf("%d ops wait", c.board.Waiting())
		}
	}
	if c.ring.Empty() || c.books.Class().Stats.Waits[sched.WaitAdmission] == 0 {
		t.Error("everything was taken")
	}
	if !c.stopped || c.past || b.poller.anythingNew() {
		t.Error("what a client submits that is not listened to keeps the executor awake")
	}
	for w.done(1) != 500 {
		b.tick()
	}
	// Twenty ops wait for the native side, which waits for an op that they are in the way of.
	for range 20 {
		w.launchGrid(1, 2, 1, nil, func(h *shm.Header) { h.Ready = 1 })
	}
	seq := w.launchGrid(1, 3, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
	w.ring.Publish()
	for i := 0; w.done(3) != seq; i++ {
		if b.tick(); i > 1000 {
			t.Fatal("an op that could run is never seen")
		}
	}
	atomic.StoreUint32(&w.file.Lane(2).Ready, 1)
	for w.done(2) != 20 {
		b.tick()
	}
}

// CLASS reaches the poller through the control socket, at any time, and STATS tells of every class.
func TestClassMessages(t *testing.T) {
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", func([]byte) {})
	d := start(t, g.open, nil, nil)
	d.image(1, testImage)
	c := d.client(1)
	c.kernel(1, 1, "check")
	tell := func(name string, latency uint64) {
		d.must(shm.Message{Type: shm.TypeClass, ClientID: 1, Body: shm.Encode(shm.Class{Latency: latency, Flags: shm.ClassFlagCoalesce}), Tail: []byte(name)})
	}
	tell("first", 0) // before it is served
	c.resume()
	const classes = 120
	for i := range classes {
		tell(fmt.Sprintf("class-%03d", i), 1e9)
		seq := c.launch(1, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		c.ring.Publish()
		if err := c.await(1, seq); err != nil {
			t.Fatal(err)
		}
	}
	var st Stats
	until(t, "the last request is counted", func() bool {
		st = d.stats()
		return st.Classes[len(st.Classes)-1].Requests > 0
	})
	if len(st.Classes) != classes || len(st.Sessions) != 1 {
		t.Errorf("%d classes and %d sessions", len(st.Classes), len(st.Sessions))
	}
	for _, row := range st.Classes {
		if row.Ops != 1 || row.Requests != 1 || (row.Clients == 1) != (row.Class == fmt.Sprintf("class-%03d", classes-1)) {
			t.Errorf("%+v", row)
		}
	}
}

// Random clients of random classes on a clock that the test turns: no op is held for company longer than its class says, everything
// ends, requests are counted once, and nothing is left on the books.
func TestRandomClasses(t *testing.T) {
	rounds := 100
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		rounds = 5000
	}
	total := int64(0)
	defer func() {
		if total == 0 {
			t.Error("no op was ever held for company")
		}
	}()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			b := newClocked(t)
			code := b.joinedCode()
			delays := []int64{0, 10 * micro, 25 * micro, 100 * micro}
			var all []*tester
			var clients []*client
			requests, classes := map[string]uint64{}, map[string]*sched.Class{}
			held := int64(0)
			for i := range 8 {
				n := r.IntN(4)
				set := sched.Settings{QueueDelay: delays[n], Priority: int32(n % 2), Latency: int64(r.IntN(2)) * 500 * micro, Coalesce: r.IntN(4) > 0, DelayLate: r.IntN(2) == 0}
				if r.IntN(2) == 0 {
					set.MaxWait = 100 * micro
				}
				if r.IntN(2) == 0 {
					set.MinShare = 0.1
				}
				c, w := b.in(fmt.Sprint(i%4), set)
				c.board.KernelByID(1).Code = code
				classes[c.class] = c.books.Class()
				kernelOf(c, 2, &scoreboard.Code{ID: 2, Name: "plain"})
				clients, all = append(clients, c), append(all, w)
			}
			for range rounds {
				for i, w := range all {
					if r.IntN(4) > 0 {
						continue
					}
					if w.done(1) != w.seq[1] {
						continue // it waits on the host
					}
					for range r.IntN(12) {
						w.launchGrid(1+r.Uint32N(2), 1, 1+r.Uint32N(20), nil, nil)
					}
					w.launchGrid(1, 1, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
					w.ring.Publish()
					requests[clients[i].books.Class().Name]++
				}
				for range 1 + r.IntN(30) {
					b.tick()
				}
			}
			for _, w := range all {
				for i := 0; w.done(1) != w.seq[1]; i++ {
					if b.tick(); i > 100_000 {
						t.Fatal("ops do not end")
					}
				}
			}
			b.tick()
			for _, row := range b.poller.classRows() {
				if row.Requests != requests[row.Class] || row.Ops == 0 {
					t.Errorf("class %s: %d requests; want %d", row.Class, row.Requests, requests[row.Class])
				}
				k := classes[row.Class]
				bound := k.QueueDelay
				if k.Latency == 0 && bound > 0 {
					bound = max(bound, int64(b.poller.tune.Busy)) // of an op that others of its lane in flight keep waiting anyway
				}
				for i, n := range k.Stats.Stagger.Counts {
					if n > 0 && i > 0 && sched.Bounds[i-1] >= bound {
						t.Errorf("class %s: %d ops were held for more than %d ns; it allows %d", row.Class, n, sched.Bounds[i-1], bound)
					}
				}
				held += k.Stats.Stagger.Sum
			}
			for _, c := range clients {
				if c.board.InFlight()+c.board.Waiting() > 0 || c.books.Queued() > 0 {
					t.Errorf("client %d: %d in flight, %d waiting, %d ready", c.id, c.board.InFlight(), c.board.Waiting(), c.books.Queued())
				}
				b.poller.remove(c)
			}
			total += held
		})
	}
}
