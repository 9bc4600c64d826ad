package scoreboard

import "github.com/heddle-gpu/heddle/shm"

// OutsideReason is why an op of a session that is confined to a partition of the SMs runs on the whole chip.
type OutsideReason uint8

// The reasons.
const (
	Confined       OutsideReason = iota // it does not
	OutsideGraph                        // it is a CUDA graph: its kernels' nodes belong to the whole chip
	OutsideRefused                      // the driver refused its kernel on a partition, as it does large clusters
	OutsideReasons
)

// OutsideNames are the reasons' codes (docs/reasons.md).
var OutsideNames = [OutsideReasons]string{"", "graph", "refused"}

// InPart says whether the op runs on a partition of the SMs, if it is issued now. What goes in slices does not: it may have begun.
func (o *Op) InPart() bool { return o.Session.Partition > 0 && !o.Cuts && o.Unconfined() == Confined }

// Unconfined says why the op cannot be confined to a partition of the SMs.
func (o *Op) Unconfined() OutsideReason {
	switch {
	case o.Kind == shm.KindGraph:
		return OutsideGraph
	case o.Kind == shm.KindLaunch && o.Kernel.Whole.Load():
		return OutsideRefused
	}
	return Confined
}
