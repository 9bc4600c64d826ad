// Memory that one client gives another by cuIpcGetMemHandle. The driver has no such handle of memory that cuMemCreate made, so ours is a
// secret number that the daemon knows; who opens it gets the segment's descriptor and maps it like memory of his own: at an address of
// his windows, here and in the executor. Source: CUDA driver API, cuIpcGetMemHandle and those beside it; docs/protocol.md section 4.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../hooks/hooks.h"
#include "../lane.h"
#include "../log.h"
#include "inner.h"

// What stands in the 64 bytes of a handle of ours; the rest is 0. The driver's own begin with numbers of its own.
struct handle {
  char mark[16];
  uint64_t token[2];
};
static const char our_mark[16] = "heddle shared 1";
_Static_assert(sizeof(struct handle) <= CU_IPC_HANDLE_SIZE, "a handle has 64 bytes");

// Held while something is opened or closed, across requests and driver calls; taken before a memory's lock.
static pthread_mutex_t sharing_lock = PTHREAD_MUTEX_INITIALIZER;

static bool request(struct heddle_memory *m, uint16_t type, struct heddle_wire_share *share, int *status, int *fds, int *nfds) {
  struct heddle_wire_share ask = *share;
  *status = heddle_session_request(m->session, type, &ask, sizeof ask, NULL, 0, NULL, 0, share, sizeof *share, fds, nfds);
  return *status == HEDDLE_WIRE_STATUS_OK;
}

// ---- giving ----

bool heddle_share(CUipcMemHandle *handle, CUdeviceptr address, CUresult *result) {
  struct heddle_memory *m;
  struct heddle_segment *s;
  struct heddle_block *b = handle ? heddle_block_locked(address, &m, &s) : NULL;
  if (!b) return false;
  bool device = s->kind == HEDDLE_SEGMENT_DEVICE; // pools have handles of their own kind, host memory none: the driver refuses
  bool good = !(b->flags & HEDDLE_BLOCK_FREEING) && address - b->address < b->requested;
  struct heddle_wire_share share = {.address = b->address, .bytes = b->requested};
  if (device && good) b->flags |= HEDDLE_BLOCK_SHARED;
  pthread_mutex_unlock(&m->lock);
  if (!device) return false;
  *result = good ? heddle_sticky(m->session) : CUDA_ERROR_INVALID_VALUE;
  if (*result != CUDA_SUCCESS) return true;
  int status, nfds = 0;
  if (!request(m, HEDDLE_WIRE_TYPE_SHARE, &share, &status, NULL, &nfds)) {
    if (status < 0) heddle_log(HEDDLE_LOG_ERROR, "cuIpcGetMemHandle: no daemon serves this process any more, so nobody can open its memory");
    *result = status < 0 ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_OUT_OF_MEMORY;
    return true;
  }
  struct handle ours = {.token = {share.token0, share.token1}};
  memcpy(ours.mark, our_mark, sizeof ours.mark);
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &ours, sizeof ours);
  return true;
}

void heddle_share_drop(struct heddle_memory *m, uint64_t address) {
  struct heddle_wire_share share = {.address = address};
  int status, nfds = 0;
  request(m, HEDDLE_WIRE_TYPE_SHARE_DROP, &share, &status, NULL, &nfds);
}

// ---- opening ----

const struct heddle_opened *heddle_opened_at(struct heddle_memory *m, uint64_t address) {
  for (const struct heddle_opened *o = m->opened; o; o = o->next)
    if (address - o->address < o->bytes) return o;
  return NULL;
}

// The driver calls and requests of the first opening; sharing_lock is held.
static CUresult open_first(struct heddle_memory *m, const struct handle *ours, CUcontext context, CUdeviceptr *address) {
  struct heddle_wire_share share = {.token0 = ours->token[0], .token1 = ours->token[1]};
  int status, fds[HEDDLE_WIRE_MESSAGE_FDS], nfds = 0;
  if (!request(m, HEDDLE_WIRE_TYPE_SHARE_OPEN, &share, &status, fds, &nfds))
    return status < 0 ? CUDA_ERROR_NOT_SUPPORTED : status == HEDDLE_WIRE_STATUS_REFUSED ? CUDA_ERROR_INVALID_CONTEXT
         : status == HEDDLE_WIRE_STATUS_FULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_HANDLE;
  struct heddle_opened *o = calloc(1, sizeof *o);
  bool sound = nfds == 1 && share.segment_bytes && !(share.segment_bytes & (HEDDLE_GRANULE - 1)) && share.offset < share.segment_bytes &&
               share.bytes && share.bytes <= share.segment_bytes - share.offset;
  CUresult r = !o ? CUDA_ERROR_OUT_OF_MEMORY : !sound ? CUDA_ERROR_MAP_FAILED : heddle_segment_open(m, share.segment_bytes, fds[0], &o->segment);
  for (int i = 0; i < nfds; i++) close(fds[i]);
  if (r != CUDA_SUCCESS) {
    free(o);
    return r == CUDA_ERROR_OUT_OF_MEMORY ? r : CUDA_ERROR_MAP_FAILED;
  }
  memcpy(o->token, ours->token, sizeof o->token);
  o->address = *address = o->segment->base + share.offset;
  o->bytes = share.bytes;
  o->id = heddle_buffer_id();
  o->count = 1;
  o->context = context;
  pthread_mutex_lock(&m->lock);
  o->next = m->opened;
  m->opened = o;
  pthread_mutex_unlock(&m->lock);
  return CUDA_SUCCESS;
}

bool heddle_share_open(CUdeviceptr *address, const CUipcMemHandle *handle, unsigned int flags, CUresult *result) {
  struct handle ours;
  memcpy(&ours, handle, sizeof ours);
  if (memcmp(ours.mark, our_mark, sizeof ours.mark) != 0) return false;
  *result = CUDA_ERROR_INVALID_VALUE;
  if (!address || flags & ~(unsigned)CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return true;
  CUcontext context = NULL;
  *result = heddle_real.cuCtxGetCurrent(&context);
  if (*result == CUDA_SUCCESS && !context) *result = CUDA_ERROR_INVALID_CONTEXT;
  if (*result != CUDA_SUCCESS) return true;
  struct heddle_memory *m = heddle_memory_serving(result);
  if (*result != CUDA_SUCCESS) return true;
  if (!m) {
    heddle_log(HEDDLE_LOG_ERROR, "cuIpcOpenMemHandle: the handle is that of a process under Heddle; this one runs natively and cannot open it");
    *result = CUDA_ERROR_NOT_SUPPORTED;
    return true;
  }
  pthread_mutex_lock(&sharing_lock);
  struct heddle_opened *o = m->opened;
  while (o && (o->context != context || memcmp(o->token, ours.token, sizeof o->token) != 0)) o = o->next;
  if (o) {
    o->count++;
    *address = o->address;
  } else {
    *result = open_first(m, &ours, context, address);
  }
  pthread_mutex_unlock(&sharing_lock);
  return true;
}

// Takes it out of the list and its segment out of this process and the executor. sharing_lock is held, and nothing uses it any more.
static void shut(struct heddle_memory *m, struct heddle_opened *o) {
  pthread_mutex_lock(&m->lock);
  struct heddle_opened **at = &m->opened;
  while (*at != o) at = &(*at)->next;
  *at = o->next;
  pthread_mutex_unlock(&m->lock);
  heddle_segment_drop(m, o->segment);
  free(o);
}

bool heddle_share_close(CUdeviceptr address, CUresult *result) {
  struct heddle_region *region = heddle_region_find(address);
  if (!region || region->host) return false;
  struct heddle_memory *m = region->memory;
  pthread_mutex_lock(&sharing_lock);
  struct heddle_opened *o = m->opened;
  while (o && o->address != address) o = o->next;
  if (o) {
    // Whoever closes it may have submitted what uses it; natively the mapping lasts as long as that.
    *result = o->count > 1 ? heddle_sticky(m->session) : heddle_order_drain_all(m->session);
    if (*result == CUDA_SUCCESS && --o->count == 0) shut(m, o);
  }
  pthread_mutex_unlock(&sharing_lock);
  return o != NULL;
}

// ---- contexts that end ----

// Addresses of shared blocks of a context, which count as shared no more; at most `room`. Lock held.
static size_t shared_blocks(struct heddle_memory *m, CUcontext context, uint64_t *list, size_t room) {
  size_t n = 0;
  for (struct heddle_span *span = m->blocks.spans; span; span = span->after)
    for (struct heddle_block *b = span->first; b && n < room; b = b->after)
      if (!b->free && b->context == context && b->flags & HEDDLE_BLOCK_SHARED) {
        b->flags &= ~(uint32_t)HEDDLE_BLOCK_SHARED;
        list[n++] = b->address;
      }
  return n;
}

void heddle_sharing_context_gone(struct heddle_memory *m, CUcontext context) {
  enum { ROOM = 64 };
  uint64_t list[ROOM];
  size_t n;
  pthread_mutex_lock(&sharing_lock);
  for (struct heddle_opened *o = m->opened, *next; o; o = next) {
    next = o->next;
    if (o->context == context) shut(m, o);
  }
  do {
    pthread_mutex_lock(&m->lock);
    n = shared_blocks(m, context, list, ROOM);
    pthread_mutex_unlock(&m->lock);
    for (size_t i = 0; i < n; i++) heddle_share_drop(m, list[i]);
  } while (n == ROOM);
  pthread_mutex_unlock(&sharing_lock);
}
