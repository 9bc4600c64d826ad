package shm

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var opKinds = []uint16{KindLaneOpen, KindLaneRetire, KindLaunch, KindMemset, KindCopy, KindCopy3D, KindPut, KindGet, KindEvent, KindSignal, KindElapsed, KindRequestBegin, KindRequestEnd, KindUpcoming}

// drawSpec makes a valid record of any kind.
func drawSpec(t *rapid.T, i int) spec {
	kind := rapid.SampledFrom(opKinds).Draw(t, "kind")
	s := spec{
		Kind: kind, Lane: rapid.Uint32Range(0, Lanes-1).Draw(t, "lane"), Seq: uint32(i + 1), Ready: rapid.Uint32().Draw(t, "ready"),
		Deps:       uint32(rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, MaxDeps)).Draw(t, "deps")),
		FixedBytes: kinds[kind].body, Seed: rapid.Uint64Min(1).Draw(t, "seed"),
		PublishIt: uint32(rapid.IntRange(0, 1).Draw(t, "publish")),
	}
	if kinds[kind].numbered {
		s.Flags = uint16(rapid.IntRange(0, RecordFlagWantSignal|RecordFlagWait).Draw(t, "flags"))
	}
	if kind == KindSignal {
		s.Flags = uint16(rapid.SampledFrom([]int{0, RecordFlagWait}).Draw(t, "wait"))
	}
	x := s.Seed
	fill := func() uint64 { return xorshift(&x) }
	body := s.Fixed[:]
	switch kind {
	case KindLaneOpen:
		Put(body, LaneOpen{Priority: int32(fill())})
	case KindLaunch:
		s.PayloadBytes = uint32(rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, MaxParamBytes)).Draw(t, "params"))
		Put(body, Launch{Kernel: uint32(fill()), Flags: LaunchFlagCluster, GridX: uint32(fill()), BlockX: 32, ParamBytes: s.PayloadBytes})
	case KindMemset:
		Put(body, Memset{Dst: fill(), Width: fill(), Height: fill(), Element: 1 << (fill() % 3), Value: uint32(fill())})
	case KindCopy:
		Put(body, Copy{Dst: fill(), Src: fill(), Bytes: fill()})
	case KindCopy3D:
		Put(body, Copy3D{Dst: fill(), SrcZ: fill(), Width: fill(), Height: fill(), Depth: fill()})
	case KindPut, KindGet:
		s.PayloadBytes = uint32(rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, MaxInlineBytes), rapid.Just(MaxInlineBytes)).Draw(t, "inline"))
		Put(body, InlineCopy{Address: fill(), Bytes: uint64(s.PayloadBytes)})
	case KindEvent:
		Put(body, EventMark{Slot: uint32(fill() % EventSlots)})
	case KindElapsed:
		Put(body, Elapsed{Start: uint32(fill() % EventSlots), End: uint32(fill() % EventSlots), Reply: uint32(fill() % Replies)})
	case KindRequestBegin:
		r := RequestBegin{Request: fill(), Time: fill()}
		for i := range r.Label[:len(r.Label)-1] {
			r.Label[i] = byte(fill())
		}
		Put(body, r)
	case KindRequestEnd:
		Put(body, RequestEnd{Request: fill(), Time: fill()})
	}
	return s
}

// forPairings runs a test with each language at each end of one ring.
func forPairings(t *testing.T, f func(t *testing.T, s *SessionFile, producer, consumer end)) {
	for _, pair := range []struct{ producer, consumer string }{{"Go", "Go"}, {"C", "Go"}, {"Go", "C"}, {"C", "C"}} {
		t.Run(fmt.Sprintf("%s to %s", pair.producer, pair.consumer), func(t *testing.T) {
			s, d := newSession(t)
			open := func(language string) end {
				if language == "C" {
					return newCEnd(t, s, d)
				}
				return goEnd{s, d}
			}
			f(t, s, open(pair.producer), open(pair.consumer))
		})
	}
}

// transfer pushes specs through a ring and compares what arrives.
func transfer(t testing.TB, producer, consumer end, specs []spec, lag int, pause time.Duration) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		_, err := producer.produce(specs, pause)
		failed <- err
	}()
	hashes, _, err := consumer.consume(len(specs), lag)
	if perr := <-failed; perr != nil {
		t.Fatalf("producer: %v", perr)
	}
	if err != nil {
		t.Fatalf("consumer: %v", err)
	}
	for i := range specs {
		if want := specs[i].hash(); hashes[i] != want {
			t.Fatalf("record %d of %d (kind %d, %d deps, %d payload bytes): hash %#x; expected %#x", i, len(specs), specs[i].Kind, specs[i].Deps, specs[i].PayloadBytes, hashes[i], want)
		}
	}
}

// TestPairings sends random records through random places of the ring, the end of the buffer among them.
func TestPairings(t *testing.T) {
	forPairings(t, func(t *testing.T, s *SessionFile, producer, consumer end) {
		rapid.Check(t, func(r *rapid.T) {
			// Up to 128 KiB before the end, so that most runs wrap.
			setPosition(s, RingBytes*uint64(rapid.IntRange(1, 3).Draw(r, "laps"))-16*uint64(rapid.IntRange(0, 8192).Draw(r, "before the end")))
			specs := make([]spec, rapid.IntRange(1, 40).Draw(r, "records"))
			for i := range specs {
				specs[i] = drawSpec(r, i)
			}
			transfer(t, producer, consumer, specs, rapid.IntRange(0, 50).Draw(r, "lag"), 0)
		})
	})
}

// TestBackPressure sends three times the ring's size in the largest payloads to a consumer that holds on to them, and then one tiny
// record at a time to a consumer that falls asleep in between.
func TestBackPressure(t *testing.T) {
	forPairings(t, func(t *testing.T, s *SessionFile, producer, consumer end) {
		specs := make([]spec, 3*RingBytes/MaxInlineBytes)
		for i := range specs {
			specs[i] = spec{Kind: KindPut, Seq: uint32(i + 1), Deps: uint32(i % 5), FixedBytes: 16, PayloadBytes: MaxInlineBytes - uint32(i%3), PublishIt: uint32(i % 2), Seed: uint64(i + 1)}
			Put(specs[i].Fixed[:], InlineCopy{Address: 1, Bytes: uint64(specs[i].PayloadBytes)})
		}
		transfer(t, producer, consumer, specs, len(specs), 0)
		specs = make([]spec, 200)
		for i := range specs {
			specs[i] = spec{Kind: KindSignal, Seq: uint32(i + 1), PublishIt: 1, Seed: 1}
		}
		transfer(t, producer, consumer, specs, 0, 50*time.Microsecond)
	})
}
