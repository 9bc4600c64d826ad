#define _GNU_SOURCE
#include "heddle_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t deadline_of(int timeout_ms) { return timeout_ms < 0 ? INT64_MAX : now_ms() + timeout_ms; }

// Waits for an event on fd until the deadline; 0, -ETIMEDOUT or -errno. Hang-up counts as ready: the call that follows tells.
static int wait_for(int fd, short events, int64_t deadline) {
  for (;;) {
    int timeout = -1;
    if (deadline != INT64_MAX) {
      int64_t left = deadline - now_ms();
      timeout = left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
    }
    struct pollfd p = {fd, events, 0};
    int n = poll(&p, 1, timeout);
    if (n > 0)
      return p.revents & POLLNVAL ? -EBADF : 0;
    if (n == 0)
      return -ETIMEDOUT;
    if (errno != EINTR)
      return -errno;
  }
}

int heddle_channel_connect(const char *path, int timeout_ms) {
  struct sockaddr_un address;
  size_t n = strlen(path);
  if (n == 0)
    return -EINVAL;
  if (n >= sizeof address.sun_path)
    return -ENAMETOOLONG;
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path, n);
  if (path[0] == '@')
    address.sun_path[0] = 0;
  socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '@' ? 0 : 1));
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  int64_t deadline = deadline_of(timeout_ms);
  for (;;) {
    // A blocking connect of a unix socket waits for a place in the listener's backlog as long as SO_SNDTIMEO says.
    int64_t left = deadline == INT64_MAX ? 0 : deadline - now_ms();
    int error = ETIMEDOUT;
    if (deadline == INT64_MAX || left > 0) {
      struct timeval tv = {left / 1000, (left % 1000) * 1000};
      if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) == 0 && connect(fd, (struct sockaddr *)&address, bytes) == 0) {
        tv = (struct timeval){0, 0};
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        return fd;
      }
      error = errno;
    }
    if (error == EINTR)
      continue;
    close(fd);
    return error == EAGAIN ? -ETIMEDOUT : -error;
  }
}

int heddle_channel_body_bytes(uint32_t type, int is_reply) { return heddle_wire_body_bytes(type, is_reply); }

// The body's size for a header's type word, or -1.
static int body_of(uint16_t type) {
  return heddle_wire_body_bytes(type & ~HEDDLE_WIRE_REPLY, (type & HEDDLE_WIRE_REPLY) != 0);
}

int heddle_channel_send(int fd, const struct heddle_wire_message *msg, const void *body, size_t body_bytes, const void *tail,
                        size_t tail_bytes, const int *fds, int nfds, int timeout_ms) {
  struct heddle_wire_message header = *msg;
  int expected = body_of(header.type);
  if (expected < 0 || body_bytes != (size_t)expected || nfds < 0 || nfds > (int)HEDDLE_WIRE_MESSAGE_FDS)
    return -EINVAL;
  if (tail_bytes > HEDDLE_WIRE_MESSAGE_BYTES - sizeof header - body_bytes)
    return -EMSGSIZE;
  header.magic = (uint32_t)HEDDLE_WIRE_MESSAGE_MAGIC;
  header.tail_bytes = (uint32_t)tail_bytes;
  struct iovec parts[3] = {{&header, sizeof header}, {(void *)(uintptr_t)body, body_bytes}, {(void *)(uintptr_t)tail, tail_bytes}};
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * HEDDLE_WIRE_MESSAGE_FDS)];
  } control;
  struct msghdr m = {.msg_iov = parts, .msg_iovlen = 3};
  if (nfds > 0) {
    memset(&control, 0, sizeof control);
    m.msg_control = control.bytes;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
  }
  int64_t deadline = deadline_of(timeout_ms);
  for (;;) {
    // Non-blocking, so that the deadline holds whatever the socket's own mode is; a packet is sent whole or not at all.
    if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
      return 0;
    if (errno == EAGAIN) {
      int r = wait_for(fd, POLLOUT, deadline);
      if (r != 0)
        return r;
    } else if (errno != EINTR) {
      return -errno;
    }
  }
}

// Room for more fds than a message may carry: the kernel then gives us all of them to close instead of truncating.
#define ROOM_FDS (HEDDLE_WIRE_MESSAGE_FDS + 4)

// Takes every descriptor out of a received message: the first `cap` into fds, the rest is closed. *kept is how many lie in fds.
// The total that arrived, or -1 when the kernel had to drop some.
static int take_fds(struct msghdr *m, int *fds, int cap, int *kept) {
  int total = 0;
  *kept = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++, total++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      if (*kept < cap)
        fds[(*kept)++] = fd;
      else
        close(fd);
    }
  }
  return m->msg_flags & MSG_CTRUNC ? -1 : total;
}

int heddle_channel_recv(int fd, struct heddle_wire_message *msg, void *body, size_t body_cap, size_t *body_bytes, void *tail,
                        size_t tail_cap, int *fds, int *nfds, int timeout_ms) {
  int64_t deadline = deadline_of(timeout_ms);
  int cap = *nfds < 0 ? 0 : *nfds > (int)HEDDLE_WIRE_MESSAGE_FDS ? (int)HEDDLE_WIRE_MESSAGE_FDS : *nfds;
  ssize_t n;
  *nfds = 0;
  *body_bytes = 0;
  // The header first, without taking the packet, because its type decides where the rest goes.
  for (;;) {
    n = recv(fd, msg, sizeof *msg, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
    if (n >= 0)
      break;
    if (errno == EAGAIN) {
      int r = wait_for(fd, POLLIN, deadline);
      if (r != 0)
        return r;
    } else if (errno != EINTR) {
      return -errno;
    }
  }
  if (n == 0)
    return -ECONNRESET; // our messages are never empty: end of file
  if (n < (ssize_t)sizeof *msg || n > (ssize_t)HEDDLE_WIRE_MESSAGE_BYTES || msg->magic != HEDDLE_WIRE_MESSAGE_MAGIC)
    return -EPROTO;
  int expected = body_of(msg->type);
  if (expected < 0 || (uint64_t)n != sizeof *msg + (uint64_t)expected + msg->tail_bytes)
    return -EPROTO;
  if ((size_t)expected > body_cap || msg->tail_bytes > tail_cap)
    return -EMSGSIZE;

  struct heddle_wire_message again;
  struct iovec parts[3] = {{&again, sizeof again}, {body, (size_t)expected}, {tail, msg->tail_bytes}};
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * ROOM_FDS)];
  } control;
  struct msghdr m = {.msg_iov = parts, .msg_iovlen = 3, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  ssize_t got;
  do
    got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return -errno;
  int kept, total = take_fds(&m, fds, cap, &kept);
  bool same = got == n && memcmp(&again, msg, sizeof again) == 0; // false: somebody else reads this socket
  if (total < 0 || total > (int)HEDDLE_WIRE_MESSAGE_FDS || (m.msg_flags & MSG_TRUNC) != 0 || !same) {
    while (kept > 0)
      close(fds[--kept]);
    return -EPROTO;
  }
  *nfds = kept;
  *body_bytes = (size_t)expected;
  return 0;
}
