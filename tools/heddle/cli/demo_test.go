package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/inventory"
)

const wildOutput = "after a wild store: 700\nnext copy: 700\nmisbehave 7007000000000000\n"

func right(name, output string) *demoClient {
	return &demoClient{
		Name: name, Rounds: 1,
		Alone:  demoRun{Output: output, Seconds: 0.5},
		AtOnce: demoRun{Output: output, Seconds: 1},
		Heddle: []demoRun{{Output: output, Seconds: 0.75, Forwarded: 120}},
	}
}

func rightReport() *demoReport {
	return &demoReport{
		GPU: "the software GPU", Software: true,
		Clients:   []*demoClient{right("vector", "vector 01\n"), right(misbehave, wildOutput)},
		Native:    demoSpan{3, &demoSoftware{Launches: 100, ContextSwitches: 90, SwitchNs: 13_050_000, VirtualNs: 20_000_000}},
		Heddle:    demoSpan{4, &demoSoftware{Launches: 110, ContextSwitches: 2, SwitchNs: 290_000, VirtualNs: 5_000_000}},
		Executors: demoExecutors{Started: 2, Ops: 150, Launches: 110, Words: 150, Signals: 20, LowerBound: true},
	}
}

func TestDemoVerdict(t *testing.T) {
	lostOutput := strings.ReplaceAll(wildOutput, ": 700\n", ": 719\n")
	for name, c := range map[string]struct {
		change func(*demoReport)
		wrong  string // "" if all is right
	}{
		"as it should be": {func(*demoReport) {}, ""},
		"work lost, then right": {func(r *demoReport) {
			r.Clients[0].Heddle = []demoRun{{Exit: lostWorkExit}, r.Clients[0].Heddle[0]}
		}, ""},
		"misbehave lost work like the others, then saw its own error": {func(r *demoReport) {
			r.Clients[1].Heddle = []demoRun{{Output: lostOutput, Forwarded: 4}, r.Clients[1].Heddle[0]}
		}, ""},
		"work lost twice": {func(r *demoReport) {
			r.Clients[0].Heddle = []demoRun{{Exit: lostWorkExit}, {Exit: lostWorkExit}}
		}, "vector: failed: work in doubt when an executor died, CUDA error 719, in each of 2 runs"},
		"misbehave never sees its own error": {func(r *demoReport) {
			r.Clients[1].Heddle[0].Output = lostOutput
		}, "misbehave: failed: work in doubt"},
		"a wrong digest": {func(r *demoReport) { r.Clients[0].Heddle[0].Output = "vector 02\n" }, "vector: different"},
		"a wrong digest in a second run": {func(r *demoReport) {
			r.Clients[0].Heddle = []demoRun{{Exit: lostWorkExit}, {Output: "x", Forwarded: 1}}
		}, "vector: different"},
		"a digest that only looks like 719 for 700": {func(r *demoReport) {
			r.Clients[1].Heddle[0].Output = strings.Replace(wildOutput, "misbehave 700", "misbehave 719", 1)
		}, "misbehave: different"},
		"another exit code":         {func(r *demoReport) { r.Clients[0].Heddle[0].Exit = 1 }, "vector: failed: exit code 1, natively 0"},
		"a crash":                   {func(r *demoReport) { r.Clients[0].Heddle[0].Exit = -1 }, "vector: failed: exit code -1"},
		"nothing forwarded":         {func(r *demoReport) { r.Clients[0].Heddle[0].Forwarded = 0 }, "vector: failed: it ran natively"},
		"never ran":                 {func(r *demoReport) { r.Clients[0].Heddle = nil }, "vector: failed: it did not run under Heddle"},
		"natively broken":           {func(r *demoReport) { r.Clients[0].Alone.Exit = 1 }, "vector: failed: its native run"},
		"natively not repeatable":   {func(r *demoReport) { r.Clients[0].AtOnce.Output = "vector 09\n" }, "vector: failed: natively beside others"},
		"the executor was immortal": {func(r *demoReport) { r.Executors.Started = 1 }, "no executor was replaced: 1 started"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rightReport()
			c.change(r)
			r.judge()
			var text strings.Builder
			if err := r.print(&text); err != nil {
				t.Fatal(err)
			}
			if c.wrong == "" {
				if !r.Right || len(r.Wrong) != 0 || !strings.Contains(text.String(), "all right") {
					t.Errorf("%+v\n%s", r.Wrong, text.String())
				}
				return
			}
			if r.Right || len(r.Wrong) != 1 || !strings.Contains(r.Wrong[0], c.wrong) {
				t.Errorf("wrong: %q, want %q", r.Wrong, c.wrong)
			}
			if !strings.Contains(text.String(), "NOT right") || !strings.Contains(text.String(), c.wrong) {
				t.Errorf("the table does not say what is wrong:\n%s", text.String())
			}
		})
	}
}

func TestDemoSummary(t *testing.T) {
	r := rightReport()
	r.Clients[0].Heddle = []demoRun{{Exit: lostWorkExit, Seconds: 1}, {Output: "vector 01\n", Seconds: 2, Forwarded: 120}}
	r.judge()
	var text strings.Builder
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3.00 s", "CUDA error 719; run again", "saved      88 context switches, 15ms", "at least 150 ops", "coalesced  0: the clients hardly"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing:\n%s", want, text.String())
		}
	}
	r = rightReport()
	r.Software, r.Native.Software, r.Heddle.Software = false, nil, nil
	r.Executors.Coalesced, r.Executors.CoalescedWords = 66, 16
	r.Kernels = []demoKernel{{Name: "fill", Launches: 80, Coalesced: 66, MeanWidth: 4.125}, {Name: "step", Launches: 30}}
	r.judge()
	text.Reset()
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"66 launches (60 %) in 16 words, 4.1 in each: 50 launches saved", "fill    80        82 %       4.1", "step    30        0 %        -", "not counted: a real GPU"} {
		if !strings.Contains(text.String(), want) || strings.Contains(text.String(), "virtual") {
			t.Errorf("on a real GPU, %q:\n%s", want, text.String())
		}
	}
}

func TestDemoWatchAddsUpExecutors(t *testing.T) {
	w := newDemoWatch(nil, &demoView{}, demoClients(1))
	status := func(epoch uint32, s executor.Stats, clients ...admin.Client) admin.Status {
		counters, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return admin.Status{Clients: clients, Executors: []admin.Executor{{Pid: s.PID, State: "live", Epoch: epoch, Counters: counters}}}
	}
	w.take(status(1, executor.Stats{PID: 10, Ops: 5, Words: 5}, admin.Client{Label: "vector", Ops: 5}))
	if w.busy(2) || !w.busy(1) {
		t.Errorf("busy: %v", w.ops)
	}
	w.take(status(1, executor.Stats{PID: 10, Ops: 9, Words: 9, Launches: 7}, admin.Client{Label: "vector", Ops: 8}, admin.Client{Label: "matmul", Ops: 1}))
	w.take(admin.Status{Executors: []admin.Executor{{State: "starting", Epoch: 1}}})
	last := status(2, executor.Stats{PID: 11, Ops: 4, Words: 4, Signals: 2}, admin.Client{ID: 3, Label: "matmul", Ops: 2, Error: 719, State: "live"})
	w.take(last)
	want := demoExecutors{Started: 2, Ops: 13, Launches: 7, Words: 13, Signals: 2, LowerBound: true}
	if got := w.totals(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	w.takeKernels(10, []json.RawMessage{[]byte(`{"name":"fill","launches":10,"coalesced":6,"mean_width":3}`), []byte(`{"name":"step","launches":9}`)})
	w.takeKernels(10, []json.RawMessage{[]byte(`{"name":"fill","launches":4}`)}) // the next executor's, under the wrong number
	w.takeKernels(11, []json.RawMessage{[]byte(`{"name":"fill","launches":5,"coalesced":2,"mean_width":2}`)})
	if got := w.coalesced(); len(got) != 2 || got[0].Name != "fill" || got[0].Launches != 15 || got[0].Coalesced != 8 || got[0].MeanWidth != 8./3 || got[1].MeanWidth != 0 {
		t.Errorf("kernels: %+v", got)
	}
	picture := strings.Join(w.picture(last), "\n")
	for _, want := range []string{"executor 11 (live, number 2)", "4 ops in 4 words", "CUDA error 719"} {
		if !strings.Contains(picture, want) {
			t.Errorf("%q is missing:\n%s", want, picture)
		}
	}
}

func TestDemoDevice(t *testing.T) {
	if d, why := demoDevice(inventory.Inventory{Unavailable: "no driver"}); d != nil || why != "no driver" {
		t.Error(d, why)
	}
	if d, why := demoDevice(inventory.Inventory{}); d != nil || why == "" {
		t.Error(d, why)
	}
	inv := inventory.Inventory{Devices: []inventory.Device{
		{Index: 0, Name: "unreadable"},
		{Index: 1, UUID: "GPU-a", MIG: true},
	}}
	if d, why := demoDevice(inv); d != nil || !strings.Contains(why, "nvidia-smi -i 1 -mig 0") {
		t.Error(d, why)
	}
	inv.Devices = append(inv.Devices, inventory.Device{Index: 2, UUID: "GPU-b", ComputeMode: "default"})
	if d, _ := demoDevice(inv); d == nil || d.UUID != "GPU-b" {
		t.Error(d)
	}
}
