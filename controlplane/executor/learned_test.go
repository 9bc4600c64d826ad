package executor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/jit/cache"
	"github.com/heddle-gpu/heddle/shm"
)

// journal is a log whose lines a test can ask for.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(b)
}

// said gives the values of a key in lines with this message.
func (j *journal) said(message, key string) (values []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range bytes.Split(j.b.Bytes(), []byte("\n")) {
		var row map[string]any
		if json.Unmarshal(line, &row) == nil && row["msg"] == message {
			values = append(values, fmt.Sprint(row[key]))
		}
	}
	return values
}

// learner is an executor that keeps what it learns in a folder.
type learner struct {
	*daemon
	gpu     *fakeGPU
	journal journal
}

// lastClient numbers the clients of these tests: executors of one process share its addresses.
var lastClient atomic.Uint64

func newLearner(t *testing.T, dir string) *learner {
	t.Helper()
	g := newFakeGPU()
	t.Cleanup(g.unmapAll)
	g.define("check", func([]byte) {})
	l := &learner{gpu: g}
	l.daemon = start(t, g.open, nil, func(c *Config) {
		c.LearnedDir = dir
		c.Log = slog.New(slog.NewJSONHandler(&l.journal, nil))
	})
	l.image(1, testImage)
	return l
}

// requests attaches a client of this process's program in a class with an objective, which has made n requests of three launches.
func (l *learner) requests(class string, n int) *tester {
	l.t.Helper()
	id := 100 + lastClient.Add(1)%100
	c := l.client(id)
	c.kernel(1, 1, "check")
	l.must(shm.Message{Type: shm.TypeClass, ClientID: id, Body: shm.Encode(shm.Class{Latency: 1e9, Flags: shm.ClassFlagCoalesce}), Tail: []byte(class)})
	c.resume()
	for range n {
		for blocks := range uint32(2) {
			c.launchGrid(1, 1, blocks+1, nil, nil)
		}
		seq := c.launchGrid(1, 1, 3, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal | shm.RecordFlagWait })
		c.ring.Publish()
		if err := c.await(1, seq); err != nil {
			l.t.Fatal(err)
		}
	}
	until(l.t, "requests are counted", func() bool {
		for _, row := range l.stats().Classes {
			if row.Class == class && row.Requests >= uint64(n) {
				return true
			}
		}
		return n == 0
	})
	return c
}

// known is how many requests a new client of a class finds known: "" when none.
func (l *learner) known(class string) string {
	l.t.Helper()
	before := l.journal.said(requestsKnown, "requests")
	l.requests(class, 0)
	if after := l.journal.said(requestsKnown, "requests"); len(after) > len(before) {
		return after[len(after)-1]
	}
	return ""
}

func (l *learner) leave() {
	l.t.Helper()
	l.conn.Close()
	if err := l.end(); err != nil {
		l.t.Fatal(err)
	}
	l.result <- nil
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.form"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What a client taught is known to the next one of its program and class: in the same executor when it left, in the next when the
// executor ended, and in no other class.
func TestLearnedAcrossRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "learned")
	a := newLearner(t, dir)
	if got := a.known("served"); got != "" {
		t.Errorf("a first client finds %s requests", got)
	}
	c := a.requests("served", 20)
	if r := c.detach(); r.Status != shm.StatusOK {
		t.Fatalf("DETACH: %s", r.Tail)
	}
	until(t, "the model is on disk", func() bool { return len(entries(t, dir)) > 0 })
	if got := a.known("served"); got != "20" {
		t.Errorf("a client finds %q requests of one that left; want 20", got)
	}
	if got := a.known("other"); got != "" {
		t.Errorf("a client of another class finds %s requests", got)
	}
	a.requests("served", 7) // stays until the end
	a.leave()
	b := newLearner(t, dir)
	if got := b.known("served"); got != "27" {
		t.Errorf("a client of the next executor finds %q requests; want 27", got)
	}
	if got := b.journal.said(timesKnown, "shapes"); len(got) != 1 || got[0] == "0" {
		t.Errorf("the next executor finds times of %v shapes", got)
	}
	if got := b.known("other"); got != "" {
		t.Errorf("a client of another class finds %s requests", got)
	}
}

// Two executors at once: both learn, both end, and the next one knows what one of them taught at least.
func TestLearnedByTwo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "learned")
	a, b := newLearner(t, dir), newLearner(t, dir)
	var all sync.WaitGroup
	for i, l := range []*learner{a, b} {
		all.Go(func() {
			for range 6 {
				if l.requests("served", 3+i).detach().Status != shm.StatusOK {
					t.Error("DETACH failed")
				}
			}
		})
	}
	all.Wait()
	a.leave()
	b.leave()
	if got := newLearner(t, dir).known("served"); got == "" {
		t.Error("nothing is known")
	}
}

// Whatever lies in the folder: clients are served, and learning goes on.
func TestLearnedSpoiled(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"empty":  func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"cut":    func(path string) error { return os.Truncate(path, 100) },
		"others": func(path string) error { return os.Chmod(path, 0o644) },
		"pipe":   func(path string) error { os.Remove(path); return unix.Mkfifo(path, 0o600) },
		"folder": func(path string) error { os.Remove(path); return os.Mkdir(path, 0o700) },
		"senseless": func(path string) error {
			b, err := os.ReadFile(path)
			if err == nil {
				b, err = cache.Encode(cache.Key(b[16:48]), nil, bytes.Repeat([]byte("HDRQ1\n"), 20))
			}
			if err != nil {
				return err
			}
			return os.WriteFile(path, b, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "learned")
			a := newLearner(t, dir)
			a.requests("served", 5)
			a.leave()
			all := entries(t, dir)
			if len(all) != 2 {
				t.Fatalf("%d entries; want one of requests and one of times", len(all))
			}
			for _, path := range all {
				if err := spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			b := newLearner(t, dir)
			if got := b.known("served"); got != "" {
				t.Errorf("%s requests are believed", got)
			}
			b.requests("served", 6)
			b.leave()
			if got := newLearner(t, dir).known("served"); got != "6" {
				t.Errorf("%q requests are known afterwards; want 6", got)
			}
		})
	}
}

// A folder that cannot be one: clients are served.
func TestLearnedNowhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLearner(t, file)
	l.requests("served", 3)
	l.leave()
}
