package issue

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// thread makes driver calls.
type thread struct {
	q        queue
	engine   *Engine
	index    int
	spin     time.Duration
	nice     int
	busy     atomic.Int64
	long     LongRuns
	event    gpu.Event // recorded and waited for within one command
	_        [64]byte
	confined bool   // the stream of the word at hand is a partition's
	parked   uint32 // 1 while the thread sleeps or is about to
	_        [60]byte

	// The poller's: whose command it got last, and which numbers have the last command that takes long, the last that followed another
	// stream's, and the last of a stream that leaves.
	stream              *Stream
	slow, mixed, leaves uint64
}

func (t *thread) push() uint64 {
	n := t.q.push()
	t.wake()
	return n
}

func (t *thread) wake() {
	if atomic.LoadUint32(&t.parked) != 0 && atomic.CompareAndSwapUint32(&t.parked, 1, 0) {
		shm.FutexWake(&t.parked, 1)
	}
}

// run executes commands until the engine stops.
func (t *thread) run(ready chan<- error) {
	defer t.engine.done.Done()
	runtime.LockOSThread() // and never unlocked: the thread carries a CUDA context and ends with the goroutine
	_ = RaisePriority(t.nice)
	err := t.engine.driver.Bind()
	ready <- err
	if err != nil {
		return
	}
	since := time.Now() // of idleness
	for {
		at := t.q.done.Load()
		end := t.q.tail.Load()
		if at == end {
			if t.engine.stopping.Load() {
				return
			}
			if t.spins(time.Since(since)) {
				pause(2)
				continue
			}
			atomic.StoreUint32(&t.parked, 1)
			if t.q.tail.Load() == at && !t.engine.stopping.Load() {
				_ = shm.FutexWait(&t.parked, 1, time.Second)
			}
			atomic.StoreUint32(&t.parked, 0)
			since = time.Now()
			continue
		}
		begin := time.Now()
		for ; at != end; at++ {
			c := &t.q.cells[at%queueLength]
			if t.engine.fault.Load() == 0 {
				t.execute(c)
			}
			t.q.done.Store(at + 1)
		}
		since = time.Now()
		took := int64(since.Sub(begin))
		t.busy.Add(took)
		if took > LongRun {
			t.long.Add(took)
		}
	}
}

// spins says whether the thread stays awake after so long without a command.
func (t *thread) spins(idle time.Duration) bool {
	return idle < t.spin || t.index == 0 && int64(idle) < t.engine.attend.Load()
}

// RaisePriority asks for a nice value for the calling thread, which must be locked; 0 asks for nothing. Without the right to it
// (CAP_SYS_NICE) the thread stays as it is, and the error says so.
func RaisePriority(nice int) error {
	if nice == 0 {
		return nil
	}
	return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice)
}

// execute makes the driver calls of one command.
func (t *thread) execute(c *command) {
	d := t.engine.driver
	switch c.kind {
	case cmdWord:
		on := &t.engine.streams[c.stream]
		t.confined = on.confined
		t.word(on.Handle, &c.word)
	case cmdMeasure:
		t.time(c.word.Sample)
	case cmdSignal:
		t.must(d.WriteValue32(t.engine.streams[c.stream].Handle, c.address, c.value))
	case cmdRecord:
		t.must(d.EventRecord(c.event, t.engine.streams[c.stream].Handle))
	case cmdWait:
		for q := &t.engine.threads[c.thread].q; q.done.Load() < c.number && t.engine.fault.Load() == 0; {
			pause(4)
		}
		if t.engine.fault.Load() == 0 {
			t.must(d.StreamWaitEvent(t.engine.streams[c.stream].Handle, c.event))
		}
	case cmdElapsed:
		answer(d, c)
	case cmdExchange:
		t.exchange(&t.engine.streams[c.stream], c.fresh, c.confine)
	}
}

// word launches a word on a stream.
func (t *thread) word(on gpu.Stream, w *word.Word) {
	d := t.engine.driver
	var begin time.Time
	if w.Sample != nil {
		begin = time.Now()
		t.must(d.EventRecord(w.Sample.Start, on))
	}
	switch w.Path() {
	case word.Coalesced, word.Sliced:
		t.batch(on, w.Batch)
	case word.Prepared:
		t.chain(on, w.Chain)
	case word.Joined:
		t.team(on, w.Team)
	default:
		t.one(on, w.Op)
	}
	if w.Sample != nil {
		if t.engine.fault.Load() == 0 {
			t.must(d.EventRecord(w.Sample.End, on))
		}
		w.Sample.Calls = int64(time.Since(begin))
		w.Sample.State.Store(sampleRecorded)
	}
}

// one issues an op by itself, and reports whether the driver took it.
func (t *thread) one(on gpu.Stream, op *scoreboard.Op) bool {
	d := t.engine.driver
	r := t.start(on, op)
	if r != gpu.Success {
		t.refused(op, r)
	}
	if op.Signal && t.engine.fault.Load() == 0 {
		t.must(d.WriteValue32(on, op.Session.DoneAddress(op.Lane), op.Seq))
	}
	return r == gpu.Success
}

// batch issues ops as one launch. When the driver refuses it they go one by one; it is the form's fault if they are then taken, and
// their own if they are not: a client that launches what cannot be launched must not take the form from the others.
func (t *thread) batch(on gpu.Stream, b *word.Batch) {
	if !b.Small() {
		b.Fill()
	}
	if b.Slice.Blocks > 0 {
		t.slice(on, b)
		return
	}
	d := t.engine.driver
	switch r := t.launch(on, b); {
	case r == gpu.Success:
		for k, m := range b.Outside {
			for ; m != 0; m &= m - 1 {
				op := b.Ops[64*k+bits.TrailingZeros64(m)]
				t.must(d.WriteValue32(on, op.Session.DoneAddress(op.Lane), op.Seq))
			}
		}
	case r.Sticky():
		t.engine.SetFault(r)
	default:
		for _, op := range b.Ops[:b.Count] {
			if t.engine.fault.Load() == 0 && t.one(on, op) {
				b.Form.Refused.Store(true)
			}
		}
	}
}

// launch makes the driver call of a batch.
func (t *thread) launch(on gpu.Stream, b *word.Batch) gpu.Result {
	d := t.engine.driver
	r := b.Form.Raise(b.Launch.SharedBytes, func(bytes int) gpu.Result {
		return d.SetFuncAttribute(b.Form.Function, gpu.FuncMaxDynamicShared, bytes)
	})
	if r == gpu.Success {
		b.Launch.Stream = on
		r = d.Launch(&b.Launch)
	}
	if r != gpu.Success && !r.Sticky() && t.confined {
		r = t.elsewhere(on, func(s gpu.Stream) gpu.Result {
			b.Launch.Stream = s
			return d.Launch(&b.Launch)
		})
		for _, op := range b.Ops[:b.Count] {
			if r == gpu.Success {
				op.Kernel.Whole.Store(true)
			}
		}
	}
	return r
}

// chain issues ops that follow one another as the graph of their run. When the driver refuses it they go one by one.
func (t *thread) chain(on gpu.Stream, c *word.Chain) {
	d := t.engine.driver
	r := c.Run.Launch(d, on, c.Ops[:c.Count])
	switch {
	case r == gpu.Success:
		if op := c.Last(); op.Signal {
			t.must(d.WriteValue32(on, op.Session.DoneAddress(op.Lane), op.Seq))
		}
	case r.Sticky():
		t.engine.SetFault(r)
	default:
		c.Run.Refused.Store(true)
		for _, op := range c.Ops[:c.Count] {
			if t.engine.fault.Load() == 0 {
				t.one(on, op)
			}
		}
	}
}

// team issues launches of graphs as one word. When that cannot be they go one by one: what is wrong with one of them is then its own.
func (t *thread) team(on gpu.Stream, m *word.Team) {
	r := m.Of.Launch(t.engine.driver, on, m.Ops[:m.Count])
	switch {
	case r == gpu.Success:
	case r.Sticky():
		t.engine.SetFault(r)
	default:
		if r != gpu.NotReady {
			m.Of.Refused.Store(true)
		}
		for _, op := range m.Ops[:m.Count] {
			if t.engine.fault.Load() == 0 {
				t.one(on, op)
			}
		}
	}
}

// time asks for a sample's interval.
func (t *thread) time(s *word.Sample) {
	ms, r := t.engine.driver.EventElapsed(s.Start, s.End)
	switch {
	case r == gpu.NotReady:
		s.State.Store(sampleRecorded)
		return
	case r.Sticky():
		t.engine.SetFault(r)
	case r == gpu.Success:
		s.Nanoseconds = int64(float64(ms) * 1e6)
	}
	s.State.Store(sampleAnswered)
}

// must treats every refusal as a fault: without order or signals nothing later can be trusted.
func (t *thread) must(r gpu.Result) {
	if r != gpu.Success {
		t.engine.SetFault(r)
	}
}

// refused reports an op that did not reach the GPU.
func (t *thread) refused(op *scoreboard.Op, r gpu.Result) {
	if r.Sticky() {
		t.engine.SetFault(r)
		return
	}
	op.Session.Fail(op, r)
}

// issueOp makes the call that starts op on a stream.
func issueOp(d Driver, on gpu.Stream, op *scoreboard.Op) gpu.Result {
	a := &op.Args
	switch op.Kind {
	case shm.KindLaunch:
		k := op.Kernel
		if need := op.Launch().SharedBytes; need > k.Limit.Load() {
			// Rare: FUNC_ATTR has raised the limit before, as it must natively.
			if r := d.SetFuncAttribute(k.Function, gpu.FuncMaxDynamicShared, int(need)); r != gpu.Success {
				return r
			}
			k.Limit.Store(need)
		}
		op.Launch().Stream = on
		return d.Launch(op.Launch())
	case shm.KindGraph:
		if op.Graph.Nodewise != nil {
			return op.Graph.Walk(func(node *scoreboard.Op) gpu.Result { return issueOp(d, on, node) })
		}
		return op.Graph.Launch(d, on)
	case shm.KindMemset:
		if a[2] == 0 || a[3] == 0 {
			return gpu.Success
		}
		return d.Memset(on, a[0], a[1], a[2], a[3], uint32(a[4]), uint32(a[5]))
	case shm.KindCopy:
		if a[2] == 0 {
			return gpu.Success
		}
		return d.Copy(on, a[0], a[1], a[2])
	case shm.KindCopy3D:
		if a[12] == 0 || a[13] == 0 || a[14] == 0 {
			return gpu.Success
		}
		return d.Copy3D(on, a)
	case shm.KindPut:
		if a[2] == 0 {
			return gpu.Success
		}
		return d.CopyToDevice(on, a[0], a[1], a[2])
	case shm.KindGet:
		if a[2] == 0 {
			return gpu.Success
		}
		return d.CopyToHost(on, a[1], a[0], a[2])
	case shm.KindEvent:
		if a[0] == scoreboard.ScratchEvent {
			return gpu.Success
		}
		ev, r := op.Session.Event(uint32(a[0]), d)
		if r != gpu.Success {
			return r
		}
		return d.EventRecord(ev, on)
	}
	return gpu.InvalidValue
}

// answer stores the time between two events into the reply slot.
func answer(d Driver, c *command) {
	start, end := c.session.EventAt(c.elapsed.Start), c.session.EventAt(c.elapsed.End)
	r := gpu.InvalidHandle
	var ms float32
	if start != 0 && end != 0 {
		ms, r = d.EventElapsed(start, end)
	}
	atomic.StoreUint32(&c.reply.Status, uint32(r))
	atomic.StoreUint64(&c.reply.Value, uint64(*(*uint32)(unsafe.Pointer(&ms))))
	atomic.StoreUint32(&c.reply.State, 2)
	shm.FutexWake(&c.reply.State, 1<<30)
}
