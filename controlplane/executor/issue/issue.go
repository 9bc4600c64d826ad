// Package issue hands words to the driver: streams, the order between them, and the threads that make the calls.
//
// The poller places a word on a stream and pushes commands. A stream stays with a thread while one of its commands is in that thread's
// queue, so they stay in order; when all were executed the next one may go to any thread (home.go), and its calls come behind theirs,
// because the poller saw done before it pushed. Order between streams is an event recorded at the tail of one and waited for by the
// other; the waiting thread first waits until the recording command was executed: that names a thread and a number there, whatever
// becomes of the stream. Of all commands not executed, the one that was pushed first is the first in its queue, and what it waits for was
// pushed earlier, so was executed: the threads cannot wait for one another in a circle. No stream ever waits for a word that a client
// writes.
package issue

import (
	"cmp"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// Driver is what issuing needs of a GPU; *gpu.Device is one.
type Driver interface {
	Bind() error
	Launch(*gpu.Launch) gpu.Result
	scoreboard.GraphLauncher
	Memset(s gpu.Stream, dst, pitch, width, height uint64, element, value uint32) gpu.Result
	Copy(s gpu.Stream, dst, src, bytes uint64) gpu.Result
	CopyToDevice(s gpu.Stream, dst, host, bytes uint64) gpu.Result
	CopyToHost(s gpu.Stream, host, src, bytes uint64) gpu.Result
	Copy3D(s gpu.Stream, c *gpu.Copy3D) gpu.Result
	WriteValue32(s gpu.Stream, address uint64, value uint32) gpu.Result
	StreamCreate(priority int) (gpu.Stream, error)
	StreamDestroy(s gpu.Stream) gpu.Result
	StreamQuery(s gpu.Stream) gpu.Result
	StreamWaitEvent(s gpu.Stream, e gpu.Event) gpu.Result
	EventCreate(timed bool) (gpu.Event, gpu.Result)
	EventDestroy(e gpu.Event) gpu.Result
	EventRecord(e gpu.Event, s gpu.Stream) gpu.Result
	EventQuery(e gpu.Event) gpu.Result
	EventElapsed(start, end gpu.Event) (float32, gpu.Result)
	SetFuncAttribute(f gpu.Function, attribute, value int) gpu.Result
	// GraphSetKernel replaces the launch of a node in later launches of an executable graph.
	GraphSetKernel(x gpu.GraphExec, n gpu.GraphNode, l *gpu.Launch) gpu.Result
	// Zeroed is device memory that holds zeros and lives as long as the context.
	Zeroed(bytes uint64) (address uint64, err error)
	// HostAlloc is memory of this process that the device sees at the same address; it lives as long as the context.
	HostAlloc(bytes uint64) (address uint64, r gpu.Result)
}

// Bounds.
const (
	// MaxStreams is how many hardware connections a context has (CUDA_DEVICE_MAX_CONNECTIONS); more streams would share them, and
	// urgent work would queue behind other work.
	MaxStreams = 32
	// MaxThreads is the most issue threads; the driver's locks let few more than four help.
	MaxThreads = 16
	// streamDepth bounds what a stream holds: the driver blocks the caller at about 1,024 pending launches. What others wait for there may
	// exceed it by forWaits; done words have no bound but the lanes, because nothing else shows that the stream has come further.
	streamDepth, forWaits = 900, 32
	orderEvents           = 512
	// samples is how many words can be measured at a time; measureEvery is the time between two questions for one's result, ns.
	samples      = 16
	measureEvery = 50_000
)

// Options of New.
type Options struct {
	Threads int // issue threads, at least 1
	// Spill is how many commands a thread has before what may go to any thread goes to another one, up to MaxSpill; 0: DefaultSpill.
	Spill   int
	Streams int // at most MaxStreams; 0: MaxStreams
	// Least and Greatest are the context's stream priorities (greatest is the smaller number).
	Least, Greatest int
	// Spin is how long an idle thread spins before it sleeps.
	Spin time.Duration
	// Nice is what RaisePriority gets for the threads.
	Nice int
	// Manual: no threads are started; Execute does what they would. For those who play time themselves.
	Manual bool
}

// Stream is one executor stream. Its counters belong to the poller.
type Stream struct {
	Handle gpu.Stream
	Level  int
	// Ops is how many ops are in flight on it, Lanes how many lanes have some.
	Ops, Lanes int
	// Since is Engine.Now when the stream last completed an op, or got its first.
	Since int64

	confined bool    // Handle is a partition's; the threads' (partition.go)
	tail     uint64  // what was put on it last and takes long enough to matter (scoreboard.Op.Key); 0: nothing
	fill     float64 // of the tail: the part of the chip's places that it takes
	extra    int     // other commands since it was last empty
	joined   bool    // a word with ops of several lanes was put on it since then
	thread   int     // that got its last command
	last     uint64  // which number that has there
	leaves   uint64  // before that number was executed there it gets no more words
	counters uint64  // device address
}

// orderEvent is an event for order between streams. It is free when command number of thread is executed.
type orderEvent struct {
	event  gpu.Event
	thread int
	number uint64
}

// Engine owns streams, threads and events. Unless said otherwise, methods are for the poller's thread.
type Engine struct {
	driver   Driver
	threads  []*thread
	spill    int
	streams  []Stream
	levels   [][]int // stream indices of each level, most urgent level first; behind the ordinary ones those of the partitions
	ordinary int
	whole    gpu.Stream   // one of the least urgent level that never moves to a partition
	handles  sync.RWMutex // Stream.Handle, for threads other than issue threads
	least    int
	great    int
	events   []orderEvent
	at       int
	marks    marks
	samples  [samples]word.Sample
	// sampling are the samples under way, a bit each.
	sampling uint32

	fault    atomic.Int32
	stopping atomic.Bool
	attend   atomic.Int64 // ns
	done     sync.WaitGroup

	// Words, Signals and Orders count what was pushed.
	Words, Signals, Orders uint64
	// Now is the poller's clock, for Stream.Since.
	Now int64
	// Direct lets the poller make the calls of a command itself when no thread has anything left to do: one client that waits for what it
	// launched then pays for no hand-over to another thread. The poller must have called Bind.
	Direct  bool
	command command // the one that is executed directly
	// Directly counts commands that the poller executed itself.
	Directly uint64
	// Full are streams (a bit each) that had no room for a word, or for what waits for it. They have room when all that they hold is known
	// done: whoever is told so asks for the done words of lanes there, and stores 0.
	Full uint32
}

// Bind makes the calling thread, the poller's, fit for direct calls.
func (e *Engine) Bind() error { return e.driver.Bind() }

// direct returns a cell to fill and execute at once, or nil when a thread must do it. While all queues are empty nothing of the stream is
// in one, no thread is in a call that the poller's would wait for, and only the poller could give them work.
func (e *Engine) direct() *command {
	if !e.Direct || !e.Idle() {
		return nil
	}
	return &e.command
}

// executeNow makes the calls of a cell that direct returned.
func (e *Engine) executeNow(c *command) {
	e.Directly++
	if e.fault.Load() == 0 {
		e.threads[0].execute(c)
	}
	c.word = word.Word{}
}

// New makes streams and starts the threads. The calling thread must be bound to the driver.
func New(d Driver, o Options) (*Engine, error) {
	if o.Streams <= 0 || o.Streams > MaxStreams {
		o.Streams = MaxStreams
	}
	if o.Threads < 1 || o.Threads > MaxThreads || o.Greatest > o.Least {
		return nil, fmt.Errorf("issue: %d threads, priorities %d to %d; expected 1 to %d threads, and greatest ≤ least", o.Threads, o.Greatest, o.Least, MaxThreads)
	}
	if o.Spill < 0 || o.Spill > MaxSpill {
		return nil, fmt.Errorf("issue: spill %d; expected 1 to %d, or 0 for %d", o.Spill, MaxSpill, DefaultSpill)
	}
	e := &Engine{driver: d, least: o.Least, great: o.Greatest, spill: cmp.Or(o.Spill, DefaultSpill)}
	for lvl, n := range spread(o.Streams, o.Least-o.Greatest+1) {
		var ids []int
		for range n {
			h, err := d.StreamCreate(o.Greatest + lvl)
			if err != nil {
				e.destroy()
				return nil, err
			}
			ids = append(ids, len(e.streams))
			e.streams = append(e.streams, Stream{Handle: h, Level: lvl})
		}
		e.levels = append(e.levels, ids)
	}
	least := e.levels[len(e.levels)-1]
	e.ordinary, e.whole = len(e.levels), e.streams[least[0]].Handle
	e.levels = append(e.levels, make([][]int, MaxPartitions)...)
	for range orderEvents {
		ev, r := d.EventCreate(false)
		if r != gpu.Success {
			e.destroy()
			return nil, fmt.Errorf("issue: event for order between streams: %w", r)
		}
		e.events = append(e.events, orderEvent{event: ev})
	}
	for i := range e.samples {
		e.samples[i].Sessions = make([]*scoreboard.Session, 0, word.MaxSlots)
		for _, at := range []*gpu.Event{&e.samples[i].Start, &e.samples[i].End} {
			ev, r := d.EventCreate(true)
			if r != gpu.Success {
				e.destroy()
				return nil, fmt.Errorf("issue: event for measuring words: %w", r)
			}
			*at = ev
		}
	}
	counters, err := d.Zeroed(uint64(len(e.streams) * word.StreamCounters))
	if err != nil {
		e.destroy()
		return nil, fmt.Errorf("issue: counters of coalesced launches: %w", err)
	}
	for i := range e.streams {
		e.streams[i].counters = counters + uint64(i*word.StreamCounters)
	}
	if err := e.marks.make(d); err != nil {
		e.destroy()
		return nil, err
	}
	ready := make(chan error, o.Threads)
	for i := range o.Threads {
		ev, r := d.EventCreate(false)
		if r != gpu.Success {
			e.destroy()
			return nil, fmt.Errorf("issue: event for order between streams: %w", r)
		}
		t := &thread{engine: e, index: i, spin: o.Spin, nice: o.Nice, event: ev}
		e.threads = append(e.threads, t)
	}
	if o.Manual {
		return e, nil
	}
	for _, t := range e.threads {
		e.done.Add(1)
		go t.run(ready)
	}
	for range e.threads {
		if err := <-ready; err != nil {
			e.Stop()
			return nil, err
		}
	}
	return e, nil
}

// spread divides n streams over the levels: half for the least urgent one, where nearly all client streams are, the rest evenly.
// Levels beyond the number of streams share the last one's.
func spread(n, levels int) []int {
	if levels > n {
		levels = n
	}
	out := make([]int, levels)
	rest := n
	for i := range levels - 1 {
		out[i] = max(1, n/2/(levels-1))
		rest -= out[i]
	}
	out[levels-1] = rest
	return out
}

// Levels is how many levels of urgency there are.
func (e *Engine) Levels() int { return e.ordinary }

// Level maps a client's stream priority to a level, 0 the most urgent. Values beyond the context's range are clamped, as the
// driver does.
func (e *Engine) Level(priority int32) int {
	return min(max(int(priority), e.great)-e.great, e.ordinary-1)
}

// LevelOf is the level of a session's streams of a priority: in the range of its class.
func (e *Engine) LevelOf(s *scoreboard.Session, priority int32) int {
	level := e.Level(priority)
	if n := s.Levels.Count; n > 0 {
		return s.Levels.First + level*n/e.ordinary
	}
	return level
}

// StreamsOf is how many streams a range of levels has.
func (e *Engine) StreamsOf(in scoreboard.Levels) (n int) {
	for _, streams := range e.levels[in.First : in.First+in.Count] {
		n += len(streams)
	}
	return n
}

// Streams is how many streams there are; Stream is one of them.
func (e *Engine) Streams() int { return len(e.streams) }

// Stream is stream i. Its handle is for issue threads; others call Use.
func (e *Engine) Stream(i int) *Stream { return &e.streams[i] }

// Threads is how many issue threads there are.
func (e *Engine) Threads() int { return len(e.threads) }

// Busy is how long thread i has been executing commands. Any thread may ask.
func (e *Engine) Busy(i int) time.Duration { return time.Duration(e.threads[i].busy.Load()) }

// Calls is how long all threads have been executing commands, ns. Any thread may ask.
func (e *Engine) Calls() (ns int64) {
	for _, t := range e.threads {
		ns += t.busy.Load()
	}
	return ns
}

// Attend has the first thread, which gets what may go to any (home.go), stay awake for so long after its last command, if that is longer
// than Options.Spin: commands are expected. It does not wake one that sleeps.
func (e *Engine) Attend(d time.Duration) {
	if e.attend.Load() != int64(d) {
		e.attend.Store(int64(d))
	}
}

// Fault is the sticky result that some call returned, Success when none has. After a fault no further driver call is made. Any
// thread may ask.
func (e *Engine) Fault() gpu.Result { return gpu.Result(e.fault.Load()) }

// SetFault stops all issuing. The first fault wins. Any thread may call it.
func (e *Engine) SetFault(r gpu.Result) { e.fault.CompareAndSwap(0, int32(r)) }

// Idle reports that every command was executed.
func (e *Engine) Idle() bool {
	for _, t := range e.threads {
		if t.backlog() != 0 {
			return false
		}
	}
	return true
}

// Pending is how many commands were pushed and not executed yet.
func (e *Engine) Pending() int {
	n := 0
	for _, t := range e.threads {
		n += t.backlog()
	}
	return n
}

// Mark is a point in all queues; Passed tells when everything pushed before it was executed.
type Mark [MaxThreads]uint64

// Mark returns the current point. Passed may be asked by any thread.
func (e *Engine) Mark() (m Mark) {
	for i, t := range e.threads {
		m[i] = t.q.tail.Load()
	}
	return m
}

// Passed reports that every command before m was executed.
func (e *Engine) Passed(m Mark) bool {
	for i, t := range e.threads {
		if t.q.done.Load() < m[i] {
			return false
		}
	}
	return true
}

// idle is a stream of a level that holds nothing, or else of another level of the class's range: a class's clients need not share
// streams because they all use one priority. -1: none.
func (e *Engine) idle(lvl int, in scoreboard.Levels) int {
	free := func(lvl int) int {
		for _, i := range e.levels[lvl] {
			if s := &e.streams[i]; s.Lanes == 0 && s.Ops == 0 {
				return i
			}
		}
		return -1
	}
	i := free(lvl)
	for at := in.First + in.Count - 1; i < 0 && at >= in.First; at-- {
		i = free(at)
	}
	return i
}

// leastLoaded returns the stream of a level with the fewest lanes, then ops, then the least work before its next command. A class that
// has some of the levels to itself uses its others before its clients share a stream.
func (e *Engine) leastLoaded(lvl int, in scoreboard.Levels) int {
	if in.Count > 0 {
		if i := e.idle(lvl, in); i >= 0 {
			return i
		}
	}
	best, bestBehind := -1, 0
	for _, i := range e.levels[lvl] {
		s := &e.streams[i]
		behind := 0
		if t := e.bound(s); t != nil {
			behind = t.backlog()
		}
		if s.Lanes == 0 && s.Ops == 0 && behind == 0 {
			return i
		}
		if best >= 0 {
			b := &e.streams[best]
			if s.Lanes > b.Lanes || (s.Lanes == b.Lanes && (s.Ops > b.Ops || (s.Ops == b.Ops && behind >= bestBehind))) {
				continue
			}
		}
		best, bestBehind = i, behind
	}
	return best
}

// behindGraph is the stream that an op must wait for because an earlier launch of its graph is there: the driver orders launches of one
// executable graph, but not those of its parts, or of words that it is in.
func (e *Engine) behindGraph(op *scoreboard.Op) (waits uint32) {
	if op.Kind != shm.KindGraph {
		return 0
	}
	if d := op.Graph.Last(); d.Value != 0 {
		if l := op.Session.Outstanding(d); l != nil {
			waits = 1 << uint(l.Stream)
		}
	}
	return waits
}

// place chooses the stream of an op and the streams it must wait for (a bit each).
func (e *Engine) place(op *scoreboard.Op) (stream int, waits uint32) {
	s := op.Session
	lane := s.Lane(op.Lane)
	for _, d := range op.Deps() {
		if l := s.Outstanding(d); l != nil {
			waits |= 1 << uint(l.Stream)
		}
	}
	waits |= e.behindGraph(op)
	stream = lane.Stream
	lvl, in := e.LevelFor(op), s.Levels
	if lvl >= e.ordinary {
		in = scoreboard.Levels{}
	}
	switch {
	case stream == scoreboard.NoStream:
		// One dependency: going behind it on its own stream costs nothing. Not when another lane did so already: independent
		// lanes that wait for the same op shall run side by side.
		if bits.OnesCount32(waits) == 1 {
			if on := bits.TrailingZeros32(waits); e.streams[on].Level == lvl && e.streams[on].Lanes <= 1 {
				stream = on
			}
		}
		if stream == scoreboard.NoStream {
			stream = e.leastLoaded(lvl, in)
		}
	case e.misplaced(op, stream, lvl):
		waits |= 1 << uint(stream)
		stream = e.leastLoaded(lvl, in)
	case e.streams[stream].joined && e.streams[stream].Lanes > 1:
		// The lane came here in company, and goes on alone: not between other lanes' ops, which it may take longer than, or which
		// may wait for it.
		if free := e.leastLoaded(lvl, in); e.streams[free].Lanes == 0 {
			waits |= 1 << uint(stream)
			stream = free
		}
	}
	return stream, waits &^ (1 << uint(stream))
}

// placeTogether chooses the stream of ops that go together: where most of their lanes are, so that lanes which went together before go
// on without any wait; it waits for the streams of the others and of all dependencies.
func (e *Engine) placeTogether(ops []*scoreboard.Op) (stream int, waits uint32) {
	var lanes [MaxStreams]uint8
	lvl, in := len(e.levels)-1, ops[0].Session.Levels
	for _, op := range ops {
		s := op.Session
		lane := s.Lane(op.Lane)
		lvl = min(lvl, e.LevelFor(op)) // together they are no more confined than each is
		if lane.Stream != scoreboard.NoStream {
			waits |= 1 << uint(lane.Stream)
			lanes[lane.Stream]++
		}
		for _, d := range op.Deps() {
			if l := s.Outstanding(d); l != nil {
				waits |= 1 << uint(l.Stream)
			}
		}
		waits |= e.behindGraph(op)
	}
	stream = scoreboard.NoStream
	most := uint8(0)
	for m := waits; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros32(m); lanes[i] > most && e.streams[i].Level == lvl {
			stream, most = i, lanes[i]
		}
	}
	if stream == scoreboard.NoStream {
		if lvl >= e.ordinary {
			in = scoreboard.Levels{}
		}
		stream = e.leastLoaded(lvl, in)
	}
	return stream, waits &^ (1 << uint(stream))
}

// Issue places a word and pushes it, and moves its ops to issued. false: there is no room now, nothing was changed.
func (e *Engine) Issue(w *word.Word) bool {
	var stream int
	var waits uint32
	part := w.Sliced()
	switch {
	case part:
		stream, waits = e.place(w.Batch.Ops[0])
	case w.Batch != nil || w.Team != nil:
		stream, waits = e.placeTogether(w.Ops())
	default:
		stream, waits = e.place(w.Ops()[0]) // what else a chain's ops depend on is done
	}
	count := w.Len()
	on := &e.streams[stream]
	n := bits.OnesCount32(waits)
	t := e.home(stream, waits)
	const need = 1 + queueLength - queueUse // the same for all: who waits for many streams would never find more
	more := 2 * count
	if w.Batch != nil || w.Team != nil {
		more = 2
	}
	if on.depth()+n+more > streamDepth {
		e.Full |= 1 << uint(stream)
		return false
	}
	if t.q.room() < need || e.leaves(t, on) {
		return false
	}
	if n > 0 && !e.order(t, stream, waits, n) {
		return false
	}
	for _, o := range w.Ops() {
		lane := o.Session.Lane(o.Lane)
		if lane.Stream != stream {
			on.Lanes++
			if lane.Stream != scoreboard.NoStream {
				// What the lane has in flight elsewhere comes before the wait: whoever waits for this stream waits for that too.
				from, flying := &e.streams[lane.Stream], lane.InFlight()
				from.Lanes--
				from.leave(flying)
				on.Ops += flying
			}
		}
		o.Joined = (w.Batch != nil || w.Team != nil) && count > 1
		if part {
			o.Session.Begin(o, stream)
		} else {
			o.Session.Issue(o, stream)
		}
		if on.Ops == 0 {
			on.Since = e.Now
		}
		on.Ops++
		if o.Signal && w.Team == nil && (w.Batch == nil || (!part && word.Outside(o))) {
			on.extra++
			e.Signals++
		}
	}
	e.hand(t, w, stream, n == 0)
	return true
}

// hand gives a word that has its place to a thread; direct: the poller may make its calls.
func (e *Engine) hand(t *thread, w *word.Word, stream int, direct bool) {
	on := &e.streams[stream]
	count := w.Len()
	if w.Measure {
		e.measure(w, stream)
	}
	on.follow(w)
	e.Words++
	on.joined = on.joined || w.Team != nil
	if b := w.Batch; b != nil {
		on.joined = on.joined || count > 1
		if b.Counters = on.counters; b.Small() {
			b.Fill()
		}
		if w.Sliced() {
			on.extra++
			e.Signals++
		}
	}
	if c := e.direct(); c != nil && direct {
		c.kind, c.stream, c.word = cmdWord, int32(stream), *w
		if w.Batch != nil {
			w.Batch.Passed = nil
		} else if w.Chain != nil {
			w.Chain.Passed = nil
		} else if w.Team != nil {
			w.Team.Passed = nil
		}
		e.executeNow(c)
		return
	}
	c := t.q.next()
	c.kind, c.stream, c.word = cmdWord, int32(stream), *w
	number := t.q.tail.Load() + 1
	for _, o := range w.Ops() {
		o.Passed, o.Number = &t.q.done, number
	}
	if w.Batch != nil {
		w.Batch.Passed, w.Batch.Number = &t.q.done, number
	} else if w.Chain != nil {
		w.Chain.Passed, w.Chain.Number = &t.q.done, number
	} else if w.Team != nil {
		w.Team.Passed, w.Team.Number = &t.q.done, number
	}
	if slow(w) {
		t.slow = number
	}
	e.push(t, on)
}

// measure gives a word a sample when one is free. The interval of a word on a busy stream is its own time; on an idle one the
// launch counts too, as it does for whoever waits.
func (e *Engine) measure(w *word.Word, stream int) {
	if e.streams[stream].Level >= e.ordinary {
		return // what it takes there says nothing of what it takes
	}
	if i := bits.TrailingZeros32(^e.sampling); i < len(e.samples) {
		s := &e.samples[i]
		s.Shape, s.Count, s.Blocks, s.Nanoseconds, s.Asked = w.Shape, w.Len(), 0, 0, e.Now
		if w.Sliced() {
			s.Blocks = w.Batch.Slice.Blocks
		}
		if s.Graph, s.Parts = nil, nil; w.Shape != nil {
			s.Shape.Samples++
			for _, o := range w.Ops() {
				s.Sessions = append(s.Sessions, o.Session)
			}
		} else {
			s.Graph = w.Ops()[0].Graph
			if w.Sliced() {
				s.Parts, s.Part = w.Batch.Parts, w.Batch.Slice.From
			}
		}
		e.company(s, w, stream)
		s.Busy = e.streams[stream].Ops > w.Len()
		s.State.Store(sampleIssued)
		w.Sample = s
		e.sampling |= 1 << i
	}
}

// States of a sample.
const (
	sampleIssued   = iota // both events will be recorded
	sampleRecorded        // they were
	sampleAsked           // a thread asks for the time
	sampleAnswered        // Nanoseconds is the answer
)

// Measured calls learn for each word of kernels whose time has become known, tells graphs theirs, and asks for others. It is cheap when
// nothing is measured.
func (e *Engine) Measured(learn func(*word.Sample)) {
	for m := e.sampling; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		s := &e.samples[i]
		switch s.State.Load() {
		case sampleRecorded:
			t := e.pick()
			if e.Now-s.Asked < measureEvery || t.q.room() <= queueLength-queueUse {
				continue
			}
			s.Asked = e.Now
			s.State.Store(sampleAsked)
			c := t.q.next()
			c.kind, c.word = cmdMeasure, word.Word{Sample: s}
			t.push()
		case sampleAnswered:
			s.Beside.Ended(e.busy())
			switch {
			case s.Parts != nil:
				s.Graph.TookPart(s.Parts, s.Part, s.Nanoseconds, s.Beside.Any())
			case s.Graph != nil:
				s.Graph.Took(s.Nanoseconds, s.Beside.Any())
			default:
				if s.Blocks > 0 {
					s.Nanoseconds = int64(float64(s.Nanoseconds) * float64(s.Shape.Blocks) / float64(s.Blocks))
				}
				learn(s)
				s.Shape.Samples--
			}
			clear(s.Sessions)
			s.Shape, s.Graph, s.Parts, s.Sessions = nil, nil, nil, s.Sessions[:0]
			e.sampling &^= 1 << i
		}
	}
}

// order pushes event records on the streams of waits, and for t the waits for them on stream. false: no room.
func (e *Engine) order(t *thread, stream int, waits uint32, n int) bool {
	for i := range n {
		if ev := &e.events[(e.at+i)%len(e.events)]; ev.number > 0 && e.threads[ev.thread].q.done.Load() < ev.number {
			return false
		}
	}
	for m := waits; m != 0; m &= m - 1 {
		on := &e.streams[bits.TrailingZeros32(m)]
		if on.depth() >= streamDepth+forWaits {
			e.Full |= m & -m
			return false
		}
		if r := cmp.Or(e.bound(on), t); r.q.room() < 2*n+2 {
			return false
		}
	}
	for m := waits; m != 0; m &= m - 1 {
		on := bits.TrailingZeros32(m)
		ev := &e.events[e.at]
		e.at = (e.at + 1) % len(e.events)

		r := cmp.Or(e.bound(&e.streams[on]), t)
		c := r.q.next()
		c.kind, c.stream, c.event = cmdRecord, int32(on), ev.event
		number := e.push(r, &e.streams[on])
		e.streams[on].extra++

		c = t.q.next()
		c.kind, c.stream, c.event, c.thread, c.number = cmdWait, int32(stream), ev.event, int32(r.index), number
		ev.thread, ev.number = t.index, e.push(t, &e.streams[stream])
		e.streams[stream].extra++
		e.Orders++
	}
	return true
}

// Signal asks the GPU to write lane.done behind everything of the lane that is issued. false: no room now.
func (e *Engine) Signal(s *scoreboard.Session, l *scoreboard.Lane) bool {
	if l.Unsignalled() == 0 {
		l.Want = false
		return true
	}
	l.Want = true
	return e.signal(s, l)
}

// SignalAgain has lane.done written once more, after the word was found to be forged.
func (e *Engine) SignalAgain(s *scoreboard.Session, l *scoreboard.Lane) bool {
	if l.Stream == scoreboard.NoStream {
		return true
	}
	if e.streams[l.Stream].depth() >= streamDepth+2*forWaits {
		return false // whoever forges done words again and again fills no stream
	}
	s.Mend(l)
	return e.signal(s, l)
}

func (e *Engine) signal(s *scoreboard.Session, l *scoreboard.Lane) bool {
	on := &e.streams[l.Stream]
	t := e.home(l.Stream, 0)
	if t.q.room() < 1 {
		return false
	}
	l.Signalled, l.Want = l.Whole, false
	on.extra++
	e.Signals++
	if c := e.direct(); c != nil {
		c.kind, c.stream, c.address, c.value = cmdSignal, int32(l.Stream), s.DoneAddress(l.Index), l.Whole
		e.executeNow(c)
		return true
	}
	c := t.q.next()
	c.kind, c.stream, c.address, c.value = cmdSignal, int32(l.Stream), s.DoneAddress(l.Index), l.Whole
	e.push(t, on)
	return true
}

// Elapsed answers e through reply: status, bits of the milliseconds as a 32-bit float, then state 2. false: no room now.
func (e *Engine) Elapsed(s *scoreboard.Session, el shm.Elapsed, reply *shm.ReplySlot) bool {
	t := e.pick()
	if t.q.room() <= queueLength-queueUse {
		return false
	}
	c := t.q.next()
	c.kind, c.session, c.elapsed, c.reply = cmdElapsed, s, el, reply
	t.push()
	return true
}

// Completed takes n ops off a stream; drained tells that their lane has none left there.
func (e *Engine) Completed(stream, n int, drained bool) {
	s := &e.streams[stream]
	s.Since = e.Now
	if drained {
		s.Lanes--
	}
	s.leave(n)
}

// depth is about how many commands the driver holds for the stream.
func (s *Stream) depth() int {
	if s.joined {
		return s.Ops/4 + s.extra // many of the ops share a launch
	}
	return s.Ops + s.extra
}

// leave takes n ops off the stream.
func (s *Stream) leave(n int) {
	if s.Ops -= n; s.Ops == 0 {
		s.extra, s.joined, s.tail = 0, false, 0
	}
}

// Stop ends the threads after the commands that are pushed. Streams and events go with the context.
func (e *Engine) Stop() {
	e.stopping.Store(true)
	for _, t := range e.threads {
		t.wake()
	}
	e.done.Wait()
	e.destroy()
}

// Abandon tells the threads to end and does not wait: a call of theirs may never return. The process is about to exit.
func (e *Engine) Abandon() {
	e.stopping.Store(true)
	e.SetFault(gpu.Unknown)
	for _, t := range e.threads {
		t.wake()
	}
}

func (e *Engine) destroy() {
	if e.Fault() != gpu.Success {
		return // every call on this context fails
	}
	for _, ev := range e.events {
		e.driver.EventDestroy(ev.event)
	}
	for _, t := range e.threads {
		e.driver.EventDestroy(t.event)
	}
	for i := range e.samples {
		for _, ev := range []gpu.Event{e.samples[i].Start, e.samples[i].End} {
			if ev != 0 {
				e.driver.EventDestroy(ev)
			}
		}
	}
	for _, s := range e.streams {
		e.driver.StreamDestroy(s.Handle)
	}
	e.events, e.streams = nil, nil
}
