// A full device: allocations of every kind until nothing is left, the right code when it is, and everything usable again after
// freeing, in other sizes than before.
#include "client.h"

enum { MOST = 4096 };
static CUdeviceptr p[MOST];

static int fill_up(size_t bytes, CUresult *why) {
  int n = 0;
  while (n < MOST && (*why = cuMemAlloc(&p[n], bytes)) == CUDA_SUCCESS) n++;
  return n;
}
static void empty(int n) {
  while (n > 0) CK(cuMemFree(p[--n]));
}

int main(void) {
  open_device();
  CUfunction fill = function("fill");
  size_t free_bytes, total, after;
  CUresult why;
  CUstream s;
  CUdeviceptr a;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuMemGetInfo(&free_bytes, &total));
  size_t sizes[] = {free_bytes / 7, free_bytes / 3 + 12345, free_bytes / 50, free_bytes / 5};
  for (unsigned i = 0; i < 4; i++) {
    int n = fill_up(sizes[i], &why);
    printf("%u: at least %d, then %d\n", i, n >= (int)(free_bytes / sizes[i]) - 1, why);
    unsigned words = 1000, value = i;
    LAUNCH(fill, 4, 256, 0, NULL, &p[n - 1], &words, &value);
    digest_device(p[n - 1], 4000);
    printf("stream-ordered: %d\n", cuMemAllocAsync(&a, sizes[i], s));
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
    CUmemGenericAllocationHandle h;
    printf("handle: %d\n", cuMemCreate(&h, (sizes[i] + (2 << 20)) & ~(size_t)((2 << 20) - 1), &prop, 0));
    empty(n);
    // Half by the stream, half by handle, in sizes that nothing above had.
    CK(cuMemAllocAsync(&a, free_bytes / 2 - (32 << 20), s));
    CK(cuMemFreeAsync(a, s));
    CK(cuStreamSynchronize(s));
  }
  CK(cuMemPoolTrimTo((CUmemoryPool){0}, 0) == CUDA_SUCCESS ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS);
  CUmemoryPool pool;
  CK(cuDeviceGetDefaultMemPool(&pool, device));
  CK(cuMemPoolTrimTo(pool, 0));
  CK(cuMemGetInfo(&after, &total));
  printf("all is free again: %d\n", after + (64 << 20) >= free_bytes);
  return finish("full");
}
