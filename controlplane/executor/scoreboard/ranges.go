package scoreboard

import (
	"fmt"
	"slices"
)

// Ranges are the addresses that a session may name in copies and memsets: its segments, host segments and device globals.
// Adding and removing allocates (cold path); Contains does not.
type Ranges struct {
	sorted []span
	parts  map[uint64]bool // first addresses of ranges of Part
	hosts  map[uint64]bool // first addresses of ranges of Host
}

type span struct{ from, to uint64 }

// Part marks a range of Add: it may be one allocation together with others, and the same memory as others.
func (r *Ranges) Part(address uint64) {
	if r.parts == nil {
		r.parts = map[uint64]bool{}
	}
	r.parts[address] = true
}

// Host marks a range of Add: it is host memory, at which the client's threads may look at any time.
func (r *Ranges) Host(address uint64) {
	if r.hosts == nil {
		r.hosts = map[uint64]bool{}
	}
	r.hosts[address] = true
}

// hostHas reports whether some of s is host memory.
func (r *Ranges) hostHas(s span) bool {
	for i, _ := r.find(s.from); i < len(r.sorted) && r.sorted[i].from < s.to; i++ {
		if r.hosts[r.sorted[i].from] {
			return true
		}
	}
	return false
}

// around gives the range that holds address.
func (r *Ranges) around(address uint64) (span, bool) {
	i, ok := r.find(address)
	if !ok {
		return span{}, false
	}
	return r.sorted[i], true
}

// widen adds to spans that touch a range of Part all ranges of Part.
func (r *Ranges) widen(spans []span) []span {
	touched := false
	for _, s := range spans {
		for i, _ := r.find(s.from); i < len(r.sorted) && r.sorted[i].from < s.to; i++ {
			touched = touched || r.parts[r.sorted[i].from]
		}
	}
	if !touched {
		return spans
	}
	for _, s := range r.sorted {
		if r.parts[s.from] {
			spans = append(spans, s)
		}
	}
	return spans
}

// Add registers [address, address+bytes). Overlap with an earlier range, emptiness and overflow are errors.
func (r *Ranges) Add(address, bytes uint64) error {
	to := address + bytes
	if bytes == 0 || to < address {
		return fmt.Errorf("scoreboard: range %#x+%d is empty or overflows", address, bytes)
	}
	i, found := r.find(address)
	if found || (i < len(r.sorted) && r.sorted[i].from < to) {
		return fmt.Errorf("scoreboard: range %#x+%d overlaps one that is known", address, bytes)
	}
	r.sorted = slices.Insert(r.sorted, i, span{address, to})
	return nil
}

// Remove takes back a range of Add; false when there is none with this address.
func (r *Ranges) Remove(address uint64) bool {
	i, found := r.find(address)
	if !found || r.sorted[i].from != address {
		return false
	}
	r.sorted = slices.Delete(r.sorted, i, i+1)
	delete(r.parts, address)
	delete(r.hosts, address)
	return true
}

// find returns the index of the range that holds address, or of the first one behind it.
func (r *Ranges) find(address uint64) (int, bool) {
	lo, hi := 0, len(r.sorted)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if r.sorted[m].to <= address {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, lo < len(r.sorted) && r.sorted[lo].from <= address
}

// Contains reports whether every byte of [address, address+bytes) is in some range; adjacent ranges may share it.
func (r *Ranges) Contains(address, bytes uint64) bool {
	to := address + bytes
	if to < address {
		return false
	}
	if bytes == 0 {
		return true
	}
	i, found := r.find(address)
	if !found {
		return false
	}
	for at := r.sorted[i].to; at < to; {
		if i++; i == len(r.sorted) || r.sorted[i].from != at {
			return false
		}
		at = r.sorted[i].to
	}
	return true
}

// Len is the number of ranges.
func (r *Ranges) Len() int { return len(r.sorted) }
