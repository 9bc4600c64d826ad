package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/shm"
)

// traceEvery is the time between two looks at a recording that had less than a page.
const traceEvery = 20 * time.Millisecond

// traceHandlers serves `heddle record` and `heddle explain`.
func (d *Daemon) traceHandlers(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/trace", func(w http.ResponseWriter, r *http.Request) {
		ask, client, err := traceRequest(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		all, err := d.record(ask, client)
		if err != nil {
			status := http.StatusNotFound
			if is := (*statusError)(nil); errors.As(err, &is) && is.status == shm.StatusFull {
				status = http.StatusConflict
			}
			http.Error(w, err.Error(), status)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(http.StatusOK)
		out := &traceStream{w: w, control: http.NewResponseController(w)}
		_ = out.control.SetReadDeadline(time.Time{}) // the server's bounds are for questions that are answered at once
		out.flush()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		stop := context.AfterFunc(d.ctx, cancel) // the daemon leaves
		defer stop()
		var wg sync.WaitGroup
		for _, one := range all {
			wg.Go(func() { one.pump(ctx, out) })
		}
		wg.Wait()
	})
	mux.HandleFunc("GET /v1/refused", func(w http.ResponseWriter, r *http.Request) {
		client, err := strconv.ParseUint(r.URL.Query().Get("client"), 10, 64)
		s := (*session)(nil)
		if err == nil {
			s = d.session(client)
		}
		if s == nil {
			http.Error(w, fmt.Sprintf("no client has the number %q; see: heddle ps", r.URL.Query().Get("client")), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(s.refusedKernels()); err != nil {
			d.log.Debug("refused kernels", "error", err)
		}
	})
}

// traceRequest reads what is asked for.
func traceRequest(r *http.Request) (ask shm.Trace, client uint64, err error) {
	q := r.URL.Query()
	number := func(name string, bits int) (v uint64) {
		if text := q.Get(name); text != "" && err == nil {
			if v, err = strconv.ParseUint(text, 10, bits); err != nil {
				err = fmt.Errorf("%s %q: expected a number", name, text)
			}
		}
		return v
	}
	ask = shm.Trace{Action: shm.TraceActionStart, Nanoseconds: number("ns", 63), Events: uint32(number("room", 31)), Ends: uint32(number("ends", 1))}
	return ask, number("client", 64), err
}

// session finds a client.
func (d *Daemon) session(client uint64) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, sl := range d.slots {
		sl.mu.Lock()
		s := sl.sessions[client]
		sl.mu.Unlock()
		if s != nil {
			return s
		}
	}
	return nil
}

// refusedKernels are the session's kernels that run natively, and why.
func (s *session) refusedKernels() []admin.RefusedKernel {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []admin.RefusedKernel{}
	for i := range s.kernels {
		if k := &s.kernels[i]; k.status != shm.StatusOK {
			out = append(out, admin.RefusedKernel{Image: k.image, Name: k.name, Why: k.reason})
		}
	}
	return out
}

// traceOne is one executor's recording.
type traceOne struct {
	process *executorProcess
	page    admin.TracePage
}

// record begins a recording on every executor that serves, or on that of one client.
func (d *Daemon) record(ask shm.Trace, client uint64) ([]*traceOne, error) {
	d.mu.Lock()
	slots := make([]*slot, 0, len(d.slots))
	for _, sl := range d.slots {
		slots = append(slots, sl)
	}
	d.mu.Unlock()
	var all []*traceOne
	for _, sl := range slots {
		if client != 0 && !sl.serves(client) {
			continue
		}
		sl.mu.Lock()
		p, state := sl.process, sl.state
		sl.mu.Unlock()
		if p == nil || state != slotLive {
			continue
		}
		reply, err := p.call(client, shm.TypeTrace, shm.Encode(ask), nil)
		if errors.Is(err, errExecutorLost) {
			continue // the others may have something to tell
		}
		if err != nil {
			for _, one := range all {
				one.stop()
			}
			return nil, fmt.Errorf("GPU %s, user %d: %w", sl.gpu(), sl.key.uid, err)
		}
		all = append(all, &traceOne{p, admin.TracePage{GPU: sl.gpu(), UID: int(sl.key.uid), Pid: p.pid(), Names: json.RawMessage(reply.Tail)}})
	}
	if client != 0 && len(all) == 0 {
		return nil, fmt.Errorf("no executor serves a client with the number %d; see: heddle ps", client)
	}
	return all, nil
}

// pump hands pages over until the recording is over, or nobody wants it any more.
func (t *traceOne) pump(ctx context.Context, out *traceStream) {
	defer t.stop()
	tick := time.NewTicker(traceEvery)
	defer tick.Stop()
	for {
		events, running, err := t.read()
		if err != nil {
			t.page.End, t.page.Problem = true, err.Error()
		} else if !running && len(events) == 0 {
			t.page.End = true
		}
		if len(events) > 0 || t.page.End || t.page.Names != nil {
			if out.put(&t.page, events) != nil || t.page.End {
				return
			}
			t.page.Names = nil
		}
		if len(events) > 0 && ctx.Err() == nil {
			continue // there may be more
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// read asks for the next events.
func (t *traceOne) read() (events []byte, running bool, err error) {
	reply, err := t.process.call(0, shm.TypeTrace, shm.Encode(shm.Trace{Action: shm.TraceActionRead}), nil)
	if err != nil {
		return nil, false, err
	}
	body, err := shm.Decode[shm.Trace](reply.Body)
	t.page.Recorded, t.page.Dropped = body.Recorded, body.Dropped
	return reply.Tail, body.Running != 0, err
}

// stop ends the recording; an executor that is gone has none.
func (t *traceOne) stop() {
	_, _ = t.process.callAny(0, shm.TypeTrace, shm.Encode(shm.Trace{Action: shm.TraceActionStop}), nil)
}

// traceStream writes pages of several executors into one answer.
type traceStream struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
}

// writeTimeout bounds how long a reader may take for a page.
const writeTimeout = 10 * time.Second

func (s *traceStream) put(p *admin.TracePage, events []byte) error {
	p.Bytes = len(events)
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.w.Write(append(line, '\n')); err != nil {
		return err
	}
	if _, err := s.w.Write(events); err != nil {
		return err
	}
	s.flush()
	return nil
}

func (s *traceStream) flush() { _ = s.control.Flush() }
