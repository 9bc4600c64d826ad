package interp

import (
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Warp matrix", map[string]opInfo{
		"wmma": {forms: ".load .store .mma .sync.aligned, .row .col; m16n16k16 m8n32k16 m32n8k16 (f16, bf16, s8, u8; .satfinite), m16n16k8 (tf32), m8n8k4 (f64); accumulators f32, f16, s32, f64", decode: decWmma},
	})
}

var wmmaShapes = map[string][3]int{".m16n16k16": {16, 16, 16}, ".m8n32k16": {8, 32, 16}, ".m32n8k16": {32, 8, 16}, ".m16n16k8": {16, 16, 8}, ".m8n8k4": {8, 8, 4}}

// wmmaShape reads the shape, and tells whether a multiplicand of the type has it.
func wmmaShape(m *mods) (shape [3]int, fits func(t string) bool) {
	for s, n := range wmmaShapes {
		if m.flag(s) {
			shape = n
		}
	}
	return shape, func(t string) bool {
		switch shape[2] {
		case 16:
			return t == ".f16" || t == ".bf16" || t == ".s8" || t == ".u8"
		case 8:
			return t == ".tf32"
		}
		return shape[2] == 4 && t == ".f64"
	}
}

// fragment is a matrix over a warp's registers. Which lane holds which element is not specified (PTX ISA 9.7.14.4.1): here
// lane l holds rows·cols/32 elements from l·rows·cols/32 on, in the order of rows.
type fragment struct {
	rows, cols int
	bits       uint
	regs       []int32
}

// fragment decodes the registers of matrix a, b, c or d ('a'…'d') with elements of the type.
func (d *decoder) fragment(o *ptx.Operand, which byte, shape [3]int, t string, dst bool) (*fragment, error) {
	f := &fragment{rows: shape[0], cols: shape[1]}
	switch which {
	case 'a':
		f.cols = shape[2]
	case 'b':
		f.rows = shape[2]
	}
	rt := tB32
	switch t {
	case ".s32", ".f32":
		f.bits = 32
	default:
		f.bits = matTypes[t].bits
	}
	n := f.rows * f.cols / 32 * int(f.bits) / 32
	switch {
	case t == ".f64":
		n, rt = f.rows*f.cols/32, tF64
	case t == ".f16" && which < 'c':
		n = 8 // f16 multiplicands have room for twice what they hold
	}
	var err error
	f.regs, err = d.matSlots(o, n, rt, dst)
	return f, err
}

// at gives register, lane and first bit of element e.
func (f *fragment) at(e int) (reg int32, lane int, shift uint) {
	lanes := f.rows * f.cols / 32
	i := e % lanes
	if f.bits == 64 {
		return f.regs[i], e / lanes, 0
	}
	per := 32 / int(f.bits)
	return f.regs[i/per], e / lanes, uint(i%per) * f.bits
}

func (f *fragment) get(w *warp, r, c int) uint64 {
	reg, lane, shift := f.at(r*f.cols + c)
	return w.r[reg][lane] >> shift & (^uint64(0) >> (64 - f.bits))
}

func (f *fragment) set(w *warp, r, c int, v uint64) {
	reg, lane, shift := f.at(r*f.cols + c)
	mask := ^uint64(0) >> (64 - f.bits) << shift
	w.r[reg][lane] = w.r[reg][lane]&^mask | v<<shift&mask
}

func decWmma(d *decoder, m *mods, in *ptx.Inst) error {
	bad := func() error {
		return notSupported(in.Pos, "wmma%s is not supported by the interpreter", strings.Join(in.Mods, ""))
	}
	what := m.oneOf(".load", ".store", ".mma")
	if what == "" || !m.flag(".sync") || !m.flag(".aligned") {
		return bad()
	}
	if what == ".mma" {
		return decWmmaMma(d, m, in, bad)
	}
	which := m.oneOf(".a", ".b", ".c", ".d")
	row := m.oneOf(".row", ".col") == ".row"
	shape, fits := wmmaShape(m)
	spcName := m.oneOf(".global", ".shared", ".shared::cta")
	t := m.oneOf(".f16", ".bf16", ".tf32", ".f32", ".s8", ".u8", ".s32", ".f64")
	store := what == ".store"
	acc := which == ".c" || which == ".d"
	if store != (which == ".d") || which == "" || shape[0] == 0 || t == "" || acc && t != ".f16" && t != ".f32" && t != ".s32" && t != ".f64" || !acc && !fits(t) {
		return bad()
	}
	if err := d.args(in, 2, 3); err != nil {
		return err
	}
	data, addr := &in.Args[0], &in.Args[1]
	if store {
		data, addr = addr, data
	}
	f, err := d.fragment(data, which[1], shape, t, !store)
	if err != nil {
		return err
	}
	spc, base, off, narrow, err := d.address(addr, spcName)
	if err != nil {
		return err
	}
	x := inst{guard: -1, kind: kSync, e: d.imm(0xffffffff), a: base, b: -1}
	if len(in.Args) == 3 {
		if x.b, err = d.src(&in.Args[2], tU32, false); err != nil {
			return err
		}
	}
	mo, size := &memOp{off: off, narrow: narrow}, int(f.bits/8)
	x.run = func(w *warp, in *inst, m uint32) {
		if m != ^uint32(0) {
			w.fault(IllegalInstruction, in, m, 0, "wmma needs all 32 threads of a full warp")
			return
		}
		at := mo.addr(w.r[in.a][0]) // all lanes give the same
		stride := uint64(f.cols)
		if !row {
			stride = uint64(f.rows)
		}
		if in.b >= 0 {
			stride = w.r[in.b][0]
		}
		for r := range f.rows {
			for c := range f.cols {
				e := uint64(r)*stride + uint64(c)
				if !row {
					e = uint64(c)*stride + uint64(r)
				}
				p := w.at(in, spc, 0, at+e*uint64(size), size, store)
				if p == nil {
					return
				}
				if store {
					storeAt(p, size, f.get(w, r, c))
				} else {
					f.set(w, r, c, loadAt(p, size))
				}
			}
		}
	}
	d.emit(x)
	return nil
}

// decWmmaMma is wmma.mma: the arithmetic of mma.sync on whole matrices.
func decWmmaMma(d *decoder, m *mods, in *ptx.Inst, bad func() error) error {
	m.oneOf(".row", ".col") // the fragments are loaded by then
	m.oneOf(".row", ".col")
	shape, fits := wmmaShape(m)
	sat := m.flag(".satfinite")
	m.flag(".rn")
	var ts []string
	for i, s := range in.Mods {
		if m.used>>i&1 == 0 && (matTypes[s].bits > 0 || s == ".f32" || s == ".s32") {
			ts = append(ts, s)
			m.used |= 1 << i
		}
	}
	if len(ts) == 2 { // f16 multiplicands: only the types of D and C
		ts = []string{ts[0], ".f16", ".f16", ts[1]}
	}
	if len(ts) != 4 || !fits(ts[1]) || matTypes[ts[1]].bits != matTypes[ts[2]].bits || (matTypes[ts[1]].get == nil) != (matTypes[ts[2]].get == nil) {
		return bad()
	}
	op := &mmaOp{M: shape[0], N: shape[1], K: shape[2], a: matTypes[ts[1]], b: matTypes[ts[2]], ct: typeByName[ts[3]], sat: sat}
	dt := typeByName[ts[0]]
	switch {
	case ts[1] == ".f16" && (dt == tF32 || dt == tF16) && (op.ct == tF32 || op.ct == tF16):
	case (ts[1] == ".bf16" || ts[1] == ".tf32") && dt == tF32 && op.ct == tF32, op.a.get == nil && dt == tS32 && op.ct == tS32, ts[1] == ".f64" && dt == tF64 && op.ct == tF64:
	default:
		return bad()
	}
	if err := d.args(in, 4, 4); err != nil {
		return err
	}
	var fr [4]*fragment
	for i, which := range []byte("dabc") {
		var err error
		if fr[i], err = d.fragment(&in.Args[i], which, shape, ts[i], i == 0); err != nil {
			return err
		}
	}
	d.emit(inst{guard: -1, kind: kSync, e: d.imm(0xffffffff), run: func(w *warp, in *inst, m uint32) {
		if bits.OnesCount32(m) != 32 {
			w.fault(IllegalInstruction, in, m, 0, "wmma needs all 32 threads of a full warp")
			return
		}
		var a, b [32][32]uint64 // rows of A, columns of B
		var af, bf [32][32]float64
		for k := range op.K {
			for i := range op.M {
				a[i][k] = fr[1].get(w, i, k)
				if op.a.get != nil {
					af[i][k] = op.a.get(a[i][k])
				}
			}
			for j := range op.N {
				b[j][k] = fr[2].get(w, k, j)
				if op.b.get != nil {
					bf[j][k] = op.b.get(b[j][k])
				}
			}
		}
		var out [32][32]uint64 // D may share registers with C
		for i := range op.M {
			for j := range op.N {
				c := fr[3].get(w, i, j)
				switch { // one rounding, to the type of D
				case dt == tF32 && op.ct == tF16:
					c = b32(float32(fmtToF64(uint32(c), fmtF16)))
					out[i][j] = op.as(tF32).cell(&a[i], &b[j], &af[i], &bf[j], c)
				case dt == tF16 && op.ct == tF32:
					sum := float64(f32(c))
					for k := range op.K {
						sum += af[i][k] * bf[j][k]
					}
					out[i][j] = uint64(f64ToFmt(sum, fmtF16, rn))
				default:
					out[i][j] = op.cell(&a[i], &b[j], &af[i], &bf[j], c)
				}
			}
		}
		for i := range op.M {
			for j := range op.N {
				fr[0].set(w, i, j, out[i][j])
			}
		}
	}})
	return nil
}

// as is the operation with another accumulator type.
func (o *mmaOp) as(t typ) *mmaOp {
	c := *o
	c.ct = t
	return &c
}
