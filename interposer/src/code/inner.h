// What the files of code/ share. Nobody else includes this; the rest of the library sees code.h.
//
// Locks, outermost first: ask_lock (one question to the daemon at a time) → heddle_code_lock (the tables). No request and no
// driver call happens under heddle_code_lock, because finishing alone calls heddle_code_native from inside a request that failed.
#ifndef HEDDLE_CODE_INNER_H
#define HEDDLE_CODE_INNER_H

#include <cuda.h>
#include <pthread.h>

#include "code.h"
#include "fatbin.h"
#include "table.h"

enum { HEDDLE_FUNC_ATTRIBUTES = 16 };

// One loaded image: what a module or library was made from. Never freed (functions may still name it); its bytes are.
struct heddle_image {
  enum heddle_container container;
  const void *bytes;           // NULL: unknown or given up
  size_t size;                 // 0: not looked at yet (a fat binary that stays in the file it was mapped from)
  bool owned;                  // bytes are our copy
  bool library;                // outlives contexts
  _Atomic bool dead;           // unloaded
  _Atomic uint8_t native;      // enum heddle_native_reason: every kernel runs natively, for good
  _Atomic uint32_t mirrored;   // bit d: globals of device d were given to the client at the executor's address
  _Atomic uint32_t forwarded;  // bit d: the executor of device d knows a kernel of it
  _Atomic uint32_t stateful;   // bit d: the executor of device d says that kernels or the host can write device globals of it
  _Atomic uint32_t went_native;// bit d: a kernel of it ran or will run natively on device d
  uint64_t id[HEDDLE_MAX_DEVICES]; // the daemon's, 0 unknown; guarded by ask_lock
  uint64_t nonce;              // not 0: appended to what is sent, so that the image has an instance of its own
  uint64_t hash0;              // of what was sent
  struct heddle_global *globals; // guarded by heddle_code_lock
};

// A device global that lives in the executor.
struct heddle_global {
  struct heddle_global *next;
  CUdevice device;
  CUdeviceptr address; // in the executor
  CUdeviceptr native;  // of this process's own instance
  CUdeviceptr scratch; // memory of the window through which values pass; 0 until needed
  size_t bytes;
  char name[];
};

// A module or library handle and its image. Begins with its handle (table.h).
struct heddle_owner {
  const void *handle;
  struct heddle_image *image;
  CUcontext context; // of a module
};

// A function or kernel handle. Begins with its handle, which is fn.handle.
struct heddle_record {
  struct heddle_function fn;
  struct heddle_image *image;  // NULL: we never saw its image
  _Atomic uint32_t asked;      // without an image: heddle_code_seen when the driver was asked whose it is
  struct heddle_record *kernel;// of a CUfunction from cuKernelGetFunction
  CUcontext context;           // of a CUfunction: it ends with it
  char *name;
  _Atomic int ready;           // fn is complete
  _Atomic int attribute[HEDDLE_FUNC_ATTRIBUTES];
  _Atomic uint32_t attributes; // bit a: the client set attribute a
};
_Static_assert(offsetof(struct heddle_record, fn) == 0 && offsetof(struct heddle_function, handle) == 0, "records begin with their handle");

extern pthread_mutex_t heddle_code_lock;
// Rises whenever an image or a kernel becomes known: a handle of which nothing was known before may be one of its.
extern _Atomic uint32_t heddle_code_seen;

// ---- image.c ----
// The image behind a module or library handle; NULL: unknown.
struct heddle_image *heddle_image_of_module(CUmodule m);
struct heddle_image *heddle_image_of_library(CUlibrary l);
// The daemon's id of an image on s, sending it at first use (ask_lock held). 0: *why says why not.
uint64_t heddle_image_id(struct heddle_session *s, struct heddle_image *image, enum heddle_native_reason *why);
// Visits every loaded image under heddle_code_lock until visit says true.
void heddle_images_each(bool (*visit)(struct heddle_image *image, void *arg), void *arg);
// Makes every kernel of the image native for good.
void heddle_image_give_up(struct heddle_image *image, enum heddle_native_reason why);
// ---- function.c ----
// Forgets every function of an image that is being unloaded (after the drain).
void heddle_functions_forget(struct heddle_image *image);
// Forgets the functions of a context that is gone.
void heddle_functions_context_gone(CUcontext context);
// Every kernel of the image is native from now on (why != NONE), or asks the daemon again (NONE). ask_lock held.
void heddle_functions_reset(struct heddle_image *image, enum heddle_native_reason why);
// Serialises questions to the daemon; see above.
void heddle_ask_lock(void);
void heddle_ask_unlock(void);
struct heddle_image *heddle_function_image(const struct heddle_function *f);
// ---- globals.c ----
void heddle_globals_forget(struct heddle_image *image);

#endif
