// Package request learns what a client's requests look like, so that an op can be told how long its request still takes.
//
// A request is the run of ops between two host waits of a client, or between its own marks. After each op the model has seen a
// prefix of the request: the ops so far, by content and order. For every prefix it keeps how long the request then still took,
// when it went well. An op's latest start follows: its request's deadline less what remains. Ordering by latest start is
// ordering by least slack, because now is the same for all.
//
// What remains is wall time, host gaps included: of an eager client that launches slowly, most of a request cannot be hurried.
// "When it went well" is a low quantile, not a mean: a mean would learn the queueing that the scheduler is to avoid.
//
// A Model belongs to one thread and allocates nothing after New. Clients choose what they submit: every step is bounded, all memory
// is bounded, and a client that lies hurts its own estimates only.
// Source: design.md section 7.
package request

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Bounds of one model.
const (
	// Prefixes is how many prefixes are remembered; newer ones take the place of older ones with the same slot.
	Prefixes = 1 << 14
	// MaxOps is how many ops of one request are followed; later ones count as the last.
	MaxOps = 1 << 14
	// atOnce is how many ops a request may have for its prefixes to be learned when it ends; those of a longer one are learned stepsPerOp
	// at a time while the client's next ops arrive, so that an end, too, takes its caller a few µs at most.
	atOnce, stepsPerOp = 256, 4
)

// prefix is what is known of one prefix of a request.
type prefix struct {
	hash      uint64
	remaining float32 // ns from the op's arrival to the request's end, a low quantile
	spread    float32 // ns, mean distance of what was seen from remaining
	seen      uint32
}

// visit is an op of a request: the low bits of its prefix's hash, which tell its slot, and when it arrived, ns since the request began.
type visit struct {
	hash uint32
	at   float32
}

// Model is what is known of one client's requests.
type Model struct {
	table  []prefix
	visits []visit // of the request under way, in order

	ended   []visit // of one that ended: those from learned on are still to be learned
	learned int
	took    float64 // ns
	passed  bool    // a request was not learned because ended was not done

	hash     uint64
	begun    int64
	open     bool
	overflow bool

	// Requests counts those that ended; Duration is how long one takes when it goes well, and Spread its mean distance from that, ns.
	Requests         uint64
	Duration, Spread float64
}

// New makes an empty model.
func New() *Model {
	return &Model{table: make([]prefix, Prefixes), visits: make([]visit, 0, MaxOps), ended: make([]visit, 0, MaxOps)}
}

// start is the hash of the empty prefix; 0 marks an empty slot.
const start = 0x9e3779b97f4a7c15

// mix is a step of splitmix64's finaliser.
func mix(h, key uint64) uint64 {
	h = (h ^ key) * 0xbf58476d1ce4e5b9
	h ^= h >> 31
	h *= 0x94d049bb133111eb
	if h ^= h >> 29; h == 0 {
		return 1
	}
	return h
}

// Op takes the next op of the client: key says what it is by content (kernel, shape), equal in every process and after every
// restart; now is its arrival in ns. remaining is how long its request will still take, in ns, and known whether that was
// learned from this very prefix; without that it is what is left of a usual request, and 0 when none has ended yet.
func (m *Model) Op(key uint64, now int64) (remaining int64, known bool) {
	if !m.open {
		m.open, m.overflow, m.hash, m.begun = true, false, start, now
		m.visits = m.visits[:0]
	}
	if m.learned < len(m.ended) {
		m.step(stepsPerOp)
	}
	if len(m.visits) == MaxOps {
		m.overflow = true
		return max(0, int64(m.Duration)-(now-m.begun)), false
	}
	m.hash = mix(m.hash, key)
	m.visits = append(m.visits, visit{uint32(m.hash), float32(now - m.begun)})
	p := &m.table[m.hash%Prefixes]
	if p.hash != m.hash {
		// Somebody else's slot, or nobody's: what was known there is given up for what comes now.
		*p = prefix{hash: m.hash}
	}
	if p.seen == 0 {
		return max(0, int64(m.Duration)-(now-m.begun)), false
	}
	return int64(p.remaining), true
}

// Begun is when the request under way arrived; ok is false between requests.
func (m *Model) Begun() (at int64, ok bool) { return m.begun, m.open }

// End ends the request under way at now: everything that its client waited for is done. Without one it does nothing.
func (m *Model) End(now int64) {
	if !m.open {
		return
	}
	m.open = false
	m.Requests++
	m.Duration, m.Spread = learn(m.Duration, m.Spread, float64(now-m.begun), m.Requests == 1)
	if m.overflow {
		return // the prefixes end before the request does; its length is all that was learned
	}
	switch {
	case len(m.visits) <= atOnce:
		took := float64(now - m.begun)
		for _, v := range m.visits {
			m.learn(v, took)
		}
	case m.learned < len(m.ended) && !m.passed:
		m.passed = true // its turn is the next time
	default:
		m.passed = m.passed && m.learned == len(m.ended)
		m.visits, m.ended = m.ended[:0], m.visits
		m.learned, m.took = 0, float64(now-m.begun)
	}
}

// step learns up to n prefixes of the request that ended.
func (m *Model) step(n int) {
	for ; n > 0 && m.learned < len(m.ended); n-- {
		m.learn(m.ended[m.learned], m.took)
		m.learned++
	}
}

// learn learns one prefix, unless another has taken its slot.
func (m *Model) learn(v visit, took float64) {
	p := &m.table[v.hash%Prefixes]
	if uint32(p.hash) != v.hash {
		return
	}
	r, s := learn(float64(p.remaining), float64(p.spread), took-float64(v.at), p.seen == 0)
	p.remaining, p.spread = float32(r), float32(s)
	if p.seen < math.MaxUint32 {
		p.seen++
	}
}

// learn moves an estimate towards what was seen: quickly down, slowly up. A clock that jumps is seen as 0 or an hour.
func learn(estimate, spread, seen float64, first bool) (float64, float64) {
	seen = min(max(seen, 0), longest)
	if first {
		return seen, 0
	}
	d := seen - estimate
	if d < 0 {
		estimate += d / 4
	} else {
		estimate += d / 64
	}
	return estimate, spread + (math.Abs(d)-spread)/16
}

// CopyTo copies what was learned of prefixes [from, from+n) to another model, and how long requests take; true: that was all. So a
// thread that must not wait hands a model over in small parts.
func (m *Model) CopyTo(to *Model, from, n int) bool {
	to.Requests, to.Duration, to.Spread = m.Requests, m.Duration, m.Spread
	from = min(max(from, 0), Prefixes)
	end := min(from+max(n, 0), Prefixes)
	copy(to.table[from:end], m.table[from:end])
	return end == Prefixes
}

// Merge takes from another model what this one does not know: the same program's other clients met other requests.
func (m *Model) Merge(o *Model) {
	if o.Requests > m.Requests {
		m.Requests = o.Requests
		if m.Duration == 0 {
			m.Duration, m.Spread = o.Duration, o.Spread
		}
	}
	for i := range m.table {
		if m.table[i].seen == 0 {
			m.table[i] = o.table[i]
		}
	}
}

// magic begins the encoded form.
const magic = "HDRQ1\n"

// MarshalBinary gives what was learned, for the next executor. It is at most 20 bytes a prefix and 32 more.
func (m *Model) MarshalBinary() ([]byte, error) {
	b := []byte(magic)
	b = binary.LittleEndian.AppendUint64(b, m.Requests)
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(m.Duration))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(m.Spread))
	for _, p := range m.table {
		if p.seen == 0 {
			continue
		}
		b = binary.LittleEndian.AppendUint64(b, p.hash)
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(p.remaining))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(p.spread))
		b = binary.LittleEndian.AppendUint32(b, p.seen)
	}
	return b, nil
}

// UnmarshalBinary takes what MarshalBinary gave. Anything else is an error and leaves the model as it was.
func (m *Model) UnmarshalBinary(b []byte) error {
	const head = len(magic) + 24
	if len(b) < head || string(b[:len(magic)]) != magic || (len(b)-head)%20 != 0 || (len(b)-head)/20 > Prefixes {
		return errors.New("request: not a learned model")
	}
	n := *New()
	n.Requests = binary.LittleEndian.Uint64(b[len(magic):])
	n.Duration = math.Float64frombits(binary.LittleEndian.Uint64(b[len(magic)+8:]))
	n.Spread = math.Float64frombits(binary.LittleEndian.Uint64(b[len(magic)+16:]))
	if !sane(n.Duration) || !sane(n.Spread) {
		return errors.New("request: a learned model with impossible times")
	}
	for at := head; at < len(b); at += 20 {
		p := prefix{
			hash:      binary.LittleEndian.Uint64(b[at:]),
			remaining: math.Float32frombits(binary.LittleEndian.Uint32(b[at+8:])),
			spread:    math.Float32frombits(binary.LittleEndian.Uint32(b[at+12:])),
			seen:      binary.LittleEndian.Uint32(b[at+16:]),
		}
		if p.hash == 0 || p.seen == 0 || !sane(float64(p.remaining)) || !sane(float64(p.spread)) {
			return fmt.Errorf("request: a learned model with an impossible prefix at byte %d", at)
		}
		n.table[p.hash%Prefixes] = p
	}
	*m = n
	return nil
}

// longest is an hour in ns.
const longest = 3.6e12

func sane(ns float64) bool { return ns >= 0 && ns <= longest*1.001 }
