// Asks for every entry point by one route and calls what it gets. Prints one line a wrong answer, then the number of right ones.
// argv[1]: link | dlsym | v1 | v2. argv[2]: "off" when hooks are off: resolvers then give the driver's own.
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "each.h"

typedef int (*any)(long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long);

int main(int argc, char **argv) {
  const char *route = argc > 1 ? argv[1] : "";
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) return puts(dlerror()), 1;
  int right = 0, wrong = 0;
  CUresult (*v1)(const char *, void **, int, cuuint64_t) = dlsym(driver, "cuGetProcAddress");
  CUresult (*v2)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) = dlsym(driver, "cuGetProcAddress_v2");
  for (const struct each *e = each; e->name; e++) {
    void *p = NULL;
    cuuint64_t flags = e->per_thread ? CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM : CU_GET_PROC_ADDRESS_DEFAULT;
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;
    if (strcmp(route, "link") == 0) p = e->address;
    else if (strcmp(route, "dlsym") == 0) p = dlsym(driver, e->name);
    else if (!e->since) continue; // the header does not tell by which version this form is asked for
    else if (strcmp(route, "v1") == 0 && v1(e->base, &p, e->since, flags)) p = NULL;
    else if (strcmp(route, "v2") == 0 && (v2(e->base, &p, e->since, flags, &status) || status != CU_GET_PROC_ADDRESS_SUCCESS)) p = NULL;
    if (!p) {
      printf("%s: not found\n", e->name);
      wrong++;
      continue;
    }
    Dl_info info;
    const char *home = dladdr(p, &info) && info.dli_fname ? info.dli_fname : "?";
    int ours = strstr(home, "libheddle") != NULL;
    if (e->own) { // has a body: not called here, only its home counts
      int want = e->wrapped && !(argc > 2 && strcmp(argv[2], "off") == 0 && strcmp(route, "link") != 0);
      if (ours == want) right++;
      else wrong++, printf("%s: lies in %s\n", e->name, home);
      continue;
    }
    int got = ((any)p)(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    if (got == e->answer) right++;
    else wrong++, printf("%s: answered %d, want %d (in %s)\n", e->name, got, e->answer, home);
  }
  printf("%d right, %d wrong\n", right, wrong);
  return wrong != 0;
}
