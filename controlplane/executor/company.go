package executor

import (
	"cmp"
	"slices"

	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// This file is how what is known of who slows whom (package company) is shown.

// CompanyStats is one partner of a kernel.
type CompanyStats struct {
	// Name is the partner's: a kernel, "class NAME", or what the op is.
	Name string `json:"name"`
	// Excess is by what part the slower one takes longer in this company: 1 is twice as long. Sure: measured often enough for
	// decisions to rest on it.
	Excess float64 `json:"excess"`
	Sure   bool    `json:"sure"`
}

// InterferenceStats are the sums of what is known of who slows whom.
type InterferenceStats struct {
	Pairs        int    `json:"pairs"`        // of which something is known
	Hurting      int    `json:"hurting"`      // of them those that are sure and on which decisions rest
	Measurements uint64 `json:"measurements"` // that were attributed
	Avoided      uint64 `json:"avoided"`      // times that kernels waited for others, beside which they would have taken longer
}

// interference collects the sums; it runs on the poller's thread.
func (p *poller) interference() InterferenceStats {
	return InterferenceStats{p.company.Len(), p.company.Hurting(p.now), p.company.Learned, p.gather.Avoided}
}

// Bounds of what is shown of a kernel.
const (
	partnersShown = 3
	leastShown    = 0.05
	partnerName   = 128
)

// acquaintances is a copy of what is known of pairs, and of what their numbers mean.
type acquaintances struct {
	now     int64
	table   *company.Table
	shapes  []named
	classes map[uint64]string
}

type named struct {
	key  uint64
	code *scoreboard.Code
}

// acquaintances copies them; call runs a function on the poller's thread, which every call holds up for a few µs. Nil: it did not.
func (x *executor) acquaintances(call func(func()) bool) *acquaintances {
	p := x.poller
	a := &acquaintances{table: company.New(), classes: map[uint64]string{}}
	for part := range scoreboard.Parts {
		const n = company.Rows / scoreboard.Parts
		shapes := make([]named, 0, scoreboard.ShapesPerPart)
		ok := call(func() {
			if part == 0 {
				a.now = p.now // later parts are a little younger
				for _, k := range p.sched.Classes() {
					a.classes[k.Key] = k.Name
				}
			}
			p.company.CopyTo(a.table, part*n, n, a.now)
			p.gather.Shapes().Each(part, func(s *scoreboard.Shape) { shapes = append(shapes, named{s.Key, s.Code}) })
		})
		if !ok {
			return nil
		}
		a.shapes = append(a.shapes, shapes...)
	}
	return a
}

// kinds are the ops that launch no kernel and may slow others.
var kinds = map[uint64]string{
	shm.KindCopy: "a copy", shm.KindCopy3D: "a copy", shm.KindMemset: "a memset", shm.KindPut: "a copy", shm.KindGet: "a copy",
}

// partners gives, by kernel (scoreboard.Code.ID), whom it is slowed by most, and whom it slows most.
func (a *acquaintances) partners() (slowedBy, slows map[uint32][]CompanyStats) {
	codes := map[uint64]*scoreboard.Code{}
	for _, s := range a.shapes {
		codes[s.key] = s.code
	}
	name := func(key uint64) string {
		if c := codes[key]; c != nil {
			return c.Name[:min(len(c.Name), partnerName)]
		}
		if n := a.classes[key]; n != "" {
			return "class " + n
		}
		return kinds[key>>8]
	}
	slowedBy, slows = map[uint32][]CompanyStats{}, map[uint32][]CompanyStats{}
	note := func(in map[uint32][]CompanyStats, of, partner uint64, k company.Known) {
		c, other := codes[of], name(partner)
		if c == nil || other == "" {
			return
		}
		for i := range in[c.ID] { // of a kernel's grids the worst
			if row := &in[c.ID][i]; row.Name == other {
				if k.Excess > row.Excess {
					row.Excess, row.Sure = k.Excess, k.Sure
				}
				return
			}
		}
		in[c.ID] = append(in[c.ID], CompanyStats{other, k.Excess, k.Sure})
	}
	a.table.Each(a.now, func(k company.Known) {
		if k.Excess >= leastShown {
			note(slowedBy, k.Victim, k.Beside, k)
			note(slows, k.Beside, k.Victim, k)
		}
	})
	for _, in := range []map[uint32][]CompanyStats{slowedBy, slows} {
		for id, rows := range in {
			slices.SortFunc(rows, func(a, b CompanyStats) int {
				return cmp.Or(cmp.Compare(b.Excess, a.Excess), cmp.Compare(a.Name, b.Name))
			})
			in[id] = rows[:min(len(rows), partnersShown)]
		}
	}
	return slowedBy, slows
}
