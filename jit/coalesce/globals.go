package coalesce

import (
	"slices"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// literal tells a read-only literal of the compiler from a variable that somebody may write: strings of assertions, tables of the
// mathematical library. jit/image tells them by the same prefixes.
func literal(name string) bool {
	for _, p := range []string{"$str", "__unnamed_", "$__", "__cuda_", "$_", "__cudart_i2opi", "__cudart_sin_cos_coeffs"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// need is one value that a device function gets from its caller: a word (index into wordNames), or a global's address.
type need struct {
	global bool
	num    int
}

// classify decides which variables of the module stay, and which belong to clients.
func (b *body) classify() error {
	// An initialiser may hold addresses of further variables and functions.
	var work []*ptx.Var
	for _, v := range b.mod.Vars {
		if b.used[v.Name] && b.vars[v.Name] == v {
			work = append(work, v)
		}
	}
	for len(work) > 0 {
		v := work[len(work)-1]
		work = work[:len(work)-1]
		for _, o := range initNames(v.Init, nil) {
			switch w := b.vars[o.Name]; {
			case b.client(v):
				b.outsideFuncs = b.outsideFuncs || b.defs[o.Name] != nil || b.decls[o.Name] != nil
			case w == nil:
				return b.refuse(CodeGlobalUse, o.Pos, "the initialiser of %s holds the address of %s", v.Name, o.Name)
			case !b.used[o.Name]:
				b.used[o.Name] = true
				work = append(work, w)
			}
		}
	}
	for _, v := range b.mod.Vars {
		if !b.used[v.Name] || b.vars[v.Name] != v {
			continue
		}
		if reserved(v.Name) {
			return b.refuse(CodeReservedName, v.Pos, "variable %s", v.Name)
		}
		if !b.client(v) {
			continue
		}
		if !b.spec.ClientGlobals {
			return b.refuse(CodeGlobals, v.Pos, "variable %s belongs to each client", v.Name)
		}
		b.globalNum[v.Name] = len(b.globals)
		b.globals = append(b.globals, v.Name)
		b.constMoved = b.constMoved || v.Space == ".const"
	}
	for _, v := range b.mod.Vars {
		if b.vars[v.Name] != v || !b.used[v.Name] || b.client(v) {
			continue
		}
		for _, o := range initNames(v.Init, nil) {
			if w := b.vars[o.Name]; w != nil && b.client(w) {
				return b.refuse(CodeGlobalUse, o.Pos, "the initialiser of %s holds the address of a client's variable %s", v.Name, o.Name)
			}
		}
	}
	if 8*len(b.globals) > MaxParamBytes/2 {
		return b.refuse(CodeParameters, b.entry.Pos, "the addresses of %d variables, and a launch passes at most %d bytes",
			len(b.globals), MaxParamBytes)
	}
	if b.constMoved {
		for _, v := range b.entry.Params {
			if v.PtrSpc == ".const" {
				return b.refuse(CodeGlobalUse, v.Pos, "parameter %s points to constant memory", v.Name)
			}
		}
	}
	if b.clusters && b.spec.Mapping == ByTable {
		return b.refuse(CodeCluster, b.entry.Pos, "clusters cannot be told apart by a table of blocks")
	}
	return nil
}

// client tells whether a module variable is state that each client has for itself: everything that the host or a kernel can write.
func (b *body) client(v *ptx.Var) bool {
	if v.Space != ".global" && v.Space != ".const" {
		return false
	}
	return !literal(v.Name) || v.Init == nil || b.written[v.Name]
}

// initNames collects the symbols in an initialiser.
func initNames(in *ptx.Init, out []*ptx.Operand) []*ptx.Operand {
	if in == nil {
		return out
	}
	if in.Val != nil && in.Val.Kind == ptx.Sym {
		out = append(out, in.Val)
	}
	for i := range in.List {
		out = initNames(&in.List[i], out)
	}
	return out
}

// closure finds what each device function must be told by its callers: with ByTable which block it is, always the addresses of
// the client's variables. A caller needs what its callees need.
func (b *body) closure() error {
	const maxClosure = 8 << 20 // bounds functions × callers × values
	type set map[need]bool
	sets := map[string]set{}
	callers := map[string][]string{}
	var work []string
	for name, fn := range b.funcs {
		s := set{}
		for g := range fn.globals {
			if n, ok := b.globalNum[g]; ok {
				s[need{true, n}] = true
			}
		}
		for i := range wordNames {
			if b.spec.Mapping == ByTable && fn.words>>i&1 != 0 {
				s[need{false, i}] = true
			}
		}
		sets[name] = s
		for _, c := range fn.callees {
			callers[c] = append(callers[c], name)
		}
		work = append(work, name)
	}
	for steps := 0; len(work) > 0; {
		name := work[len(work)-1]
		work = work[:len(work)-1]
		if steps += len(callers[name]) * (1 + len(sets[name])); steps > maxClosure {
			return b.refuse(CodeTooLarge, b.entry.Pos, "its functions pass too much to each other")
		}
		for _, c := range callers[name] {
			before := len(sets[c])
			for n := range sets[name] {
				sets[c][n] = true
			}
			if len(sets[c]) != before {
				work = append(work, c)
			}
		}
	}
	for name, fn := range b.funcs {
		for n := range sets[name] {
			fn.needs = append(fn.needs, n)
			if !n.global {
				fn.words |= 1 << n.num
			}
		}
		slices.SortFunc(fn.needs, func(a, c need) int {
			if a.global != c.global {
				if c.global {
					return -1
				}
				return 1
			}
			return a.num - c.num
		})
	}
	if b.indirect && (b.taken == nil || b.outsideFuncs) {
		return b.refuse(CodeIndirectCall, b.entry.Pos, "calls functions by addresses from memory, which are those of the client's module")
	}
	if b.taken != nil || b.indirect {
		for _, f := range b.mod.Funcs {
			if fn := b.funcs[f.Name]; fn != nil && !f.Entry && len(fn.needs) > 0 {
				return b.refuse(CodeIndirectCall, f.Pos,
					"%s may be called through its address, and reads its block's number or a client's variable", f.Name)
			}
		}
	}
	return nil
}
