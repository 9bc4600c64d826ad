// Random allocation and freeing against a map of units: no overlap, right alignment, right size, nothing lost, coalescing, and an
// allocation fails only when no hole can hold it.
#include "memory/heap.h"

#include <string.h>

#include "check.h"

enum { UNIT = 512, SPANS = 4, UNITS = 512, LIVE = 4096 };

static unsigned char taken[SPANS][UNITS];
static const uint64_t base_of[SPANS] = {1u << 20, 1u << 24, (1u << 24) + UNITS * UNIT, UINT64_C(1) << 45};

static struct {
  struct heddle_block *b;
  uint64_t address, bytes;
} live[LIVE];
static int count;

static void mark(uint64_t address, uint64_t bytes, unsigned char with) {
  for (uint64_t at = address; at < address + bytes; at += UNIT) {
    int found = 0;
    for (int s = 0; s < SPANS; s++) {
      if (at - base_of[s] >= (uint64_t)UNITS * UNIT) continue;
      unsigned char *u = &taken[s][(at - base_of[s]) / UNIT];
      CHECK(*u != with);
      *u = with;
      found = 1;
    }
    CHECK(found);
  }
}

// The model's answer: is there a hole of `bytes` at `align`?
static int hole(uint64_t bytes, uint64_t align) {
  uint64_t need = (bytes + UNIT - 1) / UNIT;
  for (int s = 0; s < SPANS; s++)
    for (uint64_t i = 0; i + need <= UNITS; i++) {
      if ((base_of[s] + i * UNIT) & (align - 1)) continue;
      uint64_t n = 0;
      while (n < need && !taken[s][i + n]) n++;
      if (n == need) return 1;
    }
  return 0;
}

int main(int argc, char **argv) {
  random_seed(argc, argv);
  struct heddle_heap h;
  heddle_heap_init(&h, UNIT);
  struct heddle_span *spans[SPANS];
  for (int s = 0; s < SPANS; s++) CHECK((spans[s] = heddle_heap_add(&h, base_of[s], (uint64_t)UNITS * UNIT, NULL)));
  CHECK(!heddle_heap_alloc(&h, 0, UNIT) && !heddle_heap_alloc(&h, UINT64_MAX, UNIT) && !heddle_heap_alloc(&h, UINT64_MAX / 2, UNIT));
  for (int step = 0; step < 20000; step++) {
    uint64_t dice = random_u64();
    if (dice % 100 < 52 && count < LIVE) {
      uint64_t bytes = random_u64() % (random_u64() % 8 ? 4 * UNIT : 64 * UNIT) + 1, align = (uint64_t)UNIT << (random_u64() % 6 ? 0 : random_u64() % 5);
      struct heddle_block *b;
      if (dice >> 20 & 1) {
        b = heddle_heap_alloc(&h, bytes, align);
        // Good fit looks at 64 blocks of a bin, so only a hole of twice the size and alignment is certain to be found.
        if (!b) CHECK(!hole(2 * bytes + 2 * align, align));
        if (b) CHECK(b->address % align == 0);
      } else {
        int s = (int)(random_u64() % SPANS);
        uint64_t at = base_of[s] + random_u64() % UNITS * UNIT, n = (bytes + UNIT - 1) / UNIT;
        int is_free = (at - base_of[s]) / UNIT + n <= UNITS;
        for (uint64_t i = 0; is_free && i < n; i++) is_free = !taken[s][(at - base_of[s]) / UNIT + i];
        b = heddle_heap_alloc_at(&h, at, n * UNIT);
        CHECK(!b == !is_free);
        if (b) CHECK(b->address == at && b->bytes == n * UNIT);
      }
      if (b) {
        CHECK(b->bytes >= bytes && b->bytes < bytes + UNIT && !b->free && !b->requested && !b->context);
        b->requested = bytes;
        mark(b->address, b->bytes, 1);
        live[count].b = b;
        live[count].address = b->address;
        live[count++].bytes = b->bytes;
      }
    } else if (count) {
      int i = (int)(random_u64() % (uint64_t)count);
      uint64_t inside = live[i].address + random_u64() % live[i].bytes;
      CHECK(heddle_heap_find(&h, inside) == live[i].b && live[i].b->address == live[i].address);
      mark(live[i].address, live[i].bytes, 0);
      heddle_heap_free(&h, live[i].b);
      CHECK(heddle_heap_find(&h, inside)->free);
      live[i] = live[--count];
    }
    if (step % 500 == 0) CHECK(heddle_heap_sound(&h));
  }
  while (count) heddle_heap_free(&h, live[--count].b);
  CHECK(heddle_heap_sound(&h) && h.used == 0);
  for (int s = 0; s < SPANS; s++) CHECK(!spans[s]->used && spans[s]->first->bytes == (uint64_t)UNITS * UNIT); // wholly coalesced
  CHECK(!heddle_heap_find(&h, base_of[3] - 1) && !heddle_heap_find(&h, 0));
  heddle_heap_remove(&h, spans[1]);
  CHECK(!heddle_heap_find(&h, base_of[1]) && heddle_heap_find(&h, base_of[2]) && heddle_heap_sound(&h));
  CHECK(heddle_heap_alloc(&h, (uint64_t)UNITS * UNIT, UNIT) != NULL);
  heddle_heap_clear(&h);
  CHECK(h.total == 0 && !h.spans);
  return 0;
}
