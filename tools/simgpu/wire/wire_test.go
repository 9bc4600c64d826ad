package wire

import (
	"bytes"
	"errors"
	"testing"
)

// TestRoundTrip encodes and decodes requests and replies.
func TestRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		args []uint64
		blob []byte
	}{{nil, nil}, {[]uint64{1, 2, 1 << 63}, nil}, {nil, []byte("abc")}, {make([]uint64, 100), bytes.Repeat([]byte{7}, 1000)}} {
		var r Request
		if err := Decode(AppendRequest(nil, OpCopy, 99, tc.args, tc.blob), &r); err != nil {
			t.Fatal(err)
		}
		if r.Op != OpCopy || r.Tag != 99 || len(r.Args) != len(tc.args) || !bytes.Equal(r.Blob, tc.blob) {
			t.Errorf("decoded %+v", r)
		}
		status, tag, args, blob, err := DecodeReply(AppendReply(nil, 7, 3, tc.args, tc.blob))
		if err != nil || status != 3 || tag != 7 || len(args) != len(tc.args) || !bytes.Equal(blob, tc.blob) {
			t.Errorf("reply: %d %d %d %v", status, tag, len(args), err)
		}
	}
}

// TestMalformed checks that what is no request is refused.
func TestMalformed(t *testing.T) {
	good := AppendRequest(nil, OpNop, 1, []uint64{1, 2}, nil)
	for _, bad := range [][]byte{nil, good[:15], good[:20], AppendRequest(nil, 0, 1, nil, nil), AppendRequest(nil, opEnd, 1, nil, nil),
		{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if err := Decode(bad, new(Request)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// TestNames checks that every op has a name, which wire.h needs.
func TestNames(t *testing.T) {
	for op := Op(1); op < opEnd; op++ {
		if Names[op] == "" {
			t.Errorf("op %d has no name", op)
		}
	}
}

// FuzzDecode checks that any bytes decode to a request or an error.
func FuzzDecode(f *testing.F) {
	f.Add(AppendRequest(nil, OpLaunch, 1, []uint64{1, 2, 3}, []byte("x")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if err := Decode(b, &r); err == nil && HeaderSize+8*len(r.Args)+len(r.Blob) != len(b) {
			t.Errorf("%d bytes became %d arguments and %d bytes", len(b), len(r.Args), len(r.Blob))
		}
		DecodeReply(b)
	})
}
