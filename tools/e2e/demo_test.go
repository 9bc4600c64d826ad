package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoFolder lays the demo's programs out as `make demo` does.
func demoFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	kernels, err := filepath.Abs("kernels")
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"bin": bin, "kernels": kernels} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// processesWith gives the pids of all processes that have this text in their environment.
func processesWith(t testing.TB, text string) []string {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, p := range environments {
		if env, err := os.ReadFile(p); err == nil && bytes.Contains(env, []byte(text)) {
			pids = append(pids, filepath.Base(filepath.Dir(p)))
		}
	}
	return pids
}

// demoOutput is what this test reads of docs/cli.md's JSON.
type demoOutput struct {
	GPU      string `json:"gpu"`
	Software bool   `json:"software"`
	Clients  []struct {
		Name  string `json:"name"`
		Alone struct {
			Output string `json:"output"`
		} `json:"native_alone"`
		Heddle []struct {
			Output    string `json:"output"`
			Exit      int    `json:"exit_code"`
			Forwarded uint64 `json:"forwarded_ops"`
		} `json:"heddle"`
		Result string `json:"result"`
	} `json:"clients"`
	Native struct {
		Software *struct {
			Launches uint64 `json:"launches"`
			Switches uint64 `json:"context_switches"`
		} `json:"software_gpu"`
	} `json:"native_at_once"`
	Heddle struct {
		Software *struct {
			Launches uint64 `json:"launches"`
			Switches uint64 `json:"context_switches"`
		} `json:"software_gpu"`
	} `json:"heddle_at_once"`
	Executors struct {
		Started        uint32 `json:"started"`
		Ops            uint64 `json:"ops"`
		Words          uint64 `json:"words"`
		Coalesced      uint64 `json:"coalesced"`
		CoalescedWords uint64 `json:"coalesced_words"`
	} `json:"executors"`
	Right bool     `json:"right"`
	Wrong []string `json:"wrong"`
}

// TestDemo: the demo's own claims, checked from outside.
func TestDemo(t *testing.T) {
	folder := demoFolder(t)
	var r demoOutput
	var errs bytes.Buffer
	for c := (crowds{}); ; {
		r, errs = demoOutput{}, bytes.Buffer{}
		var out bytes.Buffer
		cmd := exec.Command(filepath.Join(build(t), "bin/heddle"), "demo", "--json", "--software", "--rounds", "1", "--programs", folder)
		cmd.Env = append(os.Environ(), "HEDDLE_RUNTIME_DIR=/nonexistent/the/user's") // never the user's
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if jsonErr := json.Unmarshal(out.Bytes(), &r); err != nil || jsonErr != nil {
			t.Fatalf("%v, %v\n%s%s", err, jsonErr, out.String(), errs.String())
		}
		// Clients that this machine ran one after another have nothing to join: see crowds.
		if r.Executors.CoalescedWords > 0 || c.enough() {
			break
		}
		t.Logf("demo %d joined nothing: %+v", c.tried, r.Executors)
	}
	if !r.Right || len(r.Wrong) != 0 || !r.Software || len(r.Clients) != 9 {
		t.Fatalf("%+v\n%s", r, errs.String())
	}
	digests := map[string]bool{}
	for _, c := range r.Clients {
		last, program := c.Heddle[len(c.Heddle)-1], strings.Split(c.Name, "-")[0]
		digest := c.Alone.Output[strings.LastIndex(strings.TrimSpace(c.Alone.Output), "\n")+1:]
		if c.Result != "same" || last.Exit != 0 || last.Output != c.Alone.Output || !strings.HasPrefix(digest, program+" ") || last.Forwarded == 0 {
			t.Errorf("%+v", c)
		}
		digests[c.Alone.Output] = true
	}
	if len(digests) != len(r.Clients) {
		t.Errorf("%d digests of %d clients", len(digests), len(r.Clients))
	}
	if r.Executors.Started < 2 || r.Executors.Ops == 0 || r.Executors.Words >= r.Executors.Ops {
		t.Errorf("executors: %+v", r.Executors)
	}
	if e := r.Executors; e.CoalescedWords == 0 || e.Coalesced < 2*e.CoalescedWords {
		t.Errorf("coalesced: %+v", e)
	}
	n, h := r.Native.Software, r.Heddle.Software
	if n == nil || h == nil || n.Launches == 0 || h.Launches == 0 || h.Switches >= n.Switches {
		t.Errorf("the software GPU: natively %+v, under Heddle %+v", n, h)
	}
	if left := processesWith(t, "E2E_KERNELS="+folder); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

// TestDemoInterrupted: ^C at any point ends every process that the demo started,
// and so does the demo's own violent end.
func TestDemoInterrupted(t *testing.T) {
	for _, c := range []struct {
		until  string
		signal syscall.Signal
	}{
		{"natively, one after", syscall.SIGINT}, {"natively, all at once", syscall.SIGINT}, {"under Heddle", syscall.SIGTERM}, {"under Heddle", syscall.SIGKILL},
	} {
		until := c.until
		t.Run(fmt.Sprintf("%s, %s", until, c.signal), func(t *testing.T) {
			folder := demoFolder(t)
			temp, err := os.MkdirTemp("", "hd") // short: the demo puts sockets into it
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(temp)
			out := &lockedBuffer{}
			cmd := exec.Command(filepath.Join(build(t), "bin/heddle"), "demo", "--software", "--rounds", "2", "--programs", folder)
			cmd.Env = append(os.Environ(), "TMPDIR="+temp)
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			deadline := time.After(2 * clientTimeout)
			for !strings.Contains(out.String(), until) {
				select {
				case err := <-ended:
					t.Fatalf("it ended by itself: %v\n%s", err, out)
				case <-deadline:
					cmd.Process.Kill()
					t.Fatalf("it never said %q:\n%s", until, out)
				case <-time.After(5 * time.Millisecond):
				}
			}
			cmd.Process.Signal(c.signal)
			select {
			case <-ended:
			case <-time.After(60 * time.Second):
				cmd.Process.Kill()
				t.Fatalf("%s does not end it:\n%s", c.signal, out)
			}
			if c.signal == syscall.SIGKILL { // nobody waits for the others then
				for deadline := time.Now().Add(60 * time.Second); len(processesWith(t, "E2E_KERNELS="+folder)) > 0 && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
			} else if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "interrupted") {
				t.Errorf("exit code %d\n%s", code, out)
			} else if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("files left: %v, %v", left, err)
			}
			if left := processesWith(t, "E2E_KERNELS="+folder); len(left) > 0 {
				t.Errorf("processes left: %v\n%s", left, out)
			}
		})
	}
}

// TestDemoSaysWhatIsMissing: errors name the next step.
func TestDemoSaysWhatIsMissing(t *testing.T) {
	empty := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no programs":   {[]string{"--programs", empty}, 1, "make demo"},
		"senseless":     {[]string{"--rounds", "-3"}, 2, "--rounds -3"},
		"not a number":  {[]string{"--rounds", "many"}, 2, "heddle demo --help"},
		"one too many":  {[]string{"twice"}, 2, "heddle demo --help"},
		"kernels alone": {[]string{"--programs", filepath.Join(demoFolder(t), "kernels")}, 1, "make demo"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(filepath.Join(build(t), "bin/heddle"), append([]string{"demo", "--software"}, c.args...)...)
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.says) {
				t.Errorf("exit code %d, want %d\n%s", cmd.ProcessState.ExitCode(), c.code, out)
			}
		})
	}
}
