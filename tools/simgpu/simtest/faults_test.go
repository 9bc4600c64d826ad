package simtest_test

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/tools/simgpu/server"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// TestManyProcesses runs programs side by side: their work must not mix, and
// the chip must count the switches between their contexts.
func TestManyProcesses(t *testing.T) {
	srv := simtest.Start(t)
	threads, vecadd := simtest.CompileC(t, source("threads.c")), simtest.CompileC(t, source("vecadd.c"))
	var wg sync.WaitGroup
	for _, bin := range []string{threads, vecadd, vecadd, threads} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if out, err := srv.Command(bin).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", bin, err, out)
			}
		}()
	}
	wg.Wait()
	srv.WaitUsed(0)
	st := srv.Stats()
	if st.Launches != 2*(8*40)+2*2 {
		t.Errorf("%d launches", st.Launches)
	}
	if st.ContextSwitches == 0 {
		t.Error("four processes computed, but the chip never switched contexts")
	}
}

// start runs a program and waits for its first line of output.
func start(t *testing.T, srv *simtest.Server, bin string) *exec.Cmd {
	t.Helper()
	cmd := srv.Command(bin)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s: %q, %v", bin, line, err)
	}
	return cmd
}

// TestKillMidKernel kills a client whose kernel runs for ever: the server
// lives, the memory comes back, the next client works.
func TestKillMidKernel(t *testing.T) {
	srv := simtest.Start(t, func(o *server.Options) { o.MaxInstructions = 1 << 60 })
	spin, vecadd := simtest.CompileC(t, source("spin.c")), simtest.CompileC(t, source("vecadd.c"))
	for range 3 {
		cmd := start(t, srv, spin)
		srv.Run(vecadd) // the endless kernel holds up nobody else
		if used := srv.Stats().Devices[0].Used; used != 12<<20 {
			t.Errorf("%d bytes used while the client lives", used)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		srv.WaitUsed(0)
	}
	srv.Run(vecadd)
}

// footprint counts what a leak in the server would leave in this process.
func footprint(t *testing.T) (descriptors, mappings, goroutines int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds), strings.Count(string(maps), "\n"), runtime.NumGoroutine()
}

// TestKillAnywhere kills programs at random moments; nothing of them may stay behind.
func TestKillAnywhere(t *testing.T) {
	srv := simtest.Start(t)
	srv.Run(simtest.CompileC(t, source("threads.c")))
	srv.WaitUsed(0)
	fds, maps, routines := footprint(t)
	bins := []string{simtest.CompileC(t, source("threads.c")), simtest.CompileC(t, source("vmm_share.c")), simtest.CompileC(t, source("memops.c"))}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		cmd := srv.Command(bins[i%len(bins)])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.IntN(60_000)) * time.Microsecond) // the point of the test is when the kill comes
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}
	srv.WaitUsed(0)
	srv.Run(simtest.CompileC(t, source("vecadd.c")))
	srv.WaitUsed(0)
	if st := srv.Stats(); st.Images != 0 || st.Exports != 0 {
		t.Errorf("left behind: %d images, %d exports", st.Images, st.Exports)
	}
	deadline := time.Now().Add(10 * time.Second)
	for { // what is retired goes when the last op that could use it is done
		f, m, g := footprint(t)
		if f <= fds+2 && m <= maps+20 && g <= routines+2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("descriptors %d, before %d; mappings %d, before %d; goroutines %d, before %d", f, fds, m, maps, g, routines)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// fails runs a program that must fail and gives what it wrote.
func fails(t *testing.T, srv *simtest.Server, bin string) string {
	t.Helper()
	out, err := srv.Command(bin).CombinedOutput()
	if err == nil {
		t.Fatalf("%s: expected a failure", bin)
	}
	return string(out)
}

// TestInject makes things fail in every way that the server knows.
func TestInject(t *testing.T) {
	vecadd, spin := simtest.CompileC(t, source("vecadd.c")), simtest.CompileC(t, source("spin.c"))
	srv := simtest.Start(t, func(o *server.Options) { o.MaxInstructions = 1 << 60 })
	clear := func() { srv.Do(server.Command{Cmd: "clear"}) }

	srv.Inject(server.Rule{Call: "cuMemAlloc_v2", Nth: 3, Times: 1, Code: 2})
	if out := fails(t, srv, vecadd); !strings.Contains(out, "cuMemAlloc(&dc") || !strings.Contains(out, "CUDA_ERROR_OUT_OF_MEMORY") {
		t.Errorf("third allocation: %s", out)
	}
	clear()
	srv.Run(vecadd)

	srv.Inject(server.Rule{Kernel: "vecadd", Nth: 2, Code: 700})
	if out := fails(t, srv, vecadd); !strings.Contains(out, "CUDA_ERROR_ILLEGAL_ADDRESS") {
		t.Errorf("second launch: %s", out)
	}
	clear()

	srv.Inject(server.Rule{Op: "launch", Delay: 200 * time.Millisecond})
	began := time.Now()
	srv.Run(vecadd)
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("two delayed launches took %v", took)
	}
	clear()

	srv.Do(server.Command{Cmd: "memory", Memory: 1 << 20})
	if out := fails(t, srv, vecadd); !strings.Contains(out, "CUDA_ERROR_OUT_OF_MEMORY") {
		t.Errorf("1 MiB device: %s", out)
	}
	clear()
	srv.Run(vecadd)

	cmd := srv.Command(spin)
	var text strings.Builder
	cmd.Stderr = &text
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	srv.Do(server.Command{Cmd: "fail", Pid: cmd.Process.Pid, Code: 719})
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err == nil || !strings.Contains(text.String(), "CUDA_ERROR_LAUNCH_FAILED") {
		t.Errorf("failed context: %v, %s", err, text.String())
	}
	srv.WaitUsed(0)

	for _, bad := range []server.Rule{{}, {Call: "cuInit"}, {Call: "a", Kernel: "b", Code: 1}, {Op: "dance", Delay: 1}, {Call: strings.Repeat("x", 100), Code: 1}} {
		if _, err := server.Do(srv.Socket(), server.Command{Cmd: "inject", Rule: &bad}); err == nil {
			t.Errorf("rule %+v accepted", bad)
		}
	}
	if _, err := server.Do(srv.Socket(), server.Command{Cmd: "fail", Pid: 1}); err == nil {
		t.Error("a process that is no client can fail")
	}
}

// TestClock checks the model's times.
func TestClock(t *testing.T) {
	srv := simtest.Start(t)
	t.Log(srv.Run(simtest.CompileC(t, source("clock.c"))))
}

// TestPrintf checks that what a kernel prints comes out of its process.
func TestPrintf(t *testing.T) {
	srv := simtest.Start(t)
	if out := srv.Run(simtest.CompileC(t, source("modules.c"))); out != "hello 42\n" {
		t.Errorf("printed %q", out)
	}
}

// TestNoServer checks that programs without a server get an error, not a hang.
func TestNoServer(t *testing.T) {
	lib := simtest.Library(t)
	cmd := exec.Command(simtest.CompileC(t, source("vecadd.c")))
	cmd.Env = []string{"LD_LIBRARY_PATH=" + lib, "SIMGPU_LOG=stderr", "SIMGPU_SOCKET=/nonexistent/socket"}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CUDA_ERROR_NO_DEVICE") || !strings.Contains(string(out), "cannot reach the simgpu server at /nonexistent/socket") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestVisibleDevices checks CUDA_VISIBLE_DEVICES.
func TestVisibleDevices(t *testing.T) {
	srv := simtest.Start(t, func(o *server.Options) { o.Devices = 3 })
	bin := simtest.CompileC(t, source("visible.c"))
	for _, tc := range []struct{ visible, want string }{
		{"-", "16 17 18"}, {"2,0", "18 16"}, {"1", "17"}, {"1,9,2", "17"}, {"1,1", "17"}, {"", "none"}, {"-1", "none"},
		{"GPU-73696d67-7075-4a10-9000-68646c650002", "18"}, {"GPU-73696d67-7075", "16"},
	} {
		cmd := srv.Command(bin)
		if tc.visible != "-" {
			cmd.Env = append(cmd.Env, "CUDA_VISIBLE_DEVICES="+tc.visible)
		}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tc.want {
			t.Errorf("CUDA_VISIBLE_DEVICES=%q: %q, %v, want %q", tc.visible, got, err, tc.want)
		}
	}
}

// TestStrangers connects with what is no libcuda.so.1: the server cuts it off and goes on.
func TestStrangers(t *testing.T) {
	srv := simtest.Start(t)
	hello := func(version, kind uint64) []byte {
		return wire.AppendRequest(nil, wire.OpHello, 1, []uint64{version, 1, kind, 0x1000, 1 << 45, 1 << 40}, nil)
	}
	for name, packets := range map[string][][]byte{
		"noise":         {[]byte("GET / HTTP/1.1")},
		"short":         {{1}},
		"before hello":  {wire.AppendRequest(nil, wire.OpMemAlloc, 1, []uint64{0, 0, 100}, nil)},
		"other version": {hello(99, wire.KindClient)},
		"bad probe":     {hello(wire.Version, wire.KindClient)},
		"wrong kind":    {hello(wire.Version, wire.KindControl), wire.AppendRequest(nil, wire.OpCtxCreate, 2, []uint64{0, 0, 0}, nil)},
		"twice":         {hello(wire.Version, wire.KindControl), hello(wire.Version, wire.KindControl)},
	} {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: srv.Socket(), Net: "unixpacket"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		for _, p := range packets {
			conn.Write(p)
		}
		buf := make([]byte, wire.MaxMessage)
		for {
			if n, err := conn.Read(buf); n == 0 || err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s: not cut off", name)
				}
				break
			}
		}
		conn.Close()
	}
	if !strings.Contains(srv.Log(), "protocol version 0x63, this server speaks ") {
		t.Errorf("log: %s", srv.Log())
	}
	srv.Run(simtest.CompileC(t, source("vecadd.c")))
}
