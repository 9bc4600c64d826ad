// Messages with file descriptors over a SOCK_SEQPACKET unix socket. docs/protocol.md section 4 is the contract. Thread safety:
// one sender and one receiver at a time on a socket; the session's request lock sees to that.
#ifndef HEDDLE_CHANNEL_H
#define HEDDLE_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "heddle_wire.h"

// Connects to the daemon's socket; waits at most timeout_ms (< 0: for ever) for a place in its backlog. The path may be at most
// 107 bytes; one that starts with '@' is in the abstract namespace. A close-on-exec fd, or -errno: -ENOENT and -ECONNREFUSED when
// nobody listens, -ETIMEDOUT, -ENAMETOOLONG.
int heddle_channel_connect(const char *path, int timeout_ms);

// The body's size for a type of the wire (without HEDDLE_WIRE_REPLY); -1 for one that does not exist.
int heddle_channel_body_bytes(uint32_t type, int is_reply);

// Sends one message. msg->magic and msg->tail_bytes are filled in here; the other fields are the caller's. body_bytes must be what
// the type says (-EINVAL). fds stay the caller's. Waits at most timeout_ms for room in the socket. 0, or -errno: -EMSGSIZE when the
// whole is above HEDDLE_WIRE_MESSAGE_BYTES, -EINVAL for more than HEDDLE_WIRE_MESSAGE_FDS fds, -EPIPE or -ECONNRESET when the peer
// is gone, -ETIMEDOUT. Never raises SIGPIPE.
int heddle_channel_send(int fd, const struct heddle_wire_message *msg, const void *body, size_t body_bytes, const void *tail,
                        size_t tail_bytes, const int *fds, int nfds, int timeout_ms);

// Receives one message. The body must fit body_cap and the tail tail_cap; *body_bytes and msg->tail_bytes tell their sizes, both
// checked against what arrived. *nfds is the capacity of fds before and the count after; fds are close-on-exec and the
// caller's. More fds than that are closed at once. timeout_ms < 0 waits for ever. 0, or -errno with no fd left open:
// -ETIMEDOUT (nothing was consumed), -ECONNRESET when the peer is gone, -EPROTO for a message that the contract does not know
// (unknown type, wrong size, lost or too many fds), -EMSGSIZE when it does not fit the caller's room. After -EPROTO and
// -EMSGSIZE close the socket: the peers no longer agree.
int heddle_channel_recv(int fd, struct heddle_wire_message *msg, void *body, size_t body_cap, size_t *body_bytes, void *tail,
                        size_t tail_cap, int *fds, int *nfds, int timeout_ms);

#endif
