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
	// Level is the urgency of the op that Next would take; more than any level when there is none.
	Level() int
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

// level is a queue of the sessions that have ops at it: the first is served, and goes to the end when it has more.
type level struct {
	ring []int // a circle with room for every session
	at   int
	n    int
}

func (l *level) push(slot int) {
	l.ring[(l.at+l.n)%len(l.ring)] = slot
	l.n++
}

func (l *level) pop() int {
	slot := l.ring[l.at]
	l.at = (l.at + 1) % len(l.ring)
	l.n--
	return slot
}

// remove takes a session out, wherever it is, and keeps the order of the others.
func (l *level) remove(slot int) {
	for range l.n {
		if s := l.pop(); s != slot {
			l.push(s)
		}
	}
}

// grow makes room for n sessions.
func (l *level) grow(n int) {
	if len(l.ring) >= n {
		return
	}
	ring := make([]int, 2*n)
	kept := l.n
	for i := range kept {
		ring[i] = l.pop()
	}
	l.ring, l.at, l.n = ring, 0, kept
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
		p.levels[i].grow(len(p.sessions))
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
		p.levels[lvl].push(slot)
	}
	h.push(op)
	p.n++
}

// Next implements Policy.
func (p *OldestFirst) Next() *scoreboard.Op {
	for i := range p.levels {
		l := &p.levels[i]
		if l.n == 0 {
			continue
		}
		slot := l.pop()
		h := &p.sessions[slot].heaps[i]
		op := h.pop()
		if len(*h) > 0 {
			l.push(slot)
		}
		p.n--
		return op
	}
	return nil
}

// Level implements Policy.
func (p *OldestFirst) Level() int {
	for i := range p.levels {
		if p.levels[i].n > 0 {
			return i
		}
	}
	return len(p.levels)
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
		p.levels[i].remove(slot)
	}
}

// Len implements Policy.
func (p *OldestFirst) Len() int { return p.n }

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
