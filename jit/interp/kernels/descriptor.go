package kernels

import (
	"bufio"
	"fmt"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/interp"
)

// text gives a file of the corpus.
func text(name string) []byte {
	b, err := files.ReadFile(name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// Text gives the text of a file of src/.
func Text(name string) []byte { return text("src/" + name) }

// Files lists the stems of the files in src/.
func Files() []string {
	names, err := files.ReadDir("src")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var out []string
	for _, n := range names {
		if path.Ext(n.Name()) == ".cu" {
			out = append(out, strings.TrimSuffix(n.Name(), ".cu"))
		}
	}
	return out
}

// All lists every kernel, nvcc's by file and name, then Triton's by name, each
// with its newest source.
func All() []Kernel {
	var out []Kernel
	for _, f := range Files() {
		src := Source{File: "ptx/" + f + ".ptx"}
		src.Target = target(text(src.File))
		sc := bufio.NewScanner(strings.NewReader(string(Text(f + ".cu"))))
		for line := 1; sc.Scan(); line++ {
			if desc, ok := strings.CutPrefix(sc.Text(), "//@ "); ok {
				k := mustParse(desc, fmt.Sprintf("src/%s.cu:%d", f, line))
				k.File, k.Origin = f, NVCC
				src.Shared = k.Shared
				k.Source, k.Sources = src, []Source{src}
				out = append(out, k)
			}
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		return out[i].File < out[j].File || out[i].File == out[j].File && out[i].Name < out[j].Name
	})
	return append(out, triton()...)
}

// triton lists the kernels of triton/NAME.TARGET.ptx.
func triton() []Kernel {
	names, err := files.ReadDir("triton")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var out []Kernel
	for _, n := range names {
		file := "triton/" + n.Name()
		b := text(file)
		line, _, _ := strings.Cut(string(b), "\n")
		desc, ok := strings.CutPrefix(line, "//@ ")
		if !ok {
			panic("BUG: " + file + ":1: expected a line //@ …")
		}
		k := mustParse(desc, file+":1")
		k.File, k.Origin, k.NoRef = k.Name, Triton, true
		src := Source{File: file, Target: target(b), Shared: k.Shared}
		if last := len(out) - 1; last >= 0 && out[last].Name == k.Name {
			k.Sources = out[last].Sources
			out = out[:last]
		}
		k.Sources = append(k.Sources, src)
		sort.Slice(k.Sources, func(i, j int) bool {
			a, al := version(k.Sources[i].Target)
			b, bl := version(k.Sources[j].Target)
			return a < b || a == b && al < bl
		})
		out = append(out, k)
	}
	for i := range out {
		// Of Blackwell's own instructions the interpreter has none: prefer what every test can run.
		var ok bool
		if out[i], ok = out[i].For("sm_90a"); !ok {
			out[i].Source = out[i].Sources[len(out[i].Sources)-1]
			out[i].Shared = out[i].Source.Shared
		}
	}
	return out
}

var targetLine = regexp.MustCompile(`(?m)^\.target\s+(sm_\w+)`)

func target(src []byte) string {
	m := targetLine.FindSubmatch(src)
	if m == nil {
		panic("BUG: a module without .target")
	}
	return string(m[1])
}

func mustParse(desc, where string) Kernel {
	k, err := parse(desc)
	if err != nil {
		panic(fmt.Sprintf("BUG: %s: %v", where, err))
	}
	return k
}

// cutRange splits "1..5"; without dots both ends are the text.
func cutRange(val string) (low, high string, ok bool) {
	low, high, ok = strings.Cut(val, "..")
	if !ok {
		high = low
	}
	return low, high, ok
}

// dims reads "X,Y,Z", what is left out being 1.
func dims(text string) ([3]uint32, error) {
	d := [3]uint32{1, 1, 1}
	for i, s := range strings.Split(text, ",") {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || i > 2 || n == 0 {
			return d, fmt.Errorf("%q: expected up to three numbers from 1", text)
		}
		d[i] = uint32(n)
	}
	return d, nil
}

func parse(text string) (Kernel, error) {
	fields := strings.Fields(text)
	k := Kernel{Name: fields[0], Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}}
	for _, f := range fields[1:] {
		var err error
		key, val, isAssign := strings.Cut(f, "=")
		switch {
		case f == "noref":
			k.NoRef = true
		case !isAssign || strings.HasPrefix(f, "@"):
			err = k.param(f)
		case key == "grid":
			k.Grid, err = dims(val)
		case key == "block":
			k.Block, err = dims(val)
		case key == "cluster":
			k.Cluster, err = dims(val)
		case key == "shared":
			var n uint64
			n, err = strconv.ParseUint(val, 10, 32)
			k.Shared = uint32(n)
		case key == "grids":
			k.grids = [][3]uint32{}
			for _, s := range strings.FieldsFunc(val, func(r rune) bool { return r == ';' }) {
				var g [3]uint32
				if g, err = dims(s); err != nil {
					break
				}
				k.grids = append(k.grids, g)
			}
		default:
			err = k.param(f)
		}
		if err != nil {
			return k, fmt.Errorf("%s: %w", f, err)
		}
	}
	for _, p := range k.Params {
		if !p.Stored {
			continue
		}
		n := 0
		if p.Into < len(k.Params) {
			switch q := k.Params[p.Into]; q.Kind {
			case "struct":
				n = q.N
			case "in":
				n = q.N * q.Elem()
			case "map":
				n = 8
			}
		}
		size := p.Elem()
		if p.Buffer() {
			size = 8
		}
		if p.Off < 0 || p.Off+size > n {
			return k, fmt.Errorf("a value at byte %d of parameter %d: expected a place in a struct, an input buffer or a tensor map", p.Off, p.Into)
		}
	}
	return k, nil
}

// param reads one parameter.
func (k *Kernel) param(f string) error {
	var p Param
	if rest, ok := strings.CutPrefix(f, "@"); ok {
		p.Stored = true
		place, what, _ := strings.Cut(rest, ":")
		if n, err := fmt.Sscanf(place, "%d+%d", &p.Into, &p.Off); n != 2 {
			return fmt.Errorf("expected @parameter+offset: %w", err)
		}
		f = what
	}
	if key, val, ok := strings.Cut(f, "="); ok {
		p.Kind, p.Type, p.Val = "scalar", key, val
		k.Params = append(k.Params, p)
		return nil
	}
	part := strings.Split(f, ":")
	if len(part) < 3 || len(part) < 4 && part[0] != "out" {
		return fmt.Errorf("expected kind:type:number:generator")
	}
	if part[0] == "map" && len(part) == 7 {
		m := &p.Map
		for i, to := range []*int{&m.Rows, &m.Cols, &m.BoxRows, &m.BoxCols, &m.Swizzle} {
			v, err := strconv.Atoi(part[2+i])
			if err != nil {
				return err
			}
			*to = v
		}
		p.Kind, p.Type, p.N, p.Align = "map", part[1], interp.TensorMapBytes, 64
		k.Params = append(k.Params, p)
		return nil
	}
	n, err := strconv.Atoi(part[2])
	if err != nil || n <= 0 {
		return fmt.Errorf("%q: expected a number above 0", part[2])
	}
	p.Kind, p.Type, p.N, p.Align = part[0], part[1], n, 8
	if len(part) > 3 {
		p.Gen = part[3]
	}
	if len(part) > 4 {
		if p.Align, err = strconv.Atoi(part[4]); err != nil {
			return err
		}
	}
	k.Params = append(k.Params, p)
	return nil
}
