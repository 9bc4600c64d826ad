package interp

import (
	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Control flow", map[string]opInfo{
		"bra":            {forms: ".uni", decode: decBra},
		"brx":            {forms: ".idx{.uni}", decode: decBrx},
		"call":           {forms: ".uni; direct, and through a register with .callprototype or .calltargets; vprintf, __assertfail, malloc, free", decode: decCall},
		"ret":            {forms: ".uni", decode: decSimple(kRet)},
		"exit":           {forms: "", decode: decSimple(kExit)},
		"trap":           {forms: "", decode: decTrap},
		"brkpt":          {forms: "", decode: decTrap},
		"nanosleep":      {forms: ".u32", decode: decNanosleep},
		"pmevent":        {forms: "all (no effect)", decode: decIgnore},
		"setmaxnreg":     {forms: "all (no effect)", decode: decIgnore},
		"griddepcontrol": {forms: "all (no effect: a launch starts when its predecessors are done)", decode: decIgnore},
	})
}

func (d *decoder) copyScopes() []*scope { return append([]*scope(nil), d.scopes...) }

func decBra(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".uni")
	if err := d.args(in, 1, 1); err != nil {
		return err
	}
	o := &in.Args[0]
	if o.Kind != ptx.Sym {
		return d.errorf(o.Pos, "bra wants a label")
	}
	d.fix = append(d.fix, fixup{at: len(d.fn.code), table: -1, scopes: d.copyScopes(), name: o.Name, pos: o.Pos})
	d.emit(inst{guard: -1, kind: kBra})
	return nil
}

// maxTargets bounds the branches of one function, table entries included.
const maxTargets = 1 << 20

func decBrx(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".uni")
	if !m.flag(".idx") {
		return notSupported(in.Pos, "brx without .idx")
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	idx, err := d.src(&in.Args[0], tU32, false)
	if err != nil {
		return err
	}
	list := d.list(in.Args[1].Name)
	if list == nil || list.Name != ".branchtargets" {
		return d.errorf(in.Args[1].Pos, "%s is not a label of .branchtargets", in.Args[1].Name)
	}
	at := len(d.fn.code)
	if len(d.fix)+len(list.Args) > maxTargets {
		return notSupported(in.Pos, "branch tables of %s have more than %d targets together", d.fn.name, maxTargets)
	}
	scopes := d.copyScopes()
	for i, name := range list.Args {
		d.fix = append(d.fix, fixup{at: at, table: i, scopes: scopes, name: name, pos: list.Pos})
	}
	d.emit(inst{guard: -1, kind: kBrx, a: idx, table: make([]int32, len(list.Args))})
	return nil
}

// list finds a labelled .branchtargets, .calltargets or .callprototype.
func (d *decoder) list(name string) *ptx.Directive {
	for i := len(d.scopes) - 1; i >= 0; i-- {
		if l := d.scopes[i].lists[name]; l != nil {
			return l
		}
	}
	return nil
}

func decSimple(k kind) func(*decoder, *mods, *ptx.Inst) error {
	return func(d *decoder, m *mods, in *ptx.Inst) error {
		m.flag(".uni")
		d.emit(inst{guard: -1, kind: k})
		return d.args(in, 0, 0)
	}
}

func decTrap(d *decoder, m *mods, in *ptx.Inst) error {
	d.emit(inst{guard: -1, run: func(w *warp, in *inst, m uint32) { w.fault(Trap, in, m, 0, "") }})
	return nil
}

func decNanosleep(d *decoder, m *mods, in *ptx.Inst) error {
	if _, err := m.typeOf(tU32); err != nil {
		return err
	}
	if err := d.args(in, 1, 1); err != nil {
		return err
	}
	if _, err := d.src(&in.Args[0], tU32, false); err != nil {
		return err
	}
	// Time passes by letting others run; how much is not specified.
	d.emit(inst{guard: -1, kind: kYield, run: func(*warp, *inst, uint32) {}})
	return nil
}
