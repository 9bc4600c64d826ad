// Package harvest finds the PTX of machine code: given the image that a client loaded and the name of the kernel that it
// launches, PTX from which that very machine code was made.
//
// The origins, in the order in which they are asked, are listed at [Origin]. Each knows its text by the machine code itself, never
// by names alone, because PTX of another kernel would give wrong results; what is in doubt is refused. And whatever is found is
// checked: the kernel is defined there, with the parameters that the machine code has.
//
// The package reads folders and bytes, and knows nothing of processes (controlplane/places says where a process keeps things).
// All that it reads was written by others: sizes and counts are bounded, only regular files are opened, no link leads out of a
// folder, and no bytes make it panic. Sources: design.md section 6 "Harvest"; docs/harvest.md.
package harvest

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Places says where PTX may lie: folders by absolute path, empty or absent ones are passed over. It travels between processes as
// JSON.
type Places struct {
	// Store is the folder that the preload library fills (docs/harvest.md).
	Store string `json:"store,omitempty"`
	// Triton are Triton's cache folders: in them FOLDER/NAME.cubin lies beside FOLDER/NAME.ptx.
	Triton []string `json:"triton,omitempty"`
	// Inductor are torch.compile's cache folders: in them triton/DEVICE is one of Triton's.
	Inductor []string `json:"inductor,omitempty"`
}

// Origin says where PTX was found.
type Origin string

// Origins, in the order in which they are asked.
const (
	// FromImage: the image is PTX text, or a fat binary of which this device runs PTX; the driver's compiler made the code.
	FromImage Origin = "image"
	// FromFatbin: the fat binary has PTX of the same architecture beside the machine code.
	FromFatbin Origin = "fatbin"
	// FromStore: the preload library saw a compiler make the machine code (ptxas, NVRTC, nvJitLink, cuLink).
	FromStore Origin = "store"
	// FromTriton: Triton's cache, or torch.compile's, has the machine code, and the PTX beside it.
	FromTriton Origin = "triton"
)

// Found is the PTX of one kernel.
type Found struct {
	PTX    []byte
	Module *ptx.Module // PTX, parsed
	Entry  string      // the kernel's name in it
	Origin Origin
	Path   string // the file that PTX was read from; "" when it was in the image
	// Cubin is the machine code that the client's image would run, without padding; nil when the image is PTX.
	Cubin []byte
	// Params is where the machine code has the kernel's parameters, which is how clients pass them; nil when the image is PTX. It
	// differs from ptx.Func's Layout for parameters of large alignment: see image.Entry.
	Params []image.Param
	// ParamBase is where the machine code has the parameter block (image.Entry.Base); 0 when the image is PTX.
	ParamBase int
	// NoContraction: the machine code was made without contracting multiplications and additions (--fmad=false), which the text
	// alone does not say. Whoever compiles it again must forbid that too, or results differ in their last bits.
	NoContraction bool
}

// Code says why no PTX was found. docs/harvest.md has a line for each.
type Code string

// Codes.
const (
	// BadImage: the image is not understood, or has no code for the device.
	BadImage Code = "bad-image"
	// NoKernel: the image's code has no kernel of that name.
	NoKernel Code = "no-kernel"
	// NoPTX: nobody has PTX for this machine code.
	NoPTX Code = "no-ptx"
	// OtherArchitecture: the fat binary has PTX, but only for another architecture, where the source may differ (__CUDA_ARCH__).
	OtherArchitecture Code = "other-architecture"
	// Ambiguous: several different texts could be the one.
	Ambiguous Code = "ambiguous"
	// EntryMissing: PTX was found, but does not define the kernel.
	EntryMissing Code = "entry-missing"
	// OtherParameters: PTX was found, but the kernel's parameters are laid out differently there.
	OtherParameters Code = "other-parameters"
	// TooLarge: a file, a folder or the PTX exceeds this package's bounds.
	TooLarge Code = "too-large"
	// Unreadable: a file that should have the PTX cannot be read.
	Unreadable Code = "unreadable"
	// BadPTX: PTX was found, but is not understood.
	BadPTX Code = "bad-ptx"
)

// Codes lists every code, in the order of the documentation.
func Codes() []Code {
	return []Code{BadImage, NoKernel, NoPTX, OtherArchitecture, Ambiguous, EntryMissing, OtherParameters, TooLarge, Unreadable, BadPTX}
}

// Missing is the error of Find: why there is no PTX.
type Missing struct {
	Code   Code
	Detail string // a sentence for people; it may name files
}

// Error gives "harvest: CODE: detail".
func (m *Missing) Error() string { return fmt.Sprintf("harvest: %s: %s", m.Code, m.Detail) }

func missing(c Code, format string, args ...any) *Missing {
	return &Missing{c, fmt.Sprintf(format, args...)}
}

// A Finder finds PTX and remembers what it saw in large folders. The zero value is ready; it may be used by several goroutines.
type Finder struct {
	mu     sync.Mutex
	triton map[string]*tritonIndex // by folder
}

// Find is Find of a Finder that remembers nothing.
func Find(b []byte, major, minor int, entry string, p Places) (Found, error) {
	return new(Finder).Find(b, major, minor, entry, p)
}

// Find finds the PTX of kernel entry of the image b, as a device of compute capability major.minor runs it. The error is a
// *Missing. When an earlier origin has something that fails the check, the later ones are asked all the same; if none has it, the
// error tells of the first failure. It reads files, so it may take as long as they do.
func (f *Finder) Find(b []byte, major, minor int, entry string, p Places) (Found, error) {
	code, err := runs(b, major, minor, entry)
	if err != nil {
		return Found{}, err
	}
	if code.cubin == nil {
		found, err := check(candidate{text: code.text, origin: FromImage}, code, entry)
		if err != nil {
			return Found{}, err
		}
		return found, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var first *Missing
	for _, ask := range []func(*machineCode, string, Places) (candidate, *Missing){fromFatbin, fromStore, f.fromTriton} {
		c, why := ask(code, entry, p)
		if why == nil && c.text == nil {
			continue // nothing there
		}
		if why == nil {
			var found Found
			if found, why = check(c, code, entry); why == nil {
				return found, nil
			}
		}
		if first == nil {
			first = why
		}
	}
	if first == nil {
		first = missing(NoPTX, "no PTX for the machine code of %s: not in the image, the store, or Triton's cache", entry)
	}
	return Found{}, first
}

// machineCode is what a device runs of an image: a cubin, or PTX text that the driver compiles.
type machineCode struct {
	cubin   []byte // without what follows it
	text    []byte
	part    image.Part
	parts   []image.Part
	entries map[string]image.Entry // of the cubin
	hash    string                 // of the cubin, once asked for (store.go)
}

// runs finds the code that a device runs of an image. A fat binary may hold several cubins of one architecture, from several
// source files; the kernel tells them apart.
func runs(b []byte, major, minor int, entry string) (*machineCode, error) {
	parts, err := image.Parts(b)
	if err != nil {
		return nil, missing(BadImage, "%v", err)
	}
	best, ok := image.Select(parts, major, minor)
	if !ok {
		return nil, missing(BadImage, "no code for compute capability %d.%d among its %d parts", major, minor, len(parts))
	}
	var last *Missing
	for _, p := range parts {
		if p.Kind != best.Kind || p.SM != best.SM || p.Exact != best.Exact {
			continue
		}
		code, err := p.Bytes()
		if err != nil {
			return nil, missing(BadImage, "%v", err)
		}
		m := &machineCode{part: p, parts: parts}
		if p.Kind == image.PTX {
			m.text = trimText(code)
			if m.text == nil {
				m.text = []byte{}
			}
			if len(parts) == 1 || defines(m.text, entry) {
				return m, nil
			}
			last = missing(NoKernel, "the image's PTX has no kernel %s", entry)
			continue
		}
		n, err := image.Extent(code)
		if err != nil {
			return nil, missing(BadImage, "%v", err)
		}
		m.cubin = code[:n]
		if m.entries, err = image.Entries(m.cubin); err != nil {
			return nil, missing(BadImage, "%v", err)
		}
		if _, ok := m.entries[entry]; ok {
			return m, nil
		}
		last = missing(NoKernel, "the image's code for compute capability %d.%d has no kernel %s", major, minor, entry)
	}
	return nil, last
}

// fromFatbin looks for PTX of the machine code's own architecture in the same fat binary. PTX of another architecture may come
// from other source (__CUDA_ARCH__), and does not count.
func fromFatbin(m *machineCode, entry string, _ Places) (candidate, *Missing) {
	var others, same []image.Part
	for _, p := range m.parts {
		switch {
		case p.Kind != image.PTX:
		case p.SM == m.part.SM && p.Exact == m.part.Exact:
			same = append(same, p)
		default:
			others = append(others, p)
		}
	}
	var found candidate
	for _, p := range same {
		text, err := p.Bytes()
		if err != nil {
			return candidate{}, missing(BadPTX, "%v", err)
		}
		text = trimText(text)
		if !defines(text, entry) && len(same) > 1 {
			continue
		}
		if found.text != nil && string(found.text) != string(text) {
			return candidate{}, missing(Ambiguous, "the fat binary has several texts for compute_%d with a kernel %s", p.SM, entry)
		}
		found = candidate{text: text, origin: FromFatbin}
	}
	switch {
	case found.text != nil:
		return found, nil
	case len(same) > 0:
		return candidate{}, missing(EntryMissing, "none of the fat binary's %d texts for compute_%d defines %s", len(same), m.part.SM, entry)
	case len(others) > 0:
		return candidate{}, missing(OtherArchitecture, "the fat binary's PTX is for compute_%d, its machine code for sm_%d", others[0].SM, m.part.SM)
	}
	return candidate{}, nil
}

// reading turns an error of reading a file or folder into a reason; nil when there is no such thing.
func reading(err error) *Missing {
	var m *Missing
	switch {
	case err == nil || errors.Is(err, os.ErrNotExist):
		return nil
	case errors.As(err, &m):
		return m
	}
	return missing(Unreadable, "%v", err)
}
