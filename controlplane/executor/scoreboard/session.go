package scoreboard

import (
	"sync/atomic"

	"github.com/heddle-gpu/heddle/shm"
)

// NoStream is Lane.Stream of a lane that has nothing in flight.
const NoStream = -1

// Lane is one client stream in one session. All fields belong to the poller.
type Lane struct {
	Index uint32
	// Scanned, Issued, Signalled and Done are the lane's last number accepted, handed to an issue queue, covered by a GPU
	// write of lane.done that was queued, and known complete. Done ≤ Signalled ≤ Issued ≤ Scanned, cyclically.
	Scanned, Issued, Signalled, Done uint32
	// Stream is the executor stream that holds the lane's ops in flight.
	Stream int
	// Priority is what the client's stream was created with.
	Priority int32
	// Whole is Issued; while slices of op Issued are still to come, it is the number before that one, and Part is the op.
	Whole uint32
	Part  *Op
	// Queued: the lane's first waiting op is with the policy, or has to wait because there is a Part.
	Queued bool
	// Pace is how long an op of the lane takes, in ns, smoothed; Since is when the lane's oldest op in flight could begin.
	Pace, Since int64
	// Most is how many of its ops may be in flight, as found for Window; the zero value of both is: not found yet.
	Most   int
	Window Window
	// Work estimates how long what is in flight takes, Quiet the part of it behind the last done word that was asked for; ns of the
	// whole chip. The scheduler's.
	Work, Quiet int64
	// Slices is the part of Work of slices that are not their op's last. The scheduler's.
	Slices int64
	// Graphs: one or more graphs are in flight, the last of which is number Graph. The scheduler's.
	Graphs bool
	Graph  uint32
	// Unknown is the last kernel issued of which nobody knows that it waits for no other (Code.Forms: coalesce refuses those that do),
	// 0 when it is known done. Together: it, or one before it, is a graph that went in one word with others', or what is behind it did:
	// others are behind what may wait.
	Unknown  uint32
	Together bool
	// Want: somebody asked for lane.done and the command found no room yet.
	Want bool

	word       *shm.Lane
	storedWord uint32 // lane.issued as last stored
	first      *Op
	last       *Op
	busyAt     int // index+1 in Session.busy
}

// Window is what the bound of a lane's ops in flight depends on.
type Window struct {
	Pace         int64
	Alone, Joins bool // its session is the only one with work; its next op can be joined with others
}

// Completed learns the lane's pace from n ops that were seen complete at time now (ns).
func (l *Lane) Completed(n int, now int64) {
	pace := max(1, (now-l.Since)/int64(n)) // 0 is: not known
	if l.Pace > 0 {
		pace = (3*l.Pace + pace) / 4
	}
	l.Pace, l.Since = pace, now
}

// InFlight is how many ops of the lane are issued and not known done.
func (l *Lane) InFlight() int { return int(Count(l.Done, l.Issued)) }

// Unsignalled is how many wholly issued ops no queued GPU write covers.
func (l *Lane) Unsignalled() int { return int(Count(l.Signalled, l.Whole)) }

// Reached says whether number seq is known done.
func (l *Lane) Reached(seq uint32) bool { return shm.Reached(l.Done, seq) }

// First is the lane's oldest waiting op, nil when none.
func (l *Lane) First() *Op { return l.first }

// Last is the lane's newest waiting op, nil when none.
func (l *Lane) Last() *Op { return l.last }

// Session is the board of one session.
type Session struct {
	ID   uint64
	Slot int // index in the executor's table: the scheduler's key

	// Class is that of its client; nil: it has none. Levels are the levels of urgency of the issue engine that its streams are
	// spread over.
	Class  *Class
	Levels Levels
	// Partition is that of the SMs to which its kernels are confined now, from 1 on, 0 none (issue.Engine.Confine); Outside counts its ops
	// that ran on the whole chip nevertheless, by why.
	Partition int
	Outside   [OutsideReasons]uint64
	// Request is how long a request of its client usually takes, ns; 0: not known. The scheduler's.
	Request int64

	// Straggler is how its ops are served because of how long they take, Slow how many times as long as others' they are taken to
	// take, when it is served otherwise.
	Straggler Straggling
	Slow      float64
	// Quarter: limited, it has a quarter of the SMs as well.
	Quarter bool

	// Slowed is by what part its kernels take longer in the company of others than alone, smoothed over those measured. The gather's.
	Slowed float64
	// GraphsApart: its graphs are never joined with others' (a fault in company). ApartGraphs counts its launches of graphs that went by
	// themselves, by reason.
	GraphsApart bool
	ApartGraphs [ReasonCount]uint64
	// CoalescedNodes counts kernels of its graphs that were one launch with other clients'.
	CoalescedNodes uint64

	// Memory is what ops may address.
	Memory Ranges

	// LanesDevice is the device address of the lane words.
	LanesDevice uint64

	words    Words
	failed   atomic.Uint64
	events   *events
	lanes    []Lane
	kernels  []*Kernel          // by id
	distant  map[uint32]*Kernel // with ids from denseKernels on
	graphs   map[uint32]*Graph
	known    int
	cells    []Op
	order    []uint16 // index in cells of the ops that hold ring space, as a circle: op i's place is i modulo its length
	free     []uint16 // cells that hold none; the last one was used last, so a session walks over few cache lines
	opHead   uint64   // oldest op that holds ring space
	opTail   uint64
	deps     []shm.Dep
	depHead  uint64
	depTail  uint64
	busy     []uint32
	head     uint64 // ring position below which everything is done
	dropping bool
	together int // lanes that are Together
	unknown  int // lanes whose Unknown is not 0
	waiting  int
	inFlight int
	// OpsDone counts ops known complete, Dropped those that were given up.
	OpsDone, OpsDropped uint64
	// Launches counts kernels issued, Joined those of them in words of two or more, Slots the widths of those words, added up for
	// each of the kernels.
	Launches, Joined, Slots uint64
	// lastLane is where the last op was issued, switchedAt when that was last another one than before.
	lastLane   uint32
	switchedAt int64
	// LastElapsed is the body of the record for which Accept returned Elapsed, LastBegin and LastEnd of RequestBegin and RequestEnd.
	LastElapsed shm.Elapsed
	LastBegin   shm.RequestBegin
	LastEnd     shm.RequestEnd
}

// Words are what a session shares with its client; *shm.SessionFile has them.
type Words interface {
	Lane(i uint32) *shm.Lane
	// SetError makes the session's sticky error, unless it has one. Any thread may call it.
	SetError(code, reason uint32) bool
}

// New makes the board of a session whose lane words are words. Survey must follow before the first Accept unless the session has
// never been served.
func New(id uint64, words Words) *Session {
	// Tables begin at pages. Were those of all sessions alike, the lines that each uses most would fall into few places of a core's
	// cache and drive each other out: so those of sessions beside one another are some lines apart.
	apart := int(id % 16)
	s := &Session{
		ID: id, words: words, lanes: make([]Lane, apart+shm.Lanes)[apart:], distant: map[uint32]*Kernel{}, events: new(events),
		cells: make([]Op, OpsPerSession), order: make([]uint16, OpsPerSession), free: make([]uint16, OpsPerSession), deps: make([]shm.Dep, depsPerSession), busy: make([]uint32, 0, shm.Lanes),
	}
	for i := range s.free {
		s.free[i] = uint16((OpsPerSession - 1 - i + 5*apart) % OpsPerSession)
	}
	for i := range s.lanes {
		s.lanes[i] = Lane{Index: uint32(i), Stream: NoStream, word: words.Lane(uint32(i))}
	}
	return s
}

// denseKernels bounds the table of kernels by id. The daemon numbers a session's kernels from 1.
const denseKernels = 1 << 16

// AddKernel makes a kernel id valid for later records.
func (s *Session) AddKernel(k *Kernel) {
	if s.KernelByID(k.ID) == nil {
		s.known++
	}
	if k.ID >= denseKernels {
		s.distant[k.ID] = k
		return
	}
	for int(k.ID) >= len(s.kernels) {
		s.kernels = append(s.kernels, nil)
	}
	s.kernels[k.ID] = k
}

// KernelByID is nil for an unknown id.
func (s *Session) KernelByID(id uint32) *Kernel {
	if int(id) < len(s.kernels) {
		return s.kernels[id]
	}
	if id < denseKernels {
		return nil
	}
	return s.distant[id]
}

// Kernels is how many kernel ids are known.
func (s *Session) Kernels() int { return s.known }

// Lane is lane i; i is below the number of lanes.
func (s *Session) Lane(i uint32) *Lane { return &s.lanes[i] }

// Lanes is how many lanes there are.
func (s *Session) Lanes() int { return len(s.lanes) }

// Busy lists the lanes with waiting ops or ops in flight. The slice changes with every call that changes a lane's state: walk
// it from the end.
func (s *Session) Busy() []uint32 { return s.busy }

// Waiting and InFlight count ops.
func (s *Session) Waiting() int { return s.waiting }

// InFlight counts ops issued and not known done.
func (s *Session) InFlight() int { return s.inFlight }

// Head is the ring position below which everything is done.
func (s *Session) Head() uint64 { return s.head }

// Dropping reports whether Drop was called.
func (s *Session) Dropping() bool { return s.dropping }

// Action is what Accept asks the poller to do next.
type Action int

// Actions of Accept.
const (
	// Consumed: the record was taken; nothing else to do.
	Consumed Action = iota
	// SignalNow: the lane in the record has issued, unsignalled ops that somebody waits for.
	SignalNow
	// Elapsed: LastElapsed asks for a time.
	Elapsed
	// RequestBegin: the client says that a request begins (LastBegin): it has every op accepted from here to its end.
	RequestBegin
	// RequestEnd: the client says that the request (LastEnd) has no further op; it is over when those accepted so far are done. The
	// client may never have begun it.
	RequestEnd
	// Upcoming: the client is about to submit an op.
	Upcoming
)

// Room reports whether Accept can take any record now. Without room the record stays in the ring.
func (s *Session) Room() bool {
	return len(s.free) > 0 && s.depTail-s.depHead+2*shm.MaxDeps <= uint64(len(s.deps))
}

// Accept takes a record that the ring's consumer has checked; Room must hold. arrival numbers records of all sessions. steps
// measures the work done beyond a plain record, for the caller's budget. An error is a *shm.BadRecord: the session is to be
// dropped.
func (s *Session) Accept(v *shm.RecordView, arrival uint64) (a Action, steps int, err error) {
	lane := &s.lanes[v.Lane]
	switch v.Kind {
	case shm.KindElapsed:
		s.LastElapsed = v.Elapsed()
		s.extend(v.End)
		return Elapsed, 0, nil
	case shm.KindLaneOpen:
		lane.Priority = v.LaneOpen().Priority
		s.extend(v.End)
		return Consumed, 0, nil
	case shm.KindRequestBegin:
		s.LastBegin = v.RequestBegin()
		s.extend(v.End)
		return RequestBegin, 0, nil
	case shm.KindRequestEnd:
		s.LastEnd = v.RequestEnd()
		s.extend(v.End)
		return RequestEnd, 0, nil
	case shm.KindLaneRetire:
		s.extend(v.End)
		return Consumed, 0, nil
	case shm.KindUpcoming:
		s.extend(v.End)
		return Upcoming, 0, nil
	case shm.KindSignal:
		if !shm.Reached(lane.Scanned, v.Seq) {
			return Consumed, 0, &shm.BadRecord{Position: v.Pos, Reason: "signal for a number that was never submitted"}
		}
		s.extend(v.End)
		a, steps = s.signal(lane, v.Seq)
		return a, steps, nil
	}
	if v.Seq != after(lane.Scanned) {
		return Consumed, 0, &shm.BadRecord{Position: v.Pos, Reason: "number does not follow its lane's last"}
	}
	if s.dropping || shm.Reached(lane.Done, v.Seq) {
		// Given up, or done by a predecessor of this executor.
		lane.Scanned = v.Seq
		if s.dropping {
			s.OpsDropped++
			s.settle(lane)
		}
		s.extend(v.End)
		return Consumed, 0, nil
	}
	for _, d := range v.Deps() {
		if d.Lane&shm.DepReady == 0 && !shm.Reached(s.lanes[d.Lane].Scanned, d.Value) {
			return Consumed, 0, &shm.BadRecord{Position: v.Pos, Reason: "dependency on a number that was never submitted"}
		}
	}
	cell := s.free[len(s.free)-1]
	op := &s.cells[cell]
	op.Kernel, op.Dropped, op.Joined, op.Cuts, op.Instead, op.next, op.Passed = nil, false, false, false, false, nil, nil
	if why := s.body(op, v); why != "" {
		return Consumed, 0, &shm.BadRecord{Position: v.Pos, Reason: why}
	}
	deps := s.takeDeps(len(v.Deps()))
	copy(deps, v.Deps())
	op.Session, op.Kind, op.Lane, op.Seq, op.Ready, op.Arrival = s, v.Kind, v.Lane, v.Seq, v.Ready, arrival
	op.ReadyAt, op.Latest, op.Deadline, op.Cost, op.Held, op.Harm, op.Ordered, op.Hurts, op.Avoided = 0, 0, 0, 0, 0, 0, false, false, false
	op.Signal = v.WantSignal()
	op.deps, op.depsAt, op.depEnd, op.end = deps, 0, s.depTail, v.End
	s.order[s.opTail%OpsPerSession] = cell
	s.free = s.free[:len(s.free)-1]
	s.opTail++
	s.push(op, lane)
	return Consumed, 0, nil
}

// push puts an op behind the waiting ones of its lane.
func (s *Session) push(op *Op, l *Lane) {
	l.Scanned = op.Seq
	if l.last == nil {
		l.first = op
	} else {
		l.last.next = op
	}
	l.last = op
	s.waiting++
	s.setBusy(l)
}

// at is op number i of those that hold ring space, counted since the session began.
func (s *Session) at(i uint64) *Op { return &s.cells[s.order[i%OpsPerSession]] }

// takeDeps reserves n contiguous dependency cells; Room has said that they exist.
func (s *Session) takeDeps(n int) []shm.Dep {
	if n == 0 {
		return nil
	}
	size := uint64(len(s.deps))
	if over := s.depTail % size; over+uint64(n) > size {
		s.depTail += size - over
	}
	i := s.depTail % size
	s.depTail += uint64(n)
	return s.deps[i : i+uint64(n)]
}

// extend gives the space up to end to the newest op, or frees it when there is none.
func (s *Session) extend(end uint64) {
	if s.opHead == s.opTail {
		s.head = end
		return
	}
	s.at(s.opTail - 1).end = end
}

func (s *Session) setBusy(l *Lane) {
	if l.busyAt == 0 {
		s.busy = append(s.busy, l.Index)
		l.busyAt = len(s.busy)
	}
}

func (s *Session) clearBusy(l *Lane) {
	if l.busyAt == 0 || l.first != nil || l.Issued != l.Done {
		return
	}
	i := l.busyAt - 1
	moved := s.busy[len(s.busy)-1]
	s.busy[i] = moved
	s.lanes[moved].busyAt = i + 1
	s.busy = s.busy[:len(s.busy)-1]
	l.busyAt = 0
}

// signal makes sure that lane.done reaches seq as soon as it is true.
func (s *Session) signal(l *Lane, seq uint32) (Action, int) {
	switch {
	case shm.Reached(l.Done, seq), shm.Reached(l.Signalled, seq):
		return Consumed, 0
	case shm.Reached(l.Whole, seq):
		return SignalNow, 0
	case l.Part != nil && l.Part.Seq == seq:
		l.Part.Signal = true
		return Consumed, 0
	case l.last != nil && l.last.Seq == seq:
		l.last.Signal = true
		return Consumed, 0
	}
	steps := 0
	for op := l.first; op != nil; op = op.next {
		steps++
		if shm.Reached(op.Seq, seq) {
			op.Signal = true
			break
		}
	}
	return Consumed, steps
}

// Ready returns the lane's first waiting op when it may be issued now, and nil otherwise. It is cheap to ask again.
func (s *Session) Ready(l *Lane) *Op {
	op := l.first
	if op == nil || (op.Ready != 0 && !shm.Reached(atomic.LoadUint32(&l.word.Ready), op.Ready)) {
		return nil
	}
	for op.depsAt < len(op.deps) {
		d := op.deps[op.depsAt]
		on := &s.lanes[d.Lane&^shm.DepReady]
		if d.Lane&shm.DepReady != 0 {
			if !shm.Reached(atomic.LoadUint32(&on.word.Ready), d.Value) {
				return nil
			}
		} else if !shm.Reached(on.Whole, d.Value) {
			return nil
		}
		op.depsAt++
	}
	return op
}

// MayWait reports whether a kernel in flight may wait for one of the session's other lanes, and the ready op be what it waits for, or be
// behind it: the op's lane has such a kernel, and the session has used several lanes of late; or others' lanes are behind such a kernel, or
// graph, of another of its lanes, or about to be, because what is behind it went with theirs before this lane was known. Whatever is joined
// with the op would wait too.
func (s *Session) MayWait(op *Op) bool {
	const lately = int64(1e9)
	l, elsewhere := &s.lanes[op.Lane], s.together
	if l.Together {
		elsewhere--
	}
	if elsewhere > 0 || l.Unknown != 0 && (len(s.busy) > 1 || (s.switchedAt > 0 && op.ReadyAt-s.switchedAt < lately)) {
		return true
	}
	for n := 0; n < len(s.busy) && s.unknown > 0; n++ {
		i := s.busy[n]
		if o := &s.lanes[i]; i != op.Lane && o.Unknown != 0 && o.Queued && o.first != nil && o.first.shape != nil {
			return true // it is held behind such a kernel for others to come along
		}
	}
	return false
}

// Beside reports whether another lane of the session has a launch ready, which may be what the op's kernels wait for.
func (s *Session) Beside(op *Op) bool {
	for _, i := range s.busy {
		if l := &s.lanes[i]; i != op.Lane && l.Queued && l.first != nil && (l.first.Kind == shm.KindLaunch || l.first.Kind == shm.KindGraph) {
			return true
		}
	}
	return false
}

// Outstanding reports the lane on which d is issued but not known done, nil when d needs no ordering on the GPU any more.
func (s *Session) Outstanding(d shm.Dep) *Lane {
	if d.Lane&shm.DepReady != 0 {
		return nil
	}
	l := &s.lanes[d.Lane]
	if shm.Reached(l.Done, d.Value) {
		return nil
	}
	return l
}

// Issue moves a ready op from waiting to issued on stream, and stores lane.issued. It must be called before the driver can see
// the op. The op's Signal field is then final.
func (s *Session) Issue(op *Op, stream int) {
	l := &s.lanes[op.Lane]
	l.first = op.next
	if l.first == nil {
		l.last = nil
	}
	op.next = nil
	l.Issued, l.Whole = op.Seq, op.Seq
	if op.Joined && !l.Together && (op.Kind == shm.KindGraph || l.Unknown != 0) {
		l.Together = true
		s.together++
	}
	if op.Kind == shm.KindGraph || op.Kind == shm.KindLaunch && (op.Kernel.Code == nil || op.Kernel.Code.Forms.Load() == nil) {
		if l.Unknown == 0 {
			s.unknown++
		}
		l.Unknown = op.Seq
	}
	if op.Kind == shm.KindGraph {
		op.Graph.last = shm.Dep{Lane: op.Lane, Value: op.Seq}
	}
	if op.Lane != s.lastLane {
		s.lastLane, s.switchedAt = op.Lane, op.ReadyAt
	}
	l.Stream = stream
	l.Queued = false
	s.waiting--
	s.inFlight++
	if op.Signal {
		l.Signalled = op.Seq
	}
	if shm.Reached(op.Seq, l.storedWord) {
		l.storedWord = op.Seq
		shm.StoreRelease32(&l.word.Issued, op.Seq) // a process that is killed has made its stores
	}
}

// Poll looks at lane.done and returns how many more ops are complete. ok is false when the word holds a number that no GPU
// write can have put there: somebody else wrote it.
func (s *Session) Poll(l *Lane) (completed int, ok bool) {
	if l.Signalled == l.Done {
		return 0, true
	}
	v := atomic.LoadUint32(&l.word.Done)
	if v == l.Done || !shm.Reached(v, l.Done) {
		return 0, true // nothing new; a word that went back is the client's own doing and the next GPU write mends it
	}
	if v == 0 || !shm.Reached(l.Signalled, v) {
		return 0, false
	}
	n := int(Count(l.Done, v))
	l.Done = v
	s.inFlight -= n
	s.OpsDone += uint64(n)
	if l.Unknown != 0 && shm.Reached(v, l.Unknown) {
		l.Unknown = 0
		s.unknown--
		if l.Together {
			l.Together = false
			s.together--
		}
	}
	if l.Issued == l.Done {
		l.Stream = NoStream
		if s.dropping {
			s.settle(l)
		}
	}
	s.clearBusy(l)
	return n, true
}

// Seen reports whether the client can have seen number seq of a lane done. Unlike Lane.Done it is not checked.
func (s *Session) Seen(lane, seq uint32) bool {
	l := &s.lanes[lane]
	return shm.Reached(l.Done, seq) || shm.Reached(atomic.LoadUint32(&l.word.Done), seq)
}

// Running gives the launches, of graphs too, that are issued and not known done, in ring order.
func (s *Session) Running() (ops []*Op) {
	for i := s.opHead; i != s.opTail; i++ {
		op := s.at(i)
		l := &s.lanes[op.Lane]
		if (op.Kind == shm.KindLaunch || op.Kind == shm.KindGraph) && !op.Dropped && shm.Reached(l.Issued, op.Seq) && !shm.Reached(l.Done, op.Seq) {
			ops = append(ops, op)
		}
	}
	return ops
}

// Mend stores what is known of lane.done into the word; a GPU write must follow.
func (s *Session) Mend(l *Lane) { atomic.StoreUint32(&l.word.Done, l.Done) }

// Release advances the head over ops that are done, in ring order, and reports whether it moved.
func (s *Session) Release() bool {
	moved := false
	for s.opHead != s.opTail {
		op := s.at(s.opHead)
		if !op.Dropped && !shm.Reached(s.lanes[op.Lane].Done, op.Seq) {
			break
		}
		if op.Passed != nil && op.Passed.Load() < op.Number {
			break // its thread has not read it yet: the done word was forged
		}
		s.head, s.depHead = op.end, op.depEnd
		op.Kernel, op.Session = nil, nil
		s.free = append(s.free, s.order[s.opHead%OpsPerSession])
		s.opHead++
		moved = true
	}
	if s.opHead == s.opTail {
		s.depHead = s.depTail
	}
	return moved
}

// Drop gives up every op that is not issued, now and in later records; lane.done advances to the last number of each lane as
// soon as the lane has nothing in flight. The caller sees to it that what is in flight gets signalled.
func (s *Session) Drop() {
	s.dropping = true
	for i := range s.lanes {
		l := &s.lanes[i]
		for op := l.first; op != nil; op = op.next {
			op.Dropped = true
			s.waiting--
			s.OpsDropped++
		}
		l.first, l.last, l.Queued = nil, nil, false
		s.settle(l)
		s.clearBusy(l)
	}
}

// settle advances done over dropped ops when the GPU will not write the word any more.
func (s *Session) settle(l *Lane) {
	if l.Issued != l.Done || shm.Reached(l.Done, l.Scanned) {
		return
	}
	l.Issued, l.Whole, l.Signalled, l.Done = l.Scanned, l.Scanned, l.Scanned, l.Scanned
	atomic.StoreUint32(&l.word.Done, l.Done)
	s.clearBusy(l)
}
