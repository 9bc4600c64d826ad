package interp

import "github.com/heddle-gpu/heddle/jit/ptx"

// opInfo is what the interpreter knows of an opcode. The table that
// docs/ptx-coverage.md shows is made from it.
type opInfo struct {
	family string // heading in the documentation
	forms  string // modifiers and types accepted, as documentation
	decode func(d *decoder, m *mods, in *ptx.Inst) error
}

// opTable holds every supported opcode. The init functions of the ops_*.go
// files fill it, each family in its file.
var opTable = map[string]*opInfo{}

func register(family string, ops map[string]opInfo) {
	for name, o := range ops {
		if opTable[name] != nil {
			panic("BUG: opcode " + name + " is registered twice")
		}
		o.family = family
		opTable[name] = &o
	}
}

// run1, run2 and run3 apply a scalar function lane by lane.
func run1(w *warp, in *inst, m uint32) {
	d, a, f := &w.r[in.d], &w.r[in.a], in.f1
	if m == ^uint32(0) {
		for i := range d {
			d[i] = f(a[i])
		}
		return
	}
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = f(a[i])
		}
	}
}

func run2(w *warp, in *inst, m uint32) {
	d, a, b, f := &w.r[in.d], &w.r[in.a], &w.r[in.b], in.f2
	if m == ^uint32(0) {
		for i := range d {
			d[i] = f(a[i], b[i])
		}
		return
	}
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = f(a[i], b[i])
		}
	}
}

func run3(w *warp, in *inst, m uint32) {
	d, a, b, c, f := &w.r[in.d], &w.r[in.a], &w.r[in.b], &w.r[in.c], in.f3
	if m == ^uint32(0) {
		for i := range d {
			d[i] = f(a[i], b[i], c[i])
		}
		return
	}
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = f(a[i], b[i], c[i])
		}
	}
}

// drop gives a slot to write to when the destination is "_".
func (d *decoder) orTemp(slot int32) int32 {
	if slot < 0 {
		return d.temp()
	}
	return slot
}

// op1, op2 and op3 decode "d, a", "d, a, b" and "d, a, b, c" with a
// destination of type dt and sources of the given types.
func (d *decoder) op1(in *ptx.Inst, dt, at typ, f func(a uint64) uint64) error {
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], at)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], dt, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, run: run1, d: d.orTemp(dst), a: s[0], f1: f})
	return nil
}

func (d *decoder) op2(in *ptx.Inst, dt, at, bt typ, f func(a, b uint64) uint64, fast func(*warp, *inst, uint32)) error {
	if err := d.args(in, 3, 3); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], at, bt)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], dt, false)
	if err != nil {
		return err
	}
	if fast == nil {
		fast = run2
	}
	d.emit(inst{guard: -1, run: fast, d: d.orTemp(dst), a: s[0], b: s[1], f2: f})
	return nil
}

func (d *decoder) op3(in *ptx.Inst, dt, at, bt, ct typ, f func(a, b, c uint64) uint64, fast func(*warp, *inst, uint32)) error {
	if err := d.args(in, 4, 4); err != nil {
		return err
	}
	s, err := d.srcs(in.Args[1:], at, bt, ct)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], dt, false)
	if err != nil {
		return err
	}
	if fast == nil {
		fast = run3
	}
	d.emit(inst{guard: -1, run: fast, d: d.orTemp(dst), a: s[0], b: s[1], c: s[2], f3: f})
	return nil
}

// srcs gives the slots of several sources.
func (d *decoder) srcs(args []ptx.Operand, ts ...typ) ([]int32, error) {
	out := make([]int32, len(ts))
	for i, t := range ts {
		s, err := d.src(&args[i], t, false)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}
