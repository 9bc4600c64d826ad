package company

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"
)

const second = int64(1e9)

// Three alike measurements make a pair sure; each of two that run beside a kernel gets its part, whichever are measured together.
func TestLearns(t *testing.T) {
	tab := New()
	none := []float64{0, 0}
	for i := range 200 {
		now := int64(i) * second / 100
		switch i % 3 {
		case 0:
			tab.Learn(1, []uint64{2}, none[:1], 1.5, now)
		case 1:
			tab.Learn(1, []uint64{3}, none[:1], 0.1, now)
		default:
			tab.Learn(1, []uint64{2, 3}, none, 1.6, now)
		}
		if _, sure := tab.Excess(1, 2, now); sure != (i >= 3) {
			t.Fatalf("after %d measurements, sure is %v", i+1, sure)
		}
	}
	for beside, want := range map[uint64]float64{2: 1.5, 3: 0.1} {
		if got, sure := tab.Excess(1, beside, 2*second); !sure || math.Abs(got-want) > 0.05 {
			t.Errorf("beside %d: %.3f, %v; want %.2f", beside, got, sure, want)
		}
	}
	if x, sure := tab.Excess(2, 1, 0); x != 0 || sure {
		t.Errorf("the other way round nothing was measured: %v, %v", x, sure)
	}
	if tab.Len() != 2 || tab.Hurting(2*second) != 1 || tab.Learned != 200 {
		t.Errorf("%d pairs, %d hurting, %d learned", tab.Len(), tab.Hurting(2*second), tab.Learned)
	}
}

// Whatever was measured before, honest measurements of no harm have a pair below the bound after twenty, and time alone has it there,
// too: within 8 half-lives of the longest.
func TestWrongDecays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab, now := New(), int64(0)
		lie := rapid.OneOf(rapid.Float64Range(0, 1e9), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), -1, math.MaxFloat64}))
		for range rapid.IntRange(1, 60).Draw(t, "lies") {
			now += rapid.Int64Range(-second, 60*second).Draw(t, "pause")
			n := rapid.IntRange(0, Most+1).Draw(t, "company")
			with, expected := make([]uint64, n), make([]float64, n)
			for i := range with {
				with[i], expected[i] = rapid.Uint64Range(0, 5).Draw(t, "who"), Expect(lie.Draw(t, "fill"), lie.Draw(t, "fill"))
			}
			tab.Learn(rapid.Uint64Range(0, 2).Draw(t, "victim"), with, expected, lie.Draw(t, "excess"), now)
		}
		tab.Each(now, func(k Known) {
			if !(k.Excess >= 0 && k.Excess <= highest) {
				t.Fatalf("%+v", k)
			}
			later := now + 60*second + 2*(8<<stubborn)*Half // the clock may have gone back
			if x, _ := tab.Excess(k.Victim, k.Beside, later); x >= Hurts {
				t.Fatalf("%+v: %v is left of it after %v s", k, x, (later-now)/second)
			}
		})
		for range 20 {
			now += second / 100
			tab.Learn(1, []uint64{2}, []float64{0}, 0, now)
		}
		if x, _ := tab.Excess(1, 2, now); x >= Hurts {
			t.Fatalf("%v is left after 20 measurements of no harm", x)
		}
	})
}

// A pair that is measured again whenever it has decayed is tried less and less often; one that proves harmless once begins anew.
func TestTriedLessAndLess(t *testing.T) {
	tab, now := New(), int64(0)
	learn := func(x float64) { tab.Learn(1, []uint64{2}, []float64{0}, x, now) }
	hurts := func() bool { x, _ := tab.Excess(1, 2, now); return x >= Hurts }
	away := func() (ns int64) {
		for ; hurts(); ns += second / 10 {
			now += second / 10
		}
		return ns
	}
	teach := func() {
		for range 20 {
			learn(2)
		}
	}
	teach()
	first := away()
	last := first
	for range 3 {
		teach()
		next := away()
		if next < last*3/2 {
			t.Errorf("away for %v s after %v s", next/second, last/second)
		}
		last = next
	}
	for range 20 {
		learn(0)
	}
	teach()
	if again := away(); again > first*3/2 {
		t.Errorf("it was harmless, and is avoided for %v s; at first for %v s", again/second, first/second)
	}
}

// What fits beside a kernel is not expected to slow it, what fills the chip to double its time; two such are as well off side by side
// as one after the other, and only what slows each other more is worse.
func TestRules(t *testing.T) {
	for _, c := range []struct{ fill, beside, want float64 }{{0.2, 0.5, 0}, {1, 1, 1}, {0.75, 0.5, 0.25}, {1, 0.1, 0.1}} {
		if got := Expect(c.fill, c.beside); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%v beside %v: %v", c.fill, c.beside, got)
		}
	}
	for _, c := range []struct {
		x, y float64
		want bool
	}{{1, 1, false}, {0, 9, false}, {2, 2, true}, {3, 0.3, false}, {0.5, 3, true}} {
		if Worse(c.x, c.y) != c.want {
			t.Errorf("Worse(%v, %v)", c.x, c.y)
		}
	}
}

// The time of two kernels side by side against one after the other is what Worse says, by simulating both.
func TestWorseIsLonger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, y := rapid.Float64Range(0, 8).Draw(t, "x"), rapid.Float64Range(0, 8).Draw(t, "y")
		a, b := rapid.Float64Range(1, 100).Draw(t, "a"), rapid.Float64Range(1, 100).Draw(t, "b")
		endA, endB := a*(1+x), b*(1+y) // were the other one to run all the time
		together := 0.0
		if endA < endB {
			together = endA + b - endA/(1+y)
		} else {
			together = endB + a - endB/(1+x)
		}
		if Worse(x, y) && together <= a+b {
			t.Fatalf("excesses %v and %v: %v together, %v one after the other", x, y, together, a+b)
		}
		if !Worse(x, y) && together > (a+b)*worse {
			t.Fatalf("excesses %v and %v: %v together, %v one after the other", x, y, together, a+b)
		}
	})
}

// A table is full for ever new pairs, and keeps those measured last; it stays bounded.
func TestBounded(t *testing.T) {
	tab := New()
	for i := range uint64(10 * Rows) {
		tab.Learn(i+1, []uint64{i ^ 0xabc + 1}, []float64{0}, 1, int64(i))
		if _, ok := tab.Excess(i+1, i^0xabc+1, int64(i)); ok {
			t.Fatal("one measurement is not sure")
		}
		if x, _ := tab.Excess(i+1, i^0xabc+1, int64(i)); x != 1 {
			t.Fatalf("pair %d was not kept", i)
		}
	}
	if tab.Len() > Rows || tab.Len() < Rows*9/10 {
		t.Errorf("%d pairs", tab.Len())
	}
	if n := testing.AllocsPerRun(100, func() {
		tab.Learn(7, []uint64{8, 9}, []float64{0, 1}, 1, 1)
		tab.Excess(7, 8, 2)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The next executor knows what this one knew, and believes it when it has measured it once.
func TestStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := New()
		for i := range rapid.IntRange(0, 300).Draw(t, "measurements") {
			tab.Learn(rapid.Uint64Range(1, 9).Draw(t, "victim"), []uint64{rapid.Uint64Range(1, 9).Draw(t, "beside")}, []float64{0},
				rapid.Float64Range(0, 9).Draw(t, "excess"), int64(i)*second/20)
		}
		now := rapid.Int64Range(15*second, 20*second).Draw(t, "now")
		out := New()
		for from := 0; from < Rows; from += Rows / 8 {
			tab.CopyTo(out, from, Rows/8, now)
		}
		raw, err := out.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		in, merged := New(), New()
		if err := in.UnmarshalBinary(raw); err != nil {
			t.Fatal(err)
		}
		merged.Merge(in)
		merged.Merge(in)
		for _, next := range []*Table{in, merged} {
			if next.Len() != tab.Len() {
				t.Fatalf("%d pairs of %d", next.Len(), tab.Len())
			}
			tab.Each(now, func(k Known) {
				x, sure := next.Excess(k.Victim, k.Beside, 0)
				if math.Abs(x-k.Excess) > 1e-5 || sure {
					t.Fatalf("%+v became %v, %v", k, x, sure)
				}
				next.Learn(k.Victim, []uint64{k.Beside}, []float64{0}, k.Excess, 0)
				if _, sure = next.Excess(k.Victim, k.Beside, 0); k.Sure && !sure {
					t.Fatalf("%+v is not sure when it was measured again", k)
				}
			})
		}
	})
}

// FuzzTable: any bytes are a table of possible pairs or an error.
func FuzzTable(f *testing.F) {
	tab := New()
	tab.Learn(1, []uint64{2, 3}, []float64{0, 0}, 3, 0)
	raw, _ := tab.MarshalBinary()
	f.Add(raw)
	f.Add([]byte(magic))
	f.Add(bytes.Repeat([]byte{0xff}, 6+rowBytes))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tab := New()
		if tab.UnmarshalBinary(raw) != nil {
			return
		}
		n := 0
		tab.Each(0, func(k Known) {
			n++
			if k.Sure || !(k.Excess >= 0 && k.Excess <= highest) {
				t.Fatalf("%+v", k)
			}
		})
		if n != tab.Len() {
			t.Fatalf("%d pairs, %d counted", n, tab.Len())
		}
	})
}

// BenchmarkExcess is a look-up in a full table.
func BenchmarkExcess(b *testing.B) {
	tab := New()
	for i := range uint64(Rows) {
		tab.Learn(i+1, []uint64{i + 2}, []float64{0}, 1, 0)
	}
	b.ReportAllocs()
	sum := 0.0
	for i := 0; b.Loop(); i++ {
		x, _ := tab.Excess(uint64(i%Rows)+1, uint64(i%Rows)+2, 0)
		sum += x
	}
	_ = sum
}
