// How a program gets to our wrappers, and we to the driver. Source: design.md section 4 "Resolution"; knowledge/cuda.md section 1.
//
// The driver is loaded at the first use by anybody, never by our constructor: LD_PRELOAD reaches every child of a shell.
// Loading takes no lock of ours. A thread may get here from inside the dynamic linker (a library's constructor that uses CUDA)
// with the linker's lock held, so two threads that start at once both look everything up, and one of them publishes.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <string.h>

#include "../config.h"
#include "../harvest/harvest.h"
#include "../log.h"
#include "../session.h"
#include "../tools.h"
#include "dlsym.h"
#include "hooks.h"

struct heddle_real heddle_real;
_Atomic int heddle_hooks_state;
_Atomic int heddle_hooks_captures;
_Atomic unsigned heddle_hooks_unknown;

static _Atomic bool publishing;  // one thread fills heddle_real
static _Atomic bool initialised; // cuInit succeeded: a forked child cannot use CUDA any more
static uintptr_t driver_from, driver_to;
static __thread bool starting __attribute__((tls_model("initial-exec"))); // this thread is inside heddle_hooks_start

// Driver pointer → entries, open addressing. Entries that share a pointer lie one behind the other. 0: empty, else index + 1.
enum { SLOTS = 2048 };
_Static_assert(SLOTS > 2 * HEDDLE_ENTRIES, "the index needs room");
static uint16_t slots[SLOTS];

static void *real_of(const struct heddle_entry *e) {
  void *p;
  memcpy(&p, (const char *)&heddle_real + e->real, sizeof p);
  return p;
}

static unsigned slot_of(const void *p) { return (unsigned)((uintptr_t)p * 0x9E3779B97F4A7C15u >> 53) % SLOTS; }

static void index_build(void) {
  for (unsigned i = 0; i < HEDDLE_ENTRIES; i++) {
    const void *p = real_of(&heddle_entries[i]);
    if (!p) continue;
    unsigned at = slot_of(p);
    while (slots[at]) at = (at + 1) % SLOTS;
    slots[at] = (uint16_t)(i + 1);
  }
}

struct bounds { const struct link_map *map; uintptr_t from, to; };

static int find_bounds(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  struct bounds *b = data;
  if (info->dlpi_addr != b->map->l_addr || strcmp(info->dlpi_name, b->map->l_name) != 0) return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, to = from + info->dlpi_phdr[i].p_memsz;
    if (!b->to || from < b->from) b->from = from;
    if (to > b->to) b->to = to;
  }
  return 1;
}

bool heddle_hooks_start(void) {
  if (atomic_load_explicit(&heddle_hooks_state, memory_order_acquire) != HEDDLE_HOOKS_UNUSED) return true;
  if (starting) return false; // the driver's own initialisation led back to us
  starting = true;
  // Never closed: unloading libcuda crashes. Where the program has loaded it already, this is that one (same soname).
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (!driver) {
    starting = false;
    const char *why = dlerror();
    heddle_log(HEDDLE_LOG_INFO, "no CUDA driver: %s", why ? why : "libcuda.so.1 cannot be loaded");
    return false;
  }
  struct heddle_real found;
  heddle_dlsym_function real_dlsym = heddle_dlsym_real();
  for (unsigned i = 0; i < HEDDLE_ENTRIES; i++) {
    void *p = real_dlsym ? real_dlsym(driver, heddle_entries[i].name) : NULL;
    memcpy((char *)&found + heddle_entries[i].real, &p, sizeof p);
  }
  dlerror(); // of functions that this driver lacks: none of the program's business
  struct bounds b = {0};
  struct link_map *map = NULL;
  if (dlinfo(driver, RTLD_DI_LINKMAP, &map) == 0) {
    b.map = map;
    dl_iterate_phdr(find_bounds, &b);
  }
  starting = false;
  bool mine = false;
  if (!atomic_compare_exchange_strong(&publishing, &mine, true)) {
    // The other thread copies five kilobytes and waits for nobody.
    while (atomic_load_explicit(&heddle_hooks_state, memory_order_acquire) == HEDDLE_HOOKS_UNUSED) __builtin_ia32_pause();
    return true;
  }
  heddle_real = found;
  driver_from = b.from;
  driver_to = b.to;
  index_build();
  // Read here, not by our constructor: libraries that use CUDA in theirs may come first.
  atomic_store_explicit(&heddle_hooks_state, heddle_config_disabled() ? HEDDLE_HOOKS_OFF : HEDDLE_HOOKS_ON, memory_order_release);
  return true;
}

void heddle_hooks_off(void) {
  // Only a loaded table can be switched off: wrappers then rely on heddle_real.
  if (heddle_hooks_start()) atomic_store_explicit(&heddle_hooks_state, HEDDLE_HOOKS_OFF, memory_order_release);
}

bool heddle_hooks_starting(void) { return starting; }

static int holds_in_driver(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  uintptr_t address = (uintptr_t)data;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type != PT_LOAD || address - (info->dlpi_addr + p->p_vaddr) >= p->p_memsz) continue;
    const char *slash = strrchr(info->dlpi_name, '/'), *base = slash ? slash + 1 : info->dlpi_name;
    return strncmp(base, "libcuda.so", 10) == 0 ? 1 : 2;
  }
  return 0;
}

bool heddle_hooks_in_driver(const void *address) {
  if (atomic_load_explicit(&heddle_hooks_state, memory_order_acquire) != HEDDLE_HOOKS_UNUSED)
    return (uintptr_t)address - driver_from < driver_to - driver_from;
  return dl_iterate_phdr(holds_in_driver, (void *)address) == 1;
}

void *heddle_hooks_real(const struct heddle_entry *e) { return real_of(e); }

CUresult heddle_hooks_missing(const char *symbol) {
  if (atomic_load_explicit(&heddle_hooks_state, memory_order_acquire) == HEDDLE_HOOKS_UNUSED) {
    heddle_log(HEDDLE_LOG_WARN, "%s was called, but libcuda.so.1 cannot be loaded: is the NVIDIA driver installed?", symbol);
    return CUDA_ERROR_NO_DEVICE;
  }
  heddle_log(HEDDLE_LOG_WARN, "%s was called, but the installed driver does not have it", symbol);
  return CUDA_ERROR_NOT_FOUND;
}

bool heddle_hooks_refuse(const char *symbol, const char *why) {
  struct heddle_session *s = heddle_session_current();
  if (!s || !atomic_load_explicit(&s->live, memory_order_acquire)) return false;
  heddle_log(HEDDLE_LOG_WARN, "%s is not supported under Heddle: %s", symbol, why);
  return true;
}

const struct heddle_entry *heddle_hooks_by_name(const char *name) {
  unsigned low = 0, high = HEDDLE_ENTRIES;
  while (low < high) {
    unsigned mid = (low + high) / 2;
    int order = strcmp(name, heddle_entries[mid].name);
    if (order == 0) return &heddle_entries[mid];
    if (order < 0) high = mid;
    else low = mid + 1;
  }
  return NULL;
}

static bool base_is_wrapped(const char *base) {
  for (unsigned i = 0; i < HEDDLE_ENTRIES; i++)
    if (heddle_entries[i].wrapper && strcmp(heddle_entries[i].base, base) == 0) return true;
  return false;
}

// How well an entry fits what was asked for, among entries that share the driver's pointer.
static unsigned fit(const struct heddle_entry *e, const char *base, bool per_thread) {
  return (base && strcmp(e->base, base) == 0 ? 2048u : 0u) + (e->per_thread == per_thread ? 1024u : 0u) + (e->wrapper ? 512u : 0u) +
         e->version;
}

void *heddle_hooks_substitute(void *found, const char *base, bool per_thread) {
  if (!heddle_hooks_on()) return found;
  const struct heddle_entry *best = NULL;
  for (unsigned at = slot_of(found); slots[at]; at = (at + 1) % SLOTS) {
    const struct heddle_entry *e = &heddle_entries[slots[at] - 1];
    if (real_of(e) != found) continue;
    if (!best || fit(e, base, per_thread) > fit(best, base, per_thread)) best = e;
  }
  if (best) return best->wrapper ? (void *)best->wrapper : found;
  atomic_fetch_add_explicit(&heddle_hooks_unknown, 1, memory_order_relaxed);
  if (base) heddle_hooks_unknown_name(base);
  return found;
}

void heddle_hooks_unknown_name(const char *name) {
  static _Atomic bool captures;
  // A newer way to begin a capture: from here every stream is asked whether it captures.
  if (strncmp(name, "cuStreamBegin", 13) == 0 && !atomic_exchange_explicit(&captures, true, memory_order_acq_rel))
    atomic_fetch_add_explicit(&heddle_hooks_captures, 1, memory_order_acq_rel);
  if (base_is_wrapped(name))
    heddle_log(HEDDLE_LOG_WARN, "the driver has a form of %s that this build of Heddle does not know: it runs natively, unordered", name);
  else
    heddle_log(HEDDLE_LOG_DEBUG, "the driver has %s, which this build of Heddle does not know", name);
}

// ---- the driver's resolver ----
CUresult heddle_hook_cuGetProcAddress(const char *symbol, void **pfn, int version, cuuint64_t flags) {
  CUresult r = heddle_real.cuGetProcAddress(symbol, pfn, version, flags);
  if (r == CUDA_SUCCESS && pfn && *pfn)
    *pfn = heddle_hooks_substitute(*pfn, symbol, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
  return r;
}

CUresult heddle_hook_cuGetProcAddress_v2(const char *symbol, void **pfn, int version, cuuint64_t flags,
                                         CUdriverProcAddressQueryResult *status) {
  // Success with a status other than SUCCESS means: not found, and *pfn is NULL.
  CUresult r = heddle_real.cuGetProcAddress_v2(symbol, pfn, version, flags, status);
  if (r == CUDA_SUCCESS && pfn && *pfn)
    *pfn = heddle_hooks_substitute(*pfn, symbol, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
  return r;
}

// ---- initialisation ----
CUresult heddle_hook_cuInit(unsigned int flags) {
  const char *which = NULL;
  if (!atomic_load_explicit(&initialised, memory_order_acquire) && heddle_tools_active(&which)) {
    heddle_log(HEDDLE_LOG_WARN, "running natively because of %s; HEDDLE_FORCE=1 forwards nevertheless", which);
    heddle_hooks_off();
  }
  CUresult r = heddle_real.cuInit(flags);
  if (r == CUDA_SUCCESS) atomic_store_explicit(&initialised, true, memory_order_release);
  return r;
}

// ---- life of the process ----
static void forked(void) {
  heddle_harvest_forked();
  if (atomic_load_explicit(&heddle_hooks_state, memory_order_acquire) == HEDDLE_HOOKS_UNUSED) {
    // Whoever was loading is not in this process: begin anew.
    atomic_store_explicit(&publishing, false, memory_order_relaxed);
    heddle_config_forked();
    return;
  }
  // Before cuInit a child may use CUDA like anybody; after it the driver refuses, and so our hooks must be gone too.
  if (!atomic_load_explicit(&initialised, memory_order_acquire)) return;
  if (atomic_exchange_explicit(&heddle_hooks_state, HEDDLE_HOOKS_OFF, memory_order_acq_rel) == HEDDLE_HOOKS_ON) heddle_session_forked();
}

// All that a process pays that never uses CUDA.
__attribute__((constructor)) static void loaded(int argc, char **argv, char **environment) {
  (void)environment;
  pthread_atfork(NULL, NULL, forked);
  heddle_harvest_started(argc, argv);
}
