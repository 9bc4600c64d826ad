package trace

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/perfetto/perfettotest"
	"github.com/heddle-gpu/heddle/shm"
)

// Whatever events come, lost or senseless ones among them, the trace keeps the rules of its format: slices nest, flows that end
// have begun, times go forward.
func TestAnyEvents(t *testing.T) {
	kinds := []uint8{
		shm.TraceKindReady, shm.TraceKindWord, shm.TraceKindSlot, shm.TraceKindDone, shm.TraceKindRequestBegin, shm.TraceKindRequestEnd,
		shm.TraceKindMark, shm.TraceKindFault, 0, 99,
	}
	slots := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		line := NewTimeline()
		now := uint64(1000)
		var raw []byte
		for range r.IntN(300) {
			now += uint64(r.IntN(3)) // often the same moment
			at := now
			if r.IntN(10) == 0 {
				at -= min(uint64(r.IntN(900)), now) // a reader must not trust the order
			}
			raw = append(raw, shm.Encode(shm.TraceEvent{
				Time: at, Client: uint64(r.IntN(3)), Word: uint64(r.IntN(20)), Lane: uint32(r.IntN(3)), Seq: uint32(r.IntN(12)),
				Code: uint32(r.IntN(3)), Count: uint32(r.IntN(4)), GridX: uint32(r.IntN(2)), Threads: uint32(r.IntN(2)), Op: uint16(r.IntN(12)),
				Kind: kinds[r.IntN(len(kinds))], Reason: uint8(r.IntN(4)), Path: uint8(r.IntN(3)), Stream: uint8(r.IntN(3)),
			})...)
		}
		if err := line.Add(raw); err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		names := Names{Waits: []string{"gather"}, Paths: Paths[:], Kernels: map[uint32]string{1: "k\x00"}}
		if err := Write(&file, []Executor{{line, names}, {NewTimeline(), Names{}}, {line, Names{Dropped: 3}}}, Clocks()); err != nil {
			t.Fatal(err)
		}
		tr, err := perfettotest.Decode(file.Bytes())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, s := range tr.Slices {
			if slots += len(s.Ending); s.End < s.Begin {
				t.Fatalf("seed %d: %+v", seed, s)
			}
		}
	}
	if slots == 0 {
		t.Error("no op went into a word")
	}
	if err := NewTimeline().Add(make([]byte, EventBytes+1)); err == nil {
		t.Error("half an event was taken")
	}
	if err := NewTimeline().Add(bytes.Repeat([]byte{0xff}, EventBytes)); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Error(err)
	}
}

// Numbers of a lane go on at 1 behind 4294967295, and what is done is so in the lane's order.
func TestNumbersWrap(t *testing.T) {
	line := NewTimeline()
	add := func(e shm.TraceEvent) {
		e.Client, e.Lane = 1, 2
		if err := line.Add(shm.Encode(e)); err != nil {
			t.Fatal(err)
		}
	}
	for i, seq := range []uint32{1<<32 - 2, 1<<32 - 1, 1, 2} {
		at := uint64(100 + 10*i)
		add(shm.TraceEvent{Kind: shm.TraceKindReady, Time: at, Seq: seq})
		add(shm.TraceEvent{Kind: shm.TraceKindWord, Time: at + 1, Word: uint64(i), Count: 1})
		add(shm.TraceEvent{Kind: shm.TraceKindSlot, Time: at + 1, Seq: seq, Word: uint64(i), Count: 1})
	}
	add(shm.TraceEvent{Kind: shm.TraceKindDone, Time: 200, Seq: 1, Count: 3})
	var done []int64
	for _, op := range line.Ops {
		done = append(done, op.Done)
	}
	if !slices.Equal(done, []int64{200, 200, 200, 0}) || line.Words[2].Done != 200 || line.Words[3].Done != 0 {
		t.Errorf("%v %+v", done, line.Words)
	}
}
