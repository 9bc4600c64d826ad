// The C receiver and the C checks of a session file against hostile bytes, under the address and undefined-behaviour sanitizers.
// Reads packets from stdin (u32 length, u32 fds, bytes), sends each over a socket pair, and receives it with heddle_channel_recv.
// Then gives heddle_ring_init every header that differs from a good one in one word. Prints "ok ACCEPTED REFUSED HEADERS".
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "heddle_channel.h"
#include "heddle_hash.h"
#include "heddle_ring.h"

static int open_fds(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  while (readdir(d) != NULL)
    n++;
  closedir(d);
  return n;
}

static void send_raw(int fd, const unsigned char *p, size_t n, int fds) {
  int zeros[64] = {0};
  char control[CMSG_SPACE(sizeof zeros)];
  struct iovec part = {(void *)p, n};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
  if (fds > 0) {
    memset(control, 0, sizeof control);
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)fds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)fds);
    memcpy(CMSG_DATA(c), zeros, sizeof(int) * (size_t)fds);
  }
  if (sendmsg(fd, &m, 0) < 0)
    perror("sendmsg"), exit(3);
}

static int receive(int fd, size_t *tail_bytes) {
  struct heddle_wire_message m;
  // Exact sizes, so that the sanitizer sees one byte too many.
  unsigned char *body = malloc(128), *tail = malloc(4096);
  int fds[2], nfds = 2;
  size_t body_bytes;
  int r = heddle_channel_recv(fd, &m, body, 128, &body_bytes, tail, 4096, fds, &nfds, 0);
  *tail_bytes = 0;
  if (r == 0) {
    *tail_bytes = m.tail_bytes;
    if (body_bytes > 128 || m.tail_bytes > 4096 || nfds > 2)
      abort();
    (void)heddle_hash64(body, body_bytes, heddle_hash64(tail, m.tail_bytes, 0));
    for (int i = 0; i < nfds; i++)
      if (close(fds[i]) != 0)
        abort();
  } else if (nfds != 0) {
    abort();
  }
  free(body);
  free(tail);
  return r;
}

int main(void) {
  int accepted = 0, refused = 0, headers = 0, before = open_fds();
  uint32_t head[2];
  while (fread(head, sizeof head, 1, stdin) == 1) {
    unsigned char *packet = malloc(head[0] + 1);
    int pair[2];
    size_t tail_bytes;
    if ((head[0] != 0 && fread(packet, head[0], 1, stdin) != 1) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
      return 3;
    send_raw(pair[0], packet, head[0], (int)head[1]);
    int r = receive(pair[1], &tail_bytes);
    if (r == 0)
      accepted++;
    else if (r == -EPROTO || r == -EMSGSIZE || (r == -ECONNRESET && head[0] == 0))
      refused++;
    else
      fprintf(stderr, "hostile: error %d\n", r), exit(4);
    close(pair[0]);
    close(pair[1]);
    free(packet);
  }
  if (open_fds() != before)
    fprintf(stderr, "hostile: %d fds before, %d after\n", before, open_fds()), exit(5);

  size_t bytes = 143360 + 65536;
  unsigned char *session = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *good = malloc(4096);
  struct heddle_wire_doorbell *bell = calloc(1, 4096);
  bell->magic = HEDDLE_WIRE_DOORBELL_MAGIC;
  bell->layout_hash = HEDDLE_WIRE_LAYOUT_HASH;
  struct heddle_wire_session_header h = {
      .magic = HEDDLE_WIRE_MAGIC, .layout_hash = HEDDLE_WIRE_LAYOUT_HASH, .version = HEDDLE_WIRE_VERSION,
      .lanes = HEDDLE_WIRE_LANES, .file_bytes = bytes, .status_offset = 4096, .producer_offset = 4224,
      .consumer_offset = 4352, .replies_offset = 8192, .lanes_offset = 12288, .ring_offset = 143360,
      .ring_bytes = 65536, .replies = HEDDLE_WIRE_REPLIES};
  struct heddle_ring ring;
  memcpy(session, &h, sizeof h);
  if (heddle_ring_init(&ring, session, bytes, bell) != 0)
    return 6;
  memcpy(good, session, 4096);
  const uint32_t values[] = {0, 1, 15, 64, 4095, 4096, 65536, 143360, 0x7fffffff, 0x80000000, 0xffffffc0, 0xffffffff};
  for (size_t word = 0; word < sizeof h / 4; word++)
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
      memcpy(session, good, 4096);
      memcpy(session + 4 * word, &values[v], 4);
      headers++;
      if (heddle_ring_init(&ring, session, bytes, bell) != 0)
        continue;
      // Accepted: then everything that the ring may touch is inside the mapping.
      unsigned char *end = session + bytes;
      if (ring.data < session + 4096 || ring.data + ring.size > end || (unsigned char *)(ring.producer + 1) > end ||
          (unsigned char *)(ring.consumer + 1) > end)
        abort();
      void *p = heddle_ring_reserve(&ring, (uint32_t)(ring.size / 4));
      if (p != NULL)
        memset(p, 1, ring.size / 4);
      memset(session + 4096, 0, bytes - 4096);
    }
  free(good);
  free(bell);
  printf("ok %d %d %d\n", accepted, refused, headers);
  return 0;
}
