package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestGraphsInParts: beside a client that may not wait, another's long graph is launched in parts, and gives what it gives natively.
func TestGraphsInParts(t *testing.T) {
	b := newBed(t)
	native := b.stepper(false)
	short := native.do("fill 3 2")
	const times = 4
	ask := fmt.Sprintf("graph 5 %d", times)
	long := native.do(ask)

	low, urgent := b.patientAndUrgent()
	for c := (crowds{}); ; {
		low.tell(ask)
		answer := make(chan string, 1)
		go func() { answer <- low.hear() }()
		for over := false; !over; {
			if urgent.do("fill 3 2") != short {
				t.Fatal("the urgent client gets another result than natively")
			}
			select {
			case got := <-answer:
				if over = true; got != long {
					t.Fatal("the patient client gets another result than natively")
				}
			case <-time.After(time.Millisecond): // and ask again
			}
		}
		st, err := b.counters()
		if err != nil {
			t.Fatal(err)
		}
		if st.Graphs.Launches != uint64((c.tried+1)*times) || st.Graphs.Refused["nodes"]+st.Graphs.Refused["driver"] > 0 {
			t.Fatalf("%+v", st.Graphs)
		}
		if st.Coalescing.OpsSliced >= 2 && st.Coalescing.Slices > 3*st.Coalescing.OpsSliced {
			t.Logf("%d graphs in %d parts", st.Coalescing.OpsSliced, st.Coalescing.Slices)
			return
		}
		if c.enough() {
			t.Fatalf("%d graphs in parts: %+v", st.Coalescing.OpsSliced, st.Coalescing)
		}
	}
}

// TestEndlessGraphs: new graphs without end, each destroyed in flight, leave nothing in daemon and executor.
func TestEndlessGraphs(t *testing.T) {
	b := newBed(t)
	n := 300
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		n = 20_000
	}
	ask := fmt.Sprintf("graphs 9 %d", n)
	want := b.stepper(false).do(ask)
	b.startDaemon()
	c := b.stepper(true)
	if c.do("graphs 9 3") == "" {
		t.Fatal("nothing")
	}
	files := b.daemonFds()
	if got := c.do(ask); got != want {
		t.Errorf("%s; natively %s", got, want)
	}
	c.do("graphs 9 1") // what the daemon keeps of dropped graphs it looks at when the next one comes
	deadline := time.Now().Add(clientTimeout)
	for {
		st, err := b.counters()
		if err != nil {
			t.Fatal(err)
		}
		if st.Graphs.Live == 0 && st.Graphs.Launches == uint64(n+4) && b.daemonFds() <= files+4 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v; the daemon has %d files, before %d", st.Graphs, b.daemonFds(), files)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestGraphsOverAnExecutorsDeath: a graph that was not launched is launched by the next executor; one in flight is lost, by name, and
// others do not notice.
func TestGraphsOverAnExecutorsDeath(t *testing.T) {
	b := newBed(t)
	native := b.stepper(false)
	const ask = "graph 5 3"
	want := native.do(ask)
	b.startDaemon()
	idle := b.stepper(true)
	for round := range 3 {
		if got := idle.do(ask); got != want {
			t.Fatalf("round %d: %s; natively %s", round, got, want)
		}
		st, err := b.status()
		if err != nil || len(st.Executors) != 1 {
			t.Fatal(err, st)
		}
		epoch := st.Executors[0].Epoch
		if !b.killExecutor() {
			t.Fatal("no executor to kill")
		}
		for deadline := time.Now().Add(clientTimeout); ; time.Sleep(time.Millisecond) {
			if st, err = b.status(); err == nil && st.Executors[0].Epoch > epoch && st.Executors[0].State == "live" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no other executor: %+v", st)
			}
		}
	}
	if got := idle.do(ask); got != want {
		t.Errorf("%s; natively %s", got, want)
	}
}
