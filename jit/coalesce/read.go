package coalesce

import (
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// body is one kernel to rewrite, and what reading it found.
type body struct {
	name  string
	num   int
	spec  Spec
	packs bool // one of several kernels
	mod   *ptx.Module
	entry *ptx.Func

	params    map[string]ptx.Param // of the kernel
	paramVars map[*ptx.Var]bool    // their declarations
	bytes     int                  // of its parameter block
	align     int
	limits    ptx.Limits

	vars    map[string]*ptx.Var  // of the module, by name
	defs    map[string]*ptx.Func // functions with a body
	decls   map[string]*ptx.Func // functions without
	aliases map[string]bool

	funcs   map[string]*function // reached, the kernel included
	queue   []*function
	used    map[string]bool // module variables reached
	externs map[string]bool // external functions reached
	written map[string]bool // module variables that are stored to by name

	globals    []string // client's variables, in the module's order
	globalNum  map[string]int
	constMoved bool // .const becomes .global, because a client's constants are passed by address

	indirect bool         // some call goes through an address
	taken    *ptx.Operand // some function's address is taken
	// outsideFuncs: a client's variable holds addresses of functions.
	outsideFuncs bool
	shared       map[*ptx.Var]int64 // packing: place of each static shared variable
	sharedSz     int64
	sharedAl     int
	dynamic      bool // extern shared memory
	dynAlign     int
	exactDyn     bool // %dynamic_smem_size is read

	waitsInside bool // threads of a block or warp wait for each other in a device function
	bulk        bool // asynchronous bulk stores to global memory
	setmax      bool // setmaxnreg
	clusters    bool // mentions clusters

	globalsAt int // Layout.Globals
}

// function is a reached function.
type function struct {
	f       *ptx.Func
	callees []string
	words   uint8           // which of %ctaid and %nctaid it reads
	globals map[string]bool // module .global and .const variables it names
	needs   []need          // what it takes as leading parameters, sorted
}

// The bits of function.words.
const (
	wordX = 1 << iota
	wordY
	wordZ
	wordNX
	wordNY
	wordNZ
)

// wordNames are the registers that stand for the bits of function.words.
var wordNames = [...]string{"%word$x", "%word$y", "%word$z", "%word$nx", "%word$ny", "%word$nz"}

// reserved tells the names of rewritten modules: the registers, labels and variables that Rewrite adds begin with word$.
func reserved(name string) bool {
	name = strings.TrimLeft(name, "%$")
	return strings.HasPrefix(name, "word$") || name == EntryName || name == paramName
}

func has(list []string, words ...string) bool {
	for _, w := range words {
		if slices.Contains(list, w) {
			return true
		}
	}
	return false
}

// read finds everything that the kernel reaches and refuses what cannot be rewritten.
func read(k Kernel, num int, spec Spec, packs bool) (*body, error) {
	b := &body{name: k.Entry, num: num, spec: spec, packs: packs, mod: k.Module,
		params: map[string]ptx.Param{}, paramVars: map[*ptx.Var]bool{},
		vars: map[string]*ptx.Var{}, defs: map[string]*ptx.Func{}, decls: map[string]*ptx.Func{}, aliases: map[string]bool{},
		funcs: map[string]*function{}, used: map[string]bool{}, externs: map[string]bool{}, written: map[string]bool{},
		globalNum: map[string]int{}, shared: map[*ptx.Var]int64{}, sharedAl: 1, dynAlign: 1}
	if err := b.index(); err != nil {
		return nil, err
	}
	b.reach(b.entry)
	for len(b.queue) > 0 {
		fn := b.queue[0]
		b.queue = b.queue[1:]
		r := reader{body: b, fn: fn}
		if err := r.function(); err != nil {
			return nil, err
		}
	}
	if err := b.classify(); err != nil {
		return nil, err
	}
	return b, b.closure()
}

// index finds the module's names, and checks the kernel's head.
func (b *body) index() error {
	for _, it := range b.mod.Items {
		d, ok := it.(*ptx.Directive)
		if !ok {
			continue
		}
		switch d.Name {
		case ".version", ".target", ".address_size", ".file", ".section", ".loc", ".pragma", "@@":
		case ".alias":
			if len(d.Args) > 0 {
				b.aliases[d.Args[0]] = true
			}
		default:
			return b.refuse(CodeDirective, d.Pos, "%s at module level", d.Name)
		}
	}
	for _, v := range b.mod.Vars {
		if old := b.vars[v.Name]; old == nil || has(old.Linkage, ".extern") {
			b.vars[v.Name] = v
		}
	}
	for _, f := range b.mod.Funcs {
		switch {
		case !f.HasBody:
			b.decls[f.Name] = f
		case b.defs[f.Name] != nil:
			return b.refuse(CodeMalformed, f.Pos, "%s is defined twice", f.Name)
		default:
			b.defs[f.Name] = f
		}
	}
	b.entry = b.defs[b.name]
	if b.entry == nil || !b.entry.Entry {
		return b.refuse(CodeNoEntry, ptx.Pos{}, "the module has no such kernel with a body")
	}
	params, size, err := b.entry.Layout()
	if err != nil {
		return b.refuse(CodeParameters, b.entry.Pos, "%v", err)
	}
	if b.spec.ParamBase > 0 {
		size = place(params, b.spec.ParamBase)
	}
	b.bytes, b.align, b.limits = size, 8, b.entry.Limits()
	for i, p := range params {
		v := b.entry.Params[i]
		if v.Space != ".param" || v.Range > 0 {
			return b.refuse(CodeParameterUse, v.Pos, "parameter %s is not a variable in parameter space", p.Name)
		}
		switch v.Type {
		case ".texref", ".samplerref", ".surfref":
			return b.refuse(CodeTexture, v.Pos, "parameter %s of type %s", p.Name, v.Type)
		}
		b.params[p.Name] = p
		b.paramVars[v] = true
		b.align = max(b.align, p.Align)
	}
	return nil
}

// place moves parameters to where a block has them that begins at base of the bank of constants, and gives its size.
func place(params []ptx.Param, base int) int {
	at := base
	for i := range params {
		at = align(at, max(params[i].Align, 1))
		params[i].Offset = at - base
		at += params[i].Size
	}
	return at - base
}

// reach notes that a function is part of the kernel.
func (b *body) reach(f *ptx.Func) *function {
	if fn := b.funcs[f.Name]; fn != nil {
		return fn
	}
	fn := &function{f: f, globals: map[string]bool{}}
	b.funcs[f.Name] = fn
	b.queue = append(b.queue, fn)
	return fn
}

// reader reads one function.
type reader struct {
	*body
	fn     *function
	scopes scopes
	loops  loops
}

// attributes are the directives of a function's head that are understood: kept, or merged when packing.
var attributes = []string{".maxntid", ".reqntid", ".minnctapersm", ".maxnctapersm", ".maxnreg", ".pragma", ".noreturn",
	".abi_preserve", ".abi_preserve_control", ".attribute", ".reqnctapercluster", ".explicitcluster", ".maxclusterrank"}

func (r *reader) function() error {
	f := r.fn.f
	r.loops.labels = map[string]int{}
	for _, d := range f.Attrs {
		if !slices.Contains(attributes, d.Name) {
			return r.refuse(CodeDirective, d.Pos, "%s of %s", d.Name, f.Name)
		}
		if has([]string{d.Name}, ".reqnctapercluster", ".explicitcluster", ".maxclusterrank") {
			r.clusters = true
		}
	}
	if z := r.limits.ReqNCTAPerClstr[2]; z > 1 {
		return r.refuse(CodeCluster, f.Pos, "clusters of %d blocks in z", z)
	}
	if reserved(f.Name) {
		return r.refuse(CodeReservedName, f.Pos, "function %s", f.Name)
	}
	r.scopes.push()
	for _, v := range append(slices.Clone(f.Ret), f.Params...) {
		if err := r.variable(v); err != nil {
			return err
		}
	}
	return r.list(f.Body)
}

func (r *reader) variable(v *ptx.Var) error {
	if reserved(v.Name) {
		return r.refuse(CodeReservedName, v.Pos, "variable %s", v.Name)
	}
	switch v.Space {
	case ".reg", ".local", ".param":
	case ".shared":
		if err := r.place(v); err != nil {
			return err
		}
	default:
		return r.refuse(CodeDirective, v.Pos, "variable %s in %s inside a function", v.Name, v.Space)
	}
	switch v.Type {
	case ".texref", ".samplerref", ".surfref":
		return r.refuse(CodeTexture, v.Pos, "variable %s of type %s", v.Name, v.Type)
	}
	r.scopes.declare(v)
	return nil
}

// place gives a shared variable its place in the buffer that packed kernels have in common.
func (b *body) place(v *ptx.Var) error {
	n, a := v.Size(), v.Alignment()
	if n == 0 || has(v.Linkage, ".extern") {
		b.dynamic = true
		b.dynAlign = max(b.dynAlign, a)
		return nil
	}
	if _, ok := b.shared[v]; ok {
		return nil
	}
	b.sharedSz = (b.sharedSz + int64(a) - 1) &^ (int64(a) - 1)
	if n < 0 || v.Range > 0 || b.sharedSz+n > 1<<20 {
		return b.refuse(CodeTooLarge, v.Pos, "shared variable %s does not fit into a block's shared memory", v.Name)
	}
	b.shared[v] = b.sharedSz
	b.sharedSz += n
	b.sharedAl = max(b.sharedAl, a)
	return nil
}

func (r *reader) list(list []ptx.Stmt) error {
	for _, st := range list {
		var err error
		switch st := st.(type) {
		case *ptx.Var:
			err = r.variable(st)
		case *ptx.Block:
			r.scopes.push()
			err = r.list(st.Body)
			r.scopes.pop()
		case *ptx.Label:
			if reserved(st.Name) {
				err = r.refuse(CodeReservedName, st.Pos, "label %s", st.Name)
			}
			r.loops.label(st.Name)
		case *ptx.Directive:
			err = r.directive(st)
		case *ptx.Inst:
			err = r.inst(st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) directive(d *ptx.Directive) error {
	switch d.Name {
	case ".loc", ".file", ".section", ".pragma", ".branchtargets", ".callprototype", "@@":
		return nil
	case ".calltargets":
		for _, name := range d.Args {
			o := ptx.Operand{Pos: d.Pos, Name: name}
			if err := r.address(&o); err != nil {
				return err
			}
		}
		return nil
	}
	return r.refuse(CodeDirective, d.Pos, "%s inside a function", d.Name)
}

// address notes that a function's address is taken.
func (r *reader) address(o *ptx.Operand) error {
	fn, err := r.callee(o)
	if err == nil && fn != nil {
		r.taken = o
	}
	return err
}

// callee finds a function by name, nil for an external one that is allowed.
func (b *body) callee(o *ptx.Operand) (*function, error) {
	f := b.defs[o.Name]
	switch {
	case b.aliases[o.Name]:
		return nil, b.refuse(CodeAlias, o.Pos, "%s is an alias", o.Name)
	case f != nil && f.Entry:
		return nil, b.refuse(CodeEntryAddress, o.Pos, "a kernel (%s) is called or its address taken", o.Name)
	case f != nil:
		return b.reach(f), nil
	}
	if why := service(o.Name); why != "" {
		return nil, b.refuse(CodeDeviceRuntime, o.Pos, "%s %s", o.Name, why)
	}
	// A failed assertion reports through the context's error, in whatever launch it is.
	if o.Name == "__assertfail" && b.decls[o.Name] != nil {
		b.externs[o.Name] = true
		return nil, nil
	}
	if d := b.decls[o.Name]; d != nil && d.Entry {
		return nil, b.refuse(CodeEntryAddress, o.Pos, "a kernel (%s) is called or its address taken", o.Name)
	}
	if b.decls[o.Name] != nil {
		return nil, b.refuse(CodeExternal, o.Pos, "function %s has no body in this module", o.Name)
	}
	return nil, b.refuse(CodeMalformed, o.Pos, "%s is not declared", o.Name)
}

// service says what an external function of the device runtime needs, "" for any other function.
func service(name string) string {
	switch {
	case name == "vprintf":
		return "prints to the buffer of a client's process"
	case name == "malloc" || name == "free":
		return "uses the device heap of a client's context"
	}
	for _, p := range []string{"__cudaCDP", "cudaLaunchDevice", "cudaGetParameterBuffer", "cudaDevice", "cudaStream", "cudaEvent",
		"cudaGraph", "__cnp", "cnp"} {
		if strings.HasPrefix(name, p) {
			return "launches kernels from the device"
		}
	}
	return ""
}

func (r *reader) inst(in *ptx.Inst) error {
	if in.Pred != "" && r.scopes.find(in.Pred) == nil {
		return r.refuse(CodeMalformed, in.Pos, "guard %s is not declared", in.Pred)
	}
	if err := r.opcode(in); err != nil {
		return err
	}
	if code := r.loops.inst(in); code != "" {
		return r.refuse(code, in.Pos, "a loop waits for memory that other blocks write")
	}
	args := in.Args
	switch in.Op {
	case "call":
		return r.call(in)
	case "bra":
		if len(args) != 1 || args[0].Kind != ptx.Sym {
			return r.refuse(CodeMalformed, in.Pos, "bra wants a label")
		}
		return nil
	case "brx":
		if len(args) != 2 || args[1].Kind != ptx.Sym {
			return r.refuse(CodeMalformed, in.Pos, "brx wants an index and the label of a list")
		}
		args = args[:1]
	}
	for i := range args {
		if err := r.operand(in, &args[i]); err != nil {
			return err
		}
	}
	return nil
}

// opcode looks at what an instruction does beyond its operands.
func (r *reader) opcode(in *ptx.Inst) error {
	switch in.Op {
	case "tex", "tld4", "txq", "suld", "sust", "sured", "suq", "istypep":
		return r.refuse(CodeTexture, in.Pos, "%s", in.Op)
	case "clusterlaunchcontrol":
		return r.refuse(CodeLaunchControl, in.Pos, "blocks take over other blocks of the grid")
	case "exit":
		if !r.fn.f.Entry {
			return r.refuse(CodeExitInFunction, in.Pos, "%s ends the thread", r.fn.f.Name)
		}
	case "setmaxnreg":
		r.setmax = true
	case "mapa", "getctarank":
		r.clusters = true
	case "cp", "multimem":
		// Stores of the asynchronous proxy: the first space is the destination.
		if has(in.Mods, ".bulk") && has(in.Mods, ".async") && !has(in.Mods, ".prefetch", ".commit_group", ".wait_group") {
			for _, m := range in.Mods {
				if m == ".global" {
					r.bulk = true
				}
				if m == ".global" || strings.HasPrefix(m, ".shared") {
					break
				}
			}
		}
	case "red", "st":
		// Those to shared memory complete on an mbarrier; those to global memory on nothing.
		if has(in.Mods, ".async") && !slices.ContainsFunc(in.Mods, func(m string) bool {
			return strings.HasPrefix(m, ".shared") || strings.HasPrefix(m, ".mbarrier::")
		}) {
			return r.refuse(CodeAsyncStore, in.Pos, "%s.async to global memory", in.Op)
		}
	}
	if !r.fn.f.Entry && waits(in) {
		r.waitsInside = true
	}
	if has(in.Mods, ".cluster") && in.Op == "barrier" || has(in.Mods, ".multicast::cluster") {
		r.clusters = true
	}
	if (in.Op == "st" || in.Op == "atom" || in.Op == "red" || in.Op == "multimem") && !has(in.Mods, ".param", ".shared", ".local") {
		for i := range in.Args {
			if a := &in.Args[i]; a.Kind == ptx.Addr && a.Elems[0].Kind == ptx.Sym {
				r.written[a.Elems[0].Name] = true
			}
		}
	}
	return nil
}

// waits tells whether an instruction makes threads of a block or warp wait for each other.
func waits(in *ptx.Inst) bool {
	switch in.Op {
	case "bar", "barrier", "mbarrier", "wgmma", "tcgen05", "elect":
		return true
	}
	return has(in.Mods, ".sync", ".aligned")
}

func (r *reader) call(in *ptx.Inst) error {
	t := callTarget(in)
	if t < 0 || in.Args[t].Kind != ptx.Sym {
		return r.refuse(CodeMalformed, in.Pos, "call wants the name of a function or a register")
	}
	target := &in.Args[t]
	if r.scopes.find(target.Name) != nil {
		r.indirect = true
	} else {
		fn, err := r.callee(target)
		if err != nil {
			return err
		}
		if fn != nil {
			r.fn.callees = append(r.fn.callees, target.Name)
		}
	}
	for i := range in.Args {
		for k := range in.Args[i].Elems {
			e := &in.Args[i].Elems[k]
			if e.Kind == ptx.Sym && e.Name != "_" && r.scopes.find(e.Name) == nil || r.isParam(e.Name) {
				return r.refuse(CodeMalformed, e.Pos, "%s is no argument that a call can have", e.Name)
			}
		}
	}
	return nil
}

// callTarget gives the index of a call's function among its operands, -1 when there is none.
func callTarget(in *ptx.Inst) int {
	for i := range in.Args {
		if in.Args[i].Kind != ptx.List {
			return i
		}
	}
	return -1
}

// isParam tells whether a name means a parameter of the kernel here.
func (r *reader) isParam(name string) bool {
	v := r.scopes.find(name)
	return v != nil && r.paramVars[v]
}

func (r *reader) operand(in *ptx.Inst, o *ptx.Operand) error {
	for i := range o.Elems {
		if err := r.operand(in, &o.Elems[i]); err != nil {
			return err
		}
	}
	if o.Kind != ptx.Sym || o.Name == "_" || o.Name == "WARP_SZ" {
		return nil
	}
	if o.OffReg != "" && r.scopes.find(o.OffReg) == nil {
		return r.refuse(CodeMalformed, o.Pos, "%s is not declared", o.OffReg)
	}
	if v := r.scopes.find(o.Name); v != nil {
		if o.OffReg != "" && v.Space != ".reg" {
			return r.refuse(CodeMalformed, o.Pos, "%s+%s: a register cannot be added to a variable's address", o.Name, o.OffReg)
		}
		return nil
	}
	if v := r.vars[o.Name]; v != nil {
		if o.OffReg != "" {
			return r.refuse(CodeMalformed, o.Pos, "%s+%s: a register cannot be added to a variable's address", o.Name, o.OffReg)
		}
		return r.moduleVar(v, o.Pos)
	}
	if r.defs[o.Name] != nil || r.decls[o.Name] != nil || r.aliases[o.Name] {
		return r.address(o)
	}
	if strings.HasPrefix(o.Name, "%") {
		return r.special(in, o)
	}
	return r.refuse(CodeMalformed, o.Pos, "%s is not declared", o.Name)
}

// moduleVar notes the use of a variable of the module.
func (r *reader) moduleVar(v *ptx.Var, pos ptx.Pos) error {
	switch v.Type {
	case ".texref", ".samplerref", ".surfref":
		return r.refuse(CodeTexture, pos, "%s is of type %s", v.Name, v.Type)
	}
	switch v.Space {
	case ".shared":
		r.used[v.Name] = true
		return r.place(v)
	case ".global", ".const":
		r.fn.globals[v.Name] = true
		r.used[v.Name] = true
		return nil
	}
	return r.refuse(CodeMalformed, pos, "%s lies in %s", v.Name, v.Space)
}

// special decides about a special register (PTX ISA 10).
func (r *reader) special(in *ptx.Inst, o *ptx.Operand) error {
	byZ := r.spec.Mapping == ByZ
	word := func(x uint8) error {
		if (in.Op != "mov" && in.Op != "cvt") || len(in.Args) != 2 || &in.Args[1] != o || len(o.Elems) > 0 {
			return r.refuse(CodeSpecialUse, o.Pos, "%s as an operand of %s", o.Name, in.Op)
		}
		switch o.Comp {
		case ".x":
		case ".y":
			x <<= 1
		case ".z":
			x <<= 2
		case "":
			if in.Op != "mov" || !has(in.Mods, ".v2", ".v4") {
				return r.refuse(CodeSpecialUse, o.Pos, "%s without component", o.Name)
			}
			x *= 7
		default:
			return r.refuse(CodeSpecialUse, o.Pos, "%s%s", o.Name, o.Comp)
		}
		r.fn.words |= x
		return nil
	}
	switch o.Name {
	case "%ctaid":
		return word(wordX)
	case "%nctaid":
		return word(wordNX)
	case "%clusterid", "%nclusterid":
		r.clusters = true
		if byZ {
			if o.Name == "%clusterid" {
				return word(wordX)
			}
			return word(wordNX)
		}
	case "%cluster_ctaid", "%cluster_nctaid", "%cluster_ctarank", "%cluster_nctarank", "%is_explicit_cluster":
		r.clusters = true
	case "%dynamic_smem_size":
		r.exactDyn = true
	case "%tid", "%ntid", "%laneid", "%lanemask_eq", "%lanemask_le", "%lanemask_lt", "%lanemask_ge", "%lanemask_gt", "%clock",
		"%clock_hi", "%clock64", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi", "%reserved_smem_offset_begin",
		"%reserved_smem_offset_end", "%reserved_smem_offset_cap", "%reserved_smem_offset_0", "%reserved_smem_offset_1":
	default:
		if strings.HasPrefix(o.Name, "%envreg") {
			return r.refuse(CodeCooperative, o.Pos, "%s, which only a launch of its own has", o.Name)
		}
		return r.refuse(CodeSpecialRegister, o.Pos, "%s%s", o.Name, o.Comp)
	}
	return nil
}
