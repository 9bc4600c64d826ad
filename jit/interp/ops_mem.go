package interp

import (
	"math"
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	const sp = ".const .global .local .param{::entry,::func} .shared{::cta,::cluster} generic"
	const ord = ".weak .relaxed .acquire .release .acq_rel .volatile, scopes, .mmio"
	register("Memory", map[string]opInfo{
		"ld":            {forms: sp + "; " + ord + "; cache operators and hints, .nc; .v2 .v4 .v8; all types, .b128 as two halves", decode: decLd},
		"ldu":           {forms: ".global; .v2 .v4", decode: decLd},
		"st":            {forms: sp + "; " + ord + "; cache operators and hints; .v2 .v4 .v8; all types, .b128 as two halves; .async .bulk", decode: decSt},
		"atom":          {forms: ".and .or .xor .cas .exch .add .inc .dec .min .max; .noftz; .b16 .b32 .b64 .u32 .u64 .s32 .s64 .f32 .f64 .f16 .bf16 .f16x2 .bf16x2; .v2 .v4 .v8", decode: decAtom},
		"red":           {forms: ".and .or .xor .add .inc .dec .min .max; the types of atom; .async", decode: decAtom},
		"cvta":          {forms: "{.to}.const .global .local .shared{::cta,::cluster} .param{::entry}; .u32 .u64", decode: decCvta},
		"mapa":          {forms: "{.shared::cluster}; .u32 .u64", decode: decMapa},
		"getctarank":    {forms: "{.shared::cluster}; .u32 .u64", decode: decGetctarank},
		"prefetch":      {forms: "all (no effect)", decode: decIgnore},
		"prefetchu":     {forms: "all (no effect)", decode: decIgnore},
		"applypriority": {forms: "all (no effect)", decode: decIgnore},
		"discard":       {forms: "all (no effect)", decode: decIgnore},
		"createpolicy":  {forms: "all (gives zero)", decode: decPolicy},
		"fence":         {forms: "all (execution is sequentially consistent)", decode: decIgnore},
		"membar":        {forms: "all (execution is sequentially consistent)", decode: decIgnore},
		"cp":            {forms: ".async{.ca,.cg}.shared.global with sizes, ignore-src, .commit_group .wait_group .wait_all, .mbarrier.arrive, .bulk between .global and .shared, .bulk.tensor tiled from a tensor map of the software GPU, .reduce of both (tensors: .and .or .xor) (all done at once)", decode: decCp},
		"alloca":        {forms: ".u32 .u64", decode: decAlloca},
		"stacksave":     {forms: ".u32 .u64", decode: decStack},
		"stackrestore":  {forms: ".u32 .u64", decode: decStack},
	})
}

// memSpace reads the state space among the modifiers.
func memSpace(m *mods) string {
	return m.oneOf(".const", ".global", ".local", ".param", ".param::entry", ".param::func", ".shared", ".shared::cta", ".shared::cluster")
}

var memSpaces = map[string]space{"": spcGeneric, ".const": spcGlobal, ".global": spcGlobal, ".local": spcLocal,
	".shared": spcShared, ".shared::cta": spcShared, ".shared::cluster": spcClShared}

// memMods uses up ordering, scope and cache modifiers, and tells whether the
// access must be single-copy atomic.
func memMods(m *mods) (strong bool) {
	strong = m.flag(".mmio")
	if m.oneOf(".relaxed", ".acquire", ".release", ".acq_rel", ".volatile", ".sc") != "" {
		strong = true
	}
	m.oneOf(".weak")
	m.oneOf(".cta", ".cluster", ".gpu", ".sys")
	for m.oneOf(".ca", ".cg", ".cs", ".lu", ".cv", ".wb", ".wt", ".nc",
		".L1::evict_normal", ".L1::evict_unchanged", ".L1::evict_first", ".L1::evict_last", ".L1::no_allocate",
		".L2::evict_normal", ".L2::evict_first", ".L2::evict_last",
		".L2::64B", ".L2::128B", ".L2::256B", ".L2::cache_hint", ".level::eviction_priority", ".unified") != "" {
	}
	return strong
}

// address decodes [base+off] in a space; spc comes back changed for parameters.
func (d *decoder) address(o *ptx.Operand, spcName string) (spc space, base int32, off int64, narrow bool, err error) {
	fail := func(e error) (space, int32, int64, bool, error) { return 0, 0, 0, false, e }
	if o.Kind != ptx.Addr || len(o.Elems) != 1 {
		return fail(d.errorf(o.Pos, "expected an address in brackets"))
	}
	e := &o.Elems[0]
	param := strings.HasPrefix(spcName, ".param")
	if param {
		spc = spcParamFrame
		if d.fn.src.Entry {
			spc = spcParamEntry
		}
		if spcName == ".param::func" {
			spc = spcParamFrame
		}
	} else {
		spc = memSpaces[spcName]
	}
	switch e.Kind {
	case ptx.Imm:
		return spc, d.imm(0), e.Int, false, nil
	case ptx.Sym:
	default:
		return fail(d.errorf(e.Pos, "address: expected a register, a variable or a constant"))
	}
	if e.Neg {
		return fail(d.errorf(e.Pos, "address cannot be negated"))
	}
	if s := d.lookup(e.Name); s != nil {
		if !s.reg {
			if param {
				if s.v.Space != ".param" {
					return fail(d.errorf(e.Pos, "%s is not a parameter", e.Name))
				}
				spc = spcParamFrame
				if s.entry {
					spc = spcParamEntry
				}
				if e.OffReg != "" {
					return fail(d.errorf(e.Pos, "%s+%s: a register offset is only possible behind a register", e.Name, e.OffReg))
				}
				return spc, d.imm(0), int64(s.off) + e.Off, false, nil
			}
			base, off, err := d.addrOfLocal(e, s)
			return spc, base, off, false, err
		}
		if s.pred || s.bits < 32 {
			return fail(d.errorf(e.Pos, "%s is not an address register", e.Name))
		}
		plain := *e
		plain.Off, plain.OffReg = 0, ""
		slot, err := d.regSlot(&plain, s)
		if err != nil {
			return fail(err)
		}
		if e.OffReg != "" {
			r := d.lookup(e.OffReg)
			if r == nil || !r.reg || r.pred {
				return fail(d.errorf(e.Pos, "%s is not a register", e.OffReg))
			}
			t := d.temp()
			d.emit(inst{guard: -1, run: runAdd64, d: t, a: slot, b: r.slot})
			slot = t
		}
		return spc, slot, e.Off, s.bits == 32, nil
	}
	if strings.HasPrefix(e.Name, "%") {
		plain := *e
		plain.Off = 0
		slot, err := d.specialSrc(&plain, tU32)
		return spc, slot, e.Off, true, err
	}
	k, off, err := d.moduleSym(e)
	if err != nil {
		return fail(err)
	}
	return spc, d.constant(k), off, false, nil
}

// memType reads .v2 and the element type.
func memType(m *mods) (t typ, n int, err error) {
	if m.flag(".b128") {
		return tB128, 1, nil
	}
	n = map[string]int{"": 1, ".v2": 2, ".v4": 4, ".v8": 8}[m.oneOf(".v2", ".v4", ".v8")]
	t, err = m.typeOf(tB8, tB16, tB32, tB64, tU8, tU16, tU32, tU64, tS8, tS16, tS32, tS64, tF32, tF64, tF16, tBF16, tF16x2, tBF16x2)
	return t, n, err
}

func decLd(d *decoder, m *mods, in *ptx.Inst) error {
	spcName := memSpace(m)
	strong := memMods(m)
	t, n, err := memType(m)
	if err != nil {
		return err
	}
	if err := d.args(in, 2, 3); err != nil { // the third is a cache policy
		return err
	}
	spc, base, off, narrow, err := d.address(&in.Args[1], spcName)
	if err != nil {
		return err
	}
	mo := &memOp{spc: spc, size: t.size(), n: n, signed: t.signed(), atomic: strong, off: off, narrow: narrow}
	if t == tB128 {
		half, err := d.wide(&in.Args[0])
		if err != nil {
			return err
		}
		mo.size, mo.n, mo.mask[0], mo.mask[1] = 8, 2, ^uint64(0), ^uint64(0)
		copy(mo.regs[:], half)
		d.emit(inst{guard: -1, run: runLd, a: base, mem: mo})
		return nil
	}
	elems := d.parts(&in.Args[0])
	if len(elems) != n {
		return d.errorf(in.Args[0].Pos, "%d destinations, expected %d", len(elems), n)
	}
	for i := range elems {
		slot, width, err := d.dst(&elems[i], t, true)
		if err != nil {
			return err
		}
		mo.regs[i], mo.mask[i] = slot, ^uint64(0)>>(64-min(width, 64))
	}
	x := inst{guard: -1, run: runLd, a: base, mem: mo}
	switch {
	case spc == spcParamEntry && in.Args[1].Elems[0].Kind == ptx.Sym && d.isEntryParam(in.Args[1].Elems[0].Name):
		x.run = runLdUniform
	case spc == spcGlobal && mo.size == 4 && n == 1 && !strong && !mo.signed && !narrow && mo.regs[0] >= 0,
		spc == spcGlobal && t == tS32 && n == 1 && !strong && !narrow && mo.regs[0] >= 0 && mo.mask[0] == 0xffffffff:
		x.run = runLdGlobal32
	}
	d.emit(x)
	return nil
}

func (d *decoder) isEntryParam(name string) bool {
	s := d.lookup(name)
	return s != nil && s.entry
}

func decSt(d *decoder, m *mods, in *ptx.Inst) error {
	switch m.oneOf(".async", ".bulk") {
	case ".async":
		return decStAsync(d, m, in)
	case ".bulk":
		return decStBulk(d, m, in)
	}
	spcName := memSpace(m)
	strong := memMods(m)
	t, n, err := memType(m)
	if err != nil {
		return err
	}
	if err := d.args(in, 2, 3); err != nil {
		return err
	}
	spc, base, off, narrow, err := d.address(&in.Args[0], spcName)
	if err != nil {
		return err
	}
	mo := &memOp{spc: spc, size: t.size(), n: n, atomic: strong, off: off, narrow: narrow}
	if t == tB128 {
		half, err := d.wide(&in.Args[1])
		if err != nil {
			return err
		}
		if half[0] < 0 {
			return d.errorf(in.Args[1].Pos, "_ is no source")
		}
		mo.size, mo.n = 8, 2
		copy(mo.regs[:], half)
		d.emit(inst{guard: -1, run: runSt, a: base, mem: mo})
		return nil
	}
	elems := d.parts(&in.Args[1])
	if len(elems) != n {
		return d.errorf(in.Args[1].Pos, "%d sources, expected %d", len(elems), n)
	}
	for i := range elems {
		if mo.regs[i], err = d.src(&elems[i], t, true); err != nil {
			return err
		}
	}
	d.emit(inst{guard: -1, run: runSt, a: base, mem: mo})
	return nil
}

// atomUpdate gives the new value from the old one and the operands.
func atomUpdate(op string, t typ) func(old, b, c uint64) uint64 {
	mask := t.mask()
	switch op {
	case ".and":
		return func(o, b, _ uint64) uint64 { return o & b }
	case ".or":
		return func(o, b, _ uint64) uint64 { return o | b }
	case ".xor":
		return func(o, b, _ uint64) uint64 { return o ^ b }
	case ".exch":
		return func(_, b, _ uint64) uint64 { return b & mask }
	case ".cas":
		return func(o, b, c uint64) uint64 {
			if o == b&mask {
				return c & mask
			}
			return o
		}
	case ".inc":
		return func(o, b, _ uint64) uint64 {
			if o >= b {
				return 0
			}
			return o + 1
		}
	case ".dec":
		return func(o, b, _ uint64) uint64 {
			if o == 0 || o > b {
				return b
			}
			return o - 1
		}
	case ".add":
		switch {
		case t == tF32:
			// On global memory atom.add.f32 flushes subnormals (PTX ISA
			// 9.7.12.3: "atom.add.f32 … flushes subnormal inputs and results to
			// sign-preserving zero on global memory"); the caller wraps that.
			return func(o, b, _ uint64) uint64 { return addF32(o, b, rn) }
		case t == tF64:
			return func(o, b, _ uint64) uint64 { return addF64(o, b, rn) }
		case t == tF16 || t == tBF16 || t == tF16x2 || t == tBF16x2:
			f := fopOf("add", t, fmods{})
			return func(o, b, _ uint64) uint64 { return f(o, b, 0) }
		}
		return func(o, b, _ uint64) uint64 { return (o + b) & mask }
	case ".min", ".max":
		isMin := op == ".min"
		switch {
		case t == tF16 || t == tBF16 || t == tF16x2 || t == tBF16x2:
			ft := formatOf(t)
			f := fminmax(isMin, false, false, 0x8000, uint64(1<<ft.ebits-1)<<ft.mbits, nan16)
			if t == tF16x2 || t == tBF16x2 {
				return func(o, b, _ uint64) uint64 { return f(o&0xffff, b&0xffff) | f(o>>16, b>>16)<<16 }
			}
			return func(o, b, _ uint64) uint64 { return f(o, b) }
		case t == tF32:
			f := fminmax(isMin, false, false, 1<<31, 0x7f800000, nan32)
			return func(o, b, _ uint64) uint64 { return f(o, b) }
		}
		return func(o, b, _ uint64) uint64 {
			less := o < b
			if t.signed() {
				less = int64(t.widen(o)) < int64(t.widen(b))
			}
			if less == isMin {
				return o
			}
			return b & mask
		}
	}
	return nil
}

var atomTypes = map[string][]typ{
	".and": {tB32, tB64, tU32, tS32, tU64, tS64}, ".or": {tB32, tB64, tU32, tS32, tU64, tS64}, ".xor": {tB32, tB64, tU32, tS32, tU64, tS64},
	".exch": {tB32, tB64, tU32, tU64, tS32, tS64, tF32}, ".cas": {tB16, tB32, tB64, tU32, tU64, tS32, tS64, tU16},
	".inc": {tU32}, ".dec": {tU32},
	".add": {tU32, tU64, tS32, tS64, tF32, tF64, tF16, tBF16, tF16x2, tBF16x2},
	".min": {tU32, tU64, tS32, tS64, tF32, tF16, tBF16, tF16x2, tBF16x2}, ".max": {tU32, tU64, tS32, tS64, tF32, tF16, tBF16, tF16x2, tBF16x2},
}

func decAtom(d *decoder, m *mods, in *ptx.Inst) error {
	spcName := memSpace(m)
	if m.flag(".async") {
		return decRedAsync(d, m, in, spcName)
	}
	memMods(m)
	m.flag(".noftz")
	n := map[string]int{"": 1, ".v2": 2, ".v4": 4, ".v8": 8}[m.oneOf(".v2", ".v4", ".v8")]
	op := m.oneOf(".and", ".or", ".xor", ".cas", ".exch", ".add", ".inc", ".dec", ".min", ".max")
	if op == "" {
		return d.errorf(in.Pos, "%s wants an operation such as .add", in.Op)
	}
	t, err := m.typeOf(atomTypes[op]...)
	if err != nil {
		return err
	}
	args := in.Args
	mo := &memOp{size: t.size(), n: n, upd: atomUpdate(op, t)}
	for i := range mo.regs {
		mo.regs[i] = -1
	}
	var dsts []ptx.Operand
	if in.Op == "atom" {
		if len(args) < 1 {
			return d.errorf(in.Pos, "atom has no operands")
		}
		dsts = args[:1]
		if args[0].Kind == ptx.Vec {
			dsts = args[0].Elems
		}
		args = args[1:]
	}
	want := 2
	if op == ".cas" {
		want = 3
	}
	if len(args) != want && len(args) != want+1 { // a cache policy may follow
		return d.errorf(in.Pos, "%s%s has %d operands", in.Op, op, len(in.Args))
	}
	spc, base, off, narrow, err := d.address(&args[0], spcName)
	if err != nil {
		return err
	}
	mo.spc, mo.off, mo.narrow = spc, off, narrow
	if spc == spcLocal || spc == spcParamEntry || spc == spcParamFrame {
		return d.errorf(in.Pos, "%s works on global and shared memory", in.Op)
	}
	x := inst{guard: -1, run: runAtom, a: base, b: -1, c: -1, mem: mo}
	if n > 1 {
		if args[1].Kind != ptx.Vec || len(args[1].Elems) != n {
			return d.errorf(args[1].Pos, "expected a vector of %d", n)
		}
		for i := range args[1].Elems {
			s, err := d.src(&args[1].Elems[i], t, false)
			if err != nil {
				return err
			}
			x.table = append(x.table, s)
		}
	} else {
		if x.b, err = d.src(&args[1], t, false); err != nil {
			return err
		}
		if op == ".cas" {
			if x.c, err = d.src(&args[2], t, false); err != nil {
				return err
			}
		}
	}
	if in.Op == "atom" {
		if len(dsts) != n {
			return d.errorf(in.Pos, "%d destinations, expected %d", len(dsts), n)
		}
		for i := range dsts {
			if mo.regs[i], _, err = d.dst(&dsts[i], t, false); err != nil {
				return err
			}
		}
	}
	if op == ".add" && t == tF32 && (spc == spcGlobal || spc == spcGeneric) {
		// Flushing applies to global memory only: a generic access is sorted
		// out per lane.
		plain := mo.upd
		flush := func(o, b, c uint64) uint64 { return ftz32(plain(ftz32(o), ftz32(b), c)) }
		if spc == spcGlobal {
			mo.upd = flush
		} else {
			glob := *mo
			glob.upd = flush
			x.run = func(w *warp, in *inst, m uint32) {
				r := &w.r[in.a]
				var g uint32
				for q := m; q != 0; q &= q - 1 {
					l := bits.TrailingZeros32(q)
					if a := glob.addr(r[l]) & windowMask; a != SharedWindow {
						g |= 1 << l
					}
				}
				if s := m &^ g; s != 0 {
					runAtom(w, in, s)
				}
				if g != 0 && !w.dead {
					y := *in
					y.mem = &glob
					runAtom(w, &y, g)
				}
			}
		}
	}
	d.emit(x)
	return nil
}

// decIgnore accepts an instruction without effect on results.
func decIgnore(d *decoder, m *mods, in *ptx.Inst) error {
	m.used = math.MaxUint32
	return nil
}

func decPolicy(d *decoder, m *mods, in *ptx.Inst) error {
	m.used = math.MaxUint32
	if len(in.Args) == 0 {
		return d.errorf(in.Pos, "createpolicy has no operands")
	}
	dst, _, err := d.dst(&in.Args[0], tB64, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, run: runMov, d: d.orTemp(dst), a: d.imm(0)})
	return nil
}

// decCp is cp.async: copies at once, so that waiting is nothing.
func decCp(d *decoder, m *mods, in *ptx.Inst) error {
	if m.flag(".reduce") {
		return decCpReduce(d, m, in)
	}
	if !m.flag(".async") {
		return notSupported(in.Pos, "cp without .async")
	}
	if m.flag(".mbarrier") {
		return decCpMbar(d, m, in)
	}
	if m.flag(".bulk") {
		return decCpBulk(d, m, in)
	}
	if m.oneOf(".commit_group", ".wait_group", ".wait_all") != "" {
		return nil
	}
	memMods(m)
	dspc := m.oneOf(".shared", ".shared::cta")
	if dspc == "" || !m.flag(".global") {
		return notSupported(in.Pos, "cp.async other than from .global to .shared")
	}
	if err := d.args(in, 3, 5); err != nil {
		return err
	}
	ds, dbase, doff, dnarrow, err := d.address(&in.Args[0], dspc)
	if err != nil {
		return err
	}
	_, sbase, soff, _, err := d.address(&in.Args[1], ".global")
	if err != nil {
		return err
	}
	n := in.Args[2].Int
	if in.Args[2].Kind != ptx.Imm || n != 4 && n != 8 && n != 16 {
		return d.errorf(in.Args[2].Pos, "cp.async copies 4, 8 or 16 bytes")
	}
	size, ignore := int32(-1), int32(-1)
	if len(in.Args) > 3 {
		o := &in.Args[3]
		if s := d.lookup(o.Name); o.Kind == ptx.Sym && s != nil && s.pred {
			if ignore, err = d.psrc(o); err != nil {
				return err
			}
		} else if o.Kind == ptx.Imm || s != nil && s.bits == 32 {
			if size, err = d.src(o, tU32, false); err != nil {
				return err
			}
		}
	}
	to := &memOp{off: doff, narrow: dnarrow}
	d.emit(inst{guard: -1, a: dbase, b: sbase, c: size, s: ignore, run: func(w *warp, in *inst, m uint32) {
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			have := int(n)
			if in.c >= 0 {
				have = min(have, int(uint32(w.r[in.c][l])))
			}
			if in.s >= 0 && w.p[in.s]>>l&1 != 0 {
				have = 0
			}
			if !w.copyMem(in, l, ds, to.addr(w.r[in.a][l]), spcGlobal, w.r[in.b][l]+uint64(soff), int(n), have) {
				return
			}
		}
	}})
	return nil
}
