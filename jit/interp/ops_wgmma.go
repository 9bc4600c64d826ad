package interp

import (
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

func init() {
	register("Warpgroup matrix", map[string]opInfo{
		"wgmma": {forms: ".mma_async.sync.aligned.m64nNk8/k16/k32; f16, bf16 (transposes), tf32, e4m3, e5m2, s8, u8; A in registers or shared memory, all swizzles; f32, f16, s32 accumulators; .fence .commit_group .wait_group (done at once)", decode: decWgmma},
	})
}

// wgmmaOp is one wgmma.mma_async (PTX ISA 9.7.15.5). The four warps of a
// warpgroup share the operands, but each computes 16 of the 64 rows from them
// alone, so every warp executes its part when it comes by; the ISA asks the
// program for the fences that make this the same.
type wgmmaOp struct {
	N, K, per      int
	a, b           matType
	ct             typ
	sat            bool
	negA, negB     bool
	transA, transB bool
	adesc, bdesc   int32   // slots of descriptors; adesc -1 when A is in registers
	ar             []int32 // then its registers
	dr             []int32
	scaleD         int32 // predicate
}

// matDesc is a shared-memory matrix descriptor (PTX ISA 9.7.15.5.1).
type matDesc struct {
	start, lead, stride uint64 // bytes
	swizzle             uint   // exchanged bits: 0, 1 (32 B), 2 (64 B), 3 (128 B)
}

func readDesc(v uint64) matDesc {
	return matDesc{v & 0x3fff << 4, v >> 16 & 0x3fff << 4, v >> 32 & 0x3fff << 4, [4]uint{0, 3, 2, 1}[v>>62]}
}

// at gives the shared address of the element at place mn along M or N and k
// along K, of size bytes. The canonical layouts have rows of 16·2^swizzle bytes
// in groups of eight; without swizzling, blocks of 8 rows of 16 bytes.
func (s matDesc) at(mn, k, size int, mnMajor bool) uint64 {
	row := uint64(16) << s.swizzle
	var off uint64
	switch {
	case mnMajor && s.swizzle == 0:
		b := uint64(mn * size)
		off = b%16 + b/16*s.stride + uint64(k%8)*16 + uint64(k/8)*s.lead
	case mnMajor:
		b := uint64(mn * size)
		off = b%row + b/row*s.lead + uint64(k%8)*row + uint64(k/8)*s.stride
	case s.swizzle == 0:
		b := uint64(k * size)
		off = b%16 + b/16*s.lead + uint64(mn%8)*16 + uint64(mn/8)*s.stride
	default:
		off = uint64(k*size) + uint64(mn%8)*row + uint64(mn/8)*s.stride
	}
	a := s.start + off
	return a ^ a>>7&(1<<s.swizzle-1)<<4
}

func decWgmma(d *decoder, m *mods, in *ptx.Inst) error {
	op := m.oneOf(".mma_async", ".fence", ".commit_group", ".wait_group")
	if op != ".mma_async" && op != "" {
		return decIgnore(d, m, in)
	}
	bad := func() error {
		return notSupported(in.Pos, "wgmma%s is not supported by the interpreter", strings.Join(in.Mods, ""))
	}
	if op == "" || !m.flag(".sync") || !m.flag(".aligned") {
		return bad()
	}
	o := &wgmmaOp{adesc: -1}
	var ts []string
	for i, s := range in.Mods {
		if m.used>>i&1 != 0 {
			continue
		}
		if rest, ok := strings.CutPrefix(s, ".m64n"); ok {
			n, k, _ := strings.Cut(rest, "k")
			o.N, _ = strconv.Atoi(n)
			o.K, _ = strconv.Atoi(k)
			m.used |= 1 << i
		} else if matTypes[s].bits > 0 || s == ".f32" || s == ".s32" {
			ts = append(ts, s)
			m.used |= 1 << i
		}
	}
	o.sat = m.flag(".satfinite")
	if len(ts) != 3 || o.N < 8 || o.N > 256 || o.N%8 != 0 {
		return bad()
	}
	o.a, o.b, o.ct = matTypes[ts[1]], matTypes[ts[2]], typeByName[ts[0]]
	if o.a.bits == 0 || o.a.bits == 64 || o.a.bits != o.b.bits || o.K*int(o.a.bits) != 256 || (o.a.get == nil) != (o.b.get == nil) ||
		(o.a.get == nil) != (o.ct == tS32) || o.ct != tS32 && o.ct != tF32 && o.ct != tF16 {
		return bad()
	}
	o.per = int(32 / o.a.bits)
	// d, a, b, scale-d, then by type: scale-a, scale-b, trans-a, trans-b
	if err := d.args(in, 4, 8); err != nil {
		return err
	}
	nc, cr := o.N/2, o.ct
	if o.ct == tF16 {
		nc, cr = o.N/4, tB32
	}
	var err error
	if o.dr, err = d.matSlots(&in.Args[0], nc, cr, true); err != nil {
		return err
	}
	if in.Args[1].Kind == ptx.Vec {
		o.ar, err = d.matSlots(&in.Args[1], 4, tB32, false)
	} else {
		o.adesc, err = d.src(&in.Args[1], tB64, false)
	}
	if err != nil {
		return err
	}
	if o.bdesc, err = d.src(&in.Args[2], tB64, false); err != nil {
		return err
	}
	if o.scaleD, err = d.psrc(&in.Args[3]); err != nil {
		return err
	}
	imm := make([]int64, 0, 4)
	for i := 4; i < len(in.Args); i++ {
		if in.Args[i].Kind != ptx.Imm {
			return d.errorf(in.Args[i].Pos, "wgmma: expected a constant")
		}
		imm = append(imm, in.Args[i].Int)
	}
	if o.a.get != nil {
		if len(imm) < 2 {
			return d.errorf(in.Pos, "wgmma wants the scales of a and b")
		}
		o.negA, o.negB = imm[0] < 0, imm[1] < 0
		imm = imm[2:]
		if o.a.bits == 16 && len(imm) > 0 {
			o.transB = imm[len(imm)-1] != 0
			o.transA = o.adesc >= 0 && imm[0] != 0 && len(imm) == 2
		}
	}
	d.emit(inst{guard: -1, kind: kSync, e: d.imm(0xffffffff), run: o.run})
	return nil
}

// load reads one element of an operand in shared memory.
func (o *wgmmaOp) load(w *warp, in *inst, s matDesc, mn, k int, t matType, trans bool) (uint64, bool) {
	size := int(t.bits / 8)
	p := w.at(in, spcShared, 0, s.at(mn, k, size, trans), size, false)
	if p == nil {
		return 0, false
	}
	return loadAt(p, size), true
}

func (o *wgmmaOp) run(w *warp, in *inst, m uint32) {
	if m != ^uint32(0) {
		w.fault(IllegalInstruction, in, m, 0, "wgmma needs all threads of the warpgroup")
		return
	}
	num := func(v uint64, t matType, neg bool) float64 {
		var x float64
		switch {
		case t.get != nil:
			x = t.get(v)
		case t.signed:
			x = float64(sext(v, 8))
		default:
			x = float64(v)
		}
		if neg {
			return -x
		}
		return x
	}
	var a [16][32]float64
	first := w.id % 4 * 16 // this warp's first row
	if o.adesc >= 0 {
		s := readDesc(w.r[o.adesc][0])
		for i := 0; i < 16; i++ {
			for k := 0; k < o.K; k++ {
				v, ok := o.load(w, in, s, first+i, k, o.a, o.transA)
				if !ok {
					return
				}
				a[i][k] = num(v, o.a, o.negA)
			}
		}
	} else {
		mask := ^uint64(0) >> (64 - o.a.bits)
		for l := 0; l < 32; l++ {
			g, t := l>>2, l&3
			for r, s := range o.ar {
				for j := 0; j < o.per; j++ {
					a[g+8*(r&1)][t*o.per+j+(r>>1)*4*o.per] = num(w.r[s][l]>>(uint(j)*o.a.bits)&mask, o.a, o.negA)
				}
			}
		}
	}
	b := make([]float64, o.N*o.K) // by column
	s := readDesc(w.r[o.bdesc][0])
	for j := 0; j < o.N; j++ {
		for k := 0; k < o.K; k++ {
			v, ok := o.load(w, in, s, j, k, o.b, o.transB)
			if !ok {
				return
			}
			b[j*o.K+k] = num(v, o.b, o.negB)
		}
	}
	keep := w.p[o.scaleD]
	one := func(i, j int, c float64) float64 {
		for k, y := range b[j*o.K : (j+1)*o.K] {
			c += a[i][k] * y
		}
		return c
	}
	for l := 0; l < 32; l++ {
		g, t := l>>2, l&3
		on := keep>>l&1 != 0
		for r, slot := range o.dr {
			c := w.r[slot][l]
			if !on {
				c = 0
			}
			switch o.ct {
			case tF16:
				i, j := g+8*(r&1), r/2*8+t*2
				lo := f64ToFmt(one(i, j, fmtToF64(uint32(c&0xffff), fmtF16)), fmtF16, rn)
				hi := f64ToFmt(one(i, j+1, fmtToF64(uint32(c>>16), fmtF16)), fmtF16, rn)
				w.r[slot][l] = uint64(lo) | uint64(hi)<<16
			case tS32: // exact: below 2^53
				v := int64(one(g+8*(r>>1&1), r/4*8+t*2+r&1, float64(int32(c))))
				if o.sat {
					v = clamp(v, -1<<31, 1<<31-1)
				}
				w.r[slot][l] = uint64(uint32(v))
			default:
				w.r[slot][l] = b32(float32(one(g+8*(r>>1&1), r/4*8+t*2+r&1, float64(f32(c)))))
			}
		}
	}
}
