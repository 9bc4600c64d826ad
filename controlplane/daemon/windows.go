package daemon

import (
	"errors"
	"math/bits"
	"sync"
)

// Address space given out to clients. Device windows lie from 32 TiB up, where
// the H100's driver honoured every hint (measurements.md section 1); host
// windows lie from 16 TiB up, below every mapping that Linux places by itself
// and above Go's heap.
const (
	deviceBase    = 32 << 40
	deviceLimit   = 86 << 40 // program text starts above
	hostBase      = 16 << 40
	hostLimit     = 32 << 40
	hostWindow    = 64 << 30
	minWindow     = 256 << 30
	segmentAlign  = 2 << 20 // granularity of cuMemCreate
	hostPageAlign = 4096
)

var errNoAddresses = errors.New("no address space is left for another client: wait until one leaves")

// addressSpace hands out disjoint, naturally aligned ranges. A range is reused
// only after it was given back, which the daemon does when the executor has
// unmapped everything of the session.
type addressSpace struct {
	mu    sync.Mutex
	base  uint64
	limit uint64
	used  []span // sorted by base
}

type span struct{ base, bytes uint64 }

func (s span) end() uint64 { return s.base + s.bytes }

// contains reports whether [address, address+n) lies inside s, without overflow.
func (s span) contains(address, n uint64) bool {
	return address >= s.base && n <= s.bytes && address-s.base <= s.bytes-n
}

func (a *addressSpace) take(bytes uint64) (span, error) {
	if bytes == 0 || bytes&(bytes-1) != 0 {
		return span{}, errors.New("window size is not a power of two")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := (a.base + bytes - 1) &^ (bytes - 1)
	i := 0
	for ; i < len(a.used); i++ {
		if at+bytes <= a.used[i].base {
			break
		}
		if end := (a.used[i].end() + bytes - 1) &^ (bytes - 1); end > at {
			at = end
		}
	}
	if at+bytes > a.limit || at+bytes < at {
		return span{}, errNoAddresses
	}
	s := span{at, bytes}
	a.used = append(a.used, span{})
	copy(a.used[i+1:], a.used[i:])
	a.used[i] = s
	return s, nil
}

func (a *addressSpace) give(s span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, u := range a.used {
		if u == s {
			a.used = append(a.used[:i], a.used[i+1:]...)
			return
		}
	}
}

// windowBytes sizes a client's device window: a power of two that holds half as
// much again as the GPU's memory, so that fragmentation does not run it out.
func windowBytes(deviceBytes uint64) uint64 {
	const most = 8 << 40
	want := deviceBytes + deviceBytes/2
	if want <= minWindow {
		return minWindow
	}
	if want >= most {
		return most
	}
	return 1 << bits.Len64(want-1)
}
