// Package policy decides which ready op goes next. It sees only what a decision needs; binding to a stream is the word
// builder's and the issue engine's business.
//
// A policy belongs to the poller's thread and allocates nothing between Attach calls.
package policy

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// Policy orders ready ops. At most one op of a lane is in it at a time: its oldest.
type Policy interface {
	// Attach makes room for a session; slot is its Slot. Detach forgets it and every op of it.
	Attach(slot int)
	Detach(slot int)
	// Add hands over an op that may be issued now. level is its urgency, 0 the most urgent.
	Add(op *scoreboard.Op, level int)
	// Next takes the op to issue next; nil when there is none.
	Next() *scoreboard.Op
	// Drop forgets every op of a session, whose board has given them up.
	Drop(slot int)
	// Len is how many ops are waiting for Next.
	Len() int
}

// OldestFirst takes the most urgent level first; within it goes round robin over the sessions, and within a session takes the op
// that was submitted first. No op waits for ever within its level: each round serves every session once.
type OldestFirst struct {
	levels   []level
	sessions []*queues
	n        int
}

// level is a ring of the sessions that have ops at it.
type level struct {
	slots []int // in the order of service
	at    int
}

// queues are one session's heaps, one per level.
type queues struct {
	heaps []heap
}

type heap []*scoreboard.Op

// NewOldestFirst makes a policy for so many levels.
func NewOldestFirst(levels int) *OldestFirst {
	return &OldestFirst{levels: make([]level, levels)}
}

// Attach implements Policy.
func (p *OldestFirst) Attach(slot int) {
	for len(p.sessions) <= slot {
		p.sessions = append(p.sessions, nil)
	}
	q := &queues{heaps: make([]heap, len(p.levels))}
	p.sessions[slot] = q
	for i := range p.levels {
		if l := &p.levels[i]; cap(l.slots) < len(p.sessions) {
			l.slots = append(make([]int, 0, 2*len(p.sessions)), l.slots...)
		}
	}
}

// Detach implements Policy.
func (p *OldestFirst) Detach(slot int) {
	p.Drop(slot)
	p.sessions[slot] = nil
}

// Add implements Policy.
func (p *OldestFirst) Add(op *scoreboard.Op, lvl int) {
	slot := op.Session.Slot
	h := &p.sessions[slot].heaps[lvl]
	if len(*h) == 0 {
		l := &p.levels[lvl]
		l.slots = append(l.slots, slot)
	}
	h.push(op)
	p.n++
}

// Next implements Policy.
func (p *OldestFirst) Next() *scoreboard.Op {
	for i := range p.levels {
		l := &p.levels[i]
		if len(l.slots) == 0 {
			continue
		}
		if l.at >= len(l.slots) {
			l.at = 0
		}
		h := &p.sessions[l.slots[l.at]].heaps[i]
		op := h.pop()
		if len(*h) == 0 {
			l.remove(l.at)
		} else {
			l.at++
		}
		p.n--
		return op
	}
	return nil
}

// Drop implements Policy.
func (p *OldestFirst) Drop(slot int) {
	if slot >= len(p.sessions) || p.sessions[slot] == nil {
		return
	}
	for i := range p.levels {
		h := &p.sessions[slot].heaps[i]
		p.n -= len(*h)
		clear(*h)
		*h = (*h)[:0]
		l := &p.levels[i]
		for k, s := range l.slots {
			if s == slot {
				l.remove(k)
				break
			}
		}
	}
}

// Len implements Policy.
func (p *OldestFirst) Len() int { return p.n }

// remove takes entry k out and keeps the order of service.
func (l *level) remove(k int) {
	copy(l.slots[k:], l.slots[k+1:])
	l.slots = l.slots[:len(l.slots)-1]
	if l.at > k {
		l.at--
	}
}

func (h *heap) push(op *scoreboard.Op) {
	*h = append(*h, op)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].Arrival <= s[i].Arrival {
			break
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (h *heap) pop() *scoreboard.Op {
	s := *h
	top := s[0]
	n := len(s) - 1
	s[0] = s[n]
	s[n] = nil
	s = s[:n]
	*h = s
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && s[c+1].Arrival < s[c].Arrival {
			c++
		}
		if s[i].Arrival <= s[c].Arrival {
			break
		}
		s[i], s[c] = s[c], s[i]
		i = c
	}
	return top
}
