// XXH64, written from the public specification (xxhash_spec.md, "XXH64 algorithm description"). Images are named by this hash
// with seeds 0 and 1 (docs/protocol.md, IMAGE_QUERY).
#ifndef HEDDLE_HASH_H
#define HEDDLE_HASH_H

#include <stddef.h>
#include <stdint.h>

// The hash of n bytes. data may be unaligned, and NULL when n is 0.
uint64_t heddle_hash64(const void *data, size_t n, uint64_t seed);

#endif
