#include "device.h"

// What a kernel can learn of its grid, and ways to walk over data with it.

//@ ids_all grid=3,4,2 block=8,4,2 out:u32:9216
KERNEL ids_all(u32 *o) {
	u32 t = (TZ * NY + TY) * NX + TX, b = (BZ * GY + BY) * GX + BX;
	u32 *p = o + (b * (NX * NY * NZ) + t) * 6;
	p[0] = BX * 1000 + TX;
	p[1] = BY * 1000 + TY;
	p[2] = BZ * 1000 + TZ;
	p[3] = GX;
	p[4] = GY;
	p[5] = GZ;
}

//@ ids_x grid=7 block=33 out:u32:231
KERNEL ids_x(u32 *o) { o[GID()] = BX << 16 | GX << 8 | TX; }

//@ ids_y_only grid=1,6 block=16 out:u32:96
KERNEL ids_y_only(u32 *o) { o[BY * 16 + TX] = BY * GY + TX; }

//@ ids_z_only grid=1,1,5 block=16 out:u32:80
KERNEL ids_z_only(u32 *o) { o[BZ * 16 + TX] = BZ * GZ + TX; }

//@ last_of_grid grid=3,3,3 block=32 out:u32:864
KERNEL last_of_grid(u32 *o) {
	u32 b = (BZ * GY + BY) * GX + BX;
	u32 last = BX == GX - 1 && BY == GY - 1 && BZ == GZ - 1;
	o[b * 32 + TX] = last ? 0xffffffffu : b;
}

//@ ids_in_branch grid=4,2,2 block=32 out:u32:512 in:u32:512:bits
KERNEL ids_in_branch(u32 *o, const u32 *a) {
	u32 i = ((BZ * GY + BY) * GX + BX) * 32 + TX, v = a[i];
	switch (v & 7) {
	case 0: v += BX; break;
	case 1: v += BY * 3; break;
	case 2: v += BZ * 5; break;
	case 3: v *= GX; break;
	case 4: v *= GY; break;
	case 5: v ^= GZ; break;
	default: v = 0;
	}
	o[i] = v;
}

//@ ids_in_loop grid=2,3,2 block=16 out:u32:192
KERNEL ids_in_loop(u32 *o) {
	u32 n = 0;
	for (u32 z = 0; z <= BZ; z++)
		for (u32 y = 0; y < GY; y++)
			for (u32 x = 0; x < GX + BX; x++)
				n = n * 31 + (x ^ y << 3 ^ z << 6) + TX;
	o[((BZ * GY + BY) * GX + BX) * 16 + TX] = n;
}

FUNCTION u32 where_am_i(u32 k) {
	u32 b = (BZ * GY + BY) * GX + BX;
	return b * k + GX * GY * GZ;
}

//@ ids_in_function grid=3,2,2 block=32 out:u32:384
KERNEL ids_in_function(u32 *o) { o[((BZ * GY + BY) * GX + BX) * 32 + TX] = where_am_i(TX) + where_am_i(7); }

FUNCTION u32 deep_index(u32 n) { return n == 0 ? BX + GX * 100 : deep_index(n - 1) * 3 + BY; }

//@ ids_in_recursion grid=3,3 block=16 out:u32:144
KERNEL ids_in_recursion(u32 *o) { o[(BY * GX + BX) * 16 + TX] = deep_index(TX & 7); }

//@ stride_1d grid=5 block=64 io:u32:3000:bits i32=1000..3000
KERNEL stride_1d(u32 *a, int n) {
	for (int i = GID(); i < n; i += NX * GX)
		a[i] = a[i] * 3 + 1;
}

//@ stride_2d grid=2,3 block=16,4 io:u32:2400:bits i32=30..60 i32=20..40
KERNEL stride_2d(u32 *a, int w, int h) {
	for (int y = BY * NY + TY; y < h; y += NY * GY)
		for (int x = BX * NX + TX; x < w; x += NX * GX)
			a[y * w + x] ^= x << 16 | y;
}

//@ stride_3d grid=2,2,2 block=8,4,2 io:u32:2000:bits i32=7..12 i32=6..12 i32=5..12
KERNEL stride_3d(u32 *a, int w, int h, int d) {
	for (int z = BZ * NZ + TZ; z < d; z += NZ * GZ)
		for (int y = BY * NY + TY; y < h; y += NY * GY)
			for (int x = BX * NX + TX; x < w; x += NX * GX)
				a[(z * h + y) * w + x] += x * y * z;
}

//@ stride_float4 grid=3 block=32 out:f32:1024 in:f32:1024:wide f32=-2..2 i32=100..256
KERNEL stride_float4(float4 *o, const float4 *a, float s, int n) {
	for (int i = GID(); i < n; i += NX * GX) {
		float4 v = a[i];
		v.x *= s, v.y *= s, v.z *= s, v.w *= s;
		o[i] = v;
	}
}

//@ vec_u8x4 grid=4 block=64 out:u8:1024 in:u8:1024:bits in:u8:1024:bits
KERNEL vec_u8x4(uchar4 *o, const uchar4 *a, const uchar4 *b) {
	uchar4 x = a[GID()], y = b[GID()];
	x.x += y.x, x.y -= y.y, x.z ^= y.z, x.w = x.w > y.w ? x.w : y.w;
	o[GID()] = x;
}

//@ vec_u16x4 grid=4 block=64 io:u16:1024:bits in:u16:1024:bits
KERNEL vec_u16x4(ushort4 *o, const ushort4 *a) {
	ushort4 x = a[GID()], y = o[GID()];
	y.x += x.w, y.y += x.z, y.z += x.y, y.w += x.x;
	o[GID()] = y;
}

//@ vec_u32x4 grid=4 block=64 out:u32:1024 in:u32:1024:bits u32=1..1000000
KERNEL vec_u32x4(uint4 *o, const uint4 *a, u32 k) {
	uint4 v = a[GID()];
	v.x = v.x * k + v.y, v.z = v.z * k + v.w, v.y ^= v.x, v.w ^= v.z;
	o[GID()] = v;
}

//@ vec_f64x2 grid=4 block=64 out:f64:512 in:f64:512:wide f64=-3..3
KERNEL vec_f64x2(double2 *o, const double2 *a, double k) {
	double2 v = a[GID()];
	double t = v.x * k;
	v.x = v.y + t;
	v.y = t - v.y;
	o[GID()] = v;
}

//@ stencil_2d grid=4,3 block=16,8 out:f32:1536 in:f32:1536:unit i32=50..64 i32=18..24
KERNEL stencil_2d(float *o, const float *a, int w, int h) {
	int x = BX * NX + TX, y = BY * NY + TY;
	if (x >= w || y >= h)
		return;
	float s = 4 * a[y * w + x];
	s -= x > 0 ? a[y * w + x - 1] : 0;
	s -= x < w - 1 ? a[y * w + x + 1] : 0;
	s -= y > 0 ? a[(y - 1) * w + x] : 0;
	s -= y < h - 1 ? a[(y + 1) * w + x] : 0;
	o[y * w + x] = s;
}

//@ stencil_3d grid=2,2,4 block=8,8,1 out:f32:1024 in:f32:1024:unit
KERNEL stencil_3d(float *o, const float *a) {
	int x = BX * NX + TX, y = BY * NY + TY, z = BZ * NZ + TZ;
	int i = (z * 16 + y) * 16 + x;
	float up = z > 0 ? a[i - 256] : 0, down = z + 1 < (int)(GZ * NZ) ? a[i + 256] : 0;
	o[i] = (a[i] * 2 - up - down) * 0.25f;
}
