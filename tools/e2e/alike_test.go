package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// gated is a client that says "ready" and begins when it is told (clients/alike.c).
type gated struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *lockedBuffer
	end  context.CancelFunc
	r    result
}

// together runs clients at once: all are started, and go on together when the last one is ready. meanwhile, unless nil, is called
// while they work; its context ends when they have.
func (b *bed) together(heddle bool, program string, extra [][]string, meanwhile func(context.Context)) []result {
	b.t.Helper()
	clients := make([]*gated, len(extra))
	for i := range clients {
		ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
		c := &gated{cmd: b.command(ctx, heddle, program, append(extra[i], "E2E_GATE=1")...), errs: &lockedBuffer{}, end: cancel}
		c.cmd.Stderr = c.errs
		var out io.ReadCloser
		var err error
		if c.in, err = c.cmd.StdinPipe(); err == nil {
			out, err = c.cmd.StdoutPipe()
		}
		if err == nil {
			err = c.cmd.Start()
		}
		if err != nil {
			b.t.Fatal(err)
		}
		c.out = bufio.NewReader(out)
		clients[i] = c
	}
	var ready, done sync.WaitGroup
	for _, c := range clients {
		ready.Go(func() {
			if line, _ := c.out.ReadString('\n'); line != "ready\n" {
				c.r.out = line
			}
		})
	}
	ready.Wait()
	begun := time.Now()
	for _, c := range clients {
		done.Go(func() {
			defer c.end()
			_, _ = c.in.Write([]byte("x")) // one that has ended already says so by its exit code
			rest, _ := io.ReadAll(c.out)
			err := c.cmd.Wait()
			c.r.out += string(rest)
			c.r.err, c.r.took = c.errs.String(), time.Since(begun)
			var exit *exec.ExitError
			switch {
			case errors.As(err, &exit):
				c.r.code = exit.ExitCode()
			case err != nil:
				c.r.code = -1
				c.r.err += err.Error()
			}
		})
	}
	if meanwhile != nil {
		ctx, cancel := context.WithCancel(context.Background())
		var side sync.WaitGroup
		side.Go(func() { meanwhile(ctx) })
		done.Wait()
		cancel()
		side.Wait()
	}
	done.Wait()
	results := make([]result, len(clients))
	for i, c := range clients {
		results[i] = c.r
	}
	return results
}

// counters gives what the bed's one executor has counted since its start.
func (b *bed) counters() (executor.Stats, error) {
	var s executor.Stats
	st, err := b.status()
	if err != nil {
		return s, err
	}
	if len(st.Executors) != 1 || len(st.Executors[0].Counters) == 0 {
		return s, fmt.Errorf("executors: %+v", st.Executors)
	}
	return s, json.Unmarshal(st.Executors[0].Counters, &s)
}

// alike are the environments of n clients that launch the same kernels on data of their own.
func alike(n int, extra ...string) [][]string {
	all := make([][]string, n)
	for i := range all {
		all[i] = append([]string{seeded(i)}, extra...)
	}
	return all
}

// nativeAlike gives what each of n such clients prints natively.
func (b *bed) nativeAlike(n int, extra ...string) []string {
	b.t.Helper()
	out := make([]string, n)
	seen := map[string]bool{}
	for i, env := range alike(n, extra...) {
		r := b.run(false, "alike", env...)
		if r.code != 0 || !strings.HasPrefix(r.out, "alike ") {
			b.t.Fatalf("natively, %v: exit code %d\n%s%s", env, r.code, r.out, r.err)
		}
		out[i] = r.out
		seen[r.out] = true
	}
	if len(seen) != n {
		b.t.Fatalf("%d seeds gave %d digests", n, len(seen))
	}
	return out
}

// TestCoalescedIsNative: many processes that launch the same kernels at the same time get, bit for bit, what each gets natively;
// each keeps its own globals; and a good share of the launches really was coalesced.
func TestCoalescedIsNative(t *testing.T) {
	b := newBed(t)
	b.startDaemon()
	for _, c := range []struct {
		clients, rounds int
		env             []string
	}{
		{8, 24, nil}, // the first: forms are made while it runs
		{2, 48, nil},
		{2, 24, []string{"E2E_WAIT=1"}},
		{8, 12, []string{"E2E_WAIT=1"}},
		{8, 12, []string{"E2E_SHAPES=1"}},
		{8, 12, []string{"E2E_SHAPES=1", "E2E_STREAMS=3"}},
		{32, 5, nil},
		{32, 4, []string{"E2E_WAIT=1", "E2E_SHAPES=1"}},
	} {
		t.Run(fmt.Sprintf("%d processes %s", c.clients, strings.Join(c.env, " ")), func(t *testing.T) {
			b := *b
			b.t = t
			env := append([]string{fmt.Sprintf("E2E_ROUNDS=%d", c.rounds)}, c.env...)
			native := b.nativeAlike(c.clients, env...)
			var before executor.Stats
			if b.served() {
				var err error
				if before, err = b.counters(); err != nil {
					t.Fatal(err)
				}
			}
			begun := time.Now()
			for i, r := range b.together(true, "alike", alike(c.clients, env...), nil) {
				if r.code != 0 || r.out != native[i] {
					t.Errorf("seed %d: exit code %d\nunder Heddle: %snatively: %s%s", i+1, r.code, r.out, native[i], r.err)
				}
			}
			after, err := b.counters()
			if err != nil {
				t.Fatal(err)
			}
			launches, words := after.Launches-before.Launches, after.Words-before.Words
			t.Logf("%d launches, %d words in %s", launches, words, time.Since(begun).Round(time.Millisecond))
		})
	}
}

// served tells whether an executor runs.
func (b *bed) served() bool {
	st, err := b.status()
	return err == nil && len(st.Executors) > 0
}
