package ptx

import (
	"math"
	"strings"
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
			if p.peekN(1).text == "@" {
				p.restOfLine()
				return out
			}
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

func (p *parser) prototype() *Directive {
	t := p.next()
	f := &Func{Pos: t.pos}
	if p.is("(") {
		f.Ret = p.params()
	}
	if n := p.peek(); n.kind == tIdent {
		f.Name = p.next().text
	}
	if p.is("(") {
		f.Params = p.params()
	}
	for p.peek().kind == tDot {
		f.Attrs = append(f.Attrs, p.funcAttr())
	}
	p.expect(";")
	return &Directive{Pos: t.pos, Name: t.text, Proto: f, Semi: true}
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
		in.Mods = append(in.Mods, p.next().text)
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
	p.depth--
	return out
}

func (p *parser) operand1() Operand {
	t := p.peek()
	p.node(t.pos)
	o := Operand{Pos: t.pos}
	switch {
	case t.kind == tString:
		p.next()
		o.Kind, o.Name = String, t.text
	case t.kind == tPunct && t.text == "{":
		o.Kind, o.Elems = Vec, p.elems("}")
	case t.kind == tPunct && t.text == "[":
		o.Kind, o.Elems = Addr, p.elems("]")
		if len(o.Elems) == 0 {
			p.failAt(t.pos, "[] is empty: expected an address")
		}
		if p.is("[") { // var[3][2]… inside an address list has no meaning
			p.failAt(p.peek().pos, "found \"[\" after an address")
		}
	case t.kind == tPunct && t.text == "(" && p.call:
		o.Kind, o.Elems = List, p.elems(")")
	case t.kind == tPunct && t.text == "!" && p.peekN(1).kind == tIdent:
		p.next()
		n := p.next()
		o.Kind, o.Name, o.Neg = Sym, n.text, true
	case t.kind == tPunct && t.text == "-" && p.peekN(1).kind == tFloat:
		p.next()
		n := p.next()
		o.Kind, o.Width = Float, n.width
		o.Bits = n.val ^ 1<<(n.width-1)
	case t.kind == tFloat:
		p.next()
		o.Kind, o.Bits, o.Width = Float, t.val, t.width
	case t.kind == tIdent:
		p.next()
		o.Kind, o.Name = Sym, t.text
		for p.peek().kind == tDot && p.peek().glued {
			o.Comp += p.next().text
		}
		p.offsets(&o)
	default:
		v, uns := p.constExpr()
		o.Kind, o.Int, o.Unsigned = Imm, int64(v), uns
	}
	return o
}

// offsets reads "+ 4", "- 4", "+ %r1" and "[4]" after a name.
func (p *parser) offsets(o *Operand) {
	for {
		switch {
		case p.is("+") || p.is("-"):
			op := p.next()
			n := p.peek()
			if n.kind == tIdent {
				if o.OffReg != "" || op.text == "-" {
					p.failAt(n.pos, "found %s, expected a constant offset", clip(n.text))
				}
				o.OffReg = p.next().text
				continue
			}
			neg := op.text == "-"
			if p.accept("-") {
				neg = !neg
			}
			v, _ := p.constPrimary()
			if neg {
				v = -v
			}
			o.Off += int64(v)
		case p.is("["): // array element; the decoder scales nothing: bytes
			p.next()
			v, _ := p.constExpr()
			p.expect("]")
			o.Off += int64(v)
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
		case v.Ptr && (spaces[t.text] || t.text == ".generic"):
			v.PtrSpc = t.text
		case t.text == ".ptr":
			v.Ptr = true
		case t.text == ".align":
			n, _ := p.constPrimary()
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

func (p *parser) attribute() string {
	open := p.expect("(")
	depth := 1
	var text strings.Builder
	for {
		a := p.next()
		switch {
		case a.kind == tEOF:
			p.failAt(open.pos, ".attribute( is not closed: expected \")\"")
		case a.kind == tPunct && a.text == "(":
			depth++
		case a.kind == tPunct && a.text == ")":
			if depth--; depth == 0 {
				return text.String()
			}
		}
		glue(&text, a)
	}
}

// declarator reads name, range, dimensions and initialiser into v.
func (p *parser) declarator(v *Var) {
	t := p.ident("the variable's name")
	p.node(t.pos)
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
		n, _ := p.constExpr()
		if n > 1<<40 {
			p.failAt(t.pos, "dimension %d of %s is out of range", int64(n), clip(v.Name))
		}
		v.Dims = append(v.Dims, int64(n))
		p.expect("]")
	}
	if p.accept("=") {
		p.pipe = true
		init := p.initial()
		p.pipe = false
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
	if t.kind == tInt && p.peekN(1).text == "(" { // mask(sym)
		in.Mask = p.next().val
		p.next()
		o := p.operand()
		p.expect(")")
		in.Val = p.symbolic(o, &in)
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
		in.Generic = true
		if o.Kind == Sym {
			p.offsets(&o)
		}
	}
	switch o.Kind {
	case Imm, Float, Sym, String:
	default:
		p.failAt(o.Pos, "initialiser is neither a number nor an address")
	}
	return &o
}
