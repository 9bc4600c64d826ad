package coalesce

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestPut checks every field's place against the description of Layout, that neighbours stay untouched, and that nothing is
// allocated.
func TestPut(t *testing.T) {
	for _, m := range []Mapping{ByZ, ByTable} {
		tail := TailBytes
		if m == ByZ {
			tail = TailBytesByZ
		}
		l := Layout{Mapping: m, Capacity: 3, Stride: 16 + tail + 16, Tail: 16, Globals: 16 + tail, BodyBytes: []int{12, 16},
			GlobalNames: [][]string{nil, {"a", "b"}}}
		l.ParamBytes = l.Capacity * l.Stride
		dst := bytes.Repeat([]byte{0xee}, l.ParamBytes)
		params := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
		put := func() {
			l.Put(dst, 1, 1, params, 0x1111, 0x2222, 33, 44, [3]uint32{5, 6, 7}, 88, []uint64{0x9999, 0xaaaa})
		}
		if n := testing.AllocsPerRun(10, put); n != 0 {
			t.Errorf("%v: Put allocates %v times", m, n)
		}
		u32 := binary.LittleEndian.AppendUint32
		want := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(bytes.Clone(params), 0x1111), 0x2222)
		want = u32(u32(want, 33), 44)
		if m == ByTable {
			for _, v := range []uint32{5, 6, 7, 1, 88} {
				want = u32(want, v)
			}
			want = u32(want, 0xeeeeeeee)
		}
		want = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(want, 0x9999), 0xaaaa)
		other := bytes.Repeat([]byte{0xee}, l.Stride)
		if got := dst[:l.Stride]; !bytes.Equal(got, other) {
			t.Errorf("%v: instance 0 was touched: %x", m, got)
		}
		if got := dst[l.Stride : 2*l.Stride]; !bytes.Equal(got, want) {
			t.Errorf("%v: instance 1 is %x, want %x", m, got, want)
		}
		if got := dst[2*l.Stride:]; !bytes.Equal(got, other) {
			t.Errorf("%v: instance 2 was touched: %x", m, got)
		}
		l.Finish(dst, 2, 77)
		if m == ByTable {
			binary.LittleEndian.PutUint32(other[l.Tail+OffFirst:], 77)
		}
		if got := dst[2*l.Stride:]; !bytes.Equal(got, other) {
			t.Errorf("%v: after Finish instance 2 is %x, want %x", m, got, other)
		}
	}
}
