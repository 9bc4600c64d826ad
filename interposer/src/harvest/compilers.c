// NVRTC and nvJitLink: functions that a program finds with dlsym are replaced by ones of ours, which call what was found. Programs
// that are linked to libnvrtc find our exported functions first. nvJitLink's linked names carry the header's version
// (__nvJitLinkCreate_13_0), so only dlsym leads to it here; JAX, numba and CuPy go that way.
//
// Sources: NVRTC and nvJitLink documentation of CUDA 13.0; all their functions return an enum whose 0 is success.
#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../hooks/dlsym.h"
#include "harvest.h"

enum kind { NVRTC_COMPILE, NVRTC_CUBIN, LINK_CREATE, LINK_DATA, LINK_FILE, LINK_CUBIN, KINDS };
static const char *const names[KINDS] = {
    "nvrtcCompileProgram", "nvrtcGetCUBIN", "nvJitLinkCreate", "nvJitLinkAddData", "nvJitLinkAddFile", "nvJitLinkGetLinkedCubin",
};

// A process may have several libraries of a kind (CUDA 12's and 13's), and each function of nvJitLink several names. A slot is one
// function that was found, and a function of ours that calls it. What finds no slot is left alone.
enum { SLOTS = 6 };
static void *_Atomic slots[KINDS][SLOTS];

// The machine code is whole when the library has given it: it ends where its headers say.
static const size_t no_limit = (size_t)1 << 31;

// ---- NVRTC ----

typedef int nvrtc_compile(void *program, int count, const char *const *options);
typedef int nvrtc_cubin(void *program, char *cubin);
typedef int nvrtc_ptx(void *program, char *ptx);
typedef int nvrtc_ptx_size(void *program, size_t *bytes);

// The options of one compilation. With --fmad=false the text itself forbids contraction, save in inline assembly.
static struct heddle_harvest_made nvrtc_made(int count, const char *const *options) {
  struct heddle_harvest_made made = {"nvrtc", true, false};
  bool fast = false;
  for (int i = 0; i < count; i++) {
    const char *o = options ? options[i] : NULL;
    if (!o) continue;
    while (*o == '-') o++;
    if (strncmp(o, "use_fast_math", 13) == 0) fast = true;
    else if (strcmp(o, "fmad=false") == 0) made.fmad = false;
    else if (strcmp(o, "fmad=true") == 0) made.fmad = true;
    else if (strncmp(o, "fmad", 4) == 0 || strncmp(o, "ptxas-options", 13) == 0 || strncmp(o, "Xptxas", 6) == 0) made.odd = true;
  }
  if (fast && !made.fmad) made.odd = true; // which of the two counts?
  return made;
}

static int compile(nvrtc_compile *real, void *program, int count, const char *const *options) {
  struct heddle_harvest_made made = nvrtc_made(count, options);
  int result = real(program, count, options);
  if (result) made.odd = true; // forget what an earlier compilation left
  heddle_harvest_begin(program, &made);
  return result;
}

// Another function of the library that has `known`.
static void *neighbour(const void *known, const char *name) {
  Dl_info info;
  heddle_dlsym_function real = heddle_dlsym_real();
  if (!real || !dladdr(known, &info) || !info.dli_fname) return NULL;
  void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return NULL;
  void *found = real(library, name);
  dlclose(library);
  return found;
}

static int cubin_of(nvrtc_cubin *real, void *program, char *cubin) {
  int result = real(program, cubin);
  if (result || !cubin || !heddle_harvest_on()) return result;
  const void *known;
  memcpy(&known, &real, sizeof known);
  void *p = neighbour(known, "nvrtcGetPTXSize"), *q = neighbour(known, "nvrtcGetPTX");
  nvrtc_ptx_size *size;
  nvrtc_ptx *text;
  memcpy(&size, &p, sizeof size);
  memcpy(&text, &q, sizeof text);
  size_t bytes = 0;
  if (!size || !text || size(program, &bytes) || !bytes || bytes > HEDDLE_HARVEST_MAX_TEXT) return result;
  char *ptx = malloc(bytes);
  if (ptx && text(program, ptx) == 0) {
    heddle_harvest_input(program, ptx, bytes);
    heddle_harvest_end(program, cubin, no_limit);
  }
  free(ptx);
  return result;
}

// ---- nvJitLink ----

typedef int link_create(void **handle, uint32_t count, const char **options);
typedef int link_data(void *handle, int type, const void *data, size_t bytes, const char *name);
typedef int link_file(void *handle, int type, const char *path);
typedef int link_cubin(void *handle, void *cubin);
enum { INPUT_PTX = 2, INPUT_ANY = 10 }; // nvJitLinkInputType

static bool begins(const char *option, const char *prefix) { return strncmp(option, prefix, strlen(prefix)) == 0; }

// Options are few and known; any other (-lto and what belongs to it) makes the result another compiler's.
static struct heddle_harvest_made link_made(uint32_t count, const char **options) {
  struct heddle_harvest_made made = {"nvjitlink", true, false};
  static const char *const harmless[] = {"-arch=", "-O", "-g", "-lineinfo", "-verbose", "-time", "-maxrregcount=", "-no-cache", "-split-compile"};
  for (uint32_t i = 0; i < count; i++) {
    const char *o = options ? options[i] : NULL;
    bool known = false, value = false;
    if (!o) continue;
    if (begins(o, "--")) o++;
    if (begins(o, "-Xptxas=")) {
      heddle_harvest_option(&made, o + 8, &value);
      if (value || strpbrk(o + 8, ", ")) made.odd = true; // several, or its value comes apart
      continue;
    }
    for (size_t k = 0; k < sizeof harmless / sizeof harmless[0]; k++) known = known || begins(o, harmless[k]);
    if (!known) made.odd = true;
  }
  return made;
}

static int create(link_create *real, void **handle, uint32_t count, const char **options) {
  struct heddle_harvest_made made = link_made(count, options);
  int result = real(handle, count, options);
  if (result == 0 && handle) heddle_harvest_begin(*handle, &made);
  return result;
}

static int data(link_data *real, void *handle, int type, const void *bytes, size_t size, const char *name) {
  int result = real(handle, type, bytes, size, name);
  bool text = result == 0 && bytes && (type == INPUT_PTX || (type == INPUT_ANY && size >= 8 && memmem(bytes, size < 4096 ? size : 4096, ".version", 8)));
  heddle_harvest_input(handle, text ? bytes : NULL, size);
  return result;
}

static int file(link_file *real, void *handle, int type, const char *path) {
  int result = real(handle, type, path);
  heddle_harvest_input_file(handle, result == 0 && type == INPUT_PTX, path);
  return result;
}

static int linked_cubin(link_cubin *real, void *handle, void *cubin) {
  int result = real(handle, cubin);
  if (result == 0) heddle_harvest_end(handle, cubin, no_limit);
  return result;
}

// ---- slots ----

#define REAL(kind, slot, type) ((type *)atomic_load_explicit(&slots[kind][slot], memory_order_acquire))
#define EACH_SLOT(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define FUNCTIONS(i)                                                                                                         \
  static int compile_##i(void *p, int n, const char *const *o) { return compile(REAL(NVRTC_COMPILE, i, nvrtc_compile), p, n, o); } \
  static int cubin_##i(void *p, char *c) { return cubin_of(REAL(NVRTC_CUBIN, i, nvrtc_cubin), p, c); }                       \
  static int create_##i(void **h, uint32_t n, const char **o) { return create(REAL(LINK_CREATE, i, link_create), h, n, o); } \
  static int data_##i(void *h, int t, const void *d, size_t n, const char *s) { return data(REAL(LINK_DATA, i, link_data), h, t, d, n, s); } \
  static int file_##i(void *h, int t, const char *s) { return file(REAL(LINK_FILE, i, link_file), h, t, s); }                \
  static int linked_##i(void *h, void *c) { return linked_cubin(REAL(LINK_CUBIN, i, link_cubin), h, c); }
EACH_SLOT(FUNCTIONS)

#define ROW(i) {(void *)compile_##i, (void *)cubin_##i, (void *)create_##i, (void *)data_##i, (void *)file_##i, (void *)linked_##i},
static void *const ours[SLOTS][KINDS] = {EACH_SLOT(ROW)};

// nvJitLinkCreate, or __nvJitLinkCreate_12_4.
static int kind_of(const char *name) {
  const char *plain = begins(name, "__nvJitLink") ? name + 2 : name;
  for (int k = 0; k < KINDS; k++) {
    size_t n = strlen(names[k]);
    if (strncmp(plain, names[k], n) != 0) continue;
    if (!plain[n] && plain == name) return k;
    if (plain != name && plain[n] == '_' && plain[n + 1] >= '0' && plain[n + 1] <= '9') return k;
  }
  return -1;
}

bool heddle_harvest_watches(const char *name) { return kind_of(name) >= 0; }

void *heddle_harvest_substitute(const char *name, void *found) {
  int k = kind_of(name);
  if (k < 0 || !heddle_harvest_on()) return found;
  for (int i = 0; i < SLOTS; i++) {
    if (found == ours[i][k]) return found;
    void *before = NULL;
    if (atomic_compare_exchange_strong(&slots[k][i], &before, found) || before == found) return ours[i][k];
  }
  return found;
}

// ---- programs linked to libnvrtc ----

struct loaded {
  const char *path;
  int count;
};

static int find_nvrtc(struct dl_phdr_info *info, size_t size, void *arg) {
  struct loaded *l = arg;
  (void)size;
  const char *slash = strrchr(info->dlpi_name, '/'), *base = slash ? slash + 1 : info->dlpi_name;
  if (!begins(base, "libnvrtc.so")) return 0;
  l->path = info->dlpi_name;
  l->count++;
  return 0;
}

// The libnvrtc that the file with the address `caller` names as needed.
static const char *needed_by(const void *caller) {
  Dl_info info;
  struct link_map *map = NULL;
  if (!dladdr1(caller, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) return NULL;
  const char *strings = NULL;
  for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++)
    if (d->d_tag == DT_STRTAB) strings = (const char *)d->d_un.d_ptr;
  for (const ElfW(Dyn) *d = map->l_ld; strings && d->d_tag != DT_NULL; d++)
    if (d->d_tag == DT_NEEDED && begins(strings + d->d_un.d_val, "libnvrtc.so")) return strings + d->d_un.d_val;
  return NULL;
}

// What the caller's file has itself (NVRTC is also a static library), or a library that it needs.
static void *within_reach(heddle_dlsym_function real, const char *name, const void *caller) {
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname) return NULL;
  void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD); // none for the program's own file, whose symbols come before ours
  if (!library) return NULL;
  void *found = real(library, name);
  dlclose(library);
  return found == heddle_harvest_exported(name) ? NULL : found;
}

void *heddle_harvest_linked(const char *name, const void *caller) {
  struct loaded l = {NULL, 0};
  heddle_dlsym_function real = heddle_dlsym_real();
  void *near = real ? within_reach(real, name, caller) : NULL;
  if (near) return near;
  dl_iterate_phdr(find_nvrtc, &l);
  const char *path = l.count > 1 ? needed_by(caller) : l.path;
  void *library = real && path ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : NULL;
  if (!library) return NULL;
  void *found = real(library, name);
  dlclose(library);
  return found;
}

#define EXPORTED __attribute__((visibility("protected")))
enum { NVRTC_ERROR_INTERNAL_ERROR = 11 };
int nvrtcCompileProgram(void *program, int count, const char *const *options);
int nvrtcGetCUBIN(void *program, char *cubin);

EXPORTED int nvrtcCompileProgram(void *program, int count, const char *const *options) {
  void *found = heddle_harvest_linked(names[NVRTC_COMPILE], __builtin_return_address(0));
  nvrtc_compile *real;
  memcpy(&real, &found, sizeof real);
  return real ? compile(real, program, count, options) : NVRTC_ERROR_INTERNAL_ERROR;
}

EXPORTED int nvrtcGetCUBIN(void *program, char *cubin) {
  void *found = heddle_harvest_linked(names[NVRTC_CUBIN], __builtin_return_address(0));
  nvrtc_cubin *real;
  memcpy(&real, &found, sizeof real);
  return real ? cubin_of(real, program, cubin) : NVRTC_ERROR_INTERNAL_ERROR;
}

void *heddle_harvest_exported(const char *name) {
  if (strcmp(name, names[NVRTC_COMPILE]) == 0) return (void *)nvrtcCompileProgram;
  if (strcmp(name, names[NVRTC_CUBIN]) == 0) return (void *)nvrtcGetCUBIN;
  return NULL;
}
