// Package driverapi knows the CUDA driver's entry points: it reads them from
// the CUDA headers (cuda.h for symbols and prototypes, cudaTypedefs.h for the
// version each appeared in) and prints the tables that libcuda.so.1 is built
// from. The headers are read with the C preprocessor (cc -E), so conditional
// declarations of old versions are seen too.
package driverapi

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// Symbol is one exported symbol.
type Symbol struct {
	Name        string   // as exported: cuMemcpyHtoD_v2_ptds
	Base        string   // without the per-thread suffix: cuMemcpyHtoD_v2
	PerThread   bool     // _ptds or _ptsz
	Params      []string // one C declaration each; empty for (void)
	Args        []string // the parameters' names
	Implemented bool     // sim_<Base> is defined
}

// Resolve is one row of the table behind cuGetProcAddress.
type Resolve struct {
	Name      string // what the caller asks for: cuMemcpyHtoD
	Version   int    // first CUDA version with this ABI: 3020
	PerThread bool
	Symbol    string // cuMemcpyHtoD_v2
}

// API is what the headers declare.
type API struct {
	Version  int // CUDA_VERSION
	Symbols  []Symbol
	Resolves []Resolve
	Errors   []Error
}

// Error is one enumerator of CUresult.
type Error struct {
	Name  string
	Value int
}

var (
	protoRE   = regexp.MustCompile(`(?s)\bCUresult\s+(cu[A-Z]\w*)\s*\(([^;{]*)\)\s*$`)
	pfnRE     = regexp.MustCompile(`\bPFN_(cu[A-Z]\w*?)_v(\d+)(_ptds|_ptsz)?\)`)
	errRE     = regexp.MustCompile(`\b(CUDA_SUCCESS|CUDA_ERROR_\w+)\s*=\s*(\d+)`)
	versionRE = regexp.MustCompile(`(?m)^#define CUDA_VERSION (\d+)`)
	implRE    = regexp.MustCompile(`(?m)^CUresult sim_(cu\w+)\(`)
	lastIdent = regexp.MustCompile(`(\w+)\s*(\[[^\]]*\])?$`)
	orderRE   = regexp.MustCompile(`^(.*?)(?:_v(\d+))?$`)
)

// profiler lists cudaProfiler.h's functions, whose header the wheel lacks.
const profiler = `CUresult cuProfilerStart(void); CUresult cuProfilerStop(void);`

// Read reads the headers in include and looks in src for implementations.
func Read(include, src string) (*API, error) {
	api := &API{}
	raw, err := os.ReadFile(filepath.Join(include, "cuda.h"))
	if err != nil {
		return nil, fmt.Errorf("reading the driver's header: %w (fetch it with tools/deps/fetch.sh cuda)", err)
	}
	m := versionRE.FindSubmatch(raw)
	if m == nil {
		return nil, fmt.Errorf("%s/cuda.h: no CUDA_VERSION", include)
	}
	api.Version, _ = strconv.Atoi(string(m[1]))
	text, err := preprocess(include, "cuda.h", "-D__CUDA_API_VERSION_INTERNAL")
	if err != nil {
		return nil, err
	}
	implemented, err := readImplemented(src)
	if err != nil {
		return nil, err
	}
	if err := api.readSymbols(text+"\n"+profiler, implemented); err != nil {
		return nil, err
	}
	for _, m := range errRE.FindAllStringSubmatch(text, -1) {
		v, _ := strconv.Atoi(m[2])
		api.Errors = append(api.Errors, Error{m[1], v})
	}
	var typedefs strings.Builder
	for _, flag := range []string{"-DSIM_PLAIN", "-DCUDA_API_PER_THREAD_DEFAULT_STREAM", "-D__CUDA_API_VERSION_INTERNAL"} {
		t, err := preprocess(include, "cudaTypedefs.h", flag)
		if err != nil {
			return nil, err
		}
		typedefs.WriteString(t)
	}
	typedefs.WriteString("PFN_cuProfilerStart_v4000)PFN_cuProfilerStop_v4000)")
	return api, api.readResolves(typedefs.String())
}

// preprocess runs the C preprocessor over one header.
func preprocess(include, header, flag string) (string, error) {
	cmd := exec.Command("cc", "-E", "-P", "-I", include, flag, filepath.Join(include, header))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return string(out), nil
}

// readImplemented lists the sim_ functions that the C sources define.
func readImplemented(src string) (map[string]bool, error) {
	files, err := filepath.Glob(filepath.Join(src, "*.c"))
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range implRE.FindAllSubmatch(b, -1) {
			found[string(m[1])] = true
		}
	}
	return found, nil
}

func (a *API) readSymbols(text string, implemented map[string]bool) error {
	seen := map[string]bool{}
	for _, decl := range strings.Split(text, ";") {
		m := protoRE.FindStringSubmatch(strings.TrimSpace(decl))
		if m == nil || seen[m[1]] {
			continue
		}
		seen[m[1]] = true
		s := Symbol{Name: m[1], Base: m[1]}
		for _, suffix := range []string{"_ptds", "_ptsz"} {
			if b, ok := strings.CutSuffix(s.Name, suffix); ok {
				s.Base, s.PerThread = b, true
			}
		}
		for i, p := range strings.Split(m[2], ",") {
			p = strings.Join(strings.Fields(p), " ")
			if p == "void" || p == "" {
				continue
			}
			id := lastIdent.FindStringSubmatch(p)
			if id == nil || !strings.ContainsAny(p, " *") {
				return fmt.Errorf("cuda.h: %s: parameter %d %q has no name", s.Name, i, p)
			}
			s.Params = append(s.Params, p)
			s.Args = append(s.Args, id[1])
		}
		s.Implemented = implemented[s.Base]
		a.Symbols = append(a.Symbols, s)
	}
	sort.Slice(a.Symbols, func(i, j int) bool { return a.Symbols[i].Name < a.Symbols[j].Name })
	if len(a.Symbols) < 400 {
		return fmt.Errorf("cuda.h: only %d entry points recognised", len(a.Symbols))
	}
	for name := range implemented {
		if !seen[name] && !seen[name+"_ptsz"] && !seen[name+"_ptds"] {
			return fmt.Errorf("sim_%s is defined, but cuda.h declares no %s", name, name)
		}
	}
	return nil
}

// readResolves pairs the versions of cudaTypedefs.h with symbols: the k-th
// version of a name, ascending, is its k-th variant (none, _v2, _v3, …).
func (a *API) readResolves(text string) error {
	type key struct {
		name      string
		perThread bool
	}
	versions := map[key]map[int]bool{}
	for _, m := range pfnRE.FindAllStringSubmatch(text, -1) {
		v, _ := strconv.Atoi(m[2])
		k := key{m[1], m[3] != ""}
		if versions[k] == nil {
			versions[k] = map[int]bool{}
		}
		versions[k][v] = true
	}
	variants := map[key][]string{}
	order := map[string]int{}
	for _, s := range a.Symbols {
		m := orderRE.FindStringSubmatch(s.Base)
		n := 1
		if m[2] != "" {
			n, _ = strconv.Atoi(m[2])
		}
		order[s.Name] = n
		k := key{m[1], s.PerThread}
		variants[k] = append(variants[k], s.Name)
	}
	for k, names := range variants {
		sort.Slice(names, func(i, j int) bool { return order[names[i]] < order[names[j]] })
		var vs []int
		for v := range versions[k] {
			vs = append(vs, v)
		}
		sort.Ints(vs)
		// A name can have more variants than typedefs (old ones without any): the newest pair up.
		for len(names) > len(vs) {
			if len(vs) == 0 {
				break
			}
			names = names[1:]
		}
		if len(vs) > len(names) {
			vs = vs[len(vs)-len(names):]
		}
		for i, v := range vs {
			a.Resolves = append(a.Resolves, Resolve{k.name, v, k.perThread, names[i]})
		}
	}
	sort.Slice(a.Resolves, func(i, j int) bool {
		x, y := a.Resolves[i], a.Resolves[j]
		if x.Name != y.Name {
			return x.Name < y.Name
		}
		if x.PerThread != y.PerThread {
			return !x.PerThread
		}
		return x.Version < y.Version
	})
	if len(a.Resolves) < 400 {
		return fmt.Errorf("cudaTypedefs.h: only %d versions recognised", len(a.Resolves))
	}
	return nil
}
