package executor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/cache"
	"github.com/heddle-gpu/heddle/shm"
)

// A kernel that takes longer while another one is on the GPU: the executor finds out, says so by kernel and in its sums, and the next one
// knows.
func TestCompanyAcrossRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "learned")
	a := newLearner(t, dir)
	var beside atomic.Bool
	leave := make(chan struct{})
	t.Cleanup(func() { close(leave) })
	a.gpu.define("victim", func([]byte) {
		if beside.Load() {
			time.Sleep(5 * time.Millisecond) // it takes so long then
		}
	})
	a.gpu.define("hog", func([]byte) {
		beside.Store(true)
		<-leave
		beside.Store(false)
	})
	victim, hog := a.client(1), a.client(2)
	for c, name := range map[*tester]string{victim: "victim", hog: "hog"} {
		c.kernel(1, 1, name)
		c.resume()
	}
	const sampled = 80 // launches, of which at least one is measured
	until(t, "it is known who slows whom", func() bool {
		for range sampled {
			victim.mustSync(1, victim.launch(1, 1, nil, nil))
		}
		seq := hog.launch(1, 1, nil, nil)
		hog.signal(1, seq)
		hog.ring.Publish()
		for range sampled {
			victim.mustSync(1, victim.launch(1, 1, nil, nil))
		}
		leave <- struct{}{}
		if err := hog.await(1, seq); err != nil {
			t.Fatal(err)
		}
		return a.stats().Interference.Hurting > 0
	})
	var rows []CodeStats
	if err := json.Unmarshal(a.must(shm.Message{Type: shm.TypeCodes}).Tail, &rows); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, r := range rows {
		for _, c := range r.SlowedBy {
			if r.Name == "victim" && c.Name == "hog" && c.Sure && c.Excess > 0 {
				found++
			}
		}
		for _, c := range r.Slows {
			if r.Name == "hog" && (c.Name == "victim" || c.Name == "class default") && c.Excess > 0 {
				found++
			}
		}
	}
	st := a.stats().Interference
	if found < 2 || st.Pairs < 2 || st.Measurements == 0 {
		t.Errorf("%+v; rows %+v", st, rows)
	}
	a.leave()
	b := newLearner(t, dir)
	if got := b.journal.said(companyKnown, "pairs"); len(got) != 1 || got[0] == "0" {
		t.Errorf("the next executor knows %v pairs", got)
	}
	if st := b.stats().Interference; st.Pairs < 2 || st.Hurting != 0 {
		t.Errorf("%+v: what it has not measured itself counts not yet", st)
	}
}

// Showing who slows whom copies the table in parts, between which the poller does its work: what it learns meanwhile is in the parts that
// come later, and what was known is there.
func TestCompanyIsCopiedInParts(t *testing.T) {
	b := newBench(t)
	table := b.poller.company
	learn := func(from, to uint64) {
		for i := from; i < to; i++ {
			table.Learn(i, []uint64{i + 1<<32}, []float64{0}, 1, 0)
		}
	}
	learn(1, company.Rows/16)
	known := table.Len()
	calls := 0
	x := &executor{poller: b.poller}
	a := x.acquaintances(func(f func()) bool {
		f()
		if calls++; calls == scoreboard.Parts/2 {
			learn(1<<20, 1<<20+company.Rows/16)
		}
		return true
	})
	later := table.Len() - known // of which about half is in parts that were copied already
	got := map[bool]int{}
	a.table.Each(0, func(k company.Known) { got[k.Victim < 1<<20]++ })
	if calls != scoreboard.Parts || got[true] != known || got[false] == 0 || got[false] == later {
		t.Errorf("%d calls; of %d pairs that were known and %d that came half way %d and %d are there", calls, known, later, got[true], got[false])
	}
	if x.acquaintances(func(func()) bool { return false }) != nil {
		t.Error("a copy is given when the poller has ended")
	}
}

// What lies in the folder and is no table, or an impossible one, is not believed, and learning goes on.
func TestCompanySpoiled(t *testing.T) {
	good := company.New()
	good.Learn(1, []uint64{2}, []float64{0}, 1, 0)
	raw, err := good.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	twice := append(append([]byte{}, raw...), raw[6:]...)
	for name, c := range map[string]struct {
		text []byte
		want int
	}{"good": {raw, 1}, "empty": {nil, 0}, "cut": {raw[:len(raw)-1], 0}, "twice": {twice, 0}, "other": {[]byte("HDTM2\n"), 0}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "learned")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			store, err := cache.Open(dir, cache.Options{Mine: compiler.Mine, Bytes: learnedBytes})
			if err != nil {
				t.Fatal(err)
			}
			l := &learned{x: &executor{config: Config{DeviceUUID: "fake"}}}
			if err := store.Put(l.companyKey(), nil, c.text); err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			b := newLearner(t, dir)
			b.requests("served", 1)
			if got := b.stats().Interference.Pairs; got != c.want {
				t.Errorf("%d pairs are known; want %d", got, c.want)
			}
		})
	}
}
