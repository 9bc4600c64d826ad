package server

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// deviceContext is a CUcontext.
type deviceContext struct {
	c      *client
	id     uint64
	dev    *device
	legacy *stream
	peers  atomic.Uint32 // server ordinals of devices that its kernels may reach
	owner  uint64        // unique, for the chip's context switches

	err     atomic.Uint32 // sticky error
	failed  chan struct{} // closed with it
	stop    context.Context
	kill    context.CancelFunc
	failMu  sync.Mutex
	printMu sync.Mutex
	printed []byte // for standard output
	cried   []byte // for standard error
}

// fail makes the context's error sticky and lets everything blocked in it end.
func (d *deviceContext) fail(code uint32) {
	d.failMu.Lock()
	defer d.failMu.Unlock()
	if d.err.Load() != 0 || code == 0 {
		return
	}
	d.err.Store(code)
	store(d.c.word(wire.StatusCtxErr+4*int(d.id)), uint64(code))
	close(d.failed)
	d.kill()
}

// stream is a CUstream: a queue of ops, run in order by a goroutine that lives
// while there are any.
type stream struct {
	c        *client
	d        *deviceContext
	slot     uint64
	kind     uint64
	blocking bool // takes part in the legacy default stream's rules
	priority int64
	part     part

	mu      sync.Mutex
	queue   []*op
	running bool
	last    *op // submitted last
	endV    int64
}

// op is one operation of a stream.
type op struct {
	s       *stream
	seq     uint64
	deps    []*op
	run     func(o *op) uint32 // gives a sticky error or 0; nil: nothing to do
	after   func(o *op)        // called when done, whether run or skipped
	always  bool               // run even in a failed context
	holds   bool               // uses device memory while it runs
	bytes   int64              // backlog
	submitV int64
	startV  int64
	endV    int64
	done    chan struct{}
}

func (o *op) isDone() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// submit queues an op; only the client's reader calls it, so the order of calls
// is the order of submission. cost is what the call costs the host, in ns.
func (s *stream) submit(o *op, cost int64) {
	c := s.c
	o.s = s
	o.done = make(chan struct{})
	if c.inUse.Add(1) == 1 && c.watches.Load() {
		// Nothing in flight: whatever the host saw in memory has happened, so its clock is at least the device's.
		c.host.saw(c.thread, s.d.dev.now.Load())
	}
	o.submitV = max(o.submitV, c.host.call(c.thread, cost))
	c.ops.Add(1)
	o.bytes += 256
	c.backlog.Add(o.bytes)
	// The legacy default stream waits for every blocking stream, and they for it.
	c.mu.Lock()
	if s.kind == wire.StreamLegacy {
		for _, other := range c.streamsOf(s.d) {
			if other != s && other.blocking {
				if l := other.lastOp(); l != nil && !l.isDone() {
					o.deps = append(o.deps, l)
				}
			}
		}
	} else if s.blocking && s.d.legacy != nil {
		if l := s.d.legacy.lastOp(); l != nil && !l.isDone() {
			o.deps = append(o.deps, l)
		}
	}
	c.mu.Unlock()
	s.mu.Lock()
	s.queue = append(s.queue, o)
	s.last = o
	start := !s.running
	s.running = true
	s.mu.Unlock()
	if start {
		go s.loop()
	}
}

func (s *stream) lastOp() *op {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *stream) loop() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.running = false
			s.queue = nil
			s.mu.Unlock()
			return
		}
		o := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.mu.Unlock()
		s.execute(o)
	}
}

// dead tells whether the op's context or client will run nothing any more.
func (s *stream) dead() bool {
	return s.d.err.Load() != 0 || s.c.ctx.Err() != nil || s.d.stop.Err() != nil
}

func (s *stream) execute(o *op) {
	start := max(o.submitV, s.endV)
	for _, dep := range o.deps {
		select {
		case <-dep.done:
			start = max(start, dep.endV)
		case <-s.d.stop.Done():
		}
	}
	o.deps = nil
	o.startV, o.endV = start, start
	if o.run != nil && (!s.dead() || o.always && s.c.ctx.Err() == nil) {
		if o.holds {
			s.c.srv.running.add(o)
		}
		code := uint32(0)
		err := s.c.srv.guard("operation", func() error { code = o.run(o); return nil })
		if err != nil {
			code = errLaunchFailed
		}
		if o.holds {
			s.c.srv.running.remove(o)
		}
		if code != 0 && !s.dead() {
			s.d.fail(code)
		}
	}
	o.run = nil
	s.endV = o.endV
	s.d.dev.advance(o.endV)
	if o.after != nil {
		o.after(o)
		o.after = nil
	}
	s.c.finished(s.slot, o.seq)
	s.c.backlog.Add(-o.bytes)
	s.c.inUse.Add(-1)
	close(o.done)
	s.c.srv.waits.kick()
	s.c.ops.Done()
}

// whenDone calls f after o, at once if o is nil or done.
func whenDone(o *op, f func()) {
	if o == nil || o.isDone() {
		f()
		return
	}
	go func() {
		<-o.done
		f()
	}()
}

// whenAll calls f after all ops.
func whenAll(ops []*op, f func()) {
	pending := ops[:0]
	for _, o := range ops {
		if o != nil && !o.isDone() {
			pending = append(pending, o)
		}
	}
	if len(pending) == 0 {
		f()
		return
	}
	go func() {
		for _, o := range pending {
			<-o.done
		}
		f()
	}()
}

// hostClocks is the virtual time of a process's host side, ns: a clock for each thread, so that two threads launch faster than
// one, but not twice as fast: part of every call is done under a lock that they share.
type hostClocks struct {
	threads [256]atomic.Int64
	latest  atomic.Int64 // of all calls
}

// call charges a thread for a call and gives when it is done.
func (h *hostClocks) call(thread uint16, cost int64) int64 {
	t := &h.threads[thread%uint16(len(h.threads))]
	v := max(t.Load()+cost, h.latest.Load()+min(cost, costLocked))
	t.Store(v)
	raise(&h.latest, v)
	return v
}

// saw moves a thread's clock to where it has seen the device.
func (h *hostClocks) saw(thread uint16, v int64) { raise(&h.threads[thread%uint16(len(h.threads))], v) }

// raise stores v unless there is a larger value.
func raise(to *atomic.Int64, v int64) {
	for {
		now := to.Load()
		if v <= now || to.CompareAndSwap(now, v) {
			return
		}
	}
}

// runningOps is the set of ops that are using device memory right now.
type runningOps struct {
	mu  sync.Mutex
	ops map[*op]bool
}

func (r *runningOps) add(o *op)    { r.mu.Lock(); r.ops[o] = true; r.mu.Unlock() }
func (r *runningOps) remove(o *op) { r.mu.Lock(); delete(r.ops, o); r.mu.Unlock() }

// retire unmaps memory once no op that runs now can still be using it.
func (s *Server) retire(mem []byte) {
	s.running.mu.Lock()
	var ops []*op
	for o := range s.running.ops {
		ops = append(ops, o)
	}
	s.running.mu.Unlock()
	whenAll(ops, func() { unmap(mem) })
}

// ---- requests ----

func (c *client) ctxCreate(r *wire.Request) {
	id, dev := r.Args[0], r.Args[1]
	c.mu.Lock()
	defer c.mu.Unlock()
	if id >= wire.MaxContexts || c.contexts[id] != nil || dev >= uint64(len(c.srv.devices)) {
		c.status(r.Tag, errInvalidValue)
		return
	}
	d := &deviceContext{c: c, id: id, dev: c.srv.devices[dev], failed: make(chan struct{}), owner: c.srv.nextID.Add(1)}
	if !d.dev.take(c.srv.opt.ContextBytes) {
		c.status(r.Tag, errOutOfMemory)
		return
	}
	d.stop, d.kill = context.WithCancel(c.ctx)
	store(c.word(wire.StatusCtxErr+4*int(id)), 0)
	c.contexts[id] = d
	c.status(r.Tag, success)
}

// ctxDestroy stops the context's work and frees what belongs to it.
func (c *client) ctxDestroy(r *wire.Request) {
	c.mu.Lock()
	d := c.contexts[r.Args[0]]
	if d == nil {
		c.mu.Unlock()
		c.status(r.Tag, errInvalidContext)
		return
	}
	var last []*op
	for _, s := range c.streamsOf(d) {
		last = append(last, s.lastOp())
		delete(c.streams, s.slot)
	}
	c.mu.Unlock()
	d.kill()
	tag := r.Tag
	whenAll(last, func() {
		c.mu.Lock()
		if c.contexts[d.id] == d {
			c.dropContext(d)
		}
		c.mu.Unlock()
		c.status(tag, success)
	})
}

// dropContext frees a context without work; c.mu is held.
func (c *client) dropContext(d *deviceContext) {
	d.kill()
	delete(c.contexts, d.id)
	for slot, s := range c.streams {
		if s.d == d {
			delete(c.streams, slot)
		}
	}
	for _, seg := range c.space.removeIf(func(s *segment) bool { return s.owner == d }) {
		c.arena.free(seg)
		seg.drop()
	}
	for id, in := range c.instances {
		if in.d == d {
			delete(c.instances, id)
		}
	}
	d.dev.give(c.srv.opt.ContextBytes)
}

func (c *client) ctxSync(r *wire.Request) {
	d := c.context(r.Args[0])
	if d == nil {
		c.status(r.Tag, errInvalidContext)
		return
	}
	tag, thread := r.Tag, c.thread
	last := c.lastOps(d)
	whenAll(append([]*op(nil), last...), func() {
		for _, o := range last {
			if o != nil {
				c.host.saw(thread, o.endV)
			}
		}
		c.status(tag, d.err.Load())
	})
}

// context gives a context by number, nil if there is none.
func (c *client) context(id uint64) *deviceContext {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.contexts[id]
}

// lastOps gives the last op of each stream of a context; of all if d is nil.
func (c *client) lastOps(d *deviceContext) []*op {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last []*op
	for _, s := range c.streamsOf(d) {
		last = append(last, s.lastOp())
	}
	return last
}

// streamsOf gives the streams of a context (all if d is nil), and those that
// were destroyed but still work. c.mu is held.
func (c *client) streamsOf(d *deviceContext) []*stream {
	var out []*stream
	for _, s := range c.streams {
		if d == nil || s.d == d {
			out = append(out, s)
		}
	}
	busy := c.zombies[:0]
	for _, s := range c.zombies {
		if l := s.lastOp(); l == nil || l.isDone() {
			continue
		}
		busy = append(busy, s)
		if d == nil || s.d == d {
			out = append(out, s)
		}
	}
	clear(c.zombies[len(busy):])
	c.zombies = busy
	return out
}

func (c *client) streamCreate(r *wire.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, slot := c.contexts[r.Args[0]], r.Args[1]
	if d == nil || slot >= wire.MaxStreams || c.streams[slot] != nil || r.Args[4] > wire.StreamPerThread || r.Args[5] > chipSMs || r.Args[6] > chipSMs-r.Args[5] {
		c.status(r.Tag, errInvalidValue)
		return
	}
	s := &stream{c: c, d: d, slot: slot, kind: r.Args[4], blocking: r.Args[2]&1 == 0, priority: int64(r.Args[3]),
		part: part{int(r.Args[5]), int(r.Args[6])}}
	if s.kind == wire.StreamLegacy {
		d.legacy = s
	}
	c.streams[slot] = s
	c.status(r.Tag, success)
}

func (c *client) streamDestroy(r *wire.Request) {
	c.mu.Lock()
	if s := c.streams[r.Args[0]]; s != nil {
		delete(c.streams, r.Args[0])
		c.zombies = append(c.zombies, s)
	}
	c.mu.Unlock()
	c.status(r.Tag, success)
}

// stream gives the stream of a request whose first argument is a slot; nil
// answers with an error.
func (c *client) stream(r *wire.Request) *stream {
	c.mu.Lock()
	s := c.streams[r.Args[0]]
	c.mu.Unlock()
	if s == nil {
		if r.Args[0] < wire.MaxStreams && len(r.Args) > 1 && c.statusMem != nil {
			c.finished(r.Args[0], r.Args[1])
		}
		c.status(r.Tag, errInvalidHandle)
	}
	return s
}

func (c *client) streamSync(r *wire.Request) {
	c.mu.Lock()
	s := c.streams[r.Args[0]]
	c.mu.Unlock()
	if s == nil {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	tag, thread := r.Tag, c.thread
	wait := []*op{s.lastOp()}
	if s.kind == wire.StreamLegacy { // it also waits for what an op submitted now would wait for
		c.mu.Lock()
		for _, other := range c.streamsOf(s.d) {
			if other.blocking {
				wait = append(wait, other.lastOp())
			}
		}
		c.mu.Unlock()
	}
	whenAll(append([]*op(nil), wait...), func() {
		for _, o := range wait {
			if o != nil {
				c.host.saw(thread, o.endV)
			}
		}
		c.status(tag, s.d.err.Load())
	})
}

func (c *client) nop(r *wire.Request) {
	if s := c.stream(r); s != nil {
		s.submit(&op{seq: r.Args[1]}, costCall)
		c.status(r.Tag, success)
	}
}

// ---- events ----

// event is a CUevent; several processes can hold one.
type event struct {
	mu     sync.Mutex
	last   *op // of the last record
	flags  uint64
	token  uint64 // for other processes; 0: none yet
	holder *client
}

func (e *event) record() *op {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

func (c *client) event(id uint64) *event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[id]
}

func (c *client) eventCreate(r *wire.Request) {
	if r.Args[0] >= wire.MaxEvents {
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.mu.Lock()
	c.events[r.Args[0]] = &event{flags: r.Args[1], holder: c}
	c.mu.Unlock()
	c.status(r.Tag, success)
}

func (c *client) eventDestroy(r *wire.Request) {
	c.mu.Lock()
	e := c.events[r.Args[0]]
	delete(c.events, r.Args[0])
	c.mu.Unlock()
	if e != nil && e.holder == c && e.token != 0 {
		c.srv.mu.Lock()
		delete(c.srv.ipcEvent, e.token)
		c.srv.mu.Unlock()
	}
	c.status(r.Tag, success)
}

func (c *client) eventRecord(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	e := c.event(r.Args[2])
	o := &op{seq: r.Args[1]}
	s.submit(o, costCall)
	if e != nil {
		e.mu.Lock()
		e.last = o
		e.mu.Unlock()
	}
	c.status(r.Tag, success)
}

func (c *client) eventWait(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	o := &op{seq: r.Args[1]}
	if e := c.event(r.Args[2]); e != nil {
		if last := e.record(); last != nil && !last.isDone() {
			o.deps = append(o.deps, last)
		} else if last != nil {
			o.submitV = last.endV
		}
	}
	s.submit(o, costCall)
	c.status(r.Tag, success)
}

func (c *client) eventSync(r *wire.Request) {
	e := c.event(r.Args[0])
	if e == nil {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	tag, thread, last := r.Tag, c.thread, e.record()
	whenDone(last, func() {
		code := uint32(success)
		if last != nil {
			c.host.saw(thread, last.endV)
			if last.s.c == c {
				code = last.s.d.err.Load()
			}
		}
		c.status(tag, code)
	})
}

func (c *client) eventQuery(r *wire.Request) {
	e := c.event(r.Args[0])
	if e == nil {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	if last := e.record(); last != nil && !last.isDone() {
		c.status(r.Tag, errNotReady)
		return
	}
	c.status(r.Tag, success)
}

func (c *client) eventElapsed(r *wire.Request) {
	a, b := c.event(r.Args[0]), c.event(r.Args[1])
	if a == nil || b == nil || a.record() == nil || b.record() == nil {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	x, y := a.record(), b.record()
	if !x.isDone() || !y.isDone() {
		c.status(r.Tag, errNotReady)
		return
	}
	c.reply(r.Tag, success, []uint64{uint64(y.endV - x.endV)}, nil, nil)
}

func (c *client) ipcEventGet(r *wire.Request) {
	e := c.event(r.Args[0])
	if e == nil {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	c.srv.mu.Lock()
	if e.token == 0 {
		e.token = c.srv.nextID.Add(1)
		c.srv.ipcEvent[e.token] = e
	}
	token := e.token
	c.srv.mu.Unlock()
	c.reply(r.Tag, success, []uint64{token}, nil, nil)
}

func (c *client) ipcEventOpen(r *wire.Request) {
	c.srv.mu.Lock()
	e := c.srv.ipcEvent[r.Args[1]]
	c.srv.mu.Unlock()
	if e == nil || e.holder == c || r.Args[0] >= wire.MaxEvents {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	c.mu.Lock()
	c.events[r.Args[0]] = e
	c.mu.Unlock()
	c.status(r.Tag, success)
}

// forgetEvents drops the tokens of a client that is gone.
func (s *Server) forgetEvents(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, e := range s.ipcEvent {
		if e.holder == c {
			delete(s.ipcEvent, t)
		}
	}
	for t, m := range s.ipcMem {
		if m.holder == c {
			delete(s.ipcMem, t)
		}
	}
}
