/* graphevent.c: nodes that record events or wait for them, and nodes of batched memory operations. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

static struct sim_node *node_of(CUgraphNode h, CUgraphNodeType type)
{
    struct sim_node *n = SIM_OBJ(SIM_NODE, h);
    return n && n->type == type ? n : NULL;
}

/* ---- events ---- */

CUresult sim_graph_event_work(struct sim_work *work, CUevent event, bool record)
{
    const struct sim_event *e = SIM_OBJ(SIM_EVENT, event);
    if (!e)
        return CUDA_ERROR_INVALID_HANDLE;
    SIM_REQ(req, record ? SIM_OP_EVENT_RECORD : SIM_OP_EVENT_WAIT, 0, 0, e->obj.index);
    CUresult res = sim_work_copy(work, &req);
    if (res == CUDA_SUCCESS)
        work->event = event;
    return res;
}

static CUresult set_event(struct sim_node *n, CUevent event)
{
    CUresult res = n ? sim_graph_event_work(&n->work, event, n->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD) : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        n->u.event = event;
    return res;
}

static CUresult event_node(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t ndeps, CUevent event, CUgraphNodeType type)
{
    struct sim_node *n;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(out, g, deps, ndeps, type, &n);
    if (res == CUDA_SUCCESS && (res = set_event(n, event)) != CUDA_SUCCESS)
        sim_node_drop_last(n);
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

static CUresult get_event(CUgraphNode h, CUgraphNodeType type, CUevent *event)
{
    const struct sim_node *n = node_of(h, type);
    if (!n || !event)
        return CUDA_ERROR_INVALID_VALUE;
    *event = n->u.event;
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies, CUevent event)
{
    return event_node(phGraphNode, hGraph, dependencies, numDependencies, event, CU_GRAPH_NODE_TYPE_EVENT_RECORD);
}

CUresult sim_cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies, CUevent event)
{
    return event_node(phGraphNode, hGraph, dependencies, numDependencies, event, CU_GRAPH_NODE_TYPE_WAIT_EVENT);
}

CUresult sim_cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    return get_event(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out);
}

CUresult sim_cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    return get_event(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out);
}

CUresult sim_cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    return set_event(node_of(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD), event);
}

CUresult sim_cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    return set_event(node_of(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT), event);
}

/* ---- memory operations ---- */

CUresult sim_graph_memop_work(struct sim_work *work, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p)
{
    if (p->flags || !p->count || p->count > SIM_MAX_MEMOPS || !p->paramArray)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t *list = malloc(p->count * 4 * sizeof *list);
    if (!list)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult res = CUDA_SUCCESS;
    for (unsigned i = 0; i < p->count && res == CUDA_SUCCESS; i++)
        res = sim_memop_item(&p->paramArray[i], list + (size_t)i * 4);
    if (res == CUDA_SUCCESS) {
        SIM_REQ(req, SIM_OP_MEMOP, 0, 0, p->count);
        req.more = list;
        req.nmore = (size_t)p->count * 4;
        res = sim_work_copy(work, &req);
    }
    free(list);
    return res;
}

CUresult sim_cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies,
                                      const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    struct sim_node *n;
    if (!nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&sim_capture_lock);
    CUresult res = sim_node_add(phGraphNode, hGraph, dependencies, numDependencies, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &n);
    if (res == CUDA_SUCCESS && (res = sim_graph_memop_work(&n->work, nodeParams)) != CUDA_SUCCESS)
        sim_node_drop_last(n);
    else if (res == CUDA_SUCCESS)
        n->u.context = nodeParams->ctx;
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode, CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)
{
    struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    if (!n || !nodeParams_out)
        return CUDA_ERROR_INVALID_VALUE;
    size_t count = n->work.args[2]; /* four words each behind it, in whichever part of the request */
    CUstreamBatchMemOpParams *ops = calloc(count, sizeof *ops);
    if (!ops)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const uint64_t *item = n->work.args + 3 + i * 4;
        bool wait = item[0] == SIM_MEMOP_WAIT32 || item[0] == SIM_MEMOP_WAIT64, wide = item[0] == SIM_MEMOP_WAIT64 || item[0] == SIM_MEMOP_WRITE64;
        if (item[0] == SIM_MEMOP_BARRIER) {
            ops[i].operation = CU_STREAM_MEM_OP_BARRIER;
            continue;
        }
        ops[i].operation = wait ? (wide ? CU_STREAM_MEM_OP_WAIT_VALUE_64 : CU_STREAM_MEM_OP_WAIT_VALUE_32)
                                : (wide ? CU_STREAM_MEM_OP_WRITE_VALUE_64 : CU_STREAM_MEM_OP_WRITE_VALUE_32);
        ops[i].waitValue.address = item[1];
        ops[i].waitValue.value64 = item[2];
        ops[i].waitValue.flags = (unsigned)item[3];
    }
    free(n->memops);
    n->memops = ops;
    *nodeParams_out = (CUDA_BATCH_MEM_OP_NODE_PARAMS){.ctx = n->u.context, .count = (unsigned)count, .paramArray = ops};
    return CUDA_SUCCESS;
}

CUresult sim_cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    struct sim_node *n = node_of(hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    return n && nodeParams ? sim_graph_memop_work(&n->work, nodeParams) : CUDA_ERROR_INVALID_VALUE;
}
