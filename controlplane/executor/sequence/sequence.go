// Package sequence recognises what eager clients repeat: runs of launches, in one lane, in a row, with the very same parameters. The
// executor prepares a graph of such a run, and issues it in one driver call when all of its ops are waiting again.
//
// Nothing is issued on a guess. A run is issued when its ops were submitted, and every byte of them was compared: what is issued is what was
// asked for. Hashes only say where to look. A few launches of a run may have other parameters each time: those are set in the graph before
// it is launched, while it is not in flight.
//
// How runs come to be: where a lane has a backlog, the ops that wait are noted as a run (a seed), and those behind them as the next
// one. One that comes again is shortened to what really repeats; one that came often enough is handed to the maker (Options.Ask).
// Runs follow one another: behind a run that was recognised the one that came there last is compared first, so while a client repeats
// itself nothing is hashed or searched. Where nothing repeats, seeds become rare, and an op costs a few ns.
//
// A Store belongs to the poller's thread. It knows no driver and no clock. It allocates when a seed or a run is made, never for an op.
// Source: measurements.md sections 3 and 7.
package sequence

import (
	"math/rand/v2"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// Bounds.
const (
	// Least and Most are how many ops a run has: one driver call for three saves too little, and a longer one than Most would hardly
	// find room in a lane's window.
	Least, Most = 4, 32
	// MostRuns bounds the runs that are made, ofSession those of one client.
	MostRuns  = 1024
	ofSession = MostRuns / 4
	// seeds bounds those that are learned; backlog is how many ops must wait for the end of the backlog to end a seed.
	seeds   = 512
	backlog = 8
	// mostParams bounds a run's parameters, in bytes: all of them are kept.
	mostParams = 16 << 10
	// variants is how many runs of a client may begin with the same op: all of them are compared.
	variants = 8
	// mostCopy bounds one copy, in bytes.
	mostCopy = 64 << 20
	// changeable is of how many launches one may have other parameters each time: setting them costs the issue thread some 0.9 µs before
	// each launch of the graph, a launch of its own 4.4.
	changeable = 2
	// again is how often a seed must come again before a graph is made of it, againWary the same for a client of whose runs many were
	// never used.
	again, againWary = 2, 8
	// budget is how many seeds a lane has while nothing is recognised, then one every patience ops, ever rarer.
	budget                      = 64
	leastPatience, mostPatience = 32, 4096
	// near is how many ops behind a run the next one may begin and is still taken to follow it.
	near = 4
	// blind is how many ops are not looked at after one was looked for in vain, once budget were.
	blind = 15
	// shortBefore is how often a seed must come with too short a backlog before it is cut to what is there.
	shortBefore = 4
	// unlike is how often nothing known may follow a run before the op behind it is skipped: one whose parameters change always.
	unlike, mostSkips = 3, 8
	// plainEvery is how often a run is launched op by op, so that its kernels are still measured: one in so many.
	plainEvery = 64
)

// Options of New.
type Options struct {
	// Ask hands a run to the maker, who sets Exec or Refused some time. false: not now.
	Ask func(*Run) bool
	// Retire tells that a run, which was handed to Ask, is not used again.
	Retire func(*Run)
}

// Counters are what a store has done.
type Counters struct {
	Words, Ops uint64 // prepared words issued, and the ops in them
	Runs       int    // handed to the maker and not given up
	Learned    uint64 // handed to the maker, ever
	Evicted    uint64 // given up for newer ones
	Unused     uint64 // given up, or gone with their client, without ever having been issued
	Seeds      uint64
	// Changed counts launches whose parameters were set anew, Busy the runs that went op by op because the graph to be changed was in flight.
	Changed, Busy uint64
	// Awaited counts runs for the rest of which their first op waited (Await), InVain those of them that did not come in time.
	Awaited, InVain uint64
	// Plain counts ops that went one by one, by why.
	Plain [Reasons]uint64
}

// Store holds the runs of all clients.
type Store struct {
	Counters
	// Apart says that ops which could be joined with others' go by themselves now, so that they can be in runs.
	Apart    bool
	options  Options
	bucket   [4 * MostRuns]*Run
	seeds    [seeds]*Run // in turn
	at       int
	newest   *Run // of those that were handed to Ask, by use
	oldest   *Run
	sessions map[uint64]*clientRuns
	hash     func(*scoreboard.Op) uint64
}

// clientRuns are the books of one client.
type clientRuns struct{ runs, learned, unused int }

// New makes an empty store.
func New(o Options) *Store {
	secret := rand.Uint64() // no client knows whose ops fall into one bucket
	return &Store{options: o, sessions: map[uint64]*clientRuns{}, hash: func(op *scoreboard.Op) uint64 { return hashOf(op, secret) }}
}

// Track is what is known of a lane: where it is in what it repeats. The zero value knows nothing.
type Track struct {
	last     *Run   // recognised last, or noted
	end      uint32 // number of its last op
	until    uint32 // ops up to this number go as they are
	since    uint32 // number of the op at which something was last recognised or noted
	checked  *Run   // compared equal with the ops from number from on, which found no room
	from     uint32
	budget   int32
	skips    int32
	misses   int32 // looked for in vain since something was recognised
	patience uint32
	why      Reason // why its ops go one by one, of late
	wait     wait
}

// Wants says, nearly always in a few ns, whether Look is worth its price for a ready op, its lane's first.
func (s *Store) Wants(t *Track, op *scoreboard.Op) bool {
	switch {
	case t.until != 0 && shm.Reached(t.until, op.Seq):
		return false
	case op.Kind != shm.KindLaunch:
		t.why = Unfit
		t.beside(op)
		return false
	case t.last != nil && follows(op.Seq, t.end), t.patience == 0, scoreboard.Count(t.since, op.Seq) >= t.patience:
		return true
	case op.Kernel.Starts == 0:
		t.why = Unknown
		return false
	}
	t.why = Unknown
	h := s.hash(op)
	for r := s.bucket[h%uint64(len(s.bucket))]; r != nil; r = r.chain {
		if r.hash == h {
			return true
		}
	}
	if t.misses++; t.misses > budget {
		t.until = max(1, op.Seq+blind) // the kernels come again, with other parameters
	}
	return false
}

// beside passes over an op that can be in no run: what follows it is behind the run before it.
func (t *Track) beside(op *scoreboard.Op) {
	if t.last != nil && follows(op.Seq, t.end) {
		t.end = op.Seq
	}
}

// follows says whether number b comes behind a: at once, or as good as at once, because ops without others behind them are not looked
// at.
func follows(b, a uint32) bool { return scoreboard.Count(a, b) <= near }

// Look gives the run that ops begin with and that can be launched now, nil when there is none. ops are what Session.Following gives. A
// run that was given is to be issued, and told to Took, or to Pass, or asked for again.
func (s *Store) Look(t *Track, ops []*scoreboard.Op) *Run {
	n, size := 0, uint64(0)
	for n < len(ops) && s.fits(ops[n]) {
		if ops[n].Kind == shm.KindLaunch {
			if size += ops[n].Launch().ParamBytes; size > mostParams {
				break
			}
		}
		n++
	}
	if n < Least {
		if t.why = Few; !s.fits(ops[0]) {
			t.why = Unfit
			t.beside(ops[0])
		}
		return nil
	}
	more := n == len(ops) && n < Most && ops[n-1].Next() == nil // more may come
	ops = ops[:n]
	if r := t.checked; r != nil && t.from == ops[0].Seq && r.state == asked && r.Len() <= n {
		return r
	}
	t.checked = nil
	r, n := s.find(t, ops)
	switch t.why = Differs; {
	case r == nil:
		t.why = Unknown
	case n == r.Len():
		return s.whole(t, r, ops)
	case n == len(ops) && more:
		t.why = Incomplete
		if s.part(t, r, n); r.state == gone {
			t.until, t.since = ops[n-1].Seq, ops[n-1].Seq
		} else {
			// The rest is foreseen: what follows the run is looked for where it ends.
			t.recognised(r, ops[0].Seq+uint32(r.Len()-1))
		}
		return nil
	case r.state == learning && r.loosen(ops):
		return s.whole(t, r, ops)
	case n >= Least && r.state == learning:
		r.cut(n) // only its beginning repeats
		return s.whole(t, r, ops)
	default:
		s.part(t, r, n)
	}
	s.unknown(t, r != nil && r.short <= unlike, ops, more)
	return nil
}

// Held is the length of the run that Look gave for op and that waits for room; 0: there is none.
func (t *Track) Held(op *scoreboard.Op) int {
	if r := t.checked; r != nil && t.from == op.Seq && r.state == asked {
		return r.Len()
	}
	return 0
}

// find gives the longest run that ops begin with, or the one that they are most alike to, and how many ops are alike.
func (s *Store) find(t *Track, ops []*scoreboard.Op) (best *Run, most int) {
	first := ops[0]
	if t.last != nil && t.last.next != nil && follows(first.Seq, t.end) {
		if r := t.last.next; r.state != gone {
			if n := r.match(ops); n == r.Len() {
				return r, n
			} else if n > 0 {
				best, most = r, n
			}
		}
	}
	if first.Kernel.Starts == 0 {
		return best, most
	}
	h := s.hash(first)
	for r := s.bucket[h%uint64(len(s.bucket))]; r != nil; r = r.chain {
		if r.hash != h {
			continue
		}
		n := r.match(ops)
		if n == 0 {
			continue
		}
		whole, was := n == r.Len(), best != nil && most == best.Len()
		if best == nil || (whole && !was) || (whole == was && n > most) {
			best, most = r, n
		}
	}
	return best, most
}

// whole is what becomes of a run whose ops are all there.
func (s *Store) whole(t *Track, r *Run, ops []*scoreboard.Op) *Run {
	if t.last != nil && follows(ops[0].Seq, t.end) {
		t.last.next, t.last.lost = r, 0
	}
	r.seen++
	r.short = 0
	if r.state == learning {
		r.renew(ops)
	}
	if r.state == learning && r.seen >= s.need(r.Session) {
		s.ask(r)
	}
	if t.why = Learning; r.state == asked {
		s.touch(r)
		if t.why = Making; r.Exec.Load() != 0 && !r.Refused.Load() {
			switch used := ops[0].Session.Lane(r.lane); {
			case r.seen%plainEvery == 0:
				t.why = Measured
			case r.Changes() && r.uses > 0 && !shm.Reached(used.Done, r.last):
				t.why = Busy
				s.Busy++
			default:
				t.checked, t.from = r, ops[0].Seq
				return r
			}
		}
	}
	t.recognised(r, ops[r.Len()-1].Seq)
	return nil
}

// Took says that a run that Look gave was issued in a lane; last is the number of its last op.
func (s *Store) Took(t *Track, r *Run, lane, last uint32) {
	s.Words++
	s.Ops += uint64(r.Len())
	s.Changed += uint64(len(r.vary))
	r.uses++
	r.lane, r.last = lane, last
	t.recognised(r, last)
}

// Pass says that a run that Look gave cannot be issued as it is: its ops go one by one; last is the number of its last op.
func (s *Store) Pass(t *Track, r *Run, last uint32) {
	t.recognised(r, last)
	t.why = Bounds
}

// recognised goes on behind a run.
func (t *Track) recognised(r *Run, last uint32) {
	t.last, t.end, t.until, t.since, t.checked = r, last, last, last, nil
	t.budget, t.skips, t.misses, t.patience, t.wait.seeds = budget, 0, 0, leastPatience, 0
}

// part is what becomes of a run of which only the first n ops came.
func (s *Store) part(t *Track, r *Run, n int) {
	r.short++
	switch {
	case r.state == learning && r.short >= shortBefore && n >= Least:
		r.cut(n)
		r.short = 0
	case r.state == asked && r.short > plainEvery:
		s.forget(r) // learned anew, as long as what comes
		s.Evicted++
	}
}

// unknown decides whether ops become a seed. alike: they begin as some run does.
func (s *Store) unknown(t *Track, alike bool, ops []*scoreboard.Op, more bool) {
	first := ops[0]
	behind := t.last != nil && follows(first.Seq, t.end)
	idle := scoreboard.Count(t.since, first.Seq) >= t.patience
	if t.patience == 0 {
		t.budget, t.patience = budget, leastPatience
	}
	if behind && t.last.seen > 0 {
		if t.last.lost++; t.last.lost > unlike {
			// What comes behind it is another op each time: what follows that one may repeat.
			t.until = first.Seq
			if t.skips++; t.skips <= mostSkips {
				t.end = first.Seq
			} else {
				t.last = nil
			}
			return
		}
	}
	if !behind && !alike && !idle {
		return
	}
	switch {
	case t.budget <= 0 && !idle:
		t.last = nil
	case !s.seed(t, ops, more):
	case t.budget > 0:
		t.budget--
	default:
		t.patience = min(2*t.patience, mostPatience)
	}
}

// seed notes ops as a run, unless there are too few.
func (s *Store) seed(t *Track, ops []*scoreboard.Op, more bool) bool {
	n := len(ops)
	for i := 1; i < n; i++ {
		// What begins where a run is known to begin is that run's: so they follow one another instead of overlapping.
		if k := ops[i].Kernel; k != nil && k.Starts > 0 && s.begins(ops[i:]) {
			n, more = i, false
			break
		}
	}
	if n < Least {
		t.until = ops[n-1].Seq
		return false
	}
	if more && n < backlog {
		t.why = Few
		return false
	}
	s.thin(s.hash(ops[0]))
	r := s.seeds[s.at]
	if r == nil || r.state != learning {
		if r != nil && r.state == gone {
			r = nil
		}
		r = &Run{}
		s.seeds[s.at] = r
	} else {
		s.remove(r)
	}
	s.at = (s.at + 1) % seeds
	r.fill(ops[:n])
	r.Session, r.hash, r.state = ops[0].Session.ID, s.hash(ops[0]), learning
	r.seen, r.uses, r.short, r.lost, r.next = 0, 0, 0, 0, nil
	at := &s.bucket[r.hash%uint64(len(s.bucket))]
	r.chain, *at = *at, r
	ops[0].Kernel.Starts++
	s.Seeds++
	last := ops[n-1].Seq
	t.last, t.end, t.until, t.since, t.why = r, last, last, last, Learning
	return true
}

// thin makes room for one more run that begins with an op of a hash: the oldest of too many goes.
func (s *Store) thin(h uint64) {
	var oldest *Run
	n := 0
	for r := s.bucket[h%uint64(len(s.bucket))]; r != nil; r = r.chain {
		if r.hash == h {
			oldest = r // new ones are in front
			n++
		}
	}
	if n < variants {
		return
	}
	if oldest.state == asked {
		s.forget(oldest)
		s.Evicted++
		return
	}
	for i, r := range s.seeds {
		if r == oldest {
			s.seeds[i] = nil
			break
		}
	}
	s.remove(oldest)
}

// begins says whether a known run begins as these ops do.
func (s *Store) begins(ops []*scoreboard.Op) bool {
	h := s.hash(ops[0])
	for r := s.bucket[h%uint64(len(s.bucket))]; r != nil; r = r.chain {
		if r.hash == h && r.match(ops) >= min(Least, len(ops)) {
			return true
		}
	}
	return false
}

// need is how often a seed of a client must come again.
func (s *Store) need(session uint64) int {
	if c := s.sessions[session]; c != nil && c.unused > 16 && 2*c.unused > c.learned {
		return againWary
	}
	return again
}

// ask hands a seed to the maker.
func (s *Store) ask(r *Run) {
	if r.Len() < Least {
		return
	}
	r.settle()
	if !s.options.Ask(r) {
		return
	}
	r.state = asked
	for i, o := range s.seeds {
		if o == r {
			s.seeds[i] = nil
			break
		}
	}
	c := s.sessions[r.Session]
	if c == nil {
		c = &clientRuns{}
		s.sessions[r.Session] = c
	}
	c.runs++
	c.learned++
	s.Learned++
	s.Runs++
	s.push(r)
	for old := s.oldest; old != nil && old != r && (c.runs > ofSession || s.Runs > MostRuns); {
		next := old.newer
		if s.Runs > MostRuns || old.Session == r.Session {
			s.forget(old)
			s.Evicted++
		}
		old = next
	}
}

// push makes a run the newest.
func (s *Store) push(r *Run) {
	r.older, r.newer = s.newest, nil
	if s.newest != nil {
		s.newest.newer = r
	} else {
		s.oldest = r
	}
	s.newest = r
}

// unlink takes a run out of the list by use.
func (s *Store) unlink(r *Run) {
	if r.newer != nil {
		r.newer.older = r.older
	} else {
		s.newest = r.older
	}
	if r.older != nil {
		r.older.newer = r.newer
	} else {
		s.oldest = r.newer
	}
}

func (s *Store) touch(r *Run) {
	if s.newest != r {
		s.unlink(r)
		s.push(r)
	}
}

// forget gives up a run that was handed to the maker.
func (s *Store) forget(r *Run) {
	s.unlink(r)
	s.remove(r)
	s.Runs--
	c := s.sessions[r.Session]
	c.runs--
	if r.uses == 0 {
		c.unused++
		s.Unused++
	}
	r.Dropped.Store(true)
	s.options.Retire(r)
}

// remove takes a run out of the table.
func (s *Store) remove(r *Run) {
	r.state = gone
	r.items[0].kernel.Starts--
	for at := &s.bucket[r.hash%uint64(len(s.bucket))]; *at != nil; at = &(*at).chain {
		if *at == r {
			*at = r.chain
			return
		}
	}
}

// Forget gives up every run of a session. named: only those that name memory besides parameters, which is about to be unmapped.
func (s *Store) Forget(session uint64, named bool) {
	drop := func(r *Run) bool { return r.Session == session && (!named || r.names()) }
	for i, r := range s.seeds {
		if r != nil && r.state == learning && drop(r) {
			s.remove(r)
			s.seeds[i] = nil
		}
	}
	for r := s.oldest; r != nil; {
		next := r.newer
		if drop(r) {
			s.forget(r)
		}
		r = next
	}
	if !named {
		delete(s.sessions, session)
	}
}

// names says whether the driver was told addresses that ops of the run work on.
func (r *Run) names() bool {
	for i := range r.items {
		if r.items[i].kind != shm.KindLaunch {
			return true
		}
	}
	return false
}
