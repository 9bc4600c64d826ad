// Package scoreboard is the executor's record of every op of a session: waiting → ready → issued → done. It decides nothing:
// policy chooses among the ready ops, word binds them, issue hands them to the driver.
//
// A Session belongs to the poller's thread. Issue threads read an Op between the hand-off through their queue and the
// execution of its command, and write nothing but Op.Launch().Stream. Nothing here allocates after New.
//
// Source: docs/protocol.md sections 2 and 3.
package scoreboard

import (
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of a session. A ring may hold more records than OpsPerSession; the rest stays in the ring until there is room.
const (
	OpsPerSession  = 2048
	depsPerSession = 8192
	// ScratchEvent is the event slot whose time nobody asks for.
	ScratchEvent = shm.EventSlots - 1
)

// Kernel is a loaded kernel as the hot path sees it. The loader fills it before it is added to a session.
type Kernel struct {
	ID       uint32
	Function gpu.Function
	// ParamBytes is the size of the parameter block, valid when ParamsKnown.
	ParamBytes  uint32
	ParamsKnown bool
	// Limit holds the dynamic shared memory that the function currently allows. It is shared by all sessions of one module
	// instance, and only ever raised.
	Limit *atomic.Uint32
	// StaticShared is the kernel's own shared memory in bytes.
	StaticShared uint32
	// Code is what all sessions share of it.
	Code *Code
	// Globals are this session's addresses of the variables that Code's forms ask for (coalesce.Layout.GlobalNames), nil until they
	// are known and when there are none.
	Globals atomic.Pointer[[]uint64]
	// Key tells its content from others', equal in every process and after every restart (image and entry); 0: not known.
	Key uint64
	// Apart: this session's ops of it are never joined with others (a fault in company). The poller's thread writes and reads it.
	Apart bool
	// Whole: a partition of the SMs refused this kernel, and the chip took it. An issue thread writes it.
	Whole atomic.Bool
	// Starts counts the runs that begin with an op of it (package sequence); the poller's.
	Starts int

	shape *Shape // of its last op: the next one is nearly always alike
}

// Op is one op of one lane.
type Op struct {
	Session *Session
	Kernel  *Kernel
	Graph   *Graph // of a GRAPH; means nothing in other ops
	Kind    uint16
	// Signal asks for lane.done right behind the op.
	Signal bool
	// Dropped ops are never issued; they count as done for the ring.
	Dropped bool
	// Joined: it was issued in one launch with ops of others. Whoever builds such a word sets it before Issue.
	Joined bool
	// Ordered: it was its lane's first and could not be issued yet.
	Ordered bool
	// Cuts: it may be issued in slices of its blocks. The gather's.
	Cuts bool
	// Hurts: while it runs, ops of the class above (Class.Above) take noticeably longer. Avoided: it waited until what it would have slowed,
	// and been slowed by, had run. Both are the gather's.
	Hurts, Avoided bool
	// Instead: it was launched whole, because the driver refused its first slice. The issue thread's.
	Instead bool
	Lane    uint32
	Seq     uint32
	Ready   uint32
	// Arrival orders ops of all sessions by when they were scanned, ReadyAt is when the op could first be issued, ns of the poller's
	// clock.
	Arrival uint64
	ReadyAt int64
	// Latest is when the op must start for its request to meet its objective, Deadline when the request must end; ns of the poller's
	// clock. Without an objective Deadline is 0, and Latest is far but finite.
	Latest, Deadline int64
	// Held is how long it was held for ops to join it with, ns; the gather's.
	Held int64
	// Cost estimates how long it takes, or what is left of it, ns of the whole chip; 0: not known.
	Cost int64
	// Harm is how long a request of the class above is delayed while it runs, ns, as measured; 0: not at all, or not known. The gather's.
	Harm int64
	// Passed counts the commands that the op's issue thread has executed, Number is the op's own; nil until it is issued. The op
	// belongs to that thread until Passed reaches Number, whatever the done word, which the client can write, says.
	Passed *atomic.Uint64
	Number uint64

	next                    *Op    // lane FIFO of waiting ops
	shape                   *Shape // whose Ready list holds the op
	alikeAfter, alikeBefore *Op    // in that list
	feeds                   *Shape // while it is in that list: the shape of the op behind it in its lane, when that can follow at once
	end                     uint64 // ring position behind the record and the op-less records that follow it
	depEnd                  uint64
	deps                    []shm.Dep // satisfied up to depsAt
	depsAt                  int

	// Args is the body of an op other than a launch: its words in the wire's order (Copy3D) or as decode.go says. A launch's lies in
	// the same place: an op is small, because the poller walks over very many.
	Args gpu.Copy3D
}

// Launch is the body of a LAUNCH.
func (o *Op) Launch() *gpu.Launch { return (*gpu.Launch)(unsafe.Pointer(&o.Args)) }

// Neither holds a pointer, and the one fits into the other.
var _ [unsafe.Sizeof(gpu.Copy3D{}) - unsafe.Sizeof(gpu.Launch{})]byte

// Key tells what the op is by content, whichever client submitted it: kernel and grid, or kind and about how many bytes. It costs
// a few ns.
func (o *Op) Key() uint64 {
	if o.Kind == shm.KindLaunch {
		g := &o.Launch().Grid
		h := (o.Kernel.Key ^ uint64(g[0]) ^ uint64(g[1])<<32) * 0x9e3779b97f4a7c15
		return (h^h>>32^uint64(g[2]))*0xbf58476d1ce4e5b9 + 1
	}
	if o.Kind == shm.KindGraph {
		return o.Graph.Key
	}
	return uint64(o.Kind)<<8 | uint64(bits.Len64(o.Bytes())) + 1
}

// Bytes is about how much memory an op that is no launch writes.
func (o *Op) Bytes() uint64 {
	a := &o.Args
	switch o.Kind {
	case shm.KindMemset:
		return a[2] * a[3] * a[4]
	case shm.KindCopy:
		return a[2]
	case shm.KindCopy3D:
		return a[12] * a[13] * a[14]
	case shm.KindPut, shm.KindGet:
		return a[2]
	}
	return 0
}

// Kernels is how many kernels the op launches.
func (o *Op) Kernels() uint64 {
	switch o.Kind {
	case shm.KindLaunch:
		return 1
	case shm.KindGraph:
		return uint64(o.Graph.Kernels)
	}
	return 0
}

// KernelID is the number of the kernel that the op launches, 0 when it is none or one of many.
func (o *Op) KernelID() uint32 {
	if o.Kernel == nil {
		return 0
	}
	return o.Kernel.ID
}

// Deps are the dependencies on numbers of lanes that the op was accepted with (READY ones included); read-only.
func (o *Op) Deps() []shm.Dep { return o.deps }

// after is the number that follows n: 0 is never a number.
func after(n uint32) uint32 {
	if n++; n == 0 {
		return 1
	}
	return n
}

// Count is how many numbers lie in (from, to].
func Count(from, to uint32) uint32 {
	n := to - from
	if to < from {
		n-- // the 0 that does not exist
	}
	return n
}
