package shm

import (
	"fmt"
	"unsafe"
)

const (
	recordBytes = int(unsafe.Sizeof(Record{}))
	maxRecord   = RingBytes / 4
	// bodyWords is the largest fixed body, in 8-byte words.
	bodyWords = int(unsafe.Sizeof(Copy3D{})) / 8
)

func round16(n uint32) uint32 { return (n + 15) &^ 15 }

// kindFacts is what the wire says about a record kind.
type kindFacts struct {
	body     uint32 // bytes of the fixed body
	numbered bool   // takes a number in its lane
	known    bool
}

var kinds = [...]kindFacts{
	KindPad:        {0, false, true},
	KindLaneOpen:   {uint32(unsafe.Sizeof(LaneOpen{})), false, true},
	KindLaneRetire: {0, false, true},
	KindLaunch:     {uint32(unsafe.Sizeof(Launch{})), true, true},
	KindMemset:     {uint32(unsafe.Sizeof(Memset{})), true, true},
	KindCopy:       {uint32(unsafe.Sizeof(Copy{})), true, true},
	KindCopy3D:     {uint32(unsafe.Sizeof(Copy3D{})), true, true},
	KindPut:        {uint32(unsafe.Sizeof(InlineCopy{})), true, true},
	KindGet:        {uint32(unsafe.Sizeof(InlineCopy{})), true, true},
	KindEvent:      {uint32(unsafe.Sizeof(EventMark{})), true, true},
	KindSignal:     {0, false, true},
	KindElapsed:    {uint32(unsafe.Sizeof(Elapsed{})), false, true},

	KindRequestBegin: {uint32(unsafe.Sizeof(RequestBegin{})), false, true},
	KindRequestEnd:   {uint32(unsafe.Sizeof(RequestEnd{})), false, true},
	KindGraph:        {uint32(unsafe.Sizeof(GraphLaunch{})), true, true},
	KindUpcoming:     {0, false, true},
}

// HasSeq reports whether records of a kind take a number in their lane.
func HasSeq(kind uint16) bool { return int(kind) < len(kinds) && kinds[kind].numbered }

// BadRecord says what is wrong with a ring, and where.
type BadRecord struct {
	Position uint64 // of the record in the ring
	Reason   string
}

func (e *BadRecord) Error() string {
	return fmt.Sprintf("ring record at %d: %s; the session is to be given reason BAD_RECORD and its records dropped", e.Position, e.Reason)
}

// RecordView is one checked record. Everything in it was copied out of the ring when Next returned it, except Payload, which is the
// ring's own memory. It, Deps and Launch are valid until the next call of Next.
type RecordView struct {
	Kind, Flags      uint16
	Lane, Seq, Ready uint32
	Pos, End         uint64 // the record's bytes in the ring; Release(End) when it is done
	deps             []Dep
	body             *[bodyWords]uint64
	payload          []byte
}

// Deps are the dependencies: a lane, with DepReady set for a native one, and the number to wait for. Every lane is below Lanes.
func (v *RecordView) Deps() []Dep { return v.deps }

// Payload is what follows the fixed body, in the ring itself: kernel parameters, or the bytes of PUT and GET. The client can
// change it at any time; hand it to the driver, never decide by it.
func (v *RecordView) Payload() []byte { return v.payload }

// WantSignal reports whether the client asked for lane.done right behind this op.
func (v *RecordView) WantSignal() bool { return v.Flags&RecordFlagWantSignal != 0 }

// Waits reports whether a thread of the client waits, or has waited, on the host for this number: with that a request may be over
// (docs/requests.md). Only ops and KindSignal records can say so.
func (v *RecordView) Waits() bool { return v.Flags&RecordFlagWait != 0 }

func (v *RecordView) as(kind uint16) unsafe.Pointer {
	if v.Kind != kind {
		panic(fmt.Sprintf("BUG: shm: a record of kind %d decoded as kind %d", v.Kind, kind))
	}
	return unsafe.Pointer(v.body)
}

// LaneOpen is the body of a KindLaneOpen record. Like its siblings it must only be called for its own kind.
func (v *RecordView) LaneOpen() LaneOpen { return *(*LaneOpen)(v.as(KindLaneOpen)) }

// Launch is the body of a KindLaunch record, valid as long as the view, and its parameters, ParamBytes of them, in the ring (see Payload).
func (v *RecordView) Launch() (*Launch, []byte) { return (*Launch)(v.as(KindLaunch)), v.payload }

// Memset is the body of a KindMemset record; Element is 1, 2 or 4.
func (v *RecordView) Memset() Memset { return *(*Memset)(v.as(KindMemset)) }

// Copy is the body of a KindCopy record. Addresses are not checked here.
func (v *RecordView) Copy() Copy { return *(*Copy)(v.as(KindCopy)) }

// Copy3D is the body of a KindCopy3D record. Addresses are not checked here.
func (v *RecordView) Copy3D() Copy3D { return *(*Copy3D)(v.as(KindCopy3D)) }

// Put is the body of a KindPut record and the bytes to copy, in the ring (see Payload).
func (v *RecordView) Put() (InlineCopy, []byte) { return *(*InlineCopy)(v.as(KindPut)), v.payload }

// Get is the body of a KindGet record and the room to copy into, in the ring (see Payload).
func (v *RecordView) Get() (InlineCopy, []byte) { return *(*InlineCopy)(v.as(KindGet)), v.payload }

// Event is the body of a KindEvent record; Slot is below EventSlots.
func (v *RecordView) Event() EventMark { return *(*EventMark)(v.as(KindEvent)) }

// Elapsed is the body of a KindElapsed record; its slots are in bounds.
func (v *RecordView) Elapsed() Elapsed { return *(*Elapsed)(v.as(KindElapsed)) }

// RequestBegin is the body of a KindRequestBegin record; its label ends inside its field. Request and Time are what the client says.
func (v *RecordView) RequestBegin() RequestBegin { return *(*RequestBegin)(v.as(KindRequestBegin)) }

// Graph is the body of a KindGraph record.
func (v *RecordView) Graph() GraphLaunch { return *(*GraphLaunch)(v.as(KindGraph)) }

// RequestEnd is the body of a KindRequestEnd record. Nothing says that such a request was begun.
func (v *RecordView) RequestEnd() RequestEnd { return *(*RequestEnd)(v.as(KindRequestEnd)) }
