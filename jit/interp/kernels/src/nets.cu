#include "device.h"

// Building blocks of networks, in plain float32: sums in a fixed order, so that C gives the same bits.

//@ conv2d_direct grid=2,2,4 block=8,8 out:f32:1024 in:f32:972:unit in:f32:108:unit in:f32:4:unit
KERNEL conv2d_direct(float *o, const float *x, const float *w, const float *bias) {
	int ox = BX * 8 + TX, oy = BY * 8 + TY, k = BZ;
	float s = bias[k];
	for (int c = 0; c < 3; c++)
		for (int dy = 0; dy < 3; dy++)
			for (int dx = 0; dx < 3; dx++)
				s = FMAF(x[(c * 18 + oy + dy) * 18 + ox + dx], w[((k * 3 + c) * 3 + dy) * 3 + dx], s);
	o[(k * 16 + oy) * 16 + ox] = s > 0 ? s : 0;
}

//@ conv1d_shared grid=4,2 block=64 out:f32:512 in:f32:528:unit in:f32:18:unit
KERNEL conv1d_shared(float *o, const float *x, const float *w) {
	SHARED float s[72];
	int base = BY * 264 + BX * 64;
	for (int i = TX; i < 72; i += NX)
		s[i] = x[base + i];
	SYNC();
	float r = 0;
	for (int k = 0; k < 9; k++)
		r = FMAF(s[TX + k], w[BY * 9 + k], r);
	o[(BY * 4 + BX) * 64 + TX] = r;
}

//@ gemm_tiled grid=2,2,2 block=16,16 out:f32:2048 in:f32:2048:unit in:f32:2048:unit
KERNEL gemm_tiled(float *c, const float *a, const float *b) {
	SHARED float as[16][16];
	SHARED float bs[16][16];
	int x = BX * 16 + TX, y = BY * 16 + TY;
	a += BZ * 1024, b += BZ * 1024, c += BZ * 1024;
	float s = 0;
	for (int k = 0; k < 32; k += 16) {
		as[TY][TX] = a[y * 32 + k + TX];
		bs[TY][TX] = b[(k + TY) * 32 + x];
		SYNC();
		for (int i = 0; i < 16; i++)
			s = FMAF(as[TY][i], bs[i][TX], s);
		SYNC();
	}
	c[y * 32 + x] = s;
}

//@ gemm_registers grid=2,2 block=8,8 out:f32:1024 in:f32:640:unit in:f32:640:unit f32=0.5..2 f32=-1..1
KERNEL gemm_registers(float *c, const float *a, const float *b, float alpha, float beta) {
	float acc[2][2];
	acc[0][0] = acc[0][1] = acc[1][0] = acc[1][1] = 0;
	int x = (BX * 8 + TX) * 2, y = (BY * 8 + TY) * 2;
	for (int k = 0; k < 20; k++)
		for (int i = 0; i < 2; i++)
			for (int j = 0; j < 2; j++)
				acc[i][j] = FMAF(a[(y + i) * 20 + k], b[k * 32 + x + j], acc[i][j]);
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++)
			c[(y + i) * 32 + x + j] = FMAF(alpha, acc[i][j], beta);
}

//@ gemm_grouped grid=3,4 block=64 out:f32:3072 in:f32:1536:unit in:f32:3072:unit in:u32:3:below16
KERNEL gemm_grouped(float *c, const float *a, const float *b, const u32 *len) {
	// one problem per blockIdx.x, each with its own inner size
	int n = len[BX] + 1;
	for (int e = TX; e < 256; e += 64) {
		int row = BY * 8 + e / 32, col = e % 32;
		float s = 0;
		for (int k = 0; k < n; k++)
			s = FMAF(a[BX * 512 + row * 16 + k], b[BX * 512 + k * 32 + col], s);
		c[BX * 1024 + row * 32 + col] = s;
	}
}

//@ softmax_exact grid=8 block=64 out:f32:512 in:f32:512:unit
KERNEL softmax_exact(float *o, const float *a) {
	// 2^k for integers in place of e^x: exact
	SHARED float s[64];
	s[TX] = a[GID()];
	SYNC();
	for (int k = 32; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] = fmaxf(s[TX], s[TX + k]);
		SYNC();
	}
	float top = s[0];
	SYNC();
	float d = (a[GID()] - top) * 8, e = 1.0f;
	for (int k = 0; k < 16 && d < -0.5f; k++) {
		e *= 0.5f;
		d += 1;
	}
	s[TX] = e;
	SYNC();
	for (int k = 32; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] += s[TX + k];
		SYNC();
	}
	o[GID()] = e / s[0];
}

//@ softmax_rows noref grid=6 block=128 out:f32:1200 in:f32:1200:unit i32=100..200
KERNEL softmax_rows(float *o, const float *a, int n) {
#ifdef __CUDACC__
	SHARED float s[4];
	const float *x = a + BX * n;
	float m = -1e30f, sum = 0;
	for (int i = TX; i < n; i += 128)
		m = fmaxf(m, x[i]);
	for (int k = 16; k > 0; k >>= 1)
		m = fmaxf(m, __shfl_xor_sync(~0u, m, k));
	if (LANE == 0)
		s[TX / 32] = m;
	SYNC();
	m = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
	SYNC();
	for (int i = TX; i < n; i += 128)
		sum += __expf(x[i] - m);
	for (int k = 16; k > 0; k >>= 1)
		sum += __shfl_xor_sync(~0u, sum, k);
	if (LANE == 0)
		s[TX / 32] = sum;
	SYNC();
	sum = s[0] + s[1] + s[2] + s[3];
	for (int i = TX; i < n; i += 128)
		o[BX * n + i] = __expf(x[i] - m) / sum;
#endif
}

//@ batchnorm grid=4,3 block=64 io:f32:768:unit in:f32:3:unit in:f32:3:unit in:f32:3:unit in:f32:3:unit
KERNEL batchnorm(float *x, const float *mean, const float *var, const float *g, const float *b) {
	int i = (BX * GY + BY) * NX + TX;
	float s = g[BY] / sqrtf(var[BY] * var[BY] + 1e-5f);
	x[i] = (x[i] - mean[BY]) * s + b[BY];
}

//@ welford grid=4 block=32 out:f32:128 out:f32:128 in:f32:2048:unit
KERNEL welford(float *mean, float *var, const float *x) {
	float m = 0, q = 0;
	for (int k = 0; k < 16; k++) {
		float v = x[GID() * 16 + k], d = v - m;
		m += d / (k + 1);
		q += d * (v - m);
	}
	mean[GID()] = m;
	var[GID()] = q / 16;
}

//@ avg_pool grid=4,4,2 block=4,4 out:f32:512 in:f32:2048:unit
KERNEL avg_pool(float *o, const float *x) {
	int ox = BX * 4 + TX, oy = BY * 4 + TY;
	const float *p = x + BZ * 1024 + oy * 2 * 32 + ox * 2;
	o[BZ * 256 + oy * 16 + ox] = (p[0] + p[1] + p[32] + p[33]) * 0.25f;
}

//@ upsample grid=4,4,2 block=8,8 out:f32:2048 in:f32:512:unit
KERNEL upsample(float *o, const float *x) {
	int ox = BX * 8 + TX, oy = BY * 8 + TY;
	float fx = ox * 0.5f - 0.25f, fy = oy * 0.5f - 0.25f;
	fx = fx < 0 ? 0 : fx > 15 ? 15 : fx;
	fy = fy < 0 ? 0 : fy > 15 ? 15 : fy;
	int ix = fx, iy = fy, jx = ix < 15 ? ix + 1 : 15, jy = iy < 15 ? iy + 1 : 15;
	float ax = fx - ix, ay = fy - iy;
	const float *p = x + BZ * 256;
	float t = p[iy * 16 + ix] * (1 - ax) + p[iy * 16 + jx] * ax;
	float b = p[jy * 16 + ix] * (1 - ax) + p[jy * 16 + jx] * ax;
	o[BZ * 1024 + oy * 32 + ox] = t * (1 - ay) + b * ay;
}

//@ im2col grid=9,4 block=64 out:f32:2304 in:f32:400:unit
KERNEL im2col(float *o, const float *x) {
	int p = BY * 64 + TX, oy = p / 16, ox = p % 16, k = BX;
	int y = oy + k / 3 - 1, z = ox + k % 3 - 1;
	o[k * 256 + p] = y >= 0 && y < 16 && z >= 0 && z < 16 ? x[y * 16 + z] : 0;
}

//@ concat grid=5 block=64 out:f32:320 in:f32:160:bits in:f32:160:bits i32=1..31
KERNEL concat(float *o, const float *a, const float *b, int cut) {
	int r = GID() / 32, c = GID() % 32;
	o[GID()] = c < cut ? a[r % 5 * 32 + c] : b[r % 5 * 32 + c - cut];
}

//@ adam_step grid=4 block=64 io:f32:256:unit io:f32:256:unit io:f32:256:unit in:f32:256:unit f32=0.0001..0.1 f32=0.8..0.99 f32=0.9..0.999 i32=200..256
KERNEL adam_step(float *p, float *m, float *v, const float *g, float lr, float b1, float b2, int n) {
	int i = GID();
	if (i >= n)
		return;
	float x = g[i];
	m[i] = FMAF(b1, m[i], (1 - b1) * x);
	v[i] = FMAF(b2, v[i] * v[i], (1 - b2) * x * x);
	p[i] -= lr * m[i] / (sqrtf(v[i]) + 1e-8f);
}

//@ attention_naive noref grid=4,2 block=32 out:f32:2048 in:f32:2048:unit in:f32:2048:unit in:f32:2048:unit f32=0.1..0.5
KERNEL attention_naive(float *o, const float *q, const float *k, const float *v, float scale) {
#ifdef __CUDACC__
	// one query a warp's lane group: 32 keys, 32 dimensions
	SHARED float p[32];
	int base = BY * 1024;
	for (int r = 0; r < 8; r++) {
		int row = BX * 8 + r;
		float s = 0;
		for (int d = 0; d < 32; d++)
			s += q[base + row * 32 + d] * k[base + TX * 32 + d];
		s *= scale;
		float m = s;
		for (int x = 16; x > 0; x >>= 1)
			m = fmaxf(m, __shfl_xor_sync(~0u, m, x));
		float e = exp2f(s - m), t = e;
		for (int x = 16; x > 0; x >>= 1)
			t += __shfl_xor_sync(~0u, t, x);
		p[TX] = e / t;
		SYNCWARP(~0u);
		float a = 0;
		for (int j = 0; j < 32; j++)
			a += p[j] * v[base + j * 32 + TX];
		o[base + row * 32 + TX] = a;
		SYNCWARP(~0u);
	}
#endif
}

//@ top_k grid=4 block=64 out:u32:32 in:u32:256:bits
KERNEL top_k(u32 *o, const u32 *a) {
	SHARED u32 s[64];
	u32 v = a[GID()];
	s[TX] = v;
	SYNC();
	u32 rank = 0;
	for (u32 k = 0; k < 64; k++)
		rank += s[k] > v || (s[k] == v && k < TX);
	if (rank < 8)
		o[BX * 8 + rank] = v;
}

//@ segment_sum grid=8 block=32 out:u32:8 in:u32:512:bits in:u32:9:zero
KERNEL segment_sum(u32 *o, const u32 *a, const u32 *offset) {
	SHARED u32 s[32];
	u32 begin = BX * 64 + offset[BX], end = begin + 64, t = 0;
	for (u32 i = begin + TX; i < end; i += 32)
		t += a[i];
	s[TX] = t;
	SYNC();
	if (TX == 0) {
		for (int k = 1; k < 32; k++)
			t += s[k];
		o[BX] = t;
	}
}
