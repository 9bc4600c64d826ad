package word

import (
	"container/heap"
	"math/rand/v2"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// crowd is clients that each copy in, launch their small graph, copy out, and think, on issue threads of which each call takes longer
// the more of them call, in a time of its own: no goroutine, no clock.
type crowd struct {
	*meeting
	r        *rand.Rand
	events   crowdEvents
	order    int
	threads  []crowdThread
	calling  int   // threads in a call
	beside   int64 // what each thread that calls adds to a call of another, ns
	busy     int64
	done     int // requests
	launches int
	alone    int
	word     []int // by width
}

type crowdThread struct {
	queue []func() // what each call is followed by
	busy  bool
}

type crowdEvent struct {
	at    int64
	order int
	do    func()
}

type crowdEvents []crowdEvent

func (e crowdEvents) Len() int { return len(e) }
func (e crowdEvents) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e crowdEvents) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *crowdEvents) Push(x any)   { *e = append(*e, x.(crowdEvent)) }
func (e *crowdEvents) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// Times, ns: a call with its done word while no other thread calls (4.4 + 1.8 us), a graph by itself, what it takes of the
// chip (16 MB of weights at 4.8 TB/s), and a copy.
const (
	crowdCall               = 6_200
	crowdGraph, crowdWeight = 60_000, 3_500
	crowdCopy               = 5_000
)

func newCrowd(t testing.TB, clients int, beside int64, join bool) *crowd {
	c := &crowd{
		meeting: newMeeting(t, clients), beside: beside, r: rand.New(rand.NewPCG(1, 2)), threads: make([]crowdThread, 4),
		word: make([]int, MaxTeam+1),
	}
	c.g.options.Calls, c.g.options.Threads = func() int64 { return c.busy }, len(c.threads)
	c.g.pressed = false
	if !join {
		c.g.graphs.options.Ask = nil
	}
	for _, g := range c.graphs {
		g.Took(crowdGraph, true)
	}
	for i := range c.all {
		c.after(c.r.Int64N(1_000_000), func() { c.request(i) })
	}
	return c
}

func (c *crowd) after(ns int64, do func()) {
	c.order++
	heap.Push(&c.events, crowdEvent{c.now + ns, c.order, do})
}

// call has a thread make a call, then do what follows.
func (c *crowd) call(thread int, then func()) {
	t := &c.threads[thread]
	t.queue = append(t.queue, then)
	c.begin(t)
}

func (c *crowd) begin(t *crowdThread) {
	if t.busy || len(t.queue) == 0 {
		return
	}
	next := t.queue[0]
	t.queue = t.queue[1:]
	t.busy = true
	c.calling++
	takes := crowdCall + c.beside*int64(c.calling-1)
	c.after(takes, func() {
		t.busy = false
		c.calling--
		c.busy += takes
		next()
		c.begin(t)
	})
}

// pending is how many calls are not made yet.
func (c *crowd) pending() (n int) {
	for i := range c.threads {
		n += len(c.threads[i].queue)
	}
	return n
}

// request has a client copy in and launch.
func (c *crowd) request(i int) {
	c.call(i%len(c.threads), func() { c.g.pressure.count(1) })
	op, held := c.ready(c.all[i], 0)
	if !held {
		c.one(op)
	}
}

// client is who launched.
func (c *crowd) client(op *scoreboard.Op) int {
	for i, s := range c.all {
		if s.board == op.Session {
			return i
		}
	}
	panic("nobody's")
}

// one has a launch go by itself.
func (c *crowd) one(op *scoreboard.Op) {
	c.launches++
	c.alone++
	c.g.pressure.count(1)
	op.Session.Issue(op, 2)
	op.Graph.Launched++
	c.call(c.client(op)%len(c.threads), func() { c.run([]*scoreboard.Op{op}) })
}

// running is how long launches take that begin now.
func (c *crowd) run(ops []*scoreboard.Op) {
	who := make([]int, len(ops))
	for i, op := range ops {
		who[i] = c.client(op)
	}
	c.after(max(crowdGraph, int64(len(ops))*crowdWeight), func() {
		c.end(ops)
		for _, i := range who {
			c.call(i%len(c.threads), func() {
				c.g.pressure.count(1)
				c.after(crowdCopy, func() {
					c.done++
					c.after(30_000+c.r.Int64N(30_000), func() { c.request(i) })
				})
			})
		}
	})
}

// pass is a pass of the poller.
func (c *crowd) pass() {
	c.build()
	c.n++
	c.g.Begin(c.n)
	c.g.press(c.now)
	c.g.Look(c.now)
	for {
		b := c.g.NextBench(c.now, c.pending() > 0, false)
		if b == nil {
			return
		}
		t, apart := c.g.Team(b, c.now)
		for _, op := range apart {
			if !c.g.Remove(op) {
				c.t.Fatal("a launch that is to go by itself was not there")
			}
			c.one(op)
		}
		if t == nil {
			if len(apart) == 0 {
				c.t.Fatal("no room")
			}
			continue
		}
		ops := append([]*scoreboard.Op(nil), t.Ops[:t.Count]...)
		for _, op := range ops {
			op.Session.Issue(op, 1)
			op.Graph.Launched++
		}
		c.g.TeamIssued(t, c.now)
		c.launches += len(ops)
		c.word[len(ops)] += len(ops)
		c.call(c.client(ops[0])%len(c.threads), func() { c.run(ops) })
	}
}

// rate is requests a second, after a time to settle.
func (c *crowd) rate() float64 {
	const settle, measured = int64(150e6), int64(50e6)
	begun := c.now
	var at int64
	before := 0
	for c.now-begun < settle+measured {
		next := c.now + 2_000
		for len(c.events) > 0 && c.events[0].at <= next {
			e := heap.Pop(&c.events).(crowdEvent)
			c.now = max(c.now, e.at)
			e.do()
		}
		c.now = next
		if at == 0 && c.now-begun >= settle {
			at, before = c.now, c.done
			c.alone, c.launches = 0, 0
			clear(c.word)
		}
		c.pass()
	}
	return float64(c.done-before) / (float64(c.now-at) / 1e9)
}

// Small graphs of many clients that keep the issue threads busy go in words of several, and more of them go; those of few clients, that
// do not, go at once.
func TestCrowd(t *testing.T) {
	for _, c := range []struct {
		what         string
		clients      int
		beside       int64
		least, words float64 // of the rate apart; of the launches
	}{
		{"32 clients on threads that contend", 32, 9_000, 1.3, 0.9},
		{"8 clients on threads that do not", 8, 0, 0.97, 0},
	} {
		apart, joined := newCrowd(t, c.clients, c.beside, false), newCrowd(t, c.clients, c.beside, true)
		a, j := apart.rate(), joined.rate()
		share := 1 - float64(joined.alone)/float64(joined.launches)
		t.Logf("%s: %.0f requests/s apart, %.0f joined, %.2f of the launches in words of %v", c.what, a, j, share, joined.word)
		if j < c.least*a || share < c.words {
			t.Errorf("%s: %.0f requests/s, and %.0f apart; %.2f of the launches in words; want %g times and %g",
				c.what, j, a, share, c.least, c.words)
		}
	}
}
