package executor

import (
	"sync/atomic"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
)

// A client learns from its ring's line that it is to run its kernels itself, and that it need not any more: when its time is over, and
// when another executor serves it.
func TestSent(t *testing.T) {
	b := newBench(t)
	var all []*client
	for range 2 {
		c, _ := b.client(nil)
		all = append(all, c)
	}
	p, sent := b.poller, all[1]
	word := func(c *client) uint32 { return atomic.LoadUint32(&c.file.Producer().OwnContext) }
	sent.pace.Factor(3, true)
	sent.board.Straggler = scoreboard.Sent
	p.relevel()
	sent.send()
	if word(sent) != 1 || word(all[0]) != 0 || sent.board.Levels.First != p.engine.Levels()-1 {
		t.Errorf("words %d and %d, levels %+v", word(all[0]), word(sent), sent.board.Levels)
	}
	if st := p.snapshot(); st.Sessions[1].Straggler != "own-context" {
		t.Errorf("%+v", st.Sessions[1])
	}
	b.until("its time is over", func() bool {
		p.stragglers.Sample([]*scoreboard.Session{all[0].board}, 1)
		p.pass()
		return sent.board.Straggler == scoreboard.Limited
	})
	if word(sent) != 0 {
		t.Error("it is not told to come back")
	}
	atomic.StoreUint32(&sent.file.Producer().OwnContext, 1) // what an executor left behind that died
	p.enrol(sent)
	if word(sent) != 0 {
		t.Error("the next executor does not tell it to come back")
	}
}

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
	slow.pace.Factor(3, false)
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
	slow.pace.Factor(1e-9, false) // whatever this machine measures, it does not behave
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
	slow.pace.Factor(0, false)
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
