package executor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/cache"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/harvest"
)

// Bounds of what one executor keeps loaded. Forms are never unloaded: an op may be about to use any of them.
const (
	maxForms     = 512
	maxPacks     = maxForms / 2 // of them of several kernels: there are many sets of kernels, and each kernel's own forms serve more
	maxFormBytes = 256 << 20
	maxPending   = 1024
)

// Loading code may hold up everything in the context: forms are loaded together, when the executor is idle, or loadPatience after
// the first of them was ready.
const (
	loadPatience = 100 * time.Millisecond
	loadLook     = 5 * time.Millisecond
)

// Forms of several kernels are compiled one at a time, and then none for packRests times as long as that took: a quarter of one core.
// packLook is how often is looked whether the next one may be.
const (
	packRests = 3
	packLook  = 50 * time.Millisecond
	// leastPackCosts is the least that a form of several kernels must be worth: loading it costs something, too.
	leastPackCosts = 50 * time.Millisecond
)

// Reasons for having no form, besides those of compiler.Failure.
const (
	reasonFull       = "forms-full"       // the executor holds as many as it may
	reasonLoad       = "load"             // the driver does not load it
	reasonAttributes = "attributes"       // it cannot have the attributes that clients set on the original
	reasonGlobals    = "globals-unknown"  // the driver does not tell where the clients' variables are
	reasonOff        = "compiler-absent"  // this executor was started without a compiler
	reasonBusy       = "compiler-backlog" // too much is asked for at once
)

// forms makes and loads rewritten kernels in the background. The poller asks (scoreboard.Demand) and finds them in Code.Forms;
// nothing in between waits for anything here.
//
//	poller ─ Demand ─► run ─► compiler.Service ─► run ─► loader: load, set attributes, find globals, publish ─► poller
type forms struct {
	x       *executor
	log     *slog.Logger
	demand  *scoreboard.Demand
	service *compiler.Service // nil: nothing is compiled
	store   *cache.Store
	device  compiler.Device
	ctx     context.Context
	cancel  context.CancelFunc
	ended   chan struct{}
	results chan *making

	// Of run alone.
	pending []*making
	active  int
	packs   int       // forms of several kernels that are there or on their way
	packing bool      // one of these is being compiled
	packAt  time.Time // when the next one may be
	// packCosts is what one took, smoothed.
	packCosts time.Duration
	ready     []*making
	since     time.Time // when the oldest of ready was

	mu    sync.Mutex
	codes map[codeKey]*codeInfo
	list  []*codeInfo // by number
	stats FormsStats
}

// FormsStats counts what the forms' maker did.
type FormsStats struct {
	Codes     int               `json:"codes"` // kernels known
	Asked     uint64            `json:"asked"` // forms asked for
	Forms     int               `json:"forms"` // of them loaded
	Bytes     uint64            `json:"bytes"` // of their machine code
	Compiled  uint64            `json:"compiled"`
	CacheHits uint64            `json:"cache_hits"`
	Making    int               `json:"making"`           // asked for, and neither there nor refused yet
	Workers   uint64            `json:"workers"`          // compiler processes started
	Failed    map[string]uint64 `json:"failed,omitempty"` // by code
	// FirstCompileSeconds is how long the first compilation took, CompileSeconds all of them, LoadSeconds loading.
	FirstCompileSeconds float64 `json:"first_compile_seconds"`
	CompileSeconds      float64 `json:"compile_seconds"`
	LoadSeconds         float64 `json:"load_seconds"`
}

// codeKey names a kernel of an image.
type codeKey struct {
	image uint64
	name  string
}

// codeInfo is what the control side knows of a Code. Fields without a word belong to the loader's thread.
type codeInfo struct {
	code  *scoreboard.Code // set once
	image *loaded          // set once
	// places are where its clients' PTX may lie; forms.mu guards them.
	places harvest.Places
	name   string // set once
	// attributes as clients set them last, dynamic shared memory the largest.
	attributes map[uint32]int
	// globals are the variables whose addresses forms want; nil until a form does.
	globals []string
	kernels map[*scoreboard.Kernel]*instance
	origin  string // where its PTX was found, "" until a form of it is there; under mu
}

// making is a form on its way.
type making struct {
	bodies []*codeInfo
	req    compiler.Request
	answer *compiler.Answer
	err    error
	took   time.Duration // by the compiler, or the cache
}

func newForms(x *executor) *forms {
	f := &forms{
		x: x, log: x.log, demand: x.poller.demand, ended: make(chan struct{}), codes: map[codeKey]*codeInfo{},
		device: compiler.Device{UUID: x.config.DeviceUUID, Major: x.facts.Major, Minor: x.facts.Minor, Driver: x.facts.Driver},
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.stats.Failed = map[string]uint64{}
	if len(x.config.Compiler) > 0 {
		if dir := x.config.CacheDir; dir != "" {
			var err error
			if f.store, err = cache.Open(dir, cache.Options{Mine: compiler.Mine}); err != nil {
				f.log.Warn("forms are not kept on disk", "error", err)
			}
		}
		f.service = compiler.New(compiler.Options{Command: x.config.Compiler, Cache: f.store, Log: x.log})
		f.results = make(chan *making, f.service.Workers())
	}
	return f
}

// code gives the Code of a kernel, made at its first use, by a client whose PTX may lie in p; fn is its function, with so much static
// shared memory. It runs on the loader's thread.
func (f *forms) code(im *loaded, name string, p harvest.Places, fn gpu.Function, static int) *codeInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := codeKey{im.id, name}
	if c := f.codes[key]; c != nil {
		c.places = merge(c.places, p)
		return c
	}
	c := &codeInfo{
		places: p,
		code:   &scoreboard.Code{ID: uint32(len(f.list) + 1), Image: im.id, Name: name, Content: im.key(name), StaticShared: static},
		image:  im, name: name, attributes: map[uint32]int{}, kernels: map[*scoreboard.Kernel]*instance{},
	}
	if n, r := f.x.driver.FuncAttribute(fn, gpu.FuncRegisters); r == gpu.Success {
		c.code.Registers = n
	}
	f.codes[key] = c
	f.list = append(f.list, c)
	return c
}

// merge gives the places of both; of each kind no more than maxPlaces.
func merge(a, b harvest.Places) harvest.Places {
	const maxPlaces = 8
	both := func(a, b []string) []string {
		out := slices.Clone(a)
		for _, d := range b {
			if len(out) < maxPlaces && !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
		return out
	}
	return harvest.Places{Store: cmp.Or(a.Store, b.Store), Triton: both(a.Triton, b.Triton), Inductor: both(a.Inductor, b.Inductor)}
}

// places are where the PTX of a kernel may lie, as its clients so far keep it.
func (f *forms) places(key codeKey) harvest.Places {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.codes[key]; c != nil {
		return c.places
	}
	return harvest.Places{}
}

// info finds what belongs to a Code.
func (f *forms) info(c *scoreboard.Code) *codeInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list[c.ID-1]
}

// attach makes a session's kernel one of its code's. It runs on the loader's thread, before the poller knows the kernel.
func (f *forms) attach(c *codeInfo, k *scoreboard.Kernel, in *instance) {
	k.Code = c.code
	c.kernels[k] = in
	f.locate(c, k, in)
}

// detach forgets a session's kernel. It runs on the loader's thread.
func (f *forms) detach(k *scoreboard.Kernel) {
	if k.Code != nil {
		delete(f.info(k.Code).kernels, k)
	}
}

// locate finds a session's addresses of the variables that forms want. Without them its ops of the kernel are not joined.
func (f *forms) locate(c *codeInfo, k *scoreboard.Kernel, in *instance) {
	if len(c.globals) == 0 {
		return
	}
	at := make([]uint64, len(c.globals))
	for i, name := range c.globals {
		var err error
		if at[i], _, err = f.x.driver.ModuleGlobal(in.module, name); err != nil {
			f.refuse([]*codeInfo{c}, reasonGlobals, fmt.Sprintf("%s: %v", name, err))
			return
		}
	}
	k.Globals.Store(&at)
}

// attribute keeps the forms of a kernel in step with an attribute that a client set on it. It runs on the loader's thread.
func (f *forms) attribute(k *scoreboard.Kernel, what uint32, value int) {
	if k.Code == nil {
		return
	}
	c := f.info(k.Code)
	if old, ok := c.attributes[what]; what != gpu.FuncMaxDynamicShared || !ok || value > old {
		c.attributes[what] = value
	}
	if all := k.Code.Forms.Load(); all != nil {
		for _, form := range *all {
			if r := f.set(form, what, value); r != gpu.Success {
				f.log.Warn("a form does not take its kernel's attribute", "kernel", c.name, "attribute", what, "value", value, "error", r)
			}
		}
	}
}

// set gives a form an attribute. Dynamic shared memory only grows.
func (f *forms) set(form *scoreboard.Form, what uint32, value int) gpu.Result {
	call := func(value int) gpu.Result { return f.x.driver.SetFuncAttribute(form.Function, int(what), value) }
	if what == gpu.FuncMaxDynamicShared {
		return form.Raise(uint32(max(value, 0)), call)
	}
	return call(value)
}

// refuse notes why codes have no form. One of several kernels that does not exist says nothing about any of them.
func (f *forms) refuse(bodies []*codeInfo, code, detail string) {
	f.mu.Lock()
	f.stats.Failed[code]++
	f.mu.Unlock()
	if len(bodies) == 1 {
		bodies[0].code.Why.Store(&scoreboard.Reason{Code: code, Detail: detail})
		f.log.Info("no form", "kernel", bodies[0].name, "code", code, "why", detail)
	}
}

// snapshot gives the counters.
func (f *forms) snapshot() FormsStats {
	f.mu.Lock()
	st := f.stats
	st.Codes = len(f.list)
	st.Failed = map[string]uint64{}
	for k, n := range f.stats.Failed {
		st.Failed[k] = n
	}
	f.mu.Unlock()
	if f.service != nil {
		n := f.service.Counters()
		st.Compiled, st.CacheHits, st.Workers = n.Compiled, n.CacheHits, n.Workers
		st.FirstCompileSeconds, st.CompileSeconds = n.FirstSeconds, n.TotalSeconds
	}
	return st
}

// run is the maker's goroutine.
func (f *forms) run() {
	defer close(f.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-f.demand.Wake():
			f.take()
		case m := <-f.results:
			f.active--
			if len(m.bodies) > 1 {
				f.packed(m)
			}
			f.made(m)
		case <-timer.C:
		case <-f.ctx.Done():
			return
		}
		look := time.Hour
		for f.active < cap(f.results) && len(f.pending) > 0 {
			m := f.next()
			if m == nil {
				look = packLook
				break
			}
			f.active++
			go func() {
				begun := time.Now()
				f.compile(m)
				m.took = time.Since(begun)
				f.results <- m // as many places as are active
			}()
		}
		switch {
		case len(f.ready) == 0:
		case time.Since(f.since) < loadPatience && (f.active > 0 || !f.idle()):
			look = loadLook // more are coming soon, or ops are running: a moment's patience
		case !f.load():
			return
		}
		timer.Reset(look)
	}
}

// packed notes what it took to compile a form of several kernels.
func (f *forms) packed(m *making) {
	f.packing, f.packAt = false, time.Now().Add(packRests*m.took)
	if m.err == nil && !m.answer.Cached {
		f.packCosts += (m.took - f.packCosts) / time.Duration(min(f.packs, 8))
		f.demand.Costs(int64(max(f.packCosts, leastPackCosts)))
	}
}

// next takes the form that is to be compiled next, nil when none may be now. Forms of one kernel go first. Those of several, of which
// there are many, and which gain less, are made one at a time, with pauses, and while forms are used at all.
func (f *forms) next() *making {
	at := slices.IndexFunc(f.pending, func(m *making) bool { return len(m.bodies) == 1 })
	if at < 0 {
		if f.packing || time.Now().Before(f.packAt) || !f.demand.Useful() {
			return nil
		}
		at, f.packing = 0, true
	}
	m := f.pending[at]
	f.pending = slices.Delete(f.pending, at, at+1)
	return m
}

// idle tells whether nothing is in flight.
func (f *forms) idle() bool {
	quiet := true
	f.x.poller.call(func() {
		for _, c := range f.x.poller.clients {
			quiet = quiet && c.board.InFlight() == 0
		}
	})
	return quiet
}

// take turns wishes into requests.
func (f *forms) take() {
	for {
		w, ok := f.demand.Next()
		if !ok {
			return
		}
		m := &making{req: compiler.Request{Spec: coalesce.Spec{Mapping: w.Mapping, Capacity: w.Capacity}, Device: f.device}}
		for _, c := range w.Bodies[:w.Count] {
			m.bodies = append(m.bodies, f.info(c))
		}
		f.mu.Lock()
		for _, c := range m.bodies {
			m.req.Places = merge(m.req.Places, c.places)
		}
		f.stats.Asked++
		f.mu.Unlock()
		pack := len(m.bodies) > 1
		switch {
		case f.service == nil:
			f.refuse(m.bodies, reasonOff, "HEDDLE_COALESCE=0 is set for the daemon, or heddle daemon did not start this executor")
		case pack && f.packs >= maxPacks:
			f.refuse(m.bodies, reasonFull, fmt.Sprintf("at most %d forms of several kernels are made", maxPacks))
		case len(f.pending) >= maxPending:
			f.refuse(m.bodies, reasonBusy, fmt.Sprintf("%d forms are asked for already", maxPending))
		default:
			if pack {
				f.pack(1)
			}
			f.pending = append(f.pending, m)
			f.making(1)
			continue
		}
		if pack {
			f.demand.Settled()
		}
	}
}

// compile asks the service; it runs on a goroutine of its own.
func (f *forms) compile(m *making) {
	for _, c := range m.bodies {
		m.req.Bodies = append(m.req.Bodies, compiler.Body{Image: c.image.bytes, Hash: c.image.hash(), Entry: c.name})
		m.req.Spec.ClientGlobals = m.req.Spec.ClientGlobals || c.image.info.Writable != ""
	}
	if len(m.bodies) > 1 { // numbers differ from executor to executor: the cache needs an order of its own
		order := make([]int, len(m.bodies))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int {
			x, y := &m.req.Bodies[a], &m.req.Bodies[b]
			return cmp.Or(bytes.Compare(x.Hash[:], y.Hash[:]), cmp.Compare(x.Entry, y.Entry))
		})
		bodies, req := slices.Clone(m.bodies), slices.Clone(m.req.Bodies)
		for i, k := range order {
			m.bodies[i], m.req.Bodies[i] = bodies[k], req[k]
		}
	}
	m.answer, m.err = f.service.Compile(f.ctx, &m.req)
	m.req.Bodies = nil
}

// making counts forms on their way.
func (f *forms) making(n int) {
	f.mu.Lock()
	f.stats.Making += n
	f.mu.Unlock()
}

// pack counts forms of several kernels, and says when there are enough.
func (f *forms) pack(n int) {
	f.packs += n
	f.demand.Enough(f.packs >= maxPacks)
}

// failed gives the place of a form back.
func (f *forms) failed(m *making) {
	if len(m.bodies) > 1 {
		f.pack(-1)
	}
}

// settled takes a form off those that are on their way: it is there, or will not be.
func (f *forms) settled(m *making) {
	f.making(-1)
	if len(m.bodies) > 1 {
		f.demand.Settled()
	}
}

// made takes a result.
func (f *forms) made(m *making) {
	var no *compiler.Failure
	switch {
	case errors.As(m.err, &no):
		f.failed(m)
		f.refuse(m.bodies, no.Code, no.Detail)
		f.settled(m)
	case m.err != nil: // leaving
	default:
		if len(f.ready) == 0 {
			f.since = time.Now()
		}
		f.ready = append(f.ready, m)
	}
}

// load loads what is ready; false when the executor leaves.
func (f *forms) load() bool {
	all := f.ready
	f.ready = nil
	for _, m := range all {
		loaded := true
		err := f.x.loader.do(func() error { // one by one: a client's request waits for one of them at most
			begun := time.Now()
			if code, detail := f.publish(m); code != "" {
				loaded = false
				f.refuse(m.bodies, code, detail)
			}
			f.mu.Lock()
			f.stats.LoadSeconds += time.Since(begun).Seconds()
			f.mu.Unlock()
			return nil
		})
		if err != nil {
			return false
		}
		if !loaded {
			f.failed(m)
		}
		f.settled(m)
	}
	return true
}

// publish loads one form and shows it to the poller. It runs on the loader's thread; the result is a reason, "" for success.
func (f *forms) publish(m *making) (code, detail string) {
	d, a := f.x.driver, m.answer
	f.mu.Lock()
	full := f.stats.Forms >= maxForms || f.stats.Bytes+uint64(len(a.Code)) > maxFormBytes
	f.mu.Unlock()
	if full {
		return reasonFull, fmt.Sprintf("at most %d forms and %d MiB are loaded", maxForms, maxFormBytes>>20)
	}
	if f.superfluous(m) {
		return "", ""
	}
	for i, c := range m.bodies {
		if i < len(a.Layout.GlobalNames) && c.globals != nil && !slices.Equal(c.globals, a.Layout.GlobalNames[i]) {
			return compiler.Internal, fmt.Sprintf("%s: forms disagree about the client's variables", c.name)
		}
	}
	text := a.Code
	if !bytes.HasPrefix(text, []byte("\x7fELF")) && text[len(text)-1] != 0 {
		text = append(slices.Clip(text), 0) // the driver wants a zero behind PTX
	}
	module, err := d.ModuleLoad(text)
	if err != nil {
		return reasonLoad, err.Error()
	}
	keep := false
	defer func() {
		if !keep {
			d.ModuleUnload(module)
		}
	}()
	form := &scoreboard.Form{Layout: a.Layout, Limit: &atomic.Uint32{}}
	if form.Function, err = d.ModuleFunction(module, coalesce.EntryName); err != nil {
		return reasonLoad, err.Error()
	}
	attribute := func(what int) int {
		v, r := d.FuncAttribute(form.Function, what)
		if r != gpu.Success && err == nil {
			err = r
		}
		return v
	}
	form.Registers, form.StaticShared = attribute(gpu.FuncRegisters), attribute(gpu.FuncStaticShared)
	form.MaxThreads = uint32(attribute(gpu.FuncMaxThreads))
	limit := attribute(gpu.FuncMaxDynamicShared)
	if err != nil {
		return reasonLoad, fmt.Sprintf("cuFuncGetAttribute: %v", err)
	}
	form.Limit.Store(uint32(limit))
	for _, c := range m.bodies {
		form.Bodies = append(form.Bodies, c.code)
		for what, value := range c.attributes {
			if r := f.set(form, what, value); r != gpu.Success {
				return reasonAttributes, fmt.Sprintf("cuFuncSetAttribute(%d, %d): %v", what, value, r)
			}
		}
	}
	for i, c := range m.bodies {
		if c.globals == nil && i < len(a.Layout.GlobalNames) && len(a.Layout.GlobalNames[i]) > 0 {
			c.globals = a.Layout.GlobalNames[i]
			for k, in := range c.kernels {
				f.locate(c, k, in)
			}
		}
	}
	keep = true
	scoreboard.Publish(form)
	f.mu.Lock()
	f.stats.Forms++
	for i, c := range m.bodies {
		if i < len(a.Origins) {
			c.origin = string(a.Origins[i])
		}
	}
	f.stats.Bytes += uint64(len(a.Code))
	f.mu.Unlock()
	f.log.Info("form", "kernel", m.bodies[0].name, "bodies", len(m.bodies), "mapping", a.Layout.Mapping, "instances", a.Layout.Capacity,
		"from_cache", a.Cached)
	return "", ""
}

// superfluous tells whether a form of the same bodies holds as many instances already: parameters may admit no more than the small
// form has.
func (f *forms) superfluous(m *making) bool {
	all := m.bodies[0].code.Forms.Load()
	if all == nil {
		return false
	}
	return slices.ContainsFunc(*all, func(o *scoreboard.Form) bool {
		return len(o.Bodies) == 1 && len(m.bodies) == 1 && o.Layout.Mapping == m.answer.Layout.Mapping &&
			o.Layout.Capacity >= m.answer.Layout.Capacity
	})
}

// stop ends the maker and its compilers.
func (f *forms) stop() {
	f.cancel()
	if f.service != nil {
		f.service.Close()
	}
	select {
	case <-f.ended:
	case <-time.After(loaderPatience): // a driver call that hangs must not hold the process
		return
	}
	if f.store != nil {
		f.store.Close()
	}
}
