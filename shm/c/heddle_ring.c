#define _GNU_SOURCE
#include "heddle_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// The tests define HEDDLE_RING_STEPS and die at the k-th step, for every k.
#ifdef HEDDLE_RING_STEPS
void heddle_ring_step(void);
#define STEP() heddle_ring_step()
#else
#define STEP() ((void)0)
#endif

// How often heddle_ring_wait_space looks before it sleeps: some 20 us.
#define SPIN_LOOKS 512

static inline uint64_t round16(uint64_t n) { return (n + 15) & ~UINT64_C(15); }

int heddle_file_map(int fd, size_t bytes, void **map, size_t *map_bytes) {
  struct stat st;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0)
    return errno == EINVAL ? -EPERM : -errno; // EINVAL: not a memfd at all
  if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
    return -EPERM;
  if (fstat(fd, &st) != 0)
    return -errno;
  if (st.st_size <= 0 || (bytes != 0 && (uint64_t)st.st_size != bytes))
    return -EMSGSIZE;
  void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED)
    return -errno;
  *map = p;
  if (map_bytes != NULL)
    *map_bytes = (size_t)st.st_size;
  return 0;
}

// A part of `bytes` bytes at `offset` lies inside the file, behind the header page, on a cache line.
static bool part_fits(uint64_t offset, uint64_t bytes, size_t map_bytes) {
  return offset >= HEDDLE_WIRE_PAGE && offset % 64 == 0 && offset <= map_bytes && bytes <= map_bytes - offset;
}

int heddle_ring_init(struct heddle_ring *ring, void *session_map, size_t map_bytes, void *doorbell_map) {
  struct heddle_wire_session_header h;
  unsigned char *base = session_map;
  struct heddle_wire_doorbell *doorbell = doorbell_map;
  if (map_bytes < HEDDLE_WIRE_PAGE)
    return -EINVAL;
  memcpy(&h, session_map, sizeof h); // one copy: the checks below hold for what is used
  if (h.magic != HEDDLE_WIRE_MAGIC || h.layout_hash != HEDDLE_WIRE_LAYOUT_HASH || h.version != HEDDLE_WIRE_VERSION)
    return -EPROTO;
  if (doorbell->magic != HEDDLE_WIRE_DOORBELL_MAGIC || doorbell->layout_hash != HEDDLE_WIRE_LAYOUT_HASH)
    return -EPROTO;
  if (h.file_bytes != map_bytes || h.lanes != HEDDLE_WIRE_LANES || h.replies != HEDDLE_WIRE_REPLIES)
    return -EINVAL;
  if (!part_fits(h.status_offset, sizeof(struct heddle_wire_session_status), map_bytes) ||
      !part_fits(h.producer_offset, sizeof(struct heddle_wire_producer), map_bytes) ||
      !part_fits(h.consumer_offset, sizeof(struct heddle_wire_consumer), map_bytes) ||
      !part_fits(h.replies_offset, h.replies * sizeof(struct heddle_wire_reply), map_bytes) ||
      !part_fits(h.lanes_offset, h.lanes * sizeof(struct heddle_wire_lane), map_bytes) ||
      !part_fits(h.ring_offset, h.ring_bytes, map_bytes))
    return -EINVAL;
  if (h.ring_bytes < HEDDLE_WIRE_PAGE || (h.ring_bytes & (h.ring_bytes - 1)) != 0 || h.ring_bytes > (UINT64_C(1) << 31))
    return -EINVAL;
  memset(ring, 0, sizeof *ring);
  ring->data = base + h.ring_offset;
  ring->size = h.ring_bytes;
  ring->mask = h.ring_bytes - 1;
  ring->producer = (struct heddle_wire_producer *)(base + h.producer_offset);
  ring->consumer = (struct heddle_wire_consumer *)(base + h.consumer_offset);
  ring->doorbell = doorbell;
  ring->tail = ring->published = heddle_load_relaxed64(&ring->producer->tail); // our own word
  ring->head = heddle_load_acquire64(&ring->consumer->head);
  ring->floor = UINT64_MAX;
  if (ring->tail % HEDDLE_WIRE_RECORD_ALIGN != 0 || ring->tail - ring->head > ring->size)
    return -EPROTO;
  return 0;
}

// Reads the executor's head. It only grows and never passes what was published; anything else is a broken executor and is not
// believed. The acquire pairs with the release in Consumer.Release: the executor no longer reads below head.
static bool refresh_head(struct heddle_ring *ring) {
  uint64_t head = heddle_load_acquire64(&ring->consumer->head);
  if (head - ring->head > ring->published - ring->head)
    return false;
  ring->head = head;
  return true;
}

// Bytes that a contiguous piece of `need` takes at the tail: itself, and the pad before it when the end is too close.
static inline uint64_t cost(const struct heddle_ring *ring, uint64_t need) {
  uint64_t to_end = ring->size - (ring->tail & ring->mask);
  return to_end < need ? to_end + need : need;
}

// Bytes free above `low`, the oldest position still in use.
static inline uint64_t room(const struct heddle_ring *ring, uint64_t low) { return ring->size - (ring->tail - low); }

static inline uint64_t lowest(const struct heddle_ring *ring) { return ring->head < ring->floor ? ring->head : ring->floor; }

// The part of reserving that few records need: read the executor's head again, write a pad. False: no room.
static __attribute__((noinline)) bool make_room(struct heddle_ring *ring, uint64_t need, uint64_t total) {
  if (total > room(ring, lowest(ring))) {
    (void)refresh_head(ring); // a nonsense head is reported by heddle_ring_wait_space
    if (total > room(ring, lowest(ring)))
      return false;
  }
  if (total > need) {
    // The gap may be 16 bytes, half a header: a pad has only the first 16.
    struct heddle_wire_record *pad = (struct heddle_wire_record *)(ring->data + (ring->tail & ring->mask));
    STEP();
    pad->size = (uint32_t)(total - need);
    STEP();
    pad->kind = HEDDLE_WIRE_KIND_PAD;
    pad->flags = 0;
    STEP();
    pad->lane = 0;
    pad->seq = 0;
    STEP();
    ring->tail += total - need;
  }
  return true;
}

// need is a multiple of 16.
static inline void *reserve(struct heddle_ring *ring, uint64_t need) {
  if (__builtin_expect(need - 1 >= ring->size / 4, 0)) // 0 too
    return NULL;
  uint64_t total = cost(ring, need);
  if (__builtin_expect(total > need || total > room(ring, lowest(ring)), 0) && !make_room(ring, need, total))
    return NULL;
  unsigned char *at = ring->data + (ring->tail & ring->mask);
  ring->tail += need;
  STEP();
  return at;
}

void *heddle_ring_reserve(struct heddle_ring *ring, uint32_t bytes) { return reserve(ring, round16(bytes)); }

uint32_t heddle_record_bytes(uint32_t ndeps, uint32_t body_bytes) {
  if (ndeps > HEDDLE_WIRE_MAX_DEPS || body_bytes > (UINT32_C(1) << 30))
    return 0;
  return (uint32_t)(sizeof(struct heddle_wire_record) + round16(ndeps * sizeof(struct heddle_wire_dep)) + round16(body_bytes));
}

void *heddle_record_begin(struct heddle_ring *ring, uint16_t kind, uint16_t flags, uint32_t lane, uint32_t seq, uint32_t ready,
                          const struct heddle_wire_dep *deps, uint32_t ndeps, uint32_t body_bytes, uint64_t *position) {
  uint32_t size = heddle_record_bytes(ndeps, body_bytes);
  struct heddle_wire_record *r = reserve(ring, size); // size 0 gives NULL
  if (__builtin_expect(r == NULL, 0))
    return NULL;
  STEP();
  r->size = size;
  STEP();
  r->kind = kind;
  r->flags = flags;
  STEP();
  r->lane = lane;
  r->seq = seq;
  STEP();
  r->ready = ready;
  r->ndeps = ndeps;
  STEP();
  r->pad0 = 0;
  struct heddle_wire_dep *to = (struct heddle_wire_dep *)(r + 1);
  for (uint32_t i = 0; i < ndeps; i++) {
    STEP();
    to[i] = deps[i];
  }
  if (ndeps % 2 != 0)
    to[ndeps] = (struct heddle_wire_dep){0, 0};
  STEP();
  if (position != NULL)
    *position = ring->tail - size;
  return (unsigned char *)to + round16(ndeps * sizeof(struct heddle_wire_dep));
}

void heddle_ring_publish(struct heddle_ring *ring) {
  struct heddle_wire_doorbell *doorbell = ring->doorbell;
  if (ring->tail == ring->published)
    return;
  STEP();
  ring->published = ring->tail;
  heddle_store_release64(&ring->producer->tail, ring->tail); // pairs with the acquire of tail in Consumer.Next
  STEP();
  heddle_fence(); // tail before sleeping; Doorbell.Sleep stores sleeping before it looks at tail
  if (heddle_load_relaxed32(&doorbell->sleeping) != 0) {
    STEP();
    heddle_add32(&doorbell->bell, 1); // before the wake: a sleeper that is not yet in the kernel sees another value
    STEP();
    (void)heddle_futex_wake(&doorbell->bell, INT_MAX);
  }
  STEP();
}

int heddle_ring_wait_space(struct heddle_ring *ring, uint32_t bytes, int timeout_ms) {
  uint64_t need = round16(bytes);
  if (need == 0 || need > ring->size / 4)
    return -EINVAL;
  heddle_ring_publish(ring);
  uint64_t total = cost(ring, need);
  int64_t deadline = timeout_ms < 0 ? INT64_MAX : heddle_now_ms() + timeout_ms;
  for (int looks = 0;; looks++) {
    bool sleep = looks >= SPIN_LOOKS;
    uint32_t bell = 0;
    if (sleep) {
      // The bell is read before space_waiting is set and head is looked at again: Consumer.Release moves head, fences, and
      // rings when it sees space_waiting, so either we see its head or it changes the bell under us.
      bell = heddle_load_acquire32(&ring->consumer->space_bell);
      heddle_store_relaxed32(&ring->producer->space_waiting, 1);
      heddle_fence();
    }
    int result = 1;
    if (!refresh_head(ring))
      result = -EPROTO;
    else if (total <= room(ring, lowest(ring)))
      result = 0;
    else if (total <= room(ring, ring->head))
      result = -EBUSY;
    else if (sleep) {
      int64_t left = timeout_ms < 0 ? -1 : deadline - heddle_now_ms();
      if (timeout_ms >= 0 && left <= 0)
        result = -ETIMEDOUT;
      else
        (void)heddle_futex_wait(&ring->consumer->space_bell, bell, left > INT_MAX ? INT_MAX : (int)left);
    } else {
      heddle_relax();
    }
    if (result <= 0) {
      if (sleep)
        heddle_store_relaxed32(&ring->producer->space_waiting, 0);
      return result;
    }
  }
}

int heddle_futex_wait(uint32_t *word, uint32_t expected, int timeout_ms) {
  struct timespec ts = {timeout_ms / 1000, (long)(timeout_ms % 1000) * 1000000};
  if (syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ms < 0 ? NULL : &ts, NULL, 0) == 0 || errno == EAGAIN)
    return 0;
  return -errno;
}

int heddle_futex_wake(uint32_t *word, int count) {
  long n = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
  return n < 0 ? -errno : (int)n;
}

int64_t heddle_now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
