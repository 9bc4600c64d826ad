package interp

import (
	"fmt"
	"sort"
	"sync"
)

// Memory is a simple AddressSpace for tests and tools: allocations at
// addresses of its own choosing, with unmapped gaps between them. Its zero
// value is ready; it is safe for concurrent use.
type Memory struct {
	mu   sync.RWMutex
	next uint64
	segs []memSeg // by address
}

type memSeg struct {
	base     uint64
	mem      []byte
	readOnly bool
}

const memoryStart, memoryGap = 0x7000_0000_0000, 1 << 16

// Alloc maps n zero bytes at a multiple of 256 and gives their address.
func (m *Memory) Alloc(n int) uint64 { return m.Place(make([]byte, n), false) }

// Place maps b itself (not a copy) and gives its address.
func (m *Memory) Place(b []byte, readOnly bool) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == 0 {
		m.next = memoryStart
	}
	a := m.next
	m.segs = append(m.segs, memSeg{a, b, readOnly})
	m.next += uint64(len(b)+memoryGap) &^ 255
	return a
}

// Segment implements SegmentSpace.
func (m *Memory) Segment(addr uint64) (uint64, []byte, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	i := sort.Search(len(m.segs), func(i int) bool { return m.segs[i].base > addr }) - 1
	if i < 0 || addr-m.segs[i].base >= uint64(len(m.segs[i].mem)) {
		return 0, nil, false
	}
	return m.segs[i].base, m.segs[i].mem, !m.segs[i].readOnly
}

// Slice implements AddressSpace.
func (m *Memory) Slice(addr uint64, n int, write bool) []byte {
	base, mem, writable := m.Segment(addr)
	if mem == nil || n < 0 || uint64(n) > uint64(len(mem))-(addr-base) || write && !writable {
		return nil
	}
	return mem[addr-base:][:n]
}

// Load copies a program's variables into m and binds the program to them.
func (m *Memory) Load(p *Program) (*Instance, error) {
	bufs := map[string][]byte{}
	const most = 1 << 30
	var total int64
	byName := map[string]*Global{}
	for i := range p.globals {
		g := &p.globals[i]
		byName[g.Name] = g
		if total += g.Size; total > most {
			return nil, fmt.Errorf("interp: variables of the module exceed %d bytes", int64(most))
		}
		if g.Align > 256 {
			return nil, fmt.Errorf("interp: variable %s: alignment %d is above 256", g.Name, g.Align)
		}
	}
	in, err := p.Instantiate(func(name string) uint64 {
		g := byName[name]
		b := make([]byte, g.Size)
		bufs[name] = b
		return m.Place(b, g.Const)
	})
	if err != nil {
		return nil, err
	}
	for _, g := range p.globals {
		copy(bufs[g.Name], in.InitBytes(g))
	}
	return in, nil
}
