package executor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// adder is a kernel: *(uint32*)params[0] += params[1].
func adder(params []byte) {
	at := bytesAt(binary.LittleEndian.Uint64(params), 4)
	binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)+uint32(binary.LittleEndian.Uint64(params[8:])))
}

func served(t *testing.T, change func(*Config)) (*fakeGPU, *daemon, *tester) {
	t.Helper()
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", adder)
	d := start(t, g.open, nil, change)
	d.image(1, testImage)
	c := d.client(1)
	c.kernel(1, 1, "check")
	c.resume()
	return g, d, c
}

func TestOneOp(t *testing.T) {
	_, d, c := served(t, nil)
	seq := c.launch(1, 3, u64s(c.window, 7), nil)
	c.mustSync(3, seq)
	if got := binary.LittleEndian.Uint32(c.memory); got != 7 {
		t.Errorf("memory holds %d; want 7", got)
	}
	d.conn.Close()
	if err := d.end(); err != nil {
		t.Errorf("end: %v", err)
	}
	if s := atomic.LoadUint32(&c.file.Status().State); s != shm.StateClosed {
		t.Errorf("state %d after the daemon's end; want CLOSED", s)
	}
}

// Every kind of op does what it says, in one lane, in order.
func TestKinds(t *testing.T) {
	_, _, c := served(t, nil)
	w := c.window
	put(c, shm.KindMemset, 1, shm.Memset{Dst: w, Width: 256, Height: 1, Element: 4, Value: 0x01020304}, nil, nil)
	put(c, shm.KindMemset, 1, shm.Memset{Dst: w + 4096, Pitch: 64, Width: 8, Height: 4, Element: 2, Value: 0xabcd}, nil, nil)
	put(c, shm.KindCopy, 1, shm.Copy{Dst: w + 8192, Src: w, Bytes: 1024}, nil, nil)
	put(c, shm.KindPut, 1, shm.InlineCopy{Address: w + 16, Bytes: 5}, []byte("hello"), nil)
	put(c, shm.KindCopy3D, 1, shm.Copy3D{Dst: w + 1<<20, DstPitch: 32, DstHeight: 4, Src: w + 4096, SrcPitch: 64, SrcHeight: 4, Width: 16, Height: 2, Depth: 1}, nil, nil)
	seq, room := putAt(c, shm.KindGet, 1, shm.InlineCopy{Address: w + 14, Bytes: 8}, make([]byte, 8), nil)
	c.mustSync(1, seq)
	if got := string(room[2:7]); got != "hello" {
		t.Errorf("GET brought %q; want hello", got)
	}
	if c.memory[8192+16] != 4 || c.memory[16] != 'h' {
		t.Errorf("the copy came after the put: %d", c.memory[8192+16])
	}
	for y := range 4 {
		row := c.memory[4096+64*y:]
		if row[0] != 0xcd || row[15] != 0xab || row[16] != 0 {
			t.Errorf("row %d of the pitched memset: % x", y, row[:18])
		}
	}
	box := c.memory[1<<20:]
	if box[0] != 0xcd || box[32] != 0xcd || box[64] != 0 || box[16] != 0 {
		t.Errorf("pitched copy: % x", box[:68])
	}
}

// An op waits for native work through ready words; other lanes go on meanwhile.
func TestReady(t *testing.T) {
	_, _, c := served(t, nil)
	first := c.launch(1, 1, u64s(c.window, 1), func(h *shm.Header) { h.Ready = 5 })
	other := c.launch(1, 2, u64s(c.window+8, 1), nil)
	dep := c.launch(1, 3, u64s(c.window+16, 1), func(h *shm.Header) { h.Deps = []shm.Dep{{Lane: 1 | shm.DepReady, Value: 6}} })
	c.mustSync(2, other)
	if c.done(1) != 0 || atomic.LoadUint32(&c.file.Lane(1).Issued) != 0 {
		t.Fatal("an op was issued before its ready word")
	}
	atomic.StoreUint32(&c.file.Lane(1).Ready, 5)
	c.mustSync(1, first)
	if atomic.LoadUint32(&c.file.Lane(3).Issued) != 0 {
		t.Fatal("an op was issued before the ready word it depends on")
	}
	atomic.StoreUint32(&c.file.Lane(1).Ready, 6)
	c.mustSync(3, dep)
}

func TestElapsed(t *testing.T) {
	_, _, c := served(t, nil)
	put(c, shm.KindEvent, 1, shm.EventMark{Slot: 7}, nil, nil)
	c.launch(1, 1, u64s(c.window, 1), nil)
	seq := put(c, shm.KindEvent, 1, shm.EventMark{Slot: 2000}, nil, nil)
	put(c, shm.KindEvent, 1, shm.EventMark{Slot: shm.EventSlots - 1}, nil, nil)
	c.mustSync(1, seq+1)
	for _, q := range []struct {
		end    uint32
		status uint32
	}{{2000, 0}, {3000, 400}} {
		r := c.file.Reply(9)
		atomic.StoreUint32(&r.State, 1)
		put(c, shm.KindElapsed, 0, shm.Elapsed{Start: 7, End: q.end, Reply: 9}, nil, nil)
		c.ring.Publish()
		until(t, "elapsed answered", func() bool { return atomic.LoadUint32(&r.State) == 2 })
		ms := math.Float32frombits(uint32(atomic.LoadUint64(&r.Value)))
		if s := atomic.LoadUint32(&r.Status); s != q.status || ms < 0 || ms > 60e3 {
			t.Errorf("slots 7 to %d: status %d, %v ms; want status %d", q.end, s, ms, q.status)
		}
	}
}

// An idle executor advances done and head without anybody asking.
func TestUnsignalled(t *testing.T) {
	_, _, c := served(t, nil)
	var last uint32
	for range 10 {
		last = c.launch(1, 4, u64s(c.window, 1), nil)
	}
	c.ring.Publish()
	until(t, "done without a signal", func() bool { return c.done(4) == last })
	until(t, "head at the tail", func() bool {
		return atomic.LoadUint64(&c.file.Consumer().Head) == atomic.LoadUint64(&c.file.Producer().Tail)
	})
}

// Nonsense from one client gives that client an error and leaves the other alone.
func TestBadRecords(t *testing.T) {
	for name, bad := range map[string]func(c *tester){
		"unknown kernel":      func(c *tester) { c.launch(99, 1, u64s(0, 0), nil) },
		"number out of order": func(c *tester) { c.launch(1, 1, u64s(c.window, 0), func(h *shm.Header) { h.Seq = 9 }) },
		"later dependency": func(c *tester) {
			c.launch(1, 1, u64s(c.window, 0), func(h *shm.Header) { h.Deps = []shm.Dep{{Lane: 2, Value: 1}} })
		},
		"copy outside": func(c *tester) { put(c, shm.KindCopy, 1, shm.Copy{Dst: 4096, Src: c.window, Bytes: 64}, nil, nil) },
		"copy past the end": func(c *tester) {
			put(c, shm.KindCopy, 1, shm.Copy{Dst: c.window + segmentBytes - 8, Src: c.window, Bytes: 64}, nil, nil)
		},
		"another's memory": func(c *tester) {
			put(c, shm.KindPut, 1, shm.InlineCopy{Address: c.window - windowStep, Bytes: 8}, make([]byte, 8), nil)
		},
		"memset that overflows": func(c *tester) {
			put(c, shm.KindMemset, 1, shm.Memset{Dst: c.window, Width: 1 << 62, Height: 1, Element: 4}, nil, nil)
		},
		"pitch that overflows": func(c *tester) {
			put(c, shm.KindMemset, 1, shm.Memset{Dst: c.window, Pitch: 1 << 63, Width: 1, Height: 3, Element: 4}, nil, nil)
		},
		"signal of the future": func(c *tester) { c.signal(1, 100) },
		"bytes": func(c *tester) {
			c.ring.Begin(shm.Header{Kind: 77, Lane: 5000}, 100)
		},
		"forged done word": func(c *tester) {
			c.launch(1, 1, u64s(c.window, 0), func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal; h.Ready = 1 })
			c.ring.Publish()
			atomic.StoreUint32(&c.file.Lane(1).Done, 50)
			atomic.StoreUint32(&c.file.Lane(1).Ready, 1)
			until(c.t, "the forgery is noticed or overwritten", func() bool {
				if code, _ := c.sticky(); code != 0 {
					return true
				}
				atomic.StoreUint32(&c.file.Lane(1).Done, 50)
				c.launch(1, 1, u64s(c.window, 0), func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
				c.ring.Publish()
				return false
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, d, good := served(t, nil)
			evil := d.client(2)
			evil.kernel(1, 1, "check")
			evil.resume()
			bad(evil)
			evil.ring.Publish()
			until(t, "the session has its error", func() bool { code, _ := evil.sticky(); return code != 0 })
			if code, reason := evil.sticky(); reason != shm.ReasonBadRecord || code != 999 {
				t.Errorf("error %d, reason %d; want 999, BAD_RECORD", code, reason)
			}
			seq := good.launch(1, 1, u64s(good.window, 1), nil)
			good.mustSync(1, seq)
			if code, _ := good.sticky(); code != 0 {
				t.Errorf("the other client has error %d", code)
			}
			if r := evil.detach(); r.Status != shm.StatusOK {
				t.Errorf("detach: %d %s", r.Status, r.Tail)
			}
		})
	}
}

// A refused launch is that session's error; its later ops are dropped with done advanced, others never notice.
func TestRefusedLaunch(t *testing.T) {
	g, d, good := served(t, nil)
	g.refuse = func(l *launchOf) resultOf {
		if l.Grid[0] == 77 {
			return 701
		}
		return 0
	}
	c := d.client(2)
	c.kernel(1, 1, "check")
	c.resume()
	put(c, shm.KindLaunch, 1, shm.Launch{Kernel: 1, GridX: 77, GridY: 1, GridZ: 1, BlockX: 1, BlockY: 1, BlockZ: 1, ParamBytes: 16}, u64s(c.window, 1), nil)
	last := c.launch(1, 1, u64s(c.window, 1), func(h *shm.Header) { h.Ready = 9 })
	c.ring.Publish()
	until(t, "the error is there", func() bool { code, _ := c.sticky(); return code == 701 })
	if _, reason := c.sticky(); reason != shm.ReasonLaunchRefused {
		t.Errorf("reason %d; want LAUNCH_REFUSED", reason)
	}
	until(t, "done covers the dropped op", func() bool { return c.done(1) == last })
	seq := good.launch(1, 1, u64s(good.window, 1), nil)
	good.mustSync(1, seq)
}

// A fault ends the executor; the daemon hears who had ops in flight, and done words tell what was complete.
func TestFault(t *testing.T) {
	g, d, c := served(t, nil)
	idle := d.client(2)
	idle.resume()
	g.define("forever", func([]byte) { g.fault.CompareAndSwap(0, 700) })
	c.kernel(1, 2, "forever")
	first := c.launch(1, 1, u64s(c.window, 1), nil)
	c.mustSync(1, first)
	c.launch(2, 1, u64s(0), nil)
	c.ring.Publish()
	err := d.end()
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != ExitFault || ExitCode(err) != 3 {
		t.Fatalf("end: %v; want exit code 3", err)
	}
	m := <-d.faults
	f, err := shm.Decode[shm.Fault](m.Body)
	if err != nil || f.CUDAResult != 700 || f.Clients != 1 || f.Blamed != 1 || binary.LittleEndian.Uint64(m.Tail) != 1 {
		t.Errorf("fault %+v, %v, tail %q", f, err, m.Tail)
	}
	if c.done(1) != first {
		t.Errorf("done %d; want %d", c.done(1), first)
	}
}

// The daemon's restart: what a dead executor had issued is in doubt.
func TestTakeOver(t *testing.T) {
	for _, doubt := range []string{"memset", "kernel", "harmless kernel", "none"} {
		t.Run(doubt, func(t *testing.T) {
			g, d, c := served(t, nil)
			gate := make(chan struct{})
			g.define("forever", func([]byte) { <-gate; g.fault.CompareAndSwap(0, 700) })
			blocker := d.client(9) // faults, and keeps the streams of nobody else
			blocker.kernel(1, 1, "forever")
			blocker.resume()

			c.mustSync(1, c.launch(1, 1, u64s(c.window, 1), nil))
			// An op in lane 2 that is issued but cannot finish before the fault: it depends on a held one.
			g.define("count", func([]byte) { <-gate })
			g.define("fill", func([]byte) { <-gate })
			d.image(2, faultImage)
			switch doubt {
			case "memset":
				put(c, shm.KindEvent, 2, shm.EventMark{Slot: 1}, nil, nil)
				g.hold(gate)
				put(c, shm.KindMemset, 2, shm.Memset{Dst: c.window + 64, Width: 4, Height: 1, Element: 1, Value: 7}, nil, nil)
			case "kernel":
				c.kernel(2, 2, "count")
				c.launch(2, 2, u64s(c.window+64), nil)
			case "harmless kernel":
				c.kernel(2, 2, "fill")
				c.launch(2, 2, u64s(c.window+64, 7), nil)
			}
			issued := c.seq[2]
			later := c.launch(1, 3, u64s(c.window, 10), func(h *shm.Header) { h.Ready = 1 })
			c.ring.Publish()
			until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(2).Issued) == issued })
			blocker.launch(1, 1, u64s(0), nil)
			blocker.ring.Publish()
			until(t, "the fault is issued", func() bool { return atomic.LoadUint32(&blocker.file.Lane(1).Issued) == 1 })
			g.fault.CompareAndSwap(0, 700)
			close(gate)
			if err := d.end(); ExitCode(err) != ExitFault {
				t.Fatalf("end: %v", err)
			}
			d.conn.Close()

			next := newFakeGPU()
			t.Cleanup(next.unmapAll)
			next.define("check", adder)
			next.define("count", func([]byte) {})
			next.define("fill", filler)
			g.unmapAll()
			d2 := start(t, next.open, d.bell, nil)
			d2.image(1, testImage)
			d2.image(2, faultImage)
			c.attach(d2)
			c.kernel(1, 1, "check")
			switch doubt {
			case "kernel":
				c.kernel(2, 2, "count")
			case "harmless kernel":
				c.kernel(2, 2, "fill")
			}
			c.resume()
			if doubt == "kernel" {
				if code, reason := c.sticky(); code != 719 || reason != shm.ReasonInDoubt {
					t.Fatalf("error %d, reason %d; want 719, IN_DOUBT", code, reason)
				}
				until(t, "done covers everything", func() bool { return c.done(2) == issued && c.done(3) == later })
				return
			}
			atomic.StoreUint32(&c.file.Lane(3).Ready, 1)
			c.mustSync(3, later)
			if issued > 0 {
				c.mustSync(2, issued)
			}
			if code, _ := c.sticky(); code != 0 {
				t.Errorf("error %d", code)
			}
			if got := binary.LittleEndian.Uint32(c.memory); got != 11 {
				t.Errorf("memory holds %d; want 11: an op was lost or repeated", got)
			}
			if doubt != "none" && c.memory[64] != 7 {
				t.Errorf("the %s in doubt was not repeated", doubt)
			}
			c.mustSync(1, c.launch(1, 1, u64s(c.window, 100), nil))
		})
	}
}

// A client that is gone with an endless kernel ends the executor after the bound.
func TestEndless(t *testing.T) {
	g, d, c := served(t, func(c *Config) { c.DeadKernelTime = 50 * time.Millisecond })
	stop := make(chan struct{})
	defer close(stop)
	g.define("forever", func([]byte) { <-stop })
	c.kernel(1, 2, "forever")
	c.launch(2, 1, u64s(0), nil)
	c.ring.Publish()
	until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(1).Issued) == 1 })
	d.send(shm.Message{Type: shm.TypeDetach, ClientID: 1})
	if err := d.end(); ExitCode(err) != ExitEndless {
		t.Fatalf("end: %v; want exit code 4", err)
	}
	f, _ := shm.Decode[shm.Fault]((<-d.faults).Body)
	if f.Blamed != 1 || f.Clients != 1 {
		t.Errorf("fault %+v", f)
	}
}

// A client that leaves while a long op of another is on its stream ends nothing, and others' kernels are resolved meanwhile.
func TestLeavingBesideLongOps(t *testing.T) {
	const most = 250 * time.Millisecond
	g, d, stays := served(t, func(c *Config) { c.DeadKernelTime = most })
	gate := make(chan struct{})
	g.define("long", func([]byte) { <-gate })
	stays.kernel(1, 2, "long")
	leaves := d.client(2)
	leaves.kernel(1, 1, "check")
	leaves.resume()
	leaves.mustSync(1, leaves.launch(1, 1, u64s(leaves.window, 1), nil))
	last := stays.launch(2, 1, u64s(0), nil)
	stays.ring.Publish()
	until(t, "issued", func() bool { return atomic.LoadUint32(&stays.file.Lane(1).Issued) == last })
	gone := make(chan shm.Message)
	go func() { gone <- leaves.detach() }()
	begun := time.Now()
	for id := uint32(3); time.Since(begun) < 2*most; id++ { // several times what a dead client's ops are given
		stays.kernel(1, id, "check")
		time.Sleep(most / 50)
	}
	select {
	case r := <-gone:
		t.Fatalf("detached, status %d %s, while an op is on its stream", r.Status, r.Tail)
	default:
	}
	close(gate)
	if r := <-gone; r.Status != shm.StatusOK {
		t.Fatalf("detach: %d %s", r.Status, r.Tail)
	}
	stays.mustSync(1, last)
}

// max_kernel_time holds for living clients too when it is set.
func TestMaxKernelTime(t *testing.T) {
	g, d, c := served(t, func(c *Config) { c.MaxKernelTime = 30 * time.Millisecond })
	stop := make(chan struct{})
	defer close(stop)
	g.define("forever", func([]byte) { <-stop })
	c.kernel(1, 2, "forever")
	c.launch(2, 1, u64s(0), nil)
	c.ring.Publish()
	if err := d.end(); ExitCode(err) != ExitEndless {
		t.Fatalf("end: %v; want exit code 4", err)
	}
}

// After DETACH nothing of the client is left but its session file, for the next one, whatever was waiting.
func TestDetach(t *testing.T) {
	g, d, _ := served(t, nil)
	c := d.client(2)
	d.image(2, statefulImage)
	c.kernel(2, 1, "check")
	c.resume()
	host := testHost + 2*windowStep
	fd := memfd(t, nil, 8192)
	d.must(shm.Message{Type: shm.TypeHostSegment, ClientID: 2, Body: shm.Encode(shm.Range{Address: host, Bytes: 8192}), Fds: []int{fd}})
	put(c, shm.KindCopy, 1, shm.Copy{Dst: host, Src: c.window, Bytes: 4096}, nil, nil)
	c.launch(1, 2, u64s(c.window, 1), func(h *shm.Header) { h.Ready = 3 }) // never
	for range 100 {
		c.launch(1, 1, u64s(c.window, 1), nil)
	}
	c.ring.Publish()
	if r := c.detach(); r.Status != shm.StatusOK {
		t.Fatalf("detach: %d %s", r.Status, r.Tail)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.mapped) != 1 || len(g.windows) != 1 || len(g.hosts) != 2 || g.hosts[host] != 0 || g.modules != 1 {
		t.Errorf("left: %d segments, %d windows, %d registrations, %d modules; want those of the other client, 1 each, and its session file, which serves again", len(g.mapped), len(g.windows), len(g.hosts), g.modules)
	}
}

// Memory is dropped only when what was published before is done.
func TestSegmentDrop(t *testing.T) {
	g, d, c := served(t, nil)
	gate := make(chan struct{})
	g.define("other", func([]byte) { <-gate })
	c.kernel(1, 2, "other")
	c.launch(2, 1, u64s(0), nil)
	c.ring.Publish()
	reply := d.send(shm.Message{Type: shm.TypeSegmentDrop, ClientID: 1, Body: shm.Encode(shm.Range{Address: c.window, Bytes: segmentBytes})})
	until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(1).Issued) == 1 })
	select {
	case m := <-reply:
		t.Fatalf("answered with %d while an op was in flight", m.Status)
	case <-time.After(20 * time.Millisecond):
	}
	close(gate)
	if m := d.wait(reply); m.Status != shm.StatusOK {
		t.Fatalf("%d %s", m.Status, m.Tail)
	}
	put(c, shm.KindMemset, 1, shm.Memset{Dst: c.window, Width: 1, Height: 1, Element: 1}, nil, nil)
	c.ring.Publish()
	until(t, "memory that is gone may not be named", func() bool { _, r := c.sticky(); return r == shm.ReasonBadRecord })
}

// DRAIN finishes what was submitted, refuses new sessions, and leaves with 0.
func TestDrain(t *testing.T) {
	g, d, c := served(t, nil)
	gate := make(chan struct{})
	g.define("other", func([]byte) { <-gate })
	c.kernel(1, 2, "other")
	c.launch(2, 1, u64s(0), nil)
	for range 300 {
		c.launch(1, 1, u64s(c.window, 1), nil)
	}
	c.ring.Publish()
	drained := d.send(shm.Message{Type: shm.TypeDrain})
	refused := d.do(shm.Message{Type: shm.TypeAttach, ClientID: 5, Body: shm.Encode(shm.Attach{ClientID: 5})})
	if refused.Status != shm.StatusClosing {
		t.Errorf("ATTACH while draining: %d", refused.Status)
	}
	close(gate)
	if err := d.end(); err != nil {
		t.Fatalf("end: %v", err)
	}
	if m := <-drained; m.Status != shm.StatusOK {
		t.Errorf("DRAIN: %d", m.Status)
	}
	if got := binary.LittleEndian.Uint32(c.memory); got != 300 {
		t.Errorf("memory holds %d; want 300", got)
	}
}

// Loading code does not stop the other clients: they launch, and they get memory.
func TestSlowLoad(t *testing.T) {
	g, d, c := served(t, nil)
	other := d.client(2)
	other.resume()
	d.image(2, statefulImage)
	before := g.begun.Load()
	g.loading.Lock()
	loading := d.send(shm.Message{Type: shm.TypeKernel, ClientID: 2, Body: shm.Encode(shm.Kernel{ImageID: 2, KernelID: 4}), Tail: []byte("check")})
	func() {
		defer g.loading.Unlock()
		until(t, "the image is being loaded", func() bool { return g.begun.Load() > before })
		for range 20 {
			c.mustSync(1, c.launch(1, 1, u64s(c.window, 1), nil))
		}
		d.must(c.segment(c.window + segmentBytes))
	}()
	if m := d.wait(loading); m.Status != shm.StatusOK {
		t.Errorf("status %d: %s", m.Status, m.Tail)
	}
}

// Code: stateless images are loaded once, stateful ones once a session; what needs the client's process is refused with a reason.
func TestCode(t *testing.T) {
	g, d, a := served(t, nil)
	b := d.client(2)
	b.kernel(1, 7, "check")
	if n := g.loaded(); n != 1 {
		t.Errorf("a stateless image was loaded %d times for two sessions", n)
	}
	d.image(2, statefulImage)
	for image, want := range map[uint64]uint32{1: 0, 2: 1} {
		r := d.must(shm.Message{Type: shm.TypeKernel, ClientID: 1, Body: shm.Encode(shm.Kernel{ImageID: image, KernelID: 100 + uint32(image)}), Tail: []byte("check")})
		if k, err := shm.Decode[shm.Kernel](r.Body); err != nil || k.Stateful != want {
			t.Errorf("a kernel of image %d: %+v, %v; want stateful %d", image, k, err, want)
		}
	}
	a.kernel(2, 8, "check")
	b.kernel(2, 8, "check")
	if n := g.loaded(); n != 3 {
		t.Errorf("a stateful image was loaded %d times for two sessions", n-1)
	}
	r := d.must(shm.Message{Type: shm.TypeGlobal, ClientID: 1, Body: shm.Encode(shm.Kernel{ImageID: 2}), Tail: []byte("counter")})
	where, _ := shm.Decode[shm.Range](r.Body)
	if where.Address == 0 || where.Bytes != 64 {
		t.Errorf("global: %+v", where)
	}
	d.image(3, ".version 8.0\n.target sm_90\n.extern .func (.param .b32 r) vprintf (.param .b64 a);\n.entry p() { call (r), vprintf, (a); }\n.entry q() { ret; }")
	g.define("q", adder)
	ask := func(image uint64, id uint32, name string) shm.Message {
		return d.do(shm.Message{Type: shm.TypeKernel, ClientID: 1, Body: shm.Encode(shm.Kernel{ImageID: image, KernelID: id}), Tail: []byte(name)})
	}
	for _, c := range []struct {
		image  uint64
		id     uint32
		name   string
		status uint16
	}{
		{3, 20, "p", shm.StatusRefused}, {3, 21, "q", shm.StatusOK}, {3, 21, "q", shm.StatusInvalid}, {99, 22, "q", shm.StatusInvalid},
		{3, 23, "absent", shm.StatusCUDA}, {3, 24, "", shm.StatusInvalid}, {3, 0, "q", shm.StatusInvalid},
	} {
		m := ask(c.image, c.id, c.name)
		if m.Status != c.status || (m.Status != shm.StatusOK) != (len(m.Tail) > 0) {
			t.Errorf("image %d kernel %q: status %d (%s); want %d", c.image, c.name, m.Status, m.Tail, c.status)
		}
	}
}

func TestBadRequests(t *testing.T) {
	_, d, c := served(t, nil)
	for name, m := range map[string]shm.Message{
		"unknown session":              {Type: shm.TypeResume, ClientID: 77},
		"second attach":                {Type: shm.TypeAttach, ClientID: 1, Body: shm.Encode(shm.Attach{ClientID: 1})},
		"attach without fds":           {Type: shm.TypeAttach, ClientID: 3, Body: shm.Encode(shm.Attach{ClientID: 3})},
		"second resume":                {Type: shm.TypeResume, ClientID: 1},
		"segment without fd":           {Type: shm.TypeSegment, ClientID: 1, Body: shm.Encode(shm.Range{Address: 1 << 40, Bytes: 4096})},
		"segment twice":                {Type: shm.TypeSegment, ClientID: 1, Body: shm.Encode(shm.Range{Address: c.window, Bytes: segmentBytes}), Fds: []int{c.fd}},
		"drop of nothing":              {Type: shm.TypeSegmentDrop, ClientID: 1, Body: shm.Encode(shm.Range{Address: 64})},
		"host segment outside":         {Type: shm.TypeHostSegment, ClientID: 1, Body: shm.Encode(shm.Range{Address: testHost, Bytes: segmentBytes}), Fds: []int{c.fd}},
		"host segment of another size": {Type: shm.TypeHostSegment, ClientID: 1, Body: shm.Encode(shm.Range{Address: testHost + windowStep, Bytes: 4096}), Fds: []int{c.fd}},
		"attribute of no kernel":       {Type: shm.TypeFuncAttr, ClientID: 1, Body: shm.Encode(shm.Setting{KernelID: 50, What: 8})},
		"attribute that is fixed":      {Type: shm.TypeFuncAttr, ClientID: 1, Body: shm.Encode(shm.Setting{KernelID: 1, What: 4})},
		"image without fd":             {Type: shm.TypeImage, Body: shm.Encode(shm.Image{ImageID: 5, Bytes: 5})},
		"image of another size":        {Type: shm.TypeImage, Body: shm.Encode(shm.Image{ImageID: 5, Bytes: 5}), Fds: []int{c.fd}},
		"not for an executor":          {Type: shm.TypeBye, ClientID: 1},
	} {
		if r := d.do(m); r.Status == shm.StatusOK || len(r.Tail) == 0 {
			t.Errorf("%s: status %d %q", name, r.Status, r.Tail)
		}
	}
	c.mustSync(1, c.launch(1, 1, u64s(c.window, 1), nil))
}

func TestStats(t *testing.T) {
	_, d, c := served(t, nil)
	for range 100 {
		c.launch(1, 1, u64s(c.window, 1), nil)
	}
	c.mustSync(1, c.seq[1])
	var st Stats
	until(t, "all counted", func() bool {
		m := d.must(shm.Message{Type: shm.TypeStats})
		if err := json.Unmarshal(m.Tail, &st); err != nil {
			t.Fatalf("%v in %s", err, m.Tail)
		}
		return len(st.Sessions) == 1 && st.Sessions[0].OpsDone == 100
	})
	// How many of the hundred equal launches went together as a prepared run is a matter of how fast they came.
	runs := st.Prepared
	if st.Words != st.Coalescing.WordsAlone+runs.Words || st.Coalescing.WordsAlone+runs.Ops != 100 {
		t.Errorf("words and ops do not add up: %+v", st)
	}
	if st.Ops != 100 || st.Launches != 100 || st.InFlight != 0 || st.Signals == 0 || st.Signals > st.Words || len(st.IssueBusySeconds) != 2 {
		t.Errorf("%+v", st)
	}
}

// Sleeping clients are woken, also when many sleep at once.
func TestSleepers(t *testing.T) {
	_, d, first := served(t, nil)
	clients := []*tester{first}
	for id := uint64(2); id <= 4; id++ {
		c := d.client(id)
		c.kernel(1, 1, "check")
		c.resume()
		clients = append(clients, c)
	}
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 200 {
				lane := uint32(1 + i%3)
				seq := c.launch(1, lane, u64s(c.window, 1), nil)
				if err := c.sync(lane, seq); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	for _, c := range clients {
		if got := binary.LittleEndian.Uint32(c.memory); got != 200 {
			t.Errorf("client %d: memory holds %d; want 200", c.id, got)
		}
	}
}

// Where cores are few, the poller sleeps while kernels run and while a driver call takes its time: the clients need its core.
func TestNapsWhereCoresAreFew(t *testing.T) {
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	running, calling := make(chan struct{}), make(chan struct{})
	g.define("check", func([]byte) { <-running })
	entered := make(chan struct{})
	g.refuse = func(l *gpu.Launch) gpu.Result {
		if l.Grid[0] == 7 {
			close(entered)
			<-calling
		}
		return gpu.Success
	}
	d := start(t, g.open, nil, func(c *Config) {
		c.Tuning.Spin, c.Tuning.NapAfter, c.Tuning.NapMost = crowdedSpin, crowdedSpin, crowdedNap
	})
	d.image(1, testImage)
	naps := func(what string) {
		t.Helper()
		before := d.stats().Naps
		until(t, "the poller naps while "+what, func() bool { return d.stats().Naps > before+100 })
	}
	a, b := d.client(1), d.client(2)
	for _, c := range []*tester{a, b} {
		c.kernel(1, 1, "check")
		c.resume()
	}
	first := a.launch(1, 1, nil, nil)
	a.ring.Publish()
	naps("a kernel runs")
	second := b.launchGrid(1, 1, 7, nil, nil)
	b.ring.Publish()
	<-entered
	naps("a call takes its time")
	close(calling)
	close(running)
	a.mustSync(1, first)
	b.mustSync(1, second)
}
