package interp

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Warp matrix", map[string]opInfo{
		"mma":       {forms: ".sync.aligned .row.col; m16n8k8 m16n8k16 (f16, bf16), m16n8k4 m16n8k8 (tf32), m16n8k16 m16n8k32 m8n8k16 (s8, u8; .satfinite), m16n8k16 m16n8k32 (e4m3, e5m2), m8n8k4 m16n8k4 m16n8k8 m16n8k16 (f64); accumulators f32, f16, s32, f64", decode: decMma},
		"ldmatrix":  {forms: ".sync.aligned.m8n8 .x1 .x2 .x4 .trans .shared .b16", decode: decLdmatrix},
		"stmatrix":  {forms: ".sync.aligned.m8n8 .x1 .x2 .x4 .trans .shared .b16", decode: decLdmatrix},
		"movmatrix": {forms: ".sync.aligned.m8n8.trans.b16", decode: decMovmatrix},
	})
}

// matType is an element type of a multiplicand.
type matType struct {
	bits   uint
	signed bool
	get    func(v uint64) float64 // nil for integers
}

var matTypes = map[string]matType{
	".f16":  {16, false, func(v uint64) float64 { return fmtToF64(uint32(v), fmtF16) }},
	".bf16": {16, false, func(v uint64) float64 { return fmtToF64(uint32(v), fmtBF16) }},
	".tf32": {32, false, func(v uint64) float64 { return float64(f32(v &^ 0x1fff)) }}, // the low 13 bits do not count
	".e4m3": {8, false, func(v uint64) float64 { return fmtToF64(uint32(v), fmtE4M3) }},
	".e5m2": {8, false, func(v uint64) float64 { return fmtToF64(uint32(v), fmtE5M2) }},
	".f64":  {64, false, f64},
	".s8":   {8, true, nil},
	".u8":   {8, false, nil},
}

var mmaShapes = map[string]string{ // shape → multiplicand types
	".m16n8k4": ".tf32 .f64", ".m16n8k8": ".f16 .bf16 .tf32 .f64", ".m16n8k16": ".f16 .bf16 .s8 .u8 .e4m3 .e5m2 .f64", ".m16n8k32": ".s8 .u8 .e4m3 .e5m2",
	".m8n8k16": ".s8 .u8", ".m8n8k4": ".f64",
}

// matSlots decodes a vector of n registers of type t.
func (d *decoder) matSlots(o *ptx.Operand, n int, t typ, dst bool) ([]int32, error) {
	elems := []ptx.Operand{*o}
	if o.Kind == ptx.Vec {
		elems = o.Elems
	}
	if len(elems) != n {
		return nil, d.errorf(o.Pos, "%s: %d registers, expected %d", d.in.Op, len(elems), n)
	}
	out := make([]int32, n)
	var err error
	for i := range elems {
		if dst {
			out[i], _, err = d.dst(&elems[i], t, false)
			out[i] = d.orTemp(out[i])
		} else {
			out[i], err = d.src(&elems[i], t, false)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// decMma is mma.sync (PTX ISA 9.7.14.5). Products are exact and the sum is
// rounded once to the accumulator's type: the ISA leaves the order and the
// precision of the additions open (for f64 each step is a fused multiply-add).
func decMma(d *decoder, m *mods, in *ptx.Inst) error {
	if !m.flag(".sync") || !m.flag(".aligned") {
		return notSupported(in.Pos, "mma without .sync.aligned")
	}
	var shape string
	for s := range mmaShapes {
		if m.flag(s) {
			shape = s
		}
	}
	row, col := m.flag(".row"), m.flag(".col")
	sat := m.flag(".satfinite")
	m.flag(".rn")
	// Four types: d, a, b, c.
	var ts []string
	for i, s := range in.Mods {
		if m.used>>i&1 == 0 && (matTypes[s].bits > 0 || s == ".f32" || s == ".s32") {
			ts = append(ts, s)
			m.used |= 1 << i
		}
	}
	bad := func() error {
		return notSupported(in.Pos, "mma%s is not supported by the interpreter", strings.Join(in.Mods, ""))
	}
	if shape == "" || !row || !col || len(ts) != 4 {
		return bad()
	}
	a, b := matTypes[ts[1]], matTypes[ts[2]]
	if !strings.Contains(mmaShapes[shape]+" ", ts[1]+" ") || a.bits == 0 || a.bits != b.bits || (a.get == nil) != (b.get == nil) || ts[0] != ts[3] {
		return bad()
	}
	var M, N, K int
	rest := shape[2:]
	for i, p := range []*int{&M, &N, &K} {
		cut := strings.IndexAny(rest, "nk")
		if i == 2 || cut < 0 {
			cut = len(rest)
		}
		*p, _ = strconv.Atoi(rest[:cut])
		rest = strings.TrimLeft(rest[cut:], "nk")
	}
	ct := typeByName[ts[0]]
	switch {
	case a.get == nil && ct != tS32, ts[1] == ".f64" && ct != tF64, a.get != nil && ts[1] != ".f64" && ct != tF32 && !(ct == tF16 && (ts[1] == ".f16" || a.bits == 8)):
		return bad()
	}
	if err := d.args(in, 4, 4); err != nil {
		return err
	}
	per := max(1, int(32/a.bits)) // elements of a register
	na, nb, nc := M*K/32/per, K*N/32/per, M*N/32
	rt := tB32
	if a.bits == 64 {
		rt = tF64
	}
	cr := ct
	if ct == tF16 {
		nc, cr = nc/2, tB32
	}
	dr, err := d.matSlots(&in.Args[0], nc, cr, true)
	if err != nil {
		return err
	}
	ar, err := d.matSlots(&in.Args[1], na, rt, false)
	if err != nil {
		return err
	}
	br, err := d.matSlots(&in.Args[2], nb, rt, false)
	if err != nil {
		return err
	}
	cs, err := d.matSlots(&in.Args[3], nc, cr, false)
	if err != nil {
		return err
	}
	op := &mmaOp{M: M, N: N, K: K, per: per, a: a, b: b, ct: ct, sat: sat, ar: ar, br: br, cr: cs, dr: dr}
	d.emit(inst{guard: -1, kind: kSync, e: d.imm(0xffffffff), run: op.run})
	return nil
}

type mmaOp struct {
	M, N, K, per   int
	a, b           matType
	ct             typ
	sat            bool
	ar, br, cr, dr []int32
}

// run gathers the fragments, multiplies and scatters. Lane l has group l/4 and
// place l%4; register r of A holds row group+8·(r odd), columns per·place… plus
// 4·per for the upper registers; B the same without the odd rows.
func (o *mmaOp) run(w *warp, in *inst, m uint32) {
	if m != ^uint32(0) {
		w.fault(IllegalInstruction, in, m, 0, "mma.sync needs all 32 threads of a full warp")
		return
	}
	var a [16][32]uint64
	var b [8][32]uint64 // by columns
	mask := ^uint64(0) >> (64 - o.a.bits)
	for l := 0; l < 32; l++ {
		g, t := l>>2, l&3
		for r, s := range o.ar {
			v := w.r[s][l]
			for j := 0; j < o.per; j++ {
				a[g+8*(r&1)][t*o.per+j+(r>>1)*4*o.per] = v >> (uint(j) * o.a.bits) & mask
			}
		}
		for r, s := range o.br {
			v := w.r[s][l]
			for j := 0; j < o.per; j++ {
				b[g][t*o.per+j+r*4*o.per] = v >> (uint(j) * o.a.bits) & mask
			}
		}
	}
	var af [16][32]float64
	var bf [8][32]float64
	if o.a.get != nil {
		for i := 0; i < o.M; i++ {
			for k := 0; k < o.K; k++ {
				af[i][k] = o.a.get(a[i][k])
			}
		}
		for j := 0; j < o.N; j++ {
			for k := 0; k < o.K; k++ {
				bf[j][k] = o.b.get(b[j][k])
			}
		}
	}
	one := func(i, j int, c uint64) uint64 { return o.cell(&a[i], &b[j], &af[i], &bf[j], c) }
	var out [4]lanes
	for l := 0; l < 32; l++ {
		g, t := l>>2, l&3
		for r, s := range o.cr {
			c := w.r[s][l]
			if o.ct == tF16 {
				out[r][l] = one(g+8*r, t*2, c&0xffff) | one(g+8*r, t*2+1, c>>16)<<16
			} else {
				out[r][l] = one(g+8*(r>>1), t*2+r&1, c)
			}
		}
	}
	for r, s := range o.dr {
		w.r[s] = out[r]
	}
}

// cell gives one element of the result: c plus the product of a row of A and a column of B, both as bits and, for
// floating-point types, as numbers.
func (o *mmaOp) cell(a, b *[32]uint64, af, bf *[32]float64, c uint64) uint64 {
	switch o.ct {
	case tS32:
		sum := int64(int32(c))
		for k := 0; k < o.K; k++ {
			x, y := int64(a[k]), int64(b[k])
			if o.a.signed {
				x = sext(a[k], 8)
			}
			if o.b.signed {
				y = sext(b[k], 8)
			}
			sum += x * y
		}
		if o.sat {
			sum = clamp(sum, math.MinInt32, math.MaxInt32)
		}
		return uint64(uint32(sum))
	case tF64:
		acc := f64(c)
		for k := 0; k < o.K; k++ {
			acc = math.FMA(af[k], bf[k], acc)
		}
		return b64(acc)
	}
	sum := widenFloat(o.ct, false)(c)
	for k := 0; k < o.K; k++ {
		sum += af[k] * bf[k]
	}
	if o.ct == tF16 {
		return uint64(f64ToFmt(sum, fmtF16, rn))
	}
	return b32(float32(sum))
}

// decLdmatrix is ldmatrix and stmatrix of 8×8 matrices of 16-bit elements:
// lanes 8i…8i+7 give the addresses of matrix i's rows.
func decLdmatrix(d *decoder, m *mods, in *ptx.Inst) error {
	bad := func() error {
		return notSupported(in.Pos, "%s%s is not supported by the interpreter", in.Op, strings.Join(in.Mods, ""))
	}
	if !m.flag(".sync") || !m.flag(".aligned") || !m.flag(".m8n8") {
		return bad()
	}
	n := map[string]int{".x1": 1, ".x2": 2, ".x4": 4}[m.oneOf(".x1", ".x2", ".x4")]
	trans := m.flag(".trans")
	spcName := m.oneOf(".shared", ".shared::cta")
	if n == 0 || !m.flag(".b16") {
		return bad()
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	store := in.Op == "stmatrix"
	addr, data := &in.Args[1], &in.Args[0]
	if store {
		addr, data = data, addr
	}
	spc, base, off, narrow, err := d.address(addr, spcName)
	if err != nil {
		return err
	}
	regs, err := d.matSlots(data, n, tB32, !store)
	if err != nil {
		return err
	}
	mo := &memOp{off: off, narrow: narrow}
	d.emit(inst{guard: -1, kind: kSync, e: d.imm(0xffffffff), a: base, table: regs, run: func(w *warp, in *inst, m uint32) {
		if m != ^uint32(0) {
			w.fault(IllegalInstruction, in, m, 0, "matrix loads and stores need all 32 threads of a full warp")
			return
		}
		addrs := w.r[in.a] // a copy: a destination may hold the address
		for i, s := range in.table {
			for r := 0; r < 8; r++ {
				p := w.at(in, spc, i*8+r, mo.addr(addrs[i*8+r]), 16, store)
				if p == nil {
					return
				}
				for c := 0; c < 8; c++ {
					lane, half := r*4+c/2, c&1
					if trans {
						lane, half = c*4+r/2, r&1
					}
					reg := &w.r[s][lane]
					sh := uint(half) * 16
					if store {
						storeElem16(p, c, *reg>>sh)
					} else {
						*reg = *reg&^(0xffff<<sh) | loadElem16(p, c)<<sh
					}
				}
			}
		}
	}})
	return nil
}

func decMovmatrix(d *decoder, m *mods, in *ptx.Inst) error {
	for _, f := range []string{".sync", ".aligned", ".m8n8", ".trans", ".b16"} {
		if !m.flag(f) {
			return notSupported(in.Pos, "movmatrix%s is not supported by the interpreter", strings.Join(in.Mods, ""))
		}
	}
	if err := d.args(in, 2, 2); err != nil {
		return err
	}
	s, err := d.src(&in.Args[1], tB32, false)
	if err != nil {
		return err
	}
	dst, _, err := d.dst(&in.Args[0], tB32, false)
	if err != nil {
		return err
	}
	d.emit(inst{guard: -1, kind: kSync, e: d.imm(0xffffffff), d: d.orTemp(dst), a: s, run: func(w *warp, in *inst, m uint32) {
		src := w.r[in.a]
		for q := m; q != 0; q &= q - 1 {
			l := bits.TrailingZeros32(q)
			var v uint64
			for j := 0; j < 2; j++ { // element (row l/4, column 2·(l%4)+j) comes from (column, row)
				r, c := l&3*2+j, l>>2
				v |= src[r*4+c/2] >> (uint(c&1) * 16) & 0xffff << (uint(j) * 16)
			}
			w.r[in.d][l] = v
		}
	}})
	return nil
}
