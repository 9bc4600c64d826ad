package kernels

import (
	"context"

	"github.com/heddle-gpu/heddle/jit/interp"
)

// MaxInstructions bounds a launch of a kernel of the corpus in the
// interpreter, in thread-instructions.
const MaxInstructions = 200_000_000

// Interpret runs a kernel of a loaded module in the interpreter, with the
// inputs and the order of warps that belong to seed, and gives what its
// parameters hold afterwards (buffers changed, scalars as they were).
func Interpret(p *interp.Program, k Kernel, seed uint64) ([][]byte, interp.Stats, error) {
	var mem interp.Memory
	inst, err := mem.Load(p)
	if err != nil {
		return nil, interp.Stats{}, err
	}
	bufs := k.Inputs(seed)
	block := k.ParamBlock(bufs, func(i int) uint64 { return mem.Place(bufs[i], k.Params[i].Kind == "in") })
	st, err := inst.Launch(context.Background(), k.Launch(&mem, block, seed))
	return bufs, st, err
}

// Launch gives the interpreter's launch of a kernel with a parameter block.
func (k Kernel) Launch(mem interp.AddressSpace, params []byte, seed uint64) interp.Launch {
	return interp.Launch{Entry: k.Name, Grid: k.Grid, Block: k.Block, Cluster: k.Cluster, DynShared: k.Shared,
		Params: params, Mem: mem, Seed: seed, MaxInstructions: MaxInstructions}
}
