/*
 * graphexec.c: executable graphs. A graph is cut into lanes; the first runs on
 * the stream that launches it, the others on streams of the executable graph's
 * own, so that independent nodes run side by side. Edges between lanes are
 * events. Relaunches follow one another, as the driver has it.
 */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

#define MAX_LANES 32

struct step {
    struct sim_work work;
    uint64_t node;    /* id of the node it comes from */
    uint32_t lane;
    bool enabled;
    bool signals;     /* other lanes wait for it */
    uint32_t event;   /* index into events, if signals */
    uint32_t *waits;  /* events */
    size_t nwaits;
    uint32_t *deps;   /* steps */
    size_t ndeps;
};

struct sim_exec {
    struct sim_obj obj;
    struct step *steps;
    size_t n;
    uint32_t lanes, nevents;
    cuuint64_t flags;
    /* made at the first launch, for the context of its stream */
    struct sim_ctx *ctx;
    uint64_t ctx_id;
    struct sim_stream *streams[MAX_LANES];
    struct sim_event **events; /* nevents, then one for the start, then one for the end of each lane */
    struct sim_event *behind;  /* the last launch; NULL: there was none in this context */
    uint64_t behind_stream;    /* id of the stream that it was on */
    pthread_mutex_t lock;
};

_Static_assert(sizeof(struct sim_exec) <= 640, "objects.c");
_Static_assert(sizeof(struct sim_node) <= 512, "objects.c");
_Static_assert(sizeof(struct sim_graph) <= 512, "objects.c");

static void drop_steps(struct step *steps, size_t n)
{
    for (size_t i = 0; steps && i < n; i++) {
        sim_work_free(&steps[i].work);
        free(steps[i].waits);
        free(steps[i].deps);
    }
    free(steps);
}

static CUresult copy_work(struct sim_work *to, const struct sim_work *from)
{
    struct sim_request req;
    if (!from->op)
        return CUDA_SUCCESS;
    sim_work_request(from, &req);
    CUresult res = sim_work_copy(to, &req);
    to->event = from->event;
    return res;
}

/* Gives every step a lane, and the events between lanes. order[i] became step i; its mark is i + 1. */
static CUresult assign_lanes(struct sim_exec *x, struct sim_node **order)
{
    size_t tail[MAX_LANES]; /* last step of each lane */
    x->lanes = 0;
    x->nevents = 0;
    for (size_t i = 0; i < x->n; i++) {
        struct step *s = &x->steps[i];
        uint32_t lane = MAX_LANES;
        for (size_t j = 0; j < order[i]->ndeps && lane == MAX_LANES; j++) {
            size_t d = order[i]->deps[j]->mark - 1;
            if (tail[x->steps[d].lane] == d)
                lane = x->steps[d].lane;
        }
        if (lane == MAX_LANES)
            lane = x->lanes < MAX_LANES ? x->lanes++ : (uint32_t)(i % MAX_LANES);
        s->lane = lane;
        tail[lane] = i;
        s->waits = malloc((order[i]->ndeps + 1) * sizeof *s->waits);
        s->deps = malloc((order[i]->ndeps + 1) * sizeof *s->deps);
        if (!s->waits || !s->deps)
            return CUDA_ERROR_OUT_OF_MEMORY;
        for (size_t j = 0; j < order[i]->ndeps; j++) {
            s->deps[s->ndeps++] = (uint32_t)order[i]->deps[j]->mark - 1;
            struct step *d = &x->steps[order[i]->deps[j]->mark - 1];
            if (d->lane == lane)
                continue;
            if (!d->signals) {
                d->signals = true;
                d->event = x->nevents++;
            }
            s->waits[s->nwaits++] = d->event;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult fill_exec(struct sim_exec *x, const struct sim_graph *g)
{
    struct sim_node **order = sim_graph_order(g);
    CUresult res = CUDA_SUCCESS;
    if (!order)
        return CUDA_ERROR_INVALID_VALUE;
    x->n = g->n;
    x->steps = calloc(g->n + 1, sizeof *x->steps);
    if (!x->steps)
        res = CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; res == CUDA_SUCCESS && i < g->n; i++) {
        x->steps[i].node = order[i]->id;
        x->steps[i].enabled = true;
        res = copy_work(&x->steps[i].work, &order[i]->work);
    }
    if (res == CUDA_SUCCESS)
        res = assign_lanes(x, order);
    free(order);
    return res;
}

static CUresult instantiate(CUgraphExec *out, CUgraph hGraph, unsigned long long flags)
{
    const unsigned long long known = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                     CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    if (!out || (flags & ~(known | CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)))
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
        return CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    struct sim_exec *x = g && !g->capture_id ? sim_obj_new(SIM_EXEC) : NULL;
    CUresult res = x ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (x) {
        struct sim_obj head = x->obj;
        memset((char *)x + sizeof head, 0, sizeof *x - sizeof head);
        pthread_mutex_init(&x->lock, NULL);
        x->flags = flags;
        struct sim_graph *flat = sim_graph_flatten(g);
        res = flat ? fill_exec(x, flat) : CUDA_ERROR_OUT_OF_MEMORY;
        if (flat)
            sim_graph_free(flat);
        if (res != CUDA_SUCCESS) {
            drop_steps(x->steps, x->n);
            sim_obj_free(SIM_EXEC, x);
        } else {
            *out = (CUgraphExec)x;
        }
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
    return instantiate(phGraphExec, hGraph, flags);
}

CUresult sim_cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    if (phErrorNode)
        *phErrorNode = NULL;
    if (logBuffer && bufferSize)
        logBuffer[0] = 0;
    return instantiate(phGraphExec, hGraph, 0);
}

CUresult sim_cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    return sim_cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

CUresult sim_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
    if (!instantiateParams)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = instantiate(phGraphExec, hGraph, instantiateParams->flags);
    instantiateParams->hErrNode_out = NULL;
    instantiateParams->result_out = res == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
    return res;
}

/* Lets go of what belongs to a context; it may be gone already. */
static void drop_resources(struct sim_exec *x)
{
    bool alive = x->ctx && atomic_load(&x->ctx->obj.live) && x->ctx->id == x->ctx_id;
    for (uint32_t i = 1; i < x->lanes; i++)
        if (alive && x->streams[i])
            sim_stream_end(x->streams[i]);
    memset(x->streams, 0, sizeof x->streams);
    for (size_t i = 0; x->events && i < (size_t)x->nevents + 1 + x->lanes; i++)
        if (alive && x->events[i])
            sim_event_free(x->events[i]);
    free(x->events);
    x->events = NULL;
    if (alive && x->behind)
        sim_event_free(x->behind);
    x->behind = NULL;
    x->ctx = NULL;
}

CUresult sim_cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    struct sim_exec *x = SIM_OBJ(SIM_EXEC, hGraphExec);
    if (!x)
        return CUDA_ERROR_INVALID_VALUE;
    drop_resources(x);
    drop_steps(x->steps, x->n);
    x->steps = NULL;
    x->n = 0;
    sim_obj_free(SIM_EXEC, x);
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    const struct sim_exec *x = SIM_OBJ(SIM_EXEC, hGraphExec);
    if (!x || !flags)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = x->flags;
    return CUDA_SUCCESS;
}

/* ---- launching ---- */

/* Streams and events for the lanes, in the context of the stream that launches. */
static CUresult prepare(struct sim_exec *x, struct sim_ctx *ctx)
{
    if (x->ctx == ctx && x->ctx_id == ctx->id)
        return CUDA_SUCCESS;
    drop_resources(x);
    x->ctx = ctx;
    x->ctx_id = ctx->id;
    if (x->lanes <= 1)
        return CUDA_SUCCESS;
    size_t n = (size_t)x->nevents + 1 + x->lanes;
    x->events = calloc(n, sizeof(struct sim_event *));
    bool ok = x->events != NULL;
    for (size_t i = 0; ok && i < n; i++)
        ok = (x->events[i] = sim_event_new(ctx, CU_EVENT_DISABLE_TIMING, false)) != NULL;
    for (uint32_t i = 1; ok && i < x->lanes; i++)
        ok = (x->streams[i] = sim_stream_new(ctx, CU_STREAM_NON_BLOCKING, 0, SIM_STREAM_NORMAL)) != NULL;
    if (ok)
        return CUDA_SUCCESS;
    drop_resources(x);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult record(struct sim_stream *s, const struct sim_event *e)
{
    SIM_REQ(req, SIM_OP_EVENT_RECORD, 0, 0, e->obj.index);
    return sim_submit(s, &req, false);
}

static CUresult wait_for(struct sim_stream *s, const struct sim_event *e)
{
    SIM_REQ(req, SIM_OP_EVENT_WAIT, 0, 0, e->obj.index);
    return sim_submit(s, &req, false);
}

static CUresult submit_step(const struct step *s, struct sim_stream *stream)
{
    struct sim_request req;
    if (!s->work.op || !s->enabled)
        return CUDA_SUCCESS;
    sim_work_request(&s->work, &req);
    if (s->work.op == SIM_OP_LAUNCH)
        req.args[14] |= SIM_LAUNCH_FROM_GRAPH;
    if (s->work.op == SIM_OP_EVENT_RECORD || s->work.op == SIM_OP_EVENT_WAIT) {
        struct sim_event *e = SIM_OBJ(SIM_EVENT, s->work.event);
        bool record = s->work.op == SIM_OP_EVENT_RECORD;
        if (!e) /* destroyed since */
            return CUDA_ERROR_INVALID_HANDLE;
        if (atomic_load(&stream->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
            return sim_capture_event_node(stream, s->work.event, record);
        if (!record)
            return sim_submit(stream, &req, false);
        e->graph = NULL;
        return sim_submit_event(stream, &req, e);
    }
    return sim_submit(stream, &req, false);
}

static CUresult launch_lanes(struct sim_exec *x, struct sim_stream *stream)
{
    struct sim_event **start = x->events + x->nevents, **end = start + 1;
    CUresult res = record(stream, start[0]);
    x->streams[0] = stream;
    for (uint32_t i = 1; res == CUDA_SUCCESS && i < x->lanes; i++)
        res = wait_for(x->streams[i], start[0]);
    for (size_t i = 0; res == CUDA_SUCCESS && i < x->n; i++) {
        const struct step *s = &x->steps[i];
        for (size_t j = 0; res == CUDA_SUCCESS && j < s->nwaits; j++)
            res = wait_for(x->streams[s->lane], x->events[s->waits[j]]);
        if (res == CUDA_SUCCESS)
            res = submit_step(s, x->streams[s->lane]);
        if (res == CUDA_SUCCESS && s->signals)
            res = record(x->streams[s->lane], x->events[s->event]);
    }
    for (uint32_t i = 1; res == CUDA_SUCCESS && i < x->lanes; i++) {
        res = record(x->streams[i], end[i]);
        if (res == CUDA_SUCCESS)
            res = wait_for(stream, end[i]);
    }
    return res;
}

/* A launch follows the graph's last one, whichever stream that was on. */
static CUresult follow_last(struct sim_exec *x, struct sim_stream *s)
{
    return x->behind && x->behind_stream != s->id ? wait_for(s, x->behind) : CUDA_SUCCESS;
}

static CUresult note_last(struct sim_exec *x, struct sim_stream *s)
{
    if (!x->behind)
        x->behind = sim_event_new(x->ctx, CU_EVENT_DISABLE_TIMING, false);
    x->behind_stream = s->id;
    return x->behind ? record(s, x->behind) : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
    struct sim_exec *x = SIM_OBJ(SIM_EXEC, hGraph);
    struct sim_stream *s;
    if (!x)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    pthread_mutex_lock(&x->lock);
    bool capturing = atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE;
    if (!capturing)
        res = prepare(x, s->ctx);
    bool begun = res == CUDA_SUCCESS && !capturing;
    if (begun) {
        sim_graph_begin();
        res = follow_last(x, s);
    }
    if (res == CUDA_SUCCESS && (capturing || x->lanes <= 1))
        for (size_t i = 0; res == CUDA_SUCCESS && i < x->n; i++)
            res = submit_step(&x->steps[i], s);
    else if (res == CUDA_SUCCESS)
        res = launch_lanes(x, s);
    if (res == CUDA_SUCCESS && !capturing)
        res = note_last(x, s);
    if (begun)
        sim_graph_end();
    pthread_mutex_unlock(&x->lock);
    return res;
}

CUresult sim_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    struct sim_stream *s;
    if (!SIM_OBJ(SIM_EXEC, hGraph))
        return CUDA_ERROR_INVALID_VALUE;
    return sim_stream_resolve(hStream, &s);
}

/* ---- changing executable graphs ---- */

static struct step *find_step(CUgraphExec hExec, CUgraphNode hNode, CUgraphNodeType type)
{
    struct sim_exec *x = SIM_OBJ(SIM_EXEC, hExec);
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    if (!x || !n || (type != CU_GRAPH_NODE_TYPE_EMPTY && n->type != type))
        return NULL;
    for (size_t i = 0; i < x->n; i++)
        if (x->steps[i].node == n->id)
            return &x->steps[i];
    return NULL;
}

CUresult sim_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_KERNEL);
    return s && nodeParams ? sim_graph_kernel_work(&s->work, nodeParams) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS n = {.func = p->func, .gridDimX = p->gridDimX, .gridDimY = p->gridDimY, .gridDimZ = p->gridDimZ,
                                 .blockDimX = p->blockDimX, .blockDimY = p->blockDimY, .blockDimZ = p->blockDimZ,
                                 .sharedMemBytes = p->sharedMemBytes, .kernelParams = p->kernelParams, .extra = p->extra};
    return sim_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &n);
}

CUresult sim_cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_MEMSET);
    if (!SIM_OBJ(SIM_CTX, ctx))
        return CUDA_ERROR_INVALID_CONTEXT;
    return s && memsetParams ? sim_graph_memset_work(&s->work, memsetParams) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_MEMCPY);
    struct sim_request req;
    if (!SIM_OBJ(SIM_CTX, ctx))
        return CUDA_ERROR_INVALID_CONTEXT;
    CUresult res = s && copyParams ? sim_copy_prepare(copyParams, &req) : CUDA_ERROR_INVALID_VALUE;
    return res == CUDA_SUCCESS ? sim_work_copy(&s->work, &req) : res;
}

CUresult sim_cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_HOST);
    return s && nodeParams ? sim_graph_host_work(&s->work, nodeParams) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD);
    return s ? sim_graph_event_work(&s->work, event, true) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT);
    return s ? sim_graph_event_work(&s->work, event, false) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    return s && nodeParams ? sim_graph_memop_work(&s->work, nodeParams) : CUDA_ERROR_INVALID_VALUE;
}

/* Pairs the nodes of two graphs of the same shape, one within the other's place in x. do_it false only checks. */
static CUresult set_child(struct sim_exec *x, const struct sim_graph *old, const struct sim_graph *new, bool do_it)
{
    CUresult res = old->n == new->n ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; res == CUDA_SUCCESS && i < new->n; i++)
        new->nodes[i]->mark = i;
    for (size_t i = 0; res == CUDA_SUCCESS && i < old->n; i++)
        old->nodes[i]->mark = i;
    for (size_t i = 0; res == CUDA_SUCCESS && i < old->n; i++) {
        const struct sim_node *a = old->nodes[i], *b = new->nodes[i];
        if (a->type != b->type || a->ndeps != b->ndeps)
            return CUDA_ERROR_INVALID_VALUE;
        for (size_t j = 0; j < a->ndeps; j++)
            if (a->deps[j]->mark != b->deps[j]->mark)
                return CUDA_ERROR_INVALID_VALUE;
        if (a->type == CU_GRAPH_NODE_TYPE_GRAPH)
            res = set_child(x, a->u.child, b->u.child, do_it);
        for (size_t k = 0; res == CUDA_SUCCESS && do_it && k < x->n; k++)
            if (x->steps[k].node == a->id && a->type != CU_GRAPH_NODE_TYPE_GRAPH)
                res = copy_work(&x->steps[k].work, &b->work);
    }
    return res;
}

CUresult sim_cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph)
{
    struct sim_exec *x = SIM_OBJ(SIM_EXEC, hGraphExec);
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_node *n = SIM_OBJ(SIM_NODE, hNode);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, childGraph);
    CUresult res = CUDA_ERROR_INVALID_VALUE;
    if (x && n && g && n->type == CU_GRAPH_NODE_TYPE_GRAPH && find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_EMPTY))
        res = set_child(x, n->u.child, g, false);
    if (res == CUDA_SUCCESS)
        res = set_child(x, n->u.child, g, true);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
    struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_EMPTY);
    if (!s || (s->work.op != SIM_OP_LAUNCH && s->work.op != SIM_OP_COPY && s->work.op != SIM_OP_MEMSET))
        return CUDA_ERROR_INVALID_VALUE;
    s->enabled = isEnabled != 0;
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int *isEnabled)
{
    const struct step *s = find_step(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_EMPTY);
    if (!s || !isEnabled)
        return CUDA_ERROR_INVALID_VALUE;
    *isEnabled = s->enabled;
    return CUDA_SUCCESS;
}

static bool same_step(const struct step *s, const struct sim_node *n)
{
    bool same = s->work.op == n->work.op && s->ndeps == n->ndeps;
    for (size_t i = 0; same && i < s->ndeps; i++)
        same = s->deps[i] == n->deps[i]->mark - 1;
    return same;
}

/* Takes over a graph of the same shape: the same work, node by node. */
CUresult sim_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo)
{
    struct sim_exec *x = SIM_OBJ(SIM_EXEC, hGraphExec);
    if (!x || !resultInfo)
        return CUDA_ERROR_INVALID_VALUE;
    memset(resultInfo, 0, sizeof *resultInfo);
    resultInfo->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_graph *g = SIM_OBJ(SIM_GRAPH, hGraph);
    struct sim_graph *flat = g ? sim_graph_flatten(g) : NULL;
    struct sim_node **order = flat && flat->n == x->n ? sim_graph_order(flat) : NULL;
    bool same = order != NULL;
    for (size_t i = 0; same && i < x->n; i++)
        same = same_step(&x->steps[i], order[i]);
    CUresult res = same ? CUDA_SUCCESS : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    for (size_t i = 0; res == CUDA_SUCCESS && i < x->n; i++) {
        x->steps[i].node = order[i]->id;
        res = copy_work(&x->steps[i].work, &order[i]->work);
    }
    if (res == CUDA_SUCCESS)
        resultInfo->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
    free(order);
    if (flat)
        sim_graph_free(flat);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out)
{
    CUgraphExecUpdateResultInfo info;
    if (!updateResult_out)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
    if (res != CUDA_ERROR_INVALID_VALUE) {
        *updateResult_out = info.result;
        if (hErrorNode_out)
            *hErrorNode_out = NULL;
    }
    return res;
}
