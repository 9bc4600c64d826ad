// Package image reads code images as the driver takes them: fatbin containers, cubins (ELF) and PTX text. It finds the code that
// a device of some compute capability would run, and what that code needs beyond its parameters: device globals, and services
// that only the process that launches a kernel can give (printf, the device heap, textures, dynamic parallelism).
//
// An image comes from another process: every offset and count is checked, nothing is trusted, and sizes are bounded. The package
// knows nothing of processes, sockets or the driver.
//
// Formats: PTX ISA; the CUDA binary utilities' documentation; what nvcc 13.0 writes (testdata/README.md).
package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds.
const (
	// MaxBytes bounds an image, and each part of it after decompression.
	MaxBytes   = 1 << 30
	maxEntries = 4096
)

// ErrFormat is wrapped by every error that means: these bytes are no image that this package understands.
var ErrFormat = errors.New("image: not understood")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Kind of code.
type Kind int

// Kinds.
const (
	PTX Kind = iota + 1
	Cubin
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case PTX:
		return "PTX"
	case Cubin:
		return "cubin"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Part is one piece of code in an image.
type Part struct {
	Kind  Kind
	SM    int  // 90 for compute capability 9.0; 0 in a bare cubin or PTX text whose own header says it
	Exact bool // built for this architecture only (sm_90a), as far as the container says so
	// Name is what the compiler called it, often empty.
	Name string

	data       []byte
	compressed compression
	size       uint64 // after decompression
}

type compression int

const (
	stored compression = iota
	lz4Block
	zstdFrame
)

// Info is what Inspect found.
type Info struct {
	// Code is the part that a device runs.
	Code Part
	// Text: the image is bare PTX text, which the driver wants zero-terminated.
	Text bool
	// Writable names a device global or constant that host or kernels can write, "" when there is none: such an image has state,
	// and needs an instance for each process that uses it. Read-only literals (strings of assert and printf) do not count.
	Writable string
	// Kernels has an entry for every kernel.
	Kernels map[string]Kernel
}

// Kernel is what is known of one kernel.
type Kernel struct {
	// Refuse says why the kernel must run in the process that owns its textures, heap or printf buffer; "" when it may run anywhere.
	Refuse string
}

// Refuse is Kernel.Refuse of a kernel; "" for a name that the image does not have.
func (in *Info) Refuse(name string) string { return in.Kernels[name].Refuse }

// Inspect finds the code that a device of this compute capability would take from the image, and what it needs. Every error wraps
// ErrFormat or says that the image has no code for the device.
func Inspect(b []byte, major, minor int) (*Info, error) {
	parts, err := Parts(b)
	if err != nil {
		return nil, err
	}
	p, ok := Select(parts, major, minor)
	if !ok {
		return nil, fmt.Errorf("image: no code for compute capability %d.%d among its %d parts", major, minor, len(parts))
	}
	code, err := p.Bytes()
	if err != nil {
		return nil, err
	}
	in := &Info{Code: p, Text: p.Kind == PTX && len(parts) == 1 && !isFatbin(b)}
	switch p.Kind {
	case Cubin:
		err = inspectCubin(in, code)
	case PTX:
		err = inspectPTX(in, code)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Parts lists the code in an image without decompressing it. The parts refer to b.
func Parts(b []byte) ([]Part, error) {
	switch {
	case len(b) > MaxBytes:
		return nil, malformed("%d bytes; at most %d are accepted", len(b), MaxBytes)
	case len(b) >= 4 && isFatbin(b):
		return fatbin(b)
	case len(b) >= 4 && binary.LittleEndian.Uint32(b) == wrapperMagic:
		return nil, malformed("a fatbin wrapper holds addresses of its process; send what it points to")
	case isELF(b):
		sm, err := elfTarget(b)
		if err != nil {
			return nil, err
		}
		return []Part{{Kind: Cubin, SM: sm, data: b, size: uint64(len(b))}}, nil
	}
	text, _, _ := bytes.Cut(b, []byte{0})
	if !bytes.Contains(text, []byte(".version")) || !bytes.Contains(text, []byte(".target")) {
		return nil, malformed("%d bytes that are neither a fatbin, nor a cubin, nor PTX text", len(b))
	}
	return []Part{{Kind: PTX, data: text, size: uint64(len(text))}}, nil
}

// Select picks what the driver picks: machine code of the same major architecture with the highest minor that the device has
// (architecture-specific code only for its own), else the newest PTX that is not newer than the device.
func Select(parts []Part, major, minor int) (Part, bool) {
	device := major*10 + minor
	best, found := Part{}, false
	for _, p := range parts {
		if p.Kind != Cubin || p.SM/10 != major && p.SM != 0 || p.SM > device || (p.Exact && p.SM != device) {
			continue
		}
		if !found || p.SM > best.SM || (p.SM == best.SM && p.Exact && !best.Exact) {
			best, found = p, true
		}
	}
	if found {
		return best, true
	}
	for _, p := range parts {
		if p.Kind != PTX || p.SM > device || (p.Exact && p.SM != device) {
			continue
		}
		if !found || p.SM > best.SM {
			best, found = p, true
		}
	}
	return best, found
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte("\x7fELF")) }

// literal tells a read-only literal of the compiler from a variable that somebody may write.
func literal(name string) bool {
	return hasAnyPrefix(name, "$str", "__unnamed_", "$__", "__cuda_", "$_")
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if len(s) >= len(p) && s[:len(p)] == p {
			return true
		}
	}
	return false
}

// service says what an external function of the device runtime means for a kernel that calls it; "" when it may be called
// anywhere: an assertion reports through the context's error.
func service(name string) string {
	switch {
	case name == "vprintf":
		return "calls printf, whose output belongs to the client's process"
	case name == "malloc" || name == "free":
		return "uses the device heap, which belongs to the client's context"
	case hasAnyPrefix(name, "__cudaCDP", "cudaLaunchDevice", "cudaGetParameterBuffer", "cudaDevice", "cudaStream", "cudaEvent", "cudaGraph", "__cnp"):
		return "launches kernels from the device"
	}
	return ""
}

const textures = "reads textures or surfaces, whose handles belong to the client's context"
