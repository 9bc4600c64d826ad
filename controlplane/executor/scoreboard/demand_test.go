package scoreboard

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/heddle-gpu/heddle/jit/coalesce"
)

func drain(d *Demand) []Wish {
	var out []Wish
	for {
		w, ok := d.Next()
		if !ok {
			return out
		}
		out = append(out, w)
	}
}

func TestDemandAsksOncePerForm(t *testing.T) {
	d, c := NewDemand(), &Code{ID: 1}
	d.Together(c, 1, true)
	for range askAfter - 1 {
		d.Together(c, 4, true)
	}
	if w := drain(d); len(w) != 0 {
		t.Fatalf("asked %+v for what happened %d times", w, askAfter-1)
	}
	for range 300 {
		d.Together(c, 4, true)
	}
	if w := drain(d); len(w) != 1 || w[0].Capacity != SmallCapacity || w[0].Mapping != coalesce.ByZ || w[0].Count != 1 || w[0].Bodies[0] != c {
		t.Fatalf("%+v; want one small form by z", w)
	}
	for range 300 {
		d.Together(c, SmallCapacity+1, true)
		d.Together(c, 3, false)
	}
	if w := drain(d); len(w) != 2 || w[0].Capacity+w[1].Capacity != LargeCapacity+SmallCapacity || w[0].Mapping == w[1].Mapping {
		t.Fatalf("%+v; want a large form by z and a small one by table", w)
	}
}

func TestDemandOfSets(t *testing.T) {
	d := NewDemand()
	a, b, c := &Code{ID: 1}, &Code{ID: 2}, &Code{ID: 3}
	const ms = int64(1e6)
	for now := ms; now < 40*packFades; now += packFades {
		d.Beside([]*Code{a, b}, packCosts/3, now)
	}
	if w := drain(d); len(w) != 0 {
		t.Fatalf("asked %+v for what would be paid for in a minute", w)
	}
	for now := range int64(100) {
		d.Beside([]*Code{a, b}, packCosts/30, 100*packFades+now*ms)
		d.Beside([]*Code{b, a}, packCosts/30, 100*packFades+now*ms)
		d.Beside([]*Code{c, a, b}, packCosts/30, 100*packFades+now*ms)
		d.Beside([]*Code{a}, packCosts, 100*packFades+now*ms)
	}
	w := drain(d)
	if len(w) != 2 || w[0].Count != 2 || w[1].Count != 3 || w[1].Bodies[0] != a || w[1].Bodies[2] != c {
		t.Fatalf("%+v; want {1 2} and {1 2 3} once each, sorted", w)
	}
}

// Of the thousands of sets that the kernels of a few models make, those are asked for that meet so often that their forms pay, a few at a
// time, and none when there are enough.
func TestDemandOfManySets(t *testing.T) {
	d := NewDemand()
	codes := make([]Code, 100)
	for i := range codes {
		codes[i].ID = uint32(1 + i)
	}
	r := rand.New(rand.NewPCG(1, 2))
	often := [2]*Code{&codes[3], &codes[7]}
	now := int64(0)
	meet := func(seconds int64) []Wish {
		for end := now + seconds*1e9; now < end; now += 1e6 {
			d.Beside(often[:], 1e6, now) // a thread's time by a thousandth
			for range 5 {                // each pair by a millionth
				d.Beside([]*Code{&codes[r.IntN(100)], &codes[r.IntN(100)]}, 1e6, now)
			}
		}
		return drain(d)
	}
	if w := meet(10); len(w) != 1 || w[0].Bodies[0] != often[0] || w[0].Bodies[1] != often[1] {
		t.Fatalf("%d sets were asked for; want the one that meets all the time", len(w))
	}
	d.Costs(1e6) // far less than they take: everything pays
	if w := meet(1); len(w) != packsUnderWay-1 {
		t.Fatalf("%d more are asked for at a time; want %d", len(w), packsUnderWay-1)
	}
	d.Settled()
	d.Settled()
	if w := meet(1); len(w) != 2 {
		t.Fatalf("%d are asked for after two were made", len(w))
	}
	d.Settled()
	d.Enough(true)
	if w := meet(1); len(w) != 0 {
		t.Fatalf("%d are asked for when there are enough", len(w))
	}
	d.Enough(false)
	if w := meet(1); len(w) != 1 {
		t.Fatalf("%d are asked for when there is room again", len(w))
	}
}

func TestDemandFullAsksAgain(t *testing.T) {
	d := NewDemand()
	codes := make([]Code, 2*wishes)
	got := map[*Code]int{}
	for range 2 * askAfter {
		for i := range codes {
			codes[i].ID = uint32(1 + i)
			d.Together(&codes[i], 2, true)
		}
		for _, w := range drain(d) {
			got[w.Bodies[0]]++
		}
	}
	for i := range codes {
		if got[&codes[i]] != 1 {
			t.Fatalf("code %d was asked for %d times; want 1", i, got[&codes[i]])
		}
	}
}

func TestDemandAcrossThreads(t *testing.T) {
	d := NewDemand()
	codes := make([]Code, 20000)
	var got int
	var reader sync.WaitGroup
	stop := make(chan struct{})
	reader.Go(func() {
		for {
			select {
			case <-d.Wake():
			case <-stop:
				got += len(drain(d))
				return
			}
			got += len(drain(d))
		}
	})
	for i := range codes {
		codes[i].ID = uint32(1 + i)
		for !codes[i].asked[coalesce.ByZ].small {
			d.Together(&codes[i], 2, true)
		}
	}
	close(stop)
	reader.Wait()
	if got != len(codes) {
		t.Errorf("%d wishes arrived; want %d", got, len(codes))
	}
}

func TestDemandAllocatesNothing(t *testing.T) {
	d := NewDemand()
	a, b := &Code{ID: 1}, &Code{ID: 2}
	both := []*Code{a, b}
	if n := testing.AllocsPerRun(1000, func() {
		d.Together(a, 4, true)
		d.Together(b, 20, false)
		d.Beside(both, 1, 1)
	}); n != 0 {
		t.Errorf("%v allocations a call; want none", n)
	}
}

func TestPublishSorts(t *testing.T) {
	a, b := &Code{ID: 1}, &Code{ID: 2}
	form := func(m coalesce.Mapping, capacity int, bodies ...*Code) *Form {
		return &Form{Layout: coalesce.Layout{Mapping: m, Capacity: capacity}, Bodies: bodies}
	}
	pack, table, large, small := form(coalesce.ByTable, 8, a, b), form(coalesce.ByTable, 8, a), form(coalesce.ByZ, 100, a), form(coalesce.ByZ, 8, a)
	for _, f := range []*Form{pack, table, large, small} {
		Publish(f)
	}
	want := []*Form{small, large, table, pack}
	for i, f := range *a.Forms.Load() {
		if f != want[i] {
			t.Errorf("place %d: %+v", i, f.Layout)
		}
	}
	if f := *b.Forms.Load(); len(f) != 1 || f[0] != pack {
		t.Errorf("the second body has %d forms; want the packed one", len(f))
	}
}
