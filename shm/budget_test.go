package shm

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// pushBudget is how many instructions one push may take: reserve, header, one dependency, body, 48 parameter bytes, publish; no
// system call. 144 were needed when this was written with gcc 12, 45 of them the caller's own, to build the body.
const pushBudget = 165

// TestInstructionsPerPush counts with callgrind, which gives the same number on every machine of one architecture and compiler.
func TestInstructionsPerPush(t *testing.T) {
	if _, err := exec.LookPath("valgrind"); err != nil {
		t.Fatal("valgrind is missing; install it with: apt-get install -y valgrind")
	}
	program := buildC(t, "push")
	collected := regexp.MustCompile(`Collected : (\d+)`)
	count := func(pushes int) int {
		out, err := exec.Command("valgrind", "--tool=callgrind", "--callgrind-out-file="+filepath.Join(t.TempDir(), "out"), program, strconv.Itoa(pushes)).CombinedOutput()
		m := collected.FindSubmatch(out)
		if err != nil || m == nil {
			t.Fatalf("callgrind: %v\n%s", err, out)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	const pushes = 10000
	per := float64(count(2*pushes)-count(pushes)) / pushes
	t.Logf("%.1f instructions a push", per)
	if per > pushBudget || per < 20 {
		t.Errorf("%.1f instructions a push; the budget is %d (and less than 20 cannot be)", per, pushBudget)
	}
}

// TestReadAllocatesNothing pushes and reads one record of every kind; neither side may allocate.
func TestReadAllocatesNothing(t *testing.T) {
	s, d := newSession(t)
	p, c := newProducer(t, s, d), NewConsumer(s)
	deps := []Dep{{Lane: 1, Value: 2}, {Lane: 3, Value: 4}}
	kernels, records := uint32(0), 0
	allocs := testing.AllocsPerRun(1000, func() {
		for kind := uint16(1); int(kind) < len(kinds); kind++ {
			body, _, ok := p.Begin(Header{Kind: kind, Lane: 1, Seq: 1, Deps: deps}, int(kinds[kind].body))
			if !ok {
				t.Fatal("no room")
			}
			clear(body)
			if kind == KindMemset {
				Put(body, Memset{Element: 1})
			}
		}
		p.Publish()
		for {
			v, ok, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if v.Kind == KindLaunch {
				l, _ := v.Launch()
				kernels += l.GridX + 1
			}
			records += len(v.Deps()) / 2
			c.Release(v.End, true)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a round", allocs)
	}
	if records != 1001*(len(kinds)-1) || kernels != 1001 {
		t.Errorf("%d records, %d launches", records, kernels)
	}
}

func BenchmarkPushAndRead(b *testing.B) {
	s, d := newSession(b)
	p, c := newProducer(b, s, d), NewConsumer(s)
	l := Launch{Kernel: 1, GridX: 1, GridY: 1, GridZ: 1, BlockX: 32, BlockY: 1, BlockZ: 1, ParamBytes: 48}
	for b.Loop() {
		body, _, ok := p.Begin(Header{Kind: KindLaunch, Lane: 1, Seq: 1}, 64+48)
		if !ok {
			b.Fatal("no room")
		}
		Put(body, l)
		p.Publish()
		v, ok, err := c.Next()
		if !ok {
			b.Fatal(fmt.Sprint("no record: ", err))
		}
		c.Release(v.End, true)
	}
}

// BenchmarkWake is the time from a publish to the return of a Doorbell.Sleep in another goroutine.
func BenchmarkWake(b *testing.B) {
	s, d := newSession(b)
	p, c := newProducer(b, s, d), NewConsumer(s)
	ready := make(chan struct{})
	done := make(chan struct{})
	go func() {
		for range ready {
			for c.Empty() {
				d.Sleep(func() bool { return !c.Empty() }, time.Second)
			}
			v, _, _ := c.Next()
			c.Release(v.End, true)
			done <- struct{}{}
		}
	}()
	for b.Loop() {
		ready <- struct{}{}
		p.Begin(Header{Kind: KindSignal, Lane: 1, Seq: 1}, 0)
		p.Publish()
		<-done
	}
	close(ready)
}
