#include "device.h"

// What compiled models do with f16: comparisons that see NaNs, pairs, approximations, conversions with integers, atomics.

#ifndef __CUDACC__
// hd_half gives the value of an f16.
static double hd_half(u16 v) {
	_Float16 h;
	memcpy(&h, &v, 2);
	return h;
}
static u16 hd_to_half(double v) {
	_Float16 h = (_Float16)v;
	u16 r;
	memcpy(&r, &h, 2);
	return r;
}
// hd_compare does comparison op of COMPARISONS.
static int hd_compare(int op, double a, double b) {
	int nan = a != a || b != b;
	int r[7] = {a == b, a != b, a < b, a <= b, a > b, a >= b, !nan};
	if (op < 7)
		return r[op] && !nan;
	return op == 13 ? nan : r[op - 7] || nan;
}
// hd_flush16 makes a 16-bit subnormal a zero; low has the bits of the mantissa.
static u16 hd_flush16(u16 v, u16 low) { return v & (0x7fff & ~low) ? v : v & 0x8000; }
#endif

#define COMPARISONS(X) \
	X(0, eq) X(1, ne) X(2, lt) X(3, le) X(4, gt) X(5, ge) X(6, num) X(7, equ) X(8, neu) X(9, ltu) X(10, leu) X(11, gtu) X(12, geu) X(13, nan)

// Random bits are seldom equal or special: half of the pairs are made so.
DEVICE u32 near16(u32 a, u32 b, u32 n, u32 infinity) {
	switch (n & 7) {
	case 0: return a;
	case 1: return a ^ 0x80008000;
	case 2: return b | infinity;
	case 3: return (a ^ b) & ~infinity;
	}
	return b;
}

//@ half_compare grid=4 block=128 out:u32:512 out:u32:512 in:u32:512:bits in:u32:512:bits
KERNEL half_compare(u32 *o, u32 *z, const u32 *a, const u32 *b) {
	u32 i = GID(), m = 0, f = 0;
	u16 x = a[i], y = near16(a[i], b[i], i, 0x7c007c00);
	if (i & 8)
		x &= 0x83ff;
#define ONE(n, op) \
	asm("{.reg .pred p; setp." #op ".f16 p, %1, %2; selp.u32 %0, 1, 0, p;}" : "=r"(t) : "h"(x), "h"(y)); \
	m |= t << n; \
	asm("{.reg .pred p, q; setp.ne.u32 q, %3, 0; setp." #op ".xor.ftz.f16 p, %1, %2, q; selp.u32 %0, 1, 0, p;}" \
	    : "=r"(t) : "h"(x), "h"(y), "r"(i & 16)); \
	f |= t << n;
#ifdef __CUDACC__
	u32 t;
	COMPARISONS(ONE)
#else
	for (int n = 0; n < 14; n++) {
		m |= (u32)hd_compare(n, hd_half(x), hd_half(y)) << n;
		f |= (u32)(hd_compare(n, hd_half(hd_flush16(x, 0x3ff)), hd_half(hd_flush16(y, 0x3ff))) ^ ((i & 16) != 0)) << n;
	}
#endif
#undef ONE
	o[i] = m;
	z[i] = f;
}

//@ half2_compare grid=4 block=64 out:u32:512 out:u32:3584 in:u32:256:bits in:u32:256:bits
KERNEL half2_compare(u32 *o, u32 *set, const u32 *a, const u32 *b) {
	u32 i = GID(), lo = 0, hi = 0, x = a[i], y = near16(a[i], b[i], i, 0x7c007c00);
#define ONE(n, op) \
	asm("{.reg .pred p, q; setp." #op ".f16x2 p|q, %2, %3; selp.u32 %0, 1, 0, p; selp.u32 %1, 1, 0, q;}" \
	    : "=r"(s), "=r"(t) : "r"(x), "r"(y)); \
	lo |= s << n; \
	hi |= t << n; \
	asm("set." #op ".ftz.f16x2.f16x2 %0, %1, %2;" : "=r"(s) : "r"(x), "r"(y)); \
	set[n * 256 + i] = s;
#ifdef __CUDACC__
	u32 s, t;
	COMPARISONS(ONE)
#else
	for (int n = 0; n < 14; n++) {
		lo |= (u32)hd_compare(n, hd_half(x), hd_half(y)) << n;
		hi |= (u32)hd_compare(n, hd_half(x >> 16), hd_half(y >> 16)) << n;
		u32 r = 0;
		for (int h = 0; h < 32; h += 16)
			r |= hd_compare(n, hd_half(hd_flush16(x >> h, 0x3ff)), hd_half(hd_flush16(y >> h, 0x3ff))) ? 0x3c00u << h : 0;
		set[n * 256 + i] = r;
	}
#endif
#undef ONE
	o[i] = lo;
	o[256 + i] = hi;
}

//@ half_select grid=4 block=64 out:u32:1024 in:u32:256:bits in:u32:256:bits in:f32:256:mix
KERNEL half_select(u32 *o, const u32 *a, const u32 *b, const float *c) {
	u32 i = GID(), x = a[i], y = near16(a[i], b[i], i, 0x7c007c00), r[4];
	u16 h = x, k = y, w = 0, v = 0;
	float f = c[i];
#ifdef __CUDACC__
	// the larger of each pair, as a program without max would have it
	asm("{.reg .b32 m, n; set.gtu.f16x2.f16x2 m, %1, %2; set.gt.u32.f16 n, %3, %4; and.b32 %0, m, n;}" : "=r"(r[0]) : "r"(x), "r"(y), "h"(h), "h"(k));
	asm("{.reg .pred p, q; .reg .b16 l0, h0, l1, h1; mov.b32 {l0, h0}, %1; mov.b32 {l1, h1}, %2; setp.gt.f16x2 p|q, %1, %2; "
	    "selp.b16 l0, l0, l1, p; selp.b16 h0, h0, h1, q; mov.b32 %0, {l0, h0};}" : "=r"(r[1]) : "r"(x), "r"(y));
	asm("set.leu.f16.f16 %0, %1, %2;" : "=h"(w) : "h"(h), "h"(k));
	asm("{.reg .pred p; setp.lt.s32 p, %2, 0; set.neu.or.f16.f32 %0, %1, 0f3F800000, p;}" : "=h"(v) : "f"(f), "r"(x));
	asm("{.reg .pred p; setp.lt.s32 p, %3, 0; set.num.and.s32.f16 %0, %1, %2, !p;}" : "=r"(r[3]) : "h"(h), "h"(k), "r"(x));
#else
	double l0 = hd_half(x), l1 = hd_half(y), h0 = hd_half(x >> 16), h1 = hd_half(y >> 16);
	r[0] = (hd_compare(11, l0, l1) ? 0x3c00 : 0) | (hd_compare(11, h0, h1) ? 0x3c000000 : 0);
	r[0] &= l0 > l1 ? ~0u : 0;
	r[1] = (l0 > l1 ? x & 0xffff : y & 0xffff) | (h0 > h1 ? x & 0xffff0000 : y & 0xffff0000);
	w = hd_compare(10, l0, l1) ? 0x3c00 : 0;
	v = hd_compare(8, f, 1) || (s32)x < 0 ? 0x3c00 : 0;
	r[3] = hd_compare(6, l0, l1) && (s32)x >= 0 ? ~0u : 0;
#endif
	r[2] = w | (u32)v << 16;
	for (int n = 0; n < 4; n++)
		o[n * 256 + i] = r[n];
}

//@ half_approx grid=4 block=64 out:f16:512 out:f16:512 in:f16:512:half
KERNEL half_approx(u16 *t, u16 *e, const u16 *a) {
	for (u32 n = 0; n < 2; n++) {
		u32 i = 2 * GID() + n;
#ifdef __CUDACC__
		if (n == 0) {
			asm("tanh.approx.f16 %0, %1;" : "=h"(t[i]) : "h"(a[i]));
			asm("ex2.approx.f16 %0, %1;" : "=h"(e[i]) : "h"(a[i]));
		} else {
			u32 x = a[i] | (u32)a[i - 1] << 16, y, z;
			asm("tanh.approx.f16x2 %0, %1;" : "=r"(y) : "r"(x));
			asm("ex2.approx.f16x2 %0, %1;" : "=r"(z) : "r"(x));
			t[i] = y, t[i - 1] += (y >> 16) != t[i - 1]; // the other half is what the single one gave
			e[i] = z, e[i - 1] += (z >> 16) != e[i - 1];
		}
#else
		t[i] = hd_to_half(tanh(hd_half(a[i])));
		e[i] = hd_to_half(exp2(hd_half(a[i])));
#endif
	}
}

//@ half_integers grid=4 block=64 out:u64:256 out:u32:256 out:u32:256 out:f16:1280 in:f16:256:bits in:u64:256:bits
KERNEL half_integers(u64 *l, u32 *o, u32 *p, u16 *h, const u16 *a, const u64 *b) {
	u32 i = GID();
	u16 x = a[i], r[5];
	u64 v = b[i] >> (i % 60);
#ifdef __CUDACC__
	s64 w;
	u16 q, s;
	asm("cvt.rmi.s64.f16 %0, %1;" : "=l"(w) : "h"(x));
	asm("cvt.rzi.u16.f16 %0, %1;" : "=h"(q) : "h"(x));
	asm("cvt.rpi.s16.f16 %0, %1;" : "=h"(s) : "h"(x));
	l[i] = w;
	o[i] = q | (u32)s << 16;
	asm("cvt.rni.u32.f16 %0, %1;" : "=r"(p[i]) : "h"(x));
	asm("cvt.rn.f16.u64 %0, %1;" : "=h"(r[0]) : "l"(v));
	asm("cvt.rz.f16.s64 %0, %1;" : "=h"(r[1]) : "l"(-v));
	asm("cvt.rn.f16.u16 %0, %1;" : "=h"(r[2]) : "h"((u16)v));
	asm("cvt.rmi.f16.f16 %0, %1;" : "=h"(r[3]) : "h"(x));
	asm("cvt.sat.f16.f16 %0, %1;" : "=h"(r[4]) : "h"(x));
#else
	double f = hd_half(x);
	int nan = f != f;
	double lo = floor(f), up = ceil(f), cut = trunc(f), even = nearbyint(f);
	l[i] = nan ? 1ull << 63 : f > 1e5 ? 0x7fffffffffffffff : f < -1e5 ? 1ull << 63 : (u64)(s64)lo;
	o[i] = nan || cut < 0 ? 0 : cut > 65535 ? 65535 : (u32)cut;
	o[i] |= (nan ? 0 : up > 32767 ? 32767 : up < -32768 ? 32768 : (u32)(s32)up & 0xffff) << 16;
	p[i] = nan || even < 0 ? 0 : even > 1e5 ? ~0u : (u32)even;
	// beyond 65504 + 16 there is infinity; below 2^53 double is exact, above it is far beyond
	r[0] = hd_to_half(v >= 65520 ? (double)INFINITY : (double)v);
	s64 n = -v;
	double d = fabs((double)n), step = 1;
	while (d / step >= 2048)
		step *= 2;
	d = floor(d / step) * step;
	r[1] = hd_to_half(n < 0 ? -min(d, 65504) : min(d, 65504));
	r[2] = hd_to_half((u16)v >= 65520 ? (double)INFINITY : (u16)v);
	r[3] = hd_to_half(lo);
	r[4] = hd_to_half(nan || f <= 0 ? 0 : min(f, 1));
#endif
	for (int n = 0; n < 5; n++)
		h[n * 256 + i] = r[n];
}

// Sums of small integers are exact in any order, and so are sums of subnormals, which .noftz keeps.
//@ half_atomics grid=4 block=64 io:u32:8:zero io:u16:4:zero in:u32:256:bits
KERNEL half_atomics(u32 *pairs, u16 *ones, const u32 *a) {
	u32 v = a[GID()], x = v >> 8 & 3, y = v >> 16 & 3;
#ifdef __CUDACC__
	SHARED u32 s[4];
	if (TX < 4)
		s[TX] = 0;
	SYNC();
	u32 old; // depends on the order: no result
	u16 was;
	asm volatile("atom.global.add.noftz.f16x2 %0, [%1], %2;" : "=r"(old) : "l"(&pairs[v & 3]), "r"(x | y << 16) : "memory");
	asm volatile("atom.global.add.noftz.f16 %0, [%1], %2;" : "=h"(was) : "l"(&ones[v & 1]), "h"((u16)x) : "memory");
	asm volatile("red.global.add.noftz.f16 [%0], %1;" ::"l"(&ones[2 + (v & 1)]), "h"((u16)y) : "memory");
	u32 f;
	asm("{.reg .b16 l, h; cvt.rn.f16.u32 l, %1; cvt.rn.f16.u32 h, %2; mov.b32 %0, {l, h};}" : "=r"(f) : "r"(x), "r"(y));
	asm volatile("red.shared.add.noftz.f16x2 [%0], %1;" ::"r"((u32)__cvta_generic_to_shared(&s[v >> 2 & 3])), "r"(f) : "memory");
	SYNC();
	(void)old, (void)was;
	if (TX < 4)
		asm volatile("red.relaxed.gpu.global.add.noftz.f16x2 [%0], %1;" ::"l"(&pairs[4 + TX]), "r"(s[TX]) : "memory");
#else
	pairs[v & 3] += x | y << 16;
	ones[v & 1] += x;
	ones[2 + (v & 1)] += y;
	u32 *p = &pairs[4 + (v >> 2 & 3)];
	*p = hd_to_half(hd_half(*p) + x) | (u32)hd_to_half(hd_half(*p >> 16) + y) << 16;
#endif
}
