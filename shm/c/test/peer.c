// One end of a ring in a process of its own, driven over stdin and stdout by shm's Go tests. fd 3: session file, fd 4: doorbell.
//   command: u32 op, n, lag, pause_us
//   op 1: n times struct spec → writes them → i32 status, n times u64 start, end (CLOCK_MONOTONIC, ns)
//   op 2: reads n records, releases them `lag` later → i32 status, n times u64 hash, n times u64 start, end
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "consumer.h"
#include "heddle_hash.h"

struct spec {
  uint16_t kind, flags;
  uint32_t lane, seq, ready, ndeps, fixed_bytes, payload_bytes, publish;
  uint64_t seed;
  unsigned char fixed[128];
};

static void get(void *p, size_t n) {
  if (n != 0 && fread(p, n, 1, stdin) != 1)
    exit(0); // end of input: the test is over
}
static void put(const void *p, size_t n) {
  if (n != 0 && fwrite(p, n, 1, stdout) != 1)
    exit(2);
}
static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static uint64_t xorshift(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

static int push(struct heddle_ring *ring, const struct spec *s) {
  struct heddle_wire_dep deps[HEDDLE_WIRE_MAX_DEPS];
  uint64_t x = s->seed;
  for (uint32_t i = 0; i < s->ndeps; i++) {
    uint64_t v = xorshift(&x);
    deps[i] = (struct heddle_wire_dep){(uint32_t)v % HEDDLE_WIRE_LANES | ((v >> 40 & 1) ? HEDDLE_WIRE_DEP_READY : 0), (uint32_t)(v >> 32)};
  }
  unsigned char *body;
  uint64_t position;
  uint32_t bytes = s->fixed_bytes + s->payload_bytes;
  while ((body = heddle_record_begin(ring, s->kind, s->flags, s->lane, s->seq, s->ready, deps, s->ndeps, bytes, &position)) == NULL) {
    int r = heddle_ring_wait_space(ring, heddle_record_bytes(s->ndeps, bytes), 20000);
    if (r != 0)
      return r;
  }
  memcpy(body, s->fixed, s->fixed_bytes);
  for (uint32_t i = 0; i < s->payload_bytes; i += 8) {
    uint64_t v = xorshift(&x);
    uint32_t n = s->payload_bytes - i;
    memcpy(body + s->fixed_bytes + i, &v, n < 8 ? n : 8);
  }
  if (s->publish)
    heddle_ring_publish(ring);
  return 0;
}

int main(void) {
  void *session, *doorbell;
  size_t bytes;
  struct heddle_ring ring;
  if (heddle_file_map(3, 0, &session, &bytes) != 0 || heddle_file_map(4, HEDDLE_WIRE_PAGE, &doorbell, NULL) != 0)
    return 3;
  for (;;) {
    uint32_t command[4];
    get(command, sizeof command);
    uint32_t n = command[1], lag = command[2];
    int status = heddle_ring_init(&ring, session, bytes, doorbell);
    uint64_t *hashes = calloc(n + 1, sizeof *hashes), *times = calloc(2 * (size_t)n + 1, sizeof *times);
    if (command[0] == 1) {
      struct spec *specs = calloc(n + 1, sizeof *specs);
      get(specs, n * sizeof *specs);
      for (uint32_t i = 0; i < n && status == 0; i++) {
        times[2 * i] = now_ns();
        status = push(&ring, &specs[i]);
        times[2 * i + 1] = now_ns();
        if (command[3] != 0)
          for (uint64_t until = now_ns() + command[3] * UINT64_C(1000); now_ns() < until;)
            heddle_relax();
      }
      heddle_ring_publish(&ring);
      free(specs);
      put(&status, sizeof status);
    } else {
      struct consumer c;
      uint64_t *ends = calloc(n + 1, sizeof *ends), deadline = now_ns() + UINT64_C(20000000000);
      consumer_init(&c, &ring);
      for (uint32_t i = 0, released = 0; i < n && status == 0;) {
        bool bad;
        uint64_t start = now_ns();
        const struct heddle_wire_record *r = consumer_next(&c, &bad);
        if (r == NULL) {
          // A real executor releases what is done before it sleeps; without that a full ring would never empty.
          if (released < i)
            consumer_release(&c, ends[i - 1]), released = i;
          else
            consumer_sleep(&c, 100);
          status = bad ? -EPROTO : now_ns() > deadline ? -ETIMEDOUT : 0;
          continue;
        }
        uint32_t deps = r->ndeps * 8, body = body_bytes(r);
        unsigned char *flat = malloc(sizeof *r + deps + body);
        memcpy(flat, r, sizeof *r + deps);
        memcpy(flat + sizeof *r + deps, (const unsigned char *)(r + 1) + ((deps + 15) & ~15u), body);
        hashes[i] = heddle_hash64(flat, sizeof *r + deps + body, 0);
        free(flat);
        times[2 * i] = start;
        times[2 * i + 1] = now_ns();
        ends[i++] = c.read;
        if (i - released > lag) {
          consumer_release(&c, ends[released]);
          released++;
        }
      }
      consumer_release(&c, c.read);
      free(ends);
      put(&status, sizeof status);
      put(hashes, n * sizeof *hashes);
    }
    put(times, 2 * (size_t)n * sizeof *times);
    fflush(stdout);
    free(hashes);
    free(times);
  }
}
