// Readers beside writers: what a reader finds is a range that was there as a whole, and one that nobody touches is always found.
#include "memory/ranges.h"

#include "check.h"

static struct heddle_ranges table = HEDDLE_RANGES_INIT;
static _Atomic int stop;

static void *writer(void *arg) {
  uint64_t lane = (uint64_t)(uintptr_t)arg;
  for (uint64_t i = 0; i < 8000; i++) {
    uint64_t slot = (i * 7 + lane) % 97 * 2 + 1, base = slot * 4096;
    if (i % 3 != 2) CHECK(heddle_ranges_add(&table, base, 512 + slot, base * 31 + 512 + slot));
    else heddle_ranges_drop(&table, base, NULL);
  }
  return NULL;
}

static void *reader(void *arg) {
  (void)arg;
  for (uint64_t i = 0; !atomic_load(&stop); i++) {
    struct heddle_range r;
    CHECK(heddle_ranges_find(&table, 100 * 4096 + i % 4096, &r) && r.base == 100 * 4096 && r.bytes == 4096 && r.value == 7);
    uint64_t at = (i % 97 * 2 + 1) * 4096 + i % 600;
    if (heddle_ranges_find(&table, at, &r)) CHECK(at - r.base < r.bytes && r.value == r.base * 31 + r.bytes);
  }
  return NULL;
}

int main(void) {
  pthread_t w[2], r[2];
  CHECK(heddle_ranges_add(&table, 100 * 4096, 4096, 7));
  for (uintptr_t i = 0; i < 2; i++) CHECK(pthread_create(&r[i], NULL, reader, NULL) == 0);
  for (uintptr_t i = 0; i < 2; i++) CHECK(pthread_create(&w[i], NULL, writer, (void *)i) == 0);
  for (int i = 0; i < 2; i++) pthread_join(w[i], NULL);
  atomic_store(&stop, 1);
  for (int i = 0; i < 2; i++) pthread_join(r[i], NULL);
  return 0;
}
