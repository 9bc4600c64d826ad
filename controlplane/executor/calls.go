package executor

import (
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// This file times the driver calls that are made beside the launches: on the threads of the loader and the mapper, for clients that
// come, load, allocate and leave. Several of them hold up every launch of the context (docs/results.md, "What stalls the context").
// Launches, copies, events on streams and graph launches are not timed one by one: issue.Slow and rounds tell where they were held up.

// driverCall is one of the calls that are timed.
type driverCall uint8

const (
	callReserve driverCall = iota
	callUnreserve
	callImport
	callRelease
	callMap
	callUnmap
	callHostRegister
	callHostUnregister
	callModuleLoad
	callModuleUnload
	callFunction
	callGlobal
	callFuncGet
	callFuncSet
	callFuncParam
	callLimitSet
	callLimitGet
	callStreamCreate
	callEventCreate
	callEventDestroy
	callGraphNode
	callGraphInstantiate
	callGraphUpload
	callGraphExecDestroy
	driverCalls
)

// CallNames are the names of the timed calls in statistics and metrics: the driver's, of the first where a method makes several
// (cuMemMap with cuMemSetAccess, cuMemHostRegister with cuMemHostGetDevicePointer, cuModuleGetFunction with cuFuncLoad).
var CallNames = [driverCalls]string{
	"cuMemAddressReserve", "cuMemAddressFree", "cuMemImportFromShareableHandle", "cuMemRelease", "cuMemMap", "cuMemUnmap",
	"cuMemHostRegister", "cuMemHostUnregister", "cuModuleLoadDataEx", "cuModuleUnload", "cuModuleGetFunction", "cuModuleGetGlobal",
	"cuFuncGetAttribute", "cuFuncSetAttribute", "cuFuncGetParamInfo", "cuCtxSetLimit", "cuCtxGetLimit", "cuStreamCreate", "cuEventCreate",
	"cuEventDestroy", "cuGraphAddNode", "cuGraphInstantiate", "cuGraphUpload", "cuGraphExecDestroy",
}

// CallBounds are the upper bounds of CallStats.Counts, in seconds; one more bucket is above them.
var CallBounds = [...]float64{1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1}

// CallStats is one timed call; a part of Stats.
type CallStats struct {
	Call    string                      `json:"call"` // one of CallNames
	Count   uint64                      `json:"count"`
	Seconds float64                     `json:"seconds"`
	Longest float64                     `json:"longest_seconds"`
	Beside  float64                     `json:"beside_seconds"` // of those that began or ended while ops were in flight
	Counts  [len(CallBounds) + 1]uint64 `json:"counts"`
}

// callTimes adds up one call. Several threads may add.
type callTimes struct {
	counts                   [len(CallBounds) + 1]atomic.Uint64
	seconds, beside, longest atomic.Int64 // ns
}

func (t *callTimes) add(ns int64, beside bool) {
	b := 0
	for b < len(CallBounds) && float64(ns)/1e9 > CallBounds[b] {
		b++
	}
	t.counts[b].Add(1)
	t.seconds.Add(ns)
	if beside {
		t.beside.Add(ns)
	}
	for old := t.longest.Load(); ns > old && !t.longest.CompareAndSwap(old, ns); old = t.longest.Load() {
	}
}

// timedDriver is a Driver whose slow calls are timed; the others are passed on as they are.
type timedDriver struct {
	Driver
	busy  func() bool // ops are in flight
	clock func() int64
	times [driverCalls]callTimes
}

func newTimedDriver(d Driver, busy func() bool) *timedDriver {
	base := time.Now()
	return &timedDriver{Driver: d, busy: busy, clock: func() int64 { return int64(time.Since(base)) }}
}

// begin is called before a call, and what it returns when the call has returned.
func (d *timedDriver) begin(c driverCall) func() {
	busy, at := d.busy(), d.clock()
	return func() { d.times[c].add(d.clock()-at, busy || d.busy()) }
}

// snapshot gives the calls that were made. Any thread may ask.
func (d *timedDriver) snapshot() []CallStats {
	var all []CallStats
	for i := range d.times {
		t := &d.times[i]
		s := CallStats{
			Call: CallNames[i], Seconds: float64(t.seconds.Load()) / 1e9, Beside: float64(t.beside.Load()) / 1e9, Longest: float64(t.longest.Load()) / 1e9,
		}
		for k := range t.counts {
			s.Counts[k] = t.counts[k].Load()
			s.Count += s.Counts[k]
		}
		if s.Count > 0 {
			all = append(all, s)
		}
	}
	return all
}

func (d *timedDriver) Reserve(address, bytes uint64) (uint64, error) {
	defer d.begin(callReserve)()
	return d.Driver.Reserve(address, bytes)
}

func (d *timedDriver) Unreserve(address, bytes uint64) gpu.Result {
	defer d.begin(callUnreserve)()
	return d.Driver.Unreserve(address, bytes)
}

func (d *timedDriver) Import(fd int) (gpu.Memory, gpu.Result) {
	defer d.begin(callImport)()
	return d.Driver.Import(fd)
}

func (d *timedDriver) Release(h gpu.Memory) gpu.Result {
	defer d.begin(callRelease)()
	return d.Driver.Release(h)
}

func (d *timedDriver) Map(address, bytes uint64, h gpu.Memory) gpu.Result {
	defer d.begin(callMap)()
	return d.Driver.Map(address, bytes, h)
}

func (d *timedDriver) Unmap(address, bytes uint64) gpu.Result {
	defer d.begin(callUnmap)()
	return d.Driver.Unmap(address, bytes)
}

func (d *timedDriver) HostRegister(address, bytes uint64) (uint64, gpu.Result) {
	defer d.begin(callHostRegister)()
	return d.Driver.HostRegister(address, bytes)
}

func (d *timedDriver) HostUnregister(address uint64) gpu.Result {
	defer d.begin(callHostUnregister)()
	return d.Driver.HostUnregister(address)
}

func (d *timedDriver) ModuleLoad(image []byte) (gpu.Module, error) {
	defer d.begin(callModuleLoad)()
	return d.Driver.ModuleLoad(image)
}

func (d *timedDriver) ModuleUnload(m gpu.Module) gpu.Result {
	defer d.begin(callModuleUnload)()
	return d.Driver.ModuleUnload(m)
}

func (d *timedDriver) ModuleFunction(m gpu.Module, name string) (gpu.Function, error) {
	defer d.begin(callFunction)()
	return d.Driver.ModuleFunction(m, name)
}

func (d *timedDriver) ModuleGlobal(m gpu.Module, name string) (address, bytes uint64, err error) {
	defer d.begin(callGlobal)()
	return d.Driver.ModuleGlobal(m, name)
}

func (d *timedDriver) FuncAttribute(f gpu.Function, attribute int) (int, gpu.Result) {
	defer d.begin(callFuncGet)()
	return d.Driver.FuncAttribute(f, attribute)
}

func (d *timedDriver) SetFuncAttribute(f gpu.Function, attribute, value int) gpu.Result {
	defer d.begin(callFuncSet)()
	return d.Driver.SetFuncAttribute(f, attribute, value)
}

func (d *timedDriver) FuncParamBytes(f gpu.Function) (uint32, bool) {
	defer d.begin(callFuncParam)()
	return d.Driver.FuncParamBytes(f)
}

func (d *timedDriver) SetLimit(limit uint32, value uint64) gpu.Result {
	defer d.begin(callLimitSet)()
	return d.Driver.SetLimit(limit, value)
}

func (d *timedDriver) GetLimit(limit uint32) (uint64, gpu.Result) {
	defer d.begin(callLimitGet)()
	return d.Driver.GetLimit(limit)
}

func (d *timedDriver) StreamCreate(priority int) (gpu.Stream, error) {
	defer d.begin(callStreamCreate)()
	return d.Driver.StreamCreate(priority)
}

func (d *timedDriver) EventCreate(timed bool) (gpu.Event, gpu.Result) {
	defer d.begin(callEventCreate)()
	return d.Driver.EventCreate(timed)
}

func (d *timedDriver) EventDestroy(e gpu.Event) gpu.Result {
	defer d.begin(callEventDestroy)()
	return d.Driver.EventDestroy(e)
}

func (d *timedDriver) GraphKernel(g gpu.Graph, after []gpu.GraphNode, l *gpu.Launch) (gpu.GraphNode, gpu.Result) {
	defer d.begin(callGraphNode)()
	return d.Driver.GraphKernel(g, after, l)
}

func (d *timedDriver) GraphMemset(g gpu.Graph, after []gpu.GraphNode, dst, pitch, width, height uint64, element, value uint32) (gpu.GraphNode, gpu.Result) {
	defer d.begin(callGraphNode)()
	return d.Driver.GraphMemset(g, after, dst, pitch, width, height, element, value)
}

func (d *timedDriver) GraphCopy(g gpu.Graph, after []gpu.GraphNode, dst, src, bytes uint64) (gpu.GraphNode, gpu.Result) {
	defer d.begin(callGraphNode)()
	return d.Driver.GraphCopy(g, after, dst, src, bytes)
}

func (d *timedDriver) GraphCopy3D(g gpu.Graph, after []gpu.GraphNode, c *gpu.Copy3D) (gpu.GraphNode, gpu.Result) {
	defer d.begin(callGraphNode)()
	return d.Driver.GraphCopy3D(g, after, c)
}

func (d *timedDriver) GraphInstantiate(g gpu.Graph) (gpu.GraphExec, gpu.Result) {
	defer d.begin(callGraphInstantiate)()
	return d.Driver.GraphInstantiate(g)
}

func (d *timedDriver) GraphUpload(x gpu.GraphExec, s gpu.Stream) gpu.Result {
	defer d.begin(callGraphUpload)()
	return d.Driver.GraphUpload(x, s)
}

func (d *timedDriver) GraphExecDestroy(x gpu.GraphExec) gpu.Result {
	defer d.begin(callGraphExecDestroy)()
	return d.Driver.GraphExecDestroy(x)
}
