//@@ sm_90
#include "device.h"

// The shapes of tensor-core instructions that Triton's and nvcc's code has and matrix.cu has not. Inputs are small integers, so
// that every sum is exact in any order; fragments are loaded as the PTX ISA tabulates them: register r of A holds E elements of
// row g (g + 8 for odd r), register r of B those of column g.

#ifdef __CUDACC__
#define SMALL(v) ((float)(int)((v) % 9) - 4)
DEVICE u32 as_f16(u32 v) { u16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(SMALL(v))); return r; }
DEVICE u32 as_bf16(u32 v) { u16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(SMALL(v))); return r; }
DEVICE u32 as_tf32(u32 v) { return __float_as_uint(SMALL(v)); }
DEVICE u32 as_s8(u32 v) { return (u8)(s8)((int)(v % 9) - 4); }
DEVICE u32 as_u8(u32 v) { return v % 9; }
DEVICE u32 as_e4m3(u32 v) { u16 r; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %1;" : "=h"(r) : "f"(SMALL(v))); return r & 0xff; }
DEVICE u32 as_e5m2(u32 v) { u16 r; asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %1;" : "=h"(r) : "f"(SMALL(v))); return r & 0xff; }
DEVICE double as_f64(u32 v) { return SMALL(v); }
#define SHAPE(name, M, K, CT, R, E, NA, NB, conva, conv, va, vb, ...) \
	KERNEL name(CT *d, const u32 *a, const u32 *b, const CT *c) { \
		int g = LANE >> 2, t = LANE & 3; \
		R ar[NA], br[NB]; \
		CT x[M / 4]; \
		for (int r = 0; r < NA; r++) { \
			ar[r] = 0; \
			for (int j = 0; j < E; j++) \
				ar[r] = PACK(ar[r], conva(a[(g + 8 * (r & 1)) * K + t * E + j + (r >> 1) * 4 * E]), j, 32 / E); \
		} \
		for (int r = 0; r < NB; r++) { \
			br[r] = 0; \
			for (int j = 0; j < E; j++) \
				br[r] = PACK(br[r], conv(b[(t * E + j + r * 4 * E) * 8 + g]), j, 32 / E); \
		} \
		for (int i = 0; i < M / 4; i++) \
			x[i] = c[(g + (i >> 1) * 8) * 8 + t * 2 + (i & 1)]; \
		asm(__VA_ARGS__); \
		for (int i = 0; i < M / 4; i++) \
			d[(g + (i >> 1) * 8) * 8 + t * 2 + (i & 1)] = x[i]; \
	}
DEVICE u32 PACK(u32 v, u32 e, int j, int bits) { return v | e << (j * bits); }
DEVICE double PACK(double, double e, int, int) { return e; }
#define X2(c) "+" c(x[0]), "+" c(x[1])
#define X4(c) X2(c), "+" c(x[2]), "+" c(x[3])
#define D4 " {%0,%1,%2,%3}, "
#else
#define FROM4(v) ((int)((v) % 9) - 4)
#define FROM0(v) ((int)((v) % 9))
#define SHAPE(name, M, K, CT, R, E, NA, NB, conva, conv, va, vb, ...) \
	KERNEL name(CT *d, const u32 *a, const u32 *b, const CT *c) { \
		for (int e = LANE; e < M * 8; e += 32) { \
			CT s = c[e]; \
			for (int k = 0; k < K; k++) \
				s += va(a[e / 8 * K + k]) * vb(b[k * 8 + e % 8]); \
			d[e] = s; \
		} \
	}
#endif

//@ mma_f16_k8 grid=2 block=32 out:f32:128 in:u32:128:bits in:u32:64:bits in:f32:128:few
SHAPE(mma_f16_k8, 16, 8, float, u32, 2, 2, 1, as_f16, as_f16, FROM4, FROM4, "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32" D4
	"{%4,%5}, {%6}, {%0,%1,%2,%3};" : X4("f") : "r"(ar[0]), "r"(ar[1]), "r"(br[0]))
//@ mma_bf16_k8 grid=2 block=32 out:f32:128 in:u32:128:bits in:u32:64:bits in:f32:128:few
SHAPE(mma_bf16_k8, 16, 8, float, u32, 2, 2, 1, as_bf16, as_bf16, FROM4, FROM4, "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32" D4
	"{%4,%5}, {%6}, {%0,%1,%2,%3};" : X4("f") : "r"(ar[0]), "r"(ar[1]), "r"(br[0]))
//@ mma_tf32_k4 grid=2 block=32 out:f32:128 in:u32:64:bits in:u32:32:bits in:f32:128:few
SHAPE(mma_tf32_k4, 16, 4, float, u32, 1, 2, 1, as_tf32, as_tf32, FROM4, FROM4, "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32" D4
	"{%4,%5}, {%6}, {%0,%1,%2,%3};" : X4("f") : "r"(ar[0]), "r"(ar[1]), "r"(br[0]))
//@ mma_s8_k16 grid=2 block=32 out:s32:128 in:u32:256:bits in:u32:128:bits in:s32:128:bits
SHAPE(mma_s8_k16, 16, 16, u32, u32, 4, 2, 1, as_s8, as_s8, FROM4, FROM4, "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32" D4
	"{%4,%5}, {%6}, {%0,%1,%2,%3};" : X4("r") : "r"(ar[0]), "r"(ar[1]), "r"(br[0]))
//@ mma_u8_m8 grid=2 block=32 out:s32:64 in:u32:128:bits in:u32:128:bits in:s32:64:bits
SHAPE(mma_u8_m8, 8, 16, u32, u32, 4, 1, 1, as_u8, as_s8, FROM0, FROM4, "mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, "
	"{%2}, {%3}, {%0,%1};" : X2("r") : "r"(ar[0]), "r"(br[0]))
//@ mma_u8_k32 grid=2 block=32 out:s32:128 in:u32:512:bits in:u32:256:bits in:s32:128:small
SHAPE(mma_u8_k32, 16, 32, u32, u32, 4, 4, 2, as_u8, as_u8, FROM0, FROM0, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.u8.s32" D4
	"{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : X4("r") : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]))
//@ mma_e4m3 grid=2 block=32 out:f32:128 in:u32:512:bits in:u32:256:bits in:f32:128:few
SHAPE(mma_e4m3, 16, 32, float, u32, 4, 4, 2, as_e4m3, as_e4m3, FROM4, FROM4, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32" D4
	"{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : X4("f") : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]))
//@ mma_e5m2 grid=2 block=32 out:f32:128 in:u32:512:bits in:u32:256:bits in:f32:128:few
SHAPE(mma_e5m2, 16, 32, float, u32, 4, 4, 2, as_e5m2, as_e4m3, FROM4, FROM4, "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32" D4
	"{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : X4("f") : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]))
//@ mma_f64_m8 grid=2 block=32 out:f64:64 in:u32:32:bits in:u32:32:bits in:f64:64:few
SHAPE(mma_f64_m8, 8, 4, double, double, 1, 1, 1, as_f64, as_f64, FROM4, FROM4, "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, "
	"{%2}, {%3}, {%0,%1};" : X2("d") : "d"(ar[0]), "d"(br[0]))
//@ mma_f64_k4 grid=2 block=32 out:f64:128 in:u32:64:bits in:u32:32:bits in:f64:128:few
SHAPE(mma_f64_k4, 16, 4, double, double, 1, 2, 1, as_f64, as_f64, FROM4, FROM4, "mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64" D4
	"{%4,%5}, {%6}, {%0,%1,%2,%3};" : X4("d") : "d"(ar[0]), "d"(ar[1]), "d"(br[0]))
//@ mma_f64_k8 grid=2 block=32 out:f64:128 in:u32:128:bits in:u32:64:bits in:f64:128:few
SHAPE(mma_f64_k8, 16, 8, double, double, 1, 4, 2, as_f64, as_f64, FROM4, FROM4, "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64" D4
	"{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : X4("d") : "d"(ar[0]), "d"(ar[1]), "d"(ar[2]), "d"(ar[3]), "d"(br[0]), "d"(br[1]))
//@ mma_f64_k16 grid=2 block=32 out:f64:128 in:u32:256:bits in:u32:128:bits in:f64:128:few
SHAPE(mma_f64_k16, 16, 16, double, double, 1, 8, 4, as_f64, as_f64, FROM4, FROM4, "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64" D4
	"{%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%0,%1,%2,%3};" : X4("d") : "d"(ar[0]), "d"(ar[1]), "d"(ar[2]), "d"(ar[3]),
	"d"(ar[4]), "d"(ar[5]), "d"(ar[6]), "d"(ar[7]), "d"(br[0]), "d"(br[1]), "d"(br[2]), "d"(br[3]))

//@ ldmatrix_some grid=1 block=32 out:u32:160 in:u16:256:bits
KERNEL ldmatrix_some(u32 *o, const u16 *a) {
	SHARED ALIGNED(16) u16 s[256];
	for (int i = LANE; i < 256; i += 32)
		s[i] = a[i];
	SYNC();
	u32 r[5];
#ifdef __CUDACC__
	u32 at = (u32)__cvta_generic_to_shared(s + LANE * 8);
	asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at));
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[1]), "=r"(r[2]) : "r"(at));
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 {%0,%1}, [%2];" : "=r"(r[3]), "=r"(r[4]) : "r"(at));
#else
	for (int m = 0; m < 2; m++) {
		u16 *t = s + 64 * m;
		int i = LANE / 4, j = LANE % 4 * 2;
		r[1 + m] = t[i * 8 + j] | (u32)t[i * 8 + j + 1] << 16;
		r[3 + m] = t[j * 8 + i] | (u32)t[(j + 1) * 8 + i] << 16;
	}
	r[0] = r[3];
#endif
	for (int m = 0; m < 5; m++)
		o[m * 32 + LANE] = r[m];
}

//@ stmatrix_some grid=1 block=32 out:u16:768 in:u32:128:bits
KERNEL stmatrix_some(u16 *o, const u32 *a) {
	SHARED ALIGNED(16) u16 s[768]; // x1, x1.trans, x2.trans, x4, x4.trans
	u32 r[4];
	for (int m = 0; m < 4; m++)
		r[m] = a[m * 32 + LANE];
#ifdef __CUDACC__
	u32 at = (u32)__cvta_generic_to_shared(s + LANE * 8);
	asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(at), "r"(r[0]) : "memory");
	asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0+128], {%1};" ::"r"(at), "r"(r[0]) : "memory");
	asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0+256], {%1,%2};" ::"r"(at), "r"(r[0]), "r"(r[1]) : "memory");
	asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0+512], {%1,%2,%3,%4};"
		     ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
	asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0+1024], {%1,%2,%3,%4};"
		     ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
#else
	int first[] = {0, 64, 128, 256, 512}, count[] = {1, 1, 2, 4, 4}, trans[] = {0, 1, 1, 0, 1};
	int i = LANE / 4, j = LANE % 4 * 2;
	for (int n = 0; n < 5; n++)
		for (int m = 0; m < count[n]; m++)
			for (int h = 0; h < 2; h++)
				s[first[n] + m * 64 + (trans[n] ? (j + h) * 8 + i : i * 8 + j + h)] = r[m] >> (16 * h);
#endif
	SYNC();
	for (int k = LANE; k < 768; k += 32)
		o[k] = s[k];
}

#ifdef __CUDACC__
// nvcc's own interface to the tensor cores makes these: fragments whose layout nobody knows, loaded, multiplied and stored.
#define R1(x) "{" x "0}"
#define R2(x) "{" x "0," x "1}"
#define R8(x) "{" x "0," x "1," x "2," x "3," x "4," x "5," x "6," x "7}"
#define WMMA(name, M, N, K, T, lb, ldb, C, val, at, shape, in, acc, reg, accreg, RA, RB, RC, mul) \
	KERNEL name(C *d, const T *a, const T *b) { \
		asm volatile("{.reg ." reg " a<8>, b<8>; .reg ." accreg " c<8>;\n" \
			     "wmma.load.a.sync.aligned.row." shape ".global." in " " RA("a") ", [%0], %3;\n" \
			     "wmma.load.b.sync.aligned." lb "." shape ".global." in " " RB("b") ", [%1], %4;\n" \
			     "wmma.load.c.sync.aligned.row." shape ".global." acc " " RC("c") ", [%2], %5;\n" \
			     "wmma.mma.sync.aligned.row." lb "." shape "." mul " " RC("c") ", " RA("a") ", " RB("b") ", " RC("c") ";\n" \
			     "wmma.store.d.sync.aligned.row." shape ".global." acc " [%2], " RC("c") ", %5;}" \
			     ::"l"(a + BX * M * K), "l"(b), "l"(d + BX * M * N), "n"(K), "n"(ldb), "n"(N) : "memory"); \
	}
#else
#define WMMA(name, M, N, K, T, lb, ldb, C, val, at, ...) \
	KERNEL name(C *d, const T *a, const T *b) { \
		for (int e = LANE; e < M * N; e += 32) { \
			C s = d[BX * M * N + e]; \
			for (int k = 0; k < K; k++) \
				s += val(a[(BX * M + e / N) * K + k]) * val(b[at(k, e % N, ldb)]); \
			d[BX * M * N + e] = s; \
		} \
	}
#define IN_ROWS(k, n, ld) ((k) * (ld) + (n))
#define IN_COLS(k, n, ld) ((n) * (ld) + (k))
#define SELF(x) (x)
#endif
//@ wmma_f16 grid=2 block=32 io:f32:512:few in:f16:512:few in:f16:256:few
WMMA(wmma_f16, 16, 16, 16, u16, "col", 16, float, hd_half, IN_COLS, "m16n16k16", "f16", "f32", "b32", "f32", R8, R8, R8, "f32.f32")
//@ wmma_f16_wide grid=2 block=32 io:f32:512:few in:f16:256:few in:f16:512:few
WMMA(wmma_f16_wide, 8, 32, 16, u16, "row", 32, float, hd_half, IN_ROWS, "m8n32k16", "f16", "f32", "b32", "f32", R8, R8, R8, "f32.f32")
//@ wmma_bf16_tall grid=2 block=32 io:f32:512:few in:bf16:1024:few in:bf16:128:few
WMMA(wmma_bf16_tall, 32, 8, 16, u16, "row", 8, float, hd_brain, IN_ROWS, "m32n8k16", "bf16", "f32", "b32", "f32", R8, R2, R8, "f32.bf16.bf16.f32")
//@ wmma_s8 grid=2 block=32 io:s32:512:few in:u8:512:bits in:u8:256:bits
WMMA(wmma_s8, 16, 16, 16, s8, "row", 16, s32, SELF, IN_ROWS, "m16n16k16", "s8", "s32", "b32", "s32", R2, R2, R8, "s32.s8.s8.s32")
//@ wmma_f64 grid=2 block=32 io:f64:128:few in:f64:64:few in:f64:32:few
WMMA(wmma_f64, 8, 8, 4, double, "col", 4, double, SELF, IN_COLS, "m8n8k4", "f64", "f64", "f64", "f64", R1, R1, R2, "rn.f64.f64.f64.f64")
