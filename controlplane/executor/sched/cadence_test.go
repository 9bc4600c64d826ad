package sched

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// user is a program that replays a graph for each request of users who come at random times: it uploads their input, launches the
// graph, fetches the result, and begins with the next request at once when somebody waits.
type user struct {
	rate    float64 // requests a second
	upload  int64   // from the request's begin to its graph, ns
	native  bool    // the upload is its own: it is announced; else it is an op
	graph   int64   // what the graph takes
	part    float64 // which part of the chip it fills, as its cost has it
	back    int64   // from a request's end to the begin of one that waited already
	came    int64   // when the request under way came
	at      int64   // of the next thing that it does; never while it waits for an op
	doing   int     // 0: it begins a request, 1: it launches its graph
	latency []int64
	r       *rand.Rand // of its own, so that the same requests come whatever else runs
}

const never = int64(1) << 62

func (u *user) step(m *sim, src *source) {
	for u.at <= m.now {
		switch u.doing {
		case 0:
			if u.native {
				m.s.Expect(src.c, m.now)
			} else {
				m.put(src, shm.KindPut, us)
			}
			u.doing, u.at = 1, m.now+u.upload
		case 1:
			m.put(src, shm.KindGraph, int64(float64(u.graph)*u.part))
			op := m.put(src, shm.KindGet, 2*us)
			m.s.Wait(src.c, 0, op.Seq, m.now)
			u.doing, u.at = 0, never
		}
	}
}

// completed notes the end of an op: of the last one, the request's.
func (u *user) completed(m *sim, src *source) {
	if src.left > 0 || u.at < never || u.r == nil {
		return
	}
	u.latency = append(u.latency, m.now-u.came)
	u.came += int64(u.r.ExpFloat64() * 1e9 / u.rate)
	u.at = max(u.came, m.now+u.back)
}

// put submits an op of the user's one lane.
func (m *sim) put(src *source, kind uint16, cost int64) *scoreboard.Op {
	m.n++
	board := src.board.Lane(0)
	board.Scanned++
	op := &scoreboard.Op{Session: src.board, Kind: kind, Seq: board.Scanned, Arrival: m.n, Cost: cost}
	m.s.Arrive(src.c, op, m.now)
	src.lanes[0].waiting = append(src.lanes[0].waiting, op)
	src.left++
	return op
}

// Beside a class that always has work, a client that replays graphs at 400 requests/s waits for little of it, whether the request comes
// after a pause or right after the one before.
func TestCadence(t *testing.T) {
	for _, c := range []struct {
		what     string
		user     user
		p50, p99 float64 // at most so many times what it takes alone
		keeps    float64 // the class below, of the chip
	}{
		{"a large input, which the client uploads by itself", user{upload: 90 * us, native: true, graph: 850 * us, part: 0.3}, 1.03, 1.08, 0.62},
		{"a small input", user{upload: 15 * us, graph: 1000 * us, part: 0.3}, 1.07, 1.08, 0.55},
		{"a graph that fills the chip", user{upload: 90 * us, native: true, graph: 850 * us, part: 1}, 1.03, 1.08, 0.62},
	} {
		t.Run(c.what, func(t *testing.T) {
			run := func(beside bool) (p50, p99, part float64) {
				m := newSim(t, 11)
				src := m.client(m.s.Set("interactive", Settings{Priority: 10, MaxWait: 80 * us}), 1, 1, us, 0, false)
				u := c.user
				u.rate, u.back, u.r = 400, 30*us, rand.New(rand.NewPCG(3, 4))
				src.user, src.slow = &u, 1/u.part
				low := m.s.Set("batch", Settings{MinShare: 0.5})
				if beside {
					m.client(low, 8, 20, 6*us, 0, true).slow = 1.5
				}
				for len(u.latency) < steps(8000) {
					m.step()
				}
				l := u.latency[1000:] // it was learned in those before
				slices.Sort(l)
				return float64(l[len(l)/2]), float64(l[len(l)*99/100]), float64(m.gpu[low]) / float64(m.free)
			}
			a50, a99, _ := run(false)
			b50, b99, part := run(true)
			t.Logf("alone p50 %.0f, p99 %.0f µs; beside the class below %.2f, %.2f times; that has %.3f of the chip", a50/1e3, a99/1e3, b50/a50, b99/a99, part)
			if b50 > c.p50*a50 || b99 > c.p99*a99 {
				t.Errorf("p50 and p99 are %.2f and %.2f times what they are alone; at most %.2f and %.2f are expected", b50/a50, b99/a99, c.p50, c.p99)
			}
			if part < c.keeps {
				t.Errorf("the class below has %.3f of the chip; %.2f are expected", part, c.keeps)
			}
		})
	}
}

// A client that announces requests and submits none, or none that launches a graph, holds up nobody.
func TestEmptyPromises(t *testing.T) {
	for _, c := range []struct {
		what string
		lie  func(m *sim, src *source)
	}{
		{"requests without an op", func(m *sim, src *source) { m.s.Wait(src.c, 0, 0, m.now) }},
		{"requests without a graph", func(m *sim, src *source) {
			if src.left == 0 {
				op := m.put(src, shm.KindPut, us)
				m.s.Wait(src.c, 0, op.Seq, m.now)
			}
		}},
	} {
		m := newSim(t, 6)
		high := m.s.Set("interactive", Settings{Priority: 10, MaxWait: 80 * us})
		src := m.client(high, 1, 1, us, 0, false)
		// It did launch graphs once, and was seen to come back at once.
		src.user = &user{rate: 1e6, graph: 100 * us, part: 1, back: 20 * us, native: true, upload: 20 * us, r: rand.New(rand.NewPCG(3, 4))}
		low := m.s.Set("batch", Settings{})
		m.client(low, 8, 20, 6*us, 0, true)
		for len(src.user.latency) < 100 || src.left > 0 {
			m.step()
		}
		requests, began, had := high.Stats.Requests, m.now, m.gpu[low]
		src.user = &user{at: never}
		for m.now < began+100*ms {
			m.s.Expect(src.c, m.now)
			c.lie(m, src)
			m.step()
		}
		if part := float64(m.gpu[low]-had) / float64(m.now-began); part < 0.9 {
			t.Errorf("%s: the class below had %.2f of the chip meanwhile", c.what, part)
		}
		if src.c.open {
			m.s.Wait(src.c, 0, src.board.Lane(0).Scanned, m.now)
		}
		if c.what == "requests without an op" && high.Stats.Requests > requests+1 {
			t.Errorf("%d requests of no op were counted", high.Stats.Requests-requests)
		}
	}
}
