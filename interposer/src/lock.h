// A small mutex. The mutex is a few ns when nobody else wants it, spins a moment when somebody does (holders
// publish one record, ~100 ns) and then sleeps in the kernel. Not recursive. Zero is unlocked, so static memory needs no init.
#ifndef HEDDLE_LOCK_H
#define HEDDLE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "heddle_ring.h"

struct heddle_mutex {
  _Atomic uint32_t state; // 0 free, 1 held, 2 held and somebody sleeps
};

static inline bool heddle_mutex_try(struct heddle_mutex *m) {
  uint32_t free = 0;
  return atomic_compare_exchange_strong_explicit(&m->state, &free, 1, memory_order_acquire, memory_order_relaxed);
}

static inline void heddle_mutex_lock(struct heddle_mutex *m) {
  if (__builtin_expect(heddle_mutex_try(m), 1)) return;
  for (int i = 0; i < 200; i++) {
    heddle_relax();
    if (atomic_load_explicit(&m->state, memory_order_relaxed) == 0 && heddle_mutex_try(m)) return;
  }
  while (atomic_exchange_explicit(&m->state, 2, memory_order_acquire) != 0) (void)heddle_futex_wait((uint32_t *)&m->state, 2, -1);
}

static inline void heddle_mutex_unlock(struct heddle_mutex *m) {
  if (atomic_exchange_explicit(&m->state, 0, memory_order_release) == 2) (void)heddle_futex_wake((uint32_t *)&m->state, 1);
}

// The number after n; 0 is never used, because words use it for "nobody" and "nothing".
static inline uint32_t heddle_next_number(uint32_t n) { return n + 1 == 0 ? 1 : n + 1; }

static inline uint64_t heddle_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
