// A program that links with nvJitLink, which it finds with dlsym: jitlink LIBRARY VERSION OUTPUT [OPTION…] -- INPUT…, where an
// input is data:TYPE:PATH or file:TYPE:PATH. Output - fetches no result.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *library;
static const char *version;
static void *find(const char *name) {
  char full[128];
  snprintf(full, sizeof full, "%s%s%s", *version ? "__" : "", name, version);
  void *p = dlsym(library, full);
  if (!p) { fprintf(stderr, "%s: %s\n", full, dlerror()); exit(1); }
  return p;
}
#define CALL(name, types, ...) do { int r = ((int (*) types)find(#name))(__VA_ARGS__); if (r) { fprintf(stderr, "%s: %d\n", #name, r); return 1; } } while (0)

static char *slurp(const char *path, size_t *n) {
  FILE *f = fopen(path, "r");
  if (!f) { perror(path); exit(1); }
  fseek(f, 0, SEEK_END);
  *n = (size_t)ftell(f);
  rewind(f);
  char *b = calloc(1, *n + 1);
  if (fread(b, 1, *n, f) != *n) exit(1);
  fclose(f);
  return b;
}

int main(int argc, char **argv) {
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
  version = argv[2];
  int i = 4, options = 4;
  while (i < argc && strcmp(argv[i], "--") != 0) i++;
  void *handle = NULL;
  CALL(nvJitLinkCreate, (void **, uint32_t, const char **), &handle, (uint32_t)(i - options), (const char **)argv + options);
  for (i++; i < argc; i++) {
    int type = atoi(argv[i] + 5);
    const char *path = strchr(argv[i] + 5, ':') + 1;
    if (argv[i][0] == 'f') {
      CALL(nvJitLinkAddFile, (void *, int, const char *), handle, type, path);
    } else {
      size_t n;
      char *b = slurp(path, &n);
      CALL(nvJitLinkAddData, (void *, int, const void *, size_t, const char *), handle, type, b, n + (type == 2), "k");
      memset(b, 'x', n); // whoever kept the pointer only has lost the text
      free(b);
    }
  }
  CALL(nvJitLinkComplete, (void *), handle);
  size_t n = 0;
  CALL(nvJitLinkGetLinkedCubinSize, (void *, size_t *), handle, &n);
  char *cubin = malloc(n);
  CALL(nvJitLinkGetLinkedCubin, (void *, void *), handle, cubin);
  CALL(nvJitLinkDestroy, (void **), &handle);
  FILE *f = fopen(argv[3], "w");
  return !f || fwrite(cubin, 1, n, f) != n || fclose(f);
}
