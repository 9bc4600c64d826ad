// Export writes the corpus and its rewritten forms to a folder, for a machine with a GPU and without Go:
//
//	go run ./jit/conformance/export [-arch sm_90a] [-sim] DIR
//
// tools/gputest/programs/coalesced.c reads manifest.json there (see the types below) and compares N launches of a kernel with one
// word of N instances, and a launch with launches of ranges of its blocks, bit for bit. The driver compiles the PTX, or there is a
// cubin beside each file:
//
//	find DIR -name '*.ptx' -print0 | xargs -0 -P8 -I{} sh -c 'ptxas -arch sm_90a "$1" -o "${1%.ptx}.cubin"' - {}
//
// The folder takes some 20 MiB, at most 40.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Manifest is manifest.json.
type Manifest struct {
	Arch    string    `json:"arch"`
	Kernels []*Kernel `json:"kernels"`
	Words   []*Word   `json:"words"` // those of one kernel one after the other
	Refused []Refused `json:"refused"`
}

// Kernel is one kernel as clients launch it.
type Kernel struct {
	Name       string      `json:"name"` // the entry
	File       string      `json:"file"` // PTX
	Grids      [][3]uint32 `json:"grids"`
	Block      [3]uint32   `json:"block"`
	Cluster    [3]uint32   `json:"cluster"` // zeros: launched without the attribute
	Shared     uint32      `json:"shared"`  // dynamic shared memory, bytes
	ParamBytes int         `json:"param_bytes"`
	Params     []Param     `json:"params"`
	// Data holds Seeds times the initial contents of the parameters that have some, DataBytes each time.
	Data      string `json:"data"`
	DataBytes int    `json:"data_bytes"`
	Seeds     int    `json:"seeds"`
}

// Param is one parameter: kernels.Param, with places instead of types.
type Param struct {
	Buffer bool `json:"buffer"` // device memory, whose address is the parameter; else bytes by value
	Bytes  int  `json:"bytes"`
	Data   int  `json:"data"`   // where in the data its contents lie; -1: zeros
	Offset int  `json:"offset"` // in the parameter block; -1: in another parameter
	Into   int  `json:"into"`   // then the number of that, and the offset in it
	Off    int  `json:"off"`
	// Map is set for a tensor map of the buffer that is in it: bytes of an element, rows, columns, rows and columns of a box, span of
	// the swizzle in bytes. It is by value, and what the data holds for it does not count.
	Map []int `json:"map"`
}

// Word is a rewritten module (coalesce.Form). Its instance i runs body i % len(Bodies). With Mapping slices it is a module by table
// of which only one instance is launched, in ranges of its blocks.
type Word struct {
	File        string     `json:"file"` // PTX
	Mapping     string     `json:"mapping"`
	Capacity    int        `json:"capacity"`
	Stride      int        `json:"stride"`
	Tail        int        `json:"tail"`
	Globals     int        `json:"globals"`
	ParamBytes  int        `json:"param_bytes"`
	Bodies      []int      `json:"bodies"`       // numbers in Kernels
	GlobalNames [][]string `json:"global_names"` // of each body
	Grid        [3]uint32  `json:"grid"`         // of every instance (by-z, slices); by-table: instance i has Grids[i % len]
}

// Refused is a kernel that cannot be rewritten, and why.
type Refused struct {
	Name    string        `json:"name"`
	Mapping string        `json:"mapping"`
	Code    coalesce.Code `json:"code"`
}

// paramBase is where the GPU's machine code has a parameter block in its bank of constants, on which the places of parameters
// aligned to more than 16 bytes depend (image.Entry); 0 for the software GPU, which aligns them within the block.
var paramBase int

// baseOf gives paramBase of an architecture, as ptxas 13.0 has it.
func baseOf(arch string) int {
	n, _ := strconv.Atoi(strings.Trim(arch, "sm_af"))
	switch {
	case n < 90:
		return 0x160
	case n < 100:
		return 0x210
	}
	return 0x380
}

func main() {
	arch := flag.String("arch", "sm_90a", "architecture of the GPU")
	sim := flag.Bool("sim", false, "for the software GPU")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: export [-arch sm_90a] [-sim] DIR")
		os.Exit(2)
	}
	if !*sim {
		paramBase = baseOf(*arch)
	}
	e, err := export(flag.Arg(0), *arch)
	if err != nil {
		fmt.Fprintln(os.Stderr, "export:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %d kernels, %d words, %d refused, %.1f MiB\n", e.dir, len(e.m.Kernels), len(e.m.Words), len(e.m.Refused), float64(e.bytes)/(1<<20))
}

type exporter struct {
	dir, arch string
	m         Manifest
	modules   map[string]*ptx.Module // by source file
	written   map[string]bool
	bytes     int
}

// write puts a file into the folder, once.
func (e *exporter) write(name string, b []byte) error {
	if e.written[name] {
		return nil
	}
	e.written[name] = true
	e.bytes += len(b)
	path := filepath.Join(e.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// export writes everything.
func export(dir, arch string) (*exporter, error) {
	if !slices.Contains(kernels.Architectures(), arch) {
		return nil, fmt.Errorf("-arch %s: expected one of %v", arch, kernels.Architectures())
	}
	e := &exporter{dir: dir, arch: arch, modules: map[string]*ptx.Module{}, written: map[string]bool{}}
	e.m.Arch = arch
	return e, e.all()
}

func (e *exporter) all() error {
	var all []kernels.Kernel
	for _, k := range kernels.All() {
		if k, ok := k.For(e.arch); ok {
			all = append(all, k)
		}
	}
	for _, k := range all {
		if e.modules[k.Source.File] == nil {
			m, err := ptx.Parse(k.PTX())
			if err != nil {
				return fmt.Errorf("%s: %w", k.Source.File, err)
			}
			e.modules[k.Source.File] = m
		}
		if err := e.kernel(k); err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
	}
	packable := map[string][]int{}
	for i, k := range all {
		for _, m := range []coalesce.Mapping{coalesce.ByZ, coalesce.ByTable} {
			grid, ok := k.Grid, true
			if m == coalesce.ByZ {
				grid, ok = flat(k)
			}
			if !ok {
				continue
			}
			for _, capacity := range []int{2, 8, 32} {
				taken, err := e.word(all, []int{i}, m, capacity, grid)
				if err != nil {
					return fmt.Errorf("%s: %w", k.Name, err)
				}
				if !taken {
					break
				}
				if m == coalesce.ByTable && capacity == 2 {
					e.slices(k)
				}
				if m == coalesce.ByTable && capacity == 32 {
					key := fmt.Sprint(k.Block, k.Source.Target, k.Shared)
					packable[key] = append(packable[key], i)
				}
			}
		}
	}
	// Different kernels in one word: every kernel once, with the next ones of its block shape.
	for i, k := range all {
		same := packable[fmt.Sprint(k.Block, k.Source.Target, k.Shared)]
		if n := 2 + i%2; len(same) >= n && same[0] == i {
			packable[fmt.Sprint(k.Block, k.Source.Target, k.Shared)] = same[n:]
			if _, err := e.word(all, same[:n], coalesce.ByTable, 8, k.Grid); err != nil {
				return fmt.Errorf("%s and others: %w", k.Name, err)
			}
		}
	}
	b, err := json.Marshal(&e.m)
	if err != nil {
		return err
	}
	return e.write("manifest.json", b)
}

// slices has the form that was written last, of one kernel by table, launched in slices too, on the kernel's largest grid.
func (e *exporter) slices(k kernels.Kernel) {
	w := *e.m.Words[len(e.m.Words)-1]
	w.Mapping = "slices"
	for _, g := range k.Grids() {
		if w.Grid == [3]uint32{} || g[0]*g[1]*g[2] > w.Grid[0]*w.Grid[1]*w.Grid[2] {
			w.Grid = g
		}
	}
	e.m.Words = append(e.m.Words, &w)
}

// flat gives a grid of the kernel with one block in z, as by-z needs.
func flat(k kernels.Kernel) ([3]uint32, bool) {
	for _, g := range k.Grids() {
		if g[2] == 1 {
			return g, true
		}
	}
	return k.Grid, false
}

// dataBytes is about how much the initial contents of one kernel take; two seeds there are always.
const dataBytes = 48 << 10

func (e *exporter) kernel(k kernels.Kernel) error {
	out := &Kernel{Name: k.Name, File: "originals/" + filepath.Base(k.Source.File), Grids: k.Grids(), Block: k.Block, Cluster: k.Cluster,
		Shared: k.Shared, Data: "data/" + k.Name + ".bin"}
	if err := e.write(out.File, k.PTX()); err != nil {
		return err
	}
	offsets, size := k.LayoutAt(paramBase)
	out.ParamBytes = size
	out.Params = []Param{}
	for i, p := range k.Params {
		if p.Stored && !p.Buffer() {
			offsets[i] = -1
		}
		q := Param{Buffer: p.Buffer(), Bytes: p.N * p.Elem(), Data: out.DataBytes, Offset: offsets[i], Into: p.Into, Off: p.Off, Map: []int{}}
		switch p.Kind {
		case "struct":
			q.Bytes = p.N
		case "map":
			q.Bytes = p.N
			q.Map = []int{p.Elem(), p.Map.Rows, p.Map.Cols, p.Map.BoxRows, p.Map.BoxCols, p.Map.Swizzle}
		case "scalar":
			q.Bytes = p.Elem()
		case "out":
			q.Data = -1
		}
		if q.Data >= 0 {
			out.DataBytes += q.Bytes
		}
		out.Params = append(out.Params, q)
	}
	out.Seeds = min(32, max(2, dataBytes/max(1, out.DataBytes)))
	var data []byte
	for seed := range out.Seeds {
		for i, b := range k.Inputs(uint64(seed + 1)) {
			if out.Params[i].Data >= 0 {
				data = append(data, b...)
			}
		}
	}
	e.m.Kernels = append(e.m.Kernels, out)
	return e.write(out.Data, data)
}

// word makes one form of the kernels with these numbers; false when it is refused.
func (e *exporter) word(all []kernels.Kernel, bodies []int, m coalesce.Mapping, capacity int, grid [3]uint32) (bool, error) {
	var ks []coalesce.Kernel
	var names []string
	for _, b := range bodies {
		ks = append(ks, coalesce.Kernel{Module: e.modules[all[b].Source.File], Entry: all[b].Name})
		names = append(names, all[b].Name)
	}
	name := strings.Join(names, "+")
	f, err := coalesce.Rewrite(ks, coalesce.Spec{Mapping: m, Capacity: capacity, ClientGlobals: true, ParamBase: paramBase})
	var no *coalesce.Refusal
	if errors.As(err, &no) {
		e.m.Refused = append(e.m.Refused, Refused{Name: name, Mapping: m.String(), Code: no.Code})
		return false, nil
	}
	if err != nil {
		return false, err
	}
	l := f.Layout
	w := &Word{File: fmt.Sprintf("words/%s.%s.%d.ptx", name, m, capacity), Mapping: m.String(), Capacity: l.Capacity, Stride: l.Stride, Tail: l.Tail,
		Globals: l.Globals, ParamBytes: l.ParamBytes, Bodies: bodies, GlobalNames: l.GlobalNames, Grid: grid}
	for i := range w.GlobalNames {
		if w.GlobalNames[i] == nil {
			w.GlobalNames[i] = []string{}
		}
	}
	e.m.Words = append(e.m.Words, w)
	return true, e.write(w.File, []byte(f.PTX))
}
