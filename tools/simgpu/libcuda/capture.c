/* capture.c: capturing streams into graphs, and what is forbidden meanwhile. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

pthread_mutex_t sim_capture_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int active; /* captures; lets everybody else pass quickly */
static uint64_t next_capture = 1;

#define STATUS(s) ((CUstreamCaptureStatus)atomic_load(&(s)->capture))

struct visit {
    uint64_t id;
    struct sim_stream *origin;
    int status;
    CUresult res;
    const struct sim_ctx *ctx;
};

static bool set_status(void *obj, void *arg)
{
    struct sim_stream *s = obj;
    const struct visit *v = arg;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_NONE && s->capture_id == v->id)
        atomic_store(&s->capture, v->status);
    return true;
}

static void invalidate(uint64_t id)
{
    struct visit v = {.id = id, .status = CU_STREAM_CAPTURE_STATUS_INVALIDATED};
    sim_obj_each(SIM_STREAM, set_status, &v);
}

/* ---- what is forbidden ---- */

CUresult sim_capture_forbid(struct sim_stream *stream)
{
    CUresult res = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    pthread_mutex_lock(&sim_capture_lock);
    if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        res = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_ACTIVE)
        invalidate(stream->capture_id);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

static bool find_unsafe(void *obj, void *arg)
{
    struct sim_stream *s = obj;
    struct visit *v = arg;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_ACTIVE || !s->origin || s->mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return true;
    bool mine = pthread_equal(s->capturer, pthread_self());
    if (!mine && !(s->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && sim_tls.mode == CU_STREAM_CAPTURE_MODE_GLOBAL))
        return true;
    v->id = s->capture_id;
    v->res = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return false;
}

CUresult sim_capture_unsafe(void)
{
    if (atomic_load_explicit(&active, memory_order_relaxed) == 0 || sim_tls.mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_SUCCESS;
    struct visit v = {.res = CUDA_SUCCESS};
    pthread_mutex_lock(&sim_capture_lock);
    sim_obj_each(SIM_STREAM, find_unsafe, &v);
    if (v.res != CUDA_SUCCESS)
        invalidate(v.id);
    pthread_mutex_unlock(&sim_capture_lock);
    return v.res;
}

static bool find_in_context(void *obj, void *arg)
{
    struct sim_stream *s = obj;
    struct visit *v = arg;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_ACTIVE || s->ctx != v->ctx)
        return true;
    v->id = s->capture_id;
    v->res = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return false;
}

CUresult sim_capture_context(const struct sim_ctx *ctx)
{
    if (atomic_load_explicit(&active, memory_order_relaxed) == 0)
        return CUDA_SUCCESS;
    struct visit v = {.res = CUDA_SUCCESS, .ctx = ctx};
    pthread_mutex_lock(&sim_capture_lock);
    sim_obj_each(SIM_STREAM, find_in_context, &v);
    if (v.res != CUDA_SUCCESS)
        invalidate(v.id);
    pthread_mutex_unlock(&sim_capture_lock);
    return v.res;
}

static bool find_implicit(void *obj, void *arg)
{
    struct sim_stream *s = obj;
    struct visit *v = arg;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_ACTIVE || s->ctx != v->ctx || (s->flags & CU_STREAM_NON_BLOCKING))
        return true;
    v->id = s->capture_id;
    v->res = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    return false;
}

/* What use of the legacy stream gives while a blocking stream of the context captures; asking alone does that capture no harm. */
static CUresult legacy_beside(const struct sim_ctx *ctx, bool use)
{
    if (atomic_load_explicit(&active, memory_order_relaxed) == 0)
        return CUDA_SUCCESS;
    struct visit v = {.res = CUDA_SUCCESS, .ctx = ctx};
    pthread_mutex_lock(&sim_capture_lock);
    sim_obj_each(SIM_STREAM, find_implicit, &v);
    if (v.res != CUDA_SUCCESS && use)
        invalidate(v.id);
    pthread_mutex_unlock(&sim_capture_lock);
    return v.res;
}

CUresult sim_capture_legacy(const struct sim_ctx *ctx)
{
    return legacy_beside(ctx, true);
}

CUresult sim_cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    if (!mode || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode old = sim_tls.mode;
    sim_tls.mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}

/* ---- recording ---- */

static CUgraphNodeType type_of(uint16_t op)
{
    switch (op) {
    case SIM_OP_LAUNCH:
        return CU_GRAPH_NODE_TYPE_KERNEL;
    case SIM_OP_COPY:
        return CU_GRAPH_NODE_TYPE_MEMCPY;
    case SIM_OP_MEMSET:
        return CU_GRAPH_NODE_TYPE_MEMSET;
    case SIM_OP_HOST_FUNC:
        return CU_GRAPH_NODE_TYPE_HOST;
    case SIM_OP_MEMOP:
        return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    default:
        return CU_GRAPH_NODE_TYPE_EMPTY;
    }
}

/* Makes node the only dependency of what the stream captures next. */
static CUresult advance(struct sim_stream *s, struct sim_node *node)
{
    struct sim_node **deps = malloc(sizeof(struct sim_node *));
    if (!deps)
        return CUDA_ERROR_OUT_OF_MEMORY;
    deps[0] = node;
    free(s->deps);
    s->deps = deps;
    s->ndeps = 1;
    return CUDA_SUCCESS;
}

CUresult sim_capture_request(struct sim_stream *stream, struct sim_request *req)
{
    CUresult res = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    pthread_mutex_lock(&sim_capture_lock);
    if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        struct sim_node *n = sim_node_new(stream->graph, type_of(req->op), stream->deps, stream->ndeps);
        res = n ? sim_work_copy(&n->work, req) : CUDA_ERROR_OUT_OF_MEMORY;
        if (res == CUDA_SUCCESS && req->op == SIM_OP_LAUNCH) {
            struct sim_function *fn; /* a node has the function that a kernel stands for in this context */
            res = sim_function_resolve(req->function, stream->ctx, &fn);
            if (res == CUDA_SUCCESS)
                res = sim_node_set_kernel(n, req, (CUfunction)fn);
        }
        if (res == CUDA_SUCCESS && req->op == SIM_OP_MEMSET)
            n->u.memset = (CUDA_MEMSET_NODE_PARAMS){req->args[2], req->args[3], (unsigned)req->args[5], (unsigned)req->args[4],
                                                    req->args[6], req->args[7]};
        if (res == CUDA_SUCCESS && req->op == SIM_OP_HOST_FUNC) {
            uintptr_t fn = req->args[2];
            memcpy(&n->u.host.fn, &fn, sizeof fn);
            n->u.host.userData = (void *)(uintptr_t)req->args[3];
        }
        if (res == CUDA_SUCCESS && req->op == SIM_OP_MEMOP)
            n->u.context = (CUcontext)stream->ctx;
        if (res == CUDA_SUCCESS)
            res = advance(stream, n);
        if (res != CUDA_SUCCESS)
            invalidate(stream->capture_id);
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_capture_event_node(struct sim_stream *stream, CUevent event, bool record)
{
    CUresult res = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    pthread_mutex_lock(&sim_capture_lock);
    if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        struct sim_node *n = sim_node_new(stream->graph, record ? CU_GRAPH_NODE_TYPE_EVENT_RECORD : CU_GRAPH_NODE_TYPE_WAIT_EVENT, stream->deps, stream->ndeps);
        res = n ? sim_graph_event_work(&n->work, event, record) : CUDA_ERROR_OUT_OF_MEMORY;
        if (res == CUDA_SUCCESS) {
            n->u.event = event;
            res = advance(stream, n);
        }
        if (res != CUDA_SUCCESS)
            invalidate(stream->capture_id);
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_capture_event_record(struct sim_stream *stream, struct sim_event *event)
{
    CUresult res = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    pthread_mutex_lock(&sim_capture_lock);
    if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        struct sim_node **nodes = malloc((stream->ndeps + 1) * sizeof(struct sim_node *));
        res = nodes ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
        if (nodes) {
            if (stream->ndeps)
                memcpy(nodes, stream->deps, stream->ndeps * sizeof(struct sim_node *));
            free(event->nodes);
            event->nodes = nodes;
            event->nnodes = stream->ndeps;
            event->graph = stream->graph;
            event->capture_id = stream->capture_id;
        }
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

/* Brings stream into the capture that recorded event; sim_capture_lock is held. */
static CUresult join(struct sim_stream *stream, const struct sim_event *event)
{
    if (event->graph->capture_id != event->capture_id)
        return CUDA_ERROR_CAPTURED_EVENT;
    if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_NONE) {
        if (stream->kind == SIM_STREAM_LEGACY)
            return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        stream->graph = event->graph;
        stream->capture_id = event->capture_id;
        stream->origin = false;
        stream->deps = NULL;
        stream->ndeps = 0;
        CUresult res = sim_nodes_union(&stream->deps, &stream->ndeps, event->nodes, event->nnodes);
        if (res == CUDA_SUCCESS)
            atomic_store(&stream->capture, CU_STREAM_CAPTURE_STATUS_ACTIVE);
        return res;
    }
    if (stream->capture_id != event->capture_id) {
        invalidate(stream->capture_id);
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    return sim_nodes_union(&stream->deps, &stream->ndeps, event->nodes, event->nnodes);
}

CUresult sim_capture_event_wait(struct sim_stream *stream, struct sim_event *event, bool *handled)
{
    CUresult res = CUDA_SUCCESS;
    *handled = false;
    if (!event->graph && STATUS(stream) == CU_STREAM_CAPTURE_STATUS_NONE)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&sim_capture_lock);
    *handled = true;
    if (STATUS(stream) == CU_STREAM_CAPTURE_STATUS_INVALIDATED) {
        res = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (event->graph) {
        res = join(stream, event);
    } else if (event->stream) { /* work outside the capture */
        invalidate(stream->capture_id);
        res = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

/* ---- beginning and ending ---- */

/* Begins a capture, into a graph of its own or behind nodes of one that is there. */
static CUresult begin(CUstream hStream, CUstreamCaptureMode mode, CUgraph into, const CUgraphNode *deps, size_t ndeps)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    if (s->kind == SIM_STREAM_LEGACY)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    pthread_mutex_lock(&sim_capture_lock);
    struct sim_graph *g = SIM_OBJ(SIM_GRAPH, into);
    struct sim_node **first = NULL;
    size_t nfirst = 0;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_NONE)
        res = CUDA_ERROR_ILLEGAL_STATE;
    else if (into && (!g || g->capture_id || (ndeps && !deps)))
        res = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; res == CUDA_SUCCESS && i < ndeps; i++) {
        struct sim_node *n = SIM_OBJ(SIM_NODE, deps[i]);
        res = n && n->graph == g ? sim_nodes_union(&first, &nfirst, &n, 1) : CUDA_ERROR_INVALID_VALUE;
    }
    if (res == CUDA_SUCCESS && !into && !(g = sim_graph_new()))
        res = CUDA_ERROR_OUT_OF_MEMORY;
    if (res != CUDA_SUCCESS)
        free(first);
    else {
        g->kept = into != NULL;
        s->graph = g;
        s->deps = first;
        s->ndeps = nfirst;
        s->origin = true;
        s->mode = mode;
        s->capturer = pthread_self();
        s->capture_id = g->capture_id = next_capture++;
        atomic_fetch_add(&active, 1);
        atomic_store(&s->capture, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
    return begin(hStream, mode, NULL, NULL, 0);
}

CUresult sim_cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
                                         size_t numDependencies, CUstreamCaptureMode mode)
{
    (void)dependencyData; /* programmatic edges start earlier; waiting for the end is always right */
    return hGraph ? begin(hStream, mode, hGraph, dependencies, numDependencies) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuStreamBeginCapture(CUstream hStream)
{
    return sim_cuStreamBeginCapture_v2(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

/* Marks everything that n depends on, and n. */
static void mark_ancestors(struct sim_node *n)
{
    if (n->mark)
        return;
    n->mark = 1;
    for (size_t i = 0; i < n->ndeps; i++)
        mark_ancestors(n->deps[i]);
}

/* A joined stream must have been waited for by the stream that began the capture. */
static bool check_joined(void *obj, void *arg)
{
    struct sim_stream *s = obj;
    struct visit *v = arg;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_NONE && s->capture_id == v->id && s != v->origin)
        for (size_t i = 0; i < s->ndeps; i++)
            if (!s->deps[i]->mark)
                v->res = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    return true;
}

static bool leave_capture(void *obj, void *arg)
{
    struct sim_stream *s = obj;
    const struct visit *v = arg;
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_NONE && s->capture_id == v->id) {
        atomic_store(&s->capture, CU_STREAM_CAPTURE_STATUS_NONE);
        free(s->deps);
        s->deps = NULL;
        s->ndeps = 0;
        s->graph = NULL;
    }
    return true;
}

CUresult sim_cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!phGraph)
        return CUDA_ERROR_INVALID_VALUE;
    *phGraph = NULL;
    pthread_mutex_lock(&sim_capture_lock);
    struct visit v = {.origin = s, .res = CUDA_SUCCESS};
    if (STATUS(s) == CU_STREAM_CAPTURE_STATUS_NONE) {
        v.res = CUDA_ERROR_ILLEGAL_STATE;
    } else if (!s->origin) {
        invalidate(s->capture_id);
        v.res = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    } else if (s->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(s->capturer, pthread_self())) {
        v.res = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    } else {
        struct sim_graph *g = s->graph;
        v.id = s->capture_id;
        if (STATUS(s) == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
            v.res = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        for (size_t i = 0; i < g->n; i++)
            g->nodes[i]->mark = 0;
        for (size_t i = 0; i < s->ndeps; i++)
            mark_ancestors(s->deps[i]);
        if (v.res == CUDA_SUCCESS)
            sim_obj_each(SIM_STREAM, check_joined, &v);
        sim_obj_each(SIM_STREAM, leave_capture, &v);
        atomic_fetch_sub(&active, 1);
        g->capture_id = 0;
        if (v.res == CUDA_SUCCESS)
            *phGraph = (CUgraph)g;
        else if (!g->kept)
            sim_graph_free(g);
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return v.res;
}

CUresult sim_cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !captureStatus)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS && s->kind == SIM_STREAM_LEGACY)
        res = legacy_beside(s->ctx, false);
    if (res == CUDA_SUCCESS)
        *captureStatus = STATUS(s);
    return res;
}

CUresult sim_cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out, CUgraph *graph_out,
                                       const CUgraphNode **dependencies_out, const CUgraphEdgeData **edgeData_out, size_t *numDependencies_out)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!captureStatus_out)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    *captureStatus_out = STATUS(s);
    if (STATUS(s) == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        if (id_out)
            *id_out = s->capture_id;
        if (graph_out)
            *graph_out = (CUgraph)s->graph;
        if (dependencies_out)
            *dependencies_out = (const CUgraphNode *)(void *)s->deps;
        if (numDependencies_out)
            *numDependencies_out = s->ndeps;
        if (edgeData_out)
            *edgeData_out = NULL;
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return CUDA_SUCCESS;
}

CUresult sim_cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out, CUgraph *graph_out,
                                       const CUgraphNode **dependencies_out, size_t *numDependencies_out)
{
    return sim_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, graph_out, dependencies_out, NULL, numDependencies_out);
}

CUresult sim_cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out)
{
    return sim_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, NULL, NULL, NULL, NULL);
}

CUresult sim_cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode *dependencies, size_t numDependencies, unsigned int flags)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (numDependencies && !dependencies))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    if (STATUS(s) != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        res = CUDA_ERROR_ILLEGAL_STATE;
    for (size_t i = 0; res == CUDA_SUCCESS && i < numDependencies; i++) {
        const struct sim_node *n = SIM_OBJ(SIM_NODE, dependencies[i]);
        if (!n || n->graph != s->graph)
            res = CUDA_ERROR_INVALID_VALUE;
    }
    if (res == CUDA_SUCCESS && flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        s->ndeps = 0;
    if (res == CUDA_SUCCESS)
        res = sim_nodes_union(&s->deps, &s->ndeps, (struct sim_node *const *)(void *)dependencies, numDependencies);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
                                                  size_t numDependencies, unsigned int flags)
{
    if (dependencyData)
        for (size_t i = 0; i < numDependencies; i++)
            if (dependencyData[i].type != CU_GRAPH_DEPENDENCY_TYPE_DEFAULT)
                return CUDA_ERROR_NOT_SUPPORTED;
    return sim_cuStreamUpdateCaptureDependencies(hStream, dependencies, numDependencies, flags);
}
