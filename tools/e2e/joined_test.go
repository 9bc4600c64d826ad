package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// TestGraphsJoined: graphs of several clients that launch them at about the same time go as one word, side by side and, once their kernel
// has a form, with each step of all as one launch. They give what they give natively, while the clients change, destroy and make graphs and
// one stays away; one that is killed in the middle spoils nothing, and nothing of it stays.
func TestGraphsJoined(t *testing.T) {
	b := newBed(t)
	const clients = 4
	times := 96
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		times = 5_000
	}
	ask := func(i int) string { return fmt.Sprintf("rounds %d %d", 10*i+3, times) }
	native := b.stepper(false)
	var want [clients]string
	for i := range want {
		want[i] = native.do(ask(i))
	}
	many := native.do("graphs 9 20")
	b.startDaemon("HEDDLE_JOIN_GRAPHS=always", "HEDDLE_GATHER=2ms")
	var all [clients]*stepper
	for i := range all {
		all[i] = b.stepper(true)
	}
	together := func(from int) {
		t.Helper()
		for i := from; i < clients; i++ {
			all[i].tell(ask(i))
		}
		for i := from; i < clients; i++ {
			if got := all[i].hear(); got != want[i] {
				t.Fatalf("client %d: %s; natively %s", i, got, want[i])
			}
		}
	}
	var before executor.JoinedStats
	crowd := func(what string, from int, enough func(j executor.JoinedStats) bool) {
		t.Helper()
		for c := (crowds{}); ; {
			together(from)
			st, err := b.counters()
			if err != nil {
				t.Fatal(err)
			}
			j := st.Graphs.Joined
			if st.Graphs.Refused["nodes"]+st.Graphs.Refused["driver"] > 0 || j.Refused > 0 && j.Made == 0 {
				t.Fatalf("%+v", st.Graphs)
			}
			if enough(j) {
				before = j
				t.Logf("%s: %d graphs in %d words; in %d of these %d kernels as %d", what, j.Launches, j.Words, j.Coalesced.Words, j.Coalesced.Kernels, j.Coalesced.Nodes)
				return
			}
			if c.enough() {
				t.Fatalf("not %s: %+v, %+v", what, j, b.kernelRows()["step"])
			}
		}
	}
	crowd("joined", 0, func(j executor.JoinedStats) bool { return j.Words >= 4 })
	for c := (crowds{}); len(b.kernelRows()["step"].Forms) == 0; {
		if together(0); c.enough() {
			t.Fatalf("no form: %+v", b.kernelRows()["step"])
		}
	}
	coalesced := func(j executor.JoinedStats) bool {
		return j.Coalesced.Words >= before.Coalesced.Words+4 && j.Coalesced.Kernels >= 2*j.Coalesced.Nodes
	}
	crowd("coalesced", 0, coalesced)
	crowd("coalesced without one", 1, coalesced)
	// One of them dies in the middle, one makes ever new graphs.
	for i := range clients - 1 {
		all[i].tell(ask(i))
	}
	all[clients-1].tell("graphs 9 20")
	all[0].kill()
	for i := 1; i < clients-1; i++ {
		if got := all[i].hear(); got != want[i] {
			t.Errorf("client %d, beside one that died: %s; natively %s", i, got, want[i])
		}
	}
	if got := all[clients-1].hear(); got != many {
		t.Errorf("a client of many graphs: %s; natively %s", got, many)
	}
	copy(all[:], all[1:])
	copy(want[:], want[1:])
	for deadline := time.Now().Add(clientTimeout); ; time.Sleep(5 * time.Millisecond) {
		st, err := b.counters()
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Sessions) == clients-1 && st.Graphs.Live == 0 && st.Graphs.Joined.Kept == 0 && st.Graphs.Joined.Nodes == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions, %+v", len(st.Sessions), st.Graphs)
		}
	}
}
