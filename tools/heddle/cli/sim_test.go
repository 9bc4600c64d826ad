package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/simulate"
)

// The command's answers: a table, JSON of the same, and what is wrong with its arguments.
func TestSim(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	trace := file("t.jsonl", `{"client":"a","at_ns":1000,"ops":[{"kernel":"k","blocks":8,"ns":4000,"times":5}]}`+"\n")
	rules := file("p.toml", "schema_version = 1\n[class.default]\nlatency_p99 = \"1ms\"\n")
	wrong := file("wrong.toml", "schema_version = 1\n[class.default]\npriorty = 5\n")
	run := func(args ...string) (string, error) {
		var out, diagnostics bytes.Buffer
		root := New(&out, &diagnostics)
		root.SetArgs(args)
		err := root.Execute()
		return out.String(), err
	}
	table, err := run("replay", trace, "--policy", rules)
	if err != nil || !strings.Contains(table, "oracle") || !strings.Contains(table, "100.00%") || !strings.Contains(table, "p.toml") {
		t.Errorf("%v\n%s", err, table)
	}
	if again, _ := run("replay", trace, "--policy", rules); again != table {
		t.Errorf("the same twice gave\n%s\nand\n%s", table, again)
	}
	text, err := run("replay", trace, "--policy", rules, "--json")
	var rep simulate.Report
	if err != nil || json.Unmarshal([]byte(text), &rep) != nil || len(rep.Results) != len(simulate.Names) || rep.Results[0].Total.Requests != 1 {
		t.Errorf("%v\n%s", err, text)
	}
	if list, err := run("sim", "--list"); err != nil || !strings.Contains(list, "rising-load") {
		t.Errorf("%v\n%s", err, list)
	}
	for _, c := range []struct {
		code int
		args []string
	}{
		{ExitUsage, []string{"sim"}}, {ExitFailed, []string{"sim", "--scenario", "no-such"}},
		{ExitFailed, []string{"replay", trace, "--policy", wrong}}, {ExitFailed, []string{"replay", trace, "--policy", dir + "/none.toml"}},
		{ExitFailed, []string{"replay", rules}}, {ExitFailed, []string{"replay", dir + "/none.jsonl"}},
	} {
		_, err := run(c.args...)
		var e exitError
		if !errors.As(err, &e) || e.code != c.code {
			t.Errorf("%q: %v; want exit code %d", c.args, err, c.code)
		}
	}
}
