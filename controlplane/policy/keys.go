package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Live says when a changed key is in force.
type Live string

// The ways a key takes effect.
const (
	Now       Live = "live"        // for ops that are issued from then on
	NewClient Live = "new clients" // for clients that connect from then on
)

// Key is one key of a section of type S.
type Key[S any] struct {
	Name    string
	Unit    string // how its value is written
	Default string // in TOML; "" for keys that may be left out altogether
	Live    Live
	Doc     string
	set     func(*S, any) error
	get     func(*S) string // in TOML; "" when not set
}

// reset gives a section the key's default.
func (k *Key[S]) reset(s *S) {
	if k.Default == "" {
		return
	}
	if err := k.set(s, literal(k.Default)); err != nil {
		panic(fmt.Sprintf("policy: the default of %s: %v", k.Name, err)) // a test sets every default
	}
}

// Value is the key's value in TOML, "" when it is not set.
func (k *Key[S]) Value(s *S) string { return k.get(s) }

// literal reads a default: it is one of ours, not an admin's.
func literal(s string) any {
	var i int64
	var f float64
	switch {
	case s == "true" || s == "false":
		return s == "true"
	case strings.HasPrefix(s, `"`):
		return strings.Trim(s, `"`)
	case strings.Contains(s, "."):
		fmt.Sscan(s, &f)
		return f
	}
	fmt.Sscan(s, &i)
	return i
}

// DaemonKeys is the schema of [daemon].
var DaemonKeys = []Key[Daemon]{
	choice("share", NewClient, "same-uid", []string{"same-uid", "any"},
		"Who may share an executor, and so an address space: only processes of one user, or any. SECURITY.md says what `any` gives up.",
		func(d *Daemon) *string { return &d.Share }),
	text("default_class", NewClient, DefaultClass, "The class of clients that no `[[match]]` selects.", func(d *Daemon) *string { return &d.DefaultClass }),
	duration("max_kernel_time", NewClient, "0s", 0, time.Hour,
		"A stream that completes nothing for so long ends its executor, which is replaced; `0s` is never. Graphs in flight have twice what they took before on top.", func(d *Daemon) *time.Duration { return &d.MaxKernelTime }),
	boolean("coalesce", Now, true, "`false`: no op is ever joined with another, whatever the classes say.", func(d *Daemon) *bool { return &d.Coalesce }),
}

// ClassKeys is the schema of [class.NAME].
var ClassKeys = []Key[Class]{
	duration("latency_p99", Now, "0s", 0, time.Hour, "The objective: 99 % of requests are to take no longer. `0s` is none.",
		func(c *Class) *time.Duration { return &c.LatencyP99 }),
	integer("priority", Now, 0, -1000, 1000, "Larger goes first. Classes of equal priority are ordered by slack.", func(c *Class) *int64 { return &c.Priority }),
	duration("max_queue_delay", Now, "20us", 0, time.Second, "How long an op may be held back because partners to join it with are expected. While the executor's driver calls lag behind, ops of a client without an objective also wait for the rest of what it repeats: at most 8 times as long for the next one, and as long each (150 and 640 µs at most). `0s`: never.",
		func(c *Class) *time.Duration { return &c.MaxQueueDelay }),
	duration("max_wait", Now, "0s", 0, time.Minute,
		"How long an op may wait for less urgent work to leave the chip: no more of that is in flight, while a request is under way nothing longer begins or goes on, and while it has a CUDA graph in flight, each of whose kernels would wait, nothing begins at all. Longer kernels go in slices of their blocks of half of it, where a rewritten kernel can be had ([coalescing.md](coalescing.md#slices)); of others it holds for what begins, and what has begun keeps an op waiting for about as long as one of its blocks takes: the GPU places the blocks of classes of larger priority first as others end. `0s`: 200 µs in flight below a class with an objective, else no bound.",
		func(c *Class) *time.Duration { return &c.MaxWait }),
	boolean("coalesce", Now, true, "`false`: its ops are ordered, and never joined with others.", func(c *Class) *bool { return &c.Coalesce }),
	choice("numerics", Now, "bitwise", []string{"bitwise"},
		"Every result equals the native one bit for bit. It is the only value.",
		func(c *Class) *string { return &c.Numerics }),
	fraction("min_share", Now, 0, "The share of GPU time that the class gets at least while it has work, in every second. When it is owed more than 1 ms, ops of classes of equal or larger priority wait until it is owed half of that: so it delays them by about 1 ms, or by one of its ops where that takes longer. A class that had more than its share counts as ahead by its share of a tenth of a second at most, so a burst of more urgent work is not stopped in its middle. Where all classes' shares come to more than 1, each counts for its part of the sum.", func(c *Class) *float64 { return &c.MinShare }),
	share("partition", Now,
		"The part of the GPU's multiprocessors on which the class's kernels run while a class of larger priority is active, that is, had work within the last 100 ms; absent: all. For long kernels that cannot be sliced: the more urgent class finds the rest free, so such kernels begin however long they take, except while it has a CUDA graph in flight. The driver rounds up (to a multiple of 8 on an H100 or H200), at most 3 sizes are in use at a time (others take the nearest; a limited straggler's quarter is one of them), and what is in flight when the other class begins ends where it is. CUDA graphs run on all multiprocessors as before, and so do kernels that the driver refuses on a part, as it does large clusters: `heddle explain CLIENT` counts both. It divides neither memory nor caches, and a kernel whose blocks wait for each other without a cooperative launch must fit. Needs driver 555 or later, of CUDA 12.5; without, the key has no effect, and `heddle ps` shows no part.",
		func(c *Class) *float64 { return &c.Partition }),
	integer("max_queue_size", Now, 0, 0, 1<<20, "How many ops a client may have waiting before its launches block. 0 is as many as its ring holds.",
		func(c *Class) *int64 { return &c.MaxQueueSize }),
	choice("timeout_action", Now, "keep", []string{"keep", "delay"},
		"A request that has missed its objective keeps its urgency (except beside requests a third as long or shorter: what cannot meet its objective any more waits for them), or is delayed behind those that can still meet theirs. (Launches cannot be rejected: the program has been told that they succeeded.)",
		func(c *Class) *string { return &c.TimeoutAction }),
	choice("straggler", Now, "evict", []string{"evict", "own-context", "tolerate"},
		"A client whose ops take `straggler_factor` times as long as they should (as the same kernel and grid do for others, or did for itself), or which makes launches late that it shares: it is taken out of shared launches, then limited to one op of each of its streams at a time, in a class with `partition` on a quarter of the multiprocessors, if it still slows others, and comes back, a step at a time, when it behaves. `own-context`: if that does not help, its kernels, memsets and device copies run for a while in its own process's context, taking turns with the executor as processes do without Heddle; the time slices of that can cost the others more than they win, so measure it. `tolerate`: nothing of this.",
		func(c *Class) *string { return &c.Straggler }),
	number("straggler_factor", Now, 3, 1.5, 1000, "From how many times the usual time on a client is a straggler. Ops that take less than 20 µs longer than usual make nobody one.",
		func(c *Class) *float64 { return &c.StragglerFactor }),
	integers("allow_uid", NewClient, "Users that `label` and `exe` rules may put into this class. Without both allow keys only rules with `uid`, `gid` or `cgroup` can.",
		func(c *Class) *[]int64 { return &c.AllowUID }),
	globs("allow_cgroup", NewClient, "Control groups (cgroup v2 paths; `*` stops at `/`, `**` does not) whose clients `label` and `exe` rules may put into this class.",
		func(c *Class) *[]string { return &c.AllowCgroup }),
}

// MatchKeys is the schema of [[match]].
var MatchKeys = []Key[Match]{
	text("class", NewClient, "", "The class of clients that all other keys of this rule fit.", func(m *Match) *string { return &m.Class }),
	id("uid", "The user's number.", func(m *Match) **int64 { return &m.UID }),
	id("gid", "The group's number.", func(m *Match) **int64 { return &m.GID }),
	glob("exe", "The program's path. The client's own choice: see `allow_uid`.", func(m *Match) *string { return &m.Exe }),
	glob("cgroup", "The path of the client's control group (cgroup v2), so Kubernetes pods and systemd units.", func(m *Match) *string { return &m.Cgroup }),
	glob("label", "HEDDLE_LABEL of the client. The client's own choice: see `allow_uid`.", func(m *Match) *string { return &m.Label }),
}

func expected(want string, v any) error { return fmt.Errorf("expected %s, found %s", want, shown(v)) }

// shown prints a decoded value as the file has it, cut when it is long.
func shown(v any) string {
	s := fmt.Sprint(v)
	if t, ok := v.(string); ok {
		s = fmt.Sprintf("%q", t)
	}
	if len(s) > 60 {
		s = s[:57] + "…"
	}
	return s
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprintf("%q", s)
}

func text[S any](name string, live Live, def, doc string, field func(*S) *string) Key[S] {
	return Key[S]{name, "text", quoted(def), live, doc, func(s *S, v any) error {
		t, ok := v.(string)
		if !ok || t == "" || len(t) > 256 {
			return expected("a text of 1 to 256 bytes", v)
		}
		*field(s) = t
		return nil
	}, func(s *S) string { return quoted(*field(s)) }}
}

func choice[S any](name string, live Live, def string, of []string, doc string, field func(*S) *string) Key[S] {
	return Key[S]{name, "`" + strings.Join(of, "` or `") + "`", quoted(def), live, doc, func(s *S, v any) error {
		t, ok := v.(string)
		if !ok || !slices.Contains(of, t) {
			err := expected(fmt.Sprintf("one of %q", of), v)
			if near := nearest(t, of); near != "" {
				err = fmt.Errorf("%w; did you mean %q?", err, near)
			}
			return err
		}
		*field(s) = t
		return nil
	}, func(s *S) string { return quoted(*field(s)) }}
}

func boolean[S any](name string, live Live, def bool, doc string, field func(*S) *bool) Key[S] {
	return Key[S]{name, "`true` or `false`", fmt.Sprint(def), live, doc, func(s *S, v any) error {
		b, ok := v.(bool)
		if !ok {
			return expected("true or false", v)
		}
		*field(s) = b
		return nil
	}, func(s *S) string { return fmt.Sprint(*field(s)) }}
}

func integer[S any](name string, live Live, def, least, most int64, doc string, field func(*S) *int64) Key[S] {
	return Key[S]{name, fmt.Sprintf("number, %d to %d", least, most), fmt.Sprint(def), live, doc, func(s *S, v any) error {
		n, ok := v.(int64)
		if !ok || n < least || n > most {
			return expected(fmt.Sprintf("a whole number from %d to %d", least, most), v)
		}
		*field(s) = n
		return nil
	}, func(s *S) string { return fmt.Sprint(*field(s)) }}
}

func fraction[S any](name string, live Live, def float64, doc string, field func(*S) *float64) Key[S] {
	return number(name, live, def, 0, 1, doc, field)
}

// share is a part of a whole that is neither nothing nor all of it; it has no default.
func share[S any](name string, live Live, doc string, field func(*S) *float64) Key[S] {
	return Key[S]{name, "number between 0 and 1", "", live, doc, func(s *S, v any) error {
		f, ok := v.(float64)
		if !ok || !(f > 0 && f < 1) {
			return expected("a number larger than 0 and smaller than 1, such as 0.5 (leave the key out for all)", v)
		}
		*field(s) = f
		return nil
	}, func(s *S) string {
		if f := *field(s); f > 0 {
			return fmt.Sprint(f)
		}
		return ""
	}}
}

func number[S any](name string, live Live, def, least, most float64, doc string, field func(*S) *float64) Key[S] {
	return Key[S]{name, fmt.Sprintf("number, %v to %v", least, most), fmt.Sprintf("%.1f", def), live, doc, func(s *S, v any) error {
		f, ok := v.(float64)
		if n, whole := v.(int64); whole {
			f, ok = float64(n), true
		}
		if !ok || math.IsNaN(f) || f < least || f > most {
			return expected(fmt.Sprintf("a number from %v to %v", least, most), v)
		}
		*field(s) = f
		return nil
	}, func(s *S) string { return fmt.Sprint(*field(s)) }}
}

func duration[S any](name string, live Live, def string, least, most time.Duration, doc string, field func(*S) *time.Duration) Key[S] {
	return Key[S]{name, "duration such as `300us`, `20ms`, `2s`", quoted(def), live, doc, func(s *S, v any) error {
		t, ok := v.(string)
		d, err := time.ParseDuration(t)
		if !ok || err != nil || d < least || d > most {
			return expected(fmt.Sprintf(`a duration from %v to %v in quotes, such as "300us", "20ms" or "2s"`, least, most), v)
		}
		*field(s) = d
		return nil
	}, func(s *S) string { return quoted((*field(s)).String()) }}
}

func id(name, doc string, field func(*Match) **int64) Key[Match] {
	return Key[Match]{name, "number", "", NewClient, doc, func(m *Match, v any) error {
		n, ok := v.(int64)
		if !ok || n < 0 || n > math.MaxUint32-1 {
			return expected("a user or group number", v)
		}
		*field(m) = &n
		return nil
	}, func(m *Match) string {
		if p := *field(m); p != nil {
			return fmt.Sprint(*p)
		}
		return ""
	}}
}

const globUnit = "pattern: `*` stops at `/`, `**` does not, `?` is one character"

func glob(name, doc string, field func(*Match) *string) Key[Match] {
	return Key[Match]{name, globUnit, "", NewClient, doc, func(m *Match, v any) error {
		t, ok := v.(string)
		if !ok || t == "" || len(t) > 4096 {
			return expected("a pattern in quotes", v)
		}
		*field(m) = t
		return nil
	}, func(m *Match) string { return quoted(*field(m)) }}
}

// list reads an array whose elements f takes.
func list(v any, want string, f func(any) bool) error {
	a, ok := v.([]any)
	if !ok || len(a) > 1024 {
		return expected("an array of at most 1024 "+want, v)
	}
	for _, e := range a {
		if !f(e) {
			return expected("an array of "+want, v)
		}
	}
	return nil
}

func integers(name string, live Live, doc string, field func(*Class) *[]int64) Key[Class] {
	return Key[Class]{name, "array of numbers", "", live, doc, func(c *Class, v any) error {
		var out []int64
		err := list(v, "user numbers", func(e any) bool {
			n, ok := e.(int64)
			out = append(out, n)
			return ok && n >= 0 && n < math.MaxUint32
		})
		if err == nil {
			*field(c) = out
		}
		return err
	}, func(c *Class) string { return array(*field(c), func(n int64) string { return fmt.Sprint(n) }) }}
}

func globs(name string, live Live, doc string, field func(*Class) *[]string) Key[Class] {
	return Key[Class]{name, "array of patterns", "", live, doc, func(c *Class, v any) error {
		var out []string
		err := list(v, "patterns in quotes", func(e any) bool {
			t, ok := e.(string)
			out = append(out, t)
			return ok && t != "" && len(t) <= 4096
		})
		if err == nil {
			*field(c) = out
		}
		return err
	}, func(c *Class) string { return array(*field(c), quoted) }}
}

func array[T any](a []T, f func(T) string) string {
	if a == nil {
		return ""
	}
	out := make([]string, len(a))
	for i, e := range a {
		out[i] = f(e)
	}
	return "[" + strings.Join(out, ", ") + "]"
}
