// Marks of a program's requests for Heddle's scheduler (docs/requests.md). Optional: without marks requests are found from where
// the program waits for the GPU. The header is all that a program needs: it links to nothing of Heddle's, and where libheddle.so is
// not loaded both functions do nothing. With a glibc before 2.34 link with -ldl.
//
//   heddle_request_begin("chat");
//   ... launches, copies ...
//   heddle_request_end();
//
// A request is everything that the process submits to its GPUs between the two calls. It is over when all of that is done on the
// GPU, so the end may be marked without waiting for it. Each thread marks requests of its own; inside a request further begins only
// need their ends: the outermost pair counts.
#ifndef HEDDLE_H
#define HEDDLE_H

#include <dlfcn.h>

// Finds a function of libheddle.so among the symbols of the process, once: *known is then the function, or known itself for none.
static inline void *heddle_find_(void **known, const char *name) {
  void *f = __atomic_load_n(known, __ATOMIC_ACQUIRE);
  if (f == (void *)0) {
    f = dlsym((void *)0, name); // RTLD_DEFAULT, which needs _GNU_SOURCE
    if (f == (void *)0) f = (void *)known;
    __atomic_store_n(known, f, __ATOMIC_RELEASE);
  }
  return f == (void *)known ? (void *)0 : f;
}

// A request begins in the calling thread. label (UTF-8, at most 31 bytes of it are kept, may be null) says what kind of request it
// is: requests that do the same work should have the same. Costs less than 100 ns; waits only when the program is as far ahead of
// the GPU as a launch may be.
static inline void heddle_request_begin(const char *label) {
  static void *known;
  union {
    void *found;
    void (*call)(const char *);
  } f;
  f.found = heddle_find_(&known, "heddle_request_begin");
  if (f.found) f.call(label);
}

// The calling thread's request has no further work. Without a begin it does nothing.
static inline void heddle_request_end(void) {
  static void *known;
  union {
    void *found;
    void (*call)(void);
  } f;
  f.found = heddle_find_(&known, "heddle_request_end");
  if (f.found) f.call();
}

#endif
