//@@ sm_90a
#include "device.h"

// Products of a warpgroup in other shapes and types than the Triton kernels of the corpus have. Inputs are small integers, so that
// every sum is exact in any order. Tiles lie in shared memory without swizzling: blocks of 8 rows of 16 bytes, which follow each
// other first along M or N (128 bytes apart), then along K.

#ifdef __CUDACC__
DEVICE u32 wg_f16(u32 v) { u16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"((float)(int)(v % 9) - 4)); return r; }
DEVICE u32 wg_bf16(u32 v) { u16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"((float)(int)(v % 9) - 4)); return r; }
DEVICE u32 wg_tf32(u32 v) { return __float_as_uint((float)(int)(v % 9) - 4); }
DEVICE u32 wg_s8(u32 v) { return (u8)(s8)((int)(v % 9) - 4); }
DEVICE u32 wg_u8(u32 v) { return v % 9; }
DEVICE u32 wg_e4m3(u32 v) { u16 r; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %1;" : "=h"(r) : "f"((float)(int)(v % 9) - 4)); return r & 0xff; }
DEVICE u32 wg_e5m2(u32 v) { u16 r; asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %1;" : "=h"(r) : "f"((float)(int)(v % 9) - 4)); return r & 0xff; }

// wg_tile gives the descriptor of a tile of rows × 32 bytes.
DEVICE u64 wg_tile(const void *s, u32 rows) {
	u64 at = (u32)__cvta_generic_to_shared(s);
	return at >> 4 & 0x3fff | (u64)(rows * 16 >> 4) << 16 | (u64)(128 >> 4) << 32;
}
// wg_put puts element (row, k), of size bytes, into such a tile.
DEVICE void wg_put(u8 *s, u32 rows, u32 row, u32 k, u32 size, u32 v) {
	u8 *p = s + k * size / 16 * rows * 16 + row / 8 * 128 + row % 8 * 16 + k * size % 16;
	for (u32 i = 0; i < size; i++)
		p[i] = v >> (8 * i);
}
#define C4(c, i) "+" c(x[i]), "+" c(x[i + 1]), "+" c(x[i + 2]), "+" c(x[i + 3])
#define C8(c, i) C4(c, i), C4(c, i + 4)
#define C16(c, i) C8(c, i), C8(c, i + 8)
#define C32(c, i) C16(c, i), C16(c, i + 16)
#define N4 \
	"%0,%1,%2,%3"
#define N8 \
	"%0,%1,%2,%3,%4,%5,%6,%7"
#define N12 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11"
#define N16 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define N96 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
	"%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49," \
	"%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73," \
	"%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define N128 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
	"%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49," \
	"%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73," \
	"%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97," \
	"%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116," \
	"%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

// The whole of d = a·b + d for one warpgroup; A and B are stored by rows, as numbers from which the elements are made.
#define WGMMA(name, N, K, CT, RT, c, size, cona, conb, va, vb, ty, list, ops, tail) \
	KERNEL name(CT *d, const u32 *a, const u32 *b) { \
		SHARED ALIGNED(128) u8 s[64 * 32], w[N * 32]; \
		RT x[N / 2]; \
		for (u32 i = TX; i < 64 * K; i += 128) \
			wg_put(s, 64, i / K, i % K, size, cona(a[i])); \
		for (u32 i = TX; i < N * K; i += 128) \
			wg_put(w, N, i % N, i / N, size, conb(b[i])); \
		for (int j = 0; j < N / 2; j++) \
			x[j] = d[(TX / 32 * 16 + LANE / 4 + (j >> 1 & 1) * 8) * N + j / 4 * 8 + LANE % 4 * 2 + (j & 1)]; \
		SYNC(); \
		asm volatile("fence.proxy.async.shared::cta;\n" \
			     "wgmma.fence.sync.aligned;\n" \
			     "wgmma.mma_async.sync.aligned.m64n" #N "k" #K "." ty " {" list "}, " tail "\n" \
			     "wgmma.commit_group.sync.aligned;\n" \
			     "wgmma.wait_group.sync.aligned 0;" \
			     : ops : "l"(wg_tile(s, 64)), "l"(wg_tile(w, N)) : "memory"); \
		for (int j = 0; j < N / 2; j++) \
			d[(TX / 32 * 16 + LANE / 4 + (j >> 1 & 1) * 8) * N + j / 4 * 8 + LANE % 4 * 2 + (j & 1)] = x[j]; \
	}
#else
#define __launch_bounds__(...)
#define WG_4(v) ((int)((v) % 9) - 4)
#define WG_0(v) ((int)((v) % 9))
#define WGMMA(name, N, K, CT, RT, c, size, cona, conb, va, vb, ...) \
	KERNEL name(CT *d, const u32 *a, const u32 *b) { \
		for (int e = TX; e < 64 * N; e += 128) \
			for (int k = 0; k < K; k++) \
				d[e] += va(a[e / N * K + k]) * vb(b[k * N + e % N]); \
	}
#endif

//@ wgmma_n8_f16 grid=1 block=128 io:f32:512:few in:u32:1024:bits in:u32:128:bits
#define OPS C4("f", 0)
WGMMA(wgmma_n8_f16, 8, 16, float, float, "f", 2, wg_f16, wg_f16, WG_4, WG_4, "f32.f16.f16", N4, OPS, "%4, %5, 1, 1, 1, 0, 0;")
#undef OPS
//@ wgmma_n16_bf16 grid=1 block=128 io:f32:1024:few in:u32:1024:bits in:u32:256:bits
#define OPS C8("f", 0)
WGMMA(wgmma_n16_bf16, 16, 16, float, float, "f", 2, wg_bf16, wg_bf16, WG_4, WG_4, "f32.bf16.bf16", N8, OPS, "%8, %9, 1, 1, 1, 0, 0;")
#undef OPS
//@ wgmma_n24_tf32 grid=1 block=128 io:f32:1536:few in:u32:512:bits in:u32:192:bits
#define OPS C8("f", 0), C4("f", 8)
WGMMA(wgmma_n24_tf32, 24, 8, float, float, "f", 4, wg_tf32, wg_tf32, WG_4, WG_4, "f32.tf32.tf32", N12, OPS, "%12, %13, 1, 1, 1;")
#undef OPS
//@ wgmma_n16_e4m3 grid=1 block=128 io:f32:1024:few in:u32:2048:bits in:u32:512:bits
#define OPS C8("f", 0)
WGMMA(wgmma_n16_e4m3, 16, 32, float, float, "f", 1, wg_e4m3, wg_e5m2, WG_4, WG_4, "f32.e4m3.e5m2", N8, OPS, "%8, %9, 1, 1, 1;")
#undef OPS
//@ wgmma_n32_u8 grid=1 block=128 io:s32:2048:few in:u32:2048:bits in:u32:1024:bits
#define OPS C16("r", 0)
WGMMA(wgmma_n32_u8, 32, 32, s32, s32, "r", 1, wg_u8, wg_s8, WG_0, WG_4, "s32.u8.s8", N16, OPS, "%16, %17, 1;")
#undef OPS
//@ wgmma_n192_f16 grid=1 block=128 io:f32:12288:few in:u32:1024:bits in:u32:3072:bits
#define OPS C32("f", 0), C32("f", 32), C32("f", 64)
WGMMA(wgmma_n192_f16, 192, 16, float, float, "f", 2, wg_f16, wg_f16, WG_4, WG_4, "f32.f16.f16", N96, OPS, "%96, %97, 1, 1, 1, 0, 0;")
#undef OPS
//@ wgmma_n256_bf16 grid=1 block=128 io:f32:16384:few in:u32:1024:bits in:u32:4096:bits
#define OPS C32("f", 0), C32("f", 32), C32("f", 64), C32("f", 96)
WGMMA(wgmma_n256_bf16, 256, 16, float, float, "f", 2, wg_bf16, wg_bf16, WG_4, WG_4, "f32.bf16.bf16", N128, OPS, "%128, %129, 1, 1, 1, 0, 0;")
#undef OPS

// A producer gives registers up and a consumer takes them, as warp-specialised kernels do.
//@ setmaxnreg_roles grid=2 block=256 out:u32:256 in:u32:512:bits
KERNEL __launch_bounds__(256, 1) setmaxnreg_roles(u32 *o, const u32 *a) {
	SHARED u32 s[256];
	if (TX < 128) {
#ifdef __CUDACC__
		asm volatile("setmaxnreg.dec.sync.aligned.u32 40;" ::: "memory");
#endif
		s[TX] = a[BX * 256 + TX];
		s[128 + TX] = a[BX * 256 + 128 + TX];
		SYNC();
	} else {
#ifdef __CUDACC__
		asm volatile("setmaxnreg.inc.sync.aligned.u32 232;" ::: "memory");
#endif
		SYNC();
		o[BX * 128 + TX - 128] = s[255 - TX] * 3 + s[TX];
	}
}
