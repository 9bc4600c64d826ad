package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// sessions opens the session files that the daemon holds and known has not, by their names.
func (b *bed) sessions(known map[string]*shm.SessionFile) {
	dir := filepath.Join("/proc", strconv.Itoa(b.daemon.Process.Pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // it leaves
	}
	for _, e := range entries {
		name, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !strings.HasPrefix(name, "/memfd:heddle-session-") || known[name] != nil {
			continue
		}
		fd, err := unix.Open(filepath.Join(dir, e.Name()), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // it was closed meanwhile
		}
		if f, err := shm.OpenSessionFile(fd); err == nil {
			known[name] = f
		} else {
			unix.Close(fd)
		}
	}
}

// sendAll tells clients to run in their own contexts, or back.
func sendAll(all map[string]*shm.SessionFile, own func() uint32) {
	for _, f := range all {
		atomic.StoreUint32(&f.Producer().OwnContext, own())
	}
}

func closeAll(all map[string]*shm.SessionFile) {
	for _, f := range all {
		f.Close()
	}
}

// sentAway counts the launches, memsets and copies that a client ran in its own context because it was told to, and those that it forwarded.
var sentAway, forwarded = regexp.MustCompile(` straggler=(\d+)`), regexp.MustCompile(`forwarded=(\d+)`)

func count(r result, what *regexp.Regexp) (sum int) {
	for _, m := range what.FindAllStringSubmatch(r.err, -1) {
		n, _ := strconv.Atoi(m[1])
		sum += n
	}
	return sum
}

// TestOwnContext: clients are sent to their own contexts and called back at any moment of what they do, every millisecond or so. Every
// result is the native one, and kernels ran in both.
func TestOwnContext(t *testing.T) {
	b := newBed(t)
	programs := []string{"vector", "streams", "globals", "graphs", "hybrid", "callbacks"}
	native := map[string]result{}
	for _, p := range programs {
		native[p] = b.run(false, p)
	}
	b.startDaemon()
	stop, turns := make(chan struct{}), sync.WaitGroup{}
	turns.Go(func() {
		r, all := rand.New(rand.NewPCG(1, 1)), map[string]*shm.SessionFile{}
		defer closeAll(all)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(r.IntN(1500)) * time.Microsecond):
				b.sessions(all)
				sendAll(all, func() uint32 { return r.Uint32N(2) })
			}
		}
	})
	own, other := 0, 0
	for i := 0; i < 20 && (i < 1 || own == 0 || other == 0); i++ { // a program may be over before anybody told it anything
		for _, p := range programs {
			r := b.run(true, p, "HEDDLE_LOG=stats")
			t.Logf("%s: %v, %d away, %d forwarded", p, r.took.Round(time.Millisecond), count(r, sentAway), count(r, forwarded))
			own += count(r, sentAway)
			other += count(r, forwarded)
			if r.code != 0 || r.out != native[p].out {
				t.Errorf("%s: exit code %d\nunder Heddle:\n%snatively:\n%sstderr:\n%s", p, r.code, r.out, native[p].out, r.err)
			}
		}
	}
	close(stop)
	turns.Wait()
	t.Logf("%d ops ran in clients' own contexts, %d were forwarded", own, other)
	if own == 0 || other == 0 {
		t.Errorf("%d ops ran in clients' own contexts, %d were forwarded", own, other)
	}
	// In its own context from the first op to the last.
	var all sync.WaitGroup
	stop = make(chan struct{})
	all.Go(func() {
		known := map[string]*shm.SessionFile{}
		defer closeAll(known)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond): // the clients need the cores
				b.sessions(known)
				sendAll(known, func() uint32 { return 1 })
			}
		}
	})
	for _, p := range []string{"streams", "graphs", "globals"} {
		r := b.run(true, p)
		t.Logf("%s in its own context: %v", p, r.took.Round(time.Millisecond))
		if r.code != 0 || r.out != native[p].out {
			t.Errorf("%s in its own context: exit code %d\n%s%s", p, r.code, r.out, r.err)
		}
	}
	close(stop)
	all.Wait()
}

// TestOwnContextDies: a client that is killed in its own context leaves nothing behind, and others go on; one that is there when its executor
// is killed ends right or with the named error.
func TestOwnContextDies(t *testing.T) {
	b := newBed(t)
	want := b.run(false, "streams").out
	b.startDaemon()
	for i := range 6 {
		ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
		cmd := b.command(ctx, true, "streams")
		out, errs := &lockedBuffer{}, &lockedBuffer{}
		cmd.Stdout, cmd.Stderr = out, errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		known := map[string]*shm.SessionFile{}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		over := false
		for len(known) == 0 && !over {
			b.sessions(known)
			select {
			case <-ended:
				over = true
			default:
			}
		}
		sendAll(known, func() uint32 { return 1 })
		if i%2 == 0 && !over {
			cmd.Process.Kill()
		} else if !over {
			b.killExecutor()
		}
		if !over {
			<-ended
		}
		switch code := cmd.ProcessState.ExitCode(); {
		case i%2 == 0, code == lostWork, code == 3: // 3: --require, and there was no executor when it began
		case code != 0 || out.String() != want:
			t.Errorf("its executor was killed: exit code %d\n%s%s\nnatively:\n%s", code, out, errs, want)
		}
		cancel()
		closeAll(known)
		b.empties()
	}
	b.settles("an executor serves", func() error {
		if r := b.run(true, "vector"); r.code != 0 {
			return fmt.Errorf("exit code %d: %s", r.code, r.err)
		}
		return nil
	})
	if r := b.run(true, "streams"); r.code != 0 || r.out != want {
		t.Errorf("afterwards: exit code %d\n%s%s", r.code, r.out, r.err)
	}
}
