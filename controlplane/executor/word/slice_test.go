package word

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// Who is cut: an op that takes longer than its class may without being cut, of a kernel with a form by table, of more blocks than the chip
// holds, without launch attributes, of a class that may be rewritten.
func TestWhoIsCut(t *testing.T) {
	const wave = 132 * 16 // blocks of 128 threads and 32 registers
	for what, c := range map[string]struct {
		change func(s *scoreboard.Class, l *launch, f *scoreboard.Form)
		cut    bool
	}{
		"a long op":                    {func(*scoreboard.Class, *launch, *scoreboard.Form) {}, true},
		"nobody is urgent":             {func(c *scoreboard.Class, _ *launch, _ *scoreboard.Form) { c.Slice = 0 }, false},
		"a short op":                   {func(c *scoreboard.Class, _ *launch, _ *scoreboard.Form) { c.Slice = 1e6 }, false},
		"the chip holds all of it":     {func(_ *scoreboard.Class, l *launch, _ *scoreboard.Form) { l.blocks = wave }, false},
		"a launch with attributes":     {func(_ *scoreboard.Class, l *launch, _ *scoreboard.Form) { l.flags = shm.LaunchFlagCluster }, false},
		"a class that is not joined":   {func(c *scoreboard.Class, _ *launch, _ *scoreboard.Form) { c.Apart = true }, false},
		"the form was refused":         {func(_ *scoreboard.Class, _ *launch, f *scoreboard.Form) { f.Refused.Store(true) }, false},
		"the form takes fewer threads": {func(_ *scoreboard.Class, _ *launch, f *scoreboard.Form) { f.MaxThreads = 64 }, false},
		"a form by z":                  {func(_ *scoreboard.Class, _ *launch, f *scoreboard.Form) { f.Layout.Mapping = coalesce.ByZ }, false},
		"globals that are not known": {func(_ *scoreboard.Class, _ *launch, f *scoreboard.Form) {
			f.Layout.GlobalNames = [][]string{{"g"}}
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, nil)
			k := code(1)
			f := form(coalesce.ByTable, scoreboard.SliceCapacity, k)
			class := &scoreboard.Class{Longest: 1 << 60, Slice: 200_000}
			l := launch{blocks: 5 * wave}
			c.change(class, &l, f)
			scoreboard.Publish(f)
			s := b.session(k)
			s.board.Class = class
			s.offer(l, 0)
			lane := s.board.Lane(0)
			op := lane.First()
			shape := b.g.shapes.Of(op, 0)
			b.g.Remove(op)
			shape.Times.Add(1, 1_000_000)
			b.g.Weigh(shape)
			if kept := b.g.Add(op, 0); op.Cuts != c.cut || (kept && c.cut) || op.Cost != 1_000_000 {
				t.Errorf("cut: %v, kept for company: %v, cost %d", op.Cuts, kept, op.Cost)
			}
			if !c.cut {
				return
			}
			cut, ok := b.g.Cut(op, 0)
			if !ok {
				t.Fatal("no Cut")
			}
			if s, cost := cut.Peek(false); s.Blocks != wave || cost != 200_000 || s.Last || s.From != 0 {
				t.Errorf("%+v costs %d", s, cost)
			}
			if s, _ := cut.Peek(true); s.Blocks != 5*wave || !s.Last {
				t.Errorf("%+v is all", s)
			}
		})
	}
}

// Slices follow one another without gaps, are whole rounds of the chip of about half of what the class above may wait, and their
// parameter blocks say so.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		b := newBench(t, nil)
		k := code(1)
		f := form(coalesce.ByTable, scoreboard.SliceCapacity, k)
		scoreboard.Publish(f)
		s := b.session(k)
		s.board.Class = &scoreboard.Class{Longest: 1 << 60, Slice: 1 + r.Int64N(500_000)}
		blocks, took := 3000+r.Uint32N(200_000), int64(500_001+r.IntN(20_000_000))
		s.offer(launch{blocks: blocks}, 0)
		op := s.board.Lane(0).First()
		shape := b.g.shapes.Of(op, 0)
		b.g.Remove(op)
		shape.Times.Add(1, took)
		b.g.Weigh(shape)
		if b.g.Add(op, 0) || !op.Cuts {
			t.Fatal("not cut")
		}
		c, ok := b.g.Cut(op, 0)
		if !ok {
			t.Fatal("not cut")
		}
		const wave = 132 * 16
		next, charged := uint32(0), int64(0)
		for over := false; !over; {
			for c.Ready() && !over {
				sl, cost := c.Peek(r.IntN(50) == 0)
				if sl.From != next || sl.Blocks == 0 || sl.Number != c.Issued+1 {
					t.Fatalf("%+v behind block %d", sl, next)
				}
				if !sl.Last && (sl.Blocks%wave != 0 || (cost > op.Session.Class.Slice/2+1 && sl.Blocks != wave)) {
					t.Fatalf("%+v costs %d of %d", sl, cost, op.Session.Class.Slice)
				}
				w, ok := b.g.SliceWord(&c, sl)
				if !ok || !w.Sliced() || w.Path() != Sliced {
					t.Fatalf("%+v", w)
				}
				w.Batch.Fill()
				p := w.Batch.params[f.Layout.Tail:]
				first, behind := binary.LittleEndian.Uint32(p[coalesce.OffFirst:]), binary.LittleEndian.Uint32(p[f.Layout.Stride+coalesce.OffFirst:])
				if first != -next || behind != sl.Blocks || w.Batch.Launch.Grid != [3]uint32{sl.Blocks, 1, 1} || w.Batch.Outside != [2]uint64{} {
					t.Fatalf("%+v: first %d, behind %d, %+v", sl, first, behind, w.Batch.Launch)
				}
				b.g.SliceIssued(&w, next == 0)
				c.Took(sl, cost)
				next, charged, over = next+sl.Blocks, charged+cost, sl.Last
				if !over && op.Cost > took-charged+100 {
					t.Fatalf("%d of %d is left, and %d were charged", op.Cost, took, charged)
				}
			}
			for c.Seen != c.Issued && r.IntN(3) > 0 {
				if c.Done() <= 0 {
					t.Fatal("a slice that cost nothing")
				}
			}
		}
		if next != blocks || charged < took-int64(c.Slices) || charged > took+int64(c.Slices) {
			t.Fatalf("%d of %d blocks, %d of %d ns in %d slices", next, blocks, charged, took, c.Slices)
		}
		if u := k.Use; u.Sliced != 1 || u.Slices != uint64(c.Slices) || u.Launches != 1 || b.g.Widths[0] != 1 {
			t.Fatalf("%+v", u)
		}
	}
}
