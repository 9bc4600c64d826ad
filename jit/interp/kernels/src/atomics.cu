#include "device.h"

//@ atomic_ints grid=8 block=128 io:s32:10:zero in:u32:1024:bits
KERNEL atomic_ints(u32 *m, const u32 *a) {
	u32 v = a[GID()];
	ATOMIC_ADD(&m[0], v);
	ATOMIC_MIN((s32 *)&m[1], (s32)v);
	ATOMIC_MAXU(&m[2], v);
	ATOMIC_OR(&m[3], v & 0x11111111);
	ATOMIC_XOR(&m[4], v);
	ATOMIC_INC(&m[5], 99);
	ATOMIC_DEC(&m[6], 99);
	ATOMIC_ADD(&m[7 + v % 3], 1);
}

//@ atomic_and grid=2 block=32 io:u32:4:bits in:u32:64:bits
KERNEL atomic_and(u32 *m, const u32 *a) {
	ATOMIC_AND(&m[TX & 3], a[GID()] | 1u << (TX + BX));
}

//@ atomic_64 grid=8 block=64 io:u64:4:zero in:u64:512:bits
KERNEL atomic_64(u64 *m, const u64 *a) {
	u64 v = a[GID()];
	ATOMIC_ADD64(&m[0], v);
	ATOMIC_MAX64(&m[1], v);
	ATOMIC_MIN64((s64 *)&m[2], (s64)v);
	u64 old = m[3], seen;
	for (;;) { // multiply by compare and swap: the order does not matter
		seen = ATOMIC_CAS64(&m[3], old, old * 1 + (v | 1) * 2);
		if (seen == old)
			break;
		old = seen;
	}
}

//@ atomic_floats grid=4 block=64 io:f32:4:zero io:f64:4:zero in:u32:256:bits
KERNEL atomic_floats(float *f, double *d, const u32 *a) {
	u32 v = a[GID()];
	ATOMIC_ADDF(&f[v & 3], (float)(v >> 8 & 1023)); // integers: exact in any order
	ATOMIC_ADDD(&d[v >> 2 & 3], (double)(v >> 4) * 0.5);
}

//@ spin_lock grid=4 block=64 io:u32:4:zero in:u32:256:small
KERNEL spin_lock(u32 *m, const u32 *a) {
	int done = 0;
	while (!done) {
		if (ATOMIC_CAS(&m[0], 0, 1) == 0) {
			__threadfence();
			u32 x = VOLATILE(u32, &m[1]);
			VOLATILE(u32, &m[1]) = x + a[GID()];
			VOLATILE(u32, &m[2]) += 1;
			__threadfence();
			ATOMIC_EXCH(&m[0], 0);
			done = 1;
		} else
			YIELD();
	}
}

//@ last_block grid=8 block=64 out:u32:8 io:u32:2:zero in:u32:512:bits
KERNEL last_block(u32 *part, u32 *res, const u32 *a) {
	SHARED u32 s[64];
	SHARED u32 last;
	s[TX] = a[GID()];
	SYNC();
	for (int k = 32; k > 0; k >>= 1) {
		if (TX < k)
			s[TX] += s[TX + k];
		SYNC();
	}
	if (TX == 0) {
		VOLATILE(u32, &part[BX]) = s[0];
		__threadfence();
		last = ATOMIC_INC(&res[0], GX - 1) == GX - 1;
	}
	SYNC();
	if (last && TX == 0) {
		u32 t = 0;
		for (int i = 0; i < (int)GX; i++)
			t = t * 31 + VOLATILE(u32, &part[i]);
		res[1] = t;
	}
}

//@ ticket_order grid=4 block=32 io:u32:1:zero out:u32:128
KERNEL ticket_order(u32 *m, u32 *o) {
	u32 t = ATOMIC_ADD(&m[0], 1);
	o[t] = 1; // every ticket once
}
