package trace

import (
	"cmp"
	"slices"

	"github.com/heddle-gpu/heddle/shm"
)

// Summary is what ops of one kind of one client did in a timeline.
type Summary struct {
	Client uint64
	Kind   string // of the op, as tracks name it: kernel, graph, memset, copy, copy 3D, put, get, event
	// Beside: somebody else's word was under way when they were issued; else they began by themselves.
	Beside bool
	Ops    int
	// Waited is from when an op could first be issued until it was, Took from then until it was seen done; ns.
	Waited, Took Quantiles
}

// Quantiles of durations, ns.
type Quantiles struct{ P50, P99 int64 }

// Summaries are the timeline's, by client, kind, and whether others were there. Ops whose issue or end is not in the recording are left
// out. Unless every op's own end was asked for, one counts as done with the next one of its stream whose was.
func (t *Timeline) Summaries() []Summary {
	beside := t.beside()
	type key struct {
		client uint64
		kind   uint16
		beside bool
	}
	waited, took := map[key][]int64{}, map[key][]int64{}
	for i := range t.Ops {
		op := &t.Ops[i]
		if op.Issued == 0 || op.Done == 0 {
			continue
		}
		k := key{op.Client, op.Kind, beside[i]}
		waited[k] = append(waited[k], max(op.Issued-cmp.Or(op.Ready, op.Issued), 0))
		took[k] = append(took[k], max(op.Done-op.Issued, 0))
	}
	var out []Summary
	for k := range took {
		var none Names
		kind := none.Op(k.kind, 0)
		if k.kind == shm.KindLaunch {
			kind = kinds[shm.KindLaunch]
		}
		out = append(out, Summary{k.client, kind, k.beside, len(took[k]), quantiles(waited[k]), quantiles(took[k])})
	}
	slices.SortFunc(out, func(a, b Summary) int {
		less := 0
		if a.Beside != b.Beside {
			less = 1
			if b.Beside {
				less = -1
			}
		}
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(b.Kind, a.Kind), less)
	})
	return out
}

// beside says of each op whether a word without ops of its client was under way when it was issued.
func (t *Timeline) beside() []bool {
	type moment struct {
		at   int64
		word int
	}
	var starts, ends []moment
	for i := range t.Words {
		if w := &t.Words[i]; w.Done > 0 && len(w.Ops) > 0 {
			starts, ends = append(starts, moment{w.Issued, i}), append(ends, moment{max(w.Done, w.Issued), i})
		}
	}
	sooner := func(a, b moment) int { return cmp.Compare(a.at, b.at) }
	slices.SortFunc(starts, sooner)
	slices.SortFunc(ends, sooner)
	order := make([]int, len(t.Ops))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(t.Ops[a].Issued, t.Ops[b].Issued) })
	open, with := 0, map[uint64]int{} // words under way, and how many of them have ops of a client
	count := func(of []moment, until int64, by int) (rest []moment) {
		for ; len(of) > 0 && of[0].at <= until; of = of[1:] {
			open += by
			ops := t.Words[of[0].word].Ops
			for k, op := range ops {
				client := t.Ops[op].Client
				if !slices.ContainsFunc(ops[:k], func(other int) bool { return t.Ops[other].Client == client }) {
					with[client] += by
				}
			}
		}
		return of
	}
	out := make([]bool, len(t.Ops))
	for _, i := range order {
		op := &t.Ops[i]
		starts, ends = count(starts, op.Issued, 1), count(ends, op.Issued, -1)
		out[i] = open > with[op.Client]
	}
	return out
}

func quantiles(v []int64) Quantiles {
	slices.Sort(v)
	return Quantiles{v[len(v)/2], v[len(v)*99/100]}
}
