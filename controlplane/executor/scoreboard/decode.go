package scoreboard

import (
	"math/bits"
	"unsafe"

	"github.com/heddle-gpu/heddle/shm"
)

func mulOverflows(a, b uint64) (uint64, bool) {
	hi, lo := bits.Mul64(a, b)
	return lo, hi != 0
}

// extent is the number of bytes from the first to behind the last byte of a pitched box; ok is false on overflow or when a row
// does not fit its pitch.
func extent(pitch, rows, x, y, z, width, height, depth uint64) (first, bytes uint64, ok bool) {
	if height == 0 || depth == 0 || width == 0 {
		return 0, 0, true
	}
	if height > 1 || depth > 1 || y > 0 || z > 0 {
		if pitch < width || pitch-width < x {
			return 0, 0, false
		}
	}
	if depth > 1 || z > 0 {
		if rows < height || rows-height < y {
			return 0, 0, false
		}
	}
	slice, o1 := mulOverflows(pitch, rows)
	if depth <= 1 && z == 0 {
		slice, o1 = 0, false
	}
	za, o2 := mulOverflows(slice, z)
	ya, o3 := mulOverflows(pitch, y)
	zb, o4 := mulOverflows(slice, depth-1)
	yb, o5 := mulOverflows(pitch, height-1)
	if o1 || o2 || o3 || o4 || o5 {
		return 0, 0, false
	}
	const far = 1 << 60 // every part below it: no sum of six overflows
	for _, v := range [...]uint64{za, ya, zb, yb, x, width} {
		if v >= far {
			return 0, 0, false
		}
	}
	return za + ya + x, zb + yb + width, true
}

// body fills op from the record. It returns "" or what is wrong: what only this side can know, namely kernels and addresses.
func (s *Session) body(op *Op, v *shm.RecordView) string {
	switch v.Kind {
	case shm.KindLaunch:
		l, params := v.Launch()
		k := s.KernelByID(l.Kernel)
		if k == nil {
			return "unknown kernel id"
		}
		if k.ParamsKnown && l.ParamBytes < k.ParamBytes {
			return "fewer parameter bytes than the kernel has"
		}
		op.Kernel = k
		d := op.Launch()
		d.Function = k.Function
		d.Grid = [3]uint32{l.GridX, l.GridY, l.GridZ}
		d.Block = [3]uint32{l.BlockX, l.BlockY, l.BlockZ}
		d.SharedBytes = l.SharedBytes
		d.Flags = l.Flags
		d.Cluster = [3]uint32{l.ClusterX, l.ClusterY, l.ClusterZ}
		d.ClusterPolicy = l.ClusterPolicy
		d.ParamBytes = uint64(len(params))
		d.Params = 0
		if len(params) > 0 {
			// The bytes stay in the ring until the op is done. A client that changes them meanwhile changes its own launch.
			d.Params = uint64(uintptr(unsafe.Pointer(&params[0])))
		}
	case shm.KindMemset:
		m := v.Memset()
		width, over := mulOverflows(m.Width, uint64(m.Element))
		first, n, fits := extent(m.Pitch, m.Height, 0, 0, 0, width, m.Height, 1)
		if over || !fits || !s.Memory.Contains(m.Dst+first, n) {
			return "memset outside the session's memory"
		}
		op.Args = [15]uint64{m.Dst, m.Pitch, m.Width, m.Height, uint64(m.Element), uint64(m.Value)}
	case shm.KindCopy:
		c := v.Copy()
		if !s.Memory.Contains(c.Dst, c.Bytes) || !s.Memory.Contains(c.Src, c.Bytes) {
			return "copy outside the session's memory"
		}
		op.Args = [15]uint64{c.Dst, c.Src, c.Bytes}
	case shm.KindCopy3D:
		c := v.Copy3D()
		df, dn, dok := extent(c.DstPitch, c.DstHeight, c.DstX, c.DstY, c.DstZ, c.Width, c.Height, c.Depth)
		sf, sn, sok := extent(c.SrcPitch, c.SrcHeight, c.SrcX, c.SrcY, c.SrcZ, c.Width, c.Height, c.Depth)
		if !dok || !sok || c.Dst+df < c.Dst || c.Src+sf < c.Src || !s.Memory.Contains(c.Dst+df, dn) || !s.Memory.Contains(c.Src+sf, sn) {
			return "pitched copy outside the session's memory"
		}
		op.Args = [15]uint64{c.Dst, c.DstPitch, c.DstHeight, c.DstX, c.DstY, c.DstZ, c.Src, c.SrcPitch, c.SrcHeight, c.SrcX, c.SrcY, c.SrcZ, c.Width, c.Height, c.Depth}
	case shm.KindPut, shm.KindGet:
		var c shm.InlineCopy
		var payload []byte
		if v.Kind == shm.KindPut {
			c, payload = v.Put()
		} else {
			c, payload = v.Get()
		}
		if !s.Memory.Contains(c.Address, c.Bytes) {
			return "inline copy outside the session's memory"
		}
		op.Args = [15]uint64{c.Address, 0, uint64(len(payload))}
		if len(payload) > 0 {
			op.Args[1] = uint64(uintptr(unsafe.Pointer(&payload[0])))
		}
	case shm.KindEvent:
		op.Args = [15]uint64{uint64(v.Event().Slot)}
	case shm.KindGraph:
		if op.Graph = s.graphs[v.Graph().Graph]; op.Graph == nil {
			return "unknown graph id"
		}
	default:
		return "kind is not an op"
	}
	return ""
}
