// Lookups without a lock beside adding, replacing and removing under one.
#include "code/table.h"

#include <pthread.h>

#include "check.h"

struct entry {
  const void *key;
  uint64_t proof; // of the key: a mixed-up slot would not have it
};
enum { KEYS = 3000 };
static struct entry entries[2][KEYS];
static struct heddle_table table;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int stop;

static const void *key(uint64_t i) { return (const void *)(uintptr_t)(0x7f0000000000u + i * 16); }
static bool odd(void *e, void *arg) {
  (void)arg;
  return ((uintptr_t)((struct entry *)e)->key >> 4) % 2;
}

static void *reader(void *arg) {
  (void)arg;
  for (uint64_t i = 0; !atomic_load(&stop); i++) {
    struct entry *e = heddle_table_find(&table, key(i % KEYS));
    if (e) CHECK(e->key == key(i % KEYS) && e->proof == i % KEYS * 3);
    CHECK(heddle_table_find(&table, key(0)) != NULL); // even, so never removed
    CHECK(heddle_table_find(&table, key(KEYS + 5)) == NULL);
  }
  return NULL;
}

int main(void) {
  pthread_t r[2];
  for (int g = 0; g < 2; g++)
    for (uint64_t i = 0; i < KEYS; i++) entries[g][i] = (struct entry){key(i), i * 3};
  CHECK(heddle_table_put(&table, &entries[0][0]));
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&r[i], NULL, reader, NULL) == 0);
  for (int round = 0; round < 6; round++)
    for (int i = 0; i < KEYS; i++) {
      pthread_mutex_lock(&lock);
      CHECK(heddle_table_put(&table, &entries[round % 2][i]));
      if (i % 500 == 499) heddle_table_remove(&table, odd, NULL);
      pthread_mutex_unlock(&lock);
    }
  atomic_store(&stop, 1);
  for (int i = 0; i < 2; i++) pthread_join(r[i], NULL);
  for (int i = 0; i < KEYS; i++) CHECK(!heddle_table_find(&table, key((uint64_t)i)) == (i % 2 == 1));
  return 0;
}
