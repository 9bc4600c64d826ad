// Package cost says whether it pays to join ops of one shape into one launch, and how many: from what the chip holds at a time,
// and from what was measured.
//
// Joining saves launches; it costs nothing while the chip has room. One instance that fills the chip for long gains nothing from
// company, and its client would wait for the others' blocks (measurements.md sections 3 and 7).
package cost

import "math/bits"

// Chip is what a device holds; everything but SMs is per SM. Fields that are 0 are unknown and bind nothing.
type Chip struct {
	SMs, Threads, Registers, Shared, Blocks int
}

// Allocation units of registers (per warp) and shared memory (per block, and what the system keeps of it), sm_80 and later.
const (
	registerUnit = 256
	sharedUnit   = 128
	systemShared = 1024
	warp         = 32
)

// Resident is how many blocks the chip holds at a time: threads a block, registers a thread, shared bytes a block (static and
// dynamic). It is what cuOccupancyMaxActiveBlocksPerMultiprocessor computes, times the SMs, without a driver call. At least 1.
func (c Chip) Resident(threads, registers, shared int) int {
	per := 32
	at := func(have, need int) {
		if have > 0 && need > 0 {
			per = min(per, have/need)
		}
	}
	if c.Blocks > 0 {
		per = c.Blocks
	}
	warps := (threads + warp - 1) / warp
	at(c.Threads, warps*warp)
	at(c.Registers, warps*roundUp(registers*warp, registerUnit))
	if shared > 0 {
		at(c.Shared, roundUp(shared+systemShared, sharedUnit))
	}
	return max(1, per) * max(1, c.SMs)
}

func roundUp(v, to int) int { return (v + to - 1) / to * to }

// Buckets of widths: 1, 2, 3–4, 5–8, … 65–128.
const Buckets = 8

// Bucket is the bucket of a word of n ≥ 1 instances.
func Bucket(n int) int { return min(bits.Len(uint(n-1)), Buckets-1) }

// Bounds of the decision.
const (
	// longKernel is how long a kernel that fills the chip must take alone to be left alone, ns.
	longKernel = 50_000
	// rounds is how many times the blocks of a word may fill the chip.
	rounds = 4
	// gainPercent: together, an instance must take less than this share of what it takes alone, with the launch that it is spared: so long
	// the driver takes for one (measurements.md section 3; 3 to 5 µs on the H200), whatever the GPU does meanwhile.
	gainPercent = 95
	spared      = 4_000
	// sure is how many measurements of a bucket count.
	sure = 3
	// outlier bounds what one measurement counts for, as a multiple of those before: a thread that loses its core between the two
	// events of a measurement measures that.
	outlier = 4
	// rise and riseBeside: the time by itself rises by one part in so many of what a measurement has above it, without and with company.
	rise, riseBeside = 64, 1024
	// sampleEvery and probeEvery are in words of a shape: how often a word is measured, and how often what was found not to pay is
	// tried again.
	sampleEvery = 64
	probeEvery  = 512
)

// Times is what was measured of one shape: time on the GPU by width. The zero value knows nothing.
type Times struct {
	each  [Buckets]int64 // ns an instance, smoothed
	clear [Buckets]int64 // the same when little else was on the chip: a low quantile
	seen  [Buckets]uint8
}

// Add learns that a word of n instances took ns.
func (t *Times) Add(n int, ns int64) { t.add(n, ns, false) }

// AddBeside learns that a word of n instances took ns while other words ran. What it takes by itself is no more than that, and hardly ever
// seen where others always run: then it is better remembered than replaced by what the company makes of it.
func (t *Times) AddBeside(n int, ns int64) { t.add(n, ns, true) }

func (t *Times) add(n int, ns int64, beside bool) {
	if ns <= 0 {
		return
	}
	b := Bucket(n)
	each := max(1, ns/int64(n))
	if t.seen[b] == 0 {
		t.each[b], t.clear[b] = each, each
	} else {
		t.each[b] += (min(each, outlier*t.each[b]) - t.each[b]) / 4
		t.clear[b] = Lower(t.clear[b], each, beside)
		if t.seen[b] < sure {
			t.each[b], t.clear[b] = min(t.each[b], each), min(t.clear[b], each)
		}
	}
	if t.seen[b] < sure {
		t.seen[b]++
	}
}

// Lower moves a low quantile v towards what was seen: quickly down, slowly up, and more slowly when it was seen beside other work. What
// was measured while others had the chip must not count as a kernel's, or a graph's, own time.
func Lower(v, seen int64, beside bool) int64 {
	switch {
	case seen < v:
		return v - (v-seen+1)/2
	case beside:
		return v + (seen-v)/riseBeside
	}
	return v + (seen-v)/rise
}

// Own is how long a word of n instances, of a width that was measured, takes while little else is on the chip, ns; 0: nothing of
// that width was measured. What an op costs follows from it.
func (t *Times) Own(n int) int64 { return t.clear[Bucket(n)] * int64(n) }

// Of is how long a word of n instances takes, ns: from words about as wide, else what the nearest narrower ones took,
// which is the least it can be; 0 when nothing is known.
func (t *Times) Of(n int) int64 {
	for b := Bucket(n); b >= 0; b-- {
		if t.seen[b] == 0 {
			continue
		}
		if b == Bucket(n) {
			return t.each[b] * int64(n)
		}
		return t.each[b] << b
	}
	return 0
}

// Forget gives up what was measured of words of two or more.
func (t *Times) Forget() {
	own := Times{}
	own.each[0], own.clear[0], own.seen[0] = t.each[0], t.clear[0], t.seen[0]
	*t = own
}

// Alone is the time of one instance in a launch of its own, ns; 0 unknown.
func (t *Times) Alone() int64 { return t.each[0] }

// Each is an instance's share of the time of words in a bucket, ns; 0 unknown.
func (t *Times) Each(bucket int) int64 { return t.each[bucket] }

// Due says whether word number words of the shape, n wide, should be measured: the first ones of a bucket, later now and then.
func (t *Times) Due(n int, words uint64) bool {
	return t.seen[Bucket(n)] < sure || words%sampleEvery == 0
}

// Limit is how many instances of blocks blocks each are worth joining, at most most, on a chip that holds resident of them; 1:
// none. words is the number of words so far.
func (t *Times) Limit(blocks, resident, most int, words uint64) int {
	if blocks >= resident && t.each[0] > longKernel {
		return 1
	}
	limit := min(most, max(1, rounds*resident/max(1, blocks)))
	if words%probeEvery == probeEvery-1 || t.seen[0] < sure {
		return limit
	}
	for b := 1; b < Buckets && 1<<(b-1) < limit; b++ {
		if t.seen[b] == sure && t.each[b]*100 > (t.each[0]+spared)*gainPercent {
			return 1 << (b - 1)
		}
	}
	return limit
}
