// Functions and kernels: one lock-free table for both kinds of handle, filled when a handle is given out and completed at its
// first launch. Source: CUDA driver API, "Module Management", "Library Management", "Execution Control".
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "../hooks/hooks.h"
#include "../log.h"
#include "../order.h"
#include "inner.h"

static struct heddle_table functions; // of struct heddle_record; written under heddle_code_lock
// Recursive: a request that fails finishes alone, which may ask about a function.
static pthread_mutex_t ask_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

// Kernel ids of a device, for finishing alone; guarded by heddle_code_lock.
static struct ids {
  struct {
    uint32_t id;
    struct heddle_record *record;
  } *at;
  size_t count, capacity;
} ids[HEDDLE_MAX_DEVICES];

_Atomic uint32_t heddle_code_changes, heddle_code_seen;

void heddle_ask_lock(void) { pthread_mutex_lock(&ask_lock); }
void heddle_ask_unlock(void) { pthread_mutex_unlock(&ask_lock); }

// Adds a handle, unless it is there with the same image and name. Returns its record; NULL: no host memory.
static struct heddle_record *record_add(const void *handle, bool is_kernel, struct heddle_image *image, struct heddle_record *kernel, const char *name) {
  struct heddle_record *r = heddle_table_find(&functions, handle);
  if (r && r->image == image && r->fn.is_kernel == is_kernel && strcmp(r->name, name) == 0) return r;
  r = calloc(1, sizeof *r);
  if (r) r->name = strdup(name);
  if (!r || !r->name) {
    free(r);
    return NULL;
  }
  r->fn.handle = (void *)(uintptr_t)handle;
  r->fn.is_kernel = is_kernel;
  r->image = image;
  r->kernel = kernel;
  if (!is_kernel) heddle_real.cuCtxGetCurrent(&r->context);
  pthread_mutex_lock(&heddle_code_lock);
  bool ok = heddle_table_put(&functions, r);
  pthread_mutex_unlock(&heddle_code_lock);
  if (ok && is_kernel && image) atomic_fetch_add(&heddle_code_seen, 1);
  if (ok) return r;
  free(r->name);
  free(r);
  return NULL;
}

struct same_name {
  const char *name;
  struct heddle_record *kernel[16];
  size_t n;
};
static bool same_name(void *entry, void *arg) {
  struct heddle_record *r = entry;
  struct same_name *s = arg;
  if (r->fn.is_kernel && r->image && s->n < sizeof s->kernel / sizeof *s->kernel && strcmp(r->name, s->name) == 0) s->kernel[s->n++] = r;
  return false;
}

// The kernel whose function in the current context f is: a launch of a CUkernel by its own handle, captured, comes back from a graph
// node as such a function, which no hook gave out. NULL: none that we know.
static struct heddle_record *kernel_of(CUfunction f) {
  struct same_name s = {.n = 0};
  if (!heddle_real.cuFuncGetName || !heddle_real.cuKernelGetFunction || heddle_real.cuFuncGetName(&s.name, f) != CUDA_SUCCESS || !s.name) return NULL;
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&functions, same_name, &s); // visits every record, removes none
  pthread_mutex_unlock(&heddle_code_lock);
  for (size_t i = 0; i < s.n; i++) {
    CUfunction of = NULL;
    if (!atomic_load(&s.kernel[i]->image->dead) && heddle_real.cuKernelGetFunction(&of, s.kernel[i]->fn.handle) == CUDA_SUCCESS && of == f) return s.kernel[i];
  }
  return NULL;
}

static struct heddle_record *record_ask(CUfunction f) {
  CUmodule module = NULL;
  CUlibrary library = NULL;
  const char *name = NULL;
  if (heddle_real.cuFuncGetModule && heddle_real.cuFuncGetModule(&module, f) == CUDA_SUCCESS) {
    struct heddle_image *image = heddle_image_of_module(module);
    struct heddle_record *kernel = image ? NULL : kernel_of(f);
    if (kernel) return record_add(f, false, kernel->image, kernel, kernel->name);
    if (!image || !heddle_real.cuFuncGetName || heddle_real.cuFuncGetName(&name, f) != CUDA_SUCCESS || !name) image = NULL;
    return record_add(f, false, image, NULL, image ? name : "");
  }
  if (heddle_real.cuKernelGetLibrary && heddle_real.cuKernelGetLibrary(&library, (CUkernel)f) == CUDA_SUCCESS) {
    struct heddle_image *image = heddle_image_of_library(library);
    if (!image || !heddle_real.cuKernelGetName || heddle_real.cuKernelGetName(&name, (CUkernel)f) != CUDA_SUCCESS || !name) image = NULL;
    return record_add(f, true, image, NULL, image ? name : "");
  }
  return NULL; // no handle at all: the driver's own launch says so
}

// A handle that no hook gave out: asks the driver whose it is. The answer "unknown" is recorded too, and holds until more is known.
static struct heddle_record *record_resolve(CUfunction f) {
  uint32_t seen = atomic_load(&heddle_code_seen);
  struct heddle_record *r = record_ask(f);
  if (r && !r->image) atomic_store(&r->asked, seen);
  return r;
}

// ---- completing a record ----

static CUresult param_info(const struct heddle_record *r, size_t i, size_t *offset, size_t *bytes) {
  if (r->fn.is_kernel) return heddle_real.cuKernelGetParamInfo ? heddle_real.cuKernelGetParamInfo((CUkernel)r->fn.handle, i, offset, bytes) : CUDA_ERROR_NOT_FOUND;
  return heddle_real.cuFuncGetParamInfo ? heddle_real.cuFuncGetParamInfo((CUfunction)r->fn.handle, i, offset, bytes) : CUDA_ERROR_NOT_FOUND;
}

// There is no call for the count on drivers before 13.2: ask until the driver says that there is none.
static bool params_read(struct heddle_record *r) {
  uint32_t offsets[HEDDLE_CODE_MAX_PARAMS], sizes[HEDDLE_CODE_MAX_PARAMS], n = 0;
  size_t end = 0;
  for (;; n++) {
    size_t offset = 0, bytes = 0;
    CUresult e = param_info(r, n, &offset, &bytes);
    if (e == CUDA_ERROR_INVALID_VALUE) break;
    if (e != CUDA_SUCCESS || n == HEDDLE_CODE_MAX_PARAMS || offset > HEDDLE_WIRE_MAX_PARAM_BYTES || bytes > HEDDLE_WIRE_MAX_PARAM_BYTES - offset) return false;
    offsets[n] = (uint32_t)offset;
    sizes[n] = (uint32_t)bytes;
    if (offset + bytes > end) end = offset + bytes;
  }
  uint32_t *copy = malloc((n ? 2 * n : 1) * sizeof *copy);
  if (!copy) return false;
  memcpy(copy, offsets, n * sizeof *copy);
  memcpy(copy + n, sizes, n * sizeof *copy);
  r->fn.param_count = n;
  r->fn.param_bytes = (uint32_t)end;
  r->fn.param_offset = copy;
  r->fn.param_size = copy + n;
  return true;
}

static int attribute_of(const struct heddle_record *r, CUfunction_attribute a, CUdevice device, int otherwise) {
  int value = otherwise;
  CUresult e = r->fn.is_kernel ? heddle_real.cuKernelGetAttribute(&value, a, (CUkernel)r->fn.handle, device)
                               : heddle_real.cuFuncGetAttribute(&value, a, (CUfunction)r->fn.handle);
  return e == CUDA_SUCCESS ? value : otherwise;
}

static void native_for_good(struct heddle_record *r, CUdevice device, enum heddle_native_reason why) {
  atomic_store_explicit(&r->fn.native_reason[device], (uint8_t)why, memory_order_relaxed);
  atomic_store_explicit(&r->fn.kernel_id[device], UINT32_MAX, memory_order_release);
  if (r->image) atomic_fetch_or(&r->image->went_native, 1u << device);
}

static void complete(struct heddle_record *r) {
  CUdevice device = 0;
  heddle_real.cuCtxGetDevice(&device);
  CUstreamCaptureMode mode = heddle_capture_relax(); // asking may load the function
  bool readable = r->image && params_read(r);
  if (readable) {
    r->fn.max_threads = (uint32_t)attribute_of(r, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device, 1024);
    r->fn.static_shared = (uint32_t)attribute_of(r, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, device, 0);
    int dynamic = attribute_of(r, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, device, 0);
    atomic_store(&r->fn.max_dynamic_shared, (uint32_t)dynamic);
  } else {
    for (int d = 0; d < HEDDLE_MAX_DEVICES; d++) native_for_good(r, d, HEDDLE_NATIVE_UNKNOWN_CODE);
  }
  heddle_capture_restore(mode);
  atomic_store_explicit(&r->ready, 1, memory_order_release);
}

const struct heddle_function *heddle_code_function(CUfunction f) {
  struct heddle_record *r = heddle_table_find(&functions, f);
  if (__builtin_expect(r && r->image && atomic_load_explicit(&r->ready, memory_order_acquire), 1)) return &r->fn;
  if (!f) return NULL;
  if (r && !r->image && atomic_load(&r->asked) == atomic_load(&heddle_code_seen)) return NULL;
  if ((!r || !r->image) && !(r = record_resolve(f))) return NULL;
  heddle_ask_lock();
  if (!atomic_load(&r->ready)) complete(r);
  heddle_ask_unlock();
  return r->image ? &r->fn : NULL;
}

// ---- what the executor knows ----

static bool setting_send(struct heddle_session *s, uint16_t type, uint32_t kernel, uint32_t what, uint64_t value) {
  struct heddle_wire_setting ask = {.kernel_id = kernel, .what = what, .value = value}, reply;
  int nfds = 0;
  return heddle_session_request(s, type, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, NULL, &nfds) == HEDDLE_WIRE_STATUS_OK;
}

// Sends what the client set on the function before the executor knew it. False: the executor could not do the same.
static bool attributes_send(struct heddle_session *s, struct heddle_record *r, uint32_t id) {
  uint32_t set = atomic_load(&r->attributes);
  for (int a = 0; a < HEDDLE_FUNC_ATTRIBUTES; a++)
    if (set >> a & 1 && !setting_send(s, HEDDLE_WIRE_TYPE_FUNC_ATTR, id, (uint32_t)a, (uint64_t)(int64_t)atomic_load(&r->attribute[a]))) return false;
  return true;
}

static bool id_note(CUdevice device, uint32_t id, struct heddle_record *r) {
  struct ids *l = &ids[device];
  pthread_mutex_lock(&heddle_code_lock);
  bool room = l->count < l->capacity;
  if (!room) {
    size_t capacity = l->capacity ? 2 * l->capacity : 256;
    void *grown = realloc(l->at, capacity * sizeof *l->at);
    if (grown) {
      l->at = grown;
      l->capacity = capacity;
      room = true;
    }
  }
  if (room) {
    l->at[l->count].id = id;
    l->at[l->count++].record = r;
  }
  pthread_mutex_unlock(&heddle_code_lock);
  return room;
}

static uint32_t ask(struct heddle_session *s, struct heddle_record *r, enum heddle_native_reason *why) {
  uint64_t image = heddle_image_id(s, r->image, why);
  if (!image) return 0;
  struct heddle_wire_kernel question = {.image_id = image}, reply = {0};
  int nfds = 0;
  int status = heddle_session_request(s, HEDDLE_WIRE_TYPE_KERNEL, &question, sizeof question, r->name, strlen(r->name), NULL, 0, &reply, sizeof reply, NULL, &nfds);
  *why = status < 0 ? HEDDLE_NATIVE_CLOSED : HEDDLE_NATIVE_REFUSED_CODE;
  if (status != HEDDLE_WIRE_STATUS_OK || !reply.kernel_id || reply.kernel_id == UINT32_MAX) return 0;
  if (reply.stateful) atomic_fetch_or(&r->image->stateful, 1u << s->device);
  // A function's own settings have precedence over its kernel's, so they go last.
  if ((r->kernel && !attributes_send(s, r->kernel, reply.kernel_id)) || !attributes_send(s, r, reply.kernel_id)) return 0;
  if (!id_note(s->device, reply.kernel_id, r)) return 0; // finishing alone must find it
  atomic_fetch_or(&r->image->forwarded, 1u << s->device);
  return reply.kernel_id;
}

uint32_t heddle_code_kernel_id(struct heddle_session *s, const struct heddle_function *f, enum heddle_native_reason *why) {
  CUdevice d = s->device;
  uint32_t id = atomic_load_explicit(&f->kernel_id[d], memory_order_acquire);
  if (__builtin_expect(id && id != UINT32_MAX, 1)) return id;
  if (id == UINT32_MAX) {
    *why = (enum heddle_native_reason)atomic_load_explicit(&f->native_reason[d], memory_order_relaxed);
    return 0;
  }
  struct heddle_record *r = (struct heddle_record *)(uintptr_t)f; // ours, and fn is its first member
  heddle_ask_lock();
  id = atomic_load_explicit(&f->kernel_id[d], memory_order_acquire);
  if (!id) {
    CUstreamCaptureMode mode = heddle_capture_relax();
    id = ask(s, r, why);
    heddle_capture_restore(mode);
    if (id) {
      atomic_store_explicit(&r->fn.kernel_id[d], id, memory_order_release);
    } else {
      native_for_good(r, d, *why);
      heddle_log(HEDDLE_LOG_INFO, "device %d: kernel %s runs natively (reason %d)", d, r->name, (int)*why);
      if (atomic_load(&r->image->mirrored) >> d & 1)
        heddle_log(HEDDLE_LOG_WARN, "device %d: kernel %s cannot be forwarded: the device globals of its image are copied to and fro around each launch", d, r->name);
    }
  } else if (id == UINT32_MAX) {
    *why = (enum heddle_native_reason)atomic_load_explicit(&f->native_reason[d], memory_order_relaxed);
    id = 0;
  }
  heddle_ask_unlock();
  return id;
}

CUfunction heddle_code_native(struct heddle_session *s, uint32_t kernel_id) {
  struct ids *l = &ids[s->device];
  CUfunction f = NULL;
  pthread_mutex_lock(&heddle_code_lock);
  for (size_t i = 0; i < l->count && !f; i++)
    if (l->at[i].id == kernel_id && !atomic_load(&l->at[i].record->image->dead)) f = l->at[i].record->fn.handle;
  pthread_mutex_unlock(&heddle_code_lock);
  return f;
}

static bool of_image(void *entry, void *image) {
  struct heddle_record *r = entry;
  if (r->image != image) return false;
  atomic_fetch_add_explicit(&r->fn.generation, 1, memory_order_release);
  return true;
}

void heddle_functions_forget(struct heddle_image *image) {
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&functions, of_image, image);
  for (int d = 0; d < HEDDLE_MAX_DEVICES; d++) {
    size_t kept = 0;
    for (size_t i = 0; i < ids[d].count; i++)
      if (ids[d].at[i].record->image != image) ids[d].at[kept++] = ids[d].at[i];
    ids[d].count = kept;
  }
  pthread_mutex_unlock(&heddle_code_lock);
}

static bool of_context(void *entry, void *context) {
  struct heddle_record *r = entry;
  if (r->fn.is_kernel || r->context != context) return false;
  atomic_fetch_add_explicit(&r->fn.generation, 1, memory_order_release);
  return true;
}

void heddle_functions_context_gone(CUcontext context) {
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&functions, of_context, context);
  for (int d = 0; d < HEDDLE_MAX_DEVICES; d++) {
    size_t kept = 0;
    for (size_t i = 0; i < ids[d].count; i++)
      if (ids[d].at[i].record->fn.is_kernel || ids[d].at[i].record->context != context) ids[d].at[kept++] = ids[d].at[i];
    ids[d].count = kept;
  }
  pthread_mutex_unlock(&heddle_code_lock);
}

struct reset {
  struct heddle_image *image;
  enum heddle_native_reason why;
};
static bool reset(void *entry, void *arg) {
  struct heddle_record *r = entry;
  struct reset *w = arg;
  for (CUdevice d = 0; r->image == w->image && d < HEDDLE_MAX_DEVICES; d++) {
    if (w->why) native_for_good(r, d, w->why);
    else if (atomic_load(&r->fn.kernel_id[d]) != UINT32_MAX) atomic_store(&r->fn.kernel_id[d], 0);
  }
  return false;
}

void heddle_functions_reset(struct heddle_image *image, enum heddle_native_reason why) {
  struct reset w = {image, why};
  if (why) heddle_image_give_up(image, why);
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&functions, reset, &w); // visits every record, removes none
  pthread_mutex_unlock(&heddle_code_lock);
  atomic_fetch_add(&heddle_code_changes, 1);
}

CUcontext heddle_code_context(const struct heddle_function *f) {
  return f->is_kernel ? NULL : ((const struct heddle_record *)f)->context; // fn is its first member
}

struct heddle_image *heddle_function_image(const struct heddle_function *f) {
  return ((const struct heddle_record *)f)->image; // fn is its first member
}

bool heddle_code_stateful(struct heddle_session *s, const struct heddle_function *f) {
  const struct heddle_record *r = (const struct heddle_record *)f;
  return r->image && atomic_load_explicit(&r->image->stateful, memory_order_relaxed) >> s->device & 1;
}

bool heddle_code_mirrored(struct heddle_session *s, const struct heddle_function *f) {
  const struct heddle_record *r = (const struct heddle_record *)f; // fn is its first member
  return r->image && atomic_load_explicit(&r->image->mirrored, memory_order_relaxed) >> s->device & 1;
}

// ---- hooks ----

CUresult heddle_hook_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name) {
  CUresult r = heddle_real.cuModuleGetFunction(hfunc, hmod, name);
  struct heddle_image *image = r == CUDA_SUCCESS ? heddle_image_of_module(hmod) : NULL;
  if (image) record_add(*hfunc, false, image, NULL, name);
  return r;
}

CUresult heddle_hook_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name) {
  CUresult r = heddle_real.cuLibraryGetKernel(pKernel, library, name);
  struct heddle_image *image = r == CUDA_SUCCESS ? heddle_image_of_library(library) : NULL;
  if (image) record_add(*pKernel, true, image, NULL, name);
  return r;
}

CUresult heddle_hook_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel) {
  CUresult r = heddle_real.cuKernelGetFunction(pFunc, kernel);
  if (r != CUDA_SUCCESS) return r;
  struct heddle_record *k = heddle_table_find(&functions, kernel);
  if (!k) k = record_resolve((CUfunction)kernel);
  if (k && k->image && (void *)*pFunc != (void *)kernel) record_add(*pFunc, false, k->image, k, k->name);
  return r;
}

// Remembers a setting, and tells the executor when it knows the function already. False: nothing changed (libraries set the same
// value before every launch).
static bool attribute_note(struct heddle_record *r, CUfunction_attribute a, int value, CUdevice device) {
  if ((unsigned)a >= HEDDLE_FUNC_ATTRIBUTES) return false;
  if (atomic_load(&r->attributes) >> a & 1 && atomic_load(&r->attribute[a]) == value) return false;
  atomic_store(&r->attribute[a], value);
  atomic_fetch_or(&r->attributes, 1u << a);
  if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) atomic_store(&r->fn.max_dynamic_shared, (uint32_t)value);
  struct heddle_session *s = heddle_session_peek(device);
  uint32_t id = atomic_load_explicit(&r->fn.kernel_id[device], memory_order_acquire);
  if (s && id && id != UINT32_MAX && !setting_send(s, HEDDLE_WIRE_TYPE_FUNC_ATTR, id, (uint32_t)a, (uint64_t)(int64_t)value)) {
    native_for_good(r, device, HEDDLE_NATIVE_REFUSED_CODE); // the executor's function cannot do what this one can
    atomic_fetch_add(&heddle_code_changes, 1);
  }
  return true;
}

CUresult heddle_hook_cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
  CUresult r = heddle_real.cuFuncSetAttribute(hfunc, attrib, value);
  CUdevice device;
  if (r != CUDA_SUCCESS || heddle_real.cuCtxGetDevice(&device) != CUDA_SUCCESS || device >= HEDDLE_MAX_DEVICES) return r;
  struct heddle_record *f = heddle_table_find(&functions, hfunc);
  if (!f) f = record_resolve(hfunc);
  if (!f || !f->image) return r;
  attribute_note(f, attrib, value, device);
  if (f->kernel) attribute_note(f->kernel, attrib, value, device); // its launches in this context are launches of f
  return r;
}

struct kernel_setting {
  struct heddle_record *kernel;
  CUfunction_attribute attribute;
  int value;
  CUdevice device;
  uint32_t n, ids[8]; // of its functions (one a context) that the executor knows
  bool overruled;     // a function of it has a setting of its own: that of its context counts
  int own;
};
static bool inherit(void *entry, void *arg) {
  struct heddle_record *r = entry;
  struct kernel_setting *set = arg;
  // A function's own setting has precedence over its kernel's (cuKernelSetAttribute).
  if (r->kernel != set->kernel) return false;
  if (atomic_load(&r->attributes) >> set->attribute & 1) {
    set->overruled = true;
    set->own = atomic_load(&r->attribute[set->attribute]);
    return false;
  }
  if (set->attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) atomic_store(&r->fn.max_dynamic_shared, (uint32_t)set->value);
  uint32_t id = atomic_load_explicit(&r->fn.kernel_id[set->device], memory_order_acquire);
  if (id && id != UINT32_MAX && set->n < 8) set->ids[set->n++] = id;
  return false;
}

CUresult heddle_hook_cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev) {
  CUresult r = heddle_real.cuKernelSetAttribute(attrib, val, kernel, dev);
  if (r != CUDA_SUCCESS || dev < 0 || dev >= HEDDLE_MAX_DEVICES) return r;
  struct heddle_record *k = heddle_table_find(&functions, kernel);
  if (!k) k = record_resolve((CUfunction)kernel);
  if (!k || !k->image) return r;
  if (!attribute_note(k, attrib, val, dev)) return r;
  struct kernel_setting set = {.kernel = k, .attribute = attrib, .value = val, .device = dev};
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&functions, inherit, &set); // visits every record, removes none
  pthread_mutex_unlock(&heddle_code_lock);
  if (set.overruled) attribute_note(k, attrib, set.own, dev);
  struct heddle_session *s = heddle_session_peek(dev);
  for (uint32_t i = 0; s && i < set.n; i++) setting_send(s, HEDDLE_WIRE_TYPE_FUNC_ATTR, set.ids[i], (uint32_t)attrib, (uint64_t)(int64_t)val);
  return r;
}

CUresult heddle_hook_cuCtxSetLimit(CUlimit limit, size_t value) {
  CUresult r = heddle_real.cuCtxSetLimit(limit, value);
  // The stack is the only limit that forwarded kernels feel: printf, device malloc and launches from kernels run natively.
  struct heddle_session *s = r == CUDA_SUCCESS && limit == CU_LIMIT_STACK_SIZE ? heddle_session_current() : NULL;
  if (s) setting_send(s, HEDDLE_WIRE_TYPE_LIMIT, 0, (uint32_t)limit, value);
  return r;
}
