/* fork.c: CUDA is over in the child of a process that initialised it, and fresh in one whose parent did not. */
#include "check.h"
#include <sys/wait.h>
#include <unistd.h>

static void expect_child_ok(pid_t child)
{
    int status;
    TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    CUdeviceptr p;
    pid_t child = fork();
    if (child == 0) { /* before cuInit: the child is a client of its own */
        primary();
        OK(cuMemAlloc(&p, 100));
        OK(cuMemsetD8(p, 1, 100));
        OK(cuCtxSynchronize());
        _exit(0);
    }
    expect_child_ok(child);
    primary();
    OK(cuMemAlloc(&p, 100));
    child = fork();
    if (child == 0) {
        int n;
        CUdeviceptr q;
        IS(CUDA_ERROR_NOT_INITIALIZED, cuInit(0));
        IS(CUDA_ERROR_NOT_INITIALIZED, cuMemAlloc(&q, 100));
        IS(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&n));
        OK(cuDriverGetVersion(&n));
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    expect_child_ok(child);
    OK(cuMemsetD8(p, 1, 100)); /* the parent is as before */
    OK(cuCtxSynchronize());
    OK(cuMemFree(p));
    return 0;
}
