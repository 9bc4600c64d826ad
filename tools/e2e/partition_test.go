package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
)

// dividing is a policy whose default class has a part of the multiprocessors; 0: all.
func dividing(t *testing.T, path string, share float64) {
	t.Helper()
	part := ""
	if share > 0 {
		part = fmt.Sprintf("partition = %v\n", share)
	}
	rules := fmt.Sprintf(`schema_version = 1
[class.default]
coalesce = false # and so never in slices
%s[class.urgent]
priority = 100
max_wait = "1ms"
allow_uid = [%d]
[[match]]
class = "urgent"
label = "urgent"
`, part, os.Getuid())
	if err := os.WriteFile(path+".new", []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// ran is what clients/confined.c prints.
type ran struct {
	digest         string
	first, last, n int
}

func (s *stepper) where(line string) (r ran) {
	s.b.t.Helper()
	text := s.do(line)
	if _, err := fmt.Sscan(text, &r.digest, &r.first, &r.last, &r.n); err != nil {
		s.b.t.Fatalf("%q: %v", text, err)
	}
	return r
}

// TestPartition: kernels that cannot be sliced run on a part of the multiprocessors while a more urgent client had work of late, on all
// when it had none; what a part refuses, and graphs, on all. Whatever runs where, and while the key is reloaded, results are the native
// ones, and the daemon says what is so.
func TestPartition(t *testing.T) {
	b := newBed(t)
	native := b.stepperOf("confined", false)
	lines := []string{"work 3 5", "cluster 4 3", "graph 5 4"}
	want := map[string]string{}
	for _, line := range lines {
		r := native.where(line)
		if want[line] = r.digest; r.n != 132 {
			t.Fatalf("natively %q runs on %d SMs", line, r.n)
		}
	}
	policy := filepath.Join(t.TempDir(), "policy.toml")
	dividing(t, policy, 0.25)
	b.startDaemon("HEDDLE_POLICY=" + policy)
	low, urgent := b.stepperOf("confined", true), b.stepper(true, "HEDDLE_LABEL=urgent")
	do := func(line string) ran {
		t.Helper()
		r := low.where(line)
		if r.digest != want[line] {
			t.Fatalf("%q: %s; natively %s", line, r.digest, want[line])
		}
		return r
	}
	if r := do(lines[0]); r.n != 132 {
		t.Errorf("alone it runs on %d SMs", r.n)
	}
	// beside does it while the urgent client makes requests, one after the other.
	beside := func(line string) ran {
		t.Helper()
		urgent.do("fill 1 1")
		stop, all := make(chan struct{}), sync.WaitGroup{}
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					urgent.do("fill 1 1")
				}
			}
		})
		defer all.Wait()
		defer close(stop)
		return do(line)
	}
	b.settles("it is confined", func() error {
		if r := beside(lines[0]); r.n != 40 {
			return fmt.Errorf("it runs on %d SMs", r.n)
		}
		return nil
	})
	for range 5 {
		if r := beside(lines[0]); r.n != 40 || r.last-r.first != 39 {
			t.Errorf("confined to a quarter it runs on %d SMs, %d to %d", r.n, r.first, r.last)
		}
	}
	client := func() admin.Client {
		t.Helper()
		text, err := b.heddle("ps", "--json").Output()
		if err != nil {
			t.Fatal(err)
		}
		var st admin.Status
		if err := json.Unmarshal(text, &st); err != nil {
			t.Fatal(err)
		}
		for _, c := range st.Clients {
			if strings.HasSuffix(c.Exe, "/confined") {
				return c
			}
		}
		t.Fatalf("no such client: %s", text)
		return admin.Client{}
	}
	b.settles("heddle ps says so", func() error {
		beside(lines[0])
		if c := client(); c.Partition != 40 {
			return fmt.Errorf("%d SMs", c.Partition)
		}
		return nil
	})
	for _, line := range lines[1:] {
		for range 3 {
			if r := beside(line); r.n != 132 {
				t.Errorf("%q runs on %d SMs", line, r.n)
			}
		}
	}
	st, err := b.counters()
	if err != nil || st.Outside["graph"] == 0 || st.Outside["refused"] == 0 {
		t.Errorf("%v: %v ran on all multiprocessors", err, st.Outside)
	}
	text, err := b.heddle("explain", fmt.Sprint(client().ID)).CombinedOutput()
	if err != nil || !strings.Contains(string(text), "ran on all multiprocessors") {
		t.Errorf("%v: %s", err, text)
	}
	// Its other kernels are confined as before, and all of it again when the urgent client is silent.
	b.settles("it has all again", func() error {
		if r := do(lines[0]); r.n != 132 {
			return fmt.Errorf("it runs on %d SMs", r.n)
		}
		return nil
	})
}

// TestPartitionReload: the key is changed, taken away and set again while clients work, a more urgent one beside them: all results are the
// native ones, no request is lost, and the last size that was set is the one in force.
func TestPartitionReload(t *testing.T) {
	b := newBed(t)
	names := []string{"vector", "streams", "graphs", "sequences"}
	native := map[string]result{}
	for _, p := range names {
		native[p] = b.run(false, p)
	}
	digest := b.stepperOf("confined", false).where("work 7 40").digest
	short := b.stepper(false).do("fill 3 2")
	policy := filepath.Join(t.TempDir(), "policy.toml")
	dividing(t, policy, 0)
	b.startDaemon("HEDDLE_POLICY=" + policy)
	stop, all := make(chan struct{}), sync.WaitGroup{}
	urgent := b.stepper(true, "HEDDLE_LABEL=urgent")
	requests := 0
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
			if requests++; urgent.do("fill 3 2") != short {
				t.Error("the urgent client gets another result than natively")
			}
		}
	})
	all.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+r.IntN(200)) * time.Millisecond):
				dividing(t, policy, float64(r.IntN(5))/5)
			}
		}
	})
	low := b.stepperOf("confined", true)
	sizes := map[int]int{}
	for _, p := range names {
		for range 4 {
			r := low.where("work 7 40")
			if sizes[r.n]++; r.digest != digest {
				t.Errorf("on %d SMs: %s; natively %s", r.n, r.digest, digest)
			}
		}
		if r := b.run(true, p); r.code != 0 || r.out != native[p].out {
			t.Errorf("%s: exit code %d\nunder Heddle:\n%snatively:\n%sstderr:\n%s", p, r.code, r.out, native[p].out, r.err)
		}
	}
	close(stop)
	all.Wait()
	t.Logf("%d requests; it ran on so many SMs so often: %v", requests, sizes)
	dividing(t, policy, 0.5)
	b.settles("the last size is in force", func() error {
		urgent.do("fill 3 2")
		if r := low.where("work 7 40"); r.n != 72 {
			return fmt.Errorf("it runs on %d SMs", r.n)
		}
		return nil
	})
}
