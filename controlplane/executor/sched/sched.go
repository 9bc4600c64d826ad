// Package sched decides which ready op goes next, how long it may wait for company, and how much may be in flight. It knows classes
// of clients, requests and time; it knows no ring, no driver and no clock of its own, so a simulator drives it as the poller does:
//
//	Attach ─► Arrive (an op was submitted) ─► Ready ─► Add ─► Next ─► Issued ─► Completed
//	             Wait, Mark (requests' ends)    └─► or the gather, which asks Place and Before
//
// Order: a class that is below its min_share (share.go), else the class of the largest priority; within it the op that must start
// first for its request to meet its objective (its deadline less what the request usually still takes: least slack). But a request
// that is much longer than another under way waits for it while it has slack (Op.Yields): that costs it little, and spares the short
// one much. Ops without an objective have a deadline far off, later for clients that had more of the GPU: they share it evenly, and
// still get their turn beside those with one.
//
// In flight: of work below a class with an objective or a max_wait only so much that its next op finds the chip soon; of a class
// with an objective so much that an op which arrives later, and is more urgent, still goes before most. A long op goes alone; not
// while a request above it has little slack left, or longer than max_wait while one is under way. While such a request has a graph in
// flight nothing begins: each of the graph's kernels would wait.
//
// A Scheduler belongs to one thread. Nothing on the path of an op allocates.
// Source: design.md section 7, docs/policy.md.
package sched

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/request"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds, ns.
const (
	// Far is the deadline of ops without an objective, from when they are ready.
	Far = int64(1e9)
	// Starving is how long a class with ready ops gets nothing before it has a turn whatever its priority.
	Starving = int64(1e9)
	// DefaultWait stands for max_wait of a class that has an objective and no max_wait.
	DefaultWait = int64(200e3)
	// Short is how long an op of a lower class may be that begins while a request has little slack left: less than a part LittleSlack
	// of its objective.
	Short       = int64(20e3)
	LittleSlack = 4
	// SpareSlack is the part of its objective that a long request keeps as slack when it yields to shorter ones.
	SpareSlack = 8
	// HostBound is the part of its time in which a request has work on the chip below which the chip is not what it takes long for.
	HostBound = 0.5
	// HurrySlack is the part of the objective below which slack counts as little for ops that slow the request while they run: what they
	// cost it is seen only when it has happened.
	HurrySlack = 2
	// Together is how much of classes of one priority, of which one has an objective, is in flight while several of their clients have
	// requests: more than hides the launches.
	Together = int64(300e3)
	// Unknown is the cost of an op of which nothing is known.
	Unknown = int64(10e3)
	// activeFor is how long a class counts as active after its last op arrived or ended.
	activeFor = int64(100e6)
	// midRequest is how long after its last op arrived or ended a class with a request under way is about to submit more of it.
	midRequest = int64(5e6)
	// betweenOps is how long after its last op arrived or ended a client with a request under way counts as about to submit the next one.
	betweenOps = int64(100e3)
	// leastNotice bounds how often done words are asked for: one costs a stream some 2 µs.
	leastNotice = int64(20e3)
	// stuckFor is after how many times what is in flight takes ops that wait for one another are suspected.
	stuckFor = 4
	// anyLength is Class.Longest without a bound.
	anyLength = int64(1) << 60
)

// Settings are what a class promises, from CLASS (docs/policy.md); times in ns.
type Settings struct {
	Latency    int64 // objective for a request; 0: none
	QueueDelay int64 // how long an op may be held for company
	MaxWait    int64 // how long less urgent work may keep it from the chip; 0: no bound
	MaxQueue   int   // ops of a client that may wait; 0: no bound
	MinShare   float64
	Partition  float64 // the part of the SMs that its kernels may use while a more urgent class is active; 0: all
	Priority   int32
	Straggler  float64 // how many times as long as they should ops of a client may take before it is served apart; 0: any
	OwnContext bool    // such a client may be sent to its own context
	Coalesce   bool
	DelayLate  bool // requests that missed their deadline go behind those that can meet theirs
}

// longest bounds what a daemon may say, so that no sum overflows: 24 days.
const longest = int64(1) << 51

// FromWire reads a CLASS body.
func FromWire(c shm.Class) Settings {
	clamp := func(ns uint64) int64 { return int64(min(ns, uint64(longest))) }
	return Settings{
		Latency: clamp(c.Latency), QueueDelay: clamp(c.MaxQueueDelay), MaxWait: clamp(c.MaxWait), MaxQueue: int(min(c.MaxQueueSize, 1<<20)),
		MinShare: min(float64(c.MinSharePpm)/1e6, 1), Priority: c.Priority, Partition: min(float64(c.PartitionPpm)/1e6, 1),
		Straggler: float64(c.StragglerPercent) / 100, OwnContext: c.Flags&shm.ClassFlagOwnContext != 0,
		Coalesce: c.Flags&shm.ClassFlagCoalesce != 0, DelayLate: c.Flags&shm.ClassFlagDelayLate != 0,
	}
}

// Class is a class that has or had clients.
type Class struct {
	scoreboard.Class // what ops and gather see
	Settings
	Name    string
	Clients int
	Stats   Stats
	// Confined: its kernels run on a partition of the SMs now (confine.go). For its owner, who changes it.
	Confined bool

	heap     []*scoreboard.Op
	open     int   // requests under way
	latest   int64 // the least Latest of theirs
	brief    span  // the shortest of them
	long     int64 // how long the longest of them usually takes, ns
	recent   int   // clients that had some of late
	bound    bool  // the chip is what one of them takes most of its time for, or may be
	queued   int   // ready ops, here or in the gather
	busy     int   // clients that have some
	inFlight int64 // estimated, ns of the whole chip
	flying   int   // ops in flight
	graphs   int   // lanes with graphs in flight
	lacking  int   // clients whose request under way is expected to launch a graph, and has not
	expected int64 // when the first of these does
	back     int64 // until when a client that launched one is expected back with the next
	shares
	virtual int64 // GPU time that each of its busy clients had
	active  int64 // when an op of it last arrived or ended
	served  int64 // when an op of it last ended, or it last had none
	relent  int64 // when an op last went because it was Old
	waited  [WaitReasons]int64
	notice  int64 // Tight's answer
	budget  int64 // how much of it and of those below it may be in flight because of a class above; 0: any
	stretch stretch
}

// Client is one client as the scheduler sees it.
type Client struct {
	class *Class
	board *scoreboard.Session
	model *request.Model // nil until its class has an objective

	queued int
	flying int
	active int64 // when an op of it last arrived or ended
	graphs int   // lanes with graphs in flight
	work   int64 // estimated ns in flight
	mean   int64 // cost of an op, smoothed
	tag    int64 // the GPU time that it had, on class.virtual's scale

	since int64   // when it last began to have ops in flight
	chip  int64   // how long it had some in the request under way, ns
	part  float64 // which part of a request it has some, smoothed over requests; 0: not known

	long      bool // Long's answer
	open      bool
	bare      bool // by Expect, and no op of the request came yet
	marked    bool // by the client: waits do not end the request
	begun     int64
	deadline  int64  // 0: no objective
	latest    int64  // Latest of its last op
	objective int64  // in force when it began
	billed    *Class // that it began in
	cadence   cadence
	waiting   bool   // for number waitSeq of waitLane
	waitLane  uint32 // the request ends with it
	waitSeq   uint32
	endAt     uint64 // ring position below which everything must be done for the end of a marked request
	ending    bool
}

// Class is the client's class.
func (c *Client) Class() *Class { return c.class }

// Queued is how many of its ops are ready and not issued.
func (c *Client) Queued() int { return c.queued }

// Request says when the request under way began; ok is false between requests.
func (c *Client) Request() (begun int64, ok bool) { return c.begun, c.open }

// Scheduler holds the ready ops that wait for no company, and the books of all.
type Scheduler struct {
	byName  map[string]*Class
	classes []*Class // with clients, the largest priority first
	clients []*Client
	n       int
	now     int64
	// patient is until when a graph that was issued may last without anything being stuck: its cost is the part of the chip that it takes,
	// not its time.
	patient int64
	// forced ends every bound on what is in flight until the next Begin.
	forced bool
	// Uneven: some class goes before others of its priority, because it is owed its share or had nothing for long.
	Uneven bool
	// Relevel: who is Long has changed. For its owner, who clears it.
	Relevel bool
	// alone is since when the class that presses has had the chip to itself; 0: nobody presses, or others' ops are still in flight.
	alone int64
}

// New makes a scheduler without classes.
func New() *Scheduler { return &Scheduler{byName: map[string]*Class{}} }

// Set makes a class, or changes its settings for all its clients from now on.
func (s *Scheduler) Set(name string, t Settings) *Class {
	k := s.byName[name]
	if k == nil {
		s.forget()
		k = &Class{Name: name}
		h := fnv.New64a()
		h.Write([]byte("class " + name))
		k.Key = h.Sum64() | 1
		s.byName[name] = k
	}
	k.Settings = t
	k.Class.Priority, k.Hold, k.Apart = t.Priority, t.QueueDelay, !t.Coalesce
	s.sort()
	return k
}

// maxClasses bounds how many classes are remembered: policies are reloaded with ever new names.
const maxClasses = 2048

// forget makes room for one more class.
func (s *Scheduler) forget() {
	if len(s.byName) < maxClasses {
		return
	}
	for name, k := range s.byName {
		if k.Clients == 0 {
			delete(s.byName, name)
			return
		}
	}
}

// Classes are those that have clients now or had some, by name; read-only.
func (s *Scheduler) Classes() []*Class {
	var all []*Class
	for _, k := range s.byName {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b *Class) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// sort finds who has clients, and in which order.
func (s *Scheduler) sort() {
	s.classes = s.classes[:0]
	for _, k := range s.byName {
		k.Place = 0
		if k.Clients > 0 {
			s.classes = append(s.classes, k)
		}
	}
	slices.SortFunc(s.classes, func(a, b *Class) int {
		if n := cmp.Compare(b.Settings.Priority, a.Settings.Priority); n != 0 {
			return n
		}
		return cmp.Compare(a.Name, b.Name)
	})
	s.divide()
	s.arrange(s.now, 0)
}

// Priorities are the distinct priorities of classes with clients, largest first: levels of urgency for the streams of each.
func (s *Scheduler) Priorities() []int32 {
	var out []int32
	for _, k := range s.classes {
		if n := len(out); n == 0 || out[n-1] != k.Settings.Priority {
			out = append(out, k.Settings.Priority)
		}
	}
	return out
}

// Attach makes a client of a class. Its board's Slot is its place.
func (s *Scheduler) Attach(b *scoreboard.Session, k *Class) *Client {
	for len(s.clients) <= b.Slot {
		s.clients = append(s.clients, nil)
	}
	c := &Client{class: k, board: b, mean: Unknown, tag: k.virtual}
	s.clients[b.Slot] = c
	s.enter(c, k)
	return c
}

func (s *Scheduler) enter(c *Client, k *Class) {
	c.class, c.board.Class, c.tag = k, &k.Class, k.virtual
	k.Clients++
	k.inFlight += c.work
	k.flying += c.flying
	k.graphs += c.graphs
	if c.open {
		k.open++
	}
	if c.cadence.lacks {
		k.expects(c)
	}
	s.model(c)
	s.sort()
}

// model gives a client a model when its class has an objective.
func (s *Scheduler) model(c *Client) {
	if c.model == nil && c.class.Latency > 0 {
		c.model = request.New()
	}
}

func (s *Scheduler) exit(c *Client) {
	k := c.class
	k.Clients--
	k.inFlight -= c.work
	k.flying -= c.flying
	k.graphs -= c.graphs
	if c.open {
		k.open--
	}
	if c.cadence.lacks {
		k.lacking--
	}
}

// Move puts a client into another class. Its ready ops must have been dropped, and are to be made ready again.
func (s *Scheduler) Move(c *Client, k *Class) {
	if c.class == k {
		s.model(c)
		return
	}
	s.exit(c)
	s.enter(c, k)
}

// Detach forgets a client and its ready ops.
func (s *Scheduler) Detach(c *Client) {
	s.Drop(c)
	s.exit(c)
	s.clients[c.board.Slot] = nil
	s.sort()
}

// Drop forgets every ready op of a client; those that the gather has it must drop too.
func (s *Scheduler) Drop(c *Client) {
	k := c.class
	kept := k.heap[:0]
	for _, op := range k.heap {
		if op.Session == c.board {
			s.n--
		} else {
			kept = append(kept, op)
		}
	}
	clear(k.heap[len(kept):])
	k.heap = kept
	for i := len(kept)/2 - 1; i >= 0; i-- {
		down(kept, i)
	}
	k.queued -= c.queued
	if c.queued > 0 {
		k.busy--
	}
	c.queued = 0
}

// Len is how many ops wait for Next.
func (s *Scheduler) Len() int { return s.n }

// Ready ranks an op that may be issued from now on. The caller hands it to Add or to a gather, once.
func (s *Scheduler) Ready(op *scoreboard.Op, now int64) {
	c := s.clients[op.Session.Slot]
	k := c.class
	if op.ReadyAt = now; op.Deadline == 0 || (k.DelayLate && now > op.Deadline) {
		start := max(k.virtual, c.tag)
		c.tag = start + c.mean
		// Its own stream's priority counts among those without an objective only: the others have their slack.
		far := Far >> min(max(-op.Session.Lane(op.Lane).Priority, 0), 5)
		op.Latest = now + far + min(start-k.virtual, Far)
	}
	if c.queued == 0 {
		k.busy++
	}
	c.queued++
	if k.queued++; k.queued == 1 {
		if k.flying == 0 {
			k.served = now
		}
		if s.chooses() && !s.forced {
			s.arrange(now, 0)
		}
	}
}

// Add takes a ready op, again when it was given back by Next and found no room.
func (s *Scheduler) Add(op *scoreboard.Op) {
	k := s.clients[op.Session.Slot].class
	k.heap = append(k.heap, op)
	up(k.heap, len(k.heap)-1)
	s.n++
}

// Peek is the op that goes next, nil when none may.
func (s *Scheduler) Peek() *scoreboard.Op {
	if k, i := s.first(); k != nil {
		return k.heap[i]
	}
	return nil
}

// Next takes the op that goes next, nil when none may.
func (s *Scheduler) Next() *scoreboard.Op {
	k, i := s.first()
	if k == nil {
		return nil
	}
	op := k.heap[i]
	n := len(k.heap) - 1
	k.heap[i] = k.heap[n]
	k.heap[n] = nil
	if k.heap = k.heap[:n]; i < n {
		up(k.heap, i)
		down(k.heap, i)
	}
	s.n--
	return op
}

// first is the class whose op goes next, and the op's place in its heap; nil when none may.
func (s *Scheduler) first() (best *Class, at int) {
	for _, k := range s.classes {
		i := k.first()
		if i < 0 {
			continue
		}
		if best == nil || k.Place < best.Place || (k.Place == best.Place && k.heap[i].Before(best.heap[at])) {
			best, at = k, i
		}
	}
	return best, at
}

// behind is how many places of a heap are looked at for an op that may go when the first may not, behindLong the same when that yields to
// a shorter request: it may be one of a client with many streams, and those that it yields to must be found.
const behind, behindLong = 15, 255

// first is the place in the heap of the op that goes first, -1 when none may. Ops that wait because of whom they would slow let others
// pass; behind one that is too long for now all wait, or ever shorter ones would keep it waiting.
func (k *Class) first() int {
	if len(k.heap) == 0 {
		return -1
	}
	o := k.heap[0]
	if o.Place() < scoreboard.Blocked {
		return 0
	}
	if k.Beside == 0 && (k.Place >= scoreboard.Blocked || o.Cost > k.Longest) {
		return -1
	}
	look := behind
	if o.Yields() {
		look = behindLong
	}
	at := -1
	for i, o := range k.heap[1:min(len(k.heap), look)] {
		if o.Place() < scoreboard.Blocked && (at < 0 || o.Before(k.heap[at])) {
			at = i + 1
		}
	}
	return at
}

func up(h []*scoreboard.Op, i int) {
	for i > 0 {
		p := (i - 1) / 2
		if !h[i].Before(h[p]) {
			return
		}
		h[i], h[p] = h[p], h[i]
		i = p
	}
}

func down(h []*scoreboard.Op, i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].Before(h[c]) {
			c++
		}
		if !h[c].Before(h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

// Begin starts a pass at a time. stuck is how long nothing has completed, when that is long enough for ops that wait for one
// another to be suspected, else 0: then what is in flight has no bound, unless it is known to take that long.
func (s *Scheduler) Begin(now, stuck int64) {
	s.forced, s.now = stuck > 0, now
	if s.chooses() {
		s.arrange(now, stuck)
	}
}

// chooses says whether places can differ from one moment to the next: not with a single class that has no objective.
func (s *Scheduler) chooses() bool {
	return len(s.classes) > 1 || (len(s.classes) == 1 && s.classes[0].Latency > 0)
}

// bounds are what more urgent classes leave to those below them.
type bounds struct {
	room    int64  // ns that may still be put in flight
	longest int64  // an op's length
	slice   int64  // from which length on an op goes in slices; 0: none does
	notice  int64  // how much may be in flight without a done word behind it; 0: any
	budget  int64  // how much may be in flight; 0: any
	hungry  bool   // some class above has ready ops
	above   uint64 // the key of the class above that is active, of several the one whose request hurries, else the most urgent
	hurry   bool   // a request of it has little slack left
	still   bool   // nothing begins: a class above has a graph in flight
}

// arrange gives every class its place.
func (s *Scheduler) arrange(now, stuck int64) {
	var below int64 // how long what the group at hand and all below it have in flight takes to leave the chip
	for _, k := range s.classes {
		below += k.leaving()
	}
	pressed := s.press(now)
	s.Uneven = false
	b := bounds{room: longest, longest: anyLength}
	for at, place := 0, int32(1); at < len(s.classes); place++ {
		end := at
		for end < len(s.classes) && s.classes[end].Settings.Priority == s.classes[at].Settings.Priority {
			end++
		}
		group := s.classes[at:end]
		var own, leaving int64
		objective, clients, recent, flying, queued := false, 0, 0, 0, 0
		brief, long := int64(0), int64(0)
		for _, k := range group {
			own += k.inFlight
			leaving += k.leaving()
			clients += k.busy
			recent += k.recent
			if long = max(long, k.long); k.Latency > 0 && k.brief.at(now) {
				brief = least(brief, k.brief.took)
			}
			flying += k.flying
			queued += k.queued
			objective = objective || (k.Latency > 0 && k.isActive(now))
		}
		free := stuck > stuckFor*below && now > s.patient
		if long < scoreboard.Longer*brief {
			brief = 0
		}
		several := objective && max(clients, recent) > 1
		for _, k := range group {
			k.Now, k.Brief, k.Spare = now, brief, now+k.Latency/SpareSlack
			k.Place, k.Longest, k.Slice, k.notice, k.budget = place, anyLength, b.slice, b.notice, b.budget
			k.Above, k.Hurry, k.Beside = b.above, false, 0
			if several {
				k.notice = least(k.notice, Together/4)
			}
			if k.queued == 0 {
				continue
			}
			if brief > 0 && k.long >= scoreboard.Longer*brief { // some of its ops yield
				k.note(WaitSlack, now)
			}
			due := k.deficit > 0 || now-k.served > Starving
			switch {
			case free:
				k.Brief = 0
			case pressed != nil && !k.pressed && k.Settings.Priority >= pressed.Settings.Priority:
				k.Place = scoreboard.Blocked
				k.note(WaitShare, now)
			case b.room <= 0 && !(k.pressed && k.deficit > 0):
				k.Place, k.Beside = scoreboard.Blocked, k.beside(&b, place)
				k.note(WaitWindow, now)
				if b.hungry {
					k.note(WaitPriority, now)
				}
			case several && flying > 1 && own >= Together:
				k.Place = scoreboard.Blocked
				k.note(WaitWindow, now)
				k.note(WaitSlack, now)
			case k.pressed:
				k.Place, k.Brief, s.Uneven = -1, 0, true
			case due:
				k.Place, k.Brief, s.Uneven = 0, 0, true
			default:
				if k.Longest = b.longest; k.Longest < anyLength {
					k.note(WaitWindow, now)
					k.note(WaitCompany, now)
				}
				k.Hurry, k.Beside = b.hurry, k.beside(&b, place)
				// Those of its ops that slow nobody keep the class served; those that wait because of whom they slow have their turn, too.
				if k.Old = 0; now-k.relent > Starving {
					k.Old = now - Starving
				}
			}
		}
		below -= leaving
		for _, k := range group {
			b.guard(k, below, now)
		}
		b.hungry = b.hungry || queued > 0
		at = end
	}
}

// guard adds what a class demands of those below it, which have so much in flight.
func (b *bounds) guard(k *Class, below, now int64) {
	if (k.Latency == 0 && k.MaxWait == 0) || !k.isActive(now) {
		return
	}
	budget, strict := DefaultWait, false
	under, back := k.open > 0 && now-k.active < midRequest, now < k.back
	hurry := under && k.bound && k.Latency > 0 && k.latest-now < k.Latency/HurrySlack
	switch {
	case k.MaxWait > 0:
		budget, strict = k.MaxWait, under || back
	case under && k.bound && k.latest-now < k.Latency/LittleSlack:
		budget, strict = Short, true
	}
	if b.above == 0 || (hurry && !b.hurry) {
		b.above, b.hurry = k.Key, hurry
	}
	if strict {
		b.longest = min(b.longest, budget)
	}
	b.slice, b.budget = least(b.slice, budget), least(b.budget, budget)
	room := budget - below
	switch {
	case strict && (k.graphs > 0 || k.MaxWait > 0 && back):
		b.still = true
		room = 0 // each of the graph's kernels would wait for what begins now, not the request once
	case under && k.MaxWait > 0 && k.lacking > 0 && now < k.expected+k.MaxWait:
		until := max(k.expected-now, 0) // then it must have left
		room = min(room, until-below)
		b.longest = min(b.longest, until)
	case below == 0:
		room = max(room, 1) // a long op goes alone, but it goes
	}
	b.room, b.notice = min(b.room, room), least(b.notice, max(budget/4, leastNotice))
}

func (k *Class) isActive(now int64) bool {
	return k.flying > 0 || k.queued > 0 || now-k.active < activeFor
}

func (k *Class) note(why WaitReason, now int64) { k.waited[why] = now + 1 }

// Tight is how much of the chip's time an op's lane may have in flight without a done word behind it, ns, because somebody counts
// on knowing soon; 0: no bound.
func (s *Scheduler) Tight(op *scoreboard.Op) int64 {
	k := s.clients[op.Session.Slot].class
	return k.notice
}

// least is the smaller of two bounds, of which 0 is none.
func least(a, b int64) int64 {
	if a == 0 || b < a {
		return b
	}
	return a
}

// Issued keeps the books of an op that was issued. cost is its estimated time, ns of the whole chip; signalled: a done word follows
// it; width is how many ops its word held.
func (s *Scheduler) Issued(op *scoreboard.Op, cost int64, signalled bool, width int, now int64) {
	c := s.clients[op.Session.Slot]
	k := c.class
	l := op.Session.Lane(op.Lane)
	cost = c.take(l, cost, now)
	if c.queued--; c.queued == 0 {
		k.busy--
	}
	k.queued--
	c.flies(now)
	if signalled {
		l.Quiet = 0
		s.watch(k, l, op.Seq, cost, now)
	}
	if op.Kind == shm.KindGraph {
		c.found()
		if op.Graph != nil {
			c.cadence.graph = op.Graph
			s.patient = max(s.patient, now+stuckFor*op.Graph.Lasts())
		}
		if l.Graph = op.Seq; !l.Graphs {
			l.Graphs = true
			c.graphs++
			k.graphs++
		}
	}
	c.mean += (cost - c.mean) / 8

	st := &k.Stats
	st.Ops++
	if width > 1 {
		st.Coalesced++
	}
	waited := now - op.ReadyAt
	st.Queue.Add(waited)
	if op.Held > 0 {
		st.Stagger.Add(op.Held)
	}
	if waited > 0 {
		st.Waits[k.why(op)]++
	}
	k.relents(op, now)
	s.spread(k, cost, now)
}

// relents notes that an op went which would still wait, were it not Old: the next one of its class waits on.
func (k *Class) relents(op *scoreboard.Op, now int64) {
	if op.ReadyAt >= k.Old {
		return
	}
	old := k.Old
	if k.Old = 0; op.Intrudes() {
		k.relent = now
	} else {
		k.Old = old
	}
}

// flies notes that an op was issued, lands that n ended.
func (c *Client) flies(now int64) {
	if c.flying == 0 {
		c.since = now
	}
	c.flying++
	c.class.flying++
}

func (c *Client) lands(n int, now int64) {
	c.class.flying -= n
	if c.flying -= n; c.flying == 0 {
		c.chip += now - c.since
	}
}

// take puts work into the books of a client, its class and a lane, and gives its bounded cost.
func (c *Client) take(l *scoreboard.Lane, cost, now int64) int64 {
	cost = min(max(cost, 1), longest/(1<<12))
	k := c.class
	k.virtual += cost / int64(max(1, k.busy))
	k.inFlight += cost
	k.Stats.GPU += uint64(cost)
	c.work += cost
	l.Work += cost
	l.Quiet += cost
	return cost
}

// spread has what a class took change what all may take.
func (s *Scheduler) spread(k *Class, cost, now int64) {
	if len(s.classes) > 1 {
		s.charge(k, cost, now)
	}
	if s.chooses() && !s.forced {
		s.arrange(now, 0)
	}
}

// Completed takes n ops of a lane off the books; left of it are still in flight. done is the lane's number, head the ring position
// below which everything is done: a request may end with them.
func (s *Scheduler) Completed(c *Client, l *scoreboard.Lane, n int, now int64) {
	k := c.class
	work, left := l.Work-l.Slices, l.InFlight()
	if l.Part != nil {
		left-- // SliceDone takes what it has in flight
	}
	if left > 0 {
		work = int64(float64(work) * float64(n) / float64(n+left))
	}
	l.Work -= work
	l.Quiet = min(l.Quiet, l.Work)
	c.work -= work
	k.inFlight -= work
	c.lands(n, now)
	if l.Graphs && shm.Reached(l.Done, l.Graph) {
		l.Graphs = false
		k.graphs--
		if c.graphs--; c.graphs == 0 {
			c.leaves(now)
		}
	}
	k.active, k.served, c.active = now, now, now
	k.paid(work)
	s.watched(k, l, now)
	if c.waiting && l.Index == c.waitLane && shm.Reached(l.Done, c.waitSeq) {
		s.end(c, now)
	}
}
