package executor

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// fakeForm executes a rewritten kernel as jit/coalesce describes it: every instance has its effect, in any order, and stores its
// done word behind it. What does not fit the description is noted.
type fakeForm struct {
	layout  coalesce.Layout
	kernels []func(params []byte)
	// between is called after each instance but the last, when set.
	between func()

	mu       sync.Mutex
	wrong    []string
	launches int
	widths   []int
}

// newFakeForm makes the form of some kernels whose parameters have size bytes each.
func newFakeForm(m coalesce.Mapping, capacity, size int, kernels ...func([]byte)) *fakeForm {
	tail := coalesce.TailBytesByZ
	if m == coalesce.ByTable {
		tail = coalesce.TailBytes
	}
	l := coalesce.Layout{Mapping: m, Capacity: capacity, Tail: (size + 7) &^ 7, Align: 8}
	l.Globals = l.Tail + tail
	l.Stride = l.Globals
	l.ParamBytes = l.Stride * capacity
	for range kernels {
		l.BodyBytes = append(l.BodyBytes, size)
		l.GlobalNames = append(l.GlobalNames, nil)
	}
	return &fakeForm{layout: l, kernels: kernels}
}

// publish makes a form of codes launchable on g.
func (g *fakeGPU) publish(f *fakeForm, codes ...*scoreboard.Code) *scoreboard.Form {
	g.mu.Lock()
	id := gpu.Function(g.id())
	g.mu.Unlock()
	g.forms.Store(id, f)
	form := &scoreboard.Form{Function: id, Layout: f.layout, Bodies: codes, Limit: unlimited(), Registers: 32}
	scoreboard.Publish(form)
	return form
}

func (f *fakeForm) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.wrong) < 10 {
		f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
	}
}

// instance is one instance of a launch, as its blocks read it.
type slot struct {
	params         []byte
	done, counter  uint64
	value, threads uint32
	grid           [3]uint32
	body, first    uint32
}

func (f *fakeForm) at(params []byte, i int) (in slot) {
	l := &f.layout
	b := params[i*l.Stride:][:l.Stride]
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[l.Tail+at:]) }
	in.done, in.counter = binary.LittleEndian.Uint64(b[l.Tail+coalesce.OffDone:]), binary.LittleEndian.Uint64(b[l.Tail+coalesce.OffCounter:])
	in.value, in.threads = u32(coalesce.OffValue), u32(coalesce.OffThreads)
	if l.Mapping == coalesce.ByTable {
		for k := range in.grid {
			in.grid[k] = u32(coalesce.OffGrid + 4*k)
		}
		in.body, in.first = u32(coalesce.OffBody), u32(coalesce.OffFirst)
	}
	in.params = b[:l.BodyBytes[in.body]]
	return in
}

// count is how many instances a launch has.
func (f *fakeForm) count(l *gpu.Launch, params []byte) int {
	if f.layout.Mapping == coalesce.ByZ {
		return int(l.Grid[2])
	}
	first := func(i int) uint32 {
		return binary.LittleEndian.Uint32(params[i*f.layout.Stride+f.layout.Tail+coalesce.OffFirst:])
	}
	n := 0 // of an instance that is not launched nothing else may be read
	for n < f.layout.Capacity && first(n) < l.Grid[0] {
		n++
	}
	return n
}

// run executes a launch.
func (f *fakeForm) run(l *gpu.Launch, params []byte) {
	n := f.count(l, params)
	if n < 1 || n > f.layout.Capacity || len(params) != f.layout.ParamBytes {
		f.note("%d instances and %d parameter bytes in a launch of grid %v", n, len(params), l.Grid)
		return
	}
	f.mu.Lock()
	f.launches++
	f.widths = append(f.widths, n)
	f.mu.Unlock()
	threads := l.Block[0] * l.Block[1] * l.Block[2]
	next := uint32(0)
	for i := range n {
		in := f.at(params, i)
		blocks := l.Grid[0] * l.Grid[1]
		if f.layout.Mapping == coalesce.ByTable {
			blocks = in.grid[0] * in.grid[1] * in.grid[2]
			if in.first != next {
				f.note("instance %d begins at block %d; want %d", i, in.first, next)
			}
			next += blocks
		}
		if in.threads != blocks*threads {
			f.note("instance %d has %d threads; want %d × %d", i, in.threads, blocks, threads)
		}
	}
	if f.layout.Mapping == coalesce.ByTable && next != l.Grid[0] {
		f.note("the instances have %d blocks, the grid %v", next, l.Grid)
	}
	// A counter is in use as long as its instance runs.
	for _, i := range rand.Perm(n) {
		in := f.at(params, i)
		var counter *uint32
		if in.done != 0 {
			counter = wordAt(in.counter)
			if !atomic.CompareAndSwapUint32(counter, 0, 1) {
				f.note("the counter of instance %d is in use", i)
			}
		}
		f.kernels[in.body](in.params)
		if in.done != 0 {
			atomic.StoreUint32(counter, 0)
			atomic.StoreUint32(wordAt(in.done), in.value)
		}
		if f.between != nil {
			f.between()
		}
	}
}

// signal stores the done words of a launch.
func (f *fakeForm) signal(l *gpu.Launch) { f.signalFrom(l, bytesAt(l.Params, l.ParamBytes)) }

// signalFrom has the parameter block at hand.
func (f *fakeForm) signalFrom(l *gpu.Launch, params []byte) {
	for i := range f.count(l, params) {
		at := params[i*f.layout.Stride+f.layout.Tail:]
		if done := binary.LittleEndian.Uint64(at[coalesce.OffDone:]); done != 0 {
			atomic.StoreUint32(wordAt(done), binary.LittleEndian.Uint32(at[coalesce.OffValue:]))
		}
	}
}

func wordAt(address uint64) *uint32 { return (*uint32)(unsafe.Add(unsafe.Pointer(nil), address)) }

func (f *fakeForm) check(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.wrong {
		t.Error(w)
	}
}

// maker plays the forms' maker: every kernel of a name in its table gets forms when it is first loaded.
type maker struct {
	g     *fakeGPU
	mu    sync.Mutex
	codes map[string]*scoreboard.Code
	// make publishes the forms of a new code.
	make func(name string, c *scoreboard.Code)
}

func newMaker(g *fakeGPU, make func(name string, c *scoreboard.Code)) *maker {
	return &maker{g: g, codes: map[string]*scoreboard.Code{}, make: make}
}

func (m *maker) loaded(_ uint64, name string, k *scoreboard.Kernel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.codes[name]
	if c == nil {
		if c = k.Code; c == nil {
			c = &scoreboard.Code{ID: uint32(len(m.codes) + 1), Name: name}
		}
		m.codes[name] = c
		m.make(name, c)
	}
	k.Code = c
}

// stats asks the executor for its counters.
func (d *daemon) stats() Stats {
	d.t.Helper()
	var st Stats
	if err := json.Unmarshal(d.must(shm.Message{Type: shm.TypeStats}).Tail, &st); err != nil {
		d.t.Fatal(err)
	}
	for next := st.Next; next > 0; {
		var more StatsPage
		if err := json.Unmarshal(d.must(shm.Message{Type: shm.TypeStats, Tail: []byte(strconv.Itoa(next))}).Tail, &more); err != nil {
			d.t.Fatal(err)
		}
		st.Classes, st.Sessions, next = append(st.Classes, more.Classes...), append(st.Sessions, more.Sessions...), more.Next
	}
	return st
}
