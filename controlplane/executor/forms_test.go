package executor

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// compilerEnv makes this test's binary a compiler process.
const compilerEnv = "HEDDLE_TEST_COMPILER"

// formBench is an executor of the software GPU without a daemon: its poller is asked directly, and its forms are launched by hand.
type formBench struct {
	t      *testing.T
	x      *executor
	device *gpu.Device
	images uint64
}

// newFormBench makes one; command is its compiler, dir its cache.
func newFormBench(t *testing.T, device *gpu.Device, command []string, dir string) *formBench {
	t.Helper()
	c := Config{DeviceUUID: device.UUID.String(), Compiler: command, CacheDir: dir, Log: quietLog(), Nice: 0, IssueThreads: 1, Tuning: Tuning{Always: true}}
	c.open = func() (Driver, Facts, error) { return nil, Facts{}, nil } // the defaults for tests
	c.defaults()
	x := &executor{config: c, log: c.Log, driver: newTimedDriver(device, func() bool { return false }), sessions: map[uint64]*session{}, images: map[uint64]*loaded{}, loader: newLoader()}
	x.facts = Facts{Least: device.LeastPriority, Greatest: device.GreatestPriority, SharedOptin: device.SharedOptin, Major: device.Major, Minor: device.Minor, Driver: driverVersion()}
	err := x.loader.do(func() (err error) {
		if err = device.Bind(); err == nil {
			x.engine, err = issue.New(device, issue.Options{Threads: 1, Least: x.facts.Least, Greatest: x.facts.Greatest, Spin: c.Tuning.Spin})
		}
		return err
	})
	if err == nil {
		x.poller, err = newPoller(c, x.engine, cost.Chip{})
	}
	if err != nil {
		t.Fatal(err)
	}
	x.forms = newForms(x)
	if x.prepared, err = newPrepared(x); err != nil {
		t.Fatal(err)
	}
	go x.poller.run()
	go x.forms.run()
	t.Cleanup(func() {
		x.forms.stop()
		x.poller.leave(leaveNow)
		<-x.poller.ended
		stopAll(x.loader)
		x.engine.Stop()
	})
	return &formBench{t: t, x: x, device: device}
}

func (b *formBench) image(text string) uint64 {
	b.t.Helper()
	b.images++
	fd := memfd(b.t, []byte(text), len(text))
	if err := b.x.takeImage(shm.Message{Body: shm.Encode(shm.Image{ImageID: b.images, Bytes: uint64(len(text))}), Fds: []int{fd}}); err != nil {
		b.t.Fatal(err)
	}
	return b.images
}

// session makes a client that only loads kernels.
func (b *formBench) session(id uint64) *session {
	b.t.Helper()
	file, err := shm.CreateSessionFile(id)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { file.Close() })
	s := newSession(b.x, id)
	s.client = &client{id: id, board: scoreboard.New(id, file)}
	return s
}

func (b *formBench) kernel(s *session, image uint64, id uint32, name string) *scoreboard.Kernel {
	b.t.Helper()
	if err := s.kernel(&shm.Kernel{ImageID: image, KernelID: id}, name); err != nil {
		b.t.Fatal(err)
	}
	return s.kernels[id]
}

// together does what the poller does when n ops of a code are ready, often enough to ask.
func (b *formBench) together(k *scoreboard.Kernel, n int, sameGrid bool) {
	b.x.poller.call(func() {
		for range 5 {
			b.x.poller.demand.Together(k.Code, n, sameGrid)
		}
	})
}

// forms waits until a code has n forms.
func (b *formBench) forms(k *scoreboard.Kernel, n int) []*scoreboard.Form {
	b.t.Helper()
	var all []*scoreboard.Form
	until(b.t, fmt.Sprintf("%d forms of %s", n, k.Code.Name), func() bool {
		if p := k.Code.Forms.Load(); p != nil {
			all = *p
		}
		if why := k.Code.Why.Load(); why != nil && len(all) < n {
			b.t.Fatalf("no form of %s: %s: %s", k.Code.Name, why.Code, why.Detail)
		}
		return len(all) >= n
	})
	return all
}

// why waits for the reason that a code has no form.
func (b *formBench) why(k *scoreboard.Kernel) scoreboard.Reason {
	b.t.Helper()
	until(b.t, "a reason", func() bool { return k.Code.Why.Load() != nil })
	return *k.Code.Why.Load()
}

// memory is host memory that kernels reach at the address where the test sees it.
func (b *formBench) memory(n uint64) []byte {
	b.t.Helper()
	var at uint64
	if err := b.x.loader.do(func() error {
		var r gpu.Result
		at, r = b.device.HostAlloc(n)
		return r.Err()
	}); err != nil {
		b.t.Fatal(err)
	}
	m := bytesAt(at, n)
	clear(m)
	return m
}

// one is an instance of a form's launch.
type one struct {
	body    int
	params  []byte
	grid    [3]uint32
	globals []uint64
}

// launch runs a form and waits; it checks that every instance's done word was written.
func (b *formBench) launch(f *scoreboard.Form, block uint32, instances []one) {
	b.t.Helper()
	l := &f.Layout
	host := b.memory(uint64(l.ParamBytes) + 16*uint64(len(instances)))
	words := host[(l.ParamBytes+7)/8*8:]
	first := uint32(0)
	for i, in := range instances {
		blocks := in.grid[0] * in.grid[1] * in.grid[2]
		at := addressOf(words[16*i:])
		l.Put(host[:l.ParamBytes], i, in.body, in.params, at, at+8, uint32(100+i), blocks*block, in.grid, first, in.globals)
		first += blocks
	}
	l.Finish(host[:l.ParamBytes], len(instances), first)
	launch := gpu.Launch{Function: f.Function, Grid: [3]uint32{first, 1, 1}, Block: [3]uint32{block, 1, 1}, Params: addressOf(host), ParamBytes: uint64(l.ParamBytes)}
	if l.Mapping == coalesce.ByZ {
		g := instances[0].grid
		launch.Grid = [3]uint32{g[0], g[1], uint32(len(instances))}
	}
	if err := b.x.loader.do(func() error {
		if r := b.device.Launch(&launch); r != gpu.Success {
			return r
		}
		return b.device.Synchronize().Err()
	}); err != nil {
		b.t.Fatal(err)
	}
	for i := range instances {
		if v := binary.LittleEndian.Uint32(words[16*i:]); v != uint32(100+i) {
			b.t.Errorf("instance %d of %d: done word %d; want %d", i, len(instances), v, 100+i)
		}
	}
}

// Forms from demand to launch, on the software GPU.
func TestForms(t *testing.T) {
	s := onSimGPU(t)
	if s == nil {
		return
	}
	t.Setenv(compilerEnv, "1")
	command := []string{os.Args[0]}
	dir := filepath.Join(t.TempDir(), "forms")
	stateless, err := os.ReadFile("testdata/stateless.ptx")
	if err != nil {
		t.Fatal(err)
	}
	counter, err := os.ReadFile("testdata/counter.ptx")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("compiled", func(t *testing.T) {
		b := newFormBench(t, s.device, command, dir)
		im := b.image(string(stateless))
		x, y := b.session(1), b.session(2)
		k, k2 := b.kernel(x, im, 1, "accumulate"), b.kernel(y, im, 7, "accumulate")
		if k.Code != k2.Code || k.Code == nil {
			t.Fatal("two sessions' kernels of one image have different codes")
		}
		b.together(k, 4, true)
		small := b.forms(k, 1)[0]
		if small.Layout.Capacity != scoreboard.SmallCapacity || small.Layout.Mapping != coalesce.ByZ || small.Bodies[0] != k.Code {
			t.Errorf("%+v", small)
		}
		b.together(k, 20, true)
		b.together(k, 3, false)
		all := b.forms(k, 3)
		if got := []int{all[0].Layout.Capacity, all[1].Layout.Capacity, all[2].Layout.Capacity}; !slices.Equal(got, []int{8, 128, 8}) {
			t.Errorf("capacities %v; want 8, 128, 8", got)
		}
		for _, f := range all {
			b.additions(f, 5)
		}
		if k.Code.Why.Load() != nil || k.Globals.Load() != nil {
			t.Errorf("%+v, globals %v", k.Code.Why.Load(), k.Globals.Load())
		}
		until(t, "nothing on its way", func() bool { return b.x.forms.snapshot().Making == 0 })
		st := b.x.forms.snapshot()
		if st.Codes != 1 || st.Asked != 3 || st.Forms != 3 || st.Compiled != 3 || st.Workers != 1 || st.CacheHits != 0 || st.FirstCompileSeconds <= 0 || st.Bytes == 0 || len(st.Failed) > 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("from the cache", func(t *testing.T) {
		b := newFormBench(t, s.device, []string{"/nonexistent/compiler"}, dir)
		k := b.kernel(b.session(1), b.image(string(stateless)), 1, "accumulate")
		b.together(k, 20, true)
		for _, f := range b.forms(k, 2) {
			b.additions(f, 8)
		}
		if st := b.x.forms.snapshot(); st.CacheHits != 2 || st.Compiled != 0 || st.Workers != 0 {
			t.Errorf("%+v; want two hits and no compiler", st)
		}
	})
	t.Run("globals of each client", func(t *testing.T) {
		b := newFormBench(t, s.device, command, dir)
		im := b.image(string(counter))
		x, y := b.session(1), b.session(2)
		k1 := b.kernel(x, im, 1, "count")
		b.together(k1, 2, true)
		f := b.forms(k1, 1)[0]
		k2 := b.kernel(y, im, 1, "count") // comes when the form is there
		if k1.Globals.Load() == nil || k2.Globals.Load() == nil {
			t.Fatalf("globals %v and %v, form %+v", k1.Globals.Load(), k2.Globals.Load(), f.Layout)
		}
		g1, g2 := *k1.Globals.Load(), *k2.Globals.Load()
		if len(g1) != 1 || len(g2) != 1 || g1[0] == g2[0] || g1[0] == 0 {
			t.Fatalf("addresses %#x and %#x", g1, g2)
		}
		out := b.memory(16)
		b.launch(f, 32, []one{{0, u64s(addressOf(out)), [3]uint32{3, 1, 1}, g1}, {0, u64s(addressOf(out[8:])), [3]uint32{3, 1, 1}, g2}})
		for i, g := range []uint64{g1[0], g2[0]} {
			v := b.memory(4)
			if err := b.x.loader.do(func() error {
				if r := s.device.CopyToHost(0, addressOf(v), g, 4); r != gpu.Success {
					return r
				}
				return s.device.Synchronize().Err()
			}); err != nil {
				t.Fatal(err)
			}
			if n := binary.LittleEndian.Uint32(v); n != 40+96 {
				t.Errorf("client %d counts to %d; want 136", i, n)
			}
		}
		b.x.loader.do(func() error { b.x.forms.detach(k1); return nil })
		if n := len(b.x.forms.info(k1.Code).kernels); n != 1 {
			t.Errorf("%d kernels after one client left; want 1", n)
		}
	})
	t.Run("packed", func(t *testing.T) {
		b := newFormBench(t, s.device, command, dir)
		im, im2 := b.image(string(stateless)), b.image(strings.ReplaceAll(string(stateless), "add.s32 	%r8, %r6, %r7", "sub.s32 	%r8, %r6, %r7"))
		c := b.session(1)
		add, sub := b.kernel(c, im, 1, "accumulate"), b.kernel(c, im2, 2, "accumulate")
		b.x.poller.call(func() {
			for range 10 {
				b.x.poller.demand.Beside([]*scoreboard.Code{sub.Code, add.Code}, 1e9, 1)
			}
		})
		f := b.forms(add, 1)[0]
		if len(f.Bodies) != 2 || len(b.forms(sub, 1)) != 1 {
			t.Fatalf("%+v", f)
		}
		at := slices.Index(f.Bodies, sub.Code)
		m := b.memory(3 * 400)
		for i := range 100 {
			binary.LittleEndian.PutUint32(m[4*i:], uint32(1000+i))
			binary.LittleEndian.PutUint32(m[400+4*i:], uint32(2000+i))
			binary.LittleEndian.PutUint32(m[800+4*i:], uint32(i))
		}
		params := func(dst, src int) []byte {
			return binary.LittleEndian.AppendUint32(u64s(addressOf(m[400*dst:]), addressOf(m[400*src:])), 100)
		}
		b.launch(f, 64, []one{{1 - at, params(0, 2), [3]uint32{2, 1, 1}, nil}, {at, params(1, 2), [3]uint32{4, 1, 1}, nil}})
		for i := range 100 {
			if p, q := binary.LittleEndian.Uint32(m[4*i:]), binary.LittleEndian.Uint32(m[400+4*i:]); p != uint32(1000+2*i) || q != 2000 {
				t.Fatalf("element %d: %d and %d; want %d and 2000", i, p, q, 1000+2*i)
			}
		}
	})
	t.Run("attributes", func(t *testing.T) {
		b := newFormBench(t, s.device, command, dir)
		im := b.image(string(stateless))
		c := b.session(1)
		k := b.kernel(c, im, 1, "sharing")
		set := func(v uint64) {
			t.Helper()
			if err := c.attribute(&shm.Setting{KernelID: 1, What: gpu.FuncMaxDynamicShared, Value: v}); err != nil {
				t.Fatal(err)
			}
		}
		set(64 << 10)
		b.together(k, 4, true)
		f := b.forms(k, 1)[0]
		if f.Limit.Load() != 64<<10 {
			t.Errorf("the form allows %d bytes; the client set %d before", f.Limit.Load(), 64<<10)
		}
		set(96 << 10)
		if f.Limit.Load() != 96<<10 {
			t.Errorf("the form allows %d bytes; the client set %d since", f.Limit.Load(), 96<<10)
		}
		if !f.Layout.UsesDynamicShared {
			t.Error("the layout does not tell of dynamic shared memory")
		}
	})
	t.Run("refused", func(t *testing.T) {
		b := newFormBench(t, s.device, command, dir)
		text := strings.Replace(string(stateless), "mov.u32 	%r2, 1;", "mov.b32 	%r2, %envreg1;", 1)
		k := b.kernel(b.session(1), b.image(text), 1, "stray")
		b.together(k, 4, true)
		if why := b.why(k); why.Code != string(coalesce.CodeCooperative) || why.Detail == "" {
			t.Errorf("%+v; want cooperative", why)
		}
		if st := b.x.forms.snapshot(); st.Failed[string(coalesce.CodeCooperative)] != 1 || st.Forms != 0 {
			t.Errorf("%+v", st)
		}
		until(t, "nothing on its way", func() bool { return b.x.forms.snapshot().Making == 0 })
	})
	t.Run("without a compiler", func(t *testing.T) {
		b := newFormBench(t, s.device, []string{"/nonexistent/compiler"}, "")
		k := b.kernel(b.session(1), b.image(string(stateless)), 1, "stray")
		b.together(k, 4, true)
		if why := b.why(k); why.Code != compiler.NotStarted {
			t.Errorf("%+v", why)
		}
		off := newFormBench(t, s.device, nil, "")
		k = off.kernel(off.session(1), off.image(string(stateless)), 1, "stray")
		off.together(k, 4, true)
		if why := off.why(k); why.Code != reasonOff {
			t.Errorf("%+v", why)
		}
	})
	t.Run("an executor that leaves ends its compilers", func(t *testing.T) {
		marker := filepath.Join(t.TempDir(), "started")
		var b *formBench
		t.Run("inner", func(t *testing.T) {
			b = newFormBench(t, s.device, []string{"/bin/sh", "-c", "echo $$ > " + marker + ".new; mv " + marker + ".new " + marker + "; exec sleep 600"}, "")
			k := b.kernel(b.session(1), b.image(string(stateless)), 1, "stray")
			b.together(k, 4, true)
			until(t, "a compiler", func() bool { _, err := os.Stat(marker); return err == nil })
			if st := b.x.forms.snapshot(); st.Making != 1 || st.Asked != 1 {
				t.Errorf("%+v; want one form on its way", st)
			}
		})
		var pid int
		text, _ := os.ReadFile(marker)
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, 0); err != unix.ESRCH {
			t.Errorf("the compiler is still there: %v", err)
		}
	})
}

// additions runs n instances of accumulate, each on data of its own.
func (b *formBench) additions(f *scoreboard.Form, n int) {
	b.t.Helper()
	const elements = 100
	m := b.memory(uint64(n) * 2 * elements * 4)
	var all []one
	for i := range n {
		at := m[i*2*elements*4:]
		for e := range elements {
			binary.LittleEndian.PutUint32(at[4*e:], uint32(1000*i+e))
			binary.LittleEndian.PutUint32(at[4*(elements+e):], uint32(7*i))
		}
		p := binary.LittleEndian.AppendUint32(u64s(addressOf(at), addressOf(at[4*elements:])), elements)
		grid := [3]uint32{2, 1, 1}
		if f.Layout.Mapping == coalesce.ByTable {
			grid = [3]uint32{2 + uint32(i)%3, 1, 1} // each its own
		}
		all = append(all, one{0, p, grid, nil})
	}
	b.launch(f, 64, all)
	for i := range n {
		for e := range elements {
			if v := binary.LittleEndian.Uint32(m[4*(i*2*elements+e):]); v != uint32(1007*i+e) {
				b.t.Fatalf("%v: instance %d element %d: %d; want %d", f.Layout.Mapping, i, e, v, 1007*i+e)
			}
		}
	}
}

// Every reason is explained to users.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/compiler.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{
		reasonFull, reasonLoad, reasonAttributes, reasonGlobals, reasonOff, reasonBusy,
		compiler.Crashed, compiler.TimedOut, compiler.TooMuchMemory, compiler.Garbage, compiler.NotStarted, compiler.Assembler, compiler.Numerics,
		compiler.ImageTooLarge, compiler.Internal,
	} {
		if !strings.Contains(string(page), "`"+code+"`") {
			t.Errorf("docs/compiler.md does not explain %q", code)
		}
	}
}
