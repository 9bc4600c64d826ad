#include "device.h"

// Ways in which kernels take parameters.

GLOBAL u32 noparams_out[64];

//@ no_params grid=2 block=32
KERNEL no_params(void) { noparams_out[GID()] = GID() * 2654435761u + GX; }

//@ many_params grid=2 block=32 out:u32:64 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u8=1..99 s16=-99..99 u64=1..99 f32=1..99 f64=1..99 u32=1..99 u8=1..99 u8=1..99 s64=-99..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 u32=1..99 in:u32:64:bits
KERNEL many_params(u32 *o, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f, u32 g, u32 h, u8 i, s16 j, u64 k, float l, double m, u32 n, u8 p, u8 q, s64 r, u32 s,
		   u32 t, u32 u, u32 v, u32 w, u32 x, const u32 *y) {
	u32 z = a + b * 2 + c * 3 + d * 5 + e * 7 + f * 11 + g * 13 + h * 17;
	z = z * 31 + i + j * 3 + (u32)k * 5 + (u32)(l * 4.0f) + (u32)(m * 8.0) + n + p * 256 + q + (u32)r;
	z = z * 31 + s + t * 2 + u * 3 + v * 5 + w * 7 + x * 11;
	o[GID()] = z ^ y[GID()];
}

typedef struct {
	u32 v[16];
} Sixteen;

//@ indexed_params grid=2 block=64 out:u32:128 in:u32:128:bits struct:Sixteen:64:bits:4
KERNEL indexed_params(u32 *o, const u32 *a, BYVALUE Sixteen s) {
	u32 v = a[GID()], r = 0;
	for (int k = 0; k < 8; k++)
		r = r * 33 + s.v[v >> (4 * k) & 15];
	o[GID()] = r;
}

//@ indexed_copy grid=2 block=64 out:u32:128 in:u32:128:bits struct:Sixteen:64:bits:4
KERNEL indexed_copy(u32 *o, const u32 *a, Sixteen s) {
	u32 v = a[GID()];
	s.v[v & 15] += v; // its own copy, in local memory
	o[GID()] = s.v[v >> 4 & 15] + s.v[0];
}

FUNCTION u32 sum_of(const Sixteen *s, u32 k) {
	u32 r = 0;
	for (u32 i = 0; i < 16; i += k)
		r += s->v[i];
	return r;
}

//@ param_address grid=2 block=32 out:u32:64 struct:Sixteen:64:bits:4 u32=3
KERNEL param_address(u32 *o, BYVALUE Sixteen s, u32 k) { o[GID()] = sum_of(&s, 1 + TX % k) ^ sum_of(&s, 5); }

//@ param_address_choice grid=2 block=32 out:u32:64 struct:Sixteen:64:bits:4 struct:Sixteen:64:bits:4
KERNEL param_address_choice(u32 *o, BYVALUE Sixteen s, BYVALUE Sixteen t) {
	const u32 *p = TX & 1 ? s.v : t.v;
	o[GID()] = p[TX >> 1 & 15] + p[3];
}

typedef struct {
	u64 w[16];
} ALIGNED(64) Cacheline;

//@ aligned_64 grid=2 block=32 out:u64:64 u32=1..9 struct:Cacheline:128:bits:64
KERNEL aligned_64(u64 *o, u32 k, BYVALUE Cacheline c) {
	u64 low = (u64)&c & 63; // 0: what TMA descriptors need
	o[GID()] = c.w[TX & 15] * k + low;
}

//@ aligned_pair grid=1 block=32 out:u64:32 struct:Cacheline:128:bits:64 u8=1..200 struct:Cacheline:128:bits:64
KERNEL aligned_pair(u64 *o, BYVALUE Cacheline c, u8 k, BYVALUE Cacheline d) { o[TX] = c.w[TX & 15] - d.w[15 - (TX & 15)] * k; }

typedef struct {
	float *out;
	const float *in;
	float scale;
	int n;
} Task;

//@ struct_pointers grid=3 block=64 struct:Task:24:bits @0+0:out:f32:192 @0+8:in:f32:192:wide @0+16:f32=-2..2 @0+20:i32=150..192
KERNEL struct_pointers(Task t) {
	int i = GID();
	if (i < t.n)
		t.out[i] = t.in[i] * t.scale;
}

typedef struct {
	u32 *out[4];
	const u32 *in[4];
	int size[4];
} Tensors;

//@ multi_tensor grid=4,2 block=32 struct:Tensors:80:bits @0+0:out:u32:64 @0+8:out:u32:64 @0+16:out:u32:64 @0+24:out:u32:64 @0+32:in:u32:64:bits @0+40:in:u32:64:bits @0+48:in:u32:64:bits @0+56:in:u32:64:bits @0+64:i32=10..64 @0+68:i32=10..64 @0+72:i32=10..64 @0+76:i32=10..64 u32=1..7
KERNEL multi_tensor(BYVALUE Tensors t, u32 k) {
	int i = BY * NX + TX;
	if (i < t.size[BX])
		t.out[BX][i] = t.in[BX][i] * k + BX;
}

//@ pointer_table grid=4 block=32 out:u32:128 in:u64:4:zero @1+0:in:u32:32:bits @1+8:in:u32:32:bits @1+16:in:u32:32:bits @1+24:in:u32:32:bits
KERNEL pointer_table(u32 *o, const u32 *const *p) { o[GID()] = p[BX][TX] ^ p[3 - BX % 4][TX]; }

//@ only_scalars_used grid=2 block=32 out:u32:64 struct:Sixteen:64:bits:4 f64=0 u32=5..50
KERNEL only_scalars_used(u32 *o, Sixteen unused, double alsoUnused, u32 n) {
	for (u32 k = TX; k < n; k += 32)
		o[BX * 32 + TX] += k;
}

typedef struct {
	u32 v[900];
} Large;

//@ large_params grid=2 block=64 out:u32:128 struct:Large:3600:bits:4 u32=1..100
KERNEL large_params(u32 *o, BYVALUE Large l, u32 k) { o[GID()] = l.v[(TX * 13 + BX * k) % 900] + l.v[899]; }

typedef struct {
	u8 a, b;
	u16 c;
	u8 d[3];
} Bytes;

//@ byte_params grid=1 block=64 out:u32:64 u8=0..255 struct:Bytes:8:bits:2 u8=0..255 u16=0..65535
KERNEL byte_params(u32 *o, u8 k, Bytes b, u8 l, u16 m) { o[TX] = k + b.a * 3 + b.b * 5 + b.c * 7 + b.d[TX % 3] + l * 11 + m; }
