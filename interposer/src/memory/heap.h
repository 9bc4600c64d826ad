// A heap of addresses: hands out and takes back parts of address spans whose bytes it never touches (device memory is not
// readable from here). Three users: the windows (2 MiB granules), device memory and shared host memory (512 B units).
//
// Two-level segregated fit: constant-time allocation, immediate coalescing with both neighbours, and a treap over the
// addresses so that any interior pointer finds its block in O(log n). Not thread-safe: the user's lock guards it.
#ifndef HEDDLE_HEAP_H
#define HEDDLE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEDDLE_HEAP_ROWS = 48, HEDDLE_HEAP_COLUMNS = 8 };

// One contiguous stretch given to the heap, in which blocks split and merge.
struct heddle_span {
  uint64_t base, bytes, used;  // used: bytes in allocated blocks
  struct heddle_block *first;
  struct heddle_span *before, *after; // all spans of the heap
  void *owner;                 // the user's: what the span is made of
};

struct heddle_block {
  uint64_t address, bytes;     // multiples of the heap's unit
  struct heddle_span *span;
  struct heddle_block *before, *after;         // neighbours within the span
  struct heddle_block *bin_before, *bin_after; // the bin's list, while free
  struct heddle_block *left, *right;           // treap by address
  uint32_t priority;
  bool free;
  // The rest belongs to the user, for allocated blocks; zero after heddle_heap_alloc.
  uint64_t requested;          // bytes asked for
  uint64_t id;                 // never repeats in this process
  void *context;               // CUcontext that allocated it
  void *pool;                  // CUmemoryPool, or NULL
  uint32_t flags;
};

struct heddle_heap {
  uint64_t unit;               // power of two
  struct heddle_block *root;   // treap of all blocks
  struct heddle_span *spans;
  struct heddle_block *bins[HEDDLE_HEAP_ROWS][HEDDLE_HEAP_COLUMNS];
  uint64_t rows;               // bit r: some bin of row r is not empty
  uint8_t columns[HEDDLE_HEAP_ROWS];
  uint32_t random;             // state of the treap's priorities
  uint64_t total, used;        // bytes
};

// Prepares an empty heap. unit is a power of two.
void heddle_heap_init(struct heddle_heap *h, uint64_t unit);
// Gives [base, base+bytes) to the heap; both multiples of the unit, disjoint from all other spans. NULL: out of host memory.
struct heddle_span *heddle_heap_add(struct heddle_heap *h, uint64_t base, uint64_t bytes, void *owner);
// Takes a span back. It must hold no allocated block (span->used == 0).
void heddle_heap_remove(struct heddle_heap *h, struct heddle_span *span);
// A block of at least `bytes` (> 0) at a multiple of align (a power of two); NULL when no free block serves.
struct heddle_block *heddle_heap_alloc(struct heddle_heap *h, uint64_t bytes, uint64_t align);
// The block [address, address+bytes) exactly; NULL when any of it is taken or foreign. Both multiples of the unit.
struct heddle_block *heddle_heap_alloc_at(struct heddle_heap *h, uint64_t address, uint64_t bytes);
// Gives an allocated block back; it may be merged away, so the pointer is dead. Returns its span.
struct heddle_span *heddle_heap_free(struct heddle_heap *h, struct heddle_block *b);
// The block, free or not, that holds the address; NULL outside all spans.
struct heddle_block *heddle_heap_find(struct heddle_heap *h, uint64_t address);
// Frees all host memory of the heap.
void heddle_heap_clear(struct heddle_heap *h);
// Checks every invariant (tests): false when one is broken.
bool heddle_heap_sound(const struct heddle_heap *h);

#endif
