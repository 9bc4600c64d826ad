// Package effects says what a kernel reads and writes in global memory, from its PTX: whether it can be executed again after it was
// cut in the middle.
//
// [Of] looks at a kernel once. [Effects.Touches] then gives the addresses that one launch can touch, from its grid, block and
// parameters, by interval arithmetic: conditions that guard an access (a bounds check, a mask) narrow it. Where an index cannot
// be bounded (a loop, a value loaded from memory), the access is taken to stay in the memory that the pointer parameter points
// into, as C++ demands.
//
// Whoever asks decides: a launch can be repeated if nothing that it reads is written by itself or by what came after it. Everything
// that is not understood makes a kernel one that cannot be repeated: atomics, pointers that come from memory, memory that others
// read or write while the kernel runs, device globals, calls, clocks.
//
// The package knows nothing of processes, sockets or the driver. Source: PTX ISA 9.0 sections 8, 9.7.9, 9.7.13; docs/protocol.md
// section 3.
package effects

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Bounds of what is looked at.
const (
	maxInstructions = 1 << 16 // of a kernel
	maxSteps        = 1 << 24 // instructions evaluated for one launch
)

// Effects is what is known of one kernel. It never changes, and any goroutine may use it.
type Effects struct {
	// Why says what keeps the kernel from ever being repeated, with its position in the source; "" when its launches decide.
	Why string

	regs     map[string]int // register → index
	names    int
	wide     []bool // register of 64 bits
	ssa      []bool // register with one value from its definition to every use
	slice    []def  // what addresses and their guards are made of, in program order
	accesses []access
	facts    [][]fact // per fact set: what holds where an access of it is executed
}

// access is one load or store of global memory.
type access struct {
	base  ptx.Operand // register or constant, with offset
	bytes int64
	write bool
	// signal: a store that others may wait for while the kernel runs.
	signal bool
	facts  int // index in Effects.facts
	pos    ptx.Pos
}

// def is one definition of a register that matters.
type def struct {
	in  *ptx.Inst
	out []int // registers that it sets
	ssa bool  // all of them are set here only, and here comes before every use
	// param, when ≥ 0: a load of the parameter block from this offset on, each register elem bytes.
	param, elem int
}

// fact is a condition that is known to hold or not to hold: setp a, b.
type fact struct {
	cmp, typ string
	a, b     ptx.Operand
	holds    bool
}

// unknown is how the analysis gives up; recovered in Of.
type unknown string

func giveUp(pos ptx.Pos, format string, args ...any) {
	panic(unknown(fmt.Sprintf("%s: %s", pos, fmt.Sprintf(format, args...))))
}

// Of looks at a kernel. An error means that the module has no such kernel; a kernel that is not understood is no error: Why says so.
// The module is not changed.
func Of(m *ptx.Module, entry string) (e *Effects, err error) {
	f := m.Func(entry)
	if f == nil || !f.Entry || !f.HasBody {
		return nil, fmt.Errorf("effects: the module has no kernel %q with a body", entry)
	}
	defer func() {
		if r := recover(); r != nil {
			why, ok := r.(unknown)
			if !ok {
				panic(r)
			}
			e, err = &Effects{Why: string(why)}, nil
		}
	}()
	a := &analysis{m: m, f: f, e: &Effects{regs: map[string]int{}}, symbols: map[string]origin{}}
	if m.AddressSize == 32 {
		giveUp(f.Pos, "32-bit addresses")
	}
	a.declare()
	a.flow = newFlow(f.Body)
	if len(a.flow.code) > maxInstructions {
		giveUp(f.Pos, "more than %d instructions", maxInstructions)
	}
	a.definitions()
	for i, in := range a.flow.code {
		a.look(i, in)
	}
	a.cut()
	return a.e, nil
}

// origin is what a value is made of.
type origin uint8

const (
	fromMemory origin = 1 << iota // a pointer may be among what it was loaded from: an address made of it may be anywhere
	fromIndex                     // a number of at most 32 bits that was loaded from memory
	private                       // an address in shared, local or parameter space
	module                        // the address of a module's variable
)

// analysis is the work of Of.
type analysis struct {
	m       *ptx.Module
	f       *ptx.Func
	e       *Effects
	flow    *flow
	symbols map[string]origin
	params  map[string]ptx.Param
	defs    [][]int // register → instructions that set it
	ssa     []bool
}

// declare collects registers and symbols. Registers of nested scopes that share a name are taken for one that is set in several
// places.
func (a *analysis) declare() {
	params, _, err := a.f.Layout()
	if err != nil {
		giveUp(a.f.Pos, "%v", err)
	}
	a.params = map[string]ptx.Param{}
	for _, p := range params {
		// Every architecture begins a parameter block at a multiple of 16 of the bank where parameters are aligned (image.Entry).
		if p.Align > 16 {
			giveUp(a.f.Pos, "parameter %s is aligned to %d bytes, so its place depends on the device", p.Name, p.Align)
		}
		a.params[p.Name] = p
		a.symbols[p.Name] = private
	}
	variable := func(v *ptx.Var) {
		switch v.Space {
		case ".shared", ".local", ".param":
			a.symbols[v.Name] |= private
		case ".global", ".const":
			a.symbols[v.Name] |= module
		}
	}
	for _, v := range a.m.Vars {
		variable(v)
	}
	var walk func(body []ptx.Stmt)
	walk = func(body []ptx.Stmt) {
		for _, s := range body {
			switch s := s.(type) {
			case *ptx.Block:
				walk(s.Body)
			case *ptx.Var:
				if s.Space != ".reg" {
					variable(s)
					continue
				}
				if s.Range == 0 {
					a.register(s.Name, s.Type)
				}
				if s.Range > 4*maxInstructions {
					giveUp(s.Pos, "%d registers in one range", s.Range)
				}
				for i := range s.Range {
					a.register(fmt.Sprintf("%s%d", s.Name, i), s.Type)
				}
			}
		}
	}
	walk(a.f.Body)
}

func (a *analysis) register(name, typ string) {
	if _, ok := a.e.regs[name]; ok {
		return
	}
	a.e.regs[name] = a.e.names
	a.e.names++
	a.e.wide = append(a.e.wide, strings.HasSuffix(typ, "64") || strings.HasSuffix(typ, "128"))
}

// registers calls fn for each register among the parts of the operands.
func (a *analysis) registers(ops []ptx.Operand, fn func(reg int)) {
	for i := range ops {
		o := &ops[i]
		if o.Kind == ptx.Sym {
			if r, ok := a.e.regs[o.Name]; ok {
				fn(r)
			}
		}
		if r, ok := a.e.regs[o.OffReg]; ok && o.OffReg != "" {
			fn(r)
		}
		a.registers(o.Elems, fn)
	}
}

// outputs are the registers that an instruction sets: those of its first operand, unless that is memory.
func (a *analysis) outputs(in *ptx.Inst) (out []int) {
	switch in.Op {
	case "st", "red", "bra", "ret", "exit", "trap", "membar", "fence", "cp", "prefetch", "prefetchu":
		return nil
	}
	if len(in.Args) == 0 || in.Args[0].Kind == ptx.Addr {
		return nil
	}
	a.registers(in.Args[:1], func(r int) { out = append(out, r) })
	return out
}

// definitions finds who sets each register, and the registers that have one value from their definition to every use.
func (a *analysis) definitions() {
	n := a.e.names
	a.defs = make([][]int, n)
	a.ssa = make([]bool, n)
	for i, in := range a.flow.code {
		for _, r := range a.outputs(in) {
			a.defs[r] = append(a.defs[r], i)
		}
	}
	for r := range n {
		a.ssa[r] = len(a.defs[r]) == 1 && a.flow.code[a.defs[r][0]].Pred == "" && !a.flow.indirect
	}
	for i, in := range a.flow.code {
		use := func(r int) {
			if a.ssa[r] && !a.flow.before(a.defs[r][0], i) {
				a.ssa[r] = false
			}
		}
		args := in.Args
		if len(a.outputs(in)) > 0 {
			args = args[1:]
		}
		a.registers(args, use)
		if r, ok := a.e.regs[in.Pred]; ok {
			use(r)
		}
	}
}

// volatileRegisters have values that differ from run to run.
var volatileRegisters = []string{"%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi", "%smid", "%nsmid",
	"%warpid", "%nwarpid", "%gridid", "%current_graph_exec"}

// look finds the accesses, and what forbids repetition.
func (a *analysis) look(i int, in *ptx.Inst) {
	in.WalkNames(func(name *string) {
		if slices.Contains(volatileRegisters, *name) || strings.HasPrefix(*name, "%pm") || strings.HasPrefix(*name, "%envreg") {
			giveUp(in.Pos, "it reads %s", *name)
		}
	})
	mod := func(m ...string) bool {
		return slices.ContainsFunc(in.Mods, func(have string) bool {
			have = strings.TrimPrefix(have, ".")
			return slices.ContainsFunc(m, func(w string) bool { return have == w || strings.HasPrefix(have, w+"::") })
		})
	}
	switch in.Op {
	case "ld", "ldu", "st":
		switch {
		case mod("param", "shared", "local"):
			return
		case mod("const"):
			return
		case in.Op == "st" && mod("volatile", "relaxed", "release") && !mod("mmio", "async"):
			// A store like any other, to memory in which nobody waits for it.
		case mod("volatile", "relaxed", "acquire", "release", "mmio", "async", "bulk"):
			giveUp(in.Pos, "%s%s talks to others while the kernel runs", in.Op, strings.Join(in.Mods, ""))
		}
		at := 1
		if in.Op == "st" {
			at = 0
		}
		if len(in.Args) <= at || in.Args[at].Kind != ptx.Addr || len(in.Args[at].Elems) != 1 {
			giveUp(in.Pos, "an address that is not understood")
		}
		a.access(i, in, in.Args[at].Elems[0], transferBytes(in), in.Op == "st", mod("volatile", "relaxed", "release"))
	case "atom", "red":
		if !mod("shared") {
			giveUp(in.Pos, "an atomic operation on memory")
		}
	case "cp":
		switch {
		case mod("commit_group", "wait_group", "wait_all"), mod("mbarrier") && !mod("bulk"):
		case mod("async") && !mod("bulk") && mod("shared") && len(in.Args) >= 3 && in.Args[1].Kind == ptx.Addr && len(in.Args[1].Elems) == 1 && in.Args[2].Kind == ptx.Imm:
			a.access(i, in, in.Args[1].Elems[0], in.Args[2].Int, false, false)
		default:
			giveUp(in.Pos, "cp%s", strings.Join(in.Mods, ""))
		}
	case "call":
		// An assertion that fails ends the context; one that holds does nothing.
		if !slices.ContainsFunc(in.Args, func(o ptx.Operand) bool { return o.Kind == ptx.Sym && o.Name == "__assertfail" }) {
			giveUp(in.Pos, "it calls a function")
		}
	case "membar", "fence":
		if mod("sys") {
			giveUp(in.Pos, "%s%s talks to others while the kernel runs", in.Op, strings.Join(in.Mods, ""))
		}
	case "activemask", "griddepcontrol", "multimem", "tensormap", "discard", "tex", "tld4", "txq", "suld", "sust", "sured", "suq",
		"clusterlaunchcontrol", "tcgen05":
		giveUp(in.Pos, "%s", in.Op)
	case "prefetch", "prefetchu", "applypriority", "mbarrier", "ldmatrix", "stmatrix", "mapa", "getctarank", "isspacep":
		// Hints, and shared memory.
	default:
		// Whatever else has an address is not understood; wgmma reads shared memory through descriptors.
		for _, o := range in.Args {
			if o.Kind == ptx.Addr {
				giveUp(in.Pos, "%s with an address", in.Op)
			}
		}
	}
}

// transferBytes is how much a load or store moves.
func transferBytes(in *ptx.Inst) int64 {
	n := int64(0)
	count := int64(1)
	for _, m := range in.Mods {
		switch m = strings.TrimPrefix(m, "."); m {
		case "v2":
			count = 2
		case "v4":
			count = 4
		case "v8":
			count = 8
		default:
			if b := typeBits(m); b > 0 {
				n = int64(b+7) / 8
			}
		}
	}
	if n == 0 {
		giveUp(in.Pos, "%s%s has no type that is understood", in.Op, strings.Join(in.Mods, ""))
	}
	return n * count
}

// access notes one access and what holds where it is made.
func (a *analysis) access(i int, in *ptx.Inst, base ptx.Operand, bytes int64, write, signal bool) {
	if base.OffReg != "" {
		giveUp(in.Pos, "an address with a register added")
	}
	if base.Kind == ptx.Sym && a.symbols[base.Name] != 0 {
		if a.symbols[base.Name]&module != 0 && write {
			giveUp(in.Pos, "it writes the variable %s", base.Name)
		}
		if _, ok := a.e.regs[base.Name]; !ok {
			return
		}
	}
	if base.Kind == ptx.Sym {
		if _, ok := a.e.regs[base.Name]; !ok {
			giveUp(in.Pos, "the address %q is not understood", base.Name)
		}
	} else if base.Kind != ptx.Imm {
		giveUp(in.Pos, "an address that is not understood")
	}
	facts := a.flow.facts(i, a)
	set := slices.IndexFunc(a.e.facts, func(have []fact) bool { return slices.EqualFunc(have, facts, sameFact) })
	if set < 0 {
		set = len(a.e.facts)
		a.e.facts = append(a.e.facts, facts)
	}
	a.e.accesses = append(a.e.accesses, access{base, bytes, write, signal, set, in.Pos})
}

func sameFact(x, y fact) bool {
	return x.cmp == y.cmp && x.typ == y.typ && x.holds == y.holds && sameOperand(x.a, y.a) && sameOperand(x.b, y.b)
}

func sameOperand(x, y ptx.Operand) bool {
	return x.Kind == y.Kind && x.Name == y.Name && x.Comp == y.Comp && x.Int == y.Int && x.Neg == y.Neg
}

// cut keeps the definitions on which addresses and facts depend.
func (a *analysis) cut() {
	needed := make([]bool, a.e.names)
	var todo []int
	need := func(r int) {
		if !needed[r] {
			needed[r] = true
			todo = append(todo, r)
		}
	}
	for _, x := range a.e.accesses {
		a.registers([]ptx.Operand{x.base}, need)
	}
	for _, set := range a.e.facts {
		for _, f := range set {
			a.registers([]ptx.Operand{f.a, f.b}, need)
		}
	}
	for len(todo) > 0 {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, i := range a.defs[r] {
			in := a.flow.code[i]
			a.registers(in.Args[1:], need)
			a.registers(in.Args[:1], need) // a vector's other parts are set by the same instruction
		}
	}
	for i, in := range a.flow.code {
		out := a.outputs(in)
		if !slices.ContainsFunc(out, func(r int) bool { return needed[r] }) {
			continue
		}
		d := def{in: in, out: out, param: -1, ssa: !slices.ContainsFunc(out, func(r int) bool { return !a.ssa[r] })}
		if in.Op == "ld" && slices.ContainsFunc(in.Mods, func(m string) bool { return strings.HasPrefix(strings.TrimPrefix(m, "."), "param") }) {
			a.parameter(i, &d)
		}
		a.e.slice = append(a.e.slice, d)
	}
	for k := range a.e.slice {
		a.e.slice[k].in = a.e.slice[k].in.Clone()
		a.mark(a.e.slice[k].in.Args)
	}
	for k := range a.e.accesses {
		a.markOne(&a.e.accesses[k].base)
	}
	for _, set := range a.e.facts {
		for k := range set {
			a.markOne(&set[k].a)
			a.markOne(&set[k].b)
		}
	}
	a.e.ssa = a.ssa
}

// parameter understands ld.param [name+offset]; other loads of parameters give values that may be any pointer.
func (a *analysis) parameter(i int, d *def) {
	o := d.in.Args[1]
	if o.Kind != ptx.Addr || len(o.Elems) != 1 || o.Elems[0].Kind != ptx.Sym || o.Elems[0].OffReg != "" {
		return
	}
	p, ok := a.params[o.Elems[0].Name]
	n := int(transferBytes(d.in))
	parts := 1
	if d.in.Args[0].Kind == ptx.Vec {
		parts = len(d.in.Args[0].Elems)
	}
	if parts != len(d.out) {
		return // a part that nobody wants, or a register twice
	}
	if off := o.Elems[0].Off; ok && off >= 0 && off+int64(n) <= int64(p.Size) && parts > 0 && n%parts == 0 {
		d.param, d.elem = p.Offset+int(off), n/parts
	}
}

// mark resolves symbols: Operand.Width says what it is, Bits holds a register's index or the origin of an address.
func (a *analysis) mark(ops []ptx.Operand) {
	for i := range ops {
		a.markOne(&ops[i])
		a.mark(ops[i].Elems)
	}
}

func (a *analysis) markOne(o *ptx.Operand) {
	if o.Kind != ptx.Sym {
		return
	}
	if r, ok := a.e.regs[o.Name]; ok {
		o.Width, o.Bits = isRegister, uint64(r)
	} else if from := a.symbols[o.Name]; from != 0 {
		o.Width, o.Bits = isSymbol, uint64(from)
	}
}

// What Operand.Width of a Sym says after mark.
const (
	isRegister = 1
	isSymbol   = 2
)
