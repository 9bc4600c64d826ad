//go:build amd64 || arm64

package issue

// pause tells the core n times (at least once) that this is a spin loop, so that its sibling thread gets the execution units.
//
//go:noescape
func pause(n uint32)

// Pause is for the executor's other spin loops. n is at least 1; one pause is 20 to 140 cycles.
func Pause(n uint32) { pause(n) }
