// One line a failed check, exit status 1; used by the small programs of the resolution tests.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                              \
  do {                                                                        \
    if (!(x)) printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #x), exit(1); \
  } while (0)

static inline const char *home(void *p) {
  Dl_info info;
  const char *file = p && dladdr(p, &info) && info.dli_fname ? info.dli_fname : "nowhere";
  const char *slash = strrchr(file, '/');
  return slash ? slash + 1 : file;
}
#define IN(p, file) CHECK(strcmp(home(p), file) == 0)
