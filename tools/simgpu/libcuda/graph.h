/* graph.h: graphs, their nodes and their executable form; for capture.c, graph.c and graphexec.c. */
#ifndef SIM_GRAPH_H
#define SIM_GRAPH_H

#include "sim.h"

/* A request as a node keeps it: what sim_submit sends, but for stream and sequence number. */
struct sim_work {
    uint16_t op; /* 0: nothing to do */
    uint16_t nargs;
    size_t nmore, blob_len;
    CUfunction function; /* of a launch */
    CUevent event;       /* that is recorded or waited for */
    uint64_t *args; /* nargs, then nmore */
    void *blob;
};

struct sim_node {
    struct sim_obj obj;
    struct sim_graph *graph;
    CUgraphNodeType type;
    struct sim_work work;
    struct sim_node **deps;
    size_t ndeps;
    uint64_t id;     /* unique, also after the handle is reused */
    uint64_t origin; /* of a copy: the original's id */
    /* what GetParams gives back */
    union {
        CUDA_KERNEL_NODE_PARAMS kernel;
        CUDA_MEMSET_NODE_PARAMS memset;
        CUDA_HOST_NODE_PARAMS host;
        CUevent event;
        CUcontext context; /* of memory operations */
        struct sim_graph *child;
    } u;
    void **params; /* of u.kernel, into work.blob */
    CUDA_MEMCPY3D *copy;
    CUstreamBatchMemOpParams *memops; /* made when they are asked for */
    size_t mark; /* scratch of traversals, under sim_capture_lock */
};

struct sim_graph {
    struct sim_obj obj;
    struct sim_node **nodes;
    size_t n, cap;
    uint64_t capture_id; /* of the capture that fills it; 0: none */
    bool owned;          /* a child graph: its parent frees it */
    bool kept;           /* captured into: it stays when the capture fails */
};

/* All of these want sim_capture_lock held. */
struct sim_graph *sim_graph_new(void);
void sim_graph_free(struct sim_graph *g);
struct sim_node *sim_node_new(struct sim_graph *g, CUgraphNodeType type, struct sim_node *const *deps, size_t ndeps);
void sim_node_free(struct sim_node *n);
CUresult sim_work_copy(struct sim_work *w, const struct sim_request *req);
void sim_work_free(struct sim_work *w);
void sim_work_request(const struct sim_work *w, struct sim_request *req);
CUresult sim_node_set_kernel(struct sim_node *n, const struct sim_request *req, CUfunction f);
CUresult sim_nodes_union(struct sim_node ***list, size_t *n, struct sim_node *const *add, size_t nadd);
/* The graph's nodes, dependencies first; NULL if there is a cycle or no memory. Freed by the caller. */
struct sim_node **sim_graph_order(const struct sim_graph *g);

uint64_t sim_node_id(void);
/* Checks a new node's arguments and makes it. */
CUresult sim_node_add(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps, size_t ndeps, CUgraphNodeType type, struct sim_node **node);
/* Takes a node out that could not be filled; it is its graph's last. */
void sim_node_drop_last(struct sim_node *n);
struct sim_graph *sim_graph_clone(const struct sim_graph *g);
/* A copy without child graphs: their nodes stand in their place. Ids stay. */
struct sim_graph *sim_graph_flatten(const struct sim_graph *g);

/* Fill work from parameters of a node. */
CUresult sim_graph_kernel_work(struct sim_work *work, const CUDA_KERNEL_NODE_PARAMS *p);
CUresult sim_graph_memset_work(struct sim_work *work, const CUDA_MEMSET_NODE_PARAMS *p);
CUresult sim_graph_host_work(struct sim_work *work, const CUDA_HOST_NODE_PARAMS *p);
CUresult sim_graph_event_work(struct sim_work *work, CUevent event, bool record);
CUresult sim_graph_memop_work(struct sim_work *work, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p);

#endif
