package daemon

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heddle-gpu/heddle/controlplane/admin"
)

// Bounds of what executors and policies can make of labels; more than that is added up under other.
const (
	maxClassLabels = 100
	other          = "(other)"
)

// executorStats is what the daemon reads of an executor's answer to STATS (executor.Stats, which the supervisor does not import).
// An executor runs as its user: nothing in here is trusted to be small, unique or sensible.
type executorStats struct {
	Ops               uint64    `json:"ops"`
	Launches          uint64    `json:"launches"`
	Signals           uint64    `json:"signals"`
	Orders            uint64    `json:"orders"`
	ReadyWaits        uint64    `json:"ready_waits"`
	Wakeups           uint64    `json:"wakeups"`
	Sleeps            uint64    `json:"sleeps"`
	BadRecords        uint64    `json:"bad_records"`
	InFlight          uint64    `json:"in_flight"`
	Waiting           uint64    `json:"waiting"`
	PollerBusySeconds float64   `json:"poller_busy_seconds"`
	IssueBusySeconds  []float64 `json:"issue_busy_seconds"`
	Coalescing        struct {
		WordsAlone      uint64            `json:"words_alone"`
		WordsCoalesced  uint64            `json:"words_coalesced"`
		OpsCoalesced    uint64            `json:"ops_coalesced"`
		Widths          []uint64          `json:"widths"`
		Held            uint64            `json:"held"`
		HeldInVain      uint64            `json:"held_in_vain"`
		HeldSeconds     float64           `json:"held_seconds"`
		SignalsInKernel uint64            `json:"signals_in_kernel"`
		OpsSliced       uint64            `json:"ops_sliced"`
		Slices          uint64            `json:"slices"`
		Apart           map[string]uint64 `json:"apart"`
		Waiting         uint64            `json:"waiting"`
	} `json:"coalescing"`
	Sessions []struct {
		RingBytes uint64 `json:"ring_bytes"`
		Straggler string `json:"straggler"`
	} `json:"sessions"`
	Forms struct {
		Codes          uint64            `json:"codes"`
		Asked          uint64            `json:"asked"`
		Forms          uint64            `json:"forms"`
		Bytes          uint64            `json:"bytes"`
		Compiled       uint64            `json:"compiled"`
		CacheHits      uint64            `json:"cache_hits"`
		Workers        uint64            `json:"workers"`
		Failed         map[string]uint64 `json:"failed"`
		CompileSeconds float64           `json:"compile_seconds"`
		LoadSeconds    float64           `json:"load_seconds"`
	} `json:"forms"`
	Graphs struct {
		Live     uint64            `json:"live"`
		Nodes    uint64            `json:"nodes"`
		Launches uint64            `json:"launches"`
		Kernels  uint64            `json:"kernels"`
		Refused  map[string]uint64 `json:"refused"`
		Joined   struct {
			Words       uint64  `json:"words"`
			Launches    uint64  `json:"launches"`
			Kernels     uint64  `json:"kernels"`
			Kept        uint64  `json:"kept"`
			Nodes       uint64  `json:"nodes"`
			Made        uint64  `json:"made"`
			Refused     uint64  `json:"refused"`
			Evicted     uint64  `json:"evicted"`
			Unpaid      uint64  `json:"unpaid"`
			MakeSeconds float64 `json:"make_seconds"`
			Coalesced   struct {
				Nodes   uint64 `json:"nodes"`
				Kernels uint64 `json:"kernels"`
			} `json:"coalesced"`
		} `json:"joined"`
	} `json:"graphs"`
	Prepared struct {
		Words       uint64  `json:"words"`
		Ops         uint64  `json:"ops"`
		Runs        uint64  `json:"runs"`
		Made        uint64  `json:"made"`
		Refused     uint64  `json:"refused"`
		Evicted     uint64  `json:"evicted"`
		Unused      uint64  `json:"unused"`
		MakeSeconds float64 `json:"make_seconds"`
	} `json:"prepared"`
	Stragglers struct {
		Evictions uint64 `json:"evictions"`
	} `json:"stragglers"`
	Stalls       []stallStats `json:"stalls"`
	Driver       []callStats  `json:"driver"`
	Calm         calmStats    `json:"calm"`
	Interference struct {
		Pairs        uint64 `json:"pairs"`
		Hurting      uint64 `json:"hurting"`
		Measurements uint64 `json:"measurements"`
		Avoided      uint64 `json:"avoided"`
	} `json:"interference"`
	Outside map[string]uint64 `json:"outside_partition"`
	Classes []classStats      `json:"classes"`
}

// classStats is executor.ClassStats.
type classStats struct {
	Class            string        `json:"class"`
	ObjectiveSeconds float64       `json:"objective_seconds"`
	Requests         uint64        `json:"requests"`
	Attained         uint64        `json:"attained"`
	Latency          durationStats `json:"latency"`
	Queue            durationStats `json:"queue"`
	Stagger          durationStats `json:"stagger"`
	Ops              uint64        `json:"ops"`
	Coalesced        uint64        `json:"coalesced"`
	GPUSeconds       float64       `json:"gpu_seconds"`
	// Waits counts ops by why they were not issued when they were ready.
	Waits map[string]uint64 `json:"waits"`
}

// durationStats is executor.Histogram.
type durationStats struct {
	Counts []uint64 `json:"counts"`
	Sum    float64  `json:"sum"`
}

// durationBounds are executor.HistogramBounds, widthBounds the upper bounds of its counts of widths (cost.Bucket).
var (
	durationBounds = []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5}
	widthBounds    = []float64{1, 2, 4, 8, 16, 32, 64, 128}
)

// merge adds up what two classes got that share a label.
func (c *classStats) merge(o *classStats) {
	c.ObjectiveSeconds = max(c.ObjectiveSeconds, o.ObjectiveSeconds)
	c.Requests += o.Requests
	c.Attained += o.Attained
	c.Ops += o.Ops
	c.Coalesced += o.Coalesced
	c.GPUSeconds += o.GPUSeconds
	waits := maps.Clone(c.Waits)
	for code, n := range o.Waits {
		if waits == nil {
			waits = map[string]uint64{}
		}
		waits[code] += n
	}
	c.Waits = waits
	for _, h := range []struct{ to, from *durationStats }{{&c.Latency, &o.Latency}, {&c.Queue, &o.Queue}, {&c.Stagger, &o.Stagger}} {
		sum := make([]uint64, max(len(h.to.Counts), len(h.from.Counts)))
		for i := range sum {
			if i < len(h.to.Counts) {
				sum[i] = h.to.Counts[i]
			}
			if i < len(h.from.Counts) {
				sum[i] += h.from.Counts[i]
			}
		}
		h.to.Counts, h.to.Sum = sum, h.to.Sum+h.from.Sum
	}
}

// collector turns the daemon's status into metrics at each scrape.
type collector struct {
	d *Daemon

	mu      sync.Mutex
	classes map[string]bool // that have a label of their own
}

func newCollector(d *Daemon) *collector {
	return &collector{d: d, classes: map[string]bool{}}
}

// Describe says nothing, so that the registry checks what is collected, at each scrape.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// class gives a class's label: its name when the daemon knows it from a policy and there are not too many. A name that has a label
// keeps it, so that counters do not go back.
func (c *collector) class(name string) string {
	if c.classes[name] {
		return name
	}
	known := c.d.policies.current.Load().Classes
	if known[name] == nil {
		return other
	}
	if len(c.classes) >= maxClassLabels {
		for old := range c.classes {
			if known[old] == nil {
				delete(c.classes, old)
			}
		}
		if len(c.classes) >= maxClassLabels {
			return other
		}
	}
	c.classes[name] = true
	return name
}

// reason gives a code's label.
func (f *family) reason(code string) string {
	if slices.Contains(f.reasons, code) {
		return code
	}
	return other
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st, ok := c.d.watched.get(scrapeTimeout / 2)
	if !ok {
		st = admin.Status{Version: c.d.config.Version, Since: c.d.since}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	put := func(f *family, v float64, labels ...string) {
		m, err := prometheus.NewConstMetric(f.desc, f.kind, v, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(f.desc, err)
		}
		ch <- m
	}
	put(metricBuild, 1, st.Version)
	put(metricStart, seconds(st.Since))
	put(metricDraining, truth(c.d.draining.Load()))
	p := &c.d.policies
	p.mu.Lock()
	reloads, failed, since, problem := p.reloads, p.failed, p.since, p.problem
	p.mu.Unlock()
	put(metricReloadOK, truth(problem == ""))
	put(metricReloadTime, seconds(since))
	put(metricReloads, float64(reloads))
	put(metricReloadFailed, float64(failed))
	for _, e := range st.Executors {
		at := place{c: c, ch: ch, labels: []string{e.GPU, strconv.Itoa(e.UID)}}
		at.supervised(e, st.Clients)
		var s executorStats
		answers := e.Counters != nil && json.Unmarshal(e.Counters, &s) == nil
		at.one(metricAnswers, truth(answers))
		if answers {
			at.told(&s)
		}
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// place is one executor's part of a scrape.
type place struct {
	c      *collector
	ch     chan<- prometheus.Metric
	labels []string
}

func (at place) one(f *family, v float64, more ...string) {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		v = 0 // a counter that jumps is noticed; an answer without a scrape's other metrics would not be
	}
	labels := append(at.labels[:len(at.labels):len(at.labels)], more...)
	m, err := prometheus.NewConstMetric(f.desc, f.kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	at.ch <- m
}

// each gives one metric a reason, those with the same label added up. more are the labels before the reason.
func (at place) each(f *family, counts map[string]uint64, more ...string) {
	sum := map[string]uint64{}
	for code, n := range counts {
		sum[f.reason(code)] += n
	}
	for code, n := range sum {
		at.one(f, float64(n), append(more[:len(more):len(more)], code)...)
	}
}

func (at place) histogram(f *family, bounds []float64, counts []uint64, sum float64, more ...string) {
	if len(counts) < len(bounds) || math.IsNaN(sum) || math.IsInf(sum, 0) {
		return
	}
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range counts {
		total += n
		if i < len(bounds) {
			buckets[bounds[i]] = total
		}
	}
	labels := append(at.labels[:len(at.labels):len(at.labels)], more...)
	m, err := prometheus.NewConstHistogram(f.desc, total, sum, buckets, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	at.ch <- m
}

// supervised gives what the daemon knows by itself.
func (at place) supervised(e admin.Executor, clients []admin.Client) {
	at.one(metricUp, truth(e.State == slotLive))
	at.one(metricStarts, float64(e.Epoch))
	at.one(metricImages, float64(e.ImageMiB<<20))
	at.each(metricLosses, e.Losses)
	type sums struct {
		clients, native, device, host uint64
		slowed                        float64
	}
	by, failed := map[string]*sums{}, map[string]uint64{}
	for _, cl := range clients {
		if cl.GPU != e.GPU || cl.UID != e.UID {
			continue
		}
		class := at.c.class(cl.Class)
		s := by[class]
		if s == nil {
			s = &sums{}
			by[class] = s
		}
		s.clients++
		s.slowed = max(s.slowed, cl.Slowed)
		s.device += cl.DeviceBytes
		s.host += cl.HostBytes
		if cl.RefusedReason != "" {
			s.native++
		}
		if cl.Error != 0 {
			code, _, _ := strings.Cut(cl.ErrorReason, " ")
			failed[code]++
		}
	}
	for class, s := range by {
		at.one(metricClients, float64(s.clients), class)
		at.one(metricNative, float64(s.native), class)
		at.one(metricDevice, float64(s.device), class)
		at.one(metricHost, float64(s.host), class)
		at.one(metricSlowed, s.slowed, class)
	}
	at.each(metricFailed, failed)
}

// told gives what the executor says.
func (at place) told(s *executorStats) {
	var ring, most uint64
	steps := map[string]int{"apart": 0, "limited": 0, "own-context": 0}
	for i := range s.Sessions {
		if n, ok := steps[s.Sessions[i].Straggler]; ok {
			steps[s.Sessions[i].Straggler] = n + 1
		}
		ring += s.Sessions[i].RingBytes
		most = max(most, s.Sessions[i].RingBytes)
	}
	for step, n := range steps {
		at.one(metricStragglers, float64(n), step)
	}
	issue := 0.0
	for _, v := range s.IssueBusySeconds {
		issue += v
	}
	refused := uint64(0)
	for _, n := range s.Graphs.Refused {
		refused += n
	}
	g, f, r, j := &s.Coalescing, &s.Forms, &s.Prepared, &s.Graphs.Joined
	for _, v := range []struct {
		f *family
		v float64
	}{
		{metricRing, float64(ring)}, {metricRingMost, float64(most)}, {metricInFlight, float64(s.InFlight)}, {metricWaiting, float64(s.Waiting)},
		{metricBad, float64(s.BadRecords)}, {metricEvictions, float64(s.Stragglers.Evictions)}, {metricOps, float64(s.Ops)}, {metricLaunches, float64(s.Launches)},
		{metricCoalesced, float64(g.OpsCoalesced)}, {metricSliced, float64(g.OpsSliced)}, {metricHeld, float64(g.Held)}, {metricInVain, float64(g.HeldInVain)},
		{metricHeldTime, g.HeldSeconds}, {metricHolding, float64(g.Waiting)}, {metricOrders, float64(s.Orders)},
		{metricKernels, float64(f.Codes)}, {metricForms, float64(f.Forms)}, {metricFormBytes, float64(f.Bytes)},
		{metricAsked, float64(f.Asked)}, {metricCompiled, float64(f.Compiled)}, {metricHits, float64(f.CacheHits)},
		{metricCompiling, f.CompileSeconds}, {metricLoading, f.LoadSeconds}, {metricWorkers, float64(f.Workers)},
		{metricGraphs, float64(s.Graphs.Live)}, {metricGraphNodes, float64(s.Graphs.Nodes)}, {metricGraphLaunches, float64(s.Graphs.Launches)},
		{metricGraphKernels, float64(s.Graphs.Kernels)}, {metricGraphsRefused, float64(refused)},
		{metricJoinedNodesOne, float64(j.Coalesced.Nodes)}, {metricJoinedOne, float64(j.Coalesced.Kernels)},
		{metricJoinedLaunches, float64(j.Launches)}, {metricJoinedKernels, float64(j.Kernels)}, {metricJoinedWords, float64(j.Kept)},
		{metricJoinedNodes, float64(j.Nodes)}, {metricJoinedMade, float64(j.Made)}, {metricJoinedRefused, float64(j.Refused)},
		{metricJoinedEvicted, float64(j.Evicted)}, {metricJoinedUnpaid, float64(j.Unpaid)}, {metricJoinedTime, j.MakeSeconds},
		{metricRunOps, float64(r.Ops)}, {metricRuns, float64(r.Runs)}, {metricRunsMade, float64(r.Made)}, {metricRunsRefused, float64(r.Refused)},
		{metricRunsEvicted, float64(r.Evicted)}, {metricRunsUnused, float64(r.Unused)}, {metricRunsTime, r.MakeSeconds},
		{metricPairs, float64(s.Interference.Pairs)}, {metricHurting, float64(s.Interference.Hurting)},
		{metricMet, float64(s.Interference.Measurements)}, {metricAvoided, float64(s.Interference.Avoided)},
		{metricPoller, s.PollerBusySeconds}, {metricIssue, issue}, {metricReadyLook, float64(s.ReadyWaits)},
		{metricWakeups, float64(s.Wakeups)}, {metricSleeps, float64(s.Sleeps)},
	} {
		at.one(v.f, v.v)
	}
	at.one(metricWords, float64(g.WordsAlone), "alone")
	at.one(metricWords, float64(g.WordsCoalesced), "coalesced")
	at.one(metricWords, float64(g.Slices), "sliced")
	at.one(metricWords, float64(r.Words), "prepared")
	at.one(metricWords, float64(j.Words), "joined")
	at.one(metricSignals, float64(s.Signals), "stream")
	at.one(metricSignals, float64(g.SignalsInKernel), "kernel")
	if len(g.Widths) > 0 { // words of one kernel and the kernels of wider ones: the sum is exact
		at.histogram(metricWidth, widthBounds, g.Widths, float64(g.Widths[0]+g.OpsCoalesced))
	}
	at.held(s)
	at.each(metricApart, g.Apart)
	at.each(metricOutside, s.Outside)
	at.each(metricRefused, f.Failed)

	by := map[string]*classStats{}
	for i := range s.Classes {
		row := s.Classes[i]
		class := at.c.class(row.Class)
		if sum := by[class]; sum != nil {
			sum.merge(&row)
		} else {
			by[class] = &row
		}
	}
	for class, r := range by {
		at.one(metricObjective, r.ObjectiveSeconds, class)
		at.one(metricRequests, float64(r.Requests), class)
		at.one(metricAttained, float64(r.Attained), class)
		at.one(metricClassOps, float64(r.Ops), class)
		at.one(metricClassJoin, float64(r.Coalesced), class)
		at.one(metricGPUTime, r.GPUSeconds, class)
		at.each(metricWaits, r.Waits, class)
		at.histogram(metricLatency, durationBounds, r.Latency.Counts, r.Latency.Sum, class)
		at.histogram(metricQueue, durationBounds, r.Queue.Counts, r.Queue.Sum, class)
		at.histogram(metricStagger, durationBounds, r.Stagger.Counts, r.Stagger.Sum, class)
	}
}
