package coalesce

import (
	"strconv"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// scope holds the variables declared in one pair of braces (PTX ISA 4.4: names are those of the innermost declaration).
type scope struct {
	names, ranges map[string]*ptx.Var
}

// scopes is the stack of scopes around a statement, outermost first.
type scopes []scope

func (s *scopes) push() { *s = append(*s, scope{map[string]*ptx.Var{}, map[string]*ptx.Var{}}) }
func (s *scopes) pop()  { *s = (*s)[:len(*s)-1] }

func (s scopes) declare(v *ptx.Var) {
	top := s[len(s)-1]
	if v.Range > 0 {
		top.ranges[v.Name] = v
	} else {
		top.names[v.Name] = v
	}
}

// find gives the declaration that a name refers to, nil when none is in scope. "%r10" may be %r10 itself or one of a range %r<N>.
func (s scopes) find(name string) *ptx.Var {
	cut := len(name)
	for cut > 0 && len(name)-cut < 10 && name[cut-1] >= '0' && name[cut-1] <= '9' {
		cut--
	}
	for i := len(s) - 1; i >= 0; i-- {
		if v := s[i].names[name]; v != nil {
			return v
		}
		for k := cut; k < len(name); k++ {
			v := s[i].ranges[name[:k]]
			if v == nil || name[k] == '0' && len(name)-k > 1 {
				continue
			}
			if n, err := strconv.Atoi(name[k:]); err == nil && n < v.Range {
				return v
			}
		}
	}
	return nil
}

// labelScope holds the labels of one pair of braces. Labels are known in their whole scope, before their definition too.
type labelScope struct {
	parent *labelScope
	labels map[string]*ptx.Label
}

func (s *labelScope) find(name string) *ptx.Label {
	for ; s != nil; s = s.parent {
		if l := s.labels[name]; l != nil {
			return l
		}
	}
	return nil
}

// ends finds where a kernel's threads end.
type ends struct {
	scopes map[*ptx.Block]*labelScope // of nested blocks; nil key: the body itself
	// returns has the labels behind which there is nothing but the thread's end.
	returns map[*ptx.Label]bool
	// shared is the number of the first instruction (nested blocks included, in source order) from where on all exits may lead to
	// one epilogue: no thread that has come so far waits for another any more.
	shared int
}

func findEnds(body []ptx.Stmt, waits func(*ptx.Inst) bool) *ends {
	e := &ends{scopes: map[*ptx.Block]*labelScope{}, returns: map[*ptx.Label]bool{}}
	e.collect(nil, nil, body)
	// Each round finds jumps to labels that the last one found. Longer chains of jumps are not worth following.
	for round := 0; round < 4; round++ {
		e.backward(nil, body, true)
	}
	e.share(body, waits)
	return e
}

// share finds ends.shared: behind the last instruction that waits, if no jump leads past it in either direction.
func (e *ends) share(body []ptx.Stmt, waits func(*ptx.Inst) bool) {
	type place struct {
		in    *ptx.Inst
		scope *labelScope
	}
	var code []place
	at := map[*ptx.Label]int{}
	var collect func(b *ptx.Block, list []ptx.Stmt)
	collect = func(b *ptx.Block, list []ptx.Stmt) {
		for _, st := range list {
			switch st := st.(type) {
			case *ptx.Label:
				at[st] = len(code)
			case *ptx.Block:
				collect(st, st.Body)
			case *ptx.Inst:
				code = append(code, place{st, e.scopes[b]})
				if waits(st) {
					e.shared = len(code)
				}
			}
		}
	}
	collect(nil, body)
	for i, p := range code {
		switch p.in.Op {
		case "bra":
			to := p.scope.find(p.in.Args[0].Name)
			if !e.returns[to] && (i < e.shared) != (at[to] < e.shared) {
				e.shared = len(code) + 1
				return
			}
		case "brx":
			if e.shared > 0 {
				e.shared = len(code) + 1
				return
			}
		}
	}
}

func (e *ends) collect(at *ptx.Block, parent *labelScope, list []ptx.Stmt) {
	s := &labelScope{parent, map[string]*ptx.Label{}}
	e.scopes[at] = s
	for _, st := range list {
		switch st := st.(type) {
		case *ptx.Label:
			s.labels[st.Name] = st
		case *ptx.Block:
			e.collect(st, s, st.Body)
		}
	}
}

// backward walks a list from its end; over tells whether what follows the list ends the thread.
func (e *ends) backward(at *ptx.Block, list []ptx.Stmt, over bool) {
	for i := len(list) - 1; i >= 0; i-- {
		switch st := list[i].(type) {
		case *ptx.Label:
			if over {
				e.returns[st] = true
			}
		case *ptx.Block:
			e.backward(st, st.Body, over)
			over = false
		case *ptx.Inst:
			switch {
			case st.Pred == "" && endsThread(st):
				over = true
			case st.Pred == "" && st.Op == "bra" && len(st.Args) == 1:
				over = e.returns[e.scopes[at].find(st.Args[0].Name)]
			default:
				over = false
			}
		}
	}
}

// endsThread tells whether an instruction in a kernel ends the threads that execute it.
func endsThread(in *ptx.Inst) bool { return in.Op == "ret" || in.Op == "exit" }
