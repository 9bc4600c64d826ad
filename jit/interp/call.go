package interp

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// callOp is a decoded call.
type callOp struct {
	fn     *function // nil for an indirect or external call
	ext    string    // external function
	reg    int32     // slot of the address for an indirect call, -1 otherwise
	rets   []argPlace
	args   []argPlace
	byAddr bool
}

// externs are the functions that the driver provides to device code.
var externs = map[string]func(w *warp, in *inst, lane int, arg func(i int) uint64) (ret uint64, ok bool){
	"vprintf":      extPrintf,
	"__assertfail": extAssert,
	"malloc":       extMalloc,
	"free":         extFree,
}

func decCall(d *decoder, m *mods, in *ptx.Inst) error {
	m.flag(".uni")
	args := in.Args
	c := &callOp{reg: -1}
	var err error
	if len(args) > 0 && args[0].Kind == ptx.List {
		if c.rets, err = d.places(args[0].Elems, true); err != nil {
			return err
		}
		args = args[1:]
	}
	if len(args) == 0 || args[0].Kind != ptx.Sym {
		return d.errorf(in.Pos, "call wants the name of a function or a register")
	}
	target := &args[0]
	args = args[1:]
	if len(args) > 0 && args[0].Kind == ptx.List {
		if c.args, err = d.places(args[0].Elems, false); err != nil {
			return err
		}
		args = args[1:]
	}
	if s := d.lookup(target.Name); s != nil {
		if !s.reg || s.pred || s.bits != 64 {
			return d.errorf(target.Pos, "%s does not hold a function's address", target.Name)
		}
		if len(args) != 1 || d.list(args[0].Name) == nil {
			return d.errorf(in.Pos, "indirect call wants the label of a .callprototype or .calltargets")
		}
		if l := d.list(args[0].Name); l.Name == ".calltargets" {
			for _, name := range l.Args {
				if f := d.p.funcs[name]; f != nil {
					d.fn.taken = append(d.fn.taken, f)
				}
			}
		}
		c.reg, c.byAddr = s.slot, true
		d.fn.usesCalls = true
	} else if f := d.p.funcs[target.Name]; f != nil {
		if f.src.Entry {
			return notSupported(target.Pos, "call of the kernel %s", f.name)
		}
		c.fn = f
		d.fn.callees = append(d.fn.callees, f)
		if len(c.args) != len(f.src.Params) || len(c.rets) != len(f.src.Ret) {
			return d.errorf(in.Pos, "call of %s with %d arguments and %d results, it has %d and %d",
				f.name, len(c.args), len(c.rets), len(f.src.Params), len(f.src.Ret))
		}
	} else if externs[target.Name] != nil {
		c.ext = target.Name
		d.fn.extern = append(d.fn.extern, target.Name)
	} else if strings.HasPrefix(target.Name, "%") {
		return d.errorf(target.Pos, "%s is not declared", target.Name)
	} else {
		return notSupported(target.Pos, "function %s has no body in this module", target.Name)
	}
	if c.ext != "" {
		d.emit(inst{guard: -1, call: c, run: runExtern})
		return nil
	}
	d.emit(inst{guard: -1, kind: kCall, call: c})
	return nil
}

// places gives where the arguments or results of a call live in the caller.
func (d *decoder) places(ops []ptx.Operand, dst bool) ([]argPlace, error) {
	var out []argPlace
	for i := range ops {
		o := &ops[i]
		if o.Kind == ptx.Sym {
			if s := d.lookup(o.Name); s != nil {
				switch {
				case s.pred:
					out = append(out, argPlace{reg: s.slot, pred: true})
					continue
				case s.reg:
					slot, err := d.regSlot(o, s)
					if err != nil {
						return nil, err
					}
					out = append(out, argPlace{reg: slot})
					continue
				case s.v.Space == ".param" && !s.entry:
					out = append(out, argPlace{off: s.off, size: int(s.v.Size()), reg: -1})
					continue
				}
				return nil, d.errorf(o.Pos, "%s is neither a register nor a .param variable of this function", o.Name)
			}
		}
		if dst && o.Kind == ptx.Sym && o.Name == "_" {
			out = append(out, argPlace{reg: d.temp()})
			continue
		}
		if dst {
			return nil, d.errorf(o.Pos, "result of a call: expected a .param variable or a register")
		}
		slot, err := d.src(o, tB64, true)
		if err != nil {
			return nil, err
		}
		out = append(out, argPlace{reg: slot})
	}
	return out, nil
}

// move copies one argument or result between frames for lanes m.
func move(to *frame, tp argPlace, from *frame, fp argPlace, m uint32) {
	if tp.pred && fp.pred {
		to.p[tp.reg] = to.p[tp.reg]&^m | from.p[fp.reg]&m
		return
	}
	tn, fn := to.fn.paramBytes, from.fn.paramBytes
	for ; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		switch {
		case tp.reg >= 0 && fp.reg >= 0 && !tp.pred && !fp.pred:
			to.r[tp.reg][l] = from.r[fp.reg][l]
		case tp.reg < 0 && fp.reg < 0:
			n := min(tp.size, fp.size)
			copy(to.params[l*tn+tp.off:l*tn+tp.off+n], from.params[l*fn+fp.off:l*fn+fp.off+n])
		case tp.reg < 0 && !fp.pred:
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], from.r[fp.reg][l])
			copy(to.params[l*tn+tp.off:l*tn+tp.off+tp.size], b[:])
		case fp.reg < 0 && !tp.pred:
			var b [8]byte
			copy(b[:], from.params[l*fn+fp.off:l*fn+fp.off+fp.size])
			to.r[tp.reg][l] = binary.LittleEndian.Uint64(b[:])
		}
	}
}

// doCall enters a function with lanes m of fragment i; an indirect call goes
// to the first lane's target with all lanes that have the same, and the others
// come back to the instruction.
func (w *warp) doCall(i int, in *inst, m uint32) {
	f := &w.frags[i]
	caller := f.fr
	c := in.call
	fn := c.fn
	pc := f.pc
	if m != f.mask {
		w.split(i, f.mask&^m, pc+1)
		f = &w.frags[i]
	}
	if c.byAddr {
		addr := caller.r[c.reg][bits.TrailingZeros32(m)]
		var same uint32
		for q := m; q != 0; q &= q - 1 {
			if l := bits.TrailingZeros32(q); caller.r[c.reg][l] == addr {
				same |= 1 << l
			}
		}
		n := (addr - FuncWindow) / 16
		if addr < FuncWindow || addr%16 != 0 || n >= uint64(len(w.g.in.p.order)) {
			w.fault(BadCall, in, same, addr, "")
			return
		}
		fn = w.g.in.p.order[n]
		if w.g.values[fn] == nil || fn.src.Entry || len(fn.formals) != len(c.args) || len(fn.rets) != len(c.rets) {
			w.fault(BadCall, in, same, addr, "function "+fn.name+" does not fit the call")
			return
		}
		if same != m {
			w.split(i, m&^same, pc)
			f = &w.frags[i]
			m = same
		}
	}
	if caller.depth+1 >= MaxCallDepth {
		w.fault(StackOverflow, in, m, 0, fmt.Sprintf("calls nested deeper than %d", MaxCallDepth))
		return
	}
	fr := w.g.newFrame(w, fn, caller, m)
	if fr == nil {
		w.fault(OutOfMemory, in, m, 0, "frames of nested calls")
		return
	}
	if fr.top > MaxLocalPerThread {
		w.fault(StackOverflow, in, m, 0, "local memory of nested calls exceeds that of a thread")
		return
	}
	for k, a := range fn.formals {
		move(fr, a, caller, c.args[k], m)
	}
	fr.call, fr.retPC = c, pc+1
	f.fr, f.pc, f.force = fr, 0, false
}

// returnValues copies the results of lanes m to the caller.
func (w *warp) returnValues(fr *frame, m uint32) {
	for k, r := range fr.fn.rets {
		move(fr.parent, fr.call.rets[k], fr, r, m)
	}
}

// runExtern calls one of externs for each lane.
func runExtern(w *warp, in *inst, m uint32) {
	c := in.call
	f := externs[c.ext]
	fr := w.fr
	pb := fr.fn.paramBytes
	for ; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		arg := func(i int) uint64 {
			if i >= len(c.args) {
				return 0
			}
			a := c.args[i]
			if a.reg >= 0 && !a.pred {
				return fr.r[a.reg][l]
			}
			var b [8]byte
			if !a.pred {
				copy(b[:], fr.params[l*pb+a.off:l*pb+a.off+a.size])
			}
			return binary.LittleEndian.Uint64(b[:])
		}
		ret, ok := f(w, in, l, arg)
		if !ok {
			return
		}
		if len(c.rets) > 0 {
			r := c.rets[0]
			if r.reg >= 0 && !r.pred {
				fr.r[r.reg][l] = ret
			} else if !r.pred {
				var b [8]byte
				binary.LittleEndian.PutUint64(b[:], ret)
				copy(fr.params[l*pb+r.off:l*pb+r.off+r.size], b[:])
			}
		}
	}
}

func extMalloc(w *warp, in *inst, lane int, arg func(int) uint64) (uint64, bool) {
	if w.g.l.Malloc == nil {
		return 0, true
	}
	return w.g.l.Malloc(arg(0)), true
}

func extFree(w *warp, in *inst, lane int, arg func(int) uint64) (uint64, bool) {
	if a := arg(0); w.g.l.Free != nil && a != 0 {
		w.g.l.Free(a)
	}
	return 0, true
}

// extAssert is __assertfail(message, file, line, function, charSize).
func extAssert(w *warp, in *inst, lane int, arg func(int) uint64) (uint64, bool) {
	text := func(i int) string {
		if arg(i) == 0 {
			return "?"
		}
		return string(w.bytes(in, lane, arg(i), 1024, true))
	}
	b, t := w.blk.ctaid, w.blk.tid(w.id*32+lane)
	msg := fmt.Sprintf("%s:%d: %s: block: [%d,%d,%d], thread: [%d,%d,%d] Assertion `%s` failed.",
		text(1), uint32(arg(2)), text(3), b[0], b[1], b[2], t[0], t[1], t[2], text(0))
	if w.g.l.Printf != nil {
		fmt.Fprintln(w.g.l.Printf, msg)
	}
	w.fault(Assert, in, 1<<lane, 0, msg)
	return 0, false
}
