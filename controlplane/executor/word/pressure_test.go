package word

import (
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/coalesce"
)

// Ops go together when launches one by one would take nearly all the time of the issue threads, and by themselves and at once when they
// would not; what joining spares is no reason to give it up.
func TestPressure(t *testing.T) {
	b := newBench(t, nil)
	calls := int64(0)
	b.g.options.Calls, b.g.options.Threads = func() int64 { return calls }, 4
	b.g.pressed = false
	c := code(1)
	scoreboard.Publish(form(coalesce.ByZ, 8, c))
	var all []*session
	for range 8 {
		all = append(all, b.session(c))
	}
	now := int64(0)
	// round has every client offer an op, and gives how many words they were, each of which took its thread so long.
	round := func(each int64) (words int) {
		now += pressureEvery / 100
		for _, s := range all {
			s.offer(launch{}, now)
		}
		for b.g.Len() > 0 {
			if b.next(now) == nil {
				t.Fatal("ops wait, and nothing bounds them")
			}
			words++
			calls += each
		}
		return words
	}
	for _, step := range []struct {
		what         string
		single, many int64 // ns of a call of one of eight, and of one word of them all
		words        int
	}{
		{"eight launches in 2.5 us take half of the four threads", 700, 700, 8},
		{"eight launches in 2.5 us take all of them, and half when one call serves them", 1200, 600, 1},
		{"clients that launch seldom", 100, 100, 8},
	} {
		got := 0
		for range 300 {
			each := step.single
			if got == 1 {
				each = step.many
			}
			got = round(each)
		}
		if got != step.words {
			t.Errorf("%s: %d words; want %d", step.what, got, step.words)
		}
	}
}

// Without pressure an op goes by itself, whatever else one launch could hold: other kernels, other grids, or the same at another level.
func TestAloneWithoutPressure(t *testing.T) {
	for _, pressed := range []bool{false, true} {
		b := newBench(t, nil)
		b.g.pressed = pressed
		x, y := code(1), code(2)
		for _, c := range []*scoreboard.Code{x, y} {
			scoreboard.Publish(form(coalesce.ByZ, 8, c))
		}
		scoreboard.Publish(form(coalesce.ByTable, 8, x, y))
		b.session(x).offer(launch{blocks: 3}, 0)
		b.session(y).offer(launch{blocks: 5}, 0)
		b.session(x).offer(launch{blocks: 4}, 0)
		want := map[bool]int{true: 1, false: 3}[pressed]
		words := 0
		for ; b.g.Len() > 0; words++ {
			if b.next(int64(words)) == nil {
				t.Fatal("ops wait, and nothing bounds them")
			}
		}
		if words != want {
			t.Errorf("pressed: %v: %d words of three ops; want %d", pressed, words, want)
		}
	}
}
