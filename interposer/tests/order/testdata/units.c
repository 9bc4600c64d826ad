// One behaviour a run: units NAME. The executor here is a thread that takes records in ring order and completes each at once.
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

// ---- an executor ----

static struct {
  _Atomic bool stop, hold;
  _Atomic uint64_t position;
  _Atomic uint32_t launches, sets, copies, boxes, puts, gets, events, signals, waits, opens, retires, upcoming;
  uint32_t seq[HEDDLE_WIRE_LANES];
  unsigned char put_bytes[1 << 21];
  size_t put_total;
  struct heddle_wire_launch launch;
  unsigned char params[64];
  struct heddle_wire_copy3d box;
  struct heddle_wire_memset set;
  pthread_t thread;
} x;

static void finish_number(uint32_t lane, uint32_t seq) {
  struct heddle_wire_lane *w = &fake_session->lanes[lane];
  heddle_store_release32(&w->done, seq);
  heddle_fence();
  uint32_t waiting = heddle_load_relaxed32(&w->waiting);
  if (waiting != 0 && heddle_reached(seq, waiting)) {
    heddle_store_relaxed32(&w->waiting, 0);
    (void)heddle_futex_wake(&w->waiting, INT_MAX);
  }
}

static void take(struct heddle_wire_record *h) {
  if (h->kind == HEDDLE_WIRE_KIND_PAD) return;
  struct heddle_wire_dep *d = (struct heddle_wire_dep *)(h + 1);
  unsigned char *body = (unsigned char *)d + ((h->ndeps * sizeof *d + 15) & ~UINT64_C(15));
  switch (h->kind) {
  case HEDDLE_WIRE_KIND_LANE_OPEN: atomic_fetch_add(&x.opens, 1); return;
  case HEDDLE_WIRE_KIND_LANE_RETIRE: atomic_fetch_add(&x.retires, 1); return;
  case HEDDLE_WIRE_KIND_UPCOMING: atomic_fetch_add(&x.upcoming, 1); return;
  case HEDDLE_WIRE_KIND_SIGNAL:
    CHECK(heddle_reached(x.seq[h->lane], h->seq), "signal for lane %u number %u, which was not published", h->lane, h->seq);
    atomic_fetch_add(&x.signals, 1);
    if ((h->flags & HEDDLE_WIRE_RECORD_FLAG_WAIT) != 0) atomic_fetch_add(&x.waits, 1);
    return;
  case HEDDLE_WIRE_KIND_ELAPSED: {
    struct heddle_wire_elapsed *e = (struct heddle_wire_elapsed *)body;
    float ms = (float)(e->end - e->start) + 0.5f;
    uint32_t bits;
    memcpy(&bits, &ms, 4);
    heddle_store_relaxed64(&fake_session->replies[e->reply].value, bits);
    heddle_store_relaxed32(&fake_session->replies[e->reply].status, CUDA_SUCCESS);
    heddle_store_release32(&fake_session->replies[e->reply].state, 2);
    (void)heddle_futex_wake(&fake_session->replies[e->reply].state, INT_MAX);
    return;
  }
  default: break;
  }
  CHECK(h->seq == heddle_next_number(x.seq[h->lane]), "lane %u: number %u after %u", h->lane, h->seq, x.seq[h->lane]);
  for (uint32_t i = 0; i < h->ndeps; i++)
    CHECK(heddle_reached(x.seq[d[i].lane], d[i].value), "dependency (%u, %u) is later in the ring", d[i].lane, d[i].value);
  if (h->ready != 0) CHECK(heddle_reached(heddle_load_acquire32(&fake_session->lanes[h->lane].ready), h->ready), "ready %u was not written", h->ready);
  x.seq[h->lane] = h->seq;
  if ((h->flags & HEDDLE_WIRE_RECORD_FLAG_WAIT) != 0) atomic_fetch_add(&x.waits, 1);
  switch (h->kind) {
  case HEDDLE_WIRE_KIND_LAUNCH:
    memcpy(&x.launch, body, sizeof x.launch);
    CHECK(x.launch.param_bytes <= sizeof x.params, "%u bytes of parameters", x.launch.param_bytes);
    memcpy(x.params, body + sizeof x.launch, x.launch.param_bytes);
    atomic_fetch_add(&x.launches, 1);
    break;
  case HEDDLE_WIRE_KIND_MEMSET: memcpy(&x.set, body, sizeof x.set); atomic_fetch_add(&x.sets, 1); break;
  case HEDDLE_WIRE_KIND_COPY: atomic_fetch_add(&x.copies, 1); break;
  case HEDDLE_WIRE_KIND_COPY3D: memcpy(&x.box, body, sizeof x.box); atomic_fetch_add(&x.boxes, 1); break;
  case HEDDLE_WIRE_KIND_EVENT: atomic_fetch_add(&x.events, 1); break;
  case HEDDLE_WIRE_KIND_PUT: {
    struct heddle_wire_inline_copy *c = (struct heddle_wire_inline_copy *)body;
    size_t at = x.put_total % sizeof x.put_bytes;
    if (at + c->bytes <= sizeof x.put_bytes) memcpy(x.put_bytes + at, body + sizeof *c, c->bytes);
    x.put_total += c->bytes;
    atomic_fetch_add(&x.puts, 1);
    break;
  }
  case HEDDLE_WIRE_KIND_GET: {
    struct heddle_wire_inline_copy *c = (struct heddle_wire_inline_copy *)body;
    for (uint64_t i = 0; i < c->bytes; i++) body[sizeof *c + i] = (unsigned char)((c->address + i) * 7);
    atomic_fetch_add(&x.gets, 1);
    break;
  }
  default: CHECK(false, "record of kind %u", h->kind);
  }
  finish_number(h->lane, h->seq);
}

static void *execute(void *arg) {
  struct heddle_ring *r = &fake_session->ring;
  (void)arg;
  uint64_t at = 0;
  while (!atomic_load(&x.stop)) {
    uint64_t tail = heddle_load_acquire64(&r->producer->tail);
    if (at == tail || atomic_load(&x.hold)) {
      sched_yield();
      continue;
    }
    struct heddle_wire_record *h = (struct heddle_wire_record *)(r->data + (at & r->mask));
    uint32_t size = h->size;
    take(h);
    at += size;
    atomic_store(&x.position, at);
    heddle_store_release64(&r->consumer->head, at);
    heddle_fence();
    if (heddle_load_relaxed32(&r->producer->space_waiting) != 0) {
      heddle_add32(&r->consumer->space_bell, 1);
      (void)heddle_futex_wake(&r->consumer->space_bell, INT_MAX);
    }
  }
  return NULL;
}
static void executor_start(void) { CHECK(pthread_create(&x.thread, NULL, execute, NULL) == 0, "thread"); }
static void executor_stop(void) {
  atomic_store(&x.stop, true);
  pthread_join(x.thread, NULL);
}

static _Atomic uint32_t native_ops, native_writes, native_waits;
static void on_native(const char *what, CUstream s, CUdeviceptr address, uint32_t value, CUevent e) {
  (void)s, (void)e;
  if (strcmp(what, "op") == 0) atomic_fetch_add(&native_ops, 1);
  if (strcmp(what, "wait") == 0) atomic_fetch_add(&native_waits, 1);
  if (strcmp(what, "write") == 0) {
    atomic_fetch_add(&native_writes, 1);
    heddle_store_release32((uint32_t *)(uintptr_t)address, value); // native work takes no time here
  }
}

static CUresult sync_all(void) { return heddle_hook_cuCtxSynchronize(); }
#define OK(call) do { CUresult ok_r = (call); CHECK(ok_r == CUDA_SUCCESS, "%s: %d", #call, (int)ok_r); } while (0)
#define KERNEL ((CUfunction)0xf1)

// ---- launches ----

static void launch(void) {
  executor_start();
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  uint64_t a = 0x1122334455667788, b = 0x99aabbccddeeff00;
  uint32_t c = 0xdeadbeef;
  void *params[] = {&a, &b, &c};
  unsigned char expected[20];
  memcpy(expected, &a, 8), memcpy(expected + 8, &b, 8), memcpy(expected + 16, &c, 4);
  OK(heddle_hook_cuLaunchKernel(KERNEL, 2, 3, 4, 32, 2, 1, 100, s, params, NULL));
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.launches == 1 && native_ops == 0, "%u forwarded, %u native", x.launches, native_ops);
  CHECK(x.launch.kernel == 7 && x.launch.grid_x == 2 && x.launch.grid_y == 3 && x.launch.grid_z == 4 && x.launch.block_x == 32 &&
        x.launch.block_y == 2 && x.launch.block_z == 1 && x.launch.shared_bytes == 100 && x.launch.param_bytes == 20, "the record differs");
  CHECK(memcmp(x.params, expected, 20) == 0, "parameters differ");
  // The same as one buffer.
  memset(x.params, 0, sizeof x.params);
  size_t bytes = 24; // a caller's struct is padded
  unsigned char buffer[24] = {0};
  memcpy(buffer, expected, 20);
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, NULL, extra));
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.launches == 2 && memcmp(x.params, expected, 20) == 0, "parameters of `extra` differ");
  // What the driver must judge goes to it, and its answer comes back.
  CHECK(heddle_hook_cuLaunchKernel(KERNEL, 0, 1, 1, 32, 1, 1, 0, s, params, NULL) == CUDA_ERROR_INVALID_VALUE, "grid of 0");
  CHECK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 2048, 1, 1, 0, s, params, NULL) == CUDA_ERROR_INVALID_VALUE, "block of 2048");
  CHECK(native_ops == 2, "%u native", native_ops);
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 1024, 1, 1, 0, s, params, NULL));   // above the function's own limit
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 50000, s, params, NULL)); // above its dynamic shared memory
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 70000, 1, 32, 1, 1, 0, s, params, NULL)); // above the device's grid
  OK(heddle_hook_cuLaunchKernel((CUfunction)0xbad, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, NULL, NULL)); // no parameters at all
  CHECK(native_ops == 7 && x.launches == 2, "%u native, %u forwarded", native_ops, x.launches);
  // Attributes.
  CUlaunchAttribute at[2] = {{.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION}, {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION}};
  at[0].value.clusterDim.x = 2, at[0].value.clusterDim.y = 1, at[0].value.clusterDim.z = 1;
  at[1].value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config = {.gridDimX = 4, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1, .hStream = s, .attrs = at, .numAttrs = 2};
  OK(heddle_hook_cuLaunchKernelEx(&config, KERNEL, params, NULL, CU_STREAM_LEGACY));
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.launches == 3 && x.launch.flags == HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER && x.launch.cluster_x == 2, "cluster launch");
  executor_stop();
}

// ---- copies and memsets ----

static void copy(void) {
  executor_start();
  unsigned char *host = malloc(1 << 20);
  for (int i = 0; i < 1 << 20; i++) host[i] = (unsigned char)(i * 13);
  OK(heddle_hook_cuMemcpyHtoD_v2(DEVICE_BASE, host, 1000, CU_STREAM_LEGACY));
  OK(sync_all());
  CHECK(x.puts == 1 && memcmp(x.put_bytes, host, 1000) == 0, "a small pageable buffer travels in the record");
  OK(heddle_hook_cuMemcpyHtoD_v2(DEVICE_BASE, host, 65537, CU_STREAM_LEGACY));
  CHECK(native_ops == 1 && x.puts == 1, "a large one does not");
  unsigned char *back = malloc(1 << 20);
  OK(heddle_hook_cuMemcpyDtoH_v2(back, DEVICE_BASE + 5, 65536, CU_STREAM_LEGACY));
  for (uint64_t i = 0; i < 65536; i++) CHECK(back[i] == (unsigned char)((DEVICE_BASE + 5 + i) * 7), "byte %llu", (unsigned long long)i);
  OK(heddle_hook_cuMemcpyDtoHAsync_v2(back, DEVICE_BASE + 9, 4, CU_STREAM_LEGACY));
  CHECK(back[0] == (unsigned char)((DEVICE_BASE + 9) * 7) && x.gets == 2, "an asynchronous copy to pageable memory is complete on return");
  OK(heddle_hook_cuMemcpyDtoHAsync_v2(fake_registered_host, DEVICE_BASE, 4, CU_STREAM_LEGACY));
  CHECK(native_ops == 2 && x.gets == 2, "one to registered memory stays asynchronous, so native");
  OK(heddle_hook_cuMemcpyDtoHAsync_v2(fake_shared_host, DEVICE_BASE, 1 << 20, CU_STREAM_LEGACY));
  OK(heddle_hook_cuMemcpyHtoDAsync_v2(DEVICE_BASE, fake_shared_host, 1 << 20, CU_STREAM_LEGACY));
  OK(heddle_hook_cuMemcpyDtoDAsync_v2(DEVICE_BASE, DEVICE_BASE + 4096, 4096, CU_STREAM_LEGACY));
  OK(heddle_hook_cuMemcpyAsync(DEVICE_BASE, DEVICE_BASE + 4096, 4096, CU_STREAM_LEGACY));
  OK(sync_all());
  CHECK(x.copies == 4, "%u copies", x.copies);
  x.put_total = 0;
  uint32_t puts = x.puts;
  OK(heddle_hook_cuMemcpyHtoD_v2(GLOBAL_BASE, host, 200000, CU_STREAM_LEGACY)); // the client has no mapping of a device global
  OK(sync_all());
  CHECK(x.puts == puts + 4 && memcmp(x.put_bytes, host, 200000) == 0, "a global takes its bytes in pieces");
  OK(heddle_hook_cuMemcpyDtoH_v2(back, GLOBAL_BASE + 3, 200000, CU_STREAM_LEGACY));
  for (uint64_t i = 0; i < 200000; i++) CHECK(back[i] == (unsigned char)((GLOBAL_BASE + 3 + i) * 7), "byte %llu of a global", (unsigned long long)i);
  // Boxes: what the executor gets is the first byte and the distances.
  CUDA_MEMCPY2D box = {.srcXInBytes = 8, .srcY = 2, .srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = DEVICE_BASE, .srcPitch = 256,
                       .dstXInBytes = 4, .dstY = 1, .dstMemoryType = CU_MEMORYTYPE_UNIFIED, .dstDevice = DEVICE_BASE + 65536, .dstPitch = 128,
                       .WidthInBytes = 100, .Height = 10};
  OK(heddle_hook_cuMemcpy2DAsync_v2(&box, CU_STREAM_LEGACY));
  OK(sync_all());
  CHECK(x.boxes == 1 && x.box.src == DEVICE_BASE + 2 * 256 + 8 && x.box.dst == DEVICE_BASE + 65536 + 128 + 4 && x.box.src_pitch == 256 &&
        x.box.dst_pitch == 128 && x.box.width == 100 && x.box.height == 10 && x.box.depth == 1, "2D copy");
  OK(heddle_hook_cuMemsetD2D16Async(DEVICE_BASE, 512, 0xabcd, 100, 3, CU_STREAM_LEGACY));
  OK(sync_all());
  free(host);
  free(back);
  CHECK(x.set.pitch == 512 && x.set.width == 100 && x.set.height == 3 && x.set.element == 2 && x.set.value == 0xabcd, "2D memset");
  executor_stop();
}

// Large uploads, which the client makes, are announced: once before each op, when nothing of the lane is under way.
static void upload(void) {
  executor_start();
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  unsigned char *host = calloc(1, 1 << 20);
#define UPLOAD() OK(heddle_hook_cuMemcpyHtoDAsync_v2(DEVICE_BASE, host, 1 << 20, s))
#define OP() OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s))
  UPLOAD();
  OP();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.upcoming == 0, "a program loads its model first");
  UPLOAD();
  UPLOAD();
  OK(heddle_hook_cuMemcpyHtoDAsync_v2(DEVICE_BASE, fake_registered_host, 1 << 20, s));
  OP();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.upcoming == 1, "%u announcements of one op", x.upcoming);
  atomic_store(&x.hold, true);
  OP();
  OK(heddle_hook_cuMemcpyHtoDAsync_v2(DEVICE_BASE, fake_registered_host, 1 << 20, s)); // the stream waits, not this thread
  atomic_store(&x.hold, false);
  OK(heddle_hook_cuStreamSynchronize(s));
  OK(heddle_hook_cuMemcpyDtoH_v2(host, DEVICE_BASE, 1 << 20, CU_STREAM_LEGACY));
  OP();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.upcoming == 1, "announced beside work that is under way, or for a copy to the host");
  UPLOAD();
  OP();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(x.upcoming == 2, "%u announcements of two ops", x.upcoming);
  free(host);
  executor_stop();
}

// ---- back-pressure, with payloads that are not fetched yet ----

static void *put_many(void *arg) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  unsigned char bytes[9000];
  memset(bytes, (int)(uintptr_t)arg, sizeof bytes);
  for (int i = 0; i < 400; i++) OK(heddle_hook_cuMemcpyHtoDAsync_v2(DEVICE_BASE, bytes, sizeof bytes, s));
  return NULL;
}
static void *get_many(void *arg) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  unsigned char bytes[7000];
  for (uint64_t i = 0; i < 300; i++) {
    uint64_t from = DEVICE_BASE + (uintptr_t)arg * 1000 + i;
    OK(heddle_hook_cuMemcpyDtoHAsync_v2(bytes, from, sizeof bytes, s));
    for (uint64_t k = 0; k < sizeof bytes; k += 97) CHECK(bytes[k] == (unsigned char)((from + k) * 7), "byte %llu of copy %llu", (unsigned long long)k, (unsigned long long)i);
  }
  return NULL;
}
static void full(void) { // the ring has 64 KiB
  executor_start();
  pthread_t t[6];
  for (uintptr_t i = 0; i < 6; i++) CHECK(pthread_create(&t[i], NULL, i % 2 ? put_many : get_many, (void *)i) == 0, "thread");
  for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
  OK(sync_all());
  CHECK(x.puts == 1200 && x.gets == 900, "%u puts, %u gets", x.puts, x.gets);
  CHECK(fake_session->ring.floor == UINT64_MAX, "a payload is still held");
  executor_stop();
}

// ---- threads ----

static CUevent shared_events[8];
static void *busy(void *arg) {
  uint64_t rng = (uintptr_t)arg * UINT64_C(0x9e3779b97f4a7c15) + 7;
  CUstream own[3] = {fake_stream(CU_STREAM_DEFAULT), fake_stream(CU_STREAM_NON_BLOCKING), CU_STREAM_PER_THREAD};
  uint64_t a = 1, b = 2;
  uint32_t c = 3;
  void *params[] = {&a, &b, &c};
  for (int i = 0; i < 1500; i++) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    CUstream s = rng % 5 == 0 ? CU_STREAM_LEGACY : own[rng / 8 % 3];
    CUevent e = shared_events[rng / 64 % 8];
    switch (rng / 1024 % 12) {
    case 0: OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 4, s)); break; // native
    case 1: OK(heddle_hook_cuEventRecord(e, s)); break;
    case 2: OK(heddle_hook_cuStreamWaitEvent(s, e, 0)); break;
    case 3: { CUresult r = heddle_hook_cuEventQuery(e); CHECK(r == CUDA_SUCCESS || r == CUDA_ERROR_NOT_READY, "query: %d", (int)r); break; }
    case 4: if (i % 16 == 0) OK(heddle_hook_cuStreamSynchronize(s)); break;
    case 5: if (s == own[0] && i % 8 == 0) { OK(heddle_hook_cuStreamDestroy_v2(s)); own[0] = fake_stream(CU_STREAM_DEFAULT); } break;
    default: OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL)); break;
    }
  }
  OK(heddle_hook_cuStreamSynchronize(own[1]));
  return NULL;
}
static void threads(void) {
  executor_start();
  for (int i = 0; i < 8; i++) OK(heddle_hook_cuEventCreate(&shared_events[i], i % 2 ? CU_EVENT_DISABLE_TIMING : CU_EVENT_DEFAULT));
  pthread_t t[4];
  for (uintptr_t i = 0; i < 4; i++) CHECK(pthread_create(&t[i], NULL, busy, (void *)(i + 1)) == 0, "thread");
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  OK(sync_all());
  CHECK(x.launches > 1000, "%u launches", x.launches);
  executor_stop();
}

// ---- events ----

static void events(void) {
  executor_start();
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), other = fake_stream(CU_STREAM_NON_BLOCKING);
  CUevent a, b, plain;
  float ms = 0;
  OK(heddle_hook_cuEventCreate(&a, CU_EVENT_DEFAULT));
  OK(heddle_hook_cuEventCreate(&b, CU_EVENT_DEFAULT));
  OK(heddle_hook_cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING));
  CHECK(heddle_hook_cuEventQuery(a) == CUDA_SUCCESS, "an event that was never recorded is complete");
  CHECK(heddle_hook_cuEventElapsedTime(&ms, a, b) == CUDA_ERROR_INVALID_HANDLE, "no time between events that were never recorded");
  atomic_store(&x.hold, true);
  OK(heddle_hook_cuEventRecord(a, s));
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
  OK(heddle_hook_cuEventRecord(b, s));
  OK(heddle_hook_cuEventRecord(plain, s));
  CHECK(heddle_hook_cuEventQuery(b) == CUDA_ERROR_NOT_READY && heddle_hook_cuStreamQuery(s) == CUDA_ERROR_NOT_READY, "nothing has run");
  CHECK(heddle_hook_cuStreamQuery(other) == CUDA_SUCCESS, "the other stream is idle");
  CHECK(heddle_hook_cuEventElapsedTime(&ms, a, b) == CUDA_ERROR_NOT_READY, "not complete yet");
  OK(heddle_hook_cuStreamWaitEvent(other, plain, 0));
  CHECK(heddle_hook_cuStreamQuery(other) == CUDA_ERROR_NOT_READY, "the other stream waits now");
  atomic_store(&x.hold, false);
  OK(heddle_hook_cuEventSynchronize(b));
  OK(heddle_hook_cuStreamSynchronize(other));
  OK(heddle_hook_cuEventElapsedTime(&ms, a, b));
  CHECK(ms == 1.5f, "%f ms", ms); // the fake executor: difference of the slots and a half
  CHECK(heddle_hook_cuEventElapsedTime(&ms, a, plain) == CUDA_ERROR_INVALID_HANDLE, "an event without timing");
  CHECK(x.events == 2 && native_writes == 0 && native_waits == 0, "%u timestamps, %u writes, %u waits", x.events, native_writes, native_waits);
  // A native tail: the event stands for it too.
  OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 4, s));
  OK(heddle_hook_cuEventRecord(plain, s));
  CHECK(native_writes == 1, "%u ready writes", native_writes);
  OK(heddle_hook_cuEventSynchronize(plain));
  executor_stop();
}

// ---- errors ----

static void sticky(void) {
  executor_start();
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, CU_STREAM_LEGACY));
  OK(sync_all());
  fake_session->status->error_reason = HEDDLE_WIRE_REASON_FAULT;
  heddle_store_release32(&fake_session->status->error, CUDA_ERROR_ILLEGAL_ADDRESS);
  unsigned char byte[4];
  CUevent e;
  OK(heddle_hook_cuEventCreate(&e, 0));
  CHECK(sync_all() == CUDA_ERROR_ILLEGAL_ADDRESS, "synchronise");
  CHECK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, CU_STREAM_LEGACY) == CUDA_ERROR_ILLEGAL_ADDRESS, "memset");
  CHECK(heddle_hook_cuMemcpyDtoH_v2(byte, DEVICE_BASE, 4, CU_STREAM_LEGACY) == CUDA_ERROR_ILLEGAL_ADDRESS, "copy");
  CHECK(heddle_hook_cuEventRecord(e, CU_STREAM_LEGACY) == CUDA_ERROR_ILLEGAL_ADDRESS, "event");
  CHECK(heddle_hook_cuStreamQuery(CU_STREAM_LEGACY) == CUDA_ERROR_ILLEGAL_ADDRESS, "query");
  struct heddle_order o;
  CHECK(heddle_order_begin(&o, CU_STREAM_LEGACY, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_GRAPH) == CUDA_ERROR_ILLEGAL_ADDRESS, "native work");
  executor_stop();
}

// A primary context that ends after a fault leaves the device lost: every later call, whatever the context, says so.
static void lost(void) {
  fake_current = (CUcontext)0x10;
  executor_start();
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, CU_STREAM_LEGACY));
  OK(sync_all());
  CUevent never, native;
  CUcontext c = NULL;
  OK(heddle_hook_cuEventCreate(&never, 0));
  OK(heddle_hook_cuEventCreate(&native, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuEventRecord(native, CU_STREAM_LEGACY));
  OK(heddle_hook_cuEventQuery(never));
  OK(heddle_hook_cuEventQuery(native));
  OK(heddle_hook_cuDevicePrimaryCtxRetain(&c, 0));
  executor_stop();
  fake_session->status->error_reason = HEDDLE_WIRE_REASON_FAULT;
  heddle_store_release32(&fake_session->status->error, CUDA_ERROR_MISALIGNED_ADDRESS);
  heddle_store_release32(&fake_session->status->state, HEDDLE_WIRE_STATE_CLOSED); // as a daemon does after a fault
#define IS(code, call) CHECK((call) == (code), "not " #code)
  IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuEventQuery(never));
  IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuEventQuery(native));
  IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuEventSynchronize(never));
  IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuStreamWaitEvent(CU_STREAM_LEGACY, never, 0));
  IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuMemsetD8Async(FREED_BASE, 0, 4, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuDevicePrimaryCtxRetain(&c, 0));
  for (int i = 0; i < 2; i++) { // a second reset changes nothing
    OK(heddle_hook_cuDevicePrimaryCtxReset_v2(0));
    c = NULL;
    IS(CUDA_ERROR_MISALIGNED_ADDRESS, heddle_hook_cuDevicePrimaryCtxRetain(&c, 0));
    CHECK(c == (CUcontext)0x10, "no handle");
    for (uintptr_t current = 0x10; current < 0x12; current++) { // the context itself, and another one
      fake_current = (CUcontext)current;
      IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, CU_STREAM_LEGACY));
      IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, heddle_hook_cuMemcpyDtoDAsync_v2(DEVICE_BASE, DEVICE_BASE + 64, 4, CU_STREAM_LEGACY));
      IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, CU_STREAM_LEGACY, NULL, NULL));
      IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, heddle_hook_cuStreamSynchronize(CU_STREAM_LEGACY));
      IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, heddle_hook_cuEventQuery(never));
      IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, heddle_hook_cuCtxSynchronize());
    }
    fake_current = (CUcontext)0x10;
  }
}

// Freed memory that is still mapped: every form that names it is refused, and nothing is forwarded.
static void freed(void) {
  executor_start();
  unsigned char host[64] = {0};
  CUDA_MEMCPY2D box = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = DEVICE_BASE, .srcPitch = 64, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstDevice = FREED_BASE, .dstPitch = 64, .WidthInBytes = 32, .Height = 2};
  CUDA_MEMCPY3D cube = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = FREED_BASE, .srcPitch = 64, .srcHeight = 4, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = DEVICE_BASE, .dstPitch = 64, .dstHeight = 4, .WidthInBytes = 32, .Height = 2, .Depth = 2};
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemsetD8_v2(FREED_BASE, 0, 4, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemsetD32Async(FREED_BASE - 4, 0, 2, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemsetD2D8_v2(FREED_BASE - 64, 64, 0, 4, 2, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpyHtoD_v2(FREED_BASE, host, 16, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpyDtoH_v2(host, FREED_BASE, 16, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpyDtoHAsync_v2(host, FREED_BASE, 16, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpyAsync(DEVICE_BASE, FREED_BASE, 16, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpyDtoD_v2(FREED_BASE - 8, DEVICE_BASE, 16, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpyPeerAsync(DEVICE_BASE, NULL, FREED_BASE, NULL, 16, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpy2D_v2(&box, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpy2DAsync_v2(&box, CU_STREAM_LEGACY));
  IS(CUDA_ERROR_INVALID_VALUE, heddle_hook_cuMemcpy3DAsync_v2(&cube, CU_STREAM_LEGACY));
  CHECK(atomic_load(&x.sets) + atomic_load(&x.copies) + atomic_load(&x.boxes) + atomic_load(&x.puts) + atomic_load(&x.gets) == 0, "forwarded");
  OK(heddle_hook_cuMemsetD8_v2(FREED_BASE - 4, 0, 4, CU_STREAM_LEGACY));
  OK(heddle_hook_cuMemcpyDtoD_v2(FREED_BASE - 16, DEVICE_BASE, 16, CU_STREAM_LEGACY));
  OK(sync_all());
  CHECK(atomic_load(&x.sets) == 1 && atomic_load(&x.copies) == 1, "not forwarded");
  executor_stop();
}

// ---- finishing alone ----

static uint32_t native_before;
static void lose_executor(void) { // as a daemon does that found no other one
  heddle_store_release32(&fake_session->status->state, HEDDLE_WIRE_STATE_CLOSED);
}
static void alone(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), late = fake_stream(CU_STREAM_NON_BLOCKING);
  struct heddle_lane *l = heddle_lane_of(s);
  uint64_t a = 1, b = 2;
  uint32_t c = 3;
  void *params[] = {&a, &b, &c};
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));                                 // 1: done
  OK(heddle_hook_cuMemcpyDtoDAsync_v2(DEVICE_BASE, DEVICE_BASE + 4096, 64, s));          // 2: in doubt, harmless
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));         // 3: never issued
  OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 4, late));                                   // native, on another stream
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, late, params, NULL));      // after that
  heddle_store_release32(&fake_session->lanes[l->id].done, 1);
  heddle_store_release32(&fake_session->lanes[l->id].issued, 2);
  native_before = native_ops;
  lose_executor();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(native_ops - native_before == 3, "%u operations were finished here", native_ops - native_before);
  CHECK(heddle_lane_done(fake_session, l->id, 3) && heddle_lane_done(fake_session, heddle_lane_of(late)->id, 1), "the done words");
  CHECK(!heddle_session_live(fake_session), "the session is over");
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
  CHECK(native_ops - native_before == 4, "everything is native now");
  OK(sync_all());
}
static void doubt(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  struct heddle_lane *l = heddle_lane_of(s);
  uint64_t a = 1, b = 2;
  uint32_t c = 3;
  void *params[] = {&a, &b, &c};
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
  heddle_store_release32(&fake_session->lanes[l->id].issued, 2);
  native_before = native_ops;
  lose_executor();
  CHECK(heddle_hook_cuStreamSynchronize(s) == CUDA_ERROR_LAUNCH_FAILED, "a kernel was in doubt");
  CHECK(native_ops == native_before, "nothing was run");
  CHECK(heddle_lane_done(fake_session, l->id, 2), "nobody waits for ever");
  CHECK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL) == CUDA_ERROR_LAUNCH_FAILED, "the error stays");
}
// A copy in doubt whose source a later operation in doubt overwrites must not be repeated …
static void overwritten(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  struct heddle_lane *l = heddle_lane_of(s);
  OK(heddle_hook_cuMemcpyDtoDAsync_v2(DEVICE_BASE, DEVICE_BASE + 4096, 64, s));
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE + 4100, 0, 4, s));
  heddle_store_release32(&fake_session->lanes[l->id].issued, 2);
  lose_executor();
  CHECK(heddle_hook_cuStreamSynchronize(s) == CUDA_ERROR_LAUNCH_FAILED, "the copy would read what the memset wrote");
  CHECK(native_ops == 0, "nothing was run");
}
// … and an operation is not in doubt when one that depends on it is known to be done, though its own word lags.
static void implied(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), t = fake_stream(CU_STREAM_NON_BLOCKING);
  uint64_t a = 1, b = 2;
  uint32_t c = 3;
  void *params[] = {&a, &b, &c};
  CUevent e;
  OK(heddle_hook_cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
  OK(heddle_hook_cuEventRecord(e, s));
  OK(heddle_hook_cuStreamWaitEvent(t, e, 0));
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, t, params, NULL));
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
  heddle_store_release32(&fake_session->lanes[heddle_lane_of(s)->id].issued, 1);
  heddle_store_release32(&fake_session->lanes[heddle_lane_of(t)->id].issued, 1);
  heddle_store_release32(&fake_session->lanes[heddle_lane_of(t)->id].done, 1);
  lose_executor();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(native_ops == 1, "%u operations were finished here, only the memset was left", native_ops);
}
// Both daemon and executor vanish without a word while a thread sleeps.
static void vanished(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
  atomic_store(&fake_daemon_alive, 0);
  OK(heddle_hook_cuStreamSynchronize(s)); // HEDDLE_REATTACH_MS later
  CHECK(native_ops == 1, "%u operations were finished here", native_ops);
}

// ---- more lanes than the wire has ----

static void lanes(void) {
  executor_start();
  uint32_t over = 0;
  for (int i = 0; i < 1200; i++) {
    CUstream s = fake_stream(i % 2 ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT);
    OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
    if (heddle_lane_of(s)->id == HEDDLE_LANE_NATIVE) over++;
  }
  OK(sync_all());
  CHECK(over == 1200 - 1023 && native_ops == over, "%u streams without a lane, %u native operations", over, native_ops);
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, CU_STREAM_LEGACY));
  OK(sync_all());
  for (int i = 0; i < 3000; i++) { // ids are used again, and their numbers go on
    CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
    if (i == 0) continue;
    OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
    OK(heddle_hook_cuStreamSynchronize(s));
    OK(heddle_hook_cuStreamDestroy_v2(s));
  }
  executor_stop();
}

// ---- what the executor learns of host waits ----

// The waits told since the last call. Those for work that is done go with the next op, so one goes ahead.
static uint32_t waits(void) {
  static uint32_t before;
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  struct heddle_lane *lane = heddle_lane_of(s);
  OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, s));
  while (!heddle_lane_done(fake_session, lane->id, atomic_load(&lane->seq))) sched_yield();
  uint32_t now = atomic_load(&x.waits), n = now - before;
  before = now;
  return n;
}

static void host_waits(void) {
  executor_start();
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), other = fake_stream(CU_STREAM_NON_BLOCKING);
  CUevent e;
  unsigned char bytes[100000] = {0};
  struct heddle_lane *lane = heddle_lane_of(s);
  OK(heddle_hook_cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
#define WORK(stream) OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 0, 4, stream))
  // Polls are no waits, whatever they lead to; the wait behind them is one, and only one.
  atomic_store(&x.hold, true);
  WORK(s);
  OK(heddle_hook_cuEventRecord(e, s));
  CHECK(heddle_hook_cuStreamQuery(s) == CUDA_ERROR_NOT_READY && heddle_hook_cuEventQuery(e) == CUDA_ERROR_NOT_READY, "nothing has run");
  atomic_store(&x.hold, false);
  while (heddle_hook_cuEventQuery(e) == CUDA_ERROR_NOT_READY) sched_yield();
  CHECK(waits() == 0 && x.signals >= 1, "a poll counts as a wait");
  OK(heddle_hook_cuEventSynchronize(e)); // done long ago, and waited for nevertheless
  CHECK(waits() == 1, "an event's synchronisation");
  OK(heddle_hook_cuEventSynchronize(e));
  OK(heddle_hook_cuStreamSynchronize(s));
  OK(heddle_hook_cuStreamSynchronize(other));
  CHECK(waits() == 0, "nothing was submitted since the last wait");
  // A stream's synchronisation before and after its work is done.
  atomic_store(&x.hold, true);
  WORK(s);
  CHECK(heddle_hook_cuStreamQuery(s) == CUDA_ERROR_NOT_READY, "nothing has run"); // asks for the signal that the wait wants too
  atomic_store(&x.hold, false);
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(waits() == 1, "a stream's synchronisation");
  WORK(s);
  while (!heddle_lane_done(fake_session, lane->id, atomic_load(&lane->seq))) sched_yield();
  OK(heddle_hook_cuStreamSynchronize(s));
  CHECK(waits() == 1, "a stream's synchronisation when all is done");
  // A context's: one for each stream that had work.
  (void)sync_all();
  (void)waits();
  WORK(s);
  WORK(other);
  OK(sync_all());
  CHECK(waits() == 3, "a context's synchronisation"); // the third stream is that of waits()
  // Synchronous copies, forwarded and native.
  OK(heddle_hook_cuMemcpyDtoH_v2(bytes, DEVICE_BASE, 100, CU_STREAM_LEGACY));
  CHECK(waits() == 1, "a small copy to the host");
  OK(heddle_hook_cuMemcpyHtoD_v2(DEVICE_BASE, bytes, 100, CU_STREAM_LEGACY));
  CHECK(waits() == 1, "a small copy to the device");
  OK(heddle_hook_cuMemcpyDtoH_v2(fake_shared_host, DEVICE_BASE, 100, CU_STREAM_LEGACY));
  CHECK(waits() == 1, "a copy to pinned memory");
  WORK(CU_STREAM_LEGACY);
  OK(heddle_hook_cuMemcpyDtoH_v2(bytes, DEVICE_BASE, sizeof bytes, CU_STREAM_LEGACY));
  CHECK(native_ops == 1 && waits() == 1, "a large copy, which runs natively");
  OK(heddle_hook_cuMemcpyHtoDAsync_v2(DEVICE_BASE, bytes, 100, s));
  OK(heddle_hook_cuMemcpyDtoDAsync_v2(DEVICE_BASE, DEVICE_BASE + 4096, 100, s));
  CHECK(waits() == 0, "asynchronous copies");
  // Waits of the library's own.
  WORK(s);
  OK(heddle_order_drain(fake_session, NULL));
  CHECK(waits() == 0, "a drain, as before a free");
  executor_stop();
}

// ---- cost: launches that callgrind counts ----

// Sent to its own context a program runs there what uses the SMs and leaves nothing behind in the executor: not what has state there,
// and nothing at all when it knows addresses there.
static CUresult copy2d(const CUDA_MEMCPY2D *p, CUstream s) { (void)p; on_native("op", s, 0, 0, NULL); return CUDA_SUCCESS; }
static void sent(void) {
  heddle_real.cuMemcpy2DAsync_v2 = copy2d;
  executor_start();
  uint64_t a = 1, b = 2;
  uint32_t c = 3;
  void *params[] = {&a, &b, &c};
  CUDA_MEMCPY2D box = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = DEVICE_BASE, .srcPitch = 256, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstDevice = DEVICE_BASE + 65536, .dstPitch = 128, .WidthInBytes = 100, .Height = 10};
  const struct { int own, stateful, mirrored; uint32_t away; } all[] = {{0, 0, 0, 0}, {1, 0, 0, 4}, {1, 1, 0, 3}, {1, 0, 1, 0}, {0, 0, 0, 0}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    uint32_t ops = native_ops, counted = fake_native_counts[HEDDLE_NATIVE_STRAGGLER];
    heddle_store_relaxed32(&fake_session->ring.producer->own_context, (uint32_t)all[i].own);
    atomic_store(&fake_stateful, all[i].stateful);
    atomic_store(&fake_mirrored, all[i].mirrored);
    OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, CU_STREAM_LEGACY, params, NULL));
    OK(heddle_hook_cuMemsetD8Async(DEVICE_BASE, 1, 16, CU_STREAM_LEGACY));
    OK(heddle_hook_cuMemcpyDtoDAsync_v2(DEVICE_BASE, DEVICE_BASE + 4096, 4096, CU_STREAM_LEGACY));
    OK(heddle_hook_cuMemcpy2DAsync_v2(&box, CU_STREAM_LEGACY));
    OK(heddle_hook_cuMemcpyDtoDAsync_v2(GLOBAL_BASE, DEVICE_BASE + 4096, 4096, CU_STREAM_LEGACY)); // only the executor can
    OK(sync_all());
    CHECK(native_ops - ops == all[i].away && fake_native_counts[HEDDLE_NATIVE_STRAGGLER] - counted == all[i].away, "case %zu: %u ops ran here, %u of them as sent away", i,
          native_ops - ops, fake_native_counts[HEDDLE_NATIVE_STRAGGLER] - counted);
  }
  // A kernel that the executor was never asked for is asked for first: only then it is known whether it has state there.
  heddle_store_relaxed32(&fake_session->ring.producer->own_context, 1);
  atomic_store(&((struct heddle_function *)(uintptr_t)heddle_code_function(KERNEL))->kernel_id[0], 0);
  uint32_t ops = native_ops;
  OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, CU_STREAM_LEGACY, params, NULL));
  CHECK(native_ops == ops + 1 && atomic_load(&heddle_code_function(KERNEL)->kernel_id[0]) != 0, "%u ops ran here", native_ops - ops);
  executor_stop();
}

static void cost(void) {
  executor_start();
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  uint64_t a = 1, b = 2;
  uint32_t c = 3;
  void *params[] = {&a, &b, &c};
  for (int i = 0; i < 100; i++) OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
  OK(sync_all());
  executor_stop();
  uint64_t begin = heddle_now_ns();
  for (int i = 0; i < 10000; i++) OK(heddle_hook_cuLaunchKernel(KERNEL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
  printf("%.1f ns a launch\n", (double)(heddle_now_ns() - begin) / 10000);
}

int main(int argc, char **argv) {
  static const struct { const char *name; void (*run)(void); uint64_t ring; } units[] = {
      {"launch", launch, 1 << 20}, {"copy", copy, 1 << 20}, {"upload", upload, 1 << 20}, {"full", full, 1 << 16}, {"threads", threads, 1 << 18}, {"events", events, 1 << 20},
      {"sticky", sticky, 1 << 20}, {"lost", lost, 1 << 20}, {"freed", freed, 1 << 20}, {"alone", alone, 1 << 20}, {"doubt", doubt, 1 << 20}, {"vanished", vanished, 1 << 20}, {"overwritten", overwritten, 1 << 20}, {"implied", implied, 1 << 20}, {"lanes", lanes, 1 << 20}, {"host-waits", host_waits, 1 << 20}, {"sent", sent, 1 << 20},
      {"cost", cost, 1 << 22}};
  CHECK(argc == 2, "usage: units NAME");
  fake_native = on_native;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (strcmp(argv[1], units[i].name) == 0) {
      fake_start(units[i].ring);
      units[i].run();
      printf("%s: ok\n", argv[1]);
      return 0;
    }
  CHECK(false, "no unit %s", argv[1]);
}
