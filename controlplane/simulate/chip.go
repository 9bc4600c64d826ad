package simulate

import (
	"math"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
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
	// Launch is the time between two launches that the issue threads reach together, Arrive what a launch takes to the chip, Start
	// what a kernel needs beside its time, Seen until its end is known.
	Launch Duration `toml:"launch"`
	Arrive Duration `toml:"arrive"`
	Start  Duration `toml:"start"`
	Seen   Duration `toml:"seen"`
	// Queue is how many launches may wait for an issue thread.
	Queue int `toml:"queue"`
}

// H100 is the chip of measurements.md, section 3: what it says of joined launches, this model reproduces within 30 %.
func H100() Chip {
	return Chip{
		SMs: 132, Threads: 2048, Registers: 65536, Shared: 233472, Blocks: 32, Busy: 360, Streams: 32,
		Launch: Duration(1900), Arrive: Duration(4000), Start: Duration(2000), Seen: Duration(2000), Queue: 32,
	}
}

func (c *Chip) check(p *problems) {
	within(p, "chip.sms", c.SMs, 1, 10_000)
	within(p, "chip.threads", c.Threads, 32, 1<<16)
	within(p, "chip.registers", c.Registers, 256, 1<<24)
	within(p, "chip.shared", c.Shared, 1024, 1<<24)
	within(p, "chip.blocks", c.Blocks, 1, 1024)
	within(p, "chip.busy", c.Busy, 1, 1<<16)
	within(p, "chip.streams", c.Streams, 1, 128)
	within(p, "chip.queue", c.Queue, 1, 4096)
	p.duration("chip.launch", c.Launch, 0, time.Second)
	p.duration("chip.arrive", c.Arrive, 0, time.Second)
	p.duration("chip.start", c.Start, 0, time.Second)
	p.duration("chip.seen", c.Seen, 0, time.Second)
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
	submit(o *op)
	waits(c *client)
	// offer hands over a lane's first op, which may be issued from now on.
	offer(o *op)
	// pass issues what may go now through device.issue; again is when it wants to be asked again though nothing happened.
	pass() (again int64)
	completed(ln *lane, c *client)
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
	issued  []*word   // not yet on the chip, in order
	over    []*word   // ended, not yet seen
	free    int64     // when the issue threads have time
	flying  int       // words issued and not seen
	work    float64   // of their ops, ns of the whole chip
	order   uint64
	again   int64
	touched []*lane // first ops of these may be offered
	owners  []*client
	dirty   bool
	words   []*word // to use again
	lanes   []int   // place's, by stream
}

func newDevice(r *run, pick func(*device) picker) *device {
	n := r.sc.Chip.Streams
	d := &device{r: r, chip: &r.sc.Chip, queues: make([][]*word, n), lanes: make([]int, n), again: never}
	d.pick = pick(d)
	return d
}

func (d *device) submit(o *op) {
	d.pick.submit(o)
	d.touch(o.c, o.ln)
	d.dirty = true
}

func (d *device) waits(c *client) { d.pick.waits(c) }

// touch has a lane looked at before the next pass.
func (d *device) touch(c *client, ln *lane) {
	if !ln.touched {
		ln.touched = true
		d.touched, d.owners = append(d.touched, ln), append(d.owners, c)
	}
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
	at := d.again
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
	for len(d.issued) > 0 && d.issued[0].at <= now {
		d.issued[0].arrived = true
		d.issued = d.issued[1:]
		d.dirty = true // the issue threads have room
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
	if d.dirty || d.again <= now {
		d.dirty = false
		for i, ln := range d.touched {
			ln.touched = false
			d.look(d.owners[i], ln)
		}
		d.touched, d.owners = d.touched[:0], d.owners[:0]
		d.again = d.pick.pass()
	}
}

// look offers a lane's first op when it may be issued.
func (d *device) look(c *client, ln *lane) {
	if ln.queued || len(ln.waiting) == 0 || ln.InFlight() >= d.pick.window(ln.waiting[0]) {
		return
	}
	ln.queued = true
	d.pick.offer(ln.waiting[0])
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
		d.queues[w.stream] = d.queues[w.stream][1:]
		for _, o := range w.ops {
			if w.part == nil || w.part.last {
				o.ln.executed = o.Seq
			}
		}
		w.at = now + int64(d.chip.Seen)
		d.over = append(d.over, w)
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

// start starts the words that can.
func (d *device) start(now int64) {
	for {
		var best *word
		wait := 0.0
		for _, q := range d.queues {
			if len(q) == 0 {
				continue
			}
			w := q[0]
			if !w.arrived || w.started >= 0 || (best != nil && (w.level > best.level || (w.level == best.level && w.order > best.order))) {
				continue
			}
			if ready(w) {
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

// ready says whether everything before a word's ops in their lanes has run.
func ready(w *word) bool {
	for _, o := range w.ops {
		if o.ln.executed != o.Seq-1 {
			return false
		}
	}
	return true
}

// full says whether the issue threads have enough to do.
func (d *device) full() bool { return len(d.issued) >= d.chip.Queue }

// issue sends a word, and says on which stream; full must not hold. level is its streams' urgency, 0 the most urgent.
func (d *device) issue(ops []*op, level int, measured func(int64)) (stream int) {
	return d.send(ops, nil, level, measured)
}

// send is issue; with a part the word does only that of its one op.
func (d *device) send(ops []*op, p *part, level int, measured func(int64)) (stream int) {
	var w *word
	if n := len(d.words); n > 0 {
		w, d.words = d.words[n-1], d.words[:n-1]
		*w = word{ops: w.ops[:0]}
	} else {
		w = &word{}
	}
	w.ops = append(w.ops, ops...)
	longest := int64(0)
	for _, o := range ops {
		k, ns := o.k, o.ns
		if p != nil {
			slice, time := p.of(d.chip, k, ns)
			k, ns = &slice, time
		}
		if d.r.sc.slows != nil && len(ops) > 1 {
			ns = int64(float64(ns) * d.company(ops, o))
		}
		longest = max(longest, ns)
		w.work += float64(ns) * k.need
		w.block = max(w.block, float64(ns)/k.rounds)
		w.need += k.need
		w.room += k.room
	}
	d.work += w.work
	w.room = min(1, w.room)
	w.left = float64(longest + int64(d.chip.Start))
	w.started, w.level, w.measured, w.part = -1, level, measured, p
	d.order++
	w.order = d.order
	w.stream = d.place(ops)
	d.queues[w.stream] = append(d.queues[w.stream], w)
	d.free = max(d.free, d.r.now) + int64(d.chip.Launch)
	w.at = d.free + int64(d.chip.Arrive)
	d.issued = append(d.issued, w)
	d.flying++
	for _, o := range ops {
		o.ln.Stream = w.stream
		if o.ln.InFlight() == 0 {
			o.ln.Since = d.r.now
		}
		if p == nil || p.first {
			d.r.leaves(o)
		}
		o.ln.queued = p != nil && !p.last // what follows waits for the last slice
		d.touch(o.c, o.ln)
	}
	return w.stream
}

// place finds a word's stream, as the issue engine does: the one in which most of its lanes have ops in flight, unless it is an op
// by itself, other lanes' words are there too, and some stream is idle; else one that holds least.
func (d *device) place(ops []*op) int {
	first, count := d.pick.streams(ops[0])
	best := first
	for i := first; i < first+count; i++ {
		if len(d.queues[i]) < len(d.queues[best]) {
			best = i
		}
	}
	clear(d.lanes)
	at := -1
	for _, o := range ops {
		if s := o.ln.Stream; o.ln.InFlight() > 0 && s >= first && s < first+count {
			if d.lanes[s]++; at < 0 || d.lanes[s] > d.lanes[at] {
				at = s
			}
		}
	}
	if at < 0 || (len(ops) == 1 && len(d.queues[best]) == 0 && d.shared(ops[0].ln)) {
		return best
	}
	return at
}

// shared says whether a lane's stream holds words of others.
func (d *device) shared(ln *lane) bool {
	for _, w := range d.queues[ln.Stream] {
		for _, o := range w.ops {
			if o.ln != ln {
				return true
			}
		}
	}
	return false
}

// seen tells everybody of a word that ended.
func (d *device) seen(w *word) {
	d.flying--
	d.work -= w.work
	n := len(w.ops)
	for _, o := range w.ops {
		if w.part != nil && !w.part.last {
			w.part.ended()
			break
		}
		ln, c := o.ln, o.c
		ln.Done = o.Seq
		ln.Completed(1, d.r.now)
		d.pick.completed(ln, c)
		d.touch(c, ln)
		d.r.done(o, float64(o.ns)*o.k.need, n)
	}
	clear(w.ops)
	d.words = append(d.words, w)
	d.dirty = true
}
