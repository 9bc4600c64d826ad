package interp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// TensorMapBytes is the size of a tensor map (CUtensorMap).
const TensorMapBytes = 128

// TensorMap describes a tensor in global memory to cp.async.bulk.tensor in tiled mode, as cuTensorMapEncodeTiled takes
// it. The 128 bytes that [TensorMap.Encode] gives are the software GPU's own: the layout of the chip's is not public, and
// a program treats it as opaque.
type TensorMap struct {
	Elem     uint8 // bytes of an element: 1, 2, 4 or 8
	Rank     uint8 // 1 to 5
	Swizzle  uint8 // bytes of the swizzle's span: 0 (none), 32, 64 or 128
	FillNaN  bool  // what lies outside reads as NaN instead of 0 (elements of 2, 4 or 8 bytes, taken as f16, f32, f64)
	BFloat16 bool  // FillNaN's 2-byte elements are bf16
	Address  uint64
	Dim      [5]uint64 // elements, innermost first
	Stride   [4]uint64 // bytes from one index to the next in dimensions 1 to 4
	Box      [5]uint32 // elements of a tile: the call's boxDim, divided by its elementStrides and rounded up
	Step     [5]uint32 // element strides; 0 counts as 1
}

const tensorMagic = 0x314d5448 // "HTM1"

// Encode gives the map as memory, or says which rule of cuTensorMapEncodeTiled it breaks (CUDA driver API, tensor map
// object management).
func (t *TensorMap) Encode() ([TensorMapBytes]byte, error) {
	var b [TensorMapBytes]byte
	if err := t.check(); err != nil {
		return b, err
	}
	le := binary.LittleEndian
	le.PutUint32(b[0:], tensorMagic)
	b[4], b[5], b[6] = t.Elem, t.Rank, t.Swizzle
	if t.FillNaN {
		b[7] |= 1
	}
	if t.BFloat16 {
		b[7] |= 2
	}
	le.PutUint64(b[8:], t.Address)
	for i := range 5 {
		le.PutUint32(b[16+4*i:], uint32(t.Dim[i]-1)) // up to 2^32
		le.PutUint16(b[36+2*i:], uint16(t.Box[i]))
		b[46+i] = uint8(max(t.Step[i], 1))
	}
	for i := range 4 {
		le.PutUint64(b[56+8*i:], t.Stride[i])
	}
	return b, nil
}

func (t *TensorMap) check() error {
	if t.Elem == 0 || t.Elem > 8 || t.Elem&(t.Elem-1) != 0 {
		return fmt.Errorf("tensor map: elements of %d bytes, expected 1, 2, 4 or 8", t.Elem)
	}
	if t.Rank < 1 || t.Rank > 5 {
		return fmt.Errorf("tensor map: rank %d, expected 1 to 5", t.Rank)
	}
	if t.Address%16 != 0 {
		return fmt.Errorf("tensor map: address %#x is no multiple of 16", t.Address)
	}
	switch t.Swizzle {
	case 0, 32, 64, 128:
	default:
		return fmt.Errorf("tensor map: swizzle of %d bytes, expected 0, 32, 64 or 128", t.Swizzle)
	}
	for i := range int(t.Rank) {
		if t.Dim[i] == 0 || t.Dim[i] > 1<<32 {
			return fmt.Errorf("tensor map: dimension %d is %d, expected 1 to 2^32", i, t.Dim[i])
		}
		if t.Box[i] == 0 || t.Box[i] > 256 {
			return fmt.Errorf("tensor map: box dimension %d is %d, expected 1 to 256", i, t.Box[i])
		}
		if t.Step[i] > 8 {
			return fmt.Errorf("tensor map: element stride %d is %d, expected 1 to 8", i, t.Step[i])
		}
		if i > 0 && (t.Stride[i-1]%16 != 0 || t.Stride[i-1] >= 1<<40) {
			return fmt.Errorf("tensor map: stride %d is %d, expected a multiple of 16 below 2^40", i-1, t.Stride[i-1])
		}
	}
	inner := uint64(t.Box[0]) * uint64(t.Elem)
	if inner%16 != 0 {
		return fmt.Errorf("tensor map: %d bytes in the box's innermost dimension, expected a multiple of 16", inner)
	}
	if t.Swizzle != 0 && inner > uint64(t.Swizzle) {
		return fmt.Errorf("tensor map: %d bytes in the box's innermost dimension, above the swizzle's %d", inner, t.Swizzle)
	}
	return nil
}

// DecodeTensorMap reads what Encode wrote; anything else is an error.
func DecodeTensorMap(b []byte) (*TensorMap, error) {
	le := binary.LittleEndian
	if len(b) < TensorMapBytes || le.Uint32(b) != tensorMagic {
		return nil, errors.New("no tensor map of the software GPU: it is made by cuTensorMapEncodeTiled")
	}
	t := &TensorMap{Elem: b[4], Rank: b[5], Swizzle: b[6], FillNaN: b[7]&1 != 0, BFloat16: b[7]&2 != 0, Address: le.Uint64(b[8:])}
	for i := range 5 {
		t.Dim[i] = uint64(le.Uint32(b[16+4*i:])) + 1
		t.Box[i] = uint32(le.Uint16(b[36+2*i:]))
		t.Step[i] = uint32(b[46+i])
	}
	for i := range 4 {
		t.Stride[i] = le.Uint64(b[56+8*i:])
	}
	return t, t.check()
}

// fill gives the bits of an element outside the tensor.
func (t *TensorMap) fill() uint64 {
	switch {
	case !t.FillNaN:
		return 0
	case t.Elem == 2 && t.BFloat16:
		return 0x7fff
	case t.Elem == 2:
		return nan16
	case t.Elem == 4:
		return nan32
	case t.Elem == 8:
		return 0x7fffffffffffffff
	}
	return 0
}

// tile calls fn for each element of the box at the given coordinates, in the order in which it lies in shared memory:
// its byte offset there (swizzled), and its address in global memory, 0 outside the tensor.
func (t *TensorMap) tile(at [5]int32, shared uint64, fn func(sh, gl uint64) bool) bool {
	var i [5]uint32
	rank := int(t.Rank)
	for n := uint64(0); ; n += uint64(t.Elem) {
		gl, in := t.Address, true
		for k := range rank {
			c := int64(at[k]) + int64(i[k])*int64(max(t.Step[k], 1))
			if c < 0 || uint64(c) >= t.Dim[k] {
				in = false
				break
			}
			if k == 0 {
				gl += uint64(c) * uint64(t.Elem)
			} else {
				gl += uint64(c) * t.Stride[k-1]
			}
		}
		if !in {
			gl = 0
		}
		// 16-byte chunks change places within rows of 128 bytes (PTX ISA 5.5.5): address bits 4 and up are xored
		// with bits 7 and up, as many as the span needs.
		sh := shared + n
		switch t.Swizzle {
		case 32:
			sh ^= sh >> 7 & 1 << 4
		case 64:
			sh ^= sh >> 7 & 3 << 4
		case 128:
			sh ^= sh >> 7 & 7 << 4
		}
		if !fn(sh, gl) {
			return false
		}
		k := 0
		for ; k < rank; k++ {
			if i[k]++; i[k] < t.Box[k] {
				break
			}
			i[k] = 0
		}
		if k == rank {
			return true
		}
	}
}

// bytes is the size of a tile; 0 when it exceeds shared memory.
func (t *TensorMap) bytes() uint64 {
	n := uint64(t.Elem)
	for k := range int(t.Rank) {
		if n *= uint64(t.Box[k]); n > maxBulk {
			return 0
		}
	}
	return n
}

// decCpTensor is cp.async.bulk.tensor and cp.reduce.async.bulk.tensor in tiled mode (PTX ISA 9.7.9.27.1).
func decCpTensor(d *decoder, m *mods, in *ptx.Inst, reduce bool) error {
	bad := func() error {
		return notSupported(in.Pos, "cp%s is not supported by the interpreter", strings.Join(in.Mods, ""))
	}
	if m.flag(".prefetch") {
		return decIgnore(d, m, in)
	}
	rank := map[string]int{".1d": 1, ".2d": 2, ".3d": 3, ".4d": 4, ".5d": 5}[m.oneOf(".1d", ".2d", ".3d", ".4d", ".5d")]
	m.flag(".tile")
	hint := m.oneOf(".L2::cache_hint") != ""
	if rank == 0 || m.oneOf(".im2col", ".im2col_no_offs", ".im2col::w", ".im2col::w::128", ".tile::gather4", ".tile::scatter4") != "" {
		return bad()
	}
	m.oneOf(".cta_group::1")
	many := m.flag(".multicast::cluster")
	dst := m.oneOf(".shared::cluster", ".shared::cta", ".global")
	src := m.oneOf(".global", ".shared::cta")
	load := dst != ".global"
	if dst == "" || src == "" || load != (src == ".global") || reduce && load {
		return bad()
	}
	var op string
	if reduce {
		if op = m.oneOf(".add", ".min", ".max", ".inc", ".dec", ".and", ".or", ".xor"); op != ".and" && op != ".or" && op != ".xor" {
			return bad() // the map does not say whether its elements are signed or floating point
		}
	}
	bar := m.flag(".mbarrier::complete_tx::bytes")
	if bar != load || !load && !m.flag(".bulk_group") {
		return bad()
	}
	want := 2
	if load {
		want = 3
	}
	if many {
		want++
	}
	if hint {
		want++
	}
	if err := d.args(in, want, want); err != nil {
		return err
	}
	tensor, shared := &in.Args[0], &in.Args[1]
	if load {
		tensor, shared = shared, tensor
	}
	if tensor.Kind != ptx.Addr || len(tensor.Elems) != 2 {
		return d.errorf(tensor.Pos, "expected [map, {coordinates}]")
	}
	coords, err := d.matSlots(&tensor.Elems[1], rank, tS32, false)
	if err != nil {
		return err
	}
	_, mbase, moff, mnarrow, err := d.address(&ptx.Operand{Pos: tensor.Pos, Kind: ptx.Addr, Elems: tensor.Elems[:1]}, "")
	if err != nil {
		return err
	}
	spcName := dst
	if !load {
		spcName = src
	}
	spc, sbase, soff, snarrow, err := d.address(shared, spcName)
	if err != nil {
		return err
	}
	x := inst{guard: -1, a: mbase, b: sbase, d: -1, e: -1, table: coords}
	if many {
		if !load {
			return bad()
		}
		if x.d, err = d.src(&in.Args[3], tB16, false); err != nil {
			return err
		}
	}
	bat := &memOp{}
	if load {
		if x.e, bat, err = d.asyncTail(&in.Args[2]); err != nil {
			return err
		}
	}
	mat, sat := &memOp{off: moff, narrow: mnarrow}, &memOp{off: soff, narrow: snarrow}
	upd := atomUpdate(op, tB64)
	x.run = func(w *warp, in *inst, m uint32) {
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			var n int64
			for _, sa := range w.multicast(in.d, l, sat.addr(w.r[in.b][l])) {
				if n = w.tensorCopy(in, l, mat.addr(w.r[in.a][l]), spc, sa, rank, load, upd); n < 0 {
					return
				}
			}
			if in.e >= 0 && !w.completeTx(in, l, in.e, in.d, bat, n) {
				return
			}
		}
	}
	d.emit(x)
	return nil
}

// tensorCopy copies one tile and gives its size in bytes, -1 after a fault.
func (w *warp) tensorCopy(in *inst, lane int, at uint64, spc space, sa uint64, rank int, load bool, upd func(o, b, c uint64) uint64) int64 {
	raw := w.bytes(in, lane, at, TensorMapBytes, false)
	if raw == nil {
		return -1
	}
	t, err := DecodeTensorMap(raw)
	if err == nil && (int(t.Rank) != rank || t.bytes() == 0) {
		err = fmt.Errorf("tensor map of rank %d and a tile of %d bytes used in %d dimensions", t.Rank, t.bytes(), rank)
	}
	if err != nil {
		w.fault(IllegalInstruction, in, 1<<lane, at, err.Error())
		return -1
	}
	if sa%128 != 0 {
		w.fault(MisalignedAddress, in, 1<<lane, sa, "a tile in shared memory lies at a multiple of 128 bytes")
		return -1
	}
	var c [5]int32
	for k := range rank {
		c[k] = int32(w.r[in.table[k]][lane])
	}
	n := int(t.Elem)
	if !t.tile(c, sa, func(sh, gl uint64) bool {
		p := w.at(in, spc, lane, sh, n, load)
		if p == nil {
			return false
		}
		switch {
		case load && gl == 0:
			storeAt(p, n, t.fill())
		case gl == 0: // outside: nothing is stored
		default:
			q := w.at(in, spcGlobal, lane, gl, n, !load)
			if q == nil {
				return false
			}
			switch {
			case load:
				storeAt(p, n, loadAt(q, n))
			case upd != nil:
				rmw(q, n, upd, loadAt(p, n), 0)
			default:
				storeAt(q, n, loadAt(p, n))
			}
		}
		return true
	}) {
		return -1
	}
	return int64(t.bytes())
}
