package ptx

import "slices"

// Walk calls fn for each instruction of a body, nested blocks included, until
// fn returns false.
func Walk(body []Stmt, fn func(*Inst) bool) bool {
	for _, s := range body {
		switch s := s.(type) {
		case *Inst:
			if !fn(s) {
				return false
			}
		case *Block:
			if !Walk(s.Body, fn) {
				return false
			}
		}
	}
	return true
}

// Rewrite builds a body anew: each statement, in source order and those of
// nested blocks included, is replaced by what fn returns for it (itself, nothing,
// or several). A block is handed to fn after its own statements.
func Rewrite(body []Stmt, fn func(Stmt) []Stmt) []Stmt {
	out := make([]Stmt, 0, len(body))
	for _, s := range body {
		if b, ok := s.(*Block); ok {
			b.Body = Rewrite(b.Body, fn)
		}
		out = append(out, fn(s)...)
	}
	return out
}

// WalkOperands calls fn for each operand of the instruction, and then for the
// parts of vectors, addresses, lists and pairs: parents first. fn may assign to
// *o; the parts of the new operand are visited in place of the old one's. It
// returns whether to go into the parts.
//
// Two names are no operands of their own: the guard (Inst.Pred) and the register
// added in an address (Operand.OffReg). WalkNames visits those too.
func (in *Inst) WalkOperands(fn func(o *Operand) bool) { walkOperands(in.Args, fn) }

func walkOperands(ops []Operand, fn func(o *Operand) bool) {
	for i := range ops {
		if fn(&ops[i]) {
			walkOperands(ops[i].Elems, fn)
		}
	}
}

// WalkNames calls fn with each name that the instruction mentions: the guard,
// registers, variables, labels, functions and special registers (without their
// ".x"), and registers added in addresses. fn may assign to *name.
func (in *Inst) WalkNames(fn func(name *string)) {
	if in.Pred != "" {
		fn(&in.Pred)
	}
	in.WalkOperands(func(o *Operand) bool {
		if o.Kind == Sym {
			fn(&o.Name)
		}
		if o.OffReg != "" {
			fn(&o.OffReg)
		}
		return true
	})
}

// Clone copies a module with everything in it; the copy shares nothing that can
// be changed.
func (m *Module) Clone() *Module {
	c := *m
	c.Target = slices.Clone(m.Target)
	c.Items, c.Funcs, c.Vars = nil, nil, nil
	for _, it := range m.Items {
		switch it := it.(type) {
		case *Func:
			f := it.Clone()
			c.Funcs = append(c.Funcs, f)
			c.Items = append(c.Items, f)
		case *Var:
			v := it.Clone()
			c.Vars = append(c.Vars, v)
			c.Items = append(c.Items, v)
		case *Directive:
			c.Items = append(c.Items, it.Clone())
		}
	}
	return &c
}

// Clone copies a function with its body.
func (f *Func) Clone() *Func {
	c := *f
	c.Linkage = slices.Clone(f.Linkage)
	c.Ret, c.Params = cloneVars(f.Ret), cloneVars(f.Params)
	c.Attrs = slices.Clone(f.Attrs)
	for i, d := range c.Attrs {
		c.Attrs[i] = d.Clone()
	}
	c.Body = CloneBody(f.Body)
	return &c
}

// Clone copies a variable with its initialiser.
func (v *Var) Clone() *Var {
	c := *v
	c.Linkage, c.Dims = slices.Clone(v.Linkage), slices.Clone(v.Dims)
	if v.Init != nil {
		in := v.Init.clone()
		c.Init = &in
	}
	return &c
}

func cloneVars(vars []*Var) []*Var {
	out := slices.Clone(vars)
	for i, v := range out {
		out[i] = v.Clone()
	}
	return out
}

func (in *Init) clone() Init {
	c := *in
	c.List = slices.Clone(in.List)
	for i := range c.List {
		c.List[i] = c.List[i].clone()
	}
	if in.Val != nil {
		o := in.Val.Clone()
		c.Val = &o
	}
	return c
}

// Clone copies a directive.
func (d *Directive) Clone() *Directive {
	c := *d
	c.Args = slices.Clone(d.Args)
	if d.Proto != nil {
		c.Proto = d.Proto.Clone()
	}
	return &c
}

// Clone copies an instruction with its operands.
func (in *Inst) Clone() *Inst {
	c := *in
	c.Mods = slices.Clone(in.Mods)
	c.Args = cloneOperands(in.Args)
	return &c
}

// Clone copies an operand with its parts.
func (o *Operand) Clone() Operand {
	c := *o
	c.Elems = cloneOperands(o.Elems)
	return c
}

func cloneOperands(ops []Operand) []Operand {
	out := slices.Clone(ops)
	for i := range out {
		out[i] = out[i].Clone()
	}
	return out
}

// CloneStmt copies a statement with everything in it.
func CloneStmt(s Stmt) Stmt {
	switch s := s.(type) {
	case *Inst:
		return s.Clone()
	case *Label:
		c := *s
		return &c
	case *Var:
		return s.Clone()
	case *Block:
		return &Block{Pos: s.Pos, Body: CloneBody(s.Body)}
	case *Directive:
		return s.Clone()
	}
	return s
}

// CloneBody copies the statements of a body.
func CloneBody(body []Stmt) []Stmt {
	out := slices.Clone(body)
	for i, s := range out {
		out[i] = CloneStmt(s)
	}
	return out
}
