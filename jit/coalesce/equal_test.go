package coalesce

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// corpus parses the modules of the corpus once.
type corpus struct {
	modules  map[string]*ptx.Module
	programs map[string]*interp.Program
}

func (c *corpus) load(t testing.TB, k kernels.Kernel) (*ptx.Module, *interp.Program) {
	t.Helper()
	if c.modules == nil {
		c.modules, c.programs = map[string]*ptx.Module{}, map[string]*interp.Program{}
	}
	if c.modules[k.Source.File] == nil {
		m, err := ptx.Parse(k.PTX())
		if err != nil {
			t.Fatalf("%s: %v", k.Source.File, err)
		}
		p, err := interp.LoadModule(m)
		if err != nil {
			t.Fatalf("%s: %v", k.Source.File, err)
		}
		c.modules[k.Source.File], c.programs[k.Source.File] = m, p
	}
	return c.modules[k.Source.File], c.programs[k.Source.File]
}

// instance is one client's part of a word.
type instance struct {
	k       kernels.Kernel
	body    int
	seed    uint64
	bufs    [][]byte
	done    []byte // 8 bytes: done word and counter
	globals *interp.Instance
}

// runWord launches a form for instances, all of one block size, and checks that each one's done word was stored and its counter
// is 0 again. signal says which instances ask for a done word.
func runWord(form *Form, ins []*instance, programs []*interp.Program, seed uint64, signal func(i int) bool) error {
	p, err := interp.Load([]byte(form.PTX))
	if err != nil {
		return fmt.Errorf("rewritten module: %w", err)
	}
	mem := &interp.Memory{}
	word, err := mem.Load(p)
	if err != nil {
		return err
	}
	l := &form.Layout
	block := make([]byte, l.ParamBytes)
	for i := range block {
		block[i] = 0xcc // nothing may read what was not put
	}
	var blocks, shared uint32
	for i, in := range ins {
		in.bufs = in.k.Inputs(in.seed)
		params := in.k.ParamBlock(in.bufs, func(n int) uint64 { return mem.Place(in.bufs[n], in.k.Params[n].Kind == "in") })
		in.done = make([]byte, 8)
		at := mem.Place(in.done, false)
		var globals []uint64
		if names := l.GlobalNames[in.body]; len(names) > 0 {
			if in.globals, err = mem.Load(programs[in.body]); err != nil {
				return err
			}
			for _, n := range names {
				globals = append(globals, in.globals.Addr(n))
			}
		}
		g := in.k.Grid
		threads := g[0] * g[1] * g[2] * in.k.Block[0] * in.k.Block[1] * in.k.Block[2]
		done := at
		if !signal(i) {
			done = 0
		}
		l.Put(block, i, in.body, params, done, at+4, 1000+uint32(i), threads, g, blocks, globals)
		blocks += g[0] * g[1] * g[2]
		shared = max(shared, in.k.Shared)
	}
	l.Finish(block, len(ins), blocks)
	grid := [3]uint32{blocks, 1, 1}
	if l.Mapping == ByZ {
		grid = [3]uint32{ins[0].k.Grid[0], ins[0].k.Grid[1], uint32(len(ins))}
	}
	_, err = word.Launch(context.Background(), interp.Launch{Entry: EntryName, Grid: grid, Block: ins[0].k.Block, Cluster: ins[0].k.Cluster, DynShared: shared,
		Params: block, Mem: mem, Seed: seed, MaxInstructions: 200_000_000})
	if err != nil {
		return err
	}
	for i, in := range ins {
		want := [2]uint32{1000 + uint32(i), 0}
		if !signal(i) {
			want[0] = 0
		}
		got := [2]uint32{binary.LittleEndian.Uint32(in.done), binary.LittleEndian.Uint32(in.done[4:])}
		if got != want {
			return fmt.Errorf("instance %d: done word and counter are %v, want %v", i, got, want)
		}
	}
	return nil
}

// TestEqual coalesces every kernel of the corpus that is not refused: each instance's results are those of a launch of its own.
func TestEqual(t *testing.T) {
	var c corpus
	equal := 0
	for _, k := range kernels.All() {
		m, p := c.load(t, k)
		if e, _ := p.Entry(k.Name); e.Err != nil {
			continue // the interpreter cannot run it
		}
		for _, mapping := range []Mapping{ByZ, ByTable} {
			if mapping == ByZ && k.Grid[2] != 1 || mapping == ByTable && k.Cluster[0]*k.Cluster[1]*k.Cluster[2] > 1 {
				continue
			}
			n := 2 + int(mapping)
			form, err := Rewrite([]Kernel{{m, k.Name}}, Spec{Mapping: mapping, Capacity: n + 1, ClientGlobals: true})
			if err != nil {
				if _, ok := err.(*Refusal); !ok {
					t.Errorf("%s %v: %v", k.Name, mapping, err)
				}
				continue
			}
			var ins []*instance
			for i := range n {
				ins = append(ins, &instance{k: k, seed: uint64(i + 1)})
			}
			if err := runWord(form, ins, []*interp.Program{p}, 5, func(i int) bool { return i != 1 }); err != nil {
				t.Errorf("%s %v: %v", k.Name, mapping, err)
				continue
			}
			for i, in := range ins {
				want, _, err := kernels.Interpret(p, k, in.seed)
				if err != nil {
					t.Errorf("%s: %v", k.Name, err)
				} else if err := k.Diff(in.bufs, want); err != nil {
					t.Errorf("%v, instance %d of %d: %v", mapping, i, n, err)
				}
			}
			equal++
		}
	}
	if equal < 100 {
		t.Errorf("%d kernels compared, expected 100 at least", equal)
	}
}

// TestPack packs neighbours of the corpus that have the same block shape and target, three kernels and six instances a word, each
// kernel in two grids: results are those of launches of their own.
func TestPack(t *testing.T) {
	var c corpus
	type shape struct {
		target string
		block  [3]uint32
	}
	groups := map[shape][]kernels.Kernel{}
	var order []shape
	for _, k := range kernels.All() {
		m, p := c.load(t, k)
		if e, _ := p.Entry(k.Name); e.Err != nil || k.Cluster[0]*k.Cluster[1]*k.Cluster[2] > 1 {
			continue
		}
		if _, err := Rewrite([]Kernel{{m, k.Name}}, Spec{Mapping: ByTable, Capacity: 2, ClientGlobals: true}); err != nil {
			continue
		}
		s := shape{m.Target[0], k.Block}
		if groups[s] == nil {
			order = append(order, s)
		}
		groups[s] = append(groups[s], k)
	}
	packed := 0
	for _, s := range order {
		list := groups[s]
		for from := 0; from+3 <= len(list); from += 3 {
			three := list[from : from+3]
			var ks []Kernel
			var programs []*interp.Program
			var ins []*instance
			names := ""
			for i, k := range three {
				m, p := c.load(t, k)
				ks, programs = append(ks, Kernel{m, k.Name}), append(programs, p)
				grids := k.Grids()
				ins = append(ins, &instance{k: k, body: i, seed: 1}, &instance{k: k.WithGrid(grids[len(grids)-1]), body: i, seed: 2})
				names += k.Name + " "
			}
			ins[0], ins[3], ins[5] = ins[3], ins[5], ins[0]
			form, err := Rewrite(ks, Spec{Mapping: ByTable, Capacity: 7, ClientGlobals: true})
			if r, ok := err.(*Refusal); ok && (r.Code == CodeBlockSize || r.Code == CodeRegisters) || form != nil && form.Layout.Capacity < len(ins) {
				continue
			} else if err != nil {
				t.Errorf("%s: %v", names, err)
				continue
			}
			if form.Layout.ExactDynamicShared && (three[0].Shared != three[1].Shared || three[1].Shared != three[2].Shared) {
				continue
			}
			if err := runWord(form, ins, programs, 9, func(i int) bool { return i != 4 }); err != nil {
				t.Errorf("%s: %v", names, err)
				continue
			}
			for i, in := range ins {
				want, _, err := kernels.Interpret(programs[in.body], in.k, in.seed)
				if err != nil {
					t.Errorf("%s: %v", in.k.Name, err)
				} else if err := in.k.Diff(in.bufs, want); err != nil {
					t.Errorf("packed %sinstance %d: %v", names, i, err)
				}
			}
			packed += 3
		}
	}
	if packed < 60 {
		t.Errorf("%d kernels packed, expected 60 at least", packed)
	}
}
