#include "device.h"

//@ vadd_f32 grid=9 block=256 out:f32:2200 in:f32:2200:mix in:f32:2200:mix i32=1500..2200
KERNEL vadd_f32(float *o, const float *a, const float *b, int n) {
	int i = GID();
	if (i < n)
		o[i] = a[i] + b[i];
}

//@ saxpy_f32 grid=9 block=256 io:f32:2200:wide in:f32:2200:wide f32=-2..2 i32=1500..2200
KERNEL saxpy_f32(float *y, const float *x, float a, int n) {
	int i = GID();
	if (i < n)
		y[i] = FMAF(a, x[i], y[i]);
}

//@ fma_f32 grid=16 block=256 out:f32:4096 in:f32:4096:mix in:f32:4096:mix in:f32:4096:mix
KERNEL fma_f32(float *o, const float *a, const float *b, const float *c) {
	int i = GID();
	o[i] = FMAF(a[i], b[i], c[i]);
}

//@ fma_cancel_f32 grid=16 block=256 out:f32:4096 in:f32:4096:unit in:f32:4096:unit
KERNEL fma_cancel_f32(float *o, const float *a, const float *b) {
	int i = GID();
	float p = a[i] * b[i];
	o[i] = FMAF(a[i], b[i], -p); // the rounding error of p
}

//@ sub_mul_f64 grid=8 block=256 out:f64:2048 in:f64:2048:mix in:f64:2048:mix
KERNEL sub_mul_f64(double *o, const double *a, const double *b) {
	int i = GID();
	double d = a[i] - b[i];
	o[i] = d * b[i];
}

//@ fma_f64 grid=8 block=256 out:f64:2048 in:f64:2048:mix in:f64:2048:mix in:f64:2048:mix
KERNEL fma_f64(double *o, const double *a, const double *b, const double *c) {
	int i = GID();
	o[i] = FMA(a[i], b[i], c[i]);
}

//@ div_f32 grid=16 block=256 out:f32:4096 in:f32:4096:mix in:f32:4096:mix
KERNEL div_f32(float *o, const float *a, const float *b) {
	int i = GID();
	o[i] = a[i] / b[i];
}

//@ div_f64 grid=8 block=256 out:f64:2048 in:f64:2048:mix in:f64:2048:mix
KERNEL div_f64(double *o, const double *a, const double *b) {
	int i = GID();
	o[i] = a[i] / b[i];
}

//@ sqrt_f32 grid=16 block=256 out:f32:4096 in:f32:4096:mix
KERNEL sqrt_f32(float *o, const float *a) {
	int i = GID();
	o[i] = sqrtf(a[i]);
}

//@ sqrt_f64 grid=8 block=256 out:f64:2048 in:f64:2048:mix
KERNEL sqrt_f64(double *o, const double *a) {
	int i = GID();
	o[i] = sqrt(a[i]);
}

//@ rcp_f32 grid=16 block=256 out:f32:4096 in:f32:4096:mix
KERNEL rcp_f32(float *o, const float *a) {
	int i = GID();
	o[i] = 1.0f / a[i];
}

//@ minmax_f32 grid=8 block=256 out:f32:4096 in:f32:2048:mix in:f32:2048:mix
KERNEL minmax_f32(float *o, const float *a, const float *b) {
	int i = GID();
	float x = a[i], y = b[i];
	if (x != x)
		x = __uint_as_float(0x7fc00000); // glibc lets a signalling NaN win
	if (y != y)
		y = __uint_as_float(0x7fc00000);
	// Signed zeros are the only values that C leaves open; avoid the tie.
	if (x == y)
		y = x;
	o[2 * i] = fminf(x, y);
	o[2 * i + 1] = fmaxf(x, y);
}

//@ minmax_f64 grid=8 block=128 out:f64:2048 in:f64:1024:mix in:f64:1024:mix
KERNEL minmax_f64(double *o, const double *a, const double *b) {
	int i = GID();
	double x = a[i], y = b[i];
	if (x != x)
		x = __longlong_as_double(0x7ff8000000000000);
	if (y != y)
		y = __longlong_as_double(0x7ff8000000000000);
	if (x == y)
		y = x;
	o[2 * i] = fmin(x, y);
	o[2 * i + 1] = fmax(x, y);
}

//@ integral_f32 grid=8 block=256 out:f32:8192 in:f32:2048:ints
KERNEL integral_f32(float *o, const float *a) {
	int i = GID();
	o[4 * i] = floorf(a[i]);
	o[4 * i + 1] = ceilf(a[i]);
	o[4 * i + 2] = truncf(a[i]);
	o[4 * i + 3] = rintf(a[i]);
}

//@ integral_f64 grid=8 block=128 out:f64:4096 in:f64:1024:ints
KERNEL integral_f64(double *o, const double *a) {
	int i = GID();
	o[4 * i] = floor(a[i]);
	o[4 * i + 1] = ceil(a[i]);
	o[4 * i + 2] = trunc(a[i]);
	o[4 * i + 3] = rint(a[i]);
}

//@ sign_f32 grid=8 block=256 out:u32:6144 in:f32:2048:wide in:f32:2048:wide
KERNEL sign_f32(u32 *o, const float *a, const float *b) {
	int i = GID();
	o[3 * i] = __float_as_uint(fabsf(a[i]));
	o[3 * i + 1] = __float_as_uint(-a[i]);
	o[3 * i + 2] = __float_as_uint(copysignf(a[i], b[i]));
}

//@ compare_f32 grid=8 block=256 out:u32:2048 in:f32:2048:mix in:f32:2048:mix
KERNEL compare_f32(u32 *o, const float *a, const float *b) {
	int i = GID();
	float x = a[i], y = b[i];
	if (i % 5 == 0)
		y = x;
	o[i] = (x < y) | (x <= y) << 1 | (x > y) << 2 | (x >= y) << 3 | (x == y) << 4 | (x != y) << 5 | !(x < y) << 6 |
	       !(x >= y) << 7 | (x != x) << 8 | (x < y && y > 0) << 9 | (x < y || y != y) << 10;
}

//@ compare_f64 grid=8 block=256 out:u32:2048 in:f64:2048:mix in:f64:2048:mix
KERNEL compare_f64(u32 *o, const double *a, const double *b) {
	int i = GID();
	double x = a[i], y = b[i];
	if (i % 5 == 0)
		y = x;
	o[i] = (x < y) | (x <= y) << 1 | (x > y) << 2 | (x >= y) << 3 | (x == y) << 4 | (x != y) << 5 | !(x < y) << 6 |
	       !(x >= y) << 7 | (x != x) << 8;
}

//@ horner_f32 grid=8 block=256 out:f32:2048 in:f32:2048:unit in:f32:16:unit i32=5..16
KERNEL horner_f32(float *o, const float *x, const float *c, int n) {
	int i = GID();
	float r = 0;
	for (int k = 0; k < n; k++)
		r = r * x[i] + c[k];
	o[i] = r;
}

//@ mandelbrot grid=4,8 block=16,8 out:u32:4096 f32=-2.2..-2 f32=-1.3..-1.1 f32=0.04..0.05 i32=100..200
KERNEL mandelbrot(u32 *o, float x0, float y0, float step, int most) {
	int px = BX * NX + TX, py = BY * NY + TY;
	float cx = x0 + px * step, cy = y0 + py * step, x = 0, y = 0;
	int n = 0;
	while (n < most && x * x + y * y < 4.0f) {
		float t = x * x - y * y + cx;
		y = 2 * x * y + cy;
		x = t;
		n++;
	}
	o[py * (GX * NX) + px] = n;
}

//@ clamp4_f32 grid=4 block=128 out:f32:2048 in:f32:2048:wide
KERNEL clamp4_f32(float *o, const float *a) {
	int i = GID() * 4;
#ifdef __CUDACC__
	float4 v = *(const float4 *)(a + i);
	float x = v.x, y = v.y, z = v.z, w = v.w;
#else
	float x = a[i], y = a[i + 1], z = a[i + 2], w = a[i + 3];
#endif
	x = fminf(fmaxf(x, 0.f), 6.f);
	y = x > y ? x : y;
	z = z * 0.5f;
	w = w - z;
#ifdef __CUDACC__
	*(float4 *)(o + i) = make_float4(x, y, z, w);
#else
	o[i] = x, o[i + 1] = y, o[i + 2] = z, o[i + 3] = w;
#endif
}

//@ complex_f64 grid=8 block=128 out:f64:2048 in:f64:2048:wide in:f64:2048:wide
KERNEL complex_f64(double *o, const double *a, const double *b) {
	int i = 2 * GID();
#ifdef __CUDACC__
	double2 x = *(const double2 *)(a + i), y = *(const double2 *)(b + i);
	*(double2 *)(o + i) = make_double2(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x);
#else
	o[i] = a[i] * b[i] - a[i + 1] * b[i + 1];
	o[i + 1] = a[i] * b[i + 1] + a[i + 1] * b[i];
#endif
}

#define DIRECTED(T, pre, suffix, tag)                                                                                  \
	KERNEL round_add_##tag(T *o, const T *a, const T *b) {                                                         \
		int i = GID();                                                                                         \
		o[3 * i] = ROUND2(__##pre##add_rz, pre##add, FE_TOWARDZERO, a[i], b[i]);                               \
		o[3 * i + 1] = ROUND2(__##pre##add_rd, pre##add, FE_DOWNWARD, a[i], b[i]);                             \
		o[3 * i + 2] = ROUND2(__##pre##add_ru, pre##add, FE_UPWARD, a[i], b[i]);                               \
	}                                                                                                              \
	KERNEL round_mul_##tag(T *o, const T *a, const T *b) {                                                         \
		int i = GID();                                                                                         \
		o[3 * i] = ROUND2(__##pre##mul_rz, pre##mul, FE_TOWARDZERO, a[i], b[i]);                               \
		o[3 * i + 1] = ROUND2(__##pre##mul_rd, pre##mul, FE_DOWNWARD, a[i], b[i]);                             \
		o[3 * i + 2] = ROUND2(__##pre##mul_ru, pre##mul, FE_UPWARD, a[i], b[i]);                               \
	}                                                                                                              \
	KERNEL round_div_##tag(T *o, const T *a, const T *b) {                                                         \
		int i = GID();                                                                                         \
		o[3 * i] = ROUND2(__##pre##div_rz, pre##div, FE_TOWARDZERO, a[i], b[i]);                               \
		o[3 * i + 1] = ROUND2(__##pre##div_rd, pre##div, FE_DOWNWARD, a[i], b[i]);                             \
		o[3 * i + 2] = ROUND2(__##pre##div_ru, pre##div, FE_UPWARD, a[i], b[i]);                               \
	}                                                                                                              \
	KERNEL round_sqrt_##tag(T *o, const T *a) {                                                                    \
		int i = GID();                                                                                         \
		o[3 * i] = ROUND1(__##pre##sqrt_rz, pre##sqrt, FE_TOWARDZERO, a[i]);                                   \
		o[3 * i + 1] = ROUND1(__##pre##sqrt_rd, pre##sqrt, FE_DOWNWARD, a[i]);                                 \
		o[3 * i + 2] = ROUND1(__##pre##sqrt_ru, pre##sqrt, FE_UPWARD, a[i]);                                   \
	}                                                                                                              \
	KERNEL round_fma_##tag(T *o, const T *a, const T *b, const T *c) {                                             \
		int i = GID();                                                                                         \
		o[3 * i] = ROUND3(__fma##suffix##_rz, pre##fma, FE_TOWARDZERO, a[i], b[i], c[i]);                      \
		o[3 * i + 1] = ROUND3(__fma##suffix##_rd, pre##fma, FE_DOWNWARD, a[i], b[i], c[i]);                    \
		o[3 * i + 2] = ROUND3(__fma##suffix##_ru, pre##fma, FE_UPWARD, a[i], b[i], c[i]);                      \
	}

//@ round_add_f32 grid=8 block=256 out:f32:6144 in:f32:2048:mix in:f32:2048:mix
//@ round_mul_f32 grid=8 block=256 out:f32:6144 in:f32:2048:mix in:f32:2048:mix
//@ round_div_f32 grid=8 block=256 out:f32:6144 in:f32:2048:mix in:f32:2048:mix
//@ round_sqrt_f32 grid=8 block=256 out:f32:6144 in:f32:2048:mix
//@ round_fma_f32 grid=8 block=256 out:f32:6144 in:f32:2048:mix in:f32:2048:mix in:f32:2048:mix
DIRECTED(float, f, f, f32)
//@ round_add_f64 grid=4 block=256 out:f64:3072 in:f64:1024:mix in:f64:1024:mix
//@ round_mul_f64 grid=4 block=256 out:f64:3072 in:f64:1024:mix in:f64:1024:mix
//@ round_div_f64 grid=4 block=256 out:f64:3072 in:f64:1024:mix in:f64:1024:mix
//@ round_sqrt_f64 grid=4 block=256 out:f64:3072 in:f64:1024:mix
//@ round_fma_f64 grid=4 block=256 out:f64:3072 in:f64:1024:mix in:f64:1024:mix in:f64:1024:mix
DIRECTED(double, d, , f64)
