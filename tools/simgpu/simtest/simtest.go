// Package simtest gives tests a simulated GPU: it builds libcuda.so.1 when its
// sources changed, runs a server inside the test process, compiles small C
// programs against it, and says what they did.
//
//	srv := simtest.Start(t)
//	cmd := exec.Command(simtest.CompileC(t, "testdata/vecadd.c"))
//	cmd.Env = append(os.Environ(), srv.Env()...)
package simtest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/tools/simgpu/server"
)

// Option changes the server's options before it starts.
type Option func(*server.Options)

// Server is a simulated GPU that lives as long as a test.
type Server struct {
	t      testing.TB
	srv    *server.Server
	socket string
	lib    string
	log    *logBuffer
}

// logBuffer keeps what the server logs, for failures.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < 1<<20 {
		l.text.Write(b)
	}
	return len(b), nil
}

// Start builds what is stale and starts a server; the test's end stops it.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	lib := Library(t)
	dir, err := os.MkdirTemp("", "simtest") // t.TempDir() can exceed a socket's path length
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, socket: filepath.Join(dir, "socket"), lib: lib, log: &logBuffer{}}
	opt := server.Options{Memory: 4 << 30, Log: s.log}
	for _, o := range opts {
		o(&opt)
	}
	if s.srv, err = server.New(opt); err == nil {
		err = s.srv.Listen(s.socket)
	}
	if err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.srv.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("simgpu server: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("simgpu server: does not stop")
		}
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("server's log:\n%s", s.Log())
		}
	})
	return s
}

// Socket is the server's socket.
func (s *Server) Socket() string { return s.socket }

// Env gives the variables with which programs find this GPU, to be added to os.Environ().
func (s *Server) Env() []string {
	path := s.lib
	if old := os.Getenv("LD_LIBRARY_PATH"); old != "" {
		path += ":" + old
	}
	return []string{"SIMGPU_SOCKET=" + s.socket, "LD_LIBRARY_PATH=" + path, "SIMGPU_LOG=stderr"}
}

// Command prepares a program that runs on this GPU.
func (s *Server) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), s.Env()...)
	return cmd
}

// Stats says what the GPU did.
func (s *Server) Stats() server.Stats { return s.srv.Stats() }

// Inject puts a failure into force.
func (s *Server) Inject(r server.Rule) {
	s.t.Helper()
	if _, err := server.Do(s.socket, server.Command{Cmd: "inject", Rule: &r}); err != nil {
		s.t.Fatal(err)
	}
}

// Do sends any command (memory limits, failing a process, clearing rules).
func (s *Server) Do(c server.Command) {
	s.t.Helper()
	if _, err := server.Do(s.socket, c); err != nil {
		s.t.Fatal(err)
	}
}

// Log gives what the server logged so far.
func (s *Server) Log() string {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.text.String()
}

// WaitUsed waits until the devices hold exactly n bytes, and for n = 0 until all
// clients are gone with everything they had; it fails after 20 s.
func (s *Server) WaitUsed(n uint64) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		used, alive, st := uint64(0), 0, s.Stats()
		for _, d := range st.Devices {
			used += d.Used
		}
		for _, p := range st.Processes {
			if p.Alive {
				alive++
			}
		}
		if used == n && (n > 0 || alive == 0) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the devices hold %d bytes, want %d; %d clients are alive", used, n, alive)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Root is the repository's root.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Include is the folder of cuda.h.
func Include(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CUDA_INCLUDE")
	if dir == "" {
		dir = filepath.Join(Root(), ".deps/cuda/nvidia/cu13/include")
	}
	if _, err := os.Stat(filepath.Join(dir, "cuda.h")); err != nil {
		t.Fatalf("%v: fetch it with tools/deps/fetch.sh cuda", err)
	}
	return dir
}

// Library gives the folder of libcuda.so.1, built if its sources are newer.
// SIMTEST_SANITIZE=1 takes the build with ASan and UBSan.
func Library(t testing.TB) string {
	t.Helper()
	out := filepath.Join(Root(), "build/simgpu")
	if sanitize() {
		out += "-asan"
	}
	Include(t)
	if err := build(out); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(out, "lib")
}

func sanitize() bool { return os.Getenv("SIMTEST_SANITIZE") == "1" }

// build runs build.sh unless it ran since the sources changed; one process at a time.
func build(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(out, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if st, err := os.Stat(filepath.Join(out, ".stamp")); err == nil {
		newest, err := newestSource()
		if err != nil {
			return err
		}
		if newest.Before(st.ModTime()) {
			return nil
		}
	}
	cmd := exec.Command(filepath.Join(Root(), "tools/simgpu/build.sh"), out)
	cmd.Env = os.Environ()
	if sanitize() {
		cmd.Env = append(cmd.Env, "SIMGPU_SANITIZE=1")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tools/simgpu/build.sh: %w\n%s", err, text)
	}
	return nil
}

// newestSource gives the time of the last change of what the library is made of.
func newestSource() (time.Time, error) {
	var newest time.Time
	for _, dir := range []string{"libcuda", "gen", "wire", "build.sh"} {
		err := filepath.WalkDir(filepath.Join(Root(), "tools/simgpu", dir), func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && info.ModTime().After(newest) {
				newest = info.ModTime()
			}
			return err
		})
		if err != nil {
			return newest, err
		}
	}
	return newest, nil
}

// CompileC compiles a C program, linked with -lcuda and -pthread, and gives its path.
func CompileC(t testing.TB, src string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(src), ".c"))
	args := append([]string{"-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations", "-isystem", Include(t), "-o", out, src}, flags...)
	if sanitize() {
		args = append(args, "-fsanitize=address,undefined")
	}
	args = append(args, "-L"+Library(t), "-lcuda", "-pthread")
	if text, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %s: %v\n%s", src, err, text)
	}
	return out
}

// Run runs a program to its end and fails the test if it fails or takes longer
// than a minute. It returns what the program wrote to its standard output.
func (s *Server) Run(name string, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), s.Env()...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, io.Writer(&stderr)
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}
