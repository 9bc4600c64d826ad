package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/executor/trace"
	"github.com/heddle-gpu/heddle/controlplane/perfetto"
	"github.com/heddle-gpu/heddle/controlplane/reasons"
)

func newExplain(o *options) *cobra.Command {
	var seconds float64
	cmd := &cobra.Command{
		Use:   "explain CLIENT|KERNEL",
		Short: "Why a client waits, and why kernels are launched together or not",
		Long: `A number is a client (its ID in heddle ps): its class and why, its errors, what
runs natively, what its kernels were joined with, and, from a recording of a
moment, what its ops waited for. Anything else is a kernel's name or a part of it:
how often it was launched together with others, and why not more often.
The codes are those of docs/reasons.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn := admin.Dial()
			if id, err := strconv.ParseUint(args[0], 10, 64); err == nil {
				length := time.Duration(0)
				if seconds != 0 {
					if length, err = recordLength(seconds); err != nil {
						return err
					}
				}
				return o.explainClient(cmd.Context(), conn, id, length)
			}
			return o.explainKernel(cmd.Context(), conn, args[0])
		},
	}
	cmd.Flags().Float64Var(&seconds, "seconds", 1, "how long to watch what a client's ops wait for; 0: not at all")
	return cmd
}

// reasonCount is how often something had a reason, and how long that took where it is known.
type reasonCount struct {
	Code    string  `json:"code"`
	Count   uint64  `json:"count"`
	Seconds float64 `json:"seconds,omitempty"`
	Meaning string  `json:"meaning"`
}

// explainedKernel is a kernel with the reasons that it has.
type explainedKernel struct {
	GPU      string             `json:"gpu"`
	UID      int                `json:"uid"`
	Stats    executor.CodeStats `json:"kernel"`
	NoForm   string             `json:"no_form,omitempty"` // what the code in kernel.why means
	NotWider []reasonCount      `json:"not_wider,omitempty"`
}

// explainedClient is what heddle explain CLIENT prints as JSON.
type explainedClient struct {
	Client    admin.Client          `json:"client"`
	Selection *admin.Selection      `json:"selection,omitempty"`
	Error     string                `json:"error,omitempty"` // what the error's reason means
	Kernels   []explainedKernel     `json:"kernels"`
	Native    []admin.RefusedKernel `json:"native"`                      // kernels that run natively because they were refused
	Graphs    []reasonCount         `json:"graphs_apart,omitempty"`      // launches of graphs that went by themselves
	Outside   []reasonCount         `json:"outside_partition,omitempty"` // ops that ran on all multiprocessors while it was confined
	Nodes     uint64                `json:"coalesced_nodes,omitempty"`   // kernels of joined graphs that were one launch with others'
	Watched   *watched              `json:"watched,omitempty"`
	Notes     []string              `json:"notes,omitempty"` // what could not be found out
}

// watched is what a recording of a moment showed of a client.
type watched struct {
	Seconds   float64       `json:"seconds"`
	Ops       int           `json:"ops"`     // issued
	AtOnce    int           `json:"at_once"` // of them as soon as they could be
	Waits     []reasonCount `json:"waits"`   // of the others
	Words     int           `json:"words"`   // that the ops went in
	MeanWidth float64       `json:"mean_width"`
	Dropped   uint64        `json:"dropped,omitempty"` // events that were lost: the counts are too small
}

func (o *options) explainClient(ctx context.Context, conn *admin.Conn, id uint64, length time.Duration) error {
	st, err := conn.Status(ctx)
	if err != nil {
		return unreachable(err)
	}
	at := slices.IndexFunc(st.Clients, func(c admin.Client) bool { return c.ID == id })
	if at < 0 {
		return fail(ExitFailed, "no client has the number %d; next: heddle ps", id)
	}
	x := explainedClient{Client: st.Clients[at], Kernels: []explainedKernel{}, Native: []admin.RefusedKernel{}}
	note := func(what string, err error) {
		if err != nil {
			x.Notes = append(x.Notes, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if x.Client.Error != 0 {
		code, _, _ := strings.Cut(x.Client.ErrorReason, " ")
		x.Error = reasons.Sentence(reasons.Session, code)
	}
	if s := sampleOf(&st).sessions[id]; s != nil {
		for code, n := range s.ApartGraphs {
			x.Graphs = append(x.Graphs, reasonCount{Code: code, Count: n, Meaning: reasons.Sentence(reasons.Apart, code)})
		}
		sortReasons(x.Graphs)
		for code, n := range s.Outside {
			x.Outside = append(x.Outside, reasonCount{Code: code, Count: n, Meaning: reasons.Sentence(reasons.Outside, code)})
		}
		sortReasons(x.Outside)
		x.Nodes = s.CoalescedNodes
	}
	if s, err := conn.TestPolicy(ctx, x.Client.Pid); err != nil {
		note("its class", err)
	} else {
		x.Selection = &s
	}
	if length > 0 {
		w, err := watchClient(ctx, conn, id, length)
		note("what its ops wait for", err)
		x.Watched = w
	}
	list, err := conn.Kernels(ctx, id)
	note("its kernels", err)
	if x.Kernels, err = explainRows(list, func(r *executor.CodeStats) bool { return r.Launches > 0 || r.Why != "" }); err != nil {
		return err
	}
	if native, err := conn.Refused(ctx, id); err != nil {
		note("what runs natively", err)
	} else {
		x.Native = native
	}
	if o.json {
		return o.printJSON(x)
	}
	return x.print(o.stdout)
}

// watchClient records a client for a moment and counts what its ops waited for.
func watchClient(ctx context.Context, conn *admin.Conn, id uint64, length time.Duration) (*watched, error) {
	r, err := record(ctx, conn, admin.TraceOptions{Length: length, Client: id, Room: trace.MaxEvents}, defaultEvents, func() {})
	if err != nil {
		return nil, err
	}
	w := &watched{Seconds: length.Seconds(), Waits: []reasonCount{}}
	waits, widths := map[string]*reasonCount{}, 0
	for _, part := range r.parts {
		w.Dropped += part.names.Dropped
		words := map[int]bool{}
		for i := range part.line.Ops {
			op := &part.line.Ops[i]
			if op.Client != id || op.Word < 0 {
				continue
			}
			w.Ops++
			if !words[op.Word] {
				words[op.Word] = true
				widths += part.line.Words[op.Word].Slots
			}
			code := part.names.Wait(op.Wait)
			if code == "" {
				w.AtOnce++
				continue
			}
			c := waits[code]
			if c == nil {
				c = &reasonCount{Code: code, Meaning: reasons.Sentence(reasons.Wait, code)}
				waits[code] = c
			}
			c.Count++
			if op.Ready > 0 {
				c.Seconds += float64(op.Issued-op.Ready) / 1e9
			}
		}
		w.Words += len(words)
	}
	if w.Words > 0 {
		w.MeanWidth = float64(widths) / float64(w.Words)
	}
	for _, c := range waits {
		w.Waits = append(w.Waits, *c)
	}
	sortReasons(w.Waits)
	return w, nil
}

func sortReasons(all []reasonCount) {
	slices.SortFunc(all, func(a, b reasonCount) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code))
	})
}

// explainRows gives the kernels that pick wants, the most launched first.
func explainRows(list []admin.Kernels, pick func(*executor.CodeStats) bool) ([]explainedKernel, error) {
	out := []explainedKernel{}
	for _, e := range list {
		for _, raw := range e.Kernels {
			k := explainedKernel{GPU: e.GPU, UID: e.UID}
			if err := json.Unmarshal(raw, &k.Stats); err != nil {
				return nil, fail(ExitFailed, "the executor's answer: %w; is it of another version? heddle version", err)
			}
			if !pick(&k.Stats) {
				continue
			}
			if code, _, ok := strings.Cut(k.Stats.Why, ": "); ok {
				k.NoForm = reasons.NoForm(code)
			}
			for code, n := range k.Stats.Apart {
				k.NotWider = append(k.NotWider, reasonCount{Code: code, Count: n, Meaning: reasons.Sentence(reasons.Apart, code)})
			}
			sortReasons(k.NotWider)
			out = append(out, k)
		}
	}
	slices.SortStableFunc(out, func(a, b explainedKernel) int { return cmp.Compare(b.Stats.Launches, a.Stats.Launches) })
	return out, nil
}

func (o *options) explainKernel(ctx context.Context, conn *admin.Conn, name string) error {
	list, err := conn.Kernels(ctx, 0)
	if err != nil {
		return unreachable(err)
	}
	found, err := explainRows(list, func(r *executor.CodeStats) bool { return r.Name == name })
	if err == nil && len(found) == 0 {
		found, err = explainRows(list, func(r *executor.CodeStats) bool { return strings.Contains(r.Name, name) })
	}
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fail(ExitFailed, "no kernel that clients loaded has %q in its name; next: heddle kernels --all", name)
	}
	if o.json {
		return o.printJSON(found)
	}
	const most = 10
	for i := range found[:min(len(found), most)] {
		if i > 0 {
			fmt.Fprintln(o.stdout)
		}
		found[i].print(o.stdout)
	}
	if n := len(found) - most; n > 0 {
		fmt.Fprintf(o.stdout, "\n%d more kernels have %q in their names; next: heddle explain with more of the name\n", n, name)
	}
	return nil
}

// print writes what is known of a kernel.
func (k *explainedKernel) print(out io.Writer) {
	s := &k.Stats
	fmt.Fprintf(out, "kernel %s (image %d, GPU %s, user %d)\n", perfetto.Clean(s.Name), s.Image, short(k.GPU), k.UID)
	fmt.Fprintf(out, "  launched %d times", s.Launches)
	if s.Coalesced > 0 {
		fmt.Fprintf(out, ", %.1f %% of them together with others, %.1f in a launch", 100*float64(s.Coalesced)/float64(max(s.Launches, 1)), s.MeanWidth)
	}
	fmt.Fprintln(out)
	if s.Sliced > 0 {
		fmt.Fprintf(out, "  %d launches were issued in %d slices of their blocks, so that more urgent ops could go in between\n", s.Sliced, s.Slices)
	}
	if s.AloneNS > 0 {
		fmt.Fprintf(out, "  alone it takes %s, together %s each\n", gpuTime(s.AloneNS), gpuTime(together(s)))
	}
	switch {
	case len(s.Forms) > 0:
		fmt.Fprintf(out, "  forms: %s\n", strings.Join(s.Forms, ", "))
	case s.Why == "":
		fmt.Fprintln(out, "  no form was asked for: no two clients launched it at about the same time, and no more urgent class had to wait for it")
	}
	if s.Why != "" {
		fmt.Fprintf(out, "  no form, or no further one: %s\n", perfetto.Clean(s.Why))
		if k.NoForm != "" {
			fmt.Fprintf(out, "    %s\n", k.NoForm)
		}
	}
	printCompany(out, "beside these it takes longer", s.SlowedBy)
	printCompany(out, "these take longer beside it", s.Slows)
	if len(k.NotWider) > 0 {
		fmt.Fprintln(out, "  why launches did not hold more:")
		printReasons(out, k.NotWider)
	}
}

// printCompany writes whom a kernel slows, or is slowed by.
func printCompany(out io.Writer, what string, all []executor.CompanyStats) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(out, "  measured, %s:\n", what)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, c := range all {
		sure := ""
		if !c.Sure {
			sure = "measured too rarely to act on it"
		}
		fmt.Fprintf(w, "    %+.0f %%\t%s\t%s\n", 100*c.Excess, perfetto.Clean(c.Name), sure)
	}
	_ = w.Flush() // into what the caller writes to; its own errors show there
}

func printReasons(out io.Writer, all []reasonCount) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, r := range all {
		took := ""
		if r.Seconds > 0 {
			took = fmt.Sprintf("%s, %s each", gpuTime(int64(r.Seconds*1e9)), gpuTime(int64(r.Seconds*1e9/float64(r.Count))))
		}
		fmt.Fprintf(w, "    %s\t%d\t%s\t%s\n", r.Code, r.Count, took, r.Meaning)
	}
	_ = w.Flush() // into what the caller writes to; its own errors show there
}

// print writes what is known of a client.
// straggling is what admin.Client.Straggler means.
var straggling = map[string]string{
	"tried":       "apart for a moment, to be measured",
	"apart":       "apart from others",
	"limited":     "apart from others, one op of each of its streams at a time",
	"own-context": "by its own process's context for a while, because it slowed others even one op at a time",
}

func (x *explainedClient) print(out io.Writer) error {
	c := &x.Client
	name := c.Exe
	if c.Label != "" {
		name = c.Label + ", " + name
	}
	fmt.Fprintf(out, "client %d: %s (pid %d, user %d), %s on GPU %s\n", c.ID, perfetto.Clean(name), c.Pid, c.UID, c.State, short(c.GPU))
	fmt.Fprintf(out, "class %q\n", c.Class)
	if s := x.Selection; s != nil {
		if s.Class != c.Class {
			fmt.Fprintf(out, "  it keeps the class that it came with; by the policy of now it would be %q:\n", s.Class)
		}
		for _, step := range s.Steps {
			fmt.Fprintln(out, " ", step)
		}
	}
	fmt.Fprintf(out, "ops: %d done, %d under way\n", c.Ops, c.InFlight)
	if c.Straggler != "" {
		fmt.Fprintf(out, "straggler: its ops take %.1f times as long as they should; it is served %s\n", c.Lateness, straggling[c.Straggler])
		fmt.Fprintf(out, "  %s\n", reasons.Sentence(reasons.Apart, "straggler"))
	}
	if c.Partition > 0 {
		fmt.Fprintf(out, "partition: its kernels run on %d multiprocessors now\n", c.Partition)
	}
	if len(x.Outside) > 0 {
		fmt.Fprintln(out, "ops that ran on all multiprocessors while it was confined:")
		printReasons(out, x.Outside)
	}
	if c.Slowed >= 0.05 {
		fmt.Fprintf(out, "company: its kernels take %.0f %% longer beside others' than alone; heddle explain KERNEL says beside whose\n", 100*c.Slowed)
	}
	if c.Error != 0 {
		fmt.Fprintf(out, "error: CUDA error %d, %s\n", c.Error, c.ErrorReason)
		if x.Error != "" {
			fmt.Fprintf(out, "  %s\n", x.Error)
		}
	}
	if len(x.Graphs) > 0 {
		fmt.Fprintln(out, "launches of graphs that went by themselves:")
		printReasons(out, x.Graphs)
	}
	if x.Nodes > 0 {
		fmt.Fprintf(out, "joined graphs: %d of its kernels were one launch with the same kernel of other clients\n", x.Nodes)
	}
	if w := x.Watched; w != nil {
		fmt.Fprintf(out, "watched for %v: %d ops in %d words", time.Duration(w.Seconds*float64(time.Second)), w.Ops, w.Words)
		if w.Words > 0 {
			fmt.Fprintf(out, ", %.1f ops in a word; %d went as soon as they could", w.MeanWidth, w.AtOnce)
		}
		fmt.Fprintln(out)
		if len(w.Waits) > 0 {
			fmt.Fprintln(out, "  what the others waited for:")
			printReasons(out, w.Waits)
		}
		if w.Dropped > 0 {
			fmt.Fprintf(out, "  %d events were dropped: the counts are too small\n", w.Dropped)
		}
	}
	if len(x.Native) > 0 {
		fmt.Fprintln(out, "kernels that run natively because they were refused:")
		for _, k := range x.Native {
			fmt.Fprintf(out, "  %s: %s\n", perfetto.Clean(k.Name), perfetto.Clean(k.Why))
		}
	}
	if c.RefusedReason != "" && len(x.Native) == 0 {
		fmt.Fprintf(out, "runs natively: %s\n", perfetto.Clean(c.RefusedReason))
	}
	if len(x.Kernels) > 0 {
		fmt.Fprintln(out, "kernels (all clients that launch them count):")
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		const most = 20
		for i := range x.Kernels[:min(len(x.Kernels), most)] {
			s := &x.Kernels[i].Stats
			why := dash(s.Why)
			if s.Why == "" && len(x.Kernels[i].NotWider) > 0 {
				r := x.Kernels[i].NotWider[0]
				why = fmt.Sprintf("%s: %s", r.Code, r.Meaning)
			}
			kernel := s.Name
			if len(kernel) > nameWidth {
				kernel = kernel[:nameWidth] + "…"
			}
			fmt.Fprintf(w, "  %s\t%d launches\t%d together\t%s\n", perfetto.Clean(kernel), s.Launches, s.Coalesced, perfetto.Clean(why))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if n := len(x.Kernels) - most; n > 0 {
			fmt.Fprintf(out, "  and %d more; next: heddle kernels --client %d\n", n, c.ID)
		}
		fmt.Fprintln(out, "next: heddle explain KERNEL")
	}
	for _, n := range x.Notes {
		fmt.Fprintf(out, "not known: %s\n", n)
	}
	return nil
}
