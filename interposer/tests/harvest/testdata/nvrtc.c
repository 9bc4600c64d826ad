// A program that compiles a kernel with NVRTC: nvrtc SOURCE CUBIN OPTION…. Built twice: linked to libnvrtc, and with -DLIBRARY=
// the path of one that it opens.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef void *program;
#ifdef LIBRARY
#define FUNCTION(name, ...) static int (*name)(__VA_ARGS__);
#else
#define FUNCTION(name, ...) extern int name(__VA_ARGS__);
#endif
FUNCTION(nvrtcCreateProgram, program *, const char *, const char *, int, const char *const *, const char *const *)
FUNCTION(nvrtcCompileProgram, program, int, const char *const *)
FUNCTION(nvrtcGetCUBINSize, program, size_t *)
FUNCTION(nvrtcGetCUBIN, program, char *)
FUNCTION(nvrtcDestroyProgram, program *)

#define CHECK(call) do { int r = (call); if (r) { fprintf(stderr, "%s: %d\n", #call, r); return 1; } } while (0)

int main(int argc, char **argv) {
#ifdef LIBRARY
  void *h = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!h) return fprintf(stderr, "%s\n", dlerror()), 1;
  if (dlsym(RTLD_DEFAULT, "nvrtcGetCUBIN") != dlsym(h, "nvrtcGetCUBIN") && dlsym(RTLD_DEFAULT, "nvrtcGetErrorString")) return 2;
#define FIND(name) if (!(name = dlsym(h, #name))) return fprintf(stderr, "%s\n", dlerror()), 1
  FIND(nvrtcCreateProgram); FIND(nvrtcCompileProgram); FIND(nvrtcGetCUBINSize); FIND(nvrtcGetCUBIN); FIND(nvrtcDestroyProgram);
#endif
  program p;
  size_t n = 0;
  CHECK(nvrtcCreateProgram(&p, argv[1], "k.cu", 0, NULL, NULL));
  CHECK(nvrtcCompileProgram(p, argc - 3, (const char *const *)argv + 3));
  CHECK(nvrtcGetCUBINSize(p, &n));
  char *cubin = malloc(n);
  CHECK(nvrtcGetCUBIN(p, cubin));
  FILE *f = fopen(argv[2], "w");
  if (!f || fwrite(cubin, 1, n, f) != n || fclose(f)) return 3;
  CHECK(nvrtcDestroyProgram(&p));
  return 0;
}
