// Package coalesce rewrites PTX so that one launch does the work of several: N instances of one kernel, each with its own
// parameters, or instances of several kernels side by side (packing).
//
// Whole blocks keep their identity: threads, barriers, shared memory, wgmma and TMA stay as they are. What changes is where a
// block finds its parameters (an array in the parameter space, one element an instance), which block it believes to be
// (%ctaid, %nctaid), and what happens when it ends: the last thread of an instance may store a done word, so that nobody waits
// for the other instances. Every block executes the same arithmetic on the same values as in a launch of its own, so results are
// equal bit for bit.
//
// What the rewriting does not understand it refuses, with a [Refusal] whose [Code] is one of a fixed list (docs/coalescing.md).
//
// The package knows nothing of processes, sockets or the driver. Source: design.md section 6; PTX ISA 9.0 sections 5.1.6, 5.3,
// 9.7.13, 10.
package coalesce

import (
	"fmt"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Mapping is how a block finds its instance.
type Mapping uint8

const (
	// ByZ needs gridDim.z = 1 and one grid shape in all instances: the instance is %ctaid.z, at no cost. The launch's grid is
	// (x, y, instances).
	ByZ Mapping = iota
	// ByTable takes any grids: the launch's grid is (sum of all blocks, 1, 1), and the instance is searched in a table of first
	// blocks. It is the only mapping for packing.
	ByTable
)

// String names the mapping as docs, metrics and cache keys do.
func (m Mapping) String() string {
	switch m {
	case ByZ:
		return "by-z"
	case ByTable:
		return "by-table"
	}
	return fmt.Sprintf("Mapping(%d)", uint8(m))
}

// Bounds.
const (
	// MaxParamBytes is the most that a launch can pass (PTX ISA 8.1 and later, sm_70 and later).
	MaxParamBytes = 32764
	// MaxInstances bounds Spec.Capacity.
	MaxInstances = 256
	// MaxBodies is how many different kernels one form can hold.
	MaxBodies = 8
	// EntryName is the kernel in every rewritten module.
	EntryName = "heddle_word"
)

// Kernel is one kernel to rewrite. The module is not changed.
type Kernel struct {
	Module *ptx.Module
	Entry  string
}

// Spec says what to make of it.
type Spec struct {
	Mapping Mapping
	// Capacity is the most instances in one launch; fewer may be launched. Rewrite lowers it to what MaxParamBytes admits.
	Capacity int
	// ClientGlobals: .global and .const variables that host or kernels can write belong to each client, and are passed as
	// addresses (Layout.Globals). Otherwise a kernel that mentions one is refused.
	ClientGlobals bool
	// ParamBase is where a parameter block begins in the machine code's bank of constants (image.Entry.Base): the places of
	// parameters that are aligned to more than 16 bytes depend on it, see Layout. 0: as ptx.Func.Layout has them, which is what the
	// software GPU does.
	ParamBase int
}

// Form is a rewritten module and what a launcher must know of it.
type Form struct {
	PTX    string // one module with the one entry EntryName
	Layout Layout
}

// Layout describes the parameter block of a word's launch: Capacity instances of Stride bytes each, from offset 0. The block is
// always ParamBytes long; bytes of instances that are not launched are not read. An instance holds, all little-endian:
//
//	0                 the kernel's own parameter block, BodyBytes[body] bytes
//	Tail +  0  u64    done: address of the instance's done word; 0: store none
//	Tail +  8  u64    counter: address of a u32 that is 0 before the launch, and is 0 again when the instance has ended; not
//	                  touched when done is 0
//	Tail + 16  u32    value: what the instance's last thread stores to done, when all the instance did is visible to the system
//	Tail + 20  u32    threads: of the whole instance, blocks × threads of a block; at most 2³²-1
//	Tail + 24  u32×4  grid x, y, z of the instance (ByTable; else absent), and the body's number
//	Tail + 40  u32    first: the number of its first block (ByTable), ascending from 0 over the instances launched; the first
//	                  instance that is not launched, if there is one, holds the sum of all blocks here, and so do all after it
//	Globals   u64 each
//
// With ByTable the launch's grid is (sum of all blocks, 1, 1).
//
// Parameters aligned to more than 16 bytes (tensor maps): ptxas and the driver align them in the bank of constants, where the block
// begins at 0x160 (sm_75 to sm_89), 0x210 (sm_90) or 0x380 (sm_100 and later), and not within the block (measured with ptxas 13.0).
// So on sm_90 a client's block has a tensor map behind a pointer at 48, where ptx.Func.Layout says 64: Spec.ParamBase says which.
// The launch's block is declared with no more alignment than its beginning has, or it would begin later.
type Layout struct {
	Mapping    Mapping
	Capacity   int   // instances, at least 2
	Stride     int   // bytes from one instance to the next
	Tail       int   // offset of the words behind the parameters
	Globals    int   // offset of the addresses of client globals
	ParamBytes int   // of the launch
	Align      int   // of the parameter block, bytes
	BodyBytes  []int // parameter bytes of each body, in the order of Rewrite's kernels
	// GlobalNames are the variables whose addresses an instance passes, in order, per body: an instance of body b passes those of b.
	GlobalNames [][]string
	// UsesDynamicShared: some body has extern shared memory. A launch passes the largest size that an instance asks for; bodies
	// that read %dynamic_smem_size need ExactDynamicShared: all instances ask for the same.
	UsesDynamicShared, ExactDynamicShared bool
}

// Offsets within an instance, from Layout.Tail.
const (
	OffDone    = 0
	OffCounter = 8
	OffValue   = 16
	OffThreads = 20
	OffGrid    = 24
	OffBody    = 36
	OffFirst   = 40
	// TailBytes is the size of the words behind the parameters with ByTable, TailBytesByZ with ByZ.
	TailBytes    = 48
	TailBytesByZ = 24
)

// Code says why a kernel is refused. The list is fixed: CLI, metrics and docs/coalescing.md use the same words.
type Code string

// Refusal is Rewrite's error for valid PTX that must not or cannot be coalesced.
type Refusal struct {
	Code   Code
	Entry  string
	Pos    ptx.Pos // in the module's source; zero when the refusal is about the kernel as a whole
	Detail string
}

// Error gives "entry:line:col: code: detail".
func (r *Refusal) Error() string {
	if r.Pos == (ptx.Pos{}) {
		return fmt.Sprintf("%s: %s: %s", r.Entry, r.Code, r.Detail)
	}
	return fmt.Sprintf("%s:%s: %s: %s", r.Entry, r.Pos, r.Code, r.Detail)
}
