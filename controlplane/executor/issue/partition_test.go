package issue

import (
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// parted is a driver whose streams from first on are a partition's, which refuses kernels.
type parted struct {
	*recorder
	first   gpu.Stream
	refuses gpu.Result
	ended   []gpu.Stream
}

func (r *parted) StreamDestroy(s gpu.Stream) gpu.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, s)
	return gpu.Success
}

func (r *parted) Launch(l *gpu.Launch) gpu.Result {
	if r.refuses != gpu.Success && l.Stream >= r.first {
		return r.refuses
	}
	return r.recorder.Launch(l)
}

// confined is an engine with a partition of four streams in its first place.
func confined(t *testing.T) (*Engine, *parted, []gpu.Stream) {
	t.Helper()
	r := &parted{recorder: newRecorder(), first: 1 << 20}
	e, err := New(r, Options{Threads: 3, Least: 0, Greatest: -5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	fresh := []gpu.Stream{r.first, r.first + 1, r.first + 2, r.first + 3}
	if e.PartitionStreams() != len(fresh) || !e.Confine(0, fresh) || e.StreamsIn(0) != 4 {
		t.Fatalf("a partition gets %d streams, and has %d", e.PartitionStreams(), e.StreamsIn(0))
	}
	settle(t, e)
	return e, r, fresh
}

// A partition's streams are the least urgent level's: there are no more than before, and what is issued on one comes behind what was.
func TestConfine(t *testing.T) {
	e, r, fresh := confined(t)
	if e.Streams() != MaxStreams || len(r.ended) != len(fresh) {
		t.Errorf("%d streams, of which %d were made and %d ended", e.Streams(), len(fresh), len(r.ended))
	}
	for k, s := range fresh {
		if got := r.of(s); !slices.Equal(got, []string{"wait"}) || !slices.Equal(r.of(r.ended[k]), []string{"record"}) {
			t.Errorf("stream %d: %v, the one before: %v", s, got, r.of(r.ended[k]))
		}
	}
	for i := range e.Streams() {
		if s := e.Stream(i); (s.Level >= e.Levels()) != (s.Handle >= r.first) {
			t.Errorf("stream %d of level %d has the handle %d", i, s.Level, s.Handle)
		}
	}
	var plain []gpu.Stream
	for range 4 {
		plain = append(plain, gpu.Stream(r.handle()))
	}
	if !e.Release(0, plain) || e.StreamsIn(0) != 0 || e.PartitionStreams() != 4 {
		t.Error("its streams do not go back")
	}
	settle(t, e)
	if len(r.ended) != 8 {
		t.Errorf("%d streams ended", len(r.ended))
	}
	for slot := range MaxPartitions {
		fresh := make([]gpu.Stream, e.PartitionStreams())
		for k := range fresh {
			fresh[k] = r.first + gpu.Stream(10*slot+k)
		}
		if len(fresh) == 0 || !e.Confine(slot, fresh) {
			t.Fatalf("partition %d of %d gets %d streams", slot+1, MaxPartitions, len(fresh))
		}
		settle(t, e)
	}
	if n := len(e.levels[e.ordinary-1]); n < 1 {
		t.Error("nothing is left of the least urgent level")
	}
}

// A session's kernels go to the partition from the next one on, behind what is in flight, and come back so; copies stay where they are.
func TestConfined(t *testing.T) {
	e, r, _ := confined(t)
	p := newProgram(t)
	on := func(op *scoreboard.Op) gpu.Stream {
		t.Helper()
		if !e.Issue(one(op)) {
			t.Fatal("no room")
		}
		settle(t, e)
		return e.Stream(p.s.Lane(op.Lane).Stream).Handle
	}
	before := on(p.launch(1, 0))
	p.s.Partition = 1
	inside := on(p.launch(1, 0))
	if before >= r.first || inside < r.first {
		t.Fatalf("from stream %d to %d", before, inside)
	}
	if a, b := r.of(before), r.of(inside); !slices.Equal(a, []string{"launch", "record"}) || !slices.Equal(b, []string{"wait", "wait", "launch"}) {
		t.Errorf("%v, then %v", a, b)
	}
	if other := on(p.launch(2, 0)); other < r.first || other == inside {
		t.Errorf("a lane without ops in flight went to stream %d", other)
	}
	p.s.Partition = 0
	after := on(p.launch(1, 0))
	if got := r.of(after); after >= r.first || !slices.Equal(got[len(got)-2:], []string{"wait", "launch"}) {
		t.Errorf("back on stream %d: %v", after, got)
	}
}

// What the partition refuses goes to the whole chip, behind what came before and before what follows, and the kernel from then on at once;
// what the chip refuses too is the client's own.
func TestRefusedThere(t *testing.T) {
	e, r, _ := confined(t)
	p := newProgram(t)
	p.s.Partition = 1
	r.refuses = 912 // CUDA_ERROR_INVALID_CLUSTER_SIZE
	issue := func() gpu.Stream {
		t.Helper()
		if !e.Issue(one(p.launch(1, 0))) {
			t.Fatal("no room")
		}
		settle(t, e)
		return e.Stream(p.s.Lane(1).Stream).Handle
	}
	at := issue()
	if a, w := r.of(at), r.of(e.whole); !slices.Equal(a, []string{"wait", "record", "wait"}) || !slices.Equal(w, []string{"wait", "launch", "record"}) {
		t.Errorf("on the partition %v, on the chip %v", a, w)
	}
	if f := p.s.Failed(); f.Result != gpu.Success {
		t.Errorf("the client is told of %v", f.Result)
	}
	if next := issue(); next >= r.first {
		t.Error("the kernel is sent to the partition again")
	}
	if f := p.s.Failed(); f.Result != gpu.Success || e.Fault() != gpu.Success {
		t.Errorf("%v, %v", f.Result, e.Fault())
	}
	q := newProgram(t)
	q.s.Partition = 1
	r.fail = 701
	if !e.Issue(one(q.launch(1, 0))) {
		t.Fatal("no room")
	}
	settle(t, e)
	if f := q.s.Failed(); f.Result != 701 {
		t.Errorf("refused everywhere: the client is told of %v", f.Result)
	}
}
