// Images: where the bytes of every loaded module and library are, and sending them once. Source: design.md section 4 "Code"; CUDA
// driver API, "Module Management" and "Library Management".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../hooks/hooks.h"
#include "../log.h"
#include "../memory/memory.h"
#include "../order.h"
#include "heddle_hash.h"
#include "inner.h"

#define NO_LIMIT ((size_t)1 << 40) // the driver has accepted the image, so it ends where its headers say

pthread_mutex_t heddle_code_lock = PTHREAD_MUTEX_INITIALIZER;
static struct heddle_table modules, libraries; // of struct heddle_owner; guarded by heddle_code_lock

// ---- where the bytes are ----

struct mapped {
  uintptr_t first, last;
  bool found;
};

static int in_object(struct dl_phdr_info *info, size_t size, void *arg) {
  struct mapped *m = arg;
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *h = &info->dlpi_phdr[i];
    uintptr_t start = info->dlpi_addr + h->p_vaddr;
    if (h->p_type == PT_LOAD && m->first >= start && m->last < start + h->p_filesz) m->found = true;
  }
  return m->found;
}

// True when the bytes are part of a loaded program or library: they stay as long as the code that registered them.
static bool stays(const void *p, size_t bytes) {
  struct mapped m = {(uintptr_t)p, (uintptr_t)p + bytes - 1, false};
  dl_iterate_phdr(in_object, &m);
  return m.found;
}

// Options of a JIT compilation that change what the kernels compute or need. The executor compiles without options.
static bool options_plain(const CUjit_option *options, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    switch (options[i]) {
      case CU_JIT_MAX_REGISTERS:
      case CU_JIT_THREADS_PER_BLOCK:
      case CU_JIT_TARGET:
      case CU_JIT_GLOBAL_SYMBOL_NAMES:
      case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
      case CU_JIT_GLOBAL_SYMBOL_COUNT:
      case CU_JIT_FTZ:
      case CU_JIT_PREC_DIV:
      case CU_JIT_PREC_SQRT:
      case CU_JIT_FMA:
      case CU_JIT_OVERRIDE_DIRECTIVE_VALUES: return false;
      default: break; // logs, timing, line tables, caching, optimisation level
    }
  }
  return true;
}

// Remembers an image that the driver has just accepted. Never fails: without memory its kernels run natively.
static struct heddle_image *image_new(const void *bytes, bool plain) {
  struct heddle_image *image = calloc(1, sizeof *image);
  if (!image) return NULL;
  image->container = heddle_container_of(bytes);
  if (image->container == HEDDLE_CONTAINER_WRAPPER) {
    bytes = heddle_wrapper_fatbin(bytes);
    image->container = HEDDLE_CONTAINER_FATBIN;
  }
  size_t size = bytes ? heddle_container_bytes(image->container, bytes, NO_LIMIT) : 0;
  if (!size) {
    atomic_store(&image->native, HEDDLE_NATIVE_UNKNOWN_CODE);
    return image;
  }
  // Compiled options bind PTX only; of a fat binary the driver may have chosen either.
  if (!plain && image->container != HEDDLE_CONTAINER_CUBIN) atomic_store(&image->native, HEDDLE_NATIVE_REFUSED_CODE);
  image->size = size;
  if (stays(bytes, size)) {
    image->bytes = bytes;
    return image;
  }
  void *copy = malloc(size);
  if (copy) memcpy(copy, bytes, size);
  else atomic_store(&image->native, HEDDLE_NATIVE_UNKNOWN_CODE);
  image->bytes = copy;
  image->owned = copy != NULL;
  return image;
}

// The content of a file that the driver has just loaded, as text with a zero behind it; NULL: unreadable.
static void *read_file(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  char *text = NULL;
  if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= 4 && st.st_size < (off_t)1 << 32 &&
      (text = malloc((size_t)st.st_size + 1))) {
    size_t at = 0;
    while (at < (size_t)st.st_size) {
      ssize_t n = read(fd, text + at, (size_t)st.st_size - at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      at += (size_t)n;
    }
    text[at] = 0;
    if (at != (size_t)st.st_size) {
      free(text);
      text = NULL;
    }
  }
  if (fd >= 0) close(fd);
  return text;
}

static void remember(struct heddle_table *table, const void *handle, struct heddle_image *image) {
  struct heddle_owner *o = image ? calloc(1, sizeof *o) : NULL;
  if (!o) return;
  o->handle = handle;
  o->image = image;
  if (table == &modules) heddle_real.cuCtxGetCurrent(&o->context);
  else image->library = true;
  pthread_mutex_lock(&heddle_code_lock);
  if (!heddle_table_put(table, o)) free(o);
  pthread_mutex_unlock(&heddle_code_lock);
  atomic_fetch_add(&heddle_code_seen, 1);
}

static void remember_file(struct heddle_table *table, const void *handle, const char *path, bool plain) {
  void *text = read_file(path);
  if (!text) return;
  remember(table, handle, image_new(text, plain));
  free(text);
}

static struct heddle_image *image_of(struct heddle_table *table, const void *handle) {
  struct heddle_owner *o = heddle_table_find(table, handle);
  return o ? o->image : NULL;
}
struct heddle_image *heddle_image_of_module(CUmodule m) { return image_of(&modules, m); }
struct heddle_image *heddle_image_of_library(CUlibrary l) { return image_of(&libraries, l); }

void heddle_image_give_up(struct heddle_image *image, enum heddle_native_reason why) { atomic_store(&image->native, (uint8_t)why); }

struct visit {
  bool (*visit)(struct heddle_image *image, void *arg);
  void *arg;
  bool done;
};
static bool visit_owner(void *entry, void *arg) {
  struct visit *v = arg;
  if (!v->done) v->done = v->visit(((struct heddle_owner *)entry)->image, v->arg);
  return false;
}

void heddle_images_each(bool (*visit)(struct heddle_image *image, void *arg), void *arg) {
  struct visit v = {visit, arg, false};
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&modules, visit_owner, &v); // visits every entry, removes none
  heddle_table_remove(&libraries, visit_owner, &v);
  pthread_mutex_unlock(&heddle_code_lock);
}

// ---- sending ----

static bool write_all(int fd, const void *bytes, size_t n) {
  const char *p = bytes;
  while (n) {
    ssize_t w = write(fd, p, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) return false;
    p += w;
    n -= (size_t)w;
  }
  return true;
}

// What is sent: the reduced fat binary, or the whole, with the nonce behind it. *size receives its length; the caller frees it.
static void *message_bytes(struct heddle_session *s, struct heddle_image *image, size_t *size) {
  int major = 0, minor = 0;
  size_t n = image->size, extra = image->nonce ? 32 : 0;
  bool fat = image->container == HEDDLE_CONTAINER_FATBIN;
  if (fat) {
    if (heddle_real.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, s->device) != CUDA_SUCCESS ||
        heddle_real.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, s->device) != CUDA_SUCCESS)
      return NULL;
    n = heddle_fatbin_reduce(image->bytes, image->size, (unsigned)major, (unsigned)minor, NULL);
    if (!n) return NULL;
  }
  char *out = calloc(1, n + extra);
  if (!out) return NULL;
  if (fat) heddle_fatbin_reduce(image->bytes, image->size, (unsigned)major, (unsigned)minor, out);
  else memcpy(out, image->bytes, n);
  // Behind an ELF or fat binary nobody looks; a text ends with its zero, so the number goes before it as a comment.
  if (extra && image->container == HEDDLE_CONTAINER_TEXT) snprintf(out + n - 1, extra, "\n// %016llx\n", (unsigned long long)image->nonce);
  else if (extra) memcpy(out + n, &image->nonce, sizeof image->nonce);
  *size = n + extra;
  return out;
}

uint64_t heddle_image_id(struct heddle_session *s, struct heddle_image *image, enum heddle_native_reason *why) {
  uint64_t id = image->id[s->device];
  *why = (enum heddle_native_reason)atomic_load(&image->native); // may come after the image was sent
  if (*why) return 0;
  if (id) return id;
  *why = HEDDLE_NATIVE_UNKNOWN_CODE;
  if (atomic_load(&image->dead) || !image->bytes) return 0;
  size_t size = 0;
  void *bytes = message_bytes(s, image, &size);
  if (!bytes) {
    heddle_image_give_up(image, HEDDLE_NATIVE_UNKNOWN_CODE);
    heddle_log(HEDDLE_LOG_WARN, "device %d: a fat binary of %zu bytes has no entry for this device that can be read: its kernels run natively", s->device,
               image->size);
    return 0;
  }
  struct heddle_wire_image ask = {.hash0 = heddle_hash64(bytes, size, 0), .hash1 = heddle_hash64(bytes, size, 1), .bytes = size}, reply = {0};
  int fds[HEDDLE_WIRE_MESSAGE_FDS], nfds = 0;
  int status = heddle_session_request(s, HEDDLE_WIRE_TYPE_IMAGE_QUERY, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, fds, &nfds);
  if (status == HEDDLE_WIRE_STATUS_NEED) {
    bool written = nfds == 1 && write_all(fds[0], bytes, size);
    for (int i = 0; i < nfds; i++) close(fds[i]);
    nfds = 0;
    if (!written) {
      heddle_log(HEDDLE_LOG_WARN, "device %d: an image of %zu bytes could not be written to the daemon's memfd: %s", s->device, size, strerror(errno));
      // The daemon waits for the other half: it refuses what does not have the hash.
    }
    status = heddle_session_request(s, HEDDLE_WIRE_TYPE_IMAGE_FILLED, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, fds, &nfds);
  }
  for (int i = 0; i < nfds; i++) close(fds[i]);
  free(bytes);
  if (status != HEDDLE_WIRE_STATUS_OK || !reply.image_id) {
    *why = status < 0 ? HEDDLE_NATIVE_CLOSED : HEDDLE_NATIVE_REFUSED_CODE;
    if (status >= 0) heddle_image_give_up(image, HEDDLE_NATIVE_REFUSED_CODE);
    return 0;
  }
  image->hash0 = ask.hash0;
  *why = HEDDLE_NATIVE_NONE;
  return image->id[s->device] = reply.image_id;
}

// ---- hooks: loading ----

CUresult heddle_hook_cuModuleLoad(CUmodule *module, const char *fname) {
  CUresult r = heddle_memory_sticky();
  if (r == CUDA_SUCCESS) r = heddle_real.cuModuleLoad(module, fname);
  if (r == CUDA_SUCCESS) remember_file(&modules, *module, fname, true);
  return r;
}

CUresult heddle_hook_cuModuleLoadData(CUmodule *module, const void *image) {
  CUresult r = heddle_memory_sticky();
  if (r == CUDA_SUCCESS) r = heddle_real.cuModuleLoadData(module, image);
  if (r == CUDA_SUCCESS) remember(&modules, *module, image_new(image, true));
  return r;
}

CUresult heddle_hook_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options, void **optionValues) {
  CUresult r = heddle_memory_sticky();
  if (r == CUDA_SUCCESS) r = heddle_real.cuModuleLoadDataEx(module, image, numOptions, options, optionValues);
  if (r == CUDA_SUCCESS) remember(&modules, *module, image_new(image, options_plain(options, numOptions)));
  return r;
}

CUresult heddle_hook_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin) {
  CUresult r = heddle_memory_sticky();
  if (r == CUDA_SUCCESS) r = heddle_real.cuModuleLoadFatBinary(module, fatCubin);
  if (r == CUDA_SUCCESS) remember(&modules, *module, image_new(fatCubin, true));
  return r;
}

CUresult heddle_hook_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions, void **jitOptionsValues, unsigned int numJitOptions,
                                       CUlibraryOption *libraryOptions, void **libraryOptionValues, unsigned int numLibraryOptions) {
  CUresult r = heddle_real.cuLibraryLoadData(library, code, jitOptions, jitOptionsValues, numJitOptions, libraryOptions, libraryOptionValues, numLibraryOptions);
  if (r == CUDA_SUCCESS) remember(&libraries, *library, image_new(code, options_plain(jitOptions, numJitOptions)));
  return r;
}

CUresult heddle_hook_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions, void **jitOptionsValues,
                                           unsigned int numJitOptions, CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                           unsigned int numLibraryOptions) {
  CUresult r = heddle_real.cuLibraryLoadFromFile(library, fileName, jitOptions, jitOptionsValues, numJitOptions, libraryOptions, libraryOptionValues,
                                                 numLibraryOptions);
  if (r == CUDA_SUCCESS) remember_file(&libraries, *library, fileName, options_plain(jitOptions, numJitOptions));
  return r;
}

CUresult heddle_hook_cuLibraryGetModule(CUmodule *pMod, CUlibrary library) {
  CUresult r = heddle_real.cuLibraryGetModule(pMod, library);
  struct heddle_image *image = r == CUDA_SUCCESS ? heddle_image_of_library(library) : NULL;
  if (image && heddle_image_of_module(*pMod) != image) remember(&modules, *pMod, image);
  return r;
}

// ---- hooks: unloading ----

static bool of_image(void *entry, void *image) { return ((struct heddle_owner *)entry)->image == image; }

// Everything forwarded is done before the driver takes the code away; a sticky error is the driver's call to report.
static void drain_all_sessions(void) {
  for (CUdevice d = 0; d < HEDDLE_MAX_DEVICES; d++) {
    struct heddle_session *s = heddle_session_peek(d);
    if (s) heddle_order_drain(s, NULL);
  }
}

static void forget(struct heddle_image *image) {
  if (!image) return;
  atomic_store(&image->dead, true);
  heddle_functions_forget(image);
  heddle_globals_forget(image);
  pthread_mutex_lock(&heddle_code_lock);
  heddle_table_remove(&modules, of_image, image);
  heddle_table_remove(&libraries, of_image, image);
  pthread_mutex_unlock(&heddle_code_lock);
  heddle_ask_lock(); // nobody is sending it
  if (image->owned) free((void *)(uintptr_t)image->bytes);
  image->bytes = NULL;
  image->owned = false;
  heddle_ask_unlock();
}

struct gone {
  CUcontext context;
  struct heddle_image *image; // one whose module went with the context
};
static bool module_gone(void *entry, void *arg) {
  struct heddle_owner *o = entry;
  struct gone *g = arg;
  if (o->context != g->context || (g->image && g->image != o->image)) return false;
  if (!o->image->library) g->image = o->image; // a library's module goes, the library stays
  return true;
}

void heddle_code_context_gone(CUcontext context) {
  if (!context) return;
  heddle_functions_context_gone(context);
  struct gone g;
  do { // one image a turn, because forgetting it needs the lock released
    g = (struct gone){context, NULL};
    pthread_mutex_lock(&heddle_code_lock);
    heddle_table_remove(&modules, module_gone, &g);
    pthread_mutex_unlock(&heddle_code_lock);
    forget(g.image);
  } while (g.image);
}

CUresult heddle_hook_cuModuleUnload(CUmodule hmod) {
  struct heddle_image *image = heddle_image_of_module(hmod);
  if (image) drain_all_sessions();
  CUresult r = heddle_real.cuModuleUnload(hmod);
  if (r == CUDA_SUCCESS) forget(image);
  return r;
}

CUresult heddle_hook_cuLibraryUnload(CUlibrary library) {
  struct heddle_image *image = heddle_image_of_library(library);
  if (image) drain_all_sessions();
  CUresult r = heddle_real.cuLibraryUnload(library);
  if (r == CUDA_SUCCESS) forget(image);
  return r;
}
