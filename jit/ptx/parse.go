package ptx

import (
	"strconv"
	"strings"
)

// Parse reads one PTX source. The error, when not nil, is an ErrorList and the
// module is nil.
func Parse(src []byte) (*Module, error) {
	p := &parser{m: &Module{AddressSize: 64}}
	if len(src) > MaxSource {
		return nil, ErrorList{{1, 1, "source is " + strconv.Itoa(len(src)) + " bytes; at most " + strconv.Itoa(MaxSource) + " are read"}}
	}
	// A trailing NUL is common: drivers take C strings.
	p.lex = lexer{src: strings.TrimRight(string(src), "\x00"), line: 1, fail: p.report}
	p.run()
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	return p.m, nil
}

// bail is what the parser panics with to abandon one statement (the error is
// recorded by then), or, with stop set, everything.
type bail struct{ stop bool }

type parser struct {
	lex   lexer
	buf   [2]token
	nbuf  int
	m     *Module
	errs  ErrorList
	depth int
	nodes int
	call  bool // in the operands of a call, where ( ) is a list
	pipe  bool // "|" is an operator: not between an instruction's operands
}

// nodeLimit is MaxNodes but for a test.
var nodeLimit = MaxNodes

// node counts one node of the tree.
func (p *parser) node(pos Pos) {
	if p.nodes++; p.nodes > nodeLimit {
		p.report(Errorf(pos, "module has more than %d statements, operands and values", nodeLimit))
		panic(bail{stop: true})
	}
}

func (p *parser) report(e *Error) {
	if len(p.errs) > 0 { // one report per line is enough
		last := p.errs[len(p.errs)-1]
		if last.Line == e.Line {
			return
		}
	}
	p.errs = append(p.errs, e)
	if len(p.errs) >= MaxErrors {
		panic(bail{stop: true})
	}
}

func (p *parser) failAt(pos Pos, format string, args ...any) {
	p.report(Errorf(pos, format, args...))
	panic(bail{})
}

func (p *parser) peekN(n int) token {
	for p.nbuf <= n {
		p.buf[p.nbuf] = p.lex.next()
		p.nbuf++
	}
	return p.buf[n]
}
func (p *parser) peek() token { return p.peekN(0) }
func (p *parser) next() token {
	t := p.peekN(0)
	p.buf[0] = p.buf[1]
	p.nbuf--
	return t
}
func (p *parser) is(s string) bool {
	t := p.peek()
	return t.kind == tPunct && t.text == s
}
func (p *parser) accept(s string) bool {
	if p.is(s) {
		p.next()
		return true
	}
	return false
}
func (p *parser) describe(t token) string {
	if t.kind == tEOF {
		return t.text
	}
	return clip(t.text)
}
func (p *parser) expect(s string) token {
	t := p.peek()
	if t.kind != tPunct || t.text != s {
		p.failAt(t.pos, "found %s, expected %q", p.describe(t), s)
	}
	return p.next()
}
func (p *parser) ident(what string) token {
	t := p.peek()
	if t.kind != tIdent {
		p.failAt(t.pos, "found %s, expected %s", p.describe(t), what)
	}
	return p.next()
}
func (p *parser) enter(pos Pos) {
	p.depth++
	if p.depth > MaxNesting {
		p.report(Errorf(pos, "nested deeper than %d levels", MaxNesting))
		panic(bail{stop: true})
	}
}

// guard runs f and tells whether it finished; a bail that stops everything goes on up.
func (p *parser) guard(f func()) (ok bool) {
	depth := p.depth
	defer func() {
		if r := recover(); r != nil {
			b, mine := r.(bail)
			if !mine || b.stop {
				panic(r)
			}
			p.depth = depth
			p.pipe = false
			ok = false
		}
	}()
	f()
	return true
}

func (p *parser) run() {
	defer func() {
		if r := recover(); r != nil {
			if b, mine := r.(bail); !mine || !b.stop {
				panic(r)
			}
		}
	}()
	seenVersion := false
	for p.peek().kind != tEOF {
		if !p.guard(func() { p.item(&seenVersion) }) {
			p.recoverItem()
		}
	}
	if !seenVersion && len(p.errs) == 0 {
		p.report(Errorf(Pos{1, 1}, "no .version directive: is this PTX?"))
	}
}

// recoverItem skips to what may start the next module-level item.
func (p *parser) recoverItem() {
	depth := 0
	for {
		t := p.peek()
		switch {
		case t.kind == tEOF:
			return
		case t.kind == tPunct && t.text == "{":
			depth++
		case t.kind == tPunct && t.text == "}":
			depth--
			if depth <= 0 {
				p.next()
				return
			}
		case t.kind == tPunct && t.text == ";" && depth == 0:
			p.next()
			return
		case t.kind == tDot && depth <= 0 && !t.glued && itemStart[t.text]:
			return
		}
		p.next()
	}
}

var itemStart = map[string]bool{".entry": true, ".func": true, ".visible": true, ".extern": true, ".weak": true,
	".common": true, ".global": true, ".const": true, ".section": true}

var linkage = map[string]bool{".visible": true, ".extern": true, ".weak": true, ".common": true}

var spaces = map[string]bool{".reg": true, ".sreg": true, ".const": true, ".global": true, ".local": true,
	".param": true, ".shared": true, ".tex": true}

var types = map[string]int{".b8": 1, ".b16": 2, ".b32": 4, ".b64": 8, ".b128": 16, ".u8": 1, ".u16": 2, ".u32": 4, ".u64": 8,
	".s8": 1, ".s16": 2, ".s32": 4, ".s64": 8, ".f16": 2, ".f16x2": 4, ".bf16": 2, ".bf16x2": 4, ".f32": 4, ".f64": 8,
	".pred": 0, ".texref": 8, ".samplerref": 8, ".surfref": 8, ".tf32": 4, ".e4m3": 1, ".e5m2": 1}

// TypeSize gives the size in bytes of a type such as ".f32" (0 for .pred) and
// whether it is one.
func TypeSize(t string) (int, bool) { n, ok := types[t]; return n, ok }

func (p *parser) item(seenVersion *bool) {
	t := p.peek()
	if t.kind == tPunct && t.text == ";" {
		p.next()
		return
	}
	if t.kind == tPunct && t.text == "@" && p.peekN(1).text == "@" { // old DWARF line
		p.restOfLine()
		return
	}
	if t.kind != tDot {
		p.failAt(t.pos, "found %s, expected a directive such as .entry, .func or .global", p.describe(t))
	}
	if !*seenVersion && t.text != ".version" {
		*seenVersion = true // say it once
		p.failAt(t.pos, "%s before .version, which must come first", t.text)
	}
	switch t.text {
	case ".version":
		*seenVersion = true
		d := p.simple()
		if len(d.Args) != 1 || !p.version(d.Args[0]) {
			p.failAt(t.pos, ".version wants major.minor, such as 8.5")
		}
		p.m.Items = append(p.m.Items, d)
		return
	case ".target":
		d := p.simple()
		if len(d.Args) == 0 {
			p.failAt(t.pos, ".target wants an architecture, such as sm_90")
		}
		p.m.Target = append(p.m.Target, d.Args...)
		p.m.Items = append(p.m.Items, d)
		return
	case ".address_size":
		d := p.simple()
		if len(d.Args) != 1 || d.Args[0] != "32" && d.Args[0] != "64" {
			p.failAt(t.pos, ".address_size is 32 or 64")
		}
		p.m.AddressSize, _ = strconv.Atoi(d.Args[0])
		p.m.Items = append(p.m.Items, d)
		return
	case ".section":
		p.m.Items = append(p.m.Items, p.section())
		return
	}
	var link []string
	for linkage[p.peek().text] && p.peek().kind == tDot {
		link = append(link, p.next().text)
		if len(link) > 4 {
			p.failAt(t.pos, "too many linking directives")
		}
	}
	t = p.peek()
	switch {
	case t.kind == tDot && (t.text == ".entry" || t.text == ".func"):
		f := p.function(link)
		p.m.Items = append(p.m.Items, f)
		p.m.Funcs = append(p.m.Funcs, f)
	case t.kind == tDot && spaces[t.text]:
		for _, v := range p.vars(link) {
			p.m.Items = append(p.m.Items, v)
			p.m.Vars = append(p.m.Vars, v)
		}
	case t.kind == tDot && len(link) == 0:
		p.m.Items = append(p.m.Items, p.simple())
	default:
		p.failAt(t.pos, "found %s, expected .entry, .func or a state space", p.describe(t))
	}
}

func (p *parser) version(s string) bool {
	a, b, ok := strings.Cut(s, ".")
	if !ok {
		return false
	}
	x, e1 := strconv.Atoi(a)
	y, e2 := strconv.Atoi(b)
	p.m.Major, p.m.Minor = x, y
	return e1 == nil && e2 == nil
}

// restOfLine skips what is left of the current line.
func (p *parser) restOfLine() {
	line := p.peek().pos.Line
	for t := p.peek(); t.kind != tEOF && t.pos.Line == line; t = p.peek() {
		p.next()
	}
}

// lineDirectives end with their line rather than with a semicolon.
var lineDirectives = map[string]bool{".version": true, ".target": true, ".address_size": true, ".file": true, ".loc": true}

// simple reads a directive without structure: words and values up to a
// semicolon, or to the end of the line for those that have none.
func (p *parser) simple() *Directive {
	t := p.next()
	d := &Directive{Pos: t.pos, Name: t.text}
	byLine := lineDirectives[t.text]
	lastLine := t.pos.Line
	var text strings.Builder
	defer func() { d.Text = text.String() }()
	for {
		a := p.peek()
		comma := a.kind == tPunct && a.text == ","
		if byLine && a.pos.Line != lastLine && !comma && (len(d.Args) == 0 || d.Args[len(d.Args)-1] != ",") {
			break
		}
		switch {
		case a.kind == tEOF:
			d.tidy()
			return d
		case a.kind == tPunct && a.text == ";":
			p.next()
			d.Semi = true
			d.tidy()
			return d
		case a.kind == tPunct && (a.text == "{" || a.text == "}"):
			if !byLine && d.Name != ".pragma" {
				p.failAt(a.pos, "found %q in %s, expected \";\"", a.text, d.Name)
			}
			d.tidy()
			return d
		}
		p.next()
		p.node(a.pos)
		s := a.text
		glue(&text, a)
		if a.kind == tString {
			s = `"` + s + `"`
		}
		// Signs and plus belong to their neighbours: "name+4", "-1".
		if n := len(d.Args); n > 0 && a.glued && !comma && d.Args[n-1] != "," && (a.kind == tPunct || joins(d.Args[n-1])) {
			d.Args[n-1] += s
		} else {
			d.Args = append(d.Args, s)
		}
		lastLine = a.pos.Line
	}
	d.tidy()
	return d
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

func joins(s string) bool { c := s[len(s)-1]; return c == '+' || c == '-' }

// tidy drops the commas, which were kept to see continuation lines.
func (d *Directive) tidy() {
	out := d.Args[:0]
	for _, a := range d.Args {
		if a != "," {
			out = append(out, a)
		}
	}
	d.Args = out
}

// section keeps the text of ".section name { … }" as it is: debug data that
// nothing here interprets.
func (p *parser) section() *Directive {
	t := p.next()
	d := &Directive{Pos: t.pos, Name: t.text}
	for n := 0; !p.is("{"); n++ {
		a := p.next()
		if a.kind == tEOF || n > 16 {
			p.failAt(a.pos, "found %s, expected \"{\" of .section", p.describe(a))
		}
		d.Args = append(d.Args, a.text)
	}
	open := p.next()
	depth := 1
	for {
		a := p.next()
		switch {
		case a.kind == tEOF:
			p.failAt(open.pos, ".section is not closed: expected \"}\"")
		case a.kind == tPunct && a.text == "{":
			depth++
		case a.kind == tPunct && a.text == "}":
			depth--
			if depth == 0 {
				d.Raw = p.lex.src[open.off+1 : a.off]
				return d
			}
		}
	}
}

// function reads .entry or .func, with body or without.
func (p *parser) function(link []string) *Func {
	t := p.next()
	f := &Func{Pos: t.pos, Linkage: link, Entry: t.text == ".entry"}
	// .func may carry .attribute(...) before its name; kept as a directive.
	for p.peek().kind == tDot {
		f.Attrs = append(f.Attrs, p.funcAttr())
	}
	if p.is("(") && !f.Entry {
		f.Ret = p.params()
	}
	f.Name = p.ident("the function's name").text
	if p.is("(") {
		f.Params = p.params()
	}
	for {
		a := p.peek()
		switch {
		case a.kind == tDot:
			f.Attrs = append(f.Attrs, p.funcAttr())
		case a.kind == tPunct && a.text == ";":
			p.next()
			return f
		case a.kind == tPunct && a.text == "{":
			f.HasBody = true
			f.Body = p.body()
			return f
		default:
			p.failAt(a.pos, "found %s, expected \"{\" or \";\" after the head of %s", p.describe(a), clip(f.Name))
		}
	}
}

// funcAttr reads one tuning directive: a word, then values until the next
// directive or the body.
func (p *parser) funcAttr() *Directive {
	t := p.next()
	d := &Directive{Pos: t.pos, Name: t.text}
	if p.is("(") { // .attribute(.unified(1,2))
		d.Text = p.attribute()
		return d
	}
	for {
		a := p.peek()
		if a.kind == tInt || a.kind == tString || a.kind == tFloat {
			p.next()
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
			d.Semi = p.accept(";")
		}
		return d
	}
}

// params reads "( .param … , … )".
func (p *parser) params() []*Var {
	p.expect("(")
	var out []*Var
	if p.accept(")") {
		return nil
	}
	for {
		v := p.varHead(nil)
		t := p.peek()
		if t.kind == tIdent {
			p.declarator(v)
		} else {
			v.Pos = t.pos // prototype parameter without a name
		}
		out = append(out, v)
		if p.accept(")") {
			return out
		}
		p.expect(",")
	}
}

// body reads { statements } of a function or block.
func (p *parser) body() []Stmt {
	open := p.expect("{")
	p.enter(open.pos)
	var out []Stmt
	for {
		t := p.peek()
		if t.kind == tEOF {
			p.failAt(open.pos, "\"{\" is not closed: expected \"}\"")
		}
		if t.kind == tPunct && t.text == "}" {
			p.next()
			p.depth--
			return out
		}
		if !p.guard(func() { out = p.stmt(out) }) {
			p.recoverStmt()
		}
	}
}

// recoverStmt skips to the end of the statement in which parsing failed.
func (p *parser) recoverStmt() {
	for {
		t := p.peek()
		switch {
		case t.kind == tEOF:
			return
		case t.kind == tPunct && t.text == ";":
			p.next()
			return
		case t.kind == tPunct && t.text == "}":
			return
		case t.kind == tDot && !t.glued && (t.text == ".entry" || t.text == ".func"):
			// A lost brace: do not swallow the next function.
			p.report(Errorf(t.pos, "found %s in a function body, expected \"}\"", t.text))
			panic(bail{})
		}
		p.next()
	}
}
