package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

// clientTimeout bounds one client program; all of them take seconds at most.
const clientTimeout = 120 * time.Second

// lostWork is what a client exits with when it gets CUDA_ERROR_LAUNCH_FAILED,
// the named error of work that was lost (clients/client.h).
const lostWork = 77

// build is where `make build` put its results.
func build(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("HEDDLE_BUILD")
	if dir == "" {
		dir = "../../build"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin/heddle", "lib/heddle/libheddle.so", "simgpu/lib/libcuda.so.1"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v; these tests run the real programs: make build", err)
		}
	}
	return dir
}

// programs compiles every client once.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return "", err
	}
	sources, err := filepath.Glob("clients/*.c")
	if err != nil || len(sources) == 0 {
		return "", fmt.Errorf("no client programs: %v", err)
	}
	buildDir := os.Getenv("HEDDLE_BUILD")
	if buildDir == "" {
		buildDir = "../../build"
	}
	errs := make([]error, len(sources))
	var compilers sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for i, src := range sources {
		compilers.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			out := filepath.Join(dir, strings.TrimSuffix(filepath.Base(src), ".c"))
			cmd := exec.Command("gcc", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-isystem", "../../.deps/cuda/nvidia/cu13/include", "-I../../interposer/include",
				src, "-o", out, "-L", filepath.Join(buildDir, "simgpu/lib"), "-lcuda", "-lpthread", "-ldl")
			if b, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%s: %v\n%s", src, err, b)
			}
		})
	}
	compilers.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// bed is one machine: a software GPU, and perhaps a daemon.
type bed struct {
	t        testing.TB
	build    string
	programs string
	sim      *simtest.Server
	dir      string // the daemon's runtime folder; "" without a daemon
	log      *lockedBuffer
	daemon   *exec.Cmd
	// stopDaemon ends the daemon, its executor with it; at the end of the test it is done anyway.
	stopDaemon func()
}

func newBed(t testing.TB) *bed {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return &bed{t: t, build: build(t), programs: dir, sim: simtest.Start(t), log: &lockedBuffer{}}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// env is a client's environment: the software GPU, nothing of Heddle.
func (b *bed) env(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "HEDDLE_") && !strings.HasPrefix(name, "SIMGPU_") && name != "LD_PRELOAD" && name != "LD_LIBRARY_PATH" {
			env = append(env, kv)
		}
	}
	kernels, err := filepath.Abs("kernels")
	if err != nil {
		b.t.Fatal(err)
	}
	env = append(env, b.sim.Env()...)
	env = append(env, "E2E_KERNELS="+kernels)
	return append(env, extra...)
}

// startDaemon runs `heddle daemon` for this bed.
func (b *bed) startDaemon(extra ...string) {
	b.t.Helper()
	dir, err := os.MkdirTemp("", "hd") // short: socket paths are bounded
	if err != nil {
		b.t.Fatal(err)
	}
	b.dir = dir
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	b.daemon = exec.Command(filepath.Join(b.build, "bin/heddle"), "daemon", "--runtime-dir", dir, "--ready-fd", "3")
	b.daemon.Env = b.env(append([]string{"HEDDLE_CACHE_DIR=" + filepath.Join(dir, "cache")}, extra...)...)
	b.daemon.ExtraFiles = []*os.File{w}
	b.daemon.Stdout, b.daemon.Stderr = b.log, b.log
	if err := b.daemon.Start(); err != nil {
		b.t.Fatal(err)
	}
	w.Close()
	line, _ := io.ReadAll(r)
	if strings.TrimSpace(string(line)) != "ready" {
		b.t.Fatalf("the daemon is not ready: %q\n%s", line, b.log)
	}
	daemon := b.daemon
	b.stopDaemon = sync.OnceFunc(func() {
		daemon.Process.Signal(syscall.SIGTERM)
		ended := make(chan error, 1)
		go func() { ended <- daemon.Wait() }()
		select {
		case <-ended:
		case <-time.After(60 * time.Second):
			daemon.Process.Signal(syscall.SIGQUIT)
			<-ended
			b.t.Error("the daemon does not leave")
		}
		os.RemoveAll(dir)
		if b.t.Failed() {
			b.t.Logf("daemon's log:\n%s", b.log)
		}
	})
	b.t.Cleanup(b.stopDaemon)
}

func (b *bed) status() (admin.Status, error) {
	return admin.DialDir(b.dir).Status(context.Background())
}

// result is how one client ended.
type result struct {
	out, err string
	code     int
	took     time.Duration
}

// command prepares a client: natively, or under Heddle when the bed has a daemon and heddle is set.
func (b *bed) command(ctx context.Context, heddle bool, program string, extra ...string) *exec.Cmd {
	path := filepath.Join(b.programs, program)
	if _, err := os.Stat(path); err != nil {
		path = program // a program of the system
	}
	var cmd *exec.Cmd
	if heddle {
		cmd = exec.CommandContext(ctx, filepath.Join(b.build, "bin/heddle"), "run", "--require", "--", path)
		extra = append(slices.Clone(extra), "HEDDLE_RUNTIME_DIR="+b.dir, "HEDDLE_LIBRARY="+filepath.Join(b.build, "lib/heddle/libheddle.so"))
	} else {
		cmd = exec.CommandContext(ctx, path)
	}
	cmd.Env = b.env(extra...)
	return cmd
}

func (b *bed) run(heddle bool, program string, extra ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	return finish(ctx, b.command(ctx, heddle, program, extra...))
}

// finish runs a command to its end.
func finish(ctx context.Context, cmd *exec.Cmd) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	r := result{out: out.String(), err: errs.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.code = -2
		r.err += fmt.Sprintf("\nno end after %s", clientTimeout)
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		r.code, r.err = -1, err.Error()
	}
	return r
}
