package scoreboard

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// ShapeKey is what ops share that one launch can serve with one grid: kernel, launch configuration and level of urgency.
type ShapeKey struct {
	Code          *Code
	Grid, Block   [3]uint32
	SharedBytes   uint32 // dynamic
	Flags         uint32 // shm.LaunchFlag*
	Cluster       [3]uint32
	ClusterPolicy uint32
	Level         int32 // issue.Engine.Level, 0 the most urgent
}

// Shape holds the ready ops of one key and what is known of words of them. It belongs to the poller's thread.
type Shape struct {
	ShapeKey
	Blocks, Threads uint64 // of one instance: blocks, and threads of a block

	// Ready are the ops that wait for company, the most urgent first. They are in no other queue.
	Ready OpList
	// Coming counts ops that join Ready as soon as the ops before them in their lanes, which are in other shapes' Ready, are issued.
	Coming int
	// Seen are the sessions (bits, by id modulo 64) of which ops became ready in the moment SeenIn while Code had no form.
	Seen, SeenIn uint64
	// Met is how many sessions' ops became ready in the moment before SeenIn.
	Met int
	// Expect is how many ops words of late have held; it rises at once and falls slowly.
	Expect int
	// Limit is how many instances are worth joining, as last computed for LimitForms at word number LimitAt; Most is what its forms
	// hold.
	Limit      int
	Most       int
	LimitAt    uint64
	LimitForms *[]*Form
	// Words counts words led by an op of this shape, Tried is the pass in which one found no room.
	Words, Tried uint64
	// Times is what was measured; Samples counts measurements under way.
	Times   cost.Times
	Samples int
	// Weight is the part of the chip that one instance fills, 0 to 1, and Cost what it takes by itself, ns of the whole chip; 0: not
	// known yet.
	Weight float64
	Cost   int64
	// Due is when the patience of some op in Ready ends, HeldAt when they were last found to wait for company; ns.
	Due, HeldAt int64
	// Key is Op.Key of its ops, Fill the part of the chip's places for blocks that one instance takes, 0 to 1; 0: not known yet.
	Key  uint64
	Fill float64
	// Wary is not 0 when it was seen to suffer from what runs beside it. Avoid is until when its ops rather wait, because they and
	// what runs take longer side by side than one after the other, AvoidedAt when they were last found to; ns.
	Wary             int
	Avoid, AvoidedAt int64

	active   int // index+1 in Shapes.active
	chain    *Shape
	used     uint64 // Shapes.clock when it was last looked up
	inCode   int    // index+1 in Code.ready
	occupied bool
}

// OpList is a list of ops through their own links. An op is in at most one.
type OpList struct {
	first, last *Op
	n           int
}

// First is the oldest op, nil when there is none.
func (l *OpList) First() *Op { return l.first }

// Len is how many ops are in the list.
func (l *OpList) Len() int { return l.n }

// push puts an op where it belongs: nearly always at the end.
func (l *OpList) push(o *Op) {
	before := l.last
	for before != nil && o.outranks(before) {
		before = before.alikeBefore
	}
	o.alikeBefore = before
	if before == nil {
		o.alikeAfter, l.first = l.first, o
	} else {
		o.alikeAfter, before.alikeAfter = before.alikeAfter, o
	}
	if o.alikeAfter == nil {
		l.last = o
	} else {
		o.alikeAfter.alikeBefore = o
	}
	l.n++
}

// Lead is the op of the list that goes first now: of classes of one priority one can be owed a turn. It is put in front.
func (l *OpList) Lead() *Op {
	best := l.first
	for o := l.first; o != nil; o = o.alikeAfter {
		if o.Place() < best.Place() {
			best = o
		}
	}
	if best != l.first {
		l.remove(best)
		best.alikeAfter, l.first.alikeBefore, l.first = l.first, best, best
		l.n++
	}
	return best
}

func (l *OpList) remove(o *Op) {
	if o.alikeBefore == nil {
		l.first = o.alikeAfter
	} else {
		o.alikeBefore.alikeAfter = o.alikeAfter
	}
	if o.alikeAfter == nil {
		l.last = o.alikeBefore
	} else {
		o.alikeAfter.alikeBefore = o.alikeBefore
	}
	o.alikeBefore, o.alikeAfter = nil, nil
	l.n--
}

// Known is the shape of a LAUNCH op if it is the one that Of was last asked for with this kernel, else nil.
func Known(op *Op) *Shape {
	k := op.Kernel
	if s := k.shape; s != nil && s.Code == k.Code && s.same(op.Launch(), s.Level) {
		return s
	}
	return nil
}

// Advances reports whether the client's op behind this one could join others that are ready and wait.
func (o *Op) Advances() bool { return o.feeds != nil && o.feeds.Ready.n > 0 }

// Alike is the next op in the op's list, nil at the end.
func (o *Op) Alike() *Op { return o.alikeAfter }

// maxShapes bounds how many shapes are known at a time; those without ops give way to new ones.
const maxShapes = 1024

// Shapes is the table of an executor: it finds ops alike across sessions. It belongs to the poller's thread; nothing here
// allocates after NewShapes.
type Shapes struct {
	cells  []Shape
	bucket [2 * maxShapes]*Shape // by hash
	active []*Shape              // with ops in Ready, in no order
	ready  int
	clock  uint64
	hand   int
	book   *cost.Book // what was measured of shapes that are in no cell, and before this executor
}

// NewShapes makes an empty table.
func NewShapes() *Shapes {
	return &Shapes{cells: make([]Shape, maxShapes), active: make([]*Shape, 0, maxShapes), book: cost.NewBook()}
}

// Recall takes what an earlier executor measured.
func (t *Shapes) Recall(b *cost.Book) { t.book = b }

// Parts is in how many parts Measured and Each give what there is: each is some µs of the poller's time.
const Parts = 16

// ShapesPerPart is the most shapes that a part holds.
const ShapesPerPart = maxShapes / Parts

// Measured copies a part of what was measured, 0 to Parts-1 one after the other.
func (t *Shapes) Measured(to *cost.Book, part int) {
	t.Each(part, func(s *Shape) { t.book.Put(s.content(), &s.Times) })
	t.book.CopyTo(to, part*cost.BookRows/Parts, cost.BookRows/Parts)
}

// content tells a shape from others in every executor; 0: not known.
func (k *ShapeKey) content() uint64 {
	if k.Code.Content == 0 {
		return 0
	}
	h := k.Code.Content
	for _, v := range [...]uint32{k.Grid[0], k.Grid[1], k.Grid[2], k.Block[0], k.Block[1], k.Block[2], k.SharedBytes, k.Flags,
		k.Cluster[0], k.Cluster[1], k.Cluster[2], k.ClusterPolicy} {
		h = (h ^ uint64(v)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return h
}

// hash mixes the words of a key that differ most.
func (k *ShapeKey) hash() uint64 {
	h := uint64(k.Code.ID)
	for _, v := range [...]uint32{k.Grid[0], k.Grid[1], k.Grid[2], k.Block[0], k.Block[1], k.SharedBytes, uint32(k.Level)} {
		h = (h ^ uint64(v)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return h
}

// same compares an op with a key whose Code is the op's.
func (k *ShapeKey) same(l *gpu.Launch, level int32) bool {
	return k.Grid == l.Grid && k.Block == l.Block && k.SharedBytes == l.SharedBytes && k.Level == level && k.Flags == l.Flags &&
		(l.Flags == 0 || (k.Cluster == l.Cluster && k.ClusterPolicy == l.ClusterPolicy))
}

// Of is the shape of a LAUNCH op whose kernel has a Code; nil when the table is full of shapes in use.
func (t *Shapes) Of(op *Op, level int32) *Shape {
	k, l := op.Kernel, op.Launch()
	if s := k.shape; s != nil && s.Code == k.Code && s.same(l, level) {
		s.used = t.clock
		return s
	}
	key := ShapeKey{Code: k.Code, Grid: l.Grid, Block: l.Block, SharedBytes: l.SharedBytes, Flags: l.Flags, Level: level}
	if l.Flags != 0 {
		key.Cluster, key.ClusterPolicy = l.Cluster, l.ClusterPolicy
	}
	t.clock++
	b := &t.bucket[key.hash()%uint64(len(t.bucket))]
	for s := *b; s != nil; s = s.chain {
		if s.ShapeKey == key {
			s.used = t.clock
			k.shape = s
			return s
		}
	}
	s := t.vacate()
	if s == nil {
		return nil
	}
	*s = Shape{
		ShapeKey: key, Blocks: product(key.Grid), Threads: product(key.Block), Expect: 1, Key: op.Key(), chain: *b, used: t.clock, occupied: true,
	}
	if h := s.content(); h != 0 {
		t.book.Get(h, &s.Times)
	}
	*b, k.shape = s, s
	return s
}

// product is a volume, saturated at 2^63.
func product(v [3]uint32) uint64 {
	xy := uint64(v[0]) * uint64(v[1])
	if p, over := mulOverflows(xy, uint64(v[2])); !over && p < 1<<63 {
		return p
	}
	return 1 << 63
}

// vacate finds a cell: one never used, or one of eight idle ones that was not looked up for the longest.
func (t *Shapes) vacate() *Shape {
	var oldest *Shape
	idle := 0
	for range len(t.cells) {
		s := &t.cells[t.hand]
		t.hand = (t.hand + 1) % len(t.cells)
		if !s.occupied {
			return s
		}
		if s.Ready.n > 0 || s.Samples > 0 || s.Coming > 0 {
			continue
		}
		if oldest == nil || s.used < oldest.used {
			oldest = s
		}
		if idle++; idle == 8 {
			break
		}
	}
	if oldest == nil {
		return nil
	}
	t.book.Put(oldest.content(), &oldest.Times)
	for at := &t.bucket[oldest.hash()%uint64(len(t.bucket))]; ; at = &(*at).chain {
		if *at == oldest {
			*at = oldest.chain
			return oldest
		}
	}
}

// Add puts a ready op with those of its shape.
func (t *Shapes) Add(op *Op, s *Shape) {
	op.shape = s
	s.Ready.push(op)
	t.ready++
	if after := op.next; after != nil && after.Kind == shm.KindLaunch && len(after.deps) == 0 && after.Ready == 0 {
		if f := Known(after); f != nil && f != s {
			op.feeds = f
			f.Coming++
		}
	}
	if s.active == 0 {
		t.active = append(t.active, s)
		s.active = len(t.active)
		s.Code.ready = append(s.Code.ready, s)
		s.inCode = len(s.Code.ready)
	}
}

// Remove takes an op out that Add put in; false when it is in no shape's list.
func (t *Shapes) Remove(op *Op) bool {
	s := op.shape
	if s == nil {
		return false
	}
	op.shape = nil
	s.Ready.remove(op)
	t.ready--
	if op.feeds != nil {
		op.feeds.Coming--
		op.feeds = nil
	}
	if s.Ready.n > 0 {
		return true
	}
	i := s.active - 1
	last := t.active[len(t.active)-1]
	t.active[i], last.active = last, i+1
	t.active = t.active[:len(t.active)-1]
	i = s.inCode - 1
	of := s.Code.ready
	last = of[len(of)-1]
	of[i], last.inCode = last, i+1
	s.Code.ready = of[:len(of)-1]
	s.active, s.inCode = 0, 0
	return true
}

// Each calls f for every shape of a part that is known, 0 to Parts-1.
func (t *Shapes) Each(part int, f func(*Shape)) {
	for i := range t.cells[part*ShapesPerPart : (part+1)*ShapesPerPart] {
		if s := &t.cells[part*ShapesPerPart+i]; s.occupied {
			f(s)
		}
	}
}

// Active lists the shapes with ops in Ready. The slice changes with Add and Remove.
func (t *Shapes) Active() []*Shape { return t.active }

// Len is how many ops are in the Ready lists.
func (t *Shapes) Len() int { return t.ready }

// ReadyShapes lists the shapes of a code with ops in Ready. It is the poller's; the slice changes with Add and Remove.
func (c *Code) ReadyShapes() []*Shape { return c.ready }
