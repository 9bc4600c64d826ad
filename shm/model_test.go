package shm

import "fmt"

// An abstract model of the ring, the doorbell and the wait for space, explored exhaustively: every interleaving of producer and
// consumer, one shared access at a time, each behind a store buffer (x86's memory order: a store may pass a later load), with the
// producer or the consumer dying at any point. It mirrors heddle_ring.c and consumer.go step by step; keep the three together.
//
// Checked in every state: what the consumer reads, and what it still uses when it releases, is what the producer wrote. Checked for
// every state: the end, with everything published read and released, can be reached without a timeout (with one after the producer
// died, which is what the timeout is for). So no wake-up is ever lost.

// modelUnits is the ring's size in units; a record has one or two, a quarter at most.
const modelUnits = 8

// modelSizes are the records that the producer writes. The last does not fit at the end of the buffer, so a pad precedes it, and
// does not fit into the ring before the first is released.
var modelSizes = [...]uint8{1, 2, 2, 2, 2}

const padCell = 100

// place is one entry of the layout, which the producer's rules determine: where it starts, its size, and what its cells hold.
type place struct{ pos, size, cell uint8 }

var modelLayout = func() (out []place) {
	var pos uint8
	for i, size := range modelSizes {
		if toEnd := modelUnits - pos%modelUnits; toEnd < size {
			out = append(out, place{pos, toEnd, padCell})
			pos += toEnd
		}
		out = append(out, place{pos, size, uint8(i + 1)})
		pos += size
	}
	return out
}()

var modelEnd = modelLayout[len(modelLayout)-1].pos + modelLayout[len(modelLayout)-1].size

// Addresses of shared words; 0 to modelUnits-1 are cells.
const (
	aTail = modelUnits + iota
	aHead
	aRead
	aSleeping
	aBell
	aWaiting
	aSpaceBell
	addresses
)

const bufferSlots = 3

// buffer is a store buffer: oldest first.
type buffer struct {
	n    uint8
	addr [bufferSlots]uint8
	val  [bufferSlots]uint8
}

// Program counters of the producer …
const (
	pBegin = iota
	pRefresh
	pWrite
	pTail
	pFence
	pLook
	pBell
	pWake
	pWaitBell
	pWaitFlag
	pWaitFence
	pWaitHead
	pWaitSleep
	pAsleep
	pWaitDone
	pEnd
	pDead
)

// … and of the consumer.
const (
	cScan = iota
	cRead
	cCheckUse
	cHead
	cHeadFence
	cLookWaiting
	cSpaceBell
	cSpaceWake
	cSleepBell
	cSleepFlag
	cSleepFence
	cSleepLook
	cSleepWait
	cAsleep
	cAwake
	cResumeBell
	cResumeWake
)

type modelState struct {
	mem [addresses]uint8
	pb  buffer
	cb  buffer
	// producer
	ppc, rec, ptail, phead, pbell, pcell uint8
	// consumer
	cpc, cread, chead, ctail, cbell, reborn uint8
}

// Faults that a variant of the protocol can have.
const (
	noPublishFence = 1 << iota
	noBellChange
	noSleepLook
	noSleepFence
	bellReadLate
	tailBeforeRecord
	roomByRead
	noWaitFence
	noWaitLook
	spaceBellReadLate
	noReleaseFence
	wakeOnCrossingOnly
	padNotCounted
	resumeDoesNotWake
)

type model struct {
	faults                 int
	producerDies, peerDies bool
	states                 map[modelState]int32
	order                  []modelState
	from                   []int32 // for a trace: the state each one was found from
	edgeFrom, edgeTo       []int32 // edges that need no death
	violation              string
	violating              int32
	currentIndex           int32
}

func (m *model) has(fault int) bool { return m.faults&fault != 0 }

func (b *buffer) push(addr, val uint8) bool {
	if b.n == bufferSlots {
		return false
	}
	b.addr[b.n], b.val[b.n] = addr, val
	b.n++
	return true
}

func (s *modelState) load(b *buffer, addr uint8) uint8 {
	for i := int(b.n) - 1; i >= 0; i-- {
		if b.addr[i] == addr {
			return b.val[i]
		}
	}
	return s.mem[addr]
}

func (s *modelState) flush(b *buffer) {
	s.mem[b.addr[0]] = b.val[0]
	copy(b.addr[:], b.addr[1:b.n])
	copy(b.val[:], b.val[1:b.n])
	b.n--
	b.addr[b.n], b.val[b.n] = 0, 0
}

func (s *modelState) drain(b *buffer) {
	for b.n > 0 {
		s.flush(b)
	}
}

// cost is what the next record takes, pad included.
func (s *modelState) cost(m *model) uint8 {
	size := modelSizes[s.rec]
	if toEnd := modelUnits - s.ptail%modelUnits; toEnd < size && !m.has(padNotCounted) {
		return toEnd + size
	}
	return size
}

func (s *modelState) span() (places []place) {
	for _, p := range modelLayout {
		if p.pos >= s.ptail && p.cell <= padCell {
			places = append(places, p)
			if p.cell != padCell {
				return places
			}
		}
	}
	return places
}

func (s *modelState) fits(m *model) bool { return s.cost(m) <= modelUnits-(s.ptail-s.phead) }

func placeAt(pos uint8) place {
	for _, p := range modelLayout {
		if p.pos == pos {
			return p
		}
	}
	panic("BUG: no place at this position")
}

// explore visits everything reachable. It returns the number of states and what is wrong, if anything.
func (m *model) explore() (int, string) {
	m.states = map[modelState]int32{}
	m.violating = -1
	var first modelState
	first.begin(m)
	m.add(first, false)
	for i := 0; i < len(m.order) && m.violation == ""; i++ {
		m.currentIndex = int32(i)
		s := m.order[i]
		m.producer(s)
		m.consumer(s)
		if s.pb.n > 0 {
			n := s
			n.flush(&n.pb)
			m.add(n, true)
		}
		if s.cb.n > 0 {
			n := s
			n.flush(&n.cb)
			m.add(n, true)
		}
	}
	if m.violation != "" {
		return len(m.order), m.violation + m.trace(m.violating)
	}
	return len(m.order), m.stuck()
}

func (m *model) add(s modelState, counts bool) {
	to, known := m.states[s]
	if !known {
		to = int32(len(m.order))
		m.states[s] = to
		m.order = append(m.order, s)
		m.from = append(m.from, m.currentIndex)
	}
	if counts {
		m.edgeFrom = append(m.edgeFrom, m.currentIndex)
		m.edgeTo = append(m.edgeTo, to)
	}
}

func (m *model) fail(format string, a ...any) {
	if m.violation == "" {
		m.violation, m.violating = fmt.Sprintf(format, a...), m.currentIndex
	}
}

func (s *modelState) good() bool {
	over := s.ppc == pEnd && s.cread == modelEnd || s.ppc == pDead
	return over && s.pb.n == 0 && s.cb.n == 0 && s.cpc == cAsleep && s.cread == s.mem[aTail] && s.chead == s.cread
}

// stuck looks for a state from which no good end can be reached: a lost wake-up, or a livelock.
func (m *model) stuck() string {
	heads := make([]int32, len(m.order))
	for i := range heads {
		heads[i] = -1
	}
	next := make([]int32, len(m.edgeTo))
	for e, to := range m.edgeTo {
		next[e] = heads[to]
		heads[to] = int32(e)
	}
	fine := make([]bool, len(m.order))
	var queue []int32
	for i := range m.order {
		if m.order[i].good() {
			fine[i] = true
			queue = append(queue, int32(i))
		}
	}
	if len(queue) == 0 {
		return "no run reaches the end"
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for e := heads[at]; e >= 0; e = next[e] {
			if f := m.edgeFrom[e]; !fine[f] {
				fine[f] = true
				queue = append(queue, f)
			}
		}
	}
	for i := range m.order {
		if !fine[i] {
			return "the end cannot be reached: a wake-up is lost" + m.trace(int32(i))
		}
	}
	return ""
}

// trace lists the program counters on the way to a state.
func (m *model) trace(i int32) string {
	out := ""
	for n := 0; i > 0 && n < 60; n++ {
		s := &m.order[i]
		out = fmt.Sprintf("\n p%d c%d rec %d tail %d head %d read %d sleeping %d waiting %d bell %d/%d buffers %d %d", s.ppc, s.cpc, s.rec, s.mem[aTail], s.mem[aHead], s.cread, s.mem[aSleeping], s.mem[aWaiting], s.mem[aBell], s.mem[aSpaceBell], s.pb.n, s.cb.n) + out
		i = m.from[i]
	}
	return out
}
