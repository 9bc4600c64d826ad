package shm

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checkView checks what Next promises about a record.
func checkView(t testing.TB, s *SessionFile, c *Consumer, v *RecordView) {
	t.Helper()
	if v.End != c.Read() || v.Pos >= v.End || v.End-v.Pos > maxRecord || v.Pos%RecordAlign != 0 || v.End%RecordAlign != 0 {
		t.Fatalf("positions %d to %d, read %d", v.Pos, v.End, c.Read())
	}
	if v.Lane >= Lanes || len(v.Deps()) > MaxDeps || v.Kind == KindPad || (HasSeq(v.Kind) && v.Seq == 0) {
		t.Fatalf("out of bounds: %+v", v)
	}
	for _, d := range v.Deps() {
		if d.Lane&^uint32(DepReady) >= Lanes {
			t.Fatalf("a dependency's lane is out of bounds: %+v", d)
		}
	}
	if p := v.Payload(); len(p) > 0 {
		ring := s.RingBytes()
		start := uintptr(unsafe.Pointer(&p[0])) - uintptr(unsafe.Pointer(&ring[0]))
		if start < uintptr(v.Pos%RingBytes) || start+uintptr(len(p)) > uintptr(v.Pos%RingBytes)+uintptr(v.End-v.Pos) || start+uintptr(len(p)) > RingBytes {
			t.Fatalf("payload of %d bytes at %d lies outside its record %d to %d", len(p), start, v.Pos, v.End)
		}
	}
	if v.Waits() && !HasSeq(v.Kind) && v.Kind != KindSignal {
		t.Fatalf("a record of kind %d waits", v.Kind)
	}
	switch v.Kind {
	case KindLaneOpen:
		v.LaneOpen()
	case KindLaunch:
		if l, params := v.Launch(); len(params) != int(l.ParamBytes) || len(params) > MaxParamBytes {
			t.Fatalf("%d parameter bytes, %+v", len(params), l)
		}
	case KindMemset:
		if e := v.Memset().Element; e != 1 && e != 2 && e != 4 {
			t.Fatalf("memset element %d", e)
		}
	case KindCopy:
		v.Copy()
	case KindCopy3D:
		v.Copy3D()
	case KindPut:
		if p, data := v.Put(); uint64(len(data)) != p.Bytes || len(data) > MaxInlineBytes {
			t.Fatalf("%d inline bytes, %+v", len(data), p)
		}
	case KindGet:
		if g, room := v.Get(); uint64(len(room)) != g.Bytes || len(room) > MaxInlineBytes {
			t.Fatalf("%d inline bytes, %+v", len(room), g)
		}
	case KindEvent:
		if v.Event().Slot >= EventSlots {
			t.Fatalf("event %+v", v.Event())
		}
	case KindElapsed:
		if e := v.Elapsed(); e.Start >= EventSlots || e.End >= EventSlots || e.Reply >= Replies {
			t.Fatalf("elapsed %+v", e)
		}
	case KindRequestBegin:
		if r := v.RequestBegin(); bytes.IndexByte(r.Label[:], 0) < 0 {
			t.Fatalf("request %+v", r)
		}
	case KindRequestEnd:
		v.RequestEnd()
	case KindGraph:
		v.Graph()
	case KindLaneRetire, KindSignal, KindUpcoming:
	default:
		t.Fatalf("kind %d came through", v.Kind)
	}
}

// validImage is a ring image with one record of every kind.
func validImage(t testing.TB) []byte {
	s, d := newSession(t)
	p := newProducer(t, s, d)
	begin := func(kind uint16, deps []Dep, bytes int) []byte {
		body, _, ok := p.Begin(Header{Kind: kind, Lane: 3, Seq: uint32(kind) + 1, Deps: deps}, bytes)
		if !ok {
			t.Fatal("no room")
		}
		return body
	}
	Put(begin(KindLaneOpen, nil, 16), LaneOpen{Priority: -1})
	Put(begin(KindLaunch, []Dep{{Lane: 1, Value: 2}, {Lane: 3 | DepReady, Value: 4}, {Lane: 5, Value: 6}}, 64+20), Launch{ParamBytes: 20, GridX: 1})
	Put(begin(KindMemset, nil, 48), Memset{Element: 4})
	Put(begin(KindCopy, []Dep{{Lane: 1, Value: 2}}, 32), Copy{Bytes: 4})
	Put(begin(KindCopy3D, nil, 128), Copy3D{Depth: 1})
	Put(begin(KindPut, nil, 16+5), InlineCopy{Bytes: 5})
	Put(begin(KindGet, nil, 16+7), InlineCopy{Bytes: 7})
	Put(begin(KindEvent, nil, 16), EventMark{Slot: 9})
	begin(KindSignal, nil, 0)
	begin(KindUpcoming, nil, 0)
	Put(begin(KindElapsed, nil, 16), Elapsed{Start: 1, End: 2, Reply: 3})
	begin(KindLaneRetire, nil, 0)
	Put(begin(KindRequestBegin, nil, 48), RequestBegin{Request: 1, Time: 2, Label: [32]byte{'r'}})
	Put(begin(KindRequestEnd, nil, 16), RequestEnd{Request: 1, Time: 3})
	Put(begin(KindGraph, []Dep{{Lane: 1, Value: 2}}, 16), GraphLaunch{Graph: 1})
	return append([]byte(nil), s.RingBytes()[:p.tail]...)
}

// TestValidImage keeps the fuzzers' seed valid, and whole: a kind that it lacks is one that the fuzzers may not know.
func TestValidImage(t *testing.T) {
	s, _ := newSession(t)
	image := validImage(t)
	want := 0
	for kind := range kinds {
		if kinds[kind].known && kind != KindPad {
			want++
		}
	}
	if got := runImage(t, s, image, 0, uint64(len(image))); got != want {
		t.Fatalf("%d records; expected %d, one of every kind", got, want)
	}
}

// runImage puts an image into the ring at a position, reads it with a given tail, and returns how many records came through.
func runImage(t testing.TB, s *SessionFile, image []byte, at, tail uint64) (records int) {
	ring := s.RingBytes()
	clear(ring)
	for i, b := range image {
		ring[(at+uint64(i))%RingBytes] = b
	}
	setPosition(s, at)
	c := NewConsumer(s)
	if err := c.Resume(at, at); err != nil {
		t.Fatal(err)
	}
	s.Producer().Tail = tail
	last := at
	for {
		v, ok, err := c.Next()
		if (err != nil) && ok {
			t.Fatal("both a record and an error")
		}
		if err != nil {
			if _, again, same := c.Next(); again || same != err {
				t.Fatalf("after %v came %v", err, same)
			}
			if !c.Empty() {
				t.Fatal("a broken ring is not empty")
			}
			break
		}
		if !ok {
			break
		}
		if v.Pos < last {
			t.Fatalf("record at %d after %d", v.Pos, last)
		}
		last = v.End
		checkView(t, s, c, v)
		if records++; records%3 == 0 {
			c.Release(v.End, true)
		}
	}
	if c.Read()-at > RingBytes {
		t.Fatalf("read %d bytes of a ring of %d", c.Read()-at, RingBytes)
	}
	return records
}

// FuzzConsumer reads arbitrary bytes as a ring: near sets where they start before the end of the buffer, extra is added to the tail.
func FuzzConsumer(f *testing.F) {
	s, err := CreateSessionFile(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	image := validImage(f)
	f.Add(image, uint32(0), int64(0))
	f.Add(image, uint32(4), int64(0))
	f.Add(image[:100], uint32(1), int64(16))
	f.Fuzz(func(t *testing.T, image []byte, near uint32, extra int64) {
		if len(image) > RingBytes {
			return
		}
		at := RingBytes - 16*uint64(near%64)
		runImage(t, s, image, at, at+uint64(len(image)+15)&^15+uint64(extra))
	})
}

// FuzzMessage decodes arbitrary packets, and encodes again what it accepted.
func FuzzMessage(f *testing.F) {
	h := MessageHeader{Magic: MessageMagic, Type: TypeKernel, Request: 1, TailBytes: 4, ClientID: 2}
	packet := append(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), messageHeaderBytes)...), Encode(Kernel{ImageID: 3})...)
	f.Add(append(packet, "name"...), []byte(nil))
	f.Add([]byte("short"), unix.UnixCredentials(&unix.Ucred{}))
	f.Fuzz(func(t *testing.T, packet, control []byte) {
		m, err := parseMessage(packet)
		if (err == nil) != (m.Body != nil) && BodyBytes(m.Type&^ReplyBit, m.Type&ReplyBit != 0) != 0 {
			t.Fatalf("message %+v and error %v", m, err)
		}
		if err == nil {
			if len(m.Body) != BodyBytes(m.Type&^ReplyBit, m.Type&ReplyBit != 0) || messageHeaderBytes+len(m.Body)+len(m.Tail) != len(packet) {
				t.Fatalf("body of %d and tail of %d from %d bytes", len(m.Body), len(m.Tail), len(packet))
			}
			if !bytes.Equal(packet[messageHeaderBytes:], append(append([]byte(nil), m.Body...), m.Tail...)) {
				t.Fatal("the message's bytes differ from the packet's")
			}
		}
		// The kernel writes control data, so only its form may be odd; numbers in it must not be closed here.
		if fds, err := parseFds(control); err == nil && len(fds) > len(control)/4 {
			t.Fatalf("%d fds from %d bytes", len(fds), len(control))
		}
	})
}

// TestFlippingBytes reads a ring while another goroutine rewrites it and the tail with records, halves of records and noise. Whatever
// comes through is in bounds.
func TestFlippingBytes(t *testing.T) {
	s, _ := newSession(t)
	image := validImage(t)
	words := make([]uint64, len(image)/8)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(image[8*i:])
	}
	ring := unsafe.Slice((*uint64)(unsafe.Pointer(&s.RingBytes()[0])), RingBytes/8)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for x := uint64(1); !stop.Load(); {
			for i := range words {
				atomic.StoreUint64(&ring[i], words[i])
			}
			atomic.StoreUint64(&s.Producer().Tail, uint64(len(image)))
			for range 64 {
				v := xorshift(&x)
				i := v >> 8 % uint64(len(words))
				switch v % 4 {
				case 0:
					atomic.StoreUint64(&ring[i], xorshift(&x))
				case 1:
					atomic.StoreUint64(&ring[i], words[i]^1<<(v>>32%64))
				case 2:
					atomic.StoreUint64(&ring[i], words[xorshift(&x)%uint64(len(words))])
				case 3:
					atomic.StoreUint64(&s.Producer().Tail, uint64(len(image))+(xorshift(&x)%1024-512)*16)
				}
				atomic.StoreUint64(&ring[i], words[i])
			}
		}
	}()
	records, errors := 0, 0
	for round := 0; round < 200000 && (records < 20000 || errors < 2000); round++ {
		c := NewConsumer(s)
		for {
			v, ok, err := c.Next()
			if err != nil {
				errors++
			}
			if !ok {
				break
			}
			records++
			checkView(t, s, c, v)
		}
		if round%2 == 0 {
			c.Abandon()
		}
		atomic.StoreUint64(&s.Consumer().Head, 0)
	}
	stop.Store(true)
	<-done
	if records < 20000 || errors < 2000 {
		t.Errorf("%d records and %d errors came; expected many of both", records, errors)
	}
}

// TestResumeRefusesNonsense hands positions to an executor that takes over which its ring's tail contradicts.
func TestResumeRefusesNonsense(t *testing.T) {
	s, _ := newSession(t)
	for _, c := range []struct {
		read, head, tail uint64
		ok               bool
	}{
		{0, 0, 0, true}, {64, 32, 96, true}, {32, 32, 32 + RingBytes, true}, {96, 96, 96, true},
		{0, 8, 96, false}, {0, 32, 96, false}, {128, 32, 96, false}, {32, 32, 48 + RingBytes, false}, {64, 64, 32, false}, {0, 0, 8, false},
	} {
		atomic.StoreUint64(&s.Producer().Tail, c.tail)
		consumer := NewConsumer(s)
		if err := consumer.Resume(c.read, c.head); (err == nil) != c.ok {
			t.Errorf("read %d, head %d, tail %d: %v; expected ok %v", c.read, c.head, c.tail, err, c.ok)
		}
		if _, _, err := consumer.Next(); !c.ok && err == nil {
			t.Errorf("read %d, head %d, tail %d: Next went on", c.read, c.head, c.tail)
		}
	}
}
