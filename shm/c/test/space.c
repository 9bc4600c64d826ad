// The outcomes of the C ring's calls that the pairings never see: errors of mapping, of reserving and of waiting for space.
// fd 3: session file, fd 4: doorbell. Exits 0 when all went as the header says.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"

#define EXPECT(got, want)                                                                                                      \
  do {                                                                                                                         \
    long g = (long)(got), w = (long)(want);                                                                                    \
    if (g != w) {                                                                                                              \
      fprintf(stderr, "space.c:%d: %s is %ld; expected %ld\n", __LINE__, #got, g, w);                                          \
      exit(1);                                                                                                                 \
    }                                                                                                                          \
  } while (0)

static void mapping(void) {
  void *map = NULL;
  size_t bytes = 0;
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING), pipes[2];
  EXPECT(ftruncate(fd, 8192), 0);
  EXPECT(heddle_file_map(fd, 8192, &map, NULL), -EPERM);
  EXPECT(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT(heddle_file_map(fd, 8192, &map, NULL), -EPERM);
  EXPECT(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
  EXPECT(heddle_file_map(fd, 4096, &map, NULL), -EMSGSIZE);
  EXPECT(map == NULL, 1);
  EXPECT(heddle_file_map(fd, 0, &map, &bytes), 0);
  EXPECT(bytes, 8192);
  // Zeros are no session file.
  struct heddle_ring ring;
  EXPECT(heddle_ring_init(&ring, map, bytes, map), -EPROTO);
  EXPECT(heddle_ring_init(&ring, map, 100, map), -EINVAL);
  EXPECT(munmap(map, bytes), 0);
  EXPECT(close(fd), 0);
  EXPECT(heddle_file_map(fd, 0, &map, NULL), -EBADF);
  EXPECT(pipe(pipes), 0);
  EXPECT(heddle_file_map(pipes[0], 0, &map, NULL), -EPERM);
  fd = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  EXPECT(heddle_file_map(fd, 0, &map, NULL), -EMSGSIZE);
}

int main(void) {
  void *session, *doorbell;
  size_t bytes;
  struct heddle_ring ring;
  struct consumer c;
  bool bad;
  mapping();
  EXPECT(heddle_file_map(3, 0, &session, &bytes), 0);
  EXPECT(heddle_file_map(4, HEDDLE_WIRE_PAGE, &doorbell, NULL), 0);
  EXPECT(heddle_ring_init(&ring, session, bytes, doorbell), 0);
  consumer_init(&c, &ring);

  uint32_t quarter = (uint32_t)(ring.size / 4), size = heddle_record_bytes(0, 65536);
  EXPECT(heddle_ring_reserve(&ring, 0) == NULL, 1);
  EXPECT(heddle_ring_reserve(&ring, quarter + 1) == NULL, 1);
  EXPECT(heddle_ring_reserve(&ring, UINT32_MAX) == NULL, 1);
  EXPECT(heddle_ring_wait_space(&ring, 0, 0), -EINVAL);
  EXPECT(heddle_ring_wait_space(&ring, quarter + 1, 0), -EINVAL);
  EXPECT(heddle_record_bytes(HEDDLE_WIRE_MAX_DEPS + 1, 0), 0);
  EXPECT(heddle_record_bytes(0, UINT32_MAX), 0);
  EXPECT(heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, 0, 0, 1, 0, NULL, UINT32_MAX, 16, NULL) == NULL, 1);
  EXPECT(heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, 0, 0, 1, 0, NULL, 0, UINT32_MAX, NULL) == NULL, 1);
  EXPECT(heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, 0, 0, 1, 0, NULL, 0, quarter, NULL) == NULL, 1); // its header is too much
  EXPECT(ring.tail, 0);
  heddle_ring_publish(&ring);
  EXPECT(ring.producer->tail, 0);

  uint64_t position = 0, last = 0;
  int records = 0;
  for (unsigned char *body; (body = heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, 0, 0, 1, 0, NULL, 0, 65536, &position)) != NULL; records++) {
    EXPECT(body - ring.data, (position & ring.mask) + 32);
    memcpy(body, &(struct heddle_wire_inline_copy){1, 65520}, 16);
    last = position;
  }
  EXPECT(records, (int)(ring.size / size));
  EXPECT(heddle_ring_wait_space(&ring, size, 0), -ETIMEDOUT);
  int64_t before = heddle_now_ms();
  EXPECT(heddle_ring_wait_space(&ring, size, 20), -ETIMEDOUT);
  EXPECT(heddle_now_ms() - before >= 19, 1);
  EXPECT(ring.producer->tail, ring.tail); // waiting publishes
  EXPECT(ring.producer->space_waiting, 0);

  ring.floor = last; // the last payload is still to be fetched
  while (consumer_next(&c, &bad) != NULL)
    ;
  EXPECT(bad, 0);
  consumer_release(&c, c.read);
  EXPECT(heddle_ring_wait_space(&ring, size, -1), 0);
  EXPECT(ring.head, ring.tail);
  EXPECT(heddle_record_begin(&ring, HEDDLE_WIRE_KIND_PUT, 0, 0, 1, 0, NULL, 0, 65536, NULL) != NULL, 1);
  memcpy(ring.data + (last & ring.mask) + 48, "still here", 11);
  while (heddle_record_begin(&ring, HEDDLE_WIRE_KIND_SIGNAL, 0, 0, 1, 0, NULL, 0, 0, NULL) != NULL)
    ;
  heddle_ring_publish(&ring);
  while (consumer_next(&c, &bad) != NULL)
    ;
  consumer_release(&c, c.read);
  EXPECT(heddle_ring_wait_space(&ring, size, -1), -EBUSY);
  EXPECT(strcmp((char *)ring.data + (last & ring.mask) + 48, "still here"), 0);
  ring.floor = UINT64_MAX;
  EXPECT(heddle_ring_wait_space(&ring, size, -1), 0);

  // A head that goes back, or past what was published, is not believed, neither now nor after it.
  uint64_t good = ring.consumer->head;
  ring.consumer->head = good - 64;
  EXPECT(heddle_ring_wait_space(&ring, size, -1), -EPROTO);
  ring.consumer->head = ring.published + 16;
  EXPECT(heddle_ring_wait_space(&ring, size, -1), -EPROTO);
  EXPECT(ring.head, good);
  struct heddle_ring again;
  EXPECT(heddle_ring_init(&again, session, bytes, doorbell), -EPROTO);
  ring.consumer->head = good;
  EXPECT(heddle_ring_init(&again, session, bytes, doorbell), 0);
  EXPECT(again.tail, ring.tail);

  uint32_t word = 5;
  EXPECT(heddle_futex_wait(&word, 4, -1), 0);
  EXPECT(heddle_futex_wait(&word, 5, 1), -ETIMEDOUT);
  EXPECT(heddle_futex_wait(NULL, 5, 1), -EFAULT);
  EXPECT(heddle_futex_wake(&word, 1), 0);
  EXPECT(heddle_reached(1, UINT32_MAX), 1);
  EXPECT(heddle_reached(UINT32_MAX, 1), 0);
  return 0;
}
