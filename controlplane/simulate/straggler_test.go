package simulate

import (
	"fmt"
	"strings"
	"testing"
)

// One of eight clients of a kernel takes ten times as long. Where stragglers are evicted the others take hardly longer than without it,
// and still go together; where they are tolerated they wait for it, or go by themselves. Without one nothing changes.
func TestStraggler(t *testing.T) {
	const together = "[[client]]\ncount = 7\nclass = \"a\"\nrequest = \"r\"\n"
	const straggler = "[[client]]\nclass = \"slow\"\nrequest = \"r\"\nscale = 10.0\n"
	var text strings.Builder
	text.WriteString(`schema_version = 1
		duration = "1s"
		kernel.k = { blocks = 16, time = "3us", spread = 0.05 }
		request.r = { gap = "500ns", steps = [{ kernel = "k", times = 60 }] }
		`)
	head := text.String()
	for i := range 7 {
		fmt.Fprintf(&text, "[[client]]\nclass = \"a\"\nrequest = \"r\"\nstart = \"%dus\"\n", 37*i)
	}
	without := parse(t, text.String())
	text.WriteString(straggler)
	with := parse(t, text.String())
	evict := rules(t, "[class.a]\n[class.slow]\n")
	tolerate := rules(t, "[class.a]\nstraggler = \"tolerate\"\n[class.slow]\nstraggler = \"tolerate\"\n")
	alone := simulated(t, without, evict, "heddle")["heddle"]["a"]
	if same := simulated(t, without, tolerate, "heddle")["heddle"]["a"]; same != alone {
		t.Errorf("without a straggler: %+v; where it is tolerated %+v", alone, same)
	}
	got := simulated(t, with, evict, "heddle")["heddle"]
	suffered := simulated(t, with, tolerate, "heddle")["heddle"]
	t.Logf("p99 of the others: %.3f ms, in words of %.1f; without it %.3f and %.1f; tolerated %.3f and %.1f", 1e3*got["a"].P99, got["a"].Width,
		1e3*alone.P99, alone.Width, 1e3*suffered["a"].P99, suffered["a"].Width)
	// Until it is found, some hundredths of a second, all wait for it: they count too.
	if got["a"].P99 > 1.5*alone.P99 || got["a"].Width < 0.7*alone.Width || got["slow"].Width > 1.2 {
		t.Errorf("beside it %+v; without it %+v; itself %+v", got["a"], alone, got["slow"])
	}
	if suffered["a"].P99 < 1.5*alone.P99 && suffered["a"].Width > 0.5*alone.Width {
		t.Errorf("tolerated, it does no harm: %+v; without it %+v", suffered["a"], alone)
	}
	// All begin at one moment: every word holds the straggler from the start, and nobody has seen the kernel by itself.
	at := parse(t, head+together+straggler)
	at.Duration = Duration(300e6)
	got, suffered = simulated(t, at, evict, "heddle")["heddle"], simulated(t, at, tolerate, "heddle")["heddle"]
	t.Logf("in step from the start, median of the others: %.3f ms, in words of %.1f; tolerated %.3f and %.1f", 1e3*got["a"].P50, got["a"].Width,
		1e3*suffered["a"].P50, suffered["a"].Width)
	if got["a"].P50 > suffered["a"].P50/2 {
		t.Errorf("in step from the start: %+v; tolerated %+v", got["a"], suffered["a"])
	}
}

// A client whose requests are ten times as long does no harm to seven others while it has slack: it waits for them. And little when its
// objective leaves it none: what misses it anyhow waits, too.
func TestLongRequests(t *testing.T) {
	const head = `schema_version = 1
		duration = "20s"
		kernel.short = { blocks = 800, threads = 128, registers = 128, time = "20us", spread = 0.1 }
		kernel.long = { blocks = 8000, threads = 128, registers = 128, time = "200us", spread = 0.1 }
		request.short = { gap = "8us", steps = [{ kernel = "short", times = 60 }] }
		request.long = { gap = "8us", steps = [{ kernel = "long", times = 60 }] }
		[[client]]
		count = 7
		class = "others"
		request = "short"
		arrivals = "poisson"
		rate = 13.0
		[[client]]
		class = "one"
		arrivals = "poisson"
		rate = 13.0
		`
	run := func(request, objective string) map[string]map[string]ClassReport {
		p := rules(t, fmt.Sprintf("[class.others]\nlatency_p99 = %q\n[class.one]\nlatency_p99 = %[1]q\n", objective))
		return simulated(t, parse(t, head+"request = \""+request+"\"\n"), p, "heddle", "fifo")
	}
	tight := run("long", "20ms")["heddle"]
	t.Logf("p99 of the others: %.3f ms beside one that needs 12 of its 20 ms; %.2f %% of theirs meet the same objective, %.1f %% of its own",
		1e3*tight["others"].P99, 100*tight["others"].Attained, 100*tight["one"].Attained)
	if tight["others"].Attained < 0.998 || tight["one"].Attained < 0.8 {
		t.Errorf("beside long requests with little slack %+v; these %+v", tight["others"], tight["one"])
	}
	without, with := run("short", "40ms"), run("long", "40ms")
	t.Logf("p99 of the others: %.3f ms without it, %.3f with it, %.3f in turn", 1e3*without["heddle"]["others"].P99, 1e3*with["heddle"]["others"].P99, 1e3*with["fifo"]["others"].P99)
	if with["heddle"]["others"].P99 > 2*without["heddle"]["others"].P99 {
		t.Errorf("beside long requests %+v; without %+v", with["heddle"]["others"], without["heddle"]["others"])
	}
	if with["fifo"]["others"].P99 < 4*without["fifo"]["others"].P99 {
		t.Errorf("long requests did no harm to begin with: %+v", with["fifo"]["others"])
	}
	if with["heddle"]["one"].P50 > 1.25*with["fifo"]["one"].P50 {
		t.Errorf("the long requests themselves: %+v; in turn %+v", with["heddle"]["one"], with["fifo"]["one"])
	}
}
