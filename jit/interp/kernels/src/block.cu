#include "device.h"

//@ reduce_sum grid=8 block=256 out:u32:8 in:u32:2000:bits i32=1500..2000
KERNEL reduce_sum(u32 *o, const u32 *a, int n) {
	SHARED u32 s[256];
	int i = GID();
	s[TX] = i < n ? a[i] : 0;
	SYNC();
	for (int k = 128; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] += s[TX + k];
		SYNC();
	}
	if (TX == 0)
		o[BX] = s[0];
}

//@ reduce_max_f32 grid=8 block=128 out:f32:8 in:f32:1024:wide
KERNEL reduce_max_f32(float *o, const float *a) {
	SHARED float s[128];
	s[TX] = a[GID()];
	SYNC();
	for (int k = NX / 2; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] = fmaxf(s[TX], s[TX + k]);
		SYNC();
	}
	if (TX == 0)
		o[BX] = s[0];
}

//@ dot_f64 grid=4 block=128 out:f64:4 in:f64:1024:wide in:f64:1024:wide i32=500..1024
KERNEL dot_f64(double *o, const double *a, const double *b, int n) {
	SHARED double s[128];
	double t = 0;
	for (int i = GID(); i < n; i += NX * GX)
		t += a[i] * b[i];
	s[TX] = t;
	SYNC();
	for (int k = 64; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] += s[TX + k];
		SYNC();
	}
	if (!TX)
		o[BX] = s[0];
}

//@ scan_u32 grid=4 block=256 io:u32:1024:bits
KERNEL scan_u32(u32 *a) {
	SHARED u32 s[2][256];
	int in = 0;
	s[0][TX] = a[GID()];
	SYNC();
	for (int k = 1; k < 256; k <<= 1) {
		s[1 - in][TX] = s[in][TX] + (TX >= k ? s[in][TX - k] : 0);
		in = 1 - in;
		SYNC();
	}
	a[GID()] = s[in][TX];
}

//@ bitonic grid=2 block=256 io:s32:512:bits
KERNEL bitonic(s32 *a) {
	SHARED s32 s[256];
	s[TX] = a[GID()];
	SYNC();
	for (int k = 2; k <= 256; k <<= 1)
		for (int j = k >> 1; j > 0; j >>= 1) {
			int p = TX ^ j;
			if (p > TX) {
				s32 x = s[TX], y = s[p];
				if ((x > y) == ((TX & k) == 0)) {
					s[TX] = y;
					s[p] = x;
				}
			}
			SYNC();
		}
	a[GID()] = s[TX];
}

//@ transpose grid=4,3 block=16,16 out:u32:3072 in:u32:3072:bits i32=40..64 i32=30..48
KERNEL transpose(u32 *o, const u32 *a, int w, int h) {
	SHARED u32 t[16][17];
	int x = BX * 16 + TX, y = BY * 16 + TY;
	if (x < w && y < h)
		t[TY][TX] = a[y * w + x];
	SYNC();
	x = BY * 16 + TX;
	y = BX * 16 + TY;
	if (x < h && y < w)
		o[y * h + x] = t[TX][TY];
}

//@ matmul_f32 grid=3,2 block=16,16 out:f32:1536 in:f32:1600:unit in:f32:2400:unit i32=32 i32=48 i32=20..50
KERNEL matmul_f32(float *c, const float *a, const float *b, int m, int n, int k) {
	SHARED float as[16][16], bs[16][16];
	int x = BX * 16 + TX, y = BY * 16 + TY;
	float acc = 0;
	for (int t = 0; t < k; t += 16) {
		as[TY][TX] = y < m && t + TX < k ? a[y * k + t + TX] : 0;
		bs[TY][TX] = x < n && t + TY < k ? b[(t + TY) * n + x] : 0;
		SYNC();
		for (int j = 0; j < 16; j++)
			acc = FMAF(as[TY][j], bs[j][TX], acc);
		SYNC();
	}
	if (x < n && y < m)
		c[y * n + x] = acc;
}

//@ stencil5 grid=3,3 block=16,8 out:f32:1056 in:f32:1056:unit i32=30..44 i32=16..24
KERNEL stencil5(float *o, const float *a, int w, int h) {
	int x = BX * NX + TX, y = BY * NY + TY;
	if (x >= w || y >= h)
		return;
	int i = y * w + x;
	float c = a[i];
	float l = x > 0 ? a[i - 1] : c, r = x < w - 1 ? a[i + 1] : c;
	float u = y > 0 ? a[i - w] : c, d = y < h - 1 ? a[i + w] : c;
	o[i] = c * 0.5f + (l + r + u + d) * 0.125f;
}

CONSTANT float taps[7] = {0.0625f, -0.125f, 0.25f, 0.5f, 0.25f, -0.125f, 0.0625f};

//@ conv1d grid=5 block=128 out:f32:600 in:f32:606:unit i32=400..600
KERNEL conv1d(float *o, const float *a, int n) {
	int i = GID();
	if (i >= n)
		return;
	float s = 0;
	for (int k = 0; k < 7; k++)
		s += taps[k] * a[i + k];
	o[i] = s;
}

//@ histogram grid=4 block=128 io:u32:64:zero in:u8:2000:bits i32=1500..2000
KERNEL histogram(u32 *h, const u8 *a, int n) {
	SHARED u32 s[64];
	if (TX < 64)
		s[TX] = 0;
	SYNC();
	for (int i = GID(); i < n; i += NX * GX)
		ATOMIC_ADD(&s[a[i] & 63], 1);
	SYNC();
	if (TX < 64)
		ATOMIC_ADD(&h[TX], s[TX]);
}

//@ reverse_dyn grid=3 block=96 shared=768 io:u64:288:bits
KERNEL reverse_dyn(u64 *a) {
	DYNAMIC(u64, s);
	s[TX] = a[GID()];
	SYNC();
	a[GID()] = s[NX - 1 - TX];
}

//@ layernorm grid=16 block=64 out:f32:1024 in:f32:1024:unit in:f32:64:unit
KERNEL layernorm(float *o, const float *a, const float *g) {
	SHARED float s[64];
	float x = a[GID()];
	s[TX] = x;
	SYNC();
	for (int k = 32; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] += s[TX + k];
		SYNC();
	}
	float mean = s[0] / 64.f;
	SYNC();
	float d = x - mean;
	s[TX] = d * d;
	SYNC();
	for (int k = 32; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] += s[TX + k];
		SYNC();
	}
	o[GID()] = d / sqrtf(s[0] / 64.f + 1e-5f) * g[TX];
}

//@ early_return grid=4 block=100 out:u32:400 in:u32:400:small
KERNEL early_return(u32 *o, const u32 *a) {
	SHARED u32 s[100];
	u32 v = a[GID()];
	s[TX] = v;
	SYNC();
	if (v % 3 == 0)
		return; // the others still meet at the barrier below
	o[GID()] = s[(TX + 1) % NX];
	SYNC();
	o[GID()] += v;
}

//@ nested_loops grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL nested_loops(u32 *o, const u32 *a) {
	u32 v = a[GID()], n = 0;
	for (u32 i = 0; i < (v & 15); i++) {
		if ((v >> i & 3) == 1)
			continue;
		for (u32 j = i; j < 20; j++) {
			n += i * j;
			if ((v >> j & 7) == 5)
				break;
			if (n > 1500)
				goto out;
			do
				n++;
			while (n % (1 + (v >> 28)) != 0);
		}
	}
out:
	o[GID()] = n;
}

//@ switch_table grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL switch_table(u32 *o, const u32 *a) {
	u32 x = a[GID()], r = 1;
	for (int k = 0; k < 4; k++) {
		switch (x >> (4 * k) & 15) {
		case 0: r += 3; break;
		case 1: r *= 5; break;
		case 2: r ^= x; break;
		case 3: r = r << 3 | r >> 29; break;
		case 4: r -= 77; // fall through
		case 5: r *= r; break;
		case 6: r |= 0x1010; break;
		case 7: r = ~r; break;
		case 8: r = r > x ? r - x : x - r; break;
		case 9: r %= 1000; break;
		case 10: r += x % 7; break;
		default: r ^= k; break;
		}
	}
	o[GID()] = r;
}

//@ index3d grid=2,3,2 block=4,3,5 out:u32:2160
KERNEL index3d(u32 *o) {
	u32 t = (TZ * NY + TY) * NX + TX, b = (BZ * GY + BY) * GX + BX, n = NX * NY * NZ;
	o[(b * n + t) * 3 % 2160] = TX | TY << 4 | TZ << 8 | BX << 12 | BY << 16 | BZ << 20;
	o[(b * n + t) * 3 % 2160 + 1] = NX | NY << 8 | NZ << 16;
	o[(b * n + t) * 3 % 2160 + 2] = GX | GY << 8 | GZ << 16 | t << 24;
}

//@ count_barrier grid=4 block=96 out:u32:384 in:u32:384:bits
KERNEL count_barrier(u32 *o, const u32 *a) {
	u32 v = a[GID()];
	int n = __syncthreads_count(v & 1), m = __syncthreads_count(v > 0x40000000);
	o[GID()] = n << 16 | m;
}

//@ life grid=1 block=16,16 io:u8:256:bits i32=1..6
KERNEL life(u8 *g, int steps) {
	SHARED u8 s[18][18];
	if (TX < 2 && TY < 16)
		s[TY][TX * 17] = s[TX * 17][TY] = 0;
	if (TX == 0 && TY == 0)
		s[16][0] = s[17][0] = s[16][17] = s[17][17] = s[0][16] = s[0][17] = s[17][16] = 0;
	SYNC();
	s[TY + 1][TX + 1] = g[TY * 16 + TX] & 1;
	for (int k = 0; k < steps; k++) {
		SYNC();
		int n = 0;
		for (int dy = 0; dy < 3; dy++)
			for (int dx = 0; dx < 3; dx++)
				n += s[TY + dy][TX + dx];
		u8 me = s[TY + 1][TX + 1];
		n -= me;
		SYNC();
		s[TY + 1][TX + 1] = n == 3 || (n == 2 && me);
	}
	g[TY * 16 + TX] = s[TY + 1][TX + 1];
}
