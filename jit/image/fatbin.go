package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const (
	fatbinMagic  = 0xba55ed50
	wrapperMagic = 0x466243b1
	headerBytes  = 16
	entryBytes   = 64 // the smallest entry header

	kindPTX   = 1
	kindCubin = 2

	flagLZ4   = 0x2000
	flagZstd  = 0x8000
	flagExact = 0x100000
)

func isFatbin(b []byte) bool { return len(b) >= 4 && binary.LittleEndian.Uint32(b) == fatbinMagic }

// fatbin reads a container, and further ones that follow it: u32 magic, u16 version, u16 header bytes, u64 bytes of entries.
func fatbin(b []byte) ([]Part, error) {
	var parts []Part
	le := binary.LittleEndian
	for at := 0; len(b)-at >= headerBytes && le.Uint32(b[at:]) == fatbinMagic; {
		h := b[at:]
		head, size := int(le.Uint16(h[6:])), le.Uint64(h[8:])
		if v := le.Uint16(h[4:]); v != 1 {
			return nil, malformed("fatbin version %d; expected 1", v)
		}
		if head < headerBytes || head > len(h) || size > uint64(len(h)-head) {
			return nil, malformed("fatbin at %d: header of %d and entries of %d bytes exceed the image", at, head, size)
		}
		entries := h[head : head+int(size)]
		for len(entries) > 0 {
			p, rest, err := fatbinEntry(entries)
			if err != nil {
				return nil, err
			}
			if p.Kind != 0 {
				if len(parts) == maxEntries {
					return nil, malformed("more than %d fatbin entries", maxEntries)
				}
				parts = append(parts, p)
			}
			entries = rest
		}
		at += head + int(size)
		for at%8 != 0 && at < len(b) {
			at++ // containers are aligned to 8
		}
	}
	if len(parts) == 0 {
		return nil, malformed("fatbin without code")
	}
	return parts, nil
}

// fatbinEntry reads one entry: u16 kind, u32 header bytes at 4, u64 padded payload bytes at 8, u32 payload bytes when compressed
// at 16, u32 architecture at 28, u32 name offset and length at 32, u64 flags at 40, u64 size when decompressed at 56.
func fatbinEntry(b []byte) (p Part, rest []byte, err error) {
	le := binary.LittleEndian
	if len(b) < entryBytes {
		return p, nil, malformed("fatbin entry of %d bytes; its header has at least %d", len(b), entryBytes)
	}
	head, padded := uint64(le.Uint32(b[4:])), le.Uint64(b[8:])
	if head < entryBytes || head > uint64(len(b)) || padded > uint64(len(b))-head {
		return p, nil, malformed("fatbin entry: header of %d and payload of %d bytes exceed its container", head, padded)
	}
	payload, rest := b[head:head+padded], b[head+padded:]
	flags := le.Uint64(b[40:])
	p = Part{SM: int(le.Uint32(b[28:]) & 0xffff), Exact: flags&flagExact != 0, size: padded}
	switch le.Uint16(b) {
	case kindPTX:
		p.Kind = PTX
	case kindCubin:
		p.Kind = Cubin
	default:
		return Part{}, rest, nil // LTO intermediate code and the like: nothing that a device runs
	}
	if off, n := uint64(le.Uint32(b[32:])), uint64(le.Uint32(b[36:])); n > 0 && off+n <= head {
		p.Name = string(b[off : off+n])
	}
	if flags&(flagLZ4|flagZstd) != 0 {
		n := uint64(le.Uint32(b[16:]))
		p.size = le.Uint64(b[56:])
		if n > padded || p.size > MaxBytes {
			return Part{}, nil, malformed("fatbin entry: %d compressed of %d bytes, %d when decompressed (at most %d)", n, padded, p.size, MaxBytes)
		}
		payload = payload[:n]
		p.compressed = lz4Block
		if flags&flagZstd != 0 {
			p.compressed = zstdFrame
		}
	}
	p.data = payload
	return p, rest, nil
}

// Bytes is the part's code, decompressed. It never returns more than the size that the container names.
func (p *Part) Bytes() ([]byte, error) {
	switch p.compressed {
	case lz4Block:
		if p.size > 256*uint64(len(p.data))+64 {
			return nil, malformed("LZ4 of %d bytes cannot give %d", len(p.data), p.size)
		}
		out := make([]byte, p.size)
		n, err := lz4.UncompressBlock(p.data, out)
		if err != nil || uint64(n) != p.size {
			return nil, malformed("LZ4 of %d bytes gives %d of %d: %v", len(p.data), n, p.size, err)
		}
		return out, nil
	case zstdFrame:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(max(p.size, 1<<20)))
		if err != nil {
			return nil, fmt.Errorf("image: zstd: %w", err)
		}
		defer d.Close()
		out, err := d.DecodeAll(p.data, make([]byte, 0, min(p.size, 64<<20, 64*uint64(len(p.data)))))
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, malformed("zstd of %d bytes: %v", len(p.data), err)
		}
		if uint64(len(out)) != p.size {
			return nil, malformed("zstd of %d bytes gives %d; the container says %d", len(p.data), len(out), p.size)
		}
		return out, nil
	}
	return p.data, nil
}
