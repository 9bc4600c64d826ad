package sched

import (
	"math/bits"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// Stats is what a class got since the executor started.
type Stats struct {
	Requests, Attained uint64
	Ops, Coalesced     uint64
	GPU                uint64 // ns of the whole chip, estimated
	// Latency is of requests, Queue of ops from ready to issued, Stagger the part of it in which they were held for company, of
	// those that were.
	Latency, Queue, Stagger Histogram
	// Waits counts ops by why they were not issued, or not taken, at once.
	Waits [WaitReasons]uint64
}

// WaitReason says why an op waited.
type WaitReason uint8

// Reasons, in the order of WaitNames.
const (
	WaitOrder     WaitReason = iota // for an op or a native write that it depends on
	WaitAdmission                   // its client had max_queue_size ops waiting
	WaitPriority                    // a class of larger priority went first
	WaitShare                       // a class below its min_share went first
	WaitSlack                       // an op of its class or one of equal priority had less slack
	WaitWindow                      // enough was in flight
	WaitGather                      // it was held for company
	WaitRoom                        // the issue threads had enough to do
	WaitSlices                      // it was issued in slices of its blocks
	WaitCompany                     // it slows what runs, or what is more urgent
	WaitReasons
)

// WaitNames are the reasons' names in statistics and documentation, WaitMeanings what they mean.
var (
	WaitNames    = [WaitReasons]string{"order", "admission", "priority", "share", "slack", "window", "gather", "room", "slices", "company"}
	WaitMeanings = [WaitReasons]string{
		"It was its stream's first, and an event that it waits for, or a copy of its own process, was not there yet.",
		"Its client had `max_queue_size` ops waiting; counted once each time the client was stopped.",
		"Ops of a class of larger priority went first.",
		"Ops of a class below its `min_share` went first.",
		"Ops of its class, or of one of equal priority, had less slack, or were of a much shorter request while its own had slack.",
		"As much was in flight as leaves the chip free soon for a more urgent op (`max_wait`).",
		"It was held because ops to join it with were expected (`max_queue_delay`).",
		"The issue threads had enough to do.",
		"It takes longer than a more urgent class may wait, so it was issued in slices of its blocks, between which more urgent ops go.",
		"Measured, it slows what runs: a request of a more urgent class that it would have delayed, or kernels beside which it takes longer than behind them.",
	}
)

// Why is the reason that kept an op, which is issued now, from being issued when it was ready.
func (s *Scheduler) Why(op *scoreboard.Op) WaitReason {
	if op.Cuts {
		return WaitSlices
	}
	return s.clients[op.Session.Slot].class.why(op)
}

// why is the reason that kept an op from being issued when it was ready; the first that applies of the more telling ones.
func (k *Class) why(op *scoreboard.Op) WaitReason {
	if op.Avoided || ((op.Hurts || op.Harm > 0) && k.waited[WaitCompany] > op.ReadyAt) {
		return WaitCompany
	}
	for _, r := range [...]WaitReason{WaitPriority, WaitShare, WaitSlack, WaitWindow} {
		if k.waited[r] > op.ReadyAt {
			return r
		}
	}
	if op.Held > 0 {
		return WaitGather
	}
	return WaitRoom
}

// Count counts a reason that the caller knows of: order, admission.
func (c *Client) Count(why WaitReason) { c.class.Stats.Waits[why]++ }

// Bounds are the upper bounds of Histogram.Counts, ns; one more bucket is above them.
var Bounds = [...]int64{
	1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000,
	50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000,
}

// Histogram counts durations. The zero value is empty.
type Histogram struct {
	Counts [len(Bounds) + 1]uint64
	Sum    int64 // ns
}

// firstBucket is, by the length of a duration in bits, the least bucket it can be in.
var firstBucket = func() (t [65]uint8) {
	for n := range t {
		least := int64(0)
		if n > 0 {
			least = int64(1<<(n-1)) &^ (-1 << 62)
		}
		b := 0
		for b < len(Bounds) && Bounds[b] < least {
			b++
		}
		t[n] = uint8(b)
	}
	t[64], t[63] = uint8(len(Bounds)), uint8(len(Bounds))
	return t
}()

// Add counts one duration; a negative one, of a clock that jumped, is 0.
func (h *Histogram) Add(ns int64) {
	if ns <= Bounds[0] { // nearly always: what is ready is issued in the same pass
		h.Counts[0]++
		h.Sum += max(ns, 0)
		return
	}
	h.Sum += ns
	b := int(firstBucket[bits.Len64(uint64(ns))])
	for b < len(Bounds) && ns > Bounds[b] {
		b++
	}
	h.Counts[b]++
}
