// A random program over streams: every buffer's history is a chain of steps that
// do not commute, spread over blocking, non-blocking and default streams and
// ordered by nothing but events, waits and the default stream's own rules. Any
// order that CUDA does not allow shows in the digest.
#include "client.h"

enum { STREAMS = 6, BUFFERS = 5, N = 777 };

static CUstream stream[STREAMS + 3]; // then the legacy stream by both names, and the per-thread one
static int blocking[STREAMS + 3];
static CUdeviceptr buffer[BUFFERS];
static int last[BUFFERS]; // the stream that last touched a buffer, -1 none
static CUfunction step, combine;
static uint64_t rnd;

static int is_legacy(int s) { return s == STREAMS || s == STREAMS + 1; }

// The default stream orders itself against every blocking stream, both ways.
static int ordered_by_itself(int from, int to) {
  if (from == to || (is_legacy(from) && is_legacy(to))) return 1;
  return (is_legacy(from) && blocking[to]) || (is_legacy(to) && blocking[from]);
}

static void follow(int b, int s) {
  static CUevent pool[64];
  static unsigned next;
  if (last[b] >= 0 && !ordered_by_itself(last[b], s)) {
    switch (random_next(&rnd) % 4) {
      case 0: // the host in between
        CK(cuStreamSynchronize(stream[last[b]]));
        break;
      default: {
        CUevent *e = &pool[next++ % 64];
        if (*e) CK(cuEventDestroy(*e)); // destroyed while waits for it are pending: legal
        CK(cuEventCreate(e, random_next(&rnd) % 2 ? CU_EVENT_DISABLE_TIMING : CU_EVENT_DEFAULT));
        CK(cuEventRecord(*e, stream[last[b]]));
        CK(cuStreamWaitEvent(stream[s], *e, 0));
        break;
      }
    }
  }
  last[b] = s;
}

int main(void) {
  open_device();
  step = function("step");
  combine = function("combine");
  rnd = seed() * 7919u + 17;
  unsigned n = N, fill_seed = 3;
  CUfunction fill = function("fill");
  for (int i = 0; i < STREAMS; i++) {
    blocking[i] = i % 2 == 0;
    CK(cuStreamCreateWithPriority(&stream[i], blocking[i] ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING, i % 3 == 0 ? -1 : 0));
  }
  stream[STREAMS] = 0; stream[STREAMS + 1] = CU_STREAM_LEGACY; stream[STREAMS + 2] = CU_STREAM_PER_THREAD;
  blocking[STREAMS + 2] = 1;
  for (int b = 0; b < BUFFERS; b++) {
    CK(cuMemAlloc(&buffer[b], N * 4));
    LAUNCH(fill, 4, 256, 0, 0, &buffer[b], &n, &fill_seed);
    last[b] = STREAMS;
  }
  static unsigned host[N];
  for (unsigned i = 0; i < rounds(160); i++) {
    int b = (int)(random_next(&rnd) % BUFFERS), s = (int)(random_next(&rnd) % (STREAMS + 3)), c = (b + 1) % BUFFERS;
    unsigned k = i, kind = random_next(&rnd) % 16;
    if (kind == 4) { // query is allowed to say either, and nothing else; it orders nothing, so the buffer's last stream stays
      CUresult q = cuStreamQuery(stream[s]);
      CHECK(q == CUDA_SUCCESS || q == CUDA_ERROR_NOT_READY);
      continue;
    }
    follow(b, s);
    switch (kind) {
      case 0: // small copy out and in, on the stream
        CK(cuMemcpyDtoHAsync(host, buffer[b], N * 4, stream[s]));
        CK(cuStreamSynchronize(stream[s]));
        digest(host, sizeof host);
        host[i % N] += 1;
        CK(cuMemcpyHtoDAsync(buffer[b], host, N * 4, stream[s]));
        CK(cuStreamSynchronize(stream[s])); // host is used again
        break;
      case 1:
        CK(cuMemsetD32Async(buffer[b] + 400, i, 10, stream[s]));
        break;
      case 2:
        follow(c, s);
        CK(cuMemcpyDtoDAsync(buffer[b], buffer[c], N * 2, stream[s]));
        break;
      case 3:
        follow(c, s);
        LAUNCH(combine, 4, 256, 0, stream[s], &buffer[b], &buffer[c], &buffer[c], &n);
        break;
      case 5: // the rare whole wait
        if (i % 3 == 0) CK(cuCtxSynchronize());
        LAUNCH(step, 4, 256, 0, stream[s], &buffer[b], &n, &k);
        break;
      default:
        LAUNCH(step, 4, 256, 0, stream[s], &buffer[b], &n, &k);
    }
  }
  for (int i = 0; i < STREAMS; i++) CK(cuStreamDestroy(stream[i])); // with work pending: legal, the work is done
  CK(cuCtxSynchronize());
  for (int b = 0; b < BUFFERS; b++) digest_device(buffer[b], N * 4);
  return finish("streams");
}
