// Access to words that another process may write at any moment. They are plain integers in shared structs (so that C and Go
// agree on the layout); every access to one goes through these helpers, which name the memory order.
#ifndef HEDDLE_ATOMIC_H
#define HEDDLE_ATOMIC_H

#include <stdatomic.h>
#include <stdint.h>

_Static_assert(sizeof(_Atomic uint32_t) == 4 && sizeof(_Atomic uint64_t) == 8, "atomic words have the size of plain ones");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "shared words need lock-free atomics");

static inline uint32_t heddle_load_relaxed32(const uint32_t *p) {
  return atomic_load_explicit((const _Atomic uint32_t *)p, memory_order_relaxed);
}
static inline uint64_t heddle_load_relaxed64(const uint64_t *p) {
  return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_relaxed);
}
static inline uint32_t heddle_load_acquire32(const uint32_t *p) {
  return atomic_load_explicit((const _Atomic uint32_t *)p, memory_order_acquire);
}
static inline uint64_t heddle_load_acquire64(const uint64_t *p) {
  return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_acquire);
}
static inline void heddle_store_relaxed32(uint32_t *p, uint32_t v) {
  atomic_store_explicit((_Atomic uint32_t *)p, v, memory_order_relaxed);
}
static inline void heddle_store_relaxed64(uint64_t *p, uint64_t v) {
  atomic_store_explicit((_Atomic uint64_t *)p, v, memory_order_relaxed);
}
static inline void heddle_store_release32(uint32_t *p, uint32_t v) {
  atomic_store_explicit((_Atomic uint32_t *)p, v, memory_order_release);
}
static inline void heddle_store_release64(uint64_t *p, uint64_t v) {
  atomic_store_explicit((_Atomic uint64_t *)p, v, memory_order_release);
}
// Adds v and returns the value before; sequentially consistent.
static inline uint32_t heddle_add32(uint32_t *p, uint32_t v) {
  return atomic_fetch_add_explicit((_Atomic uint32_t *)p, v, memory_order_seq_cst);
}
// Orders a store before it with a load behind it, in every thread and process: what the sleep and wake protocols rest on.
static inline void heddle_fence(void) { atomic_thread_fence(memory_order_seq_cst); }
// Tells the CPU that this is a spin loop.
static inline void heddle_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}
// Cyclic comparison of lane numbers: a is at or after b.
static inline int heddle_reached(uint32_t a, uint32_t b) { return (int32_t)(a - b) >= 0; }

#endif
