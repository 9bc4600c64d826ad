#include "device.h"

// Integer arithmetic is modulo 2^n on the device; the host casts to unsigned
// where C would leave overflow undefined.

//@ arith_s32 grid=8 block=256 out:s32:10240 in:s32:2048:bits in:s32:2048:bits
KERNEL arith_s32(s32 *o, const s32 *a, const s32 *b) {
	int i = GID();
	s32 x = a[i], y = b[i];
	o[5 * i] = (u32)x + (u32)y;
	o[5 * i + 1] = (u32)x - (u32)y;
	o[5 * i + 2] = (u32)x * (u32)y;
	s32 d = (y | 1) == -1 ? 3 : (y | 1);
	o[5 * i + 3] = x / d;
	o[5 * i + 4] = x % d;
}

//@ arith_u32 grid=8 block=256 out:u32:10240 in:u32:2048:bits in:u32:2048:bits
KERNEL arith_u32(u32 *o, const u32 *a, const u32 *b) {
	int i = GID();
	u32 x = a[i], y = b[i] >> (i & 31);
	o[5 * i] = x + y;
	o[5 * i + 1] = x - y;
	o[5 * i + 2] = x * y + 7;
	o[5 * i + 3] = x / (y + !y);
	o[5 * i + 4] = x % (y + !y);
}

//@ arith_s64 grid=4 block=256 out:s64:5120 in:s64:1024:bits in:s64:1024:bits
KERNEL arith_s64(s64 *o, const s64 *a, const s64 *b) {
	int i = GID();
	s64 x = a[i], y = b[i] >> (i & 63);
	o[5 * i] = (u64)x + (u64)y;
	o[5 * i + 1] = (u64)x - (u64)y;
	o[5 * i + 2] = (u64)x * (u64)y;
	s64 d = (y | 1) == -1 ? 3 : (y | 1);
	o[5 * i + 3] = x / d;
	o[5 * i + 4] = x % d;
}

//@ arith_u64 grid=4 block=256 out:u64:5120 in:u64:1024:bits in:u64:1024:bits
KERNEL arith_u64(u64 *o, const u64 *a, const u64 *b) {
	int i = GID();
	u64 x = a[i], y = b[i] >> (i & 63);
	o[5 * i] = x + y;
	o[5 * i + 1] = x - y;
	o[5 * i + 2] = x * y + 7;
	o[5 * i + 3] = x / (y + !y);
	o[5 * i + 4] = x % (y + !y);
}

//@ arith_16 grid=8 block=128 out:u16:6144 in:u16:1024:bits in:s16:1024:bits
KERNEL arith_16(u16 *o, const u16 *a, const s16 *b) {
	int i = GID();
	u16 x = a[i];
	s16 y = b[i];
	o[6 * i] = x + y;
	o[6 * i + 1] = x * (u32)y;
	o[6 * i + 2] = (s16)x > y ? x : y;
	o[6 * i + 3] = y >> (x & 15);
	o[6 * i + 4] = x >> (y & 15);
	o[6 * i + 5] = y / (s16)(x | 1);
}

//@ arith_8 grid=8 block=128 out:u8:5120 in:u8:1024:bits in:s8:1024:bits
KERNEL arith_8(u8 *o, const u8 *a, const s8 *b) {
	int i = GID();
	u8 x = a[i];
	s8 y = b[i];
	o[5 * i] = x + y;
	o[5 * i + 1] = x * y;
	o[5 * i + 2] = y >> (x & 7);
	o[5 * i + 3] = x >> (y & 7);
	o[5 * i + 4] = (s8)x < y;
}

//@ mulhi grid=8 block=128 out:u64:3072 in:u64:1024:bits in:u64:1024:bits
KERNEL mulhi(u64 *o, const u64 *a, const u64 *b) {
	int i = GID();
	u64 x = a[i], y = b[i];
#ifdef __CUDACC__
	o[3 * i] = __umul64hi(x, y);
	o[3 * i + 1] = __mul64hi((s64)x, (s64)y);
	o[3 * i + 2] = (u64)__umulhi((u32)x, (u32)y) << 32 | (u32)__mulhi((int)x, (int)y);
#else
	o[3 * i] = (unsigned __int128)x * y >> 64;
	o[3 * i + 1] = (__int128)(s64)x * (s64)y >> 64;
	o[3 * i + 2] = (u64)(u32)x * (u32)y >> 32 << 32 | (u32)((s64)(s32)x * (s32)y >> 32);
#endif
}

//@ wide_mad grid=8 block=128 out:s64:1024 in:s32:1024:bits in:s32:1024:bits in:s64:1024:bits
KERNEL wide_mad(s64 *o, const s32 *a, const s32 *b, const s64 *c) {
	int i = GID();
	o[i] = (u64)((s64)a[i] * b[i]) + (u64)c[i] + (u64)(u32)a[i] * (u32)b[i];
}

//@ shifts grid=8 block=128 out:u64:5120 in:u64:1024:bits in:u32:1024:bits
KERNEL shifts(u64 *o, const u64 *a, const u32 *b) {
	int i = GID();
	u32 n = b[i];
	o[5 * i] = a[i] << (n & 63);
	o[5 * i + 1] = a[i] >> (n & 63);
	o[5 * i + 2] = (s64)a[i] >> (n & 63);
	o[5 * i + 3] = (u32)a[i] << (n & 31);
	o[5 * i + 4] = (s32)a[i] >> (n & 31);
}

//@ shift_far grid=4 block=256 out:u32:3072 in:u32:1024:bits
KERNEL shift_far(u32 *o, const u32 *a) {
	int i = GID();
	u32 n = i & 127, x = a[i];
#ifdef __CUDACC__ // PTX shifts clamp, C's are undefined
	asm("shl.b32 %0, %1, %2;" : "=r"(o[3 * i]) : "r"(x), "r"(n));
	asm("shr.u32 %0, %1, %2;" : "=r"(o[3 * i + 1]) : "r"(x), "r"(n));
	asm("shr.s32 %0, %1, %2;" : "=r"(o[3 * i + 2]) : "r"(x), "r"(n));
#else
	o[3 * i] = n > 31 ? 0 : x << n;
	o[3 * i + 1] = n > 31 ? 0 : x >> n;
	o[3 * i + 2] = (s32)x >> (n > 31 ? 31 : n);
#endif
}

//@ bitcount grid=8 block=128 out:u32:8192 in:u64:1024:bits
KERNEL bitcount(u32 *o, const u64 *a) {
	int i = GID();
	u64 x = i % 9 == 0 ? 0 : a[i] >> (i & 63);
	u32 y = (u32)x;
	u32 *r = o + 8 * i;
#ifdef __CUDACC__
	r[0] = __popc(y);
	r[1] = __popcll(x);
	r[2] = __clz(y);
	r[3] = __clzll(x);
	r[4] = __brev(y);
	r[5] = __ffs(y);
	r[6] = __ffsll(x);
	r[7] = (u32)(__brevll(x) >> 7);
#else
	r[0] = __builtin_popcount(y);
	r[1] = __builtin_popcountll(x);
	r[2] = y ? __builtin_clz(y) : 32;
	r[3] = x ? __builtin_clzll(x) : 64;
	u64 rev = 0;
	for (int k = 0; k < 64; k++)
		rev |= (x >> k & 1) << (63 - k);
	r[4] = 0;
	for (int k = 0; k < 32; k++)
		r[4] |= (y >> k & 1) << (31 - k);
	r[5] = __builtin_ffs(y);
	r[6] = __builtin_ffsll(x);
	r[7] = (u32)(rev >> 7);
#endif
}

//@ funnel grid=4 block=256 out:u32:4096 in:u32:1024:bits in:u32:1024:bits
KERNEL funnel(u32 *o, const u32 *a, const u32 *b) {
	int i = GID();
	u32 lo = a[i], hi = b[i], n = i & 63;
#ifdef __CUDACC__
	o[4 * i] = __funnelshift_l(lo, hi, n);
	o[4 * i + 1] = __funnelshift_r(lo, hi, n);
	o[4 * i + 2] = __funnelshift_lc(lo, hi, n);
	o[4 * i + 3] = __funnelshift_rc(lo, hi, n);
#else
	u64 v = (u64)hi << 32 | lo;
	u32 c = n > 32 ? 32 : n;
	o[4 * i] = v << (n & 31) >> 32;
	o[4 * i + 1] = v >> (n & 31);
	o[4 * i + 2] = c == 32 ? lo : v << c >> 32;
	o[4 * i + 3] = v >> c;
#endif
}

//@ byte_perm grid=4 block=256 out:u32:1024 in:u32:1024:bits in:u32:1024:bits in:u32:1024:bits
KERNEL byte_perm(u32 *o, const u32 *a, const u32 *b, const u32 *c) {
	int i = GID();
#ifdef __CUDACC__
	u32 r;
	asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a[i]), "r"(b[i]), "r"(c[i]));
	o[i] = r;
#else
	u8 src[8];
	memcpy(src, a + i, 4);
	memcpy(src + 4, b + i, 4);
	u32 r = 0;
	for (int k = 0; k < 4; k++) {
		u32 s = c[i] >> (4 * k);
		u8 v = src[s & 7];
		if (s & 8)
			v = v & 0x80 ? 0xff : 0;
		r |= (u32)v << (8 * k);
	}
	o[i] = r;
#endif
}

//@ dot_bytes grid=4 block=256 out:u32:4096 in:u32:1024:bits in:u32:1024:bits in:u32:1024:bits
KERNEL dot_bytes(u32 *o, const u32 *a, const u32 *b, const u32 *c) {
	int i = GID();
#ifdef __CUDACC__
	o[4 * i] = __dp4a(a[i], b[i], c[i]);
	o[4 * i + 1] = __dp4a((int)a[i], (int)b[i], (int)c[i]);
	o[4 * i + 2] = __dp2a_lo((int)a[i], (int)b[i], (int)c[i]);
	o[4 * i + 3] = __dp2a_hi(a[i], b[i], c[i]);
#else
	u32 x = a[i], y = b[i], u = c[i], s = c[i], lo = c[i], hi = c[i];
	for (int k = 0; k < 4; k++) {
		u += (u32)(u8)(x >> 8 * k) * (u8)(y >> 8 * k);
		s += (u32)((s8)(x >> 8 * k) * (s8)(y >> 8 * k));
	}
	for (int k = 0; k < 2; k++) {
		lo += (u32)((s16)(x >> 16 * k) * (s8)(y >> 8 * k));
		hi += (u32)(u16)(x >> 16 * k) * (u8)(y >> (16 + 8 * k));
	}
	o[4 * i] = u, o[4 * i + 1] = s, o[4 * i + 2] = lo, o[4 * i + 3] = hi;
#endif
}

//@ sad24 grid=4 block=256 out:u32:6144 in:s32:1024:bits in:s32:1024:bits
KERNEL sad24(u32 *o, const s32 *a, const s32 *b) {
	int i = GID();
	s32 x = a[i], y = b[i];
	u32 *r = o + 6 * i;
#ifdef __CUDACC__
	r[0] = __sad(x, y, 17u);
	r[1] = __usad((u32)x, (u32)y, 17u);
	r[2] = __mul24(x, y);
	r[3] = __umul24((u32)x, (u32)y);
	r[4] = __hadd(x, y);
	r[5] = abs(x);
#else
	r[0] = (u32)(x < y ? (s64)y - x : (s64)x - y) + 17;
	r[1] = ((u32)x < (u32)y ? (u32)y - (u32)x : (u32)x - (u32)y) + 17;
	r[2] = (u32)((s64)(x << 8 >> 8) * (y << 8 >> 8));
	r[3] = (u32)x << 8 >> 8;
	r[3] = (u32)((u64)(x & 0xffffff) * (y & 0xffffff));
	r[4] = (u32)(((s64)x + y) >> 1);
	r[5] = x < 0 ? 0u - (u32)x : (u32)x;
#endif
}

//@ add128 grid=4 block=256 out:u64:6144 in:u64:2048:bits in:u64:2048:bits
KERNEL add128(u64 *o, const u64 *a, const u64 *b) {
	int i = GID();
	u64 al = a[2 * i], ah = a[2 * i + 1], bl = b[2 * i], bh = b[2 * i + 1];
	if (i % 3 == 0)
		bl = ~al; // long carries
	u64 *r = o + 6 * i;
#ifdef __CUDACC__
	asm("{\n\t.reg .u32 a0, a1, b0, b1, r0, r1;\n\t"
	    "add.cc.u64 %0, %4, %6;\n\taddc.u64 %1, %5, %7;\n\t"
	    "sub.cc.u64 %2, %4, %6;\n\tsubc.u64 %3, %5, %7;\n\t}"
	    : "=&l"(r[0]), "=&l"(r[1]), "=&l"(r[2]), "=&l"(r[3])
	    : "l"(al), "l"(ah), "l"(bl), "l"(bh));
	u32 x0, x1;
	asm("mad.lo.cc.u32 %0, %2, %3, %4;\n\tmadc.hi.u32 %1, %2, %3, %5;"
	    : "=&r"(x0), "=&r"(x1)
	    : "r"((u32)al), "r"((u32)ah), "r"((u32)bl), "r"((u32)bh));
	r[4] = x0, r[5] = x1;
#else
	unsigned __int128 x = (unsigned __int128)ah << 64 | al, y = (unsigned __int128)bh << 64 | bl;
	unsigned __int128 s = x + y, t = x - y;
	r[0] = (u64)s, r[1] = (u64)(s >> 64), r[2] = (u64)t, r[3] = (u64)(t >> 64);
	u64 p = (u64)(u32)al * (u32)ah + ((u64)(u32)bh << 32 | (u32)bl);
	r[4] = (u32)p, r[5] = (u32)(p >> 32);
#endif
}

//@ bitfields grid=4 block=256 out:u32:4096 in:u32:1024:bits in:u32:1024:bits
KERNEL bitfields(u32 *o, const u32 *a, const u32 *b) {
	int i = GID();
	u32 pos = i % 40, len = (i / 40) % 37, *r = o + 4 * i;
#ifdef __CUDACC__
	asm("bfe.u32 %0, %1, %2, %3;" : "=r"(r[0]) : "r"(a[i]), "r"(pos), "r"(len));
	asm("bfe.s32 %0, %1, %2, %3;" : "=r"(r[1]) : "r"(a[i]), "r"(pos), "r"(len));
	asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r[2]) : "r"(a[i]), "r"(b[i]), "r"(pos), "r"(len));
	asm("bfind.s32 %0, %1;" : "=r"(r[3]) : "r"((s32)a[i] >> pos % 32));
#else
	u32 f = 0, g = b[i];
	u32 msb = 31, sign = 0; // as the ISA's own text has it
	if (len)
		sign = a[i] >> (pos + len - 1 < msb ? pos + len - 1 : msb) & 1;
	for (u32 k = 0; k < 32; k++) {
		if (k < len && pos + k <= msb)
			f |= (a[i] >> (pos + k) & 1) << k;
	}
	r[0] = f;
	u32 s = 0;
	for (u32 k = 0; k < 32; k++)
		s |= (k < len && pos + k <= msb ? a[i] >> (pos + k) & 1 : sign) << k;
	r[1] = len ? s : 0;
	for (u32 k = 0; k < len && pos + k <= msb; k++)
		g = (g & ~(1u << (pos + k))) | (a[i] >> k & 1) << (pos + k);
	r[2] = g;
	s32 v = (s32)a[i] >> pos % 32;
	if (v < 0)
		v = ~v;
	r[3] = v ? 31 - __builtin_clz(v) : 0xffffffff;
#endif
}

//@ lop3_tables grid=4 block=256 out:u32:4096 in:u32:1024:bits in:u32:1024:bits in:u32:1024:bits
KERNEL lop3_tables(u32 *o, const u32 *a, const u32 *b, const u32 *c) {
	int i = GID();
	u32 x = a[i], y = b[i], z = c[i], *r = o + 4 * i;
#ifdef __CUDACC__
	asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(r[0]) : "r"(x), "r"(y), "r"(z));
	asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r[1]) : "r"(x), "r"(y), "r"(z));
	asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(r[2]) : "r"(x), "r"(y), "r"(z));
	asm("lop3.b32 %0, %1, %2, %3, 0x1b;" : "=r"(r[3]) : "r"(x), "r"(y), "r"(z));
#else
	u8 t[4] = {0x96, 0xe8, 0xca, 0x1b};
	for (int k = 0; k < 4; k++) {
		r[k] = 0;
		for (int n = 0; n < 32; n++) {
			u32 idx = (x >> n & 1) << 2 | (y >> n & 1) << 1 | (z >> n & 1);
			r[k] |= (u32)(t[k] >> idx & 1) << n;
		}
	}
#endif
}

//@ crc32 grid=4 block=64 out:u32:256 in:u8:16384:bits i32=30..64
KERNEL crc32(u32 *o, const u8 *data, int n) {
	int i = GID();
	u32 c = 0xffffffff;
	for (int k = 0; k < n; k++) {
		c ^= data[i * n + k];
		for (int j = 0; j < 8; j++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
	}
	o[i] = ~c;
}

//@ xorshift grid=4 block=128 io:u64:512:bits i32=20..50
KERNEL xorshift(u64 *s, int n) {
	int i = GID();
	u64 x = s[i] | 1;
	for (int k = 0; k < n; k++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	s[i] = x * 0x2545F4914F6CDD1DULL;
}

//@ collatz grid=4 block=128 out:u32:512 in:u32:512:small
KERNEL collatz(u32 *o, const u32 *a) {
	int i = GID();
	u64 x = a[i] + 1;
	u32 n = 0;
	while (x != 1 && n < 1000) {
		x = x & 1 ? 3 * x + 1 : x >> 1;
		n++;
	}
	o[i] = n;
}

//@ gcd grid=4 block=128 out:u32:512 in:u32:512:bits in:u32:512:bits
KERNEL gcd(u32 *o, const u32 *a, const u32 *b) {
	int i = GID();
	u32 x = a[i], y = b[i];
	while (y) {
		u32 t = x % y;
		x = y;
		y = t;
	}
	o[i] = x;
}

//@ sha_rounds grid=2 block=64 out:u32:1024 in:u32:2048:bits
KERNEL sha_rounds(u32 *o, const u32 *m) {
	int i = GID();
	u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	u32 w[16];
	for (int k = 0; k < 16; k++)
		w[k] = m[i * 16 + k];
#define ROT(x, n) ((x) >> (n) | (x) << (32 - (n)))
	for (int k = 0; k < 64; k++) {
		u32 s1 = ROT(h[4], 6) ^ ROT(h[4], 11) ^ ROT(h[4], 25), ch = (h[4] & h[5]) ^ (~h[4] & h[6]);
		u32 t1 = h[7] + s1 + ch + 0x428a2f98 * (k + 1) + w[k & 15];
		u32 s0 = ROT(h[0], 2) ^ ROT(h[0], 13) ^ ROT(h[0], 22), mj = (h[0] & h[1]) ^ (h[0] & h[2]) ^ (h[1] & h[2]);
		u32 a15 = w[(k + 1) & 15], a2 = w[(k + 14) & 15];
		w[k & 15] += (ROT(a15, 7) ^ ROT(a15, 18) ^ a15 >> 3) + w[(k + 9) & 15] + (ROT(a2, 17) ^ ROT(a2, 19) ^ a2 >> 10);
		h[7] = h[6], h[6] = h[5], h[5] = h[4], h[4] = h[3] + t1;
		h[3] = h[2], h[2] = h[1], h[1] = h[0], h[0] = t1 + s0 + mj;
	}
	for (int k = 0; k < 8; k++)
		o[i * 8 + k] = h[k];
}
