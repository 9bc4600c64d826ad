// Device globals. A kernel that runs in the executor sees the executor's instance, so the client is given that address, and copies to
// it are carried out there. An image whose kernels (some of them) run natively keeps the driver's instance and runs natively as a
// whole. Source: design.md section 4 "Code"; CUDA driver API, cuModuleGetGlobal, cuLibraryGetGlobal.
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../hooks/hooks.h"
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

// Keeps the pages of [address, +bytes) from meaning anything else in this process. False: they do already.
static bool hold(CUdeviceptr address, size_t bytes) {
  unsigned type = 0;
  if (heddle_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) == CUDA_SUCCESS) return false;
  for (uint64_t page = address & ~(PAGE - 1); page < address + bytes; page += PAGE) {
    struct heddle_range range;
    if (heddle_ranges_find(&held, page, &range)) continue;
    void *got = mmap((void *)(uintptr_t)page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED) return false;
    if (got != (void *)(uintptr_t)page || !heddle_ranges_add(&held, page, PAGE, 0)) {
      munmap(got, PAGE);
      return false;
    }
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

// Asks the executor for its instance; NULL: it has none that this process can use. ask_lock held.
static struct heddle_global *mirror(struct heddle_session *s, struct heddle_image *image, const char *name, size_t bytes) {
  if (atomic_load(&image->native) || atomic_load(&image->went_native) >> s->device & 1 || !own_instance(s, image)) return NULL;
  struct heddle_wire_kernel ask = {.image_id = image->id[s->device]};
  struct heddle_wire_range reply = {0};
  size_t length = strlen(name);
  int nfds = 0;
  int status = heddle_session_request(s, HEDDLE_WIRE_TYPE_GLOBAL, &ask, sizeof ask, name, length, NULL, 0, &reply, sizeof reply, NULL, &nfds);
  if (status != HEDDLE_WIRE_STATUS_OK || reply.bytes != bytes || !reply.address || !hold(reply.address, reply.bytes)) return NULL;
  struct heddle_global *g = calloc(1, sizeof *g + length + 1);
  if (!g) return NULL;
  g->device = s->device;
  g->address = reply.address;
  g->bytes = reply.bytes;
  memcpy(g->name, name, length);
  heddle_memory_add_global(s, g->address, g->bytes);
  pthread_mutex_lock(&heddle_code_lock);
  g->next = image->globals;
  image->globals = g;
  pthread_mutex_unlock(&heddle_code_lock);
  atomic_fetch_or(&image->mirrored, 1u << s->device);
  return g;
}

// Replaces the driver's answer (*address, *bytes) where the executor's instance counts.
static void serve(struct heddle_image *image, const char *name, CUdeviceptr *address, size_t *bytes) {
  struct heddle_session *s = image && name && *bytes ? heddle_session_current() : NULL;
  int managed = 0;
  if (!s) return;
  heddle_real.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, *address);
  struct heddle_global *g = known(image, s->device, name);
  if (!g) {
    heddle_ask_lock();
    CUstreamCaptureMode mode = heddle_capture_relax();
    g = known(image, s->device, name);
    if (!g && !managed) g = mirror(s, image, name, *bytes);
    heddle_capture_restore(mode);
    if (!g && !atomic_load(&image->native)) {
      heddle_log(HEDDLE_LOG_INFO, "device %d: global %s cannot be shared with the executor: every kernel of its image runs natively", s->device, name);
      if (atomic_load(&image->mirrored))
        heddle_log(HEDDLE_LOG_ERROR, "device %d: other globals of the image of %s live in the executor already: kernels that use both see two states", s->device, name);
      heddle_order_drain(s, NULL);
      heddle_functions_reset(image, HEDDLE_NATIVE_GLOBALS);
    }
    heddle_ask_unlock();
  }
  if (!g) return;
  *address = g->address;
  *bytes = g->bytes;
}

void heddle_globals_forget(struct heddle_image *image) {
  pthread_mutex_lock(&heddle_code_lock);
  struct heddle_global *g = image->globals;
  image->globals = NULL;
  pthread_mutex_unlock(&heddle_code_lock);
  while (g) {
    struct heddle_global *next = g->next;
    heddle_memory_drop_global(g->address);
    free(g);
    g = next;
  }
}

CUresult heddle_hook_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name) {
  CUdeviceptr address = 0;
  size_t size = 0;
  CUresult r = dptr || bytes ? heddle_real.cuModuleGetGlobal_v2(&address, &size, hmod, name) : heddle_real.cuModuleGetGlobal_v2(dptr, bytes, hmod, name);
  if (r != CUDA_SUCCESS) return r;
  if (dptr) serve(heddle_image_of_module(hmod), name, &address, &size); // a size alone moves nothing
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return r;
}

CUresult heddle_hook_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
  CUdeviceptr address = 0;
  size_t size = 0;
  CUresult r = dptr || bytes ? heddle_real.cuLibraryGetGlobal(&address, &size, library, name) : heddle_real.cuLibraryGetGlobal(dptr, bytes, library, name);
  if (r != CUDA_SUCCESS) return r;
  if (dptr) serve(heddle_image_of_library(library), name, &address, &size);
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return r;
}
