package executor

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// dividedGPU is a driver that divides 132 SMs.
type dividedGPU struct {
	*fakeGPU
	mu      sync.Mutex
	parts   []int              // sizes of the partitions made
	on      map[gpu.Stream]int // streams of partitions, and how many SMs those have
	inside  atomic.Int64       // launches on one
	refused atomic.Int64
	picky   bool // the kernel that comes first is refused there
	first   gpu.Function
	lacks   error // it divides nothing
}

func newDividedGPU() *dividedGPU {
	return &dividedGPU{fakeGPU: newFakeGPU(), on: map[gpu.Stream]int{}}
}

func (g *dividedGPU) open() (Driver, Facts, error) { return g, g.facts(), nil }

func (g *dividedGPU) PartitionUnit() (sms, unit int, err error) {
	if g.lacks != nil {
		return 0, 0, g.lacks
	}
	return 132, 8, nil
}

func (g *dividedGPU) NewPartition(sms int) (gpu.Partition, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parts = append(g.parts, sms)
	return gpu.Partition{SMs: (sms + 7) / 8 * 8}, nil
}

func (g *dividedGPU) PartitionStream(p gpu.Partition, priority int) (gpu.Stream, error) {
	s, err := g.StreamCreate(priority)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on[s] = p.SMs
	return s, err
}

// sizes are the partitions that were made.
func (g *dividedGPU) sizes() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]int(nil), g.parts...)
}

func (g *dividedGPU) Launch(l *gpu.Launch) gpu.Result {
	g.mu.Lock()
	sms := g.on[l.Stream]
	if sms > 0 && g.first == 0 {
		g.first = l.Function
	}
	first := g.first
	g.mu.Unlock()
	if sms > 0 {
		if g.picky && l.Function == first {
			g.refused.Add(1)
			return 912 // CUDA_ERROR_INVALID_CLUSTER_SIZE
		}
		g.inside.Add(1)
	}
	return g.fakeGPU.Launch(l)
}

func (d *daemon) class(client uint64, name string, c shm.Class) {
	d.t.Helper()
	c.Flags |= shm.ClassFlagCoalesce
	d.must(shm.Message{Type: shm.TypeClass, ClientID: client, Body: shm.Encode(c), Tail: []byte(name)})
}

// Random programs while their classes' partition is set, changed and taken away at any moment: whatever is in flight, order holds, and
// kernels ran in partitions and on the whole chip, also such as partitions refuse.
func TestRandomProgramsConfined(t *testing.T) {
	var inside, refused int64
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var g *dividedGPU
			randomProgramOn(t, seed, seed%2 == 1, func(f *fakeGPU) Driver {
				g = &dividedGPU{fakeGPU: f, on: map[gpu.Stream]int{}, picky: seed%3 != 0}
				return g
			}, func(d *daemon, stop chan struct{}) {
				r := rand.New(rand.NewPCG(seed, 99))
				d.class(3, "urgent", shm.Class{Priority: 100})
				for {
					for id := uint64(1); id <= 2; id++ {
						// Mostly there and back: a size that is not there yet is made.
						d.class(id, fmt.Sprint("batch", id), shm.Class{PartitionPpm: [...]uint32{0, 500_000, 500_000, 500_000, 200_000}[r.IntN(5)]})
					}
					select {
					case <-stop:
						return
					case <-time.After(time.Duration(r.IntN(3000)) * time.Microsecond):
					}
				}
			})
			t.Logf("%d launches in partitions, %d refused there; made: %v", g.inside.Load(), g.refused.Load(), g.sizes())
			inside += g.inside.Load()
			refused += g.refused.Load()
		})
	}
	if inside < 200 || refused == 0 {
		t.Errorf("%d launches in partitions, %d refused there", inside, refused)
	}
}

// A class's kernels run in its partition while a more urgent class had work of late, and on the whole chip again 100 ms later; the
// statistics say so.
func TestPartition(t *testing.T) {
	g := newDividedGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", func([]byte) {})
	d := start(t, g.open, nil, nil)
	d.image(1, testImage)
	low, high := d.client(1), d.client(2)
	for _, c := range []*tester{low, high} {
		c.kernel(1, 1, "check")
		c.resume()
	}
	d.class(1, "batch", shm.Class{PartitionPpm: 500_000})
	d.class(2, "urgent", shm.Class{Priority: 100})
	launch := func(c *tester) (inside bool) {
		t.Helper()
		n := g.inside.Load()
		c.mustSync(1, c.launch(1, 1, u64s(0), nil))
		return g.inside.Load() > n
	}
	if launch(low) {
		t.Error("it is confined although nobody else had work")
	}
	until(t, "it is confined beside the urgent one", func() bool { return !launch(high) && launch(low) })
	if got := g.sizes(); len(got) != 1 || got[0] != 72 {
		t.Errorf("partitions of %v SMs were made; want one of 72", got)
	}
	sessions := func() (sms [2]int) {
		for _, s := range d.stats().Sessions {
			sms[s.ClientID-1] = s.Partition
		}
		return sms
	}
	launch(high)
	launch(low)
	if got := sessions(); got != [2]int{72, 0} {
		t.Errorf("the statistics say %v", got)
	}
	until(t, "it has the whole chip again", func() bool { return !launch(low) })
	if got := sessions(); got != [2]int{} {
		t.Errorf("afterwards the statistics say %v", got)
	}
	d.class(1, "batch", shm.Class{PartitionPpm: 250_000})
	until(t, "the reloaded size is in force", func() bool { launch(high); return launch(low) && sessions()[0] == 40 })
	d.class(1, "batch", shm.Class{})
	launch(high)
	if launch(low) {
		t.Error("it is confined although the key is gone")
	}

}

// Where the driver divides nothing the key does nothing.
func TestNotDivided(t *testing.T) {
	g := newDividedGPU()
	g.lacks = gpu.NotSupported
	t.Cleanup(g.unmapAll)
	g.define("check", func([]byte) {})
	d := start(t, g.open, nil, nil)
	d.image(1, testImage)
	low := d.client(1)
	low.kernel(1, 1, "check")
	low.resume()
	d.class(1, "batch", shm.Class{PartitionPpm: 500_000})
	low.mustSync(1, low.launch(1, 1, u64s(0), nil))
	if st := d.stats().Sessions[0]; len(g.sizes()) != 0 || st.Partition != 0 {
		t.Error("partitions were made")
	}
}

// A long op of a confined class begins while a request of a class that waits for nothing so long is under way; not while that class
// has a graph in flight; and nothing of a class that is not confined.
func TestBesideRequests(t *testing.T) {
	for _, confined := range []bool{true, false} {
		s := sched.New()
		board := func(slot int) *scoreboard.Session {
			f, err := shm.CreateSessionFile(uint64(slot + 1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			b := scoreboard.New(uint64(slot+1), f)
			b.Slot = slot
			return b
		}
		urgent, low := board(0), board(1)
		u := s.Attach(urgent, s.Set("urgent", sched.Settings{Priority: 100, MaxWait: 50 * micro}))
		k := s.Set("batch", sched.Settings{Partition: 0.5})
		s.Attach(low, k)
		if s.Pressed(k, 1) {
			t.Error("nobody had work, and the class is pressed")
		}
		now := int64(1e9)
		s.MarkBegin(u, now)
		first := &scoreboard.Op{Session: urgent, Kind: shm.KindLaunch, Kernel: &scoreboard.Kernel{}, Lane: 1}
		s.Arrive(u, first, now)
		s.Ready(first, now)
		s.Add(first)
		if !s.Pressed(k, now) {
			t.Error("the urgent class has work, and the other is not pressed")
		}
		s.Next()
		s.Issued(first, 10*micro, true, 1, now)
		if k.Confined = confined; confined {
			low.Partition = 1
		}
		long := &scoreboard.Op{Session: low, Kind: shm.KindLaunch, Kernel: &scoreboard.Kernel{}, Lane: 1, Cost: 1000 * micro}
		s.Begin(now, 0)
		s.Ready(long, now)
		s.Add(long)
		s.Begin(now, 0)
		if got := s.Peek(); (got == long) != confined {
			t.Errorf("confined: %v: the long op may begin: %v", confined, got == long)
		}
		long.Kernel.Whole.Store(true)
		if got := s.Peek(); got != nil {
			t.Error("a long op that runs on the whole chip may begin")
		}
	}
}
