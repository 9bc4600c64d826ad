package harvest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// The store is a folder of files HASH.ptx that the preload library writes when it sees a compiler make a cubin. HASH is XXH64 of
// the cubin with seed 0 and with seed 1, 16 hexadecimal digits each, as images are named in docs/protocol.md section 4. A file is
// one line of facts and the text:
//
//	// heddle-ptx 1 from=ptxas fmad=1
//	.version 9.0
//	…
//
// The line is a comment in PTX. Facts are NAME=VALUE; unknown ones are passed over, and fmad must be there.

const (
	storeMagic = "// heddle-ptx 1 "
	storeLine  = 256 // the most that the line has
)

// StoreName is the name of the file that has the PTX of a cubin; what follows the cubin must not be in b.
func StoreName(cubin []byte) string {
	var h [2]uint64
	for i := range h {
		d := xxhash.NewWithSeed(uint64(i))
		_, _ = d.Write(cubin)
		h[i] = d.Sum64()
	}
	return fmt.Sprintf("%016x%016x.ptx", h[0], h[1])
}

func fromStore(m *machineCode, _ string, p Places) (candidate, *Missing) {
	d, err := open(p.Store)
	if err != nil {
		return candidate{}, reading(err)
	}
	defer d.close()
	if m.hash == "" {
		m.hash = StoreName(m.cubin)
	}
	b, err := d.read(m.hash, MaxPTX+storeLine)
	if err != nil {
		return candidate{}, reading(err)
	}
	text, contraction, err := parseStored(b)
	if err != nil {
		return candidate{}, missing(BadPTX, "%s: %v", d.full(m.hash), err)
	}
	return candidate{text, FromStore, d.full(m.hash), !contraction}, nil
}

// parseStored takes a file of the store apart.
func parseStored(b []byte) (text []byte, contraction bool, err error) {
	line, text, ok := bytes.Cut(b[:], []byte{'\n'})
	if !ok || len(line) > storeLine || !bytes.HasPrefix(line, []byte(storeMagic)) {
		return nil, false, fmt.Errorf("the first line is not %q and facts", storeMagic)
	}
	known := false
	for _, fact := range strings.Fields(string(line[len(storeMagic):])) {
		switch fact {
		case "fmad=1":
			contraction, known = true, true
		case "fmad=0":
			contraction, known = false, true
		}
	}
	if !known {
		return nil, false, fmt.Errorf("the first line does not say fmad=0 or fmad=1")
	}
	if text = trimText(text); len(text) == 0 {
		return nil, false, fmt.Errorf("no text behind the first line")
	}
	return text, contraction, nil
}
