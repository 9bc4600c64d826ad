//go:build race

package interp_test

// minSpeed under the race detector, which slows every memory access.
const minSpeed = 1e6
