//@@ sm_90
#include "device.h"

// bf16 and the 8-bit floats as compiled models use them; COMPARISONS, near16 and the host's hd_ functions are half.cu's.

#ifdef __CUDACC__
#define COMPARISONS(X) \
	X(0, eq) X(1, ne) X(2, lt) X(3, le) X(4, gt) X(5, ge) X(6, num) X(7, equ) X(8, neu) X(9, ltu) X(10, leu) X(11, gtu) X(12, geu) X(13, nan)
DEVICE u32 near16(u32 a, u32 b, u32 n, u32 infinity) {
	switch (n & 7) {
	case 0: return a;
	case 1: return a ^ 0x80008000;
	case 2: return b | infinity;
	case 3: return (a ^ b) & ~infinity;
	}
	return b;
}
#else
static float hd_brain(u16 v) { return __uint_as_float((u32)v << 16); }
// hd_eight gives the value of an 8-bit float: e5m2 is the upper half of an f16.
static double hd_eight(u8 v, int e5) {
	if (e5)
		return hd_half((u16)v << 8);
	int e = v >> 3 & 15, m = v & 7;
	double d = (v & 0x7f) == 0x7f ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
	return v & 0x80 ? -d : d;
}
// hd_to_eight finds the nearest of all 8-bit floats, the even one of two, the largest where it is beyond.
static u8 hd_to_eight(double x, int e5) {
	u8 sign = signbit(x) ? 0x80 : 0, best = 0;
	if (x != x)
		return 0x7f;
	double a = fabs(x);
	int top = e5 ? 0x7b : 0x7e;
	if (a >= hd_eight(top, e5))
		return sign | top;
	for (int c = 1; c <= top; c++) {
		double now = fabs(hd_eight(c, e5) - a), was = fabs(hd_eight(best, e5) - a);
		if (now < was || now == was && !(c & 1))
			best = c;
	}
	return sign | best;
}
// hd_narrow rounds an f32 to the upper 32 - low bits, to the nearest (to even, or the larger) or down.
static u32 hd_narrow(float f, int low, char how) {
	u32 v = __float_as_uint(f), rest = v & ((1u << low) - 1), half = 1u << (low - 1), kept = v - rest;
	if (f - f != 0)
		return f == f ? v : 0x7fffffff;
	if (how == 'n' ? rest > half || rest == half && (kept >> low & 1) : how == 'a' && rest >= half)
		kept += 1u << low;
	return kept;
}
#endif

//@ brain_compare grid=4 block=128 out:u32:1024 out:u32:7168 in:u32:512:bits in:u32:512:bits
KERNEL brain_compare(u32 *o, u32 *set, const u32 *a, const u32 *b) {
	u32 i = GID(), lo = 0, hi = 0, m = 0, x = a[i], y = near16(a[i], b[i], i, 0x7f807f80);
	u16 h = x, k = y;
#define ONE(n, op) \
	asm("{.reg .pred p, q; setp." #op ".bf16x2 p|q, %2, %3; selp.u32 %0, 1, 0, p; selp.u32 %1, 1, 0, q;}" \
	    : "=r"(s), "=r"(t) : "r"(x), "r"(y)); \
	lo |= s << n; \
	hi |= t << n; \
	asm("{.reg .pred p; setp." #op ".bf16 p, %1, %2; selp.u32 %0, 1, 0, p;}" : "=r"(s) : "h"(h), "h"(k)); \
	m |= (s ^ (lo >> n & 1)) << n; \
	asm("set." #op ".bf16x2.bf16x2 %0, %1, %2;" : "=r"(s) : "r"(x), "r"(y)); \
	set[n * 512 + i] = s;
#ifdef __CUDACC__
	u32 s, t;
	COMPARISONS(ONE)
#else
	for (int n = 0; n < 14; n++) {
		int l = hd_compare(n, hd_brain(h), hd_brain(k)), u = hd_compare(n, hd_brain(x >> 16), hd_brain(y >> 16));
		lo |= (u32)l << n;
		hi |= (u32)u << n;
		set[n * 512 + i] = (l ? 0x3f80 : 0) | (u ? 0x3f800000 : 0);
	}
#endif
#undef ONE
	o[i] = lo | m << 16; // one alone compares as in a pair: m is zero
	o[512 + i] = hi;
}

//@ brain_approx grid=4 block=64 out:bf16:512 out:bf16:512 in:bf16:512:mix
KERNEL brain_approx(u16 *t, u16 *e, const u16 *a) {
	u16 before = 0;
	for (u32 n = 0; n < 2; n++) {
		u32 i = 2 * GID() + n;
		u16 v = a[i] > 0xc2fc && a[i] < 0xc308 ? 0xc2fc : a[i]; // no subnormal result: whether .ftz flushes that is not tested here
#ifdef __CUDACC__
		if (n == 0) {
			asm("tanh.approx.bf16 %0, %1;" : "=h"(t[i]) : "h"(v));
			asm("ex2.approx.ftz.bf16 %0, %1;" : "=h"(e[i]) : "h"(v));
		} else {
			u32 x = v | (u32)before << 16, y, z;
			asm("tanh.approx.bf16x2 %0, %1;" : "=r"(y) : "r"(x));
			asm("ex2.approx.ftz.bf16x2 %0, %1;" : "=r"(z) : "r"(x));
			t[i] = y, t[i - 1] += (y >> 16) != t[i - 1]; // the other half is what the single one gave
			e[i] = z, e[i - 1] += (z >> 16) != e[i - 1];
		}
#else
		double x = hd_brain(v);
		t[i] = hd_narrow(tanh(x), 16, 'n') >> 16;
		e[i] = hd_narrow(exp2(x), 16, 'n') >> 16;
#endif
		before = v;
	}
}

//@ brain_convert grid=8 block=128 out:bf16:6144 out:f32:2048 in:f32:1024:mix in:f32:1024:mix
KERNEL brain_convert(u16 *o, u32 *w, const float *a, const float *b) {
	u32 i = GID(), r[3];
	float x = a[i] == 0 ? 0 : a[i], y = b[i] == 0 ? 0 : b[i];
#ifdef __CUDACC__
	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r[0]) : "f"(x), "f"(y));
	asm("cvt.rz.bf16x2.f32 %0, %1, %2;" : "=r"(r[1]) : "f"(x), "f"(y));
	asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(r[2]) : "f"(x), "f"(y));
	asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(w[i]) : "f"(x));
	asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(w[1024 + i]) : "f"(y));
#else
	r[0] = hd_narrow(x, 16, 'n') >> 16 << 16 | hd_narrow(y, 16, 'n') >> 16;
	r[1] = hd_narrow(x, 16, 'z') >> 16 << 16 | hd_narrow(y, 16, 'z') >> 16;
	r[2] = (x < 0 ? 0 : hd_narrow(x, 16, 'n') >> 16 << 16) | (y < 0 ? 0 : hd_narrow(y, 16, 'n') >> 16);
	w[i] = hd_narrow(x, 13, 'a');
	w[1024 + i] = hd_narrow(y, 13, 'n');
#endif
	for (int n = 0; n < 3; n++) {
		o[n * 2048 + i] = r[n];
		o[n * 2048 + 1024 + i] = r[n] >> 16;
	}
}

//@ eight_from grid=8 block=64 out:u16:2048 in:f32:512:half in:f32:512:half in:u32:512:bits
KERNEL eight_from(u16 *o, const float *a, const float *b, const u32 *c) {
	u32 i = GID(), p = c[i];
	u16 r[4];
	// in half of the lanes the numbers lie around what an e4m3 can have
	float x = i & 1 ? a[i] : a[i] * 0x1p-9f, y = i & 2 ? b[i] : b[i] * 0x1p-9f;
#ifdef __CUDACC__
	asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r[0]) : "f"(x), "f"(y));
	asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(r[1]) : "f"(x), "f"(y));
	asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(r[2]) : "r"(p));
	asm("cvt.rn.satfinite.e5m2x2.f16x2 %0, %1;" : "=h"(r[3]) : "r"(p));
#else
	double l = hd_half(p), h = hd_half(p >> 16);
	r[0] = hd_to_eight(x, 0) << 8 | hd_to_eight(y, 0);
	r[1] = hd_to_eight(x, 1) << 8 | hd_to_eight(y, 1);
	r[2] = hd_to_eight(h, 0) << 8 | hd_to_eight(l, 0);
	r[3] = hd_to_eight(h, 1) << 8 | hd_to_eight(l, 1);
#endif
	for (int n = 0; n < 4; n++)
		o[n * 512 + i] = r[n];
}

//@ eight_to grid=2 block=128 out:f16:2048 in:u16:256:bits
KERNEL eight_to(u16 *o, const u16 *a) {
	u32 i = GID(), r[4];
	u16 v = (a[i] & 0xff00) | i;
#ifdef __CUDACC__
	asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r[0]) : "h"(v));
	asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(r[1]) : "h"(v));
	v &= v & 0x80 && !(v & 0x7f) ? 0xff00 : 0xffff; // what .relu makes of -0 is not said
	v &= v & 0x8000 && !(v & 0x7f00) ? 0xff : 0xffff;
	asm("cvt.rn.relu.f16x2.e4m3x2 %0, %1;" : "=r"(r[2]) : "h"(v));
	asm("cvt.rn.relu.f16x2.e5m2x2 %0, %1;" : "=r"(r[3]) : "h"(v));
#else
	for (int e5 = 0; e5 < 2; e5++) {
		double l = hd_eight(v, e5), h = hd_eight(v >> 8, e5);
		r[e5] = (u32)hd_to_half(h) << 16 | hd_to_half(l);
		r[2 + e5] = (u32)(h <= 0 ? 0 : hd_to_half(h)) << 16 | (l <= 0 ? 0 : hd_to_half(l));
	}
#endif
	for (int n = 0; n < 4; n++) {
		o[n * 512 + i] = r[n];
		o[n * 512 + 256 + i] = r[n] >> 16;
	}
}

// Sums of small integers are exact in any order, and so are sums of subnormals, which .noftz keeps.
//@ brain_atomics grid=4 block=64 io:u32:8:zero io:u16:4:zero in:u32:256:bits
KERNEL brain_atomics(u32 *pairs, u16 *ones, const u32 *a) {
	u32 v = a[GID()], x = v >> 8 & 1, y = v >> 16 & 1;
	u32 in = v >> 24 & 3; // at most 64 ones are added up: bf16 counts to 256
#ifdef __CUDACC__
	SHARED u32 s[4];
	if (TX < 4)
		s[TX] = 0;
	SYNC();
	u32 old; // depends on the order: no result
	u16 was;
	if (TX < 24) {
		asm volatile("atom.global.add.noftz.bf16x2 %0, [%1], %2;" : "=r"(old) : "l"(&pairs[in]), "r"(x | y << 16) : "memory");
		asm volatile("atom.global.add.noftz.bf16 %0, [%1], %2;" : "=h"(was) : "l"(&ones[in & 1]), "h"((u16)x) : "memory");
		asm volatile("red.relaxed.gpu.global.add.noftz.bf16 [%0], %1;" ::"l"(&ones[2 + (in & 1)]), "h"((u16)y) : "memory");
	}
	asm volatile("red.shared.add.noftz.bf16x2 [%0], %1;" ::"r"((u32)__cvta_generic_to_shared(&s[in])), "r"(x * 0x3f80 | y * 0x3f800000) : "memory");
	SYNC();
	(void)old, (void)was;
	if (TX < 4)
		asm volatile("red.global.add.noftz.bf16x2 [%0], %1;" ::"l"(&pairs[4 + TX]), "r"(s[TX]) : "memory");
#else
	if (TX < 24) {
		pairs[in] += x | y << 16;
		ones[in & 1] += x;
		ones[2 + (in & 1)] += y;
	}
	u32 *p = &pairs[4 + in];
	*p = hd_narrow(hd_brain(*p) + x, 16, 'n') >> 16 | (hd_narrow(hd_brain(*p >> 16) + y, 16, 'n') & 0xffff0000);
#endif
}

//@ brain_math grid=4 block=64 out:bf16:3072 in:bf16:512:bits in:bf16:512:bits
KERNEL brain_math(u16 *o, const u16 *a, const u16 *b) {
	u32 i = GID(), r[6], x = a[i] | (u32)a[256 + i] << 16, y = b[i] | (u32)b[256 + i] << 16;
	y = near16(x, y, i, 0x7f807f80);
#ifdef __CUDACC__
	asm("min.bf16x2 %0, %1, %2;" : "=r"(r[0]) : "r"(x), "r"(y));
	asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r[1]) : "r"(x), "r"(y));
	asm("max.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(r[2]) : "r"(x), "r"(y));
	asm("abs.bf16x2 %0, %1;" : "=r"(r[3]) : "r"(x));
	asm("neg.bf16x2 %0, %1;" : "=r"(r[4]) : "r"(y));
	asm("fma.rn.relu.bf16x2 %0, %1, %2, %3;" : "=r"(r[5]) : "r"(x), "r"(0x3f803f80), "r"(0x3f803f80));
#else
	for (int n = 0; n < 6; n++)
		r[n] = 0;
	for (int h = 0; h < 32; h += 16) {
		u16 p = x >> h, q = y >> h, pa = p & 0x7fff, qa = q & 0x7fff, v;
		float f = hd_brain(p), g = hd_brain(q), fa = hd_brain(pa), ga = hd_brain(qa);
		int nan = f != f || g != g;
		v = f != f ? (g != g ? 0x7fff : q) : g != g ? p : f == g ? p | q : f < g ? p : q;
		r[0] |= (u32)v << h;
		v = nan ? 0x7fff : f == g ? p & q : f > g ? p : q;
		r[1] |= (u32)v << h;
		v = f != f ? (g != g ? 0x7fff : qa) : g != g ? pa : fa > ga ? pa : qa;
		r[2] |= (u32)(f != f && g != g ? v : v | ((p ^ q) & 0x8000)) << h;
		r[3] |= (u32)pa << h;
		r[4] |= (u32)(q ^ 0x8000) << h;
		u16 s = badd(p, 0x3f80);
		r[5] |= (u32)(f != f ? 0x7fff : s & 0x8000 ? 0 : s) << h;
	}
#endif
	for (int n = 0; n < 6; n++) {
		o[n * 512 + i] = r[n];
		o[n * 512 + 256 + i] = r[n] >> 16;
	}
}
