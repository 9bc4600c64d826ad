// Package tables tests what of interposer/src needs no driver: the heap of addresses, the range and handle tables, whose a function's
// handle is, and the reading of code containers. Each program in testdata is one property, compiled with sanitizers and run with several
// seeds.
package tables
