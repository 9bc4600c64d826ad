#include "fatbin.h"

#include <string.h>

enum { WRAPPER_MAGIC = 0x466243b1, FATBIN_MAGIC = (int)0xba55ed50, ELF_MAGIC = 0x464c457f };
enum { FATBIN_HEADER = 16, ENTRY_HEADER = 32, KIND_PTX = 1 };

static uint16_t u16(const unsigned char *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static uint32_t u32(const unsigned char *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static uint64_t u64(const unsigned char *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

enum heddle_container heddle_container_of(const void *image) {
  const unsigned char *p = image;
  // Byte by byte: a text may be shorter than four bytes.
  for (int i = 0; i < 3; i++)
    if (!p[i]) return HEDDLE_CONTAINER_TEXT;
  uint32_t magic = u32(p);
  if (magic == (uint32_t)ELF_MAGIC) return HEDDLE_CONTAINER_CUBIN;
  if (magic == (uint32_t)FATBIN_MAGIC) return HEDDLE_CONTAINER_FATBIN;
  if (magic == (uint32_t)WRAPPER_MAGIC) return HEDDLE_CONTAINER_WRAPPER;
  return HEDDLE_CONTAINER_TEXT;
}

const void *heddle_wrapper_fatbin(const void *wrapper) {
  struct {
    uint32_t magic, version;
    const void *data, *more;
  } w;
  memcpy(&w, wrapper, sizeof w);
  if (w.magic != (uint32_t)WRAPPER_MAGIC || (w.version != 1 && w.version != 2) || !w.data) return NULL;
  return heddle_container_of(w.data) == HEDDLE_CONTAINER_FATBIN ? w.data : NULL;
}

// base + count * each, or 0 when that is beyond the limit.
static uint64_t end_of(uint64_t base, uint64_t count, uint64_t each, uint64_t limit) {
  uint64_t bytes, end;
  if (__builtin_mul_overflow(count, each, &bytes) || __builtin_add_overflow(base, bytes, &end) || end > limit) return 0;
  return end;
}

static size_t elf_bytes(const unsigned char *p, size_t limit) {
  enum { HEADER = 64, SECTION = 64, PROGRAM = 56, NOBITS = 8, CLASS64 = 2 };
  if (limit < HEADER || u32(p) != (uint32_t)ELF_MAGIC || p[4] != CLASS64) return 0;
  uint64_t phoff = u64(p + 32), shoff = u64(p + 40), end = HEADER;
  unsigned phsize = u16(p + 54), phnum = u16(p + 56), shsize = u16(p + 58), shnum = u16(p + 60);
  if (phnum) {
    uint64_t e = phsize >= PROGRAM ? end_of(phoff, phnum, phsize, limit) : 0;
    if (!e) return 0;
    if (e > end) end = e;
    for (unsigned i = 0; i < phnum; i++) {
      const unsigned char *h = p + phoff + (uint64_t)i * phsize;
      if (!(e = end_of(u64(h + 8), 1, u64(h + 32), limit))) {
        if (u64(h + 32)) return 0;
        continue;
      }
      if (e > end) end = e;
    }
  }
  if (shnum) {
    uint64_t e = shsize >= SECTION ? end_of(shoff, shnum, shsize, limit) : 0;
    if (!e) return 0;
    if (e > end) end = e;
    for (unsigned i = 0; i < shnum; i++) {
      const unsigned char *h = p + shoff + (uint64_t)i * shsize;
      if (u32(h + 4) == NOBITS || !u64(h + 32)) continue;
      if (!(e = end_of(u64(h + 24), 1, u64(h + 32), limit))) return 0;
      if (e > end) end = e;
    }
  }
  return shnum || phnum ? (size_t)end : 0;
}

static size_t fatbin_bytes(const unsigned char *p, size_t limit) {
  if (limit < FATBIN_HEADER || u32(p) != (uint32_t)FATBIN_MAGIC) return 0;
  return (size_t)end_of(u16(p + 6), 1, u64(p + 8), limit);
}

size_t heddle_container_bytes(enum heddle_container kind, const void *p, size_t limit) {
  switch (kind) {
    case HEDDLE_CONTAINER_TEXT: {
      size_t n = strnlen(p, limit);
      return n < limit ? n + 1 : 0;
    }
    case HEDDLE_CONTAINER_CUBIN: return elf_bytes(p, limit);
    case HEDDLE_CONTAINER_FATBIN: return fatbin_bytes(p, limit);
    default: return 0;
  }
}

static int usable(const unsigned char *entry, unsigned major, unsigned minor) {
  unsigned sm = u32(entry + 28);
  if (u16(entry) == KIND_PTX) return sm <= major * 10 + minor;
  return sm / 10 == major && sm % 10 <= minor;
}

size_t heddle_fatbin_reduce(const void *fatbin, size_t bytes, unsigned major, unsigned minor, void *out) {
  const unsigned char *p = fatbin;
  size_t whole = fatbin_bytes(p, bytes), header = whole ? u16(p + 6) : 0;
  if (!whole || header < FATBIN_HEADER || header > whole) return 0;
  size_t at = header, kept = 0;
  while (at < whole) {
    if (whole - at < ENTRY_HEADER) return 0;
    uint64_t head = u32(p + at + 4), payload = u64(p + at + 8);
    if (head < ENTRY_HEADER || head > whole - at || payload > whole - at - head) return 0;
    size_t n = (size_t)(head + payload);
    if (usable(p + at, major, minor)) {
      if (out) memcpy((unsigned char *)out + header + kept, p + at, n);
      kept += n;
    }
    at += n;
  }
  if (!kept) return 0;
  if (out) {
    uint64_t size = kept;
    memcpy(out, p, header);
    memcpy((unsigned char *)out + 8, &size, sizeof size);
  }
  return header + kept;
}
