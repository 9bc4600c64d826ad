//go:build !race

package interp_test

// minSpeed is what the project promises, in thread-instructions a second.
const minSpeed = 20e6
