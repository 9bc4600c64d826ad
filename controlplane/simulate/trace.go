package simulate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// line is one line of a trace: a request of a client. docs/sim.md has the format.
type line struct {
	Client string   `json:"client"`
	Class  string   `json:"class"`
	AtNs   int64    `json:"at_ns"`
	GapNs  int64    `json:"gap_ns"`
	Ops    []lineOp `json:"ops"`
}

type lineOp struct {
	Kernel  string `json:"kernel"`
	Blocks  int    `json:"blocks"`
	Threads int    `json:"threads"`
	Ns      int64  `json:"ns"`
	Times   int    `json:"times"`
	Lane    int    `json:"lane"`
	Alone   bool   `json:"alone"`
}

// Bounds of a trace.
const (
	maxLine      = 4 << 20
	maxTraceOps  = 2_000_000
	maxGap       = int64(time.Second)
	maxOpTime    = int64(time.Minute)
	defaultBlock = 128
)

// ParseTrace reads a trace: JSON lines, one a request, in any order. Clients come in the order in which the file names them.
func ParseTrace(name, text string) (*Scenario, error) {
	s := &Scenario{
		SchemaVersion: SchemaVersion, Name: path.Base(name), Loads: []float64{1}, Chip: H100(), Kernels: map[string]*Kernel{},
		Requests: map[string]*Request{},
	}
	if len(s.Name) > maxName {
		s.Name = s.Name[:maxName]
	}
	clients, numbers := map[string]*Client{}, map[string]int{}
	ops, last := 0, int64(0)
	scan := bufio.NewScanner(strings.NewReader(text))
	scan.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	for scan.Scan() {
		n++
		b := bytes.TrimSpace(scan.Bytes())
		if len(b) == 0 {
			continue
		}
		at := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %s", name, n, fmt.Sprintf(format, args...))
		}
		var l line
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			return nil, at("%v", err)
		}
		if _, err := d.Token(); err != io.EOF {
			return nil, at("more than one value on a line")
		}
		switch {
		case l.Client == "" || len(l.Client) > maxName || len(l.Class) > maxName:
			return nil, at("client: expected a name of 1 to %d bytes", maxName)
		case l.AtNs < 0 || l.AtNs > int64(MaxDuration):
			return nil, at("at_ns: expected 0 to %d, found %d", int64(MaxDuration), l.AtNs)
		case l.GapNs < 0 || l.GapNs > maxGap:
			return nil, at("gap_ns: expected 0 to %d, found %d", maxGap, l.GapNs)
		case len(l.Ops) == 0:
			return nil, at("ops: a request needs at least one")
		}
		c := clients[l.Client]
		if c == nil {
			if len(clients) == MaxClients {
				return nil, at("more than %d clients", MaxClients)
			}
			c = &Client{Name: l.Client, Class: l.Class, Label: l.Client, Count: 1, Burst: 1, Scale: 1, Arrivals: "trace"}
			clients[l.Client] = c
			s.Clients = append(s.Clients, c)
		}
		if c.Class != l.Class {
			return nil, at("client %q is of class %q before", l.Client, c.Class)
		}
		a := arrival{at: l.AtNs, gap: l.GapNs}
		for i, o := range l.Ops {
			if o.Times == 0 {
				o.Times = 1
			}
			if o.Threads == 0 {
				o.Threads = defaultBlock
			}
			switch {
			case o.Kernel == "" || len(o.Kernel) > 4096:
				return nil, at("ops[%d].kernel: expected a name of 1 to 4096 bytes", i)
			case o.Blocks < 1 || o.Blocks > 1<<31-1:
				return nil, at("ops[%d].blocks: expected 1 to %d, found %d", i, 1<<31-1, o.Blocks)
			case o.Threads < 1 || o.Threads > 1024:
				return nil, at("ops[%d].threads: expected 1 to 1024, found %d", i, o.Threads)
			case o.Ns < 1 || o.Ns > maxOpTime:
				return nil, at("ops[%d].ns: expected 1 to %d, found %d", i, maxOpTime, o.Ns)
			case o.Times < 1 || o.Times > MaxRequestOps-len(a.ops):
				return nil, at("ops[%d].times: a request holds 1 to %d ops", i, MaxRequestOps)
			case o.Lane < 0 || o.Lane >= MaxLanes:
				return nil, at("ops[%d].lane: expected 0 to %d, found %d", i, MaxLanes-1, o.Lane)
			}
			key := fmt.Sprintf("%s, %d blocks of %d, %v", o.Kernel, o.Blocks, o.Threads, o.Alone)
			k, ok := numbers[key]
			if !ok {
				if k = len(s.kernels); k == MaxKernels {
					return nil, at("more than %d kernels (a name with another grid is another)", MaxKernels)
				}
				numbers[key] = k
				s.names = append(s.names, o.Kernel)
				kernel := &Kernel{Blocks: o.Blocks, Threads: o.Threads, Registers: defaultRegisters, Time: Duration(o.Ns), Alone: o.Alone}
				s.Chip.measure(kernel)
				kernel.number = k
				s.kernels = append(s.kernels, kernel)
			}
			for range o.Times {
				a.ops = append(a.ops, planned{kernel: k, lane: o.Lane, ns: o.Ns})
			}
		}
		if ops += len(a.ops); ops > maxTraceOps {
			return nil, at("more than %d ops in all", maxTraceOps)
		}
		last = max(last, a.at)
		c.requests = append(c.requests, a)
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w (a line holds at most %d bytes)", name, n+1, err, maxLine)
	}
	if len(s.Clients) == 0 {
		return nil, fmt.Errorf("%s: no request in it; expected one JSON object a line", name)
	}
	for _, c := range s.Clients {
		slices.SortStableFunc(c.requests, func(a, b arrival) int {
			switch {
			case a.at < b.at:
				return -1
			case a.at > b.at:
				return 1
			}
			return 0
		})
	}
	s.Duration = Duration(last + 1)
	return s, nil
}
