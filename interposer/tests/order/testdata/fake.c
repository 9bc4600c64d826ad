#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../../src/code/code.h"
#include "../../../src/memory/memory.h"

struct heddle_real heddle_real;
_Atomic int heddle_hooks_captures;
static struct heddle_session session;
struct heddle_session *fake_session = &session;
CUcontext fake_current;
void *fake_shared_host, *fake_registered_host;
void (*fake_native)(const char *, CUstream, CUdeviceptr, uint32_t, CUevent);
CUresult (*fake_stream_query)(CUstream);
void (*fake_stream_synchronize)(CUstream);
int (*fake_sleep)(uint32_t *, uint32_t);
_Atomic int fake_daemon_alive = 1;
static struct heddle_wire_doorbell doorbell;

static void note(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event) {
  if (fake_native != NULL) fake_native(what, stream, address, value, event);
}

// ---- the session ----

struct heddle_session *heddle_session_of_device(CUdevice device) { return device == 0 && atomic_load(&session.live) != 0 ? &session : NULL; }
struct heddle_session *heddle_session_current(void) { return fake_current == NULL ? NULL : &session; }
struct heddle_session *heddle_session_peek(CUdevice device) { return device == 0 ? &session : NULL; }
CUresult heddle_session_register_words(struct heddle_session *s) {
  s->lanes_device = (CUdeviceptr)(uintptr_t)s->lanes;
  return CUDA_SUCCESS;
}
bool heddle_session_daemon_alive(struct heddle_session *s) {
  (void)s;
  return atomic_load(&fake_daemon_alive) != 0;
}
void heddle_session_close(struct heddle_session *s, enum heddle_native_reason why) {
  (void)why;
  heddle_order_finish_alone(s);
  atomic_store(&s->live, 0);
}
_Atomic uint32_t fake_native_counts[HEDDLE_NATIVE_REASONS];
void heddle_count_native(enum heddle_native_reason why) { atomic_fetch_add(&fake_native_counts[why], 1); }
int (*fake_request)(uint16_t type, const void *body, int fd, void *reply);
int heddle_session_request(struct heddle_session *s, uint16_t type, const void *body, size_t body_bytes, const void *tail, size_t tail_bytes,
                           const int *fds_in, int nfds_in, void *reply_body, size_t reply_bytes, int *fds_out, int *nfds_out) {
  (void)s, (void)body_bytes, (void)tail, (void)tail_bytes, (void)fds_out;
  *nfds_out = 0;
  memset(reply_body, 0, reply_bytes);
  return fake_request != NULL ? fake_request(type, body, nfds_in == 1 ? fds_in[0] : -1, reply_body) : HEDDLE_WIRE_STATUS_REFUSED;
}

int __real_heddle_futex_wait(uint32_t *word, uint32_t expected, int timeout_ms);
int __wrap_heddle_futex_wait(uint32_t *word, uint32_t expected, int timeout_ms);
int __wrap_heddle_futex_wait(uint32_t *word, uint32_t expected, int timeout_ms) {
  bool watcher = word == &session.status->state; // alone.c's thread: not part of the program
  return fake_sleep != NULL && !watcher ? fake_sleep(word, expected) : __real_heddle_futex_wait(word, expected, timeout_ms);
}

// ---- memory/ and code/ ----

enum heddle_where heddle_memory_where(CUdeviceptr address, size_t bytes, struct heddle_session **s) {
  if (s != NULL) *s = &session;
  if (address >= DEVICE_BASE && address + bytes <= DEVICE_BASE + DEVICE_BYTES) return HEDDLE_WHERE_DEVICE;
  if (address >= GLOBAL_BASE && address + bytes <= GLOBAL_BASE + GLOBAL_BYTES) return HEDDLE_WHERE_GLOBAL;
  uintptr_t shared = (uintptr_t)fake_shared_host, registered = (uintptr_t)fake_registered_host;
  if (address >= shared && address + bytes <= shared + (1 << 20)) return HEDDLE_WHERE_HOST;
  if (address >= registered && address + bytes <= registered + (1 << 20)) return HEDDLE_WHERE_REGISTERED;
  if (s != NULL) *s = NULL;
  return HEDDLE_WHERE_UNKNOWN;
}
bool heddle_memory_freed(CUdeviceptr address, size_t bytes) { return address < FREED_BASE + FREED_BYTES && address + bytes > FREED_BASE; }
bool heddle_memory_params_native(const void *params, size_t bytes, enum heddle_native_reason *why) {
  (void)params, (void)bytes, (void)why;
  return false;
}
void heddle_memory_context_gone(CUcontext context) { (void)context; }

static const uint32_t offsets[3] = {0, 8, 16}, sizes[3] = {8, 8, 4};
static struct heddle_function function = {.handle = (void *)0xf1, .param_count = 3, .param_bytes = 20, .param_offset = offsets,
                                          .param_size = sizes, .max_threads = 512, .static_shared = 0, .max_dynamic_shared = 49152};
const struct heddle_function *heddle_code_function(CUfunction f) { return (void *)f == function.handle ? &function : NULL; }
_Atomic uint32_t fake_kernel = 7;
uint32_t heddle_code_kernel_id(struct heddle_session *s, const struct heddle_function *f, enum heddle_native_reason *why) {
  (void)s;
  *why = HEDDLE_NATIVE_REFUSED_CODE;
  uint32_t id = atomic_load(&fake_kernel);
  if (id != 0) atomic_store(&((struct heddle_function *)(uintptr_t)f)->kernel_id[0], id);
  return id;
}
_Atomic uint32_t heddle_code_changes;
CUcontext heddle_code_context(const struct heddle_function *f) {
  (void)f;
  return fake_current;
}
CUfunction heddle_code_native(struct heddle_session *s, uint32_t kernel_id) {
  (void)s;
  return kernel_id == 7 ? (CUfunction)function.handle : NULL;
}
CUresult heddle_code_native_begin(CUfunction f, CUstream stream) {
  (void)f, (void)stream;
  return CUDA_SUCCESS;
}
CUresult heddle_code_native_end(CUfunction f, CUstream stream, CUresult launched) {
  (void)f, (void)stream;
  return launched;
}
CUresult heddle_code_graph_begin(CUstream stream) { (void)stream; return CUDA_SUCCESS; }
CUresult heddle_code_graph_end(CUstream stream, CUresult launched) { (void)stream; return launched; }
_Atomic int fake_mirrored;
bool heddle_code_mirrored(struct heddle_session *s, const struct heddle_function *f) {
  (void)s, (void)f;
  return atomic_load(&fake_mirrored) != 0;
}
_Atomic int fake_stateful;
bool heddle_code_stateful(struct heddle_session *s, const struct heddle_function *f) {
  (void)s, (void)f;
  return atomic_load(&fake_stateful) != 0;
}
bool heddle_code_mirrors(void) { return atomic_load(&fake_mirrored) != 0; }
void heddle_code_context_gone(CUcontext context) { (void)context; }

// ---- the driver ----

static unsigned int stream_flags[1 << 20];
static _Atomic uint32_t streams;
CUstream fake_stream(unsigned int flags) {
  uint32_t n = atomic_fetch_add(&streams, 1);
  CHECK(n < 1 << 20, "too many streams in one test");
  stream_flags[n] = flags;
  return (CUstream)(uintptr_t)(0x100000 + n * 64);
}

static CUresult get_current(CUcontext *c) { *c = fake_current; return CUDA_SUCCESS; }
static CUresult retain(CUcontext *c, CUdevice d) { *c = (CUcontext)(uintptr_t)(0x10 + d); return CUDA_SUCCESS; }
static CUresult release(CUdevice d) { (void)d; return CUDA_SUCCESS; }
static CUresult primary_state(CUdevice d, unsigned int *flags, int *active) { (void)d; *flags = 0; *active = 1; return CUDA_SUCCESS; }
static CUresult set_current(CUcontext c) { (void)c; return CUDA_SUCCESS; }
static CUresult get_device(CUdevice *d) { *d = 0; return CUDA_SUCCESS; }
static CUresult get_context_flags(unsigned int *f) { *f = CU_CTX_SCHED_AUTO; return CUDA_SUCCESS; }
static CUresult stream_context(CUstream s, CUcontext *c) { (void)s; *c = fake_current; return CUDA_SUCCESS; }
static CUresult stream_get_flags(CUstream s, unsigned int *f) { *f = stream_flags[((uintptr_t)s - 0x100000) / 64]; return CUDA_SUCCESS; }
static CUresult stream_priority(CUstream s, int *p) { (void)s; *p = -1; return CUDA_SUCCESS; }
static CUresult stream_create(CUstream *s, unsigned int f) { *s = fake_stream(f); return CUDA_SUCCESS; }
static CUresult stream_destroy(CUstream s) { (void)s; return CUDA_SUCCESS; }
static CUresult write32(CUstream s, CUdeviceptr a, cuuint32_t v, unsigned int f) { (void)f; note("write", s, a, v, NULL); return CUDA_SUCCESS; }
static CUresult wait32(CUstream s, CUdeviceptr a, cuuint32_t v, unsigned int f) {
  CHECK(f == CU_STREAM_WAIT_VALUE_GEQ, "flags %u", f);
  note("wait", s, a, v, NULL);
  return CUDA_SUCCESS;
}
static CUresult event_create(CUevent *e, unsigned int f) {
  static _Atomic uint32_t events;
  (void)f;
  *e = (CUevent)(uintptr_t)(0x900000 + atomic_fetch_add(&events, 1) * 64);
  return CUDA_SUCCESS;
}
static CUresult event_destroy(CUevent e) { (void)e; return CUDA_SUCCESS; }
static CUresult event_record(CUevent e, CUstream s) { note("record", s, 0, 0, e); return CUDA_SUCCESS; }
static CUresult event_query(CUevent e) { (void)e; return CUDA_SUCCESS; }
static CUresult event_elapsed(float *ms, CUevent a, CUevent b) { (void)ms, (void)a, (void)b; return CUDA_ERROR_INVALID_HANDLE; }
static CUresult stream_wait_event(CUstream s, CUevent e, unsigned int f) { (void)f; note("wait-event", s, 0, 0, e); return CUDA_SUCCESS; }
static CUresult stream_query(CUstream s) { return fake_stream_query != NULL ? fake_stream_query(s) : CUDA_SUCCESS; }
static CUresult stream_synchronize(CUstream s) { if (fake_stream_synchronize != NULL) fake_stream_synchronize(s); return CUDA_SUCCESS; }
static CUresult context_synchronize(void) { if (fake_stream_synchronize != NULL) fake_stream_synchronize(NULL); return CUDA_SUCCESS; }
static CUresult device_attribute(int *v, CUdevice_attribute a, CUdevice d) {
  (void)d;
  switch (a) {
  case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *v = 2147483647; break;
  case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
  case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *v = 65535; break;
  case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *v = 64; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 132; break;
  default: *v = 1024;
  }
  return CUDA_SUCCESS;
}
static CUresult launch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, CUstream s, void **p, void **x) {
  (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)sh, (void)p, (void)x;
  note("op", s, 0, 0, NULL);
  return gx == 0 || bx > 1024 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
static CUresult memset8(CUdeviceptr d, unsigned char v, size_t n, CUstream s) { note("op", s, d, v, NULL); (void)n; return CUDA_SUCCESS; }
static CUresult copy_async(CUdeviceptr d, CUdeviceptr from, size_t n, CUstream s) { (void)from, (void)n; note("op", s, d, 0, NULL); return CUDA_SUCCESS; }
static CUresult htod_async(CUdeviceptr d, const void *h, size_t n, CUstream s) { (void)h, (void)n; note("op", s, d, 0, NULL); return CUDA_SUCCESS; }
static CUresult dtoh_async(void *h, CUdeviceptr d, size_t n, CUstream s) { (void)h, (void)n; note("op", s, d, 0, NULL); return CUDA_SUCCESS; }
static CUresult htod(CUdeviceptr d, const void *h, size_t n) { (void)h, (void)n; note("op", CU_STREAM_LEGACY, d, 0, NULL); return CUDA_SUCCESS; }
static CUresult dtoh(void *h, CUdeviceptr d, size_t n) { (void)h, (void)n; note("op", CU_STREAM_LEGACY, d, 0, NULL); return CUDA_SUCCESS; }
static CUresult pointer_attribute(void *v, CUpointer_attribute a, CUdeviceptr p) { (void)v, (void)a, (void)p; return CUDA_ERROR_INVALID_VALUE; }

void fake_start(uint64_t ring_bytes) {
  uint64_t lanes = 3 * HEDDLE_WIRE_PAGE, ring = lanes + HEDDLE_WIRE_LANES * sizeof(struct heddle_wire_lane), bytes = ring + ring_bytes;
  unsigned char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(map != MAP_FAILED, "mmap of %llu bytes", (unsigned long long)bytes);
  struct heddle_wire_session_header h = {.magic = HEDDLE_WIRE_MAGIC, .layout_hash = HEDDLE_WIRE_LAYOUT_HASH, .version = HEDDLE_WIRE_VERSION,
                                         .lanes = HEDDLE_WIRE_LANES, .file_bytes = bytes, .status_offset = HEDDLE_WIRE_PAGE,
                                         .producer_offset = HEDDLE_WIRE_PAGE + 64, .consumer_offset = HEDDLE_WIRE_PAGE + 128,
                                         .replies_offset = HEDDLE_WIRE_PAGE + 192, .lanes_offset = lanes, .ring_offset = ring,
                                         .ring_bytes = ring_bytes, .replies = HEDDLE_WIRE_REPLIES};
  CHECK(h.replies_offset + HEDDLE_WIRE_REPLIES * sizeof(struct heddle_wire_reply) <= h.lanes_offset, "layout of the test's session file");
  memcpy(map, &h, sizeof h);
  doorbell.magic = HEDDLE_WIRE_DOORBELL_MAGIC;
  doorbell.layout_hash = HEDDLE_WIRE_LAYOUT_HASH;
  session.device = 0;
  session.socket = -1;
  session.map = map;
  session.map_bytes = bytes;
  session.status = (struct heddle_wire_session_status *)(map + h.status_offset);
  session.lanes = (struct heddle_wire_lane *)(map + h.lanes_offset);
  session.replies = (struct heddle_wire_reply *)(map + h.replies_offset);
  session.status->state = HEDDLE_WIRE_STATE_LIVE;
  int e = heddle_ring_init(&session.ring, map, bytes, &doorbell);
  CHECK(e == 0, "heddle_ring_init: %d", e);
  atomic_store(&session.live, 1);
  fake_shared_host = malloc(1 << 20);
  fake_registered_host = malloc(1 << 20);
  fake_current = (CUcontext)1;
  heddle_real.cuCtxGetCurrent = get_current;
  heddle_real.cuCtxSetCurrent = set_current;
  heddle_real.cuCtxGetDevice = get_device;
  heddle_real.cuCtxGetFlags = get_context_flags;
  heddle_real.cuCtxSynchronize = context_synchronize;
  heddle_real.cuDevicePrimaryCtxRetain = retain;
  heddle_real.cuDevicePrimaryCtxRelease_v2 = release;
  heddle_real.cuDevicePrimaryCtxReset_v2 = release;
  heddle_real.cuDevicePrimaryCtxGetState = primary_state;
  heddle_real.cuStreamGetCtx = stream_context;
  heddle_real.cuStreamGetFlags = stream_get_flags;
  heddle_real.cuStreamGetPriority = stream_priority;
  heddle_real.cuStreamCreate = stream_create;
  heddle_real.cuStreamDestroy_v2 = stream_destroy;
  heddle_real.cuStreamWriteValue32_v2 = write32;
  heddle_real.cuStreamWaitValue32_v2 = wait32;
  heddle_real.cuStreamWaitEvent = stream_wait_event;
  heddle_real.cuStreamQuery = stream_query;
  heddle_real.cuStreamSynchronize = stream_synchronize;
  heddle_real.cuEventCreate = event_create;
  heddle_real.cuEventDestroy_v2 = event_destroy;
  heddle_real.cuEventRecord = event_record;
  heddle_real.cuEventQuery = event_query;
  heddle_real.cuEventSynchronize = event_query;
  heddle_real.cuEventElapsedTime = event_elapsed;
  heddle_real.cuDeviceGetAttribute = device_attribute;
  heddle_real.cuLaunchKernel = launch;
  heddle_real.cuMemsetD8Async = memset8;
  heddle_real.cuMemcpyAsync = copy_async;
  heddle_real.cuMemcpyDtoDAsync_v2 = copy_async;
  heddle_real.cuMemcpyHtoDAsync_v2 = htod_async;
  heddle_real.cuMemcpyDtoHAsync_v2 = dtoh_async;
  heddle_real.cuMemcpyHtoD_v2 = htod;
  heddle_real.cuMemcpyDtoH_v2 = dtoh;
  heddle_real.cuPointerGetAttribute = pointer_attribute;
}
