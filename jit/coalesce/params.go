package coalesce

import "encoding/binary"

// Put writes instance i of a launch's parameter block. It allocates nothing and touches only the instance's own bytes.
//
// dst is the block, ParamBytes long. params is the parameter block of kernel body, BodyBytes[body] long (of a longer one only as
// much as instances hold is taken). threads is blocks × threads of a block, of this instance. grid and first count only with
// ByTable, globals are the addresses of GlobalNames[body]. Everything else is as Layout describes it. An i outside
// 0…Capacity-1 or a dst that is too short panics.
func (l *Layout) Put(dst []byte, i int, body int, params []byte, done, counter uint64, value, threads uint32, grid [3]uint32,
	first uint32, globals []uint64) {
	b := dst[i*l.Stride:][:l.Stride:l.Stride]
	copy(b[:l.Tail], params)
	if l.Mapping == ByTable {
		t := b[l.Tail:][:TailBytes]
		binary.LittleEndian.PutUint32(t[OffGrid:], grid[0])
		binary.LittleEndian.PutUint32(t[OffGrid+4:], grid[1])
		binary.LittleEndian.PutUint32(t[OffGrid+8:], grid[2])
		binary.LittleEndian.PutUint32(t[OffBody:], uint32(body))
		binary.LittleEndian.PutUint32(t[OffFirst:], first)
	}
	t := b[l.Tail:][:TailBytesByZ]
	binary.LittleEndian.PutUint64(t[OffDone:], done)
	binary.LittleEndian.PutUint64(t[OffCounter:], counter)
	binary.LittleEndian.PutUint32(t[OffValue:], value)
	binary.LittleEndian.PutUint32(t[OffThreads:], threads)
	for k, a := range globals {
		binary.LittleEndian.PutUint64(b[l.Globals+8*k:], a)
	}
}

// Finish completes a parameter block of which instances 0…n-1 have been Put: with ByTable, the instances that are not launched
// get total, the sum of all blocks, as their first block. With ByZ there is nothing to do.
func (l *Layout) Finish(dst []byte, n int, total uint32) {
	if l.Mapping != ByTable {
		return
	}
	for at := n*l.Stride + l.Tail + OffFirst; n < l.Capacity; n++ {
		binary.LittleEndian.PutUint32(dst[at:], total)
		at += l.Stride
	}
}

// PutSlice writes the parameter block of a launch that does only the blocks from, …, from+blocks-1 of one instance of body 0, in the
// order x, y, z of its grid: it is ByTable's first instance, whose first block lies from blocks before the launch's own first one,
// modulo 2³². The launch's grid is (blocks, 1, 1). It stores no done word: slices that follow one another in a stream end in their
// order, so what follows the last one tells of all. from+blocks is at most the grid's blocks, which must be fewer than 2³².
//
// Everything else is as Put describes it. It allocates nothing.
func (l *Layout) PutSlice(dst []byte, params []byte, grid [3]uint32, from, blocks uint32, globals []uint64) {
	l.Put(dst, 0, 0, params, 0, 0, 0, 0, grid, -from, globals)
	l.Finish(dst, 1, blocks)
}
