package coalesce

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// rewriter rewrites one function of a body.
type rewriter struct {
	*body
	l      *Layout
	f      *ptx.Func
	fn     *function
	scopes scopes

	// of the kernel itself
	ends   *ends
	labels []*labelScope
	at     int // instructions so far
	exits  int // epilogues asked for so far
	common int // the one that exits share, 0 before the first
}

// maxExits bounds the epilogues of one kernel.
const maxExits = 4096

// prefix is what a module-level name of this body gets in front, so that several bodies may have the same names.
func (b *body) prefix() string {
	if !b.packs {
		return ""
	}
	return fmt.Sprintf("word$%d_", b.num)
}

// function gives the rewritten device function, or the kernel's body with jumps to its epilogues.
func (r *rewriter) function() (*ptx.Func, error) {
	out := *r.f
	r.scopes.push()
	for _, v := range append(slices.Clone(r.f.Ret), r.f.Params...) {
		r.scopes.declare(v)
	}
	if r.f.Entry {
		r.ends = findEnds(r.f.Body, func(in *ptx.Inst) bool { return waits(in) || in.Op == "call" && r.waitsInside })
		r.labels = []*labelScope{r.ends.scopes[nil]}
	}
	body, err := r.list(r.f.Body)
	if err != nil {
		return nil, err
	}
	if !r.f.Entry {
		out.Body = body
		r.head(&out)
		return &out, nil
	}
	if fallsOff(r.f.Body) {
		body = append(body, inst("bra", sym(r.exit())))
	}
	out.Body = body
	return &out, nil
}

// fallsOff tells whether threads may reach the end of a kernel's body.
func fallsOff(body []ptx.Stmt) bool {
	if len(body) == 0 {
		return true
	}
	in, ok := body[len(body)-1].(*ptx.Inst)
	return !ok || in.Pred != "" || !endsThread(in) && in.Op != "bra"
}

// head gives a device function its name in the new module, the parameters that it needs, and the registers that hold them.
func (r *rewriter) head(out *ptx.Func) {
	out.Name = r.prefix() + r.f.Name
	if r.fn == nil {
		return
	}
	var text strings.Builder
	var lead []*ptx.Var
	globals := false
	for _, n := range r.fn.needs {
		reg, typ := n.register()
		param := "word$" + strings.TrimPrefix(reg, "%word$")
		globals = globals || n.global
		lead = append(lead, &ptx.Var{Space: ".param", Type: typ, Name: param})
		fmt.Fprintf(&text, ".reg %s %s;\nld.param%s %s, [%s];\n", typ, reg, typ, reg, param)
	}
	if globals {
		text.WriteString(".reg .b64 %word$d;\n")
	}
	if r.l.Mapping == ByZ && r.fn.words&(wordZ|wordNZ) != 0 {
		text.WriteString(".reg .b32 %word$z, %word$nz;\nmov.u32 %word$z, 0;\nmov.u32 %word$nz, 1;\n")
	}
	out.Params = append(lead, r.f.Params...)
	if out.HasBody && text.Len() > 0 {
		out.Body = append(statements(text.String()), out.Body...)
	}
}

func (n need) register() (name, typ string) {
	if n.global {
		return fmt.Sprintf("%%word$g%d", n.num), ".b64"
	}
	return wordNames[n.num], ".b32"
}

// statements parses text that this package made.
func statements(text string) []ptx.Stmt {
	m, err := ptx.Parse([]byte(".version 8.1\n.func f()\n{\n" + text + "}\n"))
	if err != nil {
		panic("BUG: coalesce: own PTX: " + err.Error() + "\n" + text)
	}
	return m.Funcs[0].Body
}

func (r *rewriter) list(list []ptx.Stmt) ([]ptx.Stmt, error) {
	out := make([]ptx.Stmt, 0, len(list))
	for _, st := range list {
		switch st := st.(type) {
		case *ptx.Label:
			out = append(out, st)
		case *ptx.Var:
			r.scopes.declare(st)
			if r.packs && st.Space == ".shared" {
				continue
			}
			v := *st
			v.Cont = false // what it continues may be gone
			out = append(out, &v)
		case *ptx.Directive:
			if d := r.directive(st); d != nil {
				out = append(out, d)
			}
		case *ptx.Block:
			r.scopes.push()
			if r.ends != nil {
				r.labels = append(r.labels, r.ends.scopes[st])
			}
			body, err := r.list(st.Body)
			if err != nil {
				return nil, err
			}
			r.scopes.pop()
			if r.ends != nil {
				r.labels = r.labels[:len(r.labels)-1]
			}
			out = append(out, &ptx.Block{Pos: st.Pos, Body: body})
		case *ptx.Inst:
			ins, err := r.inst(st)
			if err != nil {
				return nil, err
			}
			for _, in := range ins {
				out = append(out, in)
			}
			r.at++
		}
	}
	return out, nil
}

func (r *rewriter) directive(d *ptx.Directive) *ptx.Directive {
	switch d.Name {
	case ".loc", ".file", ".section", "@@":
		return nil
	case ".branchtargets":
		if r.ends == nil {
			return d
		}
		args := slices.Clone(d.Args)
		for i, a := range args {
			if r.returns(a) {
				args[i] = r.exit()
			}
		}
		return &ptx.Directive{Pos: d.Pos, Name: d.Name, Args: args, Text: strings.Join(args, ", "), Semi: true}
	case ".calltargets":
		args := slices.Clone(d.Args)
		for i := range args {
			args[i] = r.prefix() + args[i]
		}
		return &ptx.Directive{Pos: d.Pos, Name: d.Name, Args: args, Text: strings.Join(args, ", "), Semi: true}
	}
	return d
}

// returns tells whether a label of the kernel is one behind which threads end at once.
func (r *rewriter) returns(label string) bool {
	return r.ends.returns[r.labels[len(r.labels)-1].find(label)]
}

// exit gives the label of an epilogue for threads that end here.
//
// Where threads of a block or warp may still wait for each other, every exit gets an epilogue of its own. A common one would be a
// point at which the assembler lets the threads of a warp meet again, so that a thread that returned early would wait there for
// others of its warp, while those wait for it to arrive or to be gone at a barrier. Whoever returns must be gone.
func (r *rewriter) exit() string {
	if r.at < r.ends.shared {
		r.exits++
		return r.exitLabel(r.exits)
	}
	if r.common == 0 {
		r.exits++
		r.common = r.exits
	}
	return r.exitLabel(r.common)
}

func (b *body) exitLabel(n int) string { return fmt.Sprintf("$word$end_%d_%d", b.num, n) }

// inst gives what an instruction becomes.
func (r *rewriter) inst(in *ptx.Inst) ([]*ptx.Inst, error) {
	if r.f.Entry {
		if endsThread(in) {
			return r.jump(in, r.exit())
		}
		if in.Op == "bra" && r.returns(in.Args[0].Name) {
			return r.jump(in, r.exit())
		}
	}
	switch in.Op {
	case "bra", "brx":
		return []*ptx.Inst{in}, nil
	case "call":
		return r.call(in)
	}
	x := &rewriting{rewriter: r, in: in}
	if err := x.instruction(); err != nil {
		return nil, err
	}
	return append(x.before, x.out...), nil
}

// jump makes in a jump under the same guard.
func (r *rewriter) jump(in *ptx.Inst, label string) ([]*ptx.Inst, error) {
	if r.exits > maxExits {
		return nil, r.refuse(CodeTooLarge, in.Pos, "threads end in more than %d places", maxExits)
	}
	return []*ptx.Inst{{Pos: in.Pos, Pred: in.Pred, PNeg: in.PNeg, Op: "bra", Args: []ptx.Operand{sym(label)}}}, nil
}

func sym(name string) ptx.Operand { return ptx.Operand{Kind: ptx.Sym, Name: name} }

func imm(v int64) ptx.Operand { return ptx.Operand{Kind: ptx.Imm, Int: v} }

func addr(base string, off int64) ptx.Operand {
	return ptx.Operand{Kind: ptx.Addr, Elems: []ptx.Operand{{Kind: ptx.Sym, Name: base, Off: off}}}
}

func inst(op string, args ...ptx.Operand) *ptx.Inst {
	op, mods, _ := strings.Cut(op, ".")
	in := &ptx.Inst{Op: op, Args: args}
	if mods == "" {
		return in
	}
	for _, m := range strings.Split(mods, ".") {
		in.Mods = append(in.Mods, "."+m)
	}
	return in
}

// call passes what the callee needs in front of its arguments.
func (r *rewriter) call(in *ptx.Inst) ([]*ptx.Inst, error) {
	t := callTarget(in)
	name := in.Args[t].Name
	if r.scopes.find(name) != nil || r.funcs[name] == nil {
		return []*ptx.Inst{in}, nil
	}
	out := *in
	out.Args = slices.Clone(in.Args)
	out.Args[t].Name = r.prefix() + name
	var before []*ptx.Inst
	var lead []ptx.Operand
	for _, n := range r.funcs[name].needs {
		reg, _ := n.register()
		if n.global && r.f.Entry {
			before = append(before, r.loadGlobal(n.num))
		}
		lead = append(lead, sym(reg))
	}
	if len(lead) > 0 {
		if t+1 < len(out.Args) && out.Args[t+1].Kind == ptx.List {
			out.Args[t+1].Elems = append(lead, out.Args[t+1].Elems...)
		} else {
			out.Args = slices.Insert(out.Args, t+1, ptx.Operand{Kind: ptx.List, Elems: lead})
		}
	}
	return append(before, &out), nil
}

// loadGlobal loads the address of a client's variable, in the kernel. The assembler joins repeated loads.
func (b *body) loadGlobal(n int) *ptx.Inst {
	return inst("ld.param.b64", sym(fmt.Sprintf("%%word$g%d", n)), addr("%word$base", int64(b.globalsAt+8*n)))
}

// rewriting is the rewriting of one instruction.
type rewriting struct {
	*rewriter
	in     *ptx.Inst
	before []*ptx.Inst // unguarded, for temporaries
	out    []*ptx.Inst
}

func (x *rewriting) instruction() error {
	in := x.in
	out := *in
	out.Args = slices.Clone(in.Args)
	x.out = []*ptx.Inst{&out}
	if x.constMoved && has(in.Mods, ".const") {
		switch in.Op {
		case "cvta": // a global address is a generic one
			out.Op, out.Mods = "mov", []string{".b64"}
		case "ld", "ldu", "prefetch":
			out.Mods = slices.Clone(in.Mods)
			out.Mods[slices.Index(out.Mods, ".const")] = ".global"
		default:
			return x.refuse(CodeGlobalUse, in.Pos, "%s of constant memory, which clients' variables have left", in.Op)
		}
	}
	if len(in.Args) == 2 && in.Args[1].Kind == ptx.Sym && (in.Op == "mov" || in.Op == "cvt") {
		switch in.Args[1].Name {
		case "%ctaid", "%clusterid":
			return x.word(&out, 0)
		case "%nctaid", "%nclusterid":
			return x.word(&out, 3)
		}
	}
	for i := range out.Args {
		if err := x.operand(&out, &out.Args[i], i); err != nil {
			return err
		}
	}
	return nil
}

// word replaces a read of %ctaid (first = 0) or %nctaid (first = 3). With ByZ only z changes.
func (x *rewriting) word(out *ptx.Inst, first int) error {
	o := &out.Args[1]
	if x.scopes.find(o.Name) != nil {
		return nil
	}
	byZ := x.l.Mapping == ByZ
	if o.Comp == "" {
		// mov.v4.u32 {…}, %ctaid: one move for each element.
		vec := x.in.Args[0]
		var elems []ptx.Operand
		switch {
		case vec.Kind == ptx.Vec:
			elems = vec.Elems
		case vec.Kind == ptx.Sym && vec.Comp == "":
			for _, c := range []string{".x", ".y", ".z", ".w"} {
				e := vec
				e.Comp = c
				elems = append(elems, e)
			}
			if has(x.in.Mods, ".v2") {
				elems = elems[:2]
			}
		}
		if len(elems) == 0 || len(elems) > 4 {
			return x.refuse(CodeSpecialUse, x.in.Pos, "%s is moved to something that is no vector", o.Name)
		}
		x.out = nil
		for i, e := range elems {
			src := sym(o.Name)
			switch {
			case e.Kind == ptx.Sym && e.Name == "_":
				continue
			case i == 3:
				src = imm(0)
			case byZ && i < 2:
				src.Comp = []string{".x", ".y"}[i]
			default:
				src = sym(wordNames[first+i])
			}
			m := inst("mov.u32", e, src)
			m.Pos, m.Pred, m.PNeg = x.in.Pos, x.in.Pred, x.in.PNeg
			x.out = append(x.out, m)
		}
		return nil
	}
	c := strings.IndexByte("xyz", o.Comp[1])
	if byZ && c < 2 {
		return nil
	}
	*o = sym(wordNames[first+c])
	if out.Op == "mov" {
		switch {
		case has(out.Mods, ".u32", ".s32", ".b32"):
		case has(out.Mods, ".u16", ".s16", ".b16"):
			out.Op, out.Mods = "cvt", []string{".u16", ".u32"}
		default:
			return x.refuse(CodeSpecialUse, x.in.Pos, "%s%s moved as %s", x.in.Args[1].Name, x.in.Args[1].Comp, strings.Join(out.Mods, ""))
		}
	}
	return nil
}

// operand replaces names that mean something else in the new module. i is the operand's number.
func (x *rewriting) operand(out *ptx.Inst, o *ptx.Operand, i int) error {
	if o.Kind == ptx.Addr {
		o.Elems = slices.Clone(o.Elems)
		if err := x.symbol(out, o, &o.Elems[0], i); err != nil {
			return err
		}
		for k := 1; k < len(o.Elems); k++ {
			if err := x.operand(out, &o.Elems[k], i); err != nil {
				return err
			}
		}
		return nil
	}
	if o.Kind != ptx.Sym && len(o.Elems) > 0 {
		o.Elems = slices.Clone(o.Elems)
		for k := range o.Elems {
			if err := x.operand(out, &o.Elems[k], -1); err != nil {
				return err
			}
		}
		return nil
	}
	return x.symbol(out, nil, o, i)
}

// symbol replaces one name; at is the address in whose brackets it stands, nil elsewhere.
func (x *rewriting) symbol(out *ptx.Inst, at, o *ptx.Operand, i int) error {
	if o.Kind != ptx.Sym {
		return nil
	}
	v := x.scopes.find(o.Name)
	if v != nil {
		switch {
		case x.paramVars[v]:
			return x.param(out, at, o, i, v)
		case x.packs && v.Space == ".shared":
			return x.overlay(out, at, o, v)
		}
		return nil
	}
	v = x.vars[o.Name]
	switch {
	case v == nil:
		if x.funcs[o.Name] != nil {
			o.Name = x.prefix() + o.Name
		}
	case v.Space == ".shared":
		if x.packs {
			return x.overlay(out, at, o, v)
		}
	default:
		n, client := x.globalNum[v.Name]
		if !client {
			o.Name = x.prefix() + o.Name
			return nil
		}
		if err := x.element(v, o, CodeGlobalUse); err != nil {
			return err
		}
		if x.f.Entry {
			x.before = append(x.before, x.loadGlobal(n))
		}
		reg, _ := need{true, n}.register()
		return x.base(out, at, o, i, reg, 0, CodeGlobalUse)
	}
	return nil
}

// overlay points a shared variable into what packed kernels have in common.
func (x *rewriting) overlay(out *ptx.Inst, at, o *ptx.Operand, v *ptx.Var) error {
	if err := x.element(v, o, CodeGlobalUse); err != nil {
		return err
	}
	if off, ok := x.shared[v]; ok {
		o.Name, o.Off = "word$shared", o.Off+off
	} else {
		o.Name = "word$dynamic"
	}
	if at == nil && accesses(out) {
		*o = addr(o.Name, o.Off)
	}
	return nil
}

// accesses tells the instructions whose addresses may stand without brackets: "ld.shared.u32 %r1, a[2]".
func accesses(in *ptx.Inst) bool {
	switch in.Op {
	case "ld", "ldu", "st", "atom", "red", "prefetch":
		return true
	}
	return false
}

// element makes an offset in bytes of an element's number: in the new module the name will not have the type that counts.
func (b *body) element(v *ptx.Var, o *ptx.Operand, code Code) error {
	if len(o.Elems) == 0 {
		return nil
	}
	if len(o.Elems) > 1 || o.Elems[0].Kind != ptx.Imm {
		return b.refuse(code, o.Pos, "an element of %s that a register chooses", o.Name)
	}
	o.Off += o.Elems[0].Int * int64(v.Elem())
	o.Elems = nil
	return nil
}

func (x *rewriting) param(out *ptx.Inst, at, o *ptx.Operand, i int, v *ptx.Var) error {
	if err := x.element(v, o, CodeParameterUse); err != nil {
		return err
	}
	p := x.params[o.Name]
	if (at != nil || accesses(out)) && !slices.ContainsFunc(out.Mods, func(m string) bool { return strings.HasPrefix(m, ".param") }) {
		return x.refuse(CodeParameterUse, o.Pos, "%s of parameter %s outside parameter space", out.Op, o.Name)
	}
	return x.base(out, at, o, i, "%word$base", int64(p.Offset), CodeParameterUse)
}

// base replaces a variable's name by a register that holds its address, plus off.
func (x *rewriting) base(out *ptx.Inst, at, o *ptx.Operand, i int, reg string, off int64, code Code) error {
	off += o.Off
	switch {
	case o.OffReg != "" || o.Comp != "" || o.Neg || o.Minus:
	case at != nil:
		o.Name, o.Off = reg, off
		return nil
	case i >= 0 && accesses(out):
		*o = addr(reg, off)
		return nil
	case (out.Op == "mov" || out.Op == "cvta") && i == 1 && len(out.Args) == 2 && has(out.Mods, ".u64", ".s64", ".b64"):
		pos := o.Pos
		*o = sym(reg)
		o.Pos = pos
		switch {
		case off == 0:
		case out.Op == "mov":
			out.Op, out.Mods = "add", []string{".s64"}
			out.Args = append(out.Args, imm(off))
		default:
			x.before = append(x.before, inst("add.s64", sym("%word$d"), sym(reg), imm(off)))
			*o = sym("%word$d")
		}
		return nil
	}
	return x.refuse(code, o.Pos, "%s as an operand of %s%s", o.Name, out.Op, strings.Join(out.Mods, ""))
}
