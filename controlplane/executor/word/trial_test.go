package word

import "testing"

// play runs a trial for so long, where ops go at these rates, one in share of the joined ones in company, and gives the part of the ops
// that went the worse way.
func (t *trial) play(seconds float64, begin int64, joined, apart float64, pressed bool, share uint64) (end int64, worse float64) {
	const look = pressureEvery
	var ops, company, lost float64
	now := begin
	for ; now < begin+int64(seconds*1e9); now += look {
		rate, other := joined, apart
		if t.apart {
			rate, other = apart, joined
		} else {
			company += rate * look / 1e9 / float64(share)
		}
		ops += rate * look / 1e9
		if rate < other {
			lost += rate * look / 1e9
		}
		t.step(now, pressed, uint64(ops), uint64(company))
	}
	return now, lost / ops
}

// The better way is found within 150 ms of pressure, kept, and costs little to find again; and what changes is found out.
func TestTrial(t *testing.T) {
	for _, c := range []struct {
		what          string
		joined, apart float64
		want          bool
	}{
		{"lanes wait for one another", 220e3, 540e3, true},
		{"a little", 500e3, 540e3, true},
		{"no difference that counts", 500e3, 515e3, false},
		{"launches bound everybody", 1.2e6, 700e3, false},
	} {
		var x trial
		now, _ := x.play(0.15, 1, c.joined, c.apart, true, 2)
		if x.found != c.want {
			t.Errorf("%s: apart: %v; want %v", c.what, x.found, c.want)
		}
		now, worse := x.play(30, now, c.joined, c.apart, true, 2)
		if counts := max(c.joined, c.apart) > 1.05*min(c.joined, c.apart); counts && worse > 0.03 || x.found != c.want {
			t.Errorf("%s: %.1f %% of the ops went the worse way; apart: %v", c.what, 100*worse, x.found)
		}
		now, _ = x.play(9, now, c.apart, c.joined, true, 2)
		if want := c.joined > 1.05*c.apart; x.found != want {
			t.Errorf("the opposite of %s: apart: %v; want %v", c.what, x.found, want)
		}
		if x.play(9, now, c.joined, c.apart, false, 2); x.apart {
			t.Errorf("%s, and then there is no pressure: ops still go by themselves", c.what)
		}
	}
}

// Where nothing is joined, hardly anything goes, or more goes joined than ever could apart, nothing is tried.
func TestTrialSpared(t *testing.T) {
	for what, c := range map[string]struct {
		rate  float64
		share uint64
	}{"nothing is joined": {500e3, 1 << 40}, "hardly anything goes": {5e3, 2}} {
		var x trial
		x.play(20, 1, c.rate, 2*c.rate, true, c.share)
		if x.found {
			t.Errorf("%s: ops go by themselves", what)
		}
	}
	// Forms come late, when nothing was joined for long: then it is found out as soon.
	var late trial
	now, _ := late.play(20, 1, 500e3, 700e3, true, 1<<40)
	if late.play(0.2, now, 300e3, 700e3, true, 2); !late.found {
		t.Error("forms came after 20 s, and 200 ms later nobody knows that they do not pay")
	}
	var x trial
	for now := int64(1); now < 10e9; now += pressureEvery {
		x.step(now, true, uint64(now/400), uint64(now/400))
		if x.beyond(now); x.apart {
			t.Fatalf("after %d ms ops go by themselves, though more go joined than ever could", now/1e6)
		}
	}
}
