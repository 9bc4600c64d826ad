package effects

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// Span is the addresses [From, To).
type Span struct{ From, To uint64 }

// Empty reports that the span has no address.
func (s Span) Empty() bool { return s.From >= s.To }

// Overlaps reports that some address is in both.
func (s Span) Overlaps(t Span) bool {
	return !s.Empty() && !t.Empty() && s.From < t.To && t.From < s.To
}

// Launch is what the addresses of one launch depend on.
type Launch struct {
	Grid, Block [3]uint32 // zeros count as 1
	Params      []byte    // the parameter block, as the kernel reads it
}

// farther is from when on an interval of addresses says nothing: an index that was not bounded.
const farther = 1 << 30

// rounds is how often registers that are set in several places are evaluated before they are taken to hold anything.
const rounds = 4

// Touched is the addresses that a launch can touch, with neighbours merged.
type Touched struct {
	Reads, Writes []Span
	// Signals are those among Writes that are written for others to see at once (volatile, relaxed and release stores). In memory
	// where somebody may wait for them, such as the host's, storing them again is not harmless.
	Signals []Span
}

// Touches gives the addresses that a launch can touch. around gives the memory that an address lies in, as one allocation or
// more, false for none. why is "" or says why nothing can be said.
func (e *Effects) Touches(l Launch, around func(address uint64) (Span, bool)) (t Touched, why string) {
	if e.Why != "" {
		return t, e.Why
	}
	if (len(e.slice)+e.names)*(rounds+8+len(e.facts)) > maxSteps {
		return t, "it is too large to look at"
	}
	c := &launch{Effects: e, l: l, pointers: map[int]uint{}}
	env, why := c.settle()
	if why != "" {
		return t, why
	}
	for set, facts := range e.facts {
		here, possible := env, true
		if len(facts) > 0 {
			here, possible = c.narrow(env, facts)
		}
		if !possible {
			continue // the conditions contradict each other: not executed in this launch
		}
		for i := range e.accesses {
			x := &e.accesses[i]
			if x.facts != set {
				continue
			}
			spans, why := c.spans(x, here, around)
			if why != "" {
				return Touched{}, fmt.Sprintf("%s: %s", x.pos, why)
			}
			if x.write {
				t.Writes = merge(t.Writes, spans)
			} else {
				t.Reads = merge(t.Reads, spans)
			}
			if x.signal {
				t.Signals = merge(t.Signals, spans)
			}
		}
	}
	return t, ""
}

// merge adds spans, joined with those that they touch.
func merge(all, more []Span) []Span {
	for _, s := range more {
		if s.Empty() {
			continue
		}
		for i := 0; i < len(all); {
			if t := all[i]; s.From <= t.To && t.From <= s.To {
				s = Span{min(s.From, t.From), max(s.To, t.To)}
				all[i] = all[len(all)-1]
				all = all[:len(all)-1]
				i = 0
				continue
			}
			i++
		}
		all = append(all, s)
	}
	return all
}

// launch is the evaluation of one launch.
type launch struct {
	*Effects
	l        Launch
	pointers map[int]uint // offset of an 8-byte parameter → its bit in value.params
	at       [64]uint64   // bit → the parameter's value
}

// settle gives what every register can hold at any time.
func (c *launch) settle() ([]value, string) {
	env := make([]value, c.names)
	for round := 0; ; round++ {
		changed := false
		for i := range c.slice {
			d := &c.slice[i]
			for k, r := range d.out {
				v, why := c.result(d, k, env)
				if why != "" {
					return nil, why
				}
				if d.ssa {
					if v != env[r] {
						env[r], changed = v, true
					}
					continue
				}
				if j := env[r].join(v); j != env[r] {
					if round >= rounds {
						if env[r].set && j.lo < env[r].lo {
							j.lo = math.MinInt64
						}
						if env[r].set && j.hi > env[r].hi {
							j.hi = math.MaxInt64
						}
					}
					env[r], changed = j, true
				}
			}
		}
		if !changed {
			return env, ""
		}
		if round > rounds+8 {
			// Does not happen: every round after widening makes some register unbounded. Then nothing is known.
			for i := range env {
				env[i] = env[i].anything()
				env[i].from |= fromMemory
			}
			return env, ""
		}
	}
}

// result is what definition d gives its k-th register.
func (c *launch) result(d *def, k int, env []value) (value, string) {
	if d.param >= 0 && d.elem <= 8 {
		return c.param(d, k)
	}
	v := apply(d.in, env, &c.l)
	if len(d.out) > 1 && d.in.Op != "ld" {
		v = v.anything()
	}
	return v, ""
}

// param is a part of the parameter block.
func (c *launch) param(d *def, k int) (value, string) {
	at := d.param + k*d.elem
	if at+d.elem > len(c.l.Params) {
		return value{}, "the launch passes fewer parameters than the kernel has"
	}
	var raw [8]byte
	copy(raw[:], c.l.Params[at:at+d.elem])
	n := binary.LittleEndian.Uint64(raw[:])
	t := strings.TrimPrefix(d.in.Mods[len(d.in.Mods)-1], ".")
	if d.elem < 8 {
		if t[0] == 's' {
			shift := 64 - 8*d.elem
			return exactly(int64(n<<shift) >> shift), ""
		}
		return exactly(int64(n)), ""
	}
	bit, ok := c.pointers[at]
	if !ok {
		if bit = uint(len(c.pointers)); bit == 64 {
			return value{}, "it has more than 64 parameters that may be pointers"
		}
		c.pointers[at], c.at[bit] = bit, n
	}
	v := exactly(int64(n))
	v.params = 1 << bit
	return v, ""
}

// narrow gives what registers can hold where the facts are true; false when they cannot be.
func (c *launch) narrow(env []value, facts []fact) ([]value, bool) {
	here := append([]value(nil), env...)
	for _, f := range facts {
		if !c.tighten(here, f) {
			return nil, false
		}
	}
	// Again, so that what was computed from a narrowed register is narrower too.
	for i := range c.slice {
		d := &c.slice[i]
		if !d.ssa {
			continue
		}
		for k, r := range d.out {
			v, why := c.result(d, k, here)
			if why != "" {
				continue
			}
			if v.lo < env[r].lo && congruent(v, env[r]) {
				v.lo = env[r].lo
			}
			if v.hi > env[r].hi && congruent(v, env[r]) {
				v.hi = env[r].hi
			}
			here[r] = v
		}
		for _, f := range facts {
			for _, o := range d.out {
				if mentions(f, o) && !c.tighten(here, f) {
					return nil, false
				}
			}
		}
	}
	return here, true
}

// congruent: both intervals are of the same reading, so that one may bound the other. An interval below zero may be the signed
// reading of what another holds unsigned.
func congruent(a, b value) bool {
	return a.lo >= 0 && b.lo >= 0 && a.hi <= math.MaxInt32 && b.hi <= math.MaxInt32
}

func mentions(f fact, r int) bool {
	return f.a.Width == isRegister && f.a.Bits == uint64(r) || f.b.Width == isRegister && f.b.Bits == uint64(r)
}

// tighten narrows the registers that a fact compares; false when nothing is left.
func (c *launch) tighten(env []value, f fact) bool {
	t := f.typ
	cmp := f.cmp
	switch cmp { // unsigned comparisons of any type
	case "lo", "ls", "hi", "hs":
		cmp = map[string]string{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}[cmp]
		t = "u" + strings.TrimLeft(t, "bus")
	}
	if !f.holds {
		cmp = map[string]string{"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}[cmp]
	}
	if typeBits(t) == 0 || t[0] == 'b' && cmp != "eq" {
		return true
	}
	a, b := operand(&f.a, env, &c.l).as(t), operand(&f.b, env, &c.l).as(t)
	if t == "u64" && (a.lo < 0 || b.lo < 0) {
		// Anything, read as unsigned: only an upper bound that is known helps.
		if a.lo < 0 && b.lo >= 0 && (cmp == "lt" || cmp == "le") {
			a = a.of(0, math.MaxInt64)
		} else {
			return true
		}
	}
	na, nb := a, b
	switch cmp {
	case "lt":
		na.hi, nb.lo = min(a.hi, below(b.hi)), max(b.lo, above(a.lo))
	case "le":
		na.hi, nb.lo = min(a.hi, b.hi), max(b.lo, a.lo)
	case "gt":
		na.lo, nb.hi = max(a.lo, above(b.lo)), min(b.hi, below(a.hi))
	case "ge":
		na.lo, nb.hi = max(a.lo, b.lo), min(b.hi, a.hi)
	case "eq":
		if t[0] == 'b' {
			return true // the readings may differ
		}
		na.lo, na.hi = max(a.lo, b.lo), min(a.hi, b.hi)
		nb.lo, nb.hi = na.lo, na.hi
	default:
		return true
	}
	if na.lo > na.hi || nb.lo > nb.hi {
		return false
	}
	put := func(o uint64, is bool, v value) {
		if is && c.ssa[o] {
			env[o] = v
		}
	}
	put(f.a.Bits, f.a.Width == isRegister && plain(f.a.Off, f.a.Neg, f.a.Comp), na)
	put(f.b.Bits, f.b.Width == isRegister && plain(f.b.Off, f.b.Neg, f.b.Comp), nb)
	return true
}

func plain(off int64, neg bool, comp string) bool { return off == 0 && !neg && comp == "" }

func below(n int64) int64 {
	if n == math.MinInt64 {
		return n
	}
	return n - 1
}

func above(n int64) int64 {
	if n == math.MaxInt64 {
		return n
	}
	return n + 1
}

// spans are the addresses of one access.
func (c *launch) spans(x *access, env []value, around func(uint64) (Span, bool)) ([]Span, string) {
	v := operand(&x.base, env, &c.l)
	switch {
	case v.from&fromMemory != 0:
		return nil, "it follows a pointer that it loads from memory"
	case v.from&module != 0 && x.write:
		return nil, "it writes a variable of the module"
	case v.from&(private|module) != 0 && v.params == 0:
		return nil, ""
	}
	if v.lo >= 0 && v.bounded(farther) && v.from&(private|module) == 0 {
		return []Span{{uint64(v.lo), uint64(v.hi) + uint64(x.bytes)}}, ""
	}
	var out []Span
	for bit := range len(c.pointers) {
		if v.params&(1<<bit) == 0 {
			continue
		}
		if s, ok := around(c.at[bit]); ok {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, "an address that does not come from a pointer among its parameters"
	}
	return out, ""
}
