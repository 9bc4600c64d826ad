// Graphs that the executor has, by the daemon's numbers. Source: docs/protocol.md section 4, GRAPH and GRAPH_DROP.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../log.h"
#include "inner.h"

static struct heddle_mutex lock; // guards the list; a leaf
static struct heddle_mirror *mirrors;

const unsigned char *heddle_graph_records(struct heddle_session *s, uint32_t id, uint64_t *bytes) {
  const unsigned char *found = NULL;
  heddle_mutex_lock(&lock);
  for (struct heddle_mirror *m = mirrors; m != NULL && found == NULL; m = m->next)
    if (m->id == id && m->session == s) {
      found = m->records;
      *bytes = m->bytes;
    }
  heddle_mutex_unlock(&lock);
  return found;
}

// What a record names, in out[0..2); how many.
static uint32_t names(const struct heddle_wire_record *r, struct heddle_extent *out) {
  const unsigned char *body = heddle_record_body(r);
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_MEMSET: {
    const struct heddle_wire_memset *w = (const struct heddle_wire_memset *)body;
    out[0] = (struct heddle_extent){w->dst, w->dst + w->pitch * (w->height - 1) + w->width * w->element};
    return 1;
  }
  case HEDDLE_WIRE_KIND_COPY: {
    const struct heddle_wire_copy *w = (const struct heddle_wire_copy *)body;
    out[0] = (struct heddle_extent){w->dst, w->dst + w->bytes};
    out[1] = (struct heddle_extent){w->src, w->src + w->bytes};
    return 2;
  }
  case HEDDLE_WIRE_KIND_COPY3D: {
    const struct heddle_wire_copy3d *w = (const struct heddle_wire_copy3d *)body;
    out[0] = (struct heddle_extent){w->dst, w->dst + ((w->depth - 1) * w->dst_height + w->height - 1) * w->dst_pitch + w->width};
    out[1] = (struct heddle_extent){w->src, w->src + ((w->depth - 1) * w->src_height + w->height - 1) * w->src_pitch + w->width};
    return 2;
  }
  default: return 0;
  }
}

// Notes what m names. False: no host memory.
static bool note_names(struct heddle_mirror *m) {
  struct heddle_extent e[2];
  uint32_t n = 0;
  for (int pass = 0; pass < 2; pass++) {
    n = 0;
    for (uint64_t at = 0; at < m->bytes; at += ((const struct heddle_wire_record *)(m->records + at))->size) {
      uint32_t these = names((const struct heddle_wire_record *)(m->records + at), e);
      for (uint32_t i = 0; i < these && pass == 1; i++) {
        m->named[n + i] = e[i];
        if (m->all.end == 0 || e[i].first < m->all.first) m->all.first = e[i].first;
        if (e[i].end > m->all.end) m->all.end = e[i].end;
      }
      n += these;
    }
    if (n == 0) return true;
    if (pass == 0 && (m->named = malloc(n * sizeof *m->named)) == NULL) return false;
  }
  m->nnamed = n;
  return true;
}

static bool overlaps(struct heddle_extent a, struct heddle_extent b) { return a.first < b.end && b.first < a.end; }

void heddle_graph_memory_gone(struct heddle_session *s, uint64_t address, uint64_t bytes) {
  struct heddle_extent gone = {address, address + bytes};
  heddle_mutex_lock(&lock);
  for (struct heddle_mirror *m = mirrors; m != NULL; m = m->next)
    for (uint32_t i = 0; i < m->nnamed && m->session == s && !m->dropped && !m->stale && overlaps(m->all, gone); i++) m->stale = overlaps(m->named[i], gone);
  heddle_mutex_unlock(&lock);
}

// Whether another executor than the one that took it has it too.
static bool taken_over(struct heddle_mirror *m) {
  uint32_t epoch = heddle_load_acquire32(&m->session->status->epoch);
  if (epoch == m->epoch || !heddle_session_live(m->session)) return true;
  struct heddle_wire_graph ask = {.graph_id = m->id}, reply;
  int nfds = 0;
  int status = heddle_session_request(m->session, HEDDLE_WIRE_TYPE_GRAPH, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, NULL, &nfds);
  if (status == HEDDLE_WIRE_STATUS_OK) m->epoch = epoch;
  return status <= HEDDLE_WIRE_STATUS_OK; // below: the session is over, and whoever launches notices
}

bool heddle_mirror_stale(struct heddle_mirror *m) {
  if (!taken_over(m)) return true;
  heddle_mutex_lock(&lock);
  bool stale = m->stale;
  heddle_mutex_unlock(&lock);
  return stale;
}

static bool over(const struct heddle_mirror *m) {
  struct heddle_shared *h = heddle_shared_of(m->session);
  if (h == NULL || atomic_load(&h->alone) == 2) return true; // finished here, or given up
  for (uint32_t i = 0; i < m->nlast; i++)
    if (!heddle_lane_done(m->session, m->last[i].lane, m->last[i].value)) return false;
  return true;
}

static void mirror_free(struct heddle_mirror *m) {
  munmap((void *)(uintptr_t)m->records, m->bytes);
  free(m->named);
  free(m->last);
  free(m);
}

// Frees dropped ones whose launches are done; *live receives how many of s are left.
static void sweep(struct heddle_session *s, uint32_t *live) {
  struct heddle_mirror *gone = NULL;
  *live = 0;
  heddle_mutex_lock(&lock);
  for (struct heddle_mirror **p = &mirrors; *p != NULL;) {
    struct heddle_mirror *m = *p;
    if (m->dropped && over(m)) {
      *p = m->next;
      m->next = gone;
      gone = m;
      continue;
    }
    if (m->session == s && !m->dropped) ++*live;
    p = &m->next;
  }
  heddle_mutex_unlock(&lock);
  while (gone != NULL) {
    struct heddle_mirror *next = gone->next;
    mirror_free(gone);
    gone = next;
  }
}

// A file with the records that nobody can change any more; -errno.
static int sealed(const struct heddle_records *r) {
  int fd = memfd_create("heddle-graph", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  for (size_t at = 0; at < r->bytes;) {
    ssize_t w = write(fd, r->at + at, r->bytes - at);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) {
      int e = errno;
      close(fd);
      return -e;
    }
    at += (size_t)w;
  }
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) return fd;
  int e = errno;
  close(fd);
  return -e;
}

struct heddle_mirror *heddle_mirror_make(struct heddle_session *s, const struct heddle_records *r, enum heddle_native_reason *why) {
  uint32_t live = 0;
  *why = HEDDLE_NATIVE_GRAPH_REFUSED;
  sweep(s, &live);
  if (live >= HEDDLE_WIRE_MAX_GRAPHS) {
    heddle_log(HEDDLE_LOG_INFO, "device %d: a graph of %u nodes runs natively: this process has %u already, and a session may have no more", s->device,
               r->nodes, live);
    return NULL;
  }
  struct heddle_mirror *m = calloc(1, sizeof *m);
  int fd = m == NULL ? -ENOMEM : sealed(r);
  const unsigned char *records = fd < 0 ? MAP_FAILED : mmap(NULL, r->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  if (records == MAP_FAILED) {
    heddle_log(HEDDLE_LOG_WARN, "device %d: a graph of %u nodes runs natively: no file for its %zu bytes (%s)", s->device, r->nodes, r->bytes,
               strerror(fd < 0 ? -fd : errno));
    if (fd >= 0) close(fd);
    free(m);
    return NULL;
  }
  *m = (struct heddle_mirror){.session = s, .bytes = r->bytes, .records = records, .epoch = heddle_load_acquire32(&s->status->epoch)};
  struct heddle_wire_graph ask = {.bytes = r->bytes, .nodes = r->nodes}, reply = {0};
  int nfds = 0;
  int status = HEDDLE_WIRE_STATUS_NO_MEMORY;
  if (note_names(m)) status = heddle_session_request(s, HEDDLE_WIRE_TYPE_GRAPH, &ask, sizeof ask, NULL, 0, &fd, 1, &reply, sizeof reply, NULL, &nfds);
  close(fd);
  if (status != HEDDLE_WIRE_STATUS_OK || reply.graph_id == 0) {
    if (status < 0) *why = HEDDLE_NATIVE_CLOSED;
    mirror_free(m);
    return NULL;
  }
  m->id = reply.graph_id;
  heddle_mutex_lock(&lock);
  m->next = mirrors;
  mirrors = m;
  heddle_mutex_unlock(&lock);
  return m;
}

bool heddle_mirror_launch_room(struct heddle_mirror *m) {
  uint32_t kept = 0;
  heddle_mutex_lock(&lock);
  for (uint32_t i = 0; i < m->nlast; i++)
    if (!heddle_lane_done(m->session, m->last[i].lane, m->last[i].value)) m->last[kept++] = m->last[i];
  m->nlast = kept;
  bool room = kept < m->room;
  if (!room) {
    struct heddle_wire_dep *grown = realloc(m->last, (2 * m->room + 4) * sizeof *grown);
    room = grown != NULL;
    if (room) {
      m->last = grown;
      m->room = 2 * m->room + 4;
    }
  }
  heddle_mutex_unlock(&lock);
  return room;
}

void heddle_mirror_launched(struct heddle_mirror *m, uint32_t lane, uint32_t seq) {
  heddle_mutex_lock(&lock);
  uint32_t i = 0;
  while (i < m->nlast && m->last[i].lane != lane) i++;
  m->last[i] = (struct heddle_wire_dep){lane, seq};
  if (i == m->nlast) m->nlast++;
  heddle_mutex_unlock(&lock);
}

void heddle_mirror_drop(struct heddle_mirror *m) {
  struct heddle_session *s = m->session;
  uint32_t live, id = m->id;
  heddle_mutex_lock(&lock);
  m->dropped = true;
  heddle_mutex_unlock(&lock);
  if (heddle_session_live(s)) {
    struct heddle_wire_graph ask = {.graph_id = id}, reply;
    int nfds = 0;
    (void)heddle_session_request(s, HEDDLE_WIRE_TYPE_GRAPH_DROP, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, NULL, &nfds);
  }
  sweep(s, &live);
}
