package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// kills is how many deaths a run causes: 100 in `make test`, more at night.
func kills() int {
	if s := os.Getenv("E2E_KILLS"); s != "" {
		if n, err := strconv.Atoi(s); err == nil {
			return n
		}
	}
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		return 1000
	}
	return 100
}

// killed are the programs that run while others die: every kind of order and memory.
var killed = []string{"vector", "streams", "graphs", "nodes", "histogram", "threads", "hostmem", "callbacks"}

// killedPart is the part of a program that they run: graphs captured on two streams, launched, changed while launches are under way; and
// graphs that go in parts with steps of the client's own stream between them. None asks for times between events: those go with the
// executor that took them.
func killedPart(program string) string {
	if program == "nodes" {
		return "E2E_PART=mixed"
	}
	return "E2E_PART=captured"
}

// tally counts how clients ended.
type tally struct{ right, lost, struck atomic.Int64 }

// strike is one running client that may be killed.
type strike struct {
	mu  sync.Mutex
	pid int
	hit bool
}

func (s *strike) kill() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 || s.hit {
		return false
	}
	s.hit = syscall.Kill(s.pid, syscall.SIGKILL) == nil
	return s.hit
}

// work runs one client under Heddle and judges its end: right, the named error
// of lost work, or killed by us. Anything else is a failure.
func (b *bed) work(program string, want string, s *strike, n *tally, extra ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := b.command(ctx, true, program, extra...)
	// A process that finds its daemon or executor dead as it starts may do its work natively.
	cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "--require" })
	out, errs := &lockedBuffer{}, &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		b.t.Error(err)
		return
	}
	s.mu.Lock()
	s.pid, s.hit = cmd.Process.Pid, false
	s.mu.Unlock()
	cmd.Wait()
	s.mu.Lock()
	hit := s.hit
	s.pid = 0
	s.mu.Unlock()
	switch code := cmd.ProcessState.ExitCode(); {
	case ctx.Err() != nil:
		b.t.Errorf("%s: no end after %s\n%s", program, clientTimeout, errs)
	case hit:
		n.struck.Add(1)
	case code == lostWork:
		n.lost.Add(1)
	case code == 0 && out.String() == want:
		n.right.Add(1)
	default:
		b.t.Errorf("%s: exit code %d, printed %q, natively %q\n%s", program, code, out, want, errs)
	}
}

// TestKills: clients and executors are killed at random points while others
// work. No wrong result, no hang, nothing left behind.
func TestKills(t *testing.T) {
	b := newBed(t)
	const seeds = 3
	native := map[string]string{}
	for _, p := range killed {
		for i := range seeds {
			r := b.run(false, p, seeded(i), killedPart(p))
			if r.code != 0 {
				t.Fatalf("%s natively: %d\n%s", p, r.code, r.err)
			}
			native[p+seeded(i)] = r.out
		}
	}
	b.startDaemon()
	b.run(true, "vector") // the executor is up, and what stays for good is there
	fdsBefore, memoryBefore := b.daemonFds(), b.memoryUsed()

	rnd := rand.New(rand.NewPCG(7, uint64(kills())))
	const workers = 4
	var n tally
	var wg sync.WaitGroup
	stop := make(chan struct{})
	strikes := make([]*strike, workers)
	for w := range workers {
		strikes[w] = &strike{}
		seed := rnd.Uint64()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, s := killed[rnd.IntN(len(killed))], seeded(rnd.IntN(seeds))
				b.work(p, native[p+s], strikes[w], &n, s, "E2E_ROUNDS=1", killedPart(p))
			}
		})
	}
	executors, clients := 0, 0
	for executors+clients < kills() && !t.Failed() {
		// The pause is what is random here: it chooses the point of the kill.
		time.Sleep(time.Duration(rnd.IntN(60_000)) * time.Microsecond)
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
	t.Logf("%d clients and %d executors killed; of the other clients %d were right, %d got the named error of lost work", clients, executors, n.right.Load(), n.lost.Load())
	if n.right.Load() == 0 {
		t.Error("nobody finished: the kills prove nothing")
	}
	b.empties()
	if r := b.run(true, "vector", seeded(0)); r.code != 0 || r.out != native["vector"+seeded(0)] {
		t.Errorf("afterwards: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	b.settles("fds as before", func() error {
		if now := b.daemonFds(); now > fdsBefore+4 { // an executor's socket and pipes may differ
			return fmt.Errorf("the daemon held %d fds, now %d: %v", fdsBefore, now, b.daemonFdKinds())
		}
		return nil
	})
	b.settles("device memory as before", func() error {
		if now := b.memoryUsed(); now > memoryBefore {
			return fmt.Errorf("%d bytes of device memory were used, now %d", memoryBefore, now)
		}
		return nil
	})
}

// killExecutor kills the executor that serves now.
func (b *bed) killExecutor() bool {
	st, err := b.status()
	if err != nil {
		return false
	}
	for _, e := range st.Executors {
		if e.Pid > 0 && e.State == "live" {
			return syscall.Kill(e.Pid, syscall.SIGKILL) == nil
		}
	}
	return false
}

// daemonFds counts the daemon's fds, but for those of session files that it may keep for clients to come: each is a file and a pidfd.
func (b *bed) daemonFds() int {
	kinds, n, sessions := b.daemonFdKinds(), 0, 0
	for kind, k := range kinds {
		n += k
		if strings.HasPrefix(kind, "/memfd:heddle-session") {
			sessions += k
		}
	}
	if n == 0 {
		b.t.Fatal("the daemon's fds cannot be read")
	}
	return n - 2*min(sessions, 16) // daemon.mostSpares
}

// daemonFdKinds counts the daemon's fds by what they are, for the message of a leak.
func (b *bed) daemonFdKinds() map[string]int {
	dir := filepath.Join("/proc", strconv.Itoa(b.daemon.Process.Pid), "fd")
	kinds := map[string]int{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return kinds
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			kind, _, _ := strings.Cut(to, ":[")
			kinds[kind]++
		}
	}
	return kinds
}

func (b *bed) memoryUsed() uint64 {
	var n uint64
	for _, d := range b.sim.Stats().Devices {
		n += d.Used
	}
	return n
}

// empties waits until the daemon has no client.
func (b *bed) empties() {
	b.t.Helper()
	b.settles("every session gone", func() error {
		st, err := b.status()
		if err != nil || len(st.Clients) > 0 {
			return fmt.Errorf("clients left: %+v, %v", st.Clients, err)
		}
		return nil
	})
}

// settles waits for a state that other processes bring about.
func (b *bed) settles(what string, wrong func() error) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := wrong()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestDaemonKilled: clients of a daemon that is killed finish natively.
func TestDaemonKilled(t *testing.T) {
	b := newBed(t)
	native := map[string]string{}
	for _, p := range killed {
		native[p] = b.run(false, p, "E2E_ROUNDS=4", killedPart(p)).out
	}
	rnd := rand.New(rand.NewPCG(3, 9))
	var n tally
	for range max(3, kills()/25) {
		b.startDaemon()
		var wg sync.WaitGroup
		for _, p := range killed[:5] {
			wg.Go(func() { b.work(p, native[p], &strike{}, &n, "E2E_ROUNDS=4", killedPart(p)) })
		}
		b.settles("somebody works", func() error {
			if st, err := b.status(); err != nil || len(st.Clients) == 0 {
				return fmt.Errorf("no client yet: %v", err)
			}
			return nil
		})
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond) // the random point of the kill
		b.daemon.Process.Kill()
		wg.Wait()
	}
	t.Logf("%d clients were right, %d got the named error of lost work", n.right.Load(), n.lost.Load())
	if n.right.Load() == 0 {
		t.Error("nobody finished: the kills prove nothing")
	}
}

// TestDaemonStopped: a daemon that hangs costs its clients patience, not results.
func TestDaemonStopped(t *testing.T) {
	b := newBed(t)
	native := b.run(false, "vector").out
	b.startDaemon()
	b.daemon.Process.Signal(syscall.SIGSTOP)
	defer b.daemon.Process.Signal(syscall.SIGCONT)
	library := "LD_PRELOAD=" + b.build + "/lib/heddle/libheddle.so"
	r := b.run(false, "vector", library, "HEDDLE_SOCKET="+filepath.Join(b.dir, "client.sock"), "HEDDLE_CONNECT_MS=300")
	if r.code != 0 || r.out != native {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
}
