package shm

import (
	"bytes"
	"os/exec"
	"testing"
	"unsafe"
)

// TestOffsets compares every member's offset as gcc and this compiler see it.
func TestOffsets(t *testing.T) {
	out, err := exec.Command("go", "run", "../tools/layoutgen/check", "-root", "..").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if lines := bytes.Count(out, []byte("\n")); lines != len(Offsets())+1 {
		t.Errorf("%d lines; expected one for the hash and one for each of %d members", lines, len(Offsets()))
	}
}

// TestLines pins what the layout is for: words with different writers lie on different cache lines.
func TestLines(t *testing.T) {
	var l Lane
	if unsafe.Offsetof(l.Done)/64 == unsafe.Offsetof(l.Issued)/64 {
		t.Error("lane.done and lane.issued share a cache line")
	}
	var d DoorbellWords
	if unsafe.Offsetof(d.Sleeping)/64 == unsafe.Offsetof(d.Magic)/64 {
		t.Error("doorbell.sleeping shares a cache line with the header")
	}
	for name, size := range map[string]uintptr{"lane": unsafe.Sizeof(l), "producer": unsafe.Sizeof(ProducerWords{}), "consumer": unsafe.Sizeof(ConsumerWords{}), "status": unsafe.Sizeof(SessionStatus{}), "reply": unsafe.Sizeof(ReplySlot{})} {
		if size%64 != 0 {
			t.Errorf("%s has %d bytes; expected whole cache lines", name, size)
		}
	}
	if lanesOffset%Page != 0 || ringOffset%Page != 0 || SessionBytes%Page != 0 {
		t.Errorf("lanes at %d, ring at %d, %d bytes: expected whole pages, which the driver registers", lanesOffset, ringOffset, SessionBytes)
	}
}

// TestBodies checks that every message type has a body size in both directions and that nothing else has.
func TestBodies(t *testing.T) {
	for typ := range uint16(ReplyBit) {
		_, known := typeNames[typ]
		if got := BodyBytes(typ, false) >= 0 && BodyBytes(typ, true) >= 0; got != known {
			t.Fatalf("type %d: has a body %v, has a name %v", typ, got, known)
		}
	}
	if TypeName(TypeHello) != "HELLO" || TypeName(TypeHello|ReplyBit) != "HELLO reply" || TypeName(31) != "unknown" {
		t.Errorf("names %q %q %q", TypeName(TypeHello), TypeName(TypeHello|ReplyBit), TypeName(31))
	}
}

// TestReached walks across the wrap of lane numbers.
func TestReached(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{5, 5, true}, {6, 5, true}, {5, 6, false}, {1, 0xffffffff, true}, {0xffffffff, 1, false}, {0x7fffffff, 0, true}, {0x80000001, 0, false}} {
		if Reached(c.a, c.b) != c.want {
			t.Errorf("Reached(%#x, %#x) = %v", c.a, c.b, !c.want)
		}
	}
}
