package trace

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/perfetto/perfettotest"
	"github.com/heddle-gpu/heddle/controlplane/simulate"
	"github.com/heddle-gpu/heddle/shm"
)

// Whatever events come, lost or senseless ones among them, the trace keeps the rules of its format: slices nest, flows that end
// have begun, times go forward.
func TestAnyEvents(t *testing.T) {
	kinds := []uint8{
		shm.TraceKindReady, shm.TraceKindWord, shm.TraceKindSlot, shm.TraceKindDone, shm.TraceKindRequestBegin, shm.TraceKindRequestEnd,
		shm.TraceKindMark, shm.TraceKindFault, 0, 99,
	}
	slots, requests := 0, 0
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
		var replay bytes.Buffer
		sources := map[uint64]Source{0: {"a", "x"}, 1: {"", ""}, 2: {strings.Repeat("ü\n", 90), "x"}}
		n, err := WriteRequests(&replay, []Executor{{line, names}}, sources, func(int, uint32) Cost { return Cost{} })
		if err != nil {
			t.Fatal(err)
		}
		if requests += n; n > 0 {
			if _, err := simulate.ParseTrace("t", replay.String()); err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, replay.String())
			}
		}
		for _, row := range line.Summaries() {
			if row.Ops < 1 || row.Waited.P50 < 0 || row.Took.P50 > row.Took.P99 {
				t.Fatalf("seed %d: %+v", seed, row)
			}
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
	if slots == 0 || requests == 0 {
		t.Errorf("%d ops went into words, %d requests were whole", slots, requests)
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

// A request becomes a line of what was submitted in it: alike ops as one, with the time measured on the GPU or the shortest seen.
func TestWriteRequests(t *testing.T) {
	line := NewTimeline()
	at := uint64(1000)
	event := func(e shm.TraceEvent) {
		e.Time, e.Client = at, 5
		at += 10
		if err := line.Add(shm.Encode(e)); err != nil {
			t.Fatal(err)
		}
	}
	op := func(seq, code, grid uint32, kind uint16) {
		event(shm.TraceEvent{Kind: shm.TraceKindReady, Op: kind, Lane: 7, Seq: seq, Code: code, GridX: grid, GridY: 2, GridZ: 1, Threads: 64})
		event(shm.TraceEvent{Kind: shm.TraceKindSlot, Op: kind, Lane: 7, Seq: seq, Code: code, Word: uint64(seq), Count: 1})
		event(shm.TraceEvent{Kind: shm.TraceKindDone, Lane: 7, Seq: seq, Count: 1})
	}
	op(1, 1, 4, shm.KindLaunch) // of a request whose beginning is not there
	event(shm.TraceEvent{Kind: shm.TraceKindRequestEnd})
	event(shm.TraceEvent{Kind: shm.TraceKindRequestBegin})
	op(2, 1, 4, shm.KindLaunch)
	op(3, 1, 4, shm.KindLaunch)
	op(4, 2, 1, shm.KindLaunch)
	op(5, 0, 0, shm.KindMemset)
	event(shm.TraceEvent{Kind: shm.TraceKindRequestEnd})
	event(shm.TraceEvent{Kind: shm.TraceKindRequestBegin}) // its end is not there
	op(6, 1, 4, shm.KindLaunch)
	var out bytes.Buffer
	n, err := WriteRequests(&out, []Executor{{line, Names{Kernels: map[uint32]string{1: "gemm"}}}}, map[uint64]Source{5: {"chat", "interactive"}},
		func(_ int, code uint32) Cost { return map[uint32]Cost{1: {Alone: 900, Joined: true}}[code] })
	want := `{"client":"chat-5","class":"interactive","at_ns":40,"gap_ns":30,"ops":[` +
		`{"kernel":"gemm","blocks":8,"threads":64,"ns":900,"times":2,"lane":0,"alone":false},` +
		`{"kernel":"kernel 2","blocks":2,"threads":64,"ns":10,"times":1,"lane":0,"alone":true},` +
		`{"kernel":"memset","blocks":2,"threads":64,"ns":10,"times":1,"lane":0,"alone":true}]}` + "\n"
	if err != nil || n != 1 || out.String() != want {
		t.Errorf("%d, %v\n%s\nwant\n%s", n, err, out.String(), want)
	}
}
