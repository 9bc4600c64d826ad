#include "heap.h"

#include <stdlib.h>
#include <string.h>

// ---- treap by address ----

static uint32_t heap_random(struct heddle_heap *h) {
  uint32_t x = h->random; // xorshift32: cheap, never 0
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return h->random = x;
}

static void tree_split(struct heddle_block *t, uint64_t address, struct heddle_block **low, struct heddle_block **high) {
  if (!t) {
    *low = *high = NULL;
  } else if (t->address < address) {
    tree_split(t->right, address, &t->right, high);
    *low = t;
  } else {
    tree_split(t->left, address, low, &t->left);
    *high = t;
  }
}

static struct heddle_block *tree_merge(struct heddle_block *low, struct heddle_block *high) {
  if (!low) return high;
  if (!high) return low;
  if (low->priority > high->priority) {
    low->right = tree_merge(low->right, high);
    return low;
  }
  high->left = tree_merge(low, high->left);
  return high;
}

static void tree_insert(struct heddle_heap *h, struct heddle_block *b) {
  struct heddle_block **at = &h->root;
  while (*at && (*at)->priority > b->priority) at = b->address < (*at)->address ? &(*at)->left : &(*at)->right;
  struct heddle_block *below = *at;
  tree_split(below, b->address, &b->left, &b->right);
  *at = b;
}

static void tree_remove(struct heddle_heap *h, struct heddle_block *b) {
  struct heddle_block **at = &h->root;
  while (*at != b) at = b->address < (*at)->address ? &(*at)->left : &(*at)->right;
  *at = tree_merge(b->left, b->right);
}

struct heddle_block *heddle_heap_find(struct heddle_heap *h, uint64_t address) {
  struct heddle_block *t = h->root, *floor = NULL;
  while (t) {
    if (t->address <= address) {
      floor = t;
      t = t->right;
    } else {
      t = t->left;
    }
  }
  return floor && address - floor->address < floor->bytes ? floor : NULL;
}

// ---- bins of free blocks ----

// The bin that holds free blocks of `bytes`: row = log2 of the units, column = the next three bits.
static void bin_of(const struct heddle_heap *h, uint64_t bytes, unsigned *row, unsigned *column) {
  uint64_t units = bytes / h->unit;
  unsigned log = 63u - (unsigned)__builtin_clzll(units);
  *row = log;
  *column = log >= 3 ? (unsigned)(units >> (log - 3)) & 7 : (unsigned)(units << (3 - log)) & 7;
}

static void bin_insert(struct heddle_heap *h, struct heddle_block *b) {
  unsigned r, c;
  bin_of(h, b->bytes, &r, &c);
  b->free = true;
  b->bin_before = NULL;
  b->bin_after = h->bins[r][c];
  if (b->bin_after) b->bin_after->bin_before = b;
  h->bins[r][c] = b;
  h->rows |= 1ull << r;
  h->columns[r] |= (uint8_t)(1u << c);
}

static void bin_remove(struct heddle_heap *h, struct heddle_block *b) {
  unsigned r, c;
  bin_of(h, b->bytes, &r, &c);
  if (b->bin_after) b->bin_after->bin_before = b->bin_before;
  if (b->bin_before) {
    b->bin_before->bin_after = b->bin_after;
  } else if (!(h->bins[r][c] = b->bin_after)) {
    h->columns[r] &= (uint8_t)~(1u << c);
    if (!h->columns[r]) h->rows &= ~(1ull << r);
  }
  b->free = false;
}

static bool block_fits(const struct heddle_block *b, uint64_t bytes, uint64_t align) {
  uint64_t gap = (0 - b->address) & (align - 1);
  return b->bytes >= bytes && gap <= b->bytes - bytes;
}

// A free block in which `bytes` at `align` fit. Bins above the size's own hold only larger blocks, so their first entry serves
// when no alignment beyond the unit is asked; the walk is bounded because a heap may hold many blocks of one size.
static struct heddle_block *bin_search(struct heddle_heap *h, uint64_t bytes, uint64_t align) {
  enum { WALK = 64 };
  unsigned r, c;
  bin_of(h, bytes, &r, &c);
  unsigned row = r, first = c;
  for (;;) {
    unsigned columns = h->columns[row] & (0xffu << first);
    for (; columns; columns &= columns - 1) {
      struct heddle_block *b = h->bins[row][__builtin_ctz(columns)];
      for (int i = 0; b && i < WALK; i++, b = b->bin_after)
        if (block_fits(b, bytes, align)) return b;
    }
    uint64_t above = row + 1 < 64 ? h->rows >> (row + 1) << (row + 1) : 0;
    if (!above) return NULL;
    row = (unsigned)__builtin_ctzll(above);
    first = 0;
  }
}

// ---- spans and blocks ----

static struct heddle_block *block_new(struct heddle_heap *h, struct heddle_span *s, uint64_t address, uint64_t bytes) {
  struct heddle_block *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  b->address = address;
  b->bytes = bytes;
  b->span = s;
  b->priority = heap_random(h);
  return b;
}

void heddle_heap_init(struct heddle_heap *h, uint64_t unit) {
  memset(h, 0, sizeof *h);
  h->unit = unit;
  h->random = 0x9e3779b9u;
}

struct heddle_span *heddle_heap_add(struct heddle_heap *h, uint64_t base, uint64_t bytes, void *owner) {
  struct heddle_span *s = calloc(1, sizeof *s);
  struct heddle_block *b = s ? block_new(h, s, base, bytes) : NULL;
  if (!b) {
    free(s);
    return NULL;
  }
  *s = (struct heddle_span){.base = base, .bytes = bytes, .first = b, .after = h->spans, .owner = owner};
  if (h->spans) h->spans->before = s;
  h->spans = s;
  h->total += bytes;
  tree_insert(h, b);
  bin_insert(h, b);
  return s;
}

void heddle_heap_remove(struct heddle_heap *h, struct heddle_span *s) {
  struct heddle_block *b = s->first;
  bin_remove(h, b);
  tree_remove(h, b);
  free(b);
  if (s->after) s->after->before = s->before;
  if (s->before) s->before->after = s->after;
  else h->spans = s->after;
  h->total -= s->bytes;
  free(s);
}

// Cuts b at `bytes`; the rest becomes a block behind it (state of its own left to the caller). NULL: out of host memory.
static struct heddle_block *block_split(struct heddle_heap *h, struct heddle_block *b, uint64_t bytes) {
  struct heddle_block *rest = block_new(h, b->span, b->address + bytes, b->bytes - bytes);
  if (!rest) return NULL;
  b->bytes = bytes;
  rest->before = b;
  rest->after = b->after;
  if (rest->after) rest->after->before = rest;
  b->after = rest;
  tree_insert(h, rest);
  return rest;
}

// Makes [address, +bytes) of the free block b an allocated block.
static struct heddle_block *block_take(struct heddle_heap *h, struct heddle_block *b, uint64_t address, uint64_t bytes) {
  bin_remove(h, b);
  if (address != b->address) {
    struct heddle_block *rest = block_split(h, b, address - b->address);
    bin_insert(h, b);
    if (!rest) return NULL;
    b = rest;
  }
  if (b->bytes != bytes) {
    struct heddle_block *rest = block_split(h, b, bytes);
    // Without host memory for the rest the block stays whole: more than was asked, never less.
    if (rest) bin_insert(h, rest);
  }
  b->requested = b->id = 0;
  b->context = b->pool = NULL;
  b->flags = 0;
  b->span->used += b->bytes;
  h->used += b->bytes;
  return b;
}

struct heddle_block *heddle_heap_alloc(struct heddle_heap *h, uint64_t bytes, uint64_t align) {
  if (!bytes || bytes > UINT64_MAX - h->unit) return NULL;
  bytes = (bytes + h->unit - 1) & ~(h->unit - 1);
  if (align < h->unit) align = h->unit;
  if (bytes / h->unit >> (HEDDLE_HEAP_ROWS - 1)) return NULL;
  struct heddle_block *b = bin_search(h, bytes, align);
  if (!b) return NULL;
  return block_take(h, b, (b->address + align - 1) & ~(align - 1), bytes);
}

struct heddle_block *heddle_heap_alloc_at(struct heddle_heap *h, uint64_t address, uint64_t bytes) {
  struct heddle_block *b = heddle_heap_find(h, address);
  if (!b || !b->free || !bytes || (address | bytes) & (h->unit - 1)) return NULL;
  if (b->bytes - (address - b->address) < bytes) return NULL;
  return block_take(h, b, address, bytes);
}

// Appends b's successor to b.
static void block_swallow(struct heddle_heap *h, struct heddle_block *b) {
  struct heddle_block *n = b->after;
  tree_remove(h, n);
  b->bytes += n->bytes;
  b->after = n->after;
  if (b->after) b->after->before = b;
  free(n);
}

struct heddle_span *heddle_heap_free(struct heddle_heap *h, struct heddle_block *b) {
  struct heddle_span *s = b->span;
  s->used -= b->bytes;
  h->used -= b->bytes;
  if (b->after && b->after->free) {
    bin_remove(h, b->after);
    block_swallow(h, b);
  }
  if (b->before && b->before->free) {
    b = b->before;
    bin_remove(h, b);
    block_swallow(h, b);
  }
  bin_insert(h, b);
  return s;
}

void heddle_heap_clear(struct heddle_heap *h) {
  for (struct heddle_span *s = h->spans, *next; s; s = next) {
    next = s->after;
    for (struct heddle_block *b = s->first, *after; b; b = after) {
      after = b->after;
      free(b);
    }
    free(s);
  }
  heddle_heap_init(h, h->unit);
}

bool heddle_heap_sound(const struct heddle_heap *h) {
  uint64_t total = 0, used = 0;
  for (const struct heddle_span *s = h->spans; s; s = s->after) {
    uint64_t at = s->base, in_use = 0;
    const struct heddle_block *before = NULL;
    for (const struct heddle_block *b = s->first; b; before = b, b = b->after) {
      if (b->address != at || !b->bytes || (b->bytes | b->address) & (h->unit - 1) || b->before != before || b->span != s) return false;
      if (before && before->free && b->free) return false; // neighbours that should have merged
      if (heddle_heap_find((struct heddle_heap *)(uintptr_t)h, b->address) != b) return false;
      if (b->free) {
        unsigned r, c;
        bin_of(h, b->bytes, &r, &c);
        const struct heddle_block *in = h->bins[r][c];
        while (in && in != b) in = in->bin_after;
        if (!in || !(h->columns[r] >> c & 1) || !(h->rows >> r & 1)) return false;
      } else {
        in_use += b->bytes;
      }
      at += b->bytes;
    }
    if (at != s->base + s->bytes || in_use != s->used) return false;
    total += s->bytes;
    used += s->used;
  }
  return total == h->total && used == h->used;
}
