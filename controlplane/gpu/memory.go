package gpu

/*
#include "driver.h"
*/
import "C"

import "fmt"

// Reserve takes [address, address+bytes) of the device address space, or fails: another address is no use, because pointers
// must mean the same in client and executor. address 0 lets the driver choose.
func (d *Device) Reserve(address, bytes uint64) (uint64, error) {
	var got C.uint64_t
	if err := Result(C.heddle_gpu_reserve(C.uint64_t(address), C.uint64_t(bytes), &got)).in("cuMemAddressReserve"); err != nil {
		return 0, err
	}
	if address != 0 && uint64(got) != address {
		C.heddle_gpu_reserve_free(got, C.uint64_t(bytes))
		return 0, fmt.Errorf("gpu: cuMemAddressReserve of %d bytes gave %#x where %#x was asked for: something of this process is there", bytes, uint64(got), address)
	}
	return uint64(got), nil
}

// Unreserve gives a reservation back; nothing may be mapped in it.
func (d *Device) Unreserve(address, bytes uint64) Result {
	return Result(C.heddle_gpu_reserve_free(C.uint64_t(address), C.uint64_t(bytes)))
}

// Import takes a reference on the memory behind a descriptor from [Device.Export] of any process. The fd stays the caller's.
func (d *Device) Import(fd int) (Memory, Result) {
	var h C.uint64_t
	r := Result(C.heddle_gpu_import_fd(C.int32_t(fd), &h))
	return Memory(h), r
}

// Create makes device memory that can be exported; bytes is a multiple of [Device.Granularity].
func (d *Device) Create(bytes uint64) (Memory, Result) {
	var h C.uint64_t
	r := Result(C.heddle_gpu_create(d.device, C.uint64_t(bytes), &h))
	return Memory(h), r
}

// Granularity is the smallest unit of Create and Map, in bytes.
func (d *Device) Granularity() (uint64, Result) {
	var n C.uint64_t
	r := Result(C.heddle_gpu_granularity(d.device, &n))
	return uint64(n), r
}

// Export gives a descriptor of h that another process can import; it is the caller's to close.
func (d *Device) Export(h Memory) (int, Result) {
	fd := C.int32_t(-1)
	r := Result(C.heddle_gpu_export_fd(C.uint64_t(h), &fd))
	return int(fd), r
}

// Release drops a reference; mapped memory lives until it is unmapped.
func (d *Device) Release(h Memory) Result { return Result(C.heddle_gpu_release(C.uint64_t(h))) }

// Map puts h at address of a reservation, readable and writable by the device. It undoes the mapping when access fails.
func (d *Device) Map(address, bytes uint64, h Memory) Result {
	return Result(C.heddle_gpu_map(C.uint64_t(address), C.uint64_t(bytes), C.uint64_t(h), d.device))
}

// Unmap removes a whole mapping of Map.
func (d *Device) Unmap(address, bytes uint64) Result {
	return Result(C.heddle_gpu_unmap(C.uint64_t(address), C.uint64_t(bytes)))
}

// HostRegister pins host memory for every context and returns the address at which the device sees it.
func (d *Device) HostRegister(address, bytes uint64) (uint64, Result) {
	var at C.uint64_t
	r := Result(C.heddle_gpu_host_register(C.uint64_t(address), C.uint64_t(bytes), &at))
	return uint64(at), r
}

// HostUnregister undoes HostRegister.
func (d *Device) HostUnregister(address uint64) Result {
	return Result(C.heddle_gpu_host_unregister(C.uint64_t(address)))
}

// HostAlloc gives pinned host memory that the device sees at the same address.
func (d *Device) HostAlloc(bytes uint64) (uint64, Result) {
	var at C.uint64_t
	r := Result(C.heddle_gpu_host_alloc(C.uint64_t(bytes), &at))
	return uint64(at), r
}

// HostFree frees memory of HostAlloc.
func (d *Device) HostFree(address uint64) Result {
	return Result(C.heddle_gpu_host_free(C.uint64_t(address)))
}
