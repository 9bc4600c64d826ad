package executor

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// joining has graphs joined whenever they can be, and wait for one another for so long that threads which come late do not matter.
func joining(c *Config) {
	c.Tuning.JoinGraphs = AlwaysJoin
	c.Tuning.Gather = 5 * time.Millisecond
}

// crew is clients with a graph each: 1 to its counter, as often as it has nodes.
type crew struct {
	t   *testing.T
	g   *fakeGPU
	d   *daemon
	all []*tester
	ran []uint64 // what each counter must hold
	// form is what can launch their kernels together; nil: nothing.
	form *fakeForm

	mu    sync.Mutex
	gates map[uint64]chan struct{} // by counter: its kernels wait
	begun chan uint64              // counters whose kernels do
}

const crewNodes = 3

// way is how words of a crew are to go: side by side, or with alike nodes as one.
type way bool

// bothWays runs a test with words of either kind.
func bothWays(t *testing.T, f func(t *testing.T, coalesced way)) {
	t.Run("side by side", func(t *testing.T) { f(t, false) })
	t.Run("coalesced", func(t *testing.T) { f(t, true) })
}

func newCrew(t *testing.T, n int, coalesced way, change func(*Config)) *crew {
	t.Helper()
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	w := &crew{t: t, g: g, gates: map[uint64]chan struct{}{}, begun: make(chan uint64, 64)}
	g.define("check", w.add)
	t.Cleanup(w.openAll)
	d := start(t, g.open, nil, func(c *Config) {
		joining(c)
		if coalesced {
			w.form = newFakeForm(coalesce.ByZ, scoreboard.SmallCapacity, 16, w.add)
			c.loaded = newMaker(g, func(_ string, c *scoreboard.Code) { g.publish(w.form, c) }).loaded
			t.Cleanup(func() { w.form.check(t) })
		}
		if change != nil {
			change(c)
		}
	})
	d.image(1, testImage)
	w.d = d
	for i := range n {
		w.enter(uint64(i + 1))
	}
	return w
}

// enter adds a client.
func (w *crew) enter(id uint64) *tester {
	w.t.Helper()
	c := w.d.client(id)
	c.kernel(1, 1, "check")
	c.resume()
	w.give(c, 1)
	w.all, w.ran = append(w.all, c), append(w.ran, 0)
	return c
}

// give hands over a client's graph as number id.
func (w *crew) give(c *tester, id uint32) {
	w.t.Helper()
	var of description
	last := uint32(0)
	for range crewNodes {
		if last == 0 {
			last = of.launch(1, u64s(c.window, 1))
		} else {
			last = of.launch(1, u64s(c.window, 1), last)
		}
	}
	c.graph(id, &of)
}

// add is the crew's kernel: it adds its second parameter to the counter at its first, once that one's gate is open.
func (w *crew) add(params []byte) {
	at := binary.LittleEndian.Uint64(params)
	w.mu.Lock()
	gate := w.gates[at]
	w.mu.Unlock()
	if gate != nil {
		w.begun <- at
		<-gate
	}
	if w.g.fault.Load() != 0 { // it runs no more, and memory may be gone
		return
	}
	counter := bytesAt(at, 4)
	binary.LittleEndian.PutUint32(counter, binary.LittleEndian.Uint32(counter)+uint32(binary.LittleEndian.Uint64(params[8:])))
}

// shut has the kernels of a client wait, open no longer.
func (w *crew) shut(c *tester) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gates[c.window] = make(chan struct{})
}

func (w *crew) open(at uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.gates[at]; g != nil {
		close(g)
	}
	delete(w.gates, at)
}

func (w *crew) openAll() {
	for _, c := range w.all {
		w.open(c.window)
	}
}

// round has some clients launch their graph id once and wait.
func (w *crew) round(id uint32, who ...int) {
	w.t.Helper()
	seqs := make([]uint32, len(who))
	for k, i := range who {
		seqs[k] = w.all[i].run(id, 0, nil)
		w.all[i].signal(0, seqs[k])
	}
	for _, i := range who {
		w.all[i].ring.Publish()
	}
	for k, i := range who {
		if err := w.all[i].await(0, seqs[k]); err != nil {
			w.t.Fatalf("client %d: %v", w.all[i].id, err)
		}
		w.ran[i] += crewNodes
	}
}

// words is how many words of the crew's kind were issued.
func (w *crew) words(s JoinedStats) uint64 {
	if w.form != nil {
		return s.Coalesced.Words
	}
	return s.Words
}

// kept is how many words there are of the graphs of n clients and nobody else's, and how many nodes these have: of each kind one.
func (w *crew) kept(n int) (words, nodes int) {
	if w.form != nil {
		return 2, n*(crewNodes+1) + crewNodes + n
	}
	return 1, n * (crewNodes + 1)
}

func (w *crew) joined() JoinedStats { w.t.Helper(); return w.d.stats().Graphs.Joined }

// everybody is all clients.
func (w *crew) everybody() (who []int) {
	for i := range w.all {
		who = append(who, i)
	}
	return who
}

// until has some clients launch until a condition of the statistics holds.
func (w *crew) until(what string, id uint32, who []int, f func(JoinedStats) bool) {
	w.t.Helper()
	for end := time.Now().Add(3 * patience); !f(w.joined()); {
		if time.Now().After(end) {
			w.t.Fatalf("still not: %s: %+v", what, w.joined())
		}
		w.round(id, who...)
	}
}

// check compares every client's counter.
func (w *crew) check() {
	w.t.Helper()
	for i, c := range w.all {
		if got := binary.LittleEndian.Uint32(c.memory); uint64(got) != w.ran[i] {
			w.t.Errorf("client %d: %d; want %d", c.id, got, w.ran[i])
		}
	}
	if _, _, racing := w.g.graphs.tell(); racing {
		w.t.Error("one executable graph was in two calls at a time")
	}
}

// Graphs of clients that launch at about the same time become one word; each does what it does by itself, and is counted.
func TestGraphsJoined(t *testing.T) {
	w := newCrew(t, 5, false, nil)
	wide := func(n uint64) func(JoinedStats) bool {
		return func(s JoinedStats) bool { return s.Words >= 20 && s.Launches >= n*20 }
	}
	w.until("20 words of graphs", 1, w.everybody(), wide(2))
	w.check()
	st := w.d.stats()
	j := st.Graphs.Joined
	if j.Kernels != j.Launches*crewNodes || j.Kept == 0 || j.Chains < 2 || j.Nodes < 2*(crewNodes+1) || j.Made == 0 || j.Refused != 0 {
		t.Errorf("%+v", j)
	}
	kernels := uint64(0)
	for _, s := range st.Sessions {
		if s.Coalesced > s.Launches {
			t.Errorf("client %d: %d of %d kernels joined", s.ClientID, s.Coalesced, s.Launches)
		}
		kernels += s.Coalesced
	}
	if kernels != j.Kernels || st.Coalescing.OpsCoalesced != j.Kernels || st.Coalescing.Widths[0]+j.Kernels != st.Launches {
		t.Errorf("%d kernels of clients joined, %d in all, %d by themselves of %d; words: %+v", kernels, st.Coalescing.OpsCoalesced, st.Coalescing.Widths[0], st.Launches, j)
	}
}

// A client that stays away spoils nothing: the others go in smaller words.
func TestGraphsJoinedWithoutSome(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := newCrew(t, 4, coalesced, nil)
		w.until("a word", 1, w.everybody(), func(s JoinedStats) bool { return w.words(s) > 0 })
		before := w.joined()
		w.until("words without the first client", 1, []int{1, 2, 3}, func(s JoinedStats) bool { return w.words(s) >= w.words(before)+5 })
		before = w.joined()
		w.until("words of two", 1, []int{2, 3}, func(s JoinedStats) bool { return w.words(s) >= w.words(before)+5 })
		w.round(1, w.everybody()...)
		w.check()
	})
}

// stuck has clients 0 and 1 launch their graph together in one word, and gives who runs first in it; both wait at their gates.
func (w *crew) stuck(id uint32) (first, second int, seqs [2]uint32) {
	w.t.Helper()
	for end := time.Now().Add(3 * patience); time.Now().Before(end); {
		before := w.words(w.joined())
		w.shut(w.all[0])
		w.shut(w.all[1])
		for i := range seqs {
			seqs[i] = w.all[i].run(id, 0, nil)
			w.all[i].signal(0, seqs[i])
		}
		w.all[0].ring.Publish()
		w.all[1].ring.Publish()
		at := <-w.begun
		until(w.t, "both are issued", func() bool { st := w.d.stats(); return st.Waiting == 0 && st.InFlight == 2 })
		if w.words(w.joined()) > before {
			if at == w.all[0].window {
				return 0, 1, seqs
			}
			return 1, 0, seqs
		}
		w.finish(seqs)
	}
	w.t.Fatal("two graphs did not go in one word")
	return 0, 0, seqs
}

// finish ends what stuck began.
func (w *crew) finish(seqs [2]uint32) {
	w.t.Helper()
	w.openAll()
	for i, seq := range seqs {
		if err := w.all[i].await(0, seq); err != nil {
			w.t.Fatalf("client %d: %v", w.all[i].id, err)
		}
		w.ran[i] += crewNodes
	}
	for len(w.begun) > 0 {
		<-w.begun
	}
}

// pair is a crew of two that has gone in words.
func pair(t *testing.T, coalesced way) *crew {
	t.Helper()
	w := newCrew(t, 2, coalesced, nil)
	w.until("a word", 1, w.everybody(), func(s JoinedStats) bool { return w.words(s) > 0 })
	return w
}

// Who is done learns it when its own chain ends, not when the word does.
func TestGraphsJoinedEndByThemselves(t *testing.T) {
	w := pair(t, false)
	first, second, seqs := w.stuck(1)
	w.open(w.all[first].window)
	if err := w.all[first].await(0, seqs[first]); err != nil {
		t.Fatal(err)
	}
	if shm.Reached(w.all[second].done(0), seqs[second]) {
		t.Error("a chain that waits is done")
	}
	w.finish(seqs)
	w.check()
}

// A client changes its graph, drops the old one, while a word with it runs: the word ends, the next ones hold the new graph.
func TestGraphsJoinedChange(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := pair(t, coalesced)
		_, _, seqs := w.stuck(1)
		w.give(w.all[0], 2)
		w.all[0].dropGraph(1)
		after := w.all[0].run(2, 0, nil)
		w.all[0].signal(0, after)
		w.all[0].ring.Publish()
		w.finish(seqs)
		if err := w.all[0].await(0, after); err != nil {
			t.Fatal(err)
		}
		w.ran[0] += crewNodes
		w.check()
		w.give(w.all[1], 2)
		before := w.words(w.joined())
		w.until("words of the new graphs", 2, w.everybody(), func(s JoinedStats) bool { return w.words(s) >= before+5 })
		w.check()
		w.all[1].dropGraph(1)
		until(t, "the old graphs are freed", func() bool {
			st := w.d.stats().Graphs
			words, nodes := w.kept(2)
			return st.Live == 2 && st.Joined.Nodes == nodes && w.g.alive() == 2+words
		})
	})
}

// A client dies while a word with its graph runs: it is taken apart when its chain has ended, and the others never notice.
func TestGraphsJoinedDeath(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := newCrew(t, 3, coalesced, nil)
		w.until("a word", 1, w.everybody(), func(s JoinedStats) bool { return w.words(s) > 0 })
		w.until("a word of two", 1, []int{0, 1}, func(s JoinedStats) bool { return w.words(s) > 10 })
		_, _, seqs := w.stuck(1)
		reply := w.d.send(shm.Message{Type: shm.TypeDetach, ClientID: w.all[0].id})
		w.openAll()
		if err := w.all[1].await(0, seqs[1]); err != nil {
			t.Fatal(err)
		}
		w.ran[1] += crewNodes
		if r := w.d.wait(reply); r.Status != shm.StatusOK {
			t.Fatalf("status %d: %s", r.Status, r.Tail)
		}
		w.all, w.ran = w.all[1:], w.ran[1:]
		before := w.words(w.joined())
		w.until("words without it", 1, w.everybody(), func(s JoinedStats) bool { return w.words(s) >= before+5 })
		w.check()
		until(t, "its words are freed", func() bool { _, nodes := w.kept(2); return w.joined().Nodes == nodes })
	})
}

// Memory that a graph names goes: launches of it fail for its client, and the words that it was in are not used for the others either.
func TestGraphsJoinedLostMemory(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := pair(t, coalesced)
		bad := w.all[0]
		second := bad.window + 2*segmentBytes
		w.d.must(shm.Message{Type: shm.TypeSegment, ClientID: bad.id, Body: shm.Encode(shm.Range{Address: second, Bytes: segmentBytes}), Fds: []int{memfd(t, nil, segmentBytes)}})
		give := func(c *tester, at uint64) {
			var of description
			last := of.launch(1, u64s(c.window, crewNodes))
			add(&of, shm.KindCopy, shm.Copy{Dst: at, Src: at + 64, Bytes: 64}, nil, last)
			c.graph(2, &of)
		}
		give(bad, second)
		give(w.all[1], w.all[1].window+1024)
		before := w.words(w.joined())
		w.until("words with the copy", 2, w.everybody(), func(s JoinedStats) bool { return w.words(s) >= before+5 })
		w.check()
		w.d.must(shm.Message{Type: shm.TypeSegmentDrop, ClientID: bad.id, Body: shm.Encode(shm.Range{Address: second, Bytes: segmentBytes})})
		seq := bad.run(2, 0, nil)
		bad.signal(0, seq)
		bad.ring.Publish()
		w.round(2, 1)
		until(t, "the error", func() bool { code, _ := bad.sticky(); return code == uint32(gpu.InvalidValue) })
		w.round(2, 1)
		w.check()
	})
}

// The driver refuses words when they are launched, or when they are made: their graphs go one by one.
func TestGraphsJoinedRefused(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := pair(t, coalesced)
		w.g.graphs.refuseWide(crewNodes)
		w.until("no word is left", 1, w.everybody(), func(s JoinedStats) bool { return s.Kept == 0 })
		w.check()
	})
}

func TestGraphsJoinedNotMade(t *testing.T) {
	w := newCrew(t, 2, false, nil)
	w.g.graphs.refuseWith(gpu.OutOfMemory)
	w.until("a word is refused", 1, w.everybody(), func(s JoinedStats) bool { return s.Refused > 0 })
	if j := w.joined(); j.Words != 0 || j.Nodes != 0 || j.Kept != 0 {
		t.Errorf("%+v", j)
	}
	w.check()
}

// Clients that make ever new graphs take no more for it than what they have at a time.
func TestGraphsJoinedEndless(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := newCrew(t, 3, coalesced, nil)
		for id := uint32(2); id < 12; id++ {
			for _, c := range w.all {
				w.give(c, id)
				c.dropGraph(id - 1)
			}
			made := w.joined().Made
			w.until("a word of the new graphs", id, w.everybody(), func(s JoinedStats) bool { return s.Made > made })
			for range 5 {
				w.round(id, w.everybody()...)
			}
			if n := w.joined().Chains; n > 3+2 {
				t.Errorf("graph %d: words of %d chains for three clients", id, n)
			}
		}
		w.check()
		for _, c := range w.all {
			c.dropGraph(11)
		}
		until(t, "all are freed", func() bool { return w.g.alive() == 0 && w.joined().Nodes == 0 && w.joined().Coalesced.Bytes == 0 })
		if _, built, _ := w.g.graphs.tell(); built != 0 {
			t.Errorf("%d graphs are kept as they were built", built)
		}
	})
}

// A fault while a word runs: everybody in it is a suspect, and the next executor never joins their graphs.
func TestGraphsJoinedFault(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := pair(t, coalesced)
		w.stuck(1)
		w.g.fault.Store(int32(gpu.IllegalAddress))
		w.openAll()
		if err := w.d.end(); ExitCode(err) != ExitFault {
			t.Fatalf("end: %v", err)
		}
		m := <-w.d.faults
		f, err := shm.Decode[shm.Fault](m.Body)
		if err != nil || f.Clients != 2 || f.Apart != 2 || f.Blamed != 0 {
			t.Fatalf("%+v, %v; want two suspects, both set apart", f, err)
		}
		apart := map[uint64]bool{}
		for at := 16; at < 48; at += 16 {
			if kernel := binary.LittleEndian.Uint64(m.Tail[at+8:]); kernel != 0 {
				t.Errorf("kernel %d is set apart; want the graphs", kernel)
			}
			apart[binary.LittleEndian.Uint64(m.Tail[at:])] = true
		}
		if !apart[1] || !apart[2] {
			t.Errorf("%v are set apart; want both", apart)
		}
	})
}

// Clients whose class is never joined, and those that were set apart, go by themselves, and it is said why.
func TestGraphsApart(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := newCrew(t, 4, coalesced, nil)
		w.d.must(shm.Message{Type: shm.TypeClass, ClientID: 1, Body: shm.Encode(shm.Class{}), Tail: []byte("apart")})
		w.d.must(shm.Message{Type: shm.TypeApart, ClientID: 2, Body: shm.Encode(shm.Setting{})})
		w.until("a word", 1, w.everybody(), func(s JoinedStats) bool { return w.words(s) > 5 })
		w.check()
		st := w.d.stats()
		rounds := w.ran[0] / crewNodes
		for i, why := range []string{"class", "excluded"} {
			if s := st.Sessions[i]; s.Coalesced != 0 || s.ApartGraphs[why] != rounds || st.Graphs.Joined.Apart[why] != rounds {
				t.Errorf("client %d: %+v; want %d times %s", i+1, s, rounds, why)
			}
		}
		for _, s := range st.Sessions {
			apart := uint64(0)
			for _, n := range s.ApartGraphs {
				apart += n
			}
			if apart*crewNodes+s.Coalesced != s.Launches {
				t.Errorf("client %d: %d launches of graphs apart and %d kernels joined of %d", s.ClientID, apart, s.Coalesced, s.Launches)
			}
		}
		if s := st.Sessions[2]; s.Coalesced == 0 {
			t.Errorf("client 3 never went with others: %+v", s)
		}
	})
}

// Switched off, nothing is joined or kept for it.
func TestGraphsNeverJoined(t *testing.T) {
	w := newCrew(t, 2, false, func(c *Config) { c.Tuning.JoinGraphs = NeverJoin })
	for range 50 {
		w.round(1, w.everybody()...)
	}
	w.check()
	if j := w.joined(); j.Words != 0 || j.Asked != 0 || j.Nodes != 0 || len(j.Apart) != 0 {
		t.Errorf("%+v", j)
	}
}

// Clients that launch far ahead, in several lanes, with other ops in between: per lane just what was submitted runs, in order.
func TestGraphsJoinedPrograms(t *testing.T) {
	bothWays(t, func(t *testing.T, coalesced way) {
		w := newCrew(t, 4, coalesced, nil)
		w.until("a word", 1, w.everybody(), func(s JoinedStats) bool { return w.words(s) > 0 })
		var all sync.WaitGroup
		for i, c := range w.all {
			all.Go(func() {
				for range 40 {
					for range 1 + (i+int(w.ran[i]))%7 {
						c.run(1, 0, nil)
						w.ran[i] += crewNodes
						if w.ran[i]%2 == 0 {
							c.launch(1, 0, u64s(c.window, 1), nil)
							w.ran[i]++
						}
					}
					if err := c.sync(0, c.run(1, 0, nil)); err != nil {
						t.Error(err)
						return
					}
					w.ran[i] += crewNodes
				}
			})
		}
		all.Wait()
		w.check()
	})
}

// A graph may wait for what its client launches on another stream: that goes by itself then, because whoever was in the word with the graph
// is behind it.
func TestGraphsJoinedMayWait(t *testing.T) {
	w := pair(t, false)
	a, b := w.all[0], w.all[1]
	for _, c := range w.all {
		var of description
		of.launch(1, u64s(c.window+64, 1))
		c.graph(2, &of)
	}
	beside := func() (first, second uint32) {
		first, second = a.run(2, 1, nil), b.run(2, 0, nil)
		a.signal(1, first)
		b.signal(0, second)
		a.ring.Publish()
		b.ring.Publish()
		if err := a.await(1, first); err != nil {
			t.Fatal(err)
		}
		return first, second
	}
	for before, end := w.joined().Words, time.Now().Add(3*patience); w.joined().Words < before+5; {
		if time.Now().After(end) {
			t.Fatalf("no words on two streams: %+v", w.joined())
		}
		if _, second := beside(); b.await(0, second) != nil {
			t.Fatal("the other client has an error")
		}
	}
	_, _, seqs := w.stuck(1)
	before := w.joined()
	_, second := beside()
	if now := w.joined(); now.Apart["excluded"] == before.Apart["excluded"] || now.Words != before.Words {
		t.Errorf("%+v, then %+v; want a launch that is not joined", before, now)
	}
	w.finish(seqs)
	if err := b.await(0, second); err != nil {
		t.Fatal(err)
	}
	w.check()
}
