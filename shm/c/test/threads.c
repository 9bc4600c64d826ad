// Producer and consumer as two threads over one mapping, for the sanitizers: thousands of records of all shapes through a ring that
// is full most of the time, with sleeping, waiting and padding. Prints "ok RECORDS"; a difference or a sanitizer's find exits otherwise.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"

#define RECORDS 20000
#define RING (64 * 1024)

static unsigned char session[1 << 20] __attribute__((aligned(4096)));
static unsigned char bell[4096] __attribute__((aligned(4096)));

static void die(const char *what, long i) {
  fprintf(stderr, "threads: %s at record %ld\n", what, i);
  _exit(1);
}

static uint32_t payload_of(uint32_t i) { return i % 97 == 0 ? RING / 4 - 256 : (i * 7919) % 700; }

static void *produce(void *arg) {
  struct heddle_ring ring;
  (void)arg;
  if (heddle_ring_init(&ring, session, sizeof session, bell) != 0)
    die("init", 0);
  struct heddle_wire_dep deps[5] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}};
  for (uint32_t i = 1; i <= RECORDS; i++) {
    uint32_t n = payload_of(i), ndeps = i % 6;
    unsigned char *body;
    while ((body = heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, 0, i % 1024, i, 0, deps, ndeps, 16 + n, NULL)) == NULL)
      if (heddle_ring_wait_space(&ring, heddle_record_bytes(ndeps, 16 + n), 20000) != 0)
        die("no space", i);
    memcpy(body, &(struct heddle_wire_inline_copy){i, n}, 16);
    memset(body + 16, (int)(i & 255), n);
    if (i % 3 != 0)
      heddle_ring_publish(&ring);
    if (i % 1000 == 0)
      usleep(500); // lets the consumer fall asleep
  }
  heddle_ring_publish(&ring);
  return NULL;
}

static void *consume(void *arg) {
  struct heddle_ring ring;
  struct consumer c;
  (void)arg;
  if (heddle_ring_init(&ring, session, sizeof session, bell) != 0)
    die("init", 0);
  consumer_init(&c, &ring);
  for (uint32_t i = 1; i <= RECORDS;) {
    bool bad;
    const struct heddle_wire_record *r = consumer_next(&c, &bad);
    if (bad)
      die("bad record", i);
    if (r == NULL) {
      consumer_release(&c, c.read);
      consumer_sleep(&c, 100);
      continue;
    }
    const unsigned char *body = (const unsigned char *)(r + 1) + ((r->ndeps * 8 + 15) & ~15u);
    uint32_t n = payload_of(i);
    if (r->seq != i || r->ndeps != i % 6 || body_bytes(r) != 16 + n)
      die("wrong record", i);
    for (uint32_t k = 0; k < n; k++)
      if (body[16 + k] != (unsigned char)i)
        die("wrong payload", i);
    if (i % 5 == 0)
      consumer_release(&c, c.read);
    i++;
  }
  consumer_release(&c, c.read);
  return NULL;
}

int main(void) {
  struct heddle_wire_session_header h = {
      .magic = HEDDLE_WIRE_MAGIC, .layout_hash = HEDDLE_WIRE_LAYOUT_HASH, .version = HEDDLE_WIRE_VERSION,
      .lanes = HEDDLE_WIRE_LANES, .file_bytes = sizeof session, .status_offset = 4096, .producer_offset = 4224,
      .consumer_offset = 4352, .replies_offset = 8192, .lanes_offset = 12288, .ring_offset = 143360 + 128 * 1024,
      .ring_bytes = RING, .replies = HEDDLE_WIRE_REPLIES};
  memcpy(session, &h, sizeof h);
  ((struct heddle_wire_doorbell *)bell)->magic = HEDDLE_WIRE_DOORBELL_MAGIC;
  ((struct heddle_wire_doorbell *)bell)->layout_hash = HEDDLE_WIRE_LAYOUT_HASH;
  pthread_t a, b;
  if (pthread_create(&a, NULL, produce, NULL) != 0 || pthread_create(&b, NULL, consume, NULL) != 0)
    return 3;
  pthread_join(a, NULL);
  pthread_join(b, NULL);
  printf("ok %d\n", RECORDS);
  return 0;
}
