package interp

import "math"

// Hot instructions with loops of their own: the closure call of run2 and run3
// costs more than the operation.

func runAdd32(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	if m == ^uint32(0) {
		for i := range d {
			d[i] = uint64(uint32(a[i]) + uint32(b[i]))
		}
		return
	}
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = uint64(uint32(a[i]) + uint32(b[i]))
		}
	}
}

func runAdd64(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	if m == ^uint32(0) {
		for i := range d {
			d[i] = a[i] + b[i]
		}
		return
	}
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = a[i] + b[i]
		}
	}
}

func runMul32(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = uint64(uint32(a[i]) * uint32(b[i]))
		}
	}
}

func runMad32(w *warp, in *inst, m uint32) {
	d, a, b, c := &w.r[in.d], &w.r[in.a], &w.r[in.b], &w.r[in.c]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = uint64(uint32(a[i])*uint32(b[i]) + uint32(c[i]))
		}
	}
}

func runMulWideS32(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = uint64(int64(int32(a[i])) * int64(int32(b[i])))
		}
	}
}

func runMulWideU32(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = uint64(uint32(a[i])) * uint64(uint32(b[i]))
		}
	}
}

func runAnd(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = a[i] & b[i]
		}
	}
}

func runMov(w *warp, in *inst, m uint32) {
	d, a := &w.r[in.d], &w.r[in.a]
	if m == ^uint32(0) {
		*d = *a
		return
	}
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = a[i]
		}
	}
}

func runAddF32(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = b32(f32(a[i]) + f32(b[i]))
		}
	}
}

func runMulF32(w *warp, in *inst, m uint32) {
	d, a, b := &w.r[in.d], &w.r[in.a], &w.r[in.b]
	for i := range d {
		if m>>i&1 != 0 {
			d[i] = b32(f32(a[i]) * f32(b[i]))
		}
	}
}

func runFmaF32(w *warp, in *inst, m uint32) {
	d, a, b, c := &w.r[in.d], &w.r[in.a], &w.r[in.b], &w.r[in.c]
	for i := range d {
		if m>>i&1 != 0 {
			x, y, z := float64(f32(a[i])), float64(f32(b[i])), float64(f32(c[i]))
			p := x * y // exact
			s := p + z
			// Rounding s again is wrong only where s is the middle of two
			// f32, or the result is subnormal (or no number at all).
			if u := math.Float64bits(s); u&0x1fffffff == 0x10000000 || u>>52&0x7ff < 897 {
				bb := s - p
				s = odd(s, (p-(s-bb))+(z-bb))
			}
			d[i] = b32(float32(s))
		}
	}
}

// runCmpS32 and runCmpU32 are setp on 32-bit integers, without a second
// destination or a combining predicate; inst.imm is the comparison.
func runCmpS32(w *warp, in *inst, m uint32) {
	a, b := &w.r[in.a], &w.r[in.b]
	var out uint32
	switch in.imm {
	case cmpLT:
		for i := range a {
			if int32(a[i]) < int32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpLE:
		for i := range a {
			if int32(a[i]) <= int32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpGT:
		for i := range a {
			if int32(a[i]) > int32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpGE:
		for i := range a {
			if int32(a[i]) >= int32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpEQ:
		for i := range a {
			if int32(a[i]) == int32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpNE:
		for i := range a {
			if int32(a[i]) != int32(b[i]) {
				out |= 1 << i
			}
		}
	}
	w.p[in.p] = w.p[in.p]&^m | out&m
}

func runCmpU32(w *warp, in *inst, m uint32) {
	a, b := &w.r[in.a], &w.r[in.b]
	var out uint32
	switch in.imm {
	case cmpLT:
		for i := range a {
			if uint32(a[i]) < uint32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpLE:
		for i := range a {
			if uint32(a[i]) <= uint32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpGT:
		for i := range a {
			if uint32(a[i]) > uint32(b[i]) {
				out |= 1 << i
			}
		}
	case cmpGE:
		for i := range a {
			if uint32(a[i]) >= uint32(b[i]) {
				out |= 1 << i
			}
		}
	}
	w.p[in.p] = w.p[in.p]&^m | out&m
}
