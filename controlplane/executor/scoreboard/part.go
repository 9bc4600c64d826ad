package scoreboard

// An op that is issued in slices of its blocks is issued from the first of them on: its lane has it in flight, the client's word says
// so, and whoever looks for what ran at a fault finds it. Until the last one it is the lane's Part: nothing that follows it may be
// issued, and no done word covers it.

// Begin moves a ready op from waiting to partly issued on stream, as Issue does: it must be called before the driver can see the
// first slice. Finish must follow.
func (s *Session) Begin(op *Op, stream int) {
	l := &s.lanes[op.Lane]
	whole, signalled := l.Whole, l.Signalled
	s.Issue(op, stream)
	l.Whole, l.Signalled, l.Part, l.Queued = whole, signalled, op, true
}

// Finish makes a lane's Part wholly issued: its last slice is about to be, or none will follow any more. signal tells that a done word
// is written behind it.
func (s *Session) Finish(l *Lane, signal bool) {
	op := l.Part
	l.Part, l.Whole, l.Queued = nil, op.Seq, false
	if signal {
		l.Signalled = op.Seq
	}
}
