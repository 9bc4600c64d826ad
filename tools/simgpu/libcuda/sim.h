/*
 * sim.h: what the files of the simulated libcuda.so.1 share.
 *
 * The library holds the driver's objects (contexts, streams, modules, ...) of
 * its process, checks arguments as the driver does, and sends work to the
 * server (`simgpu serve`) as messages (wire.h). The server runs it.
 *
 * Handles are addresses inside arenas, one arena for each type, so a handle of
 * any value can be checked without touching memory that is not ours.
 *
 * Lock order: sim_capture_lock, sim_map_lock, sim_send_lock. Nothing is called back with a
 * lock held.
 */
#ifndef SIM_H
#define SIM_H

#ifndef __CUDA_API_VERSION_INTERNAL
#define __CUDA_API_VERSION_INTERNAL
#endif
#include <cuda.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sim_api.h"
#include "wire.h"

#define SIM_DRIVER_VERSION 13000
#define SIM_MAX_DEVICES 16
#define SIM_GRANULARITY ((uint64_t)2 << 20)
#define SIM_STACK_DEPTH 64
#define SIM_MAX_ARGS 64

/* ---- objects.c: handles ---- */

enum sim_type {
    SIM_CTX,
    SIM_STREAM,
    SIM_EVENT,
    SIM_MODULE,
    SIM_LIBRARY,
    SIM_KERNEL,
    SIM_FUNCTION,
    SIM_POOL,
    SIM_GRAPH,
    SIM_NODE,
    SIM_EXEC,
    SIM_LINK,
    SIM_GREEN,
    SIM_TYPES
};

/* Head of every object. live is 0 while the object is on its free list. */
struct sim_obj {
    _Atomic uint32_t live;
    uint32_t index;
    struct sim_obj *next;
};

struct sim_stream;
struct sim_graph;

/* A green context: SMs of the primary context's device. */
struct sim_green {
    struct sim_obj obj;
    struct sim_ctx *ctx;
    unsigned first, sms;
    uint64_t id;
};

struct sim_ctx {
    struct sim_obj obj;
    int dev;              /* visible ordinal */
    unsigned flags;
    bool primary;
    _Atomic int attached; /* cuCtxAttach */
    uint64_t id;
    struct sim_stream *legacy;
    size_t limits[CU_LIMIT_MAX];
    CUfunc_cache cache;
    CUsharedconfig shared;
    unsigned version;
    _Atomic uint32_t peers; /* devices reachable, bit by ordinal */
};

struct sim_stream {
    struct sim_obj obj; /* obj.index is the slot of the status page */
    uint64_t seq;       /* last submitted; survives reuse; under sim_send_lock */
    struct sim_ctx *ctx;
    unsigned flags;
    int priority;
    int kind; /* SIM_STREAM_* */
    uint64_t id;
    struct sim_green *green; /* NULL: the whole chip; its id then and now differ when it was destroyed */
    uint64_t green_id;
    /* capture; under sim_capture_lock */
    _Atomic int capture; /* CUstreamCaptureStatus */
    CUstreamCaptureMode mode;
    struct sim_graph *graph;
    struct sim_node **deps;
    size_t ndeps;
    bool origin;
    bool join_pending;
    uint64_t capture_id;
    pthread_t capturer;
};

struct sim_event {
    struct sim_obj obj;
    struct sim_ctx *ctx;
    unsigned flags;
    bool foreign; /* opened from another process: only the server knows it */
    struct sim_stream *stream; /* of the last record; under sim_send_lock */
    uint64_t seq;
    /* the last record happened in a capture: */
    struct sim_graph *graph;
    struct sim_node **nodes;
    size_t nnodes;
    uint64_t capture_id;
};

/* What the server told about one kernel of an image. */
struct sim_entry {
    char *name;
    uint32_t nparams, param_bytes;
    uint32_t *offset, *size;
    uint32_t shared, local, max_threads, regs;
    uint32_t req_block[3];
    uint32_t broken; /* the interpreter lacks an instruction of it */
};

struct sim_global {
    char *name;
    uint64_t size;
    bool constant;
};

/* An image known to the server; shared by the modules and libraries made of it. */
struct sim_image {
    uint64_t id;
    _Atomic int refs;
    uint32_t nentries, nglobals;
    struct sim_entry *entries;
    struct sim_global *globals;
};

struct sim_module {
    struct sim_obj obj;
    struct sim_ctx *ctx;
    struct sim_image *image;
    struct sim_library *library; /* NULL unless it is a library's instance */
    uint64_t instance;
    uint64_t *addresses; /* of the globals */
    struct sim_function **functions; /* one for each entry, made on demand */
    struct sim_module *next;         /* of the library */
};

struct sim_library {
    struct sim_obj obj;
    struct sim_image *image;
    struct sim_module *modules;
    struct sim_kernel **kernels;
};

/* Attributes that a program may set. */
struct sim_attributes {
    int max_dynamic, carveout, cluster_w, cluster_h, cluster_d, non_portable, policy;
    CUfunc_cache cache;
};

struct sim_kernel {
    struct sim_obj obj;
    struct sim_library *library;
    uint32_t entry;
    struct sim_attributes attr;
};

struct sim_function {
    struct sim_obj obj;
    struct sim_module *module;
    uint32_t entry;
    struct sim_attributes attr;
};

struct sim_pool {
    struct sim_obj obj;
    int dev;
    bool is_default;
    uint64_t threshold, reserved_high, used, used_high;
    int reuse[3];
    unsigned access; /* devices, bit by ordinal */
};

#define SIM_OBJ(type, handle) sim_obj_check(type, (const void *)(handle))
void *sim_obj_new(enum sim_type type);
void sim_obj_free(enum sim_type type, void *obj);
/* Returns the object if handle is a live one of this type, else NULL. */
void *sim_obj_check(enum sim_type type, const void *handle);
/* Calls visit for each live object until it returns false. */
void sim_obj_each(enum sim_type type, bool (*visit)(void *obj, void *arg), void *arg);

/* ---- rpc.c: the connection ---- */

struct sim_request {
    uint16_t op;
    uint16_t nargs;
    uint64_t args[SIM_MAX_ARGS];
    const uint64_t *more; /* arguments after args, for long lists */
    size_t nmore;
    const void *blob;
    size_t blob_len;
    int fd;          /* -1: none */
    CUfunction function; /* of a launch; stays here */
    /* reply */
    uint64_t out[8];
    unsigned nout;
    void *out_blob; /* room for the reply's blob, or NULL */
    size_t out_blob_cap, out_blob_len;
    int out_fd;
};

#define SIM_REQ(name, ...)                                                                                  \
    struct sim_request name;                                                                                \
    do {                                                                                                    \
        const uint64_t sim_list[] = {__VA_ARGS__};                                                          \
        sim_req_init(&name, sim_list, sizeof sim_list / sizeof sim_list[0]);                                \
    } while (0)

/* list[0] is the op, the others its arguments. */
void sim_req_init(struct sim_request *req, const uint64_t *list, size_t n);
/* Sends and waits for the reply; returns its status. */
CUresult sim_call(struct sim_request *req);
/* Sends without asking for a reply. */
CUresult sim_post(struct sim_request *req);
/* For an op of a stream: fills in args[0] (slot) and args[1] (sequence number)
 * and sends. wait: ask for the reply. A capturing stream records it instead. */
CUresult sim_submit(struct sim_stream *stream, struct sim_request *req, bool wait);
CUresult sim_submit_event(struct sim_stream *stream, struct sim_request *req, struct sim_event *event);
/* Between the two only the calling thread submits: a graph is one thing to whatever else its stream holds. */
void sim_graph_begin(void);
void sim_graph_end(void);
CUresult sim_connect(void);
extern uint8_t *sim_status; /* the status page */
extern pthread_mutex_t sim_send_lock;
/* Last finished sequence number of a stream. */
uint64_t sim_stream_done(const struct sim_stream *stream);

/* ---- init.c: process state ---- */

struct sim_thread {
    int per_thread; /* inside a _ptds or _ptsz entry point */
    int depth;      /* of the context stack */
    struct sim_ctx *stack[SIM_STACK_DEPTH];
    uint64_t stack_id[SIM_STACK_DEPTH]; /* sim_ctx.id when it was pushed */
    CUstreamCaptureMode mode;
    struct sim_own_stream *own; /* per-thread default streams */
};
extern _Thread_local struct sim_thread sim_tls;

struct sim_resolve {
    const char *name;
    int version;
    int per_thread;
    void *symbol;
};
extern const struct sim_resolve sim_resolves[];
extern const unsigned sim_resolve_count;
extern const char *const sim_entry_names[];
extern const unsigned sim_entry_count;

/* Both return nonzero if the call must end at once with *result. */
int sim_enter(unsigned entry, CUresult *result);
int sim_enter_early(unsigned entry, CUresult *result);
CUresult sim_not_supported(unsigned entry);
/* One line to SIMGPU_LOG, printf style, without the newline. */
void sim_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_printf_drain(const struct sim_ctx *ctx);
extern atomic_bool sim_forked;

/* ---- device.c ---- */

struct sim_device {
    int server; /* the server's ordinal */
    uint64_t memory;
    CUuuid uuid;
};
extern struct sim_device sim_devices[SIM_MAX_DEVICES];
extern int sim_device_count;
CUresult sim_devices_init(int server_count, uint64_t memory);
int sim_device_attribute(CUdevice_attribute attribute, int dev, int *value); /* 0: unknown */

/* ---- context.c ---- */

/* The calling thread's context, checked for its sticky error. */
CUresult sim_ctx_current(struct sim_ctx **ctx);
/* The same without the check for errors. */
struct sim_ctx *sim_ctx_peek(void);
/* Checks a handle; NULL means the current context. */
CUresult sim_ctx_resolve(CUcontext handle, struct sim_ctx **ctx);
CUresult sim_ctx_error(const struct sim_ctx *ctx);
struct sim_ctx *sim_ctx_primary(int dev);

/* ---- stream.c ---- */

CUresult sim_stream_resolve(CUstream handle, struct sim_stream **stream);
struct sim_stream *sim_stream_new(struct sim_ctx *ctx, unsigned flags, int priority, int kind);
struct sim_stream *sim_stream_new_in(struct sim_ctx *ctx, struct sim_green *green, unsigned flags, int priority, int kind);
/* Ends the context's streams and events, without messages. */
void sim_ctx_forget(struct sim_ctx *ctx);
CUresult sim_stream_sync(struct sim_stream *stream);
/* Destroys a stream that sim_stream_new made. */
void sim_stream_end(struct sim_stream *stream);
extern pthread_mutex_t sim_capture_lock;
/* Checks one operation of a batch and gives its four words of the wire. */
CUresult sim_memop_item(const CUstreamBatchMemOpParams *p, uint64_t out[4]);
/* Starts the thread that runs host functions. */
CUresult sim_callback_helper(void);

/* ---- event.c ---- */

struct sim_event *sim_event_new(struct sim_ctx *ctx, unsigned flags, bool foreign);
void sim_event_free(struct sim_event *event);

/* ---- map.c: what the process has in its address space ---- */

enum sim_kind {
    SIM_MAP_DEVICE = 1, /* cuMemAlloc */
    SIM_MAP_VMM,        /* cuMemMap */
    SIM_MAP_HOST,       /* cuMemAllocHost, cuMemHostAlloc */
    SIM_MAP_REGISTERED, /* cuMemHostRegister */
    SIM_MAP_MODULE,     /* a module's global */
    SIM_MAP_IPC,        /* cuIpcOpenMemHandle */
    SIM_MAP_POOL,       /* cuMemAllocAsync */
    SIM_MAP_MANAGED     /* cuMemAllocManaged */
};

struct sim_range {
    uint64_t base, size;
    enum sim_kind kind;
    struct sim_ctx *ctx; /* NULL for VMM */
    int dev;
    unsigned flags;  /* of host memory */
    unsigned access; /* VMM: 2 bits for each device, CU_MEM_ACCESS_FLAGS_PROT_* */
    uint64_t handle; /* VMM: the allocation */
    uint64_t offset;
    uint64_t id;     /* CU_POINTER_ATTRIBUTE_BUFFER_ID */
    uint64_t res_base, res_size;
    bool exportable, sync_memops;
    struct sim_pool *pool;
    unsigned handle_types;
};

extern pthread_rwlock_t sim_map_lock;
/* All of these want sim_map_lock held. */
struct sim_range *sim_map_find(uint64_t addr);
struct sim_range *sim_map_add(const struct sim_range *range);
void sim_map_remove(uint64_t base);
bool sim_map_covered(uint64_t addr, uint64_t size, bool device_only);
void sim_map_drop_ctx(const struct sim_ctx *ctx);
size_t sim_map_count(void);
struct sim_range *sim_map_at(size_t i);
/* These take it. */
bool sim_map_get(uint64_t addr, struct sim_range *out);
/* CUDA_SUCCESS if [addr, addr+size) is device-accessible memory. */
CUresult sim_map_check(uint64_t addr, uint64_t size);
uint64_t sim_buffer_id(void);

/* ---- host.c ---- */

/* Frees memory of cuMemAllocManaged. */
CUresult sim_managed_free(const struct sim_range *r);

/* ---- module.c ---- */

CUresult sim_image_load(const void *data, struct sim_image **image, char *log, size_t log_size);
CUresult sim_image_load_sized(const void *data, size_t size, struct sim_image **image, char *log, size_t log_size);
void sim_image_release(struct sim_image *image);
CUresult sim_module_instantiate(struct sim_ctx *ctx, struct sim_image *image, struct sim_module **module);
CUresult sim_module_function(struct sim_module *module, uint32_t entry, struct sim_function **function);
void sim_module_drop(struct sim_module *module, bool tell_server);
struct sim_entry *sim_function_entry(const struct sim_function *f);
struct sim_entry *sim_kernel_entry(const struct sim_kernel *k);
/* f may be a CUkernel cast; gives the function of the wanted context. */
CUresult sim_function_resolve(CUfunction f, struct sim_ctx *ctx, struct sim_function **function);
CUresult sim_library_module(struct sim_library *library, struct sim_ctx *ctx, struct sim_module **module);
void sim_attributes_init(struct sim_attributes *attr);
CUresult sim_attribute_get(const struct sim_entry *e, const struct sim_attributes *a, int *value, CUfunction_attribute attribute);
CUresult sim_attribute_set(const struct sim_entry *e, struct sim_attributes *a, CUfunction_attribute attribute, int value);
CUresult sim_read_file(const char *name, void **data, size_t *size);

/* ---- launch.c ---- */

struct sim_launch {
    CUfunction f;
    unsigned grid[3], block[3], cluster[3], shared;
    bool cooperative;
    void **params, **extra;
};
/* Checks l and prepares the request of its launch; *blob must be freed. */
CUresult sim_launch_prepare(struct sim_ctx *ctx, const struct sim_launch *l, struct sim_request *req, void **blob);
CUresult sim_occupancy(const struct sim_entry *e, int block, size_t dynamic, int *blocks);

/* ---- copy.c ---- */

/* The request of a copy that is a graph's node. */
CUresult sim_copy_prepare(const CUDA_MEMCPY3D *p, struct sim_request *req);

/* ---- capture.c ---- */

/* Records a request of a capturing stream as a node. */
CUresult sim_capture_request(struct sim_stream *stream, struct sim_request *req);
/* A node that records the event, or waits for it, when the graph runs. */
CUresult sim_capture_event_node(struct sim_stream *stream, CUevent event, bool record);
CUresult sim_capture_event_record(struct sim_stream *stream, struct sim_event *event);
CUresult sim_capture_event_wait(struct sim_stream *stream, struct sim_event *event, bool *handled);
/* The answer to a call that must not happen while stream captures; invalidates. */
CUresult sim_capture_forbid(struct sim_stream *stream);
/* The answer to work on the legacy default stream: fails while a blocking stream of ctx captures. */
CUresult sim_capture_legacy(const struct sim_ctx *ctx);
/* The answer to a call that may synchronise: fails in global capture mode. */
CUresult sim_capture_unsafe(void);
/* A context must not be waited for while a stream of it captures, in whatever mode: the capture is invalid then. */
CUresult sim_capture_context(const struct sim_ctx *ctx);

#endif
