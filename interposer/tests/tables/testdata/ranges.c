// Random adding, replacing and dropping against a plain array.
#include "memory/ranges.h"

#include "check.h"

enum { PLACES = 700 };

int main(int argc, char **argv) {
  random_seed(argc, argv);
  struct heddle_ranges r = HEDDLE_RANGES_INIT;
  struct { uint64_t bytes, value; } model[PLACES] = {{0, 0}}; // place i begins at 1000 * (i + 1) and is at most 1000 long
  struct heddle_range range;
  CHECK(!heddle_ranges_find(&r, 5, &range) && !heddle_ranges_drop(&r, 5, NULL));
  CHECK(!heddle_ranges_add(&r, 5, 0, 1) && !heddle_ranges_add(&r, UINT64_MAX, 2, 1));
  for (int step = 0; step < 30000; step++) {
    uint64_t i = random_u64() % PLACES, base = 1000 * (i + 1), at = base + random_u64() % 1000;
    if (random_u64() % 3 == 0) {
      model[i].bytes = random_u64() % 1000 + 1;
      model[i].value = random_u64();
      CHECK(heddle_ranges_add(&r, base, model[i].bytes, model[i].value));
    } else if (random_u64() % 3 == 0) {
      CHECK(heddle_ranges_drop(&r, base, &range) == (model[i].bytes != 0));
      if (model[i].bytes) CHECK(range.base == base && range.bytes == model[i].bytes && range.value == model[i].value);
      model[i].bytes = 0;
    }
    bool inside = at - base < model[i].bytes;
    CHECK(heddle_ranges_find(&r, at, &range) == inside);
    if (inside) CHECK(range.base == base && range.bytes == model[i].bytes && range.value == model[i].value && heddle_ranges_near(&r, at, at + 1));
  }
  for (uint64_t i = 0; i < PLACES; i++) heddle_ranges_drop(&r, 1000 * (i + 1), NULL);
  CHECK(heddle_ranges_empty(&r) && !heddle_ranges_near(&r, 0, UINT64_MAX));
  // Grown arrays are kept for readers by design, so the last one is all that can be freed here.
  return 0;
}

const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }
