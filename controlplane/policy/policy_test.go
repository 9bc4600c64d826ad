package policy

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

//go:generate go test -run ^TestDocs$ -update
var update = flag.Bool("update", false, "rewrite docs/policy.md")

const example = `schema_version = 1
[class.interactive]
latency_p99 = "20ms"          # the objective, per request
priority = 100
max_queue_delay = "300us"
coalesce = true
numerics = "bitwise"
allow_uid = [1000, 1001]
[class.batch]
priority = 0
min_share = 0.10
[daemon]
share = "same-uid"
[[match]]
class = "interactive"
uid = 1000
exe = "/usr/bin/python3*"
cgroup = "/kubepods/**"
[[match]]
class = "interactive"
label = "resnet-*"
[[match]]
class = "batch"
`

func parse(t *testing.T, texts ...string) (*Policy, error) {
	t.Helper()
	var files []File
	for i, text := range texts {
		files = append(files, File{fmt.Sprintf("f%d", i), text})
	}
	return Parse(files)
}

func TestExample(t *testing.T) {
	p, err := parse(t, example)
	if err != nil {
		t.Fatal(err)
	}
	c := p.Classes["interactive"]
	if c.LatencyP99 != 20*time.Millisecond || c.Priority != 100 || c.MaxQueueDelay != 300*time.Microsecond || !c.Coalesce || c.Numerics != "bitwise" {
		t.Errorf("class interactive: %+v", c)
	}
	if at, ok := c.Origin("priority"); !ok || at != (Pos{"f0", 4, 1}) {
		t.Errorf("priority was set at %v, %v", at, ok)
	}
	if _, ok := c.Origin("min_share"); ok {
		t.Error("min_share has an origin, though it is a default")
	}
	for _, tt := range []struct {
		client Client
		want   string
	}{
		{Client{UID: 1000, Exe: "/usr/bin/python3.12", Cgroup: "/kubepods/a/b"}, "interactive"},
		{Client{UID: 1000, Exe: "/usr/bin/perl", Cgroup: "/kubepods/a"}, "batch"},
		{Client{UID: 1001, Label: "resnet-50"}, "interactive"},
		{Client{UID: 2000, Label: "resnet-50"}, "batch"}, // what a client chooses itself never promotes it
	} {
		if got := p.Select(tt.client, false); got.Class.Name != tt.want {
			t.Errorf("%+v: class %q, expected %q; %v", tt.client, got.Class.Name, tt.want, p.Select(tt.client, true).Steps)
		}
	}
	s := p.Select(Client{UID: 2000, Label: "resnet-50"}, true)
	if len(s.Steps) != 3 || !strings.Contains(s.Steps[1], "allows neither uid 2000") || !strings.Contains(s.Steps[2], "applies") {
		t.Errorf("explanation: %q", s.Steps)
	}
}

func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		texts []string
		want  []string // each a line of the error, in order
	}{
		"syntax":  {[]string{"schema_version = 1\n[class.a\npriority=1"}, []string{"end table name"}},
		"version": {[]string{"schema_version = 2"}, []string{"f0:1:1: schema_version: 2 is not understood"}},
		"none":    {[]string{"[daemon]\n"}, []string{"f0: schema_version: missing"}},
		"several at once": {[]string{`schema_version = 1
[class.a]
latency_p9 = "1s"
priority = "high"
min_share = 2
[demon]
[[match]]
class = "b"
uid = 1`}, []string{
			`f0:3:1: class.a.latency_p9: unknown key; did you mean "latency_p99"?`,
			`f0:4:1: class.a.priority: expected a whole number from -1000 to 1000, found "high"`,
			`f0:5:1: class.a.min_share: expected a number from 0 to 1, found 2`,
			`f0:6:1: demon: unknown key; did you mean "daemon"?`,
			`f0:8:1: match.class: there is no class "b"; did you mean "a"?`,
		}},
		"duration": {[]string{"schema_version = 1\n[class.a]\nlatency_p99 = 20"}, []string{`f0:3:1: class.a.latency_p99: expected a duration from 0s to 1h0m0s in quotes`}},
		"choice":   {[]string{"schema_version = 1\n[daemon]\nshare = \"sameuid\""}, []string{`did you mean "same-uid"?`}},
		"partition": {[]string{"schema_version = 1\n[class.a]\npartition = 1\n[class.b]\npartition = 0.0\n[class.c]\npartition = \"half\"\n[class.d]\npartition = nan\n[class.e]\npartition = 0.5"}, []string{
			"f0:3:1: class.a.partition: expected a number larger than 0 and smaller than 1, such as 0.5 (leave the key out for all), found 1",
			"f0:5:1: class.b.partition: expected a number larger", "f0:7:1: class.c.partition: expected a number larger", "f0:9:1: class.d.partition: expected a number larger"}},
		"shares":    {[]string{"schema_version = 1\n[class.a]\nmin_share = 0.6\n[class.b]\nmin_share = 0.5"}, []string{"f0:5:1: min_share: the min_share of all classes add up to 1.1"}},
		"objective": {[]string{"schema_version = 1\n[class.a]\nlatency_p99 = \"1ms\"\nmax_wait = \"2ms\""}, []string{"f0:4:1: class.a.max_wait: 2ms is no shorter than latency_p99, 1ms"}},
		"label only": {[]string{"schema_version = 1\n[class.a]\n[[match]]\nclass = \"a\"\nlabel = \"x\""},
			[]string{"f0:3:1: match: label and exe are the client's own choice"}},
		"twice":     {[]string{"schema_version = 1\n[class.a]\n[[match]]\nclass = \"a\"\nuid = 1\n[[match]]\nclass = \"default\"\nuid = 1"}, []string{"f0:6:1: match: never reached: the rule at f0:3 has the same conditions"}},
		"catch-all": {[]string{"schema_version = 1\n[class.a]\n[[match]]\nclass = \"a\"\n[[match]]\nclass = \"a\"\nuid = 1"}, []string{"f0:5:1: match: never reached: the rule at f0:3 has no condition"}},
		"no class":  {[]string{"schema_version = 1\n[[match]]\nuid = 1"}, []string{"f0:2:1: match: missing key class"}},
		"one table": {[]string{"schema_version = 1\n[match]\nuid = 1"}, []string{"f0:2:1: match: expected [[match]]"}},
		"two files": {[]string{"schema_version = 1\n[class.a]\nx = 1", "schema_version = 1\n[class.a]\ny = 1"}, []string{"f0:3:1: class.a.x: unknown", "f1:3:1: class.a.y: unknown"}},
		"default":   {[]string{"schema_version = 1\n[daemon]\ndefault_class = \"nobody\""}, []string{"f0:3:1: daemon.default_class: there is no class"}},
		"name":      {[]string{"schema_version = 1\n[class.\"a b\"]"}, []string{"class.a b: a class is named by"}},
		"inline":    {[]string{"schema_version = 1\nclass = { a = { priority = 1, prio = 2 } }"}, []string{"f0:2:31: class.a.prio: unknown key"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, tt.texts...)
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error %v", err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Errorf("%d problems, expected %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, w := range tt.want {
				if i < len(lines) && !strings.Contains(lines[i], w) {
					t.Errorf("problem %d: %s\nexpected %s", i, lines[i], w)
				}
			}
		})
	}
}

func TestDropIns(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.toml")
	if p, err := Load(path); err != nil || len(p.Classes) != 1 || p.Select(Client{}, false).Class.Name != DefaultClass {
		t.Fatalf("without files: %+v, %v", p, err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("policy.toml", "schema_version = 1\n[class.a]\npriority = 1\nlatency_p99 = \"1s\"\n[[match]]\nclass = \"a\"\nuid = 5")
	write("policy.d/20.toml", "schema_version = 1\n[class.a]\npriority = 3")
	write("policy.d/10.toml", "schema_version = 1\n[class.a]\npriority = 2\n[class.b]\n[[match]]\nclass = \"b\"\nuid = 5\ngid = 6")
	write("policy.d/README", "not read")
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a := p.Classes["a"]
	if at, _ := a.Origin("priority"); a.Priority != 3 || filepath.Base(at.File) != "20.toml" || a.LatencyP99 != time.Second {
		t.Errorf("class a: priority %d from %v", a.Priority, at)
	}
	if c := p.Select(Client{UID: 5, GID: 6}, false).Class; c.Name != "b" {
		t.Errorf("the drop-in's rule is not tried first: class %q", c.Name)
	}
	// What Show prints is the same policy again.
	again, err := Parse([]File{{"shown", p.Show(true)}})
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Show(true))
	}
	if d := Diff(p, again); len(d) != 0 {
		t.Errorf("shown and read again: %v", d)
	}
	if !strings.Contains(p.Show(true), "20.toml:3") {
		t.Errorf("no origin in\n%s", p.Show(true))
	}
	if err := os.Remove(filepath.Join(dir, "policy.d/20.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "policy.d/20.toml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a folder named like a policy: %v", err)
	}
}

func TestDiff(t *testing.T) {
	old, err := parse(t, example)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(strings.Replace(example, "priority = 100", "priority = 50", 1), "[class.batch]", "[class.slow]\nmax_wait = \"1ms\"\n[class.batch]", 1)
	now, err := parse(t, changed)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range Diff(old, now) {
		got = append(got, c.String())
	}
	want := "class.interactive.priority: 100 → 50 (live)|class.slow: – → added (new clients)|class.slow.max_wait: \"0s\" → \"1ms\" (live)"
	if strings.Join(got, "|") != want {
		t.Errorf("%q\nexpected %q", strings.Join(got, "|"), want)
	}
	if d := Diff(old, old); len(d) != 0 {
		t.Errorf("a policy differs from itself: %v", d)
	}
}

// TestGlob compares with a matcher that tries everything.
func TestGlob(t *testing.T) {
	var slow func(p, s string) bool
	slow = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case strings.HasPrefix(p, "**"):
			return slow(p[2:], s) || (s != "" && slow(p, s[1:]))
		case p[0] == '*':
			return slow(p[1:], s) || (s != "" && s[0] != '/' && slow(p, s[1:]))
		case s == "":
			return false
		}
		return (p[0] == s[0] || (p[0] == '?' && s[0] != '/')) && slow(p[1:], s[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringOfN(rapid.RuneFrom([]rune("ab/*?")), 0, 8, -1).Draw(t, "pattern")
		s := rapid.StringOfN(rapid.RuneFrom([]rune("ab/")), 0, 8, -1).Draw(t, "text")
		if Glob(p, s) != slow(p, s) {
			t.Fatalf("Glob(%q, %q) = %v", p, s, Glob(p, s))
		}
	})
}

// FuzzParse: any text gives a policy or problems with a position, and what Show prints of a policy is that policy.
func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("schema_version = 1\nclass.a.priority = 1\n'match' = [{class = \"\"\"a\"\"\", uid=3}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		p, err := Parse([]File{{"f", text}})
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("error %#v", err)
			}
			return
		}
		again, err := Parse([]File{{"shown", p.Show(true)}})
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Show(true))
		}
		if d := Diff(p, again); len(d) != 0 {
			t.Fatalf("%v", d)
		}
		p.Select(Client{UID: 1, Exe: "/a", Cgroup: "/b", Label: "c"}, true)
	})
}

// TestDocs keeps docs/policy.md equal to the schema. -update rewrites it.
func TestDocs(t *testing.T) {
	const page = "../../docs/policy.md"
	want := Docs()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what keys.go says (%v): go test ./controlplane/policy -run TestDocs -update", page, err)
	}
	// The page's own example is a policy.
	_, text, _ := strings.Cut(want, "```toml\n")
	text, _, _ = strings.Cut(text, "```")
	if _, err := Parse([]File{{"docs/policy.md", text}}); err != nil {
		t.Error(err)
	}
}
