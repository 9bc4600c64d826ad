package interp

import (
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Program is a loaded module. It is immutable and may be shared.
type Program struct {
	mod     *ptx.Module
	funcs   map[string]*function
	order   []*function // index is the function's number in FuncWindow
	globals []Global
	gvars   map[string]*ptx.Var // .global and .const
	shared  map[string]*ptx.Var // module-level .shared
	entries []EntryInfo
	index   map[string]int // of entries
	// declared has the functions without body.
	declared map[string]bool
	initSize int64                  // bytes of initial values so far
	reach    map[string][]*function // of each entry, itself first
	layout   map[string]sharedLayout
}

// sharedLayout places a kernel's shared variables.
type sharedLayout struct {
	off  map[*ptx.Var]uint32
	size int // static bytes; dynamic shared memory starts at dyn
	dyn  int
}

// function is a decoded .entry or .func.
type function struct {
	name    string
	num     int // place in Program.order
	src     *ptx.Func
	code    []inst
	nreg    int
	npred   int
	consts  []constSlot
	fills   []fill
	callees []*function
	taken   []*function // functions whose address this one takes
	extern  []string    // external functions called
	svars   []*ptx.Var  // shared variables referenced
	gvars   []string    // global variables referenced
	// parameter memory of a frame, one such area per lane
	paramBytes int
	formals    []argPlace // parameters, in order
	rets       []argPlace
	entryParm  []Param // for an entry
	local      int     // bytes of local memory
	localAlign int
	usesCalls  bool
	err        error // unsupported instruction; blocks launches that reach it
}

// constSlot is a register that holds the same value in all lanes for a launch.
type constSlot struct {
	slot   int32
	val    uint64
	global string   // + address of a global variable
	shared *ptx.Var // + offset of a shared variable
}

// fill is a register that is set when a frame starts.
type fill struct {
	slot int32
	kind special
	off  int64
}

// argPlace is where a formal parameter or argument lives: in parameter memory
// (off, size) or in a register.
type argPlace struct {
	off, size int
	reg       int32 // -1: in memory
	pred      bool
}

// Load parses and decodes a module. Errors are ptx.ErrorList with positions.
// An instruction that the interpreter does not support is not an error of the
// module but of the entries that reach it (EntryInfo.Err).
func Load(src []byte) (*Program, error) {
	m, err := ptx.Parse(src)
	if err != nil {
		return nil, err
	}
	return LoadModule(m)
}

// LoadModule decodes a parsed module, which must not change afterwards.
func LoadModule(m *ptx.Module) (*Program, error) {
	p := &Program{mod: m, funcs: map[string]*function{}, gvars: map[string]*ptx.Var{}, shared: map[string]*ptx.Var{},
		index: map[string]int{}, declared: map[string]bool{}, reach: map[string][]*function{}, layout: map[string]sharedLayout{}}
	var errs ptx.ErrorList
	add := func(err error) bool {
		var e *ptx.Error
		if errors.As(err, &e) {
			errs = append(errs, e)
		} else if err != nil {
			errs = append(errs, &ptx.Error{Line: 1, Col: 1, Msg: err.Error()})
		}
		return len(errs) < ptx.MaxErrors
	}
	if m.AddressSize != 64 {
		return nil, ptx.ErrorList{{Line: 1, Col: 1, Msg: "32-bit addresses are not supported: expected .address_size 64"}}
	}
	for _, v := range m.Vars {
		switch v.Space {
		case ".global", ".const":
			if old := p.gvars[v.Name]; old != nil && !declares(old) {
				if !declares(v) && !add(ptx.Errorf(v.Pos, "variable %s is defined twice, first at %s", v.Name, old.Pos)) {
					return nil, errs
				}
				continue
			}
			p.gvars[v.Name] = v
		case ".shared":
			if p.shared[v.Name] == nil {
				p.shared[v.Name] = v
			}
		}
	}
	for _, f := range m.Funcs {
		if !f.HasBody {
			p.declared[f.Name] = true
			continue
		}
		if p.funcs[f.Name] != nil {
			if !add(ptx.Errorf(f.Pos, "function %s is defined twice", f.Name)) {
				return nil, errs
			}
			continue
		}
		fn := &function{name: f.Name, src: f, num: len(p.order)}
		p.funcs[f.Name] = fn
		p.order = append(p.order, fn)
	}
	for _, it := range m.Items { // .alias other, function
		if d, ok := it.(*ptx.Directive); ok && d.Name == ".alias" && len(d.Args) == 2 && p.funcs[d.Args[0]] == nil && p.funcs[d.Args[1]] != nil {
			p.funcs[d.Args[0]] = p.funcs[d.Args[1]]
		}
	}
	for _, v := range m.Vars {
		if p.gvars[v.Name] == v {
			g, err := p.global(v)
			if err != nil && !add(err) {
				return nil, errs
			}
			p.globals = append(p.globals, g)
		}
	}
	for _, fn := range p.order {
		if err := p.decode(fn); err != nil {
			var u *unsupported
			if errors.As(err, &u) {
				fn.err = u.err
				continue
			}
			if !add(err) {
				return nil, errs
			}
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	p.written()
	p.link()
	return p, nil
}

// declares tells a declaration from a definition.
func declares(v *ptx.Var) bool {
	for _, l := range v.Linkage {
		if l == ".extern" {
			return true
		}
	}
	return false
}

// FuncAddr gives the generic address that stands for a device function, 0 if there is none.
func (p *Program) FuncAddr(name string) uint64 {
	if f := p.funcs[name]; f != nil {
		return FuncWindow + uint64(f.num)*16
	}
	return 0
}

// Entries lists the kernels in source order.
func (p *Program) Entries() []EntryInfo { return append([]EntryInfo(nil), p.entries...) }

// Entry finds a kernel.
func (p *Program) Entry(name string) (EntryInfo, bool) {
	i, ok := p.index[name]
	if !ok {
		return EntryInfo{}, false
	}
	return p.entries[i], true
}

// Globals lists the .global and .const variables in source order.
func (p *Program) Globals() []Global { return append([]Global(nil), p.globals...) }

// Module gives the parsed source.
func (p *Program) Module() *ptx.Module { return p.mod }

// link finds what each entry reaches, and lays out its shared memory.
func (p *Program) link() {
	visits := 0
	const maxVisits = 20_000_000 // bounds entries × functions for hostile modules
	var addrTaken []*function
	for _, g := range p.globals {
		for _, in := range initFuncs(p.gvars[g.Name].Init) {
			if f := p.funcs[in]; f != nil {
				addrTaken = append(addrTaken, f)
			}
		}
	}
	for _, fn := range p.order {
		if !fn.src.Entry {
			continue
		}
		seen := map[*function]bool{fn: true}
		list := []*function{fn}
		push := func(f *function) {
			if !seen[f] {
				seen[f] = true
				list = append(list, f)
			}
		}
		err := fn.err
		for i := 0; i < len(list); i++ {
			f := list[i]
			if visits += 1 + len(f.callees) + len(f.taken) + len(f.svars); visits > maxVisits {
				err = ptx.Errorf(fn.src.Pos, "module has too many entries that reach too many functions")
				break
			}
			for _, c := range f.callees {
				push(c)
			}
			for _, c := range f.taken {
				push(c)
			}
			if f.usesCalls {
				for _, c := range addrTaken {
					push(c)
				}
			}
			if f.err != nil && err == nil {
				err = f.err
			}
		}
		calls := map[string]bool{}
		lay := sharedLayout{off: map[*ptx.Var]uint32{}}
		var dyn []*ptx.Var
		dynAlign := 16
		for _, f := range list {
			for _, c := range f.extern {
				calls[c] = true
			}
			for _, v := range f.svars {
				if _, ok := lay.off[v]; ok {
					continue
				}
				n, a := v.Size(), v.Alignment()
				if declares(v) || n == 0 {
					lay.off[v] = 0
					dyn = append(dyn, v)
					dynAlign = max(dynAlign, a)
					continue
				}
				lay.size = (lay.size + a - 1) &^ (a - 1)
				lay.off[v] = uint32(lay.size)
				if n < 0 || n > MaxSharedPerBlock || lay.size+int(n) > MaxSharedPerBlock {
					if err == nil {
						err = ptx.Errorf(v.Pos, "shared variable %s does not fit: more than %d bytes of shared memory", v.Name, MaxSharedPerBlock)
					}
					continue
				}
				lay.size += int(n)
			}
		}
		lay.dyn = (lay.size + dynAlign - 1) &^ (dynAlign - 1)
		for _, v := range dyn {
			lay.off[v] = uint32(lay.dyn)
		}
		p.layout[fn.name] = lay
		p.reach[fn.name] = list
		e := EntryInfo{Name: fn.name, Params: fn.entryParm, StaticShared: lay.size, LocalBytes: fn.local,
			MaxThreads: MaxThreadsPerBlock, Limits: fn.src.Limits(), Err: err}
		if n := len(e.Params); n > 0 {
			e.ParamBytes = e.Params[n-1].Offset + e.Params[n-1].Size
		}
		for _, d := range [][3]uint32{e.Limits.MaxNTID, e.Limits.ReqNTID} {
			if n := uint64(d[0]) * uint64(d[1]) * uint64(d[2]); d[0] != 0 && n != 0 && n < MaxThreadsPerBlock {
				e.MaxThreads = int(n)
			}
		}
		e.Regs = max(16, min(255, 8+fn.pressure()))
		for c := range calls {
			e.Calls = append(e.Calls, c)
		}
		sort.Strings(e.Calls)
		p.index[fn.name] = len(p.entries)
		p.entries = append(p.entries, e)
	}
}

// pressure guesses how many 32-bit registers a function needs at once: a
// compiler's allocation keeps about the square root of a long straight-line
// program alive. Only occupancy queries use it.
func (f *function) pressure() int {
	return int(4 * math.Sqrt(float64(f.nreg-len(f.consts)-len(f.fills)+1)))
}

func initFuncs(in *ptx.Init) []string {
	if in == nil {
		return nil
	}
	var out []string
	if in.Val != nil && in.Val.Kind == ptx.Sym {
		out = append(out, in.Val.Name)
	}
	for i := range in.List {
		out = append(out, initFuncs(&in.List[i])...)
	}
	return out
}

// global turns a declaration into a Global with its initial bytes.
func (p *Program) global(v *ptx.Var) (Global, error) {
	g := Global{Name: v.Name, Size: v.Size(), Align: v.Alignment(), Const: v.Space == ".const", Extern: declares(v)}
	if g.Size < 0 {
		return g, ptx.Errorf(v.Pos, "variable %s is larger than %d bytes", v.Name, int64(ptx.MaxVarSize))
	}
	if v.Init == nil {
		return g, nil
	}
	switch v.Type {
	case ".texref", ".samplerref", ".surfref":
		return g, nil // fields of an object that nothing here reads
	}
	elem, _ := ptx.TypeSize(v.Type)
	if elem == 0 {
		return g, ptx.Errorf(v.Pos, "variable %s of type %s cannot be initialised", v.Name, v.Type)
	}
	dims := append([]int64(nil), v.Dims...)
	switch v.Vec {
	case ".v2":
		dims = append(dims, 2)
	case ".v4":
		dims = append(dims, 4)
	case ".v8":
		dims = append(dims, 8)
	}
	err := p.fillInit(&g, v, v.Init, elem, dims, 0)
	return g, err
}

// maxInit bounds the initial bytes of all variables together.
const maxInit = 256 << 20

// fillInit stores one level of an initialiser at offset off.
func (p *Program) fillInit(g *Global, v *ptx.Var, in *ptx.Init, elem int, dims []int64, off int64) error {
	if in.Braces {
		step := int64(elem)
		inner := []int64(nil)
		if len(dims) > 0 {
			inner = dims[1:]
			for _, d := range inner {
				step *= max(d, 0)
			}
		}
		if len(in.List) == 1 && len(dims) == 0 {
			return p.fillInit(g, v, &in.List[0], elem, nil, off)
		}
		flat := len(inner) > 0 // "{1,2,3,4}" may initialise [2][2] in order
		for i := range in.List {
			if in.List[i].Braces {
				flat = false
			}
		}
		if flat {
			step, inner = int64(elem), nil
		}
		for i := range in.List {
			if err := p.fillInit(g, v, &in.List[i], elem, inner, off+int64(i)*step); err != nil {
				return err
			}
		}
		return nil
	}
	need := off + int64(elem)
	if need > g.Size {
		return ptx.Errorf(in.Pos, "initialiser of %s has more values than its %d bytes hold", v.Name, g.Size)
	}
	if more := need - int64(len(g.Init)); more > 0 {
		if p.initSize += more; p.initSize > maxInit {
			return ptx.Errorf(in.Pos, "initialisers of the module reach beyond %d bytes, at %s", maxInit, v.Name)
		}
		g.Init = append(g.Init, make([]byte, need-int64(len(g.Init)))...)
	}
	o := in.Val
	var val uint64
	switch o.Kind {
	case ptx.Imm:
		val = uint64(o.Int)
		switch v.Type {
		case ".f32":
			val = uint64(math.Float32bits(float32(o.Int)))
		case ".f64":
			val = math.Float64bits(float64(o.Int))
		}
	case ptx.Float:
		val = floatConst(o, typeByName[v.Type])
	case ptx.Sym:
		shift := uint(0)
		size := elem
		if in.Mask != 0 {
			for in.Mask>>shift&1 == 0 {
				shift++
			}
			size = min(elem, 1)
		}
		if a := p.FuncAddr(o.Name); a != 0 {
			val = (a + uint64(o.Off)) >> shift
			elem = size
			break
		}
		if p.gvars[o.Name] == nil {
			return ptx.Errorf(o.Pos, "%s is not a variable or function of this module", o.Name)
		}
		g.Relocs = append(g.Relocs, Reloc{Offset: int(off), Size: size, Sym: o.Name, Addend: o.Off, Shift: shift})
		return nil
	case ptx.String:
		return ptx.Errorf(o.Pos, "a string cannot initialise %s", v.Name)
	}
	for i := 0; i < elem && i < 8; i++ {
		g.Init[off+int64(i)] = byte(val >> (8 * i))
	}
	return nil
}

// written marks the variables that some instruction may write.
func (p *Program) written() {
	w := map[string]bool{}
	var mark func(o *ptx.Operand)
	mark = func(o *ptx.Operand) {
		if o.Kind == ptx.Sym {
			w[o.Name] = true
		}
		for i := range o.Elems {
			mark(&o.Elems[i])
		}
	}
	for _, fn := range p.order {
		ptx.Walk(fn.src.Body, func(in *ptx.Inst) bool {
			for i := range in.Args {
				if (in.Op == "ld" || in.Op == "ldu" || in.Op == "prefetch") && in.Args[i].Kind == ptx.Addr {
					continue
				}
				mark(&in.Args[i])
			}
			return true
		})
	}
	for i := range p.globals {
		for _, r := range p.globals[i].Relocs {
			w[r.Sym] = true
		}
	}
	for i := range p.globals {
		g := &p.globals[i]
		g.Written = !g.Const && w[g.Name]
	}
}

// unsupported wraps an error that only keeps the function from being launched.
type unsupported struct{ err *ptx.Error }

func (u *unsupported) Error() string { return u.err.Error() }
func (u *unsupported) Unwrap() error { return u.err }

func notSupported(pos ptx.Pos, format string, args ...any) error {
	return &unsupported{ptx.Errorf(pos, "%s", fmt.Sprintf(format, args...))}
}
