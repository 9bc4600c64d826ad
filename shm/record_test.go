package shm

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

// badImage is a ring that breaks one rule.
type badImage struct {
	name, want string
	image      []byte
	at, extra  uint64 // where it starts before the end of the buffer, and what is added to the tail
}

// record builds one record's bytes.
func record(kind uint16, deps []Dep, body []byte, change func(*Record)) []byte {
	r := Record{Size: uint32(RecordBytes(len(deps), len(body))), Kind: kind, Lane: 3, Seq: 1, Ndeps: uint32(len(deps))}
	if change != nil {
		change(&r)
	}
	out := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordBytes)...)
	for _, d := range deps {
		out = binary.LittleEndian.AppendUint32(out, d.Lane)
		out = binary.LittleEndian.AppendUint32(out, d.Value)
	}
	for len(out)%16 != 0 {
		out = append(out, 0)
	}
	out = append(out, body...)
	for len(out)%16 != 0 {
		out = append(out, 0)
	}
	return out
}

// badImages has one ring for every way in which a record can be refused.
func badImages() []badImage {
	signal := record(KindSignal, nil, nil, nil)
	one := func(kind uint16, body []byte, change func(*Record)) []byte { return record(kind, nil, body, change) }
	return []badImage{
		{name: "tail not a multiple of 16", want: "tail", image: signal, extra: 8},
		{name: "tail beyond the ring", want: "tail", image: signal, extra: RingBytes},
		{name: "tail before read", want: "tail", image: nil, extra: ^uint64(15)},
		{name: "size 0", want: "size is out of bounds", image: one(KindSignal, nil, func(r *Record) { r.Size = 0 })},
		{name: "size odd", want: "size is out of bounds", image: one(KindSignal, nil, func(r *Record) { r.Size = 24 })},
		{name: "size beyond tail", want: "size is out of bounds", image: one(KindSignal, nil, func(r *Record) { r.Size = 48 })},
		{name: "size beyond a quarter", want: "size is out of bounds", image: one(KindSignal, nil, func(r *Record) { r.Size = maxRecord + 16 }), extra: RingBytes / 2},
		{name: "size beyond the end", want: "size is out of bounds", image: one(KindSignal, nil, func(r *Record) { r.Size = 32 })[:16], at: 1, extra: 16},
		{name: "half a header", want: "smaller than a header", image: one(KindSignal, nil, func(r *Record) { r.Size = 16 })},
		{name: "pad in the middle", want: "pad", image: one(KindPad, nil, nil)},
		{name: "kind unknown", want: "kind", image: one(KindUpcoming+1, nil, nil)},
		{name: "kind huge", want: "kind", image: one(0xffff, nil, nil)},
		{name: "flag unknown", want: "flags", image: one(KindCopy, Encode(Copy{}), func(r *Record) { r.Flags = 4 })},
		{name: "flag without number", want: "flags", image: one(KindSignal, nil, func(r *Record) { r.Flags = RecordFlagWantSignal })},
		{name: "wait without number", want: "flags", image: one(KindElapsed, Encode(Elapsed{}), func(r *Record) { r.Flags = RecordFlagWait })},
		{name: "signal wants signal", want: "flags", image: one(KindSignal, nil, func(r *Record) { r.Flags = RecordFlagWait | RecordFlagWantSignal })},
		{name: "lane", want: "lane is out of bounds", image: one(KindSignal, nil, func(r *Record) { r.Lane = Lanes })},
		{name: "number 0", want: "number 0", image: one(KindCopy, Encode(Copy{}), func(r *Record) { r.Seq = 0 })},
		{name: "deps", want: "too many dependencies", image: record(KindSignal, make([]Dep, MaxDeps+1), nil, nil)},
		{name: "deps beyond size", want: "smaller than its dependencies", image: one(KindSignal, nil, func(r *Record) { r.Ndeps = 1 })},
		{name: "deps wrap", want: "too many dependencies", image: one(KindSignal, nil, func(r *Record) { r.Ndeps = 0xffffffff })},
		{name: "dep lane", want: "dependency's lane", image: record(KindSignal, []Dep{{Lane: 1}, {Lane: DepReady | Lanes}}, nil, nil)},
		{name: "no body", want: "smaller than its dependencies and body", image: one(KindCopy, nil, nil)},
		{name: "body long", want: "come to", image: one(KindCopy, make([]byte, 48), nil)},
		{name: "signal with body", want: "come to", image: one(KindSignal, make([]byte, 16), nil)},
		{name: "launch flags", want: "launch flags", image: one(KindLaunch, Encode(Launch{Flags: 4}), nil)},
		{name: "launch parameters", want: "parameter bytes", image: one(KindLaunch, Encode(Launch{ParamBytes: MaxParamBytes + 1}), nil)},
		{name: "launch parameters missing", want: "come to", image: one(KindLaunch, Encode(Launch{ParamBytes: 1}), nil)},
		{name: "launch parameters extra", want: "come to", image: one(KindLaunch, append(Encode(Launch{ParamBytes: 16}), make([]byte, 17)...), nil)},
		{name: "memset element", want: "element", image: one(KindMemset, Encode(Memset{Element: 3}), nil)},
		{name: "put bytes", want: "inline bytes", image: one(KindPut, Encode(InlineCopy{Bytes: MaxInlineBytes + 1}), nil)},
		{name: "get bytes wrap", want: "inline bytes", image: one(KindGet, Encode(InlineCopy{Bytes: 1 << 32}), nil)},
		{name: "get bytes missing", want: "come to", image: one(KindGet, Encode(InlineCopy{Bytes: 17}), nil)},
		{name: "event slot", want: "event slot", image: one(KindEvent, Encode(EventMark{Slot: EventSlots}), nil)},
		{name: "elapsed start", want: "slot", image: one(KindElapsed, Encode(Elapsed{Start: EventSlots}), nil)},
		{name: "elapsed end", want: "slot", image: one(KindElapsed, Encode(Elapsed{End: EventSlots}), nil)},
		{name: "elapsed reply", want: "slot", image: one(KindElapsed, Encode(Elapsed{Reply: Replies}), nil)},
		{name: "request label", want: "label", image: one(KindRequestBegin, Encode(RequestBegin{Label: [32]byte{31: 'x'}}), nil)},
		{name: "request begin short", want: "smaller than its dependencies and body", image: one(KindRequestBegin, make([]byte, 32), nil)},
		{name: "request end long", want: "come to", image: one(KindRequestEnd, make([]byte, 32), nil)},
		{name: "request end with flag", want: "flags", image: one(KindRequestEnd, Encode(RequestEnd{}), func(r *Record) { r.Flags = RecordFlagWait })},
		{name: "upcoming with body", want: "come to", image: one(KindUpcoming, make([]byte, 16), nil)},
		{name: "upcoming wants signal", want: "flags", image: one(KindUpcoming, nil, func(r *Record) { r.Flags = RecordFlagWantSignal })},
		{name: "second record", want: "kind", image: append(append([]byte(nil), signal...), one(99, nil, nil)...)},
	}
}

// TestBadRecords expects each to be refused with its reason, for ever, and nothing of it to be handed out.
func TestBadRecords(t *testing.T) {
	s, _ := newSession(t)
	for _, b := range badImages() {
		at := RingBytes - 16*b.at
		tail := at + uint64(len(b.image)) + b.extra
		want := 0
		if b.name == "second record" {
			want = 1
		}
		if got := runImage(t, s, b.image, at, tail); got != want {
			t.Errorf("%s: %d records came through; expected %d", b.name, got, want)
		}
		c := NewConsumer(s)
		c.read, c.head, c.tail = at, at, at
		var err error
		for ok := true; ok; {
			_, ok, err = c.Next()
		}
		if err == nil || !strings.Contains(err.Error(), b.want) {
			t.Errorf("%s: error %v; expected one with %q", b.name, err, b.want)
		}
	}
}

// TestFuzzCorpus keeps the checked-in corpus of FuzzConsumer in step with the layout: a file for every way to be refused, and one
// for each kind. With SHM_UPDATE_CORPUS=1 it writes them.
func TestFuzzCorpus(t *testing.T) {
	want := map[string]string{}
	entry := func(name string, image []byte, near uint32, extra int64) {
		name = "rule-" + strings.ReplaceAll(name, " ", "-")
		want[name] = fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nuint32(%d)\nint64(%d)\n", image, near, extra)
	}
	for _, b := range badImages() {
		entry(b.name, b.image, uint32(b.at), int64(b.extra))
	}
	entry("all kinds", validImage(t), 0, 0)
	dir := filepath.Join("testdata", "fuzz", "FuzzConsumer")
	for name, text := range want {
		path := filepath.Join(dir, name)
		if os.Getenv("SHM_UPDATE_CORPUS") != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(path); err != nil || string(have) != text {
			t.Errorf("%s is not current (%v); run SHM_UPDATE_CORPUS=1 go test -run TestFuzzCorpus ./shm", path, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "rule-*"))
	if err != nil || len(files) != len(want) {
		t.Errorf("%d corpus files of rules, %v; expected %d: remove what no rule names", len(files), err, len(want))
	}
}
