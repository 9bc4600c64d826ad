// Containers built here: their lengths, and what is left of a fat binary for each device.
#include "code/fatbin.h"

#include <string.h>

#include "check.h"

static unsigned char fat[8192];
static size_t fat_bytes;

static void put(unsigned char *at, uint64_t v, int n) { memcpy(at, &v, (size_t)n); }

static void begin(void) {
  memset(fat, 0, sizeof fat);
  put(fat, 0xba55ed50, 4);
  put(fat + 4, 1, 2);
  put(fat + 6, 16, 2);
  fat_bytes = 16;
}
static void entry(int kind, unsigned sm, size_t header, size_t payload, unsigned char mark) {
  unsigned char *e = fat + fat_bytes;
  put(e, (uint64_t)kind, 2);
  put(e + 2, 0x0101, 2);
  put(e + 4, header, 4);
  put(e + 8, payload, 8);
  put(e + 28, sm, 4);
  memset(e + header, mark, payload);
  fat_bytes += header + payload;
  put(fat + 8, fat_bytes - 16, 8);
}

// The marks of the entries that are left for a device.
static const char *left(unsigned major, unsigned minor) {
  static char marks[64];
  static unsigned char out[sizeof fat];
  size_t n = heddle_fatbin_reduce(fat, fat_bytes, major, minor, NULL), k = 0;
  memset(out, 0xee, sizeof out);
  CHECK(heddle_fatbin_reduce(fat, fat_bytes, major, minor, out) == n && n <= fat_bytes);
  marks[0] = 0;
  if (!n) return marks;
  CHECK(out[n] == 0xee && heddle_container_of(out) == HEDDLE_CONTAINER_FATBIN);
  CHECK(heddle_container_bytes(HEDDLE_CONTAINER_FATBIN, out, n) == n);
  for (size_t at = 16; at < n;) {
    uint32_t header;
    uint64_t payload;
    memcpy(&header, out + at + 4, 4);
    memcpy(&payload, out + at + 8, 8);
    marks[k++] = (char)out[at + header];
    at += header + payload;
  }
  marks[k] = 0;
  // Reducing what is reduced changes nothing.
  CHECK(heddle_fatbin_reduce(out, n, major, minor, NULL) == n);
  return marks;
}

int main(void) {
  begin();
  entry(2, 75, 64, 128, 'a');
  entry(2, 80, 64, 64, 'b');
  entry(2, 86, 72, 200, 'c');
  entry(2, 90, 64, 512, 'd');
  entry(1, 80, 88, 96, 'e');
  entry(1, 90, 64, 8, 'f');
  entry(2, 100, 64, 64, 'g');
  entry(1, 120, 64, 1000, 'h');
  CHECK(strcmp(left(9, 0), "def") == 0);
  CHECK(strcmp(left(8, 0), "be") == 0);
  CHECK(strcmp(left(8, 9), "bce") == 0);
  CHECK(strcmp(left(7, 5), "a") == 0);
  CHECK(strcmp(left(7, 0), "") == 0);
  CHECK(strcmp(left(10, 3), "efg") == 0);
  CHECK(strcmp(left(12, 1), "efh") == 0);
  for (size_t cut = 0; cut < fat_bytes; cut++) CHECK(heddle_fatbin_reduce(fat, cut, 9, 0, NULL) == 0);

  struct { uint32_t magic, version; const void *data, *more; } wrapper = {0x466243b1, 1, fat, NULL};
  CHECK(heddle_container_of(&wrapper) == HEDDLE_CONTAINER_WRAPPER && heddle_wrapper_fatbin(&wrapper) == fat);
  wrapper.version = 9;
  CHECK(!heddle_wrapper_fatbin(&wrapper));

  const char *ptx = "//\n.version 8.0\n";
  CHECK(heddle_container_of(ptx) == HEDDLE_CONTAINER_TEXT && heddle_container_bytes(HEDDLE_CONTAINER_TEXT, ptx, 1000) == strlen(ptx) + 1);
  CHECK(heddle_container_of("") == HEDDLE_CONTAINER_TEXT && heddle_container_bytes(HEDDLE_CONTAINER_TEXT, "abc", 3) == 0);

  unsigned char elf[640] = {0x7f, 'E', 'L', 'F', 2};
  put(elf + 40, 320, 8); // section headers
  put(elf + 58, 64, 2);
  put(elf + 60, 3, 2);
  put(elf + 320 + 64 + 24, 100, 8); // a section in the middle
  put(elf + 320 + 64 + 32, 50, 8);
  put(elf + 320 + 128 + 4, 8, 4); // NOBITS takes no room
  put(elf + 320 + 128 + 24, 100, 8);
  put(elf + 320 + 128 + 32, 1 << 30, 8);
  CHECK(heddle_container_of(elf) == HEDDLE_CONTAINER_CUBIN && heddle_container_bytes(HEDDLE_CONTAINER_CUBIN, elf, 640) == 320 + 192);
  put(elf + 320 + 64 + 32, 530, 8); // … and one that ends last
  CHECK(heddle_container_bytes(HEDDLE_CONTAINER_CUBIN, elf, 640) == 630 && heddle_container_bytes(HEDDLE_CONTAINER_CUBIN, elf, 629) == 0);
  return 0;
}
