// Package ptx reads and writes PTX, NVIDIA's virtual instruction set (ISA 9.0 and before),
// as nvcc, Triton and people write it.
//
// [Parse] gives a [Module]: declarations, functions and statements in source
// order, each with its position. Opcodes and modifiers stay strings, operands
// are structured. What an opcode means is not this package's business:
// jit/interp executes, jit/coalesce rewrites.
//
// [Print] writes a module back: ptxas makes the same machine code of what it
// writes as of the source. testdata/isa holds every statement and operand form,
// by chapter of the ISA; a new form belongs there first.
//
// Any bytes are safe to parse: the result is a module or an [ErrorList], never
// a panic, and time and memory are linear in the size of the source, which is
// capped at [MaxSource] bytes and [MaxNodes] nodes (below 1 GiB of memory at worst).
package ptx

import (
	"fmt"
	"strings"
)

// Limits on what Parse accepts. They bound time, stack and memory for hostile
// input; real modules stay far below them.
const (
	MaxSource  = 32 << 20 // bytes of source text
	MaxNodes   = 4 << 20  // statements, declarations, operands and initial values together
	MaxNesting = 64       // nested blocks, initialiser braces or expression levels
	MaxErrors  = 20       // errors reported before Parse gives up
)

// Pos is a position in the source: line and column, both from 1, the column in bytes.
type Pos struct{ Line, Col int }

// String gives "line:col".
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Col) }

// Error is one thing wrong with a PTX source.
type Error struct {
	Line, Col int    // from 1; column in bytes
	Msg       string // what was found and what was expected
}

// Error gives "ptx:line:col: message".
func (e *Error) Error() string { return fmt.Sprintf("ptx:%d:%d: %s", e.Line, e.Col, e.Msg) }

// Errorf makes an Error at p.
func Errorf(p Pos, format string, args ...any) *Error {
	return &Error{Line: p.Line, Col: p.Col, Msg: fmt.Sprintf(format, args...)}
}

// ErrorList is every error found in one source, in source order, never empty
// when returned. errors.As finds the first *Error in it.
type ErrorList []*Error

// Error joins the errors, one a line.
func (l ErrorList) Error() string {
	var b strings.Builder
	for i, e := range l {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap makes errors.As and errors.Is look at each error.
func (l ErrorList) Unwrap() []error {
	out := make([]error, len(l))
	for i, e := range l {
		out[i] = e
	}
	return out
}
