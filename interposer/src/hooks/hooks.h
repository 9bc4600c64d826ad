// Between the program and the driver: what wrappers, resolution and the hooks' owners share.
// Source: design.md section 4 "Resolution"; table.toml for the classes.
#ifndef HEDDLE_HOOKS_H
#define HEDDLE_HOOKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hooks_gen.h"
#include "real_gen.h"

#define heddle_likely(x) __builtin_expect(!!(x), 1)
#define heddle_unlikely(x) __builtin_expect(!!(x), 0)

// ---- state of the process ----
enum heddle_hooks_state {
  HEDDLE_HOOKS_UNUSED = 0, // nobody called the driver yet; heddle_real is empty
  HEDDLE_HOOKS_OFF,        // loaded; every wrapper calls the driver straight: HEDDLE_DISABLE, a tool, or a forked child
  HEDDLE_HOOKS_ON,         // loaded; hooks decide
};
extern _Atomic int heddle_hooks_state; // pairs with the release in heddle_hooks_start

static inline bool heddle_hooks_on(void) {
  return heddle_likely(atomic_load_explicit(&heddle_hooks_state, memory_order_acquire) == HEDDLE_HOOKS_ON);
}
// Loads the driver at the first use by anybody. Lock-free: a thread inside the dynamic linker may get here.
// Returns false when there is no driver on this machine.
bool heddle_hooks_start(void);
// Switches every hook off for the rest of the process (a tool attached, a forked child). Wrappers then call the driver straight.
void heddle_hooks_off(void);
// The result for a function that this driver lacks; logs once.
CUresult heddle_hooks_missing(const char *symbol);
// Class refuse: true while this process forwards (logs once what to do instead); false: run natively.
bool heddle_hooks_refuse(const char *symbol, const char *why);

static inline CUstream heddle_hooks_stream(CUstream s, CUstream implicit) { return s ? s : implicit; }

// A wrapper: `then` when hooks are on. What the first use needs is a function of its own, so that every later use saves no
// registers for it. Exported as protected: our own references (the table's pointers) stay ours when another preload defines
// the same symbol.
#define HEDDLE_WRAP(symbol, parameters, arguments, then)                                                          \
  static __attribute__((cold, noinline)) CUresult first_##symbol parameters {                                     \
    heddle_hooks_start();                                                                                         \
    if (!heddle_real.symbol) return heddle_hooks_missing(#symbol);                                                \
    return heddle_hooks_on() ? (then) : heddle_real.symbol arguments;                                             \
  }                                                                                                               \
  __attribute__((visibility("protected"))) CUresult symbol parameters {                                           \
    if (heddle_unlikely(!heddle_hooks_on() || !heddle_real.symbol)) return first_##symbol arguments;              \
    CUresult result = (then);                                                                                     \
    if (heddle_unlikely(atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0))                 \
      heddle_hooks_captured(#symbol, result);                                                                     \
    return result;                                                                                                \
  }

// ---- capture ----
// Captures that this process began through the public API and has not ended. 0: no stream captures, no need to ask the driver.
// Above 0: ask (heddle_real.cuStreamIsCapturing). May stay too high after a capture that ended by error; never too low.
extern _Atomic int heddle_hooks_captures;
// A hook returned while a stream captures. At log level debug: names it when it failed, or when a capture is invalid since.
void heddle_hooks_captured(const char *symbol, CUresult result);

// ---- the table ----
enum heddle_class { HEDDLE_CLASS_PASS, HEDDLE_CLASS_HOOK, HEDDLE_CLASS_ORDER, HEDDLE_CLASS_REFUSE };
struct heddle_entry {
  const char *name;      // exported symbol: cuMemcpyHtoDAsync_v2_ptsz
  const char *base;      // what cuGetProcAddress is asked for: cuMemcpyHtoDAsync
  void (*wrapper)(void); // ours; NULL for class pass
  uint16_t real;         // offset in struct heddle_real
  uint8_t cls;           // enum heddle_class
  uint8_t version;       // _v2 → 2; none → 1
  uint8_t per_thread;    // _ptsz, _ptds
  int since;             // CUDA version of this variant; 0: the header does not tell
};
extern const struct heddle_entry heddle_entries[HEDDLE_ENTRIES]; // sorted by name

// Exact name; NULL: not an entry point of the header.
const struct heddle_entry *heddle_hooks_by_name(const char *name);
// Functions that the driver's resolver gave out and that cuda.h does not know (newer than this build, or of cudaGL.h, cudaEGL.h,
// cudaProfiler.h): they run natively.
extern _Atomic unsigned heddle_hooks_unknown;
// Somebody looks for an entry point that is not in the table. Logged, and where it might begin a capture, taken as one.
void heddle_hooks_unknown_name(const char *name);
// The pointer to give out instead of what the driver's resolver returned for `base` (NULL: no name known). `found` itself when
// it is not one of the functions we wrap, or when hooks are off.
void *heddle_hooks_substitute(void *found, const char *base, bool per_thread);
#endif
