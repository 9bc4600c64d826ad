package image

import (
	"encoding/binary"
	"math"
	"strings"
)

// Param is one parameter's place in a kernel's parameter block, in bytes.
type Param struct {
	Offset, Size int
}

// Entry is a kernel of a cubin.
type Entry struct {
	// Params are its parameters in order, as cuFuncGetParamInfo tells them.
	Params []Param
	// Base is where the parameter block lies in the bank of constants. Parameters are aligned there, not within their block: with
	// a base of 0x210 (sm_90) a tensor map, which is aligned to 64, may stand at 48 of the block.
	Base int
}

// maxParams bounds the parameters of one kernel: a block of 32,764 bytes holds no more.
const maxParams = 32764

// Attributes of .nv.info.KERNEL sections, by the names that cuobjdump and nvdisasm give them.
const (
	attrParamInfo   = 0x17 // EIATTR_KPARAM_INFO: u32 index, u16 ordinal, u16 offset, u32 with the size in bits 18 to 31
	attrParamInfo2  = 0x45 // its form for larger parameters: u32 index, u16 ordinal, u16 offset, u32 size
	attrParamsBytes = 0x19 // EIATTR_CBANK_PARAM_SIZE: u16 in place of a length
	attrParamsBase  = 0x0a // EIATTR_PARAM_CBANK: u32 symbol, u16 offset, u16 size
	formatHalf      = 3    // EIFMT_HVAL
)

// Extent is the length of the cubin that begins at b: where its headers say that it ends, whatever follows. The preload library
// counts alike (heddle_container_bytes), so both name a cubin by the same bytes.
func Extent(b []byte) (int, error) {
	le := binary.LittleEndian
	if len(b) < elfHeader || !isELF(b) || b[4] != 2 {
		return 0, malformed("cubin of %d bytes without a 64-bit ELF header", len(b))
	}
	limit := uint64(len(b))
	end := uint64(elfHeader)
	grow := func(what string, at, n, each uint64) error {
		if at > limit || each > 0 && n > (limit-at)/each {
			return malformed("cubin: %s at %d exceeds the file of %d bytes", what, at, limit)
		}
		end = max(end, at+n*each)
		return nil
	}
	phAt, phSize, phNum := le.Uint64(b[32:]), uint64(le.Uint16(b[54:])), uint64(le.Uint16(b[56:]))
	shAt, shSize, shNum := le.Uint64(b[40:]), uint64(le.Uint16(b[58:])), uint64(le.Uint16(b[60:]))
	if phNum == 0 && shNum == 0 || phNum > 0 && phSize < 56 || shNum > 0 && shSize < sectionHeader {
		return 0, malformed("cubin with %d program headers of %d bytes and %d sections of %d", phNum, phSize, shNum, shSize)
	}
	if phNum > 0 {
		if err := grow("the program headers", phAt, phNum, phSize); err != nil {
			return 0, err
		}
		for i := range phNum {
			h := b[phAt+i*phSize:]
			if n := le.Uint64(h[32:]); n > 0 {
				if err := grow("a segment", le.Uint64(h[8:]), 1, n); err != nil {
					return 0, err
				}
			}
		}
	}
	if shNum > 0 {
		if err := grow("the section table", shAt, shNum, shSize); err != nil {
			return 0, err
		}
		for i := range shNum {
			h := b[shAt+i*shSize:]
			if n := le.Uint64(h[32:]); n > 0 && le.Uint32(h[4:]) != sectNobits {
				if err := grow("a section", le.Uint64(h[24:]), 1, n); err != nil {
					return 0, err
				}
			}
		}
	}
	return int(end), nil
}

// Entries gives every kernel of a cubin by name.
func Entries(b []byte) (map[string]Entry, error) {
	all, err := sections(b)
	if err != nil {
		return nil, err
	}
	out := map[string]Entry{}
	for i := range all {
		if name, ok := strings.CutPrefix(all[i].name, ".nv.constant0."); ok && name != "" {
			out[name] = Entry{} // only kernels have a bank of parameters
		}
	}
	for i := range all {
		name, ok := strings.CutPrefix(all[i].name, ".nv.info.")
		if _, kernel := out[name]; !ok || !kernel {
			continue
		}
		if out[name], err = params(name, all[i].data); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// params reads the records about parameters: u8 format, u8 attribute, u16 value or length.
func params(kernel string, b []byte) (Entry, error) {
	base := 0
	le := binary.LittleEndian
	known := map[uint16]Param{}
	total := -1
	for len(b) >= 4 {
		format, attr, n := b[0], b[1], int(le.Uint16(b[2:]))
		b = b[4:]
		if format == formatHalf && attr == attrParamsBytes {
			total = n
		}
		if format != formatSized {
			continue
		}
		if n > len(b) {
			return Entry{}, malformed("cubin: %s: an attribute of %d bytes exceeds its section", kernel, n)
		}
		if d := b[:n]; (attr == attrParamInfo || attr == attrParamInfo2) && n >= 12 {
			size := le.Uint32(d[8:])
			if attr == attrParamInfo {
				size >>= 18
			}
			ordinal := le.Uint16(d[4:])
			if _, twice := known[ordinal]; twice || ordinal >= maxParams || size > math.MaxInt32 {
				return Entry{}, malformed("cubin: %s: parameter %d of %d bytes, described twice: %v", kernel, ordinal, size, twice)
			}
			known[ordinal] = Param{int(le.Uint16(d[6:])), int(size)}
		}
		if attr == attrParamsBase && n >= 8 {
			base = int(le.Uint16(b[4:]))
		}
		b = b[n:]
	}
	out := make([]Param, len(known))
	end := 0
	for i := range out {
		p, ok := known[uint16(i)]
		if !ok {
			return Entry{}, malformed("cubin: %s: %d parameters, but none is number %d", kernel, len(out), i)
		}
		out[i], end = p, max(end, p.Offset+p.Size)
	}
	if total >= 0 && total != end {
		return Entry{}, malformed("cubin: %s: its parameters end at %d, their block has %d bytes", kernel, end, total)
	}
	return Entry{out, base}, nil
}
