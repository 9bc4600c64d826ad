// Package cache keeps compiled code on disk, found by content: the key is a hash over everything that the code depends on, so an
// entry is never out of date, and whoever needs another compiler's code asks by another key. Estimates that improve (what an executor
// learned) are kept in the same way in a folder of their own; there the last writer of a key wins.
//
// An entry is believed only when it is a plain file of our own that nobody else can write, and its checksum over everything fits.
// Whatever else lies in the folder is passed over, and removed when it is ours. Several processes may use one folder at once:
// entries appear by rename, whole or not at all, and one that another process removes is a miss.
package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Bounds of an entry.
const (
	MaxMeta    = 1 << 20
	MaxPayload = 64 << 20
	// MaxEntry is the size of the largest entry's file.
	MaxEntry = headBytes + MaxMeta + MaxPayload + sha256.Size
)

// Key names an entry.
type Key [sha256.Size]byte

// KeyOf hashes fields with their lengths, so that bytes never move from one field to the next.
func KeyOf(fields ...[]byte) Key {
	h := sha256.New()
	var n [8]byte
	for _, f := range fields {
		binary.LittleEndian.PutUint64(n[:], uint64(len(f)))
		h.Write(n[:])
		h.Write(f)
	}
	return Key(h.Sum(nil))
}

// String is the key in hexadecimal digits, which is also the entry's file name without its ending.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// An entry is: magic, key, u32 length of the metadata, u32 length of the payload (little-endian), metadata, payload, SHA-256 of
// all bytes before it.
var magic = []byte("HEDDLE.FORM.001\n")

const headBytes = 16 + sha256.Size + 8

// ErrEntry is wrapped by every error of Decode.
var ErrEntry = errors.New("cache entry not valid")

// Encode makes an entry's bytes.
func Encode(k Key, meta, payload []byte) ([]byte, error) {
	if len(meta) > MaxMeta || len(payload) > MaxPayload {
		return nil, fmt.Errorf("cache: an entry of %d + %d bytes; at most %d + %d are kept", len(meta), len(payload), MaxMeta, MaxPayload)
	}
	b := make([]byte, 0, headBytes+len(meta)+len(payload)+sha256.Size)
	b = append(b, magic...)
	b = append(b, k[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(meta)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, meta...)
	b = append(b, payload...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// Decode checks an entry and gives what is in it, as parts of b. Any bytes are safe.
func Decode(k Key, b []byte) (meta, payload []byte, err error) {
	bad := func(format string, args ...any) ([]byte, []byte, error) {
		return nil, nil, fmt.Errorf("%w: %s", ErrEntry, fmt.Sprintf(format, args...))
	}
	if len(b) < headBytes+sha256.Size || len(b) > MaxEntry {
		return bad("%d bytes; expected %d to %d", len(b), headBytes+sha256.Size, MaxEntry)
	}
	if !bytes.HasPrefix(b, magic) {
		return bad("it begins with %q; expected %q", b[:len(magic)], magic)
	}
	if got := Key(b[len(magic):]); got != k {
		return bad("it holds key %v; expected %v", got, k)
	}
	m, p := uint64(binary.LittleEndian.Uint32(b[headBytes-8:])), uint64(binary.LittleEndian.Uint32(b[headBytes-4:]))
	if m > MaxMeta || p > MaxPayload || headBytes+m+p+sha256.Size != uint64(len(b)) {
		return bad("lengths %d and %d in a file of %d bytes", m, p, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return bad("its checksum does not fit")
	}
	return body[headBytes : headBytes+m : headBytes+m], body[headBytes+m:], nil
}
