/* clock.c: the virtual clock: work that is ten times as long takes about ten times as long, in the model. */
#include "check.h"

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry work(.param .u32 n)\n{\n  .reg .pred %p;\n  .reg .b32 %r<3>;\n  ld.param.u32 %r1, [n];\nL:\n  sub.u32 %r1, %r1, 1;\n"
    "  setp.ne.u32 %p, %r1, 0;\n  @%p bra L;\n  ret;\n}\n";

static float measure(CUfunction f, unsigned n, unsigned blocks)
{
    CUevent a, b;
    float ms;
    void *params[] = {&n};
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    OK(cuEventRecord(a, NULL));
    OK(cuLaunchKernel(f, blocks, 1, 1, 64, 1, 1, 0, NULL, params, NULL));
    OK(cuEventRecord(b, NULL));
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime(&ms, a, b));
    OK(cuEventDestroy(a));
    OK(cuEventDestroy(b));
    return ms * 1000;
}

int main(void)
{
    CUmodule m;
    CUfunction f;
    primary();
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "work"));
    float empty = measure(f, 1, 1), one = measure(f, 2000, 1), ten = measure(f, 20000, 1), wide = measure(f, 2000, 132);
    printf("%.2f %.2f %.2f %.2f us\n", empty, one, ten, wide);
    TRUE(empty > 1 && empty < 10);
    TRUE(ten - empty > 8 * (one - empty) && ten - empty < 12 * (one - empty));
    TRUE(wide < 1.2f * one); /* 132 blocks fit side by side */
    return 0;
}
