package gpu

/*
#include <stdlib.h>
#include "driver.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"unsafe"
)

// Attributes of a function (CUfunction_attribute) that Heddle reads or writes.
const (
	FuncMaxThreads        = 0
	FuncStaticShared      = 1
	FuncRegisters         = 4
	FuncMaxDynamicShared  = 8
	FuncNonPortableClust  = 14
	jitLogBytes           = 16 << 10
	maxParams             = 4096
	maxParamBytesOfDriver = 32764
)

// ModuleLoad loads a fatbin, cubin or zero-terminated PTX text. image must be readable past the size that its own headers
// name only as far as the caller guarantees: check it with jit/image first. An error carries the assembler's log.
func (d *Device) ModuleLoad(image []byte) (Module, error) {
	if len(image) == 0 {
		return 0, fmt.Errorf("gpu: empty image: %w", InvalidValue)
	}
	log := make([]byte, jitLogBytes)
	var m C.uint64_t
	r := Result(C.heddle_gpu_module_load(unsafe.Pointer(&image[0]), &m, (*C.char)(unsafe.Pointer(&log[0])), C.uint32_t(len(log)-1)))
	if r == Success {
		return Module(m), nil
	}
	text, _, _ := strings.Cut(string(log), "\x00")
	if text = strings.TrimSpace(text); text != "" {
		return 0, fmt.Errorf("gpu: cuModuleLoadDataEx: %w: %s", r, text)
	}
	return 0, r.in("cuModuleLoadDataEx")
}

// ModuleUnload is cuModuleUnload.
func (d *Device) ModuleUnload(m Module) Result {
	return Result(C.heddle_gpu_module_unload(C.uint64_t(m)))
}

// ModuleFunction finds a kernel by name and loads its code now, so that no launch has to.
func (d *Device) ModuleFunction(m Module, name string) (Function, error) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	var f C.uint64_t
	if err := Result(C.heddle_gpu_module_function(C.uint64_t(m), n, &f)).in("cuModuleGetFunction " + name); err != nil {
		return 0, err
	}
	return Function(f), Result(C.heddle_gpu_function_load(f)).in("cuFuncLoad " + name)
}

// ModuleGlobal finds a device global: address and size in bytes.
func (d *Device) ModuleGlobal(m Module, name string) (address, bytes uint64, err error) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	var a, b C.uint64_t
	err = Result(C.heddle_gpu_module_global(C.uint64_t(m), n, &a, &b)).in("cuModuleGetGlobal " + name)
	return uint64(a), uint64(b), err
}

// FuncAttribute reads a CUfunction_attribute.
func (d *Device) FuncAttribute(f Function, attribute int) (int, Result) {
	var v C.int32_t
	r := Result(C.heddle_gpu_function_get(C.uint64_t(f), C.int32_t(attribute), &v))
	return int(v), r
}

// SetFuncAttribute writes one.
func (d *Device) SetFuncAttribute(f Function, attribute, value int) Result {
	return Result(C.heddle_gpu_function_set(C.uint64_t(f), C.int32_t(attribute), C.int32_t(value)))
}

// FuncParamBytes is the size of a kernel's parameter block: the end of its last parameter (cuFuncGetParamInfo; the count is
// found by asking until the driver refuses). ok is false when this driver cannot tell.
func (d *Device) FuncParamBytes(f Function) (bytes uint32, ok bool) {
	for i := uint64(0); i < maxParams; i++ {
		var off, n C.uint64_t
		switch r := Result(C.heddle_gpu_function_param(C.uint64_t(f), C.uint64_t(i), &off, &n)); r {
		case Success:
			if end := uint64(off) + uint64(n); end <= maxParamBytesOfDriver && uint32(end) > bytes {
				bytes = uint32(end)
			}
		case InvalidValue:
			return bytes, true
		default:
			return 0, false
		}
	}
	return 0, false
}
