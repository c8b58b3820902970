// SPDX-License-Identifier: MIT
#include "base/latency.h"

#include <math.h>

#define SUB (1U << LATENCY_SUB_BITS)

/* Below SUB each value has its own; above, the highest LATENCY_SUB_BITS + 1 bits decide. */
static unsigned bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns < SUB)
		return (unsigned)ns;
	shift = 63 - (unsigned)__builtin_clzll(ns) - LATENCY_SUB_BITS;
	return (shift << LATENCY_SUB_BITS) + (unsigned)(ns >> shift);
}

static uint64_t upper_end(unsigned bucket)
{
	unsigned shift = bucket < 2 * SUB ? 0 : (bucket >> LATENCY_SUB_BITS) - 1;
	uint64_t top = bucket - (shift << LATENCY_SUB_BITS);

	return ((top + 1) << shift) - 1;
}

void latency_add(struct latency *l, uint64_t ns)
{
	uint64_t max = atomic_load_explicit(&l->max_ns, memory_order_relaxed);

	while (ns > max && !atomic_compare_exchange_weak(&l->max_ns, &max, ns))
		;
	atomic_fetch_add_explicit(&l->bucket[bucket_of(ns)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->count, 1, memory_order_relaxed);
}

uint64_t latency_quantile(const struct latency *l, double q)
{
	uint64_t count = atomic_load(&l->count), seen = 0, max = atomic_load(&l->max_ns);
	uint64_t wanted = (uint64_t)ceil(q * (double)count);

	if (wanted < 1)
		wanted = 1;
	for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
		seen += atomic_load(&l->bucket[i]);
		if (seen >= wanted)
			return upper_end(i) < max ? upper_end(i) : max;
	}
	return max;
}
