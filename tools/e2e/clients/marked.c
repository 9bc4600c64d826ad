// Marks its requests, by two threads at once, nested, ended before their work is done, too many and unbalanced. Marks change no
// result, and a program that lies in them hurts nobody.
#include "client.h"

#include <heddle.h>
#include <pthread.h>

enum { N = 4096 };
static CUfunction fill;

static void *serve(void *arg) {
  CUdeviceptr *out = arg;
  CUstream s;
  CK(cuCtxSetCurrent(context));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  unsigned n = N;
  for (unsigned i = 0; i < 60; i++) {
    unsigned x = seed() + i;
    heddle_request_begin(i % 2 ? "odd" : "even");
    LAUNCH(fill, 16, 256, 0, s, out, &n, &x);
    heddle_request_begin("inner");
    LAUNCH(fill, 16, 256, 0, s, out, &n, &x);
    heddle_request_end();
    if (i % 3 == 0) CK(cuStreamSynchronize(s));
    heddle_request_end();
    if (i % 5 == 0) heddle_request_end();
  }
  CK(cuStreamSynchronize(s));
  heddle_request_begin("never ends");
  return NULL;
}

int main(void) {
  heddle_request_begin("before everything");
  open_device();
  heddle_request_end();
  fill = function("fill");
  pthread_t t[2];
  CUdeviceptr out[2];
  for (int i = 0; i < 2; i++) {
    CK(cuMemAlloc(&out[i], N * 4));
    pthread_create(&t[i], NULL, serve, &out[i]);
  }
  for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
  // A flood of marks: they fill the ring several times over, and there is nothing between them.
  for (int i = 0; i < 200000; i++) {
    heddle_request_begin("flood");
    heddle_request_end();
  }
  for (int i = 0; i < 2; i++) digest_device(out[i], N * 4);
  printf("%016llx\n", (unsigned long long)digest_state);
  return 0;
}
