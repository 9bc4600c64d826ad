// A hash table from handles to structs that begin with their handle. Reading takes no lock (every launch looks its function up);
// writers take turns under the user's lock.
#ifndef HEDDLE_TABLE_H
#define HEDDLE_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heddle_slots {
  size_t mask;
  _Atomic(void *) at[];
};
struct heddle_table {
  _Atomic(struct heddle_slots *) slots;
  size_t used; // occupied slots, removed ones included; guarded by the user's lock
};

// A slot whose struct was removed: searches go on behind it.
extern char heddle_table_removed;

static inline size_t heddle_table_start(const void *key) {
  uint64_t h = (uint64_t)(uintptr_t)key;
  h ^= h >> 32; // handles are heap addresses: the low four bits say nothing
  return (size_t)((h >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20);
}

// The struct of a handle, or NULL. Lock-free; the struct may be removed at any moment but is never freed.
static inline void *heddle_table_find(const struct heddle_table *t, const void *key) {
  struct heddle_slots *s = atomic_load_explicit(&t->slots, memory_order_acquire);
  if (!s) return NULL;
  for (size_t i = heddle_table_start(key);; i++) {
    void *entry = atomic_load_explicit(&s->at[i & s->mask], memory_order_acquire);
    if (!entry) return NULL;
    if (entry != &heddle_table_removed && *(const void **)entry == key) return entry;
  }
}

// Adds or replaces. False: no host memory. The lock is held.
bool heddle_table_put(struct heddle_table *t, void *entry);
// Removes the entries for which gone(entry, arg) says so. The lock is held.
void heddle_table_remove(struct heddle_table *t, bool (*gone)(void *entry, void *arg), void *arg);

#endif
