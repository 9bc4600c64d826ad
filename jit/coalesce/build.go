package coalesce

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// Rewrite makes one module that does the work of up to Spec.Capacity launches of the kernels: one kernel is coalesced, several are
// packed (ByTable only). The same input gives the same bytes. The kernels' modules are only read.
//
// An error is a *Refusal when the kernels are valid but cannot be rewritten.
func Rewrite(kernels []Kernel, spec Spec) (*Form, error) {
	if len(kernels) == 0 || len(kernels) > MaxBodies {
		return nil, fmt.Errorf("coalesce: %d kernels: expected 1 to %d", len(kernels), MaxBodies)
	}
	if spec.Mapping > ByTable {
		return nil, fmt.Errorf("coalesce: %v is no mapping", spec.Mapping)
	}
	packs := len(kernels) > 1
	if packs && spec.Mapping != ByTable {
		return nil, &Refusal{Code: CodeMapping, Entry: kernels[0].Entry, Detail: "several kernels need " + ByTable.String()}
	}
	var bodies []*body
	for i, k := range kernels {
		b, err := read(k, i, spec, packs)
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, b)
	}
	m := &module{bodies: bodies, packs: packs}
	if err := m.layout(spec); err != nil {
		return nil, err
	}
	if err := m.build(); err != nil {
		return nil, err
	}
	text := m.out.Bytes()
	if len(text) > ptx.MaxSource {
		return nil, bodies[0].refuse(CodeTooLarge, ptx.Pos{}, "the rewritten module has %d bytes, at most %d", len(text), ptx.MaxSource)
	}
	return &Form{PTX: string(text), Layout: m.l}, nil
}

// ClientGlobals gives the variables that a form of the kernel would get as addresses (Layout.GlobalNames), in order; none for a
// kernel without state, for which Spec.ClientGlobals need not be set. The error is Rewrite's for Mapping ByZ.
func ClientGlobals(k Kernel) ([]string, error) {
	b, err := read(k, 0, Spec{Mapping: ByZ, ClientGlobals: true}, false)
	if err != nil {
		return nil, err
	}
	return b.globals, nil
}

// module is the module being made.
type module struct {
	bodies []*body
	packs  bool
	l      Layout
	out    ptx.Module
}

func align(n, a int) int { return (n + a - 1) / a * a }

// layout lays out the parameter block.
func (m *module) layout(spec Spec) error {
	l := &m.l
	*l = Layout{Mapping: spec.Mapping, Align: 8}
	globals, bytes := 0, 0
	for _, b := range m.bodies {
		l.BodyBytes = append(l.BodyBytes, b.bytes)
		l.GlobalNames = append(l.GlobalNames, b.globals)
		l.Align = max(l.Align, b.align)
		l.UsesDynamicShared = l.UsesDynamicShared || b.dynamic
		l.ExactDynamicShared = l.ExactDynamicShared || b.exactDyn
		bytes, globals = max(bytes, b.bytes), max(globals, len(b.globals))
	}
	l.Tail = align(bytes, 8)
	l.Globals = l.Tail + TailBytesByZ
	if spec.Mapping == ByTable {
		l.Globals = l.Tail + TailBytes
	}
	l.Stride = align(l.Globals+8*globals, l.Align)
	l.Capacity = min(spec.Capacity, MaxInstances, MaxParamBytes/l.Stride)
	l.ParamBytes = l.Capacity * l.Stride
	if l.Capacity < 2 {
		if spec.Capacity < 2 {
			return fmt.Errorf("coalesce: capacity %d: expected at least 2", spec.Capacity)
		}
		first := m.bodies[0]
		return first.refuse(CodeParameters, first.entry.Pos, "%d bytes an instance, and a launch passes at most %d", l.Stride,
			MaxParamBytes)
	}
	for _, b := range m.bodies {
		b.globalsAt = l.Globals
	}
	return nil
}

// build makes the module.
func (m *module) build() error {
	if err := m.header(); err != nil {
		return err
	}
	attrs, err := m.attributes()
	if err != nil {
		return err
	}
	m.common()
	var body []ptx.Stmt
	if m.packs {
		m.overlays()
		var dispatch strings.Builder
		fmt.Fprintf(&dispatch, "ld.param.b32 %%word$t, [%%word$base+%d];\n", m.l.Tail+OffBody)
		for _, b := range m.bodies[1:] {
			fmt.Fprintf(&dispatch, "setp.eq.u32 %%word$p, %%word$t, %d;\n@%%word$p bra $word$body_%d;\n", b.num, b.num)
		}
		body = statements(dispatch.String())
	}
	for _, b := range m.bodies {
		if err := m.functions(b); err != nil {
			return err
		}
		r := &rewriter{body: b, l: &m.l, f: b.entry, fn: b.funcs[b.name]}
		f, err := r.function()
		if err != nil {
			return err
		}
		if m.packs && b.num > 0 {
			body = append(body, &ptx.Label{Name: fmt.Sprintf("$word$body_%d", b.num)})
		}
		body = append(body, &ptx.Block{Body: f.Body})
		body = append(body, r.epilogues()...)
	}
	declared := m.l.Align
	for base := m.bodies[0].spec.ParamBase; base%declared != 0; {
		declared /= 2
	}
	entry := &ptx.Func{Linkage: []string{".visible"}, Entry: true, Name: EntryName, HasBody: true, Attrs: attrs,
		Params: []*ptx.Var{{Space: ".param", Align: declared, Type: ".b8", Name: paramName, Dims: []int64{int64(m.l.ParamBytes)}}}}
	entry.Body = append(statements(m.prologue()), body...)
	m.out.Items = append(m.out.Items, entry)
	return nil
}

// header writes .version, .target and .address_size.
func (m *module) header() error {
	major, minor, arch := 8, 1, "" // parameters of more than 4 KiB need 8.1
	for _, b := range m.bodies {
		if v := b.mod; v.Major > major || v.Major == major && v.Minor > minor {
			major, minor = v.Major, v.Minor
		}
		if b.mod.AddressSize != 64 {
			return b.refuse(CodeTarget, ptx.Pos{}, "%d-bit addresses", b.mod.AddressSize)
		}
		own := ""
		for _, t := range b.mod.Target {
			switch {
			case strings.HasPrefix(t, "sm_") && own == "":
				own = t
			case t == "debug", strings.HasPrefix(t, "texmode_"):
			default:
				return b.refuse(CodeTarget, ptx.Pos{}, ".target %s", strings.Join(b.mod.Target, ", "))
			}
		}
		// Fences and scopes need sm_70.
		n, err := strconv.Atoi(strings.TrimRight(strings.TrimPrefix(own, "sm_"), "af"))
		if err != nil || n < 70 {
			return b.refuse(CodeTarget, ptx.Pos{}, ".target %s: expected sm_70 or newer", strings.Join(b.mod.Target, ", "))
		}
		if arch != "" && own != arch {
			return b.refuse(CodeTargetsDiffer, ptx.Pos{}, "%s, and %s for %s", own, arch, m.bodies[0].name)
		}
		arch = own
	}
	for _, d := range [][2]string{{".version", fmt.Sprintf("%d.%d", major, minor)}, {".target", arch}, {".address_size", "64"}} {
		m.out.Items = append(m.out.Items, &ptx.Directive{Name: d[0], Args: []string{d[1]}, Text: d[1]})
	}
	return nil
}

// attributes merges the directives of the kernels' heads. All blocks of a launch have one shape, so the bounds of a packed kernel
// are what all bodies have in common.
func (m *module) attributes() ([]*ptx.Directive, error) {
	if !m.packs {
		return m.bodies[0].entry.Attrs, nil
	}
	first := m.bodies[0]
	var req, most [3]uint32
	volume := func(d [3]uint32) uint64 { return uint64(d[0]) * uint64(d[1]) * uint64(d[2]) }
	minCTA, maxReg := first.limits.MinCTAPerSM, first.limits.MaxReg
	for _, b := range m.bodies {
		l := b.limits
		if l.ReqNTID[0] != 0 {
			if req[0] != 0 && req != l.ReqNTID {
				return nil, b.refuse(CodeBlockSize, b.entry.Pos, "blocks of %v threads, and of %v for another", l.ReqNTID, req)
			}
			req = l.ReqNTID
		}
		if l.MaxNTID[0] != 0 && (most[0] == 0 || volume(l.MaxNTID) < volume(most)) {
			most = l.MaxNTID
		}
		// More blocks on a processor, or fewer registers, than a body asks for could make it spill.
		minCTA = min(minCTA, l.MinCTAPerSM)
		if l.MaxReg == 0 || maxReg == 0 {
			maxReg = 0
		} else {
			maxReg = max(l.MaxReg, maxReg)
		}
		if (b.setmax || first.setmax) && (l.MaxReg != first.limits.MaxReg || l.MinCTAPerSM != first.limits.MinCTAPerSM ||
			l.MaxNTID != first.limits.MaxNTID || l.ReqNTID != first.limits.ReqNTID || b.setmax != first.setmax) {
			return nil, b.refuse(CodeRegisters, b.entry.Pos, "%s and %s have different limits", first.name, b.name)
		}
	}
	if req[0] != 0 && most[0] != 0 && volume(req) > volume(most) {
		return nil, first.refuse(CodeBlockSize, first.entry.Pos, "one kernel wants blocks of %v threads, another at most %v", req, most)
	}
	var out []*ptx.Directive
	add := func(name string, n ...uint32) {
		d := &ptx.Directive{Name: name}
		for _, v := range n {
			d.Args = append(d.Args, strconv.FormatUint(uint64(v), 10))
		}
		out = append(out, d)
	}
	switch {
	case req[0] != 0:
		add(".reqntid", req[:]...)
	case most[0] != 0:
		add(".maxntid", most[:]...)
	}
	if minCTA != 0 {
		add(".minnctapersm", minCTA)
	}
	if maxReg != 0 {
		add(".maxnreg", maxReg)
	}
	return out, nil
}

// common writes the declarations that bodies share: external functions.
func (m *module) common() {
	seen := map[string]bool{}
	for _, b := range m.bodies {
		for _, f := range b.mod.Funcs {
			if b.externs[f.Name] && !f.HasBody && !seen[f.Name] {
				seen[f.Name] = true
				m.out.Items = append(m.out.Items, f)
			}
		}
	}
}

// overlays writes the shared memory of packed kernels: a block runs one body, so that all may use the same bytes. (Of variables in
// separate scopes ptxas would add up the sizes.)
//
// Dynamic shared memory comes behind the static. Alone, a kernel without static shared memory finds it at the beginning of the
// window, and may count on that whatever its declaration says: Triton declares 16 bytes and swizzles tiles that need 1024.
func (m *module) overlays() {
	const window = 1024 // what the beginning is aligned to on every architecture, and the most that hardware asks for
	size, al, dyn, dynAl := int64(0), 1, false, 1
	for _, b := range m.bodies {
		size, al = max(size, b.sharedSz), max(al, b.sharedAl)
		dyn, dynAl = dyn || b.dynamic, max(dynAl, b.dynAlign)
	}
	if size > 0 {
		dynAl = max(dynAl, window)
	}
	if size > 0 {
		m.out.Items = append(m.out.Items, &ptx.Var{Space: ".shared", Align: al, Type: ".b8", Name: "word$shared", Dims: []int64{size}})
	}
	if dyn {
		m.out.Items = append(m.out.Items, &ptx.Var{Linkage: []string{".extern"}, Space: ".shared", Align: dynAl, Type: ".b8",
			Name: "word$dynamic", Dims: []int64{-1}})
	}
}

// functions writes a body's variables and device functions, in the order of its module.
func (m *module) functions(b *body) error {
	for _, it := range b.mod.Items {
		switch it := it.(type) {
		case *ptx.Var:
			if !b.used[it.Name] || b.client(it) || m.packs && it.Space == ".shared" {
				continue
			}
			v := *it
			v.Name, v.Cont = b.prefix()+it.Name, false
			if b.constMoved && v.Space == ".const" {
				v.Space, v.Bank = ".global", ""
			}
			if v.Init != nil {
				in := b.rename(*v.Init)
				v.Init = &in
			}
			m.out.Items = append(m.out.Items, &v)
		case *ptx.Func:
			fn := b.funcs[it.Name]
			if fn == nil || it.Entry {
				continue
			}
			r := &rewriter{body: b, l: &m.l, f: it, fn: fn}
			f, err := r.function()
			if err != nil {
				return err
			}
			m.out.Items = append(m.out.Items, f)
		}
	}
	return nil
}

// rename gives an initialiser with the names of the new module.
func (b *body) rename(in ptx.Init) ptx.Init {
	if in.Val != nil && in.Val.Kind == ptx.Sym {
		v := *in.Val
		v.Name = b.prefix() + v.Name
		in.Val = &v
	}
	in.List = slices.Clone(in.List)
	for i := range in.List {
		in.List[i] = b.rename(in.List[i])
	}
	return in
}
