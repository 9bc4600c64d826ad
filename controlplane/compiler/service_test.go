package compiler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit"
	"github.com/heddle-gpu/heddle/jit/cache"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/harvest"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

// workerEnv makes this test's binary a worker: a real one, or one that misbehaves in the way that it names when a kernel is
// called "bad".
const workerEnv = "HEDDLE_TEST_WORKER"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(workerEnv); mode {
	case "":
		os.Exit(m.Run())
	case "real":
		if err := Work(os.Stdin, os.Stdout, time.Minute); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		misbehave(mode)
	}
}

// misbehave answers every request for a kernel "good" with a form, and fails in its way at others.
func misbehave(mode string) {
	for {
		r, err := readRequest(os.Stdin)
		if err != nil {
			os.Exit(0)
		}
		if r.Bodies[0].Entry == "good" {
			l := coalesce.Layout{Mapping: r.Spec.Mapping, Capacity: r.Spec.Capacity, Stride: 32, Tail: 8, Globals: 32, ParamBytes: 32 * r.Spec.Capacity, BodyBytes: []int{8}}
			if err := writeFrame(os.Stdout, reply{Answer: Answer{Layout: l, Origins: []harvest.Origin{"image"}}}, []byte("code")); err != nil {
				os.Exit(1)
			}
			continue
		}
		switch mode {
		case "panic":
			panic("what a kernel")
		case "exit":
			os.Exit(0)
		case "kill":
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		case "deaf": // and nothing ends it but a kill
			for {
				time.Sleep(time.Hour)
			}
		case "eat":
			var all [][]byte
			for range 64 {
				b := make([]byte, 16<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				all = append(all, b)
				time.Sleep(5 * time.Millisecond)
			}
			runtime.KeepAlive(all)
			time.Sleep(time.Hour)
		case "noise":
			os.Stdout.Write(bytes.Repeat([]byte("All work and no play makes Jack a dull boy. "), 100))
		case "huge":
			os.Stdout.Write([]byte{0x48, 0x46, 0x52, 0x4d, 2, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0})
		case "half":
			os.Stdout.Write([]byte{0x48, 0x46, 0x52, 0x4d, 2, 0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, '{', '}', 1, 2, 3})
			os.Exit(0)
		case "empty":
			_ = writeFrame(os.Stdout, reply{})
		case "layout": // a form that would make the launcher write beyond its block
			l := coalesce.Layout{Mapping: r.Spec.Mapping, Capacity: r.Spec.Capacity, Stride: 32, Tail: 16, Globals: 1 << 40, ParamBytes: 64, BodyBytes: []int{8}}
			_ = writeFrame(os.Stdout, reply{Answer: Answer{Layout: l, Origins: []harvest.Origin{"image"}}}, []byte("code"))
		}
	}
}

func service(t *testing.T, mode string, change func(*Options)) *Service {
	t.Helper()
	o := Options{
		Command: []string{os.Args[0]}, Env: append(os.Environ(), workerEnv+"="+mode), Workers: 1, Timeout: 30 * time.Second,
		MemoryBytes: 256 << 20, MemoryEvery: 5 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s := New(o)
	t.Cleanup(s.Close)
	return s
}

func ask(entry string) *Request {
	image := []byte("image of " + entry)
	return &Request{
		Bodies: []Body{{Image: image, Hash: HashOf(image), Entry: entry}}, Spec: coalesce.Spec{Mapping: coalesce.ByZ, Capacity: 8},
		Device: Device{Major: 9, Driver: "test"},
	}
}

func code(err error) string {
	var f *Failure
	if errors.As(err, &f) {
		return f.Code
	}
	return fmt.Sprint(err)
}

// Whatever becomes of a worker costs the attempt: the next request is served, the same one is tried twice and then remembered.
func TestMisbehaviour(t *testing.T) {
	for mode, want := range map[string]string{
		"panic": Crashed, "exit": Crashed, "kill": Crashed, "deaf": TimedOut, "eat": TooMuchMemory, "noise": Garbage, "huge": Garbage, "half": Crashed,
		"empty": Garbage, "layout": Garbage,
	} {
		t.Run(mode, func(t *testing.T) {
			s := service(t, mode, func(o *Options) {
				if mode == "deaf" {
					o.Timeout = time.Second // a worker that is not deaf must have begun by then, however busy the machine is
				}
			})
			if a, err := s.Compile(context.Background(), ask("good")); err != nil || string(a.Code) != "code" || a.Layout.Capacity != 8 {
				t.Fatalf("before: %+v, %v", a, err)
			}
			_, err := s.Compile(context.Background(), ask("bad"))
			if code(err) != want {
				t.Fatalf("%v; want %s", err, want)
			}
			if mode == "panic" && !strings.Contains(err.Error(), "what a kernel") {
				t.Errorf("%v does not say what happened", err)
			}
			before := s.Counters().Workers
			if before != attempts {
				t.Errorf("%d workers were started; want %d: one for each attempt", before, attempts)
			}
			if _, err := s.Compile(context.Background(), ask("bad")); code(err) != want {
				t.Errorf("asked again: %v; want %s", err, want)
			}
			if a, err := s.Compile(context.Background(), ask("good")); err != nil || string(a.Code) != "code" {
				t.Errorf("afterwards: %v, %v", a, err)
			}
			if n := s.Counters(); n.Failed[want] != 1 || n.Workers != before+1 {
				t.Errorf("%+v; want one failure remembered, and one more worker for what came afterwards", n)
			}
		})
	}
}

func TestNoWorker(t *testing.T) {
	s := service(t, "", func(o *Options) { o.Command = []string{"/nonexistent/heddle"} })
	if _, err := s.Compile(context.Background(), ask("good")); code(err) != NotStarted {
		t.Errorf("%v; want %s", err, NotStarted)
	}
}

func TestCancel(t *testing.T) {
	s := service(t, "deaf", nil)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := s.Compile(ctx, ask("bad"))
		result <- err
	}()
	for s.Counters().Workers == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want canceled", err)
	}
	s.Close()
	if _, err := s.Compile(context.Background(), ask("good")); !errors.Is(err, context.Canceled) {
		t.Errorf("after Close: %v", err)
	}
}

// Many ask at once; one worker serves them all.
func TestMany(t *testing.T) {
	s := service(t, "panic", func(o *Options) { o.Idle = time.Hour })
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := s.Compile(context.Background(), ask("good")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.Counters(); n.Workers != 1 || n.Compiled != 50 || n.FirstSeconds <= 0 {
		t.Errorf("%+v; want 50 compiled by 1 worker", n)
	}
}

// An idle worker ends, and the next request starts another.
func TestIdleWorkerEnds(t *testing.T) {
	s := service(t, "panic", func(o *Options) { o.Idle = 20 * time.Millisecond })
	for s.Counters().Workers < 2 {
		if _, err := s.Compile(context.Background(), ask("good")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

func store(t *testing.T) *cache.Store {
	t.Helper()
	c, err := cache.Open(filepath.Join(t.TempDir(), "forms"), cache.Options{Mine: Mine})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A foreign entry under the right key, whole but with a layout that does not fit, is not believed either.
func TestCacheLayout(t *testing.T) {
	c := store(t)
	s := service(t, "panic", func(o *Options) { o.Cache = c })
	r := ask("good")
	for _, meta := range []string{"", "{}", `{"layout":{"Mapping":0,"Capacity":8,"Stride":4096,"ParamBytes":32}}`, "garbage"} {
		if err := c.Put(r.Key(), []byte(meta), []byte("planted")); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Compile(context.Background(), r); err != nil || a.Cached || string(a.Code) != "code" {
			t.Fatalf("%q: %+v, %v", meta, a, err)
		}
		if a, err := s.Compile(context.Background(), r); err != nil || !a.Cached || string(a.Code) != "code" {
			t.Fatalf("%q: the second time %+v, %v; want the cached form", meta, a, err)
		}
	}
}

func TestKeys(t *testing.T) {
	seen := map[cache.Key]string{}
	base := ask("good")
	note := func(what string, r *Request) {
		if other, ok := seen[r.Key()]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		seen[r.Key()] = what
	}
	note("base", base)
	change := func(what string, f func(*Request)) {
		r := *base
		r.Bodies = append([]Body(nil), base.Bodies...)
		f(&r)
		note(what, &r)
	}
	change("entry", func(r *Request) { r.Bodies[0].Entry = "other" })
	change("image", func(r *Request) { r.Bodies[0].Hash[5] ^= 1 })
	change("capacity", func(r *Request) { r.Spec.Capacity = 9 })
	change("mapping", func(r *Request) { r.Spec.Mapping = coalesce.ByTable })
	change("globals", func(r *Request) { r.Spec.ClientGlobals = true })
	change("architecture", func(r *Request) { r.Device.Minor = 1 })
	change("driver", func(r *Request) { r.Device.Driver = "newer" })
	change("two bodies", func(r *Request) { r.Bodies = append(r.Bodies, r.Bodies[0]) })
}

func TestImageTooLarge(t *testing.T) {
	s := service(t, "panic", nil)
	r := ask("good")
	r.Bodies[0].Image = make([]byte, MaxImageBytes+1)
	if _, err := s.Compile(context.Background(), r); code(err) != ImageTooLarge {
		t.Errorf("%v", err)
	}
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	_ = writeFrame(&b, reply{}, []byte("code"))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var r reply
		_, _ = readFrame(bytes.NewReader(b), &r, 1<<20)
		if _, err := readRequest(io.LimitReader(bytes.NewReader(b), 1<<20)); err == nil && len(b) < headerBytes {
			t.Error("a request in less than a header")
		}
	})
}

// The real worker on the software GPU.
func TestWorker(t *testing.T) {
	server := simtest.Start(t)
	uuid := func() string {
		cmd := server.Command(os.Args[0], "-test.run=^TestUUID$", "-test.v")
		cmd.Env = append(cmd.Env, uuidEnv+"=1", gpu.LibraryEnv+"="+simtest.Library(t)+"/libcuda.so.1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(out), "UUID=")
		id, _, _ := strings.Cut(rest, "\n")
		return id
	}()
	c := store(t)
	env := append(server.Command("x").Env, workerEnv+"=real", gpu.LibraryEnv+"="+simtest.Library(t)+"/libcuda.so.1")
	s := service(t, "real", func(o *Options) { o.Env, o.Cache, o.MemoryBytes = env, c, 2<<30 })
	request := func(text, entry string) *Request {
		return &Request{
			Bodies: []Body{{Image: []byte(text), Hash: HashOf([]byte(text)), Entry: entry}}, Spec: coalesce.Spec{Mapping: coalesce.ByZ, Capacity: 8},
			Device: Device{UUID: uuid, Major: 9, Driver: "sim"},
		}
	}
	scale := ptxHead + `.visible .entry scale(.param .u64 p, .param .f32 a, .param .f32 b) {
	.reg .b64 %rd<4>; .reg .b32 %r<4>; .reg .f32 %f<6>;
	ld.param.u64 %rd1, [p]; ld.param.f32 %f1, [a]; ld.param.f32 %f2, [b];
	mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
	ld.global.f32 %f3, [%rd3]; mul.f32 %f4, %f3, %f1; add.f32 %f5, %f4, %f2; st.global.f32 [%rd3], %f5;
	ret;
}
`
	a, err := s.Compile(context.Background(), request(scale, "scale"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Cached || !bytes.Contains(a.Code, []byte(coalesce.EntryName)) || a.Layout.Capacity != 8 || a.Layout.BodyBytes[0] != 16 || a.Origins[0] != "image" {
		t.Errorf("%+v", a)
	}
	other := service(t, "exit", func(o *Options) { o.Cache = c }) // its workers are of no use: it needs none
	if b, err := other.Compile(context.Background(), request(scale, "scale")); err != nil || !b.Cached || !bytes.Equal(b.Code, a.Code) {
		t.Errorf("from the cache: %v", err)
	}
	if n := other.Counters(); n.Workers != 0 || n.CacheHits != 1 {
		t.Errorf("%+v; want one hit and no worker", n)
	}
	newer := strings.Replace(scale, ".version 8.0", ".version 9.0", 1)
	if _, err := s.Compile(context.Background(), request(newer, "scale")); err != nil {
		t.Errorf("a newer version: %v", err)
	}
	deep := strings.Repeat("{", 1<<20)
	for name, x := range map[string]struct{ text, entry, want string }{
		"no kernel":       {scale, "absent", "no-kernel"},
		"garbage":         {"\x00\x01\x02 garbage", "k", "bad-image"},
		"cut":             {scale[:len(scale)-20], "scale", "bad-ptx"},
		"cooperative":     {strings.Replace(scale, "ret;", "mov.b32 %r2, %envreg1; ret;", 1), "scale", "cooperative"},
		"nested":          {strings.Replace(scale, "ret;", deep, 1), "scale", "bad-ptx"},
		"30 MB":           {scale + strings.Repeat("// and a comment that nobody reads\n", 30<<20/35), "scale", ""},
		"32 MiB and more": {scale + strings.Repeat("/", 33<<20), "scale", "too-large"},
	} {
		_, err := s.Compile(context.Background(), request(x.text, x.entry))
		switch {
		case x.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case x.want != "" && code(err) != x.want:
			t.Errorf("%s: %.200v; want %s", name, err, x.want)
		}
	}
	if _, err := s.Compile(context.Background(), request(scale+"\n", "scale")); err != nil {
		t.Errorf("after all that: %v", err)
	}
	// 30 MB of code need more than the 2 GiB of s; less is allowed here, because filling that much takes the race detector half a minute.
	small := service(t, "real", func(o *Options) { o.Env, o.MemoryBytes = env, 512<<20 })
	code30 := ptxHead + ".visible .entry scale() {\n.reg .b32 %r<4>;\n" + strings.Repeat("add.u32 %r1, %r2, %r3;\n", 30<<20/23) + "ret;\n}\n"
	if _, err := small.Compile(context.Background(), request(code30, "scale")); code(err) != TooMuchMemory && code(err) != TimedOut {
		t.Errorf("30 MB of code: %.200v; want %s, or %s", err, TooMuchMemory, TimedOut)
	}
	if _, err := small.Compile(context.Background(), request(scale+"\n\n", "scale")); err != nil {
		t.Errorf("after 30 MB of code: %v", err)
	}
}

const ptxHead = ".version 8.0\n.target sm_80\n.address_size 64\n"

const uuidEnv = "HEDDLE_TEST_UUID"

// TestUUID is run as a process of its own, to ask the software GPU for its name.
func TestUUID(t *testing.T) {
	if os.Getenv(uuidEnv) == "" {
		if _, err := openDriver("no UUID"); err == nil {
			t.Error("a device without a name was opened")
		}
		return
	}
	if err := gpu.Init(); err != nil {
		t.Fatal(err)
	}
	all, err := gpu.Devices()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("UUID=%s\n", all[0].UUID)
}

// Every package of this module that the compiler's process uses is in the key, or cannot change a form.
func TestKeyHoldsSources(t *testing.T) {
	const module = "github.com/heddle-gpu/heddle/"
	apart := map[string]bool{
		module + "controlplane/compiler": true, // own
		module + "controlplane/gpu":      true, // gpu.LinkSources are the part that compiles
		module + "jit/cache":             true, // its format is checked when it is read
		module + "jit":                   true,
	}
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{join .GoFiles \" \"}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, line := range strings.Split(string(out), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.HasPrefix(fields[0], module) || apart[fields[0]] {
			continue
		}
		found++
		for _, name := range fields[1:] {
			if _, err := fs.Stat(jit.Sources(), strings.TrimPrefix(fields[0], module+"jit/")+"/"+name); err != nil {
				t.Errorf("%s/%s is not in the cache's key: add it to jit/sources.go", fields[0], name)
			}
		}
	}
	if found < 5 {
		t.Errorf("%d packages", found)
	}
	files := fstest.MapFS{"a/x.go": {Data: []byte("1")}, "a/x_test.go": {Data: []byte("2")}}
	before := jit.HashSources(files)
	files["a/x_test.go"].Data = []byte("3")
	if jit.HashSources(files) != before {
		t.Error("a test is in the key")
	}
	files["a/x.go"].Data = []byte("3")
	if jit.HashSources(files) == before {
		t.Error("a source is not in the key")
	}
}
