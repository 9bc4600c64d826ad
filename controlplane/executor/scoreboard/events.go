package scoreboard

import (
	"sync/atomic"
	"unsafe"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// EventMaker creates and destroys driver events.
type EventMaker interface {
	EventCreate(timed bool) (gpu.Event, gpu.Result)
	EventDestroy(e gpu.Event) gpu.Result
}

// events holds the driver's event of each slot; issue threads share it.
type events [shm.EventSlots]atomic.Uint64

// DoneAddress is where the device sees lane.done; LanesDevice must be set.
func (s *Session) DoneAddress(lane uint32) uint64 {
	return s.LanesDevice + uint64(lane)*uint64(unsafe.Sizeof(shm.Lane{})) + uint64(unsafe.Offsetof(shm.Lane{}.Done))
}

// Event is the driver's event of a slot, made at its first use. Any bound thread may call it.
func (s *Session) Event(slot uint32, d EventMaker) (gpu.Event, gpu.Result) {
	if e := s.events[slot].Load(); e != 0 {
		return gpu.Event(e), gpu.Success
	}
	e, r := d.EventCreate(true)
	if r != gpu.Success {
		return 0, r
	}
	if !s.events[slot].CompareAndSwap(0, uint64(e)) {
		d.EventDestroy(e)
		return gpu.Event(s.events[slot].Load()), gpu.Success
	}
	return e, gpu.Success
}

// EventAt is the event of a slot, 0 when none was ever recorded there.
func (s *Session) EventAt(slot uint32) gpu.Event { return gpu.Event(s.events[slot].Load()) }

// PrepareEvents makes the events of the first n slots, off the hot path.
func (s *Session) PrepareEvents(n uint32, d EventMaker) gpu.Result {
	for i := range n {
		if _, r := s.Event(i, d); r != gpu.Success {
			return r
		}
	}
	return gpu.Success
}

// DestroyEvents gives all events back; no thread may use the session any more.
func (s *Session) DestroyEvents(d EventMaker) {
	for i := range s.events {
		if e := s.events[i].Swap(0); e != 0 {
			d.EventDestroy(gpu.Event(e))
		}
	}
}

// Failure is an op that the driver refused without damage to the context.
type Failure struct {
	Kind   uint16
	Lane   uint32
	Result gpu.Result
}

// Fail remembers that the driver refused op, and gives the session its error: it must be called before a done word of the op, or of
// one behind it, can be written, so that whoever finds the op done finds the error too. The first refusal of a session stays. Any
// thread may call it.
func (s *Session) Fail(op *Op, r gpu.Result) {
	if s.failed.CompareAndSwap(0, uint64(uint32(r))|uint64(op.Kind)<<32|uint64(op.Lane)<<48) {
		s.words.SetError(uint32(r), shm.ReasonLaunchRefused)
	}
}

// Failed returns what Fail remembered; Result is Success when nothing. Any thread may call it.
func (s *Session) Failed() Failure {
	v := s.failed.Load()
	return Failure{Kind: uint16(v >> 32), Lane: uint32(v >> 48), Result: gpu.Result(uint32(v))}
}
