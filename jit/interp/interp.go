// Package interp executes PTX: it is the oracle against which rewritten
// kernels are checked, and the engine of the software GPU (tools/simgpu).
//
// [Load] parses and decodes a module into an immutable, shareable [Program];
// [Program.Instantiate] binds it to the addresses that the caller chose for its
// global variables; [Instance.Launch] runs one grid against an [AddressSpace].
//
// How a grid runs: one goroutine executes it. Threads go in warps of 32, each
// instruction for all active lanes at once. A warp whose threads diverge is a
// set of fragments (program counter and lane mask) that are run lowest program
// counter first and merge where they meet, with turns for the others, so that
// threads of one warp may wait for each other as on sm_70 and later. Warps and
// blocks take turns in an order drawn from Launch.Seed: equal seeds, equal runs.
//
// Results are bit-exact where the PTX ISA is exact; approximate instructions
// (rcp.approx, ex2.approx, …) are computed in double precision and rounded
// once, within the ISA's bounds but not equal to the bits of any one chip.
//
// The package knows nothing of processes, sockets or the driver.
package interp

import (
	"context"
	"fmt"
	"io"
	"sort"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// AddressSpace gives the bytes behind global and generic addresses.
// Implementations must be safe for concurrent use.
type AddressSpace interface {
	// Slice returns n bytes at addr, valid until the launch ends, or nil when
	// [addr, addr+n) is not mapped as a whole, or is not writable though write is set.
	Slice(addr uint64, n int, write bool) []byte
}

// SegmentSpace is an optional fast path of an AddressSpace: warps remember the
// last segments that they touched and ask only for others.
type SegmentSpace interface {
	AddressSpace
	// Segment returns the mapping that holds addr: its first address and its
	// bytes (which must stay valid, and stay mapped there, until the launch
	// ends), and whether it may be written. mem is nil where nothing is mapped.
	Segment(addr uint64) (base uint64, mem []byte, writable bool)
}

// Windows of the generic address space that do not belong to the AddressSpace.
// They lie above every user address of a 64-bit host, so that they never hide one.
const (
	SharedWindow = 0x00f1_0000_0000_0000 // shared memory; block r of a cluster at + r<<24
	LocalWindow  = 0x00f2_0000_0000_0000 // each thread's own local memory
	ParamWindow  = 0x00f3_0000_0000_0000 // the kernel's parameter block
	FuncWindow   = 0x00f4_0000_0000_0000 // addresses of device functions
	windowMask   = 0xffff_0000_0000_0000
)

// Limits on one launch, for hostile kernels.
const (
	MaxThreadsPerBlock = 1024
	MaxSharedPerBlock  = 227 << 10 // as sm_90
	MaxLocalPerThread  = 512 << 10 // as every architecture so far
	MaxCallDepth       = 256
	MaxParamBytes      = 32764
	maxLaunchMemory    = 1 << 30 // registers, local and shared memory of the blocks in flight
)

// Param is one parameter of an entry in its parameter block, in bytes.
type Param = ptx.Param

// EntryInfo describes a kernel.
type EntryInfo struct {
	Name         string
	Params       []Param
	ParamBytes   int
	StaticShared int // bytes of shared memory known from the code
	LocalBytes   int // bytes of local memory per thread, of the entry's own frame
	Regs         int // estimate of 32-bit registers per thread, 16…255
	// MaxThreads is what .maxntid or .reqntid allow, MaxThreadsPerBlock without.
	MaxThreads int
	Limits     ptx.Limits
	// Calls lists the external functions reached: vprintf, __assertfail, malloc, free.
	Calls []string
	// Err is why this entry cannot be launched, nil if it can: a *ptx.Error
	// at the first instruction that is not supported.
	Err error
}

// Reloc asks for the address of a variable inside another's initial bytes:
// place(Sym)+Addend, shifted and cut to Size bytes, is stored at Offset.
type Reloc struct {
	Offset, Size int
	Sym          string
	Addend       int64
	Shift        uint
}

// Global is a .global or .const variable of a module.
type Global struct {
	Name    string
	Size    int64 // bytes
	Align   int
	Const   bool
	Extern  bool   // declared here, defined elsewhere
	Init    []byte // first bytes; the rest is zero. Shorter than or as long as Size
	Relocs  []Reloc
	Written bool // some instruction may write it: stored to, or its address is taken
}

// Launch describes one grid.
type Launch struct {
	Entry                string
	Grid, Block, Cluster [3]uint32 // zeros count as 1
	DynShared            uint32    // bytes of dynamic shared memory
	Params               []byte    // the parameter block, at least EntryInfo.ParamBytes long
	Mem                  AddressSpace
	Seed                 uint64        // order of warps and blocks
	MaxInstructions      uint64        // thread-instructions before a Timeout fault; 0: no limit
	SMs                  int           // processors of the chip, for %smid, %nsmid and blocks in flight; 0: 132
	FirstSM, Part        int           // its blocks run on Part processors from FirstSM on; Part 0: on all
	Printf               io.Writer     // device printf and assert messages; nil discards
	Clock                func() uint64 // nanoseconds for %globaltimer and nanosleep; nil: derived from instructions executed
	GridID               uint64        // %gridid
	EnvReg               [32]uint32    // %envreg; 1 and 2 hold a cooperative grid's workspace address (high, low)
	// Malloc and Free serve device-side malloc and free; without them malloc returns null.
	Malloc func(size uint64) uint64
	Free   func(addr uint64)
}

// Stats is what a launch did.
type Stats struct {
	Instructions uint64 // thread-instructions: active lanes summed over instructions
	Blocks       uint64 // blocks that ran to their end
}

// FaultKind says what a kernel did wrong.
type FaultKind uint8

// The kinds of fault.
const (
	IllegalAddress     FaultKind = iota + 1 // global or generic access outside every mapping, or a write to read-only memory
	MisalignedAddress                       // address not a multiple of the access size
	IllegalInstruction                      // an instruction with operands that have no meaning at run time
	Trap                                    // trap or brkpt
	Assert                                  // __assertfail
	Timeout                                 // MaxInstructions, or the context ended
	StackOverflow                           // calls or local memory beyond the limits
	SharedOutOfRange                        // outside the block's shared memory
	LocalOutOfRange                         // outside the thread's local memory
	BarrierDeadlock                         // every thread waits for one that never comes
	OutOfMemory                             // the blocks in flight need more than the interpreter's cap
	BadCall                                 // call of an address that is no function
)

var faultNames = [...]string{"", "illegal address", "misaligned address", "illegal instruction", "trap", "device-side assert",
	"timeout", "stack overflow", "shared memory out of range", "local memory out of range", "barrier deadlock", "out of memory",
	"call of an address that is no function"}

// String names the kind.
func (k FaultKind) String() string {
	if int(k) < len(faultNames) && k > 0 {
		return faultNames[k]
	}
	return fmt.Sprintf("fault %d", uint8(k))
}

// Fault is how a kernel failed, and where.
type Fault struct {
	Kind          FaultKind
	Addr          uint64 // the address, for faults that have one
	Entry         string
	Instr         string // the instruction as text
	Line, Col     int    // in the PTX source
	Block, Thread [3]uint32
	Msg           string // more, for people
	Cause         error  // the context's error for a Timeout that it caused
}

// Error says what, where and in which thread.
func (f *Fault) Error() string {
	s := fmt.Sprintf("interp: %s in %s at %d:%d", f.Kind, f.Entry, f.Line, f.Col)
	if f.Instr != "" {
		s += " (" + f.Instr + ")"
	}
	switch f.Kind {
	case IllegalAddress, MisalignedAddress, SharedOutOfRange, LocalOutOfRange, BadCall:
		s += fmt.Sprintf(", address %#x", f.Addr)
	}
	s += fmt.Sprintf(", block (%d,%d,%d) thread (%d,%d,%d)", f.Block[0], f.Block[1], f.Block[2], f.Thread[0], f.Thread[1], f.Thread[2])
	if f.Msg != "" {
		s += ": " + f.Msg
	}
	return s
}

// Unwrap gives the context's error, if that ended the launch.
func (f *Fault) Unwrap() error { return f.Cause }

// LaunchError is a launch that was refused before anything ran.
type LaunchError struct {
	Entry string
	Msg   string
	Err   error // *ptx.Error when the entry's code is not supported
}

// Error gives entry and reason.
func (e *LaunchError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("interp: cannot launch %s: %s: %v", e.Entry, e.Msg, e.Err)
	}
	return fmt.Sprintf("interp: cannot launch %s: %s", e.Entry, e.Msg)
}

// Unwrap gives the error in the entry's code.
func (e *LaunchError) Unwrap() error { return e.Err }

// Instance is a program whose global variables have addresses. It is immutable
// and may be launched from several goroutines at once.
type Instance struct {
	p     *Program
	addrs map[string]uint64
	// consts are the places of .const variables, by address.
	consts []constRange
}

type constRange struct{ base, end uint64 }

// Instantiate binds the program to addresses: place is asked once for each of
// Globals, and must give an address aligned as Global.Align says. Filling the
// memory there (Global.Init, Global.Relocs) is the caller's business;
// InitBytes helps.
func (p *Program) Instantiate(place func(name string) uint64) (*Instance, error) {
	in := &Instance{p: p, addrs: make(map[string]uint64, len(p.globals))}
	for _, g := range p.globals {
		a := place(g.Name)
		if a == 0 || g.Align > 1 && a%uint64(g.Align) != 0 {
			return nil, fmt.Errorf("interp: variable %s placed at %#x: expected an address that is a multiple of %d", g.Name, a, g.Align)
		}
		in.addrs[g.Name] = a
		if g.Const {
			in.consts = append(in.consts, constRange{a, a + uint64(g.Size)})
		}
	}
	sort.Slice(in.consts, func(i, j int) bool { return in.consts[i].base < in.consts[j].base })
	return in, nil
}

// Addr gives the address that the instance has for a variable, 0 when there is none.
func (in *Instance) Addr(name string) uint64 { return in.addrs[name] }

// InitBytes gives the first bytes of a variable with all addresses filled in.
// What lies beyond them is zero.
func (in *Instance) InitBytes(g Global) []byte {
	b := append([]byte(nil), g.Init...)
	for _, r := range g.Relocs {
		v := (in.addrs[r.Sym] + uint64(r.Addend)) >> r.Shift
		for i := 0; i < r.Size && r.Offset+i < len(b); i++ {
			b[r.Offset+i] = byte(v >> (8 * i))
		}
	}
	return b
}

// Launch runs one grid to its end. The error is nil, a *Fault (the kernel did
// something wrong or was stopped), or a *LaunchError (nothing ran).
func (in *Instance) Launch(ctx context.Context, l Launch) (Stats, error) {
	g, err := in.prepare(ctx, l)
	if err != nil {
		return Stats{}, err
	}
	err = g.run()
	return Stats{Instructions: g.count, Blocks: g.blocksDone}, err
}
