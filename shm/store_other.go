//go:build !amd64

package shm

import "sync/atomic"

// StoreRelease32 stores v where another process reads it: everything before it in program order is visible to whoever sees v.
func StoreRelease32(p *uint32, v uint32) { atomic.StoreUint32(p, v) }

// StoreRelease64 is StoreRelease32 of 64 bits.
func StoreRelease64(p *uint64, v uint64) { atomic.StoreUint64(p, v) }
