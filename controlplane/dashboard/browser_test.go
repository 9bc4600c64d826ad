package dashboard

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// browserPrograms are what Chromium is called; tools/deps/packages.sh installs the first.
var browserPrograms = []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"}

// browser is a headless Chromium, told what to do by the DevTools protocol over two pipes.
type browser struct {
	t       *testing.T
	cmd     *exec.Cmd
	to      *os.File
	session string
	events  chan event

	mu      sync.Mutex
	next    int
	answers map[int]chan answer
}

type event struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

type answer struct {
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// browserPatience bounds each step; it is for machines under load.
const browserPatience = 60 * time.Second

// openBrowser starts Chromium with an empty page.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	program := ""
	for _, name := range browserPrograms {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Fatalf("none of %v is installed; next: tools/deps/packages.sh chromium-headless-shell", browserPrograms)
	}
	theirIn, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--headless", "--remote-debugging-pipe", "--user-data-dir=" + t.TempDir(), "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1280,1000",
	}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium's own does not run as root
	}
	b := &browser{t: t, cmd: exec.Command(program, args...), to: to, events: make(chan event, 4096), answers: map[int]chan answer{}}
	b.cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	var log bytes.Buffer
	b.cmd.Stderr = &log
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	go b.read(bufio.NewReaderSize(from, 1<<20))
	t.Cleanup(func() {
		b.to.Close()
		b.cmd.Process.Kill()
		b.cmd.Wait()
		from.Close()
		if t.Failed() {
			t.Logf("Chromium said:\n%s", log.Bytes())
		}
	})
	var target struct {
		TargetID  string `json:"targetId"`
		SessionID string `json:"sessionId"`
	}
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	b.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.do(domain+".enable", nil, nil)
	}
	return b
}

// read takes messages until the browser's end.
func (b *browser) read(from *bufio.Reader) {
	defer close(b.events)
	for {
		m, err := from.ReadBytes(0)
		if err != nil {
			return
		}
		var head struct {
			ID int `json:"id"`
			answer
			event
		}
		if json.Unmarshal(m[:len(m)-1], &head) != nil {
			continue
		}
		if head.ID == 0 {
			b.events <- head.event
			continue
		}
		b.mu.Lock()
		ch := b.answers[head.ID]
		delete(b.answers, head.ID)
		b.mu.Unlock()
		if ch != nil {
			ch <- head.answer
		}
	}
}

// do carries out one command of the protocol.
func (b *browser) do(method string, params any, into any) {
	b.t.Helper()
	ch := make(chan answer, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.answers[id] = ch
	b.mu.Unlock()
	m := map[string]any{"id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case a := <-ch:
		if a.Error != nil {
			b.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		if into != nil {
			if err := json.Unmarshal(a.Result, into); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-time.After(browserPatience):
		b.t.Fatalf("%s: no answer", method)
	}
}

// eval gives the value of an expression in the page, awaited when it is a promise.
func (b *browser) eval(expression string, into any) {
	b.t.Helper()
	var r struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		Exception json.RawMessage `json:"exceptionDetails"`
	}
	b.do("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if r.Exception != nil {
		b.t.Fatalf("%s: %s", expression, r.Exception)
	}
	if into != nil {
		if err := json.Unmarshal(r.Result.Value, into); err != nil {
			b.t.Fatalf("%s gave %s: %v", expression, r.Result.Value, err)
		}
	}
}

// reached waits in the page until a condition holds, which is looked at after every change of the document.
func (b *browser) reached(condition string) {
	b.t.Helper()
	b.eval(fmt.Sprintf(`new Promise((done, failed) => {
		const look = () => { if (%s) { seen.disconnect(); done(true); return true; } };
		const seen = new MutationObserver(look);
		seen.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
		look();
		setTimeout(() => failed(new Error('not reached: ' + document.body.innerText)), %d);
	})`, condition, browserPatience.Milliseconds()/2), nil)
}

// screenshot writes what is seen to a PNG file.
func (b *browser) screenshot(path string) {
	b.t.Helper()
	var shot struct {
		Data string `json:"data"`
	}
	b.do("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
