package issue

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// recorder is a driver that notes the calls of each stream, and can hold them up.
type recorder struct {
	mu     sync.Mutex
	next   uint64
	calls  map[gpu.Stream][]string
	gate   chan struct{} // closed: calls pass
	fail   gpu.Result    // of launches
	raised int
	host   []byte
}

func newRecorder() *recorder {
	r := &recorder{calls: map[gpu.Stream][]string{}, gate: make(chan struct{})}
	close(r.gate)
	return r
}

func (r *recorder) note(s gpu.Stream, what string) gpu.Result {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	<-gate
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[s] = append(r.calls[s], what)
	return gpu.Success
}

func (r *recorder) handle() uint64 { r.mu.Lock(); defer r.mu.Unlock(); r.next++; return r.next }

func (r *recorder) Bind() error { return nil }
func (r *recorder) Launch(l *gpu.Launch) gpu.Result {
	if r.fail != gpu.Success {
		return r.fail
	}
	return r.note(l.Stream, "launch")
}
func (r *recorder) GraphSetKernel(gpu.GraphExec, gpu.GraphNode, *gpu.Launch) gpu.Result {
	return gpu.Success
}
func (r *recorder) GraphLaunch(_ gpu.GraphExec, s gpu.Stream) gpu.Result {
	if r.fail != gpu.Success {
		return r.fail
	}
	return r.note(s, "graph")
}
func (r *recorder) Memset(s gpu.Stream, _, _, _, _ uint64, _, _ uint32) gpu.Result {
	return r.note(s, "memset")
}
func (r *recorder) Copy(s gpu.Stream, _, _, _ uint64) gpu.Result         { return r.note(s, "copy") }
func (r *recorder) CopyToDevice(s gpu.Stream, _, _, _ uint64) gpu.Result { return r.note(s, "put") }
func (r *recorder) CopyToHost(s gpu.Stream, _, _, _ uint64) gpu.Result   { return r.note(s, "get") }
func (r *recorder) Copy3D(s gpu.Stream, _ *gpu.Copy3D) gpu.Result        { return r.note(s, "copy3d") }
func (r *recorder) WriteValue32(s gpu.Stream, _ uint64, _ uint32) gpu.Result {
	return r.note(s, "write")
}
func (r *recorder) StreamCreate(int) (gpu.Stream, error)                 { return gpu.Stream(r.handle()), nil }
func (r *recorder) StreamDestroy(gpu.Stream) gpu.Result                  { return gpu.Success }
func (r *recorder) StreamQuery(gpu.Stream) gpu.Result                    { return gpu.Success }
func (r *recorder) StreamWaitEvent(s gpu.Stream, _ gpu.Event) gpu.Result { return r.note(s, "wait") }
func (r *recorder) EventCreate(bool) (gpu.Event, gpu.Result) {
	return gpu.Event(r.handle()), gpu.Success
}
func (r *recorder) EventDestroy(gpu.Event) gpu.Result                 { return gpu.Success }
func (r *recorder) EventRecord(_ gpu.Event, s gpu.Stream) gpu.Result  { return r.note(s, "record") }
func (r *recorder) EventQuery(gpu.Event) gpu.Result                   { return gpu.Success }
func (r *recorder) EventElapsed(_, _ gpu.Event) (float32, gpu.Result) { return 1, gpu.Success }
func (r *recorder) SetFuncAttribute(gpu.Function, int, int) gpu.Result {
	r.raised++
	return gpu.Success
}
func (r *recorder) Zeroed(uint64) (uint64, error) { return 1 << 40, nil }
func (r *recorder) HostAlloc(bytes uint64) (uint64, gpu.Result) {
	b, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // not Go's memory
	if err != nil {
		return 0, gpu.OutOfMemory
	}
	r.host = b
	return uint64(uintptr(unsafe.Pointer(&b[0]))), gpu.Success
}

func (r *recorder) of(s gpu.Stream) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls[s])
}

// program is a session whose launches a test writes and issues one by one.
type program struct {
	t    *testing.T
	file *shm.SessionFile
	ring *shm.Consumer
	out  *shm.Producer
	s    *scoreboard.Session
	seq  map[uint32]uint32
}

func newProgram(t *testing.T) *program {
	t.Helper()
	f, err := shm.CreateSessionFile(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	out, err := shm.NewProducer(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, file: f, ring: shm.NewConsumer(f), out: out, s: scoreboard.New(1, f), seq: map[uint32]uint32{}}
	limit := &atomic.Uint32{}
	limit.Store(48 << 10)
	p.s.AddKernel(&scoreboard.Kernel{ID: 1, Function: 9, Limit: limit})
	return p
}

// launch submits a kernel and returns its op.
func (p *program) launch(lane, shared uint32, deps ...shm.Dep) *scoreboard.Op {
	p.t.Helper()
	p.seq[lane]++
	body, _, ok := p.out.Begin(shm.Header{Kind: shm.KindLaunch, Lane: lane, Seq: p.seq[lane], Deps: deps}, 64)
	if !ok {
		p.t.Fatal("no room")
	}
	shm.Put(body, shm.Launch{Kernel: 1, GridX: 1, SharedBytes: shared})
	p.out.Publish()
	v, ok, err := p.ring.Next()
	if err != nil || !ok {
		p.t.Fatal(ok, err)
	}
	if _, _, err := p.s.Accept(v, 1); err != nil {
		p.t.Fatal(err)
	}
	op := p.s.Ready(p.s.Lane(lane))
	if op == nil {
		p.t.Fatalf("lane %d is not ready", lane)
	}
	return op
}

func engine(t *testing.T, r *recorder, threads int) *Engine {
	t.Helper()
	e, err := New(r, Options{Threads: threads, Least: 0, Greatest: -5, Spin: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

func settle(t *testing.T, e *Engine) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !e.Idle(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatal("commands are not executed")
		}
	}
}

func one(op *scoreboard.Op) *word.Word { w := word.One(op); return &w }

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		n, levels int
		want      []int
	}{{32, 6, []int{3, 3, 3, 3, 3, 17}}, {32, 1, []int{32}}, {32, 2, []int{16, 16}}, {4, 6, []int{1, 1, 1, 1}}, {2, 2, []int{1, 1}}} {
		if got := spread(c.n, c.levels); !slices.Equal(got, c.want) {
			t.Errorf("%d over %d: %v; want %v", c.n, c.levels, got, c.want)
		}
	}
}

func TestLevels(t *testing.T) {
	e := engine(t, newRecorder(), 2)
	for p, want := range map[int32]int{0: 5, -5: 0, -3: 2, 7: 5, -100: 0, 1 << 30: 5, -1 << 31: 0} {
		if got := e.Level(p); got != want {
			t.Errorf("priority %d is level %d; want %d", p, got, want)
		}
	}
	if _, err := New(newRecorder(), Options{Threads: MaxThreads + 1}); err == nil {
		t.Error("too many threads are accepted")
	}
}

// Where ops go: idle lanes to idle streams, one dependency behind its op, several by events, a lane in flight stays.
func TestPlacement(t *testing.T) {
	r := newRecorder()
	e := engine(t, r, 3)
	p := newProgram(t)
	issue := func(op *scoreboard.Op) int {
		t.Helper()
		settle(t, e) // streams that wait for their commands may be told to move
		if !e.Issue(one(op)) {
			t.Fatal("no room")
		}
		return p.s.Lane(op.Lane).Stream
	}
	a, b := issue(p.launch(1, 0)), issue(p.launch(2, 0))
	if a == b {
		t.Errorf("two idle lanes share stream %d while others are idle", a)
	}
	if c := issue(p.launch(1, 0)); c != a {
		t.Errorf("a lane in flight moved from stream %d to %d", a, c)
	}
	if c := issue(p.launch(3, 0, shm.Dep{Lane: 2, Value: 1})); c != b {
		t.Errorf("one dependency: stream %d; want %d, behind it", c, b)
	}
	if c := issue(p.launch(4, 0, shm.Dep{Lane: 2, Value: 1})); c == b {
		t.Error("a second lane behind the same op was put on its stream: independent lanes run one after another")
	}
	joined := issue(p.launch(5, 0, shm.Dep{Lane: 1, Value: 2}, shm.Dep{Lane: 2, Value: 1}))
	settle(t, e)
	if got := r.of(e.Stream(joined).Handle); !slices.Equal(got, []string{"wait", "wait", "launch"}) {
		t.Errorf("the stream of the op with two dependencies: %v", got)
	}
	if got := r.of(e.Stream(a).Handle); !slices.Equal(got, []string{"launch", "launch", "record"}) {
		t.Errorf("the stream of lane 1: %v", got)
	}
	if e.Words != 6 || e.Orders != 3 {
		t.Errorf("%d words, %d orders; want 6, 3", e.Words, e.Orders)
	}
	// A done op needs no order.
	atomic.StoreUint32(&p.file.Lane(1).Done, 2)
	l := p.s.Lane(1)
	l.Signalled = 2
	if n, ok := p.s.Poll(l); n != 2 || !ok {
		t.Fatal(n, ok)
	}
	e.Completed(a, 2, true)
	if issue(p.launch(6, 0, shm.Dep{Lane: 1, Value: 2})); e.Orders != 3 {
		t.Error("an op waits for one that is done")
	}
}

// However many streams an op waits for, it finds room in queues that are empty.
func TestManyDependencies(t *testing.T) {
	for n := uint32(1); n <= 16; n++ {
		r := newRecorder()
		e := engine(t, r, 3)
		p := newProgram(t)
		var deps []shm.Dep
		streams := map[int]bool{}
		for lane := uint32(1); lane <= n; lane++ {
			if !e.Issue(one(p.launch(lane, 0))) {
				t.Fatal("no room")
			}
			settle(t, e)
			deps, streams[p.s.Lane(lane).Stream] = append(deps, shm.Dep{Lane: lane, Value: 1}), true
		}
		if len(streams) != int(n) {
			t.Fatalf("%d lanes are on %d streams", n, len(streams))
		}
		if !e.Issue(one(p.launch(n+1, 0, deps...))) {
			t.Errorf("an op that waits for %d streams finds no room", n)
		}
		settle(t, e)
	}
}

// A thread that is held up: the queue fills, Issue says so and changes nothing, and nothing is lost.
func TestBackPressure(t *testing.T) {
	r := newRecorder()
	gate := make(chan struct{})
	r.gate = gate
	e := engine(t, r, 1)
	p := newProgram(t)
	n := 0
	for ; n < 10*queueLength; n++ {
		op := p.launch(1, 0)
		if !e.Issue(one(op)) {
			if p.s.Lane(1).First() != op || p.s.InFlight() != n {
				t.Fatal("an op that found no room was moved")
			}
			break
		}
	}
	if n < queueUse-2 || n > queueUse+1 {
		t.Errorf("%d ops fit into the queue; want about %d", n, queueUse)
	}
	mark := e.Mark()
	if e.Passed(mark) {
		t.Error("nothing was executed, but the mark is passed")
	}
	if !e.Signal(p.s, p.s.Lane(1)) {
		t.Error("a signal finds no room beside ops")
	}
	close(gate)
	settle(t, e)
	if !e.Passed(mark) || len(r.of(e.Stream(p.s.Lane(1).Stream).Handle)) != n+1 {
		t.Errorf("%d calls; want %d launches and a write", len(r.of(e.Stream(p.s.Lane(1).Stream).Handle)), n)
	}
}

func TestRefusalAndFault(t *testing.T) {
	r := newRecorder()
	r.fail = 701
	e := engine(t, r, 2)
	p := newProgram(t)
	e.Issue(one(p.launch(4, 0)))
	settle(t, e)
	if f := p.s.Failed(); f.Result != 701 || f.Lane != 4 || f.Kind != shm.KindLaunch || e.Fault() != gpu.Success {
		t.Errorf("refused: %+v, fault %v", f, e.Fault())
	}
	r.fail = gpu.IllegalAddress
	e.Issue(one(p.launch(5, 0)))
	settle(t, e)
	if e.Fault() != gpu.IllegalAddress {
		t.Errorf("fault %v", e.Fault())
	}
	r.fail = gpu.Success
	e.Issue(one(p.launch(6, 0)))
	settle(t, e)
	if got := r.of(e.Stream(p.s.Lane(6).Stream).Handle); len(got) != 0 {
		t.Errorf("calls after a fault: %v", got)
	}
}

// Dynamic shared memory beyond the function's limit raises the limit once.
func TestSharedMemory(t *testing.T) {
	r := newRecorder()
	e := engine(t, r, 1)
	p := newProgram(t)
	for _, n := range []uint32{100, 48 << 10, 100 << 10, 90 << 10, 100 << 10} {
		e.Issue(one(p.launch(1, n)))
	}
	settle(t, e)
	if r.raised != 1 {
		t.Errorf("the attribute was set %d times; want once", r.raised)
	}
}

func TestElapsed(t *testing.T) {
	e := engine(t, newRecorder(), 2)
	p := newProgram(t)
	slot := p.file.Reply(3)
	slot.State = 1
	if !e.Elapsed(p.s, shm.Elapsed{Start: 1, End: 2, Reply: 3}, slot) {
		t.Fatal("no room")
	}
	settle(t, e)
	if atomic.LoadUint32(&slot.State) != 2 || slot.Status != uint32(gpu.InvalidHandle) {
		t.Errorf("slots that were never recorded: %+v", slot)
	}
}

// A stream with a thousand ops in few launches is not full: what is issued there can be waited for. Done words have room anywhere.
func TestDepth(t *testing.T) {
	for _, joined := range []bool{false, true} {
		e := engine(t, newRecorder(), 1)
		p := newProgram(t)
		if !e.Issue(one(p.launch(1, 0))) || !e.Issue(one(p.launch(2, 0))) {
			t.Fatal("no room")
		}
		lane := p.s.Lane(1)
		on := e.Stream(lane.Stream)
		on.Ops, on.joined = on.Ops+streamDepth+100, joined
		if room := e.Issue(one(p.launch(2, 0, shm.Dep{Lane: 1, Value: 1}))); room != joined {
			t.Errorf("%d ops, joined: %v: an op of another stream can wait for them: %v", on.Ops, joined, room)
		}
		if full := e.Full != 0; full == joined {
			t.Errorf("%d ops, joined: %v: the stream is said to be full: %v", on.Ops, joined, full)
		}
		if !e.Signal(p.s, lane) {
			t.Errorf("%d ops, joined: %v: they cannot be signalled", on.Ops, joined)
		}
	}
}

// However many ops of other streams wait for a lane, its done word can be asked for: until it is known nothing frees the stream, and
// everybody would wait for ever.
func TestRoomForDoneWords(t *testing.T) {
	e := engine(t, newRecorder(), 2)
	p := newProgram(t)
	if !e.Issue(one(p.launch(1, 0))) {
		t.Fatal("no room")
	}
	lane := p.s.Lane(1)
	n := 0
	for ; n < 2*streamDepth; n++ {
		settle(t, e)
		dep := shm.Dep{Lane: 1, Value: 1}
		if n == 0 { // the first one goes behind it on its stream
			e.Issue(one(p.launch(2, 0, dep)))
		} else if !e.Issue(one(p.launch(3+uint32(n%8), 0, dep))) {
			break
		}
	}
	if n == 2*streamDepth {
		t.Fatalf("%d ops wait for a stream that holds %d", n, streamDepth)
	}
	settle(t, e)
	if !e.Signal(p.s, lane) {
		t.Errorf("with %d ops that wait for a lane its done word cannot be asked for", n)
	}
}
