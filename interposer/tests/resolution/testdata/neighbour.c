// Another preload that wraps a driver function and finds the next one by RTLD_NEXT, and puts by the same way.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
int cuMemAlloc_v2(unsigned long long *p, size_t n) {
  int (*next)(unsigned long long *, size_t) = (int (*)(unsigned long long *, size_t))dlsym(RTLD_NEXT, "cuMemAlloc_v2");
  return next ? 10000000 + next(p, n) : -1;
}
int puts(const char *s) {
  int (*next)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "puts");
  return next(s);
}
