package interp

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// maxPrintf bounds the length of a format, and of a string argument.
const maxPrintf = 4096

// extPrintf is vprintf(format, arguments): arguments lie one after the other,
// each at a multiple of its size, integers as 4 or 8 bytes and floating point
// as 8 (CUDA C programming guide, formatted output). It gives the number of
// arguments, as the device function does.
func extPrintf(w *warp, in *inst, lane int, arg func(int) uint64) (uint64, bool) {
	format := w.bytes(in, lane, arg(0), maxPrintf, true)
	if format == nil {
		return 0, false
	}
	var out strings.Builder
	off := uint64(0)
	base := arg(1)
	bad := false
	word := func(n uint64) uint64 {
		off = (off + n - 1) &^ (n - 1)
		b := w.bytes(in, lane, base+off, int(n), false)
		if b == nil {
			bad = true
			return 0
		}
		off += n
		if n == 4 {
			return uint64(binary.LittleEndian.Uint32(b))
		}
		return binary.LittleEndian.Uint64(b)
	}
	count := uint64(0)
	s := string(format)
	for i := 0; i < len(s) && !bad; {
		if s[i] != '%' {
			out.WriteByte(s[i])
			i++
			continue
		}
		j := i + 1
		for j < len(s) && strings.IndexByte("-+ #0", s[j]) >= 0 {
			j++
		}
		spec := "%" + s[i+1:j]
		num := func() {
			if j < len(s) && s[j] == '*' {
				spec += fmt.Sprint(clamp(int64(int32(word(4))), -512, 512))
				count++
				j++
				return
			}
			k := j
			for j < len(s) && s[j] >= '0' && s[j] <= '9' {
				j++
			}
			if j-k < 4 { // wider is not worth the memory
				spec += s[k:j]
			}
		}
		num()
		if j < len(s) && s[j] == '.' {
			spec += "."
			j++
			num()
		}
		long := uint64(4)
		for j < len(s) && strings.IndexByte("hlLqjzt", s[j]) >= 0 {
			if s[j] != 'h' {
				long = 8
			}
			j++
		}
		if j >= len(s) {
			out.WriteString(s[i:])
			break
		}
		count++
		switch v := s[j]; v {
		case '%':
			out.WriteByte('%')
			count--
		case 'd', 'i':
			x := word(long)
			if long == 4 {
				x = uint64(int64(int32(x)))
			}
			fmt.Fprintf(&out, spec+"d", int64(x))
		case 'u':
			fmt.Fprintf(&out, spec+"d", word(long))
		case 'x', 'X', 'o':
			fmt.Fprintf(&out, spec+string(v), word(long))
		case 'c':
			fmt.Fprintf(&out, strings.ReplaceAll(spec, "0", "")+"s", string([]byte{byte(word(4))}))
		case 'p':
			fmt.Fprintf(&out, "0x%x", word(8))
		case 's':
			p := word(8)
			text := "(null)"
			if p != 0 && !bad {
				b := w.bytes(in, lane, p, maxPrintf, true)
				bad = b == nil
				text = string(b)
			}
			fmt.Fprintf(&out, spec+"s", text)
		case 'f', 'F', 'e', 'E', 'g', 'G', 'a', 'A':
			x := math.Float64frombits(word(8))
			out.WriteString(formatFloat(spec, v, x))
		default:
			out.WriteString(s[i : j+1])
			count--
		}
		i = j + 1
	}
	if bad {
		return 0, false
	}
	if w.g.l.Printf != nil {
		io.WriteString(w.g.l.Printf, out.String())
	}
	return count, true
}

// formatFloat prints as C does: a precision of 6 where none is given.
func formatFloat(spec string, verb byte, x float64) string {
	if math.IsInf(x, 0) || x != x {
		s := "inf"
		if x != x {
			s = "nan"
		}
		if math.Signbit(x) {
			s = "-" + s
		} else if strings.Contains(spec, "+") {
			s = "+" + s
		}
		width := strings.Trim(strings.SplitN(spec[1:], ".", 2)[0], "+ #0")
		return fmt.Sprintf("%"+width+"s", s)
	}
	switch verb {
	case 'a':
		return fmt.Sprintf(spec+"x", x)
	case 'A':
		return fmt.Sprintf(spec+"X", x)
	}
	if !strings.Contains(spec, ".") {
		spec += ".6"
	}
	if (verb == 'g' || verb == 'G') && !strings.Contains(spec, "#") && strings.HasSuffix(spec, ".0") {
		spec = strings.TrimSuffix(spec, "0") + "1"
	}
	return fmt.Sprintf(spec+string(verb), x)
}
