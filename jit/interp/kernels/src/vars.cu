#include "device.h"

// Variables of a module.

CONSTANT float filter_taps[9] = {0.0625f, 0.125f, 0.0625f, 0.125f, 0.25f, 0.125f, 0.0625f, 0.125f, 0.0625f};

//@ const_filter grid=2,2 block=16,16 out:f32:1024 in:f32:1156:unit
KERNEL const_filter(float *o, const float *a) {
	int x = BX * 16 + TX, y = BY * 16 + TY;
	float s = 0;
	for (int k = 0; k < 9; k++)
		s += filter_taps[k] * a[(y + k / 3) * 34 + x + k % 3];
	o[y * 32 + x] = s;
}

GLOBAL u32 scratch_words[256];

//@ global_scratch grid=4 block=64 out:u32:256 in:u32:256:bits
KERNEL global_scratch(u32 *o, const u32 *a) {
	int i = GID();
	scratch_words[i] = a[i] * 7;
	SYNC();
	o[i] = scratch_words[BX * 64 + (TX + 1) % 64] + scratch_words[i];
}

GLOBAL u32 hits;
GLOBAL u32 hits_by_kind[8] = {1, 2, 3, 4, 5, 6, 7, 8};
GLOBAL u64 hits_total = 1000;

//@ global_counters noref grid=4 block=64 in:u32:256:bits
KERNEL global_counters(const u32 *a) {
	u32 v = a[GID()];
	ATOMIC_ADD(&hits, 1);
	ATOMIC_ADD(&hits_by_kind[v & 7], v >> 3 & 15);
	ATOMIC_ADD64(&hits_total, (u64)v);
}

GLOBAL u32 *saved_pointer;
GLOBAL u32 linked[4] = {3, 1, 4, 1};
GLOBAL u32 *linked_at[2] = {&linked[1], &linked[2]};

//@ global_pointers grid=2 block=32 out:u32:64 in:u32:64:bits
KERNEL global_pointers(u32 *o, const u32 *a) { o[GID()] = *linked_at[a[GID()] & 1] + linked_at[0][a[GID()] >> 1 & 1]; }

FUNCTION u32 from_table(u32 k) { return scratch_words[k & 255] + hits_by_kind[k & 7] * 3; }

//@ global_in_function noref grid=2 block=32 out:u32:64
KERNEL global_in_function(u32 *o) { o[GID()] = from_table(GID() * 5); }

CONSTANT struct {
	u32 mul, add;
	u16 shift[4];
} tuning = {17, 3, {1, 2, 3, 4}};

//@ const_struct grid=2 block=64 io:u32:128:bits
KERNEL const_struct(u32 *a) { a[GID()] = (a[GID()] * tuning.mul + tuning.add) >> tuning.shift[TX & 3]; }

GLOBAL volatile u32 phase_word;

//@ global_volatile noref grid=1 block=32 out:u32:32
KERNEL global_volatile(u32 *o) {
	if (TX == 0)
		phase_word = 41;
	SYNC();
	if (TX == 31)
		phase_word = phase_word + 1;
	SYNC();
	o[TX] = phase_word;
}

FUNCTION const float *tap_address(int k) { return &filter_taps[k % 9]; }

//@ const_address grid=1 block=32 out:f32:32
KERNEL const_address(float *o) { o[TX] = *tap_address(TX) + *tap_address(TX * 5); }

GLOBAL u32 big_table[4096];

//@ global_large noref grid=4 block=64 in:u32:256:bits
KERNEL global_large(const u32 *a) {
	for (u32 i = GID(); i < 4096; i += 256)
		big_table[i] = a[i & 255] + i;
}
