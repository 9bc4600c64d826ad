package executor

import "github.com/heddle-gpu/heddle/controlplane/executor/issue"

// rounds are the poller's passes that took longer than issue.LongRun, by what they held: a clock is read for long ones only.
type rounds struct {
	mailed   bool   // this pass ran what others posted
	directly uint64 // Engine.Directly before it
	mail     issue.LongRuns
	direct   issue.LongRuns
	other    issue.LongRuns
}

// long counts a pass that took ns, at whose end Engine.Directly was directly.
func (r *rounds) long(ns int64, directly uint64) {
	switch {
	case directly != r.directly:
		r.direct.Add(ns)
	case r.mailed:
		r.mail.Add(ns)
	default:
		r.other.Add(ns)
	}
}

// StallStats are runs of the threads that launch which took longer than issue.LongRun; a part of Stats.
type StallStats struct {
	// Where is "issue": an issue thread's commands; "direct": a round of the poller that made driver calls itself, "mail": one that did
	// what other threads had asked for, "poller": any other.
	Where   string  `json:"where"`
	Count   uint64  `json:"count"`
	Seconds float64 `json:"seconds"`
	Longest float64 `json:"longest_seconds"`
}

// StallPlaces are the values of StallStats.Where.
var StallPlaces = [...]string{"issue", "direct", "mail", "poller"}

// stalls gives all of them; it runs on the poller's thread.
func (p *poller) stalls() []StallStats {
	var threads issue.LongRuns
	for i := range p.engine.Threads() {
		threads.Merge(p.engine.LongRuns(i))
	}
	var all []StallStats
	for i, r := range [...]*issue.LongRuns{&threads, &p.rounds.direct, &p.rounds.mail, &p.rounds.other} {
		count, total, longest := r.Read()
		all = append(all, StallStats{StallPlaces[i], count, float64(total) / 1e9, float64(longest) / 1e9})
	}
	return all
}
