package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/shm"
)

// policies is the policy in force, and what the last reading of its files gave.
type policies struct {
	path    string
	current atomic.Pointer[policy.Policy]

	mu      sync.Mutex // one reload at a time
	read    [32]byte   // what the files were when they were last read
	since   time.Time  // when the current policy came into force
	problem string     // why the last reading changed nothing
	reloads uint64     // readings that gave a policy
	failed  uint64     // readings that gave none
}

// loadPolicy reads the files at the daemon's start. A mistake ends the start: a
// system that was set up wrongly must not run as if it were not.
func (d *Daemon) loadPolicy() error {
	p := &d.policies
	p.path = d.config.PolicyPath
	p.read, p.since = policy.Signature(p.path), time.Now()
	now, err := policy.Load(p.path)
	if err != nil {
		return fmt.Errorf("the policy has mistakes:\n%w\nnext: heddle policy check", err)
	}
	p.current.Store(now)
	return nil
}

// watchPolicy reloads when the files change, until the daemon ends.
func (d *Daemon) watchPolicy() {
	err := policy.Watch(d.ctx, d.policies.path, d.policies.read, func() {
		if _, err := d.reloadPolicy(); err != nil {
			d.log.Error("the policy has mistakes: what was in force stays", "error", err)
		}
	})
	if err != nil {
		d.log.Warn("changes of the policy are not noticed", "error", err)
	}
}

// reloadPolicy validates, compares and applies, or leaves everything as it was.
func (d *Daemon) reloadPolicy() ([]policy.Change, error) {
	p := &d.policies
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := policy.Load(p.path)
	if err != nil {
		p.problem = err.Error()
		p.failed++
		return nil, err
	}
	p.problem = ""
	p.reloads++
	changes := policy.Diff(p.current.Load(), next)
	p.since = time.Now()
	p.current.Store(next)
	if len(changes) == 0 {
		return nil, nil
	}
	d.mu.Lock()
	slots := make([]*slot, 0, len(d.slots))
	for _, sl := range d.slots {
		slots = append(slots, sl)
	}
	d.mu.Unlock()
	for _, sl := range slots {
		sl.reclassify(next)
	}
	for _, c := range changes {
		d.log.Info("policy", "change", c.String())
	}
	return changes, nil
}

func facts(p peer, label string) policy.Client {
	return policy.Client{UID: p.uid, GID: p.gid, Exe: p.exe, Cgroup: p.cgroup, Label: label}
}

// reclassify gives every session its class's new settings. A client keeps the
// class that it was given when it came; when that is gone it has the default.
func (sl *slot) reclassify(p *policy.Policy) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	for _, s := range sl.sessions {
		s.mu.Lock()
		next := p.Classes[s.class.Name]
		if next == nil {
			next = p.Classes[p.Daemon.DefaultClass]
		}
		changed := classBody(p, next) != s.wire || next.Name != s.class.Name
		s.class, s.wire = next, classBody(p, next)
		closed := s.closed
		s.mu.Unlock()
		if changed && !closed && sl.state == slotLive {
			if err := sl.process.classify(s); err != nil && !errors.Is(err, errExecutorLost) {
				sl.log.Error("the executor did not take a class", "client", s.id, "error", err)
			}
		}
	}
}

// classify tells the executor what a session is promised. The slot's mu is held.
func (p *executorProcess) classify(s *session) error {
	_, err := p.call(s.id, shm.TypeClass, shm.Encode(s.wire), []byte(s.class.Name))
	return err
}

// sharers is the user whose executor serves a client.
func (d *Daemon) sharers(p peer) uint32 {
	if d.policies.current.Load().Daemon.Share == "any" {
		return d.uid
	}
	return p.uid
}

// classBody is a class as the executor reads it.
func classBody(p *policy.Policy, c *policy.Class) shm.Class {
	b := shm.Class{
		Latency: uint64(c.LatencyP99), MaxQueueDelay: uint64(c.MaxQueueDelay), MaxWait: uint64(c.MaxWait), MaxQueueSize: uint64(c.MaxQueueSize),
		MinSharePpm: uint32(c.MinShare * 1e6), Priority: int32(c.Priority), PartitionPpm: uint32(c.Partition * 1e6),
	}
	if c.Straggler != "tolerate" {
		b.StragglerPercent = uint32(c.StragglerFactor * 100)
	}
	for _, f := range []struct {
		on   bool
		flag uint32
	}{
		{c.Coalesce && p.Daemon.Coalesce, shm.ClassFlagCoalesce},
		{c.Straggler == "own-context", shm.ClassFlagOwnContext},
		{c.TimeoutAction == "delay", shm.ClassFlagDelayLate},
	} {
		if f.on {
			b.Flags |= f.flag
		}
	}
	return b
}

// policyReport is the answer to GET /v1/policy.
func (d *Daemon) policyReport() admin.Policy {
	p := &d.policies
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.current.Load()
	return admin.Policy{Path: p.path, Files: now.Files, Since: p.since, Text: now.Show(false), Origins: now.Show(true), Problem: p.problem}
}

// policyHandlers serve `heddle policy`.
func (d *Daemon) policyHandlers(mux *http.ServeMux) {
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			d.log.Debug("policy", "error", err)
		}
	}
	mux.HandleFunc("GET /v1/policy", func(w http.ResponseWriter, _ *http.Request) { answer(w, d.policyReport()) })
	mux.HandleFunc("POST /v1/policy/apply", func(w http.ResponseWriter, _ *http.Request) {
		changes, err := d.reloadPolicy()
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		out := admin.Changes{Changes: []string{}}
		for _, c := range changes {
			out.Changes = append(out.Changes, c.String())
		}
		answer(w, out)
	})
	mux.HandleFunc("GET /v1/policy/test", func(w http.ResponseWriter, r *http.Request) {
		pid, err := strconv.Atoi(r.URL.Query().Get("pid"))
		if err != nil || pid <= 0 {
			http.Error(w, "pid: expected the number of a process", http.StatusBadRequest)
			return
		}
		p, err := peerOf(pid)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		label := labelOf(pid)
		s := d.policies.current.Load().Select(facts(p, label), true)
		answer(w, admin.Selection{Class: s.Class.Name, UID: p.uid, GID: p.gid, Exe: p.exe, Cgroup: p.cgroup, Label: label, Steps: s.Steps})
	})
}

// peerOf describes a process that has not connected.
func peerOf(pid int) (peer, error) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return peer{}, fmt.Errorf("process %d: %w; expected one that runs", pid, err)
	}
	p := peer{pid: int32(pid), uid: st.Uid, gid: st.Gid, pidfd: -1}
	p.describe()
	return p, nil
}

// labelOf is the label that a process would connect with, as far as its environment can be read.
func labelOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for line := range bytes.SplitSeq(b, []byte{0}) {
		if v, ok := bytes.CutPrefix(line, []byte("HEDDLE_LABEL=")); ok {
			return cleanLabel(v)
		}
	}
	return ""
}
