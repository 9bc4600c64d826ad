// Package gpu binds the CUDA driver API by dlopen. It is the only package that touches the driver (a linter enforces that).
//
// The library is libcuda.so.1, or the file that HEDDLE_CUDA_LIBRARY names. Every call is one cgo call (27 ns) around one
// driver call (0.5 to 5 µs): a batched entry point would save under 1 % and is therefore not offered.
//
// CUDA's current context belongs to the OS thread: whoever calls a method of [Device] other than [Device.Bind] first locks its
// goroutine to its thread (runtime.LockOSThread) and calls Bind once on it.
package gpu

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "driver.h"
#cgo noescape heddle_gpu_launch
#cgo nocallback heddle_gpu_launch
#cgo nocallback heddle_gpu_graph_launch
#cgo noescape heddle_gpu_graph_set_kernel
#cgo nocallback heddle_gpu_graph_set_kernel
#cgo noescape heddle_gpu_graph_kernel
#cgo nocallback heddle_gpu_graph_kernel
#cgo nocallback heddle_gpu_memset
#cgo nocallback heddle_gpu_copy
#cgo nocallback heddle_gpu_copy_to_device
#cgo nocallback heddle_gpu_copy_to_host
#cgo noescape heddle_gpu_copy3d
#cgo nocallback heddle_gpu_copy3d
#cgo nocallback heddle_gpu_stream_write32
#cgo nocallback heddle_gpu_stream_wait_event
#cgo nocallback heddle_gpu_stream_query
#cgo nocallback heddle_gpu_event_record
#cgo nocallback heddle_gpu_event_query
#cgo noescape heddle_gpu_event_elapsed
#cgo nocallback heddle_gpu_event_elapsed
*/
import "C"

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"unsafe"
)

// LibraryEnv names another driver library than libcuda.so.1 (tools/simgpu's, in tests).
const LibraryEnv = "HEDDLE_CUDA_LIBRARY"

// Handles of the driver; 0 is none. They mean something only in the process that made them.
type (
	// Stream is a CUstream.
	Stream uint64
	// Event is a CUevent.
	Event uint64
	// Module is a CUmodule.
	Module uint64
	// Function is a CUfunction.
	Function uint64
	// Graph is a CUgraph, GraphNode a CUgraphNode of one, GraphExec a CUgraphExec.
	Graph     uint64
	GraphNode uint64
	GraphExec uint64
	// Memory is a CUmemGenericAllocationHandle.
	Memory uint64
)

// Init loads the driver library and initialises it. Errors name the library, the symbol or the driver's own code.
// It is idempotent; the first library that loads stays for the life of the process.
func Init() error {
	path := os.Getenv(LibraryEnv)
	var p *C.char
	if path != "" {
		p = C.CString(path)
		defer C.free(unsafe.Pointer(p))
	}
	if why := C.heddle_gpu_open(p); why != nil {
		return fmt.Errorf("gpu: %s; is the NVIDIA driver installed (nvidia-smi)? %s may name another library", C.GoString(why), LibraryEnv)
	}
	return Result(C.heddle_gpu_init()).in("cuInit")
}

// DriverVersion is the CUDA version the driver supports, e.g. 13000.
func DriverVersion() (int, error) {
	var v C.int32_t
	r := Result(C.heddle_gpu_driver_version(&v))
	return int(v), r.in("cuDriverGetVersion")
}

// UUID identifies a GPU; its text form is the one nvidia-smi prints.
type UUID [16]byte

// String is "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return "GPU-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseUUID reads String's form; the "GPU-" prefix may be absent.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(s, "GPU-"), "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("gpu: %q is no GPU UUID; expected GPU- and 32 hexadecimal digits as nvidia-smi -L prints", s)
	}
	copy(u[:], b)
	return u, nil
}

// Info describes one visible GPU.
type Info struct {
	Ordinal int
	UUID    UUID
	Name    string
	Bytes   uint64 // total device memory
	Major   int    // compute capability
	Minor   int
}

// Attributes of a device that Heddle asks for (CUdevice_attribute).
const (
	attrMajor         = 75
	attrMinor         = 76
	attrSharedOptin   = 97
	ctxSchedSpin      = 0x01
	ctxLocalMemResize = 0x10
)

// Devices lists the GPUs that this process may use, in the driver's order. Init must have succeeded.
func Devices() ([]Info, error) {
	var n C.int32_t
	if err := Result(C.heddle_gpu_device_count(&n)).in("cuDeviceGetCount"); err != nil {
		return nil, err
	}
	var all []Info
	for i := 0; i < int(n); i++ {
		in, err := info(i)
		if err != nil {
			return nil, err
		}
		all = append(all, in)
	}
	return all, nil
}

func info(ordinal int) (Info, error) {
	var (
		dev   C.int32_t
		uuid  [16]C.uint8_t
		bytes C.uint64_t
		name  [96]C.char
	)
	r := Result(C.heddle_gpu_device(C.int32_t(ordinal), &dev, &uuid[0], &bytes, &name[0]))
	if err := r.in(fmt.Sprintf("cuDeviceGet %d", ordinal)); err != nil {
		return Info{}, err
	}
	in := Info{Ordinal: ordinal, Name: C.GoString(&name[0]), Bytes: uint64(bytes)}
	for i, b := range uuid {
		in.UUID[i] = byte(b)
	}
	for _, a := range []struct {
		attr int
		to   *int
	}{{attrMajor, &in.Major}, {attrMinor, &in.Minor}} {
		var v C.int32_t
		if err := Result(C.heddle_gpu_device_attribute(C.int32_t(a.attr), dev, &v)).in("cuDeviceGetAttribute"); err != nil {
			return Info{}, err
		}
		*a.to = int(v)
	}
	return in, nil
}

// Device is one GPU with its primary context retained. Methods may be called from any bound thread.
type Device struct {
	Info
	// SharedOptin is the most shared memory a block can have, static and dynamic together, in bytes.
	SharedOptin uint32
	// LeastPriority and GreatestPriority are the context's stream priorities; greatest is the more negative number.
	LeastPriority, GreatestPriority int

	device  C.int32_t
	context C.uint64_t
}

// Open retains the primary context of the GPU with this UUID and makes it current on the calling (locked) thread. The context
// keeps local memory at its largest size (CU_CTX_LMEM_RESIZE_TO_MAX), because shrinking would stall all streams.
func Open(uuid UUID) (*Device, error) {
	all, err := Devices()
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, in := range all {
		if in.UUID != uuid {
			seen = append(seen, in.UUID.String())
			continue
		}
		d := &Device{Info: in, device: C.int32_t(in.Ordinal)}
		if err := Result(C.heddle_gpu_primary_retain(d.device, ctxSchedSpin|ctxLocalMemResize, &d.context)).in("cuDevicePrimaryCtxRetain"); err != nil {
			return nil, err
		}
		if err := d.Bind(); err != nil {
			return nil, err
		}
		var v, least, greatest C.int32_t
		if err := Result(C.heddle_gpu_device_attribute(attrSharedOptin, d.device, &v)).in("cuDeviceGetAttribute"); err != nil {
			return nil, err
		}
		if err := Result(C.heddle_gpu_priority_range(&least, &greatest)).in("cuCtxGetStreamPriorityRange"); err != nil {
			return nil, err
		}
		d.SharedOptin, d.LeastPriority, d.GreatestPriority = uint32(v), int(least), int(greatest)
		return d, nil
	}
	return nil, fmt.Errorf("gpu: no device %s; this process sees [%s]: check CUDA_VISIBLE_DEVICES and nvidia-smi -L", uuid, strings.Join(seen, " "))
}

// Bind makes the context current on the calling thread.
func (d *Device) Bind() error {
	return Result(C.heddle_gpu_context_set(d.context)).in("cuCtxSetCurrent")
}

// Close releases the primary context. Nothing of the device may be used afterwards.
func (d *Device) Close() error {
	return Result(C.heddle_gpu_primary_release(d.device)).in("cuDevicePrimaryCtxRelease")
}

// SetLimit is cuCtxSetLimit, GetLimit its reader; limit is a CUlimit.
func (d *Device) SetLimit(limit uint32, value uint64) Result {
	return Result(C.heddle_gpu_context_limit(C.uint32_t(limit), C.uint64_t(value)))
}

// GetLimit is cuCtxGetLimit.
func (d *Device) GetLimit(limit uint32) (uint64, Result) {
	var v C.uint64_t
	r := Result(C.heddle_gpu_context_get_limit(C.uint32_t(limit), &v))
	return uint64(v), r
}

// Synchronize is cuCtxSynchronize.
func (d *Device) Synchronize() Result { return Result(C.heddle_gpu_context_synchronize()) }
