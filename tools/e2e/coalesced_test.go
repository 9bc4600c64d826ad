package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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
	return b.crowd(heddle, program, extra, "E2E_GATE=1", func(release func()) { release() }, meanwhile)
}

// inStep runs clients of clients/alike.c at once under Heddle as company does, but so that what they launch is ready together, whatever
// else the machine does: each stops at its gate when its kernels are loaded, and the executor stands still while all submit the rest.
// before, unless nil, is called while they stand at their gates.
func (b *bed) inStep(native []string, extra [][]string, before func()) {
	b.t.Helper()
	release := func(release func()) {
		if before != nil {
			before()
		}
		st, err := b.status()
		if err != nil || len(st.Executors) != 1 || st.Executors[0].Pid == 0 {
			b.t.Errorf("%+v, %v", st, err)
			release()
			return
		}
		for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			if err := syscall.Kill(st.Executors[0].Pid, signal); err != nil {
				b.t.Error(err)
			}
			if signal == syscall.SIGSTOP {
				release()
			}
		}
	}
	b.compare(native, b.crowd(true, "alike", extra, "E2E_GATE=2", release, nil))
}

// formed has clients launch alike until there is a form of alike_add.
func (b *bed) formed(native []string, extra [][]string) {
	b.t.Helper()
	for c := (crowds{}); ; {
		b.inStep(native, extra, nil)
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			s, err := b.counters()
			if err != nil {
				b.t.Fatal(err)
			}
			if len(b.kernelRows()["alike_add"].Forms) > 0 {
				return
			}
			if s.Forms.Asked == 0 {
				break
			}
		}
		if c.enough() {
			break
		}
	}
	b.t.Fatalf("no form of alike_add: %+v", b.kernelRows()["alike_add"])
}

// crowd starts clients with gate in their environment. When all are ready it calls open, which lets them go on by release; with
// E2E_GATE=2 that returns when they have submitted everything.
func (b *bed) crowd(heddle bool, program string, extra [][]string, gate string, open func(release func()), meanwhile func(context.Context)) []result {
	b.t.Helper()
	clients := make([]*gated, len(extra))
	for i := range clients {
		ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
		c := &gated{cmd: b.command(ctx, heddle, program, append(slices.Clone(extra[i]), gate)...), errs: &lockedBuffer{}, end: cancel}
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
	open(func() {
		for _, c := range clients {
			_, _ = c.in.Write([]byte("x")) // one that has ended already says so by its exit code
		}
		for _, c := range clients {
			if gate != "E2E_GATE=2" {
				break
			}
			if line, _ := c.out.ReadString('\n'); line != "submitted\n" {
				c.r.out += line
			}
		}
	})
	for _, c := range clients {
		done.Go(func() {
			defer c.end()
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

// gather has kernels wait for each other as long as suits the software GPU, which takes a hundred times as long as it says.
const gather = "HEDDLE_GATHER=3ms"

// company runs clients at once under Heddle and compares each with its native run.
func (b *bed) company(native []string, extra [][]string, meanwhile func(context.Context)) {
	b.t.Helper()
	b.compare(native, b.together(true, "alike", extra, meanwhile))
}

// compare wants what clients printed natively.
func (b *bed) compare(native []string, results []result) {
	b.t.Helper()
	for i, r := range results {
		if r.code != 0 || r.out != native[i] {
			b.t.Errorf("seed %d: exit code %d\nunder Heddle: %snatively: %s%s", i+1, r.code, r.out, native[i], r.err)
		}
	}
}

// crowds counts how often clients that work at once were tried until they had met: on a machine that is busy with other things they
// may run one after another, or end before the kernels are compiled. Never in so many crowds, and in so long a time, is a defect.
type crowds struct {
	tried int
	begun time.Time
}

// enough counts a crowd that did not meet, and tells whether there shall be no other.
func (c *crowds) enough() bool {
	if c.tried++; c.tried == 1 {
		c.begun = time.Now()
	}
	return c.tried >= 6 && time.Since(c.begun) > 3*time.Minute
}

// meet runs crowds of clients as company does until met says so of what the executor has counted, and gives its counters.
func (b *bed) meet(native []string, extra [][]string, met func(executor.Stats) bool) executor.Stats {
	b.t.Helper()
	for c := (crowds{}); ; {
		b.company(native, extra, nil)
		after, err := b.counters()
		if err != nil {
			b.t.Fatal(err)
		}
		if met(after) || b.t.Failed() || c.enough() {
			return after
		}
		b.t.Logf("crowd %d did not meet", c.tried)
	}
}

// joined tells whether any op was coalesced.
func joined(s executor.Stats) bool { return s.Coalescing.OpsCoalesced > 0 }

// kernelRows gives `heddle kernels --json` by name, as the command prints it.
func (b *bed) kernelRows() map[string]executor.CodeStats {
	b.t.Helper()
	cmd := exec.Command(filepath.Join(b.build, "bin/heddle"), "kernels", "--json")
	cmd.Env = append(b.env(), "HEDDLE_RUNTIME_DIR="+b.dir)
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("heddle kernels: %v", err)
	}
	var list []struct{ Kernels []executor.CodeStats }
	if err := json.Unmarshal(out, &list); err != nil {
		b.t.Fatalf("heddle kernels: %v\n%s", err, out)
	}
	rows := map[string]executor.CodeStats{}
	for _, e := range list {
		for _, r := range e.Kernels {
			rows[r.Name] = r
		}
	}
	return rows
}

// alikeKernels are the kernels of clients/alike.c that it launches again and again.
var alikeKernels = []string{"alike_add", "alike_softmax", "alike_tally", "alike_leave", "alike_turn", "alike_cube", "alike_dynamic",
	"alike_last", "alike_bump", "alike_use"}

// TestCoalescedIsNative: many processes that launch the same kernels at the same time get, bit for bit, what each gets natively;
// each keeps its own globals; and a good share of the launches really was coalesced, by forms that were compiled, loaded and first
// used while the processes ran.
func TestCoalescedIsNative(t *testing.T) {
	b := newBed(t)
	b.startDaemon(gather)
	var before executor.Stats // of an executor that has not been started: all 0
	for _, c := range []struct {
		clients, rounds int
		env             []string
		least           float64 // share of the launches that must have been coalesced; 0: those that wait for each result need not meet
	}{
		{8, 10, nil, 0.1},
		{2, 8, nil, 0.03},
		{2, 6, []string{"E2E_WAIT=1"}, 0},
		{8, 3, []string{"E2E_WAIT=1"}, 0},
		{8, 3, []string{"E2E_SHAPES=1", "E2E_STREAMS=3"}, 0.05},
		{32, 2, []string{"E2E_SHAPES=1"}, 0.05},
	} {
		t.Run(fmt.Sprintf("%d processes %s", c.clients, strings.Join(c.env, " ")), func(t *testing.T) {
			b := *b
			b.t = t
			env := append([]string{fmt.Sprintf("E2E_ROUNDS=%d", c.rounds)}, c.env...)
			native := b.nativeAlike(c.clients, env...)
			var share float64
			after := b.meet(native, alike(c.clients, env...), func(after executor.Stats) bool {
				launches, coalesced := after.Launches-before.Launches, after.Coalescing.OpsCoalesced-before.Coalescing.OpsCoalesced
				share = float64(coalesced) / float64(launches)
				t.Logf("%d launches, %.1f %% of them coalesced; %d forms", launches, 100*share, after.Forms.Forms)
				before = after
				return share >= c.least
			})
			if share < c.least {
				t.Errorf("%.3f of the launches were coalesced, want %.3f; forms: %+v, apart: %v", share, c.least, after.Forms, after.Coalescing.Apart)
			}
		})
	}
	if f := before.Forms; f.Compiled == 0 || f.CacheHits != 0 || f.FirstCompileSeconds == 0 {
		t.Errorf("the forms were not compiled here: %+v", f)
	}
	var rows map[string]executor.CodeStats
	b.meet(b.nativeAlike(8), alike(8), func(executor.Stats) bool {
		rows = b.kernelRows()
		return !slices.ContainsFunc(alikeKernels, func(name string) bool { return rows[name].Coalesced == 0 })
	})
	for _, name := range alikeKernels {
		if r := rows[name]; r.Coalesced == 0 || r.Coalesced > r.Launches || r.MeanWidth < 2 || len(r.Forms) == 0 || r.PTX != "image" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// compilers gives the pids of the compiler processes that this bed's executor has started.
func (b *bed) compilers() []int {
	var pids []int
	for _, text := range processesWith(b.t, "SIMGPU_SOCKET="+b.sim.Socket()) {
		if line, err := os.ReadFile("/proc/" + text + "/cmdline"); err == nil && bytes.HasSuffix(line, []byte("\x00compile\x00")) {
			if pid, err := strconv.Atoi(text); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// TestCompilerKilled: a compiler that dies costs nothing but the attempt.
func TestCompilerKilled(t *testing.T) {
	b := newBed(t)
	b.startDaemon(gather)
	native := b.nativeAlike(8, "E2E_ROUNDS=8")
	killed := 0
	var after executor.Stats
	for c := (crowds{}); ; {
		b.company(native, alike(8, "E2E_ROUNDS=8"), func(ctx context.Context) {
			for ctx.Err() == nil {
				for _, pid := range b.compilers() {
					if syscall.Kill(pid, syscall.SIGKILL) == nil {
						killed++
					}
				}
			}
		})
		var err error
		if after, err = b.counters(); err != nil {
			t.Fatal(err)
		}
		if killed > 0 && after.Forms.Workers >= 2 || t.Failed() || c.enough() {
			break
		}
	}
	t.Logf("%d compilers killed; %+v", killed, after.Forms)
	if killed == 0 || after.Forms.Workers < 2 {
		t.Errorf("%d compilers were killed, %d started: this proves nothing", killed, after.Forms.Workers)
	}
}

// TestCachePoisoned: entries of the cache that are cut, changed, exchanged or no files at all are compiled again, and a good cache
// spares the compilation.
func TestCachePoisoned(t *testing.T) {
	cache := t.TempDir()
	native := newBed(t).nativeAlike(8, "E2E_ROUNDS=5")
	run := func(what string, good bool) {
		t.Helper()
		b := newBed(t)
		b.startDaemon(gather, "HEDDLE_CACHE_DIR="+cache)
		after := b.meet(native, alike(8, "E2E_ROUNDS=5"), func(s executor.Stats) bool {
			return joined(s) && s.Forms.CacheHits+s.Forms.Compiled >= 5
		})
		f := after.Forms
		t.Logf("%s: %d coalesced of %d; %+v", what, after.Coalescing.OpsCoalesced, after.Launches, f)
		if after.Coalescing.OpsCoalesced == 0 || (f.CacheHits > 0) != good || !good && f.Compiled == 0 {
			t.Errorf("%s: %d ops coalesced; forms: %+v", what, after.Coalescing.OpsCoalesced, f)
		}
		b.stopDaemon()
	}
	entries := func() []string {
		t.Helper()
		var files []string
		err := filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) < 3 {
			t.Fatalf("the cache holds %v, %v", files, err)
		}
		return files
	}
	run("an empty cache", false)
	run("the cache of the run before", true)
	files := entries()
	first, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 5 {
		case 0:
			err = os.WriteFile(f, b[:len(b)/2], 0o600)
		case 1:
			b[len(b)*2/3] ^= 0x10
			err = os.WriteFile(f, b, 0o600)
		case 2: // a good entry, of something else
			err = os.WriteFile(f, first, 0o600)
		case 3:
			err = errors.Join(os.Remove(f), os.Mkdir(f, 0o700))
		case 4:
			err = errors.Join(os.Remove(f), os.Symlink("/dev/zero", f))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run("a poisoned cache", false)
}

// TestFaultInCompany: one of eight clients stores through a wild pointer while all launch that kernel. It gets the error, and the
// others end right, or with the named error of lost work that says whose kernel it was.
func TestFaultInCompany(t *testing.T) {
	b := newBed(t)
	b.startDaemon(gather)
	const guilty = 3
	env := alike(8, "E2E_ROUNDS=6", "E2E_OWN=0", "HEDDLE_LOG=stderr:error")
	native := b.nativeAlike(8, "E2E_ROUNDS=6", "E2E_OWN=0")
	b.meet(native, env, joined) // there are forms now
	env[guilty] = append(env[guilty], "E2E_FAULT=20")
	native[guilty] = b.run(false, "alike", env[guilty]...).out
	if !strings.HasPrefix(native[guilty], "after a wild store: 700, then 700\n") {
		t.Fatalf("natively: %s", native[guilty])
	}
	right, lost := 0, 0
	for i, r := range b.together(true, "alike", env, nil) {
		switch {
		case r.code == 0 && r.out == native[i]: // of the guilty one: the error that it gets natively
			right++
		case i != guilty && r.code == lostWork && strings.Contains(r.err, "alike_add"):
			lost++
		default:
			t.Errorf("client %d: exit code %d\nunder Heddle: %snatively: %s%s", i, r.code, r.out, native[i], r.err)
		}
	}
	t.Logf("%d right, the guilty one included; %d got the named error of lost work", right, lost)
}

// TestKillsInCompany: clients and executors are killed while all launch the same kernels in shared words. No wrong result, no hang.
func TestKillsInCompany(t *testing.T) {
	b := newBed(t)
	const workers = 6
	// Half of them have device globals, which an executor that dies takes with it.
	env := alike(workers, "E2E_ROUNDS=2")
	native := b.nativeAlike(workers, "E2E_ROUNDS=2")
	for w := 1; w < workers; w += 2 {
		env[w] = append(env[w], "E2E_OWN=0")
		native[w] = b.run(false, "alike", env[w]...).out
	}
	b.startDaemon(gather)
	coalesced := b.meet(native, env, joined).Coalescing.OpsCoalesced // there are forms now
	n, strikes := tally{}, make([]*strike, workers)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range workers {
		strikes[w] = &strike{}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					b.work("alike", native[w], strikes[w], &n, env[w]...)
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(11, uint64(kills())))
	executors, clients := 0, 0
	for executors+clients < kills()/5 && !t.Failed() {
		// The pause is what is random here: it chooses the point of the kill.
		time.Sleep(time.Duration(rnd.IntN(80_000)) * time.Microsecond)
		if c, err := b.counters(); err == nil {
			coalesced = max(coalesced, c.Coalescing.OpsCoalesced)
		}
		if rnd.IntN(4) == 0 {
			if b.killExecutor() {
				executors++
			}
		} else if strikes[rnd.IntN(workers)].kill() {
			clients++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d clients and %d executors killed; %d were right, %d got the named error of lost work; %d ops coalesced by one executor",
		clients, executors, n.right.Load(), n.lost.Load(), coalesced)
	if n.right.Load() == 0 || coalesced == 0 {
		t.Error("nobody finished, or nothing was coalesced: the kills prove nothing")
	}
	b.empties()
	b.company(native, env, nil)
}
