package simulate

import (
	"math/bits"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/dispatch"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// way is everything between the clients and the chip: the poller, which reads the clients' rings and the done words, asks the picker what
// goes, and takes its time for all of it; and the issue threads with their queues, one of which has a command longer than it takes when
// others make launches too.
//
//	client: ring ─► poll: board ─► look: offered ─► picker ─► device.issue ─► a thread's queue ─► call ─► stream ─► chip
type way struct {
	threads []thread
	calls   int64 // how long the threads have been making calls
	locked  int64 // until then some thread is in the part of a launch that only one can be in
	streams []stream
	pending int // commands that wait for threads, or are being executed

	polls   int64 // when the poller has ended its pass
	spent   int64 // of the pass at hand, ns
	passes  uint64
	again   int64 // a pass is due although nothing happened
	dirty   bool  // something happened
	touched []*client
	lanes   []int // place's, by stream
	idleAt  int64 // since when no pass found anything to do
}

// thread is an issue thread.
type thread struct {
	queue  []*command // the first one is being executed when busy
	busy   bool
	begun  int64
	until  int64
	leaves *command // the last one of a stream that leaves
}

// command is what a thread does next: launch a word, or take part in an order between two streams.
type command struct {
	word        *word
	at          int64 // pushed
	alone, lock int64 // how long it takes: beside others, and while no other thread may launch
	after       *command
	stream      int
	done        bool
}

// stream is what the poller knows of a stream: how many lanes have how many ops in flight there, and whether some went together.
type stream struct {
	lanes, ops int
	joined     bool
	thread     int      // that got its last command
	last       *command // that one
	leaves     *command // until it is executed the stream gets no more words
}

// order is a word of a stream that another one's word must follow, because the stream's end was there when that was issued.
type order struct {
	stream int
	number uint64
}

func (d *device) submit(o *op) { d.record(o.c, record{op: o}) }

func (d *device) waits(c *client) { d.record(c, record{}) }

// record is what a client writes into its ring: an op, or (without one) that it waits.
type record struct{ op *op }

func (d *device) record(c *client, r record) {
	c.ring = append(c.ring, r)
	d.touch(c)
}

// touch has the poller look at a client in its next pass.
func (d *device) touch(c *client) {
	d.dirty = true
	if !c.touched {
		c.touched = true
		d.touched = append(d.touched, c)
	}
}

// next is when a thread has executed its command or can begin the next one, or a pass is due.
func (y *way) next(now int64) int64 {
	at := y.again
	if y.dirty {
		at = now
	}
	at = max(at, y.polls)
	for i := range y.threads {
		switch t := &y.threads[i]; {
		case t.busy:
			at = min(at, t.until)
		case len(t.queue) > 0 && (t.queue[0].after == nil || t.queue[0].after.done):
			at = min(at, max(now, t.queue[0].at))
		}
	}
	return at
}

// call lets the issue threads go on.
func (d *device) call(now int64) {
	for moved := true; moved; {
		moved = false
		for i := range d.threads {
			t := &d.threads[i]
			if t.busy && t.until <= now {
				d.calls += now - t.begun
				d.executed(t.queue[0], now)
				t.queue[0] = nil
				t.queue, t.busy, moved = t.queue[1:], false, true
			}
			if t.busy || len(t.queue) == 0 {
				continue
			}
			c := t.queue[0]
			if c.at > now || (c.after != nil && !c.after.done) {
				continue
			}
			t.busy, t.begun, t.until, moved = true, now, now+c.alone, true
			if c.lock > 0 {
				d.locked = max(d.locked, t.until) + c.lock
				t.until = d.locked
			}
		}
	}
}

// executed is the end of a command: what it launched is on its way.
func (d *device) executed(c *command, now int64) {
	c.done, d.dirty = true, true
	d.pending--
	if c.word != nil {
		c.word.at = now + int64(d.chip.Arrive)
		d.issued = append(d.issued, c.word)
	}
}

// push gives a command that names a stream to a thread.
func (d *device) push(t, stream int, c *command) *command {
	c.at = d.r.now + d.spent
	d.threads[t].queue = append(d.threads[t].queue, c)
	c.stream = stream
	s := &d.streams[stream]
	s.thread, s.last = t, c
	d.pending++
	return c
}

// bound is the thread that has a command of a stream in its queue, which the next one follows; -1: none.
func (y *way) bound(stream int) int {
	if s := &y.streams[stream]; s.last != nil && !s.last.done {
		return s.thread
	}
	return -1
}

// home is the thread for a word of a stream that follows others (a bit each), as in the issue engine.
func (d *device) home(stream int, waits uint64) int {
	t := d.bound(stream)
	for m := waits; m != 0 && t < 0; m &= m - 1 {
		t = d.bound(bits.TrailingZeros64(m))
	}
	if t < 0 {
		t = d.free()
	}
	return t
}

// free is the thread for what may go to any: the first with less than chip.Spill before it, else the one with least.
func (d *device) free() (best int) {
	for i := range d.threads {
		n := len(d.threads[i].queue)
		if n < d.chip.Spill {
			return i
		}
		if n < len(d.threads[best].queue) {
			best = i
		}
	}
	return best
}

// leaves says that a stream gets no more words from t now, so that it can move to another thread, as in the issue engine.
func (d *device) leaves(t, stream int) bool {
	s, y := &d.streams[stream], &d.threads[t]
	switch {
	case d.bound(stream) != t:
		return false
	case s.leaves != nil && !s.leaves.done:
		return true
	case len(y.queue) < d.chip.Spill || y.leaves != nil && !y.leaves.done:
		return false
	}
	mixed := false
	for _, c := range y.queue {
		mixed = mixed || c.stream != stream
	}
	if !mixed || len(d.threads[d.free()].queue) >= d.chip.Spill {
		return false
	}
	s.leaves, y.leaves = s.last, s.last
	return true
}

// roomy says whether a thread may get more.
func (d *device) roomy(t int) bool { return len(d.threads[t].queue) < d.chip.Queue }

// poll is a pass of the poller.
func (d *device) poll() {
	now := d.r.now
	d.dirty, d.spent = false, int64(d.chip.Pass)
	d.passes++
	did := false
	touched := d.touched
	d.touched = nil
	for _, c := range touched {
		c.touched = false
		did = d.serve(c) || did
	}
	before := d.order
	d.again = d.pick.pass()
	if did || d.order != before {
		d.idleAt = now
	} else if d.idle(now) {
		d.again = min(d.again, now+1)
	}
	d.polls = now + d.spent
}

// serve reads a client's records and done words, and offers what may go.
func (d *device) serve(c *client) (did bool) {
	b := c.board
	if b.Waiting() <= dispatch.FarAhead || d.passes-c.scanned >= dispatch.ScanEvery {
		c.scanned = d.passes
		if len(c.ring) > 0 {
			d.spent += int64(d.chip.Ring)
		}
		for budget := dispatch.ScanBudget; budget > 0 && len(c.ring) > 0; budget-- {
			r := c.ring[0]
			c.ring[0] = record{}
			c.ring = c.ring[1:]
			d.spent += int64(d.chip.Record)
			did = true
			if r.op == nil {
				d.wanted(c)
				continue
			}
			b.Push(&r.op.Op)
			d.pick.submit(r.op)
		}
	}
	if len(c.ring) == 0 {
		c.ring = nil
	} else {
		d.touch(c)
	}
	for i := len(b.Busy()) - 1; i >= 0; i-- {
		ln := c.lanes[b.Busy()[i]]
		at := ln.Stream
		if n, _ := b.Poll(ln.Lane); n > 0 {
			did = true
			ln.Completed(n, d.r.now)
			s := &d.streams[at]
			if ln.Stream == scoreboard.NoStream {
				s.lanes--
			}
			if s.ops -= n; s.ops == 0 {
				s.joined = false
			}
			d.pick.completed(ln, c, n)
		}
		if ln.Want {
			d.write(ln)
		}
		d.look(c, ln)
	}
	return did
}

// wanted asks for the done words of all that a client has submitted: it waits.
func (d *device) wanted(c *client) {
	d.pick.waits(c)
	for _, ln := range c.lanes {
		if ln.Scanned != ln.Done && c.board.Want(ln.Index, ln.Scanned) {
			d.write(ln)
		}
	}
}

// look offers a lane's first op when it may be issued.
func (d *device) look(c *client, ln *lane) {
	first := ln.First()
	if first == nil || ln.Queued {
		return
	}
	o := of(first)
	if ln.InFlight() >= d.pick.window(o) {
		if ln.Signalled == ln.Done && ln.Unsignalled() > 0 {
			d.write(ln)
		}
		return
	}
	ln.Queued = true
	d.pick.offer(o)
}

// of is the simulator's op that an op of the scoreboard is a part of.
func of(o *scoreboard.Op) *op { return (*op)(unsafe.Pointer(o)) }

// The conversion rests on this: the scoreboard's op comes first.
var _ [0]byte = [unsafe.Offsetof(op{}.Op)]byte{}

// write has a lane's done word written by its stream, behind all that is issued.
func (d *device) write(ln *lane) {
	if ln.Unsignalled() == 0 {
		ln.Want = false
		return
	}
	t := d.home(ln.Stream, 0)
	if ln.Want = !d.roomy(t); ln.Want {
		return
	}
	ln.Signalled = ln.Whole
	w := d.word()
	w.writes, w.number, w.stream = ln, ln.Whole, ln.Stream
	d.launch(t, w, int64(d.chip.Write), 0)
}

// idle asks for the done words of all lanes when there is nothing else to do, and says whether there are some.
func (d *device) idle(now int64) (did bool) {
	const after = int64(20e3) // the executor's Tuning.SignalAfter
	if d.pending > 0 || d.r.active == 0 {
		return false
	}
	if now < d.idleAt+after {
		d.again = min(d.again, d.idleAt+after)
		return false
	}
	for _, c := range d.r.clients {
		for _, i := range c.board.Busy() {
			if ln := c.lanes[i]; ln.Unsignalled() > 0 {
				d.write(ln)
				did = true
			}
		}
	}
	return did
}

// word is one to use again.
func (d *device) word() *word {
	n := len(d.words)
	if n == 0 {
		return &word{started: -1}
	}
	w := d.words[n-1]
	d.words = d.words[:n-1]
	*w = word{ops: w.ops[:0], behind: w.behind[:0], started: -1}
	return w
}

// launch gives a word that has its stream to a thread.
func (d *device) launch(t int, w *word, alone, lock int64) {
	d.order++
	w.order = d.order
	d.queues[w.stream] = append(d.queues[w.stream], w)
	d.flying++
	d.push(t, w.stream, &command{word: w, alone: alone, lock: lock})
}

// issue sends a word; false: there is no room for it now. With a part it does only that of its one op. level is its streams' urgency, 0
// the most urgent; writes: the stream writes the done words, not the launch.
func (d *device) issue(ops []*op, p *part, level int, writes bool, measured func(int64)) bool {
	at, waits := d.place(ops)
	t := d.home(at, waits)
	if !d.roomy(t) || d.leaves(t, at) {
		return false
	}
	d.spent += int64(d.chip.Word) + int64(d.chip.Op)*int64(len(ops))
	w := d.word()
	for m := waits; m != 0; m &= m - 1 {
		on := bits.TrailingZeros64(m)
		if q := d.queues[on]; len(q) > 0 {
			w.behind = append(w.behind, order{on, q[len(q)-1].order})
		}
		r := d.bound(on)
		if r < 0 {
			r = t
		}
		recorded := d.push(r, on, &command{alone: int64(d.chip.Order)})
		d.push(t, at, &command{alone: int64(d.chip.Order), after: recorded})
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
	w.level, w.measured, w.part, w.stream = level, measured, p, at
	d.streams[at].joined = d.streams[at].joined || len(ops) > 1
	calls := int64(d.chip.Call - d.chip.Launch)
	for _, o := range ops {
		if p == nil || p.first {
			d.begin(o, at, len(ops), p != nil)
		}
		if p != nil && p.last {
			o.Session.Finish(o.ln.Lane, true)
			o.Signal = true
		}
		if o.Signal && writes {
			calls += int64(d.chip.Write)
		}
		d.touch(o.c)
	}
	d.launch(t, w, calls, int64(d.chip.Launch))
	return true
}

// begin moves an op to issued on a stream; parts says that only a part of it is.
func (d *device) begin(o *op, at, width int, parts bool) {
	ln, to := o.ln, &d.streams[at]
	if ln.Stream != at {
		to.lanes++
		if ln.Stream != scoreboard.NoStream {
			from, n := &d.streams[ln.Stream], ln.InFlight()
			from.lanes--
			if from.ops -= n; from.ops == 0 {
				from.joined = false
			}
			to.ops += n
		}
	}
	to.ops++
	if parts {
		o.Session.Begin(&o.Op, at)
	} else {
		o.Session.Issue(&o.Op, at)
	}
	if ln.InFlight() == 1 {
		ln.Since = d.r.now
	}
	o.width = width
	ln.flying = append(ln.flying, o)
	d.r.leaves(o)
}

// place finds a word's stream, as the issue engine does, and the streams for which it must wait (a bit each): the one in which most of
// its lanes have ops in flight, unless it is an op by itself, lanes that went together are there, and some stream is idle; else one that
// holds least.
func (d *device) place(ops []*op) (at int, waits uint64) {
	first, count := d.pick.streams(ops[0])
	clear(d.lanes)
	at = -1
	for _, o := range ops {
		s := o.ln.Stream
		if s == scoreboard.NoStream {
			continue
		}
		waits |= 1 << s
		if s >= first && s < first+count {
			if d.lanes[s]++; at < 0 || d.lanes[s] > d.lanes[at] {
				at = s
			}
		}
	}
	if at < 0 || (len(ops) == 1 && d.streams[at].joined && d.streams[at].lanes > 1 && ops[0].ln.Part == nil) {
		if best := d.least(first, count); at < 0 || d.streams[best].lanes == 0 {
			at = best
		}
	}
	return at, waits &^ (1 << at)
}

// least is the stream of a range that holds the fewest lanes, then ops, then commands before its next one.
func (d *device) least(first, count int) int {
	best, behind := -1, 0
	for i := first; i < first+count; i++ {
		s, n := &d.streams[i], 0
		if t := d.bound(i); t >= 0 {
			n = len(d.threads[t].queue)
		}
		if s.lanes == 0 && s.ops == 0 && n == 0 {
			return i
		}
		if best >= 0 {
			if b := &d.streams[best]; s.lanes > b.lanes || (s.lanes == b.lanes && (s.ops > b.ops || (s.ops == b.ops && n >= behind))) {
				continue
			}
		}
		best, behind = i, n
	}
	return best
}
