// What our test kernels need, once for nvcc (which makes the PTX) and once for
// gcc (which makes the reference): the same kernel source is compiled by both.
//
// On the host every thread of a block is a coroutine; __syncthreads and the
// warp operations switch between them. Nothing here is shared with the
// interpreter, so that agreement means something.
#ifndef HEDDLE_KERNELS_DEVICE_H
#define HEDDLE_KERNELS_DEVICE_H

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define FUNCTION static __device__ __noinline__
#define SHARED __shared__
#define CONSTANT __constant__
#define GLOBAL __device__
#define DYNAMIC(T, name) extern __shared__ u32 heddle_dyn[]; T *name = (T *)heddle_dyn
#define TX threadIdx.x
#define TY threadIdx.y
#define TZ threadIdx.z
#define BX blockIdx.x
#define BY blockIdx.y
#define BZ blockIdx.z
#define NX blockDim.x
#define NY blockDim.y
#define NZ blockDim.z
#define GX gridDim.x
#define GY gridDim.y
#define GZ gridDim.z
#define LANE (threadIdx.x & 31)
#define SYNC() __syncthreads()
#define SYNCWARP(m) __syncwarp(m)
#define YIELD() __nanosleep(20)
#define VOLATILE(T, p) (*(volatile T *)(p))
#define FMAF(a, b, c) __fmaf_rn(a, b, c)
#define FMA(a, b, c) __fma_rn(a, b, c)
#define ALIGNED(n) __align__(n)
#define BYVALUE const __grid_constant__

#else

#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define ALIGNED(n) __attribute__((aligned(n)))
#define BYVALUE const
typedef struct { float x, y; } ALIGNED(8) float2;
typedef struct { float x, y, z, w; } ALIGNED(16) float4;
typedef struct { double x, y; } ALIGNED(16) double2;
typedef struct { u32 x, y; } ALIGNED(8) uint2;
typedef struct { u32 x, y, z, w; } ALIGNED(16) uint4;
typedef struct { u8 x, y, z, w; } ALIGNED(4) uchar4;
typedef struct { u16 x, y, z, w; } ALIGNED(8) ushort4;
#define KERNEL void
#define DEVICE static inline
#define FUNCTION static __attribute__((noinline))
#define SHARED static
#define CONSTANT static
#define GLOBAL static
#define DYNAMIC(T, name) T *name = (T *)hd_dyn
#define TX hd_t->x
#define TY hd_t->y
#define TZ hd_t->z
#define BX hd_block[0]
#define BY hd_block[1]
#define BZ hd_block[2]
#define NX hd_ntid[0]
#define NY hd_ntid[1]
#define NZ hd_ntid[2]
#define GX hd_grid[0]
#define GY hd_grid[1]
#define GZ hd_grid[2]
#define LANE (hd_t->n & 31)
#define YIELD() hd_yield()
#define VOLATILE(T, p) (*(volatile T *)(p))
#define FMAF(a, b, c) fmaf(a, b, c)
#define FMA(a, b, c) fma(a, b, c)
#define max(a, b) ((a) > (b) ? (a) : (b))
#define min(a, b) ((a) < (b) ? (a) : (b))

struct hd_thread {
	u32 x, y, z, n;
	int done, released;
	u32 waiting;
	u64 slot;
	ucontext_t ctx;
	char *stack;
};
static struct hd_thread *hd_t, hd_threads[1024];
static u32 hd_block[3], hd_ntid[3], hd_grid[3], hd_count, hd_live, hd_arrived, hd_gen;
static ucontext_t hd_main;
static u64 hd_dyn[32768];

static void hd_yield(void) { swapcontext(&hd_t->ctx, &hd_main); }

static void hd_block_check(void) {
	if (hd_arrived > 0 && hd_arrived >= hd_live) {
		hd_arrived = 0;
		hd_gen++;
	}
}
static void SYNC(void) {
	u32 gen = hd_gen;
	hd_arrived++;
	hd_block_check();
	while (hd_gen == gen)
		hd_yield();
}
// Waits until every lane of mask waits with the same mask.
static void SYNCWARP(u32 mask) {
	struct hd_thread *w = &hd_threads[hd_t->n & ~31u];
	struct hd_thread *me = hd_t;
	me->waiting = mask;
	me->released = 0;
	for (int l = 0; l < 32; l++)
		if ((mask >> l & 1) && !w[l].done && w[l].waiting != mask) {
			while (!me->released)
				hd_yield();
			return;
		}
	for (int l = 0; l < 32; l++)
		if (mask >> l & 1) {
			w[l].released = 1;
			w[l].waiting = 0;
		}
}
static u64 hd_exchange(u32 mask, u64 v, int from) {
	struct hd_thread *w = &hd_threads[hd_t->n & ~31u];
	hd_t->slot = v;
	SYNCWARP(mask);
	u64 r = w[from].slot;
	SYNCWARP(mask);
	return r;
}
static int hd_shfl_from(int lane, int b, int width, int mode) {
	int base = lane & ~(width - 1), j = lane;
	if (mode == 0)
		j = base | (b & (width - 1));
	else if (mode == 1)
		j = lane - b >= base ? lane - b : lane;
	else if (mode == 2)
		j = lane + b < base + width ? lane + b : lane;
	else
		j = (lane ^ b) < base + width ? lane ^ b : lane;
	return j;
}
static u32 __shfl_sync(u32 m, u32 v, int b, int w) { return hd_exchange(m, v, hd_shfl_from(LANE, b, w, 0)); }
static u32 __shfl_up_sync(u32 m, u32 v, int b, int w) { return hd_exchange(m, v, hd_shfl_from(LANE, b, w, 1)); }
static u32 __shfl_down_sync(u32 m, u32 v, int b, int w) { return hd_exchange(m, v, hd_shfl_from(LANE, b, w, 2)); }
static u32 __shfl_xor_sync(u32 m, u32 v, int b, int w) { return hd_exchange(m, v, hd_shfl_from(LANE, b, w, 3)); }
static u32 __ballot_sync(u32 m, int p) {
	struct hd_thread *w = &hd_threads[hd_t->n & ~31u];
	hd_t->slot = p != 0;
	SYNCWARP(m);
	u32 r = 0;
	for (int l = 0; l < 32; l++)
		if (m >> l & 1)
			r |= (u32)w[l].slot << l;
	SYNCWARP(m);
	return r;
}
static int __all_sync(u32 m, int p) { return __ballot_sync(m, p) == m; }
static int __any_sync(u32 m, int p) { return __ballot_sync(m, p) != 0; }
static u32 __match_any_sync(u32 m, u64 v) {
	struct hd_thread *w = &hd_threads[hd_t->n & ~31u];
	hd_t->slot = v;
	SYNCWARP(m);
	u32 r = 0;
	for (int l = 0; l < 32; l++)
		if ((m >> l & 1) && w[l].slot == v)
			r |= 1u << l;
	SYNCWARP(m);
	return r;
}
#define HD_REDUCE(name, T, init, expr)                                                                                 \
	static T name(u32 m, T v) {                                                                                    \
		struct hd_thread *w = &hd_threads[hd_t->n & ~31u];                                                     \
		hd_t->slot = (u64)v;                                                                                   \
		SYNCWARP(m);                                                                                           \
		T acc = init;                                                                                          \
		for (int l = 0; l < 32; l++)                                                                           \
			if (m >> l & 1) {                                                                              \
				T x = (T)w[l].slot;                                                                    \
				acc = expr;                                                                            \
			}                                                                                              \
		SYNCWARP(m);                                                                                           \
		return acc;                                                                                            \
	}
HD_REDUCE(__reduce_add_sync, u32, 0, acc + x)
HD_REDUCE(__reduce_min_sync, s32, 0x7fffffff, x < acc ? x : acc)
HD_REDUCE(__reduce_max_sync, u32, 0, x > acc ? x : acc)
HD_REDUCE(__reduce_and_sync, u32, 0xffffffff, acc &x)
HD_REDUCE(__reduce_or_sync, u32, 0, acc | x)
HD_REDUCE(__reduce_xor_sync, u32, 0, acc ^ x)
static int __syncthreads_count(int p) {
	static int n, out;
	SYNC();
	if (hd_t->n == 0)
		n = 0;
	SYNC();
	n += p != 0;
	SYNC();
	out = n;
	SYNC();
	return out;
}
#define __threadfence()
#define HD_ATOMIC(name, T, expr)                                                                                       \
	static T name(T *p, T v) {                                                                                     \
		T old = *p;                                                                                            \
		*p = expr;                                                                                             \
		return old;                                                                                            \
	}
HD_ATOMIC(hd_add32, u32, old + v)
HD_ATOMIC(hd_add64, u64, old + v)
HD_ATOMIC(hd_addf, float, old + v)
HD_ATOMIC(hd_addd, double, old + v)
HD_ATOMIC(hd_min32, s32, v < old ? v : old)
HD_ATOMIC(hd_maxu32, u32, v > old ? v : old)
HD_ATOMIC(hd_max64, u64, v > old ? v : old)
HD_ATOMIC(hd_min64, s64, v < old ? v : old)
HD_ATOMIC(hd_and, u32, old &v)
HD_ATOMIC(hd_or, u32, old | v)
HD_ATOMIC(hd_xor, u32, old ^ v)
HD_ATOMIC(hd_inc, u32, old >= v ? 0 : old + 1)
HD_ATOMIC(hd_dec, u32, old == 0 || old > v ? v : old - 1)
HD_ATOMIC(hd_exch, u32, v)
static u32 hd_cas(u32 *p, u32 c, u32 v) {
	u32 old = *p;
	if (old == c)
		*p = v;
	return old;
}
static u64 hd_cas64(u64 *p, u64 c, u64 v) {
	u64 old = *p;
	if (old == c)
		*p = v;
	return old;
}

// --- directed rounding, by the host's own rounding mode
#define HD_ROUND(name, T, params, expr)                                                                                \
	static __attribute__((noinline)) T hd_##name(int mode, volatile T a, volatile T b, volatile T c) {             \
		(void)b, (void)c;                                                                                      \
		fesetround(mode);                                                                                      \
		volatile T r = expr;                                                                                   \
		fesetround(FE_TONEAREST);                                                                              \
		return r;                                                                                              \
	}
HD_ROUND(fadd, float, , a + b)
HD_ROUND(fmul, float, , a *b)
HD_ROUND(fdiv, float, , a / b)
HD_ROUND(fsqrt, float, , sqrtf(a))
HD_ROUND(ffma, float, , fmaf(a, b, c))
HD_ROUND(dadd, double, , a + b)
HD_ROUND(dmul, double, , a *b)
HD_ROUND(ddiv, double, , a / b)
HD_ROUND(dsqrt, double, , sqrt(a))
HD_ROUND(dfma, double, , fma(a, b, c))

static float __uint_as_float(u32 v) { float f; memcpy(&f, &v, 4); return f; }
static u32 __float_as_uint(float f) { u32 v; memcpy(&v, &f, 4); return v; }
static double __longlong_as_double(s64 v) { double f; memcpy(&f, &v, 8); return f; }
static s64 __double_as_longlong(double f) { s64 v; memcpy(&v, &f, 8); return v; }

// --- the driver: read requests on stdin, run, write the buffers back
typedef void (*hd_fn)(void **);
static hd_fn hd_kernel;
static void **hd_args;

static void hd_body(void) {
	hd_kernel(hd_args);
	hd_t->done = 1;
	hd_live--;
	hd_block_check();
	for (;;)
		hd_yield();
}

static void hd_run(hd_fn k, void **args) {
	hd_kernel = k;
	hd_args = args;
	hd_count = hd_ntid[0] * hd_ntid[1] * hd_ntid[2];
	for (hd_block[2] = 0; hd_block[2] < hd_grid[2]; hd_block[2]++)
		for (hd_block[1] = 0; hd_block[1] < hd_grid[1]; hd_block[1]++)
			for (hd_block[0] = 0; hd_block[0] < hd_grid[0]; hd_block[0]++) {
				hd_live = hd_count;
				hd_arrived = 0;
				for (u32 n = 0; n < hd_count; n++) {
					struct hd_thread *t = &hd_threads[n];
					char *stack = t->stack ? t->stack : malloc(65536);
					memset(t, 0, sizeof *t);
					t->stack = stack;
					t->n = n;
					t->x = n % hd_ntid[0];
					t->y = n / hd_ntid[0] % hd_ntid[1];
					t->z = n / (hd_ntid[0] * hd_ntid[1]);
					getcontext(&t->ctx);
					t->ctx.uc_stack.ss_sp = stack;
					t->ctx.uc_stack.ss_size = 65536;
					makecontext(&t->ctx, hd_body, 0);
				}
				while (hd_live > 0)
					for (u32 n = 0; n < hd_count; n++)
						if (!hd_threads[n].done) {
							hd_t = &hd_threads[n];
							swapcontext(&hd_main, &hd_t->ctx);
						}
			}
}
#endif

// Operations that C has no name for. Each has a device form (intrinsic or
// PTX) and a host form.
#ifdef __CUDACC__
#define ATOMIC_ADD(p, v) atomicAdd(p, v)
#define ATOMIC_ADD64(p, v) atomicAdd(p, v)
#define ATOMIC_ADDF(p, v) atomicAdd(p, v)
#define ATOMIC_ADDD(p, v) atomicAdd(p, v)
#define ATOMIC_MIN(p, v) atomicMin(p, v)
#define ATOMIC_MAXU(p, v) atomicMax(p, v)
#define ATOMIC_MAX64(p, v) atomicMax(p, v)
#define ATOMIC_MIN64(p, v) atomicMin(p, v)
#define ATOMIC_AND(p, v) atomicAnd(p, v)
#define ATOMIC_OR(p, v) atomicOr(p, v)
#define ATOMIC_XOR(p, v) atomicXor(p, v)
#define ATOMIC_INC(p, v) atomicInc(p, v)
#define ATOMIC_DEC(p, v) atomicDec(p, v)
#define ATOMIC_EXCH(p, v) atomicExch(p, v)
#define ATOMIC_CAS(p, c, v) atomicCAS(p, c, v)
#define ATOMIC_CAS64(p, c, v) atomicCAS(p, c, v)
#define ROUND1(dev, host, mode, a) dev(a)
#define ROUND2(dev, host, mode, a, b) dev(a, b)
#define ROUND3(dev, host, mode, a, b, c) dev(a, b, c)
#else
#define ATOMIC_ADD(p, v) hd_add32(p, v)
#define ATOMIC_ADD64(p, v) hd_add64(p, v)
#define ATOMIC_ADDF(p, v) hd_addf(p, v)
#define ATOMIC_ADDD(p, v) hd_addd(p, v)
#define ATOMIC_MIN(p, v) hd_min32(p, v)
#define ATOMIC_MAXU(p, v) hd_maxu32(p, v)
#define ATOMIC_MAX64(p, v) hd_max64(p, v)
#define ATOMIC_MIN64(p, v) hd_min64(p, v)
#define ATOMIC_AND(p, v) hd_and(p, v)
#define ATOMIC_OR(p, v) hd_or(p, v)
#define ATOMIC_XOR(p, v) hd_xor(p, v)
#define ATOMIC_INC(p, v) hd_inc(p, v)
#define ATOMIC_DEC(p, v) hd_dec(p, v)
#define ATOMIC_EXCH(p, v) hd_exch(p, v)
#define ATOMIC_CAS(p, c, v) hd_cas(p, c, v)
#define ATOMIC_CAS64(p, c, v) hd_cas64(p, c, v)
#define ROUND1(dev, host, mode, a) hd_##host(mode, a, 0, 0)
#define ROUND2(dev, host, mode, a, b) hd_##host(mode, a, b, 0)
#define ROUND3(dev, host, mode, a, b, c) hd_##host(mode, a, b, c)
#endif

#define GID() (BX * NX + TX)

#endif
