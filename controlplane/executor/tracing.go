package executor

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/trace"
	"github.com/heddle-gpu/heddle/shm"
)

// TraceNames say what numbers in a recording's events mean; the answer to START.
type TraceNames struct {
	Waits []string `json:"waits"` // trace_event.reason of a SLOT, less 1
	Paths []string `json:"paths"` // trace_event.path
}

// traceGrace is how long a recording whose time is over is kept for a reader that does not come.
const traceGrace = 10 * time.Second

// tracePage is how many events fit one message.
var tracePage = (shm.MessageBytes - 256) / trace.EventBytes

// tracing is the control side of a recording: there is one at a time.
type tracing struct {
	mu      sync.Mutex
	now     *trace.Recording
	started time.Time
	forget  *time.Timer
	page    []byte
}

// answerTrace serves TRACE.
func (x *executor) answerTrace(m shm.Message) {
	ask, err := shm.Decode[shm.Trace](m.Body)
	if err != nil {
		x.answer(m, m.Body, err)
		return
	}
	t := &x.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	answer, tail := shm.Trace{Action: ask.Action}, []byte(nil)
	switch ask.Action {
	case shm.TraceActionStart:
		tail, err = t.start(x.poller, ask, m.ClientID)
	case shm.TraceActionRead:
		tail, err = t.read(&answer)
	case shm.TraceActionStop:
		err = t.stop(x.poller)
	default:
		err = refuse(shm.StatusInvalid, "TRACE with action %d; expected start (1), read (2) or stop (3)", ask.Action)
	}
	if err != nil {
		x.answer(m, m.Body, err)
		return
	}
	r := m.Reply(shm.StatusOK, shm.Encode(answer))
	r.Tail = tail
	if err := x.conn.Send(r); err != nil {
		x.log.Error("recording not sent", "error", err)
	}
}

// start begins a recording. mu is held.
func (t *tracing) start(p *poller, ask shm.Trace, client uint64) ([]byte, error) {
	if t.now != nil && !t.now.Finished() {
		return nil, refuse(shm.StatusFull, "a recording was begun %v ago and is not over; there is one at a time: wait, or end that "+
			"heddle record", time.Since(t.started).Round(time.Millisecond))
	}
	names, err := json.Marshal(TraceNames{Waits: sched.WaitNames[:], Paths: trace.Paths[:]})
	if err != nil {
		return nil, err
	}
	length := time.Duration(min(ask.Nanoseconds, uint64(trace.MaxTime)))
	r := trace.New(p.base, int(min(ask.Events, trace.MaxEvents)), length, client)
	if !p.call(func() { p.record(r, ask.Ends != 0) }) {
		return nil, errStopping
	}
	if t.forget != nil {
		t.forget.Stop()
	}
	t.now, t.started = r, time.Now()
	if length <= 0 {
		length = trace.MaxTime
	}
	t.forget = time.AfterFunc(length+traceGrace, func() {
		p.call(func() { p.trace.End(r) })
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.now == r {
			t.now = nil
		}
	})
	return names, nil
}

// read takes a page. mu is held.
func (t *tracing) read(answer *shm.Trace) ([]byte, error) {
	if t.now == nil {
		return nil, refuse(shm.StatusInvalid, "there is no recording; begin one with the action start (heddle record)")
	}
	if !t.now.Finished() {
		answer.Running = 1 // asked before the events are taken: 0 and no event is the end
	}
	var n int
	t.page, n = t.now.Read(t.page[:0], tracePage)
	answer.Events = uint32(n)
	answer.Recorded, answer.Dropped = t.now.Counts()
	return t.page, nil
}

// stop ends a recording and forgets it. mu is held.
func (t *tracing) stop(p *poller) error {
	r := t.now
	if r == nil {
		return nil
	}
	t.now, t.page = nil, nil
	t.forget.Stop()
	if !p.call(func() { p.trace.End(r) }) {
		return errStopping
	}
	return nil
}

// record begins a recording; it runs on the poller's thread. ends: every op that is issued meanwhile gets a done word of its own.
func (p *poller) record(r *trace.Recording, ends bool) {
	p.ends = ends
	for _, c := range p.clients {
		c.traced = 0
	}
	p.trace.Begin(r, p.base)
}

// traceRequests records that a request of a client began or ended.
func (p *poller) traceRequests(c *client) {
	if p.trace.On() {
		begun, open := c.books.Request()
		p.trace.Request(&c.traced, c.id, begun, open)
	}
}
