package executor

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// Clients whose graphs do the same go in words in which each of their nodes is one launch for all; what these do is counted.
func TestGraphsCoalesced(t *testing.T) {
	const clients = 5
	w := newCrew(t, clients, true, nil)
	w.until("coalesced words", 1, w.everybody(), func(s JoinedStats) bool { return s.Coalesced.Words >= 20 })
	w.check()
	j := w.joined()
	c := j.Coalesced
	if c.Bytes == 0 || c.Made == 0 || c.Refused != 0 || c.Unpaid != 0 || c.Nodes != crewNodes*c.Words || c.Kernels < 2*c.Nodes || c.Kernels > j.Kernels {
		t.Errorf("%+v", j)
	}
	w.form.mu.Lock()
	widths := slices.Clone(w.form.widths)
	w.form.mu.Unlock()
	for _, n := range widths {
		if n < 2 || n > clients {
			t.Errorf("a launch of %d instances for %d clients", n, clients)
		}
	}
	kernels := uint64(0)
	for _, s := range w.d.stats().Sessions {
		kernels += s.CoalescedNodes
	}
	if kernels != c.Kernels {
		t.Errorf("%d kernels of clients in coalesced nodes, %d in all", kernels, c.Kernels)
	}
	w.d.must(shm.Message{Type: shm.TypeApart, ClientID: 1, Body: shm.Encode(shm.Setting{KernelID: 1})})
	before := w.joined().Coalesced
	w.until("coalesced words of the others", 1, w.everybody(), func(s JoinedStats) bool { return s.Coalesced.Words >= before.Words+5 })
	w.check()
	w.form.mu.Lock()
	last := slices.Clone(w.form.widths[len(w.form.widths)-crewNodes:])
	w.form.mu.Unlock()
	if slices.Max(last) >= clients {
		t.Errorf("widths %v with a client that goes with nobody", last)
	}
}

// Forms that come later are asked for, and words made anew with them; nodes that the driver does not take in a form go side by side.
func TestGraphsCoalescedLater(t *testing.T) {
	var shared atomic.Pointer[scoreboard.Code]
	w := newCrew(t, 3, false, func(c *Config) {
		c.loaded = func(_ uint64, _ string, k *scoreboard.Kernel) { shared.Store(k.Code) }
	})
	code := shared.Load()
	w.until("a form is asked for", 1, w.everybody(), func(s JoinedStats) bool { return code.Why.Load() != nil }) // and there is no compiler
	before := w.joined()
	if before.Words == 0 || before.Coalesced.Asked != 0 {
		t.Errorf("%+v", before)
	}
	f := newFakeForm(coalesce.ByZ, 2, 16, w.add)
	form := w.g.publish(f, code)
	w.until("coalesced words", 1, w.everybody(), func(s JoinedStats) bool { return s.Coalesced.Words > before.Coalesced.Words+5 })
	w.check()
	f.check(t)
	if c := w.joined().Coalesced; c.Kernels != 2*c.Nodes {
		t.Errorf("%+v; want nodes of two kernels, as the form has room for", c)
	}
	form.Refused.Store(true)
	w.g.graphs.refuseWith(gpu.OutOfMemory)
	w.g.publish(newFakeForm(coalesce.ByZ, scoreboard.SmallCapacity, 16, w.add), code)
	w.until("a coalesced word is refused", 1, w.everybody(), func(s JoinedStats) bool { return s.Coalesced.Refused > 0 })
	w.g.graphs.refuseWith(gpu.Success)
	words := w.joined().Words
	w.until("words side by side", 1, w.everybody(), func(s JoinedStats) bool { return s.Words >= words+5 })
	w.check()
}

// mixed is a program of a client: nodes that depend on what others left, some with forms, some without.
type mixed struct {
	c    *tester
	want []uint32
	run  []func()
}

const mixedWords = 6

// give makes the graph of a program whose structure follows from seed, and its constants from the client.
func (p *mixed) give(id uint32, seed uint64, constants *rand.Rand) {
	r := rand.New(rand.NewPCG(seed, 3))
	var of description
	var wrote [mixedWords]uint32
	var read [mixedWords][]uint32
	p.run = nil
	for range 24 {
		dst, src, kind := r.IntN(mixedWords), r.IntN(mixedWords), r.IntN(8)
		k := constants.Uint32()
		after := append(slices.Clone(read[dst]), wrote[dst], wrote[src])
		slices.Sort(after)
		after = slices.DeleteFunc(slices.Compact(after), func(n uint32) bool { return n == 0 })
		to, from := p.c.window+4*uint64(dst), p.c.window+4*uint64(src)
		var n uint32
		switch kind {
		case 0: // a copy
			n = add(&of, shm.KindCopy, shm.Copy{Dst: to, Src: from, Bytes: 4}, nil, after...)
			p.run = append(p.run, func() { p.want[dst] = p.want[src] })
		default: // kernel 3 has no form, 2 one by table
			l := shm.Launch{Kernel: 1 + uint32(kind)%3, GridX: 1, GridY: 1, GridZ: 1, BlockX: 32, BlockY: 1, BlockZ: 1, ParamBytes: 24}
			if l.Kernel == 2 {
				l.GridX, l.GridZ = 2, 3
			}
			n = add(&of, shm.KindLaunch, l, u64s(to, from, uint64(k)), after...)
			p.run = append(p.run, func() { p.want[dst] = p.want[dst]*31 + p.want[src]*17 + k })
		}
		wrote[dst], read[dst] = n, nil
		if src != dst {
			read[src] = append(read[src], n)
		}
	}
	p.c.graph(id, &of)
}

// Programs of several clients, the same but for constants, or others, with kernels that have forms and some that have none, with parts
// that may run beside one another: joined and coalesced they compute what they compute one node after another. One stays away at times,
// one changes its graph, one goes.
func TestGraphsCoalescedPrograms(t *testing.T) {
	seed := uint64(1)
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	constants := rand.New(rand.NewPCG(seed, 1))
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	step := func(params []byte) {
		at := func(i int) uint64 { return binary.LittleEndian.Uint64(params[8*i:]) }
		dst, src := bytesAt(at(0), 4), bytesAt(at(1), 4)
		v := binary.LittleEndian.Uint32(dst)*31 + binary.LittleEndian.Uint32(src)*17 + uint32(at(2))
		binary.LittleEndian.PutUint32(dst, v)
	}
	byZ, byTable := newFakeForm(coalesce.ByZ, scoreboard.SmallCapacity, 24, step), newFakeForm(coalesce.ByTable, 3, 24, step)
	for _, name := range []string{"check", "other", "forever"} {
		g.define(name, step)
	}
	m := newMaker(g, func(name string, c *scoreboard.Code) {
		switch name {
		case "check":
			g.publish(byZ, c)
		case "other":
			g.publish(byTable, c)
		}
	})
	d := start(t, g.open, nil, func(c *Config) {
		joining(c)
		c.loaded = m.loaded
	})
	d.image(1, testImage)
	const clients = 6
	var all []*mixed
	for id := uint64(1); id <= clients; id++ {
		p := &mixed{c: d.client(id), want: make([]uint32, mixedWords)}
		for i, name := range []string{"check", "other", "forever"} {
			p.c.kernel(1, uint32(i+1), name)
		}
		p.c.resume()
		structure := seed
		if id > 4 { // two others that do something else
			structure++
		}
		p.give(1, structure, constants)
		all = append(all, p)
	}
	graphs := make([]uint32, clients)
	for i := range graphs {
		graphs[i] = 1
	}
	rounds := func(what string, who []*mixed) {
		t.Helper()
		before := d.stats().Graphs.Joined.Coalesced
		for end := time.Now().Add(3 * patience); d.stats().Graphs.Joined.Coalesced.Words < before.Words+10; {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, d.stats().Graphs.Joined)
			}
			var seqs []uint32
			for _, p := range who {
				seq := p.c.run(graphs[p.c.id-1], 0, nil)
				p.c.signal(0, seq)
				seqs = append(seqs, seq)
			}
			for _, p := range who {
				p.c.ring.Publish()
			}
			for i, p := range who {
				if err := p.c.await(0, seqs[i]); err != nil {
					t.Fatalf("%s: client %d: %v", what, p.c.id, err)
				}
				for _, f := range p.run {
					f()
				}
			}
		}
		for _, p := range who {
			for i, want := range p.want {
				if got := binary.LittleEndian.Uint32(p.c.memory[4*i:]); got != want {
					t.Fatalf("%s: client %d word %d: %#x; want %#x", what, p.c.id, i, got, want)
				}
			}
		}
	}
	rounds("all", all)
	rounds("without the first", all[1:])
	graphs[1] = 2
	all[1].give(2, seed, constants)
	all[1].c.dropGraph(1)
	rounds("with one that changed", all)
	d.must(shm.Message{Type: shm.TypeDetach, ClientID: 3})
	rounds("without one that went", slices.Delete(slices.Clone(all), 2, 3))
	byZ.check(t)
	byTable.check(t)
	if c := d.stats().Graphs.Joined.Coalesced; c.Kernels < 2*c.Nodes {
		t.Errorf("%+v", c)
	}
	if _, _, racing := g.graphs.tell(); racing {
		t.Error("one executable graph was in two calls at a time")
	}
}
