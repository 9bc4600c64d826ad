package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/dashboard"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds of the TCP listener. Whoever reaches it may be slow, greedy or gone: none of it may cost the daemon or its executors
// more than this.
const (
	maxViewers      = 64                     // connections at a time; more are closed at once
	watchedFor      = 250 * time.Millisecond // how old a status may be: so often executors are asked, whatever is asked of us
	kernelsFor      = 2 * time.Second
	statsPatience   = 2 * time.Second // an executor that does not answer by then is told of without its statistics
	kernelsPatience = 8 * time.Second
)

// cached keeps the answer to a question for a while. Whoever asks meanwhile gets it, or waits for the one answer under way.
type cached[T any] struct {
	keep time.Duration
	ask  func() T

	mu    sync.Mutex
	at    time.Time // zero: never
	value T
	busy  chan struct{} // closed when the answer under way is there
}

// get returns an answer of at most keep ago; ok is false when there is none within patience.
func (c *cached[T]) get(patience time.Duration) (value T, ok bool) {
	c.mu.Lock()
	if !c.at.IsZero() && time.Since(c.at) < c.keep {
		defer c.mu.Unlock()
		return c.value, true
	}
	busy := c.busy
	if busy == nil {
		busy = make(chan struct{})
		c.busy = busy
		go func() {
			v := c.ask()
			c.mu.Lock()
			c.value, c.at, c.busy = v, time.Now(), nil
			c.mu.Unlock()
			close(busy)
		}()
	}
	c.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-busy:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.value, true
	case <-timer.C:
		return value, false
	}
}

// statsCall is a STATS request under way.
type statsCall struct {
	process *executorProcess
	done    chan struct{}
	text    json.RawMessage
}

// counters asks the executor for its statistics; nil when it gives none in time. At most one request is under way, so that an
// executor that hangs is not buried under them.
func (sl *slot) counters(p *executorProcess, patience time.Duration) json.RawMessage {
	sl.mu.Lock()
	call := sl.asking
	if call == nil || call.process != p {
		call = &statsCall{process: p, done: make(chan struct{})}
		sl.asking = call
		go func() {
			if text, err := p.stats(); err == nil {
				call.text = text
			} else {
				sl.log.Debug("statistics", "error", err)
			}
			sl.mu.Lock()
			if sl.asking == call {
				sl.asking = nil
			}
			sl.mu.Unlock()
			close(call.done)
		}()
	}
	sl.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-call.done:
		return call.text
	case <-timer.C:
		return nil
	}
}

// maxStatsPages bounds what an executor may tell of itself: 8 MiB.
const maxStatsPages = 256

// stats asks an executor for all of its statistics, a page at a time, and gives them as one answer.
func (p *executorProcess) stats() (json.RawMessage, error) {
	first, err := p.call(0, shm.TypeStats, nil, nil)
	if err != nil {
		return nil, err
	}
	if !json.Valid(first.Tail) {
		return nil, errors.New("the executor's answer is no JSON")
	}
	var rows, page struct {
		Classes  []json.RawMessage `json:"classes"`
		Sessions []json.RawMessage `json:"sessions"`
		Next     int               `json:"next"`
	}
	if json.Unmarshal(first.Tail, &rows) != nil || rows.Next == 0 {
		return first.Tail, nil
	}
	for n := 1; n < maxStatsPages && rows.Next > 0; n++ {
		reply, err := p.call(0, shm.TypeStats, nil, strconv.AppendInt(nil, int64(rows.Next), 10))
		if err != nil {
			return nil, err
		}
		page.Classes, page.Sessions, page.Next = nil, nil, 0
		if err := json.Unmarshal(reply.Tail, &page); err != nil {
			return nil, fmt.Errorf("the executor's rows from %d on: %w", rows.Next, err)
		}
		rows.Classes, rows.Sessions = append(rows.Classes, page.Classes...), append(rows.Sessions, page.Sessions...)
		if page.Next <= rows.Next { // the end, or an executor that does not get on
			break
		}
		rows.Next = page.Next
	}
	all := map[string]any{}
	var rest map[string]json.RawMessage
	if err := json.Unmarshal(first.Tail, &rest); err != nil {
		return nil, err
	}
	for name, v := range rest {
		all[name] = v
	}
	delete(all, "next")
	all["classes"], all["sessions"] = rows.Classes, rows.Sessions
	return json.Marshal(all)
}

// listenViewers opens the TCP listener that Config.Metrics names. Without MetricsOpen it must be this machine's own: status and
// kernels tell who runs what.
func (d *Daemon) listenViewers() (net.Listener, error) {
	address := d.config.Metrics
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("--metrics %q: %w; expected HOST:PORT, such as 127.0.0.1:9477", address, err)
	}
	const loopback = "only this machine may read it unless --metrics-open is given; expected a loopback address, such as 127.0.0.1:9477"
	if ip, err := netip.ParseAddr(host); !d.config.MetricsOpen && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("--metrics %q: %s", address, loopback)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--metrics %q: %w", address, err)
	}
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !d.config.MetricsOpen && !at.IP.IsLoopback() {
		l.Close()
		return nil, fmt.Errorf("--metrics %q is %v: %s", address, l.Addr(), loopback)
	}
	return &viewerListener{Listener: l, free: make(chan struct{}, maxViewers)}, nil
}

// viewerListener closes connections beyond maxViewers, instead of letting them queue up and take descriptors.
type viewerListener struct {
	net.Listener
	free chan struct{}
}

// Accept implements net.Listener.
func (l *viewerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &viewerConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.free })}, nil
		default:
			conn.Close()
		}
	}
}

type viewerConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *viewerConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// serveViewers serves metrics, the page and what it reads, until the listener closes. Nothing there changes anything.
func (d *Daemon) serveViewers(l net.Listener) *http.Server {
	server := &http.Server{
		Handler: d.viewerHandler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 1 << 14,
	}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("metrics are no longer served", "error", err)
		}
	}()
	return server
}

func (d *Daemon) viewerHandler() http.Handler {
	kernels := &cached[[]admin.Kernels]{keep: kernelsFor, ask: func() []admin.Kernels {
		all, err := d.kernels(0)
		if err != nil {
			d.log.Debug("kernels", "error", err)
		}
		return all
	}}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metricsHandler())
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		st, ok := d.watched.get(scrapeTimeout)
		d.view(w, st, ok)
	})
	mux.HandleFunc("GET /v1/kernels", func(w http.ResponseWriter, _ *http.Request) {
		all, ok := kernels.get(kernelsPatience)
		d.view(w, all, ok)
	})
	mux.Handle("GET /", dashboard.Handler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page of another site that has its name point here must not read this one's answers.
		if !d.config.MetricsOpen && !loopbackHost(r.Host) {
			http.Error(w, "expected the address of this machine in Host: 127.0.0.1, [::1] or localhost", http.StatusMisdirectedRequest)
			return
		}
		dashboard.Protect(w.Header())
		mux.ServeHTTP(w, r)
	})
}

func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (d *Daemon) view(w http.ResponseWriter, v any, ok bool) {
	if !ok {
		http.Error(w, "the executors do not answer", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		d.log.Debug("a viewer's answer", "error", err)
	}
}
