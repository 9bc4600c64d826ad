// Memory that others made: legacy IPC of native processes, imports, graph memory. None of it lies in a window, so kernels that use it run
// natively.
#include "../hooks/hooks.h"
#include "../log.h"
#include "inner.h"

// Records what the driver serves at an address, when this device forwards.
static void foreign_here(CUdeviceptr address, size_t bytes) {
  CUdevice device = 0;
  if (!address || heddle_real.cuCtxGetDevice(&device) != CUDA_SUCCESS || !heddle_memory_of(heddle_session_current())) return;
  CUdeviceptr base = address;
  size_t whole = bytes;
  if (!bytes && heddle_real.cuMemGetAddressRange_v2(&base, &whole, address) != CUDA_SUCCESS) return;
  heddle_foreign_add(device, base, whole);
}

CUresult heddle_hook_cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr) {
  CUresult r;
  return heddle_share(pHandle, dptr, &r) ? r : heddle_real.cuIpcGetMemHandle(pHandle, dptr);
}

CUresult heddle_hook_cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
  CUresult r;
  if (heddle_share_open(pdptr, &handle, Flags, &r)) return r;
  r = heddle_real.cuIpcOpenMemHandle_v2(pdptr, handle, Flags);
  if (r == CUDA_SUCCESS) foreign_here(*pdptr, 0);
  return r;
}

CUresult heddle_hook_cuIpcCloseMemHandle(CUdeviceptr dptr) {
  CUresult r;
  if (heddle_share_close(dptr, &r)) return r;
  r = heddle_real.cuIpcCloseMemHandle(dptr);
  if (r == CUDA_SUCCESS) heddle_foreign_drop(dptr);
  return r;
}

CUresult heddle_hook_cuExternalMemoryGetMappedBuffer(CUdeviceptr *devPtr, CUexternalMemory extMem, const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *bufferDesc) {
  CUresult r = heddle_real.cuExternalMemoryGetMappedBuffer(devPtr, extMem, bufferDesc);
  if (r == CUDA_SUCCESS) foreign_here(*devPtr, bufferDesc->size);
  return r;
}

CUresult heddle_hook_cuGraphicsResourceGetMappedPointer_v2(CUdeviceptr *pDevPtr, size_t *pSize, CUgraphicsResource resource) {
  CUresult r = heddle_real.cuGraphicsResourceGetMappedPointer_v2(pDevPtr, pSize, resource);
  if (r == CUDA_SUCCESS && pDevPtr && pSize) foreign_here(*pDevPtr, *pSize);
  return r;
}

CUresult heddle_hook_cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
  CUdeviceptr address = 0;
  size_t size = 0;
  CUresult r = heddle_real.cuLibraryGetManaged(&address, &size, library, name);
  if (r != CUDA_SUCCESS) return r;
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  foreign_here(address, size);
  return r;
}

CUresult heddle_hook_cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                            CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams) {
  CUresult r = heddle_real.cuGraphAddMemAllocNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
  if (r == CUDA_SUCCESS) foreign_here(nodeParams->dptr, nodeParams->bytesize);
  return r;
}

CUresult heddle_hook_cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                    CUgraphNodeParams *nodeParams) {
  CUresult r = heddle_real.cuGraphAddNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
  if (r == CUDA_SUCCESS && nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) foreign_here(nodeParams->alloc.dptr, nodeParams->alloc.bytesize);
  return r;
}

CUresult heddle_hook_cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
                                       size_t numDependencies, CUgraphNodeParams *nodeParams) {
  CUresult r = heddle_real.cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
  if (r == CUDA_SUCCESS && nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) foreign_here(nodeParams->alloc.dptr, nodeParams->alloc.bytesize);
  return r;
}
