package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/executor/trace"
	"github.com/heddle-gpu/heddle/controlplane/perfetto"
	"github.com/heddle-gpu/heddle/controlplane/reasons"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of --events.
const (
	fewestEvents, mostEvents = 1000, 32 << 20
	defaultEvents            = 2 << 20
)

func newRecord(o *options) *cobra.Command {
	var output, requests string
	var seconds float64
	var client uint64
	var most int
	var ends bool
	cmd := &cobra.Command{
		Use:   "record",
		Short: "Record what goes where and when, for Perfetto",
		Long: `Records ops, words, requests and errors of all executors for a while and writes a
trace for https://ui.perfetto.dev: a track for each client with its lanes and
requests, one for each executor with its streams and words, and a flow from each
op to the word that it went in. ^C ends it early. docs/tracing.md explains it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			length, err := recordLength(seconds)
			if err != nil {
				return err
			}
			if most < fewestEvents || most > mostEvents {
				return fail(ExitUsage, "--events %d: expected %d to %d", most, fewestEvents, mostEvents)
			}
			file, err := os.CreateTemp(filepath.Dir(output), ".heddle-record-*") // before the work, not after it
			if err != nil {
				return fail(ExitFailed, "%w; next: -o with a folder that can be written", err)
			}
			defer os.Remove(file.Name())
			defer file.Close()
			conn := admin.Dial()
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			before, err := conn.Status(ctx)
			if err != nil {
				return unreachable(err)
			}
			begun := func() { fmt.Fprintf(o.stderr, "recording for %v; ^C ends it early\n", length) }
			r, err := record(ctx, conn, admin.TraceOptions{Length: length, Client: client, Room: trace.MaxEvents, Ends: ends}, most, begun)
			if err != nil {
				return unreachable(err)
			}
			r.name(cmd.Context(), conn, before.Clients)
			if err := trace.Write(file, r.executors(), r.clocks); err != nil {
				return fail(ExitFailed, "%s: %w", output, err)
			}
			if err := errors.Join(file.Chmod(0o644), file.Close(), os.Rename(file.Name(), output)); err != nil {
				return exitError{ExitFailed, err}
			}
			if requests != "" {
				if err := r.writeRequests(requests); err != nil {
					return exitError{ExitFailed, err}
				}
			}
			return o.recorded(r, output, requests)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "heddle.pftrace", "file to write")
	cmd.Flags().StringVar(&requests, "requests", "", "file for the requests too, as heddle replay reads them")
	cmd.Flags().Float64Var(&seconds, "seconds", 5, "how long")
	cmd.Flags().Uint64Var(&client, "client", 0, "only what concerns this client (its ID in heddle ps)")
	cmd.Flags().BoolVar(&ends, "ends", false, "have every op tell its own end, not one in several; costs its stream some 2 us each")
	cmd.Flags().IntVar(&most, "events", defaultEvents, "end early after this many events (about 100 bytes of the file each)")
	return cmd
}

func recordLength(seconds float64) (time.Duration, error) {
	if !(seconds > 0 && seconds <= trace.MaxTime.Seconds()) {
		return 0, fail(ExitUsage, "--seconds %v: expected more than 0 and at most %v", seconds, trace.MaxTime.Seconds())
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// recording is what all executors recorded.
type recording struct {
	parts  []*recordedPart
	clocks []perfetto.Reading
	early  string // why it ended before its time
	// sources are the clients, requests is how many were written as such; -1: none were asked for.
	sources  map[uint64]trace.Source
	requests int
}

// recordedPart is one executor's.
type recordedPart struct {
	page  admin.TracePage // the last one
	names trace.Names
	line  *trace.Timeline
	costs map[uint32]trace.Cost // of kernels
}

var errEnoughEvents = errors.New("enough events")

// record takes a recording; begun is called when it has begun. The end of ctx ends it early; what was recorded until then counts.
func record(ctx context.Context, conn *admin.Conn, o admin.TraceOptions, most int, begun func()) (*recording, error) {
	r := &recording{clocks: trace.Clocks(), sources: map[uint64]trace.Source{}, requests: -1}
	events := 0
	err := conn.Trace(ctx, o, func(p *admin.TracePage) error {
		if len(r.parts) == 0 {
			begun()
		}
		part := r.part(p)
		if p.Names != nil {
			var names executor.TraceNames
			if err := json.Unmarshal(p.Names, &names); err != nil {
				return fmt.Errorf("the executor's answer: %w; is it of another version? heddle version", err)
			}
			part.names.Waits, part.names.Paths = names.Waits, names.Paths
		}
		part.page = *p
		part.page.Events = nil
		part.names.Dropped = p.Dropped
		if err := part.line.Add(p.Events); err != nil {
			return err
		}
		if events += len(p.Events) / trace.EventBytes; events >= most {
			return errEnoughEvents
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnoughEvents):
		r.early = fmt.Sprintf("after %d events (--events)", events)
	case ctx.Err() != nil:
		r.early = "it was interrupted"
	case err != nil:
		return nil, err
	}
	return r, nil
}

func (r *recording) part(p *admin.TracePage) *recordedPart {
	for _, part := range r.parts {
		if part.page.GPU == p.GPU && part.page.UID == p.UID && part.page.Pid == p.Pid {
			return part
		}
	}
	part := &recordedPart{line: trace.NewTimeline(), costs: map[uint32]trace.Cost{}}
	r.parts = append(r.parts, part)
	return part
}

// name finds what clients and kernels are called, those too that have left meanwhile. Without an answer they are shown by their
// numbers.
func (r *recording) name(ctx context.Context, conn *admin.Conn, before []admin.Client) {
	st, _ := conn.Status(ctx)
	kernels, _ := conn.Kernels(ctx, 0)
	for _, part := range r.parts {
		n := &part.names
		n.Executor = fmt.Sprintf("executor of %s, user %d (pid %d)", short(part.page.GPU), part.page.UID, part.page.Pid)
		n.Clients, n.Kernels, n.Faults = map[uint64]string{}, map[uint32]string{}, map[uint32]string{}
		for _, c := range append(slices.Clone(before), st.Clients...) {
			r.sources[c.ID] = trace.Source{Label: c.Label, Class: c.Class}
			program := filepath.Base(c.Exe)
			if c.Label != "" {
				program = c.Label + ", " + program
			}
			n.Clients[c.ID] = fmt.Sprintf("client %d: %s (pid %d, class %s)", c.ID, program, c.Pid, c.Class)
		}
		for _, e := range kernels {
			if e.GPU != part.page.GPU || e.UID != part.page.UID {
				continue
			}
			for _, raw := range e.Kernels {
				var row executor.CodeStats
				if json.Unmarshal(raw, &row) == nil {
					n.Kernels[row.ID] = row.Name
					part.costs[row.ID] = trace.Cost{Alone: row.AloneNS, Joined: len(row.Forms) > 0}
				}
			}
		}
		for i, code := range reasons.Codes(reasons.Session) {
			n.Faults[uint32(i)+shm.ReasonFault] = code // in the order of the wire's numbers; a test compares
		}
	}
}

func (r *recording) executors() []trace.Executor {
	var all []trace.Executor
	for _, part := range r.parts {
		all = append(all, trace.Executor{Timeline: part.line, Names: part.names})
	}
	return all
}

// writeRequests writes what heddle sim can replay.
func (r *recording) writeRequests(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r.requests, err = trace.WriteRequests(file, r.executors(), r.sources, func(part int, code uint32) trace.Cost { return r.parts[part].costs[code] })
	return errors.Join(err, file.Close())
}

// recordSummary is what heddle record says when it is done.
type recordSummary struct {
	File    string   `json:"file"`
	Seconds float64  `json:"seconds"` // from the first to the last event
	Events  int      `json:"events"`
	Dropped uint64   `json:"dropped"`
	Clients int      `json:"clients"`
	Ops     int      `json:"ops"`
	Words   int      `json:"words"`
	Early   []string `json:"ended_early,omitempty"`
	// Rows are what ops did, by client, kind, and whether others' were under way when they were issued.
	Rows []recordRow `json:"rows"`
	// Requests in the file of --requests: those that lie wholly within the recording.
	Requests int `json:"requests,omitempty"`
}

// recordRow is what ops of one kind of one client did; see trace.Summary.
type recordRow struct {
	Client uint64          `json:"client"`
	Name   string          `json:"name"`
	Kind   string          `json:"kind"`
	Beside bool            `json:"beside"`
	Ops    int             `json:"ops"`
	Waited recordQuantiles `json:"waited_seconds"` // until it was issued
	Took   recordQuantiles `json:"took_seconds"`   // from then until it was seen done
}

type recordQuantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func inSeconds(q trace.Quantiles) recordQuantiles {
	return recordQuantiles{float64(q.P50) / 1e9, float64(q.P99) / 1e9}
}

func (r *recording) summary(file string) recordSummary {
	s := recordSummary{File: file, Rows: []recordRow{}}
	clients := map[uint64]bool{}
	for _, part := range r.parts {
		s.Events += part.line.Events
		s.Dropped += part.names.Dropped
		s.Ops += len(part.line.Ops)
		s.Words += len(part.line.Words)
		s.Seconds = max(s.Seconds, float64(part.line.End-part.line.Begin)/1e9)
		for i := range part.line.Ops {
			clients[part.line.Ops[i].Client] = true
		}
		for _, row := range part.line.Summaries() {
			name := cmp.Or(part.names.Clients[row.Client], fmt.Sprintf("client %d", row.Client))
			s.Rows = append(s.Rows, recordRow{row.Client, name, row.Kind, row.Beside, row.Ops, inSeconds(row.Waited), inSeconds(row.Took)})
		}
		if part.page.Problem != "" {
			s.Early = append(s.Early, fmt.Sprintf("executor %d: %s", part.page.Pid, part.page.Problem))
		}
	}
	s.Clients, s.Requests = len(clients), max(r.requests, 0)
	if r.early != "" {
		s.Early = append(s.Early, r.early)
	}
	return s
}

// recordRows prints the table.
func (o *options) recordRows(rows []recordRow) {
	w := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	for i, row := range rows {
		if i == 0 {
			fmt.Fprintln(w, "CLIENT\tWHAT\tOPS\tWAITED p50 / p99 us\tTOOK p50 / p99 us")
		}
		what := row.Kind
		if row.Beside {
			what += " beside others"
		}
		us := func(q recordQuantiles) string { return fmt.Sprintf("%.1f / %.1f", q.P50*1e6, q.P99*1e6) }
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", printable(row.Name), what, row.Ops, us(row.Waited), us(row.Took))
	}
	_ = w.Flush() // whoever does not want it has closed standard output
}

// recorded tells what is in the file.
func (o *options) recorded(r *recording, output, requests string) error {
	s := r.summary(output)
	if o.json {
		if err := o.printJSON(s); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(o.stdout, "%s: %d ops of %d clients in %d words, %.2f s, %d events\n", s.File, s.Ops, s.Clients, s.Words, s.Seconds, s.Events)
		if r.requests >= 0 {
			fmt.Fprintf(o.stdout, "%d whole requests; next: heddle replay %s\n", r.requests, requests)
		}
		o.recordRows(s.Rows)
		fmt.Fprintln(o.stdout, "next: open it on https://ui.perfetto.dev (it stays in your browser)")
	}
	for _, e := range s.Early {
		fmt.Fprintf(o.stderr, "ended early: %s\n", e)
	}
	switch {
	case slices.ContainsFunc(r.parts, func(p *recordedPart) bool { return p.page.Problem != "" }):
		return fail(ExitDegraded, "an executor's recording ended early; next: heddle ps")
	case s.Dropped > 0:
		return fail(ExitDegraded, "%d events were dropped because they came faster than they were read; next: --client, or fewer --seconds", s.Dropped)
	case len(r.parts) == 0:
		return fail(ExitDegraded, "no executor runs: nothing was recorded; next: heddle ps")
	}
	return nil
}
