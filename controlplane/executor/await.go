package executor

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// awaits says that op, ready and its lane's first, is not offered yet: it waits for the rest of what its client repeats.
//
// An eager client submits a launch every few µs, and waits at the end of a request. While the issue threads are behind, its ops would
// go one by one as each becomes ready, and each such call delays the ones that would have served many. So an op with which a known run
// begins, or one may be learned, waits for the others; nothing is issued on a guess, and what did not come as foreseen goes as it would
// have gone before.
// Nobody must be waiting for it: no request with an objective, no other lane of its session with work, no done word that was asked for.
func (p *poller) awaits(c *client, l *scoreboard.Lane, op *scoreboard.Op) bool {
	t := &c.tracks[l.Index]
	if !p.lags && !t.Awaiting(op) {
		return false
	}
	b := c.board
	if p.force || p.active <= 1 || op.Deadline != 0 || l.Last().Signal || len(b.Busy()) > 1 || c.stopped || c.limited || c.hold != nil ||
		b.Straggler >= scoreboard.Limited || b.Partition > 0 {
		return false
	}
	return p.runs.Await(t, op, l.Scanned, b.Class.Hold, p.now)
}

// looks says whether runs are looked for.
func (p *poller) looks() bool { return p.runs != nil && !p.tune.NoRuns }
