//@@ sm_80
#include "device.h"

// Copies that go on while threads compute (sm_80). On the host they are done at once.

#ifdef __CUDACC__
DEVICE void copy16(void *to, const void *from) {
	u32 at = (u32)__cvta_generic_to_shared(to);
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
DEVICE void copy4(void *to, const void *from, int bytes) {
	u32 at = (u32)__cvta_generic_to_shared(to);
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
#else
DEVICE void copy16(void *to, const void *from) { memcpy(to, from, 16); }
DEVICE void copy4(void *to, const void *from, int bytes) {
	memset(to, 0, 4);
	memcpy(to, from, bytes);
}
#define COMMIT()
#define WAIT(n)
#endif

//@ async_copy grid=4 block=64 out:u32:1024 in:u32:1024:bits
KERNEL async_copy(u32 *o, const u32 *a) {
	SHARED ALIGNED(16) u32 s[256];
	copy16(&s[TX * 4], a + BX * 256 + TX * 4);
	COMMIT();
	WAIT(0);
	SYNC();
	for (int k = 0; k < 4; k++)
		o[BX * 256 + k * 64 + TX] = s[255 - (k * 64 + TX)];
}

//@ async_pipeline grid=3 block=32 out:u32:96 in:u32:3072:bits
KERNEL async_pipeline(u32 *o, const u32 *a) {
	SHARED ALIGNED(16) u32 s[3][128];
	const u32 *p = a + BX * 1024;
	u32 r = 0;
	for (int k = 0; k < 2; k++) {
		copy16(&s[k][TX * 4], p + k * 128 + TX * 4);
		COMMIT();
	}
	for (int k = 0; k < 8; k++) {
		WAIT(1);
		SYNC();
		if (k + 2 < 8)
			copy16(&s[(k + 2) % 3][TX * 4], p + (k + 2) * 128 + TX * 4);
		COMMIT();
		for (int i = 0; i < 4; i++)
			r = r * 31 + s[k % 3][(TX * 7 + i * 32) % 128];
	}
	o[GID()] = r;
}

//@ async_partial grid=4 block=64 out:u32:256 in:u32:256:bits i32=100..256
KERNEL async_partial(u32 *o, const u32 *a, int n) {
	SHARED u32 s[64];
	int i = GID();
	copy4(&s[TX], a + i, i < n ? 4 : 0);
	COMMIT();
	WAIT(0);
	SYNC();
	o[i] = s[63 - TX];
}

//@ async_gemm grid=2,2 block=16,16 out:f32:1024 in:f32:1024:unit in:f32:1024:unit
KERNEL async_gemm(float *c, const float *a, const float *b) {
	SHARED float as[2][16][16];
	SHARED float bs[2][16][16];
	int x = BX * 16 + TX, y = BY * 16 + TY;
	float s = 0;
	copy4(&as[0][TY][TX], &a[y * 32 + TX], 4);
	copy4(&bs[0][TY][TX], &b[TY * 32 + x], 4);
	COMMIT();
	for (int k = 0; k < 2; k++) {
		if (k == 0) {
			copy4(&as[1][TY][TX], &a[y * 32 + 16 + TX], 4);
			copy4(&bs[1][TY][TX], &b[(16 + TY) * 32 + x], 4);
		}
		COMMIT();
		WAIT(1);
		SYNC();
		for (int i = 0; i < 16; i++)
			s = FMAF(as[k][TY][i], bs[k][i][TX], s);
		SYNC();
	}
	c[y * 32 + x] = s;
}

//@ mma_gemm grid=2,2 block=32 out:s32:512 in:u32:256:bits in:u32:128:bits
KERNEL mma_gemm(s32 *d, const u32 *a, const u32 *b) {
	// 32×16 from 32×32 signed bytes (rows) and 16×32 signed bytes (columns), one m16n8k32 a block
#ifdef __CUDACC__
	int g = LANE >> 2, t = LANE & 3, m = BY * 16, n = BX * 8;
	u32 ar[4], br[2];
	s32 x[4] = {0, 0, 0, 0};
	for (int i = 0; i < 4; i++)
		ar[i] = a[(m + (i & 1 ? g + 8 : g)) * 8 + t + (i >= 2 ? 4 : 0)];
	for (int i = 0; i < 2; i++)
		br[i] = b[(n + g) * 8 + t + 4 * i];
	asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3])
	    : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]));
	for (int i = 0; i < 4; i++)
		d[(m + (i < 2 ? g : g + 8)) * 16 + n + t * 2 + (i & 1)] = x[i];
#else
	for (int e = LANE; e < 128; e += 32) {
		int r = BY * 16 + e / 8, c = BX * 8 + e % 8;
		s32 s = 0;
		for (int k = 0; k < 32; k++)
			s += (s8)(a[r * 8 + k / 4] >> 8 * (k & 3)) * (s8)(b[c * 8 + k / 4] >> 8 * (k & 3));
		d[r * 16 + c] = s;
	}
#endif
}

//@ mbarrier_80 noref grid=3 block=64 out:u32:192 in:u32:192:bits
KERNEL mbarrier_80(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED u64 bar;
	SHARED u32 s[64];
	u32 at = (u32)__cvta_generic_to_shared(&bar);
	if (TX == 0)
		asm volatile("mbarrier.init.shared.b64 [%0], 64;" ::"r"(at) : "memory");
	SYNC();
	u32 r = 0;
	for (int k = 0; k < 3; k++) {
		s[TX] = a[GID()] * (k + 1);
		u64 token;
		u32 done = 0;
		asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(token) : "r"(at) : "memory");
		while (!done)
			asm volatile("{ .reg .pred p; mbarrier.test_wait.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(at), "l"(token) : "memory");
		r = r * 31 + s[63 - TX];
		SYNC();
	}
	o[GID()] = r;
#endif
}
