package executor

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// nullClients are clients of an executor whose driver does nothing: what is left is the executor's own cost.
func nullClients(tb testing.TB, clients, threads int) []*tester {
	tb.Helper()
	g := nullGPU{newFakeGPU()}
	tb.Cleanup(g.unmapAll)
	g.kernels["check"] = adder
	d := start(tb, g.open, nil, func(c *Config) { c.IssueThreads = threads })
	d.image(1, testImage)
	var all []*tester
	for id := 1; id <= clients; id++ {
		c := d.client(uint64(id))
		c.kernel(1, 1, "check")
		c.resume()
		all = append(all, c)
	}
	return all
}

// push writes a launch of kernel 1 as cheaply as a client does, pushKernel of another one.
func (c *tester) push(lane uint32, publish bool) { c.pushKernel(1, lane, publish) }

func (c *tester) pushKernel(kernel, lane uint32, publish bool) {
	h := shm.Header{Kind: shm.KindLaunch, Lane: lane, Seq: c.seq[lane] + 1}
	for {
		body, _, ok := c.ring.Begin(h, 64+16)
		if ok {
			shm.Put(body, shm.Launch{Kernel: kernel, GridX: 1, GridY: 1, GridZ: 1, BlockX: 1, BlockY: 1, BlockZ: 1, ParamBytes: 16})
			break
		}
		if err := c.ring.WaitSpace(shm.RecordBytes(0, 80), patience); err != nil {
			c.t.Fatal(err)
		}
	}
	c.seq[lane]++
	if publish {
		c.ring.Publish()
	}
}

// BenchmarkOps is how many ops a second go from rings to (null) driver calls and back, all threads running.
func BenchmarkOps(b *testing.B) {
	for _, clients := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			all := nullClients(b, clients, 2)
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, c := range all {
				wg.Add(1)
				go func() {
					defer wg.Done()
					n := b.N / clients
					for i := range n {
						c.push(1, i%16 == 0)
					}
					if n > 0 {
						if err := c.sync(1, c.seq[1]); err != nil {
							b.Error(err)
						}
					}
				}()
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

// BenchmarkPoller is the poller's own work for one op, from record to queue and from done word to head, on one thread: an issue
// thread consumes the queue beside it.
func BenchmarkPoller(b *testing.B) {
	g := nullGPU{newFakeGPU()}
	e, err := issue.New(g, issue.Options{Threads: 1, Streams: 32, Least: 0, Greatest: -5, Spin: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Stop()
	c := Config{Log: quietLog()}
	c.defaults()
	p, err := newPoller(c, e, cost.Chip{})
	if err != nil {
		b.Fatal(err)
	}
	file, err := shm.CreateSessionFile(1)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	ring, err := shm.NewProducer(file, nil)
	if err != nil {
		b.Fatal(err)
	}
	board := scoreboard.New(1, file)
	board.LanesDevice = addressOf(file.LaneBytes())
	board.AddKernel(&scoreboard.Kernel{ID: 1, Function: 5, Limit: unlimited()})
	p.add(&client{id: 1, board: board, file: file, ring: shm.NewConsumer(file), words: file.Consumer(), status: file.Status()})
	t := &tester{t: b, file: file, ring: ring}
	const batch = 64
	var spent []float64
	for n := 0; n < b.N; {
		for i := 0; i < batch; i++ {
			t.push(1, false)
			n++
		}
		ring.Publish()
		var busy time.Duration
		for board.OpsDone < uint64(n) {
			from := time.Now()
			p.pass()
			if p.lastActivity == p.now { // the other passes wait for the issue thread
				busy += time.Since(from)
			}
		}
		spent = append(spent, float64(busy.Nanoseconds())/batch)
	}
	slices.Sort(spent) // the median: this machine's cores are shared with whatever else runs
	b.ReportMetric(spent[len(spent)/2], "poller-ns/op")
}

// BenchmarkCoalesced is the poller's own work for one op when clients launch the same kernels without waiting, on one thread,
// with an issue thread beside it. It also tells how wide the words were.
func BenchmarkCoalesced(b *testing.B) {
	for _, clients := range []int{8, 32, 128} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { coalesced(b, clients, 1, true) })
	}
}

// BenchmarkShapes is the same for clients that launch so many kernels in turn, each at another one, as compiled models do.
func BenchmarkShapes(b *testing.B) {
	for _, kernels := range []int{1, 3, 45} {
		for _, forms := range []bool{true, false} {
			b.Run(fmt.Sprintf("kernels=%d/forms=%v", kernels, forms), func(b *testing.B) {
				coalesced(b, 8, kernels, forms)
			})
		}
	}
}

func coalesced(b *testing.B, clients, kernels int, forms bool) {
	h := newBench(b)
	var codes []*scoreboard.Code
	for i := range kernels {
		code := &scoreboard.Code{ID: uint32(i + 1), Name: "check"}
		for _, n := range []int{scoreboard.SmallCapacity, scoreboard.LargeCapacity} {
			if forms {
				h.gpu.publish(newFakeForm(coalesce.ByZ, n, 16, func([]byte) {}), code)
			}
		}
		codes = append(codes, code)
	}
	var boards []*client
	var all []*tester
	var next []int // the kernel that each client launches next
	for i := range clients {
		c, t := h.client(nil)
		c.board.KernelByID(1).Code = codes[0]
		for k := 1; k < kernels; k++ {
			kernelOf(c, uint32(k+1), codes[k])
		}
		boards, all, next = append(boards, c), append(all, t), append(next, i*5)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	clock := int64(1 << 40) // what asking for the time costs
	for range 1000 {
		from := threadTime()
		clock = min(clock, threadTime()-from)
	}
	p := h.poller
	const batch = 64
	var spent []float64
	passes := 0
	for n := 0; n < b.N; n += clients * batch {
		for i, t := range all {
			for range batch {
				t.pushKernel(uint32(next[i]%kernels+1), 1, false)
				next[i]++
			}
			t.ring.Publish()
		}
		busy := int64(0)
		for done := false; !done; {
			from := threadTime()
			p.pass()
			if p.lastActivity == p.now { // the other passes wait for the issue thread
				busy += threadTime() - from - clock
				passes++
			}
			done = true
			for i, c := range boards {
				done = done && c.board.OpsDone == uint64(all[i].seq[1])
			}
		}
		spent = append(spent, float64(busy)/float64(clients*batch))
	}
	slices.Sort(spent)
	b.ReportMetric(spent[len(spent)/2], "poller-ns/op")
	b.ReportMetric(spent[len(spent)/10], "quiet-ns/op") // of the tenth of batches that had the machine to themselves
	b.ReportMetric(float64(len(spent)*clients*batch)/float64(passes), "ops/pass")
	g := p.gather
	b.ReportMetric(float64(g.Slots[0]+g.Slots[1])/float64(g.Words[0]+g.Words[1]), "ops/word")
}

// threadTime is the processor time of the calling thread, ns: whatever else runs on this machine does not count.
func threadTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return t.Nano()
}

// BenchmarkAcross is the poller's own work for one op when another core does all the rest, as on a real machine: it writes the clients'
// records, executes what the poller pushes and writes done words, so every line that comes from there was last another core's. With
// depth 1 each client has one launch at a time, and a pass finds a few ops; with 16 there is a backlog.
func BenchmarkAcross(b *testing.B) {
	for _, kind := range []string{"coalesced", "plain"} {
		for _, clients := range []int{8, 32} {
			for _, depth := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/clients=%d/depth=%d", kind, clients, depth), func(b *testing.B) { across(b, kind == "coalesced", clients, depth) })
			}
		}
	}
}

// steadyGPU is a nullGPU whose words, if measured, took 4 µs: of what was measured a few times few are measured, as on a GPU.
type steadyGPU struct{ nullGPU }

func (steadyGPU) EventElapsed(gpu.Event, gpu.Event) (float32, gpu.Result) { return 0.004, gpu.Success }

func across(b *testing.B, joined bool, clients, depth int) {
	g := newFakeGPU()
	h := newBenchWith(b, g, steadyGPU{nullGPU{g}}, issue.Options{Threads: 2, Least: 0, Greatest: -5, Manual: true})
	p := h.poller
	code := &scoreboard.Code{ID: 1, Name: "check"}
	for _, n := range []int{scoreboard.SmallCapacity, scoreboard.LargeCapacity} {
		if joined {
			h.gpu.publish(newFakeForm(coalesce.ByZ, n, 16, func([]byte) {}), code)
		}
	}
	var boards []*client
	var all []*tester
	for range clients {
		c, t := h.client(nil)
		c.board.KernelByID(1).Code = code
		boards, all = append(boards, c), append(all, t)
	}
	var asked, pushed atomic.Int64
	var over atomic.Bool
	var other sync.WaitGroup
	other.Go(func() {
		pin(b, -1)
		for !over.Load() {
			if n := asked.Load(); n != pushed.Load() {
				for range depth {
					for _, t := range all {
						t.push(1, true)
					}
				}
				pushed.Store(n)
			}
			for i := range p.engine.Threads() {
				for p.engine.Execute(i) {
				}
			}
		}
	})
	pin(b, 0)
	clock := time.Hour // what asking for the time costs
	for range 1000 {
		from := time.Now()
		clock = min(clock, time.Since(from))
	}
	var spent []float64
	passes := 0
	for n := 0; n < b.N; n += clients * depth {
		for round := asked.Add(1); pushed.Load() != round; {
			issue.Pause(1)
		}
		var busy time.Duration
		for done := false; !done; {
			from := time.Now()
			p.pass()
			if took := time.Since(from); p.lastActivity == p.now { // the other passes wait for the other core
				busy += took - clock
				passes++
			}
			done = true
			for i, c := range boards {
				done = done && c.board.OpsDone == uint64(all[i].seq[1])
			}
		}
		spent = append(spent, float64(busy.Nanoseconds())/float64(clients*depth))
	}
	over.Store(true)
	other.Wait()
	slices.Sort(spent) // the median and the quartile: whoever else uses this machine is in some of the passes
	b.ReportMetric(spent[len(spent)/2], "poller-ns/op")
	b.ReportMetric(spent[len(spent)/10], "quiet-ns/op")
	b.ReportMetric(float64(len(spent)*clients*depth)/float64(passes), "ops/pass")
}

// pin keeps the calling goroutine on one of the processors that this process may use, the first of them (0) or the last (-1), for ever.
func pin(tb testing.TB, which int) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		tb.Error(err)
	}
	chosen := -1
	for cpu := range 8 * len(may) * int(unsafe.Sizeof(may[0])) {
		if may.IsSet(cpu) && (chosen < 0 || which < 0) {
			chosen = cpu
		}
	}
	one.Set(chosen)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		tb.Error(err)
	}
}
