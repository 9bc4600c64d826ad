// Graphs run natively, in order with what was forwarded. Source: design.md section 4 "Capture"; CUDA driver API, cuGraphLaunch.
#include "code/code.h"
#include "hooks/hooks.h"
#include "hooks/hooks_gen.h"
#include "lane.h"

CUresult heddle_hook_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream) {
  CUresult r = heddle_code_graph_begin(hStream);
  if (r != CUDA_SUCCESS) return r;
  r = HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_GRAPH, heddle_real.cuGraphLaunch(hGraph, hStream));
  return heddle_code_graph_end(hStream, r);
}
