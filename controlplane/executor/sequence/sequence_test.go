package sequence

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

const (
	memoryAt = uint64(0x4000_0000)
	kernels  = 40
)

// call is one op as its client submits it.
type call struct {
	kernel uint32 // 0: a memset or a copy
	grid   uint32
	words  []uint64
	signal bool
}

// lane drives one lane of one session as the poller does: ops are submitted, looked at, issued and done.
type lane struct {
	t     testing.TB
	store *Store
	file  *shm.SessionFile
	prod  *shm.Producer
	ring  *shm.Consumer
	board *scoreboard.Session
	track Track
	seq   uint32
	// issued is what reached the driver, plain and in runs; prep ops of it in runs.
	issued []string
	prep   int
	looks  int

	scratch []byte
}

func newStore(asked *[]*Run, retired *[]*Run) *Store {
	return New(Options{
		Ask:    func(r *Run) bool { *asked = append(*asked, r); return true },
		Retire: func(r *Run) { *retired = append(*retired, r) },
	})
}

func newLane(t testing.TB, s *Store, id uint64) *lane {
	t.Helper()
	f, err := shm.CreateSessionFile(id)
	if err != nil {
		t.Fatal(err)
	}
	p, err := shm.NewProducer(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := unix.Mmap(-1, 0, ScratchBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	l := &lane{t: t, store: s, file: f, prod: p, ring: shm.NewConsumer(f), board: scoreboard.New(id, f), scratch: scratch}
	for k := uint32(1); k <= kernels; k++ {
		limit := &atomic.Uint32{}
		limit.Store(48 << 10)
		l.board.AddKernel(&scoreboard.Kernel{ID: k, Function: gpu.Function(1000 + k), Limit: limit})
	}
	if err := l.board.Memory.Add(memoryAt, 1<<20); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lane) close() {
	l.file.Close()
	if err := unix.Munmap(l.scratch); err != nil {
		l.t.Error(err)
	}
}

// submit writes ops and has the board accept them.
func (l *lane) submit(calls ...call) {
	l.t.Helper()
	for _, c := range calls {
		l.seq++
		h := shm.Header{Kind: shm.KindLaunch, Lane: 1, Seq: l.seq}
		if c.signal {
			h.Flags = shm.RecordFlagWantSignal
		}
		var body []byte
		var ok bool
		if c.kernel == 0 && c.words[0]%3 == 0 {
			h.Kind = shm.KindCopy
			if body, _, ok = l.prod.Begin(h, int(unsafe.Sizeof(shm.Copy{}))); ok {
				shm.Put(body, shm.Copy{Dst: memoryAt + c.words[0]%1024*4, Src: memoryAt + 1<<16, Bytes: 64})
			}
		} else if c.kernel == 0 {
			h.Kind = shm.KindMemset
			if body, _, ok = l.prod.Begin(h, int(unsafe.Sizeof(shm.Memset{}))); ok {
				shm.Put(body, shm.Memset{Dst: memoryAt + c.words[0]%1024*4, Width: 4, Height: 1, Element: 4, Value: 7})
			}
		} else if body, _, ok = l.prod.Begin(h, int(unsafe.Sizeof(shm.Launch{}))+8*len(c.words)); ok {
			shm.Put(body, shm.Launch{Kernel: c.kernel, GridX: c.grid, GridY: 1, GridZ: 1, BlockX: 32, BlockY: 1, BlockZ: 1, ParamBytes: uint32(8 * len(c.words))})
			params := body[unsafe.Sizeof(shm.Launch{}):]
			for i, w := range c.words {
				binary.LittleEndian.PutUint64(params[8*i:], w)
			}
		}
		if !ok {
			l.t.Fatal("the ring is full")
		}
		l.prod.Publish()
		v, ok, err := l.ring.Next()
		if err != nil || !ok {
			l.t.Fatal(err)
		}
		if _, _, err := l.board.Accept(v, uint64(l.seq)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// name is what an op does.
func name(op *scoreboard.Op) string {
	if op.Kind != shm.KindLaunch {
		return fmt.Sprint(op.Kind, op.Args)
	}
	d := op.Launch()
	return fmt.Sprint(d.Function, d.Grid, d.Block, d.SharedBytes, d.Flags, bytes.Clone(paramsOf(d)))
}

// nodes builds a graph: what its nodes do.
type nodes struct {
	names []string
	set   int
}

func (n *nodes) GraphLaunch(gpu.GraphExec, gpu.Stream) gpu.Result { return gpu.Success }
func (n *nodes) GraphSetKernel(_ gpu.GraphExec, node gpu.GraphNode, d *gpu.Launch) gpu.Result {
	n.set++
	n.names[node-1] = fmt.Sprint(d.Function, d.Grid, d.Block, d.SharedBytes, d.Flags, bytes.Clone(paramsOf(d)))
	return gpu.Success
}

func (n *nodes) add(after []gpu.GraphNode, what string) (gpu.GraphNode, gpu.Result) {
	if len(after) != min(len(n.names), 1) || (len(after) == 1 && after[0] != gpu.GraphNode(len(n.names))) {
		return 0, gpu.InvalidValue
	}
	n.names = append(n.names, what)
	return gpu.GraphNode(len(n.names)), gpu.Success
}

func (n *nodes) GraphKernel(_ gpu.Graph, after []gpu.GraphNode, d *gpu.Launch) (gpu.GraphNode, gpu.Result) {
	return n.add(after, fmt.Sprint(d.Function, d.Grid, d.Block, d.SharedBytes, d.Flags, bytes.Clone(paramsOf(d))))
}

func (n *nodes) GraphMemset(_ gpu.Graph, after []gpu.GraphNode, dst, pitch, width, height uint64, element, value uint32) (gpu.GraphNode, gpu.Result) {
	return n.add(after, fmt.Sprint(uint16(shm.KindMemset), gpu.Copy3D{dst, pitch, width, height, uint64(element), uint64(value)}))
}

func (n *nodes) GraphCopy(_ gpu.Graph, after []gpu.GraphNode, dst, src, bytes uint64) (gpu.GraphNode, gpu.Result) {
	return n.add(after, fmt.Sprint(uint16(shm.KindCopy), gpu.Copy3D{dst, src, bytes}))
}

// step issues the lane's first op, or the run that begins with it. false: nothing waits.
func (l *lane) step() bool {
	l.t.Helper()
	ln := l.board.Lane(1)
	op := l.board.Ready(ln)
	if op == nil {
		return false
	}
	if op.Next() != nil && l.store.Wants(&l.track, op) {
		l.looks++
		var behind [Most]*scoreboard.Op
		ops := behind[:l.board.Following(op, behind[:])]
		if r := l.store.Look(&l.track, ops); r != nil {
			var g nodes
			r.nodes = r.nodes[:0]
			if res := r.Build(&g, 0, l.scratch); res != gpu.Success {
				l.t.Fatalf("building: %v", res)
			}
			if res := r.Launch(&g, 0, ops[:r.Len()]); res != gpu.Success {
				l.t.Fatalf("launching: %v", res)
			}
			if r.Changes() && g.set != len(r.vary) {
				l.t.Fatalf("%d nodes were set; want %d", g.set, len(r.vary))
			}
			for i, what := range g.names {
				if what != name(ops[i]) {
					l.t.Fatalf("op %d of a run is %s; want %s", i, what, name(ops[i]))
				}
				if ops[i].Signal && i < r.Len()-1 {
					l.t.Fatalf("op %d of %d wants a done word", i, r.Len())
				}
				l.board.Issue(ops[i], 0)
			}
			l.issued = append(l.issued, g.names...)
			l.prep += r.Len()
			l.store.Took(&l.track, r, 1, ops[r.Len()-1].Seq)
			return true
		}
	}
	l.issued = append(l.issued, name(op))
	few := op.Next() == nil
	l.board.Issue(op, 0)
	l.store.Went(&l.track, op, few)
	return true
}

// finish completes what is issued.
func (l *lane) finish() {
	ln := l.board.Lane(1)
	ln.Signalled = ln.Issued
	atomic.StoreUint32(&l.file.Lane(1).Done, ln.Issued)
	l.board.Poll(ln)
	l.board.Release()
	l.ring.Release(l.board.Head(), true)
}

func (l *lane) drain() {
	for l.step() {
	}
	l.finish()
}

// model is what a program repeats: n ops of a few kernels, as those of a network.
func model(r *rand.Rand, n int) []call {
	var out []call
	for i := range n {
		c := call{kernel: 1 + r.Uint32N(12), grid: 1 + r.Uint32N(3)}
		for range 1 + r.IntN(6) {
			c.words = append(c.words, uint64(r.IntN(64))<<12)
		}
		if r.IntN(20) == 0 {
			c = call{words: []uint64{uint64(i)}}
		}
		out = append(out, c)
	}
	return out
}

// A client that repeats the same ops with a backlog is soon served by prepared runs, nearly all of its ops.
func TestRepeats(t *testing.T) {
	for _, n := range []int{9, 40, 342, 1500} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var asked, retired []*Run
			s := newStore(&asked, &retired)
			l := newLane(t, s, 1)
			defer l.close()
			m := model(rand.New(rand.NewPCG(1, uint64(n))), n)
			m[0] = call{kernel: 1, grid: 1}
			const rounds = 40
			before := 0
			for round := range rounds {
				if round == rounds-10 {
					before = l.prep
				}
				l.submit(m...)
				l.drain()
				for _, r := range asked {
					r.Exec.Store(1)
				}
			}
			share := float64(l.prep-before) / float64(10*n)
			t.Logf("%d ops: %.3f of the last 10 rounds in runs of %.1f, %d runs, %d seeds, %d looks", n, share, float64(s.Ops)/float64(max(s.Words, 1)), s.Runs, s.Seeds, l.looks)
			if share < 0.9 {
				t.Errorf("%.3f of the ops went prepared; want 0.9", share)
			}
			if len(retired) > 0 {
				t.Errorf("%d runs were given up", len(retired))
			}
		})
	}
}

// Launches that others may join are in no run, unless all go by themselves now: then they are, from the same lane and at once.
func TestOfOthers(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	joined := &scoreboard.Code{}
	scoreboard.Publish(&scoreboard.Form{Bodies: []*scoreboard.Code{joined}, Limit: &atomic.Uint32{}})
	for k := uint32(1); k <= kernels; k++ {
		limit := &atomic.Uint32{}
		limit.Store(48 << 10)
		l.board.AddKernel(&scoreboard.Kernel{ID: k, Function: gpu.Function(1000 + k), Limit: limit, Code: joined})
	}
	m := make([]call, 40)
	for i := range m {
		m[i] = call{kernel: 1 + uint32(i)%12, grid: 1, words: []uint64{uint64(i) << 12}}
	}
	for _, apart := range []bool{false, true, false} {
		s.Apart = apart
		before := l.prep
		for range 20 {
			l.submit(m...)
			l.drain()
			for _, r := range asked {
				r.Exec.Store(1)
			}
		}
		switch share := float64(l.prep-before) / float64(20*len(m)); {
		case apart && share < 0.7:
			t.Errorf("apart: %.3f of the ops went prepared; want 0.7", share)
		case !apart && share > 0:
			t.Errorf("joined with others: %.3f of the ops went prepared; want none", share)
		}
	}
}

// One op in the middle changes its parameters always: the others are prepared nevertheless.
func TestOneChanges(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	m := model(rand.New(rand.NewPCG(2, 2)), 200)
	m[77] = call{kernel: 3, grid: 1, words: []uint64{0}}
	const rounds = 60
	before := 0
	for round := range rounds {
		if round == rounds-10 {
			before = l.prep
		}
		m[77].words = []uint64{uint64(round)}
		l.submit(m...)
		l.drain()
		for _, r := range asked {
			r.Exec.Store(1)
		}
	}
	share := float64(l.prep-before) / 2000
	t.Logf("%.3f of the last ops in runs, %d runs, %d seeds", share, s.Runs, s.Seeds)
	if share < 0.8 {
		t.Errorf("%.3f of the ops went prepared; want 0.8", share)
	}
	if s.Seeds > 200 {
		t.Errorf("%d seeds", s.Seeds)
	}
}

// Whatever a program does, what is issued is what was submitted, in order, and the store stays within its bounds: random programs with
// repeats, near-repeats, changing parameters, done words in between, backlogs of any length, hashes that always collide, and clients that
// leave.
func TestAnyProgram(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var asked, retired []*Run
		s := newStore(&asked, &retired)
		if rapid.Bool().Draw(rt, "collide") {
			s.hash = func(*scoreboard.Op) uint64 { return 7 }
		}
		seed := rapid.Uint64().Draw(rt, "seed")
		r := rand.New(rand.NewPCG(seed, 3))
		base := model(r, 1+rapid.IntRange(0, 120).Draw(rt, "ops"))
		change := rapid.IntRange(0, 30).Draw(rt, "change") // percent of ops
		var lanes []*lane
		for id := range uint64(1 + r.IntN(2)) {
			lanes = append(lanes, newLane(t, s, id+1))
		}
		want := make([][]string, len(lanes))
		for range rapid.IntRange(1, 12).Draw(rt, "rounds") {
			k := r.IntN(len(lanes))
			l := lanes[k]
			from := 0
			if r.IntN(4) == 0 {
				from = r.IntN(len(base))
			}
			for i := from; i < len(base); {
				for range 1 + r.IntN(50) {
					if i == len(base) {
						break
					}
					c := base[i]
					if r.IntN(100) < change {
						switch r.IntN(4) {
						case 0:
							c.grid++
						case 1:
							c.words = append(slices.Clone(c.words), 1)
						case 2:
							c.words = slices.Clone(c.words)
							if len(c.words) > 0 {
								c.words[r.IntN(len(c.words))] ^= 1 << r.IntN(64)
							}
						case 3:
							c.signal = true
						}
					}
					l.submit(c)
					last := l.board.Lane(1).Last()
					want[k] = append(want[k], name(last))
					i++
				}
				for range 1 + r.IntN(60) {
					if !l.step() {
						break
					}
				}
				if r.IntN(3) == 0 {
					l.finish()
				}
				for _, a := range asked {
					if r.IntN(2) == 0 {
						a.Exec.Store(1)
					}
				}
			}
			l.drain()
			if s.Runs > MostRuns || s.Runs != len(asked)-len(retired) {
				rt.Fatalf("%d runs kept, %d asked for, %d retired", s.Runs, len(asked), len(retired))
			}
		}
		for k, l := range lanes {
			if !slices.Equal(l.issued, want[k]) {
				rt.Fatalf("issued %d ops, submitted %d, or others", len(l.issued), len(want[k]))
			}
			s.Forget(uint64(k+1), false)
			for id := uint32(1); id <= kernels; id++ {
				if n := l.board.KernelByID(id).Starts; n != 0 {
					rt.Fatalf("kernel %d: %d runs begin with it, after its client left", id, n)
				}
			}
			l.close()
		}
		if s.Runs != 0 || len(asked) != len(retired) {
			rt.Fatalf("%d runs are left", s.Runs)
		}
	})
}

// An endless stream of new sequences, each repeated a few times, fills no memory, and one client does not take another's place.
func TestBounded(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	flood, quiet := newLane(t, s, 1), newLane(t, s, 2)
	defer flood.close()
	defer quiet.close()
	mine := model(rand.New(rand.NewPCG(1, 1)), 60)
	mine[0] = call{kernel: 1, grid: 1}
	for i := range uint64(900) {
		m := model(rand.New(rand.NewPCG(i, 9)), 40)
		for range 12 {
			flood.submit(m...)
			flood.drain()
		}
		if i%8 == 0 {
			quiet.submit(mine...)
			quiet.drain()
		}
		for _, r := range asked {
			r.Exec.Store(1)
		}
		if n := s.sessions[1]; n != nil && n.runs > ofSession {
			t.Fatalf("%d runs of one client", n.runs)
		}
	}
	t.Logf("%+v; the other client: %d of %d ops", s.Counters, quiet.prep, len(quiet.issued))
	if s.Evicted == 0 || s.Learned < 2*ofSession {
		t.Errorf("%d runs were learned and %d evicted: too few to say anything", s.Learned, s.Evicted)
	}
	if quiet.prep < len(quiet.issued)/2 {
		t.Errorf("%d of %d ops of the other client were prepared", quiet.prep, len(quiet.issued))
	}
}

// Where nothing repeats an op is hardly looked at, and nothing is allocated for it.
func TestNothingRepeats(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	r := rand.New(rand.NewPCG(5, 5))
	const n = 40000
	for i := 0; i < n; i += 100 {
		for k := range 100 {
			l.submit(call{kernel: 1 + r.Uint32N(12), grid: 1, words: []uint64{uint64(i + k)}})
		}
		l.drain()
	}
	t.Logf("%d looks, %d seeds for %d ops", l.looks, s.Seeds, n)
	if l.looks > n/50 || s.Learned != 0 || l.prep != 0 {
		t.Errorf("%d looks, %d learned, %d prepared", l.looks, s.Learned, l.prep)
	}
}

// Bytes decide, not hashes: runs that begin alike, differ in one bit, and collide are told apart.
func TestCollisions(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	s.hash = func(*scoreboard.Op) uint64 { return 1 }
	l := newLane(t, s, 1)
	defer l.close()
	base := model(rand.New(rand.NewPCG(3, 3)), 24)
	base[0] = call{kernel: 1, grid: 1, words: []uint64{1}}
	base[13] = call{kernel: 2, grid: 1, words: []uint64{0}}
	for round := range 60 {
		base[13].words = []uint64{uint64(round % 3)}
		l.submit(base...)
		l.drain() // step compares what it issues
		for _, r := range asked {
			r.Exec.Store(1)
		}
	}
	if l.prep < len(l.issued)/2 {
		t.Errorf("%d of %d ops were prepared", l.prep, len(l.issued))
	}
}

// A client whose runs all begin alike, and differ at their ends, has few of them: a look compares no more.
func TestVariants(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	m := model(rand.New(rand.NewPCG(4, 4)), 30)
	for i := range m {
		if m[i].kernel == 0 {
			m[i] = call{kernel: 5, grid: 1}
		}
	}
	m[0] = call{kernel: 1, grid: 1}
	for i := range uint64(400) {
		for k := range m[20:] {
			m[20+k].words = []uint64{i, uint64(k)}
		}
		for range 4 {
			l.submit(m...)
			l.drain()
		}
		for _, r := range asked {
			r.Exec.Store(1)
		}
		for _, r := range s.bucket {
			n := 0
			for ; r != nil; r = r.chain {
				n++
			}
			if n > variants+2 { // others may be in the same bucket by chance
				t.Fatalf("%d runs in one bucket", n)
			}
		}
	}
	t.Logf("%+v", s.Counters)
	if s.Learned == 0 {
		t.Error("nothing was learned")
	}
}

// Runs that name memory go with it; the others stay.
func TestForgetNamed(t *testing.T) {
	var asked, retired []*Run
	s := newStore(&asked, &retired)
	l := newLane(t, s, 1)
	defer l.close()
	m := model(rand.New(rand.NewPCG(8, 8)), 64)
	for i := range m {
		if m[i].kernel == 0 {
			m[i] = call{kernel: 5, grid: 1}
		}
	}
	m[20] = call{words: []uint64{3}}
	for range 8 {
		l.submit(m...)
		l.drain()
	}
	had := s.Runs
	s.Forget(1, true)
	if len(retired) == 0 || s.Runs == 0 || s.Runs != had-len(retired) {
		t.Errorf("%d runs, %d retired, %d left", had, len(retired), s.Runs)
	}
	for _, r := range retired {
		if !r.names() || !r.Dropped.Load() {
			t.Error("a run without addresses was retired, or it is not marked")
		}
	}
}

// BenchmarkLook is what recognition costs an op that waits with others behind it: nothing repeats, the kernels do but not their
// parameters, or all of it does.
func BenchmarkLook(b *testing.B) {
	for _, kind := range []string{"nothing", "kernels", "all"} {
		b.Run(kind, func(b *testing.B) {
			s := New(Options{Ask: func(r *Run) bool { r.Exec.Store(1); return true }, Retire: func(*Run) {}})
			l := newLane(b, s, 1)
			defer l.close()
			r := rand.New(rand.NewPCG(1, 1))
			m := model(r, 342)
			var behind [Most]*scoreboard.Op
			board, ln := l.board, l.board.Lane(1)
			n := uint64(0)
			for done := 0; done < b.N; done += len(m) {
				b.StopTimer()
				for i := range m {
					c := m[i]
					if n++; kind != "all" && c.kernel != 0 {
						c.words = append(slices.Clone(c.words), n)
						if kind == "nothing" {
							c.kernel = 13 + uint32(n%27)
						}
					}
					l.submit(c)
				}
				b.StartTimer()
				for {
					op := board.Ready(ln)
					if op == nil {
						break
					}
					if op.Next() != nil && s.Wants(&l.track, op) {
						ops := behind[:board.Following(op, behind[:])]
						if run := s.Look(&l.track, ops); run != nil {
							for _, o := range ops[:run.Len()] {
								board.Issue(o, 0)
							}
							s.Took(&l.track, run, 1, ln.Issued)
							continue
						}
					}
					board.Issue(op, 0)
				}
				b.StopTimer()
				l.finish()
			}
		})
	}
}
