// Package parts tests those parts of interposer/src that need no driver: the heap of addresses, the range and handle tables, and the
// reading of code containers. Each program in testdata is one property, compiled with sanitizers and run with several seeds.
package parts
