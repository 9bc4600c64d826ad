package cli

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// Whoever mistypes is told what was wrong, how it is written and what to type next, on standard error, with the exit code of docs/cli.md.
func TestMistakesAreNamed(t *testing.T) {
	t.Setenv("HEDDLE_RUNTIME_DIR", t.TempDir())
	missing := filepath.Join(t.TempDir(), "policy.toml")
	for _, tc := range []struct {
		args string
		code int
		says []string
	}{
		{"pps", ExitUsage, []string{`unknown command "pps"`, "ps", "next: heddle --help"}},
		{"help pps", ExitUsage, []string{`unknown command "pps"`, "ps", "next: heddle help --help"}},
		{"help policy shwo", ExitUsage, []string{`unknown command "shwo" for "heddle policy"`}},
		{"policy shwo", ExitUsage, []string{`unknown command "shwo"`, "next: heddle policy --help"}},
		{"completion tcsh", ExitUsage, []string{`unknown command "tcsh"`, "next: heddle completion --help"}},
		{"explain", ExitUsage, []string{"received 0", "usage: heddle explain CLIENT|KERNEL", "next: heddle explain --help"}},
		{"kernels --client a", ExitUsage, []string{`"a" for "--client"`, "next: heddle kernels --help"}},
		{"policy test --pid a", ExitUsage, []string{`"a" for "--pid"`, "usage: heddle policy test --pid PID", "next: heddle policy test --help"}},
		{"run -- /no/such/program", ExitUsage, []string{"/no/such/program: ", "no such file", "heddle run -- "}},
		{"ps", ExitUnreachable, []string{"control.sock (no such file or directory)", "heddle daemon"}},
		{"policy check " + missing, ExitFailed, []string{missing + " does not exist"}},
		{"policy diff " + missing, ExitFailed, []string{missing + " does not exist"}},
	} {
		var stdout, stderr bytes.Buffer
		if code := execute(strings.Fields(tc.args), &stdout, &stderr); code != tc.code || stdout.Len() != 0 {
			t.Errorf("heddle %s: exit code %d, want %d; %s", tc.args, code, tc.code, stdout.String())
		}
		for _, want := range tc.says {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("heddle %s: %q is not in %q", tc.args, want, stderr.String())
			}
		}
		if strings.Contains(stderr.String(), "strconv") || strings.Contains(stderr.String(), "http") {
			t.Errorf("heddle %s: %q tells of its own insides", tc.args, stderr.String())
		}
	}
}

// Help is the command's own, however it is asked for.
func TestHelp(t *testing.T) {
	told := func(args string) string {
		var stdout, stderr bytes.Buffer
		if code := execute(strings.Fields(args), &stdout, &stderr); code != ExitOK || stderr.Len() > 0 {
			t.Errorf("heddle %s: exit code %d; %s", args, code, stderr.String())
		}
		return stdout.String()
	}
	for _, of := range []string{"", "policy", "policy check", "run"} {
		if a, b := told("help "+of), told(of+" --help"); a != b || !strings.Contains(a, "heddle "+of) {
			t.Errorf("heddle help %s and heddle %s --help differ:\n%s\n%s", of, of, a, b)
		}
	}
}

// What clients chose, labels, programs and kernels, is text in every table: no command of a terminal, no other direction of writing.
func TestNamesOfClientsAreText(t *testing.T) {
	serveStatus(t)
	var ps, kernels, stderr bytes.Buffer
	if code := execute([]string{"ps"}, &ps, &stderr); code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	row, err := json.Marshal(executor.CodeStats{Name: hostileLabel, Launches: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := printKernels(&kernels, []admin.Kernels{{Kernels: []json.RawMessage{row}}}, true); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{ps.String(), kernels.String()} {
		if !strings.Contains(out, "taken") {
			t.Errorf("the name is not there:\n%s", out)
		}
		for _, r := range out {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%q in %q", r, out)
			}
		}
	}
}

// A daemon's refusal is its own sentence; one that does not know the question may be of another version.
func TestRefusalsAreTheDaemonsWords(t *testing.T) {
	dir, err := os.MkdirTemp("", "ht") // short: socket paths are bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("HEDDLE_RUNTIME_DIR", dir)
	l, err := net.Listen("unix", filepath.Join(dir, runtimedir.AdminSocket))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/kernels", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no client has the number 99; see: heddle ps", http.StatusNotFound)
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	for args, want := range map[string]string{
		"kernels --client 99": "heddle: no client has the number 99; see: heddle ps\n",
		"drain":               "heddle: /v1/drain: 404 Not Found; is the daemon of another version? heddle version\n",
	} {
		var stdout, stderr bytes.Buffer
		if code := execute(strings.Fields(args), &stdout, &stderr); code != ExitFailed || stderr.String() != want {
			t.Errorf("heddle %s: exit code %d, %q; want %q", args, code, stderr.String(), want)
		}
	}
}
