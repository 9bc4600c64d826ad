// Changes of executable graphs: once the driver has taken one, the description follows; the graph is given to the executor anew
// before its next launch. Launches under way keep the old one. Source: CUDA driver API, cuGraphExecUpdate and cuGraphExec*SetParams,
// cuGraphNodeSetEnabled, cuGraphExecEventRecordNodeSetEvent, cuGraphExecEventWaitNodeSetEvent.
#include "../hooks/hooks_gen.h"
#include "inner.h"

// Which node a handle names after cuGraphExecUpdate is for the driver to say: of the graph that was given then, or of the one that the
// executable graph was made from, whose nodes it pairs with the new ones by rules of its own. We know only the graph given last; a
// change that names another node makes the executable graph native.
static struct heddle_node *node_of(struct heddle_exec *x, CUgraphNode handle) {
  struct heddle_node *n = x->description == NULL ? NULL : heddle_description_find(x->description, handle);
  if (n == NULL && x->description != NULL) heddle_exec_describe(x, NULL, NULL, HEDDLE_NATIVE_GRAPH);
  return n;
}

static void child_events(struct heddle_graph_events *to, CUgraph child) {
  struct heddle_graph_events e = {0};
  heddle_graph_events(child, &e);
  for (uint32_t i = 0; i < e.nrecord; i++) heddle_graph_event_set(to, true, e.record[i]);
  for (uint32_t i = 0; i < e.nwait; i++) heddle_graph_event_set(to, false, e.wait[i]);
  heddle_graph_events_free(&e);
}

enum change { KERNEL, MEMSET, COPY, CHILD, ENABLED, HOST, MEMOPS, RECORD, WAIT };

// The driver took the change. `params` is what the call was given.
static void follow(CUgraphExec exec, CUgraphNode node, enum change what, const void *params) {
  struct heddle_exec *x = heddle_exec_hold(exec);
  if (x == NULL) return;
  heddle_mutex_lock(&x->lock);
  struct heddle_node *n = node_of(x, node);
  CUstreamCaptureMode mode = heddle_capture_relax();
  if (n != NULL) {
    switch (what) {
    case KERNEL: heddle_node_set_kernel(x->session, x->context, n, params); break;
    case MEMSET: heddle_node_set_memset(x->session, n, params); break;
    case COPY: heddle_node_set_copy(x->session, n, params); break;
    case HOST: heddle_node_set_host(n, params); break;
    case MEMOPS: heddle_node_set_memops(x->context, n, params); break;
    case RECORD: heddle_node_set_event(n, HEDDLE_STEP_RECORD, (CUevent)(uintptr_t)params); break;
    case WAIT: heddle_node_set_event(n, HEDDLE_STEP_WAIT, (CUevent)(uintptr_t)params); break;
    case ENABLED: n->enabled = *(const unsigned int *)params != 0; break;
    case CHILD: {
      enum heddle_native_reason why;
      struct heddle_description *child = heddle_describe(x->session, x->context, (CUgraph)(uintptr_t)params, &why);
      // Whether disabled nodes stay so is the driver's to know.
      if (child == NULL || n->child == NULL || heddle_description_any_disabled(n->child)) {
        heddle_description_free(child);
        heddle_exec_describe(x, NULL, NULL, child == NULL ? why : HEDDLE_NATIVE_GRAPH);
      } else {
        heddle_description_forget_names(child); // its nodes go on being named by the graph that was there before
        heddle_description_free(n->child);
        n->child = child;
      }
      break;
    }
    }
    if (x->description != NULL) heddle_exec_changed(x);
    if (x->description != NULL && (what == RECORD || what == WAIT || what == CHILD)) {
      heddle_graph_events_free(&x->events);
      heddle_description_events(x->description, &x->events);
    }
  }
  // Of a graph that is not known any more; what a node had before it neither records nor waits for.
  if (x->description == NULL && (what == RECORD || what == WAIT))
    heddle_graph_event_set(&x->events, what == RECORD, (struct heddle_graph_event){node, (CUevent)(uintptr_t)params});
  if (x->description == NULL && what == CHILD) child_events(&x->events, (CUgraph)(uintptr_t)params);
  heddle_capture_restore(mode);
  heddle_mutex_unlock(&x->lock);
  heddle_exec_release(x);
}

CUresult heddle_hook_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams) {
  CUresult r = heddle_real.cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, nodeParams);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, KERNEL, nodeParams);
  return r;
}

CUresult heddle_hook_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams) {
  CUresult r = heddle_real.cuGraphExecKernelNodeSetParams(hGraphExec, hNode, nodeParams);
  if (r != CUDA_SUCCESS) return r;
  CUDA_KERNEL_NODE_PARAMS p = {.func = nodeParams->func, .gridDimX = nodeParams->gridDimX, .gridDimY = nodeParams->gridDimY,
                               .gridDimZ = nodeParams->gridDimZ, .blockDimX = nodeParams->blockDimX, .blockDimY = nodeParams->blockDimY,
                               .blockDimZ = nodeParams->blockDimZ, .sharedMemBytes = nodeParams->sharedMemBytes,
                               .kernelParams = nodeParams->kernelParams, .extra = nodeParams->extra};
  follow(hGraphExec, hNode, KERNEL, &p);
  return r;
}

CUresult heddle_hook_cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx) {
  CUresult r = heddle_real.cuGraphExecMemsetNodeSetParams(hGraphExec, hNode, memsetParams, ctx);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, MEMSET, memsetParams);
  return r;
}

CUresult heddle_hook_cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D *copyParams, CUcontext ctx) {
  CUresult r = heddle_real.cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, copyParams, ctx);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, COPY, copyParams);
  return r;
}

CUresult heddle_hook_cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph) {
  CUresult r = heddle_real.cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, childGraph);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, CHILD, childGraph);
  return r;
}

CUresult heddle_hook_cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams) {
  CUresult r = heddle_real.cuGraphExecHostNodeSetParams(hGraphExec, hNode, nodeParams);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, HOST, nodeParams);
  return r;
}

CUresult heddle_hook_cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event) {
  CUresult r = heddle_real.cuGraphExecEventRecordNodeSetEvent(hGraphExec, hNode, event);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, RECORD, event);
  return r;
}

CUresult heddle_hook_cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event) {
  CUresult r = heddle_real.cuGraphExecEventWaitNodeSetEvent(hGraphExec, hNode, event);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, WAIT, event);
  return r;
}

CUresult heddle_hook_cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams) {
  CUresult r = heddle_real.cuGraphExecBatchMemOpNodeSetParams(hGraphExec, hNode, nodeParams);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, MEMOPS, nodeParams);
  return r;
}

CUresult heddle_hook_cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled) {
  CUresult r = heddle_real.cuGraphNodeSetEnabled(hGraphExec, hNode, isEnabled);
  if (r == CUDA_SUCCESS) follow(hGraphExec, hNode, ENABLED, &isEnabled);
  return r;
}

CUresult heddle_hook_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraphNodeParams *nodeParams) {
  CUresult r = heddle_real.cuGraphExecNodeSetParams(hGraphExec, hNode, nodeParams);
  if (r != CUDA_SUCCESS) return r;
  switch (nodeParams->type) {
  case CU_GRAPH_NODE_TYPE_KERNEL: {
    const CUDA_KERNEL_NODE_PARAMS_v3 *k = &nodeParams->kernel;
    CUDA_KERNEL_NODE_PARAMS p = {.func = k->func, .gridDimX = k->gridDimX, .gridDimY = k->gridDimY, .gridDimZ = k->gridDimZ, .blockDimX = k->blockDimX,
                                 .blockDimY = k->blockDimY, .blockDimZ = k->blockDimZ, .sharedMemBytes = k->sharedMemBytes,
                                 .kernelParams = k->kernelParams, .extra = k->extra, .kern = k->kern, .ctx = k->ctx};
    follow(hGraphExec, hNode, KERNEL, &p);
    break;
  }
  case CU_GRAPH_NODE_TYPE_MEMSET: {
    const CUDA_MEMSET_NODE_PARAMS_v2 *m = &nodeParams->memset;
    CUDA_MEMSET_NODE_PARAMS p = {.dst = m->dst, .pitch = m->pitch, .value = m->value, .elementSize = m->elementSize, .width = m->width, .height = m->height};
    follow(hGraphExec, hNode, MEMSET, &p);
    break;
  }
  case CU_GRAPH_NODE_TYPE_MEMCPY: follow(hGraphExec, hNode, COPY, &nodeParams->memcpy.copyParams); break;
  case CU_GRAPH_NODE_TYPE_GRAPH: follow(hGraphExec, hNode, CHILD, nodeParams->graph.graph); break;
  case CU_GRAPH_NODE_TYPE_HOST: {
    CUDA_HOST_NODE_PARAMS p = {nodeParams->host.fn, nodeParams->host.userData};
    follow(hGraphExec, hNode, HOST, &p);
    break;
  }
  case CU_GRAPH_NODE_TYPE_EVENT_RECORD: follow(hGraphExec, hNode, RECORD, nodeParams->eventRecord.event); break;
  case CU_GRAPH_NODE_TYPE_WAIT_EVENT: follow(hGraphExec, hNode, WAIT, nodeParams->eventWait.event); break;
  case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
    CUDA_BATCH_MEM_OP_NODE_PARAMS p = {.ctx = nodeParams->memOp.ctx, .count = nodeParams->memOp.count, .paramArray = nodeParams->memOp.paramArray,
                                       .flags = nodeParams->memOp.flags};
    follow(hGraphExec, hNode, MEMOPS, &p);
    break;
  }
  default: break; // a graph with a node of another kind is native anyway
  }
  return r;
}

// The whole graph has the parameters of another of the same shape.
static void updated(CUgraphExec exec, CUgraph graph) {
  struct heddle_exec *x = heddle_exec_hold(exec);
  if (x == NULL) return;
  heddle_mutex_lock(&x->lock);
  if (x->description != NULL) {
    enum heddle_native_reason why = HEDDLE_NATIVE_GRAPH;
    struct heddle_description *d = NULL;
    // Whether disabled nodes stay so is the driver's to know.
    if (x->hasty >= HEDDLE_HASTY) why = HEDDLE_NATIVE_GRAPH_CHANGES;
    else if (!heddle_description_any_disabled(x->description)) d = heddle_describe(x->session, x->context, graph, &why);
    heddle_exec_describe(x, d, graph, why);
  } else {
    heddle_exec_describe(x, NULL, graph, x->why);
  }
  heddle_mutex_unlock(&x->lock);
  heddle_exec_release(x);
}

// The driver lets go of what the old graph kept alive: launches of it may be under way in the executor.
static void before_update(CUgraphExec exec) {
  struct heddle_exec *x = heddle_exec_hold(exec);
  if (x == NULL) return;
  heddle_mutex_lock(&x->lock);
  heddle_exec_before_release(x);
  heddle_mutex_unlock(&x->lock);
  heddle_exec_release(x);
}

CUresult heddle_hook_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo) {
  before_update(hGraphExec);
  CUresult r = heddle_real.cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo);
  if (r == CUDA_SUCCESS) updated(hGraphExec, hGraph);
  return r;
}

CUresult heddle_hook_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out) {
  before_update(hGraphExec);
  CUresult r = heddle_real.cuGraphExecUpdate(hGraphExec, hGraph, hErrorNode_out, updateResult_out);
  if (r == CUDA_SUCCESS) updated(hGraphExec, hGraph);
  return r;
}
