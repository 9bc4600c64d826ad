package kernels

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/heddle-gpu/heddle/jit/interp"
)

// ParamBlock gives the parameter block of a launch: addr gives the device address
// of the i-th parameter where that is a buffer.
func (k Kernel) ParamBlock(inputs [][]byte, addr func(i int) uint64) []byte {
	off, size := k.Layout()
	block := make([]byte, size)
	for i, p := range k.Params {
		if p.Buffer() {
			binary.LittleEndian.PutUint64(block[off[i]:], addr(i))
		} else {
			copy(block[off[i]:], inputs[i])
		}
	}
	return block
}

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
	st, err := inst.Launch(context.Background(), interp.Launch{Entry: k.Name, Grid: k.Grid, Block: k.Block, DynShared: k.Shared,
		Params: block, Mem: &mem, Seed: seed, MaxInstructions: 200_000_000})
	return bufs, st, err
}

// Diff compares the results of two runs bit for bit, up to the bits of NaNs,
// which it makes canonical in place. It gives nil, or where they differ.
func (k Kernel) Diff(got, want [][]byte) error {
	var msg bytes.Buffer
	for j, p := range k.Params {
		if !p.Result() {
			continue
		}
		Canonical(p.Type, got[j])
		Canonical(p.Type, want[j])
		if bytes.Equal(got[j], want[j]) {
			continue
		}
		n, bad := p.Elem(), 0
		for e := 0; e < p.N; e++ {
			g, w := got[j][e*n:][:n], want[j][e*n:][:n]
			if !bytes.Equal(g, w) {
				if bad++; bad <= 3 {
					fmt.Fprintf(&msg, "parameter %d element %d: %x, want %x (little-endian bytes); ", j, e, g, w)
				}
			}
		}
		fmt.Fprintf(&msg, "parameter %d: %d of %d elements differ; ", j, bad, p.N)
	}
	if msg.Len() == 0 {
		return nil
	}
	return fmt.Errorf("kernel %s: %s", k.Name, bytes.TrimSuffix(msg.Bytes(), []byte("; ")))
}
