package ptx

import (
	"fmt"
	"strconv"
	"strings"
)

// String gives the instruction as PTX, without its semicolon.
func (in *Inst) String() string {
	var b strings.Builder
	if in.Pred != "" {
		b.WriteByte('@')
		if in.PNeg {
			b.WriteByte('!')
		}
		b.WriteString(in.Pred + " ")
	}
	b.WriteString(in.Op)
	for _, m := range in.Mods {
		b.WriteString(m)
	}
	for i := range in.Args {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte(' ')
		in.Args[i].write(&b)
	}
	return b.String()
}

// String gives the operand as PTX.
func (o *Operand) String() string {
	var b strings.Builder
	o.write(&b)
	return b.String()
}

func (o *Operand) write(b *strings.Builder) {
	list := func(open, sep, end string) {
		b.WriteString(open)
		for i := range o.Elems {
			if i > 0 {
				b.WriteString(sep)
			}
			o.Elems[i].write(b)
		}
		b.WriteString(end)
	}
	switch o.Kind {
	case Sym:
		if o.Neg {
			b.WriteByte('!')
		}
		if o.Minus {
			b.WriteByte('-')
		}
		b.WriteString(o.Name + o.Comp)
		if len(o.Elems) > 0 {
			list("[", ", ", "]")
		}
		if o.OffReg != "" {
			b.WriteString("+" + o.OffReg)
		}
		if o.Off != 0 || o.Zero {
			fmt.Fprintf(b, "+%d", o.Off) // "+-4": ptxas takes no "-4" here
		}
	case Imm:
		if o.Unsigned {
			b.WriteString(strconv.FormatUint(uint64(o.Int), 10) + "U")
		} else {
			b.WriteString(strconv.FormatInt(o.Int, 10))
		}
	case Float:
		if o.Width == 32 {
			fmt.Fprintf(b, "0f%08X", o.Bits)
		} else {
			fmt.Fprintf(b, "0d%016X", o.Bits)
		}
	case Vec:
		list("{", ", ", "}")
	case Addr:
		list("[", ", ", "]")
		b.WriteString(o.Comp)
	case List:
		list("(", ", ", ")")
	case Pair:
		list("", "|", "")
	case String:
		b.WriteString(`"` + o.Name + `"`)
	}
}
