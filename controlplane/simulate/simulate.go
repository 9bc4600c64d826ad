// Package simulate judges policies before they meet a GPU: it drives the scheduler that executors run (packages sched and word)
// with recorded or synthetic arrivals on a modelled chip, and others beside it on the same arrivals.
//
//	Scenario (clients, requests, kernels, arrivals) ─┐
//	Policy (controlplane/policy) ────────────────────┴─► Run ─► Report
//
// Time is virtual, one goroutine does everything, and all randomness comes from the seed: the same input gives the same bytes.
//
// run.go has the clients, chip.go the GPU, heddle.go drives the real scheduler as the executor's poller does, baseline.go has what
// it is compared with. docs/sim.md is the manual.
// Source: design.md section 7.
package simulate

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/policy"
)

// Options of Run.
type Options struct {
	Policy     *policy.Policy // nil: the builtin one
	Seed       uint64
	Schedulers []string // of Names; nil: all
}

// ClassReport is what a class got in one run.
type ClassReport struct {
	Class    string `json:"class"`
	Clients  int    `json:"clients"`
	Requests int    `json:"requests"` // that arrived; all of them ended, some after the end of arrivals
	// Attained is the part of them that met the class's objective, Worst that of the client that got least; -1 without one.
	Attained float64 `json:"attained"`
	Worst    float64 `json:"worst"`
	// RequestsPerSecond and OpsPerSecond count what ended before arrivals did.
	RequestsPerSecond float64 `json:"requests_per_second"`
	OpsPerSecond      float64 `json:"ops_per_second"`
	// P50 and P99 of the requests' latency, from arrival to end, seconds.
	P50 float64 `json:"p50_seconds"`
	P99 float64 `json:"p99_seconds"`
	// Jain is Jain's index of the GPU time of the class's clients: 1 when all had the same, 1/n when one had everything.
	Jain float64 `json:"jain"`
	// Share is the part of the chip that the class used, Width how many ops its launches held.
	Share float64 `json:"gpu_share"`
	Width float64 `json:"width"`
}

// Result is one scheduler at one load. Total is over all classes; its Attained and Worst over those with objectives.
type Result struct {
	Scheduler string        `json:"scheduler"`
	Load      float64       `json:"load"`
	Ops       uint64        `json:"ops"`
	Classes   []ClassReport `json:"classes"`
	Total     ClassReport   `json:"total"`
}

// Report is the answer of Run.
type Report struct {
	Scenario string   `json:"scenario"`
	About    string   `json:"about,omitempty"`
	Policy   []string `json:"policy"` // files
	Seconds  float64  `json:"seconds"`
	Seed     uint64   `json:"seed"`
	Results  []Result `json:"results"`
	// Highest is, by scheduler, the highest load up to which 99 % of the requests of every client with an objective met theirs; 0:
	// not even the lowest. It is there when the scenario has several loads.
	Highest map[string]float64 `json:"highest_load,omitempty"`
}

// Run simulates a scenario with each scheduler at each load.
func Run(sc *Scenario, o Options) (*Report, error) {
	p := o.Policy
	if p == nil {
		var err error
		if p, err = BuiltinPolicy(); err != nil {
			return nil, fmt.Errorf("simulate: %w", err)
		}
	}
	if o.Schedulers == nil {
		o.Schedulers = Names
	}
	rep := &Report{Scenario: sc.Name, About: sc.About, Policy: p.Files, Seconds: float64(sc.Duration) / 1e9, Seed: o.Seed}
	for _, load := range sc.Loads {
		for _, name := range o.Schedulers {
			r, err := newRun(sc, p, load, o.Seed)
			if err != nil {
				return nil, err
			}
			if err := r.start(name, p); err != nil {
				return nil, err
			}
			if err := r.simulate(); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			rep.Results = append(rep.Results, r.result(name, load))
		}
	}
	if len(sc.Loads) > 1 {
		rep.Highest = map[string]float64{}
		missed := map[string]bool{}
		loads := slices.Clone(rep.Results)
		slices.SortStableFunc(loads, func(a, b Result) int { return cmp.Compare(a.Load, b.Load) })
		for _, r := range loads {
			if missed[r.Scheduler] = missed[r.Scheduler] || r.Total.Worst < 0.99; !missed[r.Scheduler] {
				rep.Highest[r.Scheduler] = r.Load
			} else if _, ok := rep.Highest[r.Scheduler]; !ok {
				rep.Highest[r.Scheduler] = 0
			}
		}
	}
	return rep, nil
}

func (r *run) result(name string, load float64) Result {
	res := Result{Scheduler: name, Load: load, Ops: r.ops}
	all := &class{}
	seconds := float64(r.end) / 1e9
	aimed, met, worst := 0, uint64(0), 2.0
	for _, n := range sorted(r.classes) {
		k := r.classes[n]
		row := k.report(n, seconds, float64(r.end))
		res.Classes = append(res.Classes, row)
		if row.Attained >= 0 {
			aimed += len(k.latencies)
			met += k.met
			worst = min(worst, row.Worst)
		}
		all.clients = append(all.clients, k.clients...)
		all.latencies = append(all.latencies, k.latencies...)
		all.requests += k.requests
		all.ops += k.ops
		all.words += k.words
		all.work += k.work
	}
	res.Total = all.report("all", seconds, float64(r.end))
	if aimed > 0 {
		res.Total.Attained, res.Total.Worst = float64(met)/float64(aimed), worst
	}
	return res
}

func (k *class) report(name string, seconds, capacity float64) ClassReport {
	row := ClassReport{
		Class: name, Clients: len(k.clients), Requests: len(k.latencies), Attained: -1, Worst: -1,
		RequestsPerSecond: float64(k.requests) / seconds, OpsPerSecond: float64(k.ops) / seconds, Share: k.work / capacity, Jain: 1,
	}
	if k.words > 0 {
		row.Width = float64(k.ops) / k.words
	}
	var sum, squares float64
	for _, c := range k.clients {
		sum += c.work
		squares += c.work * c.work
	}
	if squares > 0 {
		row.Jain = sum * sum / (float64(len(k.clients)) * squares)
	}
	if n := len(k.latencies); n > 0 {
		slices.Sort(k.latencies)
		at := func(q float64) float64 { return float64(k.latencies[min(n-1, int(q*float64(n)))]) / 1e9 }
		row.P50, row.P99 = at(0.5), at(0.99)
	}
	if k.Class != nil && k.LatencyP99 > 0 && len(k.latencies) > 0 {
		row.Attained, row.Worst = float64(k.met)/float64(len(k.latencies)), 1
		for _, c := range k.clients {
			if c.requests > 0 {
				row.Worst = min(row.Worst, float64(c.met)/float64(c.requests))
			}
		}
	}
	return row
}

// Print writes the report as one table: what each class got from each scheduler.
func (rep *Report) Print(out io.Writer) error {
	fmt.Fprintf(out, "%s, %v, seed %d", rep.Scenario, timeOf(int64(rep.Seconds*1e9)), rep.Seed)
	for _, f := range rep.Policy {
		fmt.Fprintf(out, ", %s", f)
	}
	fmt.Fprintln(out)
	if rep.About != "" {
		fmt.Fprintln(out, rep.About)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	var loads []float64
	for _, r := range rep.Results {
		if !slices.Contains(loads, r.Load) {
			loads = append(loads, r.Load)
		}
	}
	for _, load := range loads {
		if len(loads) > 1 {
			fmt.Fprintf(w, "\nload %s\n", short(load))
		} else {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, "CLASS\tSCHEDULER\tCLIENTS\tREQUESTS\tATTAINED\tWORST\tREQ/S\tOPS/S\tP50 ms\tP99 ms\tJAIN\tGPU\tWIDTH")
		rows := func(name string, pick func(*Result) *ClassReport) {
			for i := range rep.Results {
				r := &rep.Results[i]
				c := pick(r)
				if r.Load != load || c == nil {
					continue
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%.0f\t%.0f\t%.3f\t%.3f\t%.3f\t%.1f%%\t%s\n",
					name, r.Scheduler, c.Clients, c.Requests, percent(c.Attained), percent(c.Worst),
					c.RequestsPerSecond, c.OpsPerSecond, 1e3*c.P50, 1e3*c.P99, c.Jain, 100*c.Share, width(r.Scheduler, c.Width))
			}
		}
		classes := rep.Results[0].Classes
		for i := range classes {
			rows(classes[i].Class, func(r *Result) *ClassReport { return &r.Classes[i] })
		}
		if len(classes) > 1 {
			rows("all", func(r *Result) *ClassReport { return &r.Total })
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(rep.Highest) > 0 {
		fmt.Fprint(out, "\nhighest load at which 99 % of every client's requests meet their objective:")
		for _, name := range Names {
			if l, ok := rep.Highest[name]; ok {
				fmt.Fprintf(out, " %s %s", name, short(l))
			}
		}
		fmt.Fprintln(out)
	}
	return nil
}

func percent(v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f%%", 100*v)
}

// width: the oracle has no launches.
func width(scheduler string, v float64) string {
	if scheduler == "oracle" {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

func timeOf(ns int64) time.Duration { return time.Duration(ns) }
