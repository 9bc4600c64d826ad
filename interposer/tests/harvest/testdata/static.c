// A library with NVRTC's functions inside, as one that was linked to the static NVRTC and exports everything has them; a program
// that uses it, with -DPROGRAM. Exit 0: the library's calls reach its own functions.
int with_nvrtc(void);
#ifdef PROGRAM
int main(void) { return with_nvrtc(); }
#else
int nvrtcCompileProgram(void *program, int count, const char *const *options);
int nvrtcGetCUBIN(void *program, char *cubin);
__attribute__((noipa)) int nvrtcCompileProgram(void *program, int count, const char *const *options) {
  (void)options;
  *(int *)program = 7;
  return count == 0 ? 1000 : 0;
}
__attribute__((noipa)) int nvrtcGetCUBIN(void *program, char *cubin) {
  *cubin = 1;
  return *(int *)program == 7 ? 2000 : 0;
}
int with_nvrtc(void) {
  int program = 0;
  char cubin = 0;
  return nvrtcCompileProgram(&program, 0, 0) != 1000 || nvrtcGetCUBIN(&program, &cubin) != 2000 || !cubin;
}
#endif
