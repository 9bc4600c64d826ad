// Package harvest tests that the preload library stores the PTX of machine code when a compiler makes it, under the name by which
// jit/harvest finds it: with the real ptxas, nvcc and NVRTC, and with doubles of nvJitLink's and the driver's linkers.
package harvest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/jit/harvest"
)

const root = "../../.."

var (
	dir     string // everything built for this run
	library string
	cuda    string
	nvrtc   string // folder of the real libnvrtc
)

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func prepare(m *testing.M) (int, error) {
	var err error
	if dir, err = os.MkdirTemp("", "heddle-harvest-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if cuda, err = filepath.Abs(root + "/.deps/cuda/nvidia/cu13"); err != nil {
		return 1, err
	}
	found, _ := filepath.Glob(root + "/.deps/numba/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13")
	if len(found) != 1 {
		return 1, errors.New("no libnvrtc.so.13 in .deps/numba: run tools/deps/numba.sh")
	}
	if nvrtc, err = filepath.Abs(filepath.Dir(found[0])); err != nil {
		return 1, err
	}
	if library = os.Getenv("HEDDLE_LIBRARY"); library == "" && os.Getenv("HEDDLE_BUILD") != "" {
		library = os.Getenv("HEDDLE_BUILD") + "/lib/heddle/libheddle.so"
	}
	if library == "" {
		for _, args := range [][]string{{"-S", root, "-B", dir + "/c"}, {"--build", dir + "/c"}} {
			if out, err := exec.Command("cmake", args...).CombinedOutput(); err != nil {
				return 1, fmt.Errorf("cmake %s: %w\n%s", strings.Join(args, " "), err, out)
			}
		}
		library = dir + "/c/libheddle.so"
	}
	opened := nvrtc + "/libnvrtc.so.13"
	for _, args := range [][]string{
		{"nvrtc.c", "-DLIBRARY=\"" + opened + "\"", "-o", dir + "/nvrtc-opened", "-ldl"},
		{"nvrtc.c", "-o", dir + "/nvrtc-linked", opened, "-Wl,-rpath," + nvrtc},
		{"static.c", "-shared", "-fPIC", "-o", dir + "/libstatic.so"},
		{"static.c", "-DPROGRAM", "-o", dir + "/static", dir + "/libstatic.so", "-Wl,-rpath," + dir},
		{"jitlink.c", "-o", dir + "/jitlink", "-ldl"},
		{"nvjitlink.c", "-shared", "-fPIC", "-o", dir + "/libnvJitLink.so.13"},
		{"cuda.c", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", dir + "/libcuda.so.1"},
		{"culink.c", "-o", dir + "/culink", dir + "/libcuda.so.1", "-Wl,-rpath," + dir},
	} {
		args[0] = "testdata/" + args[0]
		if out, err := exec.Command("cc", append([]string{"-std=gnu11", "-O1", "-Wall", "-Werror", "-isystem", cuda + "/include"}, args...)...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	return m.Run(), nil
}

// bed is a store of its own, and a folder to work in.
type bed struct {
	*testing.T
	work, cache string
	env         []string
}

func newBed(t *testing.T, env ...string) *bed {
	b := &bed{t, t.TempDir(), filepath.Join(t.TempDir(), "cache"), env}
	b.write("k.ptx", kernel)
	return b
}

const kernel = `.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 a, .param .f32 b, .param .u32 n) {
  .reg .b64 %rd<2>; .reg .f32 %f<4>;
  ld.param.u64 %rd1, [a]; ld.param.f32 %f1, [b];
  ld.global.f32 %f2, [%rd1]; mul.f32 %f2, %f2, %f1; add.f32 %f2, %f2, %f1; st.global.f32 [%rd1], %f2;
  ret;
}
`

func (b *bed) write(name, text string) string {
	b.Helper()
	path := filepath.Join(b.work, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// run runs a program under the preload library, in the work folder.
func (b *bed) run(program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = b.work
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.work, "LD_PRELOAD=" + library, "LD_LIBRARY_PATH=" + nvrtc,
		"HEDDLE_CACHE_DIR=" + b.cache, "HEDDLE_RUNTIME_DIR=" + b.work, "HEDDLE_SOCKET=" + b.work + "/none",
	}, b.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *bed) must(program string, args ...string) {
	b.Helper()
	if out, err := b.run(program, args...); err != nil {
		b.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

func (b *bed) stored() []string {
	found, err := filepath.Glob(b.cache + "/ptx/*")
	if err != nil {
		b.Fatal(err)
	}
	return found
}

// find asks jit/harvest for kernel k of a file of machine code.
func (b *bed) find(image string) (harvest.Found, error) {
	b.Helper()
	code, err := os.ReadFile(filepath.Join(b.work, image))
	if err != nil {
		b.Fatal(err)
	}
	return harvest.Find(code, 9, 0, "k", harvest.Places{Store: b.cache + "/ptx"})
}

// expect checks that the store has the text of an image, and nothing else.
func (b *bed) expect(what, image string, noContraction bool) {
	b.Helper()
	f, err := b.find(image)
	if err != nil || f.Origin != harvest.FromStore || f.NoContraction != noContraction {
		b.Errorf("%s: %v from %q, no contraction %v (want %v)", what, err, f.Origin, f.NoContraction, noContraction)
	}
	if s := b.stored(); len(s) != 1 {
		b.Errorf("%s: the store has %q", what, s)
	}
	if st, err := os.Stat(b.cache + "/ptx"); err != nil || st.Mode().Perm() != 0o700 {
		b.Errorf("%s: %v, mode %v", what, err, st.Mode())
	}
}

func (b *bed) expectNothing(what string) {
	b.Helper()
	if s := b.stored(); len(s) != 0 {
		b.Errorf("%s: the store has %q", what, s)
	}
}

// A library with the static NVRTC inside calls its own, also where the preload library's functions come first.
func TestStaticNVRTC(t *testing.T) {
	newBed(t).must(dir + "/static")
}

func TestPtxas(t *testing.T) {
	ptxas := cuda + "/bin/ptxas"
	other := filepath.Join(dir, "ptxas-blackwell")
	if err := os.Symlink(ptxas, other); err != nil {
		t.Fatal(err)
	}
	disguised := filepath.Join(dir, "assembler")
	if err := os.Symlink(ptxas, disguised); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, program, args string
		env                 []string
		stored, noFMA       bool
	}{
		{"plain", ptxas, "-arch=sm_90 k.ptx -o k.cubin", nil, true, false},
		{"Triton's", other, "-lineinfo -v --fmad=false --gpu-name=sm_90 k.ptx -o k.cubin", nil, true, true},
		{"long names, values apart", ptxas, "--gpu-name sm_90 --fmad false --opt-level 1 --output-file k.cubin k.ptx", nil, true, true},
		{"fmad on", ptxas, "-arch sm_90 -fmad true -O2 k.ptx --output-file=k.cubin", nil, true, false},
		{"relocatable", ptxas, "-c -arch=sm_90 k.ptx -o k.cubin", nil, false, false},
		{"two inputs", ptxas, "-arch=sm_90 k.ptx l.ptx -o k.cubin", nil, false, false},
		{"no output named", ptxas, "-arch=sm_90 k.ptx", nil, false, false},
		{"harvest off", ptxas, "-arch=sm_90 k.ptx -o k.cubin", []string{"HEDDLE_HARVEST=0"}, false, false},
		{"Heddle off", ptxas, "-arch=sm_90 k.ptx -o k.cubin", []string{"HEDDLE_DISABLE=1"}, false, false},
		{"another program", disguised, "-arch=sm_90 k.ptx -o k.cubin", nil, false, false},
		{"it fails", ptxas, "-arch=sm_90 bad.ptx -o k.cubin", nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, c.env...)
			b.write("l.ptx", strings.ReplaceAll(kernel, "k(", "l("))
			b.write("bad.ptx", kernel+"oops")
			out, err := b.run(c.program, strings.Fields(c.args)...)
			if fails := c.name == "it fails"; (err != nil) != fails {
				t.Fatalf("%v\n%s", err, out)
			}
			if c.stored {
				b.expect(c.name, "k.cubin", c.noFMA)
			} else {
				b.expectNothing(c.name)
			}
		})
	}
}

// A program that nvcc made for one architecture has no PTX in it; the store has, for the code inside the compressed fat binary.
func TestNvcc(t *testing.T) {
	b := newBed(t)
	b.write("k.cu", `extern "C" __global__ void k(float *a, float b, int n) { a[n] = a[n] * b + b; }`)
	b.must(cuda+"/bin/nvcc", "-gencode", "arch=compute_90,code=sm_90", "-fatbin", "k.cu", "-o", "k.fatbin")
	b.expect("nvcc", "k.fatbin", false)
}

func TestNVRTC(t *testing.T) {
	const source = `extern "C" __global__ void k(float *a, float b, int n) { a[n] = a[n] * b + b; }`
	for _, program := range []string{"nvrtc-opened", "nvrtc-linked"} {
		for _, c := range []struct {
			options       string
			stored, noFMA bool
		}{
			{"--gpu-architecture=sm_90", true, false},
			{"-arch=sm_90 -fmad=false", true, true},
			{"-arch=sm_90 --use_fast_math --fmad=false", false, false},
			{"-arch=sm_90 --ptxas-options=-O0", false, false},
			{"-arch=sm_90 -rdc=true", false, false},
		} {
			b := newBed(t)
			b.must(filepath.Join(dir, program), append([]string{source, "k.cubin"}, strings.Fields(c.options)...)...)
			if what := program + " " + c.options; c.stored {
				b.expect(what, "k.cubin", c.noFMA)
			} else {
				b.expectNothing(what)
			}
		}
		b := newBed(t, "HEDDLE_HARVEST=0")
		b.must(filepath.Join(dir, program), source, "k.cubin", "-arch=sm_90")
		b.expectNothing(program + " with harvest off")
	}
}

// assembled is kernel's machine code, made without the preload library.
func assembled(t *testing.T) string {
	t.Helper()
	text, out := filepath.Join(t.TempDir(), "k.ptx"), filepath.Join(t.TempDir(), "k.cubin")
	if err := os.WriteFile(text, []byte(kernel), 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command(cuda+"/bin/ptxas", "-arch=sm_90", text, "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	return out
}

func TestLinkers(t *testing.T) {
	result := assembled(t)
	link := func(b *bed, options, inputs string) {
		args := append([]string{dir + "/libnvJitLink.so.13", "_13_0", "out"}, strings.Fields(options)...)
		b.must(dir+"/jitlink", append(append(args, "--"), strings.Fields(inputs)...)...)
	}
	driver := func(b *bed, option, inputs string) {
		b.must(dir+"/culink", append([]string{"out", option}, strings.Fields(inputs)...)...)
	}
	for _, c := range []struct {
		name            string
		link            func(b *bed, options, inputs string)
		options, inputs string
		stored, noFMA   bool
	}{
		{"JAX's", link, "-arch=sm_90 -Xptxas=--warn-on-spills -split-compile=1 -no-cache", "data:2:k.ptx", true, false},
		{"a file", link, "-arch=sm_90", "file:2:k.ptx", true, false},
		{"of any type", link, "-arch=sm_90", "data:10:k.ptx", true, false},
		{"no contraction", link, "-arch=sm_90 -Xptxas=--fmad=false", "data:2:k.ptx", true, true},
		{"values apart", link, "-arch=sm_90 -Xptxas=--fmad -Xptxas=false", "data:2:k.ptx", false, false},
		{"link-time optimisation", link, "-arch=sm_90 -lto", "data:2:k.ptx", false, false},
		{"an unknown option", link, "-arch=sm_90 -later", "data:2:k.ptx", false, false},
		{"two texts", link, "-arch=sm_90", "data:2:k.ptx data:2:k.ptx", false, false},
		{"a text and an object", link, "-arch=sm_90", "data:2:k.ptx data:5:k.ptx", false, false},
		{"machine code", link, "-arch=sm_90", "data:1:k.ptx", false, false},
		{"the driver's", driver, "-1", "data:1:k.ptx", true, false},
		{"the driver's, a file", driver, "-1", "file:1:k.ptx", true, false},
		{"the driver's, fewer registers", driver, "0", "data:1:k.ptx", true, false},
		{"the driver's, without FMA", driver, "23", "data:1:k.ptx", false, false},
		{"the driver's, two texts", driver, "-1", "data:1:k.ptx data:1:k.ptx", false, false},
		{"the driver's, a cubin", driver, "-1", "data:0:k.ptx", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, "RESULT="+result)
			c.link(b, c.options, c.inputs)
			if c.stored {
				b.expect(c.name, "out", c.noFMA)
			} else {
				b.expectNothing(c.name)
			}
			if got, err := os.ReadFile(filepath.Join(b.work, "out")); err != nil || !bytes.Equal(got, load(t, result)) {
				t.Errorf("the program got %d bytes, %v", len(got), err)
			}
		})
	}
}

func load(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Nothing is written where others could have prepared the folder, and the program does not notice.
func TestFolders(t *testing.T) {
	ptxas := cuda + "/bin/ptxas"
	for _, c := range []struct {
		name   string
		env    func(b *bed) string
		where  string // below the work folder; "" for nowhere
		before func(b *bed) error
	}{
		{"the default", func(b *bed) string { return "HEDDLE_CACHE_DIR=" }, ".cache/heddle/ptx", nil},
		{"XDG", func(b *bed) string { return "XDG_CACHE_HOME=" + b.work }, "heddle/ptx", nil},
		{"relative", func(b *bed) string { return "HEDDLE_CACHE_DIR=here" }, "", nil},
		{"writable by others", func(b *bed) string { return "HEDDLE_CACHE_DIR=" + b.work + "/open" }, "", func(b *bed) error {
			return errors.Join(os.Mkdir(b.work+"/open", 0o777), os.Chmod(b.work+"/open", 0o777))
		}},
		{"no folder", func(b *bed) string { return "HEDDLE_CACHE_DIR=" + b.work + "/k.ptx" }, "", nil},
		{"a store that is a file", func(b *bed) string { return "HEDDLE_CACHE_DIR=" + b.work + "/c" }, "", func(b *bed) error {
			return errors.Join(os.Mkdir(b.work+"/c", 0o700), os.WriteFile(b.work+"/c/ptx", nil, 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			if c.before != nil {
				if err := c.before(b); err != nil {
					t.Fatal(err)
				}
			}
			b.env = []string{c.env(b)}
			if strings.HasPrefix(b.env[0], "XDG") {
				b.env = append(b.env, "HEDDLE_CACHE_DIR=")
			}
			b.must(ptxas, "-arch=sm_90", "k.ptx", "-o", "k.cubin")
			var got []string
			_ = filepath.WalkDir(b.work, func(path string, _ os.DirEntry, _ error) error {
				if strings.HasSuffix(path, ".ptx") && filepath.Base(path) != "k.ptx" {
					got = append(got, filepath.Dir(path))
				}
				return nil
			})
			want := []string{filepath.Join(b.work, c.where)}
			if c.where == "" {
				want = nil
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("written into %q; want %q", got, want)
			}
		})
	}
}

// The folder stays bounded: the oldest go, and what a writer that died left goes after an hour.
func TestBounded(t *testing.T) {
	b := newBed(t)
	store := b.cache + "/ptx"
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	const most, more = 4096, 300
	ages := time.Now().Add(-24 * time.Hour)
	for i := range most + more {
		path := filepath.Join(store, fmt.Sprintf("%032x.ptx", i))
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		when := ages.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	left := filepath.Join(store, ".123-0-left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, ages, ages); err != nil {
		t.Fatal(err)
	}
	// One write in sixteen looks after the bounds: the one whose second hash ends in a zero.
	code := load(t, assembled(t))
	for i := 0; ; i++ {
		binary.LittleEndian.PutUint32(code[64:], uint32(i)) // a byte of the first section
		name := harvest.StoreName(code)
		if h, err := strconv.ParseUint(name[16:32], 16, 64); err != nil {
			t.Fatal(err)
		} else if h%16 == 0 {
			break
		}
	}
	b.env = []string{"RESULT=" + b.write("result", string(code))}
	b.must(dir+"/jitlink", dir+"/libnvJitLink.so.13", "_13_0", "out", "-arch=sm_90", "--", "data:2:k.ptx")
	all := b.stored()
	if len(all) != most {
		t.Errorf("%d files; want %d", len(all), most)
	}
	for i := range more {
		if _, err := os.Stat(filepath.Join(store, fmt.Sprintf("%032x.ptx", i))); err == nil {
			t.Fatalf("the %d-th oldest is still there", i)
		}
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("the file of a writer that died is still there")
	}
	if _, err := os.Stat(filepath.Join(store, harvest.StoreName(code))); err != nil {
		t.Error(err)
	}
}
