package sequence

import (
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// Reason is why an op went by itself, and in no run.
type Reason uint8

// Reasons.
const (
	// Few: fewer than Least ops waited that could have gone with it, as of a client that submits no faster than its ops are issued.
	Few Reason = iota
	// Unfit: no run holds such ops: those that others may join, copies of the host's memory, events, cooperative launches.
	Unfit
	// Unknown: nothing known begins with it.
	Unknown
	// Learning: it came before, or is noted for the first time, but its run did not come often enough yet.
	Learning
	// Making: the run's graph is not there yet, or the driver refused it.
	Making
	// Incomplete: it is where a known run began of which the rest had not come.
	Incomplete
	// Differs: a known run began with it, and something else came.
	Differs
	// Busy: parameters were to be set in a graph that was in flight.
	Busy
	// Measured: one round in 64 goes op by op, so that kernels are measured.
	Measured
	// Bounds: the window, what the client's class may issue, or an op that did not end for too long.
	Bounds
	// Straggles: its client is limited to one op at a time.
	Straggles
	// Confined: its client is confined to a partition of the SMs, where graphs do not run.
	Confined
	// Reasons is how many there are.
	Reasons
)

// ReasonNames are the names in STATS.
var ReasonNames = [Reasons]string{
	"few", "unfit", "unknown", "learning", "making", "incomplete", "differs", "busy", "measured", "bounds", "straggler", "partition",
}

// Went counts an op that goes by itself. few: nothing waits behind it in its lane.
func (s *Store) Went(t *Track, op *scoreboard.Op, few bool) {
	why := t.why
	switch {
	case op.Session.Straggler >= scoreboard.Limited:
		why = Straggles
	case op.Session.Partition > 0:
		why = Confined
	case op.Kind != shm.KindLaunch:
		why = Unfit
	case t.until != 0 && shm.Reached(t.until, op.Seq):
	case few:
		why = Few
	}
	s.Plain[why]++
}
