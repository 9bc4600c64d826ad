package compiler

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/exact"
	"github.com/heddle-gpu/heddle/jit/harvest"
	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// assembler is the driver's compiler; *gpu.Device is one.
type assembler interface {
	LinkPTX(text []byte, t gpu.Target) ([]byte, error)
}

// builder makes forms. It lives as long as the worker's process and keeps the context and what the finder has seen.
type builder struct {
	open   func(uuid string) (assembler, error)
	uuid   string
	driver assembler
	finder harvest.Finder
}

// body is a kernel on its way.
type body struct {
	found harvest.Found
	made  exact.Profile // the arithmetic of its own text, compiled here
}

// build makes the form that a request asks for.
func (b *builder) build(r *Request) (*Answer, error) {
	if len(r.Bodies) == 0 || len(r.Bodies) > coalesce.MaxBodies {
		return nil, fail(Internal, "%d bodies; expected 1 to %d", len(r.Bodies), coalesce.MaxBodies)
	}
	a := &Answer{}
	bodies := make([]body, len(r.Bodies))
	for i := range r.Bodies {
		q := &r.Bodies[i]
		found, err := b.finder.Find(q.Image, r.Device.Major, r.Device.Minor, q.Entry, r.Places)
		if m := (*harvest.Missing)(nil); errors.As(err, &m) {
			return nil, fail(string(m.Code), "%s", m.Detail)
		} else if err != nil {
			return nil, err
		}
		if found.NoContraction {
			exact.Pin(found.Module)
		}
		bodies[i].found = found
		a.Origins = append(a.Origins, found.Origin)
	}
	spec := r.Spec
	for i := range bodies {
		base, err := b.paramBase(&bodies[i].found, &r.Device)
		if err != nil {
			return nil, err
		}
		spec.ParamBase = max(spec.ParamBase, base) // one architecture has one
	}
	form, err := rewrite(bodies, spec)
	if err != nil {
		return nil, err
	}
	if err := b.context(r.Device.UUID); err != nil {
		return nil, err
	}
	// What the rewriting does not understand it refuses before a context is made; from here on, compilations.
	free, again := false, false
	for i := range bodies {
		free = free || !exact.Decided(bodies[i].found.Module, bodies[i].found.Entry)
	}
	for i := range bodies {
		if !free {
			break // the texts decide every result
		}
		pinned, err := b.settle(&bodies[i], &r.Device)
		if err != nil {
			return nil, err
		}
		again = again || pinned
	}
	if again {
		if form, err = rewrite(bodies, spec); err != nil {
			return nil, err
		}
	}
	module, err := ptx.Parse([]byte(form.PTX))
	if err != nil {
		return nil, fail(Internal, "the rewritten text is not PTX: %v", err)
	}
	if a.Code, err = b.assemble(module, &r.Device); err != nil {
		return nil, err
	}
	if e, err := entryOf(a.Code, coalesce.EntryName); err != nil {
		return nil, err
	} else if isELF(a.Code) && (len(e.Params) != 1 || e.Params[0] != image.Param{Size: form.Layout.ParamBytes}) {
		return nil, fail(Internal, "the form's machine code has its parameters (offset, bytes) at %v; expected %d bytes at 0", e.Params, form.Layout.ParamBytes)
	}
	if free {
		if err := compare(bodies, a.Code); err != nil {
			return nil, err
		}
	}
	a.Layout = form.Layout
	return a, nil
}

func rewrite(bodies []body, spec coalesce.Spec) (*coalesce.Form, error) {
	kernels := make([]coalesce.Kernel, len(bodies))
	for i := range bodies {
		kernels[i] = coalesce.Kernel{Module: bodies[i].found.Module, Entry: bodies[i].found.Entry}
	}
	form, err := coalesce.Rewrite(kernels, spec)
	if no := (*coalesce.Refusal)(nil); errors.As(err, &no) {
		return nil, fail(string(no.Code), "%s: %s", no.Entry, no.Detail)
	} else if err != nil {
		return nil, fail(Internal, "%v", err)
	}
	return form, nil
}

// paramBase tells where the parameter block of a kernel begins in the bank of constants, for kernels to whose parameters that makes
// a difference; 0 for others, and on the software GPU. The code of an image that is PTX is the driver's compiler's, so it is asked.
func (b *builder) paramBase(f *harvest.Found, d *Device) (int, error) {
	const always = 16 // every architecture aligns the block to this
	params, _, err := f.Module.Func(f.Entry).Layout()
	if err != nil {
		return 0, fail(string(harvest.BadPTX), "%v", err)
	}
	large := false
	for _, p := range params {
		large = large || p.Align > always
	}
	switch {
	case !large:
		return 0, nil
	case f.Cubin != nil:
		return f.ParamBase, nil
	}
	if err := b.context(d.UUID); err != nil {
		return 0, err
	}
	code, err := b.assemble(only(f.Module, f.Entry), d)
	if err != nil {
		return 0, err
	}
	e, err := entryOf(code, f.Entry)
	return e.Base, err
}

// entryOf reads what the driver's compiler made of a kernel; nothing of the software GPU's, which is text.
func entryOf(code []byte, name string) (image.Entry, error) {
	if !isELF(code) {
		return image.Entry{}, nil
	}
	all, err := image.Entries(code)
	if err != nil {
		return image.Entry{}, fail(Assembler, "the compiled code of %s: %v", name, err)
	}
	return all[name], nil
}

// context makes the process's CUDA context, once.
func (b *builder) context(uuid string) error {
	switch {
	case b.driver == nil:
		d, err := b.open(uuid)
		if err != nil {
			return fail(NotStarted, "%v", err)
		}
		b.driver, b.uuid = d, uuid
	case b.uuid != uuid:
		return fail(Internal, "this process compiles for %s, not for %s", b.uuid, uuid)
	}
	return nil
}

// settle finds out how the client's machine code was made of its text, so that ours is made alike: as the compiler likes, or with
// every rounding pinned. It tells whether the text had to be changed for that.
func (b *builder) settle(k *body, d *Device) (pinned bool, err error) {
	f := &k.found
	if k.made, err = b.profile(f, d); err != nil {
		return false, err
	}
	if f.Cubin == nil || exact.Decided(f.Module, f.Entry) {
		return false, nil // code of the driver's compiler like ours, or a text of which every compiler makes the same
	}
	own, err := exact.Machine(f.Cubin, f.Entry)
	if err != nil {
		return false, fail(Numerics, "the client's machine code of %s: %v", f.Entry, err)
	}
	difference := exact.Difference(own, k.made)
	if difference == "" {
		return false, nil
	}
	if !f.NoContraction {
		exact.Pin(f.Module)
		if k.made, err = b.profile(f, d); err != nil {
			return false, err
		}
		if exact.Difference(own, k.made) == "" {
			return true, nil
		}
	}
	return false, fail(Numerics, "the driver's compiler makes other arithmetic of %s than the client's: %s", f.Entry, difference)
}

// profile counts what the driver's compiler makes of a kernel's own text.
func (b *builder) profile(f *harvest.Found, d *Device) (exact.Profile, error) {
	code, err := b.assemble(only(f.Module, f.Entry), d)
	if err != nil {
		return nil, err
	}
	return profileOf(code, f.Entry)
}

// only is the module without its other kernels, and without sections, which are debug information: modules of a hundred kernels
// would take the compiler a minute, for one of them. It shares everything with m.
func only(m *ptx.Module, entry string) *ptx.Module {
	out := *m
	out.Items, out.Funcs = nil, nil
	for _, it := range m.Items {
		switch it := it.(type) {
		case *ptx.Func:
			if it.Entry && it.Name != entry {
				continue
			}
			out.Funcs = append(out.Funcs, it)
		case *ptx.Directive:
			if it.Name == ".section" || it.Name == "@@" {
				continue
			}
		}
		out.Items = append(out.Items, it)
	}
	return &out
}

func isELF(code []byte) bool { return bytes.HasPrefix(code, []byte("\x7fELF")) }

func profileOf(code []byte, entry string) (exact.Profile, error) {
	if isELF(code) {
		p, err := exact.Machine(code, entry)
		if err != nil {
			return nil, fail(Numerics, "the compiled code of %s: %v", entry, err)
		}
		return p, nil
	}
	m, err := ptx.Parse(bytes.TrimRight(code, "\x00"))
	if err != nil {
		return nil, fail(Numerics, "the compiled code of %s: %v", entry, err)
	}
	p, err := exact.Text(m, entry)
	if err != nil {
		return nil, fail(Numerics, "%v", err)
	}
	return p, nil
}

// compare holds the form's arithmetic against that of its bodies, as the same compiler made them.
func compare(bodies []body, code []byte) error {
	want := exact.Profile{}
	for i := range bodies {
		want.Sum(bodies[i].made)
	}
	got, err := profileOf(code, coalesce.EntryName)
	if err != nil {
		return err
	}
	if why := exact.Difference(want, got); why != "" {
		return fail(Numerics, "rewritten, the arithmetic is compiled otherwise: %s", why)
	}
	return nil
}

// versions of PTX, newest first: what is tried when the driver takes none as new as the text's (PTX ISA, "Release Notes").
var versions = [][2]int{{9, 1}, {9, 0}, {8, 8}, {8, 7}, {8, 6}, {8, 5}, {8, 4}, {8, 3}, {8, 2}, {8, 1}, {8, 0}, {7, 8}}

// assemble compiles a module with the driver's compiler. A text that says a newer version than the driver knows may use nothing of
// it, so the driver's newest is tried: the compiler itself tells whether it does.
func (b *builder) assemble(m *ptx.Module, d *Device) ([]byte, error) {
	code, err := b.link(m, d)
	for _, v := range versions {
		if !errors.Is(err, gpu.UnsupportedPTX) {
			break
		}
		if v[0] < m.Major || v[0] == m.Major && v[1] < m.Minor {
			code, err = b.link(versioned(m, v), d)
		}
	}
	if err != nil {
		return nil, fail(Assembler, "%v", err)
	}
	return code, nil
}

// versioned is the module with another .version. It shares everything else with m.
func versioned(m *ptx.Module, v [2]int) *ptx.Module {
	out := *m
	out.Major, out.Minor = v[0], v[1]
	out.Items = slices.Clone(m.Items)
	for i, it := range out.Items {
		if d, ok := it.(*ptx.Directive); ok && d.Name == ".version" {
			text := fmt.Sprintf("%d.%d", v[0], v[1])
			out.Items[i] = &ptx.Directive{Pos: d.Pos, Name: d.Name, Args: []string{text}, Text: text, Semi: d.Semi}
		}
	}
	return &out
}

func (b *builder) link(m *ptx.Module, d *Device) ([]byte, error) {
	text := m.Bytes()
	t := target(m, d)
	code, err := b.driver.LinkPTX(text, t)
	if errors.Is(err, gpu.InvalidValue) && t != gpu.DeviceTarget {
		code, err = b.driver.LinkPTX(text, gpu.DeviceTarget) // a driver that does not know the target's number
	}
	if err == nil && len(code) == 0 {
		err = fmt.Errorf("the compiler gave no code")
	}
	return code, err
}

// target is what to compile for: the device, with the features of its architecture or family when the text asks for them.
func target(m *ptx.Module, d *Device) gpu.Target {
	for _, t := range m.Target {
		number, ok := strings.CutPrefix(t, "sm_")
		if !ok || number == "" {
			continue
		}
		suffix := number[len(number)-1]
		if n, err := strconv.Atoi(number[:len(number)-1]); err == nil && (suffix == 'a' && n == 10*d.Major+d.Minor || suffix == 'f') {
			return gpu.ArchitectureTarget(10*d.Major+d.Minor, suffix)
		}
	}
	return gpu.DeviceTarget
}
