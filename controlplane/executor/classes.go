package executor

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
	// Stragglers counts the times that a client was set apart.
	Stragglers uint64 `json:"stragglers"`
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
