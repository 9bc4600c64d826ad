// A program that uses the driver's linker: culink OUTPUT OPTION INPUT…; option is -1 or a CUjit_option, inputs as jitlink.c's.
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define CHECK(call) do { int r = (int)(call); if (r) { fprintf(stderr, "%s: %d\n", #call, r); return 1; } } while (0)
int main(int argc, char **argv) {
  CUlinkState state;
  CUjit_option option = (CUjit_option)atoi(argv[2]);
  void *value = NULL;
  CHECK(cuInit(0));
  CHECK(cuLinkCreate((int)option >= 0, &option, &value, &state));
  for (int i = 3; i < argc; i++) {
    CUjitInputType type = (CUjitInputType)atoi(argv[i] + 5);
    const char *path = strchr(argv[i] + 5, ':') + 1;
    if (argv[i][0] == 'f') {
      CHECK(cuLinkAddFile(state, type, path, 0, NULL, NULL));
      continue;
    }
    FILE *f = fopen(path, "r");
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *b = calloc(1, n + 1);
    if (fread(b, 1, n, f) != n) return 1;
    CHECK(cuLinkAddData(state, type, b, n + 1, "k", 0, NULL, NULL));
    memset(b, 'x', n);
    free(b);
  }
  void *cubin;
  size_t n;
  CHECK(cuLinkComplete(state, &cubin, &n));
  FILE *f = fopen(argv[1], "w");
  if (!f || fwrite(cubin, 1, n, f) != n || fclose(f)) return 2;
  CHECK(cuLinkDestroy(state));
  return 0;
}
