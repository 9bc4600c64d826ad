package sched

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// lengths finds, when a request of a client ended, which clients of its priority have requests so much longer than another's that their
// kernels go on less urgent streams: the scheduler has them wait for the shorter ones while they have slack, and without slack, or
// where the others leave the chip idle, they run beside them. Then the chip places the shorter ones' blocks first.
func (s *Scheduler) lengths(of *Client, now int64) {
	least := longest
	for _, c := range s.clients {
		if c != nil && c.class.Settings.Priority == of.class.Settings.Priority && c.board.Request > 0 && now-c.begun < recently {
			least = min(least, c.board.Request)
		}
	}
	for _, c := range s.clients {
		if c == nil || c.class.Settings.Priority != of.class.Settings.Priority {
			continue
		}
		times := int64(scoreboard.Longer)
		if c.long {
			times = stillLonger
		}
		if long := c.board.Request >= times*least; long != c.long {
			c.long = long
			s.Relevel = true
		}
	}
}

const (
	// recently is how long a client's requests count for the others after its last one began, ns.
	recently = int64(1e9)
	// stillLonger is how many times as long as the shortest those of a client must be that were scoreboard.Longer times as long.
	stillLonger = 2
)

// Long says that the client's requests are much longer than those of another client of its priority.
func (c *Client) Long() bool { return c.long }
