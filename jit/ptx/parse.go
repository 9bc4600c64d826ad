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
	// hidden counts errors left out of errs: recovery is dear, and a hostile line is long.
	hidden int
	nodes  int
	call   bool // in the operands of a call, where ( ) is a list
}

// nodeLimit is MaxNodes but for a test.
var nodeLimit = MaxNodes

// node counts one node of the tree: what takes some 200 bytes at most. Larger
// things count several times.
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
			if p.hidden++; p.hidden > 1000 {
				panic(bail{stop: true})
			}
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
	".common": true, ".global": true, ".const": true, ".section": true, ".target": true, ".address_size": true, ".file": true,
	".pragma": true, ".alias": true}

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
	if t.kind == tPunct && t.text == "@" && p.peekN(1).text == "@" {
		p.m.Items = append(p.m.Items, p.oldDebug())
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
		d := p.terse()
		p.version(d)
		p.m.Items = append(p.m.Items, d)
		return
	case ".target":
		d := p.terse()
		p.m.Target = append(p.m.Target, d.Args...)
		p.m.Items = append(p.m.Items, d)
		return
	case ".address_size":
		d := p.terse()
		if d.Args[0] != "32" && d.Args[0] != "64" {
			p.failAt(t.pos, ".address_size is 32 or 64")
		}
		p.m.AddressSize, _ = strconv.Atoi(d.Args[0])
		p.m.Items = append(p.m.Items, d)
		return
	case ".file", ".loc":
		p.m.Items = append(p.m.Items, p.terse())
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
	case t.kind == tDot && (spaces[t.text] || t.text == ".attribute"):
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

func (p *parser) version(d *Directive) {
	major, minor, ok := strings.Cut(d.Args[0], ".")
	x, e1 := strconv.Atoi(major)
	y, e2 := strconv.Atoi(minor)
	if !ok || e1 != nil || e2 != nil {
		p.failAt(d.Pos, ".version wants major.minor, such as 8.5")
	}
	p.m.Major, p.m.Minor = x, y
}

// function reads .entry or .func, with body or without.
func (p *parser) function(link []string) *Func {
	t := p.next()
	p.node(t.pos)
	p.node(t.pos)
	f := &Func{Pos: t.pos, Linkage: link, Entry: t.text == ".entry"}
	if a := p.peek(); a.kind == tDot && a.text == ".attribute" {
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
		case a.kind == tDot && a.text == ".attribute":
			p.failAt(a.pos, "found .attribute after the head of %s, expected it before the name", clip(f.Name))
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
