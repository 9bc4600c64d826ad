package coalesce

import (
	"fmt"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// The codes of refusals. docs/coalescing.md explains each to users.
const (
	// CodeNoEntry: the module does not define the kernel.
	CodeNoEntry Code = "no-entry"
	// CodeMalformed: an operand or declaration has no meaning that this package knows, such as an undeclared name.
	CodeMalformed Code = "malformed"
	// CodeReservedName: the module uses names of rewritten modules (word$…), as one that was rewritten already does.
	CodeReservedName Code = "reserved-name"
	// CodeTarget: .target is older than sm_70, unknown, or has 32-bit addresses.
	CodeTarget Code = "target"
	// CodeTargetsDiffer: kernels to pack are for different architectures.
	CodeTargetsDiffer Code = "targets-differ"
	// CodeMapping: the mapping cannot serve these kernels (packing needs ByTable).
	CodeMapping Code = "mapping"
	// CodeParameters: the parameters of two instances do not fit into one launch.
	CodeParameters Code = "parameters-too-large"
	// CodeParameterUse: a kernel parameter is used in a way that is not understood.
	CodeParameterUse Code = "parameter-use"
	// CodeGlobals: the kernel uses a variable that belongs to each client, and Spec.ClientGlobals is not set.
	CodeGlobals Code = "client-globals"
	// CodeGlobalUse: a client's variable is used in a way that cannot be replaced by an address passed at launch, or a shared variable
	// of a kernel to pack in one that a place in the common buffer cannot replace.
	CodeGlobalUse Code = "global-use"
	// CodeCluster: clusters that reach over z, or any cluster with ByTable.
	CodeCluster Code = "cluster"
	// CodeCooperative: %envreg, which holds the workspace of cooperative launches.
	CodeCooperative Code = "cooperative"
	// CodeSpin: a loop that waits for another block's store (a hand-written grid barrier).
	CodeSpin Code = "spin-wait"
	// CodeSpecialRegister: a special register that tells a launch from another, or a processor from another, or is unknown.
	CodeSpecialRegister Code = "special-register"
	// CodeSpecialUse: %ctaid or %nctaid read in a way that is not understood.
	CodeSpecialUse Code = "special-use"
	// CodeLaunchControl: clusterlaunchcontrol, by which blocks take over blocks of the grid.
	CodeLaunchControl Code = "launch-control"
	// CodeTexture: textures, surfaces and samplers, whose handles belong to a client's context.
	CodeTexture Code = "texture"
	// CodeDeviceRuntime: printf, the device heap, or kernels launched by kernels.
	CodeDeviceRuntime Code = "device-runtime"
	// CodeExternal: a function or variable that another module defines.
	CodeExternal Code = "external-function"
	// CodeDirective: a directive that is not understood.
	CodeDirective Code = "directive"
	// CodeAlias: a function reached through .alias.
	CodeAlias Code = "alias"
	// CodeEntryAddress: the kernel's own address is taken, or it is called.
	CodeEntryAddress Code = "entry-address"
	// CodeIndirectCall: a function that would need more parameters is called through its address.
	CodeIndirectCall Code = "indirect-call"
	// CodeExitInFunction: a device function ends the thread, which would leave the instance's count short.
	CodeExitInFunction Code = "exit-in-function"
	// CodeAsyncStore: asynchronous stores to global memory that nothing can wait for but the kernel's end.
	CodeAsyncStore Code = "async-store"
	// CodeBlockSize: kernels to pack that no common block size can launch.
	CodeBlockSize Code = "block-size"
	// CodeRegisters: kernels to pack that divide registers among warps (setmaxnreg) under different limits.
	CodeRegisters Code = "setmaxnreg"
	// CodeTooLarge: the kernel, or the rewritten module, exceeds a bound of this package.
	CodeTooLarge Code = "too-large"
)

// Codes lists every code that Rewrite may give.
var Codes = []Code{CodeNoEntry, CodeMalformed, CodeReservedName, CodeTarget, CodeTargetsDiffer, CodeMapping, CodeParameters,
	CodeParameterUse, CodeGlobals, CodeGlobalUse, CodeCluster, CodeCooperative, CodeSpin, CodeSpecialRegister, CodeSpecialUse,
	CodeLaunchControl, CodeTexture, CodeDeviceRuntime, CodeExternal, CodeDirective, CodeAlias, CodeEntryAddress, CodeIndirectCall,
	CodeExitInFunction, CodeAsyncStore, CodeBlockSize, CodeRegisters, CodeTooLarge}

// refuse makes a Refusal of a kernel.
func (b *body) refuse(code Code, pos ptx.Pos, format string, args ...any) error {
	return &Refusal{Code: code, Entry: b.name, Pos: pos, Detail: fmt.Sprintf(format, args...)}
}
