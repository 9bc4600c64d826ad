// The containers in which the driver takes code, looked at from outside: how long one is, and the part of a fat binary that
// one device can use. Pure functions over bytes; every offset is bounded. Format: the fat binary as fatbinary(1) of CUDA 12.4 and
// 13.0 writes it, and the ELF-64 object file format, figure "ELF header" and "section header".
#ifndef HEDDLE_FATBIN_H
#define HEDDLE_FATBIN_H

#include <stddef.h>
#include <stdint.h>

enum heddle_container {
  HEDDLE_CONTAINER_TEXT,    // PTX: a zero-terminated text
  HEDDLE_CONTAINER_CUBIN,   // ELF
  HEDDLE_CONTAINER_FATBIN,  // entries for several architectures
  HEDDLE_CONTAINER_WRAPPER, // a struct that points at a fat binary (what nvcc puts into .nvFatBinSegment)
};

// What the image is, by its first four bytes.
enum heddle_container heddle_container_of(const void *image);
// The fat binary that a wrapper points at; NULL when it is not a wrapper of a known version.
const void *heddle_wrapper_fatbin(const void *wrapper);
// Length of an image of the given kind (not WRAPPER) that starts at p, of which at most `limit` bytes may be read. Text counts
// its terminating zero. 0: malformed, or it does not end within the limit.
size_t heddle_container_bytes(enum heddle_container kind, const void *p, size_t limit);
// Writes a fat binary with only the entries that a device of compute capability major.minor can use: machine code of the same
// major and no later minor, PTX of no later architecture. out == NULL only measures. Returns its bytes, at most `bytes`; 0 when the
// container is malformed or no entry serves.
size_t heddle_fatbin_reduce(const void *fatbin, size_t bytes, unsigned major, unsigned minor, void *out);

#endif
