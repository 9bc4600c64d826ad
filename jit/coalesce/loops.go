package coalesce

import (
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// loops looks for loops in one function that wait for another block: barriers of a whole grid that people write by hand. Such a
// kernel counts on all its blocks being on the chip at once, which a launch of many instances does not promise.
//
// What it looks for is a jump backwards around a load that must be done anew each time (a strong one, PTX ISA 8.4) whose value
// decides about a jump. Values are followed through registers only. Loops that wait with atomic exchanges are locks: whoever holds
// one is on the chip.
type loops struct {
	insts  []*ptx.Inst
	labels map[string]int // number of instructions before each label seen
	strong []int          // the instructions that load anew
	work   int
}

// maxLoopWork bounds the instructions looked at, for hostile modules with many nested loops.
const maxLoopWork = 4 << 20

func (l *loops) label(name string) { l.labels[name] = len(l.insts) }

// inst adds an instruction; the result is not empty when it closes a loop that waits, or when there is too much to look at.
func (l *loops) inst(in *ptx.Inst) Code {
	l.insts = append(l.insts, in)
	if loadsAnew(in) {
		l.strong = append(l.strong, len(l.insts)-1)
	}
	if in.Op != "bra" || len(in.Args) != 1 {
		return ""
	}
	from, back := l.labels[in.Args[0].Name]
	if !back || len(l.strong) == 0 || l.strong[len(l.strong)-1] < from {
		return ""
	}
	loop := l.insts[from:]
	if l.work += 3 * len(loop); l.work > maxLoopWork {
		return CodeTooLarge
	}
	loaded := map[string]bool{}
	for range 3 { // values that go around the loop
		for _, x := range loop {
			if (x.Op == "bra" || endsThread(x)) && loaded[x.Pred] {
				return CodeSpin
			}
			if x.Op == "bra" || x.Op == "st" || x.Op == "red" || len(x.Args) == 0 {
				continue
			}
			hit := loadsAnew(x)
			for i := 1; i < len(x.Args) && !hit; i++ {
				// An address that was loaded makes no loaded value, and neither does a store.
				hit = x.Args[i].Kind != ptx.Addr && mentions(&x.Args[i], loaded)
			}
			if hit {
				mark(&x.Args[0], loaded)
			}
		}
	}
	return ""
}

// loadsAnew tells a load that others may change the result of: strong, beyond the block, and an atomic that changes nothing.
func loadsAnew(in *ptx.Inst) bool {
	if has(in.Mods, ".cta", ".cluster") || slices.ContainsFunc(in.Mods, func(m string) bool {
		return strings.HasPrefix(m, ".shared") || strings.HasPrefix(m, ".param") || m == ".local" || m == ".const"
	}) {
		return false
	}
	switch in.Op {
	case "ld":
		return has(in.Mods, ".volatile", ".acquire", ".relaxed", ".mmio", ".cv")
	case "atom":
		last := len(in.Args) - 1
		switch {
		case last < 2:
			return false
		case has(in.Mods, ".cas"): // of a value by itself
			return last > 2 && in.Args[last].String() == in.Args[last-1].String()
		}
		return has(in.Mods, ".add", ".or", ".xor") && in.Args[last].Kind == ptx.Imm && in.Args[last].Int == 0
	}
	return false
}

func mentions(o *ptx.Operand, names map[string]bool) bool {
	if o.Kind == ptx.Sym && names[o.Name] {
		return true
	}
	return slices.ContainsFunc(o.Elems, func(e ptx.Operand) bool { return mentions(&e, names) })
}

func mark(o *ptx.Operand, names map[string]bool) {
	if o.Kind == ptx.Sym {
		names[o.Name] = true
	}
	for i := range o.Elems {
		mark(&o.Elems[i], names)
	}
}
