package sequence

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// state of a run.
type state uint8

const (
	learning state = iota // its contents may still change
	asked                 // the maker has it, or made it
	gone                  // it is in no table any more
)

// Run is ops of one lane in a row that its client submitted before. Once it was handed to Options.Ask its contents never change.
// Fields without a word belong to the poller's thread.
type Run struct {
	// Session is the id of its client's session: kernels and addresses are that client's.
	Session uint64
	// Exec is the executable graph, 0 while there is none. The maker stores it, once.
	Exec atomic.Uint64
	// Refused is set by whoever learns that the driver does not take it: it is not used again.
	Refused atomic.Bool
	// Dropped is set when it is not to be used again and must be freed.
	Dropped atomic.Bool

	launching sync.Mutex // a graph must not be in two driver calls at a time

	items  []item
	params []byte
	// nodes are the graph's, by item; Build sets them. vary are the items whose parameters are set anew before each launch.
	nodes []gpu.GraphNode
	vary  []int
	// lane and last say where it was issued last.
	lane, last uint32
	hash       uint64
	state      state
	seen       int // how often it came again
	uses       uint64
	short      int  // how often too few of its ops were waiting
	lost       int  // how often nothing known came behind it
	next       *Run // what came behind it last
	chain      *Run // in the table's bucket
	newer      *Run // in the list by use
	older      *Run
}

// item is one op of a run.
type item struct {
	kind   uint16
	kernel *scoreboard.Kernel // of a launch
	at     int                // of a launch: its parameters in Run.params
	// varies: the parameters are others each time; same is how often in a row they were not, nevertheless.
	varies bool
	same   int
	// args is the op's body; of a launch a gpu.Launch without Stream and Params.
	args gpu.Copy3D
}

func (i *item) launch() *gpu.Launch { return (*gpu.Launch)(unsafe.Pointer(&i.args)) }

// Len is how many ops the run has.
func (r *Run) Len() int { return len(r.items) }

// Graph is what makes graphs; *gpu.Device does.
type Graph interface {
	GraphKernel(g gpu.Graph, after []gpu.GraphNode, l *gpu.Launch) (gpu.GraphNode, gpu.Result)
	GraphMemset(g gpu.Graph, after []gpu.GraphNode, dst, pitch, width, height uint64, element, value uint32) (gpu.GraphNode, gpu.Result)
	GraphCopy(g gpu.Graph, after []gpu.GraphNode, dst, src, bytes uint64) (gpu.GraphNode, gpu.Result)
}

// ScratchBytes is what Build needs.
const ScratchBytes = mostParams

// Changes says whether parameters of the run are set before each launch: then its graph must stay as long as its executable one.
func (r *Run) Changes() bool { return len(r.vary) > 0 }

// Build adds the run's ops to a graph, each behind the one before. scratch is memory of ScratchBytes that is not Go's, for what the driver
// reads. Any thread may call it once the run was handed to Options.Ask.
func (r *Run) Build(d Graph, g gpu.Graph, scratch []byte) gpu.Result {
	var after []gpu.GraphNode
	for i := range r.items {
		var node gpu.GraphNode
		var res gpu.Result
		switch it := &r.items[i]; it.kind {
		case shm.KindLaunch:
			l := *it.launch()
			if l.SharedBytes > it.kernel.Limit.Load() {
				return gpu.InvalidValue // a plain launch raises the limit first
			}
			if l.ParamBytes > 0 {
				copy(scratch, r.params[it.at:it.at+int(l.ParamBytes)])
				l.Params = uint64(uintptr(unsafe.Pointer(&scratch[0])))
			}
			node, res = d.GraphKernel(g, after, &l)
		case shm.KindMemset:
			a := &it.args
			node, res = d.GraphMemset(g, after, a[0], a[1], a[2], a[3], uint32(a[4]), uint32(a[5]))
		case shm.KindCopy:
			a := &it.args
			node, res = d.GraphCopy(g, after, a[0], a[1], a[2])
		}
		if res != gpu.Success {
			return res
		}
		r.nodes = append(r.nodes, node)
		after = r.nodes[i:]
	}
	return gpu.Success
}

// Launcher launches graphs; *gpu.Device does.
type Launcher interface {
	GraphLaunch(x gpu.GraphExec, s gpu.Stream) gpu.Result
	GraphSetKernel(x gpu.GraphExec, n gpu.GraphNode, l *gpu.Launch) gpu.Result
}

// Launch starts the run for ops that were compared with it, while no other thread does. Any thread may call it.
func (r *Run) Launch(d Launcher, on gpu.Stream, ops []*scoreboard.Op) gpu.Result {
	r.launching.Lock()
	defer r.launching.Unlock()
	x := gpu.GraphExec(r.Exec.Load())
	for _, i := range r.vary {
		if res := d.GraphSetKernel(x, r.nodes[i], ops[i].Launch()); res != gpu.Success {
			return res
		}
	}
	return d.GraphLaunch(x, on)
}

// fits says whether an op can be part of a run.
func (s *Store) fits(op *scoreboard.Op) bool {
	switch op.Kind {
	case shm.KindLaunch:
		l := op.Launch()
		// What others may join stays with them: one launch for all is cheaper still.
		joins := !s.Apart && op.Kernel.Code != nil && !op.Kernel.Apart && op.Kernel.Code.Forms.Load() != nil
		return !joins && l.Flags&shm.LaunchFlagCooperative == 0 && l.ParamBytes <= mostParams
	case shm.KindMemset:
		return true
	case shm.KindCopy:
		return op.Args[2] <= mostCopy // a pitched copy of one row is what a graph has for it
	}
	return false
}

// paramsOf are an op's parameter bytes, where its client wrote them.
func paramsOf(l *gpu.Launch) []byte {
	if l.ParamBytes == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), l.Params)), l.ParamBytes)
}

// fill makes the run's contents those of ops.
func (r *Run) fill(ops []*scoreboard.Op) {
	r.items, r.params = r.items[:0], r.params[:0]
	for _, op := range ops {
		it := item{kind: op.Kind, args: op.Args}
		if op.Kind == shm.KindLaunch {
			it.kernel, it.at = op.Kernel, len(r.params)
			r.params = append(r.params, paramsOf(op.Launch())...)
			it.launch().Params, it.launch().Stream = 0, 0
		}
		r.items = append(r.items, it)
	}
}

// cut shortens a run that is still learning.
func (r *Run) cut(n int) { r.items = r.items[:n] }

// loosen lets a few launches of a run that is still learning have other parameters each time, so that it is what ops begin with. false:
// they are too many, or something else differs.
func (r *Run) loosen(ops []*scoreboard.Op) bool {
	room := len(r.items) / changeable
	if len(ops) < len(r.items) {
		return false
	}
	var differ [Most]bool
	for i := range r.items {
		it := &r.items[i]
		if it.is(ops[i], r.params) {
			continue
		}
		if room--; i == 0 || room < 0 || !it.like(ops[i]) {
			return false
		}
		differ[i] = true
	}
	for i := range r.items {
		r.items[i].varies = r.items[i].varies || differ[i]
	}
	r.seen = -1 // once more than others, to see which of them really change
	return true
}

// renew takes the parameters of a run that is still learning from ops that are it.
func (r *Run) renew(ops []*scoreboard.Op) {
	for i := range r.items {
		it := &r.items[i]
		if !it.varies {
			continue
		}
		now := paramsOf(ops[i].Launch())
		if old := r.params[it.at:][:len(now)]; bytes.Equal(old, now) {
			it.same++
		} else {
			it.same = 0
			copy(old, now)
		}
	}
}

// settle makes the contents final. What was the same of late is expected to stay so.
func (r *Run) settle() {
	r.vary = r.vary[:0]
	for i := range r.items {
		it := &r.items[i]
		if it.varies = it.varies && it.same < again; it.varies {
			r.vary = append(r.vary, i)
		}
	}
}

// match is how many of ops, from the first one on, are the run's.
func (r *Run) match(ops []*scoreboard.Op) int {
	n := min(len(r.items), len(ops))
	for i := range n {
		if it := &r.items[i]; !it.is(ops[i], r.params) && !(it.varies && it.like(ops[i])) {
			return i
		}
	}
	return n
}

// is compares an op with a run's.
func (i *item) is(op *scoreboard.Op, params []byte) bool {
	if i.kind != op.Kind || i.kernel != op.Kernel {
		return false
	}
	if i.kind != shm.KindLaunch {
		return i.args == op.Args
	}
	return i.like(op) && bytes.Equal(params[i.at:i.at+int(i.launch().ParamBytes)], paramsOf(op.Launch()))
}

// like compares a launch with a run's, but for the values of its parameters.
func (i *item) like(op *scoreboard.Op) bool {
	if i.kind != shm.KindLaunch || i.kernel != op.Kernel {
		return false
	}
	a, b := i.launch(), op.Launch()
	return a.Grid == b.Grid && a.Block == b.Block && a.SharedBytes == b.SharedBytes && a.ParamBytes == b.ParamBytes && a.Flags == b.Flags &&
		(a.Flags == 0 || (a.Cluster == b.Cluster && a.ClusterPolicy == b.ClusterPolicy))
}

// hashOf mixes what a launch is.
func hashOf(op *scoreboard.Op, secret uint64) uint64 {
	const odd = 0x9e3779b97f4a7c15
	l := op.Launch()
	h := (secret ^ op.Session.ID<<32 ^ uint64(op.Kernel.ID)) * odd
	for _, v := range [...]uint32{l.Grid[0], l.Grid[1], l.Grid[2]} {
		h = (h ^ h>>29 ^ uint64(v)) * odd
	}
	p := paramsOf(l)
	for ; len(p) >= 8; p = p[8:] {
		h = (h ^ h>>29 ^ binary.LittleEndian.Uint64(p)) * odd
	}
	for _, b := range p {
		h = (h ^ h>>29 ^ uint64(b)) * odd
	}
	return h ^ h>>32
}
