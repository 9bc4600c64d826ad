package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/perfetto/perfettotest"
)

// patientAndUrgent starts a daemon and two of its clients, of which the second may not wait for the first.
func (b *bed) patientAndUrgent() (patient, urgent *stepper) {
	b.t.Helper()
	policy := filepath.Join(b.t.TempDir(), "policy.toml")
	rules := fmt.Sprintf(`schema_version = 1
[class.urgent]
priority = 100
max_wait = "3us"
allow_uid = [%d]
[[match]]
class = "urgent"
label = "urgent"
`, os.Getuid())
	if err := os.WriteFile(policy, []byte(rules), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.startDaemon("HEDDLE_POLICY=" + policy)
	return b.stepper(true, "HEDDLE_LABEL=patient"), b.stepper(true, "HEDDLE_LABEL=urgent")
}

// TestSlices: beside a client that may not wait, long kernels of another are issued in slices, by a form that was made when they were
// seen to be too long. Both get what they get natively; an op that may not wait goes next, whatever is left of the long one; and
// what the executor counts, records and explains agrees.
func TestSlices(t *testing.T) {
	b := newBed(t)
	native := b.stepper(false)
	native.tell("fill 3 2")
	short := native.hear()
	const times = 10
	native.tell(fmt.Sprintf("long 5 %d", times))
	long := native.hear()

	low, urgent := b.patientAndUrgent()
	request := func() {
		t.Helper()
		if urgent.tell("fill 3 2"); urgent.hear() != short {
			t.Fatal("the urgent client gets another result than natively")
		}
	}
	request()
	file := filepath.Join(t.TempDir(), "t.pftrace")
	record := b.heddle("record", "-o", file, "--seconds", "60", "--json")
	record.Stderr = b.log
	if err := record.Start(); err != nil {
		t.Fatal(err)
	}
	for c := (crowds{}); ; {
		low.tell(fmt.Sprintf("long 5 %d", times))
		answer := make(chan string, 1)
		go func() { answer <- low.hear() }()
		// A request whenever the long kernels have come further.
		for last, over := uint64(0), false; !over; {
			request()
			at := last
			for at == last && !over {
				select {
				case got := <-answer:
					if over = true; got != long {
						t.Fatal("the patient client gets another result than natively")
					}
				case <-time.After(5 * time.Millisecond): // and look again
				}
				if st, err := b.counters(); err == nil {
					at = st.Words - st.Classes[len(st.Classes)-1].Ops // those of the class urgent, the last by name, are not joined
				}
			}
			last = at
		}
		st, err := b.counters()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d kernels in %d slices", st.Coalescing.OpsSliced, st.Coalescing.Slices)
		if st.Coalescing.OpsSliced >= 4 {
			break
		}
		if c.enough() {
			t.Fatalf("%d kernels were sliced; %+v", st.Coalescing.OpsSliced, st.Classes)
		}
	}
	record.Process.Signal(syscall.SIGINT)
	if err := record.Wait(); err != nil {
		t.Fatal(err)
	}
	step := b.kernelRows()["step"]
	if st, err := b.counters(); err != nil || step.Sliced != st.Coalescing.OpsSliced || step.Slices != st.Coalescing.Slices || step.Slices < 2*step.Sliced {
		t.Errorf("%v: %+v, %+v", err, step, st.Coalescing)
	}
	if text, err := b.heddle("explain", "step").CombinedOutput(); err != nil || !strings.Contains(string(text), "slices of their blocks") {
		t.Errorf("%v: %s", err, text)
	}

	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := perfettotest.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	type span struct{ begin, end int64 }
	var cut []span
	issued := map[uint64]span{} // by the word's number
	for _, s := range tr.Slices {
		if path := tr.Path(s.Track); len(path) == 2 && strings.HasPrefix(path[1], "stream ") {
			issued[s.Numbers["word"]] = span{s.Begin, s.End}
			if strings.HasPrefix(s.Name, "step, blocks from ") {
				cut = append(cut, span{s.Begin, s.End})
				if s.Texts["path"] != "sliced" || s.Numbers["blocks"] == 0 {
					t.Errorf("%+v", s)
				}
			}
		}
	}
	looked := 0
	if !slices.ContainsFunc(tr.Slices, func(s perfettotest.Slice) bool { return s.Name == "waits: slices" }) {
		t.Error("the recording does not say why ops went in slices")
	}
	for _, s := range tr.Slices {
		path := tr.Path(s.Track)
		w, ok := issued[s.Numbers["word"]]
		if len(path) != 2 || !strings.Contains(path[0], "urgent") || !strings.HasPrefix(path[1], "lane ") || s.Depth != 0 || !ok {
			continue
		}
		between, ahead := 0, 0
		for _, x := range cut {
			switch {
			case x.begin > s.Begin && x.begin < w.begin:
				between++
			case x.begin <= s.Begin && x.end > s.Begin:
				ahead++
			}
		}
		// On a real GPU max_wait bounds what is in flight more than that; the software GPU takes so much longer than it says that the
		// executor thinks the ops stuck, and only the bound of slices of one op, and of the one behind it, is left.
		if between > 0 || ahead > 2*word.SlicesAhead {
			t.Errorf("%d slices were issued while urgent %s was ready, and %d were in flight", between, s.Name, ahead)
		}
		looked++
	}
	t.Logf("%d urgent ops beside %d slices", looked, len(cut))
	if looked < 10 || len(cut) == 0 {
		t.Error("the recording lacks one or the other")
	}
}
