package server

import (
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// granularity of cuMemCreate, and what small allocations are cut from.
const granularity = 2 << 20

// unit of cuMemAlloc: addresses and sizes are multiples of it.
const unit = 512

// device is one simulated GPU.
type device struct {
	ordinal int
	total   uint64
	now     atomic.Int64 // virtual time up to which something has finished, ns
	mu      sync.Mutex
	used    uint64
	limit   uint64 // injected; 0: none
	chip    chip
}

// take accounts for n bytes; false if there are not as many.
func (d *device) take(n uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	total := d.total
	if d.limit != 0 {
		total = min(total, d.limit)
	}
	if n > total || d.used > total-n {
		return false
	}
	d.used += n
	return true
}

func (d *device) give(n uint64) {
	d.mu.Lock()
	d.used -= n
	d.mu.Unlock()
}

// free gives the free and the total bytes.
func (d *device) free() (free, total uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	total = d.total
	if d.limit != 0 {
		total = min(total, d.limit)
	}
	return total - min(d.used, total), total
}

func (d *device) advance(v int64) { raise(&d.now, v) }

// object is a piece of physical device memory. It lives while somebody holds
// it: a handle, a mapping, an exported descriptor, an allocation.
type object struct {
	srv        *Server
	dev        *device
	size       uint64
	mem        []byte
	exportable bool
	refs       atomic.Int64
}

// newObject makes zeroed device memory, with one reference; nil if the device is full.
func (s *Server) newObject(dev *device, size uint64, exportable bool) *object {
	if !dev.take(size) {
		// What nobody holds any more is not in the way of anybody.
		if s.exports.settle(); !dev.take(size) {
			return nil
		}
	}
	mem, err := mapAnonymous(size)
	if err != nil {
		dev.give(size)
		s.logf("mapping %d bytes: %v", size, err)
		return nil
	}
	o := &object{srv: s, dev: dev, size: size, mem: mem, exportable: exportable}
	o.refs.Store(1)
	return o
}

func (o *object) retain() { o.refs.Add(1) }

// tryRetain takes a reference unless the object is already gone.
func (o *object) tryRetain() bool {
	for {
		n := o.refs.Load()
		if n <= 0 {
			return false
		}
		if o.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (o *object) release() {
	if o.refs.Add(-1) == 0 {
		o.dev.give(o.size)
		o.srv.retire(o.mem)
		o.mem = nil
	}
}

// segment is a range of a client's addresses and what is there.
type segment struct {
	base     uint64
	mem      []byte // nil: host memory that only the kernel's copy calls reach
	size     uint64
	dev      *device        // nil: host memory
	owner    *deviceContext // it goes with this context; nil: it does not
	vmm      bool
	access   uint32 // VMM: 2 bits for each device, 1 read, 3 read and write
	readonly bool   // host
	obj      *object
	chunk    *chunk
	whole    []byte // host: what to unmap
	srv      *Server
}

// drop lets go of the memory behind a segment that is in no space any more.
func (s *segment) drop() {
	switch {
	case s.chunk != nil:
		s.chunk.free(s.base, s.size)
	case s.obj != nil:
		s.obj.release()
	case s.whole != nil:
		s.srv.retire(s.whole)
	}
}

// rights gives how kernels of context d may use the segment: 0, 1 read, 3 all.
func (s *segment) rights(d *deviceContext) uint32 {
	switch {
	case s.dev == nil && s.mem == nil:
		return 0
	case s.dev == nil && s.readonly:
		return 1
	case s.dev == nil:
		return 3
	case s.vmm:
		return s.access >> (2 * d.dev.ordinal) & 3
	case s.dev == d.dev || d.peers.Load()>>s.dev.ordinal&1 != 0:
		return 3
	}
	return 0
}

// space is a client's address space. Lookups take no lock; changes copy.
type space struct {
	mu   sync.Mutex
	list atomic.Pointer[[]*segment] // sorted by base, disjoint
}

func (s *space) segments() []*segment {
	if p := s.list.Load(); p != nil {
		return *p
	}
	return nil
}

// find gives the segment that holds addr, or nil.
func (s *space) find(addr uint64) *segment {
	l := s.segments()
	i := sort.Search(len(l), func(i int) bool { return l[i].base+l[i].size > addr })
	if i < len(l) && l[i].base <= addr {
		return l[i]
	}
	return nil
}

// add puts a segment in; false if it would overlap another or wrap.
func (s *space) add(seg *segment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := seg.base + seg.size
	if seg.size == 0 || end < seg.base {
		return false
	}
	l := s.segments()
	i := sort.Search(len(l), func(i int) bool { return l[i].base+l[i].size > seg.base })
	if i < len(l) && l[i].base < end {
		return false
	}
	n := make([]*segment, 0, len(l)+1)
	n = append(append(append(n, l[:i]...), seg), l[i:]...)
	s.list.Store(&n)
	return true
}

// removeIf takes out the segments that match and returns them.
func (s *space) removeIf(match func(*segment) bool) []*segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*segment
	n := make([]*segment, 0, len(s.segments()))
	for _, seg := range s.segments() {
		if match(seg) {
			out = append(out, seg)
		} else {
			n = append(n, seg)
		}
	}
	if len(out) > 0 {
		s.list.Store(&n)
	}
	return out
}

// removeAt takes out the segment that starts at base.
func (s *space) removeAt(base uint64) *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.segments()
	i := sort.Search(len(l), func(i int) bool { return l[i].base >= base })
	if i == len(l) || l[i].base != base {
		return nil
	}
	seg := l[i]
	n := make([]*segment, 0, len(l)-1)
	n = append(append(n, l[:i]...), l[i+1:]...)
	s.list.Store(&n)
	return seg
}

func (s *space) clear() []*segment { return s.removeIf(func(*segment) bool { return true }) }

// view is the space as kernels of one context see it; it is an interp.SegmentSpace.
type view struct {
	space *space
	d     *deviceContext
}

// Slice implements interp.AddressSpace.
func (v view) Slice(addr uint64, n int, write bool) []byte {
	base, mem, writable := v.Segment(addr)
	off := addr - base
	if mem == nil || (write && !writable) || n < 0 || off > uint64(len(mem)) || uint64(n) > uint64(len(mem))-off {
		return nil
	}
	return mem[off : off+uint64(n)]
}

// Segment implements interp.SegmentSpace.
func (v view) Segment(addr uint64) (base uint64, mem []byte, writable bool) {
	s := v.space.find(addr)
	if s == nil {
		return 0, nil, false
	}
	r := s.rights(v.d)
	if r == 0 {
		return 0, nil, false
	}
	return s.base, s.mem, r == 3
}

// arena hands out addresses for cuMemAlloc from the range that the client reserved.
type arena struct {
	free_  []gap // sorted
	chunks []*chunk
}

type gap struct{ base, size uint64 }

// chunk is a granule from which small allocations of one context are cut.
type chunk struct {
	a     *arena
	obj   *object
	base  uint64
	owner *deviceContext
	gaps  []gap
	used  int
}

func (a *arena) init(base, size uint64) bool {
	start := (base + granularity - 1) &^ (granularity - 1)
	if base == 0 || size < 4*granularity || base+size < base || start+granularity > base+size {
		return false
	}
	a.free_ = []gap{{start, (base + size - start) &^ (granularity - 1)}}
	return true
}

// takeGap cuts n bytes from the first gap that has them.
func takeGap(gaps []gap, n uint64) ([]gap, uint64, bool) {
	for i := range gaps {
		if gaps[i].size < n {
			continue
		}
		base := gaps[i].base
		gaps[i].base += n
		gaps[i].size -= n
		if gaps[i].size == 0 {
			gaps = append(gaps[:i], gaps[i+1:]...)
		}
		return gaps, base, true
	}
	return gaps, 0, false
}

// giveGap returns a range, joining neighbours.
func giveGap(gaps []gap, base, n uint64) []gap {
	i := sort.Search(len(gaps), func(i int) bool { return gaps[i].base > base })
	if i > 0 && gaps[i-1].base+gaps[i-1].size == base {
		i--
		gaps[i].size += n
	} else {
		gaps = append(gaps, gap{})
		copy(gaps[i+1:], gaps[i:])
		gaps[i] = gap{base, n}
	}
	if i+1 < len(gaps) && gaps[i].base+gaps[i].size == gaps[i+1].base {
		gaps[i].size += gaps[i+1].size
		gaps = append(gaps[:i+1], gaps[i+2:]...)
	}
	return gaps
}

// alloc makes a segment of size bytes for a context; nil if memory is out. The
// client's mu is held.
func (c *client) alloc(d *deviceContext, dev *device, size uint64) *segment {
	if size == 0 || size > 1<<40 {
		return nil
	}
	if size < granularity/2 {
		return c.allocSmall(d, dev, (size+unit-1)&^(unit-1))
	}
	whole := (size + granularity - 1) &^ (granularity - 1)
	gaps, base, ok := takeGap(c.arena.free_, whole)
	if !ok {
		return nil
	}
	c.arena.free_ = gaps
	obj := c.srv.newObject(dev, whole, false)
	if obj == nil {
		c.arena.free_ = giveGap(c.arena.free_, base, whole)
		return nil
	}
	n := (size + unit - 1) &^ (unit - 1)
	return &segment{base: base, size: n, mem: obj.mem[:n:n], dev: dev, owner: d, obj: obj, srv: c.srv}
}

func (c *client) allocSmall(d *deviceContext, dev *device, n uint64) *segment {
	for _, k := range c.arena.chunks {
		if k.owner != d || k.obj.dev != dev {
			continue
		}
		if gaps, base, ok := takeGap(k.gaps, n); ok {
			k.gaps = gaps
			return k.cut(base, n)
		}
	}
	gaps, base, ok := takeGap(c.arena.free_, granularity)
	if !ok {
		return nil
	}
	c.arena.free_ = gaps
	obj := c.srv.newObject(dev, granularity, false)
	if obj == nil {
		c.arena.free_ = giveGap(c.arena.free_, base, granularity)
		return nil
	}
	k := &chunk{a: &c.arena, obj: obj, base: base, owner: d, gaps: []gap{{base + n, granularity - n}}}
	c.arena.chunks = append(c.arena.chunks, k)
	return k.cut(base, n)
}

func (k *chunk) cut(base, n uint64) *segment {
	k.used++
	off := base - k.base
	mem := k.obj.mem[off : off+n : off+n]
	clear(mem)
	return &segment{base: base, size: n, mem: mem, dev: k.obj.dev, owner: k.owner, chunk: k, srv: k.obj.srv}
}

// free gives a cut back; the last one gives the chunk back.
func (k *chunk) free(base, n uint64) {
	k.gaps = giveGap(k.gaps, base, n)
	k.used--
	if k.used > 0 {
		return
	}
	for i, other := range k.a.chunks {
		if other == k {
			k.a.chunks = append(k.a.chunks[:i], k.a.chunks[i+1:]...)
			break
		}
	}
	k.a.free_ = giveGap(k.a.free_, k.base, granularity)
	k.obj.release()
}

// free returns the addresses of a large allocation; small ones go by chunk.free.
func (a *arena) free(seg *segment) {
	if seg.chunk == nil && seg.obj != nil && !seg.vmm {
		a.free_ = giveGap(a.free_, seg.base, (seg.size+granularity-1)&^(granularity-1))
	}
}

// release takes a segment of cuMemAlloc or cuIpcOpenMemHandle out. c.mu is held.
func (c *client) releaseSegment(base uint64) bool {
	seg := c.space.find(base)
	if seg == nil || seg.base != base || seg.vmm || seg.dev == nil {
		return false
	}
	c.space.removeAt(base)
	c.arena.free(seg)
	seg.drop()
	return true
}

// ---- requests ----

func (c *client) memAlloc(r *wire.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.contexts[r.Args[0]]
	if d == nil || r.Args[1] >= uint64(len(c.srv.devices)) || r.Args[2] == 0 {
		c.status(r.Tag, errInvalidValue)
		return
	}
	seg := c.alloc(d, c.srv.devices[r.Args[1]], r.Args[2])
	if seg == nil {
		c.status(r.Tag, errOutOfMemory)
		return
	}
	c.space.add(seg)
	c.reply(r.Tag, success, []uint64{seg.base}, nil, nil)
}

// memFree waits for the client's work, as the driver does, then frees.
func (c *client) memFree(r *wire.Request) {
	base, tag := r.Args[0], r.Tag
	seg := c.space.find(base)
	if seg == nil || seg.base != base {
		c.status(tag, errInvalidValue)
		return
	}
	owner := seg.owner
	whenAll(c.lastOps(owner), func() {
		c.mu.Lock()
		ok := c.releaseSegment(base)
		c.mu.Unlock()
		switch {
		case owner != nil && owner.err.Load() != 0:
			c.status(tag, owner.err.Load())
		case !ok:
			c.status(tag, errInvalidValue)
		default:
			c.status(tag, success)
		}
	})
}

func (c *client) asyncFree(r *wire.Request) {
	s := c.stream(r)
	if s == nil {
		return
	}
	base := r.Args[2]
	s.submit(&op{seq: r.Args[1], after: func(*op) {
		c.mu.Lock()
		c.releaseSegment(base)
		c.mu.Unlock()
	}}, costCall)
	c.status(r.Tag, success)
}

func (c *client) memInfo(r *wire.Request) {
	if r.Args[0] >= uint64(len(c.srv.devices)) {
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.srv.exports.settle()
	free, total := c.srv.devices[r.Args[0]].free()
	c.reply(r.Tag, success, []uint64{free, total}, nil, nil)
}

func (c *client) peer(r *wire.Request) {
	d := c.context(r.Args[0])
	if d == nil || r.Args[1] >= uint64(len(c.srv.devices)) {
		c.status(r.Tag, errInvalidValue)
		return
	}
	if r.Args[2] != 0 {
		d.peers.Or(1 << r.Args[1])
	} else {
		d.peers.And(^uint32(1 << r.Args[1]))
	}
	c.status(r.Tag, success)
}

// ---- host memory ----

func (c *client) hostRegister(r *wire.Request, fd int) {
	addr, size, flags, off := r.Args[0], r.Args[1], r.Args[2], r.Args[3]
	c.watches.Store(true)
	const readOnly = 8
	seg := &segment{base: addr, size: size, readonly: flags&readOnly != 0, srv: c.srv}
	if addr == 0 || size == 0 || addr+size < addr || size > 1<<46 {
		c.status(r.Tag, errInvalidValue)
		return
	}
	if fd >= 0 {
		mem, whole, err := mapShared(fd, off, size, true)
		if err != nil && seg.readonly {
			mem, whole, err = mapShared(fd, off, size, false)
		}
		if err != nil {
			c.srv.logf("client %d: registering %d bytes at %#x: %v", c.pid, size, addr, err)
			c.status(r.Tag, errInvalidValue)
			return
		}
		seg.mem, seg.whole = mem, whole
	}
	if !c.space.add(seg) {
		if seg.whole != nil {
			unix.Munmap(seg.whole)
		}
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.status(r.Tag, success)
}

func (c *client) hostUnregister(r *wire.Request) {
	base, tag := r.Args[0], r.Tag
	whenAll(c.lastOps(nil), func() {
		c.mu.Lock()
		seg := c.space.find(base)
		ok := seg != nil && seg.base == base && seg.dev == nil
		if ok {
			c.space.removeAt(base)
			seg.drop()
		}
		c.mu.Unlock()
		if ok {
			c.status(tag, success)
		} else {
			c.status(tag, errInvalidValue)
		}
	})
}

// ---- memory of other processes (cuIpc*) ----

// ipcMemory is an allocation that another process may open.
type ipcMemory struct {
	holder *client
	obj    *object
	mem    []byte
	size   uint64
	base   uint64
}

func (c *client) ipcMemGet(r *wire.Request) {
	c.mu.Lock()
	seg := c.space.find(r.Args[0])
	c.mu.Unlock()
	if seg == nil || seg.vmm || seg.dev == nil {
		c.status(r.Tag, errInvalidValue)
		return
	}
	m := &ipcMemory{holder: c, obj: seg.obj, mem: seg.mem, size: seg.size, base: seg.base}
	if seg.chunk != nil {
		m.obj = seg.chunk.obj
	}
	c.srv.mu.Lock()
	token := uint64(0)
	for t, old := range c.srv.ipcMem {
		if old.holder == c && old.base == m.base && old.obj == m.obj {
			token = t
		}
	}
	if token == 0 {
		token = c.srv.nextID.Add(1)
		c.srv.ipcMem[token] = m
	}
	c.srv.mu.Unlock()
	c.reply(r.Tag, success, []uint64{token}, nil, nil)
}

func (c *client) ipcMemOpen(r *wire.Request) {
	c.srv.mu.Lock()
	m := c.srv.ipcMem[r.Args[1]]
	alive := m != nil && m.holder != c && m.obj.tryRetain()
	own := m != nil && m.holder == c
	c.srv.mu.Unlock()
	if own { // not in the process that exported it
		c.status(r.Tag, errInvalidContext)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.contexts[r.Args[0]]
	if !alive || d == nil {
		if alive {
			m.obj.release()
		}
		c.status(r.Tag, errInvalidHandle)
		return
	}
	whole := (m.size + granularity - 1) &^ (granularity - 1)
	gaps, base, ok := takeGap(c.arena.free_, whole)
	if !ok {
		m.obj.release()
		c.status(r.Tag, errOutOfMemory)
		return
	}
	c.arena.free_ = gaps
	c.space.add(&segment{base: base, size: m.size, mem: m.mem, dev: m.obj.dev, owner: d, obj: m.obj, srv: c.srv})
	c.reply(r.Tag, success, []uint64{base, m.size}, nil, nil)
}
