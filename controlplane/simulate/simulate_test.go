package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/policy"
)

// load reads a builtin scenario and shortens it.
func load(t *testing.T, name string, d time.Duration) *Scenario {
	t.Helper()
	sc, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	sc.Duration = Duration(d)
	return sc
}

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	sc, err := Parse("test", text)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func rules(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]policy.File{{Name: "test", Text: "schema_version = 1\n" + text}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run simulates; the results come by scheduler and class, "all" for their total.
func simulated(t *testing.T, sc *Scenario, p *policy.Policy, schedulers ...string) map[string]map[string]ClassReport {
	t.Helper()
	if len(schedulers) == 0 {
		schedulers = Names
	}
	rep, err := Run(sc, Options{Policy: p, Seed: 1, Schedulers: schedulers})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]ClassReport{}
	for _, r := range rep.Results {
		out[r.Scheduler] = map[string]ClassReport{"all": r.Total}
		for _, c := range r.Classes {
			out[r.Scheduler][c.Class] = c
		}
	}
	return out
}

// allAtOnce issues everything that is offered in one word.
type allAtOnce struct {
	baseline
	ops []*op
}

func (b *allAtOnce) offer(o *op) { b.ops = append(b.ops, o) }

func (b *allAtOnce) pass() int64 {
	if len(b.ops) > 0 {
		for _, o := range b.ops {
			o.Signal = true
		}
		b.d.issue(b.ops, nil, 0, false, nil)
		b.ops = nil
	}
	return never
}

// The model against what was measured on an H100: R instances in one coalesced launch, from the call to the known end
// (measurements.md, section 3).
func TestChip(t *testing.T) {
	for _, c := range []struct {
		blocks, us, n int
		measured      float64 // µs
	}{{4, 1, 8, 11}, {4, 1, 32, 11}, {4, 1, 128, 12}, {16, 4, 32, 18}, {16, 16, 32, 34}, {64, 16, 32, 94}, {132, 16, 8, 54}} {
		sc := parse(t, fmt.Sprintf(`schema_version = 1
			duration = "1ms"
			kernel.k = { blocks = %d, time = "%dus" }
			request.r.steps = [{ kernel = "k" }]
			client = [{ count = %d, request = "r", think = "0s", start = "1us" }]`, c.blocks, c.us, c.n))
		sc.Chip.Pass, sc.Chip.Ring, sc.Chip.Record, sc.Chip.Op, sc.Chip.Word = 0, 0, 0, 0, 0 // no poller was in it
		r, err := newRun(sc, policy.Default(), 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.backend = newDevice(r, func(d *device) picker { return &allAtOnce{baseline: baseline{d: d}} })
		r.end = 2000 // only the first requests
		if err := r.simulate(); err != nil {
			t.Fatal(err)
		}
		k := r.classes[policy.DefaultClass]
		got := float64(slices.Max(k.latencies)) / 1e3
		if len(k.latencies) != c.n || got < 0.7*c.measured || got > 1.3*c.measured {
			t.Errorf("%d instances of %d blocks, %d us: %.1f us; measured %.0f", c.n, c.blocks, c.us, got, c.measured)
		}
	}
}

// The same seed gives the same bytes, another seed others.
func TestDeterminism(t *testing.T) {
	text := func(seed uint64) string {
		var out bytes.Buffer
		for _, name := range []string{"bursts", "rising-load"} {
			sc := load(t, name, 12*time.Millisecond)
			sc.Loads = sc.Loads[:1]
			rep, err := Run(sc, Options{Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			if err := rep.Print(&out); err != nil {
				t.Fatal(err)
			}
			if err := json.NewEncoder(&out).Encode(rep); err != nil {
				t.Fatal(err)
			}
		}
		return out.String()
	}
	first := text(1)
	if again := text(1); first != again {
		t.Errorf("the same seed gave\n%s\nand\n%s", first, again)
	}
	if first == text(2) {
		t.Error("another seed gave the same")
	}
}

// random makes a scenario and a policy of a seed.
func random(r *rand.Rand) (scenario, rules string) {
	var s, p strings.Builder
	s.WriteString("schema_version = 1\nduration = \"20ms\"\n")
	for i := range 3 {
		blocks, us := 1+r.IntN(2000), 1+r.IntN(100)
		if i == 2 && r.IntN(2) == 0 { // one that can be cut
			blocks, us = 10*blocks+10_000, 10*us
		}
		fmt.Fprintf(&s, "[kernel.k%d]\nblocks = %d\nthreads = %d\ntime = \"%dus\"\nspread = 0.5\nalone = %v\n",
			i, blocks, 32*(1+r.IntN(16)), us, r.IntN(4) == 0)
	}
	for i := range 3 {
		fmt.Fprintf(&s, "[request.r%d]\ngap = \"%dus\"\nsteps = [", i, r.IntN(5))
		for range 1 + r.IntN(5) {
			fmt.Fprintf(&s, "{ kernel = \"k%d\", times = %d, lane = %d }, ", r.IntN(3), 1+r.IntN(20), r.IntN(3))
		}
		s.WriteString("]\n")
	}
	for i := range 4 {
		fmt.Fprintf(&p, "[class.c%d]\npriority = %d\ncoalesce = %v\nmax_queue_size = %d\n", i, r.IntN(3), r.IntN(4) > 0, r.IntN(3)*8)
		if r.IntN(2) == 0 {
			fmt.Fprintf(&p, "latency_p99 = \"%dms\"\n", 1+r.IntN(20))
		}
		if r.IntN(3) == 0 {
			p.WriteString("max_wait = \"100us\"\n")
		}
		if r.IntN(3) == 0 {
			p.WriteString("min_share = 0.2\n")
		}
		fmt.Fprintf(&s, "[[client]]\ncount = %d\nclass = \"c%d\"\nrequest = \"r%d\"\nscale = %d.5\n", 1+r.IntN(10), i, r.IntN(3), r.IntN(3))
		switch r.IntN(3) {
		case 0:
			fmt.Fprintf(&s, "think = \"%dus\"\n", r.IntN(2)*500)
		case 1:
			fmt.Fprintf(&s, "arrivals = \"poisson\"\nrate = %d.0\n", 1+r.IntN(500))
		case 2:
			fmt.Fprintf(&s, "arrivals = \"bursty\"\nrate = %d.0\nburst = 5\n", 1+r.IntN(500))
		}
	}
	return s.String(), p.String()
}

// Whatever the scenario, the policy and the scheduler: every op is submitted, issued and done once, in its lane's order, and what
// arrives does not depend on who schedules it.
func TestConservation(t *testing.T) {
	seeds := uint64(6)
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		seeds = 400
	}
	cut := uint64(0)
	defer func() {
		if cut == 0 {
			t.Error("no op was issued in slices")
		}
	}()
	for seed := range seeds {
		text, classes := random(rand.New(rand.NewPCG(seed, 3)))
		sc, p := parse(t, text), rules(t, classes)
		open := map[string]int{}
		for _, name := range Names {
			r, err := newRun(sc, p, 1, seed)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.start(name, p); err != nil {
				t.Fatal(err)
			}
			numbers := map[string]map[*lane]uint32{"submit": {}, "issue": {}, "done": {}}
			r.watch = func(what string, o *op) {
				if numbers[what][o.ln]++; numbers[what][o.ln] != o.Seq {
					t.Fatalf("seed %d, %s: %s number %d of a lane; want %d", seed, name, what, o.Seq, numbers[what][o.ln])
				}
			}
			if err := r.simulate(); err != nil {
				t.Fatalf("seed %d: %v\n%s\n%s", seed, err, text, classes)
			}
			for _, c := range r.codes {
				cut += c.Use.Slices
			}
			requests := 0
			for _, c := range r.clients {
				for _, ln := range c.lanes {
					for _, what := range []string{"submit", "issue", "done"} {
						if got := numbers[what][ln]; got != ln.submitted {
							t.Fatalf("seed %d, %s: %s %d of %d ops of a lane", seed, name, what, got, ln.submitted)
						}
					}
				}
				if c.spec.Arrivals != "closed" {
					requests += int(c.requests)
				}
			}
			if open[name] = requests; requests != open["heddle"] {
				t.Errorf("seed %d: %d requests arrived for %s, %d for heddle", seed, requests, name, open["heddle"])
			}
		}
	}
}

// Beside work that fills the chip, an interactive client's objective is met by its class, and not by the order of arrival.
func TestPriority(t *testing.T) {
	got := simulated(t, load(t, "interactive-beside-batch", 150*time.Millisecond), nil, "heddle", "fifo")
	if h, f := got["heddle"]["interactive"].Attained, got["fifo"]["interactive"].Attained; h < 0.99 || f > 0.5 {
		t.Errorf("the interactive class attained %.3f by heddle, %.3f by fifo", h, f)
	}
	if share := got["heddle"]["batch"].Share; share < 0.5 {
		t.Errorf("best-effort work kept %.2f of the chip", share)
	}
}

// Beside kernels of 5 ms an interactive client's requests take a third of the time where those can be issued in slices, and the others
// keep what they had.
func TestSlices(t *testing.T) {
	sliced := load(t, "long-kernels", 400*time.Millisecond)
	whole := load(t, "long-kernels", 400*time.Millisecond)
	whole.Kernels["long"].Alone = true
	after, before := simulated(t, sliced, nil, "heddle")["heddle"], simulated(t, whole, nil, "heddle")["heddle"]
	if a, b := after["interactive"].P50, before["interactive"].P50; a > b/3 {
		t.Errorf("the median request takes %.2f ms, and %.2f ms beside whole kernels", 1e3*a, 1e3*b)
	}
	if a, b := after["batch"].Share, before["batch"].Share; a < 0.9*b {
		t.Errorf("the class below has %.3f of the chip, and %.3f with whole kernels", a, b)
	}
}

// A class without an objective keeps its min_share beside a flood with one, and not much more.
func TestMinShare(t *testing.T) {
	sc := parse(t, `schema_version = 1
		duration = "300ms"
		kernel.k = { blocks = 2112, time = "40us", alone = true }
		request.r.steps = [{ kernel = "k", times = 20 }]
		[[client]]
		count = 3
		class = "flood"
		request = "r"
		[[client]]
		class = "one"
		request = "r"`)
	for _, want := range []float64{0.05, 0.1, 0.2, 0.3} {
		p := rules(t, fmt.Sprintf("[class.flood]\nlatency_p99 = \"20ms\"\n[class.one]\nmin_share = %v\n", want))
		got := simulated(t, sc, p, "heddle")["heddle"]["one"].Share
		t.Logf("min_share %v: %.3f", want, got)
		if got < 0.9*want || got > want+0.1 {
			t.Errorf("the class had %.3f of the chip; min_share is %v", got, want)
		}
	}
}

// Nobody meets more objectives than the oracle.
func TestOracle(t *testing.T) {
	for _, name := range Builtin() {
		sc := load(t, name, 40*time.Millisecond)
		sc.Loads = sc.Loads[len(sc.Loads)-1:]
		got := simulated(t, sc, nil)
		for _, other := range Names {
			if best, a := got["oracle"]["all"].Attained, got[other]["all"].Attained; a > best || best == 0 {
				t.Errorf("%s: %s attained %.4f, the oracle %.4f", name, other, a, best)
			}
		}
	}
}

// Where launches are the bottleneck, joined ones carry more than any order of single ones.
func TestCoalescing(t *testing.T) {
	sc := load(t, "rising-load", 60*time.Millisecond)
	sc.Loads = []float64{2}
	got := simulated(t, sc, nil, "heddle", "edf")
	h, e := got["heddle"]["all"], got["edf"]["all"]
	if h.Width < 1.2 || h.OpsPerSecond < 1.1*e.OpsPerSecond || e.Width != 1 {
		t.Errorf("heddle: %.0f ops/s in words of %.2f; edf: %.0f in words of %.2f", h.OpsPerSecond, h.Width, e.OpsPerSecond, e.Width)
	}
}

// Two thousand clients take seconds.
func TestCrowd(t *testing.T) {
	began := time.Now()
	rep, err := Run(load(t, "crowd", 40*time.Millisecond), Options{Schedulers: []string{"heddle", "oracle"}})
	if err != nil {
		t.Fatal(err)
	}
	took, ops := time.Since(began), rep.Results[0].Ops+rep.Results[1].Ops
	if rep.Results[0].Total.Clients != 2000 || rep.Results[0].Total.Requests < 2000 {
		t.Errorf("%+v", rep.Results[0].Total)
	}
	t.Logf("%d ops in %v: %.0f a second", ops, took, float64(ops)/took.Seconds())
}

const trace = `{"client":"b","class":"batch","at_ns":0,"ops":[{"kernel":"gemm","blocks":2112,"threads":256,"ns":50000,"times":40}]}
{"client":"a","class":"interactive","at_ns":250000,"gap_ns":2000,"ops":[{"kernel":"small","blocks":8,"ns":4000,"times":5},{"kernel":"small","blocks":8,"ns":4000,"lane":1}]}

{"client":"a","class":"interactive","at_ns":100000,"ops":[{"kernel":"small","blocks":8,"ns":4000,"alone":true}]}
`

// A trace is replayed as it is: its requests at their times, in the order of time.
func TestTrace(t *testing.T) {
	sc, err := ParseTrace("t.jsonl", trace)
	if err != nil {
		t.Fatal(err)
	}
	got := simulated(t, sc, nil)
	for name, classes := range got {
		if a, b := classes["interactive"], classes["batch"]; a.Requests != 2 || b.Requests != 1 {
			t.Errorf("%s: %d and %d requests", name, a.Requests, b.Requests)
		}
	}
	// Alone the first takes 4 µs, the second five times that, and its gaps.
	if p99 := got["oracle"]["interactive"].P99; p99 < 20e-6 || p99 > 30e-6 {
		t.Errorf("the oracle needs %v s", p99)
	}
	file := filepath.Join(t.TempDir(), "t.jsonl")
	if err := os.WriteFile(file, []byte(trace), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, read := range []func(string) (*Scenario, error){Load, LoadTrace} {
		if again, err := read(file); err != nil || len(again.Clients) != 2 {
			t.Errorf("%v, %v", again, err)
		}
	}
}

// The policies of docs/examples are valid, and do what they say beside each other's loads.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../docs/examples/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	ran := 0
	for _, file := range files {
		if strings.HasPrefix(filepath.Base(file), "scenario-") {
			continue
		}
		p, err := policy.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		scenario := strings.TrimSuffix(file, filepath.Base(file)) + strings.Replace(filepath.Base(file), "policy-", "scenario-", 1)
		sc, err := Load(scenario)
		if err != nil {
			t.Fatal(err)
		}
		sc.Duration = Duration(50 * time.Millisecond)
		got := simulated(t, sc, p, "heddle", "fifo")
		if h, f := got["heddle"]["all"].Attained, got["fifo"]["all"].Attained; h < f || h < 0.9 {
			t.Errorf("%s: attained %.3f, by fifo %.3f", file, h, f)
		}
		ran++
	}
	if ran == 0 {
		t.Error("no policy among the examples")
	}
}
