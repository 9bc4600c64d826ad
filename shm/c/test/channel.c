// The C end of a connection: echoes every message with its descriptors until BYE, then tries the errors of connect, send and recv.
// argv[1]: the socket. Exits 0 when all went as the header says.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "heddle_channel.h"

#define EXPECT(got, want)                                                                                                      \
  do {                                                                                                                         \
    int g = (got), w = (want);                                                                                                 \
    if (g != w) {                                                                                                              \
      fprintf(stderr, "channel.c:%d: %s is %d; expected %d\n", __LINE__, #got, g, w);                                          \
      exit(1);                                                                                                                 \
    }                                                                                                                          \
  } while (0)

int main(int argc, char **argv) {
  if (argc != 2)
    return 2;
  struct heddle_wire_message m;
  unsigned char body[128], *tail = malloc(HEDDLE_WIRE_MESSAGE_BYTES);
  size_t body_bytes;
  int fds[4], nfds, fd = heddle_channel_connect(argv[1], 5000);
  if (fd < 0)
    return 3;
  for (;;) {
    nfds = 4;
    EXPECT(heddle_channel_recv(fd, &m, body, sizeof body, &body_bytes, tail, HEDDLE_WIRE_MESSAGE_BYTES, fds, &nfds, 10000), 0);
    EXPECT((int)body_bytes, heddle_channel_body_bytes(m.type, 0));
    if (m.type == HEDDLE_WIRE_TYPE_BYE)
      break;
    uint32_t bytes = m.tail_bytes;
    m.type |= HEDDLE_WIRE_REPLY;
    m.magic = 0; // send fills these in
    m.tail_bytes = 77;
    EXPECT(heddle_channel_send(fd, &m, body, body_bytes, tail, bytes, fds, nfds, 10000), 0);
    while (nfds > 0)
      EXPECT(close(fds[--nfds]), 0);
  }
  nfds = 4;
  EXPECT(heddle_channel_recv(fd, &m, body, sizeof body, &body_bytes, tail, 100, fds, &nfds, 5), -ETIMEDOUT);
  EXPECT(nfds, 0);
  m.type = HEDDLE_WIRE_TYPE_KERNEL;
  size_t kernel = sizeof(struct heddle_wire_kernel);
  EXPECT(heddle_channel_send(fd, &m, body, kernel - 1, NULL, 0, NULL, 0, 0), -EINVAL);
  EXPECT(heddle_channel_send(fd, &m, body, kernel, NULL, 0, fds, 5, 0), -EINVAL);
  EXPECT(heddle_channel_send(fd, &m, body, kernel, NULL, 0, fds, -1, 0), -EINVAL);
  EXPECT(heddle_channel_send(fd, &m, body, kernel, tail, HEDDLE_WIRE_MESSAGE_BYTES, NULL, 0, 0), -EMSGSIZE);
  EXPECT(heddle_channel_send(fd, &m, body, kernel, tail, SIZE_MAX, NULL, 0, 0), -EMSGSIZE);
  m.type = 99;
  EXPECT(heddle_channel_send(fd, &m, body, 0, NULL, 0, NULL, 0, 0), -EINVAL);
  EXPECT(heddle_channel_body_bytes(99, 1), -1);
  EXPECT(close(fd), 0);
  m.type = HEDDLE_WIRE_TYPE_BYE;
  EXPECT(heddle_channel_send(fd, &m, NULL, 0, NULL, 0, NULL, 0, 0), -EBADF);
  nfds = 4;
  EXPECT(heddle_channel_recv(fd, &m, body, sizeof body, &body_bytes, tail, 100, fds, &nfds, 0), -EBADF);

  int pair[2];
  EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
  int sent = 0, r;
  while ((r = heddle_channel_send(pair[0], &m, NULL, 0, tail, 20000, NULL, 0, 10)) == 0 && sent < 100000)
    sent++;
  EXPECT(r, -ETIMEDOUT); // nobody reads
  EXPECT(close(pair[1]), 0);
  r = heddle_channel_send(pair[0], &m, NULL, 0, NULL, 0, NULL, 0, 10);
  if (r != -EPIPE && r != -ECONNRESET)
    EXPECT(r, -EPIPE);
  EXPECT(heddle_channel_send(pair[0], &m, NULL, 0, NULL, 0, NULL, 0, 10), -EPIPE); // and no SIGPIPE
  nfds = 4;
  EXPECT(heddle_channel_recv(pair[0], &m, body, sizeof body, &body_bytes, tail, 100, fds, &nfds, 10), -ECONNRESET);

  char path[200];
  memset(path, 'x', sizeof path - 1);
  path[sizeof path - 1] = 0;
  EXPECT(heddle_channel_connect(path, 10), -ENAMETOOLONG);
  EXPECT(heddle_channel_connect("", 10), -EINVAL);
  EXPECT(heddle_channel_connect("/nonexistent/heddle", 10), -ENOENT);
  EXPECT(heddle_channel_connect("@heddle-nobody-listens-here", 10), -ECONNREFUSED);
  free(tail);
  return 0;
}
