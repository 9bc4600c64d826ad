// Any bytes: a length lies within the limit, reading stays inside (the sanitizer says so), and what is reduced can be read again.
#include "code/fatbin.h"

#include <string.h>

#include "check.h"

static void mutate(unsigned char *p, size_t n) {
  for (uint64_t i = random_u64() % 4 + 1; i-- > 0;) {
    size_t at = random_u64() % n;
    switch (random_u64() % 4) {
      case 0: p[at] = (unsigned char)random_u64(); break;
      case 1: memset(p + at, 0xff, n - at < 8 ? n - at : 8); break;
      case 2: memset(p + at, 0, n - at < 8 ? n - at : 8); break;
      default: p[at] ^= (unsigned char)(1u << random_u64() % 8);
    }
  }
}

int main(int argc, char **argv) {
  random_seed(argc, argv);
  for (int step = 0; step < 60000; step++) {
    size_t n = random_u64() % 400 + 64;
    unsigned char *p = calloc(1, n), *out = malloc(n); // exact sizes, so that the sanitizer sees one byte too far
    CHECK(p && out);
    if (step % 2) {
      uint64_t size = n - 16;
      memcpy(p, "\x50\xed\x55\xba\x01\x00\x10\x00", 8);
      memcpy(p + 8, &size, 8);
      for (size_t at = 16; at + 64 <= n;) {
        uint32_t header = 64, sm = 70 + (uint32_t)(random_u64() % 60);
        uint64_t payload = random_u64() % 64;
        if (at + 64 + payload + 64 > n) payload = n - at - 64;
        p[at] = random_u64() % 2 ? 1 : 2;
        memcpy(p + at + 4, &header, 4);
        memcpy(p + at + 8, &payload, 8);
        memcpy(p + at + 28, &sm, 4);
        at += 64 + payload;
      }
    } else {
      uint64_t sections = 64 + random_u64() % n;
      memcpy(p, "\x7f""ELF\x02", 5);
      memcpy(p + 40, &sections, 8);
      p[58] = 64;
      p[60] = (unsigned char)(random_u64() % 4);
      p[54] = 56;
      p[56] = (unsigned char)(random_u64() % 3);
    }
    if (random_u64() % 8) mutate(p, n);
    enum heddle_container kind = heddle_container_of(p);
    if (kind != HEDDLE_CONTAINER_WRAPPER) CHECK(heddle_container_bytes(kind, p, n) <= n);
    for (unsigned major = 7; major <= 12; major++) {
      size_t kept = heddle_fatbin_reduce(p, n, major, major % 3, NULL);
      CHECK(kept <= n);
      if (!kept) continue;
      CHECK(heddle_fatbin_reduce(p, n, major, major % 3, out) == kept);
      CHECK(heddle_container_bytes(HEDDLE_CONTAINER_FATBIN, out, kept) == kept && heddle_fatbin_reduce(out, kept, major, major % 3, NULL) == kept);
    }
    free(p);
    free(out);
  }
  return 0;
}
