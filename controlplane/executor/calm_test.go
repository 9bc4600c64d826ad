package executor

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// stallingGPU is the driver double with what an H100's driver does (docs/results.md, "What stalls the context"): loading code, unloading
// it and unregistering memory wait until everything that runs has ended, and no launch gets in before they return; registering memory
// keeps launches out for its own time.
type stallingGPU struct {
	*fakeGPU
	context   sync.RWMutex
	functions sync.Map     // loaded
	stalls    atomic.Int64 // calls that held launches up, or are about to
}

func (g *stallingGPU) open() (Driver, Facts, error) { return g, g.facts(), nil }

func (g *stallingGPU) stall(wait bool) func() {
	g.stalls.Add(1)
	g.context.Lock()
	for wait && g.busy() && g.fault.Load() == 0 {
		time.Sleep(20 * time.Microsecond)
	}
	return g.context.Unlock
}

func (g *stallingGPU) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.streams {
		if s.held.Load() > 0 {
			return true
		}
	}
	return false
}

func (g *stallingGPU) Launch(l *gpu.Launch) gpu.Result {
	g.context.RLock()
	defer g.context.RUnlock()
	return g.fakeGPU.Launch(l)
}

func (g *stallingGPU) WriteValue32(s gpu.Stream, address uint64, value uint32) gpu.Result {
	g.context.RLock()
	defer g.context.RUnlock()
	return g.fakeGPU.WriteValue32(s, address, value)
}

func (g *stallingGPU) HostRegister(address, bytes uint64) (uint64, gpu.Result) {
	defer g.stall(false)()
	return g.fakeGPU.HostRegister(address, bytes)
}

func (g *stallingGPU) HostUnregister(address uint64) gpu.Result {
	defer g.stall(true)()
	return g.fakeGPU.HostUnregister(address)
}

func (g *stallingGPU) ModuleLoad(b []byte) (gpu.Module, error) {
	defer g.stall(true)()
	return g.fakeGPU.ModuleLoad(b)
}

func (g *stallingGPU) ModuleUnload(m gpu.Module) gpu.Result {
	defer g.stall(true)()
	return g.fakeGPU.ModuleUnload(m)
}

func (g *stallingGPU) ModuleFunction(m gpu.Module, name string) (gpu.Function, error) {
	if _, had := g.functions.LoadOrStore(fmt.Sprint(m, name), true); !had {
		defer g.stall(true)()
	}
	return g.fakeGPU.ModuleFunction(m, name)
}

// beside is a client of an executor, one of whose kernels runs from run until the gate that run returns is closed.
type beside struct {
	*tester
	g       *stallingGPU
	gates   chan chan struct{}
	running chan struct{}
}

func newBeside(t *testing.T, calm time.Duration) *beside {
	t.Helper()
	b := &beside{g: &stallingGPU{fakeGPU: newFakeGPU()}, gates: make(chan chan struct{}, 1), running: make(chan struct{})}
	t.Cleanup(b.g.unmapAll)
	b.g.define("check", adder)
	b.g.define("forever", func([]byte) {
		gate := <-b.gates
		b.running <- struct{}{}
		<-gate
	})
	d := start(t, b.g.open, nil, func(c *Config) { c.Tuning.Calm = calm })
	d.image(1, testImage)
	d.image(2, statefulImage)
	b.tester = d.client(1)
	b.kernel(1, 1, "check")
	b.kernel(1, 2, "forever")
	b.resume()
	return b
}

// run returns when the kernel runs and everybody in the executor knows.
func (b *beside) run() (gate chan struct{}) {
	b.t.Helper()
	gate = make(chan struct{})
	b.gates <- gate
	b.launch(2, 1, u64s(0), nil)
	b.ring.Publish()
	select {
	case <-b.running:
	case <-time.After(patience):
		b.t.Fatal("the kernel does not run")
	}
	var seen Stats
	until(b.t, "the op is in flight", func() bool { seen = b.d.stats(); return seen.InFlight == 1 })
	until(b.t, "the round that counted it is over", func() bool { return b.d.stats().Passes > seen.Passes })
	return gate
}

// waiting is how many waits for a calm moment there are now.
func (b *beside) waiting() int { b.t.Helper(); return b.d.stats().Calm.Waiting }

// While a client's kernel runs nothing is done for others that would keep its next launches out: those that come, load, register, give
// back and leave wait for its end. What keeps nobody out is done at once.
func TestOthersDoNotHoldLaunchesUp(t *testing.T) {
	a := newBeside(t, time.Hour)
	d, g := a.d, a.g
	g.define("other", adder)
	step := func(what string, m shm.Message, meanwhile func()) {
		t.Helper()
		gate := a.run()
		before := g.stalls.Load()
		reply := d.send(m)
		until(t, what+": it waits, or has begun", func() bool { return g.stalls.Load() > before || a.waiting() > 0 })
		for range 20 {
			a.mustSync(2, a.launch(1, 2, u64s(a.window, 1), nil))
		}
		meanwhile()
		if g.stalls.Load() != before || len(reply) > 0 {
			t.Errorf("%s beside a kernel that runs: launches were held up", what)
		}
		close(gate)
		if m := d.wait(reply); m.Status != shm.StatusOK {
			t.Fatalf("%s: status %d: %s", what, m.Status, m.Tail)
		}
		if g.stalls.Load() == before {
			t.Errorf("%s: no call holds anybody up; what was it that waited?", what)
		}
	}
	nothing := func() {}
	third := d.client(3)
	third.resume()
	memory := func() {
		d.must(third.segment(third.window + segmentBytes))
		d.must(shm.Message{Type: shm.TypeSegmentDrop, ClientID: 3, Body: shm.Encode(shm.Range{Address: third.window + segmentBytes, Bytes: segmentBytes})})
	}
	file, err := shm.CreateSessionFile(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	b := d.session(2, file, memfd(t, nil, segmentBytes))
	kernel := func(image uint64, id uint32, name string) shm.Message {
		return shm.Message{Type: shm.TypeKernel, ClientID: 2, Body: shm.Encode(shm.Kernel{ImageID: image, KernelID: id}), Tail: []byte(name)}
	}
	step("a client comes", b.attaching(), memory)
	d.must(b.segment(b.window))
	step("a kernel that nobody asked for before", kernel(1, 1, "other"), memory)
	step("an image that each client has for itself", kernel(2, 2, "check"), memory)
	step("another kernel of it", kernel(2, 3, "other"), nothing)
	host := shm.Encode(shm.Range{Address: testHost + 2*windowStep, Bytes: segmentBytes})
	step("memory is registered", shm.Message{Type: shm.TypeHostSegment, ClientID: 2, Body: host, Fds: []int{b.fd}}, nothing)
	step("it is given back", shm.Message{Type: shm.TypeHostSegmentDrop, ClientID: 2, Body: host}, nothing)
	step("the client leaves", shm.Message{Type: shm.TypeDetach, ClientID: 2}, func() {
		until(t, "its device memory is unmapped", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.mapped[b.window] == 0
		})
	})

	// What is there already is had at once, and so is what a client asks for beside its own work.
	gate := a.run()
	a.kernel(1, 10, "check")
	a.kernel(1, 11, "other")
	close(gate)
	if st := d.stats().Calm; st.Waits != 7 || st.Beside != 0 || st.Waiting != 0 || st.Seconds <= 0 {
		t.Errorf("waits: %+v; want 7, none of which went without a calm moment", st)
	}
}

// A GPU that always has work gives no calm moment: after a while one is not waited for any more.
func TestCalmIsNotWaitedForLong(t *testing.T) {
	a := newBeside(t, time.Millisecond)
	gate := a.run()
	reply := a.d.send(shm.Message{Type: shm.TypeKernel, ClientID: 1, Body: shm.Encode(shm.Kernel{ImageID: 1, KernelID: 9}), Tail: []byte("check")})
	if m := a.d.wait(reply); m.Status != shm.StatusOK { // its own work only
		t.Fatalf("status %d: %s", m.Status, m.Tail)
	}
	before := a.g.stalls.Load()
	file, err := shm.CreateSessionFile(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	b := a.d.session(2, file, memfd(t, nil, segmentBytes))
	a.d.must(b.attaching()) // registers, which waits for nothing that runs
	if n := a.g.stalls.Load(); n != before+1 {
		t.Errorf("%d calls held others up, expected 1", n-before)
	}
	if st := a.d.stats().Calm; st.Beside != 1 || st.Waiting != 0 {
		t.Errorf("waits: %+v; want one call that went beside what runs", st)
	}
	close(gate)
}

// Host memory that waits to be mapped cannot be named yet: a copy from it would end the executor.
func TestHostMemoryIsNamedWhenItIsMapped(t *testing.T) {
	a := newBeside(t, time.Hour)
	d := a.d
	b := d.client(2)
	b.resume()
	gate := a.run()
	host := testHost + 2*windowStep
	reply := d.send(shm.Message{Type: shm.TypeHostSegment, ClientID: 2, Body: shm.Encode(shm.Range{Address: host, Bytes: segmentBytes}), Fds: []int{b.fd}})
	until(t, "it waits", func() bool { return a.waiting() == 1 })
	put(b, shm.KindCopy, 1, shm.Copy{Dst: b.window, Src: host, Bytes: 8}, nil, nil)
	b.ring.Publish()
	until(t, "its client is refused", func() bool { code, reason := b.sticky(); return code != 0 && reason == shm.ReasonBadRecord })
	close(gate)
	if m := d.wait(reply); m.Status != shm.StatusOK {
		t.Errorf("status %d: %s", m.Status, m.Tail)
	}
	if m := b.detach(); m.Status != shm.StatusOK { // gives the memory back
		t.Errorf("status %d: %s", m.Status, m.Tail)
	}
	a.mustSync(2, a.launch(1, 2, u64s(a.window, 1), nil))
}

// Those that have waited for too long go together, and such openings are some time apart.
func TestOpenings(t *testing.T) {
	const ms = int64(time.Millisecond)
	c := calm{patience: 10 * ms}
	for _, x := range []struct {
		what                 string
		session, flight      uint64
		now, began, patience int64
		ok, beside           bool
	}{
		{"nobody has work", 1, noClient, 1, 1, 10 * ms, true, false},
		{"its own work", 1, 1, 2, 2, 10 * ms, true, false},
		{"another's", 1, 2, 3, 3, 10 * ms, false, false},
		{"its own and another's", 1, manyClients, 4, 3, 10 * ms, false, false},
		{"nobody's own call beside one client's work", 0, 2, 5, 5, 10 * ms, false, false},
		{"waited, not for long enough", 1, 2, 9 * ms, 3, 10 * ms, false, false},
		{"for long enough", 1, 2, 11 * ms, 3, 10 * ms, true, true},
		{"another goes along that has just come", 2, manyClients, 11*ms + 5, 11 * ms, 200 * ms, true, true},
		{"the opening is over", 3, manyClients, 12*ms + 1, 12 * ms, 10 * ms, false, false},
		{"who has waited for long waits until openings are far enough apart", 4, manyClients, 20 * ms, 3, 10 * ms, false, false},
		{"they are", 4, manyClients, 21 * ms, 3, 10 * ms, true, true},
		{"a calm moment needs no opening", 5, noClient, 23 * ms, 23 * ms, 10 * ms, true, false},
	} {
		if ok, beside := c.admits(x.session, x.flight, x.now, x.began, x.patience); ok != x.ok || beside != x.beside {
			t.Errorf("%s: %v, beside %v", x.what, ok, beside)
		}
	}
}

// The events of clients that left serve those that come.
func TestEventsServeAgain(t *testing.T) {
	_, d, _ := served(t, nil)
	made := func() uint64 {
		for _, c := range d.stats().Driver {
			if c.Call == CallNames[callEventCreate] {
				return c.Count
			}
		}
		return 0
	}
	for id := uint64(2); id < 6; id++ {
		c := d.client(id)
		c.resume()
		if n := made(); n != 2*preparedEvents {
			t.Errorf("%d events were made for client %d and those before, expected %d", n, id, 2*preparedEvents)
		}
		if m := c.detach(); m.Status != shm.StatusOK {
			t.Fatalf("status %d: %s", m.Status, m.Tail)
		}
	}
}

// A client's start and end register and unregister nothing where the file of a session before serves again; nor do they wait for a moment
// in which they would hold nobody up.
func TestSessionFilesServeAgain(t *testing.T) {
	a := newBeside(t, time.Hour)
	d, g := a.d, a.g
	fd := memfd(t, nil, segmentBytes)
	newFile := func() *shm.SessionFile {
		f, err := shm.CreateSessionFile(0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	id := uint64(1)
	comesAndGoes := func(f *shm.SessionFile, works bool) (stalls int64) {
		t.Helper()
		id++
		before := g.stalls.Load()
		f.Renew(id)
		c := d.session(id, f, fd)
		c.attach(d)
		c.kernel(1, 1, "check")
		c.resume()
		if works {
			c.mustSync(2, c.launch(1, 2, u64s(c.window, 1), nil))
		}
		if m := c.detach(); m.Status != shm.StatusOK {
			t.Fatalf("status %d: %s", m.Status, m.Tail)
		}
		return g.stalls.Load() - before
	}
	expect := func(what string, got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d calls that hold others up; expected %d", what, got, want)
		}
	}
	var again, anew int64
	file := newFile()
	for range 10 {
		again += comesAndGoes(file, true)
	}
	expect("ten clients, one file", again, 1)
	gate := a.run() // a calm moment comes in an hour
	expect("beside a kernel that runs", comesAndGoes(file, false), 0)
	close(gate)
	for range mostFiles { // one more than are kept
		anew += comesAndGoes(newFile(), true)
	}
	expect("as many clients as files are kept for, each with a file of its own", anew, mostFiles+1)
	expect("the file that was not used for longest", comesAndGoes(file, true), 2) // it is registered, another let go
	written := newFile()
	id++
	written.Renew(id)
	c := d.session(id, written, fd)
	before := g.stalls.Load()
	c.attach(d)
	c.resume()
	atomic.StoreUint32(&written.Lane(5).ReadyDue, 1)
	if m := c.detach(); m.Status != shm.StatusOK {
		t.Fatalf("status %d: %s", m.Status, m.Tail)
	}
	expect("one to which its client's GPU is still to write", g.stalls.Load()-before, 2)
}

// Times of driver calls are counted by call: how many, how long, the longest, and those beside ops in flight.
func TestCallsAreTimed(t *testing.T) {
	now, busy := int64(0), false
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	d := newTimedDriver(g, func() bool { return busy })
	d.clock = func() int64 { return now }
	call := func(ns int64, before, after bool) {
		busy = before
		end := d.begin(callMap)
		now, busy = now+ns, after
		end()
	}
	call(1_000, false, false)
	call(50_000, true, false)
	call(2_000_000_000, false, true)
	call(7_000, true, true)
	if r := d.SetFuncAttribute(1, 8, 1); r != gpu.Success {
		t.Fatal(r)
	}
	all := d.snapshot()
	if len(all) != 2 || all[1].Call != "cuFuncSetAttribute" || all[1].Count != 1 {
		t.Fatalf("%+v", all)
	}
	near := func(a, b float64) bool { return a > b-1e-9 && a < b+1e-9 }
	m := all[0]
	if m.Call != "cuMemMap" || m.Count != 4 || !near(m.Seconds, 2.000058) || !near(m.Beside, 2.000057) || !near(m.Longest, 2) || m.Counts != [7]uint64{2, 1, 0, 0, 0, 0, 1} {
		t.Errorf("%+v", m)
	}
	for i, name := range CallNames {
		if name == "" {
			t.Errorf("call %d has no name", i)
		}
	}
}

// What holds a thread that launches up is counted by what the thread did.
func TestStallsAreCounted(t *testing.T) {
	var r rounds
	r.directly = 5
	r.long(3e6, 6)
	r.mailed = true
	r.long(4e6, 6)
	r.long(5e6, 5)
	r.long(9e6, 5)
	r.mailed = false
	r.long(7e6, 5)
	for _, x := range []struct {
		what           string
		count          uint64
		total, longest int64
		got            func() (uint64, int64, int64)
	}{
		{"calls of its own", 2, 7e6, 4e6, r.direct.Read}, {"mail", 2, 14e6, 9e6, r.mail.Read}, {"anything else", 1, 7e6, 7e6, r.other.Read},
	} {
		if n, total, longest := x.got(); n != x.count || total != x.total || longest != x.longest {
			t.Errorf("%s: %d, %d, %d", x.what, n, total, longest)
		}
	}
}
