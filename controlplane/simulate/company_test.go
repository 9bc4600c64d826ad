package simulate

import (
	"fmt"
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/policy"
)

// learned runs a scenario with the real scheduler, and gives what it got and knows. at is called with the scheduler and the time of
// each op that is issued.
func learned(t *testing.T, text string, p *policy.Policy, at func(*heddle, int64)) (map[string]ClassReport, *heddle) {
	t.Helper()
	return seeded(t, text, p, 1, at)
}

// seeded is learned with another seed.
func seeded(t *testing.T, text string, p *policy.Policy, seed uint64, at func(*heddle, int64)) (map[string]ClassReport, *heddle) {
	t.Helper()
	r, err := newRun(parse(t, text), p, 1, seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.start("heddle", p); err != nil {
		t.Fatal(err)
	}
	h := r.backend.(*device).pick.(*heddle)
	if at != nil {
		r.watch = func(what string, o *op) {
			if what == "issue" {
				at(h, r.now)
			}
		}
	}
	if err := r.simulate(); err != nil {
		t.Fatal(err)
	}
	out := map[string]ClassReport{}
	for _, c := range r.result("heddle", 1).Classes {
		out[c.Class] = c
	}
	return out, h
}

// keys are the contents of the kernels that were launched, and of the classes, by name.
func (h *heddle) keys() map[string]uint64 {
	out := map[string]uint64{}
	for part := range scoreboard.Parts {
		h.Gather.Shapes().Each(part, func(s *scoreboard.Shape) { out[s.Code.Name] = s.Key })
	}
	for _, k := range h.Sched.Classes() {
		out["class "+k.Name] = k.Key
	}
	return out
}

// urgentBeside is an interactive client beside best-effort ones of two kernels, of which one slows its own by a factor.
func urgentBeside(slows float64, blind bool) string {
	return fmt.Sprintf(`schema_version = 1
		duration = "600ms"
		blind = %v
		kernel.urgent = { blocks = 16, time = "10us", alone = true }
		kernel.hog = { blocks = 8, time = "15us", alone = true }
		kernel.mild = { blocks = 8, time = "15us", alone = true }
		interference = [{ kernel = "urgent", beside = "hog", slows = %v }]
		request.urgent = { gap = "2us", steps = [{ kernel = "urgent", times = 40 }] }
		request.hog = { gap = "2us", steps = [{ kernel = "hog", times = 100 }] }
		request.mild = { gap = "2us", steps = [{ kernel = "mild", times = 100 }] }
		[[client]]
		class = "urgent"
		request = "urgent"
		arrivals = "poisson"
		rate = 500.0
		[[client]]
		count = 2
		class = "hogs"
		request = "hog"
		start = "50ms"
		think = "1ms"
		[[client]]
		count = 2
		class = "milds"
		request = "mild"
		start = "50ms"
		think = "1ms"
		`, blind, slows)
}

// Beside an urgent request that has to hurry, what slows it waits, and what does not goes on: several times as many requests meet their
// objective, and the harmless client keeps what it had. Where nothing slows anything, knowing that changes nothing at all.
func TestUrgentCompany(t *testing.T) {
	p := rules(t, "[class.urgent]\nlatency_p99 = \"1ms\"\npriority = 10\n[class.hogs]\n[class.milds]\n")
	const seeds = 3 // who is beside whom is chance: hogs and milds mostly run together
	var attained, blindly float64
	tails := 0 // runs whose p99 is less than three quarters of what it is blind
	excess := map[[2]string][]float64{}
	for seed := range uint64(seeds) {
		blind, _ := seeded(t, urgentBeside(4, true), p, seed, nil)
		got, h := seeded(t, urgentBeside(4, false), p, seed, nil)
		u, b := got["urgent"], blind["urgent"]
		t.Logf("attained %.3f, p50 %.3f, p99 %.3f ms; blind %.3f, %.3f, %.3f; hogs keep %.2f, the others %.2f", u.Attained, 1e3*u.P50, 1e3*u.P99,
			b.Attained, 1e3*b.P50, 1e3*b.P99, got["hogs"].OpsPerSecond/blind["hogs"].OpsPerSecond, got["milds"].OpsPerSecond/blind["milds"].OpsPerSecond)
		attained, blindly = attained+u.Attained, blindly+b.Attained
		if u.P99 < 0.75*b.P99 {
			tails++
		}
		if keep := got["milds"].OpsPerSecond / blind["milds"].OpsPerSecond; keep < 0.9 {
			t.Errorf("the class that slows nobody keeps %.2f of its ops", keep)
		}
		if keep := got["hogs"].OpsPerSecond / blind["hogs"].OpsPerSecond; keep < 0.6 {
			t.Errorf("the class that slows others keeps %.2f of its ops", keep)
		}
		keys, now := h.keys(), h.d.r.now
		for _, beside := range []string{"hog", "mild"} {
			for _, victim := range []string{"urgent", "class urgent"} {
				x, sure := h.company.Excess(keys[victim], keys[beside], now)
				if !sure {
					t.Errorf("%s beside %s: not known", victim, beside)
				}
				excess[[2]string{victim, beside}] = append(excess[[2]string{victim, beside}], x)
			}
		}
		if n := h.Sched.Classes()[0].Stats.Waits; n[len(n)-1] == 0 {
			t.Error("no op of the hogs waited for that reason")
		}
	}
	if attained < 2.5*blindly || tails < seeds-1 {
		t.Errorf("the urgent class attained %.2f of its objectives; blind %.2f; its p99 is clearly lower in %d of %d", attained/seeds, blindly/seeds, tails, seeds)
	}
	for _, victim := range []string{"urgent", "class urgent"} {
		hog, mild := excess[[2]string{victim, "hog"}], excess[[2]string{victim, "mild"}]
		slices.Sort(hog)
		slices.Sort(mild)
		if hog[seeds/2] < company.Hurts || mild[seeds/2] > hog[seeds/2]/4 {
			t.Errorf("%s beside hogs takes longer by %.2f, beside milds by %.2f", victim, hog, mild)
		}
	}
	same, _ := learned(t, urgentBeside(1, false), p, nil)
	for class, want := range must(learned(t, urgentBeside(1, true), p, nil)) {
		if same[class] != want {
			t.Errorf("nothing slows anything, and %s got %+v; blind %+v", class, same[class], want)
		}
	}
}

func must(m map[string]ClassReport, _ *heddle) map[string]ClassReport { return m }

// twoKinds is two groups of clients of kernels that can go in one launch, and slow each other by a factor.
func twoKinds(slows float64, blind bool, more string) string {
	return fmt.Sprintf(`schema_version = 1
		blind = %v
		gather = "20us"
		kernel.a = { blocks = 16, time = "20us", packs = true }
		kernel.b = { blocks = 16, time = "20us", packs = true }
		interference = [{ kernel = "a", beside = "b", slows = %v }, { kernel = "b", beside = "a", slows = %v }]
		request.a = { gap = "2us", steps = [{ kernel = "a", times = 40 }] }
		request.b = { gap = "2us", steps = [{ kernel = "b", times = 40 }] }
		%s`, blind, slows, slows, more)
}

const threeEach = `duration = "800ms"
		[[client]]
		count = 3
		class = "as"
		request = "a"
		think = "2ms"
		[[client]]
		count = 3
		class = "bs"
		request = "b"
		think = "2ms"
		`

// Kernels that slow each other more than one launch gains are kept out of each other's words and wait for each other: more gets done.
// Others share words as before, and nothing changes.
func TestPartners(t *testing.T) {
	p := rules(t, "[class.as]\n[class.bs]\n")
	const seeds = 4 // a few clients fall into one pattern or another, and stay there: of one seed the gain is 0 to 50 %
	var ops, p50 float64
	var apart, avoided uint64
	for seed := range uint64(seeds) {
		blind, _ := seeded(t, twoKinds(4, true, threeEach), p, 1+seed, nil)
		got, h := seeded(t, twoKinds(4, false, threeEach), p, 1+seed, nil)
		for _, class := range []string{"as", "bs"} {
			t.Logf("%s: %.0f ops/s, median %.2f ms; blind %.0f, %.2f", class, got[class].OpsPerSecond, 1e3*got[class].P50, blind[class].OpsPerSecond,
				1e3*blind[class].P50)
			ops += got[class].OpsPerSecond / blind[class].OpsPerSecond / (2 * seeds)
			p50 += got[class].P50 / blind[class].P50 / (2 * seeds)
		}
		apart += h.Gather.Apart[scoreboard.ReasonCompany]
		avoided += h.Gather.Avoided
	}
	if apart == 0 || avoided == 0 {
		t.Errorf("kept out of words %d times, kept off the chip %d times", apart, avoided)
	}
	t.Logf("%.2f times as many ops, medians %.2f times as long", ops, p50)
	if ops < 1.1 || p50 > 0.95 {
		t.Errorf("%.2f times as many ops, medians %.2f times as long; want 1.1 at least, 0.95 at most", ops, p50)
	}
	for _, slows := range []float64{1, 1.4} {
		want := must(learned(t, twoKinds(slows, true, threeEach), p, nil))
		got, h := learned(t, twoKinds(slows, false, threeEach), p, nil)
		for class := range want {
			if n, m := got[class].OpsPerSecond, want[class].OpsPerSecond; n < 0.95*m || got[class].Width < 0.95*want[class].Width {
				t.Errorf("they slow each other by %v, and %s got %+v; blind %+v", slows, class, got[class], want[class])
			}
			t.Logf("slows %v: %s %.0f ops/s of %.0f in words of %.2f of %.2f", slows, class, got[class].OpsPerSecond, want[class].OpsPerSecond,
				got[class].Width, want[class].Width)
		}
		if n := h.Gather.Apart[scoreboard.ReasonCompany]; n > 0 {
			t.Errorf("they slow each other by %v, and were kept apart %d times", slows, n)
		}
	}
}

// Lies are forgotten: kernels of which it was measured, by whatever means, that they slow each other, and which do not, are measured again,
// and soon get done what they got done before. (What is never measured again decays by itself: package company.)
func TestWrongCompany(t *testing.T) {
	p := rules(t, "[class.as]\n[class.bs]\n")
	want := must(learned(t, twoKinds(1, false, threeEach), p, nil))
	lies := 0
	got, h := learned(t, twoKinds(1, false, threeEach), p, func(h *heddle, now int64) {
		keys := h.keys()
		if now > 300e6 || keys["a"] == 0 || keys["b"] == 0 {
			return
		}
		if x, _ := h.company.Excess(keys["a"], keys["b"], now); now/50e6 >= int64(lies) && x < company.Hurts {
			lies++
			for range 30 {
				h.company.Learn(keys["a"], []uint64{keys["b"]}, []float64{0}, 1e6, now)
				h.company.Learn(keys["b"], []uint64{keys["a"]}, []float64{0}, 1e6, now)
			}
			for part := range scoreboard.Parts {
				h.Gather.Shapes().Each(part, h.Gather.Distrust)
			}
		}
	})
	if lies < 3 {
		t.Errorf("only %d lies were believed and forgotten", lies)
	}
	keys := h.keys()
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
		if x, _ := h.company.Excess(keys[pair[0]], keys[pair[1]], h.d.r.now); x >= company.Hurts {
			t.Errorf("%s beside %s: %.2f is still believed", pair[0], pair[1], x)
		}
	}
	for class := range want {
		t.Logf("%s: %.0f ops/s after %d lies; %.0f without", class, got[class].OpsPerSecond, lies, want[class].OpsPerSecond)
		if got[class].OpsPerSecond < 0.9*want[class].OpsPerSecond {
			t.Errorf("%s got %+v; without lies %+v", class, got[class], want[class])
		}
	}
}

// A client whose own code takes nearly all the time of its requests, as eager frameworks' does, is always late or nearly so. Whoever has
// less priority gets the chip meanwhile: it is not what the requests wait for.
func TestHostBound(t *testing.T) {
	const head = `schema_version = 1
		duration = "3s"
		kernel.small = { blocks = 48, threads = 128, registers = 128, time = "7us", spread = 0.1 }
		kernel.big = { blocks = 1600, threads = 128, registers = 128, time = "45us", spread = 0.3 }
		request.eager = { gap = "70us", steps = [{ kernel = "small", times = 165 }] }
		request.batch = { gap = "6us", steps = [{ kernel = "big", times = 160 }] }
		[[client]]
		class = "interactive"
		request = "eager"
		arrivals = "poisson"
		rate = 40.0
		`
	const batch = "[[client]]\nclass = \"batch\"\nrequest = \"batch\"\n"
	p := rules(t, "[class.interactive]\npriority = 100\nlatency_p99 = \"20ms\"\n[class.batch]\nmin_share = 0.5\n")
	alone := simulated(t, parse(t, head), p, "heddle")["heddle"]["interactive"]
	both := simulated(t, parse(t, head+batch), p, "heddle", "fifo")
	got, most := both["heddle"], both["fifo"]["batch"].RequestsPerSecond
	t.Logf("p50 %.2f ms alone, %.2f beside a batch that has %.2f of what it has in turn", 1e3*alone.P50, 1e3*got["interactive"].P50, got["batch"].RequestsPerSecond/most)
	if got["batch"].RequestsPerSecond < 0.9*most || got["interactive"].P50 > 1.05*alone.P50 {
		t.Errorf("%+v; alone %+v; in turn %+v", got, alone, both["fifo"])
	}
}
