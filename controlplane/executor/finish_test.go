package executor

import (
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/shm"
)

// What a client that is gone left behind others' ops on a stream may take as long as those go on ending; what it left with nothing before
// it that ends is endless after DeadKernelTime, and its own fault.
func TestGoneBehindOthers(t *testing.T) {
	const (
		bound = 300 * time.Microsecond
		each  = uint32(100) // µs of an op
	)
	b := newClocked(t)
	b.poller.config.DeadKernelTime = bound
	b.poller.tune.Progress = time.Hour // no op is issued because others take long
	others, stays := b.client(nil)
	leaves, leaving := b.client(nil)
	lanes, ops := uint32(b.poller.engine.Streams()), uint32(20)
	for lane := uint32(1); lane <= lanes; lane++ {
		for range ops {
			stays.launchGrid(1, lane, each, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
		}
	}
	stays.ring.Publish()
	for i := 0; others.board.InFlight() != int(lanes*ops); i++ {
		if b.tick(); i > 1000 {
			t.Fatal("ops are not issued")
		}
	}
	leaving.launchGrid(1, 1, each, nil, nil)
	leaving.ring.Publish()
	for i := 0; leaves.board.InFlight() == 0; i++ {
		if b.tick(); i > 1000 {
			t.Fatal("the op is not issued")
		}
	}
	before := b.poller.engine.Stream(leaves.board.Lane(1).Stream).Ops - 1
	if time.Duration(before)*time.Duration(each)*time.Microsecond < 2*bound {
		t.Fatalf("%d ops are before it on its stream: they show nothing", before)
	}
	gone := false
	b.poller.detach(leaves, func() { gone = true })
	for i := 0; !gone; i++ {
		if b.tick(); i > 100_000 {
			t.Fatal("it is not let go")
		}
	}
	b.poller.remove(leaves)
	for lane := uint32(1); lane <= lanes; lane++ {
		for stays.done(lane) != ops {
			b.tick()
		}
	}

	endless, last := b.client(nil)
	last.launchGrid(1, 1, 1e6, nil, nil)
	last.ring.Publish()
	for endless.board.InFlight() == 0 {
		b.tick()
	}
	b.poller.detach(endless, func() { t.Error("it is let go, and runs") })
	from := b.clock.now
	for b.poller.pass() {
		if b.clock.now-from > 4*int64(bound) {
			t.Fatal("the executor goes on")
		}
		b.clock.turn(b.clock.now + micro)
	}
	if end := b.poller.end; end == nil || end.code != ExitEndless || end.blamed != endless.id || b.clock.now-from <= int64(bound) {
		t.Errorf("after %v: %+v", time.Duration(b.clock.now-from), end)
	}
}
