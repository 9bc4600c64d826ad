// The CUDA driver entry points that Heddle's control plane calls, bound by dlopen and dlsym: a build needs no CUDA header
// and a machine without the driver can still run every command. Types are the project's own minimal declarations of the
// CUDA 13 driver ABI (docs.nvidia.com/cuda/cuda-driver-api); driver.c asserts the sizes that cuda.h 13.0 gives them.
#ifndef HEDDLE_GPU_DRIVER_H
#define HEDDLE_GPU_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int32_t heddle_gpu_result; // CUresult

// CUDA_MEMCPY3D_v2 (driver API, "Data types used by CUDA driver").
struct heddle_gpu_memcpy3d {
  size_t src_x, src_y, src_z, src_lod;
  uint32_t src_type;
  const void *src_host;
  uint64_t src_device;
  void *src_array, *reserved0;
  size_t src_pitch, src_height;
  size_t dst_x, dst_y, dst_z, dst_lod;
  uint32_t dst_type;
  void *dst_host;
  uint64_t dst_device;
  void *dst_array, *reserved1;
  size_t dst_pitch, dst_height;
  size_t width, height, depth;
};

// CUmemLocation, CUmemAllocationProp_v1, CUmemAccessDesc_v1.
struct heddle_gpu_location { int32_t type, id; };
struct heddle_gpu_prop {
  int32_t type, handle_types;
  struct heddle_gpu_location location;
  void *win32;
  uint8_t compression, rdma;
  uint16_t usage;
  uint8_t reserved[4];
};
struct heddle_gpu_access { struct heddle_gpu_location location; int32_t flags; };

// CUlaunchAttribute and CUlaunchConfig.
struct heddle_gpu_attribute {
  uint32_t id;
  uint32_t pad;
  union { char bytes[64]; int32_t number; uint32_t dim[3]; } value;
};
struct heddle_gpu_config {
  uint32_t grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void *stream;
  struct heddle_gpu_attribute *attributes;
  uint32_t count;
};

// What heddle_gpu_launch needs; filled by Go, so it holds no pointer types (cgo passes its address as it is).
struct heddle_gpu_launch {
  uint64_t function, stream;
  uint32_t grid[3], block[3], shared_bytes;
  uint32_t flags; // 1 cooperative, 2 cluster (shm LaunchFlag*)
  uint32_t cluster[3], cluster_policy;
  uint64_t params, param_bytes;
};

// CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMSET_NODE_PARAMS_v1.
struct heddle_gpu_kernel_node {
  void *function;
  uint32_t grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void **params, **extra;
  void *kernel, *context;
};
struct heddle_gpu_memset_node {
  uint64_t dst;
  size_t pitch;
  uint32_t value, element;
  size_t width, height;
};

// Opens the driver library; NULL path: libcuda.so.1. Idempotent: the first success stays. Returns NULL, or a static
// description of what is missing (valid until the next call).
const char *heddle_gpu_open(const char *path);
int heddle_gpu_has(const char *symbol);

heddle_gpu_result heddle_gpu_init(void);
heddle_gpu_result heddle_gpu_driver_version(int32_t *version);
heddle_gpu_result heddle_gpu_device_count(int32_t *count);
heddle_gpu_result heddle_gpu_device(int32_t ordinal, int32_t *device, uint8_t uuid[16], uint64_t *bytes, char name[96]);
heddle_gpu_result heddle_gpu_device_attribute(int32_t attribute, int32_t device, int32_t *value);
const char *heddle_gpu_error_name(heddle_gpu_result r);
const char *heddle_gpu_error_string(heddle_gpu_result r);

heddle_gpu_result heddle_gpu_primary_retain(int32_t device, uint32_t flags, uint64_t *context);
heddle_gpu_result heddle_gpu_primary_release(int32_t device);
heddle_gpu_result heddle_gpu_context_set(uint64_t context);
heddle_gpu_result heddle_gpu_context_limit(uint32_t limit, uint64_t value);
heddle_gpu_result heddle_gpu_context_get_limit(uint32_t limit, uint64_t *value);
heddle_gpu_result heddle_gpu_context_synchronize(void);
heddle_gpu_result heddle_gpu_priority_range(int32_t *least, int32_t *greatest);

heddle_gpu_result heddle_gpu_stream_create(uint64_t *stream, int32_t priority);
heddle_gpu_result heddle_gpu_stream_destroy(uint64_t stream);
heddle_gpu_result heddle_gpu_stream_query(uint64_t stream);
heddle_gpu_result heddle_gpu_stream_synchronize(uint64_t stream);
heddle_gpu_result heddle_gpu_stream_wait_event(uint64_t stream, uint64_t event);
heddle_gpu_result heddle_gpu_stream_write32(uint64_t stream, uint64_t address, uint32_t value);

// Green contexts (driver 12.4, streams of them 12.5; CUDA_ERROR_NOT_SUPPORTED where the driver has none): a partition is at least `want`
// SMs, in units of the chip's. It is never destroyed: that would need all its streams to have ended.
heddle_gpu_result heddle_gpu_partition_unit(int32_t device, uint32_t *all, uint32_t *least, uint32_t *unit);
heddle_gpu_result heddle_gpu_partition_create(int32_t device, uint32_t want, uint64_t *partition, uint32_t *sms);
heddle_gpu_result heddle_gpu_partition_stream(uint64_t partition, int32_t priority, uint64_t *stream);

heddle_gpu_result heddle_gpu_event_create(uint64_t *event, uint32_t flags);
heddle_gpu_result heddle_gpu_event_destroy(uint64_t event);
heddle_gpu_result heddle_gpu_event_record(uint64_t event, uint64_t stream);
heddle_gpu_result heddle_gpu_event_query(uint64_t event);
heddle_gpu_result heddle_gpu_event_elapsed(float *ms, uint64_t start, uint64_t end);

heddle_gpu_result heddle_gpu_launch(const struct heddle_gpu_launch *l);
heddle_gpu_result heddle_gpu_memset(uint64_t stream, uint64_t dst, uint64_t pitch, uint64_t width, uint64_t height, uint32_t element, uint32_t value);
heddle_gpu_result heddle_gpu_copy(uint64_t stream, uint64_t dst, uint64_t src, uint64_t bytes);
heddle_gpu_result heddle_gpu_copy_to_device(uint64_t stream, uint64_t dst, uint64_t host, uint64_t bytes);
heddle_gpu_result heddle_gpu_copy_to_host(uint64_t stream, uint64_t host, uint64_t src, uint64_t bytes);
heddle_gpu_result heddle_gpu_copy3d(uint64_t stream, const uint64_t c[15]);

// Graphs. `after` names `count` nodes of the same graph that come before the new one. A kernel node takes what heddle_gpu_launch
// takes, but for the stream; the parameter bytes are copied by the call.
heddle_gpu_result heddle_gpu_graph_create(uint64_t *graph);
heddle_gpu_result heddle_gpu_graph_destroy(uint64_t graph);
heddle_gpu_result heddle_gpu_graph_kernel(uint64_t graph, const uint64_t *after, uint64_t count, const struct heddle_gpu_launch *l, uint64_t *node);
heddle_gpu_result heddle_gpu_graph_memset(uint64_t context, uint64_t graph, const uint64_t *after, uint64_t count, const struct heddle_gpu_memset_node *m, uint64_t *node);
heddle_gpu_result heddle_gpu_graph_copy3d(uint64_t context, uint64_t graph, const uint64_t *after, uint64_t count, const uint64_t c[15], uint64_t *node);
heddle_gpu_result heddle_gpu_graph_empty(uint64_t graph, const uint64_t *after, uint64_t count, uint64_t *node);
heddle_gpu_result heddle_gpu_graph_instantiate(uint64_t graph, uint64_t *exec);
heddle_gpu_result heddle_gpu_graph_set_kernel(uint64_t exec, uint64_t node, const struct heddle_gpu_launch *l);
heddle_gpu_result heddle_gpu_graph_set_enabled(uint64_t exec, uint64_t node, uint32_t enabled);
heddle_gpu_result heddle_gpu_graph_upload(uint64_t exec, uint64_t stream);
heddle_gpu_result heddle_gpu_graph_launch(uint64_t exec, uint64_t stream);
heddle_gpu_result heddle_gpu_graph_exec_destroy(uint64_t exec);

heddle_gpu_result heddle_gpu_reserve(uint64_t address, uint64_t bytes, uint64_t *got);
heddle_gpu_result heddle_gpu_reserve_free(uint64_t address, uint64_t bytes);
heddle_gpu_result heddle_gpu_import_fd(int32_t fd, uint64_t *handle);
heddle_gpu_result heddle_gpu_export_fd(uint64_t handle, int32_t *fd);
heddle_gpu_result heddle_gpu_create(int32_t device, uint64_t bytes, uint64_t *handle);
heddle_gpu_result heddle_gpu_release(uint64_t handle);
heddle_gpu_result heddle_gpu_map(uint64_t address, uint64_t bytes, uint64_t handle, int32_t device);
heddle_gpu_result heddle_gpu_unmap(uint64_t address, uint64_t bytes);
heddle_gpu_result heddle_gpu_granularity(int32_t device, uint64_t *bytes);

heddle_gpu_result heddle_gpu_host_register(uint64_t address, uint64_t bytes, uint64_t *device_address);
heddle_gpu_result heddle_gpu_host_unregister(uint64_t address);
heddle_gpu_result heddle_gpu_host_alloc(uint64_t bytes, uint64_t *address);
heddle_gpu_result heddle_gpu_host_free(uint64_t address);

heddle_gpu_result heddle_gpu_module_load(const void *image, uint64_t *module, char *log, uint32_t log_bytes);
// Compiles PTX text with the driver's compiler (cuLink*). target: a CUjit_target, 0: the current context's device. *cubin is
// malloced, for the caller to free. log: at least log_bytes + 1 bytes, zeroed.
heddle_gpu_result heddle_gpu_link(const void *ptx, uint64_t bytes, int32_t target, void **cubin, uint64_t *cubin_bytes, char *log, uint32_t log_bytes);
heddle_gpu_result heddle_gpu_module_unload(uint64_t module);
heddle_gpu_result heddle_gpu_module_function(uint64_t module, const char *name, uint64_t *function);
heddle_gpu_result heddle_gpu_module_global(uint64_t module, const char *name, uint64_t *address, uint64_t *bytes);
heddle_gpu_result heddle_gpu_function_load(uint64_t function);
heddle_gpu_result heddle_gpu_function_get(uint64_t function, int32_t attribute, int32_t *value);
heddle_gpu_result heddle_gpu_function_set(uint64_t function, int32_t attribute, int32_t value);
// offset and bytes of parameter `index`; CUDA_ERROR_INVALID_VALUE past the last one.
heddle_gpu_result heddle_gpu_function_param(uint64_t function, uint64_t index, uint64_t *offset, uint64_t *bytes);

#endif
