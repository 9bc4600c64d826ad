package cost

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// BookRows is how many Times a Book holds; newer ones take the place of older ones with the same row.
const BookRows = 1 << 12

// Book holds Times by what they are of, a hash that is equal in every executor (never 0). Nothing allocates after NewBook.
type Book struct {
	rows []row
}

type row struct {
	key   uint64 // 0: empty
	times Times
}

// NewBook makes an empty one.
func NewBook() *Book { return &Book{rows: make([]row, BookRows)} }

// Get reads what is known of key into t, which stays as it is when that is nothing.
func (b *Book) Get(key uint64, t *Times) {
	if r := &b.rows[key%BookRows]; r.key == key && key != 0 {
		*t = r.times
	}
}

// Put keeps what is known of key, if anything is.
func (b *Book) Put(key uint64, t *Times) {
	if key != 0 && *t != (Times{}) {
		b.rows[key%BookRows] = row{key, *t}
	}
}

// CopyTo copies rows [from, from+n) to another book.
func (b *Book) CopyTo(to *Book, from, n int) { copy(to.rows[from:from+n], b.rows[from:from+n]) }

// Merge takes from another book what this one has no row for.
func (b *Book) Merge(o *Book) {
	for i := range b.rows {
		if b.rows[i].key == 0 {
			b.rows[i] = o.rows[i]
		}
	}
}

// Len is how many Times it holds.
func (b *Book) Len() int {
	n := 0
	for i := range b.rows {
		if b.rows[i].key != 0 {
			n++
		}
	}
	return n
}

// bookMagic begins the encoded form, in which a row takes rowBytes.
const (
	bookMagic = "HDTM2\n"
	rowBytes  = 8 + Buckets*(8+8+1)
	// longest is the longest time that is believed, ns an instance: an hour.
	longest = 3.6e12
)

// MarshalBinary gives the book, for the next executor: at most rowBytes a row and 6 more.
func (b *Book) MarshalBinary() ([]byte, error) {
	out := []byte(bookMagic)
	for i := range b.rows {
		r := &b.rows[i]
		if r.key == 0 {
			continue
		}
		out = binary.LittleEndian.AppendUint64(out, r.key)
		for _, v := range r.times.each {
			out = binary.LittleEndian.AppendUint64(out, uint64(v))
		}
		for _, v := range r.times.clear {
			out = binary.LittleEndian.AppendUint64(out, uint64(v))
		}
		out = append(out, r.times.seen[:]...)
	}
	return out, nil
}

// UnmarshalBinary takes what MarshalBinary gave. Anything else is an error and leaves the book as it was.
func (b *Book) UnmarshalBinary(in []byte) error {
	const head = len(bookMagic)
	if len(in) < head || string(in[:head]) != bookMagic || (len(in)-head)%rowBytes != 0 || (len(in)-head)/rowBytes > BookRows {
		return errors.New("cost: not a book of measured times")
	}
	n := NewBook()
	for at := head; at < len(in); at += rowBytes {
		r := row{key: binary.LittleEndian.Uint64(in[at:])}
		good := r.key != 0
		for i := range Buckets {
			v, own := binary.LittleEndian.Uint64(in[at+8+8*i:]), binary.LittleEndian.Uint64(in[at+8+8*(Buckets+i):])
			seen := in[at+8+16*Buckets+i]
			good = good && v <= longest && own <= longest && seen <= sure && (v > 0) == (seen > 0) && (own > 0) == (seen > 0)
			r.times.each[i], r.times.clear[i], r.times.seen[i] = int64(v), int64(own), seen
		}
		if !good {
			return fmt.Errorf("cost: a book with impossible times at byte %d", at)
		}
		n.rows[r.key%BookRows] = r
	}
	*b = *n
	return nil
}
