package harvest

import (
	"bytes"
	"fmt"

	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// MaxPTX bounds the PTX that is taken. It is what jit/ptx takes.
const MaxPTX = ptx.MaxSource

// candidate is text that may be a kernel's PTX.
type candidate struct {
	text          []byte // nil: nothing found
	origin        Origin
	path          string
	noContraction bool
}

// check makes a candidate a find: the kernel is defined in it, with the machine code's parameters.
func check(c candidate, m *machineCode, entry string) (Found, *Missing) {
	where := c.path
	if where == "" {
		where = "the image"
	}
	if len(c.text) > MaxPTX {
		return Found{}, missing(TooLarge, "%s: PTX of %d bytes; at most %d are taken", where, len(c.text), MaxPTX)
	}
	mod, err := ptx.Parse(c.text)
	if err != nil {
		return Found{}, missing(BadPTX, "%s: %v", where, err)
	}
	fn := mod.Func(entry)
	if fn == nil || !fn.Entry || !fn.HasBody {
		if m.cubin == nil {
			return Found{}, missing(NoKernel, "the image's PTX has no kernel %s", entry)
		}
		return Found{}, missing(EntryMissing, "%s: no kernel %s is defined there", where, entry)
	}
	if m.cubin != nil {
		got, _, err := fn.Layout()
		if err != nil {
			return Found{}, missing(BadPTX, "%s: %v", where, err)
		}
		if why := sameParams(got, m.entries[entry]); why != "" {
			return Found{}, missing(OtherParameters, "%s: %s has %s", where, entry, why)
		}
	}
	return Found{c.text, mod, entry, c.origin, c.path, m.cubin, m.entries[entry].Params, m.entries[entry].Base, c.noContraction}, nil
}

// sameParams compares parameters with the machine code's; "" when they are equal.
func sameParams(text []ptx.Param, code image.Entry) string {
	if len(text) != len(code.Params) {
		return plural(len(text), "parameter") + ", the machine code " + plural(len(code.Params), "parameter")
	}
	at := code.Base
	for i, p := range text {
		if p.Align > 1 {
			at = (at + p.Align - 1) / p.Align * p.Align
		}
		p.Offset = at - code.Base
		if p.Offset != code.Params[i].Offset || p.Size != code.Params[i].Size {
			return differ(i, p, code.Params[i])
		}
		at += p.Size
	}
	return ""
}

// trimText is text up to its first zero: the driver takes zero-terminated text, and containers pad it.
func trimText(b []byte) []byte {
	t, _, _ := bytes.Cut(b, []byte{0})
	return t
}

// defines tells quickly whether text may define a kernel: its name stands there as a word.
func defines(text []byte, entry string) bool {
	name := []byte(entry)
	if len(name) == 0 {
		return false
	}
	for at := 0; ; {
		i := bytes.Index(text[at:], name)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(name)
		if (i == 0 || !wordByte(text[i-1])) && (end == len(text) || !wordByte(text[end])) {
			return true
		}
		at = i + 1
	}
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c == '.' || c == '%'
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func differ(i int, text ptx.Param, code image.Param) string {
	return fmt.Sprintf("parameter %d of %d bytes at %d, the machine code of %d at %d", i, text.Size, text.Offset, code.Size, code.Offset)
}
