// What the driver says about pointers, and the codes of wrong calls: printed, because they must be the same.
#include "client.h"

static void say(const char *what, CUdeviceptr p, CUdeviceptr base) {
  unsigned type = 99, managed = 99;
  int ordinal = 99;
  CUdeviceptr start = 0, device_pointer = 0;
  void *host = NULL;
  size_t size = 0;
  CUcontext ctx = NULL;
  unsigned long long id = 0;
  int r[8];
  r[0] = cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p);
  r[1] = cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, p);
  r[2] = cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, p);
  r[3] = cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, p);
  r[4] = cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, p);
  r[5] = cuPointerGetAttribute(&ctx, CU_POINTER_ATTRIBUTE_CONTEXT, p);
  r[6] = cuPointerGetAttribute(&device_pointer, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, p);
  r[7] = cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, p);
  printf("%s: codes", what);
  for (int i = 0; i < 8; i++) printf(" %d", r[i]);
  if (!r[0]) printf("; type %u", type);
  if (!r[1]) printf(", device %d", ordinal);
  if (!r[2]) printf(", managed %u", managed != 0 && managed != 99);
  if (!r[3]) printf(", begins %s", start == base ? "there" : "elsewhere");
  if (!r[4]) printf(", %zu bytes", size);
  if (!r[5]) printf(", context %s", ctx == context ? "ours" : ctx ? "another" : "none");
  if (!r[6]) printf(", same on the device %d", device_pointer == p);
  if (!r[7]) printf(", has an id %d", id != 0);
  (void)host;
  printf("\n");
  unsigned types[2] = {77, 77};
  CUpointer_attribute wanted[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED};
  void *where[] = {&types[0], &types[1]};
  int code = cuPointerGetAttributes(2, wanted, where, p);
  printf("%s, at once: %d, %u %u\n", what, code, types[0], types[1] & 0xff);
}

int main(void) {
  open_device();
  CUdeviceptr small[3], large, pitched, base;
  size_t pitch, bytes;
  for (int i = 0; i < 3; i++) CK(cuMemAlloc(&small[i], 1000));
  CK(cuMemAlloc(&large, 5 << 20));
  CK(cuMemAllocPitch(&pitched, &pitch, 1000, 3, 4));
  printf("pitch %zu\n", pitch);
  say("a small one", small[1], small[1]);
  say("inside a small one", small[1] + 500, small[1]);
  say("inside a large one", large + (3 << 20), large);
  say("a pitched one", pitched, pitched);
  CK(cuMemGetAddressRange(&base, &bytes, small[2] + 999));
  printf("range %d %zu\n", base == small[2], bytes);
  CUdeviceptr apart[2] = {0};
  CK(cuPointerGetAttribute(&apart[0], CU_POINTER_ATTRIBUTE_BUFFER_ID, small[0]));
  CK(cuPointerGetAttribute(&apart[1], CU_POINTER_ATTRIBUTE_BUFFER_ID, small[1]));
  printf("ids differ %d\n", apart[0] != apart[1]);

  void *pinned;
  unsigned flags = 0;
  CUdeviceptr on_device;
  CK(cuMemHostAlloc(&pinned, 3000, CU_MEMHOSTALLOC_DEVICEMAP));
  CK(cuMemHostGetDevicePointer(&on_device, pinned, 0));
  CK(cuMemHostGetFlags(&flags, pinned));
  printf("pinned: same address %d, mapped %d\n", on_device == (CUdeviceptr)(uintptr_t)pinned, (flags & CU_MEMHOSTALLOC_DEVICEMAP) != 0);
  unsigned type = 0;
  CK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)pinned));
  printf("pinned is of type %u\n", type);
  int local = 0;
  printf("pageable: %d\n", cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&local));

  printf("no bytes %d, no pointer %d, free of 0: %d\n", cuMemAlloc(&base, 0), cuMemAlloc(NULL, 5), cuMemFree(0));
  printf("too much: %d\n", cuMemAlloc(&base, (size_t)1 << 45));
  printf("pitch of an odd element: %d\n", cuMemAllocPitch(&base, &pitch, 100, 1, 3));
  printf("free inside: %d\n", cuMemFree(small[0] + 16));
  printf("free of host memory: %d\n", cuMemFree((CUdeviceptr)(uintptr_t)&local));
  CK(cuMemFree(small[0]));
  printf("free twice: %d\n", cuMemFree(small[0]));
  printf("range of freed memory: %d\n", cuMemGetAddressRange(&base, &bytes, small[0]));
  printf("host free inside: %d\n", cuMemFreeHost((char *)pinned + 64));
  CK(cuMemFreeHost(pinned));
  printf("host free twice: %d\n", cuMemFreeHost(pinned));
  printf("host free of a local: %d\n", cuMemFreeHost(&local));
  static char registered[8192] __attribute__((aligned(4096)));
  CK(cuMemHostRegister(registered, sizeof registered, 0));
  printf("registered twice: %d\n", cuMemHostRegister(registered, sizeof registered, 0));
  CK(cuMemHostUnregister(registered));
  printf("unregistered twice: %d\n", cuMemHostUnregister(registered));
  size_t free1, free2, total;
  CK(cuMemGetInfo(&free1, &total));
  CK(cuMemFree(large));
  CK(cuMemGetInfo(&free2, &total));
  printf("freeing frees: %d\n", free2 - free1 >= 5 << 20);
  return finish("queries");
}
