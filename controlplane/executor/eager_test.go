package executor

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// crowd is a number of eager clients: each submits the launches of a request one by one, waits for them, and begins anew.
type crowd struct {
	clients, requests int
	gap               int64 // between two launches of a client, ns: what its own code takes; now and then it takes 8 times as long
	// Which part of the launches has one of two addresses in turn, or another scalar in each request; and how often a launch comes
	// that came never before.
	alternate, change, strange float64
	plain                      bool // runs are not looked for
	joins                      bool // all have the same kernels in the same order, with rewritten forms
}

// launches is how many a request has, as one of ResNet-50, think the time between two requests, ns.
const launches, think = 342, int64(100e3)

// reached is what a crowd reached in the second half of its requests.
type reached struct {
	rate     float64 // launches a second
	perCall  float64 // kernels a driver call
	share    float64 // of the kernels in prepared runs
	latency  float64 // of a request, µs
	busy     float64 // part of the issue threads' time in calls
	counters sequence.Counters
}

func (r reached) String() string {
	return fmt.Sprintf("%.0f k launches/s, %.2f kernels a call, %.3f in runs, %.0f µs a request, threads busy %.2f, %+v", r.rate/1e3, r.perCall, r.share, r.latency, r.busy, r.counters)
}

type eagerClient struct {
	c       *client
	t       *tester
	own     *rand.Rand
	program []eagerLaunch
	next    int64 // when it goes on
	at      int   // launch of the request
	waits   bool
	round   int
	began   int64 // the request
	took    int64 // all of them
}

type eagerLaunch struct {
	kernel, grid uint32
	words        []uint64
	alternate    bool
	change       bool
}

const eagerKernels = 60

func eagerProgram(r *rand.Rand, d crowd) []eagerLaunch {
	out := make([]eagerLaunch, launches)
	same := rand.New(rand.NewPCG(5, 5))
	for i := range out {
		l := eagerLaunch{kernel: 1 + r.Uint32N(eagerKernels), grid: 1 + r.Uint32N(64), words: make([]uint64, 6+r.IntN(60))}
		if d.joins {
			l.kernel, l.words = 1+same.Uint32N(eagerKernels), l.words[:6]
			l.grid = 1 + l.kernel%16
		}
		for k := range l.words {
			l.words[k] = testWindow + uint64(r.IntN(1<<20))<<9
		}
		switch x := r.Float64(); {
		case x < d.alternate:
			l.alternate = true
		case x < d.alternate+d.change:
			l.change = true
		}
		out[i] = l
	}
	return out
}

// play runs a crowd on a paced driver.
func (d crowd) play(t testing.TB) reached {
	const threads = 4
	g := newPacedGPU(threads)
	e, err := issue.New(g, issue.Options{Threads: threads, Least: 0, Greatest: -5, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	c := Config{Log: quietLog(), DeadKernelTime: time.Hour, Tuning: Tuning{Spin: time.Hour, NapAfter: time.Hour}}
	c.defaults()
	g.spent = e.Spent
	p, err := newPoller(c, e, cost.Chip{SMs: 132, Threads: 2048, Registers: 65536, Shared: 233472, Blocks: 32})
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := unix.Mmap(-1, 0, sequence.ScratchBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(scratch)
	if !d.plain {
		p.runs = sequence.New(sequence.Options{
			Ask: func(r *sequence.Run) bool {
				if res := r.Build(g, 0, scratch); res != gpu.Success {
					t.Fatal(res)
				}
				r.Exec.Store(uint64(r.Len()))
				return true
			},
			Retire: func(*sequence.Run) {},
		})
	}
	now := int64(1)
	p.clock = func() int64 { return now }
	h := &bench{t: t, gpu: g.fakeGPU, poller: p}
	var all []*eagerClient
	var codes [eagerKernels + 1]*scoreboard.Code
	for id := range codes {
		codes[id] = &scoreboard.Code{ID: uint32(id), Name: "k", Registers: 32}
		if d.joins {
			g.publish(newFakeForm(coalesce.ByTable, d.clients, 6*8, nil), codes[id])
		}
	}
	for i := range d.clients {
		c, k := h.client(nil)
		for id := uint32(1); id <= eagerKernels; id++ {
			code := codes[id]
			if !d.joins {
				code = &scoreboard.Code{ID: id, Name: "k"}
			}
			c.board.AddKernel(&scoreboard.Kernel{ID: id, Function: 5, Limit: unlimited(), Code: code})
		}
		own := rand.New(rand.NewPCG(uint64(i), 77))
		all = append(all, &eagerClient{c: c, t: k, own: own, program: eagerProgram(own, d), next: int64(own.IntN(1_000_000))})
	}
	type sums struct{ now, kernels, calls, busy, ops, took, requests int64 }
	sum := func() sums {
		s := sums{now: now, kernels: int64(g.kernels), calls: int64(g.calls), busy: g.busy}
		if p.runs != nil {
			s.ops = int64(p.runs.Ops)
		}
		for _, c := range all {
			s.took += c.took
			s.requests += int64(c.round)
		}
		return s
	}
	var from sums
	for {
		for _, c := range all {
			c.advance(d, now)
		}
		if from.now == 0 && all[0].round >= d.requests/2 {
			from = sum()
		}
		if all[0].round >= d.requests {
			break
		}
		ops, words := p.stats.Ops, e.Words
		if !p.pass() {
			t.Fatalf("the executor ended: %+v", p.end)
		}
		if p.lastActivity == p.now {
			now += 300 + int64(e.Words-words)*600 + int64(p.stats.Ops-ops)*300 + g.direct
		} else {
			now = d.next(all, g, now) // the poller would spin
		}
		g.direct = 0
		g.step(e, now)
	}
	to := sum()
	part := func(a, b int64) float64 { return float64(a) / float64(b) }
	out := reached{
		rate: part(to.kernels-from.kernels, to.now-from.now) * 1e9, perCall: part(to.kernels-from.kernels, to.calls-from.calls),
		share: part(to.ops-from.ops, to.kernels-from.kernels), latency: part(to.took-from.took, to.requests-from.requests) / 1e3,
		busy: part(to.busy-from.busy, (to.now-from.now)*threads),
	}
	if p.runs != nil {
		out.counters = p.runs.Counters
	}
	return out
}

// next is when something happens, at most a few µs on: what waits for its time to pass has to be asked.
func (d crowd) next(all []*eagerClient, g *pacedGPU, now int64) int64 {
	at := now + 3000
	for _, c := range all {
		if !c.waits {
			at = min(at, c.next)
		}
	}
	for _, t := range g.free {
		if t > now {
			at = min(at, t)
		}
	}
	if len(g.writes) > 0 {
		at = min(at, g.writes[0].at)
	}
	return max(at, now+300)
}

// advance has a client do what it does until a time.
func (c *eagerClient) advance(d crowd, now int64) {
	if c.waits {
		if !shm.Reached(c.t.done(1), c.t.seq[1]) {
			return
		}
		c.waits = false
		c.took += now - c.began
		c.round++
		c.at = 0
		c.next = now + 15_000 + think
	}
	for c.next <= now {
		if c.at == 0 {
			c.began = c.next
		}
		if c.at == len(c.program) {
			if _, _, ok := c.t.ring.Begin(shm.Header{Kind: shm.KindSignal, Lane: 1, Seq: c.t.seq[1], Flags: shm.RecordFlagWait}, 0); !ok {
				return
			}
			c.t.ring.Publish()
			c.waits = true
			return
		}
		l := c.program[c.at]
		if c.own.Float64() < d.strange {
			l.words = []uint64{c.own.Uint64()}
		}
		if !c.submit(l) {
			return
		}
		c.at++
		gap := d.gap/2 + c.own.Int64N(d.gap)
		if c.own.IntN(30) == 0 {
			gap *= 8
		}
		c.next += gap * 30 / 37
	}
}

// submit writes a launch; false: the ring is full.
func (c *eagerClient) submit(l eagerLaunch) bool {
	n := 8 * len(l.words)
	body, _, ok := c.t.ring.Begin(shm.Header{Kind: shm.KindLaunch, Lane: 1, Seq: c.t.seq[1] + 1}, int(unsafe.Sizeof(shm.Launch{}))+n)
	if !ok {
		return false
	}
	at := shm.Put(body, shm.Launch{Kernel: l.kernel, GridX: l.grid, GridY: 1, GridZ: 1, BlockX: 128, BlockY: 1, BlockZ: 1, ParamBytes: uint32(n)})
	for i, w := range l.words {
		if i == 2 && l.alternate && c.round%2 == 1 {
			w += 1 << 30
		}
		if i == 3 && l.change {
			w = uint64(c.round)
		}
		binary.LittleEndian.PutUint64(body[at+8*i:], w)
	}
	c.t.seq[1]++
	c.t.ring.Publish()
	return true
}

// Eager clients that together submit about as fast as the issue threads can launch have hardly any backlog: their runs are whole because the
// first op waits for the others. Whoever submits slower, or is alone, or does other things each time, loses nothing.
func TestEagerCrowds(t *testing.T) {
	t.Parallel() // one thread in a time of its own: nothing beside it changes it
	without := map[[2]int64]reached{}
	for _, k := range []struct {
		name           string
		crowd          crowd
		share, perCall float64 // at least
		latency        float64 // at most, of what it is without runs
		still          bool    // nobody waits
	}{
		{"faster than the issue threads", crowd{clients: 8, requests: 5, gap: 4000}, 0.9, 8, 0.75, false},
		{"as fast as the issue threads", crowd{clients: 8, requests: 9, gap: 12000}, 0.7, 3, 0.95, false},
		{"with other parameters each time", crowd{clients: 8, requests: 9, gap: 12000, alternate: 0.1, change: 0.2}, 0.55, 2.2, 0.97, false},
		{"with launches that come once", crowd{clients: 8, requests: 9, gap: 12000, strange: 0.02}, 0.2, 1.2, 1.01, false},
		{"with nothing that repeats", crowd{clients: 8, requests: 9, gap: 12000, change: 1}, 0, 1, 1.03, false},
		{"slow", crowd{clients: 8, requests: 2, gap: 70000}, 0, 1, 1.003, false},
		{"alone", crowd{clients: 1, requests: 3, gap: 12000}, 0, 1, 1.005, true},
	} {
		t.Run(k.name, func(t *testing.T) {
			got := k.crowd.play(t)
			pace := [2]int64{int64(k.crowd.clients), k.crowd.gap}
			plain, ok := without[pace]
			if !ok {
				plain = crowd{clients: k.crowd.clients, requests: k.crowd.requests, gap: k.crowd.gap, plain: true}.play(t)
				without[pace] = plain
			}
			t.Logf("%v", got)
			t.Logf("plain: %v", plain)
			if got.share < k.share || got.perCall < k.perCall || got.latency > k.latency*plain.latency {
				t.Errorf("%.3f of the kernels in runs, %.2f a call, %.3f × the latency; want %.2f, %.1f, %.3f", got.share, got.perCall, got.latency/plain.latency, k.share, k.perCall, k.latency)
			}
			n := uint64(0)
			for _, why := range got.counters.Plain {
				n += why
			}
			if all := uint64(k.crowd.clients * launches * k.crowd.requests); n+got.counters.Ops < all/2 || got.counters.InVain > got.counters.Awaited || (k.still && got.counters.Awaited > 0) {
				t.Errorf("%d ops went one by one, %d in runs, of more than %d; %d waited", n, got.counters.Ops, all/2, got.counters.Awaited)
			}
		})
	}
}

// Clients of one model, whose kernels could all be joined but who need their own time between two launches, go by themselves and in runs
// before long: each request takes no longer than if nobody could be joined.
func TestEagerModels(t *testing.T) {
	t.Parallel()
	got := crowd{clients: 8, requests: 54, gap: 12000, joins: true}.play(t)
	apart := crowd{clients: 8, requests: 10, gap: 12000}.play(t)
	t.Logf("%v", got)
	t.Logf("nobody can be joined: %v", apart)
	if got.share < 0.5 || got.latency > 1.15*apart.latency {
		t.Errorf("%.3f of the kernels in runs, %.0f µs a request; nobody can be joined: %.3f, %.0f µs", got.share, got.latency, apart.share, apart.latency)
	}
}

// BenchmarkEager is what runs gain 8 eager clients, by how fast each submits: ratios to the same without runs, in the time of the priced
// driver.
func BenchmarkEager(b *testing.B) {
	for _, gap := range []int64{4000, 8000, 12000, 16000, 70000} {
		for _, change := range []float64{0, 0.2} {
			b.Run(fmt.Sprintf("gap=%dus/change=%.1f", gap/1000, change), func(b *testing.B) {
				var got, plain reached
				for range b.N {
					d := crowd{clients: 8, requests: 30, gap: gap, alternate: change / 2, change: change}
					got = d.play(b)
					d.plain = true
					plain = d.play(b)
				}
				b.ReportMetric(got.share, "in-runs")
				b.ReportMetric(got.perCall, "kernels/call")
				b.ReportMetric(got.rate/plain.rate, "rate/plain")
				b.ReportMetric(got.latency/plain.latency, "latency/plain")
				b.ReportMetric(got.busy, "threads-busy")
			})
		}
	}
}
