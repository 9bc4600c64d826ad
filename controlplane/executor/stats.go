package executor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/shm"
)

// counters are the poller's.
type counters struct {
	Passes, Ops, Launches, NotReady, Wakeups, Sleeps, Naps, BadRecords, BusyNanoseconds uint64
}

// Stats is what an executor answers to STATS, as JSON. Counters count from its start.
type Stats struct {
	PID           int     `json:"pid"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Ops           uint64  `json:"ops"`         // handed to the driver
	Launches      uint64  `json:"launches"`    // of them kernels
	Words         uint64  `json:"words"`       // launches issued; a word holds one or more ops
	Signals       uint64  `json:"signals"`     // done words written by the GPU
	Orders        uint64  `json:"orders"`      // events between streams
	Directly      uint64  `json:"directly"`    // words and signals that the poller issued itself
	ReadyWaits    uint64  `json:"ready_waits"` // looks at an op that could not be issued yet
	Wakeups       uint64  `json:"wakeups"`     // clients woken from their sleep
	Sleeps        uint64  `json:"sleeps"`      // of the poller on the doorbell
	Naps          uint64  `json:"naps"`        // short sleeps of the poller while something was in flight
	Passes        uint64  `json:"passes"`      // rounds of the poller
	BadRecords    uint64  `json:"bad_records"`
	// PollerBusySeconds is the time of rounds that found something to do: scanning, scheduling, filling words.
	PollerBusySeconds float64 `json:"poller_busy_seconds"`
	// Coalescing tells what became one launch with others.
	Coalescing CoalescingStats `json:"coalescing"`
	InFlight   int             `json:"in_flight"`
	Waiting    int             `json:"waiting"`
	// IssueBusySeconds is how long each issue thread has been in driver calls.
	IssueBusySeconds []float64      `json:"issue_busy_seconds"`
	Streams          []StreamStats  `json:"streams"`
	Sessions         []SessionStats `json:"sessions"`
	Forms            FormsStats     `json:"forms"` // rewritten kernels
	// Classes are those that have clients or had some. ClassesLeftOut is how many found no room in the message: the idle ones first.
	Classes        []ClassStats `json:"classes"`
	ClassesLeftOut int          `json:"classes_left_out,omitempty"`
}

// CoalescingStats are the words of kernels.
type CoalescingStats struct {
	WordsAlone     uint64 `json:"words_alone"`     // launches as the client asked for them
	WordsCoalesced uint64 `json:"words_coalesced"` // launches of rewritten kernels
	OpsCoalesced   uint64 `json:"ops_coalesced"`   // kernels in words of two or more
	// Widths counts words by how many kernels they hold: 1, 2, up to 4, 8, … 128.
	Widths [cost.Buckets]uint64 `json:"widths"`
	// Held counts kernels that waited for company and HeldSeconds how long, HeldInVain those that got less than was expected.
	Held        uint64  `json:"held"`
	HeldInVain  uint64  `json:"held_in_vain"`
	HeldSeconds float64 `json:"held_seconds"`
	// SignalsInKernel are done words that launches wrote themselves; Signals are those the streams wrote.
	SignalsInKernel uint64            `json:"signals_in_kernel"`
	Apart           map[string]uint64 `json:"apart"`   // why words were not wider (scoreboard.ApartReasons)
	Waiting         int               `json:"waiting"` // kernels waiting for company now
}

// StreamStats is one executor stream that is in use.
type StreamStats struct {
	Stream int `json:"stream"`
	Level  int `json:"level"`
	Ops    int `json:"ops"`
	Lanes  int `json:"lanes"`
}

// SessionStats is one session.
type SessionStats struct {
	ClientID  uint64 `json:"client_id"`
	OpsDone   uint64 `json:"ops_done"`
	Launches  uint64 `json:"launches"`  // kernels issued
	Coalesced uint64 `json:"coalesced"` // of them in words of two or more
	Slots     uint64 `json:"slots"`     // the widths of those words, added up for each of the kernels
	Dropped   uint64 `json:"dropped"`
	InFlight  int    `json:"in_flight"`
	Waiting   int    `json:"waiting"`
	BusyLanes int    `json:"busy_lanes"`
	Kernels   int    `json:"kernels"`
	Ranges    int    `json:"ranges"` // segments, host segments and globals
	RingBytes uint64 `json:"ring_bytes"`
	Error     int    `json:"error"` // sticky CUresult, 0 none
}

// snapshot collects the counters; it runs on the poller's thread.
func (p *poller) snapshot() Stats {
	n, e := &p.stats, p.engine
	st := Stats{
		PID: os.Getpid(), UptimeSeconds: time.Since(p.base).Seconds(), Ops: n.Ops, Launches: n.Launches, Words: e.Words, Signals: e.Signals,
		Orders: e.Orders, Directly: e.Directly, ReadyWaits: n.NotReady, Wakeups: n.Wakeups, Sleeps: n.Sleeps, Naps: n.Naps, Passes: n.Passes, BadRecords: n.BadRecords,
		PollerBusySeconds: float64(n.BusyNanoseconds) / 1e9,
	}
	g := p.gather
	st.Coalescing = CoalescingStats{
		WordsAlone: g.Words[word.Stream], WordsCoalesced: g.Words[word.Coalesced], OpsCoalesced: g.Joined, Widths: g.Widths, Held: g.Held,
		HeldInVain: g.InVain, HeldSeconds: float64(g.HeldNanoseconds) / 1e9, SignalsInKernel: g.InKernel, Apart: reasons(&g.Apart),
		Waiting: g.Len(),
	}
	st.Classes = p.classRows()
	for i := range e.Threads() {
		st.IssueBusySeconds = append(st.IssueBusySeconds, e.Busy(i).Seconds())
	}
	for i := range e.Streams() {
		if s := e.Stream(i); s.Ops > 0 {
			st.Streams = append(st.Streams, StreamStats{i, s.Level, s.Ops, s.Lanes})
		}
	}
	for _, c := range p.clients {
		b := c.board
		st.InFlight += b.InFlight()
		st.Waiting += b.Waiting()
		st.Sessions = append(st.Sessions, SessionStats{
			ClientID: c.id, OpsDone: b.OpsDone, Launches: b.Launches, Coalesced: b.Joined, Slots: b.Slots, Dropped: b.OpsDropped, InFlight: b.InFlight(), Waiting: b.Waiting(), BusyLanes: len(b.Busy()),
			Kernels: b.Kernels(), Ranges: b.Memory.Len(), RingBytes: c.ring.Read() - c.ring.Head(), Error: int(c.failed),
		})
	}
	return st
}

// sessionsAtLeast is how many sessions are told before classes are left out.
const sessionsAtLeast = 8

// encode fits the statistics into one message: sessions are left out from the end when there are too many, and then classes, those
// without clients first.
func (st Stats) encode() ([]byte, error) {
	slices.SortStableFunc(st.Classes, func(a, b ClassStats) int { return cmp.Compare(min(b.Clients, 1), min(a.Clients, 1)) })
	for {
		b, err := json.Marshal(st)
		if err != nil {
			return nil, fmt.Errorf("executor: statistics: %w", err)
		}
		switch {
		case len(b) <= shm.MessageBytes-256 || len(st.Sessions)+len(st.Classes) == 0:
			return b, nil
		case len(st.Sessions) > sessionsAtLeast || len(st.Classes) == 0:
			st.Sessions = st.Sessions[:len(st.Sessions)/2]
		default:
			keep := len(st.Classes) * 3 / 4
			st.ClassesLeftOut += len(st.Classes) - keep
			st.Classes = st.Classes[:keep]
		}
	}
}
