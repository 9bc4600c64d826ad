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

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// judge is the kernel of random programs: it knows for every op of every lane what must have run before it.
type judge struct {
	mu    sync.Mutex
	ran   map[[3]uint64]bool // client, lane, seq
	after map[[3]uint64][][3]uint64
	wrong []string
	n     int
}

func (j *judge) kernel(params []byte) {
	me := [3]uint64{binary.LittleEndian.Uint64(params), binary.LittleEndian.Uint64(params[8:]), binary.LittleEndian.Uint64(params[16:])}
	// A kernel takes some time, a few a long time, so that order by luck is rare.
	switch n := binary.LittleEndian.Uint64(params[24:]); {
	case n == 0:
		time.Sleep(300 * time.Microsecond)
	default:
		for range n {
			runtime.Gosched()
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, b := range j.after[me] {
		if !j.ran[b] && len(j.wrong) < 10 {
			j.wrong = append(j.wrong, fmt.Sprintf("%v ran before %v", me, b))
		}
	}
	if j.ran[me] {
		j.wrong = append(j.wrong, fmt.Sprintf("%v ran twice", me))
	}
	j.ran[me] = true
	j.n++
}

// Random programs of several clients: order within lanes, dependencies across lanes and ready words hold at the moment each
// kernel runs, done is monotone and never ahead of the truth, head never passes a record that is not done, and all of it ends.
func TestRandomPrograms(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomProgram(t, seed, false) })
	}
}

// The same with forms: ops alike of several lanes and clients share launches, whose instances run in any order.
func TestRandomProgramsJoined(t *testing.T) {
	total := uint64(0)
	for seed := range uint64(9) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { total += randomProgram(t, seed, true) })
	}
	if total < 1000 {
		t.Errorf("only %d ops of all programs were joined", total)
	}
}

// randomProgram returns how many ops were in words with others.
func randomProgram(t *testing.T, seed uint64, joined bool) uint64 {
	return randomProgramOn(t, seed, joined, func(g *fakeGPU) Driver { return g }, nil)
}

// randomProgramOn is randomProgram on a driver made of the double. meanwhile: nil, or what happens to the executor until stop is closed.
func randomProgramOn(t *testing.T, seed uint64, joined bool, on func(*fakeGPU) Driver, meanwhile func(d *daemon, stop chan struct{})) uint64 {
	const clients, ops = 3, 400
	r := rand.New(rand.NewPCG(seed, 1))
	j := &judge{ran: map[[3]uint64]bool{}, after: map[[3]uint64][][3]uint64{}}
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.kernels["check"] = j.kernel
	g.late = seed%2 == 1
	g.kernels["other"] = j.kernel
	lanes := []int{3, 12, 60}[seed%3] // 60: more lanes than streams
	var forms []*fakeForm
	form := func(m coalesce.Mapping, capacity int, codes ...*scoreboard.Code) {
		var bodies []func([]byte)
		for range codes {
			bodies = append(bodies, j.kernel)
		}
		f := newFakeForm(m, capacity, 32, bodies...)
		forms = append(forms, f)
		g.publish(f, codes...)
	}
	var codes []*scoreboard.Code
	m := newMaker(g, func(name string, c *scoreboard.Code) {
		if codes = append(codes, c); seed%4 != 3 {
			form(coalesce.ByZ, 8, c)
			form(coalesce.ByZ, 128, c)
		}
		if seed%2 == 1 {
			form(coalesce.ByTable, 16, c)
		}
		if len(codes) == 2 && seed%3 > 0 {
			form(coalesce.ByTable, 32, codes...)
		}
	})
	drv := on(g)
	d := start(t, func() (Driver, Facts, error) { return drv, g.facts(), nil }, nil, func(c *Config) {
		c.IssueThreads = 1 + int(seed%4)
		if meanwhile != nil {
			c.Tuning.Calm = 10 * time.Microsecond // it is soon done, and never calm before
		}
		c.Tuning.WindowAlone, c.Tuning.WindowShared = 4+int(seed)*8, 2+int(seed)*4
		if joined {
			c.loaded = m.loaded
			c.Tuning.Gather = time.Duration(seed) * 100 * time.Microsecond
			c.Tuning.Ahead = time.Duration(seed) * 200 * time.Microsecond
		}
	})
	d.image(1, testImage)
	var wg sync.WaitGroup
	for id := uint64(1); id <= clients; id++ {
		c := d.client(id)
		c.kernel(1, 1, "check")
		c.kernel(1, 2, "other")
		for l := range lanes {
			put(c, shm.KindLaneOpen, uint32(1+l), shm.LaneOpen{Priority: int32(-r.IntN(7))}, nil, nil)
		}
		c.resume()
		own := rand.New(rand.NewPCG(seed, id+10))
		stop := make(chan struct{})
		wg.Add(1)
		go func() { // the native side: ready words grow, sooner or later
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
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer close(stop)
			seen := make([]uint32, lanes+1)
			for i := range ops {
				lane := uint32(1 + own.IntN(lanes))
				me := [3]uint64{id, uint64(lane), uint64(c.seq[lane] + 1)}
				var deps []shm.Dep
				var before [][3]uint64
				if c.seq[lane] > 0 {
					before = append(before, [3]uint64{id, uint64(lane), uint64(c.seq[lane])})
				}
				for range own.IntN(5) {
					on := uint32(1 + own.IntN(lanes))
					switch {
					case own.IntN(8) == 0:
						deps = append(deps, shm.Dep{Lane: on | shm.DepReady, Value: uint32(1 + own.IntN(50))})
					case c.seq[on] > 0:
						v := 1 + own.Uint32N(c.seq[on])
						deps = append(deps, shm.Dep{Lane: on, Value: v})
						before = append(before, [3]uint64{id, uint64(on), uint64(v)})
					}
				}
				j.mu.Lock()
				j.after[me] = before
				j.mu.Unlock()
				kernel, grid := uint32(1), uint32(1)
				if joined {
					kernel, grid = 1+own.Uint32N(2), 1+own.Uint32N(2)*8191
				}
				seq := c.launchGrid(kernel, lane, grid, u64s(id, uint64(lane), me[2], uint64(own.IntN(20))), func(h *shm.Header) {
					h.Deps = deps
					if own.IntN(6) == 0 {
						h.Ready = uint32(1 + own.IntN(100))
					}
					if own.IntN(20) == 0 {
						h.Flags = shm.RecordFlagWantSignal
					}
				})
				if own.IntN(3) == 0 {
					c.ring.Publish()
				}
				if own.IntN(40) == 0 {
					if err := c.sync(lane, seq); err != nil {
						t.Errorf("client %d: %v", id, err)
						return
					}
					j.mu.Lock()
					if !j.ran[me] {
						t.Errorf("done says that %v is complete; it has not run", me)
					}
					j.mu.Unlock()
				}
				look := uint32(1 + i%lanes)
				if v := c.done(look); !shm.Reached(v, seen[look]) {
					t.Errorf("client %d lane %d: done went from %d to %d", id, look, seen[look], v)
				} else {
					seen[look] = v
				}
			}
			for l := uint32(1); l <= uint32(lanes); l++ {
				if c.seq[l] > 0 && c.sync(l, c.seq[l]) != nil {
					t.Errorf("client %d: sticky error at the end", id)
				}
			}
			if h, tail := &c.file.Consumer().Head, atomic.LoadUint64(&c.file.Producer().Tail); true {
				for end := time.Now().Add(patience); atomic.LoadUint64(h) != tail; {
					if time.Now().After(end) {
						t.Errorf("client %d: head %d never reached the tail %d", id, atomic.LoadUint64(h), tail)
						return
					}
					time.Sleep(100 * time.Microsecond)
				}
			}
		}()
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if meanwhile != nil {
			meanwhile(d, over)
		}
	}()
	wg.Wait()
	close(over)
	<-ended
	for _, f := range forms {
		f.check(t)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range j.wrong {
		t.Error(w)
	}
	if j.n != clients*ops {
		t.Errorf("%d kernels ran; want %d", j.n, clients*ops)
	}
	return d.stats().Coalescing.OpsCoalesced
}

// Kernels that wait for one another run, although the window of each lane is full: when nothing completes, one more op of every
// lane is issued.
func TestProgress(t *testing.T) {
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	var arrived atomic.Int32
	g.kernels["check"] = func([]byte) {
		for arrived.Add(1); arrived.Load() < 3; {
			time.Sleep(10 * time.Microsecond)
		}
	}
	g.kernels["other"] = func([]byte) {
		for arrived.Load() < 2 {
			time.Sleep(10 * time.Microsecond)
		}
		arrived.Add(1)
	}
	d := start(t, g.open, nil, func(c *Config) { c.Tuning.WindowAlone = 1 })
	d.image(1, testImage)
	c := d.client(1)
	c.kernel(1, 1, "check")
	c.kernel(1, 2, "other")
	c.resume()
	a := c.launch(1, 1, u64s(0), nil)
	b := c.launch(1, 2, u64s(0), nil)
	e := c.launch(2, 3, u64s(0), nil)
	c.ring.Publish()
	c.mustSync(1, a)
	c.mustSync(2, b)
	c.mustSync(3, e)
}

// Of ops that take long, few are in flight at a time: a client that dies leaves little to wait for.
func TestLongOps(t *testing.T) {
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", func([]byte) { time.Sleep(2 * time.Millisecond) })
	d := start(t, g.open, nil, func(c *Config) { c.DeadKernelTime = 100 * time.Millisecond })
	d.image(1, testImage)
	c := d.client(1)
	c.kernel(1, 1, "check")
	c.resume()
	for range 400 {
		c.launch(1, 1, nil, nil)
	}
	c.ring.Publish()
	w := c.file.Lane(1)
	until(t, "200 are done", func() bool { return atomic.LoadUint32(&w.Done) >= 200 })
	if n := atomic.LoadUint32(&w.Issued) - atomic.LoadUint32(&w.Done); n > 16 {
		t.Errorf("%d ops of 2 ms are in flight", n)
	}
	// What is in flight takes longer than no progress may, but it progresses.
	if r := c.detach(); r.Status != shm.StatusOK {
		t.Errorf("detach: %d %s", r.Status, r.Tail)
	}
}

// A flood from others does not starve a client: with 3 flooding clients of 4 lanes, one that synchronises after every op gets its
// turn within a bounded number of theirs.
func TestNoStarvation(t *testing.T) {
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	var made, mine atomic.Int64 // launches, as the driver gets them, and which one was ours
	g.kernels["check"] = func([]byte) {}
	own := uint32(7) // the blocks of our launches; theirs have 1
	g.refuse = func(l *gpu.Launch) gpu.Result {
		if n := made.Add(1); l.Grid[0] == own {
			mine.Store(n)
		}
		return gpu.Success
	}
	// One thread makes all calls: their order is then the order of the executor's decisions, whatever the machine does meanwhile.
	d := start(t, g.open, nil, func(c *Config) { c.IssueThreads = 1 })
	d.image(1, testImage)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for id := uint64(2); id <= 4; id++ {
		c := d.client(id)
		c.kernel(1, 1, "check")
		c.resume()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := uint32(0); !stop.Load(); i++ {
				c.launch(1, 1+i%4, u64s(0), nil)
				if i%16 == 0 {
					c.ring.Publish()
				}
			}
			for l := uint32(1); l <= 4; l++ {
				if err := c.sync(l, c.seq[l]); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	c := d.client(1)
	c.kernel(1, 1, "check")
	c.resume()
	const rounds = 50
	before := make([]int64, rounds) // launches of others between our op's publication and its launch
	for i := range before {
		seq := c.launchGrid(1, 1, own, u64s(0), nil)
		c.signal(1, seq)
		c.ring.Publish()
		from := made.Load() // behind the publication: that this thread is held up in between must not count
		if err := c.await(1, seq); err != nil {
			t.Fatal(err)
		}
		before[i] = mine.Load() - from
	}
	stop.Store(true)
	wg.Wait()
	slices.Sort(before)
	t.Logf("others' launches before ours: half of the time at most %d, always at most %d", before[rounds/2], before[rounds-1])
	// The queue to the thread holds 128 commands. Behind them may be what the others had offered, one op of each of their 12 lanes, and
	// as much again, if the pass that was under way had already looked at our ring.
	if worst := before[rounds-1]; worst > 128+2*12 {
		t.Errorf("an op waited while %d ops of others went", worst)
	}
}

// The hot path allocates nothing: no byte for tens of thousands of ops with dependencies, signals and waits.
func TestNoAllocations(t *testing.T) {
	all := nullClients(t, 2, 1)
	program := func(n int) {
		for i := range n {
			for _, c := range all {
				c.push(uint32(1+i%3), i%8 == 0)
			}
		}
		for _, c := range all {
			for l := uint32(1); l <= 3; l++ {
				c.mustSync(l, c.seq[l])
			}
		}
	}
	program(5000)
	const n = 20000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	program(n)
	runtime.ReadMemStats(&after)
	// The test's own waits allocate a little (timers); the executor's share would be one or more for each of 40,000 ops.
	if got := after.Mallocs - before.Mallocs; got > n/4 {
		t.Errorf("%d allocations for %d ops", got, 2*n)
	}
}
