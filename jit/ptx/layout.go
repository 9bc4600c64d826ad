package ptx

import "strconv"

// Elem gives the size in bytes of one element of v: its type times its vector width.
func (v *Var) Elem() int {
	n := types[v.Type]
	switch v.Vec {
	case ".v2":
		n *= 2
	case ".v4":
		n *= 4
	case ".v8":
		n *= 8
	}
	return n
}

// MaxVarSize is the largest variable whose size is reported; larger ones give -1.
const MaxVarSize = 16 << 30

// Size gives v's size in bytes; 0 for an array without bound (extern shared
// memory), and -1 when it exceeds MaxVarSize.
func (v *Var) Size() int64 {
	n := int64(v.Elem())
	for i, d := range v.Dims {
		if d < 0 {
			// "[]" first may take its bound from the initialiser.
			if i == 0 && v.Init != nil {
				d = int64(len(v.Init.List))
			} else {
				return 0
			}
		}
		if n != 0 && d > MaxVarSize/n {
			return -1
		}
		n *= d
	}
	return n
}

// Alignment gives v's alignment in bytes: as declared, or its element's size.
func (v *Var) Alignment() int {
	if v.Align > 0 {
		return v.Align
	}
	if n := v.Elem(); n > 0 {
		return n
	}
	return 1
}

// Param is one parameter's place in a kernel's parameter block.
type Param struct {
	Name                string
	Offset, Size, Align int // bytes
}

// Layout gives the place of each parameter of f (its Params) in the parameter
// block, in order and naturally aligned, as the driver's cuFuncGetParamInfo
// does, and the size of the block. A parameter block that would exceed 1 MiB
// gives an *Error. Parameters aligned to more than 16 bytes may stand elsewhere
// on a GPU, which aligns them in its bank of constants, where blocks do not
// begin at a multiple of that (image.Entry.Base).
func (f *Func) Layout() (params []Param, size int, err error) { return layout(f.Params) }

func layout(vars []*Var) (params []Param, size int, err error) {
	for _, v := range vars {
		n, a := v.Size(), v.Alignment()
		if n < 0 || int64(size)+n > 1<<20 {
			return nil, 0, Errorf(v.Pos, "parameters of more than 1 MiB")
		}
		size = (size + a - 1) &^ (a - 1)
		params = append(params, Param{v.Name, size, int(n), a})
		size += int(n)
	}
	return params, size, nil
}

// Limits are the tuning directives of a kernel (PTX ISA 11.4), zero where absent.
type Limits struct {
	MaxNTID, ReqNTID [3]uint32
	MinCTAPerSM      uint32
	MaxReg           uint32
	ReqNCTAPerClstr  [3]uint32
	ExplicitCluster  bool
	MaxClusterRank   uint32
}

// Limits collects f's tuning directives. Dimensions that are left out are 1.
func (f *Func) Limits() Limits {
	var l Limits
	dims := func(d *Directive) (r [3]uint32) {
		r = [3]uint32{1, 1, 1}
		for i, a := range d.Args {
			if i < 3 {
				n, _ := strconv.ParseUint(a, 0, 32)
				r[i] = uint32(n)
			}
		}
		return r
	}
	one := func(d *Directive) uint32 { return dims(d)[0] }
	for _, d := range f.Attrs {
		switch d.Name {
		case ".maxntid":
			l.MaxNTID = dims(d)
		case ".reqntid":
			l.ReqNTID = dims(d)
		case ".minnctapersm":
			l.MinCTAPerSM = one(d)
		case ".maxnreg":
			l.MaxReg = one(d)
		case ".reqnctapercluster":
			l.ReqNCTAPerClstr = dims(d)
		case ".explicitcluster":
			l.ExplicitCluster = true
		case ".maxclusterrank":
			l.MaxClusterRank = one(d)
		}
	}
	return l
}

// Func finds a function by name, preferring the one with a body; nil without one.
func (m *Module) Func(name string) *Func {
	var found *Func
	for _, f := range m.Funcs {
		if f.Name == name && (found == nil || f.HasBody) {
			found = f
		}
	}
	return found
}
