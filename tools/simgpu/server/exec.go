package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// place is where a run of bytes lies.
type place struct {
	mem    []byte // reachable here, or
	remote bool   // in the client's own memory
	device bool
	n      uint64 // bytes up to the end of the run
}

// locate gives the run of at most n bytes at addr as the copy engines of
// context d see it. Addresses that the driver does not know are the client's own.
func (c *client) locate(d *deviceContext, addr, n uint64, write bool) (place, error) {
	seg := c.space.find(addr)
	if seg == nil {
		return place{remote: true, n: n}, nil
	}
	n = min(n, seg.base+seg.size-addr)
	if seg.mem == nil {
		return place{remote: true, n: n}, nil
	}
	if r := seg.rights(d); r == 0 || write && r != 3 {
		// Copies may cross devices without peer access: the driver stages them.
		if seg.vmm || seg.dev == nil {
			return place{}, fmt.Errorf("simgpu: no access to %#x", addr)
		}
	}
	off := addr - seg.base
	return place{mem: seg.mem[off : off+n], device: seg.dev != nil, n: n}, nil
}

// copyRun copies n bytes between any two places.
func (c *client) copyRun(d *deviceContext, dst, src, n uint64, inline []byte) error {
	for n > 0 {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		to, err := c.locate(d, dst, min(n, 16<<20), true)
		if err != nil {
			return err
		}
		from := place{mem: inline, n: uint64(len(inline))}
		if inline == nil {
			if from, err = c.locate(d, src, to.n, false); err != nil {
				return err
			}
		}
		m := min(to.n, from.n)
		switch {
		case to.remote && from.remote:
			m = min(m, 1<<20)
			buf := make([]byte, m)
			if err = readProcess(c.pid, src, buf); err == nil {
				err = writeProcess(c.pid, dst, buf)
			}
		case to.remote:
			err = writeProcess(c.pid, dst, from.mem[:m])
		case from.remote:
			err = readProcess(c.pid, src, to.mem[:m])
		default:
			copy(to.mem[:m], from.mem[:m])
		}
		if err != nil {
			return err
		}
		if inline != nil {
			inline = inline[m:]
		}
		dst, src, n = dst+m, src+m, n-m
	}
	return nil
}

// extent is a copy's or fill's shape in bytes.
type extent struct {
	dst, dstPitch, dstSlice, src, srcPitch, srcSlice, width, height, depth uint64
}

// sane bounds hostile shapes; libcuda.so.1 has checked the ranges.
func (e *extent) sane() bool {
	const most = 1 << 46
	return e.width > 0 && e.height > 0 && e.depth > 0 && e.width < most && e.height < most && e.depth < most &&
		(e.height == 1 || e.dstPitch < most && e.srcPitch < most) && (e.depth == 1 || e.dstSlice < most && e.srcSlice < most) &&
		e.height <= most/e.width && e.depth <= most/(e.width*e.height)
}

func (e *extent) bytes() uint64 { return e.width * e.height * e.depth }

// rows calls f for each row until it fails.
func (e *extent) rows(f func(dst, src uint64) error) error {
	for z := range e.depth {
		for y := range e.height {
			if err := f(e.dst+z*e.dstSlice+y*e.dstPitch, e.src+z*e.srcSlice+y*e.srcPitch); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *client) copyOp(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	a := r.Args
	e := extent{a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]}
	mode := a[2]
	o := &op{seq: a[1], holds: true}
	var staged []byte
	if !e.sane() || mode == wire.CopyInline && uint64(len(r.Blob)) != e.bytes() {
		c.finishBad(s, o, r.Tag)
		return
	}
	switch mode {
	case wire.CopyInline:
		staged = append([]byte(nil), r.Blob...)
	case wire.CopySnapshot:
		if e.bytes() > maxBacklog/4 || e.height*e.depth > wire.SnapshotRows {
			c.finishBad(s, o, r.Tag)
			return
		}
		staged = make([]byte, e.bytes())
		rest := staged
		err := e.rows(func(_, src uint64) error {
			row := rest[:e.width]
			rest = rest[e.width:]
			return readProcess(c.pid, src, row)
		})
		if err != nil {
			c.finishBad(s, o, r.Tag)
			return
		}
	}
	o.bytes = int64(len(staged))
	var failed error
	o.run = func(o *op) uint32 {
		c.srv.delay("copy", s)
		to, _ := c.locate(s.d, e.dst, 1, true)
		from, _ := c.locate(s.d, e.src, 1, false)
		rest := staged
		failed = e.rows(func(dst, src uint64) error {
			if staged == nil {
				return c.copyRun(s.d, dst, src, e.width, nil)
			}
			row := rest[:e.width]
			rest = rest[e.width:]
			return c.copyRun(s.d, dst, src, e.width, row)
		})
		c.count.copies.Add(1)
		c.count.bytes.Add(e.bytes())
		o.startV, o.endV = s.d.dev.copied(s.d, o.startV, e.bytes(), to.device, staged == nil && from.device, &c.count)
		if failed != nil && mode != wire.CopySync {
			c.srv.logf("client %d: copy failed: %v", c.pid, failed)
			return errIllegalAddress
		}
		return 0
	}
	s.submit(o, costCall)
	if mode != wire.CopySync {
		c.status(r.Tag, success)
		return
	}
	tag, thread := r.Tag, c.thread
	whenDone(o, func() {
		c.host.saw(thread, o.endV)
		code := s.d.err.Load()
		if code == 0 && failed != nil {
			code = errInvalidValue
		}
		c.status(tag, code)
	})
}

// finishBad queues an op that does nothing, so that sequence numbers go on, and
// answers that its arguments are wrong.
func (c *client) finishBad(s *stream, o *op, tag uint64) {
	s.submit(o, costCall)
	c.status(tag, errInvalidValue)
}

func (c *client) memsetOp(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	a := r.Args
	elem, value := a[4], a[5]
	e := extent{dst: a[2], dstPitch: a[3], height: a[7], depth: 1}
	o := &op{seq: a[1], holds: true}
	if a[6] < 1<<46 {
		e.width = a[6] * elem
	}
	if elem != 1 && elem != 2 && elem != 4 || !e.sane() {
		c.finishBad(s, o, r.Tag)
		return
	}
	o.run = func(o *op) uint32 {
		c.srv.delay("memset", s)
		var pattern [4]byte
		binary.LittleEndian.PutUint32(pattern[:], uint32(value))
		err := e.rows(func(dst, _ uint64) error { return c.fill(s.d, dst, e.width, pattern[:elem]) })
		c.count.memsets.Add(1)
		o.startV, o.endV = s.d.dev.filled(s.d, o.startV, e.bytes(), &c.count)
		if err != nil {
			c.srv.logf("client %d: memset failed: %v", c.pid, err)
			return errIllegalAddress
		}
		return 0
	}
	s.submit(o, costCall)
	c.status(r.Tag, success)
}

// fill writes n bytes of a repeated pattern.
func (c *client) fill(d *deviceContext, dst, n uint64, pattern []byte) error {
	for n > 0 {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		to, err := c.locate(d, dst, min(n, 16<<20), true)
		if err != nil {
			return err
		}
		m := to.n
		buf := to.mem
		if to.remote {
			m = min(m, 1<<20)
			buf = make([]byte, m)
		}
		m -= m % uint64(len(pattern))
		if m == 0 {
			return fmt.Errorf("simgpu: fill of %#x crosses the end of a mapping", dst)
		}
		buf = buf[:m]
		for done := copy(buf, pattern); done < len(buf); {
			done += copy(buf[done:], buf[:done])
		}
		if to.remote {
			if err := writeProcess(c.pid, dst, buf); err != nil {
				return err
			}
		}
		dst, n = dst+m, n-m
	}
	return nil
}

// ---- memory operations ----

type memop struct{ kind, addr, value, flags uint64 }

func (m memop) size() int {
	if m.kind == wire.MemopWrite64 || m.kind == wire.MemopWait64 {
		return 8
	}
	return 4
}

func (c *client) memopOp(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	o := &op{seq: r.Args[1]}
	c.watches.Store(true)
	n := r.Args[2]
	if n > wire.MaxMemops || uint64(len(r.Args)) < 3+4*n {
		c.finishBad(s, o, r.Tag)
		return
	}
	list := make([]memop, n)
	for i := range list {
		a := r.Args[3+4*i:]
		list[i] = memop{a[0], a[1], a[2], a[3]}
		if list[i].kind > wire.MemopBarrier || list[i].addr%uint64(list[i].size()) != 0 {
			c.finishBad(s, o, r.Tag)
			return
		}
	}
	o.run = func(o *op) uint32 {
		o.endV = o.startV + durMemop*int64(n)
		c.count.memops.Add(uint64(n))
		for _, m := range list {
			code := uint32(0)
			switch m.kind {
			case wire.MemopWrite32, wire.MemopWrite64:
				code = c.writeWord(s, m)
			case wire.MemopWait32, wire.MemopWait64:
				code = c.waitWord(s, m, o)
			}
			if code != 0 {
				return code
			}
		}
		return 0
	}
	s.submit(o, costMemop)
	c.status(r.Tag, success)
}

func (c *client) writeWord(s *stream, m memop) uint32 {
	c.srv.delay("memop", s)
	to, err := c.locate(s.d, m.addr, uint64(m.size()), true)
	if err != nil || to.n < uint64(m.size()) {
		return errIllegalAddress
	}
	// The value becomes visible when the device has come so far: whoever sees it may rely on that time.
	s.d.dev.advance(s.endV)
	if to.remote {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], m.value)
		if err := writeProcess(c.pid, m.addr, b[:m.size()]); err != nil {
			return errIllegalAddress
		}
	} else {
		store(to.mem[:m.size()], m.value)
	}
	c.srv.waits.kick()
	return 0
}

func (c *client) waitWord(s *stream, m memop, o *op) uint32 {
	w := &waiter{c: c, d: s.d, memop: m, ready: make(chan struct{})}
	c.srv.waits.add(w)
	select {
	case <-w.ready:
	case <-s.d.stop.Done():
		c.srv.waits.remove(w)
		return 0
	}
	if w.bad {
		return errIllegalAddress
	}
	o.endV = max(o.endV, s.d.dev.now.Load())
	return 0
}

// ---- kernels ----

func (c *client) launchOp(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	a := r.Args
	o := &op{seq: a[1], holds: true}
	c.mu.Lock()
	in := c.instances[a[2]]
	c.mu.Unlock()
	if in == nil || in.d != s.d || a[3] >= uint64(len(in.image.entries)) {
		o.run = func(*op) uint32 { return errInvalidHandle }
		s.submit(o, costLaunch)
		c.status(r.Tag, errInvalidHandle)
		return
	}
	entry := &in.image.entries[a[3]]
	l := interp.Launch{Entry: entry.Name, Params: append([]byte(nil), r.Blob...),
		Seed: c.srv.opt.Seed, MaxInstructions: c.srv.opt.MaxInstructions, DynShared: uint32(a[13]), SMs: chipSMs, FirstSM: s.part.first, Part: s.part.sms,
		Printf: printer{s.d}, GridID: c.srv.nextID.Add(1)}
	for i := range 3 {
		l.Grid[i], l.Block[i], l.Cluster[i] = uint32(a[4+i]), uint32(a[7+i]), uint32(a[10+i])
	}
	l.Clock = func() uint64 { return uint64(s.d.dev.now.Load()) + uint64(time.Since(clockStart)) }
	l.Malloc, l.Free = s.d.heapMalloc, s.d.heapFree
	o.bytes = int64(len(r.Blob))
	o.run = func(o *op) uint32 { return c.runKernel(s, o, in, entry, l) }
	cost := int64(costLaunch)
	if a[14]&wire.LaunchFromGraph != 0 {
		cost = costGraphNode
		l.FirstSM, l.Part = 0, 0 // nodes of functions are the primary context's, wherever the graph is launched
	}
	s.submit(o, cost)
	c.status(r.Tag, success)
}

// clockStart is the origin of the part of %globaltimer that runs while a kernel does.
var clockStart = time.Now()

func (c *client) runKernel(s *stream, o *op, in *instance, entry *interp.EntryInfo, l interp.Launch) uint32 {
	if code := c.srv.kernelRule(c, entry.Name); code != 0 {
		return code
	}
	c.srv.delay("launch", s)
	mem := &launchView{view: view{&c.space, s.d}}
	l.Mem = mem
	st, err := in.in.Launch(s.d.stop, l)
	mem.flush()
	c.count.launches.Add(1)
	c.count.instructions.Add(st.Instructions)
	threads := uint64(l.Block[0]) * uint64(l.Block[1]) * uint64(l.Block[2])
	blocks := uint64(l.Grid[0]) * uint64(l.Grid[1]) * uint64(l.Grid[2])
	o.startV, o.endV = s.d.dev.computed(s.d, o.startV, work{blocks: blocks, threads: threads, instructions: st.Instructions, part: part{l.FirstSM, l.Part},
		resident: residency(entry, threads, uint64(l.DynShared))}, &c.count)
	if err == nil || s.d.stop.Err() != nil {
		return 0
	}
	c.srv.logf("client %d (%s): %v", c.pid, c.name, err)
	var f *interp.Fault
	if !errors.As(err, &f) {
		return errLaunchFailed
	}
	if f.Kind == interp.Assert {
		s.d.cry(f.Msg + "\n")
	}
	return faultCode(f.Kind)
}

// faultCode gives the driver's code for a kernel's fault.
func faultCode(k interp.FaultKind) uint32 {
	switch k {
	case interp.IllegalAddress, interp.SharedOutOfRange, interp.LocalOutOfRange:
		return errIllegalAddress
	case interp.MisalignedAddress:
		return errMisalignedAddress
	case interp.IllegalInstruction:
		return errIllegalInstruction
	case interp.Assert:
		return errAssert
	case interp.Timeout, interp.BarrierDeadlock:
		return errLaunchTimeout
	case interp.StackOverflow:
		return errHardwareStack
	case interp.OutOfMemory:
		return errLaunchResources
	case interp.BadCall:
		return errInvalidPC
	}
	return errLaunchFailed
}

// maxPrinted bounds what kernels print between two synchronisations, as the driver's buffer does.
const maxPrinted = 1 << 20

// printer collects a kernel's output for its process.
type printer struct{ d *deviceContext }

// Write implements io.Writer; output beyond the buffer is lost, as on the device.
func (p printer) Write(b []byte) (int, error) {
	p.d.printMu.Lock()
	defer p.d.printMu.Unlock()
	p.d.printed = append(p.d.printed, b[:min(len(b), maxPrinted-len(p.d.printed))]...)
	store(p.d.c.word(wire.StatusPrintf), 1)
	return len(b), nil
}

func (c *client) fetchPrintf(r *wire.Request) {
	d := c.context(r.Args[0])
	if d == nil {
		c.status(r.Tag, errInvalidContext)
		return
	}
	const stdout, stderr = 1, 2
	d.printMu.Lock()
	from, to := &d.printed, uint64(stdout)
	if len(d.printed) == 0 {
		from, to = &d.cried, stderr
	}
	n := min(len(*from), 48<<10)
	out := append([]byte(nil), (*from)[:n]...)
	*from = (*from)[n:]
	more := uint64(0)
	if len(d.printed)+len(d.cried) > 0 {
		more = 1
	}
	d.printMu.Unlock()
	if more == 0 {
		c.clearPrintf()
	}
	c.reply(r.Tag, success, []uint64{more, to}, out, nil)
}

// clearPrintf takes the mark for waiting output back, unless some context still
// has any. Who prints sets it after printing, so none is forgotten.
func (c *client) clearPrintf() {
	c.mu.Lock()
	defer c.mu.Unlock()
	store(c.word(wire.StatusPrintf), 0)
	for _, d := range c.contexts {
		d.printMu.Lock()
		if len(d.printed)+len(d.cried) > 0 {
			store(c.word(wire.StatusPrintf), 1)
		}
		d.printMu.Unlock()
	}
}

// cry moves an assertion's message, which the interpreter wrote among what the
// kernel printed, to standard error, where the driver writes it.
func (d *deviceContext) cry(msg string) {
	d.printMu.Lock()
	defer d.printMu.Unlock()
	if i := bytes.LastIndex(d.printed, []byte(msg)); i >= 0 {
		d.printed = append(d.printed[:i], d.printed[i+len(msg):]...)
	}
	d.cried = append(d.cried, msg[:min(len(msg), maxPrinted-min(len(d.cried), maxPrinted))]...)
	store(d.c.word(wire.StatusPrintf), 1)
}

// heapMalloc serves a kernel's malloc from device memory of the context.
func (d *deviceContext) heapMalloc(size uint64) uint64 {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	seg := d.c.alloc(d, d.dev, size)
	if seg == nil {
		return 0
	}
	d.c.space.add(seg)
	return seg.base
}

func (d *deviceContext) heapFree(addr uint64) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	d.c.releaseSegment(addr)
}

// ---- host functions ----

// callback is a host function that is due in the client.
type callback struct {
	id, fn, data, kind, handle uint64
	status                     uint32
	done                       chan struct{}
}

func (c *client) hostFunc(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	const isCallback = 1
	cb := &callback{id: c.srv.nextID.Add(1), fn: r.Args[2], data: r.Args[3], kind: r.Args[4], handle: r.Args[5], done: make(chan struct{})}
	s.submit(&op{seq: r.Args[1], always: cb.kind == isCallback, run: func(*op) uint32 {
		cb.status = s.d.err.Load()
		c.mu.Lock()
		c.calling[cb.id] = cb
		c.callbacks = append(c.callbacks, cb)
		c.feed()
		c.mu.Unlock()
		select {
		case <-cb.done:
		case <-c.ctx.Done():
		}
		return 0
	}}, costCall)
	c.status(r.Tag, success)
}

// feed gives due callbacks to the client's waiting threads; c.mu is held.
func (c *client) feed() {
	for len(c.callbacks) > 0 && len(c.hungry) > 0 {
		cb, tag := c.callbacks[0], c.hungry[0]
		c.callbacks, c.hungry = c.callbacks[1:], c.hungry[1:]
		c.reply(tag, success, []uint64{cb.id, cb.fn, cb.data, cb.kind, cb.handle, uint64(cb.status)}, nil, nil)
	}
}

func (c *client) nextCallback(r *wire.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hungry) < 64 {
		c.hungry = append(c.hungry, r.Tag)
	}
	c.feed()
}

func (c *client) callbackDone(r *wire.Request) {
	c.mu.Lock()
	cb := c.calling[r.Args[0]]
	delete(c.calling, r.Args[0])
	c.mu.Unlock()
	if cb != nil {
		close(cb.done)
	}
	c.status(r.Tag, success)
}
