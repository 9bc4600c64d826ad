package cost

import (
	"testing"

	"pgregory.net/rapid"
)

// A book gives what was put last into a row, before and after it was written down.
func TestBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, model := NewBook(), map[uint64]Times{}
		for range rapid.IntRange(0, 40).Draw(t, "puts") {
			key := rapid.Uint64Range(0, 3).Draw(t, "row") + BookRows*rapid.Uint64Range(0, 2).Draw(t, "turn")
			var times Times
			for range rapid.IntRange(0, 5).Draw(t, "measurements") {
				times.Add(rapid.IntRange(1, 200).Draw(t, "n"), rapid.Int64Range(-5, 1e9).Draw(t, "ns"))
			}
			b.Put(key, &times)
			if key != 0 && times != (Times{}) {
				for other := range model {
					if other%BookRows == key%BookRows {
						delete(model, other)
					}
				}
				model[key] = times
			}
		}
		raw, err := b.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		read, merged := NewBook(), NewBook()
		if err := read.UnmarshalBinary(raw); err != nil {
			t.Fatal(err)
		}
		merged.Merge(read)
		for name, b := range map[string]*Book{"book": b, "read": read, "merged": merged} {
			if b.Len() != len(model) {
				t.Fatalf("%s: %d rows; want %d", name, b.Len(), len(model))
			}
			for key, want := range model {
				var got Times
				if b.Get(key, &got); got != want {
					t.Fatalf("%s: %d has %+v; want %+v", name, key, got, want)
				}
			}
		}
	})
}

// FuzzBook: any bytes are a book of possible times or an error.
func FuzzBook(f *testing.F) {
	b := NewBook()
	var times Times
	times.Add(1, 1000)
	times.Add(8, 4000)
	b.Put(1, &times)
	raw, _ := b.MarshalBinary()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := NewBook()
		if b.UnmarshalBinary(raw) != nil {
			return
		}
		for i := range b.rows {
			for n := range 200 {
				if ns := b.rows[i].times.Of(n + 1); ns < 0 {
					t.Fatalf("%d instances take %d ns", n+1, ns)
				}
			}
		}
	})
}
