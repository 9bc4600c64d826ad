// A consumer in C for the tests: the language pairings and the sanitizers need one. The product's consumer is shm/consumer.go.
#ifndef HEDDLE_TEST_CONSUMER_H
#define HEDDLE_TEST_CONSUMER_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include "heddle_ring.h"

struct consumer {
  unsigned char *data;
  uint64_t size, read, head, tail;
  struct heddle_wire_producer *producer;
  struct heddle_wire_consumer *words;
  struct heddle_wire_doorbell *doorbell;
};

static inline void consumer_init(struct consumer *c, const struct heddle_ring *ring) {
  *c = (struct consumer){.data = ring->data, .size = ring->size, .producer = ring->producer, .words = ring->consumer, .doorbell = ring->doorbell};
  c->read = c->head = c->tail = heddle_load_relaxed64(&c->words->head);
}

// A variant that the thread sanitizer must find fault with: the tail is looked at without acquire.
#ifdef BROKEN_ACQUIRE
#define LOAD_TAIL heddle_load_relaxed64
#else
#define LOAD_TAIL heddle_load_acquire64
#endif

// The next record, or NULL. *bad is set when the ring makes no sense.
static inline const struct heddle_wire_record *consumer_next(struct consumer *c, bool *bad) {
  *bad = false;
  for (;;) {
    if (c->read == c->tail && (c->tail = LOAD_TAIL(&c->producer->tail)) == c->read)
      return NULL;
    uint64_t at = c->read & (c->size - 1);
    const struct heddle_wire_record *r = (const struct heddle_wire_record *)(c->data + at);
    if (c->tail - c->head > c->size || r->size < 16 || r->size % 16 != 0 || r->size > c->tail - c->read || r->size > c->size - at) {
      *bad = true;
      return NULL;
    }
    c->read += r->size;
    heddle_store_release64(&c->words->read, c->read);
    if (r->kind != HEDDLE_WIRE_KIND_PAD)
      return r;
  }
}

static inline void consumer_release(struct consumer *c, uint64_t position) {
  c->head = position;
  heddle_store_release64(&c->words->head, position);
  heddle_fence();
  if (c->tail - position <= c->size / 2 && heddle_load_relaxed32(&c->producer->space_waiting) != 0) {
    heddle_add32(&c->words->space_bell, 1);
    (void)heddle_futex_wake(&c->words->space_bell, INT_MAX);
  }
}

static inline void consumer_sleep(struct consumer *c, int timeout_ms) {
  uint32_t bell = heddle_load_acquire32(&c->doorbell->bell);
  heddle_store_relaxed32(&c->doorbell->sleeping, 1);
  heddle_fence();
  if (heddle_load_acquire64(&c->producer->tail) == c->read)
    (void)heddle_futex_wait(&c->doorbell->bell, bell, timeout_ms);
  heddle_store_relaxed32(&c->doorbell->sleeping, 0);
}

// Bytes of body and payload together.
static inline uint32_t body_bytes(const struct heddle_wire_record *r) {
  const unsigned char *body = (const unsigned char *)(r + 1) + ((r->ndeps * 8 + 15) & ~15u);
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_LANE_OPEN:
    return sizeof(struct heddle_wire_lane_open);
  case HEDDLE_WIRE_KIND_LAUNCH:
    return (uint32_t)sizeof(struct heddle_wire_launch) + ((const struct heddle_wire_launch *)body)->param_bytes;
  case HEDDLE_WIRE_KIND_MEMSET:
    return sizeof(struct heddle_wire_memset);
  case HEDDLE_WIRE_KIND_COPY:
    return sizeof(struct heddle_wire_copy);
  case HEDDLE_WIRE_KIND_COPY3D:
    return sizeof(struct heddle_wire_copy3d);
  case HEDDLE_WIRE_KIND_PUT:
  case HEDDLE_WIRE_KIND_GET:
    return (uint32_t)(sizeof(struct heddle_wire_inline_copy) + ((const struct heddle_wire_inline_copy *)body)->bytes);
  case HEDDLE_WIRE_KIND_EVENT:
    return sizeof(struct heddle_wire_event_mark);
  case HEDDLE_WIRE_KIND_ELAPSED:
    return sizeof(struct heddle_wire_elapsed);
  case HEDDLE_WIRE_KIND_REQUEST_BEGIN:
    return sizeof(struct heddle_wire_request_begin);
  case HEDDLE_WIRE_KIND_REQUEST_END:
    return sizeof(struct heddle_wire_request_end);
  default:
    return 0;
  }
}

#endif
