package perfetto_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/heddle-gpu/heddle/controlplane/perfetto"
	"github.com/heddle-gpu/heddle/controlplane/perfetto/perfettotest"
)

var readings = []perfetto.Reading{{Clock: perfetto.Monotonic, Time: 500}, {Clock: perfetto.Realtime, Time: 1e18}}

// What is written is what is read.
func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	w := perfetto.NewWriter(&b, readings)
	w.Track(1, 0, "client")
	w.Track(2, 1, "lane")
	w.Track(3, 0, "stream")
	w.Begin(2, 100, "kernel", []perfetto.Arg{{Name: "grid", Text: "1×2"}, {Name: "number", Number: 1 << 40}}, []uint64{9, 1 << 63}, nil)
	w.Begin(2, 100, "waits", nil, nil, nil)
	w.End(2, 150)
	w.End(2, 300)
	w.Begin(3, 150, "kernel", nil, nil, []uint64{9})
	w.End(3, 150)
	w.Instant(1, 1<<62, "error", []perfetto.Arg{{Name: "number"}})
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	tr, err := perfettotest.Decode(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if tr.Clocks[3] != 500 || tr.Clocks[1] != 1e18 || !slices.Equal(tr.Path(2), []string{"client", "lane"}) {
		t.Errorf("%+v %v", tr.Clocks, tr.Path(2))
	}
	want := []string{
		"2 100 300 kernel 0 false map[grid:1×2] map[number:1099511627776] [9 9223372036854775808] []",
		"2 100 150 waits 1 false map[] map[] [] []",
		"3 150 150 kernel 0 false map[] map[] [] [9]",
		"1 4611686018427387904 4611686018427387904 error 0 true map[] map[number:0] [] []",
	}
	for i, s := range tr.Slices {
		got := fmt.Sprintf("%d %d %d %s %d %t %v %v %v %v", s.Track, s.Begin, s.End, s.Name, s.Depth, s.Instant, s.Texts, s.Numbers,
			s.Flows, s.Ending)
		if i >= len(want) || got != want[i] {
			t.Errorf("slice %d: %s", i, got)
		}
	}
	if len(tr.Slices) != len(want) {
		t.Errorf("%d slices", len(tr.Slices))
	}
	for cut := 1; cut < b.Len(); cut++ { // a reader of half a file must not take it for a whole one, or crash
		if half, err := perfettotest.Decode(b.Bytes()[:cut]); err == nil && len(half.Slices) >= len(want) {
			t.Fatalf("the first %d of %d bytes are a whole trace", cut, b.Len())
		}
	}
}

// Names that clients chose stay names.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"gemm<float, 2>(int)":    "gemm<float, 2>(int)",
		"größe ×":                "größe ×",
		"a\x00b\nc":              `a\u{0}b\u{a}c`,
		"\xff\xfe":               `\xff\xfe`,
		"abc\u202edef":           `abc\u{202e}def`,
		strings.Repeat("y", 200): strings.Repeat("y", 200),
		strings.Repeat("y", 201): strings.Repeat("y", 197) + "…",
		strings.Repeat("ü", 300): strings.Repeat("ü", 98) + "…",
	} {
		if got := perfetto.Clean(in); got != want || len(got) > 200 || !utf8.ValidString(got) {
			t.Errorf("%q: %q; want %q", in, got, want)
		}
	}
}

// However many names there are, they are bounded.
func TestManyNames(t *testing.T) {
	var b bytes.Buffer
	w := perfetto.NewWriter(&b, readings)
	w.Track(1, 0, "t")
	const n = 1<<16 + 100
	for i := range n {
		w.Instant(1, int64(i), fmt.Sprint("name ", i), nil)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	tr, err := perfettotest.Decode(b.Bytes())
	if err != nil || len(tr.Slices) != n {
		t.Fatal(err, len(tr.Slices))
	}
	if first, last := tr.Slices[0].Name, tr.Slices[n-1].Name; first != "name 0" || last != "(a name of too many)" {
		t.Error(first, last)
	}
}

type full struct{ room int }

func (f *full) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

// A disk that is full is said.
func TestDiskFull(t *testing.T) {
	w := perfetto.NewWriter(&full{1 << 17}, readings)
	w.Track(1, 0, "t")
	for i := range 100_000 {
		w.Instant(1, int64(i), "x", nil)
	}
	if err := w.Flush(); err == nil || err.Error() != "disk full" {
		t.Error(err)
	}
}
