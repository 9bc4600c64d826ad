package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// field is one member of a wire struct. count is 1 for a scalar and the length for an array ("u8[16]").
type field struct {
	name  string
	base  string // u8, u16, u32, u64, i32
	count int
	array bool
	off   int
}

func (f field) pad() bool { return strings.HasPrefix(f.name, "pad") }

// structure is a wire struct with its members placed. Members sit where the C and Go compilers put them on any 64-bit
// machine: place refuses implicit padding.
type structure struct {
	name   string
	fields []field
	size   int
	align  int
}

type constant struct {
	name  string
	value uint64
}

type enum struct {
	name   string
	values []constant
}

type body struct{ kind, request, reply string }

// layout is the parsed layout.toml. Slices keep the order of the source, so output is stable.
type layout struct {
	version uint64
	consts  []constant
	enums   []enum
	structs []structure
	bodies  []body
	goNames map[string]string
	hash    uint64
}

var widths = map[string]int{"u8": 1, "u16": 2, "u32": 4, "i32": 4, "u64": 8}

// load reads and checks a layout source. Errors name the table and key.
func load(path string) (*layout, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parse(string(text))
}

func parse(text string) (*layout, error) {
	var raw struct {
		Version uint64                       `toml:"version"`
		Const   map[string]string            `toml:"const"`
		Enum    map[string]map[string]uint64 `toml:"enum"`
		Body    map[string][]string          `toml:"body"`
		Go      map[string]string            `toml:"go"`
		Struct  []struct {
			Name   string   `toml:"name"`
			Fields []string `toml:"fields"`
		} `toml:"struct"`
	}
	meta, err := toml.Decode(text, &raw)
	if err != nil {
		return nil, fmt.Errorf("layout: %w", err)
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		return nil, fmt.Errorf("layout: unknown key %q; known are version, const, enum, body, go and struct", extra[0])
	}
	if raw.Version == 0 {
		return nil, fmt.Errorf("layout: version is missing or 0; it starts at 1")
	}
	l := &layout{version: raw.Version, goNames: raw.Go}
	enumAt := map[string]int{}
	for _, key := range meta.Keys() {
		switch {
		case len(key) == 2 && key[0] == "const":
			v, err := strconv.ParseUint(raw.Const[key[1]], 0, 64)
			if err != nil {
				return nil, fmt.Errorf("layout: const %s: %w", key[1], err)
			}
			l.consts = append(l.consts, constant{key[1], v})
		case len(key) == 3 && key[0] == "enum":
			i, ok := enumAt[key[1]]
			if !ok {
				i = len(l.enums)
				enumAt[key[1]] = i
				l.enums = append(l.enums, enum{name: key[1]})
			}
			l.enums[i].values = append(l.enums[i].values, constant{key[2], raw.Enum[key[1]][key[2]]})
		}
	}
	known := map[string]bool{"": true}
	for _, s := range raw.Struct {
		if known[s.Name] {
			return nil, fmt.Errorf("layout: struct %q appears twice or has no name", s.Name)
		}
		st, err := place(s.Name, s.Fields)
		if err != nil {
			return nil, err
		}
		known[s.Name] = true
		l.structs = append(l.structs, st)
	}
	types, ok := enumAt["type"]
	if !ok && len(raw.Body) > 0 {
		return nil, fmt.Errorf("layout: [body] needs [enum.type]")
	}
	if ok {
		for _, t := range l.enums[types].values {
			pair, ok := raw.Body[t.name]
			if !ok || len(pair) != 2 || !known[pair[0]] || !known[pair[1]] {
				return nil, fmt.Errorf(`layout: body.%s: expected ["request struct", "reply struct"] of known structs, found %q`, t.name, pair)
			}
			l.bodies = append(l.bodies, body{t.name, pair[0], pair[1]})
			delete(raw.Body, t.name)
		}
	}
	for name := range raw.Body {
		return nil, fmt.Errorf("layout: body.%s is not a message type", name)
	}
	l.hash = l.sum()
	return l, nil
}

// place computes the offset of each member and refuses what a compiler would pad by itself.
func place(name string, fields []string) (structure, error) {
	st := structure{name: name, align: 1}
	seen := map[string]bool{}
	for _, text := range fields {
		typ, id, ok := strings.Cut(text, " ")
		f := field{name: id, base: typ, count: 1, off: st.size}
		if base, n, array := strings.Cut(typ, "["); array {
			count, err := strconv.Atoi(strings.TrimSuffix(n, "]"))
			if err != nil || count <= 0 || !strings.HasSuffix(n, "]") {
				return st, fmt.Errorf("layout: struct %s: %q: bad array length", name, text)
			}
			f.base, f.count, f.array = base, count, true
		}
		w := widths[f.base]
		if !ok || w == 0 || id == "" || seen[id] {
			return st, fmt.Errorf("layout: struct %s: %q: expected \"TYPE NAME\" with a fresh name and a type of u8 u16 u32 u64 i32", name, text)
		}
		if st.size%w != 0 {
			return st, fmt.Errorf("layout: struct %s: %s would start at %d, which is not a multiple of %d; add a pad field", name, id, st.size, w)
		}
		seen[id] = true
		st.align = max(st.align, w)
		st.size += w * f.count
		st.fields = append(st.fields, f)
	}
	if st.size == 0 || st.size%st.align != 0 {
		return st, fmt.Errorf("layout: struct %s: %d bytes is not a multiple of its alignment %d; add a pad field", name, st.size, st.align)
	}
	return st, nil
}

// sum is the layout hash: the first 8 bytes of SHA-256 over everything that both sides must agree on. Comments, Go names and
// the order of constants do not count.
func (l *layout) sum() uint64 {
	var lines []string
	for _, c := range l.consts {
		lines = append(lines, fmt.Sprintf("const %s %d", c.name, c.value))
	}
	for _, e := range l.enums {
		for _, v := range e.values {
			lines = append(lines, fmt.Sprintf("enum %s %s %d", e.name, v.name, v.value))
		}
	}
	for _, b := range l.bodies {
		lines = append(lines, fmt.Sprintf("body %s %s %s", b.kind, b.request, b.reply))
	}
	for _, s := range l.structs {
		for _, f := range s.fields {
			lines = append(lines, fmt.Sprintf("field %s %s %s %d %d", s.name, f.name, f.base, f.count, f.off))
		}
		lines = append(lines, fmt.Sprintf("size %s %d", s.name, s.size))
	}
	sort.Strings(lines)
	h := sha256.Sum256([]byte(fmt.Sprintf("version %d\n", l.version) + strings.Join(lines, "\n")))
	return binary.LittleEndian.Uint64(h[:])
}
