package executor

import (
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/sched"
	"github.com/heddle-gpu/heddle/shm"
)

// Very many ops of a client wait for one of another lane, whose done word nobody asks for: the client waits for the last of those that
// wait, which find no room on the stream of the first. Others keep the poller busy meanwhile.
func TestFullStream(t *testing.T) {
	b := newClocked(t)
	_, busy := b.in("busy", sched.Settings{})
	_, w := b.in("waits", sched.Settings{})
	first := w.launchGrid(1, 1, 1, nil, nil)
	behind := func(h *shm.Header) { h.Deps = []shm.Dep{{Lane: 1, Value: first}} }
	w.launchGrid(1, 2, 1, nil, behind) // goes behind it on its stream
	const lanes, each = 8, 130
	for i := range each {
		for lane := range uint32(lanes) {
			w.launchGrid(1, 3+lane, 1, nil, func(h *shm.Header) {
				if behind(h); i == each-1 {
					h.Flags = shm.RecordFlagWantSignal
				}
			})
		}
	}
	w.ring.Publish()
	for lane := range uint32(lanes) {
		for i := 0; w.done(3+lane) != each; i++ {
			if i > 20_000 {
				t.Fatalf("lane %d: %d of %d ops are done", 3+lane, w.done(3+lane), each)
			}
			busy.launchGrid(1, 1, 1, nil, func(h *shm.Header) { h.Flags = shm.RecordFlagWantSignal })
			busy.ring.Publish()
			b.tick()
		}
	}
}
