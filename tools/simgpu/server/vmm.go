package server

// This file serves cuMemCreate, cuMemMap and their like: memory as objects that are shared by descriptors and mapped where the client says.

import (
	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

func (c *client) vmmCreate(r *wire.Request) {
	dev, size := r.Args[0], r.Args[1]
	if dev >= uint64(len(c.srv.devices)) || size == 0 || size%granularity != 0 {
		c.status(r.Tag, errInvalidValue)
		return
	}
	o := c.srv.newObject(c.srv.devices[dev], size, r.Args[2] != 0)
	if o == nil {
		c.status(r.Tag, errOutOfMemory)
		return
	}
	c.reply(r.Tag, success, []uint64{c.adopt(o)}, nil, nil)
}

// adopt gives the client a handle for an object whose reference it takes over.
func (c *client) adopt(o *object) uint64 {
	h := c.srv.nextID.Add(1)
	c.mu.Lock()
	c.handles[h] = o
	c.mu.Unlock()
	return h
}

func (c *client) vmmRelease(r *wire.Request) {
	c.mu.Lock()
	o := c.handles[r.Args[0]]
	delete(c.handles, r.Args[0])
	c.mu.Unlock()
	if o == nil {
		c.status(r.Tag, errInvalidValue)
		return
	}
	o.release()
	c.status(r.Tag, success)
}

func (c *client) vmmMap(r *wire.Request) {
	addr, size, off := r.Args[0], r.Args[1], r.Args[2]
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.handles[r.Args[3]]
	if o == nil || addr == 0 || addr%granularity != 0 || size == 0 || size%granularity != 0 || off%granularity != 0 || off > o.size || size > o.size-off {
		c.status(r.Tag, errInvalidValue)
		return
	}
	o.retain()
	seg := &segment{base: addr, size: size, mem: o.mem[off : off+size : off+size], dev: o.dev, vmm: true, obj: o, srv: c.srv}
	if !c.space.add(seg) {
		o.release()
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.status(r.Tag, success)
}

func (c *client) vmmUnmap(r *wire.Request) {
	addr, end := r.Args[0], r.Args[0]+r.Args[1]
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := c.space.removeIf(func(s *segment) bool { return s.vmm && s.base >= addr && s.base+s.size <= end })
	for _, seg := range gone {
		seg.drop()
	}
	if len(gone) == 0 {
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.status(r.Tag, success)
}

// vmmAccess replaces the segments by ones with other rights, so that lookups
// under way keep a consistent one.
func (c *client) vmmAccess(r *wire.Request) {
	addr, end, dev, flags := r.Args[0], r.Args[0]+r.Args[1], r.Args[2], r.Args[3]
	if dev >= uint64(len(c.srv.devices)) || (flags != 0 && flags != 1 && flags != 3) {
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.space.mu.Lock()
	defer c.space.mu.Unlock()
	n := append([]*segment(nil), c.space.segments()...)
	found := false
	for i, seg := range n {
		if seg.vmm && seg.base >= addr && seg.base+seg.size <= end {
			copied := *seg
			copied.access = copied.access&^(3<<(2*dev)) | uint32(flags)<<(2*dev)
			n[i] = &copied
			found = true
		}
	}
	if !found {
		c.status(r.Tag, errInvalidValue)
		return
	}
	c.space.list.Store(&n)
	c.status(r.Tag, success)
}
