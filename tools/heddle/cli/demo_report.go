package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// lostWorkExit is what the demo's programs exit with when they get CUDA error 719,
// the named error of work that was lost with an executor (tools/e2e/clients/client.h).
const lostWorkExit = 77

// demoRun is one run of one program to its end.
type demoRun struct {
	Output    string  `json:"output"`    // what it printed: a digest of everything it computed
	Exit      int     `json:"exit_code"` // -1: it could not be started, or did not end in time
	Seconds   float64 `json:"seconds"`
	Forwarded uint64  `json:"forwarded_ops,omitempty"` // kernels, memsets and device copies that Heddle took
	stderr    string
}

// lost reports whether a run got CUDA error 719 because its work was in doubt when
// an executor died: its exit code says so, or, of a program that goes on after an
// error, its output has 719 where the native one has the fault's own code. (While
// several clients have work on the GPU nobody can tell whose store was wild: the
// driver does not say. Then the culprit, too, has work in doubt.)
func (r demoRun) lost(native demoRun) bool {
	return r.Exit == lostWorkExit ||
		r.Exit == native.Exit && r.Output != native.Output && r.Output == strings.ReplaceAll(native.Output, fmt.Sprintf(": %d\n", illegalAddress), fmt.Sprintf(": %d\n", launchFailed))
}

// CUresults that the demo tells apart.
const (
	illegalAddress = 700
	launchFailed   = 719
)

// Results of a client.
const (
	resultSame      = "same"
	resultDifferent = "different"
	resultFailed    = "failed"
)

// demoClient is one copy of one of the programs, with all its runs.
type demoClient struct {
	Name   string    `json:"name"`
	Rounds int       `json:"rounds"`
	Alone  demoRun   `json:"native_alone"`   // the reference
	AtOnce demoRun   `json:"native_at_once"` // beside all the others
	Heddle []demoRun `json:"heddle"`         // beside all the others; a second one follows work that was lost
	Result string    `json:"result"`         // same, different or failed, of the last run against the reference
	Note   string    `json:"note,omitempty"`

	program string // in bin/
	seed    int    // of its data
}

// judge compares a client's runs and fills Result and Note; it reports whether all is right.
func (c *demoClient) judge() bool {
	if c.Alone.Exit != 0 {
		c.Result, c.Note = resultFailed, fmt.Sprintf("its native run ended with exit code %d", c.Alone.Exit)
		return false
	}
	if c.AtOnce.Exit != 0 || c.AtOnce.Output != c.Alone.Output {
		c.Result, c.Note = resultFailed, "natively beside others it differs from itself: the GPU is at fault, not Heddle"
		return false
	}
	if len(c.Heddle) == 0 {
		c.Result, c.Note = resultFailed, "it did not run under Heddle"
		return false
	}
	last := c.Heddle[len(c.Heddle)-1]
	if len(c.Heddle) > 1 {
		c.Note = "first run: work in doubt when the executor died, CUDA error 719; run again"
		if c.Name == misbehave {
			c.Note += " when the others were done"
		}
	}
	switch {
	case last.lost(c.Alone):
		c.Result, c.Note = resultFailed, fmt.Sprintf("work in doubt when an executor died, CUDA error 719, in each of %d runs", len(c.Heddle))
	case last.Exit != c.Alone.Exit:
		c.Result, c.Note = resultFailed, fmt.Sprintf("exit code %d, natively %d", last.Exit, c.Alone.Exit)
	case last.Output != c.Alone.Output:
		c.Result = resultDifferent
	case last.Forwarded == 0:
		c.Result, c.Note = resultFailed, "it ran natively: nothing was forwarded, so that its result says nothing of Heddle"
	default:
		c.Result = resultSame
	}
	return c.Result == resultSame
}

// underHeddle is how long all its runs took together.
func (c *demoClient) underHeddle() float64 {
	sum := 0.0
	for _, r := range c.Heddle {
		sum += r.Seconds
	}
	return sum
}

// demoSpan is one phase in which all programs ran at once.
type demoSpan struct {
	Seconds float64 `json:"seconds"` // from the first start to the last end
	// What the software GPU counted; absent on a real one, which does not count it.
	Software *demoSoftware `json:"software_gpu,omitempty"`
}

// demoSoftware is what the software GPU did, in its own time where it is time.
type demoSoftware struct {
	Launches        uint64 `json:"launches"`
	ContextSwitches uint64 `json:"context_switches"`
	SwitchNs        int64  `json:"switch_ns"`  // virtual: spent switching between contexts
	VirtualNs       int64  `json:"virtual_ns"` // virtual: from the first work to the last
}

// demoExecutors is what the executors did, the sum of all that ran.
type demoExecutors struct {
	Started  uint32 `json:"started"`
	Ops      uint64 `json:"ops"`
	Launches uint64 `json:"launches"`
	Words    uint64 `json:"words"`
	Signals  uint64 `json:"signals"`
	Orders   uint64 `json:"orders"`
	// Coalesced is how many launches shared a word with another, CoalescedWords how many words these were: the rest is saved.
	Coalesced      uint64 `json:"coalesced"`
	CoalescedWords uint64 `json:"coalesced_words"`
	// LowerBound says that an executor died, and took with it what it counted after the last look.
	LowerBound bool `json:"lower_bound"`
}

// demoKernel is what became of the launches of one kernel, whoever launched it.
type demoKernel struct {
	Name      string  `json:"name"`
	Launches  uint64  `json:"launches"`
	Coalesced uint64  `json:"coalesced"`
	MeanWidth float64 `json:"mean_width"` // of the words with more than one; 0: none
	words     float64
}

// demoReport is the whole of a demo; `heddle demo --json` prints it (docs/cli.md).
type demoReport struct {
	GPU       string        `json:"gpu"`
	Software  bool          `json:"software"` // the software GPU
	Clients   []*demoClient `json:"clients"`
	Native    demoSpan      `json:"native_at_once"`
	Heddle    demoSpan      `json:"heddle_at_once"`
	Executors demoExecutors `json:"executors"`
	Kernels   []demoKernel  `json:"kernels"`
	Right     bool          `json:"right"`
	Wrong     []string      `json:"wrong"` // one line for each thing that is not right
}

// judge fills Right and Wrong.
func (r *demoReport) judge() {
	r.Wrong = []string{}
	for _, c := range r.Clients {
		if !c.judge() {
			line := fmt.Sprintf("%s: %s", c.Name, c.Result)
			if c.Note != "" {
				line += ": " + c.Note
			}
			r.Wrong = append(r.Wrong, line)
		}
	}
	if r.Executors.Started < 2 {
		r.Wrong = append(r.Wrong, fmt.Sprintf("misbehave stored through a wild pointer, yet no executor was replaced: %d started", r.Executors.Started))
	}
	r.Right = len(r.Wrong) == 0
}

// print writes the table and what it means.
func (r *demoReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nCLIENT\tRESULT\tEXIT\tFORWARDED\tALONE\tAT ONCE\tHEDDLE\t")
	for _, c := range r.Clients {
		exit, forwarded, took := "-", "-", "-"
		if n := len(c.Heddle); n > 0 {
			last := c.Heddle[n-1]
			exit, forwarded, took = fmt.Sprint(last.Exit), fmt.Sprint(last.Forwarded), seconds(c.underHeddle())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Result, exit, forwarded, seconds(c.Alone.Seconds), seconds(c.AtOnce.Seconds), took, c.Note)
	}
	fmt.Fprintln(w, "\nALL AT ONCE\tNATIVELY\tUNDER HEDDLE\t")
	n, h := r.Native.Software, r.Heddle.Software
	if n != nil && h != nil {
		fmt.Fprintf(w, "context switches\t%d\t%d\t\n", n.ContextSwitches, h.ContextSwitches)
		fmt.Fprintf(w, "GPU time, virtual\t%s\t%s\t\n", virtual(n.VirtualNs), virtual(h.VirtualNs))
		fmt.Fprintf(w, "of it switching\t%s\t%s\t\n", virtual(n.SwitchNs), virtual(h.SwitchNs))
		fmt.Fprintf(w, "kernel launches\t%d\t%d\t\n", n.Launches, h.Launches)
	}
	fmt.Fprintf(w, "last one ended after\t%s\t%s\t\n", seconds(r.Native.Seconds), seconds(r.Heddle.Seconds))
	if len(r.Kernels) > 0 {
		fmt.Fprintln(w, "\nKERNEL\tLAUNCHES\tCOALESCED\tIN A WORD\t")
		for _, k := range r.Kernels {
			width := "-"
			if k.MeanWidth > 0 {
				width = fmt.Sprintf("%.1f", k.MeanWidth)
			}
			fmt.Fprintf(w, "%s\t%d\t%.0f %%\t%s\t\n", k.Name, k.Launches, 100*float64(k.Coalesced)/float64(max(k.Launches, 1)), width)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n != nil {
		fmt.Fprintln(out, "(seconds are those of interpreting kernels on this machine's cores, beside pollers that want them too;\nvirtual time is the software GPU's model of one: 145 µs each time that the next kernel is another context's)")
	}
	e, least := r.Executors, ""
	if e.LowerBound {
		least = "at least "
	}
	fmt.Fprintf(out, "\nexecutors  %d", e.Started)
	if e.Started > 1 {
		fmt.Fprintf(out, ": misbehave's wild stores ended %d; each time the daemon started the next and gave it everybody's memory and code", e.Started-1)
	}
	fmt.Fprintf(out, "\nissued     %s%d ops (%d launches) in %d words; %d signals, %d orders between streams\n", least, e.Ops, e.Launches, e.Words, e.Signals, e.Orders)
	if e.Coalesced == 0 || e.Launches == 0 || e.CoalescedWords == 0 {
		fmt.Fprintln(out, "coalesced  0: the clients hardly launched the same kernel at the same time; heddle kernels says why")
	} else {
		fmt.Fprintf(out, "coalesced  %s%d launches (%.0f %%) in %d words, %.1f in each: %d launches saved\n", least, e.Coalesced,
			100*float64(e.Coalesced)/float64(e.Launches), e.CoalescedWords, float64(e.Coalesced)/float64(e.CoalescedWords), e.Coalesced-e.CoalescedWords)
	}
	switch {
	case n != nil && h != nil && n.ContextSwitches > h.ContextSwitches:
		fmt.Fprintf(out, "saved      %d context switches", n.ContextSwitches-h.ContextSwitches)
		if n.VirtualNs > h.VirtualNs {
			fmt.Fprintf(out, ", %s of GPU time (virtual)", virtual(n.VirtualNs-h.VirtualNs))
		}
		fmt.Fprintln(out)
	case n != nil:
		fmt.Fprintln(out, "saved      nothing this time: natively the programs hardly ran at the same time")
	default:
		fmt.Fprintln(out, "saved      not counted: a real GPU does not tell its context switches; docs/results.md has measurements")
	}
	if r.Right {
		fmt.Fprintln(out, "\nall right: every client's result under Heddle is its native one")
		return nil
	}
	fmt.Fprintln(out, "\nNOT right:")
	for _, line := range r.Wrong {
		fmt.Fprintln(out, "  "+line)
	}
	return nil
}

func seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

func virtual(ns int64) string { return time.Duration(ns).Round(10 * time.Microsecond).String() }
