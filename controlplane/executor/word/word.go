// Package word builds words: a word is one launch that the executor issues, and holds one or more slots, each one op's place.
//
// Today's builder puts one op into a word and today's only path is the stream launch. Coalesced launches and prepared graphs add
// a Path, raise MaxSlots, and replace the builder; scoreboard, policy and issue threads handle any number of slots already.
package word

import "github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"

// MaxSlots is how many ops a word can hold.
const MaxSlots = 1

// Path is how a word reaches the GPU.
type Path uint8

// Paths, cheapest to build first.
const (
	// Stream issues each slot by its own driver call on the word's stream.
	Stream Path = iota
)

// Word is one launch. It is a value: it travels through the issue queue without allocation.
type Word struct {
	Path  Path
	Count uint8
	Slots [MaxSlots]*scoreboard.Op
}

// Builder makes words. It belongs to the poller's thread.
type Builder interface {
	// Build makes the word around the op that the policy chose; it may take further ops from the policy.
	Build(first *scoreboard.Op) Word
}

// Single builds words of one op.
type Single struct{}

// Build implements Builder.
func (Single) Build(first *scoreboard.Op) Word {
	return Word{Path: Stream, Count: 1, Slots: [MaxSlots]*scoreboard.Op{first}}
}
