package daemon

import "slices"

// This file is what metrics say of driver calls that may hold launches up, and of launches that were held up.

// Values of the labels call and thread; what else an executor says is added up under other. callBounds are executor.CallBounds.
var (
	driverCalls = []string{
		"cuMemAddressReserve", "cuMemAddressFree", "cuMemImportFromShareableHandle", "cuMemRelease", "cuMemMap", "cuMemUnmap",
		"cuMemHostRegister", "cuMemHostUnregister", "cuModuleLoadDataEx", "cuModuleUnload", "cuModuleGetFunction", "cuModuleGetGlobal",
		"cuFuncGetAttribute", "cuFuncSetAttribute", "cuFuncGetParamInfo", "cuCtxSetLimit", "cuCtxGetLimit", "cuStreamCreate", "cuEventCreate",
		"cuEventDestroy", "cuGraphAddNode", "cuGraphInstantiate", "cuGraphUpload", "cuGraphExecDestroy",
	}
	stallPlaces = []string{"issue", "direct", "mail", "poller"}
	callBounds  = []float64{1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1}
)

var (
	ofCall   = []string{"UUID", "uid", "call"}
	ofThread = []string{"UUID", "uid", "thread"}

	metricDriver      = histogram(schedulers, "heddle_executor_driver_seconds", "Driver calls beside the launches, for clients that come, load, allocate, leave or bring graphs, by the call's name; some of them hold every launch up.", ofCall)
	metricDriverBusy  = counter(schedulers, "heddle_executor_driver_beside_seconds_total", "Time of those calls that began or ended while ops were in flight.", ofCall)
	metricDriverWorst = gauge(schedulers, "heddle_executor_driver_longest_seconds", "The longest of those calls.", ofCall)
	metricStalls      = counter(schedulers, "heddle_executor_stalls_total", "Times that a thread which launches was busy for more than 2 ms: an issue thread (thread issue), the poller with driver calls of its own (direct), with what others had asked it for (mail), or otherwise (poller).", ofThread)
	metricStallTime   = counter(schedulers, "heddle_executor_stall_seconds_total", "Their time.", ofThread)
	metricStallWorst  = gauge(schedulers, "heddle_executor_longest_stall_seconds", "The longest of them.", ofThread)
	metricCalmWaits   = counter(schedulers, "heddle_calm_waits_total", "Waits of calls that hold launches up for a moment in which nothing of other clients is in flight.", ofExecutor)
	metricCalmTime    = counter(schedulers, "heddle_calm_wait_seconds_total", "Their time.", ofExecutor)
	metricCalmBeside  = counter(schedulers, "heddle_calm_beside_total", "Such calls that were made without such a moment.", ofExecutor)
)

// callStats is executor.CallStats, stallStats executor.StallStats, calmStats executor.CalmStats.
type (
	callStats struct {
		Call    string   `json:"call"`
		Seconds float64  `json:"seconds"`
		Longest float64  `json:"longest_seconds"`
		Beside  float64  `json:"beside_seconds"`
		Counts  []uint64 `json:"counts"`
	}
	stallStats struct {
		Where   string  `json:"where"`
		Count   uint64  `json:"count"`
		Seconds float64 `json:"seconds"`
		Longest float64 `json:"longest_seconds"`
	}
	calmStats struct {
		Waits   uint64  `json:"waits"`
		Beside  uint64  `json:"beside"`
		Seconds float64 `json:"seconds"`
	}
)

// known gives a label: what it says when that is one of the values.
func known(value string, values []string) string {
	if slices.Contains(values, value) {
		return value
	}
	return other
}

// held gives what the executor says of calls and threads that were held up.
func (at place) held(s *executorStats) {
	calls := map[string]*callStats{}
	for i := range s.Driver {
		row, label := &s.Driver[i], known(s.Driver[i].Call, driverCalls)
		sum := calls[label]
		if sum == nil {
			sum = &callStats{Counts: make([]uint64, len(callBounds)+1)}
			calls[label] = sum
		}
		sum.Seconds, sum.Beside, sum.Longest = sum.Seconds+row.Seconds, sum.Beside+row.Beside, max(sum.Longest, row.Longest)
		for k := range min(len(sum.Counts), len(row.Counts)) {
			sum.Counts[k] += row.Counts[k]
		}
	}
	for label, sum := range calls {
		at.histogram(metricDriver, callBounds, sum.Counts, sum.Seconds, label)
		at.one(metricDriverBusy, sum.Beside, label)
		at.one(metricDriverWorst, sum.Longest, label)
	}
	threads := map[string]stallStats{}
	for _, row := range s.Stalls {
		label := known(row.Where, stallPlaces)
		sum := threads[label]
		threads[label] = stallStats{Count: sum.Count + row.Count, Seconds: sum.Seconds + row.Seconds, Longest: max(sum.Longest, row.Longest)}
	}
	for label, sum := range threads {
		at.one(metricStalls, float64(sum.Count), label)
		at.one(metricStallTime, sum.Seconds, label)
		at.one(metricStallWorst, sum.Longest, label)
	}
	for f, v := range map[*family]float64{metricCalmWaits: float64(s.Calm.Waits), metricCalmTime: s.Calm.Seconds, metricCalmBeside: float64(s.Calm.Beside)} {
		at.one(f, v)
	}
}
