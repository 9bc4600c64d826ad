package word

import (
	"math"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/shm"
)

// Clients that serve one model launch the same graph. Of such a word there can be a second one, in which what the chains do alike at the same
// place is one launch of a form: fewer nodes, wider launches, and chains that wait for one another at each. It is asked for when kernels of
// the graphs have forms, used beside the first, and kept while it is measured to be faster.

// way is how the launches of a word of graphs go.
type way uint8

const (
	wayApart     way = iota // one by one
	wayBeside               // as one word, the chains side by side
	wayCoalesced            // as one word with alike nodes of the chains as one
	ways
)

const (
	// alikeLook is after how many launches of a word it is asked again whether its kernels have forms.
	alikeLook = 16
	// remakeAfter is how long a word with some kernels coalesced stays as it is when more could be, ns: forms come one after another.
	remakeAfter = int64(1e8)
)

// CoalescedCounters are what became of words of graphs in which alike nodes are one: words issued, such nodes in them, and the chains'
// kernels in those; words asked for, and words measured not to pay.
type CoalescedCounters struct {
	Words, Nodes, Kernels, Asked, Unpaid uint64
}

// alikeWord is a word of graphs with alike nodes as one, or a note why there is none.
type alikeWord struct {
	word   *scoreboard.GraphWord // nil: none
	formed uint64                // instances that forms had room for when it was asked for
	look   uint64                // round of the word in which forms are looked for again
	again  int64                 // and not before, ns
	pause  int64                 // how long it is left alone when it does not pay, or cannot be made, ns
}

func (a *alikeWord) usable() bool {
	return a.word != nil && a.word.Built.Load() && !a.word.Refused.Load()
}

// turn says how a word's launches go this time, and whether that is measured. Until each way was measured often enough they take turns.
func (w *teamWord) turn(g *graphGather) (how way, measure bool) {
	how = wayBeside
	if w.alike.usable() {
		how = wayCoalesced
	}
	if g.options.Always || g.probe.word != nil {
		return how, false
	}
	beside, apart := w.took[wayBeside].n, w.took[wayApart].n
	at := w.rounds % probeEvery
	switch {
	case beside > apart && apart < sure:
		return wayApart, true
	case beside < sure:
		return wayBeside, true
	case how == wayCoalesced && w.took[how].n < sure:
		return how, true
	case at == probeEvery/2:
		return wayApart, true
	case at == probeEvery/4 && how == wayCoalesced:
		return wayBeside, true
	}
	return how, at == 0
}

// better is how long the better one of a word's two ways takes; nil: that is not known yet. The one that coalesces is given up, for a
// time, when it is not faster.
func (g *graphGather) better(w *teamWord, now int64) *mean {
	beside, coalesced := &w.took[wayBeside], &w.took[wayCoalesced]
	a := &w.alike
	switch {
	case a.word == nil || a.word.Refused.Load():
		return beside
	case beside.n < sure || coalesced.n < sure:
		return nil
	case float64(coalesced.ns) <= pays*float64(beside.ns):
		return coalesced
	}
	g.Coalesced.Unpaid++
	g.turnOffAlike(w, now)
	return beside
}

// turnOffAlike gives up what is coalesced of a word for a time, longer each time.
func (g *graphGather) turnOffAlike(w *teamWord, now int64) {
	g.giveUpAlike(w)
	a := &w.alike
	a.pause = min(max(unpaid, 2*a.pause), unpaidMost)
	a.formed, a.again = 0, now+a.pause
}

// giveUpAlike gives up what is coalesced of a word.
func (g *graphGather) giveUpAlike(w *teamWord) {
	if c := w.alike.word; c != nil {
		c.Dropped.Store(true)
		g.options.Retire(c)
	}
	w.alike.word, w.took[wayCoalesced] = nil, mean{}
	if g.probe.word == w && g.probe.how == wayCoalesced {
		g.probe.word = nil
	}
}

// coalesce asks for forms of what several chains of a word do, and for the word with them once there are some, or more than it has. It is for
// every launch of the word, and does something in one of alikeLook.
func (g *Gather) coalesce(w *teamWord, now int64) {
	a := &w.alike
	if w.rounds < a.look || w.Dropped.Load() {
		return
	}
	a.look = w.rounds + alikeLook
	if a.word != nil && a.word.Refused.Load() { // there was no room, or nothing alike: it may be otherwise later
		g.graphs.turnOffAlike(w, now)
	}
	if a.word != nil && !a.word.Built.Load() {
		return
	}
	formed := g.formed(w.Graphs)
	if formed <= a.formed || now < a.again || w.off || !g.graphs.mayAsk() {
		return
	}
	c := &scoreboard.GraphWord{Graphs: w.Graphs, Coalesce: true}
	if !c.Usable() || !g.graphs.options.Ask(c) {
		return
	}
	g.graphs.giveUpAlike(w)
	g.graphs.Coalesced.Asked++
	g.graphs.asked = append(g.graphs.asked, c)
	a.word, a.formed, a.again = c, formed, now+remakeAfter
}

// formed is how much of what several graphs do alike forms have room for: kernels × instances. It asks for forms where there is none.
func (g *Gather) formed(graphs []*scoreboard.Graph) (sum uint64) {
	for i, f := range graphs {
		n := 0
		for k, o := range graphs {
			if o.Key == f.Key && o.Nodes == f.Nodes {
				if k < i {
					n = 0
					break // seen
				}
				n++
			}
		}
		if n < 2 {
			continue
		}
		for _, c := range f.Codes {
			room := 0
			if forms := c.Code.Forms.Load(); forms != nil {
				for _, form := range *forms {
					if len(form.Bodies) == 1 && !form.Refused.Load() && (c.Flat || form.Layout.Mapping == coalesce.ByTable) {
						room = max(room, form.Layout.Capacity)
					}
				}
			}
			sum += c.Count * uint64(min(room, n))
			if room < n && g.options.Demand != nil {
				g.options.Demand.Together(c.Code, n, c.Flat)
			}
		}
	}
	return sum
}

// NodeForm is the form in which launches like op, of several chains, go as one node, and how many of up to n at most; nil: there is none
// that can, or the chip does not hold so much at a time: larger kernels gain nothing by waiting for one another. The loader's thread may
// call it.
func NodeForm(op *scoreboard.Op, n int, chip cost.Chip) (f *scoreboard.Form, most int) {
	code, l := op.Kernel.Code, op.Launch()
	if code == nil || l.Flags&shm.LaunchFlagCooperative != 0 {
		return nil, 0
	}
	forms := code.Forms.Load()
	area, threads := uint64(l.Grid[0])*uint64(l.Grid[1]), uint64(l.Block[0])*uint64(l.Block[1])
	if forms == nil || area > math.MaxInt32 || threads > 1024 {
		return nil, 0
	}
	blocks := area * uint64(l.Grid[2])
	threads *= uint64(l.Block[2])
	if blocks == 0 || threads == 0 || threads > 1024 {
		return nil, 0
	}
	for _, o := range *forms { // by z first, then by capacity
		byZ := o.Layout.Mapping == coalesce.ByZ
		switch {
		case len(o.Bodies) > 1 || o.Refused.Load() || !o.Takes(threads) || byZ && l.Grid[2] != 1 || !byZ && l.Flags != 0:
		case f == nil || f.Layout.Mapping == o.Layout.Mapping && f.Layout.Capacity < n:
			f = o
		}
	}
	if f == nil {
		return nil, 0
	}
	resident := chip.Resident(int(threads), f.Registers, f.StaticShared+int(min(l.SharedBytes, 1<<20)))
	most = int(min(uint64(min(n, f.Layout.Capacity, MaxSlots)), uint64(resident)/blocks))
	if most < 2 {
		return nil, 0
	}
	return f, most
}

// NodeTakes says whether a form that NodeForm gave can do a launch: its parameters are as long as they must be, and its client's variables
// are known. The loader's thread may call it.
func NodeTakes(f *scoreboard.Form, op *scoreboard.Op) bool {
	if op.Launch().ParamBytes < uint64(f.Layout.BodyBytes[0]) {
		return false
	}
	if len(f.Layout.GlobalNames) == 0 || len(f.Layout.GlobalNames[0]) == 0 {
		return true
	}
	at := op.Kernel.Globals.Load()
	return at != nil && len(*at) == len(f.Layout.GlobalNames[0])
}

// Node makes a node's launch of launches that differ in parameters only, in a form that takes them all. It stores no done words. block is
// memory for its parameters, not Go's, of at least coalesce.MaxParamBytes: the driver reads it when the node is added.
func Node(f *scoreboard.Form, ops []*scoreboard.Op, block []byte) gpu.Launch {
	b := Batch{Form: f, Count: len(ops), params: block}
	copy(b.Ops[:], ops)
	b.Fill()
	return b.Launch
}
