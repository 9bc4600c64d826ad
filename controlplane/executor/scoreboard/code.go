package scoreboard

import (
	"sync/atomic"

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

	// Forms are the launchable rewritten kernels of which this code is a body, cheapest mapping and smallest capacity first; nil
	// while there are none. The slice is replaced as a whole and never changed.
	Forms atomic.Pointer[[]*Form]

	// Why says why a form that was asked for does not exist: the last reason, nil when there is none. Other forms may exist.
	Why atomic.Pointer[Reason]

	asked [2]asked // by mapping; the poller's (Demand)
}

// Reason is a code of a fixed list (docs/coalescing.md) and a sentence.
type Reason struct{ Code, Detail string }

// Form is a rewritten kernel that the driver has loaded. It never changes.
type Form struct {
	Function gpu.Function
	Layout   coalesce.Layout
	// Bodies are the codes it can run, in the order of Layout.BodyBytes.
	Bodies []*Code
	// Limit is the dynamic shared memory that Function allows, bytes; the loader raises it to what the clients set.
	Limit *atomic.Uint32
	// Registers a thread and StaticShared bytes a block, for the cost model.
	Registers, StaticShared int
}
