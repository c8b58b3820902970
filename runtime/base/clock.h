// SPDX-License-Identifier: MIT
/* CLOCK_MONOTONIC in nanoseconds. Deadlines and stamps use this clock and no other. */
#ifndef HEADROOM_CLOCK_H
#define HEADROOM_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_MS 1000000LL
#define NS_PER_S  1000000000LL

static inline int64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static inline void clock_sleep_ms(int64_t ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * NS_PER_MS };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

#endif
