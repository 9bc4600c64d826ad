// Package exact tells whether two compilations of a kernel compute the same in every bit, as far as their instructions show.
//
// PTX leaves a compiler one choice that changes results: an add that follows a mul may become one fma, which rounds once where
// two instructions round twice, unless either is written with a rounding modifier (PTX ISA 9.0, 9.7.3 "add", "mul"). Another
// compiler, or the same one in other surroundings, may choose differently. So the arithmetic instructions of the client's own
// machine code are counted by kind and compared with those of the code that would take its place: where the choice fell
// differently, the counts differ. What is compared besides tells of another lowering of approximations or of matrix products.
//
// A difference does not prove that results differ (a loop may be unrolled less), but equality is asked for: better no form than
// another result.
package exact

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Profile counts arithmetic instructions by kind.
type Profile map[string]int

// instructionBytes is the size of one instruction of sm_70 and later.
const instructionBytes = 16

// machineKinds are the low nine bits of the opcodes of sm_75 to sm_100 (the three bits above them give the form of the operands),
// read off what ptxas 13.0 makes of one instruction each (exact_test.go does it again).
var machineKinds = map[uint16]string{
	0x020: "FMUL", 0x021: "FADD", 0x023: "FFMA",
	0x028: "DMUL", 0x029: "DADD", 0x02b: "DFMA",
	0x030: "HADD2", 0x031: "HFMA2", 0x035: "HFMA2", 0x032: "HMUL2",
	0x049: "FFMA2", 0x04a: "FMUL2", 0x04b: "FADD2",
	0x108: "MUFU", 0x102: "FCHK",
	0x037: "IMMA", 0x03c: "HMMA", 0x03d: "BMMA", 0x03f: "DMMA",
	0x1f0: "HGMMA", 0x1f1: "IGMMA", 0x1f2: "BGMMA", 0x1f3: "QGMMA",
}

// Machine counts in the machine code of a kernel of a cubin, and of what it calls.
func Machine(cubin []byte, kernel string) (Profile, error) {
	parts, err := image.Text(cubin, kernel)
	if err != nil {
		return nil, err
	}
	p := Profile{}
	for _, code := range parts {
		for ; len(code) >= instructionBytes; code = code[instructionBytes:] {
			w := binary.LittleEndian.Uint64(code)
			kind, ok := machineKinds[uint16(w)&0x1ff]
			if !ok {
				continue
			}
			if kind == "MUFU" && binary.LittleEndian.Uint64(code[8:])>>10&15 == reciprocal {
				continue // integer divisions use it too, and the table of instances needs some
			}
			if movable[kind] && (w>>24&0xff == rz || w>>9&7 == registerForm && w>>32&0xff == rz) {
				continue // it moves, negates or converts a value: the next compilation may do that by another instruction, or not need to
			}
			p[kind]++
		}
	}
	return p, nil
}

// Source A is in bits 24 to 31, source B of the form with registers only in bits 32 to 39; register 255 reads as zero.
// Bits 74 to 77 of MUFU say which function.
const (
	rz           = 0xff
	registerForm = 1
	reciprocal   = 4
)

// movable are the kinds that also move values, with RZ as a source.
var movable = map[string]bool{"FADD": true, "HADD2": true, "HFMA2": true}

// Text counts in PTX, for devices whose machine code is PTX.
func Text(m *ptx.Module, kernel string) (Profile, error) {
	if f := m.Func(kernel); f == nil || !f.HasBody {
		return nil, fmt.Errorf("exact: the module defines no kernel %q", kernel)
	}
	p := Profile{}
	reached(m, kernel, func(in *ptx.Inst) {
		if t := floatType(in); t != "" || in.Op == "mma" || in.Op == "wgmma" {
			p[in.Op+t]++
		}
	})
	return p, nil
}

// reached calls fn for every instruction of a function and of those that it names.
func reached(m *ptx.Module, name string, fn func(*ptx.Inst)) {
	bodies := map[string]*ptx.Func{}
	for _, f := range m.Funcs {
		if f.HasBody {
			bodies[f.Name] = f
		}
	}
	seen := map[string]bool{}
	for todo := []string{name}; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		f := bodies[name]
		if seen[name] || f == nil {
			continue
		}
		seen[name] = true
		ptx.Walk(f.Body, func(in *ptx.Inst) bool {
			fn(in)
			in.WalkNames(func(n *string) {
				if bodies[*n] != nil {
					todo = append(todo, *n)
				}
			})
			return true
		})
	}
}

// arithmetic are the opcodes whose floating-point forms compute.
var arithmetic = map[string]bool{
	"add": true, "sub": true, "mul": true, "mad": true, "fma": true, "div": true, "rcp": true, "sqrt": true, "rsqrt": true, "sin": true, "cos": true,
	"lg2": true, "ex2": true, "tanh": true,
}

// floatType is the type of a floating-point arithmetic instruction, "" for all others.
func floatType(in *ptx.Inst) string {
	if !arithmetic[in.Op] || len(in.Mods) == 0 {
		return ""
	}
	if t := in.Mods[len(in.Mods)-1]; strings.HasPrefix(t, ".f") || strings.HasPrefix(t, ".bf") {
		return t
	}
	return ""
}

// Difference says how b differs from a, "" when they are equal.
func Difference(a, b Profile) string {
	var kinds []string
	for k := range a {
		kinds = append(kinds, k)
	}
	for k := range b {
		if a[k] == 0 {
			kinds = append(kinds, k)
		}
	}
	slices.Sort(kinds)
	var out []string
	for _, k := range kinds {
		if a[k] != b[k] {
			out = append(out, fmt.Sprintf("%d instead of %d %s", b[k], a[k], k))
		}
	}
	return strings.Join(out, ", ")
}

// Sum adds the counts of b to p.
func (p Profile) Sum(b Profile) {
	for k, n := range b {
		p[k] += n
	}
}

// unrounded tells whether an instruction may take part in a contraction: an add, sub or mul of floating-point values without a
// rounding modifier.
func unrounded(in *ptx.Inst) bool {
	if in.Op != "add" && in.Op != "sub" && in.Op != "mul" || floatType(in) == "" {
		return false
	}
	for _, m := range in.Mods {
		switch m {
		case ".rn", ".rz", ".rm", ".rp":
			return false
		}
	}
	return true
}

// Decided tells whether the text of a kernel, and of what it calls, leaves compilers no choice of result: nothing can be
// contracted, and nothing is approximated.
func Decided(m *ptx.Module, kernel string) bool {
	var mul, sum, approximate bool
	reached(m, kernel, func(in *ptx.Inst) {
		if unrounded(in) {
			mul = mul || in.Op == "mul"
			sum = sum || in.Op != "mul"
		}
		if floatType(in) != "" {
			for _, s := range in.Mods {
				approximate = approximate || s == ".approx" || s == ".full"
			}
		}
	})
	return !(mul && sum) && !approximate
}

// Pin writes the rounding into every instruction of the module that could be contracted, which forbids it: for machine code that
// was made so by an option (--fmad=false).
func Pin(m *ptx.Module) {
	for _, f := range m.Funcs {
		ptx.Walk(f.Body, func(in *ptx.Inst) bool {
			if unrounded(in) {
				in.Mods = slices.Insert(slices.Clone(in.Mods), 0, ".rn")
			}
			return true
		})
	}
}
