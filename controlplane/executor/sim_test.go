package executor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

// childEnv makes this test's binary an executor process with the daemon's socket on fd 3.
const childEnv = "HEDDLE_TEST_EXECUTOR"

// joiningEnv has such a process join graphs whenever it can.
const joiningEnv = "HEDDLE_TEST_JOINING"

// clientEnv makes it the process that plays daemon and clients.
const clientEnv = "HEDDLE_TEST_CLIENT"

func TestMain(m *testing.M) {
	if uuid := os.Getenv(childEnv); uuid != "" {
		c := Config{ControlFd: 3, DeviceUUID: uuid, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
		if os.Getenv(joiningEnv) != "" {
			joining(&c)
		}
		err := Run(context.Background(), c)
		os.Exit(ExitCode(err))
	}
	if os.Getenv(compilerEnv) != "" {
		if err := compiler.Work(os.Stdin, os.Stdout, time.Minute); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// sim is the client's side of a simulated GPU.
type sim struct {
	t      *testing.T
	device *gpu.Device
	jobs   *loader
}

// open makes the device current on a thread of its own; memory is created there.
func (s *sim) open() {
	s.t.Helper()
	err := s.jobs.do(func() error {
		if err := gpu.Init(); err != nil {
			return err
		}
		all, err := gpu.Devices()
		if err != nil {
			return err
		}
		s.device, err = gpu.Open(all[0].UUID)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// segment creates device memory and returns the descriptor that a client sends.
func (s *sim) segment() int {
	s.t.Helper()
	fd := -1
	err := s.jobs.do(func() error {
		h, r := s.device.Create(segmentBytes)
		if r == gpu.Success {
			fd, r = s.device.Export(h)
		}
		return r.Err()
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// process starts an executor process.
func (s *sim) process(bell *shm.Doorbell) *daemon { return s.start(bell, false) }

// start starts one whose log nobody reads when deaf is set.
func (s *sim) start(bell *shm.Doorbell, deaf bool) *daemon {
	t := s.t
	t.Helper()
	conn, fd, err := shm.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if bell == nil {
		if bell, err = shm.CreateDoorbell(); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{t: t, conn: conn, bell: bell, result: make(chan error, 1), faults: make(chan shm.Message, 4), waiting: map[uint32]chan shm.Message{}}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+s.device.UUID.String())
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "control")}
	var log strings.Builder
	cmd.Stderr = &log
	if deaf {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		defer w.Close()
		cmd.Stderr = w
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.pid = cmd.Process.Pid
	cmd.ExtraFiles[0].Close()
	over := make(chan struct{})
	go func() {
		defer close(over)
		err := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = &ExitError{exit.ExitCode(), err}
		}
		d.result <- err
	}()
	d.listen()
	t.Cleanup(func() {
		conn.Close()
		<-over
		if t.Failed() {
			t.Logf("executor's log:\n%s", log.String())
		}
	})
	return d
}

// client makes a session with a segment of the simulated GPU, and the kernels of testdata/sim.ptx.
func (s *sim) client(d *daemon, id uint64) *tester {
	s.t.Helper()
	file, err := shm.CreateSessionFile(id)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { file.Close() })
	c := d.session(id, file, s.segment())
	s.attach(c, d)
	return c
}

func (s *sim) attach(c *tester, d *daemon) {
	s.t.Helper()
	c.attach(d)
	c.kernel(1, 1, "accumulate")
	c.kernel(1, 2, "stray")
	c.kernel(1, 3, "sharing")
	c.resume()
}

func (s *sim) image(d *daemon) {
	s.t.Helper()
	text, err := os.ReadFile("testdata/stateless.ptx")
	if err != nil {
		s.t.Fatal(err)
	}
	d.image(1, string(text))
	if text, err = os.ReadFile("testdata/counter.ptx"); err != nil {
		s.t.Fatal(err)
	}
	d.image(2, string(text))
}

const vector = 256 // elements of one buffer

// addition is buffer[dst] += buffer[src] in a client's window.
func (c *tester) addition(dst, src int) (shm.Launch, []byte) {
	p := u64s(c.window+uint64(dst)*vector*4, c.window+uint64(src)*vector*4)
	p = binary.LittleEndian.AppendUint32(p, vector)
	return shm.Launch{Kernel: 1, GridX: 2, GridY: 1, GridZ: 1, BlockX: 128, BlockY: 1, BlockZ: 1, ParamBytes: uint32(len(p))}, p
}

// accumulate launches an addition in a lane.
func (c *tester) accumulate(lane uint32, dst, src int, deps []shm.Dep) uint32 {
	c.t.Helper()
	l, p := c.addition(dst, src)
	return put(c, shm.KindLaunch, lane, l, p, func(h *shm.Header) { h.Deps = deps })
}

// sums are what the buffers of a client's window are to hold.
type sums [][]uint32

// fill puts n random buffers into a client's window, buffer i in the lane that lane gives for it.
func (c *tester) fill(n int, r *rand.Rand, lane func(i int) uint32) sums {
	c.t.Helper()
	want := make(sums, n)
	for i := range want {
		want[i] = make([]uint32, vector)
		b := make([]byte, vector*4)
		for k := range want[i] {
			want[i][k] = r.Uint32()
			binary.LittleEndian.PutUint32(b[4*k:], want[i][k])
		}
		put(c, shm.KindPut, lane(i), shm.InlineCopy{Address: c.window + uint64(i)*vector*4, Bytes: uint64(len(b))}, b, nil)
	}
	return want
}

// add does on the host what an addition does.
func (s sums) add(dst, src int) {
	for k := range s[dst] {
		s[dst][k] += s[src][k]
	}
}

// compare reads the buffers back in their lanes.
func (c *tester) compare(want sums, lane func(i int) uint32) {
	c.t.Helper()
	for i := range want {
		got := c.get(lane(i), c.window+uint64(i)*vector*4, vector*4)
		for k, w := range want[i] {
			if v := binary.LittleEndian.Uint32(got[4*k:]); v != w {
				c.t.Errorf("client %d buffer %d element %d: %d; want %d", c.id, i, k, v, w)
				break
			}
		}
	}
}

// always is one lane for all buffers.
func always(lane uint32) func(int) uint32 { return func(int) uint32 { return lane } }

// program runs 1,000 vector additions over lanes, each on its lane's buffer and reading another's, with the dependencies that
// make the result that of the program's order, and compares with that.
func (s *sim) program(c *tester, seed uint64, n int) {
	c.t.Helper()
	const lanes = 5
	r := rand.New(rand.NewPCG(seed, 5))
	own := func(i int) uint32 { return uint32(1 + i) }
	want := c.fill(lanes, r, own)
	readers := [lanes][]shm.Dep{}
	for i := range n {
		dst, src := r.IntN(lanes), r.IntN(lanes)
		lane := uint32(1 + dst)
		deps := append([]shm.Dep(nil), readers[dst]...) // who reads what this op overwrites
		readers[dst] = readers[dst][:0]
		if src != dst {
			deps = append(deps, shm.Dep{Lane: uint32(1 + src), Value: c.seq[1+src]})
		}
		seq := c.accumulate(lane, dst, src, deps)
		if src != dst && len(readers[src]) < 20 {
			readers[src] = append(readers[src], shm.Dep{Lane: lane, Value: seq})
		} else if src != dst {
			c.mustSync(lane, seq)
		}
		want.add(dst, src)
		if i%32 == 0 {
			c.ring.Publish()
		}
	}
	c.compare(want, own)
}

// onSimGPU runs the test once more in a process of its own, where simgpu's library is the driver: a process keeps the one that it
// loaded first. There it gives the client's side, and nil in the process that only waits.
func onSimGPU(t *testing.T) *sim {
	t.Helper()
	if os.Getenv(clientEnv) == "" {
		server := simtest.Start(t)
		cmd := server.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
		cmd.Env = append(cmd.Env, clientEnv+"=1", gpu.LibraryEnv+"="+simtest.Library(t)+"/libcuda.so.1")
		out, err := cmd.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Errorf("%v", err)
		}
		return nil
	}
	s := &sim{t: t, jobs: newLoader()}
	s.open()
	return s
}

// The executor as a process, on a driver that is not a double: simgpu's libcuda.so.1.
func TestSimulatedGPU(t *testing.T) {
	s := onSimGPU(t)
	if s == nil {
		return
	}
	t.Run("additions", func(t *testing.T) {
		s.t = t
		d := s.process(nil)
		s.image(d)
		a, b := s.client(d, 1), s.client(d, 2)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.program(b, 2, 1000)
		}()
		s.program(a, 1, 1000)
		<-done
		if r := b.detach(); r.Status != shm.StatusOK {
			t.Errorf("detach: %d %s", r.Status, r.Tail)
		}
		s.program(a, 3, 200)
		d.conn.Close()
		if err := d.end(); err != nil {
			t.Errorf("end: %v", err)
		}
		if st := atomic.LoadUint32(&a.file.Status().State); st != shm.StateClosed {
			t.Errorf("state %d; want CLOSED", st)
		}
	})
	t.Run("globals", func(t *testing.T) {
		s.t = t
		d := s.process(nil)
		s.image(d)
		a, b := s.client(d, 3), s.client(d, 4)
		for _, c := range []*tester{a, b} {
			c.kernel(2, 9, "count")
			for range 3 {
				c.launch(9, 1, u64s(c.window), nil)
			}
			if v := binary.LittleEndian.Uint32(c.get(1, c.window, 4)); v < 40+64 || v >= 40+96 {
				t.Errorf("client %d counts to %d; want 104 to 135: each session has its own instance, and 3 launches of 32 threads", c.id, v)
			}
			r := d.must(shm.Message{Type: shm.TypeGlobal, ClientID: c.id, Body: shm.Encode(shm.Kernel{ImageID: 2}), Tail: []byte("counter")})
			g, _ := shm.Decode[shm.Range](r.Body)
			if v := binary.LittleEndian.Uint32(c.get(1, g.Address, 4)); v != 40+96 {
				t.Errorf("client %d: the global holds %d; want 136", c.id, v)
			}
		}
	})
	t.Run("shared memory and clusters of launches", func(t *testing.T) {
		s.t = t
		d := s.process(nil)
		s.image(d)
		c := s.client(d, 5)
		d.must(shm.Message{Type: shm.TypeFuncAttr, ClientID: 5, Body: shm.Encode(shm.Setting{KernelID: 3, What: gpu.FuncMaxDynamicShared, Value: 64 << 10})})
		l := shm.Launch{Kernel: 3, GridX: 1, GridY: 1, GridZ: 1, BlockX: 64, BlockY: 1, BlockZ: 1, SharedBytes: 60 << 10, ParamBytes: 8}
		put(c, shm.KindLaunch, 1, l, u64s(c.window), nil)
		if got := c.get(1, c.window, 8); got[0] != 63 || got[4] != 62 {
			t.Errorf("% x", got)
		}
	})
	t.Run("fault and take-over", func(t *testing.T) {
		s.t = t
		d := s.process(nil)
		s.image(d)
		victim, bad := s.client(d, 6), s.client(d, 7)
		s.program(victim, 6, 100)
		bad.launch(2, 1, u64s(0x1234), nil) // writes where nothing is
		bad.ring.Publish()
		if err := d.end(); ExitCode(err) != ExitFault {
			t.Fatalf("end: %v; want exit code 3", err)
		}
		m := <-d.faults
		f, err := shm.Decode[shm.Fault](m.Body)
		if err != nil || f.CUDAResult != 700 || f.Blamed != 7 {
			t.Errorf("fault %+v, %v, %q", f, err, m.Tail)
		}
		bad.file.SetError(700, shm.ReasonFault) // as the daemon does
		d2 := s.process(d.bell)
		s.image(d2)
		s.attach(victim, d2)
		s.attach(bad, d2)
		if code, _ := victim.sticky(); code != 0 {
			t.Errorf("the other client has error %d", code)
		}
		s.program(victim, 7, 300)
	})
	t.Run("signals and a dead daemon", func(t *testing.T) {
		s.t = t
		d := s.start(nil, true)
		s.image(d)
		c := s.client(d, 9)
		for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
			p, err := os.FindProcess(d.pid)
			if err == nil {
				err = p.Signal(sig)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if r := d.do(shm.Message{Type: shm.TypeBye, ClientID: 9}); r.Status == shm.StatusOK { // writes a log line
			t.Errorf("BYE: %d", r.Status)
		}
		s.program(c, 9, 100)
		last := c.accumulate(1, 0, 1, nil)
		c.ring.Publish()
		until(t, "issued", func() bool { return atomic.LoadUint32(&c.file.Lane(1).Issued) == last })
		d.conn.Close()
		if err := d.end(); err != nil {
			t.Errorf("end: %v", err)
		}
		if c.done(1) != last || atomic.LoadUint32(&c.file.Status().State) != shm.StateClosed {
			t.Errorf("done %d of %d, state %d; want all and CLOSED", c.done(1), last, atomic.LoadUint32(&c.file.Status().State))
		}
	})
	t.Run("idle", func(t *testing.T) {
		s.t = t
		d := s.process(nil)
		s.image(d)
		c := s.client(d, 8)
		s.program(c, 8, 10)
		pid := atomic.LoadUint32(&c.file.Status().ExecutorPID)
		busy := func() time.Duration { return processTime(t, int(pid)) }
		// On a machine with other work a thread that is to sleep gets there late: one quiet second of ten is the claim.
		share := 1.0
		for i := 0; i < 10 && share > 0.03; i++ {
			from, at := busy(), time.Now()
			time.Sleep(time.Second)
			share = float64(busy()-from) / float64(time.Since(at))
			t.Logf("an idle executor uses %.2f %% of a core", 100*share)
		}
		if share > 0.03 {
			t.Errorf("an idle executor uses %.1f %% of a core", 100*share)
		}
	})
}

// processTime is the CPU time of all threads of a process.
func processTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	var total time.Duration
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		if err != nil {
			continue // a thread that ended
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			t.Fatalf("schedstat %q: %v", b, err)
		}
		total += time.Duration(ns)
	}
	return total
}
