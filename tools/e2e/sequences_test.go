package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// TestSequencesPrepared: a program that repeats its launches is served by prepared graphs, alone and beside others, and computes what it
// computes natively.
func TestSequencesPrepared(t *testing.T) {
	b := newBed(t)
	const clients = 2
	want := make([]result, clients)
	for i := range want {
		if want[i] = b.run(false, "sequences", seeded(i)); want[i].code != 0 {
			t.Fatalf("natively: exit code %d\n%s", want[i].code, want[i].err)
		}
	}
	b.startDaemon()
	check := func(i int, r result) {
		t.Helper()
		if r.code != 0 || r.out != want[i].out {
			t.Errorf("seed %d: exit code %d\nunder Heddle:\n%snatively:\n%sstderr:\n%s", i+1, r.code, r.out, want[i].out, r.err)
		}
	}
	prepared := func() executor.PreparedStats {
		t.Helper()
		st, err := b.status()
		if err != nil || len(st.Executors) != 1 {
			t.Fatalf("%+v, %v", st.Executors, err)
		}
		var s executor.Stats
		if err := json.Unmarshal(st.Executors[0].Counters, &s); err != nil {
			t.Fatal(err)
		}
		return s.Prepared
	}
	var alone executor.PreparedStats
	for c := (crowds{}); ; {
		check(0, b.run(true, "sequences", seeded(0)))
		alone = prepared()
		t.Logf("alone: %+v", alone)
		// A client that this machine ran slower than the executor never had launches waiting: see crowds.
		if alone.Words > 0 || t.Failed() || c.enough() {
			break
		}
	}
	if alone.Words == 0 || alone.Ops < 4*alone.Words || alone.Made == 0 || alone.Refused != 0 {
		t.Errorf("alone: %+v; want ops in prepared words, and no graph refused", alone)
	}
	for end := time.Now().Add(clientTimeout); prepared().Runs != 0; time.Sleep(5 * time.Millisecond) { // the daemon sees its end a little later
		if time.Now().After(end) {
			t.Fatal("runs are kept of a client that is gone")
		}
	}
	done := make(chan result, clients)
	for i := range clients {
		go func() {
			r := b.run(true, "sequences", seeded(i))
			check(i, r)
			done <- r
		}()
	}
	for range clients {
		<-done
	}
	t.Logf("together: %+v", prepared())
}
