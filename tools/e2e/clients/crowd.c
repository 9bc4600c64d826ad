// Threads that allocate, free, load, unload and ask at the same time, each with contents of its own to check.
#include "client.h"

#include <pthread.h>

enum { THREADS = 6, SLOTS = 12 };
static char *text;

static void *life(void *arg) {
  uint64_t rnd = seed() * 977 + (uint64_t)(uintptr_t)arg;
  CK(cuCtxSetCurrent(context));
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr p[SLOTS] = {0};
  unsigned tag[SLOTS] = {0}, words[SLOTS] = {0};
  int ordered[SLOTS] = {0};
  void *pinned = NULL;
  CK(cuMemHostAlloc(&pinned, 4096, 0));
  for (unsigned i = 0; i < rounds(60); i++) {
    int k = (int)(random_next(&rnd) % SLOTS);
    if (!p[k]) {
      words[k] = 1 + random_next(&rnd) % (random_next(&rnd) % 5 ? 20000 : 1000000);
      tag[k] = random_next(&rnd);
      ordered[k] = random_next(&rnd) % 2;
      if (ordered[k]) CK(cuMemAllocAsync(&p[k], words[k] * 4, s));
      else CK(cuMemAlloc(&p[k], words[k] * 4));
      CK(cuMemsetD32Async(p[k], tag[k], words[k], s));
      continue;
    }
    unsigned check = words[k] < 1024 ? words[k] : 1024;
    CK(cuMemcpyDtoHAsync(pinned, p[k] + (words[k] - check) * 4, check * 4, s));
    if (ordered[k] && random_next(&rnd) % 2) CK(cuMemFreeAsync(p[k], s));
    else {
      CK(cuStreamSynchronize(s));
      CK(cuMemFree(p[k]));
    }
    p[k] = 0;
    CK(cuStreamSynchronize(s));
    for (unsigned j = 0; j < check; j++) CHECK(((unsigned *)pinned)[j] == tag[k]);
    if (i % 7 == 0) { // a module of its own for a moment
      CUmodule m;
      CUfunction fill;
      CUdeviceptr q;
      unsigned n = 500, one = 1, back[500];
      CK(cuModuleLoadData(&m, text));
      CK(cuModuleGetFunction(&fill, m, "fill"));
      CK(cuMemAlloc(&q, n * 4));
      LAUNCH(fill, 2, 256, 0, s, &q, &n, &one);
      CK(cuMemcpyDtoHAsync(back, q, sizeof back, s));
      CK(cuStreamSynchronize(s));
      CHECK(back[499] != back[498]);
      CK(cuModuleUnload(m));
      CK(cuMemFree(q));
    }
    if (i % 5 == 0) {
      CUdeviceptr base;
      size_t bytes;
      int other = (k + 1) % SLOTS;
      if (p[other]) CK(cuMemGetAddressRange(&base, &bytes, p[other] + 3));
      if (p[other]) CHECK(base == p[other]);
      CK(cuMemFreeHost(pinned));
      CK(cuMemHostAlloc(&pinned, 4096 + random_next(&rnd) % (3 << 20), 0));
    }
  }
  CK(cuStreamSynchronize(s)); // cuMemFree of stream-ordered memory waits for nothing
  for (int k = 0; k < SLOTS; k++) if (p[k]) CK(cuMemFree(p[k]));
  CK(cuMemFreeHost(pinned));
  CK(cuStreamDestroy(s));
  return NULL;
}

int main(void) {
  open_device();
  text = ptx_text("kernels.ptx");
  pthread_t t[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&t[i], NULL, life, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
  free(text);
  return finish("crowd");
}
