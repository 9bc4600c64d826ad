package executor

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// This file is who runs on which part of the SMs (policy key partition; a quarter for a limited straggler of such a class), and when:
// a class's clients while a class of larger priority is active. How ops get there is issue/partition.go.
//
// Making a green context takes 1.4 ms and waits for what runs, so the divider makes one when the first client of such a class comes, in a
// calm moment if there is one (calm.go), and keeps it: there are few sizes. Until it is there, and where the driver has none, kernels run
// on the whole chip.

// quarter is the part of the SMs that a limited straggler has.
const quarter = 0.25

// maxContexts bounds how many green contexts an executor makes: the driver gives no more sizes than this many on the chips known.
const maxContexts = 32

// partitioned are the poller's books of it.
type partitioned struct {
	chip, unit int   // SMs, and of how many a partition is a multiple; unit 0: the driver has none
	lacks      error // why not
	warned     bool
	slots      [issue.MaxPartitions]partitionSlot
	classes    []*sched.Class
	any        bool // somebody is to be confined at times
	moved      bool // slots have changed since the clients were told
	ask        chan partitionAsk
}

// partitionSlot is a partition with streams.
type partitionSlot struct {
	want  int // its size, SMs; 0: free
	sms   int // what the driver gave, when its streams are there; 0: not yet, or it cannot be had
	busy  bool
	fresh []gpu.Stream // to be exchanged for others when there is room
	gives bool         // its streams go back
}

// partitionAsk asks the divider for streams: of a partition of so many SMs, or, with 0, of the whole chip.
type partitionAsk struct{ slot, sms, streams int }

// size is how many SMs a share of the chip is.
func (d *partitioned) size(share float64) int {
	n := (int(share*float64(d.chip)) + d.unit - 1) / d.unit * d.unit
	return max(min(n, (d.chip-1)/d.unit*d.unit), d.unit)
}

// on is the place, from 1 on, of the partition that serves a share: the nearest size that is there. 0: none is.
func (d *partitioned) on(share float64) (place int) {
	want, off := d.size(share), 0
	for i := range d.slots {
		s := &d.slots[i]
		if s.sms <= 0 || s.gives {
			continue
		}
		if n := max(s.want-want, want-s.want); place == 0 || n < off {
			place, off = i+1, n
		}
	}
	return place
}

// sms is how many SMs a client is confined to now, 0 to none.
func (d *partitioned) sms(b *scoreboard.Session) int {
	if b.Partition == 0 {
		return 0
	}
	return d.slots[b.Partition-1].sms
}

// divide has the partitions made that classes with clients ask for, and lets go of the others.
func (p *poller) divide() {
	d := &p.divided
	for _, k := range d.classes {
		k.Confined = false
	}
	d.classes, d.any, d.moved = d.classes[:0], false, true
	var want []int
	for _, c := range p.clients {
		k := c.books.Class()
		for _, share := range [...]float64{k.Partition, c.quarter()} {
			if share == 0 {
				continue
			}
			if d.unit == 0 {
				if !d.warned {
					d.warned = true
					p.log.Warn("partition has no effect: kernels run on all multiprocessors", "class", k.Name, "error", d.lacks)
				}
				continue
			}
			d.any = true
			if n := d.size(share); !slices.Contains(want, n) {
				want = append(want, n)
			}
		}
		if k.Partition > 0 && d.unit > 0 && !slices.Contains(d.classes, k) {
			d.classes = append(d.classes, k)
		}
	}
	for i := range d.slots {
		s := &d.slots[i]
		switch {
		case s.want == 0 || s.busy:
			d.any = d.any || s.busy // it is still to be seen to
		case slices.Contains(want, s.want):
			want = slices.DeleteFunc(want, func(n int) bool { return n == s.want })
		case s.sms == 0:
			*s = partitionSlot{}
		default:
			s.busy, s.gives, d.any = true, true, true
			d.ask <- partitionAsk{i, 0, p.engine.StreamsIn(i)}
		}
	}
	for i := range d.slots {
		s := &d.slots[i]
		if s.busy && !s.gives {
			want = slices.DeleteFunc(want, func(n int) bool { return n == s.want })
		}
	}
	for i := range d.slots {
		if s := &d.slots[i]; s.want == 0 && len(want) > 0 {
			if n := p.engine.PartitionStreams(); n > 0 {
				*s = partitionSlot{want: want[0], busy: true}
				d.ask <- partitionAsk{i, want[0], n}
			}
			want = want[1:]
		}
	}
}

// divides takes what the divider made: streams and how many SMs they have, or an error.
func (p *poller) divides(a partitionAsk, sms int, fresh []gpu.Stream, err error) {
	d := &p.divided
	s := &d.slots[a.slot]
	if err != nil {
		p.log.Warn("a partition of the multiprocessors cannot be had", "multiprocessors", a.sms, "error", err)
		if s.busy = false; s.gives { // its streams stay, for the next who wants this size
			s.gives = false
		}
		d.moved = true
		return
	}
	if s.fresh = fresh; a.sms > 0 {
		s.sms = -sms // when they have their place
	}
	d.any = true
}

// exchange puts fresh streams into place where there is room.
func (p *poller) exchange() {
	d := &p.divided
	again := false
	for i := range d.slots {
		s := &d.slots[i]
		switch {
		case s.fresh == nil:
			continue
		case !s.gives && p.engine.PartitionStreams() == 0: // other partitions took them meanwhile
			for _, fresh := range s.fresh {
				p.engine.Discard(fresh)
			}
			s.sms, s.busy, s.fresh = 0, false, nil
		case s.gives && p.engine.Release(i, s.fresh):
			*s, again = partitionSlot{}, true
		case !s.gives && p.engine.Confine(i, s.fresh):
			s.sms, s.busy, s.fresh = -s.sms, false, nil
			again = true
		}
	}
	if again {
		p.divide() // who waited for the place
	}
}

// quarter is the share of a straggler that is limited, 0 of others.
func (c *client) quarter() float64 {
	if c.board.Quarter {
		return quarter
	}
	return 0
}

// confine tells clients where they run, when that changes. It is cheap while nobody is to be confined.
func (p *poller) confine() {
	d := &p.divided
	if !d.any && !d.moved {
		return
	}
	p.exchange()
	changed := d.moved
	for _, k := range d.classes {
		if on := d.on(k.Partition) > 0 && p.sched.Pressed(k, p.now); on != k.Confined {
			k.Confined, changed = on, true
		}
	}
	if !changed {
		return
	}
	d.moved = false
	for _, c := range p.clients {
		c.board.Partition = 0
		if k := c.books.Class(); k.Confined {
			c.board.Partition = d.on(k.Partition)
		}
		if share := c.quarter(); share > 0 && d.unit > 0 {
			if at := d.on(share); at > 0 && (c.board.Partition == 0 || d.slots[at-1].sms < d.sms(c.board)) {
				c.board.Partition = at
			}
		}
	}
}

// divider makes green contexts and streams, and keeps the contexts.
type divider struct {
	driver issue.Partitioner
	plain  func(priority int) (gpu.Stream, error)
	calm   func()
	write  func(gpu.Stream) gpu.Result // a done word, somewhere
	do     func(func() error) error
	made   map[int]gpu.Partition // by the size that was asked for
}

// serve makes what one question asks for.
func (m *divider) serve(a partitionAsk, least int) (sms int, fresh []gpu.Stream, err error) {
	part, ok := m.made[a.sms]
	if a.sms > 0 && !ok {
		if len(m.made) >= maxContexts {
			return 0, nil, fmt.Errorf("executor: %d partitions were made, there are no more", maxContexts)
		}
		m.calm()
		err := m.do(func() (err error) { part, err = m.driver.NewPartition(a.sms); return err })
		if err != nil {
			return 0, nil, err
		}
		m.made[a.sms] = part
	}
	err = m.do(func() error {
		for n := range a.streams {
			var s gpu.Stream
			var err error
			if a.sms > 0 {
				s, err = m.driver.PartitionStream(part, least)
			} else {
				s, err = m.plain(least)
			}
			if err != nil {
				return err // those made stay, unused: the context is about to be out of memory
			}
			if n == 0 {
				if r := m.write(s); r != gpu.Success { // asked here: where it matters a refusal would be a fault
					return fmt.Errorf("executor: a memory operation on a stream of %d multiprocessors: %w", part.SMs, r)
				}
			}
			fresh = append(fresh, s)
		}
		return nil
	})
	return part.SMs, fresh, err
}

// dividing says whether a driver divides the SMs, and how.
func dividing(d Driver, log *slog.Logger) (q issue.Partitioner, at partitioned) {
	at.ask = make(chan partitionAsk, issue.MaxPartitions)
	q, ok := d.(issue.Partitioner)
	if !ok {
		at.lacks = gpu.NotSupported
		return nil, at
	}
	if at.chip, at.unit, at.lacks = q.PartitionUnit(); at.lacks != nil || at.chip <= at.unit {
		log.Debug("the multiprocessors cannot be divided", "error", at.lacks)
		at.unit = 0
	}
	return q, at
}

// divide serves the poller's questions until it ends.
func (x *executor) divide(m *divider) {
	for {
		select {
		case a := <-x.poller.divided.ask:
			sms, fresh, err := m.serve(a, x.engine.Least())
			x.poller.post(func() { x.poller.divides(a, sms, fresh, err) })
		case <-x.poller.ended:
			return
		}
	}
}
