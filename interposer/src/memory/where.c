// Whose memory is at an address. Lock-free: the launch and copy paths ask for every pointer they see.
#include <string.h>
#include <sys/mman.h>

#include "inner.h"

struct heddle_region heddle_regions[HEDDLE_REGIONS];
_Atomic uint32_t heddle_region_count;
struct heddle_ranges heddle_side_ranges = HEDDLE_RANGES_INIT;
static pthread_mutex_t region_lock = PTHREAD_MUTEX_INITIALIZER;

bool heddle_region_add(struct heddle_memory *m, uint64_t base, uint64_t bytes, bool host) {
  uint64_t granules = (bytes + HEDDLE_GRANULE - 1) / HEDDLE_GRANULE;
  // Address space only: pages of the table exist once a segment lies in their part of the window.
  void *slots = mmap(NULL, granules * sizeof(void *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (slots == MAP_FAILED) return false;
  pthread_mutex_lock(&region_lock);
  uint32_t n = atomic_load_explicit(&heddle_region_count, memory_order_relaxed);
  bool room = n < HEDDLE_REGIONS;
  if (room) {
    heddle_regions[n] = (struct heddle_region){.base = base, .bytes = bytes, .host = host, .memory = m, .slots = slots};
    atomic_store_explicit(&heddle_region_count, n + 1, memory_order_release);
  }
  pthread_mutex_unlock(&region_lock);
  if (!room) munmap(slots, granules * sizeof(void *));
  return room;
}

struct heddle_region *heddle_region_find(uint64_t address) {
  uint32_t n = atomic_load_explicit(&heddle_region_count, memory_order_acquire);
  for (uint32_t i = 0; i < n; i++)
    if (address - heddle_regions[i].base < heddle_regions[i].bytes) return &heddle_regions[i];
  return NULL;
}

struct heddle_segment *heddle_segment_find(struct heddle_region *region, uint64_t address) {
  return atomic_load_explicit(&region->slots[(address - region->base) / HEDDLE_GRANULE], memory_order_acquire);
}

static void fill(struct heddle_region *region, struct heddle_segment *s, struct heddle_segment *with) {
  uint64_t first = (atomic_load_explicit(&s->base, memory_order_relaxed) - region->base) / HEDDLE_GRANULE;
  uint64_t n = (atomic_load_explicit(&s->bytes, memory_order_relaxed) + HEDDLE_GRANULE - 1) / HEDDLE_GRANULE;
  for (uint64_t i = 0; i < n; i++) atomic_store_explicit(&region->slots[first + i], with, memory_order_release);
}

void heddle_segment_publish(struct heddle_region *region, struct heddle_segment *s) { fill(region, s, s); }
void heddle_segment_unpublish(struct heddle_region *region, struct heddle_segment *s) { fill(region, s, NULL); }

enum heddle_where heddle_memory_where(CUdeviceptr address, size_t bytes, struct heddle_session **session) {
  if (session) *session = NULL;
  struct heddle_region *region = heddle_region_find(address);
  if (region) {
    uint64_t at = address, left = bytes ? bytes : 1;
    if (left > region->bytes - (at - region->base)) return HEDDLE_WHERE_UNKNOWN;
    for (;;) { // a range may cross segments that the client mapped side by side
      struct heddle_segment *s = heddle_segment_find(region, at);
      if (!s) break;
      uint64_t end = atomic_load_explicit(&s->base, memory_order_relaxed) + atomic_load_explicit(&s->bytes, memory_order_relaxed);
      if (end <= at) break; // recycled under us: the caller uses memory that is being freed
      if (left <= end - at) {
        if (session) *session = region->memory->session;
        return region->host ? HEDDLE_WHERE_HOST : HEDDLE_WHERE_DEVICE;
      }
      left -= end - at;
      at = end;
    }
    // Nothing of ours here; what the client maps without the executor having it is in the table below.
  }
  if (!heddle_ranges_near(&heddle_side_ranges, address, address + 1)) return HEDDLE_WHERE_UNKNOWN;
  struct heddle_range range;
  if (!heddle_ranges_find(&heddle_side_ranges, address, &range)) return HEDDLE_WHERE_UNKNOWN;
  if (session) *session = heddle_session_peek((CUdevice)(range.value >> 8));
  return (enum heddle_where)(range.value & 0xff);
}

// ---- freed memory ----

static _Atomic uint64_t changes = 1; // bumped before an allocated block becomes free

// The allocated blocks that a thread asked about last, by address; right as long as `changes` is what it was.
enum { REMEMBERED = 16 };
static _Thread_local struct { uint64_t base, bytes, change; } remembered[REMEMBERED];

void heddle_blocks_change(void) { atomic_fetch_add_explicit(&changes, 1, memory_order_release); }

// Whether the byte lies in freed memory; *end receives the end of what is known to be like it.
static bool freed_at(struct heddle_region *region, uint64_t address, uint64_t *end) {
  uint64_t now = atomic_load_explicit(&changes, memory_order_acquire);
  unsigned way = (unsigned)((address >> 9) * UINT64_C(0x9e3779b97f4a7c15) >> 60);
  _Static_assert(REMEMBERED == 1 << 4, "four bits of the hash");
  *end = address + 1;
  if (remembered[way].change == now && address - remembered[way].base < remembered[way].bytes) {
    *end = remembered[way].base + remembered[way].bytes;
    return false;
  }
  struct heddle_memory *m = region->memory;
  struct heddle_segment *s = heddle_segment_find(region, address);
  if (s && atomic_load_explicit(&s->kind, memory_order_relaxed) != HEDDLE_SEGMENT_DEVICE) return false;
  pthread_mutex_lock(&m->lock);
  bool freed = false;
  s = heddle_segment_find(region, address);
  if (!s) { // ours and unused, or the client's own
    for (s = m->cached; s && !freed; s = s->next) freed = address - s->base < s->bytes;
  } else if (s->kind == HEDDLE_SEGMENT_DEVICE) {
    struct heddle_block *b = heddle_heap_find(&m->blocks, address);
    freed = !b || b->free;
    if (!freed) {
      // Read under the lock: nothing that this block's state depends on changes without it.
      remembered[way].change = atomic_load_explicit(&changes, memory_order_relaxed);
      remembered[way].base = b->address;
      remembered[way].bytes = b->bytes;
      *end = b->address + b->bytes;
    }
  }
  pthread_mutex_unlock(&m->lock);
  return freed;
}

bool heddle_memory_freed(CUdeviceptr address, size_t bytes) {
  struct heddle_region *region = heddle_region_find(address);
  uint64_t end;
  if (!region || region->host || bytes == 0) return false;
  if (freed_at(region, address, &end)) return true;
  if (bytes <= end - address || bytes > region->bytes - (address - region->base)) return false;
  return freed_at(region, address + bytes - 1, &end);
}

bool heddle_memory_params_native(const void *params, size_t bytes, enum heddle_native_reason *why) {
  // With one device only the side table can hold anything that the executor lacks.
  bool several = false;
  struct heddle_memory *own = NULL;
  uint32_t regions = atomic_load_explicit(&heddle_region_count, memory_order_acquire);
  for (uint32_t i = 1; i < regions; i++) several |= heddle_regions[i].memory != heddle_regions[0].memory;
  if (!several && heddle_ranges_empty(&heddle_side_ranges)) return false;
  if (several) own = heddle_memory_of(heddle_session_current());
  const unsigned char *p = params;
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    uint64_t word;
    memcpy(&word, p + at, sizeof word);
    if (several) {
      struct heddle_region *region = heddle_region_find(word);
      if (region && region->memory != own) {
        *why = HEDDLE_NATIVE_FOREIGN_MEMORY;
        return true;
      }
    }
    struct heddle_range range;
    if (!heddle_ranges_near(&heddle_side_ranges, word, word + 1) || !heddle_ranges_find(&heddle_side_ranges, word, &range)) continue;
    enum heddle_where where = (enum heddle_where)(range.value & 0xff);
    if (where == HEDDLE_WHERE_REGISTERED) *why = HEDDLE_NATIVE_HOST_REGISTERED;
    else if (where == HEDDLE_WHERE_MANAGED) *why = HEDDLE_NATIVE_FOREIGN_MEMORY;
    else continue;
    return true;
  }
  return false;
}

void heddle_memory_add_global(struct heddle_session *s, CUdeviceptr address, size_t bytes) {
  heddle_ranges_add(&heddle_side_ranges, address, bytes, HEDDLE_WHERE_GLOBAL | (uint64_t)s->device << 8);
}

void heddle_memory_drop_global(CUdeviceptr address) { heddle_ranges_drop(&heddle_side_ranges, address, NULL); }

void heddle_foreign_add(CUdevice device, CUdeviceptr address, size_t bytes) {
  if (address) heddle_ranges_add(&heddle_side_ranges, address, bytes, HEDDLE_WHERE_MANAGED | (uint64_t)device << 8);
}

void heddle_foreign_drop(CUdeviceptr address) {
  struct heddle_range range;
  if (heddle_ranges_empty(&heddle_side_ranges) || !heddle_ranges_find(&heddle_side_ranges, address, &range)) return;
  if (range.base == address && (range.value & 0xff) == HEDDLE_WHERE_MANAGED) heddle_ranges_drop(&heddle_side_ranges, address, NULL);
}
