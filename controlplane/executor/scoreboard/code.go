package scoreboard

import (
	"sync"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// Code is one kernel of one image, whoever launches it: every op of one Code runs the same instructions. All sessions of an
// executor share it; Kernel.Code points to it. It is made by the loader and never goes away while its executor lives.
//
// The poller's thread reads Forms at every decision; forms are compiled and loaded in the background and published there when
// they can be launched at once.
type Code struct {
	ID    uint32 // counts from 1 in this executor
	Image uint64 // the daemon's image id
	Name  string // the entry's name
	// Registers a thread and StaticShared bytes a block of the kernel as its client launches it; 0: not known.
	Registers, StaticShared int
	// Content tells its code from others', as Kernel.Key does; 0: not known.
	Content uint64

	// Forms are the launchable rewritten kernels of which this code is a body, cheapest mapping and smallest capacity first; nil
	// while there are none. The slice is replaced as a whole and never changed.
	Forms atomic.Pointer[[]*Form]

	// Why says why a form that was asked for does not exist: the last reason, nil when there is none. Other forms may exist.
	Why atomic.Pointer[Reason]

	// Use counts what became of its ops; the poller's.
	Use CodeUse

	asked [2]asked // by mapping; the poller's (Demand)
	long  uint8    // how often it was seen to take too long; the poller's (Demand)
	ready []*Shape // with ready ops; the poller's
}

// CodeUse is what became of the ops of one code. It belongs to the poller's thread.
type CodeUse struct {
	Launches  uint64 // ops issued
	InGraphs  uint64 // launches as nodes of graphs (Graph.Count)
	Coalesced uint64 // of them in words of two or more
	Sliced    uint64 // of them issued in slices
	Slices    uint64 // of those
	Words     uint64 // words of two or more that one of its ops led
	Slots     uint64 // ops in those
	Apart     [ReasonCount]uint64
	Times     cost.Times // of words that hold nothing else
	// Seen are the sessions (bits, by id modulo 64) of which ops became ready in the moment SeenIn while there was no form, SeenShape
	// the first one's shape, SeenMixed: not all had it.
	SeenIn, Seen uint64
	SeenShape    *Shape
	SeenMixed    bool
}

// ApartReason says why an op was issued by itself, or why a word was not wider.
type ApartReason uint8

// Reasons, in the order of ApartReasons.
const (
	ReasonAlone     ApartReason = iota // nobody else had an op of this kernel ready
	ReasonNoForm                       // no rewritten kernel exists (yet)
	ReasonShape                        // others had, with another grid, block or shared memory than a form can join
	ReasonFull                         // the word was full
	ReasonCost                         // more would not have paid
	ReasonPriority                     // others had, at another level of urgency
	ReasonExcluded                     // this client's ops of it are never joined
	ReasonClass                        // its class is never joined (coalesce = false)
	ReasonStraggler                    // its client's ops take much longer than they should (straggler = "evict")
	ReasonCompany                      // they and others' ops slow each other more than one launch gains
	ReasonNoWord                       // a graph: no word of it and of the others that were ready exists (yet)
	ReasonParts                        // a graph: it goes in parts, between which more urgent ops go
	ReasonUnpaid                       // joining was measured to be slower as a whole, or that is being measured
	ReasonCount
)

// ApartReasons are the reasons' names in statistics and documentation.
var ApartReasons = [ReasonCount]string{"alone", "no-form", "shape", "full", "cost", "priority", "excluded", "class", "straggler", "company", "no-word", "parts", "unpaid"}

// Reason is a code of a fixed list (docs/coalescing.md) and a sentence.
type Reason struct{ Code, Detail string }

// Form is a rewritten kernel that the driver has loaded. Only Limit and Refused change.
type Form struct {
	Function gpu.Function
	Layout   coalesce.Layout
	// Bodies are the codes it can run, in the order of Layout.BodyBytes.
	Bodies []*Code
	// Limit is the dynamic shared memory that Function allows, bytes; Raise raises it.
	Limit   *atomic.Uint32
	raising sync.Mutex
	// Registers a thread and StaticShared bytes a block, for the cost model.
	Registers, StaticShared int
	// MaxThreads is how many threads a block of it may have: fewer than the original's where it needs more registers. 0: not known.
	MaxThreads uint32
	// Refused is set when the driver refused a launch of it whose ops it takes one by one; it is not used again.
	Refused atomic.Bool
}

// Raise lets Function have at least so much dynamic shared memory; set makes the driver call. Any thread may call it: of two that
// raise it at once the smaller must not come last, or the driver would refuse what needs the larger.
func (f *Form) Raise(bytes uint32, set func(bytes int) gpu.Result) gpu.Result {
	if bytes <= f.Limit.Load() {
		return gpu.Success
	}
	f.raising.Lock()
	defer f.raising.Unlock()
	if bytes <= f.Limit.Load() {
		return gpu.Success
	}
	r := set(int(bytes))
	if r == gpu.Success {
		f.Limit.Store(bytes)
	}
	return r
}

// Takes tells whether blocks of so many threads can be launched.
func (f *Form) Takes(threads uint64) bool {
	return f.MaxThreads == 0 || threads <= uint64(f.MaxThreads)
}
