package simulate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// mix makes a scenario of classes that always have work, and their policy, of a seed. only leaves one class there, "" all.
func mix(seed uint64, only string) (scenario, rules string, shares map[string]float64) {
	r := rand.New(rand.NewPCG(seed, 11))
	var s, p strings.Builder
	s.WriteString("schema_version = 1\nduration = \"2500ms\"\n")
	classes := 2 + r.IntN(3)
	shares = map[string]float64{}
	for i := range classes {
		name := fmt.Sprint("c", i)
		fmt.Fprintf(&p, "[class.%s]\npriority = %d\n", name, r.IntN(4))
		switch r.IntN(3) {
		case 0:
			fmt.Fprintf(&p, "latency_p99 = \"%dms\"\n", 1+r.IntN(40))
		case 1:
			fmt.Fprintf(&p, "max_wait = \"%dus\"\n", 50+r.IntN(300))
		}
		if i > 0 || r.IntN(2) == 0 {
			shares[name] = 0.05 + 0.8/float64(classes)*r.Float64()
			fmt.Fprintf(&p, "min_share = %v\n", shares[name])
		}
		fmt.Fprintf(&s, "[kernel.k%d]\nblocks = %d\nthreads = %d\nregisters = %d\ntime = \"%dus\"\nspread = %v\nalone = %v\n",
			i, 2200+r.IntN(4000), 128<<r.IntN(2), 32, 10+r.IntN(190), r.Float64()/10, r.IntN(3) > 0)
		fmt.Fprintf(&s, "[request.r%d]\nsteps = [{ kernel = \"k%d\", times = %d }, { kernel = \"k%d\", times = %d, lane = %d }]\n",
			i, i, 1+r.IntN(20), r.IntN(i+1), 1+r.IntN(20), r.IntN(2))
		count := 1 + r.IntN(4)
		if only == "" || only == name {
			fmt.Fprintf(&s, "[[client]]\ncount = %d\nclass = \"%s\"\nrequest = \"r%d\"\n", count, name, i)
		}
	}
	return s.String(), p.String(), shares
}

// parts are what a class had of the chip in each hundredth of a second: in truth, and by the scheduler's books.
type parts struct{ truth, books []float64 }

// shared runs a mix.
func shared(t *testing.T, seed uint64, only string) (had map[string]*parts, shares map[string]float64) {
	t.Helper()
	const slice = int64(10e6)
	text, classes, shares := mix(seed, only)
	sc := parse(t, text)
	p := rules(t, classes)
	r, err := newRun(sc, p, 1, seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.start("heddle", p); err != nil {
		t.Fatal(err)
	}
	h := r.backend.(*device).pick.(*heddle)
	had = map[string]*parts{}
	last := map[string]uint64{}
	for name := range r.classes {
		had[name] = &parts{make([]float64, r.end/slice), make([]float64, r.end/slice)}
	}
	r.watch = func(what string, o *op) {
		at := r.now / slice
		if r.now >= r.end {
			return
		}
		k := h.clients[o.c.slot].Class()
		switch what {
		case "done":
			had[k.Name].truth[at] += float64(o.ns) * o.k.need / float64(slice)
		case "submit":
			had[k.Name].books[at] += float64(k.Stats.GPU-last[k.Name]) / float64(slice)
			last[k.Name] = k.Stats.GPU
		}
	}
	if err := r.simulate(); err != nil {
		t.Fatalf("seed %d: %v\n%s\n%s", seed, err, text, classes)
	}
	return had, shares
}

// least is the least part that a class had of what all had in any second.
func least(all map[string]*parts, name string, of func(*parts) []float64) float64 {
	const window, learned = 100, 25
	out := 1.0
	for at := learned; at+window <= len(of(all[name])); at++ {
		own, total := 0.0, 0.0
		for i := at; i < at+window; i++ {
			own += of(all[name])[i]
			for _, s := range all {
				total += of(s)[i]
			}
		}
		out = min(out, own/total)
	}
	return out
}

// Whatever the classes, in every second one that always has work gets its min_share of what the chip does. Some get less: of what all
// are charged, because time that a class had to itself counts whatever it made of it; of what the chip really does, because kernels that
// run side by side are measured longer than they are.
func TestShares(t *testing.T) {
	seeds := uint64(20)
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		seeds = 600
	}
	classes, short := 0, 0
	for seed := range seeds {
		had, shares := shared(t, seed, "")
		for name, share := range shares {
			books := least(had, name, func(s *parts) []float64 { return s.books })
			truth := least(had, name, func(s *parts) []float64 { return s.truth })
			classes++
			if truth < 0.75*share {
				short++
			}
			if books < 0.8*share || truth < 0.2*share {
				t.Errorf("seed %d: class %s with min_share %.3f had %.3f of the chip in some second, and was charged for %.3f", seed, name, share, truth, books)
			}
		}
	}
	t.Logf("%d classes, %d with less than three quarters of their share in some second", classes, short)
	if classes < int(seeds) || short*20 > classes {
		t.Errorf("of %d classes %d had less than three quarters of their share in some second", classes, short)
	}
}
