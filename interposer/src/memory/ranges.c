#include "ranges.h"

#include <stdlib.h>

#define RELAXED memory_order_relaxed

static uint64_t load(_Atomic uint64_t *p) { return atomic_load_explicit(p, RELAXED); }
static void store(_Atomic uint64_t *p, uint64_t v) { atomic_store_explicit(p, v, RELAXED); }

// The writer's brackets. Every word between them is a relaxed atomic, so a reader in the middle sees old or new words, never torn
// ones, and the version tells it that they may not belong together.
static void write_begin(struct heddle_ranges *r) {
  uint32_t v = atomic_load_explicit(&r->version, RELAXED);
  atomic_store_explicit(&r->version, v + 1, RELAXED);
  atomic_thread_fence(memory_order_release);
}
static void write_end(struct heddle_ranges *r) {
  uint32_t v = atomic_load_explicit(&r->version, RELAXED);
  atomic_store_explicit(&r->version, v + 1, memory_order_release);
}

// Index of the first entry whose base is above the address.
static uint32_t upper(struct heddle_range_entry *e, uint32_t n, uint64_t address) {
  uint32_t low = 0, high = n;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (load(&e[middle].base) <= address) low = middle + 1;
    else high = middle;
  }
  return low;
}

static void copy_entry(struct heddle_range_entry *to, struct heddle_range_entry *from) {
  store(&to->base, load(&from->base));
  store(&to->bytes, load(&from->bytes));
  store(&to->value, load(&from->value));
}

static bool grow(struct heddle_ranges *r, uint32_t n) {
  uint32_t capacity = r->capacity ? 2 * r->capacity : 32;
  struct heddle_range_entry *old = atomic_load_explicit(&r->entries, RELAXED), *e = calloc(capacity, sizeof *e);
  if (!e) return false;
  for (uint32_t i = 0; i < n; i++) copy_entry(&e[i], &old[i]);
  r->capacity = capacity;
  atomic_store_explicit(&r->entries, e, memory_order_release);
  return true;
}

static void bounds(struct heddle_ranges *r, struct heddle_range_entry *e, uint32_t n) {
  uint64_t high = 0; // ranges may overlap, so the last need not end last
  for (uint32_t i = 0; i < n; i++) {
    uint64_t end = load(&e[i].base) + load(&e[i].bytes);
    if (end > high) high = end;
  }
  store(&r->low, n ? load(&e[0].base) : 0);
  store(&r->high, high);
}

bool heddle_ranges_add(struct heddle_ranges *r, uint64_t base, uint64_t bytes, uint64_t value) {
  if (!bytes || bytes > UINT64_MAX - base) return false;
  pthread_mutex_lock(&r->lock);
  uint32_t n = atomic_load_explicit(&r->count, RELAXED);
  if (n == r->capacity && !grow(r, n)) {
    pthread_mutex_unlock(&r->lock);
    return false;
  }
  struct heddle_range_entry *e = atomic_load_explicit(&r->entries, RELAXED);
  uint32_t at = upper(e, n, base);
  write_begin(r);
  if (at && load(&e[at - 1].base) == base) {
    at--;
  } else {
    for (uint32_t i = n; i > at; i--) copy_entry(&e[i], &e[i - 1]);
    atomic_store_explicit(&r->count, ++n, RELAXED);
  }
  store(&e[at].base, base);
  store(&e[at].bytes, bytes);
  store(&e[at].value, value);
  bounds(r, e, n);
  write_end(r);
  pthread_mutex_unlock(&r->lock);
  return true;
}

bool heddle_ranges_drop(struct heddle_ranges *r, uint64_t base, struct heddle_range *was) {
  if (heddle_ranges_empty(r)) return false;
  pthread_mutex_lock(&r->lock);
  uint32_t n = atomic_load_explicit(&r->count, RELAXED);
  struct heddle_range_entry *e = atomic_load_explicit(&r->entries, RELAXED);
  uint32_t at = upper(e, n, base);
  bool found = at && load(&e[at - 1].base) == base;
  if (found) {
    at--;
    if (was) *was = (struct heddle_range){base, load(&e[at].bytes), load(&e[at].value)};
    write_begin(r);
    for (uint32_t i = at; i + 1 < n; i++) copy_entry(&e[i], &e[i + 1]);
    atomic_store_explicit(&r->count, n - 1, RELAXED);
    bounds(r, e, n - 1);
    write_end(r);
  }
  pthread_mutex_unlock(&r->lock);
  return found;
}

bool heddle_ranges_find(struct heddle_ranges *r, uint64_t address, struct heddle_range *found) {
  for (;;) {
    uint32_t before = atomic_load_explicit(&r->version, memory_order_acquire);
    if (before & 1) continue; // a writer is between its brackets: a few dozen stores
    uint32_t n = atomic_load_explicit(&r->count, RELAXED);
    struct heddle_range hit = {0};
    bool ok = false;
    // Torn reads are discarded below, but reading must stay inside the array: a count that is newer than `before` would have
    // made this version check fail, and an array is never older than a count of the same version.
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&r->version, RELAXED) != before) continue;
    struct heddle_range_entry *e = atomic_load_explicit(&r->entries, memory_order_acquire);
    if (e) {
      uint32_t at = upper(e, n, address);
      if (at) {
        hit = (struct heddle_range){load(&e[at - 1].base), load(&e[at - 1].bytes), load(&e[at - 1].value)};
        ok = address - hit.base < hit.bytes;
      }
    }
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&r->version, RELAXED) != before) continue;
    if (ok) *found = hit;
    return ok;
  }
}
