package ptx

import "strings"

// oldDebug keeps a line "@@DWARF …" of PTX before 2.0.
func (p *parser) oldDebug() *Directive {
	t := p.next()
	p.next()
	p.node(t.pos)
	d := &Directive{Pos: t.pos, Name: "@@"}
	var text strings.Builder
	for a := p.peek(); a.kind != tEOF && a.pos.Line == t.pos.Line; a = p.peek() {
		p.next()
		p.node(a.pos)
		glue(&text, a)
	}
	d.Text = text.String()
	return d
}

// terse reads a directive that ends without a semicolon, by its grammar: what
// follows is the next statement's, on the same line or not.
func (p *parser) terse() *Directive {
	t := p.next()
	d := &Directive{Pos: t.pos, Name: t.text}
	sep := ""
	arg := func(kind tokKind, what string) {
		a := p.peek()
		if a.kind != kind {
			p.failAt(a.pos, "found %s in %s, expected %s", p.describe(a), d.Name, what)
		}
		p.next()
		p.node(a.pos)
		s := a.text
		if kind == tString {
			s = `"` + s + `"`
		}
		d.Args = append(d.Args, s)
		d.Text += sep + s
		sep = " "
	}
	comma := func() bool {
		sep = ", "
		return p.accept(",")
	}
	word := func(w string) {
		if a := p.peek(); a.text != w {
			p.failAt(a.pos, "found %s in %s, expected %s", p.describe(a), d.Name, w)
		}
		arg(tIdent, w)
	}
	ints := func(n int) {
		for range n {
			arg(tInt, "an integer")
		}
	}
	switch t.text {
	case ".version":
		arg(tFloat, "a version such as 8.5")
	case ".target":
		arg(tIdent, "an architecture such as sm_90")
		for comma() {
			if len(d.Args) == 16 {
				p.failAt(t.pos, ".target has more than 16 values")
			}
			arg(tIdent, "a target such as debug")
		}
	case ".address_size":
		ints(1)
	case ".file": // number "name"[, time, size]
		ints(1)
		arg(tString, "a file's name in quotes")
		if comma() {
			ints(1)
			sep = ", "
			p.expect(",")
			ints(1)
		}
	case ".loc": // file line column[, function_name label[+offset], inlined_at file line column]
		ints(3)
		if comma() {
			word("function_name")
			arg(tIdent, "a label in .debug_str")
			if p.accept("+") {
				n := len(d.Args) - 1
				sep = "+"
				ints(1)
				d.Args = append(d.Args[:n], d.Args[n]+"+"+d.Args[n+1])
			}
			sep = ", "
			p.expect(",")
			word("inlined_at")
			ints(3)
		}
	}
	return d
}

// simple reads a directive without structure: words and values up to a semicolon.
func (p *parser) simple() *Directive {
	t := p.next()
	d := &Directive{Pos: t.pos, Name: t.text}
	var text strings.Builder
	fresh := true // the next token begins an argument, whatever it is
	for {
		a := p.peek()
		switch {
		case a.kind == tPunct && a.text == ";":
			p.next()
			d.Semi = true
			d.Text = text.String()
			return d
		case a.kind == tEOF, a.kind == tPunct && (a.text == "{" || a.text == "}"):
			p.failAt(a.pos, "found %s in %s, expected \";\"", p.describe(a), d.Name)
		}
		p.next()
		p.node(a.pos)
		glue(&text, a)
		if a.kind == tPunct && a.text == "," {
			fresh = true
			continue
		}
		s := a.text
		if a.kind == tString {
			s = `"` + s + `"`
		}
		// Signs belong to their neighbours: "name+4", "-1".
		if n := len(d.Args); !fresh && a.glued && len(d.Args[n-1]) < 1000 && (a.kind == tPunct || strings.HasSuffix(d.Args[n-1], "+") || strings.HasSuffix(d.Args[n-1], "-")) {
			d.Args[n-1] += s
		} else {
			d.Args = append(d.Args, s)
		}
		fresh = false
	}
}

// glue appends a token as written, one blank for any between it and the last.
func glue(b *strings.Builder, t token) {
	if !t.glued && b.Len() > 0 {
		b.WriteByte(' ')
	}
	if t.kind == tString {
		b.WriteString(`"` + t.text + `"`)
	} else {
		b.WriteString(t.text)
	}
}

// section reads ".section name { … }": debug data (PTX ISA 11.5.3). Its text is
// kept as it is, since nothing here interprets it, but must be of its grammar.
func (p *parser) section() *Directive {
	t := p.next()
	name := p.peek()
	if name.kind != tDot && name.kind != tIdent {
		p.failAt(name.pos, "found %s, expected a section's name such as .debug_info", p.describe(name))
	}
	p.next()
	d := &Directive{Pos: t.pos, Name: t.text, Args: []string{name.text}}
	open := p.expect("{")
	for {
		a := p.peek()
		switch {
		case a.kind == tEOF:
			p.failAt(open.pos, ".section is not closed: expected \"}\"")
		case a.kind == tPunct && a.text == "}":
			p.next()
			d.Raw = p.lex.src[open.off+1 : a.off]
			return d
		case a.kind == tIdent:
			p.next()
			p.expect(":")
		case a.kind == tDot && (a.text == ".b8" || a.text == ".b16" || a.text == ".b32" || a.text == ".b64"):
			p.next()
			p.sectionValue()
			for p.accept(",") {
				p.sectionValue()
			}
		default:
			p.failAt(a.pos, "found %s in a section, expected .b8, .b16, .b32, .b64, a label or \"}\"", p.describe(a))
		}
	}
}

// sectionValue reads an integer, or a label or section with +integer or -label.
func (p *parser) sectionValue() {
	minus := p.accept("-")
	a := p.next()
	switch {
	case a.kind == tInt:
	case !minus && (a.kind == tIdent || a.kind == tDot):
		if op := p.peek(); p.accept("+") || p.accept("-") {
			b := p.next()
			if b.kind != tInt && (b.kind != tIdent || op.text == "+") {
				p.failAt(b.pos, "found %s after %q in a section, expected an integer, or a label after \"-\"", p.describe(b), op.text)
			}
		}
	default:
		p.failAt(a.pos, "found %s in a section, expected an integer or a label", p.describe(a))
	}
}

func (p *parser) prototype() *Directive {
	t := p.next()
	p.node(t.pos)
	p.node(t.pos)
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

// funcAttr reads one tuning directive: a word, then values until the next
// directive or the body.
func (p *parser) funcAttr() *Directive {
	t := p.next()
	p.node(t.pos)
	d := &Directive{Pos: t.pos, Name: t.text}
	if p.is("(") { // .attribute(.unified(1,2))
		d.Text = p.attribute()
		return d
	}
	for {
		a := p.peek()
		if a.kind == tInt || a.kind == tString {
			p.next()
			p.node(a.pos)
			s := a.text
			if a.kind == tString {
				s = `"` + s + `"`
			}
			d.Args = append(d.Args, s)
			if p.accept(",") {
				continue
			}
		}
		if t.text == ".pragma" {
			p.expect(";")
			d.Semi = true
		}
		return d
	}
}

// attribute reads what stands in the parentheses of .attribute( … ).
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
		case a.kind == tPunct && (a.text == ";" || a.text == "{" || a.text == "}"):
			p.failAt(a.pos, "found %s in .attribute(, expected \")\"", p.describe(a))
		}
		p.node(a.pos)
		glue(&text, a)
	}
}
