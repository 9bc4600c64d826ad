#include "device.h"
#ifdef __CUDACC__
#include <assert.h>
#else
#define assert(x)
#endif

// Ways in which threads end, wait and differ.

//@ guard_return grid=6 block=64 out:u32:384 in:u32:384:bits i32=100..384
KERNEL guard_return(u32 *o, const u32 *a, int n) {
	if (GID() >= n)
		return;
	o[GID()] = a[GID()] * 3;
}

//@ return_in_loop grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL return_in_loop(u32 *o, const u32 *a) {
	u32 v = a[GID()];
	for (u32 k = 0; k < 32; k++) {
		if ((v >> k & 3) == 3)
			return;
		o[GID()] = k;
	}
	o[GID()] = 1000;
}

//@ whole_warps_return grid=3 block=128 out:u32:384
KERNEL whole_warps_return(u32 *o) {
	SHARED u32 s[128];
	s[TX] = TX * 3;
	SYNC();
	if (TX / 32 == 1 || TX / 32 == 3)
		return;
	o[GID()] = s[127 - TX];
	SYNC();
	o[GID()] += 1;
}

//@ block_returns grid=6 block=32 out:u32:192 in:u32:6:below3
KERNEL block_returns(u32 *o, const u32 *a) {
	if (a[BX] == 0)
		return; // whole blocks: some instances have none left
	o[GID()] = a[BX] + TX;
}

//@ nobody_writes grid=3 block=64 io:u32:192:bits u32=0
KERNEL nobody_writes(u32 *o, u32 k) {
	if (k > GX)
		o[GID()] = 0;
}

//@ divergent_barrier grid=3 block=96 out:u32:288 in:u32:3:below2
KERNEL divergent_barrier(u32 *o, const u32 *a) {
	SHARED u32 s[96];
	s[TX] = TX + BX;
	if (a[BX]) { // all threads of a block agree
		SYNC();
		o[GID()] = s[95 - TX];
	} else {
		s[TX] *= 2;
		SYNC();
		o[GID()] = s[(TX + 7) % 96];
	}
}

//@ named_barriers noref grid=2 block=128 out:u32:256
KERNEL named_barriers(u32 *o) {
#ifdef __CUDACC__
	SHARED u32 s[128];
	s[TX] = TX * 5 + BX;
	if (TX < 64)
		asm volatile("bar.sync 1, 64;" ::: "memory");
	else
		asm volatile("bar.sync 2, 64;" ::: "memory");
	u32 v = s[TX ^ 63];
	asm volatile("barrier.sync 0;" ::: "memory");
	o[GID()] = v + s[127 - TX];
#endif
}

//@ producer_consumer noref grid=3 block=64 out:u32:96 in:u32:384:bits
KERNEL producer_consumer(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED u32 s[32];
	u32 sum = 0;
	for (int k = 0; k < 4; k++) {
		if (TX < 32) {
			s[TX] = a[BX * 128 + k * 32 + TX];
			asm volatile("bar.arrive 3, 64;" ::: "memory");
			asm volatile("bar.sync 4, 64;" ::: "memory");
		} else {
			asm volatile("bar.sync 3, 64;" ::: "memory");
			sum = sum * 31 + s[TX - 32];
			asm volatile("bar.arrive 4, 64;" ::: "memory");
		}
	}
	if (TX >= 32)
		o[BX * 32 + TX - 32] = sum;
#endif
}

//@ asserts_hold grid=4 block=64 out:u32:256 in:u32:256:below100
KERNEL asserts_hold(u32 *o, const u32 *a) {
	u32 v = a[GID()];
	assert(v < 100);
	o[GID()] = v * v;
	assert(o[GID()] >= v || v == 0);
}

//@ exits noref grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL exits(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	u32 v = a[GID()];
	o[GID()] = v;
	if (v & 1)
		asm volatile("exit;");
	o[GID()] = v * 5;
#endif
}

//@ printing noref grid=1 block=32 out:u32:32
KERNEL printing(u32 *o) {
#ifdef __CUDACC__
	if (TX == 40)
		printf("thread %u\n", TX);
	o[TX] = TX;
#endif
}

//@ clocks noref grid=2 block=32 out:u32:64
KERNEL clocks(u32 *o) {
#ifdef __CUDACC__
	u64 t = clock64();
	o[GID()] = 1 + (clock64() < t);
#endif
}

//@ grid_barrier noref grid=3 block=32 io:u32:1:zero out:u32:96 grids=2,1,1
KERNEL grid_barrier(u32 *m, u32 *o) {
#ifdef __CUDACC__
	o[GID()] = TX;
	__threadfence();
	if (TX == 0) {
		ATOMIC_ADD(m, 1);
		while (VOLATILE(u32, m) < GX)
			YIELD();
	}
	SYNC();
	o[GID()] += 1;
#endif
}

//@ which_sm noref grid=4 block=32 out:u32:128
KERNEL which_sm(u32 *o) {
#ifdef __CUDACC__
	u32 sm;
	asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
	o[GID()] = 1 + (sm > 100000);
#endif
}

//@ uneven_blocks grid=6 block=64 out:u32:384 in:u32:6:below200
KERNEL uneven_blocks(u32 *o, const u32 *a) {
	u32 n = a[BX], v = TX;
	for (u32 k = 0; k < n; k++)
		v = v * 1664525 + 1013904223;
	o[GID()] = v;
}

//@ shared_dyn_size noref grid=3 block=64 shared=1024 out:u32:192
KERNEL shared_dyn_size(u32 *o) {
#ifdef __CUDACC__
	DYNAMIC(u32, s);
	u32 size;
	asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(size));
	for (u32 i = TX; i < size / 4; i += 64)
		s[i] = i * 3;
	SYNC();
	o[GID()] = s[size / 4 - 1 - TX] + size;
#endif
}

//@ shared_both grid=3 block=64 shared=512 io:u32:192:bits
KERNEL shared_both(u32 *a) {
	DYNAMIC(u32, s);
	SHARED u32 t[64];
	s[TX] = a[GID()];
	t[63 - TX] = a[GID()] >> 1;
	SYNC();
	a[GID()] = s[63 - TX] + t[TX] * 3;
}

//@ fences grid=4 block=64 io:u32:256:bits io:u32:4:zero
KERNEL fences(u32 *a, u32 *m) {
	a[GID()] *= 3;
	__threadfence();
	ATOMIC_MAXU(&m[TX & 3], a[GID()]);
}

//@ jump_table noref grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL jump_table(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	u32 v = a[GID()], r;
	asm volatile("{\n\t"
		     ".reg .u32 k;\n\t"
		     "and.b32 k, %1, 3;\n"
		     "targets: .branchtargets jt_a, jt_b, jt_c, jt_b;\n\t"
		     "brx.idx k, targets;\n"
		     "jt_a: add.u32 %0, %1, 7;\n\tbra jt_end;\n"
		     "jt_b: mul.lo.u32 %0, %1, 3;\n\tbra jt_end;\n"
		     "jt_c: not.b32 %0, %1;\n"
		     "jt_end:\n\t}"
		     : "=r"(r)
		     : "r"(v));
	o[GID()] = r;
#endif
}

//@ reductions noref grid=4 block=64 io:u32:8:zero io:f32:1:zero in:u32:256:small
KERNEL reductions(u32 *m, float *f, const u32 *a) {
#ifdef __CUDACC__
	u32 v = a[GID()];
	asm volatile("red.global.add.u32 [%0], %1;" ::"l"(m), "r"(v) : "memory");
	asm volatile("red.relaxed.gpu.global.max.u32 [%0], %1;" ::"l"(m + 1), "r"(v) : "memory");
	asm volatile("red.global.xor.b32 [%0], %1;" ::"l"(m + 2 + v % 6), "r"(v) : "memory");
	asm volatile("red.global.add.f32 [%0], %1;" ::"l"(f), "f"((float)v) : "memory");
#endif
}
