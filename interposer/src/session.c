// One session per (process, GPU): hello, shared files, requests, liveness, the end. Source: docs/protocol.md sections 1 and 4.
#define _GNU_SOURCE
#include "session.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "hooks/hooks.h"
#include "log.h"
#include "memory/memory.h"
#include "order.h"
#include "tools.h"

enum { REQUEST_MS = 60000 }; // loading code takes the executor long, and so does its start beside many clients' own

// What session.h does not show.
static struct device {
  struct heddle_session session;
  pthread_mutex_t request; // one request and its reply at a time
  uint32_t number;         // of the last request; guarded by .request
  char text[HEDDLE_WIRE_MESSAGE_BYTES]; // the tail of the last reply; guarded by .request
  _Atomic int attached;    // the session's fields are set, for good
  _Atomic int tried;       // 1: there is nothing to try any more
  _Atomic int closing;     // somebody closes the session; it is done once
} devices[HEDDLE_MAX_DEVICES];
static pthread_mutex_t attach_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t words_lock = PTHREAD_MUTEX_INITIALIZER;
static CUcontext words_context[HEDDLE_MAX_DEVICES]; // that registered the lane words; guarded by words_lock

static struct device *device_of(struct heddle_session *s) { return &devices[s->device]; }

// ---- counters ----

static _Atomic uint64_t native_counts[HEDDLE_NATIVE_REASONS];
static const char *const native_names[HEDDLE_NATIVE_REASONS] = {
    [HEDDLE_NATIVE_NONE] = "none",
    [HEDDLE_NATIVE_NO_DAEMON] = "no-daemon",
    [HEDDLE_NATIVE_DISABLED] = "disabled",
    [HEDDLE_NATIVE_TOOL] = "tool",
    [HEDDLE_NATIVE_CAPTURE] = "capture",
    [HEDDLE_NATIVE_GRAPH] = "graph",
    [HEDDLE_NATIVE_GRAPH_HOST] = "graph-host",
    [HEDDLE_NATIVE_GRAPH_MEMORY] = "graph-memory",
    [HEDDLE_NATIVE_GRAPH_EVENT] = "graph-event",
    [HEDDLE_NATIVE_GRAPH_REFUSED] = "graph-refused",
    [HEDDLE_NATIVE_GRAPH_CHANGES] = "graph-changes",
    [HEDDLE_NATIVE_UNKNOWN_CODE] = "unknown-code",
    [HEDDLE_NATIVE_REFUSED_CODE] = "refused-code",
    [HEDDLE_NATIVE_GLOBALS] = "globals",
    [HEDDLE_NATIVE_HOST_REGISTERED] = "host-registered",
    [HEDDLE_NATIVE_FOREIGN_MEMORY] = "foreign-memory",
    [HEDDLE_NATIVE_ATTRIBUTE] = "attribute",
    [HEDDLE_NATIVE_ARGUMENT] = "argument",
    [HEDDLE_NATIVE_LANES] = "lanes",
    [HEDDLE_NATIVE_STRAGGLER] = "straggler",
    [HEDDLE_NATIVE_CLOSED] = "closed",
};

void heddle_count_native(enum heddle_native_reason why) {
  if ((unsigned)why < HEDDLE_NATIVE_REASONS) atomic_fetch_add_explicit(&native_counts[why], 1, memory_order_relaxed);
}

static _Atomic int counting; // set when a session was tried: before that there is nothing to report

__attribute__((destructor)) static void report(void) {
  if (!atomic_load(&counting) || !heddle_config()->stats) return;
  char text[400] = "";
  size_t at = 0;
  for (int i = 1; i < HEDDLE_NATIVE_REASONS; i++) {
    unsigned long long n = atomic_load_explicit(&native_counts[i], memory_order_relaxed);
    if (n && at < sizeof text) at += (size_t)snprintf(text + at, sizeof text - at, " %s=%llu", native_names[i], n);
  }
  unsigned long long forwarded = 0;
  for (int i = 0; i < HEDDLE_MAX_DEVICES; i++) forwarded += devices[i].session.forwarded;
  // Asked for by name, so whatever the log level is.
  dprintf(STDERR_FILENO, "heddle[%d]: forwarded=%llu native calls by reason:%s\n", (int)getpid(), forwarded, at ? text : " none");
}

// ---- hello ----

// The socket of the daemon that serves this user: HEDDLE_SOCKET, else the runtime folder's (as controlplane/runtimedir finds it).
// An empty string when there is none.
static void socket_path(char *path, size_t room) {
  const struct heddle_config *c = heddle_config();
  if (c->socket[0]) {
    snprintf(path, room, "%s", c->socket);
    return;
  }
  const char *own = secure_getenv("HEDDLE_RUNTIME_DIR"), *run = secure_getenv("XDG_RUNTIME_DIR");
  for (int i = 0; i < 4; i++) {
    int n = -1;
    if (i == 0 && own && *own) n = snprintf(path, room, "%s/client.sock", own);
    if (i == 1 && run && *run) n = snprintf(path, room, "%s/heddle/client.sock", run);
    if (i == 2) n = snprintf(path, room, "/tmp/heddle-%u/client.sock", (unsigned)getuid());
    if (i == 3) n = snprintf(path, room, "/run/heddle/client.sock");
    struct stat st;
    // Only the system's folder may belong to somebody else: anybody could have prepared the others.
    if (n > 0 && (size_t)n < room && stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && (i == 3 || st.st_uid == getuid())) return;
    if (i == 0 && own && *own) break; // named explicitly: no other
  }
  path[0] = 0;
}

struct greeting {
  struct heddle_wire_welcome welcome;
  int fds[HEDDLE_WIRE_MESSAGE_FDS], nfds;
  uint16_t status;
  char *text;     // the daemon's sentence when the status is not OK: HEDDLE_WIRE_MESSAGE_BYTES of room
};

static int hello(int fd, CUdevice device, int timeout_ms, struct greeting *g) {
  CUuuid uuid = {{0}};
  size_t total = 0;
  CUresult r = heddle_real.cuDeviceGetUuid_v2 ? heddle_real.cuDeviceGetUuid_v2(&uuid, device) : heddle_real.cuDeviceGetUuid(&uuid, device);
  if (r != CUDA_SUCCESS || heddle_real.cuDeviceTotalMem_v2(&total, device) != CUDA_SUCCESS) return -ENODEV;
  struct heddle_wire_hello h = {.version = HEDDLE_WIRE_VERSION, .pid = (uint32_t)getpid(), .layout_hash = HEDDLE_WIRE_LAYOUT_HASH, .device_bytes = total};
  memcpy(h.device_uuid, uuid.bytes, sizeof h.device_uuid);
  memcpy(h.label, heddle_config()->label, sizeof h.label);
  struct heddle_wire_message m = {.type = HEDDLE_WIRE_TYPE_HELLO, .request = 1};
  int e = heddle_channel_send(fd, &m, &h, sizeof h, NULL, 0, NULL, 0, timeout_ms);
  if (e) return e;
  size_t body = 0;
  g->nfds = HEDDLE_WIRE_MESSAGE_FDS;
  e = heddle_channel_recv(fd, &m, &g->welcome, sizeof g->welcome, &body, g->text, HEDDLE_WIRE_MESSAGE_BYTES - 1, g->fds, &g->nfds, timeout_ms);
  if (e) {
    g->nfds = 0;
    return e;
  }
  g->text[m.tail_bytes] = 0;
  g->status = m.status;
  if (m.type != (HEDDLE_WIRE_TYPE_HELLO | HEDDLE_WIRE_REPLY) || m.request != 1 || body != sizeof g->welcome) return -EPROTO;
  return 0;
}

// Maps both files and fills the session. False: *why says what was wrong.
static bool map_files(struct heddle_session *s, const struct greeting *g, const char **why) {
  size_t bytes = 0, bell_bytes = 0;
  void *map = NULL, *bell = NULL;
  *why = "it did not send the session file and the doorbell file";
  if (g->nfds != 2) return false;
  *why = "its session file cannot be mapped, or is not sealed";
  if (heddle_file_map(g->fds[0], g->welcome.session_bytes, &map, &bytes) != 0) return false;
  *why = "its doorbell file cannot be mapped, or is not sealed";
  if (heddle_file_map(g->fds[1], 0, &bell, &bell_bytes) != 0 || bell_bytes < HEDDLE_WIRE_PAGE) goto unmap;
  *why = "its session file has another layout";
  if (heddle_ring_init(&s->ring, map, bytes, bell) != 0) goto unmap;
  const struct heddle_wire_session_header *h = map;
  uint64_t lanes = h->lanes_offset, replies = h->replies_offset, status = h->status_offset;
  if (h->lanes != HEDDLE_WIRE_LANES || h->replies != HEDDLE_WIRE_REPLIES) goto unmap;
  // heddle_ring_init looked at the offsets; they are read once more here, so they are bounded once more.
  if (lanes % 64 || lanes > bytes || bytes - lanes < HEDDLE_WIRE_LANES * sizeof(struct heddle_wire_lane) || replies % 64 || replies > bytes ||
      bytes - replies < HEDDLE_WIRE_REPLIES * sizeof(struct heddle_wire_reply) || status % 64 || status > bytes || bytes - status < 64)
    goto unmap;
  // A forked child must not reach into the parent's queue.
  madvise(map, bytes, MADV_DONTFORK);
  madvise(bell, bell_bytes, MADV_DONTFORK);
  s->map = map;
  s->map_bytes = bytes;
  s->doorbell = bell;
  s->lanes = (struct heddle_wire_lane *)((char *)map + lanes);
  s->replies = (struct heddle_wire_reply *)((char *)map + replies);
  s->status = (struct heddle_wire_session_status *)((char *)map + status);
  return true;
unmap:
  munmap(map, bytes);
  if (bell) munmap(bell, bell_bytes);
  return false;
}

// How much longer than for the connection a client waits for the answer to its HELLO.
enum { HELLO_PATIENCE = 30 };

static bool attach(struct device *d, CUdevice device) {
  struct heddle_session *s = &d->session;
  const char *why = "";
  char path[108];
  if (heddle_tools_active(&why)) {
    heddle_log(HEDDLE_LOG_WARN, "device %d: running natively because of %s (HEDDLE_FORCE=1 overrides)", device, why);
    heddle_count_native(HEDDLE_NATIVE_TOOL);
    return false;
  }
  atomic_store(&counting, 1);
  socket_path(path, sizeof path);
  if (!path[0]) {
    heddle_log(HEDDLE_LOG_WARN, "device %d: no daemon's socket found: running natively (start the program with `heddle run`, or set HEDDLE_SOCKET)", device);
    heddle_count_native(HEDDLE_NATIVE_NO_DAEMON);
    return false;
  }
  int fd = heddle_channel_connect(path, heddle_config()->connect_ms);
  struct greeting g = {.nfds = 0, .text = d->text};
  // A daemon that took the connection lives. Its first executor needs a context, for which the driver lets it queue behind those
  // of all the clients that start with it: 0.2 s each.
  int e = fd < 0 ? fd : hello(fd, device, HELLO_PATIENCE * heddle_config()->connect_ms, &g);
  bool ok = false;
  if (e < 0) {
    heddle_log(HEDDLE_LOG_WARN, "device %d: no daemon at %s (%s): running natively", device, path, strerror(-e));
  } else if (g.status != HEDDLE_WIRE_STATUS_OK) {
    heddle_log(HEDDLE_LOG_WARN, "device %d: the daemon at %s declined (status %u: %s): running natively", device, path, g.status, g.text);
  } else {
    s->device = device;
    s->client_id = g.welcome.client_id;
    s->window_base = g.welcome.window_base;
    s->window_bytes = g.welcome.window_bytes;
    s->host_base = g.welcome.host_base;
    s->host_bytes = g.welcome.host_bytes;
    ok = map_files(s, &g, &why);
    if (!ok) heddle_log(HEDDLE_LOG_WARN, "device %d: the daemon at %s is of another build (%s): running natively", device, path, why);
  }
  for (int i = 0; i < g.nfds; i++) close(g.fds[i]);
  if (!ok) {
    if (fd >= 0) close(fd);
    heddle_count_native(HEDDLE_NATIVE_NO_DAEMON);
    return false;
  }
  s->socket = fd;
  d->number = 1;
  pthread_mutex_init(&d->request, NULL);
  atomic_store_explicit(&s->live, 1, memory_order_release);
  if (heddle_memory_attach(s)) return true;
  // Nothing was forwarded yet, so there is nothing to finish.
  atomic_store_explicit(&s->live, 0, memory_order_release);
  if (s->socket >= 0) close(s->socket);
  s->socket = -1;
  heddle_count_native(HEDDLE_NATIVE_NO_DAEMON);
  return false;
}

struct heddle_session *heddle_session_peek(CUdevice device) {
  if (device < 0 || device >= HEDDLE_MAX_DEVICES) return NULL;
  return atomic_load_explicit(&devices[device].attached, memory_order_acquire) ? &devices[device].session : NULL;
}

struct heddle_session *heddle_session_of_device(CUdevice device) {
  if (device < 0 || device >= HEDDLE_MAX_DEVICES) return NULL;
  struct device *d = &devices[device];
  if (!atomic_load_explicit(&d->tried, memory_order_acquire)) {
    if (!heddle_hooks_on()) return NULL;
    static _Thread_local bool attaching; // the driver's own calls during an attach may come back to a hook
    if (attaching) return NULL;
    attaching = true;
    pthread_mutex_lock(&attach_lock);
    if (!atomic_load_explicit(&d->tried, memory_order_relaxed)) {
      CUstreamCaptureMode mode = heddle_capture_relax();
      if (attach(d, device)) {
        atomic_store_explicit(&d->attached, 1, memory_order_release);
      } else if (heddle_config()->require) { // whatever HEDDLE_LOG says
        dprintf(STDERR_FILENO, "heddle: device %d cannot be used through Heddle, and --require forbids native runs; `heddle doctor` may know more\n", device);
        _exit(3);
      }
      heddle_capture_restore(mode);
      atomic_store_explicit(&d->tried, 1, memory_order_release);
    }
    pthread_mutex_unlock(&attach_lock);
    attaching = false;
  }
  struct heddle_session *s = &d->session;
  return atomic_load_explicit(&s->live, memory_order_acquire) ? s : NULL;
}

struct heddle_session *heddle_session_current(void) {
  CUdevice device;
  return heddle_real.cuCtxGetDevice(&device) == CUDA_SUCCESS ? heddle_session_of_device(device) : NULL;
}

// ---- requests ----

// The exchange itself, under the request lock. The status, or -errno when the connection is of no more use.
static int exchange(struct device *d, uint16_t type, const void *body, size_t body_bytes, const void *tail, size_t tail_bytes,
                    const int *fds_in, int nfds_in, void *reply_body, size_t reply_bytes, int *fds_out, int *nfds_out) {
  struct heddle_session *s = &d->session;
  char room[256];
  int fds[HEDDLE_WIRE_MESSAGE_FDS], nfds = HEDDLE_WIRE_MESSAGE_FDS;
  if (s->socket < 0) return -EPIPE;
  if (++d->number == 0) d->number = 1;
  uint32_t number = d->number;
  struct heddle_wire_message m = {.type = type, .request = number, .client_id = s->client_id};
  int e = heddle_channel_send(s->socket, &m, body, body_bytes, tail, tail_bytes, fds_in, nfds_in, REQUEST_MS);
  if (e) return e;
  size_t got = 0;
  e = heddle_channel_recv(s->socket, &m, room, sizeof room, &got, d->text, sizeof d->text - 1, fds, &nfds, REQUEST_MS);
  if (e) return e;
  if (m.type != (type | HEDDLE_WIRE_REPLY) || m.request != number || got > sizeof room || (fds_out == NULL && nfds > 0)) {
    for (int i = 0; i < nfds; i++) close(fds[i]);
    return -EPROTO;
  }
  d->text[m.tail_bytes] = 0;
  if (reply_body) {
    memset(reply_body, 0, reply_bytes);
    memcpy(reply_body, room, got < reply_bytes ? got : reply_bytes);
  }
  *nfds_out = nfds;
  for (int i = 0; i < nfds; i++) fds_out[i] = fds[i];
  if (m.status > HEDDLE_WIRE_STATUS_NEED)
    heddle_log(m.status == HEDDLE_WIRE_STATUS_REFUSED ? HEDDLE_LOG_INFO : HEDDLE_LOG_WARN, "device %d: the daemon answered request type %u with status %u: %s",
               s->device, type, m.status, d->text);
  return m.status;
}

int heddle_session_request(struct heddle_session *s, uint16_t type, const void *body, size_t body_bytes, const void *tail, size_t tail_bytes,
                           const int *fds_in, int nfds_in, void *reply_body, size_t reply_bytes, int *fds_out, int *nfds_out) {
  struct device *d = device_of(s);
  *nfds_out = 0;
  if (!atomic_load_explicit(&s->live, memory_order_acquire)) return -1;
  pthread_mutex_lock(&d->request);
  int status = exchange(d, type, body, body_bytes, tail, tail_bytes, fds_in, nfds_in, reply_body, reply_bytes, fds_out, nfds_out);
  pthread_mutex_unlock(&d->request);
  if (status >= 0) return status;
  if (!atomic_load(&d->closing))
    heddle_log(HEDDLE_LOG_WARN, "device %d: request type %u failed (%s): the daemon is gone or hangs", s->device, type, strerror(-status));
  heddle_session_close(s, HEDDLE_NATIVE_CLOSED);
  return -1;
}

bool heddle_session_daemon_alive(struct heddle_session *s) {
  int fd = __atomic_load_n(&s->socket, __ATOMIC_ACQUIRE);
  if (fd < 0 || atomic_load(&device_of(s)->closing)) return false;
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  return poll(&p, 1, 0) <= 0 || !(p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

// ---- the end ----

void heddle_session_close(struct heddle_session *s, enum heddle_native_reason why) {
  struct device *d = device_of(s);
  heddle_order_finish_alone(s); // idempotent; returns when nothing forwarded is left to do
  if (atomic_exchange(&d->closing, 1)) return;
  atomic_store_explicit(&s->live, 0, memory_order_release);
  heddle_count_native(why);
  heddle_log(HEDDLE_LOG_WARN, "device %d: session closed (%s); this process goes on natively", s->device, native_names[why]);
  // A thread may sit in a request: wake it, then take the socket away under its lock.
  shutdown(s->socket, SHUT_RDWR);
  pthread_mutex_lock(&d->request);
  int fd = s->socket;
  __atomic_store_n(&s->socket, -1, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&d->request);
  if (fd >= 0) close(fd);
}

void heddle_session_forked(void) {
  // Single-threaded child: no lock is needed, and some may be held by threads that do not exist here. The shared files are not
  // mapped in it (MADV_DONTFORK), and the daemon knows the session by the parent's pid.
  for (int i = 0; i < HEDDLE_MAX_DEVICES; i++) {
    struct device *d = &devices[i];
    if (!atomic_load(&d->attached)) continue;
    atomic_store(&d->session.live, 0);
    atomic_store(&d->closing, 1);
    atomic_store(&d->tried, 1);
    atomic_store(&d->attached, 0);
    if (d->session.socket >= 0) close(d->session.socket);
    d->session.socket = -1;
  }
  atomic_store(&counting, 0);
}

// ---- lane words ----

CUresult heddle_session_register_words(struct heddle_session *s) {
  if (__atomic_load_n(&s->lanes_device, __ATOMIC_ACQUIRE)) return CUDA_SUCCESS;
  pthread_mutex_lock(&words_lock);
  CUresult r = CUDA_SUCCESS;
  if (!s->lanes_device) {
    uintptr_t first = (uintptr_t)s->lanes & ~(uintptr_t)(HEDDLE_WIRE_PAGE - 1);
    uintptr_t end = ((uintptr_t)(s->lanes + HEDDLE_WIRE_LANES) + HEDDLE_WIRE_PAGE - 1) & ~(uintptr_t)(HEDDLE_WIRE_PAGE - 1);
    CUdeviceptr device = 0;
    CUstreamCaptureMode mode = heddle_capture_relax();
    r = heddle_real.cuMemHostRegister_v2((void *)first, end - first, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    if (r == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED) r = CUDA_SUCCESS;
    if (r == CUDA_SUCCESS) r = heddle_real.cuMemHostGetDevicePointer_v2(&device, (void *)first, 0);
    heddle_capture_restore(mode);
    if (r == CUDA_SUCCESS) {
      heddle_real.cuCtxGetCurrent(&words_context[s->device]);
      __atomic_store_n(&s->lanes_device, device + ((uintptr_t)s->lanes - first), __ATOMIC_RELEASE);
    }
  }
  pthread_mutex_unlock(&words_lock);
  return r;
}

void heddle_session_context_gone(CUcontext context) {
  pthread_mutex_lock(&words_lock);
  for (int i = 0; i < HEDDLE_MAX_DEVICES; i++) {
    if (!context || words_context[i] != context) continue;
    words_context[i] = NULL; // its registrations went with it; the next use registers anew
    __atomic_store_n(&devices[i].session.lanes_device, 0, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&words_lock);
}
