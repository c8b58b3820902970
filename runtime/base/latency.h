// SPDX-License-Identifier: MIT
/*
 * A distribution of latencies in fixed memory: buckets that grow with the value, 32 to each doubling, so that any
 * quantile is within 3 % of the true one. Lock-free adding from several processes that share it.
 */
#ifndef HEADROOM_LATENCY_H
#define HEADROOM_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

#define LATENCY_SUB_BITS 5
#define LATENCY_BUCKETS	 ((64 - LATENCY_SUB_BITS + 1) << LATENCY_SUB_BITS)

struct latency {
	_Atomic uint64_t count, max_ns;
	_Atomic uint32_t bucket[LATENCY_BUCKETS];
};

void latency_add(struct latency *l, uint64_t ns);
/* The value that a share q (0 to 1) does not exceed: the upper end of its bucket, the largest for 1. 0 when empty. */
uint64_t latency_quantile(const struct latency *l, double q);

#endif
