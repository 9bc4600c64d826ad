// dlsym, exported. Every name that is not exactly a wrapped driver function goes to the real dlsym by a jump: it then sees its
// caller's return address, on which RTLD_NEXT and RTLD_DEFAULT depend, and the result is what it would be without us.
//
// For a wrapped name the real dlsym is asked first, and only what it found is substituted:
// - RTLD_NEXT and RTLD_DEFAULT: our own exported symbol lies in the search order before libcuda's, so the jump alone finds the
//   right one. But ours is there even when the driver is not loaded; the answer must then be NULL.
// - a handle: the driver's pointer is replaced by ours; anything else (another library's symbol of that name) is left alone.
// Lookups from inside libcuda, and during our own loading of it, are left alone.
//
// The symbol has no version: it satisfies references to dlsym@GLIBC_2.2.5 and @GLIBC_2.34 alike, while other interposers that
// look for libc's own (dlvsym) do not find ours.
#include "dlsym.h"

#include <dlfcn.h>
#include <string.h>

#include "../harvest/harvest.h"
#include "../tools.h"

// Sanitizers look their own interceptors up with dlsym before they are ready for instrumented code.
#define PLAIN __attribute__((no_sanitize("address", "thread", "undefined")))

PLAIN heddle_dlsym_function heddle_dlsym_real(void) {
  static _Atomic(heddle_dlsym_function) cached;
  heddle_dlsym_function f = atomic_load_explicit(&cached, memory_order_relaxed);
  if (heddle_likely(f != NULL)) return f;
  // The old version first: glibc 2.34 moved dlsym into libc and kept it, so this lookup fails nowhere. A failing one would
  // allocate its error, inside programs whose malloc is just looking for the real one.
  void *p = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  if (!p) p = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  memcpy(&f, &p, sizeof f);
  atomic_store_explicit(&cached, f, memory_order_relaxed);
  return f;
}

// What the assembly below does next: jump to `target` with `handle` as first argument.
struct heddle_dlsym_jump { void *target, *handle; };
struct heddle_dlsym_jump heddle_dlsym_decide(void *handle, const char *name, const void *caller);
void *heddle_dlsym_value(void *value, const char *name);
void *heddle_dlsym_value(void *value, const char *name) {
  (void)name;
  return value;
}

static struct heddle_dlsym_jump value(void *p) { return (struct heddle_dlsym_jump){(void *)heddle_dlsym_value, p}; }

// A lookup that fails as the real one would, with a dlerror text that names the symbol.
static struct heddle_dlsym_jump nothing(heddle_dlsym_function real) {
  void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
  return libc ? (struct heddle_dlsym_jump){(void *)real, libc} : value(NULL);
}

static bool driver_loaded(void) {
  static _Atomic bool known;
  if (atomic_load_explicit(&known, memory_order_relaxed)) return true;
  // The reference that this takes is never given back: the driver must not be unloaded anyway.
  if (!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD)) return false;
  atomic_store_explicit(&known, true, memory_order_relaxed);
  return true;
}

// The few functions that start a CUPTI subscription (tools.c): XLA finds them by name.
static struct heddle_dlsym_jump cupti(heddle_dlsym_function real, struct heddle_dlsym_jump as_is, const char *name) {
  void *ours = heddle_tools_cupti_ours(name);
  if (!ours) return as_is;
  if (as_is.handle == RTLD_NEXT) return heddle_tools_cupti_real(name) ? as_is : nothing(real);
  void *found = real(as_is.handle, name);
  if (!found) return as_is;
  if (found == ours) return heddle_tools_cupti_real(name) ? value(ours) : nothing(real);
  return value(heddle_tools_cupti_substitute(name, found));
}

// The few functions of NVRTC and nvJitLink that tell what machine code was made of (harvest/compilers.c).
static struct heddle_dlsym_jump compiler(heddle_dlsym_function real, struct heddle_dlsym_jump as_is, const char *name, const void *caller) {
  if (as_is.handle == RTLD_NEXT || !heddle_harvest_watches(name)) return as_is;
  void *found = real(as_is.handle, name);
  if (!found) return as_is; // once more, for dlerror
  void *ours = heddle_harvest_exported(name);
  if (ours && found == ours) found = heddle_harvest_linked(name, caller); // ours is there even when libnvrtc is not loaded
  return found ? value(heddle_harvest_substitute(name, found)) : nothing(real);
}

PLAIN __attribute__((used)) struct heddle_dlsym_jump heddle_dlsym_decide(void *handle, const char *name, const void *caller) {
  heddle_dlsym_function real = heddle_dlsym_real();
  if (heddle_unlikely(!real)) return value(NULL);
  struct heddle_dlsym_jump as_is = {(void *)real, handle};
  // Exact names only, and cheap for everybody else: cuInit, not cublasCreate.
  if (heddle_unlikely(!name)) return as_is;
  if (name[0] == 'n' && name[1] == 'v') return compiler(real, as_is, name, caller);
  if (name[0] == '_' && name[1] == '_' && name[2] == 'n' && name[3] == 'v') return compiler(real, as_is, name, caller);
  if (heddle_likely(name[0] != 'c' || name[1] != 'u')) return as_is;
  if (name[2] == 'p') return cupti(real, as_is, name);
  if (name[2] < 'A' || name[2] > 'Z') return as_is;
  const struct heddle_entry *e = heddle_hooks_by_name(name);
  if (!e && strncmp(name, "cuStreamBegin", 13) == 0) heddle_hooks_unknown_name(name);
  if (!e || !e->wrapper || heddle_hooks_starting() || heddle_hooks_in_driver(caller)) return as_is;
  void *ours = (void *)e->wrapper;
  if (handle == RTLD_NEXT) {
    if (driver_loaded()) return heddle_hooks_start() && !heddle_hooks_real(e) ? nothing(real) : as_is;
    return real(RTLD_NEXT, name) ? as_is : nothing(real); // asked from here: is there one behind us?
  }
  void *found = real(handle, name);
  if (!found) return as_is; // once more, for dlerror
  if (found != ours && handle == RTLD_DEFAULT) return as_is;
  if (!driver_loaded()) {
    if (found != ours) return value(found);
    void *behind = real(RTLD_NEXT, name);
    return behind ? value(behind) : nothing(real);
  }
  if (!heddle_hooks_start()) return as_is;
  void *drivers = heddle_hooks_real(e);
  if (!drivers) return found == ours ? nothing(real) : value(found);
  if (found != ours && found != drivers) return value(found);
  return value(heddle_hooks_on() ? ours : drivers);
}

#if !defined(__x86_64__)
#error "dlsym's trampoline is written for x86-64 only: port the assembly below"
#endif
// In: handle in rdi, name in rsi, the caller's return address on the stack, where it stays.
__asm__(".text\n"
        ".globl dlsym\n"
        ".type dlsym, @function\n"
        ".p2align 4\n"
        "dlsym:\n"
        "  .cfi_startproc\n"
        "  endbr64\n"
        "  pushq %rdi\n"
        "  .cfi_adjust_cfa_offset 8\n"
        "  pushq %rsi\n"
        "  .cfi_adjust_cfa_offset 8\n"
        "  subq $8, %rsp\n" // calls want 16-byte alignment
        "  .cfi_adjust_cfa_offset 8\n"
        "  movq 24(%rsp), %rdx\n"
        "  call heddle_dlsym_decide\n"
        "  addq $8, %rsp\n"
        "  .cfi_adjust_cfa_offset -8\n"
        "  popq %rsi\n"
        "  .cfi_adjust_cfa_offset -8\n"
        "  popq %rdi\n"
        "  .cfi_adjust_cfa_offset -8\n"
        "  movq %rdx, %rdi\n"
        "  jmp *%rax\n"
        "  .cfi_endproc\n"
        ".size dlsym, .-dlsym\n");
