package effects

import (
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// flow is the kernel's control flow: instructions in a row, blocks, and who dominates whom.
type flow struct {
	code     []*ptx.Inst
	block    []int // instruction → block
	begin    []int // block → first instruction; one more at the end
	pred     [][]int
	idom     []int // -1 for the entry and for blocks that are never reached
	order    []int // reverse postorder number of a block, -1 when never reached
	indirect bool  // there is a branch whose targets are not looked for: nothing is known of order
	labels   map[string]int
}

func ends(in *ptx.Inst) bool {
	switch in.Op {
	case "bra", "brx", "ret", "exit", "trap":
		return true
	}
	return false
}

func newFlow(body []ptx.Stmt) *flow {
	f := &flow{labels: map[string]int{}}
	twice := false
	var walk func(body []ptx.Stmt)
	walk = func(body []ptx.Stmt) {
		for _, s := range body {
			switch s := s.(type) {
			case *ptx.Block:
				walk(s.Body)
			case *ptx.Label:
				if _, have := f.labels[s.Name]; have {
					twice = true // labels of nested scopes may share a name
				}
				f.labels[s.Name] = len(f.code)
			case *ptx.Inst:
				f.code = append(f.code, s)
			}
		}
	}
	walk(body)
	f.indirect = twice
	n := len(f.code)
	first := make([]bool, n+1)
	first[0] = true
	for _, at := range f.labels {
		first[at] = true
	}
	for i, in := range f.code {
		if ends(in) {
			first[i+1] = true
		}
		if in.Op == "brx" || in.Op == "call" && len(in.Args) == 0 {
			f.indirect = true
		}
	}
	f.block = make([]int, n)
	for i := range n {
		if first[i] {
			f.begin = append(f.begin, i)
		}
		f.block[i] = len(f.begin) - 1
	}
	f.begin = append(f.begin, n)
	f.edges()
	return f
}

// target is the block that a branch goes to, -1 when it leaves the kernel.
func (f *flow) target(in *ptx.Inst) int {
	if len(in.Args) == 1 && in.Args[0].Kind == ptx.Sym {
		if at, ok := f.labels[in.Args[0].Name]; ok {
			if at < len(f.code) {
				return f.block[at]
			}
			return -1
		}
	}
	f.indirect = true
	return -1
}

// successors are where a block can go: by its branch (-1: nowhere), and on to the next (-1: it does not).
func (f *flow) successors(b int) (branch, next int) {
	branch, next = -1, b+1
	last := f.code[f.begin[b+1]-1]
	if ends(last) {
		if last.Op == "bra" {
			branch = f.target(last)
		}
		if last.Pred == "" {
			next = -1
		}
	}
	if next == len(f.begin)-1 {
		next = -1
	}
	return branch, next
}

// edges finds predecessors, an order, and dominators (Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm").
func (f *flow) edges() {
	n := len(f.begin) - 1
	f.pred = make([][]int, n)
	f.idom, f.order = make([]int, n), make([]int, n)
	for b := range n {
		f.idom[b], f.order[b] = -1, -1
	}
	if n == 0 {
		return
	}
	var post []int
	seen := make([]bool, n)
	type visit struct{ b, step int }
	stack := []visit{{0, 0}}
	seen[0] = true
	for len(stack) > 0 {
		v := &stack[len(stack)-1]
		if v.step == 2 {
			post = append(post, v.b)
			stack = stack[:len(stack)-1]
			continue
		}
		branch, next := f.successors(v.b)
		to := branch
		if v.step == 1 {
			to = next
		}
		v.step++
		if to < 0 {
			continue
		}
		f.pred[to] = append(f.pred[to], v.b)
		if !seen[to] {
			seen[to] = true
			stack = append(stack, visit{to, 0})
		}
	}
	for i, b := range post {
		f.order[b] = len(post) - 1 - i
	}
	f.idom[0] = 0
	for changed := true; changed; {
		changed = false
		for i := len(post) - 2; i >= 0; i-- {
			b, dom := post[i], -1
			for _, p := range f.pred[b] {
				if f.idom[p] < 0 {
					continue
				}
				if dom < 0 {
					dom = p
					continue
				}
				for x := p; x != dom; {
					for f.order[x] > f.order[dom] {
						x = f.idom[x]
					}
					for f.order[dom] > f.order[x] {
						dom = f.idom[dom]
					}
				}
			}
			if dom != f.idom[b] {
				f.idom[b], changed = dom, true
			}
		}
	}
	f.idom[0] = -1
}

// dominates reports whether every way to block b goes through block a.
func (f *flow) dominates(a, b int) bool {
	if f.order[a] < 0 || f.order[b] < 0 {
		return false
	}
	for b >= 0 && f.order[b] > f.order[a] {
		b = f.idom[b]
	}
	return a == b
}

// before reports whether every way to instruction j goes through instruction i first.
func (f *flow) before(i, j int) bool {
	if f.block[i] == f.block[j] {
		return i < j && f.order[f.block[i]] >= 0
	}
	return f.dominates(f.block[i], f.block[j])
}

// facts are the conditions that hold where instruction i is executed: its own guard, and the branches that every way to it has
// taken. Only registers with one value from definition to use count (analysis.ssa): a branch that dominates i then compared the
// values that i sees. For if the register's definition D were executed once more between branch and i, there would be a way from
// D to i around the branch, and with it a way from the entry to i around the branch.
func (f *flow) facts(i int, a *analysis) (out []fact) {
	if f.indirect {
		return nil
	}
	in := f.code[i]
	a.condition(in.Pred, !in.PNeg, &out)
	for b := f.block[i]; b >= 0 && f.order[b] >= 0; b = f.idom[b] {
		if len(f.pred[b]) != 1 {
			continue
		}
		p := f.pred[b][0]
		last := f.code[f.begin[p+1]-1]
		branch, next := f.successors(p)
		if !ends(last) || last.Op == "brx" || last.Pred == "" || branch == next {
			continue
		}
		a.condition(last.Pred, (branch == b) != last.PNeg, &out)
	}
	return out
}

// maxFacts bounds what is kept for one access.
const maxFacts = 32

// condition adds what follows when predicate p is value.
func (a *analysis) condition(p string, value bool, out *[]fact) {
	r, ok := a.e.regs[p]
	if !ok || !a.ssa[r] || len(*out) >= maxFacts {
		return
	}
	in := a.flow.code[a.defs[r][0]]
	part := func(k int) {
		if o := in.Args[k]; o.Kind == ptx.Sym {
			a.condition(o.Name, value != o.Neg, out)
		}
	}
	typ := ""
	if len(in.Mods) > 0 {
		typ = strings.TrimPrefix(in.Mods[len(in.Mods)-1], ".")
	}
	switch {
	case in.Op == "setp" && len(in.Mods) == 2 && len(in.Args) == 3 && in.Args[0].Kind == ptx.Sym && !isFloat(typ):
		*out = append(*out, fact{strings.TrimPrefix(in.Mods[0], "."), typ, in.Args[1], in.Args[2], value})
	case in.Op == "and" && value && len(in.Args) == 3, in.Op == "or" && !value && len(in.Args) == 3:
		part(1)
		part(2)
	case in.Op == "not" && len(in.Args) == 2:
		if o := in.Args[1]; o.Kind == ptx.Sym {
			a.condition(o.Name, value == o.Neg, out)
		}
	case in.Op == "mov" && len(in.Args) == 2:
		part(1)
	}
}

func isFloat(t string) bool {
	return strings.HasPrefix(t, "f") || strings.HasPrefix(t, "bf") || strings.HasPrefix(t, "tf")
}
