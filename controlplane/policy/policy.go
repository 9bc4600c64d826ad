// Package policy is what admins write: TOML files that name classes (latency objectives, priorities, shares) and say which
// clients belong to them.
//
//	files ─► Load ─► Policy ─► Select(client facts) ─► class, and why
//	                   └─► Diff(old, new), Show with the origin of every value
//
// Load reports every mistake at once, with file, line, column and the nearest valid name, and never returns half a policy: a
// reload validates, then compares, then applies, or keeps what was there. Nothing here writes an admin's file.
//
// keys.go is the schema: one table from which parsing, `heddle policy show`, and docs/policy.md follow.
// Source: design.md section 7.
package policy

import (
	"time"
)

// SchemaVersion is the only value of schema_version that is understood.
const SchemaVersion = 1

// DefaultClass is the class of clients that no [[match]] selects, unless the files define another (daemon.default_class). It
// exists without being written.
const DefaultClass = "default"

// Bounds of what Load accepts.
const (
	MaxFileBytes = 1 << 20
	MaxFiles     = 256
	MaxClasses   = 1024
	MaxMatches   = 10000
)

// Policy is a valid set of classes and rules. It is never changed after Load: a reload makes another.
type Policy struct {
	Daemon  Daemon
	Classes map[string]*Class // never empty: the default class is always there
	Matches []Match           // in the order in which they are tried
	Files   []string          // what was read, in reading order
}

// Daemon holds what concerns the daemon as a whole.
type Daemon struct {
	Share         string        // "same-uid" or "any": who may share an executor, and so an address space
	DefaultClass  string        // of clients that no rule selects
	MaxKernelTime time.Duration // a stream that completes nothing for so long ends its executor; 0: never
	Coalesce      bool          // false: no op is ever joined with another
	origins
}

// Class is a named policy. Every client belongs to one.
type Class struct {
	Name          string
	LatencyP99    time.Duration // objective per request; 0: none
	Priority      int64         // larger goes first
	MaxQueueDelay time.Duration // how long an op may wait for partners
	MaxWait       time.Duration // how long an op of this class may wait for less urgent work to leave the chip; 0: no bound
	Coalesce      bool
	Numerics      string  // "bitwise"
	MinShare      float64 // of GPU time while the class has work, 0 to 1
	Partition     float64 // of the SMs, that its kernels may use while a class of larger priority is active; 0: all
	MaxQueueSize  int64   // ops that a client may have waiting before its launches block; 0: what its ring holds
	TimeoutAction string  // "keep" or "delay": what becomes of the urgency of a request that has missed its objective
	// Straggler is "evict", "own-context" or "tolerate": what becomes of clients whose ops take StragglerFactor times as long as they should.
	Straggler       string
	StragglerFactor float64
	AllowUID        []int64
	AllowCgroup     []string
	origins
}

// Match is one rule: its keys are ANDed; an empty key is not asked. The first rule that matches decides.
type Match struct {
	Class  string
	UID    *int64
	GID    *int64
	Exe    string
	Cgroup string
	Label  string
	Pos    Pos
	origins
}

// Pos is a place in a file. Line and Column count from 1.
type Pos struct {
	File         string
	Line, Column int
}

// origins remembers where each key of a section was set.
type origins struct{ set map[string]Pos }

func (o *origins) note(key string, at Pos) {
	if o.set == nil {
		o.set = map[string]Pos{}
	}
	o.set[key] = at
}

// Origin says where a key was set; ok is false for a default.
func (o *origins) Origin(key string) (at Pos, ok bool) {
	at, ok = o.set[key]
	return at, ok
}

// Default is the policy without any file.
func Default() *Policy {
	p := &Policy{Classes: map[string]*Class{}}
	for _, k := range DaemonKeys {
		k.reset(&p.Daemon)
	}
	p.class(DefaultClass)
	return p
}

// class finds or makes a class with every key at its default.
func (p *Policy) class(name string) *Class {
	if c := p.Classes[name]; c != nil {
		return c
	}
	c := &Class{Name: name}
	for _, k := range ClassKeys {
		k.reset(c)
	}
	p.Classes[name] = c
	return c
}
