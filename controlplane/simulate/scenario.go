package simulate

import (
	"embed"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/heddle-gpu/heddle/controlplane/policy"
)

// SchemaVersion is the only value of a scenario's schema_version that is understood.
const SchemaVersion = 1

// Bounds of a scenario.
const (
	MaxFileBytes  = 64 << 20
	MaxClients    = 10_000
	MaxKernels    = 16_384     // a name with another grid is another
	MaxRequestOps = 16_384     // of one request
	MaxOps        = 20_000_000 // of all requests of one run
	MaxLanes      = 32         // of a client
	MaxDuration   = time.Hour
	maxLoads      = 64
	maxName       = 128
)

// Duration is a time in a scenario, written "20us", "1.5ms", "2s".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf(`expected a duration such as "20us" or "2s", found %.40q`, b)
	}
	*d = Duration(v)
	return nil
}

// Kernel is a kernel of the scenario.
type Kernel struct {
	Blocks    int      `toml:"blocks"`
	Threads   int      `toml:"threads"`   // of a block
	Registers int      `toml:"registers"` // of a thread
	Shared    int      `toml:"shared"`    // bytes a block
	Time      Duration `toml:"time"`      // alone on the chip
	Spread    float64  `toml:"spread"`    // each launch takes Time × (1 ± Spread), evenly
	Alone     bool     `toml:"alone"`     // it has no rewritten form, so it is never joined with others
	Packs     bool     `toml:"packs"`     // others that pack too can go in one launch with it, when they have as many threads

	need   float64 // the part of the chip's speed that it uses while it runs alone
	room   float64 // the part of the chip's places for blocks that it takes
	rounds float64 // how often its blocks fill those places
	number int     // its place in Scenario.kernels
}

// Interference is what one kernel does to another while both run, beyond what the places and the speed that they share do.
type Interference struct {
	Kernel string  `toml:"kernel"`
	Beside string  `toml:"beside"`
	Slows  float64 `toml:"slows"` // Kernel takes so many times as long
}

// Step is a part of a request.
type Step struct {
	Kernel string `toml:"kernel"`
	Times  int    `toml:"times"` // 1 when left out
	Lane   int    `toml:"lane"`  // the client's stream
}

// Client is a group of alike clients.
type Client struct {
	Name  string `toml:"name"`
	Count int    `toml:"count"`
	// Class, or what the policy's rules ask for.
	Class  string `toml:"class"`
	UID    uint32 `toml:"uid"`
	GID    uint32 `toml:"gid"`
	Exe    string `toml:"exe"`
	Cgroup string `toml:"cgroup"`
	Label  string `toml:"label"`

	Request  string   `toml:"request"`
	Arrivals string   `toml:"arrivals"` // closed, stream, poisson, bursty
	Rate     float64  `toml:"rate"`     // requests/s of one client at load 1
	Burst    int      `toml:"burst"`    // requests that arrive together
	Think    Duration `toml:"think"`    // closed: mean time from a request's end to the next
	Start    Duration `toml:"start"`    // when the client comes
	Queue    int      `toml:"queue"`    // ops that have not ended when its launches block; 0: only those that wait count
	Scale    float64  `toml:"scale"`    // its kernels take so many times as long

	requests []arrival // of a trace
}

// Request is what a client submits at a time and then waits for.
type Request struct {
	Gap   Duration `toml:"gap"` // the host's time between two launches
	Steps []Step   `toml:"steps"`

	template []planned
	lanes    int
}

// planned is one op of a request.
type planned struct {
	kernel int
	lane   int
	ns     int64 // 0: the kernel's
}

// arrival is a request of a trace.
type arrival struct {
	at  int64
	gap int64
	ops []planned
}

// Scenario is clients, what they launch, when, and on which chip.
type Scenario struct {
	SchemaVersion int                 `toml:"schema_version"`
	Name          string              `toml:"name"`
	About         string              `toml:"about"`
	Duration      Duration            `toml:"duration"`
	Loads         []float64           `toml:"loads"` // rates are multiplied with each of them in turn
	Chip          Chip                `toml:"chip"`
	Kernels       map[string]*Kernel  `toml:"kernel"`
	Requests      map[string]*Request `toml:"request"`
	Clients       []*Client           `toml:"client"`
	Interferences []*Interference     `toml:"interference"`
	// Blind: heddle's scheduler learns nothing of who slows whom, for comparison.
	Blind bool `toml:"blind"`
	// Gather and Ahead are HEDDLE_GATHER and HEDDLE_AHEAD of heddle's executor; 0: not set.
	Gather Duration `toml:"gather"`
	Ahead  Duration `toml:"ahead"`

	names   []string // of kernels, sorted: a kernel's number is its place
	kernels []*Kernel
	slows   map[[2]int]float64 // by kernel and the one beside it: what Slows has beyond 1
}

//go:embed builtin/*.toml
var builtin embed.FS

// Builtin lists the scenarios that need no file.
func Builtin() []string {
	entries, err := builtin.ReadDir("builtin")
	if err != nil {
		panic(err) // embedded above
	}
	var out []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".toml"); name != "policy" {
			out = append(out, name)
		}
	}
	return out
}

// BuiltinPolicy is the policy that builtin scenarios are run with when no other is given.
func BuiltinPolicy() (*policy.Policy, error) {
	b, err := builtin.ReadFile("builtin/policy.toml")
	if err != nil {
		return nil, err
	}
	return policy.Parse([]policy.File{{Name: "builtin policy", Text: string(b)}})
}

// Load reads a builtin scenario by its name, or a file: a scenario in TOML, or a trace when its first byte is '{'.
func Load(name string) (*Scenario, error) {
	if slices.Contains(Builtin(), name) {
		b, err := builtin.ReadFile(path.Join("builtin", name+".toml"))
		if err != nil {
			return nil, err
		}
		return Parse(name, string(b))
	}
	text, err := policy.ReadFile(name, MaxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("scenario %s: no such file, and no builtin scenario: those are %s", name, strings.Join(Builtin(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("scenario %w", err)
	}
	if strings.HasPrefix(strings.TrimSpace(text[:min(len(text), 64)]), "{") {
		return ParseTrace(name, text)
	}
	return Parse(name, text)
}

// LoadTrace reads a trace.
func LoadTrace(name string) (*Scenario, error) {
	text, err := policy.ReadFile(name, MaxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return ParseTrace(name, text)
}

// Parse reads a scenario in TOML. The error names every mistake.
func Parse(name, text string) (*Scenario, error) {
	s := &Scenario{Chip: H100()}
	meta, err := toml.Decode(text, s)
	if err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			what := strings.TrimSpace(parse.Message + " " + parse.LastKey)
			return nil, fmt.Errorf("%s:%d:%d: %s", name, parse.Position.Line, max(1, parse.Position.Col), what)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var p problems
	for _, k := range meta.Undecoded() {
		p.add("%s: unknown key (docs/sim.md lists them)", k)
	}
	if s.SchemaVersion != SchemaVersion {
		p.add("schema_version: expected %d, found %d", SchemaVersion, s.SchemaVersion)
	}
	if s.Name == "" {
		s.Name = strings.TrimSuffix(path.Base(name), ".toml")
	}
	s.check(&p)
	return s, p.error(name)
}

// problems collects mistakes.
type problems []string

const maxProblems = 50

func (p *problems) add(format string, args ...any) {
	if len(*p) <= maxProblems {
		*p = append(*p, fmt.Sprintf(format, args...))
	}
}

func (p problems) error(name string) error {
	if len(p) == 0 {
		return nil
	}
	lines := make([]string, len(p))
	for i, what := range p {
		lines[i] = name + ": " + what
	}
	if len(p) > maxProblems {
		lines[maxProblems] = name + ": and more"
	}
	return errors.New(strings.Join(lines, "\n"))
}

// within reports a number out of bounds; NaN is.
func within[N int | int64 | float64](p *problems, key string, v, least, most N) {
	if !(v >= least && v <= most) {
		p.add("%s: expected %v to %v, found %v", key, least, most, v)
	}
}

func (p *problems) duration(key string, d Duration, least, most time.Duration) {
	if v := time.Duration(d); v < least || v > most {
		p.add("%s: expected %v to %v, found %v", key, least, most, v)
	}
}

// defaults of a kernel.
const (
	defaultThreads   = 128
	defaultRegisters = 32
)

// check fills defaults, numbers the kernels, unrolls the requests, and finds what is wrong.
func (s *Scenario) check(p *problems) {
	if len(s.Name) > maxName {
		p.add("name: longer than %d bytes", maxName)
	}
	p.duration("duration", s.Duration, time.Microsecond, MaxDuration)
	p.duration("gather", s.Gather, 0, time.Second)
	p.duration("ahead", s.Ahead, 0, time.Second)
	if len(s.Loads) == 0 {
		s.Loads = []float64{1}
	}
	if len(s.Loads) > maxLoads {
		p.add("loads: more than %d", maxLoads)
	}
	for _, l := range s.Loads {
		within(p, "loads", l, 1e-6, 1e6)
	}
	s.Chip.check(p)
	if len(s.Kernels) > MaxKernels {
		p.add("kernel: more than %d", MaxKernels)
		return
	}
	for name := range s.Kernels {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	for _, name := range s.names {
		k, key := s.Kernels[name], "kernel."+name
		if k.Threads == 0 {
			k.Threads = defaultThreads
		}
		if k.Registers == 0 {
			k.Registers = defaultRegisters
		}
		within(p, key+".blocks", k.Blocks, 1, math.MaxInt32)
		within(p, key+".threads", k.Threads, 1, 1024)
		within(p, key+".registers", k.Registers, 1, 255)
		within(p, key+".shared", k.Shared, 0, 1<<20)
		p.duration(key+".time", k.Time, time.Nanosecond, time.Minute)
		within(p, key+".spread", k.Spread, 0, 1)
		if len(*p) == 0 {
			s.Chip.measure(k)
		}
		k.number = len(s.kernels)
		s.kernels = append(s.kernels, k)
	}
	s.interferences(p)
	for _, name := range sorted(s.Requests) {
		s.unroll(p, "request."+name, s.Requests[name])
	}
	total := 0
	for i, c := range s.Clients {
		s.client(p, fmt.Sprintf("client[%d]", i), c)
		total += max(c.Count, 0)
		if total > MaxClients {
			p.add("client: more than %d clients", MaxClients)
			return
		}
	}
	if total == 0 {
		p.add("client: there is none; write [[client]]")
	}
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// interferences checks who slows whom.
func (s *Scenario) interferences(p *problems) {
	if len(s.Interferences) > 0 {
		s.slows = map[[2]int]float64{}
	}
	for i, x := range s.Interferences {
		key := fmt.Sprintf("interference[%d]", i)
		a, okA := slices.BinarySearch(s.names, x.Kernel)
		b, okB := slices.BinarySearch(s.names, x.Beside)
		if !okA || !okB {
			p.add("%s: there is no [kernel.%s] or no [kernel.%s]", key, x.Kernel, x.Beside)
			continue
		}
		within(p, key+".slows", x.Slows, 1, 100)
		s.slows[[2]int{a, b}] = x.Slows - 1
	}
}

func (s *Scenario) unroll(p *problems, key string, r *Request) {
	p.duration(key+".gap", r.Gap, 0, time.Second)
	if len(r.Steps) == 0 {
		p.add("%s.steps: a request needs at least one", key)
	}
	for i, step := range r.Steps {
		at := fmt.Sprintf("%s.steps[%d]", key, i)
		n, ok := slices.BinarySearch(s.names, step.Kernel)
		if !ok {
			p.add("%s.kernel: there is no [kernel.%s]", at, step.Kernel)
		}
		if step.Times == 0 {
			step.Times = 1
		}
		if step.Times < 1 || step.Times > MaxRequestOps-len(r.template) {
			p.add("%s.times: a request holds 1 to %d ops", at, MaxRequestOps)
			return
		}
		if step.Lane < 0 || step.Lane >= MaxLanes {
			p.add("%s.lane: expected 0 to %d, found %d", at, MaxLanes-1, step.Lane)
			return
		}
		r.lanes = max(r.lanes, step.Lane+1)
		for range step.Times {
			r.template = append(r.template, planned{kernel: n, lane: step.Lane})
		}
	}
}

func (s *Scenario) client(p *problems, key string, c *Client) {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Count, 1)
	set(&c.Burst, 1)
	if c.Scale == 0 {
		c.Scale = 1
	}
	if c.Arrivals == "" {
		c.Arrivals = "closed"
	}
	within(p, key+".count", c.Count, 1, MaxClients)
	within(p, key+".burst", c.Burst, 1, 10_000)
	within(p, key+".scale", c.Scale, 1e-3, 1e3)
	within(p, key+".queue", c.Queue, 0, 1<<16)
	p.duration(key+".think", c.Think, 0, time.Hour)
	p.duration(key+".start", c.Start, 0, time.Hour)
	switch c.Arrivals {
	case "closed":
		if c.Rate != 0 {
			p.add("%s.rate: a closed loop has none; use think", key)
		}
	case "stream":
		if c.Rate != 0 || c.Think != 0 {
			p.add("%s: a stream has neither rate nor think; it submits as fast as it can", key)
		}
	case "poisson", "bursty":
		within(p, key+".rate", c.Rate, 1e-6, 1e6)
		if c.Think != 0 {
			p.add("%s.think: only a closed loop thinks; use rate", key)
		}
	default:
		p.add(`%s.arrivals: expected "closed", "stream", "poisson" or "bursty", found %.40q`, key, c.Arrivals)
	}
	if s.Requests[c.Request] == nil {
		p.add("%s.request: there is no [request.%s]", key, c.Request)
	}
	if len(c.Name)+len(c.Class)+len(c.Label) > 3*maxName {
		p.add("%s: a name is longer than %d bytes", key, maxName)
	}
}
