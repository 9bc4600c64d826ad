package server

import (
	"sync/atomic"

	"github.com/heddle-gpu/heddle/jit/interp"
)

// The modelled chip: an H100 as far as relative times need it. All times are
// nanoseconds of the device's virtual clock, which moves only with work.
// Sources: measurements of one H100 (launch, memop and switch costs; what R
// instances of a small kernel take in a row and as one launch, which TestWide
// repeats) and its data sheet (clock, SMs, bandwidths).
const (
	chipSMs        = 132
	lanesPerClock  = 128     // thread-instructions that one SM issues in a clock
	psPerClock     = 570     // 1.755 GHz
	clocksPerInstr = 3       // of one thread, latency hidden as far as small kernels hide it
	launchGap      = 1000    // between two kernels of one stream
	kernelMin      = 2500    // of an empty kernel: the blocks' way to the SMs and back
	contextSwitch  = 145_000 // compute of another context
	copyLatency    = 1500
	hostBytesPerUs = 50_000    // 50 GB/s over the bus
	hbmBytesPerUs  = 2_500_000 // 2.5 TB/s
	durMemop       = 900

	costLaunch    = 4400 // what a call costs the host
	costMemop     = 1800
	costCall      = 1000
	costGraphNode = 250
	costLocked    = 1800 // the part of a call that threads of one process cannot do at the same time
)

// chip is the state of one device's engines in virtual time; device.mu guards it.
type chip struct {
	sm       [chipSMs]int64 // when each is free
	owner    uint64         // context whose compute ran last
	lastEnd  int64          // of any compute
	up, down int64          // when the copy engines are free
}

// work is what a kernel asked of the chip.
type work struct {
	blocks, threads, instructions uint64
	resident                      uint64 // blocks that fit an SM at once
	part                          part
}

// part are the SMs of a stream: so many from first on. sms 0: all, as of a stream that is no green context's.
type part struct{ first, sms int }

// of are the times of a chip's SMs that belong to the part.
func (p part) of(sm []int64) []int64 {
	if p.sms == 0 {
		return sm
	}
	return sm[p.first : p.first+p.sms]
}

// counters are a client's statistics.
type counters struct {
	launches, copies, memsets, memops, bytes, instructions atomic.Uint64
	switches                                               atomic.Uint64
	computeV, copyV, switchV, launchV                      atomic.Int64
	lastV                                                  atomic.Int64
}

// residency gives how many blocks of a kernel an SM holds.
func residency(e *interp.EntryInfo, threads, dynShared uint64) uint64 {
	warps := max((threads+31)/32, 1)
	n := min(32, 64/warps)
	if regs := (uint64(e.Regs)*32 + 255) &^ 255 * warps; regs > 0 {
		n = min(n, 65536/regs)
	}
	n = min(n, 233472/(uint64(e.StaticShared)+dynShared+1024))
	return max(n, 1)
}

// begin gives when compute of context d can start, having paid for the switch.
func (d *device) begin(c *deviceContext, start int64, n *counters) int64 {
	if d.chip.owner != c.owner {
		if d.chip.owner != 0 {
			start = max(start, d.chip.lastEnd) + contextSwitch
			n.switches.Add(1)
			n.switchV.Add(contextSwitch)
		}
		d.chip.owner = c.owner
	}
	return start
}

// computed accounts for a kernel and gives its virtual start and end.
func (d *device) computed(c *deviceContext, start int64, w work, n *counters) (int64, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	start = d.begin(c, start+launchGap, n)
	blocks := max(w.blocks, 1)
	perThread, perBlock := w.instructions/max(blocks*w.threads, 1), w.instructions/blocks
	// One block alone: bound by the latency of a thread's instructions. A full SM: by its issue rate.
	alone := int64(perThread*clocksPerInstr*psPerClock/1000) + 1
	issue := func(resident uint64) int64 {
		return int64(perBlock * resident * psPerClock / (lanesPerClock * 1000))
	}
	sm := w.part.of(d.chip.sm[:])
	sms := uint64(len(sm))
	first, end := int64(-1), start+kernelMin
	place := func(resident uint64) {
		best := 0
		for i := range sm {
			if sm[i] < sm[best] {
				best = i
			}
		}
		at := max(start+kernelMin, sm[best])
		busy := max(issue(resident), 1)
		fin := at + max(alone, busy)
		// A block that does not fill its SM leaves room for others: the SM is taken for its share.
		if first < 0 || at < first {
			first = at
		}
		sm[best] = at + max(busy, alone*int64(resident)/int64(w.resident))
		end = max(end, fin)
	}
	wave := sms * w.resident
	if full := blocks / wave; full > 4 { // many waves: all but the last four at once
		extra := int64(full-4) * max(issue(w.resident), alone)
		for i := range sm {
			sm[i] = max(sm[i], start) + extra
		}
		blocks -= (full - 4) * wave
		first = start + kernelMin
	}
	for blocks > 0 {
		// Spread over the SMs before stacking on one.
		r := min(w.resident, max(blocks/sms, 1), blocks)
		place(r)
		blocks -= r
	}
	begin := max(start, first-kernelMin)
	n.launchV.Add(launchGap)
	n.computeV.Add(end - begin)
	n.lastV.Store(end)
	d.chip.lastEnd = max(d.chip.lastEnd, end)
	return begin, end
}

// filled accounts for a memset, which runs on the SMs.
func (d *device) filled(c *deviceContext, start int64, bytes uint64, n *counters) (int64, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stream(c, start, bytes, n)
}

// stream is compute bound by the memory; d.mu is held.
func (d *device) stream(c *deviceContext, start int64, bytes uint64, n *counters) (int64, int64) {
	start = d.begin(c, start+launchGap, n)
	dur := int64(kernelMin + bytes*1000/hbmBytesPerUs)
	n.computeV.Add(dur)
	n.lastV.Store(start + dur)
	d.chip.lastEnd = max(d.chip.lastEnd, start+dur)
	return start, start + dur
}

// copied accounts for a copy. Between device and device it runs on the SMs.
func (d *device) copied(c *deviceContext, start int64, bytes uint64, toDevice, fromDevice bool, n *counters) (int64, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if toDevice && fromDevice {
		return d.stream(c, start, bytes, n)
	}
	engine := &d.chip.up
	if fromDevice {
		engine = &d.chip.down
	}
	start = max(start, *engine)
	end := start + copyLatency + int64(bytes*1000/hostBytesPerUs)
	*engine = end
	n.copyV.Add(end - start)
	n.lastV.Store(end)
	return start, end
}
