package shm

// StoreRelease32 stores v where another process reads it: everything before it in program order is visible to whoever sees v. It is
// no fence: a later load may be done before it. An atomic store of Go is one (XCHG), and waits until the line has come from the
// core that read it last, some 100 ns; this one does not wait. (On amd64 every store is a release.)
//
//go:noescape
func StoreRelease32(p *uint32, v uint32)

// StoreRelease64 is StoreRelease32 of 64 bits.
//
//go:noescape
func StoreRelease64(p *uint64, v uint64)
