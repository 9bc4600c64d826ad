/* ipc.c: legacy handles of memory and events between two processes. */
#include "check.h"
#include <sys/wait.h>
#include <unistd.h>

struct message {
    CUipcMemHandle mem;
    CUipcEventHandle event;
};

int main(void)
{
    int down[2], up[2], status;
    char c = 0;
    struct message msg;
    CUdeviceptr p;
    CUevent e;
    CUstream s;
    unsigned v[2];
    TRUE(pipe(down) == 0 && pipe(up) == 0);
    pid_t child = fork();
    primary();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    if (child == 0) {
        TRUE(read(down[0], &msg, sizeof msg) == sizeof msg);
        OK(cuIpcOpenMemHandle(&p, msg.mem, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
        OK(cuIpcOpenEventHandle(&e, msg.event));
        OK(cuStreamWaitEvent(s, e, 0)); /* recorded by the parent, after its fill */
        OK(cuMemcpyDtoHAsync(v, p, 8, s));
        OK(cuStreamSynchronize(s));
        TRUE(v[0] == 0xa1 && v[1] == 0xa1);
        OK(cuMemsetD32Async(p, 0xb2, 1, s));
        OK(cuEventRecord(e, s));
        OK(cuStreamSynchronize(s));
        TRUE(write(up[1], &c, 1) == 1 && read(down[0], &c, 1) == 1);
        OK(cuIpcCloseMemHandle(p));
        IS(CUDA_ERROR_INVALID_VALUE, cuIpcCloseMemHandle(p));
        OK(cuEventDestroy(e));
        return 0;
    }
    OK(cuMemAlloc(&p, 8));
    OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
    OK(cuIpcGetMemHandle(&msg.mem, p));
    OK(cuIpcGetEventHandle(&msg.event, e));
    OK(cuMemsetD32Async(p, 0xa1, 2, s));
    OK(cuEventRecord(e, s));
    TRUE(write(down[1], &msg, sizeof msg) == sizeof msg);
    TRUE(read(up[0], &c, 1) == 1);
    OK(cuEventSynchronize(e)); /* the child's record */
    OK(cuEventQuery(e));
    OK(cuMemcpyDtoH(v, p, 8));
    TRUE(v[0] == 0xb2 && v[1] == 0xa1);
    TRUE(write(down[1], &c, 1) == 1);
    TRUE(waitpid(child, &status, 0) == child && status == 0);
    CUevent plain;
    CUipcEventHandle h;
    CUmemGenericAllocationHandle g;
    OK(cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING));
    IS(CUDA_ERROR_INVALID_HANDLE, cuIpcGetEventHandle(&h, plain));
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc all = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr at;
    OK(cuMemCreate(&g, 2 << 20, &prop, 0));
    OK(cuMemAddressReserve(&at, 2 << 20, 0, 0, 0));
    OK(cuMemMap(at, 2 << 20, 0, g, 0));
    OK(cuMemSetAccess(at, 2 << 20, &all, 1));
    IS(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&msg.mem, at)); /* mapped memory has no legacy handle */
    OK(cuMemUnmap(at, 2 << 20));
    OK(cuMemAddressFree(at, 2 << 20));
    OK(cuMemRelease(g));
    OK(cuMemFree(p));
    return 0;
}
