//@@ sm_90
#include "device.h"

// Clusters, barriers in shared memory and bulk copies (sm_90). C has nothing like them.

#ifdef __CUDACC__
DEVICE u32 cluster_rank(void) {
	u32 r;
	asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
	return r;
}
DEVICE void cluster_sync(void) {
	asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
	asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
DEVICE u32 remote_load(const u32 *p, u32 rank) {
	u32 at = (u32)__cvta_generic_to_shared(p), far, v;
	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(at), "r"(rank));
	asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(far) : "memory");
	return v;
}
DEVICE void bar_init(u64 *b, u32 n) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"((u32)__cvta_generic_to_shared(b)), "r"(n) : "memory"); }
DEVICE void bar_expect(u64 *b, u32 n) {
	asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"((u32)__cvta_generic_to_shared(b)), "r"(n) : "memory");
}
DEVICE void bar_wait(u64 *b, u32 parity) {
	u32 done = 0;
	while (!done)
		asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
			     : "=r"(done)
			     : "r"((u32)__cvta_generic_to_shared(b)), "r"(parity)
			     : "memory");
}
DEVICE void bulk_load(void *to, const void *from, u32 n, u64 *b) {
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from),
		     "r"(n), "r"((u32)__cvta_generic_to_shared(b))
		     : "memory");
}
DEVICE void bulk_store(void *to, const void *from, u32 n) {
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
	asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"((u32)__cvta_generic_to_shared(from)), "r"(n) : "memory");
	asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
#endif

//@ cluster_exchange noref grid=6 block=32 cluster=2 out:u32:192 in:u32:192:bits
KERNEL cluster_exchange(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED u32 s[32];
	s[TX] = a[GID()] + BX;
	cluster_sync();
	o[GID()] = remote_load(&s[31 - TX], cluster_rank() ^ 1);
	cluster_sync();
#endif
}

#ifdef __CUDACC__
#define CLUSTER(x, y, z) __cluster_dims__(x, y, z)
#else
#define CLUSTER(x, y, z)
#endif

//@ cluster_fixed noref grid=4,2 block=32 cluster=2,2 out:u32:256
KERNEL CLUSTER(2, 2, 1) cluster_fixed(u32 *o) {
#ifdef __CUDACC__
	SHARED u32 s[32];
	u32 r = cluster_rank(), sum = 0;
	s[TX] = (BY * GX + BX) * 32 + TX;
	cluster_sync();
	for (u32 k = 0; k < 4; k++)
		sum = sum * 31 + remote_load(&s[TX], (r + k) & 3);
	cluster_sync();
	o[(BY * GX + BX) * 32 + TX] = sum;
#endif
}

//@ cluster_ids noref grid=4,2 block=32 cluster=2,1 out:u32:1280
KERNEL cluster_ids(u32 *o) {
#ifdef __CUDACC__
	u32 x, y, cx, n, k;
	asm("mov.u32 %0, %%clusterid.x;" : "=r"(x));
	asm("mov.u32 %0, %%clusterid.y;" : "=r"(y));
	asm("mov.u32 %0, %%nclusterid.x;" : "=r"(n));
	asm("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(cx));
	asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(k));
	u32 *p = o + ((BY * GX + BX) * 32 + TX) * 5;
	p[0] = x, p[1] = y, p[2] = n, p[3] = cx, p[4] = k;
#endif
}

//@ cluster_z noref grid=1,1,4 block=32 cluster=1,1,2 out:u32:128
KERNEL CLUSTER(1, 1, 2) cluster_z(u32 *o) {
#ifdef __CUDACC__
	SHARED u32 s[32];
	s[TX] = BZ * 100 + TX;
	cluster_sync();
	o[BZ * 32 + TX] = remote_load(&s[TX], cluster_rank() ^ 1);
	cluster_sync();
#endif
}

//@ bulk_copy noref grid=3 block=64 out:u32:768 in:u32:768:bits
KERNEL bulk_copy(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED ALIGNED(128) u32 s[256];
	SHARED u64 bar;
	if (TX == 0)
		bar_init(&bar, 1);
	SYNC();
	if (TX == 0) {
		bar_expect(&bar, 1024);
		bulk_load(s, a + BX * 256, 1024, &bar);
	}
	bar_wait(&bar, 0);
	for (int k = 0; k < 4; k++)
		s[k * 64 + TX] = s[k * 64 + TX] * 3 + BX;
	SYNC();
	if (TX == 0) {
		bulk_store(o + BX * 256, s, 1024);
		asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
	}
#endif
}

//@ bulk_store_no_wait noref grid=3 block=64 out:u32:768 in:u32:768:bits
KERNEL bulk_store_no_wait(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED ALIGNED(128) u32 s[256];
	for (int k = 0; k < 4; k++)
		s[k * 64 + TX] = a[BX * 256 + k * 64 + TX] ^ 0x55;
	SYNC();
	if (TX == 0) {
		bulk_store(o + BX * 256, s, 1024);
		asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); // read, not yet written: the kernel's end waits
	}
#endif
}

//@ bulk_pipeline noref grid=2 block=64 out:u32:128 in:u32:1024:bits
KERNEL bulk_pipeline(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED ALIGNED(128) u32 s[2][64];
	SHARED u64 full[2];
	const u32 *p = a + BX * 512;
	if (TX == 0) {
		bar_init(&full[0], 1);
		bar_init(&full[1], 1);
	}
	SYNC();
	if (TX == 0)
		for (int k = 0; k < 2; k++) {
			bar_expect(&full[k], 256);
			bulk_load(s[k], p + k * 64, 256, &full[k]);
		}
	u32 r = 0;
	for (int k = 0; k < 8; k++) {
		bar_wait(&full[k & 1], k >> 1 & 1);
		r = r * 31 + s[k & 1][63 - TX];
		SYNC();
		if (TX == 0 && k + 2 < 8) {
			bar_expect(&full[k & 1], 256);
			bulk_load(s[k & 1], p + (k + 2) * 64, 256, &full[k & 1]);
		}
	}
	o[GID()] = r;
#endif
}

//@ bulk_reduce noref grid=4 block=32 in:u32:128:small io:u32:32:zero
KERNEL bulk_reduce(const u32 *a, u32 *o) {
#ifdef __CUDACC__
	SHARED ALIGNED(128) u32 s[32];
	s[TX] = a[GID()];
	SYNC();
	if (TX == 0) {
		asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
		asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%0], [%1], 128;" ::"l"(o), "r"((u32)__cvta_generic_to_shared(s)) : "memory");
		asm volatile("cp.async.bulk.commit_group;" ::: "memory");
		asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
	}
#endif
}

//@ elect_one noref grid=3 block=96 out:u32:288
KERNEL elect_one(u32 *o) {
#ifdef __CUDACC__
	u32 leader;
	asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(leader));
	o[GID()] = __popc(__ballot_sync(~0u, leader)) * 10 + BX;
#endif
}

//@ launch_dependents noref grid=3 block=64 out:u32:192 in:u32:192:bits
KERNEL launch_dependents(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	asm volatile("griddepcontrol.wait;" ::: "memory");
	o[GID()] = a[GID()] * 9;
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

typedef struct {
	u64 opaque[16];
} ALIGNED(64) HopperMap;

//@ tensor_map_prefetch noref grid=2 block=32 out:u64:64 struct:HopperMap:128:bits:64
KERNEL tensor_map_prefetch(u64 *o, BYVALUE HopperMap m) {
#ifdef __CUDACC__
	if (TX > 1000) // random bytes are no map that could be used
		asm volatile("prefetch.tensormap [%0];" ::"l"(&m) : "memory");
	o[GID()] = m.opaque[TX & 15];
#endif
}

#ifdef __CUDACC__
DEVICE u32 shared_at(const void *p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE u32 far_at(const void *p, u32 rank) {
	u32 far;
	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(shared_at(p)), "r"(rank));
	return far;
}
// cluster_meet makes barriers that a block initialised known to the cluster, and waits for it.
DEVICE void cluster_meet(void) {
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
	asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#endif

//@ cluster_async grid=4 block=32 cluster=2 out:u32:512 in:u32:256:bits
KERNEL cluster_async(u32 *o, const u32 *a) {
	u32 i = GID();
#ifdef __CUDACC__
	SHARED ALIGNED(16) u32 s[64], sum[1];
	SHARED u64 bar;
	u32 rank = cluster_rank();
	if (TX == 0) {
		bar_init(&bar, 1);
		sum[0] = 0;
	}
	SYNC();
	if (TX == 0)
		bar_expect(&bar, 64 * 4 + 32 * 4);
	cluster_meet();
	asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(far_at(&s[2 * TX], rank ^ 1)), "r"(a[2 * i]),
		     "r"(a[2 * i + 1]), "r"(far_at(&bar, rank ^ 1)) : "memory");
	asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];" ::"r"(far_at(sum, rank ^ 1)), "r"(a[2 * i]),
		     "r"(far_at(&bar, rank ^ 1)) : "memory");
	bar_wait(&bar, 0);
	u64 far;
	u32 x, y, whose;
	asm volatile("mapa.u64 %0, %1, %2;" : "=l"(far) : "l"(&s[2 * TX]), "r"(rank)); // its own, as anyone sees it
	asm volatile("getctarank.u64 %0, %1;" : "=r"(whose) : "l"(far));
	asm volatile("ld.v2.u32 {%0, %1}, [%2];" : "=r"(x), "=r"(y) : "l"(far) : "memory");
	o[2 * i] = x + (whose ^ rank) + sum[0];
	o[2 * i + 1] = y;
	cluster_meet();
#else
	u32 sum = 0;
	for (u32 k = 0; k < NX; k++)
		sum += a[((BX ^ 1) * NX + k) * 2];
	const u32 *other = a + ((BX ^ 1) * NX + TX) * 2;
	o[2 * i] = other[0] + sum;
	o[2 * i + 1] = other[1];
#endif
}

//@ cluster_multicast grid=4 block=32 cluster=2 out:u32:256 in:u32:128:bits
KERNEL cluster_multicast(u32 *o, const u32 *a) {
#ifdef __CUDACC__
	SHARED ALIGNED(128) u32 s[64], t[32];
	SHARED u64 bar;
	u32 rank = cluster_rank(), leader;
	if (TX == 0) {
		bar_init(&bar, 1);
		bar_expect(&bar, 256 + 128);
	}
	t[TX] = a[GID()] ^ TX;
	SYNC();
	asm volatile("fence.proxy.async;" ::: "memory");
	cluster_meet();
	asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(leader));
	if (leader && rank == 0)
		asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 256, [%2], %3;" ::"r"(shared_at(s)),
			     "l"(a + BX * 32), "r"(shared_at(&bar)), "h"((u16)3) : "memory");
	SHARED ALIGNED(128) u32 got[32];
	if (leader)
		asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" ::"r"(far_at(got, rank ^ 1)),
			     "r"(shared_at(t)), "r"(far_at(&bar, rank ^ 1)) : "memory");
	bar_wait(&bar, 0);
	o[2 * GID()] = s[TX] + 3 * s[63 - TX];
	o[2 * GID() + 1] = got[31 - TX];
	cluster_meet();
#else
	const u32 *pair = a + (BX & ~1u) * 32;
	o[2 * GID()] = pair[TX] + 3 * pair[63 - TX];
	o[2 * GID() + 1] = a[(BX ^ 1) * 32 + 31 - TX] ^ (31 - TX);
#endif
}

//@ bulk_variants grid=4 block=32 out:u32:128 io:s32:32:zero io:u16:64:zero in:u32:128:bits
KERNEL bulk_variants(u32 *o, s32 *low, u16 *half, const u32 *a) {
	u32 v = a[GID()] >> 8;
#ifdef __CUDACC__
	SHARED ALIGNED(128) u32 s[32];
	SHARED ALIGNED(128) s32 m[32];
	SHARED ALIGNED(128) u16 h[64];
	SHARED u64 bar;
	u64 policy;
	asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
	m[TX] = (s32)a[GID()];
	h[2 * TX] = v & 7, h[2 * TX + 1] = v >> 3 & 7; // subnormals: .noftz keeps them, and their sums are exact
	if (TX == 0) {
		bar_init(&bar, 1);
		asm volatile("cp.async.bulk.prefetch.L2.global [%0], 128;" ::"l"(a + BX * 32));
	}
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
	SYNC();
	if (TX == 0) {
		bar_expect(&bar, 128);
		asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], 128, [%2], %3;" ::"r"(shared_at(s)),
			     "l"(a + BX * 32), "r"(shared_at(&bar)), "l"(policy) : "memory");
		asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.min.s32 [%0], [%1], 128;" ::"l"(low), "r"(shared_at(m)) : "memory");
		asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.add.noftz.f16 [%0], [%1], 128, %2;" ::"l"(half), "r"(shared_at(h)),
			     "l"(policy) : "memory");
		asm volatile("cp.async.bulk.commit_group;" ::: "memory");
	}
	bar_wait(&bar, 0);
	if (TX == 0) {
		asm volatile("fence.proxy.async.global;" ::: "memory");
		asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], 128, %2;" ::"l"(o + BX * 32), "r"(shared_at(s)), "l"(policy)
			     : "memory");
		asm volatile("cp.async.bulk.commit_group;" ::: "memory");
		asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
	}
	asm volatile("fence.acq_rel.cluster;" ::: "memory");
#else
	o[GID()] = a[GID()];
	low[TX] = min(low[TX], (s32)a[GID()]);
	half[2 * TX] += v & 7;
	half[2 * TX + 1] += v >> 3 & 7;
#endif
}
