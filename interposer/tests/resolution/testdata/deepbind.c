// RTLD_DEEPBIND puts a library's own dependencies before the preload: libcuda for its calls by linking, and libc for its dlsym.
// Documented, not mended. Prints for each of two ways, without and with the flag, whether the call reached Heddle.
#define _GNU_SOURCE
#include "check.h"

static void load(const char *name, int flags) {
  void *user = dlopen(name, RTLD_NOW | RTLD_LOCAL | flags);
  CHECK(user);
  int (*linked)(void) = (int (*)(void))dlsym(user, "use"), (*named)(void) = (int (*)(void))dlsym(user, "use_by_name");
  printf("%d %d\n", linked() >= 200000, named() >= 200000);
}

int main(void) {
  load("libuser.so", 0);
  load("libdeepuser.so", RTLD_DEEPBIND);
  return 0;
}
