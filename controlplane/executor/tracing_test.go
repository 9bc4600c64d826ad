package executor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/trace"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/perfetto/perfettotest"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// trace asks for one thing about a recording.
func (d *daemon) trace(ask shm.Trace, client uint64) (shm.Trace, shm.Message) {
	d.t.Helper()
	r := d.do(shm.Message{Type: shm.TypeTrace, ClientID: client, Body: shm.Encode(ask)})
	answer, err := shm.Decode[shm.Trace](r.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer, r
}

// record begins a recording.
func (d *daemon) record(events uint32, length time.Duration, client uint64) TraceNames {
	d.t.Helper()
	_, r := d.trace(shm.Trace{Action: shm.TraceActionStart, Events: events, Nanoseconds: uint64(length)}, client)
	var names TraceNames
	if err := json.Unmarshal(r.Tail, &names); r.Status != shm.StatusOK || err != nil {
		d.t.Fatalf("%d %s: %v", r.Status, r.Tail, err)
	}
	return names
}

// take reads a page into a timeline.
func (d *daemon) take(into *trace.Timeline) shm.Trace {
	d.t.Helper()
	a, r := d.trace(shm.Trace{Action: shm.TraceActionRead}, 0)
	if r.Status != shm.StatusOK || len(r.Tail) != int(a.Events)*trace.EventBytes {
		d.t.Fatalf("status %d, %d events in %d bytes", r.Status, a.Events, len(r.Tail))
	}
	if err := into.Add(r.Tail); err != nil {
		d.t.Fatal(err)
	}
	return a
}

// traced starts an executor with clients whose kernel can be joined.
func traced(t *testing.T, clients int) (*daemon, []*tester) {
	t.Helper()
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", func([]byte) {})
	m := newMaker(g, func(_ string, c *scoreboard.Code) {
		g.publish(newFakeForm(coalesce.ByZ, 8, 16, func([]byte) {}), c)
	})
	d := start(t, g.open, nil, func(c *Config) { c.loaded = m.loaded })
	d.image(1, testImage)
	var all []*tester
	for id := 1; id <= clients; id++ {
		c := d.client(uint64(id))
		c.kernel(1, 1, "check")
		c.resume()
		all = append(all, c)
	}
	return d, all
}

// work has every client launch n kernels, in two lanes, at once.
func work(all []*tester, n int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, c := range all {
		wg.Go(func() {
			for k := range n {
				c.push(1+uint32(k%2), true)
			}
			for lane := uint32(1); lane <= 2; lane++ {
				if err := c.sync(lane, c.seq[lane]); err != nil {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("client %d: %w", i+1, err)
		}
	}
	return nil
}

// A recording that is read while clients work holds every op once, in the word that it went in, and becomes a trace whose flows say
// so.
func TestRecordingUnderLoad(t *testing.T) {
	const clients, ops = 4, 1500
	d, all := traced(t, clients)
	names := d.record(trace.MaxEvents, time.Minute, 0)
	over := make(chan error, 1)
	go func() { over <- work(all, ops) }()
	line := trace.NewTimeline()
	var last shm.Trace
	for working := true; working || last.Events > 0; {
		select {
		case err := <-over:
			if err != nil {
				t.Fatal(err)
			}
			working = false
		default:
		}
		last = d.take(line)
	}
	if last.Dropped != 0 || int(last.Recorded) != line.Events || last.Running != 1 {
		t.Fatalf("%+v after %d events", last, line.Events)
	}
	seen, joined := map[uint64]int{}, 0
	for i := range line.Ops {
		op := &line.Ops[i]
		seen[op.Client]++
		if op.Ready == 0 || op.Issued < op.Ready || op.Done < op.Issued || op.Word < 0 || op.Code == 0 || op.Grid != [3]uint32{1, 1, 1} {
			t.Fatalf("%+v", op)
		}
		w := &line.Words[op.Word]
		if w.Done < op.Done || w.Slots != len(w.Ops) {
			t.Fatalf("%+v in %+v", op, w)
		}
		if w.Slots > 1 {
			joined++
		}
		if wait := (&trace.Names{Waits: names.Waits}).Wait(op.Wait); strings.HasPrefix(wait, "reason-") {
			t.Fatalf("%+v waited for %q; the names are %v", op, wait, names.Waits)
		}
	}
	for id := uint64(1); id <= clients; id++ {
		if seen[id] != ops {
			t.Errorf("client %d: %d ops; it launched %d", id, seen[id], ops)
		}
	}
	st := d.stats()
	if int(st.Words) != len(line.Words) || int(st.Coalescing.OpsCoalesced) != joined {
		t.Errorf("%d words and %d joined ops recorded; the executor counted %d and %d", len(line.Words), joined, st.Words, st.Coalescing.OpsCoalesced)
	}

	var file bytes.Buffer
	err := trace.Write(&file, []trace.Executor{{Timeline: line, Names: trace.Names{
		Waits: names.Waits, Paths: names.Paths, Kernels: map[uint32]string{1: "check"},
		Clients: map[uint64]string{1: "one\x00\u202e" + strings.Repeat("x", 300)},
	}}}, trace.Clocks())
	if err != nil {
		t.Fatal(err)
	}
	tr, err := perfettotest.Decode(file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	words := map[uint64]uint64{} // by flow
	for _, s := range tr.Slices {
		for _, f := range s.Ending {
			if _, twice := words[f]; twice {
				t.Fatalf("flow %d ends twice", f)
			}
			words[f] = s.Numbers["word"]
		}
	}
	flows := 0
	for _, s := range tr.Slices {
		for _, f := range s.Flows {
			flows++
			if path := tr.Path(s.Track); words[f] != s.Numbers["word"] || len(path) != 2 || !strings.HasPrefix(path[1], "lane ") || s.Name != "check" {
				t.Fatalf("%v: %+v flows to word %d", path, s, words[f])
			}
		}
	}
	if flows != clients*ops || len(words) != flows {
		t.Errorf("%d flows from ops, %d ends in words; want %d", flows, len(words), clients*ops)
	}
	if m := tr.Clocks[3]; m < line.Begin || m > int64(time.Hour)+line.End || len(tr.Clocks) != 3 {
		t.Errorf("clocks %v; the recording is from %d to %d", tr.Clocks, line.Begin, line.End)
	}
}

// What finds no room is counted, and what comes after room was made is recorded again.
func TestRecordingOverflow(t *testing.T) {
	d, all := traced(t, 2)
	d.record(1, time.Minute, 0) // 1: as little as there is
	if err := work(all, trace.MinEvents); err != nil {
		t.Fatal(err)
	}
	line := trace.NewTimeline()
	a := d.take(line)
	if a.Recorded != trace.MinEvents || a.Dropped == 0 {
		t.Fatalf("%+v", a)
	}
	for a.Events > 0 {
		a = d.take(line)
	}
	// The poller may note the last ends when there is room again.
	if line.Events < trace.MinEvents || line.Events > trace.MinEvents+8 {
		t.Fatalf("%d events read", line.Events)
	}
	if err := work(all, 10); err != nil {
		t.Fatal(err)
	}
	if a = d.take(line); a.Events == 0 || int(a.Recorded) != line.Events {
		t.Fatalf("nothing after room was made: %+v", a)
	}
	var file bytes.Buffer // ops without a beginning, words without ops
	if err := trace.Write(&file, []trace.Executor{{Timeline: line, Names: trace.Names{Dropped: a.Dropped}}}, trace.Clocks()); err != nil {
		t.Fatal(err)
	}
	tr, err := perfettotest.Decode(file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	said := false
	for _, s := range tr.Slices {
		said = said || s.Numbers["dropped"] == a.Dropped
	}
	if !said {
		t.Error("the trace does not say what was dropped")
	}
}

// There is one recording at a time, of one client if asked for; it ends by itself, and is forgotten when told so.
func TestRecordingLife(t *testing.T) {
	d, all := traced(t, 3)
	refused := func(action uint32, status uint16, words string) {
		t.Helper()
		if _, r := d.trace(shm.Trace{Action: action}, 0); r.Status != status || !strings.Contains(string(r.Tail), words) {
			t.Errorf("action %d: status %d: %s", action, r.Status, r.Tail)
		}
	}
	refused(shm.TraceActionRead, shm.StatusInvalid, "heddle record")
	refused(77, shm.StatusInvalid, "expected start")
	refused(shm.TraceActionStop, shm.StatusOK, "")
	d.record(0, time.Minute, 2)
	refused(shm.TraceActionStart, shm.StatusFull, "one at a time")
	if err := work(all, 50); err != nil {
		t.Fatal(err)
	}
	line := trace.NewTimeline()
	for d.take(line).Events > 0 {
	}
	for _, op := range line.Ops {
		if op.Client != 2 {
			t.Fatalf("%+v in a recording of client 2", op)
		}
	}
	if len(line.Ops) != 50 {
		t.Errorf("%d ops of client 2", len(line.Ops))
	}
	refused(shm.TraceActionStop, shm.StatusOK, "")
	refused(shm.TraceActionRead, shm.StatusInvalid, "no recording")

	d.record(0, time.Millisecond, 0)
	until(t, "the recording is over", func() bool {
		if err := work(all, 1); err != nil {
			t.Fatal(err)
		}
		a := d.take(line)
		return a.Running == 0 && a.Events == 0
	})
	d.record(0, time.Minute, 0) // what is over gives way

	// A client that writes nonsense, and one that marks a request.
	put(all[0], shm.KindRequestBegin, 0, shm.RequestBegin{Request: 7, Label: [32]byte{'h', 'i'}}, nil, nil)
	all[0].ring.Publish()
	put(all[1], shm.KindLaunch, 1, shm.Launch{Kernel: 99, GridX: 1, GridY: 1, GridZ: 1, BlockX: 1, BlockY: 1, BlockZ: 1}, nil, nil)
	all[1].ring.Publish()
	until(t, "the nonsense is found", func() bool { code, _ := all[1].sticky(); return code != 0 })
	line = trace.NewTimeline()
	for d.take(line).Events > 0 {
	}
	fault, mark := false, false
	for _, m := range line.Moments {
		fault = fault || (m.Fault && m.Client == 2 && m.Reason == shm.ReasonBadRecord && m.Result != 0)
		mark = mark || (!m.Fault && m.Client == 1 && m.Label == "hi")
	}
	if !fault || !mark {
		t.Errorf("%+v", line.Moments)
	}

	// Its request ends when what was submitted before its end is done.
	done := func() int {
		d.take(line)
		n := 0
		for _, r := range line.Requests {
			if r.Client == 1 && r.Begin > 0 && r.End > r.Begin {
				n++
			}
		}
		return n
	}
	before := done()
	seq := all[0].launch(1, 1, make([]byte, 16), nil)
	put(all[0], shm.KindRequestEnd, 0, shm.RequestEnd{Request: 7}, nil, nil)
	all[0].mustSync(1, seq)
	until(t, "the request's end is recorded", func() bool { return done() == before+1 })
}

// Asked for every op's end, a recording has each at its own time; else several seem to end with the one whose done word was asked for.
// When the recording is over, no more words are asked for than before.
func TestRecordedEnds(t *testing.T) {
	const ops, each = 60, 5 // µs
	for _, ends := range []bool{false, true} {
		b := newClocked(t)
		_, ring := b.in("default", sched.Settings{})
		work := func() (signals uint64) {
			before := b.poller.engine.Signals
			seq := uint32(0)
			for range ops {
				seq = ring.launchGrid(1, 1, each, nil, nil)
			}
			ring.signal(1, seq)
			ring.ring.Publish()
			for i := 0; ring.done(1) != seq; i++ {
				if b.tick(); i > 10_000 {
					t.Fatal("the ops do not end")
				}
			}
			b.tick()
			return b.poller.engine.Signals - before
		}
		usual := work()
		r := trace.New(b.poller.base, trace.MaxEvents, time.Hour, 0)
		b.poller.record(r, ends)
		recorded := work()
		b.poller.trace.End(r)
		raw, _ := r.Read(nil, int(trace.MaxEvents))
		done, told := uint32(0), 0
		for ; len(raw) > 0; raw = raw[trace.EventBytes:] {
			e, err := shm.Decode[shm.TraceEvent](raw[:trace.EventBytes])
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == shm.TraceKindDone {
				done += e.Count
				told++
			}
		}
		if done != ops || ends != (told == ops) || ends != (recorded >= ops) {
			t.Errorf("every end asked for: %v; %d of %d ops ended at %d moments, by %d done words (%d without a recording)", ends, done, ops, told, recorded, usual)
		}
		if again := work(); again > usual+2 {
			t.Errorf("every end asked for: %v; %d done words when the recording is over, %d before it", ends, again, usual)
		}
	}
}

// Off, the recorder allocates nothing; on, neither.
func TestRecorderAllocates(t *testing.T) {
	b := newBench(t)
	c, g := b.client(nil)
	pass := func() {
		g.push(1, true)
		for done := c.board.OpsDone; c.board.OpsDone == done; {
			b.poller.pass()
		}
	}
	pass()
	if n := testing.AllocsPerRun(200, pass); n > 0 {
		t.Errorf("off: %v allocations an op", n)
	}
	r := trace.New(b.poller.base, trace.MaxEvents, time.Minute, 0)
	b.poller.record(r, false)
	if n := testing.AllocsPerRun(200, pass); n > 0 {
		t.Errorf("on: %v allocations an op", n)
	}
	if n, dropped := r.Counts(); n < 4*200 || dropped > 0 { // ready, word, slot, done
		t.Errorf("%d events, %d dropped", n, dropped)
	}
}

// BenchmarkRecorder is what one op costs the poller: off, and on (ready, word, slot).
func BenchmarkRecorder(b *testing.B) {
	h := newBench(b)
	c, g := h.client(nil)
	g.push(1, true)
	for c.board.Lane(1).First() == nil && c.board.OpsDone == 0 {
		h.poller.scan(c)
	}
	op := c.board.Lane(1).First()
	if op == nil {
		b.Fatal("the op is gone")
	}
	w := word.One(op)
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("on=%t", on), func(b *testing.B) {
			var t trace.Recorder
			for i := 0; b.Loop(); i++ {
				if on && i%50_000 == 0 {
					t.Begin(trace.New(h.poller.base, trace.MaxEvents, time.Minute, 0), h.poller.base)
				}
				t.Ready(op)
				t.Word(&w, uint64(i))
			}
		})
	}
}
