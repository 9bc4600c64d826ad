package dashboard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
)

// hostile is what a client may choose as its label, its program's name or a kernel's.
const hostile = `<img src=x onerror="window.taken=1"><script>window.taken=2</script>"'&{{7*7}}` + "\u202e\x1b[31m\x00"

// scene answers as a daemon does: every poll finds the executor a step further.
type scene struct {
	mu      sync.Mutex
	step    uint64
	silent  bool
	clients int
}

func (s *scene) status() admin.Status {
	s.step++
	n := s.step
	st := admin.Status{Version: "test " + hostile, Pid: 42, Since: time.Now().Add(-time.Minute)}
	x := executor.Stats{Ops: 400 * n, Launches: 300 * n, InFlight: 3, Waiting: 2, PollerBusySeconds: 0.01 * float64(n)}
	x.Coalescing = executor.CoalescingStats{WordsAlone: 50 * n, WordsCoalesced: 50 * n, OpsCoalesced: 250 * n, Widths: [cost.Buckets]uint64{50 * n, 0, 0, 50 * n}}
	slow := executor.ClassStats{Class: "interactive", Clients: s.clients, ObjectiveSeconds: 0.02, Requests: 100 * n, Attained: 97 * n, Ops: 300 * n, Coalesced: 250 * n, GPUSeconds: 0.1 * float64(n)}
	slow.Latency.Counts[12], slow.Latency.Counts[13] = 98*n, 2*n // up to 10 ms, up to 25 ms
	slow.Queue.Counts[4] = 300 * n
	slow.Stagger.Sum = 0.03 * float64(n)
	x.Classes = []executor.ClassStats{slow, {Class: hostile}}
	for i := range s.clients {
		id := uint64(i + 1)
		x.Sessions = append(x.Sessions, executor.SessionStats{ClientID: id, RingBytes: 4096})
		c := admin.Client{ID: id, Pid: 100 + i, Class: "interactive", GPU: "GPU-1234", State: "live", Ops: n * id, DeviceBytes: 64 << 20, Exe: "/usr/bin/python3", Label: fmt.Sprint("worker ", id)}
		if i == 0 {
			c.Label, c.Exe, c.Class, c.RefusedReason, c.Error, c.ErrorReason = hostile, "/tmp/"+hostile, hostile, hostile, 700, "device-fault "+hostile
		}
		st.Clients = append(st.Clients, c)
	}
	counters, err := json.Marshal(x)
	if err != nil {
		panic(err) // the types are ours
	}
	st.Executors = []admin.Executor{{GPU: "GPU-1234", Pid: 7, State: "live", Epoch: 2, Clients: s.clients, Fault: hostile, Counters: counters}}
	return st
}

func (s *scene) kernels() []admin.Kernels {
	var rows []json.RawMessage
	for i, row := range []executor.CodeStats{
		{Name: hostile, Launches: 10, Why: "spin-wait: " + hostile},
		{Name: "gemm", Launches: 1000, Coalesced: 800, MeanWidth: 7.5, AloneNS: 4200, Forms: []string{"table 64"}, Apart: map[string]uint64{"alone": 3, "cost": 12}},
	} {
		b, err := json.Marshal(row)
		if err != nil {
			panic(fmt.Sprint(i, err)) // the types are ours
		}
		rows = append(rows, b)
	}
	// What is no row at all must do no harm either.
	return []admin.Kernels{{GPU: "GPU-1234", Kernels: append(rows, json.RawMessage(`7`), json.RawMessage(`{"launches":"many","name":{},"forms":3}`))}}
}

func (s *scene) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var v any = s.kernels()
	if r.URL.Path == "/v1/status" {
		v = s.status()
	}
	Protect(w.Header())
	if s.silent {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func TestThePageInABrowser(t *testing.T) {
	s := &scene{clients: 700}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/", s)
	mux.Handle("GET /", Handler())
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	b := openBrowser(t)
	b.do("Page.navigate", map[string]any{"url": server.URL + "/"}, nil)
	b.reached(`document.documentElement && Number(document.documentElement.dataset.polls) >= 2`)

	type facts struct {
		Words, Width, Coalesced   string
		Lanes, Kernels, Classes   int
		Attained, P99, Queue      string
		More, First, KernelsFirst string
		Scripts, Images, Bold     int
		Taken                     any
	}
	var got facts
	b.eval(`(() => {
		const all = (q, e = document) => [...e.querySelectorAll(q)], text = q => (document.querySelector(q) || {}).innerText || '';
		const row = '#classes tr[data-class="interactive"] td:nth-child';
		return {
			Words: text('[data-fact="words/s"]'), Width: text('[data-fact="mean width"]'), Coalesced: text('[data-fact="coalesced"]'),
			Lanes: all('#lanes tbody tr[data-client]').length, Kernels: all('#kernels tbody tr').length, Classes: all('#classes tbody tr').length,
			Attained: text(row + '(7)').trim(), P99: text(row + '(6)'), Queue: text(row + '(8)'),
			More: text('#lanes tbody tr:last-child'), First: text('#lanes tr[data-client="1"]'), KernelsFirst: text('#kernels tbody tr:first-child'),
			Scripts: all('script').length, Images: all('img').length, Bold: all('body script').length, Taken: window.taken === undefined ? 0 : window.taken,
		};
	})()`, &got)
	if got.Width != "3.00" || got.Coalesced != "83.3 %" || got.Words == "0" || got.Words == "" {
		t.Errorf("executor: %+v", got)
	}
	if got.Attained != "97.0 %" || got.P99 != "≤ 25 ms" || got.Queue != "≤ 25 µs" || got.Classes != 2 {
		t.Errorf("class: %+v", got)
	}
	if got.Lanes != 500 || !strings.Contains(got.More, "200 more") || got.Kernels != 2 || !strings.Contains(got.KernelsFirst, "gemm") || !strings.Contains(got.KernelsFirst, "cost (12), alone (3)") {
		t.Errorf("lanes and kernels: %+v", got)
	}
	// What a client chose is there as it is written, and is nothing else.
	if got.Scripts != 1 || got.Images != 0 || got.Bold != 0 || got.Taken != float64(0) {
		t.Errorf("a client's text became part of the page: %+v", got)
	}
	for _, c := range []string{"\u202e", "\x1b", "\x00"} {
		if strings.Contains(got.First, c) {
			t.Errorf("%q is in %q", c, got.First)
		}
	}
	if !strings.Contains(got.First, `<script>window.taken=2</script>`) || !strings.Contains(got.First, "error 700: device-fault") {
		t.Errorf("the hostile client's lane: %q", got.First)
	}
	if path := os.Getenv("HEDDLE_SCREENSHOT"); path != "" {
		s.mu.Lock()
		s.clients = 12
		s.mu.Unlock()
		b.reached(`document.querySelectorAll('#lanes tbody tr').length === 12`)
		b.screenshot(path)
	}

	// A daemon that does not answer is told of; what was seen stays. Then it is back.
	s.mu.Lock()
	s.silent = true
	s.mu.Unlock()
	b.reached(`document.documentElement.dataset.trouble === 'true' && !document.getElementById('trouble').hidden`)
	s.mu.Lock()
	s.silent, s.clients = false, 0
	s.mu.Unlock()
	b.reached(`document.getElementById('trouble').hidden && document.querySelector('#lanes tbody').innerText.includes('no client is here')`)

	// Nothing was asked for from elsewhere, and nothing was refused or went wrong.
	b.session = ""
	b.do("Browser.close", nil, nil)
	requests := 0
	for e := range b.events {
		switch e.Method {
		case "Network.requestWillBeSent":
			var p struct {
				Request struct{ URL string }
			}
			if err := json.Unmarshal(e.Params, &p); err != nil {
				t.Fatal(err)
			}
			requests++
			if u := p.Request.URL; !strings.HasPrefix(u, server.URL+"/") && u != "about:blank" && u != "data:," {
				t.Errorf("the page asked for %s", u)
			}
		case "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
			t.Errorf("%s: %s", e.Method, e.Params)
		case "Log.entryAdded":
			if !strings.Contains(string(e.Params), "503") { // the silence above
				t.Errorf("%s: %s", e.Method, e.Params)
			}
		}
	}
	if requests < 6 {
		t.Errorf("only %d requests were seen", requests)
	}
}

func TestThePageIsServedWithItsProtection(t *testing.T) {
	for path, want := range map[string]struct {
		status int
		kind   string
	}{
		"/": {200, "text/html"}, "/app.js": {200, "text/javascript"}, "/style.css": {200, "text/css"},
		"/dashboard.go": {404, ""}, "/../dashboard.go": {404, ""}, "/page/": {404, ""},
	} {
		w := httptest.NewRecorder()
		Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want.status || !strings.HasPrefix(w.Header().Get("Content-Type"), want.kind) {
			t.Errorf("%s: %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: %s", path, csp)
		}
	}
}

// TestThePageNeedsNothingFromOutside: no address of another host, and nothing that makes text into a page.
func TestThePageNeedsNothingFromOutside(t *testing.T) {
	for _, name := range []string{"index.html", "app.js", "style.css"} {
		b, err := os.ReadFile(filepath.Join("page", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "")
		for _, no := range []string{"http://", "https://", "//cdn", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"} {
			if strings.Contains(text, no) {
				t.Errorf("%s contains %s", name, no)
			}
		}
		if len(b) > 32<<10 {
			t.Errorf("%s has %d bytes: it was to stay small", name, len(b))
		}
	}
}
