package executor

import "github.com/heddle-gpu/heddle/controlplane/executor/sched"

// ClassStats is what one class of clients got on this executor, since it started. It is a part of Stats.
type ClassStats struct {
	Class string `json:"class"`
	// Clients of the class that are connected now, and the objective that they have, in seconds; 0 none.
	Clients          int     `json:"clients"`
	ObjectiveSeconds float64 `json:"objective_seconds"`
	// Requests that ended, and those of them that met the objective that was in force when they began (all, without one).
	Requests uint64 `json:"requests"`
	Attained uint64 `json:"attained"`
	// Latency of requests, from the arrival of the first op to the end of the last; Queue of ops, from when an op could have been
	// issued to when it was; Stagger the part of Queue in which ops were held back for partners.
	Latency Histogram `json:"latency"`
	Queue   Histogram `json:"queue"`
	Stagger Histogram `json:"stagger"`
	// Ops issued, how many of them in words of two or more, and an estimate of the time that they kept the GPU busy.
	Ops        uint64  `json:"ops"`
	Coalesced  uint64  `json:"coalesced"`
	GPUSeconds float64 `json:"gpu_seconds"`
	// Waits counts ops by why they were not issued when they were ready (sched.WaitNames; docs/reasons.md).
	Waits map[string]uint64 `json:"waits,omitempty"`
}

// classRows are the classes that had or have clients, by name; it runs on the poller's thread.
func (p *poller) classRows() []ClassStats {
	var rows []ClassStats
	for _, k := range p.sched.Classes() {
		st := &k.Stats
		if k.Clients == 0 && st.Ops == 0 {
			continue
		}
		row := ClassStats{
			Class: k.Name, Clients: k.Clients, ObjectiveSeconds: float64(k.Latency) / 1e9, Requests: st.Requests, Attained: st.Attained,
			Latency: seconds(&st.Latency), Queue: seconds(&st.Queue), Stagger: seconds(&st.Stagger),
			Ops: st.Ops, Coalesced: st.Coalesced, GPUSeconds: float64(st.GPU) / 1e9, Waits: map[string]uint64{},
		}
		for i, n := range st.Waits {
			if n > 0 {
				row.Waits[sched.WaitNames[i]] = n
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// seconds is a histogram with its sum in seconds.
func seconds(h *sched.Histogram) Histogram {
	return Histogram{Counts: h.Counts, Sum: float64(h.Sum) / 1e9}
}

// HistogramBounds are the upper bounds of Histogram.Counts, in seconds; one more bucket is above them.
var HistogramBounds = [...]float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5}

// Histogram counts durations.
type Histogram struct {
	Counts [len(HistogramBounds) + 1]uint64 `json:"counts"`
	Sum    float64                          `json:"sum"` // seconds
}

// Add counts one duration, in ns.
func (h *Histogram) Add(ns int64) {
	s := float64(ns) / 1e9
	h.Sum += s
	for i, b := range HistogramBounds {
		if s <= b {
			h.Counts[i]++
			return
		}
	}
	h.Counts[len(HistogramBounds)]++
}
