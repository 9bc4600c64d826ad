/* graph.c: graphs and their nodes. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

static uint64_t next_node = 1; /* under sim_capture_lock */

uint64_t sim_node_id(void)
{
    return next_node++;
}

/* ---- work ---- */

CUresult sim_work_copy(struct sim_work *w, const struct sim_request *req)
{
    struct sim_work n = {.op = req->op, .nargs = req->nargs, .nmore = req->nmore, .blob_len = req->blob_len, .function = req->function};
    n.args = malloc((req->nargs + req->nmore + 1) * sizeof *n.args);
    n.blob = malloc(req->blob_len + 1);
    if (!n.args || !n.blob) {
        free(n.args);
        free(n.blob);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memcpy(n.args, req->args, req->nargs * sizeof *n.args);
    if (req->nmore)
        memcpy(n.args + req->nargs, req->more, req->nmore * sizeof *n.args);
    if (req->blob_len)
        memcpy(n.blob, req->blob, req->blob_len);
    n.event = w->event;
    sim_work_free(w);
    *w = n;
    return CUDA_SUCCESS;
}

void sim_work_free(struct sim_work *w)
{
    free(w->args);
    free(w->blob);
    *w = (struct sim_work){0};
}

void sim_work_request(const struct sim_work *w, struct sim_request *req)
{
    const uint64_t op = w->op;
    sim_req_init(req, &op, 1);
    req->nargs = w->nargs;
    memcpy(req->args, w->args, w->nargs * sizeof *w->args);
    req->more = w->args + w->nargs;
    req->nmore = w->nmore;
    req->function = w->function;
    req->blob = w->blob;
    req->blob_len = w->blob_len;
}

/* ---- graphs and nodes ---- */

struct sim_graph *sim_graph_new(void)
{
    struct sim_graph *g = sim_obj_new(SIM_GRAPH);
    if (g) {
        g->nodes = NULL;
        g->n = g->cap = 0;
        g->capture_id = 0;
        g->owned = g->kept = false;
    }
    return g;
}

void sim_node_free(struct sim_node *n)
{
    if (n->type == CU_GRAPH_NODE_TYPE_GRAPH && n->u.child)
        sim_graph_free(n->u.child);
    sim_work_free(&n->work);
    free(n->deps);
    free(n->params);
    free(n->copy);
    free(n->memops);
    sim_obj_free(SIM_NODE, n);
}

void sim_graph_free(struct sim_graph *g)
{
    for (size_t i = 0; i < g->n; i++)
        sim_node_free(g->nodes[i]);
    free(g->nodes);
    g->nodes = NULL;
    g->n = 0;
    sim_obj_free(SIM_GRAPH, g);
}

CUresult sim_nodes_union(struct sim_node ***list, size_t *n, struct sim_node *const *add, size_t nadd)
{
    struct sim_node **bigger = realloc(*list, (*n + nadd + 1) * sizeof(struct sim_node *));
    if (!bigger)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *list = bigger;
    for (size_t i = 0; i < nadd; i++) {
        size_t j = 0;
        while (j < *n && bigger[j] != add[i])
            j++;
        if (j == *n)
            bigger[(*n)++] = add[i];
    }
    return CUDA_SUCCESS;
}

struct sim_node *sim_node_new(struct sim_graph *g, CUgraphNodeType type, struct sim_node *const *deps, size_t ndeps)
{
    if (g->n == g->cap) {
        size_t cap = g->cap ? g->cap * 2 : 16;
        struct sim_node **bigger = realloc(g->nodes, cap * sizeof(struct sim_node *));
        if (!bigger)
            return NULL;
        g->nodes = bigger;
        g->cap = cap;
    }
    struct sim_node *n = sim_obj_new(SIM_NODE);
    if (!n)
        return NULL;
    n->graph = g;
    n->type = type;
    n->work = (struct sim_work){0};
    n->deps = NULL;
    n->ndeps = 0;
    n->id = sim_node_id();
    n->origin = 0;
    n->params = NULL;
    n->copy = NULL;
    n->memops = NULL;
    memset(&n->u, 0, sizeof n->u);
    if (sim_nodes_union(&n->deps, &n->ndeps, deps, ndeps) != CUDA_SUCCESS) {
        sim_obj_free(SIM_NODE, n);
        return NULL;
    }
    g->nodes[g->n++] = n;
    return n;
}

struct sim_node **sim_graph_order(const struct sim_graph *g)
{
    struct sim_node **order = malloc((g->n + 1) * sizeof(struct sim_node *));
    size_t done = 0, before = (size_t)-1;
    if (!order)
        return NULL;
    for (size_t i = 0; i < g->n; i++)
        g->nodes[i]->mark = 0;
    while (done < g->n && done != before) {
        before = done;
        for (size_t i = 0; i < g->n; i++) {
            struct sim_node *n = g->nodes[i];
            bool ready = !n->mark;
            for (size_t j = 0; ready && j < n->ndeps; j++)
                ready = n->deps[j]->mark != 0;
            if (ready) {
                order[done++] = n;
                n->mark = done;
            }
        }
    }
    if (done < g->n) {
        free(order);
        return NULL;
    }
    return order;
}

/* Remembers a kernel node's parameters as GetParams gives them back. */
CUresult sim_node_set_kernel(struct sim_node *n, const struct sim_request *req, CUfunction f)
{
    struct sim_function *fn;
    CUresult res = sim_function_resolve(f, NULL, &fn);
    if (res != CUDA_SUCCESS)
        return res;
    const struct sim_entry *e = sim_function_entry(fn);
    void **params = calloc(e->nparams + 1, sizeof(void *));
    if (!params)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < e->nparams; i++)
        params[i] = (char *)n->work.blob + e->offset[i];
    free(n->params);
    n->params = params;
    const uint64_t *a = req->args;
    bool kern = SIM_OBJ(SIM_KERNEL, f) != NULL;
    n->u.kernel = (CUDA_KERNEL_NODE_PARAMS){.func = kern ? NULL : f, .kern = kern ? (CUkernel)f : NULL, .gridDimX = (unsigned)a[4], .gridDimY = (unsigned)a[5], .gridDimZ = (unsigned)a[6],
                                            .blockDimX = (unsigned)a[7], .blockDimY = (unsigned)a[8], .blockDimZ = (unsigned)a[9],
                                            .sharedMemBytes = (unsigned)a[13], .kernelParams = params,
                                            .ctx = fn->module ? (CUcontext)fn->module->ctx : NULL};
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    if (!phGraph || flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    struct sim_graph *g = sim_graph_new();
    pthread_mutex_unlock(&sim_capture_lock);
    *phGraph = (CUgraph)g;
    return g ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuGraphDestroy(CUgraph hGraph)
{
    pthread_mutex_lock(&sim_capture_lock);
    struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    bool ok = g && !g->owned && !g->capture_id;
    if (ok)
        sim_graph_free(g);
    pthread_mutex_unlock(&sim_capture_lock);
    return ok ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_node_add(CUgraphNode *out, CUgraph hGraph, const CUgraphNode *deps, size_t ndeps, CUgraphNodeType type, struct sim_node **node)
{
    struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    if (!out || !g || (ndeps && !deps))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < ndeps; i++) {
        const struct sim_node *d = SIM_OBJ(SIM_NODE, deps[i]);
        if (!d || d->graph != g)
            return CUDA_ERROR_INVALID_VALUE;
    }
    *node = sim_node_new(g, type, (struct sim_node *const *)(const void *)deps, ndeps);
    if (!*node)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = (CUgraphNode)*node;
    return CUDA_SUCCESS;
}

void sim_node_drop_last(struct sim_node *n)
{
    n->graph->n--;
    sim_node_free(n);
}

static CUresult set_kernel(struct sim_work *work, struct sim_node *n, const CUDA_KERNEL_NODE_PARAMS *p)
{
    struct sim_ctx *ctx = NULL;
    struct sim_request req;
    void *blob;
    CUfunction f = p->func ? p->func : (CUfunction)p->kern;
    CUresult res = CUDA_SUCCESS;
    if (!f)
        return CUDA_ERROR_INVALID_VALUE;
    if (p->func) {
        struct sim_function *fn;
        res = sim_function_resolve(f, NULL, &fn);
        if (res == CUDA_SUCCESS)
            ctx = fn->module->ctx;
    } else {
        res = sim_ctx_resolve(p->ctx, &ctx);
    }
    if (res != CUDA_SUCCESS)
        return res;
    struct sim_launch l = {.f = f, .grid = {p->gridDimX, p->gridDimY, p->gridDimZ}, .block = {p->blockDimX, p->blockDimY, p->blockDimZ},
                           .cluster = {1, 1, 1}, .shared = p->sharedMemBytes, .params = p->kernelParams, .extra = p->extra};
    if (work->op == SIM_OP_LAUNCH) { /* attributes stay when parameters change */
        for (int i = 0; i < 3; i++)
            l.cluster[i] = (unsigned)work->args[10 + i];
        l.cooperative = work->args[14] != 0;
    }
    res = sim_launch_prepare(ctx, &l, &req, &blob);
    if (res == CUDA_SUCCESS)
        res = sim_work_copy(work, &req);
    if (res == CUDA_SUCCESS && n)
        res = sim_node_set_kernel(n, &req, f);
    free(blob);
    return res;
}

CUresult sim_graph_kernel_work(struct sim_work *work, const CUDA_KERNEL_NODE_PARAMS *p)
{
    return set_kernel(work, NULL, p);
}

CUresult sim_graph_memset_work(struct sim_work *work, const CUDA_MEMSET_NODE_PARAMS *p)
{
    if ((p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4) || !p->width || !p->height)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t pitch = p->height == 1 ? p->width * p->elementSize : p->pitch;
    CUresult res = sim_map_check(p->dst, (p->height - 1) * pitch + p->width * p->elementSize);
    SIM_REQ(req, SIM_OP_MEMSET, 0, 0, p->dst, pitch, p->elementSize, p->value, p->width, p->height);
    return res == CUDA_SUCCESS ? sim_work_copy(work, &req) : res;
}

CUresult sim_graph_host_work(struct sim_work *work, const CUDA_HOST_NODE_PARAMS *p)
{
    uintptr_t fn;
    if (!p->fn)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&fn, &p->fn, sizeof fn);
    CUresult res = sim_callback_helper();
    SIM_REQ(req, SIM_OP_HOST_FUNC, 0, 0, fn, (uint64_t)(uintptr_t)p->userData, 0, 0);
    return res == CUDA_SUCCESS ? sim_work_copy(work, &req) : res;
}

CUresult sim_cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                     const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct sim_node *n;
    if (!nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_KERNEL, &n);
    if (res == CUDA_SUCCESS && (res = set_kernel(&n->work, n, nodeParams)) != CUDA_SUCCESS)
        sim_node_drop_last(n);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

static CUDA_KERNEL_NODE_PARAMS from_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
    return (CUDA_KERNEL_NODE_PARAMS){.func = p->func, .gridDimX = p->gridDimX, .gridDimY = p->gridDimY, .gridDimZ = p->gridDimZ,
                                     .blockDimX = p->blockDimX, .blockDimY = p->blockDimY, .blockDimZ = p->blockDimZ,
                                     .sharedMemBytes = p->sharedMemBytes, .kernelParams = p->kernelParams, .extra = p->extra};
}

CUresult sim_cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    if (!nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS p = from_v1(nodeParams);
    return sim_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

CUresult sim_cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    struct sim_node *n;
    if (!memsetParams)
        return CUDA_ERROR_INVALID_VALUE;
    if (!SIM_OBJ(SIM_CTX, ctx))
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_MEMSET, &n);
    if (res == CUDA_SUCCESS && (res = sim_graph_memset_work(&n->work, memsetParams)) != CUDA_SUCCESS)
        sim_node_drop_last(n);
    else if (res == CUDA_SUCCESS)
        n->u.memset = *memsetParams;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

static CUresult set_copy(struct sim_node *n, const CUDA_MEMCPY3D *p)
{
    struct sim_request req;
    CUDA_MEMCPY3D *copy = malloc(sizeof *copy);
    if (!copy)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult res = sim_copy_prepare(p, &req);
    if (res == CUDA_SUCCESS)
        res = sim_work_copy(&n->work, &req);
    if (res != CUDA_SUCCESS) {
        free(copy);
        return res;
    }
    *copy = *p;
    free(n->copy);
    n->copy = copy;
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    struct sim_node *n;
    if (!copyParams)
        return CUDA_ERROR_INVALID_VALUE;
    if (!SIM_OBJ(SIM_CTX, ctx))
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_MEMCPY, &n);
    if (res == CUDA_SUCCESS && (res = set_copy(n, copyParams)) != CUDA_SUCCESS)
        sim_node_drop_last(n);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct sim_node *n;
    if (!nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_HOST, &n);
    if (res == CUDA_SUCCESS && (res = sim_graph_host_work(&n->work, nodeParams)) != CUDA_SUCCESS)
        sim_node_drop_last(n);
    else if (res == CUDA_SUCCESS)
        n->u.host = *nodeParams;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies)
{
    struct sim_node *n;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_EMPTY, &n);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

/* ---- reading graphs ---- */

/* Copies up to *n nodes to out and sets *n, as the Get functions do. */
static CUresult give(struct sim_node *const *list, size_t count, CUgraphNode *out, size_t *n)
{
    if (!n)
        return CUDA_ERROR_INVALID_VALUE;
    if (out) {
        for (size_t i = 0; i < *n; i++)
            out[i] = i < count ? (CUgraphNode)list[i] : NULL;
        if (*n > count)
            *n = count;
    } else {
        *n = count;
    }
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    CUresult res = g ? give(g->nodes, g->n, nodes, numNodes) : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

/* The nodes of g for which test holds. */
static CUresult select_nodes(const struct sim_graph *g, const struct sim_node *of, CUgraphNode *out, size_t *n)
{
    struct sim_node **list = malloc((g->n + 1) * sizeof(struct sim_node *));
    size_t count = 0;
    if (!list)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n; i++) {
        bool take = !of && g->nodes[i]->ndeps == 0;
        for (size_t j = 0; of && j < g->nodes[i]->ndeps; j++)
            take |= g->nodes[i]->deps[j] == of;
        if (take)
            list[count++] = g->nodes[i];
    }
    CUresult res = give(list, count, out, n);
    free(list);
    return res;
}

CUresult sim_cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    CUresult res = g ? select_nodes(g, NULL, rootNodes, numRootNodes) : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
    size_t count = 0;
    if (!numEdges || (!from != !to))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    for (size_t i = 0; g && i < g->n; i++)
        for (size_t j = 0; j < g->nodes[i]->ndeps; j++, count++)
            if (from && count < *numEdges) {
                from[count] = (CUgraphNode)g->nodes[i]->deps[j];
                to[count] = (CUgraphNode)g->nodes[i];
            }
    pthread_mutex_unlock(&sim_capture_lock);
    if (!from || *numEdges > count)
        *numEdges = count;
    return g ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edgeData, size_t *numEdges)
{
    CUresult res = sim_cuGraphGetEdges(hGraph, from, to, numEdges);
    if (res == CUDA_SUCCESS && edgeData && from)
        memset(edgeData, 0, *numEdges * sizeof *edgeData);
    return res;
}

CUresult sim_cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies, size_t *numDependencies)
{
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    CUresult res = n ? give(n->deps, n->ndeps, dependencies, numDependencies) : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies, CUgraphEdgeData *edgeData, size_t *numDependencies)
{
    CUresult res = sim_cuGraphNodeGetDependencies(hNode, dependencies, numDependencies);
    if (res == CUDA_SUCCESS && edgeData && dependencies)
        memset(edgeData, 0, *numDependencies * sizeof *edgeData);
    return res;
}

CUresult sim_cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes, size_t *numDependentNodes)
{
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    CUresult res = n ? select_nodes(n->graph, n, dependentNodes, numDependentNodes) : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes, CUgraphEdgeData *edgeData, size_t *numDependentNodes)
{
    CUresult res = sim_cuGraphNodeGetDependentNodes(hNode, dependentNodes, numDependentNodes);
    if (res == CUDA_SUCCESS && edgeData && dependentNodes)
        memset(edgeData, 0, *numDependentNodes * sizeof *edgeData);
    return res;
}

CUresult sim_cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    if (!n || !type)
        return CUDA_ERROR_INVALID_VALUE;
    *type = n->type;
    return CUDA_SUCCESS;
}

/* ---- changing graphs ---- */

static CUresult edit_edges(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t count, bool add)
{
    CUresult res = CUDA_SUCCESS;
    if (count && (!from || !to))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    for (size_t i = 0; res == CUDA_SUCCESS && i < count; i++) {
        struct sim_node *a = SIM_OBJ(SIM_NODE, from[i]), *b = SIM_OBJ(SIM_NODE, to[i]);
        if (!g || !a || !b || a->graph != g || b->graph != g || a == b) {
            res = CUDA_ERROR_INVALID_VALUE;
            break;
        }
        size_t j = 0;
        while (j < b->ndeps && b->deps[j] != a)
            j++;
        if (add == (j < b->ndeps))
            res = CUDA_ERROR_INVALID_VALUE;
        else if (add)
            res = sim_nodes_union(&b->deps, &b->ndeps, &a, 1);
        else
            b->deps[j] = b->deps[--b->ndeps];
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return g ? res : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t numDependencies)
{
    return edit_edges(hGraph, from, to, numDependencies, true);
}

CUresult sim_cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edgeData, size_t numDependencies)
{
    (void)edgeData; /* programmatic edges start earlier; waiting for the end is always right */
    return edit_edges(hGraph, from, to, numDependencies, true);
}

CUresult sim_cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t numDependencies)
{
    return edit_edges(hGraph, from, to, numDependencies, false);
}

CUresult sim_cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                                          size_t numDependencies)
{
    (void)edgeData;
    return edit_edges(hGraph, from, to, numDependencies, false);
}

CUresult sim_cuGraphDestroyNode(CUgraphNode hNode)
{
    pthread_mutex_lock(&sim_capture_lock);
    struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    if (n) {
        struct sim_graph *g = n->graph;
        size_t kept = 0;
        for (size_t i = 0; i < g->n; i++) {
            struct sim_node *o = g->nodes[i];
            for (size_t j = 0; j < o->ndeps; j++)
                if (o->deps[j] == n)
                    o->deps[j--] = o->deps[--o->ndeps];
            if (o != n)
                g->nodes[kept++] = o;
        }
        g->n = kept;
        sim_node_free(n);
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return n ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- parameters of nodes ---- */

static struct sim_node *node_of(CUgraphNode h, CUgraphNodeType type)
{
    struct sim_node *n = SIM_OBJ(SIM_NODE, h);
    return n && n->type == type ? n : NULL;
}

CUresult sim_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    const struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_KERNEL);
    if (!n || !nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    *nodeParams = n->u.kernel;
    /* Of a kernel the driver also tells the function that it is in the node's context (seen with 580.159). */
    if (!nodeParams->func && nodeParams->kern)
        (void)sim_cuKernelGetFunction(&nodeParams->func, nodeParams->kern);
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS p;
    CUresult res = nodeParams ? sim_cuGraphKernelNodeGetParams_v2(hNode, &p) : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *nodeParams = (CUDA_KERNEL_NODE_PARAMS_v1){p.func, p.gridDimX, p.gridDimY, p.gridDimZ, p.blockDimX, p.blockDimY, p.blockDimZ,
                                                   p.sharedMemBytes, p.kernelParams, p.extra};
    return res;
}

CUresult sim_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_KERNEL);
    if (!n || !nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = set_kernel(&n->work, n, nodeParams);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    if (!nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS p = from_v1(nodeParams);
    return sim_cuGraphKernelNodeSetParams_v2(hNode, &p);
}

CUresult sim_cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    const struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_MEMSET);
    if (!n || !nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    *nodeParams = n->u.memset;
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_MEMSET);
    CUresult res = n && nodeParams ? sim_graph_memset_work(&n->work, nodeParams) : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        n->u.memset = *nodeParams;
    return res;
}

CUresult sim_cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    const struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_MEMCPY);
    if (!n || !nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    if (n->copy) {
        *nodeParams = *n->copy;
        return CUDA_SUCCESS;
    }
    const uint64_t *a = n->work.args; /* captured: destination, pitch, slice, source, pitch, slice, width, height, depth from 3 on */
    *nodeParams = (CUDA_MEMCPY3D){.dstMemoryType = CU_MEMORYTYPE_UNIFIED, .dstDevice = a[3], .dstPitch = a[4], .dstHeight = a[4] ? a[5] / a[4] : 0,
                                  .srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = a[6], .srcPitch = a[7], .srcHeight = a[7] ? a[8] / a[7] : 0,
                                  .WidthInBytes = a[9], .Height = a[10], .Depth = a[11]};
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_MEMCPY);
    return n && nodeParams ? set_copy(n, nodeParams) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    const struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_HOST);
    if (!n || !nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    *nodeParams = n->u.host;
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_HOST);
    CUresult res = n && nodeParams ? sim_graph_host_work(&n->work, nodeParams) : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        n->u.host = *nodeParams;
    return res;
}
