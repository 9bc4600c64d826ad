#include "table.h"

#include <stdlib.h>

char heddle_table_removed;

static void put(struct heddle_slots *s, void *entry, size_t *used) {
  const void *key = *(const void **)entry;
  _Atomic(void *) *removed = NULL;
  for (size_t i = heddle_table_start(key);; i++) {
    _Atomic(void *) *slot = &s->at[i & s->mask];
    void *old = atomic_load_explicit(slot, memory_order_relaxed);
    if (old == &heddle_table_removed) {
      if (!removed) removed = slot;
      continue;
    }
    if (old && *(const void **)old != key) continue;
    if (!old && removed) slot = removed; // the key is nowhere: the first removed slot of its search serves
    else if (!old) ++*used;
    atomic_store_explicit(slot, entry, memory_order_release);
    return;
  }
}

// A larger array, or one of the same size without the removed slots. The old one stays, because a reader may be in it. Removed
// slots are used again, so this is rare.
static bool rebuild(struct heddle_table *t) {
  struct heddle_slots *old = atomic_load_explicit(&t->slots, memory_order_relaxed);
  size_t live = 0, n = 64;
  for (size_t i = 0; old && i <= old->mask; i++) {
    void *entry = atomic_load_explicit(&old->at[i], memory_order_relaxed);
    live += entry && entry != &heddle_table_removed;
  }
  while (n < 4 * live) n *= 2;
  struct heddle_slots *s = calloc(1, sizeof *s + n * sizeof s->at[0]);
  if (!s) return false;
  s->mask = n - 1;
  t->used = 0;
  for (size_t i = 0; old && i <= old->mask; i++) {
    void *entry = atomic_load_explicit(&old->at[i], memory_order_relaxed);
    if (entry && entry != &heddle_table_removed) put(s, entry, &t->used);
  }
  atomic_store_explicit(&t->slots, s, memory_order_release);
  return true;
}

bool heddle_table_put(struct heddle_table *t, void *entry) {
  struct heddle_slots *s = atomic_load_explicit(&t->slots, memory_order_relaxed);
  // At most three quarters full, removed slots included, so that every search ends at an empty one.
  if ((!s || t->used + 1 > (s->mask + 1) / 4 * 3) && !rebuild(t)) return false;
  put(atomic_load_explicit(&t->slots, memory_order_relaxed), entry, &t->used);
  return true;
}

void heddle_table_remove(struct heddle_table *t, bool (*gone)(void *entry, void *arg), void *arg) {
  struct heddle_slots *s = atomic_load_explicit(&t->slots, memory_order_relaxed);
  for (size_t i = 0; s && i <= s->mask; i++) {
    void *entry = atomic_load_explicit(&s->at[i], memory_order_relaxed);
    if (entry && entry != &heddle_table_removed && gone(entry, arg))
      atomic_store_explicit(&s->at[i], &heddle_table_removed, memory_order_release);
  }
  // A removed slot is only needed while an entry behind it, without an empty slot between, is searched for from before it.
  // The others become empty again, so that loading and unloading for ever does not fill the table. Backwards, twice around: the
  // first time finds an empty slot to start from.
  size_t needed = 0; // the entries behind are searched for from here on
  for (size_t i = s ? 2 * (s->mask + 1) : 0; i-- > 0;) {
    _Atomic(void *) *slot = &s->at[i & s->mask];
    void *entry = atomic_load_explicit(slot, memory_order_relaxed);
    if (entry == &heddle_table_removed && i < needed) {
      atomic_store_explicit(slot, NULL, memory_order_release);
      t->used--;
      entry = NULL;
    }
    if (!entry) {
      needed = SIZE_MAX;
    } else if (entry != &heddle_table_removed) {
      size_t back = (i - heddle_table_start(*(const void **)entry)) & s->mask; // steps that a search for it takes
      size_t from = back <= i ? i - back : 0;
      if (from < needed) needed = from;
    }
  }
}
