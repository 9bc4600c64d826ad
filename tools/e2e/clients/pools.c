// Memory pools and stream-ordered memory between streams: accounts, thresholds, blocks that pass from one stream to another by an
// event, freeing by the other kind of call, wrong pointers.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill");
  CUmemoryPool standard, own;
  CK(cuDeviceGetDefaultMemPool(&standard, device));
  CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
  CK(cuMemPoolCreate(&own, &props));
  cuuint64_t keep = UINT64_MAX, used = 0, high = 0;
  CK(cuMemPoolSetAttribute(own, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
  CUstream s[2];
  CUevent e;
  for (int i = 0; i < 2; i++) CK(cuStreamCreate(&s[i], CU_STREAM_NON_BLOCKING));
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  uint64_t rnd = seed();
  for (unsigned round = 0; round < rounds(20); round++) {
    CUdeviceptr p[6];
    unsigned n[6];
    for (int i = 0; i < 6; i++) {
      n[i] = 64 + random_next(&rnd) % 60000;
      if (i % 2) CK(cuMemAllocFromPoolAsync(&p[i], n[i] * 4, own, s[i % 2]));
      else CK(cuMemAllocAsync(&p[i], n[i] * 4, s[i % 2]));
      for (int j = 0; j < i; j++) CHECK(p[i] + n[i] * 4 <= p[j] || p[j] + n[j] * 4 <= p[i]);
      unsigned value = round * 100 + (unsigned)i;
      LAUNCH(fill, (n[i] + 255) / 256, 256, 0, s[i % 2], &p[i], &n[i], &value);
    }
    CK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    CHECK(used >= (n[1] + n[3] + n[5]) * 4ull);
    // Made in one stream, read and freed in the other.
    CK(cuEventRecord(e, s[0]));
    CK(cuStreamWaitEvent(s[1], e, 0));
    unsigned words[6][4];
    for (int i = 0; i < 6; i++) {
      CK(cuMemcpyDtoHAsync(words[i], p[i] + (n[i] - 4) * 4, 16, s[1]));
      CK(cuMemFreeAsync(p[i], s[1]));
    }
    CK(cuStreamSynchronize(s[1]));
    digest(words, sizeof words);
  }
  CK(cuStreamSynchronize(s[0]));
  CK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  CK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high));
  CHECK(used == 0 && high > 0);
  CK(cuMemPoolTrimTo(own, 0));
  // Stream-ordered memory may be freed by cuMemFree, and the other way round.
  CUdeviceptr a, b;
  CK(cuMemAllocAsync(&a, 4096, s[0]));
  CK(cuMemsetD8Async(a, 1, 4096, s[0]));
  CK(cuStreamSynchronize(s[0])); // cuMemFree of stream-ordered memory waits for nothing
  CK(cuMemFree(a));
  CK(cuMemAlloc(&b, 4096));
  CK(cuMemFreeAsync(b, s[0]));
  printf("nothing: %d %d\n", cuMemAllocAsync(&a, 0, s[0]), cuMemAllocAsync(NULL, 16, s[0]));
  CK(cuStreamSynchronize(s[0]));
  CK(cuMemPoolDestroy(own));
  for (int i = 0; i < 2; i++) CK(cuStreamDestroy(s[i]));
  return finish("pools");
}
