package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// demoView is where the demo tells what goes on: lines, and on a terminal a block
// that is drawn again and again. With --json it is silent, but for complaints.
type demoView struct {
	out, errs io.Writer
	terminal  bool
	drawn     int // lines of the block that is on the screen
	last      time.Time
}

func newDemoView(o *options) *demoView {
	v := &demoView{out: o.stdout, errs: o.stderr}
	if o.json {
		v.out = io.Discard
		return v
	}
	if f, ok := o.stdout.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		v.terminal = err == nil && os.Getenv("TERM") != "dumb"
	}
	return v
}

// say prints a line.
func (v *demoView) say(format string, args ...any) {
	v.erase()
	fmt.Fprintf(v.out, format+"\n", args...)
}

// note prints a line between pictures.
func (v *demoView) note(format string, args ...any) { v.say("  "+format, args...) }

// complain prints to the error output whatever the mode.
func (v *demoView) complain(format string, args ...any) {
	v.erase()
	fmt.Fprintf(v.errs, format+"\n", args...)
}

func (v *demoView) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA\x1b[J", v.drawn) // up, and clear what is below
		v.drawn = 0
	}
}

// end leaves the last picture on the screen.
func (v *demoView) end() { v.drawn = 0 }

// draw shows a picture: on a terminal in place of the one before, else at most once a second as one line.
func (v *demoView) draw(lines []string) {
	if v.terminal {
		v.erase()
		for _, l := range lines {
			fmt.Fprintln(v.out, l)
		}
		v.drawn = len(lines)
		return
	}
	if time.Since(v.last) >= time.Second {
		v.last = time.Now()
		for i, l := range lines {
			lines[i] = strings.Join(strings.Fields(l), " ")
		}
		fmt.Fprintln(v.out, "  "+strings.Join(lines, " · "))
	}
}

// demoWatch asks the daemon again and again what its clients and executors do.
type demoWatch struct {
	bed     *demoBed
	view    *demoView
	begun   time.Time
	seen    map[int]executor.Stats // each executor's last answer, by pid
	started uint32                 // executors so far
	ops     map[string]uint64      // ops done by each client, by label
	names   []string               // of the clients
	// kernels are each executor's, by pid and then by name, as it last told; asked is when.
	kernels map[int]map[string]executor.CodeStats
	asked   time.Time
}

func newDemoWatch(b *demoBed, v *demoView, clients []*demoClient) *demoWatch {
	w := &demoWatch{bed: b, view: v, begun: time.Now(), seen: map[int]executor.Stats{}, ops: map[string]uint64{}, kernels: map[int]map[string]executor.CodeStats{}}
	for _, c := range clients {
		w.names = append(w.names, c.Name)
	}
	return w
}

// look asks once and draws the answer. A daemon that does not answer in time is asked again next time.
func (w *demoWatch) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := w.bed.status(ctx)
	if err != nil {
		return
	}
	w.take(st)
	if time.Since(w.asked) > 500*time.Millisecond {
		w.askKernels(ctx, st)
	}
	w.view.draw(w.picture(st))
}

// askKernels asks the executor that serves for its kernels; one that does not answer is asked again next time.
func (w *demoWatch) askKernels(ctx context.Context, st admin.Status) {
	all, err := admin.DialDir(w.bed.dir).Kernels(ctx, 0)
	if err != nil || len(all) != 1 || len(st.Executors) != 1 || st.Executors[0].Pid == 0 {
		return
	}
	w.asked = time.Now()
	w.takeKernels(st.Executors[0].Pid, all[0].Kernels)
}

// takeKernels remembers an executor's kernels.
func (w *demoWatch) takeKernels(pid int, rows []json.RawMessage) {
	if w.kernels[pid] == nil {
		w.kernels[pid] = map[string]executor.CodeStats{}
	}
	for _, raw := range rows {
		var r executor.CodeStats
		// An executor's counts only grow; less is another's that took its place between two questions.
		if json.Unmarshal(raw, &r) == nil && r.Launches >= w.kernels[pid][r.Name].Launches {
			w.kernels[pid][r.Name] = r
		}
	}
}

// coalesced adds up the kernels of all executors, most launched first.
func (w *demoWatch) coalesced() []demoKernel {
	sums := map[string]*demoKernel{}
	for _, rows := range w.kernels {
		for name, r := range rows {
			k := sums[name]
			if k == nil {
				k = &demoKernel{Name: name}
				sums[name] = k
			}
			k.Launches += r.Launches
			k.Coalesced += r.Coalesced
			if r.MeanWidth > 0 {
				k.words += float64(r.Coalesced) / r.MeanWidth
			}
		}
	}
	all := []demoKernel{}
	for _, k := range sums {
		if k.words > 0 {
			k.MeanWidth = float64(k.Coalesced) / k.words
		}
		all = append(all, *k)
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].Launches > all[j].Launches || all[i].Launches == all[j].Launches && all[i].Name < all[j].Name
	})
	return all
}

// take remembers what a status says.
func (w *demoWatch) take(st admin.Status) {
	for _, c := range st.Clients {
		w.ops[c.Label] = max(w.ops[c.Label], c.Ops)
	}
	for _, e := range st.Executors {
		w.started = max(w.started, e.Epoch)
		var s executor.Stats
		if len(e.Counters) > 0 && json.Unmarshal(e.Counters, &s) == nil && s.PID > 0 {
			w.seen[s.PID] = s
		}
	}
}

// picture is a status in a few lines.
func (w *demoWatch) picture(st admin.Status) []string {
	inFlight := map[uint64]executor.SessionStats{}
	head := fmt.Sprintf("%5.1f s  no executor yet", time.Since(w.begun).Seconds())
	for _, e := range st.Executors {
		head = fmt.Sprintf("%5.1f s  executor %d (%s, number %d)", time.Since(w.begun).Seconds(), e.Pid, e.State, e.Epoch)
		if s, ok := w.seen[e.Pid]; ok {
			head += fmt.Sprintf("  %d ops in %d words, %d coalesced, %d signals  in flight %d, waiting %d", s.Ops, s.Words, s.Coalescing.OpsCoalesced, s.Signals, s.InFlight, s.Waiting)
			for _, session := range s.Sessions {
				inFlight[session.ClientID] = session
			}
		}
	}
	lines := []string{head}
	for _, name := range w.names {
		line := fmt.Sprintf("         %-11s %6d ops", name, w.ops[name])
		for _, c := range st.Clients {
			if c.Label == name {
				s := inFlight[c.ID]
				line += fmt.Sprintf(" %3d in flight %3d waiting %-9s", s.InFlight, s.Waiting, c.State)
				if c.Error != 0 {
					line += fmt.Sprintf(" CUDA error %d", c.Error)
				}
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// busy reports whether this many clients have had ops done.
func (w *demoWatch) busy(clients int) bool {
	n := 0
	for _, ops := range w.ops {
		if ops > 0 {
			n++
		}
	}
	return n >= clients
}

// settle takes the last counters, once a live executor gives them that is not the
// first. If there is none in time, the verdict says so; no live one is an error.
func (w *demoWatch) settle(ctx context.Context) error {
	deadline := time.Now().Add(15 * time.Second)
	for {
		late := time.Now().After(deadline)
		st, err := w.bed.status(ctx)
		if err == nil {
			w.take(st)
			for _, e := range st.Executors {
				if _, ok := w.seen[e.Pid]; ok && e.State == "live" && (w.started > 1 || late) {
					w.askKernels(ctx, st)
					return nil
				}
			}
			err = errNoSuccessor
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if late {
			return fmt.Errorf("%w\nthe daemon's log:\n%s", err, w.bed.daemonLog())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// totals adds up what all executors did.
func (w *demoWatch) totals() demoExecutors {
	t := demoExecutors{Started: w.started, LowerBound: w.started > 1}
	for _, s := range w.seen {
		t.Ops += s.Ops
		t.Launches += s.Launches
		t.Words += s.Words
		t.Signals += s.Signals
		t.Orders += s.Orders
		t.Coalesced += s.Coalescing.OpsCoalesced
		for _, n := range s.Coalescing.Widths[1:] {
			t.CoalescedWords += n
		}
	}
	return t
}
