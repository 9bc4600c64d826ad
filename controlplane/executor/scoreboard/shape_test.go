package scoreboard

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/shm"
)

// The table of shapes against a model: ops alike find the same shape, others never, lists keep their order, and with far more
// shapes than cells only those without ops give way.
func TestShapesAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		table := NewShapes()
		codes := []*Code{{ID: 1}, {ID: 2}, {ID: 3}}
		kernels := make([]*Kernel, 12) // several sessions' kernels of each code
		for i := range kernels {
			kernels[i] = &Kernel{Code: codes[i%len(codes)]}
		}
		model := map[*Shape][]*Op{}
		keys := map[*Op]ShapeKey{}
		in := 0
		board := &Session{}
		for step := range 6000 {
			if r.IntN(5) < 3 {
				op := &Op{Session: board, Arrival: uint64(step), Kind: shm.KindLaunch, Kernel: kernels[r.IntN(len(kernels))]}
				l := op.Launch()
				l.Grid, l.Block = [3]uint32{1 + r.Uint32N(40), 1, 1 + r.Uint32N(2)}, [3]uint32{32 << r.Uint32N(3), 1, 1}
				l.SharedBytes = 64 * r.Uint32N(2)
				if r.IntN(4) == 0 {
					l.Flags, l.Cluster = shm.LaunchFlagCluster, [3]uint32{1 + r.Uint32N(2), 1, 1}
				} else {
					l.Cluster[1] = r.Uint32() // means nothing without the flag
				}
				level := int32(r.IntN(3))
				s := table.Of(op, level)
				if s == nil {
					if in < maxShapes {
						t.Fatalf("seed %d step %d: no shape, with %d ops in the table", seed, step, in)
					}
					continue
				}
				key := ShapeKey{Code: op.Kernel.Code, Grid: l.Grid, Block: l.Block, SharedBytes: l.SharedBytes, Flags: l.Flags, Level: level}
				if l.Flags != 0 {
					key.Cluster = l.Cluster
				}
				if s.ShapeKey != key || s.Blocks != uint64(l.Grid[0])*uint64(l.Grid[2]) || s.Threads != uint64(l.Block[0]) || Known(op) != s {
					t.Fatalf("seed %d step %d: shape %+v; want %+v", seed, step, s.ShapeKey, key)
				}
				for o, k := range keys {
					if k == key && o.shape != s {
						t.Fatalf("seed %d step %d: two shapes for one key", seed, step)
					}
				}
				table.Add(op, s)
				model[s], keys[op] = append(model[s], op), key
				in++
			} else if in > 0 {
				for s, ops := range model { // any
					i := r.IntN(len(ops))
					op := ops[i]
					if !table.Remove(op) || table.Remove(op) {
						t.Fatalf("seed %d step %d: an op is removed once", seed, step)
					}
					if model[s] = slices.Delete(ops, i, i+1); len(model[s]) == 0 {
						delete(model, s)
					}
					delete(keys, op)
					in--
					break
				}
			}
			if table.Len() != in || len(table.Active()) != len(model) {
				t.Fatalf("seed %d step %d: %d ops of %d shapes; want %d of %d", seed, step, table.Len(), len(table.Active()), in, len(model))
			}
		}
		active := 0
		for s, ops := range model {
			var got []*Op
			for op := s.Ready.First(); op != nil; op = op.Alike() {
				got = append(got, op)
			}
			if !slices.Equal(got, ops) || s.Ready.Len() != len(ops) || !slices.Contains(s.Code.ReadyShapes(), s) {
				t.Fatalf("seed %d: a list holds %d ops; want %d", seed, len(got), len(ops))
			}
		}
		for _, c := range codes {
			active += len(c.ReadyShapes())
		}
		if active != len(model) {
			t.Errorf("seed %d: the codes know %d shapes; want %d", seed, active, len(model))
		}
	}
}

// More shapes than there are cells, all with ops: the next op has none, and gets one when a place is free.
func TestShapesFull(t *testing.T) {
	table := NewShapes()
	k := &Kernel{Code: &Code{ID: 1}}
	op := func(x uint32) *Op {
		o := &Op{Session: &Session{}, Arrival: uint64(x), Kind: shm.KindLaunch, Kernel: k}
		o.Launch().Grid = [3]uint32{x, 1, 1}
		return o
	}
	var first *Op
	for i := range uint32(maxShapes) {
		o := op(i + 1)
		s := table.Of(o, 0)
		if s == nil {
			t.Fatalf("no shape for op %d", i)
		}
		table.Add(o, s)
		if i == 0 {
			first = o
		}
	}
	extra := op(1 << 20)
	if table.Of(extra, 0) != nil {
		t.Error("a shape with ops gave way")
	}
	table.Remove(first)
	if s := table.Of(extra, 0); s == nil || s.Grid[0] != 1<<20 {
		t.Error("a free place is not used")
	}
}

// What was measured of a shape comes back with it: when it gave way to others, and in another executor's table; never for a kernel
// of another content.
func TestShapesRemember(t *testing.T) {
	of := func(table *Shapes, content uint64, x uint32) *Shape {
		o := &Op{Session: &Session{}, Kind: shm.KindLaunch, Kernel: &Kernel{Code: &Code{ID: uint32(content), Content: content}}}
		o.Launch().Grid = [3]uint32{x, 1, 1}
		return table.Of(o, 0)
	}
	table := NewShapes()
	of(table, 7, 1).Times.Add(1, 5000)
	for i := range uint32(3 * maxShapes) {
		of(table, 8, i)
	}
	if s := of(table, 7, 1); s.Times.Alone() != 5000 {
		t.Errorf("a shape that gave way took %d ns; want 5000", s.Times.Alone())
	}
	of(table, 7, 2).Times.Add(4, 8000)
	book, next := cost.NewBook(), NewShapes()
	for part := range Parts {
		table.Measured(book, part)
	}
	next.Recall(book)
	if a, b := of(next, 7, 1), of(next, 7, 2); a.Times.Alone() != 5000 || b.Times.Each(cost.Bucket(4)) != 2000 {
		t.Errorf("in another table: %d and %d ns; want 5000 and 2000", a.Times.Alone(), b.Times.Each(cost.Bucket(4)))
	}
	if s := of(next, 9, 1); s.Times != (cost.Times{}) {
		t.Error("another kernel has its times")
	}
	if s := of(next, 0, 1); s.Times != (cost.Times{}) {
		t.Error("a kernel whose content is not known has its times")
	}
}
