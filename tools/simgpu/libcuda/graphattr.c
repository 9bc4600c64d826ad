/*
 * graphattr.c: attributes of kernel nodes. Those that change what a launch is (cooperative, cluster) are part of its request; the
 * others say how fast it runs, and are taken and forgotten.
 */
#include <string.h>

#include "graph.h"

static struct sim_node *kernel_node(CUgraphNode h)
{
    struct sim_node *n = SIM_OBJ(SIM_NODE, h);
    return n && n->type == CU_GRAPH_NODE_TYPE_KERNEL && n->work.op == SIM_OP_LAUNCH ? n : NULL;
}

CUresult sim_cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr, const CUkernelNodeAttrValue *value)
{
    pthread_mutex_lock(&sim_capture_lock);
    struct sim_node *n = kernel_node(hNode);
    CUresult res = n && value ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    uint64_t *a = n ? n->work.args : NULL;
    if (res == CUDA_SUCCESS)
        switch ((int)attr) {
        case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
            a[14] = value->cooperative != 0;
            break;
        case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            if (!value->clusterDim.x || !value->clusterDim.y || !value->clusterDim.z) {
                res = CUDA_ERROR_INVALID_VALUE;
                break;
            }
            a[10] = value->clusterDim.x;
            a[11] = value->clusterDim.y;
            a[12] = value->clusterDim.z;
            break;
        default:
            if (attr < 0 || attr >= CU_LAUNCH_ATTRIBUTE_MAX)
                res = CUDA_ERROR_INVALID_VALUE;
        }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr, CUkernelNodeAttrValue *value)
{
    pthread_mutex_lock(&sim_capture_lock);
    const struct sim_node *n = kernel_node(hNode);
    CUresult res = n && value && attr >= 0 && attr < CU_LAUNCH_ATTRIBUTE_MAX ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS) {
        const uint64_t *a = n->work.args;
        memset(value, 0, sizeof *value);
        if (attr == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
            value->cooperative = a[14] != 0;
        if (attr == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION && a[10] * a[11] * a[12] > 1) {
            value->clusterDim.x = (unsigned)a[10];
            value->clusterDim.y = (unsigned)a[11];
            value->clusterDim.z = (unsigned)a[12];
        }
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return res;
}

CUresult sim_cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
    pthread_mutex_lock(&sim_capture_lock);
    struct sim_node *to = kernel_node(dst);
    const struct sim_node *from = kernel_node(src);
    if (to && from) {
        memcpy(&to->work.args[10], &from->work.args[10], 3 * sizeof to->work.args[0]);
        to->work.args[14] = from->work.args[14];
    }
    pthread_mutex_unlock(&sim_capture_lock);
    return to && from ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
