package gpu

/*
#include <stdlib.h>
#include "driver.h"
*/
import "C"

import (
	"embed"
	"fmt"
	"strings"
	"unsafe"
)

// LinkSources are the files that decide what LinkPTX asks the driver for, for keys of caches of its results.
//
//go:embed link.go driver.c
var LinkSources embed.FS

// UnsupportedPTX is CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the text's .version is newer than the driver.
const UnsupportedPTX Result = 222

// InvalidPTX is CUDA_ERROR_INVALID_PTX.
const InvalidPTX Result = 218

// Target names what LinkPTX compiles for (CUjit_target).
type Target int32

// DeviceTarget is the architecture of the current context's device.
const DeviceTarget Target = 0

// ArchitectureTarget is sm_90 for "sm_90", with the features of one architecture or family for "sm_90a", "sm_100f" (cuda.h,
// CU_COMPUTE_ACCELERATED_TARGET_BASE and CU_COMPUTE_FAMILY_TARGET_BASE).
func ArchitectureTarget(number int, suffix byte) Target {
	switch suffix {
	case 'a':
		number += 0x10000
	case 'f':
		number += 0x20000
	}
	return Target(number)
}

// LinkPTX compiles PTX text with the compiler that the driver holds and gives the machine code. A context must be current. The
// error carries the compiler's log, which names lines of the text; errors.Is finds the Result.
// Source: CUDA driver API, cuLinkCreate, cuLinkAddData, cuLinkComplete.
func (d *Device) LinkPTX(text []byte, t Target) (cubin []byte, err error) {
	if len(text) == 0 {
		return nil, fmt.Errorf("gpu: empty PTX: %w", InvalidValue)
	}
	if text[len(text)-1] != 0 { // the compiler reads up to a zero
		text = append(text[:len(text):len(text)], 0)
	}
	log := make([]byte, jitLogBytes)
	var out unsafe.Pointer
	var n C.uint64_t
	r := Result(C.heddle_gpu_link(unsafe.Pointer(&text[0]), C.uint64_t(len(text)), C.int32_t(t), &out, &n,
		(*C.char)(unsafe.Pointer(&log[0])), C.uint32_t(len(log)-1)))
	if r == Success {
		defer C.free(out)
		if uint64(n) > maxCubinBytes {
			return nil, fmt.Errorf("gpu: the driver's compiler made %d bytes; at most %d are taken", uint64(n), maxCubinBytes)
		}
		return C.GoBytes(out, C.int(n)), nil
	}
	said, _, _ := strings.Cut(string(log), "\x00")
	if said = strings.TrimSpace(said); said != "" {
		return nil, fmt.Errorf("gpu: cuLink: %w: %s", r, said)
	}
	return nil, r.in("cuLink")
}

const maxCubinBytes = 1 << 30
