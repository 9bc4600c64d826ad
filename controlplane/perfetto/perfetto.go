// Package perfetto writes traces in Perfetto's own format, as much of it as slices on named tracks with flows between them need.
// https://ui.perfetto.dev and trace_processor read it.
//
// Source: google/perfetto, protos/perfetto/trace/{trace_packet,clock_snapshot}.proto, track_event/{track_event,track_descriptor,
// debug_annotation}.proto, interned_data/interned_data.proto; https://perfetto.dev/docs/reference/synthetic-track-event.
package perfetto

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Field numbers of the protos named above.
const (
	tracePacket = 1 // Trace

	packetClockSnapshot  = 6 // TracePacket
	packetTimestamp      = 8
	packetSequence       = 10
	packetTrackEvent     = 11
	packetInterned       = 12
	packetSequenceFlags  = 13
	packetDefaults       = 59
	packetTrack          = 60
	defaultsClock        = 58 // TracePacketDefaults
	snapshotClocks       = 1  // ClockSnapshot
	snapshotPrimary      = 2
	clockID              = 1 // ClockSnapshot.Clock
	clockTime            = 2
	trackUUID            = 1 // TrackDescriptor
	trackName            = 2
	trackParent          = 5
	eventAnnotations     = 4 // TrackEvent
	eventType            = 9
	eventName            = 10
	eventTrack           = 11
	eventFlows           = 47
	eventEndingFlows     = 48
	annotationName       = 1 // DebugAnnotation
	annotationNumber     = 3
	annotationText       = 6
	internedEventNames   = 2 // InternedData
	internedAnnotations  = 3
	internedID           = 1 // EventName, DebugAnnotationName
	internedText         = 2
	stateCleared         = 1 // TracePacket.SequenceFlags
	stateNeeded          = 2
	typeBegin            = 1 // TrackEvent.Type
	typeEnd              = 2
	typeInstant          = 3
	wireVarint, wire64   = 0, 1
	wireBytes            = 2
	sequence             = 1 // all packets are of one
	maxName              = 200
	maxInternedNames     = 1 << 16
	internedNameOverflow = "(a name of too many)"
)

// Clock is one of Perfetto's built-in clocks (ClockSnapshot.Clock.BuiltinClocks).
type Clock uint32

// Clocks.
const (
	Realtime  Clock = 1
	Monotonic Clock = 3
	Boottime  Clock = 6
)

// Reading is what a clock showed, ns.
type Reading struct {
	Clock Clock
	Time  int64
}

// Arg is a named value of a slice.
type Arg struct {
	Name   string
	Text   string // unless it is empty
	Number uint64
}

// Writer writes one trace. Errors of the underlying writer come from Flush. Times are ns of Monotonic, tracks and flows are numbers
// other than 0. Names may be anything: see Clean.
type Writer struct {
	w      *bufio.Writer
	err    error
	names  map[string]uint64
	args   map[string]uint64
	fresh  []byte // InternedData of the packet that is being made
	packet []byte
	event  []byte
	inner  []byte
}

// NewWriter begins a trace. The readings were taken at the same moment; Monotonic is among them.
func NewWriter(to io.Writer, readings []Reading) *Writer {
	w := &Writer{w: bufio.NewWriterSize(to, 1<<16), names: map[string]uint64{}, args: map[string]uint64{}}
	var snapshot []byte
	for _, r := range readings {
		snapshot = appendBytes(snapshot, snapshotClocks, appendNumber(appendNumber(nil, clockID, uint64(r.Clock)), clockTime, uint64(r.Time)))
	}
	snapshot = appendNumber(snapshot, snapshotPrimary, uint64(Monotonic))
	p := appendNumber(nil, packetSequence, sequence)
	p = appendNumber(p, packetSequenceFlags, stateCleared)
	p = appendBytes(p, packetDefaults, appendNumber(nil, defaultsClock, uint64(Monotonic)))
	w.put(appendBytes(p, packetClockSnapshot, snapshot))
	return w
}

// Track declares a track; parent 0: it has none. Tracks of one name below one parent are shown as one with several rows.
func (w *Writer) Track(track, parent uint64, name string) {
	d := appendNumber(w.inner[:0], trackUUID, track)
	if parent != 0 {
		d = appendNumber(d, trackParent, parent)
	}
	d = appendText(d, trackName, Clean(name))
	w.inner = d
	p := appendNumber(w.packet[:0], packetSequence, sequence)
	w.packet = appendBytes(p, packetTrack, d)
	w.put(w.packet)
}

// Begin begins a slice; flows start or go on there, those in ending end there.
func (w *Writer) Begin(track uint64, time int64, name string, args []Arg, flows, ending []uint64) {
	w.emit(typeBegin, track, time, name, args, flows, ending)
}

// End ends the slice of the track that began last and has not ended.
func (w *Writer) End(track uint64, time int64) { w.emit(typeEnd, track, time, "", nil, nil, nil) }

// Instant puts a moment on a track.
func (w *Writer) Instant(track uint64, time int64, name string, args []Arg) {
	w.emit(typeInstant, track, time, name, args, nil, nil)
}

// Flush writes what is buffered and gives the first error.
func (w *Writer) Flush() error {
	if err := w.w.Flush(); w.err == nil {
		w.err = err
	}
	return w.err
}

func (w *Writer) emit(kind, track uint64, time int64, name string, args []Arg, flows, ending []uint64) {
	w.fresh = w.fresh[:0]
	e := appendNumber(w.event[:0], eventType, kind)
	e = appendNumber(e, eventTrack, track)
	if name != "" {
		e = appendNumber(e, eventName, w.intern(w.names, internedEventNames, name))
	}
	for i := range args {
		a := appendNumber(w.inner[:0], annotationName, w.intern(w.args, internedAnnotations, args[i].Name))
		if args[i].Text != "" {
			a = appendText(a, annotationText, Clean(args[i].Text))
		} else {
			a = appendNumber(a, annotationNumber, args[i].Number)
		}
		w.inner = a
		e = appendBytes(e, eventAnnotations, a)
	}
	for _, f := range flows {
		e = appendFixed(e, eventFlows, f)
	}
	for _, f := range ending {
		e = appendFixed(e, eventEndingFlows, f)
	}
	w.event = e
	p := appendNumber(w.packet[:0], packetTimestamp, uint64(time))
	p = appendNumber(p, packetSequence, sequence)
	p = appendNumber(p, packetSequenceFlags, stateNeeded)
	if len(w.fresh) > 0 {
		p = appendBytes(p, packetInterned, w.fresh)
	}
	w.packet = appendBytes(p, packetTrackEvent, e)
	w.put(w.packet)
}

// intern numbers a name; a new one travels in the packet that is being made.
func (w *Writer) intern(known map[string]uint64, field int, name string) uint64 {
	if id, ok := known[name]; ok {
		return id
	}
	if len(known) >= maxInternedNames {
		if id, ok := known[internedNameOverflow]; ok {
			return id
		}
		name = internedNameOverflow
	}
	id := uint64(len(known) + 1)
	known[name] = id
	w.fresh = appendBytes(w.fresh, field, appendText(appendNumber(nil, internedID, id), internedText, Clean(name)))
	return id
}

// put writes a packet.
func (w *Writer) put(packet []byte) {
	if w.err != nil {
		return
	}
	var head [2 * binary.MaxVarintLen64]byte
	h := binary.AppendUvarint(head[:0], tracePacket<<3|wireBytes)
	h = binary.AppendUvarint(h, uint64(len(packet)))
	if _, w.err = w.w.Write(h); w.err == nil {
		_, w.err = w.w.Write(packet)
	}
}

func appendNumber(b []byte, field int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field)<<3|wireVarint), v)
}

func appendFixed(b []byte, field int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.AppendUvarint(b, uint64(field)<<3|wire64), v)
}

func appendBytes(b []byte, field int, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendText(b []byte, field int, v string) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// Clean is a name that somebody chose as it is shown: whatever cannot be printed, or could turn the text around, is written as
// \xNN or \u{N}, and at most 200 bytes are left.
func Clean(s string) string {
	plain := len(s) <= maxName
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] <= '~'
	}
	if plain {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		piece := s[:n]
		switch {
		case r == utf8.RuneError && n == 1:
			piece = fmt.Sprintf(`\x%02x`, s[0])
		case !unicode.IsPrint(r):
			piece = fmt.Sprintf(`\u{%x}`, r)
		}
		if b.Len()+len(piece) > maxName-len("…") {
			b.WriteString("…")
			break
		}
		b.WriteString(piece)
		s = s[n:]
	}
	return b.String()
}
