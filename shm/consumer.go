package shm

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Consumer reads one session's ring. One goroutine uses it. It allocates nothing, reads every byte of a header, a dependency or a
// fixed body at most once, and never trusts a position that lies in the file.
type Consumer struct {
	ring     unsafe.Pointer // RingBytes bytes
	producer *ProducerWords
	words    *ConsumerWords
	read     uint64 // scanned; ours
	told     uint64 // of read, in the file: at most read, and never below the head there
	head     uint64 // released; ours
	freed    uint64 // of head, in the file
	tail     uint64 // the last tail that was read and found sane
	err      error  // what is wrong with the ring, for ever
	deps     [MaxDeps]Dep
	body     [bodyWords]uint64
	view     RecordView // what Next returned last: by value it would be copied at each step, right behind the stores that made it
}

// NewConsumer starts at the position of a new session, 0. To take a ring over from a dead executor, call Resume next.
func NewConsumer(s *SessionFile) *Consumer {
	return &Consumer{ring: unsafe.Pointer(&s.RingBytes()[0]), producer: s.Producer(), words: s.Consumer()}
}

// Resume takes over where a dead executor stood: head is its consumer.head, from where everything is scanned again, and read its
// consumer.read. Both lie in memory that the client can write, so they are checked against the ring's tail.
func (c *Consumer) Resume(read, head uint64) error {
	tail := atomic.LoadUint64(&c.producer.Tail)
	if head%RecordAlign != 0 || tail%RecordAlign != 0 || tail-head > RingBytes || read-head > tail-head {
		c.err = &BadRecord{head, fmt.Sprintf("positions to resume from do not fit: head %d, read %d, tail %d", head, read, tail)}
		return c.err
	}
	c.head, c.freed, c.read, c.tail = head, head, head, head
	atomic.StoreUint64(&c.words.Head, head)
	atomic.StoreUint64(&c.words.Read, head)
	c.told = head
	c.wakeProducer() // the dead executor may have moved head and died before it woke a producer that waits for space
	return nil
}

// Read is the position up to which records were scanned.
func (c *Consumer) Read() uint64 { return c.read }

// Head is the position below which everything is released.
func (c *Consumer) Head() uint64 { return c.head }

// Empty reports whether the client has published nothing that Next has not returned; cheap, for the recheck of Doorbell.Sleep.
// A broken ring is empty.
func (c *Consumer) Empty() bool {
	return c.err != nil || (c.read == c.tail && atomic.LoadUint64(&c.producer.Tail) == c.read)
}

func (c *Consumer) bad(reason string) (*RecordView, bool, error) {
	c.err = &BadRecord{c.read, reason}
	return nil, false, c.err
}

func (c *Consumer) at(pos uint64) unsafe.Pointer {
	return unsafe.Add(c.ring, pos&(RingBytes-1))
}

// word reads 8 bytes of the ring that the client may be changing.
func word(p unsafe.Pointer, i int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Add(p, i*8)))
}

// Next returns the next record, valid until the next call, or false when there is none. A *BadRecord error is final: the client broke
// the ring, and Next returns the same error from now on. Pads are skipped.
func (c *Consumer) Next() (*RecordView, bool, error) {
	if c.err != nil {
		return nil, false, c.err
	}
	for {
		if c.read == c.tail {
			tail := atomic.LoadUint64(&c.producer.Tail) // acquire: pairs with the release in heddle_ring_publish
			if tail == c.read {
				c.tell()
				return nil, false, nil
			}
			if tail%RecordAlign != 0 || tail-c.head > RingBytes || tail-c.read > RingBytes {
				return c.bad("tail is out of bounds")
			}
			c.tail = tail
		}
		p := c.at(c.read)
		w := word(p, 0)
		size, kind, flags := uint32(w), uint16(w>>32), uint16(w>>48)
		toEnd := RingBytes - c.read&(RingBytes-1)
		if size < RecordAlign || size%RecordAlign != 0 || size > maxRecord || uint64(size) > c.tail-c.read || uint64(size) > toEnd {
			return c.bad("size is out of bounds")
		}
		if kind == KindPad {
			if uint64(size) != toEnd {
				return c.bad("a pad does not reach the end of the ring")
			}
			c.advance(size)
			continue
		}
		return c.record(p, size, kind, flags)
	}
}

func (c *Consumer) advance(size uint32) { c.read += uint64(size) }

// tell stores read into the file: once for many records, because only a successor wants to know.
func (c *Consumer) tell() {
	if c.told != c.read {
		c.told = c.read
		StoreRelease64(&c.words.Read, c.read)
	}
}

// record checks one record and copies it. p has size bytes, all inside the ring and below tail.
func (c *Consumer) record(p unsafe.Pointer, size uint32, kind, flags uint16) (*RecordView, bool, error) {
	if int(kind) >= len(kinds) || !kinds[kind].known {
		return c.bad("kind does not exist")
	}
	facts := kinds[kind]
	if flags&^uint16(RecordFlagWantSignal|RecordFlagWait) != 0 || (flags != 0 && !facts.numbered && (kind != KindSignal || flags != RecordFlagWait)) {
		return c.bad("flags do not exist or do not go with the kind")
	}
	if size < uint32(recordBytes) {
		return c.bad("size is smaller than a header")
	}
	w1, w2 := word(p, 1), word(p, 2)
	v := &c.view
	v.Kind, v.Flags, v.Lane, v.Seq, v.Ready, v.Pos, v.body = kind, flags, uint32(w1), uint32(w1>>32), uint32(w2), c.read, &c.body
	ndeps := uint32(w2 >> 32)
	if v.Lane >= Lanes {
		return c.bad("lane is out of bounds")
	}
	if facts.numbered && v.Seq == 0 {
		return c.bad("an op has number 0")
	}
	if ndeps > MaxDeps {
		return c.bad("too many dependencies")
	}
	fixed := uint32(recordBytes) + round16(ndeps*8)
	if fixed+facts.body > size {
		return c.bad("size is smaller than its dependencies and body")
	}
	q := unsafe.Add(p, recordBytes)
	for i := range ndeps {
		d := word(q, int(i))
		c.deps[i] = Dep{Lane: uint32(d), Value: uint32(d >> 32)}
		if c.deps[i].Lane&^uint32(DepReady) >= Lanes {
			return c.bad("a dependency's lane is out of bounds")
		}
	}
	v.deps = c.deps[:ndeps:ndeps]
	q = unsafe.Add(p, fixed)
	for i := range int(facts.body / 8) {
		c.body[i] = word(q, i)
	}
	payload, reason := c.checkBody(kind)
	if reason != "" {
		return c.bad(reason)
	}
	if fixed+facts.body+round16(payload) != size {
		return c.bad("size is not what kind, dependencies and payload come to")
	}
	v.payload = nil
	if payload > 0 {
		v.payload = unsafe.Slice((*byte)(unsafe.Add(q, facts.body)), payload)
	}
	c.advance(size)
	v.End = c.read
	return v, true, nil
}

// checkBody checks the copied body and returns its payload's size. It looks at counts and slots; addresses belong to the executor,
// which knows the windows.
func (c *Consumer) checkBody(kind uint16) (payload uint32, reason string) {
	body := unsafe.Pointer(&c.body)
	switch kind {
	case KindLaunch:
		l := (*Launch)(body)
		if l.Flags&^uint32(LaunchFlagCooperative|LaunchFlagCluster) != 0 {
			return 0, "launch flags do not exist"
		}
		if l.ParamBytes > MaxParamBytes {
			return 0, "too many parameter bytes"
		}
		return l.ParamBytes, ""
	case KindMemset:
		if e := (*Memset)(body).Element; e != 1 && e != 2 && e != 4 {
			return 0, "memset element is not 1, 2 or 4 bytes"
		}
	case KindPut, KindGet:
		n := (*InlineCopy)(body).Bytes
		if n > MaxInlineBytes {
			return 0, "too many inline bytes"
		}
		return uint32(n), ""
	case KindEvent:
		if (*EventMark)(body).Slot >= EventSlots {
			return 0, "event slot is out of bounds"
		}
	case KindElapsed:
		if e := (*Elapsed)(body); e.Start >= EventSlots || e.End >= EventSlots || e.Reply >= Replies {
			return 0, "event or reply slot is out of bounds"
		}
	case KindRequestBegin:
		if l := &(*RequestBegin)(body).Label; l[len(l)-1] != 0 {
			return 0, "a request's label does not end in its field"
		}
	}
	return 0, ""
}

// freeAtOnce is how much is released before the client is told so: its line is with the core that it runs on.
const freeAtOnce = RingBytes / 64

// Release makes the ring's bytes below pos (a record's End) free: every record below it is done and its payload no longer used. The
// client is told after every 64 KiB, and at once when flush is set, which it must be when nothing of the session is left to do. It wakes
// a producer that waits for space once half of the ring is free, which is enough for any record; positions at or below the last
// released one change nothing.
func (c *Consumer) Release(pos uint64, flush bool) {
	if pos-c.head > c.read-c.head {
		if c.head-pos > RingBytes {
			panic(fmt.Sprintf("BUG: shm: release of position %d; head %d, read %d", pos, c.head, c.read))
		}
		pos = c.head
	}
	c.head = pos
	if pos == c.freed || (!flush && pos-c.freed < freeAtOnce) {
		return
	}
	c.freed = pos
	c.tell()
	// Sequentially consistent: also the fence between head and space_waiting. Pairs with heddle_ring_wait_space, which sets
	// space_waiting, fences, and looks at head.
	atomic.StoreUint64(&c.words.Head, pos)
	if c.tail-pos <= RingBytes/2 && atomic.LoadUint32(&c.producer.SpaceWaiting) != 0 {
		c.wakeProducer()
	}
}

func (c *Consumer) wakeProducer() {
	atomic.AddUint32(&c.words.SpaceBell, 1)
	wakeEverybody(&c.words.SpaceBell)
}

// Abandon gives a broken or dead session's ring up: all of it counts as scanned and free, so that a producer never waits for it.
// Next returns an error from now on. Set the session's error first.
func (c *Consumer) Abandon() {
	if c.err == nil {
		c.err = &BadRecord{c.read, "the session was abandoned"}
	}
	tail := atomic.LoadUint64(&c.producer.Tail)
	c.read, c.told, c.head, c.freed, c.tail = tail, tail, tail, tail, tail
	atomic.StoreUint64(&c.words.Read, tail)
	atomic.StoreUint64(&c.words.Head, tail)
	c.wakeProducer()
}
