#include <dlfcn.h>
int cuMemAlloc_v2(unsigned long long *, unsigned long);
int use(void) { unsigned long long p; return cuMemAlloc_v2(&p, 1); }
int use_by_name(void) {
  unsigned long long p;
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  int (*alloc)(unsigned long long *, unsigned long) = (int (*)(unsigned long long *, unsigned long))dlsym(driver, "cuMemAlloc_v2");
  return alloc(&p, 1);
}
