// SPDX-License-Identifier: MIT
/*
 * Counters that one thread keeps and others read while it works: each by itself is right, together they are of about
 * the same moment.
 */
#ifndef HEADROOM_ENGINE_COUNTER_H
#define HEADROOM_ENGINE_COUNTER_H

#include <stddef.h>
#include <stdint.h>

/* By the one thread; no locked instruction. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline void counter_max(uint64_t *counter, uint64_t value)
{
	if (value > *counter)
		__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

/* By any thread: n counters, which a struct of nothing but counters is. */
static inline void counter_copy(void *to, const void *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint64_t *)to)[i] = __atomic_load_n((const uint64_t *)from + i, __ATOMIC_RELAXED);
}

#endif
