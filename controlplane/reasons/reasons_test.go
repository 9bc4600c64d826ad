package reasons

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/harvest"
)

//go:generate go test -run ^TestDocs$ -update
var update = flag.Bool("update", false, "rewrite docs/reasons.md")

// constants finds in a source file the text of the first group of a pattern.
func constants(t *testing.T, path, pattern string) []string {
	t.Helper()
	b, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(b, -1) {
		out = append(out, string(m[1]))
	}
	if len(out) == 0 {
		t.Fatalf("%s has nothing like %s", path, pattern)
	}
	return out
}

func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}

// TestComplete: whoever gives a code gives one of this list, and all of its group.
func TestComplete(t *testing.T) {
	without := func(all []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(drop, s) })
	}
	for _, c := range []struct {
		group Group
		given []string
	}{
		{Wait, sched.WaitNames[:]},
		{Apart, scoreboard.ApartReasons[:]},
		{Outside, scoreboard.OutsideNames[1:]},
		{PTX, texts(harvest.Codes())},
		{Rewrite, texts(coalesce.Codes)},
		{Compile, append([]string{
			compiler.Crashed, compiler.TimedOut, compiler.TooMuchMemory, compiler.Garbage, compiler.NotStarted, compiler.Assembler,
			compiler.Numerics, compiler.ImageTooLarge, compiler.Internal,
		}, constants(t, "controlplane/executor/forms.go", `(?m)^\treason[A-Z]\w* += "([a-z-]+)"`)...)},
		{Native, without(constants(t, "interposer/src/session.c", `\[HEDDLE_NATIVE_\w+\] = "([a-z-]+)"`), "none")},
		{Session, without(constants(t, "controlplane/daemon/names.go", `(?m)case shm\.Reason\w+:\n\t\treturn "([a-z-]+)"`), "none")},
	} {
		want, got := slices.Clone(c.given), Codes(c.group)
		if c.group == Session && !slices.Equal(got, want) {
			t.Errorf("%q; expected the order of shm.Reason, by which heddle record names them: %q", got, want)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("group %s: the list has\n%q\nand who gives them has\n%q", c.group, got, want)
		}
	}
	for i, m := range sched.WaitMeanings {
		if got := Sentence(Wait, sched.WaitNames[i]); got != m {
			t.Errorf("wait %s: %q; sched says %q", sched.WaitNames[i], got, m)
		}
	}
	if n := len(constants(t, "interposer/src/session.h", `(?m)^  (HEDDLE_NATIVE_\w+?)(?: = 0)?,`)); n != len(Codes(Native))+1 {
		t.Errorf("enum heddle_native_reason has %d values", n)
	}
}

// TestList: codes look alike, sentences are sentences, nothing stands twice in a group.
func TestList(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range All {
		if key := string(r.Group) + " " + r.Code; seen[key] {
			t.Errorf("%s stands twice", key)
		} else {
			seen[key] = true
		}
		if !regexp.MustCompile(`^[a-z][a-z-]{1,30}$`).MatchString(r.Code) || !strings.HasSuffix(r.Sentence, ".") ||
			strings.ContainsAny(r.Sentence, "|\n") {
			t.Errorf("%+v", r)
		}
		if !slices.ContainsFunc(Questions, func(q struct {
			Group    Group
			Question string
			Where    string
		}) bool {
			return q.Group == r.Group
		}) {
			t.Errorf("group %q has no question", r.Group)
		}
	}
	if Sentence(Wait, "nonsense") != "" || NoForm("spin-wait") == "" || NoForm("no-ptx") == "" || NoForm("gather") != "" {
		t.Error("look-ups")
	}
}

// TestDocs keeps docs/reasons.md equal to the list. -update rewrites it.
func TestDocs(t *testing.T) {
	const page = "../../docs/reasons.md"
	var b strings.Builder
	b.WriteString("# Why: the codes\n\nOne list for `heddle explain`, metrics (the label `reason`), traces and this page, which is " +
		"written from [`controlplane/reasons`](../controlplane/reasons/reasons.go): `go test ./controlplane/reasons -update`.\n")
	for _, q := range Questions {
		fmt.Fprintf(&b, "\n## %s\nSeen in %s.\n\n| code | meaning |\n|---|---|\n", q.Question, q.Where)
		for _, r := range All {
			if r.Group == q.Group {
				fmt.Fprintf(&b, "| `%s` | %s |\n", r.Code, r.Sentence)
			}
		}
	}
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Error("docs/reasons.md is not what the list says; next: go test ./controlplane/reasons -update")
	}
}
