//@@ sm_90
#include "device.h"

// Tensor-core instructions of one warp. Fragments are loaded element by
// element as the PTX ISA tabulates them, and on the host the whole product is
// computed plainly. Inputs are small integers, so that every sum is exact in
// any order.

#ifdef __CUDACC__
DEVICE u16 half_of(u32 v, int bf) {
	u16 r;
	float f = (float)(int)(v % 9) - 4;
	if (bf)
		asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(f));
	else
		asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(f));
	return r;
}
#else
#define VALUE(v) ((float)(int)((v) % 9) - 4)
#endif

#define MMA_HALF(name, type, bf)                                                                                       \
	KERNEL name(float *d, const u32 *a, const u32 *b, const float *c) {                                            \
		HALF_BODY(type, bf)                                                                                    \
	}
#ifdef __CUDACC__
#define HALF_BODY(type, bf)                                                                                            \
	u32 ar[4], br[2];                                                                                              \
	float x[4];                                                                                                    \
	int g = LANE >> 2, t = LANE & 3;                                                                               \
	for (int i = 0; i < 8; i++) {                                                                                  \
		int r = (i < 2 || (i >= 4 && i < 6)) ? g : g + 8, k = t * 2 + (i & 1) + (i >= 4 ? 8 : 0);              \
		u32 h = half_of(a[r * 16 + k], bf);                                                                    \
		ar[i / 2] = i & 1 ? ar[i / 2] | h << 16 : h;                                                           \
	}                                                                                                              \
	for (int i = 0; i < 4; i++) {                                                                                  \
		int k = t * 2 + (i & 1) + (i >= 2 ? 8 : 0);                                                            \
		u32 h = half_of(b[k * 8 + g], bf);                                                                     \
		br[i / 2] = i & 1 ? br[i / 2] | h << 16 : h;                                                           \
		x[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];                                                   \
	}                                                                                                              \
	asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
	    : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])                                                           \
	    : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]));                                 \
	for (int i = 0; i < 4; i++)                                                                                    \
		d[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = x[i];
#else
#define HALF_BODY(type, bf)                                                                                            \
	for (int e = LANE; e < 128; e += 32) {                                                                         \
		float s = c[e];                                                                                        \
		for (int k = 0; k < 16; k++)                                                                           \
			s += VALUE(a[e / 8 * 16 + k]) * VALUE(b[k * 8 + e % 8]);                                       \
		d[e] = s;                                                                                              \
	}
#endif

//@ mma_f16 grid=1 block=32 out:f32:128 in:u32:256:small in:u32:128:small in:f32:128:zero
MMA_HALF(mma_f16, "f16", 0)
//@ mma_bf16 grid=1 block=32 out:f32:128 in:u32:256:small in:u32:128:small in:f32:128:zero
MMA_HALF(mma_bf16, "bf16", 1)

//@ mma_s8 grid=1 block=32 out:s32:128 in:u32:128:bits in:u8:256:bits in:s32:128:bits
KERNEL mma_s8(s32 *d, const u32 *a, const u8 *b, const s32 *c) {
#ifdef __CUDACC__
	int g = LANE >> 2, t = LANE & 3;
	u32 ar[4], br[2];
	s32 x[4];
	for (int i = 0; i < 4; i++) {
		ar[i] = a[(i & 1 ? g + 8 : g) * 8 + t + (i >= 2 ? 4 : 0)];
		x[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];
	}
	for (int i = 0; i < 2; i++) {
		br[i] = 0;
		for (int j = 0; j < 4; j++)
			br[i] |= (u32)b[(t * 4 + j + i * 16) * 8 + g] << (8 * j);
	}
	asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3])
	    : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]));
	for (int i = 0; i < 4; i++)
		d[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = x[i];
#else
	for (int e = LANE; e < 128; e += 32) {
		u32 s = c[e];
		for (int k = 0; k < 32; k++)
			s += (u32)((s8)(a[e / 8 * 8 + k / 4] >> (8 * (k & 3))) * (s32)b[k * 8 + e % 8]);
		d[e] = s;
	}
#endif
}

//@ mma_tf32 grid=1 block=32 out:f32:128 in:u32:128:small in:u32:64:small in:f32:128:zero
KERNEL mma_tf32(float *d, const u32 *a, const u32 *b, const float *c) {
#ifdef __CUDACC__
	int g = LANE >> 2, t = LANE & 3;
	float x[4], af[4], bf[2];
	for (int i = 0; i < 4; i++) {
		af[i] = (float)(int)(a[(i & 1 ? g + 8 : g) * 8 + t + (i >= 2 ? 4 : 0)] % 9) - 4;
		x[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];
	}
	for (int i = 0; i < 2; i++)
		bf[i] = (float)(int)(b[(t + 4 * i) * 8 + g] % 9) - 4;
	asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
	    : "r"(__float_as_uint(af[0])), "r"(__float_as_uint(af[1])), "r"(__float_as_uint(af[2])), "r"(__float_as_uint(af[3])),
	      "r"(__float_as_uint(bf[0])), "r"(__float_as_uint(bf[1])));
	for (int i = 0; i < 4; i++)
		d[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = x[i];
#else
	for (int e = LANE; e < 128; e += 32) {
		float s = c[e];
		for (int k = 0; k < 8; k++)
			s += VALUE(a[e / 8 * 8 + k]) * VALUE(b[k * 8 + e % 8]);
		d[e] = s;
	}
#endif
}

//@ ldmatrix_x4 grid=1 block=32 out:u32:128 out:u32:128 in:u16:256:bits
KERNEL ldmatrix_x4(u32 *o, u32 *p, const u16 *a) {
	SHARED u16 s[256];
	for (int i = LANE; i < 256; i += 32)
		s[i] = a[i];
	SYNC();
	u32 r[4], q[4];
#ifdef __CUDACC__
	u32 at = (u32)__cvta_generic_to_shared(s + LANE * 8);
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(q[0]), "=r"(q[1]), "=r"(q[2]), "=r"(q[3]) : "r"(at));
#else
	for (int m = 0; m < 4; m++) {
		u16 *t = s + 64 * m;
		int i = LANE / 4, j = LANE % 4 * 2;
		r[m] = t[i * 8 + j] | (u32)t[i * 8 + j + 1] << 16;
		q[m] = t[j * 8 + i] | (u32)t[(j + 1) * 8 + i] << 16;
	}
#endif
	for (int m = 0; m < 4; m++) {
		o[m * 32 + LANE] = r[m];
		p[m * 32 + LANE] = q[m];
	}
}

//@ stmatrix_mov grid=1 block=32 out:u16:128 out:u32:32 in:u32:64:bits
KERNEL stmatrix_mov(u16 *o, u32 *p, const u32 *a) {
	SHARED u16 s[128];
	u32 x = a[LANE], y = a[32 + LANE], z;
#ifdef __CUDACC__
	u32 at = (u32)__cvta_generic_to_shared(s + (LANE & 15) * 8);
	asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(at), "r"(x), "r"(y) : "memory");
	asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(z) : "r"(x));
#else
	int i = LANE / 4, j = LANE % 4 * 2;
	s[i * 8 + j] = x, s[i * 8 + j + 1] = x >> 16;
	s[64 + i * 8 + j] = y, s[64 + i * 8 + j + 1] = y >> 16;
	SYNC();
	z = s[j * 8 + i] | (u32)s[(j + 1) * 8 + i] << 16;
#endif
	SYNC();
	for (int k = LANE; k < 128; k += 32)
		o[k] = s[k];
	p[LANE] = z;
}
