package resolution

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/tools/hookgen/table"
)

const (
	root    = "../../.."
	include = root + "/.deps/cuda/nvidia/cu13/include"
	newest  = 13000 // the header's own CUDA version
	old     = 12040 // what driver 550 has
)

// plainly compiles a program as users do: cuda.h then renames cuMemAlloc to cuMemAlloc_v2.
const plainly = "-U__CUDA_API_VERSION_INTERNAL"

var (
	dir     string // everything built for this run
	entries []*table.Entry
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
	if dir, err = os.MkdirTemp("", "heddle-resolution-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if entries, err = table.Read(include, root+"/interposer/src/hooks/table.toml"); err != nil {
		return 1, err
	}
	if err := buildAll(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// cc compiles to dir/out. HEDDLE_SANITIZE (thread, undefined, address) builds everything but the product with a sanitizer.
func cc(out string, args ...string) error {
	full := append([]string{"-std=gnu11", "-D_GNU_SOURCE", "-D__CUDA_API_VERSION_INTERNAL", "-w", "-I" + include,
		"-Itestdata", "-I" + root + "/interposer/src", "-I" + root + "/shm/c", "-o", filepath.Join(dir, out)}, args...)
	if s := os.Getenv("HEDDLE_SANITIZE"); s != "" {
		full = append(full, "-fsanitize="+s, "-g")
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	if text, err := exec.Command(compiler, full...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", compiler, strings.Join(full, " "), err, text)
	}
	return nil
}

func write(name, text string) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

func library(soname string) []string {
	return []string{"-shared", "-fPIC", "-Wl,-soname," + soname}
}

// heddleSources are the arguments that link the part of the library under test with the answering hooks.
func heddleSources() ([]string, error) {
	hooks, err := filepath.Glob(root + "/interposer/src/hooks/*.c")
	if err != nil {
		return nil, err
	}
	exports, err := os.ReadFile(root + "/interposer/src/hooks/exports.map")
	if err != nil {
		return nil, err
	}
	script := write("exports.map", strings.Replace(string(exports), "global:", "global: rest_*;", 1))
	args := append(library("libheddle.so"), "-O2", "-fvisibility=hidden", "-fno-semantic-interposition", "-Wl,-z,now",
		"-Wl,--version-script="+script)
	args = append(args, hooks...)
	for _, f := range []string{"config.c", "log.c", "tools.c", "harvest/compilers.c", "harvest/link.c", "harvest/ptxas.c", "harvest/store.c", "code/fatbin.c", "marks/marks.c", "marks/nvtx.c", "../../shm/c/heddle_hash.c"} {
		args = append(args, root+"/interposer/src/"+f)
	}
	return append(args, "testdata/rest.c", write("hooks.c", hookSource(entries))), nil
}

func buildAll() error {
	heddle, err := heddleSources()
	if err != nil {
		return err
	}
	steps := []struct {
		out  string
		args []string
	}{
		{"libheddle.so", heddle},
		{"driver/libcuda.so.1", append(library("libcuda.so.1"), "-Wl,-Bsymbolic", "testdata/driver.c", write("driver.c", driverSource(entries, newest)))},
		{"old/libcuda.so.1", append(library("libcuda.so.1"), "-Wl,-Bsymbolic", "testdata/driver.c", write("olddriver.c", driverSource(entries, old)))},
		{"libstranger.so", append(library("libstranger.so"), "testdata/stranger.c")},
		{"libneighbour.so", append(library("libneighbour.so"), "testdata/neighbour.c")},
		{"liballocator.so", append(library("liballocator.so"), "testdata/allocator.c")},
		{"libempty.so", append(library("libempty.so"), "-x", "c", os.DevNull)},
		// Needs what a release for glibc 2.31 needs.
		{"libempty-release.so", append(library("libempty-release.so"), "-x", "c", os.DevNull, "-Wl,--no-as-needed", "-l:libpthread.so.0", "-l:libdl.so.2")},
		{"libcupti.so.13", append(library("libcupti.so.13"), "testdata/cupti.c")},
	}
	for _, d := range []string{"driver", "old", "none", "thread", "address"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	driver := filepath.Join(dir, "driver/libcuda.so.1")
	type step = struct {
		out  string
		args []string
	}
	steps = append(steps,
		step{"libuser.so", append(library("libuser.so"), "testdata/user.c", driver)},
		step{"libdeepuser.so", append(library("libdeepuser.so"), "testdata/user.c", driver)},
		step{"liblate.so", append(library("liblate.so"), plainly, "testdata/late.c", driver)},
		step{"libcuptiuser.so", append(library("libcuptiuser.so"), "testdata/cuptiuser.c", filepath.Join(dir, "libcupti.so.13"))},
		step{"each-on", []string{"testdata/each.c", write("on.c", eachSource(entries, true, newest, false))}},
		step{"each-off", []string{"testdata/each.c", write("off.c", eachSource(entries, false, newest, false))}},
		step{"each-old", []string{"testdata/each.c", write("oldeach.c", eachSource(entries, true, old, false))}},
		step{"each-linked-on", []string{"-fno-builtin", "testdata/each.c", write("lon.c", eachSource(entries, true, newest, true)), driver}},
		step{"each-linked-off", []string{"-fno-builtin", "testdata/each.c", write("loff.c", eachSource(entries, false, newest, true)), driver}},
		step{"semantics", []string{"testdata/semantics.c"}},
		step{"versions", []string{"testdata/versions.c"}},
		step{"neighbours", []string{"testdata/neighbours.c", driver}},
		step{"life", []string{plainly, "testdata/life.c", driver, "-lpthread"}},
		step{"absent", []string{"testdata/absent.c"}},
		step{"old-driver", []string{plainly, "testdata/old.c"}},
		step{"deepbind", []string{"testdata/deepbind.c"}},
		step{"quiet", []string{"testdata/quiet.c"}},
		step{"config", []string{"testdata/config.c", root + "/interposer/src/config.c", root + "/interposer/src/log.c"}},
	)
	for _, s := range steps {
		if err := cc(s.out, s.args...); err != nil {
			return err
		}
	}
	return nil
}

// A process is one run of a test program.
type process struct {
	preload []string // library names in dir
	driver  string   // driver, old or none
	env     []string
}

func (p process) run(t *testing.T, program string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, program), args...)
	return p.start(t, cmd)
}

func (p process) start(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, err error) {
	t.Helper()
	var out, text strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &text
	cmd.Env = p.environment()
	err = cmd.Run()
	return out.String(), text.String(), err
}

func (p process) environment() []string {
	driver := p.driver
	if driver == "" {
		driver = "driver"
	}
	var preload []string
	for _, l := range p.preload {
		preload = append(preload, filepath.Join(dir, l))
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "LD_LIBRARY_PATH=" + filepath.Join(dir, driver) + ":" + dir}
	if os.Getenv("HEDDLE_SANITIZE") != "" {
		// A preload comes before the sanitizer's runtime; the programs do not free what they leave to exit.
		env = append(env, "ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0")
	}
	if len(preload) > 0 {
		env = append(env, "LD_PRELOAD="+strings.Join(preload, ":"))
	}
	return append(env, p.env...)
}

var heddle = []string{"libheddle.so"}
