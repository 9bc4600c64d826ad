package gpu

/*
#include "driver.h"
*/
import "C"

import "fmt"

// Chip is what the device's multiprocessors hold at a time (cuDeviceGetAttribute); 0 where the driver does not say.
type Chip struct {
	SMs              int
	ThreadsPerSM     int
	RegistersPerSM   int
	SharedBytesPerSM int
	BlocksPerSM      int
}

// Chip asks the driver for it.
func (d *Device) Chip() Chip {
	at := func(attribute C.int32_t) int {
		var v C.int32_t
		if C.heddle_gpu_device_attribute(attribute, d.device, &v) != 0 {
			return 0
		}
		return int(v)
	}
	// CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, MAX_THREADS_PER_MULTIPROCESSOR, MAX_REGISTERS_PER_MULTIPROCESSOR,
	// MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, MAX_BLOCKS_PER_MULTIPROCESSOR
	return Chip{SMs: at(16), ThreadsPerSM: at(39), RegistersPerSM: at(82), SharedBytesPerSM: at(81), BlocksPerSM: at(106)}
}

// Zeroed gives device memory that holds zeros, for the life of the context. The calling thread must be bound. It waits for the
// context's work: call it before there is any.
func (d *Device) Zeroed(bytes uint64) (address uint64, err error) {
	unit, r := d.Granularity()
	if r != Success {
		return 0, r.in("cuMemGetAllocationGranularity")
	}
	whole := (bytes + unit - 1) / unit * unit
	h, r := d.Create(whole)
	if r != Success {
		return 0, r.in(fmt.Sprintf("cuMemCreate of %d bytes", whole))
	}
	defer d.Release(h) // the mapping holds the memory
	if address, err = d.Reserve(0, whole); err != nil {
		return 0, err
	}
	if r = d.Map(address, whole, h); r == Success {
		if r = d.Memset(0, address, 0, whole/4, 1, 4, 0); r == Success {
			r = Result(C.heddle_gpu_context_synchronize())
		}
		if r != Success {
			d.Unmap(address, whole)
		}
	}
	if r != Success {
		d.Unreserve(address, whole)
		return 0, r.in(fmt.Sprintf("%d zeroed bytes", whole))
	}
	return address, nil
}
