package ptx

import "math"

// Constant expressions (PTX ISA 4.5.5, 4.5.6): 64-bit integers, signed unless a U
// suffix, a value from 2^63 or ~ makes them unsigned, or f64, which know only
// + - * / and comparisons. The two do not mix. Where the ISA's table of types and
// ptxas differ (| & ^ of signed values, the type of c ? a : b), ptxas is followed.

var binPrec = map[string]int{"||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "<": 7, "<=": 7, ">": 7, ">=": 7,
	"<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "%": 10}

// value is what an expression gives.
type value struct {
	bits  uint64
	uns   bool // of an integer
	width int  // of a floating-point number: 64, or 32 for 0f…; 0 for an integer
}

func integer(v uint64) value   { return value{bits: v} }
func truth(b bool) value       { return value{bits: b2u(b)} }
func double(f float64) value   { return value{bits: math.Float64bits(f), width: 64} }
func (v value) float() float64 { return math.Float64frombits(v.bits) }

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// operand makes the value the operand o, whose position is set.
func (v value) operand(o Operand) Operand {
	if v.width != 0 {
		o.Kind, o.Bits, o.Width = Float, v.bits, v.width
	} else {
		o.Kind, o.Int, o.Unsigned = Imm, int64(v.bits), v.uns
	}
	return o
}

// constInt evaluates an expression that must be an integer.
func (p *parser) constInt() uint64 {
	t := p.peek()
	return p.wantInt(p.constExpr(), t.pos).bits
}

func (p *parser) wantInt(v value, pos Pos) value {
	if v.width != 0 {
		p.failAt(pos, "found a floating-point number, expected an integer")
	}
	return v
}

func (p *parser) constExpr() value {
	t := p.peek()
	p.enter(t.pos)
	defer func() { p.depth-- }()
	v := p.constBin(1)
	if !p.is("?") {
		return v
	}
	p.next()
	p.wantInt(v, t.pos)
	a := p.wantInt(p.constExpr(), t.pos)
	p.expect(":")
	b := p.wantInt(p.constExpr(), t.pos)
	if v.bits == 0 {
		return b
	}
	return a
}

func (p *parser) constBin(min int) value {
	a := p.constPrimary()
	for {
		t := p.peek()
		prec, ok := binPrec[t.text]
		if t.kind != tPunct || !ok || prec < min {
			return a
		}
		p.next()
		p.enter(t.pos)
		b := p.constBin(prec + 1)
		p.depth--
		switch {
		case a.width == 0 && b.width == 0:
			a = p.intBin(t, a, b)
		case a.width == 64 && b.width == 64:
			a = p.floatBin(t, a.float(), b.float())
		default: // 0f… is bits, not a number to calculate with
			p.failAt(t.pos, "%q has operands of different or of no arithmetic types: expected two integers or two decimal or 0d floats", t.text)
		}
	}
}

func (p *parser) floatBin(t token, a, b float64) value {
	switch t.text {
	case "+":
		return double(a + b)
	case "-":
		return double(a - b)
	case "*":
		return double(a * b)
	case "/":
		return double(a / b)
	case "==":
		return truth(a == b)
	case "!=":
		return truth(a != b)
	case "<":
		return truth(a < b)
	case "<=":
		return truth(a <= b)
	case ">":
		return truth(a > b)
	case ">=":
		return truth(a >= b)
	}
	p.failAt(t.pos, "%q takes integers only", t.text)
	return value{}
}

func (p *parser) intBin(t token, x, y value) value {
	a, b := x.bits, y.bits
	u := x.uns || y.uns
	less := int64(a) < int64(b)
	if u {
		less = a < b
	}
	switch t.text {
	case "||":
		return truth(a != 0 || b != 0)
	case "&&":
		return truth(a != 0 && b != 0)
	case "==":
		return truth(a == b)
	case "!=":
		return truth(a != b)
	case "<":
		return truth(less)
	case "<=":
		return truth(less || a == b)
	case ">":
		return truth(!less && a != b)
	case ">=":
		return truth(!less)
	case "<<":
		return value{bits: a << (b & 63), uns: x.uns}
	case ">>":
		if x.uns {
			return value{bits: a >> (b & 63), uns: true}
		}
		return integer(uint64(int64(a) >> (b & 63)))
	case "|":
		a |= b
	case "^":
		a ^= b
	case "&":
		a &= b
	case "+":
		a += b
	case "-":
		a -= b
	case "*":
		a *= b
	case "/", "%":
		q := t.text == "/"
		switch {
		case b == 0:
			p.failAt(t.pos, "division by zero in a constant expression")
		case u && q:
			a /= b
		case u:
			a %= b
		case b == ^uint64(0): // avoids the one signed overflow
			if a = -a; !q {
				a = 0
			}
		case q:
			a = uint64(int64(a) / int64(b))
		default:
			a = uint64(int64(a) % int64(b))
		}
	}
	return value{bits: a, uns: u}
}

func (p *parser) constPrimary() value {
	t := p.peek()
	p.enter(t.pos)
	defer func() { p.depth-- }()
	switch {
	case t.kind == tInt:
		p.next()
		return value{bits: t.val, uns: t.uns || t.val>>63 != 0}
	case t.kind == tFloat:
		p.next()
		return value{bits: t.val, width: t.width}
	case t.kind == tPunct && t.text == "(":
		p.next()
		if d := p.peek(); d.kind == tDot && (d.text == ".s64" || d.text == ".u64") { // cast
			p.next()
			p.expect(")")
			v := p.wantInt(p.constPrimary(), t.pos)
			v.uns = d.text == ".u64"
			return v
		}
		v := p.constExpr()
		p.expect(")")
		return v
	case t.kind == tPunct && t.text == "-":
		p.next()
		v := p.constPrimary()
		if v.width != 0 {
			v.bits ^= 1 << (v.width - 1)
		} else {
			v.bits = -v.bits
		}
		return v
	case t.kind == tPunct && t.text == "+":
		p.next()
		return p.constPrimary()
	case t.kind == tPunct && t.text == "~":
		p.next()
		v := p.wantInt(p.constPrimary(), t.pos)
		return value{bits: ^v.bits, uns: true}
	case t.kind == tPunct && t.text == "!":
		p.next()
		return truth(p.wantInt(p.constPrimary(), t.pos).bits == 0)
	case t.kind == tIdent && t.text == "WARP_SZ":
		p.next()
		return integer(32)
	}
	p.failAt(t.pos, "found %s, expected an operand or a constant", p.describe(t))
	return value{}
}
