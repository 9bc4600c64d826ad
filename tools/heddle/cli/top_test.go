package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// hostileLabel is what a client may call itself: a terminal's commands, other directions, wide and invisible characters.
const hostileLabel = "\x1b]0;taken\x07\x1b[2J\u202egnp\u200b漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字e\u0301\x9b31m"

// topStatus is what a daemon says at its n-th look.
func topStatus(n uint64) *admin.Status {
	x := executor.Stats{Ops: 400 * n, InFlight: 3, Waiting: 2, PollerBusySeconds: 0.25 * float64(n)}
	x.Coalescing = executor.CoalescingStats{WordsAlone: 50 * n, WordsCoalesced: 50 * n, OpsCoalesced: 250 * n, Widths: [cost.Buckets]uint64{50 * n, 0, 0, 50 * n}}
	met := executor.ClassStats{Class: "interactive", Clients: 2, ObjectiveSeconds: 0.02, Requests: 100 * n, Attained: 97 * n, Ops: 300 * n, Coalesced: 150 * n, GPUSeconds: 0.5 * float64(n)}
	met.Latency.Counts[12], met.Latency.Counts[13] = 98*n, 2*n // up to 10 ms, up to 25 ms
	met.Queue.Counts[4] = 300 * n
	late := executor.ClassStats{Class: hostileLabel, ObjectiveSeconds: 0.001, Requests: 10 * n, Attained: n}
	late.Latency.Counts[len(executor.HistogramBounds)] = 10 * n
	x.Classes = []executor.ClassStats{met, late}
	x.Sessions = []executor.SessionStats{{ClientID: 1, Launches: 100 * n, Coalesced: 80 * n, Slots: 640 * n, RingBytes: 512}, {ClientID: 2, Launches: 10 * n}}
	counters, err := json.Marshal(x)
	if err != nil {
		panic(err) // the types are ours
	}
	return &admin.Status{
		Version: "test", Since: time.Now(),
		Clients: []admin.Client{
			{ID: 1, Class: "interactive", State: "live", Exe: "/usr/bin/python3", Ops: 1000 * n, InFlight: 7, DeviceBytes: 3 << 30},
			{ID: 2, Class: hostileLabel, State: "live", Label: hostileLabel, Exe: "/tmp/" + hostileLabel, Ops: 20 * n, Error: 700, ErrorReason: "device-fault " + hostileLabel},
			{ID: 3, Class: "batch", State: "restarting", Label: strings.Repeat("x", 100), Ops: 5},
		},
		Executors: []admin.Executor{
			{GPU: "GPU-01020300-0000-0000-0000-000000000000", UID: 1000, Pid: 9, State: "live", Epoch: 2, Fault: hostileLabel, Counters: counters},
			{GPU: "GPU-2", State: "restarting", Counters: json.RawMessage(`{"ops":[]}`)},
		},
	}
}

func TestTopReportsOfOneInterval(t *testing.T) {
	r := topReport(topStatus(10), topStatus(12), 2*time.Second)
	e, c, k := r.Executors[0], r.Classes[0], r.Clients
	if e.WordsPerSecond != 100 || e.MeanWidth != 3 || e.CoalescedShare < 0.833 || e.CoalescedShare > 0.834 || e.PollerBusy != 0.25 || e.InFlight != 3 {
		t.Errorf("executor: %+v", e)
	}
	if c.RequestsPerSecond != 100 || c.Requests != 200 || c.Attained != 0.97 || c.LatencyP99 != 0.025 || c.QueueP99 != 2.5e-5 || c.GPUShare != 0.5 || c.CoalescedShare != 0.5 {
		t.Errorf("class: %+v", c)
	}
	if r.Classes[1].LatencyP99 != -1 {
		t.Errorf("a class beyond the last bound: %+v", r.Classes[1])
	}
	if len(k) != 3 || k[0].ID != 2 || k[1].ID != 3 || k[2].ID != 1 { // by class
		t.Fatalf("clients: %+v", k)
	}
	for _, c := range k {
		if c.ID == 1 && (c.OpsPerSecond != 1000 || c.CoalescedShare != 0.8 || c.MeanWidth != 6.6 || c.RingBytes != 512) {
			t.Errorf("client 1: %+v", c)
		}
	}
	// Nothing happened, an executor that began anew, none before: no negative rates, nothing that is not a number.
	for what, r := range map[string]*TopReport{
		"nothing happened": topReport(topStatus(5), topStatus(5), time.Second), "began anew": topReport(topStatus(50), topStatus(1), time.Second),
		"none before": topReport(&admin.Status{}, topStatus(3), time.Second), "no time": topReport(topStatus(1), topStatus(2), 0), "nobody": topReport(topStatus(1), &admin.Status{}, time.Second),
	} {
		text, err := json.Marshal(r)
		if err != nil || strings.Contains(string(text), `per_second":-`) || strings.Contains(string(text), `width":-`) {
			t.Errorf("%s: %v\n%s", what, err, text)
		}
	}
}

// TestTopFits: whatever clients call themselves, no line is wider than the terminal and none has a command for it.
func TestTopFits(t *testing.T) {
	r := topReport(topStatus(10), topStatus(12), 2*time.Second)
	for _, l := range []layout{{columns: 80}, {columns: 40}, {columns: 80, rows: 12}, {columns: 200}} {
		var b bytes.Buffer
		if err := r.print(&b, l); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if l.rows > 0 && len(lines) > l.rows {
			t.Errorf("%d lines on %d rows", len(lines), l.rows)
		}
		for _, line := range lines {
			width := 0
			for _, c := range line {
				width += columnsOf(c)
				if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == 0x202e || c == 0x200b || c == 0x301 {
					t.Errorf("%q is in %q", c, line)
				}
			}
			if width > l.columns {
				t.Errorf("%d columns, at most %d: %s", width, l.columns, line)
			}
		}
		if l.columns == 80 && l.rows == 0 {
			t.Logf("\n%s", b.String())
			for _, want := range []string{"interactive ", "97.0%", "<25ms", "20ms", ">2.5s", "width 3.0", "coalesced 83.3%", "3.0GiB", "restarting", "python3"} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %q", want)
				}
			}
		}
	}
	var b bytes.Buffer
	if err := r.print(&b, layout{columns: 80, colour: true}); err != nil || !strings.Contains(b.String(), "\x1b[31m") || !strings.Contains(b.String(), "\x1b[33m") {
		t.Errorf("no colour: %v", err)
	}
}

// serveStatus answers as a daemon does, each time a look further; looked is told of each.
func serveStatus(t *testing.T) (looked <-chan struct{}) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ht") // short: socket paths are bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("HEDDLE_RUNTIME_DIR", dir)
	l, err := net.Listen("unix", filepath.Join(dir, runtimedir.AdminSocket))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := uint64(0)
	said := make(chan struct{}, 1000)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		st := topStatus(n)
		mu.Unlock()
		json.NewEncoder(w).Encode(st)
		said <- struct{}{}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return said
}

func top(ctx context.Context, out io.Writer, args ...string) error {
	root := New(out, io.Discard)
	root.SetArgs(append([]string{"top"}, args...))
	return root.ExecuteContext(ctx)
}

func TestTopWithoutATerminal(t *testing.T) {
	looked := serveStatus(t)
	var once bytes.Buffer
	if err := top(context.Background(), &once, "--once", "--interval", "100ms"); err != nil {
		t.Fatal(err)
	}
	if s := once.String(); strings.Count(s, "heddle top") != 1 || strings.Contains(s, "\x1b") || !strings.Contains(s, "CLASS") {
		t.Errorf("--once printed\n%s", s)
	}
	var object bytes.Buffer
	if err := top(context.Background(), &object, "--once", "--json", "--interval", "100ms"); err != nil {
		t.Fatal(err)
	}
	var r TopReport
	if err := json.Unmarshal(object.Bytes(), &r); err != nil || len(r.Clients) != 3 || r.Clients[0].Class == "" {
		t.Errorf("--json printed %v\n%s", err, object.Bytes())
	}
	// Blocks, or a line of JSON each, until it is told to end.
	for _, args := range [][]string{{"--interval", "100ms"}, {"--interval", "100ms", "--json"}} {
		for len(looked) > 0 {
			<-looked
		}
		ctx, cancel := context.WithCancel(context.Background())
		var b bytes.Buffer
		ended := make(chan error, 1)
		go func() { ended <- top(ctx, &b, args...) }()
		for range 4 {
			<-looked
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		what := "heddle top"
		if len(args) > 2 {
			what = `{"time":`
		}
		if n := strings.Count(b.String(), what); n < 2 || strings.Contains(b.String(), "\x1b") {
			t.Errorf("%v printed %d blocks\n%s", args, n, b.String())
		}
	}
	var e exitError
	if err := top(context.Background(), io.Discard, "--interval", "1ms"); !errors.As(err, &e) || e.code != ExitUsage {
		t.Errorf("too short an interval: %v", err)
	}
	t.Setenv("HEDDLE_RUNTIME_DIR", t.TempDir())
	if err := top(context.Background(), io.Discard, "--once"); !errors.As(err, &e) || e.code != ExitUnreachable {
		t.Errorf("no daemon: %v", err)
	}
}

// TestTopOnATerminal: it draws over itself, within what the terminal can show, and gives the cursor back.
func TestTopOnATerminal(t *testing.T) {
	looked := serveStatus(t)
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 11, Col: 60}); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(master) // ends with an error when the terminal's other end closes
		seen <- string(b)
	}()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- top(ctx, tty, "--interval", "100ms") }()
	for range 4 {
		<-looked
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	tty.Close()
	s := <-seen
	if strings.Count(s, "\x1b[H") < 2 || !strings.HasPrefix(s, "\x1b[?25l") || !strings.Contains(s, "\x1b[?25h") || !strings.Contains(s, "\x1b[33m") {
		t.Errorf("the terminal got %q", s)
	}
	for frame := range strings.SplitSeq(s, "\x1b[H") {
		if n := strings.Count(frame, "\r\n"); n > 11 {
			t.Errorf("%d lines on 11 rows: %q", n, frame)
		}
	}
}
