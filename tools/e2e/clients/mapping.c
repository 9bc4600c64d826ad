// The client's own virtual memory management, as PyTorch's expandable segments and JAX use it: one range of addresses that grows
// handle by handle, kernels and copies across the seams, unmapping in the middle, the same handle at another place, and the
// errors of wrong use.
#include "client.h"

enum { PIECES = 4 };

int main(void) {
  open_device();
  CUfunction fill = function("fill");
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
  CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  size_t g = 0;
  CK(cuMemGetAllocationGranularity(&g, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  CHECK(g > 0);
  uint64_t rnd = seed();
  CUdeviceptr base = 0, other = 0, aligned = 0;
  CK(cuMemAddressReserve(&base, 2 * PIECES * g, 0, 0, 0));
  CHECK(base % g == 0);
  CK(cuMemAddressReserve(&aligned, g, 16 * g, 0, 0));
  CHECK(aligned % (16 * g) == 0 && (aligned + g <= base || base + 2 * PIECES * g <= aligned));
  CUmemGenericAllocationHandle h[PIECES];
  for (int i = 0; i < PIECES; i++) {
    CK(cuMemCreate(&h[i], g, &prop, 0));
    CK(cuMemMap(base + i * g, g, 0, h[i], 0));
    CK(cuMemSetAccess(base + i * g, g, &access, 1));
  }
  for (unsigned round = 0; round < rounds(5); round++) {
    unsigned n = (unsigned)(PIECES * g / 4), value = random_next(&rnd);
    LAUNCH(fill, (n + 255) / 256, 256, 0, NULL, &base, &n, &value);
    unsigned words[8];
    CK(cuMemcpyDtoH(words, base + g - 16, sizeof words)); // across a seam
    digest(words, sizeof words);
    CK(cuMemsetD32(base + 2 * g - 64, ~value, 32));
    CK(cuMemcpyDtoD(base + 3 * g - 128, base + 2 * g - 64, 256));
    CK(cuMemcpyDtoH(words, base + 3 * g - 128, sizeof words));
    digest(words, sizeof words);
  }
  // A piece goes, and its contents come back with the handle, elsewhere. The driver does not wait for kernels here (17 us beside
  // a 10 ms kernel on an H200), so the program must.
  unsigned n = (unsigned)(g / 4), seven = 7;
  CUdeviceptr second = base + g;
  LAUNCH(fill, (n + 255) / 256, 256, 0, NULL, &second, &n, &seven);
  CK(cuCtxSynchronize());
  CK(cuMemUnmap(second, g));
  CK(cuMemMap(aligned, g, 0, h[1], 0));
  CK(cuMemSetAccess(aligned, g, &access, 1));
  digest_device(aligned, 4096);
  // Another piece in its place.
  CUmemGenericAllocationHandle fresh;
  CK(cuMemCreate(&fresh, g, &prop, 0));
  CK(cuMemMap(second, g, 0, fresh, 0));
  CK(cuMemSetAccess(second, g, &access, 1));
  CK(cuMemRelease(fresh)); // the mapping holds it
  unsigned all = (unsigned)(PIECES * g / 4), nine = 9;
  LAUNCH(fill, (all + 255) / 256, 256, 0, NULL, &base, &all, &nine);
  digest_device(base + g - 4096, 8192);
  digest_device(aligned, 64); // unchanged: not the same memory
  CUmemGenericAllocationHandle retained;
  CK(cuMemRetainAllocationHandle(&retained, (void *)(uintptr_t)aligned));
  CK(cuMemRelease(retained));
  CUmemAllocationProp found = {0};
  CK(cuMemGetAllocationPropertiesFromHandle(&found, h[0]));
  CHECK(found.type == prop.type && found.location.id == device);
  // A range larger than what was there before, of which little is ever mapped: PyTorch reserves more than the GPU has for every stream.
  CUdeviceptr wide = 0;
  size_t much = (size_t)300 << 30;
  CK(cuMemAddressReserve(&wide, much, 0, 0, 0));
  CK(cuMemMap(wide + much - g, g, 0, h[1], 0));
  CK(cuMemSetAccess(wide + much - g, g, &access, 1));
  CUdeviceptr last = wide + much - g;
  LAUNCH(fill, (n + 255) / 256, 256, 0, NULL, &last, &n, &nine);
  digest_device(last, 4096);
  CK(cuMemUnmap(last, g));
  CK(cuMemAddressFree(wide, much));
  // Wrong use, answered as natively.
  CHECK(cuMemMap(base, g, 0, h[2], 0) != CUDA_SUCCESS);           // taken
  CHECK(cuMemCreate(&fresh, g / 2, &prop, 0) != CUDA_SUCCESS);    // no multiple of the granularity
  CHECK(cuMemAddressReserve(&other, g / 2, 0, 0, 0) != CUDA_SUCCESS);
  CHECK(cuMemAddressFree(base + g, g) != CUDA_SUCCESS);
  for (int i = 0; i < PIECES; i++) {
    CK(cuMemUnmap(base + i * g, g));
    CK(cuMemRelease(h[i]));
  }
  CK(cuMemUnmap(aligned, g));
  CK(cuMemAddressFree(aligned, g));
  CK(cuMemAddressFree(base, 2 * PIECES * g));
  return finish("mapping");
}
