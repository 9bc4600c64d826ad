#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef heddle_gpu_result R;

// As cuda.h 13.0 has them on 64-bit Linux.
_Static_assert(sizeof(struct heddle_gpu_memcpy3d) == 200 && offsetof(struct heddle_gpu_memcpy3d, width) == 176, "CUDA_MEMCPY3D_v2");
_Static_assert(sizeof(struct heddle_gpu_prop) == 32 && sizeof(struct heddle_gpu_access) == 12, "CUmemAllocationProp_v1, CUmemAccessDesc_v1");
_Static_assert(sizeof(struct heddle_gpu_kernel_node) == 72 && sizeof(struct heddle_gpu_memset_node) == 40, "CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMSET_NODE_PARAMS_v1");
_Static_assert(sizeof(struct heddle_gpu_attribute) == 72 && sizeof(struct heddle_gpu_config) == 56, "CUlaunchAttribute, CUlaunchConfig");

// One row per entry point: field, exported symbol (the CUDA 13 ABI version), 1 = required, prototype.
#define DRIVER_TABLE(X) \
  X(init, "cuInit", 1, (unsigned)) \
  X(version, "cuDriverGetVersion", 1, (int *)) \
  X(errorName, "cuGetErrorName", 1, (R, const char **)) \
  X(errorString, "cuGetErrorString", 1, (R, const char **)) \
  X(deviceCount, "cuDeviceGetCount", 1, (int *)) \
  X(deviceGet, "cuDeviceGet", 1, (int *, int)) \
  X(deviceUuid, "cuDeviceGetUuid_v2", 1, (void *, int)) \
  X(deviceName, "cuDeviceGetName", 1, (char *, int, int)) \
  X(deviceMem, "cuDeviceTotalMem_v2", 1, (size_t *, int)) \
  X(deviceAttribute, "cuDeviceGetAttribute", 1, (int *, int, int)) \
  X(primaryFlags, "cuDevicePrimaryCtxSetFlags_v2", 1, (int, unsigned)) \
  X(primaryRetain, "cuDevicePrimaryCtxRetain", 1, (void **, int)) \
  X(primaryRelease, "cuDevicePrimaryCtxRelease_v2", 1, (int)) \
  X(ctxSet, "cuCtxSetCurrent", 1, (void *)) \
  X(ctxLimit, "cuCtxSetLimit", 1, (int, size_t)) \
  X(ctxGetLimit, "cuCtxGetLimit", 1, (size_t *, int)) \
  X(ctxSync, "cuCtxSynchronize", 1, (void)) \
  X(priorityRange, "cuCtxGetStreamPriorityRange", 1, (int *, int *)) \
  X(streamCreate, "cuStreamCreateWithPriority", 1, (void **, unsigned, int)) \
  X(streamDestroy, "cuStreamDestroy_v2", 1, (void *)) \
  X(streamQuery, "cuStreamQuery", 1, (void *)) \
  X(streamSync, "cuStreamSynchronize", 1, (void *)) \
  X(streamWaitEvent, "cuStreamWaitEvent", 1, (void *, void *, unsigned)) \
  X(streamWrite32, "cuStreamWriteValue32_v2", 1, (void *, uint64_t, uint32_t, unsigned)) \
  X(eventCreate, "cuEventCreate", 1, (void **, unsigned)) \
  X(eventDestroy, "cuEventDestroy_v2", 1, (void *)) \
  X(eventRecord, "cuEventRecord", 1, (void *, void *)) \
  X(eventQuery, "cuEventQuery", 1, (void *)) \
  X(eventElapsed, "cuEventElapsedTime", 1, (float *, void *, void *)) \
  X(launchEx, "cuLaunchKernelEx", 1, (const struct heddle_gpu_config *, void *, void **, void **)) \
  X(launch, "cuLaunchKernel", 1, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **)) \
  X(set8, "cuMemsetD8Async", 1, (uint64_t, unsigned char, size_t, void *)) \
  X(set16, "cuMemsetD16Async", 1, (uint64_t, unsigned short, size_t, void *)) \
  X(set32, "cuMemsetD32Async", 1, (uint64_t, unsigned, size_t, void *)) \
  X(set2d8, "cuMemsetD2D8Async", 1, (uint64_t, size_t, unsigned char, size_t, size_t, void *)) \
  X(set2d16, "cuMemsetD2D16Async", 1, (uint64_t, size_t, unsigned short, size_t, size_t, void *)) \
  X(set2d32, "cuMemsetD2D32Async", 1, (uint64_t, size_t, unsigned, size_t, size_t, void *)) \
  X(copy, "cuMemcpyAsync", 1, (uint64_t, uint64_t, size_t, void *)) \
  X(copyHtoD, "cuMemcpyHtoDAsync_v2", 1, (uint64_t, const void *, size_t, void *)) \
  X(copyDtoH, "cuMemcpyDtoHAsync_v2", 1, (void *, uint64_t, size_t, void *)) \
  X(copy3d, "cuMemcpy3DAsync_v2", 1, (const struct heddle_gpu_memcpy3d *, void *)) \
  X(graphCreate, "cuGraphCreate", 1, (void **, unsigned)) \
  X(graphDestroy, "cuGraphDestroy", 1, (void *)) \
  X(graphKernel, "cuGraphAddKernelNode_v2", 1, (void **, void *, void *const *, size_t, const struct heddle_gpu_kernel_node *)) \
  X(graphAttribute, "cuGraphKernelNodeSetAttribute", 1, (void *, int, const void *)) \
  X(graphMemset, "cuGraphAddMemsetNode", 1, (void **, void *, void *const *, size_t, const struct heddle_gpu_memset_node *, void *)) \
  X(graphCopy, "cuGraphAddMemcpyNode", 1, (void **, void *, void *const *, size_t, const struct heddle_gpu_memcpy3d *, void *)) \
  X(graphEmpty, "cuGraphAddEmptyNode", 1, (void **, void *, void *const *, size_t)) \
  X(graphInstantiate, "cuGraphInstantiateWithFlags", 1, (void **, void *, unsigned long long)) \
  X(graphSetKernel, "cuGraphExecKernelNodeSetParams_v2", 1, (void *, void *, const struct heddle_gpu_kernel_node *)) \
  X(graphSetEnabled, "cuGraphNodeSetEnabled", 1, (void *, void *, unsigned)) \
  X(graphUpload, "cuGraphUpload", 1, (void *, void *)) \
  X(graphLaunch, "cuGraphLaunch", 1, (void *, void *)) \
  X(graphExecDestroy, "cuGraphExecDestroy", 1, (void *)) \
  X(reserve, "cuMemAddressReserve", 1, (uint64_t *, size_t, size_t, uint64_t, unsigned long long)) \
  X(reserveFree, "cuMemAddressFree", 1, (uint64_t, size_t)) \
  X(import, "cuMemImportFromShareableHandle", 1, (unsigned long long *, void *, int)) \
  X(export, "cuMemExportToShareableHandle", 1, (void *, unsigned long long, int, unsigned long long)) \
  X(create, "cuMemCreate", 1, (unsigned long long *, size_t, const struct heddle_gpu_prop *, unsigned long long)) \
  X(release, "cuMemRelease", 1, (unsigned long long)) \
  X(map, "cuMemMap", 1, (uint64_t, size_t, size_t, unsigned long long, unsigned long long)) \
  X(unmap, "cuMemUnmap", 1, (uint64_t, size_t)) \
  X(access, "cuMemSetAccess", 1, (uint64_t, size_t, const struct heddle_gpu_access *, size_t)) \
  X(granularity, "cuMemGetAllocationGranularity", 1, (size_t *, const struct heddle_gpu_prop *, int)) \
  X(hostRegister, "cuMemHostRegister_v2", 1, (void *, size_t, unsigned)) \
  X(hostUnregister, "cuMemHostUnregister", 1, (void *)) \
  X(hostPointer, "cuMemHostGetDevicePointer_v2", 1, (uint64_t *, void *, unsigned)) \
  X(hostAlloc, "cuMemHostAlloc", 1, (void **, size_t, unsigned)) \
  X(hostFree, "cuMemFreeHost", 1, (void *)) \
  X(moduleLoad, "cuModuleLoadDataEx", 1, (void **, const void *, unsigned, int *, void **)) \
  X(moduleUnload, "cuModuleUnload", 1, (void *)) \
  X(linkCreate, "cuLinkCreate_v2", 1, (unsigned, int *, void **, void **)) \
  X(linkAdd, "cuLinkAddData_v2", 1, (void *, int, void *, size_t, const char *, unsigned, int *, void **)) \
  X(linkComplete, "cuLinkComplete", 1, (void *, void **, size_t *)) \
  X(linkDestroy, "cuLinkDestroy", 1, (void *)) \
  X(moduleFunction, "cuModuleGetFunction", 1, (void **, void *, const char *)) \
  X(moduleGlobal, "cuModuleGetGlobal_v2", 1, (uint64_t *, size_t *, void *, const char *)) \
  X(funcGet, "cuFuncGetAttribute", 1, (int *, int, void *)) \
  X(funcSet, "cuFuncSetAttribute", 1, (void *, int, int)) \
  X(resource, "cuDeviceGetDevResource", 0, (int, void *, int)) \
  X(split, "cuDevSmResourceSplitByCount", 0, (void *, unsigned *, const void *, void *, unsigned, unsigned)) \
  X(describe, "cuDevResourceGenerateDesc", 0, (void **, void *, unsigned)) \
  X(greenCreate, "cuGreenCtxCreate", 0, (void **, void *, int, unsigned)) \
  X(greenStream, "cuGreenCtxStreamCreate", 0, (void **, void *, unsigned, int)) \
  X(funcLoad, "cuFuncLoad", 0, (void *)) \
  X(funcParam, "cuFuncGetParamInfo", 0, (void *, size_t, size_t *, size_t *))

#define FIELD(name, symbol, required, prototype) R(*name) prototype;
static struct { DRIVER_TABLE(FIELD) } d;
#undef FIELD

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static void *library;
static char why[512];

const char *heddle_gpu_open(const char *path) {
  pthread_mutex_lock(&open_lock);
  const char *r = NULL;
  if (!library) {
    const char *name = path && *path ? path : "libcuda.so.1";
    void *h = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!h) {
      const char *e = dlerror();
      snprintf(why, sizeof why, "dlopen(%s): %s", name, e ? e : "no reason given");
      r = why;
    }
#define BIND(field, symbol, required, prototype) \
  if (h && !r) { \
    d.field = (R(*) prototype)dlsym(h, symbol); \
    if (!d.field && required) { snprintf(why, sizeof why, "%s has no %s: Heddle needs driver 550 or later", name, symbol); r = why; } \
  }
    DRIVER_TABLE(BIND)
#undef BIND
    if (!r) library = h;
    // A refused library stays loaded: the real libcuda must never be dlclosed (its threads and handlers outlive it).
  }
  pthread_mutex_unlock(&open_lock);
  return r;
}

int heddle_gpu_has(const char *symbol) { return library && dlsym(library, symbol) != NULL; }

enum { INVALID_VALUE = 1, NOT_FOUND = 500, NOT_SUPPORTED = 801, INVALID_RESOURCE_CONFIGURATION = 915, HANDLE_POSIX_FD = 1, LOCATION_DEVICE = 1, ALLOCATION_PINNED = 1, MEMORY_UNIFIED = 4 };
#define P(x) ((void *)(uintptr_t)(x))

R heddle_gpu_init(void) { return d.init(0); }
R heddle_gpu_driver_version(int32_t *v) { return d.version(v); }
R heddle_gpu_device_count(int32_t *n) { return d.deviceCount(n); }

R heddle_gpu_device(int32_t ordinal, int32_t *device, uint8_t uuid[16], uint64_t *bytes, char name[96]) {
  R r = d.deviceGet(device, ordinal);
  if (!r) r = d.deviceUuid(uuid, *device);
  size_t n = 0;
  if (!r) r = d.deviceMem(&n, *device);
  *bytes = n;
  if (!r) r = d.deviceName(name, 96, *device);
  return r;
}

R heddle_gpu_device_attribute(int32_t attribute, int32_t device, int32_t *value) { return d.deviceAttribute(value, attribute, device); }

const char *heddle_gpu_error_name(R r) { const char *s = NULL; return d.errorName && !d.errorName(r, &s) ? s : NULL; }
const char *heddle_gpu_error_string(R r) { const char *s = NULL; return d.errorString && !d.errorString(r, &s) ? s : NULL; }

R heddle_gpu_primary_retain(int32_t device, uint32_t flags, uint64_t *context) {
  R r = d.primaryFlags(device, flags);
  if (r && r != 708) return r; // PRIMARY_CONTEXT_ACTIVE: somebody of this process was first; its flags stay
  void *c = NULL;
  r = d.primaryRetain(&c, device);
  *context = (uintptr_t)c;
  return r;
}
R heddle_gpu_primary_release(int32_t device) { return d.primaryRelease(device); }
R heddle_gpu_context_set(uint64_t c) { return d.ctxSet(P(c)); }
R heddle_gpu_context_limit(uint32_t limit, uint64_t value) { return d.ctxLimit((int)limit, value); }
R heddle_gpu_context_get_limit(uint32_t limit, uint64_t *value) { size_t v = 0; R r = d.ctxGetLimit(&v, (int)limit); *value = v; return r; }
R heddle_gpu_context_synchronize(void) { return d.ctxSync(); }
R heddle_gpu_priority_range(int32_t *least, int32_t *greatest) { return d.priorityRange(least, greatest); }

R heddle_gpu_stream_create(uint64_t *stream, int32_t priority) {
  void *s = NULL;
  R r = d.streamCreate(&s, 1 /* CU_STREAM_NON_BLOCKING */, priority);
  *stream = (uintptr_t)s;
  return r;
}
R heddle_gpu_stream_destroy(uint64_t s) { return d.streamDestroy(P(s)); }
R heddle_gpu_stream_query(uint64_t s) { return d.streamQuery(P(s)); }
R heddle_gpu_stream_synchronize(uint64_t s) { return d.streamSync(P(s)); }
R heddle_gpu_stream_wait_event(uint64_t s, uint64_t e) { return d.streamWaitEvent(P(s), P(e), 0); }
R heddle_gpu_stream_write32(uint64_t s, uint64_t address, uint32_t value) { return d.streamWrite32(P(s), address, value, 0); }

R heddle_gpu_event_create(uint64_t *event, uint32_t flags) {
  void *e = NULL;
  R r = d.eventCreate(&e, flags);
  *event = (uintptr_t)e;
  return r;
}
R heddle_gpu_event_destroy(uint64_t e) { return d.eventDestroy(P(e)); }
R heddle_gpu_event_record(uint64_t e, uint64_t s) { return d.eventRecord(P(e), P(s)); }
R heddle_gpu_event_query(uint64_t e) { return d.eventQuery(P(e)); }
R heddle_gpu_event_elapsed(float *ms, uint64_t start, uint64_t end) { return d.eventElapsed(ms, P(start), P(end)); }

// CUdevResource of cuda.h 12.4 to 13.0 (144 bytes, RESOURCE_ABI_VERSION 1), with room behind it for what later ones add.
struct resource {
  int32_t type; // 1: CU_DEV_RESOURCE_TYPE_SM
  unsigned char internal[92];
  uint32_t sms, least, unit; // CUdevSmResource: smCount, minSmPartitionSize, smCoscheduledAlignment
  unsigned char rest[148];
};
_Static_assert(offsetof(struct resource, sms) == 96 && sizeof(struct resource) == 256, "CUdevResource");

static R sm_resource(int32_t device, struct resource *all) {
  if (!d.resource || !d.split || !d.describe || !d.greenCreate || !d.greenStream) return NOT_SUPPORTED;
  memset(all, 0, sizeof *all);
  return d.resource(device, all, 1);
}
R heddle_gpu_partition_unit(int32_t device, uint32_t *all, uint32_t *least, uint32_t *unit) {
  struct resource r;
  R e = sm_resource(device, &r);
  if (e) return e;
  *all = r.sms;
  *least = r.least;
  *unit = r.unit;
  return e;
}
R heddle_gpu_partition_create(int32_t device, uint32_t want, uint64_t *partition, uint32_t *sms) {
  struct resource all, mine;
  R r = sm_resource(device, &all);
  if (r) return r;
  unsigned groups = 1;
  memset(&mine, 0, sizeof mine);
  r = d.split(&mine, &groups, &all, NULL, 0, want);
  if (!r && groups != 1) r = INVALID_RESOURCE_CONFIGURATION;
  void *description = NULL, *green = NULL; // nothing frees a description: it lives as long as the driver
  if (!r) r = d.describe(&description, &mine, 1);
  if (!r) r = d.greenCreate(&green, description, device, 1 /* CU_GREEN_CTX_DEFAULT_STREAM */);
  *partition = (uintptr_t)green;
  *sms = mine.sms;
  return r;
}
R heddle_gpu_partition_stream(uint64_t partition, int32_t priority, uint64_t *stream) {
  if (!d.greenStream) return NOT_SUPPORTED;
  void *s = NULL;
  R r = d.greenStream(&s, P(partition), 1 /* CU_STREAM_NON_BLOCKING */, priority);
  *stream = (uintptr_t)s;
  return r;
}

// The attributes that l asks for; a has room for three. Returns their number.
static uint32_t attributes(const struct heddle_gpu_launch *l, struct heddle_gpu_attribute a[3]) {
  uint32_t n = 0;
  memset(a, 0, 3 * sizeof *a);
  if (l->flags & 1) { a[n].id = 2; a[n++].value.number = 1; } // CU_LAUNCH_ATTRIBUTE_COOPERATIVE
  if (l->flags & 2) {
    a[n].id = 4; // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    memcpy(a[n++].value.dim, l->cluster, sizeof l->cluster);
    if (l->cluster_policy) { a[n].id = 5; a[n++].value.number = (int32_t)l->cluster_policy; } // CLUSTER_SCHEDULING_POLICY_PREFERENCE
  }
  return n;
}

R heddle_gpu_launch(const struct heddle_gpu_launch *l) {
  size_t bytes = l->param_bytes;
  // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END (driver API, cuLaunchKernel).
  void *extra[] = {P(1), P(l->params), P(2), &bytes, P(0)};
  void **params = bytes ? extra : NULL;
  if (!l->flags)
    return d.launch(P(l->function), l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1], l->block[2], l->shared_bytes, P(l->stream), NULL, params);
  struct heddle_gpu_attribute a[3];
  uint32_t n = attributes(l, a);
  struct heddle_gpu_config c = {l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1], l->block[2], l->shared_bytes, P(l->stream), a, n};
  return d.launchEx(&c, P(l->function), NULL, params);
}

R heddle_gpu_memset(uint64_t s, uint64_t dst, uint64_t pitch, uint64_t width, uint64_t height, uint32_t element, uint32_t value) {
  void *q = P(s);
  if (height > 1) switch (element) {
    case 1: return d.set2d8(dst, pitch, (unsigned char)value, width, height, q);
    case 2: return d.set2d16(dst, pitch, (unsigned short)value, width, height, q);
    case 4: return d.set2d32(dst, pitch, value, width, height, q);
    default: return INVALID_VALUE;
  }
  switch (element) {
    case 1: return d.set8(dst, (unsigned char)value, width, q);
    case 2: return d.set16(dst, (unsigned short)value, width, q);
    case 4: return d.set32(dst, value, width, q);
    default: return INVALID_VALUE;
  }
}

R heddle_gpu_copy(uint64_t s, uint64_t dst, uint64_t src, uint64_t bytes) { return d.copy(dst, src, bytes, P(s)); }
R heddle_gpu_copy_to_device(uint64_t s, uint64_t dst, uint64_t host, uint64_t bytes) { return d.copyHtoD(dst, P(host), bytes, P(s)); }
R heddle_gpu_copy_to_host(uint64_t s, uint64_t host, uint64_t src, uint64_t bytes) { return d.copyDtoH(P(host), src, bytes, P(s)); }

static struct heddle_gpu_memcpy3d pitched(const uint64_t c[15]) {
  struct heddle_gpu_memcpy3d m;
  memset(&m, 0, sizeof m);
  m.dst_type = m.src_type = MEMORY_UNIFIED; // the driver finds out whether an address is a device window or a host segment
  m.dst_device = c[0]; m.dst_pitch = c[1]; m.dst_height = c[2]; m.dst_x = c[3]; m.dst_y = c[4]; m.dst_z = c[5];
  m.src_device = c[6]; m.src_pitch = c[7]; m.src_height = c[8]; m.src_x = c[9]; m.src_y = c[10]; m.src_z = c[11];
  m.width = c[12]; m.height = c[13]; m.depth = c[14];
  return m;
}
R heddle_gpu_copy3d(uint64_t s, const uint64_t c[15]) {
  struct heddle_gpu_memcpy3d m = pitched(c);
  return d.copy3d(&m, P(s));
}

// A graph's nodes hold driver pointers; Go holds them as numbers of the same size.
_Static_assert(sizeof(void *) == sizeof(uint64_t), "handles");
#define AFTER ((void *const *)(const void *)after)

R heddle_gpu_graph_create(uint64_t *graph) {
  void *g = NULL;
  R r = d.graphCreate(&g, 0);
  *graph = (uintptr_t)g;
  return r;
}
R heddle_gpu_graph_destroy(uint64_t graph) { return d.graphDestroy(P(graph)); }

static struct heddle_gpu_kernel_node kernel_node(const struct heddle_gpu_launch *l, void **extra) {
  struct heddle_gpu_kernel_node k;
  memset(&k, 0, sizeof k);
  k.function = P(l->function);
  k.grid_x = l->grid[0]; k.grid_y = l->grid[1]; k.grid_z = l->grid[2];
  k.block_x = l->block[0]; k.block_y = l->block[1]; k.block_z = l->block[2];
  k.shared_bytes = l->shared_bytes;
  k.extra = l->param_bytes ? extra : NULL;
  return k;
}
R heddle_gpu_graph_kernel(uint64_t graph, const uint64_t *after, uint64_t count, const struct heddle_gpu_launch *l, uint64_t *node) {
  size_t bytes = l->param_bytes;
  void *extra[] = {P(1), P(l->params), P(2), &bytes, P(0)};
  struct heddle_gpu_kernel_node k = kernel_node(l, extra);
  void *n = NULL;
  R r = d.graphKernel(&n, P(graph), AFTER, count, &k);
  *node = (uintptr_t)n;
  struct heddle_gpu_attribute a[3];
  uint32_t want = r ? 0 : attributes(l, a);
  for (uint32_t i = 0; i < want && !r; i++) r = d.graphAttribute(n, (int)a[i].id, &a[i].value);
  return r;
}
R heddle_gpu_graph_memset(uint64_t context, uint64_t graph, const uint64_t *after, uint64_t count, const struct heddle_gpu_memset_node *m, uint64_t *node) {
  void *n = NULL;
  R r = d.graphMemset(&n, P(graph), AFTER, count, m, P(context));
  *node = (uintptr_t)n;
  return r;
}
R heddle_gpu_graph_copy3d(uint64_t context, uint64_t graph, const uint64_t *after, uint64_t count, const uint64_t c[15], uint64_t *node) {
  struct heddle_gpu_memcpy3d m = pitched(c);
  void *n = NULL;
  R r = d.graphCopy(&n, P(graph), AFTER, count, &m, P(context));
  *node = (uintptr_t)n;
  return r;
}
R heddle_gpu_graph_empty(uint64_t graph, const uint64_t *after, uint64_t count, uint64_t *node) {
  void *n = NULL;
  R r = d.graphEmpty(&n, P(graph), AFTER, count);
  *node = (uintptr_t)n;
  return r;
}
R heddle_gpu_graph_instantiate(uint64_t graph, uint64_t *exec) {
  void *x = NULL;
  R r = d.graphInstantiate(&x, P(graph), 0);
  *exec = (uintptr_t)x;
  return r;
}
R heddle_gpu_graph_set_kernel(uint64_t exec, uint64_t node, const struct heddle_gpu_launch *l) {
  size_t bytes = l->param_bytes;
  void *extra[] = {P(1), P(l->params), P(2), &bytes, P(0)};
  struct heddle_gpu_kernel_node k = kernel_node(l, extra);
  return d.graphSetKernel(P(exec), P(node), &k);
}
R heddle_gpu_graph_set_enabled(uint64_t exec, uint64_t node, uint32_t enabled) { return d.graphSetEnabled(P(exec), P(node), enabled); }
R heddle_gpu_graph_upload(uint64_t exec, uint64_t s) { return d.graphUpload(P(exec), P(s)); }
R heddle_gpu_graph_launch(uint64_t exec, uint64_t s) { return d.graphLaunch(P(exec), P(s)); }
R heddle_gpu_graph_exec_destroy(uint64_t exec) { return d.graphExecDestroy(P(exec)); }

R heddle_gpu_reserve(uint64_t address, uint64_t bytes, uint64_t *got) { return d.reserve(got, bytes, 0, address, 0); }
R heddle_gpu_reserve_free(uint64_t address, uint64_t bytes) { return d.reserveFree(address, bytes); }
R heddle_gpu_import_fd(int32_t fd, uint64_t *handle) {
  unsigned long long h = 0;
  R r = d.import(&h, P((intptr_t)fd), HANDLE_POSIX_FD);
  *handle = h;
  return r;
}
R heddle_gpu_export_fd(uint64_t handle, int32_t *fd) { return d.export(fd, handle, HANDLE_POSIX_FD, 0); }

static struct heddle_gpu_prop exportable(int32_t device) {
  struct heddle_gpu_prop p;
  memset(&p, 0, sizeof p);
  p.type = ALLOCATION_PINNED;
  p.handle_types = HANDLE_POSIX_FD;
  p.location.type = LOCATION_DEVICE;
  p.location.id = device;
  return p;
}
R heddle_gpu_create(int32_t device, uint64_t bytes, uint64_t *handle) {
  struct heddle_gpu_prop p = exportable(device);
  unsigned long long h = 0;
  R r = d.create(&h, bytes, &p, 0);
  *handle = h;
  return r;
}
R heddle_gpu_granularity(int32_t device, uint64_t *bytes) {
  struct heddle_gpu_prop p = exportable(device);
  size_t n = 0;
  R r = d.granularity(&n, &p, 0 /* CU_MEM_ALLOC_GRANULARITY_MINIMUM */);
  *bytes = n;
  return r;
}
R heddle_gpu_release(uint64_t handle) { return d.release(handle); }
R heddle_gpu_map(uint64_t address, uint64_t bytes, uint64_t handle, int32_t device) {
  R r = d.map(address, bytes, 0, handle, 0);
  if (r) return r;
  struct heddle_gpu_access a = {{LOCATION_DEVICE, device}, 3 /* CU_MEM_ACCESS_FLAGS_PROT_READWRITE */};
  r = d.access(address, bytes, &a, 1);
  if (r) d.unmap(address, bytes);
  return r;
}
R heddle_gpu_unmap(uint64_t address, uint64_t bytes) { return d.unmap(address, bytes); }

R heddle_gpu_host_register(uint64_t address, uint64_t bytes, uint64_t *device_address) {
  R r = d.hostRegister(P(address), bytes, 3 /* PORTABLE | DEVICEMAP */);
  if (r) return r;
  r = d.hostPointer(device_address, P(address), 0);
  if (r) d.hostUnregister(P(address));
  return r;
}
R heddle_gpu_host_unregister(uint64_t address) { return d.hostUnregister(P(address)); }
R heddle_gpu_host_alloc(uint64_t bytes, uint64_t *address) {
  void *p = NULL;
  R r = d.hostAlloc(&p, bytes, 3 /* PORTABLE | DEVICEMAP */);
  *address = (uintptr_t)p;
  return r;
}
R heddle_gpu_host_free(uint64_t address) { return d.hostFree(P(address)); }

R heddle_gpu_module_load(const void *image, uint64_t *module, char *log, uint32_t log_bytes) {
  int options[] = {5, 6}; // CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
  void *values[] = {log, P(log_bytes)};
  void *m = NULL;
  R r = d.moduleLoad(&m, image, log ? 2 : 0, options, values);
  *module = (uintptr_t)m;
  return r;
}
R heddle_gpu_link(const void *ptx, uint64_t bytes, int32_t target, void **cubin, uint64_t *cubin_bytes, char *log, uint32_t log_bytes) {
  // CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_TARGET
  int options[] = {5, 6, 9};
  void *values[] = {log, P(log_bytes), P((uint32_t)target)};
  void *state = NULL, *out = NULL;
  size_t n = 0;
  R r = d.linkCreate(target ? 3 : 2, options, values, &state);
  if (r) return r;
  r = d.linkAdd(state, 1 /* CU_JIT_INPUT_PTX */, (void *)(uintptr_t)ptx, bytes, "heddle", 0, NULL, NULL);
  if (!r) r = d.linkComplete(state, &out, &n);
  if (!r) { // the link state owns what it gave
    *cubin = malloc(n ? n : 1);
    if (*cubin) memcpy(*cubin, out, n); else r = 2; // OUT_OF_MEMORY
    *cubin_bytes = n;
  }
  d.linkDestroy(state);
  return r;
}
R heddle_gpu_module_unload(uint64_t m) { return d.moduleUnload(P(m)); }
R heddle_gpu_module_function(uint64_t m, const char *name, uint64_t *function) {
  void *f = NULL;
  R r = d.moduleFunction(&f, P(m), name);
  *function = (uintptr_t)f;
  return r;
}
R heddle_gpu_module_global(uint64_t m, const char *name, uint64_t *address, uint64_t *bytes) {
  size_t n = 0;
  R r = d.moduleGlobal(address, &n, P(m), name);
  *bytes = n;
  return r;
}
R heddle_gpu_function_load(uint64_t f) { return d.funcLoad ? d.funcLoad(P(f)) : 0; }
R heddle_gpu_function_get(uint64_t f, int32_t attribute, int32_t *value) { return d.funcGet(value, attribute, P(f)); }
R heddle_gpu_function_set(uint64_t f, int32_t attribute, int32_t value) { return d.funcSet(P(f), attribute, value); }
R heddle_gpu_function_param(uint64_t f, uint64_t index, uint64_t *offset, uint64_t *bytes) {
  if (!d.funcParam) return NOT_FOUND;
  size_t o = 0, n = 0;
  R r = d.funcParam(P(f), index, &o, &n);
  *offset = o;
  *bytes = n;
  return r;
}
