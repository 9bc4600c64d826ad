// Package kernels is a corpus of kernels with inputs, for comparing two ways
// of running PTX: the interpreter with compiled C, with a GPU, or a rewritten
// kernel with its original.
//
// The sources are src/*.cu (compiled to ptx/ by generate.sh) and
// triton/kernels.py (compiled to triton/*.ptx by itself); a line
//
//	//@ name grid=X,Y,Z block=X,Y,Z cluster=X,Y,Z shared=BYTES parameters…
//
// above a kernel, or at the top of a file of triton/, says how to launch it.
// Parameters, in order:
//
//	in:TYPE:N:GEN    a buffer of N random elements that the kernel reads
//	io:TYPE:N:GEN    one that it changes
//	out:TYPE:N       one that it fills; zero before
//	struct:NAME:SIZE:GEN[:ALIGN]  random bytes by value, aligned to 8 bytes or as said
//	TYPE=VALUE       a scalar; VALUE may be a range LOW..HIGH, from which the seed chooses
//	map:TYPE:ROWS:COLS:BOXROWS:BOXCOLS:SWIZZLE  a tensor map by value, of the buffer that is stored in it
//	@P+OFF:…         a buffer's address or a scalar that is no parameter of its own, but lies at byte OFF of parameter P,
//	                 a struct, an input buffer or (OFF 0) a tensor map
//
// and flags:
//
//	noref            there is no C to compare with
//	grids=G;G;…      other grids than the default that the kernel may be launched with ("grids=" alone: none);
//	                 without it every smaller grid is one
//
// What the kernel leaves in out and io buffers, and in writable variables of
// its module, is its result: the same on every correct implementation in every
// order of threads, bit for bit up to the bits of a NaN.
package kernels

import (
	"bytes"
	"embed"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/heddle-gpu/heddle/jit/interp"
)

//go:generate ./generate.sh

//go:embed src/*.cu src/*.h ptx/*.ptx triton/*.ptx
var files embed.FS

// Origin is the compiler that made a kernel's PTX.
type Origin string

// The origins.
const (
	NVCC   Origin = "nvcc"
	Triton Origin = "triton"
)

// Architectures lists what the corpus is assembled for, oldest first.
func Architectures() []string {
	return []string{"sm_75", "sm_80", "sm_90", "sm_90a", "sm_100", "sm_100a"}
}

// Param is one parameter of a kernel, or something that a parameter points to.
type Param struct {
	Kind  string // "in", "io", "out", "struct", "map" or "scalar"
	Type  string // "f32", "u64", … ; of a struct its name
	N     int    // elements of a buffer, bytes of a struct
	Gen   string // generator of the elements
	Val   string // of a scalar, as written
	Align int    // of a struct, bytes
	// Stored: it is no parameter of its own; its value (of a buffer: its address) lies in parameter Into at byte Off.
	Stored    bool
	Into, Off int
	Map       Map // of a tensor map
}

// Map is a two-dimensional tensor map, in elements; Swizzle is the span of its swizzle, bytes.
type Map struct{ Rows, Cols, BoxRows, BoxCols, Swizzle int }

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

// Source is one compilation of a kernel.
type Source struct {
	File   string // below this folder, such as "triton/softmax.sm_80.ptx"
	Target string // of its .target: "sm_80"
	Shared uint32 // dynamic shared memory of a launch, bytes
}

// Takes tells whether code of the source's target can be assembled for an
// architecture: any newer one, but only the same when the target ends in a letter.
func (s Source) Takes(arch string) bool {
	t, tl := version(s.Target)
	a, al := version(arch)
	return tl == "" && t <= a || t == a && tl == al
}

// version splits "sm_90a" into 90 and "a".
func version(arch string) (int, string) {
	digits := 3
	for digits < len(arch) && arch[digits] >= '0' && arch[digits] <= '9' {
		digits++
	}
	n, _ := strconv.Atoi(arch[3:digits])
	return n, arch[digits:]
}

// Kernel is one kernel and how to launch it.
type Kernel struct {
	File    string // stem of its source, such as "warp" or "softmax"
	Name    string // entry; no two kernels have the same
	Origin  Origin
	Grid    [3]uint32
	Block   [3]uint32
	Cluster [3]uint32 // zero without clusters
	Shared  uint32    // dynamic shared memory of a launch of PTX, bytes
	Params  []Param
	NoRef   bool // there is no C to compare with
	// Sources are its compilations, oldest target first, and Source the one that PTX and Shared speak of.
	Sources []Source
	Source  Source

	grids [][3]uint32 // besides Grid; nil: every smaller one
}

// PTX gives the module that holds the kernel; Debug, where there is one, the
// same compiled without optimisation.
func (k Kernel) PTX() []byte {
	b, err := files.ReadFile(k.Source.File)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// Debug gives the unoptimised module, nil if there is none.
func (k Kernel) Debug() []byte {
	d, ok := k.DebugBuild()
	if !ok {
		return nil
	}
	return d.PTX()
}

// DebugBuild gives the kernel with its unoptimised source, where there is one:
// other code, and debug sections.
func (k Kernel) DebugBuild() (Kernel, bool) {
	name := "ptx/" + k.File + "_debug.ptx"
	b, err := files.ReadFile(name)
	if err != nil || k.Origin != NVCC {
		return k, false
	}
	k.Source = Source{File: name, Target: target(b), Shared: k.Shared}
	k.Sources = []Source{k.Source}
	return k, true
}

// For gives the kernel with its newest source that can be assembled for an
// architecture; false when there is none.
func (k Kernel) For(arch string) (Kernel, bool) {
	for i := len(k.Sources) - 1; i >= 0; i-- {
		if k.Sources[i].Takes(arch) {
			k.Source = k.Sources[i]
			k.Shared = k.Source.Shared
			return k, true
		}
	}
	return k, false
}

// Grids lists grids that the kernel may be launched with, its own first.
// Results differ between them, and inputs do not.
func (k Kernel) Grids() [][3]uint32 {
	out := [][3]uint32{k.Grid}
	if k.grids != nil {
		return append(out, k.grids...)
	}
	add := func(g [3]uint32) {
		for _, o := range out {
			if g == o {
				return
			}
		}
		out = append(out, g)
	}
	for d := range k.Grid {
		unit := max(k.Cluster[d], 1)
		for _, n := range []uint32{k.Grid[d] - unit, k.Grid[d] / 2 / unit * unit, unit} {
			if n > 0 && n < k.Grid[d] {
				g := k.Grid
				g[d] = n
				add(g)
			}
		}
	}
	return out
}

// WithGrid gives the kernel with another grid, one of Grids.
func (k Kernel) WithGrid(g [3]uint32) Kernel {
	k.Grid = g
	return k
}

// Inputs gives the initial bytes of each parameter, the same for equal seeds:
// the contents of buffers, and the value of scalars and structs. Sizes do not
// depend on the seed.
func (k Kernel) Inputs(seed uint64) [][]byte {
	r := rng(seed)
	for _, c := range k.Name {
		r = r*31 + rng(c)
	}
	var out [][]byte
	for _, p := range k.Params {
		switch p.Kind {
		case "scalar":
			out = append(out, scalar(p, &r))
		case "struct":
			b := make([]byte, p.N)
			for i := range b {
				b[i] = byte(r.next())
			}
			out = append(out, b)
		case "map":
			out = append(out, make([]byte, p.N))
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
	for i, p := range k.Params {
		if p.Stored && !p.Buffer() {
			copy(out[p.Into][p.Off:], out[i])
		}
	}
	return out
}

// Layout gives the offset of each parameter in the parameter block (-1 for
// what is stored in another), and its size: naturally aligned, structs at 8 or
// as they say.
func (k Kernel) Layout() (offsets []int, size int) { return k.LayoutAt(0) }

// LayoutAt is Layout for a block that begins at base of a GPU's bank of constants,
// in which ptxas aligns parameters (image.Entry.Base).
func (k Kernel) LayoutAt(base int) (offsets []int, size int) {
	end := base
	for _, p := range k.Params {
		if p.Stored {
			offsets = append(offsets, -1)
			continue
		}
		n := p.Elem()
		a := n
		switch {
		case p.Buffer():
			n, a = 8, 8
		case p.Kind == "struct" || p.Kind == "map":
			n, a = p.N, p.Align
		}
		at := (end + a - 1) / a * a
		offsets = append(offsets, at-base)
		end = at + n
	}
	return offsets, end - base
}

// ParamBlock gives the parameter block of a launch: addr gives the device address
// of the i-th parameter where that is a buffer, and is asked once for each, in order. Addresses that
// lie in a buffer are stored in inputs.
func (k Kernel) ParamBlock(inputs [][]byte, addr func(i int) uint64) []byte {
	off, size := k.Layout()
	block := make([]byte, size)
	for i, p := range k.Params {
		if !p.Buffer() && !p.Stored {
			copy(block[off[i]:], inputs[i])
		}
	}
	for i, p := range k.Params {
		if !p.Buffer() {
			continue
		}
		a := addr(i)
		switch {
		case !p.Stored:
			binary.LittleEndian.PutUint64(block[off[i]:], a)
		case k.Params[p.Into].Kind == "map":
			copy(block[off[p.Into]:], k.Params[p.Into].tensorMap(a))
		case k.Params[p.Into].Buffer():
			binary.LittleEndian.PutUint64(inputs[p.Into][p.Off:], a)
		default:
			binary.LittleEndian.PutUint64(block[off[p.Into]+p.Off:], a)
		}
	}
	return block
}

// tensorMap gives the parameter as the software GPU has it.
func (p Param) tensorMap(addr uint64) []byte {
	m := interp.TensorMap{Elem: uint8(p.Elem()), Rank: 2, Swizzle: uint8(p.Map.Swizzle), Address: addr}
	m.Dim[0], m.Dim[1] = uint64(p.Map.Cols), uint64(p.Map.Rows)
	m.Box[0], m.Box[1] = uint32(p.Map.BoxCols), uint32(p.Map.BoxRows)
	m.Stride[0] = uint64(p.Map.Cols * p.Elem())
	b, err := m.Encode()
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b[:]
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

// Diff compares the results of two runs bit for bit, up to the bits of NaNs,
// which it makes canonical in place. It gives nil, or where they differ.
func (k Kernel) Diff(got, want [][]byte) error {
	for j, p := range k.Params {
		if p.Result() {
			Canonical(p.Type, got[j])
			Canonical(p.Type, want[j])
		}
	}
	return k.Same(got, want)
}

// Same compares the results of two runs bit for bit. It gives nil, or where
// they differ.
func (k Kernel) Same(got, want [][]byte) error {
	var msg bytes.Buffer
	for j, p := range k.Params {
		if !p.Result() || bytes.Equal(got[j], want[j]) {
			continue
		}
		n, bad := p.Elem(), 0
		for e := 0; e < p.N; e++ {
			g, w := got[j][e*n:][:n], want[j][e*n:][:n]
			if !bytes.Equal(g, w) {
				if bad++; bad <= 3 {
					fmt.Fprintf(&msg, "parameter %d element %d: %x, want %x (little-endian bytes); ", j, e, g, w)
				}
			}
		}
		fmt.Fprintf(&msg, "parameter %d: %d of %d elements differ; ", j, bad, p.N)
	}
	if msg.Len() == 0 {
		return nil
	}
	return fmt.Errorf("kernel %s: %s", k.Name, bytes.TrimSuffix(msg.Bytes(), []byte("; ")))
}

// scalar gives the bytes of a scalar parameter; r chooses from a range.
func scalar(p Param, r *rng) []byte {
	low, high, isRange := cutRange(p.Val)
	var v uint64
	switch p.Type {
	case "f32", "f64":
		f, _ := strconv.ParseFloat(low, 64)
		if isRange {
			top, _ := strconv.ParseFloat(high, 64)
			f += (top - f) * float64(r.next()>>11) / (1 << 53)
		}
		if p.Type == "f32" {
			v = uint64(math.Float32bits(float32(f)))
		} else {
			v = math.Float64bits(f)
		}
	default:
		v = integer(low)
		if isRange {
			v += r.next() % (integer(high) - v + 1)
		}
	}
	return binary.LittleEndian.AppendUint64(nil, v)[:p.Elem()]
}

func integer(text string) uint64 {
	if s, err := strconv.ParseInt(text, 0, 64); err == nil {
		return uint64(s)
	}
	v, _ := strconv.ParseUint(text, 0, 64)
	return v
}
