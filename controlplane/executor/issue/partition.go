package issue

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// This file confines ops to a partition of the SMs. A partition has a level of its own behind the ordinary ones, with streams that the
// least urgent level gives up: a context never has more than MaxStreams. A session's kernels go there while Session.Partition says so; a
// lane moves there, and back, with its next kernel, whatever it has in flight, behind an event. What cannot be confined runs on the whole
// chip, in order with the rest:
//
//   - graphs, whose nodes are functions of the primary context (docs/results.md section 2, p12);
//   - kernels that a partition refuses and the chip takes, as those of large clusters: the first such launch goes to a stream of the
//     whole chip between two events, and the kernel is known from then on (scoreboard.Kernel.Whole).
//
// Copies, memsets and events stay where their lane is: a move costs more than it would win.

// Partitioner is a Driver that divides the SMs; *gpu.Device is one.
type Partitioner interface {
	// PartitionUnit says how many SMs there are, and of how many a partition is a multiple.
	PartitionUnit() (sms, unit int, err error)
	// NewPartition makes one of at least so many SMs; it may wait for all that runs.
	NewPartition(sms int) (gpu.Partition, error)
	PartitionStream(p gpu.Partition, priority int) (gpu.Stream, error)
}

// MaxPartitions is how many partitions have streams at a time, partitionStreams how many each has.
const (
	MaxPartitions    = 3
	partitionStreams = 4
)

// PartitionStreams is how many streams a partition gets now, 0 when there are too few. No slot of it is in use.
func (e *Engine) PartitionStreams() int {
	return min(partitionStreams, (len(e.levels[e.ordinary-1])-1)/2)
}

// StreamsIn is how many streams partition slot has.
func (e *Engine) StreamsIn(slot int) int { return len(e.levels[e.ordinary+slot]) }

// Confine gives partition slot (0 to MaxPartitions-1), which has no streams, those of fresh, of the driver's partition, in exchange for
// as many of the least urgent level's; Release those of fresh, of the whole chip, in exchange for all of a partition's. Both take over
// the streams. What is issued on a stream before goes before what is issued on it later. false: there is no room now, nothing was
// changed.
func (e *Engine) Confine(slot int, fresh []gpu.Stream) bool {
	least := &e.levels[e.ordinary-1]
	at := len(*least) - len(fresh)
	if at < 1 || !e.exchange((*least)[at:], fresh, e.ordinary+slot) {
		return false
	}
	e.levels[e.ordinary+slot] = append([]int(nil), (*least)[at:]...)
	*least = (*least)[:at:at]
	return true
}

// Release is Confine's opposite.
func (e *Engine) Release(slot int, fresh []gpu.Stream) bool {
	own := e.levels[e.ordinary+slot]
	if len(own) != len(fresh) || !e.exchange(own, fresh, e.ordinary-1) {
		return false
	}
	e.levels[e.ordinary-1] = append(e.levels[e.ordinary-1], own...)
	e.levels[e.ordinary+slot] = nil
	return true
}

// Discard ends a stream that was made for Confine and is not wanted.
func (e *Engine) Discard(fresh gpu.Stream) { e.driver.StreamDestroy(fresh) }

// Least is the priority of the streams that Confine and Release exchange.
func (e *Engine) Least() int { return e.least }

func (e *Engine) exchange(streams []int, fresh []gpu.Stream, level int) bool {
	for _, t := range e.threads {
		if t.q.room() < len(streams)+2*MaxStreams+2 { // a word's orders still have theirs
			return false
		}
	}
	for k, i := range streams {
		on := &e.streams[i]
		t := e.bound(on)
		if t == nil {
			t = e.pick()
		}
		c := t.q.next()
		c.kind, c.stream, c.fresh, c.confine = cmdExchange, int32(i), fresh[k], level >= e.ordinary
		e.push(t, on)
		on.Level = level
		on.extra++
	}
	return true
}

// exchange has what is issued on a stream from now on go to another one of the driver's, behind what was issued before: it shares the
// counters of joined launches.
func (t *thread) exchange(on *Stream, fresh gpu.Stream, confine bool) {
	e := t.engine
	t.must(e.driver.EventRecord(t.event, on.Handle))
	t.must(e.driver.StreamWaitEvent(fresh, t.event))
	if e.fault.Load() != 0 {
		return
	}
	e.handles.Lock()
	old := on.Handle
	on.Handle, on.confined = fresh, confine
	e.handles.Unlock()
	t.must(e.driver.StreamDestroy(old)) // it ends by itself when its work is done
}

// Use calls f with the handle of stream i, which stays valid meanwhile. Any thread may call it.
func (e *Engine) Use(i int, f func(gpu.Stream) gpu.Result) gpu.Result {
	e.handles.RLock()
	defer e.handles.RUnlock()
	return f(e.streams[i].Handle)
}

// LevelFor is the level of the streams that an op belongs to: its session's partition's, or else as LevelOf has it.
func (e *Engine) LevelFor(op *scoreboard.Op) int {
	s := op.Session
	if op.InPart() && len(e.levels[e.ordinary+s.Partition-1]) > 0 {
		return e.ordinary + s.Partition - 1
	}
	return e.LevelOf(s, s.Lane(op.Lane).Priority)
}

// misplaced says whether an op must leave its lane's stream although the lane has ops in flight there: it is confined and the stream is
// not, or the other way round, or to another partition.
func (e *Engine) misplaced(op *scoreboard.Op, stream, level int) bool {
	on := e.streams[stream].Level
	return on != level && max(on, level) >= e.ordinary && (op.Kind == shm.KindLaunch || op.Kind == shm.KindGraph)
}

// start makes the call that starts an op, elsewhere when a partition refuses it.
func (t *thread) start(on gpu.Stream, op *scoreboard.Op) gpu.Result {
	d := t.engine.driver
	r := issueOp(d, on, op)
	if r == gpu.Success || r.Sticky() || !t.confined || op.Kind != shm.KindLaunch {
		return r
	}
	if r = t.elsewhere(on, func(s gpu.Stream) gpu.Result { return issueOp(d, s, op) }); r == gpu.Success {
		op.Kernel.Whole.Store(true)
	}
	return r
}

// elsewhere makes a call with a stream of the whole chip, behind what came before on a partition's and before what follows there.
func (t *thread) elsewhere(on gpu.Stream, call func(gpu.Stream) gpu.Result) gpu.Result {
	d, whole := t.engine.driver, t.engine.whole
	t.must(d.EventRecord(t.event, on))
	t.must(d.StreamWaitEvent(whole, t.event))
	r := call(whole)
	if r == gpu.Success {
		t.must(d.EventRecord(t.event, whole))
		t.must(d.StreamWaitEvent(on, t.event))
	}
	return r
}
