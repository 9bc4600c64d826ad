// The driver's linker: cuLink*. Source: CUDA driver API, "Module Management".
#include "../hooks/hooks.h"
#include "harvest.h"

// Options that change what is computed, or leave it to another compiler.
static bool plain(const CUjit_option *options, unsigned n) {
  for (unsigned i = 0; options && i < n; i++) {
    switch (options[i]) {
      case CU_JIT_FTZ:
      case CU_JIT_PREC_DIV:
      case CU_JIT_PREC_SQRT:
      case CU_JIT_FMA:
      case CU_JIT_LTO:
      case CU_JIT_GLOBAL_SYMBOL_NAMES:
      case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
      case CU_JIT_GLOBAL_SYMBOL_COUNT:
      case CU_JIT_POSITION_INDEPENDENT_CODE: return false;
      default: break;
    }
  }
  return true;
}

CUresult heddle_hook_cuLinkCreate_v2(unsigned int n, CUjit_option *options, void **values, CUlinkState *state) {
  struct heddle_harvest_made made = {"culink", true, !plain(options, n)};
  CUresult r = heddle_real.cuLinkCreate_v2(n, options, values, state);
  if (r == CUDA_SUCCESS && state) heddle_harvest_begin(*state, &made);
  return r;
}

CUresult heddle_hook_cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size, const char *name, unsigned int n,
                                      CUjit_option *options, void **values) {
  CUresult r = heddle_real.cuLinkAddData_v2(state, type, data, size, name, n, options, values);
  if (!plain(options, n)) heddle_harvest_odd(state);
  heddle_harvest_input(state, r == CUDA_SUCCESS && type == CU_JIT_INPUT_PTX ? data : NULL, size);
  return r;
}

CUresult heddle_hook_cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path, unsigned int n, CUjit_option *options,
                                      void **values) {
  CUresult r = heddle_real.cuLinkAddFile_v2(state, type, path, n, options, values);
  if (!plain(options, n)) heddle_harvest_odd(state);
  heddle_harvest_input_file(state, r == CUDA_SUCCESS && type == CU_JIT_INPUT_PTX, path);
  return r;
}

CUresult heddle_hook_cuLinkComplete(CUlinkState state, void **cubin, size_t *size) {
  CUresult r = heddle_real.cuLinkComplete(state, cubin, size);
  if (r == CUDA_SUCCESS && cubin && *cubin && size) heddle_harvest_end(state, *cubin, *size);
  return r;
}
