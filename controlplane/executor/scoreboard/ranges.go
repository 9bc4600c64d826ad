package scoreboard

import (
	"fmt"
	"slices"
)

// Ranges are the addresses that a session may name in copies and memsets: its segments, host segments and device globals.
// Adding and removing allocates (cold path); Contains does not.
type Ranges struct {
	sorted []span
}

type span struct{ from, to uint64 }

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
