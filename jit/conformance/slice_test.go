package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
)

// cuts gives where a grid of so many blocks is cut: the first block of every slice, and the end. Slices of one block, slices of all
// and slices of random sizes come up.
func cuts(blocks uint32, s uint64) []uint32 {
	at := []uint32{0}
	for from := uint32(0); from < blocks; {
		n := uint32(1)
		switch s = mix(s); s % 4 {
		case 0:
		case 1:
			n = blocks - from
		default:
			n = 1 + uint32(s>>8)%((blocks+1)/2)
		}
		from += min(n, blocks-from)
		at = append(at, from)
	}
	return at
}

// sliced runs one launch of a kernel as slices, one after another, with variables of its own.
func sliced(form *coalesce.Form, p *interp.Program, in *instance, order uint64) error {
	var mem interp.Memory
	own, err := mem.Load(p)
	if err != nil {
		return err
	}
	in.got = state{globals: map[string][]byte{}}
	for _, b := range in.start {
		in.got.bufs = append(in.got.bufs, bytes.Clone(b))
	}
	place := func(b []byte) uint64 { return mem.Place(b, false) }
	params := in.k.ParamBlock(in.got.bufs, func(j int) uint64 { return mem.Place(in.got.bufs[j], in.k.Params[j].Kind == "in") })
	globals, err := in.placeGlobals(form.Layout.GlobalNames[0], place)
	if err != nil {
		return err
	}
	blocks := in.k.Grid[0] * in.k.Grid[1] * in.k.Grid[2]
	at := cuts(blocks, order)
	for i, from := range at[:len(at)-1] {
		n := at[i+1] - from
		block := bytes.Repeat([]byte{0xa5}, form.Layout.ParamBytes) // what a slice is not given is not read
		form.Layout.PutSlice(block, params, in.k.Grid, from, n, globals)
		launch := in.k.Launch(&mem, block, order+uint64(i))
		launch.Entry, launch.Grid, launch.Cluster = coalesce.EntryName, [3]uint32{n, 1, 1}, [3]uint32{}
		if _, err := own.Launch(context.Background(), launch); err != nil {
			return fmt.Errorf("blocks %d to %d of %d: %w", from, from+n-1, blocks, err)
		}
	}
	if err := same(in.k, in.got, in.want); err != nil {
		return fmt.Errorf("cut at %v: %w", at, err)
	}
	for name, b := range in.initial {
		if in.want.globals[name] == nil && !bytes.Equal(in.got.globals[name], b) {
			return fmt.Errorf("cut at %v: variable %s was changed", at, name)
		}
	}
	return nil
}

// TestSlices: a launch leaves what it leaves when it is issued as several launches of ranges of its blocks, wherever it is cut.
func TestSlices(t *testing.T) {
	s := mix(seed(t))
	rounds := uint64(2)
	if nightly {
		rounds = 8
	}
	for _, arch := range architectures(s) {
		var all []kernels.Kernel
		for _, k := range kernels.All() {
			if k, ok := k.For(arch); ok && !slices.ContainsFunc(refused, func(s string) bool { return strings.HasPrefix(s, "by-table:"+k.Name+":") }) {
				all = append(all, k)
			}
		}
		some := sample(all, s, 60)
		inParallel(len(some), func(i int) {
			k := some[i]
			if e, _ := program(t, k).Entry(k.Name); e.Err != nil {
				return
			}
			for _, capacity := range []int{2, 8} {
				form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: module(t, k), Entry: k.Name}}, coalesce.Spec{Mapping: coalesce.ByTable, Capacity: capacity, ClientGlobals: true})
				if err != nil {
					t.Errorf("%s %s: %v", arch, k.Name, err)
					return
				}
				p, err := interp.Load([]byte(form.PTX))
				if err != nil {
					t.Errorf("%s %s: %v", arch, k.Name, err)
					return
				}
				for round := range rounds {
					ins, err := instances(t, k, coalesce.ByTable, 0, 1, mix(s+round))
					if err == nil {
						err = sliced(form, p, ins[0], mix(s+round))
					}
					if err != nil {
						t.Errorf("%s %s, grid %v: %v", arch, k.Name, ins[0].k.Grid, err)
						return
					}
				}
			}
		})
	}
}

// TestSlicesNoticed: slices that are wrong on purpose are told from right ones.
func TestSlicesNoticed(t *testing.T) {
	for _, k := range kernels.All() {
		if k.Name != "ids_all" {
			continue
		}
		form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: module(t, k), Entry: k.Name}}, coalesce.Spec{Mapping: coalesce.ByTable, Capacity: 2})
		if err != nil {
			t.Fatal(err)
		}
		try := func(src string) error {
			p, err := interp.Load([]byte(src))
			if err != nil {
				t.Fatal(err)
			}
			ins, err := instances(t, k, coalesce.ByTable, 0, 1, 5)
			if err != nil {
				t.Fatal(err)
			}
			return sliced(form, p, ins[0], 6)
		}
		if err := try(form.PTX); err != nil {
			t.Fatal(err)
		}
		spoiled := strings.Replace(form.PTX, "sub.u32", "add.u32", 1) // slices begin elsewhere
		if spoiled == form.PTX || try(spoiled) == nil {
			t.Error("slices of other blocks: not noticed")
		}
		return
	}
	t.Fatal("no kernel ids_all")
}
