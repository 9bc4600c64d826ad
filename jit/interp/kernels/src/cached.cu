//@@ sm_80
#include "device.h"

// Loads and stores with eviction priorities, prefetch sizes and cache policies, as Triton's autotuner and CUTLASS write them. They
// change no value.

//@ cached_loads grid=4 block=64 out:u32:1024 out:u32:512 out:u16:256 in:u32:1024:bits in:u32:512:bits in:u16:256:bits
KERNEL cached_loads(u32 *o4, u32 *o2, u16 *o1, const u32 *a4, const u32 *a2, const u16 *a1) {
	u32 i = GID();
#ifdef __CUDACC__
	u64 last, first, some;
	u32 x, y, z, w;
	u16 h, k, m, n;
	asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(last));
	asm("createpolicy.fractional.L2::evict_first.L2::evict_unchanged.b64 %0, 0.5;" : "=l"(first));
	asm("createpolicy.range.global.L2::evict_last.L2::evict_first.b64 %0, [%1], 64, 128;" : "=l"(some) : "l"(a4));
	asm volatile("ld.global.L1::evict_last.L2::cache_hint.v4.b32 {%0,%1,%2,%3}, [%4], %5;"
		     : "=r"(x), "=r"(y), "=r"(z), "=r"(w) : "l"(a4 + 4 * i), "l"(last));
	asm volatile("st.global.L1::evict_first.L2::cache_hint.v4.b32 [%0], {%1,%2,%3,%4}, %5;"
		     ::"l"(o4 + 4 * i), "r"(x), "r"(y), "r"(z), "r"(w), "l"(first) : "memory");
	asm volatile("ld.global.L1::evict_first.L2::cache_hint.v2.b32 {%0,%1}, [%2], %3;" : "=r"(x), "=r"(y) : "l"(a2 + 2 * i), "l"(some));
	asm volatile("st.global.L2::cache_hint.v2.b32 [%0], {%1,%2}, %3;" ::"l"(o2 + 2 * i), "r"(x), "r"(y), "l"(last) : "memory");
	asm volatile("ld.global.L1::evict_last.L2::cache_hint.b16 %0, [%1], %2;" : "=h"(h) : "l"(a1 + i), "l"(last));
	asm volatile("st.global.L1::no_allocate.L2::cache_hint.b16 [%0], %1, %2;" ::"l"(o1 + i), "h"(h), "l"(first) : "memory");
	if ((i & 3) == 0) { // again, four at once: the same values
		asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.b16 {%0,%1,%2,%3}, [%4], %5;"
			     : "=h"(h), "=h"(k), "=h"(m), "=h"(n) : "l"(a1 + i), "l"(first));
		asm volatile("st.global.v4.b16 [%0], {%1,%2,%3,%4};" ::"l"(o1 + i), "h"(h), "h"(k), "h"(m), "h"(n) : "memory");
	}
#else
	for (int n = 0; n < 4; n++)
		o4[4 * i + n] = a4[4 * i + n];
	o2[2 * i] = a2[2 * i], o2[2 * i + 1] = a2[2 * i + 1];
	o1[i] = a1[i];
#endif
}

//@ cached_operators grid=4 block=64 out:u32:1792 in:u32:1024:bits
KERNEL cached_operators(u32 *o, const u32 *a) {
	u32 i = GID(), r[7];
#ifdef __CUDACC__
	u32 x, y, z, w;
	asm volatile("ld.global.ca.L2::64B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x), "=r"(y), "=r"(z), "=r"(w) : "l"(a + 4 * i));
	r[0] = x ^ y ^ z ^ w;
	asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y) : "l"(a + 2 * i));
	r[1] = x - y;
	asm volatile("ld.global.cs.u32 %0, [%1];" : "=r"(r[2]) : "l"(a + i));
	asm volatile("ld.global.lu.u32 %0, [%1];" : "=r"(r[3]) : "l"(a + 256 + i));
	asm volatile("ld.global.cv.u32 %0, [%1];" : "=r"(r[4]) : "l"(a + 512 + i));
	asm volatile("ld.relaxed.gpu.global.L1::no_allocate.L2::256B.b32 %0, [%1];" : "=r"(r[5]) : "l"(a + 768 + i));
	asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(a + i));
	asm volatile("prefetch.global.L1 [%0];" ::"l"(a + i));
	asm volatile("applypriority.global.L2::evict_normal [%0], 128;" ::"l"(a + (i & ~31u)));
	SHARED ALIGNED(16) u32 s[256];
	u64 policy;
	asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
	asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;"
		     ::"r"((u32)__cvta_generic_to_shared(s + 4 * TX)), "l"(a + 4 * i), "l"(policy) : "memory");
	asm volatile("cp.async.wait_all;" ::: "memory");
	r[6] = s[4 * TX + (TX & 3)];
	asm volatile("st.global.wb.u32 [%0], %1;" ::"l"(o + i), "r"(r[0]) : "memory");
	asm volatile("st.global.cg.u32 [%0], %1;" ::"l"(o + 256 + i), "r"(r[1]) : "memory");
	asm volatile("st.global.cs.u32 [%0], %1;" ::"l"(o + 512 + i), "r"(r[2]) : "memory");
	asm volatile("st.global.wt.u32 [%0], %1;" ::"l"(o + 768 + i), "r"(r[3]) : "memory");
	for (int n = 4; n < 7; n++)
		o[n * 256 + i] = r[n];
#else
	r[0] = a[4 * i] ^ a[4 * i + 1] ^ a[4 * i + 2] ^ a[4 * i + 3];
	r[1] = a[2 * i] - a[2 * i + 1];
	for (int n = 0; n < 4; n++)
		r[n + 2] = a[n * 256 + i];
	r[6] = a[4 * i + (TX & 3)];
	for (int n = 0; n < 7; n++)
		o[n * 256 + i] = r[n];
#endif
}
