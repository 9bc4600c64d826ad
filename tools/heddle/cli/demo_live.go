package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
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
}

func newDemoWatch(b *demoBed, v *demoView, clients []*demoClient) *demoWatch {
	w := &demoWatch{bed: b, view: v, begun: time.Now(), seen: map[int]executor.Stats{}, ops: map[string]uint64{}}
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
	w.view.draw(w.picture(st))
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
			head += fmt.Sprintf("  %d ops in %d words, %d signals  in flight %d, waiting %d", s.Ops, s.Words, s.Signals, s.InFlight, s.Waiting)
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
	}
	return t
}
