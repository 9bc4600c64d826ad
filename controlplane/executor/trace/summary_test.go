package trace

import (
	"slices"
	"testing"

	"github.com/heddle-gpu/heddle/shm"
)

// A client's ops are told apart by kind, and by whether somebody else's were under way when they were issued.
func TestSummaries(t *testing.T) {
	line := NewTimeline()
	word := uint64(0)
	op := func(client uint64, kind uint16, seq uint32, ready, issued, done uint64) {
		word++
		var raw []byte
		for _, e := range []shm.TraceEvent{
			{Kind: shm.TraceKindReady, Time: ready, Client: client, Lane: 1, Seq: seq, Op: kind},
			{Kind: shm.TraceKindWord, Time: issued, Client: client, Word: word, Stream: uint8(client), Count: 1, Op: kind},
			{Kind: shm.TraceKindSlot, Time: issued, Client: client, Word: word, Lane: 1, Seq: seq, Op: kind, Count: 1},
			{Kind: shm.TraceKindDone, Time: done, Client: client, Lane: 1, Seq: seq, Count: 1, Stream: uint8(client)},
		} {
			if e.Time > 0 {
				raw = append(raw, shm.Encode(e)...)
			}
		}
		if err := line.Add(raw); err != nil {
			t.Fatal(err)
		}
	}
	op(1, shm.KindGraph, 1, 1000, 1000, 1900) // by itself
	op(2, shm.KindLaunch, 1, 2000, 2000, 5000)
	op(1, shm.KindGraph, 2, 2100, 2500, 4500) // beside client 2's
	op(1, shm.KindGet, 3, 2600, 2600, 4600)   // its own does not count, client 2's does
	op(1, shm.KindGraph, 4, 6000, 6050, 6900) // by itself again
	op(2, shm.KindLaunch, 2, 7000, 7000, 0)   // its end is not there
	want := []Summary{
		{1, "graph", false, 2, Quantiles{50, 50}, Quantiles{900, 900}},
		{1, "graph", true, 1, Quantiles{400, 400}, Quantiles{2000, 2000}},
		{1, "get", true, 1, Quantiles{}, Quantiles{2000, 2000}},
		{2, "kernel", false, 1, Quantiles{}, Quantiles{3000, 3000}},
	}
	if got := line.Summaries(); !slices.Equal(got, want) {
		t.Errorf("%+v\nnot\n%+v", got, want)
	}
	if got := NewTimeline().Summaries(); len(got) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
}
