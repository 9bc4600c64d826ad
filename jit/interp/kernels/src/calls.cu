#include "device.h"

FUNCTION u32 mix(u32 a, u32 b) {
	a ^= b * 0x9e3779b9u;
	return a << 7 | a >> 25;
}

//@ call_plain grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL call_plain(u32 *o, const u32 *a) {
	u32 v = a[GID()];
	for (int k = 0; k < 5; k++)
		v = mix(v, k + TX);
	o[GID()] = v;
}

FUNCTION u32 fib(u32 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

//@ call_recursive grid=2 block=32 out:u32:64
KERNEL call_recursive(u32 *o) { o[GID()] = fib(TX % 11); }

FUNCTION u32 ackermann(u32 m, u32 n) {
	if (m == 0)
		return n + 1;
	if (n == 0)
		return ackermann(m - 1, 1);
	return ackermann(m - 1, ackermann(m, n - 1));
}

//@ call_ackermann grid=1 block=32 out:u32:32
KERNEL call_ackermann(u32 *o) { o[TX] = ackermann(TX % 3, TX / 6); }

typedef struct {
	double d;
	s16 h[5];
	u8 c;
	float f;
} Mixed;

FUNCTION Mixed twist(Mixed m, int k) {
	m.d = m.d * 2 + k;
	m.h[k % 5] = m.h[(k + 1) % 5] + 3;
	m.c ^= 0x5a;
	m.f = (float)m.d - m.f;
	return m;
}

//@ call_struct grid=2 block=64 out:f64:128 out:u32:128 in:f64:128:unit
KERNEL call_struct(double *d, u32 *o, const double *a) {
	Mixed m;
	m.d = a[GID()];
	m.f = (float)TX;
	m.c = TX;
	for (int k = 0; k < 5; k++)
		m.h[k] = TX * k;
	for (int k = 0; k < 4; k++)
		m = twist(m, TX + k);
	d[GID()] = m.d + m.f;
	o[GID()] = m.h[0] + m.h[1] * 3 + m.h[2] * 5 + m.h[3] * 7 + m.h[4] * 11 + m.c;
}

FUNCTION u32 op_add(u32 a, u32 b) { return a + b; }
FUNCTION u32 op_sub(u32 a, u32 b) { return a - b; }
FUNCTION u32 op_mul(u32 a, u32 b) { return a * b; }
FUNCTION u32 op_rot(u32 a, u32 b) { return a << (b & 31) | a >> (-b & 31); }
typedef u32 (*Op)(u32, u32);
GLOBAL Op ops[4] = {op_add, op_sub, op_mul, op_rot};

//@ call_pointer grid=2 block=64 out:u32:128 in:u32:128:bits
KERNEL call_pointer(u32 *o, const u32 *a) {
	u32 v = a[GID()], r = 1;
	for (int k = 0; k < 8; k++)
		r = ops[v >> (2 * k) & 3](r, v);
	o[GID()] = r;
}

//@ local_array grid=2 block=64 out:u32:128 in:u32:128:bits
KERNEL local_array(u32 *o, const u32 *a) {
	u32 stack[32], v = a[GID()];
	int n = 0;
	for (int k = 0; k < 32; k++) {
		if (v >> k & 1)
			stack[n++] = k * v;
		else if (n > 0)
			v ^= stack[--n];
		else
			stack[n++] = v;
	}
	u32 r = n;
	while (n > 0)
		r = r * 33 + stack[--n];
	o[GID()] = r;
}

//@ insertion_sort grid=1 block=32 io:s32:512:bits
KERNEL insertion_sort(s32 *a) {
	s32 v[16];
	for (int k = 0; k < 16; k++)
		v[k] = a[TX * 16 + k];
	for (int i = 1; i < 16; i++) {
		s32 x = v[i];
		int j = i - 1;
		while (j >= 0 && v[j] > x) {
			v[j + 1] = v[j];
			j--;
		}
		v[j + 1] = x;
	}
	for (int k = 0; k < 16; k++)
		a[TX * 16 + k] = v[k];
}

CONSTANT u8 sbox[16] = {0xc, 5, 6, 0xb, 9, 0, 0xa, 0xd, 3, 0xe, 0xf, 8, 4, 7, 1, 2};
GLOBAL u32 weights[2][3] = {{1, 10, 100}, {7, 77, 777}};
GLOBAL u32 counter = 5;

//@ module_vars grid=2 block=64 out:u32:128 in:u64:128:bits
KERNEL module_vars(u32 *o, const u64 *a) {
	u64 v = a[GID()];
	u32 r = 0;
	for (int k = 0; k < 16; k++)
		r = r * 16 + (sbox[v >> (4 * k) & 15]) + weights[k & 1][k % 3] * counter;
	o[GID()] = r;
}

//@ parse_numbers grid=1 block=64 out:s32:64 in:u8:1024:digits
KERNEL parse_numbers(s32 *o, const u8 *text) {
	const u8 *p = text + TX * 16, *end = p + 16;
	s32 sum = 0, sign = 1, v = 0;
	for (; p < end; p++) {
		if (*p >= '0' && *p <= '9')
			v = v * 10 + (*p - '0');
		else {
			sum += sign * v;
			v = 0;
			sign = *p == '-' ? -1 : 1;
		}
	}
	o[TX] = sum + sign * v;
}

typedef struct {
	float x, y;
	s32 n;
	u8 tag[4];
	s64 big;
} Record;

//@ by_value grid=1 block=32 out:s64:32 struct:Record:24:bits u8=200 s16=-5 u64=123456789012 f64=2.25
KERNEL by_value(s64 *o, Record r, u8 a, s16 b, u64 c, double d) {
	o[TX] = r.n + r.tag[TX & 3] + r.big + a + b + (s64)c + (s64)(d * TX);
}
