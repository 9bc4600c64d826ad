// Freed memory is told by block while other threads allocate and free: a block that its owner holds is never called freed, and one
// that the owner freed, which nobody can get again, always is. With an argument it times the
// question about a block that was asked about before.
#include <time.h>

#include "check.h"
#include "memory/inner.h"

enum { BLOCKS = 64, THREADS = 3, ROUNDS = 20000 };
static const uint64_t base = UINT64_C(1) << 44;
static struct heddle_memory m;
static struct heddle_segment segment[4];

// What where.c asks others.
struct heddle_session *heddle_session_peek(CUdevice device) { (void)device; return NULL; }
struct heddle_session *heddle_session_current(void) { return NULL; }
struct heddle_memory *heddle_memory_of(struct heddle_session *s) { (void)s; return &m; }

static struct heddle_segment *add(int i, enum heddle_segment_kind kind) {
  struct heddle_segment *s = &segment[i];
  atomic_store(&s->base, base + (uint64_t)i * HEDDLE_GRANULE);
  atomic_store(&s->bytes, HEDDLE_GRANULE);
  atomic_store(&s->kind, kind);
  heddle_segment_publish(&heddle_regions[0], s);
  return s;
}

static uint64_t take(void) {
  pthread_mutex_lock(&m.lock);
  struct heddle_block *b = heddle_heap_alloc(&m.blocks, 4096, HEDDLE_UNIT);
  CHECK(b);
  uint64_t address = b->address;
  pthread_mutex_unlock(&m.lock);
  return address;
}
static void give(uint64_t address) {
  pthread_mutex_lock(&m.lock);
  heddle_blocks_change();
  heddle_heap_free(&m.blocks, heddle_heap_find(&m.blocks, address));
  pthread_mutex_unlock(&m.lock);
}

static void *churn(void *arg) {
  uint64_t mine[BLOCKS / THREADS], n = BLOCKS / THREADS, random = 7 + (uintptr_t)arg;
  for (uint64_t i = 0; i < n; i++) mine[i] = take();
  for (int round = 0; round < ROUNDS; round++) {
    random = random * UINT64_C(6364136223846793005) + 1;
    uint64_t i = (random >> 33) % n;
    CHECK(!heddle_memory_freed(mine[i], 4096) && !heddle_memory_freed(mine[i] + 4095, 1));
    give(mine[i]);
    mine[i] = take();
    CHECK(!heddle_memory_freed(mine[i] + 100, 64));
  }
  for (uint64_t i = 0; i < n; i++) give(mine[i]);
  return NULL;
}

int main(int argc, char **argv) {
  pthread_mutex_init(&m.lock, NULL);
  heddle_heap_init(&m.blocks, HEDDLE_UNIT);
  CHECK(heddle_region_add(&m, base, 8 * HEDDLE_GRANULE, false));
  struct heddle_segment *blocks = add(0, HEDDLE_SEGMENT_DEVICE);
  add(1, HEDDLE_SEGMENT_STREAM);
  add(2, HEDDLE_SEGMENT_CLIENT);
  struct heddle_segment *kept = add(3, HEDDLE_SEGMENT_DEVICE);
  blocks->span = heddle_heap_add(&m.blocks, base, HEDDLE_GRANULE, blocks);
  heddle_segment_unpublish(&heddle_regions[0], kept); // freed, and kept for the next allocation
  m.cached = kept;
  // A hole between neighbours, and ranges that begin or end in it.
  uint64_t a = take(), b = take(), c = take();
  CHECK(b == a + 4096 && c == b + 4096);
  CHECK(!heddle_memory_freed(b, 4096) && !heddle_memory_freed(a, 3 * 4096));
  give(b);
  CHECK(heddle_memory_freed(b, 1) && heddle_memory_freed(b + 4095, 1) && heddle_memory_freed(b, SIZE_MAX));
  CHECK(!heddle_memory_freed(a, 4096) && heddle_memory_freed(a, 4097) && heddle_memory_freed(c - 1, 2) && !heddle_memory_freed(c, 4096));
  CHECK(heddle_memory_freed(c, 8192)); // past the end of what is allocated
  CHECK(take() == b && !heddle_memory_freed(b, 4096));
  // Other kinds of memory, other places.
  CHECK(!heddle_memory_freed(base + HEDDLE_GRANULE, 4096) && !heddle_memory_freed(base + 2 * HEDDLE_GRANULE, HEDDLE_GRANULE));
  CHECK(heddle_memory_freed(base + 3 * HEDDLE_GRANULE, 16) && heddle_memory_freed(base + 4 * HEDDLE_GRANULE - 1, 1));
  CHECK(!heddle_memory_freed(base + 4 * HEDDLE_GRANULE, 16)); // nothing is mapped there: the driver says so itself
  CHECK(!heddle_memory_freed(0, 16) && !heddle_memory_freed(b, 0) && !heddle_memory_freed(base - 1, 1));
  if (argc > 1) {
    enum { ASKED = 2000000 };
    struct timespec from, to;
    uint64_t freed = 0;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < ASKED; i++) freed += heddle_memory_freed(b + (uint64_t)i % 64, 64);
    clock_gettime(CLOCK_MONOTONIC, &to);
    double ns = ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / ASKED;
    printf("%s: %.1f ns a question\n", argv[1], ns);
    CHECK(freed == 0);
    return 0;
  }
  pthread_t t[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&t[i], NULL, churn, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
  return 0;
}
