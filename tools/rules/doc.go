// Package rules holds the rules of this repository that a machine can keep:
// who may import whom, what lies where, how long a file may be. `go test
// ./tools/rules` checks them; CONTRIBUTING.md explains them.
package rules
