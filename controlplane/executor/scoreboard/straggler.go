package scoreboard

// Straggling is how a session is served whose ops take longer than they should; package straggle decides.
type Straggling uint8

// The steps, from how everybody is served on.
const (
	Free    Straggling = iota
	Tried              // its ops go alone for a moment, one of each lane at a time, to be measured: more would be in everybody's way
	Evicted            // its ops go alone
	Limited            // and one of each of its lanes at a time
	Sent               // and it is asked to run its kernels in its own context
)

// StragglerNames are the steps' names in statistics.
var StragglerNames = [...]string{"", "tried", "apart", "limited", "own-context"}

// Single says that no more than one op of each of the session's lanes is in flight.
func (s Straggling) Single() bool { return s == Tried || s >= Limited }
