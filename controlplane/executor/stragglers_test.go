package executor

import (
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// A client whose ops are late goes apart, and the others together; limited, one of its ops is in flight at a time; and all of it ends.
func TestStraggler(t *testing.T) {
	const rounds = 50
	b := newBench(t)
	code := b.joinedCode()
	var boards []*client
	var all []*tester
	var sessions []*scoreboard.Session
	for range 4 {
		c, g := b.client(nil)
		c.board.KernelByID(1).Code = code
		boards, all, sessions = append(boards, c), append(all, g), append(sessions, c.board)
	}
	slow, p := boards[2], b.poller
	slow.pace.Factor(3)
	launch := func() {
		for range rounds {
			for _, g := range all {
				g.push(1, true)
			}
			for range 3 {
				p.pass()
			}
		}
		b.until("all ops are done", func() bool {
			for _, c := range boards {
				if c.board.InFlight()+c.board.Waiting() > 0 || !c.ring.Empty() {
					return false
				}
			}
			return true
		})
	}
	b.until("the slow one is apart", func() bool {
		p.stragglers.Sample(sessions, 10)
		if slow.board.Straggler != scoreboard.Free {
			p.stragglers.Sample([]*scoreboard.Session{slow.board}, 10)
		}
		return slow.board.Straggler == scoreboard.Evicted
	})
	slow.pace.Factor(1e-9) // whatever this machine measures, it does not behave
	joined, others := slow.board.Joined, boards[0].board.Joined
	launch()
	st := p.snapshot()
	if slow.board.Joined != joined || boards[0].board.Joined == others {
		t.Errorf("%d of its ops went with others, and %d of another's", slow.board.Joined-joined, boards[0].board.Joined-others)
	}
	if row := st.Sessions[2]; row.Straggler == "" || row.Lateness < 3 || row.Evictions != 1 || st.Stragglers.Evictions != 1 || st.Coalescing.Apart["straggler"] < rounds {
		t.Errorf("%+v; %+v; %v", row, st.Stragglers, st.Coalescing.Apart)
	}
	slow.board.Straggler = scoreboard.Limited
	p.relevel()
	if slow.board.Levels.Count != 1 || slow.board.Levels.First != p.engine.Levels()-1 {
		t.Errorf("its streams have the levels %+v", slow.board.Levels)
	}
	most := 0
	for range rounds {
		for _, g := range all {
			g.push(1, true)
		}
		p.pass()
		if p.active > 1 && !p.force {
			most = max(most, slow.board.InFlight())
		}
	}
	launch()
	if most > 1 {
		t.Errorf("%d of its ops were in flight", most)
	}
	slow.pace.Factor(0)
	b.until("the policy tolerates it", func() bool {
		p.stragglers.Sample(sessions, 1)
		return slow.board.Straggler == scoreboard.Free
	})
	joined = slow.board.Joined
	launch()
	if slow.board.Joined == joined || slow.board.Levels.Count != 0 {
		t.Errorf("none of its ops went with others; levels %+v", slow.board.Levels)
	}
}
