// Uses no CUDA: resolves a name. Nothing of Heddle may show. argv[1]: a library to load late.
#include "check.h"
int main(int argc, char **argv) {
  if (argc > 1) CHECK(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL));
  CHECK(dlsym(RTLD_DEFAULT, "malloc"));
  puts("right");
  return 0;
}
