// What every client program shares: a driver-API program as a user would write
// it, linked against libcuda.so.1, that knows nothing of Heddle. Each prints a
// digest of all it computed; the same program run natively must print the same.
#ifndef E2E_CLIENT_H
#define E2E_CLIENT_H

#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CK(call)                                                                              \
  do {                                                                                        \
    CUresult r_ = (call);                                                                     \
    if (r_ != CUDA_SUCCESS) {                                                                 \
      const char *n_ = NULL;                                                                  \
      cuGetErrorName(r_, &n_);                                                                \
      fprintf(stderr, "%s:%d: %s: %d %s\n", __FILE__, __LINE__, #call, r_, n_ ? n_ : "?");    \
      exit(r_ == CUDA_ERROR_LAUNCH_FAILED ? 77 : 1); /* 77: the named error of lost work */   \
    }                                                                                         \
  } while (0)

#define CHECK(cond)                                                               \
  do {                                                                            \
    if (!(cond)) {                                                                \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond);        \
      exit(1);                                                                    \
    }                                                                             \
  } while (0)

static CUdevice device;
static CUcontext context;
static CUmodule kernels;

// The PTX text of a file in $E2E_KERNELS; the caller's to free.
static inline char *ptx_text(const char *name) {
  const char *dir = getenv("E2E_KERNELS");
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir ? dir : ".", name);
  FILE *f = fopen(path, "rb");
  if (!f) { perror(path); exit(1); }
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  rewind(f);
  char *text = malloc((size_t)n + 1);
  if (!text || fread(text, 1, (size_t)n, f) != (size_t)n) { perror(path); exit(1); }
  text[n] = 0;
  fclose(f);
  return text;
}

static inline void open_device(void) {
  CK(cuInit(0));
  CK(cuDeviceGet(&device, 0));
  CK(cuDevicePrimaryCtxRetain(&context, device));
  CK(cuCtxSetCurrent(context));
  char *text = ptx_text("kernels.ptx");
  CK(cuModuleLoadData(&kernels, text));
  free(text);
}

static inline CUfunction function(const char *name) {
  CUfunction f;
  CK(cuModuleGetFunction(&f, kernels, name));
  return f;
}

#define LAUNCH(f, blocks, threads, shared, stream, ...)                                                        \
  do {                                                                                                         \
    void *args_[] = {__VA_ARGS__};                                                                             \
    CK(cuLaunchKernel((f), (blocks), 1, 1, (threads), 1, 1, (shared), (stream), args_, NULL));                 \
  } while (0)

static uint64_t digest_state = 0xcbf29ce484222325ull;
static inline void digest(const void *p, size_t n) {
  const unsigned char *b = p;
  for (size_t i = 0; i < n; i++) digest_state = (digest_state ^ b[i]) * 0x100000001b3ull;
}
static inline void digest_device(CUdeviceptr p, size_t n) {
  void *h = malloc(n);
  CHECK(h);
  CK(cuMemcpyDtoH(h, p, n));
  digest(h, n);
  free(h);
}
static inline int finish(const char *what) {
  printf("%s %016llx\n", what, (unsigned long long)digest_state);
  return 0;
}

// A small random source, the same everywhere.
static inline uint32_t random_next(uint64_t *s) {
  *s = *s * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(*s >> 33);
}

// How much to do: $E2E_ROUNDS times the program's own measure.
static inline unsigned rounds(unsigned measure) {
  const char *r = getenv("E2E_ROUNDS");
  return measure * (r ? (unsigned)atoi(r) : 1);
}
static inline uint32_t seed(void) {
  const char *s = getenv("E2E_SEED");
  return s ? (uint32_t)strtoul(s, NULL, 10) : 1;
}

#endif
