package company

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// magic begins the encoded form, in which a row takes rowBytes.
const (
	magic    = "HDCO1\n"
	rowBytes = 8 + 8 + 4 + 1 + 1
)

// CopyTo copies rows [from, from+n) to another table, as they are at a time.
func (t *Table) CopyTo(to *Table, from, n int, now int64) {
	for i := from; i < min(from+n, Rows); i++ {
		if to.rows[i].Beside != 0 {
			to.used--
		}
		to.rows[i] = t.rows[i]
		if r := &to.rows[i]; r.Beside != 0 {
			r.excess, r.at = float32(r.now(now)), now
			to.used++
		}
	}
}

// Merge takes from another table the pairs that this one does not know, where there is room.
func (t *Table) Merge(o *Table) {
	for i := range o.rows {
		if r := &o.rows[i]; r.Beside != 0 && t.find(r.Victim, r.Beside) == nil {
			for k := set(r.Victim, r.Beside); k < set(r.Victim, r.Beside)+ways; k++ {
				if t.rows[k].Beside == 0 {
					t.rows[k] = *r
					t.used++
					break
				}
			}
		}
	}
}

// MarshalBinary gives the table as CopyTo left it, for the next executor.
func (t *Table) MarshalBinary() ([]byte, error) {
	out := []byte(magic)
	for i := range t.rows {
		if r := &t.rows[i]; r.Beside != 0 {
			out = binary.LittleEndian.AppendUint64(out, r.Victim)
			out = binary.LittleEndian.AppendUint64(out, r.Beside)
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(r.excess))
			out = append(out, r.seen, r.proved)
		}
	}
	return out, nil
}

// UnmarshalBinary takes what MarshalBinary gave. Anything else is an error and leaves the table as it was. A pair counts again when it was
// measured once more.
func (t *Table) UnmarshalBinary(in []byte) error {
	const head = len(magic)
	if len(in) < head || string(in[:head]) != magic || (len(in)-head)%rowBytes != 0 || (len(in)-head)/rowBytes > Rows {
		return errors.New("company: not a table of who slows whom")
	}
	n := New()
	for at := head; at < len(in); at += rowBytes {
		r := Row{
			Victim: binary.LittleEndian.Uint64(in[at:]), Beside: binary.LittleEndian.Uint64(in[at+8:]),
			excess: math.Float32frombits(binary.LittleEndian.Uint32(in[at+16:])), seen: in[at+20], proved: in[at+21],
		}
		if r.Victim == 0 || r.Beside == 0 || !(r.excess >= 0 && r.excess <= highest) || r.seen < 1 || r.seen > Sure || r.proved > stubborn {
			return fmt.Errorf("company: a table with an impossible pair at byte %d", at)
		}
		if n.find(r.Victim, r.Beside) != nil {
			return fmt.Errorf("company: a table with a pair twice, at byte %d", at)
		}
		r.seen = min(r.seen, Sure-1)
		before := n.used
		if at := n.room(r.Victim, r.Beside); n.used > before {
			*at = r
		}
	}
	*t = *n
	return nil
}
