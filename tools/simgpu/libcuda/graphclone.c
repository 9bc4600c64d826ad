/* graphclone.c: copies of graphs, graphs within graphs, and nodes by CUgraphNodeParams. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

/* ---- copies ---- */

/* A copy of n in g, without dependencies. It keeps n's id, by which executable graphs know it. */
static struct sim_node *copy_node(struct sim_graph *g, const struct sim_node *n)
{
    struct sim_request req;
    struct sim_node *c = sim_node_new(g, n->type, NULL, 0);
    if (!c)
        return NULL;
    c->id = n->id;
    c->origin = n->id;
    CUresult res = CUDA_SUCCESS;
    if (n->work.op) {
        sim_work_request(&n->work, &req);
        res = sim_work_copy(&c->work, &req);
        c->work.event = n->work.event;
    }
    if (res == CUDA_SUCCESS && n->type == CU_GRAPH_NODE_TYPE_KERNEL)
        res = sim_node_set_kernel(c, &req, n->u.kernel.func ? n->u.kernel.func : (CUfunction)n->u.kernel.kern);
    else if (n->type != CU_GRAPH_NODE_TYPE_GRAPH)
        c->u = n->u;
    if (res == CUDA_SUCCESS && n->type == CU_GRAPH_NODE_TYPE_GRAPH) {
        c->u.child = sim_graph_clone(n->u.child);
        if (c->u.child)
            c->u.child->owned = true;
        else
            res = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (res == CUDA_SUCCESS && n->copy) {
        c->copy = malloc(sizeof *c->copy);
        if (c->copy)
            *c->copy = *n->copy;
        else
            res = CUDA_ERROR_OUT_OF_MEMORY;
    }
    return res == CUDA_SUCCESS ? c : NULL; /* a half-made node goes with its graph */
}

struct sim_graph *sim_graph_clone(const struct sim_graph *g)
{
    struct sim_graph *c = sim_graph_new();
    if (!c)
        return NULL;
    for (size_t i = 0; i < g->n; i++) {
        if (!copy_node(c, g->nodes[i])) {
            sim_graph_free(c);
            return NULL;
        }
        g->nodes[i]->mark = i;
    }
    for (size_t i = 0; i < g->n; i++)
        for (size_t j = 0; j < g->nodes[i]->ndeps; j++)
            if (sim_nodes_union(&c->nodes[i]->deps, &c->nodes[i]->ndeps, &c->nodes[g->nodes[i]->deps[j]->mark], 1) != CUDA_SUCCESS) {
                sim_graph_free(c);
                return NULL;
            }
    return c;
}

/* Replaces child, a node of g, by the nodes of its graph between two empty ones. */
static bool inline_child(struct sim_graph *g, struct sim_node *child)
{
    struct sim_graph *sub = child->u.child;
    struct sim_node *end = sim_node_new(g, CU_GRAPH_NODE_TYPE_EMPTY, &child, 1);
    size_t first = g->n;
    if (!end)
        return false;
    for (size_t i = 0; i < sub->n; i++) {
        if (!copy_node(g, sub->nodes[i]))
            return false;
        sub->nodes[i]->mark = first + i;
    }
    for (size_t i = 0; i < sub->n; i++) {
        struct sim_node *n = g->nodes[first + i];
        CUresult res = sim_nodes_union(&n->deps, &n->ndeps, &child, 1);
        for (size_t j = 0; res == CUDA_SUCCESS && j < sub->nodes[i]->ndeps; j++)
            res = sim_nodes_union(&n->deps, &n->ndeps, &g->nodes[sub->nodes[i]->deps[j]->mark], 1);
        if (res == CUDA_SUCCESS)
            res = sim_nodes_union(&end->deps, &end->ndeps, &n, 1);
        if (res != CUDA_SUCCESS)
            return false;
    }
    for (size_t i = 0; i < first; i++) /* whoever waited for the child waits for its end */
        for (size_t j = 0; g->nodes[i] != end && j < g->nodes[i]->ndeps; j++)
            if (g->nodes[i]->deps[j] == child)
                g->nodes[i]->deps[j] = end;
    child->type = CU_GRAPH_NODE_TYPE_EMPTY;
    child->u.child = NULL;
    sim_graph_free(sub);
    return true;
}

struct sim_graph *sim_graph_flatten(const struct sim_graph *g)
{
    struct sim_graph *flat = sim_graph_clone(g);
    for (size_t i = 0; flat && i < flat->n; i++)
        if (flat->nodes[i]->type == CU_GRAPH_NODE_TYPE_GRAPH && !inline_child(flat, flat->nodes[i])) {
            sim_graph_free(flat);
            flat = NULL;
        }
    return flat;
}

/* New ids, so that the copy is a graph of its own. */
static void renumber(struct sim_graph *g)
{
    for (size_t i = 0; i < g->n; i++) {
        g->nodes[i]->id = sim_node_id();
        if (g->nodes[i]->type == CU_GRAPH_NODE_TYPE_GRAPH)
            renumber(g->nodes[i]->u.child);
    }
}

CUresult sim_cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    if (!phGraphClone)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, originalGraph);
    struct sim_graph *c = g ? sim_graph_clone(g) : NULL;
    if (c)
        renumber(c);
    pthread_mutex_unlock(&sim_capture_lock);
    *phGraphClone = (CUgraph)c;
    return c ? CUDA_SUCCESS : g ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode, CUgraph hClonedGraph)
{
    CUresult res = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hOriginalNode);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hClonedGraph);
    for (size_t i = 0; phNode && n && g && i < g->n; i++)
        if (g->nodes[i]->origin == n->id) {
            *phNode = (CUgraphNode)g->nodes[i];
            res = CUDA_SUCCESS;
        }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

/* ---- graphs within graphs ---- */

CUresult sim_cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies, CUgraph childGraph)
{
    struct sim_node *n;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *child = SIM_OBJ(SIM_GRAPH, childGraph);
    CUresult res = child ? sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_GRAPH, &n) : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS) {
        n->u.child = sim_graph_clone(child);
        if (n->u.child) {
            renumber(n->u.child);
            n->u.child->owned = true;
        } else {
            n->type = CU_GRAPH_NODE_TYPE_EMPTY;
            sim_node_drop_last(n);
            res = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    if (!n || n->type != CU_GRAPH_NODE_TYPE_GRAPH || !phGraph)
        return CUDA_ERROR_INVALID_VALUE;
    *phGraph = (CUgraph)n->u.child;
    return CUDA_SUCCESS;
}

/* ---- any node ---- */

static CUDA_KERNEL_NODE_PARAMS kernel_of(const CUDA_KERNEL_NODE_PARAMS_v3 *p)
{
    return (CUDA_KERNEL_NODE_PARAMS){.func = p->func, .gridDimX = p->gridDimX, .gridDimY = p->gridDimY, .gridDimZ = p->gridDimZ,
                                     .blockDimX = p->blockDimX, .blockDimY = p->blockDimY, .blockDimZ = p->blockDimZ,
                                     .sharedMemBytes = p->sharedMemBytes, .kernelParams = p->kernelParams, .extra = p->extra,
                                     .kern = p->kern, .ctx = p->ctx};
}

static CUDA_MEMSET_NODE_PARAMS memset_of(const CUDA_MEMSET_NODE_PARAMS_v2 *p)
{
    return (CUDA_MEMSET_NODE_PARAMS){p->dst, p->pitch, p->value, p->elementSize, p->width, p->height};
}

/* The context that params names, or the current one. */
static CUcontext context_of(CUcontext named)
{
    return named ? named : (CUcontext)sim_ctx_peek();
}

CUresult sim_cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies, CUgraphNodeParams *p)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
        CUDA_KERNEL_NODE_PARAMS k = kernel_of(&p->kernel);
        return sim_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &k);
    }
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return sim_cuGraphAddMemcpyNode(phGraphNode, hGraph, dependencies, numDependencies, &p->memcpy.copyParams, context_of(p->memcpy.copyCtx));
    case CU_GRAPH_NODE_TYPE_MEMSET: {
        CUDA_MEMSET_NODE_PARAMS m = memset_of(&p->memset);
        return sim_cuGraphAddMemsetNode(phGraphNode, hGraph, dependencies, numDependencies, &m, context_of(p->memset.ctx));
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
        CUDA_HOST_NODE_PARAMS h = {p->host.fn, p->host.userData};
        return sim_cuGraphAddHostNode(phGraphNode, hGraph, dependencies, numDependencies, &h);
    }
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return sim_cuGraphAddChildGraphNode(phGraphNode, hGraph, dependencies, numDependencies, p->graph.graph);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return sim_cuGraphAddEmptyNode(phGraphNode, hGraph, dependencies, numDependencies);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return sim_cuGraphAddEventWaitNode(phGraphNode, hGraph, dependencies, numDependencies, p->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return sim_cuGraphAddEventRecordNode(phGraphNode, hGraph, dependencies, numDependencies, p->eventRecord.event);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
        CUDA_BATCH_MEM_OP_NODE_PARAMS b = {p->memOp.ctx, p->memOp.count, p->memOp.paramArray, p->memOp.flags};
        return sim_cuGraphAddBatchMemOpNode(phGraphNode, hGraph, dependencies, numDependencies, &b);
    }
    default:
        sim_log("graph nodes of type %d are not supported by the simulated GPU", (int)p->type);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult sim_cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
                               size_t numDependencies, CUgraphNodeParams *nodeParams)
{
    (void)dependencyData; /* programmatic edges start earlier; waiting for the end is always right */
    return sim_cuGraphAddNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

CUresult sim_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *p)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
        CUDA_KERNEL_NODE_PARAMS k = kernel_of(&p->kernel);
        return sim_cuGraphKernelNodeSetParams_v2(hNode, &k);
    }
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return sim_cuGraphMemcpyNodeSetParams(hNode, &p->memcpy.copyParams);
    case CU_GRAPH_NODE_TYPE_MEMSET: {
        CUDA_MEMSET_NODE_PARAMS m = memset_of(&p->memset);
        return sim_cuGraphMemsetNodeSetParams(hNode, &m);
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
        CUDA_HOST_NODE_PARAMS h = {p->host.fn, p->host.userData};
        return sim_cuGraphHostNodeSetParams(hNode, &h);
    }
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return sim_cuGraphEventWaitNodeSetEvent(hNode, p->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return sim_cuGraphEventRecordNodeSetEvent(hNode, p->eventRecord.event);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
        CUDA_BATCH_MEM_OP_NODE_PARAMS b = {p->memOp.ctx, p->memOp.count, p->memOp.paramArray, p->memOp.flags};
        return sim_cuGraphBatchMemOpNodeSetParams(hNode, &b);
    }
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult sim_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraphNodeParams *p)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
        CUDA_KERNEL_NODE_PARAMS k = kernel_of(&p->kernel);
        return sim_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &k);
    }
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return sim_cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, &p->memcpy.copyParams, context_of(p->memcpy.copyCtx));
    case CU_GRAPH_NODE_TYPE_MEMSET: {
        CUDA_MEMSET_NODE_PARAMS m = memset_of(&p->memset);
        return sim_cuGraphExecMemsetNodeSetParams(hGraphExec, hNode, &m, context_of(p->memset.ctx));
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
        CUDA_HOST_NODE_PARAMS h = {p->host.fn, p->host.userData};
        return sim_cuGraphExecHostNodeSetParams(hGraphExec, hNode, &h);
    }
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return sim_cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, p->graph.graph);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return sim_cuGraphExecEventWaitNodeSetEvent(hGraphExec, hNode, p->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return sim_cuGraphExecEventRecordNodeSetEvent(hGraphExec, hNode, p->eventRecord.event);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
        CUDA_BATCH_MEM_OP_NODE_PARAMS b = {p->memOp.ctx, p->memOp.count, p->memOp.paramArray, p->memOp.flags};
        return sim_cuGraphExecBatchMemOpNodeSetParams(hGraphExec, hNode, &b);
    }
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}
