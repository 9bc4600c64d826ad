// Package shm is the wire between a client, the daemon and an executor: sealed shared files with a ring and lane words, a
// doorbell that wakes an idle executor, and a socket that carries messages and file descriptors. The C half is in shm/c; both
// are generated from, or written against, shm/layout/layout.toml. docs/protocol.md is the contract, README.md explains the ring.
//
// The adversary is the other side: a client may write any byte of a session file at any time. Everything read from a file or
// a socket is copied once, bounded, and never looked at again.
package shm

//go:generate go run ../tools/layoutgen -root ..

// Offset is where a member of a wire struct lies, or with an empty Field how large the struct is.
type Offset struct {
	Struct, Field string
	Bytes         uintptr
}

// Offsets lists every wire struct and member as this build sees them; `go run ./tools/layoutgen/check` compares with C.
func Offsets() []Offset { return layoutTable }

// Reached reports whether the cyclic 32-bit number a is at or after b.
func Reached(a, b uint32) bool { return int32(a-b) >= 0 }

// TypeName names a message type (with or without ReplyBit) for errors and logs.
func TypeName(typ uint16) string {
	name, ok := typeNames[typ&^ReplyBit]
	if !ok {
		return "unknown"
	}
	if typ&ReplyBit != 0 {
		return name + " reply"
	}
	return name
}
