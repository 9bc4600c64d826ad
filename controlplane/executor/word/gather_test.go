package word

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// bench makes ops and offers them.
type bench struct {
	t testing.TB
	g *Gather
	n uint64
}

func newBench(t testing.TB, demand *scoreboard.Demand) *bench {
	t.Helper()
	chip := cost.Chip{SMs: 132, Threads: 2048, Registers: 65536, Shared: 233472, Blocks: 32}
	g, err := NewGather(Options{Chip: chip, Hold: 20_000, Busy: 30_000, Demand: demand})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, g: g}
}

// session is one client with some lanes, and one kernel (1).
type session struct {
	b      *bench
	board  *scoreboard.Session
	ring   *shm.Consumer
	out    *shm.Producer
	file   *shm.SessionFile
	kernel *scoreboard.Kernel
	seq    [8]uint32
}

func (b *bench) session(c *scoreboard.Code) *session {
	b.t.Helper()
	b.n++
	f, err := shm.CreateSessionFile(b.n)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { f.Close() })
	s := &session{b: b, file: f, board: scoreboard.New(b.n, f), ring: shm.NewConsumer(f)}
	if s.out, err = shm.NewProducer(f, nil); err != nil {
		b.t.Fatal(err)
	}
	s.board.LanesDevice = 0x1000_0000 * b.n
	s.kernel = &scoreboard.Kernel{ID: 1, Limit: &atomic.Uint32{}, Code: c}
	s.board.AddKernel(s.kernel)
	return s
}

// launch is a launch of 128 threads a block with 8 bytes of parameters.
type launch struct {
	lane, blocks, z, threads, shared, flags uint32
	level                                   int
	params                                  int
}

// offer makes an op ready at a time; it reports whether the gather keeps it.
func (s *session) offer(l launch, now int64) bool {
	s.b.t.Helper()
	s.seq[l.lane]++
	n := 8 + l.params
	body, _, ok := s.out.Begin(shm.Header{Kind: shm.KindLaunch, Lane: l.lane, Seq: s.seq[l.lane]}, int(unsafe.Sizeof(shm.Launch{}))+n)
	if !ok {
		s.b.t.Fatal("no room")
	}
	at := shm.Put(body, shm.Launch{
		Kernel: 1, GridX: max(1, l.blocks), GridY: 1, GridZ: max(1, l.z), BlockX: max(128, l.threads), BlockY: 1, BlockZ: 1,
		SharedBytes: l.shared, Flags: l.flags, ParamBytes: uint32(n),
	})
	binary.LittleEndian.PutUint32(body[at:], uint32(s.board.ID))
	s.out.Publish()
	v, ok, err := s.ring.Next()
	if err != nil || !ok {
		s.b.t.Fatal(ok, err)
	}
	if _, _, err := s.board.Accept(v, s.b.n); err != nil {
		s.b.t.Fatal(err)
	}
	s.b.n++
	op := s.board.Ready(s.board.Lane(l.lane))
	op.ReadyAt = now
	op.Latest = int64(l.level) // as the scheduler ranks urgent streams
	return s.b.g.Add(op, l.level)
}

// go makes the next word at a time and issues it on stream 3: its sessions, nil when everything waits.
func (b *bench) next(now int64) []uint64 {
	b.t.Helper()
	b.g.Begin(b.n)
	s := b.g.Next(now, 0, false)
	if s == nil {
		return nil
	}
	w, ok := b.g.Build(s)
	if !ok {
		b.t.Fatal("no batch is free")
	}
	var ids []uint64
	for _, op := range w.Ops() {
		ids = append(ids, op.Session.ID)
		op.Session.Issue(op, 3)
	}
	b.g.Issued(&w, now)
	return ids
}

func form(m coalesce.Mapping, capacity int, codes ...*scoreboard.Code) *scoreboard.Form {
	l := coalesce.Layout{Mapping: m, Capacity: capacity, Tail: 8, Globals: 8 + coalesce.TailBytes, Align: 8}
	l.Stride = l.Globals + 8
	l.ParamBytes = capacity * l.Stride
	for range codes {
		l.BodyBytes, l.GlobalNames = append(l.BodyBytes, 8), append(l.GlobalNames, nil)
	}
	limit := &atomic.Uint32{}
	limit.Store(48 << 10)
	return &scoreboard.Form{Function: 7, Layout: l, Bodies: codes, Limit: limit, Registers: 32}
}

func code(id uint32) *scoreboard.Code { return &scoreboard.Code{ID: id} }

// A word takes no longer than a class above its ops' class lets one take, and the holds are those of the op's class.
func TestClassBounds(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 8, c))
	class := &scoreboard.Class{Hold: 1000, Longest: 3500}
	shape := func() *scoreboard.Shape { return c.ReadyShapes()[0] }
	offer := func(now int64) {
		s := b.session(c)
		s.board.Class = class
		if !s.offer(launch{}, now) {
			t.Fatal("not kept")
		}
	}
	for range 6 {
		offer(0)
	}
	s := shape()
	s.Times.Add(1, 16_000)
	b.g.Weigh(s)
	if s.Cost != 1000 { // a sixteenth of the chip at least
		t.Fatalf("cost %d", s.Cost)
	}
	for op := s.Ready.First(); op != nil; op = op.Alike() {
		op.Cost = s.Cost
	}
	if n := len(b.next(0)); n != 3 {
		t.Errorf("%d ops in a word that may take as long as three", n)
	}
	class.Longest = 999
	if got := b.next(0); got != nil {
		t.Errorf("%v went: longer than may begin now", got)
	}
	class.Longest = 1 << 60
	if n := len(b.next(0)); n != 3 {
		t.Errorf("%d of three", n)
	}
	s.Expect = 8
	offer(100)
	for _, at := range []int64{100, 1099} {
		if got := b.next(at); got != nil {
			t.Errorf("at %d %v went; others are expected until 1100", at, got)
		}
	}
	if n := len(b.next(1100)); n != 1 {
		t.Errorf("%d ops went when the class's patience ended", n)
	}
	class.Hold = 0
	s.Expect = 8
	offer(2000)
	if n := len(b.next(2000)); n != 1 {
		t.Error("an op of a class without patience was held")
	}
	class.Apart = true
	op := b.session(c)
	op.board.Class = class
	if op.offer(launch{}, 3000) || b.g.Apart[scoreboard.ReasonClass] != 1 {
		t.Error("an op of a class that is never joined was kept")
	}
}

// Nor does one of several kernels take longer.
func TestClassBoundsPacks(t *testing.T) {
	b := newBench(t, nil)
	x, y := code(1), code(2)
	scoreboard.Publish(form(coalesce.ByTable, 8, x, y))
	class := &scoreboard.Class{Longest: 3500}
	for _, c := range []*scoreboard.Code{x, x, y, y, y} {
		s := b.session(c)
		s.board.Class = class
		s.offer(launch{}, 0)
	}
	for _, c := range []*scoreboard.Code{x, y} {
		s := c.ReadyShapes()[0]
		s.Times.Add(1, 16_000)
		b.g.Weigh(s)
		for op := s.Ready.First(); op != nil; op = op.Alike() {
			op.Cost = s.Cost // 1000: a sixteenth of the chip
		}
	}
	for _, want := range []int{3, 2} {
		if n := len(b.next(0)); n != want {
			t.Errorf("%d ops in a word that may take as long as three; want %d", n, want)
		}
	}
}

// What is ready together goes together: at most what the form holds, oldest first.
func TestTogether(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 4, c))
	var ids []uint64
	for range 6 {
		s := b.session(c)
		ids = append(ids, s.board.ID)
		if !s.offer(launch{}, 0) {
			t.Fatal("an op that can be joined was left to the policy")
		}
	}
	if got := b.next(0); !slices.Equal(got, ids[:4]) {
		t.Errorf("the first word holds %v; want %v", got, ids[:4])
	}
	// Fewer than of late: they wait, for a bounded time.
	if got := b.next(0); got != nil {
		t.Errorf("%v did not wait for company", got)
	}
	if got := b.next(unknownTime / 4); !slices.Equal(got, ids[4:]) {
		t.Errorf("the second word holds %v; want %v", got, ids[4:])
	}
	if b.g.Held != 2 || b.g.InVain != 2 || b.g.Apart[scoreboard.ReasonFull] != 1 || b.g.Joined != 6 || b.g.Len() != 0 {
		t.Errorf("%+v", b.g.Counters)
	}
}

// Waiting in vain is given up step by step; a client that is alone never waits.
func TestExpect(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 128, c))
	var all []*session
	for range 32 {
		all = append(all, b.session(c))
		all[len(all)-1].offer(launch{}, 0)
	}
	if got := b.next(0); len(got) != 32 {
		t.Fatalf("a word of %d", len(got))
	}
	waits := 0
	for now := int64(1_000_000); ; now += 1_000_000 {
		if waits > 15 {
			t.Fatal("a client that is alone still waits")
		}
		all[0].offer(launch{lane: 1 + uint32(waits)%7}, now)
		if b.next(now) != nil {
			break
		}
		if waits++; b.next(now+30_000) == nil {
			t.Fatal("an op waited longer than it may")
		}
	}
	if waits == 0 {
		t.Error("nobody waited for 31 who were just there")
	}
}

// A lane whose stream is busy waits longer, the few longer than the many; force ends it.
func TestBusyLane(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 128, c))
	var all []*session
	for range 8 {
		all = append(all, b.session(c))
	}
	for range 2 {
		for _, s := range all {
			s.offer(launch{}, 0)
		}
		if got := b.next(0); len(got) != 8 {
			t.Fatalf("a word of %d", len(got))
		}
	}
	all[0].offer(launch{}, 0)
	if b.next(29_999) != nil {
		t.Error("one of eight with two ops in flight did not wait")
	}
	for _, s := range all[1:5] {
		s.offer(launch{}, 10_000)
	}
	if got := b.next(15_000); len(got) != 5 {
		t.Errorf("five of eight are there after half the time, but %d went", len(got))
	}
	all[6].offer(launch{}, 20_000)
	if b.next(20_000) != nil || b.g.Next(20_000, 0, true) == nil {
		t.Error("an op that waits does not go when it is forced, or went before")
	}
}

// What one launch can serve: the form's mapping decides which grids, blocks and shared memory go together.
func TestShapes(t *testing.T) {
	for _, tc := range []struct {
		what    string
		mapping coalesce.Mapping
		exact   bool
		ops     []launch
		want    int
		reason  scoreboard.ApartReason
	}{
		{"one grid", coalesce.ByZ, false, []launch{{}, {}, {}}, 3, scoreboard.ReasonCount},
		{"another grid, by z", coalesce.ByZ, false, []launch{{}, {blocks: 2}, {}}, 2, scoreboard.ReasonShape},
		{"another grid, by table", coalesce.ByTable, false, []launch{{}, {blocks: 2}, {z: 3}}, 3, scoreboard.ReasonCount},
		{"z in use", coalesce.ByZ, false, []launch{{z: 2}, {z: 2}}, 1, scoreboard.ReasonShape},
		{"another block", coalesce.ByTable, false, []launch{{}, {threads: 256}, {}}, 2, scoreboard.ReasonShape},
		{"other shared memory, by table", coalesce.ByTable, false, []launch{{}, {shared: 64}}, 2, scoreboard.ReasonCount},
		{"other shared memory that kernels read", coalesce.ByTable, true, []launch{{}, {shared: 64}}, 1, scoreboard.ReasonShape},
		{"less urgent", coalesce.ByZ, false, []launch{{level: 1}, {level: 5}}, 1, scoreboard.ReasonPriority},
		{"fills the chip", coalesce.ByZ, false, []launch{{blocks: 9000}, {blocks: 9000}}, 1, scoreboard.ReasonCost},
		{"too many blocks beside", coalesce.ByTable, false, []launch{{}, {blocks: 9000}, {}}, 2, scoreboard.ReasonShape},
	} {
		b := newBench(t, nil)
		c := code(1)
		f := form(tc.mapping, 8, c)
		f.Layout.ExactDynamicShared = tc.exact
		scoreboard.Publish(f)
		for _, l := range tc.ops {
			b.session(c).offer(l, 0)
		}
		if got := b.next(0); len(got) != tc.want {
			t.Errorf("%s: a word of %d; want %d", tc.what, len(got), tc.want)
		}
		for why, n := range b.g.Apart {
			if (n > 0) != (scoreboard.ApartReason(why) == tc.reason) {
				t.Errorf("%s: reason %s counted %d times", tc.what, scoreboard.ApartReasons[why], n)
			}
		}
	}
}

// An urgent op takes less urgent ones of its kernel along only when they are as urgent; a less urgent leader takes more urgent ones.
func TestUrgency(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 8, c))
	late, urgent := b.session(c), b.session(c)
	late.offer(launch{level: 5}, 0)
	urgent.offer(launch{level: 1}, 0)
	if got := b.next(0); !slices.Equal(got, []uint64{urgent.board.ID}) {
		t.Errorf("first goes %v; want the urgent one alone", got)
	}
	if got := b.next(0); !slices.Equal(got, []uint64{late.board.ID}) {
		t.Errorf("then goes %v", got)
	}
}

// What must not be joined is left alone: no form, a client that is kept apart, cooperative launches, parameters or globals that
// are missing, a form that the driver refused.
func TestExcluded(t *testing.T) {
	b := newBench(t, nil)
	none, c := code(1), code(2)
	f := form(coalesce.ByZ, 8, c)
	f.Layout.GlobalNames[0] = []string{"g"}
	scoreboard.Publish(f)
	if b.session(none).offer(launch{}, 0) || b.g.Apart[scoreboard.ReasonNoForm] != 1 {
		t.Error("an op without a form was kept")
	}
	apart := b.session(c)
	apart.kernel.Apart = true
	if apart.offer(launch{}, 0) || b.session(c).offer(launch{flags: shm.LaunchFlagCooperative}, 0) || b.g.Apart[scoreboard.ReasonExcluded] != 2 {
		t.Error("an op that must not be joined was kept")
	}
	with, without := b.session(c), b.session(c)
	with.kernel.Globals.Store(&[]uint64{0x1234})
	without.offer(launch{}, 0)
	with.offer(launch{}, 0)
	// The one that was ready first goes first, although the form cannot take it; the others are not held up by it.
	for _, s := range []*session{without, with} {
		if got := b.next(0); !slices.Equal(got, []uint64{s.board.ID}) {
			t.Errorf("a word of %v; want %d alone, because of one the globals are unknown", got, s.board.ID)
		}
	}
	if b.g.Len() != 0 {
		t.Errorf("%d ops were left", b.g.Len())
	}
	f.Refused.Store(true)
	for range 20 { // the limit is looked at anew once in a while
		with.offer(launch{lane: 1}, 0)
		if got := b.next(1 << 40); len(got) != 1 {
			t.Fatalf("a word of %v with a form that was refused", got)
		}
	}
	if b.g.Words[Coalesced] != 0 && b.g.Joined != 0 {
		t.Errorf("%+v", b.g.Counters)
	}
}

// Different kernels go together in a form that holds both, and the parameter block says which is which.
func TestPack(t *testing.T) {
	b := newBench(t, nil)
	x, y := code(1), code(2)
	for _, c := range []*scoreboard.Code{x, y} {
		scoreboard.Publish(form(coalesce.ByZ, 8, c))
	}
	scoreboard.Publish(form(coalesce.ByTable, 8, x, y))
	one, two := b.session(x), b.session(y)
	one.offer(launch{blocks: 3}, 0)
	two.offer(launch{blocks: 5, shared: 64}, 0)
	b.g.Begin(1)
	w, ok := b.g.Build(b.g.Next(0, 0, false))
	if !ok || w.Batch == nil || w.Len() != 2 {
		t.Fatalf("%+v", w)
	}
	for _, op := range w.Ops() {
		op.Signal = true
	}
	w.Batch.Counters = 0x5000
	w.Batch.Fill()
	l, p := w.Batch.Launch, w.Batch.params
	if l.Grid != [3]uint32{8, 1, 1} || l.Block != [3]uint32{128, 1, 1} || l.SharedBytes != 64 || int(l.ParamBytes) != w.Batch.Form.Layout.ParamBytes {
		t.Errorf("the launch is %+v", l)
	}
	first := uint32(0)
	for i, op := range w.Ops() {
		in := p[i*w.Batch.Form.Layout.Stride:]
		u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(in[8+at:]) }
		u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(in[8+at:]) }
		blocks := op.Launch().Grid[0]
		body := uint32(0)
		if op.Kernel.Code == y {
			body = 1
		}
		if binary.LittleEndian.Uint32(in) != uint32(op.Session.ID) || u64(coalesce.OffDone) != op.Session.DoneAddress(op.Lane) ||
			u64(coalesce.OffCounter) != 0x5000+4*uint64(i) || u32(coalesce.OffValue) != op.Seq || u32(coalesce.OffThreads) != 128*blocks ||
			u32(coalesce.OffGrid) != blocks || u32(coalesce.OffBody) != body || u32(coalesce.OffFirst) != first {
			t.Errorf("instance %d is %x", i, in[:8+coalesce.TailBytes])
		}
		first += blocks
	}
	if got := binary.LittleEndian.Uint32(p[2*w.Batch.Form.Layout.Stride+8+coalesce.OffFirst:]); got != 8 {
		t.Errorf("the first instance that is not launched begins at block %d; want 8", got)
	}
}

// An instance of very many blocks does not count them: the stream writes its done word.
func TestOutside(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByTable, 8, c))
	s := b.session(c)
	b.session(c).offer(launch{}, 0)
	s.offer(launch{blocks: SignalBlocks + 1}, 0)
	b.g.Begin(1)
	w, _ := b.g.Build(b.g.Next(0, 0, false))
	if w.Len() != 2 {
		t.Fatalf("a word of %d", w.Len())
	}
	for _, op := range w.Ops() {
		op.Signal = true
	}
	w.Batch.Counters = 0x5000
	w.Batch.Fill()
	for i, op := range w.Ops() {
		done := binary.LittleEndian.Uint64(w.Batch.params[i*w.Batch.Form.Layout.Stride+8:])
		if outside := w.Batch.Outside[0]>>i&1 == 1; outside != (op.Session == s.board) || outside != (done == 0) {
			t.Errorf("instance %d: outside %v, done %#x", i, outside, done)
		}
	}
}

// The forms' maker hears of ops alike of several clients, and gets a larger form asked for when a word was full.
func TestDemand(t *testing.T) {
	d := scoreboard.NewDemand()
	b := newBench(t, d)
	c := code(1)
	var all []*session
	for range 20 {
		all = append(all, b.session(c))
	}
	for round := range int64(8) {
		for _, s := range all {
			s.offer(launch{}, round<<24)
		}
	}
	w, ok := d.Next()
	if !ok || w.Mapping != coalesce.ByZ || w.Bodies[0] != c {
		t.Fatalf("%+v, %v", w, ok)
	}
}

// A batch is not used again before its thread has passed it.
func TestPool(t *testing.T) {
	p, err := newPool()
	if err != nil {
		t.Fatal(err)
	}
	var passed atomic.Uint64
	for i := range poolSize {
		b := p.peek()
		if b == nil {
			t.Fatalf("no batch %d", i)
		}
		b.Passed, b.Number = &passed, uint64(i+1)
		p.take()
	}
	if p.peek() != nil {
		t.Error("a batch in use was given out")
	}
	passed.Store(1)
	if b := p.peek(); b == nil || b.Number != 1 {
		t.Error("a batch that was passed is not given out")
	}
	p.take()
	if p.peek() != nil {
		t.Error("the next one is still in use")
	}
}

// A word is late by what it takes beyond what it should, less what passed before it was launched; what harms nobody is not late.
func TestLateness(t *testing.T) {
	b := newBench(t, nil)
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 8, c))
	x := b.session(c)
	x.offer(launch{blocks: 16}, 1)
	s := c.ReadyShapes()[0]
	of := []*scoreboard.Session{x.board}
	for range 8 {
		b.g.Learn(s, 1, 2000, 0, of, false)
	}
	for _, m := range []struct {
		what         string
		ns           int64
		busy         bool
		calls        int64
		least, below float64
	}{
		{"as long as ever", 2000, false, 0, 0, 1.01},
		{"ten times a moment", 20_000, false, 0, 0, 1.01},
		{"fifty times", 100_000, false, 0, 20, 30},
		{"fifty times, behind others' work", 100_000, true, 12_000, 20, 30},
		{"fifty times, its calls in it", 100_000, false, 12_000, 20, 30},
		{"the calls took long", 60_000, false, 58_000, 0, 1.01},
		{"the thread did not run", 3_000_000, true, 3_010_000, 0, 1.01},
	} {
		sample := Sample{Busy: m.busy, Calls: m.calls}
		if got := b.g.Learn(s, 1, m.ns, sample.Waited(), of, true); got <= 0 || got < m.least || got >= m.below {
			t.Errorf("%s: %.2f times late; want %.2f to %.2f", m.what, got, m.least, m.below)
		}
	}
}
