// Both symbol versions of dlsym lead to ours: programs built before and after glibc 2.34.
#include "check.h"
void *old_dlsym(void *, const char *);
void *new_dlsym(void *, const char *);
__asm__(".symver old_dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver new_dlsym, dlsym@GLIBC_2.34");
int main(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  CHECK(driver);
  IN(old_dlsym(driver, "cuMemAlloc_v2"), "libheddle.so");
  IN(new_dlsym(driver, "cuMemAlloc_v2"), "libheddle.so");
  // Who looks for libc's own dlsym by version gets libc's.
  CHECK(strncmp(home(dlvsym(RTLD_DEFAULT, "dlsym", "GLIBC_2.34")), "libc.so", 7) == 0);
  CHECK(strncmp(home(dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5")), "libc.so", 7) == 0);
  puts("right");
  return 0;
}
