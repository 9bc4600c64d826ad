package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// shortestInterval bounds how often the daemon, and with it every executor, is asked.
const shortestInterval = 100 * time.Millisecond

func newTop(o *options) *cobra.Command {
	var once bool
	interval := time.Second
	cmd := &cobra.Command{
		Use:   "top",
		Short: "What clients and classes get, as it changes",
		Long: `Shows executors, classes (requests that met their objective, p99 against it, time
that ops waited) and clients (ops a second, kernels in a launch, share of kernels
that shared one), for the last interval, until ^C. Without a terminal it prints
one block after the other; with --json one line of JSON an interval. --once shows
one interval.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < shortestInterval {
				return fail(ExitUsage, "--interval %v: expected at least %v", interval, shortestInterval)
			}
			return runTop(cmd.Context(), o, interval, once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "show one interval and leave")
	cmd.Flags().DurationVar(&interval, "interval", interval, "time from one look to the next")
	return cmd
}

func runTop(ctx context.Context, o *options, interval time.Duration, once bool) error {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	conn := admin.Dial()
	look := func() (*admin.Status, error) {
		st, err := conn.Status(ctx)
		if err != nil {
			return nil, unreachable(err)
		}
		return &st, nil
	}
	screen := screenOf(o.stdout)
	live := screen != nil && !once && !o.json
	if live {
		fmt.Fprint(o.stdout, "\x1b[?25l") // no cursor
		defer fmt.Fprint(o.stdout, "\x1b[?25h\r\n")
	}
	before, err := look()
	if err != nil {
		return err
	}
	at := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := look()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		taken := time.Now()
		r := topReport(before, now, taken.Sub(at))
		r.Time = taken
		before, at = now, taken
		switch {
		case o.json && once:
			return o.printJSON(r)
		case o.json:
			if err := json.NewEncoder(o.stdout).Encode(r); err != nil {
				return written(err)
			}
		case live:
			if err := r.draw(o.stdout, screen); err != nil {
				return written(err)
			}
		default:
			if !first {
				fmt.Fprintln(o.stdout)
			}
			if err := r.print(o.stdout, layout{columns: 80, colour: screen.colour()}); err != nil {
				return written(err)
			}
		}
		if once {
			return nil
		}
	}
}

// TopReport is what `heddle top --json` prints: what happened in one interval.
type TopReport struct {
	Time      time.Time     `json:"time"`
	Seconds   float64       `json:"seconds"` // length of the interval
	Version   string        `json:"version"`
	Executors []TopExecutor `json:"executors"`
	Classes   []TopClass    `json:"classes"`
	Clients   []TopClient   `json:"clients"`
}

// TopExecutor is one executor in the interval. Shares are 0 to 1.
type TopExecutor struct {
	GPU            string  `json:"gpu"`
	UID            int     `json:"uid"`
	State          string  `json:"state"`
	Starts         uint32  `json:"starts"`
	WordsPerSecond float64 `json:"words_per_second"`
	MeanWidth      float64 `json:"mean_width"` // of words of kernels; 0: none
	CoalescedShare float64 `json:"coalesced_share"`
	PollerBusy     float64 `json:"poller_busy"`
	InFlight       int     `json:"in_flight"`
	Waiting        int     `json:"waiting"`
	Fault          string  `json:"last_fault,omitempty"`
}

// TopClass is what a class got on one executor. Durations are seconds; p99 are upper estimates, of the interval or, when nothing
// ended in it, since the executor's start; -1: above the largest that is told apart.
type TopClass struct {
	GPU               string  `json:"gpu"`
	UID               int     `json:"uid"`
	Class             string  `json:"class"`
	Clients           int     `json:"clients"`
	RequestsPerSecond float64 `json:"requests_per_second"`
	Requests          uint64  `json:"requests"` // that attainment and latency are of
	Attained          float64 `json:"attained"`
	Objective         float64 `json:"objective_seconds"` // 0: none
	LatencyP99        float64 `json:"latency_p99_seconds"`
	QueueP99          float64 `json:"queue_p99_seconds"`
	StaggerPerOp      float64 `json:"stagger_seconds_per_op"`
	CoalescedShare    float64 `json:"coalesced_share"`
	GPUShare          float64 `json:"gpu_share"`
}

// TopClient is one client in the interval.
type TopClient struct {
	ID             uint64  `json:"id"`
	Pid            int     `json:"pid"`
	Class          string  `json:"class"`
	State          string  `json:"state"`
	Label          string  `json:"label,omitempty"`
	Exe            string  `json:"exe"`
	OpsPerSecond   float64 `json:"ops_per_second"`
	MeanWidth      float64 `json:"mean_width"` // of words that held a kernel of it; 0: none
	CoalescedShare float64 `json:"coalesced_share"`
	InFlight       uint64  `json:"in_flight"`
	RingBytes      uint64  `json:"ring_bytes"`
	DeviceBytes    uint64  `json:"device_bytes"`
	Error          string  `json:"error,omitempty"`
}

// sample is one look at the daemon, to be compared with another.
type sample struct {
	stats    map[int]*executor.Stats // by the executor's pid: another executor counts from the start
	sessions map[uint64]*executor.SessionStats
	clients  map[uint64]*admin.Client
}

func sampleOf(st *admin.Status) sample {
	s := sample{map[int]*executor.Stats{}, map[uint64]*executor.SessionStats{}, map[uint64]*admin.Client{}}
	for i := range st.Executors {
		e, x := &st.Executors[i], &executor.Stats{}
		if e.Counters == nil || json.Unmarshal(e.Counters, x) != nil {
			continue
		}
		s.stats[e.Pid] = x
		for k := range x.Sessions {
			s.sessions[x.Sessions[k].ClientID] = &x.Sessions[k]
		}
	}
	for i := range st.Clients {
		s.clients[st.Clients[i].ID] = &st.Clients[i]
	}
	return s
}

// grown is what a counter grew by; one that went back was begun anew.
func grown(now, then uint64) uint64 {
	if now < then {
		return now
	}
	return now - then
}

func ratio(a, b float64) float64 {
	if b <= 0 || a < 0 {
		return 0
	}
	return a / b
}

// wordsOf is how many words an executor has issued, whatever they hold.
func wordsOf(s *executor.Stats) uint64 {
	c := &s.Coalescing
	return c.WordsAlone + c.WordsCoalesced + c.Slices + s.Prepared.Words + s.Graphs.Joined.Words
}

// topReport says what happened between two looks.
func topReport(before, now *admin.Status, took time.Duration) *TopReport {
	r := &TopReport{Seconds: took.Seconds(), Version: now.Version, Executors: []TopExecutor{}, Classes: []TopClass{}, Clients: []TopClient{}}
	a, b := sampleOf(before), sampleOf(now)
	rate := func(n uint64) float64 { return ratio(float64(n), r.Seconds) }
	for i := range now.Executors {
		e := &now.Executors[i]
		t := TopExecutor{GPU: e.GPU, UID: e.UID, State: e.State, Starts: e.Epoch, Fault: e.Fault}
		if x := b.stats[e.Pid]; x != nil {
			y := a.stats[e.Pid]
			if y == nil {
				y = &executor.Stats{}
			}
			g, h := &x.Coalescing, &y.Coalescing
			t.WordsPerSecond = rate(grown(wordsOf(x), wordsOf(y)))
			var launches uint64
			for k := range g.Widths {
				launches += grown(g.Widths[k], h.Widths[k])
			}
			joined := grown(g.OpsCoalesced, h.OpsCoalesced)
			kernels := float64(grown(g.Widths[0], h.Widths[0]) + joined)
			t.MeanWidth, t.CoalescedShare = ratio(kernels, float64(launches)), ratio(float64(joined), kernels)
			t.PollerBusy = ratio(x.PollerBusySeconds-y.PollerBusySeconds, r.Seconds)
			t.InFlight, t.Waiting = x.InFlight, x.Waiting
			for k := range x.Classes {
				r.Classes = append(r.Classes, topClass(e, &x.Classes[k], classNamed(y.Classes, x.Classes[k].Class), r.Seconds))
			}
		}
		r.Executors = append(r.Executors, t)
	}
	for i := range now.Clients {
		c := &now.Clients[i]
		t := TopClient{ID: c.ID, Pid: c.Pid, Class: c.Class, State: c.State, Label: c.Label, Exe: c.Exe, InFlight: c.InFlight, DeviceBytes: c.DeviceBytes}
		if c.Error != 0 {
			t.Error = fmt.Sprintf("%d %s", c.Error, c.ErrorReason)
		}
		if old := a.clients[c.ID]; old != nil {
			t.OpsPerSecond = rate(grown(c.Ops, old.Ops))
		}
		if x := b.sessions[c.ID]; x != nil {
			y := a.sessions[c.ID]
			if y == nil {
				y = &executor.SessionStats{}
			}
			launches, joined := grown(x.Launches, y.Launches), grown(x.Coalesced, y.Coalesced)
			t.CoalescedShare = min(1, ratio(float64(joined), float64(launches)))
			if launches >= joined {
				t.MeanWidth = ratio(float64(launches-joined+grown(x.Slots, y.Slots)), float64(launches))
			}
			t.RingBytes = x.RingBytes
		}
		r.Clients = append(r.Clients, t)
	}
	slices.SortStableFunc(r.Clients, func(a, b TopClient) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), -cmp.Compare(a.OpsPerSecond, b.OpsPerSecond), cmp.Compare(a.ID, b.ID))
	})
	return r
}

func classNamed(all []executor.ClassStats, name string) *executor.ClassStats {
	for i := range all {
		if all[i].Class == name {
			return &all[i]
		}
	}
	return &executor.ClassStats{}
}

func topClass(e *admin.Executor, x, y *executor.ClassStats, seconds float64) TopClass {
	t := TopClass{GPU: e.GPU, UID: e.UID, Class: x.Class, Clients: x.Clients, Objective: x.ObjectiveSeconds}
	ended, attained := grown(x.Requests, y.Requests), grown(x.Attained, y.Attained)
	t.RequestsPerSecond = ratio(float64(ended), seconds)
	if ended == 0 {
		ended, attained = x.Requests, x.Attained
	}
	t.Requests, t.Attained = ended, min(1, ratio(float64(attained), float64(ended)))
	t.LatencyP99, t.QueueP99 = p99(&x.Latency, &y.Latency), p99(&x.Queue, &y.Queue)
	ops := float64(grown(x.Ops, y.Ops))
	t.StaggerPerOp, t.CoalescedShare = ratio(x.Stagger.Sum-y.Stagger.Sum, ops), min(1, ratio(float64(grown(x.Coalesced, y.Coalesced)), ops))
	t.GPUShare = ratio(x.GPUSeconds-y.GPUSeconds, seconds)
	return t
}

// p99 is the bound below which 99 % of what came between two looks lie, of everything when nothing came; 0: nothing at all, -1: above
// the last bound.
func p99(now, then *executor.Histogram) float64 {
	counts, total := now.Counts, uint64(0)
	for i := range counts {
		counts[i] = grown(now.Counts[i], then.Counts[i])
		total += counts[i]
	}
	if total == 0 {
		counts = now.Counts
		for _, n := range counts {
			total += n
		}
	}
	if total == 0 {
		return 0
	}
	seen := uint64(0)
	for i, bound := range executor.HistogramBounds {
		if seen += counts[i]; float64(seen) >= 0.99*float64(total) {
			return bound
		}
	}
	return -1
}

// layout is where a report is printed. rows bounds its lines; 0: all of them.
type layout struct {
	columns, rows int
	colour        bool
}

// screen is a terminal.
type screen struct{ fd int }

// screenOf is the terminal behind a writer; nil when it is none.
func screenOf(w io.Writer) *screen {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return &screen{int(f.Fd())}
}

// colour tells whether colours are wanted (https://no-color.org).
func (s *screen) colour() bool {
	return s != nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// draw shows a report from the top left corner on, over the one before.
func (r *TopReport) draw(w io.Writer, s *screen) error {
	l := layout{columns: 80, rows: 24, colour: s.colour()}
	if size, err := unix.IoctlGetWinsize(s.fd, unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 1 {
		l.columns, l.rows = int(size.Col), int(size.Row)
	}
	var text strings.Builder
	if err := r.print(&text, l); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	lines = lines[:min(len(lines), l.rows)]
	_, err := io.WriteString(w, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}

// print writes a report as lines of at most l.columns.
func (r *TopReport) print(w io.Writer, l layout) error {
	out := bufio.NewWriter(w)
	lines := 0
	line := func(format string, args ...any) {
		fmt.Fprintln(out, fit(fmt.Sprintf(format, args...), l.columns))
		lines++
	}
	line("heddle top  %s  %s  last %s", r.Time.Format(time.TimeOnly), plural(len(r.Clients), "client"), (time.Duration(r.Seconds * float64(time.Second))).Round(10*time.Millisecond))
	for _, e := range r.Executors {
		line("%-12s user %d %-10s %6s words/s  width %-5s coalesced %s", clip(short(e.GPU), 12), e.UID, clip(e.State, 10), amount(e.WordsPerSecond),
			decimal(e.MeanWidth), percentOrDash(e.CoalescedShare, e.MeanWidth))
		line("             poller busy %s  in flight %d  waiting %d  starts %d%s", percent(e.PollerBusy), e.InFlight, e.Waiting, e.Starts, lastFault(e.Fault))
	}
	if len(r.Classes) > 0 {
		line("")
		line("%-16s %7s %6s %8s %8s %9s %7s %6s", "CLASS", "CLIENTS", "REQ/S", "ATTAINED", "P99", "OBJECTIVE", "QUEUE99", "GPU")
		for _, c := range r.Classes {
			attained := "-"
			if c.Objective > 0 && c.Requests > 0 {
				attained = percent(c.Attained)
			}
			text := fit(fmt.Sprintf("%-16s %7d %6s %8s %8s %9s %7s %6s", pad(c.Class, 16), c.Clients, amount(c.RequestsPerSecond), attained, bound(c.LatencyP99),
				span(c.Objective), bound(c.QueueP99), percent(c.GPUShare)), l.columns)
			if l.colour && c.Objective > 0 && c.Requests > 0 {
				switch {
				case c.Attained < 0.95:
					text = "\x1b[31m" + text + "\x1b[0m"
				case c.Attained < 0.99:
					text = "\x1b[33m" + text + "\x1b[0m"
				}
			}
			fmt.Fprintln(out, text)
			lines++
		}
	}
	line("")
	line("%5s %-12s %7s %6s %6s %6s %7s  %s", "ID", "CLASS", "OPS/S", "WIDTH", "COAL", "FLIGHT", "DEVICE", "LABEL OR PROGRAM")
	for i, c := range r.Clients {
		if l.rows > 0 && lines >= l.rows-1 && i < len(r.Clients)-1 {
			line("%5s and %d more: heddle ps", "", len(r.Clients)-i)
			break
		}
		name := c.Label
		if name == "" {
			name = c.Exe[strings.LastIndexByte(c.Exe, '/')+1:]
		}
		if c.Error != "" {
			name += "  error " + c.Error
		} else if c.State != "live" {
			name += "  " + c.State
		}
		text := fit(fmt.Sprintf("%5d %-12s %7s %6s %6s %6d %7s  %s", c.ID, pad(c.Class, 12), amount(c.OpsPerSecond), decimal(c.MeanWidth), percentOrDash(c.CoalescedShare, c.MeanWidth),
			c.InFlight, size(c.DeviceBytes), printable(name)), l.columns)
		if l.colour && c.Error != "" {
			text = "\x1b[31m" + text + "\x1b[0m"
		}
		fmt.Fprintln(out, text)
		lines++
	}
	return out.Flush()
}

func lastFault(text string) string {
	if text == "" {
		return ""
	}
	return "  last fault: " + printable(text)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printable is text that a client chose, with nothing in it that a terminal would take as a command, that turns the direction of
// writing, or that has no width.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || unicode.Is(unicode.M, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// columnsOf is the width of a printable rune: two for those of East Asian scripts and pictures.
func columnsOf(r rune) int {
	if r >= 0x1100 && (r <= 0x115f || r >= 0x2e80 && r <= 0xa4cf || r >= 0xac00 && r <= 0xd7a3 || r >= 0xf900 && r <= 0xfaff || r >= 0xfe30 && r <= 0xfe6f ||
		r >= 0xff00 && r <= 0xff60 || r >= 0xffe0 && r <= 0xffe6 || r >= 0x1f000) {
		return 2
	}
	return 1
}

// fit cuts a line to a number of columns.
func fit(s string, columns int) string {
	used := 0
	for i, r := range s {
		if used += columnsOf(r); used > columns {
			return strings.TrimRight(s[:i], " ")
		}
	}
	return strings.TrimRight(s, " ")
}

// clip is printable text of at most so many columns; what is cut ends in "~".
func clip(s string, columns int) string {
	s = printable(s)
	if t := fit(s, columns); t == strings.TrimRight(s, " ") {
		return t
	}
	return fit(s, columns-1) + "~"
}

// pad is clip filled up with spaces: fmt counts runes, not columns.
func pad(s string, columns int) string {
	s = clip(s, columns)
	used := 0
	for _, r := range s {
		used += columnsOf(r)
	}
	return s + strings.Repeat(" ", max(0, columns-used))
}

func amount(v float64) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.1fG", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.1fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func decimal(v float64) string {
	if v <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", v)
}

func percent(v float64) string { return fmt.Sprintf("%.1f%%", 100*v) }

func percentOrDash(v, known float64) string {
	if known <= 0 {
		return "-"
	}
	return percent(v)
}

// span is a duration of some seconds, 0 as none.
func span(seconds float64) string {
	switch {
	case seconds <= 0:
		return "-"
	case seconds < 1e-3:
		return fmt.Sprintf("%.3gus", seconds*1e6)
	case seconds < 1:
		return fmt.Sprintf("%.3gms", seconds*1e3)
	}
	return fmt.Sprintf("%.3gs", seconds)
}

// bound is an upper estimate as p99 gives it.
func bound(seconds float64) string {
	switch {
	case seconds < 0:
		return ">" + span(executor.HistogramBounds[len(executor.HistogramBounds)-1])
	case seconds == 0:
		return "-"
	}
	return "<" + span(seconds)
}

func size(bytes uint64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1fGiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%dMiB", bytes>>20)
	}
	return fmt.Sprintf("%dKiB", bytes>>10)
}
