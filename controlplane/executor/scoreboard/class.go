package scoreboard

// Class is what its session's class of clients means for an op's turn. The scheduler (package sched) writes it, on the poller's
// thread; a session without one is as good as every other.
type Class struct {
	// Priority is the admin's: larger goes first. It changes with the policy only.
	Priority int32
	// Place is where the class stands now: smaller goes first. From Blocked on nothing of it is issued now.
	Place int32
	// Longest is how long an op of it may take that begins now, or what is left of one that has begun, ns of the whole chip (Op.Cost):
	// a class above it must not wait longer.
	Longest int64
	// Slice is how long an op of it may take to be issued whole, ns of the whole chip: a longer one goes in slices where it can,
	// because a class above it is active. 0: any length.
	Slice int64
	// Beside is the place of those of its ops that run on a partition of the SMs: they may take any time. 0: they have none of their own.
	Beside int32
	// Hold bounds how long its ops wait for company, ns.
	Hold int64
	// Apart: its ops are never joined with others.
	Apart bool
	// Key names it in what is learned of who slows whom (package company). Above is that of the class above it whose ops it must not keep
	// from the chip, 0: there is none; Hurry: a request of that one has little slack left. What became ready before Old, ns, has waited
	// for so long that it goes whomever it slows.
	Key, Above uint64
	Hurry      bool
	Old        int64
	// Brief is the length of the shortest request under way in it and the classes of its priority, ns, when a much longer one is: ops of
	// requests Longer times as long or more wait while they have slack, that is, need not start before Spare, and when they have none
	// at all, and would have had to start before Now: their request misses its objective anyhow. 0: nobody yields.
	Brief, Spare, Now int64
}

// Longer is how many times as long a request is that yields to a shorter one.
const Longer = 3

// Blocked is the Place of classes of which nothing may be issued now.
const Blocked = 1 << 30

// Place is where the op stands now, by its class.
func (o *Op) Place() int32 {
	c := o.Session.Class
	if c == nil {
		return 0
	}
	if c.Beside > 0 && o.InPart() && !o.Yields() {
		return min(c.Place, c.Beside)
	}
	if o.Cost > c.Longest || o.Intrudes() || o.Yields() {
		return Blocked
	}
	return c.Place
}

// Yields says whether the op waits because a much shorter request is under way, and its own has the time, or has missed it.
func (o *Op) Yields() bool {
	c := o.Session.Class
	return c.Brief > 0 && o.Session.Request >= Longer*c.Brief && (o.Latest > c.Spare || o.Latest < c.Now) && o.Latest <= o.Deadline // else it is delayed, or has no objective
}

// Intrudes says whether the op waits because of what it does to the class above: it would delay a request of it for longer than that may
// wait, or slow it while it has little slack left.
func (o *Op) Intrudes() bool {
	c := o.Session.Class
	return (o.Harm > c.Longest || (o.Hurts && c.Hurry)) && o.ReadyAt >= c.Old
}

// Before says whether o goes before other within one place: the one that must start earlier, then the one that came first.
func (o *Op) Before(other *Op) bool {
	return o.Latest < other.Latest || (o.Latest == other.Latest && o.Arrival < other.Arrival)
}

// outranks orders the ops of a shape, which may be of several classes: by what does not change while they wait. Among those without
// an objective it is first come, first served: they go together soon, and a long list must not be searched.
func (o *Op) outranks(other *Op) bool {
	if a, b := o.Session.Class, other.Session.Class; a != b && a != nil && b != nil && a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return (o.Deadline|other.Deadline) != 0 && o.Before(other)
}

// Levels is a range of the issue engine's levels: Count of them from First on. Count 0 is all of them.
type Levels struct{ First, Count int }
