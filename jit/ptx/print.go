package ptx

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Print writes a module as PTX. Parsing the result gives the module again, up
// to positions and comments.
func Print(w io.Writer, m *Module) error {
	p := &printer{}
	for i, it := range m.Items {
		switch it := it.(type) {
		case *Directive:
			p.directive(it, 0)
		case *Var:
			p.vars(it, i+1 < len(m.Items) && continues(m.Items[i+1]), 0)
		case *Func:
			p.function(it)
		}
	}
	_, err := w.Write(p.b.Bytes())
	return err
}

// Bytes gives what Print writes.
func (m *Module) Bytes() []byte {
	var b bytes.Buffer
	Print(&b, m) // a Buffer does not fail
	return b.Bytes()
}

type printer struct{ b bytes.Buffer }

func (p *printer) f(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

func (p *printer) indent(n int) {
	for ; n > 0; n-- {
		p.b.WriteByte('\t')
	}
}

func continues(x any) bool {
	v, ok := x.(*Var)
	return ok && v.Cont
}

func (p *printer) directive(d *Directive, depth int) {
	p.indent(depth)
	switch {
	case d.Proto != nil:
		p.f("%s ", d.Name)
		p.signature(d.Proto, true)
		p.f(";\n")
	case d.Name == "@@":
		p.f("@@%s\n", d.Text)
	case d.Name == ".section":
		p.f("%s %s\n{%s}\n", d.Name, strings.Join(d.Args, " "), d.Raw)
	default:
		p.f("%s", d.Name)
		if d.Text != "" {
			p.f(" %s", d.Text)
		}
		if d.Semi {
			p.f(";")
		}
		p.f("\n")
	}
}

// head writes everything of a declaration before the name.
func (v *Var) head(linkage bool) string {
	var b strings.Builder
	if linkage {
		for _, l := range v.Linkage {
			b.WriteString(l + " ")
		}
	}
	b.WriteString(v.Space)
	if v.Bank != "" {
		b.WriteString("[" + v.Bank + "]")
	}
	if v.Attr != "" {
		b.WriteString(" .attribute(" + v.Attr + ")")
	}
	if v.Align > 0 {
		fmt.Fprintf(&b, " .align %d", v.Align)
	}
	if v.Vec != "" {
		b.WriteString(" " + v.Vec)
	}
	b.WriteString(" " + v.Type)
	if v.Ptr {
		b.WriteString(" .ptr")
		if v.PtrSpc != "" {
			b.WriteString(" " + v.PtrSpc)
		}
		if v.PtrAln > 0 {
			fmt.Fprintf(&b, " .align %d", v.PtrAln)
		}
	}
	return b.String()
}

// tail writes name, range, dimensions and initialiser.
func (v *Var) tail() string {
	var b strings.Builder
	b.WriteString(v.Name)
	if v.Range > 0 {
		fmt.Fprintf(&b, "<%d>", v.Range)
	}
	for _, d := range v.Dims {
		if d < 0 {
			b.WriteString("[]")
		} else {
			fmt.Fprintf(&b, "[%d]", d)
		}
	}
	if v.Init != nil {
		b.WriteString(" = ")
		v.Init.write(&b)
	}
	return b.String()
}

func (in *Init) write(b *strings.Builder) {
	if in.Field != "" {
		b.WriteString(in.Field + " = ")
	}
	switch {
	case in.Braces:
		b.WriteByte('{')
		for i := range in.List {
			if i > 0 {
				b.WriteString(", ")
			}
			in.List[i].write(b)
		}
		b.WriteByte('}')
	case in.Mask != 0:
		fmt.Fprintf(b, "0x%X(", in.Mask)
		in.value(b)
		b.WriteByte(')')
	default:
		in.value(b)
	}
}

func (in *Init) value(b *strings.Builder) {
	if !in.Generic {
		in.Val.write(b)
		return
	}
	plain := *in.Val
	plain.Off, plain.Zero = 0, false
	b.WriteString("generic(")
	plain.write(b)
	b.WriteByte(')')
	if in.Val.Off != 0 || in.Val.Zero {
		fmt.Fprintf(b, "+%d", in.Val.Off)
	}
}

// vars writes one declarator; more says that the next one continues it.
func (p *printer) vars(v *Var, more bool, depth int) {
	if v.Cont {
		p.f(" %s", v.tail())
	} else {
		p.indent(depth)
		p.f("%s %s", v.head(true), v.tail())
	}
	if more {
		p.f(",")
	} else {
		p.f(";\n")
	}
}

func (p *printer) params(vars []*Var) {
	p.f("(")
	for i, v := range vars {
		if i > 0 {
			p.f(", ")
		}
		p.f("%s", v.head(true))
		if v.Name != "" {
			p.f(" %s", v.tail())
		}
	}
	p.f(")")
}

// signature writes results, name, parameters and directives.
func (p *printer) signature(f *Func, proto bool) {
	for _, d := range f.Attrs {
		if d.Name == ".attribute" { // the only place where ptxas takes it
			p.f("%s(%s) ", d.Name, d.Text)
		}
	}
	if len(f.Ret) > 0 {
		p.params(f.Ret)
		p.f(" ")
	}
	p.f("%s", f.Name)
	if len(f.Params) > 0 || proto {
		if proto && f.Name == "" {
			p.f("_")
		}
		p.f(" ")
		p.params(f.Params)
	}
	for _, d := range f.Attrs {
		if d.Name == ".attribute" {
			continue // stood in front
		}
		p.f(" %s", d.Name)
		switch {
		case d.Text != "":
			p.f("(%s)", d.Text)
		case len(d.Args) > 0:
			p.f(" %s", strings.Join(d.Args, ", "))
		}
		if d.Semi {
			p.f(";")
		}
	}
}

func (p *printer) function(f *Func) {
	p.f("\n")
	for _, l := range f.Linkage {
		p.f("%s ", l)
	}
	if f.Entry {
		p.f(".entry ")
	} else {
		p.f(".func ")
	}
	p.signature(f, false)
	if !f.HasBody {
		p.f(";\n")
		return
	}
	p.f("\n{\n")
	p.body(f.Body, 1)
	p.f("}\n")
}

func (p *printer) body(body []Stmt, depth int) {
	for i, s := range body {
		switch s := s.(type) {
		case *Inst:
			p.indent(depth)
			p.b.WriteString(s.String())
			p.f(";\n")
		case *Label:
			p.f("%s:\n", s.Name)
		case *Var:
			p.vars(s, i+1 < len(body) && continues(body[i+1]), depth)
		case *Block:
			p.indent(depth)
			p.f("{\n")
			p.body(s.Body, depth+1)
			p.indent(depth)
			p.f("}\n")
		case *Directive:
			p.directive(s, depth)
		}
	}
}
