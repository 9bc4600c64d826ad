// Kernel launches: judged against cached limits, packed by the function's parameter layout, published. Whatever is unusual goes to
// the driver in order, so that it judges the call itself and returns its own code. Source: CUDA driver API, cuLaunchKernel,
// cuLaunchKernelEx, cuLaunchCooperativeKernel; design.md section 4 "Errors".
#include <string.h>

#include "hooks/hooks_gen.h"
#include "lane.h"
#include "ops.h"

// ---- limits ----

struct limits {
  uint32_t grid[3], block[3], threads, processors;
};
static struct limits device_limits[HEDDLE_MAX_DEVICES];
static _Atomic int device_known[HEDDLE_MAX_DEVICES];

static bool limits_read(int device) {
  static const CUdevice_attribute what[8] = {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X,        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,
                                             CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z,        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X,
                                             CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,       CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z,
                                             CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT};
  uint32_t v[8];
  for (int i = 0; i < 8; i++) {
    int value = 0;
    if (heddle_real.cuDeviceGetAttribute(&value, what[i], device) != CUDA_SUCCESS || value <= 0) return false;
    v[i] = (uint32_t)value;
  }
  // Several threads may do this at once: all write the same values.
  device_limits[device] = (struct limits){{v[0], v[1], v[2]}, {v[3], v[4], v[5]}, v[6], v[7]};
  atomic_store_explicit(&device_known[device], 1, memory_order_release);
  return true;
}

// The driver would take these dimensions and this shared memory for this function.
static bool within_limits(const struct heddle_function *f, const struct heddle_wire_launch *w, int device) {
  if (__builtin_expect(atomic_load_explicit(&device_known[device], memory_order_acquire) == 0, 0) && !limits_read(device)) return false;
  const struct limits *m = &device_limits[device];
  uint64_t threads = (uint64_t)w->block_x * w->block_y * w->block_z;
  return w->grid_x - 1 < m->grid[0] && w->grid_y - 1 < m->grid[1] && w->grid_z - 1 < m->grid[2] && w->block_x - 1 < m->block[0] &&
         w->block_y - 1 < m->block[1] && w->block_z - 1 < m->block[2] && threads <= m->threads && threads <= f->max_threads &&
         w->shared_bytes <= atomic_load_explicit(&f->max_dynamic_shared, memory_order_relaxed);
}

// All blocks of a cooperative launch must be resident at once; only the driver can tell how many fit.
static bool cooperative_fits(const struct heddle_launch *l, int device) {
  int blocks = 0;
  const struct heddle_wire_launch *w = &l->wire;
  if (heddle_real.cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, l->function, (int)(w->block_x * w->block_y * w->block_z),
                                                              w->shared_bytes) != CUDA_SUCCESS)
    return false;
  unsigned __int128 asked = (unsigned __int128)w->grid_x * w->grid_y * w->grid_z;
  return blocks > 0 && asked <= (unsigned __int128)(uint32_t)blocks * device_limits[device].processors;
}

// Clusters of up to 8 blocks run on every device that has clusters; larger ones only the driver can judge.
static bool cluster_fits(const struct heddle_launch *l) {
  const struct heddle_wire_launch *w = &l->wire;
  if (w->cluster_x == 0 || w->cluster_y == 0 || w->cluster_z == 0) return false;
  if (w->grid_x % w->cluster_x != 0 || w->grid_y % w->cluster_y != 0 || w->grid_z % w->cluster_z != 0) return false;
  uint64_t blocks = (uint64_t)w->cluster_x * w->cluster_y * w->cluster_z;
  if (w->cluster_x <= 8 && w->cluster_y <= 8 && w->cluster_z <= 8 && blocks <= 8) return true;
  if (blocks > 1024 || heddle_real.cuOccupancyMaxActiveClusters == NULL) return false;
  CUlaunchAttribute a = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION};
  a.value.clusterDim.x = w->cluster_x;
  a.value.clusterDim.y = w->cluster_y;
  a.value.clusterDim.z = w->cluster_z;
  CUlaunchConfig config = {.gridDimX = w->grid_x, .gridDimY = w->grid_y, .gridDimZ = w->grid_z, .blockDimX = w->block_x,
                           .blockDimY = w->block_y, .blockDimZ = w->block_z, .sharedMemBytes = w->shared_bytes, .attrs = &a, .numAttrs = 1};
  int clusters = 0;
  return heddle_real.cuOccupancyMaxActiveClusters(&clusters, l->function, &config) == CUDA_SUCCESS && clusters > 0;
}

// ---- parameters ----

// Copies the parameters of one launch into `to` (f->param_bytes). False: the arguments are for the driver to judge.
static bool pack(const struct heddle_function *f, const struct heddle_launch *l, unsigned char *to) {
  if (l->params != NULL && l->extra != NULL) return false;
  if (f->param_count == 0) return l->extra == NULL;
  if (l->params != NULL) {
    uint32_t end = 0;
    for (uint32_t i = 0; i < f->param_count; i++) {
      uint32_t at = f->param_offset[i], size = f->param_size[i];
      const void *from = l->params[i];
      if (from == NULL) return false;
      if (at > end) memset(to + end, 0, at - end);
      switch (size) { // the sizes that occur, without a call
      case 4: memcpy(to + at, from, 4); break;
      case 8: memcpy(to + at, from, 8); break;
      default: memcpy(to + at, from, size);
      }
      end = at + size;
    }
    return true;
  }
  if (l->extra == NULL) return false;
  const void *buffer = NULL;
  size_t bytes = 0;
  for (void **e = l->extra; *e != CU_LAUNCH_PARAM_END; e += 2) {
    if (*e == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = e[1];
    else if (*e == CU_LAUNCH_PARAM_BUFFER_SIZE && e[1] != NULL) bytes = *(const size_t *)e[1];
    else return false;
  }
  if (buffer == NULL || bytes < f->param_bytes) return false;
  memcpy(to, buffer, f->param_bytes);
  return true;
}

// ---- forwarding ----

// The session is over. A kernel whose device globals lived in the executor would now see other values: the program gets an error.
static int forward_closed(struct heddle_session *s, const struct heddle_function *f, enum heddle_native_reason *why) {
  *why = HEDDLE_NATIVE_CLOSED;
  CUresult r = heddle_sticky(s);
  if (r != CUDA_SUCCESS) return (int)r;
  return heddle_code_mirrored(s, f) ? (int)CUDA_ERROR_LAUNCH_FAILED : HEDDLE_OP_NATIVE;
}

// The function, when the driver would take this launch and its parameters can be packed. NULL: *why says why not.
static inline const struct heddle_function *judge(struct heddle_session *s, struct heddle_launch *l, unsigned char *packed,
                                                  enum heddle_native_reason *why) {
  const struct heddle_function *f = heddle_code_function(l->function);
  *why = HEDDLE_NATIVE_UNKNOWN_CODE;
  if (__builtin_expect(f == NULL, 0)) return NULL;
  *why = HEDDLE_NATIVE_ARGUMENT;
  if (__builtin_expect(!within_limits(f, &l->wire, s->device) || f->param_bytes > HEDDLE_WIRE_MAX_PARAM_BYTES, 0)) return NULL;
  if (__builtin_expect(l->wire.flags != 0, 0)) {
    if ((l->wire.flags & HEDDLE_WIRE_LAUNCH_FLAG_COOPERATIVE) != 0 && !cooperative_fits(l, s->device)) return NULL;
    if ((l->wire.flags & HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER) != 0 && !cluster_fits(l)) return NULL;
  }
  if (!pack(f, l, packed)) return NULL;
  l->wire.param_bytes = f->param_bytes;
  return f;
}

const struct heddle_function *heddle_launch_encode(struct heddle_session *s, struct heddle_launch *l, unsigned char *packed,
                                                   enum heddle_native_reason *why) {
  const struct heddle_function *f = judge(s, l, packed, why);
  if (f == NULL) return NULL;
  *why = HEDDLE_NATIVE_REFUSED_CODE;
  if ((l->wire.kernel = heddle_code_kernel_id(s, f, why)) == 0) return NULL;
  return heddle_memory_params_native(packed, f->param_bytes, why) ? NULL : f;
}

// HEDDLE_OP_OPEN: published. HEDDLE_OP_NATIVE: launch natively, *why says why. Otherwise a CUresult to return.
static int forward(struct heddle_lane *lane, struct heddle_launch *l, enum heddle_native_reason *why) {
  unsigned char packed[HEDDLE_PACKED_BYTES];
  if (lane == NULL) return HEDDLE_OP_NATIVE; // a native process: nothing is counted
  struct heddle_session *s = lane->session;
  const struct heddle_function *f = judge(s, l, packed, why);
  if (__builtin_expect(f == NULL, 0)) return HEDDLE_OP_NATIVE;
  uint32_t id = atomic_load_explicit(&f->kernel_id[s->device], memory_order_acquire);
  if (__builtin_expect(id == 0 || id == UINT32_MAX, 0)) {
    if (!heddle_session_live(s)) return forward_closed(s, f, why);
    if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 &&
        heddle_stream_captures(atomic_load_explicit(&lane->handle, memory_order_relaxed))) {
      *why = HEDDLE_NATIVE_CAPTURE; // a kernel that is only ever captured need not be loaded in the executor
      return HEDDLE_OP_NATIVE;
    }
    *why = HEDDLE_NATIVE_REFUSED_CODE;
    if ((id = heddle_code_kernel_id(s, f, why)) == 0) return HEDDLE_OP_NATIVE;
  }
  if (heddle_memory_params_native(packed, f->param_bytes, why)) return HEDDLE_OP_NATIVE;
  if (__builtin_expect(!heddle_session_live(s), 0)) return forward_closed(s, f, why);
  if (__builtin_expect(heddle_session_sent(s), 0) && !heddle_code_stateful(s, f)) { // its id is known, so the executor has told
    *why = HEDDLE_NATIVE_STRAGGLER;
    return HEDDLE_OP_NATIVE;
  }
  struct heddle_op op;
  int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_LAUNCH, 0, (uint32_t)sizeof l->wire + f->param_bytes);
  if (__builtin_expect(opened != HEDDLE_OP_OPEN, 0)) {
    *why = op.why;
    return opened;
  }
  l->wire.kernel = id;
  memcpy(op.body, &l->wire, sizeof l->wire);
  memcpy(op.body + sizeof l->wire, packed, f->param_bytes);
  heddle_op_publish(&op);
  return HEDDLE_OP_OPEN;
}

CUresult heddle_hook_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
                                    unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                                    void **kernelParams, void **extra) {
  struct heddle_launch l = {.function = f,
                     .wire = {.grid_x = gridDimX, .grid_y = gridDimY, .grid_z = gridDimZ, .block_x = blockDimX, .block_y = blockDimY,
                              .block_z = blockDimZ, .shared_bytes = sharedMemBytes},
                     .params = kernelParams, .extra = extra};
  enum heddle_native_reason why = HEDDLE_NATIVE_NONE;
  int r = forward(heddle_lane_of(hStream), &l, &why);
  if (__builtin_expect(r != HEDDLE_OP_NATIVE, 1)) return (CUresult)r;
  return HEDDLE_CODE_NATIVE(f, hStream,
                            HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_ASYNC, why,
                                               heddle_real.cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                                                                          sharedMemBytes, hStream, kernelParams, extra)));
}

CUresult heddle_hook_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
                                               unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
                                               unsigned int sharedMemBytes, CUstream hStream, void **kernelParams) {
  struct heddle_launch l = {.function = f,
                     .wire = {.flags = HEDDLE_WIRE_LAUNCH_FLAG_COOPERATIVE, .grid_x = gridDimX, .grid_y = gridDimY, .grid_z = gridDimZ,
                              .block_x = blockDimX, .block_y = blockDimY, .block_z = blockDimZ, .shared_bytes = sharedMemBytes},
                     .params = kernelParams};
  enum heddle_native_reason why = HEDDLE_NATIVE_NONE;
  int r = forward(heddle_lane_of(hStream), &l, &why);
  if (r != HEDDLE_OP_NATIVE) return (CUresult)r;
  return HEDDLE_CODE_NATIVE(f, hStream,
                            HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_ASYNC, why,
                                               heddle_real.cuLaunchCooperativeKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY,
                                                                                     blockDimZ, sharedMemBytes, hStream, kernelParams)));
}

bool heddle_launch_attribute(struct heddle_wire_launch *w, const CUlaunchAttribute *a) {
  switch (a->id) {
  case CU_LAUNCH_ATTRIBUTE_IGNORE:
  // Only speed depends on these. Programmatic serialization lets a kernel begin before its predecessor ends; starting it
  // afterwards is allowed. The default memory domain orders more, not less. The lane's priority stands for the launch's.
  case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
  case CU_LAUNCH_ATTRIBUTE_PRIORITY:
  case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
  case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
  case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
  case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING: return true;
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
    if (a->value.cooperative != 0) w->flags |= HEDDLE_WIRE_LAUNCH_FLAG_COOPERATIVE;
    return true;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    w->flags |= HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER;
    w->cluster_x = a->value.clusterDim.x;
    w->cluster_y = a->value.clusterDim.y;
    w->cluster_z = a->value.clusterDim.z;
    return true;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    w->cluster_policy = (uint32_t)a->value.clusterSchedulingPolicyPreference;
    return true;
  default: return false;
  }
}

CUresult heddle_hook_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra, CUstream implicit) {
  enum heddle_native_reason why = HEDDLE_NATIVE_NONE;
  CUstream stream = config == NULL || config->hStream == NULL ? implicit : config->hStream;
  struct heddle_lane *lane = heddle_lane_of(stream);
  int r = HEDDLE_OP_NATIVE;
  if (lane != NULL && (config == NULL || (config->numAttrs != 0 && config->attrs == NULL))) {
    why = HEDDLE_NATIVE_ARGUMENT;
  } else if (lane != NULL) {
    struct heddle_launch l = {.function = f,
                       .wire = {.grid_x = config->gridDimX, .grid_y = config->gridDimY, .grid_z = config->gridDimZ, .block_x = config->blockDimX,
                                .block_y = config->blockDimY, .block_z = config->blockDimZ, .shared_bytes = config->sharedMemBytes},
                       .params = kernelParams, .extra = extra};
    bool known = true;
    for (unsigned int i = 0; i < config->numAttrs && known; i++) known = heddle_launch_attribute(&l.wire, &config->attrs[i]);
    if (known) r = forward(lane, &l, &why);
    else why = HEDDLE_NATIVE_ATTRIBUTE;
  }
  if (r != HEDDLE_OP_NATIVE) return (CUresult)r;
  return HEDDLE_CODE_NATIVE(f, stream,
                            HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, why, heddle_native_cuLaunchKernelEx(config, f, kernelParams, extra, implicit)));
}
