// SPDX-License-Identifier: MIT
/*
 * A load that is larger than memory, for workloads that watch what becomes of swap: allocators that fill every page
 * with data of their own and compare it on the way back, and, beside them where asked for, stress-ng's vm stressors.
 */
#ifndef HEADROOM_SWAPLOAD_H
#define HEADROOM_SWAPLOAD_H

#include "run/workload.h"

#define SWAPLOAD_MAX_ALLOCATORS 64

struct swapload_opts {
	uint64_t load_memory_pct, load_swap_pct, rounds, time_s, allocators, stress_pct, stressors;
	bool huge_pages;
};

/* Rows for the options, of the struct that lies at the offset `at`; and for the metrics. */
/* clang-format off */
#define SWAPLOAD_AT(at, name) (at) + offsetof(struct swapload_opts, name)
#define SWAPLOAD_OPTIONS(at) \
	{ "load_memory_pct", OPT_U64, SWAPLOAD_AT(at, load_memory_pct), "100", 1, 1000, NULL, "% of memory", \
	  "size of the load, one part" }, \
	{ "load_swap_pct", OPT_U64, SWAPLOAD_AT(at, load_swap_pct), "25", 0, 100, NULL, "% of the swap device", \
	  "size of the load, the other part" }, \
	{ "rounds", OPT_U64, SWAPLOAD_AT(at, rounds), "1", 1, 1000, NULL, NULL, \
	  "times that the allocator writes all of its memory; all is compared before the next, and at the end" }, \
	{ "time_s", OPT_U64, SWAPLOAD_AT(at, time_s), "0", 0, 86400, NULL, "s", \
	  "0: as long as the rounds take; else it writes for so long, in as many rounds as that gives" }, \
	{ "allocators", OPT_U64, SWAPLOAD_AT(at, allocators), "1", 1, SWAPLOAD_MAX_ALLOCATORS, NULL, NULL, \
	  "processes that share its part of the load" }, \
	{ "stress_pct", OPT_U64, SWAPLOAD_AT(at, stress_pct), "0", 0, 90, NULL, "%", \
	  "share of the load that stress-ng's vm stressors take, as long as the allocator writes" }, \
	{ "stressors", OPT_U64, SWAPLOAD_AT(at, stressors), "1", 1, 64, NULL, NULL, "of stress-ng" }, \
	{ "huge_pages", OPT_BOOL, SWAPLOAD_AT(at, huge_pages), "no", 0, 0, NULL, NULL, \
	  "transparent huge pages, which are swapped out whole, in large writes" }
#define SWAPLOAD_METRICS \
	{ "load_mib", "MiB", NEITHER, "size of the load" }, \
	{ "allocator_mib_s", "MiB/s", MORE, "rate of the allocator, all rounds, until the last byte was compared" }, \
	{ "pages_compared", "pages", NEITHER, "pages that came back as they were written" }, \
	{ "standstill_max_ms", "ms", LESS, "longest time in which the allocator got no page" }
/* clang-format on */

/*
 * Run it, from run(), to its end: every page was compared then. `look` is called 20 times a second with whether all has
 * been written once, and ends the load with an error of its own; NULL: nobody looks. 0 or -errno.
 */
int swapload_run(const struct cell *c, const struct swapload_opts *o, uint64_t swap_bytes,
		 int (*look)(void *arg, bool all_written), void *arg);

#endif
