package interp

import (
	"math"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// lanes is one register: a value for each lane, zero-extended from its width.
type lanes = [32]uint64

// kind tells the warp's loop how to treat an instruction.
type kind uint8

const (
	kALU      kind = iota // run for the active lanes, go on
	kBra                  // jump to target
	kBrx                  // jump through table
	kExit                 // threads end
	kRet                  // return from the frame
	kCall                 // call fn, or through a register
	kSync                 // waits for the lanes of a member mask, then run
	kBar                  // CTA barrier
	kClArrive             // barrier.cluster.arrive
	kClWait               // barrier.cluster.wait
	kYield                // ends the warp's turn
)

// inst is a decoded instruction. Register operands are slots of the frame.
type inst struct {
	run        func(w *warp, in *inst, m uint32)
	kind       kind
	gneg       bool
	guard      int32 // predicate slot, -1 without
	d          int32 // destination, -1 for none
	a, b, c, e int32 // sources
	p, q       int32 // predicate destinations
	s          int32 // predicate source
	target     int32
	imm        int64
	f1         func(a uint64) uint64
	f2         func(a, b uint64) uint64
	f3         func(a, b, c uint64) uint64
	cmp        func(a, b uint64) bool
	mem        *memOp
	call       *callOp
	table      []int32
	src        *ptx.Inst
}

// unit of decoding: names of one nested block
type scope struct {
	names  map[string]*symbol
	ranges map[string]*ptx.Var
	labels map[string]int32
	lists  map[string]*ptx.Directive // .branchtargets, .callprototype, .calltargets by label
}

type symbol struct {
	v    *ptx.Var
	reg  bool
	pred bool
	slot int32
	bits uint
	off  int
	vec  []int32 // slots of a vector register
	// entry parameter (as opposed to parameter memory of the frame)
	entry bool
}

type fixup struct {
	at     int
	table  int // index in the branch table, -1 for target
	scopes []*scope
	name   string
	pos    ptx.Pos
}

type constKey struct {
	val    uint64
	global string
	shared *ptx.Var
}

type fillKey struct {
	kind special
	off  int64
}

type decoder struct {
	p      *Program
	fn     *function
	scopes []*scope
	fix    []fixup
	consts map[constKey]int32
	fills  map[fillKey]int32
	in     *ptx.Inst // being decoded
	last   string    // last label
	uns    error     // first unsupported instruction
	seenS  map[*ptx.Var]bool
	seenG  map[string]bool
}

// maxRegs bounds the registers that a function really uses.
const maxRegs = 1 << 16

// decode fills fn from its source. An *unsupported error leaves fn unusable
// but the module fine; any other error is the module's.
func (p *Program) decode(fn *function) error {
	d := &decoder{p: p, fn: fn, consts: map[constKey]int32{}, fills: map[fillKey]int32{},
		seenS: map[*ptx.Var]bool{}, seenG: map[string]bool{}}
	d.push()
	f := fn.src
	if f.Entry {
		params, _, err := f.Layout()
		if err != nil {
			return err
		}
		fn.entryParm = params
		for i, v := range f.Params {
			d.scopes[0].names[v.Name] = &symbol{v: v, off: params[i].Offset, entry: true}
		}
	} else {
		var err error
		if fn.rets, err = d.formals(f.Ret); err != nil {
			return err
		}
		if fn.formals, err = d.formals(f.Params); err != nil {
			return err
		}
	}
	if err := d.body(f.Body); err != nil {
		return err
	}
	fn.callees, fn.taken = unique(fn.callees), unique(fn.taken)
	d.emit(inst{guard: -1, kind: kRet, src: &ptx.Inst{Pos: f.Pos, Op: "ret"}})
	for _, x := range d.fix {
		pc, ok := int32(0), false
		for i := len(x.scopes) - 1; i >= 0 && !ok; i-- {
			pc, ok = x.scopes[i].labels[x.name]
		}
		if !ok {
			return ptx.Errorf(x.pos, "label %s is not defined in %s", x.name, fn.name)
		}
		if x.table >= 0 {
			fn.code[x.at].table[x.table] = pc
		} else {
			fn.code[x.at].target = pc
		}
	}
	if fn.nreg > maxRegs || fn.npred > maxRegs {
		return notSupported(f.Pos, "%s uses more than %d registers", fn.name, maxRegs)
	}
	if d.uns != nil {
		fn.code = nil
		return d.uns
	}
	return nil
}

// unique drops repetitions.
func unique(l []*function) []*function {
	seen := map[*function]bool{}
	out := l[:0]
	for _, f := range l {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	return out
}

func (d *decoder) formals(vars []*ptx.Var) ([]argPlace, error) {
	var out []argPlace
	for _, v := range vars {
		s, err := d.declare(v)
		if err != nil {
			return nil, err
		}
		if s.reg {
			out = append(out, argPlace{reg: s.slot, pred: s.pred})
		} else {
			out = append(out, argPlace{off: s.off, size: int(v.Size()), reg: -1})
		}
	}
	return out, nil
}

func (d *decoder) push() {
	d.scopes = append(d.scopes, &scope{names: map[string]*symbol{}, ranges: map[string]*ptx.Var{},
		labels: map[string]int32{}, lists: map[string]*ptx.Directive{}})
}

func (d *decoder) body(body []ptx.Stmt) error {
	for _, s := range body {
		switch s := s.(type) {
		case *ptx.Label:
			sc := d.scopes[len(d.scopes)-1]
			if _, dup := sc.labels[s.Name]; dup {
				return ptx.Errorf(s.Pos, "label %s is defined twice", s.Name)
			}
			sc.labels[s.Name] = int32(len(d.fn.code))
			d.last = s.Name
		case *ptx.Directive:
			switch s.Name {
			case ".branchtargets", ".callprototype", ".calltargets":
				d.scopes[len(d.scopes)-1].lists[d.last] = s
			}
		case *ptx.Var:
			if _, err := d.declare(s); err != nil {
				return err
			}
		case *ptx.Block:
			d.push()
			if err := d.body(s.Body); err != nil {
				return err
			}
			d.scopes = d.scopes[:len(d.scopes)-1]
		case *ptx.Inst:
			if err := d.inst(s); err != nil {
				u, ok := err.(*unsupported)
				if !ok {
					return err
				}
				if d.uns == nil {
					d.uns = u
				}
			}
		}
	}
	return nil
}

// maxFrame bounds the bytes of parameters and of local variables of one function.
const maxFrame = MaxLocalPerThread

// declare makes a symbol of a variable in the innermost scope.
func (d *decoder) declare(v *ptx.Var) (*symbol, error) {
	sc := d.scopes[len(d.scopes)-1]
	if v.Range > 0 {
		sc.ranges[v.Name] = v
		return nil, nil
	}
	s := &symbol{v: v}
	switch v.Space {
	case ".reg":
		s.reg = true
		d.newReg(s)
	case ".param":
		n, a := v.Size(), v.Alignment()
		off := (d.fn.paramBytes + a - 1) &^ (a - 1)
		if n < 0 || int64(off)+n > maxFrame {
			return nil, ptx.Errorf(v.Pos, "parameters of %s exceed %d bytes", d.fn.name, maxFrame)
		}
		s.off = off
		d.fn.paramBytes = off + int(n)
	case ".local":
		n, a := v.Size(), v.Alignment()
		off := (d.fn.local + a - 1) &^ (a - 1)
		if n < 0 || int64(off)+n > maxFrame {
			return nil, notSupported(v.Pos, "local variables of %s exceed %d bytes", d.fn.name, maxFrame)
		}
		s.off = off
		d.fn.local = off + int(n)
		d.fn.localAlign = max(d.fn.localAlign, a)
	case ".shared":
	default:
		return nil, notSupported(v.Pos, "%s variable in a function body", v.Space)
	}
	sc.names[v.Name] = s
	return s, nil
}

// newReg gives a register symbol its slot.
func (d *decoder) newReg(s *symbol) {
	n, _ := ptx.TypeSize(s.v.Type)
	s.bits = uint(n) * 8
	if s.v.Type == ".pred" {
		s.pred = true
		s.slot = d.newPred()
		return
	}
	count := 1
	switch s.v.Vec {
	case ".v2":
		count = 2
	case ".v4":
		count = 4
	case ".v8":
		count = 8
	}
	if s.v.Type == ".b128" {
		count = 2 // halves
	}
	s.slot = d.temp()
	if count > 1 {
		s.vec = []int32{s.slot}
		for i := 1; i < count; i++ {
			s.vec = append(s.vec, d.temp())
		}
	}
}

func (d *decoder) temp() int32 { d.fn.nreg++; return int32(d.fn.nreg - 1) }

func (d *decoder) newPred() int32 { d.fn.npred++; return int32(d.fn.npred - 1) }

// lookup finds a name declared in the function.
func (d *decoder) lookup(name string) *symbol {
	for i := len(d.scopes) - 1; i >= 0; i-- {
		sc := d.scopes[i]
		if s := sc.names[name]; s != nil {
			return s
		}
		cut := len(name)
		for cut > 0 && len(name)-cut < 10 && name[cut-1] >= '0' && name[cut-1] <= '9' {
			cut--
		}
		// "%r10" may belong to the range %r or to %r1 with index 0.
		for ; cut < len(name); cut++ {
			v := sc.ranges[name[:cut]]
			if v == nil || name[cut] == '0' && len(name)-cut > 1 {
				continue
			}
			n, err := strconv.Atoi(name[cut:])
			if err != nil || n >= v.Range {
				continue
			}
			s := &symbol{v: v, reg: v.Space == ".reg"}
			if s.reg {
				d.newReg(s)
				sc.names[name] = s
			} else {
				one := *v
				one.Range, one.Name = 0, name
				save := d.scopes
				d.scopes = d.scopes[:i+1]
				var err error
				s, err = d.declare(&one)
				d.scopes = save
				if err != nil {
					return nil
				}
			}
			return s
		}
	}
	return nil
}

func (d *decoder) emit(in inst) *inst {
	if in.src == nil {
		in.src = d.in
	}
	d.fn.code = append(d.fn.code, in)
	return &d.fn.code[len(d.fn.code)-1]
}

func (d *decoder) errorf(pos ptx.Pos, format string, args ...any) error {
	return ptx.Errorf(pos, format, args...)
}

// constant gives a slot that holds val in all lanes.
func (d *decoder) constant(k constKey) int32 {
	if s, ok := d.consts[k]; ok {
		return s
	}
	s := d.temp()
	d.consts[k] = s
	d.fn.consts = append(d.fn.consts, constSlot{slot: s, val: k.val, global: k.global, shared: k.shared})
	return s
}

func (d *decoder) imm(v uint64) int32 { return d.constant(constKey{val: v}) }

// fillSlot gives a slot that is set when a frame starts.
func (d *decoder) fillSlot(k special, off int64) int32 {
	key := fillKey{k, off}
	if s, ok := d.fills[key]; ok {
		return s
	}
	s := d.temp()
	d.fills[key] = s
	d.fn.fills = append(d.fn.fills, fill{s, k, off})
	return s
}

// floatConst gives the bits of a floating-point literal in type t.
func floatConst(o *ptx.Operand, t typ) uint64 {
	if o.Width == 32 {
		if t == tF64 {
			return math.Float64bits(float64(math.Float32frombits(uint32(o.Bits))))
		}
		return o.Bits
	}
	switch t {
	case tF32, tTF32:
		return uint64(math.Float32bits(float32(math.Float64frombits(o.Bits))))
	case tF16:
		return uint64(f64ToFmt(math.Float64frombits(o.Bits), fmtF16, rn))
	case tBF16:
		return uint64(f64ToFmt(math.Float64frombits(o.Bits), fmtBF16, rn))
	}
	return o.Bits
}

// src gives the slot of a source operand of type t; the register must be of
// t's width, or at least as wide with loose set.
func (d *decoder) src(o *ptx.Operand, t typ, loose bool) (int32, error) {
	switch o.Kind {
	case ptx.Imm:
		if t.float() && t != tTF32 {
			// Integers as floating-point operands: their value for f32 and f64.
			switch t {
			case tF32:
				return d.imm(uint64(math.Float32bits(float32(o.Int)))), nil
			case tF64:
				return d.imm(math.Float64bits(float64(o.Int))), nil
			}
		}
		return d.imm(uint64(o.Int) & t.mask()), nil
	case ptx.Float:
		return d.imm(floatConst(o, t) & t.mask()), nil
	case ptx.Sym:
		return d.symSrc(o, t, loose)
	}
	return 0, d.errorf(o.Pos, "operand of %s: expected a register or a constant", d.in.Op)
}

func (d *decoder) symSrc(o *ptx.Operand, t typ, loose bool) (int32, error) {
	if o.Name == "WARP_SZ" {
		return d.imm(32), nil
	}
	if s := d.lookup(o.Name); s != nil {
		if s.reg {
			slot, err := d.regSlot(o, s)
			if err != nil {
				return 0, err
			}
			if s.pred {
				return 0, d.errorf(o.Pos, "%s is a predicate: expected a register of type %s", o.Name, t)
			}
			if s.bits != t.bits() && !(loose && s.bits >= t.bits()) {
				return 0, d.errorf(o.Pos, "%s is %d bits wide, %s%s wants %d", o.Name, s.bits, d.in.Op, strings.Join(d.in.Mods, ""), t.bits())
			}
			return slot, nil
		}
		base, off, err := d.addrOfLocal(o, s)
		if err != nil {
			return 0, err
		}
		return d.addConst(base, off)
	}
	if strings.HasPrefix(o.Name, "%") {
		return d.specialSrc(o, t)
	}
	k, off, err := d.moduleSym(o)
	if err != nil {
		return 0, err
	}
	k.val += uint64(off)
	return d.constant(k), nil
}

// moduleSym resolves a variable or function of the module.
func (d *decoder) moduleSym(o *ptx.Operand) (constKey, int64, error) {
	if o.OffReg != "" {
		return constKey{}, 0, d.errorf(o.Pos, "%s+%s: a register offset is only possible in an address", o.Name, o.OffReg)
	}
	if v := d.p.gvars[o.Name]; v != nil {
		if !d.seenG[o.Name] {
			d.seenG[o.Name] = true
			d.fn.gvars = append(d.fn.gvars, o.Name)
		}
		return constKey{global: o.Name}, o.Off, nil
	}
	if v := d.p.shared[o.Name]; v != nil {
		return d.sharedKey(v), o.Off, nil
	}
	if f := d.p.funcs[o.Name]; f != nil {
		d.fn.taken = append(d.fn.taken, f)
		return constKey{val: d.p.FuncAddr(o.Name)}, o.Off, nil
	}
	if d.p.declared[o.Name] {
		return constKey{}, 0, notSupported(o.Pos, "address of %s, which this module does not define", o.Name)
	}
	return constKey{}, 0, d.errorf(o.Pos, "%s is not declared", o.Name)
}

func (d *decoder) sharedKey(v *ptx.Var) constKey {
	if !d.seenS[v] {
		d.seenS[v] = true
		d.fn.svars = append(d.fn.svars, v)
	}
	return constKey{shared: v}
}

// addrOfLocal gives base slot and offset of a variable of the function.
func (d *decoder) addrOfLocal(o *ptx.Operand, s *symbol) (int32, int64, error) {
	switch {
	case o.OffReg != "":
		return 0, 0, d.errorf(o.Pos, "%s+%s: a register offset is only possible behind a register", o.Name, o.OffReg)
	case s.v.Space == ".shared":
		return d.constant(d.sharedKey(s.v)), o.Off, nil
	case s.v.Space == ".local":
		return d.fillSlot(spLocalAddr, int64(s.off)), o.Off, nil
	case s.v.Space == ".param":
		return d.imm(uint64(s.off)), o.Off, nil
	}
	return 0, 0, d.errorf(o.Pos, "%s has no address", o.Name)
}

// addConst emits base+off unless off is zero.
func (d *decoder) addConst(base int32, off int64) (int32, error) {
	if off == 0 {
		return base, nil
	}
	t := d.temp()
	d.emit(inst{guard: -1, run: runAdd64, d: t, a: base, b: d.imm(uint64(off))})
	return t, nil
}

var comps = map[string]int{".x": 0, ".y": 1, ".z": 2, ".w": 3, ".r": 0, ".g": 1, ".b": 2, ".a": 3}

func (d *decoder) regSlot(o *ptx.Operand, s *symbol) (int32, error) {
	if o.Off != 0 || o.OffReg != "" {
		return 0, d.errorf(o.Pos, "%s: an offset is only possible in an address", o.Name)
	}
	if o.Neg && !s.pred {
		return 0, d.errorf(o.Pos, "%s cannot be negated here", o.Name)
	}
	if o.Comp != "" {
		i, ok := comps[o.Comp]
		if !ok || i >= len(s.vec) {
			return 0, d.errorf(o.Pos, "%s has no component %s", o.Name, o.Comp)
		}
		return s.vec[i], nil
	}
	if len(s.vec) > 0 {
		return 0, d.errorf(o.Pos, "%s is a vector: expected one component", o.Name)
	}
	return s.slot, nil
}

// dst gives the slot of a destination register of type t, -1 for "_".
func (d *decoder) dst(o *ptx.Operand, t typ, loose bool) (int32, uint, error) {
	if o.Kind != ptx.Sym {
		return 0, 0, d.errorf(o.Pos, "destination of %s: expected a register", d.in.Op)
	}
	if o.Name == "_" {
		return -1, t.bits(), nil
	}
	s := d.lookup(o.Name)
	if s == nil || !s.reg {
		return 0, 0, d.errorf(o.Pos, "%s is not a register", o.Name)
	}
	if s.pred {
		return 0, 0, d.errorf(o.Pos, "%s is a predicate: expected a register of type %s", o.Name, t)
	}
	if s.bits != t.bits() && !(loose && s.bits >= t.bits()) {
		return 0, 0, d.errorf(o.Pos, "%s is %d bits wide, %s%s wants %d", o.Name, s.bits, d.in.Op, strings.Join(d.in.Mods, ""), t.bits())
	}
	slot, err := d.regSlot(o, s)
	return slot, s.bits, err
}

// pdst gives the slot of a destination predicate, -1 for "_".
func (d *decoder) pdst(o *ptx.Operand) (int32, error) {
	if o.Kind == ptx.Sym && o.Name == "_" {
		return -1, nil
	}
	s := (*symbol)(nil)
	if o.Kind == ptx.Sym {
		s = d.lookup(o.Name)
	}
	if s == nil || !s.reg || !s.pred || o.Neg || o.Comp != "" {
		return 0, d.errorf(o.Pos, "expected a predicate register")
	}
	return s.slot, nil
}

// psrc gives the slot of a source predicate; !p and constants go through a temporary.
func (d *decoder) psrc(o *ptx.Operand) (int32, error) {
	if o.Kind == ptx.Imm {
		t := d.newPred()
		v := o.Int
		d.emit(inst{guard: -1, d: -1, p: t, imm: v, run: runPredConst})
		return t, nil
	}
	var s *symbol
	if o.Kind == ptx.Sym {
		s = d.lookup(o.Name)
	}
	if s == nil && o.Kind == ptx.Sym && o.Name == "%is_explicit_cluster" {
		t, neg := d.newPred(), o.Neg
		d.emit(inst{guard: -1, p: t, run: func(w *warp, in *inst, m uint32) {
			setPred(w.fr, in.p, m, w.g.explicit != neg)
		}})
		return t, nil
	}
	if s == nil || !s.reg || !s.pred || o.Comp != "" {
		return 0, d.errorf(o.Pos, "expected a predicate")
	}
	if o.Neg {
		t := d.newPred()
		d.emit(inst{guard: -1, p: t, s: s.slot, run: runPredNot})
		return t, nil
	}
	return s.slot, nil
}

// inst decodes one instruction.
func (d *decoder) inst(src *ptx.Inst) error {
	d.in = src
	op := opTable[src.Op]
	if op == nil {
		return notSupported(src.Pos, "instruction %s is not supported by the interpreter", src.Op)
	}
	guard := int32(-1)
	if src.Pred != "" {
		s := d.lookup(src.Pred)
		if s == nil || !s.reg || !s.pred {
			return d.errorf(src.Pos, "guard %s is not a predicate register", src.Pred)
		}
		guard = s.slot
	}
	src, err := d.elements(src)
	if err != nil {
		return err
	}
	m := &mods{d: d, list: src.Mods}
	start := len(d.fn.code)
	if err := op.decode(d, m, src); err != nil {
		// A modifier that nobody knows explains the error better, and
		// concerns this function only.
		if _, ok := err.(*unsupported); !ok {
			if rest := m.rest(); rest != nil {
				return rest
			}
		}
		return err
	}
	if err := m.rest(); err != nil {
		return err
	}
	// Only the last instruction carries the guard: those before it prepare
	// temporaries, which nobody else reads.
	if n := len(d.fn.code); n > start {
		for i := n - 1; i < n; i++ {
			d.fn.code[i].guard, d.fn.code[i].gneg = guard, src.PNeg
		}
	}
	return nil
}

// mods hands out an instruction's modifiers; what is left over is an error.
type mods struct {
	d    *decoder
	list []string
	used uint32
}

// flag tells whether a modifier is there, and uses it.
func (m *mods) flag(name string) bool {
	for i, s := range m.list {
		if s == name && m.used>>i&1 == 0 {
			m.used |= 1 << i
			return true
		}
	}
	return false
}

// oneOf gives the first modifier that is among opts, or "".
func (m *mods) oneOf(opts ...string) string {
	for i, s := range m.list {
		if m.used>>i&1 != 0 {
			continue
		}
		for _, o := range opts {
			if s == o {
				m.used |= 1 << i
				return s
			}
		}
	}
	return ""
}

// typ gives the next type among the modifiers not yet used, tNone without.
func (m *mods) typ() typ {
	for i, s := range m.list {
		if t := typeByName[s]; t != tNone && m.used>>i&1 == 0 {
			m.used |= 1 << i
			return t
		}
	}
	return tNone
}

// typeOf is typ restricted to a list; any other type, or none, is an error.
func (m *mods) typeOf(ts ...typ) (typ, error) {
	t := m.typ()
	for _, x := range ts {
		if t == x {
			return t, nil
		}
	}
	return t, notSupported(m.d.in.Pos, "%s%s: type %s is not one that %s takes", m.d.in.Op, strings.Join(m.list, ""), t, m.d.in.Op)
}

func (m *mods) rest() error {
	for i, s := range m.list {
		if m.used>>i&1 == 0 {
			return notSupported(m.d.in.Pos, "%s%s: modifier %s is not supported by the interpreter", m.d.in.Op, strings.Join(m.list, ""), s)
		}
	}
	return nil
}

// args checks the number of operands.
func (d *decoder) args(in *ptx.Inst, low, high int) error {
	if n := len(in.Args); n < low || n > high {
		if low == high {
			return d.errorf(in.Pos, "%s has %d operands, expected %d", in.Op, n, low)
		}
		return d.errorf(in.Pos, "%s has %d operands, expected %d to %d", in.Op, n, low, high)
	}
	return nil
}
