package ptx

import (
	"math"
	"strconv"
)

// stmt reads one statement of a body and appends what it declares or does.
func (p *parser) stmt(out []Stmt) []Stmt {
	t := p.peek()
	p.node(t.pos)
	switch t.kind {
	case tDot:
		switch {
		case spaces[t.text], linkage[t.text]:
			var link []string
			for linkage[p.peek().text] && len(link) < 4 {
				link = append(link, p.next().text)
			}
			for _, v := range p.vars(link) {
				out = append(out, v)
			}
			return out
		case t.text == ".section":
			return append(out, p.section())
		case t.text == ".loc", t.text == ".file":
			return append(out, p.terse())
		case t.text == ".callprototype":
			return append(out, p.prototype())
		case t.text == ".entry" || t.text == ".func":
			p.failAt(t.pos, "found %s in a function body, expected \"}\"", t.text)
		}
		return append(out, p.simple())
	case tPunct:
		switch t.text {
		case "{":
			return append(out, &Block{Pos: t.pos, Body: p.body()})
		case ";":
			p.next()
			return out
		case "@":
			return append(out, p.inst())
		}
	case tIdent:
		if n := p.peekN(1); n.kind == tPunct && n.text == ":" {
			p.next()
			p.next()
			return append(out, &Label{Pos: t.pos, Name: t.text})
		}
		return append(out, p.inst())
	}
	p.failAt(t.pos, "found %s, expected an instruction, a label or a directive", p.describe(t))
	return nil
}

// inst reads [@p] opcode.mods operands ;
func (p *parser) inst() *Inst {
	in := &Inst{Pos: p.peek().pos}
	if p.accept("@") {
		in.PNeg = p.accept("!")
		in.Pred = p.ident("the guard's predicate register").text
		in.Pos = p.peek().pos
	}
	in.Op = p.ident("an opcode").text
	p.call = in.Op == "call"
	for p.peek().kind == tDot {
		if in.Mods = append(in.Mods, p.next().text); len(in.Mods)%8 == 0 {
			p.node(in.Pos)
		}
		if len(in.Mods) > 32 {
			p.failAt(in.Pos, "%s has more than 32 modifiers", in.Op)
		}
	}
	if p.accept(";") {
		return in
	}
	for {
		in.Args = append(in.Args, p.operand())
		if p.accept(";") {
			return in
		}
		if t := p.peek(); t.kind != tPunct || t.text != "," {
			p.failAt(t.pos, "found %s, expected \",\" or \";\" after an operand of %s", p.describe(t), in.Op)
		}
		p.next()
	}
}

// operand reads one operand, including a|b.
func (p *parser) operand() Operand {
	a := p.operand1()
	if p.is("|") {
		p.next()
		b := p.operand1()
		return Operand{Pos: a.Pos, Kind: Pair, Elems: []Operand{a, b}}
	}
	return a
}

func (p *parser) elems(end string) []Operand {
	t := p.next()
	p.enter(t.pos)
	call := p.call
	p.call = false // a parenthesis further in belongs to an expression
	var out []Operand
	if !p.accept(end) {
		for {
			out = append(out, p.operand())
			if p.accept(end) {
				break
			}
			p.expect(",")
		}
	}
	p.call = call
	p.depth--
	return out
}

// glued tells whether a word with a dot follows without a blank: a component.
func (p *parser) glued() bool { t := p.peek(); return t.kind == tDot && t.glued }

func (p *parser) operand1() Operand {
	t := p.peek()
	p.node(t.pos)
	o := Operand{Pos: t.pos}
	// A name, which may stand behind a sign.
	sign := t.kind == tPunct && (t.text == "!" || t.text == "-")
	n := t
	if sign {
		n = p.peekN(1)
	}
	switch {
	case n.kind == tIdent && n.text != "WARP_SZ":
		if sign {
			p.next()
		}
		p.next()
		o.Kind, o.Name, o.Neg, o.Minus = Sym, n.text, sign && t.text == "!", sign && t.text == "-"
		for parts := 0; p.glued(); parts++ {
			if parts == 4 {
				p.failAt(p.peek().pos, "%s has more than 4 components", clip(o.Name+o.Comp))
			}
			o.Comp += p.next().text
		}
		p.offsets(&o)
	case t.kind == tPunct && t.text == "{":
		o.Kind, o.Elems = Vec, p.elems("}")
	case t.kind == tPunct && t.text == "[":
		o.Kind, o.Elems = Addr, p.elems("]")
		if len(o.Elems) == 0 {
			p.failAt(t.pos, "[] is empty: expected an address")
		}
		if p.glued() { // .unified
			o.Comp = p.next().text
		}
	case t.kind == tPunct && t.text == "(" && p.call:
		o.Kind, o.Elems = List, p.elems(")")
	default:
		o = p.constExpr().operand(o)
	}
	return o
}

// offsets reads "+ 4", "- 4", "+ %r1" and "[4]" after a name.
func (p *parser) offsets(o *Operand) {
	for {
		switch {
		case p.is("+") && p.peekN(1).kind == tIdent && p.peekN(1).text != "WARP_SZ":
			p.next()
			if n := p.next(); o.OffReg == "" {
				o.OffReg = n.text
			} else {
				p.failAt(n.pos, "found %s, expected a constant offset", clip(n.text))
			}
		case p.is("+"):
			p.next()
			o.Off += int64(p.constInt())
			o.Zero = o.Off == 0
		case p.is("-"):
			p.next()
			t := p.peek()
			o.Off -= int64(p.wantInt(p.constBin(binPrec["*"]), t.pos).bits)
			o.Zero = o.Off == 0
		case p.is("[") && len(o.Elems) == 0 && o.Off == 0 && o.OffReg == "": // an element of an array
			t := p.next()
			i := Operand{Pos: p.peek().pos}
			p.node(i.Pos)
			if n := p.peek(); n.kind == tIdent && n.text != "WARP_SZ" {
				p.next()
				i.Kind, i.Name = Sym, n.text
			} else {
				i = p.wantInt(p.constExpr(), t.pos).operand(i)
			}
			p.expect("]")
			o.Elems = []Operand{i}
		default:
			return
		}
	}
}

// varHead reads space, alignment, vector and type, in any order, up to the name.
func (p *parser) varHead(link []string) *Var {
	v := &Var{Pos: p.peek().pos, Linkage: link}
	for {
		t := p.peek()
		if t.kind != tDot {
			break
		}
		p.next()
		switch {
		case spaces[t.text] && v.Space == "":
			v.Space = t.text
			if t.text == ".const" && p.accept("[") { // a bank, before PTX 2.2
				n := p.constInt()
				if n > 10 {
					p.failAt(t.pos, "constant bank %d is out of range: expected 0 to 10", n)
				}
				v.Bank = strconv.FormatUint(n, 10)
				p.expect("]")
			}
		case v.Ptr && (spaces[t.text] || t.text == ".generic"):
			v.PtrSpc = t.text
		case t.text == ".ptr":
			v.Ptr = true
		case t.text == ".align":
			n := p.wantInt(p.constPrimary(), t.pos).bits
			if n == 0 || n > 1<<20 || n&(n-1) != 0 {
				p.failAt(t.pos, "alignment %d is not a power of two up to 1048576", n)
			}
			if v.Ptr {
				v.PtrAln = int(n)
			} else {
				v.Align = int(n)
			}
		case t.text == ".v2" || t.text == ".v4" || t.text == ".v8":
			v.Vec = t.text
		case t.text == ".attribute":
			v.Attr = p.attribute()
		case v.Type == "":
			if _, ok := types[t.text]; !ok {
				p.failAt(t.pos, "found %s, expected a type such as .b32", clip(t.text))
			}
			v.Type = t.text
		case linkage[t.text] && len(v.Linkage) < 4:
			v.Linkage = append(v.Linkage, t.text)
		default:
			p.failAt(t.pos, "found %s, expected the variable's name", clip(t.text))
		}
	}
	if v.Space == "" || v.Type == "" {
		p.failAt(p.peek().pos, "declaration lacks a state space or a type before %s", p.describe(p.peek()))
	}
	return v
}

// declarator reads name, range, dimensions and initialiser into v.
func (p *parser) declarator(v *Var) {
	t := p.ident("the variable's name")
	p.node(t.pos)
	p.node(t.pos) // a Var is as large as two other nodes
	v.Pos, v.Name = t.pos, t.text
	if p.accept("<") {
		n := p.next()
		if n.kind != tInt || n.val == 0 || n.val > math.MaxInt32 {
			p.failAt(n.pos, "found %s, expected the number of registers", p.describe(n))
		}
		v.Range = int(n.val)
		p.expect(">")
	}
	for p.accept("[") {
		if len(v.Dims) >= 16 {
			p.failAt(t.pos, "%s has more than 16 dimensions", clip(v.Name))
		}
		if p.accept("]") {
			v.Dims = append(v.Dims, -1)
			continue
		}
		n := p.constInt()
		if n > 1<<40 {
			p.failAt(t.pos, "dimension %d of %s is out of range", int64(n), clip(v.Name))
		}
		v.Dims = append(v.Dims, int64(n))
		p.expect("]")
	}
	if p.accept("=") {
		init := p.initial()
		v.Init = &init
	}
}

// vars reads a whole declaration statement.
func (p *parser) vars(link []string) []*Var {
	head := p.varHead(link)
	var out []*Var
	for {
		v := *head
		v.Cont = len(out) > 0
		p.declarator(&v)
		out = append(out, &v)
		if p.accept(";") {
			return out
		}
		p.expect(",")
	}
}

// initial reads an initialiser (PTX ISA 5.4.4).
func (p *parser) initial() Init {
	t := p.peek()
	p.node(t.pos)
	in := Init{Pos: t.pos}
	if p.is("{") {
		p.next()
		p.enter(t.pos)
		in.Braces = true
		if !p.accept("}") {
			for {
				in.List = append(in.List, p.initial())
				if p.accept("}") {
					break
				}
				p.expect(",")
				if p.accept("}") { // trailing comma
					break
				}
			}
		}
		p.depth--
		return in
	}
	if n := p.peekN(1); t.kind == tIdent && n.kind == tPunct && n.text == "=" { // of an opaque type
		p.next()
		p.next()
		in.Field = t.text
	}
	if n := p.peekN(1); t.kind == tInt && n.kind == tPunct && n.text == "(" { // mask(sym)
		if t.val == 0 {
			p.failAt(t.pos, "mask 0 keeps nothing of the address: expected 0xFF, 0xFF00, …")
		}
		in.Mask = p.next().val
		p.next()
		o := p.operand()
		in.Val = p.symbolic(o, &in)
		p.expect(")")
		if in.Val.Kind != Sym {
			p.failAt(in.Val.Pos, "mask of something that is not an address")
		}
		return in
	}
	o := p.operand()
	in.Val = p.symbolic(o, &in)
	return in
}

// symbolic sorts out generic(name)+4 and checks that the operand may initialise.
func (p *parser) symbolic(o Operand, in *Init) *Operand {
	if o.Kind == Sym && o.Name == "generic" && p.is("(") {
		p.next()
		o = p.operand()
		p.expect(")")
		if o.Kind != Sym {
			p.failAt(o.Pos, "generic() of something that is not a variable")
		}
		in.Generic = true
		p.offsets(&o)
	}
	switch o.Kind {
	case Imm, Float:
	case Sym:
		if o.Neg || o.Minus || o.Comp != "" || o.OffReg != "" || len(o.Elems) > 0 {
			p.failAt(o.Pos, "found %s, expected a constant address such as name+4", clip(o.String()))
		}
	default:
		p.failAt(o.Pos, "initialiser is neither a number nor an address")
	}
	return &o
}
