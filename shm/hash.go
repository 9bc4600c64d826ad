package shm

import (
	"encoding/binary"
	"math/bits"
)

// Constants of XXH64, from its public specification.
const (
	prime1 = 0x9E3779B185EBCA87
	prime2 = 0xC2B2AE3D27D4EB4F
	prime3 = 0x165667B19E3779F9
	prime4 = 0x85EBCA77C2B2AE63
	prime5 = 0x27D4EB2F165667C5
)

// Hash64 is XXH64 of data with a seed, equal to heddle_hash64 in C. An image is named by it with seeds 0 and 1.
func Hash64(data []byte, seed uint64) uint64 {
	n := uint64(len(data))
	h := seed + prime5
	if len(data) >= 32 {
		// Variables, because the constant sums overflow.
		p1, p2 := uint64(prime1), uint64(prime2)
		a, b, c, d := seed+p1+p2, seed+p2, seed, seed-p1
		for len(data) >= 32 {
			a = hashRound(a, binary.LittleEndian.Uint64(data))
			b = hashRound(b, binary.LittleEndian.Uint64(data[8:]))
			c = hashRound(c, binary.LittleEndian.Uint64(data[16:]))
			d = hashRound(d, binary.LittleEndian.Uint64(data[24:]))
			data = data[32:]
		}
		h = bits.RotateLeft64(a, 1) + bits.RotateLeft64(b, 7) + bits.RotateLeft64(c, 12) + bits.RotateLeft64(d, 18)
		for _, lane := range [...]uint64{a, b, c, d} {
			h = (h^hashRound(0, lane))*prime1 + prime4
		}
	}
	h += n
	for ; len(data) >= 8; data = data[8:] {
		h = bits.RotateLeft64(h^hashRound(0, binary.LittleEndian.Uint64(data)), 27)*prime1 + prime4
	}
	if len(data) >= 4 {
		h = bits.RotateLeft64(h^uint64(binary.LittleEndian.Uint32(data))*prime1, 23)*prime2 + prime3
		data = data[4:]
	}
	for _, b := range data {
		h = bits.RotateLeft64(h^uint64(b)*prime5, 11) * prime1
	}
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return h ^ h>>32
}

func hashRound(acc, lane uint64) uint64 { return bits.RotateLeft64(acc+lane*prime2, 31) * prime1 }
