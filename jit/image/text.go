package image

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
)

// Text gives the machine code of a kernel of a cubin and of all functions that it calls by name, the kernel's first, as parts of
// b. A call through a pointer is not followed.
func Text(b []byte, kernel string) ([][]byte, error) {
	all, err := sections(b)
	if err != nil {
		return nil, err
	}
	syms, err := symbols(all)
	if err != nil {
		return nil, err
	}
	text := map[string][]byte{}
	calls := map[string][]string{}
	for i := range all {
		switch s := &all[i]; {
		case strings.HasPrefix(s.name, ".text."):
			text[s.name[len(".text."):]] = s.data
		case s.name == ".nv.callgraph":
			for d := s.data; len(d) >= 8; d = d[8:] {
				from, to := binary.LittleEndian.Uint32(d), binary.LittleEndian.Uint32(d[4:])
				if from > 0 && to > 0 && uint64(from) < uint64(len(syms)) && uint64(to) < uint64(len(syms)) && to < math.MaxInt32 {
					calls[syms[from].name] = append(calls[syms[from].name], syms[to].name)
				}
			}
		}
	}
	if text[kernel] == nil {
		return nil, malformed("cubin: no code of a kernel %q", kernel)
	}
	var out [][]byte
	seen := map[string]bool{}
	for todo := []string{kernel}; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		if text[name] != nil {
			out = append(out, text[name])
		}
		todo = append(todo, calls[name]...)
	}
	return slices.Clip(out), nil
}
