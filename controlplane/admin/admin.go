// Package admin is what the daemon tells and takes on its control socket: HTTP
// with JSON bodies over a unix socket, for the CLI; /metrics for Prometheus.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// Status is everything `heddle ps` shows. Field names are stable.
type Status struct {
	Version   string     `json:"version"`
	Pid       int        `json:"pid"`
	Since     time.Time  `json:"since"`
	Draining  bool       `json:"draining"`
	Metrics   string     `json:"metrics,omitempty"` // HOST:PORT of metrics and the page
	Clients   []Client   `json:"clients"`
	Executors []Executor `json:"executors"`
}

// Client is one session: a process on one GPU.
type Client struct {
	ID          uint64    `json:"id"`
	Pid         int       `json:"pid"`
	UID         int       `json:"uid"`
	Exe         string    `json:"exe"`
	Label       string    `json:"label,omitempty"`
	Class       string    `json:"class"`
	GPU         string    `json:"gpu"` // UUID
	State       string    `json:"state"`
	Since       time.Time `json:"since"`
	DeviceBytes uint64    `json:"device_bytes"` // memory mapped in the executor
	HostBytes   uint64    `json:"host_bytes"`
	Segments    int       `json:"segments"`
	Files       int       `json:"files"` // that the daemon keeps open for its segments and graphs
	Kernels     int       `json:"kernels"`
	Ops         uint64    `json:"ops"`       // forwarded and done
	InFlight    uint64    `json:"in_flight"` // submitted and not yet done
	// Straggler is how it is served because of how long its ops take: "" as everybody, "tried", "apart", "limited", "own-context";
	// Lateness how many times as long as they should they take, 0 not known.
	Straggler     string  `json:"straggler,omitempty"`
	Lateness      float64 `json:"lateness,omitempty"`
	Slowed        float64 `json:"slowed,omitempty"`        // by what part its kernels take longer beside others than alone, of late
	Partition     int     `json:"partition_sms,omitempty"` // multiprocessors that its kernels run on now; 0: all
	Error         uint32  `json:"error,omitempty"`
	ErrorReason   string  `json:"error_reason,omitempty"`
	RefusedReason string  `json:"refused_reason,omitempty"` // last kernel that runs natively, and why
}

// Executor is one GPU's issuing process for one user.
type Executor struct {
	GPU      string `json:"gpu"`
	UID      int    `json:"uid"`
	Pid      int    `json:"pid"` // 0 while none runs
	State    string `json:"state"`
	Epoch    uint32 `json:"epoch"` // executors so far, this one included
	Clients  int    `json:"clients"`
	Images   int    `json:"images"`
	ImageMiB uint64 `json:"image_mib"`
	Fault    string `json:"last_fault,omitempty"`
	// Losses counts executors that ended while they served, by reason (docs/metrics.md, heddle_executor_losses_total).
	Losses   map[string]uint64 `json:"losses,omitempty"`
	Counters json.RawMessage   `json:"counters,omitempty"` // the executor's own (executor.Counters)
}

// Policy is what `heddle policy show` shows.
type Policy struct {
	Path    string    `json:"path"`  // where the daemon looks
	Files   []string  `json:"files"` // what it found
	Since   time.Time `json:"since"`
	Text    string    `json:"text"`              // in TOML, defaults included
	Origins string    `json:"origins"`           // the same, with where each value was set
	Problem string    `json:"problem,omitempty"` // why the files that are there now are not in force
}

// Changes is what a reload changed, a line each.
type Changes struct {
	Changes []string `json:"changes"`
}

// Selection is a process's class, what it was chosen by, and why.
type Selection struct {
	Class  string   `json:"class"`
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Exe    string   `json:"exe"`
	Cgroup string   `json:"cgroup"`
	Label  string   `json:"label"`
	Steps  []string `json:"steps"`
}

// ErrUnreachable wraps every failure to reach a daemon.
var ErrUnreachable = errors.New("no daemon answers")

// Conn is a way to a daemon's control socket.
type Conn struct {
	path string
	http http.Client
}

// Dial returns a way to the daemon that this user's commands talk to; nothing is connected yet.
func Dial() *Conn { return DialDir(runtimedir.Find()) }

// DialDir is Dial for the daemon of a certain runtime folder.
func DialDir(dir string) *Conn {
	c := &Conn{path: filepath.Join(dir, runtimedir.AdminSocket)}
	c.http.Timeout = 30 * time.Second
	c.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.path)
	}}
	return c
}

// Status asks what runs.
func (c *Conn) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, "/v1/status", &s)
	return s, err
}

// Drain asks the daemon to take no new client, and to leave when the last is gone.
func (c *Conn) Drain(ctx context.Context) error { return c.do(ctx, http.MethodPost, "/v1/drain", nil) }

// Stop asks the daemon to leave now: executors finish what was submitted, clients go on natively.
func (c *Conn) Stop(ctx context.Context) error { return c.do(ctx, http.MethodPost, "/v1/stop", nil) }

// Policy asks for the policy in force.
func (c *Conn) Policy(ctx context.Context) (Policy, error) {
	var p Policy
	err := c.do(ctx, http.MethodGet, "/v1/policy", &p)
	return p, err
}

// ApplyPolicy has the daemon read its policy files now. An error lists their mistakes; nothing has changed then.
func (c *Conn) ApplyPolicy(ctx context.Context) (Changes, error) {
	var ch Changes
	err := c.do(ctx, http.MethodPost, "/v1/policy/apply", &ch)
	return ch, err
}

// TestPolicy asks which class a process has or would have.
func (c *Conn) TestPolicy(ctx context.Context, pid int) (Selection, error) {
	var s Selection
	err := c.do(ctx, http.MethodGet, fmt.Sprintf("/v1/policy/test?pid=%d", pid), &s)
	return s, err
}

func (c *Conn) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://heddle"+path, bytes.NewReader(nil))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode/100 != 2 {
		return refused(path, resp, body)
	}
	if into == nil {
		return nil
	}
	if text, ok := into.(*string); ok {
		*text = string(body)
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: the daemon's answer: %w; is it of another version? heddle version", path, err)
	}
	return nil
}

// refused is the daemon's own sentence. Without one it does not know the question.
func refused(path string, resp *http.Response, body []byte) error {
	said := string(bytes.TrimSpace(body))
	if said == "" || said == "404 page not found" {
		return fmt.Errorf("%s: %s; is the daemon of another version? heddle version", path, resp.Status)
	}
	return errors.New(said)
}

// unreachable says why a request was not answered, and what to do.
func (c *Conn) unreachable(err error) error {
	next := "see it with: heddle doctor"
	var errno syscall.Errno
	if errors.As(err, &errno) { // of the connection; the rest of the error only repeats the path
		err = errno
		if errno == syscall.ENOENT || errno == syscall.ECONNREFUSED {
			next = "start one with: heddle daemon"
		}
	}
	return fmt.Errorf("%w on %s (%w); %s", ErrUnreachable, c.path, err, next)
}

// Metrics returns what Prometheus would scrape.
func (c *Conn) Metrics(ctx context.Context) (string, error) {
	var text string
	err := c.do(ctx, http.MethodGet, "/metrics", &text)
	return text, err
}
