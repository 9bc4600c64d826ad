package gpu

/*
#include "driver.h"
*/
import "C"

import (
	"runtime"
	"unsafe"
)

// A graph is built node by node, each behind nodes of the same graph that were added before; [Device.GraphInstantiate] makes what
// can be launched of it. Nodes belong to their graph: keep it for as long as an executable graph is to be changed.
//
// The driver does not synchronise access: one graph or executable graph must not be in two calls at a time, whatever the calls are.
// Building touches no stream. One executable graph runs once at a time: each launch is behind work on its stream and behind all
// earlier launches of the same executable graph (cuda.h, cuGraphLaunch).

// GraphCreate makes an empty graph.
func (d *Device) GraphCreate() (Graph, Result) {
	var g C.uint64_t
	r := Result(C.heddle_gpu_graph_create(&g))
	return Graph(g), r
}

// GraphDestroy frees a graph and its nodes; what was instantiated of it stays.
func (d *Device) GraphDestroy(g Graph) Result {
	return Result(C.heddle_gpu_graph_destroy(C.uint64_t(g)))
}

// GraphKernel adds a launch; l.Stream means nothing. The parameter bytes are copied before it returns, and may be Go memory that is
// pinned (runtime.Pinner). A kernel whose dynamic shared memory needs permission ([FuncMaxDynamicShared]) must have it before.
func (d *Device) GraphKernel(g Graph, after []GraphNode, l *Launch) (GraphNode, Result) {
	var n C.uint64_t
	r := Result(C.heddle_gpu_graph_kernel(C.uint64_t(g), nodes(after), C.uint64_t(len(after)), (*C.struct_heddle_gpu_launch)(unsafe.Pointer(l)), &n))
	runtime.KeepAlive(after)
	return GraphNode(n), r
}

// GraphMemset adds what [Device.Memset] does. A memset of nothing is an empty node.
func (d *Device) GraphMemset(g Graph, after []GraphNode, dst, pitch, width, height uint64, element, value uint32) (GraphNode, Result) {
	if width == 0 || height == 0 {
		return d.GraphEmpty(g, after)
	}
	if height == 1 {
		pitch = 0
	}
	m := C.struct_heddle_gpu_memset_node{
		dst: C.uint64_t(dst), pitch: C.size_t(pitch), value: C.uint32_t(value), element: C.uint32_t(element), width: C.size_t(width), height: C.size_t(height),
	}
	var n C.uint64_t
	r := Result(C.heddle_gpu_graph_memset(d.context, C.uint64_t(g), nodes(after), C.uint64_t(len(after)), &m, &n))
	runtime.KeepAlive(after)
	return GraphNode(n), r
}

// GraphCopy adds a copy of bytes between unified addresses. One of nothing is an empty node.
func (d *Device) GraphCopy(g Graph, after []GraphNode, dst, src, bytes uint64) (GraphNode, Result) {
	return d.GraphCopy3D(g, after, &Copy3D{dst, bytes, 1, 0, 0, 0, src, bytes, 1, 0, 0, 0, bytes, 1, 1})
}

// GraphCopy3D adds what [Device.Copy3D] does. A copy of nothing is an empty node.
func (d *Device) GraphCopy3D(g Graph, after []GraphNode, c *Copy3D) (GraphNode, Result) {
	if c[12] == 0 || c[13] == 0 || c[14] == 0 {
		return d.GraphEmpty(g, after)
	}
	var n C.uint64_t
	r := Result(C.heddle_gpu_graph_copy3d(d.context, C.uint64_t(g), nodes(after), C.uint64_t(len(after)), (*C.uint64_t)(unsafe.Pointer(c)), &n))
	runtime.KeepAlive(after)
	return GraphNode(n), r
}

// GraphEmpty adds a node that does nothing but come behind others.
func (d *Device) GraphEmpty(g Graph, after []GraphNode) (GraphNode, Result) {
	var n C.uint64_t
	r := Result(C.heddle_gpu_graph_empty(C.uint64_t(g), nodes(after), C.uint64_t(len(after)), &n))
	runtime.KeepAlive(after)
	return GraphNode(n), r
}

// nodes is the address of the first one, nil for none.
func nodes(after []GraphNode) *C.uint64_t {
	return (*C.uint64_t)(unsafe.Pointer(unsafe.SliceData(after)))
}

// GraphInstantiate makes an executable graph. Its kernels run with the priority of the stream that it is launched on. It may take
// some µs a node, and memory of the device.
func (d *Device) GraphInstantiate(g Graph) (GraphExec, Result) {
	var x C.uint64_t
	r := Result(C.heddle_gpu_graph_instantiate(C.uint64_t(g), &x))
	return GraphExec(x), r
}

// GraphUpload brings x to the device behind earlier work of s, so that the first launch need not.
func (d *Device) GraphUpload(x GraphExec, s Stream) Result {
	return Result(C.heddle_gpu_graph_upload(C.uint64_t(x), C.uint64_t(s)))
}

// GraphLaunch runs x on s: one driver call, however many nodes. No two threads may launch the same x at a time.
func (d *Device) GraphLaunch(x GraphExec, s Stream) Result {
	return Result(C.heddle_gpu_graph_launch(C.uint64_t(x), C.uint64_t(s)))
}

// GraphSetKernel replaces what node n of x's graph launches, in later launches of x; attributes stay (l.Flags means nothing). The
// parameters are as for [Device.GraphKernel].
func (d *Device) GraphSetKernel(x GraphExec, n GraphNode, l *Launch) Result {
	return Result(C.heddle_gpu_graph_set_kernel(C.uint64_t(x), C.uint64_t(n), (*C.struct_heddle_gpu_launch)(unsafe.Pointer(l))))
}

// GraphSetEnabled makes a kernel, memset or copy node do its work in later launches of x, or nothing but its place in the order.
func (d *Device) GraphSetEnabled(x GraphExec, n GraphNode, enabled bool) Result {
	v := C.uint32_t(0)
	if enabled {
		v = 1
	}
	return Result(C.heddle_gpu_graph_set_enabled(C.uint64_t(x), C.uint64_t(n), v))
}

// GraphExecDestroy frees x; a launch of it that is still running goes on to its end.
func (d *Device) GraphExecDestroy(x GraphExec) Result {
	return Result(C.heddle_gpu_graph_exec_destroy(C.uint64_t(x)))
}
