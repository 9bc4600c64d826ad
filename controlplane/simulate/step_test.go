package simulate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// h200 is the chip of docs/results.md, section 7.
const h200 = "[chip]\ncall = \"3us\"\nlaunch = \"1600ns\"\narrive = \"2us\"\nstart = \"1200ns\"\nseen = \"1us\"\n"

// rates runs a scenario and gives the ops that ended in each ms, and how many words they were.
func rates(t *testing.T, text string, seed uint64) (ops []int, width []float64) {
	t.Helper()
	sc := parse(t, text)
	p, err := BuiltinPolicy()
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRun(sc, p, 1, seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.start("heddle", p); err != nil {
		t.Fatal(err)
	}
	n := int(r.end / 1e6)
	ops, width = make([]int, n), make([]float64, n)
	r.watch = func(what string, o *op) {
		if at := int(r.now / 1e6); what == "done" && at < n {
			ops[at]++
			width[at] += 1 / float64(o.width)
		}
	}
	if err := r.simulate(); err != nil {
		t.Fatal(err)
	}
	for i := range width {
		width[i] = float64(ops[i]) / max(width[i], 1)
	}
	return ops, width
}

// streams is so many clients that launch some kernels in turn without waiting, each from its own place in the turn, at its own moment and
// at its own pace.
func streams(seed uint64, clients int) string {
	r := rand.New(rand.NewPCG(seed, 21))
	var s strings.Builder
	s.WriteString("schema_version = 1\nduration = \"25ms\"\n" + h200)
	kernels := 2 + r.IntN(4)
	for k := range kernels {
		fmt.Fprintf(&s, "[kernel.k%d]\nblocks = %d\ntime = \"%dns\"\nspread = 0.1\n", k, 8+r.IntN(56), 600+r.IntN(600))
	}
	for i := range clients {
		at := r.IntN(kernels)
		fmt.Fprintf(&s, "[request.r%d]\ngap = \"%dns\"\nsteps = [", i, 250+r.IntN(200))
		for k := range kernels {
			fmt.Fprintf(&s, "{ kernel = \"k%d\" }, ", (at+k)%kernels)
		}
		fmt.Fprintf(&s, "]\n[[client]]\nclass = \"batch\"\nrequest = \"r%d\"\narrivals = \"stream\"\nqueue = %d\nstart = \"%dus\"\n", i, 256+r.IntN(512),
			r.IntN(2000))
	}
	return s.String()
}

// Clients that launch the same kernels in turn without waiting fall into step from wherever they start, and stay: one launch serves them
// all then, and neither a trial of a client whose ops by themselves nobody knows nor anything else takes them out of it for longer than a
// moment.
func TestInStep(t *testing.T) {
	seeds := uint64(8)
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		seeds = 300
	}
	for seed := range seeds {
		clients := 8
		if seed%4 == 3 {
			clients = 32
		}
		ops, width := rates(t, streams(seed, clients), seed)
		for ms := 8; ms < len(ops); ms++ {
			if ops[ms] < 1_800 || width[ms] < 0.75*float64(clients) {
				t.Errorf("seed %d, %d clients, ms %d: %d ops in words of %.1f; in each ms %v, %.1f", seed, clients, ms, ops[ms], width[ms], ops, width)
				break
			}
		}
	}
}

// Who waits for each launch is served no later than if each op went by itself, where that is what issue threads can carry, and sooner
// where they cannot.
func TestWaiting(t *testing.T) {
	for _, c := range []struct {
		clients  int
		ops, p99 float64 // at least, of fifo's, and at most
	}{{1, 0.97, 1.1}, {4, 0.97, 1.1}, {8, 0.97, 1.1}, {16, 1.2, 1}, {32, 1.5, 1}, {64, 1.8, 1}} {
		sc := load(t, "waiting", 10e6)
		sc.Clients[0].Count = c.clients
		got := simulated(t, sc, nil, "heddle", "fifo")
		h, f := got["heddle"]["all"], got["fifo"]["all"]
		t.Logf("%d: %.0f and %.0f ops/s, p50 %.1f and %.1f us, p99 %.1f and %.1f us, width %.1f", c.clients, h.OpsPerSecond, f.OpsPerSecond, 1e6*h.P50,
			1e6*f.P50, 1e6*h.P99, 1e6*f.P99, h.Width)
		if h.OpsPerSecond < c.ops*f.OpsPerSecond || h.P99 > c.p99*f.P99 {
			t.Errorf("%d clients: %+v; fifo %+v", c.clients, h, f)
		}
	}
}

// Where launches are not what bounds them, clients of one kernel do not wait for one another.
func TestSpareLaunches(t *testing.T) {
	for seed := range uint64(4) {
		sc := load(t, "seven", 60e6)
		r := rand.New(rand.NewPCG(seed, 22))
		for _, c := range sc.Clients {
			c.Start = Duration(r.IntN(2_000_000))
		}
		got := simulated(t, sc, nil, "heddle", "fifo")
		if h, f := got["heddle"]["all"], got["fifo"]["all"]; h.P99 > 1.1*f.P99 || h.OpsPerSecond < 0.97*f.OpsPerSecond {
			t.Errorf("seed %d: p99 %.3f ms, fifo %.3f; %.0f and %.0f ops/s", seed, 1e3*h.P99, 1e3*f.P99, h.OpsPerSecond, f.OpsPerSecond)
		}
	}
}

// Clients that need their own time between two launches go by themselves soon, whatever their kernels could: nobody then waits for others,
// kernel after kernel. The same whose kernels cannot be joined are what that is compared with.
func TestModels(t *testing.T) {
	p, err := BuiltinPolicy()
	if err != nil {
		t.Fatal(err)
	}
	whole := load(t, "models", 300e6)
	apart := load(t, "models", 300e6)
	for i := range apart.kernels {
		apart.kernels[i].Alone = true
	}
	joins := simulated(t, whole, p, "heddle")["heddle"]["batch"]
	alone := simulated(t, apart, p, "heddle")["heddle"]["batch"]
	t.Logf("%.0f requests/s, median %.3f ms, in words of %.2f; kernels that cannot be joined: %.0f, %.3f", joins.RequestsPerSecond, 1e3*joins.P50, joins.Width,
		alone.RequestsPerSecond, 1e3*alone.P50)
	if joins.RequestsPerSecond < 0.85*alone.RequestsPerSecond || joins.P50 > 1.1*alone.P50 {
		t.Errorf("%+v; kernels that cannot be joined: %+v", joins, alone)
	}
}
