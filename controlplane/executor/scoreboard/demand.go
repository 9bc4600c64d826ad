package scoreboard

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// Bounds of a Demand.
const (
	// askAfter is how often ops of a code must be ready together before a form is asked for: what happens once or twice (start-up,
	// autotuning) is not worth a compilation.
	askAfter = 3
	// wishes is the size of the queue to the forms' maker, combinations the number of sets of codes whose company is counted.
	wishes       = 256
	combinations = 1024
	// What a form of several codes would have spared counts half after packFades, ns. It is asked for when that comes to what a
	// compilation takes, packCosts, ns, until the maker knows better; at most packsUnderWay are asked for at a time.
	packFades     = int64(4e9)
	packCosts     = int64(300e6)
	packsUnderWay = 16
)

// SmallCapacity is the instances of a code's first form: its parameter block is small, so a launch of few instances stays cheap.
// The second form holds LargeCapacity, or what the parameters admit.
const (
	SmallCapacity = 8
	LargeCapacity = 128
	// SliceCapacity is that of a form that was asked for to launch slices of one instance: the least that there is.
	SliceCapacity = 2
)

// Wish asks for a form.
type Wish struct {
	Mapping  coalesce.Mapping
	Capacity int
	Count    int // of Bodies
	Bodies   [coalesce.MaxBodies]*Code
}

// Demand tells the forms' maker what the poller found ready together, or too long. Together, Long and Beside belong to the poller's
// thread: they allocate nothing and take no lock, and cost a few compares once a form was asked for. Next belongs to one other
// goroutine.
type Demand struct {
	queue [wishes]Wish
	head  atomic.Uint64 // taken
	tail  atomic.Uint64 // put
	wake  chan struct{}

	seen [combinations]combination // by hash; the poller's
	lost uint64

	packs   atomic.Int32 // sets that were asked for and are not Settled
	enough  atomic.Bool  // no more are wanted
	costs   atomic.Int64 // what a form of a set is worth, ns of launches spared; 0: packCosts
	useless atomic.Bool  // forms are not used now, because ops go by themselves
}

// combination is a set of codes that was ready together.
type combination struct {
	ids   [coalesce.MaxBodies]uint32 // sorted, 0 behind the last
	asked bool
	worth int64 // ns of launches that a form of them would have spared of late
	since int64 // when that was last halved, ns
}

// NewDemand makes an empty one.
func NewDemand() *Demand { return &Demand{wake: make(chan struct{}, 1)} }

// asked is what the poller has counted and asked for, by mapping.
type asked struct {
	times, largeTimes uint8
	small, large      bool
}

// Together notes that n ≥ 2 ops of one code were ready together; sameGrid tells that one grid serves all and its z is 1, so that
// the cheap mapping does. Which form is wanted follows from that: call it whenever it happens.
func (d *Demand) Together(c *Code, n int, sameGrid bool) {
	mapping := coalesce.ByTable
	if sameGrid {
		mapping = coalesce.ByZ
	}
	a := &c.asked[mapping]
	if n < 2 || a.large || a.small && n <= SmallCapacity {
		return
	}
	if !a.small {
		if a.times++; a.times >= askAfter {
			a.small = d.put(mapping, SmallCapacity, c)
		}
	}
	if n > SmallCapacity {
		if a.largeTimes++; a.largeTimes >= askAfter {
			a.large = d.put(mapping, LargeCapacity, c)
		}
	}
	a.times, a.largeTimes = min(a.times, askAfter), min(a.largeTimes, askAfter)
}

// Long notes that an op of a code takes longer than a more urgent class may wait for it, so that a form would serve which can be
// launched slice by slice.
func (d *Demand) Long(c *Code) {
	if a := &c.asked[coalesce.ByTable]; a.small || a.large || c.long > askAfter {
		return // such forms serve too
	}
	if c.long++; c.long > askAfter && !d.put(coalesce.ByTable, SliceCapacity, c) {
		c.long = askAfter
	}
}

// Beside notes that ops of these different codes were ready together, so that one form that holds them all would serve: 2 to
// coalesce.MaxBodies codes without repetition, in any order. codes is not kept. It would have spared so much of the time in which
// launches are made, ns. There are far more sets than can be made: one is asked for when its form would be paid for in seconds, and of
// sets that share a place in the table the one that would spare most stays.
func (d *Demand) Beside(codes []*Code, spares, now int64) {
	if len(codes) < 2 || len(codes) > coalesce.MaxBodies || d.enough.Load() {
		return
	}
	w := Wish{Mapping: coalesce.ByTable, Capacity: SmallCapacity}
	w.Count = copy(w.Bodies[:], codes)
	bodies := w.Bodies[:w.Count]
	for i := 1; i < len(bodies); i++ { // by id: the same set is the same wish
		for k := i; k > 0 && bodies[k].ID < bodies[k-1].ID; k-- {
			bodies[k], bodies[k-1] = bodies[k-1], bodies[k]
		}
	}
	var ids [coalesce.MaxBodies]uint32
	hash := uint64(14695981039346656037) // FNV-1a over words
	for i, c := range bodies {
		ids[i] = c.ID
		hash = (hash ^ uint64(c.ID)) * 1099511628211
	}
	s := &d.seen[(hash>>32^hash)%combinations]
	if s.asked {
		return // also when it was another one that was asked for
	}
	for ; now-s.since >= packFades && s.worth > 0; s.since += packFades {
		s.worth /= 2
	}
	if s.ids != ids {
		if s.worth -= spares; s.worth > 0 {
			return
		}
		*s = combination{ids: ids, since: now}
	}
	s.worth += spares
	if s.worth < cmp.Or(d.costs.Load(), packCosts) || d.packs.Load() >= packsUnderWay || !d.push(&w) {
		return
	}
	s.asked = true
	d.packs.Add(1)
}

// Settled says that a set that was asked for has its form, or will have none. The maker's, as Enough and Costs.
func (d *Demand) Settled() { d.packs.Add(-1) }

// Enough says whether no further sets shall be asked for.
func (d *Demand) Enough(yes bool) { d.enough.Store(yes) }

// Costs says what making a form of a set takes, ns.
func (d *Demand) Costs(ns int64) { d.costs.Store(ns) }

// Useless says whether ops that could be joined go by themselves. The poller's.
func (d *Demand) Useless(yes bool) {
	if d.useless.Load() != yes {
		d.useless.Store(yes)
	}
}

// Useful is the opposite of what Useless said. Any thread may ask.
func (d *Demand) Useful() bool { return !d.useless.Load() }

func (d *Demand) put(m coalesce.Mapping, capacity int, c *Code) bool {
	w := Wish{Mapping: m, Capacity: capacity, Count: 1}
	w.Bodies[0] = c
	return d.push(&w)
}

// push queues a wish; false when there is no room, and the next op asks again.
func (d *Demand) push(w *Wish) bool {
	t := d.tail.Load()
	if t-d.head.Load() == wishes {
		d.lost++
		return false
	}
	d.queue[t%wishes] = *w
	d.tail.Store(t + 1)
	select { // the one thing here that may take a lock; a form is asked for a few times in a code's life
	case d.wake <- struct{}{}:
	default:
	}
	return true
}

// Wake has a token when there may be something to take.
func (d *Demand) Wake() <-chan struct{} { return d.wake }

// Next takes the oldest wish.
func (d *Demand) Next() (Wish, bool) {
	h := d.head.Load()
	if h == d.tail.Load() {
		return Wish{}, false
	}
	w := d.queue[h%wishes]
	d.queue[h%wishes] = Wish{}
	d.head.Store(h + 1)
	return w, true
}

// Publish adds a form to each of its bodies' codes, cheapest mapping and smallest capacity first, forms of fewer bodies before
// those of more. It belongs to the forms' maker.
func Publish(f *Form) {
	for _, c := range f.Bodies {
		var all []*Form
		if old := c.Forms.Load(); old != nil {
			all = slices.Clone(*old)
		}
		all = append(all, f)
		slices.SortStableFunc(all, func(a, b *Form) int {
			switch {
			case len(a.Bodies) != len(b.Bodies):
				return len(a.Bodies) - len(b.Bodies)
			case a.Layout.Mapping != b.Layout.Mapping:
				return int(a.Layout.Mapping) - int(b.Layout.Mapping)
			}
			return a.Layout.Capacity - b.Layout.Capacity
		})
		c.Forms.Store(&all)
	}
}
