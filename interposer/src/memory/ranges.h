// A sorted table of address ranges that is read far more often than it is written: writers take turns under a lock, readers take
// none and retry when a writer was at work (a sequence lock). Each range carries one number.
#ifndef HEDDLE_RANGES_H
#define HEDDLE_RANGES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heddle_range_entry {
  _Atomic uint64_t base, bytes, value;
};

struct heddle_ranges {
  pthread_mutex_t lock;
  _Atomic uint32_t version;   // odd while a writer is at work
  _Atomic uint32_t count;
  _Atomic uint64_t low, high; // every range lies within [low, high): lets a reader say no at once
  uint32_t capacity;          // guarded by lock
  // Grown arrays are kept, because a reader may still look at the old one: in sum at most as large as the last.
  _Atomic(struct heddle_range_entry *) entries;
};

#define HEDDLE_RANGES_INIT {.lock = PTHREAD_MUTEX_INITIALIZER}

struct heddle_range {
  uint64_t base, bytes, value;
};

// Records [base, base+bytes); replaces a range with the same base. False: no host memory, or nothing to record (bytes == 0).
bool heddle_ranges_add(struct heddle_ranges *r, uint64_t base, uint64_t bytes, uint64_t value);
// Forgets the range that starts at base; *was (may be NULL) receives it. False when there is none.
bool heddle_ranges_drop(struct heddle_ranges *r, uint64_t base, struct heddle_range *was);
// The range that holds the address. Lock-free.
bool heddle_ranges_find(struct heddle_ranges *r, uint64_t address, struct heddle_range *found);
// Quick no: false when no range can hold any address of [low, high).
static inline bool heddle_ranges_near(struct heddle_ranges *r, uint64_t low, uint64_t high) {
  return low < atomic_load_explicit(&r->high, memory_order_relaxed) && high > atomic_load_explicit(&r->low, memory_order_relaxed);
}
static inline bool heddle_ranges_empty(struct heddle_ranges *r) {
  return atomic_load_explicit(&r->count, memory_order_relaxed) == 0;
}

#endif
