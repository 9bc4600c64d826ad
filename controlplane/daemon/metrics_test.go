package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/shm"
)

//go:generate go test -run ^TestMetricsAreDocumented$ -update
var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// someStats has every number that metrics are made of.
func someStats() *executor.Stats {
	s := &executor.Stats{
		Ops: 1000, Launches: 900, Words: 300, Signals: 40, Orders: 7, ReadyWaits: 8, Wakeups: 9, Sleeps: 10, BadRecords: 1, PollerBusySeconds: 1.5,
		InFlight: 11, Waiting: 12, IssueBusySeconds: []float64{0.25, 0.5}, Sessions: []executor.SessionStats{{ClientID: 1, RingBytes: 4096}, {ClientID: 2, RingBytes: 1024, Straggler: "apart"}},
		Stragglers: executor.StragglerStats{Evictions: 3, Limits: 1, Returns: 2},
	}
	s.Coalescing = executor.CoalescingStats{
		WordsAlone: 100, WordsCoalesced: 200, OpsCoalesced: 800, Held: 13, HeldInVain: 2, HeldSeconds: 0.125, SignalsInKernel: 60, Waiting: 3, OpsSliced: 14, Slices: 70,
		Widths: [cost.Buckets]uint64{100, 50, 100, 50}, Apart: map[string]uint64{"alone": 5, "cost": 6},
	}
	s.Forms = executor.FormsStats{Codes: 20, Asked: 15, Forms: 9, Bytes: 1 << 20, Compiled: 7, CacheHits: 2, Workers: 1, Failed: map[string]uint64{"spin-wait": 4}, CompileSeconds: 2.5, LoadSeconds: 0.5}
	s.Graphs.Joined = executor.JoinedStats{Words: 11, Launches: 88, Kernels: 616, Kept: 5, Nodes: 256, Made: 6, Refused: 1, Evicted: 2, Unpaid: 3, MakeSeconds: 0.5,
		Coalesced: executor.CoalescedStats{Nodes: 21, Kernels: 168}}
	s.Prepared = executor.PreparedStats{Words: 70, Ops: 1400, Runs: 17, Made: 21, Refused: 1, Evicted: 3, Unused: 2, MakeSeconds: 0.25}
	s.Driver = []executor.CallStats{{Call: "cuMemMap", Count: 3, Seconds: 0.5, Longest: 0.25, Beside: 0.375, Counts: [len(executor.CallBounds) + 1]uint64{1, 0, 0, 0, 1, 1}}}
	s.Stalls = []executor.StallStats{{Where: "issue", Count: 4, Seconds: 0.75, Longest: 0.5}}
	s.Calm = executor.CalmStats{Waits: 6, Beside: 2, Seconds: 0.0625}
	s.Classes = []executor.ClassStats{someClass("a"), someClass("default")}
	return s
}

func someClass(name string) executor.ClassStats {
	c := executor.ClassStats{Class: name, Clients: 1, ObjectiveSeconds: 0.005, Requests: 100, Attained: 98, Ops: 500, Coalesced: 400, GPUSeconds: 3.5, Waits: map[string]uint64{"gather": 21}}
	for i := range 100 {
		c.Latency.Add(int64(i) * 50_000)
		c.Queue.Add(int64(i) * 1_000)
	}
	c.Stagger.Add(30_000)
	c.Latency.Add(5e9) // above the last bound
	return c
}

// tell has executors answer STATS with v from now on.
func tell(t *testing.T, path string, v any) {
	t.Helper()
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// observed is a daemon with metrics on TCP, a client of class a, and an executor that answers STATS from the file stats.
type observed struct {
	*harness
	stats, url, policy string
	client             *client
}

func observe(t *testing.T, first any) *observed {
	t.Helper()
	o := &observed{stats: filepath.Join(t.TempDir(), "stats.json"), policy: filepath.Join(t.TempDir(), "policy.toml")}
	tell(t, o.stats, first)
	t.Setenv("FAKE_EXECUTOR_STATS", o.stats)
	writePolicy(t, o.policy, rulesFor(1))
	o.harness = start(t, func(c *Config) { c.PolicyPath, c.Metrics = o.policy, "127.0.0.1:0" })
	o.client = o.dial()
	eventually(t, "live", func() bool { return o.client.state() == shm.StateLive })
	st, err := o.conn.Status(context.Background())
	if err != nil || st.Metrics == "" {
		t.Fatalf("the listener's address: %q, %v", st.Metrics, err)
	}
	o.url = "http://" + st.Metrics
	return o
}

// get asks the TCP listener, on a connection of its own.
func (o *observed) get(path string) (string, *http.Response) {
	o.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Get(o.url + path)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(b), resp
}

// scrape waits for metrics that hold want; the daemon may answer with what it asked a moment ago.
func (o *observed) scrape(want string) string {
	o.t.Helper()
	var body string
	defer func() {
		if o.t.Failed() {
			o.t.Logf("metrics:\n%s", body)
		}
	}()
	eventually(o.t, want, func() bool {
		body, _ = o.get("/metrics")
		return strings.Contains(body, want)
	})
	return body
}

func TestMetricsSayWhatTheExecutorSays(t *testing.T) {
	o := observe(t, someStats())
	o.client.image(t, "code")
	body := o.scrape("heddle_ops_total{")
	at := fmt.Sprintf(`UUID="GPU-01020300-0000-0000-0000-000000000000",uid="%d"`, os.Getuid())
	class := `UUID="GPU-01020300-0000-0000-0000-000000000000",class="a",uid="` + fmt.Sprint(os.Getuid()) + `"`
	by := func(label, v string) string {
		return fmt.Sprintf(`UUID="GPU-01020300-0000-0000-0000-000000000000",%s=%q,uid="%d"`, label, v, os.Getuid())
	}
	for _, want := range []string{
		`heddle_build_info{version="test"} 1`, `heddle_policy_last_reload_successful 1`, `heddle_policy_reloads_total 0`,
		`heddle_executor_up{` + at + `} 1`, `heddle_executor_answers{` + at + `} 1`, `heddle_executor_starts_total{` + at + `} 1`, `heddle_clients{` + class + `} 1`,
		`heddle_ring_used_bytes{` + at + `} 5120`, `heddle_ring_used_bytes_max{` + at + `} 4096`, `heddle_ops_total{` + at + `} 1000`, `heddle_kernel_ops_total{` + at + `} 900`,
		`heddle_words_total{` + by("path", "alone") + `} 100`, `heddle_words_total{` + by("path", "coalesced") + `} 200`, `heddle_words_total{` + by("path", "sliced") + `} 70`,
		`heddle_sliced_ops_total{` + at + `} 14`, `heddle_straggler_evictions_total{` + at + `} 3`,
		`heddle_stragglers{` + strings.Replace(at, ",uid", `,step="apart",uid`, 1) + `} 1`, `heddle_stragglers{` + strings.Replace(at, ",uid", `,step="limited",uid`, 1) + `} 0`,
		`heddle_words_total{` + by("path", "prepared") + `} 70`, `heddle_prepared_ops_total{` + at + `} 1400`, `heddle_prepared_runs{` + at + `} 17`,
		`heddle_words_total{` + by("path", "joined") + `} 11`, `heddle_joined_graph_launches_total{` + at + `} 88`, `heddle_joined_graph_kernels_total{` + at + `} 616`,
		`heddle_joined_graph_coalesced_nodes_total{` + at + `} 21`, `heddle_joined_graph_coalesced_kernels_total{` + at + `} 168`,
		`heddle_graph_words{` + at + `} 5`, `heddle_graph_word_nodes{` + at + `} 256`, `heddle_graph_words_made_total{` + at + `} 6`,
		`heddle_graph_word_refusals_total{` + at + `} 1`, `heddle_graph_word_evictions_total{` + at + `} 2`, `heddle_graph_words_unpaid_total{` + at + `} 3`,
		`heddle_graph_word_make_seconds_total{` + at + `} 0.5`,
		`heddle_prepared_unused_total{` + at + `} 2`, `heddle_prepared_make_seconds_total{` + at + `} 0.25`,
		`heddle_word_width_bucket{` + at + `,le="2"} 150`, `heddle_word_width_sum{` + at + `} 900`, `heddle_word_width_count{` + at + `} 300`,
		`heddle_word_limits_total{` + by("reason", "cost") + `} 6`, `heddle_form_refusals_total{` + by("reason", "spin-wait") + `} 4`,
		`heddle_issue_busy_seconds_total{` + at + `} 0.75`, `heddle_signals_total{` + by("path", "kernel") + `} 60`,
		`heddle_class_objective_seconds{` + class + `} 0.005`, `heddle_requests_total{` + class + `} 100`, `heddle_requests_attained_total{` + class + `} 98`,
		`heddle_gpu_seconds_total{` + class + `} 3.5`, `heddle_op_waits_total{` + strings.Replace(class, ",uid", `,reason="gather",uid`, 1) + `} 21`,
		`heddle_request_latency_seconds_bucket{` + class + `,le="+Inf"} 101`, `heddle_request_latency_seconds_bucket{` + class + `,le="2.5"} 100`,
		`heddle_op_queue_seconds_count{` + class + `} 100`, `heddle_op_stagger_seconds_sum{` + class + `} 3e-05`, `heddle_image_store_bytes{` + at + `}`,
		`heddle_executor_driver_seconds_bucket{` + by("call", "cuMemMap") + `,le="0.1"} 2`, `heddle_executor_driver_seconds_count{` + by("call", "cuMemMap") + `} 3`,
		`heddle_executor_driver_beside_seconds_total{` + by("call", "cuMemMap") + `} 0.375`, `heddle_executor_driver_longest_seconds{` + by("call", "cuMemMap") + `} 0.25`,
		`heddle_executor_stalls_total{` + by("thread", "issue") + `} 4`, `heddle_calm_waits_total{` + at + `} 6`,
		`process_cpu_seconds_total `,
	} {
		if !strings.Contains(body, "\n"+want) && !strings.HasPrefix(body, want) {
			t.Errorf("no %s", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	// The control socket has the same, for `curl --unix-socket`.
	if text, err := o.conn.Metrics(context.Background()); err != nil || !strings.Contains(text, "heddle_ops_total{") {
		t.Errorf("on the control socket: %v\n%s", err, text)
	}

	// Reloads, good and bad.
	writePolicy(t, o.policy, rulesFor(2))
	o.scrape("heddle_policy_reloads_total 1")
	writePolicy(t, o.policy, "schema_version = 2\n")
	body = o.scrape("heddle_policy_reload_failures_total 1")
	if !strings.Contains(body, "heddle_policy_last_reload_successful 0") {
		t.Error("a failed reload is not told of")
	}
	// An executor that dies is counted.
	o.client.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: o.client.image(t, "x")}), []byte("die"))
	o.scrape(`heddle_executor_losses_total{` + by("reason", "ended") + `} 1`)
	o.scrape(`heddle_executor_starts_total{` + at + `} 2`)
}

// TestTheDaemonReadsWhatExecutorsWrite: the supervisor does not import the executor's types, so their names and bounds are compared here.
func TestTheDaemonReadsWhatExecutorsWrite(t *testing.T) {
	written := map[string]bool{}
	jsonNames(reflect.TypeFor[executor.Stats](), "", written)
	read := map[string]bool{}
	jsonNames(reflect.TypeFor[executorStats](), "", read)
	for name := range read {
		if !written[name] {
			t.Errorf("the daemon reads %s, which no executor writes", name)
		}
	}
	if len(read) < 40 {
		t.Errorf("only %d names were compared", len(read))
	}
	for what, diff := range map[string]string{
		"bounds of durations": cmp.Diff(executor.HistogramBounds[:], durationBounds), "bounds of driver calls": cmp.Diff(executor.CallBounds[:], callBounds),
		"names of driver calls": cmp.Diff(executor.CallNames[:], driverCalls), "places of stalls": cmp.Diff(executor.StallPlaces[:], stallPlaces),
	} {
		if diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	for i, most := range widthBounds {
		if cost.Bucket(int(most)) != i || i+1 < len(widthBounds) && cost.Bucket(int(most)+1) != i+1 {
			t.Errorf("bucket %d does not end at %v", i, most)
		}
	}
	if len(widthBounds) != cost.Buckets {
		t.Errorf("%d buckets of widths, expected %d", len(widthBounds), cost.Buckets)
	}
}

// jsonNames collects the paths of a type's fields as JSON has them.
func jsonNames(t reflect.Type, at string, into map[string]bool) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		into[at] = true
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			jsonNames(f.Type, at, into)
		} else {
			jsonNames(f.Type, at+"/"+name, into)
		}
	}
}

// TestLabelsAreBounded: what a hostile executor or a large policy makes up stays within bounds, and what counts is added up.
func TestLabelsAreBounded(t *testing.T) {
	s := someStats()
	s.Classes = nil
	// As many as fit a message, each with a name of its own; few of them known to the policy.
	var policy strings.Builder
	policy.WriteString(rulesFor(1))
	var rows []map[string]any
	for i := range 300 {
		name := fmt.Sprintf("c%03d", i)
		if i < 200 {
			fmt.Fprintf(&policy, "[class.%s]\n", name)
		}
		rows = append(rows, map[string]any{"class": name, "requests": 1}, map[string]any{"class": name, "requests": 1})
	}
	apart := map[string]uint64{"cost": 1, "Robert'); DROP": 1, "": 1, strings.Repeat("x", 90): 1}
	for i := range 100 {
		apart[fmt.Sprintf("r-%03d", i)] = 1
	}
	s.Coalescing.Apart = apart
	for i := range 8 {
		name := fmt.Sprintf("cuDROP%d", i%6)
		s.Driver = append(s.Driver, executor.CallStats{Call: name, Seconds: 1}, executor.CallStats{Call: "cuMemMap", Longest: float64(i), Counts: [len(executor.CallBounds) + 1]uint64{1}})
		s.Stalls = append(s.Stalls, executor.StallStats{Where: name, Count: 1}, executor.StallStats{Where: "mail", Count: 1})
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	m["classes"] = rows
	m["poller_busy_seconds"] = -1e300
	o := observe(t, m)
	writePolicy(t, o.policy, policy.String())
	o.scrape("heddle_policy_reloads_total 1")
	body := o.scrape(`class="c050"`)
	count := func(name string) (series int, sum float64) {
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, name+"{") {
				var v float64
				fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &v)
				series, sum = series+1, sum+v
			}
		}
		return series, sum
	}
	if n, sum := count("heddle_requests_total"); n > maxClassLabels+1 || n < maxClassLabels/2 || sum != 600 {
		t.Errorf("%d classes with %v requests", n, sum)
	}
	if n, sum := count("heddle_word_limits_total"); n != 2 || sum != 104 {
		t.Errorf("%d reasons of %v words", n, sum)
	}
	if n, sum := count("heddle_executor_driver_seconds_count"); n != 2 || sum != 11 {
		t.Errorf("%d names of %v driver calls", n, sum)
	}
	if n, sum := count("heddle_executor_stalls_total"); n != 3 || sum != 20 {
		t.Errorf("%d places of %v stalls", n, sum)
	}
	if strings.Contains(body, "DROP") || strings.Contains(body, "xxxx") {
		t.Error("text of an executor became a label")
	}
	for _, s := range []string{`class="c250"`, "pid=", "label="} {
		if strings.Contains(body, s) {
			t.Errorf("%s is in the metrics", s)
		}
	}
}

// TestStatisticsComeInPages: what finds no room in a message is asked for, of an executor that does not get on only once.
func TestStatisticsComeInPages(t *testing.T) {
	s := someStats()
	s.Classes, s.Next = s.Classes[:1], 3
	o := observe(t, []byte(`{}`))
	tell(t, o.stats+"3", executor.StatsPage{Classes: []executor.ClassStats{someClass("default")}, Sessions: []executor.SessionStats{{ClientID: 3, RingBytes: 100}}, Next: 5})
	tell(t, o.stats+"5", executor.StatsPage{Sessions: []executor.SessionStats{{ClientID: 4, RingBytes: 7}}, Next: 5})
	tell(t, o.stats, s)
	body := o.scrape(fmt.Sprintf(`heddle_ring_used_bytes{UUID="GPU-01020300-0000-0000-0000-000000000000",uid="%d"} 5227`, os.Getuid()))
	if strings.Count(body, "\nheddle_requests_total{") != 2 || !strings.Contains(body, "heddle_ops_total{") {
		t.Errorf("classes:\n%s", body)
	}
	st, err := o.conn.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var whole executor.Stats
	if err := json.Unmarshal(st.Executors[0].Counters, &whole); err != nil || len(whole.Sessions) != 4 || len(whole.Classes) != 2 || whole.Next != 0 || whole.Ops != s.Ops {
		t.Errorf("the whole: %+v, %v", whole, err)
	}
}

// TestAnExecutorThatHangsOrLies: the others' metrics and the daemon's own are there all the same.
func TestAnExecutorThatHangsOrLies(t *testing.T) {
	o := observe(t, someStats())
	silent := regexp.MustCompile(`heddle_executor_answers\{[^}]*\} 0`)
	for _, answer := range []struct {
		text  string
		known *regexp.Regexp // what shows that the daemon has it
	}{
		{`not JSON`, silent},
		{`[]`, silent},
		{`{"classes": 7}`, silent},
		{`{"ops":77,"coalescing":{"widths":[1]},"classes":[{"class":"a","latency":{"counts":[1,2],"sum":1e308}},{"class":"a","latency":{"sum":1e308}}]}`, regexp.MustCompile(`heddle_ops_total\{[^}]*\} 77`)},
		{"hang", silent},
	} {
		tell(t, o.stats, someStats())
		o.scrape(`heddle_ops_total{UUID="GPU-01020300-0000-0000-0000-000000000000",uid="` + fmt.Sprint(os.Getuid()) + `"} 1000`)
		tell(t, o.stats, []byte(answer.text))
		began := time.Now()
		eventually(t, answer.text, func() bool {
			body, resp := o.get("/metrics")
			if resp.StatusCode != http.StatusOK || !strings.Contains(body, "heddle_build_info") || !strings.Contains(body, "heddle_clients{") {
				t.Fatalf("%s: %s\n%s", answer.text, resp.Status, body)
			}
			return answer.known.MatchString(body)
		})
		if took := time.Since(began); took > 3*statsPatience {
			t.Errorf("%s: after %v", answer.text, took)
		}
	}
}

// TestAScraperThatHangs: connections that ask and never read cost nobody else an answer.
func TestAScraperThatHangs(t *testing.T) {
	o := observe(t, someStats())
	address := strings.TrimPrefix(o.url, "http://")
	for range maxViewers - 4 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.(*net.TCPConn).SetReadBuffer(1)
		for range 20 {
			fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", address)
		}
	}
	if body := o.scrape("heddle_ops_total{"); body == "" {
		t.Error("nothing")
	}
	// Beyond the bound connections are closed, not kept.
	closed := false
	for range 16 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := bufio.NewReader(conn).ReadByte(); err != nil && !os.IsTimeout(err) {
			closed = true
		}
	}
	if !closed {
		t.Errorf("more than %d connections are kept", maxViewers)
	}
	// The control socket is not concerned.
	if _, err := o.conn.Status(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestTheListenerOnlyShows(t *testing.T) {
	o := observe(t, someStats())
	for path, want := range map[string]int{
		"/": 200, "/app.js": 200, "/style.css": 200, "/v1/status": 200, "/v1/kernels": 200, "/metrics": 200, "/v1/policy": 404, "/v1/policy/test?pid=1": 404, "/nothing": 404,
	} {
		body, resp := o.get(path)
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, expected %d\n%s", path, resp.Status, want, body)
		}
		if !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %s has no protection: %v", path, resp.Header)
		}
	}
	for _, path := range []string{"/v1/stop", "/v1/drain", "/v1/policy/apply", "/metrics"} {
		resp, err := http.Post(o.url+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %s", path, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	// A name that another site has point here.
	req, err := http.NewRequest(http.MethodGet, o.url+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example:9477"
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another site's name: %s", resp.Status)
	}
	// No more than the control socket tells, and as it tells it.
	body, _ := o.get("/v1/status")
	if !strings.Contains(body, `"label":"a?label"`) {
		t.Errorf("status: %s", body)
	}
}

func TestOnlyLoopbackUnlessToldOtherwise(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "somewhere.invalid:0", "127.0.0.1", "9477"} {
		dir := t.TempDir()
		err := Run(context.Background(), Config{Dir: dir, Metrics: address, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), "127.0.0.1:9477") {
			t.Errorf("%s: %v", address, err)
		}
	}
	h := start(t, func(c *Config) { c.Metrics, c.MetricsOpen = "0.0.0.0:0", true })
	if st, err := h.conn.Status(context.Background()); err != nil || st.Metrics == "" {
		t.Errorf("open: %q, %v", st.Metrics, err)
	}
}

const docsPath = "../../docs/metrics.md"

// TestMetricsAreDocumented keeps docs/metrics.md as families say.
func TestMetricsAreDocumented(t *testing.T) {
	got, err := os.ReadFile(docsPath)
	if err != nil && !*update {
		t.Fatal(err)
	}
	want := metricsDoc()
	if *update {
		if err := os.WriteFile(docsPath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("docs/metrics.md is not current; next: go test ./controlplane/daemon -run TestMetricsAreDocumented -update\n%s", diff)
	}
}

func metricsDoc() string {
	var b strings.Builder
	b.WriteString(metricsDocHead)
	kinds := map[prometheus.ValueType]string{prometheus.GaugeValue: "gauge", prometheus.CounterValue: "counter", 0: "histogram"}
	group := ""
	for _, f := range families {
		if f.group != group {
			group = f.group
			fmt.Fprintf(&b, "\n## %s\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n", group)
		}
		labels := "–"
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, kinds[f.kind], labels, f.help)
	}
	return b.String()
}

const metricsDocHead = `# Metrics and the page

Generated from controlplane/daemon/metrics.go by ` + "`go test ./controlplane/daemon -run TestMetricsAreDocumented -update`" + `; a test keeps it current.

` + "`heddle daemon --metrics 127.0.0.1:9477`" + ` serves ` + "`/metrics`" + ` for Prometheus and a page for people on ` + "`/`" + `. It is off by default, only shows and never changes
anything, and takes only a loopback address: whoever can connect sees which programs run under which labels and what their kernels
are called. ` + "`--metrics-open`" + ` allows other addresses; nobody is asked for a password then, so put a proxy or a firewall before it.
The same metrics are on the control socket: ` + "`curl --unix-socket $XDG_RUNTIME_DIR/heddle/control.sock http://heddle/metrics`" + `.

` + "```yaml" + `
scrape_configs:
  - job_name: heddle
    static_configs: [{targets: ["127.0.0.1:9477"]}]
` + "```" + `

[grafana/heddle.json](grafana/heddle.json) is a dashboard for Grafana; import it and choose the Prometheus data source. A test checks its queries
against the exporter.

- **Units** are seconds, bytes and counts. Counters of an executor begin anew with it: use ` + "`rate()`" + ` and ` + "`increase()`" + `.
- **Labels** are bounded. ` + "`UUID`" + ` is the GPU's as DCGM's exporter has it, so ` + "`… * on(UUID) group_left(…) DCGM_FI_DEV_GPU_UTIL`" + ` joins. ` + "`uid`" + ` is the user whose
  executor it is. ` + "`class`" + ` is one of the policy's; beyond 100, and for classes that no policy has, ` + "`(other)`" + `. ` + "`reason`" + ` is a code
  of [reasons.md](reasons.md). Clients, processes and kernels are no labels: ` + "`heddle top`" + `, ` + "`heddle kernels`" + ` and the page show them.
- **Scraping** asks each executor at most four times a second, whoever asks and however often. An executor that does not answer within 2 s has
  ` + "`heddle_executor_answers`" + ` 0 and no numbers of its own. At most 64 connections are kept; one that does not read is closed after 20 s.
- The usual ` + "`process_*`" + ` metrics tell of the daemon itself.

` + "`heddle_requests_attained_total / heddle_requests_total`" + ` is attainment. ` + "`histogram_quantile(0.99, …heddle_request_latency_seconds_bucket…)`" + ` is the p99
to compare with ` + "`heddle_class_objective_seconds`" + `. ` + "`heddle_coalesced_ops_total / heddle_kernel_ops_total`" + ` is the share of kernels that shared a launch.
`
