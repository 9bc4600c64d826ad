package executor

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// faultImage has a kernel that may be repeated and one that may not; the fake driver knows what they do by name.
const faultImage = `.version 8.0
.target sm_90
.address_size 64
.visible .entry fill(.param .u64 a, .param .u64 b) {
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [a];
	ld.param.u64 %rd2, [b];
	st.global.u64 [%rd1], %rd2;
	ret;
}
.visible .entry count(.param .u64 a) {
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [a];
	red.global.add.u32 [%rd1], 1;
	ret;
}
`

// filler is fill.
func filler(params []byte) {
	at := binary.LittleEndian.Uint64(params)
	*(*uint64)(unsafe.Add(unsafe.Pointer(nil), at)) = binary.LittleEndian.Uint64(params[8:])
}

// wild is the value for which the test's fill faults.
const wild = 0xbad

// suspects are clients whose fills were in flight together when one of them faulted.
type suspects struct {
	t       *testing.T
	g       *fakeGPU
	d       *daemon
	clients []*tester
	mu      sync.Mutex
	order   []uint64 // what fills stored on the executors after the first
}

const lanesEach = 3

// fault starts clients with three fills in three lanes each, in flight when the wild one among them faults.
func fault(t *testing.T, clients int, guilty int, kernel string) *suspects {
	t.Helper()
	s := &suspects{t: t}
	g := newFakeGPU()
	t.Cleanup(func() { s.g.unmapAll() })
	s.g = g
	s.d = start(t, g.open, nil, nil)
	s.d.image(2, faultImage)
	gate := make(chan struct{})
	g.define("fill", func([]byte) { <-gate })
	g.define("count", func([]byte) { <-gate })
	for i := range clients {
		c := s.d.client(uint64(i + 1))
		c.kernel(2, 5, "fill")
		c.kernel(2, 6, "count")
		c.resume()
		s.clients = append(s.clients, c)
	}
	for i, c := range s.clients {
		for lane := range uint32(lanesEach) {
			value := uint64(100*(i+1)) + uint64(lane)
			if i == guilty && lane == 1 {
				value = wild
			}
			if i == guilty && kernel == "count" {
				c.launch(6, lane, u64s(c.window), nil)
				continue
			}
			c.launch(5, lane, u64s(c.window+8*uint64(lane), value), nil)
		}
		c.ring.Publish()
		for lane := range uint32(lanesEach) {
			until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(lane).Issued) == 1 })
		}
	}
	g.fault.Store(700)
	close(gate)
	if err := s.d.end(); ExitCode(err) != ExitFault {
		t.Fatalf("end: %v", err)
	}
	return s
}

// report is the executor's last message.
func (s *suspects) report() shm.Fault {
	s.t.Helper()
	m := <-s.d.faults
	f, err := shm.Decode[shm.Fault](m.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// next starts another executor and gives it every session, up to RESUME.
func (s *suspects) next() {
	s.t.Helper()
	s.d.conn.Close()
	s.g.unmapAll()
	g := newFakeGPU()
	s.g = g
	g.define("count", func([]byte) { s.t.Error("a kernel that must not be repeated was") })
	g.define("fill", func(params []byte) {
		v := binary.LittleEndian.Uint64(params[8:])
		s.mu.Lock()
		s.order = append(s.order, v)
		s.mu.Unlock()
		if v == wild {
			g.fault.CompareAndSwap(0, 700)
			return
		}
		filler(params)
	})
	s.d = start(s.t, g.open, s.d.bell, nil)
	s.d.image(2, faultImage)
	for _, c := range s.clients {
		c.attach(s.d)
		c.kernel(2, 5, "fill")
		c.kernel(2, 6, "count")
	}
}

func (s *suspects) trial(c *tester) chan shm.Message {
	s.t.Helper()
	return s.d.send(shm.Message{Type: shm.TypeTrial, ClientID: c.id})
}

// The next executor runs the ops in doubt of one suspect after another, one at a time: the one that faults is blamed, with its kernel.
func TestTrialFindsTheGuilty(t *testing.T) {
	s := fault(t, 3, 1, "fill")
	if f := s.report(); f.Blamed != 0 || f.Clients != 3 || f.CUDAResult != 700 {
		t.Fatalf("first fault: %+v; three sessions had kernels in flight", f)
	}
	s.next()
	if m := s.d.wait(s.trial(s.clients[0])); m.Status != shm.StatusOK {
		t.Fatalf("trial: %d %s", m.Status, m.Tail)
	}
	first := s.clients[0]
	for lane := range uint32(lanesEach) {
		if first.done(lane) != 1 || binary.LittleEndian.Uint64(first.memory[8*lane:]) != 100+uint64(lane) {
			t.Errorf("lane %d after the trial: done %d, memory %d", lane, first.done(lane), first.memory[8*lane])
		}
	}
	// Between trial and RESUME nothing else of it runs.
	later := first.launch(5, 0, u64s(first.window+64, 77), nil)
	first.ring.Publish()
	s.trial(s.clients[1])
	if err := s.d.end(); ExitCode(err) != ExitFault {
		t.Fatalf("end: %v", err)
	}
	if f := s.report(); f.Blamed != 2 || f.Kernel != 5 || f.Clients != 1 {
		t.Errorf("second fault: %+v; expected client 2 with kernel 5", f)
	}
	if len(s.order) == 0 || s.order[len(s.order)-1] != wild {
		t.Errorf("%d ran after the wild one, or it never ran", s.order)
	}
	if atomic.LoadUint32(&first.file.Lane(0).Issued) != 1 {
		t.Error("an op that was not in doubt was issued during trials")
	}
	// The daemon names the cause and gives the guilty client its error.
	s.clients[1].file.SetError(700, shm.ReasonFault)
	s.next()
	for _, c := range s.clients {
		c.resume()
	}
	first.mustSync(0, later)
	for lane := range uint32(lanesEach) {
		s.clients[2].mustSync(lane, 1)
	}
	for i, c := range s.clients {
		if code, _ := c.sticky(); (code != 0) != (i == 1) {
			t.Errorf("client %d: error %d", c.id, code)
		}
	}
	if got := binary.LittleEndian.Uint64(s.clients[2].memory[16:]); got != 302 {
		t.Errorf("client 3 has %d; want 302", got)
	}
}

// A suspect whose ops cannot be repeated is left alone by the trial, and gets its error at RESUME.
func TestTrialOfWhatCannotBeRepeated(t *testing.T) {
	s := fault(t, 2, 1, "count")
	s.report()
	s.next()
	for _, c := range s.clients {
		if m := s.d.wait(s.trial(c)); m.Status != shm.StatusOK {
			t.Fatalf("trial: %d %s", m.Status, m.Tail)
		}
	}
	if code, _ := s.clients[1].sticky(); code != 0 {
		t.Errorf("error %d before RESUME, when the daemon may know more", code)
	}
	for _, c := range s.clients {
		c.resume()
	}
	if code, reason := s.clients[1].sticky(); code != 719 || reason != shm.ReasonInDoubt {
		t.Errorf("error %d, reason %d; want 719, IN_DOUBT", code, reason)
	}
	s.clients[0].mustSync(2, 1)
	if got := binary.LittleEndian.Uint64(s.clients[0].memory[16:]); got != 102 {
		t.Errorf("client 1 has %d; want 102", got)
	}
}

// A trial does not wait for ever, and a session that is served cannot be tried.
func TestTrialEnds(t *testing.T) {
	s := fault(t, 1, 0, "fill")
	if f := s.report(); f.Blamed != 1 {
		t.Errorf("%+v; the only client with work is to blame", f)
	}
	s.d.conn.Close()
	s.g.unmapAll()
	g := newFakeGPU()
	s.g = g
	gate := make(chan struct{})
	g.define("fill", func([]byte) { <-gate })
	s.d = start(t, g.open, s.d.bell, func(c *Config) { c.DeadKernelTime = 50 * time.Millisecond })
	s.d.image(2, faultImage)
	c := s.clients[0]
	c.attach(s.d)
	c.kernel(2, 5, "fill")
	if m := s.d.wait(s.trial(c)); m.Status != shm.StatusOK {
		t.Errorf("trial: %d %s", m.Status, m.Tail)
	}
	c.resume()
	close(gate)
	for lane := range uint32(lanesEach) {
		c.mustSync(lane, 1)
	}
	if m := s.d.wait(s.trial(c)); m.Status != shm.StatusInvalid {
		t.Errorf("a trial of a session that is served: %d", m.Status)
	}
}

// A kernel that is set apart is never joined with others; the mark is the session's own.
func TestSetApart(t *testing.T) {
	_, d, c := served(t, nil)
	other := d.client(2)
	other.kernel(1, 1, "check")
	apart := func(id uint64, kernel uint32) uint16 {
		return d.do(shm.Message{Type: shm.TypeApart, ClientID: id, Body: shm.Encode(shm.Setting{KernelID: kernel})}).Status
	}
	if st := apart(c.id, 1); st != shm.StatusOK {
		t.Errorf("status %d", st)
	}
	if st := apart(c.id, 99); st != shm.StatusInvalid {
		t.Errorf("an unknown kernel: status %d", st)
	}
}

// What a dying executor says of launches that were joined: which kernels to set apart, and of whom.
func TestJoinedKernelsAreNamed(t *testing.T) {
	b := newBench(t)
	for i, joined := range []bool{true, true, false} {
		c, w := b.client(nil)
		w.launch(1, 1, nil, nil)
		w.launch(1, 1, nil, nil)
		w.ring.Publish()
		b.poller.scan(c)
		for range 2 {
			op := c.board.Ready(c.board.Lane(1))
			op.Joined = joined
			c.board.Issue(op, 0)
		}
		if n := len(c.board.Running()); n != 2 {
			t.Fatalf("client %d: %d running; want 2", i, n)
		}
	}
	b.poller.end = &ending{code: ExitFault, result: 700}
	b.poller.account()
	// In whatever order the poller serves them.
	slices.SortFunc(b.poller.end.apart, func(a, b [2]uint64) int { return int(a[0]) - int(b[0]) })
	if e := b.poller.end; len(e.inFlight) != 3 || e.blamed != 0 || !slices.Equal(e.apart, [][2]uint64{{1, 1}, {2, 1}}) {
		t.Errorf("%+v; want three in flight, and kernel 1 of clients 1 and 2 set apart", e)
	}
}

// Who only copies is no suspect of a kernel's fault, and is one when the device failed.
func TestSuspects(t *testing.T) {
	for result, want := range map[gpu.Result]int{700: 1, 214: 2} {
		b := newBench(t)
		for _, kind := range []string{"kernel", "memset"} {
			c, w := b.client(nil)
			if kind == "kernel" {
				w.launch(1, 1, nil, nil)
			} else {
				put(w, shm.KindMemset, 1, shm.Memset{Dst: testWindow, Width: 4, Height: 1, Element: 1}, nil, nil)
			}
			w.ring.Publish()
			b.poller.scan(c)
			c.board.Issue(c.board.Ready(c.board.Lane(1)), 0)
		}
		b.poller.end = &ending{code: ExitFault, result: result}
		b.poller.account()
		if e := b.poller.end; len(e.inFlight) != want || (e.blamed == 1) != (want == 1) || (e.kernel == 1) != (want == 1) {
			t.Errorf("result %d: %+v; want %d in flight", result, e, want)
		}
	}
}
