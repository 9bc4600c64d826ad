package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

var nightly = os.Getenv("HEDDLE_NIGHTLY") != ""

// seed chooses the sample: HEDDLE_SEED, or the day.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().Unix() / 86400)
	if v := os.Getenv("HEDDLE_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("HEDDLE_SEED=%s: expected a number", v)
		}
		s = n
	}
	t.Logf("HEDDLE_SEED=%d repeats this choice", s)
	return s
}

// mix spreads a seed.
func mix(s uint64) uint64 {
	s += 0x9e3779b97f4a7c15
	s = (s ^ s>>30) * 0xbf58476d1ce4e5b9
	s = (s ^ s>>27) * 0x94d049bb133111eb
	return s ^ s>>31
}

// architectures are those of this run.
func architectures(s uint64) []string {
	all := kernels.Architectures()
	if nightly {
		return all
	}
	return []string{all[mix(s)%uint64(len(all))]}
}

// sample gives n of the kernels, all at night.
func sample(all []kernels.Kernel, s uint64, n int) []kernels.Kernel {
	if nightly || n >= len(all) {
		return all
	}
	out := append([]kernels.Kernel(nil), all...)
	for i := range n {
		s = mix(s)
		j := i + int(s%uint64(len(out)-i))
		out[i], out[j] = out[j], out[i]
	}
	return out[:n]
}

var modules sync.Map // of parsed sources, by file

// module parses a kernel's source, once.
func module(t *testing.T, k kernels.Kernel) *ptx.Module {
	t.Helper()
	if m, ok := modules.Load(k.Source.File); ok {
		return m.(*ptx.Module)
	}
	m, err := ptx.Parse(k.PTX())
	if err != nil {
		t.Fatalf("%s: %v", k.Source.File, err)
	}
	modules.Store(k.Source.File, m)
	return m
}

var programs sync.Map // of decoded sources, by file

// program decodes a kernel's source, once.
func program(t *testing.T, k kernels.Kernel) *interp.Program {
	t.Helper()
	if p, ok := programs.Load(k.Source.File); ok {
		return p.(*interp.Program)
	}
	p, err := interp.LoadModule(module(t, k))
	if err != nil {
		t.Fatalf("%s: %v", k.Source.File, err)
	}
	programs.Store(k.Source.File, p)
	return p
}

// ptxas is NVIDIA's assembler of CUDA 13.0.
func ptxas(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../.deps/cuda/nvidia/cu13/bin/ptxas")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run tools/deps/fetch.sh cuda", err)
	}
	return path
}

// assemble assembles a module, or says what ptxas says.
func assemble(ctx context.Context, ptxas, dir, name, arch string, src []byte) error {
	name = strings.NewReplacer("/", "_", ".ptx", "").Replace(name) + "." + arch
	file := filepath.Join(dir, name+".ptx")
	if err := os.WriteFile(file, src, 0o644); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, ptxas, "-arch", arch, file, "-o", filepath.Join(dir, name+".cubin")).CombinedOutput()
	if err != nil {
		if len(out) > 1500 {
			out = out[:1500]
		}
		return fmt.Errorf("ptxas -arch %s: %w\n%s", arch, err, out)
	}
	return nil
}

// inParallel does n jobs on all processors.
func inParallel(n int, job func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				job(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// TestCorpus: the list is what it says, and every kernel that the interpreter can run gives the same bits in any order of
// threads, changes something, and depends on its seed.
func TestCorpus(t *testing.T) {
	s := seed(t)
	all := kernels.All()
	if len(all) < 200 {
		t.Fatalf("%d kernels, the promise is 200", len(all))
	}
	names := map[string]bool{}
	origins := map[kernels.Origin]int{}
	for _, k := range all {
		if names[k.Name] {
			t.Errorf("two kernels %s", k.Name)
		}
		names[k.Name] = true
		origins[k.Origin]++
		for _, arch := range kernels.Architectures() {
			k, ok := k.For(arch)
			if !ok {
				continue
			}
			f := module(t, k).Func(k.Name)
			if f == nil || !f.Entry {
				t.Errorf("%s has no entry %s", k.Source.File, k.Name)
				continue
			}
			params, size, err := f.Layout()
			if err != nil {
				t.Error(err)
				continue
			}
			var want []int
			offsets, wantSize := k.Layout()
			for _, o := range offsets {
				if o >= 0 {
					want = append(want, o)
				}
			}
			got := make([]int, len(params))
			for i, p := range params {
				got[i] = p.Offset
			}
			if fmt.Sprint(got, size) != fmt.Sprint(want, wantSize) {
				t.Errorf("%s in %s: parameters at %v, %d bytes; its descriptor says %v, %d", k.Name, k.Source.File, got, size, want, wantSize)
			}
		}
	}
	t.Logf("%d kernels: %d of nvcc, %d of Triton", len(all), origins[kernels.NVCC], origins[kernels.Triton])

	some := sample(all, s, 80)
	inParallel(len(some), func(i int) {
		k := some[i]
		p := program(t, k)
		if e, _ := p.Entry(k.Name); e.Err != nil {
			var bad *ptx.Error
			if !errors.As(e.Err, &bad) || notInterpreted[k.Name] == "" {
				t.Errorf("%s: the interpreter cannot run it: %v", k.Name, e.Err)
			}
			return
		}
		if notInterpreted[k.Name] != "" {
			t.Errorf("%s: the interpreter can run it: take it off the list", k.Name)
		}
		a, err := alone(p, k, s, s)
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
			return
		}
		b, err := alone(p, k, s, mix(s))
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
			return
		}
		if err := same(k, a, b); err != nil {
			t.Errorf("another order of threads gives another result: %v", err)
		}
		before := state{bufs: k.Inputs(s)}
		if same(k, a, before) == nil && len(a.globals) == 0 && k.Name != "nobody_writes" {
			t.Errorf("%s changes nothing", k.Name)
		}
	})
}

// features are what the corpus must contain, by what is found in the text of a module.
var features = map[string]string{
	"f16 products":                  `mma\.sync\S*\.f16`,
	"bf16 products":                 `mma\.sync\S*\.bf16`,
	"tf32 products":                 `mma\.sync\S*\.tf32`,
	"s8 products":                   `mma\.sync\S*\.s8`,
	"wgmma":                         `wgmma\.mma_async`,
	"tcgen05":                       `tcgen05\.mma`,
	"ldmatrix":                      `ldmatrix`,
	"stmatrix":                      `stmatrix`,
	"cp.async":                      `cp\.async\.c[ag]\.shared\.global`,
	"bulk copies to shared memory":  `cp\.async\.bulk\.shared\S*\.global`,
	"bulk copies to global memory":  `cp\.async\.bulk\.global\.shared`,
	"mbarrier":                      `mbarrier\.try_wait`,
	"clusters":                      `barrier\.cluster`,
	"clusters fixed by the kernel":  `\.reqnctapercluster`,
	"distributed shared memory":     `ld\.shared::cluster`,
	"named barriers":                `(bar|barrier)\.(cta\.)?arrive`,
	"dynamic shared memory":         `\.extern \.shared`,
	"atomics":                       `atom\.global\.\S*add`,
	"compare and swap":              `atom\S*\.cas`,
	"reductions without result":     `(?m)^\s*(@\S+ )?red\.\S*add`,
	"floating-point atomics":        `(atom|red)\S*add\.(noftz\.)?f(32|16)`,
	"%ctaid.y":                      `%ctaid\.y`,
	"%ctaid.z":                      `%ctaid\.z`,
	"%nctaid.x":                     `%nctaid\.x`,
	"%nctaid.y":                     `%nctaid\.y`,
	"%nctaid.z":                     `%nctaid\.z`,
	"device functions":              `(?m)^\s*call`,
	"calls through pointers":        `\.callprototype`,
	"assertions":                    `__assertfail`,
	"writable variables":            `(?m)^\.(visible |internal )?\.?global .* hits`,
	"constant variables":            `(?m)^\.(visible )?\.?const `,
	"vectorised loads":              `ld\.global\S*\.v4`,
	"parameters aligned to 64":      `\.param \.align 64 \.b8`,
	"parameters by address":         `cvta\.param|mov\.\S+\s+%rd\d+, \w+_param_\d+`,
	"shuffles":                      `shfl\.sync`,
	"votes":                         `vote\.sync`,
	"redux":                         `redux\.sync`,
	"exit":                          `(?m)^\s*exit;`,
	"jump tables":                   `brx\.idx`,
	"line tables":                   `(?m)^\s*\.loc`,
	"debug sections":                `\.section\s+\.debug_info`,
	".reqntid":                      `\.reqntid`,
	"local memory":                  `\.local \.align`,
	"programmatic dependent launch": `griddepcontrol`,
	"philox":                        `-766435501|3528531795`,
}

// TestFeatures: the corpus contains what the promise names.
func TestFeatures(t *testing.T) {
	var texts [][]byte
	seen := map[string]bool{}
	for _, k := range kernels.All() {
		if d, ok := k.DebugBuild(); ok {
			k.Sources = append(d.Sources, k.Sources...)
		}
		for _, s := range k.Sources {
			if !seen[s.File] {
				seen[s.File] = true
				k.Source = s
				texts = append(texts, k.PTX())
			}
		}
	}
	for what, re := range features {
		re := regexp.MustCompile(re)
		if !slices.ContainsFunc(texts, re.Match) {
			t.Errorf("no kernel has %s (%s)", what, re)
		}
	}
}

// notInterpreted are the kernels whose default source the interpreter cannot run, and what it lacks.
var notInterpreted = map[string]string{}

// state is what a launch left: the parameters' contents, and the variables of the module that it changed, by name.
type state struct {
	bufs    [][]byte
	globals map[string][]byte
}

// same compares the results of two runs, bit for bit.
func same(k kernels.Kernel, got, want state) error {
	if err := k.Same(got.bufs, want.bufs); err != nil {
		return err
	}
	for name, b := range want.globals {
		if !bytes.Equal(got.globals[name], b) {
			return fmt.Errorf("kernel %s: variable %s differs", k.Name, name)
		}
	}
	return nil
}

// alone runs one launch of a kernel, in a memory of its own.
func alone(p *interp.Program, k kernels.Kernel, inputs, order uint64) (state, error) {
	var mem interp.Memory
	st := state{bufs: k.Inputs(inputs), globals: map[string][]byte{}}
	inst, err := mem.Load(p)
	if err != nil {
		return st, err
	}
	for _, g := range p.Globals() {
		st.globals[g.Name] = mem.Slice(inst.Addr(g.Name), int(g.Size), false)
	}
	block := k.ParamBlock(st.bufs, func(i int) uint64 { return mem.Place(st.bufs[i], k.Params[i].Kind == "in") })
	before := map[string][]byte{}
	for name, b := range st.globals {
		before[name] = bytes.Clone(b)
	}
	_, err = inst.Launch(context.Background(), k.Launch(&mem, block, order))
	for name, b := range before {
		if bytes.Equal(b, st.globals[name]) {
			delete(st.globals, name)
		}
	}
	return st, err
}
