package server

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// Rule is an injected failure. Which fields are set says what it does:
// Call fails or delays calls of one entry point in every client; Kernel makes a
// kernel fault; Op delays a kind of operation on the device.
type Rule struct {
	Call   string        `json:"call,omitempty"`   // entry point, as exported: cuMemAlloc_v2
	Kernel string        `json:"kernel,omitempty"` // kernel name, or * for all
	Op     string        `json:"op,omitempty"`     // launch, copy, memset, memop
	Pid    int           `json:"pid,omitempty"`    // only this process; 0: all
	Nth    uint32        `json:"nth,omitempty"`    // first occurrence that is hit, from 1; 0 means 1
	Times  uint32        `json:"times,omitempty"`  // how many are hit; 0: all that follow
	Code   uint32        `json:"code,omitempty"`   // CUresult to give
	Delay  time.Duration `json:"delay,omitempty"`  // nanoseconds in JSON
}

// armed is a rule in force.
type armed struct {
	Rule
	seen atomic.Uint32
}

// hit counts an occurrence and tells whether the rule applies to it.
func (r *armed) hit() bool {
	n, first := r.seen.Add(1), max(r.Nth, 1)
	return n >= first && (r.Times == 0 || n < first+r.Times)
}

// addRule checks a rule and puts it into force.
func (s *Server) addRule(r Rule) error {
	set := 0
	for _, f := range []string{r.Call, r.Kernel, r.Op} {
		if f != "" {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("simgpu: a rule names one of call, kernel, op: %d given", set)
	}
	if r.Code == 0 && r.Delay == 0 {
		return fmt.Errorf("simgpu: a rule needs a code or a delay")
	}
	if r.Kernel != "" && r.Code == 0 || r.Op != "" && r.Delay == 0 {
		return fmt.Errorf("simgpu: a kernel rule needs a code, an op rule a delay")
	}
	if r.Op != "" && !strings.Contains(" launch copy memset memop ", " "+r.Op+" ") {
		return fmt.Errorf("simgpu: unknown op %q: launch, copy, memset or memop", r.Op)
	}
	if len(r.Call) >= wire.RuleNameSize || r.Delay < 0 || r.Delay > time.Hour {
		return fmt.Errorf("simgpu: rule out of range: %q, delay %s", r.Call, r.Delay)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rules) >= wire.MaxRules {
		return fmt.Errorf("simgpu: %d rules already: clear them first", len(s.rules))
	}
	s.rules = append(s.rules, &armed{Rule: r})
	s.publishRules()
	return nil
}

// publishRules shows the call rules to every client; s.mu is held.
func (s *Server) publishRules() {
	s.rulesGen++
	s.armed.Store(int32(len(s.rules)))
	for c := range s.clients {
		if c.statusMem != nil {
			s.writeRules(c)
		}
	}
}

// writeRules fills a client's status page; s.mu is held. Clients count calls
// from their own beginning, so nth refers to each process by itself.
func (s *Server) writeRules(c *client) {
	table := c.statusMem[wire.StatusRules : wire.StatusRules+wire.MaxRules*wire.RuleSize]
	store(c.word(wire.StatusRulesGen), 0)
	clear(table)
	i := 0
	for _, r := range s.rules {
		if r.Call == "" || r.Pid != 0 && r.Pid != c.pid {
			continue
		}
		e := table[i*wire.RuleSize:]
		copy(e[:wire.RuleNameSize-1], r.Call)
		binary.LittleEndian.PutUint32(e[wire.RuleNameSize:], max(r.Nth, 1))
		binary.LittleEndian.PutUint32(e[wire.RuleNameSize+4:], r.Code)
		binary.LittleEndian.PutUint32(e[wire.RuleNameSize+8:], uint32(r.Delay/time.Microsecond))
		binary.LittleEndian.PutUint32(e[wire.RuleNameSize+12:], r.Times)
		i++
	}
	if i > 0 {
		store(c.word(wire.StatusRulesGen), uint64(s.rulesGen))
	}
}

// matching gives the rules in force that the test accepts for a client.
func (s *Server) matching(c *client, ok func(*armed) bool) []*armed {
	if s.armed.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*armed
	for _, r := range s.rules {
		if (r.Pid == 0 || r.Pid == c.pid) && ok(r) {
			out = append(out, r)
		}
	}
	return out
}

// kernelRule gives the injected error for a launch of a kernel, 0 for none.
func (s *Server) kernelRule(c *client, name string) uint32 {
	for _, r := range s.matching(c, func(r *armed) bool { return r.Kernel != "" && (r.Kernel == "*" || r.Kernel == name) }) {
		if r.hit() {
			return r.Code
		}
	}
	return 0
}

// delay waits as the rules for a kind of operation say, or until the stream's context ends.
func (s *Server) delay(kind string, st *stream) {
	for _, r := range s.matching(st.c, func(r *armed) bool { return r.Op == kind }) {
		if r.hit() {
			t := time.NewTimer(r.Delay)
			select {
			case <-t.C:
			case <-st.d.stop.Done():
				t.Stop()
			}
		}
	}
}

// Command is a request of `simgpu stats` and `simgpu inject`.
type Command struct {
	Cmd    string `json:"cmd"` // stats, inject, clear, memory, fail
	Rule   *Rule  `json:"rule,omitempty"`
	Memory uint64 `json:"memory,omitempty"` // bytes that each device has from now on; 0: as built
	Pid    int    `json:"pid,omitempty"`    // of fail
	Code   uint32 `json:"code,omitempty"`
}

// Answer is what the server says to a Command.
type Answer struct {
	Error string `json:"error,omitempty"`
	Stats *Stats `json:"stats,omitempty"`
}

// ProcessStats is what one client did. Times are virtual nanoseconds.
type ProcessStats struct {
	Pid             int               `json:"pid"`
	Name            string            `json:"name"`
	Alive           bool              `json:"alive"`
	Launches        uint64            `json:"launches"`
	Instructions    uint64            `json:"instructions"`
	Copies          uint64            `json:"copies"`
	Memsets         uint64            `json:"memsets"`
	Memops          uint64            `json:"memops"`
	Bytes           uint64            `json:"bytes"`
	ContextSwitches uint64            `json:"context_switches"`
	ComputeNs       int64             `json:"compute_ns"`
	CopyNs          int64             `json:"copy_ns"`
	SwitchNs        int64             `json:"switch_ns"`
	HostNs          int64             `json:"host_ns"`
	LastNs          int64             `json:"last_ns"`
	Contexts        int               `json:"contexts"`
	Calls           map[string]uint32 `json:"calls,omitempty"`
}

// DeviceStats is the state of one device.
type DeviceStats struct {
	Ordinal   int    `json:"ordinal"`
	Total     uint64 `json:"total"`
	Used      uint64 `json:"used"`
	VirtualNs int64  `json:"virtual_ns"`
}

// Stats is the state of the server.
type Stats struct {
	Devices         []DeviceStats  `json:"devices"`
	Processes       []ProcessStats `json:"processes"`
	Launches        uint64         `json:"launches"`
	ContextSwitches uint64         `json:"context_switches"`
	Instructions    uint64         `json:"instructions"`
	Images          int            `json:"images"`
	Exports         int            `json:"exports"`
}

// stats says what the client did; alive until everything it had is freed.
func (c *client) stats(alive bool) ProcessStats {
	n := &c.count
	p := ProcessStats{Pid: c.pid, Name: c.name, Alive: alive, Launches: n.launches.Load(), Instructions: n.instructions.Load(),
		Copies: n.copies.Load(), Memsets: n.memsets.Load(), Memops: n.memops.Load(), Bytes: n.bytes.Load(),
		ContextSwitches: n.switches.Load(), ComputeNs: n.computeV.Load(), CopyNs: n.copyV.Load(), SwitchNs: n.switchV.Load(),
		HostNs: c.host.latest.Load(), LastNs: n.lastV.Load()}
	if p.Alive {
		c.mu.Lock()
		p.Contexts = len(c.contexts)
		c.mu.Unlock()
	}
	if c.statusMem != nil {
		p.Calls = map[string]uint32{}
		for i, name := range c.names {
			if i >= wire.MaxEntries {
				break
			}
			if k := load(c.word(wire.StatusCalls + 4*i)); k != 0 {
				p.Calls[name] = uint32(k)
			}
		}
	}
	return p
}

// Stats gives the state of the server and of every client, dead ones too.
func (s *Server) Stats() Stats {
	var st Stats
	for _, d := range s.devices {
		free, total := d.free()
		st.Devices = append(st.Devices, DeviceStats{d.ordinal, total, total - free, d.now.Load()})
	}
	s.mu.Lock()
	st.Processes = append(st.Processes, s.past...)
	st.Images, st.Exports = len(s.images), s.exported()
	var live []*client
	for c := range s.clients {
		if c.kind == wire.KindClient && c.pid != 0 {
			live = append(live, c)
		}
	}
	s.mu.Unlock()
	for _, c := range live {
		c.statsMu.Lock()
		st.Processes = append(st.Processes, c.stats(true))
		c.statsMu.Unlock()
	}
	for _, p := range st.Processes {
		st.Launches += p.Launches
		st.ContextSwitches += p.ContextSwitches
		st.Instructions += p.Instructions
	}
	return st
}

// control answers a Command; the answer is a file, so it may be long.
func (c *client) control(r *wire.Request) {
	var cmd Command
	var ans Answer
	err := json.Unmarshal(r.Blob, &cmd)
	if err == nil {
		err = c.srv.command(&cmd, &ans)
	}
	if err != nil {
		ans.Error = err.Error()
	}
	text, err := json.Marshal(&ans)
	if err != nil {
		c.status(r.Tag, errUnknown)
		return
	}
	f, err := textFile(text)
	if err != nil {
		c.status(r.Tag, errOutOfMemory)
		return
	}
	c.reply(r.Tag, success, nil, nil, f)
}

func (s *Server) command(cmd *Command, ans *Answer) error {
	switch cmd.Cmd {
	case "stats":
		st := s.Stats()
		ans.Stats = &st
	case "inject":
		if cmd.Rule == nil {
			return fmt.Errorf("simgpu: inject without a rule")
		}
		return s.addRule(*cmd.Rule)
	case "clear":
		s.mu.Lock()
		s.rules = nil
		s.publishRules()
		s.mu.Unlock()
		for _, d := range s.devices {
			d.mu.Lock()
			d.limit = 0
			d.mu.Unlock()
		}
	case "memory":
		for _, d := range s.devices {
			d.mu.Lock()
			d.limit = cmd.Memory
			d.mu.Unlock()
		}
	case "fail":
		return s.failProcess(cmd.Pid, cmd.Code)
	default:
		return fmt.Errorf("simgpu: unknown command %q: stats, inject, clear, memory or fail", cmd.Cmd)
	}
	return nil
}

// failProcess makes an error sticky in every context of a process.
func (s *Server) failProcess(pid int, code uint32) error {
	if code == 0 {
		code = errLaunchFailed
	}
	s.mu.Lock()
	var hit []*client
	for c := range s.clients {
		if c.kind == wire.KindClient && c.pid == pid {
			hit = append(hit, c)
		}
	}
	s.mu.Unlock()
	if len(hit) == 0 {
		return fmt.Errorf("simgpu: no client has pid %d", pid)
	}
	for _, c := range hit {
		c.mu.Lock()
		for _, d := range c.contexts {
			d.fail(code)
		}
		c.mu.Unlock()
	}
	return nil
}
