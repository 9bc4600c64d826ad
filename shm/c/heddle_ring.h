// The submission ring, producer side: one process writes records, one executor reads them. No allocation, no locks: the caller
// holds its own ring lock around everything from heddle_record_begin to heddle_ring_publish. shm/README.md explains the
// structure and the memory orders; docs/protocol.md section 2 is the contract.
#ifndef HEDDLE_RING_H
#define HEDDLE_RING_H

#include <stddef.h>
#include <stdint.h>

#include "heddle_atomic.h"
#include "heddle_wire.h"

struct heddle_ring {
  unsigned char *data;
  uint64_t mask, size;
  uint64_t tail;      // reserved up to here; ours
  uint64_t published; // what producer->tail says; ours
  uint64_t head;      // the last head we read and believed; a lower bound of the real one
  uint64_t floor;     // position of the oldest record whose payload the client still reads; UINT64_MAX none
  struct heddle_wire_producer *producer;
  struct heddle_wire_consumer *consumer;
  struct heddle_wire_doorbell *doorbell;
};

// Maps a shared file of exactly `bytes` bytes for reading and writing, after checking that it is a memfd sealed against
// shrinking and growing, so that no peer can make an access fault. The fd stays the caller's. 0 and *map, or -errno
// (-EPERM: a seal is missing, -EMSGSIZE: another size). bytes == 0 accepts any size and *map_bytes tells it.
int heddle_file_map(int fd, size_t bytes, void **map, size_t *map_bytes);

// Takes up the ring of a mapped session file. Checks magic, layout hash, version and that every part lies inside map_bytes.
// doorbell_map is the mapped doorbell file, at least HEDDLE_WIRE_PAGE bytes. Positions continue where producer->tail stands.
// 0; -EPROTO: not a session file, or one of another build; -EINVAL: parts out of bounds.
int heddle_ring_init(struct heddle_ring *ring, void *session_map, size_t map_bytes, void *doorbell_map);

// Room for `bytes` contiguous bytes starting at a multiple of 16, at position ring->tail - round_up(bytes, 16) afterwards. Pads
// the end of the ring when needed. NULL: no room now (call heddle_ring_wait_space), or bytes is 0 or above size/4 (never room).
void *heddle_ring_reserve(struct heddle_ring *ring, uint32_t bytes);

// Waits until heddle_ring_reserve(ring, bytes) will succeed. Publishes what is reserved first, so every reserved record must be
// complete. timeout_ms < 0 waits for ever. 0: room. -ETIMEDOUT. -EBUSY: only ring->floor is in the way, so only the caller can
// make room. -EINVAL: bytes is 0 or above size/4. -EPROTO: the executor's head is nonsense, the session is broken.
// The caller keeps its ring lock: nobody else may use the ring meanwhile.
int heddle_ring_wait_space(struct heddle_ring *ring, uint32_t bytes, int timeout_ms);

// Hands every reserved record to the executor and wakes it when it sleeps. Never blocks.
void heddle_ring_publish(struct heddle_ring *ring);

// Reserves one record and fills its header and dependencies; returns where its body (body_bytes, at a 16-byte boundary of the
// ring) goes. *position (may be NULL) is the record's position, for ring->floor and for alone.c. NULL: as heddle_ring_reserve,
// or ndeps above HEDDLE_WIRE_MAX_DEPS. Nothing is visible to the executor before heddle_ring_publish.
void *heddle_record_begin(struct heddle_ring *ring, uint16_t kind, uint16_t flags, uint32_t lane, uint32_t seq, uint32_t ready,
                          const struct heddle_wire_dep *deps, uint32_t ndeps, uint32_t body_bytes, uint64_t *position);
// The size of such a record, for heddle_ring_wait_space; 0 when ndeps or body_bytes is out of bounds.
uint32_t heddle_record_bytes(uint32_t ndeps, uint32_t body_bytes);

// Shared (not process-private) futexes. wait: 0 woken or the word had changed already, -ETIMEDOUT, -EINTR, -errno.
// timeout_ms < 0 waits for ever. wake: at most `count` waiters; the number woken, or -errno.
int heddle_futex_wait(uint32_t *word, uint32_t expected, int timeout_ms);
int heddle_futex_wake(uint32_t *word, int count);

// Milliseconds of CLOCK_MONOTONIC.
int64_t heddle_now_ms(void);

#endif
