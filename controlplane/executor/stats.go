package executor

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/sequence"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/shm"
)

// counters are the poller's.
type counters struct {
	Passes, Ops, Launches, NotReady, Wakeups, Sleeps, Naps, BadRecords, BusyNanoseconds uint64
	Outside                                                                             [scoreboard.OutsideReasons]uint64
	GraphLaunches, GraphKernels                                                         uint64
}

// Stats is what an executor answers to STATS, as JSON. Counters count from its start.
type Stats struct {
	PID           int     `json:"pid"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Ops           uint64  `json:"ops"`         // handed to the driver
	Launches      uint64  `json:"launches"`    // kernels launched, those of graphs too
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
	IssueBusySeconds []float64         `json:"issue_busy_seconds"`
	Streams          []StreamStats     `json:"streams"`
	Sessions         []SessionStats    `json:"sessions"`
	Forms            FormsStats        `json:"forms"` // rewritten kernels
	Graphs           GraphStats        `json:"graphs"`
	Prepared         PreparedStats     `json:"prepared"`
	Stragglers       StragglerStats    `json:"stragglers"`
	Interference     InterferenceStats `json:"interference"`
	Stalls           []StallStats      `json:"stalls"` // of the threads that launch
	Driver           []CallStats       `json:"driver"` // slow calls that were made
	// Outside counts ops of clients that were confined to a part of the multiprocessors, and ran on all, by why (scoreboard.OutsideNames).
	Outside map[string]uint64 `json:"outside_partition,omitempty"`
	Calm    CalmStats         `json:"calm"`    // waits before those that hold others up
	Classes []ClassStats      `json:"classes"` // that have clients or had some
	// Next tells that classes and sessions found no room in the message: STATS with this number in its tail gives them (StatsPage).
	Next int `json:"next,omitempty"`
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
	// OpsSliced counts kernels that were issued in slices of their blocks, Slices those.
	OpsSliced uint64 `json:"ops_sliced"`
	Slices    uint64 `json:"slices"`
	// SignalsInKernel are done words that launches wrote themselves; Signals are those the streams wrote.
	SignalsInKernel uint64            `json:"signals_in_kernel"`
	Apart           map[string]uint64 `json:"apart"`   // why words were not wider (scoreboard.ApartReasons)
	Waiting         int               `json:"waiting"` // kernels waiting for company now
}

// StragglerStats counts changes of how clients are served because of how long their ops take.
type StragglerStats struct {
	Evictions uint64 `json:"evictions"` // out of shared words
	Limits    uint64 `json:"limits"`    // of them on to one op of each stream at a time
	Sent      uint64 `json:"sent"`      // of them on to their own contexts
	Returns   uint64 `json:"returns"`   // back to all
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
	Launches  uint64 `json:"launches"`  // kernels issued, those of graphs too
	Coalesced uint64 `json:"coalesced"` // of them in words of two or more
	Slots     uint64 `json:"slots"`     // the widths of those words, added up for each of the kernels
	Dropped   uint64 `json:"dropped"`
	InFlight  int    `json:"in_flight"`
	Waiting   int    `json:"waiting"`
	BusyLanes int    `json:"busy_lanes"`
	Kernels   int    `json:"kernels"`
	Graphs    int    `json:"graphs"` // that it can launch
	Ranges    int    `json:"ranges"` // segments, host segments and globals
	RingBytes uint64 `json:"ring_bytes"`
	Error     int    `json:"error"` // sticky CUresult, 0 none
	// Straggler is how it is served because of how long its ops take (scoreboard.StragglerNames), "" as everybody; Lateness how many
	// times as long as they should they take by themselves, as last measured, 0 not known; Evictions how often it was taken out of words.
	Straggler string  `json:"straggler,omitempty"`
	Lateness  float64 `json:"lateness,omitempty"`
	Evictions uint64  `json:"evictions,omitempty"`
	// Partition is the SMs on which its kernels run now, 0: all of the chip's; Outside counts its ops that ran on all meanwhile, by why
	// (scoreboard.OutsideNames).
	Partition int               `json:"partition_sms,omitempty"`
	Outside   map[string]uint64 `json:"outside_partition,omitempty"`
	// Slowed is by what part its kernels take longer beside others than alone, smoothed over those that were measured.
	Slowed float64 `json:"slowed,omitempty"`
	// Cadence is when it launches graphs, where its requests have some.
	Cadence *CadenceStats `json:"cadence,omitempty"`
	// ApartGraphs counts its launches of graphs that went by themselves, by reason (scoreboard.ApartReasons).
	ApartGraphs map[string]uint64 `json:"apart_graphs,omitempty"`
	// CoalescedNodes counts kernels of its graphs that were one launch with other clients'; in Coalesced, too.
	CoalescedNodes uint64 `json:"coalesced_nodes,omitempty"`
}

// CadenceStats are when a client launches graphs: LeadSeconds after its request began, and GapSeconds after the end of a graph where it
// goes on at once, which it does after a part AtOnce of them (package sched, cadence.go: the chip is kept free for a graph then).
type CadenceStats struct {
	LeadSeconds float64 `json:"lead_seconds"`
	GapSeconds  float64 `json:"gap_seconds"`
	AtOnce      float64 `json:"at_once"`
	// GraphSeconds is how long its last graph usually takes by itself, GraphLastsSeconds how long it took of late.
	GraphSeconds      float64 `json:"graph_seconds"`
	GraphLastsSeconds float64 `json:"graph_lasts_seconds"`
}

// cadence is that of a client, nil without graphs.
func (c *client) cadence() *CadenceStats {
	k, ok := c.books.Cadence()
	if !ok {
		return nil
	}
	sec := func(ns int64) float64 { return float64(ns) / 1e9 }
	return &CadenceStats{sec(k.Lead), sec(k.Gap), k.AtOnce, sec(k.Graph.Time()), sec(k.Graph.Lasts())}
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
		Waiting: g.Len(), OpsSliced: g.Slots[word.Sliced], Slices: g.Words[word.Sliced],
	}
	st.Graphs = GraphStats{Launches: n.GraphLaunches, Kernels: n.GraphKernels, Joined: p.joinedStats()}
	st.Stragglers = StragglerStats{p.stragglers.Evictions, p.stragglers.Limits, p.stragglers.Sent, p.stragglers.Returns}
	st.Stalls = p.stalls()
	st.Outside = outside(&n.Outside)
	st.Interference = p.interference()
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
			Straggler: scoreboard.StragglerNames[b.Straggler], Lateness: c.pace.Late(), Evictions: c.pace.Evictions, Slowed: b.Slowed, Cadence: c.cadence(),
			Partition: p.divided.sms(b), Outside: outside(&b.Outside),
			ApartGraphs: reasons(&b.ApartGraphs), CoalescedNodes: b.CoalescedNodes, Kernels: b.Kernels(), Graphs: b.GraphCount(), Ranges: b.Memory.Len(), RingBytes: c.ring.Read() - c.ring.Head(), Error: int(c.failed),
		})
	}
	return st
}

// StatsPage is the answer to a STATS request that asks for the rows from a number on: classes, then sessions.
type StatsPage struct {
	Classes  []ClassStats   `json:"classes"`
	Sessions []SessionStats `json:"sessions"`
	Next     int            `json:"next,omitempty"` // where to go on; 0: this was the end
}

// page is the statistics, or from a row on only those, as JSON that fits one message.
func (st *Stats) page(from int) (text []byte, next int, err error) {
	all := len(st.Classes) + len(st.Sessions)
	from = min(max(from, 0), all)
	for n := all - from; ; n /= 2 {
		p := StatsPage{Classes: part(st.Classes, from, from+n), Sessions: part(st.Sessions, from-len(st.Classes), from+n-len(st.Classes))}
		if from+n < all {
			p.Next = from + n
		}
		var v any = p
		if from == 0 {
			first := *st
			first.Classes, first.Sessions, first.Next = p.Classes, p.Sessions, p.Next
			v = first
		}
		if text, err = json.Marshal(v); err != nil {
			return nil, 0, fmt.Errorf("executor: statistics: %w", err)
		}
		if len(text) <= shm.MessageBytes-256 || n == 0 {
			return text, p.Next, nil
		}
	}
}

// part is what there is of rows from up to to.
func part[T any](rows []T, from, to int) []T {
	return rows[min(max(from, 0), len(rows)):min(max(to, 0), len(rows))]
}

// answerStats answers STATS. The later pages are of the same moment as the first.
func (x *executor) answerStats(m shm.Message) {
	from := 0
	if len(m.Tail) > 0 {
		var err error
		if from, err = strconv.Atoi(string(m.Tail)); err != nil || from < 0 {
			x.answer(m, nil, fmt.Errorf("rows from %q on: expected a number", m.Tail))
			return
		}
	}
	x.pagesMu.Lock()
	defer x.pagesMu.Unlock()
	if from == 0 {
		var runs sequence.Counters
		if !x.poller.call(func() { x.pages, runs = x.poller.snapshot(), x.poller.runs.Counters }) {
			x.answer(m, nil, errStopping)
			return
		}
		x.pages.Forms, x.pages.Prepared = x.forms.snapshot(), x.prepared.snapshot(runs)
		x.pages.Graphs = x.graphs.snapshot(x.pages.Graphs)
		x.pages.Driver, x.pages.Calm = x.driver.snapshot(), x.quietly.snapshot()
		x.pages.Graphs.Joined = x.joiner.snapshot(x.pages.Graphs.Joined)
	}
	text, next, err := x.pages.page(from)
	if err != nil {
		x.answer(m, nil, err)
		return
	}
	if next == 0 {
		x.pages = Stats{}
	}
	r := m.Reply(shm.StatusOK, nil)
	r.Tail = text
	if err := x.conn.Send(r); err != nil {
		x.log.Error("statistics not sent", "error", err)
	}
}

// outside are the counts of scoreboard.OutsideNames that are not 0.
func outside(n *[scoreboard.OutsideReasons]uint64) (m map[string]uint64) {
	for why, k := range n {
		if k > 0 {
			if m == nil {
				m = map[string]uint64{}
			}
			m[scoreboard.OutsideNames[why]] = k
		}
	}
	return m
}
