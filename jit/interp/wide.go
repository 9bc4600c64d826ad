package interp

import (
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// elements replaces "name[i]" (PTX ISA 6.4.2) by the address that it stands for: of element i, which counts
// elements and not bytes. Loads and stores mean the memory there, mov its address.
func (d *decoder) elements(src *ptx.Inst) (*ptx.Inst, error) {
	in := src
	for i := range src.Args {
		o := &src.Args[i]
		if o.Minus {
			return nil, d.errorf(o.Pos, "%s takes no negated register", src.Op)
		}
		if o.Kind != ptx.Sym || len(o.Elems) == 0 {
			continue
		}
		v := d.p.gvars[o.Name]
		if v == nil {
			v = d.p.shared[o.Name]
		}
		if s := d.lookup(o.Name); s != nil {
			v = s.v
			if s.reg {
				v = nil
			}
		}
		if v == nil || len(v.Dims) == 0 {
			return nil, d.errorf(o.Pos, "%s is no array", o.Name)
		}
		if o.Elems[0].Kind != ptx.Imm {
			return nil, notSupported(o.Pos, "%s: element chosen by a register", o)
		}
		if in == src {
			in = src.Clone()
		}
		at := *o
		at.Off += at.Elems[0].Int * int64(v.Elem())
		at.Elems = nil
		if src.Op == "mov" {
			in.Args[i] = at
		} else {
			in.Args[i] = ptx.Operand{Pos: o.Pos, Kind: ptx.Addr, Elems: []ptx.Operand{at}}
		}
	}
	return in, nil
}

// parts gives the elements of a vector operand: those in braces, or the components of a vector register.
func (d *decoder) parts(o *ptx.Operand) []ptx.Operand {
	if o.Kind == ptx.Vec {
		return o.Elems
	}
	if o.Kind == ptx.Sym && o.Comp == "" {
		n := 0
		if s := d.lookup(o.Name); s != nil && s.reg && s.v.Type != ".b128" {
			n = len(s.vec)
		} else if o.Name == "%tid" || o.Name == "%ntid" || o.Name == "%ctaid" || o.Name == "%nctaid" {
			n = 4
		}
		var out []ptx.Operand
		for _, c := range []string{".x", ".y", ".z", ".w"}[:min(n, 4)] {
			one := *o
			one.Comp = c
			out = append(out, one)
		}
		if n > 0 {
			return out
		}
	}
	return []ptx.Operand{*o}
}

// wide gives the two 64-bit halves of a .b128 register, low first; {-1, -1} for "_" as destination.
func (d *decoder) wide(o *ptx.Operand) ([]int32, error) {
	if o.Kind == ptx.Sym {
		if o.Name == "_" {
			return []int32{-1, -1}, nil
		}
		if s := d.lookup(o.Name); s != nil && s.reg && s.v.Type == ".b128" {
			return s.vec, nil
		}
	}
	return nil, d.errorf(o.Pos, "expected a register of type .b128")
}

// moves emits one instruction that copies several registers at once.
func (d *decoder) moves(dst, src []int32) {
	d.emit(inst{guard: -1, table: append(append([]int32(nil), dst...), src...), run: func(w *warp, in *inst, m uint32) {
		var v [8]lanes
		n := len(in.table) / 2
		for k, s := range in.table[n:] {
			v[k] = w.r[s]
		}
		for k, s := range in.table[:n] {
			for l := range v[k] {
				if s >= 0 && m>>l&1 != 0 {
					w.r[s][l] = v[k][l]
				}
			}
		}
	}})
}

// decMovWide is mov.v2, mov.v4 and mov.b128.
func decMovWide(d *decoder, m *mods, in *ptx.Inst) error {
	dst, src := &in.Args[0], &in.Args[1]
	if m.flag(".b128") {
		half := func(o *ptx.Operand, to bool) ([]int32, error) {
			if o.Kind == ptx.Vec {
				return d.matSlots(o, 2, tB64, to)
			}
			return d.wide(o)
		}
		to, err := half(dst, true)
		if err != nil {
			return err
		}
		from, err := half(src, false)
		if err != nil {
			return err
		}
		if from[0] < 0 {
			return d.errorf(src.Pos, "_ is no source")
		}
		d.moves(to, from)
		return nil
	}
	n := map[string]int{".v2": 2, ".v4": 4}[m.oneOf(".v2", ".v4")]
	t, err := m.typeOf(tB16, tB32, tB64, tU16, tU32, tU64, tS16, tS32, tS64, tF32, tF64)
	if err != nil {
		return err
	}
	to, err := d.matSlots(&ptx.Operand{Pos: dst.Pos, Kind: ptx.Vec, Elems: d.parts(dst)}, n, t, true)
	if err != nil {
		return err
	}
	from, err := d.matSlots(&ptx.Operand{Pos: src.Pos, Kind: ptx.Vec, Elems: d.parts(src)}, n, t, false)
	if err != nil {
		return err
	}
	d.moves(to, from)
	return nil
}

// isWide tells whether an instruction's modifiers make it a vector or 128-bit mov.
func isWide(mods []string) bool {
	for _, s := range mods {
		if s == ".b128" || strings.HasPrefix(s, ".v") {
			return true
		}
	}
	return false
}
