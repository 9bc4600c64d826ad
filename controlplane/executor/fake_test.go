package executor

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// fakeGPU is a test double of the driver: streams are goroutines, device memory is this process's own, kernels are Go functions.
type fakeGPU struct {
	mu      sync.Mutex
	streams map[gpu.Stream]*fakeStream
	events  map[gpu.Event]*fakeEvent
	next    uint64
	kernels map[string]func(params []byte)
	byID    map[gpu.Function]func(params []byte)
	forms   sync.Map          // gpu.Function → *fakeForm
	mapped  map[uint64]uint64 // device memory
	windows map[uint64]uint64
	hosts   map[uint64]uint64
	modules int // loaded and not unloaded
	loads   int
	fault   atomic.Int32
	// loading is held by a test while no module shall be loaded to its end; begun counts the loads that have begun.
	loading sync.Mutex
	begun   atomic.Int64
	// refuse makes launches of these grids fail.
	refuse func(*gpu.Launch) gpu.Result
	calls  atomic.Int64
	// late makes the recording of an event take its time, so that a wait which does not wait for the record finds the event as it
	// was before.
	late   bool
	graphs fakeGraphs
	ends   sync.Mutex // of chains
}

type fakeStream struct {
	work chan func()
	held atomic.Int64
}

type fakeEvent struct {
	done chan struct{}
	at   atomic.Int64
}

func newFakeGPU() *fakeGPU {
	g := &fakeGPU{
		streams: map[gpu.Stream]*fakeStream{}, events: map[gpu.Event]*fakeEvent{}, kernels: map[string]func([]byte){},
		byID: map[gpu.Function]func([]byte){}, mapped: map[uint64]uint64{}, windows: map[uint64]uint64{}, hosts: map[uint64]uint64{}, next: 100,
	}
	g.kernels[chainEndName] = g.chainEnd
	return g
}

func (g *fakeGPU) facts() Facts {
	return Facts{Least: 0, Greatest: -5, SharedOptin: 227 << 10, Major: 9, Minor: 0}
}

func (g *fakeGPU) open() (Driver, Facts, error) { return g, g.facts(), nil }

func (g *fakeGPU) id() uint64 { g.next++; return g.next }

func (g *fakeGPU) result() gpu.Result { g.calls.Add(1); return gpu.Result(g.fault.Load()) }

func (g *fakeGPU) Bind() error { return nil }

func (g *fakeGPU) stream(s gpu.Stream) *fakeStream {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.streams[s]
}

func (g *fakeGPU) push(s gpu.Stream, f func()) gpu.Result {
	if r := g.result(); r != gpu.Success {
		return r
	}
	st := g.stream(s)
	st.held.Add(1)
	st.work <- func() {
		if g.fault.Load() == 0 {
			f()
		}
		st.held.Add(-1)
	}
	return gpu.Success
}

func (g *fakeGPU) Launch(l *gpu.Launch) gpu.Result {
	if g.refuse != nil {
		if r := g.refuse(l); r != gpu.Success {
			return r
		}
	}
	if f, ok := g.forms.Load(l.Function); ok {
		f := f.(*fakeForm)
		own := *l
		params := append([]byte(nil), bytesAt(l.Params, l.ParamBytes)...)
		return g.push(l.Stream, func() { f.run(&own, params) })
	}
	g.mu.Lock()
	k := g.byID[l.Function]
	g.mu.Unlock()
	params := make([]byte, l.ParamBytes)
	copy(params, bytesAt(l.Params, l.ParamBytes))
	return g.push(l.Stream, func() { k(params) })
}

func bytesAt(address, n uint64) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), address)), n)
}

func (g *fakeGPU) Memset(s gpu.Stream, dst, pitch, width, height uint64, element, value uint32) gpu.Result {
	return g.push(s, func() {
		for y := range height {
			for x := range width * uint64(element) {
				bytesAt(dst+y*pitch, width*uint64(element))[x] = byte(value >> (8 * (x % uint64(element))))
			}
		}
	})
}

func (g *fakeGPU) Copy(s gpu.Stream, dst, src, n uint64) gpu.Result {
	return g.push(s, func() { copy(bytesAt(dst, n), bytesAt(src, n)) })
}
func (g *fakeGPU) CopyToDevice(s gpu.Stream, dst, host, n uint64) gpu.Result {
	return g.Copy(s, dst, host, n)
}
func (g *fakeGPU) CopyToHost(s gpu.Stream, host, src, n uint64) gpu.Result {
	return g.Copy(s, host, src, n)
}

func (g *fakeGPU) Copy3D(s gpu.Stream, c *gpu.Copy3D) gpu.Result {
	a := *c
	return g.push(s, func() {
		for z := range a[14] {
			for y := range a[13] {
				dst := a[0] + a[3] + a[1]*(a[4]+y) + a[1]*a[2]*(a[5]+z)
				src := a[6] + a[9] + a[7]*(a[10]+y) + a[7]*a[8]*(a[11]+z)
				copy(bytesAt(dst, a[12]), bytesAt(src, a[12]))
			}
		}
	})
}

func (g *fakeGPU) WriteValue32(s gpu.Stream, address uint64, value uint32) gpu.Result {
	return g.push(s, func() {
		atomic.StoreUint32((*uint32)(unsafe.Add(unsafe.Pointer(nil), address)), value)
	})
}

func (g *fakeGPU) StreamCreate(int) (gpu.Stream, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := gpu.Stream(g.id())
	st := &fakeStream{work: make(chan func(), 2048)}
	g.streams[s] = st
	go func() {
		for f := range st.work {
			f()
		}
	}()
	return s, nil
}

func (g *fakeGPU) StreamDestroy(s gpu.Stream) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.streams[s].work)
	delete(g.streams, s)
	return gpu.Success
}

func (g *fakeGPU) StreamQuery(s gpu.Stream) gpu.Result {
	if r := gpu.Result(g.fault.Load()); r != gpu.Success {
		return r
	}
	if g.stream(s).held.Load() > 0 {
		return gpu.NotReady
	}
	return gpu.Success
}

func (g *fakeGPU) EventCreate(bool) (gpu.Event, gpu.Result) {
	if r := g.result(); r != gpu.Success {
		return 0, r
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e := gpu.Event(g.id())
	done := make(chan struct{})
	close(done)
	g.events[e] = &fakeEvent{done: done}
	return e, gpu.Success
}

func (g *fakeGPU) EventDestroy(e gpu.Event) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.events, e)
	return gpu.Success
}

func (g *fakeGPU) EventRecord(e gpu.Event, s gpu.Stream) gpu.Result {
	rec := &fakeEvent{done: make(chan struct{})}
	if g.late {
		time.Sleep(100 * time.Microsecond)
	}
	g.mu.Lock()
	g.events[e] = rec
	g.mu.Unlock()
	return g.push(s, func() {
		rec.at.Store(time.Now().UnixNano())
		close(rec.done)
	})
}

func (g *fakeGPU) event(e gpu.Event) *fakeEvent {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.events[e]
}

func (g *fakeGPU) StreamWaitEvent(s gpu.Stream, e gpu.Event) gpu.Result {
	rec := g.event(e)
	return g.push(s, func() { <-rec.done })
}

func (g *fakeGPU) EventQuery(e gpu.Event) gpu.Result {
	if r := gpu.Result(g.fault.Load()); r != gpu.Success {
		return r
	}
	select {
	case <-g.event(e).done:
		return gpu.Success
	default:
		return gpu.NotReady
	}
}

func (g *fakeGPU) EventElapsed(start, end gpu.Event) (float32, gpu.Result) {
	a, b := g.event(start), g.event(end)
	for _, e := range []*fakeEvent{a, b} {
		select {
		case <-e.done:
		default:
			return 0, gpu.NotReady
		}
	}
	return float32(float64(b.at.Load()-a.at.Load()) / 1e6), gpu.Success
}

func (g *fakeGPU) SetFuncAttribute(gpu.Function, int, int) gpu.Result { return g.result() }

func (g *fakeGPU) HostAlloc(bytes uint64) (uint64, gpu.Result) {
	at, err := g.Zeroed(bytes)
	if err != nil {
		return 0, gpu.OutOfMemory
	}
	return at, gpu.Success
}

func (g *fakeGPU) Zeroed(bytes uint64) (uint64, error) {
	b, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	return addressOf(b), nil
}

func (g *fakeGPU) Reserve(address, bytes uint64) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.windows[address]; ok {
		return 0, fmt.Errorf("fake: %#x is reserved", address)
	}
	g.windows[address] = bytes
	return address, nil
}

func (g *fakeGPU) Unreserve(address, _ uint64) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.windows, address)
	return gpu.Success
}

func (g *fakeGPU) Import(fd int) (gpu.Memory, gpu.Result) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, gpu.InvalidValue
	}
	return gpu.Memory(dup), gpu.Success
}

func (g *fakeGPU) Release(h gpu.Memory) gpu.Result {
	unix.Close(int(h))
	return gpu.Success
}

func (g *fakeGPU) Map(address, bytes uint64, h gpu.Memory) gpu.Result {
	if err := mapFixed(address, bytes, int(h)); err != nil {
		return gpu.InvalidValue
	}
	g.mu.Lock()
	g.mapped[address] = bytes
	g.mu.Unlock()
	return gpu.Success
}

func (g *fakeGPU) Unmap(address, bytes uint64) gpu.Result {
	g.mu.Lock()
	delete(g.mapped, address)
	g.mu.Unlock()
	unmapFixed(address, bytes)
	return gpu.Success
}

func (g *fakeGPU) HostRegister(address, bytes uint64) (uint64, gpu.Result) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hosts[address] = bytes
	return address, gpu.Success
}

func (g *fakeGPU) HostUnregister(address uint64) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.hosts, address)
	return gpu.Success
}

func (g *fakeGPU) ModuleLoad([]byte) (gpu.Module, error) {
	g.begun.Add(1)
	g.loading.Lock()
	defer g.loading.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.modules++
	g.loads++
	return gpu.Module(g.id()), nil
}

func (g *fakeGPU) ModuleUnload(gpu.Module) gpu.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.modules--
	return gpu.Success
}

func (g *fakeGPU) ModuleFunction(_ gpu.Module, name string) (gpu.Function, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.kernels[name]
	if k == nil {
		return 0, fmt.Errorf("fake: no kernel %s: %w", name, gpu.Result(500))
	}
	f := gpu.Function(g.id())
	g.byID[f] = k
	return f, nil
}

func (g *fakeGPU) ModuleGlobal(m gpu.Module, name string) (uint64, uint64, error) {
	return 0x7000_0000 + uint64(m)<<12, 64, nil
}

func (g *fakeGPU) FuncAttribute(gpu.Function, int) (int, gpu.Result) { return 0, gpu.Success }
func (g *fakeGPU) FuncParamBytes(gpu.Function) (uint32, bool)        { return 0, false }
func (g *fakeGPU) SetLimit(uint32, uint64) gpu.Result                { return gpu.Success }
func (g *fakeGPU) GetLimit(uint32) (uint64, gpu.Result)              { return 1024, gpu.Success }

// nullGPU completes everything at once and allocates nothing: what the executor itself costs.
type nullGPU struct{ *fakeGPU }

func (g nullGPU) open() (Driver, Facts, error) { return g, g.facts(), nil }
func (g nullGPU) Launch(l *gpu.Launch) gpu.Result {
	if f, ok := g.forms.Load(l.Function); ok {
		f.(*fakeForm).signal(l)
	}
	return gpu.Success
}
func (nullGPU) EventRecord(gpu.Event, gpu.Stream) gpu.Result     { return gpu.Success }
func (nullGPU) StreamWaitEvent(gpu.Stream, gpu.Event) gpu.Result { return gpu.Success }
func (nullGPU) StreamQuery(gpu.Stream) gpu.Result                { return gpu.Success }
func (nullGPU) EventQuery(gpu.Event) gpu.Result                  { return gpu.Success }
func (nullGPU) Copy(_ gpu.Stream, _, _, _ uint64) gpu.Result     { return gpu.Success }
func (nullGPU) WriteValue32(_ gpu.Stream, a uint64, v uint32) gpu.Result {
	atomic.StoreUint32((*uint32)(unsafe.Add(unsafe.Pointer(nil), a)), v)
	return gpu.Success
}

type (
	launchOf = gpu.Launch
	resultOf = gpu.Result
)

// hold keeps every stream busy until gate is closed.
func (g *fakeGPU) hold(gate chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.streams {
		s.held.Add(1)
		s.work <- func() { <-gate; s.held.Add(-1) }
	}
}

// unmapAll is what the end of a process does to its mappings.
func (g *fakeGPU) unmapAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for a, n := range g.mapped {
		unmapFixed(a, n)
	}
	clear(g.mapped)
}

// define names a kernel.
func (g *fakeGPU) define(name string, f func(params []byte)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kernels[name] = f
}

// loaded is how many modules were ever loaded.
func (g *fakeGPU) loaded() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.loads
}

func (nullGPU) Memset(gpu.Stream, uint64, uint64, uint64, uint64, uint32, uint32) gpu.Result {
	return gpu.Success
}
func (nullGPU) CopyToDevice(_ gpu.Stream, _, _, _ uint64) gpu.Result { return gpu.Success }
func (nullGPU) CopyToHost(_ gpu.Stream, _, _, _ uint64) gpu.Result   { return gpu.Success }
func (nullGPU) Copy3D(gpu.Stream, *gpu.Copy3D) gpu.Result            { return gpu.Success }
