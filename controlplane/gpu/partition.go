package gpu

/*
#include "driver.h"
*/
import "C"

import "fmt"

// Partition is a part of a device's SMs, a green context of the primary context (CUDA driver API, "Green Contexts"; cuda.h 13.0,
// CUDA_GREEN_CONTEXTS). What is launched on a stream of it ([Device.PartitionStream]) runs on those SMs alone; functions, memory and
// events are the primary context's, which stays the thread's current one. Two partitions may overlap. A partition divides neither memory
// nor the second-level cache.
//
// Only launches are confined: a graph of functions runs on the whole chip wherever it is launched, for cuda.h has a kernel node's
// context be ignored where its function is set. Measured on an H200, docs/results.md section 2, p12.
type Partition struct {
	SMs    int
	handle C.uint64_t
}

// PartitionUnit says how many SMs the device has, and of how many a partition is a multiple (cuDeviceGetDevResource,
// smCoscheduledAlignment). [NotSupported] where the driver has no green contexts (before 12.5).
func (d *Device) PartitionUnit() (sms, unit int, err error) {
	var all, least, at C.uint32_t
	if r := Result(C.heddle_gpu_partition_unit(d.device, &all, &least, &at)); r != Success {
		return 0, 0, r.in("cuDeviceGetDevResource (a partition of the SMs needs driver 555 or later, of CUDA 12.5)")
	}
	return int(all), max(int(least), int(at), 1), nil
}

// NewPartition makes one of at least so many SMs (cuDevSmResourceSplitByCount, cuDevResourceGenerateDesc, cuGreenCtxCreate). It takes
// about 1.4 ms and waits for what runs. It lives as long as the process.
func (d *Device) NewPartition(sms int) (Partition, error) {
	var handle C.uint64_t
	var got C.uint32_t
	r := Result(C.heddle_gpu_partition_create(d.device, C.uint32_t(sms), &handle, &got))
	return Partition{SMs: int(got), handle: handle}, r.in(fmt.Sprintf("a green context of %d SMs", sms))
}

// PartitionStream makes a non-blocking stream of a partition (cuGreenCtxStreamCreate); it waits for nothing.
func (d *Device) PartitionStream(p Partition, priority int) (Stream, error) {
	var s C.uint64_t
	r := Result(C.heddle_gpu_partition_stream(p.handle, C.int32_t(priority), &s))
	return Stream(s), r.in("cuGreenCtxStreamCreate")
}
