package ptx

// Constant expressions (PTX ISA 4.5.5): 64-bit integers, signed unless a U
// suffix or a value from 2^63 makes them unsigned.

var binPrec = map[string]int{"||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "<": 7, "<=": 7, ">": 7, ">=": 7,
	"<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "%": 10}

// constExpr evaluates an expression. Between the operands of an instruction
// "|" is left alone, because there it pairs destinations (a|b).
func (p *parser) constExpr() (v uint64, unsigned bool) {
	p.enter(p.peek().pos)
	defer func() { p.depth-- }()
	v, unsigned = p.constBin(1)
	if p.accept("?") {
		a, ua := p.constExpr()
		p.expect(":")
		b, ub := p.constExpr()
		if v != 0 {
			return a, ua || ub
		}
		return b, ua || ub
	}
	return v, unsigned
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func (p *parser) constBin(min int) (uint64, bool) {
	a, ua := p.constPrimary()
	for {
		t := p.peek()
		prec, ok := binPrec[t.text]
		if t.kind != tPunct || !ok || prec < min || t.text == "|" && !p.pipe {
			return a, ua
		}
		p.next()
		p.enter(t.pos)
		b, ub := p.constBin(prec + 1)
		p.depth--
		u := ua || ub
		switch t.text {
		case "||":
			a, u = b2u(a != 0 || b != 0), false
		case "&&":
			a, u = b2u(a != 0 && b != 0), false
		case "|":
			a |= b
		case "^":
			a ^= b
		case "&":
			a &= b
		case "==":
			a, u = b2u(a == b), false
		case "!=":
			a, u = b2u(a != b), false
		case "<", "<=", ">", ">=":
			less, eq := int64(a) < int64(b), a == b
			if u {
				less = a < b
			}
			switch t.text {
			case "<":
				a = b2u(less)
			case "<=":
				a = b2u(less || eq)
			case ">":
				a = b2u(!less && !eq)
			default:
				a = b2u(!less)
			}
			u = false
		case "<<":
			a <<= b & 63
			u = ua
		case ">>":
			if ua {
				a >>= b & 63
			} else {
				a = uint64(int64(a) >> (b & 63))
			}
			u = ua
		case "+":
			a += b
		case "-":
			a -= b
		case "*":
			a *= b
		case "/", "%":
			switch {
			case b == 0:
				p.failAt(t.pos, "division by zero in a constant expression")
			case u && t.text == "/":
				a /= b
			case u:
				a %= b
			case b == ^uint64(0): // avoids the one signed overflow
				if t.text == "/" {
					a = -a
				} else {
					a = 0
				}
			case t.text == "/":
				a = uint64(int64(a) / int64(b))
			default:
				a = uint64(int64(a) % int64(b))
			}
		}
		ua = u
	}
}

func (p *parser) constPrimary() (uint64, bool) {
	t := p.peek()
	p.enter(t.pos)
	defer func() { p.depth-- }()
	switch {
	case t.kind == tInt:
		p.next()
		return t.val, t.uns || t.val>>63 != 0
	case t.kind == tPunct:
		switch t.text {
		case "(":
			p.next()
			if d := p.peek(); d.kind == tDot && (d.text == ".s64" || d.text == ".u64") { // cast
				p.next()
				p.expect(")")
				v, _ := p.constPrimary()
				return v, d.text == ".u64"
			}
			pipe := p.pipe
			p.pipe = true
			v, u := p.constExpr()
			p.pipe = pipe
			p.expect(")")
			return v, u
		case "-":
			p.next()
			v, u := p.constPrimary()
			return -v, u && v>>63 == 0
		case "+":
			p.next()
			return p.constPrimary()
		case "~":
			p.next()
			v, u := p.constPrimary()
			return ^v, u
		case "!":
			p.next()
			v, _ := p.constPrimary()
			return b2u(v == 0), false
		}
	case t.kind == tIdent && t.text == "WARP_SZ":
		p.next()
		return 32, false
	}
	p.failAt(t.pos, "found %s, expected an operand or a constant", p.describe(t))
	return 0, false
}
