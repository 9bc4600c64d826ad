package simulate

import (
	"math"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
)

// Chip is the modelled GPU, and what launches cost on the way to it. docs/sim.md says what the model is and how near it comes.
type Chip struct {
	SMs       int `toml:"sms"`
	Threads   int `toml:"threads"`   // an SM holds
	Registers int `toml:"registers"` // of an SM
	Shared    int `toml:"shared"`    // bytes an SM has
	Blocks    int `toml:"blocks"`    // an SM holds
	// Busy is how many threads an SM needs to do as much as it can: beyond it kernels slow each other down.
	Busy    int `toml:"busy"`
	Streams int `toml:"streams"`
	// Issuers make the driver calls, as few of them as keep up (Spill, as issue.Options have it): a launch takes one Call of its thread, and
	// Launch of it at a time only one of them makes; a done word that a launch does not write itself takes Write, the order between two
	// streams Order on each side. Queue is how many commands a thread may have before it.
	Issuers int      `toml:"issuers"`
	Spill   int      `toml:"spill"`
	Call    Duration `toml:"call"`
	Launch  Duration `toml:"launch"`
	Write   Duration `toml:"write"`
	Order   Duration `toml:"order"`
	Queue   int      `toml:"queue"`
	// Arrive is what a launch takes to the chip, Start what a kernel needs beside its time, Seen until its end is known.
	Arrive Duration `toml:"arrive"`
	Start  Duration `toml:"start"`
	Seen   Duration `toml:"seen"`
	// The poller's time: for a pass, for the first record of a ring in a pass (a line that another core wrote), for each record that it
	// reads, for each op that it issues, and for each word.
	Pass   Duration `toml:"pass"`
	Ring   Duration `toml:"ring"`
	Record Duration `toml:"record"`
	Op     Duration `toml:"op"`
	Word   Duration `toml:"word"`
}

// H100 is the chip of measurements.md, section 3: what it says of joined launches, this model reproduces within 30 %. The poller's times
// are those of the driver double, nearly doubled, as docs/results.md section 7 found them.
func H100() Chip {
	return Chip{
		SMs: 132, Threads: 2048, Registers: 65536, Shared: 233472, Blocks: 32, Busy: 360, Streams: 32,
		Issuers: 4, Spill: issue.DefaultSpill, Call: 4400, Launch: 1900, Write: 1800, Order: 600, Queue: 8, Arrive: 1500, Start: 2000, Seen: 2000,
		Pass: 250, Ring: 350, Record: 100, Op: 220, Word: 350,
	}
}

func (c *Chip) check(p *problems) {
	within(p, "chip.sms", c.SMs, 1, 10_000)
	within(p, "chip.threads", c.Threads, 32, 1<<16)
	within(p, "chip.registers", c.Registers, 256, 1<<24)
	within(p, "chip.shared", c.Shared, 1024, 1<<24)
	within(p, "chip.blocks", c.Blocks, 1, 1024)
	within(p, "chip.busy", c.Busy, 1, 1<<16)
	within(p, "chip.streams", c.Streams, 1, 64)
	within(p, "chip.queue", c.Queue, 1, 4096)
	within(p, "chip.issuers", c.Issuers, 1, 64)
	within(p, "chip.spill", c.Spill, 1, 4096)
	for _, d := range []struct {
		key string
		v   Duration
	}{
		{"call", c.Call}, {"launch", c.Launch}, {"write", c.Write}, {"order", c.Order}, {"arrive", c.Arrive}, {"start", c.Start},
		{"seen", c.Seen}, {"pass", c.Pass}, {"ring", c.Ring}, {"record", c.Record}, {"op", c.Op}, {"word", c.Word},
	} {
		p.duration("chip."+d.key, d.v, 0, time.Second)
	}
	if c.Launch > c.Call {
		p.add("chip.launch: expected at most chip.call (%v), of which it is a part, found %v", time.Duration(c.Call), time.Duration(c.Launch))
	}
}

func (c *Chip) cost() cost.Chip {
	return cost.Chip{SMs: c.SMs, Threads: c.Threads, Registers: c.Registers, Shared: c.Shared, Blocks: c.Blocks}
}

// measure finds what a kernel takes of the chip.
func (c *Chip) measure(k *Kernel) {
	places := float64(c.cost().Resident(k.Threads, k.Registers, k.Shared))
	k.need = min(1, float64(k.Blocks)*float64(k.Threads)/(float64(c.SMs)*float64(c.Busy)))
	k.room = min(1, float64(k.Blocks)/places)
	k.rounds = math.Ceil(float64(k.Blocks) / places)
}

// word is one launch on its way.
type word struct {
	ops      []*op
	need     float64
	room     float64
	left     float64 // ns at full speed
	work     float64 // ns of the whole chip
	block    float64 // how long one of its blocks takes, ns
	stream   int
	level    int
	order    uint64
	at       int64 // arrives on the chip, or is seen
	arrived  bool
	started  int64
	measured func(ns int64) // nil: nobody asked
	part     *part          // nil: it does its ops
	// A write of a done word by the stream has no ops.
	writes *lane
	number uint32
	behind []order // what was issued to the streams from which its lanes came
}

// part is what a word does of its one op when that is issued in slices of its blocks.
type part struct {
	blocks      int
	first, last bool
	ended       func() // it was seen done; of one that is not the last
}

// of gives the kernel as the chip sees so many blocks of it, and how long they take of the ns that all take.
func (p *part) of(c *Chip, k *Kernel, ns int64) (slice Kernel, time int64) {
	slice = *k
	slice.Blocks = p.blocks
	c.measure(&slice)
	return slice, max(1, int64(float64(ns)*slice.rounds/k.rounds))
}

// picker decides what is issued next: a scheduler.
type picker interface {
	// submit takes an op whose record was read, waits the client's word that it waits for all that it has submitted.
	submit(o *op)
	waits(c *client)
	// offer hands over a lane's first op, which may be issued from now on.
	offer(o *op)
	// pass issues what may go now through device.issue; again is when it wants to be asked again though nothing happened.
	pass() (again int64)
	completed(ln *lane, c *client, ops int)
	// streams says which streams an op's words may use.
	streams(o *op) (first, count int)
	// window is how many ops of a lane may be in flight.
	window(o *op) int
}

// device is the chip with a picker before it.
//
// Words run in the order of their streams. One starts as soon as the chip has a free place for a block and the ops before its own
// in their lanes have run; of several that could, the one of the most urgent stream, then the oldest. On a full chip one of a more
// urgent stream than some that runs starts all the same, and takes half a block of that one longer: places become free block by
// block. While what runs needs no more than the whole chip each runs at full speed; beyond it all are slowed alike. What runs is
// never taken off the chip.
type device struct {
	r       *run
	chip    *Chip
	pick    picker
	queues  [][]*word // by stream: issued, not ended
	running []*word
	speeds  []float64 // of what runs: by how many times its company, and its need of the chip, make it longer
	sum     float64   // of their needs
	room    float64   // of their rooms
	since   int64     // up to which left is counted
	issued  []*word   // launched, not yet on the chip, in order
	over    []*word   // ended, not yet seen
	flying  int       // words issued and not seen
	work    float64   // of their ops, ns of the whole chip
	order   uint64
	words   []*word // to use again
	way
}

func newDevice(r *run, pick func(*device) picker) *device {
	n := r.sc.Chip.Streams
	d := &device{r: r, chip: &r.sc.Chip, queues: make([][]*word, n)}
	d.way = way{again: never, streams: make([]stream, n), lanes: make([]int, n), threads: make([]thread, r.sc.Chip.Issuers)}
	d.pick = pick(d)
	return d
}

// slow is how much longer everything takes now, beside what its company does to it.
func (d *device) slow() float64 { return max(1, d.sum) }

// slowed is how much longer words[i] takes now: by how full the chip is, and by what else runs.
func (d *device) slowed(words []*word, i int) float64 {
	slow := d.slow()
	if d.r.sc.slows == nil {
		return slow
	}
	more := 0.0
	for j, o := range words {
		if j == i {
			continue
		}
		most := 0.0
		for _, a := range words[i].ops {
			for _, b := range o.ops {
				most = max(most, d.r.sc.slows[[2]int{a.k.number, b.k.number}])
			}
		}
		more += most
	}
	return slow * (1 + more)
}

// company is how many times as long an op of a word takes because of the other kernels in it.
func (d *device) company(ops []*op, o *op) float64 {
	more := 0.0
	for i, b := range ops {
		first := true
		for _, before := range ops[:i] {
			first = first && before.k != b.k
		}
		if first && b.k != o.k {
			more += d.r.sc.slows[[2]int{o.k.number, b.k.number}]
		}
	}
	return 1 + more
}

func (d *device) next() int64 {
	at := d.way.next(d.r.now)
	if len(d.issued) > 0 {
		at = min(at, d.issued[0].at)
	}
	if len(d.over) > 0 {
		at = min(at, d.over[0].at)
	}
	if len(d.running) > 0 {
		least := math.Inf(1)
		for i, w := range d.running {
			least = min(least, w.left*d.slowed(d.running, i))
		}
		at = min(at, d.since+max(1, int64(math.Ceil(least))))
	}
	return at
}

func (d *device) step() {
	now := d.r.now
	d.advance(now)
	d.call(now)
	for len(d.issued) > 0 && d.issued[0].at <= now {
		d.issued[0].arrived = true
		d.issued = d.issued[1:]
	}
	d.start(now)
	for len(d.over) > 0 && d.over[0].at <= now {
		w := d.over[0]
		d.over = d.over[1:]
		d.seen(w)
	}
	for len(d.r.events) > 0 && d.r.events[0].at <= now {
		d.r.act(d.r.events[0]) // what follows at once from what ended
	}
	if (d.dirty || d.again <= now) && d.polls <= now {
		d.poll()
	}
}

// advance lets what runs run up to now.
func (d *device) advance(now int64) {
	if len(d.running) == 0 {
		d.since = now
		return
	}
	by := float64(now - d.since)
	d.speeds = d.speeds[:0]
	for i := range d.running {
		d.speeds = append(d.speeds, d.slowed(d.running, i))
	}
	d.since = now
	kept := d.running[:0]
	for i, w := range d.running {
		if w.left -= by / d.speeds[i]; w.left > 1e-3 {
			kept = append(kept, w)
			continue
		}
		for _, o := range w.ops {
			if w.part == nil || w.part.last {
				o.ln.executed = o.Seq
			}
		}
		d.end(w, now)
		if w.measured != nil {
			w.measured(now - w.started)
		}
	}
	clear(d.running[len(kept):])
	d.running = kept
	d.sum, d.room = 0, 0
	for _, w := range kept {
		d.sum += w.need
		d.room += w.room
	}
}

// end takes a word off its stream.
func (d *device) end(w *word, now int64) {
	d.queues[w.stream] = d.queues[w.stream][1:]
	w.at = now + int64(d.chip.Seen)
	d.over = append(d.over, w)
}

// start starts the words that can.
func (d *device) start(now int64) {
	for {
		var best *word
		wait := 0.0
		for i := range d.queues {
			for len(d.queues[i]) > 0 && d.queues[i][0].writes != nil && d.queues[i][0].arrived {
				d.end(d.queues[i][0], now)
			}
			if len(d.queues[i]) == 0 {
				continue
			}
			w := d.queues[i][0]
			if !w.arrived || w.started >= 0 || (best != nil && (w.level > best.level || (w.level == best.level && w.order > best.order))) {
				continue
			}
			if d.ready(w) {
				best = w
			}
		}
		if best == nil {
			return
		}
		if d.room >= 1-1e-9 {
			wait = math.Inf(1)
			for _, w := range d.running {
				if w.level > best.level {
					wait = min(wait, w.block/2)
				}
			}
			if math.IsInf(wait, 1) {
				return
			}
		}
		best.left += wait
		best.started = now
		d.running = append(d.running, best)
		d.sum += best.need
		d.room += best.room
	}
}

// ready says whether everything that a word follows has run.
func (d *device) ready(w *word) bool {
	for _, o := range w.behind {
		if q := d.queues[o.stream]; len(q) > 0 && q[0].order <= o.number {
			return false
		}
	}
	return true
}

// seen tells the clients of a word that ended: of its ops that got a done word, and of all before them in their lanes.
func (d *device) seen(w *word) {
	d.flying--
	d.work -= w.work
	if w.writes != nil {
		d.done(w.writes, w.number)
	}
	for _, o := range w.ops {
		switch {
		case w.part != nil && !w.part.last:
			w.part.ended()
		case o.Signal:
			d.done(o.ln, o.Seq)
		}
	}
	clear(w.ops)
	d.words = append(d.words, w)
	d.dirty = true
}

// done writes a done word.
func (d *device) done(ln *lane, seq uint32) {
	c := ln.c
	if int32(seq-ln.written) <= 0 {
		return
	}
	ln.written = seq
	c.board.Ran(ln.Index, seq)
	d.touch(c)
	for len(ln.flying) > 0 && int32(ln.flying[0].Seq-seq) <= 0 {
		o := ln.flying[0]
		ln.flying[0] = nil
		ln.flying = ln.flying[1:]
		d.r.done(o, float64(o.ns)*o.k.need, o.width)
	}
}
