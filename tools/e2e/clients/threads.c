// Threads: each has a stream of its own, then all share one; allocations and
// events come and go meanwhile.
#include "client.h"

#include <pthread.h>

enum { THREADS = 6, N = 600 };
static CUfunction fill, step;
static uint64_t result[THREADS];
static CUstream shared;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static CUdeviceptr common;

static void *work(void *arg) {
  unsigned id = (unsigned)(uintptr_t)arg, n = N, one = 1;
  CK(cuCtxSetCurrent(context));
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr p;
  CK(cuMemAlloc(&p, N * 4));
  LAUNCH(fill, 3, 256, 0, s, &p, &n, &id);
  for (unsigned i = 0; i < rounds(40); i++) {
    unsigned k = i * THREADS + id;
    LAUNCH(step, 3, 256, 0, s, &p, &n, &k);
    if (i % 10 == 3) {
      CUdeviceptr q;
      CUevent e;
      CK(cuMemAlloc(&q, 1000 + 4096 * i));
      CK(cuEventCreate(&e, 0));
      CK(cuEventRecord(e, s));
      CK(cuEventSynchronize(e));
      CK(cuEventDestroy(e));
      CK(cuMemFree(q));
    }
    pthread_mutex_lock(&turn); // the same step whoever comes: the order does not matter
    LAUNCH(step, 3, 256, 0, shared, &common, &n, &one);
    pthread_mutex_unlock(&turn);
    if (i % 16 == 5) { // this thread's own default stream, ordered against s by the host
      CK(cuStreamSynchronize(s));
      LAUNCH(fill, 3, 256, 0, CU_STREAM_PER_THREAD, &p, &n, &id);
      CK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    }
  }
  static unsigned host[THREADS][N];
  CK(cuMemcpyDtoHAsync(host[id], p, N * 4, s));
  CK(cuStreamSynchronize(s));
  uint64_t h = 0;
  for (unsigned i = 0; i < N; i++) h = h * 31 + host[id][i];
  result[id] = h;
  CK(cuMemFree(p));
  CK(cuStreamDestroy(s));
  return NULL;
}

int main(void) {
  open_device();
  fill = function("fill");
  step = function("step");
  CK(cuStreamCreate(&shared, CU_STREAM_NON_BLOCKING));
  CK(cuMemAlloc(&common, N * 4));
  CK(cuMemsetD32Async(common, 7, N, shared));
  pthread_t t[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&t[i], NULL, work, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
  digest(result, sizeof result);
  CK(cuStreamSynchronize(shared));
  digest_device(common, N * 4);
  return finish("threads");
}
