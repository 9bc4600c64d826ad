package server

import "bytes"

// launchView is the address space of one launch: the client's, and also
// registered host memory behind which no file was found, which is read and
// written by system calls. A launch runs on one goroutine, and uses what Slice
// gave before it asks again; so what the kernel stored is written at the next
// access to any memory that is looked up, and at the end.
type launchView struct {
	view
	pending []remoteWrite
	failed  bool
}

// remoteWrite is a slice of the client's memory that the kernel may have changed.
type remoteWrite struct {
	addr        uint64
	before, mem []byte
}

// flush writes what changed to the client. A failure shows as a fault at the next access.
func (v *launchView) flush() {
	for _, w := range v.pending {
		if !bytes.Equal(w.before, w.mem) && writeProcess(v.d.c.pid, w.addr, w.mem) != nil {
			v.failed = true
		}
	}
	v.pending = v.pending[:0]
}

// Segment implements interp.SegmentSpace.
func (v *launchView) Segment(addr uint64) (base uint64, mem []byte, writable bool) {
	v.flush()
	return v.view.Segment(addr)
}

// Slice implements interp.AddressSpace.
func (v *launchView) Slice(addr uint64, n int, write bool) []byte {
	v.flush()
	s := v.space.find(addr)
	if s == nil || s.dev != nil || s.mem != nil || v.failed {
		return v.view.Slice(addr, n, write)
	}
	if n <= 0 || (write && s.readonly) || uint64(n) > s.base+s.size-addr {
		return nil
	}
	mem := make([]byte, n)
	if readProcess(v.d.c.pid, addr, mem) != nil {
		return nil
	}
	if write {
		v.pending = append(v.pending, remoteWrite{addr, bytes.Clone(mem), mem})
	}
	return mem
}
