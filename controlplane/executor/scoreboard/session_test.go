package scoreboard

import (
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/heddle-gpu/heddle/jit/effects"
	"github.com/heddle-gpu/heddle/jit/ptx"
	"github.com/heddle-gpu/heddle/shm"
)

// mixPTX has kernel 2 of every board, *dst = 3 * *src + k, and kernel 3, which signals at dst. Of kernel 1 nothing is known.
const mixPTX = `.version 8.0
.target sm_90
.address_size 64
.visible .entry mix(.param .u64 dst, .param .u64 src, .param .u64 k) {
	.reg .b64 %rd<8>;
	ld.param.u64 %rd1, [dst];
	ld.param.u64 %rd2, [src];
	ld.param.u64 %rd3, [k];
	ld.global.u64 %rd4, [%rd2];
	mad.lo.u64 %rd5, %rd4, 3, %rd3;
	st.global.u64 [%rd1], %rd5;
	ret;
}
.visible .entry flag(.param .u64 dst, .param .u64 src, .param .u64 k) {
	.reg .b64 %rd<8>;
	ld.param.u64 %rd1, [dst];
	st.volatile.global.u64 [%rd1], %rd1;
	ret;
}
`

var kernels = sync.OnceValue(func() [2]*effects.Effects {
	m, err := ptx.Parse([]byte(mixPTX))
	if err != nil {
		panic(err)
	}
	var out [2]*effects.Effects
	for i, name := range []string{"mix", "flag"} {
		if out[i], err = effects.Of(m, name); err != nil {
			panic(err)
		}
	}
	return out
})

func (b *board) known(kernel uint32) (*effects.Effects, string) {
	switch kernel {
	case 2:
		return kernels()[0], "mix"
	case 3:
		return kernels()[1], "flag"
	}
	return nil, "unknown"
}

const (
	base = uint64(0x4000_0000)
	room = uint64(1 << 16)
)

// board is a session's board on a real session file, with a client that writes records.
type board struct {
	file *shm.SessionFile
	prod *shm.Producer
	ring *shm.Consumer
	s    *Session
	seq  map[uint32]uint32
	// parts: the session's memory is mapped by the client itself.
	parts bool
	// host: it is host memory.
	host bool
}

func newBoard(t testing.TB) *board {
	t.Helper()
	f, err := shm.CreateSessionFile(1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := shm.NewProducer(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &board{file: f, prod: p, ring: shm.NewConsumer(f), seq: map[uint32]uint32{}}
	b.s = b.fresh(t)
	return b
}

func (b *board) fresh(t testing.TB) *Session {
	t.Helper()
	s := New(1, b.file)
	s.AddKernel(&Kernel{ID: 1, Limit: &atomic.Uint32{}})
	s.AddKernel(&Kernel{ID: 2, Limit: &atomic.Uint32{}})
	s.AddKernel(&Kernel{ID: 3, Limit: &atomic.Uint32{}})
	if err := s.Memory.Add(base, room); err != nil {
		t.Fatal(err)
	}
	if b.parts {
		s.Memory.Part(base)
	}
	if b.host {
		s.Memory.Host(base)
	}
	return s
}

func write[T shm.WireStruct](b *board, kind uint16, lane uint32, v T, payload int, deps []shm.Dep) uint32 {
	h := shm.Header{Kind: kind, Lane: lane, Deps: deps}
	if shm.HasSeq(kind) {
		b.seq[lane]++
		h.Seq = b.seq[lane]
	}
	body, _, ok := b.prod.Begin(h, int(unsafe.Sizeof(v))+payload)
	if !ok {
		panic("the test's ring is full")
	}
	shm.Put(body, v)
	b.prod.Publish()
	return h.Seq
}

func (b *board) launch(lane uint32, deps ...shm.Dep) uint32 {
	return write(b, shm.KindLaunch, lane, shm.Launch{Kernel: 1, GridX: 1}, 0, deps)
}

// mix launches kernel 2 on addresses behind base.
func (b *board) mix(lane uint32, dst, src, k uint64, deps ...shm.Dep) uint32 {
	return b.kernel(2, lane, dst, src, k, deps...)
}

func (b *board) kernel(id, lane uint32, dst, src, k uint64, deps ...shm.Dep) uint32 {
	h := shm.Header{Kind: shm.KindLaunch, Lane: lane, Deps: deps}
	b.seq[lane]++
	h.Seq = b.seq[lane]
	l := shm.Launch{Kernel: id, GridX: 1, ParamBytes: 24}
	body, _, ok := b.prod.Begin(h, int(unsafe.Sizeof(l))+24)
	if !ok {
		panic("the test's ring is full")
	}
	at := shm.Put(body, l)
	binary.LittleEndian.PutUint64(body[at:], base+dst)
	binary.LittleEndian.PutUint64(body[at+8:], base+src)
	binary.LittleEndian.PutUint64(body[at+16:], k)
	b.prod.Publish()
	return h.Seq
}
func (b *board) memset(lane uint32, at, n uint64, deps ...shm.Dep) uint32 {
	return write(b, shm.KindMemset, lane, shm.Memset{Dst: base + at, Width: n, Height: 1, Element: 1}, 0, deps)
}
func (b *board) copies(lane uint32, dst, src, n uint64, deps ...shm.Dep) uint32 {
	return write(b, shm.KindCopy, lane, shm.Copy{Dst: base + dst, Src: base + src, Bytes: n}, 0, deps)
}

// scan takes every record.
func (b *board) scan(t testing.TB) {
	t.Helper()
	for b.s.Room() {
		v, ok, err := b.ring.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		if _, _, err := b.s.Accept(v, v.Pos); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *board) words(lane, done, issued uint32) {
	l := b.file.Lane(lane)
	atomic.StoreUint32(&l.Done, done)
	atomic.StoreUint32(&l.Issued, issued)
}

// takeOver is what the next executor does.
func (b *board) takeOver(t testing.TB) (Doubt, error) {
	t.Helper()
	head := atomic.LoadUint64(&b.file.Consumer().Head)
	b.ring = shm.NewConsumer(b.file)
	if err := b.ring.Resume(atomic.LoadUint64(&b.file.Consumer().Read), head); err != nil {
		return Doubt{}, err
	}
	b.s = b.fresh(t)
	d, err := b.s.Survey(b.ring, b.known)
	if err != nil {
		return d, err
	}
	return d, b.ring.Resume(b.ring.Read(), head)
}

func TestDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		left     func(b *board)
		inDoubt  int
		hopeless bool
	}{
		"nothing was issued":                 {func(b *board) { b.launch(1); b.launch(2) }, 0, false},
		"all is done":                        {func(b *board) { b.launch(1); b.launch(1); b.words(1, 2, 2) }, 0, false},
		"a kernel":                           {func(b *board) { b.memset(1, 0, 8); b.launch(1); b.words(1, 1, 2) }, 1, true},
		"a memset":                           {func(b *board) { b.memset(1, 0, 8); b.launch(1); b.words(1, 0, 1) }, 1, false},
		"a memset before a kernel":           {func(b *board) { b.memset(1, 0, 8); b.launch(2); b.words(1, 0, 1); b.words(2, 0, 1) }, 2, true},
		"a copy":                             {func(b *board) { b.copies(1, 0, 64, 64); b.words(1, 0, 1) }, 1, false},
		"an overlapping copy":                {func(b *board) { b.copies(1, 0, 32, 64); b.words(1, 0, 1) }, 1, true},
		"a copy whose source is overwritten": {func(b *board) { b.copies(1, 0, 64, 64); b.memset(1, 100, 4); b.words(1, 0, 2) }, 2, true},
		"a copy of what was just written":    {func(b *board) { b.memset(1, 64, 64); b.copies(1, 0, 64, 64); b.words(1, 0, 2) }, 2, false},
		"a memset whose successor in another lane is done": {func(b *board) {
			n := b.memset(1, 0, 64)
			b.launch(2, shm.Dep{Lane: 1, Value: n})
			b.words(1, 0, 1)
			b.words(2, 1, 1)
		}, 0, false},
		"the same through a third lane": {func(b *board) {
			n := b.launch(1)
			m := b.memset(3, 0, 64, shm.Dep{Lane: 1, Value: n})
			b.launch(2, shm.Dep{Lane: 3, Value: m})
			b.words(1, 0, 1)
			b.words(3, 0, 1)
			b.words(2, 1, 1)
		}, 0, false},
		"a kernel that is understood":             {func(b *board) { b.mix(1, 0, 64, 1); b.words(1, 0, 1) }, 1, false},
		"in place":                                {func(b *board) { b.mix(1, 64, 64, 1); b.words(1, 0, 1) }, 1, true},
		"a later kernel overwrites the source":    {func(b *board) { b.mix(1, 0, 64, 1); b.mix(1, 64, 128, 1); b.words(1, 0, 2) }, 2, true},
		"the same, and the later was not issued":  {func(b *board) { b.mix(1, 0, 64, 1); b.mix(1, 64, 128, 1); b.words(1, 0, 1) }, 1, false},
		"a later memset overwrites the source":    {func(b *board) { b.mix(1, 0, 64, 1); b.memset(2, 60, 8); b.words(1, 0, 1); b.words(2, 0, 1) }, 2, true},
		"a chain of kernels":                      {func(b *board) { b.mix(1, 64, 0, 1); b.mix(1, 128, 64, 1); b.copies(1, 192, 128, 64); b.words(1, 0, 3) }, 3, false},
		"a chain and a kernel that is not known":  {func(b *board) { b.mix(1, 64, 0, 1); b.launch(2); b.words(1, 0, 1); b.words(2, 0, 1) }, 2, true},
		"memory that the client mapped":           {func(b *board) { b.parts = true; b.mix(1, 0, 64, 1); b.words(1, 0, 1) }, 1, true},
		"memory that the client mapped, one side": {func(b *board) { b.parts = true; b.mix(1, 0, room+64, 1); b.words(1, 0, 1) }, 1, false},
		"a flag in device memory":                 {func(b *board) { b.kernel(3, 1, 0, 0, 0); b.words(1, 0, 1) }, 1, false},
		"a flag in host memory":                   {func(b *board) { b.host = true; b.kernel(3, 1, 0, 0, 0); b.words(1, 0, 1) }, 1, true},
		"a kernel on host memory":                 {func(b *board) { b.host = true; b.mix(1, 0, 64, 0); b.words(1, 0, 1) }, 1, false},
		"an event":                                {func(b *board) { write(b, shm.KindEvent, 1, shm.EventMark{Slot: 3}, 0, nil); b.words(1, 0, 1) }, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(t)
			defer b.file.Close()
			c.left(b)
			d, err := b.takeOver(t)
			if err != nil || d.InDoubt != c.inDoubt || (d.Why != "") != c.hopeless {
				t.Errorf("%+v, %v; want %d in doubt, hopeless %v", d, err, c.inDoubt, c.hopeless)
			}
		})
	}
}

func TestGapsAreRefused(t *testing.T) {
	for name, words := range map[string][2]uint32{"done far behind": {0x80000010, 0}, "done behind by one": {^uint32(0) - 1, 0}} {
		b := newBoard(t)
		b.launch(1)
		b.words(1, words[0], words[1])
		if d, err := b.takeOver(t); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
		b.file.Close()
	}
}

// A client's marks are handed on, take no number and hold no ring space of their own; nobody checks that they make sense.
func TestMarksAreHandedOn(t *testing.T) {
	b := newBoard(t)
	defer b.file.Close()
	begin := shm.RequestBegin{Request: 7, Time: 99, Label: [32]byte{'r', 'e', 'q'}}
	end := shm.RequestEnd{Request: 7, Time: 98}
	write(b, shm.KindRequestEnd, 0, shm.RequestEnd{Request: 5, Time: 1}, 0, nil) // that was never begun
	write(b, shm.KindRequestBegin, 0, begin, 0, nil)
	b.launch(1)
	write(b, shm.KindRequestEnd, 0, end, 0, nil)
	var got []Action
	for {
		v, ok, err := b.ring.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		a, _, err := b.s.Accept(v, v.Pos)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
		switch a {
		case RequestBegin:
			if b.s.LastBegin != begin || b.s.Waiting() != 0 {
				t.Errorf("begin %+v with %d ops before it", b.s.LastBegin, b.s.Waiting())
			}
		case RequestEnd:
			if b.s.Waiting() == 1 && b.s.LastEnd != end {
				t.Errorf("end %+v; want %+v", b.s.LastEnd, end)
			}
		}
	}
	if want := []Action{RequestEnd, RequestBegin, Consumed, RequestEnd}; !slices.Equal(got, want) {
		t.Errorf("actions %v; want %v", got, want)
	}
	op := b.s.Ready(b.s.Lane(1))
	op.Signal = true
	b.s.Issue(op, 0)
	b.words(1, 1, 1)
	if n, ok := b.s.Poll(b.s.Lane(1)); n != 1 || !ok || !b.s.Release() || b.s.Head() != b.ring.Read() {
		t.Errorf("%d ops done, head %d of %d: marks keep ring space", n, b.s.Head(), b.ring.Read())
	}
}

func TestCount(t *testing.T) {
	for _, c := range [][3]uint32{{0, 0, 0}, {0, 5, 5}, {7, 9, 2}, {^uint32(0), 1, 1}, {^uint32(0) - 1, 3, 4}} {
		if n := Count(c[0], c[1]); n != c[2] {
			t.Errorf("Count(%d, %d) = %d; want %d", c[0], c[1], n, c[2])
		}
	}
	if after(^uint32(0)) != 1 || before(1) != 0 || after(5) != 6 || before(6) != 5 {
		t.Error("0 is never a number")
	}
}

// The place of an op that is done says nothing of it to who gets it next.
func TestPlacesAreClean(t *testing.T) {
	b := newBoard(t)
	l := b.s.Lane(1)
	next := func() *Op {
		b.memset(1, 0, 8)
		b.scan(t)
		return b.s.Ready(l)
	}
	op := next()
	fresh := *op
	b.s.Issue(op, 0)
	v := reflect.ValueOf(op).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.CanSet() && f.Kind() == reflect.Bool:
			f.SetBool(true)
		case f.CanSet() && f.Kind() == reflect.Int64:
			f.SetInt(77)
		}
	}
	l.Signalled = 1
	atomic.StoreUint32(&b.file.Lane(1).Done, 1)
	if n, ok := b.s.Poll(l); n != 1 || !ok || !b.s.Release() {
		t.Fatal("the op is not done")
	}
	if again := next(); again != op {
		t.Fatal("the next op has another place")
	}
	for i := range v.NumField() {
		f, was := v.Field(i), reflect.ValueOf(fresh).Field(i)
		if k := f.Kind(); (k == reflect.Bool || k == reflect.Int64) && f.CanSet() && !f.Equal(was) {
			t.Errorf("%s is %v; of an op without a predecessor it is %v", v.Type().Field(i).Name, f, was)
		}
	}
}

func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Ranges
		var model [64]bool
		starts := map[uint64]uint64{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at, n := rapid.Uint64Range(0, 63).Draw(t, "at"), rapid.Uint64Range(0, 8).Draw(t, "n")
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				free := n > 0 && at+n <= 64
				for i := at; i < at+n && i < 64; i++ {
					free = free && !model[i]
				}
				if at+n > 64 {
					continue
				}
				if err := r.Add(at, n); (err == nil) != free {
					t.Fatalf("Add(%d, %d): %v; free %v", at, n, err, free)
				}
				if free {
					starts[at] = n
					for i := at; i < at+n; i++ {
						model[i] = true
					}
				}
			case 1:
				was, ok := starts[at]
				if r.Remove(at) != ok {
					t.Fatalf("Remove(%d): not %v", at, ok)
				}
				for i := at; i < at+was; i++ {
					model[i] = false
				}
				delete(starts, at)
			case 2:
				in := true
				for i := at; i < at+n; i++ {
					in = in && i < 64 && model[i]
				}
				if r.Contains(at, n) != in {
					t.Fatalf("Contains(%d, %d): not %v", at, n, in)
				}
			}
		}
		if r.Contains(^uint64(0)-2, 8) || r.Add(^uint64(0)-2, 8) == nil {
			t.Fatal("a range that overflows")
		}
	})
}

func TestExtent(t *testing.T) {
	for _, c := range []struct {
		in           [8]uint64 // pitch, rows, x, y, z, width, height, depth
		first, bytes uint64
		ok           bool
	}{
		{[8]uint64{0, 0, 0, 0, 0, 10, 1, 1}, 0, 10, true},
		{[8]uint64{16, 4, 2, 1, 0, 8, 2, 1}, 18, 24, true},
		{[8]uint64{16, 4, 0, 0, 1, 16, 4, 2}, 64, 128, true},
		{[8]uint64{8, 4, 0, 0, 0, 16, 2, 1}, 0, 0, false},
		{[8]uint64{16, 1, 0, 0, 0, 16, 2, 2}, 0, 0, false},
		{[8]uint64{1 << 63, 4, 0, 0, 0, 4, 3, 1}, 0, 0, false},
		{[8]uint64{1 << 40, 1 << 40, 0, 0, 0, 4, 3, 3}, 0, 0, false},
		{[8]uint64{16, 4, 0, 0, 0, 0, 3, 3}, 0, 0, true},
	} {
		first, n, ok := extent(c.in[0], c.in[1], c.in[2], c.in[3], c.in[4], c.in[5], c.in[6], c.in[7])
		if first != c.first || n != c.bytes || ok != c.ok {
			t.Errorf("%v: %d, %d, %v; want %d, %d, %v", c.in, first, n, ok, c.first, c.bytes, c.ok)
		}
	}
}

// The board against a model: a GPU of a few in-order streams completes work at any time, and executors die at any time.
func TestBoardAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBoard(t)
		defer b.file.Close()
		m := &model{rt: rt, b: b, ran: map[[2]uint32]int{}, deps: map[[2]uint32][]shm.Dep{}, ops: map[[2]uint32]memop{}}
		for range rapid.IntRange(5, 120).Draw(rt, "steps") {
			m.step(t)
			m.check()
		}
		m.finish(t)
	})
}

// model is the GPU and the truth.
type model struct {
	rt    *rapid.T
	b     *board
	queue [3][]work
	order [][2]uint32 // as submitted
	deps  map[[2]uint32][]shm.Dep
	ran   map[[2]uint32]int
	gone  bool // the session has its error

	ops    map[[2]uint32]memop
	memory [cells]uint64 // the GPU's
	want   [cells]uint64 // after everything submitted, in order
}

// cells of memory, 64 bytes apart.
const cells = 6

// memop is what an op does: memory[dst] = 3*memory[src] + k for kernel 2, k for memsets (src < 0), memory[src] for copies.
type memop struct {
	kind     uint16
	dst, src int
	k        uint64
}

func (o memop) run(m *[cells]uint64) uint64 {
	switch o.kind {
	case shm.KindLaunch:
		return 3*m[o.src] + o.k
	case shm.KindCopy:
		return m[o.src]
	}
	return o.k * 0x0101010101010101
}

// submit writes one op that touches memory. Like every correct program, it depends on all that it must not overtake.
func (m *model) submit(lane uint32) [2]uint32 {
	b := m.b
	o := memop{kind: rapid.SampledFrom([]uint16{shm.KindLaunch, shm.KindLaunch, shm.KindCopy, shm.KindMemset}).Draw(m.rt, "kind"),
		dst: rapid.IntRange(0, cells-1).Draw(m.rt, "dst"), src: rapid.IntRange(0, cells-1).Draw(m.rt, "src"), k: rapid.Uint64Range(0, 255).Draw(m.rt, "k")}
	if o.kind == shm.KindCopy && o.src == o.dst {
		o.src = (o.dst + 1) % cells
	}
	last := map[uint32]uint32{}
	for _, id := range m.order {
		e, ok := m.ops[id]
		reads := func(x memop, cell int) bool { return x.kind != shm.KindMemset && x.src == cell }
		if ok && id[0] != lane && (e.dst == o.dst || reads(o, e.dst) || reads(e, o.dst)) {
			last[id[0]] = id[1]
		}
	}
	var deps []shm.Dep
	for l := uint32(1); l <= 4; l++ {
		if last[l] > 0 {
			deps = append(deps, shm.Dep{Lane: l, Value: last[l]})
		}
	}
	var seq uint32
	dst, src := 64*uint64(o.dst), 64*uint64(o.src)
	switch o.kind {
	case shm.KindLaunch:
		seq = b.mix(lane, dst, src, o.k, deps...)
	case shm.KindCopy:
		seq = b.copies(lane, dst, src, 8, deps...)
	default:
		seq = write(b, shm.KindMemset, lane, shm.Memset{Dst: base + dst, Width: 8, Height: 1, Element: 1, Value: uint32(o.k)}, 0, deps)
	}
	id := [2]uint32{lane, seq}
	m.ops[id] = o
	m.want[o.dst] = o.run(&m.want)
	m.order = append(m.order, id)
	m.deps[id] = deps
	return id
}

// work is an op, or with lane 0 a write of a done word.
type work struct {
	lane, seq uint32
	signal    bool
	launch    bool
}

func (m *model) step(t *testing.T) {
	b := m.b
	switch rapid.IntRange(0, 9).Draw(m.rt, "what") {
	case 0, 1, 2: // the client submits
		lane := rapid.Uint32Range(1, 4).Draw(m.rt, "lane")
		if rapid.IntRange(0, 7).Draw(m.rt, "memory") != 0 {
			m.submit(lane)
			return
		}
		var deps []shm.Dep
		for l := uint32(1); l <= 4; l++ {
			if b.seq[l] > 0 && rapid.IntRange(0, 3).Draw(m.rt, "dep") == 0 {
				deps = append(deps, shm.Dep{Lane: l, Value: rapid.Uint32Range(1, b.seq[l]).Draw(m.rt, "on")})
			}
		}
		var seq uint32
		if rapid.Bool().Draw(m.rt, "kernel") {
			seq = b.launch(lane, deps...)
		} else {
			seq = write(b, shm.KindEvent, lane, shm.EventMark{Slot: 3}, 0, deps)
		}
		m.order = append(m.order, [2]uint32{lane, seq})
		m.deps[[2]uint32{lane, seq}] = deps
	case 3:
		if rapid.Bool().Draw(m.rt, "mark") {
			write(b, shm.KindRequestBegin, 0, shm.RequestBegin{Request: 1}, 0, nil)
		}
		b.scan(t)
	case 4, 5, 6:
		m.issue()
	case 7:
		m.execute(rapid.IntRange(0, 2).Draw(m.rt, "stream"))
	case 8:
		m.look()
	case 9:
		if rapid.IntRange(0, 4).Draw(m.rt, "dies") == 0 {
			m.die(t)
		}
	}
}

// issue hands one ready op to a stream, behind what it depends on: the test's streams wait for nothing, so an op goes to a stream
// only when everything it depends on ran or is on the same stream.
func (m *model) issue() {
	s := m.b.s
	for i := len(s.Busy()) - 1; i >= 0; i-- {
		l := s.Lane(s.Busy()[i])
		op := s.Ready(l)
		if op == nil {
			continue
		}
		for _, d := range op.Deps() {
			if !shm.Reached(s.Lane(d.Lane).Issued, d.Value) {
				m.rt.Fatalf("lane %d number %d is ready before (%d, %d) was issued", op.Lane, op.Seq, d.Lane, d.Value)
			}
		}
		on := l.Stream
		if on == NoStream {
			on = 0 // every dependency's stream, or none
		}
		op.Signal = op.Signal || rapid.Bool().Draw(m.rt, "signal")
		w := work{lane: op.Lane, seq: op.Seq, launch: op.Kind == shm.KindLaunch}
		s.Issue(op, on)
		if word := atomic.LoadUint32(&m.b.file.Lane(w.lane).Issued); !shm.Reached(word, w.seq) {
			m.rt.Fatalf("lane.issued is %d when %d may reach the driver", word, w.seq)
		}
		m.queue[on] = append(m.queue[on], w)
		if op.Signal {
			m.queue[on] = append(m.queue[on], work{lane: w.lane, seq: w.seq, signal: true})
		}
		return
	}
}

// execute runs the first piece of work of a stream.
func (m *model) execute(on int) {
	if len(m.queue[on]) == 0 {
		return
	}
	w := m.queue[on][0]
	m.queue[on] = m.queue[on][1:]
	if w.signal {
		atomic.StoreUint32(&m.b.file.Lane(w.lane).Done, w.seq)
		return
	}
	for _, d := range m.deps[[2]uint32{w.lane, w.seq}] {
		if m.ran[[2]uint32{d.Lane, d.Value}] == 0 {
			m.rt.Fatalf("(%d, %d) runs before (%d, %d)", w.lane, w.seq, d.Lane, d.Value)
		}
	}
	m.ran[[2]uint32{w.lane, w.seq}]++
	o, memory := m.ops[[2]uint32{w.lane, w.seq}]
	if memory {
		m.memory[o.dst] = o.run(&m.memory)
	}
	if w.launch && !memory && m.ran[[2]uint32{w.lane, w.seq}] > 1 {
		m.rt.Fatalf("kernel (%d, %d) ran twice", w.lane, w.seq)
	}
}

// look is the poller's reading of done words and its release.
func (m *model) look() {
	s := m.b.s
	for i := len(s.Busy()) - 1; i >= 0; i-- {
		if i >= len(s.Busy()) {
			continue
		}
		if _, ok := s.Poll(s.Lane(s.Busy()[i])); !ok {
			m.rt.Fatal("an honest done word was called forged")
		}
	}
	if s.Release() || s.Head() != m.b.ring.Head() {
		m.b.ring.Release(s.Head(), true)
	}
}

// die ends the executor: what its streams held may or may not have run.
func (m *model) die(t *testing.T) {
	for on := range m.queue {
		for range rapid.IntRange(0, len(m.queue[on])).Draw(m.rt, "still") {
			m.execute(on)
		}
		// The op at the head may be cut in the middle.
		if len(m.queue[on]) > 0 && rapid.Bool().Draw(m.rt, "cut") {
			w := m.queue[on][0]
			ready := true
			for _, d := range m.deps[[2]uint32{w.lane, w.seq}] {
				ready = ready && m.ran[[2]uint32{d.Lane, d.Value}] > 0
			}
			if o, ok := m.ops[[2]uint32{w.lane, w.seq}]; ok && !w.signal && ready {
				m.memory[o.dst] = m.memory[o.dst]&^0xffff_ffff | o.run(&m.memory)&0xffff_ffff
			}
		}
		m.queue[on] = nil
	}
	d, err := m.b.takeOver(t)
	if err != nil {
		m.rt.Fatalf("take-over: %v", err)
	}
	// The session's error is in its file, so a later executor drops it too.
	if m.gone = m.gone || d.Why != ""; m.gone {
		m.b.s.Drop()
	}
}

func (m *model) check() {
	s := m.b.s
	flight := 0
	for l := uint32(1); l <= 4; l++ {
		flight += s.Lane(l).InFlight()
		if m.gone {
			continue
		}
		if done := atomic.LoadUint32(&m.b.file.Lane(l).Done); done > 0 && m.ran[[2]uint32{l, done}] == 0 {
			m.rt.Fatalf("lane %d: done says %d, which has not run", l, done)
		}
	}
	if flight != s.InFlight() {
		m.rt.Fatalf("%d ops in flight by lane, %d in all", flight, s.InFlight())
	}
}

// finish lets everything come to its end.
func (m *model) finish(t *testing.T) {
	for range 10 * (len(m.order) + 10) {
		m.b.scan(t)
		m.issue()
		for on := range m.queue {
			m.execute(on)
		}
		for l := uint32(1); l <= 4; l++ {
			if lane := m.b.s.Lane(l); lane.Unsignalled() > 0 {
				lane.Signalled = lane.Issued
				m.queue[lane.Stream] = append(m.queue[lane.Stream], work{lane: l, seq: lane.Issued, signal: true})
			}
		}
		m.look()
		m.check()
	}
	if m.b.s.Waiting()+m.b.s.InFlight() > 0 || len(m.b.s.Busy()) > 0 {
		m.rt.Fatalf("%d ops wait, %d are in flight, lanes %v are busy at the end", m.b.s.Waiting(), m.b.s.InFlight(), m.b.s.Busy())
	}
	if head, tail := m.b.ring.Head(), atomic.LoadUint64(&m.b.file.Producer().Tail); head != tail {
		m.rt.Fatalf("head %d at the end; the tail is %d", head, tail)
	}
	if !m.gone && m.memory != m.want {
		m.rt.Fatalf("memory holds %x at the end; want %x", m.memory, m.want)
	}
	for _, o := range m.order {
		if !m.gone && m.ran[o] == 0 {
			m.rt.Fatalf("%v never ran", o)
		}
	}
}
