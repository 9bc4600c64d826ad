// A producer that dies. fd 3: session file, fd 4: doorbell. It publishes record 1, then writes record 2 and, with HEDDLE_RING_STEPS,
// kills itself at step argv[1] of that (0: never). With argv[2] it stops itself before and after record 2, for a tracer.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heddle_ring.h"

static long steps_left;

#ifdef HEDDLE_RING_STEPS
void heddle_ring_step(void);
#else
static
#endif
void heddle_ring_step(void) {
  if (steps_left > 0 && --steps_left == 0)
    kill(getpid(), SIGKILL);
}

#define PAYLOAD 40

int main(int argc, char **argv) {
  void *session, *doorbell;
  size_t bytes;
  struct heddle_ring ring;
  if (argc < 2 || heddle_file_map(3, 0, &session, &bytes) != 0 || heddle_file_map(4, HEDDLE_WIRE_PAGE, &doorbell, NULL) != 0 ||
      heddle_ring_init(&ring, session, bytes, doorbell) != 0)
    return 3;
  struct heddle_wire_dep deps[3] = {{1, 2}, {3, 4}, {5 | HEDDLE_WIRE_DEP_READY, 6}};
  if (heddle_record_begin(&ring, HEDDLE_WIRE_KIND_SIGNAL, 0, 1, 1, 0, NULL, 0, 0, NULL) == NULL)
    return 4;
  heddle_ring_publish(&ring);
  if (argc > 2)
    raise(SIGSTOP);
  steps_left = atol(argv[1]);
  uint64_t *body = heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, HEDDLE_WIRE_RECORD_FLAG_WANT_SIGNAL, 2, 2, 7, deps, 3, 16 + PAYLOAD, NULL);
  if (body == NULL)
    return 5;
  body[0] = 99;
  heddle_ring_step();
  body[1] = PAYLOAD;
  for (int i = 0; i < PAYLOAD / 8; i++) {
    heddle_ring_step();
    body[2 + i] = UINT64_C(0x0101010101010101) * (unsigned)(i + 1);
  }
  heddle_ring_publish(&ring);
  steps_left = 0;
  if (argc > 2)
    raise(SIGSTOP);
  return 0;
}
