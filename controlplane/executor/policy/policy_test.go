package policy

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

func op(s *scoreboard.Session, arrival uint64) *scoreboard.Op {
	return &scoreboard.Op{Session: s, Arrival: arrival}
}

func TestOrder(t *testing.T) {
	p := NewOldestFirst(2)
	a, b := &scoreboard.Session{Slot: 0}, &scoreboard.Session{Slot: 1}
	p.Attach(0)
	p.Attach(1)
	for _, n := range []uint64{5, 1, 3} {
		p.Add(op(a, n), 1)
	}
	p.Add(op(b, 4), 1)
	p.Add(op(b, 9), 0)
	p.Add(op(b, 2), 1)
	var got []uint64
	for o := p.Next(); o != nil; o = p.Next() {
		got = append(got, o.Arrival)
	}
	// The urgent one, then a and b in turn, each its oldest.
	if want := []uint64{9, 1, 2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

// Against a model: nothing is lost or repeated; nothing goes before a more urgent level; within a level and session the oldest goes
// first; and while a session has ops at a level, no other is served there more than once before it.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const levels = 3
		p := NewOldestFirst(levels)
		type key struct{ slot, level int }
		have := map[key][]uint64{}
		level := map[uint64]int{}
		sessions := map[int]*scoreboard.Session{}
		waited := map[key]map[int]bool{} // who was served at the level since key's session waits there
		total := 0
		var next uint64
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			slot := rapid.IntRange(0, 4).Draw(t, "slot")
			switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
			case sessions[slot] == nil:
				sessions[slot] = &scoreboard.Session{Slot: slot}
				p.Attach(slot)
			case what == 0:
				if rapid.Bool().Draw(t, "for good") {
					p.Detach(slot)
					delete(sessions, slot)
				} else {
					p.Drop(slot)
				}
				for l := range levels {
					total -= len(have[key{slot, l}])
					delete(have, key{slot, l})
					delete(waited, key{slot, l})
				}
			case what < 6:
				next++
				k := key{slot, rapid.IntRange(0, levels-1).Draw(t, "level")}
				if len(have[k]) == 0 {
					waited[k] = map[int]bool{}
				}
				have[k] = append(have[k], next)
				level[next] = k.level
				p.Add(op(sessions[slot], next), k.level)
				total++
			default:
				o := p.Next()
				if (o == nil) != (total == 0) {
					t.Fatalf("Next gives %v with %d waiting", o, total)
				}
				if o == nil {
					continue
				}
				k := key{o.Session.Slot, level[o.Arrival]}
				if len(have[k]) == 0 || have[k][0] != o.Arrival {
					t.Fatalf("took %d of %v; waiting there: %v", o.Arrival, k, have[k])
				}
				for other, q := range have {
					if len(q) > 0 && other.level < k.level {
						t.Fatalf("took level %d while %v waits", k.level, other)
					}
					if len(q) > 0 && other.level == k.level && other.slot != k.slot {
						if waited[other][k.slot] {
							t.Fatalf("session %d was served twice while %d waits", k.slot, other.slot)
						}
						waited[other][k.slot] = true
					}
				}
				waited[k] = map[int]bool{}
				have[k] = have[k][1:]
				total--
			}
			if p.Len() != total {
				t.Fatalf("Len is %d; want %d", p.Len(), total)
			}
		}
	})
}
