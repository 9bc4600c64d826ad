package image

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
)

const (
	elfHeader     = 64
	sectionHeader = 64
	symbolBytes   = 24
	maxSections   = 1 << 20
	attrExterns   = 0x0f // EIATTR_EXTERNS: u32 symbol indices
	formatSized   = 4    // EIFMT_SVAL: u16 length and bytes follow
	sectNobits    = 8
	typeObject    = 1 // STT_OBJECT
)

// section of an ELF file. data is nil when the file holds none for it.
type section struct {
	name string
	data []byte
	size uint64
	link uint32
	kind uint32
}

// elfTarget is the architecture in e_flags: bits 8 to 15 hold it in nvcc 13's ELF ABI (version 8 of EI_ABIVERSION), bits 0 to 7
// before.
func elfTarget(b []byte) (sm int, err error) {
	if len(b) < elfHeader || b[4] != 2 || b[5] != 1 {
		return 0, malformed("ELF of %d bytes that is not 64-bit little-endian", len(b))
	}
	if m := binary.LittleEndian.Uint16(b[18:]); m != 190 {
		return 0, malformed("ELF for machine %d; a cubin has 190 (EM_CUDA)", m)
	}
	flags := binary.LittleEndian.Uint32(b[48:])
	if b[8] >= 8 {
		return int(flags >> 8 & 0xff), nil
	}
	return int(flags & 0xff), nil
}

// sections reads the section table.
func sections(b []byte) ([]section, error) {
	le := binary.LittleEndian
	if len(b) < elfHeader || !isELF(b) {
		return nil, malformed("cubin of %d bytes without an ELF header", len(b))
	}
	off, size, n, names := le.Uint64(b[40:]), le.Uint16(b[58:]), uint64(le.Uint16(b[60:])), uint64(le.Uint16(b[62:]))
	if size != sectionHeader || off > uint64(len(b)) || (n > 0 || off > 0) && uint64(len(b))-off < sectionHeader {
		return nil, malformed("cubin: section table at %d with entries of %d bytes in a file of %d", off, size, len(b))
	}
	if n == 0 && off > 0 { // more than 65,279 sections: the first one's size says how many, its link where the names are
		n = le.Uint64(b[off+32:])
		names = uint64(le.Uint32(b[off+40:]))
	}
	if n > maxSections || n*sectionHeader > uint64(len(b))-off {
		return nil, malformed("cubin: %d sections exceed the file", n)
	}
	out := make([]section, n)
	nameAt := make([]uint32, n)
	for i := range out {
		h := b[off+uint64(i)*sectionHeader:]
		s := &out[i]
		nameAt[i] = le.Uint32(h)
		s.kind, s.size, s.link = le.Uint32(h[4:]), le.Uint64(h[32:]), le.Uint32(h[40:])
		if s.kind == sectNobits || s.size == 0 {
			continue
		}
		at := le.Uint64(h[24:])
		if at > uint64(len(b)) || s.size > uint64(len(b))-at {
			return nil, malformed("cubin: section %d of %d bytes at %d exceeds the file", i, s.size, at)
		}
		s.data = b[at : at+s.size]
	}
	if names >= n {
		if n == 0 {
			return out, nil
		}
		return nil, malformed("cubin: no section %d with names", names)
	}
	for i := range out {
		out[i].name = cstring(out[names].data, nameAt[i])
	}
	return out, nil
}

// cstring is the zero-terminated string at off; "" when there is none.
func cstring(table []byte, off uint32) string {
	if uint64(off) >= uint64(len(table)) {
		return ""
	}
	s, _, ok := bytes.Cut(table[off:], []byte{0})
	if !ok {
		return ""
	}
	return string(s)
}

// symbol of a cubin.
type symbol struct {
	name    string
	section uint16
	object  bool
	size    uint64
}

func symbols(all []section) ([]symbol, error) {
	le := binary.LittleEndian
	for i := range all {
		if all[i].name != ".symtab" {
			continue
		}
		if uint64(all[i].link) >= uint64(len(all)) {
			return nil, malformed("cubin: the symbol table's names are in section %d of %d", all[i].link, len(all))
		}
		names, d := all[all[i].link].data, all[i].data
		out := make([]symbol, 0, len(d)/symbolBytes)
		for ; len(d) >= symbolBytes; d = d[symbolBytes:] {
			out = append(out, symbol{cstring(names, le.Uint32(d)), le.Uint16(d[6:]), d[4]&15 == typeObject, le.Uint64(d[16:])})
		}
		return out, nil
	}
	return nil, nil
}

// function is one function of a cubin: what it calls outside, and whether its code uses textures.
type function struct {
	externs  []string
	textures bool
	calls    []string
}

// inspectCubin finds kernels, what they call, and variables.
func inspectCubin(in *Info, b []byte) error {
	all, err := sections(b)
	if err != nil {
		return err
	}
	syms, err := symbols(all)
	if err != nil {
		return err
	}
	functions := map[string]*function{}
	get := func(name string) *function {
		f := functions[name]
		if f == nil {
			f = &function{}
			functions[name] = f
		}
		return f
	}
	kernels := map[string]bool{}
	variables := map[uint16]bool{}
	for i := range all {
		s := &all[i]
		switch {
		case strings.HasPrefix(s.name, ".text."):
			get(s.name[len(".text."):]).textures = usesTextures(s.data)
		case strings.HasPrefix(s.name, ".nv.info."):
			f := get(s.name[len(".nv.info."):])
			for _, k := range externs(s.data) {
				if uint64(k) < uint64(len(syms)) {
					f.externs = append(f.externs, syms[k].name)
				}
			}
		case strings.HasPrefix(s.name, ".nv.constant0."):
			kernels[s.name[len(".nv.constant0."):]] = true // only kernels have a bank of parameters
		case s.name == ".nv.callgraph":
			for d := s.data; len(d) >= 8; d = d[8:] {
				from, to := binary.LittleEndian.Uint32(d), binary.LittleEndian.Uint32(d[4:])
				if from > 0 && to > 0 && uint64(from) < uint64(len(syms)) && uint64(to) < uint64(len(syms)) && to < math.MaxInt32 {
					f := get(syms[from].name)
					f.calls = append(f.calls, syms[to].name)
				}
			}
		case hasAnyPrefix(s.name, ".nv.global", ".nv.constant3") && s.size > 0 && i < math.MaxUint16:
			variables[uint16(i)] = true
		}
	}
	named := map[uint16]bool{}
	for _, s := range syms {
		if !variables[s.section] || !s.object {
			continue
		}
		named[s.section] = true
		if in.Writable == "" && !literal(s.name) {
			in.Writable = s.name
		}
	}
	for i := range variables {
		if in.Writable == "" && !named[i] {
			in.Writable = all[i].name // stripped of symbols: nobody knows what is in it
		}
	}
	in.Kernels = make(map[string]Kernel, len(kernels))
	for name := range kernels {
		in.Kernels[name] = Kernel{Refuse: reasons(functions, name)}
	}
	return nil
}

// reasons walks what a kernel calls.
func reasons(functions map[string]*function, kernel string) string {
	seen := map[string]bool{}
	todo := []string{kernel}
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[name] {
			continue
		}
		seen[name] = true
		if why := service(name); why != "" {
			return why
		}
		f := functions[name]
		if f == nil {
			continue
		}
		if f.textures {
			return textures
		}
		todo = append(append(todo, f.externs...), f.calls...)
	}
	return ""
}

// externs reads the symbol indices of EIATTR_EXTERNS records. A record is u8 format, u8 attribute, u16 value or length.
func externs(b []byte) []uint32 {
	var out []uint32
	for len(b) >= 4 {
		format, attr, n := b[0], b[1], int(binary.LittleEndian.Uint16(b[2:]))
		b = b[4:]
		if format != formatSized {
			continue
		}
		if n > len(b) {
			return out
		}
		if attr == attrExterns {
			for d := b[:n]; len(d) >= 4; d = d[4:] {
				out = append(out, binary.LittleEndian.Uint32(d))
			}
		}
		b = b[n:]
	}
	return out
}

// textureOps are the low nine bits of the opcodes of TEX, TLD4, TLD, TMML, TXD, TXQ, SULD and SUST in the 16-byte encoding of
// Volta and later; the three bits above them give the form of the operands.
var textureOps = func() (t [512]bool) {
	for _, op := range []int{0x160, 0x161, 0x163, 0x164, 0x166, 0x167, 0x169, 0x16a, 0x16c, 0x16d, 0x16f, 0x170, 0x198, 0x199, 0x19a, 0x19b, 0x19c, 0x19d, 0x19e} {
		t[op] = true
	}
	return t
}()

// usesTextures looks at every instruction of a function.
func usesTextures(code []byte) bool {
	for ; len(code) >= 16; code = code[16:] {
		op := binary.LittleEndian.Uint16(code) & 0xfff
		if form := op >> 9; textureOps[op&511] && (form == 1 || form == 4 || form == 5 || form == 7) {
			return true
		}
	}
	return false
}
