// RTLD_DEEPBIND puts a library's own dependencies before the preload: its calls by linking pass Heddle by. Documented, not mended.
#define _GNU_SOURCE
#include "check.h"
int main(void) {
  void *plain = dlopen("libuser.so", RTLD_NOW | RTLD_LOCAL);
  CHECK(plain);
  printf("%d ", ((int (*)(void))dlsym(plain, "use"))() >= 200000);
  dlclose(plain);
  void *deep = dlopen("libdeepuser.so", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  CHECK(deep);
  printf("%d\n", ((int (*)(void))dlsym(deep, "use"))() >= 200000);
  return 0;
}
