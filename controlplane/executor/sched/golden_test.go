package sched

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// table is a scheduler with clients and ready ops, for one decision.
type table struct {
	s       *Scheduler
	clients map[string]*Client
	names   map[*scoreboard.Op]string
	n       uint64
}

func (d *table) class(name string, set Settings) { d.s.Set(name, set) }

// op submits an op of a client (class/number) at a time, in its own lane, ready at once.
func (d *table) op(client, name string, at, cost int64) *scoreboard.Op {
	c := d.client(client)
	d.n++
	o := &scoreboard.Op{Session: c.board, Kind: shm.KindMemset, Lane: uint32(d.n), Seq: 1, Arrival: d.n, Cost: cost}
	d.s.Arrive(c, o, at)
	d.s.Ready(o, at)
	d.s.Add(o)
	d.names[o] = name
	return o
}

func (d *table) client(name string) *Client {
	c := d.clients[name]
	if c == nil {
		class, _, _ := strings.Cut(name, "/")
		slot := len(d.clients)
		c = d.s.Attach(newBoard(uint64(slot+1), slot), d.s.byName[class])
		d.clients[name] = c
	}
	return c
}

// issue issues the next op and leaves it in flight; "" when none may go.
func (d *table) issue(now int64) string {
	op := d.s.Next()
	if op == nil {
		return ""
	}
	op.Session.Lane(op.Lane).Issued = op.Seq
	d.s.Issued(op, op.Cost, true, 1, now)
	return d.names[op]
}

// flight puts work of a client in flight.
func (d *table) flight(client string, at, cost int64) *scoreboard.Op {
	o := d.op(client, "", at, cost)
	for got := d.s.Next(); got != o; got = d.s.Next() {
		if got == nil {
			panic("the op in flight was not let in")
		}
	}
	o.Session.Lane(o.Lane).Issued = 1
	d.s.Issued(o, cost, true, 1, at)
	return o
}

// learn teaches a client that its requests of one op take so long.
func (d *table) learn(client string, cost, took int64) {
	c := d.client(client)
	at := int64(0)
	for range 40 {
		o := &scoreboard.Op{Session: c.board, Kind: shm.KindMemset, Cost: cost}
		d.s.Arrive(c, o, at)
		at += took
		c.chip = took // as if it were on the chip for all of that
		d.s.end(c, at)
		at += ms
	}
}

// Situations, and which ops go, in which order, when none completes meanwhile. The blocked ones are not listed.
func TestDecisions(t *testing.T) {
	const second = 1000 * ms
	for _, c := range []struct {
		what string
		make func(d *table)
		want string
	}{
		{"one class without objective: turns, not arrival", func(d *table) {
			d.class("a", Settings{})
			for i := range 3 {
				d.op("a/1", fmt.Sprint("x", i), second, 10*us)
			}
			d.op("a/2", "y0", second+us, 10*us)
		}, "x0 y0 x1 x2"},
		{"larger priority first, whoever came first", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1})
			d.op("low/1", "l", second, 10*us)
			d.op("high/1", "h", second+us, 10*us)
		}, "h l"},
		{"earlier deadline first", func(d *table) {
			d.class("slow", Settings{Latency: 50 * ms})
			d.class("fast", Settings{Latency: 5 * ms})
			d.op("slow/1", "s", second, 10*us)
			d.op("fast/1", "f", second+ms, 10*us)
		}, "f s"},
		{"less slack first: the later deadline, when more of the request remains", func(d *table) {
			d.class("slow", Settings{Latency: 20 * ms})
			d.class("fast", Settings{Latency: 10 * ms})
			d.learn("slow/1", 10*us, 15*ms)
			d.op("slow/1", "s", 10*second, 10*us)
			d.op("fast/1", "f", 10*second, 10*us)
		}, "s f"},
		{"an objective goes before none of equal priority", func(d *table) {
			d.class("none", Settings{})
			d.class("some", Settings{Latency: 50 * ms})
			d.op("none/1", "n", second, 10*us)
			d.op("some/1", "s", second+us, 10*us)
		}, "s n"},
		{"a long request yields to a short one while it has slack", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 12*ms)
			d.learn("a/short", 10*us, ms)
			d.s.begin(d.client("a/long"), second)
			d.op("a/long", "l", second+ms, 10*us)
			d.op("a/short", "s", second+ms, 10*us)
			d.s.Begin(second+ms, 0)
		}, "s"},
		{"a long request without slack goes first", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 12*ms)
			d.learn("a/short", 10*us, ms)
			d.s.begin(d.client("a/long"), second+ms-7*ms)
			d.op("a/long", "l", second+ms, 10*us)
			d.op("a/short", "s", second+ms, 10*us)
			d.s.Begin(second+ms, 0)
		}, "l s"},
		{"a long request that misses its objective anyhow yields", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 12*ms)
			d.learn("a/short", 10*us, ms)
			d.s.begin(d.client("a/long"), second+ms-9*ms)
			d.op("a/long", "l", second+ms, 10*us)
			d.op("a/short", "s", second+ms, 10*us)
			d.s.Begin(second+ms, 0)
		}, "s"},
		{"a missed deadline keeps its urgency", func(d *table) {
			d.class("a", Settings{Latency: 5 * ms})
			d.s.begin(d.client("a/1"), second)
			d.op("a/1", "late", second+6*ms, 10*us)
			d.op("a/2", "early", second+6*ms, 10*us)
		}, "late early"},
		{"delay: a missed deadline goes behind those that can be met", func(d *table) {
			d.class("a", Settings{Latency: 5 * ms, DelayLate: true})
			d.s.begin(d.client("a/1"), second)
			d.op("a/1", "late", second+6*ms, 10*us)
			d.op("a/2", "early", second+6*ms, 10*us)
		}, "early late"},
		{"below a class with an objective: as much as its max_wait", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: ms, MaxWait: 100 * us})
			d.op("high/1", "h", second, 10*us)
			for i := range 5 {
				d.op("low/1", fmt.Sprint("l", i), second, 40*us)
			}
		}, "h l0 l1 l2"},
		{"a long op does not begin while a request of a class with max_wait is under way", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: ms, MaxWait: 100 * us})
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "long", second, 400*us)
		}, "h"},
		{"nor while a request has little slack left", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 9*ms)
			d.client("low/1")
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "long", second, 400*us)
			d.op("low/2", "short", second, 15*us)
		}, "h"}, // the short one is behind the long one, which came first
		{"unless the request has work on the chip for less than half of its time: then the chip is not what makes it late", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 9*ms)
			d.client("high/1").part = 0.4
			d.client("low/1")
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "long", second, 400*us)
		}, "h long"},
		{"short ops below it go meanwhile", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 9*ms)
			d.op("high/1", "h", second, 10*us)
			d.op("low/2", "short1", second, 15*us)
			d.op("low/2", "short2", second, 15*us)
			d.op("low/2", "short3", second, 15*us)
		}, "h short1 short2"},
		{"what slows a request with little slack left waits, and lets pass what does not", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 6*ms)
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "hurts1", second, 5*us).Hurts = true
			d.op("low/2", "mild1", second, 5*us)
			d.op("low/3", "hurts2", second, 5*us).Hurts = true
			d.op("low/4", "mild2", second, 5*us)
		}, "h mild1 mild2"},
		{"while it has more, that goes too", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 4*ms)
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "hurts", second, 5*us).Hurts = true
			d.op("low/2", "mild", second, 5*us)
		}, "h hurts mild"},
		{"nor does what is owed its share wait", func(d *table) {
			d.class("low", Settings{MinShare: 0.5})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 6*ms)
			d.op("low/1", "hurts", second, 5*us).Hurts = true
			d.flight("high/1", second, 100*us)
			d.op("high/2", "h", second, 10*us)
		}, "hurts h"},
		{"what delays a request for longer than max_wait waits, however little of the chip it fills", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms, MaxWait: 100 * us})
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "harm", second, 50*us).Harm = 101 * us
			d.op("low/2", "less", second, 50*us).Harm = 99 * us
		}, "h less"},
		{"while a graph of a class with max_wait is in flight nothing begins below it", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms, MaxWait: 100 * us})
			d.op("high/1", "graph", second, 10*us).Kind = shm.KindGraph
			d.op("low/1", "short", second, 5*us)
		}, "graph"},
		{"nor while a request with a graph in flight has little slack left", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, 9*ms)
			d.op("high/1", "graph", second, 10*us).Kind = shm.KindGraph
			d.op("low/1", "short", second, 5*us)
		}, "graph"},
		{"with slack left it does", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.learn("high/1", 10*us, ms)
			d.op("high/1", "graph", second, 10*us).Kind = shm.KindGraph
			d.op("low/1", "short", second, 5*us)
		}, "graph short"},
		{"a long request with slack waits for a short one, whose ops have more", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 9*ms)
			d.learn("a/short", 10*us, ms)
			d.op("a/long", "long", second, 10*us)
			d.op("a/short", "short", second, 10*us)
			d.s.Begin(second, 0)
		}, "short"},
		{"not one that is not much longer", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 2*ms)
			d.learn("a/short", 10*us, ms)
			d.op("a/long", "long", second, 10*us)
			d.op("a/short", "short", second, 10*us)
			d.s.Begin(second, 0)
		}, "long short"},
		{"nor one without slack", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 18*ms)
			d.learn("a/short", 10*us, ms)
			d.op("a/long", "long", second, 10*us)
			d.op("a/short", "short", second, 10*us)
			d.s.Begin(second, 0)
		}, "long short"},
		{"nor for a class of less priority", func(d *table) {
			d.class("low", Settings{Latency: 20 * ms})
			d.class("high", Settings{Latency: 20 * ms, Priority: 1})
			d.learn("high/long", 10*us, 9*ms)
			d.learn("low/short", 10*us, ms)
			d.op("high/long", "long", second, 10*us)
			d.op("low/short", "short", second, 10*us)
			d.s.Begin(second, 0)
		}, "long short"},
		{"nor for a request that began long ago, and does not end", func(d *table) {
			d.class("a", Settings{Latency: 20 * ms})
			d.learn("a/long", 10*us, 9*ms)
			d.learn("a/short", 10*us, ms)
			d.s.begin(d.client("a/short"), second-5*ms)
			d.op("a/long", "long", second, 10*us)
			d.op("a/short", "short", second, 10*us)
			d.s.Begin(second, 0)
		}, "long short"},
		{"without max_wait long ops go, one at a time", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms})
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "long1", second, 400*us)
			d.op("low/2", "long2", second, 400*us)
		}, "h long1"},
		{"nobody above has an objective: no bound", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1})
			d.op("high/1", "h", second, 10*us)
			d.op("low/1", "long1", second, 400*us)
			d.op("low/2", "long2", second, 400*us)
		}, "h long1 long2"},
		{"the class above has been silent for long: no bound", func(d *table) {
			d.class("low", Settings{})
			d.class("high", Settings{Priority: 1, Latency: ms})
			d.client("high/1")
			d.s.Begin(second, 0)
			d.op("low/1", "long1", second, 400*us)
			d.op("low/2", "long2", second, 400*us)
		}, "long1 long2"},
		{"below its min_share a class goes first", func(d *table) {
			d.class("low", Settings{MinShare: 0.5})
			d.class("high", Settings{Priority: 1})
			d.op("low/1", "l", second, 10*us)
			d.flight("high/1", second, 50*us)
			d.op("high/1", "h", second, 10*us)
		}, "l h"},
		{"at its min_share it does not", func(d *table) {
			d.class("low", Settings{MinShare: 0.5})
			d.class("high", Settings{Priority: 1})
			d.client("high/1")
			d.flight("low/1", second, 100*us)
			d.op("low/1", "l", second, 10*us)
			d.flight("high/1", second, 50*us)
			d.op("high/1", "h", second, 10*us)
		}, "h l"},
		{"owed much, it stops those above until its ops have run", func(d *table) {
			d.class("low", Settings{MinShare: 0.5})
			d.class("high", Settings{Priority: 1})
			d.op("low/1", "l", second, 10*us)
			d.flight("high/1", second, 5*ms)
			d.op("high/1", "h", second, 10*us)
		}, "l"},
		{"owed much, what it has in flight is not what it had", func(d *table) {
			d.class("low", Settings{MinShare: 0.5})
			d.class("high", Settings{Priority: 1})
			d.client("low/1")
			d.client("high/1")
			for range 30 {
				d.flight("low/1", second, 50*us)
			}
			d.flight("high/1", second, ms)
			d.op("high/1", "h", second, 10*us)
		}, ""},
		{"those of its own priority too", func(d *table) {
			d.class("owed", Settings{MinShare: 0.5})
			d.class("other", Settings{Latency: 10 * ms})
			d.op("owed/1", "o", second, 10*us)
			d.flight("other/1", second, 5*ms)
			d.op("other/2", "x", second, 10*us)
		}, "o"},
		{"those below it are not stopped", func(d *table) {
			d.class("low", Settings{})
			d.class("mid", Settings{Priority: 1, MinShare: 0.5})
			d.class("high", Settings{Priority: 2})
			d.op("mid/1", "m", second, 10*us)
			d.flight("high/1", second, 5*ms)
			d.op("low/1", "l", second, 10*us)
			d.op("high/1", "h", second, 10*us)
		}, "m l"},
		{"owed much, it goes beyond what a class above leaves free", func(d *table) {
			d.class("low", Settings{MinShare: 0.5})
			d.class("high", Settings{Priority: 1, Latency: 10 * ms, MaxWait: 100 * us})
			d.op("low/1", "l0", second, 90*us)
			d.op("low/1", "l1", second, 90*us)
			d.op("low/1", "l2", second, 90*us)
			d.flight("high/1", second, 5*ms)
		}, "l0 l1 l2"},
		{"in a group with an objective only so much is in flight that what comes next goes soon", func(d *table) {
			d.class("a", Settings{Latency: 50 * ms})
			for i := range 5 {
				d.op(fmt.Sprint("a/", i), fmt.Sprint("x", i), second+int64(i), 100*us)
			}
		}, "x0 x1 x2"},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := &table{s: New(), clients: map[string]*Client{}, names: map[*scoreboard.Op]string{}}
			c.make(d)
			var got []string
			for {
				name := d.issue(second + ms)
				if name == "" {
					break
				}
				got = append(got, name)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("went: %s; want: %s", s, c.want)
			}
		})
	}
}

// Requests end with what the host waits for, or with what is submitted before the mark; never twice, and lies change nothing else.
func TestRequests(t *testing.T) {
	s := New()
	k := s.Set("a", Settings{Latency: 10 * ms})
	b := newBoard(1, 0)
	c := s.Attach(b, k)
	now, seq := int64(ms), uint32(0)
	op := func() *scoreboard.Op {
		seq++
		o := &scoreboard.Op{Session: b, Kind: shm.KindMemset, Lane: 1, Seq: seq}
		s.Arrive(c, o, now)
		s.Ready(o, now)
		b.Lane(1).Scanned, b.Lane(1).Issued = seq, seq
		s.Issued(o, 10*us, true, 1, now)
		return o
	}
	done := func(n int) {
		b.Lane(1).Done += uint32(n)
		s.Completed(c, b.Lane(1), n, now)
	}
	s.Wait(c, 1, 0, now) // nothing is open
	op()
	first := op()
	if first.Deadline != 11*ms {
		t.Errorf("deadline %d", first.Deadline)
	}
	s.Wait(c, 1, 2, now)
	now += 3 * ms
	done(1)
	if k.Stats.Requests != 0 {
		t.Error("the request ended before what its host waits for")
	}
	done(1)
	if k.Stats.Requests != 1 || k.Stats.Attained != 1 || k.Stats.Latency.Sum != 3*ms {
		t.Errorf("%+v", k.Stats)
	}
	now += 20 * ms
	op()
	now += 15 * ms
	done(1)
	s.Wait(c, 1, 3, now) // for what is done already
	if k.Stats.Requests != 2 || k.Stats.Attained != 1 {
		t.Errorf("%+v", k.Stats)
	}
	s.MarkEnd(c, 0, now) // never begun
	s.MarkBegin(c, now)
	op()
	s.Wait(c, 1, 4, now)
	done(1)
	if k.Stats.Requests != 2 {
		t.Error("a wait ended a marked request")
	}
	s.MarkEnd(c, 0, now)
	if _, open := c.Request(); open || k.Stats.Requests != 3 || k.open != 0 {
		t.Errorf("%+v", k.Stats)
	}
	now -= 30 * ms // a clock that jumps back
	op()
	done(1)
	s.Wait(c, 1, seq, now-ms)
	if k.Stats.Requests != 4 || k.Stats.Latency.Sum < 0 || k.inFlight != 0 || k.flying != 0 || k.queued != 0 || k.busy != 0 {
		t.Errorf("%+v", k)
	}
	s.Detach(c)
	if k.Clients != 0 || len(s.classes) != 0 {
		t.Error("the class still has a client")
	}
}

// Policies with ever new names leave no more behind than a bound, and nothing of a class that has clients.
func TestClassesAreForgotten(t *testing.T) {
	s := New()
	kept := s.Attach(newBoard(1, 0), s.Set("kept", Settings{Latency: ms})).Class()
	for i := range 2 * maxClasses {
		s.Set(fmt.Sprint(i), Settings{})
	}
	if n := len(s.Classes()); n != maxClasses || s.Set("kept", Settings{Latency: ms}) != kept {
		t.Errorf("%d classes are known", n)
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	r := rand.New(rand.NewPCG(1, 1))
	var want [len(Bounds) + 1]uint64
	for range 100_000 {
		ns := r.Int64() >> r.IntN(63)
		if r.IntN(10) == 0 {
			ns = Bounds[r.IntN(len(Bounds))] + r.Int64N(3) - 1
		}
		want[sort.Search(len(Bounds), func(i int) bool { return ns <= Bounds[i] })]++
		h.Add(ns)
	}
	h.Add(-5)
	want[0]++
	if !slices.Equal(h.Counts[:], want[:]) {
		t.Errorf("%v; want %v", h.Counts, want)
	}
}

// BenchmarkScheduler is what one op costs from arrival to completion, with several classes that have objectives and shares.
func BenchmarkScheduler(b *testing.B) {
	for _, classes := range []int{1, 4, 16} {
		b.Run(fmt.Sprint("classes=", classes), func(b *testing.B) {
			s := New()
			var boards []*scoreboard.Session
			var clients []*Client
			var ops []*scoreboard.Op
			for i := range 16 {
				k := s.Set(fmt.Sprint(i%classes), Settings{Priority: int32(i % classes), Latency: 10 * ms, MinShare: 0.01, MaxWait: ms})
				boards = append(boards, newBoard(uint64(i+1), i))
				clients = append(clients, s.Attach(boards[i], k))
				ops = append(ops, &scoreboard.Op{Session: boards[i], Kind: shm.KindMemset, Lane: 1, Cost: us})
			}
			now := int64(0)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += len(ops) {
				now += 16 * us
				s.Begin(now, 0)
				for j, op := range ops {
					op.Seq, op.Arrival = uint32(i+j+1), uint64(i+j)
					s.Arrive(clients[j], op, now)
					s.Ready(op, now)
					s.Add(op)
				}
				for op := s.Next(); op != nil; op = s.Next() {
					l := op.Session.Lane(1)
					l.Issued = op.Seq
					s.Issued(op, op.Cost, true, 1, now)
					l.Done = op.Seq
					s.Completed(clients[op.Session.Slot], l, 1, now)
				}
				if i%4096 < 16 {
					for j, c := range clients {
						s.Wait(c, 1, boards[j].Lane(1).Done, now)
					}
				}
			}
		})
	}
}

// A class that presses has the chip to itself: the time counts, whatever it makes of it, and those above go on.
func TestReserved(t *testing.T) {
	d := &table{s: New(), clients: map[string]*Client{}, names: map[*scoreboard.Op]string{}}
	d.class("low", Settings{MinShare: 0.5})
	d.class("high", Settings{Priority: 1})
	long := d.flight("low/1", 1000*ms, 100*us) // its blocks are few, and it takes much longer
	high := d.flight("high/1", 1000*ms, 4*ms)
	d.op("high/1", "h", 1000*ms, 10*us)
	d.s.Begin(1001*ms, 0)
	if got := d.issue(1001 * ms); got != "" {
		t.Errorf("%s went although a class below is owed 2 ms", got)
	}
	c, l := d.clients["high/1"], high.Session.Lane(high.Lane)
	l.Done = 1
	d.s.Completed(c, l, 1, 1004*ms)
	low := d.clients["low/1"]
	for at := 1004 * ms; at < 1005*ms+400*us; at += 100 * us {
		d.s.Begin(at, 0)
		if d.s.Peek() != nil {
			t.Fatalf("after %d us an op above went; the class below is owed %d us", (at-1004*ms)/us, low.class.owed()/us)
		}
	}
	for range 2 { // one finds the debt paid, the next that nobody presses
		d.s.Begin(1005*ms+600*us, 0)
	}
	if got := d.issue(1005*ms + 600*us); got != "h" {
		t.Errorf("%q went; the class below is owed %d us", got, low.class.owed()/us)
	}
	l = long.Session.Lane(long.Lane)
	l.Done = 1
	d.s.Completed(low, l, 1, 1006*ms)
	if k := low.class; k.prepaid != 0 || k.inFlight != 0 || k.deficit < 400*us || k.deficit > 600*us {
		t.Errorf("in the end it is owed %d, %d prepaid, %d in flight", k.deficit, k.prepaid, k.inFlight)
	}
}

// Requests of a class above have little slack left at all times, and a class below has ops that slow them and others that do not, which
// go all the time: the former have their turn nevertheless, one in each Starving.
func TestWhatSlowsOthersHasItsTurn(t *testing.T) {
	d := &table{s: New(), clients: map[string]*Client{}, names: map[*scoreboard.Op]string{}}
	d.class("low", Settings{})
	d.class("high", Settings{Priority: 1, Latency: 10 * ms})
	d.learn("high/1", 10*us, 6*ms)
	const start, steps = 1000 * ms, 500
	for i := range 3 {
		d.op("low/1", fmt.Sprint("hurts", i), start, 5*us).Hurts = true
	}
	var went []int64
	mild := 0
	for i := range steps {
		now := start + int64(i)*8*ms
		d.s.Begin(now, 0)
		d.n = 10 // the same lanes in each step
		request := d.op("high/1", "h", now, 10*us)
		d.op("low/2", "mild", now, 5*us)
		var issued []*scoreboard.Op
		for op := d.s.Next(); op != nil; op = d.s.Next() {
			op.Session.Lane(op.Lane).Issued = op.Seq
			d.s.Issued(op, op.Cost, true, 1, now)
			issued = append(issued, op)
			if d.names[op] == "mild" {
				mild++
			} else if op.Hurts {
				went = append(went, now-start)
			}
		}
		for _, op := range issued {
			c, l := d.s.clients[op.Session.Slot], op.Session.Lane(op.Lane)
			l.Done = op.Seq
			d.s.Completed(c, l, 1, now+20*us)
			l.Issued, l.Done = 0, 0
		}
		if !slices.Contains(issued, request) {
			t.Fatalf("the op of request %d did not go", i)
		}
		d.clients["high/1"].chip = 6 * ms
		d.s.end(d.clients["high/1"], now+6*ms)
	}
	if mild != steps {
		t.Errorf("%d of %d ops that slow nobody went", mild, steps)
	}
	if len(went) != 3 || went[0] < Starving || went[0] > 2*Starving || went[1]-went[0] < Starving || went[2]-went[1] < Starving {
		t.Errorf("what slows requests went after %d ns, expected three times, Starving apart", went)
	}
}
