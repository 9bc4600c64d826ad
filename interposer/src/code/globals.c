// Device globals. A kernel that runs in the executor sees the executor's instance, so the client is given that address, and copies to
// it are carried out there. An image whose kernels (some of them) run natively keeps the driver's instance and runs natively as a
// whole. Source: design.md section 4 "Code"; CUDA driver API, cuModuleGetGlobal, cuLibraryGetGlobal.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../hooks/hooks.h"
#include "../lane.h"
#include "../log.h"
#include "../memory/memory.h"
#include "../memory/ranges.h"
#include "../order.h"
#include "inner.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define PAGE UINT64_C(4096)

static struct heddle_ranges held = HEDDLE_RANGES_INIT; // pages at executor addresses that are kept free here, for good

// Contents whose instance in the executor belongs to an image already; guarded by ask_lock.
static struct instance {
  uint64_t hash0;
  struct heddle_image *image;
} *instances;
static size_t instance_count, instance_capacity;
static _Atomic bool mirroring; // some global of some image is mirrored

// True when the page lies in address space that the client's own driver set aside and does not use: the driver reserves more than a
// TiB without access rights, so executor addresses often fall into it. Smaller reservations may be a heap's that is to grow.
static bool set_aside(uint64_t page) {
  const uint64_t large = UINT64_C(1) << 30;
  FILE *maps = fopen("/proc/self/maps", "re");
  char line[512];
  bool found = false;
  while (maps && !found && fgets(line, sizeof line, maps)) {
    unsigned long long first, end;
    char rights[5];
    if (sscanf(line, "%llx-%llx %4s", &first, &end, rights) != 3) continue;
    found = page >= first && page < end && end - first >= large && strcmp(rights, "---p") == 0;
  }
  if (maps) fclose(maps);
  return found;
}

// Keeps the pages of [address, +bytes) from meaning anything else in this process. False: they do already.
static bool hold(CUdeviceptr address, size_t bytes) {
  unsigned type = 0;
  if (heddle_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) == CUDA_SUCCESS) return false;
  for (uint64_t page = address & ~(PAGE - 1); page < address + bytes; page += PAGE) {
    struct heddle_range range;
    if (heddle_ranges_find(&held, page, &range)) continue;
    void *got = mmap((void *)(uintptr_t)page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    bool ours = got == (void *)(uintptr_t)page;
    if (got != MAP_FAILED && !ours) munmap(got, PAGE);
    if (!ours && !set_aside(page)) return false;
    if (!heddle_ranges_add(&held, page, PAGE, 0)) return false;
  }
  return true;
}

// The executor has one instance a content and session. A second module of the same content, or one loaded again after it was
// unloaded, must not find the first one's values: it is sent once more with a number behind it, as another content. ask_lock held.
static bool own_instance(struct heddle_session *s, struct heddle_image *image) {
  enum heddle_native_reason why;
  static uint64_t next;
  for (int i = 0; i < 2; i++) {
    if (!heddle_image_id(s, image, &why)) return false;
    struct instance *taken = NULL;
    for (size_t j = 0; j < instance_count && !taken; j++)
      if (instances[j].hash0 == image->hash0) taken = &instances[j];
    if (taken && taken->image == image) return true;
    if (!taken) break;
    image->nonce = ++next;
    memset(image->id, 0, sizeof image->id);
    heddle_functions_reset(image, HEDDLE_NATIVE_NONE);
  }
  if (instance_count == instance_capacity) {
    size_t capacity = instance_capacity ? 2 * instance_capacity : 16;
    struct instance *grown = realloc(instances, capacity * sizeof *grown);
    if (!grown) return false;
    instances = grown;
    instance_capacity = capacity;
  }
  instances[instance_count++] = (struct instance){image->hash0, image};
  return true;
}

static struct heddle_global *known(struct heddle_image *image, CUdevice device, const char *name) {
  pthread_mutex_lock(&heddle_code_lock);
  struct heddle_global *g = image->globals;
  while (g && (g->device != device || strcmp(g->name, name) != 0)) g = g->next;
  pthread_mutex_unlock(&heddle_code_lock);
  return g;
}

// Asks the executor for its instance; NULL: it has none that this process can use, and *why says why. ask_lock held.
static struct heddle_global *mirror(struct heddle_session *s, struct heddle_image *image, const char *name, CUdeviceptr native, size_t bytes, const char **why) {
  *why = "kernels of its image run natively already";
  if (atomic_load(&image->native) || atomic_load(&image->went_native) >> s->device & 1) return NULL;
  *why = "the image cannot be sent";
  if (!own_instance(s, image)) return NULL;
  struct heddle_wire_kernel ask = {.image_id = image->id[s->device]};
  struct heddle_wire_range reply = {0};
  size_t length = strlen(name);
  int nfds = 0;
  int status = heddle_session_request(s, HEDDLE_WIRE_TYPE_GLOBAL, &ask, sizeof ask, name, length, NULL, 0, &reply, sizeof reply, NULL, &nfds);
  *why = "the executor has no such global";
  if (status != HEDDLE_WIRE_STATUS_OK || !reply.address) return NULL;
  *why = "the executor's global has another size";
  if (reply.bytes != bytes) return NULL;
  *why = "its address in the executor means something else in this process";
  if (!hold(reply.address, reply.bytes)) return NULL;
  *why = "out of host memory";
  struct heddle_global *g = calloc(1, sizeof *g + length + 1);
  if (!g) return NULL;
  g->device = s->device;
  g->address = reply.address;
  g->native = native;
  g->bytes = reply.bytes;
  memcpy(g->name, name, length);
  heddle_memory_add_global(s, g->address, g->bytes);
  pthread_mutex_lock(&heddle_code_lock);
  g->next = image->globals;
  image->globals = g;
  pthread_mutex_unlock(&heddle_code_lock);
  atomic_fetch_or(&image->mirrored, 1u << s->device);
  atomic_store(&mirroring, true);
  return g;
}

// Replaces the driver's answer (*address, *bytes) where the executor's instance counts. An error only where either answer would
// be wrong.
static CUresult serve(struct heddle_image *image, const char *name, CUdeviceptr *address, size_t *bytes) {
  struct heddle_session *s = image && name && *bytes ? heddle_session_current() : NULL;
  int managed = 0;
  if (!s) return CUDA_SUCCESS;
  CUresult r = CUDA_SUCCESS;
  heddle_real.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, *address);
  struct heddle_global *g = known(image, s->device, name);
  if (!g) {
    heddle_ask_lock();
    CUstreamCaptureMode mode = heddle_capture_relax();
    g = known(image, s->device, name);
    const char *why = "it is managed memory";
    if (!g && !managed) g = mirror(s, image, name, *address, *bytes, &why);
    heddle_capture_restore(mode);
    if (!g && !managed && atomic_load(&image->forwarded) >> s->device & 1) {
      // Kernels may have written the executor's instance: the driver's own would show older values.
      heddle_log(HEDDLE_LOG_ERROR,
                 "device %d: global %s lives in the executor and cannot be reached from here (%s). Ask for its address before the first "
                 "launch, or run this program with HEDDLE_DISABLE=1",
                 s->device, name, why);
      r = CUDA_ERROR_NOT_SUPPORTED;
    } else if (!g && !atomic_load(&image->native)) {
      heddle_log(HEDDLE_LOG_INFO, "device %d: global %s cannot be shared with the executor (%s): every kernel of its image runs natively", s->device, name, why);
      heddle_functions_reset(image, HEDDLE_NATIVE_GLOBALS);
    }
    heddle_ask_unlock();
  }
  if (!g) return r;
  *address = g->address;
  *bytes = g->bytes;
  return CUDA_SUCCESS;
}

bool heddle_code_mirrors(void) { return atomic_load_explicit(&mirroring, memory_order_relaxed); }

void heddle_globals_forget(struct heddle_image *image) {
  pthread_mutex_lock(&heddle_code_lock);
  struct heddle_global *g = image->globals;
  image->globals = NULL;
  pthread_mutex_unlock(&heddle_code_lock);
  while (g) {
    struct heddle_global *next = g->next;
    heddle_memory_drop_global(g->address);
    if (g->scratch) heddle_hook_cuMemFree_v2(g->scratch);
    free(g);
    g = next;
  }
}

// ---- native launches ----

// The globals of an image on a device, one after the other. They live as long as the image.
static struct heddle_global *next_global(struct heddle_image *image, struct heddle_global *g, CUdevice device) {
  pthread_mutex_lock(&heddle_code_lock);
  g = g ? g->next : image->globals;
  while (g && g->device != device) g = g->next;
  pthread_mutex_unlock(&heddle_code_lock);
  return g;
}

static CUresult scratch(struct heddle_global *g) {
  CUresult r = CUDA_SUCCESS;
  heddle_ask_lock();
  if (!g->scratch) r = heddle_hook_cuMemAlloc_v2(&g->scratch, g->bytes);
  heddle_ask_unlock();
  return r;
}

// Executor → window (forwarded) → this process's instance (native), in the order of the stream; and back.
static CUresult fetch(struct heddle_global *g, CUstream stream) {
  CUresult r = scratch(g);
  if (r == CUDA_SUCCESS) r = heddle_hook_cuMemcpyDtoDAsync_v2(g->scratch, g->address, g->bytes, stream);
  if (r != CUDA_SUCCESS) return r;
  return HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_GLOBALS,
                            heddle_real.cuMemcpyDtoDAsync_v2(g->native, g->scratch, g->bytes, stream));
}
static CUresult store(struct heddle_global *g, CUstream stream) {
  CUresult r = HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_GLOBALS,
                                  heddle_real.cuMemcpyDtoDAsync_v2(g->scratch, g->native, g->bytes, stream));
  return r == CUDA_SUCCESS ? heddle_hook_cuMemcpyDtoDAsync_v2(g->address, g->scratch, g->bytes, stream) : r;
}

// The image of f when globals of it live in the current device's executor.
static struct heddle_image *mirrored_image(CUfunction f, CUdevice *device) {
  struct heddle_session *s = f ? heddle_session_current() : NULL;
  const struct heddle_function *fn = s ? heddle_code_function(f) : NULL;
  if (!fn || !heddle_code_mirrored(s, fn)) return NULL;
  *device = s->device;
  return heddle_function_image(fn);
}

static bool captures(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_acquire) == 0) return false;
  return heddle_real.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

CUresult heddle_code_native_begin(CUfunction f, CUstream stream) {
  if (__builtin_expect(!atomic_load_explicit(&mirroring, memory_order_relaxed), 1)) return CUDA_SUCCESS;
  CUdevice device;
  struct heddle_image *image = mirrored_image(f, &device);
  CUresult r = CUDA_SUCCESS;
  if (!image) return r;
  if (captures(stream)) return r; // it runs later, from a graph: heddle_code_graph_begin
  for (struct heddle_global *g = NULL; r == CUDA_SUCCESS && (g = next_global(image, g, device));) r = fetch(g, stream);
  return r;
}

CUresult heddle_code_native_end(CUfunction f, CUstream stream, CUresult launched) {
  if (__builtin_expect(!atomic_load_explicit(&mirroring, memory_order_relaxed), 1)) return launched;
  CUdevice device;
  struct heddle_image *image = launched == CUDA_SUCCESS ? mirrored_image(f, &device) : NULL;
  if (!image || captures(stream)) return launched;
  for (struct heddle_global *g = NULL; launched == CUDA_SUCCESS && (g = next_global(image, g, device));) launched = store(g, stream);
  return launched;
}

// A graph may launch any kernel of this process, captured or added node by node: around it every global of every image that has
// some in the executor goes to this process's instance and back.
#define GRAPH_IMAGES 64
struct collection {
  struct heddle_image *at[GRAPH_IMAGES];
  unsigned n, left_out;
};
static bool collect(struct heddle_image *image, void *arg) {
  struct collection *c = arg;
  for (unsigned i = 0; i < c->n; i++)
    if (c->at[i] == image) return false; // a library and a module of it
  if (image->globals && c->n < GRAPH_IMAGES) c->at[c->n++] = image;
  else if (image->globals) c->left_out++;
  return false;
}

static CUresult carry(CUstream stream, CUresult (*move)(struct heddle_global *, CUstream)) {
  if (__builtin_expect(!atomic_load_explicit(&mirroring, memory_order_relaxed), 1) || captures(stream)) return CUDA_SUCCESS;
  struct heddle_session *s = heddle_session_current();
  if (!s) return CUDA_SUCCESS;
  struct collection c = {.n = 0};
  heddle_images_each(collect, &c);
  if (c.left_out) {
    heddle_log(HEDDLE_LOG_ERROR, "device %d: more than %d images have device globals in the executor: a graph cannot see them all. Run this program with HEDDLE_DISABLE=1",
               s->device, GRAPH_IMAGES);
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  CUresult r = CUDA_SUCCESS;
  for (unsigned i = 0; i < c.n; i++)
    for (struct heddle_global *g = NULL; r == CUDA_SUCCESS && (g = next_global(c.at[i], g, s->device));) r = move(g, stream);
  return r;
}

CUresult heddle_code_graph_begin(CUstream stream) { return carry(stream, fetch); }
CUresult heddle_code_graph_end(CUstream stream, CUresult launched) { return launched == CUDA_SUCCESS ? carry(stream, store) : launched; }

CUresult heddle_hook_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name) {
  CUdeviceptr address = 0;
  size_t size = 0;
  CUresult r = dptr || bytes ? heddle_real.cuModuleGetGlobal_v2(&address, &size, hmod, name) : heddle_real.cuModuleGetGlobal_v2(dptr, bytes, hmod, name);
  if (r != CUDA_SUCCESS) return r;
  if (dptr && (r = serve(heddle_image_of_module(hmod), name, &address, &size)) != CUDA_SUCCESS) return r; // a size alone moves nothing
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return r;
}

CUresult heddle_hook_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
  CUdeviceptr address = 0;
  size_t size = 0;
  CUresult r = dptr || bytes ? heddle_real.cuLibraryGetGlobal(&address, &size, library, name) : heddle_real.cuLibraryGetGlobal(dptr, bytes, library, name);
  if (r != CUDA_SUCCESS) return r;
  if (dptr && (r = serve(heddle_image_of_library(library), name, &address, &size)) != CUDA_SUCCESS) return r;
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return r;
}
