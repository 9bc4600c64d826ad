//@@ sm_80
#include "device.h"
#define ALL 0xffffffffu

//@ warp_reduce grid=4 block=128 out:u32:16 in:u32:512:bits
KERNEL warp_reduce(u32 *o, const u32 *a) {
	u32 v = a[GID()];
	for (int k = 16; k > 0; k >>= 1)
		v += __shfl_down_sync(ALL, v, k, 32);
	if (LANE == 0)
		o[GID() / 32] = v;
}

//@ warp_scan grid=4 block=128 io:u32:512:bits
KERNEL warp_scan(u32 *a) {
	u32 v = a[GID()];
	for (int k = 1; k < 32; k <<= 1) {
		u32 t = __shfl_up_sync(ALL, v, k, 32);
		if (LANE >= k)
			v += t;
	}
	a[GID()] = v;
}

//@ warp_butterfly grid=4 block=64 io:u32:256:bits
KERNEL warp_butterfly(u32 *a) {
	u32 v = a[GID()];
	for (int k = 1; k < 32; k <<= 1)
		v = v * 3 ^ __shfl_xor_sync(ALL, v, k, 32);
	a[GID()] = v;
}

//@ warp_segments grid=4 block=64 out:u32:1024 in:u32:256:bits
KERNEL warp_segments(u32 *o, const u32 *a) {
	u32 v = a[GID()], *r = o + 4 * GID();
	r[0] = __shfl_sync(ALL, v, 3, 8);
	r[1] = __shfl_up_sync(ALL, v, 3, 8);
	r[2] = __shfl_down_sync(ALL, v, 5, 16);
	r[3] = __shfl_sync(ALL, v, v & 31, 32);
}

//@ warp_votes grid=4 block=96 out:u32:1536 in:u32:384:bits
KERNEL warp_votes(u32 *o, const u32 *a) {
	u32 v = a[GID()], *r = o + 4 * GID();
	r[0] = __ballot_sync(ALL, v & 1);
	r[1] = __any_sync(ALL, (v & 31) == 7);
	r[2] = __all_sync(ALL, (v & 31) != 7);
	r[3] = __ballot_sync(ALL, v > 0x80000000u) >> LANE;
}

//@ warp_match grid=4 block=64 out:u32:256 in:u32:256:small
KERNEL warp_match(u32 *o, const u32 *a) {
	o[GID()] = __match_any_sync(ALL, a[GID()] & 7);
}

//@ warp_redux grid=4 block=64 out:u32:1536 in:u32:256:bits
KERNEL warp_redux(u32 *o, const u32 *a) {
	u32 v = a[GID()], *r = o + 6 * GID();
	r[0] = __reduce_add_sync(ALL, v);
	r[1] = __reduce_min_sync(ALL, (s32)v);
	r[2] = __reduce_max_sync(ALL, v);
	r[3] = __reduce_and_sync(ALL, v | 0xfff0ffff);
	r[4] = __reduce_or_sync(ALL, v & 0x00010101);
	r[5] = __reduce_xor_sync(ALL, v);
}

//@ warp_halves grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL warp_halves(u32 *o, const u32 *a) {
	u32 v = a[GID()];
	if (LANE < 16)
		v += __shfl_xor_sync(0x0000ffffu, v, 5, 32);
	else if (LANE < 24)
		v ^= __shfl_xor_sync(0x00ff0000u, v, 3, 32);
	else
		v = __ballot_sync(0xff000000u, v & 1);
	o[GID()] = v;
}

//@ warp_handshake grid=2 block=64 out:u32:128 in:u32:128:bits
KERNEL warp_handshake(u32 *o, const u32 *a) {
	// One half of a warp waits for what the other half writes: needs threads
	// that make progress on their own.
	SHARED u32 box[64];
	SHARED u32 flag[64];
	flag[TX] = 0;
	SYNC();
	if (LANE & 1) {
		while (VOLATILE(u32, &flag[TX - 1]) == 0)
			YIELD();
		o[GID()] = VOLATILE(u32, &box[TX - 1]) + a[GID()];
	} else {
		VOLATILE(u32, &box[TX]) = a[GID()] * 3;
		__threadfence();
		VOLATILE(u32, &flag[TX]) = 1;
		o[GID()] = 0;
	}
}

//@ warp_sync_memory grid=2 block=64 io:u32:128:bits
KERNEL warp_sync_memory(u32 *a) {
	SHARED u32 s[64];
	u32 v = a[GID()];
	for (int k = 0; k < 8; k++) {
		s[TX] = v;
		SYNCWARP(ALL);
		v = v * 5 + s[(TX & 32) | ((LANE + k + 1) & 31)];
		SYNCWARP(ALL);
	}
	a[GID()] = v;
}

//@ warp_compact grid=4 block=32 out:u32:128 out:u32:4 in:u32:128:bits
KERNEL warp_compact(u32 *o, u32 *n, const u32 *a) {
	u32 v = a[GID()];
	int keep = v % 3 != 0;
	u32 m = __ballot_sync(ALL, keep);
	u32 below = m & ((1u << LANE) - 1);
	int rank = 0;
	for (u32 b = below; b; b &= b - 1)
		rank++;
	if (keep)
		o[BX * 32 + rank] = v;
	if (LANE == 0)
		n[BX] = m;
}
