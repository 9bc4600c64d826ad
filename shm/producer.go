package shm

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"
)

// Errors of Producer.WaitSpace.
var (
	// ErrFloor means that only Producer.Floor is in the way: the caller must fetch what it still holds in the ring.
	ErrFloor = errors.New("shm: ring is held by the producer's own floor")
	// ErrRecordSize means that the record can never fit.
	ErrRecordSize = errors.New("shm: record is empty or larger than a quarter of the ring")
	// ErrHead means that the executor's head is nonsense.
	ErrHead = errors.New("shm: the executor's head is out of bounds")
)

// Producer writes one session's ring, as libheddle.so does in C: for tests, heddle bench and simulated clients. One goroutine
// uses it.
type Producer struct {
	// Floor is the position of the oldest record whose payload the producer still reads; NoFloor when there is none.
	Floor     uint64
	ring      []byte
	words     *ProducerWords
	consumer  *ConsumerWords
	doorbell  *Doorbell
	tail      uint64 // reserved
	published uint64
	head      uint64 // last head believed
}

// NoFloor is the Floor of a producer that reads nothing back.
const NoFloor = math.MaxUint64

// NewProducer continues at the ring's tail. The doorbell may be nil when nobody sleeps.
func NewProducer(s *SessionFile, d *Doorbell) (*Producer, error) {
	p := &Producer{Floor: NoFloor, ring: s.RingBytes(), words: s.Producer(), consumer: s.Consumer(), doorbell: d}
	p.tail = atomic.LoadUint64(&p.words.Tail)
	p.published = p.tail
	p.head = atomic.LoadUint64(&p.consumer.Head)
	if p.tail%RecordAlign != 0 || p.tail-p.head > RingBytes {
		return nil, fmt.Errorf("ring: tail %d and head %d do not fit: %w", p.tail, p.head, ErrHead)
	}
	return p, nil
}

// Header is what the producer says about a record besides its body.
type Header struct {
	Kind, Flags      uint16
	Lane, Seq, Ready uint32
	Deps             []Dep
}

// RecordBytes is the size of a record in the ring.
func RecordBytes(deps, body int) int {
	return recordBytes + int(round16(uint32(deps)*8)) + int(round16(uint32(body)))
}

func (p *Producer) low() uint64 { return min(p.head, p.Floor) }

func (p *Producer) cost(need uint64) uint64 {
	if toEnd := RingBytes - p.tail&(RingBytes-1); toEnd < need {
		return toEnd + need
	}
	return need
}

func (p *Producer) refresh() bool {
	head := atomic.LoadUint64(&p.consumer.Head)
	if head-p.head > p.published-p.head {
		return false
	}
	p.head = head
	return true
}

// Begin reserves a record, fills its header and dependencies, and returns the room for its body, which is the ring's memory, and
// its position. ok is false when there is no room now (WaitSpace) or never (too large, too many dependencies). The consumer sees
// nothing before Publish.
func (p *Producer) Begin(h Header, bodyBytes int) (body []byte, position uint64, ok bool) {
	if len(h.Deps) > MaxDeps || bodyBytes < 0 || bodyBytes > maxRecord {
		return nil, 0, false
	}
	need := uint64(RecordBytes(len(h.Deps), bodyBytes))
	if need > maxRecord {
		return nil, 0, false
	}
	total := p.cost(need)
	if total > RingBytes-(p.tail-p.low()) {
		p.refresh()
		if total > RingBytes-(p.tail-p.low()) {
			return nil, 0, false
		}
	}
	if total > need {
		p.put(p.tail, uint64(total-need)|uint64(KindPad)<<32)
		p.put(p.tail+8, 0)
		p.tail += total - need
	}
	position = p.tail
	p.put(position, need|uint64(h.Kind)<<32|uint64(h.Flags)<<48)
	p.put(position+8, uint64(h.Lane)|uint64(h.Seq)<<32)
	p.put(position+16, uint64(h.Ready)|uint64(len(h.Deps))<<32)
	p.put(position+24, 0)
	for i, d := range h.Deps {
		p.put(position+uint64(recordBytes+8*i), uint64(d.Lane)|uint64(d.Value)<<32)
	}
	start := position&(RingBytes-1) + uint64(recordBytes) + uint64(round16(uint32(len(h.Deps))*8))
	p.tail += need
	return p.ring[start : start+uint64(bodyBytes) : start+uint64(bodyBytes)], position, true
}

func (p *Producer) put(pos, v uint64) {
	*(*uint64)(unsafe.Pointer(&p.ring[pos&(RingBytes-1)])) = v
}

// Publish hands every reserved record to the consumer and rings the doorbell when it sleeps.
func (p *Producer) Publish() {
	if p.tail == p.published {
		return
	}
	p.published = p.tail
	atomic.StoreUint64(&p.words.Tail, p.tail) // sequentially consistent: before the load of sleeping
	if p.doorbell != nil {
		p.doorbell.Ring()
	}
}

// WaitSpace waits until a record of that many bytes (RecordBytes) fits; it publishes what is reserved first. A negative timeout
// waits for ever. Errors: ErrTimeout, ErrFloor, ErrRecordSize, ErrHead.
func (p *Producer) WaitSpace(bytes int, timeout time.Duration) error {
	if bytes <= 0 || bytes > maxRecord {
		return ErrRecordSize
	}
	p.Publish()
	total := p.cost(uint64(round16(uint32(bytes))))
	deadline := time.Now().Add(timeout)
	defer atomic.StoreUint32(&p.words.SpaceWaiting, 0)
	for {
		bell := atomic.LoadUint32(&p.consumer.SpaceBell)
		atomic.StoreUint32(&p.words.SpaceWaiting, 1)
		switch {
		case !p.refresh():
			return ErrHead
		case total <= RingBytes-(p.tail-p.low()):
			return nil
		case total <= RingBytes-(p.tail-p.head):
			return ErrFloor
		}
		left := time.Duration(-1)
		if timeout >= 0 {
			if left = time.Until(deadline); left <= 0 {
				return ErrTimeout
			}
		}
		if err := FutexWait(&p.consumer.SpaceBell, bell, left); err != nil && !errors.Is(err, ErrTimeout) {
			return err
		}
	}
}
