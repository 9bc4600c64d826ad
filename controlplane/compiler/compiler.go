// Package compiler makes rewritten kernels ("forms") in the background: in processes of their own, with bounded memory and time,
// at low priority, so that whatever happens there costs nothing but the attempt. Results are kept in jit/cache.
//
//	Service (in the executor) ── request ──► heddle compile ── harvest → parse → rewrite → assemble → check ──► answer
//	     │                                                                                                        │
//	     └──────── cache on disk ◄────────────────────────────────────────────────────────────────────────────────┘
//
// Source: design.md section 6; docs/compiler.md.
package compiler

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit"
	"github.com/heddle-gpu/heddle/jit/cache"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/harvest"
)

// MaxImageBytes bounds the images of one request together.
const MaxImageBytes = 256 << 20

// Request asks for one form.
type Request struct {
	Bodies []Body
	Spec   coalesce.Spec
	Device Device
	// Places are where PTX may lie. They are no part of the cache key: PTX is only taken for the machine code that it became.
	Places harvest.Places
}

// Body is one kernel of the form.
type Body struct {
	Image []byte // as the client gave it
	// Hash is HashOf(Image); kept by the caller because images are large and asked for often.
	Hash  [sha256.Size]byte
	Entry string
}

// HashOf is the hash of an image in cache keys.
func HashOf(image []byte) [sha256.Size]byte { return sha256.Sum256(image) }

// Device says for what and by what is compiled.
type Device struct {
	UUID         string
	Major, Minor int    // compute capability
	Driver       string // the driver, whose compiler assembles, with its full version
}

// Answer is a form that the driver can load.
type Answer struct {
	Layout  coalesce.Layout  `json:"layout"`
	Origins []harvest.Origin `json:"origins"` // of the bodies' PTX
	Code    []byte           `json:"-"`       // cubin, or PTX text where the device runs that
	// Cached: it was found on disk.
	Cached bool `json:"-"`
}

// Failure says why there is no form: a code of a fixed list (docs/compiler.md) and a sentence.
type Failure struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Error gives "code: detail".
func (f *Failure) Error() string { return f.Code + ": " + f.Detail }

// Codes of failures, besides those of harvest.Codes and coalesce.Codes.
const (
	// Crashed, TimedOut, TooMuchMemory, Garbage: what became of the process that compiled.
	Crashed       = "compiler-crashed"
	TimedOut      = "compiler-timeout"
	TooMuchMemory = "compiler-memory"
	Garbage       = "compiler-garbage"
	// NotStarted: the process could not be started, or not use the device.
	NotStarted = "compiler-not-started"
	// Assembler: the driver's compiler does not take the PTX.
	Assembler = "assembler"
	// Numerics: the code would, or might, compute other last bits than the client's own.
	Numerics = "numerics"
	// ImageTooLarge: the images exceed MaxImageBytes.
	ImageTooLarge = "image-too-large"
	// Internal: a fault of Heddle's own, with the reason in the detail.
	Internal = "internal"
)

func fail(code, format string, args ...any) *Failure {
	return &Failure{code, fmt.Sprintf(format, args...)}
}

// Key names the request's result in the cache: everything that it depends on.
func (r *Request) Key() cache.Key {
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		panic("compiler: a Spec has no JSON form: " + err.Error()) // it is numbers and truth values
	}
	number := func(n int) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }
	fields := [][]byte{
		version(), spec, number(r.Device.Major), number(r.Device.Minor), []byte(r.Device.Driver), number(len(r.Bodies)),
	}
	for i := range r.Bodies {
		fields = append(fields, r.Bodies[i].Hash[:], []byte(r.Bodies[i].Entry))
	}
	return cache.KeyOf(fields...)
}

// own are this package's sources.
//
//go:embed *.go
var own embed.FS

// version is a hash of the sources of all that makes and checks forms, which every program carries: whatever changes there, no entry
// of before is taken for one of now, and whatever changes elsewhere, entries stay good.
var version = sync.OnceValue(func() []byte {
	a, b, c := jit.Version(), jit.HashSources(own), jit.HashSources(gpu.LinkSources)
	return slices.Concat(a[:], b[:], c[:])
})

// check tells whether a layout is one that a launcher can follow for this request: it comes out of a process that read other
// people's bytes, or from a disk.
func (r *Request) check(l *coalesce.Layout) error {
	tail, globals := coalesce.TailBytesByZ, 0
	if l.Mapping == coalesce.ByTable {
		tail = coalesce.TailBytes
	}
	for _, names := range l.GlobalNames {
		globals = max(globals, len(names))
		if slices.Contains(names, "") {
			return fmt.Errorf("a global without a name")
		}
	}
	room := func(at, n, end int) bool { return at >= 0 && n >= 0 && at <= end && n <= end-at }
	switch {
	case l.Mapping != r.Spec.Mapping:
		return fmt.Errorf("mapping %v; asked for %v", l.Mapping, r.Spec.Mapping)
	case l.Capacity < 2 || l.Capacity > min(r.Spec.Capacity, coalesce.MaxInstances):
		return fmt.Errorf("capacity %d; asked for %d", l.Capacity, r.Spec.Capacity)
	case l.ParamBytes <= 0 || l.ParamBytes > coalesce.MaxParamBytes || l.Stride <= 0 || l.Stride > l.ParamBytes/l.Capacity:
		return fmt.Errorf("%d instances of %d bytes in a block of %d", l.Capacity, l.Stride, l.ParamBytes)
	case !room(l.Tail, tail, l.Stride) || !room(l.Globals, 8*globals, l.Stride) || globals > 0 && l.Globals < l.Tail+tail:
		return fmt.Errorf("tail at %d, %d globals at %d in an instance of %d bytes", l.Tail, globals, l.Globals, l.Stride)
	case len(l.BodyBytes) != len(r.Bodies) || len(l.GlobalNames) > len(r.Bodies):
		return fmt.Errorf("%d bodies and globals of %d; asked for %d", len(l.BodyBytes), len(l.GlobalNames), len(r.Bodies))
	}
	for _, n := range l.BodyBytes {
		if n < 0 || n > l.Tail {
			return fmt.Errorf("a body's %d parameter bytes do not fit before the tail at %d", n, l.Tail)
		}
	}
	return nil
}
