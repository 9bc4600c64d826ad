// dlsym keeps its meaning: handles, RTLD_DEFAULT, RTLD_NEXT, errors, names that are not CUDA's. Not linked with the driver.
#define _GNU_SOURCE
#include "check.h"

int main(int argc, char **argv) {
  int heddle = argc > 1 && strcmp(argv[1], "heddle") == 0;
  const char *ours = heddle ? "libheddle.so" : "libcuda.so.1";

  // Before the driver is loaded nobody has CUDA, although libheddle.so exports it.
  dlerror();
  CHECK(!dlsym(RTLD_DEFAULT, "cuInit"));
  const char *error = dlerror();
  CHECK(error && strstr(error, "cuInit"));
  CHECK(!dlsym(RTLD_NEXT, "cuInit"));
  error = dlerror();
  CHECK(error && strstr(error, "cuInit"));
  void *self = dlopen(NULL, RTLD_LAZY);
  CHECK(self && !dlsym(self, "cuMemAlloc_v2"));
  CHECK(dlerror());
  CHECK(!dlerror());
  CHECK(!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD)); // and asking has not loaded it
  dlerror();

  // Other names.
  CHECK(dlsym(RTLD_DEFAULT, "puts") == (void *)puts);
  CHECK(dlsym(RTLD_NEXT, "malloc"));
  CHECK(strncmp(home(dlsym(RTLD_NEXT, "a64l")), "libc.so", 7) == 0);
  CHECK(!dlsym(RTLD_DEFAULT, "cublasCreate_v2") && !dlsym(RTLD_DEFAULT, "cu") && !dlsym(RTLD_DEFAULT, "c") && !dlsym(RTLD_DEFAULT, ""));
  dlerror();

  // A private driver, as the CUDA runtime loads it: visible by its handle.
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  CHECK(driver);
  IN(dlsym(driver, "cuMemAlloc_v2"), ours);
  CHECK(!dlerror());
  IN(dlsym(driver, "cuMemAlloc_v2"), ours); // every time
  IN(dlsym(driver, "cuDeviceGetCount"), "libcuda.so.1"); // class pass
  CHECK(!dlsym(driver, "cuMemAlloc_v8") && dlerror());
  CHECK(!dlsym(driver, "cuMemAlloc_v2 ") && dlerror());

  // A public one.
  CHECK(dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) == driver);
  IN(dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"), ours);
  IN(dlsym(RTLD_NEXT, "cuMemAlloc_v2"), ours);
  IN(dlsym(self, "cuMemAlloc_v2"), ours);
  IN(dlsym(RTLD_DEFAULT, "cuDeviceGetCount"), "libcuda.so.1");

  // Another library with a function of that name is not the driver.
  void *stranger = dlopen("libstranger.so", RTLD_NOW | RTLD_LOCAL);
  CHECK(stranger);
  IN(dlsym(stranger, "cuMemAlloc_v2"), "libstranger.so");
  int *driver_wrong = dlsym(driver, "double_own_lookups");
  CHECK(driver_wrong && *driver_wrong == 0);
  int (*init)(unsigned) = dlsym(driver, "cuInit");
  CHECK(init && init(0) == 0);
  CHECK(*driver_wrong == 0); // its own lookups during cuInit
  puts("right");
  return 0;
}
