// Linked with the driver. Prints what a call answers, and through which libraries RTLD_DEFAULT leads.
#include "check.h"
int cuMemAlloc_v2(unsigned long long *, size_t);
int main(void) {
  unsigned long long p;
  printf("%d %s\n", cuMemAlloc_v2(&p, 1), home(dlsym(RTLD_DEFAULT, "cuMemAlloc_v2")));
  puts("end");
  return 0;
}
