// What the driver-API programs share: clock, percentiles, error check, module from a file.
#ifndef HEDDLE_GPUTEST_PROGRAM_H
#define HEDDLE_GPUTEST_PROGRAM_H
#define _GNU_SOURCE
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static inline double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
static inline const char *error_name(CUresult r) {
  const char *s = 0;
  cuGetErrorName(r, &s);
  return s ? s : "?";
}
#define CK(x)                                                                           \
  do {                                                                                  \
    CUresult r_ = (x);                                                                  \
    if (r_) {                                                                           \
      fprintf(stderr, "%s:%d %s: %d %s\n", __FILE__, __LINE__, #x, r_, error_name(r_)); \
      _exit(1);                                                                         \
    }                                                                                   \
  } while (0)
static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}
// Sorts v and returns its q-quantile.
static inline double quantile(double *v, int n, double q) {
  if (n <= 0) return -1;
  qsort(v, n, sizeof *v, by_value);
  int i = (int)(n * q);
  return v[i < n ? i : n - 1];
}
static inline CUcontext context_open(void) {
  CUdevice d;
  CUcontext c;
  CK(cuInit(0));
  CK(cuDeviceGet(&d, 0));
  CK(cuDevicePrimaryCtxRetain(&c, d));
  CK(cuCtxSetCurrent(c));
  return c;
}
static inline CUmodule module_open(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) {
    fprintf(stderr, "cannot open %s\n", path);
    _exit(1);
  }
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  rewind(f);
  char *b = malloc(n + 1);
  if (fread(b, 1, n, f) != (size_t)n) {
    fprintf(stderr, "cannot read %s\n", path);
    _exit(1);
  }
  b[n] = 0;
  fclose(f);
  CUmodule m;
  CK(cuModuleLoadData(&m, b));
  free(b);
  return m;
}
static inline CUfunction function_of(CUmodule m, const char *n) {
  CUfunction f;
  CK(cuModuleGetFunction(&f, m, n));
  return f;
}
#endif
