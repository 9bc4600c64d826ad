// A driver that lacks newer functions: nobody may find them, by any route.
#include "check.h"
#include <cuda.h>
int main(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  CHECK(driver);
  CHECK(!dlsym(driver, "cuEventElapsedTime_v2") && dlerror());
  CHECK(!dlsym(RTLD_DEFAULT, "cuEventElapsedTime_v2") && dlerror());
  CHECK(!dlsym(RTLD_NEXT, "cuEventElapsedTime_v2") && dlerror());
  CHECK(!dlsym(dlopen(NULL, RTLD_LAZY), "cuEventElapsedTime_v2") && dlerror());
  IN(dlsym(RTLD_DEFAULT, "cuEventElapsedTime"), "libheddle.so");
  void *p = NULL;
  CUdriverProcAddressQueryResult status;
  CUresult (*v2)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) = dlsym(driver, "cuGetProcAddress_v2");
  IN((void *)v2, "libheddle.so");
  CHECK(v2("cuMemcpyBatchAsync", &p, 13000, 0, &status) == CUDA_SUCCESS && !p && status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  CHECK(v2("cuEventElapsedTime", &p, 13000, 0, NULL) == CUDA_SUCCESS);
  IN(p, "libheddle.so");
  // Asked for itself, it gives itself, and that one substitutes too.
  CHECK(v2("cuGetProcAddress", &p, 13000, 0, &status) == CUDA_SUCCESS && p == (void *)v2);
  CHECK(v2("cuGetProcAddress", &p, 11030, 0, &status) == CUDA_SUCCESS && p == dlsym(driver, "cuGetProcAddress"));
  CHECK(v2("cuNoSuchThing", &p, 13000, 0, &status) == CUDA_SUCCESS && !p);
  CHECK(v2("cuGetExportTable", &p, 13000, 0, &status) == CUDA_SUCCESS);
  IN(p, "libcuda.so.1");
  // A form newer than this build: the driver's own, and one line in the log.
  CHECK(v2("cuMemAlloc", &p, 99000, 0, &status) == CUDA_SUCCESS && p == dlsym(driver, "cuMemAlloc_v9"));
  IN(p, "libcuda.so.1");
  puts("right");
  return 0;
}
