package interp

// typ is an instruction type such as .f32.
type typ uint8

const (
	tNone typ = iota
	tPred
	tB8
	tB16
	tB32
	tB64
	tU8
	tU16
	tU32
	tU64
	tS8
	tS16
	tS32
	tS64
	tF16
	tF16x2
	tBF16
	tBF16x2
	tTF32
	tF32
	tF64
	tF32x2
	tE4M3x2
	tE5M2x2
	tU16x2
	tS16x2
	tB128
)

type typeInfo struct {
	name string
	size int // bytes
	kind byte
}

// kinds: p predicate, b bits, u unsigned, s signed, f floating point, x packed
var typeTable = [...]typeInfo{
	tNone: {"", 0, 0}, tPred: {".pred", 0, 'p'},
	tB8: {".b8", 1, 'b'}, tB16: {".b16", 2, 'b'}, tB32: {".b32", 4, 'b'}, tB64: {".b64", 8, 'b'},
	tU8: {".u8", 1, 'u'}, tU16: {".u16", 2, 'u'}, tU32: {".u32", 4, 'u'}, tU64: {".u64", 8, 'u'},
	tS8: {".s8", 1, 's'}, tS16: {".s16", 2, 's'}, tS32: {".s32", 4, 's'}, tS64: {".s64", 8, 's'},
	tF16: {".f16", 2, 'f'}, tF16x2: {".f16x2", 4, 'x'}, tBF16: {".bf16", 2, 'f'}, tBF16x2: {".bf16x2", 4, 'x'},
	tTF32: {".tf32", 4, 'f'}, tF32: {".f32", 4, 'f'}, tF64: {".f64", 8, 'f'}, tF32x2: {".f32x2", 8, 'x'},
	tE4M3x2: {".e4m3x2", 2, 'x'}, tE5M2x2: {".e5m2x2", 2, 'x'}, tU16x2: {".u16x2", 4, 'x'}, tS16x2: {".s16x2", 4, 'x'},
	tB128: {".b128", 16, 'b'},
}

var typeByName = func() map[string]typ {
	m := map[string]typ{}
	for i := range typeTable {
		if typeTable[i].name != "" {
			m[typeTable[i].name] = typ(i)
		}
	}
	return m
}()

func (t typ) size() int      { return typeTable[t].size }
func (t typ) bits() uint     { return uint(typeTable[t].size) * 8 }
func (t typ) String() string { return typeTable[t].name }
func (t typ) signed() bool   { return typeTable[t].kind == 's' }
func (t typ) float() bool    { return typeTable[t].kind == 'f' }
func (t typ) integer() bool {
	k := typeTable[t].kind
	return k == 's' || k == 'u' || k == 'b'
}

// mask has a one for every bit of the type.
func (t typ) mask() uint64 { return ^uint64(0) >> (64 - t.bits()) }

// sext sign-extends the low bits of v.
func sext(v uint64, bits uint) int64 { return int64(v<<(64-bits)) >> (64 - bits) }

// widen brings a register value to 64 bits as the type reads it.
func (t typ) widen(v uint64) uint64 {
	if t.signed() {
		return uint64(sext(v, t.bits()))
	}
	return v & t.mask()
}
