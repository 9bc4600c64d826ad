package request

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const us = 1000

// run submits a request of ops that are gap apart and end after tail, and returns what Op said of each.
func run(m *Model, at int64, keys []uint64, gap, tail int64) (said []int64, known int, end int64) {
	for i, k := range keys {
		r, ok := m.Op(k, at+int64(i)*gap)
		said = append(said, r)
		if ok {
			known++
		}
	}
	end = at + int64(len(keys)-1)*gap + tail
	m.End(end)
	return said, known, end
}

func TestLearnsWhatRemains(t *testing.T) {
	m := New()
	short, long := []uint64{1, 2, 3}, []uint64{1, 2, 4, 5, 5, 5, 6}
	if said, known, _ := run(m, 0, short, 10*us, 50*us); known != 0 || said[0] != 0 {
		t.Errorf("before anything was learned: %v", said)
	}
	at := int64(1e9)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400 { // half of the requests wait in a queue for up to 1 ms
		keys := short
		if rng.IntN(2) == 0 {
			keys = long
		}
		tail := int64(50 * us)
		if rng.IntN(2) == 0 {
			tail += rng.Int64N(1000 * us)
		}
		_, _, end := run(m, at, keys, 10*us, tail)
		at = end + 1e6
	}
	said, known, _ := run(m, at, long, 10*us, 50*us)
	if known != len(long) {
		t.Errorf("%d of %d prefixes known", known, len(long))
	}
	// At the fork nothing tells long from short; behind it the two are known apart, and queueing counts for little.
	for i := 2; i < len(long); i++ {
		alone := float64(int64(len(long)-1-i)*10*us + 50*us)
		if got := float64(said[i]); got < 0.95*alone || got > alone+250*us {
			t.Errorf("op %d: %.0f µs remain, alone it is %.0f", i, got/us, alone/us)
		}
		if i > 2 && said[i] > said[i-1] {
			t.Errorf("op %d has more left than the one before", i)
		}
	}
	if m.Duration < 60*us || m.Duration > 400*us {
		t.Errorf("a request takes %.0f µs", m.Duration/us)
	}
}

// TestLongRequests: ops beyond the bound cost nothing and say what is left of a usual request.
func TestLongRequests(t *testing.T) {
	m := New()
	keys := make([]uint64, MaxOps+100)
	for i := range keys {
		keys[i] = uint64(i + 1)
	}
	run(m, 0, keys, us, us)
	said, _, _ := run(m, 1e9, keys, us, us)
	if last := said[len(said)-1]; last > 2*us {
		t.Errorf("the last of %d ops has %d ns left", len(keys), last)
	}
	if n := testing.AllocsPerRun(2, func() { run2(m, keys) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func run2(m *Model, keys []uint64) {
	for i, k := range keys {
		m.Op(k, int64(i))
	}
	m.End(int64(len(keys)))
}

// TestAnything: whatever is submitted, and whatever the clock does, estimates are finite and not negative, and a saved model
// says what the model said.
func TestAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New()
		for range rapid.IntRange(1, 20).Draw(t, "requests") {
			at := rapid.Int64Range(-1e12, 1e12).Draw(t, "at")
			for range rapid.IntRange(0, 30).Draw(t, "ops") {
				at += rapid.Int64Range(-1e6, 1e9).Draw(t, "gap")
				if r, _ := m.Op(rapid.Uint64Range(0, 3).Draw(t, "key"), at); r < 0 {
					t.Fatalf("%d ns remain", r)
				}
			}
			m.End(at + rapid.Int64Range(-1e6, 1e9).Draw(t, "tail"))
			if math.IsNaN(m.Duration) || m.Duration < 0 {
				t.Fatalf("duration %v", m.Duration)
			}
		}
		b, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		n := New()
		if err := n.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		for k := range uint64(4) {
			a, ka := m.Op(k, 0)
			b, kb := n.Op(k, 0)
			if a != b || ka != kb {
				t.Fatalf("op %d: %d, %v; after saving %d, %v", k, a, ka, b, kb)
			}
		}
	})
}

// TestMerge: a model takes what it does not know from another, and keeps what it does; a copy in parts is the same model.
func TestMerge(t *testing.T) {
	a, b := New(), New()
	run(a, 0, []uint64{1, 2}, us, 10*us)
	for i := range int64(3) {
		run(b, i*1e9, []uint64{1, 3}, us, 500*us)
	}
	a.Merge(b)
	c := New()
	for part := 0; !a.CopyTo(c, part*1000, 1000); part++ {
	}
	for name, m := range map[string]*Model{"merged": a, "copied": c} {
		if m.Requests != 3 {
			t.Errorf("%s: %d requests; want 3", name, m.Requests)
		}
		if r, known := m.Op(1, 0); !known || r != 11*us {
			t.Errorf("%s: %d ns remain after 1; want its own %d", name, r, 11*us)
		}
		if r, known := m.Op(3, 0); !known || r != 500*us {
			t.Errorf("%s: %d ns remain after 1, 3; want the other's %d", name, r, 500*us)
		}
	}
}

// FuzzUnmarshal: any bytes are a model or an error.
func FuzzUnmarshal(f *testing.F) {
	m := New()
	run(m, 0, []uint64{1, 2, 3}, us, us)
	b, _ := m.MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New()
		if m.UnmarshalBinary(b) != nil {
			return
		}
		if r, _ := m.Op(1, 0); r < 0 {
			t.Fatalf("%d ns remain", r)
		}
	})
}

func BenchmarkOp(b *testing.B) {
	m := New()
	for i := 0; b.Loop(); i++ {
		m.Op(uint64(i%300), int64(i))
		if i%300 == 299 {
			m.End(int64(i))
		}
	}
}

// Long requests are learned while the next ones arrive; an end does no more than learn a short one.
func TestLearnedLater(t *testing.T) {
	m := New()
	request := func(key uint64, ops int) {
		for i := range ops {
			m.Op(key, int64(i)*1000)
		}
		m.End(int64(ops) * 1000)
	}
	// Half of the prefixes must be known, and those rightly: others' take their slots.
	remains := func(key uint64, ops int) {
		t.Helper()
		n := New()
		m.CopyTo(n, 0, Prefixes)
		sure := 0
		for i := range ops {
			got, known := n.Op(key, int64(i)*1000)
			if !known {
				continue
			}
			if want := int64(ops-i) * 1000; got < want-want/100 || got > want+want/100 {
				t.Fatalf("key %d: after %d ops %d ns remain; want %d", key, i+1, got, want)
			}
			sure++
		}
		if 2*sure < ops {
			t.Errorf("key %d: %d of %d prefixes are known", key, sure, ops)
		}
	}
	const long = 4000
	request(1, long)
	if m.learned != 0 || len(m.ended) != long {
		t.Errorf("%d of %d ops were learned at the end", m.learned, len(m.ended))
	}
	request(2, long/stepsPerOp)
	remains(1, long)
	// Two that take turns, of which one is too short to make room for the other: both are learned in the end.
	for range 40 {
		request(3, long)
		request(4, atOnce+50)
		request(5, 10)
	}
	remains(3, long)
	remains(4, atOnce+50)
	remains(5, 10)
}

// BenchmarkEnd is the longest that an end takes its caller.
func BenchmarkEnd(b *testing.B) {
	for _, ops := range []int{64, atOnce, MaxOps} {
		b.Run(strconv.Itoa(ops), func(b *testing.B) {
			m := New()
			b.ReportAllocs()
			worst := time.Duration(0)
			for range b.N {
				b.StopTimer()
				for i := range ops {
					m.Op(uint64(i%97), int64(i)*1000)
				}
				b.StartTimer()
				began := time.Now()
				m.End(int64(ops) * 1000)
				worst = max(worst, time.Since(began))
			}
			b.ReportMetric(float64(worst.Nanoseconds()), "ns/worst")
		})
	}
}
