package issue

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// sequenced is a driver that notes which op's launch came to which stream, and whether what it depends on had come before.
type sequenced struct {
	*recorder
	deps  map[uint64][]uint64 // by the launch's parameter, which names it
	came  map[uint64]bool
	wrong []string
	order map[gpu.Stream][]uint64
}

func (s *sequenced) Launch(l *gpu.Launch) gpu.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := uint64(l.SharedBytes)
	for _, d := range s.deps[name] {
		if !s.came[d] {
			s.wrong = append(s.wrong, fmt.Sprintf("launch %d came before %d, which it waits for", name, d))
		}
	}
	s.came[name] = true
	s.order[l.Stream] = append(s.order[l.Stream], name)
	return gpu.Success
}

// However streams move between threads, launches come to the driver as they were issued on their stream, and behind all that they depend
// on: with threads, and with threads played one command at a time in any order.
func TestMoves(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := &sequenced{recorder: newRecorder(), deps: map[uint64][]uint64{}, came: map[uint64]bool{}, order: map[gpu.Stream][]uint64{}}
		o := Options{Threads: 1 + r.IntN(5), Spill: 1 + r.IntN(4), Greatest: -1, Streams: 12, Manual: seed%2 == 0}
		e, err := New(d, o)
		if err != nil {
			t.Fatal(err)
		}
		turn := func() { // of some thread, when they are played
			if o.Manual {
				e.Execute(r.IntN(o.Threads))
			}
		}
		p := newProgram(t)
		want := map[gpu.Stream][]uint64{}
		names := map[shm.Dep]uint64{}
		var last [8]uint32
		moved, was := 0, [MaxStreams]int{}
		for name := uint64(1); name <= 1500; name++ {
			lane := 1 + r.Uint32N(7)
			var deps []shm.Dep
			for other := uint32(1); other < 8; other++ {
				if other != lane && last[other] > 0 && r.IntN(6) == 0 {
					deps = append(deps, shm.Dep{Lane: other, Value: last[other]})
				}
			}
			d.mu.Lock()
			if last[lane] > 0 {
				d.deps[name] = append(d.deps[name], names[shm.Dep{Lane: lane, Value: last[lane]}])
			}
			for _, dep := range deps {
				d.deps[name] = append(d.deps[name], names[dep])
			}
			d.mu.Unlock()
			op := p.launch(lane, uint32(name), deps...)
			last[lane] = op.Seq
			names[shm.Dep{Lane: lane, Value: op.Seq}] = name
			e.Direct = r.IntN(8) == 0
			eventually(t, "an op finds no room", func() bool { turn(); return e.Issue(one(op)) })
			at := p.s.Lane(lane).Stream
			want[e.Stream(at).Handle] = append(want[e.Stream(at).Handle], name)
			if on := e.Stream(at); on.thread != was[at] {
				moved++
				was[at] = on.thread
			}
			if r.IntN(4) == 0 {
				eventually(t, "a done word finds no room", func() bool { turn(); return e.Signal(p.s, p.s.Lane(lane)) })
			}
			for range r.IntN(4) {
				turn()
			}
			if r.IntN(20) == 0 { // all of a lane is done
				eventually(t, "commands are not executed", func() bool { turn(); return e.Idle() })
				complete(t, e, p, lane)
			}
		}
		eventually(t, "commands are not executed", func() bool { turn(); return e.Idle() })
		e.Stop()
		for _, what := range d.wrong {
			t.Errorf("seed %d: %s", seed, what)
		}
		for s, names := range want {
			if fmt.Sprint(d.order[s]) != fmt.Sprint(names) {
				t.Errorf("seed %d: stream %d was given %v; want %v", seed, s, d.order[s], names)
			}
		}
		if o.Manual && o.Threads > 1 && moved < 10 {
			t.Errorf("seed %d: of %d threads streams moved %d times", seed, o.Threads, moved)
		}
	}
}

// complete has the GPU be done with all of a lane.
func complete(t *testing.T, e *Engine, p *program, lane uint32) {
	t.Helper()
	l := p.s.Lane(lane)
	at := l.Stream
	if at == scoreboard.NoStream {
		return
	}
	l.Signalled = l.Whole
	atomic.StoreUint32(&p.file.Lane(lane).Done, l.Whole)
	n, ok := p.s.Poll(l)
	if !ok || n == 0 {
		t.Fatal(n, ok)
	}
	e.Completed(at, n, true)
}

// played is an engine whose threads do what a test tells them.
func played(t *testing.T, o Options) *Engine {
	t.Helper()
	o.Manual, o.Greatest = true, -5
	e, err := New(newRecorder(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

// backlogs are how many commands each thread has.
func backlogs(e *Engine) (out []int) {
	for _, t := range e.threads {
		out = append(out, t.backlog())
	}
	return out
}

// While one thread keeps up it makes all calls. What it has too much of goes to the next ones, and all of them fill up before anything
// finds no room.
func TestFewThreads(t *testing.T) {
	e, p := played(t, Options{Threads: 3, Spill: 2}), newProgram(t)
	for i := range uint32(40) {
		if !e.Issue(one(p.launch(1+i%10, 0))) {
			t.Fatal("no room")
		}
		if i%2 == 1 { // two commands at a time
			if got := backlogs(e); fmt.Sprint(got) != "[2 0 0]" {
				t.Fatalf("the threads have %v commands; want two, of the first", got)
			}
			for e.Execute(0) {
			}
		}
	}
	for i, want := range []string{"[1 0 0]", "[2 0 0]", "[2 1 0]", "[2 2 0]", "[2 2 1]", "[2 2 2]", "[3 2 2]", "[3 3 2]", "[3 3 3]"} {
		if !e.Issue(one(p.launch(11+uint32(i), 0))) {
			t.Fatal("no room")
		}
		if got := backlogs(e); fmt.Sprint(got) != want {
			t.Errorf("word %d: the threads have %v commands; want %s", i, got, want)
		}
	}
	n := e.Pending()
	for ; n < 3*queueUse; n++ {
		if !e.Issue(one(p.launch(21+uint32(n), 0))) {
			break
		}
	}
	if n != 3*queueUse || e.Issue(one(p.launch(60, 0))) {
		t.Errorf("%d commands fit; want %d and no more", n, 3*queueUse)
	}
}

// A stream that always has commands at a thread which has enough for others too moves to one that has not: it gets no more words there
// until what is there was executed. By itself it stays.
func TestLeaves(t *testing.T) {
	e, p := played(t, Options{Threads: 2, Spill: 2}), newProgram(t)
	issue := func(lane uint32) bool {
		op := p.s.Lane(lane).First()
		if op == nil {
			op = p.launch(lane, 0)
		}
		return e.Issue(one(op))
	}
	for i := range 5 {
		if !issue(1) {
			t.Fatalf("a stream that has a thread for itself finds no room for its word %d", i)
		}
	}
	for e.Execute(0) {
	}
	if !issue(1) || !issue(2) || e.Stream(p.s.Lane(2).Stream).thread != 0 {
		t.Fatal("the first thread does not get two words")
	}
	if issue(2) {
		t.Fatal("a stream stays with a thread that has enough to do beside one that has nothing")
	}
	if !issue(1) {
		t.Error("two streams leave a thread at a time")
	}
	if e.Execute(0); issue(2) {
		t.Error("a stream that leaves gets another word before it has left")
	}
	if e.Execute(0); !issue(2) {
		t.Fatal("a stream that has left finds no room")
	}
	if got := fmt.Sprint(backlogs(e)); got != "[2 0]" && got != "[1 1]" {
		t.Errorf("the threads have %v commands", got)
	}
}

// Others do not go behind what takes long while a thread has nothing to do; who must wait for it does.
func TestSlowWords(t *testing.T) {
	e, p := played(t, Options{Threads: 2, Spill: 3}), newProgram(t)
	first := p.launch(1, 0)
	first.Kind = shm.KindPut
	if !e.Issue(one(first)) || !e.Issue(one(p.launch(2, 0))) {
		t.Fatal("no room")
	}
	if got := fmt.Sprint(backlogs(e)); got != "[1 1]" {
		t.Errorf("a launch beside a slow word: the threads have %s commands; want one each", got)
	}
	if !e.Issue(one(p.launch(1, 0))) || !e.Issue(one(p.launch(3, 0, shm.Dep{Lane: 1, Value: 1}, shm.Dep{Lane: 2, Value: 1}))) {
		t.Fatal("no room")
	}
	if got := fmt.Sprint(backlogs(e)); got != "[6 2]" {
		t.Errorf("behind both: the threads have %s commands", got)
	}
}

func TestSpillBounds(t *testing.T) {
	for _, n := range []int{-1, MaxSpill + 1} {
		if _, err := New(newRecorder(), Options{Threads: 1, Spill: n}); err == nil {
			t.Errorf("spill %d is accepted", n)
		}
	}
}

// eventually tries until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}
