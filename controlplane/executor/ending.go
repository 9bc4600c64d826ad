package executor

import (
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// This file is how an executor ends by a fault, and what it says of whose ops were in flight.

// ending says how the poller ended the executor.
type ending struct {
	code     int
	result   gpu.Result
	err      error
	inFlight []uint64
	blamed   uint64
	kernel   uint32      // of blamed, when one of its kernels was in flight
	apart    [][2]uint64 // client and kernel of launches that were joined with others
}

// fault ends the executor with what is known published.
func (p *poller) fault(r gpu.Result, code int, blamed uint64, err error) {
	p.end = &ending{code: code, result: r, err: err, blamed: blamed}
	p.account()
}

// kernelFault tells results that only a kernel can cause from those of the device (cuda.h, CUresult).
func kernelFault(r gpu.Result) bool {
	switch r {
	case gpu.IllegalAddress, gpu.LaunchTimeout, gpu.LaunchFailed:
		return true
	}
	return r == 710 || r >= 714 && r <= 718 // assert; stack, instruction, alignment, address space, program counter
}

// account publishes what is known to be done and finds out who had ops in flight: those with kernels, if there are any, because
// copies and memsets name memory that was checked.
func (p *poller) account() {
	var others []uint64
	running := map[uint64][]*scoreboard.Op{}
	for _, c := range p.clients {
		b := c.board
		for i := len(b.Busy()) - 1; i >= 0; i-- {
			l := b.Lane(b.Busy()[i]) // a lane that drains is replaced by one that was looked at
			if n, ok := b.Poll(l); ok && n > 0 {
				c.file.WakeLane(l.Index, l.Done)
			}
		}
		b.Release()
		p.release(c) // what was done before, too: the daemon takes a head that stands still for ops that bring executors down
		if running[c.id] = b.Running(); len(running[c.id]) > 0 {
			p.end.inFlight = append(p.end.inFlight, c.id)
		} else if b.InFlight() > 0 {
			others = append(others, c.id)
		}
	}
	if len(p.end.inFlight) == 0 || !kernelFault(p.end.result) {
		p.end.inFlight = append(p.end.inFlight, others...)
	}
	if p.end.blamed == 0 && len(p.end.inFlight) == 1 && p.end.code == ExitFault {
		p.end.blamed = p.end.inFlight[0] // nobody else can have done it
	}
	for id, ops := range running {
		if id == p.end.blamed && len(ops) == 1 {
			p.end.kernel = ops[0].KernelID()
		}
		for _, op := range ops {
			if pair := [2]uint64{id, uint64(op.KernelID())}; (op.Joined || op.Cuts && op.Kernel != nil) && !slices.Contains(p.end.apart, pair) {
				p.end.apart = append(p.end.apart, pair)
			}
		}
	}
}
