/* memops.c: two processes that wait for each other's streams through a shared page. */

#include "check.h"
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 50

/* words[0]: written by the parent's stream; words[64]: by the child's. */
static void play(CUdeviceptr mine, CUdeviceptr theirs, _Atomic unsigned *seen, int first)
{
    CUstream s;
    CUdeviceptr counter;
    unsigned v;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&counter, 4));
    for (unsigned i = 1; i <= ROUNDS; i++) {
        if (first) {
            OK(cuStreamWriteValue32(s, mine, i, 0));
            OK(cuStreamWaitValue32(s, theirs, i, CU_STREAM_WAIT_VALUE_GEQ));
        } else {
            OK(cuStreamWaitValue32(s, theirs, i, CU_STREAM_WAIT_VALUE_GEQ));
            OK(cuStreamWriteValue32(s, mine, i, CU_STREAM_WRITE_VALUE_DEFAULT));
        }
        OK(cuMemsetD32Async(counter, i, 1, s));
    }
    OK(cuStreamSynchronize(s));
    OK(cuMemcpyDtoH(&v, counter, 4));
    TRUE(v == ROUNDS && atomic_load(seen) == ROUNDS);
    OK(cuStreamDestroy(s));
    OK(cuMemFree(counter));
}

static void flavours(CUdeviceptr at, volatile unsigned *word)
{
    CUstream s;
    CUstreamBatchMemOpParams ops[3];
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    *word = 6;
    OK(cuStreamWaitValue32(s, at, 2, CU_STREAM_WAIT_VALUE_AND));
    OK(cuStreamWaitValue32(s, at, 5, CU_STREAM_WAIT_VALUE_GEQ));
    OK(cuStreamWaitValue32(s, at, 0xfffffff0u, CU_STREAM_WAIT_VALUE_GEQ)); /* cyclic: 6 is after it */
    OK(cuStreamWaitValue32(s, at, 6, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuStreamWaitValue32(s, at, 1, CU_STREAM_WAIT_VALUE_NOR));
    OK(cuStreamWriteValue64(s, at + 8, 0x1122334455667788ull, 0));
    OK(cuStreamWaitValue64(s, at + 8, 0x1122334455667788ull, CU_STREAM_WAIT_VALUE_EQ));
    memset(ops, 0, sizeof ops);
    ops[0].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    ops[0].writeValue.address = at + 16;
    ops[0].writeValue.value = 9;
    ops[1].operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    ops[1].waitValue.address = at + 16;
    ops[1].waitValue.value = 9;
    ops[1].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    ops[2].operation = CU_STREAM_MEM_OP_BARRIER;
    OK(cuStreamBatchMemOp(s, 3, ops, 0));
    OK(cuStreamSynchronize(s));
    TRUE(word[4] == 9 && word[2] == 0x55667788u);
    IS(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(s, at + 2, 1, 0)); /* unaligned */
    IS(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(s, 0x1000, 1, 0)); /* not ours */
    IS(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(s, 0, ops, 0));
    OK(cuStreamDestroy(s));
}

int main(void)
{
    int fd = memfd_create("shared", 0), status;
    TRUE(fd >= 0 && ftruncate(fd, 8192) == 0);
    unsigned *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRUE(page != MAP_FAILED);
    pid_t child = fork();
    CUdeviceptr at;
    primary();
    OK(cuMemHostRegister(page, 8192, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
    OK(cuMemHostGetDevicePointer(&at, page, 0));
    TRUE(at == (CUdeviceptr)(uintptr_t)page);
    if (child == 0) {
        play(at + 256, at, (_Atomic unsigned *)&page[0], 0);
        OK(cuMemHostUnregister(page));
        return 0;
    }
    play(at, at + 256, (_Atomic unsigned *)&page[64], 1);
    TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    flavours(at + 4096, (volatile unsigned *)(page + 1024));
    OK(cuMemHostUnregister(page));
    IS(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(page));
    return 0;
}
