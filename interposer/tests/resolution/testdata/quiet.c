// Uses no CUDA: allocates, forks, resolves. Nothing of Heddle may show.
#include "check.h"
int main(void) {
  CHECK(dlsym(RTLD_DEFAULT, "malloc"));
  puts("right");
  return 0;
}
