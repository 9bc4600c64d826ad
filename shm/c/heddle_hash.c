#include "heddle_hash.h"

#include <string.h>

static const uint64_t P1 = UINT64_C(0x9E3779B185EBCA87), P2 = UINT64_C(0xC2B2AE3D27D4EB4F), P3 = UINT64_C(0x165667B19E3779F9),
                      P4 = UINT64_C(0x85EBCA77C2B2AE63), P5 = UINT64_C(0x27D4EB2F165667C5);

static inline uint64_t rotl(uint64_t v, int n) { return v << n | v >> (64 - n); }
static inline uint64_t lane_round(uint64_t acc, uint64_t lane) { return rotl(acc + lane * P2, 31) * P1; }
static inline uint64_t merge(uint64_t acc, uint64_t lane) { return (acc ^ lane_round(0, lane)) * P1 + P4; }

// Little-endian loads from any address; the hash is defined over little-endian lanes, as is the whole wire.
static inline uint64_t load64(const unsigned char *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline uint32_t load32(const unsigned char *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

uint64_t heddle_hash64(const void *data, size_t n, uint64_t seed) {
  const unsigned char *p = data;
  size_t left = n;
  uint64_t h;
  if (left >= 32) {
    uint64_t a = seed + P1 + P2, b = seed + P2, c = seed, d = seed - P1;
    for (; left >= 32; left -= 32, p += 32) {
      a = lane_round(a, load64(p));
      b = lane_round(b, load64(p + 8));
      c = lane_round(c, load64(p + 16));
      d = lane_round(d, load64(p + 24));
    }
    h = rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18);
    h = merge(merge(merge(merge(h, a), b), c), d);
  } else {
    h = seed + P5;
  }
  h += n;
  for (; left >= 8; left -= 8, p += 8)
    h = rotl(h ^ lane_round(0, load64(p)), 27) * P1 + P4;
  if (left >= 4) {
    h = rotl(h ^ (uint64_t)load32(p) * P1, 23) * P2 + P3;
    left -= 4;
    p += 4;
  }
  for (; left > 0; left--, p++)
    h = rotl(h ^ *p * P5, 11) * P1;
  h = (h ^ h >> 33) * P2;
  h = (h ^ h >> 29) * P3;
  return h ^ h >> 32;
}
