// Package kernels is a corpus of kernels with inputs, for comparing two ways
// of running PTX: the interpreter with compiled C, with a GPU, or a rewritten
// kernel with its original.
//
// The sources are src/*.cu (compiled to ptx/ by generate.sh); a line
//
//	//@ name grid=X,Y,Z block=X,Y,Z shared=BYTES parameters…
//
// above a kernel says how to launch it. Parameters, in order:
//
//	in:TYPE:N:GEN    a buffer of N random elements that the kernel reads
//	io:TYPE:N:GEN    one that it changes
//	out:TYPE:N       one that it fills; zero before
//	struct:NAME:SIZE:GEN  random bytes by value
//	TYPE=VALUE       a scalar
//
// What the kernel leaves in out and io buffers is its result, the same on every
// correct implementation, bit for bit up to the bits of a NaN.
package kernels

import (
	"bufio"
	"embed"
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"sort"
	"strconv"
	"strings"
)

//go:generate ./generate.sh

//go:embed src/*.cu src/*.h ptx/*.ptx
var files embed.FS

// Param is one parameter of a kernel.
type Param struct {
	Kind string // "in", "io", "out", "struct" or "scalar"
	Type string // "f32", "u64", … ; of a struct its name
	N    int    // elements of a buffer, bytes of a struct
	Gen  string // generator of the elements
	Val  string // of a scalar, as written
}

// Elem gives the size in bytes of one element of the parameter's type.
func (p Param) Elem() int {
	switch p.Type {
	case "u8", "s8":
		return 1
	case "u16", "s16", "f16", "bf16":
		return 2
	case "u32", "s32", "i32", "f32":
		return 4
	}
	return 8
}

// Buffer tells whether the parameter is a pointer to device memory.
func (p Param) Buffer() bool { return p.Kind == "in" || p.Kind == "io" || p.Kind == "out" }

// Result tells whether the buffer's contents after the launch are a result.
func (p Param) Result() bool { return p.Kind == "io" || p.Kind == "out" }

// Kernel is one kernel and how to launch it.
type Kernel struct {
	File   string // stem of its source, such as "warp"
	Name   string // entry
	Grid   [3]uint32
	Block  [3]uint32
	Shared uint32 // dynamic shared memory, bytes
	Params []Param
}

// PTX gives the module that holds the kernel; Debug, where there is one, the
// same compiled without optimisation.
func (k Kernel) PTX() []byte {
	b, err := files.ReadFile("ptx/" + k.File + ".ptx")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// Debug gives the unoptimised module, nil if there is none.
func (k Kernel) Debug() []byte {
	b, err := files.ReadFile("ptx/" + k.File + "_debug.ptx")
	if err != nil {
		return nil
	}
	return b
}

// Source gives the text of a file of src/.
func Source(name string) []byte {
	b, err := files.ReadFile("src/" + name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// Files lists the stems of the sources.
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

// All lists every kernel, by file and name.
func All() []Kernel {
	var out []Kernel
	for _, f := range Files() {
		sc := bufio.NewScanner(strings.NewReader(string(Source(f + ".cu"))))
		for line := 1; sc.Scan(); line++ {
			text, ok := strings.CutPrefix(sc.Text(), "//@ ")
			if !ok {
				continue
			}
			k, err := parse(text)
			if err != nil {
				panic(fmt.Sprintf("BUG: src/%s.cu:%d: %v", f, line, err))
			}
			k.File = f
			out = append(out, k)
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		return out[i].File < out[j].File || out[i].File == out[j].File && out[i].Name < out[j].Name
	})
	return out
}

func parse(text string) (Kernel, error) {
	fields := strings.Fields(text)
	k := Kernel{Name: fields[0], Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}}
	for _, f := range fields[1:] {
		if key, val, ok := strings.Cut(f, "="); ok {
			switch key {
			case "grid", "block":
				d := &k.Grid
				if key == "block" {
					d = &k.Block
				}
				for i, s := range strings.Split(val, ",") {
					n, err := strconv.ParseUint(s, 10, 32)
					if err != nil || i > 2 {
						return k, fmt.Errorf("%s: expected up to three numbers", f)
					}
					d[i] = uint32(n)
				}
			case "shared":
				n, err := strconv.ParseUint(val, 10, 32)
				if err != nil {
					return k, fmt.Errorf("%s: expected bytes", f)
				}
				k.Shared = uint32(n)
			default:
				k.Params = append(k.Params, Param{Kind: "scalar", Type: key, Val: val})
			}
			continue
		}
		p := strings.Split(f, ":")
		if len(p) < 3 || len(p) < 4 && p[0] != "out" {
			return k, fmt.Errorf("%s: expected kind:type:number:generator", f)
		}
		n, err := strconv.Atoi(p[2])
		if err != nil {
			return k, fmt.Errorf("%s: %v", f, err)
		}
		q := Param{Kind: p[0], Type: p[1], N: n}
		if len(p) > 3 {
			q.Gen = p[3]
		}
		k.Params = append(k.Params, q)
	}
	return k, nil
}

// Inputs gives the initial bytes of each parameter, the same for equal seeds:
// the contents of buffers, and the value of scalars and structs.
func (k Kernel) Inputs(seed uint64) [][]byte {
	r := rng(seed)
	for _, c := range k.Name {
		r = r*31 + rng(c)
	}
	var out [][]byte
	for _, p := range k.Params {
		switch p.Kind {
		case "scalar":
			out = append(out, scalar(p))
		case "struct":
			b := make([]byte, p.N)
			for i := range b {
				b[i] = byte(r.next())
			}
			out = append(out, b)
		default:
			n := p.Elem()
			b := make([]byte, 0, p.N*n)
			for i := 0; i < p.N; i++ {
				v := uint64(0)
				if p.Kind != "out" {
					v = r.element(p.Type, p.Gen)
				}
				b = binary.LittleEndian.AppendUint64(b, v)[:len(b)+n]
			}
			out = append(out, b)
		}
	}
	return out
}

func scalar(p Param) []byte {
	var v uint64
	switch p.Type {
	case "f32":
		f, _ := strconv.ParseFloat(p.Val, 32)
		v = uint64(math.Float32bits(float32(f)))
	case "f64":
		f, _ := strconv.ParseFloat(p.Val, 64)
		v = math.Float64bits(f)
	default:
		if s, err := strconv.ParseInt(p.Val, 0, 64); err == nil {
			v = uint64(s)
		} else {
			v, _ = strconv.ParseUint(p.Val, 0, 64)
		}
	}
	return binary.LittleEndian.AppendUint64(nil, v)[:p.Elem()]
}

// Layout gives the offset of each parameter in the parameter block, and its
// size: naturally aligned, structs at 8.
func (k Kernel) Layout() (offsets []int, size int) {
	for _, p := range k.Params {
		n := p.Elem()
		a := n
		switch {
		case p.Buffer():
			n, a = 8, 8
		case p.Kind == "struct":
			n, a = p.N, 8
		}
		size = (size + a - 1) / a * a
		offsets = append(offsets, size)
		size += n
	}
	return offsets, size
}

// Canonical replaces every NaN of a buffer of a floating-point type by one,
// because languages and chips differ in the bits of a NaN.
func Canonical(typ string, b []byte) {
	switch typ {
	case "f32":
		for i := 0; i+4 <= len(b); i += 4 {
			if v := binary.LittleEndian.Uint32(b[i:]); v&0x7fffffff > 0x7f800000 {
				binary.LittleEndian.PutUint32(b[i:], 0x7fffffff)
			}
		}
	case "f64":
		for i := 0; i+8 <= len(b); i += 8 {
			if v := binary.LittleEndian.Uint64(b[i:]); v&^(1<<63) > 0x7ff<<52 {
				binary.LittleEndian.PutUint64(b[i:], 0x7ff8<<48)
			}
		}
	case "f16", "bf16":
		inf := uint16(0x7c00)
		if typ == "bf16" {
			inf = 0x7f80
		}
		for i := 0; i+2 <= len(b); i += 2 {
			if v := binary.LittleEndian.Uint16(b[i:]); v&0x7fff > inf {
				binary.LittleEndian.PutUint16(b[i:], 0x7fff)
			}
		}
	}
}
