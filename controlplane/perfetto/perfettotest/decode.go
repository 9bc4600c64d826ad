// Package perfettotest reads traces as package perfetto writes them, for tests: it checks every rule of the format that trace
// readers rely on.
package perfettotest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"unicode/utf8"
)

// Track is a declared track.
type Track struct {
	UUID, Parent uint64
	Name         string
}

// Slice is a slice, or a moment (Instant).
type Slice struct {
	Track      uint64
	Begin, End int64
	Name       string
	Depth      int
	Instant    bool
	Texts      map[string]string
	Numbers    map[string]uint64
	Flows      []uint64 // that go on from here
	Ending     []uint64 // that end here
}

// Trace is what a trace says.
type Trace struct {
	Clocks map[uint64]int64 // by the number of the clock
	Tracks map[uint64]Track
	Slices []Slice // by begin
}

// Path is the names from the outermost track to this one.
func (t *Trace) Path(track uint64) []string {
	var path []string
	for at, ok := t.Tracks[track]; ok && len(path) < 16; at, ok = t.Tracks[at.Parent] {
		path = append([]string{at.Name}, path...)
	}
	return path
}

// field is one field of a message.
type field struct {
	number int
	value  uint64
	bytes  []byte
}

var errCut = errors.New("the trace ends in the middle of a field")

// fields splits a message.
func fields(b []byte) ([]field, error) {
	var all []field
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errCut
		}
		b = b[n:]
		f := field{number: int(tag >> 3)}
		switch tag & 7 {
		case 0:
			if f.value, n = binary.Uvarint(b); n <= 0 {
				return nil, errCut
			}
			b = b[n:]
		case 1:
			if len(b) < 8 {
				return nil, errCut
			}
			f.value, b = binary.LittleEndian.Uint64(b), b[8:]
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return nil, errCut
			}
			f.bytes, b = b[n:n+int(size)], b[n+int(size):]
		default:
			return nil, fmt.Errorf("field %d has wire type %d", f.number, tag&7)
		}
		all = append(all, f)
	}
	return all, nil
}

// decoder is the state of the one sequence.
type decoder struct {
	t           *Trace
	names, args map[uint64]string
	open        map[uint64][]int // by track: indices of Slices
	latest      map[uint64]int64 // by track: the last time
	flows       map[uint64]int   // how often a flow ended
	started     map[uint64]bool
	cleared     bool
}

// Decode reads a trace. Any break of the rules is an error: names that were not interned, slices that do not nest, times of a
// track that run backwards, tracks without a declaration, flows that end without a beginning.
func Decode(b []byte) (*Trace, error) {
	d := &decoder{
		t:     &Trace{Clocks: map[uint64]int64{}, Tracks: map[uint64]Track{}},
		names: map[uint64]string{}, args: map[uint64]string{}, open: map[uint64][]int{}, latest: map[uint64]int64{},
		flows: map[uint64]int{}, started: map[uint64]bool{},
	}
	packets, err := fields(b)
	if err != nil {
		return nil, err
	}
	for i, p := range packets {
		if p.number != 1 {
			return nil, fmt.Errorf("field %d of the trace; expected packets (1)", p.number)
		}
		if err := d.packet(p.bytes); err != nil {
			return nil, fmt.Errorf("packet %d: %w", i, err)
		}
	}
	for track, open := range d.open {
		if len(open) > 0 {
			return nil, fmt.Errorf("track %d: %d slices do not end", track, len(open))
		}
	}
	for flow := range d.flows {
		if !d.started[flow] {
			return nil, fmt.Errorf("flow %d ends and never began", flow)
		}
	}
	for _, t := range d.t.Tracks {
		if t.Parent != 0 && d.t.Tracks[t.Parent].UUID == 0 {
			return nil, fmt.Errorf("track %q has a parent that was not declared", t.Name)
		}
	}
	sort.SliceStable(d.t.Slices, func(i, k int) bool { return d.t.Slices[i].Begin < d.t.Slices[k].Begin })
	return d.t, nil
}

func text(b []byte) (string, error) {
	if !utf8.Valid(b) || len(b) > 200 {
		return "", fmt.Errorf("a name of %d bytes that is no text or too long: %q", len(b), b)
	}
	return string(b), nil
}

func (d *decoder) packet(b []byte) error {
	all, err := fields(b)
	if err != nil {
		return err
	}
	var time, flags, sequence uint64
	var event []byte
	for _, f := range all {
		switch f.number {
		case 6:
			err = d.clocks(f.bytes)
		case 8:
			time = f.value
		case 10:
			sequence = f.value
		case 11:
			event = f.bytes
		case 12:
			err = d.intern(f.bytes)
		case 13:
			flags = f.value
		case 59:
			var defaults []field
			if defaults, err = fields(f.bytes); err == nil && (len(defaults) != 1 || defaults[0].number != 58 || defaults[0].value != 3) {
				err = fmt.Errorf("defaults %+v; expected the monotonic clock", defaults)
			}
		case 60:
			err = d.track(f.bytes)
		default:
			err = fmt.Errorf("field %d", f.number)
		}
		if err != nil {
			return err
		}
	}
	if sequence == 0 {
		return errors.New("no sequence")
	}
	d.cleared = d.cleared || flags&1 != 0
	if event == nil {
		return nil
	}
	if !d.cleared || flags&2 == 0 {
		return errors.New("an event that needs what was said before does not say so")
	}
	return d.event(event, int64(time))
}

func (d *decoder) clocks(b []byte) error {
	all, err := fields(b)
	for _, f := range all {
		if f.number != 1 {
			continue
		}
		clock, err := fields(f.bytes)
		if err != nil || len(clock) != 2 {
			return fmt.Errorf("clock %v: %v", clock, err)
		}
		d.t.Clocks[clock[0].value] = int64(clock[1].value)
	}
	return err
}

func (d *decoder) intern(b []byte) error {
	all, err := fields(b)
	if err != nil {
		return err
	}
	for _, f := range all {
		pair, err := fields(f.bytes)
		if err != nil || len(pair) != 2 {
			return fmt.Errorf("interned %v: %v", pair, err)
		}
		name, err := text(pair[1].bytes)
		if err != nil {
			return err
		}
		into := d.names
		if f.number == 3 {
			into = d.args
		}
		if _, there := into[pair[0].value]; there || pair[0].value == 0 {
			return fmt.Errorf("number %d of %q is taken", pair[0].value, name)
		}
		into[pair[0].value] = name
	}
	return nil
}

func (d *decoder) track(b []byte) error {
	all, err := fields(b)
	if err != nil {
		return err
	}
	var t Track
	for _, f := range all {
		switch f.number {
		case 1:
			t.UUID = f.value
		case 2:
			if t.Name, err = text(f.bytes); err != nil {
				return err
			}
		case 5:
			t.Parent = f.value
		}
	}
	if t.UUID == 0 || d.t.Tracks[t.UUID].UUID != 0 {
		return fmt.Errorf("track %d is declared twice or 0", t.UUID)
	}
	d.t.Tracks[t.UUID] = t
	return nil
}

func (d *decoder) event(b []byte, time int64) error {
	all, err := fields(b)
	if err != nil {
		return err
	}
	s := Slice{Begin: time, End: time, Texts: map[string]string{}, Numbers: map[string]uint64{}}
	var kind uint64
	for _, f := range all {
		switch f.number {
		case 4:
			if err := d.annotation(&s, f.bytes); err != nil {
				return err
			}
		case 9:
			kind = f.value
		case 10:
			name, ok := d.names[f.value]
			if !ok {
				return fmt.Errorf("name %d was not said", f.value)
			}
			s.Name = name
		case 11:
			s.Track = f.value
		case 47:
			s.Flows = append(s.Flows, f.value)
			d.started[f.value] = true
		case 48:
			s.Ending = append(s.Ending, f.value)
			d.flows[f.value]++
		default:
			return fmt.Errorf("field %d of an event", f.number)
		}
	}
	if _, ok := d.t.Tracks[s.Track]; !ok {
		return fmt.Errorf("track %d was not declared", s.Track)
	}
	if time < d.latest[s.Track] {
		return fmt.Errorf("track %q: time goes back from %d to %d", d.t.Tracks[s.Track].Name, d.latest[s.Track], time)
	}
	d.latest[s.Track] = time
	open := d.open[s.Track]
	s.Depth = len(open)
	switch kind {
	case 1:
		d.open[s.Track] = append(open, len(d.t.Slices))
		d.t.Slices = append(d.t.Slices, s)
	case 2:
		if len(open) == 0 {
			return fmt.Errorf("track %q: an end without a beginning", d.t.Tracks[s.Track].Name)
		}
		d.t.Slices[open[len(open)-1]].End = time
		d.open[s.Track] = open[:len(open)-1]
	case 3:
		s.Instant = true
		d.t.Slices = append(d.t.Slices, s)
	default:
		return fmt.Errorf("event of type %d", kind)
	}
	return nil
}

func (d *decoder) annotation(s *Slice, b []byte) error {
	all, err := fields(b)
	if err != nil {
		return err
	}
	name := ""
	for _, f := range all {
		switch f.number {
		case 1:
			var ok bool
			if name, ok = d.args[f.value]; !ok {
				return fmt.Errorf("argument name %d was not said", f.value)
			}
		case 3:
			s.Numbers[name] = f.value
		case 6:
			if s.Texts[name], err = text(f.bytes); err != nil {
				return err
			}
		default:
			return fmt.Errorf("field %d of an argument", f.number)
		}
	}
	return nil
}
