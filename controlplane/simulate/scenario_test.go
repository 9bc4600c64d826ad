package simulate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/policy"
)

const good = `schema_version = 1
duration = "1ms"
[kernel.k]
blocks = 4
time = "2us"
[request.r]
steps = [{ kernel = "k" }]
[[client]]
request = "r"
`

// Mistakes are named, all at once, and nothing of such a scenario runs.
func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		old, new string
		want     []string
	}{
		{"schema_version = 1", "", []string{"schema_version"}},
		{`duration = "1ms"`, `duration = "-1s"`, []string{"duration: expected"}},
		{`duration = "1ms"`, `duration = 5`, []string{"test:2"}},
		{`duration = "1ms"`, `duration = "2h"`, []string{"duration: expected 1µs to 1h0m0s"}},
		{`duration = "1ms"`, "duration = \"1ms\"\nloads = [0, nan]", []string{"loads", "NaN"}},
		{"blocks = 4", "blocks = 0", []string{"kernel.k.blocks: expected 1"}},
		{"blocks = 4", "blokcs = 4", []string{"kernel.k.blokcs: unknown key", "kernel.k.blocks"}},
		{"blocks = 4", "blocks = 99999999999999999999", []string{"test:4"}},
		{"blocks = 4", "blocks = 4\nspread = nan", []string{"spread", "NaN"}},
		{`kernel = "k"`, `kernel = "x"`, []string{"there is no [kernel.x]"}},
		{`kernel = "k"`, `kernel = "k", times = 1000000`, []string{"times"}},
		{`kernel = "k"`, `kernel = "k", lane = -1`, []string{"lane"}},
		{`steps = [{ kernel = "k" }]`, `steps = []`, []string{"needs at least one"}},
		{`request = "r"`, `request = "x"`, []string{"there is no [request.x]"}},
		{`request = "r"`, "request = \"r\"\ncount = 10001", []string{"count"}},
		{`request = "r"`, "request = \"r\"\nrate = 5.0", []string{"closed loop"}},
		{`request = "r"`, "request = \"r\"\narrivals = \"poisson\"", []string{"rate"}},
		{`request = "r"`, "request = \"r\"\narrivals = \"poisson\"\nrate = inf", []string{"rate"}},
		{`request = "r"`, "request = \"r\"\narrivals = \"sometimes\"", []string{"arrivals"}},
		{"[[client]]\nrequest = \"r\"", "", []string{"[[client]]"}},
		{"[kernel.k]", "[chip]\nsms = 0\nstreams = 1000\n[kernel.k]", []string{"chip.sms", "chip.streams"}},
		{"[kernel.k]", "[kernel.k", []string{"test:4"}},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		_, err := Parse("test", text)
		if err == nil {
			t.Errorf("no mistake was found in\n%s", text)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q for %q; want %q", err, c.new, want)
			}
		}
	}
	sc := parse(t, strings.Replace(good, `request = "r"`, "request = \"r\"\nclass = \"gone\"", 1))
	if _, err := Run(sc, Options{Policy: policy.Default()}); err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("a class that is not there: %v", err)
	}
	long := strings.Replace(good, "1ms", "10s", 1)
	sc = parse(t, strings.Replace(long, `request = "r"`, "request = \"r\"\narrivals = \"poisson\"\nrate = 1e6\ncount = 10000", 1))
	if _, err := Run(sc, Options{Schedulers: []string{"fifo"}}); err == nil || !strings.Contains(err.Error(), "would arrive") {
		t.Errorf("more ops than can be simulated: %v", err)
	}
	for _, name := range []string{"no-such-scenario", "/dev/zero", t.TempDir()} {
		if _, err := Load(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The same of traces, with the line.
func TestTraceMistakes(t *testing.T) {
	const line = `{"client":"a","class":"c","at_ns":5,"ops":[{"kernel":"k","blocks":1,"ns":10}]}`
	for _, c := range []struct{ old, new, want string }{
		{`"client":"a"`, `"client":""`, "client"}, {`"at_ns":5`, `"at_ns":-5`, "at_ns"}, {`"at_ns":5`, `"at_ns":1e30`, "at_ns"},
		{`"at_ns":5`, `"at":5`, "unknown field"}, {`"blocks":1`, `"blocks":0`, "ops[0].blocks"}, {`"ns":10`, `"ns":0`, "ops[0].ns"},
		{`"ns":10`, `"ns":10,"times":1000000`, "times"}, {`"ns":10`, `"ns":10,"lane":99`, "lane"}, {`[{"kernel":"k","blocks":1,"ns":10}]`, `[]`, "ops"},
		{`"class":"c"`, `"class":"d"`, "is of class"}, {"}]}", "}]", "unexpected"}, {"}]}", "}]} {}", "more than one value"},
	} {
		_, err := ParseTrace("t", line+"\n"+strings.Replace(line, c.old, c.new, 1)+"\n")
		if err == nil || !strings.HasPrefix(err.Error(), "t:2: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.new, err, c.want)
		}
	}
	if _, err := ParseTrace("t", "\n\n"); err == nil {
		t.Error("a trace of nothing was taken")
	}
	if _, err := ParseTrace("t", "{"+strings.Repeat(" ", maxLine)); err == nil || !strings.Contains(err.Error(), "t:1") {
		t.Errorf("a line without an end: %v", err)
	}
}

// Whatever a file holds: an answer, and what is accepted can be set up.
func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add(trace)
	f.Add(strings.Replace(good, "1ms", "1ns", 1))
	f.Add("schema_version = 1\nclient = 5")
	files, err := filepath.Glob("builtin/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	p, err := BuiltinPolicy()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string, string) (*Scenario, error){Parse, ParseTrace} {
			sc, err := parse("fuzz", text)
			if err != nil {
				continue
			}
			clients := 0
			for _, c := range sc.Clients {
				clients += c.Count
			}
			if clients > 100 {
				continue // set up as well, but slower
			}
			for _, c := range sc.Clients {
				if p.Classes[c.Class] == nil {
					c.Class = policy.DefaultClass
				}
			}
			if _, err := newRun(sc, p, sc.Loads[0], 1); err != nil && !strings.Contains(err.Error(), "would arrive") {
				t.Fatalf("%v\n%s", err, text)
			}
		}
	})
}
