package gpu

/*
#include "driver.h"
*/
import "C"

import "unsafe"

// Launch is one kernel launch. Params is the address of ParamBytes bytes in the layout that cuFuncGetParamInfo describes; the
// memory must stay as it is until [Device.Launch] returns, and must not be Go memory.
type Launch struct {
	Function      Function
	Stream        Stream
	Grid, Block   [3]uint32
	SharedBytes   uint32 // dynamic
	Flags         uint32 // shm.LaunchFlag*
	Cluster       [3]uint32
	ClusterPolicy uint32
	Params        uint64
	ParamBytes    uint64
}

// The Go struct is handed to C as it is.
var _ [unsafe.Sizeof(C.struct_heddle_gpu_launch{})]byte = [unsafe.Sizeof(Launch{})]byte{}

// Launch is cuLaunchKernel with the `extra` form, or cuLaunchKernelEx when Flags ask for it.
func (d *Device) Launch(l *Launch) Result {
	return Result(C.heddle_gpu_launch((*C.struct_heddle_gpu_launch)(unsafe.Pointer(l))))
}

// Memset writes height rows of width elements of element bytes (1, 2 or 4), pitch bytes apart (ignored when height is 1).
func (d *Device) Memset(s Stream, dst, pitch, width, height uint64, element, value uint32) Result {
	return Result(C.heddle_gpu_memset(C.uint64_t(s), C.uint64_t(dst), C.uint64_t(pitch), C.uint64_t(width), C.uint64_t(height), C.uint32_t(element), C.uint32_t(value)))
}

// Copy is cuMemcpyAsync: the driver finds out what each address is.
func (d *Device) Copy(s Stream, dst, src, bytes uint64) Result {
	return Result(C.heddle_gpu_copy(C.uint64_t(s), C.uint64_t(dst), C.uint64_t(src), C.uint64_t(bytes)))
}

// CopyToDevice is cuMemcpyHtoDAsync; host memory that is not registered makes it synchronous.
func (d *Device) CopyToDevice(s Stream, dst, host, bytes uint64) Result {
	return Result(C.heddle_gpu_copy_to_device(C.uint64_t(s), C.uint64_t(dst), C.uint64_t(host), C.uint64_t(bytes)))
}

// CopyToHost is cuMemcpyDtoHAsync.
func (d *Device) CopyToHost(s Stream, host, src, bytes uint64) Result {
	return Result(C.heddle_gpu_copy_to_host(C.uint64_t(s), C.uint64_t(host), C.uint64_t(src), C.uint64_t(bytes)))
}

// Copy3D holds a pitched copy in the order of the wire: dst address, pitch, height in rows, x in bytes, y, z; the same for src;
// width in bytes, height, depth.
type Copy3D [15]uint64

// Copy3D is cuMemcpy3DAsync between unified addresses.
func (d *Device) Copy3D(s Stream, c *Copy3D) Result {
	return Result(C.heddle_gpu_copy3d(C.uint64_t(s), (*C.uint64_t)(unsafe.Pointer(c))))
}

// StreamCreate makes a non-blocking stream; priority is clamped by the driver to the context's range.
func (d *Device) StreamCreate(priority int) (Stream, error) {
	var s C.uint64_t
	r := Result(C.heddle_gpu_stream_create(&s, C.int32_t(priority)))
	return Stream(s), r.in("cuStreamCreateWithPriority")
}

// StreamDestroy is cuStreamDestroy.
func (d *Device) StreamDestroy(s Stream) Result {
	return Result(C.heddle_gpu_stream_destroy(C.uint64_t(s)))
}

// StreamQuery returns Success when all work is complete, [NotReady] before, or the context's sticky error.
func (d *Device) StreamQuery(s Stream) Result {
	return Result(C.heddle_gpu_stream_query(C.uint64_t(s)))
}

// StreamSynchronize is cuStreamSynchronize.
func (d *Device) StreamSynchronize(s Stream) Result {
	return Result(C.heddle_gpu_stream_synchronize(C.uint64_t(s)))
}

// StreamWaitEvent makes later work of s wait for what e was last recorded behind.
func (d *Device) StreamWaitEvent(s Stream, e Event) Result {
	return Result(C.heddle_gpu_stream_wait_event(C.uint64_t(s), C.uint64_t(e)))
}

// WriteValue32 stores value at address (a device address) behind all earlier work of s, after a memory barrier.
func (d *Device) WriteValue32(s Stream, address uint64, value uint32) Result {
	return Result(C.heddle_gpu_stream_write32(C.uint64_t(s), C.uint64_t(address), C.uint32_t(value)))
}

// EventCreate makes an event; one that is not timed is cheaper to record and to wait for.
func (d *Device) EventCreate(timed bool) (Event, Result) {
	var e C.uint64_t
	flags := C.uint32_t(2) // CU_EVENT_DISABLE_TIMING
	if timed {
		flags = 0
	}
	r := Result(C.heddle_gpu_event_create(&e, flags))
	return Event(e), r
}

// EventDestroy is cuEventDestroy.
func (d *Device) EventDestroy(e Event) Result {
	return Result(C.heddle_gpu_event_destroy(C.uint64_t(e)))
}

// EventRecord is cuEventRecord.
func (d *Device) EventRecord(e Event, s Stream) Result {
	return Result(C.heddle_gpu_event_record(C.uint64_t(e), C.uint64_t(s)))
}

// EventQuery returns Success, [NotReady], or the context's sticky error.
func (d *Device) EventQuery(e Event) Result { return Result(C.heddle_gpu_event_query(C.uint64_t(e))) }

// EventElapsed is the time between two completed events in milliseconds.
func (d *Device) EventElapsed(start, end Event) (float32, Result) {
	var ms C.float
	r := Result(C.heddle_gpu_event_elapsed(&ms, C.uint64_t(start), C.uint64_t(end)))
	return float32(ms), r
}
