/*
 * wide.c: a launch as Heddle coalesces them: the parameters of many instances as one block of 32,764 bytes, read by register; the
 * instance from %ctaid.z; the last block of each instance, found by a counter in device memory, stores a word into registered host
 * memory that another process sees. Then what such a launch costs beside its instances one after another, in virtual time.
 */
#include "check.h"
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const char ptx[] =
    ".version 8.1\n.target sm_90\n.address_size 64\n"
    ".visible .entry word(.param .align 8 .b8 all[32764])\n{\n"
    "  .reg .pred %p<4>;\n  .reg .b32 %r<16>;\n  .reg .b64 %rd<12>;\n"
    "  mov.u32 %r1, %ctaid.z;\n  mul.wide.u32 %rd1, %r1, 48;\n  mov.u64 %rd2, all;\n  add.u64 %rd3, %rd2, %rd1;\n"
    "  ld.param.u64 %rd4, [%rd3];\n  ld.param.u32 %r2, [%rd3+8];\n"  /* out, rounds */
    "  mov.u32 %r3, %tid.x;\n  mov.u32 %r4, %ctaid.x;\n  mov.u32 %r5, %ntid.x;\n  mad.lo.u32 %r6, %r4, %r5, %r3;\n  mov.u32 %r7, %r6;\n"
    "L:\n  setp.eq.u32 %p1, %r2, 0;\n  @%p1 bra D;\n  mad.lo.u32 %r7, %r7, 5, %r1;\n  sub.u32 %r2, %r2, 1;\n  bra L;\n"
    "D:\n  mul.wide.u32 %rd5, %r6, 4;\n  add.u64 %rd6, %rd4, %rd5;\n  st.global.u32 [%rd6], %r7;\n"
    "  ld.param.u64 %rd7, [%rd3+16];\n  setp.eq.u64 %p2, %rd7, 0;\n  @%p2 ret;\n" /* done; counter, value, threads */
    "  fence.sc.sys;\n  ld.param.u64 %rd8, [%rd3+24];\n  ld.param.u32 %r8, [%rd3+36];\n  sub.u32 %r9, %r8, 1;\n"
    "  atom.acq_rel.gpu.global.inc.u32 %r10, [%rd8], %r9;\n  setp.ne.u32 %p3, %r10, %r9;\n  @%p3 ret;\n"
    "  ld.param.u32 %r11, [%rd3+32];\n  st.release.sys.u32 [%rd7], %r11;\n  ret;\n}\n";

enum { STRIDE = 48, PARAMS = 32764, MOST = PARAMS / STRIDE, THREADS = 128 };
static CUfunction f;
static CUstream s;
static CUdeviceptr out, counters;
static volatile uint32_t *done;

static void launch(unsigned first, unsigned n, unsigned blocks, unsigned rounds, uint32_t value)
{
    static unsigned char block[PARAMS];
    for (unsigned i = 0; i < n; i++) {
        unsigned char *p = block + i * STRIDE;
        uint64_t o = out + (uint64_t)(first + i) * blocks * THREADS * 4, d = value ? (uint64_t)(uintptr_t)&done[first + i] : 0;
        uint64_t c = counters + (first + i) * 4;
        uint32_t threads = blocks * THREADS;
        memcpy(p, &o, 8), memcpy(p + 8, &rounds, 4), memcpy(p + 16, &d, 8), memcpy(p + 24, &c, 8), memcpy(p + 32, &value, 4);
        memcpy(p + 36, &threads, 4);
    }
    void *params[] = {block};
    OK(cuLaunchKernel(f, blocks, 1, n, THREADS, 1, 1, 0, s, params, NULL));
}

/* Microseconds from the first launch to the end of the last, as the host's clock and the device's have it. */
static float measure(unsigned launches, unsigned instances, unsigned blocks, unsigned rounds)
{
    CUevent a, b;
    float ms;
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    OK(cuStreamSynchronize(s));
    OK(cuEventRecord(a, s));
    for (unsigned i = 0; i < launches; i++)
        launch(i, instances, blocks, rounds, 0);
    OK(cuEventRecord(b, s));
    OK(cuStreamSynchronize(s));
    OK(cuEventElapsedTime(&ms, a, b));
    OK(cuEventDestroy(a));
    OK(cuEventDestroy(b));
    return ms * 1000;
}

int main(void)
{
    CUmodule m;
    int n, regs;
    primary();
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "word"));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuFuncGetAttribute(&regs, CU_FUNC_ATTRIBUTE_NUM_REGS, f));
    TRUE(regs >= 16 && regs <= 255);
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, f, THREADS, 0));
    TRUE(n == 16);
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, f, THREADS, 64 << 10));
    TRUE(n == 3);
    OK(cuMemAlloc(&out, 64 << 20));
    OK(cuMemAlloc(&counters, MOST * 4));
    OK(cuMemsetD32Async(counters, 0, MOST, s));
    /* One H100, µs: blocks, rounds that take about so many µs, instances, one after another, as one launch. */
    static const struct {
        unsigned blocks, us, instances;
        float serial, coalesced;
    } measured[] = {{4, 1, 8, 43, 11}, {4, 1, 32, 152, 11}, {4, 1, 128, 584, 12}, {16, 4, 32, 226, 18}};
    int good = 1;
    for (size_t i = 0; i < sizeof measured / sizeof *measured; i++) {
        unsigned rounds = measured[i].us * 117; /* 5 instructions a round, 3 clocks each, 1.755 GHz */
        float serial = measure(measured[i].instances, 1, measured[i].blocks, rounds), wide = measure(1, measured[i].instances, measured[i].blocks, rounds);
        int here = serial > 0.75f * measured[i].serial && serial < 1.3f * measured[i].serial &&
                   wide > 0.6f * measured[i].coalesced && wide < 1.3f * measured[i].coalesced;
        printf("%3u blocks of %2u us x %3u: %6.1f in a row (measured %.0f), %6.1f as one (%.0f)%s\n", measured[i].blocks, measured[i].us,
               measured[i].instances, serial, measured[i].serial, wide, measured[i].coalesced, here ? "" : "  TOO FAR");
        good &= here;
    }
    TRUE(good);

    int fd = memfd_create("words", MFD_CLOEXEC);
    TRUE(fd >= 0 && ftruncate(fd, 4096) == 0);
    done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRUE(done != MAP_FAILED);
    OK(cuMemHostRegister((void *)done, 4096, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE));

    pid_t child = fork(); /* waits for the words like a client, through the file alone */
    if (child == 0) {
        const volatile uint32_t *words = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        for (unsigned i = 0; i < MOST; i++)
            while (words[i] != 7 + i / MOST)
                usleep(50);
        _exit(0);
    }
    launch(0, MOST, 3, 5, 7); /* the widest there is */
    int how;
    TRUE(waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 0);
    OK(cuStreamSynchronize(s));
    static uint32_t back[MOST * 3 * THREADS], zero[MOST];
    OK(cuMemcpyDtoH(back, out, sizeof back));
    for (unsigned i = 0; i < MOST; i++)
        for (unsigned k = 0; k < 3 * THREADS; k++) {
            uint32_t v = k;
            for (int j = 0; j < 5; j++)
                v = v * 5 + i;
            TRUE(back[i * 3 * THREADS + k] == v);
        }
    OK(cuMemcpyDtoH(zero, counters, sizeof zero));
    for (unsigned i = 0; i < MOST; i++)
        TRUE(zero[i] == 0);
    OK(cuMemHostUnregister((void *)done));
    return 0;
}
