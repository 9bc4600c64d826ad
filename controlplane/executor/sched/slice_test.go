package sched

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// Random ops of a lane, some in slices, whose ends are seen in any order in which they can be: the books hold what is in flight, or an
// estimate of it behind an op of which part ended, and nothing when nothing is.
func TestSlicesOnTheBooks(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := New()
		k := s.Set("a", Settings{})
		c := s.Attach(newBoard(1, 0), k)
		l := c.board.Lane(1)
		var slices []int64 // in flight, of those that are not the last
		var whole int64    // of the rest
		now, begun := int64(0), (*scoreboard.Op)(nil)
		for range 300 {
			now++
			cost := 1 + r.Int64N(1000)
			switch r.IntN(5) {
			case 0: // a whole op
				if begun != nil {
					continue
				}
				o := &scoreboard.Op{Session: c.board, Kind: shm.KindMemset, Lane: 1, Seq: l.Issued + 1}
				s.Ready(o, now)
				l.Issued = o.Seq
				s.Issued(o, cost, true, 1, now)
				whole += cost
			case 1: // a slice
				first := begun == nil
				if first {
					begun = &scoreboard.Op{Session: c.board, Kind: shm.KindMemset, Lane: 1, Seq: l.Issued + 1}
					s.Ready(begun, now)
					l.Issued, l.Part = begun.Seq, begun
				}
				last := !first && r.IntN(4) == 0
				s.Sliced(begun, cost, first, last, now)
				if last {
					whole += cost
					begun, l.Part = nil, nil
				} else {
					slices = append(slices, cost)
				}
			case 2: // a slice's end
				if len(slices) > 0 {
					s.SliceDone(c, l, slices[0], now)
					slices = slices[1:]
				}
			default: // the end of ops
				n := l.InFlight()
				if l.Part != nil {
					n--
				}
				if n == 0 {
					continue
				}
				n = 1 + r.IntN(n)
				l.Done += uint32(n)
				s.Completed(c, l, n, now)
				if left := l.InFlight(); left == 0 || (left == 1 && l.Part != nil) {
					whole = 0
				} else {
					whole = l.Work - l.Slices // an estimate
				}
			}
			sum := whole
			for _, v := range slices {
				sum += v
			}
			if l.Work != sum || k.inFlight != sum || c.work != sum || k.flying != l.InFlight() || c.flying != k.flying {
				t.Fatal(fmt.Sprint("seed ", seed, ": ", l.Work, k.inFlight, c.work, " on the books, ", sum, " in flight; ", k.flying, " ops, ", l.InFlight()))
			}
		}
	}
}
