package executor

import (
	"fmt"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// This file adds the nodes of several clients' graphs to the driver's graph of a word (graphwords.go): side by side, or what they do alike at
// the same place as one node. Nodes of different chains become one only where they have the same number, and every edge leads from a
// smaller number to a larger one, so no edges of several chains make a circle.

// maxCoalescedBytes bounds the parameter blocks of all coalesced nodes that exist: each holds as much as its form has room for.
const maxCoalescedBytes = 64 << 20

// chain is a graph of a word while its nodes are added.
type chain struct {
	owned
	index int // in the word
	read  *shm.GraphReader
	check *scoreboard.GraphChecker
	apart map[*scoreboard.Kernel]bool // launches of them are joined with nobody's
	op    scoreboard.Op
	view  shm.RecordView
	nodes []gpu.GraphNode // by number
	led   []bool          // some node of the chain is behind it
}

// chains are the graphs of a word, while nodes are added for all of them at once. All of it is the loader's thread's.
type chains struct {
	m     *joiner
	made  gpu.Graph
	word  *scoreboard.GraphWord
	took  *madeWord
	nodes int // so far
}

// addChains adds the nodes of a word's graphs, and what writes the done words behind them.
func (m *joiner) addChains(made gpu.Graph, w *scoreboard.GraphWord, members []owned, took *madeWord) error {
	b := &chains{m: m, made: made, word: w, took: took}
	w.Coalesced = make([]int, len(members))
	for _, group := range groups(w) {
		all := make([]*chain, len(group))
		for k, i := range group {
			c, err := m.begin(members[i])
			if err != nil {
				return err
			}
			c.index, all[k] = i, c
		}
		if err := b.add(all); err != nil {
			return err
		}
		err := m.x.loader.do(func() error {
			for k, i := range group {
				if err := b.end(all[k], took.ends[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return m.x.loader.do(func() error {
		m.nodes += b.nodes - took.nodes
		took.nodes = b.nodes
		m.count()
		switch {
		case w.Coalesce && w.CoalescedNodes == 0:
			return errNothingAlike
		case m.nodes > maxChainNodes:
			return errNoRoom
		}
		return nil
	})
}

// groups are the graphs of a word, by number, that may do the same: of a word that coalesces. Of another each is by itself.
func groups(w *scoreboard.GraphWord) (out [][]int) {
	for i, g := range w.Graphs {
		at := -1
		if w.Coalesce {
			at = slices.IndexFunc(out, func(group []int) bool {
				first := w.Graphs[group[0]]
				return first.Key == g.Key && first.Nodes == g.Nodes
			})
		}
		if at < 0 {
			out = append(out, []int{i})
		} else {
			out[at] = append(out[at], i)
		}
	}
	return out
}

// begin starts reading a graph.
func (m *joiner) begin(o owned) (*chain, error) {
	c := &chain{owned: o, read: shm.NewGraphReader(o.graph.memory, o.graph.nodes), apart: map[*scoreboard.Kernel]bool{}}
	var memory scoreboard.Ranges
	ok := m.x.poller.call(func() {
		memory = o.session.client.board.Memory.Clone()
		for _, k := range o.graph.kernels {
			if k.Apart {
				c.apart[k] = true
			}
		}
	})
	if !ok {
		return nil, errStopping
	}
	c.check = scoreboard.NewGraphChecker(memory, o.graph.kernels)
	return c, nil
}

// add adds the nodes of graphs that have equally many, in pieces, between which the loader's thread serves others.
func (b *chains) add(all []*chain) error {
	for more := true; more; {
		for _, c := range all {
			if c.session.leaves() {
				return errStopping
			}
		}
		err := b.m.x.loader.do(func() (err error) {
			for range max(1, nodesAtOnce/len(all)) {
				if more, err = b.row(all); err != nil || !more {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// row adds the next node of each graph; false: that was all.
func (b *chains) row(all []*chain) (more bool, err error) {
	for _, c := range all {
		if c.view, more, err = c.read.Next(); err != nil || !more {
			return false, asNodes(err)
		}
		if err := c.check.Node(&c.op, &c.view); err != nil {
			return false, asNodes(fmt.Errorf("node %d: %w", c.read.Node(), err))
		}
	}
	var form *scoreboard.Form
	var each int
	var together []*chain
	if len(all) > 1 && alike(all) {
		if form, each = word.NodeForm(&all[0].op, len(all), b.m.x.facts.Chip); form != nil {
			for _, c := range all {
				if !c.apart[c.op.Kernel] && word.NodeTakes(form, &c.op) {
					together = append(together, c)
				}
			}
		}
	}
	for parts := (len(together) + max(1, each) - 1) / max(1, each); len(together) > 1; parts-- { // as even as can be
		n := (len(together) + parts - 1) / parts
		if n > 1 && b.m.bytes+form.Layout.ParamBytes <= maxCoalescedBytes {
			if err := b.one(form, together[:n]); err != nil {
				return false, err
			}
		}
		together = together[n:]
	}
	number := int(all[0].read.Node())
	for _, c := range all {
		if len(c.nodes) < number {
			if err := b.single(c); err != nil {
				return false, err
			}
		}
		c.led = append(c.led, false)
		for _, dep := range c.view.Deps() {
			c.led[dep.Value-1] = true
		}
	}
	return true, nil
}

// alike says whether the nodes at hand of several graphs are launches of one kernel, behind the same nodes, that differ in parameters only.
func alike(all []*chain) bool {
	first := all[0]
	if first.op.Kind != shm.KindLaunch {
		return false
	}
	l := first.op.Launch()
	for _, c := range all[1:] {
		if c.op.Kind != shm.KindLaunch || c.op.Kernel.Code != first.op.Kernel.Code || !slices.Equal(c.view.Deps(), first.view.Deps()) {
			return false
		}
		o := c.op.Launch()
		if o.Grid != l.Grid || o.Block != l.Block || o.SharedBytes != l.SharedBytes || o.Flags != l.Flags || o.Cluster != l.Cluster ||
			o.ClusterPolicy != l.ClusterPolicy || o.ParamBytes != l.ParamBytes {
			return false
		}
	}
	return true
}

// before appends the driver's nodes that the node at hand is behind.
func (c *chain) before(after []gpu.GraphNode) []gpu.GraphNode {
	for _, dep := range c.view.Deps() {
		after = append(after, c.nodes[dep.Value-1])
	}
	return after
}

// single adds the node at hand of one graph.
func (b *chains) single(c *chain) error {
	var room [shm.MaxDeps]gpu.GraphNode
	n, r := c.session.addNode(b.made, c.before(room[:0]), &c.op)
	if r != gpu.Success {
		return asDriver(fmt.Errorf("the driver does not take node %d (kind %d): %w", c.read.Node(), c.op.Kind, r))
	}
	c.nodes = append(c.nodes, n)
	b.nodes++
	return nil
}

// one adds the nodes at hand of several graphs as one launch of a form.
func (b *chains) one(f *scoreboard.Form, all []*chain) error {
	var after []gpu.GraphNode
	ops := make([]*scoreboard.Op, len(all))
	for i, c := range all {
		after = c.before(after)
		ops[i] = &c.op
	}
	slices.Sort(after)
	l := word.Node(f, ops, b.m.block)
	r := f.Raise(l.SharedBytes, func(bytes int) gpu.Result {
		return b.m.x.driver.SetFuncAttribute(f.Function, gpu.FuncMaxDynamicShared, bytes)
	})
	var n gpu.GraphNode
	if r == gpu.Success {
		n, r = b.m.x.driver.GraphKernel(b.made, slices.Compact(after), &l)
	}
	if r != gpu.Success {
		return asDriver(fmt.Errorf("the driver does not take node %d of %d graphs as one: %w", all[0].read.Node(), len(all), r))
	}
	for _, c := range all {
		c.nodes = append(c.nodes, n)
		b.word.Coalesced[c.index]++
	}
	b.nodes++
	b.took.bytes += f.Layout.ParamBytes
	b.m.bytes += f.Layout.ParamBytes
	b.word.CoalescedNodes++
	return nil
}

// end adds what writes the done word of a graph behind those of its nodes that nothing of it is behind.
func (b *chains) end(c *chain, end chainEnd) error {
	var after []gpu.GraphNode
	for k, led := range c.led {
		if !led {
			after = append(after, c.nodes[k])
		}
	}
	l := &gpu.Launch{Function: b.m.end, Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}, Params: end.params, ParamBytes: 24}
	if _, r := b.m.x.driver.GraphKernel(b.made, after, l); r != gpu.Success {
		return asDriver(fmt.Errorf("the end of a chain: %w", r))
	}
	b.nodes++
	return nil
}
