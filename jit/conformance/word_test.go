package conformance

import (
	"bytes"
	"context"
	"fmt"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
)

// instance is one kernel launch that a word does, with what it must leave.
type instance struct {
	k      kernels.Kernel
	p      *interp.Program // of the original
	body   int
	inputs uint64   // seed
	start  [][]byte // what the parameters hold before
	want   state

	got           state
	initial       map[string][]byte // variables of its own, before the launch
	done, counter uint64
	doneWord      []byte
	counterWord   []byte
	value         uint32
	stores        int // to the done word
	problem       error
}

// watched is device memory that sees which instance every store belongs to.
type watched struct {
	mem   *interp.Memory
	owner map[uint64]*instance // by first address of a mapping that one instance alone may write
}

// Slice implements interp.AddressSpace: an instance's done word may be stored once, when everything else is done.
func (w *watched) Slice(addr uint64, n int, write bool) []byte {
	if write {
		base, _, _ := w.mem.Segment(addr)
		if in := w.owner[base]; in != nil {
			switch {
			case addr == in.done:
				in.stores++
				if in.problem == nil {
					if err := same(in.k, in.got, in.want); err != nil {
						in.problem = fmt.Errorf("done was stored before the results: %w", err)
					} else if !bytes.Equal(in.counterWord[4:8], make([]byte, 4)) {
						in.problem = fmt.Errorf("done was stored while the counter is %x", in.counterWord[4:8])
					}
				}
			case in.stores > 0 && in.problem == nil:
				in.problem = fmt.Errorf("a store to %#x after done", addr)
			}
		}
	}
	return w.mem.Slice(addr, n, write)
}

// guard is what surrounds the words that a launch may change.
var guard = bytes.Repeat([]byte{0xc3}, 4)

// run launches the instances as one word and compares what each leaves with want. silent is the number of an instance that
// asks for no done word, -1 for none. watch checks every single store, and takes longer.
func run(f *coalesce.Form, p *interp.Program, ins []*instance, order uint64, silent int, watch bool) error {
	mem := &watched{mem: &interp.Memory{}, owner: map[uint64]*instance{}}
	own, err := mem.mem.Load(p)
	if err != nil {
		return err
	}
	l := &f.Layout
	block := bytes.Repeat([]byte{0xa5}, l.ParamBytes) // what no instance is given is not read
	var shared, total uint32
	for i, in := range ins {
		in.got = state{globals: map[string][]byte{}}
		for _, b := range in.start {
			in.got.bufs = append(in.got.bufs, bytes.Clone(b))
		}
		in.stores, in.problem = 0, nil
		place := func(b []byte) uint64 {
			a := mem.mem.Place(b, false)
			mem.owner[a] = in
			return a
		}
		params := in.k.ParamBlock(in.got.bufs, func(j int) uint64 {
			if in.k.Params[j].Kind == "in" {
				return mem.mem.Place(in.got.bufs[j], true)
			}
			return place(in.got.bufs[j])
		})
		globals, err := in.placeGlobals(l.GlobalNames[in.body], place)
		if err != nil {
			return err
		}
		in.doneWord = append(bytes.Repeat(guard, 2), guard...)
		in.counterWord = append(append(append([]byte{}, guard...), 0, 0, 0, 0), guard...)
		in.done, in.counter = mem.mem.Place(in.doneWord, false)+4, mem.mem.Place(in.counterWord, false)+4
		mem.owner[in.done-4] = in
		in.value = uint32(mix(order+uint64(i))) | 1
		done, counter := in.done, in.counter
		if i == silent {
			done, counter = 0, 0xdead0000
		}
		blocks := in.k.Grid[0] * in.k.Grid[1] * in.k.Grid[2]
		l.Put(block, i, in.body, params, done, counter, in.value, blocks*in.k.Block[0]*in.k.Block[1]*in.k.Block[2], in.k.Grid, total, globals)
		total += blocks
		shared = max(shared, in.k.Shared)
	}
	l.Finish(block, len(ins), total)
	k := ins[0].k
	launch := k.Launch(mem, block, order)
	if !watch {
		launch.Mem = mem.mem
	}
	launch.Entry, launch.DynShared = coalesce.EntryName, shared
	launch.Grid = [3]uint32{k.Grid[0], k.Grid[1], uint32(len(ins))}
	if l.Mapping == coalesce.ByTable {
		launch.Grid, launch.Cluster = [3]uint32{total, 1, 1}, [3]uint32{}
	}
	launch.MaxInstructions *= uint64(len(ins))
	if _, err := own.Launch(context.Background(), launch); err != nil {
		return err
	}
	for i, in := range ins {
		if err := in.check(i == silent, watch); err != nil {
			return fmt.Errorf("instance %d of %d (%s): %w", i, len(ins), in.k.Name, err)
		}
	}
	return nil
}

// placeGlobals gives the instance variables of its own and says where they are.
func (in *instance) placeGlobals(names []string, place func([]byte) uint64) ([]uint64, error) {
	if len(names) == 0 {
		return nil, nil
	}
	all := map[string]interp.Global{}
	for _, g := range in.p.Globals() {
		all[g.Name] = g
	}
	mine := map[string]uint64{}
	bufs := map[string][]byte{}
	own, err := in.p.Instantiate(func(name string) uint64 {
		bufs[name] = make([]byte, all[name].Size)
		mine[name] = place(bufs[name])
		return mine[name]
	})
	if err != nil {
		return nil, err
	}
	in.initial = map[string][]byte{}
	for name, b := range bufs {
		copy(b, own.InitBytes(all[name]))
		in.initial[name] = bytes.Clone(b)
		in.got.globals[name] = b
	}
	var addrs []uint64
	for _, name := range names {
		if mine[name] == 0 {
			return nil, fmt.Errorf("the layout names a variable %s that the module lacks", name)
		}
		addrs = append(addrs, mine[name])
	}
	return addrs, nil
}

// check compares what the instance left with what it must leave.
func (in *instance) check(silent, watch bool) error {
	if in.problem != nil {
		return in.problem
	}
	if err := same(in.k, in.got, in.want); err != nil {
		return err
	}
	for name, b := range in.initial {
		if in.want.globals[name] == nil && !bytes.Equal(in.got.globals[name], b) {
			return fmt.Errorf("variable %s was changed", name)
		}
	}
	want := append([]byte{}, guard...)
	stores := 0
	if silent {
		want = append(want, guard...)
	} else {
		stores = 1
		want = append(want, byte(in.value), byte(in.value>>8), byte(in.value>>16), byte(in.value>>24))
	}
	if want = append(want, guard...); !bytes.Equal(in.doneWord, want) {
		return fmt.Errorf("the done word and its neighbours hold %x, expected %x", in.doneWord, want)
	}
	if watch && in.stores != stores {
		return fmt.Errorf("%d stores to the done word, expected %d", in.stores, stores)
	}
	if want := append(append(append([]byte{}, guard...), 0, 0, 0, 0), guard...); !bytes.Equal(in.counterWord, want) {
		return fmt.Errorf("the counter and its neighbours hold %x, expected %x", in.counterWord, want)
	}
	return nil
}
