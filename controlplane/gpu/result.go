package gpu

/*
#include "driver.h"
*/
import "C"

import "fmt"

// Result is a CUresult. It is an error when it is not [Success].
type Result int32

// Results that the control plane looks at.
const (
	Success        Result = 0
	InvalidValue   Result = 1
	OutOfMemory    Result = 2
	Deinitialized  Result = 4
	InvalidHandle  Result = 400
	NotReady       Result = 600
	IllegalAddress Result = 700
	LaunchTimeout  Result = 702
	LaunchFailed   Result = 719
	NotSupported   Result = 801
	Unknown        Result = 999
)

// Error is the driver's name of the result and its description.
func (r Result) Error() string {
	if s := C.heddle_gpu_error_string(C.heddle_gpu_result(r)); s != nil {
		return fmt.Sprintf("%s (%d): %s", r.Name(), int32(r), C.GoString(s))
	}
	return fmt.Sprintf("%s (%d)", r.Name(), int32(r))
}

// Name is the driver's name, e.g. "CUDA_ERROR_ILLEGAL_ADDRESS"; a number where the driver knows none.
func (r Result) Name() string {
	if s := C.heddle_gpu_error_name(C.heddle_gpu_result(r)); s != nil {
		return C.GoString(s)
	}
	return fmt.Sprintf("CUresult(%d)", int32(r))
}

// Err is nil for Success and r otherwise.
func (r Result) Err() error {
	if r == Success {
		return nil
	}
	return r
}

func (r Result) in(call string) error {
	if r == Success {
		return nil
	}
	return fmt.Errorf("gpu: %s: %w", call, r)
}

// Sticky reports whether r means that the context is beyond use: every later call would return it, and only a new process
// helps (driver API, cudaError_enum: "the process must be terminated and relaunched", and hardware errors).
func (r Result) Sticky() bool {
	switch r {
	case 214, 220, 226, // ECC, NVLink, contained errors
		700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, // kernel faults
		Deinitialized, 810, Unknown:
		return true
	}
	return false
}
