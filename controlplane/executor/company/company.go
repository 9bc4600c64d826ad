// Package company knows who slows whom: how much longer a kernel takes while another one runs on the same chip, as measured.
//
// A row is a pair, both by content, so it holds for every client and for the next executor: the one that is slowed (a kernel and grid,
// or a class of clients as a whole) and the one that runs beside it. Its excess is the part by which the first takes longer: 0 is not at
// all, 1 is twice as long. What two excesses x and y say of two kernels that are both ready: side by side they take longer than one after
// the other exactly when x·y > 1 ([Worse]).
//
// Nothing measured is believed for ever. An excess halves in every [Half] in which it is not measured again, so what was avoided is
// tried again, later each time that it proves true; one measurement counts for at most four times those before; a pair counts after
// three measurements, one of which must be this executor's.
//
// A Table belongs to one thread and has no clock. Look-ups read one set of four rows; nothing allocates after [New].
// Source: design.md section 7; the shape of the model (additive, corrected by the error of what it foretold) is the normalised LMS rule.
package company

import "math"

// Rows is how many pairs a Table holds, in sets of ways: the pair that was not measured for the longest makes room.
const (
	Rows = 1 << 12
	ways = 4
)

// Most is how many may run beside a measured word for its time to be attributed to them.
const Most = 4

// Bounds of what is learned.
const (
	// Sure is how many measurements of a pair count.
	Sure = 3
	// Half is the time in which an excess halves that is not measured again, ns, for some pairs up to twice that; it doubles, up to
	// 1<<stubborn times, each time that what had decayed proves true again.
	Half     = int64(2e9)
	stubborn = 5
	// outlier bounds what one measurement counts for, as a multiple of what was known, of which least is assumed.
	outlier, least = 4, 0.25
	// highest is the largest excess that is believed.
	highest = 16
)

// Bounds of decisions.
const (
	// Hurts is the excess from which on an op is kept off the chip while a request that it slows has little slack left.
	Hurts = 0.25
	// worse is the product of both excesses from which on two go one after the other; 1 would do without errors of measurement.
	worse = 1.25
)

// Worse says whether two kernels that slow each other by these excesses take longer side by side than one after the other. While both
// run the shorter one, of t, takes t(1+x); the longer one has lost t(1+x)·y/(1+y) by then, which is more than t when x·y > 1.
func Worse(x, y float64) bool { return x*y > worse }

// Expect is the excess of a kernel beside another before anything was measured: both fill so much of the chip's places for blocks (by
// threads, registers, shared memory and blocks), and what does not fit beside it waits.
func Expect(fill, beside float64) float64 {
	if over := fill + beside - 1; over > 0 {
		return min(1, over)
	}
	return 0
}

// Row is a pair.
type Row struct {
	Victim, Beside uint64 // Beside 0: no pair
	at             int64  // when it was last measured
	excess         float32
	seen, proved   uint8
}

// Table is what is known of pairs.
type Table struct {
	rows [Rows]Row
	used int
	// Learned counts measurements that were attributed.
	Learned uint64
}

// New makes an empty one.
func New() *Table { return &Table{} }

// Len is how many pairs are known.
func (t *Table) Len() int { return t.used }

func set(victim, beside uint64) int {
	h := (victim ^ beside>>29 ^ beside<<35) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	return int(h*0xbf58476d1ce4e5b9>>40) & (Rows - ways)
}

func (t *Table) find(victim, beside uint64) *Row {
	at := set(victim, beside)
	for i := at; i < at+ways; i++ {
		if r := &t.rows[i]; r.Beside == beside && r.Victim == victim {
			return r
		}
	}
	return nil
}

// now is the row's excess at a time: what is left of it.
func (r *Row) now(now int64) float64 {
	half := (Half + Half/8*int64((r.Victim^r.Beside)%8)) << r.proved // pairs that were measured together are not tried again together
	age := max(0, now-r.at) / half
	if age >= 8 {
		return 0
	}
	return float64(r.excess) / float64(int64(1)<<age)
}

// Excess is by how much more one takes while the other runs, at a time in ns; sure says that it was measured often enough to count.
func (t *Table) Excess(victim, beside uint64, now int64) (excess float64, sure bool) {
	if t.used == 0 || victim == 0 || beside == 0 {
		return 0, false
	}
	r := t.find(victim, beside)
	if r == nil {
		return 0, false
	}
	return r.now(now), r.seen >= Sure
}

// Learn takes one measurement: while the others ran, of which expected says what to think of those that are not known, victim took so
// much longer. What the estimates do not explain is divided among them. An excess that cannot be is not learned.
func (t *Table) Learn(victim uint64, beside []uint64, expected []float64, excess float64, now int64) {
	if victim == 0 || len(beside) == 0 || len(beside) > Most || len(expected) != len(beside) || !(excess >= 0) || math.IsInf(excess, 0) {
		return
	}
	var was [Most]float64
	left := min(excess, highest)
	for i, b := range beside {
		if b == 0 {
			return
		}
		if r := t.find(victim, b); r != nil {
			was[i] = r.now(now)
		} else {
			was[i] = min(highest, max(0, expected[i]))
		}
		left -= was[i]
	}
	t.Learned++
	for i, b := range beside {
		t.learn(victim, b, max(0, was[i]+left/float64(len(beside))), now)
	}
}

// learn takes a pair's part of a measurement.
func (t *Table) learn(victim, beside uint64, x float64, now int64) {
	r := t.find(victim, beside)
	if r == nil {
		r = t.room(victim, beside)
		*r = Row{Victim: victim, Beside: beside, at: now, excess: float32(min(x, highest)), seen: 1}
		return
	}
	before := r.now(now)
	x = min(x, outlier*max(before, least), highest)
	switch {
	case r.seen < Sure: // the least of the first ones: chance makes longer, never shorter
		r.seen++
		x = min(x, float64(r.excess))
	default:
		x = before + (x-before)/4
		if before < Hurts && float64(r.excess) >= Hurts && x >= Hurts {
			r.proved = min(r.proved+1, stubborn) // it had decayed, and is true
		} else if x < Hurts {
			r.proved = 0
		}
	}
	r.excess, r.at = float32(x), now
}

// room is the place for a new pair.
func (t *Table) room(victim, beside uint64) *Row {
	at := set(victim, beside)
	oldest := &t.rows[at]
	for i := at; i < at+ways; i++ {
		r := &t.rows[i]
		if r.Beside == 0 {
			t.used++
			return r
		}
		if r.at < oldest.at {
			oldest = r
		}
	}
	return oldest
}

// Known is what is known of a pair at a time.
type Known struct {
	Victim, Beside uint64
	Excess         float64
	Sure           bool
}

// Each calls f for every pair.
func (t *Table) Each(now int64, f func(Known)) {
	for i := range t.rows {
		if r := &t.rows[i]; r.Beside != 0 {
			f(Known{r.Victim, r.Beside, r.now(now), r.seen >= Sure})
		}
	}
}

// Hurting counts the pairs that are sure and from which on something is done about them.
func (t *Table) Hurting(now int64) (n int) {
	t.Each(now, func(k Known) {
		if k.Sure && k.Excess >= Hurts {
			n++
		}
	})
	return n
}
