package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/perfetto/perfettotest"
	"github.com/heddle-gpu/heddle/controlplane/reasons"
)

// heddle runs a command of Heddle's against this bed's daemon.
func (b *bed) heddle(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(b.build, "bin/heddle"), args...)
	cmd.Env = append(b.env(), "HEDDLE_RUNTIME_DIR="+b.dir)
	return cmd
}

// TestRecord: a trace of clients that launch alike shows their ops in lanes of their own, and flows into words that hold ops of
// several; explain says what it says in words.
func TestRecord(t *testing.T) {
	b := newBed(t)
	b.startDaemon(gather)
	file := filepath.Join(t.TempDir(), "t.pftrace")
	out, err := b.heddle("record", "-o", file, "--seconds", "0.01").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no executor runs") {
		t.Errorf("without an executor: %v\n%s", err, out)
	}
	const clients = 3
	env := []string{"E2E_ROUNDS=16"}
	native := b.nativeAlike(clients, env...)
	var said, explained bytes.Buffer
	b.formed(native, alike(clients, env...))
	type recorded struct{ Ops, Words, Clients, Dropped, Requests int }
	var summary recorded
	for c := (crowds{}); ; {
		said.Reset()
		explained.Reset()
		record := b.heddle("record", "-o", file, "--seconds", "60", "--json", "--requests", file+".jsonl")
		b.inStep(native, alike(clients, append(env, "HEDDLE_LABEL=twin\x1b[31m")...), func() {
			st, err := b.status()
			if err != nil || len(st.Clients) == 0 {
				t.Errorf("%+v, %v", st, err)
				return
			}
			id := strconv.FormatUint(st.Clients[0].ID, 10)
			text, err := b.heddle("explain", id, "--seconds", "0.1").CombinedOutput()
			for _, want := range []string{"client " + id + ": twin", "class \"", "watched for 100ms: ", "kernels (all clients", "alike_add"} {
				if err != nil || !strings.Contains(string(text), want) {
					t.Errorf("explain %s: %v, no %q in\n%s", id, err, want, text)
				}
			}
			record.Stdout = &said
			begun, err := record.StderrPipe()
			if err == nil {
				err = record.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(begun).ReadString('\n'); !strings.HasPrefix(line, "recording ") {
				t.Errorf("record says %q, %v", line, err)
			}
			explain := b.heddle("explain", "--json", "--seconds", "0", id)
			explain.Stdout = &explained
			if err := explain.Run(); err != nil {
				t.Errorf("explain: %v", err)
			}
		})
		record.Process.Signal(syscall.SIGINT)
		if err := record.Wait(); err != nil {
			t.Errorf("record: %v", err)
		}
		summary = recorded{}
		if err := json.Unmarshal(said.Bytes(), &summary); err != nil || summary.Ops == 0 {
			t.Fatalf("%v: %s", err, said.String())
		}
		// Where a request ends is where a client waits, and a client that finds its result there need not; nor need clients meet: see crowds.
		if summary.Requests > 0 && summary.Words < summary.Ops {
			break
		}
		if c.enough() {
			t.Fatalf("%s", said.String())
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := perfettotest.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	words := map[uint64]perfettotest.Slice{} // by flow
	for _, s := range tr.Slices {
		for _, f := range s.Ending {
			words[f] = s
			path := tr.Path(s.Track)
			if !strings.HasPrefix(path[0], "executor of ") || !strings.HasPrefix(path[1], "stream ") {
				t.Fatalf("a word on %v", path)
			}
		}
	}
	flows, in := 0, map[uint64]map[string]bool{} // clients by word
	for _, s := range tr.Slices {
		for _, f := range s.Flows {
			w, ok := words[f]
			path := tr.Path(s.Track)
			if !ok || w.Begin < s.Begin || w.Numbers["word"] != s.Numbers["word"] || w.Numbers["width"] != s.Numbers["width"] {
				t.Fatalf("%v: %+v flows into %+v", path, s, w)
			}
			if !strings.HasPrefix(path[0], "client ") || !strings.Contains(path[0], `twin?[31m, alike (pid `) ||
				!strings.HasPrefix(path[1], "lane ") {
				t.Fatalf("an op on %q", path)
			}
			if n := w.Numbers["width"]; n > 1 && (!strings.HasPrefix(s.Name, "alike_") || !strings.Contains(w.Name, "×")) {
				t.Fatalf("%d ops in word %q of %q", n, w.Name, s.Name)
			}
			flows++
			if in[w.Numbers["word"]] == nil {
				in[w.Numbers["word"]] = map[string]bool{}
			}
			in[w.Numbers["word"]][path[0]] = true
		}
	}
	requests, waits := 0, 0
	for _, s := range tr.Slices {
		if path := tr.Path(s.Track); len(path) == 2 && path[1] == "requests" && s.End > s.Begin {
			requests++
		}
		if code, ok := strings.CutPrefix(s.Name, "waits: "); ok {
			if waits++; reasons.Sentence(reasons.Wait, code) == "" || s.Depth != 1 {
				t.Fatalf("%+v", s)
			}
		}
	}
	joined := 0
	for _, who := range in {
		if len(who) > 1 {
			joined++
		}
	}
	t.Logf("%+v; %d bytes, %d flows, %d words of several clients, %d requests, %d waits", summary, len(raw), flows, joined, requests, waits)
	if flows == 0 || joined == 0 || requests == 0 || waits == 0 {
		t.Errorf("%d flows, %d words of several clients, %d requests, %d waits", flows, joined, requests, waits)
	}

	var client struct {
		Client    struct{ Class, Label string }
		Selection struct {
			Class string
			Steps []string
		}
	}
	if err := json.Unmarshal(explained.Bytes(), &client); err != nil || client.Client.Class == "" ||
		client.Selection.Class != client.Client.Class || len(client.Selection.Steps) == 0 {
		t.Errorf("%v: %s", err, explained.String())
	}
	text, err := b.heddle("explain", "alike_add").CombinedOutput()
	if err != nil || !strings.Contains(string(text), "together with others") || !strings.Contains(string(text), "why launches did not hold more") {
		t.Errorf("%v: %s", err, text)
	}
	// What was recorded can be replayed, as often as one likes with the same result.
	var replayed [2][]byte
	for i := range replayed {
		if replayed[i], err = b.heddle("replay", file+".jsonl").Output(); err != nil || !strings.Contains(string(replayed[i]), "default") {
			t.Errorf("%v: %s", err, replayed[i])
		}
	}
	if !bytes.Equal(replayed[0], replayed[1]) {
		t.Errorf("two replays:\n%s\n%s", replayed[0], replayed[1])
	}
	// There is one recording at a time; one whose executor dies ends, and what came until then is written.
	type end struct {
		code int
		said string
	}
	ends := make(chan end, 2)
	for range 2 {
		cmd := b.heddle("record", "-o", file, "--seconds", "60")
		go func() {
			said, _ := cmd.CombinedOutput()
			ends <- end{cmd.ProcessState.ExitCode(), string(said)}
		}()
	}
	if e := <-ends; e.code != 1 || !strings.Contains(e.said, "one at a time") {
		t.Fatalf("two recordings at once: exit code %d\n%s", e.code, e.said)
	}
	st, err := b.status()
	if err != nil || len(st.Executors) != 1 || st.Executors[0].Pid == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := syscall.Kill(st.Executors[0].Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := <-ends; e.code != 4 || !strings.Contains(e.said, "ended early") {
		t.Errorf("exit code %d\n%s", e.code, e.said)
	}
	if raw, err = os.ReadFile(file); err == nil {
		_, err = perfettotest.Decode(raw)
	}
	if err != nil {
		t.Error(err)
	}

	for _, bad := range [][]string{
		{"explain", "999999"}, {"explain", "no_such_kernel"}, {"record", "--seconds", "-1"}, {"record", "-o", "/no/such/folder/t"},
	} {
		if out, err := b.heddle(bad...).CombinedOutput(); err == nil || !strings.Contains(string(out), "heddle: ") {
			t.Errorf("%v: %v: %s", bad, err, out)
		}
	}
}
