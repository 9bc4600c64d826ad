//@@ sm_90
#include "device.h"

// Narrow floats: the host has _Float16 (every operation rounded once through
// f32 or f64, both wide enough), and does bf16 by hand.
#ifdef __CUDACC__
#define H2(name, op)                                                                                                   \
	DEVICE u16 name(u16 a, u16 b) {                                                                                \
		u16 r;                                                                                                 \
		asm(op " %0, %1, %2;" : "=h"(r) : "h"(a), "h"(b));                                                     \
		return r;                                                                                              \
	}
H2(hadd, "add.rn.f16")
H2(hsub, "sub.rn.f16")
H2(hmul, "mul.rn.f16")
H2(bmul, "mul.rn.bf16")
H2(badd, "add.rn.bf16")
DEVICE u16 hfma(u16 a, u16 b, u16 c) { u16 r; asm("fma.rn.f16 %0, %1, %2, %3;" : "=h"(r) : "h"(a), "h"(b), "h"(c)); return r; }
DEVICE u16 bfma(u16 a, u16 b, u16 c) { u16 r; asm("fma.rn.bf16 %0, %1, %2, %3;" : "=h"(r) : "h"(a), "h"(b), "h"(c)); return r; }
DEVICE u16 f2h(float a) { u16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(a)); return r; }
DEVICE u16 f2h_rz(float a) { u16 r; asm("cvt.rz.f16.f32 %0, %1;" : "=h"(r) : "f"(a)); return r; }
DEVICE float h2f(u16 a) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(a)); return r; }
DEVICE u16 f2b(float a) { u16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(a)); return r; }
DEVICE u32 f2h2(float hi, float lo) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
DEVICE u32 hfma2(u32 a, u32 b, u32 c) { u32 r; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r; }
DEVICE int hlt(u16 a, u16 b) { int r; asm("{.reg .pred p; setp.lt.f16 p, %1, %2; selp.s32 %0, 1, 0, p;}" : "=r"(r) : "h"(a), "h"(b)); return r; }
DEVICE u16 d2h(double a) { u16 r; asm("cvt.rn.f16.f64 %0, %1;" : "=h"(r) : "d"(a)); return r; }
DEVICE int h2i(u16 a) { int r; asm("cvt.rni.s32.f16 %0, %1;" : "=r"(r) : "h"(a)); return r; }
DEVICE u16 i2h(int a) { u16 r; asm("cvt.rn.f16.s32 %0, %1;" : "=h"(r) : "r"(a)); return r; }
#else
static _Float16 H(u16 v) { _Float16 h; memcpy(&h, &v, 2); return h; }
static u16 U(_Float16 h) { u16 v; memcpy(&v, &h, 2); return v; }
static u16 hadd(u16 a, u16 b) { return U((_Float16)((float)H(a) + (float)H(b))); }
static u16 hsub(u16 a, u16 b) { return U((_Float16)((float)H(a) - (float)H(b))); }
static u16 hmul(u16 a, u16 b) { return U((_Float16)((float)H(a) * (float)H(b))); }
// A product of two f16 plus an f16 is exact in 80-bit long double (64 bits of
// mantissa hold 2^-48 to 2^15); its conversion to f16 rounds once.
static u16 hfma(u16 a, u16 b, u16 c) {
	long double r = (long double)(float)H(a) * (float)H(b) + (float)H(c);
	if (r != r || r - r != 0)
		return U((_Float16)(float)r);
	return U((_Float16)r);
}
static u16 f2h(float a) { return U((_Float16)a); }
static float h2f(u16 a) { return (float)H(a); }
static u16 f2h_rz(float a) {
	u16 v = U((_Float16)a);
	if (a == a && a - a == 0 && fabsf(h2f(v)) > fabsf(a))
		v--;
	return v;
}
// Rounds to bf16 to nearest even from an exact value in long double.
static u16 l2b(long double x) {
	if (x != x)
		return 0x7fff;
	float f = (float)x; // nearest f32; may be a tie or inexact: decide from x
	u32 v = __float_as_uint(f);
	u32 lo = v & 0xffff0000u;
	float a = __uint_as_float(lo), b;
	if (x - x != 0 || f - f != 0) {
		// infinity, or beyond f32's range: beyond bf16's too
		return __float_as_uint(f) >> 16;
	}
	if (fabsl((long double)a) > fabsl(x))
		lo -= 0x10000, a = __uint_as_float(lo);
	b = __uint_as_float(lo + 0x10000);
	long double half;
	if (b - b != 0)
		half = (long double)a + ((long double)a - (long double)__uint_as_float(lo - 0x10000)) / 2;
	else
		half = ((long double)a + (long double)b) / 2;
	long double ax = fabsl(x), ah = fabsl(half);
	if (ax > ah || (ax == ah && (lo >> 16 & 1)))
		lo += 0x10000;
	return lo >> 16;
}
static float B(u16 v) { return __uint_as_float((u32)v << 16); }
static u16 f2b(float a) { return l2b(a); }
// Rounds s+e, e below s's last bit, to odd: no later rounding is misled.
static long double sticky(long double s, long double e) {
	u64 m;
	memcpy(&m, &s, 8);
	if (s != s || s - s != 0 || e == 0 || (m & 1))
		return s;
	return nextafterl(s, e > 0 ? INFINITY : -INFINITY);
}
static u16 badd(u16 a, u16 b) { // f32 operands far apart do not fit 64 bits: TwoSum decides
	long double x = B(a), y = B(b), s = x + y, bb = s - x, e = (x - (s - bb)) + (y - bb);
	return l2b(sticky(s, e));
}
static u16 bmul(u16 a, u16 b) { return l2b((long double)B(a) * B(b)); }
static u16 bfma(u16 a, u16 b, u16 c) {
	long double x = (long double)B(a) * B(b), y = B(c), s = x + y, bb = s - x, e = (x - (s - bb)) + (y - bb);
	return l2b(sticky(s, e));
}
static u32 f2h2(float hi, float lo) { return (u32)f2h(hi) << 16 | f2h(lo); }
static u32 hfma2(u32 a, u32 b, u32 c) { return (u32)hfma(a >> 16, b >> 16, c >> 16) << 16 | hfma(a, b, c); }
static int hlt(u16 a, u16 b) { return h2f(a) < h2f(b); }
static u16 d2h(double a) { return U((_Float16)a); }
static int h2i(u16 a) {
	float f = h2f(a);
	return f != f ? 0 : f >= 2147483648.f ? 0x7fffffff : f < -2147483648.f ? -0x7fffffff - 1 : (int)rintf(f);
}
static u16 i2h(int a) { return U((_Float16)a); }
#endif

//@ half_arith grid=8 block=256 out:f16:6144 in:f16:2048:bits in:f16:2048:bits
KERNEL half_arith(u16 *o, const u16 *a, const u16 *b) {
	int i = GID();
	o[3 * i] = hadd(a[i], b[i]);
	o[3 * i + 1] = hsub(a[i], b[i]);
	o[3 * i + 2] = hmul(a[i], b[i]);
}

//@ half_fma grid=8 block=256 out:f16:2048 in:f16:2048:bits in:f16:2048:bits in:f16:2048:bits
KERNEL half_fma(u16 *o, const u16 *a, const u16 *b, const u16 *c) {
	int i = GID();
	o[i] = hfma(a[i], b[i], c[i]);
}

//@ half_fma2 grid=8 block=128 out:f16:2048 in:u32:1024:bits in:u32:1024:bits in:u32:1024:bits
KERNEL half_fma2(u32 *o, const u32 *a, const u32 *b, const u32 *c) {
	int i = GID();
	o[i] = hfma2(a[i], b[i], c[i]);
}

//@ half_from grid=8 block=256 out:f16:10240 in:f32:2048:half in:f64:2048:half in:s32:2048:half
KERNEL half_from(u16 *o, const float *a, const double *b, const s32 *c) {
	int i = GID();
	u32 p = f2h2(a[i], a[i ^ 1]);
	o[5 * i] = f2h(a[i]);
	o[5 * i + 1] = f2h_rz(a[i]);
	o[5 * i + 2] = d2h(b[i]);
	o[5 * i + 3] = i2h(c[i] >> (i & 31));
	o[5 * i + 4] = i & 1 ? p >> 16 : p;
}

//@ half_to grid=8 block=256 out:f32:2048 out:s32:2048 out:u32:2048 in:f16:2048:bits
KERNEL half_to(float *f, s32 *n, u32 *less, const u16 *a) {
	int i = GID();
	f[i] = h2f(a[i]);
	n[i] = h2i(a[i]);
	less[i] = hlt(a[i], a[(i + 1) & 2047]);
}

//@ bf16_arith grid=8 block=256 out:bf16:6144 in:bf16:2048:bits in:bf16:2048:bits
KERNEL bf16_arith(u16 *o, const u16 *a, const u16 *b) {
	int i = GID();
	o[3 * i] = badd(a[i], b[i]);
	o[3 * i + 1] = bmul(a[i], b[i]);
	o[3 * i + 2] = badd(a[i], b[i] ^ 0x8000);
}

//@ bf16_fma grid=8 block=256 out:bf16:2048 in:bf16:2048:bits in:bf16:2048:bits in:bf16:2048:bits
KERNEL bf16_fma(u16 *o, const u16 *a, const u16 *b, const u16 *c) {
	int i = GID();
	o[i] = bfma(a[i], b[i], c[i]);
}

//@ bf16_from grid=16 block=256 out:bf16:4096 in:f32:4096:mix
KERNEL bf16_from(u16 *o, const float *a) {
	int i = GID();
	o[i] = f2b(a[i]);
}

// Conversions to integers clamp, and NaN gives 0, or the top bit for f64 and
// 64-bit results (PTX ISA, cvt).
#ifdef __CUDACC__
#define TO_INT(T, dt, con, x, how, st, scon)                                                                           \
	({                                                                                                             \
		T r_;                                                                                                  \
		asm("cvt." how "." dt "." st " %0, %1;" : con(r_) : scon(x));                                          \
		r_;                                                                                                    \
	})
#else
static double hd_int(double x, const char *how) {
	switch (how[1]) {
	case 'z': return trunc(x);
	case 'm': return floor(x);
	case 'p': return ceil(x);
	}
	return rint(x);
}
static u64 hd_toint(double x, const char *how, const char *dt, int wide_nan) {
	int bits = atoi(dt + 1);
	if (x != x)
		return wide_nan || bits == 64 ? 1ull << (bits - 1) : 0;
	x = hd_int(x, how + 0);
	if (dt[0] == 'u')
		return x <= 0 ? 0 : x >= ldexp(1, bits) ? ~0ull >> (64 - bits) : (u64)x;
	return x >= ldexp(1, bits - 1) ? (1ull << (bits - 1)) - 1 : x < -ldexp(1, bits - 1) ? (u64)(-1ll << (bits - 1)) : (u64)(s64)x;
}
#define TO_INT(T, dt, con, x, how, st, scon) ((T)hd_toint(x, how, dt, st[1] == '6'))
#endif

#define FLOAT_TO_INTS(name, F, st, scon)                                                                               \
	KERNEL name(u32 *o, u64 *q, const F *a) {                                                                      \
		int i = GID();                                                                                         \
		F x = a[i];                                                                                            \
		o[6 * i] = TO_INT(s32, "s32", "=r", x, "rzi", st, scon);                                               \
		o[6 * i + 1] = TO_INT(s32, "s32", "=r", x, "rni", st, scon);                                           \
		o[6 * i + 2] = TO_INT(u32, "u32", "=r", x, "rmi", st, scon);                                           \
		o[6 * i + 3] = TO_INT(s32, "s32", "=r", x, "rpi", st, scon);                                           \
		o[6 * i + 4] = TO_INT(s16, "s16", "=h", x, "rni", st, scon);                                           \
		o[6 * i + 5] = TO_INT(u16, "u16", "=h", x, "rzi", st, scon);                                           \
		q[3 * i] = TO_INT(s64, "s64", "=l", x, "rzi", st, scon);                                               \
		q[3 * i + 1] = TO_INT(u64, "u64", "=l", x, "rni", st, scon);                                           \
		q[3 * i + 2] = TO_INT(s64, "s64", "=l", x, "rmi", st, scon);                                           \
	}

//@ f32_to_ints grid=8 block=256 out:u32:12288 out:u64:6144 in:f32:2048:ints
FLOAT_TO_INTS(f32_to_ints, float, "f32", "f")
//@ f64_to_ints grid=8 block=256 out:u32:12288 out:u64:6144 in:f64:2048:ints
FLOAT_TO_INTS(f64_to_ints, double, "f64", "d")

//@ ints_to_f32 grid=8 block=256 out:f32:12288 in:u64:2048:bits
KERNEL ints_to_f32(float *o, const u64 *a) {
	int i = GID();
	u64 x = a[i] >> (i & 63);
	float *r = o + 6 * i;
	r[0] = (float)(s32)x;
	r[1] = (float)(u32)x;
	r[2] = (float)(s64)x;
	r[3] = (float)x;
	r[4] = (float)(s16)x;
	r[5] = (float)(u8)x;
}

#ifdef __CUDACC__
#define FROM_INT(F, fcon, ft, how, x, it, icon, T)                                                                     \
	({                                                                                                             \
		F r_;                                                                                                  \
		asm("cvt." how "." ft "." it " %0, %1;" : fcon(r_) : icon((T)(x)));                                    \
		r_;                                                                                                    \
	})
#else
static int hd_mode(const char *how) {
	return how[1] == 'z' ? FE_TOWARDZERO : how[1] == 'm' ? FE_DOWNWARD : FE_UPWARD;
}
#define FROM_INT(F, fcon, ft, how, x, it, icon, T)                                                                     \
	({                                                                                                             \
		volatile T v_ = (T)(x);                                                                                \
		fesetround(hd_mode(how));                                                                              \
		volatile F r_ = (F)(__float128)v_;                                                                     \
		fesetround(FE_TONEAREST);                                                                              \
		r_;                                                                                                    \
	})
#endif

//@ ints_to_floats_directed grid=8 block=128 out:f32:6144 out:f64:3072 in:u64:1024:bits
KERNEL ints_to_floats_directed(float *o, double *q, const u64 *a) {
	int i = GID();
	u64 x = a[i] >> (i & 63);
	o[6 * i] = FROM_INT(float, "=f", "f32", "rz", x, "u64", "l", u64);
	o[6 * i + 1] = FROM_INT(float, "=f", "f32", "rm", x, "s64", "l", s64);
	o[6 * i + 2] = FROM_INT(float, "=f", "f32", "rp", x, "s64", "l", s64);
	o[6 * i + 3] = FROM_INT(float, "=f", "f32", "rp", x, "u32", "r", u32);
	o[6 * i + 4] = FROM_INT(float, "=f", "f32", "rm", x, "s32", "r", s32);
	o[6 * i + 5] = FROM_INT(float, "=f", "f32", "rz", x, "s32", "r", s32);
	q[3 * i] = FROM_INT(double, "=d", "f64", "rz", x, "u64", "l", u64);
	q[3 * i + 1] = FROM_INT(double, "=d", "f64", "rm", x, "s64", "l", s64);
	q[3 * i + 2] = FROM_INT(double, "=d", "f64", "rp", x, "s64", "l", s64);
}

//@ ints_to_f64 grid=8 block=128 out:f64:4096 in:u64:1024:bits
KERNEL ints_to_f64(double *o, const u64 *a) {
	int i = GID();
	u64 x = a[i] >> (i & 63);
	o[4 * i] = (double)(s32)x;
	o[4 * i + 1] = (double)(u32)x;
	o[4 * i + 2] = (double)(s64)x;
	o[4 * i + 3] = (double)x;
}

//@ f64_to_f32 grid=8 block=256 out:f32:8192 in:f64:2048:f32range
KERNEL f64_to_f32(float *o, const double *a) {
	int i = GID();
	double x = a[i];
#ifdef __CUDACC__
	o[4 * i] = __double2float_rn(x);
	o[4 * i + 1] = __double2float_rz(x);
	o[4 * i + 2] = __double2float_rd(x);
	o[4 * i + 3] = __double2float_ru(x);
#else
	int mode[4] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
	for (int k = 0; k < 4; k++) {
		volatile double v = x;
		fesetround(mode[k]);
		volatile float r = (float)v;
		fesetround(FE_TONEAREST);
		o[4 * i + k] = r;
	}
#endif
}

//@ f32_to_f64 grid=8 block=256 out:f64:2048 in:f32:2048:mix
KERNEL f32_to_f64(double *o, const float *a) {
	int i = GID();
	o[i] = (double)a[i] * 0.5;
}

//@ saturate grid=8 block=128 out:u32:5120 in:s32:1024:bits
KERNEL saturate(u32 *o, const s32 *a) {
	int i = GID();
	s32 x = a[i] >> (i & 31);
	u32 *r = o + 5 * i;
#ifdef __CUDACC__
	asm("cvt.sat.u8.s32 %0, %1;" : "=r"(r[0]) : "r"(x));
	asm("cvt.sat.s8.s32 %0, %1;" : "=r"(r[1]) : "r"(x));
	asm("cvt.sat.u16.s32 %0, %1;" : "=r"(r[2]) : "r"(x));
	asm("add.sat.s32 %0, %1, %2;" : "=r"(r[3]) : "r"(a[i]), "r"(x));
	asm("sub.sat.s32 %0, %1, %2;" : "=r"(r[4]) : "r"(a[i]), "r"(x));
#else
	s64 s = (s64)a[i] + x, d = (s64)a[i] - x;
	r[0] = x < 0 ? 0 : x > 255 ? 255 : x;
	r[1] = x < -128 ? -128 : x > 127 ? 127 : x;
	r[2] = x < 0 ? 0 : x > 65535 ? 65535 : x;
	r[3] = s > 0x7fffffff ? 0x7fffffff : s < -0x80000000ll ? 0x80000000 : (u32)s;
	r[4] = d > 0x7fffffff ? 0x7fffffff : d < -0x80000000ll ? 0x80000000 : (u32)d;
#endif
}

//@ f32_sat_ftz grid=8 block=256 out:f32:8192 in:f32:2048:mix in:f32:2048:mix
KERNEL f32_sat_ftz(float *o, const float *a, const float *b) {
	int i = GID();
	float x = a[i], y = b[i], *r = o + 4 * i;
#ifdef __CUDACC__
	asm("add.sat.f32 %0, %1, %2;" : "=f"(r[0]) : "f"(x), "f"(y));
	asm("fma.rn.sat.f32 %0, %1, %2, %1;" : "=f"(r[1]) : "f"(x), "f"(y));
	asm("add.ftz.f32 %0, %1, %2;" : "=f"(r[2]) : "f"(x), "f"(y));
	asm("mul.ftz.f32 %0, %1, %2;" : "=f"(r[3]) : "f"(x), "f"(y));
#else
#define SAT(v) ((v) > 0 ? (v) > 1 ? 1.f : (v) : 0.f)
#define FLUSH(v) (fabsf(v) < 0x1p-126f ? copysignf(0.f, v) : (v))
	float s = x + y, f = fmaf(x, y, x), xf = FLUSH(x), yf = FLUSH(y);
	float t = xf + yf, m = xf * yf;
	r[0] = SAT(s), r[1] = SAT(f), r[2] = FLUSH(t), r[3] = FLUSH(m);
	if (fabs((double)xf * yf) < 0x1p-126 && fabsf(m) >= 0x1p-126f)
		r[3] = m; // rounds up to the least normal number: not flushed
#endif
}
